"""Surrogates in the space of targets: the distance by which each metric keeps new outputs near the old ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from paperworks._tensors import to_tensors
from paperworks._validation import check_number

Metric = Literal["euclidean", "adagrad", "diagonal_adagrad", "adam", "online_newton", "kullback_leibler"]
METRICS: tuple[Metric, ...] = (
    "euclidean",
    "adagrad",
    "diagonal_adagrad",
    "adam",
    "online_newton",
    "kullback_leibler",
)
ADAM_DECAYS = (0.9, 0.999)

Stretch = Callable[[Tensor], Tensor]


def surrogate_bound(outputs: Any, anchor: Any, gradient: Any, step_size: float, value: float = 0.0) -> Any:
    r"""Surrogate of a mean loss of outputs, from its value and gradients at an anchor.

    .. math:: s(f) = h(z) + \frac1n \sum_{i=1}^n \Big[ \langle g_i, f_i - z_i \rangle
        + \frac{1}{2 \eta} \|f_i - z_i\|^2 \Big].

    It is at least the mean loss everywhere if the loss of each row is 1/eta-smooth: eta is at most 4 for the logistic
    loss, 2 for softmax cross-entropy, 1 for half the squared error, whatever the number of rows.

    Parameters
    ----------
    outputs : array_like or Tensor of shape (n, m)
        Outputs f at which the surrogate is wanted.
    anchor : array_like or Tensor of shape (n, m)
        Outputs z at which the loss was differentiated.
    gradient : array_like or Tensor of shape (n, m)
        Gradients g of the losses of the rows, not divided by n.
    step_size : float
        eta, positive.
    value : float, default 0
        h(z), the mean loss at the anchor.

    Returns
    -------
    float or Tensor
        The surrogate, differentiable in ``outputs`` where they are a tensor.

    Raises
    ------
    ValueError
        If an array holds NaN or infinity, has not two axes, differs in shape, or ``step_size`` is not positive.
    TypeError
        If an array does not hold floating-point numbers.

    References
    ----------
    Jonathan Wilder Lavington, Sharan Vaswani, Reza Babanezhad, Mark Schmidt, Nicolas Le Roux. "Target-based Surrogates
    for Stochastic Optimization". ICML 2023. arXiv:2302.02607.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import surrogate_bound
    >>> z = np.zeros((1, 1))  # the logistic loss of label 1, whose value here is log 2 and gradient -1/2
    >>> bound = surrogate_bound(z + 1.0, z, z - 0.5, step_size=4.0, value=np.log(2))
    >>> bool(np.log1p(np.exp(-1.0)) <= bound < np.log(2))
    True
    """
    eta = check_number("step_size", step_size, above=0.0)
    check_number("value", value)
    (f, z, g), restore = to_tensors(outputs=outputs, anchor=anchor, gradient=gradient, ndim=2)
    for name, each in (("anchor", z), ("gradient", g)):
        if each.shape != f.shape:
            raise ValueError(f"{name} must have the shape of outputs, {tuple(f.shape)}, got {tuple(each.shape)}")
    return restore(value + QuadraticSurrogate(z, g, eta)(f))


def _unstretched(moved: Tensor) -> Tensor:
    return moved


@dataclass(frozen=True)
class QuadraticSurrogate:
    r"""Mean over rows of :math:`\langle g, f - z \rangle + \frac{1}{2\eta} \langle f - z, A (f - z) \rangle`.

    Attributes
    ----------
    anchor, gradient : Tensor of shape (n, m)
        z and g.
    step_size : float
        eta.
    stretch : callable
        Product of rows with A, symmetric and positive definite.
    """

    anchor: Tensor
    gradient: Tensor
    step_size: float
    stretch: Stretch = _unstretched

    def __call__(self, outputs: Tensor) -> Tensor:
        """Value at outputs of shape (n, m), without the constant h(z)."""
        moved = outputs - self.anchor
        return ((self.gradient + self.stretch(moved) / (2 * self.step_size)) * moved).sum() / len(moved)


@dataclass(frozen=True)
class KullbackLeiblerSurrogate:
    r"""Mean over rows of :math:`\langle g, p - p_t \rangle + \frac{1}{\eta} \mathrm{KL}(p \,\|\, p_t)`.

    Attributes
    ----------
    anchor, gradient : Tensor of shape (n, m)
        p_t, positive rows that sum to one, and g.
    step_size : float
        eta.
    """

    anchor: Tensor
    gradient: Tensor
    step_size: float

    def __post_init__(self) -> None:
        tolerance = 100 * torch.finfo(self.anchor.dtype).eps * self.anchor.shape[1]
        if bool((self.anchor <= 0).any()) or bool(((self.anchor.sum(1) - 1).abs() > tolerance).any()):
            raise ValueError(
                "forward must return positive rows that sum to 1 with metric='kullback_leibler', got entries from "
                f"{float(self.anchor.min()):.3g} and sums from {float(self.anchor.sum(1).min()):.3g} to "
                f"{float(self.anchor.sum(1).max()):.3g}"
            )

    def __call__(self, outputs: Tensor) -> Tensor:
        """Value at outputs of shape (n, m), rows that sum to one."""
        divergence = torch.xlogy(outputs, outputs) - outputs * self.anchor.log()
        return (self.gradient * (outputs - self.anchor) + divergence / self.step_size).sum() / len(outputs)


class Memory:
    """What an adaptive metric remembers of past target gradients.

    Given the rows' indices, elementwise metrics keep one entry a row and output; else all rows share one, fed by their
    mean, as rows that can't be told apart must.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def recall(self, name: str, like: Tensor, indices: Tensor | None) -> Tensor:
        """Past entries for the rows at hand, zero where there are none."""
        kept = self.tensors.get(name)
        if indices is None:
            return like.new_zeros(1, like.shape[1]) if kept is None else kept
        n_rows = int(indices.max()) + 1
        if kept is None or n_rows > len(kept):
            grown = like.new_zeros(n_rows, like.shape[1])
            if kept is not None:
                grown[: len(kept)] = kept
            self.tensors[name] = kept = grown
        return kept[indices]

    def keep(self, name: str, entries: Tensor, indices: Tensor | None) -> None:
        """Store the entries of the rows at hand."""
        if indices is None:
            self.tensors[name] = entries.mean(0, keepdim=True)
        else:
            self.tensors[name][indices] = entries

    def add_outer_products(self, gradient: Tensor) -> Tensor:
        """Add the rows' mean outer product to the sum of all steps, and return the sum."""
        product = gradient.T @ gradient / len(gradient)
        self.tensors["outer_products"] = self.tensors.get("outer_products", torch.zeros_like(product)) + product
        return self.tensors["outer_products"]


def linear_term_and_stretch(
    metric: Metric, memory: Memory, gradient: Tensor, indices: Tensor | None, damping: float
) -> tuple[Tensor, Stretch]:
    """Learn from a target gradient; return the surrogate's linear term and its quadratic metric."""
    if metric == "adagrad":
        values, vectors = torch.linalg.eigh(memory.add_outer_products(gradient))
        root = (vectors * (values.clamp(min=0) + damping).sqrt()) @ vectors.T
        return gradient, lambda moved: moved @ root
    if metric == "online_newton":
        sums = memory.add_outer_products(gradient)
        damped = sums + damping * torch.eye(len(sums), dtype=sums.dtype, device=sums.device)
        return gradient, lambda moved: moved @ damped
    if metric == "diagonal_adagrad":
        squares = memory.recall("squares", gradient, indices) + gradient**2
        memory.keep("squares", squares, indices)
        # Shared entries hold the mean of the rows; with a memory for each row this changes nothing.
        weights = (damping + (squares.mean(0, keepdim=True) if indices is None else squares)).sqrt()
        return gradient, lambda moved: moved * weights
    if metric == "adam":
        return _adam(memory, gradient, indices, damping)
    return gradient, _unstretched


def _adam(memory: Memory, gradient: Tensor, indices: Tensor | None, damping: float) -> tuple[Tensor, Stretch]:
    """Moments of the target gradients, with the bias of each row's own number of visits taken out."""
    decay, square_decay = ADAM_DECAYS
    visits = memory.recall("visits", gradient, indices) + 1
    first = decay * memory.recall("first", gradient, indices) + (1 - decay) * gradient
    second = square_decay * memory.recall("second", gradient, indices) + (1 - square_decay) * gradient**2
    for name, entries in (("visits", visits), ("first", first), ("second", second)):
        memory.keep(name, entries, indices)
    shared_second = second.mean(0, keepdim=True) if indices is None else second
    weights = (shared_second / (1 - square_decay**visits)).sqrt() + damping
    return first / (1 - decay**visits), lambda moved: moved * weights
