"""Buyer, seller and broker: who tells what to whom."""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_choice, check_floating, check_integer, check_number
from paperworks.graphs.graph_valuation._disparity import set_disparity
from paperworks.graphs.graph_valuation._distance import Matching, MatchingSettings, Unequal
from paperworks.graphs.graph_valuation._features import (
    BuyerQuery,
    Statistic,
    check_components,
    covariance,
    principal_query,
    relevance_diversity,
    variances_along,
)
from paperworks.graphs.graph_valuation._party import party, structures

# How far directions may be from orthonormal.
ORTHONORMAL = 1e-6


class GraphBuyer:
    r"""The party that has a graph and looks for more.

    It propagates its features over its own graph and tells their principal directions and variances, never the features
    and never the names of its nodes.

    Parameters
    ----------
    adjacency : sparse array, ndarray, networkx.Graph, (edges, n_nodes), or list of them
        The buyer's undirected graph, or a data set of many.
    features : array_like of shape (n, d), list of them, or str
        Features of the nodes; a list for a list of graphs; or the name of a networkx graph's node attribute.
    n_hops : int, default 2
        How often features pass along the edges before they are described, as in `propagate_features`.
    n_components : float, int or None, default 0.95
        How many directions are told, as in `feature_relevance_diversity`.
    symmetrize : bool, default False
        Whether directed edges count in both directions.

    Raises
    ------
    ValueError
        If the graph is not undirected, has negative weights or fewer than 2 nodes, or features do not fit it, are not
        finite, or are all the same.
    TypeError
        If an argument has the wrong type.

    References
    ----------
    Ali Falahati and Mohammad Mohammadi Amiri, "Disentangled Structural and Featural Representation for Task-Agnostic
    Graph Valuation", arXiv 2408.12659.

    Examples
    --------
    >>> import networkx as nx
    >>> import numpy as np
    >>> from paperworks.graphs import GraphBroker, GraphBuyer, GraphSeller
    >>> rng = np.random.default_rng(0)
    >>> buyer = GraphBuyer(nx.cycle_graph(9), rng.normal(size=(9, 3)), n_components=2)
    >>> seller = GraphSeller(nx.path_graph(9), rng.normal(size=(9, 3)))
    >>> query = buyer.query()
    >>> answer = seller.answer(query.directions)  # the seller sees directions, and no variances
    >>> query.directions.shape, answer.shape
    ((3, 2), (2,))
    >>> relevance, diversity = GraphBroker().score(query, answer)
    >>> relevance + diversity <= 1
    True
    """

    def __init__(
        self,
        adjacency: Any,
        features: Any,
        *,
        n_hops: int = 2,
        n_components: float | int | None = 0.95,
        symmetrize: bool = False,
    ) -> None:
        check_components(n_components)
        self._party = _featured("buyer", adjacency, features, n_hops, symmetrize)
        self._n_components = n_components
        self._covariance = covariance("buyer_features", torch.from_numpy(self._party.propagated))

    def query(self) -> BuyerQuery:
        """Describe the propagated features by principal directions and the variances along them.

        Returns
        -------
        BuyerQuery
            Directions, of shape (d, r), for sellers; variances, of shape (r,), for the broker alone.
        """
        query = principal_query(self._covariance, self._n_components)
        return BuyerQuery(query.directions.numpy(), query.variances.numpy())

    def structure(self) -> csr_array | list[csr_array]:
        """Adjacency for the broker, without names of nodes and without features.

        Returns
        -------
        csr_array or list of csr_array
            The structure, which is *not* hidden from the broker.
        """
        return structures(self._party)


class GraphSeller:
    r"""The party that offers a graph.

    It propagates its features over its own graph and answers, for each of a buyer's directions, with one number.

    Parameters
    ----------
    adjacency : sparse array, ndarray, networkx.Graph, (edges, n_nodes), or list of them
        The seller's undirected graph, or a data set of many.
    features : array_like of shape (m, d), list of them, or str
        Features of the nodes, as for `GraphBuyer`.
    n_hops : int, default 2
        As for `GraphBuyer`; both must take the same.
    statistic : {"norm", "variance"}, default "norm"
        :math:`\| C u_j \|` of the covariance C, or the variance :math:`u_j^\top C u_j`.
    noise : {"laplace", "gaussian"} or None, default None
        Noise on answers: an extension.
    noise_scale : float, default 0.0
        Scale of Laplace's distribution, or standard deviation of the Gaussian, in units of the variance. No privacy
        budget is kept: every answer draws anew, so that many answers to one query average the noise out.
    symmetrize : bool, default False
        Whether directed edges count in both directions.
    random_state : None, int, Generator or RandomState, default None
        Source of the noise.

    Raises
    ------
    ValueError
        If the graph is not undirected, has negative weights or fewer than 2 nodes, or features do not fit it, are not
        finite, or are all the same; if there is noise without a positive scale, or a scale without noise.
    TypeError
        If an argument has the wrong type.

    References
    ----------
    Ali Falahati and Mohammad Mohammadi Amiri, "Disentangled Structural and Featural Representation for Task-Agnostic
    Graph Valuation", arXiv 2408.12659.

    Examples
    --------
    >>> import networkx as nx
    >>> import numpy as np
    >>> from paperworks.graphs import GraphSeller
    >>> seller = GraphSeller(nx.path_graph(3), np.array([[1.0], [2.0], [3.0]]), n_hops=0)
    >>> seller.answer(np.array([[1.0]]))
    array([1.])
    """

    def __init__(
        self,
        adjacency: Any,
        features: Any,
        *,
        n_hops: int = 2,
        statistic: Statistic = "norm",
        noise: Literal["laplace", "gaussian"] | None = None,
        noise_scale: float = 0.0,
        symmetrize: bool = False,
        random_state: RandomState = None,
    ) -> None:
        check_choice("statistic", statistic, ("norm", "variance"))
        check_choice("noise", noise, (None, "laplace", "gaussian"))
        check_number("noise_scale", noise_scale, at_least=0.0)
        if (noise is None) != (noise_scale == 0):
            raise ValueError(f"noise and noise_scale go together, got noise={noise!r} and noise_scale={noise_scale!r}")
        self._party = _featured("seller", adjacency, features, n_hops, symmetrize)
        self._covariance = covariance("seller_features", torch.from_numpy(self._party.propagated))
        self._statistic, self._noise, self._noise_scale = statistic, noise, noise_scale
        self._generator = numpy_generator(random_state)

    def answer(self, directions: ArrayLike) -> NDArray[np.float64]:
        """Answer a buyer's directions, one number each.

        Parameters
        ----------
        directions : ndarray of shape (d, r)
            Orthonormal columns.

        Returns
        -------
        ndarray of shape (r,)
            The statistic along each direction; with noise, clipped at zero.

        Raises
        ------
        ValueError
            If there are not d rows, or columns are not orthonormal, which would amplify what is told.
        TypeError
            If directions are not floating-point numbers.
        """
        U = check_floating("directions", directions, ndim=2).astype(np.float64)
        if U.shape[0] != len(self._covariance):
            raise ValueError(f"seller has {len(self._covariance)} features, buyer {U.shape[0]}: directions do not fit")
        if U.shape[1] > U.shape[0] or np.abs(U.T @ U - np.eye(U.shape[1])).max() > ORTHONORMAL:
            raise ValueError("directions must have orthonormal columns")
        variances = variances_along(self._covariance, torch.from_numpy(U), self._statistic).numpy()
        if self._noise is None:
            return variances
        draw = self._generator.laplace if self._noise == "laplace" else self._generator.normal
        return np.maximum(variances + draw(0.0, self._noise_scale, len(variances)), 0.0)

    def structure(self) -> csr_array | list[csr_array]:
        """Adjacency for the broker, without names of nodes and without features.

        Returns
        -------
        csr_array or list of csr_array
            The structure, which is *not* hidden from the broker.
        """
        return structures(self._party)


class GraphBroker:
    """The party in between, which scores.

    It sees both structures, the buyer's directions and variances, and the seller's answers; no features. To the buyer
    it tells three scores: disparity, relevance and diversity. Structure is not hidden from it. Who tells what to whom
    is a reconstruction, not taken from the paper.

    Parameters
    ----------
    permutation : {"faq", "got", "spectral", "degree", "spectral-bound"}, None or array, default "faq"
        How nodes are matched, as in `graph_wasserstein_distance`.
    regularization : float, default 0.0
        As in `graph_wasserstein_distance`.
    n_restarts : int, default 10
        Starts of ``"faq"``.
    unequal : {"pad", "coarsen"}, default "pad"
        As in `graph_wasserstein_distance`.
    device : device, default "auto"
        Where to compute.
    random_state : None, int, Generator or RandomState, default None
        Source of the starts.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    TypeError
        If a parameter has the wrong type.

    References
    ----------
    Ali Falahati and Mohammad Mohammadi Amiri, "Disentangled Structural and Featural Representation for Task-Agnostic
    Graph Valuation", arXiv 2408.12659.

    Examples
    --------
    >>> import networkx as nx
    >>> import numpy as np
    >>> from paperworks.graphs import BuyerQuery, GraphBroker
    >>> broker = GraphBroker(random_state=0)
    >>> disparity, normalized = broker.disparity(nx.path_graph(4), nx.path_graph([3, 0, 2, 1]))
    >>> disparity
    0.0
    >>> relevance, diversity = broker.score(BuyerQuery(np.eye(2), np.array([4.0, 1.0])), np.array([1.0, 1.0]))
    >>> round(relevance, 6)  # the geometric mean of 1/4 and 1
    0.5
    """

    def __init__(
        self,
        *,
        permutation: Matching = "faq",
        regularization: float = 0.0,
        n_restarts: int = 10,
        unequal: Unequal = "pad",
        device: str | torch.device = "auto",
        random_state: RandomState = None,
    ) -> None:
        self._settings = MatchingSettings(permutation, regularization, n_restarts, unequal, device)
        self._random_state = random_state

    def score(self, query: BuyerQuery, answer: ArrayLike) -> tuple[float, float]:
        """Score a seller's features for a buyer.

        Parameters
        ----------
        query : BuyerQuery
            What the buyer told.
        answer : ndarray of shape (r,)
            What the seller answered.

        Returns
        -------
        relevance, diversity : float
            As `feature_relevance_diversity` of the propagated features.

        Raises
        ------
        ValueError
            If there is not one nonnegative number for each direction, and a variance too.
        TypeError
            If they are not floating-point numbers.
        """
        numbers = []
        for name, values in (("query.variances", query.variances), ("answer", answer)):
            array = check_floating(name, values, ndim=1).astype(np.float64)
            if len(array) != query.directions.shape[1]:
                raise ValueError(
                    f"{name} must have {query.directions.shape[1]} numbers, one a direction, got {len(array)}"
                )
            if (array < 0).any():
                raise ValueError(f"{name} must not be negative, got {array.min():g}")
            numbers.append(torch.from_numpy(array))
        relevance, diversity = relevance_diversity(*numbers)
        return float(relevance), float(diversity)

    def disparity(self, buyer_structure: Any, seller_structure: Any) -> tuple[float, float]:
        """Score how unlike two structures are; of graphs of over 2,000 nodes, by ten pairs of subgraphs of 500.

        Parameters
        ----------
        buyer_structure, seller_structure : sparse array, ndarray, networkx.Graph, (edges, n_nodes), or list of them
            What ``structure()`` of the parties gives.

        Returns
        -------
        disparity : float
            The graph Wasserstein distance; of data sets of many graphs, the mean over the buyer's graphs of the
            distance to the nearest of the seller's.
        normalized : float
            Its square beside the sum of both traces, in [0, 1].
        """
        buyer = party("buyer", buyer_structure, None, 0)
        seller = party("seller", seller_structure, None, 0)
        found = set_disparity(buyer.graphs, seller.graphs, self._settings, numpy_generator(self._random_state))
        return found.distance, found.normalized


def _featured(who: str, adjacency: Any, features: Any, n_hops: int, symmetrize: bool) -> Any:
    check_integer("n_hops", n_hops, at_least=0)
    if features is None:
        raise TypeError(f"{who}_features must be given, got None")
    return party(who, adjacency, features, n_hops, symmetrize)
