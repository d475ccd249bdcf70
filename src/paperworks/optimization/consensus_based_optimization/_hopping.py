"""Consensus hopping: all particles are drawn anew around the last consensus point, and the gradient that implies."""

from time import perf_counter
from typing import Any

import numpy as np
import torch
from scipy.optimize import OptimizeResult
from torch import Tensor

from paperworks._progress import progress_bar
from paperworks._random import RandomState
from paperworks._tensors import to_tensors
from paperworks._validation import check_integer, check_number
from paperworks.optimization.consensus_based_optimization._consensus import gibbs_weights, weighted_mean
from paperworks.optimization.consensus_based_optimization._minimize import Callback
from paperworks.optimization.consensus_based_optimization._objective import (
    Function,
    NanPolicy,
    Objective,
    require_a_finite_value,
)
from paperworks.optimization.consensus_based_optimization._swarm import Streams

# Iterations after which the width decays.
DECAY_EVERY = 100


def consensus_hopping(
    fun: Function,
    x0: Any,
    *,
    n_samples: int = 200,
    temperature_inverse: float = 100.0,
    width: float = 0.7,
    n_steps: int = 250,
    width_decay: float = 1.0,
    vectorized: bool = True,
    workers: int = 1,
    nan_policy: NanPolicy = "raise",
    random_state: RandomState = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> OptimizeResult:
    r"""Minimise a function from its values by hopping from consensus point to consensus point.

    .. math::
        X^1, \ldots, X^N \sim N(x_{k-1}, \sigma^2 I), \qquad
        x_k = \frac{\sum_i X^i e^{-\alpha E(X^i)}}{\sum_i e^{-\alpha E(X^i)}}.

    As N grows this is an implicit gradient step of length :math:`\tau = \alpha \sigma^2`,
    :math:`x_k \approx \operatorname{argmin}_y E(y) + \|y - x_{k-1}\|^2 / (2 \tau)`, and samples are few enough that it
    is a perturbed one, by which barriers no wider than about sigma are overcome. For quadratics
    :math:`E(x) = x^\top H x / 2` it is exactly :math:`(I + \tau H)^{-1} x_{k-1}` on average, for every alpha.

    Parameters
    ----------
    fun : function
        Objective E: of points of shape (n, d) to values of shape (n,); tensors, if x0 is one.
    x0 : array_like or Tensor
        Start, of shape (d,).
    n_samples : int, default 200
        N.
    temperature_inverse : float, default 100
        alpha.
    width : float, default 0.7
        sigma.
    n_steps : int, default 250
        Steps.
    width_decay : float, default 1
        Factor of sigma after every 100 steps; the authors take 0.98 where it is to vanish.
    vectorized : bool, default True
        False for a function of one point of shape (d,).
    workers : int, default 1
        Threads for a function of one array that is not vectorized.
    nan_policy : {"raise", "omit"}, default "raise"
        Whether NaN from fun is an error, or counts as infinity.
    random_state : None, int, Generator or RandomState
        Source of the samples.
    callback : callable, optional
        Called after each step with an OptimizeResult of ``x`` (the consensus point), ``fun`` (least value so far),
        ``nit`` and ``nfev``. StopIteration from it ends the run.
    progress : bool, default False
        Whether to show a bar of steps.

    Returns
    -------
    OptimizeResult
        ``x``, the lowest point that was evaluated, and ``fun`` there; ``consensus``, the last consensus point, and
        ``consensus_fun`` there; ``consensus_path`` of shape (n_steps + 1, d), from x0 on; ``implied_gradients``
        :math:`(x_{k-1} - x_k) / (\alpha \sigma^2)`, of shape (n_steps, d); ``nit``, ``nfev``; ``success``, whether all
        steps were taken (no test of convergence is made), ``status``, 0 or 3 for the callback, ``message``; and
        ``history``, a dictionary of ``nfev, seconds, fun`` (least value so far) and ``effective_samples``,
        :math:`(\sum_i w_i)^2 / \sum_i w_i^2`, by which to judge the noise of an implied gradient, each of shape
        (n_steps,).

    Raises
    ------
    ValueError
        If an argument is out of range, or fun returns NaN (the message names step and point), no finite value, or
        another shape.
    TypeError
        If fun can't be called, or x0 does not hold floating-point numbers.

    References
    ----------
    Konstantin Riedl, Timo Klock, Carina Geldhauser, Massimo Fornasier. "Gradient is All You Need? How Consensus-Based
    Optimization can be Interpreted as a Stochastic Relaxation of Gradient Descent". 2023. arXiv:2306.09778.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import benchmark_function, consensus_hopping
    >>> canyon = benchmark_function("canyon")
    >>> result = consensus_hopping(canyon, np.array([8.0, 8.0]), random_state=0)
    >>> float(canyon(result.consensus_path[0])) > 30, result.fun < 0.5
    (True, True)
    """
    check_integer("n_steps", n_steps)
    decay = check_number("width_decay", width_decay, above=0.0, at_most=1.0)
    hop, restore = _Hop.checked(
        fun, {"x0": x0}, n_samples, temperature_inverse, width, vectorized, workers, nan_policy, random_state
    )
    x = hop.start
    path, gradients, best = [x], [], (np.inf, x)
    history: dict[str, list[float]] = {"nfev": [], "seconds": [], "fun": [], "effective_samples": []}
    start, stopped = perf_counter(), False
    with hop.objective, progress_bar(range(n_steps), "consensus hopping", progress) as bar:
        for k in bar:
            tau = hop.alpha * hop.width**2
            ahead, effective, lowest = hop(x, k)
            best = min(best, lowest, key=lambda found: found[0])
            gradients.append((x - ahead) / tau)
            x = ahead
            path.append(x)
            found = (hop.objective.n_evaluations, perf_counter() - start, best[0], effective)
            for entries, entry in zip(history.values(), found, strict=True):
                entries.append(entry)
            if (k + 1) % DECAY_EVERY == 0:
                hop.width *= decay
            if callback is not None:
                try:
                    callback(OptimizeResult(x=restore(x.clone()), fun=best[0], nit=k + 1, nfev=found[0]))
                except StopIteration:
                    stopped = True
                    break
        consensus_fun = float(hop.objective(x, len(gradients)))
    best = min(best, (consensus_fun, x), key=lambda found: found[0])
    return OptimizeResult(
        x=restore(best[1]),
        fun=best[0],
        consensus=restore(x),
        consensus_fun=consensus_fun,
        consensus_path=restore(torch.stack(path)),
        implied_gradients=restore(torch.stack(gradients)),
        nit=len(gradients),
        nfev=hop.objective.n_evaluations,
        success=not stopped,
        status=3 if stopped else 0,
        message="the callback asked to stop" if stopped else f"all {n_steps} steps taken; convergence is not tested",
        history={name: np.array(entries) for name, entries in history.items()},
    )


def implied_gradient(
    fun: Function,
    x: Any,
    *,
    n_samples: int = 10_000,
    temperature_inverse: float = 20.0,
    width: float = 0.05,
    vectorized: bool = True,
    random_state: RandomState = None,
) -> Any:
    r"""Gradient that a hop from x to its consensus point implies, from values alone.

    .. math:: \hat g = \frac{x - x_\alpha}{\alpha \sigma^2}, \qquad X^i \sim N(x, \sigma^2 I).

    For smooth E its limit, as samples grow, is the mean of :math:`\nabla E` over the Gaussian tilted by
    :math:`e^{-\alpha E}`, so that it is the gradient for small widths; it is defined where E has none. Its standard
    error is about :math:`1 / (\alpha \sigma \sqrt N)` a coordinate while :math:`\alpha \sigma \|\nabla E\|` is about
    one or less. Where that exceeds some :math:`\sqrt{2 \log N}`, no sample is where the Gaussian is tilted to: the
    direction stays, and the length is too short; take a smaller alpha.

    Parameters
    ----------
    fun : function
        Objective E: of points of shape (n, d) to values of shape (n,); tensors, if x is one.
    x : array_like or Tensor
        Where, of shape (d,).
    n_samples : int, default 10000
        N.
    temperature_inverse : float, default 20
        alpha.
    width : float, default 0.05
        sigma.
    vectorized : bool, default True
        False for a function of one point of shape (d,).
    random_state : None, int, Generator or RandomState
        Source of the samples.

    Returns
    -------
    ndarray or Tensor
        The implied gradient, of shape (d,).

    Raises
    ------
    ValueError
        If an argument is out of range, or fun returns NaN, no finite value, or another shape.
    TypeError
        If fun can't be called, or x does not hold floating-point numbers.

    References
    ----------
    Konstantin Riedl, Timo Klock, Carina Geldhauser, Massimo Fornasier. "Gradient is All You Need? How Consensus-Based
    Optimization can be Interpreted as a Stochastic Relaxation of Gradient Descent". 2023. arXiv:2306.09778.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import implied_gradient
    >>> implied_gradient(lambda x: x @ [0.3, -0.4], np.zeros(2), n_samples=100_000, random_state=0).round(1)
    array([ 0.3, -0.4])
    """
    hop, restore = _Hop.checked(
        fun, {"x": x}, n_samples, temperature_inverse, width, vectorized, 1, "raise", random_state
    )
    ahead, _, _ = hop(hop.start, 0)
    return restore((hop.start - ahead) / (hop.alpha * hop.width**2))


class _Hop:
    """One step of the scheme: draw around a point, look, and return the consensus."""

    def __init__(
        self, objective: Objective, start: Tensor, n: int, alpha: float, width: float, random_state: RandomState
    ) -> None:
        self.objective, self.start, self.n, self.alpha, self.width = objective, start, n, alpha, width
        self.streams = Streams(random_state, 1, start.device)

    @classmethod
    def checked(
        cls,
        fun: Function,
        named: dict[str, Any],
        n_samples: Any,
        temperature_inverse: Any,
        width: Any,
        vectorized: bool,
        workers: int,
        nan_policy: NanPolicy,
        random_state: RandomState,
    ) -> "tuple[_Hop, Any]":
        [start], restore = to_tensors(**named, ndim=1)
        as_tensors = isinstance(next(iter(named.values())), Tensor)
        objective = Objective(fun, as_tensors=as_tensors, vectorized=vectorized, workers=workers, nan_policy=nan_policy)
        n = check_integer("n_samples", n_samples, at_least=2)
        alpha = check_number("temperature_inverse", temperature_inverse, above=0.0)
        sigma = check_number("width", width, above=0.0)
        return cls(objective, start.detach().clone(), n, alpha, sigma, random_state), restore

    def __call__(self, x: Tensor, iteration: int) -> tuple[Tensor, float, tuple[float, Tensor]]:
        """Consensus point, effective number of samples, and the lowest sample."""
        X = self.streams.normal(self.n, len(x), dtype=x.dtype)[0].mul_(self.width).add_(x)
        values = self.objective(X, iteration)
        require_a_finite_value(values, iteration)
        weights = gibbs_weights(values, self.alpha)
        lowest = int(values.argmin())
        return weighted_mean(weights, X), float(1 / (weights**2).sum()), (float(values[lowest]), X[lowest].clone())
