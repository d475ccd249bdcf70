"""A solver that learns from examples: an estimator over point sets of any size."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from accelerate.utils import broadcast
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from paperworks._progress import progress_bar
from paperworks._random import RandomState, integer_seed
from paperworks._threads import one_thread
from paperworks._training import interrupts_between_steps, start_training
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.combinatorial.pointer_network._batches import Batch, FreshSets, GivenSets, Source, pad, prefetched
from paperworks.combinatorial.pointer_network._encoder_decoder import INITIALIZATIONS, EncoderDecoder, Initialization
from paperworks.combinatorial.pointer_network.geometry import (
    KINDS,
    LARGEST_EXACT_TOUR,
    Indices,
    Points,
    Task,
    as_answer,
    check_range,
    check_tour,
    label,
    tour_length,
)
from paperworks.combinatorial.pointer_network.metrics import (
    check_points,
    convex_hull_metrics,
    delaunay_metrics,
    hull_of,
)
from paperworks.combinatorial.pointer_network.network import PointerNetwork

__all__ = ["PointerSolver"]

LEARNING_RATES = {"adam": 3e-3, "sgd": 1.0}
LARGEST_GRADIENT = 2.0
# Layers of up to so many units are quickest on one thread: more only wait for each other.
SMALL = 128
# Point sets that are decoded at once.
DECODED_AT_ONCE = 1024
ALIGNED = 16


class PointerSolver(BaseEstimator):
    r"""Learn to answer questions about point sets from examples, with a pointer network.

    The network sees points one after another and points at the next one of the answer. It is trained with the true
    answer as its teacher, and answers sets of sizes that it never saw, less well the larger they are. Exact algorithms
    (`scipy.spatial.ConvexHull`, `scipy.spatial.Delaunay`, `held_karp`) are better and quicker at all of these tasks:
    what this shows, and serves for, is learning an answer's form from examples alone.

    Parameters
    ----------
    task : {"convex_hull", "delaunay", "tsp", "sorting"}, default "convex_hull"
        What is asked. Tours and sorted numbers are decoded as permutations; the others are free.
    hidden_size : int, default 256
        Size of the network's states. Up to 128, training on a CPU keeps torch to one thread.
    n_steps : int, default 10000
        Training steps in all, those before a warm start included.
    batch_size : int, default 128
        Point sets of a step.
    optimizer : {"adam", "sgd"}, default "adam"
        The paper takes plain gradient descent with a step of 1; Adam takes far fewer steps.
    learning_rate : float, optional
        Step size; 3e-3 for Adam and 1.0 for gradient descent when None.
    n_points : int or tuple of two ints, default (5, 50)
        Sizes of the sets that are drawn when `fit` is given none. Tours of up to 12 points are then exact, and longer
        ones those of `two_opt`.
    beam_width : int, default 4
        Beginnings that `predict` keeps; 1 is greedy.
    initialization : {"scaled", "uniform", "orthogonal"}, default "scaled"
        How the weights of a new `PointerNetwork` are drawn. With ``"uniform"``, the paper's, small networks take longer
        until they look at the points at all.
    network : PointerNetwork or SequenceToSequence, optional
        What to train, in place of a new `PointerNetwork` of ``hidden_size``; it is copied and stays as it is.
    warm_start : bool, default False
        Whether `fit` goes on from the last step of an earlier one, up to ``n_steps`` in all.
    device : str or torch.device, default "auto"
        Where to train; ``"auto"`` takes a GPU when there is one.
    random_state : None, int, Generator, RandomState or torch.Generator
        Source of the weights and the batches.
    progress : bool, default True
        Whether a bar is shown on a terminal.
    verbose : bool, default False
        Whether the loss is printed every 100 steps.

    Attributes
    ----------
    network_ : PointerNetwork or SequenceToSequence
        The trained network.
    loss_curve_ : list of float
        Loss of every step: nats a symbol.
    n_steps_ : int
        Steps done.

    Raises
    ------
    TypeError
        If a parameter or a point set is of the wrong type.
    ValueError
        If a parameter is out of range, a point set has the wrong shape, too few points, NaN or infinity, or an answer
        does not fit its points.

    Notes
    -----
    An interrupted fit (Ctrl-C) keeps its last complete step; with ``warm_start=True`` and the other parameters
    unchanged, `fit` goes on to exactly what an uninterrupted one gives. Under ``torchrun`` every process draws its own
    batches. Gradients are clipped to a norm of 2.

    References
    ----------
    Oriol Vinyals, Meire Fortunato, Navdeep Jaitly, "Pointer Networks", arXiv 1506.03134.

    Examples
    --------
    >>> from paperworks.combinatorial import PointerSolver, make_geometry_dataset
    >>> solver = PointerSolver("sorting", hidden_size=32, n_steps=150, n_points=(2, 3), random_state=0)
    >>> solver = solver.fit()
    >>> numbers, order = make_geometry_dataset("sorting", 200, (2, 3), random_state=1)
    >>> all(sorted(found) == sorted(true) for found, true in zip(solver.predict(numbers), order))
    True
    >>> solver.loss_curve_[-1] < solver.loss_curve_[0]
    True
    """

    _estimator_checks = {  # noqa: RUF012
        "parameters": {"hidden_size": 8, "n_steps": 2, "n_points": (3, 4), "batch_size": 4},
    }

    def __init__(
        self,
        task: Task = "convex_hull",
        hidden_size: int = 256,
        n_steps: int = 10_000,
        batch_size: int = 128,
        optimizer: Literal["adam", "sgd"] = "adam",
        learning_rate: float | None = None,
        n_points: int | tuple[int, int] = (5, 50),
        beam_width: int = 4,
        initialization: Initialization = "scaled",
        network: EncoderDecoder | None = None,
        warm_start: bool = False,
        device: str | torch.device = "auto",
        random_state: RandomState = None,
        progress: bool = True,
        verbose: bool = False,
    ) -> None:
        self.task = task
        self.hidden_size = hidden_size
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.n_points = n_points
        self.beam_width = beam_width
        self.initialization = initialization
        self.network = network
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.progress = progress
        self.verbose = verbose

    def fit(self, X: Sequence[ArrayLike] | None = None, y: Sequence[ArrayLike] | None = None) -> Self:
        """Train the network.

        Parameters
        ----------
        X : sequence of arrays, (n_i, 2) each, optional
            Point sets to learn from ((n_i, 1) for sorting); new ones are drawn for every step when None.
        y : sequence of arrays of indices, optional
            Their answers, as `make_geometry_dataset` writes them; found exactly when None (tours of more than 20 points
            by `two_opt`).

        Returns
        -------
        Self
            The solver.
        """
        self._check_parameters()
        if X is None and y is not None:
            raise ValueError("y holds answers, but X is None: there are no points to them")
        given = None if X is None else self._examples(X, y)
        if not (self.warm_start and hasattr(self, "network_")):
            self._start()
        self._train(given)
        return self

    def predict(self, X: Sequence[ArrayLike]) -> list[Indices]:
        """Answer.

        Parameters
        ----------
        X : sequence of arrays, (n_i, 2) each
            Point sets of any sizes; (n_i, 1) for sorting.

        Returns
        -------
        list of ndarray
            Answers as indices from 0: corners of the hull in order, triangles as rows of three, a closed tour, or the
            order of the numbers. A hull or a triangulation may be wrong in any way, a tour visits each point once.
        """
        check_is_fitted(self, "network_")
        check_integer("beam_width", self.beam_width)
        sets = self._point_sets(X)
        answers: list[Indices] = [np.empty(0, dtype=np.int64)] * len(sets)
        by_size = np.argsort([len(P) for P in sets], kind="stable")
        with self._threads():
            for start in range(0, len(sets), DECODED_AT_ONCE):
                rows = by_size[start : start + DECODED_AT_ONCE].tolist()
                for row, symbols in zip(rows, self._decode([sets[row] for row in rows]), strict=True):
                    answers[row] = as_answer(self.task, symbols)
        return answers

    def score(self, X: Sequence[ArrayLike], y: Sequence[ArrayLike] | None = None) -> float:
        """How good answers are, at most 1.

        Parameters
        ----------
        X : sequence of arrays, (n_i, 2) each
            Point sets; (n_i, 1) for sorting.
        y : sequence of arrays of indices, optional
            True answers; found as in `fit` when None.

        Returns
        -------
        float
            Hulls and sorting: share of right answers. Triangulations: mean share of the true triangles that are found.
            Tours: mean of the true tour's length over the answer's.
        """
        sets = self._point_sets(X)
        truths = self._truths(sets) if y is None else self._answers(y, sets)
        answers = self.predict(sets)
        if self.task == "convex_hull":
            return convex_hull_metrics(sets, answers).accuracy
        if self.task == "delaunay":
            return delaunay_metrics(sets, answers).coverage
        pairs = list(zip(sets, truths, answers, strict=True))
        if self.task == "sorting":
            return float(np.mean([np.array_equal(truth, answer) for _, truth, answer in pairs]))
        # A single point has a tour of length 0, as any tour of it has.
        lengths = [(tour_length(P, truth), tour_length(P, answer)) for P, truth, answer in pairs]
        return float(np.mean([true / found if found else 1.0 for true, found in lengths]))

    def save(self, path: str | Path) -> None:
        """Write the network and what it was trained for to a file.

        Parameters
        ----------
        path : str or Path
            Where to; ``torch.load`` reads it too.
        """
        check_is_fitted(self, "network_")
        if self.network is not None or not isinstance(self.network_, PointerNetwork):
            raise ValueError("network is your own: save network_.state_dict() with torch.save")
        left_out = ("network", "warm_start", "device", "random_state", "progress", "verbose")
        torch.save(
            {
                "parameters": {name: value for name, value in self.get_params().items() if name not in left_out},
                "network": {name: value.cpu() for name, value in self.network_.state_dict().items()},
                "loss_curve": self.loss_curve_,
            },
            path,
        )

    @classmethod
    def load(cls, path: str | Path) -> "PointerSolver":
        """Read a solver that `save` wrote.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        PointerSolver
            The solver, ready to predict, on the CPU.
        """
        try:
            held = torch.load(path, weights_only=True)
            solver = cls(**held["parameters"])
            solver._check_parameters()
            solver.network_ = solver._new_network(0)
            solver.network_.load_state_dict(held["network"])
            solver.loss_curve_ = list(held["loss_curve"])
        except FileNotFoundError:
            raise
        except Exception as error:
            # torch's reader and unpickler raise many kinds of errors for files that are something else.
            raise ValueError(f"{path}: holds no saved PointerSolver: {str(error).splitlines()[0]}") from None
        return solver

    @property
    def n_steps_(self) -> int:
        """Steps done."""
        check_is_fitted(self, "network_")
        return len(self.loss_curve_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Point sets are no table: scikit-learn's checks of tables don't apply.
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def _check_parameters(self) -> None:
        check_choice("task", self.task, KINDS)
        for name in ("hidden_size", "n_steps", "batch_size", "beam_width"):
            check_integer(name, getattr(self, name))
        check_choice("optimizer", self.optimizer, LEARNING_RATES)
        if self.learning_rate is not None:
            check_number("learning_rate", self.learning_rate, above=0.0)
        check_choice("initialization", self.initialization, INITIALIZATIONS)
        check_range(self.task, self.n_points)
        kind = KINDS[self.task]
        if self.network is None:
            return
        if not isinstance(self.network, EncoderDecoder):
            raise TypeError(f"network must be a PointerNetwork or SequenceToSequence, got {self.network!r}")
        if (self.network.input_size, self.network.terminate) != (kind.dimension, kind.terminate):
            raise ValueError(
                f"network must have input_size={kind.dimension} and terminate={kind.terminate} for {self.task}, got "
                f"input_size={self.network.input_size} and terminate={self.network.terminate}"
            )

    def _new_network(self, seed: int) -> EncoderDecoder:
        kind = KINDS[self.task]
        return PointerNetwork(
            kind.dimension,
            self.hidden_size,
            terminate=kind.terminate,
            initialization=self.initialization,
            random_state=seed,
        )

    def _start(self) -> None:
        self._seed = integer_seed(self.random_state)
        self.network_ = self._new_network(self._seed) if self.network is None else deepcopy(self.network)
        self.loss_curve_: list[float] = []
        self._optimizer_state: dict[str, Any] | None = None

    def _train(self, given: tuple[list[Points], list[Indices]] | None) -> None:
        rate = self.learning_rate or LEARNING_RATES[self.optimizer]
        accelerator, place, _ = start_training(self.device)
        # Every process begins with the first one's weights, and steps by the mean of all slopes: they stay the same.
        with _weights_of(self.network_.to(place)) as (weights, slopes), self._threads():
            with torch.no_grad():
                for weight in weights:
                    weight.copy_(broadcast(weight.detach()))
            kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.SGD
            optimizer = kind(weights, lr=rate, fused=True)
            if self._optimizer_state is not None:
                optimizer.load_state_dict(self._optimizer_state)
            batches = prefetched(self._source(given, accelerator.process_index), self.n_steps_, self.n_steps)
            losses: list[Tensor] = []
            words, total = f"pointer network ({self.task})", max(0, self.n_steps - self.n_steps_)
            try:
                with interrupts_between_steps() as take_interrupt:
                    for batch in progress_bar(batches, words, self.progress, total=total):
                        loss = self.network_.unchecked_loss(*_brought(batch, place))
                        optimizer.zero_grad(set_to_none=False)
                        accelerator.backward(loss)
                        if accelerator.num_processes > 1:
                            for each in slopes:
                                each.copy_(accelerator.reduce(each, "mean"))
                        nn.utils.clip_grad_norm_(weights, LARGEST_GRADIENT)
                        optimizer.step()
                        losses.append(loss.detach())
                        self._tell(losses)
                        take_interrupt()
            finally:
                batches.close()
                self._optimizer_state = optimizer.state_dict()
                # Read at the end, so that no step waits for them.
                self.loss_curve_ += torch.stack(losses).tolist() if losses else []
        if not np.isfinite(self.loss_curve_[-1]):
            raise FloatingPointError("the loss is not finite any more: lower learning_rate")

    def _tell(self, losses: list[Tensor]) -> None:
        step = len(self.loss_curve_) + len(losses)
        if self.verbose and step % 100 == 0:
            print(f"step {step}: loss {float(losses[-1]):.4f}")

    def _source(self, given: tuple[list[Points], list[Indices]] | None, process: int) -> Source:
        if given is None:
            return FreshSets(self.task, self.batch_size, *check_range(self.task, self.n_points), self._seed, process)
        ends = [0] if KINDS[self.task].terminate else []
        targets = [np.append(answer.ravel() + 1, ends).astype(np.int64) for answer in given[1]]
        return GivenSets(given[0], targets, self.batch_size, self._seed, process)

    def _threads(self) -> Any:
        small = hasattr(self, "network_") and self.network_.hidden_size <= SMALL
        return one_thread() if small and self.network_.start.device.type == "cpu" else nullcontext()

    def _decode(self, sets: list[Points]) -> Indices:
        """Symbols (N, m) of point sets."""
        kind, lengths = KINDS[self.task], np.array([len(P) for P in sets])
        place = self.network_.start.device
        symbols, _ = self.network_.decode(
            torch.from_numpy(pad(sets, 0.0)).float().to(place),
            torch.from_numpy(lengths).to(place),
            method="greedy" if self.beam_width == 1 else "beam",
            beam_width=self.beam_width,
            constrain=None if kind.terminate else "permutation",
            max_steps=kind.most_steps(int(lengths.max())),
        )
        return symbols.cpu().numpy()

    def _examples(self, X: Any, y: Any) -> tuple[list[Points], list[Indices]]:
        sets = self._point_sets(X)
        return sets, self._truths(sets) if y is None else self._answers(y, sets)

    def _point_sets(self, X: Any) -> list[Points]:
        check_choice("task", self.task, KINDS)
        kind = KINDS[self.task]
        if isinstance(X, (str, bytes)) or not hasattr(X, "__len__") or not len(X):
            raise ValueError(f"X must be a sequence of point sets that is not empty, got {X!r}")
        return [check_points(f"X[{row}]", P, kind.dimension, kind.least_points) for row, P in enumerate(X)]

    def _truths(self, sets: list[Points]) -> list[Indices]:
        def truth(row: int, P: Points) -> Indices:
            try:
                if self.task == "convex_hull":
                    return hull_of(P)
                solver = "exact" if len(P) <= LARGEST_EXACT_TOUR else "heuristic"
                return as_answer(self.task, label(self.task, P[None], solver)[0])  # type: ignore[arg-type]
            except ValueError as error:
                raise ValueError(f"X[{row}]: {error}") from None

        return [truth(row, P) for row, P in enumerate(sets)]

    def _answers(self, y: Any, sets: list[Points]) -> list[Indices]:
        if len(y) != len(sets):
            raise ValueError(f"y must hold an answer for each of {len(sets)} point sets, got {len(y)}")
        return [self._answer(f"y[{row}]", answer, len(P)) for row, (answer, P) in enumerate(zip(y, sets, strict=True))]

    def _answer(self, name: str, answer: Any, n: int) -> Indices:
        if not KINDS[self.task].terminate:
            return check_tour(name, answer, n)
        array = np.asarray(answer)
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name} must hold integers, got {array.dtype}")
        rows = () if KINDS[self.task].width == 1 else (KINDS[self.task].width,)
        if not array.size or array.ndim != 1 + len(rows) or array.shape[1:] != rows:
            raise ValueError(f"{name} must have shape (m{', 3' if rows else ','}), got {array.shape}")
        if array.min() < 0 or array.max() >= n:
            raise ValueError(f"{name} must hold indices from 0 to {n - 1}, got {array.min()} to {array.max()}")
        return array.astype(np.int64)


def _brought(batch: Batch, place: torch.device) -> Batch:
    points, lengths, targets = batch
    return points.to(place), None if lengths is None else lengths.to(place), targets.to(place)


@contextmanager
def _weights_of(network: nn.Module) -> Iterator[tuple[list[nn.Parameter], list[Tensor]]]:
    """Weights to optimise, and their slopes: on a CPU those of all layers are parts of one vector.

    An optimiser's step is then quick. On a GPU it is anyway, and cuDNN wants the weights where they are.
    """
    parameters = list(network.parameters())
    if parameters[0].is_cuda:
        for each in parameters:
            each.grad = torch.zeros_like(each)
        yield parameters, [each.grad for each in parameters if each.grad is not None]
        return
    # Each part begins where vector instructions like it.
    starts = np.cumsum([0, *(-(-each.numel() // ALIGNED) * ALIGNED for each in parameters)]).tolist()
    vector = nn.Parameter(parameters[0].new_zeros(starts[-1]))
    slopes = vector.grad = torch.zeros_like(vector)
    with torch.no_grad():
        for each, start in zip(parameters, starts, strict=False):
            part = slice(start, start + each.numel())
            vector[part] = each.flatten()
            each.data, each.grad = vector.detach()[part].view_as(each), slopes[part].view_as(each)
    try:
        yield [vector], [slopes]
    finally:
        for each in parameters:
            each.data, each.grad = each.detach().clone(), None
