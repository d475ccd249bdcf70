"""The command of the paper on bilevel problems of many blocks."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from paperworks._files import InputError, read_labelled
from paperworks.optimization import ImportanceWeightedEnsemble

Array = NDArray[np.float64]
NO_FILE = "no file given: breast cancer of scikit-learn, a fifth of 300 labels flipped, 100 clean ones for validation"


def run(
    *files: Path,
    out: Path,
    label: str = "",
    blocks: int = 100,
    method: Literal["v1", "v2", "rsvrb"] = "v2",
    steps: int = 3000,
    blocks_per_step: int = 10,
    batch_size: int = 32,
    standardize: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Learn a weight for each training sample, by the loss on a validation set whose labels can be trusted.

    Without files, labels of scikit-learn's breast cancer are flipped and found again.

    Parameters
    ----------
    files
        Training samples, and if there are any, validation samples: .csv with a line of names, .npz with X and y, or
        .svm (svmlight). Without validation samples a fifth of the training samples is held out.
    out
        Folder for weights.csv, ensemble.npz, history.csv, summary.json and picture.png.
    label
        Column of a .csv that holds the classes; the last one if not given.
    blocks
        Number of temperatures.
    method
        Which algorithm.
    steps
        Steps.
    blocks_per_step
        Temperatures sampled a step.
    batch_size
        Samples of each.
    standardize
        Whether to give features mean zero and variance one.
    seed
        Seed of blocks, samples and the validation set.
    """
    if len(files) > 2:
        raise InputError(f"training and validation samples are accepted, got {len(files)} files")
    X, y, validation, flipped = _read(files, label) if files else _flipped_cancer(seed)
    if standardize:
        scaler = StandardScaler().fit(X)
        X = scaler.transform(X)
        validation = (scaler.transform(validation[0]), validation[1]) if validation else None
    model = ImportanceWeightedEnsemble(
        blocks,
        method=method,
        n_steps=steps,
        blocks_per_step=blocks_per_step,
        batch_size=batch_size,
        random_state=seed,
        progress=True,
    )
    model.fit(X, y, *(validation or ()))
    _write(out, model, y)
    _draw(model, flipped).savefig(out / "picture.png", dpi=120)
    weights = model.sample_weight_
    summary = {
        "input": ", ".join(map(str, files)) if files else NO_FILE,
        "samples": int(np.isfinite(weights).sum()),
        "features": X.shape[1],
        "classes": [str(each) for each in model.classes_],
        "steps": model.n_iter_,
        "samples_drawn": int(model.history_["n_samples"][-1]),
        "weight_of_the_least_trusted_tenth": float(np.nanquantile(weights, 0.1)),
        "least_trusted_rows": np.argsort(weights)[: min(10, len(weights))].tolist(),
    }
    if validation:
        plain = LogisticRegression(max_iter=2000).fit(X, y)
        summary |= {
            "validation_accuracy": float(model.score(*validation)),
            "validation_accuracy_of_unweighted_logistic_regression": float(plain.score(*validation)),
        }
    if flipped is not None:
        suspects = np.argsort(weights)[: int(flipped.sum())]
        summary["flipped_labels_among_as_many_least_weights"] = float(flipped[suspects].mean())
    return summary


def _read(files: tuple[Path, ...], label: str) -> tuple[Array, NDArray[Any], tuple[Array, NDArray[Any]] | None, None]:
    tables = []
    for path in files:
        X, y = read_labelled(path, label)
        tables.append((X if isinstance(X, np.ndarray) else X.toarray(), y))
    if len(tables) == 2 and tables[0][0].shape[1] != tables[1][0].shape[1]:
        columns = [table[0].shape[1] for table in tables]
        raise InputError(f"{files[1]}: has {columns[1]} features, {files[0]} has {columns[0]}")
    return *tables[0], tables[1] if len(tables) == 2 else None, None


def _flipped_cancer(seed: int) -> tuple[Array, NDArray[Any], tuple[Array, NDArray[Any]], NDArray[np.bool_]]:
    data = load_breast_cancer()
    X, y = data.data, data.target_names[data.target]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))[:400]
    X, y = X[order], y[order]
    flipped = rng.random(300) < 0.2
    first, second = np.unique(y)
    labels = np.where(flipped, np.where(y[:300] == first, second, first), y[:300])
    return X[:300], labels, (X[300:], y[300:]), flipped


def _write(out: Path, model: ImportanceWeightedEnsemble, y: NDArray[Any]) -> None:
    rows = [f"{i},{name},{weight:.6g}" for i, (name, weight) in enumerate(zip(y, model.sample_weight_, strict=True))]
    (out / "weights.csv").write_text("\n".join(["row,label,weight", *rows]) + "\n", encoding="utf-8")
    np.savez(out / "ensemble.npz", coef=model.coef_, intercept=model.intercept_, temperatures=model.temperatures_)
    table = np.column_stack(list(model.history_.values()))
    np.savetxt(out / "history.csv", table, delimiter=",", header=",".join(model.history_), comments="", fmt="%.10g")


def _draw(model: ImportanceWeightedEnsemble, flipped: NDArray[np.bool_] | None) -> Figure:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    history, weights = model.history_, model.sample_weight_
    for axis, name, text in ((axes[0], "n_samples", "samples drawn"), (axes[1], "seconds", "seconds")):
        axis.plot(history[name], history["gradient_norm"], color="#1b6ca8")
        axis.set(title="norm of the estimated gradient", xlabel=text, yscale="log")
        axis.grid(alpha=0.3)
    bins = np.linspace(0, 1, 31)
    if flipped is None:
        axes[2].hist(weights[np.isfinite(weights)], bins, color="#1b6ca8")
    else:
        axes[2].hist([weights[~flipped], weights[flipped]], bins, stacked=True, color=["#1b6ca8", "#d1495b"])
        axes[2].legend(["label as it was", "label flipped"], frameon=False, loc="upper right")
    axes[2].set(title="learned weights", xlabel="weight", ylabel="training samples")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure
