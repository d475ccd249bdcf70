"""Training steps against plain contrast and a textbook gradient penalty, and exact dependency against POT."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.racing import Contestant, Race
from paperworks.transport import WassersteinPredictiveCodingLoss, wasserstein_dependency_exact

N_STEPS = 60


def races() -> Iterator[Race]:
    """Steps at two batch sizes, then samples of two sizes."""
    for n in (32, 256):
        yield _contrast(n)
        yield _bounded(n)
    for n in (500, 1500):
        yield _exact(n)


def _contrast(n: int) -> Race:
    """The plain contrast: ours is not to cost more than six lines of torch, or a library's loss."""
    return Race(
        f"{N_STEPS} steps of plain contrast (cpc), batch {n}, 384-256-256-64 encoders",
        Contestant("paperworks cpc", _steps(n, WassersteinPredictiveCodingLoss("cpc"))),
        [
            Contestant("torch cross entropy", _steps(n, _cross_entropy)),
            Contestant("pytorch-metric-learning", lambda: _steps(n, _metric_learning())()),
        ],
        "loss after the last step",
        float,
        aim="no slower, to the same loss",
    )


def _bounded(n: int) -> Race:
    """A critic of bounded slope: what it costs over plain contrast, and over the penalty written out plainly."""
    return Race(
        f"{N_STEPS} steps with a gradient penalty (wpc), batch {n}, 384-256-256-64 encoders",
        Contestant("paperworks wpc", _penalised(n, penalty_every=1)),
        [
            Contestant("paperworks wpc, penalty every 4th step", _penalised(n, penalty_every=4)),
            Contestant("WGAN-GP penalty written out in torch", _steps(n, _textbook)),
            Contestant("torch cross entropy, no penalty, for context", _steps(n, _cross_entropy)),
        ],
        "loss after the last step",
        float,
        aim="2.2x of plain contrast, 1.3x with the penalty at every 4th step",
    )


def _exact(n: int) -> Race:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, 3))
    y = x + generator.normal(size=(n, 3))
    shuffles = 3

    def pot() -> float:
        import ot

        drawn = np.random.default_rng(0)
        pairings = [(np.arange(n), drawn.permutation(n))]
        pairings += [(drawn.permutation(n), drawn.permutation(n)) for _ in range(shuffles)]
        costs = [
            ot.dist(np.hstack([x, y[one]]), np.hstack([x, y[other]]), metric="euclidean") for one, other in pairings
        ]
        values = [ot.emd2([], [], cost, numItermax=10_000_000) for cost in costs]
        return float(values[0])

    return Race(
        f"exact Wasserstein dependency with {shuffles} shuffles, n = {n}, 3 + 3 dimensions",
        Contestant("paperworks", lambda: wasserstein_dependency_exact(x, y, n_shuffles=shuffles, random_state=0).value),
        [Contestant("POT emd2 of each cost", pot)],
        "dependency",
        float,
        aim="no slower, to the same value",
        repeats=3,
    )


def _steps(n: int, loss: Callable[..., Any]) -> Callable[[], float]:
    """A contestant that trains fresh encoders for a fixed number of steps and returns the last loss."""

    def run() -> float:
        drawn = torch.Generator().manual_seed(0)
        x, y = torch.rand(n, 384, generator=drawn), torch.rand(n, 384, generator=drawn)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            phi, psi = (
                nn.Sequential(nn.Linear(384, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64))
                for _ in range(2)
            )
            optimizer = torch.optim.Adam([*phi.parameters(), *psi.parameters()], lr=1e-3, fused=True)
            value = torch.zeros(())
            for _ in range(N_STEPS):
                found = loss(phi, psi, x, y)
                value = found if isinstance(found, Tensor) else found.loss
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
        return float(value.detach())

    return run


def _penalised(n: int, penalty_every: int) -> Callable[[], float]:
    # A new loss each run: it counts its steps and draws from its own generator.
    return lambda: _steps(n, WassersteinPredictiveCodingLoss("wpc", penalty_every=penalty_every, random_state=0))()


def _cross_entropy(phi: nn.Module, psi: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(phi(x) @ psi(y).T, torch.arange(len(x))) - float(np.log(len(x)))


def _metric_learning() -> Callable[..., Tensor]:
    from pytorch_metric_learning.distances import DotProductSimilarity
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    loss = SelfSupervisedLoss(
        NTXentLoss(temperature=1.0, distance=DotProductSimilarity(normalize_embeddings=False)), symmetric=False
    )
    return lambda phi, psi, x, y: loss(phi(x), psi(y)) - float(np.log(len(x)))


def _textbook(phi: nn.Module, psi: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Contrast and penalty with a pass through both encoders each, as in code for Wasserstein GANs."""
    contrast = _cross_entropy(phi, psi, x, y)
    e = torch.rand(len(x), 1)
    x_hat = x.clone().requires_grad_()
    y_hat = (e * y + (1 - e) * y.roll(1, 0)).requires_grad_()
    scores = (phi(x_hat) * psi(y_hat)).sum(1)
    by_x, by_y = torch.autograd.grad(scores, (x_hat, y_hat), torch.ones_like(scores), create_graph=True)
    norms = torch.cat([by_x, by_y], dim=1).norm(dim=1)
    return contrast + 10.0 * (norms - 1).clamp_min(0).square().mean()
