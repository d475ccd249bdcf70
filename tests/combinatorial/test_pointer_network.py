import itertools
import json
import os
import signal
import threading

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull, Delaunay
from torch import nn

from paperworks._files import InputError
from paperworks.combinatorial import (
    PointerNetwork,
    PointerSolver,
    SequenceToSequence,
    christofides,
    convex_hull_metrics,
    delaunay_metrics,
    held_karp,
    make_geometry_dataset,
    tour_length,
    two_opt,
)
from paperworks.combinatorial.pointer_network import _attention, _batches, _labels
from paperworks.combinatorial.pointer_network.geometry import delaunay_triangles
from paperworks.papers.pointer_network.run import run

NETWORKS = {
    "pointer": lambda **options: PointerNetwork(hidden_size=6, attention_size=5, random_state=0, **options),
    "attention": lambda **options: SequenceToSequence(
        hidden_size=6, attention_size=5, attention=True, max_length=8, random_state=0, **options
    ),
    "plain": lambda **options: SequenceToSequence(hidden_size=6, max_length=8, random_state=0, **options),
}
SQUARE = [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]


def batch(dtype=torch.float32, seed=0):
    """Five sets of 3 to 6 points, padded with numbers that must not matter, and targets with and without an end."""
    points = torch.rand(5, 6, 2, generator=torch.Generator().manual_seed(seed)).to(dtype)
    lengths = torch.tensor([6, 5, 4, 3, 6])
    targets = torch.tensor([[2, 6, 1, 0], [5, 1, 0, -1], [4, 3, 1, 2], [1, 2, 3, 0], [0, -1, -1, -1]])
    return points, lengths, targets


def widened(network, seed=0):
    """The network with weights large enough to have opinions."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-1, 1, generator=generator)
    return network


def cell(lstm, x, h, c):
    """One LSTM step as it is written down."""
    W, U = lstm.weight_ih_l0, lstm.weight_hh_l0
    i, f, g, o = (x @ W.T + h @ U.T + lstm.bias_ih_l0 + lstm.bias_hh_l0).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def plainly(network, P, target):
    """Log-probabilities (m, n + 1) of one set without padding, step by step, as the paper writes them."""
    h = c = P.new_zeros(network.hidden_size)
    e = []
    for x in P:
        h, c = cell(network.encoder, x, h, c)
        e.append(h)
    rows, x = [], network.start
    for symbol in target.tolist():
        h, c = cell(network.decoder, x, h, c)
        if isinstance(network, PointerNetwork):
            states = [network.terminator if network.terminate else 0 * e[0], *e]
            u = [network.v @ torch.tanh(network.W1.weight @ e_j + network.W2.weight @ h) for e_j in states]
            scores = torch.stack(u)
        else:
            d = h
            if network.attention:
                u = torch.stack([network.v @ torch.tanh(network.W1(e_j) + network.W2(h)) for e_j in e])
                d = torch.cat([h, u.softmax(0) @ torch.stack(e)])
            scores = network.output(d)[: len(P) + 1]
        if not network.terminate:
            scores = torch.cat([scores.new_full((1,), -torch.inf), scores[1:]])
        rows.append(scores.log_softmax(0))
        if symbol < 1:
            break
        x = P[symbol - 1]
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", NETWORKS)
def test_probabilities_are_those_of_the_equations(kind, dtype):
    network = widened(NETWORKS[kind]()).to(dtype)
    points, lengths, targets = batch(dtype)
    found = network(points, lengths, targets)
    assert found.shape == (5, 4, 7)
    total, count = 0.0, 0
    for b in range(5):
        n, target = int(lengths[b]), targets[b][targets[b] >= 0]
        expected = plainly(network, points[b, :n], target)
        torch.testing.assert_close(found[b, : len(expected), : n + 1], expected, rtol=1e-4, atol=1e-5)
        assert (found[b, :, n + 1 :] == -torch.inf).all()
        total, count = total - expected[range(len(target)), target].sum(), count + len(target)
    torch.testing.assert_close(network.loss(points, lengths, targets), total / count, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(5, 4, dtype=dtype), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_probabilities_without_an_end(kind):
    network = widened(NETWORKS[kind](terminate=False))
    points, lengths, _ = batch()
    targets = torch.tensor([[2, 6, 1, 5], [5, 1, 2, 4], [4, 3, 1, 2], [1, 2, 3, -1], [6, 5, 4, 3]])
    found = network(points, lengths, targets)
    for b, n in enumerate(lengths.tolist()):
        expected = plainly(network, points[b, :n], targets[b][targets[b] > 0])
        torch.testing.assert_close(found[b, : len(expected), : n + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_padding_changes_nothing(kind):
    network = widened(NETWORKS[kind]())
    points, lengths, targets = batch()
    changed = points.clone()
    for b, n in enumerate(lengths.tolist()):
        changed[b, n:] = 99.0
    torch.testing.assert_close(network(points, lengths, targets), network(changed, lengths, targets))
    alone = network(points[3:4, :3], None, targets[3:4])
    torch.testing.assert_close(network(points, lengths, targets)[3:4, :, :4], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_are_those_of_differences(kind):
    network = widened(NETWORKS[kind]()).double()
    points, lengths, targets = batch(torch.float64)
    names = [name for name, _ in network.named_parameters()]

    def loss(*parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(_Loss(network), {f"network.{k}": v for k, v in named.items()},
                                          (points, lengths, targets))  # fmt: skip

    assert torch.autograd.gradcheck(loss, tuple(network.parameters()))


class _Loss(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *arguments):
        return self.network.unchecked_loss(*arguments)


def test_single_precision_gradients_are_those_of_double():
    network = widened(NETWORKS["pointer"]())
    twin = widened(NETWORKS["pointer"]()).double()
    points, lengths, targets = batch()
    network.loss(points, lengths, targets).backward()
    twin.loss(points.double(), lengths, targets).backward()
    for (name, one), two in zip(network.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad.double(), two.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_scores_are_one_sum_and_pieces_of_it_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    keys, queries, v = (torch.randn(shape, generator=generator) for shape in ((4, 3, 7), (6, 3, 7), (7,)))
    found = []
    for dtype, held in ((torch.float32, None), (torch.float64, None), (torch.float64, 100)):
        if held:
            monkeypatch.setattr(_attention, "HELD_AT_ONCE", held)
        parts = [each.clone().to(dtype).requires_grad_() for each in (keys, queries, v)]
        scores = _attention.additive_scores(*parts)
        scores.square().sum().backward()
        found.append([scores, *(each.grad for each in parts)])
    expected = torch.einsum("ijbk,k->ijb", torch.tanh(keys[None] + queries[:, None]), v)
    torch.testing.assert_close(found[0][0], expected, rtol=1e-5, atol=1e-5)
    for single, double, pieces in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(pieces, double)


def test_names_and_shapes_of_the_state():
    state = PointerNetwork(2, 8, attention_size=5, random_state=0).state_dict()
    named = {name: tuple(value.shape) for name, value in state.items() if "." not in name or name[0] == "W"}
    assert named == {"W1.weight": (5, 8), "W2.weight": (5, 8), "v": (5,), "start": (2,), "terminator": (8,)}
    assert {name.split(".")[0] for name in state} == {"encoder", "decoder", "W1", "W2", "v", "start", "terminator"}
    assert all(float(value.abs().max()) <= 0.08 for value in state.values())
    assert "terminator" not in PointerNetwork(2, 8, terminate=False).state_dict()


def test_initial_weights_follow_the_seed_and_leave_the_global_state():
    before = torch.get_rng_state()
    one, two, other = (PointerNetwork(hidden_size=8, random_state=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.v, two.v)
    assert not torch.equal(one.v, other.v)
    scaled = PointerNetwork(hidden_size=8, initialization="scaled", random_state=0)
    torch.testing.assert_close(scaled.v, 8 * one.v)
    gate = PointerNetwork(hidden_size=8, initialization="orthogonal", random_state=0).encoder.weight_hh_l0[8:16]
    torch.testing.assert_close(gate @ gate.T, torch.eye(8), rtol=1e-5, atol=1e-5)


def all_sequences(network, P, constrain, max_steps):
    """Every sequence that can be decoded, with its log-probability: one symbol after another."""
    n = len(P)
    found = {}

    def go_on(prefix, log_prob):
        ended = (prefix and prefix[-1] == 0) or len(prefix) == max_steps
        ended = ended or (constrain == "permutation" and len(prefix) == n)
        if ended:
            found[prefix] = log_prob
            return
        with torch.no_grad():
            logs = network(P[None], None, torch.tensor([[*prefix, 1]]))[0, -1].clone()
        if constrain == "permutation":
            logs[0] = -torch.inf
        if constrain is not None:
            logs[[each for each in prefix if each]] = -torch.inf
        logs = logs.log_softmax(0)
        for symbol in range(n + 1):
            if logs[symbol] > -torch.inf:
                go_on((*prefix, symbol), log_prob + float(logs[symbol]))

    go_on((), 0.0)
    return found


@pytest.mark.parametrize("constrain", [None, "no_repeat", "permutation"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_beam_of_full_width_is_exact(kind, constrain):
    network = widened(NETWORKS[kind]())
    points = batch()[0][:2, :3]
    indices, log_prob = network.decode(points, method="beam", beam_width=400, constrain=constrain)
    for b in range(2):
        every = all_sequences(network, points[b], constrain, 3 if constrain == "permutation" else 4)
        assert sum(np.exp(list(every.values()))) == pytest.approx(1, abs=1e-5)
        best = max(every, key=every.get)
        assert tuple(indices[b].tolist()[: len(best)]) == best
        assert not indices[b, len(best) :].any()
        assert float(log_prob[b]) == pytest.approx(every[best], abs=1e-4)


@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_log_probability_is_that_of_the_sequence(kind, method):
    network = widened(NETWORKS[kind]())
    points, lengths, _ = batch()
    indices, log_prob = network.decode(points, lengths, method=method, generator=torch.Generator().manual_seed(0))
    logs = network(points, lengths, indices)
    for b in range(5):
        ends = (indices[b] == 0).nonzero()
        m = int(ends[0]) + 1 if len(ends) else indices.shape[1]
        assert not indices[b, m:].any()
        expected = logs[b, range(m), indices[b, :m]].sum()
        assert float(log_prob[b]) == pytest.approx(float(expected.detach()), abs=1e-4)
    if method == "greedy":
        firsts = logs[:, 0].argmax(-1)
        assert torch.equal(indices[:, 0], firsts)


def test_a_beam_of_one_is_greedy_and_beams_do_not_mix_sequences():
    network = widened(NETWORKS["pointer"]())
    points, lengths, _ = batch()
    for constrain in (None, "permutation"):
        greedy = network.decode(points, lengths, constrain=constrain)
        narrow = network.decode(points, lengths, method="beam", beam_width=1, constrain=constrain)
        assert torch.equal(greedy[0], narrow[0])
        together = network.decode(points, lengths, method="beam", beam_width=3, constrain=constrain)
        for b, n in enumerate(lengths.tolist()):
            alone = network.decode(points[b : b + 1, :n], method="beam", beam_width=3, constrain=constrain,
                                   max_steps=together[0].shape[1])  # fmt: skip
            assert torch.equal(alone[0][0], together[0][b, : alone[0].shape[1]])
            torch.testing.assert_close(alone[1][0], together[1][b], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("terminate", [True, False])
@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
def test_constraints_hold(method, terminate):
    network = widened(NETWORKS["pointer"](terminate=terminate))
    points, lengths, _ = batch()
    tours, _ = network.decode(points, lengths, method=method, constrain="permutation")
    for tour, n in zip(tours.tolist(), lengths.tolist(), strict=True):
        assert sorted(tour[:n]) == list(range(1, n + 1))
        assert tour[n:] == [0] * (6 - n)
    paths, _ = network.decode(points, lengths, method=method, constrain="no_repeat")
    for path in paths.tolist():
        symbols = [each for each in path if each]
        assert len(set(symbols)) == len(symbols)
    if not terminate:
        assert (network(points, lengths, tours.clamp(min=1))[..., 0] == -torch.inf).all()
        free, _ = network.decode(points, lengths, method=method)
        assert free.shape == (5, 6)
        assert (free > 0).all()


def test_sampling_follows_the_probabilities():
    network = widened(NETWORKS["pointer"]())
    points = batch()[0][:1, :3].expand(20_000, -1, -1)
    generator = torch.Generator().manual_seed(0)
    indices, _ = network.decode(points, method="sample", generator=generator, max_steps=2)
    every = all_sequences(network, points[0], None, 2)
    for sequence, log_prob in every.items():
        padded = torch.tensor([*sequence, 0][:2])
        share = float((indices == padded).all(1).double().mean())
        assert share == pytest.approx(np.exp(log_prob), abs=0.015)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"points": torch.rand(5, 6, 3)}, ValueError, r"points must have shape \(B, n, 2\), got \(5, 6, 3\)"),
        ({"points": torch.rand(5, 6, 2).double()}, TypeError, "points must be a Tensor of float32, got float64"),
        ({"points": np.ones((5, 6, 2))}, TypeError, "points must be a Tensor of float32, got ndarray"),
        ({"points": torch.rand(6, 2)}, ValueError, "points must have 3 dimensions"),
        ({"points": torch.full((5, 6, 2), torch.nan)}, ValueError, "points contains NaN"),
        ({"lengths": torch.tensor([6.0] * 5)}, TypeError, "lengths must be a Tensor of integers"),
        ({"lengths": torch.tensor([6])}, ValueError, r"lengths must have shape \(5,\)"),
        ({"lengths": torch.tensor([0, 5, 4, 3, 7])}, ValueError, "between 1 and 6, got 0 to 7"),
        ({"targets": torch.ones(5, 4)}, TypeError, "targets must be a Tensor of int64"),
        ({"targets": torch.ones(4, 4, dtype=torch.int64)}, ValueError, "targets must have 5 rows"),
        ({"targets": torch.full((5, 1), 4)}, ValueError, r"number of an input, 1 to 3, got 4 at \(3, 0"),
    ],
)
def test_networks_name_what_is_wrong(change, error, message):
    arguments = dict(zip(("points", "lengths", "targets"), batch(), strict=True)) | change
    with pytest.raises(error, match=message):
        NETWORKS["pointer"]()(**arguments)


def test_further_errors_of_networks():
    network = NETWORKS["pointer"]()
    points = batch()[0]
    for options, message in (
        ({"method": "best"}, "method must be one of 'greedy'"),
        ({"constrain": "tour"}, "constrain must be one of None"),
        ({"beam_width": 0}, "beam_width must be at least 1"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            network.decode(points, **options)
    with pytest.raises(ValueError, match="targets must be -1 or the number"):
        NETWORKS["pointer"](terminate=False)(points, None, torch.zeros(5, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="hidden_size must be at least 1"):
        PointerNetwork(2, 0)
    with pytest.raises(ValueError, match="initialization must be one of"):
        PointerNetwork(2, 4, initialization="zero")
    with pytest.raises(ValueError, match="at most max_length=8, as the dictionary has, got 9"):
        NETWORKS["plain"]().decode(torch.rand(1, 9, 2))


def test_several_layers():
    network = widened(PointerNetwork(hidden_size=5, n_layers=2, random_state=0))
    points, lengths, targets = batch()
    mixed = network(points, lengths, targets)
    alone = network(points[1:2, :5], None, targets[1:2])
    torch.testing.assert_close(mixed[1:2, :, :6], alone, rtol=1e-5, atol=1e-6)
    greedy = network.decode(points, lengths)
    narrow = network.decode(points, lengths, method="beam", beam_width=1)
    assert torch.equal(greedy[0], narrow[0])


def test_hulls_are_those_of_qhull():
    points, hulls = make_geometry_dataset("convex_hull", 300, (3, 60), random_state=0)
    assert {3, 60} <= {len(P) for P in points} <= set(range(3, 61))
    for P, found in zip(points, hulls, strict=True):
        vertices = ConvexHull(P).vertices  # counter-clockwise
        np.testing.assert_array_equal(found, np.roll(vertices, -vertices.argmin()))


def test_hulls_drop_collinear_and_repeated_points():
    x, y = np.meshgrid(np.arange(3.0), np.arange(3.0))
    grid = np.column_stack([x.ravel(), y.ravel()])
    P = np.vstack([grid[4], grid[8], grid, grid[0]])  # (1, 1), (2, 2), the grid, (0, 0) again
    found = np.empty(len(P), dtype=np.int64)
    m = _labels.hull(P, found)
    assert P[found[:m]].tolist() == [[2, 2], [0, 2], [0, 0], [2, 0]]
    assert found[:m].tolist() == [1, 8, 2, 4]
    assert _labels.hull(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), found) == 2
    assert _labels.hull(np.ones((3, 2)), found) == 1


def test_triangulations_are_those_of_qhull_in_the_order_of_their_incentres():
    points, answers = make_geometry_dataset("delaunay", 120, (3, 40), random_state=0)
    for P, found in zip(points, answers, strict=True):
        expected = {tuple(sorted(each)) for each in Delaunay(P).simplices.tolist()}
        assert {tuple(each) for each in found.tolist()} == expected
        assert (np.diff(found, axis=1) > 0).all()
        a, b, c = (P[found[:, k]] for k in range(3))
        sides = [np.linalg.norm(p - q, axis=1)[:, None] for p, q in ((b, c), (c, a), (a, b))]
        centres = sum(s * p for s, p in zip(sides, (a, b, c), strict=True)) / sum(sides)
        np.testing.assert_array_equal(np.lexsort((centres[:, 1], centres[:, 0])), np.arange(len(centres)))
        np.testing.assert_array_equal(found, delaunay_triangles(P))


def test_points_in_general_position_need_no_qhull():
    P = np.random.default_rng(0).random((50, 8, 2))
    targets, doubtful = np.empty((50, 34), dtype=np.int64), np.ones(50, dtype=bool)
    _labels.triangulations(P, targets, doubtful)
    assert not doubtful.any()
    _labels.triangulations(np.array([SQUARE]), targets, doubtful)
    assert doubtful[0]


def test_points_on_one_circle_have_a_triangulation():
    solver = PointerSolver("delaunay", hidden_size=4, n_steps=1, random_state=0, progress=False)
    (truth,) = solver._truths([np.array(SQUARE)])
    assert len(truth) == 2
    assert set(truth.ravel().tolist()) == {0, 1, 2, 3}


def test_tours_are_the_shortest():
    points, tours = make_geometry_dataset("tsp", 40, (1, 7), random_state=0)
    for P, tour in zip(points, tours, strict=True):
        n = len(P)
        lengths = [tour_length(P, [0, *rest]) for rest in itertools.permutations(range(1, n))]
        assert tour_length(P, tour) == pytest.approx(min(lengths))
        assert tour[0] == 0
        assert n < 3 or tour[1] < tour[-1]
        for other in (two_opt(P), christofides(P)):
            assert tour_length(P, other) >= min(lengths) - 1e-12
            assert other[0] == 0
            assert n < 3 or other[1] < other[-1]


def test_tours_of_more_points():
    rng = np.random.default_rng(0)
    for n in (14, 60):
        P = rng.random((n, 2))
        lengths = {method.__name__: tour_length(P, method(P)) for method in (two_opt, christofides)}
        worst = tour_length(P, rng.permutation(n))
        begun = rng.permutation(n)
        assert tour_length(P, two_opt(P, begun)) < 0.75 * worst
        assert lengths["two_opt"] < 0.75 * worst
        if n == 14:
            least = tour_length(P, held_karp(P))
            assert least <= lengths["two_opt"] <= 1.1 * least
            assert least <= lengths["christofides"] <= 1.5 * least
    # No exchange of two edges shortens what is left.
    tour, n = two_opt(P), 60
    for r, s in itertools.combinations(range(n), 2):
        turned = np.concatenate([tour[:r], tour[r : s + 1][::-1], tour[s + 1 :]])
        assert tour_length(P, turned) >= tour_length(P, tour) - 1e-9
    # And none does moving up to three points elsewhere.
    for r, length in itertools.product(range(n), (1, 2, 3)):
        turned = np.roll(tour, -r)
        piece, rest = turned[:length], turned[length:]
        for s, moved in itertools.product(range(1, len(rest), 3), (piece, piece[::-1])):
            assert tour_length(P, np.concatenate([rest[:s], moved, rest[s:]])) >= tour_length(P, tour) - 1e-9
    heuristic = make_geometry_dataset("tsp", 2, 30, random_state=0, label_solver="heuristic")
    assert tour_length(heuristic[0][0], heuristic[1][0]) > 0


def test_a_tour_has_its_length_in_any_dimension_and_type():
    assert tour_length(SQUARE, [0, 2, 1, 3]) == 4.0
    assert tour_length(SQUARE, [0, 1, 2, 3]) == pytest.approx(2 + 2 * 2**0.5)
    P = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda P: tour_length(P, [0, 2, 1, 3, 4]), (P,))
    assert isinstance(held_karp(P), torch.Tensor)
    assert held_karp(P.detach().numpy()).tolist() == held_karp(P).tolist()
    assert [held_karp(np.random.default_rng(0).random((n, 2))).tolist() for n in (1, 2)] == [[0], [0, 1]]


def test_errors_of_tours_and_data():
    P = np.random.default_rng(0).random((21, 2))
    for call, error, message in (
        (lambda: held_karp(P), ValueError, "points must be at most 20, got 21"),
        (lambda: tour_length(P, [0, 1]), ValueError, "tour must visit each of the points 0 to 20 once"),
        (lambda: tour_length(P[:2], [0.0, 1.0]), TypeError, "tour must hold integers"),
        (lambda: two_opt(P, [0, 1]), ValueError, "tour must visit"),
        (lambda: make_geometry_dataset("tsp", 1, (5, 21)), ValueError, "n_points must be at most 20"),
        (lambda: make_geometry_dataset("hull", 1), ValueError, "task must be one of 'convex_hull'"),
        (lambda: make_geometry_dataset("convex_hull", 1, (2, 5)), ValueError, "n_points must be at least 3"),
        (lambda: make_geometry_dataset("tsp", 1, (5, 4)), ValueError, "from the least to the most"),
        (lambda: make_geometry_dataset("tsp", 1, 2.0), TypeError, "n_points must be an integer"),
        (lambda: make_geometry_dataset("tsp", 0), ValueError, "n_samples must be at least 1"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_data_follow_the_seed():
    one, two, other = (make_geometry_dataset("sorting", 20, (2, 9), random_state=seed) for seed in (0, 0, 1))
    for P, Q, order in zip(one[0], two[0], one[1], strict=True):
        np.testing.assert_array_equal(P, Q)
        np.testing.assert_array_equal(P[order, 0], np.sort(P[:, 0]))
    assert not np.array_equal(one[0][0], other[0][0])


def test_hull_metrics():
    P = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0], [2.0, 1.0]])
    answers = {
        "the hull": ([0, 1, 2, 3], True, 1.0, 1.0),
        "turned": ([2, 3, 0, 1], True, 1.0, 1.0),
        "closed": ([0, 1, 2, 3, 0], True, 1.0, 1.0),
        "the other way round": ([3, 2, 1, 0], False, 1.0, 1.0),
        "a corner lacks": ([0, 1, 2], False, 0.5, 0.5),
        "a dent": ([0, 4, 1, 2, 3], False, 0.875, 1.0),
        "edges cross": ([0, 2, 1, 3], False, None, 1.0),
        "a corner twice": ([0, 1, 2, 1], False, None, 0.5),
        "folded back": ([0, 4, 0, 1], False, None, 0.125),
        "two": ([0, 2], False, None, 0.0),
        "none": ([], False, None, 0.0),
    }
    for name, (answer, right, ratio, vertices) in answers.items():
        metrics = convex_hull_metrics([P], [answer])
        assert metrics.accuracy == right, name
        assert metrics.failed == (ratio is None), name
        assert metrics.area_ratio == pytest.approx(float("nan") if ratio is None else ratio, nan_ok=True), name
        assert metrics.vertex_area_ratio == pytest.approx(vertices), name
    both = convex_hull_metrics([P, P], [[0, 1, 2, 3], [0, 1, 2]])
    assert (both.accuracy, both.accuracy_error) == (0.5, pytest.approx(0.5 / 2**0.5))
    assert both.area_ratio == pytest.approx(0.75)
    assert both.not_simple == 0


def test_delaunay_metrics():
    P = np.array([[0.0, 0.0], [1.0, -0.2], [1.0, 0.2], [2.0, 0.0]])
    whole = [[0, 1, 2], [1, 2, 3]]
    assert delaunay_metrics([P], [whole]).accuracy == 1
    assert delaunay_metrics([P], [[[3, 2, 1], [2, 0, 1], [0, 1, 2]]]).accuracy == 1
    assert delaunay_metrics([P], [[*whole, [0, 1, 3]]]) == delaunay_metrics([P], [[*whole, [0, 2, 3]]])
    assert delaunay_metrics([P], [[*whole, [0, 1, 3]]]).accuracy == 0
    assert delaunay_metrics([P], [[*whole, [0, 1, 3]]]).coverage == 1
    assert delaunay_metrics([P], [[[0, 1, 2]]]).coverage == 0.5
    assert delaunay_metrics([P], [np.empty((0, 3), dtype=int)]).coverage == 0


@pytest.mark.parametrize(
    ("points", "answers", "error", "message"),
    [
        ([SQUARE], [], ValueError, "of one length and not empty, got 1, 0"),
        ([np.array(SQUARE, dtype=int)], [[0]], TypeError, r"points\[0\] must hold floating-point numbers"),
        ([SQUARE[:2]], [[0]], ValueError, r"points\[0\] must hold 3 points or more"),
        ([np.ones((4, 3))], [[0]], ValueError, r"points\[0\] must have shape \(n, 2\), got \(4, 3\)"),
        ([SQUARE], [[0, 4]], ValueError, r"answers\[0\] must hold indices from 0 to 3, got 0 to 4"),
        ([SQUARE], [[0.5]], TypeError, r"answers\[0\] must hold integers"),
        ([SQUARE], [[[0, 1], [1, 2]]], ValueError, "answers must hold"),
        ([[[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]], [[0, 1, 2]], ValueError, "on one line"),
    ],
)
def test_metrics_name_what_is_wrong(points, answers, error, message):
    for metrics in (convex_hull_metrics, delaunay_metrics):
        with pytest.raises(error, match=message):
            metrics(points, answers)


def small(task="sorting", **options):
    settings = {"hidden_size": 24, "n_steps": 20, "batch_size": 16, "n_points": (3, 4), "random_state": 0}
    return PointerSolver(task, **{**settings, "progress": False, **options})


def state_of(solver):
    return {name: value.clone() for name, value in solver.network_.state_dict().items()}


def same_state(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_sorting_is_learned_and_carries_over_to_a_length_never_seen():
    solver = small(hidden_size=32, n_steps=700, batch_size=64, learning_rate=0.01, n_points=(3, 4)).fit()
    for n, least in ((4, 0.8), (5, 0.25)):
        numbers, order = make_geometry_dataset("sorting", 500, n, random_state=1)
        assert solver.score(numbers, order) == solver.score(numbers) > least
    assert np.mean(solver.loss_curve_[-20:]) < 0.35


@pytest.mark.parametrize("task", ["convex_hull", "delaunay", "tsp", "sorting"])
def test_a_step_of_training_lowers_the_loss_of_every_task(task):
    points, answers = make_geometry_dataset(task, 32, (4, 6), random_state=3)
    solver = small(task, batch_size=32, n_steps=100, learning_rate=0.02).fit(points, answers)
    # The same few sets again and again: they are learned by heart in part.
    assert np.mean(solver.loss_curve_[-5:]) < solver.loss_curve_[0] - 0.1
    predicted = solver.predict(points)
    assert len(predicted) == 32
    if task in {"tsp", "sorting"}:
        for P, answer in zip(points, predicted, strict=True):
            assert sorted(answer.tolist()) == list(range(len(P)))
    elif task == "delaunay":
        assert all(answer.shape[1:] == (3,) for answer in predicted)
    assert 0 <= solver.score(points, answers) <= 1


def test_fit_with_points_alone_finds_the_answers():
    points, answers = make_geometry_dataset("convex_hull", 32, (4, 6), random_state=3)
    one, two = small("convex_hull").fit(points), small("convex_hull").fit(points, answers)
    assert same_state(state_of(one), state_of(two))


def test_batches_of_given_sets_have_each_once_an_epoch_and_little_padding():
    points, answers = make_geometry_dataset("sorting", 96, (3, 9), random_state=0)
    source = _batches.GivenSets(points, [answer + 1 for answer in answers], 16, 0, 0)
    block = source.block(0)
    assert len(block) == source.steps_in_block == 6
    seen = []
    for P, lengths, targets in block:
        full = torch.full((16,), P.shape[1]) if lengths is None else lengths
        assert int(full.max() - full.min()) <= 3
        for row in range(16):
            n = int(full[row])
            assert (targets[row, n:] == -1).all()
            ordered = P[row, targets[row, :n] - 1, 0]
            assert (ordered.diff() >= 0).all()
            seen.append(tuple(P[row, :n, 0].tolist()))
    assert len(set(seen)) == 96
    assert not torch.equal(source.block(1)[0][0], block[0][0])


def test_fresh_batches_differ_from_block_to_block_and_between_processes():
    first, second, other = (
        _batches.FreshSets("convex_hull", 4, 5, 7, seed=0, process=process).block(number)
        for number, process in ((0, 0), (1, 0), (0, 1))
    )
    assert {P.shape[1] for P, _, _ in first} == {5, 6, 7}
    for block in (second, other):
        assert not {float(P[0, 0, 0]) for P, _, _ in first} & {float(P[0, 0, 0]) for P, _, _ in block}
    for P, lengths, targets in first:
        assert lengths is None
        for points, target in zip(P.double().numpy(), targets.numpy(), strict=True):
            vertices = ConvexHull(points).vertices
            m = int((target > 0).sum())
            np.testing.assert_array_equal(target[:m] - 1, np.roll(vertices, -vertices.argmin()))
            assert target[m] == 0
            assert (target[m + 1 :] == -1).all()


def test_same_seed_same_network_and_threads_are_left_as_they_were():
    one, two, other = small().fit(), small().fit(), small(random_state=1).fit()
    assert same_state(state_of(one), state_of(two))
    assert one.loss_curve_ == two.loss_curve_
    assert one.loss_curve_ != other.loss_curve_
    before = torch.get_num_threads()
    small().fit()
    assert torch.get_num_threads() == before


def test_an_epoch_more_goes_on_where_the_last_one_stopped():
    whole = small(n_steps=40).fit()
    begun = small(n_steps=17).fit().set_params(n_steps=40, warm_start=True).fit()
    assert whole.loss_curve_ == begun.loss_curve_
    assert same_state(state_of(whole), state_of(begun))
    again = begun.set_params(warm_start=False, n_steps=17).fit()
    assert again.n_steps_ == 17


def test_an_interrupt_keeps_the_last_complete_step(monkeypatch):
    whole = small(n_steps=40).fit()
    stopped = small(n_steps=40)
    step = torch.optim.Adam.step
    calls = []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    assert stopped.n_steps_ == 12
    assert stopped.loss_curve_ == whole.loss_curve_[:12]
    assert not [each for each in threading.enumerate() if each.daemon and "fill" in each.name]
    stopped.set_params(warm_start=True).fit()
    assert same_state(state_of(whole), state_of(stopped))


def test_an_error_in_making_batches_comes_out(monkeypatch):
    def broken(self, number):
        raise RuntimeError("no points left")

    monkeypatch.setattr(_batches.FreshSets, "block", broken)
    with pytest.raises(RuntimeError, match="no points left"):
        small().fit()


@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_a_step_is_along_the_slope_of_norm_two_at_most(factor):
    points, answers = make_geometry_dataset("convex_hull", 16, 5, random_state=0)
    network, twin = (widened(PointerNetwork(hidden_size=6)) for _ in range(2))
    for each in (network, twin):
        with torch.no_grad():
            each.v.mul_(factor)
    targets = nn.utils.rnn.pad_sequence(
        [torch.tensor([*(answer + 1).tolist(), 0]) for answer in answers], batch_first=True, padding_value=-1
    )
    loss = twin.loss(torch.from_numpy(np.stack(points)).float(), None, targets)
    loss.backward()
    norm = float(torch.sqrt(sum(each.grad.square().sum() for each in twin.parameters())))
    assert (norm > 2) == (factor > 1)
    solver = small("convex_hull", network=network, optimizer="sgd", learning_rate=0.5, n_steps=1).fit(points, answers)
    assert solver.loss_curve_[0] == pytest.approx(float(loss.detach()), rel=1e-5)
    for found, each in zip(solver.network_.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, each - 0.5 * min(1.0, 2 / norm) * each.grad, rtol=1e-4, atol=1e-6)


def test_own_networks_are_copied():
    network = SequenceToSequence(2, 12, attention=True, max_length=5, random_state=0)
    before = network.output.weight.clone()
    solver = small("convex_hull", network=network, n_steps=30).fit()
    assert torch.equal(network.output.weight, before)
    assert not torch.equal(solver.network_.output.weight, before)
    points, _ = make_geometry_dataset("convex_hull", 5, 6, random_state=0)
    with pytest.raises(ValueError, match="max_length=5"):
        solver.predict(points)
    with pytest.raises(ValueError, match="network is your own"):
        solver.save("nowhere")


def test_beam_width_reaches_the_network_and_order_of_sets_does_not_matter():
    points, _ = make_geometry_dataset("convex_hull", 40, (3, 9), random_state=0)
    solver = small("convex_hull").fit()
    forward, backward = solver.predict(points), solver.predict(points[::-1])[::-1]
    for one, two in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one, two)
    symbols, _ = solver.network_.decode(torch.from_numpy(points[0][None]).float(), method="beam", beam_width=4)
    expected = [each - 1 for each in itertools.takewhile(lambda each: each > 0, symbols[0].tolist())]
    assert forward[0].tolist() == expected


def test_saved_solvers_answer_alike(tmp_path):
    points, _ = make_geometry_dataset("delaunay", 20, (4, 6), random_state=0)
    solver = small("delaunay", n_points=5).fit()
    solver.save(tmp_path / "solver.pt")
    loaded = PointerSolver.load(tmp_path / "solver.pt")
    assert loaded.get_params()["n_points"] == 5
    assert loaded.loss_curve_ == solver.loss_curve_
    for one, two in zip(solver.predict(points), loaded.predict(points), strict=True):
        np.testing.assert_array_equal(one, two)
    (tmp_path / "other.pt").write_bytes(b"something else")
    with pytest.raises(ValueError, match="holds no saved PointerSolver"):
        PointerSolver.load(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError):
        PointerSolver.load(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task": "knapsack"}, ValueError, "task must be one of"),
        ({"n_steps": 0}, ValueError, "n_steps must be at least 1"),
        ({"hidden_size": 2.5}, TypeError, "hidden_size must be an integer"),
        ({"optimizer": "lbfgs"}, ValueError, "optimizer must be one of 'adam', 'sgd'"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be a finite number greater than 0"),
        ({"initialization": "zero"}, ValueError, "initialization must be one of"),
        ({"n_points": (2, 1)}, ValueError, "n_points must go from the least to the most"),
        ({"network": nn.Linear(1, 1)}, TypeError, "network must be a PointerNetwork"),
        ({"network": PointerNetwork(2, 4)}, ValueError, "network must have input_size=1 and terminate=False"),
    ],
)
def test_solvers_name_the_parameter_that_is_wrong(options, error, message):
    with pytest.raises(error, match=message):
        small(**options).fit()


@pytest.mark.parametrize(
    ("task", "X", "y", "error", "message"),
    [
        ("convex_hull", [], None, ValueError, "X must be a sequence of point sets"),
        ("convex_hull", [SQUARE[:2]], None, ValueError, r"X\[0\] must hold 3 points or more, got shape \(2, 2\)"),
        ("convex_hull", [np.ones((4, 3))], None, ValueError, r"X\[0\] must have shape \(n, 2\)"),
        ("convex_hull", [np.full((4, 2), np.nan)], None, ValueError, r"X\[0\] contains NaN"),
        (
            "convex_hull",
            [np.outer(range(4), [1.0, 1])],
            None,
            ValueError,
            r"X\[0\]: the points of a set lie on one",
        ),
        ("delaunay", [np.outer(range(4), [1.0, 1])], None, ValueError, r"X\[0\]: the points of a set lie on one"),
        ("convex_hull", [SQUARE], [], ValueError, "y must hold an answer for each of 1 point sets, got 0"),
        ("convex_hull", [SQUARE], [[0, 4]], ValueError, r"y\[0\] must hold indices from 0 to 3"),
        ("convex_hull", [SQUARE], [[0.5]], TypeError, r"y\[0\] must hold integers"),
        ("delaunay", [SQUARE], [[0, 1, 2]], ValueError, r"y\[0\] must have shape \(m, 3\), got \(3,\)"),
        ("tsp", [SQUARE], [[0, 1, 1, 2]], ValueError, r"y\[0\] must visit each of the points 0 to 3 once"),
        ("sorting", [np.ones((3, 2))], None, ValueError, r"X\[0\] must have shape \(n, 1\)"),
        ("tsp", None, [[0]], ValueError, "y holds answers, but X is None"),
    ],
)
def test_solvers_name_the_point_set_that_is_wrong(task, X, y, error, message):
    with pytest.raises(error, match=message):
        small(task).fit(X, y)


def test_divergence_is_said():
    network = PointerNetwork(1, 4, terminate=False, random_state=0)
    nn.init.constant_(network.v, torch.inf)
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        small(network=network).fit()


def test_command_answers_a_file_and_takes_a_saved_model(tmp_path):
    rng = np.random.default_rng(0)
    np.savetxt(tmp_path / "points.csv", rng.random((6, 2)) * [300, 200] + 50, delimiter=",")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = run(tmp_path / "points.csv", out=tmp_path / "a", task="tsp", train_steps=30, hidden_size=16)
    assert first["ratio_to_exact"] >= 1 - 1e-9
    assert (tmp_path / "a/picture.png").stat().st_size > 5000
    order = np.loadtxt(tmp_path / "a/answer.csv", delimiter=",", skiprows=1, dtype=int)
    assert sorted(order.tolist()) == list(range(6))
    second = run(tmp_path / "points.csv", out=tmp_path / "b", task="tsp", model=tmp_path / "a/model.pt")
    assert second["ratio_to_exact"] == first["ratio_to_exact"]
    assert (tmp_path / "a/answer.csv").read_text() == (tmp_path / "b/answer.csv").read_text()
    json.dumps([first, second])


@pytest.mark.parametrize("task", ["convex_hull", "delaunay", "sorting"])
def test_command_without_a_file(task, tmp_path):
    summary = run(out=tmp_path, task=task, train_steps=10, hidden_size=8)
    assert summary["input"]
    assert (tmp_path / "answer.csv").exists()
    assert (tmp_path / "picture.png").exists()


def test_command_names_what_is_wrong(tmp_path):
    np.save(tmp_path / "three.npy", np.ones((5, 3)))
    np.save(tmp_path / "few.npy", np.random.default_rng(0).random((2, 2)))
    (tmp_path / "model.pt").write_bytes(b"something else")
    np.save(tmp_path / "points.npy", np.random.default_rng(0).random((6, 2)))
    small("convex_hull", n_steps=1).fit().save(tmp_path / "hull.pt")
    for files, options, message in (
        (["three.npy"], {}, "must hold points of 2 coordinates, got 3"),
        (["few.npy"], {"task": "convex_hull"}, "must hold 3 points or more, got 2"),
        (["points.npy", "few.npy"], {}, "one file of points"),
        (["points.npy"], {"model": tmp_path / "model.pt"}, "holds no saved PointerSolver"),
        (["points.npy"], {"model": tmp_path / "none.pt"}, "no such file"),
        (["points.npy"], {"model": tmp_path / "hull.pt", "task": "tsp"}, "was trained for convex_hull, not tsp"),
    ):
        with pytest.raises((InputError, ValueError), match=message):
            run(*(tmp_path / name for name in files), out=tmp_path, train_steps=1, hidden_size=4, **options)
