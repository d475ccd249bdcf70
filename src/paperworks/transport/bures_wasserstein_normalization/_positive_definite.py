"""Checks that matrices are symmetric positive (semi-)definite, with errors that name the culprit."""

import torch
from torch import Tensor

from paperworks._tensors import check_finite_tensor
from paperworks._validation import check_number

SYMMETRY_TOLERANCE = 1e-4
NEGATIVE_TOLERANCE = 1e-6


def relative_floor(dtype: torch.dtype) -> float:
    """Return the part of a matrix's largest eigenvalue below which rounding of ``dtype`` decides."""
    return 1e-12 if dtype == torch.float64 else 1e-7


def check_square(name: str, P: Tensor) -> None:
    """Refuse what is not of shape (..., n, n)."""
    if P.ndim < 2 or P.shape[-1] != P.shape[-2]:
        raise ValueError(f"{name} must hold square matrices, got shape {tuple(P.shape)}")


def check_symmetric(name: str, P: Tensor) -> None:
    """Refuse matrices that differ from their transpose by more than 1e-4 of their largest entry."""
    check_square(name, P)
    P = P.detach()
    skew = (P - P.mT).abs().amax((-2, -1))
    far = skew > SYMMETRY_TOLERANCE * P.abs().amax((-2, -1))
    if far.any():
        where = _first(far)
        raise ValueError(
            f"{name} must be symmetric, but the matrix{_at(where)} differs from its transpose by "
            f"{float(skew[where]):.3g}"
        )


def check_semidefinite(name: str, P: Tensor) -> None:
    """Refuse asymmetric matrices, and eigenvalues below -1e-6 times the largest."""
    check_symmetric(name, P)
    P = P.detach().to(torch.float64)
    # A factorisation of the slightly shifted matrix costs a tenth of its eigenvalues, and nearly always suffices.
    shift = NEGATIVE_TOLERANCE * P.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(0)
    shifted = P + shift[..., None, None] * torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    if not torch.linalg.cholesky_ex(shifted).info.any():
        return
    p = torch.linalg.eigvalsh((P + P.mT) / 2)
    negative = p[..., 0] < -NEGATIVE_TOLERANCE * p[..., -1].clamp_min(0)
    if negative.any():
        where = _first(negative)
        raise ValueError(
            f"{name} must be symmetric positive definite, but the matrix{_at(where)} has the eigenvalue "
            f"{float(p[..., 0][where]):.6g} (largest: {float(p[..., -1][where]):.6g})"
        )


def check_definite(name: str, P: Tensor) -> None:
    """Refuse asymmetric matrices, and such whose smallest eigenvalue is not positive."""
    check_symmetric(name, P)
    check_finite_tensor(name, P)
    p = torch.linalg.eigvalsh(P.detach().to(torch.float64))
    singular = p[..., 0] <= 1e-14 * p[..., -1].abs()
    if singular.any():
        where = _first(singular)
        raise ValueError(
            f"{name} must be symmetric positive definite, but the matrix{_at(where)} has the eigenvalue "
            f"{float(p[..., 0][where]):.6g}"
        )


def check_power(power: float) -> float:
    """Return the exponent of the power deformation: any finite number but zero."""
    exponent = check_number("power", power)
    if exponent == 0:
        raise ValueError("power must not be 0: every matrix to the power 0 is the identity")
    return exponent


def _first(condition: Tensor) -> tuple[int, ...]:
    return tuple(torch.nonzero(condition)[0].tolist()) if condition.ndim else ()


def _at(where: tuple[int, ...]) -> str:
    return f" at index {where[0] if len(where) == 1 else where}" if where else ""
