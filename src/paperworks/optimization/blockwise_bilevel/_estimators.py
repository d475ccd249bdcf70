"""Estimators of block quantities that stay good while their blocks are not sampled."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from paperworks._tensors import to_tensors
from paperworks._validation import check_number

Gamma = Literal["theory"] | float


def msvr_update(estimate: Any, blocks: Any, new: Any, old: Any, *, alpha: float = 0.1, gamma: Gamma = "theory") -> Any:
    r"""Move the estimates of sampled blocks, correcting for how far the point has moved (MSVR).

    .. math:: s_i \leftarrow (1 - \alpha) s_i + \alpha h_i(w_t; \xi) + \gamma\,(h_i(w_t; \xi) - h_i(w_{t-1}; \xi)),
        \qquad \gamma = \frac{m - I}{I (1 - \alpha)} + 1 - \alpha,

    for the I sampled of m blocks; the others stay. The same sample must be used at both points, and the old point is
    that of the step before, however long ago the block was sampled. With I = m this is STORM.

    Parameters
    ----------
    estimate : array_like or Tensor
        Estimates s, of shape (m, ...).
    blocks : sequence of indices
        The sampled blocks, I different ones below m.
    new, old : array_like or Tensor
        Values h of the sampled blocks at the present and at the last point, of shape (I, ...).
    alpha : float, default 0.1
        Weight of the new sample, in (0, 1]; less than 1 for ``gamma="theory"``.
    gamma : {"theory"} or float, default "theory"
        Weight of the correction.

    Returns
    -------
    ndarray or Tensor
        The estimates after the update, of shape (m, ...); what came in is left as it was.

    Raises
    ------
    ValueError
        If shapes do not match, an index is out of range or repeated, or alpha is not in its range.
    TypeError
        If estimates or values are not floating-point numbers.

    References
    ----------
    Quanqi Hu, Zi-Hao Qiu, Zhishuai Guo, Lijun Zhang, Tianbao Yang. "Blockwise Stochastic Variance-Reduced Methods with
    Parallel Speedup for Multi-Block Bilevel Optimization". ICML 2023. arXiv:2305.18730.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import msvr_update
    >>> msvr_update(np.zeros(2), [1], new=np.array([3.0]), old=np.array([2.0]), alpha=0.5, gamma=1.0)
    array([0. , 2.5])
    """
    (s, new, old), restore = to_tensors(estimate=estimate, new=new, old=old)
    chosen = np.asarray(blocks.cpu() if isinstance(blocks, Tensor) else blocks)
    if chosen.dtype.kind not in "iu" or chosen.ndim != 1:
        raise TypeError(f"blocks must be a sequence of integers, got {blocks!r}")
    if len(np.unique(chosen)) < len(chosen) or not len(chosen) or chosen.min() < 0 or chosen.max() >= len(s):
        raise ValueError(f"blocks must be different indices from 0 to {len(s) - 1}, got {blocks!r}")
    wanted = (len(chosen), *s.shape[1:])
    for name, value in (("new", new), ("old", old)):
        if tuple(value.shape) != wanted:
            raise ValueError(f"{name} must have shape {wanted}, a row a sampled block, got {tuple(value.shape)}")
    alpha = check_alpha(alpha, gamma)
    index = torch.as_tensor(chosen.astype(np.int64), device=s.device)
    rows = moved(s[index], new, old, alpha, weight_of_correction(gamma, len(s), len(chosen), alpha))
    return restore(s.index_copy(0, index, rows))


def moved(rows: Any, new: Any, old: Any, alpha: float, gamma: float) -> Any:
    """Rows of sampled blocks after the MSVR update."""
    return (1 - alpha) * rows + (alpha + gamma) * new - gamma * old


def check_alpha(alpha: float, gamma: Gamma) -> float:
    """Return alpha if it is in (0, 1], and below 1 where the theory divides by 1 - alpha."""
    alpha = check_number("alpha", alpha, above=0.0, at_most=1.0)
    if isinstance(gamma, str) and gamma != "theory":
        raise ValueError(f"gamma must be a number or 'theory', got {gamma!r}")
    if gamma == "theory" and alpha == 1:
        raise ValueError("alpha must be less than 1 for gamma='theory', which divides by 1 - alpha; got 1")
    return alpha


def weight_of_correction(gamma: Gamma, m: int, sampled: int, alpha: float) -> float:
    """The gamma of theory, or the one that was given."""
    if gamma == "theory":
        return (m - sampled) / (sampled * (1 - alpha)) + 1 - alpha
    return check_number("gamma", gamma, at_least=0.0)


def project_spectra(H: Any, floor: float, bound: float) -> Any:
    """Nearest symmetric matrices with eigenvalues from floor to bound, of shape (..., d, d)."""
    if isinstance(H, Tensor):
        values, vectors = torch.linalg.eigh((H + H.mT) / 2)
        return (vectors * values.clamp(floor, bound)[..., None, :]) @ vectors.mT
    values, vectors = np.linalg.eigh((H + np.swapaxes(H, -1, -2)) / 2)
    return (vectors * np.clip(values, floor, bound)[..., None, :]) @ np.swapaxes(vectors, -1, -2)


def project_balls(v: Any, radius: float) -> Any:
    """Nearest rows of norm at most radius; a row of zeros stays."""
    norms = (v * v).sum(-1) ** 0.5
    # Dividing by the larger of norm and radius leaves short rows, zero among them, as they are.
    return v * (radius / norms.clip(radius, None))[..., None]
