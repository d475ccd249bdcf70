"""A solver whose parameter a bandit chooses anew for each system, and a sequence of systems solved by it."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from paperworks._progress import progress_bar
from paperworks._random import RandomState
from paperworks._validation import check_choice, check_finite, check_integer, check_number
from paperworks.linalg.learned_relaxation._bandits import BinnedTsallisINF, TsallisINF, check_range
from paperworks.linalg.learned_relaxation._chebyshev import ChebyshevContextualBandit
from paperworks.linalg.learned_relaxation._ssor_cg import ssor_conjugate_gradient
from paperworks.linalg.learned_relaxation._sweeps import sor

__all__ = ["RelaxationTuner", "SequenceReport", "solve_sequence"]

Array = NDArray[Any]
Solver = Callable[[Any, Any, Any, float], tuple[Any, float]]
SOLVERS: dict[str, Any] = {"sor": sor, "ssor_cg": ssor_conjugate_gradient}


class RelaxationTuner:
    """Solve systems one after another, and learn from the iterations that each took which parameter to use.

    Parameters
    ----------
    solver : {"sor", "ssor_cg"} or callable, default "sor"
        What solves a system: `sor`, `ssor_conjugate_gradient`, or a function ``(A, b, x0, parameter) -> (x, cost)``
        with any number to tune and any cost, such as seconds.
    policy : {"tsallis_inf", "tsallis_inf_binned", "chebyshev"}, default "tsallis_inf"
        `TsallisINF` takes no context, `BinnedTsallisINF` and `ChebyshevContextualBandit` one for each system.
    n_arms : int, default 20
        Number of parameters to choose from.
    arm_range : tuple of two floats, default (1.0, 1.95)
        Least and greatest of them, the others equally spaced between; in (0, 2) unless the solver is a function.
    context_range : tuple of two floats, optional
        Least and greatest context. `solve_sequence` takes it from the contexts if it is not given.
    n_bins : int, default 6
        Parts of the context's range, for ``"tsallis_inf_binned"``.
    degree : int, default 5
        Degree of the polynomials, for ``"chebyshev"``.
    rtol : float, default 1e-8
        Tolerance of the solver; a function has its own.
    max_iter : int, default 10000
        Iterations that the solver may take; a system that does not converge costs as many.
    least_cost : float, default 1.0
        The least that a solve can cost: 1 for iterations, 0 for seconds.
    random_state : None, int, numpy Generator or RandomState, or torch.Generator, default None
        Source of the draws.

    Attributes
    ----------
    bandit : TsallisINF, BinnedTsallisINF or ChebyshevContextualBandit
        What chooses.
    n_solves_ : int
        Systems solved so far.
    relaxation_ : float
        Parameter of the last one.
    converged_ : bool
        Whether the last one converged; of a function of the user, True.

    Raises
    ------
    ValueError
        If an argument is out of range.
    TypeError
        If an argument is of the wrong type.

    References
    ----------
    Mikhail Khodak, Edmond Chow, Maria-Florina Balcan, Ameet Talwalkar. "Learning to Relax: Setting Solver Parameters
    Across a Sequence of Linear System Instances". arXiv:2310.02246.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import diags_array
    >>> from paperworks.linalg import RelaxationTuner
    >>> A = diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(30, 30)).tocsr()
    >>> tuner = RelaxationTuner("sor", random_state=0)
    >>> costs = [tuner.solve(A, np.ones(30))[1] for _ in range(600)]
    >>> round(float(np.mean(costs[-100:]) / np.mean(costs[:20])), 1)
    0.2
    """

    def __init__(
        self,
        solver: Literal["sor", "ssor_cg"] | Solver = "sor",
        policy: Literal["tsallis_inf", "tsallis_inf_binned", "chebyshev"] = "tsallis_inf",
        n_arms: int = 20,
        arm_range: tuple[float, float] = (1.0, 1.95),
        context_range: tuple[float, float] | None = None,
        n_bins: int = 6,
        degree: int = 5,
        rtol: float = 1e-8,
        max_iter: int = 10_000,
        least_cost: float = 1.0,
        random_state: RandomState = None,
    ) -> None:
        low, high = check_range("arm_range", arm_range)
        if not callable(solver):
            check_choice("solver", solver, tuple(SOLVERS))
            if not (low > 0 and high < 2):
                raise ValueError(f"arm_range must lie in (0, 2), both ends excluded, got {arm_range!r}")
        self.solver = solver
        self.policy = check_choice("policy", policy, ("tsallis_inf", "tsallis_inf_binned", "chebyshev"))
        self.rtol, self.max_iter = check_number("rtol", rtol, above=0.0), check_integer("max_iter", max_iter)
        arms = np.linspace(low, high, check_integer("n_arms", n_arms))
        self.bandit: TsallisINF | BinnedTsallisINF | ChebyshevContextualBandit
        if policy == "tsallis_inf":
            self.bandit = TsallisINF(arms, random_state, least_cost)
        elif policy == "tsallis_inf_binned":
            self.bandit = BinnedTsallisINF(arms, context_range, n_bins, random_state, least_cost)
        else:
            self.bandit = ChebyshevContextualBandit(arms, context_range, degree, random_state, least_cost)
        self.n_solves_, self.relaxation_, self.converged_ = 0, float("nan"), True

    def solve(self, A: Any, b: Any, x0: Any = None, context: float | None = None) -> tuple[Any, float]:
        """Solve one system with the parameter that the bandit suggests, and tell it the cost.

        A start that already solves the system costs 0 and teaches nothing. If the solver raises, nothing is learned.

        Parameters
        ----------
        A : sparse matrix or array_like of shape (n, n)
            The matrix.
        b : array_like of shape (n,)
            Right-hand side.
        x0 : array_like of shape (n,), optional
            Where to start, such as the solution before.
        context : float, optional
            What is known of the system, such as a shift or a coefficient; policies with contexts need it.

        Returns
        -------
        x : ndarray of shape (n,)
            The solution.
        cost : float
            Iterations; ``max_iter`` if it did not converge, of which a ConvergenceWarning warns.

        Raises
        ------
        ValueError
            If the solver refuses the system, a context is missing, or a function returns a cost that is not finite:
            the number of the system is named.
        """
        parameter = self.bandit.suggest(context)
        try:
            x, cost = self._run(A, b, x0, parameter)
            if cost > 0 or callable(self.solver):
                self.bandit.update(cost)
        finally:
            self.bandit.discard()
        self.relaxation_, self.n_solves_ = parameter, self.n_solves_ + 1
        return x, cost

    def _run(self, A: Any, b: Any, x0: Any, parameter: float) -> tuple[Any, float]:
        if not callable(self.solver):
            x, cost, self.converged_ = SOLVERS[self.solver](A, b, x0, parameter, self.rtol, self.max_iter)
            return x, float(cost if self.converged_ else self.max_iter)
        x, cost = self.solver(A, b, x0, parameter)
        where = f"for system {self.n_solves_} with parameter {parameter:g}"
        if not np.isfinite(cost):
            raise ValueError(f"solver returned the cost {cost!r} {where}")
        if not np.isfinite(np.asarray(x)).all():
            raise ValueError(f"solver returned NaN or infinity in x {where}")
        return x, float(cost)


@dataclass(frozen=True)
class SequenceReport:
    """What came of a sequence of systems.

    Attributes
    ----------
    solutions : list of ndarray or None
        The solutions, where they were to be kept.
    iterations : ndarray of shape (n_systems,)
        Cost of each system: iterations, or what the user's function calls its cost.
    relaxations : ndarray of shape (n_systems,)
        The parameter that each was solved with.
    seconds : ndarray of shape (n_systems,)
        Time that each took, checks and choice of the parameter included.
    converged : ndarray of shape (n_systems,)
        Whether each converged; one that did not cost ``max_iter``.

    References
    ----------
    Mikhail Khodak, Edmond Chow, Maria-Florina Balcan, Ameet Talwalkar. "Learning to Relax: Setting Solver Parameters
    Across a Sequence of Linear System Instances". arXiv:2310.02246.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.linalg import RelaxationTuner, solve_sequence
    >>> A = np.array([[2.0, -1.0], [-1.0, 2.0]])
    >>> report = solve_sequence([(A, np.ones(2))] * 3, RelaxationTuner(random_state=0), progress=False)
    >>> report.converged.all(), report.solutions[0].round(6).tolist()
    (np.True_, [1.0, 1.0])
    """

    solutions: list[Array] | None
    iterations: NDArray[np.float64]
    relaxations: NDArray[np.float64]
    seconds: NDArray[np.float64]
    converged: NDArray[np.bool_]


def solve_sequence(
    systems: Iterable[tuple[Any, ...]],
    tuner: RelaxationTuner,
    contexts: Sequence[float] | None = None,
    progress: bool = True,
    *,
    warm_start: bool = False,
    keep_solutions: bool = True,
) -> SequenceReport:
    """Solve systems one after another with a tuned parameter.

    Parameters
    ----------
    systems : iterable of tuple
        Pairs (A, b), or triples (A, b, x0) whose x0 may be None; a generator makes each when its turn comes.
    tuner : RelaxationTuner
        What solves, and learns on. One that has solved others goes on with what it knows.
    contexts : sequence of float, optional
        A number known of each system. Their range is taken for the tuner's ``context_range`` if that was not given.
    progress : bool, default True
        Show a bar.
    warm_start : bool, default False
        Start from the solution of the system before, where a system comes without x0.
    keep_solutions : bool, default True
        Keep the solutions; without, memory does not grow with the sequence.

    Returns
    -------
    SequenceReport
        Iterations, parameters and seconds of each system.

    Raises
    ------
    ValueError
        If there are more systems than contexts or fewer, a context is not finite, or a system is refused: the error is
        that of the solver.
    TypeError
        If a system is no pair or triple.

    References
    ----------
    Mikhail Khodak, Edmond Chow, Maria-Florina Balcan, Ameet Talwalkar. "Learning to Relax: Setting Solver Parameters
    Across a Sequence of Linear System Instances". arXiv:2310.02246.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import diags_array
    >>> from paperworks.linalg import RelaxationTuner, solve_sequence
    >>> shifts = np.random.default_rng(0).random(50)
    >>> systems = [(diags_array([-1.0, 2 + c, -1.0], offsets=[-1, 0, 1], shape=(40, 40)), np.ones(40)) for c in shifts]
    >>> tuner = RelaxationTuner("ssor_cg", "chebyshev", random_state=0)
    >>> report = solve_sequence(systems, tuner, shifts, progress=False)
    >>> report.iterations.shape, bool(report.converged.all())
    ((50,), True)
    """
    if contexts is not None:
        contexts = check_finite("contexts", np.asarray(contexts, dtype=np.float64)).tolist()
        _take_range(tuner, contexts)
    rows: list[tuple[float, float, float, bool]] = []
    solutions: list[Array] = []
    x = None
    with warnings.catch_warnings():
        # One warning at the end counts those that did not converge.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for t, system in enumerate(progress_bar(systems, "systems", progress)):
            if not isinstance(system, (tuple, list)) or len(system) not in (2, 3):
                raise TypeError(
                    f"systems must be pairs (A, b) or triples (A, b, x0); number {t} is {type(system).__name__}"
                )
            if contexts is not None and t >= len(contexts):
                raise ValueError(f"contexts has {len(contexts)} numbers, but there are more systems")
            x0 = system[2] if len(system) == 3 else None
            if x0 is None and warm_start:
                x0 = x
            start = perf_counter()
            x, cost = tuner.solve(system[0], system[1], x0, None if contexts is None else contexts[t])
            rows.append((cost, tuner.relaxation_, perf_counter() - start, tuner.converged_))
            if keep_solutions:
                solutions.append(x)
    if contexts is not None and len(rows) < len(contexts):
        raise ValueError(f"contexts has {len(contexts)} numbers for {len(rows)} systems")
    costs, relaxations, seconds, converged = np.array(rows, dtype=float).reshape(-1, 4).T
    if not converged.all():
        warnings.warn(
            f"{int((converged == 0).sum())} of {len(rows)} systems did not converge, first number "
            f"{int(converged.argmin())}; each counts as {tuner.max_iter} iterations",
            ConvergenceWarning,
            stacklevel=2,
        )
    return SequenceReport(solutions if keep_solutions else None, costs, relaxations, seconds, converged.astype(bool))


def _take_range(tuner: RelaxationTuner, contexts: Sequence[float]) -> None:
    bandit = tuner.bandit
    if isinstance(bandit, TsallisINF) or bandit.contexts.limits is not None or not contexts:
        return
    low, high = min(contexts), max(contexts)
    bandit.contexts.limits = (low, high) if low < high else (low - 0.5, low + 0.5)
