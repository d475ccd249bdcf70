"""Quadratic models of a block: steps under a diagonal bound, and minimisers under a full one."""

from typing import Any

import numpy as np
from numba import njit
from scipy.linalg import cho_factor, cho_solve

from paperworks.optimization.block_coordinate_descent._matrices import Array
from paperworks.optimization.block_coordinate_descent._problems import Problem

# What is added to the diagonal of a singular bound, relative to its trace.
JITTER = 1e-10


def proximal(u: Array, threshold: Any, nonnegative: bool) -> Array:
    """Minimiser of (v - u)^2 / 2 + threshold |v|, over v >= 0 if nonnegative; its zeros are exact."""
    if nonnegative:
        return np.maximum(u - threshold, 0.0)
    return np.sign(u) * np.maximum(np.abs(u) - threshold, 0.0)


def diagonal_step(problem: Problem, x: Array, G: Array, D: Any) -> tuple[Array, Array]:
    """Step of each coordinate under the bound D of curvature, and by how much its model decreases.

    Without a penalty these are -G / D and G^2 / (2 D).
    """
    if not (problem.l1 or problem.nonnegative):
        d = -G / D
        return d, -0.5 * G * d
    d = proximal(x - G / D, problem.l1 / D, problem.nonnegative) - x
    return d, -(G * d + 0.5 * D * d * d + problem.l1 * (np.abs(x + d) - np.abs(x)))


def smallest_subgradient(problem: Problem, x: Array, G: Array) -> Array:
    """Subgradient of the least norm: zero exactly where a coordinate can't improve."""
    if not (problem.l1 or problem.nonnegative):
        return G
    l1 = problem.l1
    if problem.nonnegative:
        return np.where(x > 0, G + l1, np.minimum(G + l1, 0.0))
    at_zero = np.sign(G) * np.maximum(np.abs(G) - l1, 0.0)
    return np.where(x == 0, at_zero, G + l1 * np.sign(x))


def penalty(problem: Problem, x: Array) -> float:
    return problem.l1 * float(np.abs(x).sum()) if problem.l1 else 0.0


def solve_definite(H: Array, rhs: Array) -> Array:
    """H^-1 rhs by Cholesky, with a little on the diagonal where H is singular."""
    try:
        return np.asarray(cho_solve(cho_factor(H, lower=True, check_finite=False), rhs, check_finite=False))
    except np.linalg.LinAlgError:
        raised = H + max(JITTER * float(np.trace(H)), np.finfo(float).tiny) * np.eye(len(H))
    try:
        return np.asarray(cho_solve(cho_factor(raised, lower=True, check_finite=False), rhs, check_finite=False))
    except np.linalg.LinAlgError:
        raise ValueError("a block of the Hessian is not positive semidefinite: is A of the problem?") from None


def largest_eigenvalue(H: Array) -> float:
    return float(np.linalg.eigvalsh(H)[-1])


def model_step(problem: Problem, H: Array, G: Array, x: Array) -> Array:
    """Minimiser d of G'd + d'Hd / 2 + penalty of x + d, over x + d >= 0 if the problem says so."""
    if not (problem.l1 or problem.nonnegative):
        return -solve_definite(H, G)
    return quadratic_program(H, H @ x - G, x, problem.l1, problem.nonnegative) - x


def quadratic_program(H: Array, q: Array, start: Array, l1: float, nonnegative: bool) -> Array:
    """Minimise u'Hu / 2 - q'u + l1 |u|, over u >= 0 if nonnegative, to rounding.

    Coordinate descent finds the signs of the solution, and a linear system finishes it.
    """
    u = start.copy()
    residual = H @ u - q
    scale = max(float(np.abs(q).max()), l1)
    sweeps = 8
    while True:
        change = _sweeps(H, residual, u, l1, nonnegative, sweeps)
        finished = _finished(H, q, u, l1, nonnegative, scale)
        if finished is not None:
            return finished
        if change <= 1e-15 * max(float(np.abs(u).max()), 1e-300) or sweeps > 20_000:
            return u
        sweeps *= 2
        residual = H @ u - q


def _finished(H: Array, q: Array, u: Array, l1: float, nonnegative: bool, scale: float) -> Array | None:
    """Solution with the signs of u, if there is one that is optimal."""
    free = np.flatnonzero(u)
    signs = np.sign(u[free])
    solution = np.zeros_like(u)
    if len(free):
        try:
            factor = cho_factor(H[np.ix_(free, free)], lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return None
        solution[free] = cho_solve(factor, q[free] - l1 * signs, check_finite=False)
        if not (solution[free] * signs > 0).all():
            return None
    slope = H @ solution - q
    slope[free] = 0.0
    beyond = -slope if nonnegative else np.abs(slope)
    return solution if beyond.max() <= l1 + 1e-13 * scale else None


@njit(cache=True)
def _sweeps(H: Any, residual: Any, u: Any, l1: float, nonnegative: bool, n_sweeps: int) -> float:
    """Coordinate descent on u, keeping residual = H u - q; the largest change of the last sweep."""
    largest = 0.0
    for _ in range(n_sweeps):
        largest = 0.0
        for i in range(len(u)):
            if H[i, i] <= 0.0:
                continue
            old = u[i]
            shifted = old * H[i, i] - residual[i]
            if shifted > l1:
                new = (shifted - l1) / H[i, i]
            elif shifted < -l1 and not nonnegative:
                new = (shifted + l1) / H[i, i]
            else:
                new = 0.0
            if new != old:
                u[i] = new
                largest = max(largest, abs(new - old))
                for j in range(len(u)):
                    residual[j] += (new - old) * H[j, i]
        if largest == 0.0:
            break
    return largest
