"""The Monge gap: closed forms, brute force, POT and ott-jax as oracles, gradients, and maps with known answers."""

import importlib.util
import itertools
import pickle
from pathlib import Path

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch.autograd import gradcheck

import paperworks.transport
from paperworks.transport.monge_gap import (
    MongeGapLoss,
    MongeMap,
    PNormCost,
    StructuredMap,
    _entropic,
    _streaming,
    monge_gap,
    sinkhorn_divergence,
)

ESTIMATORS = ("entropic", "entropy", "transport", "exact")
TIGHT = {"tol": 1e-11}


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def clouds(n, d, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, d))
    return x, x @ generator.normal(size=(d, d)) + 0.5 * np.tanh(2 * x) + 1.0


def brute_force_gap(costs):
    n = len(costs)
    best = min(sum(costs[i, p[i]] for i in range(n)) for p in itertools.permutations(range(n)))
    return (np.trace(costs) - best) / n


def ott_monge_gap():
    """Load ott's module by its file: the package around it wants a solver of differential equations."""
    path = Path(pytest.importorskip("ott").__file__).parent / "neural" / "methods" / "monge_gap.py"
    spec = importlib.util.spec_from_file_location("ott_monge_gap", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        pytest.skip(f"ott's neural methods can't be imported: {error}")
    return module.monge_gap_from_samples


NAMED_COSTS = {
    "sqeuclidean": lambda x, y: ot.dist(x, y, "sqeuclidean"),
    "euclidean": lambda x, y: ot.dist(x, y, "euclidean"),
    "cosine": lambda x, y: ot.dist(x, y, "cosine"),
    "geodesic": lambda x, y: np.arccos(np.clip(1 - ot.dist(x, y, "cosine"), -1, 1)),
}


class TestGap:
    @pytest.mark.parametrize("cost", NAMED_COSTS)
    def test_exact_is_what_trying_every_permutation_gives(self, cost):
        x, z = clouds(6, 3)
        expected = brute_force_gap(NAMED_COSTS[cost](x, z))
        assert expected > 1e-3
        assert monge_gap(x, z, cost=cost, estimator="exact") == pytest.approx(expected, abs=1e-10)

    @pytest.mark.parametrize(("p", "power"), [(1, 1), (2, 1.5), (1.5, 1.5), (3, 2), (float("inf"), 1)])
    def test_powers_of_p_norms(self, p, power):
        x, z = clouds(6, 3)
        costs = np.linalg.norm(x[:, None] - z, ord=p, axis=-1) ** power
        assert monge_gap(x, z, cost=PNormCost(p, power), estimator="exact") == pytest.approx(brute_force_gap(costs))

    @pytest.mark.parametrize("relative", [0.2, 0.05])
    def test_regularised_estimators_match_pot(self, relative):
        x, z = clouds(60, 2)
        costs = ot.dist(x, z)
        epsilon, a = relative * costs.mean(), np.full(60, 1 / 60)
        plan = ot.sinkhorn(a, a, costs, epsilon, method="sinkhorn_log", numItermax=50_000, stopThr=1e-12)
        moved, transported = np.trace(costs) / 60, (plan * costs).sum()
        negentropy = (plan * np.log(np.maximum(plan, 1e-300))).sum()
        expected = {
            "entropic": moved - transported - epsilon * (negentropy + 2 * np.log(60)),
            "entropy": moved - transported - epsilon * negentropy,
            "transport": moved - transported,
        }
        for estimator, value in expected.items():
            gap, ours = monge_gap(x, z, epsilon=epsilon, estimator=estimator, return_plan=True, **TIGHT)
            assert gap == pytest.approx(value, abs=1e-7)
            np.testing.assert_allclose(ours, plan, atol=1e-8)

    @pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
    def test_entropy_matches_ott(self, cost):
        jax = pytest.importorskip("jax")
        costs = pytest.importorskip("ott.geometry.costs")
        monge_gap_from_samples = ott_monge_gap()
        x, z = clouds(128, 3)
        ground = costs.SqEuclidean() if cost == "sqeuclidean" else costs.Euclidean()
        epsilon = 0.05 * NAMED_COSTS[cost](x, z).mean()

        def theirs(images):
            return monge_gap_from_samples(
                jax.numpy.array(x), images, cost_fn=ground, epsilon=epsilon, threshold=1e-6, max_iterations=20_000
            )

        value, gradient = jax.value_and_grad(theirs)(jax.numpy.array(z))
        images = torch.tensor(z, requires_grad=True)
        ours = monge_gap(torch.tensor(x), images, cost=cost, epsilon=epsilon, estimator="entropy", tol=1e-8)
        ours.backward()
        assert ours.item() == pytest.approx(float(value), rel=1e-4)
        np.testing.assert_allclose(images.grad.numpy(), np.array(gradient), atol=2e-4)

    def test_weighted_exact_is_the_linear_program(self, generator):
        x, z = clouds(12, 2)
        weights = generator.dirichlet(np.ones(12))
        costs = ot.dist(x, z)
        expected = (weights * np.diag(costs)).sum() - ot.emd2(weights, weights, costs)
        assert monge_gap(x, z, estimator="exact", source_weights=3 * weights) == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_points_of_no_weight_do_not_count(self, estimator):
        x, z = clouds(20, 2)
        weights = np.ones(20)
        weights[[3, 11]] = 0
        gap, plan = monge_gap(x, z, epsilon=0.1, estimator=estimator, source_weights=weights, return_plan=True, **TIGHT)
        kept = weights > 0
        assert gap == pytest.approx(monge_gap(x[kept], z[kept], epsilon=0.1, estimator=estimator, **TIGHT), abs=1e-9)
        assert plan.shape == (20, 20)
        np.testing.assert_allclose(plan.sum(axis=0), weights / 18, atol=1e-9)
        np.testing.assert_allclose(plan.sum(axis=1), weights / 18, atol=1e-9)

    def test_small_epsilon_is_finished_by_newton(self):
        x, z = clouds(100, 2)
        costs = ot.dist(x, z)
        epsilon = 2e-4 * costs.mean()
        gap, plan = monge_gap(x, z, epsilon=epsilon, tol=1e-9, max_iter=100, return_plan=True)
        assert abs(plan.sum(axis=1) - 0.01).sum() + abs(plan.sum(axis=0) - 0.01).sum() < 1e-9
        kl = (plan * np.log(np.maximum(plan, 1e-300) * 100**2)).sum()
        assert gap == pytest.approx(np.trace(costs) / 100 - (plan * costs).sum() - epsilon * kl, abs=1e-8)

    @given(st.integers(0, 10_000), st.sampled_from([0.3, 0.05, 0.01]))
    @settings(max_examples=15, deadline=None)
    def test_inequalities_of_the_estimators(self, seed, relative):
        x, z = clouds(24, 2, seed)
        epsilon = relative * ot.dist(x, z).mean()
        gap = {name: monge_gap(x, z, epsilon=epsilon, estimator=name, tol=1e-8) for name in ESTIMATORS}
        slack = 1e-7 * (1 + gap["exact"])
        assert gap["exact"] >= -1e-12
        assert gap["transport"] <= gap["exact"] + slack
        assert gap["entropic"] <= gap["transport"] + slack
        assert gap["entropic"] >= gap["exact"] - epsilon * np.log(24) - slack
        assert gap["entropy"] == pytest.approx(gap["entropic"] + 2 * epsilon * np.log(24))

    def test_transport_never_exceeds_exact_even_unconverged(self, monkeypatch):
        monkeypatch.setattr(_entropic, "LARGEST_NEWTON", 0)
        x, z = clouds(40, 2)
        with pytest.warns(ConvergenceWarning):
            gap, plan = monge_gap(
                x, z, relative_epsilon=1e-4, estimator="transport", max_iter=1, tol=1e-9, return_plan=True
            )
        np.testing.assert_allclose(plan.sum(axis=0), 1 / 40, rtol=1e-12)
        np.testing.assert_allclose(plan.sum(axis=1), 1 / 40, rtol=1e-12)
        assert gap <= monge_gap(x, z, estimator="exact")

    def test_invariances(self, generator):
        x, z = clouds(50, 2)
        order = generator.permutation(50)
        turn = np.linalg.qr(generator.normal(size=(2, 2)))[0]
        gap = monge_gap(x, z, epsilon=0.2, tol=1e-9)
        assert monge_gap(x[order], z[order], epsilon=0.2, tol=1e-9) == pytest.approx(gap, abs=1e-8)
        assert monge_gap(x @ turn + 100, z @ turn + 100, epsilon=0.2, tol=1e-9) == pytest.approx(gap, abs=1e-8)
        assert monge_gap(3 * x, 3 * z, epsilon=9 * 0.2, tol=1e-9) == pytest.approx(9 * gap, abs=1e-7)
        # Default: a hundredth of the mean cost.
        assert monge_gap(x, z) == monge_gap(x, z, relative_epsilon=0.01)
        assert monge_gap(x, z) == pytest.approx(monge_gap(x, z, epsilon=0.01 * ot.dist(x, z).mean()), rel=1e-4)

    def test_optimal_maps_have_no_gap(self, generator):
        x = generator.normal(size=(200, 3))
        root = generator.normal(size=(3, 3))
        assert abs(monge_gap(x, x @ (root @ root.T), estimator="exact")) < 1e-10
        # A translation is optimal for every cost h(x - y) with h convex.
        for cost in ("sqeuclidean", "euclidean", PNormCost(1.5, 1.5)):
            assert abs(monge_gap(x, x + np.array([1.0, -2.0, 0.5]), cost=cost, estimator="exact")) < 1e-10

    def test_entropic_tends_to_exact(self):
        x, z = clouds(100, 2)
        exact = monge_gap(x, z, estimator="exact")
        errors = [abs(monge_gap(x, z, relative_epsilon=r, tol=1e-8) - exact) for r in (0.1, 0.01, 0.001)]
        assert errors[0] > 3 * errors[1] > 9 * errors[2]

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_batches_are_solved_one_by_one(self, estimator):
        pairs = [clouds(30, 2, seed) for seed in range(3)]
        x, z = (torch.tensor(np.stack(side)) for side in zip(*pairs, strict=True))
        z[1] *= 10  # so that their ladders differ in length
        batch, plans = monge_gap(x, z, estimator=estimator, return_plan=True, tol=1e-8)
        assert batch.shape == (3,)
        for k in range(3):
            one, plan = monge_gap(x[k], z[k], estimator=estimator, return_plan=True, tol=1e-8)
            assert batch[k].item() == pytest.approx(one.item(), abs=1e-6)
            torch.testing.assert_close(plans[k], plan, atol=1e-7, rtol=0)

    @pytest.mark.parametrize("estimator", ["entropic", "entropy", "transport"])
    def test_streamed_clouds_give_the_same(self, estimator, monkeypatch):
        x, z = (torch.tensor(side, requires_grad=True) for side in clouds(90, 2))
        weights = np.random.default_rng(1).uniform(0.2, 1, size=90)
        options = {"estimator": estimator, "tol": 1e-8, "cost": "euclidean", "source_weights": weights}
        options["epsilon"] = 0.05 * np.linalg.norm(x.detach()[:, None] - z.detach(), axis=-1).mean()
        dense = monge_gap(x, z, **options)
        expected = torch.autograd.grad(dense, (x, z))
        monkeypatch.setattr(_entropic, "LARGEST_MATRIX", 10)
        monkeypatch.setattr(_streaming, "BLOCK_ENTRIES", 90 * 20)
        streamed = monge_gap(x, z, **options)
        assert streamed.item() == pytest.approx(dense.item(), abs=1e-6)
        for ours, theirs in zip(torch.autograd.grad(streamed, (x, z)), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)

    def test_outliers_do_not_break_the_scaling(self):
        x, z = clouds(100, 2)
        z[0] *= 1e4
        for dtype in (torch.float32, torch.float64):
            pair = torch.tensor(x, dtype=dtype), torch.tensor(z, dtype=dtype)
            _, plan = monge_gap(*pair, epsilon=1.0, return_plan=True, max_iter=20_000)
            assert torch.isfinite(plan).all()
            assert abs(plan.sum(1) - 0.01).sum() < 1.1e-4

    def test_unconverged_says_so(self, monkeypatch):
        monkeypatch.setattr(_entropic, "LARGEST_NEWTON", 0)
        x, z = clouds(50, 2)
        with pytest.warns(ConvergenceWarning, match="marginal error"):
            monge_gap(x, z, relative_epsilon=1e-4, max_iter=5)

    def test_numpy_tensors_and_dtypes(self):
        x, z = clouds(40, 2)
        gap = monge_gap(x, z)
        assert isinstance(gap, float)
        as_tensor = monge_gap(torch.tensor(x), torch.tensor(z))
        assert as_tensor.dtype == torch.float64
        assert as_tensor.item() == gap
        single = monge_gap(torch.tensor(x).float(), torch.tensor(z).float())
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(gap, rel=1e-3)

    def test_function_and_package_share_a_name(self):
        x, z = clouds(10, 2)
        assert paperworks.transport.monge_gap(x, z) == monge_gap(x, z)


class TestGradients:
    @pytest.mark.parametrize("estimator", ["entropic", "entropy", "exact"])
    @pytest.mark.parametrize("cost", [*NAMED_COSTS, PNormCost(1.5, 1.5), lambda x, y: torch.cdist(x, y) ** 3])
    def test_gradcheck(self, estimator, cost):
        x, z = (torch.tensor(side, requires_grad=True) for side in clouds(7, 3))
        scale = 5.0 if cost == "sqeuclidean" else 0.5
        assert gradcheck(lambda *c: monge_gap(*c, cost=cost, epsilon=scale, estimator=estimator, **TIGHT), (x, z))

    def test_gradcheck_with_weights(self):
        x, z = (torch.tensor(side, requires_grad=True) for side in clouds(6, 2))
        weights = np.array([1.0, 2.0, 0.0, 3.0, 1.0, 0.5])
        assert gradcheck(lambda *c: monge_gap(*c, epsilon=1.0, source_weights=weights, **TIGHT), (x, z))

    def test_transport_gradient_holds_the_plan(self):
        x, z = clouds(30, 2)
        images = torch.tensor(z, requires_grad=True)
        gap, plan = monge_gap(torch.tensor(x), images, epsilon=1.0, estimator="transport", return_plan=True)
        gap.backward()
        expected = 2 * (z - x) / 30 - 2 * (z / 30 - plan.numpy().T @ x)
        np.testing.assert_allclose(images.grad.numpy(), expected, atol=1e-9)

    @pytest.mark.parametrize("cost", ["euclidean", "geodesic", PNormCost(2, 1), PNormCost(1.5, 1.5)])
    def test_no_nan_at_the_identity(self, cost):
        x = torch.tensor(clouds(20, 3)[0])
        images = x.clone().requires_grad_()
        monge_gap(x, images, cost=cost).backward()
        assert torch.isfinite(images.grad).all()

    def test_divergence(self):
        x, y = (torch.tensor(side, requires_grad=True) for side in (clouds(6, 2)[0], clouds(8, 2, 1)[1]))
        assert gradcheck(lambda *c: sinkhorn_divergence(*c, epsilon=1.0, **TIGHT), (x, y))
        assert gradcheck(lambda *c: sinkhorn_divergence(*c, cost="euclidean", epsilon=0.5, **TIGHT), (x, y))


class TestDivergence:
    @pytest.mark.parametrize("sizes", [(40, 40), (30, 50)])
    def test_matches_pot(self, sizes, generator):
        x, y = generator.normal(size=(sizes[0], 2)), generator.normal(size=(sizes[1], 2)) + 1
        a, b = generator.dirichlet(np.ones(sizes[0])), generator.dirichlet(np.ones(sizes[1]))

        def value(u, v, p, q):
            costs = ot.dist(u, v)
            plan = ot.sinkhorn(p, q, costs, 0.5, method="sinkhorn_log", numItermax=50_000, stopThr=1e-13)
            return (plan * costs).sum() + 0.5 * (plan * np.log(np.maximum(plan / np.outer(p, q), 1e-300))).sum()

        expected = value(x, y, a, b) - value(x, x, a, a) / 2 - value(y, y, b, b) / 2
        ours = sinkhorn_divergence(x, y, epsilon=0.5, x_weights=a, y_weights=b, **TIGHT)
        assert ours == pytest.approx(expected, abs=1e-8)
        assert sinkhorn_divergence(y, x, epsilon=0.5, x_weights=b, y_weights=a, **TIGHT) == pytest.approx(ours)

    def test_of_equal_and_of_shifted_clouds(self, generator):
        x = generator.normal(size=(80, 3))
        assert sinkhorn_divergence(x, x[::-1].copy(), tol=1e-9) == pytest.approx(0, abs=1e-9)
        assert sinkhorn_divergence(x, x + 2.0, tol=1e-9) == pytest.approx(12, abs=1e-7)

    def test_callable_cost_needs_no_symmetry(self, generator):
        x, y = generator.normal(size=(30, 2)), generator.normal(size=(30, 2))
        skew = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)

        def lopsided(u, v):
            return torch.cdist(u, v) ** 2 + u @ skew.to(u) @ v.T

        def value(u, v):
            costs = lopsided(torch.tensor(u), torch.tensor(v)).numpy()
            a = np.full(len(u), 1 / len(u))
            plan = ot.sinkhorn(a, a, costs, 0.5, method="sinkhorn_log", numItermax=50_000, stopThr=1e-13)
            return (plan * costs).sum() + 0.5 * (plan * np.log(np.maximum(plan * len(u) ** 2, 1e-300))).sum()

        ours = sinkhorn_divergence(x, y, cost=lopsided, epsilon=0.5, **TIGHT)
        assert ours == pytest.approx(value(x, y) - value(x, x) / 2 - value(y, y) / 2, abs=1e-8)


class TestLossAndStructuredMap:
    def test_loss_is_the_function(self):
        x, z = (torch.tensor(side) for side in clouds(40, 2))
        loss = MongeGapLoss("euclidean", relative_epsilon=0.05, estimator="entropy", tol=1e-4, max_iter=2000)
        expected = monge_gap(x, z, cost="euclidean", relative_epsilon=0.05, estimator="entropy")
        assert loss(x, z) == expected
        assert "euclidean" in repr(loss)

    def test_gap_untangles_a_map_without_fitting(self):
        # From x -> -x the gap alone reaches an optimal map; gradients of one term only would not.
        x = torch.tensor(clouds(64, 2)[0])
        images = (-x).requires_grad_()
        optimizer = torch.optim.Adam([images], lr=0.05)
        loss = MongeGapLoss(relative_epsilon=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            loss(x, images).backward()
            optimizer.step()
        assert monge_gap(x, -x, estimator="exact") > 5
        assert monge_gap(x, images.detach(), estimator="exact") < 0.05
        assert images.detach().var() > 0.1

    @pytest.mark.parametrize("p", [1.5, 2.0, 4.0])
    def test_structured_map_inverts_the_gradient_of_h(self, p):
        # F = grad h(x - y) must give back y.
        x, y = (torch.tensor(side) for side in clouds(20, 3))
        difference = x - y
        field = difference.sign() * difference.abs() ** (p - 1)

        class Constant(torch.nn.Module):
            def forward(self, points):
                return field

        torch.testing.assert_close(StructuredMap(Constant(), p=p)(x), y)

    def test_structured_map_takes_any_profile(self):
        x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(StructuredMap(torch.nn.Identity(), h=torch.tanh)(x), x - torch.tanh(x))
        with pytest.raises(ValueError, match="'q-norm'"):
            StructuredMap(torch.nn.Identity(), h="q-norm")
        with pytest.raises(ValueError, match="p must be"):
            StructuredMap(torch.nn.Identity(), p=1.0)
        with pytest.raises(TypeError, match="network"):
            StructuredMap(torch.tanh)

    def test_structured_map_has_finite_gradients_at_zero(self):
        module = StructuredMap(torch.nn.Linear(2, 2, bias=False), p=4.0)
        torch.nn.init.zeros_(module.network.weight)
        module(torch.ones(3, 2)).sum().backward()
        assert torch.isfinite(module.network.weight.grad).all()


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"cost": "manhattan"}, ValueError, "cost must be one of .*'manhattan'"),
            ({"cost": 3}, TypeError, "cost must be one of"),
            ({"cost": lambda x, y: torch.cdist(x, y)[:3]}, ValueError, r"cost must return shape \(20, 20\)"),
            ({"cost": lambda x, y: 3.0}, TypeError, "cost must return a tensor"),
            ({"cost": lambda x, y: torch.cdist(x, y) / 0}, ValueError, "result of cost contains NaN or infinity"),
            ({"cost": lambda x, y: -torch.cdist(x, y)}, ValueError, "positive mean cost"),
            ({"epsilon": 0.1, "relative_epsilon": 0.1}, ValueError, "not both"),
            ({"epsilon": 0.0}, ValueError, "epsilon must be"),
            ({"relative_epsilon": -1.0}, ValueError, "relative_epsilon must be"),
            ({"estimator": "sinkhorn"}, ValueError, "estimator must be one of"),
            ({"tol": 0}, ValueError, "tol must be"),
            ({"max_iter": 0}, ValueError, "max_iter must be"),
            ({"source_weights": np.ones(3)}, ValueError, "source_weights must have length 20, got 3"),
            ({"source_weights": -np.ones(20)}, ValueError, "source_weights must not be negative"),
        ],
    )
    def test_parameters(self, options, error, match):
        with pytest.raises(error, match=match):
            monge_gap(*clouds(20, 2), **options)

    def test_arrays(self):
        x, z = clouds(20, 2)
        with pytest.raises(ValueError, match="mapped must hold the image"):
            monge_gap(x, z[:10])
        with pytest.raises(ValueError, match="mapped must hold the image"):
            monge_gap(x, z[:, :1])
        with pytest.raises(ValueError, match="at least 2 samples"):
            monge_gap(x[:1], z[:1])
        with pytest.raises(TypeError, match="source must hold floating"):
            monge_gap(x.astype(int), z)
        z[3, 1] = np.nan
        with pytest.raises(ValueError, match=r"mapped contains NaN or infinity, first at index \(3, 1\)"):
            monge_gap(x, z)
        with pytest.raises(ValueError, match="origin"):
            monge_gap(x, np.zeros_like(x), cost="geodesic")
        with pytest.raises(ValueError, match="one dimension"):
            sinkhorn_divergence(x, x[:, :1])

    def test_exact_is_limited(self):
        big = np.zeros((5001, 1))
        with pytest.raises(ValueError, match="at most 5000 points, got 5001; use estimator='entropic'"):
            monge_gap(big, big, estimator="exact")
        weights = np.arange(1.0, 502)
        with pytest.raises(ValueError, match="unequal weights, got 501"):
            monge_gap(big[:501], big[:501], estimator="exact", source_weights=weights)

    def test_negative_costs_are_welcome_with_an_epsilon(self):
        x, z = clouds(30, 2)
        inner = monge_gap(x, z, cost=lambda u, v: -u @ v.T, epsilon=0.5, tol=1e-9)
        # ||x - y||^2 / 2 and -x . y differ by what no plan changes.
        assert inner == pytest.approx(monge_gap(x, z, epsilon=1.0, tol=1e-9) / 2, abs=1e-8)

    def test_p_norm_cost(self):
        with pytest.raises(ValueError, match="p must be"):
            PNormCost(0.5)
        with pytest.raises(ValueError, match="power must be"):
            PNormCost(2, 0.5)


def _to_the_line(x, y):
    return (x.sum(dim=-1)[:, None] - y[:, 0]) ** 2


SMALL = {"batch_size": 128, "hidden_sizes": (32, 32), "learning_rate": 5e-3, "random_state": 0, "progress": False}


class TestMongeMap:
    def test_learns_the_map_between_gaussians(self, generator):
        x = generator.normal(size=(1000, 2))
        stretch, shift = np.array([[1.5, 0.5], [0.5, 1.0]]), np.array([2.0, -1.0])
        y = generator.normal(size=(1000, 2)) @ stretch + shift
        estimator = MongeMap(n_iterations=300, **SMALL).fit(x, y)
        truth = x @ stretch + shift
        explained = 100 * ((estimator.transform(x) - truth) ** 2).sum(1).mean() / y.var(0).sum()
        assert explained < 5
        assert estimator.fitting_loss_ < 0.05
        assert -estimator.score(x, y) == pytest.approx(estimator.fitting_loss_, abs=0.02)
        assert estimator.loss_history_.shape == (estimator.n_iter_,)
        assert estimator.loss_history_[-20:].mean() < estimator.loss_history_[:20].mean()

    def test_the_gap_is_what_makes_a_plain_network_optimal(self, generator):
        x, y = generator.normal(size=(500, 2)), generator.normal(4.0, size=(500, 2))
        # Start from a half turn, which fits the target as well as the identity does.
        start = torch.nn.Linear(2, 2)
        with torch.no_grad():
            start.weight.copy_(-torch.eye(2))
            start.bias.copy_(torch.tensor([4.0, 4.0]))
        gaps = {}
        for strength in (0.0, 1.0):
            estimator = MongeMap(
                module=start, regularization=strength, n_iterations=250, **SMALL | {"learning_rate": 0.02}
            )
            estimator.fit(x, y)
            gaps[strength] = monge_gap(x, estimator.transform(x), estimator="exact")
        assert gaps[0.0] > 4
        assert gaps[1.0] < 0.1
        torch.testing.assert_close(start.weight.detach(), -torch.eye(2))  # the user's module is left alone

    def test_identity_start_and_random_start(self, generator):
        x, y = generator.normal(size=(50, 2)), generator.normal(size=(60, 2))
        still = MongeMap(n_iterations=1, **SMALL | {"learning_rate": 1e-12})
        np.testing.assert_allclose(still.fit(x, y).transform(x), x, atol=1e-6)
        plain = MongeMap(n_iterations=1, initialization="random", **SMALL | {"learning_rate": 1e-12})
        assert np.abs(plain.fit(x, y).transform(x) - x).max() > 0.5

    @pytest.mark.parametrize("cost", ["euclidean", "cosine", PNormCost(1.5, 1.5)])
    def test_other_costs_train(self, cost, generator):
        x, y = generator.normal(size=(200, 2)) + 3, generator.normal(size=(200, 2)) * 0.5 + [4.0, 2.0]
        estimator = MongeMap(cost, n_iterations=150, **SMALL).fit(x, y)
        assert estimator.fitting_loss_ < 0.1

    def test_geodesic_maps_stay_on_the_sphere(self, generator):
        x, y = (generator.normal(size=(200, 3)) + centre for centre in ([3, 0, 0], [0, 3, 0]))
        x, y = (points / np.linalg.norm(points, axis=1, keepdims=True) for points in (x, y))
        estimator = MongeMap("geodesic", n_iterations=150, **SMALL).fit(x, y)
        mapped = estimator.transform(x)
        np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1)
        assert estimator.fitting_loss_ < 0.05

    def test_maps_between_spaces_under_a_callable_cost(self, generator):
        # For (x1 + x2 - y)^2 the optimal map from the plane to the line is monotone in x1 + x2.
        x, y = generator.normal(size=(300, 2)), generator.uniform(size=300)
        estimator = MongeMap(_to_the_line, initialization="random", n_iterations=250, **SMALL).fit(x, y)
        mapped = estimator.transform(x)
        assert mapped.shape == (300, 1)
        assert np.corrcoef(np.argsort(np.argsort(x.sum(axis=1))), mapped[:, 0])[0, 1] > 0.97

    def test_structured_module(self, generator):
        x, y = generator.normal(size=(200, 2)), generator.normal(size=(200, 2)) + 2
        network = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.GELU(), torch.nn.Linear(16, 2))
        estimator = MongeMap(PNormCost(1.5, 1.5), module=StructuredMap(network, p=1.5), n_iterations=300, **SMALL)
        assert estimator.fit(x, y).fitting_loss_ < 0.1

    def test_same_seed_same_map(self, generator):
        x, y = generator.normal(size=(300, 2)), generator.normal(size=(300, 2)) + 1
        state = torch.get_rng_state()
        first, second = (MongeMap(n_iterations=5, **SMALL).fit(x, y) for _ in range(2))
        np.testing.assert_array_equal(first.transform(x), second.transform(x))
        other = MongeMap(n_iterations=5, **SMALL | {"random_state": 1}).fit(x, y)
        assert np.abs(other.transform(x) - first.transform(x)).max() > 0
        assert torch.equal(state, torch.get_rng_state())

    def test_dtype_clone_and_pickle(self, generator):
        x, y = generator.normal(size=(100, 2)).astype(np.float32), generator.normal(size=(100, 2))
        estimator = clone(MongeMap(PNormCost(1.5, 2), n_iterations=3, **SMALL)).fit(x, y)
        mapped = estimator.transform(x)
        assert mapped.dtype == np.float32
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(estimator)).transform(x), mapped)

    def test_scale_undoes_itself(self, generator):
        x, y = generator.normal(size=(400, 2)), generator.normal(3.0, size=(400, 2))
        units = np.array([100.0, 0.01])
        plain = MongeMap(n_iterations=20, **SMALL, scale=True).fit(x, y)
        scaled = MongeMap(n_iterations=20, **SMALL, scale=True).fit(x * units, y * units)
        np.testing.assert_allclose(scaled.transform(x * units) / units, plain.transform(x), rtol=1e-3, atol=1e-3)

    def test_schedule(self, generator):
        x, y = generator.normal(size=(200, 2)), generator.normal(size=(200, 2)) + 1
        constant = MongeMap(n_iterations=10, regularization=0.5, **SMALL).fit(x, y)
        schedule = MongeMap(n_iterations=10, regularization=[0.5] * 10, **SMALL).fit(x, y)
        np.testing.assert_array_equal(constant.transform(x), schedule.transform(x))
        falling = MongeMap(n_iterations=10, regularization=[0.5] * 5 + [0.1] * 5, **SMALL).fit(x, y)
        assert np.abs(falling.transform(x) - constant.transform(x)).max() > 0

    def test_the_gap_is_taken_on_the_reference(self, generator):
        # Source and target lie on the first axis; only the reference sees that the second one is turned over.
        x = generator.normal(size=(200, 1)) * [1.0, 0.0]
        start = torch.nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            start.weight.copy_(torch.diag(torch.tensor([1.0, -1.0])))
        options = SMALL | {"module": start, "n_iterations": 150, "learning_rate": 0.02}
        seen = MongeMap(reference=generator.normal(size=(300, 2)), **options).fit(x, x[::-1] * 1.5)
        unseen = MongeMap(**options).fit(x, x[::-1] * 1.5)
        assert seen.module_.weight[1, 1] > -0.1
        assert unseen.module_.weight[1, 1] == -1

    def test_a_settled_loss_ends_training(self, generator):
        x = generator.normal(size=(60, 2))
        estimator = MongeMap(n_iterations=2000, **SMALL | {"learning_rate": 1e-9}).fit(x, x + 1)
        assert estimator.n_iter_ == 250

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"cost": "manhattan"}, ValueError, "cost must be one of"),
            ({"fit_cost": "manhattan"}, ValueError, "fit_cost must be one of"),
            ({"regularization": -1.0}, ValueError, "regularization must be"),
            ({"regularization": [1.0, 2.0]}, ValueError, "one for each of 5 iterations, got 2"),
            ({"n_iterations": 0}, ValueError, "n_iterations must be"),
            ({"batch_size": 1}, ValueError, "batch_size must be at least 2"),
            ({"hidden_sizes": (0,)}, ValueError, "hidden_sizes must be"),
            ({"learning_rate": 0.0}, ValueError, "learning_rate must be"),
            ({"initialization": "zeros"}, ValueError, "initialization must be one of"),
            ({"module": torch.tanh}, TypeError, "module must be"),
            ({"module": torch.nn.Linear(2, 3)}, ValueError, r"module must map shape \(40, 2\) to \(40, 2\)"),
            ({"reference": np.ones((5, 3))}, ValueError, "reference must have 2 columns"),
        ],
    )
    def test_errors(self, options, error, match, generator):
        x = generator.normal(size=(40, 2))
        with pytest.raises(error, match=match):
            MongeMap(**{"n_iterations": 5, "progress": False} | options).fit(x, x + 1)

    def test_target_must_match(self, generator):
        x = generator.normal(size=(40, 2))
        with pytest.raises(ValueError, match=r"y must have 2 columns as X has, got shape \(40, 3\)"):
            MongeMap().fit(x, generator.normal(size=(40, 3)))
        with pytest.raises(ValueError, match="y must have 2 columns"):
            MongeMap(_to_the_line, initialization="random", scale=True).fit(x, x[:, :1])
        with pytest.raises(ValueError, match="initialization='identity' needs"):
            MongeMap(_to_the_line).fit(x, x[:, :1])
        with pytest.raises(ValueError, match="relative_epsilon_fit needs a positive mean cost"):
            MongeMap(progress=False).fit(x, np.ones((40, 2)))
