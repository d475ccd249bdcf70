"""Ultrametrics in Euclidean space, with little distortion."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cophenet, is_valid_linkage, linkage
from scipy.spatial.distance import squareform
from sklearn.base import BaseEstimator

from paperworks._validation import check_floating, check_integer
from paperworks.combinatorial.fat_partition._boxes import nest_boxes
from paperworks.combinatorial.fat_partition._tree import Tree, tree_from_parents

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Distances may break the ultrametric inequality by this share of themselves, from rounding.
ROUNDING = 1e-8
# Up to so many points the distortion is that of all pairs.
EXACT = 2**14


class UltrametricEmbedding(BaseEstimator):
    r"""Points in R^d whose distances are those of an ultrametric, up to a factor.

    The distances of a dendrogram, u(x, z) <= max(u(x, y), u(y, z)), are those of a tree. Its nodes get boxes in
    boxes, as `RectangularTreemap` makes them, with margins between siblings in proportion to their distance; a point
    is the centre of its box. The distortion

    .. math:: \max_{x \ne y} \frac{|f(x) - f(y)|}{u(x, y)} \cdot \max_{x \ne y} \frac{u(x, y)}{|f(x) - f(y)|}

    is within a factor polylog(largest distance / smallest distance) of the best that any embedding into R^d can have,
    however many points there are. Points are scaled so that no distance contracts.

    Parameters
    ----------
    n_components : int, default 2
        Dimension d of the space.

    Attributes
    ----------
    embedding_ : array of shape (n_samples, n_components)
        The points. Those at distance 0 from each other are one.
    distortion_ : float
        The distortion, of all pairs up to 16,384 points; beyond that a bound from above, from the boxes.
    distortion_lower_bound_ : float
        What no embedding into R^d can be below: the balls about the points of a cluster are disjoint, and their union
        has no smaller diameter than a ball of their volume. The ratio of the two bounds how far the result is from
        the best.
    n_features_in_ : int
        Number of points, where a matrix was given.

    Notes
    -----
    Distances are rounded up to the largest divided by powers of two, which at most doubles the distortion and makes
    the tree as deep as the logarithm of the distances' ratio. With that depth h and the slack 1 / max(3, h) all levels
    together lose a constant factor; a slack of 1 / 3 is tried as well, and the better is kept. A cluster's box is
    shrunk about its centre to the volume that its own points need before it is shared. The method is deterministic.

    References
    ----------
    Mark de Berg, Krzysztof Onak and Anastasios Sidiropoulos, "Fat Polygonal Partitions with Applications to
    Visualization and Embeddings", arXiv 1009.1866.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.cluster.hierarchy import linkage
    >>> from paperworks.combinatorial import UltrametricEmbedding
    >>> X = np.random.default_rng(0).normal(size=(100, 5))
    >>> model = UltrametricEmbedding(n_components=2).fit(linkage(X, "average"))
    >>> model.embedding_.shape, model.distortion_ < 8 * model.distortion_lower_bound_
    ((100, 2), True)
    """

    def __init__(self, n_components: int = 2) -> None:
        self.n_components = n_components

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # An ultrametric, which scikit-learn's checks can't make.
        tags.input_tags.two_d_array = False
        tags.input_tags.pairwise = True
        return tags

    def fit(self, X: Any, y: None = None) -> "UltrametricEmbedding":
        """Embed an ultrametric.

        Parameters
        ----------
        X : array_like, (n_samples, n_samples), (n_samples - 1, 4) or (n_samples * (n_samples - 1) / 2,)
            Distances as a square matrix; a SciPy linkage; or condensed distances, such as SciPy's ``cophenet`` gives.
        y : None
            Ignored.

        Returns
        -------
        UltrametricEmbedding
            Itself.

        Raises
        ------
        ValueError
            If the distances are no ultrametric (a triple is named), not symmetric, negative, NaN or infinite; if the
            heights of a linkage go down; or if the distances' ratio is too large for float64.
        TypeError
            If `X` holds no floating-point numbers.
        """
        d = check_integer("n_components", self.n_components)
        merges = self._read(X)
        n = len(merges) + 1
        top = float(merges[-1, 2]) if len(merges) else 0.0
        if top == 0:
            self.embedding_ = np.zeros((n, d))
            self.distortion_ = self.distortion_lower_bound_ = 1.0
            return self
        parents, heights = _dendrogram(merges, top)
        self.distortion_lower_bound_ = max(1.0, float(_lower_bound(parents, heights, d)))
        points, contraction, expansion = _embed(parents, heights, n, d)
        if not contraction > 0:
            raise ValueError(
                "X has distances of too different sizes: the nearest points coincide in float64 coordinates"
            )
        self.embedding_ = points * (top / contraction)
        self.distortion_ = expansion / contraction
        return self

    def fit_transform(self, X: Any, y: None = None) -> Floats:
        """Embed an ultrametric and return the points.

        Parameters
        ----------
        X : array_like
            As `fit` takes it.
        y : None
            Ignored.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            The points.
        """
        return self.fit(X).embedding_

    def _read(self, X: Any) -> Floats:
        """The linkage of what was given."""
        X = check_floating("X", X, ndim=(1, 2)).astype(np.float64)
        square = X.ndim == 2 and X.shape[0] == X.shape[1]
        # A linkage of five points is square, too, but its last count is no distance of a point to itself.
        if X.ndim == 2 and X.shape[1] == 4 and not (square and not X.diagonal().any()):
            if not is_valid_linkage(X):
                raise ValueError("X of shape (n - 1, 4) must be a SciPy linkage, but its merges are not valid")
            if (np.diff(X[:, 2]) < 0).any():
                step = int(np.argmax(np.diff(X[:, 2]) < 0))
                raise ValueError(
                    f"X must be a linkage whose heights never go down, got {X[step, 2]:g} and then "
                    f"{X[step + 1, 2]:g} at merge {step + 1}"
                )
            return X
        distances = _square(X)
        self.n_features_in_ = len(distances)
        return _ultrametric_linkage(distances)


def _square(X: Floats) -> Floats:
    """A checked matrix of distances."""
    if X.ndim == 1:
        n = round((1 + np.sqrt(1 + 8 * len(X))) / 2)
        if n * (n - 1) // 2 != len(X):
            raise ValueError(f"X must have n (n - 1) / 2 condensed distances, got {len(X)}")
        if (X < 0).any():
            raise ValueError(f"X must hold distances, got {X.min():g}")
        return squareform(X, checks=False)
    if X.shape[0] != X.shape[1]:
        raise ValueError(f"X must be a square matrix of distances or a linkage of shape (n - 1, 4), got {X.shape}")
    if (X < 0).any():
        raise ValueError(f"X must hold distances, got {X.min():g}")
    if X.diagonal().any():
        raise ValueError(f"X must have zeros on its diagonal, got {X.diagonal()[int(np.argmax(X.diagonal() != 0))]:g}")
    apart = np.abs(X - X.T) > ROUNDING * np.maximum(X, X.T)
    if apart.any():
        i, j = np.argwhere(apart)[0]
        raise ValueError(f"X must be symmetric, got {X[i, j]:g} at ({i}, {j}) and {X[j, i]:g} at ({j}, {i})")
    return X


def _ultrametric_linkage(distances: Floats) -> Floats:
    """Single linkage, whose distances are the largest ultrametric below: the same, if they are one."""
    n = len(distances)
    if n == 1:
        return np.empty((0, 4))
    condensed = squareform(distances, checks=False)
    merges = linkage(condensed, "single")
    excess = condensed - cophenet(merges)
    if (excess > ROUNDING * condensed).any():
        # Along the path of single linkage some step breaks the inequality, seen from its start.
        x = int(np.argmax((squareform(excess, checks=False)).max(axis=1)))
        broken = distances[x][None, :] - np.maximum(distances[x][:, None], distances)
        y, z = np.unravel_index(int(np.argmax(broken)), broken.shape)
        raise ValueError(
            f"X is no ultrametric: d({x}, {z}) = {distances[x, z]:g} is more than d({x}, {y}) = {distances[x, y]:g} "
            f"and d({y}, {z}) = {distances[y, z]:g}"
        )
    return merges


def _dendrogram(merges: Floats, top: float) -> tuple[Integers, Floats]:
    """Parents and heights of points 0..n-1 and merges n..2n-2, in units of the largest distance; children first."""
    n = len(merges) + 1
    parents = np.full(2 * n - 1, -1, dtype=np.int64)
    parents[merges[:, :2].astype(np.int64).ravel()] = np.repeat(np.arange(n, 2 * n - 1), 2)
    return parents, np.concatenate([np.zeros(n), merges[:, 2] / top])


def _radii(parents: Integers, heights: Floats, d: int) -> tuple[Floats, Floats]:
    """Radii of balls as large as the points of a node, thickened to its own height r and to its parent's e.

    r(v)^d is the sum of e(c)^d over its children c, e(c) = r(c) + (l(v) - l(c)) / 2, and r = 0 for a point: by
    Brunn and Minkowski, no embedding that does not contract fills less. Children come before their parents.
    """
    powers, thick = np.zeros(len(parents)), np.zeros(len(parents))
    radii = np.zeros(len(parents))
    _thicken(parents, heights, d, powers, radii, thick)
    return radii, thick


@njit(cache=True)
def _thicken(parents: Integers, heights: Floats, d: int, powers: Floats, radii: Floats, thick: Floats) -> None:
    for node in range(len(parents)):
        radii[node] = powers[node] ** (1.0 / d)
        parent = parents[node]
        if parent >= 0:
            thick[node] = radii[node] + 0.5 * (heights[parent] - heights[node])
            powers[parent] += thick[node] ** d


def _lower_bound(parents: Integers, heights: Floats, d: int) -> float:
    """Isodiametric inequality at every node: 2 r(v) <= (D + 1) l(v)."""
    radii, _ = _radii(parents, heights, d)
    inner = heights > 0
    return float((2 * radii[inner] / heights[inner] - 1).max())


def _embed(parents: Integers, heights: Floats, n: int, d: int) -> tuple[Floats, float, float]:
    """Points, and the least and largest ratio of their distances to those given."""
    tree, tree_heights, lowest, leaf_of = _rounded(parents, heights, n)
    # The tree is in preorder, parents first; sums go from the children.
    last = len(tree) - 1
    upwards = np.where(tree.parents[::-1] >= 0, last - tree.parents[::-1], -1)
    radii, thick = (each[::-1] for each in _radii(upwards, tree_heights[::-1], d))
    thick[0] = radii[0]
    # Only the shares of siblings count; in units of the largest they do not underflow together.
    weighted = Tree(tree.names, tree.parents, thick**d, tree.depths)
    shrinking = np.where(tree.is_leaf, 1.0, radii / thick)
    shrinking[0] = 1.0
    side = np.full(d, radii[0])
    best = (np.empty((n, d)), 0.0, np.inf)
    # The second slack has the guarantee; the first, whose boxes are the fattest, is often better.
    for slack in sorted({1 / 3, 1 / max(3, int(tree.depths.max()))}, reverse=True):
        lower, sides = nest_boxes(weighted, -0.5 * side, side, slack, shrinking, 0.0)
        centres = lower + 0.5 * sides
        if n <= EXACT:
            least, largest = _ratios(parents, heights, centres[leaf_of])
        else:
            least, largest = _bounds(tree.parents, tree.is_leaf, tree_heights, lowest, lower, lower + sides, centres)
        if largest * best[1] < best[2] * least:
            best = (centres[leaf_of], least, largest)
    return best


def _rounded(parents: Integers, heights: Floats, n: int) -> tuple[Tree, Floats, Floats, Integers]:
    """The tree with heights rounded up to powers of two, equal ones merged.

    Returns it with its heights, the least height that went into every node, and the leaf of every point.
    """
    _, exponent = np.frexp(heights * (1 - 1e-9))
    rounded = np.where(heights > 0, np.ldexp(1.0, exponent), 0.0)
    top, lowest = _merge(parents, rounded, heights)
    kept = np.flatnonzero(top == np.arange(len(top)))
    place = np.full(len(top) + 1, -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    above = place[np.where(parents[kept] >= 0, top[parents[kept]], -1)]
    leaf = np.ones(len(kept), dtype=bool)
    leaf[above[above >= 0]] = False
    tree = tree_from_parents(range(len(kept)), above, np.where(leaf, 1.0, np.nan))
    order = np.array(tree.names)
    back = np.empty(len(kept), dtype=np.int64)
    back[order] = np.arange(len(kept))
    return tree, rounded[kept][order], lowest[kept][order], back[place[top[:n]]]


@njit(cache=True)
def _merge(parents: Integers, rounded: Floats, heights: Floats) -> tuple[Integers, Floats]:
    """The highest ancestor of the same rounded height, and the least height below it that is rounded to it."""
    top, lowest = np.arange(len(parents)), heights.copy()
    for node in range(len(parents) - 2, -1, -1):
        if rounded[node] == rounded[parents[node]]:
            top[node] = top[parents[node]]
            lowest[top[node]] = min(lowest[top[node]], heights[node])
    return top, lowest


@njit(cache=True)
def _ratios(parents: Integers, heights: Floats, points: Floats) -> tuple[float, float]:
    """Least and largest ratio of a distance of points to the height of the cluster where they meet."""
    n, d = points.shape
    sizes, filled = np.zeros(len(parents), dtype=np.int64), np.zeros(len(parents), dtype=np.int64)
    sizes[:n] = 1
    for node in range(len(parents) - 1):
        sizes[parents[node]] += sizes[node]
    start = np.zeros(len(parents), dtype=np.int64)
    second = np.zeros(len(parents), dtype=np.int64)
    for node in range(len(parents) - 2, -1, -1):
        above = parents[node]
        start[node] = start[above] + filled[above]
        if filled[above]:
            second[above] = start[node]
        filled[above] += sizes[node]
    # Points of a cluster stand side by side.
    placed = np.empty((n, d))
    for point in range(n):
        placed[start[point]] = points[point]
    least, largest = np.inf, 0.0
    for node in range(n, len(parents)):
        if heights[node] == 0:
            continue
        closest, farthest = np.inf, 0.0
        for i in range(start[node], second[node]):
            for j in range(second[node], start[node] + sizes[node]):
                squared = 0.0
                for axis in range(d):
                    squared += (placed[i, axis] - placed[j, axis]) ** 2
                closest, farthest = min(closest, squared), max(farthest, squared)
        least, largest = min(least, np.sqrt(closest) / heights[node]), max(largest, np.sqrt(farthest) / heights[node])
    return least, largest


@njit(cache=True)
def _bounds(
    parents: Integers, leaf: NDArray[np.bool_], heights: Floats, lowest: Floats, lower: Floats, upper: Floats,
    points: Floats,
) -> tuple[float, float]:  # fmt: skip
    """Bounds of the least and largest ratio, from the points' margins in their boxes and from clusters' extents."""
    n, d = points.shape
    low, high = np.full((n, d), np.inf), np.full((n, d), -np.inf)
    # The two least margins among the children of a node: points of two children are at least their sum apart.
    margins = np.full((n, 2), np.inf)
    least, largest = np.inf, 0.0
    for node in range(n - 1, -1, -1):
        if leaf[node]:
            low[node], high[node] = points[node], points[node]
        else:
            least = min(least, (margins[node, 0] + margins[node, 1]) / heights[node])
            largest = max(largest, np.sqrt(((high[node] - low[node]) ** 2).sum()) / lowest[node])
        above = parents[node]
        if above < 0:
            continue
        margin = min((low[node] - lower[node]).min(), (upper[node] - high[node]).min())
        if margin < margins[above, 0]:
            margins[above, 1], margins[above, 0] = margins[above, 0], margin
        elif margin < margins[above, 1]:
            margins[above, 1] = margin
        low[above], high[above] = np.minimum(low[above], low[node]), np.maximum(high[above], high[node])
    return least, largest
