"""Finite sums of operators: a user's own, and those of least squares, saddle points and matrix games."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from paperworks._validation import check_floating, check_integer, check_number, check_weights

Vector = NDArray[np.floating]
Indices = NDArray[np.integer]

# Largest number of unknowns whose cocoercivity is computed; beyond it a bound is taken.
LARGEST_EIGENPROBLEM = 2000


@dataclass(frozen=True)
class FiniteSumOperator:
    r"""A monotone operator that is the mean of many.

    .. math:: F(u) = \frac1n \sum_{i=1}^n F_i(u).

    Parameters
    ----------
    full : callable
        ``full(u)`` is F(u), of shape (dimension,).
    batch : callable
        ``batch(u, indices)`` is the mean of the components at an array of indices, of shape (dimension,); with
        ``probabilities`` q the mean of :math:`F_i(u) / (n q_i)`, which is unbiased when indices are drawn from q.
    n_components : int
        Their number n; a full evaluation counts as n calls.
    dimension : int
        Number of unknowns.
    lipschitz : float, optional
        L with :math:`\frac1n\sum_i \|F_i(u) - F_i(v)\|^2 \le L^2 \|u - v\|^2`; with probabilities, of the expectation
        of what ``batch`` averages.
    cocoercivity : float, optional
        1/L with :math:`\langle F(u) - F(v), u - v\rangle \ge \frac1L \frac1n \sum_i \|F_i(u) - F_i(v)\|^2`, if F has
        such a constant, as gradients of convex functions do.
    probabilities : array_like, optional
        How often each component is drawn, of shape (n_components,); all alike when None.
    full_lipschitz : float, optional
        Lipschitz constant of F itself, at most L, which deterministic methods go by; L when None.

    Raises
    ------
    TypeError
        If ``full`` or ``batch`` can't be called.
    ValueError
        If a constant is not positive, or the probabilities are not nonnegative numbers with a positive sum.

    References
    ----------
    Xufeng Cai, Ahmet Alacaoglu, Jelena Diakonikolas. "Variance Reduced Halpern Iteration for Finite-Sum Monotone
    Inclusions". ICLR 2024. arXiv:2310.02987.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import FiniteSumOperator, halpern_iteration
    >>> centres = np.random.default_rng(0).normal(size=(100, 3))
    >>> operator = FiniteSumOperator(
    ...     full=lambda u: u - centres.mean(axis=0),
    ...     batch=lambda u, indices: u - centres[indices].mean(axis=0),
    ...     n_components=100,
    ...     dimension=3,
    ...     cocoercivity=1.0,
    ... )
    >>> result = halpern_iteration(operator, np.zeros(3), tolerance=1e-3, random_state=0)
    >>> bool(np.linalg.norm(result.x - centres.mean(axis=0)) < 1.001e-3)
    True
    """

    full: Callable[[Vector], Vector]
    batch: Callable[[Vector, Indices], Vector]
    n_components: int
    dimension: int
    lipschitz: float | None = None
    cocoercivity: float | None = None
    probabilities: Any = None
    full_lipschitz: float | None = None
    _cumulated: NDArray[np.float64] | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        for name in ("full", "batch"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be callable, got {type(getattr(self, name)).__name__}")
        for name in ("n_components", "dimension"):
            check_integer(name, getattr(self, name))
        for name in ("lipschitz", "cocoercivity", "full_lipschitz"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), above=0.0)
        if self.probabilities is not None:
            weights = check_weights("probabilities", self.probabilities, self.n_components)
            object.__setattr__(self, "probabilities", weights / weights.sum())
            object.__setattr__(self, "_cumulated", np.cumsum(weights))

    def draw(self, generator: np.random.Generator, size: int) -> Indices:
        """Draw components with replacement.

        Parameters
        ----------
        generator : Generator
            Source of randomness.
        size : int
            How many.

        Returns
        -------
        ndarray of int
            Their indices, along the first axis.
        """
        if self._cumulated is None:
            return generator.integers(self.n_components, size=size)
        return draw_from(self._cumulated, generator, size)


@dataclass(frozen=True)
class BilinearOperator(FiniteSumOperator):
    r"""The operator :math:`(A y, -A^\top x)` of a bilinear function :math:`x^\top A y`.

    A component is a row i and a column j of A, drawn independently with probabilities :math:`r_i` and :math:`c_j` in
    proportion to their squared norms: :math:`(A_{:j}\, y_j / c_j,\; -A_{i:}\, x_i / r_i)`. L is then the Frobenius
    norm. As many components count as a full evaluation as cost as much.
    """

    matrix: Vector = field(kw_only=True)
    transposed: Vector = field(kw_only=True)
    row_weights: Vector = field(kw_only=True)
    column_weights: Vector = field(kw_only=True)

    def draw(self, generator: np.random.Generator, size: int) -> Indices:
        """Draw pairs of a row and a column, of shape (size, 2)."""
        cumulated = (np.cumsum(1 / weights) for weights in (self.row_weights, self.column_weights))
        return np.stack([draw_from(each, generator, size) for each in cumulated], axis=1)


def draw_from(cumulated: NDArray[np.float64], generator: np.random.Generator, size: int) -> Indices:
    """Draw indices by their cumulated weights, never one without weight."""
    return cumulated.searchsorted(generator.random(size) * cumulated[-1], side="right")


@dataclass(frozen=True)
class SimplexProjection:
    """Projection of (x, y) onto a product of two probability simplices, the resolvent of its normal cone."""

    n_rows: int

    def __call__(self, v: Vector, step_size: float) -> Vector:
        projected = np.array(v)
        project_to_simplex(projected[: self.n_rows])
        project_to_simplex(projected[self.n_rows :])
        return projected


@njit(cache=True, nogil=True)
def project_to_simplex(v):
    """Replace a vector by the nearest one with nonnegative entries that sum to one, by dropping the negative ones."""
    left = len(v)
    total = 0.0
    for i in range(len(v)):
        total += v[i]
    shift = (total - 1) / left
    while True:
        total, count = 0.0, 0
        for i in range(len(v)):
            if v[i] > shift:
                total += v[i]
                count += 1
        # Only rounding can leave nothing above the shift, among equal entries.
        if count == 0 or count == left:
            break
        left, shift = count, (total - 1) / count
    for i in range(len(v)):
        v[i] = max(v[i] - shift, 0.0)


def least_squares_operator(A: Any, b: Any) -> FiniteSumOperator:
    r"""Gradient of the mean of halved squared residuals.

    .. math:: F_i(u) = (a_i^\top u - b_i)\, a_i, \qquad F(u) = \nabla \frac{1}{2n} \|A u - b\|^2.

    Parameters
    ----------
    A : array_like of shape (n, d)
        Rows :math:`a_i`, floating point.
    b : array_like of shape (n,)
        Right-hand sides.

    Returns
    -------
    FiniteSumOperator
        With the largest cocoercivity that the rows allow (for more than 2,000 unknowns, the reciprocal of the largest
        squared norm of a row).

    Raises
    ------
    ValueError
        If A is zero, or the shapes don't fit.
    TypeError
        If the arrays don't hold floating-point numbers.

    References
    ----------
    Xufeng Cai, Ahmet Alacaoglu, Jelena Diakonikolas. "Variance Reduced Halpern Iteration for Finite-Sum Monotone
    Inclusions". ICLR 2024. arXiv:2310.02987.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import halpern_iteration, least_squares_operator
    >>> A, b = np.eye(2), np.array([1.0, 2.0])
    >>> halpern_iteration(least_squares_operator(A, b), np.zeros(2), tolerance=1e-2, random_state=0).x.round(1)
    array([1., 2.])
    """
    rows = np.ascontiguousarray(check_floating("A", A, ndim=2))
    n, d = rows.shape
    values = check_floating("b", b, ndim=1).astype(rows.dtype, copy=False)
    if len(values) != n:
        raise ValueError(f"b must have one entry a row of A, got {len(values)} for {n} rows")
    if not rows.any():
        raise ValueError("A must not be zero")
    constant, full_lipschitz = _constants_of_least_squares(rows.astype(np.float64, copy=False))

    def full(u: Vector) -> Vector:
        return np.asarray((rows @ u - values) @ rows / n)

    def batch(u: Vector, indices: Indices) -> Vector:
        return np.asarray(_mean_of_rows(rows, values, u, indices))

    return FiniteSumOperator(full, batch, n, d, constant, 1 / constant, full_lipschitz=full_lipschitz)


def _constants_of_least_squares(rows: NDArray[np.float64]) -> tuple[float, float]:
    """Return L, the largest eigenvalue of mean(|a|^2 a a') relative to H = mean(a a'), and the largest one of H."""
    n, d = rows.shape
    squares = np.einsum("ij,ij->i", rows, rows)
    if d > LARGEST_EIGENPROBLEM:
        return float(squares.max()), float(np.linalg.norm(rows, 2) ** 2 / n)
    values, vectors = np.linalg.eigh(rows.T @ rows / n)
    kept = values > 1e-12 * values[-1]
    whitened = rows @ (vectors[:, kept] / np.sqrt(values[kept]))
    return float(np.linalg.eigvalsh((whitened.T * squares) @ whitened / n)[-1]), float(values[-1])


@njit(cache=True, nogil=True)
def _mean_of_rows(rows, values, u, indices):
    total = np.zeros_like(u)
    for t in range(len(indices)):
        row = rows[indices[t]]
        residual = np.dot(row, u) - values[indices[t]]
        for j in range(len(u)):
            total[j] += residual * row[j]
    return total / np.asarray(len(indices), dtype=u.dtype)


def bilinear_saddle(A: Any) -> FiniteSumOperator:
    r"""Operator of a saddle point, with no constraint.

    .. math:: \min_x \max_y\; x^\top A y, \qquad F(x, y) = (A y,\; -A^\top x).

    Parameters
    ----------
    A : array_like of shape (m, k)
        The matrix, floating point. Unknowns are u = (x, y) with m + k entries.

    Returns
    -------
    FiniteSumOperator
        Monotone and not cocoercive; L is the Frobenius norm of A, that of F itself the spectral norm.

    Raises
    ------
    ValueError
        If A is zero.
    TypeError
        If A does not hold floating-point numbers.

    References
    ----------
    Xufeng Cai, Ahmet Alacaoglu, Jelena Diakonikolas. "Variance Reduced Halpern Iteration for Finite-Sum Monotone
    Inclusions". ICLR 2024. arXiv:2310.02987.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import bilinear_saddle
    >>> bilinear_saddle(np.array([[3.0, 4.0]])).full(np.array([1.0, 1.0, 1.0]))
    array([ 7., -3., -4.])
    """
    matrix = np.ascontiguousarray(check_floating("A", A, ndim=2))
    m, k = matrix.shape
    if not matrix.any():
        raise ValueError("A must not be zero")
    transposed = np.ascontiguousarray(matrix.T)
    squared = np.square(matrix, dtype=np.float64)
    rows, columns = squared.sum(axis=1), squared.sum(axis=0)
    with np.errstate(divide="ignore"):
        row_weights, column_weights = rows.sum() / rows, columns.sum() / columns

    def full(u: Vector) -> Vector:
        return np.concatenate([matrix @ u[m:], -(transposed @ u[:m])])

    def batch(u: Vector, pairs: Indices) -> Vector:
        value = np.zeros(m + k, dtype=u.dtype)
        _add_components(matrix, transposed, u, pairs, row_weights, column_weights, value)
        return value

    frobenius = float(np.sqrt(squared.sum()))
    return BilinearOperator(
        full,
        batch,
        max(1, round(2 * m * k / (m + k))),
        m + k,
        frobenius,
        full_lipschitz=float(np.linalg.norm(matrix.astype(np.float64, copy=False), 2)),
        matrix=matrix,
        transposed=transposed,
        row_weights=row_weights,
        column_weights=column_weights,
    )


@njit(cache=True, nogil=True)
def _add_components(matrix, transposed, u, pairs, row_weights, column_weights, value):
    m, k = matrix.shape
    for t in range(len(pairs)):
        i, j = pairs[t, 0], pairs[t, 1]
        of_x, of_y = u[i] * row_weights[i] / len(pairs), u[m + j] * column_weights[j] / len(pairs)
        for a in range(m):
            value[a] += of_y * transposed[j, a]
        for a in range(k):
            value[m + a] -= of_x * matrix[i, a]


def matrix_game(A: Any) -> tuple[FiniteSumOperator, Callable[[Vector, float], Vector]]:
    r"""Operator and resolvent of a matrix game.

    .. math:: \min_{x \in \Delta_m} \max_{y \in \Delta_k}\; x^\top A y,

    for mixed strategies x and y, vectors of probabilities: x pays y the entry of A.

    Parameters
    ----------
    A : array_like of shape (m, k)
        Payoffs to the player of the columns, floating point. Unknowns are u = (x, y) with m + k entries.

    Returns
    -------
    operator : FiniteSumOperator
        As of `bilinear_saddle`.
    resolvent : callable
        ``resolvent(v, step_size)``, the projection onto the two simplices.

    Raises
    ------
    ValueError
        If A is zero.
    TypeError
        If A does not hold floating-point numbers.

    References
    ----------
    Xufeng Cai, Ahmet Alacaoglu, Jelena Diakonikolas. "Variance Reduced Halpern Iteration for Finite-Sum Monotone
    Inclusions". ICLR 2024. arXiv:2310.02987.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import halpern_iteration, matrix_game
    >>> operator, resolvent = matrix_game(np.array([[2.0, -1.0], [-1.0, 1.0]]))
    >>> result = halpern_iteration(
    ...     operator, np.full(4, 0.5), resolvent=resolvent, tolerance=1e-4, max_oracle_calls=10**6, random_state=0
    ... )
    >>> result.x.round(2)
    array([0.4, 0.6, 0.4, 0.6])
    """
    operator = bilinear_saddle(A)
    return operator, SimplexProjection(np.shape(A)[0])
