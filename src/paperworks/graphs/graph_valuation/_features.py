"""What a seller's features share with the buyer's, and what they add: second moments along the buyer's directions."""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, diags_array, eye_array
from torch import Tensor

from paperworks._tensors import to_tensors
from paperworks._validation import check_choice, check_floating, check_integer, check_number
from paperworks.graphs.graph_valuation._signals import checked_graph

Statistic = Literal["norm", "variance"]

# Smallest ratio that enters a geometric mean.
FLOOR = 1e-12


class BuyerQuery(NamedTuple):
    """What a buyer tells of its features.

    Parameters
    ----------
    directions : ndarray of shape (d, r)
        Principal directions of the buyer's features, for sellers to answer along.
    variances : ndarray of shape (r,)
        Variances of the buyer's features along them, for the broker alone.

    References
    ----------
    Mohammad Mohammadi Amiri, Frederic Berdoz and Ramesh Raskar, "Fundamentals of Task-Agnostic Data Valuation", arXiv
    2208.12354.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.graphs import BuyerQuery
    >>> BuyerQuery(np.eye(2), np.array([2.0, 1.0])).variances
    array([2., 1.])
    """

    directions: Any
    variances: Any


def propagate_features(adjacency: Any, x: ArrayLike, n_hops: int = 2) -> NDArray[np.floating]:
    r"""Pass the features of nodes along the edges of their graph.

    :math:`H = \tilde A^k X` with :math:`\tilde A = D^{-1/2} (A + I) D^{-1/2}`, D being the degrees of A + I.

    Parameters
    ----------
    adjacency : sparse array, ndarray, networkx.Graph or (edges, n_nodes)
        Undirected, with nonnegative weights; n nodes. Self-loops are dropped with a warning.
    x : array_like of shape (n, d)
        Features of the nodes.
    n_hops : int, default 2
        k; 0 gives the features back.

    Returns
    -------
    ndarray of shape (n, d)
        H.

    Raises
    ------
    ValueError
        If the graph is not undirected, has negative weights or fewer than 2 nodes, or there is not one row of finite
        features for each node.
    TypeError
        If an argument has the wrong type; features must be floating-point numbers.

    References
    ----------
    Ali Falahati and Mohammad Mohammadi Amiri, "Disentangled Structural and Featural Representation for Task-Agnostic
    Graph Valuation", arXiv 2408.12659.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.graphs import propagate_features
    >>> pair = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> propagate_features(pair, np.array([[1.0], [3.0]]), n_hops=1)
    array([[2.],
           [2.]])
    """
    graph = checked_graph("adjacency", adjacency)
    X = check_floating("x", x, ndim=2)
    check_rows("x", X, graph.shape[0])
    return propagated(graph, X, check_integer("n_hops", n_hops, at_least=0))


def check_rows(name: str, X: NDArray[Any], n_nodes: int) -> None:
    if len(X) != n_nodes:
        raise ValueError(f"{name} must have a row for each of {n_nodes} nodes, got shape {X.shape}")


def propagated(adjacency: csr_array, X: NDArray[np.floating], n_hops: int) -> NDArray[np.floating]:
    n = adjacency.shape[0]
    with_loops = adjacency + eye_array(n)
    scale = diags_array(1.0 / np.sqrt(np.asarray(with_loops.sum(axis=1)).ravel()))
    passing = csr_array(scale @ with_loops @ scale).astype(X.dtype)
    for _ in range(n_hops):
        X = passing @ X
    return X


def feature_relevance_diversity(
    x_buyer: ArrayLike | Tensor,
    x_seller: ArrayLike | Tensor,
    *,
    n_components: float | int | None = 0.95,
    statistic: Statistic = "norm",
    center: bool = True,
) -> tuple[Any, Any]:
    r"""How much of the buyer's variation a seller's features have, and how far they differ from it.

    Along the buyer's r principal directions :math:`u_j`, with variances :math:`\lambda_j`, and with
    :math:`\hat\lambda_j = \| C_S u_j \|` of the seller's covariance,

    .. math::

        \text{relevance} = \Bigl( \prod_{j=1}^r \frac{\min(\lambda_j, \hat\lambda_j)}{\max(\lambda_j, \hat\lambda_j)}
        \Bigr)^{1/r}, \qquad \text{diversity} = \Bigl( \prod_{j=1}^r \frac{|\lambda_j - \hat\lambda_j|}
        {\max(\lambda_j, \hat\lambda_j)} \Bigr)^{1/r}.

    Both are in [0, 1], and so is their sum. Ratios are floored at 1e-12. The order of rows does not matter, nor how
    many there are.

    Parameters
    ----------
    x_buyer : array_like or Tensor of shape (n, d)
        The buyer's features.
    x_seller : array_like or Tensor of shape (m, d)
        The seller's features.
    n_components : float, int or None, default 0.95
        r: the fewest directions that explain this share of the buyer's variance, if in (0, 1); that many, if an
        integer; all, if None.
    statistic : {"norm", "variance"}, default "norm"
        ``"norm"`` is :math:`\| C_S u_j \|`, ``"variance"`` the seller's variance :math:`u_j^\top C_S u_j`.
    center : bool, default True
        Whether second moments are taken about the mean, over n - 1, or about zero, over n.

    Returns
    -------
    relevance : float or Tensor
        Geometric mean of the ratios of variances.
    diversity : float or Tensor
        Geometric mean of their relative differences.

    Raises
    ------
    ValueError
        If an array is empty, holds NaN or infinity, has fewer than two rows or no variance; if there are different
        numbers of features; if ``n_components`` or ``statistic`` is none that is accepted.
    TypeError
        If an array does not hold floating-point numbers.

    References
    ----------
    Mohammad Mohammadi Amiri, Frederic Berdoz and Ramesh Raskar, "Fundamentals of Task-Agnostic Data Valuation", arXiv
    2208.12354. Ali Falahati and Mohammad Mohammadi Amiri, "Disentangled Structural and Featural Representation for
    Task-Agnostic Graph Valuation", arXiv 2408.12659.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.graphs import feature_relevance_diversity
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> relevance, diversity = feature_relevance_diversity(x, 2 * x, n_components=None)  # four times the variance
    >>> round(relevance, 6), round(diversity, 6)
    (0.25, 0.75)
    """
    check_choice("statistic", statistic, ("norm", "variance"))
    (X_B, X_S), restore = to_tensors(ndim=2, x_buyer=x_buyer, x_seller=x_seller)
    if X_S.shape[1] != X_B.shape[1]:
        raise ValueError(f"x_seller has {X_S.shape[1]} features, x_buyer {X_B.shape[1]}")
    query = principal_query(covariance("x_buyer", X_B, center), n_components)
    answer = variances_along(covariance("x_seller", X_S, center), query.directions, statistic)
    return restore(relevance_diversity(query.variances, answer))


def covariance(name: str, X: Tensor, center: bool = True) -> Tensor:
    """Second moments of features, refused where there are none."""
    if len(X) < 2:
        raise ValueError(f"{name} must have at least 2 rows, got {len(X)}")
    centred = X - X.mean(dim=0) if center else X
    C = centred.T @ centred / (len(X) - 1 if center else len(X))
    if not C.diagonal().sum() > torch.finfo(X.dtype).eps * (X**2).sum() / len(X):
        raise ValueError(f"{name} has zero covariance: all its rows are the same")
    return C


def principal_query(C: Tensor, n_components: float | int | None) -> BuyerQuery:
    """Directions of largest variance, each with the sign that makes its largest entry positive."""
    variances, directions = torch.linalg.eigh(C)
    variances, directions = variances.flip(0).clamp(min=0), directions.flip(1)
    r = _count(n_components, variances.detach())
    U = directions[:, :r]
    largest = U.detach().abs().argmax(dim=0, keepdim=True)
    return BuyerQuery(U * U.detach().gather(0, largest).sign(), variances[:r])


def check_components(n_components: Any) -> None:
    """Refuse what is neither a share of variance, a count, nor None."""
    if n_components is None:
        return
    if isinstance(n_components, (int, np.integer)):
        check_integer("n_components", n_components)
    elif not check_number("n_components", n_components, above=0.0) < 1.0:
        raise ValueError(f"n_components as a share of variance must be in (0, 1), got {n_components!r}")


def _count(n_components: float | int | None, variances: Tensor) -> int:
    check_components(n_components)
    d = len(variances)
    if n_components is None:
        return d
    if isinstance(n_components, (int, np.integer)):
        if n_components > d:
            raise ValueError(f"n_components must be at most {d}, the number of features, got {n_components}")
        return int(n_components)
    share = variances.cumsum(0) / variances.sum()
    # At most d, should rounding leave the last share below what is asked for.
    return min(d, int((share < n_components).sum()) + 1)


def variances_along(C: Tensor, directions: Tensor, statistic: Statistic) -> Tensor:
    image = C @ directions
    if statistic == "norm":
        return torch.linalg.vector_norm(image, dim=0)
    return (directions * image).sum(dim=0).clamp(min=0)


def relevance_diversity(buyer: Tensor, seller: Tensor) -> tuple[Tensor, Tensor]:
    """Geometric means of t and 1 - t, t being the smaller over the larger variance; 1 where both are zero."""
    largest = torch.maximum(buyer, seller)
    none = largest == 0
    t = torch.where(none, torch.ones_like(largest), torch.minimum(buyer, seller) / largest.masked_fill(none, 1.0))
    return _geometric_mean(t), _geometric_mean(1 - t)


def _geometric_mean(ratios: Tensor) -> Tensor:
    mean = ratios.clamp(min=FLOOR).log().mean().exp()
    # With every ratio at the floor the mean is that of zeros.
    return torch.where((ratios <= FLOOR).all(), torch.zeros_like(mean), mean)
