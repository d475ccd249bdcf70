"""The buffered cop decomposition, compiled."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from paperworks.combinatorial.shortcut_partition._dijkstra import Search, explore, forget, reach, take_nearest
from paperworks.combinatorial.shortcut_partition._lengths import Roads

# Supernode of a vertex that has none yet, and of one that takes no part.
FREE, OUTSIDE = -1, -2


class Cops(NamedTuple):
    """Supernodes in the order of their making, which is a preorder of the tree T.

    Attributes
    ----------
    supernode : ndarray of shape (n,)
        Supernode of each vertex.
    parent : ndarray of shape (k,)
        Parent of each supernode in T, -1 at a root.
    skeleton_indptr : ndarray of shape (k + 1,)
        Where each skeleton starts.
    skeleton : ndarray of shape (total, 2)
        Vertices of the skeletons with their predecessors, -1 at the root, nearest to the root first.
    skeleton_distance : ndarray of shape (total,)
        Their distances from the root.
    """

    supernode: NDArray[np.int32]
    parent: NDArray[np.int32]
    skeleton_indptr: NDArray[np.int64]
    skeleton: NDArray[np.int32]
    skeleton_distance: NDArray[np.float64]


class _State(NamedTuple):
    """What the construction writes to."""

    supernode: NDArray[np.int32]
    region: NDArray[np.int32]  # component of what is free that a vertex is in, by number; -1 if it is not free
    adjacent: NDArray[np.int64]  # by supernode: the last task in whose region it has a neighbour
    in_skeleton: NDArray[np.int32]  # by vertex: the last supernode whose skeleton it was in
    skeleton: NDArray[np.int32]
    skeleton_distance: NDArray[np.float64]


@njit(cache=True, nogil=True)
def decompose(roads: Roads, inside: NDArray[np.bool_], gamma: float, far: bool, search: Search) -> Cops:
    """Decompose the part of a graph that is ``inside``: BUILD and GROW of the paper, with a stack of tasks.

    A task is a connected region of free vertices, a slice of ``members``, with the supernodes that BUILD last saw.
    """
    n = len(inside)
    state = _State(
        np.where(inside, np.int32(FREE), np.int32(OUTSIDE)),
        np.where(inside, np.int32(0), np.int32(-1)),
        np.zeros(n, dtype=np.int64),
        np.full(n, -1, dtype=np.int32),
        np.empty((n, 2), dtype=np.int32),
        np.empty(n),
    )
    members = np.flatnonzero(inside).astype(np.int32)
    buffer = np.empty_like(members)
    starts, ends = np.empty(n + 1, dtype=np.int32), np.empty(n + 1, dtype=np.int32)
    parents, firsts = np.empty(n + 1, dtype=np.int32), np.empty(n + 1, dtype=np.int64)
    pool = np.empty(1024, dtype=np.int32)
    parent, indptr = np.empty(n, dtype=np.int32), np.zeros(n + 1, dtype=np.int64)
    regions, top = _split(roads, members, 0, len(members), state, buffer, 0, ends)
    for t in range(top):
        starts[t], parents[t], firsts[t] = 0 if t == 0 else ends[t - 1], -1, 0
    pool_end, k, task = 0, 0, 0
    while top:
        top, task = top - 1, task + 1
        start, end, above = starts[top], ends[top], parents[top]
        seen = pool[firsts[top] : pool_end].copy()
        pool_end = firsts[top]
        region = state.region[members[start]]
        _mark_adjacent(roads, members, start, end, state, task)
        seen, grown = _handle_cut(roads, members, start, end, region, state, seen, task, gamma, search)
        if not grown:
            root = _far_root(roads, members, start, end, region, state, search) if far else members[start:end].min()
            parent[k], above = above, k
            indptr[k + 1] = _add_skeleton(roads, root, region, state, task, len(seen), k, indptr[k], search)
            seen = np.append(seen, np.int32(k))
            k += 1
        regions, parts = _split(roads, members, start, end, state, buffer, regions, ends[top:])
        while pool_end + parts * len(seen) > len(pool):
            pool = np.append(pool, np.empty_like(pool))
        for t in range(top, top + parts):
            starts[t] = start if t == top else ends[t - 1]
            parents[t], firsts[t] = above, pool_end
            pool[pool_end : pool_end + len(seen)] = seen
            pool_end += len(seen)
        top += parts
    total = indptr[k]
    return Cops(
        state.supernode,
        parent[:k].copy(),
        indptr[: k + 1].copy(),
        state.skeleton[:total].copy(),
        state.skeleton_distance[:total].copy(),
    )


@njit(cache=True, nogil=True)
def _mark_adjacent(roads: Roads, members: NDArray[np.int32], start: int, end: int, state: _State, task: int) -> None:
    """Mark the supernodes with a neighbour in a region."""
    for i in range(start, end):
        v = members[i]
        for entry in range(roads.indptr[v], roads.indptr[v + 1]):
            X = state.supernode[roads.indices[entry]]
            if X >= 0:
                state.adjacent[X] = task


@njit(cache=True, nogil=True)
def _handle_cut(
    roads: Roads,
    members: NDArray[np.int32],
    start: int,
    end: int,
    region: int,
    state: _State,
    seen: NDArray[np.int32],
    task: int,
    gamma: float,
    search: Search,
) -> tuple[NDArray[np.int32], bool]:
    """GROW for supernodes that the region has lost sight of, oldest first, until one has the region lose a vertex.

    Returns those that are still to be watched, and whether the region lost anything.
    """
    kept, grown = np.empty_like(seen), False
    count = 0
    for X in seen:
        if grown or state.adjacent[X] == task:
            kept[count] = X
            count += 1
        else:
            grown = _grow(roads, members, start, end, region, state, X, gamma, search) > 0
    return kept[:count], grown


@njit(cache=True, nogil=True)
def _grow(
    roads: Roads,
    members: NDArray[np.int32],
    start: int,
    end: int,
    region: int,
    state: _State,
    X: int,
    gamma: float,
    search: Search,
) -> int:
    """Give what is nearer than gamma to supernodes younger than X to the nearest of them; return how much it is.

    Whoever leaves the region towards X inside dom(X) leaves through one of those: they buffer it against X.
    """
    # All within the limit counts as near, so that the limit is the largest number below gamma.
    limit = np.nextafter(gamma, 0.0)
    _enter(roads, members, start, end, state, X, limit, search)
    count = explore(roads, state.region, region, region, limit, search)
    for i in range(count):
        v = search.visited[i]
        # A predecessor in the region was settled before, and has its supernode by now; a source's is outside.
        state.supernode[v], state.region[v] = state.supernode[search.previous[v]], -1
    forget(search, count)
    return count


@njit(cache=True, nogil=True)
def _far_root(
    roads: Roads, members: NDArray[np.int32], start: int, end: int, region: int, state: _State, search: Search
) -> int:
    """Vertex of a region that is farthest from the supernodes around it; if there are none, from its first vertex."""
    _enter(roads, members, start, end, state, -1, np.inf, search)
    if search.size[0] == 0:
        reach(search, members[start:end].min(), 0.0, -1)
    count = explore(roads, state.region, region, region, np.inf, search)
    root = search.visited[count - 1]
    forget(search, count)
    return root


@njit(cache=True, nogil=True)
def _enter(
    roads: Roads,
    members: NDArray[np.int32],
    start: int,
    end: int,
    state: _State,
    older: int,
    limit: float,
    search: Search,
) -> None:
    """Put the region's neighbours of supernodes younger than ``older`` into the heap, by the connecting edge."""
    for i in range(start, end):
        v = members[i]
        for entry in range(roads.indptr[v], roads.indptr[v + 1]):
            y = roads.indices[entry]
            if state.supernode[y] > older and roads.lengths[entry] <= limit:
                reach(search, v, roads.lengths[entry], y)


@njit(cache=True, nogil=True)
def _add_skeleton(
    roads: Roads,
    root: int,
    region: int,
    state: _State,
    task: int,
    n_seen: int,
    k: int,
    first: int,
    search: Search,
) -> int:
    """BUILD: make supernode k of shortest paths from a root to the nearest neighbour of each supernode that is seen.

    Returns where the next skeleton starts. The search ends with the last of them.
    """
    state.in_skeleton[root] = k
    reach(search, root, 0.0, -1)
    count, missing = 0, n_seen
    while count == 0 or missing > 0:
        v = take_nearest(search)
        search.visited[count] = v
        count += 1
        for entry in range(roads.indptr[v], roads.indptr[v + 1]):
            w = roads.indices[entry]
            if state.region[w] == region:
                reach(search, w, search.distance[v] + roads.lengths[entry], v)
            elif state.supernode[w] >= 0 and state.adjacent[state.supernode[w]] == task:
                state.adjacent[state.supernode[w]] = 0
                missing -= 1
                u = v
                while state.in_skeleton[u] != k:
                    state.in_skeleton[u] = k
                    u = search.previous[u]
    last = first
    for i in range(count):
        v = search.visited[i]
        if state.in_skeleton[v] == k:
            state.supernode[v], state.region[v] = k, -1
            state.skeleton[last, 0], state.skeleton[last, 1] = v, search.previous[v]
            state.skeleton_distance[last] = search.distance[v]
            last += 1
    forget(search, count)
    return last


@njit(cache=True, nogil=True)
def _split(
    roads: Roads,
    members: NDArray[np.int32],
    start: int,
    end: int,
    state: _State,
    buffer: NDArray[np.int32],
    regions: int,
    ends: NDArray[np.int32],
) -> tuple[int, int]:
    """Order what is free in a slice by components, write where each ends; return regions numbered and components."""
    parts, tail, fresh = 0, start, regions + 1
    for i in range(start, end):
        first = members[i]
        if state.region[first] < 0 or state.region[first] >= fresh:
            continue
        old, regions = state.region[first], regions + 1
        state.region[first], buffer[tail], head = regions, first, tail
        tail += 1
        while head < tail:
            v = buffer[head]
            head += 1
            for entry in range(roads.indptr[v], roads.indptr[v + 1]):
                w = roads.indices[entry]
                if state.region[w] == old:
                    state.region[w], buffer[tail] = regions, w
                    tail += 1
        ends[parts] = tail
        parts += 1
    members[start:tail] = buffer[start:tail]
    return regions, parts


@njit(cache=True, nogil=True)
def last_descendants(parent: NDArray[np.int32]) -> NDArray[np.int32]:
    """Last supernode of the subtree of each; with a preorder a subtree is what lies between."""
    last = np.arange(len(parent)).astype(np.int32)
    for eta in range(len(parent) - 1, -1, -1):
        if parent[eta] >= 0:
            last[parent[eta]] = max(last[parent[eta]], last[eta])
    return last


@njit(cache=True, nogil=True)
def find_bags(
    roads: Roads, supernode: NDArray[np.int32], parent: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Bag of each supernode: itself and its ancestors with a neighbour in its subtree, in compressed rows."""
    k = len(parent)
    head, sizes = np.full(k, -1, dtype=np.int64), np.ones(k + 1, dtype=np.int64)
    value, following, count = np.empty(4 * k + 1, dtype=np.int32), np.empty(4 * k + 1, dtype=np.int64), 0
    for v in range(len(supernode)):
        below = supernode[v]
        for entry in range(roads.indptr[v], roads.indptr[v + 1]):
            X = supernode[roads.indices[entry]]
            if not 0 <= X < below:
                continue
            # X is adjacent to the subtree of all from here up to its own child; stop where that is known.
            eta = below
            while eta != X and eta >= 0:
                link = head[eta]
                while link >= 0 and value[link] != X:
                    link = following[link]
                if link >= 0:
                    break
                if count == len(value):
                    value, following = np.append(value, value), np.append(following, following)
                value[count], following[count], head[eta] = X, head[eta], count
                sizes[eta + 1] += 1
                count += 1
                eta = parent[eta]
    sizes[0] = 0
    indptr = np.cumsum(sizes)
    members = np.empty(indptr[-1], dtype=np.int32)
    for eta in range(k):
        members[indptr[eta]] = eta
        place, link = indptr[eta] + 1, head[eta]
        while link >= 0:
            members[place] = value[link]
            place, link = place + 1, following[link]
        members[indptr[eta] : indptr[eta + 1]].sort()
    return indptr, members
