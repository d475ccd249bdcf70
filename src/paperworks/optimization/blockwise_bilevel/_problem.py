"""Bilevel problems of many blocks: callables batched over blocks, or two losses that they are derived from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from paperworks._validation import check_integer

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class BlockwiseBilevel:
    r"""A bilevel problem of m blocks, by the derivatives that its solver needs.

    .. math:: \min_x \frac1m \sum_i f_i(x, y_i^*(x)), \qquad y_i^*(x) = \operatorname{argmin}_y g_i(x, y).

    Of every callable, ``x`` has shape (dx,), ``y`` and ``v`` hold the rows (I, dy) of the sampled ``blocks`` (I,), and
    ``batch`` is an (I, B) array of integers: the samples of each block, over which it takes means. Any object that has
    these attributes will do.

    Parameters
    ----------
    lower_gradient : callable
        ``(x, y, blocks, batch)`` to :math:`\nabla_y g_i`, of shape (I, dy).
    upper_gradients : callable
        ``(x, y, blocks, batch)`` to the sum over the blocks of :math:`\nabla_x f_i`, of shape (dx,), and
        :math:`\nabla_y f_i`, of shape (I, dy). Its batch counts the samples of the upper level.
    mixed_vector : callable
        ``(x, y, v, blocks, batch)`` to the sum over the blocks of :math:`\nabla_{xy} g_i v_i`, of shape (dx,).
    n_samples : int
        Number of samples of the lower level; batches are drawn from the integers below it.
    lower_hessian_vector : callable, optional
        ``(x, y, v, blocks, batch)`` to :math:`\nabla_{yy} g_i v_i`, of shape (I, dy); needed by ``"v2"``.
    lower_hessian : callable, optional
        ``(x, y, blocks, batch)`` to :math:`\nabla_{yy} g_i`, of shape (I, dy, dy); needed by ``"v1"`` and ``"rsvrb"``.
    lower_derivatives : callable, optional
        ``(x, y, v, blocks, batch)`` to lower gradient, Hessian-vector product and mixed product at once, where that is
        cheaper.
    mixed_jacobian : callable, optional
        ``(x, y, blocks, batch)`` to :math:`\nabla_{xy} g_i`, of shape (I, dx, dy); ``"rsvrb"`` puts it together from
        dy mixed products where it lacks.
    n_upper_samples : int, optional
        Number of samples of the upper level, ``n_samples`` if not given.
    samplewise : bool, default False
        That x holds one number a sample of the lower level, of which the callables read those of the batch alone, and
        that f does not depend on x. ``mixed_vector`` then returns the derivatives by ``x[batch]``, of shape (I, B), and
        a step costs what its batch costs, however long x is. Arrays only.
    tensors : bool, default False
        That the callables need tensors, so that arrays are turned into such.

    Raises
    ------
    ValueError
        If there are no samples, or a samplewise problem needs tensors.

    References
    ----------
    Quanqi Hu, Zi-Hao Qiu, Zhishuai Guo, Lijun Zhang, Tianbao Yang. "Blockwise Stochastic Variance-Reduced Methods with
    Parallel Speedup for Multi-Block Bilevel Optimization". ICML 2023. arXiv:2305.18730.

    Examples
    --------
    Ridge regression of two tasks, whose log-penalty is chosen by validation.

    >>> import numpy as np, torch
    >>> from paperworks.optimization import BlockwiseBilevel, minimize_blockwise_bilevel
    >>> A, b = torch.randn(2, 60, 5, generator=torch.manual_seed(0)), torch.ones(2, 60)
    >>> def lower(x, y, block, batch):
    ...     return ((A[block, batch] @ y - b[block, batch]) ** 2).mean() / 2 + x.exp().sum() * (y @ y) / 2
    >>> def upper(x, y, block, batch):
    ...     return ((A[block, batch + 30] @ y - b[block, batch + 30]) ** 2).mean() / 2
    >>> problem = BlockwiseBilevel.from_losses(lower, upper, n_samples=30)
    >>> found = minimize_blockwise_bilevel(
    ...     problem, torch.zeros(1), torch.zeros(2, 5), blocks_per_step=1, n_steps=20, random_state=0
    ... )
    >>> found.lower_solution.shape
    torch.Size([2, 5])
    """

    lower_gradient: Callable[..., Any]
    upper_gradients: Callable[..., Any]
    mixed_vector: Callable[..., Any]
    n_samples: int
    lower_hessian_vector: Callable[..., Any] | None = None
    lower_hessian: Callable[..., Any] | None = None
    lower_derivatives: Callable[..., Any] | None = None
    mixed_jacobian: Callable[..., Any] | None = None
    n_upper_samples: int | None = None
    samplewise: bool = False
    tensors: bool = False

    def __post_init__(self) -> None:
        check_integer("n_samples", self.n_samples)
        if self.n_upper_samples is not None:
            check_integer("n_upper_samples", self.n_upper_samples)
        if self.samplewise and self.tensors:
            raise ValueError("a samplewise problem takes arrays: samplewise and tensors can't both be True")

    @classmethod
    def from_losses(
        cls, lower: Loss, upper: Loss, n_samples: int, n_upper_samples: int | None = None
    ) -> "BlockwiseBilevel":
        """Derive all callables from the two losses of one block.

        Parameters
        ----------
        lower, upper : callable
            ``(x, y, block, batch)`` to the mean loss of one block over a batch, a torch scalar: x of shape (dx,), y of
            shape (dy,), ``block`` an integer tensor of shape (1,) and ``batch`` one of shape (B,), so that
            ``data[block, batch]`` are the samples. They are mapped over blocks by `torch.func.vmap`: no ``if`` may
            depend on a value.
        n_samples : int
            Number of samples of the lower level.
        n_upper_samples : int, optional
            Number of samples of the upper level.

        Returns
        -------
        BlockwiseBilevel
            Hessian-vector and mixed products come out of one second backward pass.
        """
        over_blocks = (None, 0, 0, 0)

        def mapped(function: Callable[..., Any]) -> Callable[..., Any]:
            # An index of no dimensions would be turned into a number, which vmap does not allow.
            of_blocks = vmap(function, in_dims=over_blocks)
            return lambda x, y, blocks, batch: of_blocks(x, y, blocks[:, None], batch)

        # Summed over blocks, the derivative by a block's own row is that of its own loss.
        losses, upper_losses = mapped(lower), mapped(upper)

        def lower_gradient(x: Tensor, y: Tensor, blocks: Tensor, batch: Tensor) -> Tensor:
            y = y.detach().requires_grad_()
            return _gradients(losses(x.detach(), y, blocks, batch), y)[0]

        def derivatives(
            x: Tensor, y: Tensor, v: Tensor, blocks: Tensor, batch: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
            (gradient,) = _gradients(losses(x, y, blocks, batch), y, create_graph=True)
            product, mixed = _gradients(gradient * v, y, x)
            return gradient.detach(), product, mixed

        def upper_gradients(x: Tensor, y: Tensor, blocks: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
            x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
            by_x, by_y = _gradients(upper_losses(x, y, blocks, batch), x, y)
            return by_x, by_y

        by_row: Callable[..., Tensor] = grad(lower, argnums=1)
        jacobians = mapped(jacrev(by_row, argnums=0))
        return cls(
            lower_gradient=lower_gradient,
            upper_gradients=upper_gradients,
            mixed_vector=lambda *arguments: derivatives(*arguments)[2],
            n_samples=n_samples,
            lower_hessian_vector=lambda *arguments: derivatives(*arguments)[1],
            lower_hessian=mapped(jacrev(by_row, argnums=1)),
            lower_derivatives=derivatives,
            mixed_jacobian=lambda *arguments: jacobians(*arguments).mT,
            n_upper_samples=n_upper_samples,
            tensors=True,
        )


def _gradients(values: Tensor, *inputs: Tensor, create_graph: bool = False) -> tuple[Tensor, ...]:
    """Derivatives of the sum of values; zeros by what it does not depend on."""
    with torch.enable_grad():
        return torch.autograd.grad(values.sum(), inputs, create_graph=create_graph, materialize_grads=True)
