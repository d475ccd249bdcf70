"""Preconditioners that are built for each system of a sequence."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import NDArray
from scipy.sparse.linalg import spilu

from paperworks._validation import check_choice, check_integer
from paperworks.linalg._systems import check_matrix

Array = NDArray[Any]
Kind = Literal["jacobi", "block_jacobi", "ssor", "ilu", "ic"]
KINDS = ("jacobi", "block_jacobi", "ssor", "ilu", "ic")
Preconditioner = Kind | Callable[[sp.csr_array], Any] | None

# What spilu drops, and how much it may fill in: about as many entries again as the matrix has.
DROP_TOLERANCE, FILL_FACTOR = 1e-3, 5.0


def build_preconditioner(A: Any, kind: Kind, *, block_size: int = 32) -> Any:
    r"""Build an approximate inverse of a sparse matrix A = L + D + U, with strict triangles L and U.

    .. math:: M \approx A^{-1}.

    Parameters
    ----------
    A : sparse matrix or ndarray of shape (n, n)
        The matrix, floating point, real or complex.
    kind : {"jacobi", "block_jacobi", "ssor", "ilu", "ic"}
        The inverse of D; the inverses of dense blocks along the diagonal; one symmetric sweep of Gauss-Seidel,
        :math:`(D + U)^{-1} D (D + L)^{-1}`; SciPy's incomplete LU factors; or incomplete Cholesky factors without
        fill, for Hermitian positive definite matrices.
    block_size : int, default 32
        Unknowns of a block, for "block_jacobi".

    Returns
    -------
    object
        ``M @ v`` applies it to a vector or to columns; SciPy's solvers take it as their M, too.

    Raises
    ------
    ValueError
        If the matrix is not square and finite, has a zero on the diagonal or a singular block where that must be
        inverted, or is not Hermitian positive definite for "ic".
    TypeError
        If it holds no floating-point numbers.

    References
    ----------
    Yousef Saad. "Iterative Methods for Sparse Linear Systems", chapter 10. SIAM 2003.

    Examples
    --------
    >>> from paperworks.linalg import build_preconditioner, darcy_systems, gcro_dr
    >>> (A,), (b,), _ = darcy_systems(1, 24, random_state=0)
    >>> plain, ssor = (gcro_dr(A, b, M=M)[2].matvecs for M in (None, build_preconditioner(A, "ssor")))
    >>> ssor < plain / 2
    True
    """
    check_choice("kind", kind, KINDS)
    matrix = check_matrix("A", A)
    if kind == "jacobi":
        return _Jacobi(1 / _diagonal(matrix), matrix.shape)
    if kind == "block_jacobi":
        return _BlockJacobi(_inverted_blocks(matrix, check_integer("block_size", block_size)), matrix.shape)
    if kind == "ilu":
        return _incomplete_lu(matrix)
    if kind == "ssor":
        D = _diagonal(matrix)
        return _TwoSweeps(_triangle(sp.tril(matrix)), _triangle(sp.triu(matrix)), D, matrix.shape)
    return _incomplete_cholesky(matrix)


def _diagonal(matrix: sp.csr_array) -> Array:
    D = np.asarray(matrix.diagonal())
    if (D == 0).any():
        raise ValueError(f"A has a zero on the diagonal, in row {int(np.argmax(D == 0))}: it can't be inverted")
    return D


def _triangle(matrix: Any) -> sp.csr_array:
    held = sp.csr_array(matrix)
    held.sort_indices()
    return held


class _Applied:
    """What ``M @ v`` applies; with a ``matvec`` SciPy's solvers take it too."""

    def matvec(self: Any, v: Array) -> Array:
        return np.asarray(self @ v)


@dataclass(frozen=True)
class _Jacobi(_Applied):
    """Inverse of the diagonal."""

    inverse: Array
    shape: tuple[int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.inverse.dtype

    def __matmul__(self, v: Array) -> Array:
        return np.asarray(self.inverse * v if v.ndim == 1 else self.inverse[:, None] * v)


@dataclass(frozen=True)
class _BlockJacobi(_Applied):
    """Inverses of dense blocks along the diagonal, of shape (n_blocks, size, size)."""

    inverses: Array
    shape: tuple[int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.inverses.dtype

    def __matmul__(self, v: Array) -> Array:
        blocks, size, _ = self.inverses.shape
        padded = np.zeros((blocks * size, *v.shape[1:]), np.result_type(v, self.dtype))
        padded[: len(v)] = v
        return np.asarray((self.inverses @ padded.reshape(blocks, size, -1)).reshape(padded.shape)[: len(v)])


def _inverted_blocks(matrix: sp.csr_array, size: int) -> Array:
    n = matrix.shape[0]
    blocks = -(-n // size)
    # Unknowns that fill up the last block are on their own.
    dense = np.broadcast_to(np.eye(size, dtype=matrix.dtype), (blocks, size, size)).copy()
    dense.reshape(blocks * size, size)[:n] = 0
    held = matrix.tocoo()
    inside = held.row // size == held.col // size
    row, col = held.row[inside], held.col[inside]
    dense[row // size, row % size, col % size] = held.data[inside]
    try:
        return np.linalg.inv(dense)
    except np.linalg.LinAlgError:
        raise ValueError(f"A has a singular block of {size} unknowns on the diagonal: it can't be inverted") from None


@dataclass(frozen=True)
class _IncompleteLU(_Applied):
    """SuperLU's incomplete factors; a real factorisation takes complex vectors in two parts."""

    factors: Any
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def __matmul__(self, v: Array) -> Array:
        if np.iscomplexobj(v) and self.dtype.kind != "c":
            return np.asarray(self.factors.solve(v.real.copy()) + 1j * self.factors.solve(v.imag.copy()))
        return np.asarray(self.factors.solve(np.ascontiguousarray(v, self.dtype)))


def _incomplete_lu(matrix: sp.csr_array) -> _IncompleteLU:
    try:
        factors = spilu(sp.csc_array(matrix), drop_tol=DROP_TOLERANCE, fill_factor=FILL_FACTOR)
    except RuntimeError as error:
        raise ValueError(f"A has no incomplete LU factors: {error}") from None
    return _IncompleteLU(factors, matrix.shape, matrix.dtype)


@dataclass(frozen=True)
class _TwoSweeps(_Applied):
    """upper^{-1} middle lower^{-1}, with triangular factors."""

    lower: sp.csr_array
    upper: sp.csr_array
    middle: Array
    shape: tuple[int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.lower.dtype

    def __matmul__(self, v: Array) -> Array:
        columns = np.array(v if v.ndim == 2 else v[:, None], np.result_type(v, self.dtype), order="C")
        _solve_lower(self.lower.indptr, self.lower.indices, self.lower.data, columns)
        columns *= self.middle[:, None]
        _solve_upper(self.upper.indptr, self.upper.indices, self.upper.data, columns)
        return columns.reshape(v.shape)


@njit(cache=True, nogil=True)
def _solve_lower(indptr, indices, data, x):
    for i in range(len(x)):
        last = indptr[i + 1] - 1
        for c in range(x.shape[1]):
            total = x[i, c]
            for p in range(indptr[i], last):
                total -= data[p] * x[indices[p], c]
            x[i, c] = total / data[last]


@njit(cache=True, nogil=True)
def _solve_upper(indptr, indices, data, x):
    for i in range(len(x) - 1, -1, -1):
        first = indptr[i]
        for c in range(x.shape[1]):
            total = x[i, c]
            for p in range(first + 1, indptr[i + 1]):
                total -= data[p] * x[indices[p], c]
            x[i, c] = total / data[first]


def _incomplete_cholesky(matrix: sp.csr_array) -> _TwoSweeps:
    check_matrix("A", matrix, symmetric=True)
    if (np.real(matrix.diagonal()) <= 0).any():
        raise ValueError("A must be positive definite for kind='ic': its diagonal is not positive")
    lower = _triangle(sp.tril(matrix))
    # Where a pivot is lost although A is definite, a larger diagonal mends it (Manteuffel).
    for shift in (0.0, *(10.0 ** np.arange(-3, 2))):
        factor = lower + shift * sp.diags_array(lower.diagonal()) if shift else lower.copy()
        factor = _triangle(factor)
        if _cholesky(factor.indptr, factor.indices, factor.data):
            return _TwoSweeps(factor, _triangle(factor.conj().T), np.ones(len(factor.indptr) - 1), matrix.shape)
    raise ValueError("A has no incomplete Cholesky factors: is it positive definite?")


@njit(cache=True, nogil=True)
def _cholesky(indptr, indices, data):
    """Overwrite the lower triangle by a factor on the same pattern; False where a pivot is not positive."""
    for i in range(len(indptr) - 1):
        last = indptr[i + 1] - 1
        pivot = data[last].real
        for p in range(indptr[i], last):
            k = indices[p]
            total = data[p]
            # Entries that rows i and k share before column k; both are sorted.
            q, r = indptr[i], indptr[k]
            while q < p and r < indptr[k + 1] - 1:
                if indices[q] == indices[r]:
                    total -= data[q] * np.conj(data[r])
                    q += 1
                    r += 1
                elif indices[q] < indices[r]:
                    q += 1
                else:
                    r += 1
            data[p] = total / data[indptr[k + 1] - 1]
            pivot -= abs(data[p]) ** 2
        if not pivot > 0:
            return False
        data[last] = np.sqrt(pivot)
    return True
