"""Batch normalisation of symmetric positive definite matrices under the Bures-Wasserstein geometry.

The geometry (distances, geodesics, means), the normalisation layer, the layers of an SPD network around it, and
scikit-learn estimators.
"""

from paperworks.transport.bures_wasserstein_normalization.estimators import BuresWassersteinScaler, SPDNetClassifier
from paperworks.transport.bures_wasserstein_normalization.geometry import (
    bures_wasserstein_distance,
    bures_wasserstein_exp,
    bures_wasserstein_geodesic,
    bures_wasserstein_log,
    bures_wasserstein_mean,
)
from paperworks.transport.bures_wasserstein_normalization.networks import (
    BiMap,
    EigenvalueRectification,
    MatrixLogarithm,
    SPDNet,
)
from paperworks.transport.bures_wasserstein_normalization.normalization import SPDBatchNorm

__all__ = [
    "BiMap",
    "BuresWassersteinScaler",
    "EigenvalueRectification",
    "MatrixLogarithm",
    "SPDBatchNorm",
    "SPDNet",
    "SPDNetClassifier",
    "bures_wasserstein_distance",
    "bures_wasserstein_exp",
    "bures_wasserstein_geodesic",
    "bures_wasserstein_log",
    "bures_wasserstein_mean",
]
