import pickle
from itertools import permutations
from math import log, sqrt

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.autograd import gradcheck

from paperworks.transport.wasserstein_dependency import (
    SpectralEncoder,
    WassersteinDependencyEncoder,
    WassersteinPredictiveCodingLoss,
    contrastive_scores,
    gradient_penalty,
    make_spatial_multi_digits,
    wasserstein_dependency_exact,
)
from paperworks.transport.wasserstein_dependency._loss import contrastive_dependency, difference_of_means
from paperworks.transport.wasserstein_dependency._penalty import derangement, slope_penalty

SMALL = {"n_components": 4, "hidden_sizes": (16,), "batch_size": 32, "n_iterations": 60, "random_state": 0,
         "progress": False, "device": "cpu"}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    # Networks of this size are slower on two threads, and much slower when others use the second core.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def encoders(seed=0, d=3, dtype=torch.float64, activation=nn.Tanh):
    torch.manual_seed(seed)
    return [nn.Sequential(nn.Linear(d, 5), activation(), nn.Linear(5, 4)).to(dtype) for _ in range(2)]


def views(n=6, d=3, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=drawn, dtype=torch.float64) for _ in range(2)]


class Wave(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, x):
        return torch.sin(self.k * x)


class TestScores:
    def test_entry_by_entry(self, generator):
        z_x, z_y, weight = generator.normal(size=(4, 2)), generator.normal(size=(5, 3)), generator.normal(size=(2, 3))
        scores = contrastive_scores(z_x, z_y, weight)
        for i in range(4):
            for j in range(5):
                assert scores[i, j] == pytest.approx(z_x[i] @ weight @ z_y[j])
        batch = contrastive_scores(np.stack([z_x, 2 * z_x]), np.stack([z_y, z_y]), weight)
        np.testing.assert_allclose(batch[1], 2 * scores)
        assert (
            contrastive_scores(z_x.astype(np.float32), z_y.astype(np.float32), weight.astype(np.float32)).dtype
            == np.float32
        )

    def test_gradient(self):
        arguments = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 2), (4, 2), (2, 2))]
        assert gradcheck(contrastive_scores, arguments)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((np.ones((3, 2)), np.ones((3, 4))), ValueError, "z_x has 2 columns, z_y has 4"),
            ((np.ones((3, 2)), np.ones((3, 2)), np.ones((2, 3))), ValueError, "weight must have shape"),
            ((np.ones((2, 3, 2)), np.ones((3, 3, 2))), ValueError, "same batch"),
            ((np.ones(3), np.ones(3)), ValueError, "z_x must have 2 or 3 dimensions"),
            ((np.ones((3, 2), int), np.ones((3, 2))), TypeError, "z_x must hold floating-point"),
            ((np.ones((3, 2)), np.full((3, 2), np.nan)), ValueError, "z_y contains NaN"),
        ],
    )
    def test_bad_input_is_named(self, arguments, error, message):
        with pytest.raises(error, match=message):
            contrastive_scores(*arguments)


class TestDependency:
    def test_is_cross_entropy_of_finding_the_pair(self):
        scores = torch.randn(7, 7, dtype=torch.float64)
        expected = log(7) - nn.functional.cross_entropy(scores, torch.arange(7))
        torch.testing.assert_close(contrastive_dependency(scores), expected)
        both = (expected + log(7) - nn.functional.cross_entropy(scores.T, torch.arange(7))) / 2
        torch.testing.assert_close(contrastive_dependency(scores, symmetric=True), both)

    def test_bound_at_log_batch_is_due_to_the_positive(self):
        sharp = 100 * torch.eye(8, dtype=torch.float64)
        assert contrastive_dependency(sharp).item() == pytest.approx(log(8))
        assert contrastive_dependency(sharp, include_positive=False).item() == pytest.approx(100)

    def test_without_the_positive_term_by_term(self):
        scores = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
        terms = [
            scores[i, i] - torch.stack([scores[i, j].exp() for j in range(5) if j != i]).mean().log() for i in range(5)
        ]
        found = contrastive_dependency(scores, include_positive=False)
        torch.testing.assert_close(found, torch.stack(terms).mean())
        (gradient,) = torch.autograd.grad(found, scores)
        torch.testing.assert_close(gradient.diagonal(), torch.full((5,), 0.2, dtype=torch.float64))

    def test_no_information_is_no_dependency(self):
        assert contrastive_dependency(torch.ones(9, 9)).item() == pytest.approx(0, abs=1e-6)
        assert difference_of_means(torch.ones(9, 9)).item() == pytest.approx(0, abs=1e-6)

    def test_difference_of_means(self):
        scores = torch.randn(6, 6, dtype=torch.float64)
        off = scores[~torch.eye(6, dtype=torch.bool)]
        torch.testing.assert_close(difference_of_means(scores), scores.diagonal().mean() - off.mean())


class TestPenalty:
    def test_norm_is_joint_over_both_views(self):
        # Per-view norms of 3 and 4: jointly 5.
        x, y = views()
        found = gradient_penalty(lambda x, y: 3 * x[:, 0] + 4 * y[:, 2], x, y, y.flip(0))
        torch.testing.assert_close(found, torch.tensor(16.0, dtype=torch.float64))
        found = gradient_penalty(lambda x, y: 0.3 * x[:, 0] + 0.4 * y[:, 2], x, y, y.flip(0), two_sided=False)
        assert found.item() == 0.0
        found = gradient_penalty(lambda x, y: 0.3 * x[:, 0] + 0.4 * y[:, 2], x, y, y.flip(0), target=2.0)
        assert found.item() == pytest.approx(2.25)

    def test_slope_by_finite_differences_at_the_interpolates(self):
        phi, psi = encoders()
        x, y = views()
        seen = []

        def critic(x, y):
            seen.append((x.detach().clone(), y.detach().clone()))
            return (phi(x) * psi(y)).sum(1)

        found = gradient_penalty(critic, x, y, y.flip(0), random_state=3).item()
        x_hat, y_hat = seen[0]
        torch.testing.assert_close(x_hat, x)
        # Each point lies on the segment between y and its negative, at one e a row.
        shares = (y_hat - y.flip(0)) / (y - y.flip(0))
        torch.testing.assert_close(shares, shares[:, :1].expand_as(shares))
        assert ((shares > 0) & (shares < 1)).all()
        assert shares[:, 0].std() > 0.05
        norms = torch.zeros(len(x), dtype=torch.float64)
        for view in (0, 1):
            for k in range(3):
                step = torch.zeros(3, dtype=torch.float64)
                step[k] = 1e-6
                ends = [[p + sign * step if v == view else p for v, p in enumerate((x_hat, y_hat))] for sign in (1, -1)]
                with torch.no_grad():
                    slope = ((phi(ends[0][0]) * psi(ends[0][1])) - (phi(ends[1][0]) * psi(ends[1][1]))).sum(1) / 2e-6
                norms += slope**2
        assert found == pytest.approx((norms.sqrt() - 1).square().mean().item(), rel=1e-6)

    def test_gradient_by_the_weights(self):
        x, y = views(4, 2)
        y_negative = y.flip(0)

        def penalty(a, b, two_sided):
            critic = lambda x, y: (torch.tanh(x @ a) * torch.tanh(y @ b)).sum(1)  # noqa: E731
            return gradient_penalty(critic, x, y, y_negative, two_sided=two_sided, random_state=0, target=0.3)

        weights = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        for two_sided in (True, False):
            assert gradcheck(lambda a, b, sided=two_sided: penalty(a, b, sided), weights)

    def test_moves_in_both_views_by_the_same_share(self):
        x, y = views()
        seen = {}

        def critic(x, y):
            seen["x"], seen["y"] = x.detach(), y.detach()
            return (x * y).sum(1)

        gradient_penalty(critic, x, y, y.flip(0), x_negative=x.flip(0), random_state=0)
        shares = [(seen[k] - v.flip(0)) / (v - v.flip(0)) for k, v in (("x", x), ("y", y))]
        torch.testing.assert_close(*shares)

    def test_flat_critic_has_no_nan(self):
        weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        x, y = views()
        penalty = gradient_penalty(lambda x, y: (x * weight).sum(1) + 0 * y.sum(1), x, y, y.flip(0))
        penalty.backward()
        assert penalty.item() == 1.0
        assert torch.isfinite(weight.grad).all()

    def test_numpy_gives_a_float(self):
        x = np.ones((3, 2))
        assert gradient_penalty(lambda x, y: 2 * x[:, 0], x, x, x) == 1.0

    def test_derangement_moves_everything(self):
        drawn = torch.Generator().manual_seed(0)
        for n in (2, 3, 10):
            for _ in range(20):
                partner = derangement(n, drawn)
                assert sorted(partner.tolist()) == list(range(n))
                assert (partner != torch.arange(n)).all()

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"y": torch.ones(5, 3), "y_negative": torch.ones(5, 3)}, ValueError, "x has 6 rows, y has 5"),
            ({"y_negative": torch.ones(6, 2)}, ValueError, "y_negative must have the shape of y"),
            ({"x_negative": torch.ones(6, 2)}, ValueError, "x_negative must have the shape of x"),
            ({"x": torch.full((6, 3), torch.inf)}, ValueError, "x contains NaN or infinity"),
            ({"x": torch.ones(6, 3, dtype=torch.int64)}, TypeError, "x must hold floating-point"),
            ({"critic": lambda x, y: (x * y).sum()}, ValueError, "critic must return 6 scores"),
            ({"target": -1.0}, ValueError, "target must be"),
        ],
    )
    def test_bad_input_is_named(self, change, error, message):
        x = torch.ones(6, 3)
        arguments = {"critic": lambda x, y: (x * y).sum(1), "x": x, "y": x, "y_negative": x} | change
        with pytest.raises(error, match=message):
            gradient_penalty(**arguments)


class TestLoss:
    def test_cpc_is_info_nce(self):
        phi, psi = encoders()
        x, y = views()
        expected = nn.functional.cross_entropy(phi(x) @ psi(y).T, torch.arange(6)) - log(6)
        for objective, weight in (("cpc", 10.0), ("wpc", 0.0)):
            found = WassersteinPredictiveCodingLoss(objective, weight)(phi, psi, x, y)
            torch.testing.assert_close(found.loss, expected)
            torch.testing.assert_close(found.dependency, -expected)
            assert found.gradient_norm is None
            assert not found.dependency.requires_grad

    @pytest.mark.parametrize("interpolate", ["second", "both"])
    @pytest.mark.parametrize("objective", ["wpc", "wdm"])
    def test_fused_step_equals_the_parts(self, objective, interpolate):
        """One pass through the first encoder serves scores and penalty: value and gradients are those of two."""
        phi, psi = encoders()
        x, y = views()
        loss = WassersteinPredictiveCodingLoss(
            objective, 3.0, two_sided=True, interpolate=interpolate, weight_size=4, random_state=5
        ).double()
        with torch.no_grad():
            loss.weight += 0.1 * torch.randn(4, 4, dtype=torch.float64)
        found = loss(phi, psi, x, y)
        parameters = [*phi.parameters(), *psi.parameters(), loss.weight]
        gradients = torch.autograd.grad(found.loss, parameters)

        drawn = torch.Generator().manual_seed(5)
        e = torch.rand(6, generator=drawn)
        y_negative = y[derangement(6, drawn)]
        x_negative = x[derangement(6, drawn)] if interpolate == "both" else None
        scores = phi(x) @ loss.weight @ psi(y).T
        value = contrastive_dependency(scores) if objective == "wpc" else difference_of_means(scores)
        share = e[:, None].double()
        x_hat = x if x_negative is None else share * x + (1 - share) * x_negative
        points = [x_hat.clone().requires_grad_(), (share * y + (1 - share) * y_negative).requires_grad_()]
        scalar = ((phi(points[0]) @ loss.weight) * psi(points[1])).sum()
        by_x, by_y = torch.autograd.grad(scalar, points, create_graph=True)
        penalty = ((by_x.square().sum(1) + by_y.square().sum(1)).sqrt() - 1).square().mean()
        expected = 3.0 * penalty - value
        torch.testing.assert_close(found.loss, expected)
        torch.testing.assert_close(found.penalty, penalty.detach())
        for one, other in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
            torch.testing.assert_close(one, other)

    def test_lazy_penalty_is_k_times_as_much_every_kth_step(self):
        phi, psi = (nn.Sequential(nn.Linear(3, 4).double(), nn.Tanh()) for _ in range(2))
        x, y = views()
        with torch.no_grad():
            phi[0].weight *= 10
        every = WassersteinPredictiveCodingLoss(random_state=1)(phi, psi, x, y)
        lazy_loss = WassersteinPredictiveCodingLoss(penalty_every=4, random_state=1)
        lazy = [lazy_loss(phi, psi, x, y) for _ in range(5)]
        assert every.penalty > 0
        torch.testing.assert_close(lazy[0].loss + lazy[0].dependency, 4 * (every.loss + every.dependency))
        assert [each.gradient_norm is None for each in lazy] == [False, True, True, True, False]
        torch.testing.assert_close(lazy[1].loss, -lazy[1].dependency)

    def test_penalty_is_on_the_inputs_not_on_the_codes(self):
        """Codes that are steep in the data are penalised, whatever the critic's slope by the codes."""
        x, y = views(64, 1)
        flat, steep = (
            WassersteinPredictiveCodingLoss(random_state=0)(Wave(k), Wave(k), x, y).gradient_norm for k in (1.0, 10.0)
        )
        assert steep.median() > 5 * flat.median()

    def test_in_place_activation_changes_nothing(self):
        x, y = views()
        values = []
        for in_place in (False, True):
            phi, psi = encoders(activation=lambda in_place=in_place: nn.ReLU(inplace=in_place))
            found = WassersteinPredictiveCodingLoss(random_state=0, two_sided=True)(phi, psi, x, y)
            values.append([found.loss, *torch.autograd.grad(found.loss, [phi[0].weight, psi[2].weight])])
        for one, other in zip(*values, strict=True):
            torch.testing.assert_close(one, other)

    def test_batch_norm_is_refused_where_there_is_a_penalty(self):
        phi = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
        x, y = views()
        with pytest.raises(ValueError, match=r"'1' is a BatchNorm1d.*LayerNorm or GroupNorm"):
            WassersteinPredictiveCodingLoss()(phi, phi, x, y)
        assert torch.isfinite(WassersteinPredictiveCodingLoss("cpc")(phi, phi, x, y).loss)
        norm = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).double()
        assert torch.isfinite(WassersteinPredictiveCodingLoss()(norm, norm, x, y).loss)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"objective": "nce"}, ValueError, "objective must be one of"),
            ({"penalty_weight": -1.0}, ValueError, "penalty_weight must be"),
            ({"penalty_every": 0}, ValueError, "penalty_every must be at least 1"),
            ({"interpolate": "first"}, ValueError, "interpolate must be one of"),
            ({"weight_size": 1.5}, TypeError, "weight_size must be an integer"),
        ],
    )
    def test_bad_parameters_are_named(self, arguments, error, message):
        with pytest.raises(error, match=message):
            WassersteinPredictiveCodingLoss(**arguments)

    @pytest.mark.parametrize(
        ("x", "y", "error", "message"),
        [
            (torch.ones(4, 3), torch.ones(5, 3), ValueError, "x has 4 rows, y has 5"),
            (torch.ones(1, 3), torch.ones(1, 3), ValueError, "at least 2 pairs"),
            (torch.ones(4, 3), torch.full((4, 3), torch.nan), ValueError, "y contains NaN"),
            (torch.ones(4, 3, dtype=torch.int64), torch.ones(4, 3), TypeError, "x must be a floating-point tensor"),
            (torch.ones(4), torch.ones(4), ValueError, "x must have rows"),
        ],
    )
    def test_bad_batches_are_named(self, x, y, error, message):
        with pytest.raises(error, match=message):
            WassersteinPredictiveCodingLoss()(nn.Identity(), nn.Identity(), x, y)


class TestSpectral:
    def module(self):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        ).double()  # fmt: skip

    def test_convolution_bound_is_above_the_operator_norm(self):
        for stride, size, dilation in ((1, 3, 1), (2, 3, 1), (3, 2, 1), (1, 3, 2)):
            torch.manual_seed(stride)
            layer = nn.Conv2d(2, 3, size, stride=stride, padding=1, dilation=dilation, bias=False).double()
            with torch.no_grad():
                layer.weight.abs_()  # the worst case: patches add up
            encoder = SpectralEncoder(layer, radius=1e6).eval()
            images = torch.eye(2 * 8 * 8, dtype=torch.float64).reshape(-1, 2, 8, 8)
            with torch.no_grad():
                operator = nn.functional.conv2d(
                    images, encoder._weights()["weight"], stride=stride, padding=1, dilation=dilation
                ).flatten(1)
            norm = torch.linalg.matrix_norm(operator, ord=2).item()
            assert 0.3 < norm <= 1.0 + 1e-9

    def test_critic_is_never_steeper_than_the_bound(self):
        phi, psi = (SpectralEncoder(self.module(), radius=0.05).eval() for _ in range(2))
        bound = sqrt(0.05 / sqrt(2)) * sqrt(phi.lipschitz_bound() ** 2 + psi.lipschitz_bound() ** 2)
        assert bound == pytest.approx(1.0)
        drawn = torch.Generator().manual_seed(0)
        points = [50 * torch.randn(64, 2, 9, 9, generator=drawn, dtype=torch.float64) for _ in range(4)]
        with torch.no_grad():
            rise = ((phi(points[0]) * psi(points[1])) - (phi(points[2]) * psi(points[3]))).sum(1).abs()
        run = sum((points[k] - points[k + 2]).flatten(1).square().sum(1) for k in (0, 1)).sqrt()
        assert (rise <= run).all()
        assert phi(points[0]).norm(dim=1).max() <= sqrt(0.05 / sqrt(2)) + 1e-12

    def test_linear_layers_reach_slope_one(self):
        torch.manual_seed(0)
        encoder = SpectralEncoder(nn.Linear(4, 4, bias=False).double(), radius=100.0).eval()
        top = torch.linalg.svd(encoder.module.weight)[2][:1]
        slope = encoder(top).norm() * sqrt(sqrt(2) * 100.0)
        assert slope.item() == pytest.approx(1.0)

    def test_power_iteration_follows_the_norm(self):
        encoder = SpectralEncoder(nn.Linear(6, 5)).train()
        x = torch.randn(3, 6)
        trained = encoder(x)
        torch.testing.assert_close(trained, encoder.eval()(x))

    @pytest.mark.parametrize(
        "layer", [nn.GELU(), nn.LayerNorm(4), nn.LeakyReLU(2.0), nn.AdaptiveAvgPool2d(2), nn.BatchNorm1d(4)]
    )
    def test_layers_without_a_bound_are_refused(self, layer):
        with pytest.raises(ValueError, match=f"'1' of type {type(layer).__name__}"):
            SpectralEncoder(nn.Sequential(nn.Linear(4, 4), layer))

    def test_other_errors(self):
        with pytest.raises(TypeError, match="module must be"):
            SpectralEncoder("mlp")
        with pytest.raises(ValueError, match="radius must be"):
            SpectralEncoder(nn.Linear(2, 2), radius=0.0)
        with pytest.raises(ValueError, match="padding_mode"):
            SpectralEncoder(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))


class TestExact:
    def test_brute_force(self, generator):
        x, y = generator.normal(size=(5, 2)), generator.normal(size=(5, 1))
        found = wasserstein_dependency_exact(x, y, n_shuffles=3, random_state=0)
        order = np.random.default_rng(0).permutation(5)
        joint, product = np.hstack([x, y]), np.hstack([x, y[order]])
        costs = [np.linalg.norm(joint - product[list(chosen)], axis=1).mean() for chosen in permutations(range(5))]
        assert found.value == pytest.approx(min(costs))

    def test_agrees_with_pot(self, generator):
        ot = pytest.importorskip("ot")
        x, y = generator.normal(size=(80, 3)), generator.normal(size=(80, 2))
        found = wasserstein_dependency_exact(x, y, n_shuffles=1, random_state=7)
        other = np.hstack([x, y[np.random.default_rng(7).permutation(80)]])
        cost = ot.dist(np.hstack([x, y]), other, metric="euclidean")
        assert found.value == pytest.approx(ot.emd2([], [], cost))

    def test_independence_is_told_from_dependence(self, generator):
        x, noise = generator.normal(size=(150, 1)), generator.normal(size=(150, 1))
        independent = wasserstein_dependency_exact(x, noise, random_state=0)
        dependent = wasserstein_dependency_exact(x, np.cos(2 * x), random_state=0)
        assert abs(independent.debiased) < 3 * independent.null_std
        assert independent.p_value > 0.05
        assert dependent.p_value == pytest.approx(1 / 21)
        assert dependent.debiased > 0.2
        assert dependent.debiased == dependent.value - dependent.null_mean

    def test_scales_with_the_data_and_not_with_its_place(self, generator):
        x, y = generator.normal(size=(40, 2)), generator.normal(size=(40, 2))
        one = wasserstein_dependency_exact(x, y, random_state=0)
        other = wasserstein_dependency_exact(torch.from_numpy(3 * x + 5), torch.from_numpy(3 * y - 2), random_state=0)
        assert other.value == pytest.approx(3 * one.value)
        assert other.null_mean == pytest.approx(3 * one.null_mean)

    def test_null_is_uniform(self):
        """P-values of independent views are spread evenly: the test holds its level."""
        values = []
        for seed in range(60):
            drawn = np.random.default_rng(seed)
            x, y = drawn.normal(size=(20, 1)), drawn.normal(size=(20, 1))
            values.append(wasserstein_dependency_exact(x, y, n_shuffles=9, random_state=seed).p_value)
        assert 0.4 < np.mean(values) < 0.7
        assert np.mean(np.array(values) <= 0.1) < 0.25

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"y": np.ones((90, 1))}, ValueError, "x has 100 rows, y has 90"),
            ({"x": np.ones((1, 1)), "y": np.ones((1, 1))}, ValueError, "at least 2 rows"),
            ({"x": np.full((100, 1), np.inf)}, ValueError, "x contains NaN or infinity"),
            ({"y": np.ones((100, 1), int)}, TypeError, "y must hold floating-point"),
            ({"x": np.ones(100)}, ValueError, "x must have 2 dimensions"),
            ({"n_shuffles": 0}, ValueError, "n_shuffles must be at least 1"),
        ],
    )
    def test_bad_input_is_named(self, change, error, message):
        with pytest.raises(error, match=message):
            wasserstein_dependency_exact(**({"x": np.ones((100, 1)), "y": np.ones((100, 1))} | change))


class TestDigits:
    def test_second_view_shows_the_next_class(self):
        from sklearn.datasets import load_digits

        digits = load_digits()
        known = {tuple(image.ravel()): label for image, label in zip(digits.images / 16, digits.target, strict=True)}
        first, second, labels = make_spatial_multi_digits(20, 3, random_state=0)
        for i in range(20):
            for k in range(3):
                cell = slice(64 * k, 64 * k + 64)
                assert known[tuple(first[i, cell])] == labels[i, k]
                assert known[tuple(second[i, cell])] == (labels[i, k] + 1) % 10

    def test_halves_share_no_drawing(self):
        halves = [
            {row.tobytes() for row in make_spatial_multi_digits(4000, 1, split=s, random_state=0)[0]}
            for s in ("train", "test")
        ]
        assert not halves[0] & halves[1]
        assert min(map(len, halves)) > 800

    def test_layouts_hold_the_same_cells(self):
        flat, _, labels = make_spatial_multi_digits(4, 6, random_state=0)
        grid, _, _ = make_spatial_multi_digits(4, 6, layout="spatial", random_state=0)
        stack, second, _ = make_spatial_multi_digits(4, 6, layout="stacked", random_state=0)
        assert grid.shape == (4, 1, 16, 24)
        assert second.shape == (4, 6, 8, 8)
        for k in range(6):
            row, column = divmod(k, 3)
            cell = grid[:, 0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            np.testing.assert_array_equal(cell, stack[:, k])
            np.testing.assert_array_equal(cell.reshape(4, 64), flat[:, 64 * k : 64 * k + 64])
        assert labels.min() >= 0
        assert flat.dtype == np.float32
        assert (flat.min(), flat.max()) == (0.0, 1.0)

    def test_bad_input_is_named(self):
        for arguments, message in (((0, 1), "n_samples"), ((1, 0), "n_cells")):
            with pytest.raises(ValueError, match=message):
                make_spatial_multi_digits(*arguments)
        with pytest.raises(ValueError, match="split must be"):
            make_spatial_multi_digits(1, 1, split="valid")
        with pytest.raises(ValueError, match="layout must be"):
            make_spatial_multi_digits(1, 1, layout="grid")


class TestEncoder:
    def pairs(self, n=400, seed=0):
        drawn = np.random.default_rng(seed)
        x = drawn.normal(size=(n, 3))
        return x, np.tanh(x) + 0.05 * drawn.normal(size=(n, 3))

    @pytest.mark.parametrize("objective", ["cpc", "wpc", "wdm"])
    def test_finds_dependence_in_new_pairs(self, objective):
        encoder = WassersteinDependencyEncoder(objective, **SMALL | {"n_iterations": 200}).fit(*self.pairs())
        x, y = self.pairs(seed=1)
        assert encoder.score(x, y) > 0.3
        assert encoder.score(x, y) > encoder.score(x, y[::-1]) + 0.3
        if objective != "wdm":
            assert encoder.score(x, y) <= log(32)

    def test_penalty_holds_the_slope(self):
        x, y = self.pairs()
        settings = SMALL | {"n_iterations": 400}
        free = WassersteinDependencyEncoder("cpc", **settings).fit(x, y)
        held = WassersteinDependencyEncoder("wpc", **settings).fit(x, y)
        unheld = WassersteinDependencyEncoder("wpc", lipschitz="none", **settings).fit(x, y)
        assert free.gradient_norm_ > 3
        assert held.gradient_norm_ < 1.5
        np.testing.assert_array_equal(unheld.transform(x), free.transform(x))
        assert held.lipschitz_bound_ == np.inf

    def test_spectral_encoders_have_a_certificate(self):
        x, y = self.pairs()
        encoder = WassersteinDependencyEncoder("wdm", lipschitz="spectral", radius=2.0, **SMALL).fit(x, y)
        codes = [(encoder.transform(a), encoder.transform_second(b)) for a, b in ((x, y), (x[::-1], y[::-1] * 2))]
        scores = [(z_x * z_y).sum(1) for z_x, z_y in codes]
        run = np.sqrt(((x - x[::-1]) ** 2).sum(1) + ((y - 2 * y[::-1]) ** 2).sum(1))
        assert encoder.lipschitz_bound_ == pytest.approx(1.0, rel=1e-9)
        assert (np.abs(scores[0] - scores[1]) <= encoder.lipschitz_bound_ * run + 1e-9).all()
        assert encoder.gradient_norm_ <= encoder.lipschitz_bound_ + 1e-9

    def test_wdm_estimates_the_distance(self):
        """Views that are one sign: half of the product's pairs lie off the diagonal, 2 away from it, so I_W = 1."""
        drawn = np.random.default_rng(0)
        x = drawn.choice([-1.0, 1.0], size=(600, 1))
        exact = wasserstein_dependency_exact(x + 1e-3 * drawn.normal(size=x.shape), x, random_state=0, n_shuffles=1)
        assert exact.value == pytest.approx(1.0, abs=0.15)
        encoder = WassersteinDependencyEncoder("wdm", **SMALL | {"n_iterations": 400}).fit(x, x)
        assert encoder.score(x, x) == pytest.approx(1.0, abs=0.15)

    def test_is_deterministic_and_leaves_the_global_state_alone(self):
        x, y = self.pairs()
        before = torch.get_rng_state()
        codes = [WassersteinDependencyEncoder(**SMALL).fit(x, y).transform(x) for _ in range(2)]
        np.testing.assert_array_equal(*codes)
        torch.testing.assert_close(torch.get_rng_state(), before)
        other = WassersteinDependencyEncoder(**SMALL | {"random_state": 1}).fit(x, y).transform(x)
        assert not np.allclose(other, codes[0])

    def test_partial_fit_goes_on(self):
        x, y = self.pairs()
        encoder = WassersteinDependencyEncoder(**SMALL)
        scores = []
        for part in range(12):
            encoder.partial_fit(*self.pairs(seed=part))
            scores.append(encoder.score(x, y))
        assert scores[-1] > scores[0] + 0.2
        assert encoder.n_iter_ == 12 * (400 // 32) == len(encoder.loss_history_)
        again = pickle.loads(pickle.dumps(encoder))
        np.testing.assert_array_equal(again.transform(x), encoder.transform(x))
        np.testing.assert_array_equal(again.partial_fit(x, y).transform(x), encoder.partial_fit(x, y).transform(x))

    def test_images_have_a_convolutional_encoder(self):
        first, second, _ = make_spatial_multi_digits(64, 4, layout="spatial", random_state=0)
        encoder = WassersteinDependencyEncoder(**SMALL | {"n_iterations": 3}).fit(first, second)
        assert isinstance(encoder.encoder_[0], nn.Conv2d)
        codes = encoder.transform(first)
        assert codes.shape == (64, 4)
        assert codes.dtype == np.float32
        np.testing.assert_allclose(codes[:5], encoder.transform(first[:5]), rtol=1e-5)
        with pytest.raises(ValueError, match="X must have rows of shape"):
            encoder.transform(first[:, :, :8])

    def test_own_encoders_are_copied(self):
        x, y = self.pairs()
        own = nn.Linear(3, 2)
        before = own.weight.clone()
        encoder = WassersteinDependencyEncoder(encoder=own, encoder_second=nn.Linear(3, 2), **SMALL).fit(x, y)
        torch.testing.assert_close(own.weight, before)
        assert not torch.allclose(encoder.encoder_.weight.float(), before)
        assert encoder.transform(x).shape == (400, 2)
        assert clone(encoder).get_params()["encoder_second"].weight.shape == (2, 3)

    def test_scale_makes_the_units_of_the_data_irrelevant(self):
        x, y = self.pairs()
        one = WassersteinDependencyEncoder(scale="unit-variance", **SMALL).fit(x, y)
        other = WassersteinDependencyEncoder(scale="unit-variance", **SMALL).fit(255 * x + 7, y / 50)
        np.testing.assert_allclose(one.transform(x), other.transform(255 * x + 7), rtol=1e-3, atol=1e-3)
        constant = np.hstack([x, np.ones((400, 1))])
        assert np.isfinite(
            WassersteinDependencyEncoder(scale="unit-variance", **SMALL).fit(constant, y).transform(constant)
        ).all()

    @pytest.mark.parametrize(
        "option", [{"two_sided": True}, {"penalty_every": 3}, {"symmetric": True}, {"include_positive": False},
                   {"interpolate": "both"}, {"learn_weight": True}, {"weight_decay": 0.1}],
    )  # fmt: skip
    def test_each_option_takes_part(self, option):
        x, y = self.pairs()
        plain = WassersteinDependencyEncoder(**SMALL).fit(x, y)
        changed = WassersteinDependencyEncoder(**SMALL, **option).fit(x, y)
        assert not np.allclose(plain.transform(x), changed.transform(x))
        assert np.isfinite(changed.score(x, y))

    def test_works_in_a_pipeline(self):
        x, y = self.pairs()
        pipeline = make_pipeline(StandardScaler(), WassersteinDependencyEncoder(**SMALL)).fit(x, y)
        assert pipeline.transform(x).shape == (400, 4)
        assert pipeline[-1].get_feature_names_out()[0] == "wassersteindependencyencoder0"

    def test_fewer_pairs_than_a_batch(self):
        x, y = self.pairs(20)
        with pytest.warns(UserWarning, match="batch_size=32, but there are 20 pairs"):
            encoder = WassersteinDependencyEncoder(**SMALL).fit(x, y)
        assert encoder.dependency_history_.max() <= log(20)
        assert np.isfinite(encoder.score(x, y))

    def test_every_batch_is_full(self):
        """Of 33 pairs the one that is left over is no batch: it would show a dependency of log 1."""
        x, y = self.pairs(33)
        encoder = WassersteinDependencyEncoder("cpc", **SMALL | {"n_iterations": 200}).fit(x, y)
        assert encoder.dependency_history_[-50:].min() > 0.5

    @pytest.mark.parametrize(
        ("option", "error", "message"),
        [
            ({"objective": "nce"}, ValueError, "objective must be one of"),
            ({"batch_size": 1}, ValueError, "batch_size must be at least 2"),
            ({"penalty_weight": -1}, ValueError, "penalty_weight must be"),
            ({"n_iterations": 0}, ValueError, "n_iterations must be at least 1"),
            ({"learning_rate": 0}, ValueError, "learning_rate must be"),
            ({"lipschitz": "clip"}, ValueError, "lipschitz must be one of"),
            ({"scale": "minmax"}, ValueError, "scale must be one of"),
            ({"hidden_sizes": (0,)}, ValueError, "hidden_sizes must be at least 1"),
            ({"encoder": "mlp"}, TypeError, "encoder must be a torch.nn.Module"),
            ({"lipschitz": "spectral", "learn_weight": True}, ValueError, "learn_weight=True can't be had"),
            ({"objective": "wdm", "lipschitz": "none"}, ValueError, "no maximum without a constraint"),
            ({"objective": "wdm", "penalty_weight": 0}, ValueError, "no maximum without a constraint"),
            ({"encoder": nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))}, ValueError, "BatchNorm1d"),
            ({"encoder": nn.Linear(3, 2), "encoder_second": nn.Linear(3, 4)}, ValueError, "codes of one size"),
            ({"encoder": nn.Flatten(0)}, ValueError, "rows of codes"),
            ({"lipschitz": "spectral", "encoder": nn.GELU()}, ValueError, "GELU"),
            ({"learning_rate": 1e30, "objective": "cpc", "n_iterations": 100}, FloatingPointError, "diverged"),
        ],
    )
    def test_bad_parameters_are_named(self, option, error, message):
        with pytest.raises(error, match=message):
            WassersteinDependencyEncoder(**SMALL | option).fit(*self.pairs())

    def test_bad_views_are_named(self):
        x, y = self.pairs(100)
        encoder = WassersteinDependencyEncoder(**SMALL)
        with pytest.raises(ValueError, match="X has 100 rows, y has 90"):
            encoder.fit(x, y[:90])
        with pytest.raises(ValueError, match="y is the second view"):
            encoder.fit(x, None)
        with pytest.raises(ValueError, match="NaN"):
            encoder.fit(x, np.full_like(y, np.nan))
        with pytest.raises(ValueError, match="default encoder"):
            encoder.fit(x[:, :, None], y)
        encoder.fit(x, y)
        with pytest.raises(ValueError, match="y must have rows of shape"):
            encoder.transform_second(y[:, :2])
        with pytest.raises(ValueError, match="y must have rows of shape"):
            encoder.partial_fit(x, y[:, :2])

    def test_one_sided_penalty_counts_only_excess(self):
        norms = torch.tensor([0.5, 1.0, 3.0])
        assert slope_penalty(norms, two_sided=False).item() == pytest.approx(4 / 3)
        assert slope_penalty(norms, two_sided=True).item() == pytest.approx(4.25 / 3)


def test_more_factors_survive_a_bounded_slope():
    """Six digits shared by two views: the plain contrast leaves out what the bounded one keeps (a small claim 2)."""
    from sklearn.linear_model import RidgeClassifier

    drawn = np.random.default_rng(0)
    first, second, _ = make_spatial_multi_digits(32 * 350, 6, random_state=drawn)
    train, _, train_labels = make_spatial_multi_digits(800, 6, random_state=drawn)
    test, _, test_labels = make_spatial_multi_digits(400, 6, split="test", random_state=drawn)
    accuracy = {}
    for objective in ("cpc", "wpc"):
        encoder = WassersteinDependencyEncoder(
            objective, batch_size=32, n_iterations=350, random_state=0, progress=False, device="cpu"
        ).fit(first, second)
        codes = encoder.transform(train), encoder.transform(test)
        accuracy[objective] = np.mean(
            [RidgeClassifier().fit(codes[0], train_labels[:, k]).score(codes[1], test_labels[:, k]) for k in range(6)]
        )
    assert accuracy["wpc"] > accuracy["cpc"] + 0.1
