"""Networks that are maps: structured, residual and plain."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from paperworks._validation import check_choice, check_number


class StructuredMap(nn.Module):
    r"""Map of the form that is optimal for a cost c(x, y) = h(x - y) with h strictly convex.

    An optimal map for such a cost is :math:`T(x) = x - \nabla h^*(\nabla\varphi(x))` with :math:`\varphi` c-concave.
    Here a network F stands for :math:`\nabla\varphi`, free of constraints:

    .. math:: T(x) = x - \nabla h^*(F(x)), \qquad
              h(z) = \tfrac1p \sum_k |z_k|^p \;\Rightarrow\;
              \nabla h^*(z) = \operatorname{sign}(z)\,|z|^{q-1},\quad \tfrac1p + \tfrac1q = 1.

    Parameters
    ----------
    network : Module
        The network F, from shape (n, d) to shape (n, d).
    h : "p-norm" or callable, default "p-norm"
        The cost's profile, or the gradient of its convex conjugate as a function of tensors of shape (n, d).
    p : float, default 2
        Power of the p-norm, greater than 1.

    Raises
    ------
    TypeError
        If ``network`` is not a Module or ``p`` not a number.
    ValueError
        If ``h`` is unknown or ``p`` is not greater than 1.

    References
    ----------
    Théo Uscidda and Marco Cuturi. The Monge Gap: A Regularizer to Learn All Transport Maps. arXiv 2302.04953.

    Examples
    --------
    >>> import torch
    >>> from paperworks.transport import StructuredMap
    >>> StructuredMap(torch.nn.Identity(), p=1.5)(torch.tensor([[2.0, -1.0]]))
    tensor([[-2.,  0.]])
    """

    def __init__(
        self, network: nn.Module, *, h: Literal["p-norm"] | Callable[[Tensor], Tensor] = "p-norm", p: float = 2.0
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch.nn.Module, got {network!r}")
        if not callable(h):
            check_choice("h", h, ("p-norm",))
        check_number("p", p, above=1)
        self.network, self.h, self.p = network, h, float(p)

    def forward(self, x: Tensor) -> Tensor:
        """Map points of shape (n, d)."""
        field = self.network(x)
        return x - (self.h(field) if callable(self.h) else self._conjugate_gradient(field))

    def _conjugate_gradient(self, field: Tensor) -> Tensor:
        exponent = 1 / (self.p - 1)  # q - 1
        if exponent == 1:
            return field
        # The floor keeps the derivative finite at 0, where |z|^(q-1) has none for p > 2.
        return field.sign() * field.abs().clamp_min(torch.finfo(field.dtype).eps).pow(exponent)

    def extra_repr(self) -> str:
        """Return the profile of the cost."""
        return f"h={self.h!r}, p={self.p}"


class ResidualMap(nn.Module):
    """The map x + network(x)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map points of shape (n, d)."""
        return x + self.network(x)


class SphereMap(nn.Module):
    """A network whose outputs are scaled to length 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map points of shape (n, d) to the unit sphere."""
        return nn.functional.normalize(self.network(x), dim=-1)


def multilayer_perceptron(n_inputs: int, hidden_sizes: Sequence[int], n_outputs: int) -> nn.Sequential:
    """Return linear layers with GELUs between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise([n_inputs, *hidden_sizes, n_outputs]):
        layers += [nn.Linear(n_in, n_out), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def identity_map(n_features: int, hidden_sizes: Sequence[int]) -> ResidualMap:
    """Return a residual network that starts as the identity, whose Monge gap is 0."""
    network = multilayer_perceptron(n_features, hidden_sizes, n_features)
    for parameter in network[-1].parameters():
        nn.init.zeros_(parameter)
    return ResidualMap(network)
