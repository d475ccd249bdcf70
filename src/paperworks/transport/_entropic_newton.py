"""Stages of entropic transport: Sinkhorn sweeps, then Newton steps on the dual with a sparsified Hessian.

Symbols are those of `paperworks.transport.sinkhorn_newton_sparse`: marginals r and c, potentials x and y, eta =
1/regularisation. The marginals sum to 1 and have no zeros here.
"""

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from paperworks.transport._gibbs_kernels import solve_schur
from paperworks.transport._gibbs_plans import GibbsPlan, SparsePlan, Vector, log_of

# Mass that the adaptive rule may drop, as a share of the marginal error: small enough for superlinear convergence.
DROPPED_SHARE, LARGEST_ERROR = 0.1, 1e-2
ARMIJO = 1e-4
# Differences of f below this share of |f| are rounding.
ROUNDING = 1e-14
DAMPING_START, DAMPING_LEAST, DAMPING_REJECTED, DAMPING_MOST = 1e-3, 1e-12, 1e-4, 1e8
MAX_LINEAR_ITERATIONS = 2000
# Column sums below this have lost digits to underflow.
TINY = 1e-150


@dataclass
class Run:
    """Options and counts that all stages of one solve share."""

    eta: float
    tol: float
    max_kept: int
    verbose: bool
    started: float = field(default_factory=perf_counter)
    n_sinkhorn: int = 0
    n_newton: int = 0
    n_linear_iterations: int = 0
    n_nonzeros: list[int] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    stalled: bool = False
    least_error: float = float("inf")
    n_idle: int = 0

    def accept(self, state: "State", trial: "State") -> "State":
        """Go on from ``trial``; thirty steps that gain neither in f nor in the error are a stall."""
        gains = trial.objective - state.objective > ROUNDING * abs(state.objective)
        if gains or trial.error < 0.9 * self.least_error:
            self.n_idle = 0
        else:
            self.n_idle += 1
        self.least_error = min(self.least_error, trial.error)
        self.stalled = self.n_idle >= 30
        return trial

    def record(self, stage: str, error: float, nonzeros: int = 0, iterations: int = 0, step: float = 1.0) -> None:
        seconds = perf_counter() - self.started
        self.history.append(
            {
                "stage": stage,
                "error": error,
                "n_nonzeros": nonzeros,
                "n_linear_iterations": iterations,
                "step": step,
                "seconds": seconds,
            }
        )
        if self.verbose:
            print(f"{stage:8s} error {error:9.2e}  nonzeros {nonzeros:9d}  linear {iterations:5d}  {seconds:8.3f} s")


@dataclass
class State:
    """Potentials with the sums of the plan that they give."""

    x: Vector
    y: Vector
    row_sums: Vector
    column_sums: Vector
    objective: float
    error: float


def rows_normalised(plan: GibbsPlan, r: Vector, c: Vector, y: Vector) -> State:
    """Maximise f over x for the given y; f is then the semi-dual of y."""
    x, column_sums = plan.normalise_rows(y, r)
    return State(x, y, r, column_sums, float(r @ x + c @ y) - 1.0 / plan.eta, float(np.abs(c - column_sums).sum()))


def _state(plan: GibbsPlan, r: Vector, c: Vector, x: Vector, y: Vector) -> State:
    row_sums, column_sums = plan.sums(x, y)
    objective = float(r @ x + c @ y - row_sums.sum() / plan.eta)
    return State(
        x, y, row_sums, column_sums, objective, float(np.abs(r - row_sums).sum() + np.abs(c - column_sums).sum())
    )


def sweep(plan: GibbsPlan, r: Vector, c: Vector, y: Vector, run: Run, n_sweeps: int) -> State:
    """Alternate exact maximisation in x and in y; the state that is returned has exact rows."""
    state = rows_normalised(plan, r, c, y)
    log_c = np.log(c)
    for _ in range(n_sweeps):
        if state.error < run.tol:
            break
        y = state.y + (log_c - np.log(np.maximum(state.column_sums, TINY))) / run.eta
        lost = np.flatnonzero(state.column_sums < TINY)
        if lost.size:
            y[lost] = plan.column_potentials(state.x, log_c, lost)
        state = rows_normalised(plan, r, c, y)
        run.n_sinkhorn += 1
        run.record("sinkhorn", state.error)
    return state


def damped_newton(
    plan: GibbsPlan, r: Vector, c: Vector, state: State, run: Run, max_newton: int, *, drop: bool
) -> State:
    """Levenberg-damped Newton steps on the semi-dual, whose Hessian is the Schur complement of the dual's."""
    damping, last = DAMPING_START, run.n_newton + max_newton
    while state.error >= run.tol and run.n_newton < last and not run.stalled:
        budget = DROPPED_SHARE * min(state.error, LARGEST_ERROR) if drop else 0.0
        kept = _drop_mass(plan, state, budget, run.max_kept)
        gradient = c - state.column_sums
        diagonal = np.maximum(state.column_sums, 1e-3 * c)
        tolerance = min(0.1, max(state.error, 1e-8))
        while run.n_newton < last:
            step, iterations = solve_schur(
                kept.starts,
                kept.columns,
                kept.values,
                (1.0 + damping) * r,
                (1.0 + damping) * diagonal,
                gradient / run.eta,
                tolerance,
                MAX_LINEAR_ITERATIONS,
            )
            trial = rows_normalised(plan, r, c, state.y + step)
            run.n_newton += 1
            run.n_linear_iterations += iterations
            run.n_nonzeros.append(kept.n_nonzeros)
            accepted = _rises(state, trial, ARMIJO * float(gradient @ step))
            run.record("newton", min(trial.error, state.error), kept.n_nonzeros, iterations, float(accepted))
            if accepted:
                state, damping = run.accept(state, trial), max(damping / 5.0, DAMPING_LEAST)
                break
            damping = max(8.0 * damping, DAMPING_REJECTED)
            if damping > DAMPING_MOST:
                run.stalled = True
                break
    return state


def newton_of_the_paper(
    plan: GibbsPlan, r: Vector, c: Vector, state: State, run: Run, max_newton: int, n_kept: int
) -> State:
    """Algorithm 1, stage 2: the largest entries are kept, and f is searched along the step by halving it."""
    last = run.n_newton + max_newton
    while state.error >= run.tol and run.n_newton < last and not run.stalled:
        kept = _largest(plan, state, min(n_kept, run.max_kept))
        gradient_x, gradient_y = r - state.row_sums, c - state.column_sums
        # Diagonals come from the whole plan, so that dropping entries leaves them dominant.
        d1, d2 = np.maximum(state.row_sums, TINY), np.maximum(state.column_sums, TINY)
        S = _as_scipy(kept, plan.shape)
        right = (gradient_y - S.T @ (gradient_x / d1)) / run.eta
        tolerance = min(0.1, max(state.error, 1e-8))
        step_y, iterations = solve_schur(
            kept.starts, kept.columns, kept.values, d1, d2, right, tolerance, MAX_LINEAR_ITERATIONS
        )
        step_x = (gradient_x / run.eta - S @ step_y) / d1
        slope = float(gradient_x @ step_x + gradient_y @ step_y)
        alpha = 1.0
        run.n_linear_iterations += iterations
        while run.n_newton < last:
            trial = _state(plan, r, c, state.x + alpha * step_x, state.y + alpha * step_y)
            run.n_newton += 1
            run.n_nonzeros.append(kept.n_nonzeros)
            accepted = bool(np.isfinite(trial.objective)) and _rises(state, trial, ARMIJO * alpha * slope)
            run.record(
                "newton", trial.error if accepted else state.error, kept.n_nonzeros, iterations, alpha * accepted
            )
            if accepted:
                state = run.accept(state, trial)
                break
            alpha /= 2.0
            if alpha < 1e-12:
                run.stalled = True
                break
    return state


def anneal(plan: GibbsPlan, r: Vector, c: Vector, run: Run, y: Vector, eta: float) -> Vector:
    """Potentials from a ladder of regularisations, each half the one before."""
    wanted_eta, wanted_tol = run.eta, run.tol
    run.tol = 1e-3
    while eta < wanted_eta:
        plan.change_eta(eta)
        run.eta = eta
        state = damped_newton(plan, r, c, sweep(plan, r, c, y, run, 5), run, 20, drop=True)
        y, eta = state.y, 2.0 * eta
        # What stalled at one regularisation says nothing of the next.
        run.stalled, run.n_idle, run.least_error = False, 0, float("inf")
    plan.change_eta(wanted_eta)
    run.eta, run.tol = wanted_eta, wanted_tol
    return y


def _rises(state: State, trial: State, gain: float) -> bool:
    """Armijo's condition; below rounding, where f says nothing, the error must fall instead."""
    if trial.objective >= state.objective + gain:
        return True
    slack = ROUNDING * abs(state.objective)
    return trial.objective >= state.objective - slack and trial.error < state.error


def _drop_mass(plan: GibbsPlan, state: State, budget: float, max_kept: int) -> SparsePlan:
    """Drop the smallest entries, of total mass at most ``budget``, and more of them where memory asks for it."""
    n_entries = plan.shape[0] * plan.shape[1]
    # Entries below this weigh a tenth of the budget all together.
    floor = log_of(0.1 * budget / n_entries)
    counts = plan.count_above(state.x, state.y, floor)
    if counts.sum() > max_kept:
        return _largest(plan, state, max_kept)
    candidates = plan.entries_above(state.x, state.y, floor, counts)
    if candidates.n_nonzeros > 0.3 * n_entries:
        return candidates
    ordered = np.sort(candidates.values)
    dropped = int(np.searchsorted(np.cumsum(ordered), 0.9 * budget))
    return candidates.above(ordered[min(dropped, ordered.size - 1)])


def _largest(plan: GibbsPlan, state: State, n_kept: int) -> SparsePlan:
    """Return the ``n_kept`` largest entries, and those equal to the smallest of them."""
    n_kept = min(n_kept, plan.shape[0] * plan.shape[1])
    # No entry exceeds its row's sum; bisection finds a threshold that few more entries than wanted pass.
    high, low = log_of(float(state.row_sums.max())) + 1e-9, -700.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        count = int(plan.count_above(state.x, state.y, middle).sum())
        if count < n_kept:
            high = middle
        else:
            low = middle
            if count <= 1.5 * n_kept:
                break
    candidates = plan.entries_above(state.x, state.y, low)
    if candidates.n_nonzeros <= n_kept:
        return candidates
    threshold = np.partition(candidates.values, candidates.n_nonzeros - n_kept)[candidates.n_nonzeros - n_kept]
    return candidates.above(threshold)


def _as_scipy(kept: SparsePlan, shape: tuple[int, int]) -> Any:
    return csr_array((kept.values, kept.columns, kept.starts), shape=shape)


def new_run(regularization: float, tol: float, max_memory: int, verbose: bool = False) -> Run:
    """Options of one solve, its counts at zero."""
    # A kept entry takes 12 bytes, and as much again while it is chosen.
    return Run(1.0 / regularization, tol, max(1, max_memory // 32), verbose)


def verdict(error: float, tol: float, run: Run) -> tuple[bool, str]:
    """Whether it converged, and a sentence that says so."""
    steps = f"{run.n_sinkhorn} sweeps and {run.n_newton} Newton steps"
    # The last state's rows are exact, so that summing the plan again moves the error by rounding only.
    if error < tol * (1.0 + 1e-6) + 1e-15:
        return True, f"converged to marginal error {error:.3g} in {steps}"
    if run.stalled:
        reason = "no step improves the dual in float64; tol is below what rounding allows for this regularization"
    elif run.n_newton:
        reason = "raise max_newton (costs with many optimal plans need several hundred) or n_sinkhorn"
    else:
        reason = "raise max_iter, or use sinkhorn_newton"
    return False, f"marginal error {error:.3g} is above tol={tol:.3g} after {steps}: {reason}"
