"""Tree covers."""

from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from paperworks._validation import check_number
from paperworks.combinatorial.shortcut_partition._covering import (
    Reached,
    by_vertex,
    each_scale,
    least_sum,
    reached_at_scale,
    scales,
    tightened,
)
from paperworks.combinatorial.shortcut_partition._dijkstra import new_search
from paperworks.combinatorial.shortcut_partition._estimators import CHECKS, check_fitting, fitted_graph, graph_tags
from paperworks.combinatorial.shortcut_partition.cop_decomposition import Bags, warn_of_wide_bags
from paperworks.combinatorial.shortcut_partition.partition import check_vertices


class _Scale(NamedTuple):
    """Stars of one scale: clusters that reach each vertex, in compressed rows, and each cluster's centre and colour."""

    indptr: NDArray[np.int64]
    cluster: NDArray[np.int32]
    distance: NDArray[np.float32]
    center: NDArray[np.int32]
    color: NDArray[np.int32]


class TreeCover(BaseEstimator):
    r"""Cover the distances of a graph by few forests at each scale, each pair by a tree that is nearly as short.

    At every scale :math:`D = 2^i` a shortcut partition of radius :math:`2 \Delta`, :math:`\Delta = \varepsilon D / 8`,
    is made. A cluster x becomes a star: its centre, joined to all vertices R(x) within D and the cluster's radius of it
    in the graph of x and the clusters after it, ancestors coming first. Of a shortest path of length
    :math:`\delta \le D` let x be the first cluster that it touches: both ends are in R(x), and over its centre they are
    at most :math:`4 \Delta = \varepsilon D / 2` farther apart than :math:`\delta`. Stars that are disjoint share a
    forest. No tree ever makes a distance shorter.

    Parameters
    ----------
    epsilon : float, default 0.25
        A distance over the best tree is at most 1 + epsilon times the true one; at least 0.0001.
    minor_size : int, optional
        A size r of complete graph that is no minor, as for `buffered_cop_decomposition`; it affects the number of
        forests only.
    length : str, default "weight"
        Edge attribute of a networkx graph that holds the lengths; 1 where it lacks.
    n_jobs : int, optional
        Threads, over scales; -1 takes all cores. The result does not depend on it.
    progress : bool, default True
        Show a bar where stderr is a terminal.
    verbose : bool, default False
        Whether every scale prints a line.

    Attributes
    ----------
    scales_ : ndarray of shape (n_scales,)
        The scales D, powers of two.
    n_trees_per_scale_ : ndarray of shape (n_scales,)
        Number of forests of each.
    n_entries_ : int
        Vertices of all stars together.
    forests_ : list of list of csr_array of shape (n, n)
        Forests of each scale, symmetric, with lengths; made anew whenever they are asked for.
    nodes_ : list or None
        Nodes of a networkx graph in the order of the vertices.
    n_features_in_ : int
        Number of vertices.

    Warns
    -----
    UserWarning
        If the graph has large complete minors: then there are many forests.

    Notes
    -----
    The paper merges the forests of all scales into O(1) trees altogether. Here their number is bounded for each scale
    by a function of epsilon and r, and scales are as many as doublings from the shortest to the longest distance.
    Distances are kept as float32, rounded up.

    References
    ----------
    Hsien-Chih Chang, Jonathan Conroy, Hung Le, Lazar Milenković, Shay Solomon and Cuong Than, "Shortcut Partitions in
    Minor-Free Graphs: Steiner Point Removal, Distance Oracles, Tree Covers, and More", arXiv 2308.00555.

    Examples
    --------
    >>> import networkx
    >>> from paperworks.combinatorial import TreeCover
    >>> cover = TreeCover(epsilon=0.5, progress=False).fit(networkx.grid_2d_graph(12, 12))
    >>> bool(22 <= cover.distance(0, 143) <= 1.5 * 22)
    True
    """

    _estimator_checks: ClassVar[dict[str, Any]] = CHECKS

    def __init__(
        self,
        epsilon: float = 0.25,
        *,
        minor_size: int | None = None,
        length: str = "weight",
        n_jobs: int | None = None,
        progress: bool = True,
        verbose: bool = False,
    ) -> None:
        self.epsilon = epsilon
        self.minor_size = minor_size
        self.length = length
        self.n_jobs = n_jobs
        self.progress = progress
        self.verbose = verbose

    def fit(self, graph: Any, y: Any = None) -> Self:
        """Make the forests of a graph.

        Parameters
        ----------
        graph : sparse matrix, array_like, networkx.Graph or (edges, n_nodes)
            Undirected, with positive lengths as weights. Loops are dropped, of parallel edges the shortest is kept.
        y : ignored
            Not used.

        Returns
        -------
        self
            The fitted tree cover.

        Raises
        ------
        ValueError
            If the graph is directed or empty, a length is not positive and finite, or a parameter is out of range.
        TypeError
            If the graph or a parameter is of no accepted kind.
        """
        epsilon = tightened(check_number("epsilon", self.epsilon, at_least=1e-4))
        r = check_fitting(self)
        roads, self.nodes_ = fitted_graph(self, graph)
        self.scales_ = scales(roads, new_search(roads.n))
        everything = np.ones(roads.n, dtype=np.bool_)

        def stars(i: int) -> tuple[_Scale, Bags]:
            D, top = self.scales_[i], i == len(self.scales_) - 1
            clusters, reached, bags = reached_at_scale(
                roads, epsilon * D / 8.0, np.inf if top else D, everything, r, new_search(roads.n)
            )
            color = _colors(roads.n, len(clusters.center), reached)
            if self.verbose:
                print(f"scale {D:g}: {len(color)} clusters, {color.max() + 1} forests, {len(reached.vertex)} entries")
            indptr, cluster, distance = by_vertex(roads.n, reached)
            return _Scale(indptr, cluster, distance, clusters.center, color), bags

        done = each_scale(stars, range(len(self.scales_)), self.n_jobs, "scales", self.progress)
        self._scales = [scale for scale, _ in done]
        self.n_trees_per_scale_ = np.array([each.color.max() + 1 for each in self._scales], dtype=np.int64)
        self.n_entries_ = sum(len(each.cluster) for each in self._scales)
        if done:
            warn_of_wide_bags([bags for _, bags in done])
        return self

    def distance(self, u: ArrayLike, v: ArrayLike) -> NDArray[np.float64]:
        """Shortest distance between vertices over all trees.

        Parameters
        ----------
        u, v : array_like of int
            Vertices, of shapes that broadcast.

        Returns
        -------
        ndarray of float, or a number for two numbers
            At least the true distance and at most 1 + epsilon times it; infinite where there is no path.

        Raises
        ------
        ValueError
            If a vertex is out of range.
        TypeError
            If vertices are not integers.
        """
        check_is_fitted(self)
        first, second = check_vertices(self.n_features_in_, u=u, v=v)
        shortest = np.where(first == second, 0.0, np.inf).ravel()
        for scale in self._scales:
            _shorten(scale.indptr, scale.cluster, scale.distance, first.ravel(), second.ravel(), shortest)
        return shortest.reshape(first.shape)[()]

    @property
    def forests_(self) -> list[list[sp.csr_array]]:
        """Forests of each scale, as symmetric adjacency with lengths."""
        if not hasattr(self, "_scales"):
            raise AttributeError(f"this {type(self).__name__} is not fitted yet: it has no forests_")
        return [_forests(scale) for scale in self._scales]

    def __sklearn_tags__(self) -> Any:
        return graph_tags(super().__sklearn_tags__())


@njit(cache=True, nogil=True)
def _colors(n: int, n_clusters: int, reached: Reached) -> NDArray[np.int32]:
    """Colour clusters greedily, in order, so that two that reach one vertex differ.

    The colours that are taken at a vertex are bits, 64 a word.
    """
    color, words = np.zeros(n_clusters, dtype=np.int32), 1
    taken = np.zeros((n, words), dtype=np.uint64)
    start, size = 0, len(reached.vertex)
    while start < size:
        x, end = reached.cluster[start], start
        around = np.zeros(words, dtype=np.uint64)
        while end < size and reached.cluster[end] == x:
            for word in range(words):
                around[word] |= taken[reached.vertex[end], word]
            end += 1
        chosen = 0
        while chosen < 64 * words and (around[chosen >> 6] >> np.uint64(chosen & 63)) & np.uint64(1):
            chosen += 1
        if chosen == 64 * words:
            wider = np.zeros((n, 2 * words), dtype=np.uint64)
            wider[:, :words] = taken
            taken, words = wider, 2 * words
        color[x] = chosen
        for i in range(start, end):
            taken[reached.vertex[i], chosen >> 6] |= np.uint64(1) << np.uint64(chosen & 63)
        start = end
    return color


@njit(cache=True, nogil=True)
def _shorten(
    indptr: NDArray[np.int64],
    cluster: NDArray[np.int32],
    distance: NDArray[np.float32],
    u: NDArray[np.int64],
    v: NDArray[np.int64],
    shortest: NDArray[np.float64],
) -> None:
    """Lower what was the shortest distance of each pair to that over the stars of one scale."""
    for i in range(len(u)):
        a, b = u[i], v[i]
        over = least_sum(cluster, distance, indptr[a], indptr[a + 1], indptr[b], indptr[b + 1])
        shortest[i] = min(shortest[i], over)


def _forests(scale: _Scale) -> list[sp.csr_array]:
    n = len(scale.indptr) - 1
    vertex = np.repeat(np.arange(n, dtype=np.int32), np.diff(scale.indptr))
    center, color = scale.center[scale.cluster], scale.color[scale.cluster]
    found = []
    for chosen in range(int(scale.color.max()) + 1):
        edges = np.flatnonzero((color == chosen) & (vertex != center))
        ends, lengths = (vertex[edges], center[edges]), scale.distance[edges].astype(np.float64)
        half = sp.coo_array((lengths, ends), shape=(n, n)).tocsr()
        found.append(sp.csr_array(half + half.T))
    return found
