"""The whole valuation: structural disparity, relevance and diversity of sellers' graphs for a buyer."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data

from paperworks._extras import require
from paperworks._progress import progress_bar
from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.graphs.graph_valuation._disparity import Disparity, Sampling, set_disparity
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
from paperworks.graphs.graph_valuation._matching import Permutation
from paperworks.graphs.graph_valuation._party import Party, is_data_set, party
from paperworks.graphs.graph_valuation._signals import Matrix


@dataclass(frozen=True)
class GraphValue:
    """What a seller's graph is to a buyer; there is no single price.

    Attributes
    ----------
    structural_disparity : float
        Graph Wasserstein distance; 0 for graphs that are equal up to the names of nodes.
    normalized_disparity : float
        Its square beside the sum of the traces of both covariances, in [0, 1].
    relevance, diversity : float
        Of features propagated over each party's own graph, as `feature_relevance_diversity` gives them; NaN without
        features.
    permutation : ndarray or None
        Node of the seller for each node of the buyer; None for samples, merged nodes or many graphs.
    n_feature_components : int
        Directions that the features are compared along.
    n_graph_components : tuple of int
        Connected components of the buyer's graph and the seller's.
    raw_relevance, raw_diversity : float
        The same of the features as they are, which no edge has a part in.
    standard_error : float
        Of the disparity, where it is a mean over subgraphs; else 0.

    References
    ----------
    Ali Falahati and Mohammad Mohammadi Amiri, "Disentangled Structural and Featural Representation for Task-Agnostic
    Graph Valuation", arXiv 2408.12659.

    Examples
    --------
    >>> from paperworks.graphs import GraphValue
    >>> GraphValue(0.5, 0.1, 0.8, 0.1, None, 3, (1, 2), 0.9, 0.05).relevance
    0.8
    """

    structural_disparity: float
    normalized_disparity: float
    relevance: float
    diversity: float
    permutation: Permutation | None = field(repr=False)
    n_feature_components: int
    n_graph_components: tuple[int, int]
    raw_relevance: float
    raw_diversity: float
    standard_error: float = 0.0


class GraphValuator(BaseEstimator):
    r"""Value sellers' graphs for a buyer, without a task: structure and features apart.

    Structure is scored by `graph_wasserstein_distance` under the best permutation found, features by
    `feature_relevance_diversity`, once as they are and once propagated over each party's own graph
    (`propagate_features`). Second moments do not depend on the order of nodes, so that the shared permutation has a
    part in the disparity alone.

    Parameters
    ----------
    n_hops : int, default 2
        How often features pass along the edges.
    permutation : {"faq", "got", "spectral", "degree", "spectral-bound"}, None or array, default "faq"
        How nodes are matched, as in `graph_wasserstein_distance`.
    n_components : float, int or None, default 0.95
        How many of the buyer's directions features are compared along, as in `feature_relevance_diversity`.
    n_restarts : int, default 10
        Starts of ``"faq"``.
    random_state : None, int, Generator or RandomState, default None
        Source of starts and subgraphs. An int gives every seller the same ones.
    regularization : float, default 0.0
        As in `graph_wasserstein_distance`.
    statistic : {"norm", "variance"}, default "norm"
        What a seller tells of its covariance along a direction.
    unequal : {"pad", "coarsen"}, default "pad"
        What makes graphs of unequal size equal.
    feature_weight : float, default 0.0
        :math:`\mu` of the similarity :math:`\mu X_B X_S^\top` that steers the matching. At 0 structure is matched by
        structure; above it the two are entangled, and whoever matches must see the features.
    max_nodes : int, default 2000
        Larger graphs are compared by subgraphs.
    n_subgraphs : int, default 10
        Pairs of subgraphs then, at least 2.
    subgraph_size : int, default 500
        Nodes of each.
    n_nearest : int, default 5
        For data sets of many graphs: how many of the seller's graphs each of the buyer's is matched to, those nearest
        by their spectra.
    symmetrize : bool, default False
        Whether directed edges count in both directions; else directed graphs are refused.
    device : device, default "auto"
        Where matching is computed; ``"auto"`` takes a GPU where there is one.
    progress : bool, default True
        Whether a bar shows the sellers that are ranked.
    verbose : bool, default False
        Whether every seller that is ranked prints its scores.

    Attributes
    ----------
    n_features_in_ : int
        Number of the buyer's nodes, of all its graphs.
    n_graph_components_ : int
        Connected components of the buyer's graphs.
    query_ : BuyerQuery or None
        Directions and variances of the buyer's propagated features; None without features.
    raw_query_ : BuyerQuery or None
        The same of the features as they are.

    Raises
    ------
    ValueError
        If a graph is directed, not symmetric, has negative weights or fewer than 2 nodes; if features do not fit the
        graph or each other, are not finite, or are all the same; if a parameter is out of range.
    TypeError
        If a parameter, a graph or features have the wrong type.

    Notes
    -----
    Of data sets of many graphs, the disparity is the mean, over the buyer's graphs, of that to the nearest of the
    seller's, and features are those of all nodes together. Graphs are screened by their spectra, a lower bound of the
    distance, so that few are matched. Samples of one large graph are not 0 apart: sellers whose graphs were sampled
    compare with each other, by their standard errors.

    The solver of the matching, the protocol's messages and the treatment of unequal sizes, large graphs and many graphs
    are reconstructions, not taken from the paper.

    References
    ----------
    Ali Falahati and Mohammad Mohammadi Amiri, "Disentangled Structural and Featural Representation for Task-Agnostic
    Graph Valuation", arXiv 2408.12659.

    Examples
    --------
    >>> import networkx as nx
    >>> import numpy as np
    >>> from paperworks.graphs import GraphValuator
    >>> rng = np.random.default_rng(0)
    >>> club, x = nx.karate_club_graph(), rng.normal(size=(34, 4))
    >>> valuator = GraphValuator(random_state=0).fit(club, x)
    >>> same = valuator.score_seller(nx.relabel_nodes(club, lambda i: 33 - i), x)
    >>> same.structural_disparity, round(same.relevance, 6)
    (0.0, 1.0)
    >>> other = valuator.score_seller(nx.cycle_graph(34), 3 * x)
    >>> other.structural_disparity > 1, round(other.raw_relevance, 6)
    (True, 0.111111)
    """

    # These checks feed a matrix of inner products as the graph and labels as the features.
    _estimator_checks: ClassVar[dict[str, Any]] = {
        "parameters": {"n_restarts": 1, "progress": False},
        "expected_failures": {
            "check_fit_score_takes_y": "what comes with a graph are the features of its nodes, not a target y",
            "check_fit2d_1feature": "its labels are all the same, and features without variance are refused",
            "check_dtype_object": "wants objects refused as labels, where these are features and refused as such",
        },
    }

    def __init__(
        self,
        n_hops: int = 2,
        permutation: Matching = "faq",
        n_components: float | int | None = 0.95,
        n_restarts: int = 10,
        random_state: RandomState = None,
        *,
        regularization: float = 0.0,
        statistic: Statistic = "norm",
        unequal: Unequal = "pad",
        feature_weight: float = 0.0,
        max_nodes: int = 2000,
        n_subgraphs: int = 10,
        subgraph_size: int = 500,
        n_nearest: int = 5,
        symmetrize: bool = False,
        device: str | torch.device = "auto",
        progress: bool = True,
        verbose: bool = False,
    ) -> None:
        self.n_hops = n_hops
        self.permutation = permutation
        self.n_components = n_components
        self.n_restarts = n_restarts
        self.random_state = random_state
        self.regularization = regularization
        self.statistic = statistic
        self.unequal = unequal
        self.feature_weight = feature_weight
        self.max_nodes = max_nodes
        self.n_subgraphs = n_subgraphs
        self.subgraph_size = subgraph_size
        self.n_nearest = n_nearest
        self.symmetrize = symmetrize
        self.device = device
        self.progress = progress
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = True
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        return tags

    def fit(self, buyer_adjacency: Any, buyer_features: Any = None) -> Self:
        """Take the buyer's graph and describe its features.

        Parameters
        ----------
        buyer_adjacency : sparse array, ndarray, networkx.Graph, (edges, n_nodes), or list of them
            Undirected graph of n nodes, or a data set of many graphs.
        buyer_features : array_like of shape (n, d), list of them, str or None, default None
            Features of the nodes; a list for a list of graphs; the name of a networkx graph's node attribute; or None,
            and structure alone is scored.

        Returns
        -------
        Self
            The estimator.
        """
        self._check_parameters()
        if _is_matrix(buyer_adjacency):
            buyer_adjacency = validate_data(self, buyer_adjacency, accept_sparse="csr", ensure_min_samples=2)
            check_non_negative(buyer_adjacency, "buyer_adjacency of GraphValuator")
        self._buyer = self._party("buyer", buyer_adjacency, buyer_features)
        self.n_features_in_ = sum(graph.n_nodes for graph in self._buyer.graphs)
        self.n_graph_components_ = self._buyer.n_components
        self.query_ = self._query(self._buyer.propagated)
        self.raw_query_ = self._query(self._buyer.raw)
        return self

    def score_seller(self, adjacency: Any, features: Any = None) -> GraphValue:
        """Value one seller's graph.

        Parameters
        ----------
        adjacency : sparse array, ndarray, networkx.Graph, (edges, n_nodes), or list of them
            Undirected graph of m nodes, or a data set of many graphs.
        features : array_like of shape (m, d), list of them, str or None, default None
            Features of its nodes, as the buyer gave them.

        Returns
        -------
        GraphValue
            Disparity, relevance and diversity.
        """
        check_is_fitted(self)
        self._check_parameters()
        seller = self._party("seller", adjacency, features)
        n_seller, n_buyer = (each.n_features for each in (seller, self._buyer))
        if n_seller != n_buyer:
            raise ValueError(f"seller has {n_seller or 'no'} features, buyer {n_buyer or 'none'}")
        structure = self._structure(seller)
        relevance, diversity = self._scores(self.query_, seller.propagated)
        raw_relevance, raw_diversity = self._scores(self.raw_query_, seller.raw)
        return GraphValue(
            structural_disparity=structure.distance,
            normalized_disparity=structure.normalized,
            relevance=relevance,
            diversity=diversity,
            permutation=structure.permutation,
            n_feature_components=0 if self.query_ is None else len(self.query_.variances),
            n_graph_components=(self.n_graph_components_, seller.n_components),
            raw_relevance=raw_relevance,
            raw_diversity=raw_diversity,
            standard_error=structure.standard_error,
        )

    def rank(
        self,
        sellers: Mapping[Any, tuple[Any, Any]] | Sequence[tuple[Any, Any]],
        *,
        disparity_weight: float = -1.0,
        relevance_weight: float = 1.0,
        diversity_weight: float = 0.0,
    ) -> Any:
        """Value several sellers, best first by the buyer's own weights.

        The score is the weighted sum of normalized disparity, relevance and diversity. As it stands it asks for what
        is most like the buyer's own graph; a buyer that looks for what it lacks gives other weights.

        Parameters
        ----------
        sellers : mapping or sequence of (adjacency, features)
            Graph and features of each seller, by name or in order; features None where there are none.
        disparity_weight, relevance_weight, diversity_weight : float
            What the buyer makes of each.

        Returns
        -------
        pandas.DataFrame
            A row a seller, its name the index: the score and the fields of `GraphValue` but for the permutation.
        """
        pandas = require("pandas", "tables", "ranking sellers")
        weights = {
            "normalized_disparity": check_number("disparity_weight", disparity_weight),
            "relevance": check_number("relevance_weight", relevance_weight),
            "diversity": check_number("diversity_weight", diversity_weight),
        }
        rows = []
        for name, (adjacency, features) in progress_bar(_named_offers(sellers), "sellers", self.progress):
            value = asdict(self.score_seller(adjacency, features))
            del value["permutation"]
            # Without features, structure alone decides.
            score = sum(weight * value[key] for key, weight in weights.items() if not np.isnan(value[key]))
            rows.append({"seller": name, "score": score, **value})
            if self.verbose:
                print(f"{name}: " + ", ".join(f"{key} {value[key]:.6g}" for key in weights))
        return pandas.DataFrame(rows).set_index("seller").sort_values("score", ascending=False, kind="stable")

    def _check_parameters(self) -> None:
        check_integer("n_hops", self.n_hops, at_least=0)
        check_components(self.n_components)
        check_choice("statistic", self.statistic, ("norm", "variance"))
        check_integer("n_nearest", self.n_nearest)
        for name in ("max_nodes", "n_subgraphs", "subgraph_size"):
            check_integer(name, getattr(self, name), at_least=2)
        self._settings()

    def _settings(self) -> MatchingSettings:
        return MatchingSettings(
            self.permutation, self.regularization, self.n_restarts, self.unequal, self.device, self.feature_weight
        )

    def _party(self, who: str, adjacency: Any, features: Any) -> Party:
        return party(who, adjacency, features, self.n_hops, self.symmetrize)

    def _query(self, X: Matrix | None) -> BuyerQuery | None:
        if X is None:
            return None
        query = principal_query(covariance("buyer_features", torch.from_numpy(X)), self.n_components)
        return BuyerQuery(query.directions.numpy(), query.variances.numpy())

    def _scores(self, query: BuyerQuery | None, X: Matrix | None) -> tuple[float, float]:
        if query is None or X is None:
            return float("nan"), float("nan")
        directions, variances = (torch.from_numpy(each) for each in query)
        C = covariance("seller_features", torch.from_numpy(X))
        relevance, diversity = relevance_diversity(variances, variances_along(C, directions, self.statistic))
        return float(relevance), float(diversity)

    def _structure(self, seller: Party) -> Disparity:
        return set_disparity(
            self._buyer.graphs,
            seller.graphs,
            self._settings(),
            numpy_generator(self.random_state),
            Sampling(self.max_nodes, self.n_subgraphs, self.subgraph_size),
            self.n_nearest,
        )


def _is_matrix(graph: Any) -> bool:
    return not (is_data_set(graph) or hasattr(graph, "adjacency") or isinstance(graph, tuple))


def _named_offers(sellers: Any) -> list[tuple[Any, tuple[Any, Any]]]:
    named = list(sellers.items()) if isinstance(sellers, Mapping) else list(enumerate(sellers))
    if not named:
        raise ValueError("sellers is empty")
    for name, offer in named:
        if not isinstance(offer, (tuple, list)) or len(offer) != 2:
            raise TypeError(f"sellers must hold pairs (adjacency, features), got {type(offer).__name__} for {name!r}")
    return named
