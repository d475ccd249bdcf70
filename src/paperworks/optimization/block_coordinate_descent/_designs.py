r"""Designs of linear models, and weighted least squares with an l1 penalty on a block of their columns.

The model of a block is that of one Newton step, of which least squares are the case of weights one:

.. math::
    \min_{w_b, c}\; \tfrac12 \sum_i h_i (x_i^\top w + c - t_i)^2 + \lambda \|w\|_1 + \tfrac{\rho}{2} \|w\|^2 .

What is kept is not the residual but the slopes v_i = h_i (x_i'w - t_i), and apart from them the intercept c, which is
always the best one: a step of one coefficient costs its column and no more, whether or not there is an intercept.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numba import njit
from scipy.linalg import cho_factor, cho_solve

from paperworks.optimization.block_coordinate_descent._matrices import Array, Indices

# Systems of more unknowns than this are left to coordinate descent.
LARGEST_SYSTEM = 3000
# Sweeps of coordinate descent between two attempts to finish by Newton steps.
SWEEPS = 5


class SparseDesign:
    """X of shape (n, p) by columns."""

    def __init__(self, X: sp.csc_array) -> None:
        self.X = X
        self.shape = X.shape

    def entries(self, block: Indices) -> int:
        """How many entries a sweep over a block reads."""
        return int((self.X.indptr[block + 1] - self.X.indptr[block]).sum())

    def correlations(self, v: Array) -> Array:
        """X'v."""
        return np.asarray(self.X.T @ v)

    def block_correlations(self, block: Indices, v: Array) -> Array:
        """X_b'v."""
        return _dots(self.X.indptr, self.X.indices, self.X.data, block, v)

    def moments(self, block: Indices, h: Array) -> tuple[Array, Array]:
        """Weighted sums and sums of squares of columns."""
        return _moments(self.X.indptr, self.X.indices, self.X.data, block, h)

    def predictions(self, block: Indices, w: Array) -> Array:
        """X_b w."""
        out = np.zeros(self.shape[0])
        _add_columns(self.X.indptr, self.X.indices, self.X.data, block, w, out)
        return out

    def gram(self, block: Indices, h: Array) -> Array:
        part = self.X[:, block]
        weighted = sp.csc_array((part.data * h[part.indices], part.indices, part.indptr), part.shape)
        return np.asarray((part.T @ weighted).toarray())

    def sweep(self, *arguments: Any) -> tuple[float, float]:
        return _sparse_sweep(self.X.indptr, self.X.indices, self.X.data, *arguments)


class DenseDesign:
    """X of shape (n, p) in Fortran order."""

    def __init__(self, X: Array) -> None:
        self.X = X
        self.shape = X.shape

    def entries(self, block: Indices) -> int:
        """How many entries a sweep over a block reads."""
        return self.shape[0] * len(block)

    def correlations(self, v: Array) -> Array:
        """X'v."""
        return np.asarray(self.X.T @ v)

    def block_correlations(self, block: Indices, v: Array) -> Array:
        """X_b'v."""
        return np.asarray(self.X[:, block].T @ v)

    def moments(self, block: Indices, h: Array) -> tuple[Array, Array]:
        """Weighted sums and sums of squares of columns."""
        sums, squares = np.empty(len(block)), np.empty(len(block))
        for t, j in enumerate(block):
            weighted = h * self.X[:, j]
            sums[t], squares[t] = weighted.sum(), weighted @ self.X[:, j]
        return sums, squares

    def predictions(self, block: Indices, w: Array) -> Array:
        """X_b w."""
        return np.asarray(self.X[:, block] @ w)

    def gram(self, block: Indices, h: Array) -> Array:
        part = self.X[:, block]
        return np.asarray(part.T @ (h[:, None] * part))

    def sweep(self, *arguments: Any) -> tuple[float, float]:
        return _dense_sweep(self.X, *arguments)


Design = SparseDesign | DenseDesign


def design_of(X: Any) -> Design:
    return SparseDesign(sp.csc_array(X)) if sp.issparse(X) else DenseDesign(np.asfortranarray(X))


@dataclass(frozen=True)
class Penalty:
    """l1 |w| + l2 w^2 / 2 of each coefficient, over w >= 0 if positive."""

    l1: float
    l2: float = 0.0
    positive: bool = False

    def subgradient(self, w: Array, slopes: Array) -> Array:
        """Subgradient of the least norm, given the slopes of the loss."""
        G = slopes + self.l2 * w
        if self.positive:
            return np.where(w > 0, G + self.l1, np.minimum(G + self.l1, 0.0))
        at_zero = np.sign(G) * np.maximum(np.abs(G) - self.l1, 0.0)
        return np.where(w == 0, at_zero, G + self.l1 * np.sign(w))

    def value(self, w: Array) -> float:
        return self.l1 * float(np.abs(w).sum()) + 0.5 * self.l2 * float(w @ w)


def working_set(w: Array, slopes: Array, curvature: Array, penalty: Penalty, size: int) -> Indices:
    """Support of w, and the coordinates whose models decrease most; after them, those that are nearest to it.

    At zero, the decrease of a model with curvature L_j is the square of (|slope| - l1) / sqrt(2 L_j).
    """
    reach = -slopes if penalty.positive else np.abs(slopes)
    score = (reach - penalty.l1) / np.sqrt(np.where(curvature > 0, curvature, 1.0))
    score[curvature <= 0] = -np.inf
    score[w != 0] = np.inf
    size = min(max(size, int(np.count_nonzero(w))), int(np.count_nonzero(curvature > 0)))
    if size == len(score):
        return np.arange(size)
    if not size:
        return np.empty(0, dtype=np.int64)
    return np.sort(np.argpartition(-score, size - 1)[:size])


def first_working_set_size(design: Design) -> int:
    return min(100, design.shape[1])


def solve_block(
    design: Design,
    block: Indices,
    w: Array,
    h: Array,
    v: Array,
    penalty: Penalty,
    intercept: bool,
    target: float,
    max_sweeps: int,
) -> tuple[float, int]:
    """Minimise the model of a block until its subgradient is below ``target``; w and v are changed in place.

    Returns the step of the intercept, which v does not hold, and the number of sweeps.
    """
    total = float(h.sum()) if intercept else 1.0
    sums, squares = design.moments(block, h)
    sums = sums if intercept else np.zeros_like(sums)
    curvature = np.maximum(squares - sums**2 / total, 0.0)
    # What centring leaves of a constant column is rounding.
    curvature[curvature <= 1e-12 * squares] = 0.0
    offset = -float(v.sum()) / total if intercept else 0.0
    arguments = (block, h, sums, total, curvature, w, v)
    before: Array | None = None
    done, spent, price = 0, 0, design.entries(block)
    while done < max_sweeps:
        for _ in range(SWEEPS):
            offset, violation = design.sweep(*arguments, offset, penalty.l1, penalty.l2, penalty.positive)
            done += 1
            spent += price
            if violation <= target:
                return offset, done
        signs = np.sign(w[block])
        stable = before is not None and np.array_equal(signs, before)
        if stable and spent >= _price_of_newton(design, block[signs != 0]):
            offset = _newton(design, block, w, h, v, sums, total, offset, penalty)
            signs, spent = np.sign(w[block]), 0
        before = signs
    return offset, done


def _price_of_newton(design: Design, support: Indices) -> float:
    """Work of a Newton step in entries that a sweep could read instead: it is due when as many have been read."""
    entries, size = design.entries(support), len(support)
    # Each entry meets those of its row in the products of columns. The factorisation does many operations at a time.
    return entries**2 / design.shape[0] + size**3 / 30


def _newton(
    design: Design,
    block: Indices,
    w: Array,
    h: Array,
    v: Array,
    sums: Array,
    total: float,
    offset: float,
    penalty: Penalty,
) -> float:
    """Go to the minimum over the coefficients that are not zero, or as far towards it as their signs last."""
    free = np.flatnonzero(w[block])
    if not 0 < len(free) <= LARGEST_SYSTEM:
        return offset
    support, m = block[free], sums[free]
    signs = np.sign(w[support])
    slopes = design.block_correlations(support, v) + offset * m + penalty.l2 * w[support] + penalty.l1 * signs
    H = design.gram(support, h) - np.outer(m, m) / total
    H[np.diag_indices_from(H)] += penalty.l2
    try:
        d = -cho_solve(cho_factor(H, lower=True, overwrite_a=True, check_finite=False), slopes, check_finite=False)
    except np.linalg.LinAlgError:
        return offset
    if not np.isfinite(d).all():
        return offset
    with np.errstate(divide="ignore"):
        crossings = np.where(d * signs < 0, -w[support] / d, np.inf)
    length = min(1.0, float(crossings.min()))
    new = np.where(crossings <= length, 0.0, w[support] + length * d)
    step = new - w[support]
    w[support] = new
    v += h * design.predictions(support, step)
    return offset - float(m @ step) / total


@njit(cache=True)
def _dots(indptr: Any, indices: Any, data: Any, block: Any, v: Any) -> Any:
    out = np.zeros(len(block))
    for t in range(len(block)):
        for e in range(indptr[block[t]], indptr[block[t] + 1]):
            out[t] += data[e] * v[indices[e]]
    return out


@njit(cache=True)
def _moments(indptr: Any, indices: Any, data: Any, block: Any, h: Any) -> Any:
    sums, squares = np.zeros(len(block)), np.zeros(len(block))
    for t in range(len(block)):
        for e in range(indptr[block[t]], indptr[block[t] + 1]):
            weighted = data[e] * h[indices[e]]
            sums[t] += weighted
            squares[t] += weighted * data[e]
    return sums, squares


@njit(cache=True)
def _add_columns(indptr: Any, indices: Any, data: Any, block: Any, w: Any, out: Any) -> None:
    for t in range(len(block)):
        for e in range(indptr[block[t]], indptr[block[t] + 1]):
            out[indices[e]] += data[e] * w[t]


@njit(cache=True)
def _best(old: float, slope: float, curvature: float, l1: float, l2: float, positive: bool) -> float:
    """Minimiser of one coefficient's model."""
    shifted = old * curvature - slope
    if shifted > l1:
        return (shifted - l1) / (curvature + l2)
    if shifted < -l1 and not positive:
        return (shifted + l1) / (curvature + l2)
    return 0.0


@njit(cache=True)
def _sparse_sweep(
    indptr: Any,
    indices: Any,
    data: Any,
    block: Any,
    h: Any,
    sums: Any,
    total: float,
    curvature: Any,
    w: Any,
    v: Any,
    offset: float,
    l1: float,
    l2: float,
    positive: bool,
) -> tuple[float, float]:
    """Coordinate descent over a block: the intercept's step, and the largest violation that was met."""
    largest = 0.0
    for t in range(len(block)):
        if curvature[t] <= 0.0:
            continue
        j = block[t]
        slope = offset * sums[t]
        for e in range(indptr[j], indptr[j + 1]):
            slope += data[e] * v[indices[e]]
        new = _best(w[j], slope, curvature[t], l1, l2, positive)
        if new != w[j]:
            step = new - w[j]
            w[j] = new
            largest = max(largest, abs(step) * (curvature[t] + l2))
            for e in range(indptr[j], indptr[j + 1]):
                v[indices[e]] += step * data[e] * h[indices[e]]
            offset -= step * sums[t] / total
    return offset, largest


@njit(cache=True)
def _dense_sweep(
    X: Any,
    block: Any,
    h: Any,
    sums: Any,
    total: float,
    curvature: Any,
    w: Any,
    v: Any,
    offset: float,
    l1: float,
    l2: float,
    positive: bool,
) -> tuple[float, float]:
    largest = 0.0
    for t in range(len(block)):
        if curvature[t] <= 0.0:
            continue
        j = block[t]
        column = X[:, j]
        slope = offset * sums[t] + np.dot(column, v)
        new = _best(w[j], slope, curvature[t], l1, l2, positive)
        if new != w[j]:
            step = new - w[j]
            w[j] = new
            largest = max(largest, abs(step) * (curvature[t] + l2))
            for i in range(len(v)):
                v[i] += step * column[i] * h[i]
            offset -= step * sums[t] / total
    return offset, largest
