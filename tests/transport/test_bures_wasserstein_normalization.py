"""Bures-Wasserstein geometry, SPD batch normalisation, and the network and estimators around it."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm, fractional_matrix_power, logm, solve_sylvester, sqrtm
from sklearn.base import clone
from sklearn.covariance import OAS
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from torch.autograd import gradcheck, gradgradcheck

from paperworks.transport.bures_wasserstein_normalization import (
    BiMap,
    BuresWassersteinScaler,
    EigenvalueRectification,
    MatrixLogarithm,
    SPDBatchNorm,
    SPDNet,
    SPDNetClassifier,
    _matrix_functions,
    bures_wasserstein_distance,
    bures_wasserstein_exp,
    bures_wasserstein_geodesic,
    bures_wasserstein_log,
    bures_wasserstein_mean,
    geometry,
)

POWERS = [1.0, 0.5, 0.75, -1.0, 2.0]


def spd(*batch, n=4, seed=0, ridge=1.0):
    A = np.random.default_rng(seed).normal(size=(*batch, n, n))
    return A @ np.swapaxes(A, -1, -2) / n + ridge * np.eye(n)


def symmetric(n, seed=0, size=0.3):
    A = size * np.random.default_rng(seed).normal(size=(n, n))
    return torch.from_numpy((A + A.T) / 2)


def of_condition(condition, *batch, n=5, seed=0):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(*batch, n, n)))[0]
    p = condition ** -np.linspace(0, 1, n)
    return (Q * p) @ np.swapaxes(Q, -1, -2)


def root(P):
    return np.real(sqrtm(P))


def pulled(P, M, power):
    half = np.linalg.inv(root(M))
    return half @ np.real(fractional_matrix_power(P, power)) @ half


def plain_distance(P, Q):
    half = root(P)
    return np.sqrt(max(0.0, np.trace(P) + np.trace(Q) - 2 * np.trace(root(half @ Q @ half))))


def plain_log(P, Q):
    C = root(P @ Q)
    return C + C.T - 2 * P


# --- functions of matrices


RULES = {
    "sqrt": (_matrix_functions.SQRT, root),
    "inverse sqrt": (_matrix_functions.INVERSE_SQRT, lambda P: np.linalg.inv(root(P))),
    "log": (_matrix_functions.LOG, logm),
    "exp": (_matrix_functions.EXP, expm),
    "power": (_matrix_functions.power(0.3), lambda P: fractional_matrix_power(P, 0.3)),
    "negative power": (_matrix_functions.power(-1.7), lambda P: fractional_matrix_power(P, -1.7)),
    "absolute": (_matrix_functions.ABSOLUTE, lambda P: P),
}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("rule", RULES)
def test_functions_and_both_derivatives_even_where_eigenvalues_coincide(rule, n):
    ours, reference = RULES[rule]

    def function(P):
        return _matrix_functions.matrix_function(_matrix_functions.symmetrize(P), ours)

    P = torch.from_numpy(spd(2, n=n))
    np.testing.assert_allclose(function(P), [reference(each) for each in P.numpy()], rtol=1e-10, atol=1e-12)
    for point in (P, 1.7 * torch.eye(n, dtype=torch.float64), torch.diag(torch.tensor([2.0, 2.0, 3.0])[:n].double())):
        assert gradcheck(function, point.clone().requires_grad_())
        assert gradgradcheck(function, point.clone().requires_grad_())


def test_closed_form_for_two_by_two_matches_lapack():
    diagonal = np.stack([np.eye(2), np.diag([1.0, 3.0]), np.diag([3.0, 1.0]), np.zeros((2, 2))])
    P = torch.from_numpy(np.concatenate([spd(200, n=2), -spd(3, n=2), of_condition(1e10, 50, n=2), diagonal]))
    U, p, _ = _matrix_functions.decompose(P)
    np.testing.assert_allclose(p, np.linalg.eigvalsh(P), atol=1e-14)
    np.testing.assert_allclose((U * p[:, None]) @ U.mT, P, atol=1e-14)
    np.testing.assert_allclose(U @ U.mT, np.broadcast_to(np.eye(2), P.shape), atol=1e-14)


@pytest.mark.parametrize("exponent", [0.5, -0.5, -1.0])
@pytest.mark.parametrize("degenerate", [False, True])
def test_kronecker_sum_power_and_its_gradients(exponent, degenerate):
    n = 3
    P = torch.eye(n, dtype=torch.float64) if degenerate else torch.from_numpy(spd(n=n))
    V = torch.from_numpy(np.random.default_rng(1).normal(size=(2, n, n)))
    V = V + V.mT

    def function(P, V):
        P, V = _matrix_functions.symmetrize(P), _matrix_functions.symmetrize(V)
        return _matrix_functions.kronecker_sum_power(P, V, exponent)

    operator = (np.kron(P, np.eye(n)) + np.kron(np.eye(n), P)) / 2
    expected = fractional_matrix_power(operator, exponent) @ V.reshape(2, -1).numpy().T
    np.testing.assert_allclose(function(P, V).reshape(2, -1), expected.T, atol=1e-12)
    assert gradcheck(function, (P.requires_grad_(), V.requires_grad_()))


def test_lyapunov_solves_its_equation():
    P, V = spd(), symmetric(4).numpy()
    L = _matrix_functions.lyapunov(torch.from_numpy(P), torch.from_numpy(V))
    np.testing.assert_allclose(L, solve_sylvester(P, P, V), atol=1e-12)


def test_what_is_not_differentiable_says_so():
    P = torch.from_numpy(spd(n=3)).requires_grad_()
    value = _matrix_functions.matrix_function(P, _matrix_functions.LOG).sum()
    (first,) = torch.autograd.grad(value, P, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), P, create_graph=True)
    with pytest.raises(RuntimeError, match="third derivatives"):
        second.sum().backward()
    moved = _matrix_functions.kronecker_sum_power(P, symmetric(3), 0.5).square().sum()
    (first,) = torch.autograd.grad(moved, P, create_graph=True)
    with pytest.raises(RuntimeError, match="base point of a transport"):
        first.sum().backward()


def test_floor_has_the_derivative_of_the_floored_function():
    Q = torch.linalg.qr(torch.from_numpy(spd(n=4)))[0]
    P = (Q * torch.tensor([1e-3, 2e-3, 1.0, 2.0], dtype=torch.float64)) @ Q.mT

    def function(P):
        P = _matrix_functions.symmetrize(P)
        return _matrix_functions.matrix_function(P, _matrix_functions.SQRT, _matrix_functions.decompose(P, floor=0.1))

    assert gradcheck(function, P.requires_grad_())
    assert gradgradcheck(function, P)


def test_newton_schulz_root_and_gradient():
    P = torch.from_numpy(spd(3, n=4))
    np.testing.assert_allclose(
        _matrix_functions.newton_schulz_root(P, 0.0), [root(each) for each in P.numpy()], atol=1e-12
    )
    assert gradcheck(lambda P: _matrix_functions.newton_schulz_root(P, 0.0), P.requires_grad_())


def test_newton_schulz_reports_what_it_can_not_do():
    with pytest.raises(ValueError, match="too ill-conditioned"):
        _matrix_functions.newton_schulz_root(torch.from_numpy(of_condition(1e30)), 0.0)


# --- geometry


def test_distance_is_the_wasserstein_distance_of_gaussians():
    ot = pytest.importorskip("ot")
    P, Q, zero = spd(seed=1), spd(seed=2), np.zeros(4)
    expected = float(ot.gaussian.bures_wasserstein_distance(zero, zero, P, Q))
    assert bures_wasserstein_distance(P, Q) == pytest.approx(expected, abs=1e-9)


def test_distance_and_mean_match_pyriemann():
    distance = pytest.importorskip("pyriemann.geometry.distance").distance_wasserstein
    mean = pytest.importorskip("pyriemann.geometry.mean").mean_wasserstein
    P, Q, w = spd(30, seed=1), spd(30, seed=2), np.random.default_rng(0).uniform(size=30)
    np.testing.assert_allclose(
        bures_wasserstein_distance(P, Q), [distance(p, q) for p, q in zip(P, Q, strict=True)], atol=1e-9
    )
    np.testing.assert_allclose(bures_wasserstein_mean(P, w), mean(P, sample_weight=w, tol=1e-12), atol=1e-8)


@pytest.mark.parametrize("power", POWERS)
def test_generalised_distance_is_that_of_the_images(power):
    P, Q, M = spd(seed=1), spd(seed=2), spd(seed=3)
    expected = plain_distance(pulled(P, M, power), pulled(Q, M, power)) / abs(power)
    assert bures_wasserstein_distance(P, Q, metric=M, power=power) == pytest.approx(expected, abs=1e-10)
    squared = bures_wasserstein_distance(P, Q, metric=M, power=power, squared=True)
    assert squared == pytest.approx(expected**2, abs=1e-10)


def test_commuting_matrices_have_closed_forms():
    p, q = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 0.25])
    P, Q = np.diag(p), np.diag(q)
    assert bures_wasserstein_distance(P, Q) == pytest.approx(np.linalg.norm(np.sqrt(p) - np.sqrt(q)))
    np.testing.assert_allclose(bures_wasserstein_log(P, Q), np.diag(2 * np.sqrt(p * q) - 2 * p), atol=1e-12)
    middle = ((1 - 0.3) * np.sqrt(p) + 0.3 * np.sqrt(q)) ** 2
    np.testing.assert_allclose(bures_wasserstein_geodesic(P, Q, 0.3), np.diag(middle), atol=1e-12)
    np.testing.assert_allclose(
        bures_wasserstein_mean(np.stack([P, Q]), np.array([0.7, 0.3])), np.diag(middle), atol=1e-9
    )


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("general", [False, True])
def test_exponential_undoes_logarithm_and_geodesics_have_constant_speed(power, general):
    P, Q, M = spd(3, seed=1), spd(3, seed=2), spd(seed=3) if general else None
    V = bures_wasserstein_log(P, Q, metric=M, power=power)
    np.testing.assert_allclose(bures_wasserstein_exp(P, V, metric=M, power=power), Q, atol=1e-9)
    middle = bures_wasserstein_geodesic(P, Q, 0.25, metric=M, power=power)
    np.testing.assert_allclose(bures_wasserstein_exp(P, 0.25 * V, metric=M, power=power), middle, atol=1e-9)
    whole = bures_wasserstein_distance(P, Q, metric=M, power=power)
    part = bures_wasserstein_distance(P, middle, metric=M, power=power)
    np.testing.assert_allclose(part, 0.25 * whole, atol=1e-9)


def test_logarithm_is_minus_half_the_gradient_of_squared_distance():
    # In the metric g_P(V, W) = tr(L_P[V] W) / 2 the gradient of d^2(., Q) at P is -2 Log_P Q.
    P, Q, W = spd(seed=1), spd(seed=2), symmetric(4, seed=5).numpy()
    h = 1e-5
    slope = bures_wasserstein_distance(P + h * W, Q, squared=True)
    slope = (slope - bures_wasserstein_distance(P - h * W, Q, squared=True)) / (2 * h)
    V = bures_wasserstein_log(P, Q)
    assert slope == pytest.approx(-np.trace(solve_sylvester(P, P, V) @ W), abs=1e-7)
    np.testing.assert_allclose(V, plain_log(P, Q), atol=1e-10)


@pytest.mark.parametrize(("power", "general"), [(1.0, False), (0.5, True), (-0.7, True)])
def test_geometry_gradients(power, general):
    P, Q, M = (torch.from_numpy(spd(n=3, seed=seed)).requires_grad_() for seed in (1, 2, 3))
    V = symmetric(3).requires_grad_()

    def sym(A):
        return (A + A.mT) / 2

    def options(M):
        return {"power": power, "metric": sym(M) if general else None}

    assert gradcheck(lambda P, Q, M: bures_wasserstein_distance(sym(P), sym(Q), **options(M)), (P, Q, M))
    assert gradcheck(lambda P, Q, M: bures_wasserstein_log(sym(P), sym(Q), **options(M)), (P, Q, M))
    assert gradcheck(lambda P, V, M: bures_wasserstein_exp(sym(P), sym(V), **options(M)), (P, V, M))
    assert gradcheck(lambda P, Q, M: bures_wasserstein_geodesic(sym(P), sym(Q), 0.3, **options(M)), (P, Q, M))
    assert gradgradcheck(lambda P: bures_wasserstein_distance(sym(P), Q.detach(), power=power, squared=True), P)


def test_distance_gradient_is_finite_at_itself():
    P = torch.eye(3, dtype=torch.float64).requires_grad_()
    bures_wasserstein_distance(P, torch.eye(3, dtype=torch.float64)).backward()
    assert torch.isfinite(P.grad).all()


@pytest.mark.parametrize("power", POWERS)
def test_mean_satisfies_its_equation(power):
    X, M, w = spd(12, seed=1), spd(seed=3), np.random.default_rng(0).uniform(size=12)
    G = bures_wasserstein_mean(X, w, metric=M, power=power, tol=1e-13)
    logs = bures_wasserstein_log(np.broadcast_to(G, X.shape), X, metric=M, power=power)
    np.testing.assert_allclose(np.tensordot(w / w.sum(), logs, 1), 0, atol=1e-10)
    there = (w * bures_wasserstein_distance(G, X, metric=M, power=power, squared=True)).sum()
    for seed in range(5):
        near = G + 1e-2 * symmetric(4, seed=seed).numpy()
        assert (w * bures_wasserstein_distance(near, X, metric=M, power=power, squared=True)).sum() > there


@pytest.mark.parametrize("condition", [10.0, 1e4, 1e8])
def test_mean_refines_roots_as_well_as_it_takes_them(condition):
    X = of_condition(condition, 15, n=5)
    G = X.mean(0)
    for _ in range(200):
        half = root(G)
        inverse = np.linalg.inv(half)
        J = np.mean([root(half @ x @ half) for x in X], axis=0)
        G = inverse @ J @ J @ inverse
    np.testing.assert_allclose(bures_wasserstein_mean(X, max_iter=200, tol=1e-9), G, atol=1e-8)


def test_mean_decomposes_the_batch_only_while_it_moves_far(monkeypatch):
    sizes = []

    def counted(P, **options):
        sizes.append(P.ndim)
        return _matrix_functions.decompose(P, **options)

    monkeypatch.setattr(geometry, "decompose", counted)
    # A dozen steps: one decomposition of the mean for each, but of the whole batch for the first ones only.
    bures_wasserstein_mean(spd(30, n=6), tol=1e-12)
    assert sizes.count(2) >= 6
    assert sizes.count(3) <= 2


def test_mean_keeps_batches_and_order_does_not_matter():
    X = spd(3, 8)
    G = bures_wasserstein_mean(X)
    for k in range(3):
        np.testing.assert_allclose(G[k], bures_wasserstein_mean(X[k, ::-1]), atol=1e-8)
    np.testing.assert_allclose(bures_wasserstein_mean(X[:, :1]), X[:, 0], atol=1e-10)
    np.testing.assert_allclose(bures_wasserstein_mean(7 * X[0]), 7 * G[0], atol=1e-7)


def test_mean_reports_that_it_did_not_converge():
    with pytest.warns(ConvergenceWarning, match="residual"):
        bures_wasserstein_mean(spd(5), max_iter=1)


def test_singular_matrices():
    P, Q = np.diag([1.0, 0.0]), np.diag([0.0, 4.0])
    assert bures_wasserstein_distance(P, Q) == pytest.approx(np.sqrt(5.0), abs=1e-9)
    assert bures_wasserstein_distance(np.zeros((2, 2)), Q) == pytest.approx(2.0, abs=1e-9)
    with pytest.warns(UserWarning, match="P is singular"):
        V = bures_wasserstein_log(P, Q)
    assert np.isfinite(V).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 4), power=st.sampled_from(POWERS))
def test_distance_is_a_distance(seed, n, power):
    A, B, C = spd(3, n=n, seed=seed, ridge=0.2)
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]

    def d(P, Q):
        return bures_wasserstein_distance(P, Q, power=power)

    assert d(A, B) == pytest.approx(d(B, A), abs=1e-7)
    assert d(A, C) <= d(A, B) + d(B, C) + 1e-7
    assert d(Q @ A @ Q.T, Q @ B @ Q.T) == pytest.approx(d(A, B), abs=1e-6)
    assert d(A, A) == pytest.approx(0, abs=1e-5)


def test_numpy_gives_numpy_and_dtypes_are_kept():
    P = spd(2).astype(np.float32)
    for result in (
        bures_wasserstein_distance(P, P[::-1]),
        bures_wasserstein_log(P, P[::-1]),
        bures_wasserstein_exp(P, P),
        bures_wasserstein_geodesic(P, P[::-1], 0.5),
        bures_wasserstein_mean(P),
    ):
        assert isinstance(result, np.ndarray)
        assert result.dtype == np.float32
    assert isinstance(bures_wasserstein_distance(spd(), spd()), float)
    assert bures_wasserstein_mean(torch.from_numpy(P)).dtype == torch.float32


def test_bad_matrices_are_named():
    good = spd(3)
    with pytest.raises(TypeError, match="P must hold floating-point"):
        bures_wasserstein_distance(np.eye(2, dtype=int), np.eye(2))
    with pytest.raises(ValueError, match="Q contains NaN"):
        bures_wasserstein_distance(np.eye(2), np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="P must hold square matrices, got shape"):
        bures_wasserstein_log(np.ones((2, 3)), np.eye(2))
    with pytest.raises(ValueError, match="P must hold square matrices, got shape"):
        bures_wasserstein_distance(np.ones(3), np.eye(3))
    bad = good.copy()
    bad[1, 0, 2] += 0.1
    with pytest.raises(ValueError, match="P must be symmetric, but the matrix at index 1"):
        bures_wasserstein_distance(bad, good)
    bad = good.copy()
    bad[2] -= 10 * np.eye(4)
    with pytest.raises(ValueError, match=r"X must be symmetric positive definite.*index 2 has the eigenvalue -8\.\d+"):
        bures_wasserstein_mean(bad)
    with pytest.raises(ValueError, match="Q must hold 4 x 4 matrices"):
        bures_wasserstein_distance(good, np.eye(3))
    with pytest.raises(ValueError, match="do not broadcast"):
        bures_wasserstein_distance(good, spd(2))
    with pytest.raises(ValueError, match="V must be symmetric"):
        bures_wasserstein_exp(np.eye(2), np.array([[0.0, 1.0], [0.0, 0.0]]))


def test_bad_parameters_are_named():
    P = spd(3)
    with pytest.raises(ValueError, match="power must not be 0"):
        bures_wasserstein_distance(P, P, power=0)
    with pytest.raises(ValueError, match="metric must have shape"):
        bures_wasserstein_distance(P, P, metric=np.eye(3))
    with pytest.raises(ValueError, match="metric must be symmetric positive definite"):
        bures_wasserstein_distance(P, P, metric=np.diag([1.0, 1.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="t must be"):
        bures_wasserstein_geodesic(P, P, 1.5)
    with pytest.raises(ValueError, match="weights must have length 3"):
        bures_wasserstein_mean(P, np.ones(2))
    with pytest.raises(ValueError, match="X must hold several matrices"):
        bures_wasserstein_mean(P[0])
    with pytest.raises(ValueError, match="max_iter"):
        bures_wasserstein_mean(P, max_iter=0)
    with pytest.raises(ValueError, match="tol"):
        bures_wasserstein_mean(P, tol=0.0)


def test_slight_negativity_of_rounding_is_borne():
    P = np.diag([1.0, -5e-7])
    assert np.isfinite(bures_wasserstein_distance(P, np.eye(2)))
    with pytest.raises(ValueError, match="eigenvalue"):
        bures_wasserstein_distance(np.diag([1.0, -2e-6]), np.eye(2))


# --- the normalisation layer


def layer(n=4, *, seed=0, scale=0.5, **options):
    """A layer with parameters away from their start."""
    normalize = SPDBatchNorm(n, **options).double()
    with torch.no_grad():
        if normalize.log_metric is not None:
            normalize.log_metric.copy_(symmetric(n, seed))
        if normalize.log_bias is not None:
            normalize.log_bias.copy_(symmetric(n, seed + 1))
            normalize.scale.fill_(scale)
    return normalize


@pytest.mark.parametrize("power", POWERS)
def test_output_has_the_mean_and_variance_that_the_parameters_name(power):
    X = torch.from_numpy(spd(30))
    normalize = layer(power=power, mean_iterations=60)
    Y, M = normalize(X).detach(), normalize.metric_matrix.detach()
    assert normalize.n_clamped_ == 0
    B = normalize.bias.detach()
    np.testing.assert_allclose(bures_wasserstein_mean(Y, metric=M, power=power, tol=1e-12), B, atol=1e-9)
    G = bures_wasserstein_mean(X, metric=M, power=power, tol=1e-12)
    v = bures_wasserstein_distance(X, G, metric=M, power=power, squared=True).mean()
    after = bures_wasserstein_distance(Y, B, metric=M, power=power, squared=True).mean()
    assert float(after) == pytest.approx(float(0.25 * v / (v + normalize.eps)), abs=1e-10)


@pytest.mark.parametrize("metric", ["affine-invariant", "log-euclidean"])
def test_other_metrics_are_exact_too(metric):
    X = torch.from_numpy(spd(30))
    normalize = layer(metric=metric, mean_iterations=60)
    Y, B = normalize(X).detach().numpy(), normalize.bias.detach().numpy()
    if metric == "affine-invariant":
        half = np.linalg.inv(root(B))
        logs = np.stack([logm(half @ y @ half) for y in Y])
    else:
        logs = np.stack([logm(y) for y in Y]) - logm(B)
    np.testing.assert_allclose(logs.mean(0), 0, atol=1e-9)
    assert np.square(logs).sum((1, 2)).mean() == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("power", [1.0, 0.5, 0.75])
def test_forward_matches_the_formulae_one_matrix_at_a_time(power):
    X, n = spd(6, n=3), 3
    normalize = layer(3, power=power)
    Y = normalize(torch.from_numpy(X)).detach().numpy()
    M, B = normalize.metric_matrix.detach().numpy(), normalize.bias.detach().numpy()
    P, B = np.stack([pulled(x, M, power) for x in X]), pulled(B, M, power)
    G = P.mean(0)
    J = np.mean([root(root(G) @ p @ root(G)) for p in P], axis=0)
    G = np.linalg.inv(root(G)) @ J @ J @ np.linalg.inv(root(G))
    v = np.mean([plain_distance(p, G) ** 2 for p in P]) / power**2

    def transport(V, P, exponent):
        operator = (np.kron(P, np.eye(n)) + np.kron(np.eye(n), P)) / 2
        return (fractional_matrix_power(operator, exponent) @ V.ravel()).reshape(n, n)

    expected = []
    for p in P:
        V = 0.5 / np.sqrt(v + 1e-5) * transport(plain_log(G, p), G, -0.5)
        W = transport(V, B, 0.5)
        L = solve_sylvester(B, B, W)
        y = root(M) @ (B + W + L @ B @ L) @ root(M)
        expected.append(np.real(fractional_matrix_power(y, 1 / power)))
    np.testing.assert_allclose(Y, expected, atol=1e-9)


def authors_forward(X, M, B, s, power, training=True, mean=None, variance=None, eps=1e-5):
    """The authors' layer in plain steps: exponentials and logarithms at I around the scaling, variance about I."""
    n = X.shape[-1]
    eye = np.eye(n)
    P, B = np.stack([pulled(x, M, power) for x in X]), pulled(B, M, power)
    if training:
        G = P.mean(0)
        J = np.mean([root(root(G) @ p @ root(G)) for p in P], axis=0)
        mean = np.linalg.inv(root(G)) @ J @ J @ np.linalg.inv(root(G))
        variance = np.mean([plain_distance(p, eye) ** 2 for p in P]) / power**2

    def exp_at_identity(V):
        return eye + V + V @ V / 4

    def in_basis(P, V, factor):
        p, U = np.linalg.eigh(P)
        return U @ (factor((p[:, None] + p[None]) / 2) * (U.T @ V @ U)) @ U.T

    out = []
    for p in P:
        centred = exp_at_identity(in_basis(mean, plain_log(mean, p), lambda m: m**-0.5))
        scaled = exp_at_identity(s / np.sqrt(variance + eps) * (2 * root(centred) - 2 * eye))
        W = in_basis(B, 2 * root(scaled) - 2 * eye, np.sqrt)
        L = solve_sylvester(B, B, W)
        y = root(M) @ (B + W + L @ B @ L) @ root(M)
        out.append(np.real(fractional_matrix_power(y, 1 / power)))
    return np.stack(out), mean, variance


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_reference_compatible_is_the_authors_layer(power, scale):
    X = spd(8, n=3, ridge=0.2)
    normalize = layer(3, power=power, scale=scale, reference_compatible=True, running_space="pulled-back", momentum=1.0)
    M, B = normalize.metric_matrix.detach().numpy(), normalize.bias.detach().numpy()
    expected, mean, variance = authors_forward(X, M, B, scale, power)
    np.testing.assert_allclose(normalize(torch.from_numpy(X)).detach(), expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(normalize.running_mean, mean, atol=1e-10)
    np.testing.assert_allclose(normalize.running_var.detach(), np.full(3, variance), atol=1e-10)
    assert isinstance(normalize.running_var, torch.nn.Parameter)
    normalize.eval()
    expected = authors_forward(X[:2], M, B, scale, power, False, mean, variance)[0]
    np.testing.assert_allclose(normalize(torch.from_numpy(X[:2])).detach(), expected, rtol=1e-8, atol=1e-9)


def test_reference_and_formulae_part_ways_in_the_variance():
    X = torch.from_numpy(spd(8, n=3))
    ours, theirs = layer(3)(X), layer(3, reference_compatible=True)(X)
    assert (ours - theirs).abs().max() > 1e-2


def test_affine_invariant_matches_spd_learn():
    modules = pytest.importorskip("spd_learn.modules")
    X = torch.from_numpy(spd(20, n=4))
    theirs = modules.SPDBatchNormMeanVar(4, dtype=torch.float64, eps=1e-5)
    # Started at the arithmetic mean, one step each.
    np.testing.assert_allclose(
        SPDBatchNorm(4, metric="affine-invariant").double()(X).detach(), theirs(X).detach(), atol=1e-6
    )


@pytest.mark.parametrize("space", ["input", "pulled-back"])
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_running_statistics(space, power):
    X = torch.from_numpy(spd(10))
    normalize = layer(power=power, running_space=space, momentum=0.3)
    M = normalize.metric_matrix.detach()
    normalize(X)
    P = np.stack([pulled(x, M.numpy(), power) for x in X.numpy()])
    G = P.mean(0)
    J = np.mean([root(root(G) @ p @ root(G)) for p in P], axis=0)
    G = np.linalg.inv(root(G)) @ J @ J @ np.linalg.inv(root(G))
    start = np.linalg.inv(M.numpy()) if space == "input" else np.eye(4)
    moved = bures_wasserstein_geodesic(start, G, 0.3)
    if space == "input":
        moved = np.real(fractional_matrix_power(root(M.numpy()) @ moved @ root(M.numpy()), 1 / power))
    np.testing.assert_allclose(normalize.running_mean, moved, atol=1e-10)
    v = np.mean([plain_distance(p, G) ** 2 for p in P]) / power**2
    assert float(normalize.running_var) == pytest.approx(0.7 + 0.3 * v, abs=1e-10)
    normalize.reset_running_stats()
    np.testing.assert_array_equal(normalize.running_mean, np.eye(4))
    assert float(normalize.running_var) == 1.0


def test_running_mean_in_input_space_outlives_a_change_of_metric():
    X = torch.from_numpy(spd(200, seed=2))
    normalize = layer(metric="generalized-bures-wasserstein", momentum=1.0, mean_iterations=30)
    normalize(X)
    with torch.no_grad():
        normalize.log_metric.copy_(symmetric(4, seed=9))
    trained = normalize.train()(X).detach()
    normalize.eval()
    # With momentum 1 the running statistics are those of the batch, up to the metric's influence on the mean.
    np.testing.assert_allclose(normalize(X).detach(), trained, atol=1e-9)


def test_evaluation_uses_running_statistics_or_not():
    X = torch.from_numpy(spd(10))
    tracked, untracked = layer(), layer(track_running_stats=False)
    np.testing.assert_allclose(tracked(X).detach(), untracked(X).detach(), atol=1e-12)
    tracked.eval()
    untracked.eval()
    single = tracked(X)[:1]
    np.testing.assert_allclose(tracked(X[:1]).detach(), single.detach(), atol=1e-12)
    np.testing.assert_allclose(untracked(X).detach(), layer()(X).detach(), atol=1e-12)
    np.testing.assert_array_equal(untracked.running_mean, np.eye(4))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"power": 0.5},
        {"power": 0.75, "running_space": "pulled-back"},
        {"power": -1.0},
        {"reference_compatible": True},
        {"metric": "bures-wasserstein"},
        {"metric": "affine-invariant", "power": 0.5},
        {"metric": "log-euclidean"},
        {"matrix_functions": "newton-schulz", "power": 0.5},
    ],
)
def test_gradients_in_evaluation(options):
    normalize = layer(3, **options)
    normalize(torch.from_numpy(spd(10, n=3)))
    normalize.eval()
    names = [name for name, _ in normalize.named_parameters()]

    def function(X, *parameters):
        return torch.func.functional_call(normalize, dict(zip(names, parameters, strict=True)), ((X + X.mT) / 2,))

    parameters = [p.detach().clone().requires_grad_() for p in normalize.parameters()]
    assert gradcheck(function, (torch.from_numpy(spd(2, n=3, seed=4)).requires_grad_(), *parameters))


def test_second_derivative_in_the_input():
    normalize = layer(3, power=0.75).requires_grad_(False).eval()
    X = torch.from_numpy(spd(1, n=3)).requires_grad_()
    assert gradgradcheck(lambda X: normalize((X + X.mT) / 2), X)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_training_gradient_takes_mean_and_variance_as_constants(power):
    normalize = layer(3, power=power, momentum=1.0, running_space="pulled-back")
    X = torch.from_numpy(spd(5, n=3))
    weight = torch.from_numpy(spd(5, n=3, seed=8))
    gradients = []
    for mode in (True, False):
        normalize.train(mode)
        normalize.zero_grad()
        Z = X.clone().requires_grad_()
        (normalize(Z) * weight).sum().backward()
        gradients.append([Z.grad, *(p.grad for p in normalize.parameters())])
    for trained, evaluated in zip(*gradients, strict=True):
        np.testing.assert_allclose(trained, evaluated, atol=1e-9)


def test_gradients_are_finite_at_the_start_and_for_ill_conditioned_batches():
    for dtype, condition in ((torch.float64, 1e10), (torch.float32, 1e8)):
        X = torch.from_numpy(of_condition(condition, 20)).to(dtype).requires_grad_()
        normalize = SPDBatchNorm(5).to(dtype)
        normalize(X).square().sum().backward()
        for gradient in (X.grad, *(p.grad for p in normalize.parameters())):
            assert torch.isfinite(gradient).all()


def test_domain_guard():
    X = torch.from_numpy(spd(20, n=3, ridge=0.05))
    normalize = layer(3, scale=6.0)
    Y = normalize(X).detach()
    assert 0 < normalize.n_clamped_ <= 20
    M, B = normalize.metric_matrix.detach().numpy(), normalize.bias.detach().numpy()
    B = pulled(B, M, 1.0)
    smallest, largest = [], []
    for y in Y.numpy():
        y = pulled(y, M, 1.0)
        T = np.linalg.inv(root(B)) @ root(root(B) @ y @ root(B)) @ np.linalg.inv(root(B))
        smallest.append(np.linalg.eigvalsh(T)[0])
        largest.append(np.linalg.eigvalsh(T)[-1])
    assert min(smallest) == pytest.approx(0.05, abs=1e-9)
    assert max(largest) > 1
    before = normalize.n_clamped_
    normalize(X)
    assert normalize.n_clamped_ == 2 * before
    normalize.reset_running_stats()
    assert normalize.n_clamped_ == 0


def test_guard_leaves_the_others_alone_and_has_a_gradient():
    X = torch.from_numpy(spd(6, n=3, ridge=0.05)).requires_grad_()
    normalize = layer(3, scale=3.0).eval()
    normalize.requires_grad_(False)
    assert gradcheck(lambda X: normalize((X + X.mT) / 2), X)
    assert normalize.n_clamped_ > 0


@pytest.mark.parametrize("power", [1.0, 0.5, 0.25])
def test_newton_schulz_layer_is_the_same_layer(power):
    X, gradients, outputs = spd(10), [], []
    for how in ("eigh", "newton-schulz"):
        Z = torch.from_numpy(X).requires_grad_()
        normalize = layer(power=power, matrix_functions=how)
        Y = normalize(Z)
        Y.square().sum().backward()
        outputs.append(Y.detach())
        gradients.append(torch.cat([Z.grad.ravel(), normalize.log_metric.grad.ravel()]))
    np.testing.assert_allclose(*outputs, atol=1e-8)
    np.testing.assert_allclose(*gradients, rtol=1e-6, atol=1e-6)


def test_channels_share_statistics():
    X = torch.from_numpy(spd(6, 2, n=3))
    np.testing.assert_allclose(
        layer(3)(X).detach().reshape(12, 3, 3), layer(3)(X.reshape(12, 3, 3)).detach(), atol=1e-12
    )


def test_dtype_is_kept_and_close_to_float64():
    X = spd(10)
    single = SPDBatchNorm(4)(torch.from_numpy(X.astype(np.float32)))
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.detach(), SPDBatchNorm(4).double()(torch.from_numpy(X)).detach(), rtol=1e-4)


def test_plain_metric_is_the_general_one_at_identity():
    X = torch.from_numpy(spd(10))
    plain = SPDBatchNorm(4, metric="bures-wasserstein").double()
    assert plain.log_metric is None
    general = SPDBatchNorm(4).double()
    np.testing.assert_allclose(plain(X).detach(), general(X).detach(), atol=1e-12)
    assert SPDBatchNorm(4, learn_metric=False).log_metric is None
    assert not list(SPDBatchNorm(4, learn_metric=False, affine=False).parameters())


def test_state_survives_saving():
    normalize = layer()
    normalize(torch.from_numpy(spd(10)))
    twin = SPDBatchNorm(4).double()
    twin.load_state_dict(normalize.state_dict())
    X = torch.from_numpy(spd(3, seed=7))
    np.testing.assert_array_equal(twin.eval()(X).detach(), normalize.eval()(X).detach())


def test_an_optimiser_keeps_metric_and_bias_positive_definite():
    normalize = SPDBatchNorm(3).double()
    optimizer = torch.optim.SGD(normalize.parameters(), lr=0.05)
    X = torch.from_numpy(spd(10, n=3))
    for _ in range(8):
        optimizer.zero_grad()
        normalize(X)[:, 0, 0].sum().backward()
        optimizer.step()
    for P in (normalize.metric_matrix, normalize.bias):
        assert torch.linalg.eigvalsh(P.detach()).min() > 0


def test_layer_errors():
    good = torch.from_numpy(spd(4))
    normalize = SPDBatchNorm(4)
    with pytest.raises(TypeError, match="floating-point Tensor, got ndarray"):
        normalize(good.numpy())
    with pytest.raises(TypeError, match="floating-point Tensor"):
        normalize(torch.ones(2, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="X must have shape"):
        normalize(good[:, :3, :3])
    with pytest.raises(ValueError, match="at least two matrices"):
        normalize(good[:1])
    with pytest.raises(ValueError, match="NaN"):
        normalize(good * torch.nan)
    bad = good.clone()
    bad[2, 0, 1] += 1
    with pytest.raises(ValueError, match="index 2 differs from its transpose"):
        normalize(bad)
    with pytest.raises(ValueError, match="index 3 has the eigenvalue -"):
        normalize(good - 10 * torch.eye(4) * torch.tensor([0.0, 0, 0, 1])[:, None, None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"metric": "euclidean"}, "metric must be one of"),
        ({"power": 0.0}, "power must not be 0"),
        ({"power": 0.5, "metric": "log-euclidean"}, "power must be 1"),
        ({"momentum": 2.0}, "momentum"),
        ({"eps": -1.0}, "eps"),
        ({"mean_iterations": -1}, "mean_iterations"),
        ({"running_space": "output"}, "running_space"),
        ({"reference_compatible": True, "metric": "affine-invariant"}, "needs a Bures-Wasserstein metric"),
        ({"matrix_functions": "svd"}, "matrix_functions"),
        ({"matrix_functions": "newton-schulz", "power": 0.75}, "newton-schulz"),
    ],
)
def test_layer_refuses_bad_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        SPDBatchNorm(**{"n": 3, **options})


# --- networks


def test_bimap_maps_with_orthonormal_columns_and_learns():
    reduce = BiMap(5, 3, random_state=0).double()
    W = reduce.weight.detach()
    np.testing.assert_allclose(W.mT @ W, np.eye(3), atol=1e-6)
    X = torch.from_numpy(spd(4, n=5))
    np.testing.assert_allclose(reduce(X).detach(), W.mT.numpy() @ X.numpy() @ W.numpy(), atol=1e-12)
    optimizer = torch.optim.SGD(reduce.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        (-reduce(X[:1]).diagonal(dim1=-2, dim2=-1).sum()).backward()
        optimizer.step()
    W = reduce.weight.detach()
    np.testing.assert_allclose(W.mT @ W, np.eye(3), atol=1e-10)
    top = np.linalg.eigvalsh(X[0].numpy())[-3:].sum()
    assert float(reduce(X[0]).trace().detach()) == pytest.approx(top, rel=1e-4)
    assert torch.equal(BiMap(5, 3, random_state=1).weight, BiMap(5, 3, random_state=1).weight)
    with pytest.raises(ValueError, match="n_out must be at most n_in"):
        BiMap(2, 3)
    with pytest.raises(ValueError, match="X must have shape"):
        reduce(torch.eye(4))


def test_rectification_and_logarithm():
    p = np.array([1e-3, 0.5, 2.0])
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    X = torch.from_numpy((Q * p) @ Q.T)
    np.testing.assert_allclose(EigenvalueRectification(0.1)(X), (Q * np.maximum(p, 0.1)) @ Q.T, atol=1e-12)
    np.testing.assert_allclose(MatrixLogarithm()(X), logm(X.numpy()), atol=1e-10)
    together = MatrixLogarithm(threshold=0.1)(X)
    np.testing.assert_allclose(together, MatrixLogarithm()(EigenvalueRectification(0.1)(X)), atol=1e-12)
    X.requires_grad_()
    assert gradcheck(EigenvalueRectification(0.1), X)
    assert gradcheck(MatrixLogarithm(), X)
    assert gradcheck(MatrixLogarithm(threshold=0.1), X)
    with pytest.raises(ValueError, match="threshold"):
        EigenvalueRectification(0.0)


def test_network_depends_on_its_parts():
    X = torch.from_numpy(spd(12, n=6))
    net = SPDNet(6, (5, 3), 4, random_state=0).double()
    assert net(X).shape == (12, 4)
    net(X).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    torch.testing.assert_close(SPDNet(6, (5, 3), 4, random_state=0).double()(X), net(X))
    plain = SPDNet(6, (5, 3), 4, normalization=None, random_state=0).double()
    assert not any(isinstance(part, SPDBatchNorm) for part in plain.modules())
    # Without normalisation the features are the logarithm of W2' W1' X W1 W2: norms and traces carry over.
    chain = plain.blocks[0].weight @ plain.blocks[2].weight
    small = logm((chain.mT @ X[0] @ chain).detach().numpy())
    rows, columns = np.triu_indices(3)
    features = torch.from_numpy(small[rows, columns] * np.where(rows == columns, 1, np.sqrt(2)))
    torch.testing.assert_close(plain(X)[0], plain.linear(features))


def test_network_errors():
    with pytest.raises(ValueError, match="n_out must be at most"):
        SPDNet(3, (4,), 2)
    with pytest.raises(ValueError, match="hidden"):
        SPDNet(3, (), 2)
    with pytest.raises(ValueError, match="normalization must be one of"):
        SPDNet(3, (2,), 2, normalization="batch")


# --- estimators


def two_classes(n=60, channels=4, time=60, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    gains = np.where(y[:, None, None] == 0, [[2], [1], [1], [1]], [[1], [1], [1], [2]])
    return gains * rng.normal(size=(n, channels, time)), np.array(["left", "right"])[y]


def test_classifier_learns_and_generalises():
    X, y = two_classes(120)
    classifier = SPDNetClassifier(covariance="empirical", n_epochs=15, learning_rate=0.02, random_state=0)
    classifier.fit(X[:60], y[:60])
    assert classifier.loss_curve_[-1] < 0.5 * classifier.loss_curve_[0]
    assert classifier.score(X[60:], y[60:]) > 0.95
    probabilities = classifier.predict_proba(X[60:])
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-12)
    np.testing.assert_array_equal(classifier.classes_[probabilities.argmax(1)], classifier.predict(X[60:]))
    np.testing.assert_array_equal(classifier.decision_function(X[60:]) > 0, classifier.predict(X[60:]) == "right")


def test_classifier_takes_signals_or_their_covariances():
    X, y = two_classes(20)
    options = {"n_epochs": 2, "random_state": 0}
    by_signal = SPDNetClassifier(covariance="oas", **options).fit(X, y).predict_proba(X)
    covariances = np.stack([OAS().fit(x.T).covariance_ for x in X])
    np.testing.assert_allclose(SPDNetClassifier(**options).fit(covariances, y).predict_proba(covariances), by_signal)
    by_signal = SPDNetClassifier(covariance="empirical", **options).fit(X, y).predict_proba(X)
    covariances = np.stack([np.cov(x) for x in X])
    np.testing.assert_allclose(SPDNetClassifier(**options).fit(covariances, y).predict_proba(covariances), by_signal)


def test_classifier_is_deterministic_and_does_not_care_about_units():
    X, y = two_classes(31)
    options = {"covariance": "empirical", "n_epochs": 3, "batch_size": 10, "random_state": 3}
    first = SPDNetClassifier(**options).fit(X, y)
    again = clone(first).fit(X, y)
    np.testing.assert_array_equal(first.predict_proba(X), again.predict_proba(X))
    volts = SPDNetClassifier(**options).fit(1e-6 * X, y)
    np.testing.assert_allclose(volts.predict_proba(1e-6 * X), first.predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(first)).predict_proba(X), first.predict_proba(X))


@pytest.mark.parametrize("normalization", [None, "affine-invariant", "log-euclidean", "bures-wasserstein"])
def test_classifier_with_every_normalization(normalization):
    X, y = two_classes(40)
    classifier = SPDNetClassifier(
        (3,), normalization=normalization, covariance="oas", n_epochs=15, learning_rate=0.02, random_state=0
    )
    assert classifier.fit(X, y).score(X, y) > 0.9


def test_classifier_errors():
    X, y = two_classes(10)
    C = np.stack([np.cov(x) for x in X])
    with pytest.raises(ValueError, match="X must have 3 dimensions"):
        SPDNetClassifier().fit(C[0], y)
    with pytest.raises(TypeError, match="floating-point"):
        SPDNetClassifier().fit(np.ones((10, 2, 2), dtype=int), y)
    with pytest.raises(ValueError, match="X must hold square matrices"):
        SPDNetClassifier().fit(X, y)
    with pytest.raises(ValueError, match="y must have shape"):
        SPDNetClassifier().fit(C, y[:5])
    with pytest.raises(ValueError, match="at least two classes"):
        SPDNetClassifier().fit(C, np.zeros(10, dtype=int))
    with pytest.raises(ValueError, match="X must not hold zero matrices"):
        SPDNetClassifier().fit(0 * C, y)
    with pytest.raises(ValueError, match="covariance must be one of"):
        SPDNetClassifier(covariance="ledoit").fit(X, y)
    with pytest.raises(ValueError, match="normalization must be one of"):
        SPDNetClassifier(normalization="batch").fit(C, y)
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        SPDNetClassifier(batch_size=1).fit(C, y)
    with pytest.raises(NotFittedError):
        SPDNetClassifier().predict(C)
    fitted = SPDNetClassifier(n_epochs=1).fit(C, y)
    with pytest.raises(ValueError, match="fitted with 4"):
        fitted.predict(C[:, :3, :3])


@pytest.mark.parametrize(("power", "general"), [(1.0, False), (0.5, False), (0.5, True), (-1.0, True)])
def test_scaler_centres_at_the_identity_with_unit_variance(power, general):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(40, 8, 60)) * rng.uniform(0.5, 2, size=8)[:, None]
    X, M = A @ A.transpose(0, 2, 1) / 60, spd(n=8, seed=3) if general else None
    scaler = BuresWassersteinScaler(power=power, metric=M)
    Y = scaler.fit_transform(X)
    np.testing.assert_allclose(bures_wasserstein_mean(Y, metric=M, power=power), np.eye(8), atol=1e-7)
    squares = bures_wasserstein_distance(Y, np.eye(8), metric=M, power=power, squared=True)
    assert squares.mean() == pytest.approx(1, abs=1e-6)
    before = bures_wasserstein_distance(X, scaler.mean_, metric=M, power=power, squared=True)
    np.testing.assert_allclose(squares, before / scaler.variance_, atol=1e-6)
    kept = BuresWassersteinScaler(power=power, metric=M, with_scaling=False).fit_transform(X)
    after = bures_wasserstein_distance(kept, np.eye(8), metric=M, power=power, squared=True)
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_scaler_in_parts():
    X = spd(60, n=5)
    whole, parts = BuresWassersteinScaler().fit(X), BuresWassersteinScaler()
    for part in np.split(X, 3):
        parts.partial_fit(part)
    assert parts.n_samples_seen_ == 60
    np.testing.assert_allclose(parts.mean_, whole.mean_, atol=0.02)
    assert parts.variance_ == pytest.approx(whole.variance_, rel=0.1)
    two = BuresWassersteinScaler().partial_fit(X[:1]).partial_fit(X[1:4])
    expected = bures_wasserstein_geodesic(X[0], bures_wasserstein_mean(X[1:4]), 0.75)
    np.testing.assert_allclose(two.mean_, expected, atol=1e-8)
    np.testing.assert_allclose(parts.fit(X).mean_, whole.mean_, atol=1e-12)


def test_scaler_says_when_it_meets_the_border():
    X = np.concatenate([spd(20, n=3), 100 * spd(1, n=3)])
    with pytest.warns(UserWarning, match="held at the border"):
        BuresWassersteinScaler().fit(X[:20]).transform(np.stack([1e-4 * np.eye(3)] * 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BuresWassersteinScaler(with_scaling=False).fit_transform(spd(20, n=3))


def test_scaler_errors():
    X = spd(5, n=3)
    with pytest.raises(ValueError, match="power must not be 0"):
        BuresWassersteinScaler(power=0.0).fit(X)
    with pytest.raises(ValueError, match="index 1 has the eigenvalue -"):
        BuresWassersteinScaler().fit(np.stack([np.eye(2), -np.eye(2)]))
    with pytest.raises(ValueError, match="metric must have the matrices' size 3"):
        BuresWassersteinScaler(metric=np.eye(2)).fit(X)
    with pytest.raises(ValueError, match="metric must be symmetric positive definite"):
        BuresWassersteinScaler(metric=-np.eye(3)).fit(X)
    with pytest.raises(ValueError, match="fitted with 3"):
        BuresWassersteinScaler().fit(X).transform(np.eye(2)[None])
    with pytest.raises(NotFittedError):
        BuresWassersteinScaler().transform(X)
