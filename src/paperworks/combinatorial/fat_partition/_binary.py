"""A tree whose nodes have two children each: who is cut from whom."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from paperworks.combinatorial.fat_partition._tree import Tree

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class BinaryTree(NamedTuple):
    """Cells that are cut in two, or not.

    Attributes
    ----------
    pieces : array of shape (n_cells, 2)
        The two cells that a cell is cut into, -1 where it stays whole.
    weights : array of shape (n_cells,)
        Weight of every cell.
    levels : array of shape (n_cells,)
        Number of cuts above every cell.
    cell_of : array of shape (n_nodes,)
        The cell of every node of the tree, -1 for those that weigh too little. A child without siblings has its
        parent's.
    """

    pieces: Integers
    weights: Floats
    levels: Integers
    cell_of: Integers


def binarise(tree: Tree, smallest: float) -> BinaryTree:
    """Group siblings by weight into pairs of pairs, leaving out nodes whose share of the whole is below `smallest`."""
    children, begin = tree.heaviest_first()
    return BinaryTree(*_binarise(children, begin, tree.weights, smallest * tree.weights[0]))


@njit(cache=True)
def _binarise(
    children: Integers, begin: Integers, weights: Floats, least: float
) -> tuple[Integers, Floats, Integers, Integers]:
    n = len(weights)
    pieces, cell_weights = np.full((2 * n, 2), -1, dtype=np.int64), np.zeros(2 * n)
    levels, cell_of = np.zeros(2 * n, dtype=np.int64), np.full(n, -1, dtype=np.int64)
    lifted_sums = np.empty(n + 1)
    stack = np.empty((n + 1, 3), dtype=np.int64)
    cell_of[0], n_cells = 0, 1
    for node in range(n):
        if cell_of[node] < 0:
            continue
        siblings = children[begin[node] : begin[node + 1]]
        kept = 0
        while kept < len(siblings) and weights[siblings[kept]] > 0 and weights[siblings[kept]] >= least:
            kept += 1
        if kept == 0:
            cell_weights[cell_of[node]] = weights[node]
            continue
        # Tiny weights count for more where groups are chosen, so that the depth is logarithmic; areas stay exact.
        lift = weights[node] / (2 * len(siblings))
        lifted_sums[0] = 0.0
        for k in range(kept):
            lifted_sums[k + 1] = lifted_sums[k] + max(weights[siblings[k]], lift)
        stack[0] = (0, kept, cell_of[node])
        height = 1
        while height:
            height -= 1
            low, high, cell = stack[height]
            if high - low == 1:
                cell_of[siblings[low]] = cell
                continue
            middle = _halfway(lifted_sums, low, high)
            for side in range(2):
                pieces[cell, side] = n_cells
                levels[n_cells] = levels[cell] + 1
                stack[height] = (low, middle, n_cells) if side == 0 else (middle, high, n_cells)
                height += 1
                n_cells += 1
    # Sums of what is kept, from the small to the large, lose no digits as differences of sums would.
    for cell in range(n_cells - 1, -1, -1):
        if pieces[cell, 0] >= 0:
            cell_weights[cell] = cell_weights[pieces[cell, 0]] + cell_weights[pieces[cell, 1]]
    return pieces[:n_cells], cell_weights[:n_cells], levels[:n_cells], cell_of


@njit(cache=True)
def _halfway(sums: Floats, low: int, high: int) -> int:
    """Where a descending group parts most evenly; its first alone if that is at least half."""
    half = 0.5 * (sums[low] + sums[high])
    middle = low + 1 + np.searchsorted(sums[low + 1 : high], half)
    middle = min(middle, high - 1)
    # Of equal weights an odd number can be parted in two ways: in the same one, whatever the rounding.
    if middle > low + 1 and half - sums[middle - 1] <= (sums[middle] - half) * (1 + 1e-9):
        middle -= 1
    return middle
