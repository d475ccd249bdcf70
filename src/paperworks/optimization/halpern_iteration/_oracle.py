"""What all methods here share: an operator whose evaluations are counted, and the record of a run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from warnings import warn

import numpy as np
from scipy.optimize import OptimizeResult
from sklearn.exceptions import ConvergenceWarning

from paperworks._validation import check_floating, check_integer, check_number
from paperworks.optimization.halpern_iteration._operators import FiniteSumOperator, Indices, Vector

Resolvent = Callable[[Vector, float], Vector]
Callback = Callable[[OptimizeResult], object]

# Full evaluations that are allowed when nothing is said.
FULL_EVALUATIONS = 10_000


class Oracle:
    """An operator and a resolvent whose calls are counted and whose values must be finite.

    Attributes
    ----------
    n_calls : int
        Components evaluated: n by a full evaluation, 2 b by a difference over a batch of b.
    n_full : int
        Full evaluations.
    iteration : int
        Where the method is, for messages.
    """

    def __init__(self, operator: FiniteSumOperator, resolvent: Resolvent | None) -> None:
        if not isinstance(operator, FiniteSumOperator):
            raise TypeError(f"operator must be a FiniteSumOperator, got {type(operator).__name__}")
        if resolvent is not None and not callable(resolvent):
            raise TypeError(f"resolvent must be callable, got {type(resolvent).__name__}")
        self.operator, self.resolvent = operator, resolvent
        self.n_calls = self.n_full = self.iteration = 0
        self._last: tuple[Vector, Vector] | None = None
        self._warned = False

    def full(self, u: Vector) -> Vector:
        """F(u)."""
        self.n_calls += self.operator.n_components
        self.n_full += 1
        value = self._checked("operator.full", self.operator.full(u), u)
        self._watch(u, value)
        return value

    def difference(self, new: Vector, old: Vector, indices: Indices) -> Vector:
        """Mean over a batch of F_i(new) - F_i(old)."""
        self.n_calls += 2 * len(indices)
        values = [self._checked("operator.batch", self.operator.batch(u, indices), u) for u in (new, old)]
        return values[0] - values[1]

    def resolve(self, v: Vector, step_size: float) -> tuple[Vector, Vector | float]:
        """Return u = J(v) and the element g = (v - u) / step_size of G(u)."""
        if self.resolvent is None:
            return v, 0.0
        u = self._checked("resolvent", self.resolvent(v, step_size), v)
        return u, (v - u) / step_size

    def _checked(self, name: str, value: Any, like: Vector) -> Vector:
        array = np.asarray(value, dtype=like.dtype)
        if array.shape != like.shape:
            raise ValueError(f"{name} must return an array of shape {like.shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} returned NaN or infinity at iteration {self.iteration}, for u = {like}")
        return array

    def _watch(self, u: Vector, value: Vector) -> None:
        """Warn once if two visited points show that F is not monotone."""
        if self._last is not None and not self._warned:
            moved, changed = u - self._last[0], value - self._last[1]
            rounding = 100 * np.finfo(u.dtype).eps * np.linalg.norm(moved) * np.linalg.norm(value)
            if moved @ changed < -1e-8 * np.linalg.norm(moved) * np.linalg.norm(changed) - rounding:
                self._warned = True
                warn(
                    f"operator is not monotone: <F(u) - F(v), u - v> = {moved @ changed:.3g} for two points visited up "
                    f"to iteration {self.iteration}; nothing is guaranteed",
                    RuntimeWarning,
                    stacklevel=6,
                )
        self._last = (u, value)


@dataclass
class Run:
    """A run's limits and what it has recorded: the certified points, and which of them is the answer."""

    oracle: Oracle
    tolerance: float
    max_oracle_calls: int
    callback: Callback | None = None
    bar: Any = None
    x: Vector | None = None
    g: Vector | None = None
    residual: float = np.inf
    history: dict[str, list[float]] = field(
        default_factory=lambda: {"iteration": [], "oracle_calls": [], "residual": []}
    )

    def certify(self, u: Vector, value: Vector, g: Vector | float) -> bool:
        """Record ||F(u) + g|| at the last iterate, and say whether it is small enough."""
        self.x, self.g = u, np.broadcast_to(g, u.shape)
        self.residual = float(np.linalg.norm(value + g))
        found = (self.oracle.iteration, self.oracle.n_calls, self.residual)
        for name, entry in zip(self.history, found, strict=True):
            self.history[name].append(entry)
        return self.residual <= self.tolerance

    def stepped(self, u: Vector, g: Vector | float) -> None:
        """Count an iteration and show it."""
        self.oracle.iteration += 1
        if self.bar is not None:
            self.bar.update(min(self.oracle.n_calls, self.max_oracle_calls) - self.bar.n)
            if self.history["residual"]:
                self.bar.set_postfix(residual=f"{self.residual:.2e}", refresh=False)
        if self.callback is not None:
            oracle = self.oracle
            self.callback(OptimizeResult(x=u, g=g, nit=oracle.iteration, n_oracle_calls=oracle.n_calls))

    @property
    def spent(self) -> bool:
        """Whether no call is left, but those of the certificate at the end."""
        return self.oracle.n_calls >= self.max_oracle_calls

    def result(self) -> OptimizeResult:
        """Close the run, with a warning if it did not converge."""
        success = self.residual <= self.tolerance
        message = f"residual {self.residual:.3g}, {'at most' if success else 'above'} tolerance {self.tolerance:.3g}"
        if not success:
            message += f", after {self.oracle.n_calls} oracle calls of {self.max_oracle_calls} allowed"
            warn(f"not converged: {message}", ConvergenceWarning, stacklevel=3)
        return OptimizeResult(
            x=self.x,
            g=self.g,
            residual=self.residual,
            fun=self.residual,
            nit=self.oracle.iteration,
            n_oracle_calls=self.oracle.n_calls,
            n_full_evaluations=self.oracle.n_full,
            success=success,
            status=0 if success else 1,
            message=message,
            history={name: np.array(entries) for name, entries in self.history.items()},
        )


def start(x0: Any, operator: FiniteSumOperator) -> Vector:
    """Check the starting point."""
    u = check_floating("x0", x0, ndim=1).copy()
    if len(u) != operator.dimension:
        raise ValueError(f"x0 must have {operator.dimension} entries, got {len(u)}")
    return u


def new_run(
    oracle: Oracle, tolerance: Any, max_oracle_calls: int | None, u: Vector, callback: Callback | None, bar: Any = None
) -> Run:
    """Check the limits of a run."""
    n = oracle.operator.n_components
    limit = FULL_EVALUATIONS * n if max_oracle_calls is None else check_integer("max_oracle_calls", max_oracle_calls)
    run = Run(oracle, check_number("tolerance", tolerance, above=0.0), limit, callback, bar)
    if u.dtype == np.float32 and run.tolerance < 1e-6:
        warn(
            f"tolerance {run.tolerance:g} may be below what float32 can reach: pass x0 as float64",
            UserWarning,
            stacklevel=3,
        )
    return run


def constant_of(name: str, *candidates: float | None) -> float:
    """Return the first constant that is known."""
    known = [value for value in candidates if value is not None]
    if not known:
        raise ValueError(f"{name} is needed: pass it or use a helper that knows it")
    return check_number(name, known[0], above=0.0)
