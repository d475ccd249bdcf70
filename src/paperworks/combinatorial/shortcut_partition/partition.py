"""Shortcut partitions."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from paperworks._validation import check_number
from paperworks.combinatorial.shortcut_partition._clusters import (
    cut_into_clusters,
    hops_on_shortest_paths,
    strong_diameters,
)
from paperworks.combinatorial.shortcut_partition._dijkstra import longest_distance, new_search
from paperworks.combinatorial.shortcut_partition._lengths import Roads, check_lengths
from paperworks.combinatorial.shortcut_partition.cop_decomposition import (
    check_minor_size,
    cop_decomposition,
    warn_of_wide_bags,
)

# Each sweep goes to the vertex farthest from the last; after a few, it rarely gets any longer.
SWEEPS = 6


@dataclass(frozen=True, eq=False)
class ShortcutPartition:
    """Clusters of small strong diameter that shortest paths cross in few hops; made by `shortcut_partition`.

    Attributes
    ----------
    epsilon : float
        What was asked for: clusters have a strong diameter of at most ``epsilon`` times ``diameter``.
    diameter : float
        Largest distance that was found: the diameter of the graph, or at least half of it.
    labels_ : ndarray of shape (n,)
        Cluster of each vertex.
    centers_ : ndarray of shape (k,)
        Centre of each cluster.
    cluster_graph_ : csr_array of shape (k, k)
        The graph with each cluster contracted: 1 where clusters are adjacent.
    nodes_ : list or None
        Nodes of a networkx graph in the order of the vertices.
    roads_ : Roads
        The graph: ``indptr``, ``indices`` and ``lengths`` of its compressed rows.

    References
    ----------
    Hsien-Chih Chang, Jonathan Conroy, Hung Le, Lazar Milenković, Shay Solomon and Cuong Than, "Shortcut Partitions in
    Minor-Free Graphs: Steiner Point Removal, Distance Oracles, Tree Covers, and More", arXiv 2308.00555.

    Examples
    --------
    >>> import networkx
    >>> from paperworks.combinatorial import shortcut_partition
    >>> found = shortcut_partition(networkx.path_graph(9), 0.5)
    >>> found.labels_
    array([1, 1, 2, 2, 3, 3, 4, 4, 0], dtype=int32)
    """

    epsilon: float
    diameter: float
    labels_: NDArray[np.int32]
    centers_: NDArray[np.int32]
    cluster_graph_: sp.csr_array = field(repr=False)
    nodes_: list[Any] | None = field(repr=False)
    roads_: Roads = field(repr=False)

    def strong_diameters(self) -> NDArray[np.float64]:
        """Diameter of each cluster on paths inside it, by a search from every vertex.

        Returns
        -------
        ndarray of shape (k,)
            Diameters.
        """
        return strong_diameters(self.roads_, self.labels_, len(self.centers_), new_search(self.roads_.n))

    def hop_distance(self, u: ArrayLike, v: ArrayLike) -> NDArray[np.int64]:
        """Least hops between the clusters of vertices, through clusters that a shortest path between them touches.

        Parameters
        ----------
        u, v : array_like of int
            Vertices, of shapes that broadcast; one search is made for each different u.

        Returns
        -------
        ndarray of int
            Hops, -1 where there is no path.

        Raises
        ------
        ValueError
            If a vertex is out of range.
        TypeError
            If vertices are not integers.
        """
        pairs = check_vertices(self.roads_.n, u=u, v=v)
        first, second = (each.ravel() for each in pairs)
        graph = self.cluster_graph_
        hops = hops_on_shortest_paths(
            self.roads_,
            self.labels_,
            graph.indptr,
            graph.indices,
            first,
            second,
            np.argsort(first, kind="stable"),
            new_search(self.roads_.n),
        )
        return hops.reshape(pairs[0].shape)[()]


def shortcut_partition(
    graph: Any, epsilon: float, *, minor_size: int | None = None, length: str = "weight"
) -> ShortcutPartition:
    r"""Cut a graph into clusters of strong diameter at most epsilon times its diameter that are quick to cross.

    With :math:`\Delta = \varepsilon \operatorname{diam} / 4`, each supernode of a buffered cop decomposition is cut
    into the Voronoi cells of points on its skeleton that leave none of it farther than :math:`\Delta` along it. For
    any u, v the clusters that a shortest path touches hold a walk from u to v of at most
    :math:`h(r) \lceil r \, \delta(u, v) / \Delta \rceil` hops: in a graph without :math:`K_r` as a minor this is an
    :math:`(\varepsilon, 2^{O(r \log r)} / \varepsilon)`-shortcut partition.

    Parameters
    ----------
    graph : sparse matrix, array_like, networkx.Graph or (edges, n_nodes)
        Undirected, with positive lengths as weights. Loops are dropped, of parallel edges the shortest is kept.
    epsilon : float
        Largest strong diameter of a cluster, as a share of the diameter. A graph of several components is measured by
        the largest distance in any of them.
    minor_size : int, optional
        A size r of complete graph that is no minor; found as by `buffered_cop_decomposition` when None.
    length : str, default "weight"
        Edge attribute of a networkx graph that holds the lengths; 1 where it lacks.

    Returns
    -------
    ShortcutPartition
        Labels, centres and the graph of clusters.

    Raises
    ------
    ValueError
        If the graph is directed or empty, a length is not positive and finite, or a parameter is out of range.
    TypeError
        If the graph or a parameter is of no accepted kind.

    Warns
    -----
    UserWarning
        If the graph has large complete minors.

    Notes
    -----
    The diameter is taken from a few searches, each from the vertex farthest from the last: never above the true one,
    so that clusters keep their bound.

    References
    ----------
    Hsien-Chih Chang, Jonathan Conroy, Hung Le, Lazar Milenković, Shay Solomon and Cuong Than, "Shortcut Partitions in
    Minor-Free Graphs: Steiner Point Removal, Distance Oracles, Tree Covers, and More", arXiv 2308.00555.

    Examples
    --------
    >>> import networkx
    >>> from paperworks.combinatorial import shortcut_partition
    >>> found = shortcut_partition(networkx.grid_2d_graph(20, 20), 0.25)
    >>> bool(found.strong_diameters().max() <= 0.25 * found.diameter)
    True
    >>> found.hop_distance(0, [0, 19, 399]).shape
    (3,)
    """
    roads, nodes = check_lengths("graph", graph, length)
    epsilon = check_number("epsilon", epsilon, above=0.0)
    r = check_minor_size(minor_size)
    search = new_search(roads.n)
    diameter = float(longest_distance(roads, search, SWEEPS))
    # Without edges every vertex is a cluster of its own, whatever the radius.
    spacing = epsilon * diameter / 4.0 or 1.0
    cops, _, bags = cop_decomposition(roads, spacing, r, True, search)
    warn_of_wide_bags([bags])
    clusters = cut_into_clusters(roads, cops, spacing, search)
    contracted = contract(roads, clusters.label, len(clusters.center))
    return ShortcutPartition(epsilon, diameter, clusters.label, clusters.center, contracted, nodes, roads)


def contract(roads: Roads, label: NDArray[np.integer], k: int) -> sp.csr_array:
    """Graph of the labels: 1 where an edge leads from one to the other."""
    rows = np.repeat(label, np.diff(roads.indptr))
    columns = label[roads.indices]
    apart = (rows != columns) & (rows >= 0) & (columns >= 0)
    keys = np.unique(rows[apart].astype(np.int64) * k + columns[apart])
    return sp.csr_array((np.ones(len(keys)), (keys // k, keys % k)), shape=(k, k))


def check_vertices(n: int, **vertices: ArrayLike) -> list[NDArray[np.int64]]:
    """Return vertices as arrays of one shape."""
    arrays = []
    for name, value in vertices.items():
        array = np.asarray(value)
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name} must hold integers, got {array.dtype}")
        if array.size and not (array.min() >= 0 and array.max() < n):
            raise ValueError(f"{name} must be in 0..{n - 1}, got {array.min()}..{array.max()}")
        arrays.append(array.astype(np.int64))
    try:
        return [np.array(array) for array in np.broadcast_arrays(*arrays)]
    except ValueError:
        shapes = " and ".join(f"{name} of {array.shape}" for name, array in zip(vertices, arrays, strict=True))
        raise ValueError(f"shapes do not match: {shapes}") from None
