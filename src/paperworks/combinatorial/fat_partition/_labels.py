"""Where a word fits into a convex polygon, and how large it can be."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def half_planes(polygon: Floats) -> Floats:
    """Rows (a, b, c) of a counterclockwise polygon, which is where a x + b y <= c; (a, b) of length one."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    outwards = np.column_stack([edges[:, 1], -edges[:, 0]]) / np.hypot(*edges.T)[:, None]
    return np.column_stack([outwards, (outwards * polygon).sum(axis=1)])


def largest_box(planes: Floats, width: float, height: float) -> tuple[float, float, float]:
    """Centre x, y and scale s of the largest box of sides s width, s height inside the half-planes; s <= 0 if none.

    The corner of the box that is farthest along (a, b) lies inside iff a x + b y + s (|a| width + |b| height) / 2 <= c:
    a linear program in three variables.
    """
    reach = 0.5 * (np.abs(planes[:, 0]) * width + np.abs(planes[:, 1]) * height)
    return _largest(planes[:, :2].copy(), reach, planes[:, 2].copy())


def middle_place(planes: Floats, width: float, height: float) -> tuple[float, float]:
    """Centre of a box inside the half-planes that is as far from all of them as it can be."""
    limits = planes[:, 2] - 0.5 * (np.abs(planes[:, 0]) * width + np.abs(planes[:, 1]) * height)
    x, y, _ = _largest(planes[:, :2].copy(), np.ones(len(planes)), limits)
    return x, y


@njit(cache=True)
def _largest(normals: Floats, reach: Floats, limits: Floats) -> tuple[float, float, float]:
    """Try every corner of the linear program, of few constraints; the mean of the best, where several are."""
    n = len(limits)
    rounding = 1e-9 * (np.abs(limits).max() + 1e-300)
    best, sum_x, sum_y, count = 0.0, 0.0, 0.0, 0
    for i in range(n):
        for j in range(i):
            for k in range(j):
                x, y, scale = _meeting(normals, reach, limits, i, j, k)
                if not scale >= best * (1 - 1e-9):
                    continue
                inside = True
                for row in range(n):
                    used = normals[row, 0] * x + normals[row, 1] * y + scale * reach[row]
                    inside = inside and used <= limits[row] + rounding
                if not inside:
                    continue
                if scale > best * (1 + 1e-9):
                    best, sum_x, sum_y, count = scale, 0.0, 0.0, 0
                sum_x, sum_y, count = sum_x + x, sum_y + y, count + 1
    return sum_x / max(count, 1), sum_y / max(count, 1), best if count else 0.0


@njit(cache=True)
def _meeting(normals: Floats, reach: Floats, limits: Floats, i: int, j: int, k: int) -> tuple[float, float, float]:
    """Where three constraints hold with equality; NaN if nowhere."""
    # Cramer's rule on the three rows.
    ax, ay, ar, al = normals[i, 0], normals[i, 1], reach[i], limits[i]
    bx, by, br, bl = normals[j, 0], normals[j, 1], reach[j], limits[j]
    cx, cy, cr, cl = normals[k, 0], normals[k, 1], reach[k], limits[k]
    down = ax * (by * cr - br * cy) - ay * (bx * cr - br * cx) + ar * (bx * cy - by * cx)
    if abs(down) <= 1e-12 * max(abs(ar), abs(br), abs(cr)):
        return np.nan, np.nan, np.nan
    x = al * (by * cr - br * cy) - ay * (bl * cr - br * cl) + ar * (bl * cy - by * cl)
    y = ax * (bl * cr - br * cl) - al * (bx * cr - br * cx) + ar * (bx * cl - bl * cx)
    scale = ax * (by * cl - bl * cy) - ay * (bx * cl - bl * cx) + al * (bx * cy - by * cx)
    return x / down, y / down, scale / down
