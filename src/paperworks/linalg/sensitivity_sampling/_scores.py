"""How much each row matters: leverage scores, Lewis weights and l_p sensitivities."""

from math import ceil, inf, log
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_choice, check_number
from paperworks.linalg.sensitivity_sampling._rows import Matrix, Rows, Vector
from paperworks.linalg.sensitivity_sampling._vertices import largest_shares

Computation = Literal["auto", "exact", "approximate", "sampled"]
COMPUTATIONS = ("auto", "exact", "approximate", "sampled")

# Rows up to which sensitivities are computed one by one unless told otherwise.
EXACT_ROWS = 2000
# Newton steps for a sensitivity, and numbers in the weights of a chunk of rows.
STEPS, CHUNK = 100, 2**22
# Steps for p = 1, where they only lead near the vertex from which the search goes on.
STEPS_TO_A_VERTEX = 20
# Fixed-point steps for Lewis weights, and the change of a logarithm at which they stop.
LEWIS_STEPS, LEWIS_TOLERANCE = 500, 1e-9
# The same where only bounds are wanted.
LEWIS_ROUGHLY = 0.02


def check_p(p: Any) -> float:
    """Return p, at least 1 and finite."""
    value = check_number("p", p)
    if value < 1:
        raise ValueError(f"p must be at least 1, got {p!r}")
    return value


def leverage_scores(A: Any) -> NDArray[np.float64]:
    r"""Leverage scores, the sensitivities for p = 2.

    .. math:: \ell_i = a_i^\top (A^\top A)^+ a_i = \sup_x \frac{(a_i^\top x)^2}{\|A x\|_2^2}.

    Parameters
    ----------
    A : array_like, Tensor, SciPy CSR or dask array of shape (n, d)
        Rows :math:`a_i`, floating point; columns may depend on each other.

    Returns
    -------
    ndarray of shape (n,)
        Scores in [0, 1] whose sum is the rank.

    Raises
    ------
    ValueError
        If A is empty or zero, or holds NaN or infinity.
    TypeError
        If A does not hold floating-point numbers.

    References
    ----------
    David P. Woodruff, Taisuke Yasuda. "Sharper Bounds for ell_p Sensitivity Sampling". ICML 2023. arXiv:2306.00732.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.linalg import leverage_scores
    >>> leverage_scores(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 5.0]])).round(6)
    array([0.5, 0.5, 1. ])
    """
    rows = Rows.of("A", A)
    return np.minimum(rows.norms_after(rows.basis()), 1.0)


def lewis_weights(A: Any, p: float) -> NDArray[np.float64]:
    r"""Lewis weights: leverage scores after the rows are rescaled by the weights themselves.

    .. math:: w_i = \ell_i(W^{1/2 - 1/p} A), \qquad \text{that is,}\qquad
        w_i^{2/p} = a_i^\top \bigl(A^\top W^{1 - 2/p} A\bigr)^+ a_i.

    Parameters
    ----------
    A : array_like, Tensor, SciPy CSR or dask array of shape (n, d)
        Rows, floating point.
    p : float, at least 1
        Exponent.

    Returns
    -------
    ndarray of shape (n,)
        Weights in [0, 1] whose sum is the rank, zero for rows of zeros.

    Raises
    ------
    ValueError
        If p is below 1, or A is empty or zero, or holds NaN or infinity.
    TypeError
        If A does not hold floating-point numbers.

    References
    ----------
    Michael B. Cohen, Richard Peng. "L_p Row Sampling by Lewis Weights". STOC 2015. arXiv:1412.0588.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.linalg import lewis_weights
    >>> lewis_weights(np.array([[1.0], [3.0]]), 1.0).round(6)
    array([0.25, 0.75])
    """
    exponent = check_p(p)
    rows = Rows.of("A", A)
    return lewis(rows, rows.basis(), exponent)


def lewis(rows: Rows, T: Matrix, p: float, tolerance: float = LEWIS_TOLERANCE) -> Vector:
    """Fixed point w <- w^(1-h) (a_i' (A' W^(1-2/p) A)^-1 a_i)^(h p/2), with h = 1 for p < 2 and 2/p from there on."""
    w = np.minimum(rows.norms_after(T), 1.0)
    there = w > 0
    h = 1.0 if p < 2 else 2.0 / p
    for _ in range(LEWIS_STEPS if p != 2 else 0):
        scaled = np.zeros_like(w)
        scaled[there] = w[there] ** (1 - 2 / p)
        L = np.linalg.cholesky(rows.gram_after(T, scaled))
        quadratic = rows.norms_after(solve_triangular(L, T.T, lower=True).T)
        change = h * (p / 2 * np.log(quadratic[there]) - np.log(w[there]))
        w[there] *= np.exp(change)
        if np.abs(change).max() < tolerance:
            break
    return np.minimum(w, 1.0)


def lp_sensitivities(
    A: Any, p: float, method: Computation = "auto", rtol: float = 1e-3, random_state: RandomState = None
) -> NDArray[np.float64]:
    r"""How large a share of an l_p norm one row can have.

    .. math:: s_i = \sup_{x} \frac{|a_i^\top x|^p}{\|A x\|_p^p}, \qquad
        \frac{1}{s_i} = \min \{ \|A x\|_p^p : a_i^\top x = 1 \}.

    Parameters
    ----------
    A : array_like, Tensor, SciPy CSR or dask array of shape (n, d)
        Rows, floating point.
    p : float, at least 1
        Exponent.
    method : {"auto", "exact", "approximate", "sampled"}, default "auto"
        ``"exact"`` solves the convex problem of every row, many at once, and returns the value of a dual solution,
        which is not below the sensitivity: O(n^2 d^2) a step. ``"approximate"`` returns the least of the upper bounds
        by leverage scores and Lewis weights: O(n d^2) a step. ``"sampled"`` solves every row's problem on a coarse
        sample of rows and doubles the value: within a constant factor, with high probability. ``"auto"`` is exact up to
        2,000 rows and approximate beyond. Sensitivities for p = 2 are leverage scores whatever the method.
    rtol : float, default 1e-3
        Relative gap between dual and primal values at which a row's problem is solved.
    random_state : None, int, Generator or RandomState
        Source of the sample.

    Returns
    -------
    ndarray of shape (n,)
        Sensitivities in [0, 1], zero for rows of zeros.

    Raises
    ------
    ValueError
        If p is below 1, A is empty or zero or holds NaN or infinity, or rtol is not positive.
    TypeError
        If A does not hold floating-point numbers.

    References
    ----------
    David P. Woodruff, Taisuke Yasuda. "Sharper Bounds for ell_p Sensitivity Sampling". ICML 2023. arXiv:2306.00732.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.linalg import lp_sensitivities
    >>> lp_sensitivities(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 5.0]]), 1.0).round(3)
    array([0.5, 0.5, 1. ])
    """
    exponent = check_p(p)
    check_choice("method", method, COMPUTATIONS)
    tolerance = check_number("rtol", rtol, above=0.0)
    rows = Rows.of("A", A)
    if method == "auto":
        method = "exact" if rows.shape[0] <= EXACT_ROWS else "approximate"
    return sensitivities(rows, exponent, method, tolerance, numpy_generator(random_state))


def sensitivities(rows: Rows, p: float, method: str, rtol: float, generator: np.random.Generator) -> Vector:
    """Sensitivities of checked rows."""
    T = rows.basis()
    if p == 2:
        return np.minimum(rows.norms_after(T), 1.0)
    if method == "exact":
        Q = np.concatenate([block @ T for _, block in rows.blocks()])
        return _solved(Q, Q, p, rtol)
    bounds = _bounds(rows, T, p)
    if method == "approximate":
        return bounds
    return np.minimum(_by_sample(rows, T, p, rtol, generator), bounds)


def _bounds(rows: Rows, T: Matrix, p: float) -> Vector:
    """Upper bounds: w_i by Lewis weights, l_i^(p/2) for p < 2, and with factors of d and n for p > 2."""
    n, rank = rows.shape[0], T.shape[1]
    leverage = np.minimum(rows.norms_after(T), 1.0)
    by_leverage = leverage ** (p / 2) * (n ** (p / 2 - 1) if p > 2 else 1.0)
    # Weights that are within some per cent, made larger by what is left: steps shrink by 1 - 2/p, or by half for p < 2.
    weights = lewis(rows, T, p, LEWIS_ROUGHLY) * np.exp(max(p, 2.0) * LEWIS_ROUGHLY)
    by_lewis = weights * (rank ** (p / 2 - 1) if p > 2 else 1.0)
    return np.minimum(np.minimum(by_leverage, by_lewis), 1.0)


def _by_sample(rows: Rows, T: Matrix, p: float, rtol: float, generator: np.random.Generator) -> Vector:
    """Twice the sensitivities of all rows relative to a sample that keeps all norms within a constant factor."""
    rank = T.shape[1]
    weights = lewis(rows, T, p)
    size = ceil(20 * rank ** max(1.0, p / 2) * log(rank + 2))
    q = probabilities(weights, size)
    kept = np.flatnonzero(generator.random(len(q)) < q)
    sample = rows.take(kept).astype(np.float64) @ T / q[kept, None] ** (1 / p)
    found = np.empty(rows.shape[0])
    for here, block in rows.blocks():
        found[here] = _solved(block @ T, sample, p, max(rtol, 0.1))
    return np.minimum(2 * found, 1.0)


def probabilities(scores: Vector, n_samples: float) -> Vector:
    """min(1, c scores) with the c for which they sum to n_samples, or all that are not zero if there are too few."""
    q = np.minimum(scores, 0.0)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    positive = int((ranked > 0).sum())
    if n_samples >= positive:
        q[order[:positive]] = 1.0
        return q
    # The k largest are capped: c = (m - k) / (sum of the others), for the first k at which the next stays below 1.
    rest = np.cumsum(ranked[::-1])[::-1][:positive]
    factors = (n_samples - np.arange(positive)) / rest
    k = int(np.argmax(factors * ranked[:positive] <= 1.0))
    q = np.minimum(factors[k] * scores, 1.0)
    q[order[:k]] = 1.0
    return q


def _solved(wanted: Matrix, Q: Matrix, p: float, rtol: float) -> Vector:
    """1 / min ||Q x||_p^p over a' x = 1 for each wanted row a, from above, many rows at once."""
    rank = Q.shape[1]
    pairs = np.triu_indices(rank)
    products = Q[:, pairs[0]] * Q[:, pairs[1]]
    found = np.zeros(len(wanted))
    there = np.flatnonzero(np.abs(wanted).max(axis=1) > 0)
    chunk = max(1, CHUNK // len(Q))
    for first in range(0, len(there), chunk):
        some = there[first : first + chunk]
        upper, x = _newton(wanted[some], Q, products, pairs, p, rtol)
        found[some] = largest_shares(np.ascontiguousarray(wanted[some]), Q, x) if p == 1 else upper
    return np.minimum(found, 1.0)


def _newton(
    a: Matrix, Q: Matrix, products: Matrix, pairs: tuple[Any, Any], p: float, rtol: float
) -> tuple[Vector, Vector]:
    """Dual values of rows' problems, and the points they are for, by Newton's method on reweighted least squares.

    With weights |Q x|^(p-2) and their Gram matrix G, the next point is towards G^-1 a / (a' G^-1 a), and
    y = |Q x|^(p-2) Q G^-1 a satisfies Q' y = a: ||y||_q^p is not below the sensitivity, 1 / p + 1 / q = 1.
    """
    rank = Q.shape[1]
    x = a / np.einsum("ij,ij->i", a, a)[:, None]
    upper, lower = np.full(len(a), inf), np.zeros(len(a))
    active = np.arange(len(a))
    damping = 1.0 if p <= 2 else 1.0 / (p - 1)
    for step in range(STEPS if p > 1 else STEPS_TO_A_VERTEX):
        residuals = np.abs(x[active] @ Q.T)
        scale = residuals.max(axis=1, keepdims=True)
        lower[active] = np.maximum(lower[active], 1 / (residuals**p).sum(axis=1))
        # Weights are bounded, ever more generously: they are infinite or zero where a residual vanishes.
        floor = max(1e-9, 0.1 * 0.6**step) if p < 2 else 1e-9
        weights = np.maximum(residuals / scale, floor) ** (p - 2)
        G = np.empty((len(active), rank, rank))
        G[:, pairs[0], pairs[1]] = G[:, pairs[1], pairs[0]] = weights @ products
        solution = np.linalg.solve(G, a[active][:, :, None])[:, :, 0]
        y = weights * np.abs(solution @ Q.T)
        norm = y.max(axis=1) if p == 1 else (y ** (p / (p - 1))).sum(axis=1) ** ((p - 1) / p)
        upper[active] = np.minimum(upper[active], norm**p)
        target = solution / np.einsum("ij,ij->i", a[active], solution)[:, None]
        x[active] += damping * (target - x[active])
        active = active[upper[active] > lower[active] * (1 + rtol)]
        if not len(active):
            break
    return upper, x


def total_sensitivity(A: Any, p: float) -> float:
    r"""Sum of the sensitivities.

    .. math:: S = \sum_{i=1}^n s_i \le d^{\max(1, p/2)}.

    Parameters
    ----------
    A : array_like, Tensor, SciPy CSR or dask array of shape (n, d)
        Rows, floating point.
    p : float, at least 1
        Exponent.

    Returns
    -------
    float
        The sum, by the method "auto" of `lp_sensitivities`.

    Raises
    ------
    ValueError
        If p is below 1, or A is empty or zero, or holds NaN or infinity.
    TypeError
        If A does not hold floating-point numbers.

    References
    ----------
    David P. Woodruff, Taisuke Yasuda. "Sharper Bounds for ell_p Sensitivity Sampling". ICML 2023. arXiv:2306.00732.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.linalg import total_sensitivity
    >>> round(total_sensitivity(np.eye(3), 1.0), 6)
    3.0
    """
    return float(lp_sensitivities(A, p).sum())
