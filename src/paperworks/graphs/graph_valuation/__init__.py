"""Graph valuation: how unlike, how relevant and how diverse a seller's graph is for a buyer, without a task.

Ali Falahati and Mohammad Mohammadi Amiri, "Disentangled Structural and Featural Representation for Task-Agnostic Graph
Valuation", arXiv 2408.12659.
"""

from paperworks.graphs.graph_valuation._distance import (
    SampledDistance,
    graph_wasserstein_distance,
    sampled_graph_wasserstein_distance,
)
from paperworks.graphs.graph_valuation._features import BuyerQuery, feature_relevance_diversity, propagate_features
from paperworks.graphs.graph_valuation._got import got_permutation
from paperworks.graphs.graph_valuation._protocol import GraphBroker, GraphBuyer, GraphSeller
from paperworks.graphs.graph_valuation._valuator import GraphValuator, GraphValue

__all__ = [
    "BuyerQuery",
    "GraphBroker",
    "GraphBuyer",
    "GraphSeller",
    "GraphValuator",
    "GraphValue",
    "SampledDistance",
    "feature_relevance_diversity",
    "got_permutation",
    "graph_wasserstein_distance",
    "propagate_features",
    "sampled_graph_wasserstein_distance",
]
