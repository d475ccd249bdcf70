"""NumPy in gives NumPy out: validated tensors, and the way back."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks._validation import check_shape

Array = np.ndarray | Tensor


def to_tensors(
    *, ndim: int | tuple[int, ...] | None = None, **arrays: Any
) -> tuple[list[Tensor], Callable[[Any], Any]]:
    """Turn arrays into tensors of one dtype and device, and say how results go back.

    Parameters
    ----------
    ndim : int or tuple of int, optional
        Accepted numbers of dimensions.
    **arrays : array_like or Tensor
        Arrays by the name of their argument. NumPy arrays share memory with their tensors. A None stays out.

    Returns
    -------
    tensors : list of Tensor
        One a given array, in order, of their common floating dtype, on their common device.
    restore : callable
        Turns a tensor (or a tuple, list or dict of tensors) into what the caller brought: tensors where any argument
        was a tensor, else NumPy arrays, and Python floats for 0-d results.

    Raises
    ------
    TypeError
        If an array does not hold floating-point numbers.
    ValueError
        If one is empty, has the wrong number of dimensions, holds NaN or infinity, or is on another device.
    """
    given = {name: value for name, value in arrays.items() if value is not None}
    as_torch = any(isinstance(value, Tensor) for value in given.values())
    tensors = {name: _tensor(name, value) for name, value in given.items()}
    devices = {name: tensor.device for name, tensor in tensors.items() if isinstance(given[name], Tensor)}
    if len(set(devices.values())) > 1:
        raise ValueError(f"arrays must be on one device, got {', '.join(f'{k} on {v}' for k, v in devices.items())}")
    device = next(iter(devices.values()), torch.device("cpu"))
    dtype = torch.float16
    for name, tensor in tensors.items():
        check_shape(name, tuple(tensor.shape), ndim=ndim)
        check_finite_tensor(name, tensor)
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(device=device, dtype=dtype) for tensor in tensors.values()], _keep if as_torch else _to_numpy


def check_finite_tensor(name: str, tensor: Tensor) -> None:
    """Raise a ValueError that names the argument and the first index where it is not finite."""
    values = tensor.detach()
    # A finite sum proves every entry finite, in one pass without a temporary; an overflowing sum asks for the long way.
    if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
        where = torch.nonzero(~torch.isfinite(values))[0].tolist()
        raise ValueError(f"{name} contains NaN or infinity, first at index {tuple(where)}")


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        tensor = value
    else:
        try:
            array = np.asarray(value)
            if array.dtype.kind in "OUS":
                raise TypeError(f"{name} must hold floating-point numbers, got {array.dtype}")
            tensor = torch.from_numpy(np.ascontiguousarray(array) if array.ndim else array.copy())
        except ValueError as error:
            raise ValueError(f"{name} can't be read as an array: {error}") from None
    if not tensor.is_floating_point():
        raise TypeError(
            f"{name} must hold floating-point numbers, got {str(tensor.dtype).removeprefix('torch.')}; "
            "convert it, as in x.astype(float)"
        )
    return tensor


def _keep(value: Any) -> Any:
    return value


def _to_numpy(value: Any) -> Any:
    if isinstance(value, Tensor):
        array = value.detach().cpu().numpy()
        return array if array.ndim else float(array)
    if isinstance(value, (tuple, list)):
        return type(value)(_to_numpy(item) for item in value)
    if isinstance(value, dict):
        return {key: _to_numpy(item) for key, item in value.items()}
    return value
