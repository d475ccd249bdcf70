"""Command: minimise a function from its values by consensus-based optimization or consensus hopping."""

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult

from paperworks._files import InputError, read_points
from paperworks._validation import check_integer
from paperworks.optimization import benchmark_function, consensus_hopping, minimize_consensus

Array = NDArray[np.float64]


def run(
    *files: Path,
    out: Path,
    function: Literal["canyon", "rastrigin", "ackley", "griewank", "salomon", "alpine", "xin_she_yang"] = "rastrigin",
    module: str = "",
    scalar: bool = False,
    dimension: int = 2,
    bounds: tuple[float, float] = (-3.0, 5.0),
    method: Literal["particles", "hopping"] = "particles",
    particles: int = 200,
    temperature_inverse: float | None = None,
    noise: float | None = None,
    noise_kind: Literal["anisotropic", "isotropic"] = "anisotropic",
    step: float = 0.01,
    iterations: int | None = None,
    runs: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Minimise a function of several variables from its values alone.

    Parameters
    ----------
    files : Path
        Positions to start from, one particle a row (.npy, .npz, .csv, .txt, .parquet); hopping starts from their mean.
        Without a file: drawn evenly within the bounds, and hopping starts from the bounds' corner of high values.
    out : Path
        Folder for the results: solution.csv, consensus_path.csv, history.csv, picture.png and summary.json.
    function : str, default "rastrigin"
        A function that ships, with its minimum 0 at the origin.
    module : str
        A function of your own in its place, as in my.py:objective; it takes points of shape (n, d) and returns values
        of shape (n,). The file is run.
    scalar : bool, default False
        Whether your function takes one point of shape (d,) and returns a number.
    dimension : int, default 2
        Number of variables d, where no file is given.
    bounds : float float, default -3 5
        Lower and upper bound of each variable; particles are reflected there, hops are not bounded.
    method : {"particles", "hopping"}, default "particles"
        Particles that drift to their consensus, or that are drawn anew around it.
    particles : int, default 200
        Number of particles, or of samples of a hop; that of rows, where a file is given to particles.
    temperature_inverse : float, optional
        How much lower values count for more: 1e5 for particles, 100 for hopping.
    noise : float, optional
        Noise of the particles, 1.2649; or the width of a hop, 0.7.
    noise_kind : {"anisotropic", "isotropic"}, default "anisotropic"
        Whether each coordinate of a particle is scattered by its own distance to the consensus.
    step : float, default 0.01
        Time step of the particles.
    iterations : int, optional
        Iterations at most: 4000 for particles, 250 hops.
    runs : int, default 1
        Independent runs of the particles, of which the best counts.
    seed : int, default 0
        Seed of the randomness.

    Returns
    -------
    dict
        The solution, its value, and how it was come by.
    """
    if len(files) > 1:
        raise InputError(f"one file is accepted, got {len(files)} files")
    start = read_points(files[0]) if files else None
    d = check_integer("dimension", dimension) if start is None else start.shape[1]
    if not bounds[0] < bounds[1]:
        raise InputError(f"bounds must have low < high, got {bounds[0]} and {bounds[1]}")
    fun = _load(module) if module else benchmark_function(function)
    if method == "hopping":
        result = consensus_hopping(
            fun,
            np.full(d, float(bounds[1])) if start is None else start.mean(axis=0),
            n_samples=particles,
            temperature_inverse=100.0 if temperature_inverse is None else temperature_inverse,
            width=0.7 if noise is None else noise,
            n_steps=250 if iterations is None else iterations,
            vectorized=not scalar,
            random_state=seed,
            progress=True,
        )
        path, best_so_far = result.consensus_path[1:], result.history["fun"]
    else:
        result = minimize_consensus(
            fun,
            start,
            bounds=[bounds] * d,
            n_particles=particles,
            temperature_inverse=1e5 if temperature_inverse is None else temperature_inverse,
            noise=1.2649 if noise is None else noise,
            noise_kind=noise_kind,
            step=step,
            max_iter=4000 if iterations is None else iterations,
            n_runs=runs,
            vectorized=not scalar,
            random_state=seed,
            progress=True,
        )
        path, best_so_far = _of_the_best_run(result)
    named = module or f"the function {function!r}"
    _write(out, result, path, best_so_far)
    _draw(fun, scalar, named, result, path, best_so_far, bounds).savefig(out / "picture.png", dpi=120)
    return {
        "input": f"{named} of {d} variables, " + (f"started from {files[0]}" if files else "no file given"),
        "method": method,
        "x": result.x,
        "fun": result.fun,
        "consensus_fun": result.consensus_fun,
        "evaluations": result.nfev,
        "iterations": result.nit,
        "success": result.success,
        "message": result.message,
    }


def _load(module: str) -> Callable[[Any], Any]:
    """Run a file and return one of its functions."""
    file, separator, name = module.rpartition(":")
    if not separator or not file.endswith(".py") or not name:
        raise InputError(f"module must be given as file.py:function, got {module!r}")
    if not Path(file).is_file():
        raise InputError(f"{file}: no such file")
    spec = spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    loaded = module_from_spec(spec)
    try:
        spec.loader.exec_module(loaded)
    except Exception as error:  # whatever the user's file raises
        raise InputError(f"{file}: can't be loaded: {type(error).__name__}: {error}") from error
    function = getattr(loaded, name, None)
    if not callable(function):
        raise InputError(f"{file}: has no function {name!r}")
    return function


def _of_the_best_run(result: OptimizeResult) -> tuple[Array, Array]:
    if result.consensus_path.ndim == 2:
        return result.consensus_path, result.history["fun"]
    best = int(np.argmin(result.runs["fun"]))
    return result.consensus_path[best], result.history["fun"][best]


def _write(out: Path, result: OptimizeResult, path: Array, best_so_far: Array) -> None:
    names = ",".join(f"x{j + 1}" for j in range(path.shape[1]))
    options: dict[str, Any] = {"delimiter": ",", "comments": ""}
    np.savetxt(out / "solution.csv", result.x[None], header=names, fmt="%.17g", **options)
    np.savetxt(out / "consensus_path.csv", path, header=names, **options)
    history = [np.arange(1, len(path) + 1), result.history["nfev"], result.history["seconds"], best_so_far]
    np.savetxt(out / "history.csv", np.column_stack(history), header="iteration,evaluations,seconds,best", **options)


def _draw(
    fun: Callable[[Any], Any],
    scalar: bool,
    named: str,
    result: OptimizeResult,
    path: Array,
    best_so_far: Array,
    bounds: tuple[float, float],
) -> Figure:
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    scale = "log" if best_so_far.min() > 0 else "linear"
    for axis, key, words in ((left, "nfev", "evaluations"), (middle, "seconds", "seconds")):
        axis.plot(result.history[key], best_so_far, color="#33658a")
        axis.set(xlabel=words, ylabel="lowest value so far", yscale=scale)
        axis.grid(alpha=0.3)
    if path.shape[1] == 2:
        low, high = min(bounds[0], path.min()), max(bounds[1], path.max())
        grid = np.linspace(low, high, 120)
        points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
        values = np.array([fun(point) for point in points]) if scalar else np.asarray(fun(points))
        right.contourf(grid, grid, values.reshape(120, 120), 30, cmap="Greys")
        right.plot(*path.T, ".-", color="#f26419", markersize=3, linewidth=0.8)
        right.plot(*result.x, "*", color="#33658a", markersize=12)
        right.set(title="path of the consensus point", xlabel="x1", ylabel="x2")
    else:
        right.plot(np.arange(1, len(path) + 1), path, linewidth=0.8)
        right.set(title="coordinates of the consensus point", xlabel="iteration")
    figure.suptitle(f"{named}: lowest value {result.fun:.4g} after {result.nfev:,} evaluations")
    return figure
