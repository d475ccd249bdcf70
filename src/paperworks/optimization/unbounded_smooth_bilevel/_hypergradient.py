"""Derivatives of an upper and a lower loss: counted, checked, and named where they fail."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Any, Literal

import torch
from torch import Tensor

Loss = Callable[..., Any]
Tensors = list[Tensor]
Products = Literal["autograd", "finite_difference"]
PRODUCTS: tuple[Products, ...] = ("autograd", "finite_difference")
COUNTS = ("upper_gradients", "lower_gradients", "hessian_vector", "mixed")

# Length of the step r z of a central difference: short beside the iterates, long beside what rounding does to float32.
DIFFERENCE = 1e-2


@torch.no_grad()
def norm(tensors: Tensors | tuple[Tensor, ...]) -> Tensor:
    """Euclidean norm of all entries of a list."""
    return tensors[0].norm() if len(tensors) == 1 else torch.stack(torch._foreach_norm(tensors)).norm()


class Oracle:
    """First derivatives of both losses, and products with the second derivatives of the lower one.

    Parameters
    ----------
    upper, lower : callable
        ``upper(x, y)`` and ``lower(x, y)``, each on a batch that it draws itself; ``lower(x, y, batch)`` where
        ``draw_batch`` is given.
    hvp : {"autograd", "finite_difference"}
        Differentiate twice, or take the central difference of two gradients on one batch.
    draw_batch : callable, optional
        Returns a batch of the lower problem.
    counts : dict
        By the names of `COUNTS`, how often what was evaluated; counted on.
    step : int
        Where the method is, for messages.
    """

    def __init__(
        self,
        upper: Loss,
        lower: Loss,
        hvp: Products,
        draw_batch: Callable[[], Any] | None,
        counts: dict[str, int],
        step: int = 0,
    ) -> None:
        self.upper, self.lower, self.hvp, self.draw_batch = upper, lower, hvp, draw_batch
        self.counts, self.step = counts, step

    def upper_gradients(self, x: Tensors, y: Tensors) -> tuple[float, Tensors, Tensors]:
        """Value of f on a batch, and its gradients in x and y."""
        self.counts["upper_gradients"] += 1
        loss = self._checked("upper", self.upper(x, y), x, y)
        found = torch.autograd.grad(loss, [*x, *y], allow_unused=True, materialize_grads=True)
        return float(loss.detach()), list(found[: len(x)]), list(found[len(x) :])

    def lower_gradient(self, x: Tensors, y: Tensors) -> Tensors:
        """Gradient of g in y on a batch."""
        self.counts["lower_gradients"] += 1
        loss = self._lower(x, y, self._batch())
        return list(torch.autograd.grad(loss, y, allow_unused=True, materialize_grads=True))

    def hessian_vector(self, x: Tensors, y: Tensors, z: Tensors) -> Tensors:
        """H z, with the Hessian H of g in y on a batch."""
        self.counts["hessian_vector"] += 1
        return self._products(x, y, z, y)

    def mixed(self, x: Tensors, y: Tensors, z: Tensors) -> Tensors:
        """The gradient in x of <grad_y g(x, y), z> on a batch."""
        self.counts["mixed"] += 1
        return self._products(x, y, z, x)

    def both(self, x: Tensors, y: Tensors, z: Tensors) -> tuple[Tensors, Tensors]:
        """The last two products, on one batch and out of one graph."""
        self.counts["hessian_vector"] += 1
        self.counts["mixed"] += 1
        found = self._products(x, y, z, [*y, *x])
        return found[: len(y)], found[len(y) :]

    def require_one_batch(self, x: Tensors, y: Tensors) -> None:
        """Refuse a lower loss that draws a new batch each time, which differences would mistake for curvature."""
        batch = self._batch()
        first, second = (
            torch.autograd.grad(self._lower(x, y, batch), y, allow_unused=True, materialize_grads=True)
            for _ in range(2)
        )
        if not all(torch.equal(a, b) for a, b in zip(first, second, strict=True)):
            raise ValueError(
                "lower loss has two gradients at one point: with hvp='finite_difference' they must be of one batch; "
                "pass draw_batch and let the lower loss take the batch as its last argument, or use hvp='autograd'"
            )

    def _batch(self) -> tuple[Any, ...]:
        return () if self.draw_batch is None else (self.draw_batch(),)

    def _lower(self, x: Tensors, y: Tensors, batch: tuple[Any, ...]) -> Tensor:
        return self._checked("lower", self.lower(x, y, *batch), x, y)

    def _products(self, x: Tensors, y: Tensors, z: Tensors, within: Tensors) -> Tensors:
        """Derivative of <grad_y g, z> in the tensors ``within``, that of the gradient in them along z."""
        batch = self._batch()
        if self.hvp == "finite_difference":
            return self._differences(x, y, z, within, batch)
        with _cudnn_errors_explained():
            loss = self._lower(x, y, batch)
            gradients = torch.autograd.grad(loss, y, create_graph=True, allow_unused=True, materialize_grads=True)
            # A gradient without a graph is constant.
            curved = [(each, direction) for each, direction in zip(gradients, z, strict=True) if each.requires_grad]
            if not curved:
                return [torch.zeros_like(each) for each in within]
            outputs, directions = zip(*curved, strict=True)
            return list(torch.autograd.grad(outputs, within, directions, allow_unused=True, materialize_grads=True))

    def _differences(self, x: Tensors, y: Tensors, z: Tensors, within: Tensors, batch: tuple[Any, ...]) -> Tensors:
        length = float(norm(z))
        if length == 0.0:
            return [torch.zeros_like(each) for each in within]
        r = DIFFERENCE / length
        start, ends = [each.detach().clone() for each in y], []
        try:
            for sign in (1.0, -1.0):
                with torch.no_grad():
                    torch._foreach_copy_(y, torch._foreach_add(start, z, alpha=sign * r))
                loss = self._lower(x, y, batch)
                ends.append(torch.autograd.grad(loss, within, allow_unused=True, materialize_grads=True))
        finally:
            with torch.no_grad():
                torch._foreach_copy_(y, start)
        return list(torch._foreach_div(torch._foreach_sub(ends[0], ends[1]), 2 * r))

    def _checked(self, level: str, loss: Any, x: Tensors, y: Tensors) -> Tensor:
        if not isinstance(loss, Tensor) or not loss.is_floating_point():
            raise TypeError(f"{level} loss must be a tensor of floats, got {getattr(loss, 'dtype', type(loss))}")
        if loss.numel() != 1:
            raise ValueError(f"{level} loss must be one number, got shape {tuple(loss.shape)}")
        if not isfinite(loss.detach()):
            raise FloatingPointError(
                f"{level} loss is {float(loss.detach())} at step {self.step}, where the upper variables have norm "
                f"{float(norm(x)):.3g} and the lower ones {float(norm(y)):.3g}"
            )
        if not loss.requires_grad:
            raise ValueError(f"{level} loss must depend on the tensors that it is given, got one without a graph")
        return loss.reshape(())


@contextmanager
def _cudnn_errors_explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "cudnn" not in str(error).lower():
            raise
        raise RuntimeError(
            "cuDNN can't differentiate a recurrent network twice: evaluate the losses within "
            "torch.backends.cudnn.flags(enabled=False), or use hvp='finite_difference'"
        ) from error
