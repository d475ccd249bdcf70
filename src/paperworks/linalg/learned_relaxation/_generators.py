"""The sequences of systems that the paper is tested on, and families of differential equations beside them."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_choice, check_integer, check_number

__all__ = ["HeatSimulation", "shifted_laplacian_systems"]

Array = NDArray[np.float64]

# Contexts of the shifted Laplacians: the range of the shifts.
SHIFTS = (-0.15, 0.65)
# Parameters of the beta distributions that the shifts are drawn from.
SPREADS = {"high": (0.5, 1.5), "low": (2.0, 6.0)}


def laplacian(m: int) -> sp.csr_array:
    """Return the five-point Laplacian on m x m interior points, with a diagonal of four."""
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))
    return _sorted(sp.kron(line, sp.eye_array(m)) + sp.kron(sp.eye_array(m), line))


def shifted_laplacian_systems(
    n_systems: int, grid: int = 10, *, spread: Literal["high", "low"] = "high", random_state: RandomState = None
) -> tuple[list[sp.csr_array], Array, Array]:
    r"""Systems that differ in a diagonal shift, on which learning to relax is tested.

    .. math:: A_t = A + c_t I, \qquad c_t \sim -0.15 + 0.6 \, \mathrm{Beta},

    with the five-point Laplacian A, and right-hand sides that are standard normal, given that their norm is at most the
    root of their length. Shifts lie from -0.15 to 0.45; the best relaxation falls as they grow.

    Parameters
    ----------
    n_systems : int
        Number of systems.
    grid : int, default 10
        Unknowns along each of two axes; with many more, small shifts leave A indefinite.
    spread : {"high", "low"}, default "high"
        Variance of the shifts: Beta(1/2, 3/2) or Beta(2, 6).
    random_state : None, int, Generator or RandomState
        Source of shifts and right-hand sides.

    Returns
    -------
    matrices : list of csr_array
        One for each system, of shape (n, n) with n = grid ** 2.
    rhs : ndarray of shape (n_systems, n)
        Right-hand sides.
    shifts : ndarray of shape (n_systems,)
        The shifts: contexts for a contextual bandit.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Mikhail Khodak, Edmond Chow, Maria-Florina Balcan, Ameet Talwalkar. "Learning to Relax: Setting Solver Parameters
    Across a Sequence of Linear System Instances". arXiv:2310.02246.

    Examples
    --------
    >>> from paperworks.linalg import shifted_laplacian_systems
    >>> matrices, rhs, shifts = shifted_laplacian_systems(3, random_state=0)
    >>> matrices[0].shape, rhs.shape, shifts.shape
    ((100, 100), (3, 100), (3,))
    """
    count, side = check_integer("n_systems", n_systems), check_integer("grid", grid)
    rng = numpy_generator(random_state)
    shifts = draw_shifts(check_choice("spread", spread, tuple(SPREADS)), count, rng)
    matrices, rhs = zip(*shifted(laplacian(side), shifts, rng), strict=True)
    return list(matrices), np.array(rhs), shifts


def draw_shifts(spread: str, size: int, rng: np.random.Generator) -> Array:
    """Draw shifts as the paper does: of a high or a low variance, with the same mean."""
    return -0.15 + 0.6 * rng.beta(*SPREADS[spread], size)


def draw_target(n: int, rng: np.random.Generator) -> Array:
    """Draw a standard normal vector, given that its norm is at most the root of n."""
    while True:
        target = rng.standard_normal(n)
        if target @ target <= n:
            return target


def shifted(A: sp.csr_array, shifts: Array, rng: np.random.Generator) -> Iterator[tuple[sp.csr_array, Array]]:
    """Yield A + c I for each shift c, with a right-hand side drawn by `draw_target`."""
    n = A.shape[0]
    A = _sorted(A + 0 * sp.eye_array(n))
    diagonal = np.flatnonzero(A.indices == np.repeat(np.arange(n), np.diff(A.indptr)))
    for c in shifts:
        values = A.data.copy()
        values[diagonal] += c
        yield sp.csr_array((values, A.indices, A.indptr), shape=A.shape), draw_target(n, rng)


class HeatSimulation:
    r"""Heat on the unit square with a diffusion that comes and goes, by Crank-Nicolson steps, as a sequence of systems.

    .. math:: (I - \tfrac{\tau}{2} \kappa(t) \Delta) u_{t + \tau} = (I + \tfrac{\tau}{2} \kappa(t) \Delta) u_t
        + \tau f(t), \qquad \kappa(t) = \max(0.1 \sin 2 \pi t, -10 \sin 2 \pi t).

    A bump of heat is in the middle at first, and a source f goes round in circles. Take `system`, solve it, and call
    `advance` with the solution.

    Parameters
    ----------
    intervals : int
        Parts of each side, so that there are (intervals - 1) ** 2 unknowns.
    time_step : float, default 1e-3
        tau.

    Attributes
    ----------
    u : ndarray of shape (n,)
        Temperatures now.
    time : float
        Now.
    coefficient : float
        kappa in the middle of the step: the context of its system.

    Raises
    ------
    ValueError
        If there are fewer than two intervals, or the step is not positive.

    References
    ----------
    Mikhail Khodak, Edmond Chow, Maria-Florina Balcan, Ameet Talwalkar. "Learning to Relax: Setting Solver Parameters
    Across a Sequence of Linear System Instances". arXiv:2310.02246.

    Examples
    --------
    >>> from paperworks.linalg import HeatSimulation, RelaxationTuner
    >>> simulation, tuner = HeatSimulation(20), RelaxationTuner("ssor_cg", random_state=0)
    >>> for _ in range(3):
    ...     u, steps = tuner.solve(*simulation.system(), x0=simulation.u)
    ...     simulation.advance(u)
    >>> round(simulation.time, 3)
    0.003
    """

    def __init__(self, intervals: int, time_step: float = 1e-3) -> None:
        intervals = check_integer("intervals", intervals, at_least=2)
        self.time_step, self.time = check_number("time_step", time_step, above=0.0), 0.0
        m = intervals - 1
        line = np.arange(1, intervals) / intervals
        self.points = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
        self.stiffness = laplacian(m) * float(intervals**2)
        own = np.repeat(np.arange(m * m), np.diff(self.stiffness.indptr))
        self._identity = (self.stiffness.indices == own).astype(float)
        self.u = _bump(self.points, (0.5, 0.5), 0.25)

    @property
    def coefficient(self) -> float:
        """Diffusion in the middle of the step: the context of the system."""
        wave = np.sin(2 * np.pi * (self.time + self.time_step / 2))
        return float(max(0.1 * wave, -10 * wave))

    def system(self) -> tuple[sp.csr_array, Array]:
        """Return the matrix and the right-hand side of the step.

        Returns
        -------
        A : csr_array of shape (n, n)
            Symmetric positive definite.
        b : ndarray of shape (n,)
            Right-hand side.
        """
        half = 0.5 * self.coefficient * self.time_step
        angle = 16 * np.pi * (self.time + self.time_step / 2)
        forcing = 32 * _bump(self.points, (0.5 + np.cos(angle) / 4, 0.5 + np.sin(angle) / 4), 0.125)
        b = self.u - half * (self.stiffness @ self.u) + self.time_step * forcing
        return self.matrix(self.coefficient), b

    def matrix(self, coefficient: float) -> sp.csr_array:
        """Return the matrix of a step with some diffusion.

        Parameters
        ----------
        coefficient : float
            kappa.

        Returns
        -------
        csr_array of shape (n, n)
            The matrix.
        """
        K = self.stiffness
        values = self._identity + 0.5 * coefficient * self.time_step * K.data
        return sp.csr_array((values, K.indices, K.indptr), shape=K.shape)

    def advance(self, u: Array) -> None:
        """Make the step with the solution of its system.

        Parameters
        ----------
        u : ndarray of shape (n,)
            The solution.
        """
        self.u, self.time = u, self.time + self.time_step


def _bump(points: Array, centre: tuple[float, float], radius: float) -> Array:
    inside = 1 - np.minimum(1, ((points - centre) ** 2).sum(axis=1) / radius**2)
    with np.errstate(divide="ignore"):
        return np.exp(1 - 1 / inside)


def _sorted(matrix: Any) -> sp.csr_array:
    matrix = sp.csr_array(matrix)
    matrix.sum_duplicates()
    return matrix
