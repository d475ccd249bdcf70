"""Bures-Wasserstein geometry of symmetric positive definite matrices, generalised and power-deformed.

With M symmetric positive definite and a power theta, ``phi(P) = M^-1/2 P^theta M^-1/2`` carries the Bures-Wasserstein
geometry back to P: distances are those of the images, divided by ``|theta|``. M = I and theta = 1 give the plain one.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from paperworks._tensors import Array, to_tensors
from paperworks._validation import check_integer, check_number, check_weights
from paperworks.transport.bures_wasserstein_normalization._matrix_functions import (
    INVERSE_SQRT,
    SQRT,
    Spectrum,
    decompose,
    differential,
    identity_like,
    matrix_function,
    symmetrize,
)
from paperworks.transport.bures_wasserstein_normalization._matrix_functions import power as power_rule
from paperworks.transport.bures_wasserstein_normalization._positive_definite import (
    check_definite,
    check_power,
    check_semidefinite,
    check_square,
    check_symmetric,
    relative_floor,
)

__all__ = [
    "bures_wasserstein_distance",
    "bures_wasserstein_exp",
    "bures_wasserstein_geodesic",
    "bures_wasserstein_log",
    "bures_wasserstein_mean",
]

# Under this part of the largest eigenvalue a square root is zero to double precision.
_ZERO = 1e-30
_FLOOR = relative_floor(torch.float64)


def matrix_power(P: Tensor, exponent: float, floor: float = _FLOOR) -> Tensor:
    """Return P ** exponent for symmetric P of shape (..., n, n), by products where the exponent is a small integer."""
    if exponent == 1.0:
        return P
    if exponent in (2.0, 3.0, 4.0):
        return symmetrize(torch.linalg.matrix_power(P, int(exponent)))
    return matrix_function(P, power_rule(exponent), decompose(P, relative_floor=floor))


class RootPair(NamedTuple):
    """P^1/2 and P^-1/2, from one decomposition."""

    root: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, P: Tensor, spectrum: Spectrum | None = None) -> "RootPair":
        """Take both roots of positive semi-definite P of shape (..., n, n)."""
        spectrum = decompose(P, relative_floor=_FLOOR) if spectrum is None else spectrum
        return cls(matrix_function(P, SQRT, spectrum), matrix_function(P, INVERSE_SQRT, spectrum))


def congruence(K: Tensor, P: Tensor) -> Tensor:
    """Return K P K'."""
    return K @ P @ K.mT


def square_root(P: Tensor) -> Tensor:
    """Return P^1/2 of positive semi-definite P of shape (..., n, n)."""
    return matrix_function(P, SQRT, decompose(P, relative_floor=_ZERO))


def log_at(G: Tensor, roots: Tensor, pair: RootPair) -> Tensor:
    """Return Log_G X = C + C' - 2 G with C = (G X)^1/2 = G^1/2 (G^1/2 X G^1/2)^1/2 G^-1/2, given the inner roots."""
    C = pair.root @ roots @ pair.inverse
    return C + C.mT - 2 * G


def geodesic_between(A: Tensor, B: Tensor, t: float) -> Tensor:
    """Return (1-t)^2 A + t^2 B + t (1-t) (C + C') with C = (A B)^1/2."""
    pair = RootPair.of(A)
    C = pair.root @ square_root(congruence(pair.root, B)) @ pair.inverse
    return (1 - t) ** 2 * A + t**2 * B + t * (1 - t) * (C + C.mT)


def barycenter_step(X: Tensor, G: Tensor, root: Callable[[Tensor], Tensor]) -> Tensor:
    """One fixed-point step G^-1/2 (mean_i (G^1/2 X_i G^1/2)^1/2)^2 G^-1/2, over the first axis of X."""
    pair = RootPair.of(G)
    mean_root = symmetrize(root(congruence(pair.root, X)).mean(0))
    return symmetrize(congruence(pair.inverse, mean_root @ mean_root))


class _Roots:
    """Square roots of G^1/2 X_i G^1/2 for a G that changes little from call to call.

    While it does, the eigenbasis of the last decomposition serves for a chord Newton iteration on S S = A: with
    A ~ U diag(s^2) U', each step adds (A - S S)_ij / (s_i + s_j), a few matrix products instead of a decomposition.
    """

    def __init__(self, X: Tensor, weights: Tensor) -> None:
        self._X, self._weights = X, weights
        self._U = torch.empty(0)

    def mean(self, half: Tensor, accuracy: float) -> Tensor:
        """Return sum_i w_i (half X_i half)^1/2, each root to a relative ``accuracy`` or to machine precision."""
        if not self._U.numel() or not self._refine(half, accuracy):
            self._decompose(half)
        weighted = self._weights.reshape(-1, *[1] * (self._X.ndim - 1)) * (self._U @ self._S)
        # The sum over samples and over the inner index is one matrix product.
        rows = weighted.movedim(0, -2).flatten(-2)
        columns = self._U.mT.movedim(0, -3).flatten(-3, -2)
        return symmetrize(rows @ columns)

    def _decompose(self, half: Tensor) -> None:
        self._U, p, floor = decompose(congruence(half, self._X), relative_floor=_ZERO)
        s = torch.maximum(p, floor).sqrt()
        self._S = torch.diag_embed(s)
        self._inverse_pairs = 1 / (s[..., :, None] + s[..., None, :])
        # The chord iteration contracts where S stays within a part of the smallest root of its diagonal start.
        self._reach, self._scale = float((s[..., 0] / s[..., -1]).min()) / 10, s[..., -1:, None]

    def _refine(self, half: Tensor, accuracy: float) -> bool:
        A = congruence(self._U.mT @ half, self._X)
        for _ in range(8):
            step = (A - self._S @ self._S).mul_(self._inverse_pairs)
            size = float((step / self._scale).abs_().amax())
            if size > self._reach:
                return False
            self._S = self._S + step
            if size <= accuracy:
                return True
        return False


def barycenter(X: Tensor, weights: Tensor, max_iter: int, tol: float) -> tuple[Tensor, int, float]:
    """Return the barycentre over the first axis of X, the number of steps, and the last relative size of mean Log."""
    G = torch.tensordot(weights, X, dims=1)
    roots, residual = _Roots(X, weights), 1.0
    for iteration in range(1, max_iter + 1):
        pair = RootPair.of(G)
        # A hundredth of the last residual: exact enough to tell whether this one is small.
        mean_root = roots.mean(pair.root, max(tol, min(residual, 1.0)) / 100)
        size = torch.linalg.matrix_norm(G).clamp_min(torch.finfo(G.dtype).tiny)
        residual = float((torch.linalg.matrix_norm(log_at(G, mean_root, pair)) / size).max())
        G = symmetrize(congruence(pair.inverse, mean_root @ mean_root))
        if residual <= tol:
            return G, iteration, residual
    return G, max_iter, residual


class Deformation:
    """The map phi(P) = M^-1/2 P^theta M^-1/2 and its inverse, for a fixed M."""

    def __init__(self, metric: Tensor | None, power: float) -> None:
        self.power = power
        self._pair = None if metric is None else RootPair.of(metric)

    def pull(self, P: Tensor) -> Tensor:
        """Return phi(P)."""
        P = matrix_power(P, self.power)
        return P if self._pair is None else congruence(self._pair.inverse, P)

    def push(self, P: Tensor) -> Tensor:
        """Return the matrix whose image under phi is P."""
        return matrix_power(P if self._pair is None else congruence(self._pair.root, P), 1 / self.power)

    def pull_tangent(self, P: Tensor, V: Tensor) -> Tensor:
        """Return the derivative of phi at P in direction V."""
        if self.power != 1:
            V = differential(P, V, power_rule(self.power), decompose(P, relative_floor=_FLOOR))
        return V if self._pair is None else congruence(self._pair.inverse, V)

    def push_tangent(self, P: Tensor, V: Tensor) -> Tensor:
        """Undo `pull_tangent` at P."""
        V = V if self._pair is None else congruence(self._pair.root, V)
        if self.power == 1:
            return V
        image = matrix_power(P, self.power)
        return differential(image, V, power_rule(1 / self.power), decompose(image, relative_floor=_ZERO))


def _prepare(metric: Any, power: float, **arrays: Any) -> tuple[list[Tensor], Deformation, Any]:
    """Check the arguments; return float64 matrices of one batch shape, the deformation, and the way back."""
    exponent = check_power(power)
    names = [name for name, value in arrays.items() if value is not None]
    tensors, restore = to_tensors(**arrays, metric=metric)
    matrices, dtype = tensors[: len(names)], tensors[0].dtype
    check_square(names[0], matrices[0])
    n = matrices[0].shape[-1]
    for name, P in zip(names, matrices, strict=True):
        (check_symmetric if name == "V" else check_semidefinite)(name, P)
        if P.shape[-1] != n:
            raise ValueError(f"{name} must hold {n} x {n} matrices like {names[0]}, got shape {tuple(P.shape)}")
    try:
        shape = torch.broadcast_shapes(*(P.shape for P in matrices))
    except RuntimeError:
        shapes = " and ".join(f"{name} {tuple(P.shape)}" for name, P in zip(names, matrices, strict=True))
        raise ValueError(f"the batches do not broadcast: {shapes}") from None
    M = None
    if metric is not None:
        M = tensors[-1].to(torch.float64)
        if M.shape != (n, n):
            raise ValueError(f"metric must have shape ({n}, {n}), got {tuple(M.shape)}")
        check_definite("metric", M)
    matrices = [symmetrize(P.to(torch.float64)).expand(shape) for P in matrices]
    return matrices, Deformation(M, exponent), lambda result: restore(result.to(dtype))


def _report_jitter(name: str, P: Tensor) -> None:
    p = torch.linalg.eigvalsh(P.detach())
    if (p[..., 0] < _FLOOR * p[..., -1]).any():
        warnings.warn(
            f"{name} is singular or nearly so: eigenvalues below {_FLOOR:g} times its largest are raised to that",
            UserWarning,
            stacklevel=3,
        )


def bures_wasserstein_distance(
    P: Array, Q: Array, *, metric: Array | None = None, power: float = 1.0, squared: bool = False
) -> Any:
    r"""Distance between covariance matrices: the 2-Wasserstein distance of centred Gaussians.

    :math:`d^2(P, Q) = \mathrm{tr} P + \mathrm{tr} Q - 2\, \mathrm{tr} (P^{1/2} Q P^{1/2})^{1/2}`, which needs no
    logarithm and no inverse and so bears ill-conditioned, even singular matrices. With a metric M and a power
    :math:`\theta` it is :math:`d(\phi(P), \phi(Q)) / |\theta|`, :math:`\phi(P) = M^{-1/2} P^\theta M^{-1/2}`.

    Parameters
    ----------
    P : array_like or Tensor of shape (..., n, n)
        Symmetric positive definite (or semi-definite) matrices.
    Q : array_like or Tensor of shape (..., n, n)
        Symmetric positive definite (or semi-definite) matrices; batches broadcast.
    metric : array_like or Tensor of shape (n, n), optional
        The symmetric positive definite M; the identity by default.
    power : float, default 1.0
        The deformation's exponent theta, not zero.
    squared : bool, default False
        Return the squared distance.

    Returns
    -------
    float, ndarray or Tensor of shape (...)
        The distances; differentiable in P, Q and metric.

    Raises
    ------
    ValueError
        If a matrix is not square, symmetric and positive, sizes differ, or ``power`` is zero.
    TypeError
        If the input does not hold floating-point numbers.

    References
    ----------
    Bhatia, Jain, Lim, "On the Bures-Wasserstein distance between positive definite matrices", arXiv:1712.01504.
    Wang, Jin, Chen, Luo, Wu, "Learning to Normalize on the SPD Manifold under Bures-Wasserstein Geometry",
    arXiv:2504.00660.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import bures_wasserstein_distance
    >>> round(bures_wasserstein_distance(np.diag([1.0, 4.0]), np.diag([4.0, 9.0])), 6)
    1.414214
    """
    (A, B), deformation, restore = _prepare(metric, power, P=P, Q=Q)
    A, B = deformation.pull(A), deformation.pull(B)
    inner = square_root(congruence(square_root(A), B))
    trace = (A + B - 2 * inner).diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(0) / deformation.power**2
    if squared:
        return restore(trace)
    positive = trace > 0
    return restore(torch.where(positive, torch.where(positive, trace, 1.0).sqrt(), 0.0))


def bures_wasserstein_log(P: Array, Q: Array, *, metric: Array | None = None, power: float = 1.0) -> Any:
    r"""Tangent vector at P that points to Q along the geodesic.

    :math:`\mathrm{Log}_P Q = (PQ)^{1/2} + (QP)^{1/2} - 2P`, carried back by the derivative of :math:`\phi` where a
    metric or a power is given.

    Parameters
    ----------
    P : array_like or Tensor of shape (..., n, n)
        Symmetric positive definite base points. Where one is singular its eigenvalues are raised to 1e-12 of the
        largest, and a UserWarning says so.
    Q : array_like or Tensor of shape (..., n, n)
        Symmetric positive definite (or semi-definite) targets; batches broadcast.
    metric : array_like or Tensor of shape (n, n), optional
        The symmetric positive definite M of the generalised geometry.
    power : float, default 1.0
        The deformation's exponent theta, not zero.

    Returns
    -------
    ndarray or Tensor of shape (..., n, n)
        Symmetric tangent vectors; differentiable in P, Q and metric.

    Raises
    ------
    ValueError
        If a matrix is not square, symmetric and positive, sizes differ, or ``power`` is zero.
    TypeError
        If the input does not hold floating-point numbers.

    References
    ----------
    Wang, Jin, Chen, Luo, Wu, "Learning to Normalize on the SPD Manifold under Bures-Wasserstein Geometry",
    arXiv:2504.00660.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import bures_wasserstein_log
    >>> bures_wasserstein_log(np.eye(2), np.diag([4.0, 9.0])).round(6)
    array([[2., 0.],
           [0., 4.]])
    """
    (base, target), deformation, restore = _prepare(metric, power, P=P, Q=Q)
    _report_jitter("P", base)
    A, B = deformation.pull(base), deformation.pull(target)
    pair = RootPair.of(A)
    V = log_at(A, square_root(congruence(pair.root, B)), pair)
    return restore(deformation.push_tangent(base, V))


def bures_wasserstein_exp(P: Array, V: Array, *, metric: Array | None = None, power: float = 1.0) -> Any:
    r"""Point reached from P after unit time along the geodesic with velocity V.

    :math:`\mathrm{Exp}_P V = (I + L) P (I + L)` where :math:`PL + LP = V`. It undoes `bures_wasserstein_log` as long
    as I + L is positive definite; beyond that the geodesic is no longer the shortest path.

    Parameters
    ----------
    P : array_like or Tensor of shape (..., n, n)
        Symmetric positive definite base points.
    V : array_like or Tensor of shape (..., n, n)
        Symmetric tangent vectors; batches broadcast.
    metric : array_like or Tensor of shape (n, n), optional
        The symmetric positive definite M of the generalised geometry.
    power : float, default 1.0
        The deformation's exponent theta, not zero.

    Returns
    -------
    ndarray or Tensor of shape (..., n, n)
        Symmetric positive semi-definite matrices; differentiable in P, V and metric.

    Raises
    ------
    ValueError
        If a matrix is not square or not symmetric, P is not positive, sizes differ, or ``power`` is zero.
    TypeError
        If the input does not hold floating-point numbers.

    References
    ----------
    Wang, Jin, Chen, Luo, Wu, "Learning to Normalize on the SPD Manifold under Bures-Wasserstein Geometry",
    arXiv:2504.00660.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import bures_wasserstein_exp
    >>> bures_wasserstein_exp(np.eye(2), np.diag([2.0, 4.0])).round(6)
    array([[4., 0.],
           [0., 9.]])
    """
    (base, tangent), deformation, restore = _prepare(metric, power, P=P, V=V)
    _report_jitter("P", base)
    A = deformation.pull(base)
    # The derivative of the square root at A^2 solves A L + L A = V.
    spectrum = decompose(A, relative_floor=_FLOOR)
    squares = Spectrum(spectrum.U, spectrum.p**2, spectrum.floor**2)
    T = identity_like(A) + differential(A @ A, deformation.pull_tangent(base, tangent), SQRT, squares)
    return restore(deformation.push(symmetrize(congruence(T, A))))


def bures_wasserstein_geodesic(P: Array, Q: Array, t: float, *, metric: Array | None = None, power: float = 1.0) -> Any:
    r"""Point at time t on the geodesic from P to Q.

    :math:`(1-t)^2 P + t^2 Q + t(1-t) [(PQ)^{1/2} + (QP)^{1/2}]`: displacement interpolation of centred Gaussians.

    Parameters
    ----------
    P : array_like or Tensor of shape (..., n, n)
        Symmetric positive definite matrices at time 0.
    Q : array_like or Tensor of shape (..., n, n)
        Symmetric positive definite (or semi-definite) matrices at time 1; batches broadcast.
    t : float
        Time in [0, 1].
    metric : array_like or Tensor of shape (n, n), optional
        The symmetric positive definite M of the generalised geometry.
    power : float, default 1.0
        The deformation's exponent theta, not zero.

    Returns
    -------
    ndarray or Tensor of shape (..., n, n)
        Symmetric positive definite matrices; differentiable in P, Q and metric.

    Raises
    ------
    ValueError
        If a matrix is not square, symmetric and positive, sizes differ, t is outside [0, 1], or ``power`` is zero.
    TypeError
        If the input does not hold floating-point numbers.

    References
    ----------
    Wang, Jin, Chen, Luo, Wu, "Learning to Normalize on the SPD Manifold under Bures-Wasserstein Geometry",
    arXiv:2504.00660.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import bures_wasserstein_geodesic
    >>> bures_wasserstein_geodesic(np.eye(2), np.diag([9.0, 25.0]), 0.5).round(6)
    array([[4., 0.],
           [0., 9.]])
    """
    time = check_number("t", t, at_least=0, at_most=1)
    (start, end), deformation, restore = _prepare(metric, power, P=P, Q=Q)
    _report_jitter("P", start)
    return restore(deformation.push(geodesic_between(deformation.pull(start), deformation.pull(end), time)))


def bures_wasserstein_mean(
    X: Array,
    weights: Array | None = None,
    *,
    metric: Array | None = None,
    power: float = 1.0,
    max_iter: int = 50,
    tol: float = 1e-9,
) -> Any:
    r"""Barycentre of covariance matrices: the minimiser of the weighted sum of squared distances.

    Iterates :math:`G \leftarrow G^{-1/2} \big(\sum_i w_i (G^{1/2} X_i G^{1/2})^{1/2}\big)^2 G^{-1/2}` from the
    arithmetic mean. Once the mean moves little, roots are refined from the last decomposition instead of taken anew.

    Parameters
    ----------
    X : array_like or Tensor of shape (..., m, n, n)
        Symmetric positive definite matrices; the mean is over the axis of length m, batches before it are kept.
    weights : array_like of shape (m,), optional
        Nonnegative weights with a positive sum; equal by default.
    metric : array_like or Tensor of shape (n, n), optional
        The symmetric positive definite M of the generalised geometry.
    power : float, default 1.0
        The deformation's exponent theta, not zero.
    max_iter : int, default 50
        Largest number of steps.
    tol : float, default 1e-9
        Stop when the norm of the mean of Log_G X_i is below ``tol`` times the norm of G.

    Returns
    -------
    ndarray or Tensor of shape (..., n, n)
        The barycentre. It carries no gradient.

    Raises
    ------
    ValueError
        If a matrix is not square, symmetric and positive, weights do not fit, or ``power`` is zero.
    TypeError
        If the input does not hold floating-point numbers.

    Warns
    -----
    ConvergenceWarning
        If ``tol`` is not reached in ``max_iter`` steps.

    References
    ----------
    Alvarez-Esteban, del Barrio, Cuesta-Albertos, Matran, "A fixed-point approach to barycenters in Wasserstein
    space", arXiv:1511.05355.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import bures_wasserstein_mean
    >>> bures_wasserstein_mean(np.stack([np.eye(2), np.diag([9.0, 25.0])])).round(6)
    array([[4., 0.],
           [0., 9.]])
    """
    check_integer("max_iter", max_iter)
    tolerance = check_number("tol", tol, above=0)
    with torch.no_grad():
        (matrices,), deformation, restore = _prepare(metric, power, X=X)
        if matrices.ndim < 3:
            raise ValueError(f"X must hold several matrices, of shape (..., m, n, n), got {tuple(matrices.shape)}")
        given = weights.detach().cpu().numpy() if isinstance(weights, Tensor) else weights
        w = check_weights("weights", given, matrices.shape[-3])
        w_tensor = torch.from_numpy(np.ascontiguousarray(w / w.sum())).to(matrices.device)
        G, steps, residual = barycenter(deformation.pull(matrices).movedim(-3, 0), w_tensor, max_iter, tolerance)
        if residual > tolerance:
            warnings.warn(
                f"the barycentre has a residual of {residual:.2g} after {steps} steps, above tol={tolerance:g}",
                ConvergenceWarning,
                stacklevel=2,
            )
        return restore(deformation.push(G))
