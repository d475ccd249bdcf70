"""A small transformer that learns the indirect-object task in seconds."""

import math
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from paperworks._progress import progress_bar
from paperworks._random import RandomState, integer_seed, numpy_generator
from paperworks._training import interrupts_between_steps, start_training
from paperworks._validation import check_integer, check_number
from paperworks.sparse.sparse_autoencoder_evaluation._indirect_object import indirect_object_prompts

LENGTH = 9
JOINTS = 3


class IndirectObjectTransformer(nn.Module):
    """Decoder-only transformer over names, filler words and "and", "gave", "to".

    Residual blocks of attention and a perceptron with layer normalisation before each, as in GPT-2. The heads of layer
    l stand side by side in what goes into the module ``layers.{l}.attention.projection``.

    Parameters
    ----------
    n_names : int, default 32
        Names, at least 4.
    n_fillers : int, default 16
        Filler words.
    dim : int, default 64
        Width; a multiple of ``n_heads``.
    n_layers : int, default 2
        Layers.
    n_heads : int, default 4
        Heads of a layer.
    random_state : None, int, Generator or RandomState, optional
        Where the initial weights come from.

    Raises
    ------
    TypeError
        If a size is no integer.
    ValueError
        If a size is out of range.

    References
    ----------
    Aleksandar Makelov, George Lange, Neel Nanda. "Towards Principled Evaluations of Sparse Autoencoders for
    Interpretability and Control". ICLR 2025. arXiv:2405.08366.

    Examples
    --------
    >>> from paperworks.sparse import IndirectObjectTransformer, indirect_object_prompts
    >>> model = IndirectObjectTransformer(random_state=0)
    >>> model(**indirect_object_prompts(5, random_state=0).inputs).shape
    torch.Size([5, 9, 51])
    """

    def __init__(
        self,
        n_names: int = 32,
        n_fillers: int = 16,
        dim: int = 64,
        n_layers: int = 2,
        n_heads: int = 4,
        random_state: RandomState = None,
    ) -> None:
        super().__init__()
        self.n_names = check_integer("n_names", n_names, at_least=4)
        self.n_fillers = check_integer("n_fillers", n_fillers)
        check_integer("n_layers", n_layers)
        if check_integer("dim", dim) % check_integer("n_heads", n_heads):
            raise ValueError(f"dim must be a multiple of n_heads={n_heads}, got {dim}")
        self.config = SimpleNamespace(num_attention_heads=n_heads, num_hidden_layers=n_layers)
        n_tokens = n_names + n_fillers + JOINTS
        # Layers draw their weights from the global generator, which is put back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(integer_seed(random_state))
            self.tokens = nn.Embedding(n_tokens, dim)
            self.positions = nn.Embedding(LENGTH, dim)
            self.layers = nn.ModuleList([_Block(dim, n_heads) for _ in range(n_layers)])
            self.norm = nn.LayerNorm(dim)
            self.unembedding = nn.Linear(dim, n_tokens)
            for embedding in (self.tokens, self.positions):
                nn.init.normal_(embedding.weight, std=1 / math.sqrt(dim))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Predict the next token at each position.

        Parameters
        ----------
        input_ids : Tensor of shape (n, 9)
            Tokens.

        Returns
        -------
        Tensor of shape (n, 9, n_tokens)
            Logits.
        """
        x = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.unembedding(self.norm(x))


class _Block(nn.Module):
    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.attention_norm, self.perceptron_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = _Attention(dim, n_heads)
        self.perceptron = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.perceptron(self.perceptron_norm(x))


class _Attention(nn.Module):
    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, length, dim = x.shape
        split = self.query_key_value(x).reshape(n, length, 3, self.n_heads, dim // self.n_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        heads = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.projection(heads.transpose(1, 2).reshape(n, length, dim))


def train_indirect_object_transformer(
    model: IndirectObjectTransformer,
    steps: int = 1500,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    random_state: RandomState = None,
    progress: bool = True,
    *,
    device: str | torch.device = "auto",
) -> dict[str, list[float]]:
    """Train the small transformer to name the indirect object, in place, on prompts drawn as it goes.

    It goes on from the weights that the model has, so that a second call resumes what Ctrl-C has ended. Ctrl-C takes
    effect between two steps.

    Parameters
    ----------
    model : IndirectObjectTransformer
        What to train. It stays where training put it.
    steps : int, default 1500
        Training steps.
    batch_size : int, default 256
        Prompts in a step.
    learning_rate : float, default 3e-3
        Largest step size of Adam; it rises over a twentieth of the steps and falls to zero along a cosine.
    random_state : None, int, Generator or RandomState, optional
        Where the prompts come from.
    progress : bool, default True
        Show a bar.
    device : str or torch.device, default "auto"
        ``"auto"`` takes a GPU where there is one.

    Returns
    -------
    dict of str to list of float
        ``"loss"`` and ``"accuracy"`` of each step's prompts.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If an argument is out of range.

    References
    ----------
    Aleksandar Makelov, George Lange, Neel Nanda. "Towards Principled Evaluations of Sparse Autoencoders for
    Interpretability and Control". ICLR 2025. arXiv:2405.08366.

    Examples
    --------
    >>> from paperworks.sparse import IndirectObjectTransformer, train_indirect_object_transformer
    >>> model = IndirectObjectTransformer(n_names=4, dim=16, random_state=0)
    >>> history = train_indirect_object_transformer(model, 100, batch_size=64, random_state=0, progress=False)
    >>> history["loss"][-1] < history["loss"][0]
    True
    """
    if not isinstance(model, IndirectObjectTransformer):
        raise TypeError(f"model must be an IndirectObjectTransformer, got {type(model).__name__}")
    check_integer("steps", steps)
    check_integer("batch_size", batch_size)
    check_number("learning_rate", learning_rate, above=0)
    adam = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, learning_rate, total_steps=steps + 1, pct_start=0.05)
    accelerator, place, (prepared, optimizer) = start_training(device, model, adam)
    generator = numpy_generator(
        None if random_state is None else integer_seed(random_state) + accelerator.process_index
    )
    found: list[Tensor] = []
    was_training = model.training
    model.train()
    try:
        with interrupts_between_steps() as take_interrupt:
            for _ in progress_bar(range(steps), "transformer", progress):
                prompts = indirect_object_prompts(
                    batch_size, n_names=model.n_names, n_fillers=model.n_fillers, random_state=generator
                )
                right = torch.from_numpy(prompts.attributes["io"]).to(place)
                logits = prepared(prompts.inputs["input_ids"].to(place))[:, -1]
                loss = nn.functional.cross_entropy(logits, right)
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()
                found.append(torch.stack([loss.detach(), (logits.argmax(dim=1) == right).float().mean()]))
                take_interrupt()
    finally:
        model.train(was_training)
    losses, accuracies = torch.stack(found).T.tolist()
    return {"loss": losses, "accuracy": accuracies}
