"""What theory says of a data set: its margin, and how many iterations suffice."""

from math import inf, log
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import log_expit

from paperworks._validation import check_choice, check_floating
from paperworks.optimization.normalized_logistic_regression._passes import METHODS, Method
from paperworks.optimization.normalized_logistic_regression._separation import read_rows


def loss_and_margin(A: Any, y: Any, theta: Any) -> tuple[float, float]:
    r"""Mean logistic loss and geometric margin.

    .. math:: \frac1n \sum_i \log(1 + e^{-m_i}), \qquad \min_i m_i / \|\theta\|, \qquad m_i = y_i a_i^\top \theta.

    Parameters
    ----------
    A : array_like
        Rows, of shape (n, d).
    y : sequence of -1 and 1
        Labels, one a row.
    theta : array_like
        Direction, of shape (d,).

    Returns
    -------
    loss : float
        The loss, which a long theta can make large even where it separates.
    margin : float
        The margin, positive just where theta separates; 0 for a theta of zero.

    Raises
    ------
    ValueError
        If y does not hold -1 and 1 alone, a row is zero, shapes don't fit or numbers are not finite.
    TypeError
        If arrays don't hold floating-point numbers.

    References
    ----------
    Alexander Tyurin. "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step
    Sizes". AAAI 2025. arXiv:2412.08424.

    Examples
    --------
    >>> from paperworks.optimization import loss_and_margin
    >>> loss_and_margin([[3.0, 4.0]], [1], [0.6, 0.8])
    (0.006715348489118068, 5.0)
    """
    z = _signed_rows(A, y)
    direction = check_floating("theta", theta, ndim=1)
    if len(direction) != z.shape[1]:
        raise ValueError(f"theta must have {z.shape[1]} entries, got {len(direction)}")
    margins, length = z @ direction, float(np.linalg.norm(direction))
    return float(-log_expit(margins).mean()), float(margins.min()) / length if length else 0.0


def iteration_bound(A: Any, y: Any, step_size: float = inf, method: Method = "normalized_logistic") -> float:
    r"""Iterations that are proved to suffice from a start of zero.

    With :math:`R = \max_i \|a_i\|` and the margin :math:`\mu = \max_{\|\theta\| = 1} \min_i y_i a_i^\top \theta`:
    :math:`R^2 / \mu^2` for the perceptron and the normalised batch perceptron, n times that for the batch perceptron,
    and for normalised gradient descent

    .. math:: \frac{R^2}{\mu^2} + \frac{2 \log(2 n - 1)}{\gamma \mu^2}.

    Parameters
    ----------
    A : array_like
        Rows, of shape (n, d).
    y : sequence of -1 and 1
        Labels, one a row.
    step_size : float, default infinity
        gamma.
    method : {"normalized_logistic", "batch_perceptron", "normalized_batch_perceptron", "perceptron"}
        Which iteration.

    Returns
    -------
    float
        The bound of Theorem 3.3, 5.2, 5.3 or 6.1.

    Raises
    ------
    ValueError
        If the classes can't be separated by a direction, there is no bound for the method, or as for `separate`.
    TypeError
        If A does not hold floating-point numbers.

    References
    ----------
    Alexander Tyurin. "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step
    Sizes". AAAI 2025. arXiv:2412.08424. The margin is found by least-distance programming: Charles L. Lawson, Richard
    J. Hanson, "Solving Least Squares Problems", 1974.

    Examples
    --------
    >>> from paperworks.optimization import iteration_bound
    >>> round(iteration_bound([[1.0, 0.0], [0.0, -1.0]], [1, -1], method="perceptron"), 6)
    2.0
    """
    check_choice("method", method, [name for name in METHODS if name != "logistic"])
    if not step_size > 0:
        raise ValueError(f"step_size must be greater than 0, got {step_size!r}")
    z = _signed_rows(A, y)
    n = len(z)
    radius, margin = float(np.linalg.norm(z, axis=1).max()), largest_margin(z)
    bound = radius**2 / margin**2
    if method == "batch_perceptron":
        return n * bound
    return bound + 2 * log(2 * n - 1) / (step_size * margin**2) if method == "normalized_logistic" else bound


def largest_margin(z: NDArray[np.floating]) -> float:
    """Largest least margin of a unit vector: one over the length of the shortest x with z x >= 1."""
    scale = float(np.abs(z).max())
    stacked = np.vstack([z.T / scale, np.ones(len(z))])
    wanted = np.r_[np.zeros(z.shape[1]), 1.0]
    weights, residual = nnls(stacked, wanted, maxiter=30 * len(z))
    if residual < 1e-9:
        raise ValueError("A and y can't be separated by a direction: the margin is not positive")
    gaps = stacked @ weights - wanted
    return scale / float(np.linalg.norm(gaps[:-1] / gaps[-1]))


def _signed_rows(A: Any, y: Any) -> NDArray[np.float64]:
    rows, _ = read_rows(np.asarray(A) if isinstance(A, list) else A, y)
    matrix = rows.matrix.cpu().numpy() if hasattr(rows.matrix, "cpu") else rows.matrix.toarray()
    return np.asarray(rows.labels.cpu().numpy()[:, None] * matrix, dtype=np.float64)
