"""Tests of target-based surrogates."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn

from paperworks.optimization import (
    TargetSurrogateClassifier,
    TargetSurrogateOptimizer,
    TargetSurrogateRegressor,
    minimize_target_surrogate,
    surrogate_bound,
)
from paperworks.optimization.target_surrogate._descent import armijo_descent
from paperworks.papers.target_surrogate.run import run

F64 = torch.float64


def problem(n=40, d=5, seed=0):
    """Rows with a constant, and labels -1 and 1 in a column that no plane separates."""
    rng = np.random.default_rng(seed)
    X = np.c_[rng.normal(size=(n, d - 1)), np.ones(n)]
    y = np.where(X @ rng.normal(size=d) + rng.normal(size=n) > 0, 1.0, -1.0)
    return torch.tensor(X), torch.tensor(y)[:, None]


def logistic(y):
    return lambda z: torch.nn.functional.softplus(-y * z)[:, 0]


def logistic_gradient(y):
    return lambda z: -y * torch.sigmoid(-y * z)


def network(d=5, m=1, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 8), nn.Tanh(), nn.Linear(8, m)).double()


def zeros(*shape):
    return torch.zeros(*shape, dtype=F64, requires_grad=True)


# --- the surrogate ---


def by_loops(f, z, g, eta, value):
    total = 0.0
    for i in range(len(f)):
        total += sum(g[i][j] * (f[i][j] - z[i][j]) + (f[i][j] - z[i][j]) ** 2 / (2 * eta) for j in range(len(f[i])))
    return value + total / len(f)


def test_surrogate_is_its_sum():
    rng = np.random.default_rng(0)
    f, z, g = rng.normal(size=(3, 7, 2))
    assert surrogate_bound(f, z, g, 0.3, 1.5) == pytest.approx(by_loops(f, z, g, 0.3, 1.5))
    assert surrogate_bound(z, z, g, 0.3, 1.5) == 1.5
    tensors = [torch.tensor(each, requires_grad=True) for each in (f, z, g)]
    assert torch.autograd.gradcheck(lambda *each: surrogate_bound(*each, 0.3), tensors)


@pytest.mark.parametrize(("kind", "smoothness"), [("logistic", 0.25), ("softmax", 0.5), ("squared", 1.0)])
def test_surrogate_bounds_the_loss_at_one_over_l_and_not_beyond(kind, smoothness):
    generator = torch.Generator().manual_seed(0)
    n, m = 3, 1 if kind == "logistic" else 2
    labels = torch.tensor([0, 1, 1])
    losses = {
        "logistic": lambda f: torch.nn.functional.softplus(-(2 * labels - 1) * f[:, 0]),
        "softmax": lambda f: torch.nn.functional.cross_entropy(f, labels, reduction="none"),
        "squared": lambda f: (f**2).sum(1) / 2,
    }
    loss, gaps = losses[kind], {0.97: [], 1.3: []}
    for trial in range(400):
        # Near zero the curvature of both losses is largest, so that a step too long shows.
        z = 0.01 * torch.randn(n, m, dtype=F64, generator=generator)
        z.requires_grad_()
        value = loss(z)
        (g,) = torch.autograd.grad(value.sum(), z)
        f = z.detach() + 10.0 ** (-(trial % 4)) * torch.randn(n, m, dtype=F64, generator=generator)
        for share, found in gaps.items():
            bound = surrogate_bound(f, z.detach(), g, share / smoothness, float(value.detach().mean()))
            found.append(float(bound - loss(f).mean()))
    assert min(gaps[0.97]) >= -1e-14
    assert min(gaps[1.3]) < -1e-8


# --- the inner descent ---


def test_interpolated_backtracking_is_plain_backtracking_on_a_parabola():
    rng = np.random.default_rng(0)
    A = torch.tensor(rng.normal(size=(6, 6)))
    H = A @ A.T / 6 + 0.1 * torch.eye(6, dtype=F64)
    b = torch.tensor(rng.normal(size=6))

    def value(x):
        return 0.5 * x @ H @ x - b @ x

    plain, step = torch.zeros(6, dtype=F64), 10.0
    for _ in range(15):
        g = H @ plain - b
        while value(plain - step * g) > value(plain) - 0.5 * step * g @ g:
            step *= 0.9
        plain = plain - step * g
        step *= 1.8
    x = zeros(6)
    calls = []

    def counted():
        calls.append(1)
        return value(x)

    assert armijo_descent([x], counted, [-b], 15, 0.0, 0.0) == 15
    torch.testing.assert_close(x.detach(), plain, rtol=1e-10, atol=1e-12)
    assert len(calls) <= 2 * 15 + 2


def test_each_inner_step_of_a_network_lowers_the_surrogate_enough():
    X, y = problem()
    model = network()
    values = []
    z = model(X).detach()
    g = logistic_gradient(y)(z)
    for inner_steps in (1, 2, 3, 5, 10, 30):
        again = network()
        optimizer = TargetSurrogateOptimizer(again.parameters(), smoothness=0.25, inner_steps=inner_steps)
        optimizer.step(lambda again=again: again(X), logistic_gradient(y))
        values.append(surrogate_bound(again(X).detach(), z, g, 4.0))
        assert optimizer.n_inner_steps == inner_steps
    assert values[0] < 0
    assert all(later < earlier for earlier, later in pairwise(values))


# --- the optimiser ---


def test_one_inner_step_is_gradient_descent():
    X, y = problem()
    model, twin = network(), network()
    optimizer = TargetSurrogateOptimizer(
        model.parameters(), inner_steps=1, inner_optimizer=lambda params: torch.optim.SGD(params, lr=0.3)
    )
    plain = torch.optim.SGD(twin.parameters(), lr=0.3)
    for _ in range(4):
        plain.zero_grad()
        loss = logistic(y)(twin(X)).mean()
        loss.backward()
        norm = torch.cat([each.grad.ravel() for each in twin.parameters()]).norm()
        plain.step()
        assert optimizer.step(lambda: model(X), loss=logistic(y)) == pytest.approx(float(loss.detach()))
        assert optimizer.gradient_norm == pytest.approx(float(norm))
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("inner", ["armijo", "sgd", "lbfgs"])
def test_the_expensive_gradient_is_asked_once_a_step_on_outputs_without_graph(inner):
    X, y = problem()
    makers = {
        "armijo": "armijo",
        "sgd": lambda params: torch.optim.SGD(params, lr=0.1),
        "lbfgs": lambda params: torch.optim.LBFGS(params, max_iter=3),
    }
    model, asked, forwards = network(), [], []

    def gradient(outputs):
        asked.append(outputs.requires_grad)
        return logistic_gradient(y)(outputs)

    def forward():
        forwards.append(1)
        return model(X)

    optimizer = TargetSurrogateOptimizer(
        model.parameters(), smoothness=0.25, inner_steps=7, inner_optimizer=makers[inner]
    )
    before = logistic(y)(model(X)).mean().item()
    for _ in range(3):
        assert optimizer.step(forward, gradient) is None
    assert asked == [False] * 3
    assert optimizer.n_target_gradients == 3
    assert optimizer.n_inner_steps == 21
    assert optimizer.n_loss_evaluations == 0
    assert logistic(y)(model(X)).mean().item() < before
    if inner == "sgd":
        # One forward a step: the first is that of z, and one more sees that the model is not random.
        assert len(forwards) == 21 + 1


def test_inner_steps_approach_the_exact_projection():
    X, y = problem(30, 4)
    W = zeros(4, 1)
    optimizer = TargetSurrogateOptimizer([W], step_size=2.0, inner_steps=400, inner_tolerance=1e-12)
    expected = torch.zeros(4, 1, dtype=F64)
    for _ in range(3):
        g = logistic_gradient(y)(X @ expected)
        expected = expected - 2.0 * torch.linalg.lstsq(X, g).solution
        optimizer.step(lambda: X @ W, logistic_gradient(y))
        torch.testing.assert_close(W.detach(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["linear", "network"])
@pytest.mark.parametrize("inner_steps", [1, 5, 20])
def test_full_batches_never_raise_the_loss(kind, inner_steps):
    X, y = problem()
    model = nn.Linear(5, 1).double() if kind == "linear" else network()
    optimizer = TargetSurrogateOptimizer(model.parameters(), smoothness=0.25, inner_steps=inner_steps)
    path = [optimizer.step(lambda: model(X), loss=logistic(y)) for _ in range(30)]
    assert (np.diff(path) <= 1e-14).all()


def test_schedules_are_their_formulas():
    X, y = problem()
    for schedule, expected in (
        ("constant", [2.0, 2.0, 2.0]),
        ("inverse_sqrt", [2.0, 2.0 / 2**0.5, 2.0 / 3**0.5]),
        ("exponential", [2.0 / 5**0.2, 2.0 / 5**0.4, 2.0 / 5**0.6]),
    ):
        optimizer = TargetSurrogateOptimizer([W := zeros(5, 1)], 2.0, schedule=schedule, total_steps=5)
        found = []
        for _ in range(3):
            optimizer.step(lambda W=W: X @ W, loss=logistic(y))
            found.append(optimizer.current_step_size)
        assert found == pytest.approx(expected)


def test_line_search_takes_the_largest_step_of_the_grid():
    X, y = problem()
    W = zeros(5, 1)
    optimizer = TargetSurrogateOptimizer([W], step_size=4.0, line_search=True)
    eta, evaluations = 4.0, 0
    for _ in range(5):
        z = (X @ W).detach()
        g, before = logistic_gradient(y)(z), logistic(y)(z).mean()
        eta, evaluations = eta * 1.8, evaluations + 1
        while evaluations := evaluations + 1:
            if logistic(y)(z - eta * g).mean() <= before - 0.5 * eta * (g**2).sum() / len(g):
                break
            eta *= 0.9
        optimizer.step(lambda: X @ W, logistic_gradient(y), loss=logistic(y))
        assert optimizer.current_step_size == pytest.approx(eta)
    assert eta >= 4.0 * 0.9
    assert optimizer.n_loss_evaluations == evaluations


# --- metrics: two steps to each surrogate's own minimiser, in the space of targets itself ---


def targets(metric, indices=None, steps=2, **options):
    """The outputs are the parameters, so that a step ends at z - eta A^-1 (linear term)."""
    generator = torch.Generator().manual_seed(1)
    wanted = torch.randn(6, 3, dtype=F64, generator=generator)
    Z = zeros(6, 3)
    optimizer = TargetSurrogateOptimizer(
        [Z], 0.5, metric=metric, inner_steps=20000, inner_tolerance=1e-13, damping=1e-3, **options
    )
    path, gradients = [Z.detach().clone()], []
    for _ in range(steps):
        gradients.append(3 * (Z.detach() - wanted))
        optimizer.step(lambda: Z, lambda z: 3 * (z - wanted), indices=indices)
        path.append(Z.detach().clone())
    return path, gradients


def assert_moves(path, expected):
    for before, after, move in zip(path, path[1:], expected, strict=False):
        torch.testing.assert_close(after - before, -0.5 * move, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("metric", ["adagrad", "online_newton"])
def test_full_matrix_metrics(metric):
    path, gradients = targets(metric)
    moves, total = [], torch.zeros(3, 3, dtype=F64)
    for g in gradients:
        total = total + sum(torch.outer(row, row) for row in g) / len(g)
        A = total + 1e-3 * torch.eye(3, dtype=F64)
        values, vectors = torch.linalg.eigh(A)
        root = vectors @ torch.diag(values.sqrt()) @ vectors.T
        moves.append(g @ torch.linalg.inv(root if metric == "adagrad" else A))
    assert_moves(path, moves)


@pytest.mark.parametrize("rows", [None, torch.tensor([4, 0, 2, 7, 1, 3])])
def test_diagonal_adagrad(rows):
    path, gradients = targets("diagonal_adagrad", rows)
    squares, moves = 0.0, []
    for g in gradients:
        squares = squares + (g**2 if rows is not None else (g**2).mean(0))
        moves.append(g / (squares + 1e-3).sqrt())
    assert_moves(path, moves)


def test_adam_with_rows_told_apart_is_adam_on_the_targets():
    path, gradients = targets("adam", torch.arange(6), steps=4)
    Z = torch.zeros(6, 3, dtype=F64, requires_grad=True)
    adam = torch.optim.Adam([Z], lr=0.5, eps=1e-3)
    for g, found in zip(gradients, path[1:], strict=True):
        Z.grad = g
        adam.step()
        torch.testing.assert_close(found, Z.detach(), rtol=1e-5, atol=1e-7)


def test_adam_with_rows_alike_shares_its_moments():
    path, gradients = targets("adam", steps=2)
    first = second = 0.0
    moves = []
    for t, g in enumerate(gradients, 1):
        linear = (0.9 * first + 0.1 * g) / (1 - 0.9**t)
        first, second = 0.9 * first + 0.1 * g.mean(0), 0.999 * second + 0.001 * (g**2).mean(0)
        moves.append(linear / ((second / (1 - 0.999**t)).sqrt() + 1e-3))
    assert_moves(path, moves)


def test_rows_keep_their_own_memory_in_batches():
    Z = zeros(8, 2)
    optimizer = TargetSurrogateOptimizer([Z], 0.1, metric="diagonal_adagrad", inner_steps=1)
    for rows in ([0, 1, 2], [5, 6], [2, 7, 0]):
        optimizer.step(lambda rows=rows: Z[rows], lambda z: torch.ones_like(z), indices=torch.tensor(rows))
    kept = optimizer.state["run"]["metric"]["squares"]
    torch.testing.assert_close(kept[:, 0], torch.tensor([2.0, 1, 2, 0, 0, 1, 1, 1], dtype=F64))


def test_divergence_gives_the_mirror_step():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, dtype=F64, generator=generator).requires_grad_()
    g = torch.randn(4, 3, dtype=F64, generator=generator)
    old = logits.detach().softmax(1)
    expected = old * torch.exp(-0.7 * g)
    optimizer = TargetSurrogateOptimizer(
        [logits], 0.7, metric="kullback_leibler", inner_steps=3000, inner_tolerance=1e-12
    )
    optimizer.step(lambda: logits.softmax(1), lambda p: g)
    torch.testing.assert_close(
        logits.detach().softmax(1), expected / expected.sum(1, keepdim=True), rtol=1e-5, atol=1e-7
    )


# --- going on, precision, randomness ---


def test_state_goes_on_where_it_was():
    X, y = problem()

    def fresh():
        model = network()
        return model, TargetSurrogateOptimizer(model.parameters(), 1.0, metric="adam", schedule="inverse_sqrt")

    model, optimizer = fresh()
    for i in range(6):
        optimizer.step(lambda: model(X), loss=logistic(y))
        if i == 2:
            saved = {k: v.clone() for k, v in model.state_dict().items()}
            state = torch.load(_bytes(optimizer.state_dict()), weights_only=False)
    other, resumed = fresh()
    other.load_state_dict(saved)
    resumed.load_state_dict(state)
    for _ in range(3):
        resumed.step(lambda: other(X), loss=logistic(y))
    assert resumed.n_target_gradients == 6
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def _bytes(state):
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_single_precision_gets_as_far():
    X, y = problem()
    ends = []
    for dtype in (torch.float32, torch.float64):
        model = network().to(dtype)
        optimizer = TargetSurrogateOptimizer(model.parameters(), smoothness=0.25, inner_steps=20)
        for _ in range(60):
            loss = optimizer.step(lambda model=model, dtype=dtype: model(X.to(dtype)), loss=logistic(y.to(dtype)))
        ends.append(loss)
        assert optimizer.n_inner_steps == 1200
    assert ends[0] == pytest.approx(ends[1], rel=0.05)


def test_dropout_in_training_mode_is_named():
    X, y = problem()
    model = nn.Sequential(nn.Linear(5, 20), nn.Dropout(), nn.Linear(20, 1)).double()
    with pytest.warns(UserWarning, match="model.eval"):
        TargetSurrogateOptimizer(model.parameters()).step(lambda: model(X), loss=logistic(y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.eval()
        TargetSurrogateOptimizer(model.parameters()).step(lambda: model(X), loss=logistic(y))


def test_an_interrupt_leaves_the_last_complete_step():
    X, y = problem()

    def interrupted(inner_steps, at):
        W, calls = zeros(5, 1), []

        def forward():
            calls.append(1)
            if len(calls) > at:
                raise KeyboardInterrupt
            return X @ W

        optimizer = TargetSurrogateOptimizer([W], 4.0, inner_steps=inner_steps)
        if at < 100:
            with pytest.raises(KeyboardInterrupt):
                optimizer.step(forward, logistic_gradient(y))
        else:
            optimizer.step(forward, logistic_gradient(y))
        return W.detach(), len(calls)

    steps = [(torch.zeros(5, 1, dtype=F64), 2), *(interrupted(inner_steps, 100) for inner_steps in range(1, 8))]
    for at in range(2, 12):
        complete = [W for W, n_calls in steps if n_calls <= at]
        torch.testing.assert_close(interrupted(50, at)[0], complete[-1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: TargetSurrogateOptimizer(p, inner_steps=0), ValueError, "inner_steps must be at least 1, got 0"),
        (lambda p: TargetSurrogateOptimizer(p, inner_steps=1.5), TypeError, "inner_steps must be an integer"),
        (lambda p: TargetSurrogateOptimizer(p, metric="manhattan"), ValueError, "metric must be one of"),
        (lambda p: TargetSurrogateOptimizer(p, schedule="linear"), ValueError, "schedule must be one of"),
        (lambda p: TargetSurrogateOptimizer(p, schedule="exponential"), ValueError, "total_steps is needed"),
        (lambda p: TargetSurrogateOptimizer(p, step_size=-1.0), ValueError, "step_size must be"),
        (lambda p: TargetSurrogateOptimizer(p, smoothness=np.nan), ValueError, "smoothness must be"),
        (lambda p: TargetSurrogateOptimizer(p, damping=-1.0), ValueError, "damping must be"),
        (lambda p: TargetSurrogateOptimizer(p, line_search=1), TypeError, "line_search must be"),
        (lambda p: TargetSurrogateOptimizer(p, line_search=True, metric="adam"), ValueError, "line_search needs"),
        (lambda p: TargetSurrogateOptimizer(p, inner_optimizer="adam"), ValueError, "inner_optimizer must be"),
    ],
)
def test_bad_settings(call, error, message):
    with pytest.raises(error, match=message):
        call([zeros(5, 1)])


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (lambda o, f, z: o.step(f), ValueError, "target_gradient or loss must be given"),
        (lambda o, f, z: o.step(lambda: f()[:, 0], torch.ones_like), ValueError, r"shape \(n, m\), got \(40,\)"),
        (lambda o, f, z: o.step(lambda: f().detach(), torch.ones_like), ValueError, "depend on the parameters"),
        (lambda o, f, z: o.step(lambda: z.numpy(), torch.ones_like), TypeError, "forward must return a tensor"),
        (lambda o, f, z: o.step(f, lambda z: z.numpy()), TypeError, "target_gradient must return a tensor"),
        (lambda o, f, z: o.step(f, lambda z: z[:-1]), ValueError, r"must return shape \(40, 1\).*got \(39, 1\)"),
        (lambda o, f, z: o.step(f, loss=lambda z: z.mean()), ValueError, r"of shape \(40,\), got \(\)"),
        (lambda o, f, z: o.step(f, lambda z: z * np.nan), FloatingPointError, "target gradient is NaN .*at step 1"),
        (lambda o, f, z: o.step(f, loss=lambda z: z[:, 0] / 0), FloatingPointError, "loss is NaN .*at step 1"),
        (lambda o, f, z: o.step(lambda: f() / 0, torch.ones_like), FloatingPointError, "forward is NaN .*at step 1"),
        (lambda o, f, z: o.step(f, torch.ones_like, indices=[1, 2]), ValueError, r"indices must have shape \(40,\)"),
        (lambda o, f, z: o.step(f, torch.ones_like, indices=[0] * 40), ValueError, "indices must be distinct"),
        (lambda o, f, z: o.step(f, torch.ones_like, indices=[0.5] * 40), TypeError, "indices must hold integers"),
    ],
)
def test_bad_functions(step, error, message):
    X, _ = problem()
    W = zeros(5, 1)
    with pytest.raises(error, match=message):
        step(TargetSurrogateOptimizer([W]), lambda: X @ W, X[:, :1])
    assert not W.detach().any()


def test_other_refusals_of_the_optimizer():
    X, y = problem()
    with pytest.warns(UserWarning, match="step_size 5 is above 1 / smoothness = 4"):
        TargetSurrogateOptimizer([zeros(5, 1)], step_size=5.0, smoothness=0.25)
    W = zeros(5, 1)
    with pytest.raises(ValueError, match="positive rows that sum to 1"):
        TargetSurrogateOptimizer([W], metric="kullback_leibler").step(lambda: X @ W, torch.ones_like)
    with pytest.raises(ValueError, match="loss must be given with line_search"):
        TargetSurrogateOptimizer([W], line_search=True).step(lambda: X @ W, torch.ones_like)
    with pytest.raises(TypeError, match="inner_optimizer must return a torch optimizer, got list"):
        TargetSurrogateOptimizer([W], inner_optimizer=list).step(lambda: X @ W, loss=logistic(y))
    with pytest.raises(ValueError, match=r"gradient must have the shape of outputs, \(2, 1\), got \(3, 1\)"):
        surrogate_bound(np.ones((2, 1)), np.ones((2, 1)), np.ones((3, 1)), 1.0)


# --- the solver ---


def solver_problem():
    X, y = problem()
    return lambda x: (X @ x)[:, None], logistic(y), X, y


def unpenalised(X, y):
    reference = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=10000)
    return reference.fit(X.numpy(), y[:, 0].numpy()).coef_[0]


def test_solver_finds_the_minimum_and_certifies_it():
    model, loss, X, y = solver_problem()
    result = minimize_target_surrogate(model, loss, np.zeros(5), smoothness=0.25, tolerance=1e-7)
    assert result.success
    assert result.status == 0
    np.testing.assert_allclose(result.x, unpenalised(X, y), atol=1e-4)
    x = torch.tensor(result.x, requires_grad=True)
    value = loss(model(x)).mean()
    (gradient,) = torch.autograd.grad(value, x)
    assert result.fun == pytest.approx(float(value.detach()), rel=1e-14)
    assert float(gradient.norm()) == pytest.approx(result.gradient_norm)
    assert result.gradient_norm <= 1e-7
    assert result.n_target_gradients == result.nit == len(result.history["loss"])
    assert result.n_target_rows == 40 * result.nit
    assert (np.diff(result.history["loss"]) <= 1e-14).all()
    assert (np.diff(result.history["seconds"]) > 0).all()


def test_solver_takes_gradients_without_a_loss_and_tensors():
    model, _, X, y = solver_problem()
    result = minimize_target_surrogate(
        model, None, torch.zeros(5, dtype=F64), target_gradient=logistic_gradient(y), smoothness=0.25
    )
    assert isinstance(result.x, torch.Tensor)
    assert np.isnan(result.fun)
    np.testing.assert_allclose(result.x.numpy(), unpenalised(X, y), atol=1e-2)


def test_solver_says_when_it_stopped_short():
    model, loss, _, _ = solver_problem()
    with pytest.warns(ConvergenceWarning, match="not converged: gradient norm .* after max_iter=3 steps"):
        result = minimize_target_surrogate(model, loss, np.zeros(5), smoothness=0.25, max_iter=3)
    assert not result.success
    assert result.status == 1
    assert result.n_target_gradients == 4  # the last one certifies the answer
    with pytest.warns(ConvergenceWarning, match="no step lowers the surrogate"):
        stuck = minimize_target_surrogate(model, loss, np.zeros(5), smoothness=0.25, tolerance=1e-300, max_iter=10000)
    assert stuck.status == 2
    assert stuck.gradient_norm < 1e-6

    def stop(state):
        if state.nit == 2:
            raise StopIteration

    halted = minimize_target_surrogate(model, loss, np.zeros(5), smoothness=0.25, callback=stop)
    assert (halted.status, halted.nit, halted.success) == (3, 2, False)


def test_solver_on_batches_certifies_on_all_rows():
    X, _ = problem(60, 3)
    # Every batch alone is at its minimum where all are: rows whose targets are exact.
    exact = X @ torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    options = {"n_rows": 60, "batch_size": 20, "smoothness": 1.0, "random_state": 0, "tolerance": 1e-5}

    def model(x, rows):
        return (X[rows] @ x)[:, None]

    def loss(outputs, rows):
        return (outputs[:, 0] - exact[rows]) ** 2 / 2

    result = minimize_target_surrogate(model, loss, np.zeros(3), **options)
    assert result.success
    np.testing.assert_allclose(result.x, [1.0, -2.0, 0.5], atol=1e-3)
    residual = X @ torch.tensor(result.x) - exact
    assert result.gradient_norm == pytest.approx(float((X.T @ residual / 60).norm()))
    assert result.n_target_gradients > result.nit
    assert result.n_target_rows == 20 * result.nit + 60 * (result.n_target_gradients - result.nit)
    again = minimize_target_surrogate(model, loss, np.zeros(3), **options)
    np.testing.assert_array_equal(result.x, again.x)
    np.testing.assert_array_equal(result.history["loss"], again.history["loss"])
    other = minimize_target_surrogate(model, loss, np.zeros(3), **(options | {"random_state": 1}))
    assert not np.array_equal(result.x, other.x)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_solver_remembers_each_row_where_it_sees_all():
    wanted = torch.tensor([[1.0, 2.0], [4.0, 8.0]], dtype=F64)
    states = []
    minimize_target_surrogate(
        lambda x: x.reshape(2, 2),
        lambda z: ((z - wanted) ** 2).sum(1) / 2,
        np.zeros(4),
        metric="diagonal_adagrad",
        inner_steps=200,
        step_size=0.1,
        max_iter=2,
        callback=lambda state: states.append(state.x),
    )
    # The first step of a diagonal memory is the sign of the gradient, however large that is.
    np.testing.assert_allclose(states[0], 0.1, rtol=1e-4)


def test_solver_refuses():
    model, loss, _, _ = solver_problem()
    for arguments, error, message in (
        ({"x0": np.zeros(5, dtype=int)}, TypeError, "x0 must hold floating-point"),
        ({"x0": np.full(5, np.nan)}, ValueError, "x0 contains NaN"),
        ({"x0": np.zeros((5, 1))}, ValueError, "x0 must have 1 dimension"),
        ({"loss": None}, ValueError, "target_gradient or loss must be given"),
        ({"loss": 3}, TypeError, "loss must be callable"),
        ({"model_fun": None}, TypeError, "model_fun must be callable"),
        ({"batch_size": 5}, ValueError, "n_rows is needed"),
        ({"batch_size": 50, "n_rows": 40}, ValueError, "batch_size must be at most n_rows=40, got 50"),
        ({"tolerance": 0.0}, ValueError, "tolerance"),
        ({"max_iter": 0}, ValueError, "max_iter"),
        ({"loss": lambda z: z[:, 0] * torch.nan}, FloatingPointError, "loss is NaN .*at step 1"),
    ):
        given = {"model_fun": model, "loss": loss, "x0": np.zeros(5)} | arguments
        with pytest.raises(error, match=message):
            minimize_target_surrogate(**given)


# --- linear estimators ---


def breast_cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return (X - X.mean(0)) / X.std(0), y


def fitted(**options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return TargetSurrogateClassifier(**({"max_iter": 20, "tol": 0.0, "random_state": 0} | options))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_classifier_takes_the_optimizers_steps(layout):
    X, y = breast_cancer()
    given = sparse.csr_array(X) if layout == "sparse" else X
    classifier = fitted(inner_steps=10).fit(given, y)
    rows, labels = torch.tensor(np.c_[X, np.ones(len(X))]), torch.tensor(np.where(y > 0, 1.0, -1.0))[:, None]
    W = zeros(31, 1)
    optimizer = TargetSurrogateOptimizer([W], smoothness=0.25, inner_steps=10)
    path = [optimizer.step(lambda: rows @ W, loss=logistic(labels)) for _ in range(20)]
    np.testing.assert_allclose(classifier.history_["loss"][:-1], path, rtol=1e-6)
    np.testing.assert_allclose(np.r_[classifier.coef_[0], classifier.intercept_], W.detach()[:, 0], rtol=1e-3)
    assert (classifier.n_target_gradients_, classifier.n_inner_steps_) == (20, 200)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_rows_and_gram_matrix_give_the_same_steps():
    X, y = breast_cancer()
    few, many = fitted(batch_size=100, inner_steps=20), fitted(batch_size=100, inner_steps=20)
    few.fit(X, y)
    from paperworks.optimization.target_surrogate import _linear

    class Rows(_linear.Batch):
        def __init__(self, X, n_products):
            super().__init__(X, 0)

    assert _linear.Batch(X, 100).gram is not None
    assert Rows(X, 100).gram is None
    original, _linear.Batch = _linear.Batch, Rows
    try:
        many.fit(X, y)
    finally:
        _linear.Batch = original
    np.testing.assert_allclose(few.coef_, many.coef_, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("shape", [(30, 4), (10, 25)])
def test_exact_inner_solution_is_least_squares(shape):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=shape), rng.integers(0, 2, shape[0])
    classifier = fitted(inner="exact", max_iter=1, fit_intercept=False).fit(X, y)
    g = -np.where(y > 0, 1.0, -1.0) / 2
    np.testing.assert_allclose(classifier.coef_[0], -4.0 * np.linalg.lstsq(X, g)[0], rtol=1e-8)
    thin = fitted(inner="exact", max_iter=1, fit_intercept=False).fit(sparse.csr_array(X), y)
    np.testing.assert_allclose(thin.coef_, classifier.coef_, rtol=1e-8)


def test_classifier_reaches_the_maximum_likelihood():
    X, y = load_iris(return_X_y=True)
    X, y = X[50:] - X.mean(0), y[50:]
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10000).fit(X, y)
    for options in ({"inner": "exact"}, {"inner_steps": 100}, {"line_search": True, "inner_steps": 100}):
        classifier = TargetSurrogateClassifier(tol=1e-5, max_iter=5000, **options).fit(X, y)
        assert classifier.converged_
        np.testing.assert_allclose(classifier.predict_proba(X), reference.predict_proba(X), atol=2e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_losses_of_several_classes():
    X, y = load_iris(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    for loss in ("log", "squared"):
        classifier = fitted(loss=loss, max_iter=60).fit(X, y)
        assert classifier.coef_.shape == (3, 4)
        assert (np.diff(classifier.history_["loss"]) <= 1e-12).all()
        assert classifier.score(X, y) > (0.95 if loss == "log" else 0.8)
    assert not hasattr(classifier, "predict_proba")
    scores = torch.tensor(fitted().fit(X, y).decision_function(X))
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor(y))
    assert fitted().fit(X, y).history_["loss"][-1] == pytest.approx(float(expected))
    with pytest.warns(UserWarning, match="step_size 3 is above 1 / smoothness = 2"):
        fitted(step_size=3.0).fit(X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_batches_of_one_order_are_partial_fits():
    X, y = breast_cancer()
    stepwise = TargetSurrogateClassifier(inner_steps=5, schedule="inverse_sqrt")
    for rows in np.split(np.arange(568), 8):
        stepwise.partial_fit(X[rows], y[rows], classes=[0, 1])
    assert (stepwise.n_target_gradients_, stepwise.n_inner_steps_) == (8, 40)
    assert stepwise.score(X, y) > 0.95
    runs = [
        fitted(batch_size=50, schedule="inverse_sqrt", random_state=seed, max_iter=2).fit(X, y) for seed in (0, 0, 1)
    ]
    assert runs[0].n_target_gradients_ == 24
    np.testing.assert_array_equal(runs[0].coef_, runs[1].coef_)
    assert not np.array_equal(runs[0].coef_, runs[2].coef_)
    single = fitted(batch_size=50, schedule="inverse_sqrt", max_iter=2).fit(X.astype(np.float32), y)
    assert single.coef_.dtype == np.float32
    np.testing.assert_allclose(single.coef_, runs[0].coef_, atol=1e-2)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_warm_start_goes_on():
    X, y = breast_cancer()
    whole = fitted(max_iter=6).fit(X, y)
    halves = fitted(max_iter=3, warm_start=True)
    halves.fit(X, y).fit(X, y)
    np.testing.assert_allclose(halves.coef_, whole.coef_, rtol=1e-10)
    assert halves.n_target_gradients_ == 6
    with pytest.raises(ValueError, match="y must hold the classes of the last fit"):
        halves.fit(X, y + 1)


def test_regressor_solves_least_squares_and_heeds_outliers_less():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    Y = X @ rng.normal(size=(4, 2)) + 1.0 + 0.1 * rng.normal(size=(200, 2))
    exact = np.linalg.lstsq(np.c_[X, np.ones(200)], Y)[0]
    once = TargetSurrogateRegressor(inner="exact").fit(X, Y)
    assert once.n_target_gradients_ == 1
    np.testing.assert_allclose(np.c_[once.coef_, once.intercept_].T, exact, rtol=1e-10)
    slow = TargetSurrogateRegressor(tol=1e-8).fit(X, Y[:, 0])
    np.testing.assert_allclose(slow.coef_[0], exact[:-1, 0], rtol=1e-6)
    assert slow.predict(X).shape == (200,)
    spoilt = Y[:, 0].copy()
    spoilt[:10] += 50.0
    errors = [
        np.abs(TargetSurrogateRegressor(loss=loss, max_iter=500).fit(X, spoilt).coef_[0] - exact[:-1, 0]).max()
        for loss in ("squared", "log_cosh")
    ]
    assert errors[1] < errors[0] / 5


def test_estimators_refuse():
    X, y = breast_cancer()
    for options, message in (
        ({"loss": "hinge"}, "loss must be one of"),
        ({"inner": "newton"}, "inner must be one of"),
        ({"inner_steps": 0}, "inner_steps must be at least 1"),
        ({"step_size": 0.0}, "step_size must be"),
        ({"schedule": "cosine"}, "schedule must be one of"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            TargetSurrogateClassifier(**options).fit(X, y)
    with pytest.raises(ValueError, match="classes must be passed"):
        TargetSurrogateClassifier().partial_fit(X, y)
    with pytest.raises(ValueError, match="at least two classes, got 1 class"):
        TargetSurrogateClassifier().fit(X, np.ones(len(X)))
    with pytest.raises(ValueError, match="classes that are not among"):
        TargetSurrogateClassifier().partial_fit(X, y, classes=[1, 2])
    with pytest.raises(ValueError, match="y must hold 1 targets a sample as before, got 2"):
        TargetSurrogateRegressor().partial_fit(X, y).partial_fit(X, np.c_[y, y])
    with pytest.warns(ConvergenceWarning, match="not converged: largest gradient"):
        TargetSurrogateClassifier(max_iter=2).fit(X, y)


# --- the command ---


def test_command_reads_a_table(tmp_path):
    X, y = breast_cancer()
    lines = [f"{a:.6g},{b:.6g},{'yes' if label else 'no'}" for (a, b), label in zip(X[:80, :2], y[:80], strict=True)]
    (tmp_path / "t.csv").write_text("a,b,kind\n" + "\n".join(lines))
    summary = run(tmp_path / "t.csv", out=tmp_path, label="kind", passes=5, batch_size=20, compare=["sgd"])
    assert summary["classes"] == ["no", "yes"]
    assert summary["target_gradients"] == 20
    assert set(summary["final_loss"]) == {"surrogate", "sgd"}
    stored = np.load(tmp_path / "coefficients.npz")
    wrong = (np.c_[X[:80, :2]] @ stored["coef"][0] + stored["intercept"][0] > 0) != y[:80]
    assert wrong.mean() == pytest.approx(1 - summary["accuracy"])
    assert (tmp_path / "picture.png").stat().st_size > 1000
    assert "target_gradients,seconds,loss" in (tmp_path / "history.csv").read_text()
    for text, message in (("a,b\n1,x\n1,y,2\n", "line 3 has 3 columns"), ("a,b\nz,x\nz,y\n", "not a number")):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "bad.csv", out=tmp_path)
    with pytest.raises(ValueError, match="has no column 'sort'"):
        run(tmp_path / "t.csv", out=tmp_path, label="sort")
    with pytest.raises(ValueError, match="no such file"):
        run(tmp_path / "none.csv", out=tmp_path)
