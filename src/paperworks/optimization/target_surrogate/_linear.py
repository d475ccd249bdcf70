"""Linear models, whose inner steps need the batch's Gram matrix alone."""

from collections.abc import Callable, Iterator
from math import isfinite
from time import perf_counter
from typing import Any, Literal
from warnings import warn

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit, log_softmax, softmax
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from paperworks._progress import progress_bar
from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.optimization.target_surrogate._descent import (
    FIRST_STEP,
    GROW,
    SHRINK,
    SUFFICIENT_DECREASE,
    shrinks,
)
from paperworks.optimization.target_surrogate._schedules import (
    Schedule,
    check_schedule,
    decay,
    searched_step_size,
    warn_of_a_long_step,
)

Array = NDArray[np.floating]
Loss = Callable[[Array, Array], tuple[Array, Array]]
# Norm of the surrogate's gradient at which inner steps end, unless `tol` asks for more.
INNER_TOLERANCE = 1e-6


def logistic(z: Array, target: Array) -> tuple[Array, Array]:
    """Loss of each row and its gradient, of one output z and labels -1 and 1."""
    return np.logaddexp(0, -target * z)[:, 0], -target * expit(-target * z)


def softmax_cross_entropy(z: Array, target: Array) -> tuple[Array, Array]:
    return -(target * log_softmax(z, axis=1)).sum(1), softmax(z, axis=1) - target


def half_squared_error(z: Array, target: Array) -> tuple[Array, Array]:
    return ((z - target) ** 2).sum(1) / 2, z - target


def log_cosh(z: Array, target: Array) -> tuple[Array, Array]:
    away = np.abs(z - target)
    return (away + np.log1p(np.exp(-2 * away)) - np.log(2)).sum(1).astype(z.dtype), np.tanh(z - target)


# Each loss with its smoothness in the outputs.
SMOOTHNESS: dict[Loss, float] = {
    logistic: 0.25,
    softmax_cross_entropy: 0.5,
    half_squared_error: 1.0,
    log_cosh: 1.0,
}


class Batch:
    """Rows of a batch and what their surrogates need of them."""

    def __init__(self, X: Any, n_products: int) -> None:
        self.X, self.n = X, X.shape[0]
        d = X.shape[1]
        # The Gram matrix costs n d^2 once and then d^2 a product, which the rows themselves can do for 2 n d.
        self.gram = _dense(X.T @ X) / self.n if d <= self.n and d <= 2 * n_products else None
        self._solve: Callable[[Array], Array] | None = None

    def product(self, D: Array) -> Array:
        """X^T X D / n."""
        return self.gram @ D if self.gram is not None else self.X.T @ (self.X @ D) / self.n

    def exact(self, g: Array) -> Array:
        """Least-norm least-squares solution of X D = g, by the eigenvectors of the smaller of X^T X and X X^T."""
        if self._solve is None:
            tall = self.n >= self.X.shape[1]
            values, vectors = np.linalg.eigh(_dense(self.X.T @ self.X if tall else self.X @ self.X.T))
            kept = values > values[-1] * len(values) * np.finfo(values.dtype).eps
            vectors, inverse = vectors[:, kept], 1 / values[kept, None]

            def pseudo_inverse(right: Array) -> Array:
                return vectors @ (inverse * (vectors.T @ right))

            self._solve = (lambda g: pseudo_inverse(self.X.T @ g)) if tall else (lambda g: self.X.T @ pseudo_inverse(g))
        return self._solve(g)


def _dense(matrix: Any) -> Array:
    return matrix.toarray() if sparse.issparse(matrix) else matrix


def _armijo_on_rows(
    batch: Batch, slope: Array, eta: float, n_steps: int, tolerance: float, growth: float
) -> tuple[Array, int]:
    r"""Change of the weights by gradient descent with Armijo backtracking on the surrogate, and the steps taken.

    The surrogate is :math:`\langle C, D \rangle + \langle D, G D \rangle / (2 \eta)` in the change D, with the slope C
    and the Gram matrix G, so that the step at which backtracking ends is known without a trial, and the next gradient
    without a product of its own.
    """
    change, gradient, step = np.zeros_like(slope), slope, FIRST_STEP
    for taken in range(n_steps):
        square = float((gradient * gradient).sum())
        if square**0.5 <= tolerance:
            return change, taken
        moved = batch.product(gradient) / eta
        curvature = float((gradient * moved).sum())
        if curvature <= 0:
            return change, taken
        step *= SHRINK ** shrinks(step, 2 * (1 - SUFFICIENT_DECREASE) * square / curvature)
        change = change - step * gradient
        gradient = gradient - step * moved
        step *= growth
    return change, n_steps


class LinearTargetSurrogate(BaseEstimator):
    """What the classifier and the regressor share: a fit of weights W of shape (n_features + 1, m)."""

    _weights: Array
    inner_steps: int
    batch_size: int | None
    step_size: float | None
    schedule: Schedule
    line_search: bool
    inner: Literal["armijo", "exact"]
    max_iter: int
    tol: float
    fit_intercept: bool
    warm_start: bool
    random_state: RandomState
    progress: bool
    verbose: bool

    def _check_parameters(self) -> None:
        check_integer("inner_steps", self.inner_steps)
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size)
        if self.step_size is not None:
            check_number("step_size", self.step_size, above=0.0)
        check_schedule(self.schedule, 1)
        check_choice("inner", self.inner, ("armijo", "exact"))
        check_integer("max_iter", self.max_iter)
        check_number("tol", self.tol, at_least=0.0)

    def _rows(self, X: Any, y: Any, reset: bool, **checks: Any) -> tuple[Any, Any]:
        """Checked rows with the constant appended, and labels or targets."""
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], reset=reset, **checks)
        return self._with_constant(X), y

    def _with_constant(self, X: Any) -> Any:
        if not self.fit_intercept:
            return X
        constant = np.ones((X.shape[0], 1), dtype=X.dtype)
        return sparse.hstack([X, constant], format="csr") if sparse.issparse(X) else np.hstack([X, constant])

    def _start(self, X: Any, n_outputs: int, keep: bool) -> None:
        if not keep:
            self._weights = np.zeros((X.shape[1], n_outputs), dtype=X.dtype)
            self.n_target_gradients_ = self.n_inner_steps_ = 0
            self._eta: float | None = None

    def _fit(self, X: Any, target: Array, loss: Loss) -> None:
        """Go over the rows until the gradient of the mean loss is small."""
        n = X.shape[0]
        size = n if self.batch_size is None else min(self.batch_size, n)
        n_batches = -(-n // size)
        if size == n and self.step_size is not None and self.step_size * SMOOTHNESS[loss] > 1 + 1e-12:
            warn_of_a_long_step(self.step_size, 1 / SMOOTHNESS[loss], stacklevel=3)
        batches = self._batches(X, size, n_batches)
        names = ("target_gradients", "seconds", "loss", "gradient")
        paths: dict[str, list[float]] = {name: [] for name in names}
        begin, self.converged_ = perf_counter(), False
        for n_iter in progress_bar(range(self.max_iter + 1), "target surrogate", self.progress):
            self.n_iter_ = n_iter
            value, g = self._loss(loss, X @ self._weights, target)
            norm = float(abs(X.T @ g).max()) / n
            found = (self.n_target_gradients_, perf_counter() - begin, value, norm)
            for path, entry in zip(paths.values(), found, strict=True):
                path.append(entry)
            self.history_ = {name: np.array(path) for name, path in paths.items()}
            if self.verbose:
                print(f"pass {n_iter}: loss {value:.6g}, largest gradient {norm:.3g}")
            self.converged_ = norm <= self.tol
            if self.converged_ or n_iter == self.max_iter:
                break
            for rows, batch in next(batches):
                known = (value, g) if size == n else None
                self._step(batch, target[rows], loss, n_batches, known)
        if not self.converged_:
            warn(
                f"not converged: largest gradient {norm:.3g} is above tol={self.tol:g} after max_iter={self.max_iter} "
                "passes",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _batches(self, X: Any, size: int, n_batches: int) -> Iterator[Iterator[tuple[Any, Batch]]]:
        """Passes over the rows in a new order each; of all rows at once there is just one batch, made once."""
        if n_batches == 1:
            whole = Batch(X, self.inner_steps * self.max_iter)
            while True:
                yield iter([(slice(None), whole)])
        generator = numpy_generator(self.random_state)
        while True:
            order = generator.permutation(X.shape[0])
            parts = (order[first : first + size] for first in range(0, len(order), size))
            yield ((rows, Batch(X[rows], self.inner_steps)) for rows in parts)

    def _step(
        self, batch: Batch, target: Array, loss: Loss, n_batches: int, known: tuple[float, Array] | None = None
    ) -> None:
        """One target gradient, which may be known, and the inner steps; complete or not at all."""
        z = batch.X @ self._weights
        value, g = known or self._loss(loss, z, target)
        eta = self._eta or self.step_size or 1 / SMOOTHNESS[loss]
        if self.line_search:
            eta = searched_step_size(lambda at: float(loss(at, target)[0].mean()), z, g, value, eta)
        total = self.max_iter * n_batches
        now = eta * decay(self.schedule, self.n_target_gradients_ + 1, total)
        if self.inner == "exact":
            change, taken = -now * batch.exact(g), 1
        else:
            growth = GROW ** (1 / n_batches)
            tolerance = min(INNER_TOLERANCE, self.tol / 10)
            change, taken = _armijo_on_rows(batch, batch.X.T @ g / batch.n, now, self.inner_steps, tolerance, growth)
        self._weights = self._weights + change
        self._eta = eta if self.line_search else None
        self.n_target_gradients_ += 1
        self.n_inner_steps_ += taken

    def _loss(self, loss: Loss, z: Array, target: Array) -> tuple[float, Array]:
        losses, g = loss(z, target)
        value = float(losses.mean())
        if not isfinite(value):
            raise FloatingPointError(f"loss is {value} at step {self.n_target_gradients_ + 1}: lower step_size")
        return value, g

    @property
    def coef_(self) -> Array:
        """Weights of the features, of shape (m, n_features)."""
        check_is_fitted(self, "_weights")
        return self._weights[: self.n_features_in_].T

    @property
    def intercept_(self) -> Array:
        """Constants, of shape (m,); zero without."""
        check_is_fitted(self, "_weights")
        if self.fit_intercept:
            return self._weights[-1]
        return np.zeros(self._weights.shape[1], dtype=self._weights.dtype)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_weights")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        return np.asarray(X @ self.coef_.T.astype(X.dtype) + self.intercept_.astype(X.dtype))
