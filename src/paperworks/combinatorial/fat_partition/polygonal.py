"""Partitions of a convex polygon into nested convex polygons whose areas are the weights of a tree."""

import warnings
from math import pi
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from paperworks._validation import check_choice, check_floating, check_integer, check_number
from paperworks.combinatorial.fat_partition._binary import BinaryTree, binarise
from paperworks.combinatorial.fat_partition._cuts import (
    PARALLEL,
    cut_below,
    cut_level,
    double_area,
    lower_piece,
    measure,
    snap,
    squared_diameter,
    upper_piece,
)
from paperworks.combinatorial.fat_partition._tree import Tree, read_tree

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Method = Literal["angular", "greedy"]

# Below this share of the area, coordinates in float64 no longer tell the corners of a cell apart.
SMALLEST_SHARE = 1e-20


class PolygonalTreemap(BaseEstimator):
    r"""Treemap of nested convex polygons, whose aspect ratios are bounded whatever the weights.

    A node's polygon has the share of the area that its weight has of the whole, and is parted among its children. Its
    aspect ratio is

    .. math:: \mathrm{asp}(P) = \mathrm{diam}(P)^2 / \mathrm{area}(P) = O(\mathrm{depth} + \log n),

    2 for a square, with n leaves; the sides of rectangles would be as uneven as the weights. Children are grouped two
    by two, and every group is cut off by one line: that which keeps the angles between edges widest, or that which
    leaves the fattest pieces.

    Parameters
    ----------
    method : {"angular", "greedy"}, default "angular"
        ``"angular"`` cuts along the middle of the widest gap between the directions of a polygon's edges.
        ``"greedy"`` also tries other directions, as long as no two edges come nearer to parallel than half of what
        the angular cut guarantees, and keeps the cut whose worse piece has the least aspect ratio. It is slower and
        more pleasing.
    n_candidates : int, default 16
        Evenly spread directions that ``"greedy"`` tries, beside the middles of all gaps, the line across the diameter
        and the two axes.
    bounding : (width, height) or array_like, k rows of x and y, optional
        The whole: a rectangle, or a convex polygon of k >= 3 vertices. None is the unit square.

    Attributes
    ----------
    tree_ : Tree
        The tree with its nodes in preorder (root first, children in the given order): ``names``, ``parents``,
        ``weights``, ``depths``, and ``path(node)``.
    polygons_ : list of arrays of k rows
        Vertices of every node's polygon, counterclockwise. Nodes of weight 0 have none, and nodes of less than 1e-20
        of the whole, of which a warning gives the number.
    areas_ : array of shape (n_nodes,)
        Area of every polygon.
    aspect_ratios_ : array of shape (n_nodes,)
        Squared diameter by area; NaN where there is no polygon.
    node_depth_ : array of shape (n_nodes,)
        Edges between the root and every node.

    Notes
    -----
    The bound of ``"greedy"`` is kept by what is said above of its directions, which is ours. Both bounds grow with the
    number of edges of `bounding`: at the blunt corner of a round one, a tiny cell is as blunt.

    References
    ----------
    Mark de Berg, Krzysztof Onak and Anastasios Sidiropoulos, "Fat Polygonal Partitions with Applications to
    Visualization and Embeddings", arXiv 1009.1866.

    Examples
    --------
    >>> from paperworks.combinatorial import PolygonalTreemap
    >>> treemap = PolygonalTreemap("greedy").fit({"rent": 900, "food": {"market": 300, "bakery": 60}, "gifts": 1})
    >>> treemap.tree_.names
    ['', 'rent', 'food', 'market', 'bakery', 'gifts']
    >>> print(treemap.areas_.round(3), treemap.aspect_ratios_.max() < 5)
    [1.    0.714 0.285 0.238 0.048 0.001] True
    """

    def __init__(self, method: Method = "angular", n_candidates: int = 16, bounding: Any = None) -> None:
        self.method = method
        self.n_candidates = n_candidates
        self.bounding = bounding

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # A tree, which scikit-learn's checks can't make.
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags

    def fit(self, tree: Any) -> "PolygonalTreemap":
        """Partition the bounding polygon.

        Parameters
        ----------
        tree : dict, tuple, networkx.DiGraph, ndarray, str or Path
            A nested dict {name: weight or dict}; (parents, weights), with -1 as the root's parent and one weight a
            node or one a leaf; a graph whose edges go from parents to children, with the node attribute ``weight``; a
            SciPy linkage, whose leaves weigh one each; or a folder, whose files weigh their sizes.

        Returns
        -------
        PolygonalTreemap
            Itself.

        Raises
        ------
        ValueError
            If weights are negative, NaN, all zero, or that of an inner node is not the sum of its children's; if the
            tree has several roots, or a cycle; if `bounding` is no convex polygon; if `method` is unknown.
        TypeError
            If `tree` is none of these, or weights are no numbers.
        """
        check_choice("method", self.method, ("angular", "greedy"))
        n_candidates = check_integer("n_candidates", self.n_candidates)
        whole = _bounding_polygon(self.bounding)
        self.tree_ = read_tree(tree)
        binary = binarise(self.tree_, SMALLEST_SHARE)
        fixed = _fixed_directions(n_candidates) if self.method == "greedy" else np.empty(0)
        cells = _partition(binary, whole, fixed)
        self.polygons_, self.areas_, self.aspect_ratios_ = _per_node(binary, cells)
        self.node_depth_ = self.tree_.depths
        lost = int(((binary.cell_of < 0) & (self.tree_.weights > 0)).sum())
        if lost:
            warnings.warn(
                f"{lost} of {len(self.tree_)} nodes weigh less than {SMALLEST_SHARE:g} of the whole: too small for "
                "coordinates in float64, they have no polygon",
                stacklevel=2,
            )
        return self


def polygonal_partition(
    tree: Any, *, method: Method = "angular", n_candidates: int = 16, bounding: Any = None
) -> list[Floats]:
    """Polygons of all nodes of a tree; parameters and errors as of `PolygonalTreemap`.

    Parameters
    ----------
    tree : dict, tuple, networkx.DiGraph, ndarray, str or Path
        The tree, as `PolygonalTreemap.fit` takes it.
    method : {"angular", "greedy"}, default "angular"
        How cuts are chosen.
    n_candidates : int, default 16
        Evenly spread directions that ``"greedy"`` tries.
    bounding : (width, height) or array_like, k rows of x and y, optional
        The whole; None is the unit square.

    Returns
    -------
    list of arrays of k rows
        Vertices of every node's polygon, in preorder: root first, children in the given order.

    References
    ----------
    Mark de Berg, Krzysztof Onak and Anastasios Sidiropoulos, "Fat Polygonal Partitions with Applications to
    Visualization and Embeddings", arXiv 1009.1866.

    Examples
    --------
    >>> from paperworks.combinatorial import polygonal_partition
    >>> whole, one, other = polygonal_partition({"one": 1, "other": 1})
    >>> one
    array([[0., 0.],
           [1., 0.],
           [1., 1.]])
    """
    return PolygonalTreemap(method, n_candidates, bounding).fit(tree).polygons_


def aspect_ratio(polygon: Any) -> float:
    r"""Squared diameter of a convex polygon by its area.

    .. math:: \mathrm{asp}(P) = \mathrm{diam}(P)^2 / \mathrm{area}(P)

    It is 2 for a square, and never below 4 / pi, a disc's.

    Parameters
    ----------
    polygon : array_like of float, k rows of x and y
        Vertices of a convex polygon, in order, in either sense.

    Returns
    -------
    float
        The aspect ratio.

    Raises
    ------
    ValueError
        If the polygon has fewer than 3 corners or no area, is not convex, or contains NaN or infinity.
    TypeError
        If it holds no floating-point numbers.

    References
    ----------
    Mark de Berg, Krzysztof Onak and Anastasios Sidiropoulos, "Fat Polygonal Partitions with Applications to
    Visualization and Embeddings", arXiv 1009.1866.

    Examples
    --------
    >>> from paperworks.combinatorial import aspect_ratio
    >>> aspect_ratio([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0], [0.0, 1.0]])
    3.3333333333333335
    """
    corners, _ = _convex("polygon", polygon)
    return squared_diameter(corners, len(corners)) / (0.5 * double_area(corners, len(corners)))


def cut_polygon(polygon: Any, direction: float, fraction: float) -> tuple[Floats, Floats]:
    """Cut a convex polygon by the line of a direction that leaves exactly a fraction of the area on its right.

    Parameters
    ----------
    polygon : array_like of float, k rows of x and y
        Vertices of a convex polygon, in order, in either sense.
    direction : float
        Angle of the cut in radians, from the x-axis.
    fraction : float
        Share of the area of the first piece, above 0 and below 1.

    Returns
    -------
    first, second : arrays of k rows
        The piece on the right of the direction (below the line for direction 0) and that on its left,
        counterclockwise.

    Raises
    ------
    ValueError
        If the polygon is not convex or has no area, `direction` is not finite, or `fraction` not between 0 and 1.
    TypeError
        If the polygon holds no floating-point numbers, or the others are no numbers.

    References
    ----------
    Mark de Berg, Krzysztof Onak and Anastasios Sidiropoulos, "Fat Polygonal Partitions with Applications to
    Visualization and Embeddings", arXiv 1009.1866.

    Examples
    --------
    >>> from paperworks.combinatorial import cut_polygon
    >>> below, above = cut_polygon([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], 0.0, 0.25)
    >>> float(below[:, 1].max())
    0.25
    """
    corners, middle = _convex("polygon", polygon)
    direction = check_number("direction", direction)
    fraction = check_number("fraction", fraction, above=0.0)
    if fraction >= 1:
        raise ValueError(f"fraction must be below 1, got {fraction!r}")
    # The smaller piece is cut off, so that its area keeps all digits.
    turned = fraction > 0.5
    angle = direction + pi if turned else direction
    k = len(corners)
    area = min(fraction, 1 - fraction) * 0.5 * double_area(corners, k)
    ends, heights, piece = np.empty((2, 2)), np.empty(k), np.empty((k + 2, 3))
    where = cut_below(corners, k, np.cos(angle), np.sin(angle), area, heights, ends)
    pieces = []
    for take in (lower_piece, upper_piece):
        n = snap(piece, take(corners, k, where, ends, 0.0, piece))
        pieces.append(piece[:n, :2] + middle)
    return (pieces[1], pieces[0]) if turned else (pieces[0], pieces[1])


class _Cells(NamedTuple):
    """Polygons of all cells, in one array: cell c is ``vertices[start[c] : start[c] + size[c]] + origin[c]``."""

    vertices: Floats
    start: Integers
    size: Integers
    origin: Floats


def _partition(binary: BinaryTree, whole: tuple[Floats, Floats], fixed: Floats) -> _Cells:
    corners, middle = whole
    n_cells = len(binary.weights)
    start, size = np.zeros(n_cells, dtype=np.int64), np.zeros(n_cells, dtype=np.int64)
    origin = np.zeros((n_cells, 2))
    size[0], origin[0] = len(corners), middle
    order = np.argsort(binary.levels, kind="stable")
    cells_of_level = np.split(order, np.cumsum(np.bincount(binary.levels))[:-1])
    levels, offset = [corners], 0
    for level, cells in enumerate(cells_of_level[:-1]):
        parents = cells[binary.pieces[cells, 0] >= 0]
        following = np.empty((int(size[parents].sum()) + 4 * len(parents), 3))
        # With at most len(corners) + level directions there is a gap whose middle is twice this apart from them all.
        separation = pi / (4 * (len(corners) + level))
        offsets = (offset, offset + len(levels[-1]))
        cut_level(
            parents, binary.pieces, binary.weights, start, size, origin, levels[-1], following, offsets, fixed,
            separation,
        )  # fmt: skip
        levels.append(following)
        offset = offsets[1]
    return _Cells(np.concatenate(levels), start, size, origin)


def _per_node(binary: BinaryTree, cells: _Cells) -> tuple[list[Floats], Floats, Floats]:
    areas, ratios = np.empty(len(cells.start)), np.empty(len(cells.start))
    measure(cells.start, cells.size, cells.vertices, areas, ratios)
    placed = [
        cells.vertices[first : first + k, :2] + middle
        for first, k, middle in zip(cells.start.tolist(), cells.size.tolist(), cells.origin, strict=True)
    ]
    placed.append(np.empty((0, 2)))
    # Cell -1 is the empty one.
    cell_of = binary.cell_of
    return (
        [placed[cell] for cell in cell_of.tolist()],
        np.append(areas, 0.0)[cell_of],
        np.append(ratios, np.nan)[cell_of],
    )


def _fixed_directions(n_candidates: int) -> Floats:
    spread = np.arange(n_candidates) * (pi / n_candidates)
    return np.union1d(spread, [0.0, pi / 2])


def _bounding_polygon(bounding: Any) -> tuple[Floats, Floats]:
    if bounding is None:
        bounding = (1.0, 1.0)
    if isinstance(bounding, (tuple, list)) and len(bounding) == 2 and np.ndim(bounding[0]) == 0:
        width, height = (check_number("bounding", side, above=0.0) for side in bounding)
        bounding = np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
    return _convex("bounding", bounding)


def _convex(name: str, polygon: Any) -> tuple[Floats, Floats]:
    """Rows (x, y, angle of the edge), counterclockwise about the middle of the corners, which comes second."""
    points = check_floating(name, polygon, ndim=2).astype(np.float64)
    if points.shape[1] != 2 or len(points) < 3:
        raise ValueError(f"{name} must have at least 3 rows of x and y, got shape {points.shape}")
    middle = points.mean(axis=0)
    points = points - middle
    diameter = 2 * float(np.hypot(*points.T).max())
    points = points[np.hypot(*(np.roll(points, -1, axis=0) - points).T) > 1e-12 * diameter]
    if len(points) >= 3 and _signed_area(points) < 0:
        points = points[::-1]
    # Corners that lie on the line between their neighbours are none.
    while len(points) >= 3:
        arriving, leaving = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
        turn = arriving[:, 0] * leaving[:, 1] - arriving[:, 1] * leaving[:, 0]
        sine = turn / (np.hypot(*arriving.T) * np.hypot(*leaving.T))
        if (sine < -PARALLEL).any():
            raise ValueError(f"{name} must be convex, but turns back at corner {points[int(np.argmin(sine))] + middle}")
        if (sine > PARALLEL).all():
            break
        points = points[sine > PARALLEL]
    if len(points) < 3 or not _signed_area(points) > 0:
        raise ValueError(f"{name} must have an area, but its corners lie on a line")
    edges = np.roll(points, -1, axis=0) - points
    turns = np.diff(np.unwrap(np.arctan2(edges[:, 1], edges[:, 0])))
    if turns.sum() > 2 * pi:
        raise ValueError(f"{name} must be convex, but winds round more than once")
    angles = np.arctan2(edges[:, 1], edges[:, 0]) % pi
    return np.column_stack([points, np.where(pi - angles < 1e-15, 0.0, angles)]), middle


def _signed_area(points: Floats) -> float:
    x, y = points.T
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


__all__ = ["PolygonalTreemap", "Tree", "aspect_ratio", "cut_polygon", "polygonal_partition"]
