"""Halpern iterations on variance-reduced estimates: one loop for cocoercive operators, two for monotone ones."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any, Literal

import numpy as np
from numba import njit
from scipy.optimize import OptimizeResult

from paperworks._progress import progress_bar
from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.optimization.halpern_iteration._operators import (
    BilinearOperator,
    FiniteSumOperator,
    Indices,
    SimplexProjection,
    Vector,
    project_to_simplex,
)
from paperworks.optimization.halpern_iteration._oracle import (
    Callback,
    Oracle,
    Resolvent,
    Run,
    constant_of,
    new_run,
    start,
)

Draw = Callable[[int], Indices]


def halpern_iteration(
    operator: FiniteSumOperator,
    x0: Any,
    *,
    resolvent: Resolvent | None = None,
    kind: Literal["auto", "cocoercive", "monotone"] = "auto",
    lipschitz: float | None = None,
    step_size: float | None = None,
    batch_size: int | None = None,
    sampling: Literal["independent", "blocks"] = "independent",
    tolerance: float = 1e-6,
    max_oracle_calls: int | None = None,
    inner_fraction: float = 0.25,
    inner_power: float = 1.0,
    inner_step_size: float | None = None,
    callback: Callback | None = None,
    random_state: RandomState = None,
    progress: bool = False,
) -> OptimizeResult:
    r"""Solve a monotone inclusion of a finite sum by Halpern iteration with variance reduction.

    .. math:: 0 \in F(u) + G(u), \qquad F = \frac1n \sum_{i=1}^n F_i.

    Cocoercive operators take one loop (Algorithm 1 of the paper), anchored at the start :math:`u_0`,

    .. math::
        u_{k+1} = J_{\eta G}\bigl(\lambda_k u_0 + (1 - \lambda_k) u_k - \eta \tilde F_k\bigr),
        \qquad \lambda_k = \tfrac{2}{k + 4},

    where :math:`\tilde F_k` is F itself with probability :math:`p_k`, and else changes by the mean difference, over a
    batch, between the last two iterates. Its expected residual falls as :math:`O(L \|u_0 - u^*\| / k)`, for
    :math:`O(n + \sqrt n L / \varepsilon)` components. Monotone Lipschitz operators take two (Algorithm 2): Halpern
    iteration on the resolvent of :math:`\eta (F + G)`, with :math:`\lambda_k = 1 / (k + 2)`, computed inexactly by
    variance-reduced forward-reflected-backward steps (Algorithm 3).

    Parameters
    ----------
    operator : FiniteSumOperator
        The sum F.
    x0 : array_like
        Start and anchor, floating point, of shape (dimension,).
    resolvent : callable, optional
        ``resolvent(v, step_size)`` is :math:`(I + \text{step\_size}\, G)^{-1} v`: a projection, or a proximal step.
        None for G = 0.
    kind : {"auto", "cocoercive", "monotone"}, default "auto"
        Which algorithm; "auto" goes by whether the operator has a cocoercivity.
    lipschitz : float, optional
        L of the assumption that ``kind`` makes; the operator's own when None.
    step_size : float, optional
        eta: 1 / (4 L) for cocoercive and sqrt(n) / L for monotone operators when None. Four to eight times the former
        often converges several times quicker, without a guarantee.
    batch_size : int, optional
        Components of a batch; the root of n, rounded up, when None (one for the operators of bilinear functions, whose
        steps are compiled).
    sampling : {"independent", "blocks"}, default "independent"
        Independent draws, or neighbouring components from a random one on, which reads memory in order and suits
        components that are in random order already.
    tolerance : float, default 1e-6
        Residual ||F(u) + g||, for a g in G(u), to stop at. As it falls with the reciprocal of the iterations, the
        default asks for patience.
    max_oracle_calls : int, optional
        Components that may be evaluated; 10,000 full evaluations when None.
    inner_fraction : float, default 0.25
        For monotone operators: the inner residual may be this share of ||u_k - z|| / (k + 2)^inner_power.
    inner_power : float, default 1
        As above; with 1/2 inner loops are shorter.
    inner_step_size : float, optional
        For monotone operators: step tau of the inner loop; what theory allows when None. Four times that often
        converges several times quicker.
    callback : callable, optional
        Called after each iteration with an OptimizeResult of ``x, g, nit, n_oracle_calls``.
    random_state : None, int, Generator or RandomState
        Source of the batches.
    progress : bool, default False
        Whether to show a bar of the calls that are allowed.

    Returns
    -------
    OptimizeResult
        ``x``; ``g``, the element of G(x) that certifies it; ``residual`` (and ``fun``), ||F(x) + g|| by a full
        evaluation; ``nit``; ``n_oracle_calls``, all components evaluated, a full evaluation n and a batch of b
        differences 2 b; ``n_full_evaluations``; ``success``; ``message``; ``history``, a dictionary of the arrays
        ``iteration``, ``oracle_calls`` and ``residual``, an entry for each full evaluation.

    Raises
    ------
    ValueError
        If L is unknown, a parameter is out of range, x0 is no finite vector of the operator's dimension, or the
        operator or resolvent returns NaN, infinity or another shape (the message names the iteration).
    TypeError
        If the operator is no FiniteSumOperator or x0 does not hold floating-point numbers.

    Warns
    -----
    ConvergenceWarning
        If the calls are spent before the tolerance is met.
    RuntimeWarning
        If two visited points show that F is not monotone.

    References
    ----------
    Xufeng Cai, Ahmet Alacaoglu, Jelena Diakonikolas. "Variance Reduced Halpern Iteration for Finite-Sum Monotone
    Inclusions". ICLR 2024. arXiv:2310.02987.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import halpern_iteration, least_squares_operator
    >>> generator = np.random.default_rng(0)
    >>> A = generator.normal(size=(1000, 5))
    >>> operator = least_squares_operator(A, A @ np.arange(5.0))
    >>> result = halpern_iteration(operator, np.zeros(5), tolerance=1e-2, random_state=0)
    >>> result.x.round(1) + 0.0, result.success
    (array([0., 1., 2., 3., 4.]), True)
    """
    oracle = Oracle(operator, resolvent)
    u = start(x0, operator)
    check_choice("kind", kind, ("auto", "cocoercive", "monotone"))
    check_choice("sampling", sampling, ("independent", "blocks"))
    if kind == "auto":
        kind = "monotone" if operator.cocoercivity is None else "cocoercive"
    generator = numpy_generator(random_state)
    n = operator.n_components
    compiled = isinstance(operator, BilinearOperator) and isinstance(resolvent, SimplexProjection | None)
    root = 1 if compiled and kind == "monotone" else ceil(sqrt(n))
    batch = root if batch_size is None else check_integer("batch_size", batch_size)
    draw = _sampler(operator, sampling, generator)
    with progress_bar((), "Halpern iteration", progress, total=max_oracle_calls) as bar:
        run = new_run(oracle, tolerance, max_oracle_calls, u, callback, bar if progress else None)
        if kind == "cocoercive":
            inverse = None if operator.cocoercivity is None else 1 / operator.cocoercivity
            constant = constant_of("lipschitz", lipschitz, inverse, operator.lipschitz)
            step = 1 / (4 * constant) if step_size is None else check_number("step_size", step_size, above=0.0)
            _cocoercive(run, u, step, batch, draw, generator)
        else:
            constant = constant_of("lipschitz", lipschitz, operator.lipschitz)
            step = sqrt(n) / constant if step_size is None else check_number("step_size", step_size, above=0.0)
            fraction = check_number("inner_fraction", inner_fraction, above=0.0)
            inner = _Inner.of(operator, step, batch, constant, inner_step_size, generator, draw)
            _monotone(run, u, inner, fraction, check_number("inner_power", inner_power, at_least=0.0))
    return run.result()


def _sampler(operator: FiniteSumOperator, sampling: str, generator: np.random.Generator) -> Draw:
    if sampling == "independent":
        return lambda size: operator.draw(generator, size)
    if operator.probabilities is not None or isinstance(operator, BilinearOperator):
        raise ValueError("sampling='blocks' needs components that are drawn with equal probabilities")
    n = operator.n_components
    return lambda size: (generator.integers(n) + np.arange(size)) % n


def _cocoercive(run: Run, u: Vector, step: float, batch: int, draw: Draw, generator: np.random.Generator) -> None:
    """Algorithm 1: Halpern iteration on the recursive estimator PAGE."""
    oracle, anchor, root = run.oracle, u, sqrt(run.oracle.operator.n_components)
    estimate = oracle.full(u)
    if oracle.resolvent is None and run.certify(u, estimate, 0.0):
        return
    while True:
        k = oracle.iteration
        weight = 2 / (k + 4)
        new, g = oracle.resolve(weight * anchor + (1 - weight) * u - step * estimate, step)
        if run.spent or generator.random() < 4 / (min(k + 1, root) + 5):
            estimate = oracle.full(new)
            if run.certify(new, estimate, g) or run.spent:
                run.stepped(new, g)
                return
        else:
            estimate = estimate + oracle.difference(new, u, draw(batch))
        u = new
        run.stepped(u, g)


@dataclass(frozen=True)
class _Inner:
    """Constants of the inner loop, the resolvent of eta (F + G) by VR-FoRB, with the quadratic in the resolvent."""

    eta: float
    tau: float
    refresh: float
    batch: int
    generator: np.random.Generator
    draw: Draw

    @classmethod
    def of(
        cls,
        operator: FiniteSumOperator,
        eta: float,
        batch: int,
        constant: float,
        tau: float | None,
        generator: np.random.Generator,
        draw: Draw,
    ) -> "_Inner":
        refresh = min(batch / operator.n_components, 0.5)
        if tau is None:
            tau = sqrt(refresh * (1 - refresh)) / (2 * eta * constant)
        return cls(eta, check_number("inner_step_size", tau, above=0.0), refresh, batch, generator, draw)

    @property
    def shrink(self) -> float:
        """c = 1 / (1 + tau), by which the quadratic folds into the resolvent."""
        return 1 / (1 + self.tau)


def _monotone(run: Run, u: Vector, inner: _Inner, fraction: float, power: float) -> None:
    """Algorithm 2: Halpern iteration on the inexact resolvent of eta (F + G)."""
    oracle, anchor = run.oracle, u
    z, value = u, oracle.full(u)
    if oracle.resolvent is None and run.certify(u, value, 0.0):
        return
    while True:
        k = oracle.iteration
        z, value, g, done = _inner_loop(run, inner, u, z, value, fraction / (k + 2) ** power)
        run.stepped(z, g)
        if done:
            return
        weight = 1 / (k + 2)
        u = weight * anchor + (1 - weight) * z


def _inner_loop(
    run: Run, inner: _Inner, u: Vector, z: Vector, value: Vector, share: float
) -> tuple[Vector, Vector, Vector | float, bool]:
    """Algorithm 3 from z, where F is ``value``, until the residual is a share of ||u - z||, or all is done.

    Each time that the point w of the full evaluation moves to the last iterate, that iterate is certified.
    """
    oracle = run.oracle
    w = before = z
    while True:
        # The number of steps until w moves is geometric; no more are taken than calls are left.
        left = max(1, (run.max_oracle_calls - oracle.n_calls) // (2 * inner.batch))
        length = min(int(inner.generator.geometric(inner.refresh)), left)
        indices = inner.draw(length * inner.batch)
        z, g = _steps(oracle, inner, u, z, w, before, value, indices)
        before, w, value = w, z, oracle.full(z)
        if run.certify(z, value, g) or run.spent:
            return z, value, g, True
        distance = u - z
        if np.linalg.norm(inner.eta * (value + g) - distance) <= share * np.linalg.norm(distance):
            return z, value, g, False


def _steps(
    oracle: Oracle,
    inner: _Inner,
    u: Vector,
    z: Vector,
    w: Vector,
    before: Vector,
    value: Vector,
    indices: Indices,
) -> tuple[Vector, Vector | float]:
    """Take forward-reflected-backward steps that share w; only the first looks back to the point before w."""
    operator, step = oracle.operator, inner.shrink * inner.tau * inner.eta
    if isinstance(operator, BilinearOperator) and isinstance(oracle.resolvent, SimplexProjection | None):
        oracle.n_calls += 2 * len(indices)
        v, z = _bilinear_steps(
            operator.matrix,
            operator.transposed,
            operator.row_weights,
            operator.column_weights,
            indices.reshape(-1, inner.batch, 2),
            *(u, z, w, before, value),
            *(inner.refresh, inner.tau, inner.eta),
            oracle.resolvent is not None,
        )
        if not np.isfinite(z).all():
            raise ValueError(f"u is no longer finite at iteration {oracle.iteration}: inner_step_size is too large")
        return z, (v - z) / step if oracle.resolvent is not None else 0.0
    g: Vector | float = 0.0
    for t, batch in enumerate(np.split(indices, len(indices) // inner.batch)):
        mixed = (1 - inner.refresh) * z + inner.refresh * w
        estimate = value + oracle.difference(z, w if t else before, batch)
        z, g = oracle.resolve(inner.shrink * (mixed - inner.tau * (inner.eta * estimate - u)), step)
    return z, g


@njit(cache=True, nogil=True)
def _bilinear_steps(
    matrix,
    transposed,
    row_weights,
    column_weights,
    pairs,
    u,
    z,
    w,
    before,
    value,
    refresh,
    tau,
    eta,
    on_simplices,
):
    m, k = matrix.shape
    steps, batch = pairs.shape[:2]
    shrink = 1 / (1 + tau)
    z, v = z.copy(), np.empty_like(z)
    fixed = shrink * (refresh * w + tau * (u - eta * value))
    for t in range(steps):
        old = before if t == 0 else w
        for a in range(m + k):
            v[a] = fixed[a] + shrink * (1 - refresh) * z[a]
        for s in range(batch):
            i, j = pairs[t, s, 0], pairs[t, s, 1]
            scale = shrink * tau * eta / batch
            of_x, of_y = scale * row_weights[i] * (z[i] - old[i]), scale * column_weights[j] * (z[m + j] - old[m + j])
            for a in range(m):
                v[a] -= of_y * transposed[j, a]
            for a in range(k):
                v[m + a] += of_x * matrix[i, a]
        z[:] = v
        if on_simplices:
            project_to_simplex(z[:m])
            project_to_simplex(z[m:])
    return v, z
