r"""Sliced Wasserstein distances whose Monte Carlo noise is taken out by a control variate of known mean.

The sliced Wasserstein distance is an average over directions of the unit sphere,
``SW_p^p(mu, nu) = E_theta[W(theta)]`` with ``W(theta) = W_p^p(theta # mu, theta # nu)``, estimated with L random ones.
With m the mean and S the covariance of a measure, the Gaussians fitted to the two projections have
``W_2^2 = D^2 + (s1 - s2)^2``, where ``D = theta.(m1 - m2)`` and ``s_i^2 = theta' S_i theta``. Two bounds of it have a
mean in closed form, because ``E[theta theta'] = I / d``:

- lower: ``C = D^2``,               ``B = E C = |m1 - m2|^2 / d``
- upper: ``C = D^2 + s1^2 + s2^2``, ``B = E C = (|m1 - m2|^2 + tr S1 + tr S2) / d``

Subtracting ``gamma (C - B)`` from W changes no mean, and removes what W and C share.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paperworks._progress import progress_bar
from paperworks._random import RandomState, numpy_generator
from paperworks._tensors import Array, to_tensors
from paperworks._validation import check_integer, check_number, check_weights
from paperworks.transport.control_variate_sliced_wasserstein._estimator import (
    FEW_DIRECTIONS,
    Coefficient,
    ControlVariate,
    Settings,
    centred,
    check_settings,
    chunks,
    errors_of,
    moments_of,
    power_of,
    random_directions,
    root,
)

__all__ = [
    "GradientFlowResult",
    "SlicedWassersteinEstimate",
    "SlicedWassersteinLoss",
    "sliced_wasserstein_distance",
    "sliced_wasserstein_gradient_flow",
]


@dataclass(frozen=True)
class SlicedWassersteinEstimate:
    """An estimate of the sliced Wasserstein distance and what is known of its error.

    Every field but ``n_projections`` has one entry for each item of a batch.

    Attributes
    ----------
    value : float, ndarray or Tensor
        The distance: the p-th root of ``value_power``, or 0 where that is negative.
    value_power : float, ndarray or Tensor
        The p-th power Z, which is what the control variate corrects. It may fall below 0 when L is tiny and the true
        value is near 0.
    coefficient : float, ndarray or Tensor
        The coefficient gamma; two of them, lower and upper, along a last dimension for ``control_variate="both"``.
    standard_error : float, ndarray or Tensor
        Standard error of ``value_power`` from the residuals of the regression; infinite with too few directions.
    variance_reduction : float, ndarray or Tensor
        Variance of the plain estimate over that of this one: how many times fewer directions this one needs.
    n_projections : int
        The number L of directions.

    References
    ----------
    Khai Nguyen, Nhat Ho. Sliced Wasserstein Estimation with Control Variates. arXiv 2305.00402.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> estimate = sliced_wasserstein_distance(x, x + 1.0, return_details=True, random_state=0)
    >>> round(estimate.value, 6), round(estimate.coefficient, 6)
    (1.0, 1.0)
    """

    value: Any
    value_power: Any
    coefficient: Any
    standard_error: Any
    variance_reduction: Any
    n_projections: int


@dataclass(frozen=True)
class GradientFlowResult:
    """Where a gradient flow took the points.

    Attributes
    ----------
    points : ndarray or Tensor of shape (n, d)
        The points after the last step.
    history : ndarray or Tensor of shape (n_records, n, d)
        The points every ``record_every`` steps, the first record being the source; empty if nothing was to be recorded.
    steps : tuple of int
        How many steps had been taken at each record.
    losses : ndarray or Tensor of shape (n_steps,)
        The estimate of the distance before each step.

    References
    ----------
    Khai Nguyen, Nhat Ho. Sliced Wasserstein Estimation with Control Variates. arXiv 2305.00402.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(20, 2))
    >>> flow = sliced_wasserstein_gradient_flow(x, x + 1, n_steps=4, learning_rate=0.1, record_every=2, random_state=0)
    >>> flow.steps, flow.history.shape
    ((0, 2, 4), (3, 20, 2))
    """

    points: Any
    history: Any
    steps: tuple[int, ...]
    losses: Any


def sliced_wasserstein_distance(
    x: Array,
    y: Array,
    *,
    n_projections: int = 100,
    p: float = 2.0,
    control_variate: ControlVariate | None = "lower",
    x_weights: Array | None = None,
    y_weights: Array | None = None,
    projections: Array | None = None,
    coefficient: Coefficient = "auto",
    detach_coefficient: bool = False,
    squared: bool = False,
    return_details: bool = False,
    share_projections: bool = False,
    random_state: RandomState = None,
    max_memory: int = 2**29,
) -> Any:
    r"""Estimate the sliced Wasserstein distance between two samples, with a control variate.

    With W_l the p-th power of the exact Wasserstein distance on slice l and C_l the control variate of known mean B,

    .. math:: Z = \bar W - \gamma\,(\bar C - B), \qquad
              \gamma = \frac{\sum_l (W_l - \bar W)(C_l - B)}{\sum_l (C_l - B)^2}, \qquad SW_p = Z^{1/p}.

    Time is O(L (n + m) (d + log(n + m))), as without a control variate.

    Parameters
    ----------
    x : array_like or Tensor of shape (n, d) or (batch, n, d)
        First sample. A batch gives one distance for each item.
    y : array_like or Tensor of shape (m, d) or (batch, m, d)
        Second sample; m may differ from n.
    n_projections : int, default 100
        The number L of directions; not used if ``projections`` are given.
    p : float, default 2.0
        Order of the distance, at least 1. The control variates are the same for every p.
    control_variate : {"lower", "upper", "both"} or None, default "lower"
        Which bound of the Gaussian distance to subtract (LCV-SW and UCV-SW in the paper); None is plain Monte Carlo.
        ``"both"`` extends the paper: a regression on the two together, best with 20 directions or more; with fewer
        than 8, or where the two say the same, it is ``"lower"``.
    x_weights : array_like or Tensor of shape (n,), optional
        Masses of the points of ``x``, nonnegative, normalised to sum to 1, shared by a batch; uniform by default.
    y_weights : array_like or Tensor of shape (m,), optional
        Masses of the points of ``y``.
    projections : array_like or Tensor of shape (d, n_projections), optional
        Directions of your own in columns of unit length. The mean B is that of uniform directions: other ones bias the
        estimate unless ``control_variate=None``.
    coefficient : {"auto", "paper", "regression"}, default "auto"
        ``"paper"`` divides by the mean square of C about its true mean B, as the formula above says. ``"regression"``
        extends the paper: it divides by the sample variance, which makes the estimate exact where W is linear in C,
        and is unstable with few directions. ``"auto"`` is the regression with 10 directions or more.
    detach_coefficient : bool, default False
        Treat gamma as a constant in the gradient. The authors' code does not; training with few directions is the
        better for it, since the bias of a coefficient that is fitted to the same directions then stays out.
    squared : bool, default False
        Return the p-th power Z in place of the distance.
    return_details : bool, default False
        Return a `SlicedWassersteinEstimate`, with the standard error.
    share_projections : bool, default False
        Use the same directions for all items of a batch, in place of independent ones.
    random_state : None, int, Generator, RandomState or torch.Generator, optional
        Source of the directions. They are drawn on the CPU in float64, so that every device and dtype sees the same.
    max_memory : int, default 2**29
        Bytes of working memory, above which directions are treated in chunks; at least one direction at a time.
        The estimate does not depend on it beyond rounding. A gradient through several chunks recomputes each of them.

    Returns
    -------
    float, ndarray, Tensor or SlicedWassersteinEstimate
        The distance, as a 0-d tensor or one of shape (batch,); floats and arrays for NumPy input. The gradient is 0
        where the estimate is not positive.

    Raises
    ------
    TypeError
        If an array does not hold floating-point numbers, or a number is none.
    ValueError
        If an array is empty, not finite, of the wrong shape or so large that its powers overflow, if the columns of
        ``x`` and ``y`` differ, if weights are negative or sum to zero, if columns of ``projections`` are not of unit
        length, or if an option is unknown.

    Warns
    -----
    UserWarning
        If a control variate is used with fewer than 10 directions.

    References
    ----------
    Khai Nguyen, Nhat Ho. Sliced Wasserstein Estimation with Control Variates. arXiv 2305.00402.

    Examples
    --------
    A shift by v is at a sliced distance of ``|v| / sqrt(d)``, which the control variate gives exactly:

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> round(sliced_wasserstein_distance(x, x + 1.0, n_projections=20, random_state=0), 6)
    1.0
    >>> plain = sliced_wasserstein_distance(x, x + 1.0, n_projections=20, control_variate=None, random_state=0)
    >>> abs(plain - 1.0) > 1e-3
    True
    """
    (x_points, y_points), restore = to_tensors(x=x, y=y, ndim=(2, 3))
    _check_pair(x_points, y_points)
    settings = Settings(n_projections, p, control_variate, coefficient, detach_coefficient, max_memory)
    check_settings(settings)
    a, b = _weights("x_weights", x_weights, x_points), _weights("y_weights", y_weights, y_points)
    given = None if projections is None else _check_projections(projections, x_points)
    n_directions = n_projections if given is None else given.shape[0]
    if control_variate is not None and n_directions < FEW_DIRECTIONS:
        warnings.warn(
            f"a control variate fitted to {n_directions} directions biases the estimate; "
            f"use at least {FEW_DIRECTIONS}, or control_variate=None",
            UserWarning,
            stacklevel=2,
        )
    pair = centred(x_points, y_points, a, b)
    parts = chunks(pair, n_directions, max_memory)
    if given is None:
        batch = 1 if share_projections or x_points.ndim == 2 else x_points.shape[0]
        blocks = random_directions(parts, batch, x_points.shape[-1], random_state)
    else:
        blocks = (given[part] for part in parts)
    moments = moments_of(pair, blocks, settings, in_chunks=len(parts) > 1)
    power, gamma = power_of(moments, settings)
    if not torch.isfinite(power.detach()).all():
        raise ValueError(f"x and y are too large: p-th powers of their gaps overflow {moments.dtype}; scale both down")
    if not return_details:
        return restore((power if squared else root(power, p)).to(moments.dtype))
    error, reduction = errors_of(moments, power, gamma)
    shown = gamma.detach() if control_variate == "both" else gamma.detach().sum(dim=-1)
    value, power, shown, error, reduction = restore(
        [each.to(moments.dtype) for each in (root(power, p), power, shown, error, reduction)]
    )
    return SlicedWassersteinEstimate(value, power, shown, error, reduction, n_directions)


class SlicedWassersteinLoss(nn.Module):
    """The sliced Wasserstein distance as a loss, with fresh directions at every call.

    Parameters
    ----------
    n_projections : int, default 100
        The number of directions.
    p : float, default 2.0
        Order of the distance, at least 1.
    control_variate : {"lower", "upper", "both"} or None, default "lower"
        As in `sliced_wasserstein_distance`.
    coefficient : {"auto", "paper", "regression"}, default "auto"
        As in `sliced_wasserstein_distance`.
    detach_coefficient : bool, default False
        Treat the coefficient as a constant in the gradient.
    squared : bool, default False
        Return the p-th power in place of the distance.
    share_projections : bool, default False
        Use the same directions for all items of a batch.
    random_state : None, int, Generator, RandomState or torch.Generator, optional
        Source of the directions of all calls: two losses with the same seed see the same sequence of directions.
    max_memory : int, default 2**29
        Bytes of working memory, as in `sliced_wasserstein_distance`.

    Raises
    ------
    TypeError
        If a number is none.
    ValueError
        If an option is unknown or out of range.

    References
    ----------
    Khai Nguyen, Nhat Ho. Sliced Wasserstein Estimation with Control Variates. arXiv 2305.00402.

    Examples
    --------
    >>> import torch
    >>> loss = SlicedWassersteinLoss(n_projections=10, random_state=0)
    >>> x = torch.zeros(5, 2, requires_grad=True)
    >>> loss(x, torch.ones(5, 2)).backward()
    >>> bool((x.grad < 0).all())
    True
    """

    def __init__(
        self,
        n_projections: int = 100,
        *,
        p: float = 2.0,
        control_variate: ControlVariate | None = "lower",
        coefficient: Coefficient = "auto",
        detach_coefficient: bool = False,
        squared: bool = False,
        share_projections: bool = False,
        random_state: RandomState = None,
        max_memory: int = 2**29,
    ) -> None:
        super().__init__()
        check_settings(Settings(n_projections, p, control_variate, coefficient, detach_coefficient, max_memory))
        self.n_projections = n_projections
        self.p = p
        self.control_variate: ControlVariate | None = control_variate
        self.coefficient: Coefficient = coefficient
        self.detach_coefficient = detach_coefficient
        self.squared = squared
        self.share_projections = share_projections
        self.max_memory = max_memory
        self._generator = numpy_generator(random_state)

    def forward(
        self, x: Tensor, y: Tensor, *, x_weights: Tensor | None = None, y_weights: Tensor | None = None
    ) -> Tensor:
        """Return the distance between two samples.

        Parameters
        ----------
        x : Tensor of shape (n, d) or (batch, n, d)
            First sample.
        y : Tensor of shape (m, d) or (batch, m, d)
            Second sample.
        x_weights : Tensor of shape (n,), optional
            Masses of the points of ``x``.
        y_weights : Tensor of shape (m,), optional
            Masses of the points of ``y``.

        Returns
        -------
        Tensor of shape () or (batch,)
            The distance, or its p-th power if ``squared``.

        Raises
        ------
        TypeError, ValueError
            As `sliced_wasserstein_distance`.
        """
        return sliced_wasserstein_distance(
            x,
            y,
            n_projections=self.n_projections,
            p=self.p,
            control_variate=self.control_variate,
            x_weights=x_weights,
            y_weights=y_weights,
            coefficient=self.coefficient,
            detach_coefficient=self.detach_coefficient,
            squared=self.squared,
            share_projections=self.share_projections,
            random_state=self._generator,
            max_memory=self.max_memory,
        )

    def extra_repr(self) -> str:
        """Name the settings, for the module's repr."""
        return f"n_projections={self.n_projections}, p={self.p}, control_variate={self.control_variate!r}"


def sliced_wasserstein_gradient_flow(
    source: Array,
    target: Array,
    *,
    n_steps: int,
    learning_rate: float,
    n_projections: int = 10,
    control_variate: ControlVariate | None = "lower",
    coefficient: Coefficient = "auto",
    detach_coefficient: bool = False,
    random_state: RandomState = None,
    record_every: int | None = None,
    progress: bool = True,
) -> GradientFlowResult:
    """Move points towards a target by gradient descent on the sliced Wasserstein distance.

    Each step draws fresh directions and descends the gradient of ``n SW_2(points, target)``, as in the paper's
    experiment: every point moves by about ``learning_rate / sqrt(d)`` until the clouds meet.

    Parameters
    ----------
    source : array_like or Tensor of shape (n, d)
        Where the points start.
    target : array_like or Tensor of shape (m, d)
        Where they should go.
    n_steps : int
        Number of gradient steps.
    learning_rate : float
        Length of the steps.
    n_projections : int, default 10
        Directions of each step.
    control_variate : {"lower", "upper", "both"} or None, default "lower"
        As in `sliced_wasserstein_distance`.
    coefficient : {"auto", "paper", "regression"}, default "auto"
        As in `sliced_wasserstein_distance`.
    detach_coefficient : bool, default False
        Treat the coefficient as a constant in the gradient.
    random_state : None, int, Generator, RandomState or torch.Generator, optional
        Source of the directions.
    record_every : int, optional
        Keep the points before the first and after every so many steps; nothing is kept by default.
    progress : bool, default True
        Show a bar where stderr is a terminal.

    Returns
    -------
    GradientFlowResult
        The points, what was recorded, and the losses.

    Raises
    ------
    TypeError
        If an array does not hold floating-point numbers, or a number is none.
    ValueError
        If an array is empty, not finite or of the wrong shape, if the columns of ``source`` and ``target`` differ, or
        if an option is unknown or out of range.

    References
    ----------
    Khai Nguyen, Nhat Ho. Sliced Wasserstein Estimation with Control Variates. arXiv 2305.00402.

    Examples
    --------
    >>> import numpy as np
    >>> source = np.random.default_rng(0).normal(size=(30, 2))
    >>> flow = sliced_wasserstein_gradient_flow(source, source + 2.0, n_steps=60, learning_rate=0.1, random_state=0)
    >>> bool(np.abs(flow.points.mean(axis=0) - source.mean(axis=0) - 2.0).max() < 0.2)
    True
    """
    (start, end), restore = to_tensors(source=source, target=target, ndim=2)
    _check_pair(start, end, names=("source", "target"))
    n_steps = check_integer("n_steps", n_steps)
    learning_rate = check_number("learning_rate", learning_rate, above=0)
    every = n_steps + 1 if record_every is None else check_integer("record_every", record_every)
    loss = SlicedWassersteinLoss(
        n_projections,
        control_variate=control_variate,
        coefficient=coefficient,
        detach_coefficient=detach_coefficient,
        random_state=random_state,
    )
    points, end = start.detach().clone(), end.detach()
    steps, records = ([], []) if record_every is None else ([0], [points.clone()])
    losses = []
    for step in progress_bar(range(1, n_steps + 1), "gradient flow", progress):
        points.requires_grad_(True)
        with torch.enable_grad():
            distance = loss(points, end)
            (slope,) = torch.autograd.grad(points.shape[0] * distance, points)
        points = points.detach() - learning_rate * slope
        losses.append(distance.detach())
        if step % every == 0:
            steps.append(step)
            records.append(points.clone())
    history = torch.stack(records) if records else points.new_empty((0, *points.shape))
    return GradientFlowResult(restore(points), restore(history), tuple(steps), restore(torch.stack(losses)))


def _check_pair(x: Tensor, y: Tensor, names: tuple[str, str] = ("x", "y")) -> None:
    first, second = names
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"{first} and {second} must have the same number of columns, got {x.shape[-1]} and {y.shape[-1]}"
        )
    if x.shape[:-2] != y.shape[:-2]:
        raise ValueError(
            f"{first} and {second} must be two samples or two batches of one size, "
            f"got shapes {tuple(x.shape)} and {tuple(y.shape)}"
        )


def _check_projections(projections: Array, x: Tensor) -> Tensor:
    """Return the directions as float64 rows on the device of ``x``."""
    directions = to_tensors(projections=projections, ndim=2)[0][0].to(x.device, torch.float64)
    if directions.shape[0] != x.shape[-1]:
        raise ValueError(
            f"projections must have one row for each of the {x.shape[-1]} columns of x, "
            f"got shape {tuple(directions.shape)}"
        )
    lengths = torch.linalg.vector_norm(directions.detach(), dim=0)
    worst = int((lengths - 1).abs().argmax())
    if abs(float(lengths[worst]) - 1) > 1e-3:
        raise ValueError(
            f"projections must have columns of unit length, got {float(lengths[worst]):g} in column {worst}"
        )
    return directions.mT


def _weights(name: str, weights: Any, points: Tensor) -> Tensor | None:
    """Return normalised weights in float64 with their gradient, or None where they are uniform."""
    if weights is None:
        return None
    values = weights.detach().cpu().numpy() if isinstance(weights, Tensor) else weights
    checked = torch.from_numpy(check_weights(name, values, points.shape[-2]))
    masses = (weights if isinstance(weights, Tensor) else checked).to(points.device, torch.float64)
    return masses / masses.sum()
