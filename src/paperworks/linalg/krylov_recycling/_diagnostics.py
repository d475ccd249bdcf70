"""How near a recycled subspace is to the one that it stands for."""

from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.linalg import qr
from scipy.sparse.linalg import eigs

from paperworks._validation import check_integer
from paperworks.linalg._systems import check_matrix
from paperworks.linalg.krylov_recycling._gcro_dr import RecycleSpace, orthonormal_image

# Up to this order all eigenvectors are computed.
SMALL = 200


def recycling_distance(A: Any, recycle: RecycleSpace, *, n_vectors: int | None = None) -> float:
    r"""Distance from an invariant subspace of a matrix to the image of a recycled one.

    .. math:: \delta = \|(I - \Pi_C)\, \Pi_Q\|_2,

    the sine of the largest angle, where Q is spanned by the eigenvectors of A whose eigenvalues are nearest to zero
    and C = A U. GCRO-DR converges as if Q were deflated, up to a factor :math:`1 / (1 - \delta)`; sorting makes delta
    small.

    Parameters
    ----------
    A : sparse matrix or ndarray of shape (n, n)
        Matrix of the next system, nonsingular; no preconditioner is taken into account.
    recycle : RecycleSpace
        Subspace from the system before.
    n_vectors : int, optional
        Dimension of Q; that of the recycled space when None. Only directions that could be caught at all count: for
        more vectors than the space has, the distance is 1.

    Returns
    -------
    float
        From 0, where the recycled space catches all of Q, to 1, where a direction of it is missed.

    Raises
    ------
    ValueError
        If sizes don't fit or A is singular.
    TypeError
        If A holds no floating-point numbers or ``recycle`` is no RecycleSpace.

    References
    ----------
    Hong Wang, Zhongkai Hao, Jie Wang, Zijie Geng, Zhen Wang, Bin Li, Feng Wu. "Accelerating Data Generation for Neural
    Operators via Krylov Subspace Recycling". ICLR 2024. arXiv:2401.09516.

    Examples
    --------
    >>> from paperworks.linalg import darcy_systems, gcro_dr, recycling_distance
    >>> matrices, rhs, _ = darcy_systems(2, 16, random_state=0)
    >>> _, _, recycle = gcro_dr(matrices[0], rhs[0], rtol=1e-10)
    >>> own, next_one = (recycling_distance(A, recycle, n_vectors=5) for A in matrices)
    >>> own < next_one < 1
    True
    """
    matrix = check_matrix("A", A)
    if not isinstance(recycle, RecycleSpace):
        raise TypeError(f"recycle must be a RecycleSpace, got {type(recycle).__name__}")
    n, k = recycle.U.shape
    if n != matrix.shape[0]:
        raise ValueError(f"recycle holds vectors of {n} unknowns, but A has {matrix.shape[0]}")
    count = k if n_vectors is None else check_integer("n_vectors", n_vectors)
    C = orthonormal_image(matrix @ recycle.U)[0]
    Q = _invariant_subspace(matrix, min(count, n))
    return min(1.0, float(np.linalg.norm(Q - C @ (C.conj().T @ Q), 2)))


def _invariant_subspace(matrix: sp.csr_array, count: int) -> Any:
    n = matrix.shape[0]
    if n <= SMALL or count >= n - 1:
        values, vectors = np.linalg.eig(matrix.toarray())
    else:
        try:
            # A fixed start, for the same answer every time.
            start = np.random.default_rng(0).normal(size=n).astype(matrix.dtype)
            values, vectors = eigs(sp.csc_array(matrix), count + 1, sigma=0.0, v0=start)
        except RuntimeError as error:
            raise ValueError(f"A is singular: {error}") from None
    near = np.argsort(np.abs(values), kind="stable")[:count]
    return qr(vectors[:, near], mode="economic")[0]
