"""One scale of distances: which clusters each vertex reaches, and how far their centres are."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import frexp
from os import cpu_count
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from paperworks._progress import progress_bar
from paperworks.combinatorial.shortcut_partition._clusters import Clusters, cut_into_clusters
from paperworks.combinatorial.shortcut_partition._dijkstra import Search, explore, forget, longest_distance, reach
from paperworks.combinatorial.shortcut_partition._lengths import Roads
from paperworks.combinatorial.shortcut_partition.cop_decomposition import Bags, cop_decomposition

# Distances are kept as float32 and rounded up: one that is kept exceeds the true one by at most this share.
ROUNDED_UP = 2.0**-23


class Reached(NamedTuple):
    """Pairs of a cluster x and a vertex of R(x), with the vertex's distance from the centre, cluster by cluster."""

    vertex: NDArray[np.int32]
    cluster: NDArray[np.int32]
    distance: NDArray[np.float32]


def tightened(epsilon: float) -> float:
    """The epsilon that leaves room for distances that are rounded up."""
    return (1.0 + epsilon) / (1.0 + 2.0 * ROUNDED_UP) - 1.0


def scales(roads: Roads, search: Search) -> NDArray[np.float64]:
    """Powers of two from the one that holds the shortest distance to the one that holds the longest that was found."""
    if not len(roads.lengths):
        return np.empty(0)
    low, high = _power_above(roads.lengths.min()), _power_above(longest_distance(roads, search, 2))
    return np.ldexp(1.0, np.arange(low, high + 1))


def _power_above(x: float) -> int:
    """Least i with x <= 2^i."""
    mantissa, exponent = frexp(x)
    return exponent - 1 if mantissa == 0.5 else exponent


def reached_at_scale(
    roads: Roads,
    spacing: float,
    path_limit: float,
    kept: NDArray[np.bool_],
    minor_size: int | None,
    search: Search,
) -> tuple[Clusters, Reached, Bags]:
    """Clusters of radius at most 2 ``spacing``, and what each reaches among itself and later ones.

    Of a path of at most ``path_limit`` let x be the first in the order L of all clusters that it touches: both halves
    of the path run among x and later ones, so that both ends are within ``path_limit`` and x's radius of x's centre.
    Only vertices that are ``kept`` are listed.
    """
    # Longer edges are on no such path; at small scales hardly any are left, and few vertices take part.
    roads = _short_roads(roads, path_limit)
    cops, _, bags = cop_decomposition(roads, spacing, minor_size, True, search, inside=np.diff(roads.indptr) > 0)
    clusters = cut_into_clusters(roads, cops, spacing, search)
    return clusters, _reached(roads, clusters, path_limit, kept, search), bags


def _short_roads(roads: Roads, limit: float) -> Roads:
    """Keep the edges of at most some length."""
    short = roads.lengths <= limit
    if short.all():
        return roads
    before = np.concatenate([[0], np.cumsum(short)])
    return Roads(before[roads.indptr].astype(np.int32), roads.indices[short], roads.lengths[short])


@njit(cache=True, nogil=True)
def _reached(roads: Roads, clusters: Clusters, path_limit: float, kept: NDArray[np.bool_], search: Search) -> Reached:
    k = len(clusters.center)
    capacity, size = 4 * len(kept) + 1, 0
    vertex, cluster = np.empty(capacity, dtype=np.int32), np.empty(capacity, dtype=np.int32)
    distance = np.empty(capacity, dtype=np.float32)
    for x in range(k):
        reach(search, clusters.center[x], 0.0, -1)
        count = explore(roads, clusters.label, x, k, path_limit + clusters.radius[x], search)
        while size + count > capacity:
            capacity = 2 * capacity
            vertex, cluster = np.append(vertex, np.empty_like(vertex)), np.append(cluster, np.empty_like(cluster))
            distance = np.append(distance, np.empty_like(distance))
        first = size
        for i in range(count):
            v = search.visited[i]
            if kept[v]:
                vertex[size], cluster[size], distance[size] = v, x, rounded_up(search.distance[v])
                size += 1
        if size == first + 1:
            # A cluster that only one vertex reaches joins no pair.
            size = first
        forget(search, count)
    return Reached(vertex[:size].copy(), cluster[:size].copy(), distance[:size].copy())


@njit(cache=True, nogil=True)
def rounded_up(distance: float) -> np.float32:
    """Least float32 that is not below a distance."""
    near = np.float32(distance)
    return near if near >= distance else np.nextafter(near, np.float32(np.inf))


@njit(cache=True, nogil=True)
def by_vertex(n: int, reached: Reached) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Compressed rows of the clusters that reach each vertex, in ascending order, with distances."""
    indptr = np.zeros(n + 1, dtype=np.int64)
    for v in reached.vertex:
        indptr[v + 1] += 1
    indptr = np.cumsum(indptr)
    following = indptr[:-1].copy()
    cluster, distance = np.empty_like(reached.cluster), np.empty_like(reached.distance)
    for i in range(len(reached.vertex)):
        place = following[reached.vertex[i]]
        cluster[place], distance[place] = reached.cluster[i], reached.distance[i]
        following[reached.vertex[i]] += 1
    return indptr, cluster, distance


@njit(cache=True, nogil=True)
def least_sum(
    clusters: NDArray[np.int32], distances: NDArray[np.float32], a: int, a_end: int, b: int, b_end: int
) -> float:
    """Least sum of two distances to one centre, of the lists from a to a_end and from b to b_end."""
    least = np.inf
    while a < a_end and b < b_end:
        x, y = clusters[a], clusters[b]
        if x == y:
            least = min(least, np.float64(distances[a]) + np.float64(distances[b]))
        a += x <= y
        b += y <= x
    return least


def each_scale(
    work: Callable[[Any], Any], steps: Sequence[Any], n_jobs: int | None, description: str, progress: bool
) -> list[Any]:
    """Do the work of each scale, in threads, as kernels hold no lock."""
    n_threads = (cpu_count() or 1) if n_jobs == -1 else n_jobs or 1
    if n_threads == 1:
        return [work(step) for step in progress_bar(steps, description, progress)]
    with ThreadPoolExecutor(n_threads) as pool:
        return list(progress_bar(pool.map(work, steps), description, progress, total=len(steps)))
