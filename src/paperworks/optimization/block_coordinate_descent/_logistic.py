"""Sparse logistic regression by Newton steps on greedy blocks that hold the support."""

from time import perf_counter
from typing import Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from paperworks._progress import progress_bar
from paperworks._validation import check_integer, check_number
from paperworks.optimization.block_coordinate_descent._designs import (
    Design,
    Penalty,
    design_of,
    first_working_set_size,
    solve_block,
    working_set,
)
from paperworks.optimization.block_coordinate_descent._matrices import Array, Indices

# Newton steps over one block, and coordinate descent for one of them, at most.
MAX_NEWTON_STEPS = 20
MAX_SWEEPS = 1000
SUFFICIENT = 1e-4


class BlockCoordinateLogisticRegression(ClassifierMixin, BaseEstimator):
    r"""Logistic regression of two classes with an l1 penalty, by greedy variable blocks.

    .. math::
        \min_{w, c}\; \tfrac1n \sum_i \log(1 + e^{-y_i (x_i^\top w + c)})
        + \alpha \big(\rho \|w\|_1 + \tfrac{1 - \rho}{2} \|w\|^2\big), \quad\text{perhaps with } w \ge 0,

    with labels of -1 and 1. Each block holds the coefficients that are not zero and those whose models decrease most
    (GSL), twice as many as there were before at most, and is updated by proximal Newton steps with backtracking. For
    more than two classes use `sklearn.multiclass.OneVsRestClassifier`, or `softmax_problem`.

    Parameters
    ----------
    alpha : float, default 1e-3
        Weight of the penalty.
    l1_ratio : float, default 1.0
        rho, between 0 and 1.
    fit_intercept : bool, default True
        Whether to fit c, which is not penalised.
    positive : bool, default False
        Whether coefficients must not be negative.
    max_iter : int, default 100
        Blocks at most.
    tol : float, default 1e-6
        Largest entry of the least subgradient to stop at, relative to that at w = 0.
    warm_start : bool, default False
        Whether to start from the coefficients of the last fit.
    verbose : bool, default False
        Whether to print a line a block.
    progress : bool, default False
        Whether to show a bar of blocks.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features)
        Coefficients w.
    intercept_ : ndarray of shape (1,)
        Constant c.
    classes_ : ndarray of shape (2,)
        The classes; the second is where the decision function is positive.
    subgradient_ : float
        Largest entry of the least subgradient.
    n_iter_ : int
        Blocks that were updated.
    history_ : dict of ndarray
        ``objective``, ``subgradient``, ``n_nonzero``, ``passes`` over all columns and ``seconds``, before each block
        and in the end.
    n_features_in_ : int
        Number of features.

    References
    ----------
    Julie Nutini, Issam Laradji, Mark Schmidt. "Let's Make Block Coordinate Descent Converge Faster". JMLR 2022.
    arXiv:1712.08859.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from paperworks.optimization import BlockCoordinateLogisticRegression
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> model = BlockCoordinateLogisticRegression(alpha=0.1).fit(X / 16, y)
    >>> int((model.coef_ != 0).sum()), round(model.score(X / 16, y), 2)
    (2, 0.98)
    """

    def __init__(
        self,
        alpha: float = 1e-3,
        *,
        l1_ratio: float = 1.0,
        fit_intercept: bool = True,
        positive: bool = False,
        max_iter: int = 100,
        tol: float = 1e-6,
        warm_start: bool = False,
        verbose: bool = False,
        progress: bool = False,
    ) -> None:
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.positive = positive
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.verbose = verbose
        self.progress = progress

    def fit(self, X: Any, y: Any) -> "BlockCoordinateLogisticRegression":
        """Fit the coefficients.

        Parameters
        ----------
        X : array_like or SciPy sparse array of shape (n_samples, n_features)
            Samples; CSC is not copied.
        y : array_like of shape (n_samples,)
            Labels of two classes.

        Returns
        -------
        BlockCoordinateLogisticRegression
            Itself.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, accept_sparse="csc", dtype=np.float64)
        check_classification_targets(y)
        classes = np.unique(y)
        if len(classes) != 2:
            raise ValueError(
                f"Only binary classification is supported: y must hold exactly two classes, got {len(classes)} "
                f"class{'es' if len(classes) != 1 else ''}: {classes[:5]}; for several, use OneVsRestClassifier"
            )
        w, c = np.zeros(X.shape[1]), 0.0
        if self.warm_start and getattr(self, "coef_", np.zeros((0, 0))).shape == (1, len(w)):
            w, c = self.coef_[0].copy(), float(self.intercept_[0])
        self.classes_ = classes
        penalty = Penalty(
            len(y) * self.alpha * self.l1_ratio, len(y) * self.alpha * (1.0 - self.l1_ratio), bool(self.positive)
        )
        model = _Model(design_of(X), np.where(y == classes[1], 1.0, -1.0), penalty, bool(self.fit_intercept), w, c)
        wanted = self._descend(model)
        if self.subgradient_ > wanted:
            warn(
                f"not converged after {self.n_iter_} blocks: subgradient {self.subgradient_:.3g}, wanted {wanted:.3g}",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def decision_function(self, X: Any) -> Array:
        """Scores of samples, positive for the second class.

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
        return np.asarray(X @ self.coef_[0]) + self.intercept_[0]

    def predict(self, X: Any) -> NDArray[Any]:
        """Classes of samples.

        Parameters
        ----------
        X : array_like or SciPy sparse array of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            The second class where the score is positive.
        """
        positive = self.decision_function(X) > 0
        return np.asarray(self.classes_[positive.astype(int)])

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes.

        Parameters
        ----------
        X : array_like or SciPy sparse array of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Sigmoids of the negative and of the positive score.
        """
        scores = self.decision_function(X)
        return np.column_stack([expit(-scores), expit(scores)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.sparse = True
        return tags

    def _check_parameters(self) -> None:
        check_number("alpha", self.alpha, above=0.0)
        check_number("l1_ratio", self.l1_ratio, at_least=0.0, at_most=1.0)
        check_integer("max_iter", self.max_iter)
        check_number("tol", self.tol, at_least=0.0)

    def _descend(self, model: "_Model") -> float:
        """Update blocks until the subgradient is small; returns how small it was to be."""
        began, n, p = perf_counter(), len(model.y), model.design.shape[1]
        size, passes = first_working_set_size(model.design), 0.0
        history: dict[str, list[float]] = {
            name: [] for name in ("objective", "subgradient", "n_nonzero", "passes", "seconds")
        }
        wanted = self.tol * model.scale() / n
        for iteration in progress_bar(range(self.max_iter + 1), "blocks", self.progress):
            slopes = model.design.correlations(model.g)
            passes += 1.0
            violation = model.violation(model.penalty.subgradient(model.w, slopes))
            n_nonzero = int(np.count_nonzero(model.w))
            row = (model.objective() / n, violation / n, n_nonzero, passes, perf_counter() - began)
            for name, value in zip(history, row, strict=True):
                history[name].append(value)
            # What is complete stays if the next block is interrupted.
            self.coef_, self.intercept_ = model.w[None].copy(), np.array([model.c])
            self.subgradient_, self.n_iter_ = violation / n, iteration
            self.history_ = {name: np.array(column) for name, column in history.items()}
            if self.verbose:
                print(f"block {iteration}: objective {row[0]:.8g}, subgradient {row[1]:.3e}, {n_nonzero} coefficients")
            if violation / n <= wanted or iteration == self.max_iter:
                break
            block = working_set(model.w, slopes, model.curvature, model.penalty, size)
            sweeps = model.update(block, max(0.03 * violation, 0.3 * wanted * n))
            passes += sweeps * len(block) / p
            size = max(size, 2 * int(np.count_nonzero(model.w)))
        return wanted


class _Model:
    """Coefficients, with scores z = X w + c and slopes g of the losses in them."""

    def __init__(self, design: Design, y: Array, penalty: Penalty, intercept: bool, w: Array, c: float) -> None:
        self.design, self.y, self.penalty, self.intercept = design, y, penalty, intercept
        self.w, self.c = w, c
        n, p = design.shape
        sums, squares = design.moments(np.arange(p), np.ones(n))
        centred = squares - sums**2 / n if intercept else squares
        self.curvature = np.where(centred > 1e-12 * squares, 0.25 * centred, 0.0) + penalty.l2
        self.z = design.predictions(np.flatnonzero(w), w[w != 0]) + c
        self.g = -y * expit(-y * self.z)
        if intercept and not w.any():
            # The best constant is known where there is nothing else.
            share = float((y > 0).mean())
            self.c = float(np.log(share / (1 - share)))
            self.z[:] = self.c
            self.g = -y * expit(-y * self.z)

    def objective(self) -> float:
        return float(np.logaddexp(0.0, -self.y * self.z).sum()) + self.penalty.value(self.w)

    def violation(self, subgradient: Array) -> float:
        constant = abs(float(self.g.sum())) if self.intercept else 0.0
        return max(float(np.abs(subgradient).max(initial=0.0)), constant)

    def scale(self) -> float:
        """Largest slope of the loss at w = 0."""
        share = float((self.y > 0).mean()) if self.intercept else 0.5
        at_zero = share - (self.y > 0).astype(np.float64)
        return float(np.abs(self.design.correlations(at_zero)).max()) or 1.0

    def update(self, block: Indices, target: float) -> int:
        """Take Newton steps over a block until its subgradient is below ``target``; returns the sweeps made."""
        sweeps = 0
        for _ in range(MAX_NEWTON_STEPS):
            before = self.w[block]
            h = np.maximum(expit(self.z) * expit(-self.z), 1e-12)
            new, v = self.w.copy(), self.g.copy()
            step, done = solve_block(
                self.design, block, new, h, v, self.penalty, self.intercept, 0.1 * target, MAX_SWEEPS
            )
            sweeps += done
            moved = self._search(block, new[block] - before, step)
            slopes = self.design.block_correlations(block, self.g)
            if not moved or self.violation(self.penalty.subgradient(self.w[block], slopes)) <= target:
                break
        return sweeps

    def _search(self, block: Indices, d: Array, step: float) -> bool:
        """Go along d, and ``step`` in the constant, as far as the objective falls enough."""
        w, along = self.w[block], self.design.predictions(block, d) + step
        penalty, at_start = self.penalty, self.penalty.value(w)
        slope = float(self.g @ along) + penalty.value(w + d) - at_start
        losses = np.logaddexp(0.0, -self.y * self.z)
        noise = 4 * np.finfo(float).eps * float(losses.sum())
        t = 1.0
        while t > 1e-10:
            candidate = w + t * d if t < 1.0 else w + d
            change = float((np.logaddexp(0.0, -self.y * (self.z + t * along)) - losses).sum())
            if change + penalty.value(candidate) - at_start <= SUFFICIENT * t * slope + noise:
                self.w[block] = candidate
                self.z += t * along
                self.c += t * step
                self.g = -self.y * expit(-self.y * self.z)
                return True
            t *= 0.5
        return False
