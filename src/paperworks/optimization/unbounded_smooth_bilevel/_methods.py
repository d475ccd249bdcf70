"""Bilevel problems of two tensors: BO-REP and its rivals, in one loop."""

from collections.abc import Callable
from math import inf
from time import perf_counter
from typing import Any, Literal
from warnings import warn

import numpy as np
import torch
from scipy.optimize import OptimizeResult
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from paperworks._progress import progress_bar
from paperworks._tensors import to_tensors
from paperworks._training import interrupts_between_steps
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.optimization.unbounded_smooth_bilevel._hypergradient import Loss, Oracle, Products
from paperworks.optimization.unbounded_smooth_bilevel._iteration import (
    Iterate,
    Schedule,
    Settings,
    State,
    bilevel_step,
    check_products,
    new_record,
)

Method = Literal["bo_rep", "soba", "ma_soba", "stocbio", "ttsa"]
Callback = Callable[[OptimizeResult], object]
# What makes a method, where the caller says nothing else.
METHODS: dict[str, dict[str, Any]] = {
    "bo_rep": {},
    "soba": {"normalized": False, "momentum": 0.0, "period": 1, "lower_steps": 1, "refinement_epochs": 0},
    "ma_soba": {"normalized": False, "period": 1, "lower_steps": 1, "refinement_epochs": 0},
    "stocbio": {
        "normalized": False,
        "momentum": 0.0,
        "period": 1,
        "lower_steps": 10,
        "refinement_epochs": 0,
        "linear": "neumann",
    },
    "ttsa": {
        "normalized": False,
        "momentum": 0.0,
        "period": 1,
        "lower_steps": 1,
        "refinement_epochs": 0,
        "linear": "random",
        "upper_decay": 0.6,
        "lower_decay": 0.4,
    },
}
# Before, z has hardly left zero, and the hypergradient grows with it.
GROWTH_IS_JUDGED_AFTER = 100
HISTORY = ("upper_loss", "momentum_norm", "gradient_evaluations", "seconds")


def minimize_bilevel(
    upper: Callable[..., Tensor],
    lower: Callable[..., Tensor],
    x0: Any,
    y0: Any,
    n_steps: int,
    method: Method = "bo_rep",
    *,
    upper_lr: float = 0.05,
    lower_lr: float = 0.05,
    linear_system_lr: float = 0.01,
    momentum: float | None = None,
    period: int | None = None,
    lower_steps: int | None = None,
    refinement_epochs: int | None = None,
    refinement_steps: int = 20,
    projection_radius: float = inf,
    lower_iterate: Iterate = "last",
    schedule: Schedule = "inverse_sqrt",
    decay_start: float | None = None,
    neumann_terms: int = 10,
    hvp: Products = "autograd",
    shared_batch: bool = False,
    draw_batch: Callable[[], Any] | None = None,
    tolerance: float | None = None,
    callback: Callback | None = None,
    progress: bool = True,
) -> OptimizeResult:
    r"""Minimise an upper loss over x, with y where it minimises a lower loss.

    .. math:: \min_x \; f(x, y^*(x)), \qquad y^*(x) = \operatorname*{argmin}_y g(x, y).

    Every step moves y along gradients of g, brings z nearer to the solution of
    :math:`\nabla^2_{yy} g\, z = \nabla_y f`, averages the hypergradient
    :math:`\nabla_x f - \nabla^2_{xy} g\, z` into a momentum m, and moves x by :math:`\eta_k m / \|m\|`
    (``"bo_rep"``) or by :math:`\eta_k m` (all others).

    Parameters
    ----------
    upper, lower : callable
        ``upper(x, y)`` and ``lower(x, y)`` return f and g, each one number with a graph, on batches that they draw anew
        at every call.
    x0, y0 : array_like or Tensor
        Start, of any shapes.
    n_steps : int
        Steps at most.
    method : {"bo_rep", "soba", "ma_soba", "stocbio", "ttsa"}, default "bo_rep"
        ``"soba"`` takes one step of each variable, without momentum; ``"ma_soba"`` averages the hypergradient;
        ``"stocbio"`` takes 10 lower steps and sums Neumann's series for z anew each time; ``"ttsa"`` takes a random
        term of the series, and steps that fall as :math:`k^{-3/5}` above and :math:`k^{-2/5}` below.
    upper_lr : float, default 0.05
        :math:`\eta_0`.
    lower_lr : float, default 0.05
        Step of y.
    linear_system_lr : float, default 0.01
        Step of z, below 2 over the largest curvature of g.
    momentum : float, optional
        Share of the old momentum in the new, in [0, 1); 0.9 for bo_rep and ma_soba, else 0 when None.
    period, lower_steps : int, optional
        ``lower_steps`` gradient steps on y in every ``period``-th step; 3 in 2 for bo_rep, 1 in 1 for soba, ma_soba and
        ttsa, 10 in 1 for stocbio when None.
    refinement_epochs : int, optional
        Epochs of descent on y before the first step; 5 for bo_rep, else 0 when None.
    refinement_steps : int, default 20
        Steps of the first epoch; each epoch halves the step and doubles their number.
    projection_radius : float, default inf
        Radius of the ball in which an update of y stays.
    lower_iterate : {"last", "average"}, default "last"
        Which iterate an update of y returns.
    schedule : {"inverse_sqrt", "constant"}, default "inverse_sqrt"
        Whether steps fall, as :math:`1 / \sqrt{1 + k / k_0}` where the method says nothing else.
    decay_start : float, optional
        :math:`k_0`; a tenth of ``n_steps`` when None.
    neumann_terms : int, default 10
        Terms of Neumann's series.
    hvp : {"autograd", "finite_difference"}, default "autograd"
        How products with second derivatives are taken.
    shared_batch : bool, default False
        Whether both products of a step are of one batch.
    draw_batch : callable, optional
        Draws a batch of the lower problem, which ``lower(x, y, batch)`` then takes; needed with finite differences.
    tolerance : float, optional
        Norm of the momentum, which estimates that of the hypergradient, at which to stop. All steps are made when None.
    callback : callable, optional
        Called after each step with an OptimizeResult of ``x, lower_solution, linear_solution, nit``; it ends the
        run by raising StopIteration.
    progress : bool, default True
        Whether to show a bar.

    Returns
    -------
    OptimizeResult
        ``x``, ``lower_solution`` and ``linear_solution``, arrays or tensors as x0 and y0 were; ``fun``, the upper loss
        on the last batch; ``nit``, ``success``, ``status``, ``message``; ``n_upper_gradients``, ``n_lower_gradients``,
        ``n_hessian_vector``, ``n_mixed``; and ``history``, a dict of ``upper_loss``, ``momentum_norm``,
        ``gradient_evaluations`` (a product counts for two) and ``seconds``, an entry a step. Without a tolerance,
        success says that the momentum's norm has not doubled from the middle of the run to its end.

    Raises
    ------
    ValueError
        If an array holds NaN or infinity or is empty, a setting is out of range, or a loss is not one number or depends
        on neither x nor y.
    TypeError
        If an array does not hold floating-point numbers, or an argument has the wrong type.
    FloatingPointError
        If a loss, the hypergradient or z is NaN or infinite; the message gives the step.

    Warns
    -----
    ConvergenceWarning
        If the tolerance is not met, the hypergradient grows, or z comes no nearer to a solution.
    UserWarning
        If the curvature of g is negative at the start, or so large that z will diverge.

    References
    ----------
    Jie Hao, Xiaochuan Gong, Mingrui Liu. "Bilevel Optimization under Unbounded Smoothness: A New Algorithm and
    Convergence Analysis". ICLR 2024. arXiv:2401.09587.

    Mathieu Dagréou, Pierre Ablin, Samuel Vaiter, Thomas Moreau. "A framework for bilevel optimization that enables
    stochastic and global variance reduction algorithms". NeurIPS 2022. arXiv:2201.13409.

    Xuxing Chen, Tesi Xiao, Krishnakumar Balasubramanian. "Optimal Algorithms for Stochastic Bilevel Optimization under
    Relaxed Smoothness Conditions". 2023. arXiv:2306.12067.

    Kaiyi Ji, Junjie Yang, Yingbin Liang. "Bilevel Optimization: Convergence Analysis and Enhanced Design". ICML 2021.
    arXiv:2010.07962.

    Mingyi Hong, Hoi-To Wai, Zhaoran Wang, Zhuoran Yang. "A Two-Timescale Framework for Bilevel Optimization: Complexity
    Analysis and Application to Actor-Critic". 2020. arXiv:2007.05170.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import minimize_bilevel
    >>> result = minimize_bilevel(  # y* = x, and f is least at y = 1
    ...     lambda x, y: ((y - 1) ** 2).sum(), lambda x, y: ((y - x) ** 2).sum() / 2, np.zeros(2), np.zeros(2),
    ...     n_steps=300, upper_lr=0.05, lower_lr=0.5, linear_system_lr=0.5)
    >>> bool(abs(result.x - 1).max() < 0.1), result.lower_solution.shape
    (True, (2,))
    """
    check_choice("method", method, METHODS)
    check_products(hvp)
    steps = check_integer("n_steps", n_steps)
    for name, function in (("upper", upper), ("lower", lower), ("draw_batch", draw_batch), ("callback", callback)):
        if not (callable(function) or (function is None and name in {"draw_batch", "callback"})):
            raise TypeError(f"{name} must be callable, got {type(function).__name__}")
    given = {
        "momentum": momentum,
        "period": period,
        "lower_steps": lower_steps,
        "refinement_epochs": refinement_epochs,
        "decay_start": max(1.0, steps / 10) if decay_start is None else decay_start,
    }
    settings = Settings(
        upper_lr=upper_lr,
        lower_lr=lower_lr,
        linear_system_lr=linear_system_lr,
        refinement_steps=refinement_steps,
        projection_radius=projection_radius,
        lower_iterate=lower_iterate,
        schedule=schedule,
        neumann_terms=neumann_terms,
        shared_batch=shared_batch,
        **METHODS[method] | {name: value for name, value in given.items() if value is not None},
    )
    (x, y), restore = to_tensors(x0=x0, y0=y0)
    x, y = (each.detach().clone().requires_grad_() for each in (x, y))
    state = State([x], [y], [torch.zeros_like(y)], [torch.zeros_like(x)], new_record())
    counts = state.record["counts"]
    oracle = Oracle(_of_two_tensors(upper), _of_two_tensors(lower), hvp, draw_batch, counts)
    run = _Run(steps, None if tolerance is None else check_number("tolerance", tolerance, at_least=0.0))

    def found() -> dict[str, Any]:
        tensors = {"x": x, "lower_solution": y, "linear_solution": state.z[0]}
        return {name: restore(each.detach().clone()) for name, each in tensors.items()}

    with torch.enable_grad(), interrupts_between_steps() as take_interrupts:
        bar = progress_bar(range(steps), method, progress)
        for _ in bar:
            take_interrupts()
            value, length = bilevel_step(oracle, state, settings)
            run.record(value, length, counts)
            if callback is not None:
                try:
                    callback(OptimizeResult(**found(), nit=len(run.seconds)))
                except StopIteration:
                    run.ended = True
            if run.over:
                bar.close()
                break
    return OptimizeResult(
        **found(),
        **{f"n_{name}": count for name, count in counts.items()},
        **run.outcome(),
    )


def _of_two_tensors(loss: Loss) -> Loss:
    return lambda x, y, *batch: loss(x[0], y[0], *batch)


class _Run:
    """What a run has recorded, and when it is over."""

    def __init__(self, n_steps: int, tolerance: float | None) -> None:
        self.n_steps, self.tolerance, self.ended = n_steps, tolerance, False
        self.begin = perf_counter()
        self.values: list[float] = []
        self.lengths: list[float] = []
        self.evaluations: list[int] = []
        self.seconds: list[float] = []

    def record(self, value: float, length: float, counts: dict[str, int]) -> None:
        self.values.append(value)
        self.lengths.append(length)
        first = counts["upper_gradients"] + counts["lower_gradients"]
        self.evaluations.append(first + 2 * (counts["hessian_vector"] + counts["mixed"]))
        self.seconds.append(perf_counter() - self.begin)

    @property
    def over(self) -> bool:
        return self.ended or (self.tolerance is not None and self.lengths[-1] <= self.tolerance)

    def _middle_and_late(self) -> tuple[float, float]:
        """Mean norm of the momentum in the middle and in the last tenth of the run."""
        tenth, half = max(1, len(self.lengths) // 10), len(self.lengths) // 2
        return float(np.mean(self.lengths[half : half + tenth])), float(np.mean(self.lengths[-tenth:]))

    def outcome(self) -> dict[str, Any]:
        """Fields of the result, with a warning where the run did not converge."""
        made, last = len(self.lengths), self.lengths[-1]
        if self.ended:
            status, message = 2, f"ended by callback after {made} steps"
        elif self.tolerance is not None:
            status = 0 if last <= self.tolerance else 1
            relation = "at most" if status == 0 else "above"
            message = f"norm of the momentum {last:.3g}, {relation} tolerance {self.tolerance:.3g}, after {made} steps"
        else:
            middle, late = self._middle_and_late()
            status = 1 if made >= GROWTH_IS_JUDGED_AFTER and late > 2 * middle else 0
            change = "grew" if status else "went"
            message = f"all {made} steps made; norm of the momentum {change} from {middle:.3g} half-way to {late:.3g}"
        if status == 1:
            warn(f"not converged: {message}", ConvergenceWarning, stacklevel=3)
        history = (self.values, self.lengths, self.evaluations, self.seconds)
        return {
            "fun": self.values[-1],
            "nit": made,
            "success": status == 0,
            "status": status,
            "message": message,
            "history": {name: np.array(entries) for name, entries in zip(HISTORY, history, strict=True)},
        }
