"""Compiled passes over a Gibbs plan ``P_ij = exp(eta (x_i + y_j - C_ij) - 1)`` that never store it.

Every pass takes a block of rows of the cost, so that a cost which is too large for memory can be made block by block.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Reordering sums lets LLVM vectorise them; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp"}


@intrinsic
def _float_of_bits(typing_context, bits):
    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def _bits_of_float(typing_context, number):
    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), codegen


# exp(u) = 2^k exp(r) with |r| <= log(2)/2. Adding the constant rounds to an integer and leaves k in the low bits.
_ROUND = 6755399441055744.0
_LOG2_E = 1.4426950408889634
_LOG2_HIGH, _LOG2_LOW = 0.6931471803691238, 1.9082149292705877e-10
_LOWEST = -708.0
_C2, _C3, _C4, _C5, _C6, _C7, _C8 = 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040, 1 / 40320
_C9, _C10, _C11, _C12, _C13 = 1 / 362880, 1 / 3628800, 1 / 39916800, 1 / 479001600, 1 / 6227020800


@njit(fastmath={"contract"}, cache=True)
def _exp(u):
    """Return exp(u) to one unit in the last place for u <= 708, 0 below -708; unlike libm's it vectorises."""
    clipped = max(u, _LOWEST)
    shifted = clipped * _LOG2_E + _ROUND
    k = shifted - _ROUND
    r = clipped - k * _LOG2_HIGH
    r = r - k * _LOG2_LOW
    p = _C13 * r + _C12
    p = p * r + _C11
    p = p * r + _C10
    p = p * r + _C9
    p = p * r + _C8
    p = p * r + _C7
    p = p * r + _C6
    p = p * r + _C5
    p = p * r + _C4
    p = p * r + _C3
    p = p * r + _C2
    p = p * r + 1.0
    p = p * r + 1.0
    bits = _bits_of_float(p) + (_bits_of_float(shifted) << 52)
    return _float_of_bits(bits) if u > _LOWEST else 0.0


@njit(fastmath=FAST, cache=True)
def normalise_rows(cost, y, eta, r, x, column_sums, held):
    """Set x so that the block's rows sum to r, whatever y is, and add its rows to ``column_sums``.

    The rows themselves are written to ``held`` if it has any.
    """
    n, m = cost.shape
    holds = held.shape[0] > 0
    row = np.empty(m)
    for i in range(n):
        top = -np.inf
        for j in range(m):
            row[j] = y[j] - cost[i, j]
            top = max(top, row[j])
        total = 0.0
        for j in range(m):
            p = _exp((row[j] - top) * eta)
            row[j] = p
            total += p
        # total >= 1: the largest entry was shifted to exp(0).
        scale = r[i] / total
        x[i] = (np.log(scale) + 1.0) / eta - top
        for j in range(m):
            row[j] *= scale
            column_sums[j] += row[j]
        if holds:
            held[i] = row


@njit(fastmath=FAST, cache=True)
def scale_rows(plan, v, r, u, column_sums):
    """Set u so that the rows of diag(u) P diag(v) sum to r, and ``column_sums`` to the sums of diag(u) P."""
    n, m = plan.shape
    column_sums[:] = 0.0
    for i in range(n):
        total = 0.0
        for j in range(m):
            total += plan[i, j] * v[j]
        u[i] = r[i] / total
        for j in range(m):
            column_sums[j] += u[i] * plan[i, j]


@njit(fastmath=FAST, cache=True)
def scaled_sums(plan, u, v, row_sums, column_sums):
    """Set the row and column sums of diag(u) P diag(v)."""
    n, m = plan.shape
    column_sums[:] = 0.0
    for i in range(n):
        total = 0.0
        for j in range(m):
            p = plan[i, j] * v[j]
            total += p
            column_sums[j] += u[i] * p
        row_sums[i] = u[i] * total


@njit(fastmath=FAST, cache=True)
def add_sums(cost, x, y, eta, row_sums, column_sums):
    """Set the block's row sums and add its rows to ``column_sums``; entries above exp(700) count as infinite."""
    n, m = cost.shape
    for i in range(n):
        total = 0.0
        top = -np.inf
        for j in range(m):
            u = (x[i] + y[j] - cost[i, j]) * eta - 1.0
            top = max(top, u)
            p = _exp(min(u, 700.0))
            total += p
            column_sums[j] += p
        row_sums[i] = total if top <= 700.0 else np.inf


@njit(fastmath=FAST, cache=True)
def column_maxima(cost, x, columns, tops):
    """Raise ``tops[k]`` to the largest ``x_i - C_ij`` of the block, j the k-th of ``columns``."""
    for i in range(cost.shape[0]):
        for k in range(columns.size):
            tops[k] = max(tops[k], x[i] - cost[i, columns[k]])


@njit(fastmath=FAST, cache=True)
def column_exponentials(cost, x, eta, columns, tops, sums):
    """Add the block's ``exp(eta (x_i - C_ij - tops[k]))`` to ``sums[k]``, j the k-th of ``columns``."""
    for i in range(cost.shape[0]):
        for k in range(columns.size):
            sums[k] += _exp((x[i] - cost[i, columns[k]] - tops[k]) * eta)


@njit(fastmath=FAST, cache=True)
def fill_plan(cost, x, y, eta, plan):
    """Write the block of the plan."""
    n, m = cost.shape
    for i in range(n):
        for j in range(m):
            plan[i, j] = _exp((x[i] + y[j] - cost[i, j]) * eta - 1.0)


@njit(fastmath=FAST, cache=True)
def count_above(cost, x, y, eta, log_threshold, counts):
    """Count the entries of each row whose logarithm is above ``log_threshold``."""
    n, m = cost.shape
    bound = (log_threshold + 1.0) / eta
    for i in range(n):
        least = bound - x[i]
        count = 0
        for j in range(m):
            count += 1 if y[j] - cost[i, j] > least else 0
        counts[i] = count


@njit(cache=True)
def fill_above(cost, x, y, eta, log_threshold, starts, columns, values):
    """Write what `count_above` counted, as rows of a CSR matrix."""
    n, m = cost.shape
    bound = (log_threshold + 1.0) / eta
    for i in range(n):
        least = bound - x[i]
        k = starts[i]
        for j in range(m):
            if y[j] - cost[i, j] > least:
                columns[k] = j
                values[k] = _exp((x[i] + y[j] - cost[i, j]) * eta - 1.0)
                k += 1


@njit(fastmath=FAST, cache=True)
def _schur_product(starts, columns, values, d1, d2, v, out):
    """out = (D2 - S' D1^-1 S) v in one pass over the rows of S."""
    for j in range(v.size):
        out[j] = d2[j] * v[j]
    for i in range(starts.size - 1):
        total = 0.0
        for k in range(starts[i], starts[i + 1]):
            total += values[k] * v[columns[k]]
        total /= d1[i]
        for k in range(starts[i], starts[i + 1]):
            out[columns[k]] -= values[k] * total


@njit(fastmath=FAST, cache=True)
def solve_schur(starts, columns, values, d1, d2, right, tolerance, max_iterations):
    """Solve (D2 - S' D1^-1 S) dy = right by conjugate gradients with Jacobi's preconditioner.

    Returns dy and the number of iterations; stops at the relative residual ``tolerance``.
    """
    m = d2.size
    diagonal = d2.copy()
    for i in range(starts.size - 1):
        for k in range(starts[i], starts[i + 1]):
            diagonal[columns[k]] -= values[k] * values[k] / d1[i]
    for j in range(m):
        diagonal[j] = max(diagonal[j], 1e-14 * d2[j])
    solution = np.zeros(m)
    residual = right.copy()
    direction = residual / diagonal
    product = np.empty(m)
    rho = np.dot(residual, direction)
    goal = tolerance * tolerance * np.dot(right, right)
    iterations = 0
    while iterations < max_iterations and np.dot(residual, residual) > goal:
        _schur_product(starts, columns, values, d1, d2, direction, product)
        curvature = np.dot(direction, product)
        if not curvature > 0.0:
            break
        step = rho / curvature
        following = 0.0
        for j in range(m):
            solution[j] += step * direction[j]
            residual[j] -= step * product[j]
            following += residual[j] * residual[j] / diagonal[j]
        for j in range(m):
            direction[j] = residual[j] / diagonal[j] + following / rho * direction[j]
        rho = following
        iterations += 1
    return solution, iterations
