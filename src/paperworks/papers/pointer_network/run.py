"""Command: answer a question about points by a pointer network, beside the exact answer."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paperworks._files import InputError, read_points
from paperworks._validation import check_integer

# The network is trained on sets of about as many points as it is to answer, but on no larger ones than these.
MOST_TRAINED_ON = 20
TITLES = {
    "convex_hull": "convex hull",
    "delaunay": "Delaunay triangulation",
    "tsp": "travelling salesman's tour",
    "sorting": "sorting",
}


def run(
    *files: Path,
    out: Path,
    task: Literal["convex_hull", "delaunay", "tsp", "sorting"] = "tsp",
    model: Path | None = None,
    train_steps: int = 5000,
    hidden_size: int = 64,
    beam_width: int = 4,
    seed: int = 0,
) -> dict[str, Any]:
    """Find a hull, a triangulation, a tour or an order of points by a pointer network, beside the exact answer.

    Parameters
    ----------
    files : Path
        One file of points as rows: two columns (one to sort), .npy, .npz, .csv, .txt or .parquet, or the vertices of a
        mesh (.ply, .obj, .off, .stl, .xyz). Coordinates are brought into the unit square. Without a file: sepal
        and petal lengths of ten of scikit-learn's irises.
    out : Path
        Folder for the results: answer.csv, model.pt, picture.png and summary.json.
    task : {"convex_hull", "delaunay", "tsp", "sorting"}, default "tsp"
        What is asked.
    model : Path, optional
        A model.pt of an earlier run, in place of training one.
    train_steps : int, default 5000
        Training steps.
    hidden_size : int, default 64
        Size of the network's states.
    beam_width : int, default 4
        Beginnings that the beam search keeps.
    seed : int, default 0
        Seed of the training.

    Returns
    -------
    dict
        How good the answer is, beside the exact one.
    """
    for name, value in (("train_steps", train_steps), ("hidden_size", hidden_size), ("beam_width", beam_width)):
        check_integer(name, value)
    points, named = _points(files, task)
    solver = _solver(model, task, len(points), train_steps, hidden_size, beam_width, seed)
    scaled = _into_unit_square(points)
    answer = solver.predict([scaled])[0]
    if model is None:
        solver.save(out / "model.pt")
    header = "a,b,c" if task == "delaunay" else "index"
    np.savetxt(out / "answer.csv", answer, fmt="%d", delimiter=",", header=header, comments="")
    found, exact = _compared(task, scaled, answer)
    _draw(task, points, answer, exact, named, out / "picture.png")
    trained = solver.n_points if isinstance(solver.n_points, tuple) else (solver.n_points, solver.n_points)
    return {
        "input": f"{named} ({len(points)} points)",
        "task": task,
        "points": len(points),
        "trained_on_sizes": list(trained),
        "steps": solver.n_steps_,
        **found,
    }


def _points(files: tuple[Path, ...], task: str) -> tuple[NDArray[np.float64], str]:
    from paperworks.combinatorial.pointer_network.geometry import KINDS

    kind = KINDS[task]  # type: ignore[index]
    if not files:
        points, named = _bundled()
        return points[:, : kind.dimension], named
    if len(files) > 1:
        raise InputError(f"one file of points, got {len(files)}: {', '.join(path.name for path in files)}")
    points = read_points(files[0])
    if points.shape[1] != kind.dimension:
        raise InputError(f"{files[0]}: must hold points of {kind.dimension} coordinates, got {points.shape[1]}")
    if len(points) < kind.least_points:
        raise InputError(f"{files[0]}: must hold {kind.least_points} points or more, got {len(points)}")
    return points, files[0].name


def _bundled() -> tuple[NDArray[np.float64], str]:
    """Sepal and petal lengths of ten flowers, no two alike."""
    from sklearn.datasets import load_iris

    flowers = np.unique(load_iris().data[:, [0, 2]], axis=0)
    chosen = np.random.default_rng(0).permutation(len(flowers))[:10]
    return flowers[chosen], "sepal and petal lengths of 10 of scikit-learn's irises"


def _solver(
    model: Path | None, task: Any, n: int, train_steps: int, hidden_size: int, beam_width: int, seed: int
) -> Any:
    from paperworks.combinatorial import PointerSolver

    if model is None:
        # Sizes about that of the user's set: a network does best there.
        most = min(max(n, 5), MOST_TRAINED_ON)
        sizes = (max(3, min(most - 3, 5)), most)
        solver = PointerSolver(task, hidden_size, train_steps, n_points=sizes, random_state=seed)
        return solver.set_params(beam_width=beam_width).fit()
    if not model.exists():
        raise InputError(f"{model}: no such file")
    solver = PointerSolver.load(model)
    if solver.task != task:
        raise InputError(f"{model}: was trained for {solver.task}, not {task}")
    return solver.set_params(beam_width=beam_width)


def _into_unit_square(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift and scale by one factor, so that shapes stay: the network knows points of the unit square alone."""
    extent = float(np.ptp(points, axis=0).max())
    return (points - points.min(axis=0)) / (extent or 1.0)


def _compared(task: str, points: NDArray[np.float64], answer: NDArray[np.int64]) -> tuple[dict[str, Any], Any]:
    """How good the answer is, and the exact one."""
    from scipy.spatial import ConvexHull, Delaunay, QhullError

    from paperworks.combinatorial import (
        convex_hull_metrics,
        delaunay_metrics,
        held_karp,
        tour_length,
        two_opt,
    )

    if task == "sorting":
        exact: Any = points[:, 0].argsort(kind="stable")
        in_place = float((points[answer, 0] == points[exact, 0]).mean())
        return {"right": in_place == 1.0, "share_in_place": in_place}, exact
    if task == "tsp":
        exact = held_karp(points) if len(points) <= 15 else two_opt(points)
        ours, best = tour_length(points, answer), tour_length(points, exact)
        by = "held_karp" if len(points) <= 15 else "two_opt"
        return {"exact_by": by, "ratio_to_exact": ours / best if best else 1.0}, exact
    try:
        exact = ConvexHull(points).vertices if task == "convex_hull" else Delaunay(points).simplices
    except QhullError:
        raise InputError("the points lie on one line: they have no hull with an area") from None
    if task == "convex_hull":
        hull = convex_hull_metrics([points], [answer])
        found = {"right": bool(hull.accuracy), "simple": not hull.not_simple}
        return {**found, "area_of_the_vertices": hull.vertex_area_ratio}, exact
    triangles = delaunay_metrics([points], [answer])
    return {"right": bool(triangles.accuracy), "share_of_triangles": triangles.coverage}, exact


def _draw(task: str, points: NDArray[np.float64], answer: Any, exact: Any, named: str, path: Path) -> None:
    """Draw the network's answer beside the exact one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    for axes, title, shown in zip(figure.subplots(1, 2), ("pointer network", "exact"), (answer, exact), strict=True):
        if task == "sorting":
            axes.bar(range(len(shown)), points[shown, 0], color="tab:blue")
            axes.set(xlabel="place", ylabel="number", title=title)
        else:
            colour = "tab:blue" if title == "pointer network" else "tab:grey"
            # A triangle is closed, and so are a hull and a tour.
            for ring in shown if task == "delaunay" else [shown]:
                closed = np.append(ring, ring[:1])
                axes.plot(points[closed, 0], points[closed, 1], color=colour, linewidth=1.2)
            axes.plot(points[:, 0], points[:, 1], "o", color="black", markersize=4)
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{TITLES[task]}: {named}".replace("$", r"\$"), fontsize=11)
    figure.savefig(path, dpi=150)
