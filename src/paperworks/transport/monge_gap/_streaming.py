"""Entropic transport between clouds too large for a cost matrix: row blocks, costs recomputed at every sweep."""

from collections.abc import Iterator

import torch
from torch import Tensor

from paperworks.transport.monge_gap._costs import Cost, plan_cost
from paperworks.transport.monge_gap._plans import RUNG_SWEEPS, RUNG_TOLERANCE, epsilon_ladder

BLOCK_ENTRIES = 2**22


def streamed_mean_cost(cost: Cost, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean of c(x_i, y_j) over all pairs."""
    with torch.no_grad():
        totals = [cost(x[rows], y).sum() for rows in _row_blocks(x, y)]
    return torch.stack(totals).sum() / (len(x) * len(y))


def streamed_plan_cost(
    cost: Cost, x: Tensor, y: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, *, tol: float, max_iter: int
) -> tuple[Tensor, Tensor, float]:
    """Solve one entropic problem and return (dual value, <P, C>, marginal error); both values carry gradients.

    The gradients are those of sum_ij P_ij c(x_i, y_j) with the plan held constant, gathered block by block.
    """
    with torch.no_grad():
        f, g, error = _potentials(cost, x.detach(), y.detach(), a, b, epsilon, tol, max_iter)
        dual = (a * f).sum() + (b * g).sum()
    x_gradient, y_gradient = torch.zeros_like(x), torch.zeros_like(y)
    plan_value = torch.zeros((), dtype=x.dtype, device=x.device)
    for rows in _row_blocks(x, y):
        x_block, y_all = x[rows].detach().requires_grad_(), y.detach().requires_grad_()
        with torch.no_grad():
            plan = ((f[rows, None] + g - cost(x_block, y_all)) / epsilon).exp_() * a[rows, None] * b
        with torch.enable_grad():
            block_cost = plan_cost(cost, plan, x_block, y_all)
            x_part, y_part = torch.autograd.grad(block_cost, (x_block, y_all), allow_unused=True)
        plan_value = plan_value + block_cost.detach()
        x_gradient[rows] = 0 if x_part is None else x_part
        y_gradient += 0 if y_part is None else y_part
    # A linear function of x and y with value 0 carries the gradient.
    carrier = ((x - x.detach()) * x_gradient).sum() + ((y - y.detach()) * y_gradient).sum()
    return dual + carrier, plan_value + carrier, error


def _potentials(
    cost: Cost, x: Tensor, y: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, tol: float, max_iter: int
) -> tuple[Tensor, Tensor, float]:
    blocks = list(_row_blocks(x, y))
    extremes = [torch.stack(cost(x[rows], y).aminmax()) for rows in blocks]
    spread = torch.stack(extremes)[:, 1].amax() - torch.stack(extremes)[:, 0].amin()
    f, g, error = torch.zeros_like(x[:, 0]), torch.zeros_like(y[:, 0]), float("inf")
    rungs = epsilon_ladder(spread, epsilon)
    for rung in rungs:
        is_last = rung is rungs[-1]
        for _ in range(max_iter if is_last else RUNG_SWEEPS):
            f, column_sums = _row_update(cost, x, y, a, b, g, rung, blocks)
            # The rows are exact after the update, so that the columns hold the whole error.
            error = float((b * (column_sums - 1).abs()).sum())
            if error <= (tol if is_last else RUNG_TOLERANCE):
                break
            g = g - rung * column_sums.log()
    return f, g, error


def _row_update(
    cost: Cost, x: Tensor, y: Tensor, a: Tensor, b: Tensor, g: Tensor, epsilon: Tensor, blocks: list[slice]
) -> tuple[Tensor, Tensor]:
    """Return f that makes the rows exact, and the column sums of the plan over b: one exponential an entry."""
    f, column_sums = torch.empty_like(x[:, 0]), torch.zeros_like(g)
    for rows in blocks:
        logits = (g - cost(x[rows], y)).div_(epsilon)
        largest = logits.amax(-1, keepdim=True)
        kernel = logits.sub_(largest).exp_()
        row_sums = kernel @ b
        f[rows] = -epsilon * (largest.squeeze(-1) + row_sums.log())
        column_sums += kernel.mT @ (a[rows] / row_sums)
    return f, column_sums


def _row_blocks(x: Tensor, y: Tensor) -> Iterator[slice]:
    size = max(1, BLOCK_ENTRIES // len(y))
    return (slice(start, start + size) for start in range(0, len(x), size))
