"""Entropic transport at weak regularisation, to a marginal error of 1e-9, against first- and second-order peers."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.racing import Contestant, NotHere, Race
from paperworks.transport import entropic_wasserstein_distance, sinkhorn_newton

TOL = 1e-9


def races() -> Iterator[Race]:
    """Random assignment, images with two costs, point clouds."""
    for n in (500, 1000):
        cost = np.random.default_rng(0).random((n, n))
        weights = np.full(n, 1.0 / n)
        yield _race(f"random assignment, n = {n}, eta = 1200, to error 1e-9", cost, weights, weights, 1200.0)
    from paperworks.papers.sinkhorn_newton_sparse.claims import _digit_pair

    cost, a, b = _digit_pair("small", "sqeuclidean")
    yield _race("two 24 x 24 digits, squared distance, eta = 1200, to error 1e-9", cost, a, b, 1200.0)
    cost, a, b = _digit_pair("small", "cityblock")
    yield _race("two 24 x 24 digits, city-block distance, eta = 1200, to error 1e-9", cost, a, b, 1200.0)
    yield _against_the_exact_solver()
    yield _point_clouds()


def _race(title: str, cost: Any, a: Any, b: Any, eta: float) -> Race:
    def error(plan: Any) -> float:
        plan = np.asarray(plan)
        return float(np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum())

    return Race(
        title,
        Contestant("paperworks", lambda: sinkhorn_newton(cost, a, b, regularization=1 / eta, max_newton=2000).plan),
        [
            # POT needs tens of thousands of sweeps: it is stopped after 300, and its error then is in the table.
            Contestant("POT sinkhorn_log, stopped at 300 sweeps", _pot(cost, a, b, eta, "sinkhorn_log", 300)),
            Contestant("POT sinkhorn_stabilized, 300 sweeps", _pot(cost, a, b, eta, "sinkhorn_stabilized", 300)),
            Contestant("ott-jax, 300 sweeps", lambda: _ott(cost, a, b, eta, 300)),
            Contestant("regot ssns", lambda: _regot("sinkhorn_ssns", cost, a, b, eta)),
            Contestant("regot splr", lambda: _regot("sinkhorn_splr", cost, a, b, eta)),
        ],
        "marginal error",
        error,
        aim="100x POT, 1x regot",
        repeats=3,
    )


def _pot(cost: Any, a: Any, b: Any, eta: float, method: str, sweeps: int) -> Callable[[], Any]:
    def run() -> Any:
        import ot

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ot.sinkhorn(a, b, cost, 1 / eta, method=method, numItermax=sweeps, stopThr=TOL)

    return run


def _ott(cost: Any, a: Any, b: Any, eta: float, sweeps: int) -> Any:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    geometry = Geometry(jnp.asarray(cost), epsilon=1 / eta)
    solver = Sinkhorn(threshold=TOL, max_iterations=sweeps, lse_mode=True)
    output = jax.jit(solver)(LinearProblem(geometry, jnp.asarray(a), jnp.asarray(b)))
    return np.asarray(output.matrix)


def _regot(method: str, cost: Any, a: Any, b: Any, eta: float) -> Any:
    import regot

    plan = getattr(regot, method)(np.asfortranarray(cost), a, b, 1 / eta, tol=TOL, max_iter=5000).plan
    if not np.isfinite(plan).all():
        raise NotHere("its plan is not finite")
    return plan


def _against_the_exact_solver() -> Race:
    """For context: the exact plan by the network simplex, whose cost the entropic plan's is compared with."""
    n = 1000
    cost = np.random.default_rng(0).random((n, n))
    weights = np.full(n, 1.0 / n)

    def exact() -> float:
        import ot

        return float(ot.emd2(weights, weights, cost))

    return Race(
        "transport cost of random assignment, n = 1000; exact, for context",
        Contestant("paperworks at eta = 20000", lambda: _value(cost, 20_000.0)),
        [Contestant("POT emd2, exact", exact)],
        "transport cost",
        float,
        aim="context only",
        repeats=3,
    )


def _value(cost: Any, eta: float) -> float:
    return float(sinkhorn_newton(cost, regularization=1 / eta, max_newton=5000, initial_regularization=0.01).value)


def _point_clouds() -> Race:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2000, 2)), generator.normal(size=(2000, 2)) + 1

    def annealed() -> Any:
        import torch
        from geomloss import SamplesLoss

        loss = SamplesLoss("sinkhorn", p=2, blur=0.01**0.5, scaling=0.99, debias=False, backend="tensorized")
        # geomloss's cost is half the squared distance.
        return 2 * float(loss(torch.from_numpy(x), torch.from_numpy(y)))

    return Race(
        "entropic cost of two clouds of 2,000 points in the plane, regularisation 0.02",
        Contestant("paperworks", lambda: entropic_wasserstein_distance(x, y, regularization=0.02) ** 2),
        [Contestant("geomloss, annealed by 0.99, not to a tolerance", annealed)],
        "entropic transport cost",
        float,
        aim="no slower",
        repeats=3,
    )
