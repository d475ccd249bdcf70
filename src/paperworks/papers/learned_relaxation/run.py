"""The command of the learned relaxation paper."""

import csv
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from paperworks._files import InputError, read_array
from paperworks._progress import progress_bar
from paperworks._validation import check_integer
from paperworks.linalg import (
    HeatSimulation,
    RelaxationTuner,
    SequenceReport,
    solve_sequence,
    sor,
    ssor_conjugate_gradient,
)
from paperworks.linalg._systems import read_systems

Array = NDArray[Any]
SOLVERS: dict[str, Any] = {"sor": sor, "ssor_cg": ssor_conjugate_gradient}


def run(
    *files: Path,
    out: Path,
    solver: Literal["sor", "ssor_cg"] = "ssor_cg",
    policy: Literal["tsallis_inf", "tsallis_inf_binned", "chebyshev"] = "tsallis_inf",
    context: Path | None = None,
    n_arms: int = 20,
    arm_min: float = 1.0,
    arm_max: float = 1.95,
    n_bins: int = 6,
    degree: int = 5,
    rtol: float = 1e-8,
    max_iter: int = 10_000,
    warm_start: bool = False,
    intervals: int = 50,
    steps: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Solve a sequence of sparse systems with a relaxation parameter that is learned along the way.

    Without files, heat is simulated on the unit square, with a diffusion that comes and goes as the context.

    Parameters
    ----------
    files
        A folder of systems, or matrices: Matrix Market (.mtx, .mtx.gz) or SciPy's .npz, solved in the order of their
        names. The right-hand side of NAME.mtx is NAME.npy, NAME_rhs.mtx or NAME_b.mtx beside it; ones if there is none.
    out
        Folder for solutions.npz (one array a system), systems.csv, summary.json and picture.png.
    solver
        Successive over-relaxation, or conjugate gradients preconditioned by a symmetric sweep (symmetric positive
        definite matrices).
    policy
        Bandit without a context, or with one: in bins, or by Chebyshev regression.
    context
        Array file (.csv, .npy, .txt) with one number for each system, in the order of their names.
    n_arms
        Number of parameters to choose from.
    arm_min
        Least of them, above 0.
    arm_max
        Greatest of them, below 2.
    n_bins
        Parts of the context's range, for tsallis_inf_binned.
    degree
        Degree of the polynomials, for chebyshev.
    rtol
        Tolerance of the residual: relative to that of the start for sor, to the right-hand side for ssor_cg.
    max_iter
        Iterations that a system may take.
    warm_start
        Start each system from the solution of the one before.
    intervals
        Intervals along each side of the simulation.
    steps
        Steps of the simulation.
    seed
        Seed of the bandit's draws.
    """
    tuner = RelaxationTuner(
        solver, policy, n_arms, (arm_min, arm_max), None, n_bins, degree, rtol, max_iter, random_state=seed
    )
    if context is not None and not files:
        raise InputError("context needs files: the simulation has its own")
    names, systems, contexts, source = _simulated(intervals, steps) if not files else _from_files(files, context)
    if policy != "tsallis_inf" and contexts is None:
        raise InputError(f"policy {policy} needs --context, an array file with one number for each system")
    if warm_start and len({len(b) for _, b, _ in systems}) > 1:
        raise InputError("warm_start needs systems with one number of unknowns")
    with warnings.catch_warnings():
        # The summary says which systems did not converge.
        warnings.simplefilter("ignore", ConvergenceWarning)
        report = solve_sequence(systems, tuner, contexts, warm_start=warm_start)
        fifth = max(1, len(names) // 5)
        favourite = _most_used(report.relaxations[-fifth:])
        shown = int(np.flatnonzero(report.relaxations == favourite)[-1])
        histories = _histories(solver, systems[shown], favourite, rtol, max_iter)
    assert report.solutions is not None
    np.savez(out / "solutions.npz", **dict(zip(names, report.solutions, strict=True)))
    _table(out / "systems.csv", names, report, contexts)
    _draw(report, contexts, names[shown], histories, rtol).savefig(out / "picture.png", dpi=120)
    residuals = [
        np.linalg.norm(b - A @ x) / (np.linalg.norm(b) or 1.0)
        for (A, b, _), x in zip(systems, report.solutions, strict=True)
    ]
    return {
        "input": source,
        "systems": len(names),
        "unknowns": int(max(len(b) for _, b, _ in systems)),
        "converged": int(report.converged.sum()),
        "not_converged": [name for name, ok in zip(names, report.converged, strict=True) if not ok],
        "largest_relative_residual": float(max(residuals)),
        "total_iterations": float(report.iterations.sum()),
        "mean_iterations_first_fifth": float(report.iterations[:fifth].mean()),
        "mean_iterations_last_fifth": float(report.iterations[-fifth:].mean()),
        "most_used_relaxation_of_last_fifth": favourite,
        "seconds_of_solving": float(report.seconds.sum()),
    }


def _simulated(intervals: int, steps: int) -> tuple[list[str], list[Any], list[float], str]:
    # Each system is the step after a precise solution of the one before, so that all solvers are given the same.
    simulation = HeatSimulation(check_integer("intervals", intervals, at_least=3))
    systems, contexts = [], []
    for _ in progress_bar(range(check_integer("steps", steps)), "simulation"):
        A, b = simulation.system()
        systems.append((A, b, simulation.u))
        contexts.append(simulation.coefficient)
        simulation.advance(ssor_conjugate_gradient(A, b, simulation.u, 1.5, 1e-12).x)
    n = len(simulation.u)
    source = f"no files given: {steps} steps of a heat simulation with {n:,} unknowns, its diffusion as the context"
    return [f"step{i}" for i in range(steps)], systems, contexts, source


def _from_files(files: tuple[Path, ...], context: Path | None) -> tuple[list[str], list[Any], list[float] | None, str]:
    read = read_systems(files)
    complex_ones = [each.name for each in read if "c" in (each.matrix.dtype.kind, each.rhs.dtype.kind)]
    if complex_ones:
        raise InputError(f"{complex_ones[0]}: is complex; real systems are accepted here")
    contexts = None
    if context is not None:
        values = read_array(context).ravel()
        if len(values) != len(read):
            raise InputError(f"{context}: must hold {len(read)} numbers, one for each system, got {len(values)}")
        contexts = values.tolist()
    return (
        [each.name for each in read],
        [(each.matrix, each.rhs, None) for each in read],
        contexts,
        ", ".join(map(str, files)),
    )


def _histories(solver: str, system: Any, learned: float, rtol: float, max_iter: int) -> list[tuple[str, Array, Array]]:
    """Relative residuals on one system and the seconds they took, with the learned parameter and with one."""
    histories = []
    for name, omega in ((f"learned, {learned:.2f}", learned), ("fixed, 1", 1.0)):
        residuals, seconds, start = [1.0], [0.0], perf_counter()

        def look(residual: float) -> None:
            residuals.append(residual)  # noqa: B023
            seconds.append(perf_counter() - start)  # noqa: B023

        SOLVERS[solver](*system, omega, rtol, max_iter, callback=look)
        histories.append((name, np.array(seconds), np.array(residuals)))
    return histories


def _most_used(relaxations: Array) -> float:
    values, counts = np.unique(relaxations, return_counts=True)
    return float(values[counts.argmax()])


def _table(path: Path, names: list[str], report: SequenceReport, contexts: list[float] | None) -> None:
    columns = [report.relaxations, report.iterations, report.seconds, report.converged]
    header = ["system", "relaxation", "iterations", "seconds", "converged"]
    if contexts is not None:
        header, columns = [*header, "context"], [*columns, np.array(contexts)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for name, *values in zip(names, *(column.tolist() for column in columns), strict=True):
            writer.writerow([name, *values])


def _draw(report: SequenceReport, contexts: list[float] | None, shown: str, histories: Any, rtol: float) -> Figure:
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    (passes, time, so_far), (each, chosen, by_context) = figure.subplots(2, 3)
    for (name, seconds, residuals), colour in zip(histories, ("#33658a", "#999999"), strict=True):
        passes.semilogy(np.arange(len(residuals)), residuals, color=colour, label=name)
        time.semilogy(1e3 * seconds, residuals, color=colour, label=name)
    for axis, label in ((passes, "iterations: passes over the matrix"), (time, "milliseconds")):
        axis.axhline(rtol, color="#888888", linewidth=1, linestyle="--")
        axis.set(title=f"relative residual of {shown}", xlabel=label)
    passes.legend(frameon=False)
    count = np.arange(1, len(report.iterations) + 1)
    so_far.plot(count, report.iterations.cumsum() / count, color="#758e4f")
    so_far.set(title="mean iterations so far", xlabel="systems", ylim=(0, None))
    each.plot(count, report.iterations, ".", color="#33658a", markersize=3)
    each.set(title="iterations", xlabel="system", yscale="log")
    chosen.plot(count, report.relaxations, ".", color="#f26419", markersize=3)
    chosen.set(title="relaxation", xlabel="system")
    where = report.relaxations if contexts is None else np.array(contexts)
    by_context.scatter(where, report.iterations, c=count, s=6, cmap="viridis")
    by_context.set(title="iterations", xlabel="relaxation" if contexts is None else "context", yscale="log")
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure
