"""Seeded clouds of points on the surfaces of simple solids."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_integer, check_number

Points = NDArray[np.float64]


def make_shapes(
    n_samples: int = 100, n_points: int = 256, *, shift: float = 0.0, random_state: RandomState = None
) -> tuple[Points, NDArray[np.int64]]:
    """Draw clouds of points on the surfaces of ellipsoids, boxes, tori and cylinders.

    Each solid, of radius or half-width one, is stretched along each axis by a factor uniform in [0.4, 1] and, with
    ``shift``, moved by a vector uniform in a cube. Points are uniform on the surface before it is stretched.

    Parameters
    ----------
    n_samples : int, default 100
        Number of clouds.
    n_points : int, default 256
        Points of each cloud.
    shift : float, default 0.0
        Half the width of the cube of displacements.
    random_state : int, Generator, RandomState or None
        Where the clouds come from.

    Returns
    -------
    clouds : ndarray of shape (n_samples, n_points, 3)
        The clouds.
    kinds : ndarray of shape (n_samples,)
        0 for an ellipsoid, 1 for a box, 2 for a torus, 3 for a cylinder.

    Raises
    ------
    TypeError
        If a number is not an integer where one is wanted.
    ValueError
        If a number is out of its range.

    References
    ----------
    Stands in for the scanned and modelled objects of K. Nguyen, D. Nguyen, N. Ho. "Self-Attention Amortized
    Distributional Projection Optimization for Sliced Wasserstein Point-Cloud Reconstruction." arXiv:2301.04791.

    Examples
    --------
    >>> clouds, kinds = make_shapes(8, 100, random_state=0)
    >>> clouds.shape, kinds.tolist()
    ((8, 100, 3), [0, 1, 2, 3, 0, 1, 2, 3])
    """
    check_integer("n_samples", n_samples)
    check_integer("n_points", n_points)
    check_number("shift", shift, at_least=0.0)
    rng = numpy_generator(random_state)
    solids: list[Callable[[int, np.random.Generator], Points]] = [_sphere, _box, _torus, _cylinder]
    kinds = np.arange(n_samples) % len(solids)
    clouds = np.stack([solids[kind](n_points, rng) for kind in kinds])
    stretches = rng.uniform(0.4, 1.0, size=(n_samples, 1, 3))
    shifts = rng.uniform(-shift, shift, size=(n_samples, 1, 3)) if shift else 0.0
    return clouds * stretches + shifts, kinds


def _sphere(n_points: int, rng: np.random.Generator) -> Points:
    points = rng.normal(size=(n_points, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _box(n_points: int, rng: np.random.Generator) -> Points:
    points = rng.uniform(-1.0, 1.0, size=(n_points, 3))
    points[np.arange(n_points), rng.integers(3, size=n_points)] = rng.choice([-1.0, 1.0], size=n_points)
    return points


def _torus(n_points: int, rng: np.random.Generator, radius: float = 0.7, tube: float = 0.3) -> Points:
    # The outer side of the tube is longer than the inner one: accept angles in proportion to the length there.
    angles = np.empty(0)
    while len(angles) < n_points:
        tried = rng.uniform(0, 2 * math.pi, size=2 * n_points)
        kept = rng.uniform(0, radius + tube, size=len(tried)) < radius + tube * np.cos(tried)
        angles = np.concatenate([angles, tried[kept]])
    around_tube, around_axis = angles[:n_points], rng.uniform(0, 2 * math.pi, size=n_points)
    from_axis = radius + tube * np.cos(around_tube)
    columns = (from_axis * np.cos(around_axis), from_axis * np.sin(around_axis), tube * np.sin(around_tube))
    return np.stack(columns, axis=1)


def _cylinder(n_points: int, rng: np.random.Generator) -> Points:
    angle = rng.uniform(0, 2 * math.pi, size=n_points)
    # Areas of side and two lids, for radius 1 and height 2: 4 pi and 2 pi.
    on_side = rng.uniform(size=n_points) < 2 / 3
    radius = np.where(on_side, 1.0, np.sqrt(rng.uniform(size=n_points)))
    height = np.where(on_side, rng.uniform(-1.0, 1.0, size=n_points), rng.choice([-1.0, 1.0], size=n_points))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
