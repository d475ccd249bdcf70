"""Smooth signals on a graph: the Gaussian N(0, L^+), its spectrum and its root."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from paperworks._graphs import check_adjacency

Matrix = NDArray[np.float64]

# Eigenvalues of L below this share of the largest are zero: what they would add to L^+ is rounding.
NULL = 1e-10


def checked_graph(name: str, graph: Any, symmetrize: bool = False) -> csr_array:
    """Adjacency of an undirected graph with at least two nodes, self-loops dropped with a warning."""
    adjacency, _ = check_adjacency(name, graph, directed=symmetrize)
    if symmetrize:
        adjacency = csr_array(adjacency.maximum(adjacency.T))
    if adjacency.shape[0] < 2:
        raise ValueError(f"{name} must have at least 2 nodes, got {adjacency.shape[0]}")
    n_loops = np.count_nonzero(adjacency.diagonal())
    if n_loops:
        warnings.warn(f"{name}: {n_loops} self-loops are dropped, a Laplacian has none", stacklevel=3)
        adjacency = check_adjacency(name, adjacency, self_loops="drop")[0]
    return adjacency


@dataclass(frozen=True)
class GraphSignals:
    """A graph and what is known of its smooth signals; what is costly is computed when it is asked for, once.

    Features of the nodes take no part in the signals: they may steer a matching.
    """

    adjacency: csr_array
    features: Matrix | None = None

    def subgraph(self, nodes: NDArray[np.intp]) -> "GraphSignals":
        """The graph between some of the nodes."""
        features = None if self.features is None else self.features[nodes]
        return GraphSignals(self.adjacency[nodes][:, nodes], features)

    @property
    def n_nodes(self) -> int:
        return int(self.adjacency.shape[0])

    @cached_property
    def dense(self) -> Matrix:
        return np.asarray(self.adjacency.toarray())

    @cached_property
    def n_components(self) -> int:
        return int(connected_components(self.adjacency, directed=False, return_labels=False))

    @cached_property
    def _laplacian(self) -> Matrix:
        return np.diag(self.dense.sum(axis=1)) - self.dense

    @cached_property
    def eigenvalues(self) -> Matrix:
        """Spectrum of L, ascending, its null space exactly zero."""
        return self._without_null(eigh(self._laplacian, eigvals_only=True, check_finite=False))

    @cached_property
    def _eigenpairs(self) -> tuple[Matrix, Matrix]:
        values, vectors = eigh(self._laplacian, check_finite=False)
        return self._without_null(values), vectors

    @staticmethod
    def _without_null(eigenvalues: Matrix) -> Matrix:
        return np.where(eigenvalues <= NULL * eigenvalues[-1], 0.0, eigenvalues)

    def spectrum(self, n_nodes: int, alpha: float) -> Matrix:
        """Eigenvalues of the covariance, descending, of the graph with isolated nodes up to ``n_nodes``."""
        positive = self.eigenvalues[self.eigenvalues > 0]
        variances = np.zeros(n_nodes)
        variances[: len(positive)] = 1.0 / (positive + alpha)
        if alpha > 0:
            # 11'/N lifts the constant signal alone.
            variances[len(positive)] = 1.0 / (1.0 + alpha)
            variances[len(positive) + 1 :] = 1.0 / alpha
        return np.sort(variances)[::-1]

    def root(self, n_nodes: int, alpha: float) -> Matrix:
        r"""Square root of :math:`L^+`, or of :math:`(L + \alpha I + 11^\top / N)^{-1}`, after padding to N nodes."""
        values, vectors = self._eigenpairs
        vectors = np.pad(vectors, ((0, n_nodes - self.n_nodes), (0, 0)))
        U = vectors[:, values > 0]
        R = (U / np.sqrt(values[values > 0] + alpha)) @ U.T
        if alpha == 0:
            return R
        # Null space of the padded L: that of L, and each isolated node. The constant signal, c in it, is one lower.
        Q = np.hstack([vectors[:, values == 0], np.eye(n_nodes)[:, self.n_nodes :]])
        c = Q.sum(axis=0) / np.sqrt(n_nodes)
        constant = np.outer(c, c)
        return R + Q @ ((np.eye(len(c)) - constant) / np.sqrt(alpha) + constant / np.sqrt(1.0 + alpha)) @ Q.T
