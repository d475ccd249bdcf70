"""Graph Wasserstein distance: how unlike the smooth signals of two graphs are, once their nodes are aligned."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from paperworks._progress import progress_bar
from paperworks._random import RandomState, numpy_generator, torch_generator
from paperworks._validation import check_choice, check_floating, check_integer, check_number
from paperworks.graphs.graph_valuation._got import stochastic_permutation
from paperworks.graphs.graph_valuation._matching import (
    Permutation,
    best_assignment,
    by_degrees,
    by_eigenvectors,
    fidelity,
)
from paperworks.graphs.graph_valuation._signals import GraphSignals, Matrix, checked_graph
from paperworks.graphs.graph_valuation._sizes import coarsened, forest_fire

Matching = Literal["faq", "got", "spectral", "degree", "spectral-bound"] | None | ArrayLike
Unequal = Literal["pad", "coarsen"]

METHODS = ("faq", "got", "spectral", "degree", "spectral-bound")
# A squared distance below this share of both traces is rounding.
ROUNDING = 1e-10


@dataclass(frozen=True)
class MatchingSettings:
    """How two graphs are brought to one size and one order of nodes."""

    permutation: Matching = "faq"
    regularization: float = 0.0
    n_restarts: int = 10
    unequal: Unequal = "pad"
    device: str | torch.device = "auto"
    feature_weight: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.permutation, str):
            check_choice("permutation", self.permutation, METHODS)
        check_number("regularization", self.regularization, at_least=0.0)
        check_integer("n_restarts", self.n_restarts)
        check_choice("unequal", self.unequal, ("pad", "coarsen"))
        check_number("feature_weight", self.feature_weight, at_least=0.0)
        if self.feature_weight and self.unequal == "coarsen":
            raise ValueError("feature_weight must be 0 with unequal='coarsen', which merges nodes")


@dataclass(frozen=True)
class Comparison:
    """Squared distance, the traces' sum that bounds it, and the permutation that gives it."""

    squared: float
    traces: float
    permutation: Permutation | None

    @property
    def distance(self) -> float:
        return float(np.sqrt(self.squared))

    @property
    def normalized(self) -> float:
        return self.squared / self.traces if self.traces else 0.0


class SampledDistance(NamedTuple):
    """A distance averaged over subgraphs.

    Parameters
    ----------
    distance : float
        Mean of the distances between subgraphs.
    standard_error : float
        Standard error of that mean.

    References
    ----------
    Ali Falahati and Mohammad Mohammadi Amiri, "Disentangled Structural and Featural Representation for Task-Agnostic
    Graph Valuation", arXiv 2408.12659.

    Examples
    --------
    >>> from paperworks.graphs import SampledDistance
    >>> SampledDistance(1.5, 0.1).distance
    1.5
    """

    distance: float
    standard_error: float


def graph_wasserstein_distance(
    a: Any,
    b: Any,
    *,
    permutation: Matching = "faq",
    regularization: float = 0.0,
    n_restarts: int = 10,
    squared: bool = False,
    random_state: RandomState = None,
    return_permutation: bool = False,
    unequal: Unequal = "pad",
    similarity: ArrayLike | None = None,
    symmetrize: bool = False,
    device: str | torch.device = "auto",
) -> float | tuple[float, Permutation]:
    r"""Distance between the distributions of smooth signals on two graphs, with their nodes aligned.

    Signals that vary little along edges are :math:`N(0, L^+)`, L being the Laplacian. With the permutation P that
    gives b's nodes the order of a's, the Wasserstein distance of the two Gaussians is

    .. math::

        \mathrm{GWD}^2 = \min_P \; \mathrm{tr} L_a^+ + \mathrm{tr} L_b^+ - 2 \, \mathrm{tr} \bigl( (L_a^+)^{1/2}
        P L_b^+ P^\top (L_a^+)^{1/2} \bigr)^{1/2}.

    The minimum is over n! permutations: what is found is an upper bound of it, except for ``"spectral-bound"``.

    Parameters
    ----------
    a, b : sparse array, ndarray, networkx.Graph or (edges, n_nodes)
        Undirected graphs with nonnegative weights and at least 2 nodes, n of a and m of b. Self-loops are dropped with
        a warning.
    permutation : {"faq", "got", "spectral", "degree", "spectral-bound"}, None or array, default "faq"
        How nodes are matched. ``"faq"`` maximises :math:`\mathrm{tr}(A_a P A_b P^\top)` by Frank-Wolfe steps from
        several starts, refines up to 200 nodes by exchanges of two, and keeps what has the least distance. ``"got"`` is
        `got_permutation`; ``"spectral"`` overlaps absolute eigenvectors; ``"degree"`` sorts both graphs by degree. None
        takes the nodes as they come, an array is used as given. ``"spectral-bound"`` is the lower bound
        :math:`\sum_i (\sqrt{\lambda_i} - \sqrt{\mu_i})^2` of the squared distance under any permutation, from the
        sorted spectra alone.
    regularization : float, default 0.0
        :math:`\alpha`: the covariance becomes :math:`(L + \alpha I + 11^\top / n)^{-1}`, as in GOT, so that how many
        components a graph has counts as well. At 0 it is :math:`L^+`, in which what is constant on a component has no
        variance.
    n_restarts : int, default 10
        Starts of ``"faq"``: the barycentre, then random ones, every other of them between nodes of similar hop
        distances.
    squared : bool, default False
        Whether the squared distance is returned.
    random_state : None, int, Generator or RandomState, default None
        Source of the starts.
    return_permutation : bool, default False
        Whether the permutation is returned too.
    unequal : {"pad", "coarsen"}, default "pad"
        What makes graphs of unequal size equal: isolated nodes in the smaller one, or heaviest edges of the larger one
        contracted.
    similarity : array_like of shape (n, m), optional
        S, added as :math:`\langle S, P \rangle` to what ``"faq"`` maximises: node features, say. It steers the
        matching; the distance is one of structure all the same.
    symmetrize : bool, default False
        Whether an edge in one direction counts as one in both, with the larger weight; else directed graphs are
        refused.
    device : device, default "auto"
        Where ``"faq"`` and ``"got"`` compute; ``"auto"`` takes a GPU where there is one.

    Returns
    -------
    distance : float
        The distance, exactly 0 where it is within rounding of it.
    permutation : ndarray of shape (max(n, m),)
        Only with ``return_permutation``: ``permutation[i]`` is the node of b matched to node i of a, so that b aligned
        with a is ``A_b[p][:, p]``. Where sizes differ, numbers from n or m on are padding.

    Raises
    ------
    ValueError
        If a graph is directed, not symmetric, has negative weights, NaN, infinity or fewer than 2 nodes; if the
        permutation given is none, or there is none to return; if an option is out of range.
    TypeError
        If an argument has the wrong type.

    Warns
    -----
    UserWarning
        If self-loops are dropped.

    References
    ----------
    Ali Falahati and Mohammad Mohammadi Amiri, "Disentangled Structural and Featural Representation for Task-Agnostic
    Graph Valuation", arXiv 2408.12659. Hermina Petric Maretic, Mireille El Gheche, Giovanni Chierchia and Pascal
    Frossard, "GOT: An Optimal Transport framework for Graph comparison", arXiv 1906.02085. Joshua Vogelstein et al.,
    "Fast Approximate Quadratic Programming for Graph Matching", arXiv 1112.5507.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.graphs import graph_wasserstein_distance
    >>> path = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    >>> order = [1, 0, 2]  # the same path, its middle first
    >>> graph_wasserstein_distance(path, path[order][:, order], random_state=0)
    0.0
    >>> triangle = np.ones((3, 3)) - np.eye(3)
    >>> round(graph_wasserstein_distance(path, triangle, random_state=0), 4)
    0.4226
    """
    settings = MatchingSettings(permutation, regularization, n_restarts, unequal, device)
    first, second = (GraphSignals(checked_graph(name, graph, symmetrize)) for name, graph in (("a", a), ("b", b)))
    S = None if similarity is None else _checked_similarity(similarity, first, second)
    found = compare(first, second, settings, numpy_generator(random_state), S)
    value = found.squared if squared else found.distance
    if not return_permutation:
        return value
    if found.permutation is None:
        raise ValueError(
            "return_permutation: there is no permutation of nodes with permutation='spectral-bound' or merged nodes"
        )
    return value, found.permutation


def compare(
    a: GraphSignals,
    b: GraphSignals,
    settings: MatchingSettings,
    generator: np.random.Generator,
    similarity: Matrix | None = None,
) -> Comparison:
    """Distance of two graphs under the best permutation that the settings find."""
    alpha, coarsen = settings.regularization, settings.unequal == "coarsen" and a.n_nodes != b.n_nodes
    if settings.feature_weight and a.features is not None and b.features is not None:
        similarity = settings.feature_weight * a.features @ b.features.T
    if coarsen:
        if similarity is not None or not isinstance(settings.permutation, str):
            raise ValueError("unequal='coarsen' merges nodes: similarity and given permutations have no meaning then")
        smallest = min(a.n_nodes, b.n_nodes)
        a, b = (GraphSignals(coarsened(each.adjacency, smallest)) for each in (a, b))
    n = max(a.n_nodes, b.n_nodes)
    if isinstance(settings.permutation, str) and settings.permutation == "spectral-bound":
        return _spectral_bound(a.spectrum(n, alpha), b.spectrum(n, alpha))
    R_a, R_b = a.root(n, alpha), b.root(n, alpha)
    traces = float((R_a**2).sum() + (R_b**2).sum())
    p = _permutation(a, b, (R_a, R_b), traces, settings, generator, similarity)
    squared = _rounded(traces - 2 * fidelity(R_a, R_b, p), traces)
    return Comparison(squared, traces, None if coarsen else p)


def _spectral_bound(variances_a: Matrix, variances_b: Matrix) -> Comparison:
    """Sorted spectra of two Gaussians are as near as any rotation brings them."""
    traces = float(variances_a.sum() + variances_b.sum())
    squared = float(((np.sqrt(variances_a) - np.sqrt(variances_b)) ** 2).sum())
    return Comparison(_rounded(squared, traces), traces, None)


def _rounded(squared: float, traces: float) -> float:
    return squared if squared > ROUNDING * traces else 0.0


def _permutation(
    a: GraphSignals,
    b: GraphSignals,
    roots: tuple[Matrix, Matrix],
    traces: float,
    settings: MatchingSettings,
    generator: np.random.Generator,
    similarity: Matrix | None,
) -> Permutation:
    n = len(roots[0])
    if settings.permutation is None:
        return np.arange(n)
    if not isinstance(settings.permutation, str):
        return _checked_permutation(settings.permutation, n)
    if settings.permutation == "spectral":
        return by_eigenvectors(a, b)
    if settings.permutation == "degree":
        return by_degrees(a, b)
    if settings.permutation == "got":
        return stochastic_permutation(*roots, device=settings.device, generator=torch_generator(generator))
    return best_assignment(
        a,
        b,
        roots,
        n_restarts=settings.n_restarts,
        attainable=traces * (1 - ROUNDING) / 2,
        similarity=None if similarity is None else _with_padding(similarity),
        device=_place(settings.device),
        generator=generator,
    )


def _place(device: str | torch.device) -> torch.device:
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(automatic if str(device) == "auto" else device)


def _checked_permutation(permutation: ArrayLike, n: int) -> Permutation:
    p = np.asarray(permutation)
    if p.dtype.kind not in "iu":
        raise TypeError(f"permutation must hold integers, got {p.dtype}")
    if p.shape != (n,) or (np.sort(p) != np.arange(n)).any():
        raise ValueError(f"permutation must hold each of 0..{n - 1} once, got shape {p.shape}")
    return p.astype(np.intp)


def _checked_similarity(similarity: ArrayLike, a: GraphSignals, b: GraphSignals) -> Matrix:
    S = check_floating("similarity", similarity, ndim=2)
    if S.shape != (a.n_nodes, b.n_nodes):
        raise ValueError(f"similarity must have shape {(a.n_nodes, b.n_nodes)}, got {S.shape}")
    return np.asarray(S, dtype=np.float64)


def _with_padding(S: Matrix) -> Matrix:
    """A similarity of zero with the isolated nodes that make the smaller graph as large as the other."""
    n = max(S.shape)
    return np.pad(S, ((0, n - S.shape[0]), (0, n - S.shape[1])))


def sampled_graph_wasserstein_distance(
    a: Any,
    b: Any,
    *,
    n_subgraphs: int = 10,
    subgraph_size: int = 500,
    permutation: Literal["faq", "got", "spectral", "degree", "spectral-bound"] = "faq",
    regularization: float = 0.0,
    n_restarts: int = 10,
    symmetrize: bool = False,
    device: str | torch.device = "auto",
    random_state: RandomState = None,
    progress: bool = True,
) -> SampledDistance:
    r"""Mean distance between subgraphs of two large graphs.

    A distance of whole graphs costs O(n^3) and the matching more. This one draws pairs of subgraphs by forest fire,
    which keeps neighbours together, and averages `graph_wasserstein_distance` over the pairs. Two different subgraphs
    of one graph are not 0 apart: compare what is sampled with what is sampled.

    Parameters
    ----------
    a, b : sparse array, ndarray, networkx.Graph or (edges, n_nodes)
        Undirected graphs with nonnegative weights.
    n_subgraphs : int, default 10
        Pairs of subgraphs, at least 2.
    subgraph_size : int, default 500
        Nodes of each; a graph that has no more is taken whole.
    permutation : {"faq", "got", "spectral", "degree", "spectral-bound"}, default "faq"
        As in `graph_wasserstein_distance`.
    regularization : float, default 0.0
        As in `graph_wasserstein_distance`.
    n_restarts : int, default 10
        Starts of ``"faq"``.
    symmetrize : bool, default False
        Whether directed edges count in both directions.
    device : device, default "auto"
        Where to compute.
    random_state : None, int, Generator or RandomState, default None
        Source of the subgraphs and the starts.
    progress : bool, default True
        Whether a bar shows the pairs.

    Returns
    -------
    SampledDistance
        The mean distance and its standard error.

    Raises
    ------
    ValueError
        As `graph_wasserstein_distance`, or if there are fewer than two subgraphs or fewer than two nodes in each.
    TypeError
        If an argument has the wrong type.

    References
    ----------
    Ali Falahati and Mohammad Mohammadi Amiri, "Disentangled Structural and Featural Representation for Task-Agnostic
    Graph Valuation", arXiv 2408.12659.

    Examples
    --------
    >>> import networkx as nx
    >>> from paperworks.graphs import sampled_graph_wasserstein_distance
    >>> ring, chords = nx.cycle_graph(300), nx.circulant_graph(300, [1, 2])
    >>> found = sampled_graph_wasserstein_distance(
    ...     ring, chords, n_subgraphs=3, subgraph_size=20, n_restarts=1, random_state=0
    ... )
    >>> found.distance > 10 * found.standard_error
    True
    """
    if not isinstance(permutation, str):
        raise TypeError(f"permutation must be one of {', '.join(METHODS)}, got {permutation!r}")
    settings = MatchingSettings(permutation, regularization, n_restarts, "pad", device)
    first, second = (GraphSignals(checked_graph(name, graph, symmetrize)) for name, graph in (("a", a), ("b", b)))
    check_integer("n_subgraphs", n_subgraphs, at_least=2)
    check_integer("subgraph_size", subgraph_size, at_least=2)
    generator = numpy_generator(random_state)
    pairs = progress_bar(range(n_subgraphs), "subgraphs", progress)
    found = [compare_subgraphs(first, second, subgraph_size, settings, generator).distance for _ in pairs]
    return SampledDistance(float(np.mean(found)), standard_error(found))


def compare_subgraphs(
    a: GraphSignals, b: GraphSignals, size: int, settings: MatchingSettings, generator: np.random.Generator
) -> Comparison:
    """Distance between one forest-fire subgraph of each graph; a graph of no more nodes is taken whole."""
    a, b = (
        each.subgraph(forest_fire(each.adjacency, size, generator)) if each.n_nodes > size else each for each in (a, b)
    )
    return compare(a, b, settings, generator)


def standard_error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
