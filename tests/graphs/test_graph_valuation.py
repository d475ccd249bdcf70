import warnings
from itertools import permutations

import networkx as nx
import numpy as np
import ot
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import quadratic_assignment

from paperworks.graphs import (
    BuyerQuery,
    GraphBroker,
    GraphBuyer,
    GraphSeller,
    GraphValuator,
    feature_relevance_diversity,
    got_permutation,
    graph_wasserstein_distance,
    propagate_features,
    sampled_graph_wasserstein_distance,
)
from paperworks.graphs.graph_valuation._disparity import Sampling, set_disparity
from paperworks.graphs.graph_valuation._distance import MatchingSettings
from paperworks.graphs.graph_valuation._matching import (
    exchange_gains,
    exchange_nodes,
    fast_assignment,
    fidelity,
    profile_distance,
    sinkhorn,
)
from paperworks.graphs.graph_valuation._signals import GraphSignals
from paperworks.graphs.graph_valuation._sizes import coarsened, forest_fire
from paperworks.papers.graph_valuation.run import run


def weighted(n, seed=0, density=0.5):
    """A connected weighted graph: a path with chords."""
    rng = np.random.default_rng(seed)
    A = np.triu((rng.random((n, n)) < density) * rng.uniform(0.3, 2.0, (n, n)), 1)
    A[np.arange(n - 1), np.arange(1, n)] = rng.uniform(0.3, 2.0, n - 1)
    return A + A.T


def unit(graph):
    return nx.to_numpy_array(graph, weight=None)


def relabelled(A, seed):
    order = np.random.default_rng(seed).permutation(len(A))
    return A[np.ix_(order, order)], order


def covariance_of(A, alpha=0.0):
    L = np.diag(A.sum(axis=1)) - A
    if alpha == 0:
        return np.linalg.pinv(L, rcond=1e-10, hermitian=True)
    return np.linalg.inv(L + alpha * np.eye(len(A)) + 1.0 / len(A))


def squared_by_definition(A, B, p, alpha=0.0):
    """As it is written, the permutation as a matrix; the root's trace is that of the eigenvalues of a product."""
    P = np.eye(len(A))[p]
    S, T = covariance_of(A, alpha), P @ covariance_of(B, alpha) @ P.T
    roots = np.sqrt(np.linalg.eigvals(S @ T).real.clip(1e-14))
    return np.trace(S) + np.trace(T) - 2 * roots.sum()


@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_distance_is_that_of_the_definition(alpha, seed):
    A, B = weighted(7, seed), weighted(7, seed + 10)
    p = np.random.default_rng(seed).permutation(7)
    found = graph_wasserstein_distance(A, B, permutation=p, regularization=alpha, squared=True)
    assert found == pytest.approx(squared_by_definition(A, B, p, alpha), rel=1e-5)
    root = graph_wasserstein_distance(A, B, permutation=p, regularization=alpha)
    assert root**2 == pytest.approx(found)
    if alpha > 0:
        covariances = covariance_of(A, alpha), covariance_of(B[np.ix_(p, p)], alpha)
        theirs = ot.gaussian.bures_wasserstein_distance(np.zeros(7), np.zeros(7), *covariances)
        assert root == pytest.approx(float(theirs), rel=1e-8)


def test_two_nodes_have_a_closed_form():
    # L^+ of an edge of weight w is [[1, -1], [-1, 1]] / (4 w), with the one eigenvalue 1 / (2 w).
    A, B = np.array([[0, 2.0], [2.0, 0]]), np.array([[0, 0.5], [0.5, 0]])
    expected = abs(np.sqrt(1 / 4.0) - np.sqrt(1 / 1.0))
    assert graph_wasserstein_distance(A, B, random_state=0) == pytest.approx(expected, abs=1e-12)


def test_permutation_maps_nodes_of_a_to_nodes_of_b():
    A = weighted(8)
    B, order = relabelled(A, 3)
    p = np.argsort(order)
    assert graph_wasserstein_distance(A, B, permutation=p) == 0.0
    assert graph_wasserstein_distance(A, B, permutation=order) > 0.1
    distance, found = graph_wasserstein_distance(A, B, random_state=0, return_permutation=True)
    assert distance == 0.0
    np.testing.assert_array_equal(B[np.ix_(found, found)], A)


@pytest.mark.parametrize("seed", range(6))
def test_the_least_distance_of_all_permutations_is_found(seed):
    A, B = weighted(5, seed), weighted(5, seed + 20)
    least = min(squared_by_definition(A, B, list(p)) for p in permutations(range(5)))
    assert graph_wasserstein_distance(A, B, squared=True, random_state=0) == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "graph",
    [
        nx.karate_club_graph(),
        nx.petersen_graph(),
        nx.barabasi_albert_graph(60, 2, seed=0),
        nx.les_miserables_graph(),
        nx.grid_2d_graph(6, 6),
        nx.davis_southern_women_graph(),
    ],
    ids=["karate", "petersen", "barabasi", "miserables", "grid", "davis"],
)
def test_relabelled_copies_are_nowhere_apart(graph, seed):
    A = unit(graph)
    B, _ = relabelled(A, seed)
    distance, p = graph_wasserstein_distance(A, B, random_state=seed, return_permutation=True)
    assert distance == 0.0
    np.testing.assert_array_equal(B[np.ix_(p, p)], A)


def test_without_alignment_a_copy_is_far():
    A = unit(nx.karate_club_graph())
    B, _ = relabelled(A, 0)
    assert graph_wasserstein_distance(A, B, permutation=None, squared=True) > 1.0
    assert graph_wasserstein_distance(A, A, permutation=None) == 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.2]), st.integers(4, 7), st.integers(4, 7))
def test_spectra_bound_every_permutation(seed, alpha, n, m):
    A, B = weighted(n, seed), weighted(m, seed + 1)
    bound = graph_wasserstein_distance(A, B, permutation="spectral-bound", regularization=alpha)
    p = np.random.default_rng(seed).permutation(max(n, m))
    assert bound <= graph_wasserstein_distance(A, B, permutation=p, regularization=alpha) + 1e-9
    assert bound <= graph_wasserstein_distance(A, B, regularization=alpha, n_restarts=2, random_state=0) + 1e-9


def test_spectral_bound_has_its_formula():
    A, B = weighted(6, 1), weighted(4, 2)
    variances = (np.sort(np.linalg.eigvalsh(covariance_of(M)))[::-1].clip(0) for M in (A, np.pad(B, (0, 2))))
    found = graph_wasserstein_distance(A, B, permutation="spectral-bound", squared=True)
    assert found == pytest.approx((np.subtract(*map(np.sqrt, variances)) ** 2).sum(), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_unequal_sizes_are_padded_with_isolated_nodes(alpha):
    A, B = weighted(7, 0), weighted(4, 1)
    whole = np.pad(B, (0, 3))
    found, p = graph_wasserstein_distance(A, B, regularization=alpha, random_state=0, return_permutation=True)
    assert sorted(p) == list(range(7))
    assert found == pytest.approx(graph_wasserstein_distance(A, whole, regularization=alpha, permutation=p))
    assert found**2 == pytest.approx(squared_by_definition(A, whole, p, alpha), rel=1e-5)
    back = graph_wasserstein_distance(B, A, regularization=alpha, permutation=np.argsort(p))
    assert back == pytest.approx(found)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("n_nodes", [6, 9])
def test_roots_and_spectra_of_padded_and_disconnected_graphs(alpha, n_nodes):
    # Two components, and a node without edges.
    A = np.zeros((6, 6))
    A[:3, :3], A[3:5, 3:5] = weighted(3), weighted(2)
    graph = GraphSignals(sp.csr_array(A))
    S = covariance_of(np.pad(A, (0, n_nodes - 6)), alpha)
    R = graph.root(n_nodes, alpha)
    np.testing.assert_allclose(R @ R, S, atol=1e-10)
    np.testing.assert_allclose(R, R.T, atol=1e-12)
    np.testing.assert_allclose(graph.spectrum(n_nodes, alpha), np.linalg.eigvalsh(S)[::-1].clip(0), atol=1e-10)
    assert graph.n_components == 3
    if alpha == 0:
        np.testing.assert_allclose(R[:3, 3:], 0.0, atol=1e-12)


def test_long_paths_keep_their_smallest_eigenvalues():
    # The second eigenvalue of L is 4 sin^2(pi / 2n), 1e-5 of the largest.
    n = 600
    spectrum = GraphSignals(sp.csr_array(unit(nx.path_graph(n)))).spectrum(n, 0.0)
    assert spectrum[0] == pytest.approx(1 / (4 * np.sin(np.pi / (2 * n)) ** 2), rel=1e-6)
    assert spectrum[-1] == 0.0
    assert spectrum[-2] > 0.2


def test_graphs_without_edges():
    nothing = np.zeros((4, 4))
    assert graph_wasserstein_distance(nothing, nothing) == 0.0
    A = weighted(4)
    expected = np.trace(covariance_of(A))
    assert graph_wasserstein_distance(A, nothing, squared=True, n_restarts=2) == pytest.approx(expected)


def test_regularisation_counts_components():
    whole, parted = unit(nx.cycle_graph(6)), unit(nx.disjoint_union(nx.cycle_graph(3), nx.cycle_graph(3)))
    plain, regular = (graph_wasserstein_distance(whole, parted, regularization=alpha) for alpha in (0.0, 0.01))
    # A component more is a variance of 1 / alpha more.
    assert regular > 5 * plain


def test_frank_wolfe_agrees_with_scipy():
    A, B = weighted(12, 0), weighted(12, 1)
    rng = np.random.default_rng(0)
    starts = np.stack([np.full((12, 12), 1 / 12)] + [sinkhorn(np.log(rng.random((12, 12))), 200) for _ in range(4)])
    found = fast_assignment(*(torch.from_numpy(each) for each in (A, B, starts)))
    for start, p in zip(starts, found, strict=True):
        options = {"maximize": True, "P0": start, "tol": 1e-3, "maxiter": 30, "rng": rng}
        theirs = quadratic_assignment(A, B, method="faq", options=options)
        value = float((A * B[np.ix_(p, p)]).sum())
        assert value >= theirs.fun * (1 - 1e-9)
        assert sorted(p) == list(range(12))


def test_similarity_decides_where_structure_does_not():
    # Any rotation of a ring is a copy of it; features tell which is meant.
    A = unit(nx.cycle_graph(8))
    B, order = relabelled(A, 5)
    x = np.eye(8)
    distance, p = graph_wasserstein_distance(A, B, similarity=x @ x[order].T, random_state=0, return_permutation=True)
    assert distance == 0.0
    np.testing.assert_array_equal(p, np.argsort(order))


@pytest.mark.parametrize("seed", range(3))
def test_exchange_gains_are_what_exchanges_gain(seed):
    rng = np.random.default_rng(seed)
    A, B = (M + M.T for M in rng.normal(size=(2, 6, 6)))
    gains = exchange_gains(A, B)
    for i in range(6):
        for j in range(6):
            order = np.arange(6)
            order[[i, j]] = order[[j, i]]
            expected = np.trace(A @ B[np.ix_(order, order)]) - np.trace(A @ B)
            assert gains[i, j] == pytest.approx(expected, abs=1e-10)


def test_exchanges_mend_a_permutation():
    A = weighted(12, 3)
    B, order = relabelled(A, 1)
    roots = [GraphSignals(sp.csr_array(M)).root(12, 0.0) for M in (A, B)]
    p = np.argsort(order)
    best = fidelity(*roots, p)
    wrong = p.copy()
    wrong[[0, 3]] = wrong[[3, 0]]
    wrong[[5, 7]] = wrong[[7, 5]]
    before = fidelity(*roots, wrong)
    value, mended = exchange_nodes(*roots, wrong, before)
    assert before < best
    assert value == pytest.approx(best)
    np.testing.assert_array_equal(mended, p)


def test_hop_profiles_are_sorted_distances():
    graphs = [nx.random_labeled_tree(9, seed=0), nx.disjoint_union(nx.cycle_graph(4), nx.path_graph(3))]
    profiles = []
    for graph in graphs:
        hops = np.full((9, 9), np.inf)
        for i, reached in nx.all_pairs_shortest_path_length(graph):
            hops[i, list(reached)] = list(reached.values())
        np.fill_diagonal(hops, 0)
        profiles.append(hops)
    farthest = max(each[np.isfinite(each)].max() for each in profiles) + 1
    rows = [np.sort(np.where(np.isinf(each), farthest, each), axis=1) for each in profiles]
    expected = np.abs(rows[0][:, None] - rows[1]).sum(axis=-1)
    signals = [GraphSignals(sp.csr_array(unit(graph))) for graph in graphs]
    np.testing.assert_allclose(profile_distance(*signals), expected)


@pytest.mark.parametrize("method", ["spectral", "degree"])
def test_other_matchings_find_copies(method):
    A = weighted(9, 4)
    B, _ = relabelled(A, 2)
    distance, p = graph_wasserstein_distance(A, B, permutation=method, return_permutation=True)
    assert distance == 0.0
    np.testing.assert_array_equal(B[np.ix_(p, p)], A)


def test_stochastic_search_comes_nearer():
    A = unit(nx.karate_club_graph())
    B, _ = relabelled(A, 0)
    settings = {"n_epochs": 150, "n_samples": 5, "random_state": 0, "progress": False, "device": "cpu"}
    p = got_permutation(A, B, **settings)
    np.testing.assert_array_equal(p, got_permutation(A, B, **settings))
    rng = np.random.default_rng(0)
    others = [graph_wasserstein_distance(A, B, permutation=rng.permutation(34), squared=True) for _ in range(20)]
    assert graph_wasserstein_distance(A, B, permutation=p, squared=True) < 0.8 * min(others)
    with pytest.raises(ValueError, match="temperature"):
        got_permutation(A, B, temperature=0.0)


def test_got_by_name_is_a_permutation(monkeypatch):
    monkeypatch.setattr("paperworks.graphs.graph_valuation._got.stochastic_permutation.__kwdefaults__", {
        "n_epochs": 3, "n_samples": 2, "temperature": 2.0, "learning_rate": 0.5, "progress": False,
    })  # fmt: skip
    distance, p = graph_wasserstein_distance(
        weighted(6), weighted(5), permutation="got", random_state=0, return_permutation=True
    )
    assert sorted(p) == list(range(6))
    assert distance > 0


def test_equal_degrees_are_told_apart_by_neighbours():
    # Both inner nodes of degree 2 differ by what they are tied to.
    graph = nx.Graph([(0, 1), (1, 2), (2, 3), (2, 4), (2, 5)])
    A = unit(graph)
    B, _ = relabelled(A, 8)
    assert graph_wasserstein_distance(A, B, permutation="degree") == 0.0


def test_coarsening_contracts_the_heaviest_edges_first():
    A = sp.csr_array(np.array([[0, 9.0, 1, 0], [9, 0, 2, 0], [1, 2, 0, 1], [0, 0, 1, 0]]))
    np.testing.assert_array_equal(coarsened(A, 3).toarray(), [[0, 3, 0], [3, 0, 1], [0, 1, 0]])
    graph = sp.csr_array(unit(nx.barabasi_albert_graph(50, 2, seed=0)))
    smaller = coarsened(graph, 13)
    assert smaller.shape == (13, 13)
    assert smaller.sum() <= graph.sum()
    assert (smaller != smaller.T).nnz == 0
    assert not smaller.diagonal().any()
    assert GraphSignals(smaller).n_components == 1
    assert coarsened(sp.csr_array((5, 5)), 3).shape == (3, 3)


def test_coarsened_graphs_are_compared():
    A, B = weighted(6, 0), weighted(9, 1)
    small = coarsened(sp.csr_array(B), 6)
    found = graph_wasserstein_distance(A, B, unequal="coarsen", random_state=0)
    assert found == graph_wasserstein_distance(A, small, random_state=0)
    assert found == pytest.approx(graph_wasserstein_distance(B, A, unequal="coarsen", random_state=0), rel=1e-6)
    assert found != pytest.approx(graph_wasserstein_distance(A, B, random_state=0), rel=1e-3)
    for options in ({"return_permutation": True}, {"permutation": np.arange(9)}, {"similarity": np.ones((6, 9))}):
        with pytest.raises(ValueError, match=r"return_permutation|coarsen"):
            graph_wasserstein_distance(A, B, unequal="coarsen", random_state=0, **options)


def test_forest_fires_keep_neighbours_together():
    graph = sp.csr_array(unit(nx.grid_2d_graph(20, 20)))
    nodes = forest_fire(graph, 50, np.random.default_rng(0))
    assert len(np.unique(nodes)) == 50
    assert GraphSignals(graph[nodes][:, nodes]).n_components == 1
    np.testing.assert_array_equal(nodes, forest_fire(graph, 50, np.random.default_rng(0)))
    # Two components: the whole of both can be drawn.
    parted = sp.csr_array(unit(nx.disjoint_union(nx.cycle_graph(5), nx.cycle_graph(4))))
    np.testing.assert_array_equal(forest_fire(parted, 9, np.random.default_rng(0)), np.arange(9))


def test_samples_average_and_state_their_error():
    rng = nx.cycle_graph(120), nx.circulant_graph(120, [1, 2])
    options = {"n_subgraphs": 4, "subgraph_size": 15, "n_restarts": 2, "random_state": 0, "progress": False}
    found = sampled_graph_wasserstein_distance(*rng, **options)
    assert found == sampled_graph_wasserstein_distance(*rng, **options)
    assert found.distance > 5 * found.standard_error > 0
    whole = sampled_graph_wasserstein_distance(*rng, **{**options, "subgraph_size": 120, "permutation": "degree"})
    expected = graph_wasserstein_distance(*rng, permutation="degree")
    assert whole.distance == pytest.approx(expected)
    assert whole.standard_error == pytest.approx(0.0, abs=1e-12)


def test_standard_error_is_that_of_the_mean():
    graphs = nx.barabasi_albert_graph(80, 2, seed=0), nx.cycle_graph(80)
    options = {"subgraph_size": 12, "permutation": "degree", "random_state": 0, "progress": False}
    two, three = (sampled_graph_wasserstein_distance(*graphs, n_subgraphs=k, **options) for k in (2, 3))
    # Of two numbers, mean and error tell both; the third follows from the mean of three.
    distances = [two.distance - two.standard_error, two.distance + two.standard_error]
    distances.append(3 * three.distance - sum(distances))
    assert three.standard_error == pytest.approx(np.std(distances, ddof=1) / 3**0.5)


def test_starts_are_the_same_in_any_batches(monkeypatch):
    A, B = unit(nx.gnp_random_graph(30, 0.2, seed=0)), unit(nx.gnp_random_graph(30, 0.2, seed=1))
    expected = graph_wasserstein_distance(A, B, n_restarts=5, random_state=3)
    counted = []
    monkeypatch.setattr(
        "paperworks.graphs.graph_valuation._matching.fast_assignment",
        lambda *args: counted.append(len(args[2])) or fast_assignment(*args),
    )
    monkeypatch.setattr("paperworks.graphs.graph_valuation._matching.BATCH", 2 * 30**2)
    assert graph_wasserstein_distance(A, B, n_restarts=5, random_state=3) == pytest.approx(expected, rel=1e-12)
    assert counted == [2, 2, 1]


def test_kinds_of_graphs_are_one():
    A = weighted(6)
    B = weighted(6, 1)
    expected = graph_wasserstein_distance(A, B, random_state=0)
    for make in (sp.csr_matrix, sp.coo_array, nx.from_numpy_array, lambda M: M.astype(np.float32).astype(float)):
        assert graph_wasserstein_distance(make(A), make(B), random_state=0) == pytest.approx(expected, rel=1e-5)
    edges = np.array([[0, 1], [1, 2]])
    assert graph_wasserstein_distance((edges, 3), nx.path_graph(3)) == 0.0
    one_way = np.triu(A)
    assert graph_wasserstein_distance(one_way, B, symmetrize=True, random_state=0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("a", "options", "error", "words"),
    [
        (np.triu(np.ones((4, 4)), 1), {}, ValueError, "a must be symmetric"),
        (nx.DiGraph([(0, 1)]), {}, ValueError, "a must be undirected"),
        (-weighted(4), {}, ValueError, "a has .* negative"),
        (np.ones((3, 4)), {}, ValueError, "a must be a square"),
        (np.full((4, 4), np.nan), {}, ValueError, "a contains NaN"),
        (np.zeros((1, 1)), {}, ValueError, "a must have at least 2 nodes, got 1"),
        ("graph", {}, (TypeError, ValueError), "a must"),
        (weighted(4), {"permutation": "hungarian"}, ValueError, "permutation must be one of"),
        (weighted(4), {"permutation": [0, 1, 2]}, ValueError, r"permutation must hold each of 0\.\.3 once"),
        (weighted(4), {"permutation": [0, 1, 2, 2]}, ValueError, "permutation"),
        (weighted(4), {"permutation": [0.0, 1.0, 2.0, 3.0]}, TypeError, "permutation must hold integers"),
        (weighted(4), {"regularization": -1.0}, ValueError, "regularization"),
        (weighted(4), {"n_restarts": 0}, ValueError, "n_restarts"),
        (weighted(4), {"unequal": "cut"}, ValueError, "unequal"),
        (weighted(4), {"similarity": np.ones((4, 3))}, ValueError, "similarity must have shape"),
        (weighted(4), {"permutation": "spectral-bound", "return_permutation": True}, ValueError, "return_permutation"),
        (weighted(4), {"random_state": -1}, ValueError, "random_state"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(a, options, error, words):
    with pytest.raises(error, match=words):
        graph_wasserstein_distance(a, weighted(4, 1), **options)


def test_self_loops_are_dropped_with_a_warning():
    A = weighted(5)
    looped = A + np.diag([1.0, 0, 2.0, 0, 0])
    with pytest.warns(UserWarning, match="b: 2 self-loops are dropped"):
        assert graph_wasserstein_distance(A, looped, random_state=0) == 0.0
    assert looped[0, 0] == 1.0


def test_same_seed_same_distance():
    A, B = unit(nx.gnp_random_graph(40, 0.1, seed=0)), unit(nx.gnp_random_graph(40, 0.1, seed=1))
    first, p = graph_wasserstein_distance(A, B, n_restarts=3, random_state=7, return_permutation=True)
    second, q = graph_wasserstein_distance(A, B, n_restarts=3, random_state=7, return_permutation=True)
    assert first == second
    np.testing.assert_array_equal(p, q)
    more = graph_wasserstein_distance(A, B, n_restarts=10, random_state=7)
    assert more <= first


@pytest.mark.parametrize("n_hops", [0, 1, 3])
def test_features_pass_along_edges(n_hops):
    A, X = weighted(7), np.random.default_rng(0).normal(size=(7, 3))
    tilde = A + np.eye(7)
    d = tilde.sum(axis=1)
    tilde = tilde / np.sqrt(np.outer(d, d))
    expected = np.linalg.matrix_power(tilde, n_hops) @ X
    np.testing.assert_allclose(propagate_features(A, X, n_hops), expected, atol=1e-12)
    np.testing.assert_allclose(propagate_features(nx.from_numpy_array(A), X, n_hops), expected, atol=1e-12)
    assert propagate_features(A, X.astype(np.float32), n_hops).dtype == np.float32


def test_propagation_refuses_what_does_not_fit():
    A = weighted(4)
    for x, error, words in (
        (np.ones((3, 2)), ValueError, "x must have a row for each of 4 nodes"),
        (np.ones(4), ValueError, "x must have 2 dimensions"),
        (np.ones((4, 2), dtype=int), TypeError, "x must hold floating-point"),
        (np.full((4, 2), np.inf), ValueError, "x contains NaN or infinity"),
    ):
        with pytest.raises(error, match=words):
            propagate_features(A, x)
    with pytest.raises(ValueError, match="n_hops"):
        propagate_features(A, np.ones((4, 2)), n_hops=-1)


def scores_by_hand(X, Y, r, statistic="norm", center=True):
    C, S = (np.cov(M.T) if center else M.T @ M / len(M) for M in (X, Y))
    values, vectors = np.linalg.eigh(np.atleast_2d(C))
    own, U = values[::-1][:r], vectors[:, ::-1][:, :r]
    g = np.linalg.norm(S @ U, axis=0) if statistic == "norm" else np.diag(U.T @ S @ U)
    t = np.minimum(own, g) / np.maximum(own, g)
    return np.prod(t) ** (1 / r), np.prod(1 - t) ** (1 / r)


@pytest.mark.parametrize("statistic", ["norm", "variance"])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("r", [1, 3, 5])
def test_relevance_and_diversity_are_those_of_the_definition(statistic, center, r):
    rng = np.random.default_rng(r)
    X, Y = rng.normal(size=(30, 5)) * [3, 2, 1.5, 1, 0.5] + 1, rng.normal(size=(20, 5)) @ rng.normal(size=(5, 5))
    found = feature_relevance_diversity(X, Y, n_components=r, statistic=statistic, center=center)
    np.testing.assert_allclose(found, scores_by_hand(X, Y, r, statistic, center), rtol=1e-9)


def test_components_are_counted():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(200, 4)) * [10, 3, 1, 0.1], rng.normal(size=(50, 4))
    share = np.sort(np.linalg.eigvalsh(np.cov(X.T)))[::-1].cumsum()
    share /= share[-1]
    for wanted in (0.5, 0.95, 0.9999):
        r = int(np.argmax(share >= wanted)) + 1
        np.testing.assert_allclose(
            feature_relevance_diversity(X, Y, n_components=wanted), scores_by_hand(X, Y, r), rtol=1e-9
        )
    np.testing.assert_allclose(feature_relevance_diversity(X, Y, n_components=None), scores_by_hand(X, Y, 4))


def test_statistics_differ_where_directions_turn():
    # A seller's only direction at 60 degrees to the buyer's: C u has length cos 60, its part along u cos^2 60.
    X = np.array([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])
    turn = np.array([[0.5, np.sqrt(0.75)], [-np.sqrt(0.75), 0.5]])
    assert feature_relevance_diversity(X, X @ turn, n_components=1)[0] == pytest.approx(0.5)
    assert feature_relevance_diversity(X, X @ turn, n_components=1, statistic="variance")[0] == pytest.approx(0.25)


def test_extremes_of_the_scores():
    X = np.random.default_rng(0).normal(size=(40, 3))
    relevance, diversity = feature_relevance_diversity(X, X.copy(), n_components=1)
    assert relevance == pytest.approx(1.0)
    # One direction of equal variance is enough to bring the product of differences to zero.
    assert diversity == 0.0
    orthogonal = np.zeros((40, 3))
    orthogonal[:, 2] = np.linspace(-1, 1, 40)
    flat = X * [1.0, 1.0, 0.0]
    relevance, diversity = feature_relevance_diversity(flat, orthogonal, n_components=2)
    assert (relevance, diversity) == (0.0, 1.0)
    # A direction that neither varies along is one that both agree on.
    relevance, _ = feature_relevance_diversity(flat, 2 * flat, n_components=None)
    assert relevance == pytest.approx((1 / 16) ** (1 / 3))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0.01, 100))
def test_scores_are_shares(seed, d, scale):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(9, d)), scale * rng.normal(size=(12, d))
    relevance, diversity = feature_relevance_diversity(X, Y)
    assert 0 <= relevance <= 1
    assert 0 <= diversity <= 1
    assert relevance + diversity <= 1 + 1e-9
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    turned = feature_relevance_diversity(X[rng.permutation(9)] @ rotation, Y[rng.permutation(12)] @ rotation)
    np.testing.assert_allclose(turned, (relevance, diversity), rtol=1e-6, atol=1e-9)


def test_scores_are_differentiable():
    generator = torch.Generator().manual_seed(0)
    X, Y = (torch.rand(6, 3, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2))
    for r in (2, None):
        assert torch.autograd.gradcheck(lambda x, y, r=r: feature_relevance_diversity(x, y, n_components=r), (X, Y))


def test_features_that_do_not_fit_are_refused():
    X = np.random.default_rng(0).normal(size=(8, 3))
    for arguments, error, words in (
        ((X, X[:, :2]), ValueError, "x_seller has 2 features, x_buyer 3"),
        ((X, np.ones((8, 3))), ValueError, "x_seller has zero covariance"),
        ((np.ones((8, 3)) * 0.1, X), ValueError, "x_buyer has zero covariance"),
        ((X[:1], X), ValueError, "x_buyer must have at least 2 rows"),
        ((X, X, 4), ValueError, "n_components must be at most 3"),
        ((X, X, 0), ValueError, "n_components"),
        ((X, X, 1.0), ValueError, "n_components"),
        ((X, X, "all"), TypeError, "n_components"),
    ):
        options = {"n_components": arguments[2]} if len(arguments) > 2 else {}
        with pytest.raises(error, match=words):
            feature_relevance_diversity(*arguments[:2], **options)
    with pytest.raises(ValueError, match="statistic"):
        feature_relevance_diversity(X, X, statistic="median")


def market(seed=0, n=20, d=4):
    rng = np.random.default_rng(seed)
    buyer = unit(nx.connected_watts_strogatz_graph(n, 4, 0.3, seed=seed)), rng.normal(size=(n, d)) * np.arange(1, d + 1)
    seller = unit(nx.barabasi_albert_graph(n, 2, seed=seed)), rng.normal(size=(n, d))
    return buyer, seller


@pytest.mark.parametrize("statistic", ["norm", "variance"])
@pytest.mark.parametrize("n_hops", [0, 2])
def test_the_protocol_gives_the_scores(statistic, n_hops):
    (A, X), (B, Y) = market()
    query = GraphBuyer(A, X, n_hops=n_hops).query()
    answer = GraphSeller(B, Y, n_hops=n_hops, statistic=statistic).answer(query.directions)
    found = GraphBroker().score(query, answer)
    expected = feature_relevance_diversity(
        propagate_features(A, X, n_hops), propagate_features(B, Y, n_hops), statistic=statistic
    )
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_messages_are_small_and_hide_the_features():
    (A, X), (B, Y) = market()
    names = dict(enumerate("abcdefghijklmnopqrst"))
    buyer, seller = GraphBuyer(nx.relabel_nodes(nx.from_numpy_array(A), names), X), GraphSeller(B, Y)
    query = buyer.query()
    answer = seller.answer(query.directions)
    r = len(query.variances)
    assert query._fields == ("directions", "variances")
    assert query.directions.shape == (4, r)
    assert query.variances.shape == answer.shape == (r,)
    np.testing.assert_allclose(query.directions.T @ query.directions, np.eye(r), atol=1e-12)
    for party in (buyer, seller):
        assert {name for name in dir(party) if not name.startswith("_")} <= {"query", "answer", "structure"}
        assert sp.issparse(party.structure())
    # A copy: whoever gets it can't reach what the party holds.
    buyer.structure().data[:] = 7.0
    np.testing.assert_array_equal(buyer.structure().toarray(), A)
    assert GraphBroker(random_state=0).disparity(buyer.structure(), seller.structure())[0] == pytest.approx(
        graph_wasserstein_distance(A, B, random_state=0)
    )


@pytest.mark.parametrize(("noise", "spread"), [("laplace", 0.5 * np.sqrt(2)), ("gaussian", 0.5)])
def test_noise_on_answers(noise, spread):
    (A, X), _ = market()
    directions = GraphBuyer(A, X).query().directions
    exact = GraphSeller(A, 10 * X).answer(directions)
    noisy = GraphSeller(A, 10 * X, noise=noise, noise_scale=0.5, random_state=0)
    draws = np.array([noisy.answer(directions) for _ in range(3000)])
    assert (exact > 5).all()
    np.testing.assert_allclose(draws.mean(axis=0), exact, atol=5 * spread / 3000**0.5)
    np.testing.assert_allclose(draws.std(axis=0), spread, rtol=0.1)
    again = GraphSeller(A, 10 * X, noise=noise, noise_scale=0.5, random_state=0)
    np.testing.assert_array_equal(again.answer(directions), draws[0])
    loud = GraphSeller(A, X, noise=noise, noise_scale=1e6, random_state=0)
    assert (loud.answer(directions) >= 0).all()


def test_protocol_refuses_what_it_can_not_use():
    (A, X), (B, Y) = market()
    seller = GraphSeller(B, Y)
    with pytest.raises(ValueError, match="seller has 4 features, buyer 3"):
        seller.answer(np.eye(3))
    with pytest.raises(ValueError, match="orthonormal"):
        seller.answer(2 * np.eye(4))
    with pytest.raises(ValueError, match="directions contains NaN"):
        seller.answer(np.full((4, 1), np.nan))
    with pytest.raises(TypeError, match="directions must hold floating-point"):
        seller.answer(np.eye(4, dtype=int))
    query = GraphBuyer(A, X, n_components=2).query()
    with pytest.raises(ValueError, match="answer must have 2 numbers"):
        GraphBroker().score(query, np.ones(3))
    with pytest.raises(ValueError, match="answer must not be negative"):
        GraphBroker().score(query, np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="query"):
        GraphBroker().score(BuyerQuery(np.eye(4), np.ones(2)), np.ones(4))
    for options in ({"noise": "laplace"}, {"noise_scale": 1.0}, {"noise": "uniform"}, {"statistic": "mean"}):
        with pytest.raises(ValueError, match=r"noise|statistic"):
            GraphSeller(B, Y, **options)
    with pytest.raises(ValueError, match="seller_features must have a row for each of 20 nodes"):
        GraphSeller(B, Y[:-1])
    with pytest.raises(ValueError, match="buyer_features has zero covariance"):
        GraphBuyer(A, np.ones((20, 2)), n_hops=0)
    with pytest.raises(TypeError, match="buyer_features must be given"):
        GraphBuyer(A, None)


def test_a_value_joins_the_scores():
    (A, X), (B, Y) = market()
    model = GraphValuator(random_state=0, n_restarts=3).fit(A, X)
    value = model.score_seller(B, Y)
    distance, p = graph_wasserstein_distance(A, B, n_restarts=3, random_state=0, return_permutation=True)
    assert value.structural_disparity == distance
    np.testing.assert_array_equal(value.permutation, p)
    traces = np.trace(covariance_of(A)) + np.trace(covariance_of(B))
    assert value.normalized_disparity == pytest.approx(distance**2 / traces)
    passed = propagate_features(A, X), propagate_features(B, Y)
    np.testing.assert_allclose((value.relevance, value.diversity), feature_relevance_diversity(*passed), rtol=1e-9)
    raw = feature_relevance_diversity(X, Y)
    np.testing.assert_allclose((value.raw_relevance, value.raw_diversity), raw, rtol=1e-9)
    assert value.n_feature_components == len(GraphBuyer(A, X).query().variances)
    assert value.n_graph_components == (1, 1)
    assert value.standard_error == 0.0
    assert 0 < value.normalized_disparity < 1


def test_structure_and_features_are_apart():
    (A, X), (B, Y) = market()
    model = GraphValuator(random_state=0, n_restarts=2).fit(A, X)
    here, there = model.score_seller(A, Y), model.score_seller(B, Y)
    assert here.structural_disparity == 0.0 < there.structural_disparity
    assert (here.raw_relevance, here.raw_diversity) == (there.raw_relevance, there.raw_diversity)
    assert here.relevance != there.relevance
    again = model.score_seller(B, 3 * Y)
    assert again.structural_disparity == there.structural_disparity
    assert again.raw_relevance != there.raw_relevance


def test_sellers_are_ranked_by_the_buyers_weights():
    pytest.importorskip("pandas")
    (A, X), (B, Y) = market()
    model = GraphValuator(random_state=0, n_restarts=2, progress=False).fit(A, X)
    sellers = {"far": (B, 5 * Y), "copy": (A, X), "near": (A, 1.5 * X)}
    table = model.rank(sellers)
    assert list(table.index) == ["copy", "near", "far"]
    one = model.score_seller(B, 5 * Y)
    assert table.loc["far", "score"] == pytest.approx(one.relevance - one.normalized_disparity)
    assert table.loc["far", "diversity"] == one.diversity
    other = model.rank(list(sellers.values()), disparity_weight=1.0, relevance_weight=0.0, diversity_weight=1.0)
    assert list(other.index) == [0, 2, 1]
    for bad, error in (([], ValueError), ([A], TypeError), ({"x": A}, TypeError)):
        with pytest.raises(error, match="sellers"):
            model.rank(bad)
    with pytest.raises(ValueError, match="relevance_weight"):
        model.rank(sellers, relevance_weight=np.nan)


def test_structure_alone_can_be_valued(capsys):
    (A, X), (B, _) = market()
    model = GraphValuator(random_state=0, n_restarts=2, progress=False, verbose=True).fit(A)
    value = model.score_seller(B)
    assert np.isnan([value.relevance, value.diversity, value.raw_relevance, value.raw_diversity]).all()
    assert value.structural_disparity > 0
    assert list(model.rank([(B, None), (A, None)]).index) == [1, 0]
    assert capsys.readouterr().out.count("normalized_disparity") == 2
    with pytest.raises(ValueError, match="seller has 4 features, buyer none"):
        model.score_seller(A, X)
    with pytest.raises(ValueError, match="seller has no features, buyer 4"):
        GraphValuator().fit(A, X).score_seller(A)


def test_features_may_be_named():
    (A, X), _ = market()
    graph = nx.from_numpy_array(A)
    nx.set_node_attributes(graph, {i: row.tolist() for i, row in enumerate(X)}, "x")
    nx.set_node_attributes(graph, {i: float(row[0]) for i, row in enumerate(X)}, "first")
    by_name = GraphValuator().fit(graph, "x")
    np.testing.assert_allclose(by_name.query_.variances, GraphValuator().fit(A, X).query_.variances)
    assert GraphValuator().fit(graph, "first").query_.directions.shape == (1, 1)
    with pytest.raises(ValueError, match="20 nodes lack the attribute 'y'"):
        by_name.score_seller(graph, "y")
    with pytest.raises(TypeError, match="needs a networkx graph"):
        by_name.score_seller(A, "x")
    graph.nodes[0]["x"] = "red"
    with pytest.raises(ValueError, match="not numbers"):
        GraphValuator().fit(graph, "x")


def test_data_sets_are_matched_graph_by_graph():
    rng = np.random.default_rng(0)
    buyer = [weighted(int(n), seed) for seed, n in enumerate(rng.integers(4, 8, 4))]
    seller = [weighted(int(n), seed + 50) for seed, n in enumerate(rng.integers(4, 8, 6))]
    X, Y = ([rng.normal(size=(len(A), 3)) for A in graphs] for graphs in (buyer, seller))
    value = GraphValuator(random_state=0, n_nearest=6).fit(buyer, X).score_seller(seller, Y)
    every = [[graph_wasserstein_distance(A, B, random_state=0) for B in seller] for A in buyer]
    assert value.structural_disparity == pytest.approx(np.min(every, axis=1).mean(), rel=1e-6)
    pooled = [
        np.concatenate([propagate_features(A, x) for A, x in zip(graphs, xs, strict=True)])
        for graphs, xs in ((buyer, X), (seller, Y))
    ]
    expected = feature_relevance_diversity(*pooled)
    np.testing.assert_allclose((value.relevance, value.diversity), expected, rtol=1e-9)
    assert value.permutation is None
    assert value.n_graph_components == (4, 6)
    shuffled = [relabelled(A, i)[0] for i, A in enumerate(buyer[::-1])]
    same = GraphValuator(random_state=0).fit(buyer).score_seller(shuffled + seller)
    assert same.structural_disparity == 0.0
    # A screen of one graph by spectra gives no less.
    screened = GraphValuator(random_state=0, n_nearest=1).fit(buyer).score_seller(seller)
    assert screened.structural_disparity >= value.structural_disparity - 1e-9
    with pytest.raises(ValueError, match="list of 4 arrays, one a graph, got 3"):
        GraphValuator().fit(buyer, X[:3])
    with pytest.raises(ValueError, match="buyer_features must be given for each of 4 graphs, got 3"):
        GraphValuator().fit(buyer, [None, *X[1:]])
    with pytest.raises(TypeError, match="list of 4 arrays"):
        GraphValuator().fit(buyer, X[0])
    with pytest.raises(ValueError, match=r"buyer_features must have as many columns for each graph, got \[2, 3\]"):
        GraphValuator().fit(buyer, [X[0][:, :2], *X[1:]])


def test_large_graphs_are_sampled():
    (A, X), (B, Y) = market(n=60)
    settings = {"max_nodes": 50, "n_subgraphs": 4, "subgraph_size": 20, "n_restarts": 2, "random_state": 0}
    value = GraphValuator(**settings).fit(A, X).score_seller(B, Y)
    expected = sampled_graph_wasserstein_distance(
        A, B, n_subgraphs=4, subgraph_size=20, n_restarts=2, random_state=0, progress=False
    )
    assert (value.structural_disparity, value.standard_error) == expected
    assert value.permutation is None
    assert value == GraphValuator(**settings).fit(A, X).score_seller(B, Y)
    # Features steer the matching of subgraphs as they do that of whole graphs.
    ring = unit(nx.cycle_graph(60))
    steered = GraphValuator(**settings, feature_weight=5.0).fit(ring, X).score_seller(ring, Y)
    assert np.isfinite(steered.structural_disparity)


def test_errors_of_several_samples_add_up():
    settings, sampling = MatchingSettings(permutation="degree"), Sampling(max_nodes=30, n_subgraphs=3, subgraph_size=10)
    buyer = [GraphSignals(sp.csr_array(unit(nx.barabasi_albert_graph(40, 2, seed=seed)))) for seed in range(2)]
    seller = [GraphSignals(sp.csr_array(unit(nx.cycle_graph(40))))]
    rng = np.random.default_rng(0)
    singly = [set_disparity([graph], seller, settings, rng, sampling) for graph in buyer]
    found = set_disparity(buyer, seller, settings, np.random.default_rng(0), sampling)
    errors = np.array([each.standard_error for each in singly])
    assert found.standard_error == pytest.approx(np.sqrt((errors**2).sum()) / 2)
    assert found.distance == pytest.approx(np.mean([each.distance for each in singly]))
    assert found.normalized == pytest.approx(np.mean([each.normalized for each in singly]))


def test_features_steer_the_matching_if_asked():
    ring = unit(nx.cycle_graph(8))
    B, order = relabelled(ring, 5)
    x = np.eye(8)
    value = GraphValuator(feature_weight=1.0, random_state=0).fit(ring, x).score_seller(B, x[order])
    np.testing.assert_array_equal(value.permutation, np.argsort(order))
    with pytest.raises(ValueError, match="feature_weight must be 0 with unequal='coarsen'"):
        GraphValuator(feature_weight=1.0, unequal="coarsen").fit(ring)


def test_valuator_refuses_what_it_can_not_take():
    (A, X), (B, Y) = market()
    for options in (
        {"n_hops": -1}, {"permutation": "best"}, {"n_components": 2.0}, {"n_restarts": 0}, {"statistic": "mean"},
        {"max_nodes": 1}, {"n_subgraphs": 1}, {"subgraph_size": 1}, {"n_nearest": 0}, {"regularization": -1.0},
        {"unequal": "cut"}, {"feature_weight": -1.0},
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=next(iter(options))):
            GraphValuator(**options).fit(A, X)
    model = GraphValuator(n_restarts=1).fit(A, X)
    with pytest.raises(ValueError, match="seller has 3 features, buyer 4"):
        model.score_seller(B, Y[:, :3])
    with pytest.raises(ValueError, match="seller_adjacency must be symmetric"):
        model.score_seller(np.triu(B), Y)
    with pytest.raises(ValueError, match="seller_features contains NaN"):
        model.score_seller(B, np.full((20, 4), np.nan))
    directed = GraphValuator(n_restarts=1, symmetrize=True).fit(np.triu(A), X)
    assert directed.score_seller(np.tril(A), X).structural_disparity == 0.0


def test_integer_features_of_nodes_are_taken():
    (A, _), _ = market()
    degrees = A.sum(axis=1).astype(int)
    assert GraphValuator().fit(A, degrees).query_.directions.shape == (1, 1)


def write_graph(path, A, X):
    graph = nx.from_numpy_array(A)
    nx.set_node_attributes(graph, {i: float(row[0]) for i, row in enumerate(X)}, "x")
    nx.set_node_attributes(graph, {i: float(row[1]) for i, row in enumerate(X)}, "y")
    nx.write_graphml(graph, path)


def test_command(tmp_path):
    (A, X), (B, Y) = market()
    X, Y = X[:, :2], Y[:, :2]
    files = [tmp_path / "buyer.npz", tmp_path / "copy.npz", tmp_path / "other.graphml"]
    np.savez(files[0], adjacency=A, features=X)
    shuffled, order = relabelled(A, 1)
    np.savez(files[1], adjacency=shuffled, features=X[order])
    write_graph(files[2], B, Y)
    out = tmp_path / "out"
    out.mkdir()
    summary = run(*files, out=out, features="x,y", restarts=3)
    assert summary["best"] == "copy"
    assert summary["sellers"]["copy"]["structural_disparity"] == 0.0
    expected = GraphValuator(random_state=0, n_restarts=3).fit(A, X).score_seller(B, Y)
    assert summary["sellers"]["other"]["relevance"] == pytest.approx(expected.relevance)
    assert summary["sellers"]["other"]["structural_disparity"] == pytest.approx(expected.structural_disparity)
    lines = (out / "sellers.csv").read_text().splitlines()
    assert lines[0].startswith("seller,score,structural_disparity")
    assert len(lines) == 3
    assert (out / "picture.png").stat().st_size > 5000
    rows = np.loadtxt(out / "permutation-copy.csv", delimiter=",", skiprows=1, dtype=int)
    np.testing.assert_array_equal(shuffled[np.ix_(rows[:, 1], rows[:, 1])], A)
    named = tmp_path / "named.npz"
    np.savez(named, adjacency=A, x=X[:, 0], y=X[:, 1])
    again = tmp_path / "again"
    again.mkdir()
    assert (
        run(named, files[2], out=again, features="x,y", restarts=3)["sellers"]["other"] == summary["sellers"]["other"]
    )


def test_command_without_files_and_features(tmp_path):
    for name in ("bundled", "structure"):
        (tmp_path / name).mkdir()
    summary = run(out=tmp_path / "bundled", restarts=2)
    assert "karate" in summary["input"]
    A, B = weighted(8), weighted(7)
    sp.save_npz(tmp_path / "a.npz", sp.csr_matrix(A))
    (tmp_path / "b.csv").write_text(
        "\n".join(["source,target,weight"] + [f"{i},{j},{B[i, j]}" for i in range(7) for j in range(i) if B[i, j]])
    )
    summary = run(tmp_path / "a.npz", tmp_path / "b.csv", out=tmp_path / "structure", restarts=2)
    assert summary["sellers"]["b"]["structural_disparity"] > 0
    assert summary["sellers"]["b"]["relevance"] is None
    rows = (tmp_path / "structure" / "permutation-b.csv").read_text().splitlines()
    # Seven nodes for eight: one is matched to nothing.
    assert sum(row.endswith(",") for row in rows) == 1


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda p: [p], {}, "a buyer's graph and at least one seller's"),
        (lambda p: [p, p.with_suffix(".xml")], {}, "no such file|format"),
        (lambda p: [p, p, p], {}, "two sellers have the same name"),
        (lambda p: [p, p.parent / "bad.npz"], {}, "can't be read|adjacency"),
        (lambda p: [p, p.parent / "loose.npz"], {}, "row for each of 4 nodes"),
        (lambda p: [p, p.parent / "plain.npz"], {"features": "x"}, "neither x nor features"),
        (lambda p: [p, p.parent / "plain.npz"], {}, "plain: seller has no features, buyer 4"),
    ],
)
def test_command_names_bad_files(tmp_path, make, options, words):
    good = tmp_path / "good.npz"
    np.savez(good, adjacency=weighted(4), features=np.eye(4))
    (tmp_path / "bad.npz").write_text("no")
    np.savez(tmp_path / "plain.npz", adjacency=weighted(4))
    np.savez(tmp_path / "loose.npz", adjacency=weighted(4), features=np.eye(3))
    with pytest.raises((ValueError, OSError), match=words):
        run(*make(good), out=tmp_path, **options)


def test_no_warnings_of_numbers_on_degenerate_graphs():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        star = unit(nx.star_graph(5))
        complete = unit(nx.complete_graph(6))
        assert graph_wasserstein_distance(star, complete, random_state=0) > 0
        assert graph_wasserstein_distance(complete, np.zeros((3, 3)), random_state=0) > 0
