"""Point sets with their answers, and the tours that learned ones are measured by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from paperworks._extras import require
from paperworks._random import RandomState, numpy_generator
from paperworks._tensors import Array, to_tensors
from paperworks._validation import check_choice, check_integer
from paperworks.combinatorial.pointer_network import _labels

__all__ = ["christofides", "held_karp", "make_geometry_dataset", "tour_length", "two_opt"]

Task = Literal["convex_hull", "delaunay", "tsp", "sorting"]
LabelSolver = Literal["exact", "heuristic"]
Points = NDArray[np.float64]
Indices = NDArray[np.int64]
# Of more points the table of Held and Karp has over 10^7 numbers; of more than so many, Qhull is quicker than trying
# all triangles.
LARGEST_EXACT_TOUR = 20
LARGEST_TRIED = 24


@dataclass(frozen=True)
class Kind:
    """What a task's inputs and outputs look like.

    Attributes
    ----------
    dimension : int
        Coordinates of a point.
    least_points : int
        Points that the task needs.
    terminate : bool
        Whether outputs end by themselves; if not, each is a permutation.
    width : int
        Numbers that belong together: three of a triangle.
    """

    dimension: int
    least_points: int
    terminate: bool
    width: int = 1

    def most_steps(self, n: int) -> int:
        """Most symbols that the answer for n points has: n points have at most 2 n - 5 triangles."""
        return 3 * (2 * n - 5) + 1 if self.width == 3 else n + self.terminate


KINDS: dict[Task, Kind] = {
    "convex_hull": Kind(2, 3, True),
    "delaunay": Kind(2, 3, True, 3),
    "tsp": Kind(2, 1, False),
    "sorting": Kind(1, 1, False),
}


def make_geometry_dataset(
    task: Task,
    n_samples: int,
    n_points: int | tuple[int, int] = (5, 50),
    *,
    random_state: RandomState = None,
    label_solver: LabelSolver = "exact",
) -> tuple[list[Points], list[Indices]]:
    """Draw point sets uniformly from the unit square, with their answers.

    Each answer has one way to be written. The hull begins at its vertex of the lowest index and goes counter-clockwise.
    Triangles have ascending indices and are ordered by their incentres, x before y. A tour begins at point 0, and of
    the two neighbours of that the lower index comes second.

    Parameters
    ----------
    task : {"convex_hull", "delaunay", "tsp", "sorting"}
        What is asked: the hull, the Delaunay triangulation, a closed tour, or numbers in ascending order.
    n_samples : int
        How many point sets.
    n_points : int or tuple of two ints, default (5, 50)
        Points in a set, or an inclusive range from which each set's number is drawn.
    random_state : None, int, Generator or RandomState, optional
        Source of the points.
    label_solver : {"exact", "heuristic"}, default "exact"
        For tours: the shortest one, of at most 20 points, or a short one by `two_opt`.

    Returns
    -------
    points : list of ndarray of shape (n_i, 2)
        Point sets; of shape (n_i, 1) for sorting.
    targets : list of ndarray
        Answers as indices from 0; triangles as rows of three.

    Raises
    ------
    TypeError
        If a number is no integer.
    ValueError
        If a number is out of range, or more points are asked for than exact tours can be found of.

    References
    ----------
    Oriol Vinyals, Meire Fortunato, Navdeep Jaitly, "Pointer Networks", arXiv 1506.03134.

    Examples
    --------
    >>> from paperworks.combinatorial import make_geometry_dataset
    >>> points, hulls = make_geometry_dataset("convex_hull", 100, (5, 10), random_state=0)
    >>> points[0].shape, hulls[0].tolist()
    ((10, 2), [0, 8, 9, 1, 2, 4, 7])
    """
    check_choice("task", task, KINDS)
    check_choice("label_solver", label_solver, ("exact", "heuristic"))
    check_integer("n_samples", n_samples)
    least, most = check_range(task, n_points)
    if task == "tsp" and label_solver == "exact" and most > LARGEST_EXACT_TOUR:
        raise ValueError(
            f"n_points must be at most {LARGEST_EXACT_TOUR} for exact tours, got {n_points}; label_solver='heuristic' "
            "takes any number"
        )
    rng = numpy_generator(random_state)
    lengths = rng.integers(least, most + 1, size=n_samples)
    points: list[Points] = [np.empty(0)] * n_samples
    answers: list[Indices] = [np.empty(0, dtype=np.int64)] * n_samples
    for n in range(least, most + 1):
        rows = np.flatnonzero(lengths == n)
        drawn = rng.random((len(rows), n, KINDS[task].dimension))
        targets = label(task, drawn, label_solver)
        for row, each, target in zip(rows.tolist(), drawn, targets, strict=True):
            points[row], answers[row] = each, as_answer(task, target)
    return points, answers


def check_range(task: Task, n_points: Any) -> tuple[int, int]:
    """Least and most points of a set."""
    given = (n_points, n_points) if not isinstance(n_points, (tuple, list)) else tuple(n_points)
    if len(given) != 2:
        raise ValueError(f"n_points must be an integer or a range of two, got {n_points!r}")
    least, most = (check_integer("n_points", each, at_least=KINDS[task].least_points) for each in given)
    if least > most:
        raise ValueError(f"n_points must go from the least to the most, got {n_points!r}")
    return least, most


def label(task: Task, points: NDArray[np.float64], label_solver: LabelSolver) -> Indices:
    """Targets (N, m) of point sets (N, n, d) of one size: numbered from 1, ended by 0, padded with -1."""
    N, n, _ = points.shape
    if not N:
        return np.empty((0, 1), dtype=np.int64)
    if task == "sorting":
        return points[:, :, 0].argsort(axis=1, kind="stable") + 1
    targets = np.full((N, KINDS[task].most_steps(n)), -1, dtype=np.int64)
    if task == "convex_hull":
        _labels.hulls(points, targets)
    elif task == "tsp":
        (_labels.shortest_tours if label_solver == "exact" else _labels.good_tours)(points, targets)
    else:
        doubtful = np.ones(N, dtype=np.bool_)
        if n <= LARGEST_TRIED:
            _labels.triangulations(points, targets, doubtful)
        for row in np.flatnonzero(doubtful):
            triangles = delaunay_triangles(points[row])
            targets[row, : 3 * len(triangles)] = triangles.ravel() + 1
            targets[row, 3 * len(triangles) :] = -1
            targets[row, 3 * len(triangles)] = 0
    return targets[:, : int((targets >= 0).sum(axis=1).max())]


def delaunay_triangles(points: Points) -> Indices:
    """Triangles (T, 3) in the order of the labels, by Qhull, which copes with points on one circle."""
    from scipy.spatial import Delaunay, QhullError

    try:
        triangles = np.sort(Delaunay(points).simplices.astype(np.int64), axis=1)
    except QhullError:
        raise ValueError("the points of a set lie on one line: they have no triangulation") from None
    _labels.sort_by_incentre(points, triangles)
    return triangles


def as_answer(task: Task, target: Indices) -> Indices:
    """Indices from 0 of one row of targets, or of decoded symbols: up to the end, in whole triangles."""
    ends = np.flatnonzero(target < 1)
    answer = np.array(target[: ends[0] if len(ends) else None], dtype=np.int64) - 1
    width = KINDS[task].width
    return answer if width == 1 else answer[: len(answer) // width * width].reshape(-1, width)


def tour_length(points: Array, tour: Sequence[int] | Array) -> Any:
    """Length of a closed tour.

    Parameters
    ----------
    points : array_like or Tensor of shape (n, d)
        The points.
    tour : sequence of the indices 0 .. n - 1, in the order in which they are visited
        The tour; the way back to its first point is part of it.

    Returns
    -------
    float or Tensor of shape ()
        Its length; differentiable by the points.

    Raises
    ------
    TypeError
        If ``points`` does not hold floating-point numbers, or ``tour`` no integers.
    ValueError
        If ``tour`` does not visit every point once.

    References
    ----------
    Oriol Vinyals, Meire Fortunato, Navdeep Jaitly, "Pointer Networks", arXiv 1506.03134.

    Examples
    --------
    >>> from paperworks.combinatorial import tour_length
    >>> tour_length([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], [0, 2, 1, 3])
    4.0
    """
    (P,), restore = to_tensors(points=points, ndim=2)
    order = check_tour("tour", tour, len(P))
    visited = P[torch.from_numpy(order).to(P.device)]
    return restore((visited - visited.roll(-1, dims=0)).norm(dim=1).sum())


def check_tour(name: str, tour: Any, n: int) -> Indices:
    """Return a tour as an array, if it visits each of n points once."""
    order = np.asarray(tour.detach().cpu() if hasattr(tour, "detach") else tour)
    if order.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got {order.dtype}")
    if order.shape != (n,) or not np.array_equal(np.sort(order), np.arange(n)):
        raise ValueError(f"{name} must visit each of the points 0 to {n - 1} once, got {np.array2string(order)}")
    return order.astype(np.int64)


def held_karp(points: Array) -> Any:
    """Shortest closed tour, by dynamic programming over sets of visited points.

    Parameters
    ----------
    points : array_like or Tensor of shape (n, d)
        At most 20 points.

    Returns
    -------
    ndarray or Tensor of shape (n,)
        The tour as indices; it begins at 0, and of the two neighbours of that the lower one comes second.

    Raises
    ------
    TypeError
        If ``points`` does not hold floating-point numbers.
    ValueError
        If there are more than 20 points.

    References
    ----------
    Michael Held, Richard M. Karp, "A dynamic programming approach to sequencing problems", 1962, doi 10.1137/0110015.

    Examples
    --------
    >>> from paperworks.combinatorial import held_karp
    >>> held_karp([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]).tolist()
    [0, 2, 1, 3]
    """

    def solve(P: Points) -> Indices:
        if len(P) > LARGEST_EXACT_TOUR:
            raise ValueError(f"points must be at most {LARGEST_EXACT_TOUR}, got {len(P)}; two_opt takes any number")
        return label("tsp", P[None], "exact")[0] - 1

    return _tour_of(points, solve)


def two_opt(points: Array, tour: Sequence[int] | Array | None = None) -> Any:
    """Short closed tour: pieces are reversed, and pieces of up to three points moved, while that shortens it.

    Parameters
    ----------
    points : array_like or Tensor of shape (n, d)
        The points.
    tour : sequence of the indices 0 .. n - 1, optional
        Where to begin; from each point to the nearest one that is left when None.

    Returns
    -------
    ndarray or Tensor of shape (n,)
        The tour as indices; it begins at 0, and of the two neighbours of that the lower one comes second.

    Raises
    ------
    TypeError
        If ``points`` does not hold floating-point numbers, or ``tour`` no integers.
    ValueError
        If ``tour`` does not visit every point once.

    References
    ----------
    G. A. Croes, "A method for solving traveling-salesman problems", 1958, doi 10.1287/opre.6.6.791.

    Examples
    --------
    >>> from paperworks.combinatorial import two_opt
    >>> two_opt([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], [0, 1, 2, 3]).tolist()
    [0, 2, 1, 3]
    """

    def solve(P: Points) -> Indices:
        if tour is None:
            return label("tsp", P[None], "heuristic")[0] - 1
        order = check_tour("tour", tour, len(P)).copy()
        _labels.improve_tour(P, order)
        return order

    return _tour_of(points, solve)


def christofides(points: Array) -> Any:
    """Closed tour of at most one and a half times the shortest length.

    Parameters
    ----------
    points : array_like or Tensor of shape (n, d)
        The points.

    Returns
    -------
    ndarray or Tensor of shape (n,)
        The tour as indices; it begins at 0, and of the two neighbours of that the lower one comes second.

    Raises
    ------
    TypeError
        If ``points`` does not hold floating-point numbers.
    MissingExtraError
        If networkx is not installed (extra ``graphs``).

    References
    ----------
    Nicos Christofides, "Worst-case analysis of a new heuristic for the travelling salesman problem", 1976.

    Examples
    --------
    >>> from paperworks.combinatorial import christofides
    >>> christofides([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]).tolist()
    [0, 2, 1, 3]
    """
    networkx = require("networkx", "graphs", "the tour of Christofides")
    from scipy.spatial.distance import cdist

    def solve(P: Points) -> Indices:
        if len(P) < 4:
            return np.arange(len(P))
        graph = networkx.from_numpy_array(cdist(P, P))
        # Points in one place have no edge in a matrix of distances.
        graph.add_edges_from(((a, b) for a in range(len(P)) for b in range(a) if not graph.has_edge(a, b)), weight=0.0)
        tour = np.array(networkx.approximation.christofides(graph)[:-1], dtype=np.int64)
        tour = np.roll(tour, -int(tour.argmin()))
        _labels.set_direction(tour)
        return tour

    return _tour_of(points, solve)


def _tour_of(points: Array, solve: Callable[[Points], Indices]) -> Any:
    (P,), restore = to_tensors(points=points, ndim=2)
    coordinates = np.ascontiguousarray(P.detach().cpu().double().numpy())
    return restore(torch.from_numpy(solve(coordinates)).to(P.device))
