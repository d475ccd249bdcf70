"""Sequences of systems: sorted, solved one after the other with a carried subspace, returned in their own order."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any, cast

import numpy as np
import scipy.sparse as sp
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator
from sklearn.exceptions import ConvergenceWarning

from paperworks._progress import progress_bar
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.linalg._systems import check_matrix, check_vector
from paperworks.linalg.krylov_recycling._gcro_dr import RecycleSpace, Solve, Workspace, check_restart, dtype_of
from paperworks.linalg.krylov_recycling._preconditioners import KINDS, Preconditioner, build_preconditioner
from paperworks.linalg.krylov_recycling._sorting import METHODS, Method, sort_systems

Array = NDArray[Any]
System = tuple[Any, Array, Any]
# Numbers that a sort by the matrices' own entries looks at.
LARGEST_SAMPLE = 20_000_000


@dataclass(frozen=True)
class SequenceSolution:
    """Solutions of a sequence of systems, in the order in which the systems were given.

    Attributes
    ----------
    X : ndarray of shape (n_systems, n)
        Solutions.
    iterations : ndarray of shape (n_systems,)
        Arnoldi steps of each system.
    matvecs : ndarray of shape (n_systems,)
        Products with its matrix, those of warm starts and checks included.
    seconds : ndarray of shape (n_systems,)
        Time for each system, its preconditioner included.
    order : ndarray of shape (n_systems,)
        The order in which they were solved.
    converged : ndarray of shape (n_systems,)
        Whether the true residual met the tolerance.
    residuals : ndarray of shape (n_systems,)
        ||b - A x|| / ||b||, computed anew.

    References
    ----------
    Hong Wang, Zhongkai Hao, Jie Wang, Zijie Geng, Zhen Wang, Bin Li, Feng Wu. "Accelerating Data Generation for Neural
    Operators via Krylov Subspace Recycling". ICLR 2024. arXiv:2401.09516.

    Examples
    --------
    >>> from paperworks.linalg import poisson_systems, solve_sequence_recycled
    >>> matrices, rhs, _ = poisson_systems(3, 16, random_state=0)
    >>> solution = solve_sequence_recycled(matrices, rhs)
    >>> solution.X.shape, bool(solution.converged.all())
    ((3, 256), True)
    """

    X: Array
    iterations: Array
    matvecs: Array
    seconds: Array
    order: Array
    converged: Array
    residuals: Array


@dataclass(frozen=True)
class KrylovRecyclingSolver:
    r"""Sorting Krylov recycling (SKR): solve many related sparse systems quicker than each on its own.

    .. math:: A^{(i)} x^{(i)} = b^{(i)}, \qquad i = 1, \dots, N.

    Systems are put in an order in which neighbours are alike, and solved by GCRO-DR, which carries a subspace from
    each to the next, unless GMRES alone ends within its first cycle, where there is nothing to gain.

    Parameters
    ----------
    restart : int, default 40
        Dimension of the space that a cycle minimises over.
    n_recycle : int, default 20
        Dimension of the subspace that is carried; 0 for GMRES on each system.
    rtol, atol : float, default 1e-8 and 0
        Tolerance of ||b - A x||, relative to ||b|| and absolute.
    maxiter : int, default 10000
        Arnoldi steps that a system may take.
    preconditioner : {"jacobi", "block_jacobi", "ssor", "ilu", "ic"}, callable or None, default None
        Built for each system, as by `build_preconditioner`; a callable gets the matrix and returns M, where ``M @ v``
        approximates the product with its inverse.
    sort : {"greedy", "grouped", "hilbert", None}, default "greedy"
        See `sort_systems`.
    group_size : int, default 4000
        As there.
    n_jobs : int, default 1
        Processes; the sorted chain is cut in so many, each with a subspace of its own, and -1 takes all cores.
        Solutions then agree to the tolerance, not to the last bit.
    progress : bool, default True
        Whether to show a bar.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    TypeError
        If one is of the wrong type.

    References
    ----------
    Hong Wang, Zhongkai Hao, Jie Wang, Zijie Geng, Zhen Wang, Bin Li, Feng Wu. "Accelerating Data Generation for Neural
    Operators via Krylov Subspace Recycling". ICLR 2024. arXiv:2401.09516.

    Examples
    --------
    >>> from paperworks.linalg import KrylovRecyclingSolver, darcy_systems
    >>> matrices, rhs, permeability = darcy_systems(5, 24, random_state=0)
    >>> recycled = KrylovRecyclingSolver(preconditioner="jacobi").solve_many(matrices, rhs, permeability)
    >>> alone = KrylovRecyclingSolver(preconditioner="jacobi", n_recycle=0).solve_many(matrices, rhs, permeability)
    >>> bool(recycled.matvecs.sum() < alone.matvecs.sum())
    True
    """

    restart: int = 40
    n_recycle: int = 20
    rtol: float = 1e-8
    atol: float = 0.0
    maxiter: int = 10_000
    preconditioner: Preconditioner = None
    sort: Method = "greedy"
    group_size: int = 4000
    n_jobs: int = 1
    progress: bool = True

    def __post_init__(self) -> None:
        check_restart(self.restart, self.n_recycle)
        check_number("rtol", self.rtol, at_least=0.0)
        check_number("atol", self.atol, at_least=0.0)
        check_integer("maxiter", self.maxiter)
        check_integer("group_size", self.group_size)
        check_choice("sort", self.sort, METHODS)
        if self.preconditioner is not None and not callable(self.preconditioner):
            check_choice("preconditioner", self.preconditioner, KINDS)
        if self.n_jobs != -1:
            check_integer("n_jobs", self.n_jobs)

    def solve_many(
        self,
        matrices: Any,
        rhs: ArrayLike | None = None,
        parameters: ArrayLike | None = None,
        *,
        out: Array | None = None,
        window: int = 256,
    ) -> SequenceSolution:
        """Solve all systems, and return solutions in the order in which they came.

        Parameters
        ----------
        matrices : sequence of sparse matrices, or iterator of tuples
            The matrices, all of one size; or, where they don't fit into memory, an iterator over tuples (A, b) or
            (A, b, parameters).
        rhs : array_like of shape (n_systems, n), optional
            Right-hand sides; None if ``matrices`` is an iterator.
        parameters : array_like of shape (n_systems, ...), optional
            What systems are sorted by; the entries of the matrices when None.
        out : ndarray of shape (n_systems, n), optional
            Where solutions are written, such as a memory map; they stay there if the run is interrupted.
        window : int, default 256
            Systems of an iterator that are held, and sorted, at a time.

        Returns
        -------
        SequenceSolution
            The solutions, and what each took.

        Raises
        ------
        ValueError
            If sizes don't fit, or something is NaN or infinite; the message names the system.
        TypeError
            If something does not hold floating-point numbers.

        Warns
        -----
        ConvergenceWarning
            If a system did not meet the tolerance; ``converged`` says which.
        """
        if isinstance(matrices, Iterator):
            if rhs is not None or parameters is not None:
                raise ValueError("rhs and parameters must be None where matrices is an iterator: it yields them too")
            systems: Iterable[list[System]] = _windows(matrices, check_integer("window", window))
            total = None if out is None else len(out)
        else:
            listed = _listed(matrices, rhs, parameters)
            systems, total = [listed], len(listed)
        record, chain = _Record(out, total), _Chain(self)
        with progress_bar((), "systems", self.progress, total=total) as bar:
            for held in systems:
                order = _order_of(held, self.sort, self.group_size)
                for index, solved in self._solved(held, order, chain):
                    record.write(index, solved)
                    bar.update(1)
                record.close(order)
        return record.solution()

    def _solved(self, held: list[System], order: Array, chain: "_Chain") -> Iterator[tuple[int, "_Solved"]]:
        if self.n_jobs == 1:
            for index in order:
                yield index, chain.solve(int(index), *held[index][:2])
            return
        parallel = Parallel(n_jobs=self.n_jobs, return_as="generator")
        parts = np.array_split(order, min(len(order), effective_n_jobs(self.n_jobs)))
        jobs = (delayed(_solve_part)(self, part, [held[index][:2] for index in part]) for part in parts)
        for part, solved in zip(parts, parallel(jobs), strict=True):
            yield from zip(map(int, part), solved, strict=True)


def solve_sequence_recycled(
    matrices: Any,
    rhs: ArrayLike,
    *,
    order: ArrayLike | None = None,
    rtol: float = 1e-8,
    atol: float = 0.0,
    restart: int = 40,
    n_recycle: int = 20,
    maxiter: int = 10_000,
    preconditioner: Preconditioner = None,
    progress: bool = False,
) -> SequenceSolution:
    r"""Solve systems one after the other, each from the subspace that the one before has left.

    .. math:: A^{(i)} x^{(i)} = b^{(i)}, \qquad i = \sigma_1, \dots, \sigma_N.

    Parameters
    ----------
    matrices : sequence of sparse matrices
        The matrices, all of one size. Where one object comes twice in a row, its preconditioner and the image of the
        subspace are kept.
    rhs : array_like of shape (n_systems, n)
        Right-hand sides, floating point.
    order : array_like of shape (n_systems,), optional
        Permutation :math:`\sigma` in which to solve, such as `sort_systems` gives; as they come when None.
    rtol, atol : float, default 1e-8 and 0
        Tolerance of ||b - A x||, relative to ||b|| and absolute.
    restart : int, default 40
        Dimension of the space that a cycle minimises over.
    n_recycle : int, default 20
        Dimension of the subspace that is carried.
    maxiter : int, default 10000
        Arnoldi steps that a system may take.
    preconditioner : {"jacobi", "block_jacobi", "ssor", "ilu", "ic"}, callable or None, default None
        As of `KrylovRecyclingSolver`.
    progress : bool, default False
        Whether to show a bar.

    Returns
    -------
    SequenceSolution
        The solutions in the order in which the systems were given, and what each took.

    Raises
    ------
    ValueError
        If sizes don't fit, ``order`` is no permutation, or something is NaN or infinite.
    TypeError
        If something does not hold floating-point numbers.

    Warns
    -----
    ConvergenceWarning
        If a system did not meet the tolerance; ``converged`` says which.

    References
    ----------
    Hong Wang, Zhongkai Hao, Jie Wang, Zijie Geng, Zhen Wang, Bin Li, Feng Wu. "Accelerating Data Generation for Neural
    Operators via Krylov Subspace Recycling". ICLR 2024. arXiv:2401.09516.

    Examples
    --------
    >>> from paperworks.linalg import darcy_systems, solve_sequence_recycled, sort_systems
    >>> matrices, rhs, permeability = darcy_systems(5, 16, random_state=0)
    >>> solution = solve_sequence_recycled(matrices, rhs, order=sort_systems(permeability))
    >>> bool((solution.residuals <= 1e-8).all())
    True
    """
    options = KrylovRecyclingSolver(restart, n_recycle, rtol, atol, maxiter, preconditioner, None)
    held = _listed(matrices, rhs, None)
    steps = np.arange(len(held)) if order is None else _checked_order(order, len(held))
    record, chain = _Record(None, len(held)), _Chain(options)
    for index in progress_bar(steps.tolist(), "systems", progress):
        record.write(index, chain.solve(index, *held[index][:2]))
    record.close(steps)
    return record.solution()


@dataclass(frozen=True)
class _Solved:
    x: Array
    info: int
    iterations: int
    matvecs: int
    seconds: float
    residual: float


class _Chain:
    """Solves systems one after the other; the workspace, and the subspace of the last system, stay."""

    def __init__(self, options: KrylovRecyclingSolver) -> None:
        self.options = options
        self.A: Any = None
        self.M: Any = None
        self.workspace: Workspace | None = None
        self.recycle: RecycleSpace | None = None
        # Steps that the last system which began from nothing took.
        self.cold = 0

    def solve(self, index: int, A: Any, b: Any) -> _Solved:
        try:
            return self._solve(A, b)
        except (ValueError, TypeError) as error:
            raise type(error)(f"system {index}: {error}") from None

    def _solve(self, A: Any, b: Any) -> _Solved:
        start, options = perf_counter(), self.options
        same = A is self.A
        operator = A if isinstance(A, LinearOperator) else check_matrix("A", A)
        n = operator.shape[0]
        b = check_vector("b", b, n)
        if not same:
            self.M = _preconditioner(options.preconditioner, A)
        before = () if self.recycle is None else (self.recycle.U,)
        dtype = dtype_of(operator, b, *before, *(() if self.M is None else (self.M,)))
        if self.workspace is None or self.workspace.W.dtype != dtype:
            self.workspace = Workspace(n, dtype, options.restart, options.n_recycle)
        if len(self.workspace.W) != n:
            raise ValueError(f"A has {n} unknowns, but the systems before it have {len(self.workspace.W)}")
        solve = Solve(self.workspace, operator, self.M, b, None, None)
        # A warm start takes a product for each direction, too many where GMRES ends within its first cycle.
        recycle = self.recycle if same or self.cold > options.restart else None
        x, info, space = solve.run(options.rtol, options.atol, options.maxiter, recycle, same)
        if recycle is None:
            self.cold = space.iterations
        # What did not have to be solved leaves the space, and the matrix that it belongs to, as they were.
        if space.iterations or space.C is not None:
            self.A, self.recycle = A, space if options.n_recycle else None
        else:
            self.A = A if same else None
        norm = float(np.linalg.norm(b))
        residual = space.residual_norm / norm if norm else 0.0
        return _Solved(x, info, space.iterations, space.matvecs, perf_counter() - start, residual)


def _preconditioner(wanted: Preconditioner, A: Any) -> Any:
    if wanted is None:
        return None
    if not isinstance(wanted, str):
        return wanted(A)
    if isinstance(A, LinearOperator):
        raise TypeError(f"preconditioner={wanted!r} needs the entries of A, but A is a LinearOperator")
    return build_preconditioner(A, wanted)


def _solve_part(options: KrylovRecyclingSolver, part: Array, held: list[tuple[Any, Array]]) -> list[_Solved]:
    chain = _Chain(options)
    return [chain.solve(int(index), A, b) for index, (A, b) in zip(part, held, strict=True)]


class _Record:
    """What was solved, written into its place at once; grows where the number of systems is not known before."""

    def __init__(self, out: Array | None, total: int | None) -> None:
        self.out, self.total = out, total
        self.X: Array | None = out
        self.window: dict[int, _Solved] = {}
        self.rows: list[_Solved] = []
        self.orders: list[Array] = []

    def write(self, index: int, solved: _Solved) -> None:
        place = len(self.rows) + index
        if self.total is not None:
            self._room(solved.x)
            assert self.X is not None
            if place >= len(self.X):
                raise ValueError(f"out has room for {len(self.X)} systems, but there are more")
            self.X[place] = solved.x
            solved = _Solved(self.X[place], *(getattr(solved, key) for key in _Solved.__annotations__ if key != "x"))
        self.window[index] = solved

    def _room(self, x: Array) -> None:
        if self.out is None:
            shape = (cast(int, self.total), len(x))
            if self.X is None:
                self.X = np.zeros(shape, x.dtype)
            elif self.X.dtype != np.result_type(self.X, x):
                self.X = self.X.astype(x.dtype)
        elif self.out.shape[1:] != x.shape or not np.can_cast(x.dtype, self.out.dtype, "same_kind"):
            raise ValueError(
                f"out must have rows of {len(x)} unknowns of {x.dtype}, got shape {self.out.shape} of {self.out.dtype}"
            )

    def close(self, order: Array) -> None:
        """End a window."""
        self.orders.append(len(self.rows) + order)
        self.rows += [self.window[index] for index in range(len(self.window))]
        self.window = {}

    def solution(self) -> SequenceSolution:
        if not self.rows:
            raise ValueError("matrices is empty: there is no system to solve")
        converged = np.array([row.info == 0 for row in self.rows])
        if not converged.all():
            worst = max(row.residual for row in self.rows)
            warnings.warn(
                f"{(~converged).sum()} of {len(converged)} systems did not converge; the largest relative residual is "
                f"{worst:.3g}",
                ConvergenceWarning,
                stacklevel=3,
            )
        return SequenceSolution(
            np.array([row.x for row in self.rows]) if self.X is None else self.X,
            np.array([row.iterations for row in self.rows]),
            np.array([row.matvecs for row in self.rows]),
            np.array([row.seconds for row in self.rows]),
            np.concatenate(self.orders),
            converged,
            np.array([row.residual for row in self.rows]),
        )


def _listed(matrices: Any, rhs: ArrayLike | None, parameters: ArrayLike | None) -> list[System]:
    if sp.issparse(matrices) or not isinstance(matrices, (Sequence, np.ndarray)):
        raise TypeError(f"matrices must be a sequence of matrices, got {type(matrices).__name__}")
    if not len(matrices):
        raise ValueError("matrices is empty: there is no system to solve")
    if rhs is None:
        raise ValueError("rhs must be given where matrices is a sequence")
    for name, values in (("rhs", rhs), ("parameters", parameters)):
        if values is not None and len(cast(Any, values)) != len(matrices):
            raise ValueError(
                f"{name} must have a row for each of {len(matrices)} matrices, got {len(cast(Any, values))}"
            )
    held = [None] * len(matrices) if parameters is None else cast(Any, parameters)
    return list(zip(matrices, cast(Any, rhs), held, strict=True))


def _windows(systems: Iterator[Any], size: int) -> Iterator[list[System]]:
    while window := list(islice(systems, size)):
        for each in window:
            if not isinstance(each, tuple) or len(each) not in (2, 3):
                raise TypeError("an iterator over systems must yield tuples (A, b) or (A, b, parameters)")
        yield [(*each, None)[:3] for each in window]


def _order_of(held: list[System], method: Method, group_size: int) -> Array:
    """Sort by parameters, or by the matrices where there are none."""
    if method is None or len(held) < 3:
        return np.arange(len(held))
    given = [each[2] is not None for each in held]
    if any(given) and not all(given):
        raise ValueError(f"parameters of system {given.index(False)} are missing, though others have some")
    if all(given):
        return sort_systems(np.array([each[2] for each in held]), method, group_size)
    entries = _entries([each[0] for each in held])
    return np.arange(len(held)) if entries is None else sort_systems(entries, method, group_size)


def _entries(matrices: list[Any]) -> Array | None:
    """Entries of the matrices, one a row, so that distances are Frobenius norms; None if they can't be had."""
    if any(isinstance(A, LinearOperator) for A in matrices) or all(A is matrices[0] for A in matrices):
        return None
    flat = [sp.coo_array(check_matrix(f"matrices[{i}]", A)) for i, A in enumerate(matrices)]
    columns = [each.row.astype(np.int64) * each.shape[1] + each.col for each in flat]
    used = np.unique(np.concatenate(columns))
    rows = np.zeros((len(flat), len(used)), np.result_type(*[each.dtype for each in flat]))
    for row, each, column in zip(rows, flat, columns, strict=True):
        row[np.searchsorted(used, column)] = each.data
    if rows.size > LARGEST_SAMPLE:
        kept = np.random.default_rng(0).choice(len(used), max(1, LARGEST_SAMPLE // len(flat)), replace=False)
        rows = rows[:, np.sort(kept)]
    return np.hstack([rows.real, rows.imag]) if np.iscomplexobj(rows) else rows


def _checked_order(order: ArrayLike, count: int) -> Array:
    steps = np.asarray(order)
    if steps.shape != (count,) or steps.dtype.kind not in "iu" or (np.sort(steps) != np.arange(count)).any():
        raise ValueError(f"order must be a permutation of range({count})")
    return steps
