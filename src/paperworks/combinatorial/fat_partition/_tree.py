"""Weighted trees, from nested dicts, arrays of parents, networkx, linkages and folders."""

import os
import stat
import sys
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.cluster.hierarchy import is_valid_linkage

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# A weight that is given for an inner node may differ from the sum of its children by rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Tree:
    """A rooted tree with weights, its nodes in preorder: a parent comes before its children, the root first.

    Attributes
    ----------
    names : list
        Name of every node.
    parents : array of shape (n_nodes,)
        Parent of every node, -1 for the root.
    weights : array of shape (n_nodes,)
        Weight of every node; of an inner node, the sum of its children's.
    depths : array of shape (n_nodes,)
        Edges between the root and every node.
    """

    names: list[Any]
    parents: Integers
    weights: Floats
    depths: Integers = field(repr=False)

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def is_leaf(self) -> NDArray[np.bool_]:
        """Which nodes have no children."""
        leaf = np.ones(len(self), dtype=bool)
        leaf[self.parents[1:]] = False
        return leaf

    def path(self, node: int) -> str:
        """Names from below the root to a node, parted by slashes; the root's own for the root."""
        return _path(self.names, self.parents, node)

    def heaviest_first(self) -> tuple[Integers, Integers]:
        """Children of node v by weight, descending: ``children[begin[v] : begin[v + 1]]``."""
        nodes = np.arange(1, len(self))
        children = nodes[np.lexsort((-self.weights[1:], self.parents[1:]))]
        begin = np.concatenate([[0], np.cumsum(np.bincount(self.parents[1:], minlength=len(self)))])
        return children, begin


def read_tree(tree: Any) -> Tree:
    """Return the tree that is meant; see `PolygonalTreemap.fit` for what is accepted."""
    networkx = sys.modules.get("networkx")
    if isinstance(tree, Tree):
        return tree
    if isinstance(tree, Mapping):
        return _from_mapping(tree)
    if isinstance(tree, (str, os.PathLike)):
        return _from_folder(Path(tree))
    if networkx is not None and isinstance(tree, networkx.Graph):
        return _from_networkx(tree)
    if isinstance(tree, tuple):
        return _from_arrays(tree)
    if isinstance(tree, np.ndarray):
        return _from_linkage(tree)
    raise TypeError(
        "tree must be a nested dict, a tuple (parents, weights), a networkx.DiGraph, a SciPy linkage or the path of a "
        f"folder, got {type(tree).__name__}"
    )


def tree_from_parents(names: Sequence[Any], parents: Any, weights: Any) -> Tree:
    """A tree whose nodes come in any order; NaN stands for a weight that is not given, which only inner nodes allow."""
    parents = np.asarray(parents, dtype=np.int64)
    n = len(parents)
    if not n:
        raise ValueError("tree is empty: it has no nodes")
    roots = np.flatnonzero(parents == -1)
    if len(roots) != 1:
        some = ", ".join(repr(names[i]) for i in roots[:3])
        raise ValueError(f"tree must have one root (parent -1), got {len(roots)}{': ' if some else ''}{some}")
    if parents.min() < -1 or parents.max() >= n:
        worst = int(parents.min() if parents.min() < -1 else parents.max())
        raise ValueError(f"parents must be in -1..{n - 1}, got {worst}")
    order = _preorder(parents, int(roots[0]))
    if len(order) < n:
        reached = np.zeros(n, dtype=bool)
        reached[order] = True
        raise ValueError(f"tree has a cycle: node {names[int(np.argmin(reached))]!r} does not lead to the root")
    place = np.empty(n + 1, dtype=np.int64)
    place[order] = np.arange(n)
    place[-1] = -1
    return _finish([names[i] for i in order], place[parents[order]], np.asarray(weights, dtype=np.float64)[order])


def _finish(names: list[Any], parents: Integers, given: Floats) -> Tree:
    """Check the weights, and sum them up towards the root."""
    leaf = np.ones(len(parents), dtype=bool)
    leaf[parents[1:]] = False

    def called(node: int) -> str:
        return repr(_path(names, parents, node))

    if np.isinf(given).any():
        raise ValueError(f"weight of node {called(int(np.argmax(np.isinf(given))))} must be finite, got infinity")
    lacking = leaf & np.isnan(given)
    if lacking.any():
        raise ValueError(f"weight of leaf {called(int(np.argmax(lacking)))} must be a number, got NaN or none at all")
    if (given < 0).any():
        node = int(np.argmax(given < 0))
        raise ValueError(f"weight of node {called(node)} must not be negative, got {given[node]:g}")
    weights, depths = _sums_and_depths(parents, np.where(leaf, given, 0.0))
    if not 0 < weights[0] < np.inf:
        raise ValueError(f"weights of the leaves must have a positive, finite sum, got {weights[0]:g}")
    off = ~leaf & (np.abs(given - weights) > ROUNDING * weights)
    if off.any():
        node = int(np.argmax(off))
        raise ValueError(
            f"weight of node {called(node)} is {given[node]:.12g}, but its children weigh {weights[node]:.12g} together"
        )
    return Tree(names, parents, weights, depths)


def _path(names: Sequence[Any], parents: Integers, node: int) -> str:
    steps = [str(names[node])]
    while parents[node] > 0:
        node = int(parents[node])
        steps.append(str(names[node]))
    return "/".join(reversed(steps))


@njit(cache=True)
def _sums_and_depths(parents: Integers, weights: Floats) -> tuple[Floats, Integers]:
    sums, depths = weights.copy(), np.zeros(len(parents), dtype=np.int64)
    for node in range(len(parents) - 1, 0, -1):
        sums[parents[node]] += sums[node]
    for node in range(1, len(parents)):
        depths[node] = depths[parents[node]] + 1
    return sums, depths


@njit(cache=True)
def _preorder(parents: Integers, root: int) -> Integers:
    """Nodes that the root reaches, parents first, siblings in the order of their numbers."""
    n = len(parents)
    first, following = np.full(n, -1, dtype=np.int64), np.full(n, -1, dtype=np.int64)
    # Ascending pushes leave each list of siblings descending, and the stack turns it round again.
    for node in range(n):
        if parents[node] >= 0:
            following[node] = first[parents[node]]
            first[parents[node]] = node
    order, stack = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    stack[0], height, done = root, 1, 0
    while height:
        height -= 1
        node = stack[height]
        order[done] = node
        done += 1
        child = first[node]
        while child >= 0:
            stack[height] = child
            height += 1
            child = following[child]
    return order[:done]


def _from_mapping(tree: Mapping[Any, Any]) -> Tree:
    names: list[Any] = [""]
    parents, weights = [-1], [np.nan if tree else 0.0]
    open_ids = {id(tree)}
    # Iterators in place of recursion: a tree may be deeper than the interpreter's stack.
    stack: list[tuple[int, Mapping[Any, Any], Iterator[Any]]] = [(0, tree, iter(tree.items()))]
    while stack:
        node, mapping, items = stack[-1]
        for name, value in items:
            names.append(name)
            parents.append(node)
            if isinstance(value, Mapping):
                if id(value) in open_ids:
                    raise ValueError(f"tree has a cycle: node {name!r} holds itself")
                weights.append(np.nan if value else 0.0)
                open_ids.add(id(value))
                stack.append((len(names) - 1, value, iter(value.items())))
                break
            weights.append(_number(name, value))
        else:
            open_ids.discard(id(mapping))
            stack.pop()
    return _finish(names, np.array(parents), np.array(weights))


def _number(name: Any, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"weight of node {name!r} must be a number, got {value!r}")
    return float(value)


def _from_arrays(tree: tuple[Any, ...]) -> Tree:
    if len(tree) != 2:
        raise TypeError(f"tree as a tuple must be (parents, weights), got {len(tree)} parts")
    parents, weights = np.asarray(tree[0]), np.asarray(tree[1])
    if parents.ndim != 1 or weights.ndim != 1:
        raise ValueError(f"parents and weights must have 1 dimension, got shapes {parents.shape} and {weights.shape}")
    if not parents.size:
        raise ValueError("parents is empty: the tree has no nodes")
    if parents.dtype.kind not in "iu":
        raise TypeError(f"parents must hold integers, got {parents.dtype}")
    if weights.dtype.kind not in "iuf":
        raise TypeError(f"weights must hold numbers, got {weights.dtype}")
    n = len(parents)
    leaves = np.setdiff1d(np.arange(n), parents)
    if len(weights) == len(leaves) < n:
        given = np.full(n, np.nan)
        given[leaves] = weights
        if np.isnan(weights).any():
            raise ValueError(f"weights contains NaN, first for leaf {leaves[int(np.argmax(np.isnan(weights)))]}")
    elif len(weights) == n:
        given = weights.astype(np.float64)
        if np.isnan(given).any():
            raise ValueError(f"weights contains NaN, first for node {int(np.argmax(np.isnan(given)))}")
    else:
        raise ValueError(f"weights must have one entry a node ({n}) or one a leaf ({len(leaves)}), got {len(weights)}")
    return tree_from_parents(range(n), parents, given)


def _from_networkx(graph: Any) -> Tree:
    if not graph.is_directed():
        raise ValueError(f"tree must be directed from parents to children, got a {type(graph).__name__}")
    nodes: list[Hashable] = list(graph)
    place = {node: i for i, node in enumerate(nodes)}
    parents = np.full(len(nodes), -1, dtype=np.int64)
    for node in nodes:
        above = list(graph.predecessors(node))
        if len(above) > 1:
            raise ValueError(f"node {node!r} of the tree has {len(above)} parents: {above[0]!r}, {above[1]!r}, ...")
        if above:
            parents[place[node]] = place[above[0]]
    given = dict(graph.nodes(data="weight"))
    weights = [np.nan if given[node] is None else _number(node, given[node]) for node in nodes]
    wrong = next((node for node in nodes if given[node] is not None and np.isnan(given[node])), None)
    if wrong is not None:
        raise ValueError(f"weight of node {wrong!r} must be a number, got NaN")
    return tree_from_parents(nodes, parents, weights)


def _from_linkage(merges: NDArray[Any]) -> Tree:
    """Leaves of a linkage weigh one each."""
    if merges.ndim != 2 or merges.shape[1] != 4 or not is_valid_linkage(merges.astype(np.float64)):
        raise ValueError(
            f"tree as an array must be a SciPy linkage of shape (n - 1, 4), got shape {merges.shape} or other numbers"
        )
    n = len(merges) + 1
    parents = np.full(2 * n - 1, -1, dtype=np.int64)
    parents[merges[:, :2].astype(np.int64).ravel()] = np.repeat(np.arange(n, 2 * n - 1), 2)
    weights = np.full(2 * n - 1, np.nan)
    weights[:n] = 1.0
    return tree_from_parents(range(2 * n - 1), parents, weights)


def _from_folder(folder: Path) -> Tree:
    """Sizes of the files below a folder, in bytes; links are not followed."""
    if not folder.is_dir():
        raise ValueError(f"tree as a path must be a folder: {folder} is {'a file' if folder.exists() else 'not there'}")
    names: list[Any] = [folder.resolve().name or str(folder)]
    parents, weights = [-1], [np.nan]
    unread = 0
    stack = [(0, str(folder))]
    while stack:
        node, path = stack.pop()
        try:
            with os.scandir(path) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            inside, unread = [], unread + 1
        weights[node] = np.nan if inside else 0.0
        for entry in inside:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                unread += 1
                continue
            names.append(entry.name)
            parents.append(node)
            weights.append(float(status.st_size) if stat.S_ISREG(status.st_mode) else 0.0)
            if stat.S_ISDIR(status.st_mode):
                stack.append((len(names) - 1, entry.path))
    if unread:
        warnings.warn(f"{unread} folders or files below {folder} can't be read and are left out", stacklevel=4)
    # A folder all of whose entries vanished has become a leaf.
    leaf = np.ones(len(parents), dtype=bool)
    leaf[parents[1:]] = False
    given = np.where(leaf & np.isnan(weights), 0.0, weights)
    if not given[leaf].sum() > 0:
        raise ValueError(f"{folder} holds no bytes: there is nothing to draw")
    return tree_from_parents(names, np.array(parents), given)
