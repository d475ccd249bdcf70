"""Cutting convex polygons: exact areas, diameters, and the direction that leaves the fattest pieces.

A polygon is an array of rows (x, y, angle), counterclockwise; the angle in [0, pi) is the direction of the edge that
leaves the vertex. Kept from cut to cut, it is exact where it would be lost in the coordinates of a short edge.
"""

from math import pi

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Edges shorter than this share of the diameter come from cuts through a vertex.
SNAP = 1e-12
# Corners that differ in height by less than this share of the whole lie on a level.
LEVEL = 1e-14
# Directions closer than this are one.
PARALLEL = 1e-9
# A candidate must be better by this factor, lest rounding choose between mirror images.
CLEARLY = 1 - 1e-9


@njit(cache=True)
def double_area(polygon: Floats, size: int) -> float:
    """Twice the signed area, about the first vertex."""
    total = 0.0
    for i in range(1, size - 1):
        ax, ay = polygon[i, 0] - polygon[0, 0], polygon[i, 1] - polygon[0, 1]
        bx, by = polygon[i + 1, 0] - polygon[0, 0], polygon[i + 1, 1] - polygon[0, 1]
        total += ax * by - ay * bx
    return total


@njit(cache=True)
def squared_diameter(polygon: Floats, size: int, enough: float = np.inf) -> float:
    """Largest squared distance of two vertices; stops as soon as it exceeds `enough`."""
    if size > 64:
        return _calipers(polygon, size)
    largest = 0.0
    for i in range(size):
        for j in range(i):
            dx, dy = polygon[i, 0] - polygon[j, 0], polygon[i, 1] - polygon[j, 1]
            largest = max(largest, dx * dx + dy * dy)
        if largest > enough:
            return largest
    return largest


@njit(cache=True)
def _calipers(polygon: Floats, size: int) -> float:
    """Rotating calipers: the vertex farthest from an edge only moves on."""
    largest, j = 0.0, 1
    for i in range(size):
        following = (i + 1) % size
        ex, ey = polygon[following, 0] - polygon[i, 0], polygon[following, 1] - polygon[i, 1]
        for _ in range(size):
            ahead = (j + 1) % size
            step = ex * (polygon[ahead, 1] - polygon[j, 1]) - ey * (polygon[ahead, 0] - polygon[j, 0])
            for end in (i, following):
                dx, dy = polygon[end, 0] - polygon[j, 0], polygon[end, 1] - polygon[j, 1]
                largest = max(largest, dx * dx + dy * dy)
            if step <= 0:
                break
            j = ahead
    return largest


@njit(cache=True)
def cut_below(polygon: Floats, size: int, ux: float, uy: float, area: float, heights: Floats, ends: Floats) -> int:
    """Cut off `area`, at most half, on the right of the direction (ux, uy).

    The width of a convex polygon is linear in the height between two vertices, so the area is quadratic there. The
    ends of the cut go to `ends` (its right end first). Vertices below it are counterclockwise from j to i.

    Returns
    -------
    int
        ``i * size + j``.
    """
    bottom = 0
    for v in range(size):
        heights[v] = ux * polygon[v, 1] - uy * polygon[v, 0]
        if heights[v] < heights[bottom]:
            bottom = v
    # The ends of an edge along the cut differ in height by rounding, which a tiny area must not mistake for a corner.
    level = LEVEL * np.ptp(heights[:size])
    for v in range(size):
        if heights[v] - heights[bottom] < level:
            heights[v] = heights[bottom]
    i = j = bottom
    height, width, below = heights[bottom], 0.0, 0.0
    while True:
        after, before = (i + 1) % size, (j - 1) % size
        top = min(heights[after], heights[before])
        _chord(polygon, heights, i, after, j, before, top, ends)
        next_width = ux * (ends[0, 0] - ends[1, 0]) + uy * (ends[0, 1] - ends[1, 1])
        slab = 0.5 * (width + next_width) * (top - height)
        if below + slab >= area or (after == before and heights[after] <= top):
            break
        below, height, width = below + slab, top, next_width
        if heights[before] <= top:
            j = before
        if heights[after] <= top:
            i = after
    if top > height:
        slope = (next_width - width) / (top - height)
        rest = max(area - below, 0.0)
        # The root in this form subtracts nothing from what is nearly equal.
        root = width + np.sqrt(max(width * width + 2 * slope * rest, 0.0))
        rise = min(2 * rest / root, top - height) if root > 0 else 0.0
        _chord(polygon, heights, i, after, j, before, height + rise, ends)
    return i * size + j


@njit(cache=True, inline="always")
def _chord(
    polygon: Floats, heights: Floats, i: int, after: int, j: int, before: int, height: float, ends: Floats
) -> None:
    """Where the two edges that go up meet a height."""
    for end, low, high in ((0, i, after), (1, j, before)):
        rise = heights[high] - heights[low]
        share = min(max((height - heights[low]) / rise, 0.0), 1.0) if rise > 0 else 1.0
        ends[end, 0] = polygon[low, 0] + share * (polygon[high, 0] - polygon[low, 0])
        ends[end, 1] = polygon[low, 1] + share * (polygon[high, 1] - polygon[low, 1])


@njit(cache=True)
def lower_piece(polygon: Floats, size: int, where: int, ends: Floats, angle: float, piece: Floats) -> int:
    """The piece on the right of a cut, into `piece`; returns its number of vertices."""
    i, j = where // size, where % size
    piece[0, 0], piece[0, 1], piece[0, 2] = ends[1, 0], ends[1, 1], polygon[(j - 1) % size, 2]
    count = (i - j) % size + 1
    for step in range(count):
        piece[1 + step] = polygon[(j + step) % size]
    piece[count + 1, 0], piece[count + 1, 1], piece[count + 1, 2] = ends[0, 0], ends[0, 1], angle
    return count + 2


@njit(cache=True)
def upper_piece(polygon: Floats, size: int, where: int, ends: Floats, angle: float, piece: Floats) -> int:
    """The piece on the left of a cut, into `piece`; returns its number of vertices."""
    i, j = where // size, where % size
    piece[0, 0], piece[0, 1], piece[0, 2] = ends[0, 0], ends[0, 1], polygon[i, 2]
    count = size - (i - j) % size - 1
    for step in range(count):
        piece[1 + step] = polygon[(i + 1 + step) % size]
    piece[count + 1, 0], piece[count + 1, 1], piece[count + 1, 2] = ends[1, 0], ends[1, 1], angle
    return count + 2


@njit(cache=True)
def snap(piece: Floats, size: int) -> int:
    """Drop edges without length, in place; returns the number of vertices."""
    shortest = SNAP * SNAP * squared_diameter(piece, size)
    kept = 0
    for v in range(size):
        following = piece[v + 1] if v + 1 < size else piece[0]
        dx, dy = following[0] - piece[v, 0], following[1] - piece[v, 1]
        if dx * dx + dy * dy > shortest:
            piece[kept] = piece[v]
            kept += 1
    return kept


@njit(cache=True)
def edge_directions(polygon: Floats, size: int, sorted_angles: Floats) -> int:
    """Different directions of the edges, ascending; returns their number."""
    count = 0
    for v in range(size):
        angle, place = polygon[v, 2], count
        while place > 0 and sorted_angles[place - 1] > angle:
            place -= 1
        near_before = place > 0 and angle - sorted_angles[place - 1] < PARALLEL
        near_after = place < count and sorted_angles[place] - angle < PARALLEL
        if near_before or near_after:
            continue
        for k in range(count, place, -1):
            sorted_angles[k] = sorted_angles[k - 1]
        sorted_angles[place] = angle
        count += 1
    if count > 1 and sorted_angles[0] + pi - sorted_angles[count - 1] < PARALLEL:
        count -= 1
    return count


@njit(cache=True)
def gap_middles(angles: Floats, count: int, least: float, middles: Floats, offset: int) -> int:
    """Middles of the gaps between directions that are at least `least` times the widest; returns how many there are."""
    widest = 0.0
    for k in range(count):
        widest = max(widest, (angles[k + 1] if k + 1 < count else angles[0] + pi) - angles[k])
    found = offset
    for k in range(count):
        gap = (angles[k + 1] if k + 1 < count else angles[0] + pi) - angles[k]
        if gap >= least * widest:
            middle = angles[k] + 0.5 * gap
            middles[found] = middle - pi if middle >= pi else middle
            found += 1
    return found - offset


@njit(cache=True)
def separated(angle: float, angles: Floats, count: int, separation: float) -> bool:
    """Whether a direction is parallel to each of the others or apart from it by `separation`."""
    for k in range(count):
        apart = abs(angle - angles[k])
        apart = min(apart, pi - apart)
        if PARALLEL <= apart < separation:
            return False
    return True


@njit(cache=True)
def across_diameter(polygon: Floats, size: int) -> float:
    """Direction at right angles to the diameter."""
    largest, angle = 0.0, 0.0
    for i in range(size):
        for j in range(i):
            dx, dy = polygon[i, 0] - polygon[j, 0], polygon[i, 1] - polygon[j, 1]
            # Of diagonals of one length the first, whatever the rounding.
            if dx * dx + dy * dy > largest / CLEARLY:
                largest, angle = dx * dx + dy * dy, np.arctan2(dx, -dy)
    return angle % pi


@njit(cache=True)
def candidates(polygon: Floats, size: int, fixed: Floats, separation: float, angles: Floats, found: Floats) -> int:
    """Directions that a cut may take; returns how many there are.

    The middles of the widest gaps between the directions of the edges come first, and alone where `fixed` is empty.
    Otherwise the other gaps, the line across the diameter and the `fixed` directions follow, if they are separated.
    """
    count = edge_directions(polygon, size, angles)
    n = gap_middles(angles, count, CLEARLY, found, 0)
    if not len(fixed):
        return n
    further = gap_middles(angles, count, 0.0, found, n)
    last = n + further
    found[last] = across_diameter(polygon, size)
    found[last + 1 : last + 1 + len(fixed)] = fixed
    for k in range(n, last + 1 + len(fixed)):
        if separated(found[k], angles, count, separation):
            found[n] = found[k]
            n += 1
    return n


@njit(cache=True)
def best_cut(
    polygon: Floats,
    size: int,
    area: float,
    share: float,
    directions: Floats,
    count: int,
    heights: Floats,
    piece: Floats,
    ends: Floats,
) -> tuple[float, float]:
    """Angle and side (1 or -1) of the cut, the small `share` on its right, whose worse piece is the fattest."""
    best, best_angle, best_side = np.inf, 0.0, 1.0
    small, large = share * area, (1 - share) * area
    for k in range(count):
        ux, uy = np.cos(directions[k]), np.sin(directions[k])
        for side in (1.0, -1.0):
            where = cut_below(polygon, size, side * ux, side * uy, small, heights, ends)
            n = lower_piece(polygon, size, where, ends, 0.0, piece)
            low = squared_diameter(piece, n, best * small) / small
            if low >= best:
                continue
            n = upper_piece(polygon, size, where, ends, 0.0, piece)
            worst = max(low, squared_diameter(piece, n, best * large) / large)
            if worst < best * CLEARLY:
                best, best_angle, best_side = worst, directions[k], side
    return best_angle, best_side


@njit(cache=True, nogil=True)
def cut_level(
    parents: Integers,
    pieces: Integers,
    weights: Floats,
    start: Integers,
    size: Integers,
    origin: Floats,
    vertices: Floats,
    cut_vertices: Floats,
    offsets: tuple[int, int],
    fixed: Floats,
    separation: float,
) -> None:
    """Cut all polygons of one binary level.

    Parameters
    ----------
    parents, pieces : array of shape (m,), array of shape (n_cells, 2)
        The cells to cut, and the two cells that every cell becomes.
    weights, start, size, origin : arrays of n_cells rows
        Weight, first vertex, number of vertices and origin of every cell; those of the pieces are written.
    vertices, cut_vertices : array of shape (?, 3)
        Polygons of this level and, written, of the next. Coordinates are relative to the origin of the cell, so that
        small cells keep their digits.
    offsets
        What starts of this level, and of the next, count from.
    fixed, separation
        As `candidates` takes them.
    """
    largest = 4
    for parent in parents:
        largest = max(largest, size[parent])
    polygon, ends = np.empty((largest, 3)), np.empty((2, 2))
    heights, scratch = np.empty(largest), np.empty((largest + 2, 3))
    angles, directions = np.empty(largest), np.empty(2 * largest + 1 + len(fixed))
    written = 0
    for parent in parents:
        k = size[parent]
        first = start[parent] - offsets[0]
        cx, cy = vertices[first : first + k, 0].mean(), vertices[first : first + k, 1].mean()
        for v in range(k):
            polygon[v, 0], polygon[v, 1] = vertices[first + v, 0] - cx, vertices[first + v, 1] - cy
            polygon[v, 2] = vertices[first + v, 2]
        light, heavy = pieces[parent, 0], pieces[parent, 1]
        if weights[light] > weights[heavy]:
            light, heavy = heavy, light
        area = 0.5 * double_area(polygon, k)
        share = weights[light] / (weights[light] + weights[heavy])
        count = candidates(polygon, k, fixed, separation, angles, directions)
        angle, side = best_cut(polygon, k, area, share, directions, count, heights, scratch, ends)
        ux, uy = side * np.cos(angle), side * np.sin(angle)
        where = cut_below(polygon, k, ux, uy, share * area, heights, ends)
        for below, cell in ((True, light), (False, heavy)):
            piece = cut_vertices[written:]
            if below:
                n = lower_piece(polygon, k, where, ends, angle, piece)
            else:
                n = upper_piece(polygon, k, where, ends, angle, piece)
            n = snap(piece, n)
            start[cell], size[cell] = offsets[1] + written, n
            origin[cell, 0], origin[cell, 1] = origin[parent, 0] + cx, origin[parent, 1] + cy
            written += n


@njit(cache=True)
def measure(start: Integers, size: Integers, vertices: Floats, areas: Floats, ratios: Floats) -> None:
    """Area and aspect ratio, diameter squared by area, of many polygons."""
    for cell in range(len(start)):
        polygon = vertices[start[cell] : start[cell] + size[cell]]
        areas[cell] = 0.5 * double_area(polygon, size[cell])
        ratios[cell] = squared_diameter(polygon, size[cell]) / areas[cell]
