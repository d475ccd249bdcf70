"""The training loss: contrastive, with a critic that is held to slope 1 in its inputs."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from paperworks._random import RandomState, torch_generator
from paperworks._tensors import check_finite_tensor
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.transport.wasserstein_dependency._penalty import (
    derangement,
    interpolate,
    refuse_batch_norm,
    slope_penalty,
    slopes,
)
from paperworks.transport.wasserstein_dependency._scores import (
    OBJECTIVES,
    Objective,
    contrastive_dependency,
    difference_of_means,
)


@dataclass(frozen=True)
class DependencyLoss:
    """What `WassersteinPredictiveCodingLoss` returns.

    Parameters
    ----------
    loss : Tensor of shape ()
        To be minimised.
    dependency : Tensor of shape ()
        Without a gradient: nats under ``"cpc"`` and ``"wpc"``, at most log n with the positive included; under
        ``"wdm"`` the difference of mean scores, in units of the inputs.
    penalty : Tensor of shape ()
        Without a gradient, before its weight; 0 in a step without penalty.
    gradient_norm : Tensor of shape (n,) or None
        Slopes of the critic at the points of the penalty; None in a step without.

    References
    ----------
    Sherjil Ozair, Corey Lynch, Yoshua Bengio, Aaron van den Oord, Sergey Levine, Pierre Sermanet. "Wasserstein
    Dependency Measure for Representation Learning". NeurIPS 2019. arXiv:1903.11780.

    Examples
    --------
    >>> import torch
    >>> from paperworks.transport import DependencyLoss
    >>> DependencyLoss(torch.tensor(1.5), torch.tensor(0.2), torch.tensor(0.0), None).loss
    tensor(1.5000)
    """

    loss: Tensor
    dependency: Tensor
    penalty: Tensor
    gradient_norm: Tensor | None


class WassersteinPredictiveCodingLoss(nn.Module):
    r"""Loss of two encoders from a batch of pairs.

    With :math:`S_{ij} = \phi(x_i)^\top W \psi(y_j)` it is, for ``"cpc"`` and ``"wpc"``,

    .. math:: -\frac1n\sum_i \Bigl(S_{ii} - \log\frac1n\sum_j e^{S_{ij}}\Bigr) + \lambda\,\text{penalty} - \log n,

    which bounds mutual information, and for ``"wdm"`` minus the difference of mean scores between pairs that belong
    together and pairs that don't, which is the dual of :math:`W_1(p(x, y), p(x)p(y))`. The penalty, see
    `gradient_penalty`, keeps f(x, y) = :math:`\phi(x)^\top W \psi(y)` near slope 1 as a function of the data: what a
    unit of the inputs means is yours to decide, so bring them to a common scale first. ``"cpc"`` has none.

    Parameters
    ----------
    objective : {"wpc", "cpc", "wdm"}, default "wpc"
        What is maximised.
    penalty_weight : float, default 10.0
        The weight lambda; 0 for encoders that are Lipschitz by construction, see `SpectralEncoder`.
    two_sided : bool, default False
        Penalise slopes below 1 too, as the paper writes it.
    penalty_every : int, default 1
        Penalise every k-th step only, k times as much.
    symmetric : bool, default False
        Average the contrast over rows with that over columns.
    include_positive : bool, default True
        Whether the sum over j holds the pair itself. Without it the dependency has no bound at log n.
    interpolate : {"second", "both"}, default "second"
        Whether the penalty's points lie between pairs that share x, or move in both views.
    weight_size : int, optional
        Learn W, of shape (weight_size, weight_size), from the identity; it stays the identity when None.
    random_state : int, Generator, RandomState or None, default None
        Seed of the penalty's points.

    Raises
    ------
    TypeError
        If a parameter has the wrong type.
    ValueError
        If a parameter is out of its range.

    References
    ----------
    Sherjil Ozair, Corey Lynch, Yoshua Bengio, Aaron van den Oord, Sergey Levine, Pierre Sermanet. "Wasserstein
    Dependency Measure for Representation Learning". NeurIPS 2019. arXiv:1903.11780.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from paperworks.transport import WassersteinPredictiveCodingLoss
    >>> x = torch.linspace(-1, 1, 8)[:, None]
    >>> loss = WassersteinPredictiveCodingLoss(random_state=0)(nn.Identity(), nn.Identity(), x, 2 * x)
    >>> bool(loss.dependency < torch.log(torch.tensor(8.0)))
    True
    """

    def __init__(
        self,
        objective: Objective = "wpc",
        penalty_weight: float = 10.0,
        two_sided: bool = False,
        penalty_every: int = 1,
        *,
        symmetric: bool = False,
        include_positive: bool = True,
        interpolate: Literal["second", "both"] = "second",
        weight_size: int | None = None,
        random_state: RandomState = None,
    ) -> None:
        super().__init__()
        self.objective = check_choice("objective", objective, OBJECTIVES)
        self.penalty_weight = check_number("penalty_weight", penalty_weight, at_least=0)
        self.two_sided = two_sided
        self.penalty_every = check_integer("penalty_every", penalty_every)
        self.symmetric = symmetric
        self.include_positive = include_positive
        self.interpolate = check_choice("interpolate", interpolate, ("second", "both"))
        self.weight = (
            None if weight_size is None else nn.Parameter(torch.eye(check_integer("weight_size", weight_size)))
        )
        self._generator = torch_generator(random_state)
        self._step = 0

    def forward(self, encoder_x: nn.Module, encoder_y: nn.Module, x: Tensor, y: Tensor) -> DependencyLoss:
        """Return the loss of a batch.

        Parameters
        ----------
        encoder_x, encoder_y : Module
            Encoders of the views; each row of a batch must be encoded by itself.
        x, y : Tensor of shape (n, ...)
            Views, row by row.

        Returns
        -------
        DependencyLoss
            Loss, dependency, penalty and slopes.
        """
        _check_pairs(x, y)
        if self._penalised:
            refuse_batch_norm(encoder_x, encoder_y)
        return self.of_checked(encoder_x, encoder_y, x, y)

    @property
    def _penalised(self) -> bool:
        return self.objective != "cpc" and self.penalty_weight > 0

    def of_checked(self, encoder_x: nn.Module, encoder_y: nn.Module, x: Tensor, y: Tensor) -> DependencyLoss:
        """Return the loss as a call does, without looking at the arguments first; parameters as there."""
        due = self._penalised and self._step % self.penalty_every == 0
        self._step += self.training
        # Between pairs that share x, the scores' own pass through the first encoder serves the penalty too.
        x_leaf = x.detach().requires_grad_() if due and self.interpolate == "second" else x
        z_x, z_y = encoder_x(x_leaf), encoder_y(y)
        dependency = self.dependency(z_x, z_y)
        if not due:
            return DependencyLoss(-dependency, dependency.detach(), dependency.new_zeros(()), None)
        norms = self.slopes_between(encoder_x, encoder_y, x_leaf, y, z_x)
        penalty = slope_penalty(norms, two_sided=self.two_sided)
        loss = self.penalty_weight * self.penalty_every * penalty - dependency
        return DependencyLoss(loss, dependency.detach(), penalty.detach(), norms.detach())

    def dependency(self, z_x: Tensor, z_y: Tensor) -> Tensor:
        """Return the dependency that codes of n pairs show: nats, or under ``"wdm"`` a difference of mean scores.

        Parameters
        ----------
        z_x, z_y : Tensor of shape (n, d)
            Codes of both views, row by row.

        Returns
        -------
        Tensor of shape ()
            The dependency.
        """
        scores = self._weighted(z_x) @ z_y.mT
        if self.objective == "wdm":
            return difference_of_means(scores)
        return contrastive_dependency(scores, include_positive=self.include_positive, symmetric=self.symmetric)

    def _weighted(self, z_x: Tensor) -> Tensor:
        return z_x if self.weight is None else z_x @ self.weight

    def slopes_between(self, encoder_x: nn.Module, encoder_y: nn.Module, x: Tensor, y: Tensor, z_x: Tensor) -> Tensor:
        """Slopes of f at points between pairs of the joint sample and pairs of the product; z_x is encoder_x(x)."""
        e = torch.rand(len(x), generator=self._generator)
        y_hat = interpolate(y, y[derangement(len(y), self._generator)], e).requires_grad_()
        if self.interpolate == "second":
            return slopes((self._weighted(z_x) * encoder_y(y_hat)).sum(1), x, y_hat)
        x_hat = interpolate(x, x[derangement(len(x), self._generator)], e).requires_grad_()
        return slopes((self._weighted(encoder_x(x_hat)) * encoder_y(y_hat)).sum(1), x_hat, y_hat)


def _check_pairs(x: Tensor, y: Tensor) -> None:
    for name, view in (("x", x), ("y", y)):
        if not isinstance(view, Tensor) or not view.is_floating_point():
            kind = view.dtype if isinstance(view, Tensor) else type(view).__name__
            raise TypeError(f"{name} must be a floating-point tensor, got {kind}")
        if view.ndim < 2:
            raise ValueError(f"{name} must have rows of features, got shape {tuple(view.shape)}")
        check_finite_tensor(name, view)
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} rows, y has {len(y)}")
    if len(x) < 2:
        raise ValueError(f"a batch must hold at least 2 pairs, got {len(x)}")
