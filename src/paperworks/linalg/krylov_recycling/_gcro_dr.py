"""GCRO-DR(m, k): GMRES that deflates by a subspace, refines it in every cycle, and hands it on to the next system."""

import logging
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import get_blas_funcs, qr, solve_triangular, svd
from scipy.sparse.linalg import LinearOperator
from sklearn.exceptions import ConvergenceWarning

from paperworks._threads import one_blas_thread
from paperworks._validation import check_integer, check_number
from paperworks.linalg._systems import check_matrix, check_vector

Array = NDArray[Any]
Callback = Callable[[float], None]

# A direction that the operator shrinks this much more than another one carries nothing but rounding.
LARGEST_CONDITION = 1e12
# Numbers in a basis below which threads cost more than they save.
WORTH_THREADS = 2**24
EPSILON = float(np.finfo(np.float64).eps)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecycleSpace:
    r"""What one solve leaves for the next: a subspace to deflate by.

    .. math:: A M^{-1} U = C, \qquad C^H C = I,

    where U spans approximations of the eigenvectors of :math:`A M^{-1}` whose eigenvalues are nearest to zero, which
    is what slows GMRES down.

    Parameters
    ----------
    U : array_like of shape (n, k)
        Basis of the subspace; any linearly independent columns, such as a known near-kernel, may start a sequence.
    matvecs : int, default 0
        Products with A that the solve took, all of them counted: those of the warm start and of the last check too.
    harmonic_values : array_like of shape (k,), optional
        Harmonic Ritz values, which approximate those eigenvalues; empty where none were computed.
    iterations : int, default 0
        Arnoldi steps that the solve took.
    residual_norm : float, default nan
        ||b - A x|| of the answer, computed anew.
    C : array_like of shape (n, k), optional
        Image of U under the operator just solved.

    References
    ----------
    Michael L. Parks, Eric de Sturler, Greg Mackey, Duane D. Johnson, Spandan Maiti. "Recycling Krylov Subspaces for
    Sequences of Linear Systems". SIAM Journal on Scientific Computing 28(5), 2006.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.linalg import darcy_systems, gcro_dr
    >>> (A, _), (b, _), _ = darcy_systems(2, 16, random_state=0)
    >>> x, info, recycle = gcro_dr(A, b, restart=20, n_recycle=8)
    >>> bool(np.allclose((A @ recycle.U).T @ (A @ recycle.U), np.eye(8)))
    True
    """

    U: Array
    matvecs: int = 0
    harmonic_values: Array = field(default_factory=lambda: np.zeros(0))
    iterations: int = 0
    residual_norm: float = np.nan
    C: Array | None = None


def gcro_dr(
    A: Any,
    b: ArrayLike,
    x0: ArrayLike | None = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    restart: int = 40,
    n_recycle: int = 20,
    maxiter: int = 10_000,
    M: Any = None,
    recycle: RecycleSpace | None = None,
    same_operator: bool = False,
    callback: Callback | None = None,
) -> tuple[Array, int, RecycleSpace]:
    r"""Solve a linear system by GCRO with deflated restarting, starting from what an earlier solve has learned.

    .. math:: A x = b, \qquad \|b - A x\| \le \max(\mathrm{rtol}\, \|b\|, \mathrm{atol}).

    From a subspace U with :math:`A M^{-1} U = C`, :math:`C^H C = I`, a cycle of GCRO-DR(m, k) runs m - k Arnoldi steps
    on :math:`(I - C C^H) A M^{-1}`, minimises the residual over U and the new basis together, and replaces U by the
    k harmonic Ritz vectors of both whose values are nearest to zero. Without a subspace it begins by a cycle of
    GMRES(m). Preconditioning is from the right, so that the residual stays the true one.

    Parameters
    ----------
    A : sparse matrix, ndarray or LinearOperator of shape (n, n)
        Real or complex matrix, floating point; no symmetry is needed. It is only multiplied by.
    b : array_like of shape (n,)
        Right-hand side, floating point.
    x0 : array_like, optional
        Start, of shape (n,); zero when None.
    rtol, atol : float, default 1e-5 and 0
        Tolerance, relative to ||b|| and absolute.
    restart : int, default 40
        Dimension m of the space that a cycle minimises over, the recycled one included.
    n_recycle : int, default 20
        Dimension k of the space that is kept; 0 makes it GMRES(m).
    maxiter : int, default 10000
        Arnoldi steps that are allowed in all.
    M : sparse matrix, ndarray or LinearOperator of shape (n, n), optional
        Preconditioner that approximates the inverse of A, as in SciPy: ``M @ v`` applies it.
    recycle : RecycleSpace, optional
        What an earlier solve, of a similar matrix of this size, returned. Its k products with A are counted.
    same_operator : bool, default False
        Says that A and M are those of the solve that ``recycle`` comes from, which saves these k products.
    callback : callable, optional
        Called after every Arnoldi step with the relative residual norm.

    Returns
    -------
    x : ndarray of shape (n,)
        The solution.
    info : int
        0 if it converged; else the number of steps taken.
    recycle : RecycleSpace
        The subspace for the next system, and the counts of this one. If nothing had to be solved (b is zero, or x0
        already is the solution) the space is the one that was given.

    Raises
    ------
    ValueError
        If sizes don't fit, ``restart`` does not exceed ``n_recycle``, anything given is NaN or infinite, or a product
        with A or M is (the message names the product).
    TypeError
        If A, b or x0 don't hold floating-point numbers, or ``recycle`` is no RecycleSpace.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not met.

    References
    ----------
    Hong Wang, Zhongkai Hao, Jie Wang, Zijie Geng, Zhen Wang, Bin Li, Feng Wu. "Accelerating Data Generation for Neural
    Operators via Krylov Subspace Recycling". ICLR 2024. arXiv:2401.09516.

    Examples
    --------
    >>> from paperworks.linalg import darcy_systems, gcro_dr
    >>> matrices, rhs, _ = darcy_systems(2, 24, random_state=0)
    >>> _, _, recycle = gcro_dr(matrices[0], rhs[0])
    >>> _, info, warm = gcro_dr(matrices[1], rhs[1], recycle=recycle)
    >>> info, warm.matvecs < recycle.matvecs
    (0, True)
    """
    operator = A if isinstance(A, LinearOperator) else check_matrix("A", A)
    n = _order(operator, "A")
    rhs = check_vector("b", b, n)
    start = None if x0 is None else check_vector("x0", x0, n)
    if M is not None and _order(M, "M") != n:
        raise ValueError(f"M must have shape ({n}, {n}) to fit A, got {tuple(M.shape)}")
    _check_recycle(recycle, n, restart, n_recycle)
    held = [each for each in (operator, rhs, start, M, recycle and recycle.U) if each is not None]
    workspace = Workspace(n, dtype_of(*held), restart, n_recycle)
    solve = Solve(workspace, operator, M, rhs, start, callback)
    x, info, space = solve.run(
        check_number("rtol", rtol, at_least=0.0),
        check_number("atol", atol, at_least=0.0),
        check_integer("maxiter", maxiter),
        recycle,
        same_operator,
    )
    if info:
        warnings.warn(
            f"GCRO-DR did not converge in {space.iterations} steps: residual norm {space.residual_norm:.3g}",
            ConvergenceWarning,
            stacklevel=2,
        )
    return x, info, space


def check_restart(restart: int, n_recycle: int) -> tuple[int, int]:
    """Return both if a cycle has room for at least one step."""
    m, k = check_integer("restart", restart), check_integer("n_recycle", n_recycle, at_least=0)
    if m <= k:
        raise ValueError(f"restart must exceed n_recycle, got restart={m} and n_recycle={k}")
    return m, k


def dtype_of(*things: Any) -> np.dtype[Any]:
    """The common type of matrices and vectors: float64 or complex128."""
    kinds = [getattr(each, "dtype", None) for each in things]
    return np.result_type(np.float64, *[kind for kind in kinds if kind is not None])


def _order(operator: Any, name: str) -> int:
    shape = getattr(operator, "shape", None)
    if shape is None or not hasattr(operator, "__matmul__"):
        raise TypeError(f"{name} must be a sparse matrix, an array or a LinearOperator, got {type(operator).__name__}")
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"{name} must be square, got shape {tuple(shape)}")
    return int(shape[0])


def _check_recycle(recycle: Any, n: int, restart: int, n_recycle: int) -> None:
    m, k = check_restart(restart, n_recycle)
    if recycle is None:
        return
    if not isinstance(recycle, RecycleSpace):
        raise TypeError(f"recycle must be a RecycleSpace, got {type(recycle).__name__}")
    shape = np.shape(recycle.U)
    if len(shape) != 2 or shape[0] != n:
        raise ValueError(f"recycle holds vectors of {shape[0] if shape else 0} unknowns, but A has {n}")
    if k == 0:
        raise ValueError("n_recycle=0 keeps no space, so recycle must be None")
    if shape[1] >= m:
        raise ValueError(f"restart must exceed the {shape[1]} columns of recycle, got {m}")
    if not np.isfinite(recycle.U).all():
        raise ValueError("recycle contains NaN or infinity")


class Workspace:
    """The memory of a cycle, allocated once and used by every system of a sequence.

    W = [C, V] lies in one array in Fortran order, so that all of a cycle's orthogonalisation is one product with it.
    """

    def __init__(self, n: int, dtype: np.dtype[Any], restart: int, n_recycle: int) -> None:
        # Beyond the order of the matrix there is nothing to span.
        self.restart = min(restart, n)
        self.n_recycle = min(n_recycle, self.restart - 1)
        self.W: Array = np.zeros((n, self.restart + 1), dtype, order="F")
        self.G: Array = np.zeros((self.restart + 1, self.restart), dtype)
        self.gemv, self.gemm = get_blas_funcs(("gemv", "gemm"), (self.W,))
        self.adjoint = 2 if self.W.dtype.kind == "c" else 1


class Solve:
    """One run of GCRO-DR; x = x0 + M^{-1} u, with u in the space of the right-preconditioned unknowns."""

    def __init__(
        self, workspace: Workspace, A: Any, M: Any, b: Array, x0: Array | None, callback: Callback | None
    ) -> None:
        self.space = workspace
        self.A, self.M, self.callback = A, M, callback
        dtype = workspace.W.dtype
        self.b = b.astype(dtype)
        self.scale = _norm(self.b)
        self.x: Array = np.zeros(len(b), dtype) if x0 is None or not self.scale else x0.astype(dtype)
        self.u: Array = np.zeros(len(b), dtype)
        # U with columns of unit norm; U D in the notation of the paper, with D the diagonal of G.
        self.U: Array = np.zeros((len(b), 0), dtype, order="F")
        self.harmonic_values: Array = np.zeros(0)
        self.matvecs = self.iterations = 0
        self.broken_down = False
        self.r = self._residual() if self.x.any() else self.b.copy()

    def run(
        self, rtol: float, atol: float, maxiter: int, recycle: RecycleSpace | None, same_operator: bool
    ) -> tuple[Array, int, RecycleSpace]:
        """Cycle until the true residual meets the tolerance."""
        with one_blas_thread() if self.space.W.size < WORTH_THREADS else nullcontext():
            return self._run(rtol, atol, maxiter, recycle, same_operator)

    def _run(
        self, rtol: float, atol: float, maxiter: int, recycle: RecycleSpace | None, same_operator: bool
    ) -> tuple[Array, int, RecycleSpace]:
        tolerance, last = max(rtol * self.scale, atol), np.inf
        if _norm(self.r) <= tolerance:
            given = self.U if recycle is None else recycle.U
            return self.x, 0, RecycleSpace(given, self.matvecs, residual_norm=_norm(self.r))
        if recycle is not None and recycle.U.shape[1]:
            self._deflate(recycle, same_operator)
        # Below rounding the recurrence says nothing.
        enough = max(tolerance, EPSILON * self.scale)
        while True:
            if _norm(self.r) <= enough or self.iterations >= maxiter or self.broken_down:
                residual = self._verify()
                # Rounding may have parted the recurrence from the truth; go on unless that no longer helps.
                if residual <= tolerance or self.iterations >= maxiter or residual > last / 2:
                    break
                last = residual
            self._cycle(enough, maxiter)
        info = 0 if residual <= tolerance else max(1, self.iterations)
        return self.x, info, self._leave(residual)

    def _multiply(self, v: Array) -> Array:
        """A M^{-1} v, counted; NaN and infinity are named where they come from."""
        z = self._precondition(v)
        product = self._product(z)
        if not np.isfinite(product).all():
            self._blame(z, product)
        return product

    def _precondition(self, v: Array) -> Array:
        return v if self.M is None else _shaped(self.M @ v, v, "M")

    def _product(self, v: Array) -> Array:
        self.matvecs += 1 if v.ndim == 1 else v.shape[1]
        return _shaped(self.A @ v, v, "A")

    def _blame(self, z: Array, product: Array) -> None:
        for name, values in (("M", z), ("A", product)):
            if (name == "A" or self.M is not None) and not np.isfinite(values).all():
                raise ValueError(f"{name} @ v contains NaN or infinity at product {self.matvecs}")
        raise ValueError(f"A @ v is too large for its norm at product {self.matvecs}")

    def _verify(self) -> float:
        """Take the correction into x, and compute the residual anew."""
        self.x += self._precondition(self.u)
        self.u[:] = 0
        self.broken_down = False
        self.r = self._residual()
        return _norm(self.r)

    def _residual(self) -> Array:
        product = self._product(self.x)
        if not np.isfinite(product).all():
            self._blame(self.x, product)
        return self.b - product

    def _deflate(self, recycle: RecycleSpace, same_operator: bool) -> None:
        """C of the new matrix, never of the old: [C, R] = qr(A M^{-1} Y), U = Y R^{-1}."""
        Y = np.asarray(recycle.U)
        if same_operator and recycle.C is not None:
            U, C = Y, recycle.C
        else:
            C, S = orthonormal_image(self._multiply(Y))
            U = Y @ S
        self._keep(np.array(U, self.space.W.dtype, order="F"), C)
        self._project()

    def _keep(self, U: Array, C: Array) -> None:
        k = U.shape[1]
        D = 1 / np.linalg.norm(U, axis=0)
        self.U = U
        self.U *= D
        self.space.W[:, :k] = C
        self.space.G[:, :k] = 0
        self.space.G[range(k), range(k)] = D

    def _project(self) -> None:
        """Make the residual orthogonal to C, twice for rounding: u += U C^H r, r -= C C^H r."""
        k = self.U.shape[1]
        C, D = self.space.W[:, :k], self.space.G[:k, :k].diagonal()
        for _ in range(2 if k else 0):
            c = self.space.gemv(1.0, C, self.r, trans=self.space.adjoint)
            self.u += self.U @ (c / D)
            self.r -= C @ c

    def _cycle(self, tolerance: float, maxiter: int) -> None:
        k = self.U.shape[1]
        # Rounding of the residual before is large beside one that has fallen far, and W must be orthonormal.
        self._project()
        if _norm(self.r) <= tolerance:
            return
        steps = self._arnoldi(k, min(self.space.restart - k, maxiter - self.iterations), tolerance)
        self._minimise(k, steps)
        if self.space.n_recycle:
            self._refine(k, steps)

    def _arnoldi(self, k: int, most: int, tolerance: float) -> int:
        """Steps on (I - C C^H) A M^{-1} from r, until the residual of the minimiser is small enough."""
        W, G = self.space.W, self.space.G
        length = _norm(self.r)
        np.divide(self.r, length, out=W[:, k])
        # t H = 0 for the Hessenberg part H of G; the residual is the part of ||r|| e_1 along t, at ||r|| / ||t||.
        t = np.zeros(most + 1, G.dtype)
        t[0], squares = 1.0, 1.0
        for j in range(most):
            last = k + j
            w = W[:, last + 1]
            z = self._precondition(W[:, last])
            w[:] = product = self._product(z)
            self.iterations += 1
            h, norm = self._orthogonalise(last + 1)
            if not isfinite(norm):
                self._blame(z, product)
            G[: last + 1, last] = h
            self.broken_down = norm <= EPSILON * _norm(h)
            if self.broken_down:
                w[:] = G[last + 1, last] = 0
                return j + 1
            G[last + 1, last] = norm
            w /= norm
            t[j + 1] = -(t[: j + 1] @ h[k:]) / norm
            squares += abs(t[j + 1]) ** 2
            residual = length / sqrt(squares)
            if self.callback is not None:
                self.callback(residual / self.scale)
            if residual <= tolerance:
                return j + 1
        return most

    def _orthogonalise(self, columns: int) -> tuple[Array, float]:
        """Make column number ``columns`` of W orthogonal to those before; return coefficients and what is left."""
        basis, w = self.space.W[:, :columns], self.space.W[:, columns]
        h = self.space.gemv(1.0, basis, w, trans=self.space.adjoint)
        self.space.gemv(-1.0, basis, h, beta=1.0, y=w, overwrite_y=True)
        # Classical Gram-Schmidt has to be done twice. A test whether the second pass is needed asks for it at nineteen
        # steps of twenty where diffusion dominates, and a laxer test loses C.
        again = self.space.gemv(1.0, basis, w, trans=self.space.adjoint)
        self.space.gemv(-1.0, basis, again, beta=1.0, y=w, overwrite_y=True)
        return h + again, _norm(w)

    def _minimise(self, k: int, steps: int) -> None:
        """The residual over the range of [U D, V]: y = argmin ||W^H r - G y||, x += [U D, V] y, r -= W G y."""
        W, size = self.space.W[:, : k + steps + 1], k + steps
        G = self.space.G[: size + 1, :size]
        right = np.zeros(steps + 1, G.dtype)
        right[0] = _norm(self.r)
        y = np.zeros(size, G.dtype)
        y[k:] = np.linalg.lstsq(G[k:, k:], right)[0]
        # r is orthogonal to C, so that the U-part only makes up for what the V-part does in C.
        y[:k] = -(G[:k, k:] @ y[k:]) / G[:k, :k].diagonal()
        self.u += self.U @ y[:k] + W[:, k:size] @ y[k:]
        self.r -= W @ (G @ y)

    def _refine(self, k: int, steps: int) -> None:
        """Replace U and C by those of the harmonic Ritz vectors P of [U D, V] that are nearest to zero."""
        W, size = self.space.W[:, : k + steps + 1], k + steps
        G = self.space.G[: size + 1, :size]
        # W^H [U D, V]: only the columns of U have to be computed.
        overlap = np.zeros_like(G)
        overlap[k:size, k:] = np.eye(steps)
        if k:
            overlap[:, :k] = self.space.gemm(1.0, W, self.U, trans_a=self.space.adjoint)
        found = harmonic_ritz(G, overlap, self.space.n_recycle, self.space.restart)
        if found is None:
            return
        self.harmonic_values, P = found
        Q, S = orthonormal_image(G @ P)
        S = P @ S
        U = self.space.gemm(1.0, W[:, k:size], S[k:])
        if k:
            U = self.space.gemm(1.0, self.U, S[:k], beta=1.0, c=U, overwrite_c=True)
        self._keep(U, self.space.gemm(1.0, W, Q))

    def _leave(self, residual: float) -> RecycleSpace:
        k = self.U.shape[1]
        U = self.U / self.space.G[:k, :k].diagonal()
        return RecycleSpace(
            U, self.matvecs, self.harmonic_values, self.iterations, residual, self.space.W[:, :k].copy(order="F")
        )


def orthonormal_image(T: Array) -> tuple[Array, Array]:
    """Return Q and S with T S = Q and Q^H Q = I; directions that T all but annihilates are dropped."""
    Q, R = qr(T, mode="economic", check_finite=False)
    left, values, right = svd(R, check_finite=False)
    kept = values * LARGEST_CONDITION > values[0]
    if not kept.all():
        logger.debug("dropped %d of %d recycled directions: singular to rounding", (~kept).sum(), len(kept))
    return Q @ left[:, kept], right[kept].conj().T / values[kept]


def harmonic_ritz(G: Array, overlap: Array, k: int, restart: int) -> tuple[Array, Array] | None:
    """Smallest values of G^H G z = theta G^H (W^H [U D, V]) z, and an orthonormal basis of their vectors.

    With G = Q R the reciprocals of theta are the eigenvalues of R^{-1} Q^H (W^H [U D, V]), which is a standard problem.
    None if G is singular.
    """
    Q, R = qr(G, mode="economic", check_finite=False)
    size = np.abs(R.diagonal())
    if size.min() <= EPSILON * size.max():
        return None
    reciprocals, Z = np.linalg.eig(solve_triangular(R, Q.conj().T @ overlap, check_finite=False))
    order = np.argsort(-np.abs(reciprocals), kind="stable")
    if np.iscomplexobj(G) or not np.iscomplexobj(Z):
        columns, chosen = Z[:, order[:k]], order[:k]
    else:
        columns, chosen = _real_span(reciprocals, Z, order, k, restart)
    if not len(chosen):
        return None
    return 1 / reciprocals[chosen], qr(columns, mode="economic", check_finite=False)[0]


def _real_span(values: Array, Z: Array, order: Array, k: int, restart: int) -> tuple[Array, Array]:
    """Real basis of the span of the first k vectors; a conjugate pair, (Re, Im), is never split at k."""
    columns: list[Array] = []
    chosen: list[int] = []
    for i in order[values[order].imag >= 0]:
        pair = values[i].imag > 0
        fits = len(columns) + 1 + pair <= k or (pair and not columns and restart > 2)
        if not fits:
            break
        columns += [Z[:, i].real, Z[:, i].imag] if pair else [Z[:, i].real]
        chosen += [i, int(np.flatnonzero(values == values[i].conj())[0])] if pair else [i]
    return np.array(columns).T.reshape(len(Z), len(columns)), np.array(chosen, int)


def _shaped(product: Any, v: Array, name: str) -> Array:
    product = np.asarray(product)
    if product.shape != v.shape:
        raise ValueError(f"{name} @ v must have shape {v.shape}, got {product.shape}")
    return product


def _norm(v: Array) -> float:
    return sqrt(np.vdot(v, v).real)
