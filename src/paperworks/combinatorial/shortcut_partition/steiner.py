"""Steiner point removal."""

from typing import Any

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import ArrayLike, NDArray

from paperworks._validation import check_number
from paperworks.combinatorial.shortcut_partition._clusters import Clusters, cut_into_clusters
from paperworks.combinatorial.shortcut_partition._dijkstra import (
    Search,
    distances_between,
    explore,
    forget,
    nearest_source,
    new_search,
    reach,
)
from paperworks.combinatorial.shortcut_partition._lengths import Roads, check_lengths
from paperworks.combinatorial.shortcut_partition.cop_decomposition import (
    check_minor_size,
    cop_decomposition,
    warn_of_wide_bags,
)
from paperworks.combinatorial.shortcut_partition.partition import check_vertices, contract


def steiner_point_removal(
    graph: Any,
    terminals: ArrayLike,
    *,
    zeta: float = 3.0,
    minor_size: int | None = None,
    length: str = "weight",
) -> tuple[sp.csr_array, NDArray[np.int32], float]:
    r"""Shrink a graph to its terminals, as a minor of it that nearly keeps their distances.

    Lengths are scaled so that the vertex nearest to the terminals K is at distance 1. For i = 0, 1, ... the vertices
    that are left are cut by a shortcut partition into clusters of diameter at most :math:`\zeta^{i - 1}`; those that
    hold a vertex v with :math:`\delta(v, K) < \zeta^i` join terminals in waves: a cluster next to vertices that were
    assigned before the wave joins the terminal with the shortest way through its part to the cluster. Parts are
    connected: contracted, they leave a minor, in which adjacent terminals t, t' get an edge of length
    :math:`\delta(t, t')`. Its distances exceed those of the graph by a factor that is bounded whatever the number of
    terminals.

    Parameters
    ----------
    graph : sparse matrix, array_like, networkx.Graph or (edges, n_nodes)
        Undirected, with positive lengths as weights. Loops are dropped, of parallel edges the shortest is kept.
    terminals : array_like of int
        At least two different vertices, k of them; of a networkx graph by their places among its nodes.
    zeta : float, default 3.0
        Growth of the clusters, above 1.
    minor_size : int, optional
        A size r of complete graph that is no minor; found as by `buffered_cop_decomposition` when None.
    length : str, default "weight"
        Edge attribute of a networkx graph that holds the lengths; 1 where it lacks.

    Returns
    -------
    minor : csr_array of shape (k, k)
        Symmetric, with lengths; rows in the order of the terminals.
    assignment : ndarray of shape (n,)
        Place of the terminal whose part a vertex is in, -1 where it is connected to none.
    distortion : float
        Largest ratio of a distance in the minor to the distance in the graph, over pairs of terminals with a path; 1
        where there are none.

    Raises
    ------
    ValueError
        If terminals are fewer than two, repeated or out of range, or as in `buffered_cop_decomposition`.
    TypeError
        If terminals are not integers, or the graph or a parameter is of no accepted kind.

    Warns
    -----
    UserWarning
        If the graph has large complete minors.

    Notes
    -----
    Takes one partition of what is left for each power of zeta, k searches, and memory for k^2 distances.

    References
    ----------
    Hsien-Chih Chang, Jonathan Conroy, Hung Le, Lazar Milenković, Shay Solomon and Cuong Than, "Shortcut Partitions in
    Minor-Free Graphs: Steiner Point Removal, Distance Oracles, Tree Covers, and More", arXiv 2308.00555.

    Examples
    --------
    >>> import networkx
    >>> from paperworks.combinatorial import steiner_point_removal
    >>> minor, assignment, distortion = steiner_point_removal(networkx.star_graph(5), [1, 2, 3, 4, 5])
    >>> minor.nnz // 2, distortion  # a star with one leaf in the middle
    (4, 2.0)
    """
    roads, _ = check_lengths("graph", graph, length)
    zeta = check_number("zeta", zeta, above=1.0)
    r = check_minor_size(minor_size)
    chosen = _check_terminals(roads.n, terminals)
    search = new_search(roads.n)
    part = _grown_parts(roads, chosen, zeta, r, search)
    between = distances_between(roads, chosen, chosen, search)
    # Two directions may differ by rounding.
    between = np.minimum(between, between.T)
    minor = contract(roads, part, len(chosen))
    rows, columns = minor.nonzero()
    minor.data = between[rows, columns]
    return minor, part, _distortion(minor, between)


def _check_terminals(n: int, terminals: ArrayLike) -> NDArray[np.int64]:
    (chosen,) = check_vertices(n, terminals=terminals)
    if chosen.ndim != 1 or len(chosen) < 2:
        raise ValueError(f"terminals must be at least two vertices in a row, got shape {chosen.shape}")
    found, counts = np.unique(chosen, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"terminals must differ, got {found[counts.argmax()]} {counts.max()} times")
    return chosen


def _grown_parts(
    roads: Roads, terminals: NDArray[np.int64], zeta: float, minor_size: int | None, search: Search
) -> NDArray[np.int32]:
    """Part of each vertex, as the place of its terminal; parts grow over larger and larger distances from K."""
    _, to_terminals = nearest_source(roads, terminals, search)
    part, within = np.full(roads.n, -1, dtype=np.int32), np.full(roads.n, np.inf)
    part[terminals], within[terminals] = np.arange(len(terminals)), 0.0
    left = (part < 0) & np.isfinite(to_terminals)
    unit, i, all_bags = to_terminals[left].min(initial=np.inf), 0, []
    while left.any():
        # Powers at which nothing new is near need no partition.
        i = max(i, int(np.floor(np.log(to_terminals[left].min() / unit) / np.log(zeta))))
        near = left & (to_terminals < unit * zeta**i)
        if near.any():
            spacing = unit * zeta ** (i - 1) / 4.0
            cops, _, bags = cop_decomposition(roads, spacing, minor_size, True, search, inside=left)
            clusters = cut_into_clusters(roads, cops, spacing, search)
            active = np.zeros(len(clusters.center), dtype=np.bool_)
            active[clusters.label[near]] = True
            _join_in_waves(roads, clusters, active, part, within, search)
            all_bags.append(bags)
            left &= part < 0
        i += 1
    if all_bags:
        warn_of_wide_bags(all_bags)
    return part


@njit(cache=True, nogil=True)
def _join_in_waves(
    roads: Roads,
    clusters: Clusters,
    active: NDArray[np.bool_],
    part: NDArray[np.int32],
    within: NDArray[np.float64],
    search: Search,
) -> None:
    """Let active clusters join parts, wave by wave; ``within`` is the way to a vertex's terminal inside its part."""
    n, k = len(part), len(clusters.center)
    starts = np.zeros(k + 2, dtype=np.int64)
    for v in range(n):
        starts[clusters.label[v] + 2] += 1
    # Members of cluster x are from starts[x + 1] to starts[x + 2]; those of no cluster come first.
    starts = np.cumsum(starts)
    members = np.argsort(clusters.label, kind="mergesort")
    best, terminal = np.full(k, np.inf), np.full(k, -1, dtype=np.int32)
    joining = np.empty(k, dtype=np.int32)
    frontier = np.flatnonzero(part >= 0)
    while len(frontier):
        n_joining, size = 0, 0
        for y in frontier:
            for entry in range(roads.indptr[y], roads.indptr[y + 1]):
                w = roads.indices[entry]
                x = clusters.label[w]
                if x < 0 or part[w] >= 0 or not active[x]:
                    continue
                way = within[y] + roads.lengths[entry]
                if terminal[x] < 0:
                    joining[n_joining] = x
                    n_joining += 1
                if way < best[x] or (way == best[x] and part[y] < terminal[x]):
                    best[x], terminal[x] = way, part[y]
        for x in joining[:n_joining]:
            _measure(roads, clusters.label, members[starts[x + 1] : starts[x + 2]], terminal[x], part, within, search)
            size += starts[x + 2] - starts[x + 1]
        frontier, size = np.empty(size, dtype=np.int64), 0
        for x in joining[:n_joining]:
            for v in members[starts[x + 1] : starts[x + 2]]:
                part[v], frontier[size] = terminal[x], v
                size += 1


@njit(cache=True, nogil=True)
def _measure(
    roads: Roads,
    label: NDArray[np.int32],
    cluster: NDArray[np.int64],
    terminal: int,
    part: NDArray[np.int32],
    within: NDArray[np.float64],
    search: Search,
) -> None:
    """Shortest ways from a terminal, through its part and then inside a cluster that joins it."""
    for v in cluster:
        for entry in range(roads.indptr[v], roads.indptr[v + 1]):
            y = roads.indices[entry]
            if part[y] == terminal:
                reach(search, v, within[y] + roads.lengths[entry], y)
    x = label[cluster[0]]
    count = explore(roads, label, x, x, np.inf, search)
    for i in range(count):
        within[search.visited[i]] = search.distance[search.visited[i]]
    forget(search, count)


def _distortion(minor: sp.csr_array, between: NDArray[np.float64]) -> float:
    k = len(between)
    over = distances_between(
        Roads(minor.indptr.astype(np.int32), minor.indices.astype(np.int32), minor.data),
        np.arange(k),
        np.arange(k),
        new_search(k),
    )
    apart = np.isfinite(between) & ~np.eye(k, dtype=np.bool_)
    return float((over[apart] / between[apart]).max(initial=1.0))
