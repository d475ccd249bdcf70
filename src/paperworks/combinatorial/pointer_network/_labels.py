"""Exact answers for many small point sets at once: hulls, triangulations, tours."""

import numba
import numpy as np

compiled = numba.njit(cache=True, nogil=True)


@compiled
def cross(points, a, b, c):
    """Twice the signed area of triangle abc: positive where it turns left."""
    return (points[b, 0] - points[a, 0]) * (points[c, 1] - points[a, 1]) - (points[b, 1] - points[a, 1]) * (
        points[c, 0] - points[a, 0]
    )


@compiled
def hull(points, found):
    """Fill ``found`` with the hull's vertices, and return their number: Andrew's monotone chain.

    They go counter-clockwise from the lowest index on; points on an edge are left out, and of equal points all but the
    first.
    """
    n = len(points)
    order = np.argsort(points[:, 0])
    for r in range(1, n):  # nearly sorted: equal x are put in order by y, then by index
        p = order[r]
        s = r - 1
        while s >= 0 and points[order[s], 0] == points[p, 0] and (points[order[s], 1], order[s]) > (points[p, 1], p):
            order[s + 1] = order[s]
            s -= 1
        order[s + 1] = p
    kept = np.empty(n, dtype=np.int64)
    kept[0], n_kept = order[0], 1
    for r in range(1, n):
        if points[order[r], 0] != points[order[r - 1], 0] or points[order[r], 1] != points[order[r - 1], 1]:
            kept[n_kept] = order[r]
            n_kept += 1
    chain = np.empty(2 * n + 1, dtype=np.int64)
    m = 0
    for r in range(n_kept):
        while m >= 2 and cross(points, chain[m - 2], chain[m - 1], kept[r]) <= 0:
            m -= 1
        chain[m] = kept[r]
        m += 1
    lower = m
    for r in range(n_kept - 2, -1, -1):
        while m > lower and cross(points, chain[m - 2], chain[m - 1], kept[r]) <= 0:
            m -= 1
        chain[m] = kept[r]
        m += 1
    m = max(1, m - 1)  # the last one is the first again
    first = np.argmin(chain[:m])
    for r in range(m):
        found[r] = chain[(first + r) % m]
    return m


@compiled
def area(points, corners):
    """Area of the polygon with these corners."""
    total = 0.0
    for r in range(len(corners)):
        a, b = corners[r], corners[(r + 1) % len(corners)]
        total += points[a, 0] * points[b, 1] - points[a, 1] * points[b, 0]
    return abs(total) / 2


@compiled
def is_simple(points, corners):
    """Whether a polygon has three corners or more, and no two of its edges meet but neighbours in their corner."""
    m = len(corners)
    if m < 3:
        return False
    for r in range(m):
        a, b = corners[r], corners[(r + 1) % m]
        c = corners[(r + 2) % m]
        # Neighbours that fold back onto each other.
        if cross(points, a, b, c) == 0 and (
            (points[b, 0] - points[a, 0]) * (points[c, 0] - points[b, 0])
            + (points[b, 1] - points[a, 1]) * (points[c, 1] - points[b, 1])
            <= 0
        ):
            return False
        for s in range(r + 2, m):
            if r == 0 and s == m - 1:
                continue
            if _meet(points, a, b, corners[s], corners[(s + 1) % m]):
                return False
    return True


@compiled
def _meet(points, a, b, c, d):
    one, two = cross(points, a, b, c), cross(points, a, b, d)
    three, four = cross(points, c, d, a), cross(points, c, d, b)
    if ((one > 0 and two < 0) or (one < 0 and two > 0)) and ((three > 0 and four < 0) or (three < 0 and four > 0)):
        return True
    return (
        (one == 0 and _within(points, a, b, c))
        or (two == 0 and _within(points, a, b, d))
        or (three == 0 and _within(points, c, d, a))
        or (four == 0 and _within(points, c, d, b))
    )


@compiled
def _within(points, a, b, p):
    """Whether p, on the line through a and b, lies between them."""
    for k in range(2):
        if points[p, k] < min(points[a, k], points[b, k]) or points[p, k] > max(points[a, k], points[b, k]):
            return False
    return True


@compiled
def delaunay(points, found):
    """Fill ``found`` with triangles whose circumcircle holds no other point, and return their number.

    It is -1 where points are on one line or circle but for rounding: then it takes more care than here.
    """
    n = len(points)
    extent = max(np.ptp(points[:, 0]), np.ptp(points[:, 1]))
    on_line, on_circle = 1e-12 * extent**2, 1e-12 * extent**4
    m = 0
    for i in range(n):
        for j in range(i + 1, n):
            for k in range(j + 1, n):
                turn = cross(points, i, j, k)
                if abs(turn) <= on_line:
                    return -1
                empty = True
                for p in range(n):
                    if p in (i, j, k):
                        continue
                    inside = _in_circle(points, i, j, k, p) * np.sign(turn)
                    if inside > on_circle:
                        empty = False
                        break
                    if inside >= -on_circle:
                        return -1
                if empty:
                    found[m, 0], found[m, 1], found[m, 2] = i, j, k
                    m += 1
    return m


@compiled
def _in_circle(points, i, j, k, p):
    """Positive where p is inside the circle through i, j, k, counter-clockwise."""
    ax, ay = points[i, 0] - points[p, 0], points[i, 1] - points[p, 1]
    bx, by = points[j, 0] - points[p, 0], points[j, 1] - points[p, 1]
    cx, cy = points[k, 0] - points[p, 0], points[k, 1] - points[p, 1]
    a, b, c = ax * ax + ay * ay, bx * bx + by * by, cx * cx + cy * cy
    return a * (bx * cy - by * cx) - b * (ax * cy - ay * cx) + c * (ax * by - ay * bx)


@compiled
def sort_by_incentre(points, triangles):
    """Order triangles in place by their incentres, x before y."""
    m = len(triangles)
    centres = np.empty((m, 2))
    for r in range(m):
        i, j, k = triangles[r]
        a, b, c = distance(points, j, k), distance(points, k, i), distance(points, i, j)
        for axis in range(2):
            weighted = a * points[i, axis] + b * points[j, axis] + c * points[k, axis]
            centres[r, axis] = weighted / (a + b + c)
    for r in range(1, m):
        triangle, x, y = triangles[r].copy(), centres[r, 0], centres[r, 1]
        s = r - 1
        while s >= 0 and (centres[s, 0], centres[s, 1]) > (x, y):
            triangles[s + 1] = triangles[s]
            centres[s + 1] = centres[s]
            s -= 1
        triangles[s + 1] = triangle
        centres[s + 1, 0], centres[s + 1, 1] = x, y


@compiled
def distance(points, a, b):
    total = 0.0
    for axis in range(points.shape[1]):
        total += (points[a, axis] - points[b, axis]) ** 2
    return np.sqrt(total)


@compiled
def shortest_tour(points, best, before, tour):
    """Held and Karp: fill ``tour``; ``best`` and ``before`` are room for (2^(n - 1), n - 1) numbers.

    ``best[seen, j]`` is the length of the shortest way from point 0 through all of the set ``seen`` that ends in j + 1.
    """
    n = len(points)
    if n < 4:
        for r in range(n):
            tour[r] = r
        return
    others = n - 1
    apart = np.empty((n, n))
    for a in range(n):
        for b in range(n):
            apart[a, b] = distance(points, a, b)
    for seen in range(1, 1 << others):
        for j in range(others):
            if not seen >> j & 1:
                continue
            rest = seen ^ (1 << j)
            best[seen, j] = apart[0, j + 1] if rest == 0 else np.inf
            for i in range(others):
                if rest >> i & 1:
                    length = best[rest, i] + apart[i + 1, j + 1]
                    if length < best[seen, j]:
                        best[seen, j], before[seen, j] = length, i
    seen = (1 << others) - 1
    last, shortest = 0, np.inf
    for j in range(others):
        if best[seen, j] + apart[j + 1, 0] < shortest:
            last, shortest = j, best[seen, j] + apart[j + 1, 0]
    for r in range(others, 0, -1):
        tour[r] = last + 1
        seen, last = seen ^ (1 << last), before[seen, last]
    tour[0] = 0
    set_direction(tour)


@compiled
def set_direction(tour):
    """Turn a tour, which begins with 0, so that the lower of the two neighbours of 0 comes second."""
    n = len(tour)
    if n > 2 and tour[1] > tour[n - 1]:
        tour[1:] = tour[1:][::-1].copy()


@compiled
def nearest_neighbour_tour(points, tour):
    n = len(points)
    visited = np.zeros(n, dtype=np.bool_)
    tour[0], visited[0] = 0, True
    for r in range(1, n):
        nearest, least = -1, np.inf
        for p in range(n):
            if not visited[p]:
                length = distance(points, tour[r - 1], p)
                if length < least:
                    nearest, least = p, length
        tour[r], visited[nearest] = nearest, True


@compiled
def improve_tour(points, tour):
    """Reverse pieces of a tour (2-opt), and move pieces of up to three points (Or-opt), while that shortens it."""
    n = len(tour)
    least_gain = 1e-12
    improved = n > 3
    while improved:
        improved = False
        for r in range(n - 1):
            for s in range(r + 2, n):
                a, b, c, d = tour[r], tour[r + 1], tour[s], tour[(s + 1) % n]
                gain = distance(points, a, b) + distance(points, c, d)
                gain -= distance(points, a, c) + distance(points, b, d)
                if a != d and gain > least_gain:
                    tour[r + 1 : s + 1] = tour[r + 1 : s + 1][::-1].copy()
                    improved = True
        for length in range(1, min(3, n - 3) + 1):
            if _move_piece(points, tour, length, least_gain):
                improved = True
    first = np.argmin(tour)
    tour[:] = np.concatenate((tour[first:], tour[:first]))
    set_direction(tour)


@compiled
def _move_piece(points, tour, length, least_gain):
    """Move the piece that opens the tour, for every rotation of it, to where it fits best."""
    n = len(tour)
    moved = False
    for _ in range(n):
        first, last, after, before = tour[0], tour[length - 1], tour[length], tour[n - 1]
        out = distance(points, before, first) + distance(points, last, after) - distance(points, before, after)
        best, place, turned = least_gain, -1, False
        for r in range(length, n - 1):
            a, b = tour[r], tour[r + 1]
            edge = distance(points, a, b)
            straight = out + edge - distance(points, a, first) - distance(points, last, b)
            back = out + edge - distance(points, a, last) - distance(points, first, b)
            if straight > best:
                best, place, turned = straight, r, False
            if back > best:
                best, place, turned = back, r, True
        if place >= 0:
            piece = tour[:length].copy()
            tour[: place + 1 - length] = tour[length : place + 1].copy()
            tour[place + 1 - length : place + 1] = piece[::-1] if turned else piece
            moved = True
        tour[:] = np.concatenate((tour[1:], tour[:1]))
    return moved


@compiled
def hulls(points, targets):
    """Fill rows of targets, numbered from 1, ended by 0 and padded with -1."""
    found = np.empty(points.shape[1], dtype=np.int64)
    for r in range(len(points)):
        m = hull(points[r], found)
        targets[r] = -1
        for s in range(m):
            targets[r, s] = found[s] + 1
        targets[r, m] = 0


@compiled
def triangulations(points, targets, doubtful):
    """Fill rows of targets as `hulls`, three numbers a triangle; ``doubtful`` marks the rows that it can't."""
    n = points.shape[1]
    found = np.empty((max(1, n * (n - 1) * (n - 2) // 6), 3), dtype=np.int64)
    for r in range(len(points)):
        m = delaunay(points[r], found)
        doubtful[r] = m < 0
        if m < 0:
            continue
        sort_by_incentre(points[r], found[:m])
        targets[r] = -1
        for s in range(m):
            targets[r, 3 * s : 3 * s + 3] = found[s] + 1
        targets[r, 3 * m] = 0


@compiled
def shortest_tours(points, targets):
    """Fill rows of targets, numbered from 1."""
    n = points.shape[1]
    best, before = np.empty((1 << (n - 1), max(1, n - 1))), np.empty((1 << (n - 1), max(1, n - 1)), dtype=np.int8)
    tour = np.empty(n, dtype=np.int64)
    for r in range(len(points)):
        shortest_tour(points[r], best, before, tour)
        targets[r] = tour + 1


@compiled
def good_tours(points, targets):
    """Fill rows of targets, numbered from 1, with tours from the nearest neighbours on, improved."""
    tour = np.empty(points.shape[1], dtype=np.int64)
    for r in range(len(points)):
        nearest_neighbour_tour(points[r], tour)
        improve_tour(points[r], tour)
        targets[r] = tour + 1
