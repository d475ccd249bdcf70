"""Krylov recycling against its definition in dense algebra, SciPy's solvers, closed forms and invariances."""

import csv
import warnings

import numpy as np
import pytest
import scipy.linalg as dense
import scipy.sparse as sp
from scipy.io import mmwrite
from scipy.sparse.linalg import LinearOperator, aslinearoperator, gmres, spsolve
from sklearn.exceptions import ConvergenceWarning

from paperworks.linalg import (
    KrylovRecyclingSolver,
    RecycleSpace,
    build_preconditioner,
    convection_diffusion_systems,
    darcy_systems,
    gcro_dr,
    helmholtz_systems,
    poisson_systems,
    recycling_distance,
    solve_sequence_recycled,
    sort_systems,
    thermal_systems,
)
from paperworks.papers.krylov_recycling.run import run

FAMILIES = [darcy_systems, helmholtz_systems, convection_diffusion_systems, poisson_systems, thermal_systems]


def nonsymmetric(n=120, seed=0, kind="real"):
    """A matrix with a few eigenvalues near zero, some of them in conjugate pairs."""
    rng = np.random.default_rng(seed)
    values = np.r_[np.logspace(-2, -0.5, 10), rng.uniform(1, 2, n - 10)]
    blocks = np.diag(values)
    for i in range(0, 8, 2):
        blocks[i, i + 1], blocks[i + 1, i] = values[i], -values[i]
    basis = np.eye(n) + 0.3 * rng.normal(size=(n, n)) / np.sqrt(n)
    A = basis @ blocks @ np.linalg.inv(basis)
    if kind == "complex":
        A = A + 0.3j * A @ A
    return A, rng.normal(size=n) + (1j * rng.normal(size=n) if kind == "complex" else 0)


class Counted:
    """A matrix that counts its products and can only be multiplied by."""

    def __init__(self, A):
        self.A, self.count = A, 0
        self.operator = LinearOperator(A.shape, matvec=self.matvec, dtype=A.dtype)

    def matvec(self, v):
        self.count += 1
        return self.A @ v


def by_definition(A, b, m, k, U, cycles):
    """Residual norms after each cycle of GCRO-DR, with spaces spanned explicitly and dense least squares."""
    r, norms = b.copy(), []
    if U is not None:
        C, R = np.linalg.qr(A @ U)
        U = U @ np.linalg.inv(R)
        r = r - C @ (C.conj().T @ r)
    for _ in range(cycles):
        n = len(b)
        deflated = A if U is None else A - C @ (C.conj().T @ A)
        steps = m if U is None else m - U.shape[1]
        V = np.zeros((n, 0), A.dtype)
        v = r
        for _ in range(steps):
            for _ in range(2):
                v = v - V @ (V.conj().T @ v)
            V = np.column_stack([V, v / np.linalg.norm(v)])
            v = deflated @ V[:, -1]
        S = V if U is None else np.column_stack([U / np.linalg.norm(U, axis=0), V])
        AS = A @ S
        r = r - AS @ np.linalg.lstsq(AS, r)[0]
        norms.append(np.linalg.norm(r))
        # Harmonic Ritz values of A over S: (A S)^H (A S) z = theta (A S)^H S z.
        theta, Z = dense.eig(AS.conj().T @ AS, AS.conj().T @ S)
        order = np.argsort(np.abs(theta))
        if np.isrealobj(A):
            # The smallest values, without the half of a pair.
            cut = (
                k if abs(np.abs(theta[order[k - 1]]) - np.abs(theta[order[k]])) > 1e-9 * abs(theta[order[k]]) else k - 1
            )
            Z = Z[:, order[:cut]]
            P = np.linalg.svd(np.column_stack([Z.real, Z.imag]))[0][:, :cut]
        else:
            P = np.linalg.qr(Z[:, order[:k]])[0]
        C, R = np.linalg.qr(AS @ P)
        U = S @ P @ np.linalg.inv(R)
    return norms, U


# --- one system ---


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("k", [4, 5, 6, 7])
def test_cycles_are_those_of_the_definition(kind, k):
    A, b = nonsymmetric(kind=kind)
    m, cycles = 16, 4
    history = []
    with pytest.warns(ConvergenceWarning):
        _, info, _ = gcro_dr(
            A, b, rtol=1e-14, restart=m, n_recycle=k, maxiter=m + 4 * (m - k + 1), callback=history.append
        )
    assert info
    norms, _ = by_definition(A, b, m, k, None, cycles)
    # After its cycles the history passes through each of the norms of the definition.
    found = np.array(history) * np.linalg.norm(b)
    for norm in norms:
        assert np.abs(found / norm - 1).min() < 1e-6


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_a_warm_start_is_that_of_the_definition(kind):
    (A, b), (B, c) = nonsymmetric(kind=kind), nonsymmetric(kind=kind, seed=1)
    B = A + 0.02 * B
    _, _, recycle = gcro_dr(A, b, rtol=1e-10, restart=16, n_recycle=6)
    history = []
    _, info, warm = gcro_dr(B, c, rtol=1e-8, restart=16, n_recycle=6, recycle=recycle, callback=history.append)
    assert info == 0
    norms, _ = by_definition(B, c, 16, 6, recycle.U, 2)
    found = np.array(history) * np.linalg.norm(c)
    for norm in norms:
        assert np.abs(found / norm - 1).min() < 1e-6
    assert warm.U.dtype == A.dtype


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_space_left_behind_has_an_orthonormal_image(kind, preconditioned):
    A, b = nonsymmetric(kind=kind)
    M = np.linalg.inv(A + 0.3 * np.eye(len(A))) if preconditioned else None
    recycle = None
    for shift in (0.0, 0.05):
        B = A + shift * np.eye(len(A))
        x, info, recycle = gcro_dr(B, b, rtol=1e-10, restart=20, n_recycle=8, M=M, recycle=recycle)
        image = B @ (recycle.U if M is None else M @ recycle.U)
        np.testing.assert_allclose(image.conj().T @ image, np.eye(image.shape[1]), atol=1e-10)
        np.testing.assert_allclose(image, recycle.C, atol=1e-9)
        np.testing.assert_allclose(x, np.linalg.solve(B, b), rtol=1e-6)
        assert info == 0
        assert recycle.residual_norm == pytest.approx(np.linalg.norm(b - B @ x), rel=1e-6)


def test_harmonic_values_are_the_smallest_eigenvalues():
    values = np.r_[0.001, 0.002, -0.003, np.linspace(1, 2, 297)]
    b = np.ones(300)
    _, _, recycle = gcro_dr(sp.diags_array(values).tocsr(), b, rtol=1e-10, restart=30, n_recycle=3)
    np.testing.assert_allclose(np.sort(recycle.harmonic_values.real), [-0.003, 0.001, 0.002], rtol=1e-3)
    # What is recycled spans their eigenvectors, so that the same system again takes as long as one without them.
    np.testing.assert_allclose(np.linalg.norm(recycle.C[:3], 2), 1, atol=1e-4)
    _, _, again = gcro_dr(sp.diags_array(values).tocsr(), b, rtol=1e-10, restart=30, n_recycle=3, recycle=recycle)
    _, _, easy = gcro_dr(sp.diags_array(values[3:]).tocsr(), b[3:], rtol=1e-10, restart=30, n_recycle=0)
    assert again.iterations <= easy.iterations + 2
    assert recycle.iterations > 1.5 * easy.iterations


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_without_recycling_it_is_gmres(kind):
    A, b = nonsymmetric(kind=kind)
    history, peer = [], []
    x, info, left = gcro_dr(A, b, rtol=1e-9, restart=15, n_recycle=0, callback=history.append)
    gmres(A, b, rtol=1e-9, restart=15, maxiter=500, callback=peer.append, callback_type="pr_norm")
    assert info == 0
    assert left.U.shape == (120, 0)
    count = min(len(history), len(peer)) - 1
    np.testing.assert_allclose(history[:count], peer[:count], rtol=1e-5)
    assert abs(len(history) - len(peer)) <= 1
    np.testing.assert_allclose(x, np.linalg.solve(A, b), rtol=1e-6)


@pytest.mark.parametrize("n_recycle", [0, 6])
def test_every_product_is_counted(n_recycle):
    A, b = nonsymmetric()
    one, two, three = Counted(A), Counted(A + 0.01 * np.eye(120)), Counted(A)
    _, _, recycle = gcro_dr(one.operator, b, restart=16, n_recycle=n_recycle)
    assert one.count == recycle.matvecs == recycle.iterations + 1
    if n_recycle:
        _, _, warm = gcro_dr(two.operator, b, restart=16, n_recycle=n_recycle, recycle=recycle)
        assert two.count == warm.matvecs == warm.iterations + 1 + recycle.U.shape[1]
    _, _, started = gcro_dr(three.operator, b, np.ones(120), restart=16, n_recycle=n_recycle)
    assert three.count == started.matvecs == started.iterations + 2


def test_the_same_operator_costs_no_products():
    A, b = nonsymmetric()
    _, _, recycle = gcro_dr(A, b, restart=16, n_recycle=6)
    other = np.cos(np.arange(120.0))
    counted = Counted(A)
    x, info, told = gcro_dr(
        counted.operator, other, rtol=1e-9, restart=16, n_recycle=6, recycle=recycle, same_operator=True
    )
    y, _, untold = gcro_dr(A, other, rtol=1e-9, restart=16, n_recycle=6, recycle=recycle)
    assert info == 0
    assert counted.count == told.matvecs == untold.matvecs - recycle.U.shape[1]
    np.testing.assert_allclose(x, y, rtol=1e-6)


def test_a_wrong_claim_of_the_same_operator_does_no_harm():
    A, b = nonsymmetric()
    _, _, recycle = gcro_dr(A, b, restart=16, n_recycle=6)
    B = A + 0.05 * np.eye(120)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        x, info, _ = gcro_dr(B, b, rtol=1e-9, restart=16, n_recycle=6, recycle=recycle, same_operator=True)
    # The residual is computed anew, so that an answer that is called converged is one.
    assert info > 0 or np.linalg.norm(b - B @ x) <= 1e-9 * np.linalg.norm(b)


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_a_conjugate_pair_is_never_split(k):
    # Rotations by different angles: all eigenvalues are complex.
    radius = np.linspace(0.05, 2, 30)
    A = sp.block_diag([r * np.array([[0.3, 1.0], [-1.0, 0.3]]) for r in radius], format="csr")
    b = np.ones(60)
    x, info, recycle = gcro_dr(A, b, rtol=1e-9, restart=14, n_recycle=k, maxiter=5000)
    assert info == 0
    assert recycle.U.dtype == np.float64
    assert recycle.U.shape[1] == (2 if k == 1 else k - k % 2)
    pairs = recycle.harmonic_values.reshape(-1, 2)
    np.testing.assert_allclose(pairs[:, 0], pairs[:, 1].conj())
    np.testing.assert_allclose(A @ x, b, atol=1e-7)


def test_dependent_directions_are_dropped():
    A, b = nonsymmetric()
    _, _, recycle = gcro_dr(A, b, restart=16, n_recycle=4)
    twice = RecycleSpace(recycle.U[:, [0, 1, 2, 3, 0, 1]] + 1e-14)
    # A right-hand side in the image of the space: the warm start, its six products counted, is all there is to do.
    inside = A @ recycle.U @ np.array([1.0, -2.0, 0.5, 1.0])
    x, info, after = gcro_dr(A, inside, rtol=1e-9, restart=16, n_recycle=6, recycle=twice)
    assert (info, after.iterations, after.matvecs) == (0, 0, 7)
    assert after.U.shape == (120, 4)
    np.testing.assert_allclose(x, np.linalg.solve(A, inside), rtol=1e-6, atol=1e-9)
    x, info, _ = gcro_dr(A, b, rtol=1e-9, restart=16, n_recycle=6, recycle=twice)
    assert info == 0
    np.testing.assert_allclose(x, np.linalg.solve(A, b), rtol=1e-6)


def test_the_basis_stays_orthonormal_where_little_is_left_of_a_vector():
    # So near to the identity, A v is v to four digits, and one pass of Gram-Schmidt loses them.
    rng = np.random.default_rng(0)
    A = np.eye(200) + 1e-4 * np.diag(np.logspace(0, 3, 200)) + 1e-6 * rng.normal(size=(200, 200))
    b = rng.normal(size=200)
    recycle = None
    for _ in range(3):
        _, info, recycle = gcro_dr(A, b, rtol=1e-13, restart=12, n_recycle=5, recycle=recycle)
        assert info == 0
        np.testing.assert_allclose(recycle.C.T @ recycle.C, np.eye(5), atol=1e-13)
        np.testing.assert_allclose(A @ recycle.U, recycle.C, atol=1e-13)


def test_a_preconditioner_that_varies_does_not_spoil_the_answer():
    A, b = nonsymmetric()
    rng = np.random.default_rng(0)
    inverse = np.linalg.inv(A + 0.3 * np.eye(120))
    M = LinearOperator(A.shape, matvec=lambda v: inverse @ v * (1 + 1e-4 * rng.normal(size=120)), dtype=float)
    x, info, space = gcro_dr(A, b, rtol=1e-9, restart=16, n_recycle=6, M=M)
    assert info == 0
    assert np.linalg.norm(b - A @ x) <= 1e-9 * np.linalg.norm(b)
    # More than one check was needed.
    assert space.matvecs > space.iterations + 1


def test_the_tolerance_holds_for_the_true_residual_even_when_it_is_tiny():
    A, b = nonsymmetric()
    for rtol in (1e-2, 1e-6, 1e-10, 1e-13):
        x, info, _ = gcro_dr(A, b, rtol=rtol, restart=16, n_recycle=6)
        assert info == 0
        assert np.linalg.norm(b - A @ x) <= rtol * np.linalg.norm(b)
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        _, info, space = gcro_dr(A, b, rtol=0.0, restart=16, n_recycle=6)
    # What rounding forbids ends soon, and says so.
    assert 0 < info < 1000
    assert space.residual_norm < 1e-12 * np.linalg.norm(b)


def test_absolute_tolerance_and_start():
    A, b = nonsymmetric()
    solution = np.linalg.solve(A, b)
    x, info, space = gcro_dr(A, b, atol=0.5, rtol=0.0)
    assert info == 0
    assert 1e-3 < np.linalg.norm(b - A @ x) <= 0.5
    x, info, space = gcro_dr(A, b, solution)
    assert (info, space.iterations) == (0, 0)
    np.testing.assert_array_equal(x, solution)
    near, _, space = gcro_dr(A, b, solution + 1e-4, rtol=1e-9)
    np.testing.assert_allclose(near, solution, rtol=1e-6)


def test_nothing_is_done_for_a_right_hand_side_of_zero():
    A, b = nonsymmetric()
    _, _, recycle = gcro_dr(A, b)
    for start in (None, np.ones(120)):
        x, info, space = gcro_dr(A, np.zeros(120), start, recycle=recycle)
        assert not x.any()
        assert (info, space.iterations, space.matvecs) == (0, 0, 0)
        assert space.U is recycle.U


def test_small_systems_end_in_a_happy_breakdown():
    for n in (1, 2, 5):
        A = np.diag(np.arange(1.0, n + 1)) + np.eye(n, k=1)
        b = np.cos(np.arange(n))
        x, info, space = gcro_dr(A, b, rtol=1e-12)
        assert info == 0
        assert space.iterations == n
        np.testing.assert_allclose(A @ x, b, atol=1e-12)
    # Right-hand side in a space of two eigenvectors: two steps.
    _, info, space = gcro_dr(np.diag([1.0, 1, 1, 2, 2, 2]), np.ones(6), rtol=1e-12)
    assert (info, space.iterations) == (0, 2)


def test_a_singular_system_says_so():
    A, b = np.diag([1.0, 2.0, 0.0]), np.ones(3)
    with pytest.warns(ConvergenceWarning):
        x, info, _ = gcro_dr(A, b, maxiter=50)
    assert info > 0
    assert np.isfinite(x).all()


def test_a_real_matrix_with_a_complex_right_hand_side():
    A, _ = nonsymmetric()
    b = np.exp(1j * np.arange(120))
    x, info, _ = gcro_dr(A, b, rtol=1e-9, restart=16, n_recycle=6)
    assert info == 0
    np.testing.assert_allclose(x, np.linalg.solve(A, b), rtol=1e-5)


def test_an_operator_that_returns_its_argument_is_not_overwritten():
    identity = LinearOperator((50, 50), matvec=lambda v: v, dtype=float)
    b = np.arange(50.0)
    x, info, _ = gcro_dr(identity, b)
    assert info == 0
    np.testing.assert_allclose(x, b)
    np.testing.assert_array_equal(b, np.arange(50.0))


def test_scaling_changes_nothing():
    A, b = nonsymmetric()
    x, _, space = gcro_dr(A, b, rtol=1e-8, restart=16, n_recycle=6)
    for factor in (1e-8, 1e8):
        y, _, scaled = gcro_dr(factor * A, b, rtol=1e-8, restart=16, n_recycle=6)
        assert scaled.matvecs == space.matvecs
        np.testing.assert_allclose(factor * y, x, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"restart": 20, "n_recycle": 20}, ValueError, "restart must exceed n_recycle, got restart=20"),
        ({"rtol": -1.0}, ValueError, "rtol"),
        ({"atol": np.nan}, ValueError, "atol"),
        ({"maxiter": 0}, ValueError, "maxiter"),
        ({"recycle": np.ones((120, 2))}, TypeError, "recycle must be a RecycleSpace"),
        ({"recycle": RecycleSpace(np.ones((7, 2)))}, ValueError, "vectors of 7 unknowns, but A has 120"),
        ({"recycle": RecycleSpace(np.eye(120, 45))}, ValueError, "exceed the 45 columns"),
        ({"recycle": RecycleSpace(np.full((120, 2), np.nan))}, ValueError, "recycle contains NaN"),
        ({"recycle": RecycleSpace(np.eye(120, 2)), "n_recycle": 0}, ValueError, "recycle must be None"),
        ({"M": np.eye(3)}, ValueError, "M must have shape"),
        ({"M": 3.0}, TypeError, "M must be"),
        ({"x0": np.ones(3)}, ValueError, "x0"),
        ({"b": np.full(120, np.nan)}, ValueError, "b contains NaN"),
        ({"b": np.ones(120, int)}, TypeError, "b must hold"),
        ({"A": np.eye(120, dtype=int)}, TypeError, "A must hold"),
        ({"A": np.ones((120, 3))}, ValueError, "A must be a square"),
    ],
)
def test_bad_input_is_named(change, error, message):
    A, b = nonsymmetric()
    with pytest.raises(error, match=message):
        gcro_dr(**{"A": A, "b": b, **change})


def test_nan_from_an_operator_is_named_with_its_product():
    A, b = nonsymmetric()
    counted = Counted(A)

    def broken(v):
        w = counted.matvec(v)
        return w * np.nan if counted.count == 7 else w

    with pytest.raises(ValueError, match="A @ v contains NaN or infinity at product 7"):
        gcro_dr(LinearOperator(A.shape, matvec=broken, dtype=float), b)
    with pytest.raises(ValueError, match="M @ v contains NaN"):
        gcro_dr(A, b, M=LinearOperator(A.shape, matvec=lambda v: v * np.inf, dtype=float))


# --- sequences ---


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preconditioner", [None, "jacobi", "ssor", "ilu"])
def test_every_family_is_solved_in_the_order_of_its_input(family, preconditioner):
    matrices, rhs, P = family(5, 20, random_state=1)
    solution = KrylovRecyclingSolver(preconditioner=preconditioner, rtol=1e-10, progress=False).solve_many(
        matrices, rhs, P
    )
    assert solution.converged.all()
    for A, b, x, residual in zip(matrices, rhs, solution.X, solution.residuals, strict=True):
        exact = spsolve(A.tocsc(), b)
        assert np.linalg.norm(x - exact) <= 1e-6 * np.linalg.norm(exact)
        assert residual == pytest.approx(np.linalg.norm(b - A @ x) / np.linalg.norm(b), rel=1e-6)
        assert residual <= 1e-10
    np.testing.assert_array_equal(np.sort(solution.order), np.arange(5))


def test_recycling_saves_products_on_alike_systems_and_more_on_indefinite_ones():
    for family, factor in ((darcy_systems, 1.5), (helmholtz_systems, 4.0)):
        matrices, rhs, P = family(10, 32, random_state=0)
        ours = KrylovRecyclingSolver(progress=False).solve_many(matrices, rhs, P)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            plain = KrylovRecyclingSolver(n_recycle=0, maxiter=2000, progress=False).solve_many(matrices, rhs, P)
        assert plain.matvecs.sum() > factor * ours.matvecs.sum()


def test_where_a_cold_start_is_cheap_no_warm_start_is_made():
    matrices, rhs, _ = darcy_systems(4, 20, random_state=0)
    solver = KrylovRecyclingSolver(preconditioner="ilu", progress=False, n_recycle=20)
    solution = solver.solve_many(matrices, rhs)
    assert (solution.matvecs == solution.iterations + 1).all()
    assert solution.matvecs.max() <= 40


def test_one_matrix_with_many_right_hand_sides_keeps_its_image():
    matrices, rhs, _ = poisson_systems(4, 24, random_state=0)
    solution = solve_sequence_recycled(matrices, rhs)
    # No products for warm starts.
    np.testing.assert_array_equal(solution.matvecs, solution.iterations + 1)
    assert solution.iterations[1:].max() < solution.iterations[0]
    copies = solve_sequence_recycled([A.copy() for A in matrices], rhs)
    np.testing.assert_array_equal(copies.matvecs[1:], copies.iterations[1:] + 21)
    np.testing.assert_allclose(copies.X, solution.X, rtol=1e-5)


def test_an_easy_system_in_between_does_not_lend_its_image_to_another():
    (A, B), (b, c), _ = darcy_systems(2, 24, random_state=0)
    zero = np.zeros_like(b)
    solution = solve_sequence_recycled([A, B, B, A, A], np.array([b, zero, c, zero, b]))
    assert solution.converged.all()
    np.testing.assert_array_equal(solution.iterations[[1, 3]], 0)
    np.testing.assert_allclose(solution.X[4], solution.X[0], rtol=1e-5)
    for matrix, right, x in ((B, c, solution.X[2]), (A, b, solution.X[4])):
        np.testing.assert_allclose(x, spsolve(matrix.tocsc(), right), rtol=1e-5)


def test_sorting_pays_on_shuffled_clusters():
    matrices, rhs, P = darcy_systems(40, 24, n_clusters=4, spread=0.05, random_state=0)
    sums = [
        KrylovRecyclingSolver(sort=sort, progress=False).solve_many(matrices, rhs, P).iterations.sum()
        for sort in (None, "greedy", "grouped", "hilbert")
    ]
    assert max(sums[1:]) < 0.95 * sums[0]
    # Without parameters the entries of the matrices are as good.
    entries = KrylovRecyclingSolver(progress=False).solve_many(matrices, rhs)
    assert entries.iterations.sum() < 0.95 * sums[0]


def test_a_stream_is_solved_window_by_window_into_a_memory_map(tmp_path):
    matrices, rhs, P = darcy_systems(7, 16, random_state=0)
    solver = KrylovRecyclingSolver(progress=False)
    exact = np.array([spsolve(A.tocsc(), b) for A, b in zip(matrices, rhs, strict=True)])
    held = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=float, shape=(7, 256))
    solution = solver.solve_many(iter(zip(matrices, rhs, P, strict=True)), out=held, window=3)
    assert solution.X is held
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), exact, rtol=1e-5)
    # Sorted within windows of three.
    np.testing.assert_array_equal(solution.order // 3, np.arange(7) // 3)
    unknown = solver.solve_many(iter(zip(matrices, rhs, strict=True)), window=4)
    np.testing.assert_allclose(unknown.X, exact, rtol=1e-5)
    assert unknown.iterations.shape == (7,)
    with pytest.raises(ValueError, match="room for 2 systems"):
        solver.solve_many(iter(zip(matrices, rhs, strict=True)), out=np.zeros((2, 256)))
    with pytest.raises(ValueError, match="rows of 256 unknowns"):
        solver.solve_many(matrices, rhs, out=np.zeros((7, 3)))
    with pytest.raises(TypeError, match="yield tuples"):
        solver.solve_many(iter(matrices))
    with pytest.raises(ValueError, match="rhs and parameters must be None"):
        solver.solve_many(iter(matrices), rhs)
    with pytest.raises(ValueError, match="parameters of system 1 are missing"):
        solver.solve_many(iter([(matrices[0], rhs[0], P[0]), (matrices[1], rhs[1]), (matrices[2], rhs[2], P[2])]))


def test_processes_share_a_chain():
    matrices, rhs, P = darcy_systems(6, 16, random_state=0)
    one, two = (KrylovRecyclingSolver(n_jobs=jobs, progress=False).solve_many(matrices, rhs, P) for jobs in (1, 2))
    np.testing.assert_allclose(two.X, one.X, rtol=1e-5)
    np.testing.assert_array_equal(two.order, one.order)
    # The second chain starts from nothing.
    assert two.matvecs[two.order[3]] == two.iterations[two.order[3]] + 1


def test_what_was_solved_before_an_interruption_stays():
    matrices, rhs, _ = darcy_systems(4, 16, random_state=0)

    def build(A):
        if A is matrices[2]:
            raise KeyboardInterrupt
        return build_preconditioner(A, "jacobi")

    out = np.zeros((4, 256))
    with pytest.raises(KeyboardInterrupt):
        KrylovRecyclingSolver(preconditioner=build, sort=None, progress=False).solve_many(matrices, rhs, out=out)
    assert out[:2].any(axis=1).all()
    assert not out[2:].any()


def test_systems_that_do_not_converge_are_told():
    matrices, rhs, P = helmholtz_systems(3, 24, random_state=0)
    solver = KrylovRecyclingSolver(maxiter=60, progress=False)
    with pytest.warns(ConvergenceWarning, match="of 3 systems did not converge"):
        solution = solver.solve_many(matrices, rhs, P)
    assert not solution.converged.all()
    assert (solution.residuals[~solution.converged] > 1e-8).all()
    assert solution.iterations.max() <= 60


def test_operators_and_own_preconditioners_are_accepted():
    matrices, rhs, _ = darcy_systems(3, 20, random_state=0)
    operators = [aslinearoperator(A) for A in matrices]
    solution = solve_sequence_recycled(operators, rhs)
    np.testing.assert_allclose(solution.X, solve_sequence_recycled(matrices, rhs).X, rtol=1e-6)
    own = solve_sequence_recycled(matrices, rhs, preconditioner=lambda A: sp.diags_array(1 / A.diagonal()))
    named = solve_sequence_recycled(matrices, rhs, preconditioner="jacobi")
    np.testing.assert_array_equal(own.matvecs, named.matvecs)
    with pytest.raises(TypeError, match="system 0: preconditioner='ilu' needs the entries"):
        solve_sequence_recycled(operators, rhs, preconditioner="ilu")


def test_complex_systems_after_real_ones():
    (A,), (b,), _ = helmholtz_systems(1, 16, random_state=0)
    (B,), (c,), _ = helmholtz_systems(1, 16, absorption=0.2, random_state=0)
    solution = solve_sequence_recycled([A, B, A], np.array([b, c, b]), preconditioner="ssor")
    assert solution.X.dtype == np.complex128
    for matrix, right, x in zip([A, B, A], [b, c, b], solution.X, strict=True):
        np.testing.assert_allclose(matrix @ x, right, atol=1e-7 * np.linalg.norm(right))


def test_the_order_is_followed_and_the_same_every_time():
    matrices, rhs, _ = darcy_systems(5, 16, random_state=0)
    order = [4, 0, 3, 1, 2]
    first, second = (solve_sequence_recycled(matrices, rhs, order=order) for _ in range(2))
    np.testing.assert_array_equal(first.order, order)
    np.testing.assert_array_equal(first.X, second.X)
    assert first.matvecs[4] == first.iterations[4] + 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda A, b: solve_sequence_recycled(A, b, order=[0, 0, 1]), ValueError, "order must be a permutation"),
        (lambda A, b: solve_sequence_recycled(A, b[:2]), ValueError, "rhs must have a row for each of 3"),
        (lambda A, b: solve_sequence_recycled(A, b[:, :-1]), ValueError, "system 0: b must have shape"),
        (lambda A, b: solve_sequence_recycled(A[0], b), TypeError, "sequence of matrices"),
        (lambda A, b: solve_sequence_recycled([], []), ValueError, "matrices is empty"),
        (
            lambda A, b: solve_sequence_recycled([A[0], np.eye(3)], [b[0], np.ones(3)]),
            ValueError,
            "3 unknowns.*have 64",
        ),
        (lambda A, b: solve_sequence_recycled([A[0], np.nan * A[1]], b[:2]), ValueError, "system 1: A contains NaN"),
        (lambda A, b: KrylovRecyclingSolver().solve_many(A), ValueError, "rhs must be given"),
        (lambda A, b: KrylovRecyclingSolver().solve_many(A, b, np.ones(2)), ValueError, "parameters must have a row"),
        (lambda A, b: KrylovRecyclingSolver().solve_many(iter([])), ValueError, "matrices is empty"),
        (lambda A, b: KrylovRecyclingSolver(restart=5, n_recycle=9), ValueError, "restart must exceed n_recycle"),
        (lambda A, b: KrylovRecyclingSolver(sort="random"), ValueError, "sort"),
        (lambda A, b: KrylovRecyclingSolver(preconditioner="magic"), ValueError, "preconditioner"),
        (lambda A, b: KrylovRecyclingSolver(n_jobs=0), ValueError, "n_jobs"),
    ],
)
def test_bad_sequences_are_named(call, error, message):
    matrices, rhs, _ = darcy_systems(3, 8, random_state=0)
    with pytest.raises(error, match=message):
        call(matrices, rhs)


# --- sorting ---


def greedy_by_definition(P):
    left, order = list(range(1, len(P))), [0]
    while left:
        distances = [np.linalg.norm(P[j] - P[order[-1]]) for j in left]
        order.append(left.pop(int(np.argmin(distances))))
    return order


@pytest.mark.parametrize("shape", [(40, 3), (30,), (25, 4, 5), (50, 300)])
def test_the_greedy_chain_is_that_of_the_definition(shape):
    P = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_array_equal(sort_systems(P), greedy_by_definition(P))


def test_ties_go_to_the_lowest_index():
    P = np.array([[0.0], [1.0], [-1.0], [1.0], [-1.0], [0.0]])
    np.testing.assert_array_equal(sort_systems(P), [0, 5, 1, 3, 2, 4])


def path_length(P, order):
    return np.linalg.norm(np.diff(P.reshape(len(P), -1)[order], axis=0), axis=1).sum()


@pytest.mark.parametrize("method", ["greedy", "grouped", "hilbert"])
def test_sorted_chains_are_short(method):
    _, _, P = darcy_systems(300, 16, alpha=4.0, random_state=0)
    order = sort_systems(P, method, group_size=30)
    np.testing.assert_array_equal(np.sort(order), np.arange(300))
    assert path_length(P, order) < 0.75 * path_length(P, np.arange(300))
    np.testing.assert_array_equal(sort_systems(P, None), np.arange(300))


def test_many_parameters_are_reduced_without_harm():
    _, _, P = darcy_systems(200, 32, random_state=0)
    exact = path_length(P, greedy_by_definition(P.reshape(200, -1)))
    assert path_length(P, sort_systems(P)) < 1.1 * exact


def test_groups_are_sorted_each_on_their_own():
    rng = np.random.default_rng(0)
    P = np.column_stack([np.repeat([0.0, 100.0, 200.0], 20), rng.normal(size=60)])[rng.permutation(60)]
    order = sort_systems(P, "grouped", group_size=20)
    np.testing.assert_array_equal(np.unique(P[order[:20], 0]).size, 1)
    # A group begins where it is nearest to the end of the one before.
    start = np.abs(P[order[20:40], 1] - P[order[19], 1])
    assert start[0] == start.min()


def test_the_hilbert_curve_goes_from_cell_to_neighbouring_cell():
    from paperworks.linalg.krylov_recycling._sorting import _hilbert

    x, y = (each.ravel() for each in np.meshgrid(range(16), range(16)))
    place = _hilbert(4, x, y)
    np.testing.assert_array_equal(np.sort(place), np.arange(256))
    order = place.argsort()
    steps = np.abs(np.diff(x[order])) + np.abs(np.diff(y[order]))
    np.testing.assert_array_equal(steps, 1)


@pytest.mark.parametrize("method", ["greedy", "grouped", "hilbert"])
def test_few_or_equal_systems_can_be_sorted(method):
    np.testing.assert_array_equal(sort_systems(np.ones((1, 3)), method), [0])
    np.testing.assert_array_equal(np.sort(sort_systems(np.ones((50, 40)), method, 7)), np.arange(50))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((3, 2)), "fastest"), ValueError, "method"),
        ((np.ones((3, 2)), "grouped", 0), ValueError, "group_size"),
        ((np.array([1.0, np.nan]),), ValueError, "parameters contains NaN"),
        ((np.ones((3, 2), int),), TypeError, "parameters must hold"),
    ],
)
def test_bad_parameters_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        sort_systems(*arguments)


# --- preconditioners ---


def sparse_test_matrix(kind="real", n=50, definite=False):
    rng = np.random.default_rng(0)
    A = sp.random_array((n, n), density=0.1, rng=rng).toarray()
    if kind == "complex":
        A = A * np.exp(1j * rng.normal(size=(n, n)))
    if definite:
        A = A + A.conj().T
    return sp.csr_array(A + np.diag(np.abs(A).sum(axis=1) + 1))


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("shape", [(50,), (50, 3)])
def test_preconditioners_are_those_of_their_formulas(kind, shape):
    A = sparse_test_matrix(kind)
    full = A.toarray()
    D, L, U = np.diag(full.diagonal()), np.tril(full, -1), np.triu(full, 1)
    blocks = np.where(np.arange(50)[:, None] // 8 == np.arange(50) // 8, full, 0)
    expected = {
        "jacobi": D,
        "block_jacobi": blocks,
        "ssor": (D + L) @ np.linalg.inv(D) @ (D + U),
    }
    v = np.random.default_rng(1).normal(size=shape)
    for name, inverted in expected.items():
        M = build_preconditioner(A, name, block_size=8)
        assert M.shape == (50, 50)
        np.testing.assert_allclose(M @ v, np.linalg.solve(inverted, v), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(M @ (1j * v), 1j * (M @ v), rtol=1e-12)
    ilu = build_preconditioner(A, "ilu")
    assert np.linalg.norm(A @ (ilu @ v) - v) < 0.2 * np.linalg.norm(v)
    np.testing.assert_allclose(ilu @ (1j * v), 1j * (ilu @ v), rtol=1e-12)


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_incomplete_cholesky_is_exact_without_fill_and_right_on_its_pattern(kind):
    n = 30
    side = -np.ones(n - 1) * (1j if kind == "complex" else 1)
    chain = sp.csr_array(sp.diags_array([side, np.full(n, 2.5), side.conj()], offsets=[-1, 0, 1]))
    v = np.cos(np.arange(n))
    np.testing.assert_allclose(build_preconditioner(chain, "ic") @ v, spsolve(chain.tocsc(), v), rtol=1e-10)
    A = sparse_test_matrix(kind, definite=True)
    M = build_preconditioner(A, "ic")
    factor = M.lower
    product = (factor @ factor.conj().T).toarray()
    pattern = A.toarray() != 0
    np.testing.assert_allclose(product[pattern], A.toarray()[pattern], rtol=1e-10)


def test_incomplete_cholesky_mends_a_lost_pivot():
    # Positive definite, but the factorisation without fill meets a negative pivot (Kershaw's example).
    A = np.array([[3.0, -2, 0, 2], [-2, 3, -2, 0], [0, -2, 3, -2], [2, 0, -2, 3]])
    assert np.linalg.eigvalsh(A).min() > 0
    M = build_preconditioner(A, "ic")
    inverse = M @ np.eye(4)
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-15)
    assert np.linalg.eigvalsh(inverse).min() > 0


@pytest.mark.parametrize("kind", ["jacobi", "block_jacobi", "ssor", "ilu", "ic"])
def test_preconditioners_save_products(kind):
    (A,), (b,), _ = darcy_systems(1, 32, coefficient="threshold", contrast=100.0, random_state=0)
    plain, ours = (gcro_dr(A, b, rtol=1e-8, M=M) for M in (None, build_preconditioner(A, kind)))
    assert plain[1] == ours[1] == 0
    assert ours[2].matvecs < plain[2].matvecs
    # SciPy's solvers take it too.
    x, info = gmres(A, b, rtol=1e-8, restart=40, M=build_preconditioner(A, kind))
    assert info == 0
    np.testing.assert_allclose(x, plain[0], rtol=1e-4)
    np.testing.assert_allclose(ours[0], plain[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("A", "kind", "message"),
    [
        (np.array([[0.0, 1], [1, 1]]), "jacobi", "zero on the diagonal, in row 0"),
        (np.array([[0.0, 1], [1, 1]]), "ssor", "zero on the diagonal"),
        (np.array([[1.0, 1], [1, 1]]), "block_jacobi", "singular block"),
        (np.array([[0.0, 0], [1, 1]]), "ilu", "no incomplete LU"),
        (np.array([[1.0, 2], [0, 1]]), "ic", "symmetric"),
        (np.diag([1.0, -1.0]), "ic", "positive definite"),
        (np.eye(2), "amg", "kind"),
    ],
)
def test_matrices_without_a_preconditioner_are_named(A, kind, message):
    with pytest.raises(ValueError, match=message):
        build_preconditioner(A, kind)


# --- generated systems ---


def laplacian(grid, dimension=2):
    one = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(grid, grid))
    total = sp.csr_array((grid**dimension, grid**dimension))
    for axis in range(dimension):
        total = total + sp.kron(sp.kron(sp.eye_array(grid**axis), one), sp.eye_array(grid ** (dimension - axis - 1)))
    return total


@pytest.mark.parametrize("dimension", [2, 3])
def test_diffusion_is_the_laplacian_where_permeability_is_one_and_symmetric_elsewhere(dimension):
    (A,), (b,), _ = darcy_systems(1, 6, coefficient="threshold", contrast=1.0, dimension=dimension, random_state=0)
    np.testing.assert_allclose(A.toarray(), laplacian(6, dimension).toarray())
    np.testing.assert_allclose(b, 1 / 49)
    (A,), _, (K,) = darcy_systems(1, 6, dimension=dimension, random_state=0)
    np.testing.assert_allclose(A.toarray(), A.T.toarray())
    assert np.linalg.eigvalsh(A.toarray()).min() > 0
    # Between two points the harmonic mean of their permeabilities.
    k = K.ravel()
    assert A[1, 0] == pytest.approx(-2 * k[0] * k[1] / (k[0] + k[1]))
    # In every row that touches no boundary nothing is lost.
    inner = np.ravel_multi_index(np.ix_(*[range(1, 5)] * dimension), K.shape).ravel()
    np.testing.assert_allclose(A.sum(axis=1)[inner], 0, atol=1e-12)


def test_flow_through_layers_has_a_closed_form():
    # A jump of permeability across one axis: pressure drops in proportion to resistance.
    from paperworks.linalg.krylov_recycling._generators import _diffusion

    K = np.where(np.arange(8)[:, None] < 4, 1.0, 100.0) * np.ones((8, 8))
    # With a source only at the left side, as if p = 1 there, and p = 0 at the right one; insulated above and below.
    A, b = _diffusion(K).toarray(), np.zeros((8, 8))
    b[0] = 1.0
    for j in (0, 7):
        for i in range(8):
            A[8 * i + j, 8 * i + j] -= K[i, j]
    resistance = np.r_[1, 1, 1, 1, (1 + 0.01) / 2, 0.01, 0.01, 0.01, 0.01]
    expected = 1 - np.cumsum(resistance)[:-1] / resistance.sum()
    np.testing.assert_allclose(np.linalg.solve(A, b.ravel()).reshape(8, 8), np.tile(expected[:, None], 8), rtol=1e-9)


def test_helmholtz_is_the_laplacian_less_the_wave_number():
    (A,), _, (kappa,) = helmholtz_systems(1, 20, random_state=0)
    np.testing.assert_allclose(A.toarray(), laplacian(20).toarray() - np.diag(kappa.ravel() ** 2) / 21**2)
    assert 3 < (np.linalg.eigvalsh(A.toarray()) < 0).sum() < 30
    (B,), _, _ = helmholtz_systems(1, 20, absorption=0.5, random_state=0)
    np.testing.assert_allclose(B.toarray().imag, -0.5 * np.diag(kappa.ravel() ** 2) / 21**2)


@pytest.mark.parametrize("dimension", [2, 3])
def test_convection_is_upwind_and_free_of_divergence(dimension):
    (A,), _, (psi,) = convection_diffusion_systems(1, 10, peclet=50.0, dimension=dimension, random_state=0)
    full = A.toarray()
    off = full - np.diag(full.diagonal())
    assert off.max() <= 0
    assert abs(full - full.T).max() > 0.1
    # Inside, a constant is neither made nor lost.
    inner = np.ix_(*[range(1, 9)] * dimension)
    np.testing.assert_allclose(full.sum(axis=1).reshape(psi.shape)[inner], 0, atol=1e-12)
    # Flow along the second axis, v_2 = -d psi / d x_1, makes the neighbour that it comes from weigh more.
    middle = (5,) * dimension
    v = -np.gradient(psi, 1 / 11, axis=0)[middle]
    here = int(np.ravel_multi_index(middle, psi.shape))
    stride = 10 ** (dimension - 2)
    before, after = full[here, here - stride], full[here, here + stride]
    assert (after - before) == pytest.approx(50.0 * v / 11, rel=1e-6)
    assert np.sqrt(np.mean(sum(np.gradient(psi, 1 / 11, axis=a) ** 2 for a in (0, 1)))) == pytest.approx(1)
    (still,), _, _ = convection_diffusion_systems(1, 10, peclet=0.0, dimension=dimension, random_state=0)
    np.testing.assert_allclose(still.toarray(), laplacian(10, dimension).toarray())


def test_heat_between_two_temperatures_is_linear():
    matrices, rhs, temperatures = thermal_systems(3, 12, random_state=0)
    place = np.repeat(np.arange(1, 13) / 13, 12)
    for A, b, (cold, warm) in zip(matrices, rhs, temperatures, strict=True):
        np.testing.assert_allclose(spsolve(A.tocsc(), b), cold + (warm - cold) * place, atol=1e-9)
        assert -100 < cold < 0 < warm < 100


def test_poisson_takes_its_polynomials_on_the_sides():
    matrices, rhs, P = poisson_systems(2, 10, degree=3, random_state=0)
    np.testing.assert_allclose(matrices[0].toarray(), laplacian(10).toarray())
    points = np.arange(1, 11) / 11
    source, west, east, south, north = (np.polynomial.chebyshev.chebval(2 * points - 1, c) for c in P[0])
    b = np.zeros((10, 10))
    for i in range(10):
        for j in range(10):
            b[i, j] = source[i] / 121
            b[i, j] += west[j] * (i == 0) + east[j] * (i == 9) + south[i] * (j == 0) + north[i] * (j == 9)
    np.testing.assert_allclose(rhs[0], b.ravel())


def test_fields_have_the_covariance_that_is_stated_and_clusters_are_alike():
    _, _, K = darcy_systems(4000, 8, alpha=2.0, tau=3.0, random_state=0)
    waves = np.arange(8)
    size = 3.0 * (np.pi**2 * (waves[:, None] ** 2 + waves**2) + 9.0) ** -1.0
    size[0, 0] = 0
    basis = np.cos(np.pi * np.outer(waves, np.arange(8) + 0.5) / 8) * np.where(waves == 0, 1, np.sqrt(2))[:, None]
    variance = np.einsum("ab,ai,bj->ij", size**2, basis**2, basis**2)
    np.testing.assert_allclose(np.log(K).var(axis=0), variance, rtol=0.12)
    _, _, clustered = darcy_systems(40, 16, n_clusters=4, spread=0.1, random_state=0)
    fields = np.log(clustered).reshape(40, -1)
    likeness = np.corrcoef(fields)
    assert ((likeness > 0.95).sum(axis=1) == 10).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_systems_follow_their_seed(family):
    first, again, other = (family(2, 6, random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(first[2], again[2])
    assert (first[0][0] != again[0][0]).nnz == 0
    assert not np.array_equal(first[2], other[2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: darcy_systems(0, 8), "n_systems"),
        (lambda: darcy_systems(2, 1), "grid"),
        (lambda: darcy_systems(2, 8, dimension=4), "dimension"),
        (lambda: darcy_systems(2, 8, coefficient="steps"), "coefficient"),
        (lambda: darcy_systems(2, 8, contrast=0.0), "contrast"),
        (lambda: darcy_systems(2, 8, alpha=0.0), "alpha"),
        (lambda: darcy_systems(2, 8, n_clusters=0), "n_clusters"),
        (lambda: darcy_systems(2, 8, spread=2.0), "spread"),
        (lambda: helmholtz_systems(2, 8, wave_number=0.0), "wave_number"),
        (lambda: helmholtz_systems(2, 8, absorption=-1.0), "absorption"),
        (lambda: convection_diffusion_systems(2, 8, peclet=-1.0), "peclet"),
        (lambda: poisson_systems(2, 8, degree=0), "degree"),
        (lambda: thermal_systems(2, 0), "grid"),
    ],
)
def test_bad_settings_of_generators_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- diagnostics ---


def test_distance_is_the_sine_of_the_largest_angle():
    A = sp.diags_array(np.r_[0.1, 0.2, 0.3, np.linspace(1, 2, 17)]).tocsr()
    basis = np.eye(20)
    assert recycling_distance(A, RecycleSpace(basis[:, :3])) == pytest.approx(0, abs=1e-12)
    assert recycling_distance(A, RecycleSpace(basis[:, 1:4])) == pytest.approx(1)
    # A U is turned out of the third eigenvector by this angle.
    turned = basis[:, :3].copy()
    turned[3, 2] = 0.3 / 1.0
    assert recycling_distance(A, RecycleSpace(turned)) == pytest.approx(np.sin(np.arctan(1.0)))
    assert recycling_distance(A, RecycleSpace(turned), n_vectors=2) == pytest.approx(0, abs=1e-12)
    assert recycling_distance(A, RecycleSpace(basis[:, :3]), n_vectors=4) == pytest.approx(1)


def test_distance_is_the_same_by_sparse_and_dense_eigenvectors():
    (A, B), (b, _), _ = convection_diffusion_systems(2, 16, peclet=5.0, random_state=0)
    _, _, recycle = gcro_dr(A, b, rtol=1e-10)
    found = recycling_distance(B, recycle, n_vectors=3)
    values, vectors = np.linalg.eig(B.toarray())
    Q = dense.orth(vectors[:, np.argsort(np.abs(values))[:3]])
    expected = np.sin(dense.subspace_angles(Q, dense.orth(B @ recycle.U)).max())
    assert found == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="256 unknowns, but A has 4"):
        recycling_distance(np.eye(4), recycle)
    with pytest.raises(TypeError, match="recycle"):
        recycling_distance(A, recycle.U)


# --- the command ---


def test_the_command_solves_files(tmp_path):
    folder, out = tmp_path / "systems", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    matrices, rhs, _ = convection_diffusion_systems(4, 12, random_state=0)
    for i, (A, b) in enumerate(zip(matrices, rhs, strict=True)):
        mmwrite(folder / f"system{i}.mtx", A)
        np.save(folder / f"system{i}.npy", b)
    summary = run(folder, out=out, preconditioner="jacobi")
    assert summary["converged"] == summary["systems"] == 4
    assert str(folder) in summary["input"]
    with np.load(out / "data.npz") as stored:
        for A, b, x in zip(matrices, rhs, stored["x"], strict=True):
            np.testing.assert_allclose(x, spsolve(A.tocsc(), b), rtol=1e-5)
    with (out / "systems.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows] == ["system0", "system1", "system2", "system3"]
    assert sum(int(row["matvecs"]) for row in rows) == pytest.approx(4 * summary["mean_matvecs"])
    assert (out / "picture.png").stat().st_size > 1000
    mmwrite(folder / "system9.mtx", sp.eye_array(3, format="coo"))
    with pytest.raises(ValueError, match="one number of unknowns"):
        run(folder, out=out)


@pytest.mark.parametrize("problem", ["darcy", "helmholtz", "poisson", "thermal", "convection-diffusion"])
def test_the_command_generates_data(tmp_path, problem):
    summary = run(out=tmp_path, problem=problem, grid=12, count=3, preconditioner="ssor")
    assert summary["converged"] == 3
    assert problem in summary["input"]
    with np.load(tmp_path / "data.npz") as stored:
        assert stored["x"].shape == stored["rhs"].shape == (3, 144)
        assert len(stored["parameters"]) == 3


def test_the_command_names_what_did_not_converge(tmp_path):
    summary = run(out=tmp_path, problem="helmholtz", grid=16, count=2, maxiter=5, sort="none")
    assert summary["converged"] == 0
    assert summary["not_converged"] == ["helmholtz 0", "helmholtz 1"]
