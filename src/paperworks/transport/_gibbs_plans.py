"""Entropic plans as functions of their dual potentials, on a processor or on a torch device, never stored whole."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paperworks.transport import _gibbs_kernels as kernels

Vector = NDArray[np.float64]
# Column sums below this have lost digits to underflow.
TINY = 1e-280


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


class CostBlocks:
    """P_ij = exp(eta (x_i + y_j - C_ij) - 1) for a cost that comes in blocks of rows.

    Parameters
    ----------
    shape : tuple of int
        (n, m).
    blocks : callable
        Yields ``(start, stop, block)``, the block being rows ``start`` to ``stop`` of C in float64.
    eta : float
        1 / regularisation.
    """

    def __init__(
        self, shape: tuple[int, int], blocks: Callable[[], Iterator[tuple[int, int, NDArray[np.float64]]]], eta: float
    ) -> None:
        self.shape, self.eta, self._blocks = shape, eta, blocks

    def normalise_rows(self, y: Vector, r: Vector) -> tuple[Vector, Vector]:
        """The x for which the rows sum to r, and the column sums then."""
        x, column_sums = np.empty(self.shape[0]), np.zeros(self.shape[1])
        for start, stop, block in self._blocks():
            kernels.normalise_rows(block, y, self.eta, r[start:stop], x[start:stop], column_sums)
        return x, column_sums

    def sums(self, x: Vector, y: Vector) -> tuple[Vector, Vector]:
        """Row sums and column sums."""
        row_sums, column_sums = np.empty(self.shape[0]), np.zeros(self.shape[1])
        for start, stop, block in self._blocks():
            kernels.add_sums(block, x[start:stop], y, self.eta, row_sums[start:stop], column_sums)
        return row_sums, column_sums

    def log_column_sums(self, x: Vector, columns: NDArray[np.int64]) -> Vector:
        """log sum_i exp(eta (x_i - C_ij)) of some columns, however small."""
        tops, sums = np.full(columns.size, -np.inf), np.zeros(columns.size)
        for start, stop, block in self._blocks():
            kernels.column_maxima(block, x[start:stop], columns, tops)
        for start, stop, block in self._blocks():
            kernels.column_exponentials(block, x[start:stop], self.eta, columns, tops, sums)
        return np.log(sums) + self.eta * tops

    def count_above(self, x: Vector, y: Vector, log_threshold: float) -> NDArray[np.int64]:
        """Number of entries above a threshold in each row."""
        counts = np.empty(self.shape[0], dtype=np.int64)
        for start, stop, block in self._blocks():
            kernels.count_above(block, x[start:stop], y, self.eta, log_threshold, counts[start:stop])
        return counts

    def entries_above(self, x: Vector, y: Vector, log_threshold: float) -> SparsePlan:
        """Return the entries above a threshold."""
        starts = np.concatenate(([0], np.cumsum(self.count_above(x, y, log_threshold))))
        columns, values = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1])
        for start, stop, block in self._blocks():
            kernels.fill_above(
                block, x[start:stop], y, self.eta, log_threshold, starts[start : stop + 1], columns, values
            )
        return SparsePlan(starts, columns, values)

    def plan(self, x: Vector, y: Vector) -> NDArray[np.float64]:
        """Return the whole plan."""
        plan = np.empty(self.shape)
        for start, stop, block in self._blocks():
            kernels.fill_plan(block, x[start:stop], y, self.eta, plan[start:stop])
        return plan

    def transport_cost(self, x: Vector, y: Vector) -> float:
        """<C, P>."""
        return sum(kernels.transport_cost(block, x[start:stop], y, self.eta) for start, stop, block in self._blocks())


class DeviceCost:
    """The same as `CostBlocks` for a float64 cost that lies on a torch device; potentials stay NumPy vectors.

    Parameters
    ----------
    cost : Tensor of shape (n, m)
        Cost, float64.
    eta : float
        1 / regularisation.
    max_memory : int
        Bytes for temporary blocks.
    """

    def __init__(self, cost: Tensor, eta: float, max_memory: int) -> None:
        self.shape, self.eta, self._cost = (cost.shape[0], cost.shape[1]), eta, cost
        # Three temporaries of a block live at once.
        self._rows = max(1, min(cost.shape[0], max_memory // (24 * cost.shape[1])))

    def _logarithms(self, x: Vector | None, y: Vector) -> Iterator[tuple[int, int, Tensor]]:
        """Blocks of eta (x_i + y_j - C_ij) - 1, with x = 0 where it is None."""
        there_y = self._there(y)
        for start in range(0, self.shape[0], self._rows):
            stop = min(start + self._rows, self.shape[0])
            block = there_y - self._cost[start:stop]
            if x is not None:
                block += self._there(x[start:stop])[:, None]
            yield start, stop, block.mul_(self.eta).sub_(1.0)

    def _there(self, vector: Vector) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(vector)).to(self._cost.device)

    def normalise_rows(self, y: Vector, r: Vector) -> tuple[Vector, Vector]:
        """The x for which the rows sum to r, and the column sums then."""
        x, column_sums = np.empty(self.shape[0]), torch.zeros_like(self._cost[0])
        for start, stop, block in self._logarithms(None, y):
            shift = self._there(np.log(r[start:stop])) - torch.logsumexp(block, dim=1)
            column_sums += block.add_(shift[:, None]).exp_().sum(0)
            x[start:stop] = shift.cpu().numpy() / self.eta
        return x, column_sums.cpu().numpy()

    def sums(self, x: Vector, y: Vector) -> tuple[Vector, Vector]:
        """Row sums and column sums."""
        row_sums, column_sums = np.empty(self.shape[0]), torch.zeros_like(self._cost[0])
        for start, stop, block in self._logarithms(x, y):
            block.exp_()
            row_sums[start:stop] = block.sum(1).cpu().numpy()
            column_sums += block.sum(0)
        return row_sums, column_sums.cpu().numpy()

    def log_column_sums(self, x: Vector, columns: NDArray[np.int64]) -> Vector:
        """log sum_i exp(eta (x_i - C_ij)) of some columns, however small."""
        chosen = torch.from_numpy(columns).to(self._cost.device)
        exponents = (self._there(x)[:, None] - self._cost[:, chosen]) * self.eta
        return torch.logsumexp(exponents, dim=0).cpu().numpy()

    def count_above(self, x: Vector, y: Vector, log_threshold: float) -> NDArray[np.int64]:
        """Number of entries above a threshold in each row."""
        counts = [(block > log_threshold).sum(1) for _, _, block in self._logarithms(x, y)]
        return torch.cat(counts).cpu().numpy()

    def entries_above(self, x: Vector, y: Vector, log_threshold: float) -> SparsePlan:
        """Return the entries above a threshold, on the processor."""
        counts, columns, values = [], [], []
        for _, _, block in self._logarithms(x, y):
            kept = block > log_threshold
            counts.append(kept.sum(1).cpu().numpy())
            columns.append(kept.nonzero()[:, 1].to(torch.int32).cpu().numpy())
            values.append(block[kept].exp().cpu().numpy())
        starts = np.concatenate(([0], np.cumsum(np.concatenate(counts))))
        return SparsePlan(starts, np.concatenate(columns), np.concatenate(values))

    def plan(self, x: Vector, y: Vector) -> Tensor:
        """Return the whole plan, on the device."""
        return torch.cat([block.exp_() for _, _, block in self._logarithms(x, y)])

    def transport_cost(self, x: Vector, y: Vector) -> float:
        """<C, P>."""
        return sum(
            float((self._cost[start:stop] * block.exp_()).sum()) for start, stop, block in self._logarithms(x, y)
        )


GibbsPlan = CostBlocks | DeviceCost


def dense_cost(cost: NDArray[np.float64], eta: float) -> CostBlocks:
    """Plans of a cost that is one array in memory."""
    return CostBlocks((cost.shape[0], cost.shape[1]), lambda: iter([(0, cost.shape[0], cost)]), eta)


def entropic_potential(log_mass: Vector, column_logs: Vector, eta: float) -> Vector:
    """The y for which columns sum to c: y = (log c + 1 - log sum_i exp(eta (x_i - C_ij))) / eta."""
    return (log_mass + 1.0 - column_logs) / eta


def log_of(number: float) -> float:
    """Natural logarithm, -inf at 0."""
    return log(number) if number > 0 else -np.inf
