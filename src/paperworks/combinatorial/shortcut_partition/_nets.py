"""Nested nets: fewer and fewer points that stand for all vertices at larger and larger scales."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from paperworks.combinatorial.shortcut_partition._covering import rounded_up
from paperworks.combinatorial.shortcut_partition._dijkstra import Search, explore, forget, reach
from paperworks.combinatorial.shortcut_partition._lengths import Roads


class Ancestry(NamedTuple):
    """Which point stands for each vertex.

    Attributes
    ----------
    dropped : ndarray of shape (n,)
        First scale at which a vertex is no net point any more; the number of scales if there is none.
    parent : ndarray of shape (n,)
        Net point that takes its place then.
    offset : ndarray of shape (n,)
        Distance to it, rounded up.
    """

    dropped: NDArray[np.int16]
    parent: NDArray[np.int32]
    offset: NDArray[np.float32]


class Level(NamedTuple):
    """A scale D with its active points, between which distances of up to D must be known.

    Attributes
    ----------
    number : int
        Number of the scale.
    scale : float
        D.
    active : ndarray of shape (n,)
        Net points that have another one near enough to need a list.
    offset : float
        Largest summed distance o of a vertex from the point that stands for it.
    spacing : float
        Half the largest radius of a cluster: 4 of it and 4 offsets add up to epsilon D / 2.
    path_limit : float
        How far apart the points of two vertices within D can be; infinite at the last scale.
    """

    number: int
    scale: float
    active: NDArray[np.bool_]
    offset: float
    spacing: float
    path_limit: float


def nested_nets(
    roads: Roads, scales: NDArray[np.float64], epsilon: float, search: Search
) -> tuple[Ancestry, list[Level]]:
    """Thin the net at each scale D with radius epsilon D / 32, where at least a quarter of the active points go.

    Offsets add up to at most epsilon D / 16, as radii double. A net that loses fewer points is kept as it is: smaller
    offsets then leave more room to the clusters.
    """
    n, top = roads.n, len(scales) - 1
    ancestry = Ancestry(
        np.full(n, top + 1, dtype=np.int16), np.arange(n, dtype=np.int32), np.zeros(n, dtype=np.float32)
    )
    in_net, standing, summed = np.ones(n, dtype=np.bool_), np.arange(n), np.zeros(n)
    nearest = _nearest_other(roads, in_net, search)
    levels = []
    for i, D in enumerate(scales):
        near = np.inf if i == top else 2.0 * D * (1.0 + epsilon / 4.0)
        active = (nearest <= near) & (nearest < np.inf)
        radius = epsilon * D / 32.0
        if (nearest <= radius).any():
            kept, owner, distance = _thinned(roads, in_net, radius, search)
            gone = in_net & ~kept
            if 4 * np.count_nonzero(gone) >= np.count_nonzero(active):
                ancestry.dropped[gone], ancestry.parent[gone] = i, owner[gone]
                ancestry.offset[gone] = _rounded_up(distance[gone])
                # Of a vertex whose point goes, the point's own parent takes its place.
                summed += np.where(gone[standing], ancestry.offset[standing], 0.0)
                standing = np.where(gone[standing], owner[standing], standing)
                in_net = kept
                nearest = _nearest_other(roads, in_net, search)
                active = (nearest <= near) & (nearest < np.inf)
        offset = float(summed.max())
        path_limit = np.inf if i == top else float(D) + 2.0 * offset
        levels.append(Level(i, float(D), active, offset, epsilon * float(D) / 8.0 - offset, path_limit))
    return ancestry, levels


@njit(cache=True, nogil=True)
def _thinned(
    roads: Roads, in_net: NDArray[np.bool_], radius: float, search: Search
) -> tuple[NDArray[np.bool_], NDArray[np.int32], NDArray[np.float64]]:
    """Points of a net, by index, that no earlier one is within the radius of; the nearest to each vertex, and how far.

    A new point's search goes on only where it is nearer than all before it.
    """
    n = len(in_net)
    level, kept, owner = np.zeros(n, dtype=np.int32), np.zeros(n, dtype=np.bool_), np.full(n, -1, dtype=np.int32)
    for p in range(n):
        if in_net[p] and search.distance[p] == np.inf:
            kept[p] = True
            reach(search, p, 0.0, -1)
            count = explore(roads, level, 0, 0, radius, search)
            for i in range(count):
                owner[search.visited[i]] = p
    distance = search.distance.copy()
    search.distance[:] = np.inf
    return kept, owner, distance


@njit(cache=True, nogil=True)
def _nearest_other(roads: Roads, in_net: NDArray[np.bool_], search: Search) -> NDArray[np.float64]:
    """Distance of each net point from the nearest other one; infinite without one, and for all other vertices.

    The shortest path to it may be taken to leave the point's Voronoi cell over one edge into the other's cell.
    """
    n = len(in_net)
    for p in range(n):
        if in_net[p]:
            reach(search, p, 0.0, -1)
    count = explore(roads, np.zeros(n, dtype=np.int32), 0, 0, np.inf, search)
    owner, nearest = np.full(n, -1, dtype=np.int32), np.full(n, np.inf)
    for i in range(count):
        v = search.visited[i]
        owner[v] = v if search.previous[v] < 0 else owner[search.previous[v]]
    for i in range(count):
        v = search.visited[i]
        for entry in range(roads.indptr[v], roads.indptr[v + 1]):
            w = roads.indices[entry]
            if owner[w] != owner[v]:
                over = search.distance[v] + roads.lengths[entry] + search.distance[w]
                nearest[owner[v]] = min(nearest[owner[v]], over)
    forget(search, count)
    return nearest


@njit(cache=True, nogil=True)
def _rounded_up(distances: NDArray[np.float64]) -> NDArray[np.float32]:
    up = np.empty(len(distances), dtype=np.float32)
    for i in range(len(distances)):
        up[i] = rounded_up(distances[i])
    return up
