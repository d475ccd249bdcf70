"""Block coordinate descent against brute force, finite differences, closed forms and scikit-learn."""

import itertools
import warnings

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import nnls
from scipy.sparse.linalg import spsolve
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, LogisticRegression

from paperworks.optimization import (
    BlockCoordinateLasso,
    BlockCoordinateLogisticRegression,
    LabelPropagationSolver,
    color_partition,
    forest_block,
    forest_partition,
    least_squares_problem,
    logistic_problem,
    minimize_blocks,
    quadratic_problem,
    softmax_problem,
    solve_forest,
)
from paperworks.optimization.block_coordinate_descent._designs import Penalty, _newton, design_of
from paperworks.optimization.block_coordinate_descent._models import (
    diagonal_step,
    model_step,
    quadratic_program,
    smallest_subgradient,
)
from paperworks.optimization.block_coordinate_descent._selection import FixedBlocks, block_lipschitz, selector
from paperworks.optimization.block_coordinate_descent._updates import updater
from paperworks.papers.block_coordinate_descent.run import run

GREEDY = ["GS", "GSL", "GSD", "GSQ", "gsq-nn"]
RULES = [*GREEDY, "random", "cyclic", "lipschitz"]


def data(n=40, p=12, seed=0, density=0.4):
    rng = np.random.default_rng(seed)
    A = (rng.normal(size=(n, p)) + 0.5) * np.geomspace(0.3, 3, p) * (rng.random((n, p)) < density)
    return A, A @ (rng.normal(size=p) * (rng.random(p) < 0.5)) + rng.normal(size=n), rng


def definite(p=12, seed=0):
    rng = np.random.default_rng(seed)
    B = rng.normal(size=(p, p)) * (rng.random((p, p)) < 0.3)
    return B @ B.T + np.diag(rng.uniform(0.5, 2.0, p)), rng.normal(size=p)


def problem_of(kind, sparse=False, **options):
    A, b, rng = data()
    if kind == "quadratic":
        A, b = definite()
    shaped = sp.csr_array(A) if sparse else A
    if kind == "least squares":
        return least_squares_problem(shaped, b, **options)
    if kind == "quadratic":
        return quadratic_problem(shaped, b, **options)
    if kind == "logistic":
        return logistic_problem(shaped, np.where(b + rng.normal(size=len(b)) > 0, 1, -1), **options)
    return softmax_problem(shaped[:, :4], rng.permutation(np.arange(len(b)) % 3), **options)


def value_of(kind, x):
    """The smooth part as it is written down."""
    A, b, rng = data()
    if kind == "quadratic":
        A, b = definite()
        return 0.5 * x @ A @ x - b @ x
    if kind == "least squares":
        return 0.5 * np.sum((A @ x - b) ** 2)
    if kind == "logistic":
        return np.sum(np.log1p(np.exp(-np.where(b + rng.normal(size=len(b)) > 0, 1, -1) * (A @ x))))
    Z, labels = A[:, :4] @ x.reshape(4, 3), rng.permutation(np.arange(len(b)) % 3)
    return sum(np.log(np.exp(z).sum()) - z[c] for z, c in zip(Z, labels, strict=True))


KINDS = ["least squares", "logistic", "softmax", "quadratic"]


def quiet(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return minimize_blocks(*arguments, **options)


# --- the problems ---


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_values_gradients_and_hessians(kind, sparse):
    problem = problem_of(kind, sparse)
    p = problem.n_variables
    x = np.random.default_rng(1).normal(size=p) * 0.5
    state = problem.start(x)
    assert state.value() == pytest.approx(value_of(kind, x), rel=1e-12)
    e = 1e-6 * np.eye(p)
    slopes = [(value_of(kind, x + d) - value_of(kind, x - d)) / 2e-6 for d in e]
    np.testing.assert_allclose(state.gradient, slopes, atol=1e-6)
    block = np.array([1, 4, 7, 10])
    columns = [(problem.start(x + e[i]).gradient - problem.start(x - e[i]).gradient)[block] / 2e-6 for i in block]
    np.testing.assert_allclose(state.hessian(block), columns, atol=1e-5)
    d = np.array([0.3, -0.2, 0.1, 0.4])
    moved = x.copy()
    moved[block] += d
    assert state.change(block, d) == pytest.approx(value_of(kind, moved) - value_of(kind, x), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_are_above_every_hessian(kind):
    problem = problem_of(kind, sparse=True)
    p, rng = problem.n_variables, np.random.default_rng(2)
    whole = problem.bound(np.arange(p))
    np.testing.assert_allclose(problem.bound_product(v := rng.normal(size=p)), whole @ v, atol=1e-9)
    assert np.linalg.eigvalsh(np.diag(problem.dominating_diagonal) - whole)[0] > -1e-9
    for scale in (0.0, 0.3, 3.0):
        state = problem.start(scale * rng.normal(size=p))
        for block in (np.array([2]), np.array([0, 1, 5, 8]), np.arange(p)):
            bound = problem.bound(block)
            assert np.linalg.eigvalsh(bound - state.hessian(block))[0] > -1e-9
            assert (np.diag(bound) <= problem.lipschitz[block] + 1e-9).all() or kind == "softmax"
    single = [problem.bound(np.array([i]))[0, 0] for i in range(p)]
    np.testing.assert_allclose(problem.lipschitz, single)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_state_is_kept_up_to_date(kind, sparse):
    problem = problem_of(kind, sparse)
    rng = np.random.default_rng(3)
    state = problem.start(np.zeros(problem.n_variables))
    for _ in range(20):
        block = rng.choice(problem.n_variables, 3, replace=False)
        state.move(block, rng.normal(size=3))
    fresh = problem.start(state.x)
    np.testing.assert_allclose(state.gradient, fresh.gradient, atol=1e-9)
    assert state.value() == pytest.approx(fresh.value())


def test_softmax_bound_of_a_block_is_tighter_than_that_of_all_classes():
    problem = problem_of("softmax")
    A = data()[0][:, :2]
    # One class of three, for which the others count as one; all classes at once.
    np.testing.assert_allclose(problem.bound(np.array([0, 3])), 0.25 * A.T @ A)
    classes = 0.5 * (np.eye(3) - 1 / 3)
    np.testing.assert_allclose(problem.bound(np.arange(6)), np.kron(A.T @ A, classes))


# --- the models ---


@pytest.mark.parametrize(("l1", "nonnegative"), [(0.0, False), (0.7, False), (0.7, True), (0.0, True)])
def test_diagonal_step_minimises_its_model(l1, nonnegative):
    problem = problem_of("quadratic", l1=l1, nonnegative=nonnegative)
    rng = np.random.default_rng(0)
    x, G, D = rng.normal(size=12), rng.normal(size=12) * 2, rng.uniform(0.5, 3, 12)
    x = np.maximum(x, 0) if nonnegative else x
    d, decrease = diagonal_step(problem, x, G, D)
    for i in range(12):
        grid = np.append(np.linspace(-6, 6, 240_001), -x[i])
        u = x[i] + grid
        model = G[i] * grid + D[i] * grid**2 / 2 + l1 * (np.abs(u) - abs(x[i]))
        model[(u < 0) & nonnegative] = np.inf
        assert d[i] == pytest.approx(grid[np.argmin(model)], abs=1e-4)
        assert decrease[i] == pytest.approx(-model.min(), abs=1e-6)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_quadratic_program_against_all_sign_patterns(nonnegative):
    for seed in range(8):
        H, q = definite(5, seed)
        best, least = None, np.inf
        for signs in itertools.product((0, 1) if nonnegative else (-1, 0, 1), repeat=5):
            signs = np.array(signs)
            free = np.flatnonzero(signs)
            u = np.zeros(5)
            if len(free):
                u[free] = np.linalg.solve(H[np.ix_(free, free)], 2 * q[free] - 0.6 * signs[free])
            if (u * signs < 0).any():
                continue
            value = 0.5 * u @ H @ u - 2 * q @ u + 0.6 * np.abs(u).sum()
            if value < least:
                best, least = u, value
        found = quadratic_program(H, 2 * q, np.zeros(5), 0.6, nonnegative)
        np.testing.assert_allclose(found, best, atol=1e-12)
        np.testing.assert_array_equal(found == 0, best == 0)


def test_quadratic_program_whose_signs_come_late():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        B = rng.normal(size=(60, 40)) + 5 * rng.normal(size=(60, 1))
        H, q = B.T @ B, B.T @ (B[:, :10] @ rng.random(10) + rng.normal(size=60))
        u = quadratic_program(H, q, np.zeros(40), 3.0, False)
        slope = H @ u - q
        np.testing.assert_allclose(slope[u != 0], -3.0 * np.sign(u[u != 0]), atol=1e-8)
        assert (np.abs(slope[u == 0]) <= 3.0 + 1e-8).all()
        assert (u == 0).any()


def test_columns_of_zeros_are_in_no_block():
    A, blocks = np.eye(8), []
    A[3, 3] = 0.0
    for selection in RULES:
        problem = least_squares_problem(A, np.eye(8)[0], l1=0.1)
        blocks.clear()
        quiet(
            problem,
            np.full(8, 0.5),
            block_size=7,
            selection=selection,
            max_iter=3,
            tol=0.0,
            callback=lambda state: blocks.append(state.block),
            random_state=0,
        )
        assert len(blocks) == 3
        assert all(block.tolist() == [0, 1, 2, 4, 5, 6, 7] for block in blocks)


def test_singular_blocks():
    H = np.ones((3, 3))
    d = model_step(problem_of("quadratic"), H, H @ [1.0, 2.0, 3.0], np.zeros(3))
    np.testing.assert_allclose(H @ d, -H @ [1.0, 2.0, 3.0], rtol=1e-6)
    A, b, _ = data(n=5, p=12, density=1.0)
    result = quiet(least_squares_problem(A, b), block_size=12, max_iter=50)
    np.testing.assert_allclose(A @ result.x, b, atol=1e-5)
    u = quadratic_program(H, H @ [1.0, 0.0, 0.0], np.zeros(3), 0.1, True)
    assert u.sum() == pytest.approx(1 - 0.1)


# --- selection ---


def chosen(problem, partition, selection, size=3, seed=0, x=None):
    rule, fixed = selector(problem, partition, selection, size, np.random.default_rng(seed))
    state = problem.start(np.zeros(problem.n_variables) if x is None else x)
    return rule(state), state, fixed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("selection", ["GS", "GSL", "GSD", "GSQ"])
def test_fixed_greedy_rules_by_their_definition(kind, selection):
    problem = problem_of(kind)
    x = np.random.default_rng(5).normal(size=problem.n_variables) * 0.2
    choice, state, fixed = chosen(problem, "sort", selection, size=5, x=x)
    score = {
        "GS": lambda b: np.linalg.norm(state.gradient[b]),
        "GSL": lambda b: state.gradient[b] @ state.gradient[b] / np.linalg.eigvalsh(problem.bound(b))[-1],
        "GSD": lambda b: np.sum(state.gradient[b] ** 2 / problem.dominating_diagonal[b]),
        "GSQ": lambda b: state.gradient[b] @ np.linalg.solve(problem.bound(b), state.gradient[b]),
    }[selection]
    assert choice.number == max(range(len(fixed.blocks)), key=lambda k: score(fixed.blocks[k]))


@pytest.mark.parametrize("selection", ["GS", "GSL", "GSD", "gsq-nn"])
def test_variable_greedy_rules_by_their_definition(selection):
    problem = problem_of("least squares")
    choice, state, _ = chosen(problem, "variable", selection, size=4)
    D = {"GS": 1.0, "GSD": problem.dominating_diagonal}.get(selection, problem.lipschitz)
    wanted = np.argsort(-np.abs(state.gradient) / np.sqrt(D))[:4]
    np.testing.assert_array_equal(choice.block, np.sort(wanted))


@pytest.mark.parametrize("nonnegative", [False, True])
def test_greedy_rules_score_the_penalty_too(nonnegative):
    problem = problem_of("least squares", l1=2.0, nonnegative=nonnegative)
    x = np.maximum(np.random.default_rng(0).normal(size=12), 0)
    choice, state, _ = chosen(problem, "variable", "gsq-nn", size=2, x=x)
    L, G = problem.lipschitz, state.gradient
    t = np.linspace(-8, 8, 16_001)
    scores = []
    for i in range(12):
        u = x[i] + t
        model = G[i] * t + L[i] * t * t / 2 + 2.0 * (np.abs(u) - x[i])
        scores.append(model[(u >= 0) | (not nonnegative)].min())
    np.testing.assert_array_equal(choice.block, np.sort(np.argsort(scores)[:2]))


def test_iterative_hard_thresholding_does_no_worse_than_where_it_starts():
    better = 0
    for seed in range(20):
        A, b, _ = data(n=60, p=20, seed=seed)
        problem = least_squares_problem(A, b)
        values = []
        for selection in ("GSQ", "GSL"):
            choice, state, _ = chosen(problem, "variable", selection, size=4)
            G = state.gradient[choice.block]
            values.append(G @ np.linalg.solve(problem.bound(choice.block), G))
        assert values[0] >= values[1] * (1 - 0.1)
        better += values[0] > values[1] * (1 + 1e-9)
    assert better >= 3


def test_blocks_by_chance():
    problem = problem_of("least squares")
    for partition in ("variable", "order"):
        rule, _ = selector(problem, partition, "cyclic", 5, np.random.default_rng(0))
        state = problem.start(np.zeros(12))
        blocks = [rule(state).block for _ in range(6)]
        for turn in (blocks[:3], blocks[3:]):
            np.testing.assert_array_equal(np.sort(np.concatenate(turn)), np.arange(12))
        same = all(np.array_equal(a, b) for a, b in zip(blocks[:3], blocks[3:], strict=True))
        assert same == (partition == "order")
    counts = {}
    for selection in ("lipschitz", "random"):
        rule, fixed = selector(problem, "order", selection, 5, np.random.default_rng(0))
        counts[selection] = np.bincount([rule(state).number for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(counts["random"], 1 / 3, atol=0.03)
    np.testing.assert_allclose(counts["lipschitz"], fixed.lipschitz / fixed.lipschitz.sum(), atol=0.03)


def test_partitions():
    A, b, _ = data(p=11, density=1.0)
    A[:, 3] = 0.0
    problem = least_squares_problem(A, b)
    L, kept = problem.lipschitz, np.delete(np.arange(11), 3)
    for partition in ("sort", "order", "average", "random"):
        _, fixed = selector(problem, partition, "cyclic", 4, np.random.default_rng(0))
        assert [len(block) for block in fixed.blocks] == [4, 4, 2]
        np.testing.assert_array_equal(np.sort(fixed.members), kept)
        if partition == "sort":
            for first, second in itertools.pairwise(fixed.blocks):
                assert L[first].max() <= L[second].min()
        if partition == "average":
            smallest, largest = np.argsort(L[kept]), np.argsort(-L[kept])
            assert set(fixed.blocks[0]) == {*kept[smallest[:2]], *kept[largest[:2]]}
        if partition == "order":
            np.testing.assert_array_equal(fixed.blocks[0], [0, 1, 2, 4])
    result = minimize_blocks(problem, selection="GSQ", block_size=3, tol=1e-10)
    assert result.x[3] == 0
    np.testing.assert_allclose(A.T @ (A @ result.x - b), 0, atol=1e-7)


# --- updates ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"l1": 0.5}, {"l1": 0.5, "nonnegative": True}])
@pytest.mark.parametrize("update", ["gradient", "matrix", "newton"])
def test_progress_is_what_theory_promises(kind, options, update):
    problem = problem_of(kind, **options)
    x = np.abs(np.random.default_rng(0).normal(size=problem.n_variables)) * 0.3
    state, block = problem.start(x), np.array([0, 3, 5, 9])
    step = updater(problem, update, False, None)(state, type("C", (), {"block": block, "number": None})())
    if update == "newton" and kind in {"logistic", "softmax"}:
        promised = 0.0
    else:
        L = np.linalg.eigvalsh(problem.bound(block))[-1]
        promised = diagonal_step(problem, x[block], state.gradient[block], L)[1].sum()
    gained = problem.l1 * (np.abs(x[block] + step).sum() - np.abs(x[block]).sum())
    assert -(state.change(block, step) + gained) >= promised * (1 - 1e-9)
    assert -(state.change(block, step) + gained) > 0
    assert not problem.nonnegative or (x[block] + step >= 0).all()


def test_exact_update_is_the_minimum_over_the_block():
    problem = problem_of("least squares")
    A, b, _ = data()
    result = quiet(problem, block_size=4, update="exact", max_iter=1)
    block = np.flatnonzero(result.x)
    np.testing.assert_allclose(result.x[block], np.linalg.lstsq(A[:, block], b, rcond=None)[0], rtol=1e-9)
    assert result.nit == 1
    assert result.n_coordinate_updates == 4
    assert result.fun == pytest.approx(0.5 * np.sum((A @ result.x - b) ** 2))


def test_gradient_update_of_variable_blocks_uses_the_block_constant():
    A = np.ones((4, 3)) + 0.01 * np.eye(4, 3)
    result = quiet(least_squares_problem(A, np.ones(4)), block_size=3, update="gradient", max_iter=1)
    np.testing.assert_allclose(result.x, A.T @ np.ones(4) / np.linalg.norm(A, 2) ** 2)


def test_line_search_finds_constants_by_doubling():
    for kind in KINDS:
        problem = problem_of(kind, l1=0.2)
        result = minimize_blocks(problem, update="gradient", line_search=True, max_iter=20_000, tol=1e-5)
        assert (np.diff(result.history["fun"]) <= 1e-9).all()
        assert result.optimality <= 1e-5 * np.abs(problem.start(np.zeros(problem.n_variables)).gradient).max()


def test_constants_of_the_line_search_are_kept():
    # The curvature is 4 at the start and less beyond, where 4 is kept nevertheless.
    problem = logistic_problem(np.array([[4.0]]), [1])
    x, path = 0.0, []
    for _ in range(3):
        x += 4 / (1 + np.exp(4 * x)) / 4
        path.append(x)
    seen = []
    quiet(
        problem, block_size=1, update="gradient", line_search=True, max_iter=3, callback=lambda s: seen.append(s.x[0])
    )
    np.testing.assert_allclose(seen, path)


def test_newton_ends_quadratically_and_survives_far_starts():
    problem = problem_of("logistic", l1=0.3)
    result = minimize_blocks(problem, block_size=12, update="newton", tol=1e-12)
    assert result.nit <= 10
    values = result.history["optimality"]
    assert values[-1] <= 1e-10 * values[0]
    far = minimize_blocks(problem, np.full(12, 30.0), block_size=12, update="newton", tol=1e-10)
    np.testing.assert_allclose(far.x, result.x, atol=1e-7)
    assert (np.diff(far.history["fun"]) <= 1e-9).all()


def nonnegative_data():
    A, _, rng = data()
    return A, A @ rng.normal(size=12) + 3 * rng.normal(size=40)


@pytest.mark.parametrize("update", ["two_metric", "quadratic_program", "newton", "exact", "gradient"])
def test_nonnegative_least_squares(update):
    A, b = nonnegative_data()
    problem = least_squares_problem(sp.csc_array(A), b, nonnegative=True)
    result = minimize_blocks(problem, block_size=12, update=update, max_iter=20_000, tol=1e-9)
    np.testing.assert_allclose(result.x, nnls(A, b)[0], atol=1e-6)
    np.testing.assert_array_equal(result.x == 0, nnls(A, b)[0] == 0)
    assert 0 < np.count_nonzero(result.x) < 12
    assert update == "gradient" or result.nit <= 15


def test_two_metric_projection_is_newton_on_what_is_free():
    A, b = nonnegative_data()
    solution = nnls(A, b)[0]
    x = np.where(solution > 0, solution * 1.1, 0.0)
    problem = least_squares_problem(A, b, nonnegative=True)
    assert (problem.start(x).gradient[solution == 0] > 0).any()
    result = quiet(problem, x, block_size=12, partition="order", selection="cyclic", update="two_metric", max_iter=1)
    held = (x == 0) & (problem.start(x).gradient > 0)
    expected = np.zeros(12)
    expected[~held] = np.linalg.lstsq(A[:, ~held], b, rcond=None)[0]
    assert (expected >= 0).all()
    np.testing.assert_allclose(result.x, expected, atol=1e-10)


# --- the solver ---


@pytest.mark.parametrize("partition", ["variable", "sort", "average", "random"])
@pytest.mark.parametrize("selection", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_combination_reaches_the_minimum(kind, selection, partition):
    problem = problem_of(kind, sparse=True, l1=0.4)
    result = minimize_blocks(
        problem, block_size=4, partition=partition, selection=selection, max_iter=4000, tol=1e-7, random_state=0
    )
    assert result.success
    reference = minimize_blocks(problem, block_size=problem.n_variables, update="newton", tol=1e-12)
    assert result.fun == pytest.approx(reference.fun, rel=1e-9)
    fresh = problem.start(result.x)
    assert np.abs(smallest_subgradient(problem, result.x, fresh.gradient)).max() <= 1.001 * result.optimality + 1e-12


def test_against_scikit_learn():
    A, b, rng = data(n=80, p=30)
    b += A @ rng.random(30)
    for positive in (False, True):
        result = minimize_blocks(
            least_squares_problem(A, b, l1=20.0, nonnegative=positive), block_size=8, selection="gsq-nn", tol=1e-12
        )
        model = Lasso(20.0 / 80, fit_intercept=False, positive=positive, tol=1e-14, max_iter=100_000).fit(A, b)
        np.testing.assert_allclose(result.x, model.coef_, atol=1e-8)
        assert 0 < np.count_nonzero(result.x) < 30
    y = np.where(b > 0, 1, -1)
    model = LogisticRegression(l1_ratio=1, C=0.5, solver="liblinear", fit_intercept=False, tol=1e-10, max_iter=10_000)
    result = minimize_blocks(logistic_problem(A, y, l1=2.0), block_size=8, update="newton", tol=1e-10)
    np.testing.assert_allclose(result.x, model.fit(A, y).coef_[0], atol=1e-4)


def test_finite_end_once_the_block_holds_the_support():
    rng = np.random.default_rng(0)
    A, w = rng.normal(size=(60, 200)), np.zeros(200)
    w[:10] = rng.uniform(1, 2, 10)
    b = A @ w + 0.1 * rng.normal(size=60)
    problem = least_squares_problem(A, b, l1=0.2 * np.abs(A.T @ b).max(), nonnegative=True)
    result = minimize_blocks(problem, block_size=25, selection="gsq-nn", update="quadratic_program", tol=1e-13)
    assert result.nit <= 8
    history = result.active_set_history
    assert len(history) == result.nit + 1
    assert np.array_equal(history[-1], np.flatnonzero(result.x))
    slow = quiet(problem, block_size=25, selection="gsq-nn", update="gradient", tol=1e-13, max_iter=result.nit)
    assert slow.fun - result.fun > 1e-6 * result.fun
    # A block smaller than the support can't end it so soon.
    small = quiet(problem, block_size=3, selection="gsq-nn", update="quadratic_program", tol=1e-13, max_iter=result.nit)
    assert small.fun - result.fun > 1e-6 * result.fun


def test_greedy_rules_make_more_progress_than_gauss_southwell_and_chance():
    A, b, _ = data(n=100, p=300, density=0.3)
    problem = least_squares_problem(sp.csr_array(A * np.random.default_rng(1).normal(size=300)), b)
    ends = {
        (selection, update): quiet(
            problem, selection=selection, update=update, max_iter=60, tol=0.0, random_state=0
        ).fun
        for selection in ("GSL", "GS", "random")
        for update in ("gradient", "matrix")
    }
    for update in ("gradient", "matrix"):
        assert ends["GSL", update] < ends["GS", update] < ends["random", update]
    assert ends["GSL", "matrix"] < 0.5 * ends["GSL", "gradient"]


def test_same_seed_same_path_and_start_is_kept():
    problem = problem_of("softmax", l1=0.1)
    paths = [
        quiet(problem, selection="random", max_iter=30, random_state=np.random.default_rng(4)).history["fun"]
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*paths)
    x0 = np.full(problem.n_variables, 0.1)
    quiet(problem, x0, max_iter=3)
    assert (x0 == 0.1).all()


def test_callback_and_history():
    problem, seen = problem_of("least squares"), []

    def stop_at_four(state):
        seen.append(state)
        if state.nit == 4:
            raise StopIteration

    result = minimize_blocks(problem, block_size=2, callback=stop_at_four)
    assert (result.status, result.nit, result.success) == (2, 4, False)
    assert [each.fun for each in seen] == result.history["fun"][1:].tolist()
    assert [len(each.block) for each in seen] == [2, 2, 2, 2]
    assert result.history["n_coordinate_updates"].tolist() == [0, 2, 4, 6, 8]
    with pytest.warns(ConvergenceWarning, match="max_iter=3"):
        assert minimize_blocks(problem, block_size=1, max_iter=3).status == 1


def test_predictions_that_overflow_an_exponential():
    A = np.array([[800.0], [-900.0], [1000.0]])
    problem = logistic_problem(A, [1, -1, -1], l1=1.0)
    state = problem.start(np.array([5.0]))
    assert state.value() == pytest.approx(5000.0)
    assert np.isfinite(state.gradient).all()
    assert minimize_blocks(problem, update="newton", block_size=1).success


# --- forests ---


def random_graph(n=40, edges=90, seed=0):
    graph = nx.gnm_random_graph(n, edges, seed=seed)
    return graph, sp.csr_array(nx.to_scipy_sparse_array(graph, dtype=float))


def test_greedy_forest_is_what_a_slow_walk_finds():
    for seed in range(20):
        graph, A = random_graph(seed=seed)
        scores = np.random.default_rng(seed).random(40)
        taken = []
        for i in np.argsort(-scores):
            if nx.is_forest(graph.subgraph([*taken, i])):
                taken.append(int(i))
        block = forest_block(A, scores)
        assert block.tolist() == sorted(taken)
        assert nx.number_of_edges(graph.subgraph(block)) > 0
        np.testing.assert_array_equal(forest_block(-A + 5 * sp.eye_array(40), scores), block)


def test_partitions_of_graphs():
    for seed in range(5):
        graph, A = random_graph(seed=seed)
        for blocks, fits in (
            (forest_partition(A), nx.is_forest),
            (color_partition(A), lambda part: part.number_of_edges() == 0),
        ):
            np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(40))
            assert all(fits(graph.subgraph(block.tolist())) for block in blocks)
        assert len(color_partition(A)) <= max(dict(graph.degree).values()) + 1
        assert len(forest_partition(A)) < len(color_partition(A))
    lattice = nx.convert_node_labels_to_integers(nx.grid_2d_graph(6, 7))
    assert [len(block) for block in color_partition(lattice)] == [21, 21]
    assert len(forest_partition(lattice)) <= 3
    heavy = sp.csr_array(nx.to_scipy_sparse_array(nx.complete_graph(4), dtype=float) + np.diag([1.0, 2.0, 4.0, 3.0]))
    assert [block.tolist() for block in forest_partition(heavy)] == [[2, 3], [0, 1]]


def tree_system(n, seed=0, trees=3):
    rng = np.random.default_rng(seed)
    relabel = rng.permutation(n)
    parents = np.array([int(rng.integers(0, i)) for i in range(1, n)])
    children = np.arange(1, n)
    kept = ~np.isin(children, rng.choice(children, trees - 1, replace=False))
    rows, columns = relabel[children[kept]], relabel[parents[kept]]
    off = sp.coo_array((rng.normal(size=len(rows)), (rows, columns)), shape=(n, n)).tocsr()
    off = off + off.T
    return sp.csr_array(off + sp.diags_array(np.asarray(abs(off).sum(axis=0)) + rng.uniform(0.1, 1, n))), rng


def test_message_passing_solves_forests():
    for seed in range(5):
        A, rng = tree_system(50, seed)
        for b in (rng.normal(size=50), rng.normal(size=(50, 3))):
            np.testing.assert_allclose(solve_forest(A, b), np.linalg.solve(A.toarray(), b), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(solve_forest(A.tocsc(), b), solve_forest(A.tocoo(), b))
    A, rng = tree_system(200_000, trees=10)
    b = rng.normal(size=200_000)
    np.testing.assert_allclose(A @ solve_forest(A, b), b, atol=1e-9)


def test_what_is_no_forest_is_named():
    A, _ = tree_system(12, trees=1)
    b = np.ones(12)
    cyclic = A.tolil()
    absent = next((i, j) for i in range(12) for j in range(i) if A[i, j] == 0)
    cyclic[absent] = cyclic[absent[::-1]] = 1.0
    with pytest.raises(ValueError, match=r"not a forest: the edge \(\d+, \d+\) closes a cycle") as error:
        solve_forest(cyclic.tocsr(), b)
    i, j = (int(each) for each in str(error.value).split("(")[1].split(")")[0].split(","))
    graph = nx.Graph(cyclic.toarray() != 0)
    assert any({i, j} <= set(cycle) for cycle in nx.cycle_basis(graph))
    lopsided, missing = A.tolil(), A.tolil()
    i, j = next((i, j) for i in range(12) for j in range(i) if A[i, j] != 0)
    lopsided[i, j] = 7.0
    missing[i, j] = 0.0
    for wrong in (lopsided, missing):
        with pytest.raises(ValueError, match="A must be symmetric"):
            solve_forest(wrong.tocsr(), b)
    laplacian = sp.csr_array(sp.diags_array([1.0, 2.0, 1.0]) - nx.to_scipy_sparse_array(nx.path_graph(3)))
    with pytest.raises(ValueError, match="positive definite"):
        solve_forest(laplacian, np.ones(3))


def lattice_system(side=30, seed=0, labelled=40):
    rng = np.random.default_rng(seed)
    W = sp.csr_array(nx.to_scipy_sparse_array(nx.grid_2d_graph(side, side), dtype=float))
    known = rng.choice(side * side, labelled, replace=False)
    y = np.full(side * side, -1)
    y[known] = rng.permutation(np.arange(labelled) % 3)
    free = np.flatnonzero(y < 0)
    L = sp.csr_array(sp.diags_array(W.sum(axis=0)) - W)
    return W, y, L[free][:, free], W[free][:, known] @ rng.normal(size=labelled), free


@pytest.mark.parametrize("sparse", [True, False])
def test_forest_blocks_of_quadratics(sparse):
    _, _, A, b, _ = lattice_system()
    exact = spsolve(A.tocsc(), b)
    problem = quadratic_problem(A if sparse else A.toarray(), b)
    first = quiet(problem, partition="forest", selection="GS", update="exact", max_iter=1)
    assert 0.55 < first.n_coordinate_updates / len(b) < 0.75
    block = np.flatnonzero(first.x)
    np.testing.assert_allclose((A @ first.x - b)[block], 0, atol=1e-9)
    gaps = {}
    rules = {
        "greedy": {"partition": "forest", "selection": "GS"},
        "chance": {"partition": "forest", "selection": "random"},
    }
    rules |= {"colours": {"partition": color_partition(A), "selection": "cyclic"}}
    rules |= {"trees": {"partition": forest_partition(A), "selection": "cyclic"}}
    for name, options in rules.items():
        result = quiet(problem, update="exact", max_iter=60, tol=0.0, random_state=0, **options)
        gaps[name] = result.fun + 0.5 * b @ exact
    assert gaps["greedy"] < 0.5 * gaps["chance"]
    assert gaps["greedy"] < 0.2 * gaps["colours"]
    assert gaps["trees"] < gaps["colours"]
    # A block with cycles is factorised.
    whole = minimize_blocks(problem, block_size=len(b), update="exact", tol=1e-10)
    np.testing.assert_allclose(whole.x, exact, rtol=1e-8, atol=1e-10)
    assert whole.nit <= 2


# --- the estimators ---


def primal_and_gap(X, y, w, c, alpha, positive=False, intercept=True):
    n = len(y)
    r = y - X @ w - c
    yc = y - y.mean() if intercept else y
    slopes = X.T @ r
    reach = slopes.max() if positive else np.abs(slopes).max()
    scale = min(1.0, n * alpha / reach)
    primal = 0.5 * r @ r + n * alpha * np.abs(w).sum()
    return primal / n, (primal - (scale * yc @ r - 0.5 * scale**2 * r @ r)) / n


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("positive", [False, True])
def test_lasso_against_scikit_learn(sparse, intercept, positive):
    A, b, _ = data(n=60, p=300, density=0.2)
    A, b = A + 0.3 * (A != 0), b + 4.0
    A[:, 7] = 0.0
    A[:, 8] = 2.0
    X = sp.csc_array(A) if sparse else A
    for alpha in (0.05, 0.5):
        model = BlockCoordinateLasso(alpha, fit_intercept=intercept, positive=positive, tol=1e-12).fit(X, b)
        peer = Lasso(alpha, fit_intercept=intercept, positive=positive, tol=1e-13, max_iter=200_000).fit(A, b)
        primal, gap = primal_and_gap(A, b, model.coef_, model.intercept_, alpha, positive, intercept)
        assert gap <= 2e-12 * b @ b / 120
        assert model.dual_gap_ == pytest.approx(gap, abs=1e-11)
        assert primal <= primal_and_gap(A, b, peer.coef_, peer.intercept_, alpha)[0] * (1 + 1e-10)
        np.testing.assert_allclose(model.predict(X), peer.predict(A), atol=2e-5)
        assert model.coef_[7] == 0
        assert np.count_nonzero(model.coef_) > 3
        assert not intercept or model.coef_[8] == 0


@pytest.mark.parametrize("sparse", [False, True])
def test_newton_step_over_the_support_leaves_no_slope_there(sparse):
    A, b, rng = data(n=60, p=30)
    A, h = A + 0.7 * (A != 0), rng.uniform(0.95, 1.05, 60)
    design = design_of(sp.csc_array(A) if sparse else A)
    block, penalty = np.arange(5, 25), Penalty(1e-3, 0.2)
    w = np.zeros(30)
    w[[6, 9, 20]] = np.linalg.lstsq(np.c_[A[:, [6, 9, 20]], np.ones(60)], b, rcond=None)[0][:3]
    signs = np.sign(w)
    v = h * (A @ w - b)
    sums, total = h @ A[:, block], h.sum()
    offset = _newton(design, block, w, h, v, sums, total, -v.sum() / total, penalty)
    np.testing.assert_array_equal(np.sign(w), signs)
    np.testing.assert_allclose(v, h * (A @ w - b), atol=1e-9)
    slopes = h * (A @ w - b + offset)
    assert slopes.sum() == pytest.approx(0, abs=1e-8)
    on = np.flatnonzero(w)
    np.testing.assert_allclose(A[:, on].T @ slopes + 0.2 * w[on] + 1e-3 * signs[on], 0, atol=1e-8)


def test_lasso_of_many_sparse_columns_leaves_its_input_alone():
    rng = np.random.default_rng(0)
    X = sp.csc_array(sp.random_array((200, 5000), density=0.02, rng=rng, format="csc"))
    y = X[:, :30] @ rng.normal(size=30) + 1.0
    before = X.copy()
    model = BlockCoordinateLasso(1e-4, tol=1e-10).fit(X, y)
    np.testing.assert_array_equal(X.data, before.data)
    assert primal_and_gap(X, y, model.coef_, model.intercept_, 1e-4)[1] <= 1e-10 * np.sum((y - y.mean()) ** 2) / 400
    history = model.history_
    assert (len(history["dual_gap"]), history["n_nonzero"][-1]) == (model.n_iter_ + 1, np.count_nonzero(model.coef_))
    assert (np.diff(history["passes"]) > 1).all()
    warm = BlockCoordinateLasso(1e-4, tol=1e-10, warm_start=True).fit(X, y)
    assert warm.fit(X, y).n_iter_ == 0


def test_lasso_says_when_it_has_not_converged_and_prints(capsys):
    A, b, _ = data(n=60, p=300)
    with pytest.warns(ConvergenceWarning, match="duality gap"):
        model = BlockCoordinateLasso(0.01, max_iter=1, tol=1e-12, verbose=True).fit(A, b)
    assert model.n_iter_ == 1
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("kind", ["lasso", "logistic", "labels"])
def test_an_interrupt_keeps_what_is_complete(kind, monkeypatch):
    A, b, _ = data(n=60, p=300)
    W, y, *_ = lattice_system()
    package = "paperworks.optimization.block_coordinate_descent"
    calls = iter(range(100))
    if kind == "labels":
        target, model = f"{package}._label_propagation.greedy_forest", LabelPropagationSolver(tol=1e-12)
        arguments = W, y
    else:
        target = f"{package}._{kind}.working_set"
        model = (BlockCoordinateLasso if kind == "lasso" else BlockCoordinateLogisticRegression)(0.01, tol=1e-12)
        arguments = A, b if kind == "lasso" else b > 0
    module, name = target.rsplit(".", 1)
    import importlib

    original = getattr(importlib.import_module(module), name)

    def interrupted(*inner):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return original(*inner)

    monkeypatch.setattr(target, interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*arguments)
    assert model.n_iter_ == 2
    assert len(next(iter(model.history_.values()))) == 3
    assert np.isfinite(model.label_distributions_ if kind == "labels" else model.predict(A)).all()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(("l1_ratio", "positive"), [(1.0, False), (0.5, False), (1.0, True), (0.0, False)])
def test_logistic_regression_is_stationary(sparse, intercept, l1_ratio, positive):
    A, b, rng = data(n=120, p=250, density=0.2)
    y = np.where(b + rng.normal(size=120) > 0.3, "yes", "no")
    X = sp.csr_array(A) if sparse else A
    model = BlockCoordinateLogisticRegression(
        0.01, l1_ratio=l1_ratio, fit_intercept=intercept, positive=positive, tol=1e-9
    ).fit(X, y)
    w, c, s = model.coef_[0], model.intercept_[0], np.where(y == "yes", 1, -1)
    slopes = -s / (1 + np.exp(s * (A @ w + c))) / 120
    G, l1 = A.T @ slopes + 0.01 * (1 - l1_ratio) * w, 0.01 * l1_ratio
    scale = np.abs(A.T @ ((y == "yes") - ((y == "yes").mean() if intercept else 0.5))).max() / 120
    at_zero = G + l1 >= -1e-9 * scale if positive else np.abs(G) <= l1 + 1e-9 * scale
    assert np.where(w == 0, at_zero, np.abs(G + l1 * np.sign(w)) <= 1e-9 * scale).all()
    assert abs(slopes.sum()) <= 1e-9 * scale if intercept else c == 0
    assert not positive or (w >= 0).all()
    assert np.count_nonzero(w) > 3
    np.testing.assert_array_equal(model.predict(X), np.where(model.decision_function(X) > 0, "yes", "no"))
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 1 / (1 + np.exp(-(A @ w + c))))


def test_logistic_regression_against_liblinear():
    A, b, rng = data(n=120, p=60)
    y = np.where(b + rng.normal(size=120) > 0, 1, -1)
    model = BlockCoordinateLogisticRegression(1 / 120, fit_intercept=False, tol=1e-10).fit(A, y)
    peer = LogisticRegression(l1_ratio=1, C=1.0, solver="liblinear", fit_intercept=False, tol=1e-10, max_iter=10_000)
    np.testing.assert_allclose(model.coef_, peer.fit(A, y).coef_, atol=1e-4)
    with pytest.warns(ConvergenceWarning, match="subgradient"):
        BlockCoordinateLogisticRegression(1e-4, max_iter=1, tol=1e-12).fit(A, y)


@pytest.mark.parametrize("momentum", [True, False])
def test_labels_are_harmonic(momentum):
    W, y, A, _, free = lattice_system()
    model = LabelPropagationSolver(momentum=momentum, tol=1e-9).fit(W, y)
    F = model.label_distributions_
    known = np.flatnonzero(y >= 0)
    for c in range(3):
        exact = spsolve(A.tocsc(), W[free][:, known] @ (y[known] == c).astype(float))
        np.testing.assert_allclose(F[free, c], exact, atol=1e-6)
    np.testing.assert_array_equal(F[known], np.eye(3)[y[known]])
    means = (W @ F)[free] / W.sum(axis=1)[free, None]
    assert np.abs(means - F[free]).max() == pytest.approx(model.violation_, abs=1e-12)
    np.testing.assert_array_equal(model.transduction_[known], y[known])
    np.testing.assert_allclose(model.predict_proba(W)[free], means)
    assert (np.diff(model.history_["passes"]) < 0.75).all()


def test_momentum_saves_forests():
    W, y, *_ = lattice_system()
    plain, quick = (LabelPropagationSolver(momentum=momentum).fit(W, y).n_iter_ for momentum in (False, True))
    assert quick < 0.5 * plain


def test_labels_on_networkx_and_out_of_reach():
    graph = nx.Graph([("a", "b", {"weight": 3.0}), ("b", "c"), ("d", "e")])
    with pytest.warns(UserWarning, match="2 nodes are not connected"):
        model = LabelPropagationSolver().fit(graph, [5, -1, 9, -1, -1])
    np.testing.assert_allclose(model.label_distributions_[1], [0.75, 0.25])
    assert model.transduction_.tolist() == [5, 5, 9, -1, -1]
    with pytest.raises(ValueError, match="no label"):
        LabelPropagationSolver().fit(graph, [-1] * 5)
    with pytest.warns(ConvergenceWarning, match="forests"):
        LabelPropagationSolver(max_iter=1, tol=1e-12).fit(*lattice_system()[:2])


# --- bad input ---

A, B, _ = data()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: least_squares_problem(A, B[:-1]), ValueError, "b must have length 40"),
        (lambda: least_squares_problem(sp.csr_array((A > 0).astype(int)), B), TypeError, "A must hold floating"),
        (lambda: least_squares_problem(sp.csr_array(np.where(A > 4, np.nan, A)), B), ValueError, "A contains NaN"),
        (lambda: least_squares_problem(A, B, l1=-1.0), ValueError, "l1 must be"),
        (lambda: logistic_problem(A, np.arange(40) % 2), ValueError, r"classes -1 and 1, got \[0, 1\]"),
        (lambda: softmax_problem(A, np.arange(40) % 2 + 1), ValueError, r"0, 1, ..., k - 1.*got \[1, 2\]"),
        (lambda: softmax_problem(A, np.zeros(40)), ValueError, "k - 1"),
        (lambda: quadratic_problem(np.triu(np.ones((3, 3))), np.ones(3)), ValueError, "A must be symmetric"),
        (lambda: quadratic_problem(sp.csr_array(np.triu(np.ones((3, 3)))), np.ones(3)), ValueError, "symmetric"),
        (lambda: quadratic_problem(np.ones((3, 2)), np.ones(3)), ValueError, "A must be square"),
        (lambda: quadratic_problem(-np.eye(2), np.ones(2)), ValueError, r"semidefinite.*A\[0, 0\] = -1"),
        (lambda: minimize_blocks(quadratic_problem(np.array([[1.0, 2], [2, 1]]), np.ones(2)), block_size=2), ValueError,
         "positive semidefinite"),
        (lambda: minimize_blocks("problem"), TypeError, "least_squares_problem"),
        (lambda: minimize_blocks(problem_of("logistic"), block_size=0), ValueError, "block_size must be at least 1"),
        (lambda: minimize_blocks(problem_of("logistic"), selection="greedy"), ValueError, "'GSQ', 'gsq-nn'.*'greedy'"),
        (lambda: minimize_blocks(problem_of("logistic"), update="magic"), ValueError, "'two_metric'.*got 'magic'"),
        (lambda: minimize_blocks(problem_of("logistic"), partition="halves"), ValueError, "'average'.*got 'halves'"),
        (lambda: minimize_blocks(problem_of("logistic"), partition=[[0, 1], [1, 2]]), ValueError, "variable 1 2 times"),
        (lambda: minimize_blocks(problem_of("logistic"), partition=[[0, 12]]), ValueError, r"in 0..11, got 0..12"),
        (lambda: minimize_blocks(problem_of("logistic"), partition=[[]]), ValueError, "none of them empty"),
        (lambda: minimize_blocks(problem_of("logistic"), partition="forest"), ValueError, "needs a quadratic_problem"),
        (lambda: minimize_blocks(problem_of("quadratic"), partition="forest", selection="GSQ"), ValueError, "'GSQ'"),
        (lambda: minimize_blocks(problem_of("logistic"), update="exact"), ValueError, "take 'newton' or 'matrix'"),
        (lambda: minimize_blocks(problem_of("logistic"), update="two_metric"), ValueError, "nonnegative=True"),
        (lambda: minimize_blocks(problem_of("logistic"), update="quadratic_program"), ValueError, "take 'matrix'"),
        (lambda: minimize_blocks(problem_of("logistic"), line_search=True), ValueError, "for update='gradient'"),
        (lambda: minimize_blocks(problem_of("logistic"), np.ones(3)), ValueError, "x0 must have length 12"),
        (lambda: minimize_blocks(problem_of("logistic", nonnegative=True), -np.ones(12)), ValueError, "be negative"),
        (lambda: minimize_blocks(problem_of("logistic"), callback=3), TypeError, "callback must be callable"),
        (lambda: forest_block(sp.eye_array(3), [1.0, np.nan, 2.0]), ValueError, "scores contains NaN"),
        (lambda: forest_block(sp.eye_array(3), [1.0]), ValueError, "scores must have length 3"),
        (lambda: forest_partition(sp.csr_array(np.triu(np.ones((3, 3))))), ValueError, "A must be symmetric"),
        (lambda: color_partition(np.ones((2, 3))), ValueError, "A must be a square"),
        (lambda: solve_forest(sp.eye_array(3), np.ones(2)), ValueError, "b must have length 3"),
        (lambda: solve_forest(sp.csr_array(np.ones((2, 3))), np.ones(2)), ValueError, "A must be square"),
        (lambda: BlockCoordinateLasso(-1.0).fit(A, B), ValueError, "alpha must be"),
        (lambda: BlockCoordinateLogisticRegression(l1_ratio=2.0).fit(A, B > 0), ValueError, "l1_ratio must be"),
        (lambda: BlockCoordinateLogisticRegression().fit(A, np.arange(40) % 3), ValueError, "OneVsRestClassifier"),
        (lambda: LabelPropagationSolver().fit(sp.eye_array(3), [0, 1]), ValueError, "inconsistent|length"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_blocks_larger_than_the_problem_are_clipped_with_a_warning():
    with pytest.warns(UserWarning, match="block_size=50 is clipped to the 12 variables"):
        assert minimize_blocks(problem_of("least squares"), block_size=50).nit == 1


def test_large_blocks_bound_their_curvature_from_above():
    _, _, A, b, _ = lattice_system()
    block = np.arange(len(b))
    exact = np.linalg.eigvalsh(A.toarray())[-1]
    assert exact <= block_lipschitz(quadratic_problem(A, b), block) <= 1.1 * exact
    X, y, _ = data(n=30, p=600)
    problem = least_squares_problem(X, y)
    assert block_lipschitz(problem, np.arange(600)) >= np.linalg.norm(X, 2) ** 2
    assert len(FixedBlocks(problem, [np.arange(600)]).lipschitz) == 1


# --- the command ---


@pytest.mark.parametrize("loss", ["lasso", "logistic", "softmax", "label-propagation"])
def test_command_without_files(loss, tmp_path):
    summary = run(out=tmp_path, loss=loss, max_iter=60, tol=1e-6)
    assert "no file given" in summary["input"]
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert (tmp_path / "history.csv").exists()
    if loss == "label-propagation":
        assert summary["largest_difference_from_a_direct_solution"] < 1e-2
    else:
        assert summary["objective"] <= min(summary["objectives_after_blocks"].values()) * (1 + 1e-9)


def test_command_on_files(tmp_path):
    from sklearn.datasets import dump_svmlight_file

    dump_svmlight_file(A, B, str(tmp_path / "data.svm"), zero_based=True)
    summary = run(tmp_path / "data.svm", out=tmp_path, alpha=0.1, block_size=50, compare=False)
    peer = Lasso(0.1, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(A, B)
    np.testing.assert_allclose(np.load(tmp_path / "solution.npz")["coef"], peer.coef_, atol=1e-4)
    assert summary["nonzero"] == np.count_nonzero(peer.coef_)
    W, y, *_ = lattice_system()
    sp.save_npz(tmp_path / "graph.npz", W)
    known = np.flatnonzero(y >= 0)
    np.savetxt(tmp_path / "labels.csv", np.c_[known, y[known]], delimiter=",", header="node,label", comments="")
    summary = run(tmp_path / "graph.npz", tmp_path / "labels.csv", out=tmp_path, loss="label-propagation")
    assert (summary["labelled"], summary["classes"], summary["converged"]) == (40, [0, 1, 2], True)
    for files, options, message in [
        (("data.svm", "data.svm"), {}, "one file"),
        (("none.svm",), {}, "no such file"),
        (("graph.npz",), {}, "needs X and y"),
        (("graph.npz",), {"loss": "label-propagation"}, "a graph and a file of labels"),
        (("data.svm",), {"alpha": -1.0}, "alpha"),
        (("data.svm",), {"loss": "logistic"}, "two classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(*(tmp_path / each for each in files), out=tmp_path, **options)
