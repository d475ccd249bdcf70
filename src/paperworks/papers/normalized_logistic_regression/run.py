"""The command of the paper on logistic regression with large steps."""

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from sklearn.exceptions import ConvergenceWarning

from paperworks._files import InputError, read_labelled
from paperworks.datasets import load_digits
from paperworks.optimization import NormalizedLogisticRegression

METHODS = ("normalized_logistic", "logistic", "batch_perceptron", "normalized_batch_perceptron", "perceptron")


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
    X, y = read_labelled(files[0], label) if files else _threes_and_eights()
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
