"""The amortised distance as a loss, which trains its amortiser as it is called."""

from typing import Any

import torch
from torch import Tensor, nn

from paperworks._random import RandomState, torch_generator
from paperworks._validation import check_integer, check_number
from paperworks.transport.amortized_sliced_wasserstein._clouds import (
    check_batches,
    check_weights_of,
    root,
    transport_cost,
)
from paperworks.transport.amortized_sliced_wasserstein._von_mises_fisher import VonMisesFisher


class AmortizedSlicedWassersteinLoss(nn.Module):
    r"""Amortised distributional sliced Wasserstein loss between batches of clouds.

    .. math::
        \min_\phi \max_\psi \; E_{(X, Y)} \, E_{\theta \sim \text{vMF}(f_\psi(X, Y), \kappa)}
        \left[ W_p^p(\theta_\# X, \theta_\# Y) \right]

    Each call in training mode first takes a step of ascent in the weights psi of the amortiser f, on detached clouds,
    then returns the loss for phi along fresh directions around the new, detached prediction. In evaluation mode, or
    where gradients are off, the amortiser stays as it is. The amortiser's weights belong to this module's own
    optimiser, ``ascent``, to which a learning-rate schedule may be attached: keep them out of the model's.

    Costs are means over the points. The authors' code sums over them, which makes its loss m times larger: their
    learning rate for plain gradient descent is here to be multiplied by m.

    Parameters
    ----------
    amortizer : Module
        ``amortizer(x, y)`` gives unit vectors of shape (B, d), such as `AttentionAmortizer`.
    concentration : float or None, default 1.0
        Concentration kappa of the directions; None takes the predicted direction alone, which is amortised
        max-sliced Wasserstein and no metric.
    n_projections : int, default 100
        Directions for each pair.
    p : float, default 2
        Order of the distance, at least 1.
    learning_rate : float, default 0.001
        Of the ascent (Adam).
    betas : tuple of float, default (0.0, 0.9)
        Adam's two averages.
    steps_per_call : int, default 1
        Steps of ascent for each call.
    squared : bool, default True
        True for the mean over pairs of W_p^p, False for that of its p-th root; the ascent climbs the same.
    reuse_directions : bool, default False
        True returns the loss along the directions of the last step of ascent, which saves one sort in two; they then
        come from before that step.
    random_state : int, Generator, RandomState or None
        Where the directions come from.

    Raises
    ------
    TypeError
        If ``amortizer`` is no module; in ``forward``, if a cloud is no floating-point tensor.
    ValueError
        If a parameter is out of its range; in ``forward``, if the clouds are not of shape (B, m, d), don't fit each
        other, or hold NaN or infinity.

    References
    ----------
    K. Nguyen, D. Nguyen, N. Ho. "Self-Attention Amortized Distributional Projection Optimization for Sliced
    Wasserstein Point-Cloud Reconstruction." ICML 2023. arXiv:2301.04791.

    Examples
    --------
    >>> import torch
    >>> from paperworks.transport import AmortizedSlicedWassersteinLoss, AttentionAmortizer
    >>> x = torch.randn(4, 100, 3, generator=torch.Generator().manual_seed(0))
    >>> loss = AmortizedSlicedWassersteinLoss(AttentionAmortizer(3, random_state=0), random_state=0)
    >>> float(loss(x, x))
    0.0
    >>> moved = (x + 1).requires_grad_()
    >>> loss(x, moved).backward()
    >>> bool((moved.grad.mean(dim=1) > 0).all())
    True
    """

    def __init__(
        self,
        amortizer: nn.Module,
        *,
        concentration: float | None = 1.0,
        n_projections: int = 100,
        p: float = 2,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.0, 0.9),
        steps_per_call: int = 1,
        squared: bool = True,
        reuse_directions: bool = False,
        random_state: RandomState = None,
    ) -> None:
        super().__init__()
        if not isinstance(amortizer, nn.Module):
            raise TypeError(f"amortizer must be a torch Module, got {type(amortizer).__name__}")
        self.amortizer = amortizer
        self.concentration = None if concentration is None else check_number("concentration", concentration, above=0.0)
        self.n_projections = check_integer("n_projections", n_projections)
        self.p = check_number("p", p, at_least=1.0)
        self.steps_per_call = check_integer("steps_per_call", steps_per_call)
        self.squared = squared
        self.reuse_directions = reuse_directions
        rate = check_number("learning_rate", learning_rate, above=0.0)
        self.ascent = torch.optim.Adam(
            amortizer.parameters(), lr=rate, betas=(float(betas[0]), float(betas[1])), maximize=True
        )
        self._generator = torch_generator(random_state)

    def forward(self, x: Tensor, y: Tensor, x_weights: Tensor | None = None, y_weights: Tensor | None = None) -> Tensor:
        """Return the loss, after a step of ascent when training.

        Parameters
        ----------
        x : Tensor of shape (B, n, d)
            Clouds.
        y : Tensor of shape (B, m, d)
            The clouds that they are compared with, such as their reconstructions.
        x_weights : Tensor of shape (B, n) or (n,), optional
            Masses of the points; a point of mass 0 is as good as absent. The amortiser must take them too.
        y_weights : Tensor of shape (B, m) or (m,), optional
            Masses of the points of ``y``.

        Returns
        -------
        Tensor of shape ()
            Mean over the pairs, differentiable in the clouds.
        """
        check_batches(x, y)
        weights = (check_weights_of("x_weights", x_weights, x), check_weights_of("y_weights", y_weights, y))
        if not (self.training and torch.is_grad_enabled()):
            return self._value(x, y, self._directions(x, y, weights).detach(), weights)
        for _ in range(self.steps_per_call - self.reuse_directions):
            directions = self._directions(x, y, weights)
            self._climb(self._value(x.detach(), y.detach(), directions, weights))
        directions = self._directions(x, y, weights)
        if not self.reuse_directions:
            return self._value(x, y, directions.detach(), weights)
        # One graph serves both: its leaves are the clouds, for phi, and a copy of the directions, for psi.
        leaf = directions.detach().requires_grad_()
        value = self._value(x, y, leaf, weights)
        (slope,) = torch.autograd.grad(value, leaf, retain_graph=True)
        self._climb((slope * directions).sum())
        return value

    def _directions(self, x: Tensor, y: Tensor, weights: tuple[Tensor | None, Tensor | None]) -> Tensor:
        """Return directions of shape (B, L, d), differentiable in the amortiser's weights only."""
        given = () if weights == (None, None) else weights
        location = self.amortizer(x.detach(), y.detach(), *given)
        if self.concentration is None:
            return location.unsqueeze(1)
        kappa = torch.tensor(self.concentration, dtype=torch.float64)
        around = VonMisesFisher(location, kappa, random_state=self._generator, validate_args=False)
        return around.rsample((self.n_projections,)).transpose(0, 1)

    def _value(self, x: Tensor, y: Tensor, directions: Tensor, weights: tuple[Tensor | None, Tensor | None]) -> Tensor:
        cost = transport_cost(x, y, directions, self.p, *weights)
        return (cost if self.squared else root(cost, self.p)).mean()

    def _climb(self, value: Tensor) -> None:
        """Take one step uphill in the amortiser's weights, the same one in every process of a distributed run."""
        weights = [each for each in self.amortizer.parameters() if each.requires_grad]
        slopes = torch.autograd.grad(value, weights, allow_unused=True)
        for weight, slope in zip(weights, slopes, strict=True):
            if slope is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(slope)
                slope = slope / torch.distributed.get_world_size()
            weight.grad = slope
        self.ascent.step()
        self.ascent.zero_grad(set_to_none=True)

    def _apply(self, fn: Any, recurse: bool = True) -> "AmortizedSlicedWassersteinLoss":
        """Move the module to another device or dtype, and the optimiser's averages with it."""
        super()._apply(fn, recurse)
        self.ascent.load_state_dict(self.ascent.state_dict())
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """Return what ``state_dict`` holds besides weights: the optimiser's state and the generator's."""
        return {"ascent": self.ascent.state_dict(), "generator": self._generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up the optimiser's state and the generator's."""
        self.ascent.load_state_dict(state["ascent"])
        self._generator.set_state(state["generator"].cpu())
