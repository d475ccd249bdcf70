"""Graphs without large complete minors, for claims, tests, races and the command."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial import Delaunay


def delaunay_graph(n: int, seed: int) -> sp.csr_array:
    """Delaunay triangulation of n uniform points with Euclidean lengths: planar, so without K_5."""
    return _delaunay(np.random.default_rng(seed).random((n, 2)))


def apex_graph(n: int, seed: int) -> sp.csr_array:
    """The same of n - 1 points and one more vertex joined to all within 0.3 of the middle: without K_6."""
    points = np.random.default_rng(seed).random((n - 1, 2))
    planar = _delaunay(points).tocoo()
    near = np.flatnonzero(np.hypot(*(points - 0.5).T) < 0.3)
    # Such an edge is longer than any in the triangulation, lest all distances become two.
    rows = np.concatenate([planar.coords[0], near, np.full(len(near), n - 1)])
    columns = np.concatenate([planar.coords[1], np.full(len(near), n - 1), near])
    return sp.coo_array(
        (np.concatenate([planar.data, np.full(2 * len(near), 0.3)]), (rows, columns)), shape=(n, n)
    ).tocsr()


def random_three_tree(n: int, seed: int) -> sp.csr_array:
    """Each new vertex joined to a random triangle, with uniform lengths: treewidth 3, so without K_5."""
    rng = np.random.default_rng(seed)
    triangles = [(0, 1, 2)]
    edges = [(0, 1), (0, 2), (1, 2)]
    for v in range(3, n):
        a, b, c = triangles[rng.integers(len(triangles))]
        triangles += [(a, b, v), (a, c, v), (b, c, v)]
        edges += [(a, v), (b, v), (c, v)]
    return _from_edges(np.array(edges), rng.uniform(0.5, 1.5, len(edges)), n)


def random_tree(n: int, seed: int) -> sp.csr_array:
    """Random recursive tree with uniform lengths: without K_3."""
    rng = np.random.default_rng(seed)
    children = np.arange(1, n)
    parents = np.floor(rng.random(n - 1) * children).astype(np.int64)
    return _from_edges(np.column_stack([children, parents]), rng.uniform(0.5, 1.5, n - 1), n)


def grid_graph(rows: int, columns: int, seed: int | None = None) -> sp.csr_array:
    """Grid with lengths 1, or uniform in [0.5, 1.5] if there is a seed."""
    place = np.arange(rows * columns).reshape(rows, columns)
    across = np.column_stack([place[:, :-1].ravel(), place[:, 1:].ravel()])
    down = np.column_stack([place[:-1].ravel(), place[1:].ravel()])
    edges = np.concatenate([across, down])
    lengths = np.ones(len(edges)) if seed is None else np.random.default_rng(seed).uniform(0.5, 1.5, len(edges))
    return _from_edges(edges, lengths, rows * columns)


def comb_graph(k: int) -> tuple[sp.csr_array, NDArray[np.int64]]:
    """Comb of k teeth of length 1 on a spine of edges 0.001, with the tips of its teeth."""
    spine = np.arange(k)
    edges = np.concatenate([np.column_stack([spine[:-1], spine[1:]]), np.column_stack([spine, spine + k])])
    return _from_edges(edges, np.append(np.full(k - 1, 0.001), np.ones(k)), 2 * k), spine + k


def star_of_paths(k: int, steps: int) -> tuple[sp.csr_array, NDArray[np.int64]]:
    """Star of k paths of that many edges of length 1, with the paths' ends."""
    own = 1 + np.arange(k * steps).reshape(k, steps)
    inner = np.column_stack([own[:, :-1].ravel(), own[:, 1:].ravel()])
    edges = np.concatenate([np.column_stack([np.zeros(k, dtype=np.int64), own[:, 0]]), inner])
    return _from_edges(edges, np.ones(len(edges)), 1 + k * steps), own[:, -1]


def road_map(n: int, seed: int) -> tuple[sp.csr_array, NDArray[np.float64]]:
    """Road-like planar graph and the coordinates of its crossings: a sparse part of a triangulation, mean degree 2.6.

    Shortest edges of a spanning tree join all crossings; of the others the shorter half of 30 % of n is added.
    """
    rng = np.random.default_rng(seed)
    points = rng.random((n, 2))
    full = _delaunay(points)
    tree = sp.csgraph.minimum_spanning_tree(full)
    rest = sp.triu(full - (tree + tree.T), format="coo")
    rest.eliminate_zeros()
    short = np.argsort(rest.data)[: int(0.6 * n)]
    chosen = short[rng.random(len(short)) < 0.5]
    more = sp.coo_array((rest.data[chosen], (rest.row[chosen], rest.col[chosen])), shape=(n, n))
    half = sp.csr_array(tree) + more.tocsr()
    return sp.csr_array(half + half.T), points


def with_straight_lengths(adjacency: sp.csr_array, points: NDArray[np.float64]) -> sp.csr_array:
    """Give edges the straight distance between their ends; where these coincide, the shortest positive one."""
    edges = adjacency.tocoo()
    lengths = np.hypot(*(points[edges.coords[0]] - points[edges.coords[1]]).T)
    lengths[lengths == 0] = lengths[lengths > 0].min()
    return sp.coo_array((lengths, edges.coords), shape=adjacency.shape).tocsr()


def _delaunay(points: NDArray[np.float64]) -> sp.csr_array:
    triangles = Delaunay(points).simplices
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [0, 2]]])
    edges = np.unique(np.sort(edges, axis=1), axis=0)
    lengths = np.hypot(*(points[edges[:, 0]] - points[edges[:, 1]]).T)
    return _from_edges(edges, lengths, len(points))


def _from_edges(edges: NDArray[np.int64], lengths: NDArray[np.float64], n: int) -> sp.csr_array:
    ends = np.concatenate([edges, edges[:, ::-1]])
    return sp.coo_array((np.append(lengths, lengths), (ends[:, 0], ends[:, 1])), shape=(n, n)).tocsr()
