"""Differentiable entropic transport costs between clouds: the plan without autograd, the gradient by the envelope."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from paperworks.transport.monge_gap._costs import Cost, cost_matrix
from paperworks.transport.monge_gap._plans import EntropicPlan, sinkhorn_plan, symmetric_plan
from paperworks.transport.monge_gap._streaming import streamed_mean_cost, streamed_plan_cost

# Above this many pairs the matrix of costs is never stored.
LARGEST_MATRIX = 4096**2
LARGEST_NEWTON, NEWTON_STEPS = 2048, 500
SWEEPS_BEFORE_NEWTON = 200
# A smaller tolerance on the marginals is beyond the rounding of float32.
SMALLEST_FLOAT32_TOLERANCE = 1e-5


@dataclass(frozen=True)
class EntropicCost:
    """W_epsilon of clouds of points.

    ``value`` is min <P, C> + epsilon KL(P | a b') with its gradient; ``pair(plan)`` is <plan, C> with the gradient at
    the plan held constant. Where the clouds were streamed there is no plan, and ``pair`` speaks of the optimal one.
    """

    value: Tensor
    epsilon: Tensor
    error: float
    converged: bool
    plan: Tensor | None
    pair: Callable[[Tensor | None], Tensor]


def entropic_cost(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    cost: Cost,
    *,
    epsilon: Tensor | None = None,
    relative_epsilon: float = 0.0,
    tol: float,
    max_iter: int,
    symmetric: bool = False,
    finish: bool = True,
    keep_plan: bool = False,
) -> EntropicCost:
    """Solve min_P <P, C> + epsilon KL(P | a b') between clouds of shapes (..., n, d) and (..., m, d).

    ``epsilon`` of shape (...) or, where it is None, ``relative_epsilon`` times the mean cost. ``symmetric`` says that
    x is y and that c is symmetric; ``finish`` lets Newton steps end what Sinkhorn could not.
    """
    if x.ndim == 2 and len(x) * len(y) > LARGEST_MATRIX and not keep_plan:
        if epsilon is None:
            epsilon = relative_regularization(relative_epsilon, streamed_mean_cost(cost, x.detach(), y.detach()))
        value, pair, error = streamed_plan_cost(cost, x, y, a, b, epsilon, tol=tol, max_iter=max_iter)
        return EntropicCost(value, epsilon, error, error <= tol, None, lambda _: pair)
    matrix, weigh = cost_matrix(cost, x, y)
    if epsilon is None:
        epsilon = relative_regularization(relative_epsilon, matrix.mean((-2, -1)))
    if symmetric:
        solved = symmetric_plan(matrix, a, epsilon, tol=tol, max_iter=max_iter)
    elif finish and max(matrix.shape[-2:]) <= LARGEST_NEWTON:
        solved = _solved_with_newton(matrix, a, b, epsilon, tol, max_iter)
    else:
        solved = sinkhorn_plan(matrix, a, b, epsilon, tol=tol, max_iter=max_iter)
    # The dual's derivative in C at fixed potentials is P: the true value in front, the gradient of <P, C> behind.
    surrogate = weigh(solved.plan)
    value = surrogate + (solved.value - surrogate.detach())
    return EntropicCost(value, epsilon, solved.marginal_error, solved.converged, solved.plan, weigh)


def relative_regularization(relative_epsilon: float, mean_cost: Tensor) -> Tensor:
    """Return ``relative_epsilon`` times the mean cost, which must be positive."""
    if not bool((mean_cost > 0).all()):
        raise ValueError(
            f"relative_epsilon needs a positive mean cost, got {float(mean_cost.min()):g}; give epsilon in its place"
        )
    return relative_epsilon * mean_cost


def warn_unconverged(error: float, tol: float, stacklevel: int) -> None:
    """Say that Sinkhorn stopped above its tolerance."""
    warnings.warn(
        f"the transport plan's marginal error is {error:.1e}, above {tol:g}: more sweeps or a greater epsilon help",
        ConvergenceWarning,
        stacklevel=stacklevel + 1,
    )


def computing_dtype(dtype: torch.dtype, tol: float) -> torch.dtype:
    """Return the type in which a plan is solved to ``tol``."""
    return torch.float64 if dtype == torch.float64 or tol < SMALLEST_FLOAT32_TOLERANCE else torch.float32


def _solved_with_newton(
    matrix: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, tol: float, max_iter: int
) -> EntropicPlan:
    """Solve by Sinkhorn; what is left above ``tol`` then goes to Newton steps, which weak regularisation does not slow.

    A tight tolerance goes there early; if Newton fails, Sinkhorn has its ``max_iter`` sweeps after all.
    """
    first = min(max_iter, SWEEPS_BEFORE_NEWTON) if tol < SMALLEST_FLOAT32_TOLERANCE else max_iter
    solved = sinkhorn_plan(matrix, a, b, epsilon, tol=tol, max_iter=first)
    if not solved.converged:
        solved = _finished_by_newton(matrix, a, b, epsilon, tol, solved)
    if not solved.converged and first < max_iter:
        longer = sinkhorn_plan(matrix, a, b, epsilon, tol=tol, max_iter=max_iter)
        solved = longer if longer.marginal_error < solved.marginal_error else solved
    return solved


def _finished_by_newton(
    matrix: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, tol: float, unfinished: EntropicPlan
) -> EntropicPlan:
    """Continue with the sparse Newton steps of arXiv 2401.12253, problem by problem, from Sinkhorn's potentials."""
    from paperworks.transport.sinkhorn_newton_sparse import sinkhorn_newton

    n, m = matrix.shape[-2:]
    weights = (a.double() / a.double().sum(), b.double() / b.double().sum())
    # There P = exp((f + g - C) / epsilon - 1), without the weights in front.
    starts = unfinished.target_potential.double() + epsilon[..., None] * weights[1].log()
    problems = zip(matrix.reshape(-1, n, m), epsilon.reshape(-1).tolist(), starts.reshape(-1, m), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        results = [
            sinkhorn_newton(
                cost.double(), *weights, regularization=eps, initial_dual=start,
                tol=tol, n_sinkhorn=2, max_newton=NEWTON_STEPS,
            )
            for cost, eps, start in problems
        ]  # fmt: skip
    error = max(result.marginal_error for result in results)
    if not error < unfinished.marginal_error:
        return unfinished
    # sum P log P = KL(P | a b') + sum a log a + sum b log b.
    values = torch.stack([result.regularized_value for result in results]).reshape(epsilon.shape)
    values = values - epsilon * (torch.xlogy(weights[0], weights[0]).sum() + torch.xlogy(weights[1], weights[1]).sum())
    plans = torch.stack([result.plan for result in results]).reshape(matrix.shape)
    return replace(
        unfinished, plan=plans.to(matrix), value=values.to(matrix), marginal_error=error, converged=error <= tol
    )
