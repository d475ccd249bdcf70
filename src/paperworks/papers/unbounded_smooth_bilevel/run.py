"""The command of the unbounded-smooth-bilevel paper."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from paperworks._files import InputError
from paperworks.optimization import LabelCleaner

Array = NDArray[np.float64]
# Digits of which the first are mislabelled, those that follow are clean, and the rest test.
NOISY, CLEAN = 800, 200


def run(
    *files: Path,
    out: Path,
    clean: Path | None = None,
    label: str = "",
    noise: float = 0.3,
    steps: int = 1500,
    batch_size: int = 128,
    upper_lr: float | None = None,
    penalty: float = 1e-4,
    seed: int = 0,
) -> dict[str, Any]:
    """Find the wrong labels of a table with the help of a few rows whose labels are right (data hyper-cleaning).

    Without a file, handwritten digits of scikit-learn are mislabelled and cleaned.

    Parameters
    ----------
    files
        One .csv with a header: a column of labels, some of them wrong, and columns of numbers.
    out
        Folder for labels.csv (a row's weight, how suspect its label is, and what the model takes it for), model.npz,
        history.csv, summary.json and picture.png.
    clean
        A .csv with the same columns whose labels are right; needed with a file.
    label
        Column of the labels; the last one if not given.
    noise
        Share of the digits' labels that are drawn at random, where no file is given.
    steps
        Steps of BO-REP.
    batch_size
        Rows a batch.
    upper_lr
        Distance by which the logits of all weights together move in a step; 0.01 times the root of their number if not
        given.
    penalty
        Weight of the squared norm of the model.
    seed
        Seed of the batches, and of the digits' wrong labels.
    """
    if len(files) > 1:
        raise InputError(f"one file is accepted, got {len(files)} files")
    if files:
        if clean is None:
            raise InputError(f"{files[0]}: --clean must name a .csv of rows whose labels are right")
        X, y, clean_X, clean_y = _tables(files[0], clean, label)
        extra: dict[str, Any] = {"input": f"{files[0]}, clean rows from {clean}"}
    else:
        X, y, clean_X, clean_y, truth, test_X, test_y = _digits(noise, seed)
        extra = {"input": f"no file given: scikit-learn's digits, {noise:.0%} of {NOISY} labels drawn at random"}
    mean, spread = X.mean(0), X.std(0)
    spread[spread == 0] = 1.0
    options: dict[str, Any] = {
        "clean_X": (clean_X - mean) / spread,
        "clean_y": clean_y,
        "n_steps": steps,
        "batch_size": batch_size,
        "penalty": penalty,
        "random_state": seed,
    }
    scaled = (X - mean) / spread
    cleaner = LabelCleaner(upper_lr=upper_lr, **options).fit(scaled, y)
    # A step too short to move anything leaves all weights at a half.
    plain = LabelCleaner(upper_lr=1e-12, **options).fit(scaled, y)
    if not files:
        from sklearn.metrics import roc_auc_score

        test = (test_X - mean) / spread
        extra |= {
            "test_accuracy": {"cleaned": cleaner.score(test, test_y), "as labelled": plain.score(test, test_y)},
            "area_under_roc_of_suspects": float(roc_auc_score(y != truth, cleaner.suspect_score_)),
        }
    suggested = cleaner.predict(scaled)
    _write(out, cleaner, y, suggested, mean, spread)
    _draw(cleaner, plain).savefig(out / "picture.png", dpi=120)
    return extra | {
        "samples": len(X),
        "clean_samples": len(clean_X),
        "features": X.shape[1],
        "classes": [str(each) for each in cleaner.classes_],
        "steps": cleaner.n_iter_,
        "clean_accuracy": {
            "cleaned": cleaner.score(options["clean_X"], clean_y),
            "as labelled": plain.score(options["clean_X"], clean_y),
        },
        "labels_below_a_third_of_the_largest_weight": int(
            (cleaner.sample_weight_ < cleaner.sample_weight_.max() / 3).sum()
        ),
        "labels_that_the_model_disputes": int((suggested != y).sum()),
        "most_suspect_rows": np.argsort(-cleaner.suspect_score_, kind="stable")[:10].tolist(),
    }


def _digits(noise: float, seed: int) -> tuple[Any, ...]:
    if not 0 <= noise <= 1:
        raise InputError(f"noise must be between 0 and 1, got {noise}")
    X, truth = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(X))
    X, truth = X[order], truth[order]
    y = truth[:NOISY].copy()
    wrong = rng.choice(NOISY, round(noise * NOISY), replace=False)
    y[wrong] = rng.integers(0, 10, len(wrong))
    end = NOISY + CLEAN
    return X[:NOISY], y, X[NOISY:end], truth[NOISY:end], truth[:NOISY], X[end:], truth[end:]


def _tables(noisy: Path, clean: Path, label: str) -> tuple[Array, NDArray[Any], Array, NDArray[Any]]:
    header, rows = _read(noisy)
    if label and label not in header:
        raise InputError(f"{noisy}: has no column {label!r}; there are {', '.join(header)}")
    label = label or header[-1]
    features = [name for name in header if name != label]
    if not features:
        raise InputError(f"{noisy}: has no column besides the label")
    clean_header, clean_rows = _read(clean)
    for name in (*features, label):
        if name not in clean_header:
            raise InputError(f"{clean}: lacks column {name!r} of {noisy}")
    X, y = _columns(noisy, header, rows, features, label)
    clean_X, clean_y = _columns(clean, clean_header, clean_rows, features, label)
    strange = np.setdiff1d(clean_y, y)
    if len(strange):
        raise InputError(f"{clean}: label {str(strange[0])!r} does not occur in {noisy}")
    return X, y, clean_X, clean_y


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() != ".csv":
        raise InputError(f"{path}: unreadable format {path.suffix!r}; accepted here: .csv")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as .csv: {error}") from None
    lines = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        raise InputError(f"{path}: needs a header and at least one row")
    for i, row in enumerate(lines[1:], 2):
        if len(row) != len(lines[0]):
            raise InputError(f"{path}: line {i} has {len(row)} columns, the header {len(lines[0])}")
    return lines[0], lines[1:]


def _columns(
    path: Path, header: list[str], rows: list[list[str]], features: list[str], label: str
) -> tuple[Array, NDArray[Any]]:
    places = [header.index(name) for name in features]
    try:
        X = np.array([[row[place] for place in places] for row in rows]).astype(np.float64)
    except ValueError as error:
        raise InputError(f"{path}: a feature is not a number: {error}") from None
    if not np.isfinite(X).all():
        raise InputError(f"{path}: a feature is NaN or infinite, in row {int(np.argwhere(~np.isfinite(X))[0, 0]) + 1}")
    return X, np.array([row[header.index(label)] for row in rows])


def _write(
    out: Path, cleaner: LabelCleaner, y: NDArray[Any], suggested: NDArray[Any], mean: Array, spread: Array
) -> None:
    rows = zip(y, cleaner.sample_weight_, cleaner.suspect_score_, suggested, strict=True)
    lines = [f"{i},{name},{weight:.6g},{score:.6g},{other}" for i, (name, weight, score, other) in enumerate(rows)]
    (out / "labels.csv").write_text("\n".join(["row,label,weight,suspect_score,suggested", *lines]) + "\n", "utf-8")
    names = list(cleaner.history_)
    entries = zip(*cleaner.history_.values(), strict=True)
    lines = [f"{k}," + ",".join(f"{value:.8g}" for value in row) for k, row in enumerate(entries, 1)]
    (out / "history.csv").write_text("\n".join([",".join(["step", *names]), *lines]) + "\n", "utf-8")
    # In the units of the file.
    coef = cleaner.coef_ / spread
    intercept = cleaner.intercept_ - coef @ mean
    np.savez(out / "model.npz", coef=coef, intercept=intercept, classes=cleaner.classes_.astype(str))


def _draw(cleaner: LabelCleaner, plain: LabelCleaner) -> Figure:
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, name, words in ((axes[0], "passes", "passes over the data"), (axes[1], "seconds", "seconds")):
        for each, text, colour in ((plain, "as labelled", "#888888"), (cleaner, "cleaned", "#33658a")):
            axis.plot(each.history_[name], _smooth(each.history_["upper_loss"]), label=text, color=colour)
        axis.set(title="loss on clean batches, smoothed", xlabel=words, yscale="log")
    axes[0].legend(frameon=False, fontsize=8)
    axes[2].plot(np.sort(cleaner.sample_weight_), color="#f26419")
    axes[2].set(title="weights, sorted", xlabel="samples", ylim=(0, 1))
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _smooth(values: Array) -> Array:
    """Mean of the steps around, over a fiftieth of all."""
    width = max(1, len(values) // 50)
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")
