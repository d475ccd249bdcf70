"""Entropic transport plans: stabilised Sinkhorn scaling along a ladder of falling regularisation, no autograd."""

from dataclasses import dataclass
from math import ceil, log, sqrt

import torch
from torch import Tensor

# Regularisation falls by at most this factor from one rung of the ladder to the next. From a plan whose columns are
# exact, the next rung's columns then sum to at least n^-4 (Jensen), so that no scaling under- or overflows.
LADDER_FACTOR = 4.0
RUNG_TOLERANCE, RUNG_SWEEPS = 0.1, 5
SWEEPS_PER_CHECK = 10
LARGEST_RELAXATION = 1.95


@dataclass(frozen=True)
class EntropicPlan:
    """Solution of min_P <C, P> + epsilon KL(P | a b') over plans with marginals a and b.

    ``value`` is the dual objective sum(a f) + sum(b g) - epsilon (sum(P) - 1): never above the minimum, and off by
    the square of the marginal error only.
    """

    plan: Tensor
    value: Tensor
    target_potential: Tensor
    marginal_error: float
    converged: bool
    n_sweeps: int


def sinkhorn_plan(cost: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, *, tol: float, max_iter: int) -> EntropicPlan:
    """Solve a batch of entropic transport problems.

    Parameters
    ----------
    cost : Tensor of shape (..., n, m)
        Finite costs.
    a : Tensor of shape (n,)
        Positive weights with sum 1.
    b : Tensor of shape (m,)
        Positive weights with sum 1.
    epsilon : Tensor of shape (...)
        Regularisation of each problem.
    tol : float
        L1 error of the row marginal to stop at; the columns are exact.
    max_iter : int
        Most sweeps at the last rung.
    """
    g = torch.zeros_like(cost[..., 0, :])
    n_sweeps = 0
    *rungs, last = epsilon_ladder(_spread(cost), epsilon)
    for rung in rungs:
        scaling = _Scaling(cost, a, b, rung[..., None, None], g)
        n_sweeps += scaling.run(RUNG_TOLERANCE, RUNG_SWEEPS)
        g = scaling.target_potential()
    scaling = _Scaling(cost, a, b, last[..., None, None], g)
    n_sweeps += scaling.run(tol, max_iter)
    f, g = scaling.source_potential(), scaling.target_potential()
    value = (a * f).sum(-1) + (b * g).sum(-1)
    return EntropicPlan(scaling.plan(), value, g, scaling.error, scaling.error <= tol, n_sweeps)


def symmetric_plan(cost: Tensor, a: Tensor, epsilon: Tensor, *, tol: float, max_iter: int) -> EntropicPlan:
    """Solve problems whose cost matrix is symmetric and whose marginals are equal, by averaged updates.

    One potential f serves both sides; f <- (f + T(f)) / 2 converges in some ten sweeps. Parameters as in
    `sinkhorn_plan`.
    """
    f = torch.zeros_like(cost[..., 0, :])
    n_sweeps = 0
    rungs = epsilon_ladder(_spread(cost), epsilon)
    for rung in rungs:
        is_last = rung is rungs[-1]
        eps = rung[..., None]
        kernel = _floored_exponential((f.unsqueeze(-1) + f.unsqueeze(-2) - cost).div_(eps.unsqueeze(-1)))
        scale, error = torch.ones_like(f), float("inf")
        for sweep in range(1, (max_iter if is_last else RUNG_SWEEPS) + 1):
            row_sums = _times(kernel, a * scale)
            if sweep % 4 == 1 and (error := _largest(a * (scale * row_sums - 1).abs())) <= (
                tol if is_last else RUNG_TOLERANCE
            ):
                break
            scale = (scale / row_sums).sqrt_()
        n_sweeps += sweep
        f = f + eps * scale.log()
    plan = kernel.mul_((a * scale).unsqueeze(-1)).mul_((a * scale).unsqueeze(-2))
    value = 2 * (a * f).sum(-1) - epsilon * (plan.sum((-2, -1)) - 1)
    return EntropicPlan(plan, value, f, error, error <= tol, n_sweeps)


def round_plan(plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return a nearby plan whose marginals are a and b (Altschuler, Weed and Rigollet, arXiv 1705.09634)."""
    plan = plan * (a / plan.sum(-1)).clamp_max(1).unsqueeze(-1)
    plan = plan * (b / plan.sum(-2)).clamp_max(1).unsqueeze(-2)
    row_rest, column_rest = a - plan.sum(-1), b - plan.sum(-2)
    mass = row_rest.sum(-1, keepdim=True).clamp_min(torch.finfo(plan.dtype).tiny)
    return plan + (row_rest / mass).unsqueeze(-1) * column_rest.unsqueeze(-2)


class _Scaling:
    """Sinkhorn at one epsilon: P = diag(a u) K diag(v b) with K = exp((f + g - C) / epsilon) kept between sweeps.

    A sweep is two matrix-vector products; exponentials are taken only when the potentials take in the factors u, v.
    """

    def __init__(self, cost: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, g: Tensor) -> None:
        self.cost, self.a, self.b, self.epsilon = cost, a, b, epsilon
        # Beyond this drift of log u or log v, entries of K that were floored would begin to count.
        self.largest_drift = 10.0 if cost.dtype == torch.float32 else 100.0
        self.error = float("inf")
        self._absorb(g)

    def _absorb(self, g: Tensor) -> None:
        logits = (g.unsqueeze(-2) - self.cost).div_(self.epsilon)
        row_largest = logits.amax(-1, keepdim=True)
        self.kernel = _floored_exponential(logits.sub_(row_largest))
        self.f, self.g = -(self.epsilon * row_largest).squeeze(-1), g
        self.v = torch.ones_like(g)
        self.u = _times(self.kernel, self.b * self.v).reciprocal_()

    def run(self, tol: float, max_sweeps: int) -> int:
        """Sweep until the row marginal's L1 error is at most ``tol``; return the number of sweeps."""
        relaxation, last_error, last_sweep = 1.0, float("inf"), 0
        for sweep in range(1, max_sweeps + 1):
            checking = sweep in (1, 3) or sweep % SWEEPS_PER_CHECK == 0 or sweep == max_sweeps
            column_sums = _times(self.kernel.mT, self.a * self.u)
            # A plain column update makes the columns exact, so that the row error is the whole error.
            self.v = _relaxed(self.v, column_sums, 1.0 if checking else relaxation)
            row_sums = _times(self.kernel, self.b * self.v)
            if checking:
                self.error = _largest(self.a * (self.u * row_sums - 1).abs())
                if self.error <= tol or sweep == max_sweeps:
                    return sweep
                relaxation = _next_relaxation(relaxation, self.error, last_error, sweep - last_sweep)
                last_error, last_sweep = self.error, sweep
            self.u = _relaxed(self.u, row_sums, relaxation)
            if checking and self._drift() > self.largest_drift:
                self._absorb(self.target_potential())
        return max_sweeps

    def _drift(self) -> float:
        return float(torch.maximum(self.u.log().abs().amax(), self.v.log().abs().amax()))

    def source_potential(self) -> Tensor:
        return self.f + self.epsilon.squeeze(-1) * self.u.log()

    def target_potential(self) -> Tensor:
        return self.g + self.epsilon.squeeze(-1) * self.v.log()

    def plan(self) -> Tensor:
        """Return P, in the kernel's memory."""
        return self.kernel.mul_((self.a * self.u).unsqueeze(-1)).mul_((self.b * self.v).unsqueeze(-2))


def epsilon_ladder(spread: Tensor, epsilon: Tensor) -> list[Tensor]:
    """Return falling regularisations, from the spread of the costs (where the plan is nearly a b') to ``epsilon``."""
    start = torch.maximum(spread, epsilon)
    n_rungs = ceil(log(float((start / epsilon).amax())) / log(LADDER_FACTOR))
    return [*(start * (epsilon / start) ** (rung / n_rungs) for rung in range(n_rungs)), epsilon]


def _spread(cost: Tensor) -> Tensor:
    return cost.amax((-2, -1)) - cost.amin((-2, -1))


def _next_relaxation(relaxation: float, error: float, last_error: float, n_sweeps: int) -> float:
    """Return the factor of over-relaxation for the next sweeps.

    From the rate r at which the error falls a sweep under a factor w follows the rate of plain Sinkhorn,
    (r + w - 1)^2 / (r w^2), and from it the best factor, as in successive over-relaxation (Lehmann, von Renesse,
    Sambale and Uschmajew, arXiv 2012.12562). After an error that grew, plain sweeps restore its descent.
    """
    if error > last_error:
        return 1.0
    rate = (error / last_error) ** (1 / n_sweeps)
    if n_sweeps < 2 or rate <= relaxation - 1 or error == 0:
        return relaxation
    plain_rate = min((rate + relaxation - 1) ** 2 / (rate * relaxation**2), 1.0)
    return min(2 / (1 + sqrt(1 - plain_rate)), LARGEST_RELAXATION)


def _relaxed(factor: Tensor, sums: Tensor, relaxation: float) -> Tensor:
    if relaxation == 1:
        return sums.reciprocal()
    return factor * (factor * sums).pow_(-relaxation)


def _floored_exponential(logits: Tensor) -> Tensor:
    # Subnormal numbers slow a product of matrices tenfold; what is floored is far below a unit of rounding.
    return logits.clamp_min_(-60.0 if logits.dtype == torch.float32 else -600.0).exp_()


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return matrix @ vector if matrix.ndim == 2 else (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _largest(row_errors: Tensor) -> float:
    return float(row_errors.sum(-1).amax())
