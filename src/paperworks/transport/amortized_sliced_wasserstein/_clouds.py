"""Pairs of point clouds: their validation, and their transport cost along given directions."""

import torch
from torch import Tensor

from paperworks._tensors import check_finite_tensor
from paperworks._validation import check_shape
from paperworks.transport._quantiles import wasserstein_1d

# Projected points that are sorted at once, some 256 MiB in float32 with what the sort keeps.
_PROJECTED_POINTS = 2**24


def transport_cost(
    x: Tensor, y: Tensor, directions: Tensor, p: float, x_weights: Tensor | None = None, y_weights: Tensor | None = None
) -> Tensor:
    """Return the mean over directions of W_p^p between the projected clouds.

    Parameters
    ----------
    x, y : Tensor of shape (B, n, d) and (B, m, d)
        Clouds.
    directions : Tensor of shape (B, L, d)
        Unit vectors, each pair's own.
    p : float
        Order of the distance.
    x_weights, y_weights : Tensor of shape (B, n) and (B, m), optional
        Masses of the points.

    Returns
    -------
    Tensor of shape (B,)
        One cost for each pair.
    """
    weights = {
        name: each if each is None else each.unsqueeze(1)
        for name, each in {"x_weights": x_weights, "y_weights": y_weights}.items()
    }
    n_directions = directions.shape[1]
    at_once = max(1, _PROJECTED_POINTS // (x.shape[0] * max(x.shape[1], y.shape[1])))
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for some in directions.split(at_once, dim=1):
        total = total + wasserstein_1d(some @ x.mT, some @ y.mT, p, **weights).sum(dim=1)
    return total / n_directions


def root(cost: Tensor, p: float) -> Tensor:
    """Return ``cost ** (1 / p)``, with gradient zero where the cost is zero."""
    positive = cost > 0
    return torch.where(positive, torch.where(positive, cost, 1.0).pow(1 / p), 0.0)


def unit(vectors: Tensor) -> Tensor:
    """Divide by the length along the last dimension; a zero vector becomes the first axis, with gradient zero."""
    vanishing = torch.linalg.vector_norm(vectors.detach(), dim=-1, keepdim=True) < torch.finfo(vectors.dtype).tiny
    first_axis = torch.zeros_like(vectors)
    first_axis[..., 0] = 1.0
    safe = torch.where(vanishing, first_axis, vectors)
    return safe / torch.linalg.vector_norm(safe, dim=-1, keepdim=True)


def check_pair(x: Tensor, y: Tensor) -> None:
    """Refuse two clouds (or batches) that live in different dimensions or come in different numbers."""
    if x.ndim != y.ndim:
        raise ValueError(f"x and y must have as many dimensions, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"x and y must hold points of one dimension d, got {x.shape[-1]} and {y.shape[-1]}")
    if x.shape[-1] < 2:
        raise ValueError(f"x and y must hold points of dimension d >= 2, got shape {tuple(x.shape)}")
    if x.shape[:-2] != y.shape[:-2]:
        raise ValueError(f"x and y must hold as many clouds, got shapes {tuple(x.shape)} and {tuple(y.shape)}")


def check_batches(x: Tensor, y: Tensor, n_features: int | None = None, n_points: int | None = None) -> None:
    """Refuse what a module can't read: two finite floating-point tensors of shape (B, m, d) are wanted."""
    for name, cloud in {"x": x, "y": y}.items():
        if not isinstance(cloud, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(cloud).__name__}")
        if not cloud.is_floating_point():
            raise TypeError(f"{name} must hold floating-point numbers, got {str(cloud.dtype).removeprefix('torch.')}")
        check_shape(name, tuple(cloud.shape), ndim=3)
        check_finite_tensor(name, cloud)
        if n_features is not None and cloud.shape[-1] != n_features:
            raise ValueError(f"{name} must hold points of dimension n_features={n_features}, got {cloud.shape[-1]}")
        if n_points is not None and cloud.shape[-2] != n_points:
            raise ValueError(f"{name} must hold clouds of n_points={n_points} points, got {cloud.shape[-2]}")
    check_pair(x, y)


def check_weights_of(name: str, weights: Tensor | None, cloud: Tensor) -> Tensor | None:
    """Return weights as a tensor of shape (B, m): nonnegative, with a positive sum for each cloud."""
    if weights is None:
        return None
    if not isinstance(weights, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(weights).__name__}")
    if not weights.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, got {str(weights.dtype).removeprefix('torch.')}")
    wanted = tuple(cloud.shape[:-1])
    if tuple(weights.shape) not in {wanted, wanted[1:]}:
        raise ValueError(f"{name} must have shape {wanted} or {wanted[1:]}, got {tuple(weights.shape)}")
    check_finite_tensor(name, weights)
    if (weights < 0).any():
        raise ValueError(f"{name} must not be negative, got {float(weights.min()):g}")
    weights = weights.to(cloud).expand(wanted)
    if not (weights.sum(dim=-1) > 0).all():
        raise ValueError(f"{name} must have a positive sum for each cloud")
    return weights
