"""Distance oracles."""

from math import ceil, log2
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from paperworks._validation import check_number
from paperworks.combinatorial.shortcut_partition._covering import (
    by_vertex,
    each_scale,
    least_sum,
    reached_at_scale,
    scales,
    tightened,
)
from paperworks.combinatorial.shortcut_partition._dijkstra import new_search
from paperworks.combinatorial.shortcut_partition._estimators import CHECKS, check_fitting, fitted_graph, graph_tags
from paperworks.combinatorial.shortcut_partition._nets import Ancestry, Level, nested_nets
from paperworks.combinatorial.shortcut_partition.cop_decomposition import Bags, warn_of_wide_bags
from paperworks.combinatorial.shortcut_partition.partition import check_vertices

# First entry of a saved oracle, lest another archive be taken for one.
FORMAT = "paperworks distance oracle 1"


class Tables(NamedTuple):
    """All that a query reads.

    A list belongs to a net point at a scale: pairs of a cluster and the distance from its centre, by cluster. A vertex
    has its lists' scales in ascending order; it stands for itself up to the scale at which it is dropped.
    """

    dropped: NDArray[np.int16]
    parent: NDArray[np.int32]
    offset: NDArray[np.float32]
    list_indptr: NDArray[np.int32]
    list_scale: NDArray[np.int16]
    list_start: NDArray[np.int64]
    list_size: NDArray[np.int32]
    cluster: NDArray[np.int32]
    distance: NDArray[np.float32]


class _Lists(NamedTuple):
    """Lists of one scale, by vertex."""

    indptr: NDArray[np.int64]
    cluster: NDArray[np.int32]
    distance: NDArray[np.float32]


class DistanceOracle(BaseEstimator):
    r"""Answer distances between any two vertices from small tables, within 1 + epsilon and without a search.

    At each scale :math:`D = 2^i` the vertices are thinned to a net, at distances that sum to at most
    :math:`o \le \varepsilon D / 16`, and a shortcut partition of radius at most :math:`2 \Delta`,
    :math:`\Delta = \varepsilon D / 8 - o`, is made. A net point lists its distances to the centres of all clusters x
    that it reaches within D + 2o and the radius among x and the clusters after it. Two vertices are as far apart as the
    best centre that both points list says, plus the way to the points: never less than the distance :math:`\delta`,
    and at most :math:`\delta + 4 \Delta + 4 o = \delta + \varepsilon D / 2` at the scale with
    :math:`D / 2 < \delta \le D`. A search in doubling steps finds the first scale with a common centre; the right
    one is it or one of the next two.

    In graphs without some complete minor a list is bounded by a function of epsilon, and lists are linear in the number
    of vertices however widely lengths are spread.

    Parameters
    ----------
    epsilon : float, default 0.1
        Answers are at most 1 + epsilon times the true distance; at least 0.0001. Memory grows steeply as it falls.
    minor_size : int, optional
        A size r of complete graph that is no minor, as for `buffered_cop_decomposition`; it affects the lists' lengths
        only.
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
    n_active_ : ndarray of shape (n_scales,)
        Net points with a list at each scale.
    n_entries_ : int
        Length of all lists together.
    nbytes_ : int
        Bytes of the tables that queries read.
    nodes_ : list or None
        Nodes of a networkx graph in the order of the vertices.
    n_features_in_ : int
        Number of vertices.

    Warns
    -----
    UserWarning
        If the graph has large complete minors: then lists are long.

    Notes
    -----
    A construction of ours from the paper's shortcut partition, with the same guarantees. Distances are kept as float32
    and rounded up, for which epsilon is taken smaller by a few parts in ten million.

    References
    ----------
    Hsien-Chih Chang, Jonathan Conroy, Hung Le, Lazar Milenković, Shay Solomon and Cuong Than, "Shortcut Partitions in
    Minor-Free Graphs: Steiner Point Removal, Distance Oracles, Tree Covers, and More", arXiv 2308.00555.

    Examples
    --------
    >>> import networkx
    >>> from paperworks.combinatorial import DistanceOracle
    >>> oracle = DistanceOracle(epsilon=0.5, progress=False).fit(networkx.grid_2d_graph(12, 12))
    >>> answers = oracle.query([0, 0, 7], [143, 11, 7])
    >>> [bool(true <= answer <= 1.5 * true) for true, answer in zip([22, 11, 0], answers)]
    [True, True, True]
    """

    _estimator_checks: ClassVar[dict[str, Any]] = CHECKS

    def __init__(
        self,
        epsilon: float = 0.1,
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
        """Make the tables of a graph.

        Parameters
        ----------
        graph : sparse matrix, array_like, networkx.Graph or (edges, n_nodes)
            Undirected, with positive lengths as weights. Loops are dropped, of parallel edges the shortest is kept.
        y : ignored
            Not used.

        Returns
        -------
        self
            The fitted oracle.

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
        search = new_search(roads.n)
        self.scales_ = scales(roads, search)
        ancestry, levels = nested_nets(roads, self.scales_, epsilon, search)
        self.n_active_ = np.array([np.count_nonzero(level.active) for level in levels], dtype=np.int64)

        def lists(level: Level) -> tuple[_Lists, Bags]:
            _, reached, bags = reached_at_scale(
                roads, level.spacing, level.path_limit, level.active, r, new_search(roads.n)
            )
            if self.verbose:
                n_active = np.count_nonzero(level.active)
                print(f"scale {level.scale:g}: {n_active} points, {len(reached.vertex)} entries")
            return _Lists(*by_vertex(roads.n, reached)), bags

        # A scale without active points joins no two vertices.
        used = [level for level in levels if level.active.any()]
        done = each_scale(lists, used, self.n_jobs, "scales", self.progress)
        self.tables_ = _tables(ancestry, [level.number for level in used], [each for each, _ in done])
        self.n_entries_ = len(self.tables_.cluster)
        if done:
            warn_of_wide_bags([bags for _, bags in done])
        return self

    def query(self, u: ArrayLike, v: ArrayLike) -> NDArray[np.float64]:
        """Distances between vertices, from the tables alone.

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
        # A centre at scale D in both lists proves a distance of at most (2 + 5/8 epsilon) D.
        further = ceil(log2(2.0 + 0.625 * self.epsilon))
        answers = _answers(self.tables_, self.scales_, further, first.ravel(), second.ravel())
        return answers.reshape(first.shape)[()]

    @property
    def nbytes_(self) -> int:
        """Bytes of the tables."""
        if not hasattr(self, "tables_"):
            raise AttributeError(f"this {type(self).__name__} is not fitted yet: it has no nbytes_")
        return sum(table.nbytes for table in self.tables_)

    def save(self, path: str | Path) -> None:
        """Write the tables to a file, for `load`; names of networkx's nodes are not written.

        Parameters
        ----------
        path : str or Path
            The file, NumPy's ``.npz`` under whatever name.
        """
        check_is_fitted(self)
        with Path(path).open("wb") as file:
            np.savez(
                file,
                format=FORMAT,
                epsilon=self.epsilon,
                scales=self.scales_,
                n_active=self.n_active_,
                **self.tables_._asdict(),
            )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an oracle that `save` wrote.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        DistanceOracle
            An oracle that answers as the saved one did; its ``nodes_`` are None.

        Raises
        ------
        ValueError
            If the file holds no oracle.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                if str(held["format"]) != FORMAT:
                    raise KeyError("format")
                oracle = cls(float(held["epsilon"]))
                oracle.scales_, oracle.n_active_ = held["scales"], held["n_active"]
                oracle.tables_ = Tables(*(held[name] for name in Tables._fields))
        except (KeyError, ValueError, EOFError, AttributeError) as error:
            raise ValueError(f"path: {path} holds no distance oracle: {error}") from None
        oracle.nodes_, oracle.n_features_in_ = None, len(oracle.tables_.parent)
        oracle.n_entries_ = len(oracle.tables_.cluster)
        return oracle

    def __sklearn_tags__(self) -> Any:
        return graph_tags(super().__sklearn_tags__())


def _tables(ancestry: Ancestry, used: list[int], lists: list[_Lists]) -> Tables:
    """Put the lists of all scales one behind the other, and say for each vertex where its own are."""
    n = len(ancestry.parent)
    sizes = [np.diff(each.indptr) for each in lists]
    holders = [np.flatnonzero(size) for size in sizes]
    before = np.cumsum([0, *(len(each.cluster) for each in lists)])
    vertex = np.concatenate([np.empty(0, dtype=np.int64), *holders])
    scale = np.repeat(np.array(used, dtype=np.int16), [len(each) for each in holders])
    start = np.concatenate(
        [
            np.empty(0, dtype=np.int64),
            *(each.indptr[:-1][who] + first for each, who, first in zip(lists, holders, before, strict=False)),
        ]
    )
    size = np.concatenate([np.empty(0, dtype=np.int64), *(each[who] for each, who in zip(sizes, holders, strict=True))])
    # Stable: a vertex's scales stay in ascending order.
    order = np.argsort(vertex, kind="stable")
    indptr = np.zeros(n + 1, dtype=np.int32)
    np.cumsum(np.bincount(vertex, minlength=n), out=indptr[1:])
    return Tables(
        ancestry.dropped,
        ancestry.parent,
        ancestry.offset,
        indptr,
        scale[order],
        start[order],
        size[order].astype(np.int32),
        np.concatenate([np.empty(0, dtype=np.int32), *(each.cluster for each in lists)]),
        np.concatenate([np.empty(0, dtype=np.float32), *(each.distance for each in lists)]),
    )


@njit(cache=True, nogil=True)
def _answers(
    tables: Tables, scales: NDArray[np.float64], further: int, u: NDArray[np.int64], v: NDArray[np.int64]
) -> NDArray[np.float64]:
    answers = np.empty(len(u))
    for i in range(len(u)):
        answers[i] = _answer(tables, scales, further, u[i], v[i])
    return answers


@njit(cache=True, nogil=True)
def _answer(tables: Tables, scales: NDArray[np.float64], further: int, u: int, v: int) -> float:
    """Least answer of the first scale that has one and of those after it that may be the pair's own."""
    if u == v:
        return 0.0
    high = len(scales) - 1
    if high < 0 or not _joined(tables, high, u, v):
        return np.inf
    # Two far apart have a centre in common soon in the lists of large scales: go down in growing steps.
    step = 1
    while high - step >= 0 and _joined(tables, high - step, u, v):
        high, step = high - step, 2 * step
    low = max(high - step, -1)
    # Scale high has a common centre, scale low has none.
    while high - low > 1:
        middle = (low + high) >> 1
        if _joined(tables, middle, u, v):
            high = middle
        else:
            low = middle
    least = np.inf
    for scale in range(high, min(high + further + 1, len(scales))):
        # The pair's own scale is the first that is not below its distance, which the answer bounds.
        if scale > high and scales[scale - 1] >= least:
            break
        a, to_a, list_a = _list_of(tables, scale, u)
        b, to_b, list_b = _list_of(tables, scale, v)
        if a == b:
            least = min(least, to_a + to_b)
        elif list_a >= 0 and list_b >= 0:
            start_a, start_b = tables.list_start[list_a], tables.list_start[list_b]
            end_a, end_b = start_a + tables.list_size[list_a], start_b + tables.list_size[list_b]
            over = least_sum(tables.cluster, tables.distance, start_a, end_a, start_b, end_b)
            least = min(least, to_a + to_b + over)
    return least


@njit(cache=True, nogil=True)
def _joined(tables: Tables, scale: int, u: int, v: int) -> bool:
    """Whether a scale answers a pair: one net point stands for both, or their points list a common centre."""
    a, _, list_a = _list_of(tables, scale, u)
    b, _, list_b = _list_of(tables, scale, v)
    if a == b:
        return True
    if list_a < 0 or list_b < 0:
        return False
    i, j = tables.list_start[list_a], tables.list_start[list_b]
    i_end, j_end = i + tables.list_size[list_a], j + tables.list_size[list_b]
    while i < i_end and j < j_end:
        x, y = tables.cluster[i], tables.cluster[j]
        if x == y:
            return True
        i += x < y
        j += y < x
    return False


@njit(cache=True, nogil=True)
def _list_of(tables: Tables, scale: int, v: int) -> tuple[int, float, int]:
    """Net point that stands for a vertex at a scale, the way to it, and which list it has there, -1 if none."""
    offset = 0.0
    while tables.dropped[v] <= scale:
        offset += np.float64(tables.offset[v])
        v = tables.parent[v]
    low, end = tables.list_indptr[v], tables.list_indptr[v + 1]
    high = end
    while low < high:
        middle = (low + high) >> 1
        if tables.list_scale[middle] < scale:
            low = middle + 1
        else:
            high = middle
    return v, offset, low if low < end and tables.list_scale[low] == scale else -1
