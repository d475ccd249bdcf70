"""What a buyer or a seller has: one graph or many, with features of the nodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from paperworks._validation import check_finite
from paperworks.graphs.graph_valuation._features import check_rows, propagated
from paperworks.graphs.graph_valuation._signals import GraphSignals, Matrix, checked_graph


@dataclass(frozen=True)
class Party:
    """Graphs with features, and those of all nodes pooled, as they are and propagated."""

    graphs: list[GraphSignals]
    raw: Matrix | None
    propagated: Matrix | None

    @property
    def n_features(self) -> int:
        return 0 if self.raw is None else int(self.raw.shape[1])

    @property
    def n_components(self) -> int:
        return sum(graph.n_components for graph in self.graphs)


def party(who: str, adjacency: Any, features: Any, n_hops: int, symmetrize: bool = False) -> Party:
    """Check one graph, or a list of graphs, and the features that come with it."""
    many = is_data_set(adjacency)
    graphs = adjacency if many else [adjacency]
    of_each = _features_of_each(who, features, len(graphs)) if many else [features]
    parts = []
    for i, (graph, x) in enumerate(zip(graphs, of_each, strict=True)):
        which = f"[{i}]" if many else ""
        A = checked_graph(f"{who}_adjacency{which}", graph, symmetrize)
        X = None if x is None else _node_features(f"{who}_features{which}", x, graph, A.shape[0])
        parts.append(GraphSignals(A, X))
    return Party(parts, *_pooled(who, parts, n_hops))


def _features_of_each(who: str, features: Any, n_graphs: int) -> Sequence[Any]:
    if features is None or isinstance(features, str):
        return [features] * n_graphs
    if not isinstance(features, (list, tuple)):
        raise TypeError(f"{who}_features must be a list of {n_graphs} arrays, got {type(features).__name__}")
    if len(features) != n_graphs:
        raise ValueError(f"{who}_features must be a list of {n_graphs} arrays, one a graph, got {len(features)}")
    return features


def is_data_set(graphs: Any) -> bool:
    """Whether this is a list of graphs, not one graph: a list of lists of numbers is a matrix."""
    if not isinstance(graphs, list) or not graphs:
        return False
    return all(issparse(each) or hasattr(each, "adjacency") or np.ndim(_first(each)) == 2 for each in graphs)


def _first(graph: Any) -> Any:
    """The array that a graph is, or that of the edges in (edges, n_nodes)."""
    return graph[0] if isinstance(graph, tuple) and graph else graph


def _node_features(name: str, features: Any, graph: Any, n_nodes: int) -> Matrix:
    if isinstance(features, str):
        return _attribute(name, features, graph)
    try:
        X = np.asarray(features.toarray() if issparse(features) else features)
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array: {error}") from None
    if X.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got {X.dtype}")
    X = X[:, None] if X.ndim == 1 else X
    if X.ndim != 2 or not X.shape[1]:
        raise ValueError(f"{name} must have shape (n_nodes, n_features), got {X.shape}")
    check_rows(name, X, n_nodes)
    return np.asarray(check_finite(name, X.astype(np.float64)))


def _attribute(name: str, attribute: str, graph: Any) -> Matrix:
    """An attribute of a networkx graph's nodes, a number or a list of them."""
    if not hasattr(graph, "nodes"):
        raise TypeError(f"{name} as the name of an attribute needs a networkx graph, got {type(graph).__name__}")
    lacking = [node for node, values in graph.nodes(data=True) if attribute not in values]
    if lacking:
        raise ValueError(f"{name}: {len(lacking)} nodes lack the attribute {attribute!r}, first {lacking[0]!r}")
    try:
        rows = np.array([np.atleast_1d(graph.nodes[node][attribute]) for node in graph], dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: attribute {attribute!r} is not numbers, as many for each node: {error}") from None
    return np.asarray(check_finite(name, rows))


def _pooled(who: str, graphs: list[GraphSignals], n_hops: int) -> tuple[Matrix | None, Matrix | None]:
    features = [graph.features for graph in graphs if graph.features is not None]
    if not features:
        return None, None
    if len(features) < len(graphs):
        raise ValueError(f"{who}_features must be given for each of {len(graphs)} graphs, got {len(features)}")
    widths = sorted({X.shape[1] for X in features})
    if len(widths) > 1:
        raise ValueError(f"{who}_features must have as many columns for each graph, got {widths}")
    hopped: list[NDArray[Any]] = [
        propagated(graph.adjacency, X, n_hops) for graph, X in zip(graphs, features, strict=True)
    ]
    return np.concatenate(features), np.concatenate(hopped)


def structures(party: Party) -> csr_array | list[csr_array]:
    """Adjacency matrices without names of nodes or features."""
    found = [graph.adjacency.copy() for graph in party.graphs]
    return found[0] if len(found) == 1 else found
