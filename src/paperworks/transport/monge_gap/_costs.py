"""Ground costs c(x, y): all pairs of two point clouds as a matrix, differentiable in both."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from paperworks._tensors import check_finite_tensor
from paperworks._validation import check_choice, check_number

Cost = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PNormCost:
    """Power of a p-norm, c(x, y) = ||x - y||_p^q.

    Strictly convex in x - y, so that optimal maps are unique, for p > 1 and q > 1.

    Parameters
    ----------
    p : float, default 2
        Order of the norm, at least 1; infinity is accepted.
    power : float, default 1
        The exponent q, at least 1.

    Raises
    ------
    TypeError
        If a parameter is not a number.
    ValueError
        If it is below 1.

    References
    ----------
    Théo Uscidda and Marco Cuturi. The Monge Gap: A Regularizer to Learn All Transport Maps. arXiv 2302.04953.

    Examples
    --------
    >>> import torch
    >>> from paperworks.transport import PNormCost
    >>> PNormCost(p=1, power=2)(torch.zeros(1, 2), torch.tensor([[1.0, 1.0], [3.0, -1.0]]))
    tensor([[ 4., 16.]])
    """

    p: float = 2.0
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.p != float("inf"):
            check_number("p", self.p, at_least=1)
        check_number("power", self.power, at_least=1)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the costs between the rows of ``x`` and of ``y``."""
        distance = _distances(x, y, float(self.p))
        return distance if self.power == 1 else distance.pow(float(self.power))


def squared_euclidean(x: Tensor, y: Tensor) -> Tensor:
    """Return ||x - y||^2 for all pairs, as one product of matrices."""
    x, y = _centred(x, y)
    x_side = torch.cat([-2 * x, x.square().sum(-1, keepdim=True), torch.ones_like(x[..., :1])], dim=-1)
    y_side = torch.cat([y, torch.ones_like(y[..., :1]), y.square().sum(-1, keepdim=True)], dim=-1)
    return (x_side @ y_side.mT).clamp_min_(0)


def euclidean(x: Tensor, y: Tensor) -> Tensor:
    """Return ||x - y|| for all pairs; its gradient is 0 where x = y."""
    return _distances(x, y, 2.0)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 - cos(x, y) for all pairs."""
    return 1 - _directions(x, "cosine") @ _directions(y, "cosine").mT


def geodesic(x: Tensor, y: Tensor) -> Tensor:
    """Return the angle between x and y for all pairs: arc length on the unit sphere."""
    x, y = _directions(x, "geodesic"), _directions(y, "geodesic")
    # The half-angle formula keeps its digits, and a bounded gradient, where arccos(x . y) loses both.
    return 2 * torch.atan2(_distances(x, y, 2.0), _distances(x, -y, 2.0))


COSTS: dict[str, Cost] = {
    "sqeuclidean": squared_euclidean,
    "euclidean": euclidean,
    "cosine": cosine,
    "geodesic": geodesic,
}


def resolve_cost(name: str, cost: str | Cost) -> Cost:
    """Return the cost that the argument ``name`` asks for; the user's own is checked at each call."""
    if isinstance(cost, str):
        return COSTS[check_choice(name, cost, COSTS)]
    if isinstance(cost, PNormCost):
        return cost
    if not callable(cost):
        raise TypeError(f"{name} must be one of {', '.join(map(repr, COSTS))} or a callable, got {cost!r}")
    return _CheckedCost(name, cost)


@dataclass(frozen=True)
class _CheckedCost:
    """A user's cost between clouds of shapes (n, d) and (m, e), checked for its shape and for NaN."""

    name: str
    user_cost: Cost

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if x.ndim > 2:
            return torch.stack([self(x_one, y_one) for x_one, y_one in zip(x, y, strict=True)])
        costs = self.user_cost(x, y)
        if not isinstance(costs, Tensor) or not costs.is_floating_point():
            raise TypeError(f"{self.name} must return a tensor of floating-point numbers, got {type(costs).__name__}")
        if costs.shape != (len(x), len(y)):
            raise ValueError(
                f"{self.name} must return shape {(len(x), len(y))} for clouds of shapes {tuple(x.shape)} and "
                f"{tuple(y.shape)}, got {tuple(costs.shape)}"
            )
        check_finite_tensor(f"the result of {self.name}", costs)
        return costs


def accepts_other_dimension(cost: Cost) -> bool:
    """Whether x and y may live in different spaces: only the user's own cost can compare those."""
    return isinstance(cost, _CheckedCost)


def is_symmetric(cost: Cost) -> bool:
    """Whether c(x, y) = c(y, x) is known."""
    return not isinstance(cost, _CheckedCost)


def paired_costs(cost: Cost, x: Tensor, y: Tensor) -> Tensor:
    """Return c(x_i, y_i) for each i."""
    if isinstance(cost, _CheckedCost):
        return cost(x, y).diagonal(dim1=-2, dim2=-1)
    return cost(x.unsqueeze(-2), y.unsqueeze(-2)).squeeze(-1).squeeze(-1)


def plan_cost(cost: Cost, plan: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return sum_ij plan_ij c(x_i, y_j), differentiable in x and y; the plan is a constant."""
    if cost is not squared_euclidean:
        return (plan * cost(x, y)).sum((-2, -1))
    # ||x - y||^2 = ||x||^2 + ||y||^2 - 2 x . y: one product of matrices forwards and one for each gradient.
    x, y = _centred(x, y)
    squares = (plan.sum(-1) * x.square().sum(-1)).sum(-1) + (plan.sum(-2) * y.square().sum(-1)).sum(-1)
    return squares - 2 * (x * (plan @ y)).sum((-2, -1))


def cost_matrix(cost: Cost, x: Tensor, y: Tensor) -> tuple[Tensor, Callable[[Any], Tensor]]:
    """Return the matrix of costs, detached, and the function plan -> sum_ij plan_ij c(x_i, y_j) with its gradients."""
    if cost is squared_euclidean:
        with torch.no_grad():
            matrix = cost(x, y)
        return matrix, lambda plan: plan_cost(cost, plan, x, y)
    matrix = cost(x, y)
    return matrix.detach(), lambda plan: (plan * matrix).sum((-2, -1))


def _centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    # Far from the origin ||x||^2 + ||y||^2 - 2 x . y would cancel; a common shift changes no difference.
    centre = y.detach().mean(-2, keepdim=True)
    return x - centre, y - centre


def _distances(x: Tensor, y: Tensor, p: float) -> Tensor:
    # Through the product of matrices a distance of 0 would come out as the square root of a rounding error.
    return torch.cdist(x, y, p=p, compute_mode="donot_use_mm_for_euclid_dist")


def _directions(x: Tensor, name: str) -> Tensor:
    if bool((x.detach().square().sum(-1) == 0).any()):
        raise ValueError(f"cost={name!r} compares directions, and a point at the origin has none")
    return normalize(x, dim=-1)
