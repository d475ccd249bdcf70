"""Partitions of a box into nested boxes of bounded side ratios, whose volumes may be a little off."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from paperworks._validation import check_integer, check_number
from paperworks.combinatorial.fat_partition._boxes import nest_boxes
from paperworks.combinatorial.fat_partition._tree import read_tree

# A box whose side is this share of the whole is lost in coordinates of float64.
SMALLEST_SIDE = 1e-10


class RectangularTreemap(BaseEstimator):
    r"""Treemap of nested boxes in d dimensions, none longer than 1 / slack times its shortest side.

    Boxes whose volumes are exactly the weights can be arbitrarily thin. If a box may lose a share ``slack`` of its
    volume at every level, then a node v at depth l(v) gets

    .. math:: \mathrm{vol}(R_v) \ge (1 - \varepsilon)^{l(v)} \frac{w(v)}{W} \mathrm{vol}(R),
        \qquad \frac{\mathrm{longest\ side}}{\mathrm{shortest\ side}} \le \frac{1}{\varepsilon},

    whatever the weights and however deep the tree. Volume is lost only beside a child that has nearly all of its
    parent's weight.

    Parameters
    ----------
    slack : float, default 0.1
        Share of the volume that may be lost at every level, above 0 and at most 1 / 3.
    n_dimensions : int, default 2
        Dimension d of the boxes.
    bounding : array_like of d positive sides, optional
        Sides of the whole, none longer than 1 / slack times another; its lower corner is the origin. None is the unit
        cube.

    Attributes
    ----------
    tree_ : Tree
        The tree with its nodes in preorder: ``names``, ``parents``, ``weights``, ``depths``, and ``path(node)``.
    boxes_ : array of shape (n_nodes, 2, n_dimensions)
        Lower and upper corner of every node's box; NaN for nodes of weight 0, and for those so light that a cube of
        their share has a side below 1e-10 of the whole, of which a warning gives the number.
    area_ratio_ : array of shape (n_nodes,)
        Volume of every box by that which the weight asks for; 1 where nothing was lost.
    aspect_ratios_ : array of shape (n_nodes,)
        Longest side by shortest side.
    node_depth_ : array of shape (n_nodes,)
        Edges between the root and every node.

    References
    ----------
    Mark de Berg, Krzysztof Onak and Anastasios Sidiropoulos, "Fat Polygonal Partitions with Applications to
    Visualization and Embeddings", arXiv 1009.1866.

    Examples
    --------
    >>> from paperworks.combinatorial import RectangularTreemap
    >>> treemap = RectangularTreemap(slack=0.1).fit({"huge": 999_999, "tiny": 1})
    >>> print(treemap.aspect_ratios_.round(2), treemap.area_ratio_.round(4))
    [ 1.  1. 10.] [1.     0.9997 1.    ]
    """

    def __init__(self, slack: float = 0.1, n_dimensions: int = 2, bounding: Any = None) -> None:
        self.slack = slack
        self.n_dimensions = n_dimensions
        self.bounding = bounding

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # A tree, which scikit-learn's checks can't make.
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags

    def fit(self, tree: Any) -> "RectangularTreemap":
        """Partition the bounding box.

        Parameters
        ----------
        tree : dict, tuple, networkx.DiGraph, ndarray, str or Path
            The tree, as `PolygonalTreemap.fit` takes it.

        Returns
        -------
        RectangularTreemap
            Itself.

        Raises
        ------
        ValueError
            If `slack` is not in (0, 1/3], `bounding` has other than d positive sides or is too long, or the tree is
            refused as by `PolygonalTreemap.fit`.
        TypeError
            If `tree` is no tree, or weights are no numbers.
        """
        slack = check_number("slack", self.slack, above=0.0, at_most=1 / 3)
        d = check_integer("n_dimensions", self.n_dimensions)
        sides = self._sides(d, slack)
        self.tree_ = read_tree(tree)
        n = len(self.tree_)
        lower, inner = nest_boxes(self.tree_, np.zeros(d), sides, slack, np.ones(n), SMALLEST_SIDE**d)
        self.boxes_ = np.stack([lower, lower + inner], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.prod(inner / sides, axis=1)
            self.area_ratio_ = shares / (self.tree_.weights / self.tree_.weights[0])
        self.aspect_ratios_ = inner.max(axis=1) / inner.min(axis=1)
        self.node_depth_ = self.tree_.depths
        lost = int((np.isnan(shares) & (self.tree_.weights > 0)).sum())
        if lost:
            warnings.warn(
                f"{lost} of {n} nodes are too light for coordinates in float64: they have no box", stacklevel=2
            )
        return self

    def _sides(self, d: int, slack: float) -> NDArray[np.float64]:
        if self.bounding is None:
            return np.ones(d)
        if np.shape(self.bounding) != (d,):
            raise ValueError(f"bounding must have {d} sides, got shape {np.shape(self.bounding)}")
        sides = np.array([check_number("bounding", side, above=0.0) for side in np.asarray(self.bounding).tolist()])
        if sides.max() > sides.min() / slack * (1 + 1e-12):
            raise ValueError(
                f"bounding must have no side longer than 1 / slack = {1 / slack:g} times another, got "
                f"{sides.max() / sides.min():g}"
            )
        return sides
