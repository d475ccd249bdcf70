"""BO-REP as an optimiser of two lists of tensors, such as the parameters of networks."""

from collections.abc import Callable, Iterable
from math import inf
from typing import Any

import torch
from torch import Tensor

from paperworks.optimization.unbounded_smooth_bilevel._hypergradient import Loss, Oracle, Products
from paperworks.optimization.unbounded_smooth_bilevel._iteration import (
    Iterate,
    Schedule,
    Settings,
    State,
    bilevel_step,
    check_products,
    leaves,
    new_record,
    refine,
)


class UnboundedSmoothBilevel(torch.optim.Optimizer):
    r"""Bilevel optimiser with normalised momentum above and refined, periodic updates below (BO-REP).

    .. math:: \min_x \; f(x, y^*(x)), \qquad y^*(x) = \operatorname*{argmin}_y g(x, y),

    with g strongly convex in y. Step k, on batches that the losses draw anew at every call, is

    .. math::
        y &\leftarrow \mathrm{Proj}_{B(\bar y, R)}(y - \alpha \nabla_y g(x, y))
            \quad N \text{ times if } k \bmod I = 0, \text{ from } \bar y = y, \\
        z &\leftarrow z - \nu\, (\nabla^2_{yy} g(x, y)\, z - \nabla_y f(x, y)), \\
        m &\leftarrow \beta m + (1 - \beta)\, (\nabla_x f(x, y) - \nabla^2_{xy} g(x, y)\, z), \\
        x &\leftarrow x - \eta_k\, m / \|m\|.

    As x moves by :math:`\eta_k` exactly, y stays accurate for I steps. Before the first step y is refined, by epochs of
    stochastic gradient descent in balls that shrink. The two parameter groups, upper and lower, hold their step sizes
    as ``"lr"``, which the schedulers of torch change.

    Parameters
    ----------
    upper_params, lower_params : iterable of Tensor
        x and y, leaves that require gradients and are moved in place.
    upper_lr : float, default 0.05
        :math:`\eta_0`, the distance by which all of x together moves.
    lower_lr : float, default 0.05
        alpha.
    linear_system_lr : float, default 0.01
        nu, below 2 over the largest curvature of g in y.
    momentum : float, default 0.9
        beta, in [0, 1).
    period : int, default 2
        I, steps from one update of y to the next.
    lower_steps : int, default 3
        N, gradient steps of an update of y.
    refinement_epochs : int, default 5
        Epochs before the first step; each halves alpha, doubles its steps and shrinks R by the root of 2. None when 0.
    refinement_steps : int, default 20
        Gradient steps of the first of them.
    projection_radius : float, default inf
        R, of an update and of the first epoch.
    lower_iterate : {"last", "average"}, default "last"
        What an update of y returns: the last of its iterates, or their mean, as the theory has it.
    schedule : {"inverse_sqrt", "constant"}, default "inverse_sqrt"
        :math:`\eta_k = \eta_0 / \sqrt{1 + k / k_0}`, or :math:`\eta_0`; a normalised step that does not fall comes no
        nearer to a solution than its length.
    decay_start : float, default 100
        :math:`k_0`.
    hvp : {"autograd", "finite_difference"}, default "autograd"
        Products with second derivatives, by differentiating twice or as the difference of two gradients at a distance
        of 0.01; the latter for networks that can't be differentiated twice, as cuDNN's recurrent ones.
    shared_batch : bool, default False
        Whether the mixed product comes out of the graph of the Hessian's, at z before its update, rather than from a
        third batch: a step then costs about two gradients less.

    Attributes
    ----------
    n_upper_gradients, n_lower_gradients, n_hessian_vector, n_mixed : int
        What was evaluated, refinement included.
    n_steps : int
        Steps made.
    momentum_norm : float
        Norm of m in the last step, which estimates that of the hypergradient.

    Raises
    ------
    ValueError
        If a setting is out of range, or a parameter no finite leaf that requires a gradient.
    TypeError
        If a setting or a parameter has the wrong type.

    Warns
    -----
    UserWarning
        If, at the first step, the curvature of g is found negative, or so large that z will diverge.
    ConvergenceWarning
        If z comes no nearer to a solution, as happens where g is not strongly convex in y.

    References
    ----------
    Jie Hao, Xiaochuan Gong, Mingrui Liu. "Bilevel Optimization under Unbounded Smoothness: A New Algorithm and
    Convergence Analysis". ICLR 2024. arXiv:2401.09587.

    Examples
    --------
    >>> import torch
    >>> from paperworks.optimization import UnboundedSmoothBilevel
    >>> x, y = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    >>> optimizer = UnboundedSmoothBilevel([x], [y], upper_lr=0.05, lower_lr=0.5, linear_system_lr=0.5)
    >>> for _ in range(300):  # y* = x, and f is least at y = 1
    ...     loss = optimizer.step(lambda x, y: ((y[0] - 1) ** 2).sum(), lambda x, y: ((y[0] - x[0]) ** 2).sum() / 2)
    >>> bool(abs(x - 1).max() < 0.1), optimizer.n_hessian_vector
    (True, 310)
    """

    def __init__(
        self,
        upper_params: Iterable[Tensor],
        lower_params: Iterable[Tensor],
        *,
        upper_lr: float = 0.05,
        lower_lr: float = 0.05,
        linear_system_lr: float = 0.01,
        momentum: float = 0.9,
        period: int = 2,
        lower_steps: int = 3,
        refinement_epochs: int = 5,
        refinement_steps: int = 20,
        projection_radius: float = inf,
        lower_iterate: Iterate = "last",
        schedule: Schedule = "inverse_sqrt",
        decay_start: float = 100.0,
        hvp: Products = "autograd",
        shared_batch: bool = False,
    ) -> None:
        check_products(hvp)
        settings = {
            "linear_system_lr": linear_system_lr,
            "momentum": momentum,
            "period": period,
            "lower_steps": lower_steps,
            "refinement_epochs": refinement_epochs,
            "refinement_steps": refinement_steps,
            "projection_radius": projection_radius,
            "lower_iterate": lower_iterate,
            "schedule": schedule,
            "decay_start": decay_start,
            "shared_batch": shared_batch,
        }
        Settings(upper_lr=upper_lr, lower_lr=lower_lr, **settings)  # type: ignore[arg-type]
        self._settings, self.hvp = settings, hvp
        x, y = leaves("upper_params", upper_params), leaves("lower_params", lower_params)
        super().__init__([{"params": x, "lr": upper_lr}, {"params": y, "lr": lower_lr}], {})
        for parameters, name in ((x, "momentum"), (y, "linear_solution")):
            for each in parameters:
                self.state[each][name] = torch.zeros_like(each)
        # Beside the parameters' states, so that state_dict brings back a run that goes on as it would have.
        self.state["run"] |= new_record()  # type: ignore[index]
        self.momentum_norm = float("nan")

    @property
    def n_steps(self) -> int:
        """Steps made."""
        return int(self._record["step"])

    @property
    def n_upper_gradients(self) -> int:
        """Gradients of the upper loss."""
        return int(self._record["counts"]["upper_gradients"])

    @property
    def n_lower_gradients(self) -> int:
        """Gradients of the lower loss for updates of y."""
        return int(self._record["counts"]["lower_gradients"])

    @property
    def n_hessian_vector(self) -> int:
        """Products with the Hessian of the lower loss, the ten of the check before the first step included."""
        return int(self._record["counts"]["hessian_vector"])

    @property
    def n_mixed(self) -> int:
        """Products with the mixed second derivatives of the lower loss."""
        return int(self._record["counts"]["mixed"])

    @property
    def linear_solution(self) -> list[Tensor]:
        """The present z, like the lower variables."""
        return [self.state[each]["linear_solution"] for each in self.param_groups[1]["params"]]

    @property
    def _record(self) -> dict[str, Any]:
        return self.state["run"]  # type: ignore[index]

    def refine(self, lower_loss_fn: Loss, *, draw_batch: Callable[[], Any] | None = None) -> None:
        """Refine the lower variables at the present upper ones; the first step does it by itself.

        Parameters
        ----------
        lower_loss_fn : callable
            As in `step`.
        draw_batch : callable, optional
            As in `step`.
        """
        _check_callables(lower_loss_fn=lower_loss_fn)
        state = self._state()
        refine(self._oracle(lower_loss_fn, lower_loss_fn, draw_batch), state, self._present_settings())

    def step(  # type: ignore[override]
        self, upper_loss_fn: Loss, lower_loss_fn: Loss, *, draw_batch: Callable[[], Any] | None = None
    ) -> float:
        """Make one step.

        Parameters
        ----------
        upper_loss_fn : callable
            ``upper_loss_fn(upper, lower)`` returns f on a batch that it draws, of two lists of tensors in the order in
            which they were given.
        lower_loss_fn : callable
            ``lower_loss_fn(upper, lower)`` returns g on a batch that it draws: another at each call, or the estimates
            are biased.
        draw_batch : callable, optional
            Draws a batch of the lower problem, which ``lower_loss_fn(upper, lower, batch)`` then takes. Needed with
            finite differences, whose two gradients must be of one batch.

        Returns
        -------
        float
            The upper loss on its batch, before the upper variables moved.

        Raises
        ------
        FloatingPointError
            If a loss, the hypergradient or the linear system's residual is NaN or infinite; the message gives the step.
        ValueError
            If a loss is not one number, or does not depend on the tensors; or if the lower loss is random at one point
            while finite differences are taken.
        TypeError
            If a loss is no tensor of floats.
        RuntimeError
            If cuDNN can't differentiate the lower loss twice.
        """
        _check_callables(upper_loss_fn=upper_loss_fn, lower_loss_fn=lower_loss_fn)
        state = self._state()
        with torch.enable_grad():
            oracle = self._oracle(upper_loss_fn, lower_loss_fn, draw_batch)
            value, self.momentum_norm = bilevel_step(oracle, state, self._present_settings())
        self._record["window"] = state.window
        return value

    def _state(self) -> State:
        x, y = (group["params"] for group in self.param_groups)
        momentum = [self.state[each]["momentum"] for each in x]
        return State(x, y, self.linear_solution, momentum, self._record, self._record.get("window", []))

    def _present_settings(self) -> Settings:
        upper_lr, lower_lr = (group["lr"] for group in self.param_groups)
        return Settings(upper_lr=float(upper_lr), lower_lr=float(lower_lr), **self._settings)  # type: ignore[arg-type]

    def _oracle(self, upper: Loss, lower: Loss, draw_batch: Callable[[], Any] | None) -> Oracle:
        if draw_batch is not None:
            _check_callables(draw_batch=draw_batch)
        return Oracle(upper, lower, self.hvp, draw_batch, self._record["counts"], self._record["step"])


def _check_callables(**functions: Any) -> None:
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name} must be callable, got {type(function).__name__}")
