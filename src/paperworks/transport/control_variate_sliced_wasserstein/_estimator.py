"""Moments of slices and control variates, and the estimate that they give."""

from collections.abc import Iterator
from functools import partial
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.transport._quantiles import wasserstein_1d

ControlVariate = Literal["lower", "upper", "both"]
Coefficient = Literal["auto", "paper", "regression"]

# Below this many directions the coefficient, fitted to the same directions, biases the estimate by several percent.
FEW_DIRECTIONS = 10
# Two coefficients are fitted only to this many directions or more.
ENOUGH_FOR_BOTH = 8
# Bytes of a chunk on the CPU, where small ones stay near the cores and cost no time.
NEAR_MEMORY = 2**25


class Settings(NamedTuple):
    """Options of the estimator, under their public names."""

    n_projections: int
    p: float
    control_variate: ControlVariate | None
    coefficient: Coefficient
    detach_coefficient: bool
    max_memory: int


class Pair(NamedTuple):
    """Two samples about their means, the difference of the means, and the traces of the two covariances."""

    x: Tensor
    y: Tensor
    x_weights: Tensor | None
    y_weights: Tensor | None
    shift: Tensor
    total_variance: Tensor


class Moments(NamedTuple):
    """Mean outer product of the rows (1, W - pivot, C - B), which is all that the estimate needs.

    ``rounding`` is how much C moves by rounding alone where it is constant: d = 1, equal means, round clouds.
    """

    products: Tensor
    pivot: Tensor
    rounding: Tensor
    n_directions: int
    dtype: torch.dtype


def check_settings(settings: Settings) -> None:
    """Refuse options that are unknown or out of range."""
    check_integer("n_projections", settings.n_projections)
    check_number("p", settings.p, at_least=1)
    check_choice("control_variate", settings.control_variate, (*get_args(ControlVariate), None))
    check_choice("coefficient", settings.coefficient, get_args(Coefficient))
    check_integer("max_memory", settings.max_memory)


def centred(x: Tensor, y: Tensor, x_weights: Tensor | None, y_weights: Tensor | None) -> Pair:
    """Take the means out: projections of centred points keep their digits, and their mean square is their variance."""
    x_mean, y_mean = _mean(x, x_weights), _mean(y, y_weights)
    x, y = x - x_mean, y - y_mean
    variances = _mean(x.square(), x_weights) + _mean(y.square(), y_weights)
    shift = (x_mean - y_mean).squeeze(-2).to(torch.float64)
    return Pair(x, y, x_weights, y_weights, shift, variances.sum(dim=(-2, -1), dtype=torch.float64))


def _mean(points: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean over points, of shape (..., 1, d), in the dtype of the points."""
    if weights is None:
        return points.mean(dim=-2, keepdim=True)
    return weights.to(points.dtype)[None, :] @ points


def chunks(pair: Pair, n_directions: int, max_memory: int) -> list[slice]:
    """Cut the directions so that one chunk's arrays fit."""
    if pair.x.device.type == "cpu" and not _recorded(pair.x, pair.y):
        max_memory = min(max_memory, NEAR_MEMORY)
    batch = pair.x.shape[0] if pair.x.ndim == 3 else 1
    weighted = pair.x_weights is not None or pair.y_weights is not None
    # As `wasserstein_1d` documents its needs, and the projections themselves; indices take 8 bytes.
    bytes_per_point = 12 * 8 if weighted else 6 * pair.x.element_size()
    size = max(1, max_memory // (batch * (pair.x.shape[-2] + pair.y.shape[-2]) * bytes_per_point))
    return [slice(start, min(start + size, n_directions)) for start in range(0, n_directions, size)]


def _recorded(*tensors: Tensor) -> bool:
    """Whether a gradient will flow back to one of the tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def random_directions(chunks: list[slice], batch: int, d: int, random_state: RandomState) -> Iterator[Tensor]:
    """Yield uniform directions of shape (batch, chunk, d), the same ones whatever the chunks."""
    generator = numpy_generator(random_state)
    for chunk in chunks:
        normal = generator.standard_normal((chunk.stop - chunk.start, batch, d))
        lengths = np.linalg.norm(normal, axis=-1, keepdims=True)
        while not lengths.all():
            normal = np.where(lengths == 0, generator.standard_normal(normal.shape), normal)
            lengths = np.linalg.norm(normal, axis=-1, keepdims=True)
        yield torch.from_numpy(np.ascontiguousarray((normal / lengths).swapaxes(0, 1)))


def moments_of(pair: Pair, blocks: Iterator[Tensor], settings: Settings, in_chunks: bool) -> Moments:
    """Accumulate over chunks of directions what the estimate needs."""
    means, rounding = _control_variate_means(pair, settings.control_variate)
    pivot = pair.shift.new_zeros(pair.shift.shape[:-1])
    products: Tensor | None = None
    n_directions = 0
    for block in blocks:
        directions = block.to(pair.shift.device)
        directions = directions[0] if pair.x.ndim == 2 and directions.ndim == 3 else directions
        # A gradient through many chunks keeps none of their arrays, and computes them once more on the way back.
        recompute = in_chunks and _recorded(pair.x, pair.y, directions)
        slices = partial(checkpoint, _slices, use_reentrant=False, preserve_rng_state=False) if recompute else _slices
        distances, variates = slices(pair, directions, settings.p, settings.control_variate)
        if products is None:
            pivot = distances.detach().mean(dim=-1)
        first = torch.stack([torch.ones_like(distances), distances - pivot[..., None]], dim=-1)
        rows = torch.cat([first, variates - means[..., None, :]], dim=-1)
        products = rows.mT @ rows if products is None else products + rows.mT @ rows
        n_directions += rows.shape[-2]
    assert products is not None
    return Moments(products / n_directions, pivot, rounding, n_directions, pair.x.dtype)


def _slices(pair: Pair, directions: Tensor, p: float, control_variate: ControlVariate | None) -> tuple[Tensor, Tensor]:
    """Return W of shape (..., L) and the control variates C of shape (..., L, k), both in float64."""
    rows = directions.to(pair.x.dtype)
    x, y = rows @ pair.x.mT, rows @ pair.y.mT
    gaps = (directions @ pair.shift[..., None]).squeeze(-1)
    variates = []
    if control_variate in ("lower", "both"):
        variates.append(gaps.square())
    if control_variate in ("upper", "both"):
        variates.append(gaps.square() + _mean_square(x, pair.x_weights) + _mean_square(y, pair.y_weights))
    x = x + gaps[..., None].to(x.dtype)
    distances = wasserstein_1d(x, y, p, x_weights=pair.x_weights, y_weights=pair.y_weights).to(torch.float64)
    return distances, torch.stack(variates, dim=-1) if variates else distances.new_empty((*distances.shape, 0))


def _control_variate_means(pair: Pair, control_variate: ControlVariate | None) -> tuple[Tensor, Tensor]:
    """Return the means B, exact by ``E[theta theta'] = I / d``, and the rounding of C, both of shape (..., k)."""
    d = pair.x.shape[-1]
    lower = pair.shift.square().sum(dim=-1) / d
    upper = lower + pair.total_variance / d
    # Only the bounds in use are stacked: a gradient would visit the others for nothing.
    bounds = {None: (), "lower": (lower,), "upper": (upper,), "both": (lower, upper)}[control_variate]
    means = torch.stack(bounds, dim=-1) if bounds else lower.new_empty((*lower.shape, 0))
    few = 32 * torch.finfo(pair.x.dtype).eps
    # Means that differ by rounding, some eps of the clouds' own size, differ by eps^2 of it once squared.
    return means, few * means.detach() + few**2 * upper.detach()[..., None]


def _mean_square(centred: Tensor, weights: Tensor | None) -> Tensor:
    """Return the variance of centred projections, of shape (..., L)."""
    squares = centred.square()
    return (squares.mean(dim=-1) if weights is None else squares @ weights.to(centred.dtype)).to(torch.float64)


def power_of(moments: Moments, settings: Settings) -> tuple[Tensor, Tensor]:
    """Return Z = Wbar - gamma (Cbar - B), in float64, and gamma, of shape (..., k)."""
    gamma = _coefficients(moments, settings)
    if settings.detach_coefficient:
        gamma = gamma.detach()
    correction = (gamma * moments.products[..., 0, 2:]).sum(dim=-1)
    return moments.pivot + (moments.products[..., 0, 1] - correction), gamma


def root(power: Tensor, p: float) -> Tensor:
    """Return the p-th root of what is positive and 0 elsewhere, where the gradient is 0 too rather than NaN."""
    positive = power > 0
    return torch.where(positive, torch.where(positive, power, 1.0) ** (1 / p), 0.0)


@torch.no_grad()
def errors_of(moments: Moments, power: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Return the standard error of Z from the residuals W - Z - gamma (C - B), and by how much it cut the variance."""
    products, n_directions = moments.products, moments.n_directions
    weights = torch.cat([(moments.pivot - power)[..., None], torch.ones_like(power)[..., None], -gamma], dim=-1)
    squares = ((products @ weights[..., None]).squeeze(-1) * weights).sum(dim=-1).clamp(min=0)
    spare = n_directions - 1 - gamma.shape[-1]
    variance = squares * n_directions / spare if spare > 0 else torch.full_like(squares, torch.inf)
    plain = (products[..., 1, 1] - products[..., 0, 1].square()).clamp(min=0) * n_directions / max(1, n_directions - 1)
    unknown = (plain == variance) | variance.isinf()
    return (variance / n_directions).sqrt(), torch.where(unknown, 1.0, plain / variance)


def _coefficients(moments: Moments, settings: Settings) -> Tensor:
    """Solve for gamma, of shape (..., k), by elimination; a control variate that adds nothing gets 0."""
    excess = moments.products[..., 0, 2:]
    covariance = moments.products[..., 1, 2:] - moments.products[..., 0, 1, None] * excess
    gram = moments.products[..., 2:, 2:]
    few = moments.n_directions < FEW_DIRECTIONS
    if settings.coefficient == "regression" or (settings.coefficient == "auto" and not few):
        gram = gram - excess[..., :, None] * excess[..., None, :]
    if not gram.shape[-1]:
        return excess
    rounding = moments.rounding.square()
    first = gram[..., 0, 0]
    moves = first > rounding[..., 0]
    if gram.shape[-1] == 1:
        return _ratio(covariance[..., 0], first, moves)[..., None]
    # What the upper bound says beyond the lower one.
    slope = _ratio(gram[..., 0, 1], first, moves)
    second = gram[..., 1, 1] - slope * gram[..., 0, 1]
    tells = second > torch.maximum(rounding[..., 1], 1e-10 * gram[..., 1, 1].detach())
    tells = tells & (moments.n_directions >= ENOUGH_FOR_BOTH)
    upper = _ratio(covariance[..., 1] - slope * covariance[..., 0], second, tells)
    lower = _ratio(covariance[..., 0] - upper * gram[..., 0, 1], first, moves)
    return torch.stack([lower, upper], dim=-1)


def _ratio(numerator: Tensor, denominator: Tensor, defined: Tensor) -> Tensor:
    """Divide where that is defined and give 0 elsewhere, without NaN in the gradient."""
    return torch.where(defined, numerator / torch.where(defined, denominator, 1.0), 0.0)
