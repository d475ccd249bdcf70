"""Training steps against a loop over LSTM cells, and answers against the exact algorithms."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.racing import Contestant, Race
from paperworks._threads import one_thread
from paperworks.combinatorial import (
    PointerNetwork,
    make_geometry_dataset,
    tour_length,
    two_opt,
)

RATE, LARGEST_GRADIENT, HIDDEN, BATCH = 3e-3, 2.0, 64, 128


def races() -> Iterator[Race]:
    yield _training("convex_hull", 50, 12)
    yield _training("tsp", 50, 6)
    yield _labels()
    yield _tours()


def _training(task: str, n: int, steps: int) -> Race:
    """The same network from the same weights on the same batches: the loss of the last step must agree."""
    ends = task == "convex_hull"
    solver = "exact" if ends else "heuristic"
    points, answers = make_geometry_dataset(task, steps * BATCH, n, random_state=0, label_solver=solver)
    rows = nn.utils.rnn.pad_sequence(
        [torch.from_numpy(np.append(answer + 1, [0] if ends else []).astype(np.int64)) for answer in answers],
        batch_first=True,
        padding_value=-1,
    )
    P = torch.from_numpy(np.stack(points)).float()
    batches = list(zip(P.split(BATCH), rows.split(BATCH), strict=True))

    def train(loss_of: Callable[[PointerNetwork, Tensor, Tensor], Tensor]) -> float:
        network = PointerNetwork(2, HIDDEN, terminate=ends, random_state=0)
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        for batch, targets in batches:
            loss = loss_of(network, batch, targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
            optimizer.step()
        return float(loss.detach())

    @one_thread()
    def ours() -> float:
        return train(lambda network, batch, targets: network.loss(batch, None, targets))

    @one_thread()
    def loop() -> float:
        return train(_loss_by_cells)

    expected = loop()
    return Race(
        f"{steps} training steps, {task} of {n} points, states of {HIDDEN}, batch {BATCH}, one thread",
        Contestant("paperworks", ours),
        [Contestant("loop over LSTM cells, PyTorch", loop)],
        "difference of the last loss from the loop's",
        lambda loss: abs(loss - expected),
        aim="5 times quicker, the same loss to 1e-5",
        repeats=3,
    )


def _loss_by_cells(network: PointerNetwork, points: Tensor, targets: Tensor) -> Tensor:
    """The usual way to write it down: one cell and one attention a step."""

    def cell(lstm: nn.LSTM, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        weights = (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0)
        return torch.lstm_cell(x, state, *weights)

    B, n, _ = points.shape
    state = (points.new_zeros(B, HIDDEN), points.new_zeros(B, HIDDEN))
    encoded = []
    for j in range(n):
        state = cell(network.encoder, points[:, j], state)
        encoded.append(state[0])
    if network.terminator is not None:
        encoded.insert(0, network.terminator.expand(B, -1))
    e = torch.stack(encoded, dim=1)
    x, losses = network.start.expand(B, -1), []
    for i in range(targets.shape[1]):
        state = cell(network.decoder, x, state)
        u = torch.tanh(network.W1(e) + network.W2(state[0]).unsqueeze(1)) @ network.v
        symbol = targets[:, i] if network.terminate else targets[:, i] - 1
        losses.append(nn.functional.cross_entropy(u, symbol, ignore_index=-1, reduction="sum"))
        place = (targets[:, i] - 1).clamp(min=0)
        x = points[torch.arange(B), place]
    return torch.stack(losses).sum() / (targets >= 0).sum()


def _labels() -> Race:
    points, _ = make_geometry_dataset("convex_hull", 2000, 50, random_state=0)
    truth = [_qhull(P) for P in points]

    def ours() -> list[np.ndarray]:
        return make_geometry_dataset("convex_hull", 2000, 50, random_state=0)[1]

    def differing(hulls: list[np.ndarray]) -> float:
        return float(np.mean([not np.array_equal(hull, true) for hull, true in zip(hulls, truth, strict=True)]))

    return Race(
        "drawing 2,000 sets of 50 points, and their convex hulls",
        Contestant("paperworks make_geometry_dataset", ours),
        [Contestant("SciPy ConvexHull, of sets that are drawn", lambda: [_qhull(P) for P in points])],
        "share of hulls that differ from Qhull's",
        differing,
        aim="no slower than Qhull",
        repeats=3,
    )


def _qhull(P: np.ndarray) -> np.ndarray:
    from scipy.spatial import ConvexHull

    vertices = ConvexHull(P).vertices
    return np.roll(vertices, -int(vertices.argmin()))


def _tours() -> Race:
    P = np.random.default_rng(0).random((300, 2))

    def greedy() -> np.ndarray:
        from networkx import from_numpy_array
        from networkx.algorithms.approximation import greedy_tsp, simulated_annealing_tsp
        from scipy.spatial.distance import cdist

        graph = from_numpy_array(cdist(P, P))
        tour = simulated_annealing_tsp(graph, greedy_tsp(graph), seed=0, max_iterations=20, N_inner=200)
        return np.array(tour[:-1])

    return Race(
        "a tour of 300 points",
        Contestant("paperworks two_opt", lambda: two_opt(P)),
        [Contestant("networkx greedy and annealing", greedy)],
        "length of the tour",
        lambda tour: tour_length(P, tour),
        aim="shorter, and ten times quicker",
        repeats=3,
    )
