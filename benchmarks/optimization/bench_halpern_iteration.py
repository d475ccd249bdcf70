"""Races of variance reduced Halpern iteration against deterministic methods and SciPy's Newton-Krylov solver."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.racing import Contestant, NotHere, Race
from paperworks.optimization import (
    FiniteSumOperator,
    deterministic_halpern,
    extra_anchored_gradient,
    extragradient,
    halpern_iteration,
    matrix_game,
)
from paperworks.optimization.halpern_iteration._games import policeman_and_burglar


def races() -> Iterator[Race]:
    yield _finite_sum(16384, 10)
    yield _finite_sum(16384, 100)
    yield _finite_sum(131072, 10)
    yield _game(1000, 0.25)


class _Quadratics:
    """F_i(u) = H_i u + q_i whose mean is evaluated component by component, as a user's operator is."""

    def __init__(self, n: int, d: int) -> None:
        rng = np.random.default_rng(0)
        basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
        root = basis * np.sqrt(np.logspace(0, -3, d))
        # H_i = R (I + s_i I + v_i v_i') R' with few numbers a component, so that 131,072 of them fit in memory.
        self.root, self.vectors = root, 0.3 * rng.normal(size=(n, d)) / np.sqrt(d)
        self.offsets = rng.normal(size=(n, d)) * 0.1
        target = rng.normal(size=d)
        target /= np.linalg.norm(target)
        self.offsets -= self.offsets.mean(axis=0)
        self.offsets -= self.mean(np.arange(n), target)
        self.operator = FiniteSumOperator(
            lambda u: self.mean(slice(None), u) + self.offsets.mean(axis=0),
            lambda u, indices: self.mean(indices, u) + self.offsets[indices].mean(axis=0),
            n,
            d,
            cocoercivity=1 / 1.3,
            full_lipschitz=1.1,
        )

    def mean(self, indices: Any, u: np.ndarray) -> np.ndarray:
        inner, vectors = self.root.T @ u, self.vectors[indices]
        return self.root @ (inner + (vectors @ inner) @ vectors / len(vectors))


def _finite_sum(n: int, d: int) -> Race:
    operator, tolerance = _Quadratics(n, d).operator, 1e-3
    start = np.zeros(d)
    options: dict[str, Any] = {"tolerance": tolerance, "max_oracle_calls": 10**11}

    def krylov() -> Any:
        from scipy.optimize import root

        found = root(operator.full, start, method="krylov", options={"fatol": tolerance / d**0.5, "disp": False})
        if not found.success:
            raise NotHere("did not converge")
        return found

    return Race(
        f"a mean of {n:,} quadratics in {d} unknowns to a residual of {tolerance}",
        Contestant(
            "paperworks", lambda: halpern_iteration(operator, start, step_size=2 / 1.3, random_state=0, **options)
        ),
        [
            Contestant(
                "paperworks, step of theory", lambda: halpern_iteration(operator, start, random_state=0, **options)
            ),
            Contestant("deterministic Halpern", lambda: deterministic_halpern(operator, start, **options)),
            Contestant("extragradient", lambda: extragradient(operator, start, step_size=0.7, **options)),
            Contestant("SciPy root, krylov", krylov),
        ],
        "residual",
        lambda result: float(np.linalg.norm(operator.full(result.x))),
        aim="half the time of deterministic Halpern iteration",
        repeats=3,
    )


def _game(n: int, tolerance: float) -> Race:
    operator, resolvent = matrix_game(policeman_and_burglar(n, np.random.default_rng(0)))
    start = np.full(2 * n, 1 / n)
    options: dict[str, Any] = {"resolvent": resolvent, "tolerance": tolerance, "max_oracle_calls": 5000 * n}
    refresh = 1 / operator.n_components
    tau = 4 * np.sqrt(refresh * (1 - refresh) / n) / 2

    def deterministic(method: Callable[..., Any], factor: float) -> Callable[[], Any]:
        return lambda: method(operator, start, step_size=factor / operator.full_lipschitz, **options)

    return Race(
        f"the policeman and the burglar on {n:,} houses to a residual of {tolerance}",
        Contestant(
            "paperworks",
            lambda: halpern_iteration(operator, start, inner_step_size=tau, inner_power=0.5, random_state=0, **options),
        ),
        [
            Contestant("extra anchored gradient", deterministic(extra_anchored_gradient, 0.5)),
            Contestant("extra anchored gradient, step 2 / L", deterministic(extra_anchored_gradient, 2.0)),
            Contestant("extragradient", deterministic(extragradient, 0.5)),
            Contestant("extragradient, step 2 / L", deterministic(extragradient, 2.0)),
        ],
        "duality gap",
        lambda result: float((operator.full(result.x)[n:] * -1).max() - operator.full(result.x)[:n].min()),
        repeats=3,
    )
