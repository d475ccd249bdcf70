"""Gradients of a module's losses, one a row: what the Fisher matrix is made of."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from paperworks._progress import progress_bar
from paperworks._validation import check_integer
from paperworks.optimization.matrix_free_fisher._factor import require_memory

LossBatch = Callable[[], Tensor] | tuple[Callable[[Any, Any], Tensor], Tensor, Tensor]
Row = tuple[Tensor, float]

_NORMS = (
    nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.Embedding, nn.EmbeddingBag
)  # fmt: skip


def collect_gradients(
    module: nn.Module,
    loss_batches: Sequence[LossBatch],
    n_gradients: int = 64,
    *,
    layers: Sequence[str] | None = None,
    kept: Tensor | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Tensor:
    r"""Gradients of a module's loss on one batch after another, as rows of the matrix G of a Fisher matrix.

    The module is in evaluation mode meanwhile, and neither its weights nor their ``grad`` change.

    Parameters
    ----------
    module : Module
        The network.
    loss_batches : sequence of callables or of (loss, inputs, targets)
        Callables without arguments return the mean loss of a minibatch at the module's weights, each of which gives one
        row. A triple stands for a batch whose every sample gives a row of its own, by ``torch.func``: ``inputs`` and
        ``targets`` have samples in their first axis, and ``loss(module(inputs), targets)`` is their mean loss. They are
        used in turn, and again from the start, until there are rows enough.
    n_gradients : int, default 64
        m, the number of rows.
    layers : sequence of str, optional
        Names of modules, whose weights of two axes or more are meant, or of single parameters. None means all such
        weights, but those of embeddings and normalisations.
    kept : Tensor of bool of shape (d,), optional
        Which of the weights, all in one vector, have a column; all if not given.
    device : torch.device or str, optional
        Where G is made; where the weights are if not given.
    progress : bool, default True
        Whether to show a bar.

    Returns
    -------
    Tensor of shape (m, d)
        Gradients, with columns in the order of ``module.named_parameters()``.

    Raises
    ------
    ValueError
        If ``loss_batches`` is empty, a name is unknown, ``kept`` has the wrong shape, or a loss is no single number or
        does not depend on the weights.
    TypeError
        If a loss is no tensor, or an argument has the wrong type.
    FloatingPointError
        If a gradient is NaN or infinite; the message names the batch.
    MemoryError
        If G would not fit.

    References
    ----------
    Elias Frantar, Eldar Kurtic, Dan Alistarh. "M-FAC: Efficient Matrix-Free Approximations of Second-Order
    Information". NeurIPS 2021. arXiv:2107.03356.

    Examples
    --------
    >>> import torch
    >>> from paperworks.optimization import collect_gradients
    >>> module = torch.nn.Linear(2, 1)
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> collect_gradients(module, [lambda: module(x[:1]).mean(), lambda: module(x).mean()], n_gradients=3)
    tensor([[1., 2.],
            [2., 3.],
            [1., 2.]])
    """
    parameters = chosen_parameters(module, layers)
    batches = cycle(enumerate(checked_batches(loss_batches)))
    G, _ = gradients_and_loss(module, batches, n_gradients, parameters, kept, device, progress)
    return G


def chosen_parameters(module: nn.Module, layers: Sequence[str] | None) -> dict[str, Tensor]:
    """The parameters that are meant, by name."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    parameters = dict(module.named_parameters())
    left_out = {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if isinstance(part, _NORMS)
        for name, _ in part.named_parameters(recurse=False)
    }
    weights = [name for name, each in parameters.items() if each.ndim >= 2 and name not in left_out]
    if layers is not None:
        if isinstance(layers, str):
            raise TypeError(f"layers must be a sequence of names, got the string {layers!r}")
        known = {name for name, _ in module.named_modules()} | set(parameters)
        if unknown := [name for name in layers if name not in known]:
            raise ValueError(f"layers names {unknown[0]!r}; there are {', '.join(sorted(known - {''}))}")
        weights = [
            name
            for name, each in parameters.items()
            if name in layers or (each.ndim >= 2 and any(name.startswith(f"{layer}.") for layer in layers))
        ]
    if not weights:
        raise ValueError("module has no weights of two axes or more" + (f" in layers {list(layers)}" if layers else ""))
    return {name: parameters[name] for name in weights}


def checked_batches(loss_batches: Sequence[LossBatch]) -> list[LossBatch]:
    """The batches as a list, none of them anything but a callable or a triple."""
    if callable(loss_batches) or not isinstance(loss_batches, Iterable):
        raise TypeError(f"loss_batches must be a list of callables or triples, got {type(loss_batches).__name__}")
    batches = list(loss_batches)
    if not batches:
        raise ValueError("loss_batches is empty: at least one batch is needed")
    for k, batch in enumerate(batches):
        if not callable(batch) and not (isinstance(batch, tuple) and len(batch) == 3 and callable(batch[0])):
            raise TypeError(
                f"loss_batches[{k}] must be callable or (loss, inputs, targets), got {type(batch).__name__}"
            )
    return batches


def mean_loss(module: nn.Module, batches: Iterable[LossBatch]) -> float:
    """Mean of the batches' losses at the module's weights, in evaluation mode."""
    with evaluating(module), torch.no_grad():
        losses = [float(each() if callable(each) else each[0](module(each[1]), each[2])) for each in batches]
    return sum(losses) / len(losses)


def gradients_and_loss(
    module: nn.Module,
    batches: Iterator[tuple[int, LossBatch]],
    n_gradients: int,
    parameters: dict[str, Tensor],
    kept: Tensor | None,
    device: torch.device | str | None,
    progress: bool,
) -> tuple[Tensor, float]:
    """G and the mean loss of its rows, from as many of the batches as that takes."""
    m, weights = check_integer("n_gradients", n_gradients), list(parameters.values())
    home = weights[0].device if device is None else torch.device(device)
    columns = sum(each.numel() for each in weights)
    if kept is not None:
        if kept.dtype != torch.bool or kept.shape != (columns,):
            raise ValueError(f"kept must be bool of shape ({columns},), got {kept.dtype} of {tuple(kept.shape)}")
        kept = kept.to(home)
        columns = int(kept.sum())
    dtype = torch.float32 if all(each.dtype.itemsize < 8 for each in weights) else torch.float64
    require_memory(
        f"{m} gradients of {columns:,} weights", m * columns * dtype.itemsize, home,
        "take fewer gradients or layers, or keep them elsewhere",
    )  # fmt: skip
    G = torch.empty(m, columns, dtype=dtype, device=home)
    losses: list[float] = []
    with evaluating(module), progress_bar(range(m), "gradients", progress) as bar:
        while len(losses) < m:
            k, batch = next(batches)
            for row, loss in _rows(module, k, batch, parameters, m - len(losses)):
                row = row.to(home, dtype)
                if not bool(torch.isfinite(row).all()):
                    raise FloatingPointError(
                        f"the gradient of loss_batches[{k}] is NaN or infinite, its loss is {loss:g}"
                    )
                G[len(losses)] = row if kept is None else row[kept]
                losses.append(loss)
                bar.update()
    return G, sum(losses) / m


def _rows(module: nn.Module, k: int, batch: LossBatch, parameters: dict[str, Tensor], most: int) -> Iterator[Row]:
    """The rows that a batch gives, each with its loss."""
    if callable(batch):
        yield _minibatch_row(k, batch, list(parameters.values()))
    else:
        yield from _sample_rows(module, k, batch, parameters, most)


def _minibatch_row(k: int, batch: Callable[[], Tensor], weights: list[Tensor]) -> Row:
    with torch.enable_grad():
        loss = batch()
        if not isinstance(loss, Tensor):
            raise TypeError(f"loss_batches[{k}] must return a tensor, got {type(loss).__name__}")
        if loss.numel() != 1:
            raise ValueError(f"loss_batches[{k}] must return one number, the mean loss, got shape {tuple(loss.shape)}")
        if not loss.requires_grad:
            raise ValueError(f"loss_batches[{k}] must depend on the weights, got a loss without a graph")
        gradients = torch.autograd.grad(loss.sum(), weights, allow_unused=True, materialize_grads=True)
    return torch.cat([each.reshape(-1).to(gradients[0].device) for each in gradients]), float(loss.detach())


def _sample_rows(
    module: nn.Module,
    k: int,
    batch: tuple[Callable[[Any, Any], Tensor], Tensor, Tensor],
    parameters: dict[str, Tensor],
    most: int,
) -> Iterator[Row]:
    loss, inputs, targets = batch
    if len(inputs) != len(targets) or not len(inputs):
        raise ValueError(
            f"loss_batches[{k}] must have as many inputs as targets, and some, got {len(inputs)} and {len(targets)}"
        )

    def loss_of_one(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        value = loss(functional_call(module, weights, (x[None],)), y[None])
        return value, value.detach()

    detached = {name: each.detach() for name, each in parameters.items()}
    per_sample = vmap(grad(loss_of_one, has_aux=True), in_dims=(None, 0, 0))
    gradients, losses = per_sample(detached, inputs[:most], targets[:most])
    flat = torch.cat([each.reshape(len(losses), -1) for each in gradients.values()], dim=1)
    yield from zip(flat, losses.tolist(), strict=True)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each part goes back to the mode that it was in."""
    before = [(part, part.training) for part in module.modules()]
    try:
        # Not by eval(), which modules that come from torch.export lack.
        for part, _ in before:
            part.training = False
        yield
    finally:
        for part, mode in before:
            part.training = mode
