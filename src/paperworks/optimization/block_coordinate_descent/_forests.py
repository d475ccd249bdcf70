"""Forests inside graphs, and linear systems on them by passing messages from leaves to roots and back."""

from typing import Any

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import NDArray

from paperworks._graphs import check_adjacency
from paperworks._validation import check_floating
from paperworks.optimization.block_coordinate_descent._matrices import Array, Indices, checked_matrix

# Results of an elimination: where it is not one of these, the pivot of that node is not positive.
SOLVED, CYCLE, ASYMMETRIC = -1, -2, -3


def forest_block(A: Any, scores: Any) -> NDArray[np.int64]:
    r"""Largest scores first, gather nodes of a graph that induce a forest.

    A node joins unless two of its neighbours in the block are in one tree already, so that no further node can join
    in the end. On a forest, the system of an exact block update is solved in linear time by `solve_forest`.

    Parameters
    ----------
    A : SciPy sparse matrix or networkx.Graph, n by n
        Graph: its edges are the entries off the diagonal that are not zero, whatever their sign.
    scores : array_like of shape (n,)
        What to gather by, such as :math:`|\nabla_i f(x)|`.

    Returns
    -------
    ndarray
        Nodes of the block, sorted.

    Raises
    ------
    ValueError
        If A is not square and symmetric in structure, or scores has another length or is not finite.

    References
    ----------
    Julie Nutini, Issam Laradji, Mark Schmidt. "Let's Make Block Coordinate Descent Converge Faster". JMLR 2022.
    arXiv:1712.08859.

    Examples
    --------
    >>> import networkx as nx
    >>> from paperworks.optimization import forest_block
    >>> forest_block(nx.cycle_graph(4), [4.0, 3.0, 2.0, 1.0])
    array([0, 1, 2])
    """
    graph = _graph("A", A)
    wanted = check_floating("scores", scores, ndim=1).astype(np.float64)
    if len(wanted) != graph.shape[0]:
        raise ValueError(f"scores must have length {graph.shape[0]}, the number of nodes of A, got {len(wanted)}")
    return greedy_forest(graph.indptr, graph.indices, np.argsort(-wanted, kind="stable"))


def forest_partition(A: Any) -> list[NDArray[np.int64]]:
    """Part the nodes of a graph into few blocks, each of which induces a forest.

    Nodes by descending diagonal entry (by descending degree if there is no diagonal) join the first block in which they
    close no cycle.

    Parameters
    ----------
    A : SciPy sparse matrix or networkx.Graph, n by n
        Graph, or symmetric matrix of a quadratic problem.

    Returns
    -------
    list of ndarray
        Sorted blocks that hold each node once.

    Raises
    ------
    ValueError
        If A is not square and symmetric in structure.

    References
    ----------
    Julie Nutini, Issam Laradji, Mark Schmidt. "Let's Make Block Coordinate Descent Converge Faster". JMLR 2022.
    arXiv:1712.08859.

    Examples
    --------
    >>> import networkx as nx
    >>> from paperworks.optimization import forest_partition
    >>> [block.tolist() for block in forest_partition(nx.complete_graph(5))]
    [[0, 1], [2, 3], [4]]
    """
    graph = _graph("A", A)
    order = _by_importance(graph)
    blocks = []
    while len(order):
        # First fit, block by block: what one block refuses goes on to the next in the same order.
        blocks.append(greedy_forest(graph.indptr, graph.indices, order))
        order = order[~np.isin(order, blocks[-1])]
    return blocks


def color_partition(A: Any) -> list[NDArray[np.int64]]:
    """Part the nodes of a graph into few blocks without edges: red and black where two colours do.

    Where they don't, nodes by descending diagonal entry (or degree) take the first colour that no neighbour has.

    Parameters
    ----------
    A : SciPy sparse matrix or networkx.Graph, n by n
        Graph, or symmetric matrix of a quadratic problem.

    Returns
    -------
    list of ndarray
        Sorted blocks that hold each node once.

    Raises
    ------
    ValueError
        If A is not square and symmetric in structure.

    References
    ----------
    Julie Nutini, Issam Laradji, Mark Schmidt. "Let's Make Block Coordinate Descent Converge Faster". JMLR 2022.
    arXiv:1712.08859.

    Examples
    --------
    >>> import networkx as nx
    >>> from paperworks.optimization import color_partition
    >>> [block.tolist() for block in color_partition(nx.path_graph(5))]
    [[0, 2, 4], [1, 3]]
    """
    graph = _graph("A", A)
    colors = _two_colors(graph.indptr, graph.indices)
    if not len(colors):
        colors = _first_fit(graph.indptr, graph.indices, _by_importance(graph))
    return [np.flatnonzero(colors == color) for color in range(int(colors.max()) + 1)]


def solve_forest(A: Any, b: Any) -> Array:
    r"""Solve A x = b, where the graph of A is a forest, in linear time.

    Messages go from the leaves to the roots and back (Gaussian belief propagation): node i of parent p sends

    .. math::
        d_p \leftarrow d_p - a_{ip}^2 / d_i, \qquad r_p \leftarrow r_p - a_{ip} r_i / d_i, \qquad\text{and then takes}
        \qquad x_i = (r_i - a_{ip} x_p) / d_i.

    Parameters
    ----------
    A : SciPy sparse matrix, n by n
        Symmetric positive definite; the entries off its diagonal are the edges of a forest.
    b : array_like of shape (n,) or (n, k)
        Right-hand sides.

    Returns
    -------
    ndarray
        Solution, of the shape of b.

    Raises
    ------
    ValueError
        If the graph has a cycle (an edge of it is named), A is not symmetric or not positive definite, or shapes do not
        match.
    TypeError
        If A or b does not hold floating-point numbers.

    References
    ----------
    Julie Nutini, Issam Laradji, Mark Schmidt. "Let's Make Block Coordinate Descent Converge Faster". JMLR 2022.
    arXiv:1712.08859.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_array
    >>> from paperworks.optimization import solve_forest
    >>> chain = csr_array(np.array([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]]))
    >>> solve_forest(chain, np.array([1.0, 0.0, 1.0]))
    array([1., 1., 1.])
    """
    # By rows or by columns is the same to a symmetric matrix, and symmetry is checked on the way.
    entries = A.T if sp.issparse(A) and A.format == "csr" and np.isfinite(A.data).all() else A
    columns: Any = checked_matrix("A", entries if sp.issparse(A) else sp.csc_array(check_floating("A", A, ndim=2)))
    if columns.shape[0] != columns.shape[1]:
        raise ValueError(f"A must be square, got shape {tuple(columns.shape)}")
    rhs = check_floating("b", b, ndim=(1, 2)).astype(np.float64)
    n = columns.shape[0]
    if len(rhs) != n:
        raise ValueError(f"b must have length {n}, the number of rows of A, got {len(rhs)}")
    X = rhs.reshape(n, -1).copy()
    # All nodes in their places; short integers, since what counts here is memory that is read.
    nodes = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)
    status, i, j = eliminate(columns.indptr, columns.indices, columns.data, nodes, nodes, X)
    if status == CYCLE:
        raise ValueError(f"A is not a forest: the edge ({i}, {j}) closes a cycle")
    if status == ASYMMETRIC:
        raise ValueError(
            f"A must be symmetric, got {columns[i, j]:g} at ({i}, {j}) and {columns[j, i]:g} at ({j}, {i})"
        )
    if status != SOLVED:
        raise ValueError(f"A must be positive definite, got a pivot that is not positive at node {i}")
    return X.reshape(rhs.shape)


def _graph(name: str, A: Any) -> sp.csr_array:
    """Graph of a matrix, whose negative entries are edges too."""
    if sp.issparse(A) or isinstance(A, np.ndarray):
        A = abs(A)
    return check_adjacency(name, A)[0]


def _by_importance(graph: sp.csr_array) -> Indices:
    diagonal = graph.diagonal()
    importance = diagonal if diagonal.any() else np.diff(graph.indptr)
    return np.argsort(-importance, kind="stable")


@njit(cache=True)
def _root(tree: Any, i: int) -> int:
    """Root of the tree of i, halving the path to it."""
    while tree[i] != i:
        tree[i] = tree[tree[i]]
        i = tree[i]
    return i


@njit(cache=True)
def greedy_forest(indptr: Any, indices: Any, order: Any) -> Any:
    """Nodes that induce a forest, maximal among those in ``order``."""
    n = len(indptr) - 1
    # A node outside the block has no tree.
    tree = np.full(n, -1)
    seen = np.full(n, -1)
    for i in order:
        joins = True
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            if j == i or tree[j] < 0:
                continue
            root = _root(tree, j)
            if seen[root] == i:
                joins = False
                break
            seen[root] = i
        if joins:
            tree[i] = i
            for e in range(indptr[i], indptr[i + 1]):
                j = indices[e]
                if j != i and tree[j] >= 0:
                    tree[_root(tree, j)] = i
    return np.flatnonzero(tree >= 0)


@njit(cache=True)
def _two_colors(indptr: Any, indices: Any) -> Any:
    """Colours 0 and 1, or nothing where there is an odd cycle."""
    n = len(indptr) - 1
    colors = np.full(n, -1)
    queue = np.empty(n, dtype=np.int64)
    for start in range(n):
        if colors[start] >= 0:
            continue
        colors[start], queue[0], head, tail = 0, start, 0, 1
        while head < tail:
            i = queue[head]
            head += 1
            for e in range(indptr[i], indptr[i + 1]):
                j = indices[e]
                if j == i:
                    continue
                if colors[j] < 0:
                    colors[j] = 1 - colors[i]
                    queue[tail] = j
                    tail += 1
                elif colors[j] == colors[i]:
                    return np.empty(0, dtype=colors.dtype)
    return colors


@njit(cache=True)
def _first_fit(indptr: Any, indices: Any, order: Any) -> Any:
    n = len(indptr) - 1
    colors = np.full(n, -1)
    taken = np.full(n + 1, -1)
    for i in order:
        for e in range(indptr[i], indptr[i + 1]):
            if indices[e] != i and colors[indices[e]] >= 0:
                taken[colors[indices[e]]] = i
        color = 0
        while taken[color] == i:
            color += 1
        colors[i] = color
    return colors


@njit(cache=True)
def eliminate(indptr: Any, indices: Any, data: Any, block: Any, place: Any, X: Any) -> tuple[int, int, int]:
    """Solve A_bb X = X in place; ``place[i]`` is where node i stands in the block, or negative outside it.

    Returns a status and, where it is not solved, the two nodes (or one) that are to blame.
    """
    size = len(block)
    order = np.empty(size, dtype=block.dtype)
    parent = np.full(size, -2, dtype=block.dtype)
    weight = np.zeros(size)
    diagonal = np.zeros(size)
    least = np.zeros(size)
    tail = 0
    for root in range(size):
        if parent[root] != -2:
            continue
        parent[root] = -1
        order[tail] = root
        head = tail
        tail += 1
        while head < tail:
            t = order[head]
            head += 1
            met = False
            for e in range(indptr[block[t]], indptr[block[t] + 1]):
                s = place[indices[e]]
                if s < 0 or data[e] == 0.0:
                    continue
                if s == t:
                    # What is left of an entry below this is rounding.
                    diagonal[t], least[t] = data[e], 1e-14 * data[e]
                elif s == parent[t]:
                    if abs(data[e] - weight[t]) > 1e-10 * abs(weight[t]):
                        return ASYMMETRIC, block[t], block[s]
                    met = True
                elif parent[s] == -2:
                    parent[s] = t
                    weight[s] = data[e]
                    order[tail] = s
                    tail += 1
                else:
                    # Either a cycle, or an entry whose twin is missing.
                    for other in range(indptr[block[s]], indptr[block[s] + 1]):
                        if indices[other] == block[t] and data[other] != 0.0:
                            return CYCLE, block[t], block[s]
                    return ASYMMETRIC, block[t], block[s]
            if parent[t] >= 0 and not met:
                return ASYMMETRIC, block[t], block[parent[t]]
    for at in range(size - 1, -1, -1):
        t = order[at]
        p = parent[t]
        if not diagonal[t] > least[t]:
            return block[t], block[t], block[t]
        if p >= 0:
            factor = weight[t] / diagonal[t]
            diagonal[p] -= factor * weight[t]
            for c in range(X.shape[1]):
                X[p, c] -= factor * X[t, c]
    for at in range(size):
        t = order[at]
        for c in range(X.shape[1]):
            if parent[t] >= 0:
                X[t, c] -= weight[t] * X[parent[t], c]
            X[t, c] /= diagonal[t]
    return SOLVED, -1, -1
