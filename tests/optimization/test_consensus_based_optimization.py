"""Consensus-based optimization against loops over particles, closed forms and quadrature."""

import warnings
from io import BytesIO

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import Bounds
from sklearn.exceptions import ConvergenceWarning

from paperworks.optimization import (
    ConsensusOptimizer,
    benchmark_function,
    consensus_hopping,
    consensus_point,
    implied_gradient,
    minimize_consensus,
)
from paperworks.optimization.consensus_based_optimization._swarm import Box, Streams, approach, approach_with
from paperworks.papers.consensus_based_optimization.run import run

NAMES = ["canyon", "rastrigin", "ackley", "griewank", "salomon", "alpine", "xin_she_yang"]
CPU = torch.device("cpu")


def bowl(points):
    return ((points - 1) ** 2).sum(-1)


def rastrigin(points):
    return (points**2 + 1.5 * (1 - np.cos(2 * np.pi * points))).sum(-1)


def quietly(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return minimize_consensus(*arguments, **options)


# --- the consensus point ---


def test_consensus_point_is_the_weighted_mean_of_the_formula():
    rng = np.random.default_rng(0)
    E, x = rng.normal(size=7), rng.normal(size=(7, 3))
    weights = [np.exp(-2.5 * value) for value in E]
    wanted = sum(w * each for w, each in zip(weights, x, strict=True)) / sum(weights)
    np.testing.assert_allclose(consensus_point(E, x, 2.5), wanted, rtol=1e-12)
    # A constant added to the objective changes nothing, even where exp(-alpha E) is 0 for all.
    np.testing.assert_allclose(consensus_point(E + 1e6, x, 2.5), wanted, rtol=1e-8)


def test_consensus_point_is_the_lowest_for_huge_alpha_and_the_mean_of_equals():
    rng = np.random.default_rng(0)
    E, x = rng.normal(size=7), rng.normal(size=(7, 3))
    np.testing.assert_array_equal(consensus_point(E, x, 1e15), x[E.argmin()])
    E[[1, 4]] = E.min() - 1
    np.testing.assert_allclose(consensus_point(E, x, 1e15), (x[1] + x[4]) / 2)
    np.testing.assert_allclose(consensus_point(np.full(7, 1e9), x, 1e15), x.mean(0))
    # Neighbouring numbers stay apart at alpha E = 3e15: the least is taken off before alpha comes in.
    gap = np.nextafter(3.3, 4) - 3.3
    close = consensus_point(np.array([3.3, 3.3 + gap]), np.array([[0.0], [1.0]]), 1e15)
    np.testing.assert_allclose(close, 1 / (1 + np.exp(1e15 * gap)), rtol=1e-12)
    # An alpha that float32 can't hold: weights are float64.
    single = consensus_point(np.float32([1.0, 2.0]), np.float32([[4.0], [1.0]]), 1e40)
    assert single == np.float32([4.0])
    assert single.dtype == np.float32


def test_consensus_point_is_batched_and_differentiable():
    generator = torch.Generator().manual_seed(0)
    E = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    c = consensus_point(E, x, 3.0)
    assert c.shape == (2, 3, 4)
    torch.testing.assert_close(c[1, 2], consensus_point(E[1, 2], x[1, 2], 3.0))
    # Larger ones are a matrix product.
    many = torch.randn(3, 9_000, dtype=torch.float64, generator=generator)
    places = torch.randn(3, 9_000, 4, dtype=torch.float64, generator=generator)
    means = torch.stack([(torch.softmax(-v, 0)[:, None] * p).sum(0) for v, p in zip(many, places, strict=True)])
    torch.testing.assert_close(consensus_point(many, places, 1.0), means)
    assert torch.autograd.gradcheck(lambda E, x: consensus_point(E, x, 3.0), (E, x))


def test_consensus_point_refuses():
    with pytest.raises(ValueError, match=r"values must have shape.*got \(3,\) and \(2, 2\)"):
        consensus_point(np.ones(3), np.ones((2, 2)), 1.0)
    with pytest.raises(ValueError, match="values contains NaN or infinity"):
        consensus_point(np.array([1.0, np.inf]), np.ones((2, 2)), 1.0)
    with pytest.raises(TypeError, match="positions must hold floating-point numbers"):
        consensus_point(np.ones(2), np.ones((2, 2), dtype=int), 1.0)
    with pytest.raises(ValueError, match="temperature_inverse must be a finite number greater than"):
        consensus_point(np.ones(2), np.ones((2, 2)), 0.0)


# --- the functions ---


def literally(name, x):
    """The functions as they are written, for one point."""
    d, pi = len(x), np.pi
    if name == "canyon":
        a, b = x
        c, r = b - ((a - 1) * (a - 4) ** 2 / 8 + 2), -a - 1.6 * b
        ridge = 4 * np.exp(1 - 2 * c**4) * max((1 - np.exp(-9 * r**2)) * np.sign(r), 0)
        waves = 1.1625 * ((1 - np.cos(0.75 * pi * a)) + (1 - np.cos(0.75 * pi * b)))
        return 25 * (1 - np.exp(-1.4 * c**2 * np.exp(-0.002 * a**4))) + 0.4 * a**2 + 0.2 * b**2 + waves + ridge
    if name == "rastrigin":
        return sum(v**2 + 1.5 * (1 - np.cos(2 * pi * v)) for v in x)
    if name == "ackley":
        root = np.sqrt(sum(v**2 for v in x) / d)
        return -20 * np.exp(-0.2 * root) - np.exp(sum(np.cos(2 * pi * v) for v in x) / d) + 20 + np.e
    if name == "griewank":
        return 1 + sum(v**2 for v in x) / 4000 - np.prod([np.cos(v / np.sqrt(i + 1)) for i, v in enumerate(x)])
    if name == "salomon":
        return 1 - np.cos(2 * pi * np.linalg.norm(x)) + 0.1 * np.linalg.norm(x)
    if name == "alpine":
        return sum(abs(v * np.sin(v) + 0.1 * v) for v in x)
    raise AssertionError


@pytest.mark.parametrize("name", NAMES)
def test_functions_are_as_written_with_minimum_zero_at_the_origin(name):
    function, rng = benchmark_function(name), np.random.default_rng(0)
    points = rng.uniform(-3, 5, size=(2, 50, 2))
    assert abs(float(function(np.zeros((1, 2)))[0])) < 1e-12
    assert (function(points) > 0).all()
    torch.testing.assert_close(function(torch.from_numpy(points)).numpy(), function(points))
    if name != "xin_she_yang":
        wanted = [[literally(name, x) for x in row] for row in points]
        np.testing.assert_allclose(function(points), wanted, rtol=1e-10)


def test_xin_she_yang_weighs_powers_by_constants_of_the_seed():
    function = benchmark_function("xin_she_yang", random_state=3)
    weights = function(np.eye(4))
    assert ((weights >= 0) & (weights < 1)).all()
    x = np.array([0.5, -2.0, 3.0, -1.5])
    np.testing.assert_allclose(function(x), (weights * np.abs(x) ** [1, 2, 3, 4]).sum())
    assert (function(np.eye(4)) == weights).all()
    assert (benchmark_function("xin_she_yang", random_state=4)(np.eye(4)) != weights).all()


def test_functions_refuse():
    with pytest.raises(ValueError, match="name must be one of 'canyon', 'rastrigin'"):
        benchmark_function("rosenbrock")
    with pytest.raises(ValueError, match="canyon is a function of the plane"):
        benchmark_function("canyon")(np.zeros((4, 3)))


# --- one step ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("limit", [np.inf, 0.7])
def test_compiled_step_is_the_step_on_any_device(dtype, isotropic, limit):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(3, 20, 4, generator=generator, dtype=dtype)
    c = torch.randn(3, 4, generator=generator, dtype=dtype)
    normal = Streams(5, 3, CPU).normal(20, 4, dtype=torch.float64).to(dtype)
    ours, theirs = X.clone(), X.clone()
    spread = approach(ours, c, Streams(5, 3, CPU), 0.1, 0.5, isotropic, limit)
    other = approach_with(theirs, c, normal, 0.1, 0.5, isotropic, limit)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(spread, other)
    np.testing.assert_allclose(spread, np.linalg.norm((X - c[:, None]).numpy(), axis=2).mean(1), rtol=1e-6)


@pytest.mark.parametrize("isotropic", [True, False])
def test_second_moment_falls_as_the_equation_says(isotropic):
    n, d, drift, noise, dt = 200_000, 3, 1.3, 0.9, 0.05
    X = torch.from_numpy(np.random.default_rng(0).normal(size=(1, n, d)) * [1.0, 2.0, 3.0])
    before = (X**2).mean(1)[0]
    approach(X, torch.zeros(1, d, dtype=X.dtype), Streams(1, 1, CPU), drift * dt, noise * dt**0.5, isotropic, np.inf)
    # E |X - c|^2 grows by (1 - lambda dt)^2 and sigma^2 dt times what the noise is scaled by.
    source = before.sum() if isotropic else before
    wanted = (1 - drift * dt) ** 2 * before + noise**2 * dt * source
    torch.testing.assert_close((X**2).mean(1)[0], wanted, rtol=0.01, atol=0)


def twin(
    fun,
    X,
    streams,
    steps,
    *,
    alpha,
    drift,
    noise,
    dt,
    isotropic,
    truncation=np.inf,
    batch=None,
    memory=None,
    slope=None,
):
    """The scheme particle by particle; memory is (drift, noise, sharpness), X of shape (n, d)."""
    n, d = X.shape
    Y, path, EY = X.copy(), [], np.full(n, np.inf)
    for _ in range(steps):
        chosen = range(n) if batch is None else streams.subsets(n, batch)[0].tolist()
        for i in chosen:
            E = fun(X[i])
            if memory is None or EY[i] == np.inf:
                Y[i], EY[i] = X[i], E
            elif memory[2] == np.inf:
                if EY[i] > E:
                    Y[i], EY[i] = X[i], E
            else:
                Y[i] = Y[i] + (X[i] - Y[i]) * (1 + np.tanh(memory[2] * (EY[i] - E))) / 2
                EY[i] = fun(Y[i])
        weights = {i: np.exp(-alpha * (EY[i] - min(EY[j] for j in chosen))) for i in chosen}
        c = sum(weights[i] * Y[i] for i in chosen) / sum(weights.values())
        path.append(c)
        second = streams.normal(n, d, dtype=torch.float64).numpy()[0] if memory and memory[1] else np.zeros((n, d))
        first = streams.normal(n, d, dtype=torch.float64).numpy()[0]
        moved = np.empty_like(X)
        for i in range(n):
            away, back = X[i] - c, X[i] - Y[i]
            reach = min(np.linalg.norm(away), truncation) if isotropic else np.clip(away, -truncation, truncation)
            moved[i] = X[i] - drift * dt * away + noise * np.sqrt(dt) * reach * first[i]
            if memory:
                reach = np.linalg.norm(back) if isotropic else back
                moved[i] += -memory[0] * dt * back + memory[1] * np.sqrt(dt) * reach * second[i]
            if slope is not None:
                moved[i] -= slope[1] * dt * slope[0](X[i])
        X = moved
        if memory is None:
            Y = X.copy()
    return np.array(path)


@pytest.mark.parametrize("noise_kind", ["isotropic", "anisotropic"])
@pytest.mark.parametrize(
    ("options", "of_twin"),
    [
        ({}, {}),
        ({"truncation": 0.4}, {"truncation": 0.4}),
        ({"batch_size": 5}, {"batch": 5}),
        ({"memory": True, "memory_drift": 0.7}, {"memory": (0.7, 0.0, np.inf)}),
        ({"memory": True, "memory_noise": 0.6}, {"memory": (0.4, 0.6, np.inf)}),
        ({"memory": True, "memory_sharpness": 0.8}, {"memory": (0.4, 0.0, 0.8)}),
        ({"memory": True, "memory_sharpness": 0.8, "batch_size": 6}, {"memory": (0.4, 0.0, 0.8), "batch": 6}),
        ({"gradient": lambda x: 2 * (x - 1), "gradient_weight": 1.5}, {"slope": (lambda x: 2 * (x - 1), 1.5)}),
    ],
)
def test_iterations_are_those_of_the_scheme(noise_kind, options, of_twin):
    X = np.random.default_rng(0).normal(size=(9, 3)) * 2
    common = {"drift": 1.4, "noise": 0.8}
    ours = quietly(
        rastrigin,
        X,
        noise_kind=noise_kind,
        temperature_inverse=3.0,
        step=0.1,
        max_iter=12,
        random_state=4,
        **common,
        **options,
    )
    isotropic = noise_kind == "isotropic"
    wanted = twin(rastrigin, X, Streams(4, 1, CPU), 12, alpha=3.0, dt=0.1, isotropic=isotropic, **common, **of_twin)
    np.testing.assert_allclose(ours.consensus_path, wanted, rtol=1e-9, atol=1e-12)


# --- runs ---


def test_global_minimum_of_a_function_with_many():
    result = minimize_consensus(rastrigin, bounds=[(-3, 5)] * 4, n_runs=5, random_state=0)
    assert result.success
    assert result.status == 0
    assert "agree" in result.message
    assert (np.abs(result.runs["consensus"]).max(axis=1) < 0.05).sum() >= 4
    assert result.fun == pytest.approx(rastrigin(result.x), abs=1e-14)
    assert result.fun <= result.consensus_fun == pytest.approx(rastrigin(result.consensus), abs=1e-14)
    assert result.fun == result.runs["fun"].min()
    assert result.spread < 1e-6
    assert (result.runs["spread"] < 1e-6).all()


def test_a_run_is_what_it_would_be_alone():
    X = np.random.default_rng(0).uniform(-3, 5, size=(4, 30, 2))
    together = minimize_consensus(rastrigin, X, n_runs=4, random_state=7, tol=1e-3)
    assert len(set(together.runs["nit"].tolist())) > 1
    fewer = minimize_consensus(rastrigin, X[:2], n_runs=2, random_state=7, tol=1e-3)
    alone = minimize_consensus(rastrigin, X[0], random_state=7, tol=1e-3)
    for m in range(2):
        nit = fewer.runs["nit"][m]
        assert nit == together.runs["nit"][m]
        np.testing.assert_allclose(fewer.consensus_path[m, :nit], together.consensus_path[m, :nit], rtol=1e-12)
        # A run that has converged stays where it is.
        assert (together.consensus_path[m, nit:] == together.runs["consensus"][m]).all()
    np.testing.assert_allclose(alone.consensus_path, together.consensus_path[0, : alone.nit], rtol=1e-12)
    assert alone.nit == together.runs["nit"][0]


def test_same_seed_same_result_and_a_generator_goes_on():
    options = {"bounds": [(-3, 5)] * 2, "max_iter": 20}
    first, second = (quietly(rastrigin, random_state=3, **options) for _ in range(2))
    np.testing.assert_array_equal(first.consensus_path, second.consensus_path)
    generator = np.random.default_rng(3)
    third, fourth = (quietly(rastrigin, random_state=generator, **options) for _ in range(2))
    np.testing.assert_array_equal(third.consensus_path, first.consensus_path)
    assert (third.consensus_path != fourth.consensus_path).all()


@pytest.mark.parametrize("noise_kind", ["isotropic", "anisotropic"])
def test_tensors_give_tensors_with_the_same_numbers(noise_kind):
    X = np.random.default_rng(0).normal(size=(20, 3))
    options = {"max_iter": 30, "noise": 0.5, "noise_kind": noise_kind, "random_state": 0, "n_runs": 2}
    arrays = quietly(bowl, X, **options)
    tensors = quietly(bowl, torch.from_numpy(X), **options)
    assert isinstance(tensors.x, torch.Tensor)
    assert isinstance(tensors.runs["fun"], torch.Tensor)
    assert isinstance(arrays.x, np.ndarray)
    np.testing.assert_allclose(tensors.consensus_path, arrays.consensus_path, rtol=1e-10)
    single = quietly(bowl, X.astype(np.float32), **options)
    assert single.consensus_path.dtype == np.float32
    np.testing.assert_allclose(single.consensus_path, arrays.consensus_path, atol=2e-3)


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 4}, {"memory": True}, {"memory": True, "memory_sharpness": 1.0}, {"n_runs": 3}]
)
def test_every_point_is_counted(options):
    seen = []

    def fun(points):
        seen.append(len(points))
        return bowl(points)

    result = quietly(fun, np.zeros(2), n_particles=10, max_iter=15, random_state=0, **options)
    assert result.nfev == sum(seen)
    assert result.history["nfev"][-1] == sum(seen[:-1])
    assert result.nit == 15
    counted = quietly(bowl, np.zeros(2), n_particles=10, max_iter=15, gradient=lambda x: 0 * x, gradient_weight=1.0)
    assert counted.njev == 150


def test_history_and_path_have_the_shapes_that_are_told():
    one = quietly(rastrigin, np.full(2, 2.0), max_iter=25, random_state=0)
    assert one.consensus_path.shape == (25, 2)
    assert {name: entry.shape for name, entry in one.history.items()} == dict.fromkeys(one.history, (25,))
    assert (np.diff(one.history["fun"]) <= 0).all()
    assert (np.diff(one.history["seconds"]) > 0).all()
    assert one.history["spread"][-1] == one.spread
    np.testing.assert_array_equal(one.consensus_path[-1], one.consensus)
    many = quietly(rastrigin, np.full(2, 2.0), max_iter=25, n_runs=3, random_state=0)
    assert many.consensus_path.shape == (3, 25, 2)
    assert many.history["spread"].shape == many.history["fun"].shape == (3, 25)
    assert many.runs["x"].shape == (3, 2)


@pytest.mark.parametrize("n_runs", [1, 3])
def test_the_lowest_point_is_kept(n_runs):
    seen, values = [], []

    def fun(points):
        seen.append(points.reshape(n_runs, -1, 2))
        values.append(rastrigin(seen[-1]))
        return values[-1].ravel()

    options = {"temperature_inverse": 0.1, "noise": 2.0, "max_iter": 40, "n_runs": n_runs, "random_state": 0}
    result = quietly(fun, np.full(2, 2.0), n_particles=5, **options)
    lowest = np.minimum.accumulate([each.min(axis=1) for each in values[:-1]])
    np.testing.assert_array_equal(np.reshape(result.history["fun"], (n_runs, 40)), lowest.T)
    points, every = np.concatenate(seen, axis=1), np.concatenate(values, axis=1)
    for m in range(n_runs):
        np.testing.assert_array_equal(result.runs["x"][m], points[m, every[m].argmin()])
    assert result.fun == every.min()
    # The consensus point is lower than any particle between two that are alike.
    between = quietly(bowl, np.array([[0.0, 1.0], [2.0, 1.0]]), max_iter=1, random_state=0)
    np.testing.assert_array_equal(between.x, [1.0, 1.0])
    assert between.fun == between.consensus_fun == 0
    assert between.history["fun"][-1] == 1


def test_a_centre_is_surrounded_by_unit_normal_particles():
    starts = []

    def fun(points):
        starts.append(points)
        return bowl(points)

    quietly(fun, np.array([5.0, -5.0]), n_particles=20_000, max_iter=1, random_state=0)
    np.testing.assert_allclose(starts[0].mean(0), [5, -5], atol=0.05)
    np.testing.assert_allclose(np.cov(starts[0].T), np.eye(2), atol=0.05)


# --- stopping ---


def test_limits_are_kept_and_told():
    options = {"n_particles": 10, "random_state": 0}
    with pytest.warns(ConvergenceWarning, match="max_iter=7 is reached"):
        result = minimize_consensus(bowl, np.zeros(2), max_iter=7, **options)
    assert (result.success, result.status, result.nit, len(result.consensus_path)) == (False, 1, 7, 7)
    with pytest.warns(ConvergenceWarning, match="max_evaluations=95 is reached"):
        result = minimize_consensus(bowl, np.zeros(2), max_evaluations=95, **options)
    assert (result.success, result.status, result.nit, result.nfev) == (False, 2, 9, 91)
    for memory, counted in (({}, 101), ({"memory": True, "memory_sharpness": 1.0}, 91)):
        # The first iteration evaluates 10 points, and with a sigmoid's memory each later one 20; one is for the end.
        assert quietly(bowl, np.zeros(2), max_evaluations=105, **memory, **options).nfev == counted
    result = minimize_consensus(bowl, np.zeros(2), tol=1e-2, **options)
    assert (result.success, result.status) == (True, 0)
    assert result.history["spread"][-1] < 1e-2 <= result.history["spread"][:-1].min()


def test_callback_sees_each_iteration_and_may_stop_the_run():
    states = []

    def callback(state):
        states.append(state)
        if state.nit == 5:
            raise StopIteration

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = minimize_consensus(bowl, np.zeros(2), n_particles=10, callback=callback, random_state=0)
    assert (result.success, result.status, result.nit) == (False, 3, 5)
    assert [state.nfev for state in states] == [10, 20, 30, 40, 50]
    np.testing.assert_array_equal([state.x for state in states], result.consensus_path)


def test_alpha_grows_when_the_spread_stalls():
    X = np.random.default_rng(0).normal(size=(50, 2))
    options = {"temperature_inverse": 0.1, "max_iter": 120, "random_state": 0, "tol": 0.0}
    stalled = {"noise": 5.0, "step": 0.2, "bounds": [(-3, 3)] * 2}
    plain, growing = (quietly(bowl, X, temperature_growth=growth, **stalled, **options) for growth in (1.0, 4.0))
    least = np.minimum.accumulate(plain.history["spread"])
    # Fifty iterations without a new minimum come to pass, and nothing differs before.
    still = np.array([len(least) > k + 50 and least[k] == least[k + 50] for k in range(len(least))])
    assert still.any()
    first = int(still.argmax()) + 50
    np.testing.assert_array_equal(plain.consensus_path[: first + 1], growing.consensus_path[: first + 1])
    assert (plain.consensus_path[first + 1 :] != growing.consensus_path[first + 1 :]).all()
    # Where the spread falls all the time, nothing grows.
    plain, growing = (quietly(bowl, X, temperature_growth=growth, noise=0.0, **options) for growth in (1.0, 4.0))
    np.testing.assert_array_equal(plain.consensus_path, growing.consensus_path)


# --- bounds ---


def test_reflection_folds_as_mirrors_do():
    low, high = torch.tensor([-1.0, 0.0, -np.inf, -np.inf]), torch.tensor([2.0, np.inf, 5.0, np.inf])
    points = torch.tensor([[-1.5, -3.0, 6.0, 1e9], [4.0, 2.0, -8.0, -1e9], [9.0, 0.0, 5.5, 0.0]])

    def mirrored(x, a, b):
        while not a <= x <= b:
            x = 2 * a - x if x < a else 2 * b - x
        return x

    wanted = [[mirrored(*entry) for entry in zip(x, low.tolist(), high.tolist(), strict=True)] for x in points.tolist()]
    np.testing.assert_allclose(Box(low, high).reflect(points), wanted)


@pytest.mark.parametrize("bounds", [[(0.5, 2), (-1, 0)], Bounds([0.5, -1], [2, 0]), np.array([[0.5, 2.0], [-1, 0]])])
def test_particles_stay_within_bounds(bounds):
    seen = []

    def fun(points):
        seen.append(points)
        return (points**2).sum(1)

    result = minimize_consensus(fun, bounds=bounds, noise=1.4, n_particles=1000, random_state=0)
    points = np.concatenate(seen)
    assert points[:, 0].min() >= 0.5
    assert points[:, 0].max() <= 2
    assert points[:, 1].max() <= 0
    # The minimum is on the boundary, where reflected particles still move.
    np.testing.assert_allclose(result.x, [0.5, 0.0], atol=0.05)
    assert (np.ptp(result.consensus_path[-300:], axis=0) > 0).all()


def test_bounds_without_an_end():
    x0 = np.array([2.5, 1.0])
    result = minimize_consensus(bowl, x0, bounds=[(2, None), None], noise=1.4, n_particles=1000, random_state=0)
    np.testing.assert_allclose(result.x, [2.0, 1.0], atol=0.05)
    assert (result.consensus_path[:, 0] >= 2).all()


# --- the user's function ---


def test_a_function_of_one_point_is_mapped():
    def one(x):
        assert x.shape == (2,)
        return ((x - 1) ** 2).sum()

    X = np.random.default_rng(0).normal(size=(10, 2))
    options = {"max_iter": 10, "random_state": 0}
    wanted = quietly(bowl, X, **options).consensus_path
    slope = {"gradient": lambda x: 2 * (x - 1), "gradient_weight": 0.0}
    np.testing.assert_allclose(quietly(one, X, vectorized=False, **slope, **options).consensus_path, wanted)
    np.testing.assert_allclose(quietly(one, X, vectorized=False, workers=3, **options).consensus_path, wanted)
    mapped = quietly(one, torch.from_numpy(X), vectorized=False, **options)
    np.testing.assert_allclose(mapped.consensus_path, wanted)


def test_the_function_can_keep_and_change_its_points():
    kept = []

    def fun(points):
        kept.append(points)
        values = bowl(points)
        points[:] = np.nan
        return values

    X = np.random.default_rng(0).normal(size=(10, 2))
    np.testing.assert_array_equal(
        quietly(fun, X, max_iter=5, random_state=0).x, quietly(bowl, X, max_iter=5, random_state=0).x
    )
    assert np.isnan(kept[0]).all()


def test_infinity_keeps_particles_out():
    def fun(points):
        return np.where(points[:, 0] > 0, bowl(points + 1), np.inf)

    X = np.random.default_rng(0).normal(size=(100, 2))
    result = minimize_consensus(fun, X, random_state=0)
    assert 0 < result.x[0] < 1e-2
    assert np.isfinite(result.consensus_path).all()
    assert (result.consensus_path[:, 0] > 0).all()


def test_undefined_values_are_named():
    def fun(points):
        calls.append(len(points))
        values = bowl(points)
        if len(calls) == 4:
            values[2] = np.nan
            bad.append(points[2].tolist())
        return values

    calls, bad = [], []
    with pytest.raises(ValueError, match="fun returned NaN at iteration 3, for x = ") as error:
        minimize_consensus(fun, np.zeros(2), n_particles=5, random_state=0)
    assert str(bad[0]) in str(error.value)
    calls.clear()
    assert np.isfinite(quietly(fun, np.zeros(2), n_particles=5, nan_policy="omit", max_iter=9).consensus_path).all()
    with pytest.raises(ValueError, match="objective returned no finite value at iteration 0"):
        minimize_consensus(lambda points: np.full(len(points), np.inf), np.zeros(2))
    with pytest.raises(ValueError, match="objective returned no finite value at iteration 0"):
        minimize_consensus(lambda points: np.full(len(points), np.nan), np.zeros(2), nan_policy="omit")
    with pytest.raises(ValueError, match="fun returned -inf at iteration 0"):
        minimize_consensus(lambda points: np.full(len(points), -np.inf), np.zeros(2))
    with pytest.raises(ValueError, match="gradient returned NaN or infinity at iteration 0, for x = "):
        minimize_consensus(bowl, np.zeros(2), gradient=lambda x: x * np.nan, gradient_weight=1.0)


def test_a_swarm_that_runs_away_is_named():
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="particles are no longer finite at iteration"):
        minimize_consensus(
            lambda x: -np.abs(x).sum(1).clip(max=1e300), np.zeros(3), noise=50.0, noise_kind="isotropic", step=1.0
        )


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"x0": None}, ValueError, "x0 or bounds must be given"),
        ({"x0": np.zeros(2, dtype=int)}, TypeError, "x0 must hold floating-point numbers"),
        ({"x0": np.array([0.0, np.nan])}, ValueError, "x0 contains NaN"),
        ({"x0": np.zeros((1, 2))}, ValueError, "x0 must hold at least 2 particles"),
        (
            {"x0": np.zeros((3, 5, 2)), "n_runs": 2},
            ValueError,
            r"x0 must hold 2 swarms, one a run, got shape \(3, 5, 2",
        ),
        ({"bounds": [(0, 1)]}, ValueError, "bounds must have a pair for each of the 2 coordinates"),
        ({"bounds": [(1, 0), (0, 1)]}, ValueError, "bounds must have low < high"),
        ({"bounds": [(1, 2), (1, 2)]}, ValueError, "x0 must lie within bounds"),
        ({"bounds": [1, 2]}, ValueError, "bounds must be pairs"),
        ({"bounds": "ab"}, ValueError, "bounds must be pairs"),
        ({"x0": None, "bounds": [(0, np.inf)]}, ValueError, "bounds must be finite where x0 is not given"),
        ({"n_particles": 1}, ValueError, "n_particles must be at least 2"),
        ({"temperature_inverse": 0.0}, ValueError, "temperature_inverse must be a finite number greater than"),
        ({"temperature_growth": 0.5}, ValueError, "temperature_growth must be a finite number at least 1"),
        ({"drift": 0.0}, ValueError, "drift"),
        ({"noise": -1.0}, ValueError, "noise"),
        ({"noise_kind": "diagonal"}, ValueError, "noise_kind must be one of 'anisotropic', 'isotropic'"),
        ({"step": 0.0}, ValueError, "step"),
        ({"max_iter": 0}, ValueError, "max_iter"),
        ({"n_runs": 0}, ValueError, "n_runs"),
        ({"truncation": 0.0}, ValueError, "truncation"),
        ({"memory_drift": -1.0}, ValueError, "memory_drift"),
        ({"memory_sharpness": 0.0}, ValueError, "memory_sharpness"),
        ({"gradient_weight": 1.0}, ValueError, "gradient_weight is 1.0, but no gradient is given"),
        ({"gradient": 3}, TypeError, "gradient must be callable"),
        ({"batch_size": 201}, ValueError, "batch_size must be at most the number of particles 200"),
        ({"tol": -1.0}, ValueError, "tol"),
        ({"max_evaluations": 0}, ValueError, "max_evaluations"),
        ({"nan_policy": "ignore"}, ValueError, "nan_policy must be one of"),
        ({"workers": 2}, ValueError, "workers are for functions of one NumPy point"),
        ({"random_state": "a"}, TypeError, "random_state"),
        ({"fun": 3}, TypeError, "fun must be callable"),
        (
            {"fun": lambda x: x},
            ValueError,
            r"fun must return one number a point, shape \(200,\) here, got shape \(200, 2",
        ),
        (
            {"gradient": lambda x: x[:, 0], "gradient_weight": 1.0},
            ValueError,
            r"gradient must return an array of shape \(200, 2\), got \(200,\)",
        ),
    ],
)
def test_bad_arguments_are_named(options, error, match):
    with pytest.raises(error, match=match):
        minimize_consensus(**{"fun": bowl, "x0": np.zeros(2), **options})


# --- hopping ---


@pytest.mark.parametrize(("alpha", "sigma"), [(10.0, 0.1), (10.0, 0.3), (50.0, 0.1), (1.0, 0.3)])
def test_a_hop_on_a_quadratic_is_the_proximal_step(alpha, sigma):
    H, x0 = np.array([1.0, 4.0]), np.array([0.3, -0.2])
    result = consensus_hopping(
        lambda x: (x**2 @ H) / 2,
        x0,
        n_samples=1_000_000,
        temperature_inverse=alpha,
        width=sigma,
        n_steps=1,
        random_state=0,
    )
    wanted = x0 / (1 + alpha * sigma**2 * H)
    # Four standard errors of the weighted mean, whose spread is less than sigma.
    np.testing.assert_allclose(
        result.consensus, wanted, atol=4 * sigma / np.sqrt(result.history["effective_samples"][0])
    )


def test_hops_are_those_of_the_scheme():
    result = consensus_hopping(
        rastrigin,
        np.array([2.0, -1.0]),
        n_samples=6,
        temperature_inverse=2.0,
        width=0.5,
        n_steps=203,
        width_decay=0.5,
        random_state=3,
    )
    streams, sigma = Streams(3, 1, CPU), 0.5
    np.testing.assert_array_equal(result.consensus_path[0], [2.0, -1.0])
    for k, x in enumerate(result.consensus_path[:-1]):
        X = x + sigma * streams.normal(6, 2, dtype=torch.float64)[0].numpy()
        E = np.array([rastrigin(each) for each in X])
        weights = np.exp(-2.0 * (E - E.min()))
        ahead = weights @ X / weights.sum()
        np.testing.assert_allclose(result.consensus_path[k + 1], ahead, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(result.implied_gradients[k], (x - ahead) / (2.0 * sigma**2), rtol=1e-7, atol=1e-9)
        effective = weights.sum() ** 2 / (weights**2).sum()
        assert result.history["effective_samples"][k] == pytest.approx(effective, rel=1e-9)
        if k in (99, 199):
            sigma *= 0.5
    assert result.nfev == 203 * 6 + 1
    assert (result.nit, result.success, result.status) == (203, True, 0)
    assert result.fun == pytest.approx(rastrigin(result.x))
    assert result.consensus_fun == pytest.approx(rastrigin(result.consensus))
    assert result.fun <= min(result.consensus_fun, result.history["fun"][-1])


def test_implied_gradient_is_the_mean_of_gradients_under_the_tilted_gaussian():
    E, slope, x, alpha, sigma = (
        lambda y: np.cos(2 * y) + y**2 / 3,
        lambda y: -2 * np.sin(2 * y) + 2 * y / 3,
        0.4,
        3.0,
        0.6,
    )

    def density(y):
        return np.exp(-alpha * E(y) - (y - x) ** 2 / (2 * sigma**2))

    total = quad(density, -6, 6)[0]
    wanted = quad(lambda y: slope(y) * density(y), -6, 6)[0] / total
    found = implied_gradient(
        lambda y: E(y[:, 0]), np.array([x]), n_samples=1_000_000, temperature_inverse=alpha, width=sigma, random_state=0
    )
    # It is far from the gradient at x itself, and three standard errors of about 1 / (alpha sigma 1000) from this.
    assert abs(slope(x) - wanted) > 0.5
    assert found[0] == pytest.approx(wanted, abs=3e-3)


def test_implied_gradient_of_tensors_and_of_functions_of_one_point():
    x = np.array([0.3, -0.4])
    options = {"n_samples": 500, "random_state": 1}
    found = implied_gradient(bowl, x, **options)
    np.testing.assert_allclose(implied_gradient(lambda y: ((y - 1) ** 2).sum(), x, vectorized=False, **options), found)
    tensor = implied_gradient(bowl, torch.from_numpy(x), **options)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor, found)
    assert implied_gradient(bowl, x.astype(np.float32), **options).dtype == np.float32


def test_hopping_stops_and_refuses():
    def stop(state):
        if state.nit == 4:
            raise StopIteration

    result = consensus_hopping(bowl, np.zeros(2), callback=stop, random_state=0)
    assert (result.success, result.status, result.nit, result.consensus_path.shape) == (False, 3, 4, (5, 2))
    for options, error, match in [
        ({"x0": np.zeros((2, 2))}, ValueError, "x0 must have 1 dimension"),
        ({"x0": np.zeros(2, dtype=int)}, TypeError, "x0 must hold"),
        ({"width": 0.0}, ValueError, "width must be"),
        ({"temperature_inverse": -1.0}, ValueError, "temperature_inverse"),
        ({"n_samples": 1}, ValueError, "n_samples must be at least 2"),
        ({"n_steps": 0}, ValueError, "n_steps"),
        ({"width_decay": 1.5}, ValueError, "width_decay"),
        ({"fun": lambda x: np.full(len(x), np.nan)}, ValueError, "fun returned NaN at iteration 0"),
        ({"fun": lambda x: np.full(len(x), np.inf)}, ValueError, "objective returned no finite value at iteration 0"),
    ]:
        with pytest.raises(error, match=match):
            consensus_hopping(**{"fun": bowl, "x0": np.zeros(2), **options})
    with pytest.raises(ValueError, match="x contains NaN"):
        implied_gradient(bowl, np.array([np.nan]))


# --- networks ---


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).double()


INPUTS = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(20, 2)
TARGETS = INPUTS[:, :1] - INPUTS[:, 1:] ** 2


def squares(model):
    return ((model(INPUTS) - TARGETS) ** 2).mean()


def test_network_steps_are_those_of_the_scheme():
    module = network()
    optimizer = ConsensusOptimizer(
        module, n_particles=6, batch_size=4, temperature_inverse=2.0, noise=0.7, kick_tolerance=0.0, random_state=5
    )
    parameters = list(module.parameters())
    particles = [optimizer.state[each]["particles"].clone() for each in parameters]
    generator = torch.Generator()
    generator.set_state(optimizer.state["run"]["generator"])
    for _ in range(3):
        batch = torch.randperm(6, generator=generator)[:4].tolist()
        losses = []
        for i in batch:
            other = network()
            torch.nn.utils.vector_to_parameters(torch.cat([each[i].ravel() for each in particles]), other.parameters())
            losses.append(squares(other).item())
        weights = np.exp(-2.0 * np.array(losses))
        weights /= weights.sum()
        least = optimizer.step(squares)
        assert least.item() == pytest.approx(min(losses))
        for a, X in enumerate(particles):
            c = sum(w * X[i] for w, i in zip(weights, batch, strict=True))
            torch.testing.assert_close(parameters[a].detach(), c)
            B = torch.randn(X.shape, generator=generator, dtype=X.dtype)
            particles[a] = X - 0.1 * (X - c) + 0.7 * 0.1**0.5 * (X - c) * B
            torch.testing.assert_close(optimizer.state[parameters[a]]["particles"], particles[a])
    assert optimizer.n_evaluations == 12


def test_network_learns_without_a_gradient():
    module = network()
    before = squares(module).item()
    optimizer = ConsensusOptimizer(module, n_particles=200, random_state=0)
    for _ in range(200):
        optimizer.step(squares)
    assert squares(module).item() < 0.1 * before
    assert all(each.grad is None for each in module.parameters())
    assert optimizer.spread < 1.0


def test_network_goes_on_from_its_state():
    module = network()
    optimizer = ConsensusOptimizer(module, n_particles=10, random_state=0)
    for _ in range(3):
        optimizer.step(squares)
    optimizer.cool()
    file = BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = network(1)
    resumed = ConsensusOptimizer(other, n_particles=10, random_state=9)
    resumed.load_state_dict(torch.load(file))
    for _ in range(2):
        torch.testing.assert_close(resumed.step(squares), optimizer.step(squares))
    torch.testing.assert_close(list(other.parameters()), list(module.parameters()))
    assert resumed.n_evaluations == optimizer.n_evaluations == 50
    assert resumed.param_groups[0]["temperature_inverse"] == 100.0
    assert resumed.param_groups[0]["noise"] == pytest.approx(0.6325 / np.log2(3))


def test_a_resting_consensus_kicks_the_particles():
    module = torch.nn.Linear(1, 1)
    rests = lambda model: model(torch.zeros(1, 1)).sum() * 0.0  # noqa: E731
    for tolerance, kicked in ((1e-3, True), (0.0, False)):
        options = {"initial_spread": 1e-6, "n_particles": 50, "random_state": 0}
        optimizer = ConsensusOptimizer(module, kick_tolerance=tolerance, **options)
        optimizer.step(rests)
        spread = optimizer.state[module.weight]["particles"].std().item()
        # sigma sqrt(dt) = 0.2
        assert (spread == pytest.approx(0.2, rel=0.4)) is kicked


def test_what_is_not_trained_stays():
    module = network()
    module[0].weight.requires_grad_(False)
    before = module[0].weight.clone()
    optimizer = ConsensusOptimizer(module, n_particles=10, chunk_size=3, random_state=0)
    optimizer.step(squares)
    torch.testing.assert_close(module[0].weight, before)
    assert not torch.equal(module[2].weight, network()[2].weight)


def test_network_optimizer_refuses():
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module"):
        ConsensusOptimizer([torch.zeros(1)])
    with pytest.raises(ValueError, match="nothing to train"):
        ConsensusOptimizer(torch.nn.Tanh())
    for options, match in [
        ({"n_particles": 1}, "n_particles"),
        ({"batch_size": 101}, "batch_size must be at most n_particles=100"),
        ({"temperature_inverse": 0.0}, "temperature_inverse"),
        ({"initial_spread": 0.0}, "initial_spread"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"noise": -0.1}, "noise"),
    ]:
        with pytest.raises(ValueError, match=match):
            ConsensusOptimizer(network(), **options)
    optimizer = ConsensusOptimizer(network(), random_state=0)
    with pytest.raises(ValueError, match=r"closure must return a loss with no axes, got shape \(20, 1\)"):
        optimizer.step(lambda model: model(INPUTS))
    with pytest.raises(ValueError, match="closure returned NaN at step 0"):
        optimizer.step(lambda model: squares(model) * torch.nan)
    with pytest.raises(ValueError, match="no finite value"):
        optimizer.step(lambda model: squares(model) + torch.inf)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_swarm_on_a_gpu():
    bounds = torch.tensor([[-3.0, 5.0]] * 2, device="cuda", dtype=torch.float64)
    options = {"bounds": bounds, "n_runs": 4, "random_state": 0, "tol": 1e-5}
    first, second = (minimize_consensus(benchmark_function("rastrigin"), **options) for _ in range(2))
    assert first.x.device.type == "cuda"
    assert first.x.abs().max() < 1e-2
    torch.testing.assert_close(first.consensus_path, second.consensus_path)


# --- against a peer ---


def test_consensus_is_that_of_cbx():
    dynamics = pytest.importorskip("cbx.dynamics")
    X = np.random.default_rng(0).normal(size=(2, 20, 3))
    peer = dynamics.CBO(rastrigin, f_dim="3D", x=X, alpha=30.0, verbosity=0)
    peer.compute_consensus()
    np.testing.assert_allclose(consensus_point(rastrigin(X), X, 30.0), peer.consensus[:, 0], rtol=1e-10)


# --- the command ---


def test_command_minimises_a_function(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    summary = run(out=out, function="rastrigin", dimension=3, runs=2, seed=0)
    assert summary["fun"] < 1e-3
    assert summary["success"]
    path = np.loadtxt(out / "consensus_path.csv", delimiter=",", skiprows=1)
    assert path.shape[1] == 3
    np.testing.assert_allclose(np.loadtxt(out / "solution.csv", delimiter=",", skiprows=1), summary["x"])
    history = np.loadtxt(out / "history.csv", delimiter=",", skiprows=1)
    assert history.shape == (len(path), 4)
    assert (out / "picture.png").stat().st_size > 5000


def test_command_takes_a_function_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text("def objective(points):\n    return ((points - 1.5) ** 2).sum(axis=1)\n")
    np.savetxt(tmp_path / "swarm.csv", np.random.default_rng(0).normal(size=(40, 2)), delimiter=",")
    for method, tolerance in (("particles", 1e-2), ("hopping", 0.2)):
        out = tmp_path / method
        out.mkdir()
        options = {"out": out, "module": f"{tmp_path / 'mine.py'}:objective", "method": method, "bounds": (-3.0, 3.0)}
        start = [tmp_path / "swarm.csv"] if method == "particles" else []
        summary = run(*start, dimension=2, seed=0, **options)
        np.testing.assert_allclose(summary["x"], [1.5, 1.5], atol=tolerance)
        assert "mine.py" in summary["input"]


def test_command_refuses(tmp_path):
    (tmp_path / "mine.py").write_text("value = 3\n")
    (tmp_path / "broken.py").write_text("def objective(:\n")
    for options, match in [
        ({"module": "mine.py"}, "module must be given as file.py:function"),
        ({"module": f"{tmp_path / 'none.py'}:objective"}, "no such file"),
        ({"module": f"{tmp_path / 'mine.py'}:objective"}, "has no function 'objective'"),
        ({"module": f"{tmp_path / 'broken.py'}:objective"}, "can't be loaded"),
        ({"function": "canyon", "dimension": 3}, "canyon is a function of the plane"),
        ({"bounds": (1.0, 1.0)}, "bounds must have low < high"),
        ({"dimension": 0}, "dimension must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=match):
            run(out=tmp_path, **options)
    with pytest.raises(ValueError, match="one file is accepted"):
        run(tmp_path / "a.csv", tmp_path / "b.csv", out=tmp_path)
