"""Races of consensus-based optimization against cbx, CMA-ES and SciPy's global optimisers."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.racing import Contestant, Race
from paperworks.optimization import benchmark_function, minimize_consensus

# Parameters that both implementations of the method are given.
ALPHA, NOISE, STEP = 1e5, 1.6**0.5, 0.01
NEAR = 0.25


def races() -> Iterator[Race]:
    yield _steps(100, 200, 20, 100)
    yield _steps(1, 200, 20, 1000)
    yield _searches(10, 20, "share of runs that find it", _share_near, "the success of cbx, in less time")
    yield _searches(10, 4, "evaluations a run", lambda outcome: float(outcome[1]))


def _steps(runs: int, n: int, d: int, steps: int) -> Race:
    """Steps alone: the objective costs next to nothing."""
    start = np.random.default_rng(0).uniform(-3, 5, size=(runs, n, d))

    def cheap(points: Any) -> Any:
        return points[..., 0] ** 2

    def ours() -> Any:
        result = _quietly(cheap, start, n_runs=runs, max_iter=steps, tol=0.0, random_state=0)
        return np.reshape(result.runs["spread"], -1)

    def cbx() -> Any:
        dynamics = _cbx(cheap, start, steps)
        dynamics.optimize()
        return np.linalg.norm(dynamics.drift, axis=-1).mean(axis=1)

    return Race(
        f"{steps} steps of {runs} run{'s' * (runs > 1)} side by side, {n} particles in {d} dimensions, objective free",
        Contestant("paperworks", ours),
        [Contestant("cbx", cbx)],
        # The same dynamics shrink the swarm alike.
        "spread at the end, log10 of the median over runs",
        lambda spread: float(np.log10(np.median(spread))),
        aim="a third of cbx's time" if runs > 1 else "",
        repeats=3,
    )


def _searches(d: int, runs: int, accuracy_name: str, accuracy: Callable[[Any], float], aim: str = "") -> Race:
    """The same searches for everyone; an outcome is the points found and the evaluations a run."""
    fun, budget = benchmark_function("rastrigin"), 800_000
    start = np.random.default_rng(0).uniform(-3, 5, size=(runs, 200, d))

    def ours() -> Any:
        result = _quietly(fun, start, n_runs=runs, noise=NOISE, random_state=0)
        return result.runs["consensus"], result.nfev / runs

    def many() -> Any:
        larger = np.random.default_rng(0).uniform(-3, 5, size=(runs, 1000, d))
        result = _quietly(fun, larger, n_runs=runs, noise=NOISE, random_state=0)
        return result.runs["consensus"], result.nfev / runs

    def cbx() -> Any:
        # As many steps as let nearly all of our runs converge; cbx stops no run by its spread.
        dynamics = _cbx(fun, start, 2500)
        dynamics.optimize()
        return dynamics.consensus[:, 0], 200 * 2500.0

    def cma() -> Any:
        from cma import CMAEvolutionStrategy

        found, count = [], 0
        for run in range(runs):
            options = {"seed": run + 1, "verbose": -9, "maxfevals": budget}
            search = CMAEvolutionStrategy(start[run].mean(axis=0), 8 / 3, options | {"popsize": 200})
            while not search.stop():
                points = search.ask()
                search.tell(points, fun(np.array(points)).tolist())
            found.append(search.result.xbest)
            count += search.result.evaluations
        return np.array(found), count / runs

    contestants: list[tuple[str, Callable[[], Any]]] = [
        ("paperworks, 1,000 particles", many),
        ("cbx", cbx),
        ("cma, population of 200", cma),
        ("SciPy differential_evolution", lambda: _scipy("differential_evolution", fun, start)),
        ("SciPy dual_annealing", lambda: _scipy("dual_annealing", fun, start)),
    ]
    return Race(
        f"{runs} searches for the minimiser of Rastrigin in {d} dimensions",
        Contestant("paperworks", ours),
        [Contestant(*each) for each in contestants],
        accuracy_name,
        accuracy,
        aim=aim,
        repeats=1,
    )


def _share_near(outcome: Any) -> float:
    return float(np.mean(np.abs(outcome[0]).max(axis=1) <= NEAR))


def _cbx(fun: Callable[[Any], Any], start: Any, steps: int) -> Any:
    from cbx.dynamics import CBO

    return CBO(
        fun,
        f_dim="3D",
        check_f_dims=False,
        x=start,
        alpha=ALPHA,
        sigma=NOISE,
        dt=STEP,
        lamda=1.0,
        noise="anisotropic",
        max_it=steps,
        verbosity=0,
        seed=0,
    )


def _scipy(name: str, fun: Callable[[Any], Any], start: Any) -> Any:
    """SciPy's own defaults, vectorised where it can be."""
    from scipy import optimize

    d = start.shape[2]
    options: dict[str, Any] = {}
    objective: Callable[[Any], Any] = fun
    if name == "differential_evolution":
        options = {"vectorized": True, "updating": "deferred", "polish": False}
        objective = lambda x: fun(x.T)  # noqa: E731
    results = [getattr(optimize, name)(objective, [(-3, 5)] * d, rng=run, **options) for run in range(len(start))]
    evaluations = sum(result.nfev for result in results)
    if name == "differential_evolution":
        # nfev counts calls there, each of a whole population of 15 d.
        evaluations *= 15 * d
    return np.array([result.x for result in results]), evaluations / len(results)


def _quietly(*arguments: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return minimize_consensus(*arguments, **options)
