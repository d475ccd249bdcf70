r"""Entropic optimal transport with weak regularisation, by Sinkhorn sweeps and then sparse Newton steps.

The problem, for a cost :math:`C` and marginals :math:`r`, :math:`c` of equal sum, with
:math:`\varepsilon = 1/\eta` the regularisation:

.. math:: \min_P \; \langle C, P\rangle + \varepsilon \sum_{ij} P_{ij}\log P_{ij}
          \quad\text{subject to}\quad P\mathbf 1 = r,\; P^\top\mathbf 1 = c.

Its dual maximises :math:`f(x, y) = -\varepsilon\sum_{ij} P_{ij} + r\cdot x + c\cdot y` over potentials that give
:math:`P_{ij} = \exp(\eta(x_i + y_j - C_{ij}) - 1)`. After a few sweeps the plan, and with it the Hessian

.. math:: -\nabla^2 f = \eta\begin{pmatrix} D_1 & P\\ P^\top & D_2\end{pmatrix},\quad
          D_1 = \operatorname{diag}(P\mathbf 1),\; D_2 = \operatorname{diag}(P^\top\mathbf 1),

is nearly sparse, so that a Newton step costs little more than a sweep.
"""

from collections.abc import Callable
from typing import Any, Literal
from warnings import warn

import numpy as np
import torch
from scipy.optimize import OptimizeResult
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from paperworks._tensors import Array, to_tensors
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.transport._entropic_newton import (
    Run,
    State,
    anneal,
    damped_newton,
    new_run,
    newton_of_the_paper,
    sweep,
    verdict,
)
from paperworks.transport._entropic_point_clouds import PointCloudValue, spread
from paperworks.transport._gibbs_plans import GibbsPlan, Vector, gibbs_plan

__all__ = [
    "OptimalTransportResult",
    "SinkhornNewtonSolver",
    "entropic_wasserstein_distance",
    "sinkhorn",
    "sinkhorn_newton",
]

Sparsification = Literal["adaptive", "fixed"] | None


class OptimalTransportResult(OptimizeResult):
    """What a solver of entropic optimal transport found.

    Parameters
    ----------
    **fields
        The attributes below; a dictionary with attribute access, as in SciPy.

    Attributes
    ----------
    plan : ndarray or Tensor of shape (n, m)
        Coupling, equal to ``exp((dual_source[:, None] + dual_target - cost) / regularization - 1)``.
    value : float or Tensor
        Transport cost <C, P>. Detached: its gradient is not the plan.
    regularized_value : float or Tensor
        <C, P> + regularization * sum P log P. For tensors it is differentiable, by the envelope theorem.
    dual_source, dual_target : ndarray or Tensor of shape (n,) and (m,)
        Potentials, shifted so that both contribute equally to the dual value; -inf where the weight is 0.
    marginal_error : float
        L1 error of both marginals together, as a share of the total mass.
    n_sinkhorn, n_newton, n_linear_iterations, n_passes : int
        Sweeps, Newton trial steps (rejected ones included), conjugate-gradient iterations, and passes of exp over
        n x m: a plan is held and scaled, P -> diag(u) P diag(v), as long as that is exact.
    n_nonzeros : list of int
        Entries kept at each Newton step.
    history : list of dict
        A row a step: ``stage, error, n_nonzeros, n_linear_iterations, step, seconds``.
    converged, success : bool
        Whether the error fell below ``tol``.
    message : str
        Why it stopped.
    x, fun, nit
        SciPy's names for plan, regularized_value, and n_sinkhorn + n_newton.

    References
    ----------
    Xun Tang, Michael Shavlovsky, Holakou Rahmanian, Elisa Tardini, Kiran Koshy Thekumparampil, Tesi Xiao,
    Lexing Ying. "Accelerating Sinkhorn Algorithm with Sparse Newton Iterations". ICLR 2024. arXiv:2401.12253.

    Examples
    --------
    >>> from paperworks.transport import OptimalTransportResult
    >>> OptimalTransportResult(value=1.5).value
    1.5
    """


def sinkhorn_newton(
    cost: Array,
    source_weights: Array | None = None,
    target_weights: Array | None = None,
    *,
    regularization: float,
    n_sinkhorn: int = 20,
    max_newton: int = 100,
    tol: float = 1e-9,
    sparsification: Sparsification = "adaptive",
    density: float | None = None,
    initial_regularization: float | None = None,
    initial_dual: Array | None = None,
    max_memory: int = 2**30,
    verbose: bool = False,
) -> OptimalTransportResult:
    """Solve entropic optimal transport by Sinkhorn sweeps, then Newton steps with a sparsified Hessian.

    ``sparsification="fixed"`` is the paper's algorithm: the ``density * min(n, m)`` largest entries of the plan are
    kept, and a backtracking line search guards the step. The default ``"adaptive"`` drops entries whose total mass is
    a tenth of the marginal error, so that the kept part grows as the error falls and convergence stays superlinear;
    rows are rescaled exactly after each step and Levenberg's damping guards it, so that costs with many optimal plans
    (city-block distances on a grid) converge too.

    Parameters
    ----------
    cost : array_like or Tensor of shape (n, m) or (batch, n, m)
        Cost. A batch is solved problem by problem, since each has a sparsity of its own.
    source_weights : array_like or Tensor of shape (n,), optional
        Nonnegative marginal r; uniform when None. Of shape (batch, n) for a batch, or shared.
    target_weights : array_like or Tensor of shape (m,), optional
        Nonnegative marginal c with the same sum; uniform when None.
    regularization : float
        1/eta, in the units of the cost, which is never rescaled. The paper divides the cost by its largest entry and
        takes 1/1200. POT's ``reg`` is the same.
    n_sinkhorn : int, default 20
        Sweeps before the Newton steps.
    max_newton : int, default 100
        Trial steps at most, rejected ones included. Costs with many optimal plans need several hundred.
    tol : float, default 1e-9
        Stop when the L1 error of both marginals is below this share of the total mass.
    sparsification : {"adaptive", "fixed", None}, default "adaptive"
        How the Hessian is sparsified; None keeps all of it.
    density : float, optional
        For ``"fixed"``: entries kept a row on average, in (0, max(n, m)]; the paper's lambda is
        ``density / max(n, m)``. 2 when None.
    initial_regularization : float, optional
        Start at this larger regularisation and halve it down to ``regularization``, with 5 sweeps and a few Newton
        steps at each, each started from the last.
    initial_dual : array_like or Tensor of shape (m,), optional
        Target potentials to start from; zero when None.
    max_memory : int, default 2**30
        Bytes for what is kept of the Hessian and for temporary blocks; the plan that is returned comes on top.
    verbose : bool, default False
        Print a line a step.

    Returns
    -------
    OptimalTransportResult
        Plan, values, potentials and history. NumPy in gives NumPy out. Computed in float64, returned in the cost's
        dtype.

    Raises
    ------
    TypeError
        If an array does not hold floating-point numbers.
    ValueError
        If the cost is not finite, weights are negative or their sums differ, a shape or an option is wrong.

    Warns
    -----
    ConvergenceWarning
        If the marginal error did not fall below ``tol``.

    References
    ----------
    Xun Tang, Michael Shavlovsky, Holakou Rahmanian, Elisa Tardini, Kiran Koshy Thekumparampil, Tesi Xiao,
    Lexing Ying. "Accelerating Sinkhorn Algorithm with Sparse Newton Iterations". ICLR 2024. arXiv:2401.12253.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import sinkhorn_newton
    >>> cost = np.random.default_rng(0).random((200, 200))
    >>> result = sinkhorn_newton(cost, regularization=1 / 1200)
    >>> result.converged, bool(result.marginal_error < 1e-9)
    (True, True)
    """
    check_integer("max_newton", max_newton, at_least=0)
    check_choice("sparsification", sparsification, ("adaptive", "fixed", None))
    if density is not None and sparsification != "fixed":
        raise ValueError(f"density is for sparsification='fixed', got density={density!r} with {sparsification!r}")
    if initial_regularization is not None:
        check_number("initial_regularization", initial_regularization, above=regularization)

    def solve(plan: GibbsPlan, r: Vector, c: Vector, run: Run, y: Vector) -> State:
        largest_side = max(plan.shape)
        kept = 2.0 if density is None else check_number("density", density, above=0.0, at_most=largest_side)
        if initial_regularization is not None:
            y = anneal(plan, r, c, run, y, 1.0 / initial_regularization)
        state = sweep(plan, r, c, y, run, n_sinkhorn)
        if state.error < run.tol:
            return state
        if sparsification == "fixed":
            # lambda n^2 entries with lambda = density / max(n, m).
            n_kept = max(1, int(np.ceil(kept / largest_side * plan.shape[0] * plan.shape[1])))
            return newton_of_the_paper(plan, r, c, state, run, max_newton, n_kept)
        return damped_newton(plan, r, c, state, run, max_newton, drop=sparsification is not None)

    check_integer("n_sinkhorn", n_sinkhorn, at_least=0)
    return _transport(
        solve, cost, source_weights, target_weights, regularization, initial_dual, tol, max_memory, verbose
    )


def sinkhorn(
    cost: Array,
    source_weights: Array | None = None,
    target_weights: Array | None = None,
    *,
    regularization: float,
    max_iter: int = 1000,
    tol: float = 1e-9,
    initial_dual: Array | None = None,
    max_memory: int = 2**30,
    verbose: bool = False,
) -> OptimalTransportResult:
    """Solve entropic optimal transport by Sinkhorn's algorithm in the log domain: the first-order baseline.

    A sweep makes one pass of exp over the cost, for both marginals.

    Parameters
    ----------
    cost : array_like or Tensor of shape (n, m) or (batch, n, m)
        Cost.
    source_weights : array_like or Tensor of shape (n,), optional
        Nonnegative marginal r; uniform when None.
    target_weights : array_like or Tensor of shape (m,), optional
        Nonnegative marginal c with the same sum; uniform when None.
    regularization : float
        1/eta, in the units of the cost.
    max_iter : int, default 1000
        Sweeps at most.
    tol : float, default 1e-9
        Stop when the L1 error of both marginals is below this share of the total mass.
    initial_dual : array_like or Tensor of shape (m,), optional
        Target potentials to start from; zero when None.
    max_memory : int, default 2**30
        Bytes for temporary blocks.
    verbose : bool, default False
        Print a line a sweep.

    Returns
    -------
    OptimalTransportResult
        The same as from `sinkhorn_newton`, with ``n_newton`` = 0.

    Raises
    ------
    TypeError, ValueError
        As `sinkhorn_newton`.

    Warns
    -----
    ConvergenceWarning
        If the marginal error did not fall below ``tol``.

    References
    ----------
    Marco Cuturi. "Sinkhorn Distances: Lightspeed Computation of Optimal Transportation Distances". NeurIPS 2013.
    arXiv:1306.0895.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import sinkhorn
    >>> sinkhorn(np.eye(3), regularization=0.5).plan.sum(axis=1).round(6)
    array([0.333333, 0.333333, 0.333333])
    """
    check_integer("max_iter", max_iter, at_least=1)

    def solve(plan: GibbsPlan, r: Vector, c: Vector, run: Run, y: Vector) -> State:
        return sweep(plan, r, c, y, run, max_iter)

    return _transport(
        solve, cost, source_weights, target_weights, regularization, initial_dual, tol, max_memory, verbose
    )


class SinkhornNewtonSolver:
    """Solve a sequence of related problems, each started from the potentials of the last.

    Parameters
    ----------
    regularization : float
        1/eta, in the units of the cost.
    n_warm_sinkhorn : int, default 2
        Sweeps before the Newton steps of a problem that is started from the last one.
    **options
        Further options of `sinkhorn_newton`.

    Attributes
    ----------
    result_ : OptimalTransportResult
        What `solve` returned last.

    References
    ----------
    Xun Tang, Michael Shavlovsky, Holakou Rahmanian, Elisa Tardini, Kiran Koshy Thekumparampil, Tesi Xiao,
    Lexing Ying. "Accelerating Sinkhorn Algorithm with Sparse Newton Iterations". ICLR 2024. arXiv:2401.12253.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import SinkhornNewtonSolver
    >>> cost = np.random.default_rng(0).random((100, 100))
    >>> solver = SinkhornNewtonSolver(regularization=1e-3)
    >>> first = solver.solve(cost)
    >>> second = solver.solve(cost + 1e-4 * np.random.default_rng(1).random((100, 100)))
    >>> second.n_sinkhorn + second.n_newton < first.n_sinkhorn + first.n_newton
    True
    """

    def __init__(self, regularization: float, *, n_warm_sinkhorn: int = 2, **options: Any) -> None:
        self.regularization, self.n_warm_sinkhorn, self.options = regularization, n_warm_sinkhorn, options
        self.result_: OptimalTransportResult | None = None

    def solve(
        self, cost: Array, source_weights: Array | None = None, target_weights: Array | None = None
    ) -> OptimalTransportResult:
        """Solve one problem; arguments and errors as in `sinkhorn_newton`.

        Parameters
        ----------
        cost : array_like or Tensor of shape (n, m)
            Cost.
        source_weights : array_like or Tensor of shape (n,), optional
            Marginal r; uniform when None.
        target_weights : array_like or Tensor of shape (m,), optional
            Marginal c; uniform when None.

        Returns
        -------
        OptimalTransportResult
            The solution.
        """
        options = {"regularization": self.regularization, **self.options}
        last = self.result_
        if last is not None and last.dual_target.shape == (np.shape(cost)[-1],):
            dual = torch.as_tensor(last.dual_target).detach().cpu().double().numpy()
            # A weight of 0 left -inf there: start it from a neutral potential.
            options["initial_dual"] = np.where(np.isfinite(dual), dual, 0.0)
            options["n_sinkhorn"] = self.n_warm_sinkhorn
            options["initial_regularization"] = None
        self.result_ = sinkhorn_newton(cost, source_weights, target_weights, **options)
        return self.result_


def entropic_wasserstein_distance(
    x: Array,
    y: Array,
    *,
    p: float = 2.0,
    regularization: float,
    x_weights: Array | None = None,
    y_weights: Array | None = None,
    n_sinkhorn: int = 20,
    max_newton: int = 100,
    tol: float = 1e-9,
    max_memory: int = 2**30,
) -> Any:
    r"""Entropic Wasserstein distance between two point clouds, differentiable in the points and the weights.

    .. math:: \Bigl(\min_P \sum_{ij} P_{ij}\,\lVert x_i - y_j\rVert^p
              + \varepsilon\,\mathrm{KL}(P \mid a b^\top)\Bigr)^{1/p}

    The cost is made block by block when it would not fit ``max_memory``, and nothing of size n x m is stored then.

    Parameters
    ----------
    x : array_like or Tensor of shape (n, d) or (batch, n, d)
        Points.
    y : array_like or Tensor of shape (m, d) or (batch, m, d)
        Points.
    p : float, default 2
        Power of the Euclidean distance, at least 1.
    regularization : float
        Regularisation in the units of the cost, a distance to the power p.
    x_weights : array_like or Tensor of shape (n,), optional
        Nonnegative weights, normalised to sum 1; uniform when None.
    y_weights : array_like or Tensor of shape (m,), optional
        Nonnegative weights, normalised to sum 1; uniform when None.
    n_sinkhorn : int, default 20
        Sweeps before the Newton steps.
    max_newton : int, default 100
        Newton trial steps at most.
    tol : float, default 1e-9
        L1 marginal error to reach.
    max_memory : int, default 2**30
        Bytes for the cost and what is kept of the Hessian.

    Returns
    -------
    float or Tensor
        The distance; of shape (batch,) for a batch.

    Raises
    ------
    TypeError, ValueError
        If the clouds differ in dimension, hold NaN, or an option is wrong.

    Warns
    -----
    ConvergenceWarning
        If the marginal error did not fall below ``tol``.

    References
    ----------
    Xun Tang, Michael Shavlovsky, Holakou Rahmanian, Elisa Tardini, Kiran Koshy Thekumparampil, Tesi Xiao,
    Lexing Ying. "Accelerating Sinkhorn Algorithm with Sparse Newton Iterations". ICLR 2024. arXiv:2401.12253.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import entropic_wasserstein_distance
    >>> points = np.random.default_rng(0).normal(size=(100, 2))
    >>> distance = entropic_wasserstein_distance(points, points + [3.0, 4.0], regularization=1e-3)
    >>> bool(abs(distance - 5) < 1e-2)
    True
    """
    check_number("p", p, at_least=1.0)
    check_number("regularization", regularization, above=0.0)
    check_integer("n_sinkhorn", n_sinkhorn, at_least=0)
    check_integer("max_newton", max_newton, at_least=0)
    (points_x, points_y), restore = to_tensors(x=x, y=y, ndim=(2, 3))
    if points_x.ndim != points_y.ndim or points_x.shape[-1] != points_y.shape[-1]:
        raise ValueError(
            "x and y must have the same number of dimensions and columns, "
            f"got shapes {tuple(points_x.shape)} and {tuple(points_y.shape)}"
        )
    if points_x.ndim == 3 and points_x.shape[0] != points_y.shape[0]:
        raise ValueError(f"x and y must hold as many clouds, got {points_x.shape[0]} and {points_y.shape[0]}")
    a = _weights_tensor("x_weights", x_weights, points_x.shape[-2], points_x)
    b = _weights_tensor("y_weights", y_weights, points_y.shape[-2], points_y)
    a, b = a / a.sum(), b / b.sum()
    options = (regularization, p, n_sinkhorn, max_newton, tol, max_memory)

    def power(cloud_x: Tensor, cloud_y: Tensor) -> Tensor:
        negative_entropy = torch.special.entr(a).sum() + torch.special.entr(b).sum()
        # sum P log P - sum a log a - sum b log b = KL(P | a b').
        value = PointCloudValue.apply(cloud_x, cloud_y, a, b, options) + regularization * negative_entropy
        return value.clamp_min(0.0).to(cloud_x.dtype)

    if points_x.ndim == 3:
        powers = torch.stack([power(one, other) for one, other in zip(points_x, points_y, strict=True)])
    else:
        powers = power(points_x, points_y)
    positive = powers > 0
    # The root has no derivative at 0: its gradient there is 0, not NaN.
    distance = torch.where(positive, powers.where(positive, 1.0) ** (1.0 / p), 0.0)
    return restore(distance)


Solve = Callable[[GibbsPlan, Vector, Vector, Run, Vector], State]


def _transport(
    solve: Solve,
    cost: Array,
    source_weights: Array | None,
    target_weights: Array | None,
    regularization: float,
    initial_dual: Array | None,
    tol: float,
    max_memory: int,
    verbose: bool,
) -> OptimalTransportResult:
    """Validate, solve each problem of the batch, and bring the results home."""
    check_number("regularization", regularization, above=0.0)
    check_number("tol", tol, at_least=0.0)
    check_integer("max_memory", max_memory, at_least=1)
    (costs,), restore = to_tensors(cost=cost, ndim=(2, 3))
    n, m = costs.shape[-2:]
    r = _weights_tensor("source_weights", source_weights, n, costs)
    c = _weights_tensor("target_weights", target_weights, m, costs)
    _check_equal_sums(r, c, costs.dtype)
    if initial_dual is None:
        start = np.zeros(m)
    else:
        (dual,), _ = to_tensors(initial_dual=initial_dual, ndim=1)
        if dual.shape != (m,):
            raise ValueError(f"initial_dual must have length {m}, got {dual.shape[0]}")
        start = dual.detach().cpu().double().numpy()
    if costs.ndim == 2 and (r.ndim > 1 or c.ndim > 1):
        raise ValueError(f"weights must be one vector for one cost, got shapes {tuple(r.shape)} and {tuple(c.shape)}")

    def one(cost: Tensor, r: Tensor, c: Tensor) -> dict[str, Any]:
        return _solve_one(solve, cost, r, c, regularization, start, tol, max_memory, verbose)

    if costs.ndim == 2:
        return OptimalTransportResult(**_finish(one(costs, r, c), restore))
    r, c = r.expand(len(costs), n), c.expand(len(costs), m)
    solved = [one(*problem) for problem in zip(costs, r, c, strict=True)]
    tensors = ("plan", "value", "regularized_value", "dual_source", "dual_target")
    batch: dict[str, Any] = {
        key: torch.stack([each[key] for each in solved]) if key in tensors else [each[key] for each in solved]
        for key in solved[0]
    }
    batch["converged"] = all(batch["converged"])
    batch["message"] = "; ".join(dict.fromkeys(batch["message"]))
    for count in ("n_sinkhorn", "n_newton", "n_linear_iterations", "n_passes", "marginal_error"):
        batch[count] = np.array(batch[count])
    return OptimalTransportResult(**_finish(batch, restore))


def _finish(fields: dict[str, Any], restore: Callable[[Any], Any]) -> dict[str, Any]:
    result = {key: restore(value) if isinstance(value, Tensor) else value for key, value in fields.items()}
    if not result["converged"]:
        warn(result["message"], ConvergenceWarning, stacklevel=4)
    result |= {"x": result["plan"], "fun": result["regularized_value"], "success": result["converged"]}
    result["nit"] = result["n_sinkhorn"] + result["n_newton"]
    return result


def _weights_tensor(name: str, weights: Array | None, length: int, like: Tensor) -> Tensor:
    """Weights in float64 on the device of ``like``, of shape (length,) or (batch, length)."""
    if weights is None:
        return torch.full((length,), 1.0 / length, dtype=torch.float64, device=like.device)
    (tensor,), _ = to_tensors(**{name: weights}, ndim=(1, 2) if like.ndim == 3 else 1)
    wanted = (length,) if tensor.ndim == 1 else (like.shape[0], length)
    if tuple(tensor.shape) != wanted:
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(tensor.shape)}")
    if (tensor < 0).any():
        raise ValueError(f"{name} must not be negative, got {tensor.min().item():g}")
    if not (tensor.sum(-1) > 0).all():
        raise ValueError(f"{name} must have a positive sum, got 0")
    return tensor.to(device=like.device, dtype=torch.float64)


def _check_equal_sums(r: Tensor, c: Tensor, dtype: torch.dtype) -> None:
    one, other = r.detach().sum(-1), c.detach().sum(-1)
    # Weights that were normalised in float32 sum to 1 only to that precision.
    slack = 1e-8 if dtype == torch.float64 else 1e-5
    if ((one - other).abs() > slack * other).any():
        raise ValueError(
            f"source_weights sum to {one.max().item():.9g} but target_weights sum to {other.max().item():.9g}"
        )


def _solve_one(
    solve: Solve,
    cost: Tensor,
    r: Tensor,
    c: Tensor,
    regularization: float,
    start: Vector,
    tol: float,
    max_memory: int,
    verbose: bool,
) -> dict[str, Any]:
    """Solve one problem: weights are scaled to sum 1 and their zeros left out, then put back."""
    mass = float(r.detach().sum())
    weights_r, weights_c = r.detach().cpu().numpy() / mass, c.detach().cpu().numpy() / float(c.detach().sum())
    rows, columns = np.flatnonzero(weights_r), np.flatnonzero(weights_c)
    values = cost.detach().double()
    if rows.size < values.shape[0] or columns.size < values.shape[1]:
        values = values[torch.from_numpy(rows)][:, torch.from_numpy(columns)]
    plan = gibbs_plan(values, 1.0 / regularization, max_memory)
    run = new_run(regularization, tol, max_memory, verbose)
    state = solve(plan, weights_r[rows], weights_c[columns], run, start[columns])
    # The potentials' common shift leaves the plan unchanged; choose r.x = c.y.
    shift = 0.5 * float(weights_c[columns] @ state.y - weights_r[rows] @ state.x)
    x, y = state.x + shift, state.y - shift
    matrix = torch.as_tensor(plan.plan(x, y))
    row_error = np.abs(weights_r[rows] - matrix.sum(1).cpu().numpy()).sum()
    error = float(row_error + np.abs(weights_c[columns] - matrix.sum(0).cpu().numpy()).sum())
    value = mass * float(torch.dot(values.reshape(-1), matrix.reshape(-1)))
    # sum P log P = sum P (eta (x + y - C) - 1), and the whole plan weighs `mass`.
    x += 0.5 * regularization * np.log(mass)
    y += 0.5 * regularization * np.log(mass)
    dual_source, dual_target = spread(x, rows, len(weights_r), cost), spread(y, columns, len(weights_c), cost)
    full = matrix.mul_(mass)
    if full.shape != cost.shape:
        full = torch.zeros(cost.shape, dtype=torch.float64, device=cost.device)
        full[torch.from_numpy(rows)[:, None], torch.from_numpy(columns)] = matrix
    objective = mass * float(weights_r[rows] @ x + weights_c[columns] @ y - regularization)
    converged, message = verdict(error, tol, run)
    return {
        "plan": full.to(cost.dtype),
        "value": torch.tensor(value, dtype=cost.dtype, device=cost.device),
        "regularized_value": _RegularizedValue.apply(cost, r, c, objective, full, dual_source, dual_target),
        "dual_source": dual_source.to(cost.dtype),
        "dual_target": dual_target.to(cost.dtype),
        "marginal_error": error,
        "n_sinkhorn": run.n_sinkhorn,
        "n_newton": run.n_newton,
        "n_linear_iterations": run.n_linear_iterations,
        "n_passes": plan.n_passes,
        "n_nonzeros": run.n_nonzeros,
        "history": run.history,
        "converged": converged,
        "message": message,
    }


class _RegularizedValue(torch.autograd.Function):
    """The regularised value, with the gradient of the envelope theorem: d/dC = P, d/dr = x, d/dc = y."""

    @staticmethod
    def forward(
        ctx: Any, cost: Tensor, r: Tensor, c: Tensor, value: float, plan: Tensor, x: Tensor, y: Tensor
    ) -> Tensor:
        ctx.save_for_backward(plan.to(cost.dtype), x, y)
        return torch.tensor(value, dtype=cost.dtype, device=cost.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan, x, y = ctx.saved_tensors
        return gradients[0] * plan, gradients[0] * x, gradients[0] * y, None, None, None, None
