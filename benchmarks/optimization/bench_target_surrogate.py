"""Races of target-based surrogates against ordinary optimisers, by dear gradients and by seconds."""

import warnings
from collections.abc import Callable, Iterator
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

from benchmarks.racing import Contestant, NotHere, Race
from paperworks.optimization import TargetSurrogateOptimizer

GOAL = 0.05
MOST_CALLS = 2000
SGD_RATES = (1.0, 3.0, 10.0, 30.0)
ADAM_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
ADAGRAD_RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
SURROGATE_STEPS = (4.0, 16.0, 64.0, 256.0)


def races() -> Iterator[Race]:
    for delay in (0.0, 0.05):
        yield _to_the_goal(delay)
    yield _inner_step()
    yield _inner_step_on_rows()


class Expensive:
    """Logistic loss of the breast-cancer data whose every gradient takes a while, and their count."""

    def __init__(self, delay: float) -> None:
        X, y = load_breast_cancer(return_X_y=True)
        self.X = torch.tensor(np.c_[(X - X.mean(0)) / X.std(0), np.ones(len(X))])
        self.signs = torch.tensor(np.where(y > 0, 1.0, -1.0))[:, None]
        self.W = torch.zeros(self.X.shape[1], 1, dtype=torch.float64, requires_grad=True)
        self.delay, self.calls = delay, 0

    def gradient(self, z: Tensor, rows: Any = slice(None)) -> Tensor:
        """Gradients of the rows' losses."""
        self.calls += 1
        sleep(self.delay)
        signs = self.signs[rows]
        return -signs * torch.sigmoid(-signs * z)

    @torch.no_grad()
    def loss(self) -> float:
        """Mean loss of all rows."""
        return float(nn.functional.softplus(-self.signs * (self.X @ self.W)).mean())

    def until_the_goal(self, step: Callable[[], Any]) -> int:
        """Dear gradients until the loss is reached, which is looked at for free."""
        while self.loss() > GOAL:
            if self.calls >= MOST_CALLS or not np.isfinite(self.loss()):
                return MOST_CALLS
            step()
        return self.calls


def _surrogate(delay: float, eta: float, **options: Any) -> int:
    problem = Expensive(delay)
    optimizer = TargetSurrogateOptimizer([problem.W], eta, inner_steps=20, **options)
    losses: dict[str, Any] = {}
    if options.get("line_search"):
        losses["loss"] = lambda z: nn.functional.softplus(-problem.signs * z)[:, 0]
    return problem.until_the_goal(
        lambda: optimizer.step(lambda: problem.X @ problem.W, problem.gradient, **losses),
    )


def _ordinary(delay: float, kind: Any, rate: float) -> int:
    problem = Expensive(delay)
    optimizer = kind([problem.W], lr=rate)

    def step() -> None:
        optimizer.zero_grad()
        problem.W.grad = problem.X.T @ problem.gradient(problem.X @ problem.W.detach()) / len(problem.X)
        optimizer.step()

    return problem.until_the_goal(step)


def _line_search(delay: float) -> int:
    """SLS: gradient steps whose length is found by Armijo backtracking on the loss, whose values are free."""
    problem, step_size = Expensive(delay), 10.0

    @torch.no_grad()
    def step() -> None:
        nonlocal step_size
        g = problem.X.T @ problem.gradient(problem.X @ problem.W) / len(problem.X)
        before, start = problem.loss(), problem.W.clone()
        step_size *= 1.8
        for _ in range(100):
            problem.W.copy_(start - step_size * g)
            if problem.loss() <= before - 0.5 * step_size * float((g * g).sum()):
                return
            step_size *= 0.9

    return problem.until_the_goal(step)


def _variance_reduced(delay: float, rate: float) -> float:
    """SVRG on batches of 50, whose dear rows are counted in full gradients."""
    problem, rng = Expensive(delay * 50 / 569), np.random.default_rng(0)
    n, cost = len(problem.X), 0.0
    while problem.loss() > GOAL and cost < MOST_CALLS:
        with torch.no_grad():
            anchor = problem.W.clone()
            whole = problem.gradient(problem.X @ anchor)
            sleep(delay - problem.delay)
            mean, cost = problem.X.T @ whole / n, cost + 1
            for _ in range(n // 50):
                rows = torch.from_numpy(rng.choice(n, 50, replace=False))
                change = problem.gradient(problem.X[rows] @ problem.W, rows) - whole[rows]
                problem.W -= rate * (problem.X[rows].T @ change / 50 + mean)
                cost += 50 / n
    return cost if np.isfinite(problem.loss()) and problem.loss() <= GOAL else MOST_CALLS


def _tuned(run: Callable[[float], float], settings: tuple[float, ...]) -> float:
    """The setting that needs the fewest gradients, found without delay and outside the race's clock."""
    best = min(settings, key=run)
    if run(best) >= MOST_CALLS:
        raise NotHere(f"no loss of {GOAL} within {MOST_CALLS} gradients at any of {settings}")
    return best


def _to_the_goal(delay: float) -> Race:
    warnings.simplefilter("ignore")
    kinds = {"SGD": (torch.optim.SGD, SGD_RATES), "Adam": (torch.optim.Adam, ADAM_RATES)}
    kinds["Adagrad"] = (torch.optim.Adagrad, ADAGRAD_RATES)
    eta = _tuned(lambda each: _surrogate(0.0, each), SURROGATE_STEPS)
    peers = [
        Contestant("paperworks, line search on the targets", lambda: _surrogate(delay, 4.0, line_search=True)),
        Contestant("paperworks, eta = 1/L", lambda: _surrogate(delay, 4.0)),
    ]
    for name, (kind, rates) in kinds.items():
        rate = _tuned(lambda each, kind=kind: _ordinary(0.0, kind, each), rates)  # type: ignore[misc]
        peers.append(
            Contestant(f"torch {name}, rate {rate:g}", lambda kind=kind, rate=rate: _ordinary(delay, kind, rate))  # type: ignore[misc]
        )
    peers.append(Contestant("stochastic line search", lambda: _line_search(delay)))
    rate = _tuned(lambda each: _variance_reduced(0.0, each), (0.3, 1.0, 3.0, 10.0))
    peers.append(Contestant(f"SVRG, rate {rate:g}", lambda: _variance_reduced(delay, rate)))
    return Race(
        f"logistic loss {GOAL} on breast-cancer data, {1000 * delay:g} ms a gradient of the loss",
        Contestant(f"paperworks, 20 inner steps, eta = {eta:g}", lambda: _surrogate(delay, eta)),
        peers,
        "gradients of the loss",
        float,
        aim="a third of the gradients of tuned Adam",
        repeats=1 if delay else 3,
    )


def _network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return model, torch.randn(1000, 256), torch.randint(10, (1000,))


def _inner_step(steps: int = 40) -> Race:
    """What an inner step costs over an ordinary training step, where the gradient is free."""

    def plain() -> float:
        model, X, y = _network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        begin = perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), y).backward()
            optimizer.step()
        return 1000 * (perf_counter() - begin) / steps

    def surrogate(inner: Any) -> float:
        model, X, y = _network()
        optimizer = TargetSurrogateOptimizer(model.parameters(), smoothness=0.5, inner_steps=20, inner_optimizer=inner)
        begin = perf_counter()
        for _ in range(steps // 20):
            optimizer.step(lambda: model(X), loss=lambda z: nn.functional.cross_entropy(z, y, reduction="none"))
        return 1000 * (perf_counter() - begin) / steps

    return Race(
        f"{steps} updates of a network of 400,000 weights on 1,000 rows, the gradient of the loss being free",
        Contestant("paperworks, Armijo", lambda: surrogate("armijo")),
        [
            Contestant("paperworks, inner SGD", lambda: surrogate(lambda each: torch.optim.SGD(each, lr=0.1))),
            Contestant("ordinary training steps", plain),
        ],
        "milliseconds an update",
        float,
        aim="1.3 times an ordinary training step",
    )


def _inner_step_on_rows() -> Race:
    """Inner steps of a linear model by the Gram matrix, against passes over the rows."""
    from paperworks.optimization import TargetSurrogateClassifier

    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 100))
    y = (X @ rng.normal(size=100) + rng.normal(size=20_000) > 0).astype(int)
    rows, signs = torch.from_numpy(X), torch.from_numpy(2.0 * y - 1)[:, None]

    def linear() -> float:
        classifier = TargetSurrogateClassifier(max_iter=20, tol=0.0, fit_intercept=False, progress=False)
        return float(classifier.fit(X, y).history_["loss"][-1])

    def general() -> float:
        W = torch.zeros(100, 1, dtype=torch.float64, requires_grad=True)
        optimizer = TargetSurrogateOptimizer([W], smoothness=0.25, inner_steps=20)
        for _ in range(20):
            optimizer.step(lambda: rows @ W, loss=lambda z: nn.functional.softplus(-signs * z)[:, 0])
        return float(nn.functional.softplus(-signs * (rows @ W)).mean().detach())

    return Race(
        "400 inner steps of a linear model on 20,000 x 100",
        Contestant("paperworks, TargetSurrogateClassifier", linear),
        [Contestant("paperworks, TargetSurrogateOptimizer", general)],
        "logistic loss",
        float,
        aim="inner steps whose cost does not grow with the rows",
        repeats=3,
    )
