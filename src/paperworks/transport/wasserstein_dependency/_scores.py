"""The critic's scores of all pairs in a batch, and the dependency that they show."""

from math import log
from typing import Any, Literal

import torch
from torch import Tensor

from paperworks._tensors import Array, to_tensors

Objective = Literal["cpc", "wpc", "wdm"]
OBJECTIVES = ("cpc", "wpc", "wdm")


def contrastive_scores(z_x: Array, z_y: Array, weight: Array | None = None) -> Any:
    r"""Scores of a bilinear critic, :math:`S_{ij} = z^x_i{}^\top W z^y_j`, for all pairs of two lists of codes.

    Parameters
    ----------
    z_x : array_like or Tensor of shape (n, d) or (batch, n, d)
        Codes of the first view.
    z_y : array_like or Tensor of shape (m, d) or (batch, m, d)
        Codes of the second view; they may differ in dimension from the first only where ``weight`` joins them.
    weight : array_like or Tensor of shape (d, d), optional
        The matrix W, of as many rows as ``z_x`` has columns and as many columns as ``z_y`` has; the identity when None.

    Returns
    -------
    ndarray or Tensor of shape (n, m) or (batch, n, m)
        The scores. NumPy in gives NumPy out.

    Raises
    ------
    TypeError
        If an array does not hold floating-point numbers.
    ValueError
        If an array is empty, not finite, or the shapes do not fit.

    References
    ----------
    Sherjil Ozair, Corey Lynch, Yoshua Bengio, Aaron van den Oord, Sergey Levine, Pierre Sermanet. "Wasserstein
    Dependency Measure for Representation Learning". NeurIPS 2019. arXiv:1903.11780.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import contrastive_scores
    >>> contrastive_scores(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([[1., 3.],
           [2., 4.]])
    """
    tensors, restore = to_tensors(z_x=z_x, z_y=z_y, weight=weight, ndim=(2, 3))
    first, second = tensors[:2]
    if first.ndim != second.ndim or first.shape[:-2] != second.shape[:-2]:
        raise ValueError(
            f"z_x and z_y must have the same batch, got shapes {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if weight is None:
        if first.shape[-1] != second.shape[-1]:
            raise ValueError(
                f"z_x has {first.shape[-1]} columns, z_y has {second.shape[-1]}: without a weight they must agree"
            )
        return restore(first @ second.mT)
    matrix = tensors[2]
    if matrix.shape != (first.shape[-1], second.shape[-1]):
        raise ValueError(f"weight must have shape {(first.shape[-1], second.shape[-1])}, got {tuple(matrix.shape)}")
    return restore(first @ matrix @ second.mT)


def contrastive_dependency(scores: Tensor, *, include_positive: bool = True, symmetric: bool = False) -> Tensor:
    """J of CPC from scores of shape (n, n), in nats: mean of S_ii - log mean_j exp S_ij.

    With the positive among the j, every term is at most log n.
    """
    if symmetric:
        both = (scores, scores.mT)
        return 0.5 * sum(contrastive_dependency(each, include_positive=include_positive) for each in both)  # type: ignore[return-value]
    n = scores.shape[0]
    positives = scores.diagonal()
    if include_positive:
        return (positives - scores.logsumexp(dim=1)).mean() + log(n)
    # Set on a copy by masking: the diagonal takes no part in the sum, nor in its gradient.
    negatives = scores.masked_fill(torch.eye(n, dtype=torch.bool, device=scores.device), -torch.inf)
    return (positives - negatives.logsumexp(dim=1)).mean() + log(n - 1)


def difference_of_means(scores: Tensor) -> Tensor:
    """Kantorovich and Rubinstein's dual value: mean score of the pairs that belong together minus that of the others.

    Over all n (n - 1) other pairs this is the product of the marginals without the n pairs of the joint sample.
    """
    n = scores.shape[0]
    joint = scores.diagonal().mean()
    return joint - (scores.sum() - scores.diagonal().sum()) / (n * (n - 1))
