"""Claims of "Disentangled Structural and Featural Representation for Task-Agnostic Graph Valuation"."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paperworks._extras import require
from paperworks._threads import one_thread
from paperworks.claims import Curve, Measurement, Scale, at_least, at_most, claim
from paperworks.graphs import (
    GraphBroker,
    GraphBuyer,
    GraphSeller,
    GraphValuator,
    GraphValue,
    graph_wasserstein_distance,
)

Matrix = NDArray[np.float64]

# Shares of edges whose ends are exchanged, degrees kept.
REWIRED = (0.0, 0.02, 0.05, 0.1, 0.2)
PROXY = "the karate club, other small networks and drawn graphs stand in for the paper's molecules and social networks"


@claim(
    "disparity follows structure",
    published="captures the structural disparities",
    where="abstract",
    measured="rank correlation with rewiring {karate:.2f} karate club, {blocks:.2f} blocks, {attachment:.2f} "
    "preferential attachment; {copy:.1e} between copies",
    seeds=5,
    proxy=PROXY,
)
@one_thread()
def disparity_follows_structure(scale: Scale, seed: int) -> Measurement:
    """The graph Wasserstein distance after matching tells how far a seller's structure is from the buyer's."""
    figures: dict[str, float] = {}
    copies, curves = [], []
    for name, graph in _networks(scale, seed).items():
        distances = [
            graph_wasserstein_distance(A, B, random_state=seed, device="cpu") for A, B in _rewired_copies(graph, seed)
        ]
        # In exchanges, as a share of a small network may be none of its edges.
        figures[name] = _rank_correlation([_exchanges(graph, share) for share in REWIRED], distances)
        copies.append(distances[0])
        if seed == 0:
            curves.append(Curve(name, REWIRED, distances, "share of edges rewired", "structural disparity"))
    return Measurement(
        [
            # "Captures": in order but for one exchange of neighbours among five levels (.9), on average over seeds.
            *(at_least(f"rank correlation, {name}", value, 0.9, across="mean") for name, value in figures.items()),
            at_least("lowest rank correlation of a seed", min(figures.values()), 0.9, across="every"),
            # A copy under other names is no other structure; distances of graphs are of order one.
            at_most("distance between copies", max(copies), 1e-6, across="every"),
        ],
        figures={**figures, "copy": max(copies)},
        curves=curves,
    )


@claim(
    "relevance falls and diversity rises",
    published="captures statistical similarities (relevance) and differences (diversity)",
    where="abstract",
    measured="rank correlation with the change {fall:.2f} relevance, {rise:.2f} diversity on Gaussian features; "
    "{digits_fall:.2f} and {digits_rise:.2f} on digits",
    seeds=3,
    proxy=PROXY + "; leading components of digits for real features",
)
@one_thread()
def scores_follow_features(scale: Scale, seed: int) -> Measurement:
    """As a seller's features turn away from the buyer's, or grow beyond them, relevance falls and diversity rises."""
    return _scores_along_changes(scale, seed, propagated=False)


@claim(
    "the same after message passing",
    published="captures statistical similarities (relevance) and differences (diversity)",
    where="abstract",
    measured="rank correlation with the change {fall:.2f} relevance, {rise:.2f} diversity on Gaussian features; "
    "{digits_fall:.2f} and {digits_rise:.2f} on digits",
    seeds=3,
    proxy=PROXY + "; nearest neighbours among digits for graphs with real features",
)
@one_thread()
def scores_follow_propagated_features(scale: Scale, seed: int) -> Measurement:
    """With features passed along each party's own edges, relevance falls and diversity rises with the change too."""
    return _scores_along_changes(scale, seed, propagated=True)


@claim(
    "structure and features are disentangled",
    published="disentangled structural and featural representation",
    where="title and abstract",
    measured="features unpropagated change by {features:.1e} with structure, disparity by {structure:.1e} with "
    "features; propagated relevance does change, by {propagated:.2f}",
    seeds=3,
    proxy=PROXY,
)
@one_thread()
def structure_and_features_apart(scale: Scale, seed: int) -> Measurement:
    """The structural score does not depend on features, nor the featural score (unpropagated) on structure."""
    rng = np.random.default_rng(seed)
    graph = _networks(scale, seed)["blocks"]
    pairs = [B for _, B in _rewired_copies(graph, seed)]
    X, Y = rng.normal(size=(2, len(pairs[0]), 5)) * np.arange(1.0, 6.0)
    model = GraphValuator(n_restarts=3, random_state=seed, device="cpu").fit(pairs[0], X)
    other_structure = [model.score_seller(B, Y) for B in pairs]
    other_features = [model.score_seller(pairs[-1], _turned(X, Y, t)) for t in (0.0, 0.5, 1.0)]
    features = max(_spread(other_structure, "raw_relevance"), _spread(other_structure, "raw_diversity"))
    structure = _spread(other_features, "structural_disparity")
    return Measurement(
        [
            # Apart to rounding.
            at_most("change of unpropagated scores with structure", features, 1e-9, across="every"),
            at_most("change of disparity with features", structure, 1e-9, across="every"),
            # Otherwise nothing was varied: each score must follow what it is a score of.
            at_least("change of disparity with structure", _spread(other_structure, "structural_disparity"), 0.1),
            at_least("change of relevance with features", _spread(other_features, "raw_relevance"), 0.1),
        ],
        figures={
            "features": features,
            "structure": structure,
            "propagated": _spread(other_structure, "relevance"),
        },
        note="propagated features pass along the edges, so that their scores depend on structure as well; the shared "
        "permutation has no part in them, as second moments do not depend on the order of nodes",
    )


@claim(
    "alignment matters",
    published="aligns graphs using a shared node permutation based on graph matching",
    where="abstract",
    measured="{times:.0f} times nearer with matching than without, at 2 % of edges rewired",
    seeds=5,
    proxy=PROXY,
)
@one_thread()
def alignment_matters(scale: Scale, seed: int) -> Measurement:
    """Without the shared permutation graphs that are nearly the same seem far apart."""
    ratios = {}
    for name, graph in _networks(scale, seed).items():
        A, B = list(_rewired_copies(graph, seed))[REWIRED.index(0.02)]
        aligned = graph_wasserstein_distance(A, B, squared=True, random_state=seed, device="cpu")
        unaligned = graph_wasserstein_distance(A, B, squared=True, permutation=None)
        # Where nothing was rewired the copy is at 0, and the ratio large, not infinite.
        ratios[name] = unaligned / max(aligned, 1e-6)
    smallest = min(ratios.values())
    return Measurement(
        # An order of magnitude: what two per cent of edges change must not be lost in what order changes.
        [at_least("squared distance without matching over that with it", smallest, 10.0, unit="x", across="every")],
        figures={"times": smallest},
        note=", ".join(f"{name} {ratio:.0f}x" for name, ratio in ratios.items()),
    )


@claim(
    "parties stay blind",
    published="buyers and sellers remain unaware of each other's datasets",
    where="abstract",
    measured="{query:.0f} and {answer:.0f} numbers exchanged for {features:.0f} features; "
    "other features with equal moments give the same messages to {same:.1e}",
    seeds=3,
    proxy=PROXY,
)
def parties_stay_blind(scale: Scale, seed: int) -> Measurement:
    """The buyer tells the seller directions, the seller answers with one number each, and nothing more passes."""
    rng = np.random.default_rng(seed)
    A = next(iter(_rewired_copies(_networks(scale, seed)["karate"], seed)))[0]
    n, d = len(A), 6
    X, Y = rng.normal(size=(2, n, d)) * np.arange(1.0, d + 1)
    # An orthogonal map of the nodes that keeps means: other features, with the same second moments.
    Q = _rotation_that_keeps_means(n, rng)
    messages = []
    for mine, theirs in ((X, Y), (Q @ X, Q @ Y)):
        query = GraphBuyer(A, mine, n_hops=0).query()
        messages.append((query, GraphSeller(A, theirs, n_hops=0).answer(query.directions)))
    (query, answer), (again, answer_again) = messages
    same = max(
        float(np.abs(query.directions - again.directions).max()),
        float(np.abs(query.variances - again.variances).max()),
        float(np.abs(answer - answer_again).max()),
    )
    r = len(query.variances)
    wrong_sizes = (query.directions.shape != (d, r)) + (answer.shape != (r,)) + (not r <= d)
    shown = _public(GraphBuyer(A, X)) | _public(GraphSeller(A, Y)) | _public(GraphBroker())
    return Measurement(
        [
            # d directions of r numbers, and r answers: what the protocol says.
            at_most("messages of another size", wrong_sizes, 0, across="every"),
            # Rounding, of numbers up to the square of 6.
            at_most("difference between messages of unlike features", same, 1e-9, across="every"),
            at_least("difference between those features", float(np.abs(Q @ X - X).max()), 1.0),
            at_most("further things that a party gives away", len(shown - PROTOCOL), 0, across="every"),
        ],
        figures={"query": d * r, "answer": r, "features": n * d, "same": same},
        note="structure is not hidden from the broker, who matches; names of nodes are",
    )


def _scores_along_changes(scale: Scale, seed: int, *, propagated: bool) -> Measurement:
    levels = np.linspace(0.0, 1.0, 10)
    criteria, curves = [], []
    figures = {"fall": -1.0, "rise": 1.0, "digits_fall": -1.0, "digits_rise": 1.0}
    for setting, (buyer, seller) in _featured_graphs(scale, seed).items():
        model = GraphValuator(n_hops=2 if propagated else 0, permutation="spectral-bound").fit(*buyer)
        prefix = "digits_" if setting == "digits" else ""
        for change in (_turned, _rescaled):
            values = [model.score_seller(seller[0], change(buyer[1], seller[1], t)) for t in levels]
            name = f"{setting} features {change.__name__.strip('_')}"
            relevance, diversity = [each.relevance for each in values], [each.diversity for each in values]
            fall, rise = _rank_correlation(levels, relevance), _rank_correlation(levels, diversity)
            # In order but for a few exchanges of neighbours among ten levels.
            criteria.append(at_most(f"relevance against the change, {name}", fall, -0.9, across="every"))
            criteria.append(at_least(f"diversity against the change, {name}", rise, 0.9, across="every"))
            figures[prefix + "fall"] = max(figures[prefix + "fall"], fall)
            figures[prefix + "rise"] = min(figures[prefix + "rise"], rise)
            if seed == 0:
                labels = "change", "score"
                curves.append(Curve(f"relevance, {name}", levels.tolist(), relevance, *labels))
                curves.append(Curve(f"diversity, {name}", levels.tolist(), diversity, *labels))
    note = (
        "passed along the edges of two different graphs, equal features differ in scale from the start; as they turn, "
        "the variance along one direction after another comes level with the buyer's, and each brings the product of "
        "differences down: relevance stays in order, diversity does not"
        if propagated
        else ""
    )
    return Measurement(criteria, figures, curves, note)


PROTOCOL = {"query", "answer", "structure", "score", "disparity"}


def _networks(scale: Scale, seed: int) -> dict[str, Any]:
    nx = require("networkx", "graphs", "claims on networks")
    blocks = nx.stochastic_block_model([20] * 3, 0.03 + 0.27 * np.eye(3), seed=seed)
    found = {
        "karate": nx.karate_club_graph(),
        "blocks": blocks,
        "attachment": nx.barabasi_albert_graph(60, 2, seed=seed),
    }
    if scale == "full":
        found |= {
            "miserables": nx.les_miserables_graph(),
            "davis": nx.davis_southern_women_graph(),
            "florentine": nx.florentine_families_graph(),
            "large": nx.barabasi_albert_graph(200, 2, seed=seed),
        }
    return {name: nx.convert_node_labels_to_integers(graph) for name, graph in found.items()}


def _rewired_copies(graph: Any, seed: int) -> Iterator[tuple[Matrix, Matrix]]:
    """The graph, and copies with more and more edges rewired and all nodes relabelled."""
    nx = require("networkx", "graphs", "claims on networks")
    rng = np.random.default_rng(seed)
    A = nx.to_numpy_array(graph, weight=None)
    for share in REWIRED:
        copy = graph.copy()
        if swaps := _exchanges(graph, share):
            nx.double_edge_swap(copy, nswap=swaps, max_tries=100_000, seed=seed)
        order = rng.permutation(len(A))
        yield A, nx.to_numpy_array(copy, nodelist=order, weight=None)


def _exchanges(graph: Any, share: float) -> int:
    """An exchange moves two edges."""
    return round(share * graph.number_of_edges() / 2)


def _featured_graphs(scale: Scale, seed: int) -> dict[str, Any]:
    """Graph and features of a buyer and a seller whose features have the same distribution."""
    nx = require("networkx", "graphs", "claims on networks")
    rng = np.random.default_rng(seed)
    n, d = (200, 6) if scale == "small" else (1000, 12)
    graphs = [nx.to_numpy_array(nx.barabasi_albert_graph(n, 3, seed=2 * seed + i)) for i in range(2)]
    # A random covariance with eigenvalues from 4 down to 1/4.
    root = np.linalg.qr(rng.normal(size=(d, d)))[0] * np.geomspace(2.0, 0.5, d)
    gaussian = [(A, rng.normal(size=(n, d)) @ root.T) for A in graphs]
    return {"Gaussian": gaussian, "digits": _digit_graphs(n, d, rng)}


def _digit_graphs(n: int, d: int, rng: np.random.Generator) -> list[tuple[Matrix, Matrix]]:
    """Two disjoint samples of digits, each tied to its 8 nearest, with the leading components of all as features."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import kneighbors_graph

    images = _digits()
    components = PCA(d, random_state=0).fit_transform(images)
    chosen = rng.permutation(len(images))[: 2 * min(n, len(images) // 2)]
    parties = []
    for part in np.split(chosen, 2):
        near = kneighbors_graph(images[part], 8).toarray()
        parties.append((np.maximum(near, near.T), components[part]))
    return parties


@cache
def _digits() -> Matrix:
    from paperworks.datasets import load_digits

    digits = np.asarray(load_digits().data, dtype=np.float64)
    return digits.reshape(len(digits), -1)


def _turned(buyer: Matrix, seller: Matrix, t: float) -> Matrix:
    """The seller's features with the buyer's first direction turned towards its last, the second to the last but one.

    At t = 1 it is a quarter turn, and large variances are where the buyer's are small.
    """
    U = np.linalg.eigh(np.cov(buyer.T))[1]
    d = len(U)
    R, angle = np.eye(d), t * np.pi / 2
    for i in range(d // 2):
        j = d - 1 - i
        R[i, i] = R[j, j] = np.cos(angle)
        R[i, j], R[j, i] = np.sin(angle), -np.sin(angle)
    return np.asarray(seller @ U @ R @ U.T)


def _rescaled(buyer: Matrix, seller: Matrix, t: float) -> Matrix:
    """The seller's features up to four times as large."""
    return (1.0 + 3.0 * t) * seller


def _rotation_that_keeps_means(n: int, rng: np.random.Generator) -> Matrix:
    """A random orthogonal map with the constant vector fixed."""
    basis = np.linalg.qr(np.column_stack([np.ones(n), rng.normal(size=(n, n - 1))]))[0]
    inner = np.eye(n)
    inner[1:, 1:] = np.linalg.qr(rng.normal(size=(n - 1, n - 1)))[0]
    return np.asarray(basis @ inner @ basis.T)


def _spread(values: list[GraphValue], field: str) -> float:
    numbers = [getattr(value, field) for value in values]
    return float(max(numbers) - min(numbers))


def _rank_correlation(levels: Any, values: Any) -> float:
    from scipy.stats import spearmanr

    # Ranks give fractions: .9 must not be .8999999.
    return round(float(spearmanr(levels, values)[0]), 12)


def _public(thing: Any) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}
