"""Structural disparity of what two parties have: one graph each, large graphs by samples, or many graphs."""

from dataclasses import dataclass, replace

import numpy as np

from paperworks.graphs.graph_valuation._distance import (
    Comparison,
    MatchingSettings,
    compare,
    compare_subgraphs,
    standard_error,
)
from paperworks.graphs.graph_valuation._matching import Permutation
from paperworks.graphs.graph_valuation._signals import GraphSignals


@dataclass(frozen=True)
class Sampling:
    """When graphs are too large to be compared whole, and what is drawn from them then."""

    max_nodes: int = 2000
    n_subgraphs: int = 10
    subgraph_size: int = 500


@dataclass(frozen=True)
class Disparity:
    distance: float
    normalized: float
    standard_error: float = 0.0
    permutation: Permutation | None = None


def set_disparity(
    buyer: list[GraphSignals],
    seller: list[GraphSignals],
    settings: MatchingSettings,
    generator: np.random.Generator,
    sampling: Sampling | None = None,
    n_nearest: int = 5,
) -> Disparity:
    """Mean, over the buyer's graphs, of the disparity to the nearest of the seller's graphs."""
    sampling = sampling or Sampling()
    found = [_nearest(graph, seller, settings, generator, sampling, n_nearest) for graph in buyer]
    if len(found) == 1:
        return found[0]
    return Disparity(
        float(np.mean([each.distance for each in found])),
        float(np.mean([each.normalized for each in found])),
        float(np.linalg.norm([each.standard_error for each in found]) / len(found)),
    )


def _nearest(
    graph: GraphSignals,
    others: list[GraphSignals],
    settings: MatchingSettings,
    generator: np.random.Generator,
    sampling: Sampling,
    n_nearest: int,
) -> Disparity:
    """The nearest of several graphs, matched to those few alone whose spectra are nearest."""
    if len(others) == 1:
        return _disparity(graph, others[0], settings, generator, sampling)
    screen = replace(settings, permutation="spectral-bound", feature_weight=0.0)
    bounds = [_disparity(graph, other, screen, generator, sampling).distance for other in others]
    best: Disparity | None = None
    for index in np.argsort(bounds, kind="stable")[:n_nearest]:
        # What is no nearer by its lower bound need not be matched; of samples the bound is another draw.
        exact = max(graph.n_nodes, others[index].n_nodes) <= sampling.max_nodes
        if best is not None and exact and bounds[index] >= best.distance:
            break
        found = _disparity(graph, others[index], settings, generator, sampling)
        if best is None or found.distance < best.distance:
            best = found
    assert best is not None
    return replace(best, permutation=None)


def _disparity(
    a: GraphSignals, b: GraphSignals, settings: MatchingSettings, generator: np.random.Generator, sampling: Sampling
) -> Disparity:
    if max(a.n_nodes, b.n_nodes) <= sampling.max_nodes:
        whole = compare(a, b, settings, generator)
        return Disparity(whole.distance, whole.normalized, 0.0, whole.permutation)
    drawn: list[Comparison] = [
        compare_subgraphs(a, b, sampling.subgraph_size, settings, generator) for _ in range(sampling.n_subgraphs)
    ]
    distances = [each.distance for each in drawn]
    normalized = float(np.mean([each.normalized for each in drawn]))
    return Disparity(float(np.mean(distances)), normalized, standard_error(distances))
