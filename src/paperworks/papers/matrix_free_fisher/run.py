"""Command: prune a network by second-order scores, and train what is left of it."""

import warnings
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from paperworks._files import InputError
from paperworks.optimization import (
    MatrixFreeFisherOptimizer,
    PruningReport,
    keep_zeros,
    prune_with_inverse_fisher,
)

Path_ = dict[str, list[float]]
TEST_SHARE = 0.2
HIDDEN, ADAM_STEPS = (128, 64), 2000

COLOURS = {"M-FAC": "#33658a", "one shot": "#758e4f", "magnitude": "#f26419", "SGD": "#f26419"}


def run(
    *files: Path,
    out: Path,
    model: Path | None = None,
    data: Path | None = None,
    sparsity: float = 0.9,
    n_gradients: int = 64,
    batch_size: int = 16,
    damping: float = 1e-5,
    block_size: int = 128,
    n_recomputations: int = 16,
    schedule: Literal["exponential", "polynomial"] = "exponential",
    epochs: int = 5,
    learning_rate: float = 1e-4,
    window: int = 512,
    seed: int = 0,
) -> dict[str, Any]:
    """Prune a network by what its loss misses least, beside pruning by magnitude, and train what is left.

    Without files, a small network is trained on scikit-learn's handwritten digits and pruned.

    Parameters
    ----------
    files
        One data set, as for --data.
    out
        Folder for model.pt, history.csv, summary.json and picture.png.
    model
        The network, .pt: a TorchScript program, as torch.jit.script(module).save writes it; or a state dict of linear
        layers with ReLU between them, as torch.save(module.state_dict()) writes it. Without it, such a network is
        trained on the data.
    data
        Training data, .npz with X, whose rows are the network's inputs, and y: integer classes, from 0, or numbers to
        predict. A fifth of the rows is held out for the test.
    sparsity
        Share of zeros to reach in the weights.
    n_gradients
        Gradients of minibatches that the Fisher matrix is made of.
    batch_size
        Rows of a minibatch; training takes four times as many.
    damping
        lambda.
    block_size
        Size of the blocks of the Fisher matrix; 0 for all of it.
    n_recomputations
        Steps to the sparsity.
    schedule
        How the sparsity rises.
    epochs
        Passes over the data after pruning, once with the M-FAC optimiser and once with SGD, of which the better by the
        training loss is saved; 0 for none.
    learning_rate
        Rate of the M-FAC optimiser; SGD has 0.005 with momentum 0.9.
    window
        Gradients that the M-FAC optimiser keeps.
    seed
        Seed of the split, of a network that is trained here, and of the order of rows.
    """
    task = _Task(_data_file(files, data), batch_size, seed)
    if model:
        network, save = _loaded(model)
    else:
        network, save = _perceptron([task.n_inputs, *HIDDEN, task.n_outputs], seed), _save_state
        task.train(network, torch.optim.Adam(network.parameters()), ADAM_STEPS)
    task.check(network, model)
    dense = _Snapshot(network)
    scores = {"dense": task.score(network)}

    def prune(recomputations: int) -> PruningReport:
        _, report = prune_with_inverse_fisher(
            network, task.losses(network), sparsity, n_gradients=n_gradients, damping=damping,
            block_size=block_size or None, n_recomputations=recomputations, schedule=schedule,
        )  # fmt: skip
        return report

    single = prune(1)
    scores["one shot"] = task.score(network)
    dense.restore()
    report = prune(n_recomputations)
    scores["M-FAC"] = task.score(network)
    pruned = _Snapshot(network)
    dense.restore()
    by_magnitude = []
    for share in report.history["sparsity"]:
        _prune_by_magnitude(network, share)
        by_magnitude.append(task.loss(network))
    scores["magnitude"] = task.score(network)
    pruned.restore()
    paths, saved = _fine_tune(task, network, pruned, epochs, learning_rate, window)
    scores |= {f"M-FAC, then {name}": path["score"][-1] for name, path in paths.items() if path["score"]}
    save(network, out / "model.pt")
    _write(out / "history.csv", report, paths)
    _draw(report, single, by_magnitude, paths).savefig(out / "picture.png", dpi=120)
    return {
        "input": f"{model or 'a network trained here'} on {task.source}",
        "rows": len(task.X) + len(task.X_test),
        "weights": int(sum(each.numel() for each in network.parameters())),
        "sparsity": report.sparsity,
        "sparsity_per_layer": report.sparsity_per_layer,
        "loss_before": report.loss_before,
        "loss_after": report.loss_after,
        "seconds": report.seconds,
        "score": "accuracy" if task.classes else "R^2",
        "test_scores": scores,
        "saved_model": saved,
    }


class _Task:
    """Data, their split, and what is made of them."""

    def __init__(self, path: Path | None, batch_size: int, seed: int) -> None:
        self.source = str(path) if path else "scikit-learn's handwritten digits"
        X, y = _read(path) if path else _digits()
        self.classes = y.dtype.kind in "iu"
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size, self.generator = batch_size, torch.Generator().manual_seed(seed)
        order = torch.randperm(len(X), generator=self.generator)
        inputs, targets = torch.from_numpy(X)[order], torch.from_numpy(y)[order]
        n_test = max(1, round(TEST_SHARE * len(X)))
        self.X_test, self.y_test = inputs[:n_test], targets[:n_test]
        self.X, self.y = inputs[n_test:], targets[n_test:]
        self.n_inputs = int(np.prod(X.shape[1:]))
        self.n_outputs = int(y.max()) + 1 if self.classes else int(np.prod(y.shape[1:]))

    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.classes:
            return nn.functional.cross_entropy(outputs, targets)
        return nn.functional.mse_loss(outputs.reshape(targets.shape), targets)

    def losses(self, network: nn.Module) -> list[Callable[[], Tensor]]:
        order = torch.randperm(len(self.X), generator=self.generator)
        return [
            lambda rows=rows: self.loss_of(network(self.X[rows]), self.y[rows])  # type: ignore[misc]
            for rows in order.split(self.batch_size)
        ]

    @torch.no_grad()
    def loss(self, network: nn.Module) -> float:
        return float(self.loss_of(network(self.X), self.y))

    @torch.no_grad()
    def score(self, network: nn.Module) -> float:
        """Accuracy, or the share of variance that is explained, of the rows that are held out."""
        outputs = network(self.X_test)
        if self.classes:
            return float((outputs.argmax(1) == self.y_test).double().mean())
        spread = (self.y_test - self.y_test.mean(0)).square().mean()
        return 1 - float(self.loss_of(outputs, self.y_test) / spread)

    def check(self, network: nn.Module, model: Path | None) -> None:
        try:
            loss = self.loss(network)
        except (RuntimeError, ValueError, IndexError) as error:
            problem = str(error).strip().splitlines()[-1]
            raise InputError(
                f"{model}: does not take the inputs of {self.source}, of shape {tuple(self.X.shape[1:])} each, or does "
                f"not give outputs for its y: {problem}"
            ) from None
        if not np.isfinite(loss):
            raise InputError(f"{model}: its loss on {self.source} is {loss}")

    def train(self, network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            self.step(network, optimizer, torch.randint(len(self.X), (64,), generator=self.generator))

    def step(self, network: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor) -> None:
        optimizer.zero_grad()
        self.loss_of(network(self.X[rows]), self.y[rows]).backward()
        optimizer.step()


class _Snapshot:
    """The parameters as they were."""

    def __init__(self, network: nn.Module) -> None:
        self.pairs = [(each, each.detach().clone()) for each in network.parameters()]

    @torch.no_grad()
    def restore(self) -> None:
        for each, before in self.pairs:
            each.copy_(before)


def _fine_tune(
    task: _Task, network: nn.Module, pruned: _Snapshot, epochs: int, learning_rate: float, window: int
) -> tuple[dict[str, Path_], str]:
    """Losses against passes and time of both optimisers; the network is left with the lowest loss, and this is said."""
    paths: dict[str, Path_] = {}
    best, lowest, saved = pruned, task.loss(network), "pruned"
    makes: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "SGD": lambda: torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.9),
        "M-FAC": lambda: MatrixFreeFisherOptimizer(
            network.parameters(), learning_rate, n_gradients=window, sparse=True
        ),
    }
    for name, make in makes.items():
        pruned.restore()
        optimizer, spent = make(), 0.0
        handle = keep_zeros(network, optimizer)
        path: Path_ = {"loss": [task.loss(network)], "seconds": [0.0], "score": []}
        for _ in range(epochs):
            start = perf_counter()
            for rows in torch.randperm(len(task.X), generator=task.generator).split(4 * task.batch_size):
                task.step(network, optimizer, rows)
            spent += perf_counter() - start
            path["loss"].append(task.loss(network))
            path["seconds"].append(spent)
            path["score"].append(task.score(network))
        handle.remove()
        paths[name] = path
        if path["loss"][-1] < lowest:
            best, lowest, saved = _Snapshot(network), path["loss"][-1], f"pruned, then trained by {name}"
    best.restore()
    return paths, saved


@torch.no_grad()
def _prune_by_magnitude(network: nn.Module, share: float) -> None:
    weights = [each for each in network.parameters() if each.ndim >= 2]
    sizes = torch.cat([each.abs().reshape(-1) for each in weights])
    if count := round(share * len(sizes)):
        limit = sizes.kthvalue(count).values
        for each in weights:
            each.masked_fill_(each.abs() <= limit, 0.0)


def _data_file(files: tuple[Path, ...], data: Path | None) -> Path | None:
    given = [*files, *([data] if data else [])]
    if len(given) > 1:
        raise InputError(f"one data set is accepted, got {', '.join(map(str, given))}")
    return given[0] if given else None


def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


def _read(path: Path) -> tuple[Any, Any]:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() != ".npz":
        raise InputError(f"{path}: unreadable format {path.suffix!r}; accepted here: .npz")
    try:
        with np.load(path, allow_pickle=False) as stored:
            if not {"X", "y"} <= set(stored.files):
                raise InputError(f"{path}: needs X and y, holds {', '.join(stored.files) or 'nothing'}")
            X, y = stored["X"], stored["y"]
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: can't be read as .npz: {str(error).splitlines()[0]}") from None
    if X.dtype.kind not in "fiu" or y.dtype.kind not in "fiu":
        raise InputError(f"{path}: X and y must hold numbers, got {X.dtype} and {y.dtype}")
    if X.ndim < 2 or not X.size or len(y) != len(X) or len(X) < 2:
        raise InputError(f"{path}: needs two rows or more of X and as many of y, got shapes {X.shape} and {y.shape}")
    if y.dtype.kind == "f":
        y = y.astype(np.float32)
    elif y.ndim != 1 or y.min() < 0:
        raise InputError(
            f"{path}: classes in y must be integers from 0 in one axis, got shape {y.shape} from {y.min()}"
        )
    X = X.astype(np.float32)
    for name, values in (("X", X), ("y", y)):
        if not np.isfinite(values).all():
            raise InputError(f"{path}: {name} contains NaN or infinity")
    return X, y.astype(np.int64) if y.dtype.kind in "iu" else y


def _perceptron(sizes: list[int], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for first, second in pairwise(sizes):
            layers += [nn.Linear(first, second), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def _loaded(path: Path) -> tuple[nn.Module, Callable[[nn.Module, Path], None]]:
    """A network in evaluation mode, and how it is saved. Nothing is unpickled that could run code."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        raise InputError(f"{path}: is no file of torch.save or torch.jit.save") from None
    if any(name.endswith("/constants.pkl") for name in names):
        with warnings.catch_warnings():
            # torch calls TorchScript old, but what took its place unpickles anything.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                return torch.jit.load(path, map_location="cpu").eval(), _save_script
            except RuntimeError as error:
                raise InputError(f"{path}: can't be read as TorchScript: {str(error).splitlines()[0]}") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises whatever its readers raise
        raise InputError(
            f"{path}: holds more than tensors, which could run any code when it is read; save the network as "
            "torch.jit.script(network).save(path), or its state dict"
        ) from None
    network = _from_state(path, state)

    def save(trained: nn.Module, file: Path) -> None:
        # Under the names that the user's own network has.
        torch.save(dict(zip(state, trained.state_dict().values(), strict=True)), file)

    return network, save


def _from_state(path: Path, state: Any) -> nn.Module:
    """The network of linear layers with ReLU between them that a state dict is of."""
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise InputError(f"{path}: is no state dict of tensors")
    layers: list[nn.Module] = []
    width = None
    for name, weight in state.items():
        if name.endswith("bias"):
            continue
        if not name.endswith("weight") or weight.ndim != 2 or width not in (None, weight.shape[1]):
            raise InputError(
                f"{path}: {name} of shape {tuple(weight.shape)} is no linear layer that follows the one before; other "
                "networks are read as TorchScript"
            )
        bias = state.get(f"{name.removesuffix('weight')}bias")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        layers += [layer, nn.ReLU()]
        width = weight.shape[0]
    if not layers:
        raise InputError(f"{path}: holds no weights")
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def _save_script(network: Any, path: Path) -> None:
    network.save(str(path))


def _save_state(network: nn.Module, path: Path) -> None:
    torch.save(network.state_dict(), path)


def _write(file: Path, report: PruningReport, paths: dict[str, Path_]) -> None:
    lines = ["stage,method,sparsity,gradients,passes,seconds,loss"]
    for k, loss in enumerate(report.history["loss"]):
        share, count, seconds = (report.history[key][k] for key in ("sparsity", "gradients", "seconds"))
        lines.append(f"pruning,M-FAC,{share:.6g},{count:.0f},,{seconds:.6g},{loss:.10g}")
    for name, path in paths.items():
        for k, (seconds, loss) in enumerate(zip(path["seconds"], path["loss"], strict=True)):
            lines.append(f"training,{name},{report.sparsity:.6g},,{k},{seconds:.6g},{loss:.10g}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _draw(report: PruningReport, single: PruningReport, by_magnitude: list[float], paths: dict[str, Path_]) -> Figure:
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    history = report.history
    axes[0].plot(history["sparsity"], history["loss"], label="M-FAC", color=COLOURS["M-FAC"], linewidth=2.2)
    axes[0].plot(history["sparsity"], by_magnitude, label="magnitude", color=COLOURS["magnitude"])
    axes[0].plot([single.sparsity], [single.loss_after], "o", label="M-FAC in one step", color=COLOURS["one shot"])
    axes[0].set(title="loss while pruning", xlabel="share of zeros", yscale="log")
    for name, path in paths.items():
        axes[1].plot(range(len(path["loss"])), path["loss"], label=name, color=COLOURS[name])
        axes[2].plot(path["seconds"], path["loss"], label=name, color=COLOURS[name])
    axes[1].set(title="training of what is left", xlabel="passes over the data", yscale="log")
    axes[2].set(title="the same, against time", xlabel="seconds", yscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    return figure
