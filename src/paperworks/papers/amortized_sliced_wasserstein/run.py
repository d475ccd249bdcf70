"""The command: an autoencoder for the user's point clouds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images

from paperworks._files import ARRAYS, MESHES, InputError, files_in, read_array, read_points
from paperworks._validation import check_integer
from paperworks.transport import PointCloudReconstructor, distributional_sliced_wasserstein


def run(
    *files: Path,
    out: Path,
    loss: Literal["amortized", "amortized-max", "distributional", "max-sliced", "sliced"] = "amortized",
    concentration: float = 1.0,
    projections: int = 100,
    points: int = 256,
    code: int = 64,
    epochs: int = 30,
    seed: int = 0,
) -> dict[str, Any]:
    """Learn short codes of point clouds, with an autoencoder trained by a sliced Wasserstein loss.

    Parameters
    ----------
    files : Path
        Clouds: an array (.npy, .npz, .csv, .txt, .parquet) of shape (clouds, points, d), or one cloud a file, as an
        array of shape (points, d) or the vertices of a mesh (.ply, .obj, .off, .stl, .xyz); or folders of such files.
        None takes the colours of patches of two photographs.
    out : Path
        Folder for the results.
    loss : str
        What is minimised: the paper's amortised distance, its counterparts by ascent, or plain sliced Wasserstein.
    concentration : float
        How tightly directions gather around the predicted one; near 0 they are uniform.
    projections : int
        Directions for each cloud and step.
    points : int
        Points that are drawn from each cloud.
    code : int
        Length of the codes.
    epochs : int
        Passes over the clouds.
    seed : int
        Seed of all that is random.

    Returns
    -------
    dict
        The summary.
    """
    check_integer("points", points, at_least=2)
    clouds, source = (_read(files), ", ".join(map(str, files))) if files else (_colours(), _COLOURS)
    rng = np.random.default_rng(seed)
    drawn = np.stack([each[rng.choice(len(each), points, replace=len(each) < points)] for each in clouds])
    # Every fifth cloud is kept back, so that the summary can tell learning from memory.
    held_out = np.arange(len(drawn)) % 5 == 4
    if len(drawn) < 10:
        held_out[:] = False
    model = PointCloudReconstructor(
        loss, concentration=concentration, n_projections=projections, latent_dim=code, n_epochs=epochs,
        random_state=seed,
    ).fit(drawn[~held_out])  # fmt: skip
    codes = model.transform(drawn)
    reconstructions = model.inverse_transform(codes)
    distances = distributional_sliced_wasserstein(
        drawn, np.ascontiguousarray(reconstructions), concentration=1e-9, n_iterations=0, random_state=seed
    )
    np.save(out / "codes.npy", codes)
    np.save(out / "reconstructions.npy", reconstructions)
    table = np.column_stack([np.arange(len(drawn)), held_out, distances])
    np.savetxt(out / "distances.csv", table, "%d,%d,%.6g", header="cloud,held_out,sliced_wasserstein", comments="")
    state = {"center": torch.from_numpy(model.center_), "scale": model.scale_, "points": points, "code": code}
    torch.save(state | {"autoencoder": model.autoencoder_.state_dict()}, out / "model.pt")
    _picture(drawn, reconstructions, held_out, model.loss_curve_, not files).savefig(out / "picture.png", dpi=150)
    return {
        "input": source,
        "clouds": len(drawn),
        "points": points,
        "dimension": drawn.shape[2],
        "loss": loss,
        "training loss, first and last epoch": [model.loss_curve_[0], model.loss_curve_[-1]],
        "mean sliced Wasserstein distance, trained on": float(distances[~held_out].mean()),
        "mean sliced Wasserstein distance, held out": float(distances[held_out].mean()) if held_out.any() else None,
        "root mean square radius": float(model.scale_ * drawn.shape[2] ** 0.5),
    }


_COLOURS = "colours of patches of 40 x 40 pixels in scikit-learn's photographs of China and of a flower"


def _read(files: tuple[Path, ...]) -> list[np.ndarray]:
    clouds = [cloud for path in files for cloud in _clouds_of(path)]
    for cloud in clouds:
        if cloud.shape[1] != clouds[0].shape[1]:
            raise InputError(f"clouds must have one dimension, got {clouds[0].shape[1]} and {cloud.shape[1]}")
    if clouds[0].shape[1] < 2:
        raise InputError(f"{files[0]}: points must have at least 2 coordinates, got {clouds[0].shape[1]}")
    return clouds


def _clouds_of(path: Path) -> Iterator[np.ndarray]:
    if path.is_dir():
        for each in files_in(path, (*ARRAYS, *MESHES)):
            yield from _clouds_of(each)
    elif path.suffix.lower() in (".npy", ".npz"):
        array = read_array(path)
        if array.ndim not in (2, 3):
            raise InputError(f"{path}: must have shape (clouds, points, d) or (points, d), got {array.shape}")
        yield from array if array.ndim == 3 else [array]
    else:
        yield read_points(path)


def _colours() -> list[np.ndarray]:
    size = 40
    patches = []
    for image in load_sample_images().images:
        height, width = (length - length % size for length in image.shape[:2])
        blocks = image[:height, :width].reshape(height // size, size, width // size, size, 3).swapaxes(1, 2)
        patches.extend(blocks.reshape(-1, size * size, 3) / 255.0)
    return patches


def _picture(
    clouds: np.ndarray, guesses: np.ndarray, held_out: np.ndarray, losses: list[float], colours: bool
) -> Figure:
    """Some clouds (held-out ones first) above their reconstructions, and the loss beside them."""
    shown = np.argsort(~held_out, kind="stable")[:: max(1, int(held_out.sum()) // 5)][:5]
    solid = clouds.shape[2] >= 3
    figure = Figure(figsize=(2.4 * len(shown) + 4, 5), layout="constrained")
    grid = figure.add_gridspec(2, len(shown) + 1, width_ratios=[*[1] * len(shown), 1.6])
    for column, index in enumerate(shown):
        low, high = clouds[index].min(axis=0), clouds[index].max(axis=0)
        for row, cloud in enumerate((clouds[index], guesses[index])):
            axes: Any = figure.add_subplot(grid[row, column], projection="3d" if solid else None)
            height = (cloud[:, -1] - low[-1]) / max(high[-1] - low[-1], 1e-12)
            axes.scatter(*cloud.T[:3], s=4, c=np.clip(cloud, 0, 1) if colours else height)
            for name, bottom, top in zip("xyz"[: 3 if solid else 2], low, high, strict=False):
                if top > bottom:
                    getattr(axes, f"set_{name}lim")(bottom, top)
            axes.tick_params(labelbottom=False, labelleft=False, labelright=False, labelsize=0)
            axes.set_title(f"{'cloud' if row == 0 else 'reconstruction of'} {index}", fontsize=9)
    axes = figure.add_subplot(grid[:, -1])
    axes.semilogy(range(1, len(losses) + 1), losses)
    axes.set(xlabel="epoch", ylabel="training loss, scaled clouds", title="training")
    return figure
