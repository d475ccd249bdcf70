"""The method as a solver of a user's own problem, with a history and an honest end."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from warnings import catch_warnings, simplefilter, warn

import numpy as np
import torch
from scipy.optimize import OptimizeResult
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from paperworks._progress import progress_bar
from paperworks._random import RandomState, torch_generator
from paperworks._tensors import to_tensors
from paperworks._validation import check_integer, check_number
from paperworks.optimization.target_surrogate._optimizer import InnerOptimizer, TargetSurrogateOptimizer
from paperworks.optimization.target_surrogate._schedules import Schedule
from paperworks.optimization.target_surrogate._surrogates import Metric

MESSAGES = {
    0: "gradient norm {gradient_norm:.3g} is at most tolerance {tolerance:.3g}",
    1: "gradient norm {gradient_norm:.3g} is above tolerance {tolerance:.3g} after max_iter={max_iter} steps",
    2: "gradient norm {gradient_norm:.3g} is above tolerance {tolerance:.3g}, yet no step lowers the surrogate further",
    3: "callback stopped the run at gradient norm {gradient_norm:.3g}",
}


def minimize_target_surrogate(
    model_fun: Callable[..., Tensor],
    loss: Callable[..., Tensor] | None,
    x0: Any,
    *,
    target_gradient: Callable[..., Tensor] | None = None,
    n_rows: int | None = None,
    batch_size: int | None = None,
    step_size: float | None = None,
    smoothness: float | None = None,
    inner_steps: int = 10,
    schedule: Schedule = "constant",
    line_search: bool = False,
    metric: Metric = "euclidean",
    inner_optimizer: InnerOptimizer = "armijo",
    damping: float = 1e-8,
    tolerance: float = 1e-5,
    max_iter: int = 1000,
    callback: Callable[[OptimizeResult], object] | None = None,
    random_state: RandomState = None,
    progress: bool = True,
    verbose: bool = False,
) -> OptimizeResult:
    r"""Minimise a mean loss of a model's outputs, with few gradients of the loss.

    .. math:: \min_x \; h(x) = \frac1n \sum_{i=1}^n \ell_i(f_i(x)),

    by surrogates in the space of the outputs, as of `TargetSurrogateOptimizer`. With ``batch_size`` every step sees the
    next rows of a random order of all.

    Parameters
    ----------
    model_fun : function
        ``model_fun(x)`` returns the outputs f, a tensor of shape (n, m), differentiable in the tensor x. With
        ``batch_size``, ``model_fun(x, indices)`` returns those of the rows at a tensor of indices.
    loss : function or None
        ``loss(outputs)`` or ``loss(outputs, indices)`` returns the losses of the rows, a tensor of shape (n,). May be
        None where ``target_gradient`` is given; ``fun`` is then NaN.
    x0 : array_like or Tensor
        Start, of shape (n_parameters,).
    target_gradient : function, optional
        ``target_gradient(outputs)`` or ``target_gradient(outputs, indices)`` returns the gradients of the rows' losses,
        of shape (n, m) and not divided by n; ``loss`` is differentiated when None.
    n_rows : int, optional
        Number of rows, needed with ``batch_size``.
    batch_size : int, optional
        Rows of a step; all when None.
    step_size, smoothness, inner_steps, schedule, line_search, metric, inner_optimizer, damping
        As of `TargetSurrogateOptimizer`; the exponential schedule ends at ``max_iter``.
    tolerance : float, default 1e-5
        Norm of :math:`\nabla h(x)` to stop at. With batches, a batch whose gradient is as small is followed by a
        gradient of all rows, once a pass at most, which alone can end the run.
    max_iter : int, default 1000
        Steps, each with one target gradient.
    callback : callable, optional
        Called after each step with an OptimizeResult of ``x, fun, nit, gradient_norm``, of which the last two
        belong to the point before the step; StopIteration ends the run.
    random_state : None, int, Generator, RandomState or torch.Generator
        Source of the order of batches.
    progress : bool, default True
        Whether to show a bar.
    verbose : bool, default False
        Whether to print a line a step.

    Returns
    -------
    OptimizeResult
        ``x``, ``fun`` (h at x), ``gradient_norm``, ``nit``, ``n_target_gradients`` (calls, the certificate's included),
        ``n_target_rows`` (rows of all calls), ``n_inner_steps``, ``n_loss_evaluations``, ``success``, ``status``,
        ``message``, and ``history``: arrays ``target_rows, seconds, loss, gradient_norm, step_size`` of each step, of
        the batch before it.

    Raises
    ------
    ValueError
        If ``x0`` holds NaN or infinity, an argument is out of range, or a callable returns a wrong shape.
    TypeError
        If ``x0`` does not hold floating-point numbers, or a callable returns no tensor of floats.
    FloatingPointError
        If outputs, target gradients or losses are NaN or infinite; the message gives the step.

    Warns
    -----
    ConvergenceWarning
        If the gradient at the end is above ``tolerance``.

    References
    ----------
    Jonathan Wilder Lavington, Sharan Vaswani, Reza Babanezhad, Mark Schmidt, Nicolas Le Roux. "Target-based Surrogates
    for Stochastic Optimization". ICML 2023. arXiv:2302.02607.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from paperworks.optimization import minimize_target_surrogate
    >>> t = torch.linspace(0, 1, 20, dtype=torch.float64)
    >>> y = 2.0 * torch.exp(-1.5 * t)
    >>> result = minimize_target_surrogate(
    ...     lambda x: (x[0] * torch.exp(-x[1] * t))[:, None],
    ...     lambda outputs: 0.5 * (outputs[:, 0] - y) ** 2,
    ...     np.ones(2),
    ...     smoothness=1.0,
    ...     inner_steps=100,
    ... )
    >>> result.success, result.x.round(2)
    (True, array([2. , 1.5]))
    """
    (start,), restore = to_tensors(x0=x0, ndim=1)
    _check(model_fun, loss, target_gradient, n_rows, batch_size, tolerance, max_iter)
    x = start.detach().clone().requires_grad_()
    optimizer = TargetSurrogateOptimizer(
        [x],
        step_size=step_size,
        smoothness=smoothness,
        inner_steps=inner_steps,
        schedule=schedule,
        line_search=line_search,
        metric=metric,
        inner_optimizer=inner_optimizer,
        total_steps=max_iter,
        damping=damping,
        inner_tolerance=min(1e-6, tolerance / 10),
    )
    problem = _Problem(model_fun, loss, target_gradient, x, n_rows if batch_size else None)
    batches = _batches(n_rows, batch_size, torch_generator(random_state), x.device)
    record = _Record()
    status, final, since_certified = 1, None, 0
    for iteration in (bar := progress_bar(range(1, max_iter + 1), "target surrogate", progress)):
        before, updates, indices = x.detach().clone(), optimizer.n_inner_steps, next(batches)
        fun = problem.step(optimizer, indices)
        record.add(problem.n_target_rows, fun, optimizer)
        bar.set_postfix(loss=f"{fun:.4g}", gradient=f"{optimizer.gradient_norm:.2e}", refresh=False)
        if verbose:
            print(f"step {iteration}: loss {fun:.6g}, gradient norm {optimizer.gradient_norm:.3g}")
        since_certified += problem.n_last
        if optimizer.gradient_norm <= tolerance and batch_size is None:
            # What was measured is the point before the step, and so that is the answer.
            with torch.no_grad():
                x.copy_(before)
            final = optimizer.gradient_norm
        elif optimizer.gradient_norm <= tolerance and since_certified >= (n_rows or 0):
            since_certified, final = 0, problem.gradient_norm()
        if final is not None and final <= tolerance:
            break
        final = None
        if callback is not None and not _goes_on(callback, x, fun, iteration, optimizer.gradient_norm, restore):
            status = 3
            break
        if batch_size is None and optimizer.n_inner_steps == updates:
            status = 2
            break
    norm = problem.gradient_norm() if final is None else final
    status = 0 if norm <= tolerance else status
    message = MESSAGES[status].format(gradient_norm=norm, tolerance=tolerance, max_iter=max_iter)
    if status in {1, 2}:
        warn(f"not converged: {message}", ConvergenceWarning, stacklevel=2)
    return OptimizeResult(
        x=restore(x.detach().clone()),
        fun=problem.mean_loss(),
        gradient_norm=norm,
        nit=iteration,
        n_target_gradients=problem.n_target_gradients,
        n_target_rows=problem.n_target_rows,
        n_inner_steps=optimizer.n_inner_steps,
        n_loss_evaluations=optimizer.n_loss_evaluations,
        success=status == 0,
        status=status,
        message=message,
        history={name: np.array(entries) for name, entries in record.paths.items()},
    )


def _check(
    model_fun: Any, loss: Any, target_gradient: Any, n_rows: Any, batch_size: Any, tolerance: Any, max_iter: Any
) -> None:
    check_number("tolerance", tolerance, above=0.0)
    check_integer("max_iter", max_iter)
    for name, function in (("model_fun", model_fun), ("loss", loss), ("target_gradient", target_gradient)):
        if not callable(function) and (function is not None or name == "model_fun"):
            raise TypeError(f"{name} must be callable, got {type(function).__name__}")
    if batch_size is not None:
        if n_rows is None:
            raise ValueError("n_rows is needed with batch_size, got None")
        if check_integer("batch_size", batch_size) > check_integer("n_rows", n_rows):
            raise ValueError(f"batch_size must be at most n_rows={n_rows}, got {batch_size}")


def _batches(
    n_rows: int | None, batch_size: int | None, generator: torch.Generator, device: torch.device
) -> Iterator[Tensor | None]:
    """Endless batches of indices, of a new order in every pass; None stands for all rows."""
    while True:
        if n_rows is None or batch_size is None:
            yield None
        else:
            yield from torch.randperm(n_rows, generator=generator).to(device).split(batch_size)


def _goes_on(
    callback: Callable[[OptimizeResult], object],
    x: Tensor,
    fun: float,
    nit: int,
    gradient_norm: float,
    restore: Callable[[Any], Any],
) -> bool:
    try:
        callback(OptimizeResult(x=restore(x.detach().clone()), fun=fun, nit=nit, gradient_norm=gradient_norm))
    except StopIteration:
        return False
    return True


class _Record:
    """What is known of each step, at the batch and the point before it."""

    def __init__(self) -> None:
        names = ("target_rows", "seconds", "loss", "gradient_norm", "step_size")
        self.paths: dict[str, list[float]] = {name: [] for name in names}
        self.begin = perf_counter()

    def add(self, target_rows: int, fun: float, optimizer: TargetSurrogateOptimizer) -> None:
        found = (target_rows, perf_counter() - self.begin, fun, optimizer.gradient_norm, optimizer.current_step_size)
        for path, entry in zip(self.paths.values(), found, strict=True):
            path.append(entry)


@dataclass
class _Problem:
    """The user's functions at x, with a count of the target gradients that were asked for."""

    model_fun: Callable[..., Tensor]
    loss: Callable[..., Tensor] | None
    target_gradient: Callable[..., Tensor] | None
    x: Tensor
    n_rows: int | None
    n_target_gradients: int = 0
    n_target_rows: int = 0
    n_last: int = 0

    def step(self, optimizer: TargetSurrogateOptimizer, indices: Tensor | None) -> float:
        """Take a step on a batch; return its loss before it, NaN where that is not known."""
        forward, target_gradient, loss = self._on(indices)
        rows = indices
        if indices is None and optimizer.metric in {"adam", "diagonal_adagrad"}:
            # The same rows at every step, each of which may have a memory of its own.
            with torch.no_grad():
                rows = torch.arange(len(forward()), device=self.x.device)
        value = optimizer.step(forward, target_gradient, loss=loss, indices=rows)
        return float("nan") if value is None else value

    def gradient_norm(self) -> float:
        """Norm of the gradient of h at x, over all rows, by a step whose inner steps lead nowhere."""
        probe = TargetSurrogateOptimizer([self.x], inner_steps=1, inner_optimizer=lambda x: torch.optim.SGD(x, lr=0.0))
        with catch_warnings():
            # Where the model is random, that was said at the first step.
            simplefilter("ignore", UserWarning)
            self.step(probe, self._all())
        return probe.gradient_norm

    def mean_loss(self) -> float:
        """h at x."""
        forward, _, loss = self._on(self._all())
        with torch.no_grad():
            return float("nan") if loss is None else float(loss(forward()).mean())

    def _all(self) -> Tensor | None:
        return None if self.n_rows is None else torch.arange(self.n_rows, device=self.x.device)

    def _on(self, indices: Tensor | None) -> tuple[Callable[[], Tensor], Any, Any]:
        """The three functions on a batch."""
        at = () if indices is None else (indices,)

        def counted(function: Callable[..., Tensor], outputs: Tensor) -> Tensor:
            self.n_target_gradients += 1
            self.n_last = len(outputs)
            self.n_target_rows += self.n_last
            return function(outputs, *at)

        def loss(outputs: Tensor) -> Tensor:
            assert self.loss is not None
            # The optimizer differentiates just the call whose gradient is the expensive one.
            return counted(self.loss, outputs) if outputs.requires_grad else self.loss(outputs, *at)

        def target_gradient(outputs: Tensor) -> Tensor:
            assert self.target_gradient is not None
            return counted(self.target_gradient, outputs)

        return (
            lambda: self.model_fun(self.x, *at),
            None if self.target_gradient is None else target_gradient,
            None if self.loss is None else loss,
        )
