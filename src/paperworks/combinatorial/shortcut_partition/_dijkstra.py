"""Dijkstra's algorithm on part of a graph, without ever copying that part.

Every vertex has a level; a search stays among the vertices whose level is from low to high. A component of what is
free, a supernode, a subtree of supernodes and all clusters from one on are such ranges.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from paperworks.combinatorial.shortcut_partition._lengths import Roads


class Search(NamedTuple):
    """What a search works on, made once and left clean after each: a heap of vertices by (distance, index).

    Attributes
    ----------
    distance : ndarray of shape (n,)
        Infinity where the search has not been.
    previous : ndarray of shape (n,)
        Predecessor of each vertex that was reached; its own value is -1 at a source.
    visited : ndarray of shape (n,)
        Vertices in the order in which they were settled.
    heap : ndarray of shape (n,)
        The heap's vertices.
    place : ndarray of shape (n,)
        Where in the heap a vertex is, -1 if it is not.
    size : ndarray of shape (1,)
        How many vertices are in the heap.
    """

    distance: NDArray[np.float64]
    previous: NDArray[np.int32]
    visited: NDArray[np.int32]
    heap: NDArray[np.int32]
    place: NDArray[np.int32]
    size: NDArray[np.int64]


def new_search(n: int) -> Search:
    """Return the working space of searches in a graph of n vertices."""
    return Search(
        np.full(n, np.inf),
        np.full(n, -1, dtype=np.int32),
        np.empty(n, dtype=np.int32),
        np.empty(n, dtype=np.int32),
        np.full(n, -1, dtype=np.int32),
        np.zeros(1, dtype=np.int64),
    )


@njit(cache=True, nogil=True)
def reach(search: Search, v: int, distance: float, previous: int) -> None:
    """Put v into the heap, or move it up there, if it was not reached over so short a way before."""
    if not distance < search.distance[v]:
        return
    search.distance[v], search.previous[v] = distance, previous
    i = search.place[v]
    if i < 0:
        i = search.size[0]
        search.size[0] += 1
    while i > 0:
        above = search.heap[(i - 1) >> 1]
        if search.distance[above] < distance or (search.distance[above] == distance and above < v):
            break
        search.heap[i] = above
        search.place[above] = i
        i = (i - 1) >> 1
    search.heap[i] = v
    search.place[v] = i


@njit(cache=True, nogil=True)
def take_nearest(search: Search) -> int:
    """Take the nearest vertex out of the heap, the one of lowest index if several are."""
    nearest = search.heap[0]
    search.place[nearest] = -1
    search.size[0] -= 1
    size = search.size[0]
    if size:
        v = search.heap[size]
        distance = search.distance[v]
        i, below = 0, 1
        while below < size:
            child = search.heap[below]
            if below + 1 < size:
                other = search.heap[below + 1]
                gap = search.distance[other] - search.distance[child]
                if gap < 0.0 or (gap == 0.0 and other < child):
                    child, below = other, below + 1
            if distance < search.distance[child] or (distance == search.distance[child] and v < child):
                break
            search.heap[i] = child
            search.place[child] = i
            i, below = below, 2 * below + 1
        search.heap[i] = v
        search.place[v] = i
    return nearest


@njit(cache=True, nogil=True)
def explore(roads: Roads, level: NDArray[np.int32], low: int, high: int, limit: float, search: Search) -> int:
    """Settle all within the limit of what is in the heap, in the given levels; return how many were."""
    count = 0
    while search.size[0]:
        v = take_nearest(search)
        search.visited[count] = v
        count += 1
        for entry in range(roads.indptr[v], roads.indptr[v + 1]):
            w = roads.indices[entry]
            if low <= level[w] <= high:
                distance = search.distance[v] + roads.lengths[entry]
                if distance <= limit:
                    reach(search, w, distance, v)
    return count


@njit(cache=True, nogil=True)
def forget(search: Search, count: int) -> None:
    """Clean the working space after ``count`` vertices were settled."""
    for i in range(count):
        search.distance[search.visited[i]] = np.inf
    for i in range(search.size[0]):
        v = search.heap[i]
        search.distance[v], search.place[v] = np.inf, -1
    search.size[0] = 0


@njit(cache=True, nogil=True)
def distances_between(
    roads: Roads, sources: NDArray[np.int64], targets: NDArray[np.int64], search: Search
) -> NDArray[np.float64]:
    """Exact distances from each source to each target."""
    n = len(roads.indptr) - 1
    level = np.zeros(n, dtype=np.int32)
    found = np.empty((len(sources), len(targets)))
    for i in range(len(sources)):
        reach(search, sources[i], 0.0, -1)
        count = explore(roads, level, 0, 0, np.inf, search)
        for j in range(len(targets)):
            found[i, j] = search.distance[targets[j]]
        forget(search, count)
    return found


@njit(cache=True, nogil=True)
def nearest_source(
    roads: Roads, sources: NDArray[np.int64], search: Search
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Which source is nearest to each vertex, -1 if none is reached, and how far it is."""
    n = len(roads.indptr) - 1
    for source in sources:
        reach(search, source, 0.0, -1)
    count = explore(roads, np.zeros(n, dtype=np.int32), 0, 0, np.inf, search)
    owner, distance = np.full(n, -1, dtype=np.int32), search.distance.copy()
    for i in range(count):
        v = search.visited[i]
        owner[v] = v if search.previous[v] < 0 else owner[search.previous[v]]
    forget(search, count)
    return owner, distance


@njit(cache=True, nogil=True)
def components(roads: Roads) -> NDArray[np.int32]:
    """Component of each vertex, numbered by their first vertices."""
    n = len(roads.indptr) - 1
    part, queue, parts = np.full(n, -1, dtype=np.int32), np.empty(n, dtype=np.int32), 0
    for start in range(n):
        if part[start] >= 0:
            continue
        part[start], queue[0], head, tail = parts, start, 0, 1
        while head < tail:
            v = queue[head]
            head += 1
            for entry in range(roads.indptr[v], roads.indptr[v + 1]):
                w = roads.indices[entry]
                if part[w] < 0:
                    part[w], queue[tail] = parts, w
                    tail += 1
        parts += 1
    return part


@njit(cache=True, nogil=True)
def _farthest(roads: Roads, start: int, search: Search) -> tuple[int, float]:
    """Farthest vertex from one, and its distance."""
    level = np.zeros(len(roads.indptr) - 1, dtype=np.int32)
    reach(search, start, 0.0, -1)
    count = explore(roads, level, 0, 0, np.inf, search)
    last = search.visited[count - 1]
    distance = search.distance[last]
    forget(search, count)
    return last, distance


@njit(cache=True, nogil=True)
def longest_distance(roads: Roads, search: Search, sweeps: int) -> float:
    """Largest distance that is found by going to the farthest vertex, again and again, in each component.

    At least half of the diameter and at most the diameter; the diameter itself on trees, and mostly on road networks.
    """
    part = components(roads)
    longest, known = 0.0, -1
    for start in range(len(part)):
        if part[start] > known:
            known = part[start]
            v = start
            for _ in range(sweeps):
                v, distance = _farthest(roads, v, search)
                longest = max(longest, distance)
    return longest
