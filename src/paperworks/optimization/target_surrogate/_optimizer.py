"""The optimiser of networks: one expensive gradient of the outputs a step, many updates of the parameters."""

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any, Literal
from warnings import warn

import torch
from torch import Tensor

from paperworks._validation import check_choice, check_integer, check_number
from paperworks.optimization.target_surrogate._descent import armijo_descent, descent_by
from paperworks.optimization.target_surrogate._schedules import (
    Schedule,
    check_schedule,
    decay,
    initial_step_size,
    searched_step_size,
)
from paperworks.optimization.target_surrogate._surrogates import (
    METRICS,
    KullbackLeiblerSurrogate,
    Memory,
    Metric,
    QuadraticSurrogate,
    linear_term_and_stretch,
)

Forward = Callable[[], Tensor]
Targets = Callable[[Tensor], Tensor]
InnerOptimizer = Literal["armijo"] | Callable[[list[Tensor]], torch.optim.Optimizer]


class TargetSurrogateOptimizer(torch.optim.Optimizer):
    r"""Train a network with one gradient with respect to its outputs a step, and many updates of its parameters.

    A step takes the outputs :math:`z = f(\theta_t)` of a batch of n rows and the gradients :math:`g_i` of the rows'
    losses, and lowers

    .. math:: s_t(\theta) = \frac1n \sum_{i=1}^n \Big[ \langle g_i, f_i(\theta) - z_i \rangle
        + \frac{1}{2 \eta_t} \langle f_i(\theta) - z_i, A_t (f_i(\theta) - z_i) \rangle \Big]

    by ``inner_steps`` steps of gradient descent with Armijo backtracking, which never call the loss. With one inner
    step it is gradient descent.

    Parameters
    ----------
    params : iterable
        Parameters, or groups of them, which are treated alike.
    step_size : float, optional
        eta; 1 / ``smoothness`` when None, or 1 if that is None too. Above it the surrogate is no bound of the loss.
    smoothness : float, optional
        L of the loss of a row as a function of its outputs: 1/4 for logistic, 1/2 for softmax cross-entropy, 1 for half
        the squared error.
    inner_steps : int, default 10
        Updates of the parameters a step.
    schedule : {"constant", "inverse_sqrt", "exponential"}, default "constant"
        :math:`\eta_t` is eta, :math:`\eta / \sqrt t`, or :math:`\eta\, T^{-t/T}` with T ``total_steps``.
    line_search : bool, default False
        Whether eta is searched for by backtracking on the loss itself, in the space of targets, which costs evaluations
        of ``loss`` but no pass through the model.
    metric : {"euclidean", "adagrad", "diagonal_adagrad", "adam", "online_newton", "kullback_leibler"}
        The distance to the old outputs. ``"adagrad"``: A is the root of the damped sum of outer products of target
        gradients, an m-by-m matrix; ``"online_newton"``: the sum itself; ``"diagonal_adagrad"``: the root of the
        sum of squares, of each row and output where `step` is given ``indices``; ``"adam"``: that of Adam, whose first
        moment takes the place of g; ``"kullback_leibler"``: the divergence from the old rows, which must be on the
        simplex. Sums are of means over the rows of a batch.
    inner_optimizer : "armijo" or callable, default "armijo"
        Or ``inner_optimizer(params)``, a torch optimizer made anew for each step, which takes the inner steps.
    total_steps : int, optional
        T of the exponential schedule.
    damping : float, default 1e-8
        What is added to the adaptive metrics.
    inner_tolerance : float, default 1e-6
        Norm of the surrogate's gradient at which the inner steps of "armijo" end early.

    Attributes
    ----------
    n_target_gradients : int
        Expensive gradients asked for: one a step.
    n_inner_steps : int
        Updates of the parameters.
    n_loss_evaluations : int
        Losses evaluated without a gradient, by ``line_search``.
    current_step_size : float
        :math:`\eta_t` of the last step.
    gradient_norm : float
        Norm of :math:`\nabla h(\theta_t)` on the batch of the last step, before it was taken.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown, or ``line_search`` is asked for with another metric than "euclidean".
    TypeError
        If a setting has the wrong type.

    Warns
    -----
    UserWarning
        If ``step_size`` is above 1 / ``smoothness``, or the model's outputs differ between two passes at the same
        parameters, as those of dropout do in training mode.

    References
    ----------
    Jonathan Wilder Lavington, Sharan Vaswani, Reza Babanezhad, Mark Schmidt, Nicolas Le Roux. "Target-based Surrogates
    for Stochastic Optimization". ICML 2023. arXiv:2302.02607.

    Examples
    --------
    >>> import torch
    >>> from paperworks.optimization import TargetSurrogateOptimizer
    >>> x = torch.linspace(-1, 1, 50)[:, None]
    >>> model = torch.nn.Linear(1, 1)
    >>> optimizer = TargetSurrogateOptimizer(model.parameters(), smoothness=1.0, inner_steps=20)
    >>> for _ in range(5):  # five queries of an expert, whose answer to x is 3 x - 1
    ...     loss = optimizer.step(lambda: model(x), lambda outputs: outputs - (3 * x - 1))
    >>> optimizer.n_target_gradients, bool(abs(model.weight.item() - 3) < 1e-3)
    (5, True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        step_size: float | None = None,
        smoothness: float | None = None,
        inner_steps: int = 10,
        schedule: Schedule = "constant",
        line_search: bool = False,
        metric: Metric = "euclidean",
        inner_optimizer: InnerOptimizer = "armijo",
        total_steps: int | None = None,
        damping: float = 1e-8,
        inner_tolerance: float = 1e-6,
    ) -> None:
        check_choice("metric", metric, METRICS)
        check_schedule(schedule, total_steps)
        if not isinstance(line_search, bool):
            raise TypeError(f"line_search must be True or False, got {line_search!r}")
        if line_search and metric != "euclidean":
            raise ValueError(f"line_search needs metric='euclidean', got metric={metric!r}")
        if inner_optimizer != "armijo" and not callable(inner_optimizer):
            raise ValueError(f"inner_optimizer must be 'armijo' or callable, got {inner_optimizer!r}")
        self.inner_steps = check_integer("inner_steps", inner_steps)
        self.damping = check_number("damping", damping, at_least=0.0)
        self.inner_tolerance = check_number("inner_tolerance", inner_tolerance, at_least=0.0)
        self.schedule, self.total_steps = schedule, total_steps
        self.line_search, self.metric, self.inner_optimizer = line_search, metric, inner_optimizer
        eta = initial_step_size(step_size, smoothness, stacklevel=2)
        super().__init__(params, {})
        # Beside the parameters' states, so that state_dict brings back a run that goes on as it would have.
        self.state["run"] |= {"eta": eta, "target_gradients": 0, "inner_steps": 0, "loss_evaluations": 0, "metric": {}}  # type: ignore[index]
        self.current_step_size = self.gradient_norm = float("nan")

    @property
    def n_target_gradients(self) -> int:
        """Expensive gradients asked for."""
        return int(self._run["target_gradients"])

    @property
    def n_inner_steps(self) -> int:
        """Updates of the parameters."""
        return int(self._run["inner_steps"])

    @property
    def n_loss_evaluations(self) -> int:
        """Losses evaluated without a gradient."""
        return int(self._run["loss_evaluations"])

    @property
    def _run(self) -> dict[str, Any]:
        return self.state["run"]  # type: ignore[index]

    def step(  # type: ignore[override]
        self,
        forward: Forward,
        target_gradient: Targets | None = None,
        *,
        loss: Targets | None = None,
        indices: Any = None,
    ) -> float | None:
        r"""Ask for one target gradient, and update the parameters many times.

        Parameters
        ----------
        forward : callable
            ``forward()`` returns the outputs of a batch, of shape (n, m), with their graph.
        target_gradient : callable, optional
            ``target_gradient(outputs)`` returns the gradients of the rows' losses, of shape (n, m) and not divided by
            n. It is called once, with outputs that carry no graph. When None, ``loss`` is differentiated, once.
        loss : callable, optional
            ``loss(outputs)`` returns the losses of the rows, of shape (n,). Needed without ``target_gradient``, and for
            ``line_search``.
        indices : Tensor of int of shape (n,), optional
            Which rows of the data these are, so that "adam" and "diagonal_adagrad" remember each row apart.

        Returns
        -------
        float or None
            Mean loss of the batch before the step, where ``loss`` differentiated or searched; else None.

        Raises
        ------
        ValueError
            If neither callable is given, outputs have not two axes, or what a callable returns has the wrong shape.
        TypeError
            If a callable returns no floating-point tensor.
        FloatingPointError
            If outputs, target gradients or losses are NaN or infinite; the message gives the step.
        """
        if target_gradient is None and loss is None:
            raise ValueError("target_gradient or loss must be given, got None for both")
        if self.line_search and loss is None:
            raise ValueError("loss must be given with line_search=True, got None")
        with torch.enable_grad():
            outputs = _checked_outputs(forward(), self._this)
            # A copy: a model that returns its parameters would move the anchor with them.
            z = outputs.detach().clone()
            if self.n_target_gradients == 0:
                _warn_if_random(forward, z)
            g, value = self._target_gradient(z, target_gradient, loss)
            self._run["target_gradients"] += 1
            rows = _checked_indices(indices, z)
            eta = self._step_size(z, g, value, loss)
            surrogate = self._surrogate(z, g, eta, rows)
            self._descend(forward, outputs, surrogate, z, g)
        return value

    @property
    def _this(self) -> str:
        return f"at step {self.n_target_gradients + 1}"

    def _target_gradient(
        self, z: Tensor, target_gradient: Targets | None, loss: Targets | None
    ) -> tuple[Tensor, float | None]:
        """The gradients of the rows' losses, and their mean loss if it came with them or is needed for a search."""
        if target_gradient is None:
            assert loss is not None
            leaf = z.clone().requires_grad_()
            losses = _checked_losses(loss(leaf), z, self._this)
            (g,) = torch.autograd.grad(losses.sum(), leaf)
            value: float | None = float(losses.detach().mean())
        else:
            g = target_gradient(z.clone())
            value = self._mean_loss(z, loss) if self.line_search and loss is not None else None
        if not isinstance(g, Tensor) or not g.is_floating_point():
            raise TypeError(f"target_gradient must return a tensor of floats, got {getattr(g, 'dtype', type(g))}")
        if g.shape != z.shape:
            raise ValueError(
                f"target_gradient must return shape {tuple(z.shape)}, that of outputs, got {tuple(g.shape)}"
            )
        _require_finite("target gradient", g, self._this)
        return g.detach().to(z), value

    def _mean_loss(self, outputs: Tensor, loss: Targets) -> float:
        self._run["loss_evaluations"] += 1
        with torch.no_grad():
            return float(_checked_losses(loss(outputs), outputs, None).mean())

    def _step_size(self, z: Tensor, g: Tensor, value: float | None, loss: Targets | None) -> float:
        eta = self._run["eta"]
        if self.line_search and loss is not None:
            assert value is not None
            if not isfinite(value):
                raise FloatingPointError(f"loss is {value} {self._this}")
            eta = searched_step_size(lambda outputs: self._mean_loss(outputs, loss), z, g, value, eta)
            self._run["eta"] = eta
        self.current_step_size = eta * decay(self.schedule, self.n_target_gradients, self.total_steps)
        return self.current_step_size

    def _surrogate(
        self, z: Tensor, g: Tensor, eta: float, indices: Tensor | None
    ) -> QuadraticSurrogate | KullbackLeiblerSurrogate:
        if self.metric == "kullback_leibler":
            return KullbackLeiblerSurrogate(z, g, eta)
        memory = Memory(self._run["metric"])
        linear, stretch = linear_term_and_stretch(self.metric, memory, g, indices, self.damping)
        return QuadraticSurrogate(z, linear, eta, stretch)

    def _descend(
        self,
        forward: Forward,
        outputs: Tensor,
        surrogate: QuadraticSurrogate | KullbackLeiblerSurrogate,
        z: Tensor,
        g: Tensor,
    ) -> None:
        parameters = [each for group in self.param_groups for each in group["params"] if each.requires_grad]
        moments = surrogate.gradient is not g
        gradients = _pulled_back(g, outputs, parameters, retain_graph=moments)
        self.gradient_norm = float(sum((each * each).sum() for each in gradients)) ** 0.5
        if moments:
            gradients = _pulled_back(surrogate.gradient, outputs, parameters, retain_graph=False)
        if callable(self.inner_optimizer):
            inner = self.inner_optimizer(parameters)
            if not isinstance(inner, torch.optim.Optimizer):
                raise TypeError(f"inner_optimizer must return a torch optimizer, got {type(inner).__name__}")
            taken = descent_by(inner, parameters, lambda: surrogate(forward()), gradients, self.inner_steps)
        else:
            scale = float((g * z).abs().sum()) / len(z)
            taken = armijo_descent(
                parameters, lambda: surrogate(forward()), gradients, self.inner_steps, self.inner_tolerance, scale
            )
        self._run["inner_steps"] += taken


def _pulled_back(gradient: Tensor, outputs: Tensor, parameters: list[Tensor], retain_graph: bool) -> tuple[Tensor, ...]:
    """Mean over rows of the Jacobian's transpose times the gradients: the slope of the surrogate where it starts."""
    return torch.autograd.grad(
        outputs,
        parameters,
        gradient / len(gradient),
        retain_graph=retain_graph,
        allow_unused=True,
        materialize_grads=True,
    )


def _checked_outputs(outputs: Any, when: str) -> Tensor:
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        raise TypeError(f"forward must return a tensor of floats, got {getattr(outputs, 'dtype', type(outputs))}")
    if outputs.ndim != 2 or 0 in outputs.shape:
        raise ValueError(f"forward must return outputs of shape (n, m), got {tuple(outputs.shape)}")
    if not outputs.requires_grad:
        raise ValueError("forward must return outputs that depend on the parameters, got a tensor without a graph")
    _require_finite("output of forward", outputs.detach(), when)
    return outputs


def _checked_losses(losses: Any, z: Tensor, when: str | None) -> Tensor:
    """The rows' losses; where none is required to be finite, as on trials of a search, ``when`` is None."""
    if not isinstance(losses, Tensor) or not losses.is_floating_point():
        raise TypeError(f"loss must return a tensor of floats, got {getattr(losses, 'dtype', type(losses))}")
    if losses.shape != z.shape[:1]:
        raise ValueError(f"loss must return the loss of each row, of shape ({len(z)},), got {tuple(losses.shape)}")
    if when is not None:
        _require_finite("loss", losses.detach(), when)
    return losses


def _require_finite(what: str, values: Tensor, when: str) -> None:
    if not bool(torch.isfinite(values).all()):
        where = tuple(torch.nonzero(~torch.isfinite(values))[0].tolist())
        raise FloatingPointError(f"{what} is NaN or infinite {when}, first at index {where}")


def _checked_indices(indices: Any, z: Tensor) -> Tensor | None:
    if indices is None:
        return None
    rows = torch.as_tensor(indices, device=z.device)
    if rows.is_floating_point() or rows.dtype == torch.bool:
        raise TypeError(f"indices must hold integers, got {rows.dtype}")
    if rows.shape != z.shape[:1]:
        raise ValueError(f"indices must have shape ({len(z)},), one a row of the outputs, got {tuple(rows.shape)}")
    if bool((rows < 0).any()) or len(rows.unique()) != len(rows):
        raise ValueError("indices must be distinct and not negative")
    return rows.long()


@torch.no_grad()
def _warn_if_random(forward: Forward, z: Tensor) -> None:
    """Outputs at the old parameters must be what the surrogate is anchored at."""
    difference = float((forward() - z).abs().max())
    if difference > 100 * torch.finfo(z.dtype).eps * (1 + float(z.abs().max())):
        warn(
            f"forward gives other outputs at the same parameters, by up to {difference:.3g}: switch dropout and the "
            "like off by model.eval(), or the surrogate does not fit the model",
            UserWarning,
            stacklevel=3,
        )
