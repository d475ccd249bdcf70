"""Pruning by the optimal brain surgeon, on the inverse Fisher matrix of the loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from paperworks._progress import progress_bar
from paperworks._tensors import Array, to_tensors
from paperworks._training import interrupts_between_steps
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.optimization.matrix_free_fisher._gradients import (
    LossBatch,
    checked_batches,
    chosen_parameters,
    gradients_and_loss,
    mean_loss,
)
from paperworks.optimization.matrix_free_fisher._static import InverseFisher

Schedule = Literal["exponential", "polynomial"]


class Inverse(Protocol):
    """What scores need of an inverse: its diagonal, and products with it."""

    def diagonal(self) -> Any:
        """The diagonal, of shape (d,)."""

    def multiply(self, x: Any) -> Any:
        """The product with a vector of shape (d,)."""


@dataclass(frozen=True)
class PruningReport:
    """What a pruning changed.

    Attributes
    ----------
    sparsity : float
        Share of zeros among the weights of all layers pruned.
    sparsity_per_layer : dict of str to float
        The same of each, by the name of its parameter.
    loss_before, loss_after : float
        Mean loss over the first ``n_gradients`` batches, in evaluation mode, before anything was pruned and after.
    seconds : float
        Time that it took.
    history : dict of str to tuple of float
        At each recomputation and at the end: ``"sparsity"``, mean ``"loss"`` of the batches whose gradients were taken,
        number of ``"gradients"`` so far, and ``"seconds"``.

    References
    ----------
    Elias Frantar, Eldar Kurtic, Dan Alistarh. "M-FAC: Efficient Matrix-Free Approximations of Second-Order
    Information". NeurIPS 2021. arXiv:2107.03356.

    Examples
    --------
    >>> from paperworks.optimization import PruningReport
    >>> PruningReport(0.5, {"0.weight": 0.5}, 0.1, 0.2, 1.5, {}).sparsity_per_layer
    {'0.weight': 0.5}
    """

    sparsity: float
    sparsity_per_layer: dict[str, float]
    loss_before: float
    loss_after: float
    seconds: float
    history: dict[str, tuple[float, ...]]


def inverse_fisher_saliency(weights: Array, inverse_fisher: Inverse) -> Any:
    r"""Scores of weights: what the loss rises by, to second order, when one is removed and the others make up for it.

    .. math:: \rho_i = \frac{w_i^2}{2 [F^{-1}]_{ii}}

    Parameters
    ----------
    weights : array_like or Tensor of shape (d,)
        The weights w.
    inverse_fisher : InverseFisher
        The inverse, or anything else with its ``diagonal``.

    Returns
    -------
    ndarray or Tensor of shape (d,)
        The scores; the lowest are pruned first.

    Raises
    ------
    ValueError
        If ``weights`` are NaN, infinite, or as many as the inverse has rows.
    TypeError
        If ``weights`` do not hold floating-point numbers.

    References
    ----------
    Elias Frantar, Eldar Kurtic, Dan Alistarh. "M-FAC: Efficient Matrix-Free Approximations of Second-Order
    Information". NeurIPS 2021. arXiv:2107.03356.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import InverseFisher, inverse_fisher_saliency
    >>> gradients = np.array([[3.0, 0.0], [3.0, 0.0]])  # the loss curves along the first axis alone
    >>> inverse_fisher_saliency(np.array([1.0, 1.0]), InverseFisher(gradients, damping=1.0))
    array([5. , 0.5])
    """
    (w,), restore = to_tensors(weights=weights, ndim=1)
    return restore(w.detach() ** 2 / (2 * _diagonal(w, inverse_fisher)))


def inverse_fisher_compensation(weights: Array, inverse_fisher: Inverse, pruned: Array) -> Any:
    r"""The change of all weights that removes some and makes up for it in the others, to second order.

    Each removed weight asks for its own change, as though it alone were removed, and the changes are added,

    .. math:: \delta = - \sum_{i \text{ pruned}} \frac{w_i}{[F^{-1}]_{ii}} F^{-1} e_i,

    which is one product with the inverse; then :math:`w + \delta` is set to zero at the removed ones.

    Parameters
    ----------
    weights : array_like or Tensor of shape (d,)
        The weights w.
    inverse_fisher : InverseFisher
        The inverse, or anything else with its ``diagonal`` and ``multiply``.
    pruned : array_like or Tensor of bool, of shape (d,)
        Which weights are removed.

    Returns
    -------
    ndarray or Tensor of shape (d,)
        The change, which is minus the weight at the removed ones.

    Raises
    ------
    ValueError
        If shapes differ, or ``weights`` are NaN or infinite.
    TypeError
        If ``weights`` do not hold floating-point numbers, or ``pruned`` is not of bool.

    References
    ----------
    Elias Frantar, Eldar Kurtic, Dan Alistarh. "M-FAC: Efficient Matrix-Free Approximations of Second-Order
    Information". NeurIPS 2021. arXiv:2107.03356.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import InverseFisher, inverse_fisher_compensation
    >>> gradients = np.array([[1.0, 1.0], [1.0, 1.0]])  # only the sum of both weights matters
    >>> inverse = InverseFisher(gradients, damping=1e-6)
    >>> change = inverse_fisher_compensation(np.array([1.0, 2.0]), inverse, np.array([True, False]))
    >>> change.round(4).tolist()
    [-1.0, 1.0]
    """
    (w,), restore = to_tensors(weights=weights, ndim=1)
    w, removed = w.detach(), torch.as_tensor(pruned, device=w.device)
    if removed.dtype != torch.bool:
        raise TypeError(f"pruned must hold bools, got {removed.dtype}")
    if removed.shape != w.shape:
        raise ValueError(f"pruned must have the shape of weights, {tuple(w.shape)}, got {tuple(removed.shape)}")
    x = torch.where(removed, w / _diagonal(w, inverse_fisher), torch.zeros_like(w))
    delta = -torch.as_tensor(inverse_fisher.multiply(x)).to(w)
    return restore(torch.where(removed, -w, delta))


def prune_with_inverse_fisher(
    module: nn.Module,
    loss_batches: Sequence[LossBatch],
    sparsity: float,
    *,
    n_gradients: int = 64,
    damping: float = 1e-5,
    block_size: int | None = 128,
    n_recomputations: int = 16,
    schedule: Schedule = "exponential",
    layers: Sequence[str] | None = None,
    pages: int = 1,
    progress: bool = True,
) -> tuple[nn.Module, PruningReport]:
    r"""Set most weights of a module to zero, those that its loss misses least, and let the others make up for them.

    Several times on the way to ``sparsity``, gradients are taken at the present weights, the weights with the lowest
    scores (`inverse_fisher_saliency`) in all layers together are removed, and the others are changed
    (`inverse_fisher_compensation`). Weights that are zero already count as removed: they stay zero, and the schedule
    starts from their share. So sparsities can be reached one after another, with training in between that keeps zeros
    (`keep_zeros`, or ``MatrixFreeFisherOptimizer(sparse=True)``). After an interrupt, too, the module is as the last
    complete step left it, and can be pruned on.

    Parameters
    ----------
    module : Module
        The network, which is changed in place: removed weights are exact zeros, and it saves and loads as before.
    loss_batches : sequence of callables or of (loss, inputs, targets)
        Minibatches of training data, as for `collect_gradients`. Each recomputation goes on where the last one stopped.
    sparsity : float
        Share of zeros to reach, at least 0 and less than 1.
    n_gradients : int, default 64
        m, the gradients that the Fisher matrix is made of.
    damping : float, default 1e-5
        lambda, greater than 0.
    block_size : int, optional
        Size of blocks on the diagonal outside which the Fisher matrix is taken to be zero, 128 by default; None keeps
        all of it.
    n_recomputations : int, default 16
        Steps to the sparsity, each with gradients and an inverse of its own.
    schedule : {"exponential", "polynomial"}, default "exponential"
        Whether the share of weights that are left falls by the same factor each time, or the sparsity rises as a cubic
        that flattens out.
    layers : sequence of str, optional
        Names of modules whose weights are meant, or of single parameters. None means all weights of two axes or more,
        but those of embeddings and normalisations; biases are never meant unless named.
    pages : int, default 1
        With more than one, gradients are kept in the memory of the CPU, and one part of their columns at a time is
        worked on where the weights are.
    progress : bool, default True
        Whether to show a bar.

    Returns
    -------
    module : Module
        The same module.
    report : PruningReport
        What changed.

    Raises
    ------
    ValueError
        If ``sparsity`` is outside [0, 1) or less than what the module has, ``loss_batches`` is empty, a name is
        unknown, or a number is out of its range.
    TypeError
        If an argument has the wrong type.
    FloatingPointError
        If a gradient is NaN or infinite; the message names the batch, and the module keeps the last complete step.
    MemoryError
        If the gradients would not fit.

    Warns
    -----
    RuntimeWarning
        If the precision of the gradients does not do for so small a damping.

    References
    ----------
    Elias Frantar, Eldar Kurtic, Dan Alistarh. "M-FAC: Efficient Matrix-Free Approximations of Second-Order
    Information". NeurIPS 2021. arXiv:2107.03356.

    Examples
    --------
    >>> import torch
    >>> from paperworks.optimization import prune_with_inverse_fisher
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.randn(512, 8, generator=generator)
    >>> y = x[:, :2] @ torch.tensor([[1.0], [-2.0]]) + 0.1 * torch.randn(512, 1, generator=generator)
    >>> module = torch.nn.Linear(8, 1)
    >>> with torch.no_grad():
    ...     solution = torch.linalg.lstsq(x, y).solution
    ...     _ = (module.weight.copy_(solution.T), module.bias.zero_())
    >>> loss = torch.nn.functional.mse_loss
    >>> module, report = prune_with_inverse_fisher(module, [(loss, x, y)], 0.75, n_gradients=512, n_recomputations=2)
    >>> torch.nonzero(module.weight)[:, 1].tolist(), report.sparsity
    ([0, 1], 0.75)
    """
    batches = checked_batches(loss_batches)
    goal = check_number("sparsity", sparsity, at_least=0.0)
    if goal >= 1:
        raise ValueError(f"sparsity must be at least 0 and less than 1, got {sparsity!r}")
    check_choice("schedule", schedule, ("exponential", "polynomial"))
    parameters = chosen_parameters(module, layers)
    weights = _Weights(parameters)
    counts = _remaining(weights, goal, schedule, check_integer("n_recomputations", n_recomputations))
    first = batches[: check_integer("n_gradients", n_gradients)]
    history: dict[str, list[float]] = {"sparsity": [], "loss": [], "gradients": [], "seconds": []}
    begin, loss_before = perf_counter(), mean_loss(module, first)
    stream = cycle(enumerate(batches))
    home = weights.device if pages == 1 else torch.device("cpu")
    for step, count in enumerate(progress_bar(counts, "pruning", progress)):
        G, loss = gradients_and_loss(module, stream, n_gradients, parameters, weights.kept, home, False)
        _note(history, weights, loss, step * n_gradients, perf_counter() - begin)
        inverse = InverseFisher(G, damping, block_size, pages, weights.device, overwrite_gradients=True)
        with interrupts_between_steps():
            weights.prune(inverse, count)
    loss_after = mean_loss(module, first)
    seconds = perf_counter() - begin
    _note(history, weights, loss_after, len(counts) * n_gradients, seconds)
    report = PruningReport(
        weights.sparsity,
        {name: float((each == 0).double().mean()) for name, each in parameters.items()},
        loss_before,
        loss_after,
        seconds,
        {key: tuple(values) for key, values in history.items()},
    )
    return module, report


def keep_zeros(
    module: nn.Module, optimizer: torch.optim.Optimizer, layers: Sequence[str] | None = None
) -> RemovableHandle:
    """Keep weights that are zero at zero, after every step of any optimizer.

    Parameters
    ----------
    module : Module
        A pruned network.
    optimizer : Optimizer
        The optimizer that trains it.
    layers : sequence of str, optional
        Names of modules whose weights are meant, or of single parameters; as for `prune_with_inverse_fisher`.

    Returns
    -------
    RemovableHandle
        Its ``remove()`` lets the weights go.

    Raises
    ------
    ValueError
        If a name is unknown.
    TypeError
        If ``module`` is none.

    References
    ----------
    Elias Frantar, Eldar Kurtic, Dan Alistarh. "M-FAC: Efficient Matrix-Free Approximations of Second-Order
    Information". NeurIPS 2021. arXiv:2107.03356.

    Examples
    --------
    >>> import torch
    >>> from paperworks.optimization import keep_zeros
    >>> module = torch.nn.Linear(2, 1, bias=False)
    >>> _ = module.weight.data.copy_(torch.tensor([[0.0, 1.0]]))
    >>> optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    >>> handle = keep_zeros(module, optimizer)
    >>> module(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> module.weight.tolist()
    [[0.0, 0.5]]
    """
    zeros = [(each, each.detach() == 0) for each in chosen_parameters(module, layers).values()]

    @torch.no_grad()
    def restore(*_: Any) -> None:
        for weight, removed in zeros:
            weight.masked_fill_(removed, 0.0)

    return optimizer.register_step_post_hook(restore)


class _Weights:
    """All weights that are pruned together, as one vector of those that are left."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self.parameters = list(parameters.values())
        self.device = self.parameters[0].device
        self.kept = self._vector() != 0

    @property
    def sparsity(self) -> float:
        return 1 - float(self.kept.double().mean())

    @torch.no_grad()
    def prune(self, inverse: InverseFisher, count: int) -> None:
        """Keep the ``count`` weights with the highest scores, and change them."""
        vector = self._vector()
        w = vector[self.kept].to(torch.promote_types(vector.dtype, torch.float32))
        order = torch.argsort(inverse_fisher_saliency(w, inverse).to(w.device), stable=True)
        removed = torch.zeros_like(w, dtype=torch.bool)
        removed[order[: len(w) - count]] = True
        w += inverse_fisher_compensation(w, inverse, removed)
        vector[self.kept] = w.to(vector)
        self.kept[self.kept.clone()] = ~removed
        start = 0
        for each in self.parameters:
            each.copy_(vector[start : start + each.numel()].reshape(each.shape))
            start += each.numel()

    def _vector(self) -> Tensor:
        return torch.cat([each.detach().reshape(-1).to(self.device) for each in self.parameters])


def _remaining(weights: _Weights, goal: float, schedule: Schedule, steps: int) -> list[int]:
    """How many weights are left after each step; steps that would remove none are left out."""
    total, left = weights.kept.numel(), int(weights.kept.sum())
    start, end = 1 - left / total, round(total * (1 - goal))
    if end > left:
        raise ValueError(f"sparsity must be at least that of the module, {start:.6g}, got {goal:g}")
    counts = []
    for j in range(1, steps + 1):
        if schedule == "exponential":
            density = (1 - start) * ((1 - goal) / (1 - start)) ** (j / steps)
        else:
            density = 1 - goal + (goal - start) * (1 - j / steps) ** 3
        counts.append(end if j == steps else round(total * density))
    return [count for count, before in zip(counts, [left, *counts], strict=False) if count < before]


def _note(history: dict[str, list[float]], weights: _Weights, loss: float, gradients: int, seconds: float) -> None:
    values = {"sparsity": weights.sparsity, "loss": loss, "gradients": float(gradients), "seconds": seconds}
    for key, value in values.items():
        history[key].append(value)


def _diagonal(w: Tensor, inverse_fisher: Inverse) -> Tensor:
    diagonal = torch.as_tensor(inverse_fisher.diagonal()).to(w)
    if diagonal.shape != w.shape:
        raise ValueError(f"weights must have one number for each of the inverse's rows, got {tuple(w.shape)} for "
                         f"{tuple(diagonal.shape)}")  # fmt: skip
    return diagonal
