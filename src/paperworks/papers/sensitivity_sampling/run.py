"""The command of the sensitivity sampling paper."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from paperworks._files import InputError, read_array
from paperworks.linalg import LpRowSampler, lp_regression

Matrix = NDArray[np.float64]


def run(
    *files: Path,
    out: Path,
    p: float = 1.0,
    samples: int = 500,
    rule: Literal["auto", "sensitivity", "root_leverage", "combined", "leverage", "lewis", "uniform"] = "auto",
    regress: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Keep a few reweighted rows of a table that preserve l_p norms, and regress on them.

    Without a file, 442 patients of scikit-learn's diabetes data are sampled.

    Parameters
    ----------
    files
        One table (.npy, .npz, .csv, .txt, .parquet), much longer than wide.
    out
        Folder for coreset.npz (rows, indices, weights, scores), summary.json and picture.png.
    p
        Exponent of the norm, at least 1.
    samples
        Expected number of rows that are kept.
    rule
        What rows are chosen by.
    regress
        Whether to predict the last column from the others and a constant, on the sample and on all rows.
    seed
        Seed of the sample.
    """
    if len(files) > 1:
        raise InputError(f"one file is accepted, got {len(files)} files")
    A = read_array(files[0]) if files else _diabetes()
    if A.ndim != 2:
        raise InputError(f"{files[0]}: must hold a table, got shape {A.shape}")
    if not files:
        samples = min(samples, 100)
    if regress and A.shape[1] > 1:
        # The constant takes part in the norm.
        A = np.column_stack([np.ones(len(A)), A])
    sampler = LpRowSampler(p, rule, n_samples=samples, random_state=seed)
    coreset = sampler.fit_transform(A)
    np.savez(
        out / "coreset.npz",
        rows=coreset,
        indices=sampler.sample_indices_,
        weights=sampler.weights_,
        scores=sampler.scores_,
    )
    directions = (
        np.random.default_rng(seed).normal(size=(A.shape[1], 1000)) / np.maximum(np.abs(A).max(axis=0), 1e-300)[:, None]
    )
    ratios = (np.abs(coreset @ directions) ** p).sum(axis=0) / (np.abs(A @ directions) ** p).sum(axis=0)
    summary = {
        "input": str(files[0]) if files else "no file given: scikit-learn's diabetes data",
        "rows": len(A),
        "columns": A.shape[1],
        "kept": len(coreset),
        "total_score": sampler.total_sensitivity_,
        "largest_error_of_1000_random_directions": float(np.abs(ratios - 1).max()),
    }
    if regress and A.shape[1] > 1:
        summary |= _regress(A, coreset, p)
    _draw(sampler, ratios).savefig(out / "picture.png", dpi=120)
    return summary


def _regress(A: Matrix, coreset: Matrix, p: float) -> dict[str, Any]:
    x, best = (lp_regression(rows[:, :-1], rows[:, -1], p) for rows in (coreset, A))
    values = [float((np.abs(A[:, :-1] @ each - A[:, -1]) ** p).sum()) for each in (x, best)]
    return {
        "coefficients": x.tolist(),
        "coefficients_of_all_rows": best.tolist(),
        "value_ratio": values[0] / values[1] if values[1] else 1.0,
    }


def _diabetes() -> Matrix:
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True, scaled=False)
    return np.column_stack([X, y]).astype(np.float64)


def _draw(sampler: LpRowSampler, ratios: Matrix) -> Figure:
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    ranked = np.sort(sampler.scores_[sampler.scores_ > 0])[::-1]
    left.loglog(np.arange(1, len(ranked) + 1), ranked, color="#33658a")
    left.set(title="scores of the rows", xlabel="rank")
    left.grid(alpha=0.3)
    right.hist(ratios - 1, bins=40, color="#758e4f")
    right.axvline(0, color="#333333", linewidth=1)
    right.set(title="error of norms in random directions", ylabel="directions")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure
