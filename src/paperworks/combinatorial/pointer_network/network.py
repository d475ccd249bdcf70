"""The pointer network: attention over the inputs is the output."""

import torch
from torch import Tensor, nn

from paperworks._random import RandomState
from paperworks._validation import check_integer
from paperworks.combinatorial.pointer_network._attention import additive_scores
from paperworks.combinatorial.pointer_network._encoder_decoder import EncoderDecoder, Initialization

__all__ = ["PointerNetwork"]


class PointerNetwork(EncoderDecoder):
    r"""Map a sequence of points to a sequence of their positions.

    An LSTM reads the points :math:`P_1 \dots P_n`, with states :math:`e_j`. A second one goes on from its last state;
    its inputs are a learnt start and then the points that were chosen, :math:`P_{C_{i-1}}`, and its states are
    :math:`d_i`. The next symbol is one of the positions,

    .. math:: u^i_j = v^\top \tanh(W_1 e_j + W_2 d_i), \qquad
        p(C_i = j \mid C_1 \dots C_{i-1}, P) = \operatorname{softmax}_j(u^i),

    so that the dictionary is as long as the input. Position 0, with a learnt state :math:`e_0`, is the end.

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
        Whether there is a symbol for the end. Without one, for outputs of a known length, position 0 has probability 0.
    initialization : {"uniform", "scaled", "orthogonal"}, default "uniform"
        Weights drawn from [-0.08, 0.08] as in the paper; ``"scaled"`` has this bound at 512 units and the more the
        fewer there are, by the square root; ``"orthogonal"`` takes orthogonal matrices for what the LSTMs' states are
        multiplied by.
    random_state : None, int, Generator, RandomState or torch.Generator
        Source of the weights.

    Attributes
    ----------
    encoder, decoder : LSTM
        The LSTMs; batches come second.
    W1, W2 : Linear
        Of shape (attention_size, hidden_size), without bias.
    v : Parameter of shape (attention_size,)
        Weights of the units.
    start : Parameter of shape (input_size,)
        First input of the decoder.
    terminator : Parameter of shape (hidden_size,), or None
        The state e_0 of position 0.

    Raises
    ------
    TypeError
        If a size is no integer.
    ValueError
        If a size is less than 1.

    References
    ----------
    Oriol Vinyals, Meire Fortunato, Navdeep Jaitly, "Pointer Networks", arXiv 1506.03134.

    Examples
    --------
    >>> import torch
    >>> from paperworks.combinatorial import PointerNetwork
    >>> network = PointerNetwork(hidden_size=16, random_state=0)
    >>> points = torch.rand(3, 6, 2, generator=torch.Generator().manual_seed(0))
    >>> lengths = torch.tensor([6, 5, 4])
    >>> targets = torch.tensor([[2, 4, 1, 0], [3, 5, 0, -1], [1, 2, 3, 0]])
    >>> network(points, lengths, targets).shape
    torch.Size([3, 4, 7])
    >>> tours, log_prob = network.decode(points, lengths, method="beam", constrain="permutation")
    >>> tours.sort(dim=1).values.tolist()
    [[1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 3, 4]]
    """

    def __init__(
        self,
        input_size: int = 2,
        hidden_size: int = 256,
        n_layers: int = 1,
        attention_size: int | None = None,
        terminate: bool = True,
        *,
        initialization: Initialization = "uniform",
        random_state: RandomState = None,
    ) -> None:
        super().__init__(input_size, hidden_size, n_layers, terminate)
        self.attention_size = hidden_size if attention_size is None else check_integer("attention_size", attention_size)
        self.W1 = nn.Linear(hidden_size, self.attention_size, bias=False, device="meta")
        self.W2 = nn.Linear(hidden_size, self.attention_size, bias=False, device="meta")
        self.v = nn.Parameter(torch.empty(self.attention_size))
        self.terminator = nn.Parameter(torch.empty(hidden_size)) if terminate else None
        self.draw_weights(initialization, random_state)

    def memory_of(self, states: Tensor, lengths: Tensor | None) -> Tensor:
        """W1 e_j of all positions (n + 1, B, attention_size), or (n, B, attention_size) where none is the end."""
        if self.terminator is not None:
            states = torch.cat([self.terminator.expand(1, states.shape[1], -1), states])
        return self.W1(states)

    def score_states(self, memory: Tensor, states: Tensor) -> Tensor:
        """Scores (m, n + 1, B) of the positions, for the decoder's states (m, B, hidden_size)."""
        scores = additive_scores(memory, self.W2(states), self.v)
        return scores if self.terminate else nn.functional.pad(scores, (0, 0, 1, 0))
