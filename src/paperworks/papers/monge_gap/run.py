"""Command: learn an optimal transport map between two files of points."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paperworks._files import InputError, read_points


def run(
    *files: Path,
    out: Path,
    cost: Literal["sqeuclidean", "euclidean", "cosine", "geodesic"] = "sqeuclidean",
    regularization: float = 1.0,
    iterations: int = 1000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    initialization: Literal["identity", "random"] = "identity",
    scale: bool = False,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Learn a map that carries one cloud of points to another at the least cost.

    Parameters
    ----------
    files : Path
        Source and target, points as rows: .npy, .npz, .csv, .txt, .parquet, or a mesh's vertices (.ply, .obj, .off,
        .stl, .xyz). They need as many columns, not as many rows. Without files, scikit-learn's digits: zeros are
        carried to sixes in their first 8 principal components.
    out : Path
        Folder for mapped.csv (the source, mapped), map.pt, summary.json and picture.png. map.pt is read by
        torch.load(path, weights_only=False): the network, and what its points are shifted and divided by.
    cost : {"sqeuclidean", "euclidean", "cosine", "geodesic"}
        Cost that the map is to be optimal for.
    regularization : float
        Weight of the Monge gap, in units of the cost; 2 suits "euclidean".
    iterations : int
        Training steps.
    batch_size : int
        Points in a step.
    learning_rate : float
        Step size of Adam.
    initialization : {"identity", "random"}
        Start from the identity, or from a plain network with random weights.
    scale : bool
        Standardise the points while training; costs are then those of standardised points.
    device : str
        "auto", "cpu" or "cuda".
    seed : int
        Seed of weights and batches.

    Returns
    -------
    dict
        What was used and measured.
    """
    import torch

    from paperworks.transport.monge_gap import MongeMap, monge_gap

    source, target, described = _clouds(files)
    estimator = MongeMap(
        cost,
        regularization=regularization,
        n_iterations=iterations,
        batch_size=batch_size,
        learning_rate=learning_rate,
        initialization=initialization,
        scale=scale,
        device=device,
        random_state=seed,
    ).fit(source, target)
    mapped = estimator.transform(source)
    np.savetxt(out / "mapped.csv", mapped, delimiter=",")
    saved = {"module": estimator.module_, "centre": estimator.centre_, "width": estimator.width_}
    torch.save(saved, out / "map.pt")
    _draw(source, target, mapped, estimator.loss_history_, out / "picture.png")
    few = np.random.default_rng(seed).permutation(len(source))[:1000]
    return {
        "input": described,
        "source_points": len(source),
        "target_points": len(target),
        "dimension": source.shape[1],
        "cost": cost,
        "regularization": regularization,
        "iterations": estimator.n_iter_,
        "sinkhorn_divergence_to_target": estimator.fitting_loss_,
        "monge_gap_entropic": estimator.gap_,
        "monge_gap_exact": monge_gap(source[few], mapped[few], cost=cost, estimator="exact"),
        "epsilon_of_the_fit": estimator.epsilon_fit_,
        "epsilon_of_the_gap": estimator.epsilon_gap_,
        "seed": seed,
    }


def _clouds(files: tuple[Path, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    if not files:
        return _digits()
    if len(files) != 2:
        raise InputError(f"give a source and a target, two files, got {len(files)}")
    source, target = (read_points(path) for path in files)
    for path, points in zip(files, (source, target), strict=True):
        if len(points) < 2:
            raise InputError(f"{path}: holds {len(points)} point, at least 2 are needed")
    if source.shape[1] != target.shape[1]:
        raise InputError(f"{files[1]}: has {target.shape[1]} columns, but {files[0]} has {source.shape[1]}")
    return source, target, f"{files[0].name} and {files[1].name}"


def _digits() -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    images, labels = load_digits(return_X_y=True)
    both = images[(labels == 0) | (labels == 6)] / 16.0
    components = PCA(8, svd_solver="full").fit(both)
    source, target = (components.transform(images[labels == label] / 16.0) for label in (0, 6))
    return source, target, "scikit-learn's digits, 0 carried to 6, first 8 principal components of both"


def _draw(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    mapped: NDArray[np.floating],
    loss: NDArray[np.float64],
    path: Path,
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    clouds, curve = figure.subplots(1, 2, width_ratios=(2, 1))
    # In more than two dimensions the picture shows the first two; in one, the second axis is a jitter.
    planes = [_plane(points) for points in (source, target, mapped)]
    for points, colour, label in zip(
        planes, ("#4c72b0", "#999999", "#dd8452"), ("source", "target", "mapped"), strict=True
    ):
        clouds.scatter(*points[:2000].T, s=6, color=colour, label=label, alpha=0.7, linewidths=0)
    for start, end in zip(planes[0][:150], planes[2][:150], strict=True):
        clouds.plot(*np.stack([start, end]).T, color="#dd8452", linewidth=0.3)
    clouds.set(title="source carried to target", xlabel="first coordinate", ylabel="second coordinate")
    clouds.legend(markerscale=3)
    curve.plot(loss, linewidth=0.7)
    curve.set(title="training", xlabel="iteration", ylabel="loss")
    figure.savefig(path, dpi=120)


def _plane(points: NDArray[np.floating]) -> NDArray[np.floating]:
    if points.shape[1] == 1:
        return np.column_stack([points[:, 0], np.random.default_rng(0).uniform(size=len(points))])
    return points[:, :2]
