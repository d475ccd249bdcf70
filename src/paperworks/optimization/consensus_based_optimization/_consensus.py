"""The consensus point: the mean of positions under Gibbs weights of their values."""

from typing import Any

import torch
from torch import Tensor

from paperworks._tensors import Array, to_tensors
from paperworks._validation import check_number

# Below as many numbers, a matrix product loses more by sharing its work between threads than it wins.
WORTH_THREADS = 32_768


def consensus_point(values: Array, positions: Array, temperature_inverse: float) -> Any:
    r"""Mean of positions, weighted by how low their values are.

    .. math:: x_\alpha = \frac{\sum_i x_i w_i}{\sum_i w_i}, \qquad w_i = e^{-\alpha (E_i - \min_j E_j)}.

    As alpha grows, it becomes the position of the lowest value; equal values give the plain mean. Weights are computed
    in float64 whatever the positions are in.

    Parameters
    ----------
    values : array_like or Tensor
        Values E, of shape (..., n).
    positions : array_like or Tensor
        Positions x, of shape (..., n, d).
    temperature_inverse : float
        alpha > 0; 1e15 is fine.

    Returns
    -------
    ndarray or Tensor
        Consensus points, of shape (..., d); differentiable if tensors came in.

    Raises
    ------
    ValueError
        If shapes do not match, anything is not finite, or alpha is not positive.
    TypeError
        If values or positions are not floating-point numbers.

    References
    ----------
    Konstantin Riedl, Timo Klock, Carina Geldhauser, Massimo Fornasier. "Gradient is All You Need? How Consensus-Based
    Optimization can be Interpreted as a Stochastic Relaxation of Gradient Descent". 2023. arXiv:2306.09778.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import consensus_point
    >>> positions = np.array([[0.0, 0.0], [1.0, 2.0]])
    >>> consensus_point(np.array([3.0, 3.0]), positions, 100.0)
    array([0.5, 1. ])
    >>> consensus_point(np.array([3.0, 2.0]), positions, 100.0)
    array([1., 2.])
    """
    (E, x), restore = to_tensors(values=values, positions=positions)
    alpha = check_number("temperature_inverse", temperature_inverse, above=0.0)
    if E.ndim < 1 or x.ndim != E.ndim + 1 or x.shape[:-1] != E.shape:
        raise ValueError(
            "values must have shape (..., n) and positions shape (..., n, d), "
            f"got {tuple(E.shape)} and {tuple(x.shape)}"
        )
    return restore(weighted_mean(gibbs_weights(E, alpha), x))


def gibbs_weights(values: Tensor, temperature_inverse: float | Tensor) -> Tensor:
    """Weights in float64 that add up to one over the last axis; a value of infinity has none."""
    values = values.double()
    # Values are shifted before they meet alpha: what is equal to the least stays apart from what is not.
    return torch.softmax(-temperature_inverse * (values - values.amin(-1, keepdim=True)), dim=-1)


def weighted_mean(weights: Tensor, positions: Tensor) -> Tensor:
    """Mean over the last axis but one."""
    weights = weights.to(positions.dtype)
    if positions.numel() < WORTH_THREADS:
        return (weights.unsqueeze(-1) * positions).sum(-2)
    return (weights.unsqueeze(-2) @ positions).squeeze(-2)
