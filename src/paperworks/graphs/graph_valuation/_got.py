"""Stochastic search for a permutation, as GOT does it: Sinkhorn operators of Gaussian matrices, learned."""

from typing import Any

import torch
from torch import Tensor

from paperworks._progress import progress_bar
from paperworks._random import RandomState, torch_generator
from paperworks._training import start_training
from paperworks._validation import check_integer, check_number
from paperworks.graphs.graph_valuation._matching import Permutation, assign
from paperworks.graphs.graph_valuation._signals import GraphSignals, Matrix, checked_graph

# The authors' Sinkhorn steps, and the spread that the search starts with.
SINKHORN_STEPS = 10
FIRST_SPREAD = 10.0


def got_permutation(
    a: Any,
    b: Any,
    *,
    regularization: float = 0.0,
    n_epochs: int = 1000,
    n_samples: int = 20,
    temperature: float = 2.0,
    learning_rate: float = 0.5,
    device: str | torch.device = "auto",
    random_state: RandomState = None,
    progress: bool = True,
) -> Permutation:
    r"""Align two graphs by the stochastic search of GOT.

    With the roots R of the covariances of smooth signals, it minimises over the mean M and spread S of a Gaussian

    .. math:: \mathbb{E}_{E \sim N(0, I)} \bigl[ -2 \, \| R_a \, \mathcal{S}_\tau(M + S \odot E) \, R_b \|_* \bigr],

    :math:`\mathcal{S}_\tau` being Sinkhorn's operator at temperature :math:`\tau`, by Adam with AMSGrad. The
    permutation is the best assignment in :math:`\mathcal{S}_\tau(M)`.

    Parameters
    ----------
    a, b : sparse array, ndarray or networkx.Graph
        Undirected graphs; the smaller one is padded with isolated nodes.
    regularization : float, default 0.0
        :math:`\alpha` of the covariance :math:`(L + \alpha I + 11^\top / n)^{-1}`; at 0 it is :math:`L^+`.
    n_epochs : int, default 1000
        Steps of the search.
    n_samples : int, default 20
        Draws a step.
    temperature : float, default 2.0
        :math:`\tau`; small ones come near to permutations.
    learning_rate : float, default 0.5
        Of Adam.
    device : device, default "auto"
        Where to compute; ``"auto"`` takes a GPU where there is one.
    random_state : None, int, Generator or RandomState, default None
        Source of the start and of the draws.
    progress : bool, default True
        Whether a bar shows the steps.

    Returns
    -------
    ndarray of shape (n,)
        Node of b for each node of a, as `graph_wasserstein_distance` takes and returns it.

    Raises
    ------
    ValueError
        If a graph is directed, not symmetric, has negative weights or fewer than 2 nodes, or a setting is out of range.
    TypeError
        If an argument has the wrong type.

    References
    ----------
    Hermina Petric Maretic, Mireille El Gheche, Giovanni Chierchia and Pascal Frossard, "GOT: An Optimal Transport
    framework for Graph comparison", arXiv 1906.02085.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.graphs import got_permutation, graph_wasserstein_distance
    >>> star = np.zeros((5, 5))
    >>> star[0, 1:] = star[1:, 0] = 1.0
    >>> relabelled = star[::-1, ::-1]
    >>> p = got_permutation(star, relabelled, n_epochs=50, n_samples=5, random_state=0)
    >>> graph_wasserstein_distance(star, relabelled, permutation=p)
    0.0
    """
    alpha = check_number("regularization", regularization, at_least=0.0)
    signals = [GraphSignals(checked_graph(name, graph)) for name, graph in (("a", a), ("b", b))]
    n = max(each.n_nodes for each in signals)
    roots = [each.root(n, alpha) for each in signals]
    return stochastic_permutation(
        roots[0],
        roots[1],
        n_epochs=check_integer("n_epochs", n_epochs),
        n_samples=check_integer("n_samples", n_samples),
        temperature=check_number("temperature", temperature, above=0.0),
        learning_rate=check_number("learning_rate", learning_rate, above=0.0),
        device=device,
        generator=torch_generator(random_state),
        progress=progress,
    )


def stochastic_permutation(
    root_a: Matrix,
    root_b: Matrix,
    *,
    device: str | torch.device,
    generator: torch.Generator,
    n_epochs: int = 1000,
    n_samples: int = 20,
    temperature: float = 2.0,
    learning_rate: float = 0.5,
    progress: bool = False,
) -> Permutation:
    _, place, _ = start_training(device)
    R_a, R_b = (torch.from_numpy(root).to(place) for root in (root_a, root_b))
    shape = R_a.shape
    mean = torch.rand(shape, generator=generator, dtype=R_a.dtype).to(place).requires_grad_()
    spread = torch.full(shape, FIRST_SPREAD, dtype=R_a.dtype, device=place).requires_grad_()
    optimizer = torch.optim.Adam([mean, spread], lr=learning_rate, amsgrad=True)
    for _ in progress_bar(range(n_epochs), "got", progress):
        noise = torch.randn((n_samples, *shape), generator=generator, dtype=R_a.dtype).to(place)
        P = sinkhorn_operator(mean + spread * noise, temperature)
        # The traces of the covariances do not depend on P.
        loss = -2 * torch.linalg.svdvals(R_a @ P @ R_b).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return assign(sinkhorn_operator(mean.detach(), temperature)[None])[0].cpu().numpy()


def sinkhorn_operator(scores: Tensor, temperature: float) -> Tensor:
    """Rows and columns of exp(scores / temperature), scaled in turns."""
    K = scores / temperature
    for _ in range(SINKHORN_STEPS):
        K = torch.log_softmax(torch.log_softmax(K, dim=-1), dim=-2)
    return K.exp()
