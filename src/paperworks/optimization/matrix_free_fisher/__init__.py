r"""M-FAC: products with the inverse of a damped empirical Fisher matrix, for pruning and for training, matrix-free.

For m gradients :math:`g_l` of dimension d, the rows of G, and a damping :math:`\lambda`, everything here is built on

.. math:: F = \lambda I_d + \frac1m \sum_{l=1}^m g_l g_l^\top,
    \qquad F^{-1} x = \frac1\lambda \left(x - G^\top (m \lambda I_m + G G^\top)^{-1} G x\right).

The static algorithm (`InverseFisher`) factorises once and then answers products in O(d m) and single elements in O(m),
which is what pruning asks for (`prune_with_inverse_fisher`). The dynamic one (`SlidingInverseFisher`) lets gradients
into a window and the oldest out in O(d m + m^3), which is what preconditioned training asks for
(`MatrixFreeFisherOptimizer`).

Methods that prune by other rules share the scores and the compensation: `inverse_fisher_saliency` and
`inverse_fisher_compensation` take a vector of weights and an inverse, whichever way it was made.

References
----------
Elias Frantar, Eldar Kurtic, Dan Alistarh. "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information".
NeurIPS 2021. arXiv:2107.03356.
"""

from paperworks.optimization.matrix_free_fisher._gradients import collect_gradients
from paperworks.optimization.matrix_free_fisher._optimizer import MatrixFreeFisherOptimizer
from paperworks.optimization.matrix_free_fisher._pruner import (
    PruningReport,
    inverse_fisher_compensation,
    inverse_fisher_saliency,
    keep_zeros,
    prune_with_inverse_fisher,
)
from paperworks.optimization.matrix_free_fisher._sliding import SlidingInverseFisher
from paperworks.optimization.matrix_free_fisher._static import InverseFisher, inverse_fisher_recursion

__all__ = [
    "InverseFisher",
    "MatrixFreeFisherOptimizer",
    "PruningReport",
    "SlidingInverseFisher",
    "collect_gradients",
    "inverse_fisher_compensation",
    "inverse_fisher_recursion",
    "inverse_fisher_saliency",
    "keep_zeros",
    "prune_with_inverse_fisher",
]
