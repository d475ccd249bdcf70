"""The relaxation that theory calls best for one matrix."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from paperworks.linalg._systems import check_matrix
from paperworks.linalg.learned_relaxation._triangles import Triangles, _is_symmetric, _split

__all__ = ["optimal_relaxation"]

# Up to here all eigenvalues of a dense matrix come sooner than the extreme ones of a sparse matrix.
DENSE = 300


def optimal_relaxation(A: Any) -> float:
    r"""Return the relaxation with which successive over-relaxation converges fastest in the long run.

    With :math:`\beta` the spectral radius of the Jacobi iteration :math:`I - D^{-1} A`,

    .. math:: \omega^* = 1 + \left(\frac{\beta}{1 + \sqrt{1 - \beta^2}}\right)^2 = \frac{2}{1 + \sqrt{1 - \beta^2}}.

    It is exact for consistently ordered matrices, among them tridiagonal ones and five-point stencils in the usual
    order, whose Jacobi iteration has real eigenvalues; else it is a guess. It takes an eigenvalue problem.

    Parameters
    ----------
    A : sparse matrix, or array_like with n rows and n columns
        Floating-point matrix without a zero on its diagonal.

    Returns
    -------
    float
        :math:`\omega^*`, from 1 up to but not including 2.

    Raises
    ------
    ValueError
        If A is not square, not finite, has a zero on its diagonal, or the spectral radius is 1 or more.
    TypeError
        If A does not hold real floating-point numbers.

    References
    ----------
    Mikhail Khodak, Edmond Chow, Maria-Florina Balcan, Ameet Talwalkar. "Learning to Relax: Setting Solver Parameters
    Across a Sequence of Linear System Instances". arXiv:2310.02246.
    David Young. "Iterative methods for solving partial difference equations of elliptic type". Transactions of the
    American Mathematical Society, 1954.

    Examples
    --------
    >>> from scipy.sparse import diags_array
    >>> from paperworks.linalg import optimal_relaxation
    >>> A = diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(30, 30))
    >>> round(optimal_relaxation(A), 4)
    1.8163
    """
    matrix = check_matrix("A", A)
    if matrix.dtype.kind == "c":
        raise TypeError(f"A must be real, got {matrix.dtype}")
    triangles = Triangles(*_split(matrix.indptr, matrix.indices, matrix.data))
    diagonal = triangles.diagonal
    if not diagonal.all():
        raise ValueError(f"A must have no zero on its diagonal, got one in row {int(np.argmin(diagonal != 0))}")
    if _is_symmetric(*triangles) and (diagonal > 0).all():
        beta = _symmetric_radius(matrix, diagonal)
    else:
        beta = _radius(matrix, diagonal)
    if not beta < 1:
        raise ValueError(f"A must have a Jacobi iteration of spectral radius below 1, got {beta:.6g}")
    return float(2 / (1 + np.sqrt(1 - beta**2)))


def _symmetric_radius(matrix: sp.csr_array, diagonal: Any) -> float:
    """Spectral radius of I - D^-1 A, from the extreme eigenvalues of D^-1/2 A D^-1/2, which is symmetric."""
    root = sp.diags_array(1 / np.sqrt(diagonal))
    scaled = sp.csc_array(root @ matrix @ root)
    if matrix.shape[0] <= DENSE:
        ends = np.linalg.eigvalsh(scaled.toarray())[[0, -1]].tolist()
    else:
        from scipy.sparse.linalg import eigsh

        above = float(abs(scaled).sum(axis=1).max()) * (1 + 1e-8)
        start = np.random.default_rng(0).standard_normal(matrix.shape[0])
        ends = [eigsh(scaled, 1, sigma=sigma, v0=start, return_eigenvectors=False)[0] for sigma in (0.0, above)]
    return float(max(abs(1 - each) for each in ends))


def _radius(matrix: sp.csr_array, diagonal: Any) -> float:
    jacobi = sp.eye_array(matrix.shape[0]) - sp.diags_array(1 / diagonal) @ matrix
    if matrix.shape[0] <= DENSE:
        return float(abs(np.linalg.eigvals(jacobi.toarray())).max())
    from scipy.sparse.linalg import eigs

    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    return float(abs(eigs(jacobi, 2, v0=start, return_eigenvectors=False)).max())
