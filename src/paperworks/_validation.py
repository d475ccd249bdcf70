"""Checks of arguments, each with an error that names the argument and what it got."""

from collections.abc import Collection
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> float:
    """Return ``value`` as a finite float within the bounds that are given (``above`` is exclusive)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    bounds = [
        (above is not None and not number > above, f"greater than {above}"),
        (at_least is not None and not number >= at_least, f"at least {at_least}"),
        (at_most is not None and not number <= at_most, f"at most {at_most}"),
    ]
    wanted = " and ".join(text for _, text in bounds if not text.endswith("None"))
    if not np.isfinite(number) or any(broken for broken, _ in bounds):
        raise ValueError(f"{name} must be a finite number{' ' if wanted else ''}{wanted}, got {value!r}")
    return number


def check_integer(name: str, value: Any, *, at_least: int = 1) -> int:
    """Return ``value`` as an int of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value!r}")
    return int(value)


def check_choice(name: str, value: T, choices: Collection[T]) -> T:
    """Return ``value`` if it is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def check_finite(name: str, values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return ``values`` if all of them are finite."""
    # One pass without a temporary of booleans: a sum of finite numbers is finite unless it overflows.
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum()
    if not np.isfinite(total) and not np.isfinite(values).all():
        where = np.unravel_index(int(np.argmin(np.isfinite(values))), values.shape)
        raise ValueError(f"{name} contains NaN or infinity, first at index {tuple(map(int, where))}")
    return values


def check_floating(name: str, values: Any, *, ndim: int | Collection[int] | None = None) -> NDArray[np.floating]:
    """Return ``values`` as a non-empty array of finite floating-point numbers.

    Integers are refused with a TypeError rather than cast.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array: {error}") from None
    if array.dtype.kind != "f":
        raise TypeError(
            f"{name} must hold floating-point numbers, got {array.dtype}; convert it, as in x.astype(float)"
        )
    check_shape(name, array.shape, ndim=ndim)
    return check_finite(name, array)


def check_shape(name: str, shape: tuple[int, ...], *, ndim: int | Collection[int] | None = None) -> None:
    """Refuse an empty array and a number of dimensions that is not among ``ndim``."""
    wanted = () if ndim is None else (ndim,) if isinstance(ndim, int) else tuple(ndim)
    if wanted and len(shape) not in wanted:
        names = " or ".join(map(str, wanted))
        raise ValueError(f"{name} must have {names} dimension{'s' if wanted != (1,) else ''}, got shape {tuple(shape)}")
    if 0 in shape:
        raise ValueError(f"{name} is empty: its shape is {tuple(shape)}")


def check_weights(name: str, weights: Any, length: int) -> NDArray[np.float64]:
    """Return weights as float64 of shape (length,): finite, nonnegative, with a positive sum; None means uniform."""
    if weights is None:
        return np.full(length, 1.0 / length)
    array = check_floating(name, weights, ndim=1).astype(np.float64, copy=False)
    if array.shape != (length,):
        raise ValueError(f"{name} must have length {length}, got {array.shape[0]}")
    if (array < 0).any():
        raise ValueError(f"{name} must not be negative, got {array.min():g} at index {int(array.argmin())}")
    if not array.sum() > 0:
        raise ValueError(f"{name} must have a positive sum, got {array.sum():g}")
    return array
