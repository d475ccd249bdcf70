"""Races of the sliced Wasserstein distance with control variates against POT."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from benchmarks.racing import Contestant, Race
from paperworks.transport import sliced_wasserstein_distance

N, D, L = 4096, 64, 500


def races() -> Iterator[Race]:
    yield _same_directions()
    yield _same_directions(weighted=True)
    yield _gradient()
    yield _overhead()
    yield _equal_error()


def _clouds() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(D, L))
    directions /= np.linalg.norm(directions, axis=0)
    x, y = rng.normal(size=(N, D)), 1.3 * rng.normal(size=(N, D)) + 0.3
    return x.astype(np.float32), y.astype(np.float32), directions.astype(np.float32)


def _same_directions(weighted: bool = False) -> Race:
    x, y, directions = _clouds()
    weights = np.random.default_rng(1).random(N) if weighted else None
    masses = None if weights is None else (weights / weights.sum()).astype(np.float32)

    def ours() -> float:
        return sliced_wasserstein_distance(x, y, control_variate=None, projections=directions, x_weights=weights)

    def pot(backend: Any) -> float:
        import ot

        given = [None if part is None else backend(part) for part in (x, y, masses)]
        return float(ot.sliced_wasserstein_distance(*given, projections=backend(directions)))

    double = [part.astype(np.float64) for part in (x, y, directions)]
    exact = sliced_wasserstein_distance(
        *double[:2], control_variate=None, projections=double[2] / np.linalg.norm(double[2], axis=0), x_weights=weights
    )
    return Race(
        f"plain sliced distance, {N} x {D} float32, {L} given directions{', weighted' if weighted else ''}",
        Contestant("paperworks", ours),
        [
            Contestant("POT, NumPy", lambda: pot(np.asarray)),
            Contestant("POT, torch", lambda: pot(torch.from_numpy)),
        ],
        "relative error against float64",
        lambda value: abs(value - exact) / exact,
        aim="at most 0.7 times POT's time",
    )


def _gradient() -> Race:
    x, y, directions = (torch.from_numpy(part) for part in _clouds())

    def ours() -> torch.Tensor:
        moving = x.clone().requires_grad_()
        value = sliced_wasserstein_distance(moving, y, control_variate="lower", projections=directions)
        return torch.autograd.grad(value, moving)[0]

    def pot() -> torch.Tensor:
        import ot

        moving = x.clone().requires_grad_()
        value = ot.sliced_wasserstein_distance(moving, y, projections=directions)
        return torch.autograd.grad(value, moving)[0]

    many = np.random.default_rng(2).normal(size=(D, 20_000))
    many /= np.linalg.norm(many, axis=0)
    moving = x.double().requires_grad_()
    value = sliced_wasserstein_distance(moving, y.double(), control_variate=None, projections=many)
    (exact,) = torch.autograd.grad(value, moving)
    return Race(
        f"distance and gradient, {N} x {D} float32, {L} directions",
        Contestant("paperworks, lower bound", ours),
        [Contestant("POT, torch", pot)],
        "relative error of the gradient against 20,000 directions",
        lambda found: float((found.double() - exact).norm() / exact.norm()),
        aim="at most 0.7 times POT's time",
    )


def _overhead() -> Race:
    x, y, directions = _clouds()
    double = x.astype(np.float64), y.astype(np.float64)
    truth = sliced_wasserstein_distance(*double, n_projections=20_000, random_state=3)

    def estimate(control_variate: str | None) -> float:
        return sliced_wasserstein_distance(x, y, control_variate=control_variate, projections=directions)

    return Race(
        f"cost of a control variate, {N} x {D} float32, {L} directions",
        Contestant("paperworks, lower bound", lambda: estimate("lower")),
        [
            Contestant("paperworks, upper bound", lambda: estimate("upper")),
            Contestant("paperworks, plain", lambda: estimate(None)),
        ],
        "relative error",
        lambda value: abs(value - truth) / truth,
        aim="at most 1.1 times plain",
        repeats=15,
    )


def _equal_error() -> Race:
    images, labels = load_digits(return_X_y=True)
    x, y = images[labels == 0][:178] / 16, images[labels == 1][:178] / 16
    truth = sliced_wasserstein_distance(x, y, n_projections=400_000, random_state=99)
    repeats = 30

    def ours() -> np.ndarray:
        return np.array([sliced_wasserstein_distance(x, y, random_state=seed) for seed in range(repeats)])

    def pot() -> np.ndarray:
        import ot

        return np.array(
            [ot.sliced_wasserstein_distance(x, y, n_projections=8000, seed=seed) for seed in range(repeats)]
        )

    return Race(
        f"zeros and ones of scikit-learn's digits to equal error, {repeats} estimates",
        Contestant("paperworks, lower bound, 100 directions", ours),
        [Contestant("POT, NumPy, 8,000 directions", pot)],
        "root mean squared error",
        lambda values: float(np.sqrt(np.mean((values - truth) ** 2))),
        aim="20 times POT's speed",
        repeats=3,
    )
