"""Entropic plans P_ij = exp(eta (x_i + y_j - C_ij) - 1) as functions of their potentials, with few calls of exp."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paperworks.transport import _gibbs_kernels as kernels

Vector = NDArray[np.float64]
# A held plan is scaled by factors between exp(-REACH) and exp(REACH): what underflowed in it stays below 1e-200.
REACH = 100.0


@dataclass
class SparsePlan:
    """The entries of a plan above a threshold, by rows (CSR): what Newton's method keeps of the Hessian's blocks."""

    starts: NDArray[np.int64]
    columns: NDArray[np.int32]
    values: Vector

    @property
    def n_nonzeros(self) -> int:
        """Number of entries that are kept."""
        return int(self.values.size)

    def above(self, threshold: float) -> "SparsePlan":
        """Keep only the entries of at least ``threshold``."""
        keep = self.values >= threshold
        kept_before = np.concatenate(([0], np.cumsum(keep)))
        return SparsePlan(kept_before[self.starts], self.columns[keep], self.values[keep])


class Passes(Protocol):
    """Passes over a cost; ``held`` is a whole plan, in whatever form the implementation keeps it."""

    shape: tuple[int, int]

    def normalise_rows(self, y: Vector, eta: float, r: Vector, *, hold: bool) -> tuple[Vector, Vector, Any]:
        """The x for which the rows sum to r, the column sums then, and the plan if it is to be held."""

    def scale_rows(self, held: Any, v: Vector, r: Vector) -> tuple[Vector, Vector]:
        """The u for which the rows of diag(u) P diag(v) sum to r, and the column sums of diag(u) P."""

    def scaled_sums(self, held: Any, u: Vector, v: Vector) -> tuple[Vector, Vector]:
        """Row and column sums of diag(u) P diag(v)."""

    def sums(self, x: Vector, y: Vector, eta: float) -> tuple[Vector, Vector]:
        """Row and column sums."""

    def log_column_sums(self, x: Vector, columns: NDArray[np.int64], eta: float) -> Vector:
        """Return log sum_i exp(eta (x_i - C_ij)) of some columns, however small."""

    def count_above(self, x: Vector, y: Vector, eta: float, log_threshold: float) -> NDArray[np.int64]:
        """Number of entries above a threshold in each row."""

    def entries_above(
        self, x: Vector, y: Vector, eta: float, log_threshold: float, counts: NDArray[np.int64]
    ) -> SparsePlan:
        """Return the entries that ``count_above`` counted."""

    def plan(self, x: Vector, y: Vector, eta: float) -> Any:
        """Return the whole plan."""


class GibbsPlan:
    """A plan given by potentials, which remembers one plan and scales it where that is exact.

    Parameters
    ----------
    passes : Passes
        Passes over the cost.
    eta : float
        1 / regularisation.
    max_memory : int
        Bytes that the plan which is remembered may take; beyond that every evaluation takes a pass of exp.
    """

    def __init__(self, passes: Passes, eta: float, max_memory: int) -> None:
        self.shape, self.eta, self.n_passes = passes.shape, eta, 0
        self._passes = passes
        self._can_hold = 8 * passes.shape[0] * passes.shape[1] <= max_memory
        self._held: tuple[Vector, Vector, Any] | None = None

    def change_eta(self, eta: float) -> None:
        """Go to another regularisation."""
        self.eta, self._held = eta, None

    def normalise_rows(self, y: Vector, r: Vector) -> tuple[Vector, Vector]:
        """The x for which the rows sum to r, and the column sums then."""
        if self._held is not None:
            base_x, base_y, held = self._held
            exponent = self.eta * (y - base_y)
            shift = 0.5 * (exponent.max() + exponent.min())
            if exponent.max() - shift < REACH:
                v = np.exp(exponent - shift)
                u, column_sums = self._passes.scale_rows(held, v, r)
                return base_x + (np.log(u) - shift) / self.eta, column_sums * v
        self.n_passes += 1
        x, column_sums, held = self._passes.normalise_rows(y, self.eta, r, hold=self._can_hold)
        self._held = (x, y, held) if self._can_hold else None
        return x, column_sums

    def sums(self, x: Vector, y: Vector) -> tuple[Vector, Vector]:
        """Row and column sums."""
        if self._held is not None:
            base_x, base_y, held = self._held
            exponent_x, exponent_y = self.eta * (x - base_x), self.eta * (y - base_y)
            if max(np.abs(exponent_x).max(), np.abs(exponent_y).max()) < REACH:
                return self._passes.scaled_sums(held, np.exp(exponent_x), np.exp(exponent_y))
        self.n_passes += 1
        return self._passes.sums(x, y, self.eta)

    def column_potentials(self, x: Vector, log_c: Vector, columns: NDArray[np.int64]) -> Vector:
        """The y for which some columns sum to c, however little reaches them now."""
        self.n_passes += 1
        return (log_c[columns] + 1.0 - self._passes.log_column_sums(x, columns, self.eta)) / self.eta

    def count_above(self, x: Vector, y: Vector, log_threshold: float) -> NDArray[np.int64]:
        """Number of entries above a threshold in each row."""
        return self._passes.count_above(x, y, self.eta, log_threshold)

    def entries_above(
        self, x: Vector, y: Vector, log_threshold: float, counts: NDArray[np.int64] | None = None
    ) -> SparsePlan:
        """Return the entries above a threshold; ``counts`` are those of `count_above` if it was called already."""
        if counts is None:
            counts = self.count_above(x, y, log_threshold)
        return self._passes.entries_above(x, y, self.eta, log_threshold, counts)

    def plan(self, x: Vector, y: Vector) -> Any:
        """Return the whole plan."""
        self.n_passes += 1
        return self._passes.plan(x, y, self.eta)


Blocks = Callable[[], Iterator[tuple[int, int, NDArray[np.float64]]]]


class BlockPasses:
    """Passes by compiled kernels over a float64 cost that comes in blocks of rows.

    Parameters
    ----------
    shape : tuple of int
        (n, m).
    blocks : callable
        Yields ``(start, stop, block)``, the block being rows ``start`` to ``stop`` of the cost.
    """

    def __init__(self, shape: tuple[int, int], blocks: Blocks) -> None:
        self.shape, self._blocks = shape, blocks

    def normalise_rows(
        self, y: Vector, eta: float, r: Vector, *, hold: bool
    ) -> tuple[Vector, Vector, NDArray[np.float64]]:
        """See `Passes`."""
        x, column_sums = np.empty(self.shape[0]), np.zeros(self.shape[1])
        held = np.empty(self.shape if hold else (0, self.shape[1]))
        for start, stop, block in self._blocks():
            kernels.normalise_rows(block, y, eta, r[start:stop], x[start:stop], column_sums, held[start:stop])
        return x, column_sums, held

    def scale_rows(self, held: NDArray[np.float64], v: Vector, r: Vector) -> tuple[Vector, Vector]:
        """See `Passes`."""
        u, column_sums = np.empty(self.shape[0]), np.empty(self.shape[1])
        kernels.scale_rows(held, v, r, u, column_sums)
        return u, column_sums

    def scaled_sums(self, held: NDArray[np.float64], u: Vector, v: Vector) -> tuple[Vector, Vector]:
        """See `Passes`."""
        row_sums, column_sums = np.empty(self.shape[0]), np.empty(self.shape[1])
        kernels.scaled_sums(held, u, v, row_sums, column_sums)
        return row_sums, column_sums

    def sums(self, x: Vector, y: Vector, eta: float) -> tuple[Vector, Vector]:
        """See `Passes`."""
        row_sums, column_sums = np.empty(self.shape[0]), np.zeros(self.shape[1])
        for start, stop, block in self._blocks():
            kernels.add_sums(block, x[start:stop], y, eta, row_sums[start:stop], column_sums)
        return row_sums, column_sums

    def log_column_sums(self, x: Vector, columns: NDArray[np.int64], eta: float) -> Vector:
        """See `Passes`."""
        tops, sums = np.full(columns.size, -np.inf), np.zeros(columns.size)
        for start, stop, block in self._blocks():
            kernels.column_maxima(block, x[start:stop], columns, tops)
        for start, stop, block in self._blocks():
            kernels.column_exponentials(block, x[start:stop], eta, columns, tops, sums)
        return np.log(sums) + eta * tops

    def count_above(self, x: Vector, y: Vector, eta: float, log_threshold: float) -> NDArray[np.int64]:
        """See `Passes`."""
        counts = np.empty(self.shape[0], dtype=np.int64)
        for start, stop, block in self._blocks():
            kernels.count_above(block, x[start:stop], y, eta, log_threshold, counts[start:stop])
        return counts

    def entries_above(
        self, x: Vector, y: Vector, eta: float, log_threshold: float, counts: NDArray[np.int64]
    ) -> SparsePlan:
        """See `Passes`."""
        starts = np.concatenate(([0], np.cumsum(counts)))
        columns, values = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1])
        for start, stop, block in self._blocks():
            kernels.fill_above(block, x[start:stop], y, eta, log_threshold, starts[start : stop + 1], columns, values)
        return SparsePlan(starts, columns, values)

    def plan(self, x: Vector, y: Vector, eta: float) -> NDArray[np.float64]:
        """See `Passes`."""
        plan = np.empty(self.shape)
        for start, stop, block in self._blocks():
            kernels.fill_plan(block, x[start:stop], y, eta, plan[start:stop])
        return plan


class DevicePasses:
    """Passes by torch over a float64 cost that lies on its device; potentials stay NumPy vectors.

    Parameters
    ----------
    cost : Tensor of shape (n, m)
        Cost, float64.
    max_memory : int
        Bytes for temporary blocks.
    """

    def __init__(self, cost: Tensor, max_memory: int) -> None:
        self.shape, self._cost = (cost.shape[0], cost.shape[1]), cost
        # Three temporaries of a block live at once.
        self._rows = max(1, min(cost.shape[0], max_memory // (24 * cost.shape[1])))

    def _logarithms(self, x: Vector | None, y: Vector, eta: float) -> Iterator[tuple[int, int, Tensor]]:
        """Blocks of eta (x_i + y_j - C_ij) - 1, with x = 0 where it is None."""
        there_y = self._there(y)
        for start in range(0, self.shape[0], self._rows):
            stop = min(start + self._rows, self.shape[0])
            block = there_y - self._cost[start:stop]
            if x is not None:
                block += self._there(x[start:stop])[:, None]
            yield start, stop, block.mul_(eta).sub_(1.0)

    def _there(self, vector: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(vector)).to(self._cost.device)

    def normalise_rows(self, y: Vector, eta: float, r: Vector, *, hold: bool) -> tuple[Vector, Vector, Tensor | None]:
        """See `Passes`."""
        x, column_sums = np.empty(self.shape[0]), torch.zeros_like(self._cost[0])
        held = torch.empty_like(self._cost) if hold else None
        for start, stop, block in self._logarithms(None, y, eta):
            shift = self._there(np.log(r[start:stop])) - torch.logsumexp(block, dim=1)
            block.add_(shift[:, None]).exp_()
            column_sums += block.sum(0)
            x[start:stop] = shift.cpu().numpy() / eta
            if held is not None:
                held[start:stop] = block
        return x, column_sums.cpu().numpy(), held

    def scale_rows(self, held: Tensor, v: Vector, r: Vector) -> tuple[Vector, Vector]:
        """See `Passes`."""
        u = self._there(r) / (held @ self._there(v))
        return u.cpu().numpy(), (u @ held).cpu().numpy()

    def scaled_sums(self, held: Tensor, u: Vector, v: Vector) -> tuple[Vector, Vector]:
        """See `Passes`."""
        return u * (held @ self._there(v)).cpu().numpy(), v * (self._there(u) @ held).cpu().numpy()

    def sums(self, x: Vector, y: Vector, eta: float) -> tuple[Vector, Vector]:
        """See `Passes`."""
        row_sums, column_sums = np.empty(self.shape[0]), torch.zeros_like(self._cost[0])
        for start, stop, block in self._logarithms(x, y, eta):
            block.exp_()
            row_sums[start:stop] = block.sum(1).cpu().numpy()
            column_sums += block.sum(0)
        return row_sums, column_sums.cpu().numpy()

    def log_column_sums(self, x: Vector, columns: NDArray[np.int64], eta: float) -> Vector:
        """See `Passes`."""
        exponents = (self._there(x)[:, None] - self._cost[:, self._there(columns)]) * eta
        return torch.logsumexp(exponents, dim=0).cpu().numpy()

    def count_above(self, x: Vector, y: Vector, eta: float, log_threshold: float) -> NDArray[np.int64]:
        """See `Passes`."""
        counts = [(block > log_threshold).sum(1) for _, _, block in self._logarithms(x, y, eta)]
        return torch.cat(counts).cpu().numpy()

    def entries_above(
        self, x: Vector, y: Vector, eta: float, log_threshold: float, counts: NDArray[np.int64]
    ) -> SparsePlan:
        """See `Passes`; the entries come to the processor."""
        columns, values = [], []
        for _, _, block in self._logarithms(x, y, eta):
            kept = block > log_threshold
            columns.append(kept.nonzero()[:, 1].to(torch.int32).cpu().numpy())
            values.append(block[kept].exp().cpu().numpy())
        return SparsePlan(np.concatenate(([0], np.cumsum(counts))), np.concatenate(columns), np.concatenate(values))

    def plan(self, x: Vector, y: Vector, eta: float) -> Tensor:
        """See `Passes`; the plan stays on the device."""
        return torch.cat([block.exp_() for _, _, block in self._logarithms(x, y, eta)])


def gibbs_plan(cost: Tensor, eta: float, max_memory: int) -> GibbsPlan:
    """Plans of a float64 cost of shape (n, m), by the passes that suit its device."""
    if cost.device.type != "cpu":
        return GibbsPlan(DevicePasses(cost.contiguous(), max_memory), eta, max_memory)
    values = np.ascontiguousarray(cost.numpy())
    passes = BlockPasses((cost.shape[0], cost.shape[1]), lambda: iter([(0, len(values), values)]))
    return GibbsPlan(passes, eta, max_memory)


def log_of(number: float) -> float:
    """Natural logarithm, -inf at 0."""
    return log(number) if number > 0 else -np.inf
