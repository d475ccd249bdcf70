"""Tests of BO-REP, its rivals and data hyper-cleaning."""

import signal
import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from torch import nn

from paperworks.optimization import LabelCleaner, UnboundedSmoothBilevel, clean_labels
from paperworks.optimization.unbounded_smooth_bilevel import minimize_bilevel
from paperworks.optimization.unbounded_smooth_bilevel._classifiers import ModuleClassifier, SoftmaxRegression
from paperworks.optimization.unbounded_smooth_bilevel._hypergradient import COUNTS, Oracle
from paperworks.optimization.unbounded_smooth_bilevel._iteration import Settings, descend
from paperworks.optimization.unbounded_smooth_bilevel._sparse_momentum import SparseMomentum
from paperworks.papers.unbounded_smooth_bilevel.run import run

F64 = torch.float64
METHODS = ("bo_rep", "soba", "ma_soba", "stocbio", "ttsa")


def leaf(values):
    return torch.as_tensor(values, dtype=F64).clone().requires_grad_()


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def quadratic(seed=0, d=3, p=4):
    """f = |y - a|^2 / 2 + |x|^2 / 20, g = y'Ay/2 - (Bx + b)'y, whose hypergradient is known in closed form."""
    R = random(p, p, seed=seed)
    A = R @ R.T / p + torch.eye(p, dtype=F64)
    B, b, a = random(p, d, seed=seed + 1), random(p, seed=seed + 2), random(p, seed=seed + 3)

    def upper(x, y):
        return ((y - a) ** 2).sum() / 2 + (x**2).sum() / 20

    def lower(x, y):
        return y @ A @ y / 2 - (B @ x + b) @ y

    def hypergradient(x):
        y = torch.linalg.solve(A, B @ x + b)
        return x / 10 + B.T @ torch.linalg.solve(A, y - a)

    return upper, lower, hypergradient, A


def digits(share=0.3, seed=0, n=400):
    X, truth = load_digits(return_X_y=True)
    X, rng = X / 16, np.random.default_rng(seed)
    noisy = truth[:n].copy()
    wrong = rng.choice(n, int(share * n), replace=False)
    noisy[wrong] = rng.integers(0, 10, len(wrong))
    return X[:n], noisy, X[n : n + 200], truth[n : n + 200], truth[:n], X[1000:], truth[1000:]


# --- derivatives ---


def twisted(x, y):
    """A lower loss with curvature, mixed derivatives and a second tensor on each level."""
    return (torch.sin(x[0]) @ y[0]) ** 2 + (y[1] * x[1]).exp().sum() + (y[0] ** 2).sum() * x[1].sum() + y[1].sum()


@pytest.mark.parametrize("hvp", ["autograd", "finite_difference"])
def test_products_are_those_with_the_whole_second_derivative(hvp):
    x, y = [leaf(random(3)), leaf(random(2, seed=1))], [leaf(random(3, seed=2)), leaf(random(2, seed=3))]
    z = [random(3, seed=4), random(2, seed=5)]

    def flat(point):
        parts = point.split([3, 2, 3, 2])
        return twisted(list(parts[:2]), list(parts[2:]))

    H = torch.autograd.functional.hessian(flat, torch.cat([*x, *y]).detach())
    expected_y, expected_x = H[5:, 5:] @ torch.cat(z), H[:5, 5:] @ torch.cat(z)
    oracle = Oracle(twisted, twisted, hvp, None, dict.fromkeys(COUNTS, 0))
    before = [each.detach().clone() for each in y]
    close = {"rtol": 1e-10, "atol": 1e-10} if hvp == "autograd" else {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(torch.cat(oracle.hessian_vector(x, y, z)), expected_y, **close)
    torch.testing.assert_close(torch.cat(oracle.mixed(x, y, z)), expected_x, **close)
    both = oracle.both(x, y, z)
    torch.testing.assert_close(torch.cat(both[0]), expected_y, **close)
    torch.testing.assert_close(torch.cat(both[1]), expected_x, **close)
    assert all(torch.equal(a, b) for a, b in zip(before, y, strict=True))
    assert oracle.counts == {"upper_gradients": 0, "lower_gradients": 0, "hessian_vector": 2, "mixed": 2}


def test_differences_are_as_long_whatever_the_direction():
    x, y, z = [leaf(random(2))], [leaf(random(2, seed=1))], [random(2, seed=2)]

    def steep(x, y):
        return (3 * y[0]).exp().sum() + (x[0] * y[0] ** 2).sum()

    oracle = Oracle(None, steep, "finite_difference", None, dict.fromkeys(COUNTS, 0))
    small = oracle.hessian_vector(x, y, z)[0]
    torch.testing.assert_close(oracle.hessian_vector(x, y, [1e4 * z[0]])[0], 1e4 * small, rtol=1e-6, atol=0.0)
    assert oracle.mixed(x, y, [0.0 * z[0]])[0].tolist() == [0.0, 0.0]


def test_losses_that_are_linear_or_miss_a_tensor_have_zero_products():
    x, y, z = [leaf(random(2))], [leaf(random(2, seed=1)), leaf(random(1))], [random(2, seed=2), random(1)]
    oracle = Oracle(None, lambda x, y: (x[0] * y[0]).sum(), "autograd", None, dict.fromkeys(COUNTS, 0))
    assert [each.tolist() for each in oracle.hessian_vector(x, y, z)] == [[0.0, 0.0], [0.0]]
    torch.testing.assert_close(oracle.mixed(x, y, z)[0], z[0])
    oracle.lower = lambda x, y: y[0].sum()
    assert oracle.mixed(x, y, z)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("iterate", ["last", "average"])
def test_descent_stays_in_its_ball_and_returns_what_it_says(iterate):
    y = [leaf([0.0, 0.0])]
    centre, path, at = torch.zeros(2, dtype=F64), [], torch.zeros(2, dtype=F64)
    goal = torch.tensor([3.0, 4.0], dtype=F64)
    for _ in range(5):
        at = at - 0.3 * (at - goal)
        distance = (at - centre).norm()
        at = at if distance <= 2 else centre + (at - centre) * 2 / distance
        path.append(at)
    descend(lambda: [y[0].detach() - goal], y, 5, 0.3, 2.0, iterate)
    torch.testing.assert_close(y[0].detach(), path[-1] if iterate == "last" else torch.stack(path).mean(0))


# --- the step ---


def by_hand(upper_y, A, B, b, d, settings, n_steps):
    """BO-REP on the quadratic problem, in NumPy, from its formulas."""
    eta, alpha, nu, beta, period, n_lower, epochs, first = settings
    x, y, z, m = np.zeros(d), np.zeros(len(A)), np.zeros(len(A)), np.zeros(d)
    lr, steps = alpha, first
    for _ in range(epochs):
        total = np.zeros_like(y)
        for _ in range(steps):
            y = y - lr * (A @ y - B @ x - b)
            total += y
        y, lr, steps = total / steps, lr / 2, 2 * steps
    for k in range(n_steps):
        if k > 0 and k % period == 0:
            for _ in range(n_lower):
                y = y - alpha * (A @ y - B @ x - b)
        z = z - nu * (A @ z - upper_y(y))
        m = beta * m + (1 - beta) * (x / 10 + B.T @ z)
        x = x - eta / np.sqrt(1 + k / 30) * m / np.linalg.norm(m)
    return x, y, z


def test_step_by_its_formulas():
    upper, lower, _, A = quadratic()
    a, B, b = (each.numpy() for each in (random(4, seed=3), random(4, 3, seed=1), random(4, seed=2)))
    settings = (0.05, 0.2, 0.3, 0.7, 3, 2, 2, 4)
    x, y, z = by_hand(lambda y: y - a, A.numpy(), B, b, 3, settings, 40)
    found = minimize_bilevel(
        upper, lower, np.zeros(3), np.zeros(4), 40, upper_lr=0.05, lower_lr=0.2, linear_system_lr=0.3, momentum=0.7,
        period=3, lower_steps=2, refinement_epochs=2, refinement_steps=4, decay_start=30,
    )  # fmt: skip
    np.testing.assert_allclose(found.x, x, rtol=1e-7)
    np.testing.assert_allclose(found.lower_solution, y, rtol=1e-7)
    np.testing.assert_allclose(found.linear_solution, z, rtol=1e-7)
    # 4 + 8 steps of refinement, and 2 at each of the steps 3, 6, ..., 39.
    assert (found.n_lower_gradients, found.n_mixed, found.n_upper_gradients) == (12 + 26, 40, 40)
    assert found.n_hessian_vector == 40 + 10


def test_steps_have_the_length_they_are_given_whatever_the_gradient():
    upper, lower, _, _ = quadratic()
    for scale in (1e-3, 1.0, 1e6):
        x, y = leaf(torch.zeros(3)), leaf(torch.zeros(4))
        optimizer = UnboundedSmoothBilevel([x], [y], upper_lr=0.1, lower_lr=0.2, decay_start=4)
        for k in range(5):
            before = x.detach().clone()
            optimizer.step(lambda x, y, s=scale: s * upper(x[0], y[0]), lambda x, y: lower(x[0], y[0]))
            assert float((x.detach() - before).norm()) == pytest.approx(0.1 / (1 + k / 4) ** 0.5, rel=1e-3)


def test_no_momentum_no_step():
    x, y = leaf([1.0, 2.0]), leaf([0.0])
    optimizer = UnboundedSmoothBilevel([x], [y], upper_lr=0.5)
    optimizer.step(lambda x, y: 0.0 * x[0].sum(), lambda x, y: (y[0] ** 2).sum())
    assert x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_stationary_point(method, shared):
    upper, lower, hypergradient, _ = quadratic()
    rates = {"upper_lr": 0.1, "lower_lr": 0.2, "linear_system_lr": 0.2}
    if method in {"ttsa", "bo_rep"}:
        rates |= {"upper_lr": 0.03, "decay_start": 30}
    terms = 20 if method == "stocbio" else 10
    found = minimize_bilevel(
        upper, lower, np.zeros(3), np.zeros(4), 400, method, neumann_terms=terms, shared_batch=shared, **rates
    )
    start = float(hypergradient(torch.zeros(3, dtype=F64)).norm())
    end = float(hypergradient(torch.tensor(found.x)).norm())
    # One random term of a series has a large variance, and normalised steps a length.
    assert end < (0.5 if method == "ttsa" else 0.2 if method == "bo_rep" else 0.02) * start
    assert found.nit == 400


def test_neumann_series_is_the_solution_of_the_linear_system():
    upper, lower, _, A = quadratic()
    found = minimize_bilevel(
        upper, lower, np.ones(3), np.ones(4), 1, "stocbio", linear_system_lr=0.2, lower_lr=1e-9, neumann_terms=300
    )
    z = np.linalg.solve(A.numpy(), np.ones(4) - random(4, seed=3).numpy())
    np.testing.assert_allclose(found.linear_solution, z, rtol=1e-6, atol=1e-8)


def test_rivals_first_step_by_its_formula():
    upper, lower, _, A = quadratic()
    a, B, b = (each.numpy() for each in (random(4, seed=3), random(4, 3, seed=1), random(4, seed=2)))
    A, x, y = A.numpy(), np.ones(3), np.ones(4)
    y1 = y - 0.1 * (A @ y - B @ x - b)
    options = {"upper_lr": 0.3, "lower_lr": 0.1, "linear_system_lr": 0.2, "schedule": "constant"}
    averaged = minimize_bilevel(upper, lower, x, y, 1, "ma_soba", momentum=0.6, **options)
    hypergradient = x / 10 + B.T @ (0.2 * (y1 - a))
    np.testing.assert_allclose(averaged.x, x - 0.3 * 0.4 * hypergradient)
    series = minimize_bilevel(upper, lower, x, y, 1, "stocbio", lower_steps=1, neumann_terms=3, **options)
    step = np.eye(4) - 0.2 * A
    z = 0.2 * (np.eye(4) + step + step @ step) @ (y1 - a)
    np.testing.assert_allclose(series.linear_solution, z)
    np.testing.assert_allclose(series.x, x - 0.3 * (x / 10 + B.T @ z))
    assert (averaged.n_hessian_vector - 10, series.n_hessian_vector - 10) == (1, 2)


def test_random_term_of_the_series_has_the_mean_of_the_sum():
    upper, lower, _, A = quadratic()
    kept = []
    minimize_bilevel(
        upper, lower, np.ones(3), np.ones(4), 400, "ttsa", linear_system_lr=0.2, lower_lr=1e-12, upper_lr=1e-12,
        neumann_terms=5, callback=lambda state: kept.append(state.linear_solution),
    )  # fmt: skip
    step = np.eye(4) - 0.2 * A.numpy()
    series = sum(np.linalg.matrix_power(step, q) for q in range(5)) * 0.2
    expected = series @ (np.ones(4) - random(4, seed=3).numpy())
    np.testing.assert_allclose(np.mean(kept, axis=0), expected, atol=0.15 * np.abs(expected).max())


def test_steep_upper_loss_breaks_plain_steps_and_not_normalised_ones():
    def upper(x, y):
        return torch.cosh(y).sum()

    def lower(x, y):
        return ((y - 2 * x) ** 2).sum() / 2

    options = {"upper_lr": 0.05, "lower_lr": 0.5, "linear_system_lr": 0.5, "schedule": "constant"}
    start = (np.full(3, 4.0), np.full(3, 8.0), 400)
    with pytest.raises(FloatingPointError, match=r"upper loss is inf at step \d"):
        minimize_bilevel(upper, lower, *start, "ma_soba", **options)
    assert np.abs(minimize_bilevel(upper, lower, *start, **options).x).max() < 0.2


def test_fresh_batches_leave_the_products_without_bias():
    """With losses that draw their noise anew, z comes to the solution of the mean system, shared batch or not."""
    for shared in (False, True):
        generator = torch.Generator().manual_seed(0)

        def upper(x, y, generator=generator):
            return (y * (1 + 0.5 * torch.randn(2, dtype=F64, generator=generator))).sum()

        def lower(x, y, generator=generator):
            noise = 1 + 0.5 * torch.randn(2, dtype=F64, generator=generator)
            return (noise * (y - x) ** 2).sum() / 2

        tail = []
        minimize_bilevel(
            upper, lower, np.zeros(2), np.zeros(2), 2000, upper_lr=1e-9, linear_system_lr=0.05, shared_batch=shared,
            callback=lambda state, tail=tail: tail.append(state.linear_solution), refinement_epochs=0,
        )  # fmt: skip
        np.testing.assert_allclose(np.mean(tail[500:], axis=0), np.ones(2), atol=0.08)


# --- the optimiser ---


def networks(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh()).double(), nn.Linear(4, 3).double()


def losses(encoder, head, n=30):
    X, y = random(2 * n, 5), torch.randint(3, (2 * n,), generator=torch.Generator().manual_seed(0))
    names = [list(dict(each.named_parameters())) for each in (encoder, head)]

    def outputs(upper, lower, rows):
        features = torch.func.functional_call(encoder, dict(zip(names[0], upper, strict=True)), (X[rows],))
        return torch.func.functional_call(head, dict(zip(names[1], lower, strict=True)), (features,))

    def lower_loss(upper, lower):
        ridge = sum((each**2).sum() for each in lower)
        return nn.functional.cross_entropy(outputs(upper, lower, slice(0, n)), y[:n]) + 0.05 * ridge

    def upper_loss(upper, lower):
        return nn.functional.cross_entropy(outputs(upper, lower, slice(n, None)), y[n:])

    return upper_loss, lower_loss


def test_optimiser_of_modules_agrees_with_the_function_of_two_vectors():
    encoder, head = networks()
    upper_loss, lower_loss = losses(encoder, head)
    sizes = [[each.numel() for each in module.parameters()] for module in (encoder, head)]
    shapes = [[each.shape for each in module.parameters()] for module in (encoder, head)]
    start = [nn.utils.parameters_to_vector(module.parameters()).detach() for module in (encoder, head)]

    def lists(x, y):
        return [
            [part.view(shape) for part, shape in zip(vector.split(size), shape_list, strict=True)]
            for vector, size, shape_list in zip((x, y), sizes, shapes, strict=True)
        ]

    options = {"upper_lr": 0.1, "lower_lr": 0.3, "linear_system_lr": 0.3, "decay_start": 5}
    found = minimize_bilevel(
        lambda x, y: upper_loss(*lists(x, y)), lambda x, y: lower_loss(*lists(x, y)), *start, 12, **options
    )
    optimizer = UnboundedSmoothBilevel(encoder.parameters(), head.parameters(), **options)
    values = [optimizer.step(upper_loss, lower_loss) for _ in range(12)]
    np.testing.assert_allclose(values, found.history["upper_loss"], rtol=1e-9)
    torch.testing.assert_close(nn.utils.parameters_to_vector(encoder.parameters()).detach(), found.x)
    torch.testing.assert_close(nn.utils.parameters_to_vector(head.parameters()).detach(), found.lower_solution)
    assert optimizer.n_lower_gradients == found.n_lower_gradients == 620 + 5 * 3
    assert optimizer.n_mixed == optimizer.n_upper_gradients == optimizer.n_steps == 12
    assert optimizer.momentum_norm == pytest.approx(found.history["momentum_norm"][-1])


def test_losses_may_use_the_modules_themselves():
    pairs = []
    for closed_over in (False, True):
        encoder, head = networks()
        upper_loss, lower_loss = losses(encoder, head)
        if closed_over:
            both = [list(encoder.parameters()), list(head.parameters())]
            upper_loss, lower_loss = (
                lambda *lists, loss=loss, own=both: loss(*own) for loss in (upper_loss, lower_loss)
            )
        optimizer = UnboundedSmoothBilevel(encoder.parameters(), head.parameters())
        for _ in range(5):
            optimizer.step(upper_loss, lower_loss)
        pairs.append(nn.utils.parameters_to_vector([*encoder.parameters(), *head.parameters()]).detach())
    torch.testing.assert_close(*pairs)


def test_saved_run_goes_on_as_it_would_have():
    whole, halves = networks(), networks()
    upper_loss, lower_loss = losses(*whole)
    options = {"upper_lr": 0.1, "lower_lr": 0.2, "linear_system_lr": 0.2}
    first = UnboundedSmoothBilevel(whole[0].parameters(), whole[1].parameters(), **options)
    part = UnboundedSmoothBilevel(halves[0].parameters(), halves[1].parameters(), **options)
    for _ in range(3):
        first.step(upper_loss, lower_loss)
        part.step(upper_loss, lower_loss)
    stored, again = deepcopy(part.state_dict()), deepcopy(halves)
    later = UnboundedSmoothBilevel(again[0].parameters(), again[1].parameters(), **options)
    later.load_state_dict(stored)
    for _ in range(4):
        first.step(upper_loss, lower_loss)
        later.step(upper_loss, lower_loss)
    for one, other in zip(whole, again, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b)
    assert later.n_steps == 7
    assert later.n_lower_gradients == first.n_lower_gradients


def test_schedulers_of_torch_change_both_steps():
    x, y = leaf([1.0]), leaf([0.0])
    optimizer = UnboundedSmoothBilevel([x], [y], upper_lr=0.1, lower_lr=0.2, schedule="constant")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.2)
    optimizer.step(lambda x, y: (y[0] ** 2).sum(), lambda x, y: ((y[0] - x[0]) ** 2).sum())
    scheduler.step()
    before = x.item()
    optimizer.step(lambda x, y: (y[0] ** 2).sum(), lambda x, y: ((y[0] - x[0]) ** 2).sum())
    assert abs(x.item() - before) == pytest.approx(0.02, rel=1e-6)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.04)


def test_refine_happens_once_and_by_itself():
    target = torch.tensor([1.0, -2.0], dtype=F64)

    def upper_loss(x, y):
        return (y[0] * x[0]).sum()

    def lower_loss(x, y):
        return ((y[0] - target) ** 2).sum() / 2

    x, y = leaf([1.0, 1.0]), leaf([0.0, 0.0])
    optimizer = UnboundedSmoothBilevel([x], [y], lower_lr=0.5)
    optimizer.refine(lower_loss)
    torch.testing.assert_close(y.detach(), target, rtol=1e-3, atol=1e-3)
    assert optimizer.n_lower_gradients == 20 * 31
    optimizer.step(upper_loss, lower_loss)
    assert optimizer.n_lower_gradients == 20 * 31
    y.data.fill_(0.0)
    again = UnboundedSmoothBilevel([x], [y], lower_lr=0.5, projection_radius=0.1)
    again.refine(lower_loss)
    # Balls of radius 0.1 that shrink by sqrt(2) each time keep y within their sum.
    assert float(y.detach().norm()) <= 0.1 * sum(2 ** (-s / 2) for s in range(5)) + 1e-9


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("setting", "value", "error"),
    [
        ("period", 0, ValueError),
        ("lower_steps", 0, ValueError),
        ("momentum", 1.0, ValueError),
        ("momentum", -0.1, ValueError),
        ("upper_lr", 0.0, ValueError),
        ("lower_lr", float("nan"), ValueError),
        ("linear_system_lr", "0.1", TypeError),
        ("refinement_epochs", -1, ValueError),
        ("refinement_steps", 0, ValueError),
        ("projection_radius", 0.0, ValueError),
        ("schedule", "cosine", ValueError),
        ("lower_iterate", "first", ValueError),
        ("decay_start", 0.0, ValueError),
        ("hvp", "forward", ValueError),
        ("shared_batch", 1, TypeError),
    ],
)
def test_settings_are_checked(setting, value, error):
    with pytest.raises(error, match=setting):
        UnboundedSmoothBilevel([leaf([1.0])], [leaf([1.0])], **{setting: value})
    upper, lower, _, _ = quadratic()
    with pytest.raises(error, match=setting):
        minimize_bilevel(upper, lower, np.zeros(3), np.zeros(4), 2, **{setting: value})


def test_parameters_are_checked():
    good = [leaf([1.0])]
    with pytest.raises(TypeError, match="upper_params must be a sequence"):
        UnboundedSmoothBilevel(good[0], good)
    with pytest.raises(ValueError, match="lower_params is empty"):
        UnboundedSmoothBilevel(good, [])
    with pytest.raises(TypeError, match="lower_params must hold tensors of floats"):
        UnboundedSmoothBilevel(good, [torch.tensor([1])])
    with pytest.raises(ValueError, match="leaves that require gradients"):
        UnboundedSmoothBilevel(good, [torch.zeros(2)])
    with pytest.raises(ValueError, match="upper_params contains NaN"):
        UnboundedSmoothBilevel([leaf([float("nan")])], good)
    optimizer = UnboundedSmoothBilevel(good, [leaf([1.0])])
    with pytest.raises(TypeError, match="lower_loss_fn must be callable"):
        optimizer.step(lambda x, y: y[0].sum(), 3)
    with pytest.raises(TypeError, match="lower_loss_fn must be callable"):
        optimizer.refine(None)


@pytest.mark.parametrize("name", ["x0", "y0"])
def test_starts_are_checked(name):
    upper, lower, _, _ = quadratic()
    start = {"x0": np.zeros(3), "y0": np.zeros(4)}
    for bad, error in ((np.array([np.nan]), ValueError), (np.zeros(0), ValueError), (np.ones(3, int), TypeError)):
        with pytest.raises(error, match=name):
            minimize_bilevel(upper, lower, **start | {name: bad}, n_steps=2)
    for bad in ({"n_steps": 0}, {"method": "adam"}, {"tolerance": -1.0}, {"neumann_terms": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            minimize_bilevel(upper, lower, **start | {"n_steps": 2} | bad)
    with pytest.raises(TypeError, match="upper must be callable"):
        minimize_bilevel(1.0, lower, **start, n_steps=2)
    with pytest.raises(TypeError, match="callback must be callable"):
        minimize_bilevel(upper, lower, **start, n_steps=2, callback=1)


@pytest.mark.parametrize("level", ["upper", "lower"])
@pytest.mark.parametrize("method", METHODS)
def test_nan_from_a_loss_is_named_with_its_level_and_step(level, method):
    upper, lower, _, _ = quadratic()
    calls = {"n": 0}

    def broken(x, y):
        calls["n"] += 1
        return (upper if level == "upper" else lower)(x, y) * (float("nan") if calls["n"] > 40 else 1.0)

    pair = (broken, lower) if level == "upper" else (upper, broken)
    with pytest.raises(FloatingPointError, match=rf"{level} loss is nan at step \d+, where the upper variables"):
        minimize_bilevel(*pair, np.zeros(3), np.zeros(4), 100, method, refinement_steps=1, refinement_epochs=1)


def test_nan_in_a_gradient_alone_is_found():
    def upper(x, y):
        return x.abs().sqrt().sum() + (y**2).sum()

    with pytest.raises(FloatingPointError, match="hypergradient is NaN or infinite at step 0"):
        minimize_bilevel(upper, lambda x, y: ((y - x) ** 2).sum(), np.zeros(1), np.zeros(1), 5)


def test_losses_must_be_numbers_that_depend_on_the_tensors():
    x, y = np.zeros(2), np.zeros(2)
    good = lambda x, y: ((y - x) ** 2).sum()  # noqa: E731
    with pytest.raises(ValueError, match=r"upper loss must be one number, got shape \(2,\)"):
        minimize_bilevel(lambda x, y: y - x, good, x, y, 2)
    with pytest.raises(ValueError, match="lower loss must depend on"):
        minimize_bilevel(good, lambda x, y: torch.zeros(()), x, y, 2)
    with pytest.raises(TypeError, match="upper loss must be a tensor of floats"):
        minimize_bilevel(lambda x, y: 1.0, good, x, y, 2)


def test_too_long_a_step_of_z_is_told():
    upper, lower, _, A = quadratic()
    limit = 2 / float(torch.linalg.eigvalsh(A).max())
    options = {"n_steps": 3, "lower_lr": 0.1}
    with pytest.warns(UserWarning, match="z will diverge"):
        minimize_bilevel(upper, lower, np.zeros(3), np.zeros(4), linear_system_lr=1.2 * limit, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        minimize_bilevel(upper, lower, np.zeros(3), np.zeros(4), linear_system_lr=0.9 * limit, **options)
    with pytest.warns(UserWarning, match="negative curvature"):
        minimize_bilevel(upper, lambda x, y: -(y**2).sum() + x.sum(), np.zeros(3), np.zeros(4), 1, lower_lr=1e-3)


def test_lower_loss_that_is_flat_in_a_direction_is_told():
    def upper(x, y):
        return (y - 1).pow(2).sum()

    def flat(x, y):
        return (y[0] - x[0]) ** 2

    with pytest.warns(ConvergenceWarning, match="strongly convex"):
        minimize_bilevel(upper, flat, np.zeros(2), np.zeros(2), 600, linear_system_lr=0.1)
    generator = torch.Generator().manual_seed(0)

    def noisy(x, y):
        return (y - x).pow(2).sum() * (1 + 0.5 * torch.randn((), dtype=F64, generator=generator))

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        minimize_bilevel(upper, noisy, np.zeros(2), np.zeros(2), 600, linear_system_lr=0.1)


def test_tolerance_callback_and_what_the_result_says():
    upper, lower, hypergradient, _ = quadratic()
    start = (np.zeros(3), np.zeros(4))
    rates = {"upper_lr": 0.1, "lower_lr": 0.2, "linear_system_lr": 0.2}
    found = minimize_bilevel(upper, lower, *start, 5000, "ma_soba", tolerance=1e-6, **rates)
    assert found.success
    assert found.status == 0
    assert found.nit < 5000
    assert float(hypergradient(torch.tensor(found.x)).norm()) < 1e-4
    with pytest.warns(ConvergenceWarning, match=r"above tolerance 1e-06, after 20 steps"):
        short = minimize_bilevel(upper, lower, *start, 20, tolerance=1e-6, **rates)
    assert not short.success
    assert short.status == 1
    assert {name: len(entries) for name, entries in short.history.items()} == dict.fromkeys(short.history, 20)
    assert short.history["gradient_evaluations"][-1] == (
        short.n_upper_gradients + short.n_lower_gradients + 2 * (short.n_hessian_vector + short.n_mixed)
    )
    seen = []

    def stop(state):
        seen.append(state.x)
        if state.nit == 4:
            raise StopIteration

    ended = minimize_bilevel(upper, lower, *start, 20, callback=stop, **rates)
    assert (ended.nit, ended.status, ended.success, len(seen)) == (4, 2, False, 4)
    np.testing.assert_array_equal(seen[-1], ended.x)
    with pytest.warns(ConvergenceWarning, match="grew from"):
        minimize_bilevel(
            lambda x, y: -((y - 1) ** 2).sum(), lambda x, y: (y - x).pow(2).sum(), np.zeros(1), np.zeros(1), 200,
            "soba", lower_lr=0.3, linear_system_lr=0.3,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_and_tensors_of_any_shape(dtype):
    def upper(x, y):
        return ((y - 1) ** 2).sum()

    def lower(x, y):
        return ((y - x[:, None]) ** 2).sum() / 2

    x0, y0 = np.zeros(3, dtype), np.zeros((3, 2), dtype)
    arrays = minimize_bilevel(upper, lower, x0, y0, 30)
    tensors = minimize_bilevel(upper, lower, torch.from_numpy(x0), torch.from_numpy(y0), 30)
    assert arrays.x.dtype == arrays.lower_solution.dtype == dtype
    assert arrays.linear_solution.shape == (3, 2)
    np.testing.assert_array_equal(arrays.x, tensors.x.numpy())
    assert x0.max() == y0.max() == 0.0


def test_differences_need_one_batch():
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(4, dtype=F64, generator=generator)

    upper, lower, hypergradient, _ = quadratic()
    options = {"upper_lr": 0.03, "lower_lr": 0.2, "linear_system_lr": 0.2, "hvp": "finite_difference"}
    with pytest.raises(ValueError, match="must be of one batch"):
        minimize_bilevel(upper, lambda x, y: lower(x, y) + draw() @ y, np.zeros(3), np.zeros(4), 3, **options)
    found = minimize_bilevel(
        upper, lambda x, y, batch: lower(x, y) + 0.01 * (batch @ y), np.zeros(3), np.zeros(4), 500, draw_batch=draw,
        **options,
    )  # fmt: skip
    start = float(hypergradient(torch.zeros(3, dtype=F64)).norm())
    assert float(hypergradient(torch.tensor(found.x)).norm()) < 0.3 * start


class OnceDifferentiable(torch.autograd.Function):
    """Squares, as cuDNN would differentiate them."""

    @staticmethod
    def forward(ctx, y):
        ctx.save_for_backward(y)
        return (y**2).sum()

    @staticmethod
    def backward(ctx, slope):
        if torch.is_grad_enabled():
            raise NotImplementedError("the derivative for '_cudnn_rnn_backward' is not implemented")
        return 2 * slope * ctx.saved_tensors[0]


def test_error_of_cudnn_says_how_to_go_on():
    def upper(x, y):
        return (y - x).pow(2).sum()

    def lower(x, y):
        return OnceDifferentiable.apply(y - x)

    with pytest.raises(RuntimeError, match=r"cudnn.flags\(enabled=False\), or use hvp='finite_difference'"):
        minimize_bilevel(upper, lower, np.ones(2), np.zeros(2), 2)
    assert minimize_bilevel(upper, lower, np.ones(2), np.zeros(2), 2, hvp="finite_difference").nit == 2

    def other(x, y):
        raise RuntimeError("of the user's own")

    with pytest.raises(RuntimeError, match="of the user's own"):
        minimize_bilevel(upper, other, np.ones(2), np.zeros(2), 2)


# --- hyper-cleaning ---


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99])
def test_sparse_momentum_is_the_dense_one(beta):
    rng, n = np.random.default_rng(0), 30
    sparse_one = SparseMomentum(n, beta)
    x, m = np.zeros(n), np.zeros(n)
    for k in range(700):
        rows = rng.choice(n, 4, replace=False)
        g = np.zeros(n)
        g[rows] = rng.normal(size=4) * 10.0 ** rng.integers(-1, 2)
        m = beta * m + (1 - beta) * g
        eta = 0.3 / np.sqrt(1 + k / 50)
        x -= eta * m / (np.linalg.norm(m) + 1e-10)
        length = sparse_one.step(rows, g[rows], eta)
        assert length == pytest.approx(np.linalg.norm(m), rel=1e-6)
        if k % 37 == 0:
            some = rng.choice(n, 3, replace=False)
            np.testing.assert_allclose(sparse_one.at(some), x[some], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(sparse_one.all(), x, rtol=1e-7, atol=1e-8)


def test_sparse_momentum_touches_few_entries_a_step():
    momentum = SparseMomentum(1000, 0.9)
    touched = []
    for _ in range(100):
        before = momentum._seen.copy()
        momentum.step(np.arange(5), np.ones(5), 0.1)
        touched.append(int((momentum._seen != before).sum()))
    assert max(touched) <= 5
    assert SparseMomentum(3, 0.9).step(np.array([1]), np.zeros(1), 0.1) == 0.0


def classifiers(hvp="autograd"):
    rng = np.random.default_rng(0)
    X, V = rng.normal(size=(20, 5)), rng.normal(size=(8, 5))
    t, v = rng.integers(0, 3, 20), rng.integers(0, 3, 8)
    linear = nn.Linear(5, 3, bias=False).double()
    closed = SoftmaxRegression(X, t, V, v, 3, 0.01)
    module = ModuleClassifier(linear, *map(torch.from_numpy, (X, t, V, v)), penalty=0.01, hvp=hvp)
    y, z = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    rows = rng.choice(20, 7, replace=False)
    return closed, module, y, z, rows, rng.random(7)


@pytest.mark.parametrize("hvp", ["autograd", "finite_difference"])
def test_closed_form_agrees_with_automatic_derivatives(hvp):
    closed, module, y, z, rows, weights = classifiers(hvp)

    def flat(matrix):
        return torch.from_numpy(np.ascontiguousarray(matrix.T)).reshape(-1)

    def unflat(vector):
        return vector.numpy().reshape(3, 5).T

    tol = {"rtol": 1e-9, "atol": 1e-11} if hvp == "autograd" else {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(
        closed.gradient(y, rows, weights), unflat(module.gradient(flat(y), rows, weights)), **tol
    )
    np.testing.assert_allclose(
        closed.hessian_vector(y, z, rows, weights),
        unflat(module.hessian_vector(flat(y), flat(z), rows, weights)),
        **tol,
    )
    np.testing.assert_allclose(closed.slopes(y, z, rows), module.slopes(flat(y), flat(z), rows), **tol)
    value, gradient = closed.upper(y, np.arange(8))
    expected, expected_gradient = module.upper(flat(y), np.arange(8))
    assert value == pytest.approx(expected)
    np.testing.assert_allclose(gradient, unflat(expected_gradient), **tol)


def test_smoothness_bounds_the_curvature():
    closed, _, y, z, _, _ = classifiers()
    every, ones = np.arange(20), np.ones(20)
    for scale in (0.0, 1.0, 5.0):
        direction = z / np.linalg.norm(z)
        for _ in range(30):
            product = closed.hessian_vector(scale * y, direction, every, ones)
            direction = product / np.linalg.norm(product)
        assert 0 < np.linalg.norm(product) <= closed.smoothness()


def test_cleaning_with_all_rows_is_the_general_method():
    X, noisy, V, v, _, _, _ = digits(n=60)
    options = {"upper_lr": 0.3, "lower_lr": 0.3, "linear_system_lr": 0.5, "refinement_epochs": 2}
    cleaner = LabelCleaner(
        clean_X=V, clean_y=v, n_steps=150, batch_size=1000, penalty=1e-3, progress=False, **options
    ).fit(X, noisy)
    A, C = (torch.from_numpy(np.c_[each, np.ones(len(each))]) for each in (X, V))
    t, u = torch.from_numpy(np.searchsorted(cleaner.classes_, noisy)), torch.from_numpy(v)

    def lower(x, y):
        losses = nn.functional.cross_entropy(A @ y, t, reduction="none")
        return (torch.sigmoid(x) * losses).mean() + 1e-3 * (y**2).sum()

    found = minimize_bilevel(
        lambda x, y: nn.functional.cross_entropy(C @ y, u), lower, np.zeros(60), np.zeros((65, 10)), 150, **options
    )
    np.testing.assert_allclose(cleaner.sample_weight_, 1 / (1 + np.exp(-found.x)), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(cleaner.coef_, found.lower_solution[:-1].T, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(cleaner.history_["upper_loss"], found.history["upper_loss"], rtol=1e-8)
    assert cleaner.n_lower_gradients_ == found.n_lower_gradients == 60 + 3 * 74


def test_cleaner_finds_wrong_labels_and_gains_from_it():
    X, noisy, V, v, truth, test, test_truth = digits(0.5)
    options = {"lower_lr": 0.3, "linear_system_lr": 0.5, "n_steps": 1200, "random_state": 0, "progress": False}
    cleaner = LabelCleaner(clean_X=V, clean_y=v, **options).fit(X, noisy)
    plain = LabelCleaner(clean_X=V, clean_y=v, upper_lr=1e-12, **options).fit(X, noisy)
    assert roc_auc_score(noisy != truth, cleaner.suspect_score_) > 0.8
    assert cleaner.score(test, test_truth) > plain.score(test, test_truth) + 0.03
    np.testing.assert_allclose(cleaner.sample_weight_ + cleaner.suspect_score_, 1.0)
    assert cleaner.history_["passes"][-1] == pytest.approx((620 + 2 * 1200 + 3 * 599) * 128 / 400)


def test_cleaner_is_the_same_for_the_same_seed_sparse_or_dense():
    X, noisy, V, v, _, test, _ = digits(n=100)
    options = {"clean_y": v, "n_steps": 100, "refinement_epochs": 1, "progress": False}
    first = LabelCleaner(clean_X=V, random_state=3, **options).fit(X, noisy)
    again = LabelCleaner(clean_X=V, random_state=3, **options).fit(X, noisy)
    np.testing.assert_array_equal(first.sample_weight_, again.sample_weight_)
    other = LabelCleaner(clean_X=V, random_state=4, **options).fit(X, noisy)
    assert np.abs(first.sample_weight_ - other.sample_weight_).max() > 0
    rows = LabelCleaner(clean_X=sparse.csr_array(V), random_state=3, **options).fit(sparse.csr_matrix(X), noisy)
    np.testing.assert_allclose(rows.sample_weight_, first.sample_weight_, rtol=1e-8)
    mixed = LabelCleaner(clean_X=V, random_state=3, **options).fit(sparse.csr_array(X), noisy)
    np.testing.assert_array_equal(mixed.predict(sparse.csr_array(test)), first.predict(test))
    np.testing.assert_allclose(first.predict_proba(test).sum(1), 1.0)


def test_interrupted_fit_keeps_its_last_step_and_goes_on():
    X, noisy, V, v, _, _, _ = digits(n=60)
    options = {"clean_X": V, "clean_y": v, "batch_size": 1000, "progress": False, "decay_start": 10}
    whole = LabelCleaner(n_steps=60, **options).fit(X, noisy)

    class Interrupting(SoftmaxRegression):
        calls = 0

        def upper(self, y, rows):
            Interrupting.calls += 1
            if Interrupting.calls == 25:
                signal.raise_signal(signal.SIGINT)
            return super().upper(y, rows)

    module = "paperworks.optimization.unbounded_smooth_bilevel._label_cleaner.SoftmaxRegression"
    part = LabelCleaner(n_steps=60, warm_start=True, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, Interrupting)
        with pytest.raises(KeyboardInterrupt):
            part.fit(X, noisy)
    assert part.n_iter_ == 25
    part.set_params(n_steps=35).fit(X, noisy)
    assert part.n_iter_ == 60
    np.testing.assert_allclose(part.sample_weight_, whole.sample_weight_)
    np.testing.assert_allclose(part.coef_, whole.coef_)
    with pytest.raises(ValueError, match="samples of the last fit"):
        part.fit(X[:50], noisy[:50])


def test_cleaner_says_what_is_wrong():
    X, noisy, V, v, _, _, _ = digits(n=60)
    small = {"n_steps": 2, "refinement_epochs": 0, "progress": False}
    for parameters, error, words in (
        ({"clean_X": V}, ValueError, "clean_X and clean_y must be given together"),
        ({"clean_X": V[:, :5], "clean_y": v}, ValueError, "clean_X must have 64 features, as X has, got 5"),
        ({"clean_X": V, "clean_y": v[:7]}, ValueError, "clean_y must have one entry"),
        ({"clean_X": V, "clean_y": v + 50}, ValueError, "which is no class of y"),
        ({"clean_X": np.full_like(V, np.nan), "clean_y": v}, ValueError, "clean_X contains NaN"),
        ({"momentum": 1.0}, ValueError, "momentum"),
        ({"period": 0}, ValueError, "period"),
        ({"penalty": -1.0}, ValueError, "penalty"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"estimator": "forest"}, ValueError, "estimator must be 'softmax', 'lstm'"),
        ({"estimator": "lstm"}, TypeError, "X must hold token ids"),
    ):
        with pytest.raises(error, match=words):
            LabelCleaner(**small | parameters).fit(X, noisy)
    with pytest.raises(FloatingPointError, match=r"at step \d+: lower"), np.errstate(all="ignore"):
        LabelCleaner(clean_X=V, clean_y=v, linear_system_lr=1e200, n_steps=9, progress=False).fit(X, noisy)


def tokens(n=400, seed=0):
    """Texts of a few tokens whose class is which of two keywords stands first; 0 ends them."""
    rng = np.random.default_rng(seed)
    X, y = rng.integers(3, 12, size=(n, 8)), rng.integers(0, 2, n)
    X[np.arange(n), rng.integers(0, 4, n)] = 1 + y
    X[rng.random(n) < 0.5, 6:] = 0
    return X, y


@pytest.mark.parametrize("hvp", ["autograd", "finite_difference"])
def test_cleaner_of_token_ids(hvp):
    X, y = tokens()
    noisy = np.where(np.arange(400) < 100, 1 - y, y)
    cleaner = LabelCleaner(
        "lstm", torch.from_numpy(X[300:]), y[300:], n_steps=150, batch_size=32, lower_lr=1.0, linear_system_lr=0.2,
        refinement_epochs=2, hvp=hvp, device="cpu", random_state=0, progress=False,
    ).fit(torch.from_numpy(X), noisy)  # fmt: skip
    assert cleaner.suspect_score_[:100].mean() > cleaner.suspect_score_[100:].mean() + 0.1
    assert cleaner.score(*tokens(seed=1)) > 0.9
    longer = np.hstack([X, np.zeros((400, 3), dtype=int)])
    torch.testing.assert_close(cleaner.model_(torch.from_numpy(longer)), cleaner.model_(torch.from_numpy(X)))
    with pytest.raises(ValueError, match="X holds token 99, but fit saw none above 11"):
        cleaner.predict(np.full((1, 8), 99))


def test_clean_labels_trains_the_model_in_place_and_the_estimator_a_copy():
    X, noisy, V, v, truth, _, _ = digits(n=200)
    model = nn.Linear(64, 10).double()
    before = model.weight.detach().clone()
    options = {"n_steps": 60, "lower_lr": 0.3, "linear_system_lr": 0.5, "device": "cpu", "random_state": 0}
    cleaner = LabelCleaner(model, V, v, progress=False, **options).fit(X, noisy)
    assert torch.equal(model.weight, before)
    np.testing.assert_array_equal(cleaner.classes_, np.arange(10))
    found = clean_labels(model, X, noisy, V, v, **options)
    np.testing.assert_allclose(found.sample_weight, cleaner.sample_weight_)
    torch.testing.assert_close(model.weight, cleaner.model_.weight)
    assert roc_auc_score(noisy != truth, found.suspect_score) > 0.6
    assert (found.nit, found.n_mixed, found.success) == (60, 60, True)


def test_clean_labels_says_what_is_wrong():
    model, X, y = nn.Linear(3, 2), np.zeros((4, 3), dtype=np.float32), np.array([0, 1, 0, 1])
    for arguments, error, words in (
        ((model, X, y[:3], X, y), ValueError, "labels must have one entry a sample, 4, got 3"),
        ((model, X, y, X, y + 1), ValueError, "model has outputs for 2 classes, but the labels go up to 2"),
        ((model, X, y.astype(float), X, y), TypeError, "labels must hold integers, got float64"),
        ((model, X, -y, X, y), ValueError, "labels must be one axis of classes from 0"),
        ((model, X * np.nan, y, X, y), ValueError, "data contains NaN"),
        ((model, X, y, X[:0], y[:0]), ValueError, "clean_data is empty"),
        ((nn.Flatten(0), X, y, X, y), ValueError, "model must return outputs of shape"),
        ((nn.Identity(), X, y, X, y), ValueError, "model has no parameters"),
        (("softmax", X, y, X, y), TypeError, "model must be a torch module"),
    ):
        with pytest.raises(error, match=words):
            clean_labels(*arguments, n_steps=2, device="cpu")


def test_settings_decay_as_documented():
    settings = Settings(decay_start=50.0)
    assert settings.decay(150, 0.5) == 0.5
    assert Settings(schedule="constant").decay(150, 0.5) == 1.0


# --- the command ---


def table(path, X, y, name="y"):
    header = ",".join([*(f"f{i}" for i in range(X.shape[1])), name])
    rows = [",".join([*(f"{value:.6g}" for value in row), str(label)]) for row, label in zip(X, y, strict=True)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_command_on_tables(tmp_path):
    X, noisy, V, v, truth, _, _ = digits(n=200)
    words = np.array([f"digit {k}" for k in range(10)])
    noisy_file = table(tmp_path / "noisy.csv", X, words[noisy])
    clean_file = table(tmp_path / "clean.csv", V, words[v])
    out = tmp_path / "out"
    out.mkdir()
    summary = run(noisy_file, out=out, clean=clean_file, label="y", steps=300)
    assert summary["samples"] == 200
    assert summary["clean_samples"] == 200
    lines = (out / "labels.csv").read_text().splitlines()
    assert lines[0] == "row,label,weight,suspect_score,suggested"
    rows = [line.split(",") for line in lines[1:]]
    assert len(rows) == 200
    score = np.array([float(row[3]) for row in rows])
    assert roc_auc_score(noisy != truth, score) > 0.7
    assert {path.name for path in out.iterdir()} >= {"labels.csv", "model.npz", "history.csv", "picture.png"}


def test_command_errors(tmp_path):
    from paperworks._files import InputError

    X, noisy, V, v, _, _, _ = digits(n=30)
    good, clean = table(tmp_path / "noisy.csv", X, noisy), table(tmp_path / "clean.csv", V, v)
    few = table(tmp_path / "few.csv", V[:, :3], v)
    for files, options, words in (
        ((good, good), {"clean": clean}, "one file"),
        ((good,), {}, "--clean"),
        ((tmp_path / "none.csv",), {"clean": clean}, "no such file"),
        ((good,), {"clean": clean, "label": "nothing"}, "no column 'nothing'"),
        ((good,), {"clean": few}, "few.csv: lacks column"),
    ):
        with pytest.raises(InputError, match=words):
            run(*files, out=tmp_path, steps=5, **options)
