"""Command: sellers' graphs from files, valued for the buyer whose graph comes first."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.sparse import coo_array, csr_array, load_npz

from paperworks._extras import require
from paperworks._files import InputError, read_array

KINDS = (".npz", ".npy", ".graphml", ".gml", ".csv", ".txt")


def run(
    *files: Path,
    out: Path,
    features: str | None = None,
    n_hops: int = 2,
    components: float = 0.95,
    permutation: Literal["faq", "got", "spectral", "degree", "spectral-bound", "none"] = "faq",
    restarts: int = 10,
    statistic: Literal["norm", "variance"] = "norm",
    regularization: float = 0.0,
    unequal: Literal["pad", "coarsen"] = "pad",
    symmetrize: bool = False,
    disparity_weight: float = -1.0,
    relevance_weight: float = 1.0,
    diversity_weight: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Value sellers' graphs for a buyer: structural disparity, relevance and diversity of each.

    Parameters
    ----------
    files : Path
        The buyer's graph, then the sellers': .npz with arrays adjacency and features, or SciPy's sparse .npz; dense
        .npy; .graphml or .gml (extra graphs); edges as source, target and perhaps weight in a .csv or .txt. Without
        files: the karate club, with copies of it that are relabelled, rewired and given other features.
    out : Path
        Folder for the results.
    features : str, optional
        What holds the features of the nodes, names parted by commas: attributes of nodes in .graphml and .gml files,
        arrays in .npz files (without it, the array features). If no file has features, structure alone is valued.
    n_hops : int, default 2
        How often features pass along the edges.
    components : float, default 0.95
        Share of the buyer's variance that the compared directions explain.
    permutation : {"faq", "got", "spectral", "degree", "spectral-bound", "none"}, default "faq"
        How nodes are matched.
    restarts : int, default 10
        Starts of the matching.
    statistic : {"norm", "variance"}, default "norm"
        What sellers tell of their covariance along a direction.
    regularization : float, default 0.0
        Regularization of Laplacians.
    unequal : {"pad", "coarsen"}, default "pad"
        What makes graphs of unequal size equal.
    symmetrize : bool, default False
        Whether directed edges count in both directions.
    disparity_weight : float, default -1.0
        Weight of normalized disparity in the score that ranks.
    relevance_weight : float, default 1.0
        Weight of relevance.
    diversity_weight : float, default 0.0
        Weight of diversity.
    seed : int, default 0
        Seed of the matching's starts.

    Returns
    -------
    dict
        Scores of every seller, and the best by the weights.
    """
    from paperworks.graphs import GraphValuator

    offers, used = _offers(files, features)
    buyer, *sellers = offers
    model = GraphValuator(
        n_hops,
        None if permutation == "none" else permutation,
        components,
        restarts,
        seed,
        regularization=regularization,
        statistic=statistic,
        unequal=unequal,
        symmetrize=symmetrize,
        progress=False,
    )
    with _named(buyer.name):
        model.fit(buyer.graph, buyer.features)
    weights = {
        "normalized_disparity": disparity_weight,
        "relevance": relevance_weight,
        "diversity": diversity_weight,
    }
    values: dict[str, dict[str, Any]] = {}
    for seller in sellers:
        with _named(seller.name):
            value = asdict(model.score_seller(seller.graph, seller.features))
        matched = value.pop("permutation")
        if matched is not None:
            pairs = [(buyer.node(i), seller.node(j)) for i, j in enumerate(matched.tolist())]
            _write(out / f"permutation-{seller.name}.csv", [("buyer", "seller"), *pairs])
        score = sum(weight * value[key] for key, weight in weights.items() if not isnan(value[key]))
        values[seller.name] = {"score": score, **value}
    ranked = sorted(values, key=lambda name: -values[name]["score"])
    fields = list(values[ranked[0]])
    _write(out / "sellers.csv", [("seller", *fields), *((name, *values[name].values()) for name in ranked)])
    _draw(values, ranked, used, out / "picture.png")
    return {
        "input": used,
        "best": ranked[0],
        "sellers": {name: {key: _plain(each) for key, each in values[name].items()} for name in ranked},
        "n_feature_components": values[ranked[0]]["n_feature_components"],
        "seed": seed,
    }


@dataclass(frozen=True)
class _Offer:
    """A party's graph, with the names of its nodes where the file has some."""

    name: str
    graph: Any
    features: Any
    nodes: list[Any] | None = None

    def node(self, i: int) -> Any:
        """Name of a node; nothing for what pads the smaller graph."""
        names = self.nodes if self.nodes is not None else range(self.graph.shape[0])
        return names[i] if i < len(names) else ""


@contextmanager
def _named(party: str) -> Iterator[None]:
    """Say whose graph it is that can't be used."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise InputError(f"{party}: {error}") from None


def _plain(value: Any) -> Any:
    # NaN is no JSON.
    return None if isinstance(value, float) and isnan(value) else value


def _write(path: Path, rows: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _offers(files: tuple[Path, ...], features: str | None) -> tuple[list[_Offer], str]:
    if not files:
        return _bundled(), "networkx's karate club and copies of it, with random features"
    if len(files) < 2:
        raise InputError(f"a buyer's graph and at least one seller's are needed, got {len(files)} file")
    names = [path.stem for path in files[1:]]
    if len(set(names)) < len(names):
        raise InputError(f"two sellers have the same name: {', '.join(sorted(names))}")
    offers = [_read(path, "buyer" if i == 0 else path.stem, features) for i, path in enumerate(files)]
    return offers, f"{files[0].name} for the buyer; {', '.join(path.name for path in files[1:])}"


def _bundled() -> list[_Offer]:
    nx = require("networkx", "graphs", "the bundled karate club")
    rng = np.random.default_rng(0)
    club = nx.karate_club_graph()
    adjacency = nx.to_numpy_array(club, weight=None)
    # Columns of unequal variance, so that directions are told apart.
    x = rng.normal(size=(len(club), 4)) * [2.0, 1.5, 1.0, 0.5]
    order = rng.permutation(len(club))
    rewired = nx.to_numpy_array(nx.double_edge_swap(club.copy(), nswap=8, max_tries=1000, seed=0), weight=None)
    turned = x @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    random_graph = nx.to_numpy_array(nx.gnm_random_graph(34, 78, seed=0))
    return [
        _Offer("buyer", adjacency, x),
        _Offer("relabelled", adjacency[np.ix_(order, order)], x[order]),
        _Offer("rewired", rewired, x),
        _Offer("other-features", adjacency, turned),
        _Offer("random-graph", random_graph, rng.normal(size=(34, 4))),
    ]


def _read(path: Path, name: str, features: str | None) -> _Offer:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix not in KINDS:
        raise InputError(f"{path}: unreadable format {path.suffix!r}; accepted here: {', '.join(KINDS)}")
    if path.suffix in {".graphml", ".gml"}:
        return _from_networkx(path, name, features)
    if path.suffix in {".csv", ".txt"}:
        return _from_edges(path, name)
    return _from_npz(path, name, features) if path.suffix == ".npz" else _Offer(name, read_array(path), None)


def _from_networkx(path: Path, name: str, features: str | None) -> _Offer:
    networkx = require("networkx", "graphs", "reading .graphml and .gml files")
    try:
        graph = networkx.read_graphml(path) if path.suffix == ".graphml" else networkx.read_gml(path)
    except Exception as error:  # parsers raise what they like
        raise InputError(f"{path}: can't be read as {path.suffix}: {' '.join(str(error).split())}") from None
    if features is None:
        return _Offer(name, graph, None, list(graph))
    columns = []
    for attribute in (word.strip() for word in features.split(",")):
        values = [found.get(attribute) for _, found in graph.nodes(data=True)]
        if not all(isinstance(value, (int, float)) for value in values):
            raise InputError(f"{path}: features: attribute {attribute!r} is not a number on every node")
        columns.append(np.array(values, dtype=np.float64))
    return _Offer(name, graph, np.column_stack(columns), list(graph))


def _from_npz(path: Path, name: str, features: str | None) -> _Offer:
    """Arrays adjacency and perhaps features, or a sparse matrix as SciPy stores it."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        if "adjacency" not in arrays:
            return _Offer(name, csr_array(load_npz(path)), None)
    except Exception as error:  # not an archive, or not of a sparse matrix
        raise InputError(
            f"{path}: can't be read as an .npz of adjacency and features, or of a sparse matrix: "
            f"{' '.join(str(error).split())}"
        ) from None
    wanted = [] if features is None else [word.strip() for word in features.split(",")]
    columns = [arrays[word] for word in wanted if word in arrays]
    if wanted and len(columns) == len(wanted):
        return _Offer(name, arrays["adjacency"], np.column_stack(columns))
    if wanted and "features" not in arrays:
        raise InputError(f"{path}: features: holds {', '.join(arrays)}, neither {features} nor features")
    return _Offer(name, arrays["adjacency"], arrays.get("features"))


def _from_edges(path: Path, name: str) -> _Offer:
    """Lines of source, target and perhaps weight, nodes in the order of their names."""
    text = path.read_text(encoding="utf-8-sig")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise InputError(f"{path}: is empty")
    separator = next((mark for mark in ",;\t" if mark in lines[0]), None)
    rows = [[word.strip() for word in line.split(separator)] for line in lines]
    if rows[0][:2] in (["source", "target"], ["from", "to"]):
        rows = rows[1:]
    weights: dict[tuple[str, str], float] = {}
    for row in rows:
        if len(row) not in (2, 3):
            raise InputError(f"{path}: lines must be source,target or source,target,weight, got {','.join(row)!r}")
        try:
            weight = float(row[2]) if len(row) == 3 else 1.0
        except ValueError:
            raise InputError(f"{path}: the weight of {row[0]},{row[1]} is no number: {row[2]!r}") from None
        first, second = sorted(row[:2])
        # An edge may stand in both directions; two different weights would be a directed graph.
        if weights.setdefault((first, second), weight) != weight:
            raise InputError(f"{path}: {first},{second} has two weights, {weights[first, second]:g} and {weight:g}")
    names = sorted({name for edge in weights for name in edge}, key=lambda name: (len(name), name))
    place = {name: i for i, name in enumerate(names)}
    ends = np.array([(place[first], place[second]) for first, second in weights])
    values = np.where(ends[:, 0] == ends[:, 1], 0.5, 1.0) * np.array(list(weights.values()))
    half = coo_array((values, (ends[:, 0], ends[:, 1])), shape=(len(names), len(names)))
    return _Offer(name, csr_array(half + half.T), None, names)


def _draw(values: dict[str, dict[str, Any]], ranked: list[str], used: str, path: Path) -> None:
    """Draw each seller's scores as bars, best first, and, if there are features, relevance against disparity."""
    from matplotlib.figure import Figure

    featured = not isnan(values[ranked[0]]["relevance"])
    keys = ("normalized_disparity", "relevance", "diversity") if featured else ("normalized_disparity",)
    figure = Figure(figsize=(10, max(4.5, 1 + 0.3 * len(keys) * len(ranked))), layout="constrained")
    left, *further = figure.subplots(1, 2 if featured else 1, squeeze=False)[0]
    places = np.arange(len(ranked))
    for shift, key in enumerate(keys):
        heights = [values[name][key] for name in ranked]
        left.barh(places + 0.27 * (shift - (len(keys) - 1) / 2), heights, height=0.25, label=key.replace("_", " "))
    left.set_yticks(places, ranked)
    left.invert_yaxis()
    left.set(xlim=(0, 1), xlabel="score, in [0, 1]")
    left.legend(frameon=False, fontsize=8)
    left.set_title("sellers, best first by the weights", fontsize=10)
    for right in further:
        farthest = max(values[name]["structural_disparity"] for name in ranked) or 1.0
        for name in ranked:
            x, y = values[name]["structural_disparity"], values[name]["relevance"]
            right.plot(x, y, "o", color="tab:blue")
            right.annotate(f" {name}", (x, y), fontsize=8)
        right.set(xlabel="structural disparity (graph Wasserstein distance)", ylabel="relevance of features")
        right.set(xlim=(-0.05 * farthest, 1.35 * farthest), ylim=(-0.05, 1.05))
        right.set_title(used if len(used) < 70 else used[:67] + "...", fontsize=8)
    for axes in (left, *further):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
