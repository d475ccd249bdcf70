"""Training of sparse autoencoders: Adam under unit directions, and features that died drawn anew."""

import math
from typing import Any

import torch
from accelerate import Accelerator
from numpy.typing import ArrayLike
from torch import Tensor, nn

from paperworks._progress import progress_bar
from paperworks._random import RandomState, integer_seed
from paperworks._tensors import to_tensors
from paperworks._training import interrupts_between_steps, start_training
from paperworks._validation import check_integer, check_number
from paperworks.sparse.sparse_autoencoder_evaluation._autoencoder import SparseAutoencoder

DEFAULT_STEPS = 10_000
# Features that did not fire since the last look are drawn anew at these parts of the training: early enough to settle.
RESAMPLED_AT = (0.125, 0.25, 0.375, 0.5)
WARM_UP_STEPS, WARM_UP_FROM = 100, 0.1
ENCODER_SHARE = 0.2
RESAMPLING_ROWS = 8192
# Below this the looks would stand closer than the warm-up after each.
LEAST_RESAMPLED = 800
READ_EVERY = 500


def train_sparse_autoencoder(
    module: SparseAutoencoder,
    activations: ArrayLike | Tensor,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 512,
    learning_rate: float = 3e-4,
    resample: bool = True,
    random_state: RandomState = None,
    progress: bool = True,
    accelerator: Accelerator | None = None,
    *,
    gradients: ArrayLike | Tensor | None = None,
    warm_start: bool = False,
    device: str | torch.device = "auto",
) -> dict[str, list[float]]:
    """Train a sparse autoencoder on activations, in place.

    Adam with the decoder's rows held at norm 1: the part of the gradient along a row is taken out, and the row is
    normalised after each step. The step size falls to zero over the last quarter. At an eighth, a quarter, three
    eighths and half of the steps, features that have not been active since the last time are drawn anew from examples
    that are reconstructed badly (in trainings of at least 800 steps).

    Ctrl-C takes effect between two steps: the module keeps the last complete one and KeyboardInterrupt is raised.
    Calling this again with ``warm_start=True`` and the other arguments unchanged goes on to exactly what an
    uninterrupted training gives.

    Parameters
    ----------
    module : SparseAutoencoder
        What to train. It stays where training put it: call ``module.cpu()`` to bring it back from a GPU.
    activations : array_like or Tensor, (n_samples, input_dim)
        Activations as the model has them; floating point.
    epochs : int, optional
        Passes over the activations, in place of ``steps``. The paper takes 1500 to 2000.
    steps : int, optional
        Training steps in all, those of earlier warm-started calls included. Default 10,000.
    batch_size : int, default 512
        Activations in a step.
    learning_rate : float, default 3e-4
        Step size of Adam.
    resample : bool, default True
        Draw dead features anew.
    random_state : None, int, Generator or RandomState, optional
        Where initial weights, batches and resampling come from. A warm start goes on with the first call's.
    progress : bool, default True
        Show a bar.
    accelerator : accelerate.Accelerator, optional
        One that is already set up, such as for mixed precision; decides on the device.
    gradients : array_like or Tensor, (n_samples, input_dim), optional
        Gradient of the task's score by each activation, as `collect_gradients` gives; for ``"attribution"`` only.
    warm_start : bool, default False
        Go on from the module's weights, scale and step count, rather than from new weights.
    device : str or torch.device, default "auto"
        ``"auto"`` takes a GPU where there is one.

    Returns
    -------
    dict of str to list of float
        ``"loss"``, ``"reconstruction"`` (mean squared distance, scaled so that activations have mean square norm near
        d) and ``"active"`` (features of one activation) of each step; also kept as ``module.history_``.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If shapes do not match, an argument is out of range, both ``epochs`` and ``steps`` are given, or the gradients
        are missing or not for this variant.
    FloatingPointError
        If the loss is not finite any more.

    References
    ----------
    Aleksandar Makelov, George Lange, Neel Nanda. "Towards Principled Evaluations of Sparse Autoencoders for
    Interpretability and Control". ICLR 2025. arXiv:2405.08366.

    Examples
    --------
    >>> from paperworks.sparse import SparseAutoencoder, occlusion_data, train_sparse_autoencoder
    >>> activations, labels = occlusion_data(2000, 8, 16, random_state=0)
    >>> autoencoder = SparseAutoencoder(16, 16, l1=1.0)
    >>> history = train_sparse_autoencoder(
    ...     autoencoder, activations, steps=200, batch_size=128, learning_rate=3e-3, random_state=0, progress=False
    ... )
    >>> history["loss"][-1] < history["loss"][0]
    True
    """
    check_integer("batch_size", batch_size)
    check_number("learning_rate", learning_rate, above=0)
    a, g = _check_data(module, activations, gradients)
    total = _total_steps(epochs, steps, max(1, len(a) // batch_size))
    if not warm_start or module.steps_trained == 0:
        _start(module, a, integer_seed(random_state))
    adam = torch.optim.Adam(module.parameters(), lr=learning_rate, betas=(0.9, 0.999), fused=True)
    accelerator, place, objective, optimizer = _prepare(module, adam, accelerator, device)
    record = _Record(module, adam, place)
    x = a.to(place) / module.scale
    # By the chain rule the score's slope by a / s is s times that by a.
    slopes = None if g is None else g.to(place) * module.scale
    # Each process of a distributed training draws batches of its own.
    batches = _Batches(len(x), batch_size, int(module.seed) + accelerator.process_index, place)
    looks = {int(share * total) for share in RESAMPLED_AT if resample and total >= LEAST_RESAMPLED}
    bar = progress_bar(range(int(module.steps_trained), total), f"autoencoder ({module.variant})", progress)
    try:
        with interrupts_between_steps() as take_interrupt:
            for step in bar:
                if step in looks:
                    dead = accelerator.reduce(record.seen, "sum") == 0
                    _draw_anew(module, adam, x, dead, torch.Generator().manual_seed(int(module.seed) + step))
                    record.start_look(step, bool(dead.any()))
                for group in adam.param_groups:
                    group["lr"] = learning_rate * _schedule(step, total, record.redrawn_at)
                chosen = batches.of_step(step)
                loss, reconstruction, active = objective(x[chosen], None if slopes is None else slopes[chosen])
                optimizer.zero_grad()
                accelerator.backward(loss)
                _take_out_radial_part(module)
                optimizer.step()
                _normalise_rows(module)
                record.add(loss, reconstruction, active, len(chosen))
                take_interrupt()
    finally:
        record.store()
    return module.history_


class _Objective(nn.Module):
    """The loss as a module's forward pass, so that a distributed wrapper takes part in it."""

    def __init__(self, autoencoder: SparseAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, x: Tensor, gradients: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        losses = self.autoencoder.losses(x, gradients)
        return losses.total, losses.reconstruction, losses.active


class _Batches:
    """Rows of each step: a new order every epoch, which depends on the seed and the step alone."""

    def __init__(self, n: int, batch_size: int, seed: int, place: torch.device) -> None:
        self.n, self.size, self.seed, self.place = n, min(batch_size, n), seed, place
        self.epoch = -1
        self.order = torch.empty(0)

    def of_step(self, step: int) -> Tensor:
        epoch, position = divmod(step, self.n // self.size)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed + 1_000_003 * (epoch + 1))
            self.epoch, self.order = epoch, torch.randperm(self.n, generator=generator).to(self.place)
        return self.order[position * self.size : (position + 1) * self.size]


class _Record:
    """What a training leaves in the module: its history, and what a warm start needs besides the weights.

    Losses stay on the device until they are read in blocks, so that steps do not wait for them.
    """

    def __init__(self, module: SparseAutoencoder, adam: torch.optim.Adam, place: torch.device) -> None:
        self.module, self.adam = module, adam
        self.unread: list[Tensor] = []
        self.seen = torch.zeros(module.n_features, dtype=torch.int64, device=place)
        self.redrawn_at: int | None = None
        if module.training_state_ is not None:
            adam.load_state_dict(module.training_state_["adam"])
            self.seen = module.training_state_["seen"].to(place)
            self.redrawn_at = module.training_state_["redrawn_at"]

    def start_look(self, step: int, any_redrawn: bool) -> None:
        self.seen = torch.zeros_like(self.seen)
        self.redrawn_at = step if any_redrawn else self.redrawn_at

    def add(self, loss: Tensor, reconstruction: Tensor, active: Tensor, batch_size: int) -> None:
        self.seen += active
        self.unread.append(torch.stack([loss.detach(), reconstruction, active.sum() / batch_size]))
        self.module.steps_trained += 1
        if len(self.unread) == READ_EVERY:
            self.read()

    def read(self) -> None:
        rows = torch.stack(self.unread).tolist() if self.unread else []
        self.unread = []
        for key, values in zip(("loss", "reconstruction", "active"), zip(*rows, strict=True), strict=False):
            self.module.history_[key].extend(values)
        if rows and not all(math.isfinite(loss) for loss, _, _ in rows):
            raise FloatingPointError("the loss is not finite any more: lower learning_rate")

    def store(self) -> None:
        self.module.training_state_ = {
            "adam": self.adam.state_dict(), "seen": self.seen, "redrawn_at": self.redrawn_at,
        }  # fmt: skip
        self.read()


def _check_data(
    module: SparseAutoencoder, activations: ArrayLike | Tensor, gradients: ArrayLike | Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return activations and gradients in the module's precision."""
    if not isinstance(module, SparseAutoencoder):
        raise TypeError(f"module must be a SparseAutoencoder, got {type(module).__name__}")
    if (gradients is None) == (module.variant == "attribution"):
        raise ValueError(
            f"gradients belong to variant 'attribution', and must be given there; the module is {module.variant!r}"
        )
    tensors, _ = to_tensors(activations=activations, gradients=gradients, ndim=2)
    for name, tensor in zip(("activations", "gradients"), tensors, strict=False):
        if tensor.shape[1] != module.input_dim:
            raise ValueError(f"{name} must have {module.input_dim} columns, as the module has; got {tensor.shape[1]}")
    a, *g = (tensor.detach().to(module.decoder_weight.dtype) for tensor in tensors)
    if g and len(g[0]) != len(a):
        raise ValueError(f"activations have {len(a)} rows, gradients have {len(g[0])}")
    return a, g[0] if g else None


def _total_steps(epochs: int | None, steps: int | None, per_epoch: int) -> int:
    if epochs is not None and steps is not None:
        raise ValueError(f"give epochs or steps, not both; got epochs={epochs!r}, steps={steps!r}")
    if epochs is not None:
        return check_integer("epochs", epochs) * per_epoch
    return DEFAULT_STEPS if steps is None else check_integer("steps", steps)


@torch.no_grad()
def _start(module: SparseAutoencoder, a: Tensor, seed: int) -> None:
    """Set scale and weights of a new training; the decoder's bias starts at the mean, where the L1 term takes it."""
    mean_norm = a.double().norm(dim=1).mean()
    if not mean_norm > 0:
        raise ValueError("activations are all zero")
    module.scale.fill_(float(mean_norm) / math.sqrt(module.input_dim))
    module.seed.fill_(seed)
    module.steps_trained.zero_()
    module.history_ = {"loss": [], "reconstruction": [], "active": []}
    module.training_state_ = None
    module.draw_weights(torch.Generator().manual_seed(seed))
    module.decoder_bias.copy_(a.double().mean(dim=0) / module.scale)


def _prepare(
    module: SparseAutoencoder, adam: torch.optim.Adam, accelerator: Accelerator | None, device: str | torch.device
) -> tuple[Accelerator, torch.device, nn.Module, Any]:
    objective = _Objective(module)
    if accelerator is None:
        accelerator, place, (prepared, optimizer) = start_training(device, objective, adam)
        return accelerator, place, prepared, optimizer
    prepared, optimizer = accelerator.prepare(objective.to(accelerator.device), adam)
    return accelerator, accelerator.device, prepared, optimizer


def _schedule(step: int, total: int, redrawn_at: int | None) -> float:
    """Share of the learning rate: down to zero over the last quarter, up again after features were drawn anew."""
    share = min(1.0, 4 * (total - step) / total)
    if redrawn_at is None or step - redrawn_at >= WARM_UP_STEPS:
        return share
    return share * (WARM_UP_FROM + (1 - WARM_UP_FROM) * (step - redrawn_at) / WARM_UP_STEPS)


@torch.no_grad()
def _take_out_radial_part(module: SparseAutoencoder) -> None:
    """Keep of the decoder's gradient what is tangent to the unit sphere of each row."""
    rows, gradient = module.decoder_weight, module.decoder_weight.grad
    if gradient is not None:
        gradient -= torch.linalg.vecdot(gradient, rows)[:, None] * rows


@torch.no_grad()
def _normalise_rows(module: SparseAutoencoder) -> None:
    module.decoder_weight.div_(torch.linalg.vector_norm(module.decoder_weight, dim=1, keepdim=True))


@torch.no_grad()
def _draw_anew(
    module: SparseAutoencoder, adam: torch.optim.Adam, x: Tensor, dead: Tensor, generator: torch.Generator
) -> None:
    """Point dead features at examples that are reconstructed badly, chosen with odds as their squared loss."""
    n_dead = int(dead.sum())
    if not n_dead:
        return
    rows = x[torch.randperm(len(x), generator=generator)[:RESAMPLING_ROWS].to(x.device)]
    error = (rows - module(rows * module.scale) / module.scale).square().sum(dim=1)
    # Every example that is reconstructed to the last bit leaves nothing to choose by.
    odds = error.double().square().cpu() + torch.finfo(torch.float64).tiny
    chosen = rows[torch.multinomial(odds, n_dead, replacement=n_dead > len(rows), generator=generator).to(x.device)]
    directions = nn.functional.normalize(chosen - module.decoder_bias, dim=1)
    alive = module.encoder_weight[:, ~dead]
    norm = ENCODER_SHARE * float(alive.norm(dim=0).mean()) if alive.shape[1] else 1.0
    # A vector of zeros has no direction: such a feature keeps its own.
    usable = directions.norm(dim=1) > 0.5
    which = torch.nonzero(dead)[:, 0][usable]
    module.decoder_weight[which] = directions[usable]
    module.encoder_weight[:, which] = norm * directions[usable].T
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1 and name != "decoder_bias":
            parameter[which] = 0.0
        moments = [adam.state[parameter][key] for key in ("exp_avg", "exp_avg_sq")] if parameter in adam.state else []
        for moment in moments:
            if name == "encoder_weight":
                moment[:, which] = 0.0
            elif name != "decoder_bias":
                moment[which] = 0.0
