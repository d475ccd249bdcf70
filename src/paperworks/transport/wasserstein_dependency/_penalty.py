"""The gradient penalty that holds a critic to slope 1 in its inputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from paperworks._random import RandomState, torch_generator
from paperworks._tensors import Array, to_tensors
from paperworks._validation import check_number

Critic = Callable[[Tensor, Tensor], Tensor]


def gradient_penalty(
    critic: Critic,
    x: Array,
    y: Array,
    y_negative: Array,
    *,
    x_negative: Array | None = None,
    two_sided: bool = True,
    target: float = 1.0,
    random_state: RandomState = None,
) -> Any:
    r"""Penalty on the slope of a critic f, taken at random points between pairs of the joint and of the product.

    .. math:: E\bigl[(\lVert\nabla_{(x, y)} f(\hat x, \hat y)\rVert_2 - t)^2\bigr],\quad
              \hat y = e\,y + (1 - e)\,y^-,\; e \sim U(0, 1),

    with the gradient by the *inputs*, taken jointly: the norm is
    :math:`(\lVert\nabla_x f\rVert^2 + \lVert\nabla_y f\rVert^2)^{1/2}`. The one-sided form counts slopes above t only.

    Parameters
    ----------
    critic : callable
        Takes tensors of the shapes of ``x`` and ``y`` and returns n scores, the i-th from the i-th rows alone: no
        batch normalisation.
    x : array_like or Tensor of shape (n, ...)
        First views of a joint sample.
    y : array_like or Tensor of shape (n, ...)
        Second views, row by row.
    y_negative : array_like or Tensor of shape (n, ...)
        Second views of other pairs.
    x_negative : array_like or Tensor of shape (n, ...), optional
        First views of other pairs: then x moves too, by the same e. It stays where it is when None.
    two_sided : bool, default True
        Penalise slopes on both sides of ``target``, as the paper does, or only those above.
    target : float, default 1.0
        The slope t.
    random_state : int, Generator, RandomState or None, default None
        Seed of e.

    Returns
    -------
    float or Tensor
        The penalty; as a tensor it may be differentiated by the critic's parameters.

    Raises
    ------
    TypeError
        If an array does not hold floating-point numbers.
    ValueError
        If an array is empty or not finite, rows do not match, or the critic does not return n scores.

    References
    ----------
    Sherjil Ozair, Corey Lynch, Yoshua Bengio, Aaron van den Oord, Sergey Levine, Pierre Sermanet. "Wasserstein
    Dependency Measure for Representation Learning". NeurIPS 2019. arXiv:1903.11780.
    Ishaan Gulrajani, Faruk Ahmed, Martin Arjovsky, Vincent Dumoulin, Aaron Courville. "Improved Training of
    Wasserstein GANs". NeurIPS 2017. arXiv:1704.00028.

    Examples
    --------
    >>> import torch
    >>> from paperworks.transport import gradient_penalty
    >>> x, y = torch.zeros(5, 2), torch.ones(5, 2)
    >>> gradient_penalty(lambda x, y: 3 * x[:, 0] + 4 * y[:, 1], x, y, y.flip(0))  # (5 - 1) ** 2
    tensor(16.)
    """
    check_number("target", target, at_least=0)
    tensors, restore = to_tensors(x=x, y=y, y_negative=y_negative, x_negative=x_negative, ndim=(1, 2, 3, 4, 5))
    first, second, *others = tensors
    if len(first) != len(second):
        raise ValueError(f"x has {len(first)} rows, y has {len(second)}")
    _check_same_shape("y_negative", others[0], "y", second)
    for other in others[1:]:
        _check_same_shape("x_negative", other, "x", first)
    e = torch.rand(len(first), generator=torch_generator(random_state))
    x_hat = interpolate(first, others[1], e) if len(others) > 1 else first.detach().clone()
    y_hat = interpolate(second, others[0], e)
    x_hat.requires_grad_()
    y_hat.requires_grad_()
    scores = critic(x_hat, y_hat)
    if scores.shape != (len(first),):
        raise ValueError(f"critic must return {len(first)} scores, got shape {tuple(scores.shape)}")
    return restore(slope_penalty(slopes(scores, x_hat, y_hat), two_sided=two_sided, target=target))


def _check_same_shape(name: str, tensor: Tensor, like_name: str, like: Tensor) -> None:
    if tensor.shape != like.shape:
        raise ValueError(f"{name} must have the shape of {like_name}, {tuple(like.shape)}, got {tuple(tensor.shape)}")


def interpolate(positive: Tensor, negative: Tensor, e: Tensor) -> Tensor:
    """Points e positive + (1 - e) negative, one e a row."""
    share = e.to(positive).reshape(-1, *[1] * (positive.ndim - 1))
    return torch.lerp(negative.detach(), positive.detach(), share)


def derangement(n: int, generator: torch.Generator) -> Tensor:
    """A random permutation of range(n) that leaves nothing in its place: one cycle through all."""
    order = torch.randperm(n, generator=generator)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return partner


def slopes(scores: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Joint norms of the scores' gradients by x and y, one a row; they can be differentiated again."""
    by_x, by_y = torch.autograd.grad(scores.sum(), (x, y), create_graph=True, allow_unused=True)
    squares = [gradient.reshape(len(gradient), -1).square().sum(1) for gradient in (by_x, by_y) if gradient is not None]
    if not squares:
        raise ValueError("critic depends on neither of its inputs")
    # The root's slope at 0 is infinite: there, as for a critic that is flat, take a subgradient of 0.
    total = torch.stack(squares).sum(0)
    flat = total == 0
    return torch.where(flat, total, total.masked_fill(flat, 1.0).sqrt())


def slope_penalty(norms: Tensor, *, two_sided: bool, target: float = 1.0) -> Tensor:
    """Mean square of the slopes' excess over ``target``, or of their distance from it."""
    excess = norms - target
    return (excess if two_sided else excess.relu()).square().mean()


def refuse_batch_norm(*encoders: nn.Module) -> None:
    """Raise a ValueError if a module mixes the rows of a batch, which leaves a row without a gradient of its own."""
    for encoder in encoders:
        for name, module in encoder.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                raise ValueError(
                    f"encoder layer {name!r} is a {type(module).__name__}, which couples the rows of a batch, so that "
                    "the gradient penalty has no slope of a single pair; use LayerNorm or GroupNorm"
                )
