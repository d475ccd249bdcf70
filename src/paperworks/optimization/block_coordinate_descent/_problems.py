"""The problems: a smooth loss, a bound of its Hessian by blocks, and perhaps an l1 penalty or a sign constraint."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import expit, logsumexp, softmax

from paperworks._graphs import ROUNDING
from paperworks._validation import check_floating, check_number
from paperworks.optimization.block_coordinate_descent._matrices import (
    Array,
    Indices,
    Matrix,
    checked_matrix,
    matrix_of,
)


def least_squares_problem(A: Any, b: Any, *, l1: float = 0.0, nonnegative: bool = False) -> "LinearProblem":
    r"""Least squares, for `minimize_blocks`.

    .. math:: \min_x \tfrac12 \|A x - b\|^2 + \lambda \|x\|_1, \quad\text{perhaps with } x \ge 0.

    Parameters
    ----------
    A : array_like or SciPy sparse array of shape (n, p)
        Data; sparse data are kept by columns and by rows.
    b : array_like of shape (n,)
        Targets.
    l1 : float, default 0
        lambda.
    nonnegative : bool, default False
        Whether x must not be negative.

    Returns
    -------
    LinearProblem
        The problem.

    Raises
    ------
    ValueError
        If A or b is empty, not finite or of the wrong shape, or l1 is negative.
    TypeError
        If A or b does not hold floating-point numbers.

    References
    ----------
    Julie Nutini, Issam Laradji, Mark Schmidt. "Let's Make Block Coordinate Descent Converge Faster". JMLR 2022.
    arXiv:1712.08859.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import least_squares_problem, minimize_blocks
    >>> A = np.array([[1.0, 0.5], [0.5, 1.0], [0.0, 1.0]])
    >>> minimize_blocks(least_squares_problem(A, A @ [1.0, -2.0]), block_size=2).x.round(6)
    array([ 1., -2.])
    """
    checked = checked_matrix("A", A)
    targets = check_floating("b", b, ndim=1).astype(np.float64)
    _check_length(checked, targets)
    return LinearProblem(checked, targets, _l1(l1), bool(nonnegative), SquaredLoss())


def logistic_problem(A: Any, b: Any, *, l1: float = 0.0, nonnegative: bool = False) -> "LinearProblem":
    r"""Logistic regression of two classes, for `minimize_blocks`.

    .. math:: \min_x \sum_i \log(1 + e^{-b_i a_i^\top x}) + \lambda \|x\|_1, \quad\text{perhaps with } x \ge 0.

    Parameters
    ----------
    A : array_like or SciPy sparse array of shape (n, p)
        Data.
    b : labels, n of them
        Each -1 or 1.
    l1 : float, default 0
        lambda.
    nonnegative : bool, default False
        Whether x must not be negative.

    Returns
    -------
    LinearProblem
        The problem.

    Raises
    ------
    ValueError
        If A is empty or not finite, b is not of -1 and 1 or of the wrong length, or l1 is negative.
    TypeError
        If A does not hold floating-point numbers.

    References
    ----------
    Julie Nutini, Issam Laradji, Mark Schmidt. "Let's Make Block Coordinate Descent Converge Faster". JMLR 2022.
    arXiv:1712.08859.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import logistic_problem, minimize_blocks
    >>> A = np.array([[1.0], [2.0], [-1.0], [3.0]])
    >>> minimize_blocks(logistic_problem(A, [1, 1, -1, -1]), block_size=1).x.round(4)
    array([0.1347])
    """
    checked = checked_matrix("A", A)
    labels = _numbers("b", b)
    classes = np.unique(labels)
    if not np.isin(classes, (-1, 1)).all():
        raise ValueError(f"b must be of classes -1 and 1, got {classes[:10].tolist()}")
    _check_length(checked, labels)
    return LinearProblem(checked, labels.astype(np.float64), _l1(l1), bool(nonnegative), LogisticLoss())


def softmax_problem(A: Any, b: Any, *, l1: float = 0.0, nonnegative: bool = False) -> "LinearProblem":
    r"""Logistic regression of k classes, for `minimize_blocks`.

    .. math::
        \min_x \sum_i \Big(\log \sum_c e^{a_i^\top x_c} - a_i^\top x_{b_i}\Big) + \lambda \|x\|_1,
        \quad\text{perhaps with } x \ge 0.

    The variables are numbered feature by feature: ``x.reshape(p, k)[:, c]`` is :math:`x_c`.

    Parameters
    ----------
    A : array_like or SciPy sparse array of shape (n, p)
        Data.
    b : labels, n of them
        Classes 0, 1, ..., k - 1, each of which must occur.
    l1 : float, default 0
        lambda.
    nonnegative : bool, default False
        Whether x must not be negative.

    Returns
    -------
    LinearProblem
        The problem.

    Raises
    ------
    ValueError
        If A is empty or not finite, b is not of classes 0 to k - 1 or of the wrong length, or l1 is negative.
    TypeError
        If A does not hold floating-point numbers.

    References
    ----------
    Julie Nutini, Issam Laradji, Mark Schmidt. "Let's Make Block Coordinate Descent Converge Faster". JMLR 2022.
    arXiv:1712.08859.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import minimize_blocks, softmax_problem
    >>> problem = softmax_problem(np.eye(3), [0, 1, 2], l1=0.5)
    >>> minimize_blocks(problem, block_size=3).x.reshape(3, 3).round(4) + 0.0
    array([[0.6931, 0.    , 0.    ],
           [0.    , 0.6931, 0.    ],
           [0.    , 0.    , 0.6931]])
    """
    checked = checked_matrix("A", A)
    labels = _numbers("b", b)
    classes = np.unique(labels)
    if len(classes) < 2 or not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError(f"b must be of classes 0, 1, ..., k - 1, each of which occurs, got {classes[:10].tolist()}")
    _check_length(checked, labels)
    loss = SoftmaxLoss(len(classes))
    return LinearProblem(checked, labels.astype(np.int64), _l1(l1), bool(nonnegative), loss)


def quadratic_problem(A: Any, b: Any, *, l1: float = 0.0, nonnegative: bool = False) -> "QuadraticProblem":
    r"""A convex quadratic function, for `minimize_blocks`.

    .. math:: \min_x \tfrac12 x^\top A x - b^\top x + \lambda \|x\|_1, \quad\text{perhaps with } x \ge 0.

    Parameters
    ----------
    A : array_like or SciPy sparse array of shape (p, p)
        Symmetric positive definite; semidefinite will do where a minimum exists.
    b : array_like of shape (p,)
        Linear term.
    l1 : float, default 0
        lambda.
    nonnegative : bool, default False
        Whether x must not be negative.

    Returns
    -------
    QuadraticProblem
        The problem.

    Raises
    ------
    ValueError
        If A or b is empty, not finite or of the wrong shape, A is not symmetric or has a negative diagonal entry, or
        l1 is negative.
    TypeError
        If A or b does not hold floating-point numbers.

    References
    ----------
    Julie Nutini, Issam Laradji, Mark Schmidt. "Let's Make Block Coordinate Descent Converge Faster". JMLR 2022.
    arXiv:1712.08859.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import minimize_blocks, quadratic_problem
    >>> problem = quadratic_problem(np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([3.0, 4.0]))
    >>> minimize_blocks(problem, block_size=2).x.round(6)
    array([1., 1.])
    """
    checked = checked_matrix("A", A)
    linear = check_floating("b", b, ndim=1).astype(np.float64)
    checked_symmetric("A", checked)
    _check_length(checked, linear)
    diagonal = checked.diagonal()
    empty = np.asarray(abs(checked).sum(axis=0)).ravel() == 0
    wrong = (diagonal < 0) | ((diagonal == 0) & ~(empty & (np.abs(linear) <= l1)))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(f"A must be positive semidefinite and the minimum exist, got A[{i}, {i}] = {diagonal[i]:g}")
    return QuadraticProblem(checked, linear, _l1(l1), bool(nonnegative))


def checked_symmetric(name: str, A: Array | sp.csc_array) -> None:
    """Refuse a matrix that is not square and symmetric up to rounding."""
    if A.shape[0] != A.shape[1]:
        raise ValueError(f"{name} must be square, got shape {tuple(A.shape)}")
    apart = abs(A - A.T)
    if apart.max() > ROUNDING * abs(A).max():
        at = np.unravel_index(int(np.argmax(apart)), apart.shape) if not sp.issparse(apart) else _largest(apart)
        i, j = (int(each) for each in at)
        raise ValueError(f"{name} must be symmetric, got {A[i, j]:g} at ({i}, {j}) and {A[j, i]:g} at ({j}, {i})")


def _largest(matrix: Any) -> tuple[int, int]:
    entries = sp.coo_array(matrix)
    place = int(np.argmax(entries.data))
    return int(entries.coords[0][place]), int(entries.coords[1][place])


def _numbers(name: str, labels: Any) -> NDArray[Any]:
    array = np.asarray(labels)
    if array.dtype.kind not in "iufb":
        raise TypeError(f"{name} must hold numbers, got {array.dtype}")
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} must have 1 dimension and not be empty, got shape {array.shape}")
    return array


def _l1(value: float) -> float:
    return check_number("l1", value, at_least=0.0)


def _check_length(A: Any, b: NDArray[Any]) -> None:
    if A.shape[0] != len(b):
        raise ValueError(f"b must have length {A.shape[0]}, the number of rows of A, got {len(b)}")


class Loss(Protocol):
    """Loss of a row as a function of its k predictions."""

    @property
    def k(self) -> int:
        """Predictions a row."""

    @property
    def quadratic(self) -> bool:
        """Whether its Hessian is constant."""

    def values(self, Z: Array, b: Any) -> Array:
        """Losses of rows."""

    def slopes(self, Z: Array, b: Any) -> Array:
        """Gradients in the predictions, of shape (rows, k)."""

    def bound(self, classes: Indices) -> Any:
        """Factors by which the entries of A_b' A_b bound the Hessian of a block."""

    def hessian(self, columns: Array, Z: Array, b: Any, classes: Indices) -> Array:
        """Hessian of a block with these columns of A."""


class SquaredLoss:
    """Half the square of prediction minus target."""

    k, quadratic = 1, True

    def values(self, Z: Array, b: Array) -> Array:
        return 0.5 * (Z[:, 0] - b) ** 2

    def slopes(self, Z: Array, b: Array) -> Array:
        return Z - b[:, None]

    def bound(self, classes: Indices) -> float:
        return 1.0

    def hessian(self, columns: Array, Z: Array, b: Array, classes: Indices) -> Array:
        return columns.T @ columns


class LogisticLoss:
    """log(1 + exp(-b z))."""

    k, quadratic = 1, False

    def values(self, Z: Array, b: Array) -> Array:
        return np.logaddexp(0.0, -b * Z[:, 0])

    def slopes(self, Z: Array, b: Array) -> Array:
        return (-b * expit(-b * Z[:, 0]))[:, None]

    def bound(self, classes: Indices) -> float:
        return 0.25

    def hessian(self, columns: Array, Z: Array, b: Array, classes: Indices) -> Array:
        weights = expit(Z[:, 0]) * expit(-Z[:, 0])
        return columns.T @ (weights[:, None] * columns)


@dataclass(frozen=True)
class SoftmaxLoss:
    """Log of the sum of exponentials, less the prediction of the right class."""

    k: int
    quadratic: bool = False

    def values(self, Z: Array, b: Indices) -> Array:
        return logsumexp(Z, axis=1) - Z[np.arange(len(Z)), b]

    def slopes(self, Z: Array, b: Indices) -> Array:
        slopes = softmax(Z, axis=1)
        slopes[np.arange(len(Z)), b] -= 1.0
        return slopes

    def bound(self, classes: Indices) -> Array:
        # Boehning's bound; classes outside the block count as one, which keeps it valid and makes it tighter.
        k = min(self.k, len(np.unique(classes)) + 1)
        return 0.5 * ((classes[:, None] == classes) - 1.0 / k)

    def hessian(self, columns: Array, Z: Array, b: Indices, classes: Indices) -> Array:
        weighted = softmax(Z, axis=1)[:, classes] * columns
        return (classes[:, None] == classes) * (columns.T @ weighted) - weighted.T @ weighted


@dataclass(frozen=True)
class LinearProblem:
    """A sum over rows of a loss of A x, as the functions of this module make it.

    Attributes
    ----------
    A, b
        Data and targets.
    l1 : float
        Weight of the l1 penalty.
    nonnegative : bool
        Whether x must not be negative.
    loss : Loss
        Loss of a row.
    """

    A: Any
    b: NDArray[Any]
    l1: float
    nonnegative: bool
    loss: Loss = field(repr=False)

    @cached_property
    def matrix(self) -> Matrix:
        return matrix_of(self.A)

    @property
    def n_variables(self) -> int:
        return int(self.A.shape[1]) * self.loss.k

    @property
    def quadratic(self) -> bool:
        return self.loss.quadratic

    @cached_property
    def lipschitz(self) -> Array:
        """L_i, bounds of the diagonal of the Hessian."""
        factor = self.loss.bound(np.zeros(1, dtype=np.int64))
        return np.repeat(self.matrix.square_sums() * np.ravel(factor)[0], self.loss.k)

    @cached_property
    def dominating_diagonal(self) -> Array:
        """D with D - H positive semidefinite: row sums of a bound of |H|, by |A|'|A|."""
        k = self.loss.k
        factor = self.loss.bound(np.zeros(1, dtype=np.int64)) if k == 1 else 1.0 - 1.0 / k
        return np.repeat(self.matrix.absolute_sums() * factor, k)

    def bound(self, block: Indices) -> Array:
        """H_b, an upper bound of the Hessian of a block."""
        features, classes = np.divmod(block, self.loss.k)
        columns = self.matrix.columns(features)[1]
        return self.loss.bound(classes) * (columns.T @ columns)

    def bound_product(self, d: Array) -> Array:
        """H d for the bound of the whole Hessian."""
        D = d.reshape(-1, self.loss.k)
        Z = self.matrix.product(D)
        if self.loss.k > 1:
            Z = 0.5 * (Z - Z.mean(axis=1, keepdims=True))
        else:
            Z = self.loss.bound(np.zeros(1, dtype=np.int64)) * Z
        return np.asarray(self.matrix.transposed(Z)).ravel()

    def start(self, x: Array) -> "LinearState":
        return LinearState(self, x)


class LinearState:
    """x with predictions and the gradient, which are kept up to date block by block."""

    def __init__(self, problem: LinearProblem, x: Array) -> None:
        self.problem, self.x = problem, x.copy()
        self._at: tuple[Indices, Any, Array] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Compute predictions and gradient anew, free of the rounding of updates."""
        problem = self.problem
        self.Z = np.asarray(problem.matrix.product(self.x.reshape(-1, problem.loss.k)))
        self.W = problem.loss.slopes(self.Z, problem.b)
        self._G = np.ascontiguousarray(problem.matrix.transposed(self.W))
        self.gradient = self._G.reshape(-1)

    def value(self) -> float:
        return float(self.problem.loss.values(self.Z, self.problem.b).sum())

    def hessian(self, block: Indices) -> Array:
        """Hessian of a block at x."""
        rows, columns = self._columns(block)
        problem = self.problem
        return problem.loss.hessian(columns, self.Z[rows], problem.b[rows], block % problem.loss.k)

    def change(self, block: Indices, d: Array) -> float:
        """f(x + d) - f(x) of the smooth part, for a step d of a block."""
        rows, step = self._step(block, d)
        Z, b, loss = self.Z[rows], self.problem.b[rows], self.problem.loss
        if loss.quadratic:
            return float((step * (self.W[rows] + 0.5 * step)).sum())
        return float((loss.values(Z + step, b) - loss.values(Z, b)).sum())

    def move(self, block: Indices, d: Array) -> None:
        rows, step = self._step(block, d)
        self.x[block] += d
        self.Z[rows] += step
        slopes = self.problem.loss.slopes(self.Z[rows], self.problem.b[rows])
        self.problem.matrix.add_transposed(rows, slopes - self.W[rows], self._G)
        self.W[rows] = slopes

    def _columns(self, block: Indices) -> tuple[Any, Array]:
        if self._at is None or self._at[0] is not block:
            self._at = (block, *self.problem.matrix.columns(block // self.problem.loss.k))
        return self._at[1:]

    def _step(self, block: Indices, d: Array) -> tuple[Any, Array]:
        """Rows whose predictions change, and by how much."""
        rows, columns = self._columns(block)
        k = self.problem.loss.k
        if k == 1:
            return rows, (columns @ d)[:, None]
        spread = np.zeros((len(block), k))
        spread[np.arange(len(block)), block % k] = d
        return rows, columns @ spread


@dataclass(frozen=True)
class QuadraticProblem:
    """x' A x / 2 - b' x, as `quadratic_problem` makes it.

    Attributes
    ----------
    A, b
        Symmetric matrix and linear term.
    l1 : float
        Weight of the l1 penalty.
    nonnegative : bool
        Whether x must not be negative.
    """

    A: Any
    b: Array
    l1: float
    nonnegative: bool
    quadratic = True

    @property
    def n_variables(self) -> int:
        return int(self.A.shape[0])

    @cached_property
    def lipschitz(self) -> Array:
        return np.array(self.A.diagonal())

    @cached_property
    def dominating_diagonal(self) -> Array:
        return np.asarray(abs(self.A).sum(axis=0)).ravel()

    @cached_property
    def rows(self) -> Any:
        """A as CSR, or the dense A; what is CSC and symmetric need not be copied."""
        return sp.csr_array((self.A.data, self.A.indices, self.A.indptr), self.A.shape) if self.sparse else self.A

    @property
    def sparse(self) -> bool:
        return bool(sp.issparse(self.A))

    def part(self, block: Indices) -> Any:
        """A_bb, sparse where A is."""
        return self.rows[block][:, block]

    def bound(self, block: Indices) -> Array:
        part = self.part(block)
        return part.toarray() if self.sparse else np.asarray(part)

    def bound_product(self, d: Array) -> Array:
        return np.asarray(self.rows @ d)

    def start(self, x: Array) -> "QuadraticState":
        return QuadraticState(self, x)


class QuadraticState:
    """x with the gradient A x - b, which is kept up to date block by block."""

    def __init__(self, problem: QuadraticProblem, x: Array) -> None:
        self.problem, self.x = problem, x.copy()
        self.refresh()

    def refresh(self) -> None:
        self.gradient = np.asarray(self.problem.rows @ self.x) - self.problem.b

    def value(self) -> float:
        return float(0.5 * self.x @ (self.gradient - self.problem.b))

    def hessian(self, block: Indices) -> Array:
        return self.problem.bound(block)

    def change(self, block: Indices, d: Array) -> float:
        part = self.problem.part(block)
        return float(d @ (self.gradient[block] + 0.5 * (part @ d)))

    def move(self, block: Indices, d: Array) -> None:
        self.x[block] += d
        # A is symmetric: its rows are its columns.
        self.gradient += d @ self.problem.rows[block]


Problem = LinearProblem | QuadraticProblem
State = LinearState | QuadraticState
