"""Greedy decoding, sampling and beam search, under constraints, for a batch of sequences at once."""

from typing import Any, Protocol

import torch
from torch import Tensor

State = tuple[Tensor, Tensor]
NEVER = float("-inf")


class Decodable(Protocol):
    """What a network must offer: what it remembers of its inputs, and scores of the next symbol."""

    def remember(self, points: Tensor, lengths: Tensor) -> tuple[Any, State]:
        """Encode; batches come second in what is remembered and in the state."""

    def next_scores(self, memory: Any, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Scores (n_symbols, n_batch, width), and the state, after inputs (n_batch, width, d)."""

    def first_inputs(self, n_batch: int) -> Tensor:
        """Inputs (n_batch, d) of the first step."""


class Constraint:
    """Symbols that may come next.

    Column 0 is the termination. ``"no_repeat"`` forbids points that were emitted; ``"permutation"`` that too, and the
    termination: a sequence ends when it has all points.
    """

    def __init__(self, kind: str | None, terminate: bool, lengths: Tensor, n_points: int, max_steps: int) -> None:
        self.kind, self.terminate, self.lengths, self.n_points, self.max_steps = (
            kind, terminate, lengths, n_points, max_steps,
        )  # fmt: skip
        places = torch.arange(n_points + 1, device=lengths.device)
        self.barred = places > lengths.unsqueeze(-1)
        self.barred[:, 0] = not terminate or kind == "permutation"

    def log_probabilities(self, scores: Tensor, emitted: Tensor, ended: Tensor) -> Tensor:
        """Log-probabilities (n_batch, width, n_symbols): those barred get none, ended sequences only repeat the 0.

        Parameters are scores and emitted (n_batch, width, n_symbols), and ended (n_batch, width).
        """
        barred = self.barred.unsqueeze(1)
        if self.kind is not None:
            barred = barred | emitted
        # A row of which nothing is left has ended: its values are replaced below, and must not be NaN.
        scores = scores.masked_fill(barred & ~ended.unsqueeze(-1), NEVER)
        logs = scores.log_softmax(dim=-1)
        filler = torch.full_like(logs[0, 0], NEVER)
        filler[0] = 0.0
        return torch.where(ended.unsqueeze(-1), filler, logs)

    def ends(self, symbols: Tensor, n_emitted: int) -> Tensor:
        """Whether sequences end with these symbols, (n_batch, width), the n_emitted-th of each."""
        ended = symbols == 0 if self.terminate else torch.zeros_like(symbols, dtype=torch.bool)
        if self.kind == "permutation" or (self.kind == "no_repeat" and not self.terminate):
            ended = ended | (self.lengths.unsqueeze(-1) <= n_emitted)
        return ended


def decode_one_by_one(
    network: Decodable, points: Tensor, constraint: Constraint, generator: torch.Generator | None, greedy: bool
) -> tuple[Tensor, Tensor]:
    """Emit the most probable symbol each time, or draw it.

    Returns
    -------
    indices : Tensor of shape (n_batch, n_steps)
        Symbols.
    log_prob : Tensor of shape (n_batch,)
        Log-probability of each sequence.
    """
    memory, state = network.remember(points, constraint.lengths)
    B = len(points)
    inputs = network.first_inputs(B).unsqueeze(1)
    emitted = torch.zeros(B, 1, constraint.n_points + 1, dtype=torch.bool, device=points.device)
    ended = torch.zeros(B, 1, dtype=torch.bool, device=points.device)
    total = points.new_zeros(B, 1)
    symbols = []
    for step in range(1, constraint.max_steps + 1):
        scores, state = network.next_scores(memory, inputs, state)
        logs = constraint.log_probabilities(scores.permute(1, 2, 0), emitted, ended)
        symbol = logs.argmax(-1) if greedy else _draw(logs, generator)
        total = total + logs.gather(-1, symbol.unsqueeze(-1)).squeeze(-1)
        symbols.append(symbol)
        emitted.scatter_(-1, symbol.unsqueeze(-1), symbol.unsqueeze(-1) > 0)
        ended = ended | constraint.ends(symbol, step)
        if ended.all():
            break
        inputs = inputs_of(points, symbol)
    return torch.cat(symbols, dim=1), total[:, 0]


def beam_search(network: Decodable, points: Tensor, constraint: Constraint, width: int) -> tuple[Tensor, Tensor]:
    """Keep the most probable beginnings, ``width`` of each sequence, and return the best that is left.

    Returns
    -------
    indices : Tensor of shape (n_batch, n_steps)
        Symbols.
    log_prob : Tensor of shape (n_batch,)
        Log-probability of each sequence.
    """
    memory, state = network.remember(points, constraint.lengths)
    B, n_symbols = len(points), constraint.n_points + 1
    inputs = network.first_inputs(B).unsqueeze(1)
    emitted = torch.zeros(B, 1, n_symbols, dtype=torch.bool, device=points.device)
    ended = torch.zeros(B, 1, dtype=torch.bool, device=points.device)
    total = points.new_zeros(B, 1)
    symbols = torch.zeros(B, 1, 0, dtype=torch.int64, device=points.device)
    for step in range(1, constraint.max_steps + 1):
        scores, state = network.next_scores(memory, inputs, state)
        logs = constraint.log_probabilities(scores.permute(1, 2, 0), emitted, ended)
        candidates = (total.unsqueeze(-1) + logs).flatten(1)
        total, chosen = candidates.topk(min(width, candidates.shape[1]), dim=1)
        parent, symbol = chosen // n_symbols, chosen % n_symbols
        symbols = torch.cat([_of_parents(symbols, parent), symbol.unsqueeze(-1)], dim=-1)
        emitted = _of_parents(emitted, parent)
        emitted.scatter_(-1, symbol.unsqueeze(-1), symbol.unsqueeze(-1) > 0)
        # Where fewer beginnings are possible than are kept, the rest are dead and count as ended.
        ended = ended.gather(1, parent) | constraint.ends(symbol, step) | (total == NEVER)
        if ended.all():
            break
        inputs = inputs_of(points, symbol)
        state = (_states_of_parents(state[0], parent), _states_of_parents(state[1], parent))
    return symbols[:, 0], total[:, 0]


def inputs_of(points: Tensor, symbols: Tensor) -> Tensor:
    """Points (n_batch, m, d) that symbols (n_batch, m) stand for; after the end, where none matters, the first one."""
    places = (symbols - 1).clamp(min=0)
    return points.gather(1, places.unsqueeze(-1).expand(-1, -1, points.shape[2]))


def _draw(logs: Tensor, generator: torch.Generator | None) -> Tensor:
    odds = logs.exp().flatten(0, 1)
    if generator is not None and generator.device != odds.device:
        return torch.multinomial(odds.to(generator.device), 1, generator=generator).view(-1, 1).to(odds.device)
    return torch.multinomial(odds, 1, generator=generator).view(-1, 1)


def _of_parents(values: Tensor, parent: Tensor) -> Tensor:
    return values.gather(1, parent.unsqueeze(-1).expand(-1, -1, values.shape[2]))


def _states_of_parents(values: Tensor, parent: Tensor) -> Tensor:
    """Rearrange states (n_layers, n_batch, width, size)."""
    index = parent.unsqueeze(0).unsqueeze(-1).expand(len(values), -1, -1, values.shape[3])
    return values.gather(2, index)
