import json
import re
import warnings
from itertools import combinations, permutations
from math import log2, pi

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from paperworks.combinatorial import (
    PolygonalTreemap,
    RectangularTreemap,
    UltrametricEmbedding,
    aspect_ratio,
    cut_polygon,
    plot_treemap,
    polygonal_partition,
)
from paperworks.combinatorial.fat_partition import _cuts, _labels, ultrametric
from paperworks.combinatorial.fat_partition._binary import binarise
from paperworks.combinatorial.fat_partition._tree import read_tree
from paperworks.papers.fat_partition.run import run

CHILDREN = {
    "name": "",
    "children": [
        {"name": "a", "children": [{"name": "b", "value": 3}, {"name": "c$1$", "size": 1}]},
        {"name": "d", "value": 4},
    ],
}
SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def siblings(weights):
    return np.concatenate([[-1], np.zeros(len(weights), dtype=int)]), np.asarray(weights, dtype=float)


def random_tree(rng, n_nodes, deep=False):
    parents = np.array([-1] + [rng.integers(max(0, i - 4) if deep else 0, i) for i in range(1, n_nodes)])
    return parents, rng.pareto(0.7, np.setdiff1d(np.arange(n_nodes), parents).size) + 1e-6


def shoelace(polygon):
    x, y = np.asarray(polygon, dtype=float).T
    return 0.5 * (x @ np.roll(y, -1) - y @ np.roll(x, -1))


def random_convex(rng, k=12):
    points = rng.normal(size=(k, 2)) * [1.0, rng.uniform(0.05, 1)]
    return points[ConvexHull(points).vertices]


def clipped(polygon, normal, limit):
    """Sutherland and Hodgman: the part of a polygon where normal . x <= limit."""
    found = []
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        ha, hb = a @ normal - limit, b @ normal - limit
        if ha <= 0:
            found.append(a)
        if ha * hb < 0:
            found.append(a + (b - a) * ha / (ha - hb))
    return np.array(found).reshape(-1, 2)


def intersection_area(first, second):
    part = first
    for a, b in zip(second, np.roll(second, -1, axis=0), strict=True):
        normal = np.array([b[1] - a[1], a[0] - b[0]])
        part = clipped(part, normal, a @ normal) if len(part) else part
    return abs(shoelace(part)) if len(part) >= 3 else 0.0


# aspect ratios


def test_aspect_ratios_of_known_shapes():
    assert aspect_ratio(SQUARE) == pytest.approx(2)
    assert aspect_ratio(SQUARE * [5.0, 1.0]) == pytest.approx(26 / 5)
    assert aspect_ratio([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]]) == pytest.approx(4 / 3**0.5)
    angles = 2 * pi * np.arange(1000) / 1000
    assert aspect_ratio(np.column_stack([np.cos(angles), np.sin(angles)])) == pytest.approx(4 / pi, rel=1e-4)


def test_aspect_ratio_does_not_change_under_similarity_or_order():
    polygon = random_convex(np.random.default_rng(3))
    turn = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    expected = max(pdist(polygon)) ** 2 / shoelace(polygon)
    assert aspect_ratio(polygon) == pytest.approx(expected)
    assert aspect_ratio(1e-7 * polygon @ turn.T + 3.0) == pytest.approx(expected, rel=1e-6)
    assert aspect_ratio(polygon[::-1]) == pytest.approx(expected)
    assert aspect_ratio(polygon.astype(np.float32)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_calipers_find_the_diameter(seed):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * pi, 200))
    polygon = np.column_stack([np.cos(angles) * rng.uniform(0.01, 2), np.sin(angles), angles])
    assert _cuts.squared_diameter(polygon, 200) == pytest.approx(pdist(polygon[:, :2]).max() ** 2, rel=1e-12)


# cuts


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31), st.floats(-10, 10), st.floats(1e-9, 1 - 1e-9))
def test_cuts_have_the_exact_area_on_the_right_side(seed, direction, fraction):
    polygon = random_convex(np.random.default_rng(seed))
    first, second = cut_polygon(polygon, direction, fraction)
    whole = shoelace(polygon)
    assert shoelace(first) == pytest.approx(fraction * whole, rel=1e-6, abs=1e-14 * whole)
    assert shoelace(second) == pytest.approx((1 - fraction) * whole, rel=1e-6, abs=1e-14 * whole)
    left = np.array([-np.sin(direction), np.cos(direction)])
    assert (first @ left).max() == pytest.approx((second @ left).min(), abs=1e-9)
    # The same line cuts the same piece by clipping.
    assert shoelace(clipped(polygon, left, (first @ left).max())) == pytest.approx(shoelace(first), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("direction", [0.0, pi / 2, pi, -pi / 2, pi / 4])
def test_first_piece_lies_to_the_right(direction):
    first, second = cut_polygon(SQUARE, direction, 0.25)
    left = np.array([-np.sin(direction), np.cos(direction)])
    assert (first @ left).mean() < (second @ left).mean()
    assert shoelace(first) == pytest.approx(0.25)


def test_a_cut_through_a_corner_leaves_no_edge_without_length():
    first, second = cut_polygon(SQUARE, pi / 4, 0.5)
    assert len(first) == len(second) == 3
    first, second = cut_polygon(SQUARE, 0.0, 0.5)
    assert len(first) == len(second) == 4
    nearly = cut_polygon(SQUARE, pi / 4, 0.5 + 1e-15)
    assert [len(each) for each in nearly] == [3, 3]


def test_tiny_fractions_keep_their_digits():
    for fraction in (1e-18, 1e-12, 1e-6):
        piece = cut_polygon(SQUARE - 0.5, 0.3, fraction)[0]
        # About its own corner: coordinates are of order one.
        assert shoelace(piece - piece[0]) == pytest.approx(fraction, rel=1e-5)


@pytest.mark.parametrize(
    ("polygon", "error", "message"),
    [
        ([[0, 0], [1, 0], [0, 1]], TypeError, "polygon must hold floating-point"),
        ([[0.0, 0.0], [1.0, 0.0]], ValueError, "polygon must have at least 3 rows"),
        ([[0.0, 0.0, 0.0]] * 4, ValueError, "polygon must have at least 3 rows"),
        ([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], ValueError, "polygon must have an area"),
        ([[0.0, 0.0], [1.0, 0.0], [0.2, 0.2], [0.0, 1.0]], ValueError, "polygon must be convex"),
        ([[0.0, 0.0], [1.0, np.nan], [0.0, 1.0]], ValueError, "polygon contains NaN"),
        (np.empty((0, 2)), ValueError, "polygon is empty"),
    ],
)
def test_bad_polygons_are_refused(polygon, error, message):
    for call in (aspect_ratio, lambda polygon: cut_polygon(polygon, 0.0, 0.5)):
        with pytest.raises(error, match=message):
            call(polygon)


def test_a_star_that_winds_twice_is_refused():
    star = np.array([[np.cos(4 * pi * k / 5), np.sin(4 * pi * k / 5)] for k in range(5)])
    with pytest.raises(ValueError, match="winds round"):
        aspect_ratio(star)


@pytest.mark.parametrize(("direction", "fraction"), [(np.nan, 0.5), (0.0, 0.0), (0.0, 1.0), (0.0, np.nan), (0.0, -1)])
def test_bad_cuts_are_refused(direction, fraction):
    with pytest.raises(ValueError, match=r"direction|fraction"):
        cut_polygon(SQUARE, direction, fraction)


# polygonal partitions


@pytest.mark.parametrize("method", ["angular", "greedy"])
@pytest.mark.parametrize("seed", range(4))
def test_polygons_partition_their_parents(method, seed):
    rng = np.random.default_rng(seed)
    parents, weights = random_tree(rng, 60, deep=seed % 2 == 1)
    bounding = random_convex(rng) if seed > 1 else (3.0, 2.0)
    model = PolygonalTreemap(method, bounding=bounding).fit((parents, weights))
    tree, whole = model.tree_, model.areas_[0]
    np.testing.assert_allclose(model.areas_, whole * tree.weights / tree.weights[0], rtol=1e-9)
    assert model.areas_[tree.is_leaf].sum() == pytest.approx(whole, rel=1e-9)
    for node, polygon in enumerate(model.polygons_):
        assert shoelace(polygon) == pytest.approx(model.areas_[node], rel=1e-6)
        assert aspect_ratio(polygon) == pytest.approx(model.aspect_ratios_[node], rel=1e-5)
        children = np.flatnonzero(tree.parents == node)
        for child in children:
            assert intersection_area(model.polygons_[child], polygon) == pytest.approx(model.areas_[child], rel=1e-5)
        for one, other in combinations(children, 2):
            smaller = min(model.areas_[one], model.areas_[other])
            assert intersection_area(model.polygons_[one], model.polygons_[other]) < 1e-6 * smaller


@pytest.mark.parametrize(
    ("weights", "angular", "greedy"),
    [
        (np.ones(128), 4.0, 2.5),
        (2.0 ** -np.arange(30), 5.1, 3.4),
        (4.0 ** -np.arange(20), 4.5, 3.1),
        (np.random.default_rng(0).pareto(0.5, 128) + 1e-3, 8.0, 4.0),
    ],
)
def test_aspect_ratios_are_those_of_an_honest_implementation(weights, angular, greedy):
    assert PolygonalTreemap("angular").fit(siblings(weights)).aspect_ratios_.max() <= angular + 1e-9
    assert PolygonalTreemap("greedy", 8).fit(siblings(weights)).aspect_ratios_.max() <= greedy + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["angular", "greedy"]), st.floats(0.1, 3), st.booleans())
def test_aspect_ratio_is_bounded_whatever_the_weights(seed, method, tail, deep):
    rng = np.random.default_rng(seed)
    parents, weights = random_tree(rng, 120, deep)
    weights = np.maximum(weights ** (1 / tail), 1e-15 * (weights ** (1 / tail)).max())
    model = PolygonalTreemap(method).fit((parents, weights))
    n = model.tree_.is_leaf.sum()
    assert model.aspect_ratios_.max() <= 4 * (model.node_depth_.max() + log2(n)) + 8


@pytest.mark.parametrize("method", ["angular", "greedy"])
def test_edges_stay_apart(method):
    """No two edges meet at less than half the angle that the angular cut guarantees."""
    model = PolygonalTreemap(method).fit(siblings(np.random.default_rng(1).pareto(0.5, 300)))
    levels = binarise(model.tree_, 0.0).levels
    cells = binarise(model.tree_, 0.0).cell_of
    for node, polygon in enumerate(model.polygons_):
        if model.areas_[node] < 1e-9:
            continue
        edges = np.roll(polygon, -1, axis=0) - polygon
        angles = np.sort(np.arctan2(edges[:, 1], edges[:, 0]) % pi)
        gaps = np.diff(np.append(angles, angles[0] + pi))
        gaps = gaps[(gaps > 1e-6) & (gaps < pi - 1e-6)]
        assert len(polygon) <= 4 + levels[cells[node]]
        share = 2 if method == "angular" else 4
        assert gaps.min() >= pi / (share * (4 + levels[cells[node]])) - 1e-6


def test_angular_takes_the_middle_of_the_widest_gap():
    first = polygonal_partition({"a": 1, "b": 3})[1]
    # A quarter of the square is cut off diagonally: a triangle with legs of sqrt(1 / 2).
    assert len(first) == 3
    assert sorted(pdist(first)) == pytest.approx([0.5**0.5, 0.5**0.5, 1.0])


def test_greedy_takes_the_best_of_its_candidates():
    weights = np.array([0.3, 0.7])
    model = PolygonalTreemap("greedy", 16, (1.0, 1.0)).fit(siblings(weights))
    directions = np.arange(16) * pi / 16
    tries = [max(map(aspect_ratio, cut_polygon(SQUARE, angle, share))) for angle in directions for share in weights]
    assert model.aspect_ratios_[1:].max() == pytest.approx(min(tries))


def test_lifted_weights_keep_the_binary_depth_logarithmic():
    for weights in (2.0 ** -np.arange(60), np.r_[1.0, np.full(999, 1e-12)], 1.0 / np.arange(1, 1001) ** 3):
        binary = binarise(read_tree(siblings(weights)), 1e-20)
        assert binary.levels.max() <= 2 * log2(len(weights)) + 3
        np.testing.assert_allclose(binary.weights[binary.cell_of[1:]], weights, rtol=1e-15)


def test_groups_are_as_even_as_prefixes_can_be():
    binary = binarise(read_tree(siblings([5, 4, 3, 3, 3])), 0.0)
    assert sorted(binary.weights[binary.pieces[0]]) == [9, 9]
    binary = binarise(read_tree(siblings([6, 1, 1])), 0.0)
    assert sorted(binary.weights[binary.pieces[0]]) == [2, 6]


def test_children_without_siblings_do_not_cut():
    chain = {"a": {"b": {"c": {"d": 1, "e": 2}}}}
    model = PolygonalTreemap().fit(chain)
    np.testing.assert_array_equal(model.polygons_[0], model.polygons_[3])
    np.testing.assert_array_equal(model.polygons_[4], PolygonalTreemap().fit({"d": 1, "e": 2}).polygons_[1])
    assert model.node_depth_.tolist() == [0, 1, 2, 3, 4, 4]


def test_deep_trees_need_no_stack():
    deep = leaf = {}
    for _ in range(10_000):
        leaf["twig"], leaf["on"] = 1.0, {}
        leaf = leaf["on"]
    leaf["last"] = 1e4
    model = PolygonalTreemap().fit(deep)
    assert model.node_depth_.max() == 10_001
    assert np.isfinite(model.aspect_ratios_).all()
    assert RectangularTreemap().fit(deep).aspect_ratios_.max() <= 10 + 1e-9


def test_tiny_and_zero_weights_have_no_polygon():
    with pytest.warns(UserWarning, match="2 of 5 nodes weigh less"):
        model = PolygonalTreemap().fit({"a": 1, "b": {"c": 1e-21, "d": 0}})
    assert [len(polygon) > 0 for polygon in model.polygons_] == [True, True, False, False, False]
    assert np.isnan(model.aspect_ratios_[2:]).all()
    assert model.areas_.tolist() == [1, 1, 0, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PolygonalTreemap().fit({"a": 1, "b": 0, "c": 1e-19})


@pytest.mark.parametrize("k", [8, 16, 32])
def test_edges_along_the_cut_do_not_swallow_tiny_areas(k):
    # Directions that are tried are those of edges, up to rounding: the ends of an edge are no corner of its own.
    angles = 2 * pi * (np.arange(k) + 0.5) / k
    for tiny in (1e-16, 1e-18):
        bounding = np.column_stack([np.cos(angles), np.sin(angles)])
        model = PolygonalTreemap("greedy", bounding=bounding).fit({"all": 1, "nearly nothing": tiny})
        assert model.areas_[2] / model.areas_[0] == pytest.approx(tiny, rel=1e-5)
        assert model.aspect_ratios_[2] < 1.5 * k


def test_scale_of_weights_and_of_the_whole_do_not_matter():
    weights = np.random.default_rng(5).pareto(1, 50)
    model = PolygonalTreemap("greedy").fit(siblings(weights))
    other = PolygonalTreemap("greedy", bounding=(1e-3, 1e-3)).fit(siblings(1e9 * weights))
    np.testing.assert_allclose(other.aspect_ratios_, model.aspect_ratios_, rtol=1e-6)
    again = PolygonalTreemap("greedy").fit(siblings(weights))
    for one, two in zip(model.polygons_, again.polygons_, strict=True):
        np.testing.assert_array_equal(one, two)


# trees


def test_all_kinds_of_trees_are_one(tmp_path):
    networkx = pytest.importorskip("networkx")
    nested = {"a": {"b": 3, "c": 1}, "d": 4}
    graph = networkx.DiGraph([("", "a"), ("", "d"), ("a", "b"), ("a", "c")])
    networkx.set_node_attributes(graph, {"b": 3, "c": 1, "d": 4}, "weight")
    (tmp_path / "a").mkdir()
    for name, size in (("a/b", 3), ("a/c", 1), ("d", 4)):
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "loop").symlink_to(tmp_path)
    arrays = (np.array([-1, 0, 0, 1, 1]), np.array([4.0, 3.0, 1.0]))
    full = (np.array([1, 1, -1, 2, 2])[[2, 3, 4, 0, 1]] * 0 + [-1, 0, 0, 1, 1], np.array([8.0, 4.0, 4.0, 3.0, 1.0]))
    expected = PolygonalTreemap().fit(nested)
    assert expected.tree_.names == ["", "a", "b", "c", "d"]
    assert expected.tree_.path(3) == "a/c"
    for tree in (graph, arrays, full):
        model = PolygonalTreemap().fit(tree)
        assert model.tree_.weights.tolist() == [8, 4, 3, 1, 4]
        assert model.tree_.parents.tolist() == [-1, 0, 1, 1, 0]
        for one, two in zip(model.polygons_, expected.polygons_, strict=True):
            np.testing.assert_array_equal(one, two)
    folder = PolygonalTreemap().fit(tmp_path).tree_
    assert folder.names == [tmp_path.name, "a", "b", "c", "d", "loop"]
    assert folder.weights.tolist() == [8, 4, 3, 1, 4, 0]
    assert PolygonalTreemap().fit(str(tmp_path)).tree_.names == folder.names


def test_nodes_of_arrays_come_in_preorder():
    tree = read_tree((np.array([2, 0, -1, 2, 0]), np.array([1.0, 2.0, 4.0])))
    assert tree.names == [2, 0, 1, 4, 3]
    assert tree.weights.tolist() == [7, 5, 1, 4, 2] or tree.weights.tolist() == [7, 3, 1, 2, 4]


def test_linkages_count_leaves():
    merges = linkage(np.array([[0.0], [1.0], [5.0]]), "single")
    tree = read_tree(merges)
    assert tree.names[0] == 4
    assert tree.weights.tolist() == [3, 1, 2, 1, 1]


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({"a": 1, "b": {"c": -2}}, ValueError, "node 'b/c' must not be negative, got -2"),
        ({"a": 1, "b": {"c": float("nan")}}, ValueError, "'b/c' must be a number, got NaN"),
        ({"a": float("inf")}, ValueError, "'a' must be finite"),
        ({"a": 0, "b": 0}, ValueError, "positive, finite sum"),
        ({"a": 1e308, "b": 1e308}, ValueError, "positive, finite sum"),
        ({}, ValueError, "positive, finite sum, got 0"),
        ({"a": "1"}, TypeError, "node 'a' must be a number, got '1'"),
        ({"a": True}, TypeError, "node 'a' must be a number"),
        ([1, 2], TypeError, "tree must be a nested dict"),
        (3.0, TypeError, "tree must be a nested dict"),
        ((np.array([-1, 0, 0]), np.array([4.0, 1.0, 2.0])), ValueError, "'0' is 4, but its children weigh 3 together"),
        ((np.array([-1, 0, 0]), np.array([1.0, np.nan])), ValueError, "NaN, first for leaf 2"),
        ((np.array([-1, 0, 0]), np.ones(4)), ValueError, r"one entry a node \(3\) or one a leaf \(2\), got 4"),
        ((np.array([-1, -1]), np.ones(2)), ValueError, "one root"),
        ((np.array([1, 2, 1, -1]), np.ones(2)), ValueError, "cycle"),
        ((np.array([-1, 7]), np.ones(2)), ValueError, r"parents must be in -1..1, got 7"),
        ((np.array([-1.0, 0.0]), np.ones(2)), TypeError, "parents must hold integers"),
        ((np.array([], dtype=int), np.ones(0)), ValueError, "parents is empty"),
        ((1, 2, 3), TypeError, r"tuple must be \(parents, weights\)"),
        (np.ones((3, 3)), ValueError, "SciPy linkage"),
        ("no/such/folder", ValueError, "not there"),
    ],
)
@pytest.mark.parametrize("kind", [PolygonalTreemap, RectangularTreemap])
def test_bad_trees_are_refused(tree, error, message, kind):
    with pytest.raises(error, match=message):
        kind().fit(tree)


def test_bad_graphs_and_cycles_are_refused(tmp_path):
    networkx = pytest.importorskip("networkx")
    with pytest.raises(ValueError, match="must be directed"):
        PolygonalTreemap().fit(networkx.path_graph(3))
    with pytest.raises(ValueError, match="has 2 parents"):
        PolygonalTreemap().fit(networkx.DiGraph([(0, 2), (1, 2)]))
    with pytest.raises(ValueError, match="leaf '1' must be a number"):
        PolygonalTreemap().fit(networkx.DiGraph([(0, 1)]))
    loop = {"a": 1}
    loop["self"] = loop
    with pytest.raises(ValueError, match="cycle: node 'self'"):
        PolygonalTreemap().fit(loop)
    with pytest.raises(ValueError, match="no bytes"):
        PolygonalTreemap().fit(tmp_path)
    shared = {"x": 1}
    assert PolygonalTreemap().fit({"a": shared, "b": shared}).tree_.weights[0] == 2


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "best"}, ValueError, "method must be one of"),
        ({"n_candidates": 0}, ValueError, "n_candidates must be at least 1"),
        ({"n_candidates": 1.5}, TypeError, "n_candidates must be an integer"),
        ({"bounding": (1.0, 0.0)}, ValueError, "bounding must be"),
        ({"bounding": [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]}, ValueError, "bounding must have an area"),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        PolygonalTreemap(**settings).fit({"a": 1, "b": 2})


def test_the_estimators_are_scikit_learns():
    for model in (PolygonalTreemap("greedy"), RectangularTreemap(0.2), UltrametricEmbedding(3)):
        assert clone(model).get_params() == model.get_params()
    assert "greedy" in repr(PolygonalTreemap("greedy"))


# boxes


@pytest.mark.parametrize("slack", [0.05, 0.1, 1 / 3])
@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_boxes_keep_their_proportions_and_volumes(slack, d):
    rng = np.random.default_rng(d)
    for deep in (False, True):
        parents, weights = random_tree(rng, 150, deep)
        weights[0] = 1e4 * weights.sum()
        weights = np.maximum(weights, 1e-9 * weights[0])
        model = RectangularTreemap(slack, d).fit((parents, weights))
        assert model.aspect_ratios_.max() <= 1 / slack + 1e-9
        assert (model.area_ratio_ >= (1 - slack) ** model.node_depth_ * (1 - 1e-6)).all()
        assert (model.area_ratio_ <= 1 + 1e-6).all()
        assert model.area_ratio_.min() < 1 or d == 1
        low, high = model.boxes_[:, 0], model.boxes_[:, 1]
        for node in range(1, len(parents)):
            parent = model.tree_.parents[node]
            assert (low[node] >= low[parent] - 1e-12).all()
            assert (high[node] <= high[parent] + 1e-12).all()
        for node in range(len(parents)):
            for one, other in combinations(np.flatnonzero(model.tree_.parents == node), 2):
                assert (np.minimum(high[one], high[other]) - np.maximum(low[one], low[other])).min() <= 1e-12


def test_boxes_are_exact_where_no_child_is_nearly_all():
    model = RectangularTreemap(0.1).fit({"a": 5, "b": 3, "c": {"d": 1, "e": 1}})
    np.testing.assert_allclose(model.area_ratio_, 1)
    np.testing.assert_allclose(
        np.prod(model.boxes_[:, 1] - model.boxes_[:, 0], axis=1), model.tree_.weights / model.tree_.weights[0]
    )


def test_the_slab_is_as_thin_as_its_equation_says():
    # In a unit cube with share u of the rest, t min(1, t / slack)^2 = u.
    for u, slack in ((1e-6, 0.1), (0.05, 0.1), (0.009, 0.01)):
        model = RectangularTreemap(slack, 3).fit({"huge": 1 - u, "rest": u})
        t = model.boxes_[2, 1] - model.boxes_[2, 0]
        thin = t.min()
        assert thin * min(1.0, thin / slack) ** 2 == pytest.approx(u, rel=1e-6)
        assert model.area_ratio_[2] == pytest.approx(1, rel=1e-6)
        assert model.area_ratio_[1] == pytest.approx((1 - thin) / (1 - u))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slack": 0.0}, "slack must be"),
        ({"slack": 0.34}, "slack must be"),
        ({"n_dimensions": 0}, "n_dimensions must be at least 1"),
        ({"bounding": (1.0, 11.0)}, "no side longer than 1 / slack = 10"),
        ({"bounding": (1.0, 1.0, 1.0)}, "bounding must have 2 sides"),
        ({"bounding": (1.0, -1.0)}, "bounding must be"),
    ],
)
def test_bad_boxes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RectangularTreemap(**settings).fit({"a": 1})


def test_boxes_too_small_for_coordinates_are_left_out():
    with pytest.warns(UserWarning, match="1 of 3 nodes are too light"):
        model = RectangularTreemap(n_dimensions=1).fit({"a": 1, "b": 1e-11})
    assert np.isnan(model.boxes_[2]).all()


# ultrametrics


def random_ultrametric(rng, n, method="average"):
    return squareform(cophenet(linkage(rng.normal(size=(n, 3)), method)))


def distortion(distances, points):
    ratios = pdist(points) / squareform(distances, checks=False)
    return ratios.max() / ratios.min()


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("n", [2, 3, 5, 60])
def test_distortion_is_that_of_all_pairs_and_nothing_contracts(d, n):
    X = random_ultrametric(np.random.default_rng(n), n)
    model = UltrametricEmbedding(d).fit(X)
    ratios = pdist(model.embedding_) / squareform(X, checks=False)
    assert ratios.min() == pytest.approx(1)
    assert model.distortion_ == pytest.approx(ratios.max() / ratios.min())
    assert 1 <= model.distortion_lower_bound_ <= model.distortion_ + 1e-9


@pytest.mark.parametrize(("d", "bound", "reached"), [(1, 63, 63.0), (2, 7, 14), (3, 3, 8)])
def test_equidistant_points(d, bound, reached):
    model = UltrametricEmbedding(d).fit(np.ones((64, 64)) - np.eye(64))
    assert model.distortion_lower_bound_ == pytest.approx(bound)
    assert model.distortion_ <= reached * (1 + 1e-9)


def test_three_equidistant_points_have_no_bound_above_one_in_the_plane():
    # They embed exactly: a positive volume at the leaves would claim 1.23.
    model = UltrametricEmbedding(2).fit(np.ones((3, 3)) - np.eye(3))
    assert model.distortion_lower_bound_ == 1


def test_caterpillar():
    heights = 2.0 ** np.arange(40)
    X = np.maximum(heights[:, None], heights)
    np.fill_diagonal(X, 0)
    assert UltrametricEmbedding(1).fit(X).distortion_ == pytest.approx(2, rel=1e-6)
    assert UltrametricEmbedding(2).fit(X).distortion_ < 1.7


def test_heights_that_are_powers_of_two_but_for_rounding_stay_apart():
    X = np.array([[0.0, 0.5, 1.0, 1.0], [0.5, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.25], [1.0, 1.0, 0.25, 0.0]])
    for distances in (X, np.where(X < 1, X * (1 + 1e-13), X)):
        parents, heights = ultrametric._dendrogram(linkage(squareform(distances), "single"), 1.0)
        assert np.unique(ultrametric._rounded(parents, heights, 4)[1]).tolist() == [0, 0.25, 0.5, 1]


def test_no_embedding_is_below_the_lower_bound():
    """Gradient-free search over embeddings of a few points never goes below it."""
    rng = np.random.default_rng(0)
    X = random_ultrametric(rng, 8)
    bound = UltrametricEmbedding(1).fit(X).distortion_lower_bound_
    best = min(
        distortion(X, np.cumsum(np.r_[0, X[list(order)[:-1], list(order)[1:]]])[:, None])
        for order in permutations(range(8))
    )
    assert 1 < bound <= best


@pytest.mark.parametrize("d", [1, 2, 3])
def test_bounds_of_many_points_hold(monkeypatch, d):
    X = random_ultrametric(np.random.default_rng(4), 150, "complete")
    exact = UltrametricEmbedding(d).fit(X)
    monkeypatch.setattr(ultrametric, "EXACT", 10)
    bounded = UltrametricEmbedding(d).fit(X)
    assert distortion(X, bounded.embedding_) <= bounded.distortion_ <= 2.5 * exact.distortion_
    assert (pdist(bounded.embedding_) >= squareform(X, checks=False) * (1 - 1e-9)).all()


@pytest.mark.parametrize("d", [2, 3])
def test_distortion_is_near_the_bound_at_every_size(d):
    for n in (64, 512):
        model = UltrametricEmbedding(d).fit(linkage(np.random.default_rng(n).normal(size=(n, 4)), "average"))
        assert model.distortion_ <= 8 * model.distortion_lower_bound_


def test_matrices_linkages_and_condensed_distances_agree():
    merges = linkage(np.random.default_rng(0).normal(size=(5, 2)), "complete")
    points = UltrametricEmbedding().fit_transform(merges)
    assert merges.shape == (4, 4)
    condensed = cophenet(merges)
    np.testing.assert_allclose(pdist(UltrametricEmbedding().fit_transform(condensed)), pdist(points), rtol=1e-6)
    four = squareform(cophenet(linkage(np.array([[0.0], [1.0], [3.0], [9.0]]), "single")))
    assert UltrametricEmbedding().fit_transform(four).shape == (4, 2)


def test_scale_changes_nothing_but_scale_and_single_precision_is_accepted():
    X = random_ultrametric(np.random.default_rng(1), 30)
    model = UltrametricEmbedding().fit(X)
    np.testing.assert_allclose(UltrametricEmbedding().fit(1e6 * X).embedding_, 1e6 * model.embedding_, rtol=1e-6)
    assert UltrametricEmbedding().fit(X.astype(np.float32)).distortion_ == pytest.approx(model.distortion_, rel=1e-3)
    np.testing.assert_array_equal(UltrametricEmbedding().fit(X).embedding_, model.embedding_)


def test_points_at_distance_zero_are_one():
    X = np.array([[0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 1.0, 2.0], [1.0, 1.0, 0.0, 2.0], [2.0, 2.0, 2.0, 0.0]])
    model = UltrametricEmbedding().fit(X)
    np.testing.assert_array_equal(model.embedding_[0], model.embedding_[1])
    assert model.distortion_ == pytest.approx(UltrametricEmbedding().fit(X[1:, 1:]).distortion_)
    assert UltrametricEmbedding().fit(np.zeros((3, 3))).embedding_.tolist() == [[0, 0]] * 3
    assert UltrametricEmbedding().fit(np.zeros((1, 1))).distortion_ == 1


def test_what_is_no_ultrametric_is_refused_with_a_triple():
    X = random_ultrametric(np.random.default_rng(0), 20)
    X[3, 7] = X[7, 3] = 2 * X.max()
    with pytest.raises(ValueError, match="X is no ultrametric") as refused:
        UltrametricEmbedding().fit(X)
    found = re.findall(r"d\((\d+), (\d+)\)", str(refused.value))
    (x, z), (_, y), _ = [(int(a), int(b)) for a, b in found]
    assert X[x, z] > max(X[x, y], X[y, z])


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.ones((3, 3), dtype=int), TypeError, "X must hold floating-point"),
        (np.ones((3, 3)), ValueError, "zeros on its diagonal"),
        (np.array([[0.0, 1.0], [2.0, 0.0]]), ValueError, "symmetric"),
        (np.array([[0.0, -1.0], [-1.0, 0.0]]), ValueError, "must hold distances, got -1"),
        (np.array([[0.0, np.nan], [np.nan, 0.0]]), ValueError, "NaN"),
        (np.ones((3, 5)), ValueError, "square matrix of distances or a linkage"),
        (np.ones(4), ValueError, "condensed distances, got 4"),
        (np.array([1.0, -1.0, 1.0]), ValueError, "must hold distances, got -1"),
        (np.ones((3, 4)), ValueError, "merges are not valid"),
        (np.array([[0.0, 1.0, 2.0, 2.0], [2.0, 3.0, 1.0, 3.0]]), ValueError, "heights never go down, got 2 and then 1"),
        (np.empty((0, 0)), ValueError, "empty"),
    ],
)
def test_bad_distances_are_refused(X, error, message):
    with pytest.raises(error, match=message):
        UltrametricEmbedding().fit(X)


def test_spreads_beyond_float64_are_refused():
    X = np.array([[0.0, 1e-30, 1.0, 1.0], [1e-30, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1e-30], [1.0, 1.0, 1e-30, 0.0]])
    with pytest.raises(ValueError, match="too different sizes"):
        UltrametricEmbedding(1).fit(X)


# pictures and the command


@pytest.mark.parametrize("seed", range(10))
def test_words_fit_into_their_polygons(seed):
    rng = np.random.default_rng(seed)
    polygon = random_convex(rng)
    planes = _labels.half_planes(polygon)
    wide, tall = rng.uniform(0.3, 3, 2)
    x, y, size = _labels.largest_box(planes, wide, tall)
    corners = [x, y] + size / 2 * np.array([[wide, tall], [-wide, tall], [wide, -tall], [-wide, -tall]])
    room = planes[:, 2] - corners @ planes[:, :2].T
    assert room.min() == pytest.approx(0, abs=1e-9)
    # No box of that shape is larger: the linear program's own solver says the same.
    from scipy.optimize import linprog

    reach = (np.abs(planes[:, 0]) * wide + np.abs(planes[:, 1]) * tall) / 2
    bounds = [(None, None), (None, None), (0, None)]
    best = linprog([0, 0, -1], np.column_stack([planes[:, :2], reach]), planes[:, 2], bounds=bounds)
    assert size == pytest.approx(best.x[2], rel=1e-6)


def test_pictures_have_labels_inside_and_apart():
    tree = {f"branch {i}": {f"leaf {i}.{j}": 1 + (i * j) % 7 for j in range(12)} for i in range(6)}
    model = PolygonalTreemap("greedy", bounding=(3, 2)).fit(tree)
    axes = plot_treemap(model, title="")
    axes.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert sum(text.get_text().startswith("branch") for text in axes.texts) == 6
    assert sum(text.get_text().startswith("leaf") for text in axes.texts) > 10
    whole = axes.get_window_extent()
    for box in boxes:
        assert whole.x0 - 1 <= box.x0
        assert box.x1 <= whole.x1 + 1
    names = {name: node for node, name in enumerate(model.tree_.names)}
    for text, box in zip(axes.texts, boxes, strict=True):
        if text.get_text() in names:
            corners = axes.transData.inverted().transform(box.corners())
            planes = _labels.half_planes(model.polygons_[names[text.get_text()]])
            assert (corners @ planes[:, :2].T <= planes[:, 2] + 0.004).all()
    for one, other in combinations(boxes, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        along = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(across, along) < 2.5


def test_boxes_are_drawn_and_others_refused():
    axes = plot_treemap(RectangularTreemap().fit({"a": 1, "b": 2}))
    assert len(axes.collections[0].get_paths()) == 3
    with pytest.raises(ValueError, match="2 dimensions to be drawn, got 3"):
        plot_treemap(RectangularTreemap(n_dimensions=3).fit({"a": 1}))
    with pytest.raises(NotFittedError):
        plot_treemap(PolygonalTreemap())
    with pytest.raises(TypeError, match="model must be"):
        plot_treemap("map")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tree.json", json.dumps({"a": {"b": 3, "c$1$": 1}, "d": 4})),
        ("d3.json", json.dumps(CHILDREN)),
        ("tree.csv", "parent,child,weight\nroot,a,4\na,b,3\na,c$1$,1\nroot,d,4\n"),
        ("forest.csv", "a,b,3\na,c$1$,1\n,d,4\n"),
    ],
)  # fmt: skip
def test_the_command_reads_hierarchies(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    out = tmp_path / "out"
    out.mkdir()
    summary = run(tmp_path / name, out=out)
    assert summary["n_leaves"] == 3
    assert summary["total"] == "8"
    assert {path.name for path in out.iterdir()} == {"picture.png", "picture.svg", "cells.csv", "polygons.json"}
    svg = (out / "picture.svg").read_text()
    assert "<title>a/c$1$: 1</title>" in svg
    assert "a/b,2,3.0," in (out / "cells.csv").read_text()
    polygons = {each["path"]: each["polygon"] for each in json.loads((out / "polygons.json").read_text())}
    assert shoelace(polygons["a/b"]) / shoelace(polygons["a"]) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "no such file"),
        ("bad.json", "{", "can't be read as .json"),
        ("list.json", "[1]", "must hold an object"),
        ("deep.json", '{"a":' * 100_000, "too deeply|can't be read"),
        ("words.json", '{"a": "b"}', "must be a number, got 'b'"),
        ("minus.json", '{"a": -1}', "negative"),
        ("children.json", '{"name": "a", "children": [3]}', "children must be objects"),
        ("empty.csv", "", "is empty"),
        ("wide.csv", "a,b,c,d\n", "lines must be parent,child,weight"),
        ("twice.csv", "a,b,1\nc,b,2\n", "'b' is a child twice"),
        ("words.csv", "a,b,many\n", "no number: 'many'"),
        ("sum.csv", "r,a,5\na,b,1\na,c,1\n", "'a' is 5, but its children weigh 2"),
        ("tree.docx", "a", "unreadable format"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, TypeError), match=message) as refused:
        run(tmp_path / name, out=tmp_path)
    assert "\n" not in str(refused.value)
