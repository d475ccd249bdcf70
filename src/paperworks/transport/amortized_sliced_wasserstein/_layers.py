"""Affine layers that start from a generator of their own, never from the global one."""

import torch
from torch import nn


def affine(n_inputs: int, n_outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return an affine layer with torch's usual start, uniform within one over the root of its inputs."""
    layer = nn.utils.skip_init(nn.Linear, n_inputs, n_outputs)
    bound = n_inputs**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
