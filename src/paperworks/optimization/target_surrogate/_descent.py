"""Minimising a surrogate over parameters: gradient descent with Armijo backtracking, or a user's optimiser."""

from collections.abc import Callable, Sequence
from math import ceil, isfinite, log

import torch
from torch import Tensor

# The authors' settings of the line search.
SUFFICIENT_DECREASE = 0.5
SHRINK = 0.9
GROW = 1.8
FIRST_STEP = 10.0
MAX_BACKTRACKS = 100
# One interpolation moves the step by this factor at most.
MOST_SHRINKS_AT_ONCE = 22


def shrinks(trial: float, wanted: float) -> int:
    """How often a trial step must shrink to come down to a wanted one."""
    return max(0, ceil(log(wanted / trial) / log(SHRINK) - 1e-9)) if wanted < trial else 0


def armijo_descent(
    parameters: list[Tensor],
    surrogate: Callable[[], Tensor],
    gradients: Sequence[Tensor],
    n_steps: int,
    tolerance: float,
    scale: float,
) -> int:
    r"""Take steps of gradient descent on a surrogate, each the largest on a grid with

    .. math:: s(\theta - \alpha \nabla s) \le s(\theta) - \tfrac12 \alpha \|\nabla s\|^2.

    A rejected trial tells the curvature along the gradient, and the next trial is where a parabola puts the answer: for
    a model that is linear in its parameters just where backtracking would end, after one trial instead of many. A trial
    that is accepted is also the forward pass of the next gradient.

    Parameters
    ----------
    parameters : list of Tensor
        What is moved, in place.
    surrogate : callable
        Value at the parameters, with its graph; zero at the start.
    gradients : sequence of Tensor
        Its gradient at the start.
    n_steps : int
        Steps at most.
    tolerance : float
        Norm of the gradient to stop at.
    scale : float
        Size of the terms that cancel in the value, which bounds what rounding can do to it.

    Returns
    -------
    int
        Steps taken: fewer where the gradient vanishes, or no step lowers the surrogate any more.
    """
    step, before = FIRST_STEP, 0.0
    for taken in range(n_steps):
        square = float(sum((each * each).sum() for each in gradients))
        if square**0.5 <= tolerance or not isfinite(square):
            return taken
        allowed = torch.finfo(gradients[0].dtype).eps * (abs(before) + scale)
        start = [each.detach().clone() for each in parameters]
        try:
            for _ in range(MAX_BACKTRACKS):
                _move(parameters, start, gradients, step)
                value = surrogate()
                after = float(value.detach())
                if after <= before - SUFFICIENT_DECREASE * step * square + allowed:
                    break
                step *= SHRINK ** _next_trial(before, after, step, square)
            if not after < before:
                # Nothing is left but rounding, or every trial was too high.
                _move(parameters, start, gradients, 0.0)
                return taken
            if taken + 1 < n_steps:
                gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        except BaseException:
            # An interrupt, or a model that fails on a trial, leaves the last complete step.
            _move(parameters, start, gradients, 0.0)
            raise
        before = after
        step *= GROW
    return n_steps


def _next_trial(before: float, after: float, step: float, square: float) -> int:
    """Shrinks until a parabola through value, slope and the rejected trial allows the step."""
    curvature = 2 * (after - before + step * square) / step**2
    if not isfinite(curvature):
        return MOST_SHRINKS_AT_ONCE
    wanted = 2 * (1 - SUFFICIENT_DECREASE) * square / curvature
    return min(max(1, shrinks(step, wanted)), MOST_SHRINKS_AT_ONCE)


@torch.no_grad()
def _move(parameters: list[Tensor], start: list[Tensor], gradients: Sequence[Tensor], step: float) -> None:
    for parameter, origin, gradient in zip(parameters, start, gradients, strict=True):
        parameter.copy_(origin if step == 0.0 else torch.add(origin, gradient, alpha=-step))


def descent_by(
    optimizer: torch.optim.Optimizer,
    parameters: list[Tensor],
    surrogate: Callable[[], Tensor],
    gradients: Sequence[Tensor],
    n_steps: int,
) -> int:
    """Take steps of a torch optimizer on a surrogate, one forward and one backward pass each; return their number."""
    ready = [gradients]

    def closure() -> float:
        # The first gradient is there already, and the value there is zero.
        found, value = ready.pop() if ready else None, 0.0
        if found is None:
            current = surrogate()
            found = torch.autograd.grad(current, parameters, allow_unused=True, materialize_grads=True)
            value = float(current.detach())
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient
        return value

    for _ in range(n_steps):
        optimizer.step(closure)
    optimizer.zero_grad()
    return n_steps
