"""The command of the variance reduced Halpern iteration paper."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult

from paperworks._files import InputError, read_array
from paperworks.optimization import least_squares_operator, matrix_game
from paperworks.optimization.halpern_iteration import halpern_iteration
from paperworks.optimization.halpern_iteration._games import policeman_and_burglar

Array = NDArray[np.float64]


def run(
    *files: Path,
    out: Path,
    problem: Literal["matrix-game", "least-squares"] = "matrix-game",
    tolerance: float = 1e-2,
    max_full_evaluations: int = 10_000,
    step_size: float | None = None,
    inner_step_size: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Solve a matrix game or a least-squares problem, with a certificate of the last iterate.

    Without a file, a policeman and a burglar play on 100 houses.

    Parameters
    ----------
    files
        One array (.npy, .npz, .csv, .txt, .parquet): the payoffs to the player of the columns; or for least squares a
        table whose last column is the target.
    out
        Folder for solution.npz (x and y, or u), history.csv, summary.json and picture.png.
    problem
        What the file holds.
    tolerance
        Residual to stop at.
    max_full_evaluations
        Price that is allowed, in evaluations of all components.
    step_size
        Step of the outer iteration; what theory allows if not given.
    inner_step_size
        Step of the inner iteration of games; what theory allows if not given.
    seed
        Seed of the batches.
    """
    if len(files) > 1:
        raise InputError(f"one file is accepted, got {len(files)} files")
    if not files and problem == "least-squares":
        raise InputError("least-squares needs a file: a table whose last column is the target")
    matrix = read_array(files[0]) if files else policeman_and_burglar(100, np.random.default_rng(seed)).T
    if matrix.ndim != 2:
        raise InputError(f"{files[0]}: must hold a matrix, got shape {matrix.shape}")
    options: dict[str, Any] = {"tolerance": tolerance, "step_size": step_size, "random_state": seed, "progress": True}
    summary: dict[str, Any] = {
        "input": str(files[0]) if files else "no file given: a policeman and a burglar on 100 houses",
        "problem": problem,
    }
    if problem == "matrix-game":
        m, k = matrix.shape
        operator, resolvent = matrix_game(matrix)
        options |= {"max_oracle_calls": max_full_evaluations * operator.n_components}
        start = np.r_[np.full(m, 1 / m), np.full(k, 1 / k)]
        result = halpern_iteration(
            operator, start, resolvent=resolvent, inner_step_size=inner_step_size, inner_power=0.5, **options
        )
        x, y = result.x[:m], result.x[m:]
        lower, upper = float((matrix @ y).min()), float((matrix.T @ x).max())
        summary |= {"value_between": [lower, upper], "duality_gap": upper - lower}
        solution = {"row player": x, "column player": y}
        np.savez(out / "solution.npz", x=x, y=y)
    else:
        if matrix.shape[1] < 2:
            raise InputError(f"{files[0]}: needs a target column besides at least one other, got {matrix.shape[1]}")
        rows, target = matrix[:, :-1], matrix[:, -1]
        operator = least_squares_operator(rows, target)
        options |= {"max_oracle_calls": max_full_evaluations * len(rows)}
        result = halpern_iteration(operator, np.zeros(rows.shape[1]), **options)
        summary |= {"mean_squared_error": float(np.mean((rows @ result.x - target) ** 2))}
        solution = {"coefficients": result.x}
        np.savez(out / "solution.npz", u=result.x)
    history = np.column_stack([result.history[name] for name in ("iteration", "oracle_calls", "residual")])
    np.savetxt(out / "history.csv", history, delimiter=",", header="iteration,oracle_calls,residual", comments="")
    _draw(result, operator.n_components, solution, tolerance).savefig(out / "picture.png", dpi=120)
    return summary | {
        "residual": result.residual,
        "iterations": result.nit,
        "oracle_calls": result.n_oracle_calls,
        "full_evaluations_worth": result.n_oracle_calls / operator.n_components,
        "success": result.success,
        "message": result.message,
    }


def _draw(result: OptimizeResult, n_components: int, solution: dict[str, Array], tolerance: float) -> Figure:
    figure = Figure(figsize=(4.5 + 3.2 * len(solution), 3.4), layout="constrained")
    left, *others = np.atleast_1d(figure.subplots(1, 1 + len(solution)))
    left.loglog(result.history["oracle_calls"] / n_components, result.history["residual"], ".-", color="#33658a")
    left.axhline(tolerance, color="#888888", linewidth=1, linestyle="--")
    left.set(title="residual of the last iterate", xlabel="full evaluations' worth of components")
    left.grid(alpha=0.3)
    for axis, (name, values) in zip(others, solution.items(), strict=True):
        axis.bar(np.arange(len(values)), values, width=1.0, color="#758e4f")
        axis.set(title=name, xlabel="index")
        axis.spines[["top", "right"]].set_visible(False)
    return figure
