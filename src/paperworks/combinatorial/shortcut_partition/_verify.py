"""Measures of a cop decomposition's four properties, compiled."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from paperworks.combinatorial.shortcut_partition._cops import Cops, last_descendants
from paperworks.combinatorial.shortcut_partition._dijkstra import Search, explore, forget, reach
from paperworks.combinatorial.shortcut_partition._lengths import Roads

# Sums of the same lengths in another order differ by rounding.
ROUNDING = 1e-9


@njit(cache=True, nogil=True)
def radii(roads: Roads, cops: Cops, search: Search) -> NDArray[np.float64]:
    """P1: largest distance inside each supernode from its skeleton; infinity if some of it can't be reached."""
    k = len(cops.parent)
    sizes, largest = np.zeros(k, dtype=np.int64), np.zeros(k)
    for v in range(len(cops.supernode)):
        if cops.supernode[v] >= 0:
            sizes[cops.supernode[v]] += 1
    for eta in range(k):
        for i in range(cops.skeleton_indptr[eta], cops.skeleton_indptr[eta + 1]):
            reach(search, cops.skeleton[i, 0], 0.0, -1)
        count = explore(roads, cops.supernode, eta, eta, np.inf, search)
        largest[eta] = search.distance[search.visited[count - 1]] if count == sizes[eta] else np.inf
        forget(search, count)
    return largest


@njit(cache=True, nogil=True)
def skeleton_faults(roads: Roads, cops: Cops, search: Search) -> tuple[int, int]:
    """P2: skeletons that are no trees of shortest paths in G[dom], and the most leaves that one has beside its root."""
    last = last_descendants(cops.parent)
    faults, most_leaves = 0, 0
    on_skeleton = np.full(len(cops.supernode), -1, dtype=np.int32)
    has_child = np.zeros(len(cops.supernode), dtype=np.bool_)
    for eta in range(len(cops.parent)):
        first, end = cops.skeleton_indptr[eta], cops.skeleton_indptr[eta + 1]
        root = cops.skeleton[first, 0]
        reach(search, root, 0.0, -1)
        count = explore(roads, cops.supernode, eta, last[eta], np.inf, search)
        wrong = cops.skeleton[first, 1] != -1
        on_skeleton[root] = eta
        for i in range(first + 1, end):
            v, u = cops.skeleton[i]
            length = np.inf
            for entry in range(roads.indptr[v], roads.indptr[v + 1]):
                if roads.indices[entry] == u:
                    length = roads.lengths[entry]
            wrong |= cops.supernode[v] != eta or on_skeleton[u] != eta
            # Shortest to v through u, and shortest to u: so is the whole path.
            wrong |= not abs(search.distance[u] + length - search.distance[v]) <= ROUNDING * search.distance[v]
            on_skeleton[v], has_child[u] = eta, True
        leaves = 0
        for i in range(first + 1, end):
            leaves += not has_child[cops.skeleton[i, 0]]
        faults, most_leaves = faults + wrong, max(most_leaves, leaves)
        forget(search, count)
    return faults, most_leaves


@njit(cache=True, nogil=True)
def width_faults(roads: Roads, cops: Cops, bag_indptr: NDArray[np.int64], bags: NDArray[np.int32]) -> int:
    """P3: adjacent supernodes that share no bag, and bags that break the connectedness of a tree decomposition."""
    faults = 0
    for v in range(len(cops.supernode)):
        a = cops.supernode[v]
        for entry in range(roads.indptr[v], roads.indptr[v + 1]):
            b = cops.supernode[roads.indices[entry]]
            if b < a:
                # With a preorder, the younger one's bag holds the older one or no bag holds both.
                faults += not _holds(bag_indptr, bags, a, b)
    for eta in range(len(cops.parent)):
        faults += not _holds(bag_indptr, bags, eta, eta)
        for i in range(bag_indptr[eta], bag_indptr[eta + 1]):
            if bags[i] != eta:
                faults += cops.parent[eta] < 0 or not _holds(bag_indptr, bags, cops.parent[eta], bags[i])
    return faults


@njit(cache=True, nogil=True)
def least_buffer(
    roads: Roads, cops: Cops, bag_indptr: NDArray[np.int64], bags: NDArray[np.int32], search: Search
) -> float:
    """P4: least distance in G[dom(X)] from a supernode X to a subtree below it that X is not adjacent to."""
    last = last_descendants(cops.parent)
    n, k = len(cops.supernode), len(cops.parent)
    starts = np.zeros(k + 1, dtype=np.int64)
    for v in range(n):
        starts[cops.supernode[v] + 1] += 1
    starts = np.cumsum(starts)
    members = np.argsort(cops.supernode, kind="mergesort")
    least = np.inf
    for X in range(k):
        for i in range(starts[X], starts[X + 1]):
            reach(search, members[i], 0.0, -1)
        # What is as far as the least that was found can't lower it.
        count = explore(roads, cops.supernode, X, last[X], least, search)
        for i in range(count):
            v = search.visited[i]
            # X is adjacent to all subtrees around v if it is to the innermost, v's own supernode's.
            if not _holds(bag_indptr, bags, cops.supernode[v], X):
                least = min(least, search.distance[v])
                break
        forget(search, count)
    return least


@njit(cache=True, nogil=True)
def _holds(bag_indptr: NDArray[np.int64], bags: NDArray[np.int32], eta: int, X: int) -> bool:
    found = False
    for i in range(bag_indptr[eta], bag_indptr[eta + 1]):
        found |= bags[i] == X
    return found
