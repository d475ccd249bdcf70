"""Distances whose direction, or distribution of directions, is sought by gradient ascent for each pair of clouds."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from paperworks._random import RandomState, torch_generator
from paperworks._tensors import to_tensors
from paperworks._validation import check_integer, check_number
from paperworks.transport.amortized_sliced_wasserstein._clouds import (
    check_pair,
    check_weights_of,
    root,
    transport_cost,
    unit,
)
from paperworks.transport.amortized_sliced_wasserstein._von_mises_fisher import VonMisesFisher


def distributional_sliced_wasserstein(
    x: Any,
    y: Any,
    *,
    concentration: float = 1.0,
    n_projections: int = 100,
    p: float = 2,
    n_iterations: int = 50,
    learning_rate: float = 5e-2,
    location: Any = None,
    x_weights: Any = None,
    y_weights: Any = None,
    random_state: RandomState = None,
    return_location: bool = False,
) -> Any:
    r"""Distributional sliced Wasserstein distance with von Mises-Fisher directions.

    .. math::
        \left( \max_{\epsilon \in S^{d-1}} E_{\theta \sim \text{vMF}(\epsilon, \kappa)}
        \left[ W_p^p(\theta_\# \mu, \theta_\# \nu) \right] \right)^{1/p}

    The location starts uniformly at random and climbs by stochastic gradient ascent (Adam on the tangential gradient,
    fresh directions at each step). The distance is then measured with directions that the ascent has not seen, so
    that it is unbiased for the location that was found. With ``location`` given there is no ascent.

    Parameters
    ----------
    x : array_like or Tensor of shape (n, d) or (B, n, d)
        A cloud, or a batch of clouds, of points in dimension d >= 2.
    y : array_like or Tensor of shape (m, d) or (B, m, d)
        The other cloud, or as many clouds; m may differ from n.
    concentration : float, default 1.0
        Concentration kappa of the directions around their location: near 0 this is sliced Wasserstein, at infinity
        max-sliced Wasserstein.
    n_projections : int, default 100
        Directions drawn for each pair, at each step and for the final value.
    p : float, default 2
        Order of the distance, at least 1.
    n_iterations : int, default 50
        Steps of ascent; 0 keeps the random start.
    learning_rate : float, default 0.05
        Step size of the ascent, in radians for each step at most.
    location : array_like or Tensor of shape (d,) or (B, d), optional
        Unit vectors that are used as they are, without ascent. Gradients flow through it.
    x_weights : array_like or Tensor of shape (n,) or (B, n), optional
        Masses of the points of ``x``, normalised here; a point of mass 0 is as good as absent, which is how a batch
        of clouds of several sizes is padded. Default uniform.
    y_weights : array_like or Tensor of shape (m,) or (B, m), optional
        Masses of the points of ``y``. Default uniform.
    random_state : int, Generator, RandomState or None
        Where the start and the directions come from. Equal seeds give equal directions for all pairs of clouds of
        one dimension and one number, with which the triangle inequality holds exactly.
    return_location : bool, default False
        Whether to return the location too.

    Returns
    -------
    distance : float, ndarray or Tensor of shape () or (B,)
        The distance itself, the p-th root; differentiable in the clouds, at the location that was found.
    location : ndarray or Tensor of shape (d,) or (B, d)
        The location, with ``return_location=True``.

    Raises
    ------
    TypeError
        If an array does not hold floating-point numbers.
    ValueError
        If an array is empty, holds NaN or infinity, or does not fit the others; if d is less than 2; if
        ``concentration`` is not positive, or another number is out of its range.

    References
    ----------
    K. Nguyen, D. Nguyen, N. Ho. "Self-Attention Amortized Distributional Projection Optimization for Sliced
    Wasserstein Point-Cloud Reconstruction." ICML 2023. arXiv:2301.04791.

    Examples
    --------
    A cloud and itself, moved by 3 along one axis: at a high concentration the distance comes near 3.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> y = x + np.array([3.0, 0.0, 0.0])
    >>> round(distributional_sliced_wasserstein(
    ...     x, y, concentration=100.0, n_iterations=200, learning_rate=0.05, random_state=0), 1)
    3.0
    """
    kappa = check_number("concentration", concentration, above=0.0)
    check_integer("n_projections", n_projections)
    generator = torch_generator(random_state)
    clouds, restore = _read_clouds(x, y, x_weights, y_weights, location=location)
    p = check_number("p", p, at_least=1.0)

    def cost(at: Tensor, clouds: _Clouds) -> Tensor:
        around = VonMisesFisher(at, torch.tensor(kappa), random_state=generator, validate_args=False)
        return clouds.cost(around.rsample((n_projections,)).transpose(0, 1), p)

    if location is None:
        at = _climb(cost, clouds, n_iterations, learning_rate, generator)
    else:
        at = _given_location(clouds, kappa, generator)
    return clouds.answer(root(cost(at, clouds), p), at, restore, return_location)


def max_sliced_wasserstein(
    x: Any,
    y: Any,
    *,
    p: float = 2,
    n_iterations: int = 50,
    learning_rate: float = 5e-2,
    x_weights: Any = None,
    y_weights: Any = None,
    random_state: RandomState = None,
    return_location: bool = False,
) -> Any:
    r"""Max-sliced Wasserstein distance, by gradient ascent from a random direction.

    .. math::
        \max_{\theta \in S^{d-1}} W_p(\theta_\# \mu, \theta_\# \nu)

    The ascent may stop at a direction that is not the best: what comes back is then a lower bound, and no metric.

    Parameters
    ----------
    x : array_like or Tensor of shape (n, d) or (B, n, d)
        A cloud, or a batch of clouds, of points in dimension d >= 2.
    y : array_like or Tensor of shape (m, d) or (B, m, d)
        The other cloud, or as many clouds; m may differ from n.
    p : float, default 2
        Order of the distance, at least 1.
    n_iterations : int, default 50
        Steps of ascent; 0 keeps the random start.
    learning_rate : float, default 0.05
        Step size of the ascent, in radians for each step at most.
    x_weights : array_like or Tensor of shape (n,) or (B, n), optional
        Masses of the points of ``x``, normalised here; a point of mass 0 is as good as absent. Default uniform.
    y_weights : array_like or Tensor of shape (m,) or (B, m), optional
        Masses of the points of ``y``. Default uniform.
    random_state : int, Generator, RandomState or None
        Where the start comes from.
    return_location : bool, default False
        Whether to return the direction too.

    Returns
    -------
    distance : float, ndarray or Tensor of shape () or (B,)
        The distance along the direction that was found; differentiable in the clouds, at that direction.
    location : ndarray or Tensor of shape (d,) or (B, d)
        The direction, with ``return_location=True``.

    Raises
    ------
    TypeError
        If an array does not hold floating-point numbers.
    ValueError
        If an array is empty, holds NaN or infinity, or does not fit the others, or a number is out of its range.

    References
    ----------
    I. Deshpande et al. "Max-Sliced Wasserstein Distance and its use for GANs." CVPR 2019. arXiv:1904.05877.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> y = x + np.array([3.0, 0.0, 0.0])
    >>> round(max_sliced_wasserstein(x, y, n_iterations=200, learning_rate=0.05, random_state=0), 2)
    3.0
    """
    generator = torch_generator(random_state)
    clouds, restore = _read_clouds(x, y, x_weights, y_weights)
    p = check_number("p", p, at_least=1.0)

    def cost(at: Tensor, clouds: _Clouds) -> Tensor:
        return clouds.cost(at.unsqueeze(1), p)

    at = _climb(cost, clouds, n_iterations, learning_rate, generator)
    return clouds.answer(root(cost(at, clouds), p), at, restore, return_location)


class _Clouds:
    """Validated pairs of clouds as a batch, with the way back to what the caller brought."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        x_weights: Tensor | None,
        y_weights: Tensor | None,
        location: Tensor | None = None,
    ) -> None:
        self.single = x.ndim == 2
        self.x, self.y = (x.unsqueeze(0), y.unsqueeze(0)) if self.single else (x, y)
        self.x_weights = check_weights_of("x_weights", x_weights, self.x)
        self.y_weights = check_weights_of("y_weights", y_weights, self.y)
        self.location = location

    def cost(self, directions: Tensor, p: float) -> Tensor:
        return transport_cost(self.x, self.y, directions, p, self.x_weights, self.y_weights)

    def detach(self) -> "_Clouds":
        weights = (None if each is None else each.detach() for each in (self.x_weights, self.y_weights))
        return _Clouds(self.x.detach(), self.y.detach(), *weights)

    def answer(self, distance: Tensor, location: Tensor, restore: Callable[[Any], Any], return_location: bool) -> Any:
        if self.single:
            distance, location = distance[0], location[0]
        return restore((distance, location)) if return_location else restore(distance)


def _read_clouds(
    x: Any, y: Any, x_weights: Any, y_weights: Any, location: Any = None
) -> tuple[_Clouds, Callable[[Any], Any]]:
    given = {"x": x, "y": y, "x_weights": x_weights, "y_weights": y_weights, "location": location}
    names = [name for name, value in given.items() if value is not None]
    tensors, restore = to_tensors(**given)
    by_name: dict[str, Any] = dict.fromkeys(given) | dict(zip(names, tensors, strict=True))
    for name in ("x", "y"):
        if by_name[name].ndim not in (2, 3):
            raise ValueError(f"{name} must have 2 or 3 dimensions, got shape {tuple(by_name[name].shape)}")
    check_pair(by_name["x"], by_name["y"])
    return _Clouds(**by_name), restore


def _given_location(clouds: _Clouds, kappa: float, generator: torch.Generator) -> Tensor:
    n_clouds, _, d = clouds.x.shape
    location = clouds.location
    assert location is not None
    wanted = {(d,)} if clouds.single else {(d,), (n_clouds, d)}
    if tuple(location.shape) not in wanted:
        raise ValueError(f"location must have shape {' or '.join(map(str, wanted))}, got {tuple(location.shape)}")
    # The distribution's own checks: unit length, and finite.
    VonMisesFisher(location, kappa, random_state=generator)
    return location.expand(n_clouds, d)


def _climb(
    cost: Callable[[Tensor, _Clouds], Tensor],
    clouds: _Clouds,
    n_iterations: int,
    learning_rate: float,
    generator: torch.Generator,
) -> Tensor:
    """Maximise the cost over unit vectors, one for each pair, from uniform starts.

    The vector is divided by its length inside the graph: Adam scales each coordinate on its own, and would turn the
    radial part of a raw gradient into a false tangential step.
    """
    check_integer("n_iterations", n_iterations, at_least=0)
    rate = check_number("learning_rate", learning_rate, above=0.0)
    n_clouds, _, d = clouds.x.shape
    start = torch.randn(n_clouds, d, dtype=torch.float64, generator=generator)
    vector = unit(start).to(clouds.x).requires_grad_()
    fixed = clouds.detach()
    ascent = torch.optim.Adam([vector], lr=rate, maximize=True)
    for _ in range(n_iterations):
        with torch.enable_grad():
            # A sum: each pair's gradient, and so each pair's ascent, is its own.
            vector.grad = torch.autograd.grad(cost(unit(vector), fixed).sum(), vector)[0]
        ascent.step()
        with torch.no_grad():
            vector.copy_(unit(vector))
    return vector.detach()
