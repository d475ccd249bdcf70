import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn.exceptions import ConvergenceWarning

from paperworks.transport import (
    SinkhornNewtonSolver,
    entropic_wasserstein_distance,
    sinkhorn,
    sinkhorn_newton,
)
from paperworks.transport._gibbs_plans import BlockPasses, DevicePasses, GibbsPlan, gibbs_plan

ETA = 1200.0


def reference_plan(cost, r, c, eta, sweeps=3000):
    """Sinkhorn in the log domain, written out: slow and obviously right."""
    from scipy.special import logsumexp

    x, y = np.zeros(len(r)), np.zeros(len(c))
    for _ in range(sweeps):
        x = (np.log(r) + 1 - logsumexp(eta * (y - cost), axis=1)) / eta
        y = (np.log(c) + 1 - logsumexp(eta * (x[:, None] - cost), axis=0)) / eta
    return np.exp(eta * (x[:, None] + y - cost) - 1)


def problem(n=30, m=40, seed=0):
    generator = np.random.default_rng(seed)
    cost = generator.random((n, m))
    r, c = generator.random(n) + 0.1, generator.random(m) + 0.1
    return cost, r / r.sum(), c / c.sum()


def digit_pair():
    from sklearn.datasets import load_digits

    images = load_digits().images[[0, 11]]
    r, c = (np.kron(image, np.ones((3, 3))).ravel() + 0.01 for image in images)
    grid = np.stack(np.meshgrid(np.arange(24), np.arange(24), indexing="ij"), -1).reshape(-1, 2).astype(float)
    return grid[:, None] - grid, r / r.sum(), c / c.sum()


@pytest.mark.parametrize("sparsification", ["adaptive", "fixed", None])
def test_agrees_with_sinkhorn_written_out(sparsification):
    cost, r, c = problem()
    density = 12 if sparsification == "fixed" else None
    result = sinkhorn_newton(
        cost, r, c, regularization=1 / 60, n_sinkhorn=5, tol=1e-13, sparsification=sparsification, density=density
    )
    assert result.converged
    assert result.n_newton > 0
    np.testing.assert_allclose(result.plan, reference_plan(cost, r, c, 60), atol=1e-11)


def test_agrees_with_pot_at_weak_regularisation():
    ot = pytest.importorskip("ot")
    cost, r, c = problem(60, 60, seed=3)
    result = sinkhorn_newton(cost, r, c, regularization=2e-3, tol=1e-12)
    peer = ot.sinkhorn(r, c, cost, 2e-3, method="sinkhorn_log", numItermax=200_000, stopThr=1e-12)
    np.testing.assert_allclose(result.plan, peer, atol=1e-8)


def test_tends_to_the_exact_assignment():
    cost = np.random.default_rng(1).random((50, 50))
    result = sinkhorn_newton(cost, regularization=1e-5, max_newton=2000)
    rows, columns = linear_sum_assignment(cost)
    assert result.converged
    assert result.value == pytest.approx(cost[rows, columns].mean(), abs=1e-7)
    np.testing.assert_array_equal(result.plan.argmax(axis=1), columns)


def test_two_by_two_closed_form():
    # For [[0, 1], [1, 0]] and uniform weights the plan is [[p, q], [q, p]] with p / q = exp(eta).
    result = sinkhorn_newton(np.array([[0.0, 1.0], [1.0, 0.0]]), regularization=0.5)
    p = 0.5 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(result.plan, [[p, 0.5 - p], [0.5 - p, p]], atol=1e-12)
    assert result.value == pytest.approx(2 * (0.5 - p))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_few_newton_steps_to_machine_accuracy(seed):
    cost = np.random.default_rng(seed).random((500, 500))
    result = sinkhorn_newton(cost, regularization=1 / ETA, tol=1e-12)
    assert result.converged
    assert result.n_newton <= 15
    # Superlinear: the last step takes the error down by more than an order of magnitude.
    errors = [row["error"] for row in result.history]
    assert errors[-1] < 0.05 * errors[-2]
    assert max(result.n_nonzeros) < 25 * 500


def test_fixed_rule_keeps_what_density_says():
    cost = np.random.default_rng(0).random((200, 200))
    with pytest.warns(ConvergenceWarning, match="max_newton"):
        result = sinkhorn_newton(cost, regularization=1 / ETA, sparsification="fixed", density=3, max_newton=4)
    assert set(result.n_nonzeros) == {600}


def test_cost_with_many_optimal_plans_needs_the_safeguard():
    difference, r, c = digit_pair()
    cost = np.abs(difference).sum(-1)
    result = sinkhorn_newton(cost / cost.max(), r, c, regularization=1 / ETA, tol=1e-10, max_newton=1000)
    assert result.converged
    annealed = sinkhorn_newton(
        cost / cost.max(), r, c, regularization=1 / ETA, tol=1e-10, max_newton=1000, initial_regularization=1 / 50
    )
    assert annealed.converged
    assert annealed.n_newton < result.n_newton / 2
    np.testing.assert_allclose(annealed.plan, result.plan, atol=1e-10)


def test_squared_cost_between_images_converges_superlinearly():
    difference, r, c = digit_pair()
    cost = (difference**2).sum(-1)
    result = sinkhorn_newton(cost / cost.max(), r, c, regularization=1 / ETA, tol=1e-12)
    assert result.converged
    assert result.n_newton <= 33


def test_returned_potentials_give_the_plan_and_the_values():
    cost, r, c = problem()
    result = sinkhorn_newton(cost, 3 * r, 3 * c, regularization=0.01)
    logs = (result.dual_source[:, None] + result.dual_target - cost) / 0.01 - 1
    np.testing.assert_allclose(np.exp(logs), result.plan, rtol=1e-9)
    np.testing.assert_allclose(result.plan.sum(1), 3 * r, atol=1e-8)
    assert 3 * r @ result.dual_source == pytest.approx(3 * c @ result.dual_target)
    assert result.value == pytest.approx((cost * result.plan).sum())
    positive = result.plan[result.plan > 0]
    assert result.regularized_value == pytest.approx(result.value + 0.01 * (positive * np.log(positive)).sum())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6), st.sampled_from([1.0, 1e-1, 1e-2, 3e-3]))
def test_marginals_and_invariances(n, m, seed, regularization):
    cost, r, c = problem(n, m, seed)
    options = {"regularization": regularization, "max_newton": 2000, "tol": 1e-10}
    result = sinkhorn_newton(cost, r, c, **options)
    assert np.abs(result.plan.sum(1) - r).sum() + np.abs(result.plan.sum(0) - c).sum() < 1e-9
    # Transposing the problem transposes the plan; adding a constant to rows of the cost leaves it.
    np.testing.assert_allclose(sinkhorn_newton(cost.T, c, r, **options).plan.T, result.plan, atol=1e-8)
    shifted = sinkhorn_newton(cost + np.linspace(-5, 5, n)[:, None], r, c, **options)
    np.testing.assert_allclose(shifted.plan, result.plan, atol=1e-8)


def test_same_problem_in_other_units():
    cost, r, c = problem()
    one = sinkhorn_newton(cost, r, c, regularization=0.01)
    other = sinkhorn_newton(1e6 * cost, r, c, regularization=1e4)
    np.testing.assert_allclose(one.plan, other.plan, atol=1e-12)
    assert other.value == pytest.approx(1e6 * one.value)


def test_large_costs_and_far_columns_do_not_underflow():
    # exp(-eta C) is 0 in every entry of the last column: its potential must come from the log domain.
    cost = np.random.default_rng(0).random((20, 20))
    cost[:, -1] += 1e4
    for result in (
        sinkhorn_newton(cost, regularization=1e-2, max_newton=500),
        sinkhorn(cost, regularization=1e-2, max_iter=5000, tol=1e-4),
    ):
        assert result.converged
        assert np.isfinite(result.dual_target).all()


def test_zero_weights_are_left_out_and_put_back():
    cost, r, c = problem()
    r[3], c[5] = 0.0, 0.0
    c *= r.sum() / c.sum()
    result = sinkhorn_newton(cost, r, c, regularization=0.01)
    assert (result.plan[3] == 0).all()
    assert (result.plan[:, 5] == 0).all()
    assert result.dual_source[3] == -np.inf
    keep_r, keep_c = np.arange(30) != 3, np.arange(40) != 5
    smaller = sinkhorn_newton(cost[keep_r][:, keep_c], r[keep_r], c[keep_c], regularization=0.01)
    np.testing.assert_allclose(result.plan[keep_r][:, keep_c], smaller.plan, atol=1e-14)


def test_sinkhorn_reaches_the_same_plan_and_counts_sweeps():
    cost, r, c = problem()
    result = sinkhorn(cost, r, c, regularization=0.02, max_iter=5000, tol=1e-12)
    np.testing.assert_allclose(result.plan, reference_plan(cost, r, c, 50), atol=1e-11)
    assert (result.n_newton, result.nit) == (0, result.n_sinkhorn)
    with pytest.warns(ConvergenceWarning, match="after 3 sweeps"):
        early = sinkhorn(cost, r, c, regularization=0.002, max_iter=3)
    assert not early.converged
    assert len(early.history) == early.n_sinkhorn == 3
    # Each sweep maximises exactly over one side after the other: rows are exact in the state that is returned.
    np.testing.assert_allclose(early.plan.sum(1), r, atol=1e-14)


def test_envelope_gradients():
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(6, generator=generator, dtype=torch.float64, requires_grad=True)

    def value(cost, weights):
        # The sums must stay equal while one marginal moves.
        r = weights / weights.sum()
        return sinkhorn_newton(cost, r, regularization=0.1, tol=1e-14).regularized_value

    assert torch.autograd.gradcheck(value, (cost, weights))
    result = sinkhorn_newton(cost, regularization=0.1)
    result.regularized_value.backward()
    torch.testing.assert_close(cost.grad, result.plan)
    assert not result.value.requires_grad


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_point_cloud_gradients(p):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(7, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.rand(5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    a = torch.rand(7, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, y, a: entropic_wasserstein_distance(x, y, p=p, regularization=0.1, x_weights=a, tol=1e-14), (x, y, a)
    )


def test_point_clouds_agree_with_a_dense_cost_and_by_blocks():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(80, 3)), generator.normal(size=(60, 3)) + 2
    result = sinkhorn_newton(((x[:, None] - y) ** 2).sum(-1), regularization=0.05, max_newton=500, tol=1e-11)
    # KL(P | a b') = sum P log P + log n + log m.
    expected = result.regularized_value + 0.05 * (np.log(80) + np.log(60))
    whole = entropic_wasserstein_distance(x, y, regularization=0.05)
    assert whole**2 == pytest.approx(expected)
    assert entropic_wasserstein_distance(x, y, regularization=0.05, max_memory=20_000) == pytest.approx(whole)
    batch = entropic_wasserstein_distance(np.stack([x, x + 1]), np.stack([y, y + 1]), regularization=0.05)
    np.testing.assert_allclose(batch, [whole, whole])
    assert entropic_wasserstein_distance(x[:1], x[:1], regularization=0.1) == 0.0


def test_translation_by_the_distance():
    x = np.random.default_rng(0).normal(size=(200, 2))
    distance = entropic_wasserstein_distance(x, x + np.array([30.0, 40.0]), regularization=1e-3)
    assert distance == pytest.approx(50, rel=1e-4)


def test_batch_solves_each_problem():
    cost = np.random.default_rng(0).random((3, 20, 25))
    batch = sinkhorn_newton(cost, regularization=0.01)
    assert batch.plan.shape == (3, 20, 25)
    for k in range(3):
        one = sinkhorn_newton(cost[k], regularization=0.01)
        np.testing.assert_array_equal(batch.plan[k], one.plan)
        assert batch.value[k] == one.value
        assert batch.n_newton[k] == one.n_newton


def test_float32_is_computed_in_float64():
    cost, r, c = problem()
    single = sinkhorn_newton(cost.astype(np.float32), regularization=0.01)
    double = sinkhorn_newton(cost.astype(np.float32).astype(float), regularization=0.01)
    assert single.plan.dtype == np.float32
    np.testing.assert_array_equal(single.plan, double.plan.astype(np.float32))
    tensor = sinkhorn_newton(torch.from_numpy(cost), torch.from_numpy(r), torch.from_numpy(c), regularization=0.01)
    assert isinstance(tensor.plan, torch.Tensor)
    assert isinstance(double.value, float)


def test_limited_memory_reaches_the_same_plan():
    cost = np.random.default_rng(0).random((150, 150))
    free = sinkhorn_newton(cost, regularization=1 / ETA, tol=1e-11)
    # No plan is held, and at most 1,000 entries of the Hessian are kept.
    tight = sinkhorn_newton(cost, regularization=1 / ETA, tol=1e-11, max_memory=32_000, max_newton=1000)
    assert tight.n_passes > free.n_passes
    assert max(tight.n_nonzeros) <= 1000
    np.testing.assert_allclose(tight.plan, free.plan, atol=1e-11)


def test_passes_of_both_kinds_agree_with_numpy():
    generator = np.random.default_rng(0)
    cost, eta = generator.random((13, 9)), 30.0
    x, y, r = generator.normal(size=13) / eta, generator.normal(size=9) / eta, generator.random(13)
    plan = np.exp(eta * (x[:, None] + y - cost) - 1)
    normalised = plan * (r / plan.sum(1))[:, None]

    def blocks():
        yield 0, 5, cost[:5]
        yield 5, 13, cost[5:]

    for passes in (BlockPasses(cost.shape, blocks), DevicePasses(torch.from_numpy(cost), 600)):
        new_x, columns, held = passes.normalise_rows(y, eta, r, hold=True)
        np.testing.assert_allclose(columns, normalised.sum(0))
        np.testing.assert_allclose(np.asarray(held), normalised)
        np.testing.assert_allclose(np.exp(eta * (new_x[:, None] + y - cost) - 1), normalised)
        u, columns = passes.scale_rows(held, np.full(9, 2.0), r)
        np.testing.assert_allclose(u, 0.5)
        np.testing.assert_allclose(columns * 2, normalised.sum(0))
        for found in (passes.sums(x, y, eta), passes.scaled_sums(held, np.ones(13), np.ones(9))):
            wanted = plan if found[0] is not None and np.allclose(found[0], plan.sum(1)) else normalised
            np.testing.assert_allclose(found[0], wanted.sum(1))
            np.testing.assert_allclose(found[1], wanted.sum(0))
        np.testing.assert_allclose(
            passes.log_column_sums(x, np.array([2, 7]), eta),
            np.log(np.exp(eta * (x[:, None] - cost)).sum(0)[[2, 7]]),
        )
        counts = passes.count_above(x, y, eta, -4.0)
        np.testing.assert_array_equal(counts, (np.log(plan) > -4).sum(1))
        kept = passes.entries_above(x, y, eta, -4.0, counts)
        np.testing.assert_allclose(kept.values, plan[np.log(plan) > -4])
        np.testing.assert_array_equal(kept.columns, np.nonzero(np.log(plan) > -4)[1])
        np.testing.assert_allclose(np.asarray(passes.plan(x, y, eta)), plan)


def test_solver_runs_on_torch_passes_too(monkeypatch):
    from paperworks.transport import sinkhorn_newton_sparse as module

    cost = np.random.default_rng(0).random((120, 120))
    expected = sinkhorn_newton(cost, regularization=1 / 600)
    monkeypatch.setattr(
        module, "gibbs_plan", lambda cost, eta, memory: GibbsPlan(DevicePasses(cost, memory), eta, memory)
    )
    found = sinkhorn_newton(cost, regularization=1 / 600)
    assert found.n_newton == expected.n_newton
    np.testing.assert_allclose(found.plan, expected.plan, atol=1e-12)


def test_held_plan_is_remade_when_potentials_go_far():
    cost = np.random.default_rng(0).random((6, 8))
    plan, r = gibbs_plan(torch.from_numpy(cost), 100.0, 2**20), np.full(6, 1 / 6)
    plan.normalise_rows(np.zeros(8), r)
    far = np.linspace(0, 40, 8)
    x, columns = plan.normalise_rows(far, r)
    assert plan.n_passes == 2
    exact = np.exp(100 * (x[:, None] + far - cost) - 1)
    np.testing.assert_allclose(exact.sum(1), r)
    np.testing.assert_allclose(exact.sum(0), columns)


def test_warm_start_takes_fewer_steps():
    generator = np.random.default_rng(0)
    cost = generator.random((200, 200))
    solver = SinkhornNewtonSolver(regularization=1e-3)
    first = solver.solve(cost)
    nearby = cost + 1e-4 * generator.random((200, 200))
    second = solver.solve(nearby)
    cold = sinkhorn_newton(nearby, regularization=1e-3)
    assert second.nit < first.nit / 2
    np.testing.assert_allclose(second.plan, cold.plan, atol=1e-9)
    assert solver.solve(cost[:50]).converged  # another number of rows is no obstacle


def test_is_deterministic_and_quiet_unless_asked(capsys):
    cost, r, c = problem()
    one = sinkhorn_newton(cost, r, c, regularization=0.002)
    np.testing.assert_array_equal(one.plan, sinkhorn_newton(cost, r, c, regularization=0.002).plan)
    assert capsys.readouterr().out == ""
    sinkhorn_newton(cost, r, c, regularization=0.002, verbose=True)
    assert "newton" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cost": np.full((2, 2), np.nan)}, ValueError, "cost contains NaN"),
        ({"cost": np.ones((2, 2), dtype=int)}, TypeError, "cost must hold floating-point"),
        ({"cost": np.ones(3)}, ValueError, "cost must have 2 or 3 dimensions"),
        ({"cost": np.ones((0, 3))}, ValueError, "cost is empty"),
        ({"source_weights": np.array([-0.5, 1.5])}, ValueError, "source_weights must not be negative"),
        ({"source_weights": np.array([0.5, 0.4])}, ValueError, "source_weights sum to 0.9 but target_weights sum to 1"),
        ({"target_weights": np.array([0.5, 0.25, 0.25])}, ValueError, "target_weights must have shape"),
        ({"target_weights": np.zeros(2)}, ValueError, "target_weights must have a positive sum"),
        ({"regularization": 0.0}, ValueError, "regularization must be a finite number greater than 0"),
        ({"regularization": "much"}, TypeError, "regularization must be a number"),
        ({"tol": -1.0}, ValueError, "tol"),
        ({"n_sinkhorn": -1}, ValueError, "n_sinkhorn must be at least 0"),
        ({"max_newton": 1.5}, TypeError, "max_newton must be an integer"),
        ({"sparsification": "some"}, ValueError, "sparsification must be one of 'adaptive', 'fixed', None"),
        ({"density": 2.0}, ValueError, "density is for sparsification='fixed'"),
        ({"density": 3.0, "sparsification": "fixed"}, ValueError, "density must be a finite number greater than 0"),
        ({"initial_regularization": 1e-9}, ValueError, "initial_regularization"),
        ({"initial_dual": np.zeros(3)}, ValueError, "initial_dual must have length 2"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"cost": np.array([[0.1, 0.9], [0.7, 0.2]]), "regularization": 0.1} | change
    with pytest.raises(error, match=message):
        sinkhorn_newton(arguments.pop("cost"), **arguments)


def test_bad_point_clouds_are_named():
    x = np.zeros((4, 3))
    for y, message in ((np.zeros((4, 2)), "same number of dimensions and columns"), (x * np.nan, "y contains NaN")):
        with pytest.raises(ValueError, match=message):
            entropic_wasserstein_distance(x, y, regularization=0.1)
    with pytest.raises(ValueError, match="p must be"):
        entropic_wasserstein_distance(x, x, p=0.5, regularization=0.1)
    with pytest.raises(ValueError, match="x_weights must have shape"):
        entropic_wasserstein_distance(x, x, x_weights=np.ones(3), regularization=0.1)


def test_failure_to_converge_is_never_silent():
    cost = np.random.default_rng(0).random((50, 50))
    with pytest.warns(ConvergenceWarning, match="raise max_newton"):
        result = sinkhorn_newton(cost, regularization=1e-4, max_newton=1)
    assert not result.success
    # An accuracy that float64 does not have ends the search instead of going on for ever.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = sinkhorn_newton(cost, regularization=1e-4, tol=0.0, max_newton=100_000)
    assert not result.converged
    assert result.marginal_error < 1e-10
    assert result.n_newton < 1000
