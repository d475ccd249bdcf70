"""Loaders: one shape of return for every data set."""

import gzip
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paperworks.datasets._fetching import fetch
from paperworks.datasets._sources import Source, source

__all__ = ["Dataset", "load_blogcatalog", "load_china_flower", "load_digits", "load_fashion_mnist", "load_photographs"]


@dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes
    ----------
    data : ndarray, sparse array or tuple of ndarray
        Pictures are floats in [0, 1] of shape (n, channels, height, width), or a tuple of (channels, height, width)
        where they differ in size; a graph is its adjacency of shape (n, n).
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


def _idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped IDX file: a magic number whose last byte counts dimensions, their sizes, and bytes."""
    content = gzip.decompress(path.read_bytes())
    n_dimensions = content[3]
    shape = struct.unpack(f">{n_dimensions}I", content[4 : 4 + 4 * n_dimensions])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_dimensions).reshape(shape)
