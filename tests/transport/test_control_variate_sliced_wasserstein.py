"""The estimator against slow references, closed forms and POT."""

import copy
import tracemalloc
import warnings

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from paperworks.transport import (
    SlicedWassersteinLoss,
    sliced_wasserstein_distance,
    sliced_wasserstein_gradient_flow,
)
from paperworks.transport._quantiles import wasserstein_1d

CONTROL_VARIATES = ["lower", "upper", "both"]


def clouds(n=40, m=40, d=4, shift=1.0, scale=1.7, seed=0):
    """Two clouds that differ in mean, scale and shape."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), scale * rng.exponential(size=(m, d)) * np.linspace(0.3, 1.5, d) + shift


def directions(d, count, seed=0):
    normal = np.random.default_rng(seed).normal(size=(d, count))
    return normal / np.linalg.norm(normal, axis=0)


def slow_estimate(x, y, theta, p=2.0, control_variate="lower", coefficient="paper", a=None, b=None):
    """Z by the formulas, one direction after the other, with covariance matrices."""
    a = np.full(len(x), 1 / len(x)) if a is None else a / a.sum()
    b = np.full(len(y), 1 / len(y)) if b is None else b / b.sum()
    m1, m2 = a @ x, b @ y
    s1, s2 = (x - m1).T @ (a[:, None] * (x - m1)), (y - m2).T @ (b[:, None] * (y - m2))
    w, c = [], []
    for direction in theta.T:
        w.append(float(ot.wasserstein_1d(x @ direction, y @ direction, a, b, p=p)))
        low = (direction @ (m1 - m2)) ** 2
        up = low + direction @ s1 @ direction + direction @ s2 @ direction
        c.append({"lower": [low], "upper": [up], "both": [low, up]}[control_variate])
    low = (m1 - m2) @ (m1 - m2) / len(m1)
    up = low + (np.trace(s1) + np.trace(s2)) / len(m1)
    means = np.array({"lower": [low], "upper": [up], "both": [low, up]}[control_variate])
    w, c = np.array(w), np.array(c) - means
    about = c if coefficient == "paper" else c - c.mean(axis=0)
    gamma = np.linalg.solve(about.T @ about, c.T @ (w - w.mean()))
    return w.mean() - c.mean(axis=0) @ gamma, gamma, w, c


class TestQuantiles:
    @pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
    @pytest.mark.parametrize(("n", "m"), [(7, 7), (5, 8), (6, 9), (1, 4), (12, 3)])
    def test_agrees_with_pot_on_every_broadcast_pair(self, n, m, p):
        rng = np.random.default_rng(n + m)
        x, y = rng.normal(size=(3, 1, n)), np.round(rng.normal(size=(2, m)), 1)  # with duplicates
        a, b = rng.random(n), rng.random(m)
        b[-1] = 0.0 if m > 1 else b[-1]

        def reference(a, b):
            return [[ot.wasserstein_1d(x[i, 0], y[j], a, b, p=p) for j in range(2)] for i in range(3)]

        def ours(**weights):
            return wasserstein_1d(torch.from_numpy(x), torch.from_numpy(y), p, **weights).numpy()

        np.testing.assert_allclose(ours(), reference(None, None), rtol=1e-12)
        both = {"x_weights": torch.from_numpy(a), "y_weights": torch.from_numpy(b)}
        np.testing.assert_allclose(ours(**both), reference(a / a.sum(), b / b.sum()), rtol=1e-12)
        np.testing.assert_allclose(ours(x_weights=both["x_weights"]), reference(a / a.sum(), None), rtol=1e-12)
        uniform = {"x_weights": torch.ones(n), "y_weights": torch.ones(m)}
        np.testing.assert_allclose(ours(**uniform), reference(None, None), rtol=1e-12)

    def test_a_far_point_of_weight_zero_does_not_count(self):
        x, y = torch.tensor([0.0, 1.0, 1e12], dtype=torch.float64), torch.rand(7, dtype=torch.float64)
        weights = torch.tensor([0.3, 0.7, 0.0], dtype=torch.float64)
        expected = wasserstein_1d(x[:2], y, x_weights=weights[:2])
        assert wasserstein_1d(x, y, x_weights=weights).item() == pytest.approx(expected.item(), rel=1e-12)

    def test_weights_for_each_row(self):
        x, y, weights = torch.rand(3, 5), torch.rand(3, 4), torch.rand(3, 5)
        rows = [wasserstein_1d(x[i], y[i], x_weights=weights[i]) for i in range(3)]
        torch.testing.assert_close(wasserstein_1d(x, y, x_weights=weights), torch.stack(rows))

    @pytest.mark.parametrize("p", [1.0, 2.0, 2.5])
    @pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 6)])
    def test_gradients_in_points_and_weights(self, n, m, p):
        rng = torch.Generator().manual_seed(3)
        parts = [torch.rand(shape, generator=rng, dtype=torch.float64) for shape in ((2, n), (2, m), (n,), (m,))]
        x, y, a, b = (part.requires_grad_() for part in parts)
        assert torch.autograd.gradcheck(lambda x, y: wasserstein_1d(x, y, p), (x, y))
        assert torch.autograd.gradcheck(
            lambda x, y, a, b: wasserstein_1d(x, y, p, x_weights=a, y_weights=b), (x, y, a, b)
        )
        assert torch.autograd.gradgradcheck(lambda x, y: wasserstein_1d(x, y, 2.0), (x, y))

    def test_half_precision_goes_through_torch(self):
        x, y = torch.rand(3, 6), torch.rand(3, 6)
        half = wasserstein_1d(x.bfloat16(), y.bfloat16())
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), wasserstein_1d(x, y), atol=0.05, rtol=0.1)


class TestEstimator:
    @pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
    @pytest.mark.parametrize("m", [40, 33])
    def test_without_control_variate_it_is_pots(self, p, m):
        x, y = clouds(m=m)
        a, b, theta = np.random.default_rng(1).random(40), np.random.default_rng(2).random(m), directions(4, 25)
        ours = sliced_wasserstein_distance(x, y, p=p, control_variate=None, projections=theta)
        assert ours == pytest.approx(ot.sliced_wasserstein_distance(x, y, p=p, projections=theta), rel=1e-12)
        ours = sliced_wasserstein_distance(x, y, p=p, control_variate=None, projections=theta, x_weights=a, y_weights=b)
        theirs = ot.sliced_wasserstein_distance(x, y, a / a.sum(), b / b.sum(), p=p, projections=theta)
        assert ours == pytest.approx(theirs, rel=1e-12)

    @pytest.mark.parametrize("control_variate", CONTROL_VARIATES)
    @pytest.mark.parametrize("coefficient", ["paper", "regression"])
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("p", [1.0, 2.0])
    def test_agrees_with_the_slow_formulas(self, control_variate, coefficient, weighted, p):
        x, y = clouds(n=21, m=34)
        rng = np.random.default_rng(5)
        a, b = (rng.random(21), rng.random(34)) if weighted else (None, None)
        theta = directions(4, 30)
        ours = sliced_wasserstein_distance(
            x,
            y,
            p=p,
            control_variate=control_variate,
            coefficient=coefficient,
            projections=theta,
            x_weights=a,
            y_weights=b,
            return_details=True,
        )
        z, gamma, w, c = slow_estimate(x, y, theta, p, control_variate, coefficient, a, b)
        assert ours.value_power == pytest.approx(z, rel=1e-9)
        assert ours.value == pytest.approx(z ** (1 / p), rel=1e-9)
        np.testing.assert_allclose(ours.coefficient, gamma if len(gamma) > 1 else gamma[0], rtol=1e-7)
        residual = w - z - c @ gamma
        variance = (residual**2).sum() / (30 - 1 - len(gamma))
        assert ours.standard_error == pytest.approx(np.sqrt(variance / 30), rel=1e-7)
        assert ours.variance_reduction == pytest.approx(w.var(ddof=1) / variance, rel=1e-7)

    def test_auto_is_the_regression_from_ten_directions(self):
        x, y = clouds()
        for count, same_as in ((10, "regression"), (9, "paper")):
            theta = directions(4, count)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                auto = sliced_wasserstein_distance(x, y, projections=theta)
                other = sliced_wasserstein_distance(x, y, projections=theta, coefficient=same_as)
            assert auto == other

    @pytest.mark.parametrize("control_variate", CONTROL_VARIATES)
    def test_mean_over_repeats_is_the_true_value_and_the_spread_is_the_stated_one(self, control_variate):
        # A wrong mean B (the sample mean, or n - 1 in one of two variances) leaves a bias or no reduction.
        x, y = clouds(n=12, m=12)
        truth = sliced_wasserstein_distance(x, y, n_projections=400_000, squared=True, random_state=7)
        repeats = [
            sliced_wasserstein_distance(
                x,
                y,
                n_projections=100,
                control_variate=control_variate,
                random_state=seed,
                return_details=True,
            )
            for seed in range(400)
        ]
        values = np.array([each.value_power for each in repeats])
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean() - truth) < 4 * error
        assert np.mean([each.standard_error for each in repeats]) == pytest.approx(values.std(ddof=1), rel=0.15)
        reductions = [each.variance_reduction for each in repeats]
        assert np.median(reductions) > {"lower": 5, "upper": 5, "both": 5}[control_variate]

    def test_error_on_digits_falls_as_in_the_prototype(self):
        # Stricter than the claims: squared error against plain with the same directions.
        images, labels = load_digits(return_X_y=True)
        x, y = (torch.from_numpy(images[labels == digit][:178] / 16) for digit in (0, 1))
        truth = sliced_wasserstein_distance(x, y, n_projections=50_000, squared=True, random_state=1)
        stacks = [points.expand(400, *points.shape) for points in (x, y)]

        def error(count, control_variate, coefficient="paper"):
            options = {"n_projections": count, "control_variate": control_variate, "coefficient": coefficient}
            found = sliced_wasserstein_distance(*stacks, squared=True, random_state=0, **options)
            return float((found - truth).square().mean())

        assert error(10, "lower") < 0.35 * error(10, None)
        assert error(10, "upper") < 0.35 * error(10, None)
        assert error(10, "lower", "auto") < 0.05 * error(10, None)
        assert error(100, "lower") < 0.05 * error(100, None)
        assert error(100, "both", "auto") < error(100, "lower", "auto")

    @pytest.mark.parametrize("seed", range(3))
    def test_a_translation_is_exact_by_regression(self, seed):
        x, shift = clouds()[0], np.array([1.0, -2.0, 0.5, 3.0])
        for control_variate in ("lower", "both"):
            estimate = sliced_wasserstein_distance(
                x,
                x + shift,
                n_projections=12,
                control_variate=control_variate,
                random_state=seed,
                return_details=True,
            )
            assert estimate.value_power == pytest.approx(shift @ shift / 4, rel=1e-10)
            assert estimate.standard_error < 1e-6
            assert estimate.variance_reduction > 1e6

    def test_both_is_lower_with_few_directions_or_where_the_bounds_say_the_same(self):
        x, y = clouds()
        theta = directions(4, 7)
        with pytest.warns(UserWarning, match="fitted to 7 directions"):
            both = sliced_wasserstein_distance(x, y, projections=theta, control_variate="both", return_details=True)
        with pytest.warns(UserWarning, match="fitted to 7 directions"):
            lower = sliced_wasserstein_distance(x, y, projections=theta)
        assert both.value == pytest.approx(lower, rel=1e-12)
        assert both.coefficient[1] == 0
        # Points in one spot: both variances are 0, and the upper bound is the lower one.
        spots = np.zeros((5, 4)), np.ones((5, 4))
        both = sliced_wasserstein_distance(*spots, control_variate="both", random_state=0, return_details=True)
        assert both.value == pytest.approx(1.0, rel=1e-12)
        assert both.coefficient[1] == 0

    def test_both_uses_the_upper_bound_where_the_lower_one_is_constant(self):
        x, y = clouds()
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        theta = directions(4, 50)
        both = sliced_wasserstein_distance(x, y, projections=theta, control_variate="both", return_details=True)
        upper = sliced_wasserstein_distance(x, y, projections=theta, control_variate="upper", return_details=True)
        assert both.coefficient[0] == 0
        assert both.value == pytest.approx(upper.value, rel=1e-9)

    def test_one_dimension_is_exact(self):
        x, y = clouds(d=1, m=31)
        exact = ot.wasserstein_1d(x[:, 0], y[:, 0], p=2)
        for control_variate in ("lower", "upper", "both", None):
            estimate = sliced_wasserstein_distance(
                x, y, n_projections=20, control_variate=control_variate, random_state=1, return_details=True
            )
            assert estimate.value_power == pytest.approx(exact, rel=1e-12)
            assert np.all(estimate.coefficient == 0)

    @pytest.mark.parametrize("control_variate", [*CONTROL_VARIATES, None])
    def test_equal_samples_are_at_zero_with_gradient_zero(self, control_variate):
        x = torch.from_numpy(clouds()[0])
        moving = x.clone().requires_grad_()
        value = sliced_wasserstein_distance(moving, x, control_variate=control_variate, random_state=0)
        value.backward()
        assert value.item() == 0
        assert torch.equal(moving.grad, torch.zeros_like(x))

    def test_a_negative_estimate_gives_distance_zero_and_gradient_zero(self):
        rng = np.random.default_rng(0)
        for seed in range(300):
            x = torch.from_numpy(rng.normal(size=(4, 3)))
            y = x[[1, 0, 3, 2]] + 0.4 * torch.from_numpy(rng.normal(size=(4, 3)))
            options = {"n_projections": 3, "coefficient": "regression", "random_state": seed}
            x.requires_grad_()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                power = sliced_wasserstein_distance(x, y, squared=True, **options)
                value = sliced_wasserstein_distance(x, y, **options)
            value.backward()
            assert torch.isfinite(x.grad).all()
            if power < 0:
                break
        assert power < 0
        assert value == 0
        assert torch.equal(x.grad, torch.zeros_like(x))

    @given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
    @settings(max_examples=40, deadline=None)
    def test_the_bounds_bound_every_estimate(self, seed, n, m, d):
        # D^2 <= W_2^2 <= D^2 + s1^2 + s2^2 on every slice: the means, and the independent coupling.
        x, y = clouds(n, m, d, seed=seed)
        theta = directions(d, 11, seed)
        plain = sliced_wasserstein_distance(x, y, control_variate=None, projections=theta, squared=True)
        gaps = theta.T @ (x.mean(axis=0) - y.mean(axis=0))
        upper = gaps**2 + (x @ theta).var(axis=0) + (y @ theta).var(axis=0)
        assert (gaps**2).mean() <= plain * (1 + 1e-9) + 1e-12
        assert plain <= upper.mean() * (1 + 1e-9) + 1e-12
        # The same directions the other way round, permuted points, and a rotation of everything.
        swapped = sliced_wasserstein_distance(y, x, projections=theta, squared=True)
        permuted = sliced_wasserstein_distance(x[::-1].copy(), y, projections=theta, squared=True)
        turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
        turned = sliced_wasserstein_distance(x @ turn, y @ turn, projections=turn.T @ theta, squared=True)
        expected = sliced_wasserstein_distance(x, y, projections=theta, squared=True)
        np.testing.assert_allclose([swapped, permuted, turned], expected, rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize("control_variate", [*CONTROL_VARIATES, None])
    @pytest.mark.parametrize("p", [1.0, 2.0])
    def test_scales_with_the_data_and_ignores_where_it_lies(self, control_variate, p):
        x, y = clouds()
        options = {"p": p, "control_variate": control_variate, "random_state": 2}
        value = sliced_wasserstein_distance(x, y, **options)
        for scale in (1e-9, 1e9):
            assert sliced_wasserstein_distance(scale * x, scale * y, **options) == pytest.approx(scale * value)
        assert sliced_wasserstein_distance(x + 1e6, y + 1e6, **options) == pytest.approx(value, rel=1e-7)
        single = [(part + 1000.0).astype(np.float32) for part in (x, y)]
        assert sliced_wasserstein_distance(*single, **options) == pytest.approx(value, rel=2e-4)


class TestGradients:
    @pytest.mark.parametrize("control_variate", [*CONTROL_VARIATES, None])
    @pytest.mark.parametrize("coefficient", ["paper", "regression"])
    def test_gradcheck_in_points(self, control_variate, coefficient):
        x, y = (torch.from_numpy(part).requires_grad_() for part in clouds(n=6, m=5, d=3))

        def distance(x, y):
            return sliced_wasserstein_distance(
                x, y, n_projections=12, control_variate=control_variate, coefficient=coefficient, random_state=0
            )

        assert torch.autograd.gradcheck(distance, (x, y))

    def test_gradcheck_in_weights(self):
        x, y = (torch.from_numpy(part).requires_grad_() for part in clouds(n=6, m=5, d=3))
        a = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

        def distance(x, a):
            return sliced_wasserstein_distance(
                x, y, n_projections=12, control_variate="upper", x_weights=a, random_state=0, squared=True
            )

        assert torch.autograd.gradcheck(distance, (x, a))

    def test_a_detached_coefficient_weights_the_gradients_of_the_slices(self):
        x, y = (torch.from_numpy(part) for part in clouds(n=8, m=8, d=3))
        theta = torch.from_numpy(directions(3, 15))
        x.requires_grad_()
        options = {"projections": theta, "squared": True}
        details = sliced_wasserstein_distance(x, y, return_details=True, **options)
        value = sliced_wasserstein_distance(x, y, detach_coefficient=True, **options)
        (ours,) = torch.autograd.grad(value, x)
        slices = wasserstein_1d((x @ theta).mT, (y @ theta).mT)
        shift = x.mean(dim=0) - y.mean(dim=0)
        bound = (theta.mT @ shift).square() - shift.square().sum() / 3
        (expected,) = torch.autograd.grad((slices - float(details.coefficient) * bound).mean(), x)
        torch.testing.assert_close(ours, expected)
        (through,) = torch.autograd.grad(sliced_wasserstein_distance(x, y, **options), x)
        assert not torch.allclose(ours, through)

    def test_the_gradient_does_not_depend_on_chunks(self):
        x, y = (torch.from_numpy(part) for part in clouds(n=30, m=20))
        found = []
        for max_memory in (2**29, 10_000, 1):
            moving = x.clone().requires_grad_()
            value = sliced_wasserstein_distance(
                moving, y, control_variate="both", n_projections=40, random_state=0, max_memory=max_memory
            )
            value.backward()
            found.append((value.detach(), moving.grad))
        for value, gradient in found[1:]:
            torch.testing.assert_close(value, found[0][0], rtol=1e-10, atol=0)
            torch.testing.assert_close(gradient, found[0][1], rtol=1e-9, atol=1e-12)


class TestOptions:
    @pytest.mark.parametrize("weighted", [False, True])
    def test_chunks_change_nothing_and_bound_memory(self, weighted):
        x, y = clouds(n=500, m=400)
        a = np.arange(1.0, 501.0) if weighted else None
        options = {"n_projections": 3000, "x_weights": a, "random_state": 0, "return_details": True}
        whole = sliced_wasserstein_distance(x, y, **options)
        tracemalloc.start()
        parts = sliced_wasserstein_distance(x, y, max_memory=2**20, **options)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**21
        for name in ("value", "coefficient", "standard_error", "variance_reduction"):
            assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9)

    @pytest.mark.parametrize("control_variate", [*CONTROL_VARIATES, None])
    def test_batches(self, control_variate):
        pairs = [clouds(m=33, seed=seed) for seed in range(3)]
        x, y = (np.stack(parts) for parts in zip(*pairs, strict=True))
        options = {"n_projections": 20, "control_variate": control_variate, "random_state": 4}
        shared = sliced_wasserstein_distance(x, y, share_projections=True, **options)
        np.testing.assert_allclose(shared, [sliced_wasserstein_distance(*pair, **options) for pair in pairs])
        same = np.stack([x[0]] * 3), np.stack([y[0]] * 3)
        independent = sliced_wasserstein_distance(*same, **options)
        assert len(set(independent.tolist())) == 3
        chunked = sliced_wasserstein_distance(x, y, max_memory=1, **options)
        np.testing.assert_allclose(chunked, sliced_wasserstein_distance(x, y, **options), rtol=1e-10)
        details = sliced_wasserstein_distance(x, y, return_details=True, x_weights=np.ones(40), **options)
        assert details.value.shape == details.standard_error.shape == details.variance_reduction.shape == (3,)
        assert details.coefficient.shape == ((3, 2) if control_variate == "both" else (3,))

    def test_random_state(self):
        x, y = clouds()
        once = sliced_wasserstein_distance(x, y, random_state=3)
        assert sliced_wasserstein_distance(x, y, random_state=3) == once
        assert sliced_wasserstein_distance(x, y, random_state=4) != once
        for generator in (np.random.default_rng(0), torch.Generator(), np.random.RandomState(0)):
            first = sliced_wasserstein_distance(x, y, random_state=generator)
            assert sliced_wasserstein_distance(x, y, random_state=generator) != first
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        sliced_wasserstein_distance(x, y)
        assert torch.equal(torch.get_rng_state(), state[0])
        assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002

    def test_dtypes_and_kinds(self):
        x, y = clouds()
        double = sliced_wasserstein_distance(x, y, random_state=0)
        assert type(double) is float
        single = sliced_wasserstein_distance(torch.from_numpy(x).float(), torch.from_numpy(y).float(), random_state=0)
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(double, rel=1e-5)
        wide = sliced_wasserstein_distance(torch.from_numpy(x), torch.from_numpy(y), random_state=0)
        assert wide.dtype == torch.float64
        assert wide.shape == ()
        projections = directions(4, 30)
        narrow = sliced_wasserstein_distance(x.astype(np.float32), y.astype(np.float32), projections=projections)
        assert narrow == pytest.approx(sliced_wasserstein_distance(x, y, projections=projections), rel=1e-5)

    def test_one_direction(self):
        x, y = clouds()
        with pytest.warns(UserWarning, match="fitted to 1 directions"):
            one = sliced_wasserstein_distance(x, y, n_projections=1, random_state=0, return_details=True)
        plain = sliced_wasserstein_distance(x, y, n_projections=1, control_variate=None, random_state=0)
        assert one.value == pytest.approx(plain, rel=1e-12)
        assert one.coefficient == pytest.approx(0, abs=1e-12)
        assert one.standard_error == np.inf

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"y": np.ones((3, 2))}, ValueError, "x and y must have the same number of columns, got 3 and 2"),
            ({"x": np.ones((2, 4, 3))}, ValueError, "two samples or two batches of one size"),
            ({"x": np.ones(3)}, ValueError, "x must have 2 or 3 dimensions"),
            ({"x": np.ones((0, 3))}, ValueError, "x is empty"),
            ({"y": np.array([[0.0, np.nan, 1.0]])}, ValueError, r"y contains NaN or infinity, first at index \(0, 1\)"),
            ({"x": np.array([[0.0, np.inf, 1.0]])}, ValueError, "x contains NaN or infinity"),
            ({"x": np.ones((4, 3), dtype=int)}, TypeError, "x must hold floating-point numbers, got int64"),
            ({"n_projections": 0}, ValueError, "n_projections must be at least 1, got 0"),
            ({"n_projections": 2.5}, TypeError, "n_projections must be an integer"),
            ({"p": 0.5}, ValueError, "p must be a finite number at least 1, got 0.5"),
            ({"p": np.inf}, ValueError, "p must be a finite number"),
            ({"control_variate": "middle"}, ValueError, "must be one of 'lower', 'upper', 'both', None, got 'middle'"),
            ({"coefficient": "best"}, ValueError, "must be one of 'auto', 'paper', 'regression', got 'best'"),
            ({"x_weights": np.ones(3)}, ValueError, "x_weights must have length 4, got 3"),
            ({"y_weights": np.array([1.0, -1, 1, 1])}, ValueError, "y_weights must not be negative, got -1 at index 1"),
            ({"y_weights": np.zeros(4)}, ValueError, "y_weights must have a positive sum"),
            ({"x_weights": np.array([1, 1, 1, 1])}, TypeError, "x_weights must hold floating-point numbers"),
            ({"projections": np.ones((3, 5))}, ValueError, "columns of unit length, got 1.73205 in column 0"),
            (
                {"projections": directions(2, 5)},
                ValueError,
                r"one row for each of the 3 columns of x, got shape \(2, 5",
            ),
            ({"x": np.full((4, 3), 1e200)}, ValueError, "x and y are too large"),
            ({"max_memory": 0}, ValueError, "max_memory must be at least 1"),
            ({"random_state": -1}, ValueError, "random_state must not be negative"),
        ],
    )
    def test_errors_name_the_argument(self, change, error, message):
        arguments = {"x": np.ones((4, 3)), "y": np.zeros((4, 3))} | change
        with pytest.raises(error, match=message):
            sliced_wasserstein_distance(**arguments)


class TestLoss:
    def test_fresh_directions_from_its_own_generator(self):
        x, y = (torch.from_numpy(part) for part in clouds())
        loss, twin = (SlicedWassersteinLoss(20, random_state=5) for _ in range(2))
        values = [loss(x, y).item() for _ in range(3)]
        assert len(set(values)) == 3
        assert [twin(x, y).item() for _ in range(3)] == values
        assert copy.deepcopy(loss)(x, y) == twin(x, y)

    def test_is_the_function_with_its_options(self):
        x, y = (torch.from_numpy(part) for part in clouds())
        options = {"p": 1.0, "control_variate": "upper", "coefficient": "paper", "squared": True}
        weights = torch.rand(40, dtype=torch.float64)
        loss = SlicedWassersteinLoss(20, random_state=5, **options)
        expected = sliced_wasserstein_distance(x, y, n_projections=20, random_state=5, x_weights=weights, **options)
        assert loss(x, y, x_weights=weights) == expected
        assert "control_variate='upper'" in repr(loss)

    def test_bad_options_are_refused_at_once(self):
        with pytest.raises(ValueError, match="control_variate must be one of"):
            SlicedWassersteinLoss(control_variate="middle")
        with pytest.raises(ValueError, match="p must be"):
            SlicedWassersteinLoss(p=0)


class TestGradientFlow:
    @pytest.mark.parametrize("control_variate", ["lower", None])
    def test_steps_descend_n_times_the_distance(self, control_variate):
        source, target = clouds(n=9, m=7, d=3)
        flow = sliced_wasserstein_gradient_flow(
            source,
            target,
            n_steps=3,
            learning_rate=0.3,
            n_projections=12,
            control_variate=control_variate,
            random_state=np.random.default_rng(8),
            record_every=1,
        )
        points, generator = torch.from_numpy(source), np.random.default_rng(8)
        for step in range(3):
            points = points.detach().requires_grad_()
            distance = sliced_wasserstein_distance(
                points,
                torch.from_numpy(target),
                n_projections=12,
                control_variate=control_variate,
                random_state=generator,
            )
            (9 * distance).backward()
            assert flow.losses[step] == pytest.approx(distance.item(), rel=1e-12)
            points = points.detach() - 0.3 * points.grad
            np.testing.assert_allclose(flow.history[step + 1], points.numpy(), rtol=1e-10)
        np.testing.assert_array_equal(flow.points, flow.history[-1])
        np.testing.assert_array_equal(flow.history[0], source)
        assert flow.steps == (0, 1, 2, 3)

    def test_points_reach_the_target_and_the_source_stays(self):
        source, target = clouds(n=30, m=30, d=2, shift=3.0)
        before = source.copy()
        flow = sliced_wasserstein_gradient_flow(source, target, n_steps=300, learning_rate=0.1, random_state=0)
        np.testing.assert_array_equal(source, before)
        weights = np.full(30, 1 / 30)
        left = ot.emd2(weights, weights, ot.dist(flow.points, target))
        assert left < 0.02 * ot.emd2(weights, weights, ot.dist(source, target))
        assert flow.history.shape == (0, 30, 2)
        assert flow.steps == ()

    def test_tensors_keep_their_kind(self):
        source = torch.rand(5, 2, requires_grad=True)
        with torch.no_grad():
            flow = sliced_wasserstein_gradient_flow(source, torch.rand(6, 2), n_steps=2, learning_rate=0.1)
        assert flow.points.dtype == torch.float32
        assert not flow.points.requires_grad

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"target": np.ones((4, 2))}, ValueError, "source and target must have the same number of columns"),
            ({"source": np.ones((2, 4, 3))}, ValueError, "source must have 2 dimensions"),
            ({"n_steps": 0}, ValueError, "n_steps must be at least 1"),
            ({"learning_rate": 0.0}, ValueError, "learning_rate must be a finite number greater than 0"),
            ({"record_every": 0}, ValueError, "record_every must be at least 1"),
            ({"control_variate": "middle"}, ValueError, "control_variate must be one of"),
        ],
    )
    def test_errors(self, change, error, message):
        arguments = {"source": np.ones((4, 3)), "target": np.zeros((4, 3)), "n_steps": 2, "learning_rate": 0.1}
        with pytest.raises(error, match=message):
            sliced_wasserstein_gradient_flow(**(arguments | change))
