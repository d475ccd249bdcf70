"""Which node of one graph stands for which of the other: fast approximate quadratic assignment, and its refinement."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import cdist
from torch import Tensor

from paperworks.graphs.graph_valuation._signals import GraphSignals, Matrix

Permutation = NDArray[np.intp]

# Frank-Wolfe steps of one start, and the change of P, beside its norm, at which it has settled.
STEPS = 30
SETTLED = 1e-3
# Starts run together as long as they have no more entries than this.
BATCH = 2**24
# Exchanges that are looked at before a pass is given up, and in all; larger graphs are not refined.
CANDIDATES = 50
EVALUATIONS = 200
REFINED = 200


def nuclear_norm(M: Matrix) -> float:
    return float(np.linalg.svd(M, compute_uv=False).sum())


def fidelity(root_a: Matrix, root_b: Matrix, p: Permutation) -> float:
    r"""Nuclear norm of R_a P R_b, which is :math:`\mathrm{tr} (R_a P L_b^+ P^\top R_a)^{1/2}`.

    It is all that a permutation changes of the distance. Singular values are not squared on the way, so that null ones
    are zero to rounding and need no cut-off.
    """
    return nuclear_norm(root_a @ root_b[p])


def best_assignment(
    a: GraphSignals,
    b: GraphSignals,
    roots: tuple[Matrix, Matrix],
    *,
    n_restarts: int,
    attainable: float,
    similarity: Matrix | None,
    device: torch.device,
    generator: np.random.Generator,
) -> Permutation:
    """The permutation of largest fidelity that `fast_assignment` and exchanges of two nodes find from several starts.

    ``attainable`` is what equal graphs reach, at which the search is over.
    """
    n = len(roots[0])
    A, B = (torch.from_numpy(padded(each.dense, n)).to(device) for each in (a, b))
    S = None if similarity is None else torch.from_numpy(similarity).to(device)
    starts = starting_points(a, b, n_restarts, generator)
    found: dict[bytes, tuple[float, Permutation]] = {}
    while batch := list(islice(starts, max(1, BATCH // n**2))):
        for p in fast_assignment(A, B, torch.from_numpy(np.stack(batch)).to(device), S):
            if p.tobytes() not in found:
                found[p.tobytes()] = fidelity(*roots, p), p
        if max(value for value, _ in found.values()) >= attainable:
            break
    # The objective of the assignment is not the distance: what counts is the distance.
    ranked = sorted(found.values(), key=lambda each: -each[0])
    best, chosen = ranked[0]
    for value, p in ranked if n <= REFINED else []:
        if best >= attainable:
            break
        value, p = exchange_nodes(*roots, p, value)
        if value > best:
            best, chosen = value, p
    return chosen


def padded(A: Matrix, n: int) -> Matrix:
    """A with rows and columns of zeros up to n: isolated nodes."""
    return np.pad(A, (0, n - len(A)))


def starting_points(
    a: GraphSignals, b: GraphSignals, n_starts: int, generator: np.random.Generator
) -> Iterator[Matrix]:
    """Doubly stochastic matrices: the barycentre, then random ones, every other of them drawn to equal hop profiles."""
    n = max(a.n_nodes, b.n_nodes)
    barycentre = np.full((n, n), 1.0 / n)
    yield barycentre
    distance = profile_distance(a, b) if n_starts > 1 else barycentre
    for start in range(1, n_starts):
        noise = np.log1p(-generator.random((n, n)))
        # Symmetric graphs have many equal profiles. Noise multiplied into them leaves the start no symmetry; averaged
        # with them, it leaves enough for Frank-Wolfe to end halfway between two right answers.
        yield sinkhorn(noise - distance) if start % 2 else (barycentre + sinkhorn(noise)) / 2


def sinkhorn(log_kernel: Matrix, n_steps: int = 20) -> Matrix:
    """Scale rows and columns of exp(log_kernel) to sums of one."""
    K = torch.from_numpy(log_kernel)
    for _ in range(n_steps):
        K = torch.log_softmax(torch.log_softmax(K, dim=1), dim=0)
    return K.exp().numpy()


def profile_distance(a: GraphSignals, b: GraphSignals) -> Matrix:
    """L1 distance between two nodes' sorted hop distances, which is that of their counts of nodes within t hops."""
    n = max(a.n_nodes, b.n_nodes)
    hops = [shortest_path(graph.adjacency, directed=False, unweighted=True) for graph in (a, b)]
    reach = int(max(each[np.isfinite(each)].max() for each in hops)) + 1
    counts = []
    for each in hops:
        # An isolated node, as those that pad a graph, has itself alone within reach.
        within = np.ones((n, reach))
        within[: len(each)] = np.stack([(each <= t).sum(axis=1) for t in range(reach)], axis=1)
        counts.append(within)
    return cdist(*counts, metric="cityblock")


def fast_assignment(A: Tensor, B: Tensor, starts: Tensor, similarity: Tensor | None = None) -> NDArray[np.intp]:
    r"""Maximise tr(A P B P') + <S, P> over doubly stochastic P by Frank-Wolfe from each start, and round.

    A P B is linear in P and carried along, so that a step costs one product and one linear assignment a start.
    """
    P = starts.clone()
    APB = A @ P @ B
    active = torch.arange(len(P), device=P.device)
    for _ in range(STEPS):
        gradient = 2 * APB[active] if similarity is None else 2 * APB[active] + similarity
        q = assign(gradient)
        D = torch.zeros_like(gradient).scatter_(2, q[:, :, None], 1.0) - P[active]
        change = A @ B[q] - APB[active]
        # Along D the objective is f + slope t + curve t^2.
        slope, curve = (D * gradient).sum((1, 2)), (D * change).sum((1, 2))
        t = torch.where(curve < 0, (-slope / (2 * curve)).clamp(0, 1), (slope + curve > 0).to(slope))
        P[active] += t[:, None, None] * D
        APB[active] += t[:, None, None] * change
        active = active[t * torch.linalg.matrix_norm(D) > SETTLED * len(A) ** 0.5]
        if not len(active):
            break
    return assign(P).cpu().numpy()


def assign(gains: Tensor) -> Tensor:
    """The assignment of largest gain, for each of a batch."""
    columns = [linear_sum_assignment(each, maximize=True)[1] for each in gains.cpu().numpy()]
    return torch.from_numpy(np.stack(columns)).to(gains.device)


def exchange_nodes(root_a: Matrix, root_b: Matrix, p: Permutation, value: float) -> tuple[float, Permutation]:
    """Exchange two nodes at a time where that raises the fidelity; the value reached and the permutation."""
    p = p.copy()
    pairs = np.triu_indices(len(p), 1)
    evaluations, gained = 0, True
    while gained:
        gained = False
        M = root_a @ root_b[p]
        for pair in _largest(exchange_gains(root_a, root_b[np.ix_(p, p)])[pairs], CANDIDATES):
            if evaluations == EVALUATIONS:
                return value, p
            evaluations += 1
            i, j = pairs[0][pair], pairs[1][pair]
            changed = M - np.outer(root_a[i] - root_a[j], root_b[p[i]] - root_b[p[j]])
            exchanged = nuclear_norm(changed)
            if exchanged > value * (1 + 1e-12):
                value, M, gained = exchanged, changed, True
                p[[i, j]] = p[[j, i]]
    return value, p


def _largest(values: Matrix, count: int) -> Permutation:
    """Places of the largest values, the largest first."""
    places = np.argpartition(-values, count)[:count] if len(values) > count else np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")]


def exchange_gains(A: Matrix, B: Matrix) -> Matrix:
    """What tr(A B) gains, for each i and j, when i and j are exchanged in rows and columns of B."""
    X = A @ B
    x, a, b = (M.diagonal()[:, None] for M in (X, A, B))
    # Of the sum over k of (A_ik - A_jk)(B_jk - B_ik), the terms k = i and k = j have no part.
    own = (a - A) * (B - b)
    return 2 * (X + X.T - x - x.T - own - own.T) + (a - a.T) * (b.T - b)


def by_eigenvectors(a: GraphSignals, b: GraphSignals) -> Permutation:
    """Umeyama's matching: nodes assigned by the overlap of absolute eigenvectors of the adjacencies."""
    n = max(a.n_nodes, b.n_nodes)
    vectors = [np.abs(np.linalg.eigh(padded(each.dense, n))[1]) for each in (a, b)]
    return linear_sum_assignment(vectors[0] @ vectors[1].T, maximize=True)[1]


def by_degrees(a: GraphSignals, b: GraphSignals) -> Permutation:
    """Nodes of equal rank by degree, ties broken by the sum of the neighbours' degrees."""
    n = max(a.n_nodes, b.n_nodes)
    order = []
    for graph in (a, b):
        A = padded(graph.dense, n)
        degrees = A.sum(axis=1)
        order.append(np.lexsort((A @ degrees, degrees)))
    p = np.empty(n, dtype=np.intp)
    p[order[0]] = order[1]
    return p
