"""Functions of symmetric matrices, differentiable where eigenvalues coincide.

Eigenvectors are never differentiated. The derivative of ``f(P) = U f(p) U'`` in direction ``V`` is
``U [K o (U' V U)] U'`` with the divided differences ``K_ij = (f(p_i) - f(p_j)) / (p_i - p_j)`` (Daleckii and Krein),
which every rule below gives in a form that subtracts nothing it can avoid. Gradients are those of functions of
symmetric arguments: whoever has one that may not be symmetric symmetrises it first, inside the graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def symmetrize(P: Tensor) -> Tensor:
    """Return (P + P') / 2."""
    return (P + P.mT).mul_(0.5)


def identity_like(P: Tensor) -> Tensor:
    """Return the identity of shape (n, n) in the dtype and on the device of P."""
    return torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)


class Spectrum(NamedTuple):
    """P = U diag(p) U', and the floor under which eigenvalues count as the floor itself."""

    U: Tensor
    p: Tensor
    floor: Tensor


def decompose(P: Tensor, *, floor: float = -torch.inf, relative_floor: float | None = None) -> Spectrum:
    """Return the spectrum of symmetric matrices of shape (..., n, n); eigenvalues ascend.

    The floor is absolute, or relative to each matrix's largest eigenvalue.
    """
    p, U = _eigh(P.detach())
    if relative_floor is None:
        return Spectrum(U, p, torch.full_like(p[..., -1:], floor))
    return Spectrum(U, p, (relative_floor * p[..., -1:]).clamp_min(1e-150))


def _eigh(P: Tensor) -> tuple[Tensor, Tensor]:
    n = P.shape[-1]
    if n == 1:
        return P[..., 0], torch.ones_like(P)
    if n == 2 and P.numel() >= 4 * 128:
        return _eigh_of_two(P)
    return tuple(torch.linalg.eigh(P))


def _eigh_of_two(P: Tensor) -> tuple[Tensor, Tensor]:
    """One rotation diagonalises a 2 x 2 matrix: ten times faster than LAPACK over a thousand, slower over a few.

    n = 3 is left to LAPACK: closed forms lose the eigenvectors where eigenvalues are close.
    """
    half_gap, off = (P[..., 0, 0] - P[..., 1, 1]) / 2, P[..., 0, 1]
    centre, radius = (P[..., 0, 0] + P[..., 1, 1]) / 2, torch.hypot(half_gap, off)
    # The eigenvector of the larger eigenvalue, from whichever row of P - p I involves no cancellation.
    cosine = torch.where(half_gap >= 0, half_gap + radius, off)
    sine = torch.where(half_gap >= 0, off, radius - half_gap)
    length = torch.hypot(cosine, sine)
    cosine, sine = torch.where(length > 0, cosine / length, 1.0), torch.where(length > 0, sine / length, 0.0)
    U = torch.stack([-sine, cosine, cosine, sine], dim=-1).reshape(P.shape)
    return torch.stack([centre - radius, centre + radius], dim=-1), U


@dataclass(frozen=True)
class Rule:
    """A scalar function with its divided difference of (higher, lower) and half its second derivative."""

    value: Callable[[Tensor], Tensor]
    divided_difference: Callable[[Tensor, Tensor], Tensor]
    half_second_derivative: Callable[[Tensor], Tensor]


def power(exponent: float) -> Rule:
    """Return the rule of ``p ** exponent``."""

    def divided_difference(high: Tensor, low: Tensor) -> Tensor:
        z = torch.log1p((high - low) / low)
        ratio = torch.expm1(exponent * z) / torch.expm1(z)
        return low ** (exponent - 1) * torch.where(z == 0, exponent, ratio)

    return Rule(
        lambda p: p**exponent, divided_difference, lambda p: exponent * (exponent - 1) / 2 * p ** (exponent - 2)
    )


def _log_difference(high: Tensor, low: Tensor) -> Tensor:
    z = torch.log1p((high - low) / low)
    return torch.where(z == 0, 1.0, z / torch.expm1(z)) / low


def _exp_difference(high: Tensor, low: Tensor) -> Tensor:
    gap = high - low
    return low.exp() * torch.where(gap == 0, 1.0, torch.expm1(gap) / gap)


SQRT = Rule(torch.sqrt, lambda a, b: 1 / (a.sqrt() + b.sqrt()), lambda p: -0.125 * p**-1.5)
INVERSE_SQRT = Rule(
    torch.rsqrt, lambda a, b: -1 / (a.sqrt() * b.sqrt() * (a.sqrt() + b.sqrt())), lambda p: 0.375 * p**-2.5
)
LOG = Rule(torch.log, _log_difference, lambda p: -0.5 / p**2)
EXP = Rule(torch.exp, _exp_difference, lambda p: p.exp() / 2)
IDENTITY = Rule(lambda p: p, lambda a, b: torch.ones_like(a), torch.zeros_like)
ABSOLUTE = Rule(
    torch.abs, lambda a, b: (a + b) / (a.abs() + b.abs()).clamp_min(torch.finfo(a.dtype).tiny), torch.zeros_like
)


def matrix_function(P: Tensor, rule: Rule, spectrum: Spectrum | None = None) -> Tensor:
    """Apply ``rule`` to the eigenvalues (no smaller than the spectrum's floor) of symmetric P of shape (..., n, n).

    Differentiable twice in P. Give ``spectrum`` to share one decomposition among several functions of P.
    """
    return _MatrixFunction.apply(P, decompose(P) if spectrum is None else spectrum, rule)


def differential(P: Tensor, V: Tensor, rule: Rule, spectrum: Spectrum | None = None) -> Tensor:
    """Return the derivative of ``matrix_function(., rule)`` at P in direction V, both of shape (..., n, n)."""
    return _Differential.apply(P, V, decompose(P) if spectrum is None else spectrum, rule)


def _divided_differences(spectrum: Spectrum, rule: Rule) -> Tensor:
    """K of the rule composed with max(., floor): a divided difference of a composition is a product of two."""
    floored = torch.maximum(spectrum.p, spectrum.floor)
    a, b = floored[..., :, None], floored[..., None, :]
    K = rule.divided_difference(torch.maximum(a, b), torch.minimum(a, b))
    below = spectrum.p < spectrum.floor
    if not below.any():
        return K
    raw_gap = spectrum.p[..., :, None] - spectrum.p[..., None, :]
    same = below[..., :, None] == below[..., None, :]
    return K * torch.where(same, (~below[..., :, None]).to(K.dtype), (a - b) / torch.where(same, 1.0, raw_gap))


def _in_basis(U: Tensor, V: Tensor) -> Tensor:
    return U.mT @ V @ U


def _out_of_basis(U: Tensor, V: Tensor) -> Tensor:
    return U @ V @ U.mT


class _MatrixFunction(Function):
    @staticmethod
    def forward(ctx: Any, P: Tensor, spectrum: Spectrum, rule: Rule) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(P, *spectrum)
        U, p, floor = spectrum
        return (U * rule.value(torch.maximum(p, floor))[..., None, :]) @ U.mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        P, *spectrum = ctx.saved_tensors
        return _Differential.apply(P, gradient, Spectrum(*spectrum), ctx.rule), None, None


class _Differential(Function):
    @staticmethod
    def forward(ctx: Any, P: Tensor, V: Tensor, spectrum: Spectrum, rule: Rule) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(P, V, *spectrum)
        U = spectrum.U
        return _out_of_basis(U, _divided_differences(spectrum, rule) * _in_basis(U, V))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        P, V, *rest = ctx.saved_tensors
        spectrum = Spectrum(*rest)
        for_P = _SecondDifferential.apply(V, gradient, spectrum, ctx.rule) if ctx.needs_input_grad[0] else None
        return for_P, _Differential.apply(P, gradient, spectrum, ctx.rule), None, None


class _SecondDifferential(Function):
    """``D^2 f(P)[V, W]``: in P's basis the sum over k of ``f[p_i, p_k, p_j] (V_ik W_kj + W_ik V_kj)``."""

    @staticmethod
    def forward(ctx: Any, V: Tensor, W: Tensor, spectrum: Spectrum, rule: Rule) -> Tensor:
        U, p, floor = spectrum
        K = _divided_differences(spectrum, rule)
        i, k, j = p[..., :, None, None], p[..., None, :, None], p[..., None, None, :]
        K_ik, K_kj, K_ij = K[..., :, :, None], K[..., None, :, :], K[..., :, None, :]
        # Of the three equal quotients, the one over the widest gap loses the fewest digits.
        gaps = torch.stack(torch.broadcast_tensors(i - j, i - k, k - j))
        drops = torch.stack(torch.broadcast_tensors(K_ik - K_kj, K_ij - K_kj, K_ik - K_ij))
        widest = gaps.abs().argmax(dim=0, keepdim=True)
        gap, drop = gaps.gather(0, widest)[0], drops.gather(0, widest)[0]
        middle = torch.maximum((i + k + j) / 3, floor[..., None, None])
        equal = gap.abs() <= 1e-5 * middle.abs().clamp_min(torch.finfo(p.dtype).tiny)
        limit = rule.half_second_derivative(middle) * ((i + k + j) / 3 > floor[..., None, None])
        second = torch.where(equal, limit, drop / torch.where(equal, 1.0, gap))
        V, W = _in_basis(U, symmetrize(V)), _in_basis(U, symmetrize(W))
        half = torch.einsum("...ikj,...ik,...kj->...ij", second, V, W)
        return _out_of_basis(U, half + half.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError("third derivatives of a matrix function are not available")


def kronecker_sum_power(P: Tensor, V: Tensor, exponent: float, spectrum: Spectrum | None = None) -> Tensor:
    """Apply ((P x I + I x P) / 2) ** exponent to V of shape (..., n, n), where P is one matrix of shape (n, n).

    In P's basis this multiplies V_ij by ((p_i + p_j) / 2) ** exponent; exponents 1/2, -1/2 and -1 serve the parallel
    transports and Lyapunov's equation. Differentiable in P even where eigenvalues coincide.
    """
    return _KroneckerSumPower.apply(P, V, decompose(P) if spectrum is None else spectrum, exponent)


def lyapunov(P: Tensor, V: Tensor, spectrum: Spectrum | None = None) -> Tensor:
    """Solve P L + L P = V for L, with one symmetric positive definite P of shape (n, n)."""
    return kronecker_sum_power(P, V, -1.0, spectrum) / 2


class _KroneckerSumPower(Function):
    @staticmethod
    def forward(ctx: Any, P: Tensor, V: Tensor, spectrum: Spectrum, exponent: float) -> Tensor:
        ctx.exponent = exponent
        ctx.save_for_backward(P, V, *spectrum)
        U = spectrum.U
        return _out_of_basis(U, _in_basis(U, V) * _pair_means(spectrum) ** exponent)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        P, V, *rest = ctx.saved_tensors
        spectrum = Spectrum(*rest)
        for_P = _KroneckerGradient.apply(V, gradient, spectrum, ctx.exponent) if ctx.needs_input_grad[0] else None
        return for_P, _KroneckerSumPower.apply(P, gradient, spectrum, ctx.exponent), None, None


def _pair_means(spectrum: Spectrum) -> Tensor:
    p = torch.maximum(spectrum.p, spectrum.floor)
    return (p[:, None] + p[None, :]) / 2


class _KroneckerGradient(Function):
    """Gradient of ``<W, kronecker_sum_power(P, V)>`` with respect to P, summed over the batch of V."""

    @staticmethod
    def forward(ctx: Any, V: Tensor, W: Tensor, spectrum: Spectrum, exponent: float) -> Tensor:
        U = spectrum.U
        V, W = _in_basis(U, symmetrize(V)), _in_basis(U, symmetrize(W))
        n = V.shape[-1]
        # products[j, i, k]: the sum over the batch of W_ji V_jk, one matrix product for each j.
        products = W.reshape(-1, n, n).transpose(0, 1).mT @ V.reshape(-1, n, n).transpose(0, 1)
        factor = _pair_means(spectrum) ** exponent
        a, b = factor.mT[:, :, None], factor.mT[:, None, :]
        # Divided differences of m ** exponent between m_ij and m_kj, m = (p_i + p_j) / 2; none of them subtracts.
        slope = {0.5: lambda: 1 / (a + b), -0.5: lambda: -((a * b) ** 2) / (a + b), -1.0: lambda: -a * b}[exponent]()
        half = (products * slope).sum(0) / 2
        return _out_of_basis(U, half + half.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError("second derivatives with respect to the base point of a transport are not available")


class _NewtonSchulzRoot(Function):
    """Square root by the coupled Newton-Schulz iteration: matrix products only, for large batches on a GPU."""

    @staticmethod
    def forward(ctx: Any, P: Tensor, relative_floor: float) -> Tensor:
        P = symmetrize(P)
        norm = torch.linalg.matrix_norm(P, keepdim=True).clamp_min(torch.finfo(P.dtype).tiny)
        identity = identity_like(P)
        Y, Z = P / norm + relative_floor * identity, identity.expand_as(P)
        for _ in range(60):
            residual = identity - Z @ Y
            if residual.abs().max() < 1e-12:
                break
            step = identity + residual / 2
            Y, Z = Y @ step, step @ Z
        else:
            # Written so that NaN, where rounding made an eigenvalue negative, does not pass either.
            if not residual.abs().max() <= 1e-6:
                raise ValueError(
                    f"Newton-Schulz root has a residual of {float(residual.abs().max()):.1e} after 60 iterations: "
                    "X is too ill-conditioned for it, use matrix_functions='eigh'"
                )
        root = symmetrize(Y * norm.sqrt())
        ctx.save_for_backward(root)
        return root

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (root,) = ctx.saved_tensors
        return _newton_schulz_lyapunov(root, symmetrize(gradient)), None


def _newton_schulz_lyapunov(B: Tensor, C: Tensor) -> Tensor:
    """Solve B X + X B = C by the Newton-Schulz iteration for the sign of [[B, C], [0, -B]]."""
    norm = torch.linalg.matrix_norm(B, keepdim=True)
    B, C, identity = B / norm, C / norm, identity_like(B)
    for _ in range(60):
        square = B @ B
        C = (3 * C - square @ C - C @ square + B @ C @ B) / 2
        B = (3 * B - B @ square) / 2
        if (identity - square).abs().max() < 1e-12:
            break
    return symmetrize(C) / 2


def newton_schulz_root(P: Tensor, relative_floor: float) -> Tensor:
    """Return the square root of positive semi-definite P of shape (..., n, n) by matrix products alone."""
    return _NewtonSchulzRoot.apply(P, relative_floor)
