"""Races of blockwise bilevel optimisation: its baseline, implicit differentiation of all blocks, loops over samples."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from benchmarks.racing import Contestant, Race
from paperworks.optimization import minimize_blockwise_bilevel
from paperworks.optimization.blockwise_bilevel._ensemble import WeightedLogistic

N, D, M = 2000, 50, 100
STEPS = 1000


def races() -> Iterator[Race]:
    data = _weighted(N, D, M)
    yield _validation(data)
    yield _loops(data)
    yield _products(data)
    yield _length_of_x()


def _weighted(n: int, d: int, m: int) -> WeightedLogistic:
    """Two Gaussian classes whose training labels are wrong by a fifth."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=d)
    X = rng.normal(size=(n + 1000, d))
    y = np.where(X @ direction / np.linalg.norm(direction) + 0.3 * rng.normal(size=len(X)) > 0, 1.0, -1.0)
    wrong = rng.random(n) < 0.2
    return WeightedLogistic(
        X[:n], np.where(wrong, -y[:n], y[:n]), X[n:], y[n:], np.linspace(1.0, 11.0, m), regularization=1e-3
    )


def _solver(data: WeightedLogistic, method: Any, n_steps: int, upper_lr: float, **options: Any) -> Any:
    m = len(data.temperatures)
    return minimize_blockwise_bilevel(
        data.as_bilevel(samplewise=method != "rsvrb"),
        np.zeros(data.n_samples),
        np.zeros((m, data.X.shape[1])),
        method=method,
        upper_lr=upper_lr,
        lower_lr=options.pop("lower", 0.1) / data.curvatures,
        vector_bound=100.0,
        hessian_floor=1e-3,
        n_steps=n_steps,
        random_state=0,
        **options,
    )


def _solved(data: WeightedLogistic, x: np.ndarray, w: np.ndarray, steps: int = 30) -> np.ndarray:
    """All lower solutions, by Newton steps."""
    weights = expit(x) / data.n_samples
    for _ in range(steps):
        scale = data.y / data.temperatures[:, None]
        wrong = expit(-scale * (w @ data.X.T))
        gradient = -(weights * wrong * scale) @ data.X + data.regularization * w
        second = weights * wrong * (1 - wrong) * scale**2
        hessian = np.einsum("in,nj,nk->ijk", second, data.X, data.X, optimize=True)
        hessian += data.regularization * np.eye(data.X.shape[1])
        w = w - np.linalg.solve(hessian, gradient[..., None])[..., 0]
        if np.abs(gradient).max() < 1e-8:
            break
    return w


def _implicit(data: WeightedLogistic, n_iterations: int) -> np.ndarray:
    """L-BFGS on the validation loss of exact lower solutions, differentiated implicitly."""
    m = len(data.temperatures)
    start = np.zeros((m, data.X.shape[1]))

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        w = _solved(data, x, start)
        start[:] = w
        p = expit(x)
        scale, upper_scale = (signs / data.temperatures[:, None] for signs in (data.y, data.y_upper))
        wrong = expit(-scale * (w @ data.X.T))
        by_w = -(expit(-upper_scale * (w @ data.X_upper.T)) * upper_scale) @ data.X_upper / len(data.y_upper)
        second = p / data.n_samples * wrong * (1 - wrong) * scale**2
        hessian = np.einsum("in,nj,nk->ijk", second, data.X, data.X, optimize=True)
        hessian += data.regularization * np.eye(data.X.shape[1])
        v = np.linalg.solve(hessian, by_w[..., None])[..., 0]
        mixed = -(p * (1 - p)) / data.n_samples * wrong * scale * (v @ data.X.T)
        return data.upper_loss(w), -mixed.sum(0) / m

    found = minimize(
        value_and_gradient, np.zeros(data.n_samples), jac=True, method="L-BFGS-B", options={"maxiter": n_iterations}
    )
    return found.x


def _validation(data: WeightedLogistic) -> Race:
    """Validation loss at exact lower solutions of the weights that were found."""

    def accuracy(x: np.ndarray) -> float:
        return data.upper_loss(_solved(data, x, np.zeros((len(data.temperatures), data.X.shape[1]))))

    def run(method: Any, n_steps: int, **options: Any) -> Callable[[], Any]:
        return lambda: _solver(data, method, n_steps, 60.0, **options).x

    return Race(
        f"weights of {N:,} samples with {D} features by the validation loss of {M} temperatures",
        Contestant("paperworks, v2", run("v2", 5 * STEPS)),
        [
            Contestant("paperworks, v1", run("v1", STEPS)),
            Contestant("RSVRB, of the method's predecessors", run("rsvrb", 50)),
            Contestant("SciPy L-BFGS-B, exact implicit gradients, 3 iterations", lambda: _implicit(data, 3)),
            Contestant("SciPy L-BFGS-B, exact implicit gradients, 15 iterations", lambda: _implicit(data, 15)),
        ],
        "validation loss at exact lower solutions",
        accuracy,
        aim="below RSVRB in the same time",
        repeats=1,
    )


def _loops(data: WeightedLogistic) -> Race:
    """As the published code does it: one sample at a time, derivatives by all of x."""
    blocks, batch = np.arange(10), np.random.default_rng(0).integers(N, size=(2, 10, 32))
    w, v, x = np.full((10, D + 1), 0.1), np.full((10, D + 1), 0.2), np.zeros(N)
    problem = data.as_bilevel()

    def ours() -> Any:
        for _ in range(100):
            for _ in range(2):
                problem.upper_gradients(x, w, blocks, batch[1] % 1000)
                found = problem.lower_derivatives(x, w, v, blocks, batch[0])
        return found[0]

    def looped() -> Any:
        gradients = np.zeros_like(w)
        for _ in range(2):
            for i in blocks:
                sigma = data.temperatures[i]
                product, mixed, upper = np.zeros(D + 1), np.zeros((N, D + 1)), np.zeros(D + 1)
                gradients[i] = data.regularization * w[i]
                for j, k in zip(batch[0, i], batch[1, i] % 1000, strict=True):
                    row, sign = data.X[j], data.y[j]
                    wrong = 1 - 1 / (1 + np.exp(-(sign / sigma) * np.dot(w[i], row)))
                    p = 1 / (1 + np.exp(-x[j]))
                    gradients[i] += -p * wrong * sign / sigma * row / 32
                    product += p * wrong * (1 - wrong) / sigma**2 * np.dot(row, v[i]) * row / 32
                    mixed[j] += -p * (1 - p) * wrong * sign / sigma * row / 32
                    row, sign = data.X_upper[k], data.y_upper[k]
                    wrong = 1 - 1 / (1 + np.exp(-(sign / sigma) * np.dot(w[i], row)))
                    upper += -wrong * sign / sigma * row / 32
                mixed @ v[i]
        return gradients

    return Race(
        "derivatives of one step, 10 blocks and 32 samples of each, at both points (ours: of 100 steps)",
        Contestant("paperworks, 100 steps", ours),
        [Contestant("loops over samples, 1 step", looped)],
        "norm of the lower gradients",
        lambda found: float(np.linalg.norm(found)),
        aim="20 times quicker a step",
        repeats=3,
    )


def _products(data: WeightedLogistic) -> Race:
    """What a step costs beyond the products of its batch with w and v, at both points and both levels."""
    rng = np.random.default_rng(0)
    draws = [(rng.integers(N, size=(10, 32)), rng.integers(1000, size=(10, 32))) for _ in range(200)]
    w = rng.normal(size=(10, D + 1))

    def products() -> Any:
        for lower, upper in draws:
            for _ in range(2):
                rows, upper_rows = data.X[lower], data.X_upper[upper]
                for _ in range(2):
                    scores = (rows @ w[..., None])[..., 0]
                    sums = (scores[:, None, :] @ rows)[:, 0]
                scores = (upper_rows @ w[..., None])[..., 0]
                total = (scores[:, None, :] @ upper_rows)[:, 0]
        return sums + total

    return Race(
        "200 steps, 10 blocks and 32 samples of each",
        Contestant("paperworks, v2", lambda: _solver(data, "v2", 200, 60.0).x),
        [Contestant("gathering rows and batched products alone", products)],
        "numbers returned",
        lambda found: float(found.size),
        aim="within 3 times the products",
        repeats=5,
    )


def _length_of_x() -> Race:
    """A step costs what its batch costs, however many samples have a number in x."""
    few, many = _weighted(5_000, 20, 20), _weighted(500_000, 20, 20)

    def run(data: WeightedLogistic) -> Callable[[], Any]:
        return lambda: _solver(data, "v2", 500, 60.0).x

    return Race(
        "500 steps with one number in x for each of 500,000 samples",
        Contestant("paperworks", run(many)),
        [Contestant("paperworks, 5,000 samples", run(few))],
        "numbers in x",
        lambda x: float(len(x)),
        aim="no growth with x but for a copy at both ends",
        repeats=3,
    )
