"""Cop decompositions, partitions, tree covers, oracles and Steiner point removal against brute force on small graphs.

Small graphs are put side by side into one graph of hundreds of components, so that thousands are checked in seconds.
"""

import json
from dataclasses import replace

import networkx
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy.sparse.csgraph import connected_components, dijkstra

from paperworks._files import InputError
from paperworks.combinatorial import (
    DistanceOracle,
    TreeCover,
    buffered_cop_decomposition,
    shortcut_partition,
    steiner_point_removal,
)
from paperworks.combinatorial.shortcut_partition import _covering, _dijkstra, _generators, _nets
from paperworks.combinatorial.shortcut_partition._lengths import check_lengths
from paperworks.combinatorial.shortcut_partition.oracle import _joined
from paperworks.papers.shortcut_partition.run import run

PROPERTIES = ("radius", "skeleton", "width", "buffer")


def partial_k_tree(n, k, rng, keep=0.8):
    """Random subgraph of a random k-tree, so without K_{k + 2}."""
    cliques, edges = [tuple(range(k))], [(i, j) for i in range(k) for j in range(i)]
    for v in range(k, n):
        clique = cliques[rng.integers(len(cliques))]
        edges += [(v, u) for u in clique]
        cliques += [(*clique[:i], *clique[i + 1 :], v) for i in range(k)]
    return [edge for edge in edges if rng.random() < keep]


def planar(n, rng, keep=0.9):
    from scipy.spatial import Delaunay

    triangles = Delaunay(rng.random((n, 2))).simplices
    edges = {tuple(sorted(pair)) for t in triangles for pair in ((t[0], t[1]), (t[1], t[2]), (t[0], t[2]))}
    return [edge for edge in sorted(edges) if rng.random() < keep]


# Families with a size of complete graph that is no minor of theirs; dense graphs have none to speak of.
FAMILIES = {
    "tree": (3, lambda n, rng: partial_k_tree(n, 1, rng, 1.0)),
    "series-parallel": (4, lambda n, rng: partial_k_tree(n, 2, rng)),
    "planar": (5, planar),
    "3-tree": (5, lambda n, rng: partial_k_tree(n, 3, rng)),
    "4-tree": (6, lambda n, rng: partial_k_tree(n, 4, rng)),
    "dense": (None, lambda n, rng: [(i, j) for i in range(n) for j in range(i) if rng.random() < 0.5]),
}
LENGTHS = {
    "ones": lambda size, rng: np.ones(size),
    "integers": lambda size, rng: rng.integers(1, 4, size).astype(float),
    "uniform": lambda size, rng: rng.uniform(0.1, 1.0, size),
    "wide": lambda size, rng: 10.0 ** rng.uniform(-4, 4, size),
}


def side_by_side(family, lengths, count, seed, n=11):
    """Adjacency of many graphs of n vertices each, as one, with vertices in random order."""
    rng = np.random.default_rng(seed)
    edges = np.concatenate([np.array(FAMILIES[family][1](n, rng)).reshape(-1, 2) + n * i for i in range(count)])
    order = np.concatenate([n * i + rng.permutation(n) for i in range(count)])
    return symmetric(order[edges.astype(int)], LENGTHS[lengths](len(edges), rng), n * count)


def symmetric(edges, lengths, n):
    ends = np.concatenate([edges, edges[:, ::-1]])
    return sp.coo_array((np.append(lengths, lengths), (ends[:, 0], ends[:, 1])), shape=(n, n)).tocsr()


def distances_in_blocks(graph, n):
    """Floyd and Warshall on all graphs that stand side by side: shape (count, n, n)."""
    count = graph.shape[0] // n
    coo = graph.tocoo()
    D = np.full((count, n, n), np.inf)
    D[:, np.arange(n), np.arange(n)] = 0.0
    D[coo.coords[0] // n, coo.coords[0] % n, coo.coords[1] % n] = coo.data
    for k in range(n):
        D = np.minimum(D, D[:, :, k, None] + D[:, None, k, :])
    return D


def pairs_in_blocks(count, n):
    block, u, v = np.indices((count, n, n)).reshape(3, -1)
    return block * n + u, block * n + v


@njit(cache=True)
def induced_distances(indptr, indices, data, members):
    """Floyd and Warshall on an induced subgraph."""
    m = len(members)
    D = np.full((m, m), np.inf)
    for a in range(m):
        D[a, a] = 0.0
        for entry in range(indptr[members[a]], indptr[members[a] + 1]):
            for b in range(m):
                if members[b] == indices[entry]:
                    D[a, b] = data[entry]
    for k in range(m):
        for a in range(m):
            for b in range(m):
                D[a, b] = min(D[a, b], D[a, k] + D[k, b])
    return D


def brute_force_check(graph, found):
    """P1 to P4 by their definitions; returns largest radius, most leaves, largest bag, least buffer."""
    label, parent, k = found.supernode_, found.parent_, len(found.parent_)
    chains = []
    for eta in range(k):
        chains.append([eta] if parent[eta] < 0 else [eta, *chains[parent[eta]]])
    dom = [[] for _ in range(k)]
    for v, eta in enumerate(label):
        for X in chains[eta]:
            dom[X].append(v)
    around = [set() for _ in range(k)]
    for eta in range(k):
        for v in dom[eta]:
            around[eta].update(label[graph.indices[graph.indptr[v] : graph.indptr[v + 1]]].tolist())
    arrays = graph.indptr, graph.indices, graph.data
    radius, leaves, buffer = 0.0, 0, np.inf
    for eta in range(k):
        own = np.flatnonzero(label == eta)
        skeleton = found.skeletons_[eta]
        inside = induced_distances(*arrays, own)
        radius = max(radius, inside[np.isin(own, skeleton[:, 0])].min(axis=0).max())
        below = np.array(dom[eta])
        D = induced_distances(*arrays, below)
        place = {int(v): i for i, v in enumerate(below)}
        root = int(skeleton[0, 0])
        assert skeleton[0, 1] == -1
        way = {root: 0.0}
        for v, u in skeleton[1:].tolist():
            way[v] = way[u] + graph[u, v]
            assert graph[u, v] > 0
            assert way[v] == pytest.approx(D[place[root], place[v]], rel=1e-9)
        leaves = max(leaves, len(set(skeleton[1:, 0].tolist()) - set(skeleton[1:, 1].tolist())))
        # Whatever a subtree touches outside itself is an ancestor.
        outside = {X for X in around[eta] if eta not in chains[X]}
        assert outside <= set(chains[eta][1:])
        assert set(found.bags_[eta].tolist()) == outside | {eta}
        mine = [place[v] for v in own.tolist()]
        for lower in range(eta + 1, k):
            if eta in chains[lower] and eta not in around[lower]:
                buffer = min(buffer, D[np.ix_(mine, [place[v] for v in dom[lower]])].min())
    return radius, leaves, max(map(len, found.bags_)), buffer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("root_rule", ["first", "far"])
def test_four_properties_by_brute_force_on_thousands_of_graphs(family, root_rule):
    for seed, (lengths, radius) in enumerate([("ones", 1.5), ("integers", 2.5), ("uniform", 0.8), ("wide", 300.0)]):
        graph = side_by_side(family, lengths, 70, seed)
        r = FAMILIES[family][0]
        found = buffered_cop_decomposition(graph, radius, minor_size=r, root_rule=root_rule)
        widest_radius, leaves, bag, buffer = brute_force_check(graph, found)
        assert buffer >= radius / found.minor_size * (1 - 1e-9)
        assert leaves <= found.minor_size - 2
        assert bag <= found.minor_size - 1
        assert widest_radius <= radius * (1 + 1e-9)
        checked = found.check()
        assert all(checked[name] for name in PROPERTIES)
        assert checked["largest_radius"] == pytest.approx(widest_radius)
        assert (checked["most_leaves"], checked["largest_bag"]) == (leaves, bag)
        assert checked["least_buffer"] == pytest.approx(buffer)


@pytest.mark.parametrize(
    ("graph", "r"),
    [
        (_generators.delaunay_graph(1500, 1), 5),
        (_generators.random_three_tree(1500, 1), 5),
        (_generators.apex_graph(1500, 1), 6),
        (_generators.random_tree(1500, 1), 3),
        (_generators.grid_graph(38, 38), 5),
        (_generators.road_map(1500, 1)[0], 5),
    ],
)
@pytest.mark.parametrize("share", [4, 16, 64])
def test_four_properties_on_larger_graphs(graph, r, share):
    roads, _ = check_lengths("graph", graph)
    radius = _dijkstra.longest_distance(roads, _dijkstra.new_search(roads.n), 4) / share
    for rule in ("first", "far"):
        checked = buffered_cop_decomposition(graph, radius, minor_size=r, root_rule=rule).check()
        assert all(checked[name] for name in PROPERTIES)


def test_supernodes_do_grow():
    # Of what has no buffer at all, nothing above would tell.
    found = buffered_cop_decomposition(_generators.delaunay_graph(800, 0), 0.3, minor_size=5)
    in_skeletons = sum(map(len, found.skeletons_))
    assert in_skeletons < 0.9 * 800
    assert found.radius_.max() > 0.05


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (lambda d: replace(d, radius=d.radius / 100), "radius"),
        (lambda d: replace(d, radius=d.radius * 100), "buffer"),
        (lambda d: replace(d, minor_size=d.minor_size - 2), "width"),
        (lambda d: replace(d, minor_size=d.minor_size - 2), "skeleton"),
        (lambda d: replace(d, bags_=[each[-1:] for each in d.bags_]), "width"),
        (lambda d: replace(d, supernode_=np.where(d.supernode_ == 3, 2, d.supernode_)), "radius"),
        (lambda d: replace(d, skeletons_=crooked(d)), "skeleton"),
        (lambda d: replace(d, parent_=np.full_like(d.parent_, -1)), "width"),
    ],
)
def test_the_check_finds_faults(change, broken):
    found = buffered_cop_decomposition(_generators.delaunay_graph(300, 0), 0.25)
    assert all(found.check()[name] for name in PROPERTIES)
    assert not change(found).check()[broken]


def crooked(found):
    """Skeletons of which one vertex hangs on the wrong predecessor."""
    skeletons = [each.copy() for each in found.skeletons_]
    longest = max(skeletons, key=len)
    longest[2, 1] = longest[3, 0]
    return skeletons


def test_r_is_found_from_the_bags():
    assert buffered_cop_decomposition(_generators.random_tree(200, 0), 1.0).minor_size == 3
    assert buffered_cop_decomposition(_generators.delaunay_graph(500, 0), 0.2).minor_size == 5
    assert buffered_cop_decomposition(_generators.apex_graph(500, 0), 0.2).minor_size == 6


def test_deep_trees_of_supernodes_need_no_recursion():
    found = buffered_cop_decomposition(networkx.path_graph(5000), 0.5)
    assert len(found.parent_) == 5000
    np.testing.assert_array_equal(found.parent_, np.arange(5000) - 1)
    shallow = buffered_cop_decomposition(networkx.path_graph(5000), 0.5, root_rule="far")
    assert len(shallow.parent_) == 2


def test_dense_graphs_get_a_warning():
    for fit in (
        lambda: buffered_cop_decomposition(networkx.complete_graph(20), 0.5),
        lambda: shortcut_partition(networkx.complete_graph(20), 0.5),
        lambda: TreeCover(1.0).fit(networkx.complete_graph(20)),
        lambda: DistanceOracle(1.0).fit(networkx.complete_graph(20)),
        lambda: steiner_point_removal(networkx.complete_graph(30), [0, 1]),
    ):
        with pytest.warns(UserWarning, match="large complete minors"):
            fit()


def test_search_of_a_range_of_levels_is_dijkstra_on_the_induced_graph():
    graph = _generators.delaunay_graph(300, 3)
    roads, _ = check_lengths("graph", graph)
    search, rng = _dijkstra.new_search(300), np.random.default_rng(0)
    for _ in range(20):
        level = rng.integers(0, 4, 300).astype(np.int32)
        low, high = sorted(rng.integers(0, 4, 2))
        inside = np.flatnonzero((level >= low) & (level <= high))
        source, limit = rng.choice(inside), rng.uniform(0.1, 0.6)
        truth = np.full(300, np.inf)
        truth[inside] = dijkstra(graph[inside][:, inside], indices=np.searchsorted(inside, source), limit=limit)
        _dijkstra.reach(search, source, 0.0, -1)
        count = _dijkstra.explore(roads, level, low, high, limit, search)
        np.testing.assert_allclose(search.distance, truth, rtol=1e-12)
        settled = search.distance[search.visited[:count]]
        assert (np.diff(settled) >= 0).all()
        _dijkstra.forget(search, count)
        assert np.isinf(search.distance).all()
        assert (search.place == -1).all()


@pytest.mark.parametrize("family", ["tree", "series-parallel", "planar", "3-tree", "4-tree"])
@pytest.mark.parametrize("epsilon", [0.3, 0.8])
def test_clusters_are_connected_small_and_crossed_in_few_hops(family, epsilon):
    n = 30
    for seed, lengths in enumerate(LENGTHS):
        graph = side_by_side(family, lengths, 20, seed, n)
        found = shortcut_partition(graph, epsilon, minor_size=FAMILIES[family][0])
        D = distances_in_blocks(graph, n)
        longest = D[np.isfinite(D)].max()
        assert longest / 2 <= found.diameter <= longest * (1 + 1e-12)
        diameters = found.strong_diameters()
        for x in range(len(found.centers_)):
            members = np.flatnonzero(found.labels_ == x)
            assert found.centers_[x] in members
            inside = induced_distances(graph.indptr, graph.indices, graph.data, members)
            assert diameters[x] == pytest.approx(inside.max())
        assert diameters.max() <= epsilon * longest * (1 + 1e-9)
        coo = graph.tocoo()
        a, b = found.labels_[coo.coords[0]], found.labels_[coo.coords[1]]
        assert {(i, j) for i, j in zip(a.tolist(), b.tolist(), strict=True) if i != j} == set(
            zip(*(each.tolist() for each in found.cluster_graph_.nonzero()), strict=True)
        )


def test_hops_are_least_among_clusters_on_a_shortest_path():
    graph = _generators.delaunay_graph(250, 5)  # shortest paths are unique
    found = shortcut_partition(graph, 0.15)
    rng = np.random.default_rng(0)
    u, v = rng.integers(250, size=(2, 60))
    network = networkx.from_scipy_sparse_array(graph)
    clusters = networkx.from_scipy_sparse_array(found.cluster_graph_)
    for a, b, hops in zip(u.tolist(), v.tolist(), found.hop_distance(u, v), strict=True):
        touched = {int(found.labels_[w]) for w in networkx.dijkstra_path(network, a, b)}
        truth = networkx.shortest_path_length(clusters.subgraph(touched), found.labels_[a], found.labels_[b])
        assert hops == truth
    assert found.hop_distance(3, [[3, 4], [5, 6]]).shape == (2, 2)
    assert found.hop_distance(3, 3) == 0
    apart = shortcut_partition(([[0, 1], [2, 3]], 4), 0.5)
    np.testing.assert_array_equal(apart.hop_distance([0, 0], [0, 2]), [0, -1])


@pytest.mark.parametrize("kind", [TreeCover, DistanceOracle])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:the graph has large complete minors")
def test_all_pairs_of_thousands_of_graphs_within_epsilon(kind, family):
    n, count = 11, 90
    u, v = pairs_in_blocks(count, n)
    for seed, (lengths, epsilon) in enumerate([("ones", 0.2), ("integers", 2.0), ("uniform", 0.5), ("wide", 5.0)]):
        graph = side_by_side(family, lengths, count, seed, n)
        truth = distances_in_blocks(graph, n).ravel()
        fitted = kind(epsilon, progress=False).fit(graph)
        found = fitted.distance(u, v) if kind is TreeCover else fitted.query(u, v)
        np.testing.assert_array_equal(np.isinf(found), np.isinf(truth))
        near = np.isfinite(truth)
        assert (found[near] >= truth[near] * (1 - 1e-12)).all()
        assert (found[near] <= truth[near] * (1 + epsilon)).all()
        assert (found[u == v] == 0).all()


@pytest.mark.parametrize("kind", [TreeCover, DistanceOracle])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0])
@pytest.mark.parametrize(
    "graph",
    [
        _generators.delaunay_graph(300, 2),
        _generators.random_tree(300, 2),
        _generators.grid_graph(17, 17),
        _generators.road_map(300, 2)[0],
    ],
)
def test_all_pairs_of_larger_graphs_within_epsilon(kind, epsilon, graph):
    n = graph.shape[0]
    truth = dijkstra(graph)
    fitted = kind(epsilon, progress=False).fit(graph)
    ask = fitted.distance if kind is TreeCover else fitted.query
    found = ask(np.arange(n)[:, None], np.arange(n))
    assert (found >= truth * (1 - 1e-12)).all()
    assert (found <= truth * (1 + epsilon)).all()
    # Close to the bound nothing is: a construction that wastes its slack would be.
    assert found[truth > 0].mean() <= truth[truth > 0].mean() * (1 + epsilon / 4)


def test_a_pair_as_far_apart_as_a_scale_is_found():
    # Two ends at distance exactly D, and cluster centres beyond them: a limit of D alone would lose them.
    graph = networkx.path_graph(65)
    for epsilon in (0.05, 0.7, 3.0):
        cover = TreeCover(epsilon, progress=False).fit(graph)
        for hops in (1, 2, 4, 8, 16, 32, 64):
            u = np.arange(65 - hops)
            assert (cover.distance(u, u + hops) <= (1 + epsilon) * hops).all()


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 4.0])
@pytest.mark.parametrize(
    "graph", [_generators.delaunay_graph(250, 3), _generators.grid_graph(16, 16), _generators.random_tree(250, 3)]
)
def test_every_scale_joins_all_pairs_within_it_closely(epsilon, graph):
    # That larger scales would join them too must not hide that one does not.
    truth, n = dijkstra(graph), graph.shape[0]
    cover = TreeCover(epsilon, progress=False).fit(graph)
    for D, scale in zip(cover.scales_, cover._scales, strict=True):
        to_center = np.full((n, len(scale.center)), np.inf)
        to_center[np.repeat(np.arange(n), np.diff(scale.indptr)), scale.cluster] = scale.distance
        u, v = np.nonzero(np.triu(truth <= D, 1))
        over = (to_center[u] + to_center[v]).min(axis=1)
        assert (over <= truth[u, v] + epsilon * D / 2).all()
    oracle = DistanceOracle(epsilon, progress=False).fit(graph)
    for i, D in enumerate(oracle.scales_):
        u, v = np.nonzero(np.triu(truth <= D, 1))
        assert all(_joined(oracle.tables_, i, a, b) for a, b in zip(u, v, strict=True))


def test_forests_are_forests_and_never_shorten():
    graph = _generators.delaunay_graph(120, 4)
    truth = dijkstra(graph)
    cover = TreeCover(0.6, progress=False).fit(graph)
    forests = cover.forests_
    assert [len(each) for each in forests] == cover.n_trees_per_scale_.tolist()
    best = np.full(truth.shape, np.inf)
    for forest in (each for scale in forests for each in scale):
        assert forest.shape == graph.shape
        assert abs(forest - forest.T).nnz == 0
        assert forest.nnz // 2 == 120 - connected_components(forest)[0]
        along = dijkstra(forest)
        assert (along >= truth * (1 - 1e-12)).all()
        best = np.minimum(best, along)
    np.testing.assert_allclose(cover.distance(np.arange(120)[:, None], np.arange(120)), best)


def test_colours_of_more_than_one_word_stay_disjoint():
    cover = TreeCover(0.1, progress=False).fit(_generators.delaunay_graph(500, 0))
    assert cover.n_trees_per_scale_.max() > 64
    for scale in cover._scales:
        vertex = np.repeat(np.arange(500), np.diff(scale.indptr))
        keys = vertex * 10_000 + scale.color[scale.cluster]
        assert len(np.unique(keys)) == len(keys)


def test_tables_stay_linear_where_lengths_are_spread_widely():
    # Clusters within clusters: 2^7 vertices, each level 1,000 times as far apart. At epsilon 1 a point is active for
    # log2(2.5 * 32), or 7, scales before it is dropped, and half of the points remain: 14 a vertex, not one a scale.
    edges, lengths = [], []
    for level in range(7):
        for first in range(0, 128, 2 ** (level + 1)):
            edges.append((first, first + 2**level))
            lengths.append(1000.0**level)
    oracle = DistanceOracle(1.0, progress=False).fit(symmetric(np.array(edges), np.array(lengths), 128))
    assert len(oracle.scales_) > 60
    assert oracle.n_active_.sum() < 14 * 128
    assert oracle.nbytes_ < 700 * 128


def test_tables_and_lists_hold_what_they_say():
    oracle = DistanceOracle(0.5, progress=False).fit(_generators.delaunay_graph(400, 0))
    tables = oracle.tables_
    assert oracle.nbytes_ == sum(each.nbytes for each in tables)
    assert oracle.n_entries_ == len(tables.cluster) == tables.list_size.sum()
    assert (np.diff(tables.list_indptr) >= 0).all()
    for start, size in zip(tables.list_start, tables.list_size, strict=True):
        assert (np.diff(tables.cluster[start : start + size]) > 0).all()


def test_lists_stay_short():
    # Twice these lengths would mean that limits or the order of clusters are looser than they need be.
    oracle = DistanceOracle(1.0, progress=False).fit(_generators.delaunay_graph(2000, 0))
    assert oracle.n_entries_ / 2000 < 150
    tree = DistanceOracle(0.5, progress=False).fit(_generators.random_tree(2000, 0))
    assert tree.n_entries_ / 2000 < 80


def test_nets_are_separated_cover_and_know_their_neighbours():
    graph = _generators.delaunay_graph(300, 1)
    truth, (roads, _) = dijkstra(graph), check_lengths("graph", graph)
    search = _dijkstra.new_search(300)
    net = np.zeros(300, dtype=bool)
    net[::3] = True
    kept, owner, distance = _nets._thinned(roads, net, 0.11, search)
    points = np.flatnonzero(kept)
    assert set(points) <= set(np.flatnonzero(net))
    between = truth[np.ix_(points, points)] + np.diag(np.full(len(points), np.inf))
    assert between.min() > 0.11
    gone = np.flatnonzero(net & ~kept)
    assert len(gone)
    np.testing.assert_allclose(distance[gone], truth[np.ix_(points, gone)].min(axis=0))
    np.testing.assert_allclose(truth[owner[gone], gone], distance[gone])
    assert distance[gone].max() <= 0.11
    nearest = _nets._nearest_other(roads, kept, search)
    np.testing.assert_allclose(nearest[points], between.min(axis=0))
    assert np.isinf(search.distance).all()


def test_offsets_of_nested_nets_stay_within_their_share():
    graph = _generators.delaunay_graph(3000, 0)
    roads, _ = check_lengths("graph", graph)
    search = _dijkstra.new_search(3000)
    scales = _covering.scales(roads, search)
    ancestry, levels = _nets.nested_nets(roads, scales, 2.0, search)
    dropped = [np.count_nonzero(ancestry.dropped == level.number) for level in levels]
    assert sum(size > 0 for size in dropped) >= 3
    for level in levels:
        assert level.offset <= 2.0 * level.scale / 16.0
        assert 4.0 * level.spacing + 4.0 * level.offset <= 2.0 * level.scale / 2.0 * (1 + 1e-12)
        assert level.path_limit >= level.scale + 2.0 * level.offset
    rng = np.random.default_rng(0)
    for v in rng.integers(3000, size=30):
        point, way = int(v), 0.0
        while ancestry.dropped[point] < len(scales):
            way += ancestry.offset[point]
            point = ancestry.parent[point]
        assert way >= dijkstra(graph, indices=v)[point] * (1 - 1e-12)


def test_stored_distances_are_rounded_up():
    values = np.random.default_rng(0).uniform(0.0, 1e6, 500) ** 3
    for value in [0.0, 1.0, 0.1, *values.tolist()]:
        up = _covering.rounded_up(value)
        assert value <= float(up) <= value * (1 + _covering.ROUNDED_UP)


def contraction(graph, assignment, k):
    coo = graph.tocoo()
    a, b = assignment[coo.coords[0]], assignment[coo.coords[1]]
    pairs = np.unique(np.column_stack([a, b])[a != b], axis=0)
    return {tuple(pair) for pair in pairs.tolist()}


def check_minor(graph, terminals, minor, assignment, distortion, truth):
    k = len(terminals)
    np.testing.assert_array_equal(assignment[terminals], np.arange(k))
    # Parts are connected: as many components as parts once edges between parts are gone.
    coo = graph.tocoo()
    same = assignment[coo.coords[0]] == assignment[coo.coords[1]]
    inner = sp.coo_array((coo.data[same], (coo.coords[0][same], coo.coords[1][same])), shape=graph.shape).tocsr()
    served = assignment >= 0
    component = connected_components(inner)[1]
    assert len(np.unique(component[served])) == k
    whole = connected_components(graph)[1]
    np.testing.assert_array_equal(served, np.isin(whole, whole[terminals]))
    rows, columns = (each.tolist() for each in minor.nonzero())
    assert set(zip(rows, columns, strict=True)) == contraction(graph, assignment, k)
    between = truth[np.ix_(terminals, terminals)]
    np.testing.assert_allclose(minor.data, between[rows, columns], rtol=1e-12)
    apart = np.isfinite(between) & (between > 0)
    ratios = (dijkstra(minor) / np.where(apart, between, 1.0))[apart]
    assert distortion == pytest.approx(max(1.0, ratios.max(initial=1.0)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("zeta", [1.5, 3.0])
@pytest.mark.filterwarnings("ignore:the graph has large complete minors")
def test_minors_of_thousands_of_graphs(family, zeta):
    n, count = 12, 100
    for seed, lengths in enumerate(LENGTHS):
        graph = side_by_side(family, lengths, count, seed, n)
        rng = np.random.default_rng(seed)
        # Every tenth graph has no terminal at all.
        terminals = np.concatenate([n * i + rng.choice(n, 1 + i % 5, replace=False) for i in range(count) if i % 10])
        blocks = distances_in_blocks(graph, n)
        truth = np.full(graph.shape, np.inf)
        for i, block in enumerate(blocks):
            truth[n * i : n * (i + 1), n * i : n * (i + 1)] = block
        minor, assignment, distortion = steiner_point_removal(graph, terminals, zeta=zeta)
        check_minor(graph, terminals, minor, assignment, distortion, truth)
        assert distortion <= 12


@pytest.mark.parametrize(
    "graph", [_generators.delaunay_graph(600, 0), _generators.grid_graph(25, 25), _generators.random_tree(600, 0)]
)
def test_minors_of_larger_graphs(graph):
    truth = dijkstra(graph)
    for k in (2, 8, 64):
        terminals = np.random.default_rng(k).choice(graph.shape[0], k, replace=False)
        result = steiner_point_removal(graph, terminals)
        check_minor(graph, terminals, *result, truth)
        assert result[2] <= 3


def test_a_comb_keeps_its_distances_where_nearest_terminals_would_not():
    for k in (10, 30, 100):
        graph, tips = _generators.comb_graph(k)
        assert steiner_point_removal(graph, tips)[2] <= 2.2
    star, ends = _generators.star_of_paths(20, 5)
    assert steiner_point_removal(star, ends)[2] == pytest.approx(2.0)


def test_all_vertices_as_terminals_leave_the_graph():
    graph = _generators.delaunay_graph(50, 0)
    minor, assignment, distortion = steiner_point_removal(graph, np.arange(50))
    np.testing.assert_array_equal(assignment, np.arange(50))
    assert distortion == pytest.approx(1.0)
    assert minor.nnz == graph.nnz


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(FAMILIES)), st.integers(-40, 40))
@pytest.mark.filterwarnings("ignore:the graph has large complete minors")
def test_a_power_of_two_scales_everything_exactly(seed, family, power):
    graph = side_by_side(family, "uniform", 2, seed, 13)
    larger = graph * 2.0**power
    u, v = np.arange(26)[:, None], np.arange(26)
    for kind, ask in ((TreeCover, "distance"), (DistanceOracle, "query")):
        one, other = kind(0.7, progress=False).fit(graph), kind(0.7, progress=False).fit(larger)
        np.testing.assert_array_equal(getattr(one, ask)(u, v) * 2.0**power, getattr(other, ask)(u, v))
    one = buffered_cop_decomposition(graph, 0.7, minor_size=4)
    other = buffered_cop_decomposition(larger, 0.7 * 2.0**power, minor_size=4)
    np.testing.assert_array_equal(one.supernode_, other.supernode_)


def test_results_do_not_depend_on_threads_or_calls(tmp_path):
    graph = _generators.delaunay_graph(500, 0)
    one = DistanceOracle(0.5, progress=False).fit(graph)
    two = DistanceOracle(0.5, n_jobs=2, progress=False).fit(graph)
    for a, b in zip(one.tables_, two.tables_, strict=True):
        np.testing.assert_array_equal(a, b)
    one.save(tmp_path / "oracle")
    back = DistanceOracle.load(tmp_path / "oracle")
    u, v = np.random.default_rng(0).integers(500, size=(2, 200))
    np.testing.assert_array_equal(back.query(u, v), one.query(u, v))
    assert (back.epsilon, back.nbytes_, back.n_features_in_) == (0.5, one.nbytes_, 500)
    covers = [TreeCover(0.5, n_jobs=jobs, progress=False).fit(graph) for jobs in (1, 2)]
    np.testing.assert_array_equal(covers[0].n_trees_per_scale_, covers[1].n_trees_per_scale_)
    np.testing.assert_array_equal(covers[0].distance(u, v), covers[1].distance(u, v))


def test_verbose_prints_a_line_a_scale(capsys):
    graph = networkx.path_graph(9)
    TreeCover(1.0, verbose=True, progress=False).fit(graph)
    DistanceOracle(1.0, verbose=True, progress=False).fit(graph)
    assert capsys.readouterr().out.count("scale") == 8


def test_networkx_graphs_keep_names_and_the_shortest_parallel_edge():
    graph = networkx.MultiGraph()
    graph.add_edge("a", "b", metres=5.0)
    graph.add_edge("b", "a", metres=2.0)
    graph.add_edge("b", "b", metres=1.0)
    graph.add_edge("b", "c")
    oracle = DistanceOracle(0.1, length="metres", progress=False).fit(graph)
    assert oracle.nodes_ == ["a", "b", "c"]
    np.testing.assert_allclose(oracle.query(0, [1, 2]), [2.0, 3.0], rtol=1e-6)
    cover = TreeCover(0.1, length="metres", progress=False).fit(graph)
    np.testing.assert_allclose(cover.distance(0, [1, 2]), [2.0, 3.0], rtol=1e-6)
    twice = sp.coo_array(([3.0, 1.0, 3.0, 1.0], ([0, 0, 1, 1], [1, 1, 0, 0])), shape=(2, 2))
    assert DistanceOracle(0.1, progress=False).fit(twice).query(0, 1) == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float64])
def test_dtypes_and_dense_matrices(dtype):
    graph = _generators.grid_graph(5, 5)
    dense = graph.toarray().astype(dtype)
    for given_graph in (dense, sp.csr_matrix(dense), networkx.from_numpy_array(dense)):
        oracle = DistanceOracle(0.3, progress=False).fit(given_graph)
        answers = oracle.query(0, np.arange(25))
        assert answers.dtype == np.float64
        assert (answers <= 1.3 * dijkstra(graph, indices=0)).all()


def test_single_vertices_and_graphs_without_edges():
    for graph in (np.zeros((1, 1)), np.zeros((3, 3)), sp.csr_array((3, 3))):
        n = graph.shape[0]
        oracle, cover = DistanceOracle(0.5).fit(graph), TreeCover(0.5).fit(graph)
        truth = np.where(np.eye(n, dtype=bool), 0.0, np.inf)
        np.testing.assert_array_equal(oracle.query(np.arange(n)[:, None], np.arange(n)), truth)
        np.testing.assert_array_equal(cover.distance(np.arange(n)[:, None], np.arange(n)), truth)
        assert cover.forests_ == []
        assert len(buffered_cop_decomposition(graph, 1.0).parent_) == n
        assert len(shortcut_partition(graph, 0.5).centers_) == n
    minor, assignment, distortion = steiner_point_removal(np.zeros((3, 3)), [0, 2])
    assert (minor.nnz, assignment.tolist(), distortion) == (0, [0, -1, 1], 1.0)


GRAPH = _generators.grid_graph(3, 3)
BROKEN = {
    "directed": (sp.csr_array(np.triu(GRAPH.toarray())), "graph must be symmetric"),
    "digraph": (networkx.path_graph(3, create_using=networkx.DiGraph), "graph must be undirected"),
    "zero": (sp.csr_array(([0.0, 0.0], ([0, 1], [1, 0])), shape=(2, 2)), "graph must have positive weights"),
    "negative": (-GRAPH, "graph has 24 negative weights"),
    "nan": (np.array([[0.0, np.nan], [np.nan, 0.0]]), "graph contains NaN"),
    "infinite": (np.array([[0.0, np.inf], [np.inf, 0.0]]), "graph contains NaN or infinity"),
    "empty": (np.zeros((0, 0)), r"graph|minimum of 1"),
    "no nodes": (networkx.Graph(), "graph is empty"),
    "not square": (np.ones((2, 3)), "graph must be a square"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_graphs_are_refused(name):
    graph, message = BROKEN[name]
    for use in (
        lambda: buffered_cop_decomposition(graph, 1.0),
        lambda: shortcut_partition(graph, 0.5),
        lambda: TreeCover(0.5).fit(graph),
        lambda: DistanceOracle(0.5).fit(graph),
        lambda: steiner_point_removal(graph, [0, 1]),
    ):
        with pytest.raises(ValueError, match=message):
            use()


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: buffered_cop_decomposition(GRAPH, 0.0), ValueError, "radius must be .* greater than 0"),
        (lambda: buffered_cop_decomposition(GRAPH, "1"), TypeError, "radius must be a number"),
        (lambda: buffered_cop_decomposition(GRAPH, 1.0, minor_size=2), ValueError, "minor_size must be at least 3"),
        (lambda: buffered_cop_decomposition(GRAPH, 1.0, root_rule="last"), ValueError, "root_rule must be one of"),
        (lambda: buffered_cop_decomposition("roads", 1.0), TypeError, "graph must"),
        (lambda: shortcut_partition(GRAPH, -0.5), ValueError, "epsilon must be"),
        (lambda: shortcut_partition(GRAPH, 0.5).hop_distance(0, 9), ValueError, r"v must be in 0\.\.8, got 9\.\.9"),
        (lambda: TreeCover(0.0).fit(GRAPH), ValueError, "epsilon must be a finite number at least 0.0001"),
        (lambda: TreeCover(0.5, n_jobs=0).fit(GRAPH), ValueError, "n_jobs must be at least 1"),
        (lambda: TreeCover(0.5, length=3).fit(GRAPH), TypeError, "length must be the name"),
        (lambda: TreeCover(0.5).fit(GRAPH).distance(-1, 0), ValueError, r"u must be in 0\.\.8"),
        (lambda: TreeCover(0.5).distance(0, 0), ValueError, "not fitted"),
        (lambda: TreeCover(0.5).forests_, AttributeError, "not fitted"),
        (lambda: DistanceOracle(np.nan).fit(GRAPH), ValueError, "epsilon must be"),
        (lambda: DistanceOracle(0.5).fit(GRAPH).query([0.5], 0), TypeError, "u must hold integers"),
        (lambda: DistanceOracle(0.5).fit(GRAPH).query([0, 1], [0, 1, 2]), ValueError, r"shapes do not match: u of"),
        (lambda: DistanceOracle(0.5).query(0, 0), ValueError, "not fitted"),
        (lambda: DistanceOracle(0.5).nbytes_, AttributeError, "not fitted"),
        (lambda: DistanceOracle.load(__file__), ValueError, "holds no distance oracle"),
        (lambda: steiner_point_removal(GRAPH, [0]), ValueError, "terminals must be at least two"),
        (lambda: steiner_point_removal(GRAPH, [0, 4, 0]), ValueError, "terminals must differ, got 0 2 times"),
        (lambda: steiner_point_removal(GRAPH, [0, 9]), ValueError, r"terminals must be in 0\.\.8"),
        (lambda: steiner_point_removal(GRAPH, [0.0, 1.0]), TypeError, "terminals must hold integers"),
        (lambda: steiner_point_removal(GRAPH, [0, 1], zeta=1.0), ValueError, "zeta must be"),
    ],
)
def test_bad_arguments_are_refused_by_name(use, error, message):
    with pytest.raises(error, match=message):
        use()


def test_lengths_that_are_no_numbers_are_refused():
    graph = networkx.Graph([("a", "b", {"weight": "far"})])
    with pytest.raises(TypeError, match=r"graph must have real numbers as lengths, got 'far' between 'a', 'b'"):
        DistanceOracle(0.5).fit(graph)


def test_saved_files_of_others_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", format="something else")
    with pytest.raises(ValueError, match="holds no distance oracle"):
        DistanceOracle.load(tmp_path / "other.npz")


def read_rows(path):
    return [line.split(",") for line in path.read_text().split()]


def write_roads(tmp_path):
    """One grid of 4 x 4 in every format that the command reads."""
    graph = _generators.grid_graph(4, 4, 0)
    half = sp.triu(graph).tocoo()
    edges = list(zip(half.row.tolist(), half.col.tolist(), half.data.tolist(), strict=True))
    (tmp_path / "roads.csv").write_text("source,target,length\n" + "".join(f"{a},{b},{d}\n" for a, b, d in edges))
    arcs = "".join(f"a {a + 1} {b + 1} {d}\na {b + 1} {a + 1} {d}\n" for a, b, d in edges)
    (tmp_path / "roads.gr").write_text(f"c a comment\np sp 16 {2 * len(edges)}\n{arcs}")
    (tmp_path / "roads.co").write_text("".join(f"v {v + 1} {v % 4} {v // 4}\n" for v in range(16)))
    network = networkx.from_scipy_sparse_array(graph)
    networkx.write_graphml(network, tmp_path / "roads.graphml")
    sp.save_npz(tmp_path / "roads.npz", sp.csr_matrix(graph))
    np.save(tmp_path / "roads.npy", graph.toarray())
    return graph


@pytest.mark.parametrize(
    "names", [["roads.csv"], ["roads.gr", "roads.co"], ["roads.graphml"], ["roads.npz"], ["roads.npy"]]
)
def test_the_command_reads_every_format_and_answers(tmp_path, names):
    graph = write_roads(tmp_path)
    base = 1 if names[0].endswith(".gr") else 0
    (tmp_path / "pairs.csv").write_text(f"source,target\n{base},{base + 15}\n{base + 3},{base + 3}\n")
    (tmp_path / "terminals.txt").write_text("".join(f"{v + base}\n" for v in (0, 3, 12, 15)))
    out = tmp_path / "out"
    out.mkdir()
    files = [tmp_path / name for name in names]
    summary = run(*files, out=out, epsilon=0.3, pairs=tmp_path / "pairs.csv", terminals=tmp_path / "terminals.txt")
    json.dumps(summary)
    assert names[0] in summary["input"]
    truth = dijkstra(graph)
    rows = read_rows(out / "distances.csv")[1:]
    assert truth[0, 15] * (1 - 1e-12) <= float(rows[0][2]) <= 1.3 * truth[0, 15]
    assert float(rows[1][2]) == 0.0
    assert len(read_rows(out / "clusters.csv")) == len(read_rows(out / "parts.csv")) == 17
    for a, b, length in read_rows(out / "minor.csv")[1:]:
        assert float(length) == pytest.approx(truth[int(a) - base, int(b) - base])
    assert (out / "picture.png").stat().st_size > 5000
    oracle = DistanceOracle.load(out / "oracle.npz")
    assert oracle.query(0, 15) == float(rows[0][2])


def test_the_command_compares_random_pairs_with_exact_distances(tmp_path):
    write_roads(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    summary = run(tmp_path / "roads.csv", out=out, epsilon=0.5)
    rows = read_rows(out / "distances.csv")
    assert rows[0] == ["source", "target", "distance", "exact"]
    assert all(float(exact) * (1 - 1e-12) <= float(d) <= 1.5 * float(exact) for _, _, d, exact in rows[1:])
    assert 1 <= summary["mean_stretch"] <= summary["largest_stretch"] <= 1.5
    (tmp_path / "bare").mkdir()
    assert "oracle_bytes" not in run(tmp_path / "roads.csv", out=tmp_path / "bare", oracle=False)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.gr", "p sp 2 1\na 1 2 3\n", "must be symmetric"),
        ("b.gr", "p sp 2 1\na 1 5 3\n", r"nodes must be in 1\.\.2"),
        ("c.gr", "p sp 2 1\na 1 2 far\n", "is no number: 'far'"),
        ("d.gr", "p sp 2 1\n", "has no edges"),
        ("e.csv", "a,b,-1\n", "negative weights"),
        ("f.csv", "a,b,0\n", "positive weights"),
        ("g.csv", "a\n", "lines must be source,target"),
        ("h.csv", "", "is empty"),
        ("i.csv", "a,b,x\n", "the length of a,b is no number"),
        ("j.pdf", "a,b\n", "unreadable format '.pdf'"),
        ("k.graphml", "no graph", "can't be read as .graphml"),
        ("l.npz", "no archive", "can't be read as a sparse .npz"),
    ],
)
def test_the_command_refuses_broken_files_in_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        run(tmp_path / name, out=tmp_path)


def test_the_command_refuses_unknown_nodes_and_missing_files(tmp_path):
    (tmp_path / "roads.csv").write_text("a,b\nb,c\n")
    (tmp_path / "pairs.csv").write_text("a,z\n")
    (tmp_path / "three.csv").write_text("a,b,c\n")
    for use, message in (
        (lambda: run(tmp_path / "roads.csv", out=tmp_path, pairs=tmp_path / "pairs.csv"), "'z' is no node"),
        (
            lambda: run(tmp_path / "roads.csv", out=tmp_path, pairs=tmp_path / "three.csv"),
            "lines must be source,target",
        ),
        (lambda: run(tmp_path / "none.csv", out=tmp_path), "no such file"),
        (lambda: run(tmp_path / "roads.csv", tmp_path / "roads.csv", out=tmp_path), "one graph, got 2"),
    ):
        with pytest.raises(InputError, match=message):
            use()
    (tmp_path / "edges.gr").write_text("p tw 3 2\n1 2\n2 3\n")
    (tmp_path / "short.co").write_text("v 1 0 0\n")
    with pytest.raises(InputError, match="has no coordinates of node 2"):
        run(tmp_path / "edges.gr", tmp_path / "short.co", out=tmp_path)
