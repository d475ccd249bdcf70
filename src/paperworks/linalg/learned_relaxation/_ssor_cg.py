"""Conjugate gradients with the symmetric sweep as preconditioner, in one pass over the matrix a step."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from paperworks.linalg.learned_relaxation._triangles import Dtype, Solution, check_problem, warn_unless

__all__ = ["ssor_conjugate_gradient"]

# A preconditioned residual whose square fell by this much says nothing any more but rounding.
FADED = 1e-40


def ssor_conjugate_gradient(
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
    r"""Solve a symmetric positive definite system by conjugate gradients, preconditioned by a symmetric sweep.

    With :math:`A = L + D + L^\top` the preconditioner is

    .. math:: P = \frac{(D + \omega L) D^{-1} (D + \omega L)^\top}{\omega (2 - \omega)}.

    Eisenstat's trick runs the method on :math:`(D/\omega + L)^{-1} A (D/\omega + L)^{-\top}`, whose products take two
    triangular solves and none with A, so that a step costs about what it costs without a preconditioner.

    Parameters
    ----------
    A : sparse matrix or array_like of shape (n, n)
        Symmetric positive definite matrix of floating-point numbers.
    b : array_like of shape (n,)
        Right-hand side.
    x0 : array_like of shape (n,), optional
        Where to start; zeros if not given.
    relaxation : float, default 1.0
        :math:`\omega`, strictly between 0 and 2.
    rtol : float, default 1e-8
        Tolerance of the residual, relative to the right-hand side.
    max_iter : int, default 10000
        Steps after which to give up.
    dtype : {"float64", "float32"}, default "float64"
        Precision of the steps. float32 moves half the memory, and reaches no ``rtol`` below 1e-6.
    callback : callable, optional
        Called after each step with the relative residual.

    Returns
    -------
    x : ndarray of shape (n,)
        The solution.
    n_iter : int
        Steps that were made.
    converged : bool
        Whether the residual of x meets the tolerance; if not, a ConvergenceWarning says so.

    Raises
    ------
    ValueError
        If an argument is NaN, infinite, of the wrong shape or out of range, or A is not symmetric positive definite: a
        direction p with p' A p <= 0 gives it away.
    TypeError
        If A, b or x0 hold no real floating-point numbers.

    References
    ----------
    Mikhail Khodak, Edmond Chow, Maria-Florina Balcan, Ameet Talwalkar. "Learning to Relax: Setting Solver Parameters
    Across a Sequence of Linear System Instances". arXiv:2310.02246.
    Stanley C. Eisenstat. "Efficient implementation of a class of preconditioned conjugate gradient methods". SIAM
    Journal on Scientific and Statistical Computing, 1981.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import diags_array
    >>> from paperworks.linalg import ssor_conjugate_gradient
    >>> A = diags_array([-1.0, 2.1, -1.0], offsets=[-1, 0, 1], shape=(300, 300))
    >>> [ssor_conjugate_gradient(A, np.ones(300), relaxation=omega).n_iter for omega in (1.0, 1.6)]
    [20, 8]
    """
    problem = check_problem(A, b, x0, relaxation, rtol, max_iter, dtype, symmetric=True)
    triangles, x = problem.triangles, problem.x
    if not (triangles.diagonal > 0).all():
        row = int(np.argmin(triangles.diagonal > 0))
        raise ValueError(f"A must be symmetric positive definite; its diagonal is not positive in row {row}")
    size = float(np.linalg.norm(problem.b))
    if not size:
        return Solution(np.zeros_like(x), 0, True)
    scaled = (triangles.diagonal / relaxation).astype(x.dtype)
    weight = ((2 - relaxation) * scaled).astype(x.dtype)
    inverse = 1 / scaled
    r, (r_hat, *work) = problem.residual(), np.zeros((5, len(x)), x.dtype)
    norm, target = float(np.linalg.norm(r)), rtol * size
    n_iter, per_call = 0, 1 if callback else problem.iterations_per_call()
    rho = first = _transform(*triangles, inverse, weight, r, r_hat)
    beta = 0.0
    while norm > target and n_iter < max_iter:
        limit = min(per_call, max_iter - n_iter)
        state = (scaled, inverse, weight, x, r, r_hat, *work, rho, beta)
        done, norm, rho, beta, curvature = _steps(*triangles, *state, target, limit)
        n_iter += done
        has_faded = rho <= FADED * first
        if not (curvature > 0 or has_faded):
            raise ValueError(
                f"A must be symmetric positive definite; step {n_iter} met p' A p = {curvature:.3g}, not above 0"
            )
        if norm <= target or has_faded:
            # The residual was carried along; what counts is the true one, from which to start anew if need be.
            r = problem.residual()
            norm, beta = float(np.linalg.norm(r)), 0.0
            rho = first = _transform(*triangles, inverse, weight, r, r_hat)
        if callback:
            callback(norm / size)
    converged = norm <= target
    warn_unless(converged, "ssor_conjugate_gradient", n_iter, norm / size, rtol)
    return Solution(x, n_iter, converged)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _transform(
    lower_start, lower_index, lower, diagonal, upper_start, upper_index, upper, inverse, weight, r, r_hat
):  # fmt: skip
    """Set r_hat to (D / omega + L)^-1 r and return its square in the norm of the preconditioner."""
    rho = 0.0
    for i in range(len(r)):
        rest = r[i]
        for p in range(lower_start[i], lower_start[i + 1]):
            rest -= lower[p] * r_hat[lower_index[p]]
        r_hat[i] = rest * inverse[i]
        rho += weight[i] * r_hat[i] * r_hat[i]
    return rho


@njit(cache=True, nogil=True, fastmath={"contract"})
def _steps(
    lower_start, lower_index, lower, diagonal, upper_start, upper_index, upper,
    scaled, inverse, weight, x, r, r_hat, p_hat, p, w, Ap, rho, beta, target, steps,
):  # fmt: skip
    """Make steps until the residual is at most the target.

    With C = D / omega + L and K = (2 - omega) D / omega, A = C + C' - K: so p = C'^-1 p_hat is the direction in terms
    of x, and C^-1 A p = p + w with w = C^-1 (p_hat - K p). The rows of L that w takes also give A p.
    """
    n = len(x)
    norm = curvature = 0.0
    for done in range(1, steps + 1):
        for i in range(n - 1, -1, -1):
            p_hat[i] = weight[i] * r_hat[i] + beta * p_hat[i]
            rest = p_hat[i]
            for q in range(upper_start[i], upper_start[i + 1]):
                rest -= upper[q] * p[upper_index[q]]
            p[i] = rest * inverse[i]
        curvature = 0.0
        for i in range(n):
            Lp, rest = (diagonal[i] - scaled[i]) * p[i], p_hat[i] - weight[i] * p[i]
            for q in range(lower_start[i], lower_start[i + 1]):
                j = lower_index[q]
                Lp += lower[q] * p[j]
                rest -= lower[q] * w[j]
            w[i] = rest * inverse[i]
            Ap[i] = Lp + p_hat[i]
            curvature += p[i] * Ap[i]
        if not curvature > 0:
            return done, norm, rho, beta, curvature
        alpha, square, before = rho / curvature, 0.0, rho
        rho = 0.0
        for i in range(n):
            x[i] += alpha * p[i]
            r[i] -= alpha * Ap[i]
            r_hat[i] -= alpha * (p[i] + w[i])
            square += r[i] * r[i]
            rho += weight[i] * r_hat[i] * r_hat[i]
        beta, norm = rho / before, np.sqrt(square)
        if norm <= target:
            return done, norm, rho, beta, curvature
    return steps, norm, rho, beta, curvature
