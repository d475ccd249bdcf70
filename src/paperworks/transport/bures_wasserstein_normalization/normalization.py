"""Riemannian batch normalisation of symmetric positive definite matrices."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from paperworks._tensors import check_finite_tensor
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.transport.bures_wasserstein_normalization._matrix_functions import (
    ABSOLUTE,
    EXP,
    SQRT,
    Spectrum,
    decompose,
    identity_like,
    matrix_function,
    newton_schulz_root,
    symmetrize,
)
from paperworks.transport.bures_wasserstein_normalization._metrics import (
    AffineInvariant,
    BuresWasserstein,
    Geometry,
    LogEuclidean,
)
from paperworks.transport.bures_wasserstein_normalization._positive_definite import (
    check_power,
    check_semidefinite,
    relative_floor,
)
from paperworks.transport.bures_wasserstein_normalization.geometry import congruence, matrix_power, square_root

__all__ = ["SPDBatchNorm"]

Metric = Literal["generalized-bures-wasserstein", "bures-wasserstein", "affine-invariant", "log-euclidean"]
METRICS = ("generalized-bures-wasserstein", "bures-wasserstein", "affine-invariant", "log-euclidean")


class SPDBatchNorm(nn.Module):
    r"""Batch normalisation of symmetric positive definite matrices.

    Under the generalised Bures-Wasserstein metric with M, power :math:`\theta`, bias B and scale s, a batch X becomes

    1. :math:`P_i = M^{-1/2} X_i^\theta M^{-1/2}`, :math:`\tilde B = M^{-1/2} B^\theta M^{-1/2}`,
    2. :math:`G` = barycentre, :math:`v = \theta^{-2}\, \mathrm{mean}_i\, d^2(P_i, G)`,
    3. :math:`V_i = \frac{s}{\sqrt{v + \epsilon}}\, \Gamma_{G \to I} \mathrm{Log}_G P_i`,
    4. :math:`Y_i = \mathrm{Exp}_{\tilde B} \Gamma_{I \to \tilde B} V_i`, and steps 1 undone,

    so that the output has Frechet mean B and variance :math:`s^2 v / (v + \epsilon)`, exactly so for an exact
    barycentre and unless the domain guard acts: where the spectrum of :math:`I + L_{\tilde B}` of a transported vector
    falls below 0.05 it is held there, and ``n_clamped_`` counts the matrix. No gradient flows through G and v in
    training. M and B are the exponentials of the symmetric parameters ``log_metric`` and ``log_bias``, so that any
    optimiser keeps them positive definite.

    Parameters
    ----------
    n : int
        Size of the matrices.
    metric : {"generalized-bures-wasserstein", "bures-wasserstein", "affine-invariant", "log-euclidean"}
        The geometry. ``"bures-wasserstein"`` is the generalised one at M = I; the last two are the established
        alternatives, under the same scheme.
    power : float, default 1.0
        Exponent theta of the power deformation, not zero. The log-Euclidean geometry does not change under it and
        takes only 1.
    momentum : float, default 0.1
        Weight of a new batch in the running mean (along a geodesic) and the running variance.
    eps : float, default 1e-5
        Added to the variance.
    mean_iterations : int, default 1
        Fixed-point steps towards the barycentre, from the arithmetic mean (Karcher steps if affine-invariant).
    learn_metric : bool, default True
        Learn M, for the generalised metric; else M stays the identity.
    affine : bool, default True
        Learn the bias B and the scale s; else they stay I and 1.
    track_running_stats : bool, default True
        Keep running statistics for evaluation; else batch statistics serve there as well.
    running_space : {"input", "pulled-back"}, default "input"
        Where the running mean lives: among the input matrices, so that it stays meaningful while M moves, or among
        the ``P_i`` of step 1, as in the authors' code.
    reference_compatible : bool, default False
        Follow the authors' code where it departs from the formulae (Bures-Wasserstein metrics): the variance is taken
        about the identity before centring, an exponential and a logarithm at I stand before and after the scaling
        (they reflect eigenvalues at the domain's border in place of the guard), and the running variance is a
        parameter of length n. Together with ``running_space="pulled-back"`` it is that code.
    matrix_functions : {"eigh", "newton-schulz"}, default "eigh"
        How square roots of the batch are taken (Bures-Wasserstein metrics): by eigendecomposition, or by an iteration
        of matrix products, for well-conditioned n >= 32 on a GPU. The latter needs a power of 1, 1/2 or 1/4 and is
        differentiable once.
    compute_dtype : torch.dtype, default torch.float64
        What the layer computes in; its output has the dtype of its input.

    Attributes
    ----------
    running_mean : Tensor of shape (n, n)
        Running mean, in ``running_space``.
    running_var : Tensor
        Running variance.
    n_clamped_ : int
        Number of matrices that the domain guard changed since the statistics were last reset.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or the input is not symmetric positive definite of size n, or a training
        batch holds a single matrix.
    TypeError
        If the input is not a floating-point tensor.

    References
    ----------
    Wang, Jin, Chen, Luo, Wu, "Learning to Normalize on the SPD Manifold under Bures-Wasserstein Geometry",
    arXiv:2504.00660.

    Examples
    --------
    >>> import torch
    >>> from paperworks.transport import SPDBatchNorm, bures_wasserstein_mean
    >>> generator = torch.Generator().manual_seed(0)
    >>> A = torch.randn(20, 8, 40, generator=generator, dtype=torch.float64)
    >>> normalize = SPDBatchNorm(8, mean_iterations=30)
    >>> Y = normalize(A @ A.mT)
    >>> bool(torch.allclose(bures_wasserstein_mean(Y.detach()), torch.eye(8, dtype=torch.float64)))
    True
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        n: int,
        *,
        metric: Metric = "generalized-bures-wasserstein",
        power: float = 1.0,
        momentum: float = 0.1,
        eps: float = 1e-5,
        mean_iterations: int = 1,
        learn_metric: bool = True,
        affine: bool = True,
        track_running_stats: bool = True,
        running_space: Literal["input", "pulled-back"] = "input",
        reference_compatible: bool = False,
        matrix_functions: Literal["eigh", "newton-schulz"] = "eigh",
        compute_dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.n = check_integer("n", n)
        self.metric = check_choice("metric", metric, METRICS)
        self.power = check_power(power)
        self.momentum = check_number("momentum", momentum, at_least=0, at_most=1)
        self.eps = check_number("eps", eps, at_least=0)
        self.mean_iterations = check_integer("mean_iterations", mean_iterations, at_least=0)
        self.track_running_stats = track_running_stats
        self.running_space = check_choice("running_space", running_space, ("input", "pulled-back"))
        self.reference_compatible = reference_compatible
        self.matrix_functions = check_choice("matrix_functions", matrix_functions, ("eigh", "newton-schulz"))
        self.compute_dtype = compute_dtype
        self._refuse_combinations()
        learned = learn_metric and metric == "generalized-bures-wasserstein"
        zeros = partial(torch.zeros, n, n)
        self.log_metric = nn.Parameter(zeros()) if learned else None
        self.log_bias = nn.Parameter(zeros()) if affine else None
        self.scale = nn.Parameter(torch.ones(())) if affine else None
        self.register_buffer("running_mean", torch.eye(n))
        if reference_compatible:
            self.running_var = nn.Parameter(torch.ones(n))
        else:
            self.register_buffer("running_var", torch.ones(()))
        self.n_clamped_ = 0

    def _refuse_combinations(self) -> None:
        of_bures = self.metric.endswith("bures-wasserstein")
        if self.metric == "log-euclidean" and self.power != 1:
            raise ValueError(f"power must be 1 under the log-euclidean metric, which it leaves as it is: {self.power}")
        if self.reference_compatible and not of_bures:
            raise ValueError(f"reference_compatible needs a Bures-Wasserstein metric, got {self.metric!r}")
        if self.matrix_functions == "newton-schulz" and not (of_bures and self.power in (1.0, 0.5, 0.25)):
            raise ValueError(
                "matrix_functions='newton-schulz' needs a Bures-Wasserstein metric and a power of 1, 0.5 or 0.25, "
                f"got {self.metric!r} and {self.power}"
            )

    def extra_repr(self) -> str:
        """Return what is printed between the parentheses."""
        return f"{self.n}, metric={self.metric!r}, power={self.power}, mean_iterations={self.mean_iterations}"

    def reset_running_stats(self) -> None:
        """Set the running mean to I, the running variance to 1 and the count of clamped matrices to 0."""
        with torch.no_grad():
            self.running_mean.copy_(identity_like(self.running_mean))
            self.running_var.fill_(1.0)
        self.n_clamped_ = 0

    @property
    def metric_matrix(self) -> Tensor:
        """The SPD matrix M of shape (n, n)."""
        return identity_like(self.running_mean) if self.log_metric is None else _exponential(self.log_metric)

    @property
    def bias(self) -> Tensor:
        """The SPD matrix B of shape (n, n)."""
        return identity_like(self.running_mean) if self.log_bias is None else _exponential(self.log_bias)

    def forward(self, X: Tensor) -> Tensor:
        """Normalise a batch.

        Parameters
        ----------
        X : Tensor of shape (N, n, n) or (N, h, n, n)
            Symmetric positive definite matrices; statistics are shared over all N * h.

        Returns
        -------
        Tensor of the shape of X
            Symmetric positive definite matrices.
        """
        self._check_input(X)
        by_batch = self.training or not self.track_running_stats
        floor = relative_floor(X.dtype)
        geometry = self._geometry(floor)
        P = symmetrize(X.to(self.compute_dtype)).reshape(-1, self.n, self.n)
        if by_batch and len(P) < 2:
            raise ValueError(f"X must hold at least two matrices in training, got shape {tuple(X.shape)}")
        M = _MetricRoots(self.log_metric, self.compute_dtype)
        P = M.pull(self._deform(P, floor))
        G = geometry.mean(P.detach(), self.mean_iterations) if by_batch else self._running_mean(M, floor)
        V = geometry.centre(P, G)
        if by_batch:
            variance = self._batch_variance(geometry, P, V)
            if self.training and self.track_running_stats:
                self._update(geometry, M, G, variance, floor)
        else:
            variance = self.running_var.to(self.compute_dtype)
        gain = (1.0 if self.scale is None else self.scale.to(self.compute_dtype)) / (variance + self.eps).sqrt()
        Y = self._place(geometry, gain, V, M.pull(self._deformed_bias(P)))
        self.n_clamped_ += geometry.n_clamped
        Y = matrix_power(M.push(Y), 1 / self.power, floor)
        return Y.reshape(X.shape).to(X.dtype)

    def _place(self, geometry: Geometry, gain: Tensor, V: Tensor, B: Tensor) -> Tensor:
        if self.reference_compatible and isinstance(geometry, BuresWasserstein):
            # A vector of unequal running variances would scale columns, hence the symmetrisation.
            return geometry.place(_reflect(symmetrize(gain * _reflect(V))), B, guard=False)
        return geometry.place(gain * V, B)

    def _batch_variance(self, geometry: Geometry, P: Tensor, V: Tensor) -> Tensor:
        with torch.no_grad():
            if self.reference_compatible:
                # d^2(P, I) = |P^1/2 - I|^2.
                V = 2 * (square_root(P) - identity_like(P))
            return geometry.squared_norm(V).mean() / self.power**2

    def _geometry(self, floor: float) -> Geometry:
        if self.metric == "affine-invariant":
            return AffineInvariant(floor)
        if self.metric == "log-euclidean":
            return LogEuclidean(floor)
        if self.matrix_functions == "newton-schulz":
            return BuresWasserstein(partial(newton_schulz_root, relative_floor=floor), floor)
        return BuresWasserstein(partial(_floored_root, floor=floor), floor)

    def _deform(self, P: Tensor, floor: float) -> Tensor:
        if self.matrix_functions == "eigh":
            return matrix_power(P, self.power, floor)
        for _ in range({1.0: 0, 0.5: 1, 0.25: 2}[self.power]):
            P = newton_schulz_root(P, floor)
        return P

    def _deformed_bias(self, like: Tensor) -> Tensor:
        if self.log_bias is None:
            return identity_like(like)
        return _exponential(self.power * self.log_bias.to(like.dtype))

    def _running_mean(self, M: "_MetricRoots", floor: float) -> Tensor:
        mean = self.running_mean.to(self.compute_dtype)
        return mean if self.running_space == "pulled-back" else M.pull(matrix_power(mean, self.power, floor))

    @torch.no_grad()
    def _update(self, geometry: Geometry, M: "_MetricRoots", G: Tensor, variance: Tensor, floor: float) -> None:
        mean = geometry.geodesic(self._running_mean(M, floor), G, self.momentum)
        if self.running_space == "input":
            mean = matrix_power(M.push(mean), 1 / self.power, floor)
        self.running_mean.copy_(mean)
        self.running_var.lerp_(variance.to(self.running_var.dtype).expand_as(self.running_var), self.momentum)

    def _check_input(self, X: Tensor) -> None:
        if not isinstance(X, Tensor) or not X.is_floating_point():
            kind = X.dtype if isinstance(X, Tensor) else type(X).__name__
            raise TypeError(f"X must be a floating-point Tensor, got {kind}")
        if X.ndim not in (3, 4) or X.shape[-2:] != (self.n, self.n) or not X.numel():
            size = f"{self.n}, {self.n}"
            raise ValueError(f"X must have shape (N, {size}) or (N, h, {size}), got {tuple(X.shape)}")
        check_finite_tensor("X", X)
        check_semidefinite("X", X)


class _MetricRoots:
    """Congruences by M^1/2 and M^-1/2 for M = exp(S), from one decomposition of S."""

    def __init__(self, log_metric: Tensor | None, dtype: torch.dtype) -> None:
        self._roots: tuple[Tensor, Tensor] | None = None
        if log_metric is not None:
            half = symmetrize(log_metric.to(dtype)) / 2
            spectrum = decompose(half)
            opposite = Spectrum(spectrum.U, -spectrum.p, spectrum.floor)
            self._roots = matrix_function(half, EXP, spectrum), matrix_function(-half, EXP, opposite)

    def pull(self, P: Tensor) -> Tensor:
        return P if self._roots is None else congruence(self._roots[1], P)

    def push(self, P: Tensor) -> Tensor:
        return P if self._roots is None else congruence(self._roots[0], P)


def _exponential(S: Tensor) -> Tensor:
    return matrix_function(symmetrize(S), EXP)


def _floored_root(P: Tensor, floor: float) -> Tensor:
    return matrix_function(P, SQRT, decompose(P, relative_floor=floor))


def _reflect(V: Tensor) -> Tensor:
    """Return Log_I(Exp_I V) = 2 |I + V / 2| - 2 I."""
    identity = identity_like(V)
    return 2 * (matrix_function(identity + V / 2, ABSOLUTE) - identity)
