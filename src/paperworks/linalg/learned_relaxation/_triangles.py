"""A matrix as its strict triangles and its diagonal, and what the two solvers check alike."""

import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from paperworks._validation import check_choice, check_integer, check_number
from paperworks.linalg._systems import check_matrix, check_system

Array = NDArray[Any]
Dtype = Literal["float64", "float32"]

# Entries that one call of a compiled loop may visit, so that Ctrl-C is heard within a tenth of a second or so.
ENTRIES_PER_CALL = 50_000_000
# The smallest tolerance that residuals in single precision can be relied upon to reach.
SINGLE_PRECISION = 1e-6


class Solution(NamedTuple):
    """What a solver returns: the vector, the iterations it took, and whether it met the tolerance."""

    x: Array
    n_iter: int
    converged: bool


class Triangles(NamedTuple):
    """A square matrix as its strict lower and upper triangles, both in CSR, and its diagonal."""

    lower_start: Array
    lower_index: Array
    lower: Array
    diagonal: Array
    upper_start: Array
    upper_index: Array
    upper: Array


class Problem(NamedTuple):
    """A system that was checked, and where its solver starts."""

    matrix: sp.csr_array
    triangles: Triangles
    b: Array
    x: Array

    def residual(self) -> Array:
        """Return b - A x."""
        return self.b - self.matrix @ self.x

    def iterations_per_call(self) -> int:
        """How many iterations a compiled loop may do before it comes back."""
        return max(1, ENTRIES_PER_CALL // max(self.matrix.nnz, 1))


def check_problem(
    A: Any, b: Any, x0: Any, relaxation: Any, rtol: Any, max_iter: Any, dtype: Any, *, symmetric: bool
) -> Problem:
    """Check all that a solver is given, and split the matrix."""
    check_relaxation("relaxation", relaxation)
    check_choice("dtype", dtype, ("float64", "float32"))
    check_number("rtol", rtol, above=0.0)
    check_integer("max_iter", max_iter)
    if dtype == "float32" and rtol < SINGLE_PRECISION:
        raise ValueError(f"rtol must be at least {SINGLE_PRECISION:g} in float32, got {rtol!r}; use dtype='float64'")
    matrix, b, x0 = check_system(A, b, x0)
    for name, values in (("A", matrix), ("b", b), ("x0", x0)):
        if values is not None and values.dtype.kind == "c":
            raise TypeError(f"{name} must be real, got {values.dtype}")
    triangles = Triangles(*_split(matrix.indptr, matrix.indices, matrix.data))
    if not triangles.diagonal.all():
        row = int(np.argmin(triangles.diagonal != 0))
        raise ValueError(f"A must have no zero on its diagonal, got one in row {row}")
    # The slow check is exact about entries that are stored as zero, and names the entry at fault.
    if symmetric and not _is_symmetric(*triangles):
        check_matrix("A", matrix, symmetric=True)
    x = np.zeros_like(b) if x0 is None else x0
    if dtype == "float32":
        narrow = (each.astype(np.float32) if each.dtype.kind == "f" else each for each in triangles)
        return Problem(matrix.astype(np.float32), Triangles(*narrow), b.astype(np.float32), x.astype(np.float32))
    return Problem(matrix, triangles, b, x.copy())


def check_relaxation(name: str, value: Any) -> float:
    """Return a relaxation parameter that lies strictly between 0 and 2."""
    number = check_number(name, value)
    if not 0.0 < number < 2.0:
        raise ValueError(f"{name} must lie in (0, 2), both ends excluded, got {value!r}")
    return number


def warn_unless(converged: bool, solver: str, n_iter: int, reached: float, rtol: float) -> None:
    """Warn that a solver did not meet its tolerance."""
    if not converged:
        warnings.warn(
            f"{solver} did not converge: the relative residual is {reached:.2g}, not {rtol:g}, after {n_iter} steps",
            ConvergenceWarning,
            stacklevel=3,
        )


@njit(cache=True, nogil=True)
def _split(start, index, data):
    n = len(start) - 1
    lower_start, upper_start = np.zeros(n + 1, start.dtype), np.zeros(n + 1, start.dtype)
    for i in range(n):
        below = above = 0
        for p in range(start[i], start[i + 1]):
            below += index[p] < i
            above += index[p] > i
        lower_start[i + 1] = lower_start[i] + below
        upper_start[i + 1] = upper_start[i] + above
    lower_index, lower = np.empty(lower_start[n], index.dtype), np.empty(lower_start[n], data.dtype)
    upper_index, upper = np.empty(upper_start[n], index.dtype), np.empty(upper_start[n], data.dtype)
    diagonal = np.zeros(n, data.dtype)
    for i in range(n):
        below, above = lower_start[i], upper_start[i]
        for p in range(start[i], start[i + 1]):
            j = index[p]
            if j < i:
                lower_index[below], lower[below] = j, data[p]
                below += 1
            elif j > i:
                upper_index[above], upper[above] = j, data[p]
                above += 1
            else:
                diagonal[i] = data[p]
    return lower_start, lower_index, lower, diagonal, upper_start, upper_index, upper


@njit(cache=True, nogil=True)
def _is_symmetric(lower_start, lower_index, lower, diagonal, upper_start, upper_index, upper):
    # Going down the rows of the lower triangle visits each row of the upper one from left to right.
    if len(lower) != len(upper):
        return False
    n = len(diagonal)
    expected = upper_start[:n].copy()
    for i in range(n):
        for p in range(lower_start[i], lower_start[i + 1]):
            j = lower_index[p]
            q = expected[j]
            if q >= upper_start[j + 1] or upper_index[q] != i or upper[q] != lower[p]:
                return False
            expected[j] = q + 1
    return True
