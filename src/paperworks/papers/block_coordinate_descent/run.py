"""The command of the block coordinate descent paper."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.sparse.linalg import spsolve

from paperworks._files import ARRAYS, InputError, read_array
from paperworks.datasets import load_digits
from paperworks.optimization import (
    BlockCoordinateLasso,
    BlockCoordinateLogisticRegression,
    LabelPropagationSolver,
    least_squares_problem,
    logistic_problem,
    minimize_blocks,
    softmax_problem,
)

TABLES = (".svm", ".libsvm", ".csv", ".npz")
GRAPHS = (".npz", ".mtx", *(each for each in ARRAYS if each != ".npz"))
# Selection and update of the runs that the picture compares; the first is the one whose solution is stored.
RULES = {
    "greedy (GSL), matrix": ("GSL", "matrix"),
    "greedy (GSL), Newton": ("GSL", "newton"),
    "greedy (GSL), gradient": ("GSL", "gradient"),
    "Gauss-Southwell (GS), matrix": ("GS", "matrix"),
    "cyclic, matrix": ("cyclic", "matrix"),
    "random, matrix": ("random", "matrix"),
}


def run(
    *files: Path,
    out: Path,
    loss: Literal["lasso", "logistic", "softmax", "label-propagation"] = "lasso",
    alpha: float | None = None,
    block_size: int = 20,
    max_iter: int = 300,
    tol: float = 1e-8,
    compare: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit a sparse linear model, or propagate labels on a graph, by block coordinate descent.

    Without a file, the lasso tells scikit-learn's digits by their pixels, and softmax too; logistic regression tells 8
    from 3; labels are propagated on a lattice.

    Parameters
    ----------
    files
        A data set: .svm or .libsvm (svmlight), .npz with X and y, or .csv with the target in the last column. For label
        propagation a graph (.npz of SciPy, .mtx, .npy or .csv) and labels: a .csv or .npy of nodes and integer classes
        in two columns.
    out
        Folder for solution.npz (or labels.csv), history.csv, summary.json and picture.png.
    loss
        What to minimise.
    alpha
        Weight of the l1 penalty against the mean loss, as of the estimators; if not given, a hundredth of the one from
        which on all coefficients are zero.
    block_size
        Variables in a block of the runs that are compared.
    max_iter
        Blocks of each of these runs, or forests, at most.
    tol
        Accuracy to stop at: relative duality gap (lasso), relative subgradient, or difference from the mean of the
        neighbours.
    compare
        Whether to draw the convergence of other rules of selection and update too.
    seed
        Seed of random blocks.
    """
    if loss == "label-propagation":
        return _propagate(files, out, max_iter, tol)
    if len(files) > 1:
        raise InputError(f"one file is accepted, got {len(files)} files")
    if alpha is not None and not (np.isfinite(alpha) and alpha > 0):
        raise InputError(f"alpha must be a finite number greater than 0, got {alpha}")
    X, y = _read(files[0]) if files else _digits(loss)
    problem, names = _problem(loss, X, y, alpha)
    options: dict[str, Any] = {"block_size": min(block_size, problem.n_variables), "tol": tol}
    fits = {}
    for name, (selection, update) in RULES.items() if compare else list(RULES.items())[:1]:
        rules: dict[str, Any] = {"selection": selection, "update": update}
        # Once untimed: the first call compiles.
        _quietly(lambda rules=rules: minimize_blocks(problem, max_iter=1, random_state=seed, **rules, **options))
        fits[name] = _quietly(
            lambda rules=rules: minimize_blocks(
                problem, max_iter=max_iter, random_state=seed, progress=True, **rules, **options
            )
        )
    summary: dict[str, Any] = {
        "input": str(files[0]) if files else f"no file given: {names}",
        "loss": loss,
        "samples": X.shape[0],
        "features": X.shape[1],
        "objectives_after_blocks": {name: float(fit.fun) for name, fit in fits.items()},
        "converged": {name: bool(fit.success) for name, fit in fits.items()},
    }
    chosen = fits[next(iter(RULES))]
    if loss == "softmax":
        summary |= _finish_softmax(problem, y, tol, chosen.x, out)
    else:
        summary |= _solve(loss, X, y, problem.l1, tol, out)
    history = chosen.history
    table = np.column_stack([np.arange(chosen.nit + 1), *history.values()])
    np.savetxt(
        out / "history.csv", table, delimiter=",", header=",".join(("block", *history)), comments="", fmt="%.12g"
    )
    lowest = min(summary["objective"], *(float(fit.history["fun"].min()) for fit in fits.values()))
    lines = {
        name: (
            fit.history["n_coordinate_updates"] / problem.n_variables,
            fit.history["seconds"],
            np.maximum((fit.history["fun"] - lowest) / abs(fit.history["fun"][0] - lowest or 1.0), 1e-16),
        )
        for name, fit in fits.items()
    }
    _draw(lines, "objective above the lowest / start").savefig(out / "picture.png", dpi=120)
    return summary


def _quietly(run: Any) -> Any:
    """Run without warnings of what has not converged: the summary says so."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return run()


def _digits(loss: str) -> tuple[Any, NDArray[Any]]:
    digits = load_digits()
    target = np.asarray(digits.target)
    X = np.asarray(digits.data, dtype=np.float64).reshape(len(target), -1)
    X /= X.max()
    kept = np.isin(target, (3, 8)) if loss == "logistic" else np.ones(len(target), dtype=bool)
    return X[kept], target[kept]


def _problem(loss: str, X: Any, y: NDArray[Any], alpha: float | None) -> tuple[Any, str]:
    """The problem, a sum over samples without a constant, and what it is where no file is given."""

    def weight(slopes: NDArray[np.float64]) -> float:
        return len(y) * alpha if alpha is not None else 0.01 * float(np.abs(X.T @ slopes).max())

    if loss == "lasso":
        try:
            target = np.asarray(y, dtype=np.float64)
        except ValueError:
            raise InputError(f"the target of the lasso must be numbers, got {y[:3].tolist()}") from None
        return least_squares_problem(X, target, l1=weight(target)), "scikit-learn's digits, and which they are"
    classes, labels = np.unique(y, return_inverse=True)
    if loss == "logistic":
        if len(classes) != 2:
            raise InputError(f"logistic needs two classes, got {len(classes)}; take --loss softmax")
        signs = np.where(labels == 1, 1.0, -1.0)
        return logistic_problem(X, signs, l1=weight(signs / 2)), "the digits 3 and 8 of scikit-learn"
    if len(classes) < 2:
        raise InputError(f"softmax needs at least two classes, got {len(classes)}")
    slopes = (labels[:, None] == np.arange(len(classes))) - 1.0 / len(classes)
    return softmax_problem(X, labels, l1=weight(slopes)), "scikit-learn's digits"


def _finish_softmax(problem: Any, y: NDArray[Any], tol: float, x: Any, out: Path) -> dict[str, Any]:
    """Go on to the minimum by Newton steps on large blocks; store it."""
    fit = _quietly(
        lambda: minimize_blocks(
            problem,
            x,
            block_size=min(200, problem.n_variables),
            selection="gsq-nn",
            update="newton",
            max_iter=200,
            tol=tol,
            progress=True,
        )
    )
    classes = np.unique(y)
    W = fit.x.reshape(-1, len(classes))
    np.savez(out / "solution.npz", coef=W.T, classes=classes)
    predicted = classes[np.argmax(np.asarray(problem.A @ W), axis=1)]
    return {
        "objective": float(fit.fun),
        "nonzero": int(np.count_nonzero(W)),
        "blocks_to_the_minimum": fit.nit,
        "subgradient": fit.optimality,
        "converged_in_the_end": bool(fit.success),
        "training_accuracy": float((predicted == y).mean()),
    }


def _solve(loss: str, X: Any, y: NDArray[Any], l1: float, tol: float, out: Path) -> dict[str, Any]:
    """Find the minimum by the estimators, which choose their block sizes by themselves; store it."""
    n = X.shape[0]
    if loss == "lasso":
        model: Any = BlockCoordinateLasso(l1 / n or 1e-300, fit_intercept=False, tol=tol)
    else:
        model = BlockCoordinateLogisticRegression(l1 / n or 1e-300, fit_intercept=False, tol=tol)
    _quietly(lambda: model.fit(X, y))
    coef = np.ravel(model.coef_)
    np.savez(out / "solution.npz", coef=coef)
    scores = np.asarray(X @ coef)
    found: dict[str, Any] = {"nonzero": int(np.count_nonzero(coef)), "blocks_to_the_minimum": model.n_iter_}
    if loss == "lasso":
        fun = 0.5 * float(np.sum((scores - y.astype(float)) ** 2))
        found |= {"duality_gap": model.dual_gap_ * n}
    else:
        fun = float(np.logaddexp(0.0, -np.where(y == model.classes_[1], scores, -scores)).sum())
        found |= {"subgradient": model.subgradient_ * n, "training_accuracy": float(model.score(X, y))}
    return found | {"objective": fun + l1 * float(np.abs(coef).sum())}


def _propagate(files: tuple[Path, ...], out: Path, max_iter: int, tol: float) -> dict[str, Any]:
    if len(files) not in {0, 2}:
        raise InputError(f"label-propagation needs a graph and a file of labels, got {len(files)} files")
    if files:
        W, y = _read_graph(files[0]), _read_labels(files[1])
        if y[:, 0].min() < 0 or y[:, 0].max() >= W.shape[0]:
            raise InputError(f"{files[1]}: nodes must be in 0..{W.shape[0] - 1}, got {y[:, 0].min()}..{y[:, 0].max()}")
        labels = np.full(W.shape[0], -1)
        labels[y[:, 0]] = y[:, 1]
    else:
        W, labels = _lattice()
    solvers = {
        name: LabelPropagationSolver(momentum=momentum, max_iter=max_iter, tol=tol, progress=True)
        for name, momentum in (("greedy forests with momentum", True), ("greedy forests", False))
    }
    for solver in solvers.values():
        _quietly(lambda solver=solver: solver.fit(W, labels))
    model = solvers["greedy forests with momentum"]
    header = ",".join(("node", "label", *(f"probability of {each}" for each in model.classes_)))
    table = np.column_stack([np.arange(len(labels)), model.transduction_, model.label_distributions_])
    np.savetxt(out / "labels.csv", table, delimiter=",", header=header, comments="", fmt="%.10g")
    history = np.column_stack([*model.history_.values()])
    np.savetxt(out / "history.csv", history, delimiter=",", header=",".join(model.history_), comments="", fmt="%.10g")
    lines = {
        name: (each.history_["passes"], each.history_["seconds"], np.maximum(each.history_["violation"], 1e-16))
        for name, each in solvers.items()
    }
    _draw(lines, "largest difference from the mean of the neighbours").savefig(out / "picture.png", dpi=120)
    return {
        "input": [str(each) for each in files] if files else "no file given: a lattice of 50 x 50 with 100 labels",
        "loss": "label-propagation",
        "nodes": len(labels),
        "labelled": int((labels >= 0).sum()),
        "classes": [int(each) for each in model.classes_],
        "forests": model.n_iter_,
        "violation": model.violation_,
        "converged": bool(model.violation_ <= tol),
        "largest_difference_from_a_direct_solution": _difference(W, labels, model),
    }


def _difference(W: sp.csr_array, labels: NDArray[np.integer], model: LabelPropagationSolver) -> float | None:
    """How far the probabilities are from a sparse factorisation's, for graphs of moderate size."""
    free = np.flatnonzero((labels < 0) & (model.label_distributions_.sum(axis=1) > 0))
    if not 0 < len(free) <= 20_000:
        return None
    rows, known = W[free], np.flatnonzero(labels >= 0)
    A = sp.csc_array(sp.diags_array(np.asarray(rows.sum(axis=1)).ravel()) - rows[:, free])
    exact = spsolve(A, rows[:, known] @ (labels[known] == model.classes_[0]).astype(float))
    return float(np.abs(exact - model.label_distributions_[free, 0]).max())


def _lattice(side: int = 50, n_labelled: int = 100) -> tuple[sp.csr_array, NDArray[np.integer]]:
    """A lattice whose labels say in which of four quarters a node lies."""
    line = sp.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(side, side))
    W = sp.csr_array(sp.kronsum(line, line))
    row, column = np.divmod(np.arange(side * side), side)
    quarter = 2 * (row >= side // 2) + (column >= side // 2)
    chosen = np.random.default_rng(0).choice(side * side, n_labelled, replace=False)
    labels = np.full(side * side, -1)
    labels[chosen] = quarter[chosen]
    return W, labels


def _read(path: Path) -> tuple[Any, NDArray[Any]]:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise InputError(f"{path}: unreadable format {path.suffix!r}; accepted here: {', '.join(TABLES)}")
    if suffix == ".csv":
        table = read_array(path)
        if table.ndim != 2 or table.shape[1] < 2:
            raise InputError(f"{path}: needs at least one column besides the target, got shape {table.shape}")
        return table[:, :-1], table[:, -1]
    try:
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                if not {"X", "y"} <= set(stored.files):
                    raise InputError(f"{path}: needs X and y, holds {', '.join(stored.files) or 'nothing'}")
                return stored["X"].astype(np.float64), stored["y"]
        from sklearn.datasets import load_svmlight_file

        X, y = load_svmlight_file(str(path))
        return sp.csc_array(X), y
    except InputError:
        raise
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: can't be read as {path.suffix}: {str(error).splitlines()[0]}") from None


def _read_graph(path: Path) -> sp.csr_array:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix not in GRAPHS:
        raise InputError(f"{path}: unreadable format {path.suffix!r}; accepted here: {', '.join(GRAPHS)}")
    try:
        if suffix == ".npz":
            return sp.csr_array(sp.load_npz(path))
        if suffix == ".mtx":
            from scipy.io import mmread

            return sp.csr_array(mmread(path))
    except Exception as error:  # SciPy's readers raise whatever their formats make them raise
        raise InputError(f"{path}: can't be read as {path.suffix}: {str(error).splitlines()[0]}") from None
    return sp.csr_array(read_array(path))


def _read_labels(path: Path) -> NDArray[np.int64]:
    table = read_array(path)
    if table.ndim != 2 or table.shape[1] != 2 or (table != table.round()).any() or (table[:, 1] < 0).any():
        raise InputError(f"{path}: needs two columns, nodes and classes 0, 1, ..., got shape {table.shape}")
    return table.astype(np.int64)


def _draw(lines: dict[str, tuple[Any, Any, Any]], y_label: str) -> Figure:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for name, (passes, seconds, values) in lines.items():
        axes[0].plot(passes, values, label=name, linewidth=1.5)
        axes[1].plot(seconds, values, label=name, linewidth=1.5)
    axes[0].set(xlabel="passes over the variables", ylabel=y_label, yscale="log")
    axes[1].set(xlabel="seconds")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    return figure
