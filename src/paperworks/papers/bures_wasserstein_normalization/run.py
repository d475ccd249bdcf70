"""Command: classify or normalise a file of covariance matrices or signals."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from paperworks._files import InputError, read_array
from paperworks._validation import check_integer
from paperworks.transport import BuresWassersteinScaler, SPDNetClassifier
from paperworks.transport.bures_wasserstein_normalization.estimators import covariance_matrices

Normalization = Literal["generalized-bures-wasserstein", "bures-wasserstein", "affine-invariant", "log-euclidean"]


def run(
    *files: Path,
    out: Path,
    covariance: Literal["none", "oas", "empirical"] = "none",
    normalization: Normalization = "generalized-bures-wasserstein",
    power: float = 1.0,
    epochs: int = 40,
    learning_rate: float = 0.01,
    folds: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    """Centre and scale covariance matrices, and cross-validate a normalised network where labels are given.

    Parameters
    ----------
    files
        One file of covariance matrices of shape (samples, n, n), or of signals of shape (samples, channels, time) with
        ``--covariance``, as .npy or .npz; then, optionally, one of labels (.npy, .npz, .csv, .txt). Without files the
        region covariances of 400 of scikit-learn's handwritten digits are used.
    out : Path
        Folder of the results: normalized.npy, predictions.csv if there are labels, picture.png.
    covariance : {"none", "oas", "empirical"}
        How to estimate the covariance of signals; "none" if the file holds covariance matrices.
    normalization : str
        Metric of the network's batch normalisation.
    power : float
        Power deformation of the normalisation, not zero.
    epochs : int
        Passes over the data in training.
    learning_rate : float
        Step size of training.
    folds : int
        Folds of the cross-validation.
    seed : int
        Seed of the folds, the weights and the batches.

    Returns
    -------
    dict
        Figures for summary.json.
    """
    if len(files) > 2:
        raise InputError(f"at most two files are accepted, matrices and labels, got {len(files)}")
    check_integer("folds", folds, at_least=2)
    X, y, source = _read(files)
    classifier = SPDNetClassifier(
        normalization=normalization,
        power=power,
        covariance=None if covariance == "none" else covariance,
        n_epochs=epochs,
        learning_rate=learning_rate,
        random_state=seed,
    )
    matrices = covariance_matrices(X, classifier.covariance)
    scaler = BuresWassersteinScaler(power=power).fit(matrices)
    normalized = scaler.transform(matrices)
    np.save(out / "normalized.npy", normalized)
    p = np.linalg.eigvalsh(matrices)
    summary: dict[str, Any] = {
        "input": source,
        "matrices": len(matrices),
        "size": matrices.shape[1],
        "median_condition_number": float(np.median(p[:, -1] / np.maximum(p[:, 0], np.finfo(float).tiny))),
        "variance_before_scaling": scaler.variance_,
    }
    scores: dict[str, float] = {}
    if y is not None:
        scores, predicted = _cross_validate(classifier, X, y, folds, seed)
        summary["accuracy"] = scores[normalization]
        summary["accuracy_without_normalization"] = scores["none"]
        rows = [f"{i},{label},{guess}" for i, (label, guess) in enumerate(zip(y, predicted, strict=True))]
        (out / "predictions.csv").write_text("\n".join(["sample,label,predicted", *rows]) + "\n")
    _draw(out / "picture.png", p, np.linalg.eigvalsh(normalized), scores)
    return summary


def _read(files: tuple[Path, ...]) -> tuple[NDArray[np.float64], NDArray[Any] | None, str]:
    if not files:
        X, y = _digit_covariances(400)
        return X, y, "region covariances of 400 of scikit-learn's handwritten digits"
    X = read_array(files[0])
    if X.ndim != 3:
        raise InputError(f"{files[0]}: must hold an array of 3 dimensions (samples, n, n), got shape {X.shape}")
    if len(files) == 1:
        return X, None, str(files[0])
    y = np.squeeze(read_array(files[1]))
    if y.shape != (len(X),):
        raise InputError(f"{files[1]}: must hold one label for each of {len(X)} samples, got shape {y.shape}")
    if (y != np.round(y)).any():
        raise InputError(f"{files[1]}: labels must be whole numbers, got {y[y != np.round(y)][0]:g}")
    return X, y.astype(int), f"{files[0]} with labels {files[1]}"


def _digit_covariances(count: int) -> tuple[NDArray[np.float64], NDArray[Any]]:
    images, y = load_digits(return_X_y=True)
    images, y = images[:count].reshape(-1, 8, 8), y[:count]
    down, right = np.gradient(images, axis=(1, 2))
    row, column = (np.broadcast_to(axis, images.shape) for axis in np.mgrid[:8, :8].astype(float))
    features = np.stack([column, row, images, abs(right), abs(down)], axis=1).reshape(count, 5, 64)
    return np.stack([np.cov(each) for each in features]), y


def _cross_validate(
    classifier: SPDNetClassifier, X: NDArray[np.float64], y: NDArray[Any], folds: int, seed: int
) -> tuple[dict[str, float], NDArray[Any]]:
    smallest = int(np.unique(y, return_counts=True)[1].min())
    if smallest < folds:
        raise InputError(f"labels: the rarest class has {smallest} samples, too few for {folds} folds")
    predicted = {name: np.empty_like(y) for name in (str(classifier.normalization), "none")}
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(X, y):
        for name, guesses in predicted.items():
            network = clone(classifier).set_params(normalization=None if name == "none" else name)
            guesses[test] = network.fit(X[train], y[train]).predict(X[test])
    scores = {name: float((guesses == y).mean()) for name, guesses in predicted.items()}
    return scores, predicted[str(classifier.normalization)]


def _draw(path: Path, before: NDArray[Any], after: NDArray[Any], scores: dict[str, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9 if scores else 6, 4), layout="constrained")
    panels = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    index = np.arange(1, before.shape[1] + 1)
    for p, label, colour in ((before, "given", "tab:grey"), (after, "centred and scaled", "tab:blue")):
        low, middle, high = np.quantile(np.maximum(p[:, ::-1], 1e-300), [0.1, 0.5, 0.9], axis=0)
        panels[0].plot(index, middle, "o-", color=colour, label=label)
        panels[0].fill_between(index, low, high, color=colour, alpha=0.25)
    panels[0].set(xlabel="index", ylabel="eigenvalue (median, 10 % to 90 %)", yscale="log", title="spectra")
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    panels[0].legend()
    if scores:
        bars = panels[1].bar(list(scores), list(scores.values()), color=["tab:blue", "tab:grey"])
        panels[1].bar_label(bars, fmt="%.3f")
        panels[1].set(ylim=(0, 1.05), ylabel="accuracy, cross-validated", title="network's normalisation")
    figure.savefig(path, dpi=120)
