"""Steps in the space of targets: their schedules, and the search for one on the loss itself."""

from collections.abc import Callable
from typing import Any, Literal
from warnings import warn

from paperworks._validation import check_choice, check_integer, check_number
from paperworks.optimization.target_surrogate._descent import GROW, MAX_BACKTRACKS, SHRINK, SUFFICIENT_DECREASE

Schedule = Literal["constant", "inverse_sqrt", "exponential"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "inverse_sqrt", "exponential")
# The authors' bounds on a step that is searched for.
SMALLEST, LARGEST = 1e-4, 1e4


def check_schedule(schedule: Any, total_steps: Any) -> None:
    """Refuse an unknown schedule, and the exponential one without its number of steps."""
    check_choice("schedule", schedule, SCHEDULES)
    if total_steps is not None:
        check_integer("total_steps", total_steps)
    elif schedule == "exponential":
        raise ValueError("total_steps is needed with schedule='exponential', got None")


def decay(schedule: Schedule, step: int, total_steps: int | None) -> float:
    """Factor of the step size at step 1, 2, ..."""
    if schedule == "inverse_sqrt":
        return float(step**-0.5)
    if schedule == "exponential":
        assert total_steps is not None
        return float((1 / total_steps) ** (step / total_steps))
    return 1.0


def initial_step_size(step_size: Any, smoothness: Any, stacklevel: int) -> float:
    """Return eta: the given one, else 1 / L, else 1, which is right for losses as smooth as half the squared error."""
    limit = None if smoothness is None else 1 / check_number("smoothness", smoothness, above=0.0)
    if step_size is None:
        return limit or 1.0
    eta = check_number("step_size", step_size, above=0.0)
    if limit is not None and eta > limit * (1 + 1e-12):
        warn_of_a_long_step(eta, limit, stacklevel + 1)
    return eta


def warn_of_a_long_step(eta: float, limit: float, stacklevel: int) -> None:
    """Say that the surrogate is no bound."""
    warn(
        f"step_size {eta:g} is above 1 / smoothness = {limit:g}: the surrogate is no upper bound of the loss, "
        "which may then rise",
        UserWarning,
        stacklevel=stacklevel + 1,
    )


def searched_step_size(loss: Callable[[Any], float], z: Any, g: Any, before: float, eta: float) -> float:
    """Search the space of targets by backtracking, from a step grown by 1.8.

    Parameters
    ----------
    loss : callable
        Mean loss at outputs of shape (n, m).
    z, g : array or Tensor of shape (n, m)
        Outputs and gradients of the rows' losses.
    before : float
        Mean loss at z.
    eta : float
        Step size of last time.

    Returns
    -------
    float
        The largest of the grid with l(z - eta g) <= l(z) - eta ||g||^2 / 2, between 1e-4 and 1e4.
    """
    square = float((g * g).sum()) / len(g)
    eta *= GROW
    for _ in range(MAX_BACKTRACKS):
        if loss(z - eta * g) <= before - SUFFICIENT_DECREASE * eta * square or eta <= SMALLEST:
            break
        eta *= SHRINK
    return min(max(eta, SMALLEST), LARGEST)
