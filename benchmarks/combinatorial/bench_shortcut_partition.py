"""Races of the distance oracle against searches, landmarks and a matrix, and of minors against nearest terminals."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import dijkstra

from benchmarks.racing import Contestant, NotHere, Race
from paperworks.combinatorial import DistanceOracle, steiner_point_removal
from paperworks.combinatorial.shortcut_partition._generators import (
    comb_graph,
    delaunay_graph,
    road_map,
    with_straight_lengths,
)

N_PAIRS = 200


def races() -> Iterator[Race]:
    roads = _minnesota()
    if roads is not None:
        yield _queries("roads of Minnesota, 2,642 crossings, epsilon 0.1", roads, 0.1, "")
    mesh = delaunay_graph(16_000, 0)
    yield _queries("Delaunay triangulation of 16,000 points, epsilon 0.25", mesh, 0.25, "1,000 times a search")
    yield _tables("tables of a triangulation of 8,000 points, epsilon 0.5", delaunay_graph(8000, 0), 0.5)
    yield _queries("road map of 100,000 crossings, epsilon 1", road_map(100_000, 0)[0], 1.0, "1,000 times a search")
    yield _minors("comb of 512 teeth: a minor on the tips", *comb_graph(512))
    mesh = delaunay_graph(5000, 0)
    terminals = np.random.default_rng(0).choice(5000, 128, replace=False)
    yield _minors("Delaunay triangulation of 5,000 points: a minor on 128 of them", mesh, terminals)


def _minnesota() -> sp.csr_array | None:
    from paperworks.datasets import UnavailableError, load_minnesota

    try:
        return with_straight_lengths(*load_minnesota().data)
    except UnavailableError:
        return None


def _pairs(graph: sp.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs from different sources, as a user asks them, with exact distances; the same pairs again and again."""
    rng = np.random.default_rng(1)
    u, v = rng.integers(graph.shape[0], size=(2, N_PAIRS))
    exact = dijkstra(graph, indices=u)[np.arange(N_PAIRS), v]
    apart = np.isfinite(exact) & (exact > 0)
    return u[apart], v[apart], exact[apart]


def _excess(exact: np.ndarray) -> Callable[[Any], float]:
    return lambda answers: float(np.abs(answers / exact - 1.0).max())


def _queries(title: str, graph: sp.csr_array, epsilon: float, aim: str) -> Race:
    u, v, exact = _pairs(graph)
    n = graph.shape[0]
    oracle = DistanceOracle(epsilon, n_jobs=-1, progress=False).fit(graph)
    landmarks = np.random.default_rng(2).choice(n, 32, replace=False)
    to_landmarks = dijkstra(graph, indices=landmarks)

    def searches() -> np.ndarray:
        return np.array([dijkstra(graph, indices=a)[b] for a, b in zip(u, v, strict=True)])

    def networkx_searches() -> np.ndarray:
        import networkx

        if n > 10_000:
            raise NotHere("takes minutes")
        network = networkx.from_scipy_sparse_array(graph)
        pairs = zip(u.tolist(), v.tolist(), strict=True)
        return np.array([networkx.bidirectional_dijkstra(network, a, b)[0] for a, b in pairs])

    matrix = dijkstra(graph) if n <= 3000 else None

    def matrix_entries() -> np.ndarray:
        if matrix is None:
            raise NotHere(f"a matrix of {8e-9 * n * n:,.0f} GB")
        return matrix[u, v]

    return Race(
        f"{len(u)} distances: {title} ({oracle.nbytes_ / n:,.0f} bytes a node)",
        Contestant("paperworks, oracle made before", lambda: oracle.query(u, v)),
        [
            Contestant("SciPy dijkstra, one a pair", searches),
            Contestant("NetworkX bidirectional search, graph converted", networkx_searches),
            Contestant("32 landmarks, upper bounds", lambda: (to_landmarks[:, u] + to_landmarks[:, v]).min(axis=0)),
            Contestant(
                "32 landmarks, lower bounds", lambda: np.abs(to_landmarks[:, u] - to_landmarks[:, v]).max(axis=0)
            ),
            Contestant("entries of a full matrix", matrix_entries),
        ],
        "largest error",
        _excess(exact),
        aim,
        repeats=3,
    )


def _tables(title: str, graph: sp.csr_array, epsilon: float) -> Race:
    def landmarks() -> np.ndarray:
        return dijkstra(graph, indices=np.random.default_rng(2).choice(graph.shape[0], 32, replace=False))

    return Race(
        title,
        Contestant("paperworks, one thread", lambda: DistanceOracle(epsilon, progress=False).fit(graph).nbytes_),
        [
            Contestant(
                "paperworks, all processors",
                lambda: DistanceOracle(epsilon, n_jobs=-1, progress=False).fit(graph).nbytes_,
            ),
            Contestant("SciPy, full matrix", lambda: dijkstra(graph).nbytes),
            Contestant("32 landmarks", lambda: landmarks().nbytes),
        ],
        "bytes a node",
        lambda nbytes: nbytes / graph.shape[0],
        "under 60 s, and a twentieth of the matrix",
        repeats=2,
    )


def _minors(title: str, graph: sp.csr_array, terminals: np.ndarray) -> Race:
    return Race(
        title,
        Contestant("paperworks", lambda: steiner_point_removal(graph, terminals)[2]),
        [Contestant("nearest terminals, SciPy", lambda: _nearest_terminals(graph, terminals))],
        "distortion",
        float,
        "no worse, and bounded on the comb",
        repeats=3,
    )


def _nearest_terminals(graph: sp.csr_array, terminals: np.ndarray) -> float:
    """Contract what is nearest to each terminal, and measure the distortion."""
    _, _, nearest = dijkstra(graph, indices=terminals, min_only=True, return_predecessors=True)
    place = np.full(graph.shape[0], -1)
    place[terminals] = np.arange(len(terminals))
    between = dijkstra(graph, indices=terminals)[:, terminals]
    a, b = (place[nearest][each] for each in graph.tocoo().coords)
    pairs = np.unique(np.column_stack([a, b])[a != b], axis=0)
    lengths = between[pairs[:, 0], pairs[:, 1]]
    minor = sp.coo_array((lengths, (pairs[:, 0], pairs[:, 1])), shape=between.shape).tocsr()
    apart = between > 0
    return float((dijkstra(minor)[apart] / between[apart]).max())
