"""One pass over labelled rows, of which those of a dask array come block by block: what every method needs of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from paperworks._validation import check_finite

Method = Literal["normalized_logistic", "logistic", "batch_perceptron", "normalized_batch_perceptron", "perceptron"]
METHODS = ("normalized_logistic", "logistic", "batch_perceptron", "normalized_batch_perceptron", "perceptron")

# Margins beyond this are weighed by logarithms, as their sigmoids underflow.
FAR = 20.0


@dataclass(frozen=True)
class Rows:
    """Labelled rows, of a tensor, a SciPy CSR matrix or a dask array, with a constant appended or not.

    ``weights`` count rows; their sum stands for the number n of rows.
    """

    matrix: Any
    labels: Tensor
    weights: Tensor | None
    intercept: bool

    @property
    def n_parameters(self) -> int:
        return int(self.matrix.shape[1]) + self.intercept

    @property
    def total(self) -> float:
        return float(len(self.labels) if self.weights is None else self.weights.sum())

    def blocks(self) -> Iterator["Rows"]:
        """All rows at once, or the blocks of a dask array, computed one by one."""
        if not hasattr(self.matrix, "dask"):
            yield self
            return
        first = 0
        for length, block in zip(self.matrix.chunks[0], self.matrix.blocks, strict=True):
            here = slice(first, first + length)
            matrix = torch.from_numpy(check_finite("X", np.ascontiguousarray(block.compute())))
            yield Rows(matrix, self.labels[here], None if self.weights is None else self.weights[here], self.intercept)
            first += length

    def margins(self, theta: Tensor) -> Tensor:
        """y_i a_i' theta."""
        coefficients = theta[:-1] if self.intercept else theta
        scores = self._times(coefficients)
        if self.intercept:
            scores = scores + theta[-1]
        return self.labels * scores

    def sum(self, weights: Tensor) -> Tensor:
        """Sum of w_i y_i a_i."""
        signed = weights * self.labels
        total = self._transposed_times(signed)
        return torch.cat([total, signed.sum()[None]]) if self.intercept else total

    def row(self, index: int) -> Tensor:
        """y_i a_i."""
        picked = torch.zeros_like(self.labels)
        picked[index] = 1.0
        return self.sum(picked)

    def _times(self, vector: Tensor) -> Tensor:
        if isinstance(self.matrix, Tensor):
            return self.matrix @ vector
        return torch.from_numpy(self.matrix @ vector.numpy())

    def _transposed_times(self, vector: Tensor) -> Tensor:
        if isinstance(self.matrix, Tensor):
            return vector @ self.matrix
        return torch.from_numpy(self.matrix.T @ vector.numpy())


@dataclass(frozen=True)
class Pass:
    """What one pass over the rows finds at theta.

    Attributes
    ----------
    direction : Tensor
        The sum of w_i y_i a_i, with the weights of the method, over exp(shift).
    weight : Tensor
        The sum of w_i, over exp(shift).
    shift : Tensor
        Logarithm by which weights are scaled: the largest of log s(-m), lest they underflow far from the boundary.
    least_margin : Tensor
        The smallest margin.
    errors : float
        Margins that are not positive, by weight.
    loss, gradient : Tensor or None
        Sums of the logistic loss and of minus its gradient, where they are recorded.
    """

    direction: Tensor
    weight: Tensor
    shift: Tensor
    least_margin: Tensor
    errors: float
    loss: Tensor | None = None
    gradient: Tensor | None = None


def go_over(rows: Rows, theta: Tensor, method: Method, record: bool, choose: Callable[[Tensor], int] | None) -> Pass:
    """Make one pass over all rows."""
    passes = [_one_block(block, theta, method, record, choose) for block in rows.blocks()]
    if len(passes) == 1:
        return passes[0]
    shift = torch.stack([each.shift for each in passes]).max()
    scales = [torch.exp(each.shift - shift) for each in passes]
    if method == "perceptron":
        # The first block with a mistake has the mistake of the smallest index.
        wrong = [i for i, each in enumerate(passes) if each.errors]
        chosen = wrong if not wrong or choose is None else _by_count(passes, wrong, choose)
        scales = [torch.full_like(shift, float(i in chosen[:1])) for i in range(len(passes))]
    return Pass(
        direction=torch.stack([scale * each.direction for scale, each in zip(scales, passes, strict=True)]).sum(0),
        weight=torch.stack([scale * each.weight for scale, each in zip(scales, passes, strict=True)]).sum(),
        shift=shift,
        least_margin=torch.stack([each.least_margin for each in passes]).min(),
        errors=sum(each.errors for each in passes),
        loss=torch.stack([each.loss for each in passes if each.loss is not None]).sum() if record else None,
        gradient=torch.stack([each.gradient for each in passes if each.gradient is not None]).sum(0)
        if record
        else None,
    )


def _by_count(passes: list[Pass], wrong: list[int], choose: Callable[[Tensor], int]) -> list[int]:
    """Choose a block in proportion to its mistakes."""
    counts = np.cumsum([passes[i].errors for i in wrong])
    return [wrong[int(np.searchsorted(counts, choose(torch.arange(int(counts[-1]))), side="right"))]]


def _one_block(rows: Rows, theta: Tensor, method: Method, record: bool, choose: Callable[[Tensor], int] | None) -> Pass:
    m = rows.margins(theta)
    # Rows without weight are not there.
    present = m if rows.weights is None else torch.where(rows.weights > 0, m, torch.inf)
    least_margin = present.min()
    wrong = present <= 0
    errors = 0.0
    if least_margin <= 0:
        errors = float(wrong.sum() if rows.weights is None else rows.weights[wrong].sum())
    shift = torch.zeros((), dtype=m.dtype, device=m.device)
    if method == "normalized_logistic" and least_margin > FAR:
        log_sigmoid = logsigmoid(-m)
        shift = log_sigmoid.max()
        weights = torch.exp(log_sigmoid - shift)
    elif method in {"normalized_logistic", "logistic"}:
        weights = torch.sigmoid(-m)
    else:
        weights = wrong.to(m.dtype)
    if method == "perceptron" and errors:
        index = _first(wrong) if choose is None else choose(torch.nonzero(wrong)[:, 0])
        direction = rows.row(index)
    else:
        weights = weights if rows.weights is None else weights * rows.weights
        direction = rows.sum(weights)
    loss = gradient = None
    if record:
        counted = torch.ones_like(m) if rows.weights is None else rows.weights
        loss = -(counted * logsigmoid(m)).sum()
        gradient = rows.sum(counted * torch.sigmoid(-m))
    return Pass(direction, weights.sum(), shift, least_margin, errors, loss, gradient)


def _first(wrong: Tensor) -> int:
    return int(wrong.to(torch.int8).argmax())
