"""Harmonic labels on graphs, by forests of unlabelled nodes that are gathered greedily."""

from time import perf_counter
from typing import Any, ClassVar
from warnings import warn

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, check_non_negative, column_or_1d, validate_data

from paperworks._graphs import check_adjacency
from paperworks._progress import progress_bar
from paperworks._validation import check_integer, check_number
from paperworks.optimization.block_coordinate_descent._forests import SOLVED, eliminate, greedy_forest
from paperworks.optimization.block_coordinate_descent._matrices import Array, Indices

# The label of nodes that have none, as in scikit-learn.
UNLABELLED = -1


class LabelPropagationSolver(ClassifierMixin, BaseEstimator):
    r"""Labels of a graph's nodes from those of a few, by block coordinate descent on huge forests.

    .. math:: \min_{F}\; \tfrac12 \sum_{ij} w_{ij} \|F_i - F_j\|^2 \quad\text{with } F_i \text{ given where labelled}.

    Each iteration gathers nodes by descending gradient into a block that is a forest, about two thirds of a lattice's
    nodes, and minimises over them exactly by passing messages along it. In the end each unlabelled node has the
    weighted mean of its neighbours' class probabilities.

    Parameters
    ----------
    momentum : bool, default True
        Whether to minimise over the combinations of the forest's step and the whole step before it, which costs no
        product with A and saves most iterations; it is ours, the paper's method is without.
    max_iter : int, default 10000
        Forests at most.
    tol : float, default 1e-6
        Largest difference between a node's probabilities and the weighted mean of its neighbours' to stop at.
    verbose : bool, default False
        Whether to print a line a hundred forests.
    progress : bool, default False
        Whether to show a bar of forests.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes.
    label_distributions_ : ndarray of shape (n_nodes, n_classes)
        Probabilities F; zeros where no labelled node can be reached.
    transduction_ : ndarray of shape (n_nodes,)
        Most probable classes; -1 where no labelled node can be reached.
    violation_ : float
        Largest difference from the mean of the neighbours.
    n_iter_ : int
        Forests that were updated.
    history_ : dict of ndarray
        ``violation``, ``passes`` over the unlabelled nodes and ``seconds``, at the start and after each forest.
    n_features_in_ : int
        Number of nodes.

    References
    ----------
    Julie Nutini, Issam Laradji, Mark Schmidt. "Let's Make Block Coordinate Descent Converge Faster". JMLR 2022.
    arXiv:1712.08859.

    Examples
    --------
    >>> import networkx as nx
    >>> from paperworks.optimization import LabelPropagationSolver
    >>> labels = [0, -1, -1, -1, 1]
    >>> LabelPropagationSolver().fit(nx.path_graph(5), labels).label_distributions_[:, 1]
    array([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """

    _estimator_checks: ClassVar[dict[str, Any]] = {
        "expected_failures": {
            "check_classifiers_classes": "one of its classes is -1, which marks nodes without a label",
            "check_classifiers_train": "its graph is the linear kernel of points, in which neighbours differ in class",
            "check_non_transformer_estimators_n_iter": "all its nodes are labelled, so that no iteration is made",
        },
    }

    def __init__(
        self,
        *,
        momentum: bool = True,
        max_iter: int = 10_000,
        tol: float = 1e-6,
        verbose: bool = False,
        progress: bool = False,
    ) -> None:
        self.momentum = momentum
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.progress = progress

    def fit(self, X: Any, y: Any) -> "LabelPropagationSolver":
        """Label the nodes of a graph.

        Parameters
        ----------
        X : sparse array or array_like of shape (n_nodes, n_nodes), or networkx.Graph
            Symmetric nonnegative weights.
        y : array_like of shape (n_nodes,)
            Classes, -1 where there is none.

        Returns
        -------
        LabelPropagationSolver
            Itself.
        """
        check_integer("max_iter", self.max_iter)
        check_number("tol", self.tol, at_least=0.0)
        adjacency, y = self._checked(X, y)
        known = _is_labelled(y)
        if not known.any():
            raise ValueError("y has no label: at least one must not be -1")
        self.classes_, labels = np.unique(y[known], return_inverse=True)
        reached = self._reached(adjacency, known)
        free = np.flatnonzero(reached & ~known)
        F = np.zeros((len(y), len(self.classes_)))
        F[np.flatnonzero(known), labels] = 1.0
        # A start whose probabilities sum to one: then those of the last class follow from the others throughout.
        F[free] = np.bincount(labels) / len(labels)
        system = _system(adjacency, F, known, free, bool(self.momentum))
        try:
            self._descend(system)
        finally:
            F[free, :-1] = system.F
            F[free, -1] = 1.0 - system.F.sum(axis=1)
            self.label_distributions_ = F
            best = self.classes_[np.argmax(F, axis=1)]
            self.transduction_ = best if reached.all() else np.where(reached, best, UNLABELLED)
        if self.violation_ > self.tol:
            warn(
                f"not converged after {self.n_iter_} forests: violation {self.violation_:.3g}, wanted {self.tol:.3g}",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def predict_proba(self, X: Any) -> Array:
        """Class probabilities of further nodes: weighted means over the nodes of the fit.

        Parameters
        ----------
        X : sparse array or array_like of shape (n_samples, n_nodes)
            Nonnegative weights of edges from further nodes to those of the fit.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities; a node without edges has those of all classes alike.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
        check_non_negative(X, "X of LabelPropagationSolver")
        sums = np.asarray(X @ self.label_distributions_)
        total = sums.sum(axis=1, keepdims=True)
        return np.where(total > 0, sums / np.where(total > 0, total, 1.0), 1.0 / len(self.classes_))

    def predict(self, X: Any) -> NDArray[Any]:
        """Classes of further nodes.

        Parameters
        ----------
        X : sparse array or array_like of shape (n_samples, n_nodes)
            Nonnegative weights of edges from further nodes to those of the fit.

        Returns
        -------
        ndarray of shape (n_samples,)
            Most probable classes.
        """
        check_is_fitted(self)
        return np.asarray(self.classes_[np.argmax(self.predict_proba(X), axis=1)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = True
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        return tags

    def _checked(self, X: Any, y: Any) -> tuple[sp.csr_array, NDArray[Any]]:
        if not hasattr(X, "adjacency"):
            X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
            check_non_negative(X, "X of LabelPropagationSolver")
        adjacency = check_adjacency("X", X, self_loops="drop")[0]
        y = column_or_1d(check_array(y, ensure_2d=False, dtype=None))
        check_classification_targets(y)
        if len(y) != adjacency.shape[0]:
            raise ValueError(f"y must have length {adjacency.shape[0]}, the number of nodes of X, got {len(y)}")
        self.n_features_in_ = adjacency.shape[0]
        return adjacency, y

    def _reached(self, adjacency: sp.csr_array, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which nodes are connected to a label."""
        _, component = connected_components(adjacency, directed=False)
        reached = np.isin(component, np.unique(component[known]))
        if not reached.all():
            warn(
                f"{int((~reached).sum())} nodes are not connected to any label and get none", UserWarning, stacklevel=3
            )
        return np.asarray(reached)

    def _descend(self, system: "_System") -> None:
        """Update greedy forests until every node is the mean of its neighbours."""
        began, updates, n = perf_counter(), 0, max(1, len(system.F))
        columns: dict[str, list[float]] = {"violation": [], "passes": [], "seconds": []}
        try:
            for iteration in progress_bar(range(self.max_iter + 1), "forests", self.progress):
                self.violation_, self.n_iter_ = system.violation(), iteration
                row = (self.violation_, updates / n, perf_counter() - began)
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
                if self.verbose and iteration % 100 == 0:
                    print(f"forest {iteration}: violation {self.violation_:.3e}, {updates / n:.1f} passes")
                if self.violation_ <= self.tol or iteration == self.max_iter:
                    break
                updates += system.update()
        finally:
            self.history_ = {name: np.array(column) for name, column in columns.items()}


def _is_labelled(y: NDArray[Any]) -> NDArray[np.bool_]:
    return y != UNLABELLED if y.dtype.kind in "iuf" else np.ones(len(y), dtype=bool)


class _System:
    """A F = B for the unlabelled nodes, with F of all classes but the last and the gradient G = A F - B."""

    def __init__(self, A: sp.csr_array, B: Array, F: Array, momentum: bool) -> None:
        self.A, self.F, self.momentum = A, F, momentum
        self.degrees = A.diagonal()
        self.G = np.asarray(A @ F - B)
        self._last: tuple[Array, Array] | None = None

    def violation(self) -> float:
        if not self.F.size:
            return 0.0
        # The last class has what the others lack.
        largest = np.maximum(np.abs(self.G).max(axis=1), np.abs(self.G.sum(axis=1)))
        return float((largest / self.degrees).max())

    def update(self) -> int:
        """Minimise over a forest of large gradients; returns its size."""
        A, G = self.A, self.G
        scores = (G * G).sum(axis=1) / self.degrees
        block = greedy_forest(A.indptr, A.indices, _roughly_descending(scores))
        place = np.full(len(scores), -1)
        place[block] = np.arange(len(block))
        d = -G[block]
        if eliminate(A.indptr, A.indices, A.data, block, place, d)[0] != SOLVED:
            raise ValueError("X can't be solved: its weights are of too different sizes")
        step = np.zeros_like(G)
        step[block] = d
        change = A @ step
        if self.momentum:
            step, change = self._with_last_step(step, change)
        self.F += step
        self.G += change
        return len(block)

    def _with_last_step(self, step: Array, change: Array) -> tuple[Array, Array]:
        """Minimise, class by class, over the combinations of the forest's step and the whole step before it."""
        if self._last is not None:
            last, last_change = self._last
            inner, mixed, outer = ((a * b).sum(axis=0) for a, b in ((step, change), (step, last_change), self._last))
            slope, last_slope = (self.G * step).sum(axis=0), (self.G * last).sum(axis=0)
            determinant = inner * outer - mixed * mixed
            sound = determinant > 1e-12 * inner * outer
            safe = np.where(sound, determinant, 1.0)
            # The forest's step alone is a minimiser: its own factor is 1.
            a = np.where(sound, (mixed * last_slope - outer * slope) / safe, 1.0)
            b = np.where(sound, (mixed * slope - inner * last_slope) / safe, 0.0)
            step, change = a * step + b * last, a * change + b * last_change
        self._last = step, change
        return step, change


def _system(adjacency: sp.csr_array, F: Array, known: NDArray[np.bool_], free: Indices, momentum: bool) -> _System:
    rows = adjacency[free]
    A = sp.csr_array(sp.diags_array(np.asarray(rows.sum(axis=1)).ravel()) - rows[:, free])
    B = np.asarray(rows[:, np.flatnonzero(known)] @ F[known][:, :-1])
    return _System(A, B, F[free][:, :-1].copy(), momentum)


@njit(cache=True)
def _roughly_descending(scores: Any) -> Any:
    """Order by the leading bits, to an eighth of a power of two, in linear time: what is nearly alike may stay."""
    keys = (scores.view(np.int64) >> 49) & 0x3FFF
    starts = np.zeros(0x4001, dtype=np.int64)
    for key in keys:
        starts[0x3FFF - key + 1] += 1
    starts = np.cumsum(starts)
    order = np.empty(len(scores), dtype=np.int64)
    for i in range(len(scores)):
        bucket = 0x3FFF - keys[i]
        order[starts[bucket]] = i
        starts[bucket] += 1
    return order
