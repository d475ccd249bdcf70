"""Learned relaxation: solvers against dense recurrences, bandits against closed forms, and every documented error."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import lsq_linear
from scipy.sparse.linalg import cg
from sklearn.exceptions import ConvergenceWarning

from paperworks.linalg import (
    BinnedTsallisINF,
    ChebyshevContextualBandit,
    RelaxationTuner,
    TsallisINF,
    optimal_relaxation,
    shifted_laplacian_systems,
    solve_sequence,
    sor,
    ssor_conjugate_gradient,
)
from paperworks.linalg.learned_relaxation._bandits import tsallis_probabilities
from paperworks.linalg.learned_relaxation._chebyshev import _boxed_least_squares, _chebyshev, _least_squares
from paperworks.linalg.learned_relaxation._generators import (
    SHIFTS,
    HeatSimulation,
    draw_shifts,
    laplacian,
    shifted,
)
from paperworks.papers.learned_relaxation.run import run

SOLVERS = [sor, ssor_conjugate_gradient]
BANDITS = [
    lambda seed: TsallisINF(random_state=seed),
    lambda seed: BinnedTsallisINF(context_range=(0, 1), random_state=seed),
    lambda seed: ChebyshevContextualBandit(context_range=(0, 1), random_state=seed),
]


def problem(n=40, seed=0):
    """A sparse symmetric positive definite matrix without structure, and a right-hand side."""
    rng = np.random.default_rng(seed)
    A = sp.random_array((n, n), density=0.1, random_state=rng)
    A = A + A.T
    A = sp.csr_array(A + sp.diags_array(abs(A).sum(axis=0) + 0.1))
    return A, rng.normal(size=n)


def dense_sor(A, b, x, omega, rtol):
    A = A.toarray()
    M = np.diag(np.diag(A)) / omega + np.tril(A, -1)
    r = b - A @ x
    norms = [np.linalg.norm(r)]
    while norms[-1] >= rtol * norms[0]:
        x = x + np.linalg.solve(M, r)
        r = b - A @ x
        norms.append(np.linalg.norm(r))
    return x, np.array(norms) / norms[0]


def dense_ssor_cg(A, b, x, omega, steps):
    A = A.toarray()
    D, L = np.diag(np.diag(A)), np.tril(A, -1)
    P = (D + omega * L) @ np.linalg.inv(D) @ (D + omega * L).T / (omega * (2 - omega))
    r = b - A @ x
    z = np.linalg.solve(P, r)
    p, norms = z, []
    for _ in range(steps):
        alpha = r @ z / (p @ A @ p)
        x, after = x + alpha * p, r - alpha * A @ p
        new = np.linalg.solve(P, after)
        p, r, z = new + after @ new / (r @ z) * p, after, new
        norms.append(np.linalg.norm(r))
    return x, np.array(norms) / np.linalg.norm(b)


# The solvers


@pytest.mark.parametrize("omega", [0.6, 1.0, 1.7])
def test_sor_makes_the_iterates_of_the_definition(omega):
    A, b = problem()
    A = sp.csr_array(A + 0.05 * sp.random_array(A.shape, density=0.1, random_state=1))  # not symmetric
    start, seen = np.linspace(-1, 1, 40), []
    x, n_iter, converged = sor(A, b, start, omega, 1e-9, callback=seen.append)
    expected, norms = dense_sor(A, b, start, omega, 1e-9)
    assert converged
    assert n_iter == len(norms) - 1 == len(seen)
    np.testing.assert_allclose(x, expected, atol=1e-12)
    np.testing.assert_allclose(seen, norms[1:], rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("omega", [0.83, 1.0, 1.6])
def test_ssor_cg_makes_the_iterates_of_preconditioned_conjugate_gradients(omega):
    A, b = problem()
    start, seen = np.linspace(-1, 1, 40), []
    with pytest.warns(ConvergenceWarning):
        x, n_iter, converged = ssor_conjugate_gradient(A, b, start, omega, 1e-14, 6, callback=seen.append)
    expected, norms = dense_ssor_cg(A, b, start, omega, 6)
    assert (n_iter, converged) == (6, False)
    np.testing.assert_allclose(x, expected, rtol=1e-10)
    np.testing.assert_allclose(seen, norms, rtol=1e-8)


def test_ssor_cg_takes_as_many_steps_as_scipy_with_the_same_preconditioner():
    A, b = laplacian(20), np.random.default_rng(0).normal(size=400)
    omega, D, L = 1.5, sp.diags_array(np.full(400, 4.0)), sp.tril(laplacian(20), -1)
    P = ((D + omega * L) @ (D + omega * L).T / (4 * omega * (2 - omega))).toarray()
    inverse, steps = np.linalg.inv(P), []
    expected, _ = cg(A, b, rtol=1e-8, M=inverse, callback=steps.append)
    x, n_iter, _ = ssor_conjugate_gradient(A, b, relaxation=omega)
    assert abs(n_iter - len(steps)) <= 1
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("solver", SOLVERS)
def test_result_without_callback_is_the_same_and_input_is_not_written_to(solver):
    A, b = problem()
    start, copies = np.ones(40), (A.copy(), b.copy())
    plain, heard = solver(A, b, start), solver(A, b, start, callback=lambda residual: None)
    np.testing.assert_array_equal(plain.x, heard.x)
    assert plain.n_iter == heard.n_iter
    assert (start == 1).all()
    assert abs(A - copies[0]).max() == 0
    np.testing.assert_array_equal(b, copies[1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_residual_that_is_promised_is_the_true_one(solver):
    A, b = laplacian(30), np.random.default_rng(0).normal(size=900)
    x, _, converged = solver(A, b, relaxation=1.8, rtol=1e-12)
    assert converged
    assert np.linalg.norm(b - A @ x) <= 1.0001e-12 * np.linalg.norm(b)


@pytest.mark.parametrize("solver", SOLVERS)
def test_residual_that_rounding_keeps_up_is_not_taken_for_small(solver):
    # The residual that is carried along falls to zero in time; that of x can't.
    A, b = problem(200)
    with pytest.warns(ConvergenceWarning):
        _, n_iter, converged = solver(A, b, relaxation=1.3, rtol=1e-18, max_iter=2000)
    assert (n_iter, converged) == (2000, False)


@pytest.mark.parametrize("solver", SOLVERS)
def test_solver_that_gives_up_warns_and_says_so(solver):
    A, b = laplacian(10), np.ones(100)
    with pytest.warns(ConvergenceWarning, match="after 3 steps"):
        _, n_iter, converged = solver(A, b, max_iter=3)
    assert (n_iter, converged) == (3, False)


@pytest.mark.parametrize("solver", SOLVERS)
def test_start_at_the_solution_takes_no_iteration(solver):
    A, _ = problem()
    assert solver(A, np.zeros(40))[1:] == (0, True)
    x = np.arange(40.0)
    assert ssor_conjugate_gradient(A, A @ x, x)[1:] == (0, True)


def test_sor_that_diverges_stops_with_finite_numbers():
    A = np.array([[1.0, 3.0], [3.0, 1.0]])
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        x, n_iter, converged = sor(A, np.ones(2))
    assert not converged
    assert n_iter < 100
    assert np.isfinite(x).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_single_precision(solver):
    A, b = problem()
    x, _, converged = solver(A, b, rtol=1e-5, dtype="float32")
    assert x.dtype == np.float32
    assert converged
    np.testing.assert_allclose(x, np.linalg.solve(A.toarray(), b), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="rtol must be at least 1e-06 in float32"):
        solver(A, b, rtol=1e-8, dtype="float32")
    # A float32 matrix is solved in float64 unless told otherwise.
    assert solver(A.astype(np.float32), b).x.dtype == np.float64


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("omega", [0.0, 2.0, -0.5, np.nan, 2.5])
def test_relaxation_out_of_range_is_refused(solver, omega):
    with pytest.raises(ValueError, match="relaxation"):
        solver(*problem(), relaxation=omega)


@pytest.mark.parametrize("solver", SOLVERS)
def test_bad_systems_are_refused_by_name(solver):
    A, b = problem()
    holed = A.toarray()
    holed[7, 7] = 0.0
    cases = [
        (holed, b, {}, ValueError, "zero on its diagonal, got one in row 7"),
        (A[:5], b, {}, ValueError, "A must be a square"),
        (A, b[:5], {}, ValueError, "b must have shape"),
        (A, b, {"x0": b[:5]}, ValueError, "x0 must have shape"),
        (A, np.full(40, np.nan), {}, ValueError, "b contains NaN"),
        (sp.csr_array(np.full((40, 40), np.inf)), b, {}, ValueError, "A contains NaN"),
        (A.astype(int), b, {}, TypeError, "A must hold floating"),
        (A.astype(complex), b, {}, TypeError, "A must be real"),
        (A, b, {"rtol": 0.0}, ValueError, "rtol"),
        (A, b, {"max_iter": 0}, ValueError, "max_iter"),
        (A, b, {"dtype": "float16"}, ValueError, "dtype"),
    ]
    for matrix, rhs, options, error, words in cases:
        with pytest.raises(error, match=words):
            solver(matrix, rhs, **options)


def test_matrix_that_is_not_positive_definite_is_found_out():
    A, b = problem()
    with pytest.raises(ValueError, match=r"p' A p = -"):
        ssor_conjugate_gradient(np.array([[1.0, 3.0], [3.0, 1.0]]), np.array([1.0, -2.0]))
    with pytest.raises(ValueError, match=r"p' A p = 0"):
        ssor_conjugate_gradient(np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([1.0, 1.0]))
    with pytest.raises(ValueError, match="diagonal is not positive in row 0"):
        ssor_conjugate_gradient(-A, b)
    with pytest.raises(ValueError, match="A must be symmetric"):
        ssor_conjugate_gradient(A + sp.csr_array(([1.0], ([0], [39])), shape=A.shape), b)
    # Zeros that are stored on one side only do no harm.
    lopsided = sp.csr_array(sp.coo_array(A))
    lopsided[0, 39], lopsided[39, 0] = 1.0, 1.0
    lopsided.data[lopsided.indptr[1] - 1] = lopsided[39, 0] = 0.0
    assert ssor_conjugate_gradient(lopsided, b).converged


# The relaxation that theory calls best


@pytest.mark.parametrize(("m", "c"), [(10, -0.1), (10, 0.5), (25, 0.0)])
def test_optimal_relaxation_of_shifted_laplacians(m, c):
    beta = 4 * np.cos(np.pi / (m + 1)) / (4 + c)
    A = laplacian(m) + c * sp.eye_array(m * m)
    assert optimal_relaxation(A) == pytest.approx(2 / (1 + np.sqrt(1 - beta**2)), rel=1e-9)
    # The same spectrum, but neither symmetric nor with a diagonal of one value.
    scale = sp.diags_array(np.linspace(1, 2, m * m))
    assert optimal_relaxation(scale @ A) == pytest.approx(2 / (1 + np.sqrt(1 - beta**2)), rel=1e-6)


def test_optimal_relaxation_takes_the_fewest_sweeps():
    A, b = laplacian(30), np.random.default_rng(0).normal(size=900)
    best = optimal_relaxation(A)
    sweeps = {factor: sor(A, b, relaxation=best + factor).n_iter for factor in (-0.1, -0.03, 0.0, 0.05)}
    assert min(sweeps, key=sweeps.get) == 0.0


def test_optimal_relaxation_refuses():
    with pytest.raises(ValueError, match="spectral radius below 1"):
        optimal_relaxation(np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="row 1"):
        optimal_relaxation(np.array([[1.0, 2.0], [2.0, 0.0]]))


# The bandits


def test_tsallis_probabilities_solve_their_equation():
    rng = np.random.default_rng(0)
    for d, t in ((2, 1), (20, 10), (20, 100_000), (200, 7)):
        losses, eta = rng.exponential(size=d) * t, 2 / np.sqrt(t)
        p = tsallis_probabilities(losses, eta)
        assert p.sum() == pytest.approx(1, abs=1e-12)
        # p^(-1/2) = eta / 2 (losses - x), for one x below all losses.
        x = losses - 2 / (eta * np.sqrt(p))
        np.testing.assert_allclose(x, x[0], rtol=1e-8, atol=1e-8 * t)
        assert x[0] < losses.min()


def test_tsallis_inf_weighs_losses_by_the_probability_of_the_draw():
    bandit, sums, total = TsallisINF([1.0, 1.5, 1.9], random_state=3), np.zeros(3), 0.0
    np.testing.assert_allclose(bandit._probabilities()[0], 1 / 3)
    for t in range(30):
        arm = bandit.arms.tolist().index(bandit.suggest())
        cost = [90, 40, 60][arm] + t
        sums[arm] += (cost - 1) / bandit.probabilities_[arm]
        total += cost - 1
        bandit.update(cost)
        expected = tsallis_probabilities(sums / (total / (t + 1)), 2 / np.sqrt(t + 2))
        np.testing.assert_allclose(bandit._probabilities()[0], expected, rtol=1e-12)


def test_draws_follow_the_probabilities():
    bandit, counts = TsallisINF([1.0, 1.2, 1.4, 1.6], random_state=0), dict.fromkeys((1.0, 1.2, 1.4, 1.6), 0)
    bandit._losses, bandit._rounds, bandit._total = np.array([3.0, 0.0, 8.0, 20.0]), 10, 10.0
    for _ in range(20_000):
        counts[bandit.suggest()] += 1
        bandit.discard()
    np.testing.assert_allclose(np.array(list(counts.values())) / 20_000, bandit.probabilities_, atol=0.012)


def test_costs_that_are_all_least_leave_the_choice_open():
    bandit = TsallisINF(random_state=0)
    for _ in range(10):
        bandit.suggest()
        bandit.update(1)
    np.testing.assert_allclose(bandit._probabilities()[0], 0.05)
    bandit = ChebyshevContextualBandit(context_range=(0, 1), random_state=0)
    for _ in range(10):
        bandit.suggest(0.3)
        bandit.update(1)
    assert np.isfinite(bandit.probabilities_).all()


def test_scale_of_costs_does_not_matter():
    for make in (
        lambda: TsallisINF(random_state=0, least_cost=0),
        lambda: BinnedTsallisINF(context_range=(0, 1), random_state=0, least_cost=0),
    ):
        small, large = make(), make()
        for t in range(100):
            arm = small.suggest(t / 100)
            assert large.suggest(t / 100) == arm
            small.update(1e-3 * arm)
            large.update(1e3 * arm)


def test_bins_are_independent_and_of_equal_width():
    bandit = BinnedTsallisINF(context_range=(-1, 1), n_bins=4, random_state=0)
    for context in (-1.0, -0.51, -0.49, 0.01, 0.49, 0.51, 1.0):
        bandit.suggest(context)
        bandit.update(10)
    assert [each._rounds for each in bandit._bins] == [2, 1, 2, 2]


def test_chebyshev_polynomials_and_inverse_gaps():
    np.testing.assert_allclose(_chebyshev(0.3, 6), np.cos(np.arange(6) * np.arccos(0.3)), rtol=1e-12)
    bandit = ChebyshevContextualBandit(context_range=(0, 1), random_state=0)
    for t in range(200):
        arm = bandit.suggest(t / 200)
        bandit.update(10 + 50 * abs(arm - 1 - t / 250))
    gaps = bandit.predict(0.4) - bandit.predict(0.4).min()
    bandit.suggest(0.4)
    p = bandit.probabilities_
    others = gaps > 0
    np.testing.assert_allclose(p[others], 1 / (20 + bandit._eta * gaps[others] / bandit._scale), rtol=1e-10)
    assert p.sum() == pytest.approx(1)


def test_chebyshev_learns_as_from_all_rounds_at_once():
    """Against the authors' formulas, with every round kept and every fit made anew by SciPy."""
    bandit, rng = ChebyshevContextualBandit([1.0, 1.3, 1.6], (0, 2), degree=3, random_state=0), np.random.default_rng(1)
    features, losses, arms, predicted = [], [], [], []
    m, d, width, boxed, before = 4, 3, 2.0, 0, 0.0
    theta = np.zeros((d, m))
    for t in range(1, 61):
        context = rng.uniform(0, 2)
        arm = bandit.arms.tolist().index(bandit.suggest(context))
        cost = float(round(20 + 60 * (bandit.arms[arm] - 1 - context / 4) ** 2 + rng.uniform(0, 3)))
        features.append(np.polynomial.chebyshev.chebvander(context - 1, 3)[0])
        losses.append(cost)
        arms.append(arm)
        predicted.append(theta[arm] @ features[-1])
        bandit.update(cost)
        most, slope = max(losses), (max(losses) - min(losses)) / width
        N = 2 + 4 * width * slope / most * (1 + np.log(m))
        scale, left = most * N, 0.0
        bound = np.r_[1 / N, 2 * width * slope / (scale * np.arange(1, m))] + 1e-300
        for i in range(d) if scale != before else (arm,):
            mine = np.array(arms) == i
            if not mine.any():
                continue
            F, y = np.array(features)[mine], (np.array(losses)[mine] - 1) / scale
            theta[i] = np.linalg.lstsq(F, y, rcond=1e-7)[0]
            if (abs(theta[i]) > bound).any():
                boxed += 1
                found = bandit._theta[i] / scale
                assert (abs(found) <= bound * (1 + 1e-9)).all()
                best = lsq_linear(F, y, (-bound, bound), tol=1e-14).cost
                left = np.sum((F @ found - y) ** 2)
                assert 0.5 * left <= best + 1e-9 * (1 + best)
                theta[i] = found
            np.testing.assert_allclose(bandit._theta[i] / scale, theta[i], rtol=1e-4, atol=1e-6)
        assert bandit._scale == pytest.approx(scale)
        R = np.sum((np.array(predicted) - np.array(losses) / scale) ** 2)
        alpha = (np.pi + 2 / np.pi * np.log(2 * m + 1)) * width * slope / (2 * scale * (m + 1))
        assert bandit._eta == pytest.approx(2 * t * np.sqrt(d * t / (R - left + 2 * alpha**2 * t)), rel=1e-3)
        before = scale
    assert boxed > 5


def test_exploration_rate_takes_off_what_no_fit_could_predict():
    bandit = ChebyshevContextualBandit([1.0, 2.0], (0, 1), degree=1)
    bandit._rounds, bandit._least, bandit._most, bandit._scale = 9, 10.0, 50.0, 200.0
    bandit._sums = np.array([0.5, 60.0, 16000.0])
    alpha = (np.pi + 2 / np.pi * np.log(5)) / (2 * 200 * 3) * 40
    error = 0.5 - 2 * 60 / 200 + 16000 / 200**2 - 2000 / 200**2 + 2 * alpha**2 * 9
    assert bandit._rate(2000.0) == pytest.approx(18 * np.sqrt(2 * 9 / error))


def test_least_squares_in_boxes_and_of_least_norm():
    rng = np.random.default_rng(0)
    for rank in (1, 2, 3, 5, 5, 5, 5, 5):
        F = rng.normal(size=(8, rank)) @ rng.normal(size=(rank, 5))
        y, bound = rng.normal(size=8), np.full(5, 0.2)
        free = _least_squares(F.T @ F, F.T @ y)
        np.testing.assert_allclose(free, np.linalg.pinv(F) @ y, atol=1e-8)
        found = _boxed_least_squares(F.T @ F, F.T @ y, bound, np.clip(free, -bound, bound))
        best = lsq_linear(F, y, (-bound, bound), tol=1e-12)
        assert 0.5 * np.sum((F @ found - y) ** 2) == pytest.approx(best.cost, rel=1e-5)


def test_chebyshev_learns_what_depends_on_the_context():
    bandit, rng, costs = ChebyshevContextualBandit(context_range=(0, 1), random_state=0), np.random.default_rng(0), []
    for context in rng.random(1500):
        costs.append(1 + 400 * abs(bandit.suggest(context) - 1 - context) ** 2)
        bandit.update(costs[-1])
    fixed = 1 + 400 / 12
    assert np.mean(costs[-300:]) < 0.35 * fixed


@pytest.mark.parametrize("make", BANDITS)
def test_turns_are_kept(make):
    bandit = make(0)
    with pytest.raises(RuntimeError, match="call suggest"):
        bandit.update(5)
    bandit.suggest(0.5)
    with pytest.raises(RuntimeError, match="discard"):
        bandit.suggest(0.5)
    bandit.discard()
    bandit.suggest(0.5)
    for cost in (np.nan, 0.5, -1.0):
        with pytest.raises(ValueError, match="cost"):
            bandit.update(cost)
    bandit.update(7)
    with pytest.raises(RuntimeError, match="call suggest"):
        bandit.update(7)


@pytest.mark.parametrize("make", BANDITS)
def test_same_seed_same_arms_also_after_pickling(make):
    def play(bandit, rounds):
        arms = []
        for t in range(rounds):
            arms.append(bandit.suggest((t * 0.37) % 1))
            bandit.update(1 + 100 * (arms[-1] - 1.4) ** 2)
        return arms

    one, two = make(5), make(5)
    assert play(one, 40) == play(two, 40)
    restored = pickle.loads(pickle.dumps(one))
    assert play(restored, 40) == play(two, 40)


@pytest.mark.parametrize("make", [BinnedTsallisINF, ChebyshevContextualBandit])
def test_contexts_are_needed_and_clipped_with_one_warning(make):
    with pytest.raises(ValueError, match="context_range must be given"):
        make().suggest(0.5)
    bandit = make(context_range=(0, 1), random_state=0)
    with pytest.raises(ValueError, match="context must be given"):
        bandit.suggest()
    with pytest.raises(ValueError, match="context"):
        bandit.suggest(np.nan)
    with pytest.warns(UserWarning, match=r"context 1.5 lies outside context_range \(0, 1\)"):
        bandit.suggest(1.5)
    bandit.update(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bandit.suggest(-7.0)


def test_bandits_refuse_bad_arguments():
    for arms in ([], [[1.0]], [np.nan], ["a"]):
        with pytest.raises((ValueError, TypeError), match="arms"):
            TsallisINF(arms)
    for limits in ((1, 0), (0,), (0, np.inf), 3):
        with pytest.raises(ValueError, match="context_range"):
            BinnedTsallisINF(context_range=limits)
    with pytest.raises(ValueError, match="n_bins"):
        BinnedTsallisINF(n_bins=0)
    with pytest.raises(ValueError, match="degree"):
        ChebyshevContextualBandit(degree=-1)


# The tuner


def shifted_systems(count, seed=0):
    rng = np.random.default_rng(seed)
    shifts = draw_shifts("high", count, rng)
    return list(shifted(laplacian(10), shifts, rng)), shifts


def test_learned_relaxation_beats_a_bad_fixed_one_and_context_helps():
    systems, shifts = shifted_systems(1500)
    last = {}
    for policy in ("tsallis_inf", "chebyshev"):
        tuner = RelaxationTuner("sor", policy, context_range=SHIFTS, random_state=0)
        last[policy] = solve_sequence(systems, tuner, shifts, progress=False).iterations[-300:].mean()
    fixed = {omega: np.mean([sor(*each, relaxation=omega).n_iter for each in systems[-300:]]) for omega in (1.2, 1.8)}
    assert last["tsallis_inf"] < 0.5 * fixed[1.2]
    assert last["chebyshev"] < 0.8 * fixed[1.8]


def test_report_holds_what_each_solve_took():
    systems, _ = shifted_systems(20)
    report = solve_sequence(iter(systems), RelaxationTuner("ssor_cg", random_state=0), progress=False)
    for (A, b), x, cost, omega in zip(systems, report.solutions, report.iterations, report.relaxations, strict=True):
        expected = ssor_conjugate_gradient(A, b, relaxation=omega)
        np.testing.assert_array_equal(x, expected.x)
        assert cost == expected.n_iter
    assert report.converged.all()
    assert (report.seconds > 0).all()
    again = solve_sequence(
        systems, RelaxationTuner("ssor_cg", random_state=0), progress=False, keep_solutions=False, warm_start=True
    )
    assert again.solutions is None
    # The first system has nothing to start from, and the first draw is the same.
    assert again.iterations[0] == report.iterations[0]
    assert again.iterations[1] != report.iterations[1]


def test_system_that_does_not_converge_costs_max_iter_and_is_flagged():
    systems, _ = shifted_systems(10)
    diverging = (np.array([[1.0, 3.0], [3.0, 1.0]]), np.ones(2))
    tuner = RelaxationTuner(max_iter=700, random_state=0)
    with pytest.warns(ConvergenceWarning, match="1 of 11 systems did not converge, first number 10"):
        report = solve_sequence([*systems, diverging], tuner, progress=False)
    assert report.iterations[10] == 700
    assert report.converged.tolist() == [True] * 10 + [False]


def test_any_solver_with_any_knob():
    def solve(A, b, x0, knob):
        return np.zeros(2), 1e-3 * (1 + (knob - 7) ** 2)

    tuner = RelaxationTuner(solve, arm_range=(-10, 10), n_arms=11, least_cost=0.0, random_state=0)
    costs = [tuner.solve(None, None)[1] for _ in range(800)]
    assert np.mean(costs[-100:]) < 0.1 * np.mean(costs[:50])
    assert tuner.n_solves_ == 800


def test_solver_of_the_user_that_fails_is_named_and_teaches_nothing():
    answers = iter([(np.zeros(2), 4.0), (np.zeros(2), np.nan), (np.array([0, np.nan]), 3.0), (np.zeros(2), 5.0)])
    tuner = RelaxationTuner(lambda A, b, x0, knob: next(answers), random_state=0)
    tuner.solve(None, None)
    with pytest.raises(ValueError, match="cost nan for system 1"):
        tuner.solve(None, None)
    with pytest.raises(ValueError, match="NaN or infinity in x for system 1"):
        tuner.solve(None, None)
    assert tuner.bandit._rounds == 1
    tuner.solve(None, None)
    assert tuner.bandit._rounds == 2


def test_start_that_solves_the_system_teaches_nothing():
    A, _ = problem()
    tuner = RelaxationTuner("ssor_cg", random_state=0)
    assert tuner.solve(A, A @ np.ones(40), np.ones(40))[1] == 0
    assert tuner.bandit._rounds == 0


def test_contexts_give_their_range_and_must_fit():
    systems, shifts = shifted_systems(12)
    tuner = RelaxationTuner(policy="chebyshev", random_state=0)
    solve_sequence(systems, tuner, shifts, progress=False)
    assert tuner.bandit.contexts.limits == (shifts.min(), shifts.max())
    for wrong in (shifts[:5], np.r_[shifts, 0.1]):
        with pytest.raises(ValueError, match="contexts has"):
            solve_sequence(systems, RelaxationTuner(random_state=0), wrong, progress=False)
    with pytest.raises(ValueError, match="contexts contains NaN"):
        solve_sequence(systems, RelaxationTuner(random_state=0), [np.nan] * 12, progress=False)
    with pytest.raises(TypeError, match="number 0 is csr_array"):
        solve_sequence([systems[0][0]], RelaxationTuner(random_state=0), progress=False)


def test_tuner_refuses_bad_arguments():
    for options, words in (
        ({"solver": "jacobi"}, "solver"),
        ({"policy": "ucb"}, "policy"),
        ({"arm_range": (1.0, 2.0)}, r"\(0, 2\)"),
        ({"arm_range": (1.5, 1.0)}, "arm_range"),
        ({"n_arms": 0}, "n_arms"),
        ({"rtol": -1.0}, "rtol"),
        ({"max_iter": 0}, "max_iter"),
    ):
        with pytest.raises(ValueError, match=words):
            RelaxationTuner(**options)


# The sequences


def test_heat_conserves_its_shape_without_diffusion_and_decays_with():
    simulation = HeatSimulation(20)
    A, b = simulation.system()
    K, half = simulation.stiffness, 0.5 * simulation.coefficient * simulation.time_step
    np.testing.assert_allclose(A.toarray(), np.eye(361) + half * K.toarray())
    # A product of sines is an eigenvector, by the closed form of its eigenvalue.
    mode = np.sin(np.pi * simulation.points).prod(axis=1)
    value = 2 * 20**2 * (2 - 2 * np.cos(np.pi / 20))
    np.testing.assert_allclose(K @ mode, value * mode, rtol=1e-9)
    simulation.time = 0.75  # the coefficient is ten
    assert simulation.coefficient == pytest.approx(10, rel=1e-4)
    assert np.isfinite(b).all()


# The command


def test_command_on_files_and_without(tmp_path):
    from scipy.io import mmwrite

    folder, out = tmp_path / "systems", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    systems, shifts = shifted_systems(6)
    for i, (A, b) in enumerate(systems):
        mmwrite(folder / f"system{i}.mtx", A)
        np.save(folder / f"system{i}.npy", b)
    np.savetxt(tmp_path / "context.csv", shifts)
    summary = run(folder, out=out, solver="sor", policy="chebyshev", context=tmp_path / "context.csv")
    assert summary["systems"] == summary["converged"] == 6
    with np.load(out / "solutions.npz") as stored:
        np.testing.assert_allclose(systems[3][0] @ stored["system3"], systems[3][1], atol=1e-6)
    assert (out / "picture.png").stat().st_size > 5000
    assert len((out / "systems.csv").read_text().splitlines()) == 7
    with pytest.raises(ValueError, match="needs --context"):
        run(folder, out=out, policy="chebyshev")
    np.savetxt(tmp_path / "context.csv", shifts[:4])
    with pytest.raises(ValueError, match="must hold 6 numbers, one for each system, got 4"):
        run(folder, out=out, policy="chebyshev", context=tmp_path / "context.csv")
    assert run(out=out, intervals=12, steps=20)["systems"] == 20


def test_shifted_systems_are_the_laplacian_and_a_shift():
    matrices, rhs, shifts = shifted_laplacian_systems(4, 3, spread="low", random_state=0)
    for A, c in zip(matrices, shifts, strict=True):
        np.testing.assert_allclose((A - laplacian(3)).toarray(), c * np.eye(9), atol=1e-15)
    assert ((shifts > -0.15) & (shifts < 0.45)).all()
    assert (np.linalg.norm(rhs, axis=1) <= 3).all()
    again = shifted_laplacian_systems(4, 3, spread="low", random_state=0)
    np.testing.assert_array_equal(rhs, again[1])
    with pytest.raises(ValueError, match="spread must be one of 'high', 'low'"):
        shifted_laplacian_systems(2, spread="middle")
    with pytest.raises(ValueError, match="n_systems must be at least 1"):
        shifted_laplacian_systems(0)
    with pytest.raises(ValueError, match="intervals must be at least 2"):
        HeatSimulation(1)
