"""Entropic transport between point clouds, whose cost is made block by block when it would not fit memory."""

from collections.abc import Iterator
from typing import Any
from warnings import warn

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from paperworks._tensors import check_finite_tensor
from paperworks.transport._entropic_newton import anneal, damped_newton, new_run, sweep, verdict
from paperworks.transport._gibbs_plans import BlockPasses, GibbsPlan, Vector, gibbs_plan

# Regularisation at which a cost of largest entry 1 is easy, as 1/eta.
GENTLE = 50.0


def spread(values: Vector, where: NDArray[np.int64], length: int, like: Tensor) -> Tensor:
    """Potentials at their places, -inf where the weight is 0."""
    full = np.full(length, -np.inf)
    full[where] = values
    return torch.from_numpy(full).to(like.device)


def _cost_block(x: Tensor, y: Tensor, p: float) -> Tensor:
    """||x_i - y_j||^p by one matrix product."""
    squared = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2.0 * x @ y.T
    squared = squared.clamp_min(0.0)
    return squared if p == 2.0 else squared ** (p / 2.0)


class PointCloudValue(torch.autograd.Function):
    """Regularised value between clouds whose cost is made by blocks, in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, options: tuple[Any, ...]) -> Tensor:
        regularization, p, n_sinkhorn, max_newton, tol, max_memory = options
        rows = np.flatnonzero(a.cpu().numpy())
        columns = np.flatnonzero(b.cpu().numpy())
        points_x, points_y = x.double()[torch.from_numpy(rows)], y.double()[torch.from_numpy(columns)]
        # A common shift keeps the squares of far clouds from cancelling.
        centre = points_x.mean(0)
        plan = _point_plan(points_x - centre, points_y - centre, p, 1.0 / regularization, max_memory)
        run = new_run(regularization, tol, max_memory)
        r, c = a.cpu().numpy()[rows], b.cpu().numpy()[columns]
        # Clouds far apart have costs that are large beside the regularisation: come down to it from a gentle start.
        scale = float((points_x - centre).norm(dim=1).max() + (points_y - centre).norm(dim=1).max()) ** p
        start = np.zeros(len(c))
        if (gentle := GENTLE / max(scale, 1e-300)) < plan.eta:
            start = anneal(plan, r, c, run, start, gentle)
        state = sweep(plan, r, c, start, run, n_sinkhorn)
        state = damped_newton(plan, r, c, state, run, max_newton, drop=True)
        converged, message = verdict(state.error, tol, run)
        if not converged:
            warn(message, ConvergenceWarning, stacklevel=3)
        ctx.solution = (rows, columns, state, options)
        ctx.save_for_backward(x, y)
        return torch.tensor(float(r @ state.x + c @ state.y) - regularization, dtype=torch.float64, device=x.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        rows, columns, state, (regularization, p, _, _, _, max_memory) = ctx.solution
        dual_x, dual_y = (spread(state.x, rows, len(x), x), spread(state.y, columns, len(y), y))
        gradient_x, gradient_y = torch.zeros_like(x), torch.zeros_like(y)
        # Differences of points are made for a block at a time: (rows, m, d).
        step = max(1, max_memory // (32 * y.numel()))
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            difference = x[part, None, :].double() - y[None, :, :].double()
            length = difference.norm(dim=-1)
            plan = ((dual_x[part, None] + dual_y - length**p) / regularization - 1.0).exp()
            # At a distance of 0 the subgradient 0 is taken.
            slope = torch.where(length > 0, p * length.clamp_min(1e-300) ** (p - 2.0), 0.0)
            force = (plan * slope)[..., None] * difference
            gradient_x[part] = force.sum(1).to(x.dtype)
            gradient_y -= force.sum(0).to(y.dtype)
        scale = gradients[0]
        finite_x, finite_y = torch.where(dual_x.isfinite(), dual_x, 0.0), torch.where(dual_y.isfinite(), dual_y, 0.0)
        return (
            scale.to(x.dtype) * gradient_x,
            scale.to(y.dtype) * gradient_y,
            scale * finite_x,
            scale * finite_y,
            None,
        )


def _point_plan(x: Tensor, y: Tensor, p: float, eta: float, max_memory: int) -> GibbsPlan:
    n, m = len(x), len(y)
    if 24 * n * m <= max_memory:
        cost = _cost_block(x, y, p)
        check_finite_tensor("x and y", cost)
        return gibbs_plan(cost, eta, max_memory)
    x, y = x.cpu(), y.cpu()
    rows = max(1, max_memory // (32 * m))

    def blocks() -> Iterator[tuple[int, int, NDArray[np.float64]]]:
        for start in range(0, n, rows):
            yield start, min(start + rows, n), _cost_block(x[start : start + rows], y, p).numpy()

    return GibbsPlan(BlockPasses((n, m), blocks), eta, max_memory)
