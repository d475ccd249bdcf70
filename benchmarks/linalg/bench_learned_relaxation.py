"""Races of learned relaxation against fixed relaxation, SciPy and PyAMG on sequences of sparse systems."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.racing import Contestant, NotHere, Race
from paperworks.datasets import UnavailableError, load_finite_element_matrix
from paperworks.linalg import RelaxationTuner, darcy_systems, sor, ssor_conjugate_gradient
from paperworks.linalg.learned_relaxation._generators import (
    SHIFTS,
    HeatSimulation,
    draw_shifts,
    laplacian,
    shifted,
)

# What a solver is given of each system: matrix, right-hand side, start, context.
System = tuple[Any, np.ndarray, np.ndarray | None, float]
FINITE_ELEMENTS = ("airfoil", "bar", "knot", "unit_cube", "local_disc_galerkin_diffusion")


def races() -> Iterator[Race]:
    yield _shifted_laplacians(1000)
    yield _heat(72, 1000)
    yield _finite_elements(80)
    for family in ("shifted Laplacian", "variable-coefficient diffusion", "anisotropic diffusion"):
        yield _large(family, 512, 3)


def _shifted_laplacians(count: int) -> Race:
    rng = np.random.default_rng(0)
    shifts = draw_shifts("high", count, rng)
    pairs = shifted(laplacian(10), shifts, rng)
    systems: list[System] = [(A, b, None, c) for (A, b), c in zip(pairs, shifts, strict=True)]
    return Race(
        f"{count:,} shifted Laplacians of 100 unknowns, drawn as in the paper, by over-relaxation to 1e-8",
        Contestant("paperworks, ChebCB", lambda: _learned(systems, "sor", "chebyshev", SHIFTS)),
        [
            Contestant("paperworks, Tsallis-INF", lambda: _learned(systems, "sor", "tsallis_inf")),
            Contestant("fixed relaxation 1", lambda: _fixed(systems, sor, 1.0)),
            Contestant("fixed relaxation 1.5", lambda: _fixed(systems, sor, 1.5)),
            Contestant("PyAMG sor, relaxation 1.5", lambda: _pyamg_sor(systems, 1.5)),
            Contestant("SciPy cg", lambda: _cg(systems)),
            Contestant("SciPy splu", lambda: _splu(systems)),
        ],
        "largest relative residual",
        lambda solutions: _worst(systems, solutions),
        aim="fewer seconds than fixed relaxation; a direct solver wins at this size",
        repeats=2,
    )


def _heat(intervals: int, steps: int) -> Race:
    simulation, systems = HeatSimulation(intervals), []
    for _ in range(steps):
        A, b = simulation.system()
        systems.append((simulation.coefficient, b, simulation.u))
        simulation.advance(ssor_conjugate_gradient(A, b, simulation.u, 1.5, 1e-11).x)

    def steps_of_the_simulation() -> Iterator[System]:
        for coefficient, b, start in systems:
            yield simulation.matrix(coefficient), b, start, coefficient

    race = _conjugate_gradients(
        f"{steps:,} steps of the paper's heat simulation with {len(simulation.u):,} unknowns to 1e-8",
        steps_of_the_simulation,
        lambda: _learned(steps_of_the_simulation(), "ssor_cg", "chebyshev", (0.0, 10.0)),
        aim="1.5 times as fast as SSOR(1)-CG",
    )
    race.peers.append(
        Contestant("paperworks, Tsallis-INF", lambda: _learned(steps_of_the_simulation(), "ssor_cg", "tsallis_inf"))
    )
    return race


def _finite_elements(count: int) -> Race:
    """Sequences that are made of real finite-element matrices by diagonal shifts, one learner for each matrix."""
    rng = np.random.default_rng(0)
    sequences: list[list[System]] = []
    for name in FINITE_ELEMENTS:
        try:
            matrix = load_finite_element_matrix(name).data
        except UnavailableError:
            continue
        scale = float(matrix.diagonal().mean())
        shifts = 10 ** rng.uniform(-3, -0.5, count)
        pairs = shifted(matrix, scale * shifts, rng)
        sequences.append([(A, b, None, float(np.log10(c))) for (A, b), c in zip(pairs, shifts, strict=True)])

    def systems() -> Iterator[System]:
        if not sequences:
            raise NotHere("the finite-element matrices can't be had here")
        for sequence in sequences:
            yield from sequence

    def learned(solver: str) -> list[np.ndarray]:
        if not sequences:
            raise NotHere("the finite-element matrices can't be had here")
        return [x for each in sequences for x in _learned(each, solver, "chebyshev", (-3.0, -0.5))]

    race = _conjugate_gradients(
        f"diagonal shifts, {count} each, of {len(sequences)} finite-element matrices (125 to 966 unknowns) to 1e-8",
        systems,
        lambda: learned("ssor_cg"),
        aim="fewer seconds than fixed relaxation; a direct solver may win at this size",
    )
    race.peers.extend(
        [
            Contestant("paperworks, over-relaxation, ChebCB", lambda: learned("sor")),
            Contestant("over-relaxation, fixed 1.5", lambda: _fixed(systems(), sor, 1.5)),
        ]
    )
    return race


def _large(family: str, m: int, count: int, rtol: float = 1e-6) -> Race:
    """Few large systems. What was learned on many small ones of the same family counts in the time."""
    rng = np.random.default_rng(0)
    small, large = _family(family, 96, 100, rng), _family(family, m, count, rng)

    def learned() -> list[np.ndarray]:
        tuner = RelaxationTuner(
            "ssor_cg", "chebyshev", n_arms=10, context_range=(-3.5, -1.5), rtol=rtol, random_state=0
        )
        _run(small, tuner)
        return _run(large, tuner)

    return _conjugate_gradients(
        f"{family}, {count} implicit steps with {m * m:,} unknowns to {rtol:g} (ours first learns on 100 of 9,216)",
        lambda: iter(large),
        learned,
        aim="fewer seconds than SSOR-CG with a fixed relaxation and than SciPy's cg",
        rtol=rtol,
        repeats=1,
    )


def _family(family: str, m: int, count: int, rng: np.random.Generator) -> list[System]:
    systems: list[System] = []
    for _ in range(count):
        # The reaction term of an implicit step, relative to the diffusion: the larger, the shorter the step.
        context = rng.uniform(-3.5, -1.5)
        if family == "shifted Laplacian":
            matrix = laplacian(m)
        elif family == "variable-coefficient diffusion":
            (matrix,), _, _ = darcy_systems(1, m, random_state=rng)
        else:
            line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))
            matrix = sp.kron(line, sp.eye_array(m)) + 0.02 * sp.kron(sp.eye_array(m), line)
        A = sp.csr_array(matrix + 10**context * float(matrix.diagonal().mean()) * sp.eye_array(m * m))
        systems.append((A, rng.standard_normal(m * m), None, context))
    return systems


def _conjugate_gradients(
    title: str,
    systems: Callable[[], Iterator[System]],
    learned: Callable[[], Any],
    aim: str,
    rtol: float = 1e-8,
    repeats: int = 1,
) -> Race:
    return Race(
        title,
        Contestant("paperworks, ChebCB", learned),
        [
            Contestant("SSOR-CG, fixed 1", lambda: _fixed(systems(), ssor_conjugate_gradient, 1.0, rtol)),
            Contestant("SSOR-CG, fixed 1.5", lambda: _fixed(systems(), ssor_conjugate_gradient, 1.5, rtol)),
            Contestant("SciPy cg", lambda: _cg(systems(), rtol)),
            Contestant("SciPy splu", lambda: _splu(systems())),
            Contestant("PyAMG smoothed aggregation, CG", lambda: _pyamg_aggregation(systems(), rtol)),
        ],
        "largest relative residual",
        lambda solutions: _worst(systems(), solutions),
        aim=aim,
        repeats=repeats,
    )


def _learned(systems: Any, solver: Any, policy: Any, context_range: Any = None) -> list[np.ndarray]:
    tuner = RelaxationTuner(solver, policy, context_range=context_range, random_state=0)
    return _run(systems, tuner)


def _run(systems: Any, tuner: RelaxationTuner) -> list[np.ndarray]:
    return [tuner.solve(A, b, start, context)[0] for A, b, start, context in systems]


def _fixed(systems: Any, solver: Any, relaxation: float, rtol: float = 1e-8) -> list[np.ndarray]:
    return [solver(A, b, start, relaxation, rtol).x for A, b, start, _ in systems]


def _cg(systems: Any, rtol: float = 1e-8) -> list[np.ndarray]:
    from scipy.sparse.linalg import cg

    return [cg(A, b, start, rtol=rtol)[0] for A, b, start, _ in systems]


def _splu(systems: Any) -> list[np.ndarray]:
    from scipy.sparse.linalg import splu

    return [splu(A.tocsc(), permc_spec="MMD_AT_PLUS_A").solve(b) for A, b, _, _ in systems]


def _pyamg_sor(systems: Any, relaxation: float, rtol: float = 1e-8) -> list[np.ndarray]:
    from pyamg.relaxation.relaxation import sor as sweep

    solutions = []
    for A, b, _, _ in systems:
        matrix, x = sp.csr_matrix(A), np.zeros_like(b)
        while np.linalg.norm(b - matrix @ x) >= rtol * np.linalg.norm(b):
            sweep(matrix, x, b, relaxation)
        solutions.append(x)
    return solutions


def _pyamg_aggregation(systems: Any, rtol: float = 1e-8) -> list[np.ndarray]:
    from pyamg import smoothed_aggregation_solver

    return [
        smoothed_aggregation_solver(sp.csr_matrix(A)).solve(b, x0=start, tol=rtol, accel="cg")
        for A, b, start, _ in systems
    ]


def _worst(systems: Any, solutions: list[np.ndarray]) -> float:
    pairs = zip(systems, solutions, strict=True)
    return max(float(np.linalg.norm(b - A @ x) / np.linalg.norm(b)) for (A, b, _, _), x in pairs)
