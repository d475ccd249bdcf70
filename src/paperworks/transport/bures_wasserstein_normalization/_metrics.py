"""The three geometries that a batch can be normalised under, each seen from the identity.

Each offers ``mean``, ``geodesic``, ``centre`` (logarithm at G, transported to the identity), ``squared_norm`` (of
tangent vectors at the identity) and ``place`` (transport from the identity to B, then the exponential there). The
transports keep norms, so the variance about G is the mean squared norm of the centred vectors.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from paperworks.transport.bures_wasserstein_normalization._matrix_functions import (
    EXP,
    IDENTITY,
    LOG,
    Spectrum,
    decompose,
    identity_like,
    kronecker_sum_power,
    matrix_function,
    symmetrize,
)
from paperworks.transport.bures_wasserstein_normalization.geometry import (
    RootPair,
    barycenter_step,
    congruence,
    geodesic_between,
    log_at,
)

Root = Callable[[Tensor], Tensor]

# T = I + L must stay positive for the exponential to be one-to-one; its spectrum is held above this.
SMALLEST_STRETCH = 0.05


def _uniform_mean(P: Tensor) -> Tensor:
    return P.mean(0)


class BuresWasserstein:
    """Bures-Wasserstein geometry, with the square root of the batch taken by ``root``."""

    def __init__(self, root: Root, floor: float) -> None:
        self._root, self._floor = root, floor
        self.n_clamped = 0

    def mean(self, P: Tensor, iterations: int) -> Tensor:
        """Return the barycentre after some fixed-point steps from the arithmetic mean."""
        G = _uniform_mean(P)
        for _ in range(iterations):
            G = barycenter_step(P, G, self._root)
        return G

    def geodesic(self, A: Tensor, B: Tensor, t: float) -> Tensor:
        """Return the point at time t between A and B."""
        return geodesic_between(A, B, t)

    def centre(self, P: Tensor, G: Tensor) -> Tensor:
        """Return Log_G P, transported to the identity."""
        spectrum = decompose(G, relative_floor=self._floor)
        if not G.requires_grad:
            return self._centre_in_basis(P, spectrum)
        pair = RootPair.of(G, spectrum)
        V = log_at(G, self._root(congruence(pair.root, P)), pair)
        return kronecker_sum_power(G, V, -0.5, spectrum)

    def _centre_in_basis(self, P: Tensor, spectrum: Spectrum) -> Tensor:
        """Logarithm and transport are both elementwise in the basis of G: half the matrix products."""
        g = torch.maximum(spectrum.p, spectrum.floor)
        half = spectrum.U * g.sqrt()
        roots = self._root(congruence(half.mT, P))
        factor = (2 * (g[:, None] + g[None, :]) / (g[:, None] * g[None, :])).sqrt()
        return congruence(spectrum.U, roots * factor - torch.diag(2 * g.sqrt()))

    def squared_norm(self, V: Tensor) -> Tensor:
        """Return |V|^2 at the identity: a quarter of Frobenius'."""
        return V.square().sum((-2, -1)) / 4

    def place(self, V: Tensor, B: Tensor, *, guard: bool = True) -> Tensor:
        """Transport V from the identity to B and follow the geodesic: T B T.

        T = I + L solves B L + L B = W for the transported W, which takes V_ij / sqrt(2 (b_i + b_j)) in B's basis.
        The guard holds the spectrum of T above 0.05, counting in ``n_clamped`` the matrices that it changed.
        """
        T = identity_like(B) + kronecker_sum_power(B, V, -0.5, decompose(B, relative_floor=self._floor)) / 2
        if guard:
            T = self._clamp(T)
        return symmetrize(congruence(T, B))

    def _clamp(self, T: Tensor) -> Tensor:
        identity = identity_like(T)
        # Frobenius' norm bounds how far an eigenvalue of T is from 1, at a fraction of a factorisation's cost.
        if (torch.linalg.matrix_norm(T.detach() - identity) < 1 - SMALLEST_STRETCH).all():
            return T
        outside = torch.linalg.cholesky_ex(T.detach() - SMALLEST_STRETCH * identity).info > 0
        self.n_clamped = int(outside.sum())
        if not self.n_clamped:
            return T
        clamped = matrix_function(T[outside], IDENTITY, decompose(T[outside], floor=SMALLEST_STRETCH))
        return T.masked_scatter(outside[:, None, None], clamped)


class AffineInvariant:
    """Affine-invariant geometry: distances are those of log(G^-1/2 P G^-1/2)."""

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self.n_clamped = 0

    def mean(self, P: Tensor, iterations: int) -> Tensor:
        """Return the Karcher mean after some steps from the arithmetic mean."""
        G = _uniform_mean(P)
        for _ in range(iterations):
            half = RootPair.of(G)
            G = symmetrize(congruence(half.root, _exp(_uniform_mean(self._whitened_log(P, half.inverse)))))
        return G

    def geodesic(self, A: Tensor, B: Tensor, t: float) -> Tensor:
        """Return the point at time t between A and B."""
        half = RootPair.of(A)
        return symmetrize(congruence(half.root, _exp(t * self._whitened_log(B, half.inverse))))

    def centre(self, P: Tensor, G: Tensor) -> Tensor:
        """Return log(G^-1/2 P G^-1/2)."""
        return self._whitened_log(P, RootPair.of(G).inverse)

    def squared_norm(self, V: Tensor) -> Tensor:
        """Return |V|^2 at the identity: Frobenius'."""
        return V.square().sum((-2, -1))

    def place(self, V: Tensor, B: Tensor) -> Tensor:
        """Return B^1/2 exp(V) B^1/2."""
        return symmetrize(congruence(RootPair.of(B).root, _exp(V)))

    def _whitened_log(self, P: Tensor, inverse_root: Tensor) -> Tensor:
        return _log(congruence(inverse_root, P), self._floor)


class LogEuclidean:
    """Log-Euclidean geometry: matrix logarithms are flat."""

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self.n_clamped = 0

    def mean(self, P: Tensor, iterations: int) -> Tensor:
        """Return exp(mean log P), whatever the number of iterations."""
        return _exp(_uniform_mean(_log(P, self._floor)))

    def geodesic(self, A: Tensor, B: Tensor, t: float) -> Tensor:
        """Return the point at time t between A and B."""
        return _exp((1 - t) * _log(A, self._floor) + t * _log(B, self._floor))

    def centre(self, P: Tensor, G: Tensor) -> Tensor:
        """Return log P - log G."""
        return _log(P, self._floor) - _log(G, self._floor)

    def squared_norm(self, V: Tensor) -> Tensor:
        """Return |V|^2 at the identity: Frobenius'."""
        return V.square().sum((-2, -1))

    def place(self, V: Tensor, B: Tensor) -> Tensor:
        """Return exp(log B + V)."""
        return _exp(_log(B, self._floor) + V)


Geometry = BuresWasserstein | AffineInvariant | LogEuclidean


def _log(P: Tensor, floor: float) -> Tensor:
    return matrix_function(P, LOG, decompose(P, relative_floor=floor))


def _exp(V: Tensor) -> Tensor:
    return matrix_function(V, EXP)
