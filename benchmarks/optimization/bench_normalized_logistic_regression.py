"""Races of logistic regression with large steps against scikit-learn's linear classifiers."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.racing import Contestant, Race
from paperworks.optimization import NormalizedLogisticRegression


def races() -> Iterator[Race]:
    yield _separation("balanced classes", 200_000, 100, 0.5)
    yield _separation("one sample in 2,000 of the second class", 200_000, 100, 0.0005)
    yield _bandwidth(200_000, 100)


def _classes(n: int, d: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian samples on both sides of a gap."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=d)
    direction /= np.linalg.norm(direction)
    y = np.where(rng.random(n) < share, 1.0, -1.0)
    X = rng.normal(size=(n, d))
    X += (y * (np.abs(X @ direction) + 0.5) - X @ direction)[:, None] * direction
    return X.astype(np.float32), y


def _separation(title: str, n: int, d: int, share: float) -> Race:
    from sklearn.linear_model import LogisticRegression, Perceptron
    from sklearn.svm import LinearSVC

    X, y = _classes(n, d, share)

    def fitted(make: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return make().fit(X, y)

        return run

    def ours(method: Any) -> Callable[[], Any]:
        return fitted(lambda: NormalizedLogisticRegression(method))

    return Race(
        f"no training error on {n:,} x {d} in float32, {title}",
        Contestant("paperworks", ours("normalized_logistic")),
        [
            Contestant("paperworks, logistic, step 100", ours("logistic")),
            Contestant("paperworks, normalised batch perceptron", ours("normalized_batch_perceptron")),
            Contestant(
                "scikit-learn LogisticRegression, lbfgs", fitted(lambda: LogisticRegression(C=1e8, max_iter=1000))
            ),
            Contestant("scikit-learn Perceptron", fitted(lambda: Perceptron(tol=None, max_iter=100))),
            Contestant("scikit-learn LinearSVC", fitted(lambda: LinearSVC(C=1e4, max_iter=100))),
        ],
        "training errors",
        lambda classifier: float((classifier.predict(X) != y).sum()),
        aim="3 times quicker than lbfgs",
        repeats=3,
    )


def _bandwidth(n: int, d: int) -> Race:
    X, _ = _classes(n, d, 0.5)
    # No direction separates random labels, so that all iterations are made.
    y = np.random.default_rng(1).choice([-1.0, 1.0], n)
    rows, weights, theta = torch.from_numpy(X), torch.ones(n), torch.ones(d)

    def products() -> Any:
        for _ in range(51):
            rows @ theta
            total = weights @ rows
        return total

    def iterations() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return NormalizedLogisticRegression(max_iter=50, fit_intercept=False).fit(X, y).coef_[0]

    return Race(
        f"50 iterations on {n:,} x {d} in float32, checks of the input included",
        Contestant("paperworks", iterations),
        [Contestant("the two products with the matrix alone", products)],
        "entries",
        lambda vector: float(len(vector)),
        aim="within 1 / 0.6 of the products",
        repeats=3,
    )
