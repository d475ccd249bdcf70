"""Successive over-relaxation, one pass over the matrix a sweep with the residual included."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from paperworks.linalg.learned_relaxation._triangles import Dtype, Solution, check_problem, warn_unless

__all__ = ["sor"]

# A residual that grew by this much says that the sweeps diverge.
DIVERGED = 1e20


def sor(
    A: Any,
    b: Any,
    x0: Any = None,
    relaxation: float = 1.0,
    rtol: float = 1e-8,
    max_iter: int = 10_000,
    *,
    dtype: Dtype = "float64",
    callback: Callable[[float], Any] | None = None,
) -> Solution:
    r"""Solve a linear system by successive over-relaxation.

    With :math:`A = L + D + U` split into strict triangles and diagonal, iterate

    .. math:: x \leftarrow x + (D / \omega + L)^{-1} (b - A x)

    until the residual is below ``rtol`` times that of the start. It converges for every symmetric positive definite A
    and every relaxation in (0, 2); how fast depends on the relaxation by orders of magnitude.

    Parameters
    ----------
    A : sparse matrix or array_like of shape (n, n)
        Floating-point matrix without a zero on its diagonal; symmetric positive definite if it must converge.
    b : array_like of shape (n,)
        Right-hand side.
    x0 : array_like of shape (n,), optional
        Where to start; zeros if not given.
    relaxation : float, default 1.0
        :math:`\omega`, strictly between 0 and 2; 1 is the Gauss-Seidel method.
    rtol : float, default 1e-8
        Tolerance of the residual, relative to the residual of the start.
    max_iter : int, default 10000
        Sweeps after which to give up.
    dtype : {"float64", "float32"}, default "float64"
        Precision of the sweeps. float32 moves half the memory, and reaches no ``rtol`` below 1e-6.
    callback : callable, optional
        Called after each sweep with the relative residual.

    Returns
    -------
    x : ndarray of shape (n,)
        The solution.
    n_iter : int
        Sweeps that were made.
    converged : bool
        Whether the residual of x meets the tolerance; if not, a ConvergenceWarning says so.

    Raises
    ------
    ValueError
        If an argument is NaN, infinite, of the wrong shape or out of range, or the diagonal has a zero: its row is
        named.
    TypeError
        If A, b or x0 hold no real floating-point numbers.

    References
    ----------
    Mikhail Khodak, Edmond Chow, Maria-Florina Balcan, Ameet Talwalkar. "Learning to Relax: Setting Solver Parameters
    Across a Sequence of Linear System Instances". arXiv:2310.02246.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import diags_array
    >>> from paperworks.linalg import sor
    >>> A = diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(30, 30))
    >>> [sor(A, np.ones(30), relaxation=omega).n_iter for omega in (1.0, 1.5, 1.82)]
    [1783, 585, 109]
    """
    problem = check_problem(A, b, x0, relaxation, rtol, max_iter, dtype, symmetric=False)
    triangles, x = problem.triangles, problem.x
    step = (relaxation / triangles.diagonal).astype(x.dtype)
    kept = ((1 / relaxation - 1) * triangles.diagonal).astype(x.dtype)
    r, change = problem.residual(), np.zeros_like(x)
    norm = first = float(np.linalg.norm(r))
    n_iter, per_call = 0, 1 if callback else problem.iterations_per_call()
    target, limit = rtol * first, DIVERGED * first
    while not _met(norm, target) and norm <= limit and n_iter < max_iter:
        done, norm = _sweep(*triangles, step, kept, x, r, change, target, limit, min(per_call, max_iter - n_iter))
        n_iter += done
        if norm < target:
            # The residual was carried along; what counts is the true one.
            r = problem.residual()
            norm = float(np.linalg.norm(r))
        if callback:
            callback(norm / first)
    converged = _met(norm, target)
    warn_unless(converged, "sor", n_iter, norm / first if first else 0.0, rtol)
    return Solution(x, n_iter, converged)


def _met(norm: float, target: float) -> bool:
    return norm < target or norm == 0.0


@njit(cache=True, nogil=True, fastmath={"contract"})
def _sweep(
    lower_start, lower_index, lower, diagonal, upper_start, upper_index, upper,
    step, kept, x, r, change, target, limit, sweeps,
):  # fmt: skip
    norm = 0.0
    for done in range(1, sweeps + 1):
        for i in range(len(x)):
            rest = r[i]
            for p in range(lower_start[i], lower_start[i + 1]):
                rest -= lower[p] * change[lower_index[p]]
            change[i] = step[i] * rest
        # r - A dx = (M - A) dx with M = D / omega + L: only the upper triangle is left to visit.
        square = 0.0
        for i in range(len(x)):
            rest = kept[i] * change[i]
            for p in range(upper_start[i], upper_start[i + 1]):
                rest -= upper[p] * change[upper_index[p]]
            r[i] = rest
            x[i] += change[i]
            square += rest * rest
        norm = np.sqrt(square)
        if not target <= norm <= limit:
            return done, norm
    return sweeps, norm
