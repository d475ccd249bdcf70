"""Grids of handwritten digits: two views whose mutual information grows with the number of cells."""

from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_choice, check_integer

Layout = Literal["flat", "spatial", "stacked"]
SIDE = 8


def make_spatial_multi_digits(
    n_samples: int,
    n_cells: int,
    *,
    split: Literal["train", "test"] = "train",
    layout: Layout = "flat",
    random_state: RandomState = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Draw pairs of grids of digits: a cell of the second view shows the next class, 9 followed by 0, in another hand.

    All that the views share are the classes, so that their mutual information is ``n_cells`` times log 10, in nats.
    It is the paper's grid of characters with scikit-learn's 8 x 8 digits, of which half are for training.

    Parameters
    ----------
    n_samples : int
        Number of pairs.
    n_cells : int
        Digits in a view.
    split : {"train", "test"}, default "train"
        Which half of the drawings is used.
    layout : {"flat", "spatial", "stacked"}, default "flat"
        Rows of numbers, images of a grid as near to a square as its cells allow, or images of one digit a channel.
    random_state : int, Generator, RandomState or None, default None
        Seed of classes and drawings.

    Returns
    -------
    first, second : ndarray of shape (n_samples, 64 * n_cells), (n_samples, 1, H, W) or (n_samples, n_cells, 8, 8)
        The views, in [0, 1], as float32.
    labels : ndarray of shape (n_samples, n_cells)
        Classes in the first view.

    Raises
    ------
    TypeError
        If a number is no integer.
    ValueError
        If a number is below 1, or a choice unknown.

    References
    ----------
    Sherjil Ozair, Corey Lynch, Yoshua Bengio, Aaron van den Oord, Sergey Levine, Pierre Sermanet. "Wasserstein
    Dependency Measure for Representation Learning". NeurIPS 2019. arXiv:1903.11780.

    Examples
    --------
    >>> from paperworks.transport import make_spatial_multi_digits
    >>> first, second, labels = make_spatial_multi_digits(100, 6, layout="spatial", random_state=0)
    >>> first.shape, labels.shape
    ((100, 1, 16, 24), (100, 6))
    """
    check_integer("n_samples", n_samples)
    check_integer("n_cells", n_cells)
    check_choice("split", split, ("train", "test"))
    check_choice("layout", layout, ("flat", "spatial", "stacked"))
    generator = numpy_generator(random_state)
    labels = generator.integers(10, size=(n_samples, n_cells))
    first, second = (_draw(classes, split, generator) for classes in (labels, (labels + 1) % 10))
    return _arrange(first, layout), _arrange(second, layout), labels


@cache
def _drawings(split: str) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.intp]]:
    """Half of the drawings sorted by class, where each class begins, and how many it has."""
    digits: Any = load_digits()
    # Every other drawing: both halves hold every class and every hand.
    chosen = slice(0 if split == "train" else 1, None, 2)
    images, classes = digits.images[chosen], digits.target[chosen]
    order = np.argsort(classes, kind="stable")
    counts = np.bincount(classes, minlength=10)
    return (images[order] / 16.0).astype(np.float32), np.cumsum(counts) - counts, counts


def _draw(classes: NDArray[np.int64], split: str, generator: np.random.Generator) -> NDArray[np.float32]:
    """One drawing of each class, of shape (n_samples, n_cells, 8, 8)."""
    images, starts, counts = _drawings(split)
    chosen: NDArray[np.float32] = images[starts[classes] + generator.integers(counts[classes])]
    return chosen


def _arrange(cells: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    n, n_cells = cells.shape[:2]
    if layout == "stacked":
        return cells
    if layout == "flat":
        return cells.reshape(n, -1)
    rows = max(divisor for divisor in range(1, int(n_cells**0.5) + 1) if n_cells % divisor == 0)
    grid = cells.reshape(n, rows, n_cells // rows, SIDE, SIDE).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(grid.reshape(n, 1, rows * SIDE, -1))
