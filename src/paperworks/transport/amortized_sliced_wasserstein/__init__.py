r"""Distributional sliced Wasserstein distances whose informative directions a small network predicts.

For clouds :math:`\mu, \nu` of points in :math:`R^d`, the distributional sliced Wasserstein distance with von
Mises-Fisher directions is

.. math::
    \text{v-DSW}_p^p(\mu, \nu; \kappa) = \max_{\epsilon \in S^{d-1}}
        E_{\theta \sim \text{vMF}(\epsilon, \kappa)} \left[ W_p^p(\theta_\# \mu, \theta_\# \nu) \right].

It tends to sliced Wasserstein for :math:`\kappa \to 0`, to max-sliced Wasserstein for :math:`\kappa \to \infty`. For
every finite :math:`\kappa` it is a metric, and it vanishes for equal clouds only, *whatever* :math:`\epsilon` it is
evaluated at. So a network that reads both clouds may predict :math:`\epsilon` in one pass in place of a gradient ascent
for each pair; with self-attention the prediction depends neither on the order of the points nor on which cloud comes
first.

References
----------
K. Nguyen, D. Nguyen, N. Ho. "Self-Attention Amortized Distributional Projection Optimization for Sliced Wasserstein
Point-Cloud Reconstruction." ICML 2023. arXiv:2301.04791.
"""

from paperworks.transport.amortized_sliced_wasserstein._amortizers import (
    AttentionAmortizer,
    GeneralizedLinearAmortizer,
    LinearAmortizer,
    NonlinearAmortizer,
)
from paperworks.transport.amortized_sliced_wasserstein._distances import (
    distributional_sliced_wasserstein,
    max_sliced_wasserstein,
)
from paperworks.transport.amortized_sliced_wasserstein._loss import AmortizedSlicedWassersteinLoss
from paperworks.transport.amortized_sliced_wasserstein._reconstruction import (
    PointCloudAutoencoder,
    PointCloudReconstructor,
)
from paperworks.transport.amortized_sliced_wasserstein._shapes import make_shapes
from paperworks.transport.amortized_sliced_wasserstein._von_mises_fisher import VonMisesFisher

__all__ = [
    "AmortizedSlicedWassersteinLoss",
    "AttentionAmortizer",
    "GeneralizedLinearAmortizer",
    "LinearAmortizer",
    "NonlinearAmortizer",
    "PointCloudAutoencoder",
    "PointCloudReconstructor",
    "VonMisesFisher",
    "distributional_sliced_wasserstein",
    "make_shapes",
    "max_sliced_wasserstein",
]
