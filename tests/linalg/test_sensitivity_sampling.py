"""Sensitivity sampling against definitions, linear programming, closed forms and invariances."""

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linprog, minimize
from sklearn.exceptions import ConvergenceWarning

from paperworks.linalg import (
    LpRowSampler,
    leverage_scores,
    lewis_weights,
    lp_regression,
    lp_regression_sketched,
    lp_sensitivities,
    sampling_probabilities,
    total_sensitivity,
)
from paperworks.papers.sensitivity_sampling.run import run

POWERS = [1.0, 1.3, 2.0, 3.0, 5.0]


def tall(n=80, d=4, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, d)) * rng.uniform(0.1, 3.0, size=(n, 1))
    A[0] *= 30
    return A


def sensitivity_by_definition(A, i, p):
    """1 / min ||A x||_p^p over a_i x = 1, by a linear programme or a general minimiser in the other directions."""
    n, d = A.shape
    if p == 1:
        eye = np.eye(n)
        found = linprog(
            np.r_[np.zeros(d), np.ones(n)],
            A_ub=np.block([[A, -eye], [-A, -eye]]),
            b_ub=np.zeros(2 * n),
            A_eq=np.r_[A[i], np.zeros(n)][None],
            b_eq=[1],
            bounds=[(None, None)] * (n + d),
        )
        return 1 / found.fun
    start = A[i] / (A[i] @ A[i])
    free = np.linalg.svd(A[i][None])[2][1:].T

    def value(z):
        return (np.abs(A @ (start + free @ z)) ** p).sum()

    def slope(z):
        r = A @ (start + free @ z)
        return p * free.T @ (A.T @ (np.sign(r) * np.abs(r) ** (p - 1)))

    return 1 / minimize(value, np.zeros(d - 1), jac=slope, method="BFGS", options={"gtol": 1e-10, "maxiter": 5000}).fun


# --- scores ---


@pytest.mark.parametrize("p", POWERS)
def test_sensitivities_are_what_they_are_defined_as(p):
    A = tall()
    found = lp_sensitivities(A, p, "exact", rtol=1e-5)
    expected = [sensitivity_by_definition(A, i, p) for i in range(12)]
    np.testing.assert_allclose(found[:12], expected, rtol=2e-5)
    # From above, up to what the minimiser leaves.
    assert (found[:12] >= np.array(expected) * (1 - 1e-9)).all()


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("method", ["approximate", "sampled"])
def test_cheaper_scores_are_not_below(p, method):
    A = tall(300)
    exact = lp_sensitivities(A, p, "exact")
    cheaper = lp_sensitivities(A, p, method, random_state=0)
    assert (cheaper >= exact * (1 - 1e-3)).all()
    assert (cheaper <= 1).all()
    if method == "sampled" and p > 2:
        assert cheaper.sum() <= lp_sensitivities(A, p, "approximate").sum() + 1e-9


@pytest.mark.parametrize("p", POWERS)
def test_sums_are_bounded(p):
    A = tall()
    total = lp_sensitivities(A, p).sum()
    assert total <= 4 ** max(1.0, p / 2) * (1 + 1e-3)
    assert total_sensitivity(A, p) == pytest.approx(total)
    leverage = leverage_scores(A)
    s = lp_sensitivities(A, p)
    if p <= 2:
        assert (s <= leverage ** (p / 2) * (1 + 2e-3)).all()
    else:
        assert (s >= leverage ** (p / 2) * (1 - 2e-3)).all()


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("scores", ["lp_sensitivities", "lewis_weights"])
def test_scores_don_t_depend_on_the_basis_and_are_shared_by_copies(p, scores):
    A = tall(60)
    score = {
        "lp_sensitivities": lambda A: lp_sensitivities(A, p, rtol=1e-6),
        "lewis_weights": lambda A: lewis_weights(A, p),
    }[scores]
    T = np.random.default_rng(1).normal(size=(4, 4))
    np.testing.assert_allclose(score(A @ T), score(A), rtol=1e-4)
    np.testing.assert_allclose(score(np.r_[A, A, A])[:60], score(A) / 3, rtol=1e-4)


@pytest.mark.parametrize("p", POWERS)
def test_lewis_weights_solve_their_equation(p):
    A = tall()
    w = lewis_weights(A, p)
    M = A.T @ (w[:, None] ** (1 - 2 / p) * A)
    np.testing.assert_allclose(w ** (2 / p), np.einsum("ij,jk,ik->i", A, np.linalg.inv(M), A), rtol=1e-6)
    assert w.sum() == pytest.approx(4)


def test_leverage_scores_are_the_diagonal_of_the_projection():
    A = tall()
    np.testing.assert_allclose(leverage_scores(A), np.diag(A @ np.linalg.pinv(A)), rtol=1e-9)
    # Columns that depend on each other, rows of zeros, more columns than rows.
    dependent = np.c_[A, A @ np.ones(4), np.zeros(80)]
    np.testing.assert_allclose(leverage_scores(dependent), leverage_scores(A), rtol=1e-8)
    np.testing.assert_allclose(leverage_scores(np.r_[A, np.zeros((1, 4))])[-1], 0)
    np.testing.assert_allclose(leverage_scores(A[:3]), 1)
    # A condition number whose square is beyond double precision.
    steep = A * [1.0, 1e-4, 1e-8, 1e-11]
    np.testing.assert_allclose(leverage_scores(steep), leverage_scores(A), rtol=1e-3)


@pytest.mark.parametrize("p", POWERS)
def test_rows_of_zeros_and_dependent_columns(p):
    A = tall(50)
    wide = np.r_[np.c_[A, A[:, :1]], np.zeros((1, 5))]
    np.testing.assert_allclose(lp_sensitivities(wide, p)[:-1], lp_sensitivities(A, p), rtol=3e-3)
    assert lp_sensitivities(wide, p)[-1] == 0
    assert lewis_weights(wide, p)[-1] == 0
    np.testing.assert_allclose(lp_sensitivities(np.ones((4, 1)), p), 0.25, rtol=2e-3)


def test_kinds_of_matrices_have_the_same_scores(tmp_path, monkeypatch):
    from paperworks.linalg.sensitivity_sampling import _rows

    array = pytest.importorskip("dask.array")
    monkeypatch.setattr(_rows, "BLOCK", 17)
    A = tall()
    stored = np.memmap(tmp_path / "A", dtype=np.float64, mode="w+", shape=A.shape)
    stored[:] = A
    for other in (sparse.csr_matrix(A), array.from_array(A, chunks=(30, 2)), stored):
        np.testing.assert_allclose(leverage_scores(other), leverage_scores(A), rtol=1e-9)
        np.testing.assert_allclose(lp_sensitivities(other, 1.5), lp_sensitivities(A, 1.5), rtol=1e-6)
        ours, theirs = (LpRowSampler(1.5, n_samples=30, random_state=0).fit(each) for each in (A, other))
        np.testing.assert_array_equal(ours.sample_indices_, theirs.sample_indices_)
        np.testing.assert_allclose(ours.transform(A), theirs.transform(other), rtol=1e-6)


# --- samples ---


def test_probabilities_sum_up_and_are_capped():
    scores = np.array([8.0, 4.0, 1.0, 1.0, 0.0])
    for m in (0.5, 1.5, 2.5, 3.9):
        q = sampling_probabilities(scores, m)
        assert q.sum() == pytest.approx(m)
        assert (q <= 1).all()
        uncapped = (q > 0) & (q < 1)
        np.testing.assert_allclose(np.diff(q[uncapped] / scores[uncapped]), 0, atol=1e-12)
    np.testing.assert_array_equal(sampling_probabilities(scores, 10.0), [1, 1, 1, 1, 0])


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("p", [1.0, 3.0])
def test_norms_are_unbiased(p, replacement):
    A, x = tall(200), np.arange(1.0, 5.0)
    norms = [
        (np.abs(LpRowSampler(p, n_samples=40, replacement=replacement, random_state=k).fit_transform(A) @ x) ** p).sum()
        for k in range(300)
    ]
    error = np.std(norms) / 300**0.5
    assert abs(np.mean(norms) - (np.abs(A @ x) ** p).sum()) < 4 * error


@pytest.mark.parametrize(
    ("p", "rule"), [(1.0, "root_leverage"), (3.0, "combined"), (2.0, "auto"), (1.0, "lewis"), (4.0, "uniform")]
)
def test_every_rule_is_unbiased_and_about_as_large_as_asked_for(p, rule):
    A, x = tall(400), np.arange(1.0, 5.0)
    samples = [LpRowSampler(p, rule, n_samples=60, random_state=k).fit_transform(A) for k in range(200)]
    norms = [(np.abs(S @ x) ** p).sum() for S in samples]
    assert abs(np.mean(norms) - (np.abs(A @ x) ** p).sum()) < 4 * np.std(norms) / 200**0.5
    assert np.mean([len(S) for S in samples]) == pytest.approx(60, rel=0.1)


def test_sizes_follow_the_formulas():
    A = tall(2000, 3)
    one, log_factor = LpRowSampler(1.0, epsilon=0.5, random_state=0).fit(A), np.log(5) / 0.25
    assert one.probabilities_.sum() == pytest.approx(np.ceil(one.total_sensitivity_**2 * log_factor), rel=1e-9)
    three = LpRowSampler(3.0, epsilon=0.5, random_state=0).fit(A)
    assert three.probabilities_.sum() == pytest.approx(
        np.ceil(three.total_sensitivity_ ** (4 / 3) * log_factor), rel=1e-9
    )
    both = LpRowSampler(3.0, "combined", epsilon=0.5, random_state=0).fit(A)
    expected = 3 ** (2 / 3) * both.total_sensitivity_ ** (2 / 3) * log_factor
    assert both.probabilities_.sum() == pytest.approx(np.ceil(expected), rel=1e-9)
    more = LpRowSampler(1.0, epsilon=0.5, oversampling=2.0, random_state=0).fit(A)
    assert more.probabilities_.sum() == pytest.approx(2 * one.probabilities_.sum(), rel=1e-2)


def test_half_of_a_combined_sample_goes_to_each_score():
    A = tall(500)
    sampler = LpRowSampler(3.0, "combined", n_samples=50, mix=0.25, random_state=0).fit(A)
    s, leverage = lp_sensitivities(A, 3.0), leverage_scores(A)
    np.testing.assert_allclose(
        sampler.probabilities_, sampling_probabilities(0.75 * s / s.sum() + 0.25 * leverage / 4, 50), rtol=1e-2
    )


def test_capped_rows_keep_their_weight():
    A = tall(300)
    sampler = LpRowSampler(1.0, n_samples=100, random_state=0).fit(A)
    assert sampler.probabilities_[0] == 1
    assert sampler.weights_[sampler.sample_indices_ == 0] == 1
    np.testing.assert_allclose(sampler.weights_, 1 / sampler.probabilities_[sampler.sample_indices_])
    np.testing.assert_allclose(
        LpRowSampler(3.0, n_samples=100, random_state=0).fit(A).weights_.max(),
        LpRowSampler(3.0, n_samples=100, random_state=0)
        .fit(A)
        .probabilities_[LpRowSampler(3.0, n_samples=100, random_state=0).fit(A).sample_indices_]
        .min()
        ** (-1 / 3),
    )


def test_too_many_samples_are_all_rows():
    A = tall(30)
    with pytest.warns(UserWarning, match="n_samples=50 of 30 rows: all are kept"):
        sampler = LpRowSampler(1.0, n_samples=50).fit(A)
    np.testing.assert_array_equal(sampler.transform(A), A)


def test_a_stream_is_sampled_batch_by_batch():
    A = tall(4000)
    x = np.arange(1.0, 5.0)
    norms = []
    for k in range(20):
        sampler = LpRowSampler(1.0, "lewis", n_samples=200, random_state=k)
        for batch in np.split(A, 16):
            sampler.partial_fit(batch)
        assert sampler.n_seen_ == 4000
        assert len(sampler.coreset_) < 350
        np.testing.assert_allclose(sampler.coreset_, A[sampler.sample_indices_] * sampler.weights_[:, None])
        norms.append(np.abs(sampler.coreset_ @ x).sum())
    assert abs(np.mean(norms) / np.abs(A @ x).sum() - 1) < 4 * np.std(norms) / np.mean(norms) / 20**0.5


# --- regression ---


@pytest.mark.parametrize("p", [1.0, 1.2, 1.5, 2.0, 3.0, 6.0])
def test_regression_is_optimal(p):
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(100, 3)), rng.standard_cauchy(100)
    w = rng.uniform(0, 2, 100)
    for weights in (None, w):
        x = lp_regression(A, b, p, weights)
        counted = np.ones(100) if weights is None else weights
        value = lambda x: (counted * np.abs(A @ x - b) ** p).sum()  # noqa: B023, E731
        for _ in range(200):
            moved = x + rng.normal(size=3) * 10.0 ** rng.uniform(-6, 0)
            assert value(x) <= value(moved) * (1 + 1e-9)


def test_exact_data_are_fitted_exactly():
    A = tall(50)
    for p in POWERS:
        np.testing.assert_allclose(lp_regression(A, A @ np.arange(4.0), p), np.arange(4.0), atol=1e-6)


def test_sketched_regression_samples_the_target_too():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(3000, 3))
    b = A @ np.ones(3) + rng.standard_cauchy(3000)
    best = np.abs(A @ lp_regression(A, b, 1.0) - b).sum()
    ratios = [np.abs(A @ lp_regression_sketched(A, b, 1.0, 300, random_state=k) - b).sum() / best for k in range(10)]
    assert np.median(ratios) < 1.02


# --- what is refused ---


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda A: lp_sensitivities(A, 0.5), ValueError, "p must be at least 1, got 0.5"),
        (lambda A: lp_sensitivities(A, np.nan), ValueError, "p must be"),
        (lambda A: lp_sensitivities(A, 1.0, "guess"), ValueError, "method must be one of"),
        (lambda A: lp_sensitivities(A, 1.0, rtol=0.0), ValueError, "rtol"),
        (lambda A: leverage_scores(np.zeros((3, 2))), ValueError, "A must not be zero"),
        (lambda A: leverage_scores(A.astype(int)), TypeError, "A must hold floating-point"),
        (lambda A: leverage_scores(sparse.csr_array(np.full((2, 2), np.nan))), ValueError, "A contains NaN"),
        (lambda A: sampling_probabilities([-1.0, 1.0], 1.0), ValueError, "scores must not be negative"),
        (lambda A: sampling_probabilities([0.0, 0.0], 1.0), ValueError, "must not all be zero"),
        (lambda A: sampling_probabilities([1.0], 0.0), ValueError, "n_samples"),
        (lambda A: LpRowSampler(0.5).fit(A), ValueError, "p must be at least 1"),
        (lambda A: LpRowSampler(rule="guess").fit(A), ValueError, "rule must be one of"),
        (lambda A: LpRowSampler(3.0, "root_leverage").fit(A), ValueError, "for p < 2, got p=3"),
        (lambda A: LpRowSampler(1.0, "combined").fit(A), ValueError, "for p > 2, got p=1"),
        (lambda A: LpRowSampler(1.0, "root_leverage", replacement=True).fit(A), ValueError, "without replacement"),
        (lambda A: LpRowSampler(epsilon=0.0).fit(A), ValueError, "epsilon"),
        (lambda A: LpRowSampler(mix=2.0).fit(A), ValueError, "mix"),
        (lambda A: LpRowSampler(n_samples=0).fit(A), ValueError, "n_samples"),
        (lambda A: LpRowSampler().partial_fit(A), ValueError, "n_samples must be given for partial_fit"),
        (lambda A: LpRowSampler(n_samples=9, random_state=0).fit(A).transform(A[:9]), ValueError, "X must have the 80"),
        (lambda A: lp_regression(A, A[:9, 0], 1.0), ValueError, "b must have an entry for each of 80 rows"),
        (lambda A: lp_regression(A, A[:, 0], 1.0, np.ones(3)), ValueError, "sample_weight must have length 80"),
        (lambda A: lp_regression(A, A[:, 0], 1.0, -np.ones(80)), ValueError, "sample_weight must not be negative"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(tall())


def test_regression_that_can_not_go_on_says_so(monkeypatch):
    from paperworks.linalg.sensitivity_sampling import _regression

    monkeypatch.setattr(_regression, "STEPS", 1)
    rng = np.random.default_rng(0)
    with pytest.warns(ConvergenceWarning, match="did not converge in 1 steps"):
        lp_regression(rng.normal(size=(50, 3)), rng.standard_cauchy(50), 5.0)


# --- the command ---


def test_command_writes_a_coreset(tmp_path):
    A = tall(600)
    np.save(tmp_path / "A.npy", A)
    summary = run(tmp_path / "A.npy", out=tmp_path, samples=100, seed=1)
    stored = np.load(tmp_path / "coreset.npz")
    full = np.column_stack([np.ones(600), A])
    np.testing.assert_allclose(stored["rows"], full[stored["indices"]] * stored["weights"][:, None])
    assert summary["value_ratio"] >= 1 - 1e-9
    assert (tmp_path / "picture.png").stat().st_size > 1000
    np.save(tmp_path / "line.npy", A[0])
    with pytest.raises(ValueError, match="must hold a table"):
        run(tmp_path / "line.npy", out=tmp_path)
