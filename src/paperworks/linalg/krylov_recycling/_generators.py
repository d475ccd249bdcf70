"""Sequences of systems that differential equations with random parameters give, by finite differences on a grid."""

from typing import Any, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.fft import idctn

from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_choice, check_integer, check_number

Field = NDArray[np.float64]
Systems: TypeAlias = tuple[list[sp.csr_array], NDArray[Any], Field]


def darcy_systems(
    n_systems: int,
    grid: int,
    *,
    coefficient: Literal["exponential", "threshold"] = "exponential",
    contrast: float = 10.0,
    alpha: float = 2.0,
    tau: float = 3.0,
    n_clusters: int | None = None,
    spread: float = 0.2,
    dimension: int = 2,
    random_state: RandomState = None,
) -> Systems:
    r"""Flow through porous media of random permeability.

    .. math:: -\nabla \cdot (K \nabla p) = 1 \text{ in } (0, 1)^d, \qquad p = 0 \text{ on the boundary},

    with K a function of a Gaussian random field of covariance :math:`\propto (-\Delta + \tau^2)^{-\alpha}`, and two
    points a face, of harmonic mean permeability. The matrices are symmetric positive definite.

    Parameters
    ----------
    n_systems : int
        Number of systems.
    grid : int
        Unknowns along each axis.
    coefficient : {"exponential", "threshold"}, default "exponential"
        K is the exponential of the field, or ``contrast`` where the field is positive and 1 elsewhere.
    contrast : float, default 10
        As above.
    alpha : float, default 2
        Smoothness of the field.
    tau : float, default 3
        Inverse length scale of the field.
    n_clusters : int, optional
        Draw so many fields and vary them, in random order; independent fields when None.
    spread : float, default 0.2
        Share of a field's standard deviation that is its own and not its cluster's.
    dimension : int, default 2
        Number d of axes, 2 or 3.
    random_state : None, int, Generator or RandomState
        Source of the fields.

    Returns
    -------
    matrices : list of csr_array
        One for each system, of shape (n, n) with n = grid ** dimension.
    rhs : ndarray of shape (n_systems, n)
        Right-hand sides.
    parameters : ndarray of shape (n_systems, grid, grid) or (n_systems, grid, grid, grid)
        The permeabilities.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Hong Wang, Zhongkai Hao, Jie Wang, Zijie Geng, Zhen Wang, Bin Li, Feng Wu. "Accelerating Data Generation for Neural
    Operators via Krylov Subspace Recycling". ICLR 2024. arXiv:2401.09516.

    Examples
    --------
    >>> from paperworks.linalg import darcy_systems
    >>> matrices, rhs, parameters = darcy_systems(3, 8, random_state=0)
    >>> matrices[0].shape, rhs.shape, parameters.shape
    ((64, 64), (3, 64), (3, 8, 8))
    """
    check_choice("coefficient", coefficient, ("exponential", "threshold"))
    contrast = check_number("contrast", contrast, above=0.0)
    fields = _fields(n_systems, grid, alpha, tau, n_clusters, spread, dimension, random_state)
    K = np.exp(fields) if coefficient == "exponential" else np.where(fields > 0, contrast, 1.0)
    return [_diffusion(each) for each in K], _ones(fields), K


def helmholtz_systems(
    n_systems: int,
    grid: int,
    *,
    wave_number: float = 12.0,
    absorption: float = 0.0,
    alpha: float = 2.0,
    tau: float = 3.0,
    n_clusters: int | None = None,
    spread: float = 0.2,
    dimension: int = 2,
    random_state: RandomState = None,
) -> Systems:
    r"""Waves of one frequency in a medium of random speed.

    .. math:: -\Delta u - (1 + i a)\, \kappa^2 u = 1 \text{ in } (0, 1)^d, \qquad u = 0 \text{ on the boundary},

    with the wave number :math:`\kappa` a constant times the exponential of half a Gaussian random field. The matrices
    are indefinite, with about :math:`\kappa^2 / (4 \pi)` eigenvalues below zero for d = 2.

    Parameters
    ----------
    n_systems : int
        Number of systems.
    grid : int
        Unknowns along each axis; ten for each wave length, 2 pi / wave_number, resolve it.
    wave_number : float, default 12
        Median of kappa.
    absorption : float, default 0
        a; the matrices are complex where it is positive.
    alpha : float, default 2
        Smoothness of the field.
    tau : float, default 3
        Inverse length scale of the field.
    n_clusters : int, optional
        Draw so many fields and vary them, in random order; independent fields when None.
    spread : float, default 0.2
        Share of a field's standard deviation that is its own and not its cluster's.
    dimension : int, default 2
        Number d of axes, 2 or 3.
    random_state : None, int, Generator or RandomState
        Source of the fields.

    Returns
    -------
    matrices : list of csr_array
        One for each system, of shape (n, n) with n = grid ** dimension.
    rhs : ndarray of shape (n_systems, n)
        Right-hand sides.
    parameters : ndarray of shape (n_systems, grid, grid) or (n_systems, grid, grid, grid)
        The wave numbers.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Hong Wang, Zhongkai Hao, Jie Wang, Zijie Geng, Zhen Wang, Bin Li, Feng Wu. "Accelerating Data Generation for Neural
    Operators via Krylov Subspace Recycling". ICLR 2024. arXiv:2401.09516.

    Examples
    --------
    >>> from paperworks.linalg import helmholtz_systems
    >>> matrices, _, _ = helmholtz_systems(1, 12, absorption=0.1, random_state=0)
    >>> matrices[0].dtype
    dtype('complex128')
    """
    wave_number = check_number("wave_number", wave_number, above=0.0)
    absorption = check_number("absorption", absorption, at_least=0.0)
    fields = _fields(n_systems, grid, alpha, tau, n_clusters, spread, dimension, random_state)
    kappa = wave_number * np.exp(fields / 2)
    laplacian = _diffusion(np.ones(fields.shape[1:]))
    factor = (1 + 1j * absorption if absorption else 1.0) / (grid + 1) ** 2
    matrices = [sp.csr_array(laplacian - sp.diags_array(factor * each.ravel() ** 2)) for each in kappa]
    return matrices, _ones(fields), kappa


def convection_diffusion_systems(
    n_systems: int,
    grid: int,
    *,
    peclet: float = 100.0,
    alpha: float = 2.0,
    tau: float = 3.0,
    n_clusters: int | None = None,
    spread: float = 0.2,
    dimension: int = 2,
    random_state: RandomState = None,
) -> Systems:
    r"""Heat carried by a random incompressible flow.

    .. math:: -\Delta u + \mathrm{Pe}\, v \cdot \nabla u = 1 \text{ in } (0, 1)^d, \qquad u = 0 \text{ on the boundary},

    where v turns along the level lines of a Gaussian random field :math:`\psi`,
    :math:`v = (\partial_2 \psi, -\partial_1 \psi)`, with a root mean square speed of one; differences are upwind. The
    matrices are far from symmetric.

    Parameters
    ----------
    n_systems : int
        Number of systems.
    grid : int
        Unknowns along each axis.
    peclet : float, default 100
        Pe, convection over diffusion.
    alpha : float, default 2
        Smoothness of the field.
    tau : float, default 3
        Inverse length scale of the field.
    n_clusters : int, optional
        Draw so many fields and vary them, in random order; independent fields when None.
    spread : float, default 0.2
        Share of a field's standard deviation that is its own and not its cluster's.
    dimension : int, default 2
        Number d of axes, 2 or 3; in three the flow stays within planes.
    random_state : None, int, Generator or RandomState
        Source of the fields.

    Returns
    -------
    matrices : list of csr_array
        One for each system, of shape (n, n) with n = grid ** dimension.
    rhs : ndarray of shape (n_systems, n)
        Right-hand sides.
    parameters : ndarray of shape (n_systems, grid, grid) or (n_systems, grid, grid, grid)
        The fields psi, scaled.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Hong Wang, Zhongkai Hao, Jie Wang, Zijie Geng, Zhen Wang, Bin Li, Feng Wu. "Accelerating Data Generation for Neural
    Operators via Krylov Subspace Recycling". ICLR 2024. arXiv:2401.09516.

    Examples
    --------
    >>> from paperworks.linalg import convection_diffusion_systems
    >>> matrices, _, _ = convection_diffusion_systems(1, 12, random_state=0)
    >>> bool(abs(matrices[0] - matrices[0].T).max() > 0.1)
    True
    """
    peclet = check_number("peclet", peclet, at_least=0.0)
    fields = _fields(n_systems, grid, alpha, tau, n_clusters, spread, dimension, random_state)
    h = 1 / (grid + 1)
    streams, matrices = [], []
    for field in fields:
        across, along = (np.gradient(field, h, axis=axis) for axis in (0, 1))
        speed = np.sqrt(np.mean(across**2 + along**2))
        streams.append(field / speed)
        flow = [along / speed, -across / speed, *[np.zeros_like(field)] * (dimension - 2)]
        # Each direction takes its difference from where the flow comes.
        lower = [-1 - h * peclet * np.maximum(v, 0) for v in flow]
        upper = [-1 + h * peclet * np.minimum(v, 0) for v in flow]
        matrices.append(_stencil(-sum(lower) - sum(upper), lower, upper))
    return matrices, _ones(fields), np.array(streams)


def poisson_systems(
    n_systems: int, grid: int, *, degree: int = 5, random_state: RandomState = None
) -> tuple[list[sp.csr_array], NDArray[np.float64], NDArray[np.float64]]:
    r"""Poisson's equation with random Chebyshev polynomials as source and on the four sides.

    .. math:: -\Delta u = f \text{ in } (0, 1)^2, \qquad u = g_1, \dots, g_4 \text{ on the sides}.

    The matrix is one and the same for all systems; only right-hand sides differ.

    Parameters
    ----------
    n_systems : int
        Number of systems.
    grid : int
        Unknowns along each axis.
    degree : int, default 5
        Number of coefficients of each polynomial, which decay as 1 / (1 + j).
    random_state : None, int, Generator or RandomState
        Source of the coefficients.

    Returns
    -------
    matrices : list of csr_array
        n_systems times the same matrix, of shape (n, n) with n = grid ** 2.
    rhs : ndarray of shape (n_systems, n)
        Right-hand sides.
    parameters : ndarray of shape (n_systems, 5, degree)
        Coefficients of the source, which varies along the first axis, and of the sides.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Hong Wang, Zhongkai Hao, Jie Wang, Zijie Geng, Zhen Wang, Bin Li, Feng Wu. "Accelerating Data Generation for Neural
    Operators via Krylov Subspace Recycling". ICLR 2024. arXiv:2401.09516.

    Examples
    --------
    >>> from paperworks.linalg import poisson_systems
    >>> matrices, rhs, parameters = poisson_systems(3, 8, random_state=0)
    >>> matrices[0] is matrices[2], parameters.shape
    (True, (3, 5, 5))
    """
    n_systems, grid = check_integer("n_systems", n_systems), check_integer("grid", grid, at_least=2)
    generator = numpy_generator(random_state)
    decay = 1 / (1.0 + np.arange(check_integer("degree", degree)))
    coefficients = generator.normal(size=(n_systems, 5, len(decay))) * decay
    points = np.arange(1, grid + 1) / (grid + 1)
    basis = np.polynomial.chebyshev.chebvander(2 * points - 1, len(decay) - 1)
    source, west, east, south, north = np.moveaxis(coefficients @ basis.T, 1, 0)
    b = np.repeat(source[:, :, None], grid, axis=2) / (grid + 1) ** 2
    b[:, 0] += west
    b[:, -1] += east
    b[:, :, 0] += south
    b[:, :, -1] += north
    return [_diffusion(np.ones((grid, grid)))] * n_systems, b.reshape(n_systems, -1), coefficients


def thermal_systems(
    n_systems: int, grid: int, *, random_state: RandomState = None
) -> tuple[list[sp.csr_array], NDArray[np.float64], NDArray[np.float64]]:
    r"""Steady heat between a cold side and a warm one, with the other two insulated.

    .. math::
        \Delta T = 0 \text{ in } (0, 1)^2, \qquad T = T_1 \in (-100, 0) \text{ left}, \quad
        T = T_2 \in (0, 100) \text{ right}, \quad \partial_n T = 0 \text{ elsewhere}.

    The matrix is one and the same for all systems; only right-hand sides differ.

    Parameters
    ----------
    n_systems : int
        Number of systems.
    grid : int
        Unknowns along each axis.
    random_state : None, int, Generator or RandomState
        Source of the temperatures.

    Returns
    -------
    matrices : list of csr_array
        n_systems times the same matrix, of shape (n, n) with n = grid ** 2.
    rhs : ndarray of shape (n_systems, n)
        Right-hand sides.
    parameters : ndarray of shape (n_systems, 2)
        The two temperatures.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Hong Wang, Zhongkai Hao, Jie Wang, Zijie Geng, Zhen Wang, Bin Li, Feng Wu. "Accelerating Data Generation for Neural
    Operators via Krylov Subspace Recycling". ICLR 2024. arXiv:2401.09516.

    Examples
    --------
    >>> from paperworks.linalg import thermal_systems
    >>> matrices, rhs, parameters = thermal_systems(3, 8, random_state=0)
    >>> matrices[0] is matrices[2], parameters.shape
    (True, (3, 2))
    """
    n_systems, grid = check_integer("n_systems", n_systems), check_integer("grid", grid, at_least=2)
    temperatures = numpy_generator(random_state).uniform([-100.0, 0.0], [0.0, 100.0], size=(n_systems, 2))
    side = -np.ones((grid, grid))
    lower, upper = side.copy(), side.copy()
    lower[:, 0] = upper[:, -1] = 0
    centre = 2 - lower - upper
    b = np.zeros((n_systems, grid, grid))
    b[:, 0] += temperatures[:, :1]
    b[:, -1] += temperatures[:, 1:]
    return [_stencil(centre, [side, lower], [side, upper])] * n_systems, b.reshape(n_systems, -1), temperatures


def _fields(
    n_systems: int,
    grid: int,
    alpha: float,
    tau: float,
    n_clusters: int | None,
    spread: float,
    dimension: int,
    random_state: RandomState,
) -> Field:
    """Gaussian random fields: cosine series of coefficients tau^(alpha - d/2) (pi^2 |k|^2 + tau^2)^(-alpha/2)."""
    n_systems, grid = check_integer("n_systems", n_systems), check_integer("grid", grid, at_least=2)
    d = check_choice("dimension", dimension, (2, 3))
    alpha, tau = check_number("alpha", alpha, above=0.0), check_number("tau", tau, above=0.0)
    spread = check_number("spread", spread, at_least=0.0, at_most=1.0)
    generator = numpy_generator(random_state)
    waves = np.arange(grid)
    squares = sum(np.meshgrid(*[waves**2] * d, indexing="ij"))
    size = tau ** (alpha - d / 2) * (np.pi**2 * squares + tau**2) ** (-alpha / 2)
    size[(0,) * d] = 0

    def draw(count: int) -> Field:
        noise = generator.normal(size=(count, *[grid] * d))
        return np.asarray(idctn(grid ** (d / 2) * size * noise, axes=range(1, d + 1), norm="ortho"))

    own = draw(n_systems)
    if n_clusters is None:
        return own
    centres = draw(check_integer("n_clusters", n_clusters))
    chosen = generator.permutation(np.arange(n_systems) % len(centres))
    return np.sqrt(1 - spread**2) * centres[chosen] + spread * own


def _ones(fields: Field) -> Field:
    """A source of one everywhere, times the h^2 that all matrices are scaled by."""
    return np.full((len(fields), fields[0].size), 1 / (fields.shape[1] + 1) ** 2)


def _diffusion(K: Field) -> sp.csr_array:
    """-h^2 div (K grad), with zero on the boundary; K goes on unchanged beyond it."""
    lower, upper = [], []
    for axis in range(K.ndim):
        padded = np.pad(K, [(int(each == axis),) * 2 for each in range(K.ndim)], mode="edge")
        first, second = (np.take(padded, range(s, s + K.shape[axis] + 1), axis=axis) for s in (0, 1))
        face = 2 * first * second / (first + second)
        lower.append(-np.take(face, range(K.shape[axis]), axis=axis))
        upper.append(-np.take(face, range(1, K.shape[axis] + 1), axis=axis))
    return _stencil(-sum(lower) - sum(upper), lower, upper)


def _stencil(centre: Any, lower: list[Field], upper: list[Field]) -> sp.csr_array:
    """Matrix of a point's own weight and those of its lower and upper neighbours along each axis."""
    shape = np.shape(centre)
    diagonals, offsets = [np.ravel(centre)], [0]
    for axis, (before, after) in enumerate(zip(lower, upper, strict=True)):
        stride = int(np.prod(shape[axis + 1 :]))
        place = np.arange(shape[axis]).reshape(-1, *[1] * (len(shape) - axis - 1))
        diagonals += [np.where(place == 0, 0, before).ravel()[stride:]]
        diagonals += [np.where(place == shape[axis] - 1, 0, after).ravel()[:-stride]]
        offsets += [-stride, stride]
    matrix = sp.csr_array(sp.diags_array(diagonals, offsets=offsets))
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix
