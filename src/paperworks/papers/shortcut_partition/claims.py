"""Claims of "Shortcut Partitions in Minor-Free Graphs"."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components, dijkstra

from paperworks.claims import Curve, Measurement, Scale, at_least, at_most, claim
from paperworks.combinatorial.shortcut_partition import (
    DistanceOracle,
    ShortcutPartition,
    TreeCover,
    buffered_cop_decomposition,
    shortcut_partition,
    steiner_point_removal,
)
from paperworks.combinatorial.shortcut_partition._generators import (
    apex_graph,
    comb_graph,
    delaunay_graph,
    grid_graph,
    random_three_tree,
    random_tree,
    road_map,
    star_of_paths,
    with_straight_lengths,
)

# Families, each with the size of a complete graph that is no minor of it.
FAMILIES: dict[str, tuple[int, Callable[[int, int], sp.csr_array]]] = {
    "Delaunay": (5, delaunay_graph),
    "3-trees": (5, random_three_tree),
    "planar and an apex": (6, apex_graph),
    "trees": (3, random_tree),
}
PROPERTIES = ("radius", "skeleton", "width", "buffer")
# One float32 rounding: answers are at most 1 + epsilon in exact arithmetic, distances to compare with are float64 sums.
ROUNDING = 1e-12


@claim(
    "every minor-free graph has a shortcut partition",
    published="an (epsilon, O(1) / epsilon)-shortcut partition for every K_r-minor-free graph",
    where="abstract",
    measured="{held:.0f} of {cases:.0f} decompositions; diameters {diameter:.2f} of what is allowed, {hops:.1f} / "
    "epsilon hops at most",
)
def shortcut_partitions_exist(scale: Scale, seed: int) -> Measurement:
    """Clusters of strong diameter epsilon diam are crossed in O(1 / epsilon) hops, on supernodes that keep buffers."""
    cases = held = 0
    widest, hops, curves = 0.0, 0.0, []
    for family, epsilon, r, graphs in _partition_cases(scale, seed):
        most = []
        for graph in graphs:
            found = shortcut_partition(graph, epsilon, minor_size=r)
            radius = epsilon * found.diameter / 4.0
            for rule in ("far", "first"):
                checked = buffered_cop_decomposition(graph, radius, minor_size=r, root_rule=rule).check()
                cases, held = cases + 1, held + all(checked[name] for name in PROPERTIES)
            widest = max(widest, found.strong_diameters().max() / (epsilon * found.diameter))
            most.append(epsilon * _most_hops(found, graph.shape[0], seed))
        hops = max(hops, *most)
        if epsilon == 0.25:
            curves.append(_curve(family, [graph.shape[0] for graph in graphs], most, "epsilon x most hops"))
    return Measurement(
        [
            # These two are theorems.
            at_least("decompositions with all of P1 to P4, share", held / cases, 1.0),
            at_most("largest strong diameter / (epsilon x diameter)", widest, 1.0 + ROUNDING),
            # Set before the trial: h(r) is a constant; 60 is far below what its proof gives.
            at_most("epsilon x most hops between 2,000 pairs", hops, 60.0),
        ],
        figures={"held": held, "cases": cases, "hops": hops, "diameter": widest},
        curves=curves,
    )


@claim(
    "hops do not grow with the graph",
    published="O(1) / epsilon hops, whatever the number of vertices",
    where="abstract",
    measured="most hops grow as n^{slope:.2f} at worst, as n^{settled:.2f} where clusters hold 8 vertices or more",
)
def hops_do_not_grow(scale: Scale, seed: int) -> Measurement:
    """The number of hops of a shortcut partition is bounded by epsilon and the minor alone."""
    slopes, settled, curves, largest = {}, {}, [], 0.0
    for family, epsilon, r, graphs in _partition_cases(scale, seed):
        found = [shortcut_partition(graph, epsilon, minor_size=r) for graph in graphs]
        sizes = np.array([graph.shape[0] for graph in graphs])
        most = np.array([_most_hops(each, n, seed) for each, n in zip(found, sizes, strict=True)])
        name, largest = f"{family}, epsilon {epsilon}", max(largest, epsilon * most.max())
        slopes[name] = _slope(np.log(sizes), np.log(most))
        large = sizes >= 8 * np.array([len(each.centers_) for each in found])
        if np.count_nonzero(large) >= 3:
            settled[name] = _slope(np.log(sizes[large]), np.log(most[large]))
        curves.append(_curve(name, sizes.tolist(), most.tolist(), "most hops"))
    worst = max(slopes.values())
    return Measurement(
        [
            # Set before the trial, for every family and epsilon.
            at_most("steepest growth of most hops, exponent of n", worst, 0.1),
            # The same where the bound can bite: clusters of single vertices are crossed at an edge a hop, as n grows.
            at_most("the same where clusters hold 8 vertices or more", max(settled.values()), 0.1),
        ],
        figures={"slope": worst, "settled": max(settled.values())},
        curves=curves,
        note="Where epsilon x diameter / 4 is about an edge, clusters are single vertices, hops are the edges of a "
        "shortest path, and they grow with n until clusters hold several vertices: that is so at epsilon 0.125 up to "
        f"n = 8,000. The number itself is at most {largest:.1f} / epsilon throughout. Exponents: "
        + "; ".join(f"{key} {value:.2f}" for key, value in slopes.items()),
    )


@claim(
    "linear-space oracle with constant query time",
    published="1 + epsilon stretch, linear space, constant query time; before: O(n log n) space, O(log n) query",
    where="abstract",
    measured="bytes a node at most {growth:.2f}x from 2,000 to 16,000 nodes, time a list entry {time:.2f}x; stretch "
    "{half:.3f} at epsilon 0.5, {quarter:.3f} at 0.25",
)
def linear_oracle(scale: Scale, seed: int) -> Measurement:
    """Tables within a constant number of bytes a node answer within 1 + epsilon, in a time that does not grow."""
    sizes = [1000, 2000, 4000, 8000, 16_000] + ([] if scale == "small" else [32_000, 64_000])
    stretch, growth, steps, curves, paces = {}, {}, {}, [], []
    for name, make, epsilon in (
        ("Delaunay, epsilon 0.5", delaunay_graph, 0.5),
        ("Delaunay, epsilon 0.25", delaunay_graph, 0.25),
        ("Delaunay, epsilon 4", delaunay_graph, 4.0),
        ("trees, epsilon 0.5", random_tree, 0.5),
    ):
        bytes_a_node, pace, worst = [], [], 0.0
        for n in sizes:
            graph = make(n, seed)
            oracle = DistanceOracle(epsilon, progress=False).fit(graph)
            worst = max(worst, _stretch(graph, oracle.query, seed)[1] - epsilon)
            bytes_a_node.append(oracle.nbytes_ / n)
            pace.append(_query_seconds(oracle, n, seed) / (oracle.n_entries_ / oracle.n_active_.sum()))
        stretch[name] = worst + epsilon
        growth[name] = bytes_a_node[sizes.index(16_000)] / bytes_a_node[sizes.index(2000)]
        steps[name] = " ".join(f"{b / a:.2f}" for a, b in pairwise(bytes_a_node))
        paces.append(pace[sizes.index(16_000)] / pace[sizes.index(2000)])
        curves.append(_curve(name, sizes, bytes_a_node, "bytes a node"))
    excess = max(stretch[name] - 1.0 - float(name.split()[-1]) for name in stretch)
    linear = max(growth["Delaunay, epsilon 4"], growth["trees, epsilon 0.5"])
    return Measurement(
        [
            # Proven, so without exception.
            at_most("largest stretch beyond 1 + epsilon", excess, ROUNDING),
            # Set before the trial: a matrix would grow 8x; counts are still settling at these sizes.
            at_most("bytes a node, 16,000 to 2,000 nodes, epsilon 4 and trees", linear, 1.7, unit="x"),
            # Set before the trial: constant but for what tables that outgrow the caches cost.
            at_most("query time a list entry, 16,000 to 2,000 nodes", float(np.median(paces)), 1.5, unit="x"),
        ],
        figures={
            "growth": linear,
            "time": float(np.median(paces)),
            "half": stretch["Delaunay, epsilon 0.5"],
            "quarter": stretch["Delaunay, epsilon 0.25"],
        },
        curves=curves,
        note="bytes a node from one doubling of n to the next: "
        + "; ".join(f"{name} {text}" for name, text in steps.items())
        + ". At small epsilon the counts settle only where n is far beyond (32 / epsilon)^2, so they are reported.",
    )


@claim(
    "still linear at 100,000 nodes",
    published="linear space and constant query time",
    where="abstract",
    measured="{bytes:,.0f} bytes a node at 100,000, {growth:.2f}x of 2,000's; query {query:.1f} us; stretch "
    "{stretch:.3f} at epsilon 4; roads at epsilon 1: {road_bytes:,.0f} bytes, {road_query:.1f} us, {road_stretch:.3f}",
)
def linear_at_100_000_nodes(scale: Scale, seed: int) -> Measurement:
    """Bytes a node and the time of a query stay what they are from 2,000 to 100,000 nodes."""
    sizes = [2000, 10_000, 100_000] if scale == "small" else [2000, 10_000, 30_000, 100_000, 300_000]
    kinds = {"Delaunay": (delaunay_graph, 4.0), "roads": (lambda n, seed: road_map(n, seed)[0], 1.0)}
    if scale == "full":
        kinds["Delaunay, epsilon 1"] = (delaunay_graph, 1.0)
    at = sizes.index(100_000)
    measured: dict[str, dict[str, list[float]]] = {}
    for name, (make, epsilon) in kinds.items():
        held = measured[name] = {"bytes": [], "build": [], "query": [], "stretch": []}
        for n in sizes:
            graph = make(n, seed)
            start = perf_counter()
            oracle = DistanceOracle(epsilon, n_jobs=-1, progress=False).fit(graph)
            held["build"].append((perf_counter() - start) / n * 1e6)
            held["bytes"].append(oracle.nbytes_ / n)
            held["query"].append(_query_seconds(oracle, n, seed) * 1e6)
            held["stretch"].append(_stretch(graph, oracle.query, seed, n_sources=8)[1] - epsilon)
    growth = measured["Delaunay"]["bytes"][at] / measured["Delaunay"]["bytes"][0]
    curves = [
        _curve(f"{name}", sizes, held[key], label)
        for key, label in (("bytes", "bytes a node"), ("build", "building, us a node"), ("query", "query, us"))
        for name, held in measured.items()
    ]
    excess = max(max(held["stretch"]) for held in measured.values()) - 1.0
    # What n log n bytes would grow by.
    log_growth = np.log(100_000) / np.log(2000)
    return Measurement(
        [
            # Linear would be 1, n log n 1.51: nearer to linear is below the root of that.
            at_most("bytes a node, 100,000 to 2,000 nodes, epsilon 4", growth, float(np.sqrt(log_growth)), unit="x"),
            at_most("largest stretch beyond 1 + epsilon", excess, ROUNDING),
        ],
        figures={
            "bytes": measured["Delaunay"]["bytes"][at],
            "growth": growth,
            "query": measured["Delaunay"]["query"][at],
            "stretch": measured["Delaunay"]["stretch"][at] + 4.0,
            "road_bytes": measured["roads"]["bytes"][at],
            "road_query": measured["roads"]["query"][at],
            "road_stretch": measured["roads"]["stretch"][at] + 1.0,
        },
        curves=curves,
        note="a matrix of float64 takes 800,000 bytes a node at 100,000. Building, in us a node: "
        + "; ".join(f"{name} {' '.join(f'{b:.0f}' for b in held['build'])}" for name, held in measured.items()),
    )


@claim(
    "tree covers of constant size",
    published="O(1) trees of stretch 1 + epsilon; before: O(log^2 n)",
    where="abstract",
    measured="{four} and {one} forests at epsilon 4 and 1 in the largest scale of 8,000 nodes, {ratio:.2f}x of 4,000's",
    seeds=3,
    proxy="forests are counted scale by scale: the paper's merging of all scales is not reconstructed",
)
def constant_tree_cover(scale: Scale, seed: int) -> Measurement:
    """A number of trees that does not depend on n holds every distance within 1 + epsilon."""
    sizes = [1000, 2000, 4000, 8000] + ([] if scale == "small" else [16_000, 32_000, 64_000])
    counts: dict[float, list[int]] = {}
    excess, curves = -np.inf, []
    for epsilon in (4.0, 1.0, 0.5):
        counts[epsilon] = []
        for n in sizes:
            graph = delaunay_graph(n, seed)
            cover = TreeCover(epsilon, progress=False).fit(graph)
            counts[epsilon].append(int(cover.n_trees_per_scale_.max()))
            excess = max(excess, _stretch(graph, cover.distance, seed, n_sources=20)[1] - 1.0 - epsilon)
        curves.append(_curve(f"epsilon {epsilon:g}", sizes, counts[epsilon], "forests of the largest scale"))
    at = sizes.index(8000)
    ratio = max(counts[epsilon][at] / counts[epsilon][at - 1] for epsilon in (4.0, 1.0))
    return Measurement(
        [
            # Set before the trial: saturating, where log^2 n would grow 1.17x and a square root 1.41x.
            at_most("forests of the largest scale, 8,000 to 4,000 nodes, epsilon 1 and 4", ratio, 1.25, unit="x"),
            # Proven, so without exception.
            at_most("largest stretch beyond 1 + epsilon", excess, ROUNDING, across="every"),
        ],
        figures={"four": counts[4.0][at], "one": counts[1.0][at], "ratio": ratio},
        curves=curves,
        note="forests by n: " + "; ".join(f"epsilon {key:g} {row}" for key, row in counts.items()),
    )


@claim(
    "Steiner points are removed at constant distortion",
    published="O(1) distortion in every minor-free graph",
    where="abstract",
    measured="median distortion {first:.2f} with 8 terminals, {last:.2f} with 512, largest {largest:.2f}; on a comb of "
    "512 teeth {comb:.2f}, nearest terminals {nearest:.0f}",
)
def constant_distortion(scale: Scale, seed: int) -> Measurement:
    """Terminals of a minor-free graph keep their distances, within a constant factor, in a minor that has no others."""
    side, draws = (50, 5) if scale == "small" else (150, 9)
    powers, ks = np.arange(3, 10), [2**power for power in range(3, 10)]
    graphs = {
        "Delaunay": delaunay_graph(side * side, seed),
        "grid": grid_graph(side, side),
    }
    medians: dict[str, list[float]] = {name: [] for name in graphs}
    largest, minors, curves = 0.0, 0, []
    for name, graph in graphs.items():
        for k in ks:
            found = []
            for draw in range(draws):
                terminals = np.random.default_rng([seed, draw, k]).choice(graph.shape[0], k, replace=False)
                _, assignment, distortion = steiner_point_removal(graph, terminals)
                found.append(distortion)
                minors += _parts_are_connected(graph, assignment, k)
            medians[name].append(float(np.median(found)))
            largest = max(largest, *found)
        curves.append(_curve(name, ks, medians[name], "median distortion", "terminals"))
    made = {"comb": comb_graph, "star of paths": lambda k: star_of_paths(k, 8)}
    ours: dict[str, list[float]] = {name: [] for name in made}
    theirs: dict[str, list[float]] = {name: [] for name in made}
    for name, make in made.items():
        for k in ks:
            graph, terminals = make(k)
            _, assignment, distortion = steiner_point_removal(graph, terminals)
            ours[name].append(distortion)
            theirs[name].append(_nearest_terminal_distortion(graph, terminals))
            largest, minors = max(largest, distortion), minors + _parts_are_connected(graph, assignment, k)
        curves.append(_curve(name, ks, ours[name], "median distortion", "terminals"))
        curves.append(_curve(f"{name}, nearest terminals", ks, theirs[name], "median distortion", "terminals"))
    slope = max(_slope(powers, values) for values in (*medians.values(), *ours.values()))
    contracted = len(powers) * (draws * len(graphs) + len(made))
    return Measurement(
        [
            # Set before the trial: flat against the doublings of k, at which nearest terminals on a comb add up to k.
            at_most("median distortion added by a doubling of the terminals", slope, 0.3),
            # Set before the trial: the proof's constant is in the thousands, the lower bound, on trees, is 8.
            at_most("largest distortion", largest, 12.0),
            at_least("contractions that are minors, share", minors / contracted, 1.0),
            at_least(
                "nearest terminals' distortion over ours, least over combs", min(_over(theirs, ours, "comb")), 1.01
            ),
        ],
        figures={
            "first": float(np.mean([values[0] for values in medians.values()])),
            "last": float(np.mean([values[-1] for values in medians.values()])),
            "largest": largest,
            "comb": ours["comb"][-1],
            "nearest": theirs["comb"][-1],
        },
        curves=curves,
        note="on stars of paths both have "
        + f"{ours['star of paths'][-1]:.2f} and {theirs['star of paths'][-1]:.2f}; on grids and triangulations the two "
        "are as good as each other.",
    )


@claim(
    "real road networks and meshes",
    published="planar and other minor-free graphs",
    where="introduction",
    measured="roads of Minnesota at epsilon 0.1: stretch {stretch:.4f}, {bytes:,.0f} bytes a node, {query:.1f} us a "
    "query; P1 to P4 with bags of {bag:.0f}",
)
def real_road_networks(scale: Scale, seed: int) -> Measurement:
    """On roads that are measured and not made up, the properties hold and the oracle answers within 1 + epsilon."""
    from paperworks.datasets import load_minnesota

    adjacency, places = load_minnesota().data
    graph = with_straight_lengths(adjacency, places)
    checked = [
        buffered_cop_decomposition(graph, radius, root_rule="far").check()
        for radius in (2.0, 1.0, 0.5, 0.25, 0.1, 0.05)
    ]
    held = sum(all(each[name] for name in PROPERTIES) for each in checked)
    figures, excess, curves = {}, -np.inf, []
    epsilons = (1.0, 0.5, 0.25, 0.1) if scale == "small" else (4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.05)
    mean_stretch, sizes = [], []
    for epsilon in epsilons:
        oracle = DistanceOracle(epsilon, progress=False).fit(graph)
        mean, worst = _stretch(graph, oracle.query, seed, n_sources=200)
        excess = max(excess, worst - 1.0 - epsilon)
        mean_stretch.append(mean - 1.0)
        sizes.append(oracle.nbytes_ / graph.shape[0])
        if epsilon == 0.1:
            figures = {
                "stretch": worst,
                "bytes": sizes[-1],
                "query": _query_seconds(oracle, graph.shape[0], seed) * 1e6,
                "bag": max(each["largest_bag"] for each in checked),
            }
    curves = [Curve("roads of Minnesota", sizes, mean_stretch, "bytes a node", "mean excess", log_x=True, log_y=True)]
    return Measurement(
        [
            # All are theorems, with the r that the bags give.
            at_least("decompositions with all of P1 to P4, share", held / len(checked), 1.0),
            at_most("largest stretch beyond 1 + epsilon", excess, ROUNDING),
        ],
        figures=figures,
        curves=curves,
        note=f"a matrix of float64 takes {8 * graph.shape[0]:,} bytes a node",
    )


@claim(
    "a planar mesh",
    published="planar graphs",
    where="introduction",
    measured="mesh of {nodes:,.0f} nodes: stretch {stretch:.3f}, mean {mean:.3f}; {bytes:,.0f} bytes a node, "
    "{matrix:.0f}x less than a matrix; {query:.1f} us a query",
)
def a_planar_mesh(scale: Scale, seed: int) -> Measurement:
    """On a mesh from engineering the oracle answers within 1 + epsilon, from far less memory than a matrix."""
    from paperworks.datasets import load_metis_graph

    graph = sp.csr_array(load_metis_graph("4elt").data, dtype=np.float64)
    n, epsilon = graph.shape[0], 1.0 if scale == "small" else 0.25
    oracle = DistanceOracle(epsilon, n_jobs=-1, progress=False).fit(graph)
    mean, worst = _stretch(graph, oracle.query, seed, n_sources=20)
    matrix = 8.0 * n * n / oracle.nbytes_
    return Measurement(
        [
            at_most("largest stretch beyond 1 + epsilon", worst - 1.0 - epsilon, ROUNDING),
            # What the race aims at, at 16,000 nodes.
            at_least("memory of a matrix over ours", matrix, 20.0, unit="x"),
        ],
        figures={
            "nodes": n,
            "stretch": worst,
            "mean": mean,
            "bytes": oracle.nbytes_ / n,
            "matrix": matrix,
            "query": _query_seconds(oracle, n, seed) * 1e6,
        },
    )


def _partition_cases(scale: Scale, seed: int) -> Iterator[tuple[str, float, int, list[sp.csr_array]]]:
    """Family, epsilon, r, and graphs of growing size."""
    sizes = [500, 1000, 2000, 4000, 8000] + ([] if scale == "small" else [16_000, 32_000, 64_000])
    for family, (r, make) in FAMILIES.items():
        graphs = [make(n, seed) for n in sizes]
        for epsilon in (0.5, 0.25, 0.125):
            yield family, epsilon, r, graphs


def _most_hops(found: ShortcutPartition, n: int, seed: int) -> int:
    """Most hops of 2,000 random pairs: 50 sources with 40 vertices each."""
    rng = np.random.default_rng(seed)
    return int(found.hop_distance(rng.integers(n, size=50), rng.integers(n, size=(40, 50))).max())


def _stretch(
    graph: sp.csr_array, ask: Callable[..., NDArray[np.float64]], seed: int, n_sources: int = 50
) -> tuple[float, float]:
    """Mean and largest ratio of answers to exact distances, some vertices to 1,000; infinite if any is too short."""
    n = graph.shape[0]
    rng = np.random.default_rng(seed)
    total, count, worst = 0.0, 0, 0.0
    for source in rng.integers(n, size=n_sources):
        exact = dijkstra(graph, indices=source)
        apart = np.flatnonzero(np.isfinite(exact) & (exact > 0))
        others = apart if len(apart) <= 1000 else rng.choice(apart, 1000, replace=False)
        ratio = ask(int(source), others) / exact[others]
        if ratio.min() < 1.0 - ROUNDING:
            return np.inf, np.inf
        total, count, worst = total + ratio.sum(), count + len(ratio), max(worst, float(ratio.max()))
    return total / count, worst


def _query_seconds(oracle: DistanceOracle, n: int, seed: int) -> float:
    """Seconds of a query between random nodes, the best of five rounds of 50,000."""
    u, v = np.random.default_rng(seed).integers(n, size=(2, 50_000))
    rounds = []
    for _ in range(5):
        start = perf_counter()
        oracle.query(u, v)
        rounds.append(perf_counter() - start)
    return min(rounds) / len(u)


def _parts_are_connected(graph: sp.csr_array, assignment: NDArray[np.int32], k: int) -> bool:
    """Whether each vertex belongs to a terminal, and what is left of the graph inside parts has k components."""
    edges = graph.tocoo()
    inside = assignment[edges.coords[0]] == assignment[edges.coords[1]]
    within = sp.coo_array((edges.data[inside], tuple(each[inside] for each in edges.coords)), shape=graph.shape)
    return bool((assignment >= 0).all()) and connected_components(within)[0] == k


def _nearest_terminal_distortion(graph: sp.csr_array, terminals: NDArray[np.int64]) -> float:
    """Distortion of the minor that is left when each vertex joins the terminal nearest to it."""
    _, _, nearest = dijkstra(graph, indices=terminals, min_only=True, return_predecessors=True)
    place = np.full(graph.shape[0], -1)
    place[terminals] = np.arange(len(terminals))
    part = place[nearest]
    between = dijkstra(graph, indices=terminals)[:, terminals]
    a, b = (part[each] for each in graph.tocoo().coords)
    pairs = np.unique(np.column_stack([a, b])[a != b], axis=0)
    lengths = between[pairs[:, 0], pairs[:, 1]]
    minor = sp.coo_array((lengths, (pairs[:, 0], pairs[:, 1])), shape=between.shape).tocsr()
    apart = between > 0
    return float((dijkstra(minor)[apart] / between[apart]).max())


def _over(a: dict[str, list[float]], b: dict[str, list[float]], name: str) -> list[float]:
    return [x / y for x, y in zip(a[name], b[name], strict=True)]


def _slope(x: Any, y: Any) -> float:
    return float(np.polyfit(x, y, 1)[0])


def _curve(label: str, x: Sequence[float], y: Sequence[float], y_label: str, x_label: str = "nodes") -> Curve:
    return Curve(label, list(map(float, x)), list(map(float, y)), x_label, y_label, log_x=True)
