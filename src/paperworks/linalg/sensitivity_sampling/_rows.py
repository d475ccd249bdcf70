"""Tall matrices, read by blocks of rows: arrays, files mapped into memory, SciPy CSR matrices and dask arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import qr, solve_triangular

from paperworks._validation import check_finite, check_shape

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

# Rows of a block, which is made dense and of double precision.
BLOCK = 2**13


@dataclass(frozen=True)
class Rows:
    """A tall matrix, in double precision wherever it is computed with."""

    matrix: Any
    name: str = "A"

    @classmethod
    def of(cls, name: str, A: Any) -> "Rows":
        """Check a matrix; the entries of a dask array are checked when they are read."""
        if type(A).__module__.split(".")[0] == "dask":
            matrix = A.rechunk({1: -1}) if A.ndim == 2 else A
        elif sparse.issparse(A):
            matrix = sparse.csr_array(A)
            check_finite(name, np.asarray(matrix.data, dtype=np.float64)) if matrix.nnz else None
        else:
            if hasattr(A, "detach"):
                A = A.detach().cpu().numpy()
            matrix = A if isinstance(A, np.memmap) else np.asarray(A)
        if matrix.dtype.kind != "f":
            raise TypeError(
                f"{name} must hold floating-point numbers, got {matrix.dtype}; convert it, as in x.astype(float)"
            )
        check_shape(name, matrix.shape, ndim=2)
        if isinstance(matrix, np.ndarray):
            for first in range(0, len(matrix), BLOCK):
                check_finite(name, matrix[first : first + BLOCK])
        return cls(matrix, name)

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.matrix.shape[0]), int(self.matrix.shape[1])

    def blocks(self) -> Iterator[tuple[slice, Matrix]]:
        """Consecutive rows, dense."""
        if hasattr(self.matrix, "dask"):
            first = 0
            for length, block in zip(self.matrix.chunks[0], self.matrix.blocks, strict=True):
                loaded = np.asarray(block.compute(), dtype=np.float64)
                yield slice(first, first + length), np.asarray(check_finite(self.name, loaded))
                first += length
            return
        for first in range(0, self.shape[0], BLOCK):
            here = slice(first, min(first + BLOCK, self.shape[0]))
            block = self.matrix[here]
            yield here, np.asarray(block.toarray() if sparse.issparse(block) else block, dtype=np.float64)

    def take(self, indices: NDArray[np.integer]) -> Matrix:
        """Some rows, dense, in the matrix's own precision."""
        if hasattr(self.matrix, "dask"):
            return np.asarray(self.matrix[indices].compute())
        taken = self.matrix[indices]
        return np.asarray(taken.toarray() if sparse.issparse(taken) else taken)

    def basis(self) -> Matrix:
        """T of shape (d, rank) such that the columns of A T are orthonormal: by QR of the blocks, and of their R's.

        Triangular factors of blocks are put below one another and reduced again, so that no product A' A squares the
        condition number; columns that depend on others are left out.
        """
        n, d = self.shape
        R = np.zeros((0, d))
        for _, block in self.blocks():
            R = qr(np.vstack([R, block]), mode="r", check_finite=False, overwrite_a=True)[0][:d]
        R, pivots = qr(R, mode="r", pivoting=True, check_finite=False)
        size = np.abs(np.diag(R))
        if not size.size or size[0] == 0:
            raise ValueError(f"{self.name} must not be zero")
        rank = int((size > size[0] * max(n, d) * np.finfo(np.float64).eps).sum())
        T = np.zeros((d, rank))
        T[pivots[:rank]] = solve_triangular(R[:rank, :rank], np.eye(rank), check_finite=False)
        return T

    def norms_after(self, T: Matrix) -> Vector:
        """Squared norms of the rows of A T."""
        found = np.empty(self.shape[0])
        for here, block in self.blocks():
            Q = block @ T
            found[here] = np.einsum("ij,ij->i", Q, Q)
        return found

    def gram_after(self, T: Matrix, weights: Vector) -> Matrix:
        """(A T)' diag(weights) A T."""
        total = np.zeros((T.shape[1], T.shape[1]))
        for here, block in self.blocks():
            Q = block @ T
            total += Q.T @ (weights[here, None] * Q)
        return total
