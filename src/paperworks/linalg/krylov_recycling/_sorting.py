"""The order in which to solve the systems of a sequence: neighbours should be alike."""

from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA

from paperworks._validation import check_choice, check_floating, check_integer

Method = Literal["greedy", "grouped", "hilbert"] | None
METHODS = ("greedy", "grouped", "hilbert", None)
Points = NDArray[np.float64]
Order = NDArray[np.intp]

# Distances are taken among this many principal components if they keep this share of the variance, 0.9 of a distance.
COMPONENTS, VARIANCE = 32, 0.81
# Waves along each axis that a field is reduced to before its place on the curve is found.
LOW_FREQUENCIES = 4


def sort_systems(parameters: ArrayLike, method: Method = "greedy", group_size: int = 4000) -> NDArray[np.intp]:
    r"""Order systems by their parameters so that each is near to the one before.

    The greedy chain begins at the first system and goes on to the nearest one that is left,

    .. math:: j = \arg\min_{j \text{ not yet visited}} \|P^{(i)} - P^{(j)}\|_F.

    It takes :math:`O(N^2 p)` time; for many systems the groups are sorted each on their own.

    Parameters
    ----------
    parameters : array_like of shape (n_systems, ...)
        The parameters P of each system, floating point: vectors, or fields such as permeabilities.
    method : {"greedy", "grouped", "hilbert", None}, default "greedy"
        One chain through all; chains through groups that the first principal component parts; chains through the
        cells of a grid over two components of a field's low frequencies, which a Hilbert curve strings together; or
        the order that the systems came in.
    group_size : int, default 4000
        Systems of a group, or on average of a cell.

    Returns
    -------
    ndarray of shape (n_systems,)
        A permutation: solve system ``order[0]`` first. Of equally near systems the first one comes first.

    Raises
    ------
    ValueError
        If there are no parameters, one is NaN or infinite, or an option is unknown.
    TypeError
        If they are not floating-point numbers.

    References
    ----------
    Hong Wang, Zhongkai Hao, Jie Wang, Zijie Geng, Zhen Wang, Bin Li, Feng Wu. "Accelerating Data Generation for Neural
    Operators via Krylov Subspace Recycling". ICLR 2024. arXiv:2401.09516.

    Examples
    --------
    >>> from paperworks.linalg import sort_systems
    >>> sort_systems([[0.0], [5.0], [1.0], [4.0], [2.0]])
    array([0, 2, 4, 3, 1])
    """
    check_choice("method", method, METHODS)
    size = check_integer("group_size", group_size)
    P = check_floating("parameters", parameters).astype(np.float64, copy=False)
    if not P.ndim:
        raise ValueError("parameters must have at least one dimension, got a single number")
    points = _reduced(P.reshape(len(P), -1))
    if method is None:
        return np.arange(len(P))
    if method == "greedy":
        groups = [np.arange(len(P))]
    elif method == "grouped":
        along = _components(points, 1)[:, 0].argsort(kind="stable")
        groups = [np.sort(group) for group in np.array_split(along, -(-len(P) // size))]
    else:
        groups = _cells(_components(_low_frequencies(P), 2), size)
    return _chains(points, groups)


def _chains(points: Points, groups: list[Order]) -> Order:
    """One greedy chain through each group, from the point that is nearest to where the last one ended."""
    order: list[Order] = []
    for group in groups:
        inside = points[group]
        start = int(((inside - points[order[-1][-1]]) ** 2).sum(axis=1).argmin()) if order else 0
        order.append(group[_greedy(inside, start)])
    return np.concatenate(order)


@njit(cache=True, nogil=True)
def _greedy(points, start):
    n, p = points.shape
    left, order = np.arange(n), np.empty(n, np.intp)
    here = start
    for step in range(n):
        order[step] = here
        # Those that are left stay in order, so that the lowest index wins a tie.
        kept, nearest, best = 0, -1, np.inf
        for i in left[: n - step]:
            if i == here:
                continue
            left[kept] = i
            kept += 1
            distance = 0.0
            for c in range(p):
                distance += (points[i, c] - points[here, c]) ** 2
                if distance >= best:
                    break
            if distance < best:
                nearest, best = i, distance
        here = nearest
    return order


def _reduced(points: Points) -> Points:
    """As few coordinates as keep the distances."""
    if min(points.shape) <= COMPONENTS:
        return np.ascontiguousarray(points)
    with np.errstate(invalid="ignore"):  # points may all be the same
        pca = PCA(COMPONENTS, svd_solver="randomized", random_state=0).fit(points)
    if pca.explained_variance_ratio_.sum() < VARIANCE:
        return np.ascontiguousarray(points)
    return np.ascontiguousarray(pca.transform(points))


def _components(points: Points, count: int) -> Points:
    if min(points.shape) <= count:
        return np.asarray(np.pad(points, ((0, 0), (0, count)))[:, :count])
    with np.errstate(invalid="ignore"):
        return np.asarray(PCA(count, random_state=0).fit_transform(points))


def _low_frequencies(P: Points) -> Points:
    """The long waves of fields; vectors stay as they are."""
    if P.ndim < 3:
        return P.reshape(len(P), -1)
    waves = np.fft.fftn(P, axes=range(1, P.ndim))
    for axis in range(1, P.ndim):
        low = np.abs(np.fft.fftfreq(P.shape[axis], 1 / P.shape[axis])) <= LOW_FREQUENCIES
        waves = np.compress(low, waves, axis=axis)
    flat = waves.reshape(len(P), -1)
    return np.asarray(np.hstack([flat.real, flat.imag]))


def _cells(plane: Points, size: int) -> list[Order]:
    """Cells of a grid that hold ``size`` points on average, in the order of a Hilbert curve."""
    level = max(0, int(np.ceil(np.log2(max(1.0, len(plane) / size)) / 2)))
    # By ranks, the columns and the rows of the grid are all equally full.
    ranks = plane.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    columns, rows = (ranks * 2**level // len(plane)).T
    place = _hilbert(level, columns, rows)
    return [np.flatnonzero(place == each) for each in np.unique(place)]


def _hilbert(level: int, x: Any, y: Any) -> NDArray[np.int64]:
    """Place along the Hilbert curve through a grid of 2^level by 2^level cells."""
    x, y = np.array(x, np.int64), np.array(y, np.int64)
    place = np.zeros_like(x)
    side = 2**level
    half = side // 2
    while half:
        right, upper = (x & half) > 0, (y & half) > 0
        place += half * half * ((3 * right) ^ upper)
        # Turn the quadrant, so that the curve through it begins where the one before ended.
        flip = ~upper & right
        x, y = np.where(flip, side - 1 - x, x), np.where(flip, side - 1 - y, y)
        x, y = np.where(upper, x, y), np.where(upper, y, x)
        half //= 2
    return place
