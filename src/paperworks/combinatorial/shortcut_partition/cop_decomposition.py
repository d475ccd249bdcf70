"""Buffered cop decompositions."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paperworks._validation import check_choice, check_integer, check_number
from paperworks.combinatorial.shortcut_partition._cops import Cops, decompose, find_bags
from paperworks.combinatorial.shortcut_partition._dijkstra import Search, new_search
from paperworks.combinatorial.shortcut_partition._lengths import Roads, check_lengths
from paperworks.combinatorial.shortcut_partition._verify import (
    ROUNDING,
    least_buffer,
    radii,
    skeleton_faults,
    width_faults,
)

RootRule = Literal["first", "far"]
Bags = tuple[NDArray[np.int64], NDArray[np.int32]]

# Planar graphs have no K_5, and their bags at most 4 supernodes.
PLANAR = 5
# Bags beyond this are taken to mean that the graph is not sparse enough to profit.
WIDE = 12


@dataclass(frozen=True, eq=False)
class BufferedCopDecomposition:
    r"""Supernodes of a graph, the tree T over them, and their skeletons; made by `buffered_cop_decomposition`.

    Attributes
    ----------
    radius : float
        The :math:`\Delta` that was asked for.
    minor_size : int
        The r that was taken: the buffer is :math:`\gamma = \Delta / r`.
    supernode_ : ndarray of shape (n,)
        Supernode of each vertex, numbered in the order of their making: ancestors come before descendants.
    parent_ : ndarray of shape (k,)
        Parent of each supernode in T, -1 at the roots.
    skeletons_ : list of ndarray of shape (size, 2)
        For each supernode, the vertices of its skeleton with their predecessors, -1 at its root.
    bags_ : list of ndarray
        For each supernode, itself and its ancestors adjacent to dom, the union of the supernodes below and itself.
    radius_ : ndarray of shape (k,)
        Largest distance in each supernode from its skeleton, inside it.
    nodes_ : list or None
        Nodes of a networkx graph in the order of the vertices.
    roads_ : Roads
        The graph: ``indptr``, ``indices`` and ``lengths`` of its compressed rows.

    References
    ----------
    Hsien-Chih Chang, Jonathan Conroy, Hung Le, Lazar Milenković, Shay Solomon and Cuong Than, "Shortcut Partitions in
    Minor-Free Graphs: Steiner Point Removal, Distance Oracles, Tree Covers, and More", arXiv 2308.00555.

    Examples
    --------
    >>> import networkx
    >>> from paperworks.combinatorial import buffered_cop_decomposition
    >>> found = buffered_cop_decomposition(networkx.grid_2d_graph(6, 6), 4.0)
    >>> type(found).__name__, found.supernode_.shape, found.minor_size
    ('BufferedCopDecomposition', (36,), 5)
    """

    radius: float
    minor_size: int
    supernode_: NDArray[np.int32]
    parent_: NDArray[np.int32]
    skeletons_: list[NDArray[np.int32]] = field(repr=False)
    bags_: list[NDArray[np.int32]] = field(repr=False)
    radius_: NDArray[np.float64] = field(repr=False)
    nodes_: list[Any] | None = field(repr=False)
    roads_: Roads = field(repr=False)

    def check(self) -> dict[str, Any]:
        """Verify the four properties that the paper proves, by searches of their own.

        Returns
        -------
        dict
            ``"radius"``: every vertex is within ``radius`` of its supernode's skeleton, inside the supernode (P1);
            ``"skeleton"``: each is a tree of shortest paths in G[dom] with at most r - 2 leaves beside its root (P2);
            ``"width"``: bags have at most r - 1 supernodes, and are a tree decomposition of the supernodes (P3);
            ``"buffer"``: a subtree that an ancestor X is not adjacent to is at least ``radius`` / r from X in
            G[dom(X)] (P4). Beside these truth values, ``"largest_radius"``, ``"most_leaves"``, ``"largest_bag"`` and
            ``"least_buffer"``, infinite where no subtree is cut from an ancestor.
        """
        roads, r = self.roads_, self.minor_size
        skeleton_indptr, skeleton = _rows(self.skeletons_)
        bag_indptr, bags = _rows(self.bags_)
        cops = Cops(self.supernode_, self.parent_, skeleton_indptr, skeleton, np.empty(0))
        search = new_search(roads.n)
        largest = float(radii(roads, cops, search).max())
        faults, leaves = skeleton_faults(roads, cops, search)
        widest = int(np.diff(bag_indptr).max())
        buffer = least_buffer(roads, cops, bag_indptr, bags, search)
        return {
            "radius": largest <= self.radius * (1.0 + ROUNDING),
            "skeleton": faults == 0 and leaves <= max(r - 2, 0),
            "width": widest <= r - 1 and width_faults(roads, cops, bag_indptr, bags) == 0,
            "buffer": bool(buffer >= self.radius / r * (1.0 - ROUNDING)),
            "largest_radius": largest,
            "most_leaves": int(leaves),
            "largest_bag": widest,
            "least_buffer": float(buffer),
        }


def buffered_cop_decomposition(
    graph: Any,
    radius: float,
    *,
    minor_size: int | None = None,
    root_rule: RootRule = "first",
    length: str = "weight",
) -> BufferedCopDecomposition:
    r"""Cut a graph into supernodes, each close to a few shortest paths and buffered against those that it lost.

    A connected region of vertices that are still free grows a supernode's skeleton: shortest paths in the region from
    one root to each supernode around it. Where that cuts a part of the region off a supernode X, the vertices of the
    part that are nearer than :math:`\gamma = \Delta / r` to supernodes younger than X join these, so that X stays that
    far from the rest. In a graph without :math:`K_r` as a minor a region never has more than r - 2 supernodes around
    it, and a supernode grows at most r - 2 times, so to a radius below :math:`\Delta`.

    Parameters
    ----------
    graph : sparse matrix, array_like, networkx.Graph or (edges, n_nodes)
        Undirected, with positive lengths as weights. Loops are dropped, of parallel edges the shortest is kept.
    radius : float
        Largest distance :math:`\Delta` of a vertex from its supernode's skeleton.
    minor_size : int, optional
        A size r of complete graph that is no minor: 5 for planar graphs, 3 for trees. When None, r is one more than
        the largest bag of a trial with 5, and is raised until the bags agree with it.
    root_rule : {"first", "far"}, default "first"
        Root of a skeleton: the region's vertex of lowest index, or the one farthest from the supernodes around it,
        which keeps T shallow whatever the order of the vertices.
    length : str, default "weight"
        Edge attribute of a networkx graph that holds the lengths; 1 where it lacks.

    Returns
    -------
    BufferedCopDecomposition
        Supernodes, the tree T, skeletons and bags.

    Raises
    ------
    ValueError
        If the graph is directed or empty, a length is not positive and finite, or a parameter is out of range.
    TypeError
        If the graph or a parameter is of no accepted kind.

    Warns
    -----
    UserWarning
        If a bag has more than 12 supernodes: the graph has large complete minors, and the bounds are void.

    Notes
    -----
    Pseudo-code and constants are a reconstruction from the paper's statements; `BufferedCopDecomposition.check`
    verifies what is promised. A search through a region's edges a supernode: O(m log n) for each level of T.

    References
    ----------
    Hsien-Chih Chang, Jonathan Conroy, Hung Le, Lazar Milenković, Shay Solomon and Cuong Than, "Shortcut Partitions in
    Minor-Free Graphs: Steiner Point Removal, Distance Oracles, Tree Covers, and More", arXiv 2308.00555.

    Examples
    --------
    >>> import networkx
    >>> from paperworks.combinatorial import buffered_cop_decomposition
    >>> found = buffered_cop_decomposition(networkx.grid_2d_graph(20, 20), 8.0, root_rule="far")
    >>> checked = found.check()
    >>> all(checked[name] for name in ("radius", "skeleton", "width", "buffer")), checked["largest_bag"]
    (True, 4)
    """
    roads, nodes = check_lengths("graph", graph, length)
    radius = check_number("radius", radius, above=0.0)
    r = check_minor_size(minor_size)
    check_choice("root_rule", root_rule, ("first", "far"))
    search = new_search(roads.n)
    cops, r, bags = cop_decomposition(roads, radius, r, root_rule == "far", search)
    warn_of_wide_bags([bags])
    return BufferedCopDecomposition(
        radius,
        r,
        cops.supernode,
        cops.parent,
        np.split(cops.skeleton, cops.skeleton_indptr[1:-1]),
        np.split(bags[1], bags[0][1:-1]),
        radii(roads, cops, search),
        nodes,
        roads,
    )


def _rows(arrays: list[NDArray[np.int32]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Put arrays one behind the other, with where each starts."""
    return np.cumsum([0, *map(len, arrays)]), np.concatenate(arrays)


def check_minor_size(minor_size: int | None) -> int | None:
    """Return r, which must be at least 3: a graph without K_2 has no edges."""
    return None if minor_size is None else check_integer("minor_size", minor_size, at_least=3)


def cop_decomposition(
    roads: Roads,
    radius: float,
    minor_size: int | None,
    far: bool,
    search: Search,
    inside: NDArray[np.bool_] | None = None,
) -> tuple[Cops, int, Bags]:
    """Decompose, and find an r that agrees with the bags where none is given."""
    if inside is None:
        inside = np.ones(roads.n, dtype=np.bool_)
    r = PLANAR if minor_size is None else minor_size
    cops, bags, needed = _attempt(roads, radius, r, far, search, inside)
    if minor_size is None and needed < r:
        r = needed
        cops, bags, needed = _attempt(roads, radius, r, far, search, inside)
    while minor_size is None and needed > r:
        r = needed
        cops, bags, needed = _attempt(roads, radius, r, far, search, inside)
    return cops, r, bags


def _attempt(
    roads: Roads, radius: float, r: int, far: bool, search: Search, inside: NDArray[np.bool_]
) -> tuple[Cops, Bags, int]:
    """Decompose with one r, and say which r the bags would need."""
    cops = decompose(roads, inside, radius / r, far, search)
    bags = find_bags(roads, cops.supernode, cops.parent)
    return cops, bags, max(3, int(np.diff(bags[0]).max(initial=0)) + 1)


def warn_of_wide_bags(bags: Sequence[Bags]) -> None:
    """Warn where the bags of some decompositions say that the graph is far from planar."""
    widest = max(int(np.diff(indptr).max(initial=0)) for indptr, _ in bags)
    if widest > WIDE:
        warnings.warn(
            f"the graph has large complete minors: a bag has {widest} supernodes, more than {WIDE}. Results stay upper "
            "bounds, but radii, list sizes and distortion are not bounded as in minor-free graphs",
            UserWarning,
            stacklevel=3,
        )
