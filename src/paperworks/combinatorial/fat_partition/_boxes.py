"""Boxes in boxes whose sides stay in proportion, at the price of a little volume."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from paperworks.combinatorial.fat_partition._tree import Tree

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def nest_boxes(
    tree: Tree, lower: Floats, sides: Floats, slack: float, shrinking: Floats, smallest: float
) -> tuple[Floats, Floats]:
    """Lower corners and sides of the boxes of all nodes, each of shape (n_nodes, d), NaN for nodes that get none.

    Parameters
    ----------
    tree : Tree
        The tree; siblings share their parent's box by weight.
    lower, sides : array of shape (d,)
        The root's box.
    slack : float
        Share of its volume that a box may lose at every level.
    shrinking : array of shape (n_nodes,)
        Factor of every node's sides, about its centre, before it is shared.
    smallest : float
        Share of the root's weight below which a node gets no box.
    """
    children, begin = tree.heaviest_first()
    lowers, all_sides = np.full((len(tree), len(lower)), np.nan), np.full((len(tree), len(lower)), np.nan)
    lowers[0], all_sides[0] = lower, sides
    _nest(children, begin, tree.weights, smallest * tree.weights[0], slack, shrinking, lowers, all_sides)
    return lowers, all_sides


@njit(cache=True)
def _nest(
    children: Integers, begin: Integers, weights: Floats, least: float, slack: float, shrinking: Floats,
    lowers: Floats, all_sides: Floats,
) -> None:  # fmt: skip
    n, d = lowers.shape
    tails = np.empty(n + 1)
    groups = np.empty((n + 1, 2), dtype=np.int64)
    group_lowers, group_sides = np.empty((n + 1, d)), np.empty((n + 1, d))
    for node in range(n):
        if np.isnan(all_sides[node, 0]):
            continue
        siblings = children[begin[node] : begin[node + 1]]
        kept = 0
        while kept < len(siblings) and weights[siblings[kept]] > 0 and weights[siblings[kept]] >= least:
            kept += 1
        if kept == 0:
            continue
        tails[kept] = 0.0
        for k in range(kept - 1, -1, -1):
            tails[k] = tails[k + 1] + weights[siblings[k]]
        groups[0] = (0, kept)
        shrink = shrinking[node]
        group_lowers[0] = lowers[node] + 0.5 * (1 - shrink) * all_sides[node]
        group_sides[0] = shrink * all_sides[node]
        height = 1
        while height:
            height -= 1
            low, high = groups[height]
            if high - low == 1:
                lowers[siblings[low]], all_sides[siblings[low]] = group_lowers[height], group_sides[height]
                continue
            total = tails[low] - tails[high]
            first = weights[siblings[low]] / total
            middle = low + 1
            if first > 1 - slack:
                rest = (tails[middle] - tails[high]) / total
                _set_aside(rest, slack, group_lowers, group_sides, height)
            else:
                if first < slack:
                    while tails[low] - tails[middle] < total / 3:
                        middle += 1
                _share((tails[low] - tails[middle]) / total, group_lowers, group_sides, height)
            groups[height] = (low, middle)
            groups[height + 1] = (middle, high)
            height += 2


@njit(cache=True)
def _share(share: float, lowers: Floats, sides: Floats, here: int) -> None:
    """Cut a box across its longest side; its first part stays here, its second goes to the next place."""
    axis = np.argmax(sides[here])
    lowers[here + 1], sides[here + 1] = lowers[here], sides[here]
    length = sides[here, axis]
    sides[here, axis] = share * length
    sides[here + 1, axis] = (1 - share) * length
    lowers[here + 1, axis] += share * length


@njit(cache=True)
def _set_aside(rest: float, slack: float, lowers: Floats, sides: Floats, here: int) -> None:
    """Put a box of a small share in a slab at the end of the longest side; what remains of the slab is lost.

    Its thickness t solves t prod_i min(s_i, t / slack) = rest prod_i s_i over the other sides s_i: the m smallest of
    them are taken whole, the others are t / slack.
    """
    d = lowers.shape[1]
    axis = np.argmax(sides[here])
    length = sides[here, axis]
    volume, others = length, np.empty(d - 1)
    place = 0
    for i in range(d):
        if i != axis:
            others[place] = sides[here, i]
            volume *= sides[here, i]
            place += 1
    others.sort()
    whole, thickness = 1.0, 0.0
    for m in range(d):
        thickness = (rest * volume / whole * slack ** (d - 1 - m)) ** (1.0 / (d - m))
        if m == d - 1 or thickness <= slack * others[m]:
            break
        whole *= others[m]
    lowers[here + 1], sides[here + 1] = lowers[here], sides[here]
    for i in range(d):
        if i != axis:
            sides[here + 1, i] = min(sides[here, i], thickness / slack)
    sides[here + 1, axis] = thickness
    lowers[here + 1, axis] = lowers[here, axis] + length - thickness
    sides[here, axis] = length - thickness
