"""Claims of the sparse Newton paper, re-checked through its public interface."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from paperworks.claims import Curve, Measurement, Scale, at_least, at_most, claim
from paperworks.transport import OptimalTransportResult, sinkhorn, sinkhorn_newton

ETA = 1200.0


@claim(
    "far fewer iterations on random assignment",
    published="29 iterations against 56,199",
    where="Table 1, random assignment",
    measured="{newton:,.0f} against {sinkhorn:,.0f} iterations",
    seeds=3,
)
def random_assignment(scale: Scale, seed: int) -> Measurement:
    """Reach machine accuracy on uniform random costs, n = 500, eta = 1200, in 20 sweeps and 9 Newton steps.

    Sinkhorn's algorithm is given 56,199 iterations and 233 s for it, sparse Newton 29 and 0.34 s. At scale small our
    Sinkhorn is stopped early, and the sweeps that it still needs are projected from the rate of its last third, which
    is a lower bound as long as its convergence does not speed up; at scale full it runs to the end, and n = 2000 too.
    """
    cost = np.random.default_rng(seed).random((500, 500))
    seconds, ours = _timed(lambda: sinkhorn_newton(cost, regularization=1 / ETA, tol=1e-12), repeats=3)
    n_sweeps = 1800 if scale == "small" else 400_000
    baseline_seconds, baseline = _timed(
        lambda: _quiet(sinkhorn, cost, regularization=1 / ETA, tol=1e-12, max_iter=n_sweeps)
    )
    errors = [row["error"] for row in baseline.history]
    sweeps = len(errors) if baseline.converged else _projected(errors, 1e-12)
    total = ours.n_sinkhorn + ours.n_newton
    return Measurement(
        [
            # "Orders of magnitude fewer iterations" in the abstract is at least two; Table 1 has 56,199 / 29 = 1,938.
            at_least("iterations saved", sweeps / total, 100, unit="x"),
            # Table 1 has 233.36 / 0.34 = 686, with a sweep that takes a pass of exp. Ours scales a held plan, which is
            # several times quicker, so that two orders of magnitude are asked for here too, not the figure itself.
            at_least("time saved", sweeps * baseline_seconds / len(errors) / seconds, 100, unit="x"),
            # The paper reports 9; trial steps that the line search rejects count here, hence a slack of 6.
            at_most("Newton steps", ours.n_newton, 15, across="every"),
            # "Machine accuracy", eta times the unit roundoff of the cost.
            at_most("marginal error", ours.marginal_error, 1e-12, across="every"),
        ],
        figures={"newton": total, "sinkhorn": sweeps, "error_after_300_sweeps": errors[299]},
        curves=[_error_curve("sparse Newton", ours), _error_curve("Sinkhorn", baseline)],
    )


@claim(
    "fewer iterations between images, squared distance",
    published="53 iterations against 2,041, 2.33 s against 18.84 s",
    where="Table 1, MNIST with squared L2 cost",
    measured="{newton:,.0f} against {sinkhorn:,.0f} iterations, {newton_s:.3f} s against {sinkhorn_s:.2f} s",
    proxy="scikit-learn's 8 x 8 digits, enlarged to 24 x 24, for MNIST",
)
def images_squared_distance(scale: Scale, seed: int) -> Measurement:
    """Transport one handwritten digit to another with squared Euclidean cost in 20 sweeps and 33 Newton steps."""
    cost, source, target = _digit_pair(scale, "sqeuclidean")
    seconds, ours = _timed(lambda: sinkhorn_newton(cost, source, target, regularization=1 / ETA, tol=1e-12), repeats=3)
    baseline_seconds, baseline = _timed(
        lambda: _quiet(sinkhorn, cost, source, target, regularization=1 / ETA, tol=1e-10, max_iter=20_000)
    )
    return Measurement(
        [
            # Half the published 18.84 / 2.33 = 8.1: other images, and a faster Sinkhorn than the paper's.
            at_least("time saved", baseline_seconds / seconds, 4.0, unit="x"),
            # The paper's own count.
            at_most("Newton steps", ours.n_newton, 33),
            # "Machine accuracy".
            at_most("marginal error", ours.marginal_error, 1e-12),
        ],
        figures={
            "newton": ours.n_sinkhorn + ours.n_newton,
            "sinkhorn": baseline.n_sinkhorn,
            "newton_s": seconds,
            "sinkhorn_s": baseline_seconds,
        },
        curves=[_error_curve("sparse Newton", ours), _error_curve("Sinkhorn", baseline)],
    )


@claim(
    "fewer iterations between images, city-block distance",
    published="777 iterations against 5,748, 12.22 s against 45.75 s",
    where="Table 1, MNIST with L1 cost",
    measured="{newton:,.0f} against {sinkhorn:,.0f} iterations, {newton_s:.3f} s against {sinkhorn_s:.2f} s",
    proxy="scikit-learn's 8 x 8 digits, enlarged to 24 x 24, for MNIST",
)
def images_city_block_distance(scale: Scale, seed: int) -> Measurement:
    """Transport with a cost that has many optimal plans in 700 sweeps and 77 Newton steps.

    The paper keeps 15/n of the Hessian; the adaptive rule is measured here, and the paper's is told in the note.
    """
    cost, source, target = _digit_pair(scale, "cityblock")

    def solve(**options: Any) -> OptimalTransportResult:
        return _quiet(sinkhorn_newton, cost, source, target, regularization=1 / ETA, n_sinkhorn=700, **options)

    seconds, ours = _timed(lambda: solve(tol=1e-10, max_newton=1000))
    _, fixed = _timed(lambda: solve(tol=1e-10, max_newton=300, sparsification="fixed", density=15))
    baseline_seconds, baseline = _timed(
        lambda: _quiet(sinkhorn, cost, source, target, regularization=1 / ETA, tol=1e-10, max_iter=12_000)
    )
    return Measurement(
        [
            # Half the published 45.75 / 12.22 = 3.7: other images, and a faster Sinkhorn than the paper's.
            at_least("time saved", baseline_seconds / seconds, 1.9, unit="x"),
            # Half the published 5,748 / 777 = 7.4, for the same reason.
            at_least("iterations saved", baseline.n_sinkhorn / (ours.n_sinkhorn + ours.n_newton), 3.7, unit="x"),
            # Sinkhorn is held to the same accuracy.
            at_most("marginal error", ours.marginal_error, 1e-10),
        ],
        figures={
            "newton": ours.n_sinkhorn + ours.n_newton,
            "sinkhorn": baseline.n_sinkhorn,
            "newton_s": seconds,
            "sinkhorn_s": baseline_seconds,
        },
        curves=[
            _error_curve("sparse Newton, adaptive", ours),
            _error_curve("sparse Newton, 15/n kept", fixed),
            _error_curve("Sinkhorn", baseline),
        ],
        note=f"The paper's rule, 15/n kept, is at an error of {fixed.marginal_error:.1e} after 300 trial steps here.",
    )


@claim(
    "the Hessian is nearly sparse after a few sweeps",
    published="approximately sparse; O(n^2) a step",
    where="abstract and Theorem 1",
    measured="99 % of the mass in {kept_200:.1f}, {kept_500:.1f}, {kept_1000:.1f} entries a row at n = 200, 500, 1000",
    seeds=3,
)
def sparse_hessian(scale: Scale, seed: int) -> Measurement:
    """After 20 sweeps most of the plan's mass is in O(n) entries, and a Newton step costs O(n^2), as a sweep does."""
    kept, step_seconds, in_sweeps = {}, {}, {}
    for n in (200, 500, 1000, 2000) if scale == "small" else (200, 500, 1000, 2000, 4000):
        cost = np.random.default_rng(seed).random((n, n))
        warm = _quiet(sinkhorn, cost, regularization=1 / ETA, max_iter=20, tol=0.0)
        ordered = np.sort(np.asarray(warm.plan), axis=None)[::-1]
        kept[n] = (int(np.searchsorted(np.cumsum(ordered), 0.99)) + 1) / n
        seconds = [_seconds_a_step(cost) for _ in range(3)]
        step_seconds[n], sweep_seconds = np.median(seconds, axis=0)
        in_sweeps[n] = step_seconds[n] / sweep_seconds
    large = [n for n in step_seconds if n >= 500]
    power = np.polyfit(np.log(large), np.log([step_seconds[n] for n in large]), 1)[0]
    return Measurement(
        [
            # Theorem 1's limit is one entry a row, and the paper keeps 2 a row. 15 is 1.5 % of a row of n = 1000.
            at_most("entries a row with 99 % of the mass", max(kept.values()), 15, across="every"),
            # O(n^2) a step is a power of 2; the rest is for caches that larger n outgrows.
            at_most("a Newton step's time grows as n to the power", float(power), 2.4),
            # The same read as a constant: a step takes one sweep's passes, and some to solve the sparse part.
            at_most("a Newton step's time, in sweeps", max(in_sweeps.values()), 10),
        ],
        figures={f"kept_{n}": value for n, value in kept.items()} | {f"in_sweeps_{n}": v for n, v in in_sweeps.items()},
        curves=[
            Curve("random assignment", list(kept), list(kept.values()), "n", "entries a row with 99 % of the mass"),
            Curve("Newton step", list(step_seconds), list(step_seconds.values()), "n", "seconds", True, True),
        ],
    )


@claim(
    "faster whenever regularisation is weak",
    published="orders of magnitude, at eta = 1200 only",
    where="abstract; the sweep over eta is ours",
    measured="speed-up {at_50:.2g}x, {at_100:.2g}x, {at_300:.2g}x, {at_1200:,.0f}x at eta = 50, 100, 300, 1200",
    seeds=3,
)
def across_regularisations(scale: Scale, seed: int) -> Measurement:
    """Against the quicker of two Sinkhorns, ours and the plain scaling of vectors, to a marginal error of 1e-9."""
    n = 500 if scale == "small" else 2000
    cost = np.random.default_rng(seed).random((n, n))
    gains = {}
    for eta in (50, 100, 300, 1200):
        seconds, _ = _timed(lambda eta=eta: sinkhorn_newton(cost, regularization=1 / eta), repeats=5)  # type: ignore[misc]
        baseline_seconds, baseline = _timed(
            lambda eta=eta: _quiet(sinkhorn, cost, regularization=1 / eta, max_iter=3000),  # type: ignore[misc]
            repeats=5 if eta < 1200 else 1,
        )
        if not baseline.converged:
            errors = [row["error"] for row in baseline.history]
            baseline_seconds *= _projected(errors, 1e-9) / len(errors)
        if eta <= 300:  # exp(-eta C) underflows beyond
            scaling_seconds, _ = _timed(lambda eta=eta: _scaling_sinkhorn(cost, eta, 1e-9), repeats=5)  # type: ignore[misc]
            baseline_seconds = min(baseline_seconds, scaling_seconds)
        gains[eta] = baseline_seconds / seconds
    return Measurement(
        [
            # Ours: one order of magnitude where the paper has three, against a Sinkhorn several times quicker.
            at_least("speed-up at eta = 1200", gains[1200], 10, unit="x"),
            # Ours: where Sinkhorn is fine already, the default must not punish who uses it.
            at_most("time at eta = 50, in the quicker Sinkhorn's", 1 / gains[50], 1.5, unit="x"),
        ],
        figures={f"at_{eta}": gain for eta, gain in gains.items()},
        curves=[Curve("sparse Newton", list(gains), list(gains.values()), "eta", "speed-up over Sinkhorn", True, True)],
        note="Up to eta = 300 Sinkhorn needs a few dozen sweeps, and no Newton step pays; what is left is likely "
        "validation, the log domain's first pass, and the potentials and values that come with the plan.",
    )


def _seconds_a_step(cost: NDArray[np.float64]) -> tuple[float, float]:
    """Seconds of a Newton step and of a sweep, from one solve."""
    result = sinkhorn_newton(cost, regularization=1 / ETA, tol=1e-10)
    seconds, n_sweeps = [row["seconds"] for row in result.history], result.n_sinkhorn
    step = (seconds[-1] - seconds[n_sweeps - 1]) / result.n_newton
    return step, (seconds[n_sweeps - 1] - seconds[0]) / (n_sweeps - 1)


def _digit_pair(scale: Scale, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A pair of digits as distributions on a grid, and the grid's cost with largest entry 1."""
    factor = 3 if scale == "small" else 4
    images = load_digits().images
    side = 8 * factor
    source, target = (np.kron(images[k], np.ones((factor, factor))).ravel() + 0.01 for k in (0, 11))
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2).astype(float)
    difference = grid[:, None] - grid
    cost = (difference**2).sum(-1) if metric == "sqeuclidean" else np.abs(difference).sum(-1)
    return cost / cost.max(), source / source.sum(), target / target.sum()


def _scaling_sinkhorn(cost: NDArray[np.float64], eta: float, tol: float) -> NDArray[np.float64]:
    """Sinkhorn by scaling vectors, two matrix-vector products a sweep: the quickest where nothing underflows."""
    n, m = cost.shape
    kernel = np.exp(-eta * cost)
    v = np.ones(m)
    while True:
        u = 1.0 / n / (kernel @ v)
        columns = kernel.T @ u
        if np.abs(columns * v - 1.0 / m).sum() < tol:
            return u[:, None] * kernel * v
        v = 1.0 / m / columns


def _projected(errors: list[float], goal: float) -> float:
    """Sweeps until ``goal``, by the rate of the last third."""
    n = len(errors)
    rate = np.log(errors[2 * n // 3] / errors[-1]) / (n - 1 - 2 * n // 3)
    return n + np.log(errors[-1] / goal) / rate


def _quiet(solve: Callable[..., OptimalTransportResult], *args: Any, **options: Any) -> OptimalTransportResult:
    """Solve without the warning that a run which is meant to stop early gives."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return solve(*args, **options)


def _timed(run: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Median seconds over ``repeats`` runs, after compiled code is warm, and the result."""
    sinkhorn_newton(np.random.default_rng(0).random((8, 8)), regularization=0.01)
    times = []
    for _ in range(repeats):
        start = perf_counter()
        result = run()
        times.append(perf_counter() - start)
    return float(np.median(times)), result


def _error_curve(label: str, result: OptimalTransportResult) -> Curve:
    errors = [row["error"] for row in result.history]
    chosen = np.unique(np.geomspace(1, len(errors), 120).astype(int))
    return Curve(
        label, chosen.tolist(), [max(errors[k - 1], 1e-17) for k in chosen], "iteration", "marginal error", True, True
    )
