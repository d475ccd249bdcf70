"""Races of graph valuation: matching against GOT and SciPy's FAQ, disparity against POT's fused Gromov-Wasserstein."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.racing import Contestant, Race
from paperworks.graphs import graph_wasserstein_distance

Pair = tuple[np.ndarray, np.ndarray]


def races() -> Iterator[Race]:
    yield _alignment("blocks of 20 nodes and a copy with two edges exchanged", _blocks(20, 2))
    yield _alignment("karate club and a relabelled copy, 34 nodes", _karate())
    yield _faq()
    yield _rewiring()


def _relabelled(A: np.ndarray, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(len(A))
    return A[np.ix_(order, order)]


def _blocks(n: int, swaps: int) -> Pair:
    import networkx as nx

    graph = nx.stochastic_block_model([n // 2] * 2, [[0.6, 0.1], [0.1, 0.6]], seed=0)
    A = nx.to_numpy_array(graph)
    copy = nx.Graph(graph)
    nx.double_edge_swap(copy, nswap=swaps, max_tries=1000, seed=0)
    return A, _relabelled(nx.to_numpy_array(copy, nodelist=range(n)), 0)


def _karate() -> Pair:
    import networkx as nx

    A = nx.to_numpy_array(nx.karate_club_graph(), weight=None)
    return A, _relabelled(A, 0)


def _got_reference(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """GOT as its authors run it: one sample after another, Sinkhorn by logsumexp, an SVD each, autograd through all.

    1,000 steps of 20 samples at their settings for graphs of 20 nodes; the permutation is the best assignment.
    """
    import torch
    from scipy.linalg import sqrtm
    from scipy.optimize import linear_sum_assignment

    torch.manual_seed(0)
    n = len(A)
    pinvs = [np.linalg.pinv(np.diag(M.sum(axis=1)) - M, hermitian=True) for M in (A, B)]
    R_a, R_b = (torch.from_numpy(np.real(sqrtm(S))) for S in pinvs)
    mean = torch.rand(n, n, dtype=torch.float64, requires_grad=True)
    std = torch.full((n, n), 10.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([mean, std], lr=0.5, amsgrad=True)

    def doubly_stochastic(P: torch.Tensor) -> torch.Tensor:
        P = P / 2.0
        for _ in range(10):
            P = P - P.logsumexp(dim=1, keepdim=True)
            P = P - P.logsumexp(dim=0, keepdim=True)
        return P.exp()

    for _ in range(1000):
        cost = 0.0
        for _ in range(20):
            P = doubly_stochastic(mean + std * torch.randn(n, n, dtype=torch.float64))
            cost = cost - 2 * torch.linalg.svdvals(R_a @ P @ R_b).sum()
        optimizer.zero_grad()
        (cost / 20).backward()
        optimizer.step()
    return linear_sum_assignment(doubly_stochastic(mean).detach().numpy(), maximize=True)[1]


def _distance(pair: Pair) -> Callable[[np.ndarray], float]:
    return lambda p: float(graph_wasserstein_distance(*pair, permutation=p))


def _alignment(title: str, pair: Pair) -> Race:
    def ours() -> np.ndarray:
        return graph_wasserstein_distance(*pair, random_state=0, return_permutation=True, device="cpu")[1]

    def got() -> np.ndarray:
        from paperworks.graphs import got_permutation

        return got_permutation(*pair, random_state=0, progress=False, device="cpu")

    return Race(
        title,
        Contestant("paperworks, faq with 10 starts and exchanges", ours),
        [
            Contestant("paperworks, got", got),
            Contestant("GOT (reference form), 1,000 steps of 20 samples", lambda: _got_reference(*pair)),
        ],
        "graph Wasserstein distance",
        _distance(pair),
        aim="no farther apart than GOT, at most 1/20 of its time",
        repeats=1,
    )


def _faq() -> Race:
    import networkx as nx

    # A copy with a tenth of its edges exchanged: far enough that starts matter.
    graph = nx.barabasi_albert_graph(500, 3, seed=0)
    copy = graph.copy()
    nx.double_edge_swap(copy, nswap=75, max_tries=100_000, seed=0)
    pair = nx.to_numpy_array(graph), _relabelled(nx.to_numpy_array(copy), 0)

    def ours() -> np.ndarray:
        return graph_wasserstein_distance(*pair, n_restarts=3, random_state=0, return_permutation=True, device="cpu")[1]

    def scipy_faq() -> np.ndarray:
        from scipy.optimize import quadratic_assignment

        rng = np.random.default_rng(0)
        options: dict[str, Any] = {"maximize": True, "tol": 1e-3, "maxiter": 30, "rng": rng}
        found = []
        for start in ("barycenter", "randomized", "randomized"):
            found.append(quadratic_assignment(*pair, method="faq", options={**options, "P0": start}).col_ind)
        return min(found, key=_distance(pair))

    return Race(
        "500 nodes, 3 starts, a tenth of the edges exchanged",
        Contestant("paperworks, faq", ours),
        [Contestant("SciPy quadratic_assignment, faq, nearest of 3 starts", scipy_faq)],
        "graph Wasserstein distance",
        _distance(pair),
        aim="20 s at most",
        repeats=3,
    )


def _rewiring() -> Race:
    """Which of two disparities orders copies by how much of them was rewired."""
    import networkx as nx

    shares = (0.0, 0.02, 0.05, 0.1, 0.2)
    graphs = [nx.karate_club_graph()] + [nx.barabasi_albert_graph(60, 2, seed=seed) for seed in range(3)]
    pairs: list[list[Pair]] = []
    for seed, graph in enumerate(graphs):
        A, row = nx.to_numpy_array(graph, weight=None), []
        for share in shares:
            copy = graph.copy()
            swaps = round(share * graph.number_of_edges() / 2)
            if swaps:
                nx.double_edge_swap(copy, nswap=swaps, max_tries=100_000, seed=seed)
            row.append((A, _relabelled(nx.to_numpy_array(copy, nodelist=list(graph), weight=None), seed)))
        pairs.append(row)

    def ours() -> list[list[float]]:
        return [[graph_wasserstein_distance(A, B, random_state=0, device="cpu") for A, B in row] for row in pairs]

    def fused() -> list[list[float]]:
        import ot

        def distance(A: np.ndarray, B: np.ndarray) -> float:
            hops = [nx.floyd_warshall_numpy(nx.from_numpy_array(M)) for M in (A, B)]
            hops = [np.where(np.isinf(H), len(H), H) for H in hops]
            degrees = [M.sum(axis=1)[:, None] for M in (A, B)]
            weight = np.full(len(A), 1 / len(A))
            cost = ot.dist(*degrees)
            return float(ot.gromov.fused_gromov_wasserstein2(cost, *hops, weight, weight, alpha=0.5))

        return [[distance(A, B) for A, B in row] for row in pairs]

    def correlation(found: list[list[float]]) -> float:
        from scipy.stats import spearmanr

        return float(np.mean([spearmanr(shares, row)[0] for row in found]))

    return Race(
        "20 pairs of 34 and 60 nodes, up to a fifth of the edges rewired",
        Contestant("paperworks, graph Wasserstein distance", ours),
        [Contestant("POT fused Gromov-Wasserstein, hops and degrees", fused)],
        "rank correlation with the share rewired",
        correlation,
        aim="in better order; time is reported",
        repeats=2,
    )
