"""Claims of "Fat Polygonal Partitions with Applications to Visualization and Embeddings"."""

import warnings
from math import log2
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cophenet, leaves_list, linkage
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.spatial.distance import squareform

from paperworks.claims import Curve, Measurement, Scale, at_least, at_most, claim
from paperworks.combinatorial import PolygonalTreemap, RectangularTreemap, UltrametricEmbedding

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Method = Literal["angular", "greedy"]
METHODS: tuple[Method, ...] = ("angular", "greedy")

# Cells of less than this share are too small for float64 coordinates and are left out on all sides.
SMALLEST = 1e-20


@claim(
    "aspect ratios do not depend on the weights",
    published="a bound independent of the weights, for both methods",
    where="abstract",
    measured="at most {angular:.1f} angular, {greedy:.1f} greedy over four families; squarified {squarified:.1e}",
    seeds=3,
)
def aspect_ratios_do_not_depend_on_weights(scale: Scale, seed: int) -> Measurement:
    """Both methods bound the aspect ratio of all polygons whatever the weights, where rectangles become slivers."""
    rng = np.random.default_rng(seed)
    shapes = {"depth 1": _random_tree(200, 1, rng), "depth 6": _random_tree(200 if scale == "small" else 5000, 6, rng)}
    spread = over = 0.0
    worst: dict[str, float] = {"angular": 0.0, "greedy": 0.0, "squarified": 0.0}
    ratios, notes = [], []
    for shape, parents in shapes.items():
        leaves = np.setdiff1d(np.arange(len(parents)), parents)
        bound = 4 * (_depths(parents).max() + log2(len(leaves))) + 8
        found: dict[str, dict[str, float]] = {name: {} for name in (*worst, "slice and dice")}
        for family, weights in _weight_families(len(leaves), rng).items():
            for method in METHODS:
                found[method][family] = _largest_ratio(parents, weights, method)
            for name, layout in (("squarified", _squarify), ("slice and dice", _slice_and_dice)):
                found[name][family] = _largest_of_boxes(parents, weights, layout)
        for method in METHODS:
            values = found[method].values()
            spread, over = max(spread, max(values) / min(values)), max(over, max(values) / bound)
            skewed = ("2^-i", "one huge, the rest dust")
            ratios.append(max(found["squarified"][family] / found[method][family] for family in skewed))
        for name in worst:
            worst[name] = max(worst[name], *found[name].values())
        notes.append(f"{shape}: " + "; ".join(f"{name} {_listed(values)}" for name, values in found.items()))
    return Measurement(
        [
            # "Independent of the weights": a constant factor, for which 3 leaves room between families.
            at_most("largest aspect ratio of one family of weights, ratio to another's", spread, 3.0, unit="x"),
            # O(depth + log n), with a constant of 4 for it.
            at_most("largest aspect ratio, ratio to 4 (depth + log2 n) + 8", over, 1.0, unit="x", across="every"),
            # An order of magnitude is what "arbitrarily high" means on weights that halve.
            at_least("squarified rectangles' largest on 2^-i or dust, ratio to ours", min(ratios), 10.0, unit="x"),
        ],
        figures=worst,
        note="squarified rectangles do well on 2^-i where all are siblings. Largest aspect ratios (diameter squared by "
        f"area) of all nodes: {' | '.join(notes)}",
    )


@claim(
    "aspect ratio O(depth + log n)",
    published="O(depth + log n)",
    where="abstract of arXiv 1012.1749, of this paper",
    measured="n^{angular:.2f} angular, n^{greedy:.2f} greedy at depth 1; at most {share:.2f} of 4 (depth + log2 n) + 8",
    seeds=3,
)
def aspect_ratio_grows_with_depth_and_log(scale: Scale, seed: int) -> Measurement:
    """The largest aspect ratio grows no faster than the depth of the tree plus the logarithm of its leaves."""
    rng = np.random.default_rng(seed)
    sizes = [2**e for e in (range(6, 15, 2) if scale == "small" else range(6, 18))]
    depths = range(1, 13)
    share, curves = 0.0, []
    slopes: dict[str, float] = {}
    for method in METHODS:
        points = []
        for n in sizes:
            for depth in depths:
                parents = _random_tree(n, depth, rng)
                leaves = np.setdiff1d(np.arange(len(parents)), parents)
                weights = rng.pareto(0.5, len(leaves)) + 1e-3
                points.append((n, depth, depth + log2(len(leaves)), _largest_ratio(parents, weights, method)))
        share = max(share, *(worst / (4 * x + 8) for _, _, x, worst in points))
        flat = np.array([(n, worst) for n, depth, _, worst in points if depth == 1])
        slopes[method] = float(np.polyfit(np.log(flat[:, 0]), np.log(flat[:, 1]), 1)[0])
        points.sort(key=lambda point: point[2])
        curves.append(
            Curve(method, [p[2] for p in points], [p[3] for p in points], "depth + log2 n", "largest aspect ratio")
        )
    return Measurement(
        [
            # The stated order, with a constant of 4 for it.
            at_most("largest aspect ratio, ratio to 4 (depth + log2 n) + 8", share, 1.0, unit="x", across="every"),
            # A logarithm from 2^6 to 2^14 grows as n^0.15; a tenth for the spread of a maximum.
            at_most("exponent of the largest aspect ratio in n at depth 1", max(slopes.values()), 0.25),
        ],
        figures={**slopes, "share": share},
        curves=curves,
        note="weights are Pareto(0.5), the heaviest tail of the families; trees are random of the given depth",
    )


@claim(
    "constant aspect ratio with slack, in any dimension",
    published="constant, if areas may be off a little; in R^d too",
    where="abstract",
    measured="sides at most {sides:.3f} of 1 / slack, volumes at least {volume:.6f} of (1 - slack)^level",
    seeds=3,
)
def constant_aspect_ratio_with_slack(scale: Scale, seed: int) -> Measurement:
    """Boxes that may lose a share of their volume at every level keep all sides within a constant factor."""
    rng = np.random.default_rng(seed)
    n = 300 if scale == "small" else 2000
    sides, volume, outside, overlap = 0.0, np.inf, 0.0, 0.0
    for depth in (1, 3, 8):
        parents = _random_tree(n, depth, rng)
        leaves = np.setdiff1d(np.arange(len(parents)), parents)
        for weights in _weight_families(len(leaves), rng).values():
            for slack in (0.05, 0.1, 0.3):
                for d in (1, 2, 3, 5):
                    model = _fitted(RectangularTreemap(slack, d), parents, weights)
                    there = ~np.isnan(model.aspect_ratios_) & (model.node_depth_ > 0)
                    sides = max(sides, float(model.aspect_ratios_[there].max()) * slack)
                    least = (1 - slack) ** model.node_depth_[there]
                    volume = min(volume, float((model.area_ratio_[there] / least).min()))
                    outside, overlap = max(outside, _outside(model)), max(overlap, _overlap(model))
    return Measurement(
        [
            # As stated: at most 1 / slack, to rounding.
            at_most("longest side by shortest, ratio to 1 / slack", sides, 1 + 1e-9, unit="x", across="every"),
            # As stated: at least (1 - slack)^level of the share, to rounding of shares down to 1e-10.
            at_least("volume, ratio to (1 - slack)^level of its share", volume, 1 - 1e-5, unit="x", across="every"),
            # A partition: rounding of coordinates of order one.
            at_most("how far a box leaves its parent's", outside, 1e-12, across="every"),
            at_most("how far siblings overlap along every axis", overlap, 1e-12, across="every"),
        ],
        figures={"sides": sides, "volume": volume},
        note="weights uniform, 2^-i, Pareto(0.5), one huge and dust; slack 0.05, 0.1, 0.3; d = 1, 2, 3, 5; depths to 8",
    )


@claim(
    "ultrametrics embed within polylog(Delta) of the best",
    published="a polylog(Delta) factor, before polynomial in n",
    where="abstract",
    measured="distortion at most {ratio:.1f} times the lower bound, points on a line up to {line:.0f} times; from "
    "n = 256 to 4,096 it grows {growth:.2f}x",
    seeds=3,
)
def ultrametrics_embed_well(scale: Scale, seed: int) -> Measurement:
    """The distortion of an ultrametric in R^d is within a factor of the best that grows with log(Delta) but not n."""
    rng = np.random.default_rng(seed)
    sizes = (256, 4096) if scale == "small" else (128, 256, 512, 1024, 2048, 4096)
    spreads = (4, 14) if scale == "small" else (4, 6, 8, 10, 12, 14)
    found: dict[str, dict[tuple[int, int, int], float]] = {"ours": {}, "line": {}, "MDS": {}}
    share = 0.0
    for levels in spreads:
        for n in sizes:
            distances = _random_hst(n, levels, rng)
            tree = linkage(squareform(distances, checks=False), "single")
            line = _distortion(distances, _on_a_line(tree))
            for d in (2, 3):
                model = UltrametricEmbedding(d).fit(tree)
                bound = model.distortion_lower_bound_
                found["ours"][levels, d, n] = model.distortion_ / bound
                found["line"][levels, d, n] = line / bound
                found["MDS"][levels, d, n] = _distortion(distances, _classical_scaling(distances, d)) / bound
                share = max(share, found["ours"][levels, d, n] / (12 * levels**2))
    pairs = [(levels, d) for levels in spreads for d in (2, 3)]
    growth = max(found["ours"][levels, d, 4096] / found["ours"][levels, d, 256] for levels, d in pairs)
    curves = [
        Curve(
            f"{name}, Delta = 2^{levels}", sizes, [found[name][levels, 2, n] for n in sizes],
            "n", "distortion / lower bound, d = 2", True, True,
        )
        for name in ("ours", "line") for levels in spreads
    ]  # fmt: skip
    return Measurement(
        [
            # Independent of n at a fixed Delta; half as much again for the draw.
            at_most("growth of distortion by lower bound from n = 256 to 4,096", growth, 1.5, unit="x"),
            # The square of log(Delta) is what the construction loses in the plane, with a constant of 12.
            at_most("distortion by lower bound, ratio to 12 log2(Delta)^2", share, 1.0, unit="x", across="every"),
        ],
        figures={"ratio": max(found["ours"].values()), "growth": growth, "line": max(found["line"].values())},
        curves=curves,
        note="the line has the points in the order of the leaves, neighbours as far apart as in the tree. Classical "
        "MDS maps points of one small cluster onto each other: its distortion is infinite at every n "
        f"(in rounding, {min(found['MDS'].values()):.0e} times the bound or more), so that its growth decides nothing. "
        + "; ".join(
            f"Delta 2^{levels}, d = {d}: ours {found['ours'][levels, d, 256]:.2f} -> "
            f"{found['ours'][levels, d, 4096]:.2f}, "
            f"line {found['line'][levels, d, 256]:.3g} -> {found['line'][levels, d, 4096]:.3g}"
            for levels, d in pairs
        ),
    )


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{value:.3g} {name}" for name, value in values.items())


def _random_tree(n_leaves: int, depth: int, rng: np.random.Generator) -> Integers:
    """Parents of a random tree of about `n_leaves` leaves: every level has its share of the nodes, at random places."""
    sizes = np.unique(np.rint(n_leaves ** (np.arange(1, depth + 1) / depth)).astype(int))
    sizes = np.concatenate([np.arange(1, depth - len(sizes) + 1), sizes]) if len(sizes) < depth else sizes
    parents, first, before = [np.array([-1])], 0, 1
    for size in np.sort(sizes):
        parents.append(np.sort(rng.integers(first, first + before, size=size)))
        first, before = first + before, int(size)
    return np.concatenate(parents)


def _depths(parents: Integers) -> Integers:
    depths = np.zeros(len(parents), dtype=np.int64)
    for node in range(1, len(parents)):
        depths[node] = depths[parents[node]] + 1
    return depths


def _weight_families(n: int, rng: np.random.Generator) -> dict[str, Floats]:
    halving = 2.0 ** -np.arange(n)
    # Below the smallest share there are no cells; what is left of the leaves weighs nothing.
    halving[halving < 2 * SMALLEST] = 0.0
    return {
        "uniform": np.ones(n),
        "2^-i": rng.permutation(halving),
        "Pareto(0.5)": rng.pareto(0.5, n) + 1e-3,
        "one huge, the rest dust": rng.permutation(np.concatenate([[1.0], 1e-12 * (1 + rng.random(n - 1))])),
    }


def _fitted(model: Any, parents: Integers, weights: Floats) -> Any:
    with warnings.catch_warnings():
        # Of cells too small for float64, which claims leave out.
        warnings.simplefilter("ignore", UserWarning)
        return model.fit((parents, weights))


def _largest_ratio(parents: Integers, weights: Floats, method: Method) -> float:
    return float(np.nanmax(_fitted(PolygonalTreemap(method), parents, weights).aspect_ratios_))


def _largest_of_boxes(parents: Integers, weights: Floats, layout: Any) -> float:
    """Largest squared diameter by area of a treemap of rectangles; their sides tell it exactly."""
    totals = np.zeros(len(parents))
    totals[np.setdiff1d(np.arange(len(parents)), parents)] = weights
    for node in range(len(parents) - 1, 0, -1):
        totals[parents[node]] += totals[node]
    depths, order = _depths(parents), np.argsort(parents, kind="stable")
    begin = np.searchsorted(parents[order], np.arange(len(parents) + 1))
    sides = np.full((len(parents), 2), np.nan)
    sides[0] = 1.0
    for node in range(len(parents)):
        children = order[begin[node] : begin[node + 1]]
        children = children[totals[children] >= SMALLEST * totals[0]]
        if len(children) and not np.isnan(sides[node, 0]):
            sides[children] = layout(totals[children], sides[node], int(depths[node]))
    width, height = sides[~np.isnan(sides[:, 0])].T
    return float((width / height + height / width).max())


def _slice_and_dice(weights: Floats, sides: Floats, depth: int) -> Floats:
    cut = np.tile(sides, (len(weights), 1))
    cut[:, depth % 2] *= weights / weights.sum()
    return cut


def _squarify(weights: Floats, sides: Floats, depth: int) -> Floats:
    """Bruls, Huizing and van Wijk: rows along the shorter side, as long as their worst ratio gets no worse."""
    order = np.argsort(-weights, kind="stable")
    # Weights still to place, summed from the small ones.
    rest = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
    found, free = np.empty((len(weights), 2)), sides.astype(float).copy()
    start = 0
    while start < len(order):
        short = int(np.argmin(free))
        best, stop = np.inf, start
        scale = free.prod() / rest[start]
        for end in range(start + 1, len(order) + 1):
            row = weights[order[start:end]] * scale
            thick = row.sum() / free[short]
            worst = max(float((thick * thick / row).max()), float((row / (thick * thick)).max()))
            if worst > best:
                break
            best, stop = worst, end
        row = weights[order[start:stop]] * scale
        thick = row.sum() / free[short]
        found[order[start:stop], short] = row / thick
        found[order[start:stop], 1 - short] = thick
        # What is left is as thick as its weight asks for: a difference would lose all digits.
        free[1 - short] *= rest[stop] / rest[start]
        start = stop
    return found


def _outside(model: RectangularTreemap) -> float:
    boxes, parents = model.boxes_, model.tree_.parents
    child = np.flatnonzero(~np.isnan(boxes[:, 0, 0]) & (parents >= 0))
    around = boxes[parents[child]]
    return float(max((around[:, 0] - boxes[child, 0]).max(), (boxes[child, 1] - around[:, 1]).max()))


def _overlap(model: RectangularTreemap) -> float:
    """Largest, over pairs of siblings, of the least overlap along an axis."""
    worst, parents = 0.0, model.tree_.parents
    there = ~np.isnan(model.boxes_[:, 0, 0])
    for node in np.unique(parents[1:]):
        boxes = model.boxes_[(parents == node) & there]
        # Of very many siblings, some 500 in even steps: pairs would fill the memory.
        boxes = boxes[:: 1 + len(boxes) // 500]
        if len(boxes) > 1:
            lower = np.maximum(boxes[:, None, 0], boxes[None, :, 0])
            upper = np.minimum(boxes[:, None, 1], boxes[None, :, 1])
            common = (upper - lower).min(axis=2)
            np.fill_diagonal(common, 0.0)
            worst = max(worst, float(common.max()))
    return worst


def _random_hst(n: int, levels: int, rng: np.random.Generator) -> Floats:
    """Distances 1, 2, 4, ..., 2^levels of a random tree: the number of clusters grows evenly, each parts at random.

    All points are at the bottom, so that the ratio of distances is 2^levels whatever their number.
    """
    clusters = np.arange(n)
    distances = np.zeros((n, n))
    for level in range(levels + 1):
        n_above = max(1, round(n ** (1 - (level + 1) / (levels + 1))))
        n_here = int(clusters.max()) + 1
        above = np.concatenate([np.arange(n_above), rng.integers(n_above, size=n_here - n_above)])
        following = rng.permutation(above)[clusters]
        met = (following[:, None] == following[None, :]) & (clusters[:, None] != clusters[None, :])
        distances[met & (distances == 0)] = 2.0**level
        clusters = following
    return distances


def _classical_scaling(distances: Floats, d: int) -> Floats:
    """Torgerson's coordinates, by the leading eigenvectors of the centred squares."""
    squares = distances.astype(np.float32) ** 2
    means = squares.mean(axis=0)
    shift = float(means.mean())

    def product(x: Floats) -> Floats:
        x = x.ravel().astype(np.float32)
        return -0.5 * (squares @ x - means * x.sum() - means @ x + shift * x.sum())

    n = len(distances)
    operator = LinearOperator((n, n), matvec=product, dtype=np.float32)
    values, vectors = eigsh(operator, k=d, which="LA", v0=np.random.default_rng(0).normal(size=n).astype(np.float32))
    return vectors.astype(np.float64) * np.sqrt(np.maximum(values, 0))


def _on_a_line(tree: Floats) -> Floats:
    """Points in the order of the leaves, each as far from the last as it is from it in the tree: none contracts."""
    order = leaves_list(tree)
    distances = squareform(cophenet(tree))
    place = np.empty((len(order), 1))
    place[order, 0] = np.concatenate([[0.0], np.cumsum(distances[order[:-1], order[1:]])])
    return place


def _distortion(distances: Floats, points: Floats) -> float:
    largest, least = 0.0, np.inf
    for start in range(0, len(points) - 1, 512):
        stop = min(start + 512, len(points))
        embedded = np.sqrt(((points[start:stop, None] - points[None, start:]) ** 2).sum(-1))
        above = np.triu(np.ones(embedded.shape, dtype=bool), 1)
        ratio = embedded[above] / distances[start:stop, start:][above]
        largest, least = max(largest, float(ratio.max())), min(least, float(ratio.min()))
    return largest / max(least, 1e-300)
