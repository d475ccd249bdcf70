"""Blockwise variance-reduced bilevel optimisation: the common loop of both versions, and the baseline RSVRB."""

from collections.abc import Callable
from contextlib import nullcontext
from time import perf_counter
from typing import Any, Literal
from warnings import warn

import numpy as np
import torch
from scipy.optimize import OptimizeResult
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from paperworks._progress import progress_bar
from paperworks._random import RandomState, numpy_generator
from paperworks._tensors import to_tensors
from paperworks._threads import one_blas_thread
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.optimization.blockwise_bilevel._estimators import Gamma, check_alpha, weight_of_correction
from paperworks.optimization.blockwise_bilevel._steps import (
    LIMIT,
    HessianInverse,
    HessianVector,
    Randomized,
    Sample,
    Steps,
)
from paperworks.optimization.blockwise_bilevel._upper import DenseUpper, SamplewiseUpper

Method = Literal["v1", "v2", "rsvrb"]
METHODS = {"v1": HessianInverse, "v2": HessianVector, "rsvrb": Randomized}
NEEDED = {"v1": ("lower_hessian",), "v2": ("lower_hessian_vector",), "rsvrb": ("lower_hessian",)}
# The corrected lower steps are stable up to about this product of step size, gamma and curvature.
STABLE = 1.25
# Lower dimensions up to which threads cost more than they save.
SMALL = 256
# Blocks and samples from which the curvature of the lower level is estimated.
PROBED_BLOCKS, PROBED_SAMPLES = 8, 256


def minimize_blockwise_bilevel(
    problem: Any,
    x0: Any,
    y0: Any,
    *,
    method: Method = "v2",
    blocks_per_step: int = 10,
    batch_size: int = 32,
    upper_lr: float = 1e-3,
    lower_lr: float = 0.05,
    linear_lr: float | None = None,
    alpha: float = 0.1,
    gamma: Gamma = "theory",
    beta: float = 0.9,
    vector_bound: float = 10.0,
    hessian_floor: float | None = None,
    hessian_bound: float = np.inf,
    n_steps: int = 1000,
    halfway_decay: float = 1.0,
    tol: float = 0.0,
    record_every: int | None = None,
    random_state: RandomState = None,
    callback: Callable[[OptimizeResult], Any] | None = None,
    progress: bool = False,
) -> OptimizeResult:
    r"""Minimise the mean over blocks of upper losses at the solutions of lower problems, a few blocks a step.

    .. math:: \min_x F(x) = \frac1m \sum_i f_i(x, y_i^*(x)), \qquad y_i^*(x) = \operatorname{argmin}_y g_i(x, y), \qquad
        \nabla F = \frac1m \sum_i \nabla_x f_i - \nabla_{xy} g_i v_i^*, \quad
        v_i^* = (\nabla_{yy} g_i)^{-1} \nabla_y f_i.

    Each step draws I blocks and B samples of each, moves the estimates of the sampled blocks by `msvr_update`, the
    lower solutions y along theirs, and x along a STORM estimate of the gradient.

    ``"v1"`` tracks Hessians, for lower problems of few dimensions, and moves all blocks along estimates old and new.
    ``"v2"`` tracks gradients of :math:`v^\top \nabla_{yy} g_i v / 2 - v^\top \nabla_y f_i` by Hessian-vector products
    alone, and moves the sampled blocks by as many steps as they have missed. ``"rsvrb"`` is the method before them,
    which scales the estimates of sampled blocks by m / I and shrinks the others.

    Parameters
    ----------
    problem : BlockwiseBilevel
        The problem, or an object with the same attributes.
    x0 : array_like or Tensor
        Start of the upper variable, of shape (dx,).
    y0 : array_like or Tensor
        Start of the lower variables, of shape (m, dy). Arrays or tensors, the callables get what x0 and y0 are.
    method : {"v1", "v2", "rsvrb"}, default "v2"
        Which algorithm.
    blocks_per_step : int, default 10
        I, at most m.
    batch_size : int, default 32
        B, of the lower level and of the upper one.
    upper_lr : float, default 1e-3
        Step size of x.
    lower_lr : float or array_like, default 0.05
        Step size of y; an array of shape (m,) holds one a block. It is lowered, with a warning, where its product with
        gamma and the lower curvature is unstable.
    linear_lr : float or array_like, optional
        Step size of v in ``"v2"``; that of y if not given.
    alpha : float, default 0.1
        Weight of a new sample in the blocks' estimates.
    gamma : {"theory"} or float, default "theory"
        Weight of their correction; the authors' code has alpha = 0.9 with gamma = 1.
    beta : float, default 0.9
        Weight of a new sample in the estimate of the upper gradient, in (0, 1]; in ``"rsvrb"`` in all estimates.
    vector_bound : float, default 10
        Radius of the ball that v is kept in.
    hessian_floor : float, optional
        Least eigenvalue that an estimated Hessian is given in ``"v1"`` and ``"rsvrb"``; half of the least that is seen
        at the start, if not given.
    hessian_bound : float, default infinity
        Largest eigenvalue that it is given.
    n_steps : int, default 1000
        Steps.
    halfway_decay : float, default 1
        Factor of all step sizes in the second half; the authors offer 0.1.
    tol : float, default 0
        Norm of the estimated upper gradient, averaged over ``record_every`` steps, at which to stop; 0 makes all steps.
    record_every : int, optional
        Steps between entries of the history, a hundredth of all if not given.
    random_state : None, int, Generator or RandomState
        Source of blocks and samples.
    callback : callable, optional
        Called after each step with an OptimizeResult of ``x``, ``lower_solution``, ``nit`` and ``n_samples``, none of
        them to be written to. StopIteration from it ends the run.
    progress : bool, default False
        Whether to show a bar of steps.

    Returns
    -------
    OptimizeResult
        ``x`` of shape (dx,); ``lower_solution`` of shape (m, dy); ``linear_solution`` v of shape (m, dy), of ``"v2"``;
        ``gradient_estimate`` z of x's shape; ``n_samples``, those drawn of both levels; ``nit``; ``success``, whether
        ``tol`` was met, or all steps made where it is 0; ``status``, 0 if so, 1 if not, 3 for the callback;
        ``message``; and ``history``, a dictionary of ``step, n_samples, seconds, gradient_norm``.

    Raises
    ------
    ValueError
        If a parameter is out of its range, shapes do not match, or the problem lacks a callable that the method needs.
    TypeError
        If x0 or y0 do not hold floating-point numbers.
    FloatingPointError
        If a callable returns NaN or infinity, or the iteration diverges; step and culprit are named.

    References
    ----------
    Quanqi Hu, Zi-Hao Qiu, Zhishuai Guo, Lijun Zhang, Tianbao Yang. "Blockwise Stochastic Variance-Reduced Methods with
    Parallel Speedup for Multi-Block Bilevel Optimization". ICML 2023. arXiv:2305.18730. The baseline: Zhishuai Guo,
    Quanqi Hu, Lijun Zhang, Tianbao Yang. "Randomized Stochastic Variance-Reduced Methods for Multi-Task Stochastic
    Bilevel Optimization". 2021. arXiv:2105.02266.

    Examples
    --------
    Three targets that a common x is to meet through y = x: their mean.

    >>> import numpy as np
    >>> from paperworks.optimization import BlockwiseBilevel, minimize_blockwise_bilevel
    >>> targets = np.array([[0.0], [1.0], [5.0]])
    >>> problem = BlockwiseBilevel(
    ...     lower_gradient=lambda x, y, blocks, batch: y - x,
    ...     upper_gradients=lambda x, y, blocks, batch: (0 * x, y - targets[blocks]),
    ...     mixed_vector=lambda x, y, v, blocks, batch: -v.sum(0),
    ...     lower_hessian_vector=lambda x, y, v, blocks, batch: v,
    ...     n_samples=1,
    ... )
    >>> found = minimize_blockwise_bilevel(
    ...     problem, np.zeros(1), np.zeros((3, 1)), blocks_per_step=2, batch_size=1, upper_lr=0.02, lower_lr=0.5,
    ...     beta=0.1, random_state=0,
    ... )
    >>> bool(abs(found.x[0] - targets.mean()) < 0.2), found.n_samples
    (True, 4000)
    """
    check_choice("method", method, tuple(METHODS))
    starts, restore = to_tensors(x0=x0, y0=y0)
    if starts[0].ndim != 1 or starts[1].ndim != 2:
        raise ValueError(
            "x0 must have shape (dx,) and y0 (m, dy), got {} and {}".format(*(tuple(s.shape) for s in starts))
        )
    _check_problem(problem, method)
    tensors = isinstance(x0, Tensor) or isinstance(y0, Tensor) or getattr(problem, "tensors", False)
    x, y = (_own(start, tensors) for start in starts)
    m = len(y)
    blocks_per_step, batch_size = _check_sizes(blocks_per_step, batch_size, m)
    alpha = check_alpha(alpha, gamma)
    beta = check_number("beta", beta, above=0.0, at_most=1.0)
    correction = 0.0 if method == "rsvrb" else weight_of_correction(gamma, m, blocks_per_step, alpha)
    n_steps = check_integer("n_steps", n_steps)
    record_every = check_integer("record_every", record_every) if record_every else max(1, n_steps // 100)
    tol = check_number("tol", tol, at_least=0.0)
    draw = _Draws(problem, m, blocks_per_step, batch_size, numpy_generator(random_state), x if tensors else None)
    lower_step = _step_sizes("lower_lr", lower_lr, y)
    linear_step = lower_step if linear_lr is None else _step_sizes("linear_lr", linear_lr, y)
    if method == "rsvrb":
        settings: dict[str, Any] = {"beta": beta, "draw": draw}
    else:
        largest = _largest_curvature(problem, x, y, draw)
        lower_step = _stable(lower_step, "lower_lr", correction * largest)
        settings = {"alpha": alpha, "gamma": correction}
    if method == "v2":
        linear_step = _stable(linear_step, "linear_lr", correction * largest) if linear_lr is not None else lower_step
        settings |= {"linear_lr": linear_step, "radius": check_number("vector_bound", vector_bound, above=0.0)}
    else:
        floor = _floor(hessian_floor, problem, x, y, draw)
        if not hessian_bound >= floor:
            raise ValueError(f"hessian_bound must be at least hessian_floor, {floor:g}, got {hessian_bound!r}")
        settings |= {"floor": floor, "bound": float(hessian_bound)}
    lazy = getattr(problem, "samplewise", False)
    if lazy and (tensors or method == "rsvrb"):
        raise ValueError("a samplewise problem takes arrays x0 and y0, and method 'v1' or 'v2'")
    upper = SamplewiseUpper(x, beta) if lazy else DenseUpper(x, beta)
    steps: Steps = METHODS[method](problem, y, lower_lr=lower_step, **settings)
    upper_lr = check_number("upper_lr", upper_lr, above=0.0)
    decay = check_number("halfway_decay", halfway_decay, above=0.0, at_most=1.0)

    small = y.shape[1] <= SMALL
    history: dict[str, list[float]] = {"step": [], "n_samples": [], "seconds": [], "gradient_norm": []}
    begin, recent, met, stopped, taken = perf_counter(), 0.0, False, False, 0
    for t in progress_bar(range(n_steps), "blockwise bilevel", progress):
        rate = decay if 2 * t >= n_steps else 1.0
        sample = draw()
        point, last = upper.read(sample.batch)
        with one_blas_thread() if small else nullcontext():
            new, old = steps.advance(t, point, last, sample, rate)
        norm = upper.step(new / blocks_per_step, old / blocks_per_step, sample.batch, upper_lr * rate)
        if not norm < LIMIT:
            raise FloatingPointError(
                f"diverged at step {t}: the norm of the estimated upper gradient is {norm:.3g}; a smaller upper_lr may "
                "help"
            )
        recent += norm
        taken = t + 1
        if callback is not None:
            seen = OptimizeResult(x=upper.current(), lower_solution=steps.y, nit=taken, n_samples=draw.n_samples)
            try:
                callback(seen)
            except StopIteration:
                stopped = True
        if taken % record_every == 0 or taken == n_steps or stopped:
            mean = recent / ((taken - 1) % record_every + 1)
            recent = 0.0
            values = (taken, draw.n_samples, perf_counter() - begin, mean)
            for path, value in zip(history.values(), values, strict=True):
                path.append(value)
            met = tol > 0 and mean <= tol
        if stopped or met:
            break
    status = 3 if stopped else 0 if met or not tol else 1
    if status == 1:
        warn(
            f"minimize_blockwise_bilevel: norm {history['gradient_norm'][-1]:.3g} of the estimated gradient after "
            f"n_steps={n_steps}, above tol={tol:g}",
            ConvergenceWarning,
            stacklevel=2,
        )
    result = OptimizeResult(
        x=restore(torch.as_tensor(upper.current())),
        lower_solution=restore(torch.as_tensor(steps.y)),
        gradient_estimate=restore(torch.as_tensor(upper.z)),
        n_samples=draw.n_samples,
        nit=taken,
        success=status == 0,
        status=status,
        message=_message(status, tol),
        history={name: np.array(path) for name, path in history.items()},
    )
    if isinstance(steps, HessianVector):
        result.linear_solution = restore(torch.as_tensor(steps.v))
    return result


def _own(start: Tensor, tensors: bool) -> Any:
    """A copy of our own, as the problem wants it."""
    return start.detach().clone() if tensors else start.numpy().copy()


def _message(status: int, tol: float) -> str:
    if status == 3:
        return "stopped by the callback"
    if status == 1:
        return "the estimated gradient is still above tol"
    return "the estimated gradient is within tol" if tol else "all steps were made; convergence was not tested"


class _Draws:
    """Blocks without repetition, and samples of each for both levels."""

    def __init__(
        self, problem: Any, m: int, blocks: int, batch: int, generator: np.random.Generator, like: Tensor | None
    ) -> None:
        self.m, self._blocks, self._batch = m, blocks, batch
        self.n = problem.n_samples
        self._upper_n = getattr(problem, "n_upper_samples", None) or self.n
        self._generator, self._like = generator, like
        self.n_samples = 0

    def __call__(self, blocks: Any = None) -> Sample:
        """Draw a step's blocks, or only the samples of given ones."""
        if blocks is None:
            blocks = self.blocks()
        shape = (len(blocks), self._batch)
        lower, upper = (self._generator.integers(n, size=shape) for n in (self.n, self._upper_n))
        self.n_samples += 2 * lower.size
        return Sample(blocks, self.native(lower), self.native(upper))

    def blocks(self) -> Any:
        """I different blocks."""
        return self.native(self._generator.choice(self.m, self._blocks, replace=False))

    def probe(self) -> tuple[Any, Any]:
        """A few blocks and many samples of the lower level, to learn its scale from; not counted."""
        generator = np.random.default_rng(0)
        blocks = np.unique(np.linspace(0, self.m - 1, min(self.m, PROBED_BLOCKS)).astype(np.int64))
        batch = generator.integers(self.n, size=(len(blocks), max(self._batch, PROBED_SAMPLES)))
        return self.native(blocks), self.native(batch)

    def native(self, numbers: Any) -> Any:
        """Indices as the problem wants them."""
        return numbers if self._like is None else torch.as_tensor(numbers, device=self._like.device)


def _check_problem(problem: Any, method: Method) -> None:
    needed = ("lower_gradient", "upper_gradients", "mixed_vector", *NEEDED[method])
    lacking = [name for name in needed if not callable(getattr(problem, name, None))]
    if lacking:
        raise ValueError(f"problem lacks {', '.join(lacking)}, which method={method!r} needs")
    check_integer("problem.n_samples", getattr(problem, "n_samples", None))


def _check_sizes(blocks_per_step: int, batch_size: int, m: int) -> tuple[int, int]:
    blocks_per_step = check_integer("blocks_per_step", blocks_per_step)
    if blocks_per_step > m:
        raise ValueError(f"blocks_per_step must be at most the number of blocks, {m}, got {blocks_per_step}")
    return blocks_per_step, check_integer("batch_size", batch_size)


def _step_sizes(name: str, given: Any, y: Any) -> Any:
    """A positive number, or a column of them, one a block."""
    if np.ndim(given) == 0:
        return check_number(name, given, above=0.0)
    sizes = np.asarray(given, dtype=float)
    if sizes.shape != (len(y),) or not np.isfinite(sizes).all() or not (sizes > 0).all():
        raise ValueError(f"{name} must be a positive number, or one for each of the {len(y)} blocks")
    return torch.as_tensor(sizes[:, None]).to(y) if isinstance(y, Tensor) else sizes[:, None].astype(y.dtype)


def _stable(lr: Any, name: str, scale: Any) -> Any:
    """Step sizes that are stable where curvature times gamma is this much."""
    largest = float(lr if np.ndim(lr) == 0 else lr.max())
    limit = STABLE / scale if scale > 0 else np.inf
    if np.ndim(lr) or largest <= limit:
        return lr
    warn(
        f"{name}={largest:g} is unstable: gamma times the lower curvature is {scale:.3g}; {limit:.3g} is used. More "
        "blocks a step allow larger ones",
        UserWarning,
        stacklevel=3,
    )
    return limit


def _largest_curvature(problem: Any, x: Any, y: Any, draw: _Draws) -> float:
    """Largest eigenvalue of a few lower Hessians at the start, by power iterations."""
    blocks, batch = draw.probe()
    rows = y[blocks]
    product = getattr(problem, "lower_hessian_vector", None)
    if product is None:
        H = torch.as_tensor(problem.lower_hessian(x, rows, blocks, batch))
        if not bool(H.isfinite().all()):
            raise FloatingPointError("lower_hessian returned NaN or infinity at the start")
        return float(torch.linalg.eigvalsh((H + H.mT) / 2).max())
    start = np.random.default_rng(0).normal(size=tuple(rows.shape))
    v: Any = torch.as_tensor(start).to(rows) if isinstance(rows, Tensor) else start.astype(rows.dtype)
    for _ in range(12):
        length = (v * v).sum(-1) ** 0.5
        v = product(x, rows, v / (length + 1e-300)[:, None], blocks, batch)
    largest = float(((v * v).sum(-1) ** 0.5).max())
    if not np.isfinite(largest):
        raise FloatingPointError("lower_hessian_vector returned NaN or infinity at the start")
    return largest


def _floor(given: float | None, problem: Any, x: Any, y: Any, draw: _Draws) -> float:
    if given is not None:
        return check_number("hessian_floor", given, above=0.0)
    blocks, batch = draw.probe()
    H = torch.as_tensor(problem.lower_hessian(x, y[blocks], blocks, batch))
    if not bool(H.isfinite().all()):
        raise FloatingPointError("lower_hessian returned NaN or infinity at the start")
    values = torch.linalg.eigvalsh((H + H.mT) / 2)
    # Where samples are too few for a definite estimate, a small part of the largest eigenvalue stands in.
    return max(0.5 * float(values.min()), 1e-3 * float(values.max()), 1e-12)
