"""Regression in l_p norms, on all rows or on a sample."""

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.optimize import linprog
from sklearn.exceptions import ConvergenceWarning

from paperworks._random import RandomState
from paperworks._validation import check_floating
from paperworks.linalg.sensitivity_sampling._rows import Matrix, Vector
from paperworks.linalg.sensitivity_sampling._sampler import LpRowSampler, Rule
from paperworks.linalg.sensitivity_sampling._scores import check_p

STEPS, TOLERANCE = 500, 1e-10


def lp_regression(A: ArrayLike, b: ArrayLike, p: float, sample_weight: ArrayLike | None = None) -> NDArray[np.float64]:
    r"""Regression in an l_p norm.

    .. math:: \min_x \sum_{i=1}^n w_i\, |a_i^\top x - b_i|^p.

    Parameters
    ----------
    A : array_like of shape (n, d)
        Rows :math:`a_i`, floating point.
    b : array_like of shape (n,)
        Right-hand sides.
    p : float, at least 1
        Exponent; p = 1 is least absolute deviations, solved as a linear programme.
    sample_weight : array_like, optional
        Weights w, of shape (n,), nonnegative.

    Returns
    -------
    ndarray of shape (d,)
        A minimiser; the shortest one for p = 2 where there are several.

    Raises
    ------
    ValueError
        If p is below 1, shapes don't fit, numbers are not finite, or weights are negative.
    TypeError
        If arrays don't hold floating-point numbers.

    Warns
    -----
    ConvergenceWarning
        If the minimum is not reached.

    References
    ----------
    David P. Woodruff, Taisuke Yasuda. "Sharper Bounds for ell_p Sensitivity Sampling". ICML 2023. arXiv:2306.00732.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.linalg import lp_regression
    >>> A, b = np.ones((5, 1)), np.array([0.0, 1.0, 2.0, 3.0, 100.0])
    >>> [lp_regression(A, b, p).round(3).tolist() for p in (1.0, 2.0)]  # the median, the mean
    [[2.0], [21.2]]
    """
    exponent = check_p(p)
    rows, wanted = _checked(A, b)
    if sample_weight is not None:
        w = check_floating("sample_weight", sample_weight, ndim=1).astype(np.float64)
        if w.shape != wanted.shape:
            raise ValueError(f"sample_weight must have length {len(wanted)}, got {len(w)}")
        if w.min() < 0:
            raise ValueError(f"sample_weight must not be negative, got {w.min():g}")
        scale = w ** (1 / exponent)
        rows, wanted = scale[:, None] * rows, scale * wanted
    if exponent == 2:
        return np.asarray(np.linalg.lstsq(rows, wanted)[0])
    return _least_absolute(rows, wanted) if exponent == 1 else _newton(rows, wanted, exponent)


def _checked(A: ArrayLike, b: ArrayLike) -> tuple[Matrix, Vector]:
    rows = check_floating("A", A, ndim=2).astype(np.float64, copy=False)
    wanted = check_floating("b", b, ndim=1).astype(np.float64, copy=False)
    if len(rows) != len(wanted):
        raise ValueError(f"b must have an entry for each of {len(rows)} rows of A, got {len(wanted)}")
    return rows, wanted


def _least_absolute(rows: Matrix, wanted: Vector) -> Vector:
    """The dual linear programme, max b' y over A' y = 0 and |y| <= 1, has d constraints; its multipliers are x."""
    equal = np.zeros(rows.shape[1])
    found = linprog(-wanted, A_eq=sparse.csr_array(rows.T), b_eq=equal, bounds=(-1.0, 1.0), method="highs")
    if not found.success:
        warnings.warn(f"least absolute deviations: {found.message}", ConvergenceWarning, stacklevel=3)
        return np.asarray(np.linalg.lstsq(rows, wanted)[0])
    return np.asarray(-found.eqlin.marginals, dtype=np.float64)


def _newton(rows: Matrix, wanted: Vector, p: float) -> Vector:
    """Newton's method on reweighted least squares, each step halved until the sum falls."""
    x = np.linalg.lstsq(rows, wanted)[0]
    residuals = rows @ x - wanted
    value = float((np.abs(residuals) ** p).sum())
    for _ in range(STEPS):
        scale = np.abs(residuals).max()
        if scale == 0:
            return np.asarray(x)
        weights = np.maximum(np.abs(residuals) / scale, 1e-9) ** (p - 2)
        gradient = rows.T @ (weights * residuals)
        step = np.linalg.lstsq((rows.T * weights) @ rows, gradient)[0] / max(1.0, p - 1)
        moved = rows @ step
        size = 1.0
        while True:
            ahead = residuals - size * moved
            new = float((np.abs(ahead) ** p).sum())
            if new <= value or size < 1e-12:
                break
            size /= 2
        gained = value - new
        if new <= value:
            x, residuals, value = x - size * step, ahead, new
        if gained <= TOLERANCE * value:
            return np.asarray(x)
    warnings.warn(f"l_p regression did not converge in {STEPS} steps", ConvergenceWarning, stacklevel=3)
    return np.asarray(x)


def lp_regression_sketched(
    A: ArrayLike,
    b: ArrayLike,
    p: float,
    n_samples: int,
    *,
    rule: Rule = "auto",
    random_state: RandomState = None,
) -> NDArray[np.float64]:
    r"""Regression in an l_p norm on a sample of the rows of [A b].

    .. math:: \min_x \|S (A x - b)\|_p.

    Parameters
    ----------
    A : array_like of shape (n, d)
        Rows, floating point.
    b : array_like of shape (n,)
        Right-hand sides.
    p : float, at least 1
        Exponent.
    n_samples : int
        Expected number of rows that are kept.
    rule : str, default "auto"
        How rows are chosen; see `LpRowSampler`.
    random_state : None, int, Generator or RandomState
        Source of the sample.

    Returns
    -------
    ndarray of shape (d,)
        The minimiser on the sample.

    Raises
    ------
    ValueError
        As `lp_regression` and `LpRowSampler`.
    TypeError
        If arrays don't hold floating-point numbers.

    References
    ----------
    David P. Woodruff, Taisuke Yasuda. "Sharper Bounds for ell_p Sensitivity Sampling". ICML 2023. arXiv:2306.00732.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.linalg import lp_regression_sketched
    >>> rng = np.random.default_rng(0)
    >>> A = rng.normal(size=(4000, 3))
    >>> b = A @ [1.0, 2.0, 3.0] + rng.standard_cauchy(4000)
    >>> lp_regression_sketched(A, b, 1.0, 1500, random_state=0).round()
    array([1., 2., 3.])
    """
    rows, wanted = _checked(A, b)
    sampler = LpRowSampler(check_p(p), rule, n_samples=n_samples, random_state=random_state)
    small = sampler.fit_transform(np.column_stack([rows, wanted]))
    return lp_regression(small[:, :-1], small[:, -1], p)
