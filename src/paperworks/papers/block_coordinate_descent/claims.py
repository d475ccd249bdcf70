"""Claims of "Let's Make Block Coordinate Descent Converge Faster"."""

import warnings
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult
from scipy.sparse.linalg import spsolve
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso

from paperworks.claims import Curve, Measurement, Scale, at_least, at_most, claim
from paperworks.optimization import (
    color_partition,
    forest_partition,
    least_squares_problem,
    logistic_problem,
    minimize_blocks,
    quadratic_problem,
    softmax_problem,
    solve_forest,
)

Array = NDArray[np.float64]
GREEDY = ("GS", "GSL", "GSD", "GSQ")
BY_CHANCE = ("random", "cyclic", "lipschitz")


@claim(
    "greedy rules that beat Gauss-Southwell",
    published="more progress per iteration than the Gauss-Southwell rule",
    where="abstract, section 3",
    measured="of GS's value in the end: GSL {gsl:.1e} fixed, {variable:.1e} variable, GSQ {gsq:.1e} with matrices",
    seeds=5,
    proxy="the recipe of dataset A with 200 x 1,000 at scale small",
)
def faster_greedy_rules(scale: Scale, seed: int) -> Measurement:
    """Rules that know curvature (GSL, GSQ) make more progress with each block than the largest gradient (GS) does."""
    problem, steps = _least_squares(scale, seed)
    ends: dict[tuple[str, str, str], float] = {}
    curves = []
    for partition in ("sort", "variable"):
        for update in ("gradient", "matrix"):
            for rule in (*GREEDY, *(BY_CHANCE if update == "gradient" else ())):
                path = _path(
                    problem, steps, block_size=5, partition=partition, selection=rule, update=update, random_state=seed
                )
                ends[partition, update, rule] = path[-1]
                if update == "gradient":
                    kind = "fixed" if partition == "sort" else "variable"
                    curves.append(_curve(f"{rule}, {kind} blocks", path, "objective / start"))
    gsl = ends["sort", "gradient", "GSL"] / ends["sort", "gradient", "GS"]
    variable = ends["variable", "gradient", "GSL"] / ends["variable", "gradient", "GS"]
    gsq = ends["sort", "matrix", "GSQ"] / ends["sort", "matrix", "GS"]
    worst = max(
        ends["variable", update, rule] / ends["sort", update, rule]
        for update in ("gradient", "matrix")
        for rule in GREEDY
    )
    every: Any = "every"
    criteria = [
        # Reason: more progress with each block compounds over 300 of them; a factor of 20 is beyond any constant.
        at_most("fixed blocks, gradient steps: GSL over GS", gsl, 0.05, unit="x", across=every),
        at_most("variable blocks, gradient steps: GSL over GS", variable, 0.05, unit="x", across=every),
        # Reason: the quadratic rule is the one that fits matrix steps, so that it should gain more.
        at_most("fixed blocks, matrix steps: GSQ over GS", gsq, 0.01, unit="x", across=every),
        # Reason: variable blocks can be any fixed one, so that no greedy rule should lose by them.
        at_most("variable over fixed blocks, worst of the greedy rules", worst, 1.0, unit="x", across=every),
    ]
    return Measurement(criteria, figures={"gsl": gsl, "variable": variable, "gsq": gsq}, curves=curves)


@claim(
    "matrix updates beat gradient updates",
    published="matrix updates converge faster than gradient updates",
    where="section 4, figures 4 and 5",
    measured="matrix over gradient steps at most {worst:.2f} among greedy rules; variable GSL ends at {best:.1e}",
    seeds=5,
    proxy="the recipe of dataset A with 200 x 1,000 at scale small",
)
def matrix_updates(scale: Scale, seed: int) -> Measurement:
    """Steps by the matrix H_b end below steps by the number L_b, for every greedy rule."""
    problem, steps = _least_squares(scale, seed)
    ratios: dict[tuple[str, str], float] = {}
    curves, best = [], np.inf
    for partition in ("sort", "variable"):
        for rule in GREEDY:
            run = partial(_path, problem, steps, block_size=5, partition=partition, selection=rule, random_state=seed)
            gradient, matrix = run(update="gradient"), run(update="matrix")
            ratios[partition, rule] = matrix[-1] / gradient[-1]
            if (partition, rule) == ("variable", "GSL"):
                best = matrix[-1]
            if rule in {"GS", "GSL"}:
                kind = "fixed" if partition == "sort" else "variable"
                curves += [
                    _curve(f"{rule}, {kind}, {name}", path, "objective / start")
                    for name, path in (("gradient", gradient), ("matrix", matrix))
                ]
    worst = max(ratios.values())
    criteria = [
        # Reason: a matrix uses all of a block's curvature, which should count for more than a constant near 1.
        at_most("matrix over gradient steps, worst of eight rules", worst, 0.3, unit="x"),
        # Reason: a line that goes straight down in the figure has left eight digits behind it.
        at_most("GSL, variable blocks, matrix steps: objective over start", best, 1e-8),
    ]
    ratio = ", ".join(
        f"{rule} {'fixed' if partition == 'sort' else 'variable'} {value:.2g}"
        for (partition, rule), value in ratios.items()
    )
    return Measurement(criteria, figures={"worst": worst, "best": best}, curves=curves, note=f"Ratios: {ratio}.")


@claim(
    "message passing on huge forests",
    published="matrix updates on huge blocks by message passing; greedy trees do best on lattices",
    where="section 4.4, figure of dataset D",
    measured="gap after 100 blocks: greedy forests {greedy:.1e}, random {random:.1e}, red-black {red_black:.1e}",
    seeds=2,
)
def huge_forests(scale: Scale, seed: int) -> Measurement:
    """Exact updates on greedy forests that hold most of a lattice end far below those on its usual partitions."""
    side = 50 if scale == "small" else 200
    A, b = _lattice(side, side * side // 25, np.random.default_rng(seed))
    problem = quadratic_problem(A, b)
    least = -0.5 * float(b @ spsolve(A.tocsc(), b))
    rules: dict[str, dict[str, Any]] = {
        "greedy": {"partition": "forest", "selection": "GS"},
        "random": {"partition": "forest", "selection": "random"},
        "trees": {"partition": forest_partition(A), "selection": "cyclic"},
        "red_black": {"partition": color_partition(A), "selection": "cyclic"},
        "dense": {"block_size": round(len(b) ** (1 / 3)), "selection": "GS"},
    }
    gaps, curves, share = {}, [], 0.0
    for name, options in rules.items():
        result = _run(problem, 100, update="exact", random_state=seed, **options)
        path = (result.history["fun"] - least) / (0.0 - least)
        gaps[name] = float(path[-1])
        passes = result.history["n_coordinate_updates"] / len(b)
        share = share or result.n_coordinate_updates / result.nit / len(b)
        curves.append(_curve(name.replace("_", "-"), path, "gap / start"))
        curves.append(_curve(name.replace("_", "-"), path, "gap / start", passes, "updates of all unlabelled nodes"))
    largest = 10**6 if scale == "small" else 4 * 10**6
    sizes = [largest // 8, largest // 4, largest // 2, largest]
    seconds = [_seconds_on_a_tree(n, seed) for n in sizes]
    power = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    per_million = seconds[-1] * 1e6 / largest
    criteria = [
        # Reason: a forest holds more nodes than a colour and knows their couplings, so that it must win by far.
        at_most("greedy forests over red-black", gaps["greedy"] / gaps["red_black"], 0.1, unit="x"),
        # Reason: what greed alone brings, at the same kind and size of block.
        at_most("greedy over random forests", gaps["greedy"] / gaps["random"], 0.5, unit="x"),
        # Reason: interactive, where a dense factorisation of a million unknowns can't be thought of.
        at_most("solve_forest on a million nodes", per_million, 1.0, unit="s"),
        # Reason: linear is 1; caches that overflow are allowed for.
        at_most("power of n in its time, from an eighth of the nodes", power, 1.2),
    ]
    note = (
        f"Forests hold {share:.0%} of the unlabelled nodes. After 100 blocks the gap is {gaps['trees']:.1e} for fixed "
        f"forests in turn and {gaps['dense']:.2g} for dense greedy blocks of the cube root of their number. A solve is "
        "one pass from leaves to roots and one back; what its time grows beyond n^1 is memory that leaves the caches."
    )
    return Measurement(criteria, figures=gaps | {"seconds": per_million}, curves=curves, note=note)


@claim(
    "the support after finitely many blocks, then the end",
    published="finite active-set identification; superlinear and in some cases finite convergence",
    where="abstract, sections 5 and 6",
    measured="support final by block {identified:.0f}, gap {gap:.0e} at 20; projected gradient {linear:.0e} at 60",
    seeds=5,
    proxy="the recipe of dataset A with 200 x 1,000 at scale small",
)
def finite_identification(scale: Scale, seed: int) -> Measurement:
    """Greedy blocks find the support of a sparse solution in few steps, and with exact updates end there."""
    n, p, size = (200, 1000, 50) if scale == "small" else (1000, 10_000, 200)
    A, b = _recipe(n, p, np.random.default_rng(seed))
    curves, gaps_of_gradient, note = [], [], ""
    identified, gap = [], []
    for share in (0.2, 0.1):
        l1 = share * float(np.abs(A.T @ b).max())
        problem = least_squares_problem(sp.csc_array(A), b, l1=l1, nonnegative=True)
        reference = _lasso(A, b, l1)
        support = np.flatnonzero(reference)
        least = 0.5 * float(np.sum((A @ reference - b) ** 2)) + l1 * float(reference.sum())
        for update in ("quadratic_program", "gradient"):
            result = _run(problem, 60, block_size=size, selection="gsq-nn", update=update)
            path = np.maximum((result.history["fun"] - least) / least, 1e-16)
            curves.append(_curve(f"{update.replace('_', ' ')}, l1 = {share} of the largest", path, "relative gap"))
            if update == "gradient":
                gaps_of_gradient.append(float(path[60]))
                note += f"With a support of {len(support)}, projected gradient ends at {path[60]:.0e}. "
                continue
            differs = [not np.array_equal(active, support) for active in result.active_set_history]
            last = len(differs) - differs[::-1].index(True) if True in differs else 0
            if len(support) <= size:
                identified.append(last)
                gap.append(float(path[20]))
            else:
                note += (
                    f"This support is beyond the block size {size}: it is found at {last}, gap {path[20]:.0e} at 20. "
                )
    criteria = [
        # Reason: finite; 15 blocks of 50 are less than one pass over the 1,000 variables.
        at_most("first block after which the support stays that of the solution", max(identified), 15, across="every"),
        # Reason: finite convergence leaves rounding only, five blocks after that.
        at_most("relative gap at block 20", max(gap), 1e-12, across="every"),
        # Reason: steps of projected gradients are linear, and are seen not to have ended.
        at_least("projected gradient: relative gap at block 60", min(gaps_of_gradient), 1e-8, across="every"),
    ]
    if min(gaps_of_gradient) < 1e-8:
        note += (
            "How low a linear method gets in 60 blocks depends on the conditioning of the support's columns alone: "
            "with a support as small as here it gets below the threshold, though it is as linear as elsewhere."
        )
    figures = {"identified": float(max(identified)), "gap": max(gap), "linear": min(gaps_of_gradient)}
    return Measurement(criteria, figures=figures, curves=curves, note=note)


@claim(
    "the same order for logistic and softmax losses",
    published="findings supported by logistic and multi-class logistic regression too",
    where="abstract, section 7",
    measured="greedy over best of chance: logistic {logistic:.2f}, softmax {softmax:.2f}",
    seeds=3,
    proxy="the recipes of datasets B and C with 200 x 1,000, and 200 x 200 of 10 classes, at scale small",
)
def other_losses(scale: Scale, seed: int) -> Measurement:
    """Greedy variable blocks end below those by chance, and Newton steps below gradient steps, for these losses too."""
    rng = np.random.default_rng(seed)
    n, p, k = (200, 1000, 10) if scale == "small" else (1000, 10_000, 50)
    A, _ = _recipe(n, p, rng)
    signs = np.sign(A @ (rng.normal(size=p) * (rng.random(p) < 0.1)))
    signs = np.where(signs == 0, 1.0, signs) * np.where(rng.random(n) < 0.1, -1.0, 1.0)
    C, _ = _recipe(n, n, rng)
    classes = np.unique(np.argmax(C @ rng.normal(size=(n, k)) + rng.normal(size=(n, k)), axis=1), return_inverse=True)[
        1
    ]
    steps, size = (100, 5) if scale == "small" else (500, 5)
    problems: dict[str, Any] = {
        "logistic": logistic_problem(sp.csc_array(A), signs),
        "softmax": softmax_problem(sp.csc_array(C), classes),
    }
    criteria, curves, figures = [], [], {}
    for name, problem in problems.items():
        run = partial(_path, problem, steps, block_size=size, random_state=seed)
        chance = {rule: run(selection=rule, update="matrix") for rule in BY_CHANCE}
        greedy = {update: run(selection="GSL", update=update) for update in ("gradient", "matrix", "newton")}
        old = run(selection="GS", update="matrix")
        figures[name] = float(greedy["matrix"][-1] / min(path[-1] for path in chance.values()))
        criteria += [
            # Reason: a direction, judged for each of the seeds.
            at_most(f"{name}: GSL over the best rule by chance", figures[name], 1.0, unit="x", across="every"),
            at_most(f"{name}: GSL over GS", float(greedy["matrix"][-1] / old[-1]), 1.0, unit="x", across="every"),
            at_most(
                f"{name}: Newton over gradient steps",
                float(greedy["newton"][-1] / greedy["gradient"][-1]),
                1.0,
                unit="x",
                across="every",
            ),
        ]
        label = f"{name}: objective / start"
        curves += [_curve(rule, path, label) for rule, path in chance.items()]
        curves += [
            _curve("GS", old, label),
            *(_curve(f"GSL, {update}", path, label) for update, path in greedy.items()),
        ]
    return Measurement(criteria, figures=figures, curves=curves)


def _recipe(n: int, p: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Dataset A of the paper."""
    A = (rng.normal(size=(n, p)) + 1.0) * (10.0 * rng.normal(size=p))
    A *= rng.random((n, p)) < 10.0 * np.log(n) / n
    w = rng.normal(size=p) * (rng.random(p) < 0.1)
    return A, A @ w + rng.normal(size=n)


def _least_squares(scale: Scale, seed: int) -> tuple[Any, int]:
    n, p, steps = (200, 1000, 300) if scale == "small" else (1000, 10_000, 500)
    A, b = _recipe(n, p, np.random.default_rng(seed))
    return least_squares_problem(sp.csc_array(A), b), steps


def _lattice(side: int, n_labelled: int, rng: np.random.Generator) -> tuple[sp.csr_array, Array]:
    """Dataset D of the paper: x' A x / 2 - b' x of the unlabelled nodes of a lattice with weights 10^5."""
    n = side * side
    node = np.arange(n).reshape(side, side)
    ends = [(node[:, :-1], node[:, 1:]), (node[:-1], node[1:])]
    rows, columns = (np.concatenate([each[i].ravel() for each in ends]) for i in (0, 1))
    W = sp.coo_array((np.full(len(rows), 1e5), (rows, columns)), shape=(n, n)).tocsr()
    W = W + W.T
    labelled = rng.choice(n, n_labelled, replace=False)
    labels = 10.0 * rng.normal(size=n_labelled)
    free = np.setdiff1d(np.arange(n), labelled)
    laplacian = sp.csr_array(sp.diags_array(W.sum(axis=0)) - W)
    return laplacian[free][:, free], W[free][:, labelled] @ labels


def _seconds_on_a_tree(n: int, seed: int) -> float:
    """Least of five times of a solve on a random tree, each node of which hangs on one of the hundred before it."""
    rng = np.random.default_rng(seed)
    parents = np.maximum(0, np.arange(1, n) - rng.integers(1, 100, n - 1))
    weights = rng.random(n - 1) + 0.1
    half = sp.coo_array((-weights, (np.arange(1, n), parents)), shape=(n, n)).tocsr()
    off = half + half.T
    A, b = sp.csr_array(off + sp.diags_array(1.0 - off.sum(axis=0))), rng.normal(size=n)
    times = []
    for _ in range(5):
        began = perf_counter()
        solve_forest(A, b)
        times.append(perf_counter() - began)
    return min(times)


def _lasso(A: Array, b: Array, l1: float) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = Lasso(l1 / len(b), positive=True, fit_intercept=False, tol=1e-14, max_iter=1_000_000).fit(A, b)
    return np.asarray(model.coef_)


def _run(problem: Any, steps: int, **options: Any) -> OptimizeResult:
    """So many blocks, whatever the subgradient is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return minimize_blocks(problem, max_iter=steps, tol=0.0, **options)


def _path(problem: Any, steps: int, **options: Any) -> Array:
    fun = _run(problem, steps, **options).history["fun"]
    return np.asarray(fun / fun[0])


def _curve(label: str, path: Array, y_label: str, x: Array | None = None, x_label: str = "blocks updated") -> Curve:
    at = np.unique(np.linspace(0, len(path) - 1, 150).astype(int))
    steps = np.arange(len(path)) if x is None else x
    return Curve(label, steps[at].tolist(), path[at].tolist(), x_label, y_label, log_y=True)
