"""Command: distances in the user's road network from an oracle, its clusters, and its minor on chosen nodes."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from paperworks._extras import require
from paperworks._files import InputError, read_array

KINDS = (".gr", ".csv", ".txt", ".graphml", ".gml", ".npz", ".npy")
# Random pairs that are compared with exact distances where the user names none: sources, and targets of each.
SOURCES, TARGETS = 50, 40


class _Network(NamedTuple):
    """A graph, the names of its nodes, where they are if that is known, and what it is."""

    graph: sp.csr_array
    names: list[str]
    places: NDArray[np.float64] | None
    used: str


def run(
    *files: Path,
    out: Path,
    epsilon: float = 0.1,
    oracle: bool = True,
    pairs: Path | None = None,
    terminals: Path | None = None,
    zeta: float = 3.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Answer distances in a road network from an oracle, cut it into clusters, and shrink it to chosen nodes.

    Parameters
    ----------
    files : Path
        One undirected graph: .gr (DIMACS roads, PACE); edges as source, target and perhaps length in a .csv or .txt;
        .graphml or .gml with the lengths as weight (extra graphs); SciPy's sparse .npz, or a dense .npy. Coordinates of
        a .gr may follow as DIMACS .co. Without files: the roads of Minnesota.
    out : Path
        Folder for the results.
    epsilon : float, default 0.1
        Answers are at most 1 + epsilon times the distance, clusters at most epsilon times the diameter wide.
    oracle : bool, default True
        Whether the oracle is made, and kept in oracle.npz.
    pairs : Path, optional
        Pairs of nodes, a line each, whose distances are wanted; random pairs beside exact distances when not given.
    terminals : Path, optional
        Nodes, a line each, that the graph is shrunk to.
    zeta : float, default 3.0
        Growth of the clusters that are given to terminals.
    seed : int, default 0
        Seed of the random pairs.

    Returns
    -------
    dict
        Clusters; size and stretch of the oracle; edges and distortion of the minor.
    """
    from paperworks.combinatorial.shortcut_partition import shortcut_partition

    network = _network(files)
    graph, names = network.graph, network.names
    wanted = None if pairs is None else _read_pairs(pairs, names)
    chosen = None if terminals is None else _read_nodes(terminals, names)
    clusters = shortcut_partition(graph, epsilon)
    summary: dict[str, Any] = {
        "input": f"{network.used} ({graph.shape[0]:,} nodes, {graph.nnz // 2:,} edges)",
        "clusters": len(clusters.centers_),
        "largest_diameter_over_graphs": float(clusters.strong_diameters().max() / (clusters.diameter or 1.0)),
    }
    _write(out / "clusters.csv", ["node", "cluster"], zip(names, clusters.labels_.tolist(), strict=True))
    labels, ratios = clusters.labels_, None
    if oracle:
        found, ratios = _ask(graph, names, epsilon, wanted, seed, out)
        summary |= found
    if chosen is not None:
        found, labels = _shrink(graph, names, chosen, zeta, out)
        summary |= found
    _draw(network, labels, chosen, ratios, epsilon, out / "picture.png")
    return summary


def _ask(
    graph: sp.csr_array, names: list[str], epsilon: float, wanted: NDArray[np.int64] | None, seed: int, out: Path
) -> tuple[dict[str, Any], NDArray[np.float64] | None]:
    """Make the oracle and answer pairs; return what to report, and ratios to exact distances of random pairs."""
    from scipy.sparse.csgraph import dijkstra

    from paperworks.combinatorial import DistanceOracle

    oracle = DistanceOracle(epsilon, n_jobs=-1).fit(graph)
    oracle.save(out / "oracle.npz")
    n = graph.shape[0]
    report = {
        "oracle_bytes": oracle.nbytes_,
        "bytes_a_node": oracle.nbytes_ / n,
        "matrix_over_oracle": 8.0 * n * n / oracle.nbytes_,
    }
    if wanted is not None:
        answers = oracle.query(wanted[:, 0], wanted[:, 1])
        rows = [(names[u], names[v], a) for (u, v), a in zip(wanted.tolist(), answers.tolist(), strict=True)]
        _write(out / "distances.csv", ["source", "target", "distance"], rows)
        return report | {"pairs": len(rows)}, None
    rng = np.random.default_rng(seed)
    sources, targets = rng.integers(n, size=SOURCES), rng.integers(n, size=(SOURCES, TARGETS))
    exact = np.take_along_axis(dijkstra(graph, indices=sources), targets, axis=1).ravel()
    u, v = np.repeat(sources, TARGETS), targets.ravel()
    answers = oracle.query(u, v)
    rows = [(names[a], names[b], *d) for a, b, *d in zip(u, v, answers.tolist(), exact.tolist(), strict=True)]
    _write(out / "distances.csv", ["source", "target", "distance", "exact"], rows)
    apart = np.isfinite(exact) & (exact > 0)
    ratios = answers[apart] / exact[apart]
    if not len(ratios):
        return report | {"pairs": len(rows)}, None
    stretch = {"pairs": len(rows), "mean_stretch": float(ratios.mean()), "largest_stretch": float(ratios.max())}
    return report | stretch, ratios


def _shrink(
    graph: sp.csr_array, names: list[str], chosen: NDArray[np.int64], zeta: float, out: Path
) -> tuple[dict[str, Any], NDArray[np.int32]]:
    from paperworks.combinatorial import steiner_point_removal

    minor, assignment, distortion = steiner_point_removal(graph, chosen, zeta=zeta)
    kept = [names[v] for v in chosen]
    upper = sp.triu(minor).tocoo()
    edges = zip(*(each.tolist() for each in (*upper.coords, upper.data)), strict=True)
    _write(out / "minor.csv", ["source", "target", "length"], [(kept[a], kept[b], d) for a, b, d in edges])
    served = [kept[part] if part >= 0 else "" for part in assignment.tolist()]
    _write(out / "parts.csv", ["node", "terminal"], zip(names, served, strict=True))
    return {"terminals": len(kept), "minor_edges": minor.nnz // 2, "distortion": distortion}, assignment


def _write(path: Path, header: list[str], rows: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def _network(files: tuple[Path, ...]) -> _Network:
    if not files:
        return _bundled()
    places_file = next((path for path in files if path.suffix == ".co"), None)
    graphs = [path for path in files if path is not places_file]
    if len(graphs) != 1:
        raise InputError(f"one graph, got {len(graphs)}: {', '.join(path.name for path in graphs)}")
    path = graphs[0]
    for each in files:
        if not each.is_file():
            raise InputError(f"{each}: no such file")
    if path.suffix not in KINDS:
        raise InputError(f"{path}: unreadable format {path.suffix!r}; accepted here: {', '.join(KINDS)}")
    places = None
    if path.suffix in {".graphml", ".gml"}:
        graph, names, places = _from_networkx(path)
    elif path.suffix in {".npz", ".npy"}:
        graph = _matrix(path)
        names = [str(i) for i in range(graph.shape[0])]
    else:
        graph, names = _from_gr(path) if path.suffix == ".gr" else _from_edges(path)
    if places_file is not None:
        places = _from_co(places_file, names)
    return _Network(graph, names, places, path.name)


def _bundled() -> _Network:
    """Roads of Minnesota, or made-up ones where their package can't be had."""
    from paperworks.combinatorial.shortcut_partition._generators import road_map, with_straight_lengths
    from paperworks.datasets import UnavailableError, load_minnesota

    try:
        adjacency, places = load_minnesota().data
        graph, used = with_straight_lengths(adjacency, places), "roads of Minnesota"
    except UnavailableError:
        graph, places = road_map(2642, 0)
        used = "a made-up road map, as the roads of Minnesota can't be had"
    return _Network(graph, [str(i) for i in range(graph.shape[0])], places, used)


def _from_networkx(path: Path) -> tuple[sp.csr_array, list[str], NDArray[np.float64] | None]:
    networkx = require("networkx", "graphs", "reading .graphml and .gml files")
    try:
        read = networkx.read_graphml(path) if path.suffix == ".graphml" else networkx.read_gml(path)
    except Exception as error:  # parsers raise what they like
        raise InputError(f"{path}: can't be read as {path.suffix}: {' '.join(str(error).split())}") from None
    try:
        places = np.array([(float(data["x"]), float(data["y"])) for _, data in read.nodes(data=True)])
    except (KeyError, TypeError, ValueError):
        places = None
    return *_checked(path, read), places


def _matrix(path: Path) -> sp.csr_array:
    if path.suffix == ".npy":
        return _checked(path, read_array(path))[0]
    try:
        stored = sp.load_npz(path)
    except Exception as error:  # not a sparse matrix, or no archive at all
        raise InputError(f"{path}: can't be read as a sparse .npz: {' '.join(str(error).split())}") from None
    return _checked(path, stored)[0]


def _checked(path: Path, graph: Any) -> tuple[sp.csr_array, list[str]]:
    from paperworks.combinatorial.shortcut_partition._lengths import check_lengths

    roads, nodes = check_lengths(str(path), graph)
    adjacency = sp.csr_array((roads.lengths, roads.indices, roads.indptr), shape=(roads.n, roads.n))
    return adjacency, [str(node) for node in (nodes or range(roads.n))]


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8-sig")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise InputError(f"{path}: is empty")
    return lines


def _rows(path: Path) -> list[list[str]]:
    """Fields of each line, without a line of names."""
    lines = _lines(path)
    separator = next((mark for mark in ",;\t" if mark in lines[0]), None)
    rows = [[word.strip() for word in line.split(separator)] for line in lines]
    if rows[0][:2] in (["source", "target"], ["from", "to"]) or rows[0][:1] in (["node"], ["terminal"]):
        rows = rows[1:]
    return rows


def _from_edges(path: Path) -> tuple[sp.csr_array, list[str]]:
    """Lines of source, target and perhaps length."""
    rows = _rows(path)
    lengths = []
    for row in rows:
        if len(row) not in (2, 3):
            raise InputError(f"{path}: lines must be source,target or source,target,length, got {','.join(row)!r}")
        lengths.append(_number(path, row[2], f"the length of {row[0]},{row[1]}") if len(row) == 3 else 1.0)
    names = sorted({name for row in rows for name in row[:2]}, key=lambda name: (len(name), name))
    place = {name: i for i, name in enumerate(names)}
    ends = np.array([(place[row[0]], place[row[1]]) for row in rows])
    both = np.concatenate([ends, ends[:, ::-1]])
    graph = sp.coo_array((np.array(lengths * 2), (both[:, 0], both[:, 1])), shape=(len(names), len(names)))
    return _checked(path, graph)[0], names


def _from_gr(path: Path) -> tuple[sp.csr_array, list[str]]:
    """DIMACS: ``p sp n m`` and arcs ``a u v length`` in both directions; PACE: ``p tw n m`` and edges ``u v``."""
    n, ends, lengths, arcs = 0, [], [], False
    for line in _lines(path):
        words = line.split()
        if words[0] == "c":
            continue
        if words[0] == "p" and len(words) == 4 and words[2].isdigit():
            n = int(words[2])
            continue
        arcs |= words[0] == "a"
        fields = words[1:] if words[0] in {"a", "e"} else words
        if len(fields) not in (2, 3) or not (fields[0].isdigit() and fields[1].isdigit()):
            raise InputError(f"{path}: lines must be 'a u v length' or 'u v', got {line!r}")
        u, v = int(fields[0]) - 1, int(fields[1]) - 1
        if not (0 <= u < n and 0 <= v < n):
            raise InputError(f"{path}: nodes must be in 1..{n}, as the line that starts with p says, got {line!r}")
        ends.append((u, v))
        lengths.append(_number(path, fields[2], f"the length in {line!r}") if len(fields) == 3 else 1.0)
    if not ends:
        raise InputError(f"{path}: has no edges")
    if not arcs:
        ends, lengths = ends + [(v, u) for u, v in ends], lengths * 2
    rows, columns = np.array(ends).T
    graph = sp.coo_array((np.array(lengths), (rows, columns)), shape=(n, n))
    return _checked(path, graph)[0], [str(i + 1) for i in range(n)]


def _from_co(path: Path, names: list[str]) -> NDArray[np.float64]:
    """DIMACS coordinates: ``v node x y``."""
    found = {words[1]: words[2:4] for words in map(str.split, _lines(path)) if words[0] == "v" and len(words) == 4}
    missing = next((name for name in names if name not in found), None)
    if missing is not None:
        raise InputError(f"{path}: has no coordinates of node {missing}")
    return np.array([[_number(path, x, f"a coordinate of {name}") for x in found[name]] for name in names])


def _number(path: Path, word: str, what: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(f"{path}: {what} is no number: {word!r}") from None


def _read_nodes(path: Path, names: list[str]) -> NDArray[np.int64]:
    return _places_of(path, [row[:1] for row in _rows(path)], names)[:, 0]


def _read_pairs(path: Path, names: list[str]) -> NDArray[np.int64]:
    rows = _rows(path)
    wrong = next((row for row in rows if len(row) != 2), None)
    if wrong is not None:
        raise InputError(f"{path}: lines must be source,target, got {','.join(wrong)!r}")
    return _places_of(path, rows, names)


def _places_of(path: Path, rows: list[list[str]], names: list[str]) -> NDArray[np.int64]:
    place = {name: i for i, name in enumerate(names)}
    unknown = next((name for row in rows for name in row if name not in place), None)
    if unknown is not None:
        raise InputError(f"{path}: {unknown!r} is no node of the graph")
    return np.array([[place[name] for name in row] for row in rows], dtype=np.int64)


def _draw(
    network: _Network,
    labels: NDArray[np.int32],
    chosen: NDArray[np.int64] | None,
    ratios: NDArray[np.float64] | None,
    epsilon: float,
    path: Path,
) -> None:
    """Draw the clusters, or the terminals' parts, on the map, and how far answers exceed exact distances."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5) if ratios is not None else (6, 5), layout="constrained")
    axes = figure.subplots(1, 1 if ratios is None else 2, squeeze=False)[0]
    title = "clusters" if chosen is None else "parts of terminals"
    if network.places is None:
        sizes = np.bincount(labels[labels >= 0])
        axes[0].hist(sizes, bins=min(50, int(sizes.max())), color="tab:blue")
        axes[0].set(xlabel="nodes", ylabel=title, yscale="log", title=network.used)
    else:
        _draw_map(axes[0], network, labels, chosen)
        axes[0].set_title(f"{len(np.unique(labels))} {title}: {network.used}", fontsize=10)
    if ratios is not None:
        axes[1].hist(100 * (ratios - 1), bins=60, color="tab:blue")
        axes[1].axvline(100 * epsilon, color="0.3", linewidth=0.8, linestyle="--")
        axes[1].text(100 * epsilon, 0.95, "bound ", transform=axes[1].get_xaxis_transform(), color="0.3", ha="right")
        axes[1].set(xlabel="answer beyond the exact distance, %", ylabel="random pairs", yscale="log")
        axes[1].set_title("distance oracle", fontsize=10)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _draw_map(axes: Any, network: _Network, labels: NDArray[np.int32], chosen: NDArray[np.int64] | None) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    places = network.places
    assert places is not None
    half = sp.triu(network.graph).tocoo()
    rows, columns = half.coords
    same = labels[rows] == labels[columns]
    # Neighbouring clusters have near numbers: a shuffle keeps their colours apart.
    shuffled = np.random.default_rng(0).permutation(int(labels.max()) + 1)
    colors = colormaps["tab20"](shuffled[labels[rows]] % 20)
    colors[~same] = (0.8, 0.8, 0.8, 1.0)
    segments = places[np.column_stack([rows, columns])].tolist()
    axes.add_collection(LineCollection(segments, colors=colors, linewidths=0.8))
    if chosen is not None:
        axes.plot(*places[chosen].T, "k.", markersize=6)
    axes.autoscale()
    axes.set(aspect="equal")
    axes.axis("off")
