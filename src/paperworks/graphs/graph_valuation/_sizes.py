"""Graphs of unequal or large size: coarsening, and subgraphs that keep neighbours together."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

# Share of the neighbours that a forest fire spreads to: of each node, on average, .7 / (1 - .7) of them.
FORWARD = 0.7


def coarsened(adjacency: csr_array, n_nodes: int) -> csr_array:
    """Merge neighbours, heaviest edges beside their degrees first, until ``n_nodes`` are left; weights add up.

    In each round a node merges once. Where no edge is left, isolated nodes are dropped.
    """
    while adjacency.shape[0] > n_nodes:
        surplus = adjacency.shape[0] - n_nodes
        if not adjacency.nnz:
            return csr_array((n_nodes, n_nodes))
        adjacency = _merged(adjacency, _disjoint_edges(adjacency, surplus))
    return adjacency


def _disjoint_edges(adjacency: csr_array, most: int) -> NDArray[np.intp]:
    degrees = np.asarray(adjacency.sum(axis=1)).ravel()
    edges = adjacency.tocoo()
    i, j = edges.coords
    upper = i < j
    i, j, weight = i[upper], j[upper], edges.data[upper]
    free = np.ones(adjacency.shape[0], dtype=bool)
    chosen = []
    for edge in np.argsort(-weight / np.maximum(degrees[i], degrees[j]), kind="stable"):
        if free[i[edge]] and free[j[edge]]:
            free[i[edge]] = free[j[edge]] = False
            chosen.append((i[edge], j[edge]))
            if len(chosen) == most:
                break
    return np.array(chosen)


def _merged(adjacency: csr_array, pairs: NDArray[np.intp]) -> csr_array:
    n = adjacency.shape[0]
    group = np.arange(n)
    group[pairs[:, 1]] = pairs[:, 0]
    _, group = np.unique(group, return_inverse=True)
    indicator = coo_array((np.ones(n), (np.arange(n), group))).tocsr()
    merged = csr_array(indicator.T @ adjacency @ indicator)
    merged.setdiag(0.0)
    merged.eliminate_zeros()
    return merged


def forest_fire(adjacency: csr_array, n_nodes: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Nodes that a fire reaches: from each burning node it spreads to a geometric number of its neighbours.

    A fire that dies is lit again beside burnt nodes, so that the nodes hang together as far as the graph does.
    """
    n = adjacency.shape[0]
    burnt = np.zeros(n, dtype=bool)
    order: list[int] = []
    burning: list[int] = []
    while len(order) < n_nodes:
        if not burning:
            spark = _next_spark(adjacency, burnt, generator)
            burnt[spark] = True
            order.append(spark)
            burning = [spark]
        node = burning.pop(0)
        neighbours = adjacency.indices[adjacency.indptr[node] : adjacency.indptr[node + 1]]
        fresh = generator.permutation(neighbours[~burnt[neighbours]])
        for neighbour in fresh[: min(generator.geometric(1 - FORWARD) - 1, n_nodes - len(order))].tolist():
            burnt[neighbour] = True
            order.append(neighbour)
            burning.append(neighbour)
    return np.sort(order)


def _next_spark(adjacency: csr_array, burnt: NDArray[np.bool_], generator: np.random.Generator) -> int:
    """A node beside the burnt ones, or, if there is none, any that is not burnt."""
    beside = np.asarray(adjacency @ burnt.astype(float)).ravel() > 0
    candidates = np.flatnonzero(beside & ~burnt)
    return int(generator.choice(candidates if candidates.size else np.flatnonzero(~burnt)))
