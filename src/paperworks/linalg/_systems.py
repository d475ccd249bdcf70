"""Sparse linear systems: checks that name the argument, and sequences of them read from files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from paperworks._files import InputError, files_in, read_array
from paperworks._validation import check_finite

MATRICES = (".mtx", ".npz", ".gz")
# Two halves of a symmetric matrix may differ by rounding, relative to its largest entry.
ROUNDING = 1e-10


@dataclass(frozen=True)
class LinearSystem:
    """A system ``matrix @ x = rhs`` and what its file is called."""

    name: str
    matrix: sp.csr_array
    rhs: NDArray[Any]


def check_matrix(name: str, A: Any, *, symmetric: bool = False) -> sp.csr_array:
    """Return a square matrix as CSR of float64 or complex128, with sorted indices and no duplicates.

    Parameters
    ----------
    name : str
        What errors call the matrix.
    A : sparse matrix or array_like of shape (n, n)
        float32 is widened; it may be returned as it came, so it must not be written to.
    symmetric : bool, default False
        Refuse what is not symmetric up to rounding (Hermitian, if complex).

    Returns
    -------
    csr_array of shape (n, n)

    Raises
    ------
    ValueError
        If it is empty, not square, not symmetric where it must be, or holds NaN or infinity.
    TypeError
        If it holds no floating-point numbers.
    """
    if not sp.issparse(A):
        try:
            A = np.asarray(A)
        except ValueError as error:
            raise ValueError(f"{name} is not a rectangular array: {error}") from None
    if A.dtype.kind not in "fc":
        raise TypeError(f"{name} must hold floating-point numbers, got {A.dtype}; convert it, as in A.astype(float)")
    if A.ndim != 2 or A.shape[0] != A.shape[1] or not A.shape[0]:
        raise ValueError(f"{name} must be a square matrix of at least one row, got shape {A.shape}")
    matrix = sp.csr_array(A).astype(np.complex128 if A.dtype.kind == "c" else np.float64, copy=False)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    if not np.isfinite(matrix.data).all():
        row = int(np.searchsorted(matrix.indptr, int(np.argmin(np.isfinite(matrix.data))), side="right")) - 1
        raise ValueError(f"{name} contains NaN or infinity, first in row {row}")
    if symmetric and matrix.nnz:
        largest = abs(matrix.data).max()
        off = abs(matrix - matrix.conj().T).tocoo()
        if off.nnz and off.data.max() > ROUNDING * largest:
            worst = int(off.data.argmax())
            kind = "Hermitian" if matrix.dtype.kind == "c" else "symmetric"
            raise ValueError(f"{name} must be {kind}; entry ({off.row[worst]}, {off.col[worst]}) is not its mirror's")
    return matrix


def check_vector(name: str, b: Any, n: int) -> NDArray[Any]:
    """Return a vector of length n as finite float64 or complex128, naming it in errors."""
    vector = np.asarray(b)
    if vector.dtype.kind not in "fc":
        raise TypeError(
            f"{name} must hold floating-point numbers, got {vector.dtype}; convert it, as in b.astype(float)"
        )
    if vector.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},) to fit A, got {vector.shape}")
    vector = vector.astype(np.complex128 if vector.dtype.kind == "c" else np.float64, copy=False)
    return check_finite(name, vector)


def check_system(
    A: Any, b: Any, x0: Any = None, *, symmetric: bool = False
) -> tuple[sp.csr_array, NDArray[Any], NDArray[Any] | None]:
    """Return ``A``, ``b`` and ``x0`` checked as `check_matrix` and `check_vector` do."""
    matrix = check_matrix("A", A, symmetric=symmetric)
    n = matrix.shape[0]
    return matrix, check_vector("b", b, n), None if x0 is None else check_vector("x0", x0, n)


def read_systems(files: Sequence[Path]) -> list[LinearSystem]:
    """Read systems from one folder, or from matrix files, in the order of their names.

    Parameters
    ----------
    files : sequence of Path
        A folder, or matrices: Matrix Market (``.mtx``, ``.mtx.gz``) or SciPy's ``.npz``. The right-hand side of
        ``NAME.mtx`` is ``NAME.npy``, ``NAME_rhs.npy``, ``NAME_rhs.mtx`` or ``NAME_b.mtx`` beside it; without one it
        is a vector of ones. Files of a folder that hold right-hand sides are not taken for matrices.

    Returns
    -------
    list of LinearSystem

    Raises
    ------
    InputError
        If a file can't be read, holds no square matrix, or its right-hand side does not fit.
    """
    paths = list(files)
    if len(paths) == 1 and paths[0].is_dir():
        paths = files_in(paths[0], MATRICES)
    paths = [path for path in paths if not _stem(path).endswith(("_rhs", "_b"))]
    if not paths:
        raise InputError("no matrix among the files: only right-hand sides")
    return [_read_system(path) for path in sorted(paths, key=lambda path: path.name)]


def _read_system(path: Path) -> LinearSystem:
    matrix = _read_matrix(path)
    stem = _stem(path)
    beside = [f"{stem}.npy", f"{stem}_rhs.npy", *(f"{stem}_{word}.mtx" for word in ("rhs", "b"))]
    found = next((path.parent / name for name in beside if (path.parent / name).exists()), None)
    rhs = np.ones(matrix.shape[0]) if found is None else _read_rhs(found)
    if rhs.shape != (matrix.shape[0],):
        raise InputError(f"{found}: must hold {matrix.shape[0]} numbers to fit {path.name}, got shape {rhs.shape}")
    return LinearSystem(stem, matrix, rhs)


def _read_matrix(path: Path) -> sp.csr_array:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if not path.name.endswith((".mtx", ".mtx.gz", ".npz")):
        raise InputError(f"{path}: unreadable format {path.suffix!r}; accepted here: .mtx, .mtx.gz, .npz")
    try:
        held = sp.load_npz(path) if path.suffix == ".npz" else _read_market(path)
    except Exception as error:  # the readers raise whatever they meet
        raise InputError(f"{path}: can't be read as a matrix: {str(error).splitlines()[0]}") from None
    if held.dtype.kind in "iub":
        held = held.astype(np.float64)
    try:
        return check_matrix(path.name, held)
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from None


def _read_rhs(path: Path) -> NDArray[Any]:
    if path.suffix == ".npy":
        try:
            held = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise InputError(f"{path}: can't be read as .npy: {str(error).splitlines()[0]}") from None
        # read_array refuses complex numbers, which a right-hand side may hold.
        if held.dtype.kind != "c":
            return read_array(path).squeeze()
    else:
        held = _read_market(path)
        held = held.toarray() if sp.issparse(held) else np.asarray(held)
    if not np.isfinite(held).all():
        raise InputError(f"{path}: contains NaN or infinity")
    return held.squeeze()


def _read_market(path: Path) -> Any:
    from scipy.io import mmread

    return mmread(path)


def _stem(path: Path) -> str:
    """The name of a file without .mtx, .npz or .mtx.gz."""
    return Path(path.name.removesuffix(".gz")).stem
