"""Graphs with lengths on their edges, as the kernels read them."""

import sys
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from paperworks._graphs import check_adjacency


class Roads(NamedTuple):
    """A graph in compressed rows: neighbours of v and lengths of the edges to them, from indptr[v] to indptr[v + 1]."""

    indptr: NDArray[np.int32]
    indices: NDArray[np.int32]
    lengths: NDArray[np.float64]

    @property
    def n(self) -> int:
        """Number of vertices."""
        return len(self.indptr) - 1


def check_lengths(name: str, graph: Any, length: str = "weight") -> tuple[Roads, list[Any] | None]:
    """Return an undirected graph of positive lengths, and networkx's names of its nodes.

    Self-loops are dropped, and of parallel edges the shortest is kept.
    """
    nodes: list[Any] | None = None
    networkx = sys.modules.get("networkx")
    if networkx is not None and isinstance(graph, networkx.Graph):
        nodes = list(graph)
        graph = _from_networkx(name, graph, nodes, length)
    elif sp.issparse(graph):
        graph = _shortest_of_parallel(graph)
    adjacency, _ = check_adjacency(name, graph, weights="positive", self_loops="drop")
    # Two directions may differ by rounding; paths must be as long there as back.
    back = adjacency.T.tocsr()
    if not np.array_equal(back.data, adjacency.data):
        adjacency = adjacency.minimum(back)
    if adjacency.nnz >= 2**31:
        raise ValueError(f"{name} must have fewer than 2^30 edges, got {adjacency.nnz // 2}")
    return Roads(adjacency.indptr.astype(np.int32), adjacency.indices.astype(np.int32), adjacency.data), nodes


def _from_networkx(name: str, graph: Any, nodes: list[Any], length: str) -> sp.csr_array:
    if not nodes:
        raise ValueError(f"{name} is empty: it has no nodes")
    if graph.is_directed():
        raise ValueError(f"{name} must be undirected, got a {type(graph).__name__}; {name}.to_undirected() makes it so")
    place = {node: i for i, node in enumerate(nodes)}
    edges = [edge for edge in graph.edges(data=length, default=1.0) if edge[0] != edge[1]]
    for source, target, value in edges:
        if isinstance(value, (str, complex)) or value is None:
            raise TypeError(f"{name} must have real numbers as lengths, got {value!r} between {source!r}, {target!r}")
    rows = np.array([place[edge[0]] for edge in edges], dtype=np.int64)
    columns = np.array([place[edge[1]] for edge in edges], dtype=np.int64)
    values = np.array([edge[2] for edge in edges], dtype=np.float64)
    ends = np.append(rows, columns), np.append(columns, rows)
    return _shortest_of_parallel(sp.coo_array((np.append(values, values), ends), shape=(len(nodes), len(nodes))))


def _shortest_of_parallel(graph: Any) -> Any:
    """Keep the shortest of the entries of a sparse matrix that stand in one place."""
    if graph.format == "csr" and graph.has_canonical_format:
        return graph
    entries = sp.coo_array(graph)
    # What is no finite number is left to the check that names it.
    if entries.data.dtype.kind not in "biuf" or not np.isfinite(entries.data).all():
        return entries
    rows, columns = entries.coords
    order = np.lexsort((entries.data, columns, rows))
    rows, columns, values = rows[order], columns[order], entries.data[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    return sp.csr_array((values[first], (rows[first], columns[first])), shape=graph.shape)
