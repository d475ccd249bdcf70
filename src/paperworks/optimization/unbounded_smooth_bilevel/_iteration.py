"""One iteration of a single-loop bilevel method, of which BO-REP is one setting and its rivals are others."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, isfinite, sqrt
from typing import Any, Literal
from warnings import warn

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from paperworks._validation import check_choice, check_integer, check_number
from paperworks.optimization.unbounded_smooth_bilevel._hypergradient import COUNTS, PRODUCTS, Oracle, Tensors, norm

Schedule = Literal["inverse_sqrt", "constant"]
SCHEDULES: tuple[Schedule, ...] = ("inverse_sqrt", "constant")
Iterate = Literal["last", "average"]
ITERATES: tuple[Iterate, ...] = ("last", "average")
# Keeps the normalised momentum defined where it vanishes: no momentum, no step.
EPSILON = 1e-10
POWER_ITERATIONS = 10
# Steps over which the residual of the linear system is averaged before it is judged, and how many such windows pass
# before it is.
WINDOW, WINDOWS = 100, 5


@dataclass(frozen=True)
class Settings:
    """What a method is, besides its losses; the parameters of `UnboundedSmoothBilevel` and what its rivals do else.

    Attributes
    ----------
    normalized : bool
        Whether x moves by eta along the momentum's direction, rather than by eta times the momentum.
    linear : {"step", "neumann", "random"}
        How z comes: one step of descent from the last z; the partial sum of Neumann's series, anew each time; or one
        term of it, drawn at random, in place of the sum.
    neumann_terms : int
        Terms of the series.
    upper_decay, lower_decay : float
        Exponents of 1 / (1 + k / decay_start) in the steps of x and of y.
    """

    upper_lr: float = 0.05
    lower_lr: float = 0.05
    linear_system_lr: float = 0.01
    momentum: float = 0.9
    period: int = 2
    lower_steps: int = 3
    refinement_epochs: int = 5
    refinement_steps: int = 20
    projection_radius: float = inf
    lower_iterate: Iterate = "last"
    schedule: Schedule = "inverse_sqrt"
    decay_start: float = 100.0
    shared_batch: bool = False
    normalized: bool = True
    linear: Literal["step", "neumann", "random"] = "step"
    neumann_terms: int = 10
    upper_decay: float = 0.5
    lower_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("upper_lr", "lower_lr", "linear_system_lr", "decay_start"):
            check_number(name, getattr(self, name), above=0.0)
        check_number("momentum", self.momentum, at_least=0.0)
        if not self.momentum < 1:
            raise ValueError(f"momentum must be below 1, got {self.momentum!r}")
        for name in ("period", "lower_steps", "refinement_steps", "neumann_terms"):
            check_integer(name, getattr(self, name))
        check_integer("refinement_epochs", self.refinement_epochs, at_least=0)
        if self.projection_radius != inf:
            check_number("projection_radius", self.projection_radius, above=0.0)
        check_choice("lower_iterate", self.lower_iterate, ITERATES)
        check_choice("schedule", self.schedule, SCHEDULES)
        if not isinstance(self.shared_batch, bool):
            raise TypeError(f"shared_batch must be True or False, got {self.shared_batch!r}")

    def decay(self, step: int, exponent: float) -> float:
        """Factor of a step size after ``step`` steps."""
        if self.schedule == "constant":
            return 1.0
        return float((1 + step / self.decay_start) ** -exponent)


@dataclass
class State:
    """Where a run is.

    Attributes
    ----------
    x, y : list of Tensor
        Upper and lower variables: leaves, moved in place.
    z, m : list of Tensor
        Solution of the linear system, like y, and momentum, like x.
    record : dict
        Plain numbers, such as the steps made and what was evaluated.
    window : list of Tensor
        z when the present window began.
    """

    x: Tensors
    y: Tensors
    z: Tensors
    m: Tensors
    record: dict[str, Any] = field(default_factory=dict)
    window: Tensors = field(default_factory=list)


def new_record() -> dict[str, Any]:
    """Counters of a run that has not begun."""
    counts = dict.fromkeys(COUNTS, 0)
    return {"step": 0, "refined": False, "counts": counts, "residuals": [0.0, 0.0], "warned": False}


def projected(y: Tensors, centre: Tensors, radius: float) -> None:
    """Bring y back, in place, into the ball around the centre."""
    if radius == inf:
        return
    away = torch._foreach_sub(y, centre)
    distance = float(norm(away))
    if distance > radius:
        torch._foreach_copy_(y, torch._foreach_add(centre, away, alpha=radius / distance))


def descend(
    gradient: Callable[[], Tensors], y: Tensors, n_steps: int, lr: float, radius: float, iterate: Iterate
) -> None:
    """Projected gradient steps on y, in place, in a ball around where it starts."""
    with torch.no_grad():
        centre = [each.clone() for each in y]
        total = [torch.zeros_like(each) for each in y] if iterate == "average" else None
    for _ in range(n_steps):
        found = gradient()
        with torch.no_grad():
            torch._foreach_add_(y, found, alpha=-lr)
            projected(y, centre, radius)
            if total is not None:
                torch._foreach_add_(total, y)
    if total is not None:
        with torch.no_grad():
            torch._foreach_copy_(y, torch._foreach_div(total, n_steps))


def refine(oracle: Oracle, state: State, settings: Settings) -> None:
    """Epochs of stochastic gradient descent on y at a fixed x, in balls that shrink, each from the last one's average.

    Every epoch halves the step, doubles the number of steps and shrinks the radius by sqrt(2).
    """
    lr, n_steps, radius = settings.lower_lr, settings.refinement_steps, settings.projection_radius
    for _ in range(settings.refinement_epochs):
        descend(lambda: oracle.lower_gradient(state.x, state.y), state.y, n_steps, lr, radius, "average")
        lr, n_steps, radius = lr / 2, 2 * n_steps, radius / sqrt(2)
    state.record["refined"] = True


def bilevel_step(oracle: Oracle, state: State, settings: Settings) -> tuple[float, float]:
    """Make one step; return the upper loss on its batch and the norm of the momentum."""
    k = oracle.step = state.record["step"]
    if k == 0:
        _first_checks(oracle, state, settings)
    if (k > 0 or not settings.refinement_epochs) and k % settings.period == 0:
        lr = settings.lower_lr * settings.decay(k, settings.lower_decay)
        descend(
            lambda: oracle.lower_gradient(state.x, state.y),
            state.y,
            settings.lower_steps,
            lr,
            settings.projection_radius,
            settings.lower_iterate,
        )
    value, gradient_x, gradient_y = oracle.upper_gradients(state.x, state.y)
    mixed = _solve_linear(oracle, state, settings, gradient_y)
    with torch.no_grad():
        hypergradient = torch._foreach_sub(gradient_x, mixed)
        beta = settings.momentum
        torch._foreach_mul_(state.m, beta)
        torch._foreach_add_(state.m, hypergradient, alpha=1 - beta)
        length = float(norm(state.m))
        if not isfinite(length):
            raise FloatingPointError(
                f"the hypergradient is NaN or infinite at step {k}: the upper loss is {value:.3g} and z has norm "
                f"{float(norm(state.z)):.3g}"
            )
        eta = settings.upper_lr * settings.decay(k, settings.upper_decay)
        torch._foreach_add_(state.x, state.m, alpha=-eta / (length + EPSILON) if settings.normalized else -eta)
    state.record["step"] = k + 1
    return value, length


def _solve_linear(oracle: Oracle, state: State, settings: Settings, right: Tensors) -> Tensors:
    """Bring z nearer to the solution of H z = right, and return the mixed product with it."""
    x, y, z, nu = state.x, state.y, state.z, settings.linear_system_lr
    if settings.linear == "step":
        if settings.shared_batch:
            # At z as it was before this batch was seen, so that the product has no bias.
            product, mixed = oracle.both(x, y, z)
        else:
            product = oracle.hessian_vector(x, y, z)
        residual = list(torch._foreach_sub(product, right))
        torch._foreach_add_(z, residual, alpha=-nu)
        _watch_residual(state, settings, residual, right)
        return mixed if settings.shared_batch else oracle.mixed(x, y, z)
    terms = settings.neumann_terms
    power = [each.clone() for each in right]
    if settings.linear == "random":
        # One term of the series stands for the sum of all: their number times a term drawn uniformly.
        chosen = int(torch.randint(terms, (), generator=_generator(oracle.step)))
        for _ in range(chosen):
            torch._foreach_add_(power, oracle.hessian_vector(x, y, power), alpha=-nu)
        torch._foreach_copy_(z, torch._foreach_mul(power, nu * terms))
    else:
        total = [each.clone() for each in right]
        for _ in range(terms - 1):
            torch._foreach_add_(power, oracle.hessian_vector(x, y, power), alpha=-nu)
            torch._foreach_add_(total, power)
        torch._foreach_copy_(z, torch._foreach_mul(total, nu))
    return oracle.mixed(x, y, z)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _first_checks(oracle: Oracle, state: State, settings: Settings) -> None:
    """Refine y once, and look at the curvature there."""
    if oracle.hvp == "finite_difference":
        oracle.require_one_batch(state.x, state.y)
    if settings.refinement_epochs and not state.record["refined"]:
        refine(oracle, state, settings)
    curvature = _largest_curvature(oracle, state)
    if curvature < 0:
        warn(
            f"lower loss has negative curvature, {curvature:.3g}, where the run begins: it is not strongly convex in "
            "the lower variables, and nothing is guaranteed",
            UserWarning,
            stacklevel=4,
        )
    elif settings.linear_system_lr * curvature > 2:
        warn(
            f"linear_system_lr={settings.linear_system_lr:g} is above {2 / curvature:.3g}, which is 2 over the largest "
            "curvature of the lower loss: z will diverge",
            UserWarning,
            stacklevel=4,
        )


def _largest_curvature(oracle: Oracle, state: State) -> float:
    """Eigenvalue of H that is largest in size, by power iteration."""
    generator = _generator(0)
    direction = [torch.randn(each.shape, generator=generator).to(each) for each in state.y]
    found = 0.0
    for _ in range(POWER_ITERATIONS):
        length = float(norm(direction))
        if length == 0.0 or not isfinite(length):
            return found
        torch._foreach_div_(direction, length)
        product = oracle.hessian_vector(state.x, state.y, direction)
        found = float(sum((a * b).sum() for a, b in zip(direction, product, strict=True)))
        direction = product
    return found


def _watch_residual(state: State, settings: Settings, residual: Tensors, right: Tensors) -> None:
    """Warn once if z comes no nearer to a solution.

    The residuals of a window add up to the way that z has gone, so that their mean, free of the batches' noise, costs
    nothing to know. Where the lower loss is flat in a direction, it stays what it was.
    """
    size = norm(residual)
    if not isfinite(size):
        raise FloatingPointError(
            f"the linear system's residual is {float(size)} at step {state.record['step']}: lower linear_system_lr"
        )
    if state.record["warned"]:
        return
    squares = state.record["residuals"]
    squares[0] += float(size) ** 2
    squares[1] += float(norm(right))
    k = state.record["step"] + 1
    if k % WINDOW:
        return
    if state.window and k >= WINDOWS * WINDOW:
        mean = float(norm(torch._foreach_sub(state.z, state.window))) / (settings.linear_system_lr * WINDOW)
        if mean > 0.5 * sqrt(squares[0] / WINDOW) and mean > 0.5 * squares[1] / WINDOW:
            state.record["warned"] = True
            warn(
                f"the residual of the linear system, {mean:.3g}, has not shrunk in {k} steps (its right-hand side has "
                f"norm {squares[1] / WINDOW:.3g}): lower loss may not be strongly convex in the lower variables, or "
                "linear_system_lr may be too small",
                ConvergenceWarning,
                stacklevel=5,
            )
    state.window = [each.clone() for each in state.z]
    state.record["residuals"] = [0.0, 0.0]


def check_products(hvp: Any) -> None:
    """Refuse an unknown way to products with second derivatives."""
    check_choice("hvp", hvp, PRODUCTS)


def leaves(name: str, tensors: Any) -> Tensors:
    """Check that tensors can be moved in place."""
    if isinstance(tensors, Tensor):
        raise TypeError(f"{name} must be a sequence of tensors, got one tensor; put it in a list")
    found = list(tensors)
    if not found:
        raise ValueError(f"{name} is empty")
    for i, each in enumerate(found):
        if not isinstance(each, Tensor) or not each.is_floating_point():
            got = getattr(each, "dtype", type(each).__name__)
            raise TypeError(f"{name} must hold tensors of floats, got {got} at index {i}")
        if not each.is_leaf or not each.requires_grad:
            raise ValueError(f"{name} must hold leaves that require gradients, which the tensor at index {i} is not")
        if not bool(torch.isfinite(each.detach()).all()):
            raise ValueError(f"{name} contains NaN or infinity, in the tensor at index {i}")
    return found
