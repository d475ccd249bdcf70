"""The user's function: called on points, counted, and checked."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from paperworks._validation import check_choice, check_integer

Function = Callable[[Any], Any]
NanPolicy = Literal["raise", "omit"]


class Objective:
    """A function of which every value is counted, of shape (n,), and not NaN.

    Attributes
    ----------
    n_evaluations : int
        Points that the function was given.
    """

    def __init__(
        self,
        fun: Function,
        *,
        as_tensors: bool,
        vectorized: bool = True,
        workers: int = 1,
        nan_policy: NanPolicy = "raise",
    ) -> None:
        if not callable(fun):
            raise TypeError(f"fun must be callable, got {type(fun).__name__}")
        self.nan_policy = check_choice("nan_policy", nan_policy, ("raise", "omit"))
        if check_integer("workers", workers) > 1 and (vectorized or as_tensors):
            raise ValueError("workers are for functions of one NumPy point: pass vectorized=False, and x0 as an array")
        self._call = mapped(fun, as_tensors, vectorized)
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None
        self._fun = fun
        self.n_evaluations = 0

    def __enter__(self) -> "Objective":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, points: Tensor, iteration: int) -> Tensor:
        """Values at points of shape (..., d), in float64 of shape (...); infinity where there is none."""
        flat = points.reshape(-1, points.shape[-1])
        self.n_evaluations += len(flat)
        values = _values(self._call(flat) if self._pool is None else self._in_threads(flat), flat)
        undefined = torch.isnan(values)
        if undefined.any():
            if self.nan_policy == "raise":
                where = flat[undefined][0].tolist()
                raise ValueError(f"fun returned NaN at iteration {iteration}, for x = {where}")
            values = values.masked_fill(undefined, torch.inf)
        values = values.reshape(points.shape[:-1])
        if values.numel() and values.amin() == -torch.inf:
            raise ValueError(f"fun returned -inf at iteration {iteration}: it has no minimum")
        return values

    def _in_threads(self, points: Tensor) -> list[Any]:
        assert self._pool is not None
        return list(self._pool.map(self._fun, points.numpy().copy()))


class Gradient:
    """A function of which every value is counted, of the shape of the points, and finite."""

    def __init__(self, gradient: Function, *, as_tensors: bool, vectorized: bool) -> None:
        if not callable(gradient):
            raise TypeError(f"gradient must be callable, got {type(gradient).__name__}")
        self._call = mapped(gradient, as_tensors, vectorized)
        self.n_evaluations = 0

    def __call__(self, points: Tensor, iteration: int) -> Tensor:
        """Gradients at points of shape (..., d)."""
        flat = points.reshape(-1, points.shape[-1])
        self.n_evaluations += len(flat)
        raw = self._call(flat)
        slopes = raw.detach() if isinstance(raw, Tensor) else torch.from_numpy(np.asarray(raw, dtype=np.float64))
        if slopes.shape != flat.shape:
            raise ValueError(f"gradient must return an array of shape {tuple(flat.shape)}, got {tuple(slopes.shape)}")
        if not torch.isfinite(slopes).all():
            where = flat[~torch.isfinite(slopes).all(dim=1)][0].tolist()
            raise ValueError(f"gradient returned NaN or infinity at iteration {iteration}, for x = {where}")
        return slopes.to(points).reshape(points.shape)


def require_a_finite_value(values: Tensor, iteration: int) -> None:
    """Refuse a swarm, along the last axis, of which every value is infinite."""
    if torch.isinf(values.amin(dim=-1)).any():
        raise ValueError(f"objective returned no finite value at iteration {iteration}")


def mapped(fun: Function, as_tensors: bool, vectorized: bool) -> Callable[[Tensor], Any]:
    """The function as one of all points of a tensor of shape (n, d): as it stands, or mapped over them."""
    # It is given a copy, for the swarm moves on in its own memory.
    if as_tensors:
        whole = fun if vectorized else torch.func.vmap(fun)
        return lambda points: whole(points.clone())
    if vectorized:
        return lambda points: fun(points.numpy().copy())
    return lambda points: [fun(point) for point in points.numpy().copy()]


def _values(raw: Any, points: Tensor) -> Tensor:
    """What the function returned, as float64 of shape (n,) on the points' device."""
    tensor = raw.detach() if isinstance(raw, Tensor) else torch.from_numpy(np.asarray(raw, dtype=np.float64).copy())
    if tensor.shape != points.shape[:1]:
        raise ValueError(
            f"fun must return one number a point, shape ({len(points)},) here, got shape {tuple(tensor.shape)}; "
            "pass vectorized=False if it takes one point at a time"
        )
    return tensor.to(device=points.device, dtype=torch.float64)
