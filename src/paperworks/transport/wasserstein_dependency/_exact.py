"""The Wasserstein dependency of two small samples, by exact transport."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from paperworks._random import RandomState, numpy_generator
from paperworks._tensors import Array, to_tensors
from paperworks._validation import check_integer


@dataclass(frozen=True)
class DependenceEstimate:
    """A dependency with what independence would have given in its place.

    Parameters
    ----------
    value : float
        The estimate as it is, biased upwards.
    null_mean, null_std : float
        Mean and deviation of the same estimate over pairings drawn at random.
    p_value : float
        (1 + number of those at least as large) / (1 + number of those): small for dependent views.

    References
    ----------
    Sherjil Ozair, Corey Lynch, Yoshua Bengio, Aaron van den Oord, Sergey Levine, Pierre Sermanet. "Wasserstein
    Dependency Measure for Representation Learning". NeurIPS 2019. arXiv:1903.11780.

    Examples
    --------
    >>> from paperworks.transport import DependenceEstimate
    >>> DependenceEstimate(value=0.5, null_mean=0.25, null_std=0.05, p_value=0.05).debiased
    0.25
    """

    value: float
    null_mean: float
    null_std: float
    p_value: float

    @property
    def debiased(self) -> float:
        """Value minus the mean under independence."""
        return self.value - self.null_mean


def wasserstein_dependency_exact(
    x: Array, y: Array, *, n_shuffles: int = 20, random_state: RandomState = None
) -> DependenceEstimate:
    r"""Wasserstein dependency of two small samples, :math:`W_1(p(x, y), p(x)p(y))`, without a network.

    It is the cost of moving the pairs :math:`(x_i, y_i)` to re-drawn pairs :math:`(x_i, y_{\pi(i)})`, solved exactly as
    an assignment under the Euclidean distance of the concatenated views. It is consistent and biased upwards, by
    :math:`n^{-1/(d + e)}`; the same estimate between two re-drawn pairings, over ``n_shuffles`` of them, says by how
    much, and serves as a permutation test.

    Parameters
    ----------
    x : array_like or Tensor of shape (n, d)
        First view.
    y : array_like or Tensor of shape (n, e)
        Second view, row by row.
    n_shuffles : int, default 20
        Number of pairings drawn for the null.
    random_state : int, Generator, RandomState or None, default None
        Seed of the pairings.

    Returns
    -------
    DependenceEstimate
        Value, null and p-value, in units of the inputs.

    Raises
    ------
    TypeError
        If an array does not hold floating-point numbers, or ``n_shuffles`` is no integer.
    ValueError
        If an array is empty or not finite, rows do not match, or there are fewer than 2.

    References
    ----------
    Sherjil Ozair, Corey Lynch, Yoshua Bengio, Aaron van den Oord, Sergey Levine, Pierre Sermanet. "Wasserstein
    Dependency Measure for Representation Learning". NeurIPS 2019. arXiv:1903.11780.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import wasserstein_dependency_exact
    >>> x = np.random.default_rng(0).normal(size=(100, 1))
    >>> estimate = wasserstein_dependency_exact(x, x**2, random_state=0)
    >>> estimate.p_value < 0.05, estimate.debiased > 0.1
    (True, True)
    """
    check_integer("n_shuffles", n_shuffles)
    first, second = (tensor.detach().cpu().double().numpy() for tensor in to_tensors(x=x, y=y, ndim=2)[0])
    n = len(first)
    if n != len(second):
        raise ValueError(f"x has {n} rows, y has {len(second)}")
    if n < 2:
        raise ValueError(f"x and y must have at least 2 rows, got {n}")
    generator = numpy_generator(random_state)
    # All pairings share these: a pairing only picks rows and columns of the second.
    squares = tuple(cdist(view, view, "sqeuclidean") for view in (first, second))
    value = _cost_between_pairings(squares, np.arange(n), generator.permutation(n))
    null = np.array(
        [_cost_between_pairings(squares, generator.permutation(n), generator.permutation(n)) for _ in range(n_shuffles)]
    )
    return DependenceEstimate(
        value, float(null.mean()), float(null.std()), float(1 + (null >= value).sum()) / (1 + n_shuffles)
    )


def _cost_between_pairings(
    squares: tuple[NDArray[np.float64], ...], one: NDArray[np.intp], other: NDArray[np.intp]
) -> float:
    """W_1 between the samples (x_i, y_one(i)) and (x_i, y_other(i))."""
    cost = squares[1][one][:, other]
    cost += squares[0]
    np.sqrt(cost, out=cost)
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())
