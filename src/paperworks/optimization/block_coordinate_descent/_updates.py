"""What is done to a block: steps by its Lipschitz constant, by a matrix, or by its Hessian."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from scipy.sparse.linalg import splu

from paperworks._validation import check_choice
from paperworks.optimization.block_coordinate_descent._forests import SOLVED, eliminate
from paperworks.optimization.block_coordinate_descent._matrices import Array, Indices
from paperworks.optimization.block_coordinate_descent._models import (
    diagonal_step,
    largest_eigenvalue,
    model_step,
    solve_definite,
)
from paperworks.optimization.block_coordinate_descent._problems import Problem, QuadraticProblem, State
from paperworks.optimization.block_coordinate_descent._selection import SMALL, Choice, FixedBlocks, block_lipschitz

Update = Literal["gradient", "matrix", "newton", "exact", "two_metric", "quadratic_program"]
UPDATES = ("gradient", "matrix", "newton", "exact", "two_metric", "quadratic_program")
# Armijo's condition asks for this part of the decrease that the slope promises.
SUFFICIENT = 1e-4
# Two-metric projection holds what is at most this far from its bound there, if its slope points outwards.
NEAR_BOUND = 1e-4

Step = Callable[[State, Choice], Array]


def updater(problem: Problem, update: str, line_search: bool, fixed: FixedBlocks | None) -> Step:
    """Return the function that gives the step of a chosen block."""
    check_choice("update", update, UPDATES)
    composite = bool(problem.l1 or problem.nonnegative)
    if line_search and update != "gradient":
        raise ValueError(f"line_search is for update='gradient'; {update!r} searches where it needs to")
    if update == "exact" and not problem.quadratic:
        raise ValueError("update='exact' is for least squares and quadratic problems; take 'newton' or 'matrix'")
    if update == "two_metric" and not problem.nonnegative:
        raise ValueError("update='two_metric' is for problems with nonnegative=True")
    if update == "quadratic_program" and not composite:
        raise ValueError("update='quadratic_program' is for problems with l1 or nonnegative; take 'matrix'")
    if update == "gradient":
        return _searched_gradient(problem) if line_search else _gradient(problem, fixed)
    if update == "two_metric":
        return lambda state, choice: _two_metric_step(problem, state, choice.block)
    if update == "newton" and not problem.quadratic:
        return lambda state, choice: _newton_step(problem, state, choice.block)
    return _matrix(problem, fixed)


def _gradient(problem: Problem, fixed: FixedBlocks | None) -> Step:
    def step(state: State, choice: Choice) -> Array:
        block = choice.block
        L = block_lipschitz(problem, block) if fixed is None else float(fixed.lipschitz[choice.number])
        return diagonal_step(problem, state.x[block], state.gradient[block], L or 1.0)[0]

    return step


def _searched_gradient(problem: Problem) -> Step:
    """Steps whose constant is doubled until the decrease is what it promises, and kept by coordinate."""
    constants = np.ones(problem.n_variables)

    def step(state: State, choice: Choice) -> Array:
        block = choice.block
        x, G = state.x[block], state.gradient[block]
        L = float(constants[block].max())
        noise = _noise(state)
        while True:
            d = diagonal_step(problem, x, G, L)[0]
            if state.change(block, d) <= float(G @ d + 0.5 * L * (d @ d)) + noise or not np.isfinite(L):
                break
            L *= 2.0
        constants[block] = L
        return d

    return step


def _matrix(problem: Problem, fixed: FixedBlocks | None) -> Step:
    def step(state: State, choice: Choice) -> Array:
        block = choice.block
        x, G = state.x[block], state.gradient[block]
        if isinstance(problem, QuadraticProblem) and problem.sparse and len(block) > SMALL and not _composite(problem):
            return _sparse_step(problem, block, G)
        H = problem.bound(block) if fixed is None or len(block) > SMALL else fixed.bound(choice.number or 0)
        return model_step(problem, H, G, x)

    return step


def _composite(problem: Problem) -> bool:
    return bool(problem.l1 or problem.nonnegative)


def _sparse_step(problem: QuadraticProblem, block: Indices, G: Array) -> Array:
    """Solve A_bb d = -G by messages along a forest, or by a sparse factorisation where there are cycles."""
    A = problem.rows
    place = np.full(A.shape[0], -1)
    place[block] = np.arange(len(block))
    d = -G[:, None]
    status, i, _ = eliminate(A.indptr, A.indices, A.data, block, place, d)
    if status == SOLVED:
        return d[:, 0]
    if status >= 0:
        raise ValueError(f"A is not positive definite: the pivot of variable {i} is not positive")
    return np.asarray(splu(problem.part(block).tocsc(), permc_spec="MMD_AT_PLUS_A").solve(-G))


def _newton_step(problem: Problem, state: State, block: Indices) -> Array:
    """Step by the Hessian at x, shortened until the objective falls enough."""
    x, G = state.x[block], state.gradient[block]
    H = state.hessian(block)
    d = model_step(problem, _not_singular(H), G, x)
    l1 = problem.l1

    def gained(step: Array) -> float:
        return l1 * float(np.abs(x + step).sum() - np.abs(x).sum()) if l1 else 0.0

    slope = float(G @ d) + gained(d)
    alpha = _backtracked(lambda t: state.change(block, t * d) + gained(t * d), slope, _noise(state))
    # Signs and zeros of the whole step are those of the model's solution.
    return d if alpha == 1.0 else alpha * d


def _not_singular(H: Array) -> Array:
    # Where predictions saturate, a Hessian may vanish and its step overflow.
    return H + 1e-12 * max(float(np.trace(H)), 1e-12) * np.eye(len(H))


def _two_metric_step(problem: Problem, state: State, block: Indices) -> Array:
    """Newton for the coordinates that are free, a short gradient step for those held at zero, both projected."""
    x, G = state.x[block], state.gradient[block] + problem.l1
    held = (x < NEAR_BOUND) & (G > 0)
    free = ~held
    direction = np.zeros_like(x)
    if held.any():
        direction[held] = -G[held] / (problem.lipschitz[block][held].sum() or 1.0)
    if free.any():
        H = state.hessian(block)[np.ix_(free, free)]
        direction[free] = -solve_definite(H, G[free])

    def projected(t: float) -> Array:
        return np.maximum(x + t * direction, 0.0) - x

    alpha, noise = 1.0, _noise(state)
    while alpha > 1e-12:
        d = projected(alpha)
        if state.change(block, d) + problem.l1 * float(d.sum()) <= SUFFICIENT * float(G @ d) + noise:
            return d
        alpha *= 0.5
    # The curvature bound always gives a decrease.
    return diagonal_step(problem, x, state.gradient[block], largest_eigenvalue(problem.bound(block)) or 1.0)[0]


def _noise(state: State) -> float:
    """Differences of the objective below this are rounding."""
    return 4 * np.finfo(float).eps * abs(state.value())


def _backtracked(change: Callable[[float], float], slope: float, noise: float) -> float:
    """Step length that meets Armijo's condition: 1 if that does, else by quadratic, then cubic interpolation."""
    alpha, found = 1.0, change(1.0)
    previous: tuple[float, float] | None = None
    while not found <= SUFFICIENT * alpha * slope + noise:
        if alpha < 1e-12:
            return 0.0
        shorter = _interpolated(alpha, found, slope, previous)
        previous = (alpha, found)
        # Neither so long that nothing is learnt nor so short that nothing is gained.
        alpha = min(max(shorter, 0.1 * alpha), 0.5 * alpha) if np.isfinite(shorter) else 0.1 * alpha
        found = change(alpha)
    return alpha


def _interpolated(alpha: float, found: float, slope: float, previous: tuple[float, float] | None) -> float:
    """Minimiser of the polynomial through the slope at 0 and the values so far."""
    if not np.isfinite(found):
        return np.nan
    if previous is None or not np.isfinite(previous[1]):
        return -slope * alpha**2 / (2 * (found - slope * alpha))
    before, value = previous
    residuals = np.array([found - slope * alpha, value - slope * before])
    powers: Any = np.array([[alpha**3, alpha**2], [before**3, before**2]])
    cubic, quadratic = np.linalg.solve(powers, residuals)
    if abs(cubic) < 1e-300:
        return -slope / (2 * quadratic) if quadratic else np.nan
    inside = quadratic**2 - 3 * cubic * slope
    return (-quadratic + np.sqrt(inside)) / (3 * cubic) if inside >= 0 else np.nan
