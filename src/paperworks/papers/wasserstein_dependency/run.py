"""Command: learn codes of two paired views."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paperworks._files import IMAGES, InputError, files_in, read_array, read_image

Views = tuple[NDArray[Any], NDArray[Any]]
EXACT_SAMPLES, SHOWN_PAIRS = 300, 60


def run(
    *files: Path,
    out: Path,
    objective: Literal["wpc", "cpc", "wdm"] = "wpc",
    lipschitz: Literal["gradient-penalty", "spectral", "none"] = "gradient-penalty",
    scale: Literal["auto", "unit-variance", "none"] = "auto",
    components: int = 64,
    penalty_weight: float = 10.0,
    batch_size: int = 32,
    iterations: int = 1000,
    learning_rate: float = 1e-3,
    held_out: float = 0.1,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Learn codes of two paired views that keep what the views share, and say how much that is.

    Parameters
    ----------
    files : Path
        Two files of as many rows, .npy, .npz, .csv, .txt or .parquet: vectors (n, features) or images (n, channels,
        height, width). Or two folders of as many .png or .jpg pictures of one size, paired in the order of their
        names. Without files, grids of six of scikit-learn's digits, the second view showing the next digits.
    out : Path
        Folder for codes.npy, codes_second.npy (a row a pair), encoders.pt (both networks, for torch.load),
        summary.json, picture.png.
    objective : {"wpc", "cpc", "wdm"}
        Contrast with a critic of bounded slope, plain contrast, or the Wasserstein dependency itself.
    lipschitz : {"gradient-penalty", "spectral", "none"}
        What holds the critic's slope.
    scale : {"auto", "unit-variance", "none"}
        Standardise each feature; "auto" does so for vectors that come from files.
    components : int
        Dimension of the codes.
    penalty_weight : float
        Weight of the gradient penalty.
    batch_size : int
        Pairs in a step.
    iterations : int
        Training steps.
    learning_rate : float
        Step size of Adam.
    held_out : float
        Share of the pairs that is kept from training and scored.
    device : str
        "auto", "cpu" or "cuda".
    seed : int
        Seed of the split, weights and batches.

    Returns
    -------
    dict
        What was used and measured.
    """
    import torch

    from paperworks.transport import WassersteinDependencyEncoder, contrastive_scores

    if not 0 < held_out < 1:
        raise InputError(f"--held-out must be between 0 and 1, got {held_out}")
    (first, second), described = _views(files, seed)
    standardise = scale == "unit-variance" or (scale == "auto" and bool(files) and first.ndim == second.ndim == 2)
    order = np.random.default_rng(seed).permutation(len(first))
    n_held_out = max(2, round(held_out * len(first)))
    held, kept = order[:n_held_out], order[n_held_out:]
    if len(kept) < 2:
        raise InputError(f"{len(first)} pairs are too few to train on and to score with --held-out {held_out}")
    encoder = WassersteinDependencyEncoder(
        objective,
        components,
        lipschitz=lipschitz,
        scale="unit-variance" if standardise else None,
        penalty_weight=penalty_weight,
        batch_size=batch_size,
        n_iterations=iterations,
        learning_rate=learning_rate,
        device=device,
        random_state=seed,
    ).fit(first[kept], second[kept])
    codes, codes_second = encoder.transform(first), encoder.transform_second(second)
    np.save(out / "codes.npy", codes)
    np.save(out / "codes_second.npy", codes_second)
    torch.save({"first": encoder.encoder_, "second": encoder.encoder_second_}, out / "encoders.pt")
    few = held[:1000]
    scores = contrastive_scores(codes[few], codes_second[few])
    _draw(encoder.dependency_history_, scores[:SHOWN_PAIRS, :SHOWN_PAIRS], objective, out / "picture.png")
    return {
        "input": described,
        "pairs": len(first),
        "objective": objective,
        "lipschitz": lipschitz if objective != "cpc" else "none",
        "standardised": standardise,
        "iterations": encoder.n_iter_,
        "dependency_in_training": float(encoder.dependency_history_[-50:].mean()),
        "dependency_held_out": encoder.score(first[held], second[held]),
        "largest_dependency_of_a_batch": float(np.log(min(batch_size, len(kept)))) if objective != "wdm" else None,
        "critic_slope_99_percent": encoder.gradient_norm_,
        "critic_slope_bound": encoder.lipschitz_bound_ if np.isfinite(encoder.lipschitz_bound_) else None,
        "partner_found_held_out": float((scores.argmax(axis=1) == np.arange(len(few))).mean()),
        "partner_found_by_chance": 1 / len(few),
        **_exact(first[held], second[held], standardise, seed),
        "seed": seed,
    }


def _views(files: tuple[Path, ...], seed: int) -> tuple[Views, str]:
    if not files:
        from paperworks.transport import make_spatial_multi_digits

        first, second, _ = make_spatial_multi_digits(20_000, 6, random_state=seed)
        return (first, second), "20,000 pairs of grids of six of scikit-learn's digits, the second one digit further on"
    if len(files) != 2:
        raise InputError(f"give two views, two files or two folders, got {len(files)}")
    first, second = (_pictures(path) if path.is_dir() else _rows(path) for path in files)
    if len(first) != len(second):
        raise InputError(f"{files[0]} holds {len(first)} rows, {files[1]} holds {len(second)}: rows must be pairs")
    return (first, second), f"{files[0].name} and {files[1].name}"


def _rows(path: Path) -> NDArray[np.float64]:
    rows = read_array(path)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim not in (2, 4):
        raise InputError(
            f"{path}: must hold vectors (n, features) or images (n, channels, height, width), got shape {rows.shape}"
        )
    return rows


def _pictures(folder: Path) -> NDArray[np.float32]:
    """Pictures of a folder as (n, channels, height, width), in [0, 1]."""
    paths = files_in(folder, IMAGES)
    pictures = [read_image(path) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise InputError(f"{path}: has shape {picture.shape}, but {paths[0].name} has {pictures[0].shape}")
    stacked = np.stack(pictures).astype(np.float32)
    return stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2)


def _exact(first: NDArray[Any], second: NDArray[Any], standardise: bool, seed: int) -> dict[str, float]:
    """Wasserstein dependency of a few pairs by exact transport, with its permutation test."""
    from paperworks.transport import wasserstein_dependency_exact

    rows = [view[:EXACT_SAMPLES].reshape(len(view[:EXACT_SAMPLES]), -1).astype(np.float64) for view in (first, second)]
    if standardise:
        rows = [(view - view.mean(0)) / np.where(view.std(0) > 0, view.std(0), 1.0) for view in rows]
    estimate = wasserstein_dependency_exact(*rows, n_shuffles=40, random_state=seed)
    return {
        "exact_dependency_few_pairs": estimate.value,
        "exact_dependency_if_independent": estimate.null_mean,
        "independence_p_value": estimate.p_value,
    }


def _draw(history: NDArray[np.float64], scores: NDArray[np.floating], objective: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    curve, matrix = figure.subplots(1, 2)
    width = max(1, len(history) // 50)
    smooth = np.convolve(history, np.ones(width) / width, mode="valid")
    curve.plot(history, linewidth=0.4, color="#bbbbbb", label="each step")
    curve.plot(np.arange(len(smooth)) + width // 2, smooth, color="#4c72b0", label=f"mean over {width} steps")
    curve.set(title="training", xlabel="step", ylabel="dependency" + ("" if objective == "wdm" else ", nats"))
    curve.legend()
    shown = matrix.imshow(scores, cmap="magma", interpolation="nearest")
    matrix.set(title="scores of held-out pairs", xlabel="second view", ylabel="first view")
    figure.colorbar(shown, ax=matrix)
    figure.savefig(path, dpi=120)
