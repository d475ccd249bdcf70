"""Functions with many minima on which global optimisers are tried; each has its least value 0 at the origin."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks._random import RandomState, integer_seed
from paperworks._validation import check_choice


def benchmark_function(name: str, *, random_state: RandomState = 0) -> Callable[[Any], Any]:
    r"""A function with many local minima and the global minimum 0 at the origin.

    ====================  =========================================================================================
    ``"canyon"``          a winding valley of the plane, blocked half-way by a ridge, with ripples all over
    ``"rastrigin"``       :math:`\sum_i x_i^2 + 1.5 (1 - \cos 2 \pi x_i)`
    ``"ackley"``          :math:`20 - 20 e^{-0.2 \sqrt{\sum_i x_i^2 / d}} + e - e^{\sum_i \cos(2 \pi x_i) / d}`
    ``"griewank"``        :math:`1 + \sum_i x_i^2 / 4000 - \prod_i \cos(x_i / \sqrt i)`
    ``"salomon"``         :math:`1 - \cos(2 \pi \|x\|) + 0.1 \|x\|`
    ``"alpine"``          :math:`\sum_i |x_i \sin x_i + 0.1 x_i|`
    ``"xin_she_yang"``    :math:`\sum_i \eta_i |x_i|^i`, with random weights :math:`\eta_i` in [0, 1]
    ====================  =========================================================================================

    Parameters
    ----------
    name : str
        One of the names above.
    random_state : None, int, Generator or RandomState, default 0
        Source of the weights of ``"xin_she_yang"``, which are drawn once and stay.

    Returns
    -------
    callable
        Maps points of shape (..., d), as an array or a tensor, to values of shape (...,).

    Raises
    ------
    ValueError
        If there is no such function, or if the canyon is asked for points that are not in the plane.

    References
    ----------
    Konstantin Riedl, Timo Klock, Carina Geldhauser, Massimo Fornasier. "Gradient is All You Need? How Consensus-Based
    Optimization can be Interpreted as a Stochastic Relaxation of Gradient Descent". 2023. arXiv:2306.09778.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import benchmark_function
    >>> benchmark_function("rastrigin")(np.array([[0.0, 0.0], [1.0, 0.5]]))
    array([0.  , 4.25])
    """
    check_choice("name", name, (*_FUNCTIONS, "xin_she_yang"))
    return _xin_she_yang(integer_seed(random_state)) if name == "xin_she_yang" else _FUNCTIONS[name]


def _canyon(points: Any) -> Any:
    if points.shape[-1] != 2:
        raise ValueError(f"canyon is a function of the plane: points must have shape (..., 2), got {points.shape}")
    m = _namespace(points)
    x, y = points[..., 0], points[..., 1]
    across = y - ((x - 1) * (x - 4) ** 2 / 8 + 2)
    beyond = -x - 1.6 * y
    valley = 25 * (1 - m.exp(-1.4 * across**2 * m.exp(-0.002 * x**4)))
    ripples = 1.1625 * (2 - m.cos(0.75 * m.pi * x) - m.cos(0.75 * m.pi * y))
    # (1 - exp(-9 b^2)) sign(b) where b > 0, else 0, as a smooth function of its positive part.
    ridge = 4 * m.exp(1 - 2 * across**4) * (1 - m.exp(-9 * beyond.clip(0) ** 2))
    return valley + 0.4 * x**2 + 0.2 * y**2 + ripples + ridge


def _rastrigin(points: Any) -> Any:
    m = _namespace(points)
    return (points**2 + 1.5 * (1 - m.cos(2 * m.pi * points))).sum(-1)


def _ackley(points: Any) -> Any:
    m = _namespace(points)
    waves = m.exp(m.cos(2 * m.pi * points).mean(-1))
    return 20 - 20 * m.exp(-0.2 * m.sqrt((points**2).mean(-1))) + m.e - waves


def _griewank(points: Any) -> Any:
    m = _namespace(points)
    roots = _like(points, np.sqrt(np.arange(1, points.shape[-1] + 1)))
    return 1 + (points**2).sum(-1) / 4000 - m.cos(points / roots).prod(-1)


def _salomon(points: Any) -> Any:
    m = _namespace(points)
    norm = m.sqrt((points**2).sum(-1))
    return 1 - m.cos(2 * m.pi * norm) + 0.1 * norm


def _alpine(points: Any) -> Any:
    return abs(points * _namespace(points).sin(points) + 0.1 * points).sum(-1)


def _xin_she_yang(seed: int) -> Callable[[Any], Any]:
    def xin_she_yang(points: Any) -> Any:
        d = points.shape[-1]
        weights = np.random.default_rng(seed).random(d)
        return (_like(points, weights) * abs(points) ** _like(points, np.arange(1.0, d + 1))).sum(-1)

    return xin_she_yang


_FUNCTIONS = {
    "canyon": _canyon,
    "rastrigin": _rastrigin,
    "ackley": _ackley,
    "griewank": _griewank,
    "salomon": _salomon,
    "alpine": _alpine,
}


def _namespace(points: Any) -> Any:
    return torch if isinstance(points, Tensor) else np


def _like(points: Any, constants: Any) -> Any:
    return torch.as_tensor(constants).to(points) if isinstance(points, Tensor) else constants
