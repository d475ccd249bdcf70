"""Variance reduced Halpern iteration against closed forms, slow twins and linear programming."""

import warnings

import numpy as np
import pytest
from scipy.optimize import linprog, lsq_linear
from sklearn.exceptions import ConvergenceWarning

from paperworks.optimization import (
    FiniteSumOperator,
    bilinear_saddle,
    deterministic_halpern,
    extra_anchored_gradient,
    extragradient,
    halpern_iteration,
    least_squares_operator,
    matrix_game,
)
from paperworks.optimization.halpern_iteration._operators import project_to_simplex
from paperworks.papers.halpern_iteration.run import run

DETERMINISTIC = [deterministic_halpern, extragradient, extra_anchored_gradient]


def regression(n=200, d=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=n)


def game_value(A):
    """Value of a game by linear programming: the least v with A' x <= v."""
    m, k = A.shape
    found = linprog(
        np.r_[np.zeros(m), 1],
        A_ub=np.c_[A.T, -np.ones(k)],
        b_ub=np.zeros(k),
        A_eq=np.r_[np.ones(m), 0][None],
        b_eq=[1],
        bounds=[(0, None)] * m + [(None, None)],
    )
    return found.fun


def gap(A, u):
    m = len(A)
    return (A.T @ u[:m]).max() - (A @ u[m:]).min()


# --- the operators ---


def test_mean_of_components_is_the_full_operator():
    A, b = regression()
    operator = least_squares_operator(A, b)
    u = np.arange(4.0)
    np.testing.assert_allclose(operator.batch(u, np.arange(200)), operator.full(u), rtol=1e-12)
    np.testing.assert_allclose(operator.full(u), A.T @ (A @ u - b) / 200, rtol=1e-12)
    each = np.array([operator.batch(u, np.array([i])) for i in range(5)])
    np.testing.assert_allclose(each, (A[:5] @ u - b[:5])[:, None] * A[:5])


def test_cocoercivity_of_least_squares_is_the_largest_that_holds():
    A, b = regression(50, 3, 1)
    # The faint column belongs to the longest row: the largest ratio is along it.
    A *= [1.0, 1.0, 1e-3]
    A[0] = [30.0, 0.0, 0.1]
    operator = least_squares_operator(A, b)
    H = A.T @ A / 50
    M = (A.T * (A**2).sum(1)) @ A / 50
    rng = np.random.default_rng(0)
    ratios = [v @ M @ v / (v @ H @ v) for v in rng.normal(size=(5000, 3)) / [1.0, 1.0, 1e-3]]
    assert max(ratios) <= operator.lipschitz * (1 + 1e-9)
    assert max(ratios) > 0.98 * operator.lipschitz
    assert operator.full_lipschitz == pytest.approx(np.linalg.eigvalsh(H)[-1])
    assert operator.cocoercivity == pytest.approx(1 / operator.lipschitz)
    # Fewer rows than unknowns leave directions in which nothing changes.
    assert np.isfinite(least_squares_operator(A[:2], b[:2]).lipschitz)


def test_bilinear_components_are_unbiased_with_the_frobenius_constant():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(3, 5))
    A[1] = 0
    operator = bilinear_saddle(A)
    u, v = rng.normal(size=(2, 8))
    v[1] = u[1]  # nothing changes along a row of zeros
    np.testing.assert_allclose(operator.full(u), np.r_[A @ u[3:], -A.T @ u[:3]])
    rows, columns = (A**2).sum(1) / (A**2).sum(), (A**2).sum(0) / (A**2).sum()
    mean, square = np.zeros(8), 0.0
    for i in (0, 2):
        for j in range(5):
            change = operator.batch(u, np.array([[i, j]])) - operator.batch(v, np.array([[i, j]]))
            mean += rows[i] * columns[j] * change
            square += rows[i] * columns[j] * change @ change
    np.testing.assert_allclose(mean, operator.full(u) - operator.full(v))
    # The constant is attained by every difference.
    assert square == pytest.approx(operator.lipschitz**2 * np.sum((u - v) ** 2))
    assert operator.lipschitz == pytest.approx(np.linalg.norm(A))
    assert operator.full_lipschitz == pytest.approx(np.linalg.norm(A, 2))
    drawn = operator.draw(np.random.default_rng(0), 20_000)
    assert 1 not in drawn[:, 0]
    np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=3) / 20_000, rows, atol=0.02)
    np.testing.assert_allclose(np.bincount(drawn[:, 1], minlength=5) / 20_000, columns, atol=0.02)


def test_components_are_drawn_by_their_probabilities():
    operator = FiniteSumOperator(lambda u: u, lambda u, i: u, 4, 2, 1.0, probabilities=[0.0, 1.0, 0.0, 3.0])
    drawn = np.bincount(operator.draw(np.random.default_rng(0), 20_000), minlength=4) / 20_000
    np.testing.assert_allclose(drawn, [0, 0.25, 0, 0.75], atol=0.02)


@pytest.mark.parametrize("v", [[0.2, 0.3], [5.0, -1.0, 4.5], [1.0, 1.0, 1.0, 1.0], [-3.0], [-1.0, -2.0, -1.5]])
def test_projection_to_the_simplex_is_the_nearest_point(v):
    projected = np.array(v)
    project_to_simplex(projected)
    assert projected.sum() == pytest.approx(1)
    assert (projected >= 0).all()
    # Optimality: the same shift where positive, at least as large a shift elsewhere.
    shift = np.array(v) - projected
    assert np.ptp(shift[projected > 0]) < 1e-12
    assert (shift <= shift[projected > 0].max() + 1e-12).all()


# --- the algorithms ---


def algorithm_one(A, b, u0, eta, batches, steps):
    """Algorithm 1 line by line, each component in a loop; ``batches[k]`` None is a full evaluation."""
    n = len(A)
    component = lambda u, i: (A[i] @ u - b[i]) * A[i]  # noqa: E731
    full = lambda u: sum(component(u, i) for i in range(n)) / n  # noqa: E731
    u, estimate = u0, full(u0)
    for k in range(steps):
        weight = 2 / (k + 4)
        new = weight * u0 + (1 - weight) * u - eta * estimate
        if batches[k] is None:
            estimate = full(new)
        else:
            estimate = estimate + sum(component(new, i) - component(u, i) for i in batches[k]) / len(batches[k])
        u = new
    return u


def test_cocoercive_iteration_is_algorithm_one():
    A, b = regression(25)
    operator = least_squares_operator(A, b)
    u0, steps = np.ones(4), 30
    # The same draws in the same order: a coin for each step, then a batch where it asks for one.
    rng = np.random.default_rng(7)
    batches = []
    for k in range(steps):
        full = rng.random() < 4 / (min(k + 1, 5) + 5)
        batches.append(None if full else rng.integers(25, size=5))
    assert any(batch is None for batch in batches)
    assert any(batch is not None for batch in batches)
    visited = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        halpern_iteration(
            operator, u0, tolerance=1e-12, callback=lambda s: visited.append(s.x), max_oracle_calls=3000, random_state=7
        )
    expected = algorithm_one(A, b, u0, 1 / (4 * operator.lipschitz), batches, steps)
    np.testing.assert_allclose(visited[steps - 1], expected, rtol=1e-10)


def test_compiled_and_plain_inner_loops_take_the_same_steps():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(12, 9))
    operator, project = matrix_game(A)
    u0 = np.r_[np.full(12, 1 / 12), np.full(9, 1 / 9)]
    for resolvent, plain in ((project, lambda v, step: project(v, step)), (None, lambda v, step: v)):
        options = {"max_oracle_calls": 2000, "tolerance": 1e-9, "batch_size": 2, "random_state": 3}
        with pytest.warns(ConvergenceWarning):
            compiled = halpern_iteration(operator, u0, resolvent=resolvent, **options)
        with pytest.warns(ConvergenceWarning):
            twin = halpern_iteration(operator, u0, resolvent=plain, **options)
        np.testing.assert_allclose(compiled.x, twin.x, atol=1e-12)
        assert compiled.nit == twin.nit > 3
        assert compiled.n_oracle_calls - twin.n_oracle_calls in {0, operator.n_components}


def test_outer_loop_anchors_resolvents():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(5, 5))
    operator = bilinear_saddle(A)
    u0 = rng.normal(size=10)
    found = []

    def stop(state):
        found.append(state.x)
        if state.nit == 3:
            raise StopIteration

    with pytest.raises(StopIteration):
        halpern_iteration(operator, u0, step_size=0.7, inner_fraction=1e-9, callback=stop, random_state=0)
    matrix = np.block([[np.zeros((5, 5)), A], [-A.T, np.zeros((5, 5))]])
    u = u0
    for k in range(3):
        # The resolvent of eta F is a linear system.
        resolved = np.linalg.solve(np.eye(10) + 0.7 * matrix, u)
        np.testing.assert_allclose(found[k], resolved, atol=1e-6)
        u = u0 / (k + 2) + (1 - 1 / (k + 2)) * resolved


@pytest.mark.parametrize("sampling", ["independent", "blocks"])
@pytest.mark.parametrize("kind", ["cocoercive", "monotone"])
def test_least_squares_are_solved(kind, sampling):
    A, b = regression()
    result = halpern_iteration(
        least_squares_operator(A, b), np.zeros(4), kind=kind, sampling=sampling, tolerance=2e-3, random_state=0
    )
    assert result.success
    assert np.linalg.norm(A.T @ (A @ result.x - b) / 200) == pytest.approx(result.residual)
    np.testing.assert_allclose(result.x, np.linalg.lstsq(A, b)[0], atol=5e-3)


@pytest.mark.parametrize("method", [halpern_iteration, *DETERMINISTIC])
def test_constraints_are_kept(method):
    A, b = regression()
    options = {"random_state": 0} if method is halpern_iteration else {}
    result = method(
        least_squares_operator(A, b),
        np.zeros(4),
        resolvent=lambda v, step: np.clip(v, -0.05, 0.05),
        tolerance=2e-3,
        **options,
    )
    assert result.success
    np.testing.assert_allclose(result.x, lsq_linear(A, b, (-0.05, 0.05)).x, atol=5e-3)
    # The certificate: g is normal to the box at x.
    np.testing.assert_allclose(np.clip(result.x + result.g, -0.05, 0.05), result.x, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(A.T @ (A @ result.x - b) / 200 + result.g), result.residual, rtol=1e-9)


@pytest.mark.parametrize("method", [halpern_iteration, extragradient, extra_anchored_gradient])
def test_games_reach_their_value(method):
    rng = np.random.default_rng(1)
    A = rng.normal(size=(6, 8))
    operator, resolvent = matrix_game(A)
    options = {"random_state": 0, "inner_power": 0.5} if method is halpern_iteration else {}
    start = np.r_[np.full(6, 1 / 6), np.full(8, 1 / 8)]
    result = method(operator, start, resolvent=resolvent, tolerance=5e-3, max_oracle_calls=10**7, **options)
    assert result.success
    assert 0 <= gap(A, result.x) < 0.02
    assert result.x[:6] @ A @ result.x[6:] == pytest.approx(game_value(A), abs=0.02)


def test_a_saddle_is_where_gradient_steps_spiral_away():
    operator = bilinear_saddle(np.eye(3))
    result = halpern_iteration(operator, np.ones(6), tolerance=1e-2, random_state=0)
    np.testing.assert_allclose(result.x, 0, atol=1e-2)


def test_deterministic_halpern_follows_its_formula():
    A, b = regression()
    operator = least_squares_operator(A, b)
    visited = []
    with pytest.warns(ConvergenceWarning):
        deterministic_halpern(
            operator, np.ones(4), max_oracle_calls=200 * 6, tolerance=1e-12, callback=lambda s: visited.append(s.x)
        )
    u = np.ones(4)
    for k in range(5):
        u = np.ones(4) / (k + 2) + (1 - 1 / (k + 2)) * (u - 2 / operator.full_lipschitz * operator.full(u))
        np.testing.assert_allclose(visited[k], u, rtol=1e-12)


def test_extra_anchored_gradient_follows_its_formula():
    operator, project = matrix_game(np.array([[0.0, 2.0], [1.0, -1.0]]))
    u0, eta, visited = np.array([1.0, 0.0, 1.0, 0.0]), 0.2, []
    with pytest.warns(ConvergenceWarning):
        extra_anchored_gradient(
            operator,
            u0,
            resolvent=project,
            step_size=eta,
            max_oracle_calls=20,
            callback=lambda s: visited.append(s.x),
        )
    u = u0
    for k in range(5):
        pulled = u0 / (k + 2) + (1 - 1 / (k + 2)) * u
        ahead = project(pulled - eta * operator.full(u), eta)
        u = project(pulled - eta * operator.full(ahead), eta)
        np.testing.assert_allclose(visited[k], u, atol=1e-12)


# --- counts, records and ends ---


def test_calls_are_counted():
    seen = {"full": 0, "batch": 0}

    def full(u):
        seen["full"] += 1
        return u

    def batch(u, indices):
        seen["batch"] += len(indices)
        return u

    operator = FiniteSumOperator(full, batch, 50, 2, cocoercivity=1.0)
    result = halpern_iteration(operator, np.ones(2), tolerance=1e-2, random_state=0)
    assert result.n_full_evaluations == seen["full"]
    assert result.n_oracle_calls == 50 * seen["full"] + seen["batch"]
    history = result.history
    assert len(history["residual"]) == seen["full"]
    assert (np.diff(history["oracle_calls"]) > 0).all()
    assert history["oracle_calls"][-1] == result.n_oracle_calls
    assert history["residual"][-1] == result.residual == result.fun <= 1e-2


@pytest.mark.parametrize("kind", ["cocoercive", "monotone"])
def test_a_run_that_is_cut_says_so(kind):
    operator = least_squares_operator(*regression())
    with pytest.warns(ConvergenceWarning, match="not converged: residual .* after"):
        result = halpern_iteration(operator, np.zeros(4), kind=kind, max_oracle_calls=2000, tolerance=1e-9)
    assert not result.success
    # The certificate at the end, and what the last step had begun, go beyond the limit by little.
    assert result.n_oracle_calls <= 2000 + 2 * 200 + 30
    np.testing.assert_allclose(np.linalg.norm(operator.full(result.x)), result.residual)


@pytest.mark.parametrize("kind", ["cocoercive", "monotone"])
def test_same_seed_same_run(kind):
    operator = least_squares_operator(*regression())
    runs = [
        halpern_iteration(operator, np.zeros(4), kind=kind, tolerance=1e-2, random_state=seed) for seed in (5, 5, 6)
    ]
    np.testing.assert_array_equal(runs[0].x, runs[1].x)
    np.testing.assert_array_equal(runs[0].history["residual"], runs[1].history["residual"])
    assert not np.array_equal(runs[0].x, runs[2].x)


def test_a_start_that_solves_it_is_returned():
    operator = least_squares_operator(np.eye(3), np.ones(3))
    for method in (halpern_iteration, *DETERMINISTIC):
        result = method(operator, np.ones(3))
        np.testing.assert_array_equal(result.x, 1)
        assert (result.nit, result.residual) == (0, 0)


def test_single_precision_is_kept():
    A, b = (each.astype(np.float32) for each in regression())
    operator = least_squares_operator(A, b)
    with pytest.warns(UserWarning, match="float32"):
        halpern_iteration(operator, np.zeros(4, np.float32), tolerance=1e-7, max_oracle_calls=400)
    result = halpern_iteration(operator, np.zeros(4, np.float32), tolerance=1e-2, random_state=0)
    assert result.x.dtype == np.float32


def test_one_component():
    operator = FiniteSumOperator(lambda u: u - 1, lambda u, i: u - 1, 1, 2, cocoercivity=1.0)
    np.testing.assert_allclose(halpern_iteration(operator, np.zeros(2), tolerance=1e-3).x, 1, atol=2e-3)


# --- what is refused ---


def test_missing_constants_are_asked_for():
    operator = FiniteSumOperator(lambda u: u, lambda u, i: u, 3, 2)
    with pytest.raises(ValueError, match="lipschitz is needed: pass it or use a helper that knows it"):
        halpern_iteration(operator, np.ones(2))
    with pytest.raises(ValueError, match="lipschitz is needed"):
        extragradient(operator, np.ones(2))
    assert halpern_iteration(operator, np.ones(2), kind="cocoercive", lipschitz=1.0, tolerance=0.1).success


def test_operators_that_are_not_monotone_are_noticed():
    operator = FiniteSumOperator(lambda u: -u, lambda u, i: -u, 3, 2, cocoercivity=1.0)
    with pytest.warns(RuntimeWarning, match="operator is not monotone"), pytest.warns(ConvergenceWarning):
        halpern_iteration(operator, np.ones(2), max_oracle_calls=100, random_state=0)


def test_values_that_are_not_finite_are_named_with_the_iteration():
    count = iter(range(100))
    operator = FiniteSumOperator(lambda u: u if next(count) < 3 else u * np.nan, lambda u, i: u, 3, 2, cocoercivity=1.0)
    with pytest.raises(ValueError, match=r"operator.full returned NaN or infinity at iteration [1-9]"):
        halpern_iteration(operator, np.ones(2), random_state=0)
    with pytest.raises(ValueError, match="inner_step_size is too large"):
        halpern_iteration(bilinear_saddle(np.eye(2)), np.ones(4), inner_step_size=1e308, random_state=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda o: FiniteSumOperator(3, lambda u, i: u, 3, 2), TypeError, "full must be callable, got int"),
        (lambda o: FiniteSumOperator(lambda u: u, None, 3, 2), TypeError, "batch must be callable"),
        (lambda o: FiniteSumOperator(lambda u: u, lambda u, i: u, 0, 2), ValueError, "n_components"),
        (lambda o: FiniteSumOperator(lambda u: u, lambda u, i: u, 3, 2, -1.0), ValueError, "lipschitz"),
        (lambda o: FiniteSumOperator(lambda u: u, lambda u, i: u, 3, 2, probabilities=[1.0]), ValueError, "probab"),
        (lambda o: halpern_iteration(np.eye(2), np.ones(2)), TypeError, "operator must be a FiniteSumOperator"),
        (lambda o: halpern_iteration(o, np.ones(3)), ValueError, "x0 must have 2 entries, got 3"),
        (lambda o: halpern_iteration(o, np.ones(2, int)), TypeError, "x0"),
        (lambda o: halpern_iteration(o, [np.nan, 1.0]), ValueError, "x0"),
        (lambda o: halpern_iteration(o, np.ones(2), resolvent=3), TypeError, "resolvent must be callable"),
        (lambda o: halpern_iteration(o, np.ones(2), resolvent=lambda v, s: v[:1]), ValueError, "resolvent must return"),
        (lambda o: halpern_iteration(o, np.ones(2), kind="convex"), ValueError, "kind must be one of"),
        (lambda o: halpern_iteration(o, np.ones(2), step_size=0.0), ValueError, "step_size"),
        (lambda o: halpern_iteration(o, np.ones(2), tolerance=0.0), ValueError, "tolerance"),
        (lambda o: halpern_iteration(o, np.ones(2), batch_size=0), ValueError, "batch_size"),
        (lambda o: halpern_iteration(o, np.ones(2), max_oracle_calls=0), ValueError, "max_oracle_calls"),
        (lambda o: halpern_iteration(o, np.ones(2), kind="monotone", inner_fraction=0), ValueError, "inner_fraction"),
        (lambda o: halpern_iteration(o, np.ones(2), sampling="rows"), ValueError, "sampling must be one of"),
        (
            lambda o: halpern_iteration(bilinear_saddle(np.eye(2)), np.ones(4), sampling="blocks"),
            ValueError,
            "equal probabilities",
        ),
        (lambda o: extragradient(o, np.ones(2), step_size=-1.0), ValueError, "step_size"),
        (lambda o: least_squares_operator(np.zeros((2, 2)), np.ones(2)), ValueError, "A must not be zero"),
        (lambda o: least_squares_operator(np.eye(2), np.ones(3)), ValueError, "b must have one entry a row"),
        (lambda o: bilinear_saddle(np.zeros((2, 2))), ValueError, "A must not be zero"),
    ],
)
def test_bad_input(call, error, message):
    operator = least_squares_operator(np.eye(2), np.ones(2))
    with pytest.raises(error, match=message):
        call(operator)


# --- the command ---


def test_command_plays_a_game(tmp_path):
    path = tmp_path / "game.csv"
    path.write_text("0,-1,1\n1,0,-1\n-1,1,0\n")
    summary = run(path, out=tmp_path, tolerance=1e-2)
    assert summary["success"]
    assert summary["duality_gap"] < 0.05
    np.testing.assert_allclose(np.load(tmp_path / "solution.npz")["x"], 1 / 3, atol=0.05)
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_command_fits_least_squares(tmp_path):
    A, b = regression()
    np.save(tmp_path / "table.npy", np.c_[A, b])
    run(tmp_path / "table.npy", out=tmp_path, problem="least-squares", tolerance=1e-3)
    np.testing.assert_allclose(np.load(tmp_path / "solution.npz")["u"], np.linalg.lstsq(A, b)[0], atol=3e-3)
    with pytest.raises(ValueError, match="least-squares needs a file"):
        run(out=tmp_path, problem="least-squares")
    np.save(tmp_path / "line.npy", b)
    with pytest.raises(ValueError, match="must hold a matrix"):
        run(tmp_path / "line.npy", out=tmp_path)
