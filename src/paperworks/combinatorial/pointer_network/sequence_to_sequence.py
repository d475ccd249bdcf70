"""Baselines with a dictionary of fixed length: sequence to sequence, with and without attention."""

from typing import Any

import torch
from torch import Tensor, nn

from paperworks._random import RandomState
from paperworks._validation import check_integer
from paperworks.combinatorial.pointer_network._attention import additive_scores
from paperworks.combinatorial.pointer_network._decoding import NEVER, State
from paperworks.combinatorial.pointer_network._encoder_decoder import EncoderDecoder, Initialization

__all__ = ["SequenceToSequence"]


class SequenceToSequence(EncoderDecoder):
    r"""Map a sequence of points to a sequence of positions out of a dictionary of fixed length.

    The two LSTMs are those of `PointerNetwork`, but the next symbol comes from a linear layer with an output for each
    position up to ``max_length``: of the decoder's state :math:`d_i`, or with attention of :math:`[d_i, d'_i]`, where

    .. math:: d'_i = \sum_j a^i_j e_j, \qquad a^i = \operatorname{softmax}(u^i), \qquad
        u^i_j = v^\top \tanh(W_1 e_j + W_2 d_i).

    Longer inputs can't be answered at all. As a help that the paper does not give them, positions beyond the length of
    the input are ruled out.

    Parameters
    ----------
    input_size : int, default 2
        Size d of a point.
    hidden_size : int, default 256
        Size of the states.
    n_layers : int, default 1
        Layers of both LSTMs.
    attention_size : int, optional
        Rows of W1 and W2; as ``hidden_size`` when None.
    terminate : bool, default True
        Whether there is a symbol for the end.
    attention : bool, default False
        Whether the inputs' states are blended for each symbol.
    max_length : int, default 50
        Number of positions in the dictionary.
    initialization : {"uniform", "scaled", "orthogonal"}, default "uniform"
        As in `PointerNetwork`.
    random_state : None, int, Generator, RandomState or torch.Generator
        Source of the weights.

    Attributes
    ----------
    encoder, decoder : LSTM
        The LSTMs; batches come second.
    output : Linear
        To ``max_length + 1`` scores, the first one for the end.
    W1, W2, v
        Attention, as in `PointerNetwork`; None without it.

    Raises
    ------
    TypeError
        If a size is no integer.
    ValueError
        If a size is less than 1; when called, if there are more points than ``max_length``.

    References
    ----------
    Oriol Vinyals, Meire Fortunato, Navdeep Jaitly, "Pointer Networks", arXiv 1506.03134.

    Examples
    --------
    >>> from typing import Any

    import torch
    >>> from paperworks.combinatorial import SequenceToSequence
    >>> network = SequenceToSequence(hidden_size=16, attention=True, max_length=7, random_state=0)
    >>> points = torch.rand(3, 6, 2, generator=torch.Generator().manual_seed(0))
    >>> network(points, None, torch.tensor([[2, 4, 1, 0]] * 3)).shape
    torch.Size([3, 4, 7])
    """

    def __init__(
        self,
        input_size: int = 2,
        hidden_size: int = 256,
        n_layers: int = 1,
        attention_size: int | None = None,
        terminate: bool = True,
        *,
        attention: bool = False,
        max_length: int = 50,
        initialization: Initialization = "uniform",
        random_state: RandomState = None,
    ) -> None:
        super().__init__(input_size, hidden_size, n_layers, terminate)
        self.attention = bool(attention)
        self.max_length = check_integer("max_length", max_length)
        self.attention_size = hidden_size if attention_size is None else check_integer("attention_size", attention_size)
        self.W1 = nn.Linear(hidden_size, self.attention_size, bias=False, device="meta") if attention else None
        self.W2 = nn.Linear(hidden_size, self.attention_size, bias=False, device="meta") if attention else None
        self.v = nn.Parameter(torch.empty(self.attention_size)) if attention else None
        self.output = nn.Linear(2 * hidden_size if attention else hidden_size, self.max_length + 1, device="meta")
        self.draw_weights(initialization, random_state)

    def memory_of(self, states: Tensor, lengths: Tensor | None) -> tuple[int, Tensor, Tensor, Tensor | None]:
        """Number of positions, the encoder's states, W1 e_j, and where positions (n, B) are padding."""
        n = len(states)
        padding = None if lengths is None else torch.arange(n, device=states.device).unsqueeze(1) >= lengths
        return n, states, states if self.W1 is None else self.W1(states), padding

    def score_states(self, memory: tuple[int, Tensor, Tensor, Tensor | None], states: Tensor) -> Tensor:
        """Scores (m, n + 1, B) of the positions, for the decoder's states (m, B, hidden_size)."""
        n, encoded, keys, padding = memory
        if self.W2 is not None and self.v is not None:
            u = additive_scores(keys, self.W2(states), self.v)
            u = u if padding is None else u.masked_fill(padding, NEVER)
            blended = torch.einsum("mjb,jbh->mbh", u.softmax(dim=1), encoded)
            states = torch.cat([states, blended], dim=-1)
        return self.output(states)[..., : n + 1].transpose(1, 2)

    def remember(self, points: Tensor, lengths: Tensor | None) -> tuple[Any, State]:
        """As `EncoderDecoder.remember`, for as many points as the dictionary has positions."""
        if points.shape[1] > self.max_length:
            raise ValueError(
                f"points must be at most max_length={self.max_length}, as the dictionary has, got {points.shape[1]}"
            )
        return super().remember(points, lengths)
