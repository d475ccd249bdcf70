"""Consensus-based optimization: particles that drift to their consensus point, in one run or many side by side."""

from collections.abc import Callable
from dataclasses import dataclass, field
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
from paperworks._random import RandomState
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.optimization.consensus_based_optimization._objective import Function, Gradient, NanPolicy, Objective
from paperworks.optimization.consensus_based_optimization._swarm import Dynamics, Swarm, initial_swarm

Callback = Callable[[OptimizeResult], object]

# A swarm whose spread has had no new minimum for as many iterations has stalled.
STALL = 50
# Where alpha stops growing: its product with a difference of values stays a number.
HOTTEST = 1e100


def minimize_consensus(
    fun: Function,
    x0: Any = None,
    bounds: Any = None,
    *,
    n_particles: int = 200,
    temperature_inverse: float = 1e5,
    drift: float = 1.0,
    noise: float = 1.2649,
    noise_kind: Literal["anisotropic", "isotropic"] = "anisotropic",
    step: float = 0.01,
    max_iter: int = 4000,
    n_runs: int = 1,
    memory: bool = False,
    memory_drift: float = 0.4,
    memory_noise: float = 0.0,
    memory_sharpness: float | None = None,
    truncation: float | None = None,
    gradient: Function | None = None,
    gradient_weight: float = 0.0,
    batch_size: int | None = None,
    temperature_growth: float = 1.0,
    tol: float = 1e-6,
    max_evaluations: int | None = None,
    vectorized: bool = True,
    workers: int = 1,
    nan_policy: NanPolicy = "raise",
    random_state: RandomState = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> OptimizeResult:
    r"""Minimise a function from its values by consensus-based optimization.

    Particles follow Euler-Maruyama steps of length dt = ``step``,

    .. math::
        X^i \leftarrow X^i - \lambda\,dt\,(X^i - x_\alpha) + \sigma \sqrt{dt}\, D(X^i - x_\alpha)\, B^i,
        \qquad B^i \sim N(0, I),

    where :math:`x_\alpha` is their `consensus_point` and D(v) is diag(v) (anisotropic, which needs no regard to the
    dimension d) or :math:`\|v\| I` (isotropic). Theory asks for :math:`2 \lambda > \sigma^2` and
    :math:`2 \lambda > d \sigma^2`, respectively; it is not enforced. Further terms, all at the same X:

    * memory: the consensus point is that of the best positions :math:`Y^i` that particles remember, and X moves by
      :math:`-\lambda_2\,dt\,(X^i - Y^i) + \sigma_2 \sqrt{dt}\, D(X^i - Y^i)\, \tilde B^i` besides; Y becomes
      :math:`Y^i + (X^i - Y^i)\, S_\beta`, :math:`S_\beta = \tfrac12 (1 + \tanh \beta (E(Y^i) - E(X^i)))`, which for
      infinite beta is the better of both;
    * truncation: no entry (anisotropic) or norm (isotropic) in :math:`D(X^i - x_\alpha)` exceeds a bound;
    * gradient: X moves by :math:`-\gamma\,dt\, \nabla E(X^i)` besides;
    * random batches: in each iteration a random batch of particles is evaluated and forms the consensus, to which all
      particles move.

    Parameters
    ----------
    fun : function
        Objective E: of points of shape (n, d) to values of shape (n,), and at will not smooth. Infinity keeps particles
        out. It is given arrays, or tensors on their device if x0 or bounds are tensors.
    x0 : array_like or Tensor, optional
        Centre of shape (d,), around which particles are drawn from N(x0, I); a swarm of shape (n, d); or one for
        each run, of shape (n_runs, n, d). When None, particles are drawn evenly from ``bounds``.
    bounds : sequence of (low, high), Bounds, array or Tensor, optional
        Of shape (d, 2). Particles that leave are reflected.
    n_particles : int, default 200
        Particles n of a run; where x0 is a swarm, its number counts.
    temperature_inverse : float, default 1e5
        alpha.
    drift : float, default 1
        lambda.
    noise : float, default 1.2649
        sigma, the root of 1.6.
    noise_kind : {"anisotropic", "isotropic"}, default "anisotropic"
        D.
    step : float, default 0.01
        dt.
    max_iter : int, default 4000
        Iterations allowed.
    n_runs : int, default 1
        Independent runs, side by side in one array; on the CPU each is what it would be without the others.
    memory : bool, default False
        Whether particles remember.
    memory_drift : float, default 0.4
        lambda_2.
    memory_noise : float, default 0
        sigma_2.
    memory_sharpness : float, optional
        beta; infinite when None. If finite, each iteration evaluates what is remembered too.
    truncation : float, optional
        Bound of the noise's scale.
    gradient : function, optional
        Gradient of E: of points of shape (n, d) to the same shape; of shape (d,) to (d,) if not ``vectorized``.
    gradient_weight : float, default 0
        gamma.
    batch_size : int, optional
        Particles of a random batch; all when None.
    temperature_growth : float, default 1
        alpha is multiplied by it, run by run, when the spread has had no new minimum for 50 iterations; 2 is usual.
    tol : float, default 1e-6
        A run has converged when its spread, the mean of ||X - x_alpha||, is less.
    max_evaluations : int, optional
        Points that fun may be given in all, but those of the consensus points at the end.
    vectorized : bool, default True
        False for a function of one point of shape (d,): it is called in a loop, or through ``torch.func.vmap`` if it
        is given tensors.
    workers : int, default 1
        Threads for a function of one array that is not vectorized.
    nan_policy : {"raise", "omit"}, default "raise"
        Whether NaN from fun is an error, or counts as infinity.
    random_state : None, int, Generator or RandomState
        Source of randomness; each run spawns its own stream from it, but on accelerators, where all share one.
    callback : callable, optional
        Called after each iteration with an OptimizeResult of ``x`` (the consensus point, or of shape (n_runs, d)),
        ``fun`` (least value so far), ``spread``, ``nit`` and ``nfev``. StopIteration from it ends all runs.
    progress : bool, default False
        Whether to show a bar of iterations.

    Returns
    -------
    OptimizeResult
        Of the best run: ``x``, the lowest point that was evaluated, and ``fun`` there; ``consensus``, the last
        consensus point, and ``consensus_fun`` there (the answer to take if fun is noisy); ``spread``; ``nit``;
        ``success``, whether the spread fell below tol (the swarm agrees; it may do so short of a minimum, as swarms do
        that shrink faster than they travel, so compare runs, or take more particles or a noise nearer to the root of
        2 lambda); ``status``, 0 if so, 1 for max_iter, 2 for max_evaluations, 3 for the callback; ``message``. Of all
        runs: ``nfev`` and ``njev``, all points at which fun and gradient were evaluated; ``consensus_path`` of shape
        (nit, d), or (n_runs, nit, d); ``history``, a dictionary of ``nfev`` and ``seconds`` of shape (nit,), ``fun``
        (least value so far) and ``spread`` of shape (nit,) or (n_runs, nit), where runs that have converged keep
        their last entry; ``runs``, a dictionary of ``x, fun, consensus, consensus_fun, spread, nit, success``, an
        entry a run.

    Raises
    ------
    ValueError
        If an argument is out of range, fun returns NaN (the message names iteration and point), no finite value, or
        another shape, or particles are no longer finite.
    TypeError
        If fun or gradient can't be called, or x0 does not hold floating-point numbers.

    Warns
    -----
    ConvergenceWarning
        If the best run has not converged.

    References
    ----------
    Konstantin Riedl, Timo Klock, Carina Geldhauser, Massimo Fornasier. "Gradient is All You Need? How Consensus-Based
    Optimization can be Interpreted as a Stochastic Relaxation of Gradient Descent". 2023. arXiv:2306.09778.

    Examples
    --------
    >>> from paperworks.optimization import benchmark_function, minimize_consensus
    >>> result = minimize_consensus(benchmark_function("rastrigin"), bounds=[(-3, 5), (-3, 5)], random_state=0)
    >>> result.x.round(4) + 0.0, result.success
    (array([0., 0.]), True)
    """
    limits = _Limits.checked(max_iter, tol, max_evaluations, temperature_growth, callback)
    dynamics = Dynamics(
        step=check_number("step", step, above=0.0),
        drift=check_number("drift", drift, above=0.0),
        noise=check_number("noise", noise, at_least=0.0),
        isotropic=check_choice("noise_kind", noise_kind, ("anisotropic", "isotropic")) == "isotropic",
        truncation=inf if truncation is None else check_number("truncation", truncation, above=0.0),
        memory=bool(memory),
        memory_drift=check_number("memory_drift", memory_drift, at_least=0.0),
        memory_noise=check_number("memory_noise", memory_noise, at_least=0.0),
        memory_sharpness=(
            inf if memory_sharpness is None else check_number("memory_sharpness", memory_sharpness, above=0.0)
        ),
        gradient_weight=check_number("gradient_weight", gradient_weight, at_least=0.0),
    )
    alpha = check_number("temperature_inverse", temperature_inverse, above=0.0)
    check_integer("n_runs", n_runs)
    check_integer("n_particles", n_particles, at_least=2)
    X, streams, box, as_tensors = initial_swarm(x0, bounds, n_particles, n_runs, random_state)
    if batch_size is not None and check_integer("batch_size", batch_size) > X.shape[1]:
        raise ValueError(f"batch_size must be at most the number of particles {X.shape[1]}, got {batch_size}")
    if dynamics.gradient_weight and gradient is None:
        raise ValueError(f"gradient_weight is {gradient_weight}, but no gradient is given")
    slope = None if gradient is None else Gradient(gradient, as_tensors=as_tensors, vectorized=vectorized)
    swarm = Swarm(X, dynamics, streams, box, batch_size)
    objective = Objective(fun, as_tensors=as_tensors, vectorized=vectorized, workers=workers, nan_policy=nan_policy)
    with objective, progress_bar(range(limits.max_iter), "consensus-based optimization", progress) as bar:
        record = _Record.empty(swarm, objective, alpha, as_tensors)
        for iteration in bar:
            if record.stops_before(swarm, limits) or not _iterate(swarm, record, slope, limits, iteration):
                break
            if progress:
                bar.set_postfix(fun=f"{float(record.best_value.min()):.4g}", refresh=False)
        return record.result(limits, 0 if slope is None else slope.n_evaluations)


@dataclass(frozen=True)
class _Limits:
    max_iter: int
    tol: float
    max_evaluations: float
    growth: float
    callback: Callback | None

    @classmethod
    def checked(
        cls, max_iter: Any, tol: Any, max_evaluations: Any, growth: Any, callback: Callback | None
    ) -> "_Limits":
        return cls(
            check_integer("max_iter", max_iter),
            check_number("tol", tol, at_least=0.0),
            inf if max_evaluations is None else check_integer("max_evaluations", max_evaluations),
            check_number("temperature_growth", growth, at_least=1.0),
            callback,
        )


def _iterate(swarm: Swarm, record: "_Record", slope: Gradient | None, limits: _Limits, iteration: int) -> bool:
    """One iteration of the runs that go on; False if the callback asks to stop."""
    points, values = swarm.evaluate(record.objective, iteration)
    consensus = swarm.consensus(record.alpha[record.active, None], iteration)
    record.saw(points, values, consensus)
    spread = swarm.move(consensus, None if slope is None else lambda X: slope(X, iteration))
    if not torch.isfinite(spread).all() or not torch.isfinite(consensus).all():
        raise ValueError(f"particles are no longer finite at iteration {iteration}: noise or step is too large")
    finished = record.moved(spread, limits)
    if limits.callback is not None and not _told(limits.callback, record):
        return False
    if finished.any():
        staying = (~finished).nonzero()[:, 0].tolist()
        record.active = record.active[staying]
        swarm.keep(staying)
    return True


def _told(callback: Callback, record: "_Record") -> bool:
    state = OptimizeResult(
        x=record.plain(record.consensus.clone()),
        fun=record.plain(record.best_value.clone()),
        spread=record.plain(record.spread.clone()),
        nit=len(record.path),
        nfev=record.objective.n_evaluations,
    )
    try:
        callback(state)
    except StopIteration:
        record.status = 3
        return False
    return True


@dataclass
class _Record:
    """What all runs have found so far, those that have converged included."""

    objective: Objective
    as_tensors: bool
    alpha: Tensor
    active: Tensor
    best_x: Tensor
    best_value: Tensor
    consensus: Tensor
    spread: Tensor
    least_spread: Tensor
    waited: Tensor
    nit: Tensor
    converged: Tensor
    start: float
    status: int = 1
    path: list[Tensor] = field(default_factory=list)
    history: dict[str, list[Any]] = field(default_factory=lambda: {"nfev": [], "seconds": [], "fun": [], "spread": []})

    @classmethod
    def empty(cls, swarm: Swarm, objective: Objective, alpha: float, as_tensors: bool) -> "_Record":
        M = len(swarm.X)
        numbers: dict[str, Any] = {"dtype": torch.float64, "device": swarm.X.device}
        counts = torch.zeros(M, dtype=torch.int64, device=swarm.X.device)
        return cls(
            objective,
            as_tensors,
            alpha=torch.full((M,), alpha, **numbers),
            active=torch.arange(M, device=swarm.X.device),
            best_x=swarm.X[:, 0].clone(),
            best_value=torch.full((M,), inf, **numbers),
            consensus=swarm.X[:, 0].clone(),
            spread=torch.full((M,), inf, **numbers),
            least_spread=torch.full((M,), inf, **numbers),
            waited=counts.clone(),
            nit=counts.clone(),
            converged=counts.bool(),
            start=perf_counter(),
        )

    def stops_before(self, swarm: Swarm, limits: _Limits) -> bool:
        """Whether all have converged, or the next iteration may evaluate more than is allowed."""
        if not len(self.active):
            return True
        n = len(self.active) * (swarm.batch_size or swarm.X.shape[1])
        # A sigmoid's memory evaluates what is remembered besides.
        n *= 2 if swarm.dynamics.memory and swarm.dynamics.memory_sharpness < inf else 1
        if self.path and self.objective.n_evaluations + n > limits.max_evaluations:
            self.status = 2
            return True
        return False

    def saw(self, points: Tensor, values: Tensor, consensus: Tensor) -> None:
        """Keep the lowest points, and the consensus."""
        lowest, where = values.min(dim=1)
        lower = lowest < self.best_value[self.active]
        runs = self.active[lower]
        self.best_value[runs] = lowest[lower]
        self.best_x[runs] = points[lower, where[lower]]
        self.consensus[self.active] = consensus

    def moved(self, spread: Tensor, limits: _Limits) -> Tensor:
        """Keep the spread, close the iteration, and say which of the active runs have converged."""
        self.spread[self.active] = spread
        self.nit[self.active] += 1
        self._heat(spread, limits.growth)
        self.path.append(self.consensus.clone())
        found = (self.objective.n_evaluations, perf_counter() - self.start, self.best_value, self.spread)
        for entries, entry in zip(self.history.values(), found, strict=True):
            entries.append(entry.clone() if isinstance(entry, Tensor) else entry)
        finished = spread < limits.tol
        self.converged[self.active[finished]] = True
        return finished

    def _heat(self, spread: Tensor, growth: float) -> None:
        if growth == 1:
            return
        runs = self.active
        fell = spread < self.least_spread[runs]
        self.least_spread[runs] = torch.where(fell, spread, self.least_spread[runs])
        self.waited[runs] = torch.where(fell, 0, self.waited[runs] + 1)
        stalled = runs[self.waited[runs] >= STALL]
        self.alpha[stalled] = (self.alpha[stalled] * growth).clamp(max=HOTTEST)
        self.waited[stalled] = 0

    def plain(self, runs: Tensor) -> Any:
        """Without the axis of runs where there is one run, and as the caller speaks."""
        return self._spoken(runs[0] if len(self.nit) == 1 else runs)

    def _spoken(self, tensor: Tensor) -> Any:
        if tensor.ndim == 0:
            return tensor.item()
        return tensor if self.as_tensors else tensor.numpy()

    def result(self, limits: _Limits, n_gradients: int) -> OptimizeResult:
        """Look at the last consensus points, choose the best run, and warn if it has not converged."""
        consensus_fun = self.objective(self.consensus, len(self.path))
        lower = consensus_fun < self.best_value
        fun = torch.where(lower, consensus_fun, self.best_value)
        x = torch.where(lower[:, None], self.consensus, self.best_x)
        best = int(fun.argmin())
        success = bool(self.converged[best])
        status = 0 if success else self.status
        message = _message(status, float(self.spread[best]), limits)
        if status in (1, 2):
            warn(f"not converged: {message}", ConvergenceWarning, stacklevel=3)
        runs = {
            "x": x,
            "fun": fun,
            "consensus": self.consensus,
            "consensus_fun": consensus_fun,
            "spread": self.spread,
            "nit": self.nit,
            "success": self.converged,
        }
        history: dict[str, Any] = {name: np.array(self.history[name]) for name in ("nfev", "seconds")}
        history |= {name: self.plain(torch.stack(self.history[name], dim=1)) for name in ("fun", "spread")}
        return OptimizeResult(
            **{name: self._spoken(entries[best]) for name, entries in runs.items()},
            status=status,
            message=message,
            nfev=self.objective.n_evaluations,
            njev=n_gradients,
            consensus_path=self.plain(torch.stack(self.path, dim=1)),
            history=history,
            runs={name: self._spoken(entries) for name, entries in runs.items()},
        )


def _message(status: int, spread: float, limits: _Limits) -> str:
    reason = {
        0: "the particles agree, which is no certificate of a minimum",
        1: f"max_iter={limits.max_iter} is reached",
        2: f"max_evaluations={limits.max_evaluations} is reached",
        3: "the callback asked to stop",
    }[status]
    return f"spread {spread:.3g}, {'below' if status == 0 else 'not below'} tol {limits.tol:.3g}: {reason}"
