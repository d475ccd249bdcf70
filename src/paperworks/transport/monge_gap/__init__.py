r"""Transport maps that are optimal for a cost of choice: any network, regularised by its Monge gap.

A map :math:`T` moves samples of a measure :math:`\rho` at a mean cost of :math:`E_\rho[c(x, T(x))]`, and
:math:`W_c(\rho, T_\#\rho)` is the least at which anything could have made the same move. Their difference, the Monge
gap, is zero exactly when T is optimal. Added to a fitting loss, it makes of any network an estimator of the optimal
map, for costs of which the optimal map is no gradient of a convex function.

References
----------
Théo Uscidda and Marco Cuturi. The Monge Gap: A Regularizer to Learn All Transport Maps. ICML 2023. arXiv 2302.04953.
"""

from paperworks.transport.monge_gap._costs import PNormCost
from paperworks.transport.monge_gap._estimator import MongeMap
from paperworks.transport.monge_gap._gap import MongeGapLoss, monge_gap, sinkhorn_divergence
from paperworks.transport.monge_gap._maps import StructuredMap

__all__ = ["MongeGapLoss", "MongeMap", "PNormCost", "StructuredMap", "monge_gap", "sinkhorn_divergence"]
