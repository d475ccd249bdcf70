r"""Representations of two views by Wasserstein dependency: contrastive learning with a critic of bounded slope.

The Wasserstein dependency measure of two views is the distance of their joint law from the product of its marginals,

.. math:: I_W(x; y) = W_1\bigl(p(x, y),\, p(x)p(y)\bigr)
          = \sup_{\lVert f\rVert_L \le 1} E_{p(x, y)} f(x, y) - E_{p(x)p(y)} f(x, y),

zero for independent views as mutual information is. Contrastive estimates of mutual information end at the log of the
batch size, so that an encoder which tells the pairs of a batch apart has nothing left to learn. A critic that may rise
by no more than 1 a unit of the data must use every factor that the views share.

References
----------
Sherjil Ozair, Corey Lynch, Yoshua Bengio, Aaron van den Oord, Sergey Levine, Pierre Sermanet. "Wasserstein Dependency
Measure for Representation Learning". NeurIPS 2019. arXiv:1903.11780.
"""

from paperworks.transport.wasserstein_dependency._digits import make_spatial_multi_digits
from paperworks.transport.wasserstein_dependency._estimator import WassersteinDependencyEncoder
from paperworks.transport.wasserstein_dependency._exact import DependenceEstimate, wasserstein_dependency_exact
from paperworks.transport.wasserstein_dependency._loss import DependencyLoss, WassersteinPredictiveCodingLoss
from paperworks.transport.wasserstein_dependency._penalty import gradient_penalty
from paperworks.transport.wasserstein_dependency._scores import contrastive_scores
from paperworks.transport.wasserstein_dependency._spectral import SpectralEncoder

__all__ = [
    "DependenceEstimate",
    "DependencyLoss",
    "SpectralEncoder",
    "WassersteinDependencyEncoder",
    "WassersteinPredictiveCodingLoss",
    "contrastive_scores",
    "gradient_penalty",
    "make_spatial_multi_digits",
    "wasserstein_dependency_exact",
]
