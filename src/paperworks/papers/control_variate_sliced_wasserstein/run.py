"""Command: the sliced Wasserstein distance between two files."""

import csv
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paperworks._files import InputError, is_image, read_image, read_points
from paperworks._validation import check_integer


def run(
    *files: Path,
    out: Path,
    projections: int = 100,
    control_variate: Literal["lower", "upper", "both"] = "lower",
    seed: int = 0,
) -> dict[str, Any]:
    """Estimate the sliced Wasserstein distance between two samples, with its error bar.

    Parameters
    ----------
    files : Path
        Two samples with the same columns: points as rows of .npy, .npz, .csv, .txt or .parquet, vertices of .ply, .obj,
        .off, .stl or .xyz, or the colours of the pixels of .png or .jpg. Without files: handwritten zeros and ones.
    out : Path
        Folder for the results.
    projections : int, default 100
        Number of random directions.
    control_variate : {"lower", "upper", "both"}, default "lower"
        What is subtracted from every slice to take out noise.
    seed : int, default 0
        Seed of the directions.

    Returns
    -------
    dict
        The distance, its standard error, and how much noise the control variate took out.
    """
    from paperworks.transport import sliced_wasserstein_distance

    check_integer("projections", projections)
    x, y, names = _samples(files)
    counts = sorted({projections, *(int(count) for count in np.geomspace(10, max(10, projections), 12))})
    rows = []
    for count in (count for count in counts if count <= projections):
        # The same seed gives the same directions: every row continues the one above it.
        options: dict[str, Any] = {"n_projections": count, "random_state": seed, "return_details": True}
        plain = sliced_wasserstein_distance(x, y, control_variate=None, **options)
        ours = sliced_wasserstein_distance(x, y, control_variate=control_variate, **options)
        rows.append([count, plain.value_power, plain.standard_error, ours.value_power, ours.standard_error])
    with (out / "convergence.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["projections", "plain_squared", "plain_error", "controlled_squared", "controlled_error"])
        writer.writerows(rows)
    _draw(np.array(rows, dtype=float), control_variate, names, out / "picture.png")
    return {
        "input": " and ".join(
            f"{name} ({len(part)} x {part.shape[1]})" for name, part in zip(names, (x, y), strict=True)
        ),
        "distance": ours.value,
        "squared_distance": ours.value_power,
        "standard_error_of_square": ours.standard_error if np.isfinite(ours.standard_error) else None,
        "variance_reduction": ours.variance_reduction,
        "plain_distance": plain.value,
        "plain_standard_error_of_square": plain.standard_error if np.isfinite(plain.standard_error) else None,
        "projections": projections,
        "control_variate": control_variate,
        "seed": seed,
    }


def _samples(files: tuple[Path, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    if not files:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        return (
            images[labels == 0] / 16,
            images[labels == 1] / 16,
            ["handwritten zeros", "ones of scikit-learn's digits"],
        )
    if len(files) != 2:
        raise InputError(f"two files are compared with each other, got {len(files)}: {', '.join(map(str, files))}")
    x, y = (_read(path) for path in files)
    if x.shape[1] != y.shape[1]:
        raise InputError(
            f"{files[0]} and {files[1]}: must have the same number of columns, got {x.shape[1]} and {y.shape[1]}"
        )
    return x, y, [path.name for path in files]


def _read(path: Path) -> NDArray[np.float64]:
    if not is_image(path):
        return read_points(path)
    image = read_image(path)
    return image.reshape(-1, image.shape[2] if image.ndim == 3 else 1)


def _draw(rows: NDArray[np.float64], control_variate: str, names: list[str], path: Path) -> None:
    """Draw both estimates with two standard errors against the number of directions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    count = rows[:, 0]
    for name, column, colour in (("plain", 1, "tab:grey"), (f"{control_variate} control variate", 3, "tab:blue")):
        value, error = rows[:, column], rows[:, column + 1]
        axes.plot(count, value, "o-", color=colour, markersize=3, label=name)
        known = np.isfinite(error)
        axes.fill_between(
            count[known], (value - 2 * error)[known], (value + 2 * error)[known], color=colour, alpha=0.2, linewidth=0
        )
    axes.set(xscale="log", xlabel="random directions", ylabel="squared distance, with two standard errors")
    axes.set_title(f"Sliced Wasserstein distance\n{names[0]} and {names[1]}", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
