"""The command of the Krylov recycling paper."""

import csv
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from paperworks._files import InputError
from paperworks._validation import check_integer
from paperworks.linalg import (
    KrylovRecyclingSolver,
    RecycleSpace,
    SequenceSolution,
    build_preconditioner,
    convection_diffusion_systems,
    darcy_systems,
    gcro_dr,
    helmholtz_systems,
    poisson_systems,
    thermal_systems,
)
from paperworks.linalg._systems import read_systems

PROBLEMS: dict[str, Any] = {
    "darcy": darcy_systems,
    "helmholtz": helmholtz_systems,
    "poisson": poisson_systems,
    "thermal": thermal_systems,
    "convection-diffusion": convection_diffusion_systems,
}
# Products after which GMRES alone, drawn for comparison, is stopped.
PATIENCE = 3000

Array = NDArray[Any]
History = tuple[str, list[float], list[float], list[float]]


def run(
    *files: Path,
    out: Path,
    problem: Literal["darcy", "helmholtz", "poisson", "thermal", "convection-diffusion"] = "darcy",
    grid: int = 48,
    count: int = 40,
    rtol: float = 1e-8,
    preconditioner: Literal["none", "jacobi", "block_jacobi", "ssor", "ilu", "ic"] = "none",
    sort: Literal["greedy", "grouped", "hilbert", "none"] = "greedy",
    restart: int = 40,
    n_recycle: int = 20,
    maxiter: int = 10_000,
    jobs: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Solve a sequence of related sparse systems, sorted, with a subspace carried from each to the next.

    Without files, systems are generated, and their parameters stored beside the solutions, as data to learn from.

    Parameters
    ----------
    files
        A folder of systems, or matrices: Matrix Market (.mtx, .mtx.gz) or SciPy's .npz, all of one size. The right-hand
        side of NAME.mtx is NAME.npy, NAME_rhs.mtx or NAME_b.mtx beside it; ones if there is none.
    out
        Folder for data.npz (solutions; right-hand sides and parameters of generated systems), systems.csv,
        summary.json and picture.png.
    problem
        What is generated if no files are given.
    grid
        Its unknowns along each axis.
    count
        Number of systems that are generated.
    rtol
        Tolerance of the residual, relative to the right-hand side.
    preconditioner
        Built for each system.
    sort
        How systems are ordered: by their parameters, or the entries of matrices from files.
    restart
        Dimension of the space that a cycle minimises over.
    n_recycle
        Dimension of the subspace that is carried; 0 for GMRES.
    maxiter
        Steps that a system may take.
    jobs
        Processes; -1 for all cores.
    seed
        Seed of the generated systems.
    """
    kind = None if preconditioner == "none" else preconditioner
    solver = KrylovRecyclingSolver(
        restart, n_recycle, rtol, 0.0, maxiter, kind, None if sort == "none" else sort, n_jobs=jobs
    )
    if files:
        systems = read_systems(files)
        names, matrices = [each.name for each in systems], [each.matrix for each in systems]
        sizes = {len(each.rhs): each.name for each in systems}
        if len(sizes) > 1:
            shown = ", ".join(f"{name} has {size}" for size, name in sizes.items())
            raise InputError(f"the systems of a sequence must have one number of unknowns: {shown}")
        rhs, parameters = np.array([each.rhs for each in systems]), None
        source = ", ".join(map(str, files))
    else:
        count = check_integer("count", count)
        matrices, rhs, parameters = PROBLEMS[problem](count, grid, random_state=seed)
        names = [f"{problem} {i}" for i in range(count)]
        source = f"no files given: {count} {problem} systems on a grid of {grid} x {grid}"
    with warnings.catch_warnings():
        # The summary says which systems did not converge.
        warnings.simplefilter("ignore", ConvergenceWarning)
        start = perf_counter()
        solution = solver.solve_many(matrices, rhs, parameters)
        seconds = perf_counter() - start
        histories = _histories(matrices, rhs, solution, solver)
    stored = {"x": solution.X} | ({} if parameters is None else {"rhs": rhs, "parameters": parameters})
    np.savez(out / "data.npz", **stored)
    _table(out / "systems.csv", names, solution)
    _draw(histories, solution, rtol).savefig(out / "picture.png", dpi=120)
    return {
        "input": source,
        "systems": len(names),
        "unknowns": rhs.shape[1],
        "converged": int(solution.converged.sum()),
        "not_converged": [name for name, ok in zip(names, solution.converged, strict=True) if not ok],
        "largest_relative_residual": float(solution.residuals.max()),
        "mean_iterations": float(solution.iterations.mean()),
        "mean_matvecs": float(solution.matvecs.mean()),
        "matvecs_of_the_first": int(solution.matvecs[solution.order[0]]),
        "seconds_of_solving": seconds,
    }


def _histories(
    matrices: list[Any], rhs: Array, solution: SequenceSolution, solver: KrylovRecyclingSolver
) -> list[History]:
    """Convergence on the last system: by GMRES alone, and with the subspace of the systems before."""
    recycle, histories = None, []
    path = solution.order[-5:]
    for i in path:
        history, recycle = _history("recycled", matrices[i], rhs[i], solver, solver.n_recycle, recycle)
    histories.append(history)
    histories.append(_history(f"GMRES({solver.restart})", matrices[path[-1]], rhs[path[-1]], solver, 0, None)[0])
    return histories


def _history(
    name: str, A: Any, b: Array, solver: KrylovRecyclingSolver, n_recycle: int, recycle: RecycleSpace | None
) -> tuple[History, RecycleSpace | None]:
    residuals, seconds = [1.0], [0.0]
    start = perf_counter()

    def look(residual: float) -> None:
        residuals.append(residual)
        seconds.append(perf_counter() - start)

    M = None if solver.preconditioner is None else build_preconditioner(A, solver.preconditioner)
    options: dict[str, Any] = {"rtol": solver.rtol, "restart": solver.restart, "maxiter": min(PATIENCE, solver.maxiter)}
    _, _, space = gcro_dr(A, b, M=M, n_recycle=n_recycle, recycle=recycle, callback=look, **options)
    warm = 0 if recycle is None else recycle.U.shape[1]
    products = [0.0, *(warm + 1.0 + np.arange(len(residuals) - 1))]
    return (name, products, seconds, residuals), space if n_recycle else None


def _table(path: Path, names: list[str], solution: SequenceSolution) -> None:
    place = np.argsort(solution.order)
    columns = (place, solution.iterations, solution.matvecs, solution.seconds, solution.residuals, solution.converged)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["system", "solved_as", "iterations", "matvecs", "seconds", "relative_residual", "converged"])
        for name, *values in zip(names, *(column.tolist() for column in columns), strict=True):
            writer.writerow([name, *values])


def _draw(histories: list[History], solution: SequenceSolution, rtol: float) -> Figure:
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for (name, products, seconds, residuals), colour in zip(histories, ("#33658a", "#999999"), strict=True):
        left.semilogy(products, residuals, color=colour, label=name)
        middle.semilogy(seconds, residuals, color=colour, label=name)
    for axis, label in ((left, "products with the matrix"), (middle, "seconds")):
        axis.axhline(rtol, color="#888888", linewidth=1, linestyle="--")
        axis.set(title="relative residual of the last system", xlabel=label)
        axis.grid(alpha=0.3)
    left.legend(frameon=False)
    right.plot(solution.matvecs[solution.order], ".-", color="#758e4f")
    right.set(title="products of each system", xlabel="systems solved before", ylim=(0, None))
    right.spines[["top", "right"]].set_visible(False)
    return figure
