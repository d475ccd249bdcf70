"""Data hyper-cleaning: a weight for every training sample, found where the model fits clean samples best."""

from dataclasses import dataclass, field
from math import isfinite, sqrt
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult
from scipy.special import expit
from torch import Tensor, nn

from paperworks._progress import progress_bar
from paperworks._random import RandomState, numpy_generator
from paperworks._training import interrupts_between_steps, start_training
from paperworks._validation import check_integer, check_number
from paperworks.optimization.unbounded_smooth_bilevel._classifiers import ModuleClassifier, SoftmaxRegression
from paperworks.optimization.unbounded_smooth_bilevel._hypergradient import COUNTS, Products
from paperworks.optimization.unbounded_smooth_bilevel._iteration import Schedule, Settings, check_products
from paperworks.optimization.unbounded_smooth_bilevel._sparse_momentum import SparseMomentum

Array = NDArray[np.floating[Any]]
HISTORY = ("upper_loss", "momentum_norm", "passes", "seconds")
# Root mean square step of the logits where no upper_lr is given.
STEP_OF_A_LOGIT = 0.01


@dataclass
class Cleaning:
    """A run of hyper-cleaning, which can be gone on with.

    Attributes
    ----------
    logits : SparseMomentum
        x, whose sigmoids are the weights, and its momentum.
    y, z : array or Tensor
        Parameters of the model, and the solution of the linear system.
    n_steps : int
        Steps made.
    counts : dict
        What was evaluated.
    history : dict of list
        An entry a step, by the names of `HISTORY`.
    """

    logits: SparseMomentum
    y: Any
    z: Any
    n_steps: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in HISTORY})
    samples: int = 0
    seconds: float = 0.0

    def result(self) -> OptimizeResult:
        """The weights and how they came about."""
        logits = self.logits.all()
        weights = expit(logits)
        return OptimizeResult(
            x=logits,
            sample_weight=weights,
            suspect_score=1 - weights,
            fun=self.history["upper_loss"][-1],
            nit=self.n_steps,
            success=True,
            status=0,
            message=f"all {self.n_steps} steps made",
            history={name: np.array(entries) for name, entries in self.history.items()},
            **{f"n_{name}": count for name, count in self.counts.items()},
        )


def begin(problem: SoftmaxRegression | ModuleClassifier, momentum: float) -> Cleaning:
    """A run before its first step: all weights are a half."""
    y = problem.start()
    return Cleaning(SparseMomentum(problem.n, momentum), y, 0.0 * y)


def default_upper_lr(upper_lr: float | None, n: int) -> float:
    """eta, by default such that the logits' root mean square step does not depend on how many there are."""
    return STEP_OF_A_LOGIT * sqrt(n) if upper_lr is None else check_number("upper_lr", upper_lr, above=0.0)


def go_on(
    problem: SoftmaxRegression | ModuleClassifier,
    run: Cleaning,
    settings: Settings,
    n_steps: int,
    batch_size: int,
    generator: np.random.Generator,
    progress: bool,
    verbose: bool = False,
) -> None:
    """Make steps of BO-REP, in place; an interrupt leaves the last complete one."""
    batches = _Batches(problem, run, batch_size, generator)
    begin = perf_counter() - run.seconds
    with interrupts_between_steps() as take_interrupts:
        if run.n_steps == 0:
            _refine(problem, run, settings, batches)
        for _ in progress_bar(range(n_steps), "hyper-cleaning", progress):
            take_interrupts()
            value, length = _step(problem, run, settings, batches)
            run.seconds = perf_counter() - begin
            found = (value, length, run.samples / problem.n, run.seconds)
            for name, entry in zip(HISTORY, found, strict=True):
                run.history[name].append(entry)
            if verbose:
                print(f"step {run.n_steps}: upper loss {value:.6g}, norm of the momentum {length:.3g}")


class _Batches:
    """Rows drawn anew for everything that is estimated, with their weights."""

    def __init__(
        self,
        problem: SoftmaxRegression | ModuleClassifier,
        run: Cleaning,
        batch_size: int,
        generator: np.random.Generator,
    ) -> None:
        self.problem, self.run, self.size, self.generator = problem, run, batch_size, generator

    def noisy(self) -> tuple[NDArray[np.int64], Array]:
        rows = self._rows(self.problem.n)
        self.run.samples += len(rows)
        return rows, expit(self.run.logits.at(rows))

    def clean(self) -> NDArray[np.int64]:
        return self._rows(self.problem.n_clean)

    def _rows(self, n: int) -> NDArray[np.int64]:
        if self.size >= n:
            return np.arange(n)
        return self.generator.choice(n, self.size, replace=False, shuffle=False)


def _refine(problem: Any, run: Cleaning, settings: Settings, batches: _Batches) -> None:
    """Epochs of descent on y from each other's averages, with steps that halve while their number doubles."""
    lr, n_steps = settings.lower_lr, settings.refinement_steps
    for _ in range(settings.refinement_epochs):
        total = 0.0 * run.y
        for _ in range(n_steps):
            _descend(problem, run, lr, batches)
            total = total + run.y
        run.y, lr, n_steps = total / n_steps, lr / 2, 2 * n_steps


def _descend(problem: Any, run: Cleaning, lr: float, batches: _Batches) -> None:
    run.counts["lower_gradients"] += 1
    run.y = run.y - lr * problem.gradient(run.y, *batches.noisy())


def _step(problem: Any, run: Cleaning, settings: Settings, batches: _Batches) -> tuple[float, float]:
    k = run.n_steps
    if (k > 0 or not settings.refinement_epochs) and k % settings.period == 0:
        for _ in range(settings.lower_steps):
            _descend(problem, run, settings.lower_lr, batches)
    value, right = problem.upper(run.y, batches.clean())
    if not isfinite(value):
        raise FloatingPointError(f"upper loss is {value} at step {k}: lower lower_lr, or scale the features")
    z = run.z - settings.linear_system_lr * (problem.hessian_vector(run.y, run.z, *batches.noisy()) - right)
    rows, weights = batches.noisy()
    # Minus the mixed product: only the logits of this batch's rows feel it.
    gradient = -weights * (1 - weights) * problem.slopes(run.y, z, rows) / len(rows)
    if not np.isfinite(gradient).all():
        raise FloatingPointError(f"the hypergradient is NaN or infinite at step {k}: lower linear_system_lr")
    run.z = z
    length = run.logits.step(rows, gradient, settings.upper_lr * settings.decay(k, settings.upper_decay))
    for name in ("upper_gradients", "hessian_vector", "mixed"):
        run.counts[name] += 1
    run.n_steps = k + 1
    return value, length


def clean_labels(
    model: nn.Module,
    data: Any,
    labels: Any,
    clean_data: Any,
    clean_targets: Any,
    *,
    n_steps: int = 1500,
    batch_size: int = 128,
    upper_lr: float | None = None,
    lower_lr: float = 0.05,
    linear_system_lr: float = 0.01,
    momentum: float = 0.9,
    period: int = 2,
    lower_steps: int = 3,
    refinement_epochs: int = 5,
    refinement_steps: int = 20,
    penalty: float = 1e-4,
    schedule: Schedule = "inverse_sqrt",
    decay_start: float | None = None,
    hvp: Products = "autograd",
    device: str | torch.device = "auto",
    random_state: RandomState = None,
    progress: bool = True,
) -> OptimizeResult:
    r"""Train a network on noisy labels, with a weight for every sample that makes it fit a few clean ones best.

    .. math:: \min_x \; \frac{1}{|V|} \sum_{i \in V} \mathrm{CE}_i(y^*(x)), \qquad
        y^*(x) = \operatorname*{argmin}_y \frac1n \sum_{i=1}^n \sigma(x_i)\, \mathrm{CE}_i(y) + c \|y\|^2,

    by BO-REP on batches. A step costs what its batches cost, however many samples there are.

    Parameters
    ----------
    model : Module
        ``model(rows)`` returns outputs of shape (rows, n_classes). Its parameters are y; they are trained in place.
    data, clean_data : Tensor or array
        Samples along the first axis, as the model takes them: floats, or token ids.
    labels, clean_targets : Tensor or array of int
        Classes of the samples, from 0; those of ``data`` may be wrong.
    n_steps : int, default 1500
        Steps.
    batch_size : int, default 128
        Samples of each batch.
    upper_lr : float, optional
        :math:`\eta_0`, the distance by which all logits x together move; 0.01 times the root of their number when None.
    lower_lr, linear_system_lr : float, default 0.05 and 0.01
        Steps of y and of z.
    momentum, period, lower_steps, refinement_epochs, refinement_steps, schedule
        As of `UnboundedSmoothBilevel`.
    penalty : float, default 1e-4
        c.
    decay_start : float, optional
        Where the steps begin to fall; a tenth of ``n_steps`` when None.
    hvp : {"autograd", "finite_difference"}, default "autograd"
        How products with second derivatives are taken; differences are faster for recurrent networks, and need a model
        that is not random, as one with dropout is.
    device : str or torch.device, default "auto"
        Where to train; ``"auto"`` takes a GPU when there is one.
    random_state : None, int, Generator or RandomState
        Source of the batches.
    progress : bool, default True
        Whether to show a bar.

    Returns
    -------
    OptimizeResult
        ``sample_weight`` and ``suspect_score`` = 1 - ``sample_weight``, arrays with an entry a sample; ``x``, their
        logits; ``fun``, the clean loss on the last batch; ``nit``, ``success``, ``status``, ``message``, counts and
        ``history`` (``upper_loss``, ``momentum_norm``, ``passes`` over the data, ``seconds``).

    Raises
    ------
    ValueError
        If samples and labels differ in number, are empty or not finite, or a setting is out of range.
    TypeError
        If an argument has the wrong type.
    FloatingPointError
        If the clean loss or the hypergradient is NaN or infinite; the message gives the step.

    References
    ----------
    Jie Hao, Xiaochuan Gong, Mingrui Liu. "Bilevel Optimization under Unbounded Smoothness: A New Algorithm and
    Convergence Analysis". ICLR 2024. arXiv:2401.09587.

    Examples
    --------
    >>> import torch
    >>> from paperworks.optimization import clean_labels
    >>> generator = torch.Generator().manual_seed(0)
    >>> X = torch.randn(200, 2, generator=generator)
    >>> truth = (X[:, 0] > 0).long()
    >>> labels = torch.where(torch.arange(200) < 40, 1 - truth, truth)
    >>> model = torch.nn.Linear(2, 2)
    >>> found = clean_labels(model, X, labels, X[100:150], truth[100:150], n_steps=150, lower_lr=0.5,
    ...                      linear_system_lr=0.5, device="cpu", random_state=0)
    >>> bool(found.suspect_score[:40].mean() > found.suspect_score[40:].mean() + 0.2)
    True
    """
    check_products(hvp)
    steps, size = check_integer("n_steps", n_steps), check_integer("batch_size", batch_size)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, got {type(model).__name__}")
    _, place, _ = start_training(device, model)
    X, y = _rows("data", data, place), _classes("labels", labels, place)
    clean_X, clean_y = _rows("clean_data", clean_data, place), _classes("clean_targets", clean_targets, place)
    for name, rows, classes in (("labels", X, y), ("clean_targets", clean_X, clean_y)):
        if len(classes) != len(rows):
            raise ValueError(f"{name} must have one entry a sample, {len(rows)}, got {len(classes)}")
    _require_outputs_for(model, X, int(max(y.max(), clean_y.max())))
    settings = Settings(
        upper_lr=default_upper_lr(upper_lr, len(X)),
        lower_lr=lower_lr,
        linear_system_lr=linear_system_lr,
        momentum=momentum,
        period=period,
        lower_steps=lower_steps,
        refinement_epochs=refinement_epochs,
        refinement_steps=refinement_steps,
        schedule=schedule,
        decay_start=max(1.0, steps / 10) if decay_start is None else decay_start,
    )
    check_number("penalty", penalty, at_least=0.0)
    problem = ModuleClassifier(model, X, y, clean_X, clean_y, penalty=float(penalty), hvp=hvp)
    run = begin(problem, settings.momentum)
    try:
        go_on(problem, run, settings, steps, size, numpy_generator(random_state), progress)
    finally:
        problem.write(run.y)
    return run.result()


@torch.no_grad()
def _require_outputs_for(model: nn.Module, data: Tensor, largest: int) -> None:
    outputs = model(data[:1])
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != 1:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"model must return outputs of shape (rows, n_classes), got {shape} for one row")
    if outputs.shape[1] <= largest:
        raise ValueError(f"model has outputs for {outputs.shape[1]} classes, but the labels go up to {largest}")


def _rows(name: str, values: Any, place: torch.device) -> Tensor:
    tensor = values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    if tensor.ndim < 1 or not tensor.numel():
        raise ValueError(f"{name} is empty or has no axis of samples: its shape is {tuple(tensor.shape)}")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} contains NaN or infinity")
    return tensor.to(place)


def _classes(name: str, values: Any, place: torch.device) -> Tensor:
    tensor = _rows(name, values, place)
    if tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got {str(tensor.dtype).removeprefix('torch.')}")
    if tensor.ndim != 1 or bool((tensor < 0).any()):
        raise ValueError(f"{name} must be one axis of classes from 0, got shape {tuple(tensor.shape)}")
    return tensor.long()
