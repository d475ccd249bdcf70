"""Logistic regression with large steps against loops over rows, published counts and hard-margin machines."""

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC

from paperworks.optimization import (
    NormalizedLogisticRegression,
    iteration_bound,
    loss_and_margin,
    normalized_gradient_step,
    separate,
)
from paperworks.papers.normalized_logistic_regression.run import run

METHODS = ["normalized_logistic", "logistic", "batch_perceptron", "normalized_batch_perceptron", "perceptron"]


def separable(n=60, d=5, seed=0, gap=0.2):
    rng = np.random.default_rng(seed)
    A, direction = rng.normal(size=(n, d)), rng.normal(size=d)
    y = np.where(A @ direction > 0, 1.0, -1.0)
    return A + gap * (y / np.linalg.norm(direction))[:, None] * direction, y


def hardest(n):
    return np.r_[[[0.5, -1.0]], np.tile([[-0.5, -1.0]], (n - 1, 1))], np.r_[1.0, -np.ones(n - 1)]


def by_loops(A, y, method, step, max_iter=10_000):
    """The five iterations as they are written down, row by row."""
    n, d = A.shape
    theta = np.zeros(d)
    path = [theta]
    for t in range(max_iter):
        margins = [y[i] * (A[i] @ theta) for i in range(n)]
        wrong = [i for i in range(n) if margins[i] <= 0]
        if not wrong:
            break
        sigmoid = [1 / (1 + np.exp(m)) for m in margins]
        if method == "logistic":
            theta = theta + step / n * sum(s * y[i] * A[i] for i, s in enumerate(sigmoid))
        elif method == "normalized_logistic":
            gradient = -sum(s * y[i] * A[i] for i, s in enumerate(sigmoid)) / n
            theta = theta - step * gradient / (sum(sigmoid) / n)
        elif method == "batch_perceptron":
            theta = theta + (0.5 if t == 0 else 1.0) / n * sum(y[i] * A[i] for i in wrong)
        elif method == "normalized_batch_perceptron":
            theta = theta + sum(y[i] * A[i] for i in wrong) / len(wrong)
        else:
            theta = theta + y[wrong[0]] * A[wrong[0]]
        path.append(theta)
    return path


# --- the iterations ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [0.3, 20.0])
def test_iterations_are_those_written_down(method, step):
    A, y = separable()
    path = []
    result = separate(A, y, method, step, callback=lambda theta, t: path.append((t, theta)))
    expected = by_loops(A, y, method, step)
    assert result.converged
    assert result.n_iter == len(expected) - 1 > 0
    assert [t for t, _ in path] == list(range(len(expected)))
    np.testing.assert_allclose([theta for _, theta in path], expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(result.theta, path[-1][1])


def test_published_counts():
    A, y = hardest(1000)
    assert [separate(A, y, step_size=step).n_iter for step in (100.0, 10.0, 1.0, 0.1)] == [2, 2, 16, 157]
    assert separate(A, y, "logistic", 100.0).n_iter == 308
    assert [separate(*hardest(n), "batch_perceptron").n_iter for n in (100, 1000)] == [31, 301]
    assert [separate(*hardest(n), "logistic", 100.0).n_iter for n in (100, 1000)] == [31, 308]


def test_two_points_where_the_loss_goes_up():
    # Theorem 4.1: theta_1 = step (2/4, 3/4), theta_2 / step tends to (1, 1/4), which separates.
    A, y = np.array([[1.0, -1.0], [-1.0, -4.0]]), [1, -1]
    path = []
    result = separate(A, y, "logistic", 1e6, callback=lambda theta, t: path.append(theta))
    np.testing.assert_allclose(path[1] / 1e6, [0.5, 0.75])
    np.testing.assert_allclose(path[2] / 1e6, [1.0, 0.25], atol=1e-6)
    assert result.n_iter == 2
    assert result.loss[1] > 1e4
    np.testing.assert_array_equal(result.accuracy, [0, 0.5, 1])


def test_recorded_paths():
    A, y = separable()
    path = []
    result = separate(A, y, "logistic", 3.0, callback=lambda theta, t: path.append(theta))
    for t, theta in enumerate(path):
        m = y * (A @ theta)
        assert result.loss[t] == pytest.approx(np.mean(np.log1p(np.exp(-m))))
        assert result.gradient_norm[t] == pytest.approx(np.linalg.norm((y / (1 + np.exp(m))) @ A) / len(A))
        assert result.accuracy[t] == pytest.approx(np.mean(m > 0))


@pytest.mark.parametrize("step", [1e-3, 1.0, 1e8, 1e300])
def test_any_step_stays_finite(step):
    with np.errstate(over="raise", invalid="raise"):
        result = separate(*separable(), step_size=step, max_iter=500_000)
    assert np.isfinite(result.theta).all()
    assert result.converged


def test_sigmoids_that_underflow_are_still_weighed():
    # All margins are far beyond what exp(-m) can hold: the weights are those of the smallest margins.
    A, y = np.diag([1.0, 1.0, 1.0]), [1, 1, 1]
    theta = np.array([2000.0, 2000.0 + np.log(3), 9000.0])
    np.testing.assert_allclose(normalized_gradient_step(theta, A, y, 4.0) - theta, [3.0, 1.0, 0.0], atol=1e-9)


def test_start_and_random_selection():
    A, y = separable()
    done = separate(A, y).theta
    assert separate(A, y, theta0=done).n_iter == 0
    draws = [separate(A, y, "perceptron", selection="random", random_state=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0].theta, draws[1].theta)
    assert not np.array_equal(draws[0].theta, draws[2].theta)
    assert all(draw.converged for draw in draws)


def test_kinds_of_rows_give_the_same_path():
    A, y = separable(n=200)
    wanted = separate(A, y, step_size=3.0)
    thin = separate(sparse.csr_matrix(A), y, step_size=3.0)
    tensors = separate(torch.from_numpy(A), torch.from_numpy(y), step_size=3.0)
    single = separate(A.astype(np.float32), y, step_size=3.0)
    assert isinstance(tensors.theta, torch.Tensor)
    assert isinstance(tensors.loss, torch.Tensor)
    assert single.theta.dtype == np.float32
    for other in (thin, tensors, single):
        assert other.n_iter == wanted.n_iter
        np.testing.assert_allclose(other.theta, wanted.theta, rtol=1e-3)
    np.testing.assert_allclose(thin.loss, wanted.loss)


# --- the bounds ---


def test_bounds_are_those_of_the_theorems():
    A, y = separable(40, 3)
    machine = SVC(kernel="linear", C=1e10, tol=1e-10)
    # Mirrored rows make the hard-margin machine's own constant zero.
    machine.fit(np.r_[y[:, None] * A, -y[:, None] * A], np.r_[np.ones(40), -np.ones(40)])
    mu = 1 / np.linalg.norm(machine.coef_)
    assert loss_and_margin(A, y, machine.coef_[0])[1] == pytest.approx(mu, rel=1e-4)
    R = np.linalg.norm(A, axis=1).max()
    assert iteration_bound(A, y, method="perceptron") == pytest.approx(R**2 / mu**2, rel=1e-4)
    assert iteration_bound(A, y, method="batch_perceptron") == pytest.approx(40 * R**2 / mu**2, rel=1e-4)
    expected = R**2 / mu**2 + 2 * np.log(79) / (0.5 * mu**2)
    assert iteration_bound(A, y, 0.5) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "method", ["normalized_logistic", "batch_perceptron", "normalized_batch_perceptron", "perceptron"]
)
def test_bounds_hold(method):
    for seed in range(10):
        A, y = separable(30, 4, seed, gap=0.05)
        assert separate(A, y, method, 2.0).n_iter <= iteration_bound(A, y, 2.0, method)


def test_data_that_no_direction_separates():
    A, y = np.array([[1.0, 0.0], [1.0, 0.0]]), [1, -1]
    with pytest.raises(ValueError, match="can't be separated"):
        iteration_bound(A, y)
    with pytest.warns(ConvergenceWarning, match="no separating direction after 7 updates: 2 errors left"):
        result = separate(A, y, max_iter=7)
    assert not result.converged
    assert len(result.loss) == 8


# --- the classifier ---


def threes_and_eights():
    X, y = load_digits(return_X_y=True)
    kept = np.isin(y, (3, 8))
    return X[kept] / 16, y[kept]


@pytest.mark.parametrize("method", METHODS)
def test_classifier_separates_and_agrees_with_the_function(method):
    X, y = threes_and_eights()
    classifier = NormalizedLogisticRegression(method, record=True).fit(X, y)
    result = separate(np.c_[X, np.ones(len(X))], np.where(y == 8, 1, -1), method)
    assert classifier.converged_
    assert classifier.score(X, y) == 1
    assert classifier.n_iter_ == result.n_iter
    np.testing.assert_allclose(np.r_[classifier.coef_[0], classifier.intercept_], result.theta, rtol=1e-6)
    np.testing.assert_allclose(classifier.history_["loss"], result.loss, rtol=1e-4)
    assert classifier.history_["margin"][-1] > 0 >= classifier.history_["margin"][-2]
    assert len(classifier.history_["margin"]) == classifier.n_iter_ + 1


def test_probabilities_are_sigmoids_of_scores():
    X, y = threes_and_eights()
    classifier = NormalizedLogisticRegression(step_size=0.1).fit(X, y)
    scores = X @ classifier.coef_[0] + classifier.intercept_
    np.testing.assert_allclose(classifier.decision_function(X), scores)
    np.testing.assert_allclose(classifier.predict_proba(X)[:, 1], 1 / (1 + np.exp(-scores)), atol=1e-12)
    np.testing.assert_array_equal(classifier.predict(X), np.where(scores > 0, 8, 3))


def test_a_margin_can_be_asked_for():
    A, y = separable()
    plain = NormalizedLogisticRegression(fit_intercept=False).fit(A, y)
    largest = np.linalg.norm(A, axis=1).max() / iteration_bound(A, y, method="perceptron") ** 0.5
    wanted = (loss_and_margin(A, y, plain.coef_[0])[1] + largest) / 2
    wide = NormalizedLogisticRegression(fit_intercept=False, tol=wanted).fit(A, y)
    assert loss_and_margin(A, y, wide.coef_[0])[1] > wanted
    assert wide.n_iter_ > plain.n_iter_


def test_the_best_iterate_is_kept():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = (X @ [1.0, 2.0, 3.0] + rng.normal(size=200) > 0).astype(int)
    scores = []
    for keep_best in (True, False):
        with pytest.warns(ConvergenceWarning, match="not separated after max_iter=30 updates"):
            classifier = NormalizedLogisticRegression(max_iter=30, record=True, keep_best=keep_best).fit(X, y)
        scores.append(classifier.score(X, y))
    assert scores[0] == pytest.approx(classifier.history_["accuracy"].max())
    assert scores[1] == pytest.approx(classifier.history_["accuracy"][-1])
    assert scores[0] > scores[1]


def test_blocks_of_a_dask_array_give_the_same_fit():
    array = pytest.importorskip("dask.array")
    X, y = threes_and_eights()
    for method in METHODS:
        whole = NormalizedLogisticRegression(method).fit(X, y)
        blocks = NormalizedLogisticRegression(method).fit(array.from_array(X, chunks=(100, 20)), y)
        assert blocks.n_iter_ == whole.n_iter_
        np.testing.assert_allclose(blocks.coef_, whole.coef_, rtol=1e-6, atol=1e-9)
    drawn = NormalizedLogisticRegression("perceptron", selection="random", random_state=0)
    assert drawn.fit(array.from_array(X, chunks=(100, 64)), y).converged_
    bad = X.copy()
    bad[-1, 3] = np.nan
    with pytest.raises(ValueError, match="X contains NaN"):
        NormalizedLogisticRegression().fit(array.from_array(bad, chunks=(100, 64)), y)


@pytest.mark.parametrize("method", METHODS)
def test_partial_fit_makes_the_iterations(method):
    A, y = separable()
    stepwise = NormalizedLogisticRegression(method, fit_intercept=False)
    for theta in by_loops(A, y, method, 100.0)[1:]:
        stepwise.partial_fit(A, y, classes=[-1.0, 1.0])
        assert not stepwise.converged_
        np.testing.assert_allclose(stepwise.coef_[0], theta, rtol=1e-8)
    last = stepwise.coef_.copy()
    assert stepwise.partial_fit(A, y).converged_
    np.testing.assert_array_equal(stepwise.coef_, last)


def test_weights_are_repetitions():
    A, y = separable(30)
    counts = np.random.default_rng(0).integers(0, 4, 30)
    for method in METHODS[:4]:
        weighted = NormalizedLogisticRegression(method, step_size=2.0).fit(A, y, sample_weight=counts)
        repeated = NormalizedLogisticRegression(method, step_size=2.0).fit(A.repeat(counts, 0), y.repeat(counts))
        np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-8)


def test_rows_without_weight_are_not_there():
    A, y = separable(30)
    weights = np.r_[np.ones(30), 0]
    contradicted = NormalizedLogisticRegression().fit(np.r_[A, A[:1]], np.r_[y, -y[0]], sample_weight=weights)
    assert contradicted.converged_
    np.testing.assert_allclose(contradicted.coef_, NormalizedLogisticRegression().fit(A, y).coef_)


def test_several_classes_go_through_one_against_the_rest():
    X, y = load_digits(n_class=3, return_X_y=True)
    assert OneVsRestClassifier(NormalizedLogisticRegression()).fit(X / 16, y).score(X / 16, y) == 1


# --- what is refused ---


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda A, y: separate(A, y, "newton"), ValueError, "method must be one of"),
        (lambda A, y: separate(A, y, step_size=0.0), ValueError, "step_size must be .*got 0.0"),
        (lambda A, y: separate(A, y, step_size=np.inf), ValueError, "step_size must be .*got inf"),
        (lambda A, y: separate(A, y, max_iter=0), ValueError, "max_iter"),
        (lambda A, y: separate(A, y[:-1]), ValueError, r"y must have shape \(60,\)"),
        (lambda A, y: separate(A, y + 1), ValueError, "y must hold exactly two classes, -1 and 1"),
        (lambda A, y: separate(A, np.where(y > 0, "a", "b")), ValueError, "y must hold exactly two classes"),
        (lambda A, y: separate(A.astype(int), y), TypeError, "A must hold floating-point numbers"),
        (lambda A, y: separate(np.where(A > 1, np.nan, A), y), ValueError, "A contains NaN"),
        (lambda A, y: separate(sparse.csr_array(np.where(A > 1, np.nan, A)), y), ValueError, "A contains NaN"),
        (lambda A, y: separate(np.r_[A[:-1], A[-1:] * 0], y), ValueError, "row 59 of A is zero"),
        (lambda A, y: separate(A, y, theta0=np.ones(3)), ValueError, "theta0 must have 5 entries, got 3"),
        (lambda A, y: separate(A, y, selection="last"), ValueError, "selection must be one of"),
        (lambda A, y: normalized_gradient_step(np.ones(4), A, y), ValueError, "theta must have shape"),
        (lambda A, y: iteration_bound(A, y, method="logistic"), ValueError, "method must be one of"),
        (lambda A, y: iteration_bound(A, y, -1.0), ValueError, "step_size"),
        (lambda A, y: loss_and_margin(A, y, np.ones(2)), ValueError, "theta must have 5 entries"),
        (
            lambda A, y: NormalizedLogisticRegression().fit(A, np.ones(60)),
            ValueError,
            "exactly two classes, got 1 class",
        ),
        (lambda A, y: NormalizedLogisticRegression().fit(A, np.arange(60) % 3), ValueError, "OneVsRestClassifier"),
        (lambda A, y: NormalizedLogisticRegression().partial_fit(A, y), ValueError, "classes must be passed"),
        (
            lambda A, y: NormalizedLogisticRegression().partial_fit(A, y, classes=[1, 2]),
            ValueError,
            "y holds classes that are not among",
        ),
        (
            lambda A, y: NormalizedLogisticRegression(fit_intercept=False).fit(np.r_[A[:-1], A[-1:] * 0], y),
            ValueError,
            "row 59 of X is zero",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(*separable())


# --- the command ---


def test_command_reads_a_table(tmp_path):
    X, y = separable(40)
    lines = [f"{'yes' if label > 0 else 'no'},{','.join(map(str, row))}" for row, label in zip(X, y, strict=True)]
    (tmp_path / "t.csv").write_text("kind,a,b,c,d,e\n" + "\n".join(lines))
    summary = run(tmp_path / "t.csv", out=tmp_path, label="kind")
    assert summary["training_errors"] == 0
    assert summary["classes"] == ["no", "yes"]
    stored = np.load(tmp_path / "coefficients.npz")
    assert (y * (X @ stored["coef"][0] + stored["intercept"][0]) > 0).all()
    assert (tmp_path / "picture.png").stat().st_size > 1000
    for text, message in (("a,b\n1,x\n1,y,2\n", "line 3 has 3 columns"), ("a,b\nz,x\n", "not a number")):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "bad.csv", out=tmp_path)
    with pytest.raises(ValueError, match="has no column 'sort'; there are kind, a"):
        run(tmp_path / "t.csv", out=tmp_path, label="sort")
    with pytest.raises(ValueError, match="no such file"):
        run(tmp_path / "none.csv", out=tmp_path)
