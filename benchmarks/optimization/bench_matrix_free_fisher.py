"""Races of the matrix-free inverse Fisher matrix: its two algorithms, the pruner and the optimiser."""

import copy
from collections.abc import Callable, Iterator
from functools import cache
from time import perf_counter
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from benchmarks.racing import Contestant, NotHere, Race
from paperworks.optimization import (
    InverseFisher,
    MatrixFreeFisherOptimizer,
    SlidingInverseFisher,
    inverse_fisher_recursion,
    prune_with_inverse_fisher,
)

DAMPING = 1e-3


def races() -> Iterator[Race]:
    yield _precomputation(256, 1_000_000)
    yield _dense_inverse(64, 2000)
    yield _dynamic_step(128, 1_000_000)
    yield _dynamic_against_the_authors(128, 100_000)
    yield _pruning(0.9)
    yield _training()


@cache
def _gradients(m: int, d: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return 0.1 * torch.randn(m, d, generator=torch.Generator().manual_seed(0), dtype=dtype)


def _error(product: Tensor, exact: Tensor) -> float:
    return float((product.double() - exact).norm() / exact.norm())


def _precomputation(m: int, d: int) -> Race:
    _gradients.cache_clear()
    G = _gradients(m, d)
    x = torch.randn(d, generator=torch.Generator().manual_seed(1))

    def recursion() -> Tensor:
        v, q = inverse_fisher_recursion(G, DAMPING)
        return x / DAMPING - (v @ x / q) @ v

    K, c = torch.zeros(m, m, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
    for part, numbers in zip(G.split(10_000, dim=1), x.split(10_000), strict=True):
        exact = part.double()
        K += exact @ exact.T
        c += exact @ numbers.double()
    c = torch.linalg.solve(K + m * DAMPING * torch.eye(m, dtype=torch.float64), c)
    reference = torch.cat(
        [
            (numbers.double() - c @ part.double()) / DAMPING
            for part, numbers in zip(G.split(10_000, dim=1), x.split(10_000), strict=True)
        ]
    )
    return Race(
        f"static precomputation and one product, {m} gradients of dimension {d:,}, float32",
        Contestant("paperworks, matrix products", lambda: InverseFisher(G, DAMPING).multiply(x)),
        [Contestant("the paper's recursion, row by row", recursion)],
        "relative error",
        lambda product: _error(product, reference),
        aim="5 times as fast as the recursion",
        repeats=1,
    )


def _dense_inverse(m: int, d: int) -> Race:
    _gradients.cache_clear()
    G = _gradients(m, d, torch.float64)
    x = torch.ones(d, dtype=torch.float64)

    def dense() -> Tensor:
        F = G.T @ G / m
        F.diagonal().add_(DAMPING)
        return torch.linalg.inv(F) @ x

    def naive_woodbury() -> Tensor:
        H = torch.eye(d, dtype=torch.float64) / DAMPING
        for g in G:
            v = H @ g
            H -= torch.outer(v, v) / (m + g @ v)
        return H @ x

    reference = dense()
    return Race(
        f"one product, {m} gradients of dimension {d:,}, float64",
        Contestant("paperworks", lambda: InverseFisher(G, DAMPING).multiply(x)),
        [Contestant("dense inverse", dense), Contestant("rank-one updates of a dense matrix", naive_woodbury)],
        "relative error",
        lambda product: _error(product, reference),
        aim="no matrix of size d x d",
        repeats=3,
    )


def _dynamic_step(m: int, d: int) -> Race:
    _gradients.cache_clear()
    G = _gradients(m, d)
    window = SlidingInverseFisher(m, d, DAMPING)
    for row in G:
        window.update(row)
    g = torch.randn(d, generator=torch.Generator().manual_seed(1))
    weights = torch.ones(m)

    def steps() -> float:
        begin = perf_counter()
        for k in range(5):
            window.update_multiply(g + k)
        return 200 * (perf_counter() - begin)

    def reading() -> float:
        begin = perf_counter()
        for _ in range(5):
            G.sum()
            G.sum()
        return 200 * (perf_counter() - begin)

    def products() -> float:
        begin = perf_counter()
        for _ in range(5):
            G @ g
            weights @ G
        return 200 * (perf_counter() - begin)

    return Race(
        f"5 dynamic steps, a window of {m} gradients of dimension {d:,}, float32",
        Contestant("paperworks, update and product", steps),
        [Contestant("reading the window twice", reading), Contestant("two products with the window", products)],
        "milliseconds a step",
        float,
        aim="at most twice the time of reading the window twice",
        repeats=3,
    )


def _dynamic_against_the_authors(m: int, d: int) -> Race:
    """The coefficients as the authors' code computes them where it has no CUDA kernel."""
    _gradients.cache_clear()
    G = _gradients(2 * m, d, torch.float64)

    def ours() -> Tensor:
        window = SlidingInverseFisher(m, d, DAMPING, torch.float64)
        for g in G:
            product = window.update_multiply(g)
        return product

    def theirs() -> Tensor:
        window = torch.zeros(m, d, dtype=torch.float64)
        S = torch.zeros(m, m, dtype=torch.float64)
        ridge = m * torch.eye(m, dtype=torch.float64)
        for t, g in enumerate(G):
            row = t % m
            window[row] = g
            c = window @ g
            S[row] = S[:, row] = c
            # Elimination without pivoting, which torch has on GPUs alone, gives the rows of a scaled Cholesky factor.
            L = torch.linalg.cholesky(S / DAMPING + ridge)
            D = torch.triu((L * L.diagonal()).T - ridge)
            q = m + D.diagonal()
            B = torch.eye(m, dtype=torch.float64) / DAMPING
            scaled = -D.T / q
            for i in range(1, m):
                B[i, :i] = scaled[i, :i] @ B[:i, :i]
            c = c / DAMPING
            for i in range(1, m):
                c[i:] -= D[i - 1, i:] * (c[i - 1] / q[i - 1])
            product = g / DAMPING - ((c / q) @ B) @ window
        return product

    last, identity = G[m:], torch.eye(m, dtype=torch.float64)
    reference = m * torch.linalg.solve(last @ last.T + m * DAMPING * identity, identity[-1]) @ last
    return Race(
        f"{2 * m} steps of training's inner product, a window of {m} gradients of dimension {d:,}, float64",
        Contestant("paperworks", ours),
        [Contestant("the authors' coefficients", theirs)],
        "relative error",
        lambda product: _error(product, reference),
        aim="as accurate, and faster",
        repeats=1,
    )


@cache
def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    X, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    images, labels = torch.tensor(X / 16, dtype=torch.float32)[order], torch.tensor(y)[order]
    return images[:1347], labels[:1347], images[1347:], labels[1347:]


def _network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def _until(network: nn.Module, optimizer: torch.optim.Optimizer, goal: float, most: int = 40) -> int:
    """Passes over the data until the training loss is reached."""
    X, y, *_ = _digits()
    generator = torch.Generator().manual_seed(0)
    for k in range(1, most + 1):
        for rows in torch.randperm(len(X), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(X[rows]), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            if float(nn.functional.cross_entropy(network(X), y)) <= goal:
                return k
    raise NotHere(f"a loss of {goal} is not reached in {most} passes")


@torch.no_grad()
def _accuracy(network: nn.Module) -> float:
    return float((network(_digits()[2]).argmax(1) == _digits()[3]).double().mean())


def _pruning(sparsity: float) -> Race:
    network = _network()
    _until(network, torch.optim.Adam(network.parameters()), 0.005, most=200)
    X, y, *_ = _digits()

    def ours(recomputations: int, block_size: int | None) -> nn.Module:
        pruned = copy.deepcopy(network)
        losses = [
            lambda rows=rows: nn.functional.cross_entropy(pruned(X[rows]), y[rows])  # type: ignore[misc]
            for rows in torch.randperm(len(X), generator=torch.Generator().manual_seed(0)).split(16)
        ]
        prune_with_inverse_fisher(
            pruned, losses, sparsity, n_gradients=128, block_size=block_size, n_recomputations=recomputations,
            progress=False,
        )  # fmt: skip
        return pruned

    def magnitude() -> nn.Module:
        pruned = copy.deepcopy(network)
        weights = [(part, "weight") for part in pruned.modules() if isinstance(part, nn.Linear)]
        torch_prune.global_unstructured(weights, torch_prune.L1Unstructured, amount=sparsity)
        return pruned

    return Race(
        f"{sparsity:.0%} zeros in a digits network of 17,000 weights, without training afterwards",
        Contestant("paperworks, 16 recomputations", lambda: ours(16, None)),
        [
            Contestant("paperworks, blocks of 128", lambda: ours(16, 128)),
            Contestant("paperworks, one step", lambda: ours(1, None)),
            Contestant("torch.nn.utils.prune, global magnitude", magnitude),
        ],
        "test accuracy",
        _accuracy,
        aim="0.15 more accuracy than by magnitude",
        repeats=1,
    )


def _training(goal: float = 0.05) -> Race:
    kinds: dict[str, tuple[Callable[..., torch.optim.Optimizer], tuple[float, ...]]] = {
        "paperworks": (MatrixFreeFisherOptimizer, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
        "torch SGD, momentum 0.9": (
            lambda parameters, rate: torch.optim.SGD(parameters, rate, momentum=0.9), (0.01, 0.03, 0.1, 0.3, 1.0),
        ),
        "torch Adam": (torch.optim.Adam, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    }  # fmt: skip

    def run(kind: Any, rate: float) -> int:
        network = _network()
        return _until(network, kind(network.parameters(), rate), goal)

    def merit(kind: Any, rate: float) -> float:
        try:
            return run(kind, rate)
        except (NotHere, FloatingPointError):
            return float("inf")

    contestants = []
    for name, (kind, rates) in kinds.items():
        rate = min(rates, key=lambda each: merit(kind, each))
        contestants.append(Contestant(f"{name}, rate {rate:g}", lambda kind=kind, rate=rate: run(kind, rate)))  # type: ignore[misc]
    return Race(
        f"training loss {goal} on digits, a network of 17,000 weights, batches of 64",
        contestants[0],
        contestants[1:],
        "passes over the data",
        float,
        aim="0.8 times the passes of tuned SGD",
        repeats=3,
    )
