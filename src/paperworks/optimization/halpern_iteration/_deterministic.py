"""Deterministic methods, which evaluate all components at every step: Halpern, extragradient, and both together."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from paperworks._validation import check_number
from paperworks.optimization.halpern_iteration._operators import FiniteSumOperator, Vector
from paperworks.optimization.halpern_iteration._oracle import (
    Callback,
    Oracle,
    Resolvent,
    Run,
    constant_of,
    new_run,
    start,
)

Method = Callable[[Run, Vector, float], None]


def deterministic_halpern(
    operator: FiniteSumOperator,
    x0: Any,
    *,
    resolvent: Resolvent | None = None,
    step_size: float | None = None,
    tolerance: float = 1e-6,
    max_oracle_calls: int | None = None,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Halpern iteration on a cocoercive operator, anchored at the start.

    .. math::
        u_{k+1} = \lambda_k u_0 + (1 - \lambda_k)\, J_{\eta G}(u_k - \eta F(u_k)), \qquad \lambda_k = \frac{1}{k + 2}.

    Parameters
    ----------
    operator : FiniteSumOperator
        F; only its full evaluations are used.
    x0 : array_like
        Start and anchor, of shape (dimension,).
    resolvent : callable, optional
        ``resolvent(v, step_size)``, that of G; none when None.
    step_size : float, optional
        eta, 2 / L_F without a resolvent and 1 / L_F with one when None.
    tolerance : float, default 1e-6
        Residual ||F(u) + g|| to stop at.
    max_oracle_calls : int, optional
        Components that may be evaluated; 10,000 full evaluations when None.
    callback : callable, optional
        Called after each iteration with an OptimizeResult of ``x, g, nit, n_oracle_calls``.

    Returns
    -------
    OptimizeResult
        As of `halpern_iteration`.

    Raises
    ------
    ValueError
        If a Lipschitz constant is needed and unknown, or F or the resolvent gives NaN, infinity or another shape.

    References
    ----------
    Xufeng Cai, Ahmet Alacaoglu, Jelena Diakonikolas. "Variance Reduced Halpern Iteration for Finite-Sum Monotone
    Inclusions". ICLR 2024. arXiv:2310.02987.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import deterministic_halpern, least_squares_operator
    >>> deterministic_halpern(least_squares_operator(np.eye(2), np.ones(2)), np.zeros(2), tolerance=1e-2).x.round(1)
    array([1., 1.])
    """
    factor = 2.0 if resolvent is None else 1.0
    return _run(_halpern, operator, x0, resolvent, step_size, factor, tolerance, max_oracle_calls, callback)


def extragradient(
    operator: FiniteSumOperator,
    x0: Any,
    *,
    resolvent: Resolvent | None = None,
    step_size: float | None = None,
    tolerance: float = 1e-6,
    max_oracle_calls: int | None = None,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Extragradient method on a monotone Lipschitz operator.

    .. math:: \bar u_k = J_{\eta G}(u_k - \eta F(u_k)), \qquad u_{k+1} = J_{\eta G}(u_k - \eta F(\bar u_k)).

    Parameters
    ----------
    operator : FiniteSumOperator
        F; only its full evaluations are used.
    x0 : array_like
        Start, of shape (dimension,).
    resolvent : callable, optional
        ``resolvent(v, step_size)``, that of G; none when None.
    step_size : float, optional
        eta, 1 / (2 L_F) when None.
    tolerance : float, default 1e-6
        Residual ||F(u) + g|| to stop at.
    max_oracle_calls : int, optional
        Components that may be evaluated; 10,000 full evaluations when None.
    callback : callable, optional
        Called after each iteration with an OptimizeResult of ``x, g, nit, n_oracle_calls``.

    Returns
    -------
    OptimizeResult
        As of `halpern_iteration`.

    Raises
    ------
    ValueError
        If a Lipschitz constant is needed and unknown, or F or the resolvent gives NaN, infinity or another shape.

    References
    ----------
    G. M. Korpelevich. "The extragradient method for finding saddle points and other problems". 1976.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import bilinear_saddle, extragradient
    >>> extragradient(bilinear_saddle(np.eye(2)), np.ones(4)).x.round(3) + 0.0
    array([0., 0., 0., 0.])
    """
    return _run(_extragradient, operator, x0, resolvent, step_size, 0.5, tolerance, max_oracle_calls, callback)


def extra_anchored_gradient(
    operator: FiniteSumOperator,
    x0: Any,
    *,
    resolvent: Resolvent | None = None,
    step_size: float | None = None,
    tolerance: float = 1e-6,
    max_oracle_calls: int | None = None,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Extragradient steps that are anchored at the start (EAG), for a monotone Lipschitz operator.

    .. math::
        \bar u_k = J_{\eta G}(\lambda_k u_0 + (1 - \lambda_k) u_k - \eta F(u_k)), \qquad
        u_{k+1} = J_{\eta G}(\lambda_k u_0 + (1 - \lambda_k) u_k - \eta F(\bar u_k)), \qquad
        \lambda_k = \frac{1}{k + 2}.

    Parameters
    ----------
    operator : FiniteSumOperator
        F; only its full evaluations are used.
    x0 : array_like
        Start and anchor, of shape (dimension,).
    resolvent : callable, optional
        ``resolvent(v, step_size)``, that of G; none when None.
    step_size : float, optional
        eta, 1 / (2 L_F) when None.
    tolerance : float, default 1e-6
        Residual ||F(u) + g|| to stop at.
    max_oracle_calls : int, optional
        Components that may be evaluated; 10,000 full evaluations when None.
    callback : callable, optional
        Called after each iteration with an OptimizeResult of ``x, g, nit, n_oracle_calls``.

    Returns
    -------
    OptimizeResult
        As of `halpern_iteration`.

    Raises
    ------
    ValueError
        If a Lipschitz constant is needed and unknown, or F or the resolvent gives NaN, infinity or another shape.

    References
    ----------
    TaeHo Yoon, Ernest K. Ryu. "Accelerated Algorithms for Smooth Convex-Concave Minimax Problems with O(1/k^2) Rate on
    Squared Gradient Norm". ICML 2021. arXiv:2102.07922.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import bilinear_saddle, extra_anchored_gradient
    >>> extra_anchored_gradient(bilinear_saddle(np.eye(2)), np.ones(4), tolerance=0.01).success
    True
    """
    return _run(_anchored, operator, x0, resolvent, step_size, 0.5, tolerance, max_oracle_calls, callback)


def _run(
    method: Method,
    operator: FiniteSumOperator,
    x0: Any,
    resolvent: Resolvent | None,
    step_size: float | None,
    factor: float,
    tolerance: float,
    max_oracle_calls: int | None,
    callback: Callback | None,
) -> OptimizeResult:
    oracle = Oracle(operator, resolvent)
    u = start(x0, operator)
    if step_size is None:
        inverse = None if operator.cocoercivity is None else 1 / operator.cocoercivity
        step_size = factor / constant_of("lipschitz", operator.full_lipschitz, operator.lipschitz, inverse)
    run = new_run(oracle, tolerance, max_oracle_calls, u, callback)
    method(run, u, check_number("step_size", step_size, above=0.0))
    return run.result()


def _halpern(run: Run, u: Vector, step_size: float) -> None:
    oracle, anchor = run.oracle, u
    value = oracle.full(u)
    while True:
        moved, g = oracle.resolve(u - step_size * value, step_size)
        if oracle.resolvent is None:
            done = run.certify(u, value, 0.0)
        else:
            # The certificate is at the point behind the resolvent, and costs an evaluation of its own.
            promising = run.spent or float(np.linalg.norm(u - moved)) <= run.tolerance * step_size
            done = promising and run.certify(moved, oracle.full(moved), g)
        if done or run.spent:
            return
        weight = 1 / (oracle.iteration + 2)
        u = weight * anchor + (1 - weight) * moved
        value = oracle.full(u)
        run.stepped(u, g)


def _extragradient(run: Run, u: Vector, step_size: float) -> None:
    oracle = run.oracle
    value = oracle.full(u)
    if oracle.resolvent is None and run.certify(u, value, 0.0):
        return
    while True:
        ahead, _ = oracle.resolve(u - step_size * value, step_size)
        u, g = oracle.resolve(u - step_size * oracle.full(ahead), step_size)
        value = oracle.full(u)
        run.stepped(u, g)
        if run.certify(u, value, g) or run.spent:
            return


def _anchored(run: Run, u: Vector, step_size: float) -> None:
    oracle, anchor = run.oracle, u
    value = oracle.full(u)
    if oracle.resolvent is None and run.certify(u, value, 0.0):
        return
    while True:
        weight = 1 / (oracle.iteration + 2)
        pulled = weight * anchor + (1 - weight) * u
        ahead, _ = oracle.resolve(pulled - step_size * value, step_size)
        u, g = oracle.resolve(pulled - step_size * oracle.full(ahead), step_size)
        value = oracle.full(u)
        run.stepped(u, g)
        if run.certify(u, value, g) or run.spent:
            return
