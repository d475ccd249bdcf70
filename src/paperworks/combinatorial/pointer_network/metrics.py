"""How good answers of a learned solver are: polygons and triangulations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paperworks._validation import check_floating
from paperworks.combinatorial.pointer_network import _labels
from paperworks.combinatorial.pointer_network.geometry import Indices, Points, as_answer, label

__all__ = ["ConvexHullMetrics", "DelaunayMetrics", "convex_hull_metrics", "delaunay_metrics"]

# The paper gives no area where more outputs than these are no simple polygons.
MOST_NOT_SIMPLE = 0.01


@dataclass(frozen=True)
class ConvexHullMetrics:
    """How good answers for convex hulls are.

    Attributes
    ----------
    accuracy : float
        Share of answers that are the hull: the same polygon, whichever vertex it begins with.
    accuracy_error : float
        Its standard error.
    area_ratio : float
        Mean area of the answer over that of the hull, of those answers that are simple polygons; NaN if none is.
    area_ratio_error : float
        Its standard error.
    not_simple : float
        Share of answers that are no simple polygon: edges cross, a vertex comes twice, or there are fewer than three.
    vertex_area_ratio : float
        Mean area of the hull of the answer's vertices over that of the hull, of all answers.
    vertex_area_ratio_error : float
        Its standard error.

    References
    ----------
    Oriol Vinyals, Meire Fortunato, Navdeep Jaitly, "Pointer Networks", arXiv 1506.03134.

    Examples
    --------
    >>> from paperworks.combinatorial import convex_hull_metrics
    >>> square = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    >>> metrics = convex_hull_metrics([square, square], [[0, 1, 2, 3], [0, 2, 1, 3]])
    >>> metrics.accuracy, metrics.not_simple, metrics.failed
    (0.5, 0.5, True)
    """

    accuracy: float
    accuracy_error: float
    area_ratio: float
    area_ratio_error: float
    not_simple: float
    vertex_area_ratio: float
    vertex_area_ratio_error: float

    @property
    def failed(self) -> bool:
        """Whether over 1 % of answers are no simple polygons: the paper then gives no area."""
        return self.not_simple > MOST_NOT_SIMPLE


@dataclass(frozen=True)
class DelaunayMetrics:
    """How good answers for Delaunay triangulations are.

    Attributes
    ----------
    accuracy : float
        Share of answers with the same set of triangles.
    accuracy_error : float
        Its standard error.
    coverage : float
        Mean share of the true triangles that an answer has.
    coverage_error : float
        Its standard error.

    References
    ----------
    Oriol Vinyals, Meire Fortunato, Navdeep Jaitly, "Pointer Networks", arXiv 1506.03134.

    Examples
    --------
    >>> from paperworks.combinatorial import delaunay_metrics
    >>> kite = [[0.0, 0.0], [1.0, -0.2], [1.0, 0.2], [2.0, 0.0]]
    >>> delaunay_metrics([kite], [[[0, 1, 2]]]).coverage
    0.5
    """

    accuracy: float
    accuracy_error: float
    coverage: float
    coverage_error: float


def convex_hull_metrics(points: Sequence[ArrayLike], answers: Sequence[ArrayLike]) -> ConvexHullMetrics:
    """Compare polygons with the convex hulls of their point sets.

    Parameters
    ----------
    points : sequence of arrays, (n_i, 2) each
        Point sets.
    answers : sequence of vectors of indices
        Corners of a polygon for each set, in order; a last one that equals the first is ignored.

    Returns
    -------
    ConvexHullMetrics
        Accuracy and areas, with standard errors.

    Raises
    ------
    TypeError
        If point sets do not hold floating-point numbers, or answers no integers.
    ValueError
        If there are not as many answers as point sets, an index is out of range, or the points of a set lie on a line.

    References
    ----------
    Oriol Vinyals, Meire Fortunato, Navdeep Jaitly, "Pointer Networks", arXiv 1506.03134.

    Examples
    --------
    >>> from paperworks.combinatorial import convex_hull_metrics, make_geometry_dataset
    >>> points, hulls = make_geometry_dataset("convex_hull", 100, 10, random_state=0)
    >>> convex_hull_metrics(points, hulls).accuracy
    1.0
    """
    same, ratios, vertex_ratios = [], [], []
    for P, corners in _pairs(points, answers):
        if corners.ndim != 1:
            raise ValueError(f"answers must hold vectors of indices, got shape {corners.shape}")
        if len(corners) > 1 and corners[0] == corners[-1]:
            corners = corners[:-1]
        true = hull_of(P)
        whole = _labels.area(P, true)
        same.append(_same_polygon(corners, true))
        if _labels.is_simple(P, corners):
            ratios.append(_labels.area(P, corners) / whole)
        chosen = np.unique(corners)
        found = np.empty(max(1, len(chosen)), dtype=np.int64)
        m = _labels.hull(P[chosen], found) if len(chosen) else 0
        vertex_ratios.append(_labels.area(P[chosen], found[:m]) / whole)
    return ConvexHullMetrics(
        *_mean(same), *_mean(ratios), 1 - len(ratios) / len(same), *_mean(vertex_ratios)
    )  # fmt: skip


def delaunay_metrics(points: Sequence[ArrayLike], answers: Sequence[ArrayLike]) -> DelaunayMetrics:
    """Compare triangles with the Delaunay triangulations of their point sets.

    Parameters
    ----------
    points : sequence of arrays, (n_i, 2) each
        Point sets.
    answers : sequence of tables of indices
        Triangles for each set, a row of three indices each.

    Returns
    -------
    DelaunayMetrics
        Accuracy and coverage, with standard errors.

    Raises
    ------
    TypeError
        If point sets do not hold floating-point numbers, or answers no integers.
    ValueError
        If there are not as many answers as point sets, an index is out of range, or the points of a set lie on a line.

    References
    ----------
    Oriol Vinyals, Meire Fortunato, Navdeep Jaitly, "Pointer Networks", arXiv 1506.03134.

    Examples
    --------
    >>> from paperworks.combinatorial import delaunay_metrics, make_geometry_dataset
    >>> points, triangles = make_geometry_dataset("delaunay", 100, 10, random_state=0)
    >>> delaunay_metrics(points, triangles)
    DelaunayMetrics(accuracy=1.0, accuracy_error=0.0, coverage=1.0, coverage_error=0.0)
    """
    same, covered = [], []
    for P, answer in _pairs(points, answers):
        if answer.size % 3 or (answer.ndim == 2 and answer.shape[1] != 3 and answer.size):
            raise ValueError(f"answers must hold triangles as rows of three, got shape {answer.shape}")
        true = {tuple(each) for each in as_answer("delaunay", label("delaunay", P[None], "exact")[0]).tolist()}
        given = {tuple(each) for each in np.sort(answer.reshape(-1, 3), axis=1).tolist()}
        same.append(given == true)
        covered.append(len(given & true) / len(true))
    return DelaunayMetrics(*_mean(same), *_mean(covered))


def hull_of(points: Points) -> Indices:
    """Hull of one point set."""
    corners = as_answer("convex_hull", label("convex_hull", points[None], "exact")[0])
    if len(corners) < 3:
        raise ValueError("the points of a set lie on one line: they have no hull with an area")
    return corners


def _pairs(points: Sequence[ArrayLike], answers: Sequence[ArrayLike]) -> list[tuple[Points, Indices]]:
    if len(points) != len(answers) or not len(points):
        raise ValueError(f"points and answers must be of one length and not empty, got {len(points)}, {len(answers)}")
    return [
        (check_points(f"points[{r}]", P, 2, 3), _check_indices(f"answers[{r}]", answer, len(P)))  # type: ignore[arg-type]
        for r, (P, answer) in enumerate(zip(points, answers, strict=True))
    ]


def check_points(name: str, points: Any, dimension: int, least: int) -> Points:
    """Return a point set as float64 of shape (n, dimension), with ``least`` points or more."""
    array = check_floating(name, points.detach().cpu() if hasattr(points, "detach") else points, ndim=2)
    if array.shape[1] != dimension:
        raise ValueError(f"{name} must have shape (n, {dimension}), got {array.shape}")
    if len(array) < least:
        raise ValueError(f"{name} must hold {least} points or more, got shape {array.shape}")
    return np.ascontiguousarray(array, dtype=np.float64)


def _check_indices(name: str, answer: Any, n: int) -> Indices:
    array = np.asarray(answer.detach().cpu() if hasattr(answer, "detach") else answer)
    if not array.size:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got {array.dtype}")
    if array.min() < 0 or array.max() >= n:
        raise ValueError(f"{name} must hold indices from 0 to {n - 1}, got {array.min()} to {array.max()}")
    return array.astype(np.int64)


def _same_polygon(corners: Indices, true: Indices) -> bool:
    if len(corners) != len(true) or corners.ndim != 1:
        return False
    place = np.flatnonzero(corners == true[0])
    return len(place) == 1 and np.array_equal(np.roll(corners, -int(place[0])), true)


def _mean(values: Sequence[float] | Sequence[bool]) -> tuple[float, float]:
    """Mean and its standard error."""
    array: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if not len(array):
        return float("nan"), float("nan")
    return float(array.mean()), float(array.std() / np.sqrt(len(array)))
