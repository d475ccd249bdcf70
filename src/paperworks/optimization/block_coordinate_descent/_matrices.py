"""Data matrices, dense or sparse, by columns for blocks and by rows for gradients."""

from typing import Any

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import NDArray

from paperworks._validation import check_finite, check_floating, check_shape

Array = NDArray[np.float64]
Indices = NDArray[np.integer]
Rows = slice | Indices


def checked_matrix(name: str, A: Any) -> Array | sp.csc_array:
    """Return A as float64, in columns (Fortran order or CSC), or say what is wrong with it."""
    if not sp.issparse(A):
        return np.asfortranarray(check_floating(name, A, ndim=2), dtype=np.float64)
    if A.dtype.kind != "f":
        raise TypeError(
            f"{name} must hold floating-point numbers, got {A.dtype}; convert it, as in {name}.astype(float)"
        )
    check_shape(name, A.shape, ndim=2)
    columns = sp.csc_array(A, dtype=np.float64)
    if not columns.has_canonical_format:
        columns = columns.copy()
        columns.sum_duplicates()
    try:
        check_finite(name, columns.data)
    except ValueError:
        place = int(np.argmin(np.isfinite(columns.data)))
        column = int(np.searchsorted(columns.indptr, place, side="right")) - 1
        where = (int(columns.indices[place]), column)
        raise ValueError(f"{name} contains NaN or infinity, first by columns at index {where}") from None
    return columns


class DenseMatrix:
    """A of shape (n, p) in Fortran order."""

    def __init__(self, values: Array) -> None:
        self.values = values
        self.shape = values.shape

    def columns(self, block: Indices) -> tuple[Rows, Array]:
        """Rows that the columns of a block touch, and the columns there."""
        return slice(None), self.values[:, block]

    def product(self, X: Array) -> Array:
        return self.values @ X

    def transposed(self, W: Array) -> Array:
        return self.values.T @ W

    def add_transposed(self, rows: Rows, change: Array, gradient: Array) -> None:
        gradient += self.values.T @ change

    def square_sums(self) -> Array:
        return np.einsum("ij,ij->j", self.values, self.values)

    def absolute_sums(self) -> Array:
        absolute = np.abs(self.values)
        return absolute.T @ absolute.sum(axis=1)


class SparseMatrix:
    """A of shape (n, p), by columns and by rows."""

    def __init__(self, values: sp.csc_array) -> None:
        self.by_columns, self.by_rows = values, values.tocsr()
        self.shape = values.shape
        self._place = np.full(self.shape[0], -1, dtype=np.int64)

    def columns(self, block: Indices) -> tuple[Rows, Array]:
        """Rows that the columns of a block touch, and the columns there."""
        by = self.by_columns
        return _gather(by.indptr, by.indices, by.data, np.asarray(block, dtype=np.int64), self._place)

    def product(self, X: Array) -> Array:
        return self.by_rows @ X

    def transposed(self, W: Array) -> Array:
        return self.by_columns.T @ W

    def add_transposed(self, rows: Rows, change: Array, gradient: Array) -> None:
        by = self.by_rows
        _add_rows(by.indptr, by.indices, by.data, rows, change, gradient)

    def square_sums(self) -> Array:
        return np.asarray((self.by_columns * self.by_columns).sum(axis=0)).ravel()

    def absolute_sums(self) -> Array:
        absolute = abs(self.by_columns)
        return absolute.T @ np.asarray(absolute.sum(axis=1)).ravel()


Matrix = DenseMatrix | SparseMatrix


def matrix_of(A: Array | sp.csc_array) -> Matrix:
    return SparseMatrix(A) if sp.issparse(A) else DenseMatrix(A)


@njit(cache=True)
def _gather(indptr: Any, indices: Any, data: Any, block: Any, place: Any) -> Any:
    """Copy columns into a dense array of only those rows that they touch; ``place`` is -1 before and after."""
    size = 0
    for j in block:
        size += indptr[j + 1] - indptr[j]
    rows = np.empty(min(size, len(place)), dtype=np.int64)
    count = 0
    for j in block:
        for e in range(indptr[j], indptr[j + 1]):
            if place[indices[e]] < 0:
                place[indices[e]] = count
                rows[count] = indices[e]
                count += 1
    rows = rows[:count]
    dense = np.zeros((count, len(block)))
    for t in range(len(block)):
        for e in range(indptr[block[t]], indptr[block[t] + 1]):
            dense[place[indices[e]], t] = data[e]
    for i in rows:
        place[i] = -1
    return rows, dense


@njit(cache=True)
def _add_rows(indptr: Any, indices: Any, data: Any, rows: Any, change: Any, gradient: Any) -> None:
    """Add A[rows]' change to the gradient of shape (p, k)."""
    for t in range(len(rows)):
        for e in range(indptr[rows[t]], indptr[rows[t] + 1]):
            for c in range(change.shape[1]):
                gradient[indices[e], c] += data[e] * change[t, c]
