"""What pointer networks and their baselines share: two LSTMs, the teacher, the loss and the decoder."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from paperworks._random import RandomState, torch_generator
from paperworks._tensors import check_finite_tensor
from paperworks._validation import check_choice, check_integer, check_shape
from paperworks.combinatorial.pointer_network._decoding import (
    NEVER,
    Constraint,
    State,
    beam_search,
    decode_one_by_one,
    inputs_of,
)

Constrain = Literal["no_repeat", "permutation"] | None
Method = Literal["greedy", "beam", "sample"]
Initialization = Literal["uniform", "scaled", "orthogonal"]
INITIALIZATIONS = ("uniform", "scaled", "orthogonal")
# The paper's bound of uniformly drawn weights, and its number of units.
LARGEST_START, UNITS = 0.08, 512


class EncoderDecoder(nn.Module):
    """An LSTM reads the points, another one, which goes on from its last state, is asked for one symbol after another.

    Batches come second inside (LSTMs are quickest so), and first outside.
    """

    def __init__(self, input_size: int, hidden_size: int, n_layers: int, terminate: bool) -> None:
        super().__init__()
        self.input_size = check_integer("input_size", input_size)
        self.hidden_size = check_integer("hidden_size", hidden_size)
        self.n_layers = check_integer("n_layers", n_layers)
        self.terminate = bool(terminate)
        # Without room for weights yet: else their constructors draw some from the global source.
        self.encoder = nn.LSTM(input_size, hidden_size, n_layers, device="meta")
        self.decoder = nn.LSTM(input_size, hidden_size, n_layers, device="meta")
        self.start = nn.Parameter(torch.empty(input_size))

    @torch.no_grad()
    def draw_weights(self, initialization: Initialization, random_state: RandomState) -> None:
        """Draw all weights uniformly; with ``"orthogonal"`` what states are multiplied by is so, gate by gate."""
        check_choice("initialization", initialization, INITIALIZATIONS)
        # Sums over fewer units are as large when the weights are larger.
        bound = LARGEST_START * (UNITS / self.hidden_size) ** 0.5 if initialization == "scaled" else LARGEST_START
        generator = torch_generator(random_state)
        self.to_empty(device="cpu")
        for parameter in self.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
        if initialization == "orthogonal":
            for lstm in (self.encoder, self.decoder):
                for layer in range(self.n_layers):
                    for gate in getattr(lstm, f"weight_hh_l{layer}").chunk(4):
                        nn.init.orthogonal_(gate, generator=generator)

    def forward(self, points: Tensor, lengths: Tensor | None, targets: Tensor) -> Tensor:
        """Log-probabilities of every symbol at every step, given the true symbols before it.

        Parameters
        ----------
        points : Tensor of shape (B, n, d)
            Inputs, padded with any finite number.
        lengths : Tensor of shape (B,), optional
            How many inputs are true; None means all n.
        targets : Tensor of shape (B, m)
            Symbols: j is input j - 1, 0 the termination, -1 padding.

        Returns
        -------
        Tensor of shape (B, m, n + 1)
            Log-probabilities; positions beyond a true length have -inf.
        """
        lengths = self._check(points, lengths)
        self._check_targets(targets, points, lengths)
        return self.scores(points, lengths, targets).log_softmax(dim=1).permute(2, 0, 1)

    def loss(self, points: Tensor, lengths: Tensor | None, targets: Tensor) -> Tensor:
        """Mean over all symbols of the negative log-probability; padding is left out.

        Parameters
        ----------
        points, lengths, targets
            As in `forward`.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        lengths = self._check(points, lengths)
        self._check_targets(targets, points, lengths)
        return self.unchecked_loss(points, lengths, targets)

    def unchecked_loss(self, points: Tensor, lengths: Tensor | None, targets: Tensor) -> Tensor:
        """`loss` for batches that are known to be right."""
        return nn.functional.cross_entropy(self.scores(points, lengths, targets), targets.T, ignore_index=-1)

    @torch.no_grad()
    def decode(
        self,
        points: Tensor,
        lengths: Tensor | None = None,
        *,
        method: Method = "greedy",
        beam_width: int = 4,
        constrain: Constrain = None,
        max_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Emit symbols for a batch of inputs.

        Parameters
        ----------
        points : Tensor of shape (B, n, d)
            Inputs, padded with any finite number.
        lengths : Tensor of shape (B,), optional
            How many inputs are true; None means all n.
        method : {"greedy", "beam", "sample"}, default "greedy"
            The most probable symbol each time, a beam search for the most probable sequence, or a random draw. A narrow
            beam may lose the greedy sequence on its way, and end below it.
        beam_width : int, default 4
            Beginnings that a beam search keeps.
        constrain : {None, "no_repeat", "permutation"}, default None
            ``"no_repeat"`` never emits an input twice; ``"permutation"`` emits each input once, and no termination.
            What is forbidden is taken out before the softmax.
        max_steps : int, optional
            Most symbols to emit. By default one for each input, and one for the termination if there can be one.
        generator : torch.Generator, optional
            Source of a random draw.

        Returns
        -------
        indices : Tensor of shape (B, n_steps)
            Symbols: j is input j - 1, 0 the termination and what follows it.
        log_prob : Tensor of shape (B,)
            Log-probability of each sequence.
        """
        lengths = self._check(points, lengths)
        check_choice("method", method, ("greedy", "beam", "sample"))
        check_choice("constrain", constrain, (None, "no_repeat", "permutation"))
        check_integer("beam_width", beam_width)
        n = points.shape[1]
        if max_steps is None:
            max_steps = n if constrain == "permutation" or not self.terminate else n + 1
        if lengths is None:
            lengths = torch.full((len(points),), n, device=points.device)
        constraint = Constraint(constrain, self.terminate, lengths, n, check_integer("max_steps", max_steps))
        if method == "beam":
            return beam_search(self, points, constraint, beam_width)
        return decode_one_by_one(self, points, constraint, generator, greedy=method == "greedy")

    def scores(self, points: Tensor, lengths: Tensor | None, targets: Tensor) -> Tensor:
        """Scores (m, n + 1, B) before the softmax; -inf for what can't be a symbol."""
        memory, state = self.remember(points, lengths)
        given = torch.cat([self.first_inputs(len(points)).unsqueeze(1), inputs_of(points, targets[:, :-1])], dim=1)
        states, _ = self.decoder(given.transpose(0, 1).contiguous(), state)
        scores = self.score_states(memory, states)
        if lengths is not None:
            scores = scores.masked_fill(_beyond(scores, lengths), NEVER)
        if not self.terminate:
            scores = scores.masked_fill(torch.arange(scores.shape[1], device=scores.device)[:, None] == 0, NEVER)
        return scores

    def remember(self, points: Tensor, lengths: Tensor | None) -> tuple[Any, State]:
        """What the decoder looks at, and the encoder's state at the true ends, (n_layers, B, hidden_size)."""
        inputs = points.transpose(0, 1).contiguous()
        # Packing is slow: it is left where all are of one length.
        if lengths is None or bool((lengths == len(inputs)).all()):
            states, state = self.encoder(inputs)
        else:
            packed = nn.utils.rnn.pack_padded_sequence(inputs, lengths.cpu(), enforce_sorted=False)
            packed, state = self.encoder(packed)
            states, _ = nn.utils.rnn.pad_packed_sequence(packed, total_length=len(inputs))
        return self.memory_of(states, lengths), state

    def first_inputs(self, n_batch: int) -> Tensor:
        """The learnt input of the decoder's first step, (n_batch, d)."""
        return self.start.expand(n_batch, -1)

    def next_scores(self, memory: Any, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Scores (n + 1, B, width) of the next symbol after inputs (B, width, d), and the state after them."""
        B, width, d = inputs.shape
        # At the first step every beginning has the encoder's state.
        flat = tuple(each.reshape(self.n_layers, B * width, -1).contiguous() for each in state)
        states, (h, c) = self.decoder(inputs.reshape(1, B * width, d), flat)
        scores = self.score_states(memory, states.view(B, width, -1).transpose(0, 1))
        shape = (self.n_layers, B, width, -1)
        return scores.permute(1, 2, 0), (h.view(shape), c.view(shape))

    def memory_of(self, states: Tensor, lengths: Tensor | None) -> Any:
        """What is computed once of the encoder's states (n, B, hidden_size)."""
        raise RuntimeError(f"{type(self).__name__} does not say what it remembers")

    def score_states(self, memory: Any, states: Tensor) -> Tensor:
        """Scores (m, n + 1, B) of the symbols, for the decoder's states (m, B, hidden_size)."""
        raise RuntimeError(f"{type(self).__name__} does not say how it scores")

    def _check(self, points: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Return lengths on the device of the points, after a look at both."""
        if not isinstance(points, Tensor) or points.dtype != self.start.dtype:
            got = str(points.dtype).removeprefix("torch.") if isinstance(points, Tensor) else type(points).__name__
            raise TypeError(f"points must be a Tensor of {str(self.start.dtype).removeprefix('torch.')}, got {got}")
        check_shape("points", tuple(points.shape), ndim=3)
        if points.shape[2] != self.input_size:
            raise ValueError(f"points must have shape (B, n, {self.input_size}), got {tuple(points.shape)}")
        check_finite_tensor("points", points)
        if lengths is None:
            return None
        if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise TypeError(f"lengths must be a Tensor of integers, got {getattr(lengths, 'dtype', type(lengths))}")
        if lengths.shape != points.shape[:1]:
            raise ValueError(f"lengths must have shape ({len(points)},), got {tuple(lengths.shape)}")
        if int(lengths.min()) < 1 or int(lengths.max()) > points.shape[1]:
            found = f"{int(lengths.min())} to {int(lengths.max())}"
            raise ValueError(f"lengths must lie between 1 and {points.shape[1]}, got {found}")
        return lengths.to(points.device)

    def _check_targets(self, targets: Tensor, points: Tensor, lengths: Tensor | None) -> None:
        if not isinstance(targets, Tensor) or targets.dtype != torch.int64:
            raise TypeError(f"targets must be a Tensor of int64, got {getattr(targets, 'dtype', type(targets))}")
        check_shape("targets", tuple(targets.shape), ndim=2)
        if len(targets) != len(points):
            raise ValueError(f"targets must have {len(points)} rows as points has, got {len(targets)}")
        most = torch.full_like(targets[:, 0], points.shape[1]) if lengths is None else lengths
        least = -1 if self.terminate else 1
        wrong = (targets > most.unsqueeze(1)) | ((targets < least) & (targets != -1))
        if wrong.any():
            row, step = (int(each) for each in torch.nonzero(wrong)[0])
            raise ValueError(
                f"targets must be {'0, ' if self.terminate else ''}-1 or the number of an input, 1 to "
                f"{int(most[row])}, got {int(targets[row, step])} at {row, step}"
            )


def _beyond(scores: Tensor, lengths: Tensor) -> Tensor:
    """Where positions (n + 1, B) are no inputs."""
    return torch.arange(scores.shape[1], device=scores.device).unsqueeze(1) > lengths
