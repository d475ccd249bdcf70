"""Batches to train on: drawn afresh, or from a user's point sets, by the number of a step alone."""

from collections.abc import Generator
from queue import Queue
from threading import Event, Thread
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from paperworks.combinatorial.pointer_network.geometry import (
    KINDS,
    Indices,
    LabelSolver,
    Points,
    Task,
    label,
)

# Fresh tours are exact as long as that takes well under a millisecond each.
LARGEST_FRESH_EXACT_TOUR = 12
Batch = tuple[Tensor, Tensor | None, Tensor]


class Source(Protocol):
    """Where batches come from: points (B, n, d), lengths (B,) or None where all are n, and targets (B, m)."""

    def block(self, number: int) -> list[Batch]:
        """Batches of the steps ``number * len(block)`` and on."""

    @property
    def steps_in_block(self) -> int:
        """Batches of a block."""


class FreshSets:
    """Point sets that are drawn uniformly, all of a batch of one size, so that nothing is padded."""

    steps_in_block = 32

    def __init__(self, task: Task, batch_size: int, least: int, most: int, seed: int, process: int) -> None:
        self.task, self.batch_size, self.least, self.most = task, batch_size, least, most
        self.seed, self.process = seed, process

    def block(self, number: int) -> list[Batch]:
        """Draw and label."""
        rng = np.random.default_rng([self.seed, self.process, number])
        lengths = rng.integers(self.least, self.most + 1, size=self.steps_in_block)
        batches: list[Any] = [None] * self.steps_in_block
        for n in np.unique(lengths).tolist():
            steps = np.flatnonzero(lengths == n)
            points = rng.random((len(steps) * self.batch_size, n, KINDS[self.task].dimension))
            solver: LabelSolver = "exact" if n <= LARGEST_FRESH_EXACT_TOUR else "heuristic"
            targets = label(self.task, points, solver)
            for k, step in enumerate(steps.tolist()):
                rows = slice(k * self.batch_size, (k + 1) * self.batch_size)
                batches[step] = _tensors(points[rows], None, targets[rows])
        return batches


class GivenSets:
    """A user's point sets, an epoch a block; those of about one size come together, and little is padded."""

    def __init__(self, points: list[Points], targets: list[Indices], batch_size: int, seed: int, process: int) -> None:
        self.points, self.targets, self.batch_size = points, targets, min(batch_size, len(points))
        self.seed, self.process = seed, process
        self.steps_in_block = max(1, len(points) // self.batch_size)

    def block(self, number: int) -> list[Batch]:
        """Shuffle, sort by size, cut, and shuffle the pieces."""
        rng = np.random.default_rng([self.seed, self.process, number])
        order = rng.permutation(len(self.points))[: self.steps_in_block * self.batch_size]
        sizes = np.array([len(self.points[row]) for row in order.tolist()])
        pieces = order[np.argsort(sizes, kind="stable")].reshape(self.steps_in_block, self.batch_size)
        return [self._batch(rows) for rows in rng.permutation(pieces).tolist()]

    def _batch(self, rows: list[int]) -> Batch:
        lengths = np.array([len(self.points[row]) for row in rows])
        targets = pad([self.targets[row] for row in rows], -1)
        return _tensors(
            pad([self.points[row] for row in rows], 0.0), None if np.ptp(lengths) == 0 else lengths, targets
        )


def pad(parts: list[Any], filler: float) -> Any:
    """Arrays one above the other, made of one length."""
    whole = np.full((len(parts), max(map(len, parts)), *parts[0].shape[1:]), filler, dtype=parts[0].dtype)
    for row, part in zip(whole, parts, strict=True):
        row[: len(part)] = part
    return whole


def _tensors(points: Any, lengths: Any, targets: Any) -> Batch:
    steps = int((targets >= 0).sum(axis=1).max())
    return (
        torch.from_numpy(points.astype(np.float32)),
        None if lengths is None else torch.from_numpy(lengths),
        torch.from_numpy(np.ascontiguousarray(targets[:, :steps])),
    )


def prefetched(source: Source, first_step: int, last_step: int) -> Generator[Batch]:
    """Batches of some steps, of which a thread makes the next block while one is worked on."""
    blocks: Queue[Any] = Queue(maxsize=1)
    stop = Event()
    first, last = first_step // source.steps_in_block, -(-last_step // source.steps_in_block)

    def fill() -> None:
        for number in range(first, last):
            try:
                made: Any = source.block(number)
            except BaseException as error:  # raised where the batches are asked for
                made = error
            blocks.put(made)
            if stop.is_set() or isinstance(made, BaseException):
                return

    thread = Thread(target=fill, daemon=True)
    thread.start()
    try:
        step = first * source.steps_in_block
        while step < last_step:
            block = blocks.get()
            if isinstance(block, BaseException):
                raise block
            for batch in block:
                if first_step <= step < last_step:
                    yield batch
                step += 1
    finally:
        stop.set()
        while not blocks.empty():
            blocks.get_nowait()
        thread.join()
