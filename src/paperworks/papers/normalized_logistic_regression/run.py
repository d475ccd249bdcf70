"""The command of the paper on logistic regression with large steps."""

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from sklearn.exceptions import ConvergenceWarning

from paperworks._files import InputError
from paperworks.datasets import load_digits
from paperworks.optimization import NormalizedLogisticRegression

METHODS = ("normalized_logistic", "logistic", "batch_perceptron", "normalized_batch_perceptron", "perceptron")
FORMATS = (".csv", ".npz", ".svm")


def run(
    *files: Path,
    out: Path,
    label: str = "",
    method: Literal[
        "normalized_logistic", "logistic", "batch_perceptron", "normalized_batch_perceptron", "perceptron"
    ] = "normalized_logistic",
    step_size: float = 100.0,
    max_iter: int = 10_000,
    intercept: bool = True,
    compare: bool = True,
) -> dict[str, Any]:
    """Separate two classes by a plane, in as few passes over the data as possible.

    Without a file, the digits 3 and 8 of scikit-learn are separated.

    Parameters
    ----------
    files
        One data set: .csv with a header, .npz with X and y, or .svm (svmlight).
    out
        Folder for coefficients.npz, paths.csv, summary.json and picture.png.
    label
        Column of the .csv that holds the classes; the last one if not given.
    method
        Which iteration.
    step_size
        Step of the two logistic methods.
    max_iter
        Updates at most.
    intercept
        Whether to append a constant to the features.
    compare
        Whether to run the other four methods too.
    """
    if len(files) > 1:
        raise InputError(f"one file is accepted, got {len(files)} files")
    X, y = _read(files[0], label) if files else _threes_and_eights()
    # Features of one size: a step is then comparable from one data set to the next.
    scale = float(abs(X).max()) or 1.0
    fitted = {}
    for name in (method, *(each for each in METHODS if compare and each != method)):
        classifier = NormalizedLogisticRegression(
            name, step_size, max_iter, fit_intercept=intercept, record=True, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted[name] = classifier.fit(X / scale, y)
    chosen = fitted[method]
    np.savez(out / "coefficients.npz", coef=chosen.coef_ / scale, intercept=chosen.intercept_, classes=chosen.classes_)
    history = chosen.history_
    table = np.column_stack([np.arange(chosen.n_iter_ + 1), *history.values()])
    np.savetxt(
        out / "paths.csv", table, delimiter=",", header=",".join(("iteration", *history)), comments="", fmt="%.10g"
    )
    _draw(fitted, method).savefig(out / "picture.png", dpi=120)
    return {
        "input": str(files[0]) if files else "no file given: the digits 3 and 8 of scikit-learn",
        "samples": X.shape[0],
        "features": X.shape[1],
        "classes": [str(each) for each in chosen.classes_],
        "scale": scale,
        "iterations": {name: each.n_iter_ for name, each in fitted.items()},
        "separated": {name: each.converged_ for name, each in fitted.items()},
        "training_errors": int((chosen.predict(X / scale) != y).sum()),
    }


def _threes_and_eights() -> tuple[Any, Any]:
    digits = load_digits()
    target = np.asarray(digits.target)
    kept = np.isin(target, (3, 8))
    return np.asarray(digits.data, dtype=np.float64).reshape(len(target), -1)[kept], target[kept]


def _read(path: Path, label: str) -> tuple[Any, Any]:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: unreadable format {path.suffix!r}; accepted here: {', '.join(FORMATS)}")
    try:
        if path.suffix.lower() == ".csv":
            return _table(path, label)
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                if not {"X", "y"} <= set(stored.files):
                    raise InputError(f"{path}: needs X and y, holds {', '.join(stored.files) or 'nothing'}")
                return stored["X"].astype(np.float64), stored["y"]
        from sklearn.datasets import load_svmlight_file

        return load_svmlight_file(str(path))
    except InputError:
        raise
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: can't be read as {path.suffix}: {str(error).splitlines()[0]}") from None


def _table(path: Path, label: str) -> tuple[Any, Any]:
    lines = [line.split(",") for line in path.read_text().splitlines() if line.strip()]
    if len(lines) < 2:
        raise InputError(f"{path}: needs a header and at least one row")
    header = [name.strip() for name in lines[0]]
    if label and label not in header:
        raise InputError(f"{path}: has no column {label!r}; there are {', '.join(header)}")
    column = header.index(label) if label else len(header) - 1
    ragged = [i for i, row in enumerate(lines, 1) if len(row) != len(header)]
    if ragged:
        raise InputError(f"{path}: line {ragged[0]} has {len(lines[ragged[0] - 1])} columns, the header {len(header)}")
    values = np.array([row[:column] + row[column + 1 :] for row in lines[1:]])
    try:
        X = values.astype(np.float64)
    except ValueError as error:
        raise InputError(f"{path}: a feature is not a number: {error}") from None
    return X, np.array([row[column].strip() for row in lines[1:]])


def _draw(fitted: dict[str, NormalizedLogisticRegression], method: str) -> Figure:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for name, classifier in fitted.items():
        style: dict[str, Any] = {"linewidth": 2.2} if name == method else {"linewidth": 1.2, "alpha": 0.8}
        wrong = (1 - classifier.history_["accuracy"]) * 100
        axes[0].plot(wrong, label=name.replace("_", " "), **style)
        axes[1].plot(classifier.history_["loss"], label=name.replace("_", " "), **style)
    axes[0].set(title="samples on the wrong side", xlabel="iteration", ylabel="%", xscale="symlog")
    axes[1].set(title="logistic loss", xlabel="iteration", xscale="symlog", yscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    return figure
