"""Races of BO-REP: what a step costs, hyper-cleaning of many samples, and accuracy against rivals."""

import warnings
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from benchmarks.racing import Contestant, Race
from paperworks.optimization import LabelCleaner, UnboundedSmoothBilevel
from paperworks.optimization.unbounded_smooth_bilevel import minimize_bilevel

STEPS = 40


def races() -> Iterator[Race]:
    warnings.simplefilter("ignore", ConvergenceWarning)
    yield _step()
    yield _many_samples()
    yield _digits()


class Network:
    """A wide head below, an encoder above, and batches that are ready."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(256, 512), nn.Tanh())
        self.head = nn.Sequential(nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 10))
        self.X, self.y = torch.randn(256, 256), torch.randint(10, (256,))

    def upper(self, *_: Any) -> Tensor:
        """Cross-entropy, whatever lists of tensors are given."""
        return nn.functional.cross_entropy(self.head(self.encoder(self.X)), self.y)

    def lower(self, *_: Any) -> Tensor:
        """The same with a penalty on the head."""
        return self.upper() + 1e-3 * sum((each**2).sum() for each in self.head.parameters())

    def parameters(self) -> list[Tensor]:
        """All that a gradient is taken in."""
        return [*self.encoder.parameters(), *self.head.parameters()]


def _gradient_evaluation() -> float:
    network = Network()
    begin = perf_counter()
    for _ in range(STEPS):
        torch.autograd.grad(network.lower(), network.parameters())
    return (perf_counter() - begin) / STEPS


def _step() -> Race:
    """Seconds of a step in units of a gradient evaluation, which is timed beside it."""

    def cost(step: Callable[[Network], Any]) -> float:
        network = Network()
        step(network)
        begin = perf_counter()
        step(network)
        return (perf_counter() - begin) / STEPS / _gradient_evaluation()

    def ours(**options: Any) -> Callable[[], float]:
        def run() -> float:
            made: list[UnboundedSmoothBilevel] = []

            def steps(network: Network) -> None:
                if not made:
                    lists = (network.encoder.parameters(), network.head.parameters())
                    made.append(UnboundedSmoothBilevel(*lists, refinement_epochs=0, **options))
                for _ in range(STEPS):
                    made[0].step(network.upper, network.lower)

            return cost(steps)

        return run

    def unrolled() -> float:
        import torchopt

        def steps(network: Network) -> None:
            for _ in range(STEPS // 10):
                inner = torchopt.MetaSGD(network.head, lr=0.05)
                state = torchopt.extract_state_dict(network.head, by="copy")
                for _ in range(10):
                    inner.step(network.lower())
                torch.autograd.grad(network.upper(), list(network.encoder.parameters()))
                torchopt.recover_state_dict(network.head, state)

        # Ten lower steps make one hypergradient.
        return 10 * cost(steps)

    return Race(
        "one step on a network of 400,000 weights, batches of 256",
        Contestant("paperworks, products of one batch", ours(shared_batch=True)),
        [
            Contestant("paperworks, products of independent batches", ours()),
            Contestant("paperworks, one batch, period 4", ours(shared_batch=True, period=4)),
            Contestant("paperworks, finite differences, one batch", ours(shared_batch=True, hvp="finite_difference")),
            Contestant("torchopt, ten unrolled lower steps", unrolled),
        ],
        "time of a step in gradient evaluations",
        float,
        aim="4 gradient evaluations, besides the lower updates' 1.5",
        repeats=3,
    )


def _many_samples() -> Race:
    """Hyper-cleaning of 100,000 samples of 100 features, of which three labels in ten are wrong."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(101_000, 100))
    truth = (X @ rng.normal(size=(100, 5)) + 2 * rng.normal(size=(101_000, 5))).argmax(1)
    y, n = truth[:100_000].copy(), 100_000
    wrong = rng.choice(n, 30_000, replace=False)
    y[wrong] = (y[wrong] + rng.integers(1, 5, 30_000)) % 5
    is_wrong = y != truth[:n]

    def cleaned(**options: Any) -> float:
        cleaner = LabelCleaner(
            clean_X=X[n:], clean_y=truth[n:], n_steps=10_000, batch_size=256, random_state=0, progress=False, **options
        )
        return float(roc_auc_score(is_wrong, cleaner.fit(X[:n], y).suspect_score_))

    def confident() -> float:
        from cleanlab.rank import get_label_quality_scores
        from sklearn.model_selection import cross_val_predict

        probabilities = cross_val_predict(LogisticRegression(), X[:n], y, cv=5, method="predict_proba")
        return float(roc_auc_score(is_wrong, 1 - get_label_quality_scores(y, probabilities)))

    def dense() -> float:
        """The general method, whose every step moves all logits, for a tenth of the steps."""
        A, targets, V, v = (torch.from_numpy(each) for each in (X[:n], y, X[n:], truth[n:]))
        generator = torch.Generator().manual_seed(0)

        def lower(x: Tensor, W: Tensor) -> Tensor:
            rows = torch.randint(n, (256,), generator=generator)
            losses = nn.functional.cross_entropy(A[rows] @ W, targets[rows], reduction="none")
            return (torch.sigmoid(x[rows]) * losses).mean() + 1e-4 * (W**2).sum()

        found = minimize_bilevel(
            lambda x, W: nn.functional.cross_entropy(V @ W, v), lower, torch.zeros(n, dtype=V.dtype),
            torch.zeros(100, 5, dtype=V.dtype), 1000, upper_lr=0.01 * n**0.5, lower_lr=0.02, linear_system_lr=0.02,
            progress=False,
        )  # fmt: skip
        return float(roc_auc_score(is_wrong, -found.x.numpy()))

    return Race(
        "hyper-cleaning of 100,000 samples of 100 features, 30% of labels wrong",
        Contestant("paperworks LabelCleaner, 10,000 steps", cleaned),
        [
            Contestant("paperworks minimize_bilevel, a tenth of the steps", dense),
            Contestant("cleanlab, five-fold logistic regression", confident),
        ],
        "area under the curve of suspects",
        float,
        aim="60 s, and steps that do not cost more where there are more samples",
        repeats=1,
    )


def _digits() -> Race:
    """Accuracy of what is learnt from half wrong labels, by several ways of cleaning them."""
    X, truth = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(X))
    X, truth = np.c_[X / 16, np.ones(len(X))][order], truth[order]
    y = truth[:800].copy()
    wrong = rng.choice(800, 400, replace=False)
    y[wrong] = rng.integers(0, 10, 400)
    A, targets, V, v = (torch.from_numpy(each) for each in (X[:800], y, X[800:1000], truth[800:1000]))

    def accuracy(W: Any) -> float:
        return float(((X[1000:] @ np.asarray(W)).argmax(1) == truth[1000:]).mean())

    def ours() -> float:
        cleaner = LabelCleaner(
            clean_X=X[800:1000, :-1], clean_y=truth[800:1000], upper_lr=0.3, lower_lr=0.3, linear_system_lr=0.5,
            random_state=0, progress=False,
        ).fit(X[:800, :-1], y)  # fmt: skip
        return float(cleaner.score(X[1000:, :-1], truth[1000:]))

    generator = torch.Generator()

    def lower(x: Tensor, W: Tensor) -> Tensor:
        rows = torch.randint(800, (128,), generator=generator)
        losses = nn.functional.cross_entropy(A[rows] @ W, targets[rows], reduction="none")
        return (torch.sigmoid(x[rows]) * losses).mean() + 1e-4 * (W**2).sum()

    def upper(x: Tensor, W: Tensor) -> Tensor:
        rows = torch.randint(200, (128,), generator=generator)
        return nn.functional.cross_entropy(V[rows] @ W, v[rows])

    start = (torch.zeros(800, dtype=A.dtype), torch.zeros(65, 10, dtype=A.dtype))

    def by(method: Any, steps: int, eta: float) -> Any:
        generator.manual_seed(0)
        return minimize_bilevel(
            upper, lower, *start, steps, method, upper_lr=eta, lower_lr=0.3, linear_system_lr=0.5, progress=False
        )

    def tuned(method: Any, steps: int, grid: tuple[float, ...]) -> Callable[[], float]:
        """At the step that is best on the clean samples, found outside the race's clock."""
        best = min(
            grid, key=lambda eta: float(nn.functional.cross_entropy(V @ by(method, steps, eta).lower_solution, v))
        )
        return lambda: accuracy(by(method, steps, best).lower_solution)

    def unrolled() -> float:
        import torchopt

        generator.manual_seed(0)
        x, W = start[0].clone().requires_grad_(), start[1].clone()
        descent = torch.optim.Adam([x], lr=0.3)
        for _ in range(100):
            # Differentiable steps on W for a while, from where the last ones ended.
            W = W.detach().requires_grad_()
            inner = torchopt.sgd(lr=0.3)
            state, V_ = inner.init([W]), W
            for _ in range(15):
                gradient = torch.autograd.grad(lower(x, V_), V_, create_graph=True)
                change, state = inner.update(list(gradient), state, inplace=False)
                (V_,) = torchopt.apply_updates([V_], change, inplace=False)
            descent.zero_grad()
            upper(x, V_).backward()
            descent.step()
            W = V_
        return accuracy(W.detach())

    def confident() -> float:
        from cleanlab.classification import CleanLearning

        best = max(
            (CleanLearning(LogisticRegression(C=C, max_iter=5000)).fit(X[:800], y) for C in (0.03, 0.1, 1.0)),
            key=lambda each: float(each.score(X[800:1000], truth[800:1000])),
        )
        return float(best.score(X[1000:], truth[1000:]))

    def as_labelled() -> float:
        fitted = [LogisticRegression(C=C, max_iter=5000).fit(X[:800], y) for C in (0.01, 0.03, 0.1, 0.3, 1.0)]
        best = max(fitted, key=lambda each: float(each.score(X[800:1000], truth[800:1000])))
        return float(best.score(X[1000:], truth[1000:]))

    return Race(
        "digits, half of 800 labels drawn at random, 200 clean ones",
        Contestant("paperworks LabelCleaner", ours),
        [
            Contestant("paperworks MA-SOBA, best step", tuned("ma_soba", 1500, (100.0, 300.0, 1000.0))),
            Contestant("paperworks stocBiO, best step, a quarter of the steps", tuned("stocbio", 375, (300.0, 1000.0))),
            Contestant("torchopt, unrolled through 15 lower steps", unrolled),
            Contestant("cleanlab CleanLearning, best penalty", confident),
            Contestant("scikit-learn, as labelled, best penalty", as_labelled),
        ],
        "test accuracy",
        float,
        repeats=1,
    )
