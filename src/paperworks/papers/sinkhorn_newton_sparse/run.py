"""The command of the sparse Newton paper."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

from paperworks._files import InputError, is_image, read_array, read_image, read_points
from paperworks._progress import progress_bar
from paperworks._random import numpy_generator
from paperworks.transport import OptimalTransportResult, sinkhorn_newton

Image = NDArray[np.float64]
Metric = Literal["sqeuclidean", "cityblock"]
LARGEST_GRID = 10_000


def run(
    *files: Path,
    out: Path,
    source: Path | None = None,
    target: Path | None = None,
    regularization: float | None = None,
    metric: Metric = "sqeuclidean",
    sweeps: int = 20,
    max_newton: int = 2000,
    tol: float = 1e-9,
    sparsification: Literal["adaptive", "fixed"] = "adaptive",
    colours: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Solve entropic optimal transport to high accuracy: a cost, two point clouds, or two pictures.

    One array file is a cost. Two array or mesh files are point clouds. Two grey pictures of one size are masses on
    their pixels. Two colour pictures have their colours moved: the first is painted with the second's palette. Without
    files, scikit-learn's photographs china and flower are.

    Parameters
    ----------
    files
        A cost (.npy .npz .csv .txt .parquet), or two point files (those, .ply .obj .off .stl .xyz), or two pictures
        (.png .jpg).
    out
        Folder for plan.npz (or recoloured.png), summary.json and picture.png.
    source
        Weights of the first marginal; uniform if not given.
    target
        Weights of the second marginal; uniform if not given.
    regularization
        1/eta in the units of the cost; a 1200th of the largest cost if not given, as in the paper.
    metric
        Cost between points, pixels or colours.
    sweeps
        Sinkhorn sweeps before the Newton steps.
    max_newton
        Newton steps at most.
    tol
        Marginal error to reach.
    sparsification
        How the Hessian is sparsified: adaptively, or the paper's fixed share.
    colours
        Colours that are drawn from each colour picture.
    seed
        Seed of that draw.
    """
    options = {"n_sinkhorn": sweeps, "max_newton": max_newton, "tol": tol, "sparsification": sparsification}

    def solve(cost: Image, a: Image | None, b: Image | None) -> OptimalTransportResult:
        strength = float(cost.max()) / 1200 if regularization is None else regularization
        # How many steps it takes is not known before: the bar counts problems.
        with progress_bar((), f"solving {cost.shape[0]:,} x {cost.shape[1]:,}", total=1) as bar:
            solved = sinkhorn_newton(cost, a, b, regularization=strength, **options)
            bar.update()
        return OptimalTransportResult(**solved, regularization=strength)

    kinds = {is_image(path) for path in files}
    if len(files) > 2 or len(kinds) > 1:
        raise InputError(f"one cost, two point files or two pictures are accepted, got {len(files)} files")
    if kinds != {False} and len(files) != 1:
        pictures, names = _pictures(files)
        if pictures[0].ndim == 3:
            return _recolour(pictures, names, solve, metric, colours, seed, out)
        return _move_pixels(pictures, names, solve, metric, out)
    if kinds == {True}:
        raise InputError(f"{files[0]}: one picture alone; two are needed")
    weights = [None if path is None else read_array(path).reshape(-1) for path in (source, target)]
    cost = read_array(files[0]) if len(files) == 1 else _distances(read_points(files[0]), read_points(files[1]), metric)
    result = solve(cost, *weights)
    return _keep(result, cost.shape, ", ".join(map(str, files)), out)


def _pictures(files: tuple[Path, ...]) -> tuple[list[Image], str]:
    if not files:
        images = [image / 255.0 for image in load_sample_images().images]
        return images, "no file given: scikit-learn's photographs china and flower"
    images = [read_image(path) for path in files]
    if len({image.ndim for image in images}) > 1:
        raise InputError(f"{files[0]} and {files[1]}: one is grey, the other in colour")
    return images, f"{files[0]} and {files[1]}"


def _distances(x: Image, y: Image, metric: Metric) -> Image:
    if x.shape[1] != y.shape[1]:
        raise InputError(f"points must have the same number of columns, got {x.shape[1]} and {y.shape[1]}")
    from scipy.spatial.distance import cdist

    return cdist(x, y, metric)


def _move_pixels(pictures: list[Image], names: str, solve: Any, metric: Metric, out: Path) -> dict[str, Any]:
    height, width = pictures[0].shape
    if pictures[0].shape != pictures[1].shape:
        raise InputError(f"grey pictures must have one size, got {pictures[0].shape} and {pictures[1].shape}")
    if height * width > LARGEST_GRID:
        raise InputError(f"grey pictures of at most {LARGEST_GRID} pixels are accepted, got {height} x {width}")
    a, b = (picture.ravel() / picture.sum() if picture.any() else picture.ravel() for picture in pictures)
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2).astype(float)
    result = solve(_distances(grid, grid, metric), a, b)
    return _keep(result, (height * width,) * 2, names, out)


def _keep(result: OptimalTransportResult, shape: tuple[int, ...], names: str, out: Path) -> dict[str, Any]:
    np.savez_compressed(
        out / "plan.npz", plan=result.plan, dual_source=result.dual_source, dual_target=result.dual_target
    )
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = np.log10(np.maximum(result.plan, result.plan.max() * 1e-8))
    left.imshow(shown, aspect="auto", cmap="magma", interpolation="nearest")
    left.set(title="plan, log scale", xlabel="target", ylabel="source")
    _draw_convergence(right, result)
    figure.savefig(out / "picture.png", dpi=150)
    return {"input": names, "shape": list(shape), **_figures(result)}


def _recolour(
    pictures: list[Image], names: str, solve: Any, metric: Metric, n_colours: int, seed: int, out: Path
) -> dict[str, Any]:
    """Carry the first picture's colours to the second's by the entropic map, which is defined for every colour."""
    if n_colours < 2:
        raise InputError(f"--colours must be at least 2, got {n_colours}")
    generator = numpy_generator(seed)
    clouds = [picture.reshape(-1, 3) for picture in pictures]
    drawn = [cloud[generator.choice(len(cloud), min(n_colours, len(cloud)), replace=False)] for cloud in clouds]
    cost = _distances(drawn[0], drawn[1], metric)
    result = solve(cost, None, None)
    recoloured = _entropic_map(clouds[0], drawn[1], result.dual_target, result.regularization, metric)
    return _keep_picture(pictures, recoloured.reshape(pictures[0].shape), result, names, out)


def _entropic_map(points: Image, targets: Image, dual: Image, regularization: float, metric: Metric) -> Image:
    """T(x) = sum_j y_j softmax_j((dual_j - c(x, y_j)) / regularization), in float32: colours have 8 bits."""
    # A picture has fewer colours than pixels.
    colours, place = np.unique((points * 255).round().astype(np.uint8), axis=0, return_inverse=True)
    there, offsets = torch.from_numpy(targets).float(), torch.from_numpy(dual / regularization).float()
    mapped = np.empty((len(colours), 3))
    for start in progress_bar(range(0, len(colours), 4096), "carrying colours"):
        block = torch.from_numpy(colours[start : start + 4096] / 255.0).float()
        cost = torch.cdist(block, there).square() if metric == "sqeuclidean" else torch.cdist(block, there, p=1.0)
        mapped[start : start + 4096] = torch.softmax(offsets - cost / regularization, dim=1) @ there
    return mapped[place.reshape(-1)]


def _keep_picture(
    pictures: list[Image], recoloured: Image, result: OptimalTransportResult, names: str, out: Path
) -> dict[str, Any]:
    from PIL import Image as Pillow

    Pillow.fromarray((recoloured.clip(0, 1) * 255).round().astype(np.uint8)).save(out / "recoloured.png")
    figure = Figure(figsize=(15, 3.4), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=[1.5, 1.5, 1.5, 1.1])
    titles = ("the picture", "the palette", "the picture in that palette")
    for axis, image, title in zip(axes, [*pictures, recoloured.clip(0, 1)], titles, strict=False):
        axis.imshow(image)
        axis.set_title(title)
        axis.axis("off")
    _draw_convergence(axes[3], result)
    figure.savefig(out / "picture.png", dpi=120)
    return {"input": names, "colours": list(result.plan.shape), **_figures(result)}


def _draw_convergence(axis: Any, result: OptimalTransportResult) -> None:
    errors = [max(row["error"], 1e-17) for row in result.history]
    sweeps = result.n_sinkhorn
    axis.semilogy(range(1, sweeps + 1), errors[:sweeps], ".-", label="Sinkhorn sweeps")
    axis.semilogy(range(sweeps, len(errors) + 1), errors[max(sweeps - 1, 0) :], ".-", label="sparse Newton steps")
    axis.set(title="convergence", xlabel="iteration", ylabel="marginal error")
    axis.grid(alpha=0.3)
    axis.legend()


def _figures(result: OptimalTransportResult) -> dict[str, Any]:
    names = (
        "regularization",
        "value",
        "regularized_value",
        "marginal_error",
        "n_sinkhorn",
        "n_newton",
        "n_linear_iterations",
    )
    return {name: result[name] for name in names} | {"converged": result.converged, "message": result.message}
