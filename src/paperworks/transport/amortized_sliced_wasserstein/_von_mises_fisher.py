"""The von Mises-Fisher distribution on the unit sphere, with samples that are differentiable in its location."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ive
from torch import Tensor
from torch.distributions import Distribution, constraints

from paperworks._random import RandomState, torch_generator
from paperworks._tensors import to_tensors
from paperworks._validation import check_number


class VonMisesFisher(Distribution):
    r"""Von Mises-Fisher distribution on the unit sphere of dimension d >= 2.

    Its density with respect to the surface measure of the sphere is

    .. math::
        f(z) = C_d(\kappa) \, e^{\kappa \langle \epsilon, z \rangle}, \qquad
        C_d(\kappa) = \frac{\kappa^{d/2-1}}{(2 \pi)^{d/2} I_{d/2-1}(\kappa)}.

    `rsample` is differentiable in the location: a sample around the first axis is carried to the location by an
    orthogonal map. The concentration is a constant, through which no gradient flows.

    Parameters
    ----------
    location : Tensor or array_like of shape (..., d)
        Mean direction, of length one. It is divided by its length once more inside the graph, so that gradients are
        tangential to the sphere.
    concentration : float or Tensor of shape (...)
        The concentration, kappa > 0; it broadcasts against the location's leading dimensions. As it tends to zero the
        distribution becomes uniform; 1e6 and more are sampled without loss of digits.
    random_state : int, Generator, RandomState or None
        Where the samples come from. The global state is never touched.
    validate_args : bool, optional
        False skips the checks of the arguments.

    Raises
    ------
    TypeError
        If ``location`` does not hold floating-point numbers.
    ValueError
        If ``location`` is not of length one, d is less than 2, or ``concentration`` is not positive and finite.

    References
    ----------
    A. T. A. Wood. "Simulation of the von Mises Fisher distribution." Communications in Statistics, 1994.
    K. Nguyen, D. Nguyen, N. Ho. "Self-Attention Amortized Distributional Projection Optimization for Sliced
    Wasserstein Point-Cloud Reconstruction." ICML 2023. arXiv:2301.04791.

    Examples
    --------
    >>> import torch
    >>> around_first_axis = VonMisesFisher(torch.tensor([1.0, 0.0, 0.0]), 50.0, random_state=0)
    >>> samples = around_first_axis.rsample((1000,))
    >>> bool((samples.norm(dim=-1) - 1).abs().max() < 1e-6)
    True
    >>> [round(x, 2) for x in around_first_axis.mean.tolist()]
    [0.98, 0.0, 0.0]
    """

    has_rsample = True
    # Documented by torch as class attributes; the constructor checks more than they can say.
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(
        self,
        location: Any,
        concentration: float | Tensor,
        *,
        random_state: RandomState = None,
        validate_args: bool | None = None,
    ) -> None:
        if validate_args is not False:
            (location,), _ = to_tensors(location=location)
            _check_location(location)
        if not isinstance(concentration, Tensor):
            concentration = torch.tensor(check_number("concentration", concentration, above=0.0), dtype=torch.float64)
        _check_concentration(concentration)
        location = location / torch.linalg.vector_norm(location, dim=-1, keepdim=True)
        batch_shape = torch.broadcast_shapes(location.shape[:-1], concentration.shape)
        self.location = location.expand(*batch_shape, location.shape[-1])
        self.concentration = concentration.to(device=location.device, dtype=torch.float64).expand(batch_shape)
        self._generator = torch_generator(random_state)
        super().__init__(batch_shape, self.location.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean, a vector inside the sphere: the location times I_{d/2}(kappa) / I_{d/2-1}(kappa)."""
        kappa = self.concentration.cpu().numpy()
        order = self.event_shape[0] / 2
        length = np.exp(_log_bessel(order, kappa) - _log_bessel(order - 1, kappa))
        return self.location * self._constant(length).unsqueeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithm of the density with respect to the surface measure of the sphere.

        Parameters
        ----------
        value : Tensor of shape (..., d)
            Unit vectors.

        Returns
        -------
        Tensor of shape (...)
            The log-density.
        """
        d = self.event_shape[0]
        kappa = self.concentration.cpu().numpy()
        log_peak = (d / 2 - 1) * np.log(kappa) - d / 2 * math.log(2 * math.pi) - _log_bessel(d / 2 - 1, kappa)
        # 1 - <location, value> rather than the inner product itself: no digits are lost at a high concentration.
        gap = (value - self.location).square().sum(-1) / 2
        return self._constant(log_peak) - self._constant(kappa) * gap

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw samples that are differentiable in the location.

        Parameters
        ----------
        sample_shape : tuple of int
            Shape of independent draws.

        Returns
        -------
        Tensor of shape (sample_shape, ..., d)
            Unit vectors.
        """
        shape = torch.Size(sample_shape) + self.batch_shape
        d = self.event_shape[0]
        # Float64 on the CPU, whatever the location is: every device and dtype sees the same draws.
        kappa = self.concentration.cpu().expand(shape)
        draw_gap = _draw_gap_in_three_dimensions if d == 3 else _draw_gap
        gap = draw_gap(kappa, d, self._generator).unsqueeze(-1)
        tangent = torch.randn(*shape, d - 1, dtype=torch.float64, generator=self._generator)
        tangent = tangent / torch.linalg.vector_norm(tangent, dim=-1, keepdim=True)
        around_first_axis = torch.cat([1 - gap, (gap * (2 - gap)).sqrt() * tangent], dim=-1)
        return _carry_first_axis_to(self.location, around_first_axis.to(self.location))

    def _constant(self, values: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor(values).to(self.location)


def _carry_first_axis_to(location: Tensor, z: Tensor) -> Tensor:
    """Apply an orthogonal map that sends the first axis e to ``location``.

    A Householder reflection along e - location is undefined at location = e, and loses digits near it. With the sign s
    of the location's first entry, -s times the reflection along e + s location is defined everywhere: that vector is
    never shorter than the square root of two. Either map carries the same distribution.
    """
    sign = torch.where(location[..., :1] < 0, -1.0, 1.0).to(location)
    first_axis = torch.zeros_like(location)
    first_axis[..., 0] = 1.0
    normal = first_axis + sign * location
    twice_along = 2 * (z * normal).sum(-1, keepdim=True) / normal.square().sum(-1, keepdim=True)
    return sign * (twice_along * normal - z)


def _draw_gap_in_three_dimensions(kappa: Tensor, d: int, generator: torch.Generator) -> Tensor:
    """Draw 1 - <location, z> for d = 3, where its distribution function can be inverted."""
    u = torch.rand(kappa.shape, dtype=torch.float64, generator=generator)
    # -log(u' + (1 - u') exp(-2 kappa)) / kappa with u' = 1 - u, without cancellation at either end of kappa.
    return (-torch.log1p(u * torch.expm1(-2 * kappa)) / kappa).clamp(0, 2)


def _draw_gap(kappa: Tensor, d: int, generator: torch.Generator) -> Tensor:
    """Draw 1 - <location, z> for any d by Wood's rejection from a transformed beta distribution."""
    root = (4 * kappa.square() + (d - 1) ** 2).sqrt()
    b = (d - 1) / (2 * kappa + root)
    a = (d - 1 + 2 * kappa + root) / 4
    log_bound = 4 * a * b / (1 + b) - (d - 1) * math.log(d - 1)
    gap = torch.empty(kappa.shape, dtype=torch.float64)
    waiting = torch.ones(kappa.shape, dtype=torch.bool)
    while waiting.any():
        a_, b_, bound_ = a[waiting], b[waiting], log_bound[waiting]
        # A coordinate of a uniform point of the sphere is 2 beta((d-1)/2, (d-1)/2) - 1.
        normal = torch.randn(len(a_), d, dtype=torch.float64, generator=generator)
        beta = (1 + normal[:, 0] / torch.linalg.vector_norm(normal, dim=-1)) / 2
        denominator = (1 - beta) + b_ * beta
        t = 2 * a_ * b_ / denominator
        u = 1 - torch.rand(len(a_), dtype=torch.float64, generator=generator)
        accepted = (d - 1) * t.log() - t + bound_ >= u.log()
        where = torch.nonzero(waiting, as_tuple=True)
        kept = tuple(index[accepted] for index in where)
        gap[kept] = (2 * b_ * beta / denominator)[accepted]
        waiting[kept] = False
    return gap.clamp(0, 2)


def _log_bessel(order: float, kappa: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(exp(-kappa) I_order(kappa)), also where the Bessel function itself underflows."""
    scaled = ive(order, kappa)
    with np.errstate(divide="ignore"):
        direct = np.log(scaled)
    return np.where(scaled > 1e-280, direct, _log_bessel_of_large_order(max(order, 1.0), kappa))


def _log_bessel_of_large_order(order: float, kappa: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the same by Debye's uniform expansion; a value underflows only where the order is large."""
    z = kappa / order
    root = np.sqrt(1 + z * z)
    t = 1 / root
    # sqrt(1 + z^2) - z without cancellation, for the factor exp(-kappa).
    exponent = order * (1 / (root + z) + np.log(z / (1 + root)))
    corrections = (
        1
        + (3 * t - 5 * t**3) / (24 * order)
        + (81 * t**2 - 462 * t**4 + 385 * t**6) / (1152 * order**2)
        + (30375 * t**3 - 369603 * t**5 + 765765 * t**7 - 425425 * t**9) / (414720 * order**3)
    )
    return exponent - 0.5 * np.log(2 * np.pi * order) - 0.5 * np.log(root) + np.log(corrections)


def _check_location(location: Tensor) -> None:
    if location.ndim < 1 or location.shape[-1] < 2:
        raise ValueError(f"location must have shape (..., d) with d at least 2, got {tuple(location.shape)}")
    lengths = torch.linalg.vector_norm(location.detach(), dim=-1)
    if ((lengths - 1).abs() > 1e-3).any():
        worst = float(lengths.flatten()[(lengths - 1).abs().argmax()])
        raise ValueError(f"location must hold unit vectors, got one of length {worst:.6g}")


def _check_concentration(concentration: Tensor) -> None:
    if concentration.requires_grad:
        raise ValueError("concentration is a constant through which no gradient flows; pass concentration.detach()")
    if not (torch.isfinite(concentration) & (concentration > 0)).all():
        raise ValueError(f"concentration must be finite and greater than 0, got {concentration.flatten().tolist()[:4]}")
