"""Additive attention in one pass, for a CPU and single precision: the tanh of no pair is ever stored."""

import numba
import numpy as np
import torch
from torch import Tensor

single = np.float32
ONE = single(1)
TERMS, BOUND = 12, single(9)


def _lambert(terms):
    """Lambert's fraction tanh x = x / (1 + x^2 / (3 + x^2 / (5 + ...))) as two polynomials of x^2, lowest power first.

    With 12 terms it is 4e-8 off at most for |x| <= 9; beyond, tanh is 1 in single precision.
    """
    above, below = [1], [2 * terms + 1]
    for odd in range(2 * terms - 1, 0, -2):
        longer = [odd * each for each in below] + [0] * (len(above) + 1 - len(below))
        for power, each in enumerate(above, 1):
            longer[power] += each
        above, below = below, longer
    return [single(each / below[0]) for each in above], [single(each / below[0]) for each in below]


(P0, P1, P2, P3, P4, P5, P6), (Q0, Q1, Q2, Q3, Q4, Q5, Q6) = _lambert(TERMS)

# Reordered sums, and no check of divisors, let loops run many numbers at a time.
compiled = numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")


def fits_kernels(tensor: Tensor) -> bool:
    """Whether these kernels can work on a tensor."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


@compiled
def tanh(x):
    x = min(max(x, -BOUND), BOUND)
    s = x * x
    above = P0 + s * (P1 + s * (P2 + s * (P3 + s * (P4 + s * (P5 + s * P6)))))
    below = Q0 + s * (Q1 + s * (Q2 + s * (Q3 + s * (Q4 + s * (Q5 + s * Q6)))))
    return x * above / below


@compiled
def scores_of_pairs(keys, queries, v, scores):
    """Fill scores[i, j, b] with the sum over k of v[k] tanh(keys[j, b, k] + queries[i, b, k])."""
    m, (n, size) = len(queries), keys.shape[1:]
    for i in range(m):
        for j in range(len(keys)):
            for b in range(n):
                key, query = keys[j, b], queries[i, b]
                total = single(0)
                for k in range(size):
                    total += v[k] * tanh(key[k] + query[k])
                scores[i, j, b] = total


@compiled
def slopes_of_pairs(keys, queries, slopes, d_keys, d_queries, d_v):
    """Add up the loss's slopes by keys, queries and v; v as a factor of the first two is left to the caller."""
    m, (n, size) = len(queries), keys.shape[1:]
    for i in range(m):
        for j in range(len(keys)):
            for b in range(n):
                key, query, by_key, by_query = keys[j, b], queries[i, b], d_keys[j, b], d_queries[i, b]
                slope = slopes[i, j, b]
                for k in range(size):
                    squashed = tanh(key[k] + query[k])
                    change = slope * (ONE - squashed * squashed)
                    by_key[k] += change
                    by_query[k] += change
                    d_v[k] += slope * squashed
