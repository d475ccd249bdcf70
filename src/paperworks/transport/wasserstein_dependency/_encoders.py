"""Default encoders: a multilayer perceptron for vectors, a small convolutional network for images."""

from collections.abc import Sequence

from torch import nn


def vector_encoder(n_features: int, hidden_sizes: Sequence[int], n_components: int) -> nn.Sequential:
    """Linear layers with ReLUs between them."""
    layers: list[nn.Module] = []
    width = n_features
    for size in hidden_sizes:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, n_components))


def image_encoder(n_channels: int, n_components: int) -> nn.Sequential:
    """Three convolutions of stride 2 with 32, 64 and 128 channels, the mean over the image, a linear layer."""
    layers: list[nn.Module] = []
    width = n_channels
    for size in (32, 64, 128):
        layers += [nn.Conv2d(width, size, 3, stride=2, padding=1), nn.ReLU()]
        width = size
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_components))
