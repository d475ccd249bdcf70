"""The lasso by greedy blocks that hold the support."""

from time import perf_counter
from typing import Any, ClassVar
from warnings import warn

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from paperworks._progress import progress_bar
from paperworks._validation import check_integer, check_number
from paperworks.optimization.block_coordinate_descent._designs import (
    Penalty,
    design_of,
    first_working_set_size,
    solve_block,
    working_set,
)
from paperworks.optimization.block_coordinate_descent._matrices import Array

# Coordinate descent over one block at most, before the next is chosen.
MAX_SWEEPS = 2000


class BlockCoordinateLasso(RegressorMixin, BaseEstimator):
    r"""Lasso by greedy variable blocks, to a duality gap.

    .. math:: \min_{w, c}\; \tfrac{1}{2n} \|y - X w - c\|^2 + \alpha \|w\|_1, \quad\text{perhaps with } w \ge 0.

    Each block holds the coefficients that are not zero and those whose models decrease most (GSL), twice as many as
    there were before at most. Its quadratic program is solved by coordinate descent until the signs stay, and is then
    finished by a Newton step over the coefficients that are not zero: exactly, once the signs are those of the
    solution. Sparse data are neither copied to dense nor centred.

    Parameters
    ----------
    alpha : float, default 1.0
        Weight of the penalty.
    fit_intercept : bool, default True
        Whether to fit c.
    positive : bool, default False
        Whether coefficients must not be negative.
    max_iter : int, default 100
        Blocks at most.
    tol : float, default 1e-6
        Duality gap to stop at, relative to the objective at w = 0.
    warm_start : bool, default False
        Whether to start from the coefficients of the last fit.
    verbose : bool, default False
        Whether to print a line a block.
    progress : bool, default False
        Whether to show a bar of blocks.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,)
        Coefficients w.
    intercept_ : float
        Constant c.
    dual_gap_ : float
        Duality gap, which bounds how far the objective is from its minimum.
    n_iter_ : int
        Blocks that were updated.
    history_ : dict of ndarray
        ``dual_gap``, ``n_nonzero``, ``passes`` over all columns and ``seconds``, before each block and in the end.
    n_features_in_ : int
        Number of features.

    References
    ----------
    Julie Nutini, Issam Laradji, Mark Schmidt. "Let's Make Block Coordinate Descent Converge Faster". JMLR 2022.
    arXiv:1712.08859.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import BlockCoordinateLasso
    >>> X = np.random.default_rng(0).normal(size=(50, 200))
    >>> model = BlockCoordinateLasso(alpha=0.1, tol=1e-10).fit(X, 3 * X[:, 5] - 2 * X[:, 9])
    >>> np.flatnonzero(model.coef_), model.dual_gap_ < 1e-9
    (array([5, 9]), True)
    """

    _estimator_checks: ClassVar[dict[str, Any]] = {"parameters": {"alpha": 0.1}}

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        fit_intercept: bool = True,
        positive: bool = False,
        max_iter: int = 100,
        tol: float = 1e-6,
        warm_start: bool = False,
        verbose: bool = False,
        progress: bool = False,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.positive = positive
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.verbose = verbose
        self.progress = progress

    def fit(self, X: Any, y: Any) -> "BlockCoordinateLasso":
        """Fit the coefficients.

        Parameters
        ----------
        X : array_like or SciPy sparse array of shape (n_samples, n_features)
            Samples; CSC is not copied.
        y : array_like of shape (n_samples,)
            Targets.

        Returns
        -------
        BlockCoordinateLasso
            Itself.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, accept_sparse="csc", dtype=np.float64, y_numeric=True)
        n, p = X.shape
        intercept = bool(self.fit_intercept)
        means = np.asarray(X.mean(axis=0)).ravel() if intercept else np.zeros(p)
        y_mean = float(y.mean()) if intercept else 0.0
        if intercept and not sp.issparse(X):
            X = X - means
        w = np.zeros(p)
        before = np.asarray(getattr(self, "coef_", np.zeros(0)))
        if self.warm_start and before.shape == (p,):
            w = before.copy()
        try:
            self._descend(X, y - y_mean, w, n * self.alpha, intercept)
        finally:
            # Ctrl-C must not lose the blocks that are complete.
            if hasattr(self, "_complete"):
                self.coef_ = self.__dict__.pop("_complete")
                self.intercept_ = y_mean - float(means @ self.coef_)
        wanted = self.tol * float((y - y_mean) @ (y - y_mean)) / (2 * n)
        if self.dual_gap_ > max(wanted, 0.0):
            warn(
                f"not converged after {self.n_iter_} blocks: duality gap {self.dual_gap_:.3g}, wanted {wanted:.3g}",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def predict(self, X: Any) -> Array:
        """Predictions.

        Parameters
        ----------
        X : array_like or SciPy sparse array of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            X w + c.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=("csr", "csc"), dtype=np.float64, reset=False)
        return np.asarray(X @ self.coef_) + self.intercept_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _check_parameters(self) -> None:
        check_number("alpha", self.alpha, above=0.0)
        check_integer("max_iter", self.max_iter)
        check_number("tol", self.tol, at_least=0.0)

    def _descend(self, X: Any, y: Array, w: Array, l1: float, intercept: bool) -> None:
        """Update blocks until the duality gap is small."""
        began, n = perf_counter(), len(y)
        design, ones = design_of(X), np.ones(n)
        penalty = Penalty(l1, positive=bool(self.positive))
        sums, squares = design.moments(np.arange(design.shape[1]), ones)
        sums = sums if intercept else np.zeros_like(sums)
        curvature = squares - sums**2 / n
        curvature[curvature <= 1e-12 * squares] = 0.0
        v, zero = design.predictions(np.flatnonzero(w), w[w != 0]) - y, 0.5 * float(y @ y)
        best_dual, size, passes = -np.inf, first_working_set_size(design), 0.0
        history: list[tuple[float, int, float, float]] = []
        for iteration in progress_bar(range(self.max_iter + 1), "blocks", self.progress):
            v -= v.mean() if intercept else 0.0
            slopes = design.correlations(v)
            passes += 1.0
            best_dual = max(best_dual, _dual(y, v, slopes, penalty))
            gap = max(0.5 * float(v @ v) + penalty.value(w) - best_dual, 0.0) / n
            support = int(np.count_nonzero(w))
            history.append((gap, support, passes, perf_counter() - began))
            self._complete, self.dual_gap_, self.n_iter_ = w.copy(), gap, iteration
            self.history_ = _as_arrays(history)
            if self.verbose:
                print(f"block {iteration}: duality gap {gap:.3e}, {support} coefficients, {passes:.1f} passes")
            if gap * n <= self.tol * zero or iteration == self.max_iter:
                break
            violation = float(np.abs(penalty.subgradient(w, slopes)).max())
            block = working_set(w, slopes, curvature, penalty, size)
            offset, sweeps = solve_block(design, block, w, ones, v, penalty, intercept, 0.03 * violation, MAX_SWEEPS)
            v += offset
            passes += sweeps * len(block) / design.shape[1]
            size = max(size, 2 * int(np.count_nonzero(w)))


def _dual(y: Array, v: Array, slopes: Array, penalty: Penalty) -> float:
    """Dual objective at the residual, scaled into the feasible set."""
    reach = float((-slopes).max() if penalty.positive else np.abs(slopes).max())
    scale = min(1.0, penalty.l1 / reach) if reach > 0 else 1.0
    return -scale * float(y @ v) - 0.5 * scale**2 * float(v @ v)


def _as_arrays(history: list[tuple[float, int, float, float]]) -> dict[str, Any]:
    names = ("dual_gap", "n_nonzero", "passes", "seconds")
    return {name: np.array(column) for name, column in zip(names, zip(*history, strict=True), strict=True)}
