"""Races of sorted, recycled Krylov solvers against SciPy's and PyAMG's on sequences of systems."""

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, gcrotmk, gmres, lgmres, spsolve

from benchmarks.racing import Contestant, NotHere, Race
from paperworks.datasets import UnavailableError, load_finite_element_matrix
from paperworks.linalg import (
    KrylovRecyclingSolver,
    build_preconditioner,
    convection_diffusion_systems,
    darcy_systems,
    helmholtz_systems,
)

FINITE_ELEMENTS = ("airfoil", "bar", "knot", "local_disc_galerkin_diffusion", "recirc_flow", "unit_cube", "unit_square")
Systems = tuple[list[Any], Any, Any]
# What a peer does: solve (matrix, operator that counts, b, M) to rtol within a number of products.
Method = Callable[[Any, Any, Any, Any, float, int], Any]


def races() -> Iterator[Race]:
    scipy = {"gmres(40)": _gmres, "lgmres(37, 3)": _lgmres, "gcrotmk(20, 20), its space shared": None}
    everything = {**scipy, "spsolve": _direct, "PyAMG gmres(40)": _amg_gmres}
    darcy = darcy_systems(16, 64, random_state=0)
    yield _race(
        "Darcy flow, 16 systems of 64 x 64, Jacobi",
        darcy,
        "jacobi",
        everything | {"PyAMG smoothed aggregation, cg": _aggregation("cg")},
        aim="twice as quick as gmres(40), products 1.3 times fewer than gcrotmk",
    )
    yield _race(
        "Helmholtz, 16 systems of 64 x 64, Jacobi",
        helmholtz_systems(16, 64, random_state=0),
        "jacobi",
        everything | {"PyAMG fgmres(40)": _amg_fgmres, "PyAMG smoothed aggregation, fgmres": _aggregation("fgmres")},
        aim="3 times as quick as gmres(40), products 1.3 times fewer than gcrotmk",
    )
    yield _race(
        "convection-diffusion in 4 clusters, 16 systems of 64 x 64, Jacobi",
        convection_diffusion_systems(16, 64, n_clusters=4, random_state=0),
        "jacobi",
        everything | {"PyAMG smoothed aggregation, fgmres": _aggregation("fgmres")},
        aim="quicker than gmres(40), and than without sorting",
        unsorted=True,
    )
    yield from _large()
    yield from _finite_elements()


def _large() -> Iterator[Race]:
    yield _race(
        "Darcy flow of contrast 1000, 2 systems of 512 x 512, PyAMG's V-cycle as preconditioner",
        darcy_systems(2, 512, coefficient="threshold", contrast=1e3, n_clusters=1, spread=0.1, random_state=0),
        _v_cycle,
        {
            "gcrotmk(20, 20), its space shared": None,
            "spsolve": _direct,
            "PyAMG smoothed aggregation, cg": _aggregation("cg"),
        },
        rtol=1e-5,
        aim="to say who wins at n = 262,144",
    )
    yield _race(
        "Helmholtz in space, 2 systems of 64 x 64 x 64, SSOR",
        helmholtz_systems(2, 64, wave_number=8.0, dimension=3, n_clusters=1, spread=0.1, random_state=0),
        "ssor",
        {
            "gmres(40)": _gmres,
            "lgmres(37, 3)": _lgmres,
            "gcrotmk(20, 20), its space shared": None,
            "PyAMG smoothed aggregation, fgmres": _aggregation("fgmres"),
        },
        rtol=1e-5,
        most=320,
        aim="to say who wins at n = 262,144 in space, where LU fills in too much to be run",
    )


def _finite_elements() -> Iterator[Race]:
    try:
        waves = load_finite_element_matrix("helmholtz_2D").data
        others = [load_finite_element_matrix(name).data for name in FINITE_ELEMENTS]
    except UnavailableError:
        return
    rng = np.random.default_rng(0)
    size = abs(waves.diagonal()).mean()
    shifted = [sp.csr_array(waves + 0.02 * size * shift * sp.eye_array(waves.shape[0])) for shift in rng.random(10)]
    peers = {
        "gmres(40)": _gmres,
        "lgmres(37, 3)": _lgmres,
        "gcrotmk(20, 20), its space shared": None,
        "spsolve": _direct,
        "PyAMG gmres(40)": _amg_gmres,
        "PyAMG smoothed aggregation, fgmres": _aggregation("fgmres"),
    }
    ones = np.ones((10, waves.shape[0]), waves.dtype)
    yield _race(
        "finite-element Helmholtz of PyAMG (complex, n = 2,880), 10 shifts of it, SSOR",
        (shifted, ones, None),
        "ssor",
        peers,
        aim="quicker than gmres(40)",
    )
    sequences = []
    for A in others:
        size = 0.01 * abs(A.diagonal()).mean()
        shifted = [sp.csr_array(A + size * shift * sp.eye_array(A.shape[0])) for shift in rng.random(6)]
        sequences.append((shifted, np.ones((6, A.shape[0])), None))
    yield _race(
        "7 finite-element matrices of PyAMG (n = 125 to 966), 6 shifts of each, Jacobi",
        sequences,
        "jacobi",
        peers,
        aim="fewer products than gmres(40)",
    )


def _race(
    title: str,
    systems: Systems | list[Systems],
    preconditioner: Any,
    peers: dict[str, Method | None],
    *,
    rtol: float = 1e-8,
    most: int = 4000,
    aim: str,
    unsorted: bool = False,
) -> Race:
    sequences = systems if isinstance(systems, list) else [systems]

    def ours(sort: Any) -> Contestant:
        solver = KrylovRecyclingSolver(preconditioner=preconditioner, rtol=rtol, sort=sort, progress=False)
        name = "paperworks, sorted and recycled" if sort else "paperworks, recycled without sorting"

        def run() -> float:
            solutions = [solver.solve_many(*sequence) for sequence in sequences]
            if not all(solution.converged.all() for solution in solutions):
                raise NotHere(f"residual {max(solution.residuals.max() for solution in solutions):.1e}")
            return float(np.mean(np.concatenate([solution.matvecs for solution in solutions])))

        return Contestant(name, run)

    contestants = [ours(None)] if unsorted else []
    for name, method in peers.items():
        contestants.append(Contestant(name, _all_by(method, sequences, preconditioner, rtol, most)))
    return Race(
        f"{title}, to {rtol:.0e}",
        ours("greedy"),
        contestants,
        "products with the matrix, a system",
        lambda products: products,
        aim=aim,
        repeats=1,
    )


def _all_by(
    method: Method | None, sequences: list[Systems], preconditioner: Any, rtol: float, most: int
) -> Callable[[], float]:
    """Solve every system, and return the mean number of products; a residual above the tolerance ends the race."""

    def run() -> float:
        total, count = 0, 0
        for matrices, rhs, _ in sequences:
            solve = _shared_gcrotmk() if method is None else method
            for A, b in zip(matrices, rhs, strict=True):
                start, operator = perf_counter(), _Counting(A)
                M = None if solve in (_direct, *_AGGREGATIONS) else _built(preconditioner, A)
                x = solve(A, operator, b, M, rtol, most)
                residual = np.linalg.norm(b - A @ x) / np.linalg.norm(b)
                total, count = total + operator.products, count + 1
                # Preconditioned solvers may stop by a norm of their own, a little early.
                if not residual <= 2 * rtol:
                    seconds = perf_counter() - start
                    raise NotHere(f"residual {residual:.1e} after {operator.products:,} products, {seconds:.1f} s")
        return total / count

    return run


class _Counting(LinearOperator):
    def __init__(self, A: Any) -> None:
        super().__init__(A.dtype, A.shape)
        self.A, self.products = A, 0

    def _matvec(self, v: Any) -> Any:
        self.products += 1
        return self.A @ v


def _built(preconditioner: Any, A: Any) -> Any:
    if preconditioner is None:
        return None
    M = preconditioner(A) if callable(preconditioner) else build_preconditioner(A, preconditioner)
    return LinearOperator(A.shape, matvec=lambda v: M @ v, dtype=A.dtype)


def _v_cycle(A: Any) -> Any:
    import pyamg

    return pyamg.smoothed_aggregation_solver(sp.csr_matrix(A)).aspreconditioner()


def _gmres(A: Any, operator: Any, b: Any, M: Any, rtol: float, most: int) -> Any:
    return gmres(operator, b, rtol=rtol, restart=40, maxiter=most // 40, M=M)[0]


def _lgmres(A: Any, operator: Any, b: Any, M: Any, rtol: float, most: int) -> Any:
    return lgmres(operator, b, rtol=rtol, inner_m=37, outer_k=3, maxiter=most // 40, M=M)[0]


def _shared_gcrotmk() -> Method:
    space: list[Any] = []

    def solve(A: Any, operator: Any, b: Any, M: Any, rtol: float, most: int) -> Any:
        # C belongs to the matrix before, and is computed anew.
        return gcrotmk(operator, b, rtol=rtol, m=20, k=20, CU=space, discard_C=True, maxiter=most // 20, M=M)[0]

    return solve


def _direct(A: Any, operator: Any, b: Any, M: Any, rtol: float, most: int) -> Any:
    return spsolve(sp.csc_array(A), b)


def _amg_gmres(A: Any, operator: Any, b: Any, M: Any, rtol: float, most: int) -> Any:
    from pyamg.krylov import gmres as pyamg_gmres

    return pyamg_gmres(operator, b, tol=rtol, restart=40, maxiter=most // 40, M=M)[0]


def _amg_fgmres(A: Any, operator: Any, b: Any, M: Any, rtol: float, most: int) -> Any:
    from pyamg.krylov import fgmres

    return fgmres(operator, b, tol=rtol, restart=40, maxiter=most // 40, M=M)[0]


# Methods that build a preconditioner of their own.
_AGGREGATIONS: list[Method] = []


def _aggregation(accelerator: str) -> Method:
    def solve(A: Any, operator: Any, b: Any, M: Any, rtol: float, most: int) -> Any:
        import pyamg

        residuals: list[float] = []
        hierarchy = pyamg.smoothed_aggregation_solver(sp.csr_matrix(A))
        x = hierarchy.solve(b, tol=rtol, accel=accelerator, maxiter=60, residuals=residuals)
        operator.products += len(residuals)
        return x

    _AGGREGATIONS.append(solve)
    return solve
