"""Distributional sliced Wasserstein distances, their amortisers, and the loss that trains them."""

import copy
import pickle
from functools import partial
from itertools import pairwise

import numpy as np
import ot
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest, vonmises_fisher

from paperworks.transport import (
    AmortizedSlicedWassersteinLoss,
    AttentionAmortizer,
    GeneralizedLinearAmortizer,
    LinearAmortizer,
    NonlinearAmortizer,
    PointCloudAutoencoder,
    VonMisesFisher,
)
from paperworks.transport import distributional_sliced_wasserstein as v_dsw
from paperworks.transport import max_sliced_wasserstein as max_sw
from paperworks.transport.amortized_sliced_wasserstein import _clouds

f64 = partial(torch.tensor, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def sphere(*shape, seed=0):
    return torch.nn.functional.normalize(normal(*shape, seed=seed), dim=-1)


# The von Mises-Fisher distribution


@pytest.mark.parametrize("d", [2, 3, 5, 40])
@pytest.mark.parametrize("kappa", [0.3, 8.0, 900.0])
def test_first_two_moments_are_those_of_the_distribution(d, kappa):
    location = sphere(d, seed=1)
    distribution = VonMisesFisher(location, kappa, random_state=2)
    samples = distribution.rsample((200_000,))
    length = float(distribution.mean.norm())
    # E[z z'] = (A / kappa) I + (1 - d A / kappa) e e', with A the length of the mean.
    second = length / kappa * torch.eye(d) + (1 - d * length / kappa) * torch.outer(location, location)
    assert torch.allclose(samples.mean(0), distribution.mean, atol=6 / 200_000**0.5)
    assert torch.allclose(samples.T @ samples / len(samples), second, atol=6 / 200_000**0.5)
    assert torch.allclose(samples.norm(dim=-1), torch.ones(1, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("d", [2, 3, 6])
@pytest.mark.parametrize("kappa", [1e-3, 2.0, 60.0])
def test_the_cosine_has_the_right_law(d, kappa):
    location = sphere(d, seed=3)
    cosine = (VonMisesFisher(location, kappa, random_state=4).rsample((4000,)) @ location).numpy()

    def density(angle):
        return np.sin(angle) ** (d - 2) * np.exp(kappa * (np.cos(angle) - 1))

    total = quad(density, 0, np.pi, epsabs=1e-12, limit=200)[0]
    grid = np.linspace(0, np.pi, 2001)
    cumulated = np.concatenate([[0], np.cumsum([quad(density, *ends)[0] for ends in pairwise(grid)])])
    angles = np.arccos(np.clip(cosine, -1, 1))
    assert kstest(angles, lambda a: np.interp(a, grid, cumulated / total)).pvalue > 1e-3


@pytest.mark.parametrize("d", [2, 3, 4, 11])
@pytest.mark.parametrize("kappa", [1e-4, 0.7, 30.0, 1e4])
def test_log_density_agrees_with_scipy(d, kappa):
    location, points = sphere(d), sphere(20, d, seed=1)
    ours = VonMisesFisher(location, kappa).log_prob(points)
    theirs = vonmises_fisher(location.numpy(), kappa).logpdf(points.numpy())
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("d", "kappa"), [(200, 0.5), (500, 20.0), (1000, 1e-3), (300, 1e5)])
def test_log_density_and_mean_survive_where_the_bessel_function_underflows(d, kappa):
    mpmath = pytest.importorskip("mpmath")
    distribution = VonMisesFisher(sphere(d), kappa)
    with mpmath.workdps(60):
        order = mpmath.mpf(d) / 2
        bessel = mpmath.besseli(order - 1, kappa)
        normaliser = (order - 1) * mpmath.log(kappa) - order * mpmath.log(2 * mpmath.pi) - mpmath.log(bessel)
        length = mpmath.besseli(order, kappa) / bessel
        peak = float(normaliser + kappa)
    assert float(distribution.log_prob(distribution.location)) == pytest.approx(peak, rel=1e-9)
    assert float(distribution.mean.norm()) == pytest.approx(float(length), rel=1e-6)


@pytest.mark.parametrize("d", [3, 4])
def test_extreme_concentrations_keep_their_digits(d):
    location = sphere(d, seed=5)
    tight = VonMisesFisher(location, 1e12, random_state=0).rsample((20_000,))
    # |z - e|^2 / 2 = 1 - <e, z> has mean (d - 1) / (2 kappa): float64 has no digits left of it in 1 - cos.
    assert float((tight - location).square().sum(-1).mean() / 2) == pytest.approx((d - 1) / 2e12, rel=0.05)
    loose = VonMisesFisher(location, 1e-14, random_state=0).rsample((20_000,))
    assert torch.isfinite(loose).all()
    assert float((loose @ location).square().mean()) == pytest.approx(1 / d, rel=0.05)


@pytest.mark.parametrize("d", [2, 3, 5])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_poles_are_ordinary_locations(d, sign):
    pole = torch.zeros(d, dtype=torch.float64)
    pole[0] = sign
    pole.requires_grad_()
    samples = VonMisesFisher(pole, 5.0, random_state=0).rsample((50_000,))
    assert torch.allclose(samples.norm(dim=-1), torch.ones(1, dtype=torch.float64), atol=1e-14)
    assert torch.allclose(samples.mean(0), VonMisesFisher(pole, 5.0).mean, atol=0.03)
    (slope,) = torch.autograd.grad((samples @ sphere(d, seed=9)).sum(), pole)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("d", [2, 3, 4])
def test_samples_are_differentiable_in_the_location(d):
    def draw(vector):
        location = torch.nn.functional.normalize(vector, dim=-1)
        return VonMisesFisher(location, 3.0, random_state=7).rsample((5,))

    assert torch.autograd.gradcheck(draw, normal(3, d, seed=2).requires_grad_())


def test_gradient_of_an_expectation_is_unbiased():
    # E <z, t>^2 has a closed form in the location; its gradient is what reparametrised samples must average to.
    kappa, target = 4.0, f64([0.3, -1.0, 0.5])
    location = sphere(3, seed=4).requires_grad_()
    samples = VonMisesFisher(location, kappa, random_state=0).rsample((400_000,))
    (sampled,) = torch.autograd.grad((samples @ target).square().mean(), location)
    length = 1 / np.tanh(kappa) - 1 / kappa
    (exact,) = torch.autograd.grad((1 - 3 * length / kappa) * (location / location.norm() @ target) ** 2, location)
    assert torch.allclose(sampled, exact, atol=0.01)


def test_batches_broadcast_and_every_element_has_its_own_concentration():
    distribution = VonMisesFisher(sphere(2, 1, 4), f64([1.0, 1e6, 50.0]), random_state=0)
    assert distribution.batch_shape == (2, 3)
    assert distribution.event_shape == (4,)
    samples = distribution.rsample((4000,))
    lengths = samples.mean(0).norm(dim=-1)
    assert torch.allclose(lengths, distribution.mean.norm(dim=-1), atol=0.04)


def test_sampling_is_repeatable_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second = (VonMisesFisher(sphere(3), 2.0, random_state=11).rsample((5,)) for _ in range(2))
    loss = AmortizedSlicedWassersteinLoss(AttentionAmortizer(3, random_state=0), random_state=0)
    loss(torch.zeros(2, 5, 3), torch.ones(2, 5, 3))
    PointCloudAutoencoder(5, random_state=0), NonlinearAmortizer(3, 4, random_state=0)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
    assert VonMisesFisher(sphere(3).float(), 2.0, random_state=11).rsample((5,)).dtype == torch.float32


@pytest.mark.parametrize(
    ("location", "concentration", "error", "words"),
    [
        (f64([1.0, 1.0, 0.0]), 1.0, ValueError, "location must hold unit vectors"),
        (f64([1.0]), 1.0, ValueError, "location .* at least 2"),
        (f64([float("nan"), 0.0]), 1.0, ValueError, "location contains NaN"),
        (torch.tensor([1, 0, 0]), 1.0, TypeError, "location must hold floating-point"),
        (f64([1.0, 0.0]), 0.0, ValueError, "concentration must be .* greater than 0"),
        (f64([1.0, 0.0]), float("inf"), ValueError, "concentration"),
        (f64([1.0, 0.0]), f64([1.0, -1.0]), ValueError, "concentration must be finite and greater than 0"),
        (f64([1.0, 0.0]), f64(1.0).requires_grad_(), ValueError, "concentration is a constant"),
    ],
)
def test_bad_distributions_are_refused(location, concentration, error, words):
    with pytest.raises(error, match=words):
        VonMisesFisher(location, concentration)


# Distances


def by_pot(x, y, location, kappa, n_projections, seed, p, a=None, b=None):
    """Draw the same directions, then project and compare by POT, one direction at a time."""
    around = VonMisesFisher(location.unsqueeze(0), kappa, random_state=seed)
    directions = around.rsample((n_projections,))[:, 0].numpy()
    costs = [ot.wasserstein_1d(x @ each, y @ each, a, b, p=p) for each in directions]
    return np.mean(costs) ** (1 / p)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize(("n", "m", "weighted"), [(12, 12, False), (12, 7, False), (9, 14, True)])
def test_distance_agrees_with_pot_direction_by_direction(p, n, m, weighted):
    x, y, location = normal(n, 3), normal(m, 3, seed=1) * 2 + 1, sphere(3, seed=2)
    a, b = (np.random.default_rng(0).dirichlet(np.ones(k)) if weighted else None for k in (n, m))
    ours = v_dsw(
        x.numpy(), y.numpy(), concentration=4.0, n_projections=17, p=p, location=location.numpy(),
        x_weights=a, y_weights=b, random_state=5,
    )  # fmt: skip
    assert isinstance(ours, float)
    assert ours == pytest.approx(by_pot(x.numpy(), y.numpy(), location, 4.0, 17, 5, p, a, b), rel=1e-9)


@pytest.mark.parametrize("d", [2, 3, 6])
def test_translation_has_a_closed_form(d):
    kappa, x, location = 3.0, normal(10, d), sphere(d, seed=1)
    move = normal(d, seed=2)
    measured = v_dsw(x, x + move, concentration=kappa, n_projections=100_000, location=location, random_state=0)
    length = float(VonMisesFisher(location, kappa).mean.norm())
    exact = length / kappa * move @ move + (1 - d * length / kappa) * (move @ location) ** 2
    assert float(measured) == pytest.approx(float(exact) ** 0.5, rel=0.01)


def test_concentration_leads_from_sliced_to_one_direction():
    x, y, location = normal(40, 3), normal(40, 3, seed=1) * f64([1.0, 2.0, 3.0]), sphere(3, seed=2)
    loose = v_dsw(x, y, concentration=1e-9, n_projections=20_000, location=location, random_state=0)
    theirs = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), n_projections=20_000, seed=0)
    assert float(loose) == pytest.approx(theirs, rel=0.02)
    tight = v_dsw(x, y, concentration=1e14, location=location, random_state=0)
    assert float(tight) == pytest.approx(ot.wasserstein_1d(x @ location, y @ location, p=2).item() ** 0.5, rel=1e-6)


def test_max_sliced_finds_the_best_of_a_fine_grid_in_the_plane():
    x, y = normal(30, 2), normal(20, 2, seed=1) * f64([0.5, 2.0]) + f64([0.3, 0.1])
    angles = torch.linspace(0, np.pi, 4001, dtype=torch.float64)
    grid = torch.stack([angles.cos(), angles.sin()], dim=1)
    best = max(ot.wasserstein_1d((x @ each).numpy(), (y @ each).numpy(), p=2) for each in grid[::4]) ** 0.5
    found, where = max_sw(
        x.expand(8, -1, -1), y.expand(8, -1, -1), n_iterations=200, learning_rate=0.05, random_state=0,
        return_location=True,
    )  # fmt: skip
    assert float(found.max()) == pytest.approx(best, rel=1e-4)
    assert float(found.max()) <= best * (1 + 1e-5)
    winner = where[found.argmax()]
    assert ot.wasserstein_1d((x @ winner).numpy(), (y @ winner).numpy(), p=2) ** 0.5 == pytest.approx(best, rel=1e-4)


def test_ascent_finds_the_direction_of_a_translation():
    # A raw Adam step, without the norm inside the graph, stalls at |cos| of .56 to .60 on two of four starts here.
    move = f64([1.0, -2.0, 0.5])
    x = normal(12, 32, 3)
    _, location = v_dsw(
        x, x + move, concentration=10.0, n_iterations=200, learning_rate=0.05, random_state=0, return_location=True
    )
    assert torch.allclose(location.norm(dim=-1), torch.ones(1, dtype=torch.float64))
    assert float((location @ move / move.norm()).abs().min()) > 0.98


def test_pairs_of_a_batch_do_not_touch_each_other():
    x, y, location = normal(4, 10, 3), normal(4, 8, 3, seed=1), sphere(4, 3, seed=2)
    together = v_dsw(x, y, concentration=1e14, location=location, random_state=0)
    alone = [
        v_dsw(*pair, concentration=1e14, location=at, random_state=0) for *pair, at in zip(x, y, location, strict=True)
    ]
    assert torch.allclose(together, torch.stack(alone), rtol=1e-6)
    # The second pair, made a thousand times larger, leaves the ascent of the first where it was.
    scales = f64([1.0, 1e3, 1.0, 1.0]).view(4, 1, 1)
    _, before = max_sw(x, y, random_state=0, return_location=True)
    _, after = max_sw(x * scales, y * scales, random_state=0, return_location=True)
    assert torch.allclose(before[[0, 2, 3]], after[[0, 2, 3]])


def test_points_of_mass_zero_are_as_good_as_absent():
    x, y, location = normal(9, 3), normal(6, 3, seed=1), sphere(3, seed=2)
    padded = torch.cat([x, 1e3 * torch.ones(4, 3, dtype=torch.float64)])
    masses = torch.cat([torch.ones(9), torch.zeros(4)]).double()
    measure = partial(v_dsw, location=location, random_state=0)
    assert float(measure(padded, y, x_weights=masses)) == pytest.approx(float(measure(x, y)), rel=1e-12)
    sought = partial(v_dsw, random_state=0, n_iterations=5)
    assert float(sought(padded, y, x_weights=masses)) == pytest.approx(float(sought(x, y)), rel=1e-9)


def test_chunks_of_directions_change_nothing(monkeypatch):
    x, y, location = normal(3, 10, 3), normal(3, 8, 3, seed=1), sphere(3, 3, seed=2)
    whole = v_dsw(x, y, location=location, random_state=0)
    monkeypatch.setattr(_clouds, "_PROJECTED_POINTS", 100)
    assert torch.allclose(whole, v_dsw(x, y, location=location, random_state=0))


def test_distance_scales_and_ignores_a_common_translation():
    x, y, location = normal(10, 3), normal(8, 3, seed=1), sphere(3, seed=2)
    measure = partial(v_dsw, location=location, p=3, random_state=0)
    assert float(measure(5 * x, 5 * y)) == pytest.approx(5 * float(measure(x, y)))
    assert float(measure(x + 2, y + 2)) == pytest.approx(float(measure(x, y)))
    assert float(measure(x, y)) == pytest.approx(float(measure(y, x)))
    assert float(measure(x, y)) >= float(v_dsw(x, y, location=location, p=1, random_state=0))


def test_it_is_bounded_below_by_sliced_wasserstein_wherever_it_is_evaluated():
    # The density's minimum over the sphere, times its area, bounds the ratio of the two mean costs from below.
    kappa, x, y = 1.5, normal(20, 3), normal(20, 3, seed=1)
    location = max_sw(x, y, random_state=0, return_location=True)[1]
    elsewhere = torch.linalg.cross(location, f64([0.0, 0.0, 1.0]))
    value = v_dsw(
        x, y, concentration=kappa, n_projections=20_000, location=elsewhere / elsewhere.norm(), random_state=0
    )
    lowest = float(VonMisesFisher(location, kappa).log_prob(-location).exp()) * 4 * np.pi
    sliced = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), n_projections=20_000, seed=1)
    assert float(value) ** 2 >= lowest * sliced**2 > 0


def test_gradients_are_right_at_a_given_location():
    x, y, location = normal(5, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_(), sphere(3, seed=2)

    def measure(x, y, vector):
        at = torch.nn.functional.normalize(vector, dim=-1)
        return v_dsw(x, y, n_projections=6, location=at, random_state=3)

    assert torch.autograd.gradcheck(measure, (x, y, (2 * location).requires_grad_()))


def test_gradient_of_an_ascended_distance_is_that_at_its_location():
    x, y = normal(6, 3).requires_grad_(), normal(6, 3, seed=1)
    distance, location = max_sw(x, y, random_state=0, return_location=True)
    assert not location.requires_grad
    (slope,) = torch.autograd.grad(distance, x)
    gaps = torch.sort(x @ location).values - torch.sort(y @ location).values
    (by_hand,) = torch.autograd.grad(gaps.square().mean().sqrt(), x)
    assert torch.allclose(slope, by_hand)


def test_equal_clouds_are_at_distance_zero_with_a_finite_gradient():
    x = normal(6, 3).requires_grad_()
    distance = v_dsw(x, x.detach().flip(0), random_state=0)
    assert float(distance.detach()) == pytest.approx(0.0, abs=1e-12)
    (slope,) = torch.autograd.grad(v_dsw(x, x.detach(), random_state=0), x)
    assert torch.equal(slope, torch.zeros_like(x))


def test_numpy_and_torch_of_either_precision_agree():
    x, y, location = normal(10, 3), normal(8, 3, seed=1), sphere(3, seed=2)
    reference = v_dsw(x, y, location=location, random_state=0)
    single = v_dsw(x.float(), y.float(), location=location.float(), random_state=0)
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(float(reference), rel=1e-5)
    value, where = max_sw(x.numpy(), y.numpy(), random_state=0, return_location=True)
    assert isinstance(value, float)
    assert isinstance(where, np.ndarray)
    assert max_sw(x.numpy(), y.numpy(), random_state=0) == value
    assert max_sw(x.numpy()[None], y.numpy()[None], random_state=0).shape == (1,)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": np.ones((4, 3), dtype=int)}, TypeError, "x must hold floating-point"),
        ({"x": np.ones((4, 2))}, ValueError, "one dimension d, got 2 and 3"),
        ({"x": np.ones((4, 1)), "y": np.ones((4, 1))}, ValueError, "dimension d >= 2"),
        ({"x": np.ones(3)}, ValueError, "x must have 2 or 3 dimensions"),
        ({"x": np.ones((2, 4, 3))}, ValueError, "as many dimensions"),
        ({"x": np.ones((2, 4, 3)), "y": np.ones((3, 4, 3))}, ValueError, "as many clouds"),
        ({"y": np.full((4, 3), np.nan)}, ValueError, "y contains NaN"),
        ({"y": np.empty((0, 3))}, ValueError, "y is empty"),
        ({"p": 0.5}, ValueError, "p must be"),
        ({"n_iterations": -1}, ValueError, "n_iterations"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
        ({"x_weights": np.ones(3)}, ValueError, "x_weights must have shape"),
        ({"x_weights": np.array([1.0, -1.0, 1.0, 1.0])}, ValueError, "x_weights must not be negative"),
        ({"y_weights": np.zeros(5)}, ValueError, "y_weights must have a positive sum"),
        ({"random_state": -1}, ValueError, "random_state"),
    ],
)
@pytest.mark.parametrize("distance", [v_dsw, max_sw])
def test_bad_arguments_are_refused_by_name(distance, change, error, words):
    arguments = {"x": np.ones((4, 3)), "y": np.ones((5, 3)), "random_state": 0} | change
    with pytest.raises(error, match=words):
        distance(**arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"concentration": 0}, "concentration"),
        ({"n_projections": 0}, "n_projections"),
        ({"location": np.ones(3)}, "location must hold unit vectors"),
        ({"location": np.array([1.0, 0.0])}, "location must have shape"),
    ],
)
def test_bad_distributional_arguments_are_refused_by_name(change, words):
    with pytest.raises(ValueError, match=words):
        v_dsw(np.ones((4, 3)), np.ones((5, 3)), **change)


# Amortisers


def attention_by_hand(f, cloud):
    """Average the attended values of one cloud, one query at a time."""
    q, k, v = f.queries(cloud), f.keys(cloud), f.values(cloud)
    if f.kind == "efficient":
        context = sum(torch.outer(weight, value) for weight, value in zip(k.softmax(dim=0), v, strict=True))
        return sum(torch.softmax(each, 0) @ context for each in q) / len(cloud)
    if f.kind == "linformer":
        k = f.project_keys.weight @ k + f.project_keys.bias[:, None]
        v = f.project_values.weight @ v + f.project_values.bias[:, None]
    return sum(torch.softmax(k @ each / f.key_dim**0.5, 0) @ v for each in q) / len(cloud)


@pytest.mark.parametrize("kind", ["efficient", "softmax", "linformer"])
def test_attention_is_what_the_formula_says(kind):
    f = AttentionAmortizer(3, 7, kind, 6 if kind == "linformer" else None, projected_points=4, random_state=0).double()
    x, y = 2 * normal(2, 6, 3), normal(2, 6, 3, seed=1) - 1
    for i in range(2):
        total = attention_by_hand(f, x[i]) + attention_by_hand(f, y[i])
        assert torch.allclose(f(x, y)[i], total / total.norm(), atol=1e-12)


@pytest.mark.parametrize("kind", ["efficient", "softmax"])
def test_attention_is_blind_to_order_and_symmetric(kind):
    f = AttentionAmortizer(3, kind=kind, random_state=0).double()
    x, y = normal(5, 20, 3), normal(5, 31, 3, seed=1) + 0.5
    expected = f(x, y)
    assert torch.allclose(f(x[:, torch.randperm(20, generator=seeded())], y.flip(1)), expected, atol=1e-12)
    assert torch.allclose(f(y, x), expected, atol=1e-12)
    assert torch.allclose(expected.norm(dim=-1), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["efficient", "softmax"])
def test_attention_reads_measures(kind):
    # A point of mass two is two points; a point of mass zero is none.
    f = AttentionAmortizer(3, kind=kind, random_state=0).double()
    x, y = normal(2, 4, 3), normal(2, 5, 3, seed=1)
    doubled = torch.cat([x, x[:, :1]], dim=1)
    padded = torch.cat([x, 9 + x[:, :2]], dim=1)
    assert torch.allclose(f(x, y, f64([2.0, 1.0, 1.0, 1.0])), f(doubled, y), atol=1e-12)
    assert torch.allclose(f(padded, y, f64([2.0, 1.0, 1.0, 1.0, 0.0, 0.0])), f(doubled, y), atol=1e-12)
    assert torch.allclose(f(y, x, None, f64([[2.0, 1.0, 1.0, 1.0]] * 2)), f(y, doubled), atol=1e-12)


def test_linear_amortisers_are_what_their_formulas_say():
    x, y = normal(2, 4, 3), normal(2, 4, 3, seed=1)
    linear, general, bent = (
        kind(3, 4, random_state=0).double()
        for kind in (LinearAmortizer, GeneralizedLinearAmortizer, NonlinearAmortizer)
    )

    def mix(f, x, y):
        w = f.mix.weights
        return f.mix.shift + sum(w[i] * x[:, i] for i in range(4)) + sum(w[4 + i] * y[:, i] for i in range(4))

    def moved(net, z):
        return net[2](1 / (1 + torch.exp(-net[0](z))))

    for f, total in [
        (linear, mix(linear, x, y)),
        (general, mix(general, moved(general.pointwise, x), moved(general.pointwise, y))),
        (bent, moved(bent.after, mix(bent, x, y))),
    ]:
        assert torch.allclose(f(x, y), total / total.norm(dim=-1, keepdim=True), atol=1e-12)
        assert (f(x, y) - f(x.flip(1), y)).abs().max() > 1e-2
        assert (f(x, y) - f(y, x)).abs().max() > 1e-2


AMORTIZERS = {
    "efficient": lambda: AttentionAmortizer(3, random_state=0),
    "softmax": lambda: AttentionAmortizer(3, kind="softmax", random_state=0),
    "linformer": lambda: AttentionAmortizer(3, kind="linformer", n_points=8, random_state=0),
    "linear": lambda: LinearAmortizer(3, 8, random_state=0),
    "generalized-linear": lambda: GeneralizedLinearAmortizer(3, 8, random_state=0),
    "nonlinear": lambda: NonlinearAmortizer(3, 8, random_state=0),
}


@pytest.mark.parametrize("name", AMORTIZERS)
def test_amortisers_learn_from_detached_clouds_and_survive_the_zero_vector(name):
    f = AMORTIZERS[name]()
    x = normal(2, 8, 3).float().requires_grad_()
    f(x, x.detach() + 1).sum().backward()
    assert x.grad is None
    assert all(torch.isfinite(each.grad).all() for each in f.parameters())
    with torch.no_grad():
        for each in f.parameters():
            each.zero_()
    f.zero_grad()
    direction = f(x, x)
    assert direction.tolist() == [[1.0, 0.0, 0.0]] * 2
    direction.sum().backward()
    assert all(each.grad is None or torch.isfinite(each.grad).all() for each in f.parameters())


@pytest.mark.parametrize("name", AMORTIZERS)
def test_amortisers_refuse_what_they_cannot_read(name):
    f, good = AMORTIZERS[name](), torch.zeros(2, 8, 3)
    for bad, error, words in [
        (torch.zeros(2, 8, 3, dtype=torch.int64), TypeError, "x must hold floating-point"),
        (np.zeros((2, 8, 3)), TypeError, "x must be a torch.Tensor"),
        (torch.zeros(8, 3), ValueError, "x must have 3 dimension"),
        (torch.zeros(2, 8, 2), ValueError, "n_features=3, got 2"),
        (torch.full((2, 8, 3), float("inf")), ValueError, "x contains NaN or infinity"),
        (torch.zeros(3, 8, 3), ValueError, "as many clouds"),
    ]:
        with pytest.raises(error, match=words):
            f(bad, good)
    if name not in {"efficient", "softmax"}:
        with pytest.raises(ValueError, match="n_points=8 points, got 7"):
            f(good, good[:, :7])


def test_amortisers_refuse_bad_sizes():
    with pytest.raises(ValueError, match="n_points must be given for kind='linformer'"):
        AttentionAmortizer(3, kind="linformer")
    with pytest.raises(ValueError, match="n_points is for kind='linformer'"):
        AttentionAmortizer(3, n_points=5)
    with pytest.raises(ValueError, match="kind must be one of"):
        AttentionAmortizer(3, kind="fast")
    with pytest.raises(ValueError, match="n_features must be at least 2"):
        AttentionAmortizer(1)
    with pytest.raises(ValueError, match="n_features must be at least 2"):
        LinearAmortizer(1, 5)
    with pytest.raises(ValueError, match="can't be used with kind='linformer'"):
        AMORTIZERS["linformer"]()(torch.zeros(2, 8, 3), torch.zeros(2, 8, 3), torch.ones(8))


# The loss


def moved_clouds(n_pairs, n_points, seed):
    """Clouds and the same moved by a vector of their own: the direction sought is that vector's."""
    x = normal(n_pairs, n_points, 3, seed=seed)
    return x, x + 2 * sphere(n_pairs, 1, 3, seed=seed + 1).abs() + 1


def make_loss(**changes):
    settings = {"concentration": 5.0, "n_projections": 12, "random_state": 3} | changes
    return AmortizedSlicedWassersteinLoss(AttentionAmortizer(3, 8, random_state=0).double(), **settings)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("concentration", [5.0, None])
def test_a_call_is_one_step_of_ascent_then_fresh_directions(squared, concentration):
    loss = make_loss(squared=squared, concentration=concentration, steps_per_call=2)
    x, y = moved_clouds(3, 10, seed=0)
    f, generator = copy.deepcopy(loss.amortizer), seeded(3)
    adam = torch.optim.Adam(f.parameters(), lr=1e-3, betas=(0.0, 0.9))

    def by_hand():
        location = f(x, y)
        if concentration is None:
            directions = location.unsqueeze(1)
        else:
            around = VonMisesFisher(location, concentration, random_state=generator)
            directions = around.rsample((12,)).transpose(0, 1)
        gaps = (torch.einsum("bnd,bld->bln", each, directions).sort(dim=-1).values for each in (x, y))
        cost = (next(gaps) - next(gaps)).square().mean(dim=(1, 2))
        return (cost if squared else cost.sqrt()).mean()

    for _ in range(2):
        adam.zero_grad()
        (-by_hand()).backward()
        adam.step()
    expected = by_hand()
    assert loss(x, y).item() == pytest.approx(expected.item(), rel=1e-9)
    for ours, theirs in zip(loss.amortizer.parameters(), f.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("reuse", [False, True])
def test_no_gradient_crosses_between_the_two_players(reuse):
    loss, before = make_loss(reuse_directions=reuse), make_loss().amortizer
    x, y = moved_clouds(3, 10, seed=0)
    y.requires_grad_()
    value = loss(x, y)
    assert y.grad is None
    assert all(each.grad is None for each in loss.amortizer.parameters())
    value.backward()
    assert all(each.grad is None for each in loss.amortizer.parameters())
    # The gradient is that at directions that stay put: the first draw if they are reused, else the second one.
    generator = seeded(3)
    directions = [
        VonMisesFisher(f(x, y).detach(), 5.0, random_state=generator).rsample((12,)).transpose(0, 1)
        for f in (before, loss.amortizer)
    ][0 if reuse else 1]
    by_hand = ((directions @ x.mT).sort(dim=-1).values - (directions @ y.mT).sort(dim=-1).values).square().mean()
    assert (y.grad - torch.autograd.grad(by_hand, y)[0]).abs().max() < 1e-12


def test_reused_directions_take_the_same_step_of_ascent():
    x, y = moved_clouds(3, 10, seed=0)
    plain, reusing = make_loss(), make_loss(reuse_directions=True)
    before = float(make_loss().eval()(x, y))
    plain(x, y)
    assert reusing(x, y).item() == pytest.approx(before)
    for one, other in zip(plain.amortizer.parameters(), reusing.amortizer.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_the_amortiser_moves_only_when_training():
    loss = make_loss()
    x, y = moved_clouds(3, 10, seed=0)
    before = copy.deepcopy(loss.amortizer.state_dict())
    loss.eval()(x, y)
    with torch.no_grad():
        loss.train()(x, y)
    assert all(torch.equal(before[name], each) for name, each in loss.amortizer.state_dict().items())
    loss(x, y)
    assert any(not torch.equal(before[name], each) for name, each in loss.amortizer.state_dict().items())


@pytest.mark.parametrize("concentration", [10.0, None])
def test_ascent_teaches_the_amortiser_the_direction_of_new_pairs(concentration):
    # Clouds moved along an axis that differs from pair to pair: half of the energy is the best a fixed guess gets.
    def pairs(seed):
        x = normal(64, 32, 3, seed=seed) * 0.1
        axis = torch.eye(3, dtype=torch.float64)[torch.arange(64) % 2]
        return x, x + 3 * axis.unsqueeze(1)

    f = AttentionAmortizer(3, 16, random_state=0).double()
    loss = AmortizedSlicedWassersteinLoss(
        f, concentration=concentration, n_projections=16, learning_rate=0.02, random_state=0
    )
    for seed in range(60):
        loss(*pairs(seed))
    x, y = pairs(1000)
    cosine = (f(x, y)[torch.arange(64), torch.arange(64) % 2]).abs()
    assert cosine.min().item() > 0.95


def test_state_is_saved_whole(tmp_path):
    loss, x_y = make_loss(), moved_clouds(3, 10, seed=0)
    loss(*x_y)
    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    other = make_loss(random_state=77)
    other.load_state_dict(torch.load(tmp_path / "loss.pt"))
    twin, unpickled = copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))
    values = [[float(each(*x_y)) for _ in range(3)] for each in (loss, other, twin, unpickled)]
    assert values[0] == values[1] == values[2] == values[3]


def test_optimiser_follows_the_module_and_takes_a_schedule():
    loss = make_loss()
    x, y = moved_clouds(3, 10, seed=0)
    loss(x, y)
    loss.float()(x.float(), y.float())
    assert all(each["exp_avg_sq"].dtype == torch.float32 for each in loss.ascent.state.values())
    schedule = torch.optim.lr_scheduler.LinearLR(loss.ascent, 1.0, 0.0, total_iters=1)
    loss(x.float(), y.float())
    schedule.step()
    before = [each.clone() for each in loss.amortizer.parameters()]
    loss(x.float(), y.float())
    assert all(torch.equal(*each) for each in zip(before, loss.amortizer.parameters(), strict=True))


def test_processes_of_a_distributed_run_take_the_mean_step():
    x, y = moved_clouds(3, 10, seed=0)
    expected = float(make_loss()(x, y))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        assert float(make_loss()(x, y)) == expected
    finally:
        torch.distributed.destroy_process_group()


def test_loss_reads_masses():
    x, y = moved_clouds(2, 6, seed=0)
    padded = torch.cat([x, 50 + x[:, :3]], dim=1)
    masses = f64([1.0] * 6 + [0.0] * 3)
    for mode in (True, False):
        one, other = (make_loss().train(mode) for _ in range(2))
        assert float(one(padded, y, masses)) == pytest.approx(float(other(x, y)), rel=1e-9)


def test_loss_gradcheck_in_evaluation():
    loss, (x, y) = make_loss(n_projections=4).eval(), moved_clouds(2, 5, seed=0)
    location = loss.amortizer(x, y).detach()
    loss.amortizer.forward = lambda *_: location

    def measure(x, y):
        loss._generator.manual_seed(0)
        return loss(x, y)

    assert torch.autograd.gradcheck(measure, (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"concentration": 0.0}, ValueError, "concentration"),
        ({"n_projections": 0}, ValueError, "n_projections"),
        ({"p": 0.9}, ValueError, "p must be"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate"),
        ({"steps_per_call": 0}, ValueError, "steps_per_call"),
    ],
)
def test_bad_losses_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        make_loss(**change)


def test_loss_refuses_what_is_no_module_or_no_cloud():
    with pytest.raises(TypeError, match="amortizer must be a torch Module"):
        AmortizedSlicedWassersteinLoss(lambda x, y: x)
    x, y = moved_clouds(3, 10, seed=0)
    with pytest.raises(ValueError, match="y contains NaN"):
        make_loss()(x, y * float("nan"))
    with pytest.raises(TypeError, match="x must hold floating-point"):
        make_loss()(x.long(), y)
    with pytest.raises(ValueError, match="one dimension d"):
        make_loss()(x, y[..., :2])
