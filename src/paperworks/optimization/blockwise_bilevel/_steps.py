"""What one step does to the lower level: two block-sampled versions, and the baseline that scales and shrinks."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from paperworks.optimization.blockwise_bilevel._estimators import moved, project_balls, project_spectra

# Rows longer than this are taken for divergence.
LIMIT = 1e8


@dataclass(frozen=True)
class Sample:
    """Blocks of a step, with the samples of each for the lower and the upper level, of shape (I, B)."""

    blocks: Any
    batch: Any
    upper_batch: Any


class Draws(Protocol):
    """Source of blocks and samples."""

    def __call__(self, blocks: Any) -> Sample:
        """Draw samples of the blocks."""

    def blocks(self) -> Any:
        """Draw blocks."""


class Steps(Protocol):
    """State of the lower level."""

    y: Any

    def advance(self, t: int, x: Any, last: Any, sample: Sample, rate: float) -> tuple[Any, Any]:
        """Make one step; return the sampled gradient of x at its present and its last point, summed over the blocks."""


class HessianVector:
    r"""BSVRB v2: y and v move along MSVR estimates of lower gradients and of :math:`\nabla_{yy} g\, v - \nabla_y f`.

    Blocks that are not sampled move along their stale estimates. They are caught up with when they are sampled, so that
    a step costs what its sample costs, however many blocks there are.
    """

    def __init__(
        self, problem: Any, y: Any, lower_lr: Any, linear_lr: Any, alpha: float, gamma: float, radius: float
    ) -> None:
        self._problem, self._alpha, self._gamma = problem, alpha, gamma
        self._derivatives = getattr(problem, "lower_derivatives", None) or self._three
        self._y = _Lazy(y, lower_lr, np.inf)
        self._v = _Lazy(_zeros_like(y), linear_lr, radius)

    @property
    def y(self) -> Any:
        return self._y.current()

    @property
    def v(self) -> Any:
        return self._v.current()

    def advance(self, t: int, x: Any, last: Any, sample: Sample, rate: float) -> tuple[Any, Any]:
        blocks, batch = sample.blocks, sample.batch
        upper = self._problem.upper_gradients
        (y, last_y), (v, last_v) = self._y.read(blocks), self._v.read(blocks)
        by_x, by_y = upper(x, y, blocks, sample.upper_batch)
        last_by_x, last_by_y = upper(last, last_y, blocks, sample.upper_batch)
        gradient, product, mixed = self._derivatives(x, y, v, blocks, batch)
        last_gradient, last_product, last_mixed = self._derivatives(last, last_y, last_v, blocks, batch)
        require_bounded(
            t,
            lower_gradient=(gradient, last_gradient),
            lower_hessian_vector=(product, last_product),
            upper_gradients=(by_y, last_by_y),
            y=(y,),
            v=(v,),
        )
        self._y.step(blocks, gradient, last_gradient, self._alpha, self._gamma, rate)
        self._v.step(blocks, product - by_y, last_product - last_by_y, self._alpha, self._gamma, rate)
        return by_x - mixed, last_by_x - last_mixed

    def _three(self, x: Any, y: Any, v: Any, blocks: Any, batch: Any) -> tuple[Any, Any, Any]:
        return (
            self._problem.lower_gradient(x, y, blocks, batch),
            self._problem.lower_hessian_vector(x, y, v, blocks, batch),
            self._problem.mixed_vector(x, y, v, blocks, batch),
        )


class _Lazy:
    """Rows that move along estimates that change where they are sampled alone, within a ball."""

    def __init__(self, rows: Any, lr: Any, radius: float) -> None:
        self._rows, self._lr, self._radius, self._rate = rows, lr, radius, 1.0
        # Where a row was, one step before it was last brought up to date.
        self._before = _copy(rows)
        self._estimate = _zeros_like(rows)
        self._time = 0
        self._current = np.zeros(len(rows), dtype=np.int64)
        self._seen = np.zeros(len(rows), dtype=bool)

    def read(self, blocks: Any) -> tuple[Any, Any]:
        """Rows as they are now, and as they were a step ago."""
        index = _on_cpu(blocks)
        missed = self._time - self._current[index]
        rows, before = self._rows[blocks], self._before[blocks]
        if missed.any():
            steps = _column(missed, rows) * self._rate * _rows(self._lr, blocks)
            estimate = self._estimate[blocks]
            one = self._rate * _rows(self._lr, blocks) * estimate
            late = _column(missed > 0, rows)
            caught_up = self._within(rows - steps * estimate)
            before = _where(late, self._within(rows - steps * estimate + one), before)
            rows = _where(late, caught_up, rows)
            self._rows[blocks], self._before[blocks] = rows, before
            self._current[index] = self._time
        return rows, before

    def step(self, blocks: Any, new: Any, old: Any, alpha: float, gamma: float, rate: float) -> None:
        """Move the estimates of the blocks, and the rows along them."""
        if rate != self._rate:
            self.current()
            self._rate = rate
        index = _on_cpu(blocks)
        first = _column(~self._seen[index], new)
        estimate = _where(first, new, moved(self._estimate[blocks], new, old, alpha, gamma))
        self._estimate[blocks], self._seen[index] = estimate, True
        self._before[blocks] = self._rows[blocks]
        self._rows[blocks] = self._within(self._rows[blocks] - rate * _rows(self._lr, blocks) * estimate)
        self._time += 1
        self._current[index] = self._time

    def current(self) -> Any:
        """All rows as they are now."""
        self.read(_everything(self._rows))
        return self._rows

    def _within(self, rows: Any) -> Any:
        return project_balls(rows, self._radius) if self._radius < np.inf else rows


class HessianInverse:
    """BSVRB v1: all y move along MSVR estimates, stale ones too; v solves with MSVR estimates of Hessians."""

    def __init__(
        self, problem: Any, y: Any, lower_lr: Any, alpha: float, gamma: float, floor: float, bound: float
    ) -> None:
        self._problem, self._alpha, self._gamma = problem, alpha, gamma
        self._floor, self._bound, self._lower_lr = floor, bound, lower_lr
        self.y = y
        self._last_y = _copy(y)
        self._s = _zeros_like(y)
        shape = (*y.shape, y.shape[1])
        self._H = y.new_zeros(shape) if isinstance(y, Tensor) else np.zeros(shape, dtype=y.dtype)
        self._last_H, self._touched = _zeros_like(self._H), None
        self._seen = np.zeros(len(y), dtype=bool)

    def advance(self, t: int, x: Any, last: Any, sample: Sample, rate: float) -> tuple[Any, Any]:
        problem, blocks, batch = self._problem, sample.blocks, sample.batch
        y, last_y = self.y[blocks], self._last_y[blocks]
        gradient = problem.lower_gradient(x, y, blocks, batch)
        last_gradient = problem.lower_gradient(last, last_y, blocks, batch)
        hessian = problem.lower_hessian(x, y, blocks, batch)
        last_hessian = problem.lower_hessian(last, last_y, blocks, batch)
        by_x, by_y = problem.upper_gradients(x, y, blocks, sample.upper_batch)
        last_by_x, last_by_y = problem.upper_gradients(last, last_y, blocks, sample.upper_batch)
        require_bounded(
            t,
            lower_gradient=(gradient, last_gradient),
            lower_hessian=(hessian, last_hessian),
            upper_gradients=(by_y, last_by_y),
        )

        index = _on_cpu(blocks)
        first = _column(~self._seen[index], y)
        self._seen[index] = True
        H, last_H = self._H[blocks], self._last_H[blocks]
        if first.any():
            plain = self._project(hessian)
            H, last_H = (_where(first[..., None], plain, each) for each in (H, last_H))
        self._s[blocks] = _where(
            first, gradient, moved(self._s[blocks], gradient, last_gradient, self._alpha, self._gamma)
        )
        new_H = self._project(
            _where(first[..., None], hessian, moved(H, hessian, last_hessian, self._alpha, self._gamma))
        )
        sampled = by_x - problem.mixed_vector(x, y, _solve(H, by_y), blocks, batch)
        last_sampled = last_by_x - problem.mixed_vector(last, last_y, _solve(last_H, last_by_y), blocks, batch)
        if self._touched is not None:
            self._last_H[self._touched] = self._H[self._touched]
        self._last_H[blocks] = H
        self._H[blocks], self._touched = new_H, blocks
        self._last_y, self.y = self.y, _like(self.y, self.y - rate * self._lower_lr * self._s)
        require_bounded(t, y=(self.y,))
        return sampled, last_sampled

    def _project(self, H: Any) -> Any:
        return project_spectra(H, self._floor, self._bound)


class Randomized:
    """RSVRB: estimates of all derivatives, scaled by m / I where their block is sampled and shrunk where it is not."""

    def __init__(
        self, problem: Any, y: Any, lower_lr: Any, beta: float, floor: float, bound: float, draw: "Draws"
    ) -> None:
        self._problem, self._beta, self._lower_lr, self._draw = problem, beta, lower_lr, draw
        self._floor, self._bound = floor, bound
        self.y, self._last_y = y, _copy(y)
        self._jacobian = getattr(problem, "mixed_jacobian", None) or self._column_by_column
        self._estimates: list[Any] = []

    def advance(self, t: int, x: Any, last: Any, sample: Sample, rate: float) -> tuple[Any, Any]:
        if not self._estimates:
            everything = self._draw(_everything(self.y))
            self._estimates = list(self._quantities(x, self.y, everything)[1:])
        blocks = sample.blocks
        scale = len(self.y) / len(blocks)
        by_x, *new = self._quantities(x, self.y, sample)
        last_by_x, *old = self._quantities(last, self._last_y, sample)
        names = ("lower_gradient", "upper_gradients", "mixed_jacobian", "lower_hessian")
        require_bounded(t, **dict(zip(names, zip(new, old, strict=True), strict=True)))
        before = self._estimates
        self._estimates = []
        for estimate, present, past in zip(before, new, old, strict=True):
            kept = (1 - self._beta) * estimate
            kept[blocks] += scale * (present - (1 - self._beta) * past)
            self._estimates.append(kept)
        self._estimates[3][blocks] = project_spectra(self._estimates[3][blocks], self._floor, self._bound)
        # The blocks of the upper gradient are drawn anew.
        others = self._draw.blocks()
        sampled, last_sampled = (self._implicit(held, others) for held in (self._estimates, before))
        self._last_y, self.y = self.y, _like(self.y, self.y - rate * self._lower_lr * self._estimates[0])
        require_bounded(t, y=(self.y,))
        return by_x - sampled, last_by_x - last_sampled

    def _quantities(self, x: Any, y: Any, sample: Sample) -> tuple[Any, Any, Any, Any, Any]:
        rows = y[sample.blocks]
        by_x, by_y = self._problem.upper_gradients(x, rows, sample.blocks, sample.upper_batch)
        arguments = (x, rows, sample.blocks, sample.batch)
        return (
            by_x,
            self._problem.lower_gradient(*arguments),
            by_y,
            self._jacobian(*arguments),
            self._problem.lower_hessian(*arguments),
        )

    def _implicit(self, estimates: list[Any], blocks: Any) -> Any:
        _, by_y, jacobian, H = (each[blocks] for each in estimates)
        # A shrunk Hessian keeps its floor, so that it can be inverted.
        v = _solve(project_spectra(H, self._floor, self._bound), by_y)
        return (jacobian @ v[..., None])[..., 0].sum(0)

    def _column_by_column(self, x: Any, y: Any, blocks: Any, batch: Any) -> Any:
        """Mixed derivatives (I, dx, dy) from products with unit vectors."""
        found: list[Any] = []
        for i in range(len(blocks)):
            rows: list[Any] = []
            for k in range(y.shape[1]):
                unit = _zeros_like(y[i : i + 1])
                unit[0, k] = 1
                mine = slice(i, i + 1)
                rows.append(self._problem.mixed_vector(x, y[mine], unit, blocks[mine], batch[mine]))
            found.append(torch.stack(rows, -1) if isinstance(y, Tensor) else np.stack(rows, -1))
        return torch.stack(found) if isinstance(y, Tensor) else np.stack(found)


def require_bounded(t: int, **values: tuple[Any, ...]) -> None:
    """Raise FloatingPointError if rows are not finite, or the variables among them have grown beyond all bounds."""
    for name, several in values.items():
        for each in several:
            size = float((each * each).sum())
            if size < LIMIT**2:
                continue
            if name in {"y", "v"}:
                raise FloatingPointError(
                    f"diverged at step {t}: the norm of {name} is {size**0.5:.3g}; a smaller lower_lr, linear_lr or "
                    "upper_lr, more blocks a step or a smaller gamma may help"
                )
            if not size < np.inf:
                raise FloatingPointError(f"{name} returned NaN or infinity at step {t}")


def _solve(H: Any, rows: Any) -> Any:
    solve = torch.linalg.solve if isinstance(H, Tensor) else np.linalg.solve
    return solve(H, rows[..., None])[..., 0]


def _like(before: Any, after: Any) -> Any:
    """What has moved, in the precision that it had."""
    return after.to(before) if isinstance(after, Tensor) else after.astype(before.dtype, copy=False)


def _copy(values: Any) -> Any:
    return values.clone() if isinstance(values, Tensor) else values.copy()


def _zeros_like(values: Any) -> Any:
    return torch.zeros_like(values) if isinstance(values, Tensor) else np.zeros_like(values)


def _everything(y: Any) -> Any:
    return torch.arange(len(y), device=y.device) if isinstance(y, Tensor) else np.arange(len(y))


def _where(condition: Any, yes: Any, no: Any) -> Any:
    return torch.where(condition, yes, no) if isinstance(yes, Tensor) else np.where(condition, yes, no)


def _column(values: Any, like: Any) -> Any:
    """A column, one entry a sampled block."""
    return torch.as_tensor(values[:, None], device=like.device) if isinstance(like, Tensor) else values[:, None]


def _on_cpu(blocks: Any) -> Any:
    return blocks.cpu().numpy() if isinstance(blocks, Tensor) else blocks


def _rows(lr: Any, blocks: Any) -> Any:
    return lr[blocks] if np.ndim(lr) else lr
