r"""Sampling the rows of a tall matrix so that l_p norms survive.

The problem is to replace A, with n rows and d columns, by a few of its rows, rescaled, so that

.. math:: \|S A x\|_p^p = (1 \pm \varepsilon)\, \|A x\|_p^p \quad\text{for all } x,

and regression or low-rank approximation in that norm runs on the small matrix. A row must be kept with a probability
that grows with its sensitivity, the largest share it can have of the norm; their sum S says how many rows that takes:
about :math:`S^{2/p}` for p < 2 and :math:`S^{2 - 2/p}` for p > 2, where bounds before said S d.

References
----------
David P. Woodruff, Taisuke Yasuda. "Sharper Bounds for ell_p Sensitivity Sampling". ICML 2023. arXiv:2306.00732.
"""

from paperworks.linalg.sensitivity_sampling._regression import lp_regression, lp_regression_sketched
from paperworks.linalg.sensitivity_sampling._sampler import LpRowSampler, sampling_probabilities
from paperworks.linalg.sensitivity_sampling._scores import (
    leverage_scores,
    lewis_weights,
    lp_sensitivities,
    total_sensitivity,
)

__all__ = [
    "LpRowSampler",
    "leverage_scores",
    "lewis_weights",
    "lp_regression",
    "lp_regression_sketched",
    "lp_sensitivities",
    "sampling_probabilities",
    "total_sensitivity",
]
