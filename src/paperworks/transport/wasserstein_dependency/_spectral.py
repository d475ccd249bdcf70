"""Encoders that are Lipschitz by construction, so that the critic's slope is bounded and not only penalised."""

from math import ceil, sqrt
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from paperworks._validation import check_number

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Layers without weights of which each has slope at most 1 whatever its settings, in evaluation mode.
_SLOPE_ONE = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.ReLU, nn.ReLU6, nn.Tanh, nn.Sigmoid, nn.Hardtanh,
    nn.Softsign, nn.LogSigmoid, nn.Softplus,
)  # fmt: skip


class SpectralEncoder(nn.Module):
    r"""Encoder of slope at most 1, with codes in a ball.

    Every linear and convolutional layer of ``module`` is divided by (a bound on) its spectral norm, and codes are
    projected onto the ball of radius R. Two such encoders give a critic :math:`\phi(x)^\top\psi(y)` of joint slope at
    most :math:`\sqrt2 R`; each code is divided by :math:`(\sqrt2 R)^{1/2}`, which makes that 1. Norms are exact in
    evaluation mode, where this is a guarantee; while training, one power iteration a step follows them.

    Parameters
    ----------
    module : Module
        A `torch.nn.Sequential` (nested if you like) of linear layers, convolutions with zero padding, and layers of
        slope 1: ReLU, tanh, sigmoid, average pooling to one cell, flattening, dropout. It keeps its own weights.
    radius : float, default 10.0
        The radius R of the codes. It bounds the scores by :math:`R/\sqrt2`, hence what a contrast can show.

    Raises
    ------
    TypeError
        If ``module`` is no Module, or ``radius`` no number.
    ValueError
        If the module has a layer whose slope isn't known to be bounded; the message names it.

    References
    ----------
    Sherjil Ozair, Corey Lynch, Yoshua Bengio, Aaron van den Oord, Sergey Levine, Pierre Sermanet. "Wasserstein
    Dependency Measure for Representation Learning". NeurIPS 2019. arXiv:1903.11780.
    Takeru Miyato, Toshiki Kataoka, Masanori Koyama, Yuichi Yoshida. "Spectral Normalization for Generative Adversarial
    Networks". ICLR 2018. arXiv:1802.05957.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from paperworks.transport import SpectralEncoder
    >>> encoder = SpectralEncoder(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), radius=5.0).eval()
    >>> round(encoder.lipschitz_bound() * (2**0.5 * 5.0) ** 0.5, 4)
    1.0
    """

    def __init__(self, module: nn.Module, radius: float = 10.0) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, got {module!r}")
        self.radius = check_number("radius", radius, above=0)
        self.module = module
        self._overlaps: dict[str, float] = {}
        for name, layer in _layers(module):
            if isinstance(layer, (nn.Linear, *_CONVOLUTIONS)):
                left, _, _ = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
                self.register_buffer(_direction(name), left[:, 0].clone())
                self._overlaps[name] = _overlap(layer)
            elif not _has_slope_one(layer):
                raise ValueError(
                    f"module has a layer {name!r} of type {type(layer).__name__} whose slope has no known bound of 1; "
                    "accepted: Linear, convolutions, ReLU, Tanh, Sigmoid, average pooling to one cell, Flatten, "
                    "Dropout, in Sequential"
                )

    def forward(self, x: Tensor) -> Tensor:
        """Encode rows.

        Parameters
        ----------
        x : Tensor of shape (n, ...)
            Inputs.

        Returns
        -------
        Tensor of shape (n, d)
            Codes of norm at most (radius / sqrt 2) ** 0.5.
        """
        codes = functional_call(self.module, self._weights(), (x,))
        # Projection onto a ball has slope 1; the clamp keeps its gradient finite at 0.
        shrunk = codes * (self.radius / codes.norm(dim=1, keepdim=True).clamp_min(self.radius))
        return shrunk / sqrt(sqrt(2.0) * self.radius)

    def lipschitz_bound(self) -> float:
        """Bound the slope of the codes in evaluation mode: the product of the layers' norms, computed in float64.

        Returns
        -------
        float
            At most 1 / (sqrt 2 R) ** 0.5, up to the rounding of the weights.
        """
        training = self.training
        with torch.no_grad():
            weights = self.eval()._weights()
        self.train(training)
        bound = 1.0 / sqrt(sqrt(2.0) * self.radius)
        for name, overlap in self._overlaps.items():
            matrix = weights[_weight(name)].double().flatten(1)
            bound *= overlap * float(torch.linalg.matrix_norm(matrix, ord=2))
        return bound

    def _weights(self) -> dict[str, Tensor]:
        """Weights over their norms, by name."""
        weights = dict(self.module.named_parameters())
        divided = {}
        for name, overlap in self._overlaps.items():
            weight = weights[_weight(name)]
            direction = cast("Tensor", getattr(self, _direction(name)))
            divided[_weight(name)] = weight / (overlap * self._norm(weight.flatten(1), direction))
        return divided

    def _norm(self, matrix: Tensor, direction: Tensor) -> Tensor:
        """Spectral norm: followed by a step of power iteration while training, exact in evaluation."""
        if not self.training:
            return torch.linalg.matrix_norm(matrix, ord=2)
        with torch.no_grad():
            right = nn.functional.normalize(matrix.mT @ direction, dim=0)
            left = nn.functional.normalize(matrix @ right, dim=0)
            direction.copy_(left)
        # Both directions are constants: d sigma / d matrix = left right'.
        return left @ (matrix @ right)


def _layers(module: nn.Module, name: str = "") -> list[tuple[str, nn.Module]]:
    """Layers of nested Sequentials, in order."""
    if not isinstance(module, nn.Sequential):
        return [(name, module)]
    return [pair for key, child in module.named_children() for pair in _layers(child, f"{name}.{key}".lstrip("."))]


def _has_slope_one(layer: nn.Module) -> bool:
    """Whether a layer without weights rises by at most 1 a unit."""
    if isinstance(layer, nn.LeakyReLU):
        return abs(layer.negative_slope) <= 1
    if isinstance(layer, nn.ELU):
        return abs(layer.alpha) <= 1
    if isinstance(layer, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)):
        return layer.output_size in (1, (1,), (1, 1))
    return isinstance(layer, _SLOPE_ONE)


def _weight(layer: str) -> str:
    return f"{layer}.weight".lstrip(".")


def _direction(layer: str) -> str:
    return "direction_" + layer.replace(".", "_")


def _overlap(layer: nn.Module) -> float:
    """Root of the number of patches that hold one pixel: a convolution's norm is at most this times its kernel's.

    It is the norm of taking out the patches, which the kernel, as a matrix, is then applied to one by one.
    """
    if isinstance(layer, nn.Linear):
        return 1.0
    convolution = cast("nn.Conv2d", layer)
    if convolution.padding_mode != "zeros":
        raise ValueError(f"convolutions must have padding_mode='zeros', got {convolution.padding_mode!r}")
    count = 1
    for size, stride, dilation in zip(convolution.kernel_size, convolution.stride, convolution.dilation, strict=True):
        count *= ceil(size / stride) if dilation == 1 else size
    return sqrt(count)
