"""Block coordinate descent with a choice of partition, selection and update."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult
from sklearn.exceptions import ConvergenceWarning

from paperworks._progress import progress_bar
from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_floating, check_integer, check_number
from paperworks.optimization.block_coordinate_descent._matrices import Array
from paperworks.optimization.block_coordinate_descent._models import penalty, smallest_subgradient
from paperworks.optimization.block_coordinate_descent._problems import LinearProblem, Problem, QuadraticProblem, State
from paperworks.optimization.block_coordinate_descent._selection import Selection, checked_block_size, selector
from paperworks.optimization.block_coordinate_descent._updates import Update, updater

# After so many blocks the gradient is computed anew, so that rounding does not pile up.
REFRESH = 200


def minimize_blocks(
    problem: Problem,
    x0: Any = None,
    *,
    block_size: int = 5,
    partition: str | Sequence[NDArray[np.integer]] = "variable",
    selection: Selection = "GSL",
    update: Update = "matrix",
    line_search: bool = False,
    max_iter: int = 1000,
    tol: float = 1e-8,
    callback: Callable[[OptimizeResult], object] | None = None,
    random_state: RandomState = None,
    progress: bool = False,
) -> OptimizeResult:
    r"""Minimise a problem by block coordinate descent.

    Each iteration changes one block b of the variables x, which is to lower a model of the objective,

    .. math:: \nabla_b f(x)^\top d + \tfrac12 d^\top H_b d + g(x_b + d),

    with an upper bound :math:`H_b` of the Hessian of f, :math:`L_b` its largest eigenvalue, :math:`L_i` its diagonal,
    and g the l1 penalty and the sign constraint of the problem, if any. Greedy rules take the block for which their
    bound of this model is the least; without g, these are the norms below.

    Parameters
    ----------
    problem : LinearProblem or QuadraticProblem
        From `least_squares_problem`, `logistic_problem`, `softmax_problem` or `quadratic_problem`.
    x0 : array_like, optional
        Start of shape (n_variables,), zeros when None.
    block_size : int, default 5
        Variables in a block; of no effect where ``partition`` is a list or ``"forest"``.
    partition : {"variable", "sort", "order", "average", "random", "forest"} or list of arrays, default "variable"
        ``"variable"``: any variables make a block, chosen in each iteration. Fixed blocks: of neighbours in the order
        of :math:`L_i` (``"sort"``), in the order given (``"order"``), the smallest with the largest (``"average"``), or
        ``"random"``; or a list of the blocks, such as that of `forest_partition`. ``"forest"``: variable blocks as
        large as can be whose part of a quadratic problem's A is a forest, as of `forest_block`.
    selection : {"GSL", "GS", "GSD", "GSQ", "gsq-nn", "random", "cyclic", "lipschitz"}, default "GSL"
        * ``"GS"``: :math:`\|\nabla_b f\|`;
        * ``"GSL"``: :math:`\|\nabla_b f\|^2 / L_b` of fixed blocks, the largest
          :math:`|\nabla_i f| / \sqrt{L_i}` for variable ones;
        * ``"GSD"``: :math:`\sum_{i \in b} (\nabla_i f)^2 / D_i`, with a diagonal D that is above H;
        * ``"GSQ"``: :math:`\nabla_b f^\top H_b^{-1} \nabla_b f`, for variable blocks by ten steps of iterative hard
          thresholding, each of which costs two products with the data;
        * ``"gsq-nn"``: :math:`-\sum_{i \in b} \min_{d_i} (\nabla_i f\, d_i + L_i d_i^2 / 2 + g_i)`;
        * ``"random"``; ``"cyclic"``: in turn, variable blocks by a new permutation in each pass; ``"lipschitz"``:
          random with probabilities proportional to :math:`L_b` or :math:`L_i`.
    update : {"matrix", "gradient", "newton", "exact", "two_metric", "quadratic_program"}, default "matrix"
        * ``"gradient"``: :math:`d = -\nabla_b f / L_b`, or the proximal (projected) step;
        * ``"matrix"``: :math:`d = -H_b^{-1} \nabla_b f`, or the minimiser of the model with g;
        * ``"newton"``: the same with the Hessian at x, and backtracking;
        * ``"exact"``: the block's minimum, for least squares and quadratic problems; large blocks of a sparse A are
          solved by messages if they are forests, else by a sparse factorisation;
        * ``"two_metric"``: two-metric projection by Newton steps, for nonnegative problems;
        * ``"quadratic_program"``: the minimiser of the model with g, to rounding.
    line_search : bool, default False
        Whether ``"gradient"`` finds its constants by doubling from 1, instead of :math:`L_b`.
    max_iter : int, default 1000
        Blocks to update at most.
    tol : float, default 1e-8
        The result has converged when no entry of the least subgradient is larger than this part of the largest entry
        of the gradient of f at zero.
    callback : callable, optional
        Called after each iteration with an OptimizeResult of ``x, fun, nit, block``; StopIteration from it ends the
        run.
    random_state : None, int, Generator or RandomState
        Source of random blocks.
    progress : bool, default False
        Whether to show a bar of iterations.

    Returns
    -------
    OptimizeResult
        ``x``; ``fun``, f + g there; ``jac``, the gradient of f; ``optimality``, the largest entry of the least
        subgradient; ``nit``; ``n_coordinate_updates``, the sizes of all blocks together; ``active_set_history``, the
        indices that are not zero at the start and after each iteration; ``history``, a dictionary of ``fun``,
        ``optimality``, ``n_coordinate_updates`` and ``seconds``, of shape (nit + 1,) each; ``success``; ``status``, 0
        if converged, 1 for max_iter, 2 for the callback; ``message``.

    Raises
    ------
    ValueError
        If an argument is out of range or unknown, rules do not fit the problem, or x is no longer finite (the iteration
        is named).
    TypeError
        If problem is none of these, or x0 does not hold floating-point numbers.

    Warns
    -----
    ConvergenceWarning
        If max_iter is reached.
    UserWarning
        If block_size is larger than the number of variables, to which it is clipped.

    References
    ----------
    Julie Nutini, Issam Laradji, Mark Schmidt. "Let's Make Block Coordinate Descent Converge Faster: Faster Greedy
    Rules, Message-Passing, Active-Set Complexity, and Superlinear Convergence". JMLR 2022. arXiv:1712.08859.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import least_squares_problem, minimize_blocks
    >>> A = np.random.default_rng(0).normal(size=(50, 20))
    >>> problem = least_squares_problem(A, 3 * A[:, 0] - A[:, 7], l1=5.0)
    >>> result = minimize_blocks(problem, block_size=4, selection="gsq-nn", update="quadratic_program")
    >>> np.flatnonzero(result.x), result.nit
    (array([0, 7]), 1)
    """
    if not isinstance(problem, (LinearProblem, QuadraticProblem)):
        raise TypeError(f"problem must come from least_squares_problem and its like, got {type(problem).__name__}")
    check_integer("max_iter", max_iter)
    check_number("tol", tol, at_least=0.0)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}")
    x = _start(problem, x0)
    size = checked_block_size(block_size, problem)
    choose, fixed = selector(problem, partition, selection, size, numpy_generator(random_state))
    step = updater(problem, update, line_search, fixed)
    run = _Run(problem, problem.start(x), tol)
    for iteration in progress_bar(range(1, max_iter + 1), "blocks", progress):
        if run.converged:
            break
        choice = choose(run.state)
        if len(choice.block):
            d = step(run.state, choice)
            if not np.isfinite(d).all():
                raise ValueError(f"x is no longer finite at iteration {iteration}")
            run.state.move(choice.block, d)
            _snap(run.state.x, choice.block, d)
        run.note(len(choice.block), refresh=iteration % REFRESH == 0)
        if not np.isfinite(run.fun[-1]):
            raise ValueError(f"the objective is no longer finite at iteration {iteration}")
        if callback is not None:
            try:
                callback(
                    OptimizeResult(x=run.state.x.copy(), fun=run.fun[-1], nit=iteration, block=choice.block.copy())
                )
            except StopIteration:
                return run.result(2, "the callback ended the run")
    if run.converged:
        return run.result(0, "the subgradient is small enough")
    warn(
        f"not converged after max_iter={max_iter} blocks: subgradient {run.optimality[-1]:.3g} > {run.wanted:.3g}",
        ConvergenceWarning,
        stacklevel=2,
    )
    return run.result(1, "max_iter is reached")


def _start(problem: Problem, x0: Any) -> Array:
    n = problem.n_variables
    if x0 is None:
        return np.zeros(n)
    x = check_floating("x0", x0, ndim=1).astype(np.float64)
    if len(x) != n:
        raise ValueError(f"x0 must have length {n}, the number of variables, got {len(x)}")
    if problem.nonnegative and (x < 0).any():
        raise ValueError(f"x0 must not be negative, got {x.min():g} at index {int(x.argmin())}")
    if problem.l1:
        # No block holds a column of zeros, whose best coefficient is known.
        x = np.where(problem.lipschitz > 0, x, 0.0)
    return x


def _snap(x: Array, block: Any, d: Array) -> None:
    """Make zeros exact: x + (0 - x) is, but a sum of steps need not be."""
    small = np.abs(x[block]) <= np.finfo(float).eps * np.abs(d)
    x[block[small]] = 0.0


class _Run:
    """State, and what has been recorded of its path."""

    def __init__(self, problem: Problem, state: State, tol: float) -> None:
        self.problem, self.state = problem, state
        scale = float(np.abs(problem.start(np.zeros(problem.n_variables)).gradient).max())
        self.wanted = tol * (scale or 1.0)
        self.fun: list[float] = []
        self.optimality: list[float] = []
        self.updates: list[int] = []
        self.seconds: list[float] = []
        self.active: list[NDArray[np.int64]] = []
        self._began = perf_counter()
        self.note(0, refresh=False)

    @property
    def converged(self) -> bool:
        return self.optimality[-1] <= self.wanted

    def note(self, n_updates: int, refresh: bool) -> None:
        if refresh:
            self.state.refresh()
        found = self._optimality()
        if found <= self.wanted and not refresh:
            # Success is judged by a gradient that is free of the rounding of updates.
            self.state.refresh()
            found = self._optimality()
        x = self.state.x
        self.fun.append(self.state.value() + penalty(self.problem, x))
        self.optimality.append(found)
        self.updates.append((self.updates[-1] if self.updates else 0) + n_updates)
        self.seconds.append(perf_counter() - self._began)
        support = np.flatnonzero(x)
        # Iterations that keep the support share one array.
        self.active.append(self.active[-1] if self.active and np.array_equal(self.active[-1], support) else support)

    def _optimality(self) -> float:
        return float(np.abs(smallest_subgradient(self.problem, self.state.x, self.state.gradient)).max())

    def result(self, status: int, message: str) -> OptimizeResult:
        return OptimizeResult(
            x=self.state.x,
            fun=self.fun[-1],
            jac=self.state.gradient.copy(),
            optimality=self.optimality[-1],
            nit=len(self.fun) - 1,
            n_coordinate_updates=self.updates[-1],
            active_set_history=self.active,
            history={
                "fun": np.array(self.fun),
                "optimality": np.array(self.optimality),
                "n_coordinate_updates": np.array(self.updates),
                "seconds": np.array(self.seconds),
            },
            success=status == 0,
            status=status,
            message=message,
        )
