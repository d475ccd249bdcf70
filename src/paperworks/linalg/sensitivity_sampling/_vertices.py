"""Sensitivities for p = 1 exactly: least sums of absolute values, by descent from vertex to vertex."""

import numpy as np
from numba import njit

# Exchanges of a row, for each unknown, after which the dual value is taken as it is.
EXCHANGES = 50
# What is zero beside rows of norm one, and slack of the dual variables.
TINY = 1e-10
# Largest of the numbers that stand for zero, beside residuals of about one.
SHIFT = 1e-9


@njit(cache=True, nogil=True)
def largest_shares(wanted, Q, starts):
    """Largest |a' x| / ||Q x||_1 for each wanted row a, from a start x each, and never less than that."""
    found = np.empty(len(wanted))
    for i in range(len(wanted)):
        found[i] = _largest_share(wanted[i], Q, starts[i])
    return found


@njit(cache=True, nogil=True)
def _largest_share(a, Q, x):
    """At the minimum of ||Q x||_1 over a' x = 1, d - 1 independent residuals vanish: rows leave that set and enter it.

    With the signs of the others summed up in g, the dual variables of those rows solve g + sum s_j q_j = mu a, where mu
    is the value; at the minimum none exceeds one. If one does, its row leaves, and x moves until the slope turns.
    Residuals are taken from tiny numbers in place of zero, so that no two rows, copies of each other say, vanish
    together; the dual variables are feasible all the same.
    """
    d = Q.shape[1]
    zero = _nearly_zero(a, Q, x)
    tiny = SHIFT / np.linalg.norm(a) * ((np.arange(len(Q)) + 1) * 0.6180339887498949 % 1.0)
    B, ends = np.empty((d, d)), np.ones(d)
    best = np.inf
    for _ in range(EXCHANGES * d):
        B[0] = a
        for j in range(d - 1):
            B[j + 1], ends[j + 1] = Q[zero[j]], tiny[zero[j]]
        inverse = np.linalg.inv(B)
        residuals = Q @ (inverse @ ends) - tiny
        for j in range(d - 1):
            residuals[zero[j]] = 0.0
        g = np.sign(residuals) @ Q
        dual = -(g @ inverse)
        mu = -dual[0]
        worst, leaving = 1.0, -1
        for j in range(d - 1):
            if abs(dual[j + 1]) > worst * (1 + TINY):
                worst, leaving = abs(dual[j + 1]), j
        if mu > 0:
            best = min(best, worst / mu)
        if leaving < 0:
            break
        direction = Q @ np.ascontiguousarray(inverse[:, leaving + 1]) * np.sign(dual[leaving + 1])
        entering = _where_the_slope_turns(residuals, direction, 1 - worst)
        if entering < 0:
            break
        zero[leaving] = entering
    return best


@njit(cache=True, nogil=True)
def _where_the_slope_turns(residuals, direction, slope):
    """Residual that vanishes where the sum of |r + t direction| is least, t > 0; -1 if the sum falls no further."""
    n = len(residuals)
    steps = np.full(n, np.inf)
    largest = np.abs(direction).max()
    for i in range(n):
        if abs(direction[i]) > TINY * largest:
            step = -residuals[i] / direction[i]
            if step > 0:
                steps[i] = step
    # Near the minimum few residuals are passed, and a scan for the next one is cheaper than to sort them all.
    for _ in range(n):
        nearest = np.argmin(steps)
        if steps[nearest] == np.inf:
            return -1
        slope += 2 * abs(direction[nearest])
        if slope >= 0:
            return nearest
        steps[nearest] = np.inf
    return -1


@njit(cache=True, nogil=True)
def _nearly_zero(a, Q, x):
    """The d - 1 rows of least residual that are independent of each other and of a."""
    n, d = Q.shape
    away = np.abs(Q @ x)
    basis = np.zeros((d, d))
    basis[0] = a / np.linalg.norm(a)
    zero = np.empty(d - 1, dtype=np.int64)
    count = 0
    for _ in range(n):
        if count == d - 1:
            break
        i = np.argmin(away)
        away[i] = np.inf
        row = Q[i].copy()
        length = np.linalg.norm(row)
        if length == 0:
            continue
        row /= length
        for _ in range(2):
            for j in range(count + 1):
                row -= (basis[j] @ row) * basis[j]
        left = np.linalg.norm(row)
        # A row nearly in the span of the others would leave a matrix that can't be inverted.
        if left > 1e-6:
            count += 1
            basis[count] = row / left
            zero[count - 1] = i
    return zero
