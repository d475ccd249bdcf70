"""Clusters around net points of the skeletons, compiled."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from paperworks.combinatorial.shortcut_partition._cops import Cops
from paperworks.combinatorial.shortcut_partition._dijkstra import Search, explore, forget, reach
from paperworks.combinatorial.shortcut_partition._lengths import Roads


class Clusters(NamedTuple):
    """Clusters in the order L: supernodes with ancestors first, in each by the distance of centres from the root.

    Attributes
    ----------
    label : ndarray of shape (n,)
        Cluster of each vertex, -1 outside.
    center : ndarray of shape (k,)
        Centre of each cluster.
    radius : ndarray of shape (k,)
        Largest distance in each cluster from its centre, inside the supernode and so inside the cluster.
    """

    label: NDArray[np.int32]
    center: NDArray[np.int32]
    radius: NDArray[np.float64]


@njit(cache=True, nogil=True)
def cut_into_clusters(roads: Roads, cops: Cops, spacing: float, search: Search) -> Clusters:
    """Choose net points on skeletons, no more than ``spacing`` apart along them, and take their Voronoi cells."""
    n, total = len(cops.supernode), len(cops.skeleton)
    label, center, radius = np.full(n, -1, dtype=np.int32), np.empty(total, dtype=np.int32), np.zeros(total)
    # By vertex of a skeleton: how far from the root the last net point on the way to it is.
    net_distance = np.empty(n)
    k = 0
    for eta in range(len(cops.parent)):
        for i in range(cops.skeleton_indptr[eta], cops.skeleton_indptr[eta + 1]):
            v, u = cops.skeleton[i]
            if u < 0 or cops.skeleton_distance[i] - net_distance[u] > spacing:
                net_distance[v] = cops.skeleton_distance[i]
                label[v], center[k] = k, v
                k += 1
                reach(search, v, 0.0, -1)
            else:
                net_distance[v] = net_distance[u]
        count = explore(roads, cops.supernode, eta, eta, np.inf, search)
        for i in range(count):
            v = search.visited[i]
            if search.previous[v] >= 0:
                label[v] = label[search.previous[v]]
            radius[label[v]] = max(radius[label[v]], search.distance[v])
        forget(search, count)
    return Clusters(label, center[:k].copy(), radius[:k].copy())


@njit(cache=True, nogil=True)
def strong_diameters(roads: Roads, label: NDArray[np.int32], k: int, search: Search) -> NDArray[np.float64]:
    """Largest distance between two vertices of each cluster, on paths inside it."""
    diameter = np.zeros(k)
    for v in range(len(label)):
        x = label[v]
        if x >= 0:
            reach(search, v, 0.0, -1)
            count = explore(roads, label, x, x, np.inf, search)
            diameter[x] = max(diameter[x], search.distance[search.visited[count - 1]])
            forget(search, count)
    return diameter


@njit(cache=True, nogil=True)
def hops_on_shortest_paths(
    roads: Roads,
    label: NDArray[np.int32],
    cluster_indptr: NDArray[np.int32],
    cluster_indices: NDArray[np.int32],
    u: NDArray[np.int64],
    v: NDArray[np.int64],
    order: NDArray[np.int64],
    search: Search,
) -> NDArray[np.int64]:
    """Least hops between the clusters of each pair among the clusters that a shortest path touches; -1 without a path.

    ``order`` sorts the pairs by u, so that each u is searched from once.
    """
    n_clusters = len(cluster_indptr) - 1
    level = np.zeros(len(label), dtype=np.int32)
    touched, depth = np.full(n_clusters, -1, dtype=np.int64), np.empty(n_clusters, dtype=np.int64)
    queue, hops = np.empty(n_clusters, dtype=np.int32), np.full(len(u), -1, dtype=np.int64)
    source, count = -1, 0
    for pair in order:
        if u[pair] != source:
            forget(search, count)
            source = u[pair]
            reach(search, source, 0.0, -1)
            count = explore(roads, level, 0, 0, np.inf, search)
        if search.distance[v[pair]] == np.inf:
            continue
        w = v[pair]
        while w >= 0:
            touched[label[w]], depth[label[w]] = pair, -1
            w = search.previous[w]
        queue[0], head, tail, depth[label[source]] = label[source], 0, 1, 0
        while head < tail:
            x = queue[head]
            head += 1
            for entry in range(cluster_indptr[x], cluster_indptr[x + 1]):
                y = cluster_indices[entry]
                if touched[y] == pair and depth[y] < 0:
                    depth[y], queue[tail] = depth[x] + 1, y
                    tail += 1
        hops[pair] = depth[label[v[pair]]]
    forget(search, count)
    return hops
