"""The command of the target-surrogate paper."""

import warnings
from contextlib import nullcontext, suppress
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal

import numpy as np
import torch
from cyclopts import Parameter
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning

from paperworks._files import InputError, read_labelled
from paperworks.optimization import TargetSurrogateClassifier

Array = NDArray[np.float64]
Path_ = dict[str, Array]
Rival = Literal["sgd", "adam", "adagrad"]
# Learning rates of the others: the best of these by the loss at the end.
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# Ours are tried alike where none is given.
STEPS = tuple(4.0**k for k in range(-2, 7))

COLOURS = {"surrogate": "#33658a", "sgd": "#f26419", "adam": "#758e4f", "adagrad": "#888888"}


def run(
    *files: Path,
    out: Path,
    label: str = "",
    inner_steps: int = 20,
    batch_size: int | None = 50,
    passes: int = 20,
    step_size: float | None = None,
    schedule: Literal["constant", "inverse_sqrt", "exponential"] = "inverse_sqrt",
    compare: Annotated[list[Rival] | None, Parameter(consume_multiple=True)] = None,
    gradient_seconds: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit a linear classifier with many updates for every gradient of the loss, beside ordinary optimisers.

    Without a file, scikit-learn's breast-cancer data are classified.

    Parameters
    ----------
    files
        One data set: .csv with a header, or .npz with X and y.
    out
        Folder for coefficients.npz, history.csv, summary.json and picture.png.
    label
        Column of the .csv that holds the classes; the last one if not given.
    inner_steps
        Updates of the weights a gradient.
    batch_size
        Rows a step, at most all.
    passes
        Passes over the data.
    step_size
        eta; the best of nine by the loss at the end if not given.
    schedule
        How eta falls.
    compare
        Which ordinary optimisers of torch to run on as many gradients, each at the best of nine learning rates; sgd and
        adam if not given.
    gradient_seconds
        What a gradient of the loss would cost, in seconds; it is added on the axis of time.
    seed
        Seed of the order of batches.
    """
    if len(files) > 1:
        raise InputError(f"one file is accepted, got {len(files)} files")
    if not (np.isfinite(gradient_seconds) and gradient_seconds >= 0):
        raise InputError(f"gradient_seconds must be a number of at least 0, got {gradient_seconds}")
    X, y = read_labelled(files[0], label) if files else load_breast_cancer(return_X_y=True)
    if not np.isfinite(X).all():
        raise InputError(f"{files[0]}: a feature is NaN or infinite")
    mean, spread = X.mean(0), X.std(0)
    spread[spread == 0] = 1.0
    scaled = (X - mean) / spread
    classifier = _fitted(scaled, y, inner_steps, batch_size, passes, step_size, schedule, seed)
    paths: dict[str, Path_] = {"surrogate": classifier.history_}
    rates = {}
    targets = np.searchsorted(classifier.classes_, y)
    for name in dict.fromkeys(["sgd", "adam"] if compare is None else compare):
        paths[name], rates[name] = _tuned(name, scaled, targets, batch_size or len(y), passes, seed)
    for path in paths.values():
        path["seconds"] = path["seconds"] + gradient_seconds * path["target_gradients"]
    coef = classifier.coef_ / spread
    np.savez(
        out / "coefficients.npz",
        coef=coef,
        intercept=classifier.intercept_ - coef @ mean,
        classes=classifier.classes_.astype(str),
    )
    _write(out / "history.csv", paths)
    _draw(paths, inner_steps).savefig(out / "picture.png", dpi=120)
    return {
        "input": str(files[0]) if files else "no file given: scikit-learn's breast-cancer data",
        "samples": X.shape[0],
        "features": X.shape[1],
        "classes": [str(each) for each in classifier.classes_],
        "accuracy": float(classifier.score(scaled, y)),
        "target_gradients": classifier.n_target_gradients_,
        "inner_steps": classifier.n_inner_steps_,
        "largest_gradient": float(classifier.history_["gradient"][-1]),
        "step_size": classifier.step_size,
        "final_loss": {name: float(path["loss"][-1]) for name, path in paths.items()},
        "learning_rates": rates,
    }


def _fitted(
    X: Array,
    y: NDArray[Any],
    inner_steps: int,
    batch_size: int | None,
    passes: int,
    step_size: float | None,
    schedule: Any,
    seed: int,
) -> TargetSurrogateClassifier:
    """The classifier at the step size that is given, or else at the best."""
    found = []
    for eta in STEPS if step_size is None else (step_size,):
        classifier = TargetSurrogateClassifier(
            "log", inner_steps, batch_size, eta, schedule, max_iter=passes, tol=0.0, random_state=seed
        )
        with warnings.catch_warnings():
            # The command makes the passes that it is asked for, and says how large the gradient is in the end; which
            # steps are above 1 / L is no matter where the best is chosen.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", UserWarning if step_size is None else ConvergenceWarning)
            with suppress(FloatingPointError) if step_size is None else nullcontext():
                found.append(classifier.fit(X, y))
    return min(found, key=lambda each: float(each.history_["loss"][-1]))


def _tuned(name: str, X: Array, targets: NDArray[np.integer], size: int, passes: int, seed: int) -> tuple[Path_, float]:
    """The path of an ordinary optimiser at its best learning rate, and that rate."""
    found = {rate: _ordinary(name, rate, X, targets, size, passes, seed) for rate in RATES}
    best = min(found, key=lambda rate: np.nan_to_num(found[rate]["loss"][-1], nan=np.inf))
    return found[best], best


def _ordinary(
    name: str, rate: float, X: Array, targets: NDArray[np.integer], size: int, passes: int, seed: int
) -> Path_:
    rows, labels = torch.from_numpy(np.c_[X, np.ones(len(X))]), torch.from_numpy(targets)
    n_classes = int(targets.max()) + 1
    weights = torch.zeros(rows.shape[1], 1 if n_classes == 2 else n_classes, dtype=rows.dtype, requires_grad=True)
    kinds: dict[str, Any] = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adagrad": torch.optim.Adagrad,
    }
    optimizer = kinds[name]([weights], lr=rate)
    generator = np.random.default_rng(seed)
    path: dict[str, list[float]] = {"target_gradients": [], "seconds": [], "loss": []}
    steps, begin = 0, perf_counter()

    def loss(at: Any) -> torch.Tensor:
        z = rows[at] @ weights
        if n_classes == 2:
            return torch.nn.functional.binary_cross_entropy_with_logits(z[:, 0], labels[at].to(z))
        return torch.nn.functional.cross_entropy(z, labels[at])

    for epoch in range(passes + 1):
        path["target_gradients"].append(steps)
        path["seconds"].append(perf_counter() - begin)
        path["loss"].append(float(loss(slice(None)).detach()))
        if epoch == passes:
            break
        for at in torch.from_numpy(generator.permutation(len(X))).split(size):
            optimizer.zero_grad()
            loss(at).backward()
            optimizer.step()
            steps += 1
    return {key: np.array(values) for key, values in path.items()}


def _write(file: Path, paths: dict[str, Path_]) -> None:
    lines = ["method,target_gradients,seconds,loss"]
    for name, path in paths.items():
        rows = zip(path["target_gradients"], path["seconds"], path["loss"], strict=True)
        lines += [f"{name},{calls:.0f},{seconds:.6g},{loss:.10g}" for calls, seconds, loss in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _draw(paths: dict[str, Path_], inner_steps: int) -> Figure:
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for name, path in paths.items():
        ours = name == "surrogate"
        style: dict[str, Any] = {"linewidth": 2.2 if ours else 1.3, "color": COLOURS[name]}
        text = f"surrogate, {inner_steps} inner steps" if ours else f"{name}, best rate"
        axes[0].plot(path["target_gradients"], path["loss"], label=text, **style)
        axes[1].plot(path["seconds"], path["loss"], **style)
    axes[0].set(title="mean loss on all rows", xlabel="gradients of the loss", yscale="log")
    axes[1].set(title="the same, against time", xlabel="seconds")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    return figure
