import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from paperworks.optimization import (
    BlockwiseBilevel,
    ImportanceWeightedEnsemble,
    minimize_blockwise_bilevel,
    msvr_update,
)
from paperworks.optimization.blockwise_bilevel._ensemble import WeightedLogistic
from paperworks.optimization.blockwise_bilevel._estimators import project_balls, project_spectra

M, DX, DY = 6, 4, 3


def quadratics(seed=0, noise=0.2, samples=50):
    """Quadratic lower and upper problems with noise that belongs to the sample, and their exact gradient."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(M, DY, DY)))[0]
    A = (Q * rng.uniform(0.5, 2, (M, 1, DY))) @ Q.swapaxes(1, 2)
    C, b, targets = rng.normal(size=(M, DY, DX)), rng.normal(size=(M, DY)), rng.normal(size=(M, DY))
    shift = noise * rng.normal(size=(samples, DY))
    turn = noise * rng.normal(size=(samples, DY, DY))
    turn = (turn + turn.swapaxes(1, 2)) / 2
    tilt = noise * rng.normal(size=(samples, DY, DX))
    for each in (shift, turn, tilt):
        each -= each.mean(0)

    def hessian(x, y, blocks, batch):
        return A[blocks] + turn[batch].mean(1)

    problem = BlockwiseBilevel(
        lower_gradient=lambda x, y, blocks, batch: (
            np.einsum("ijk,ik->ij", A[blocks], y) - C[blocks] @ x - b[blocks] + shift[batch].mean(1)
        ),
        upper_gradients=lambda x, y, blocks, batch: (
            len(blocks) * 0.3 * x,
            y - targets[blocks] + shift[batch].mean(1),
        ),
        mixed_vector=lambda x, y, v, blocks, batch: -np.einsum("ijk,ij->k", C[blocks] + tilt[batch].mean(1), v),
        n_samples=samples,
        lower_hessian_vector=lambda x, y, v, blocks, batch: np.einsum("ijk,ik->ij", hessian(x, y, blocks, batch), v),
        lower_hessian=hessian,
    )

    def exact(x):
        y = np.linalg.solve(A, (C @ x + b)[..., None])[..., 0]
        v = np.linalg.solve(A, (y - targets)[..., None])[..., 0]
        return 0.3 * x + np.einsum("ijk,ij->k", C, v) / M

    return problem, exact


def recording(problem):
    """The same problem, and a list of the (blocks, batch, upper batch) that it is asked for, one a step."""
    drawn = []

    def upper_gradients(x, y, blocks, batch):
        drawn.append([blocks, None, batch])
        return problem.upper_gradients(x, y, blocks, batch)

    def lower_gradient(x, y, blocks, batch):
        drawn.append([blocks, batch, None])
        return problem.lower_gradient(x, y, blocks, batch)

    fields = {name: getattr(problem, name) for name in problem.__dataclass_fields__}
    return BlockwiseBilevel(**{**fields, "upper_gradients": upper_gradients, "lower_gradient": lower_gradient}), drawn


def steps_of(drawn):
    """Blocks, batch and upper batch of every step: both points are asked with the same ones."""
    uppers = [each for each in drawn if each[1] is None]
    lowers = [each for each in drawn if each[2] is None]
    for each in (uppers, lowers):
        for first, second in zip(each[::2], each[1::2], strict=True):
            assert first[0] is second[0]
            np.testing.assert_array_equal(
                first[1] if first[2] is None else first[2], second[1] if first[2] is None else second[2]
            )
    return [(lower[0], lower[1], upper[2]) for lower, upper in zip(lowers[::2], uppers[::2], strict=True)]


SETTINGS = {"upper_lr": 0.02, "lower_lr": 0.05, "alpha": 0.2, "beta": 0.3}


def slow(problem, steps, method, radius=10.0, floor=0.2, bound=np.inf, decay=1.0):
    """The methods as they stand in the paper: all blocks, every step, one by one."""
    alpha, beta, tau, eta = (SETTINGS[name] for name in ("alpha", "beta", "lower_lr", "upper_lr"))
    sampled = len(steps[0][0])
    gamma = (M - sampled) / (sampled * (1 - alpha)) + 1 - alpha
    x = last_x = np.ones(DX)
    y, v, s, u = (np.zeros((M, DY)) for _ in range(4))
    last_y, last_v = y, v
    H = last_H = np.zeros((M, DY, DY))
    seen, z = np.zeros(M, dtype=bool), None
    for t, (blocks, batch, upper_batch) in enumerate(steps):
        rate = decay if 2 * t >= len(steps) else 1.0
        G, last_G, new_H, last_H = np.zeros(DX), np.zeros(DX), H.copy(), last_H.copy()
        H = H.copy()
        for k, i in enumerate(blocks):
            one, mine = np.array([i]), (batch[k : k + 1], upper_batch[k : k + 1])
            quantities = []
            for point, ys, vs in ((x, y, v), (last_x, last_y, last_v)):
                by_x, by_y = problem.upper_gradients(point, ys[one], one, mine[1])
                hessian = problem.lower_hessian(point, ys[one], one, mine[0])[0]
                gradient = problem.lower_gradient(point, ys[one], one, mine[0])[0]
                quantities.append((by_x, by_y[0], gradient, hessian, hessian @ vs[i] - by_y[0]))
            new, old = quantities

            def tracked(estimate, h, last_h, first=not seen[i]):
                return h if first else (1 - alpha) * estimate + alpha * h + gamma * (h - last_h)

            if not seen[i]:
                H[i] = last_H[i] = project_spectra(new[3], floor, bound)
            new_H[i] = project_spectra(tracked(H[i], new[3], old[3]), floor, bound)
            s[i], u[i] = tracked(s[i], new[2], old[2]), tracked(u[i], new[4], old[4])
            for total, point, ys, vs, Hs, (by_x, by_y, *_) in (
                (G, x, y, v, H, new),
                (last_G, last_x, last_y, last_v, last_H, old),
            ):
                w = np.linalg.solve(Hs[i], by_y) if method == "v1" else vs[i]
                total += by_x - problem.mixed_vector(point, ys[one], w[None], one, mine[0])
            seen[i] = True
        last_H, H = H, new_H
        last_y, y = y, y - rate * tau * s
        last_v, v = v, project_balls(v - rate * tau * u, radius)
        G, last_G = G / sampled, last_G / sampled
        z = G if z is None else (1 - beta) * (z - last_G) + G
        last_x, x = x, x - rate * eta * z
    return x, y, v


@pytest.mark.parametrize("method", ["v1", "v2"])
@pytest.mark.parametrize("blocks", [2, M])
@pytest.mark.parametrize("decay", [1.0, 0.3])
def test_sampled_blocks_do_what_the_loop_over_all_of_them_does(method, blocks, decay):
    problem, drawn = recording(quadratics()[0])
    found = minimize_blockwise_bilevel(
        problem, np.ones(DX), np.zeros((M, DY)), method=method, blocks_per_step=blocks, batch_size=2, n_steps=40,
        hessian_floor=0.2, halfway_decay=decay, random_state=0, **SETTINGS,
    )  # fmt: skip
    x, y, v = slow(quadratics()[0], steps_of(drawn), method, decay=decay)
    np.testing.assert_allclose(found.x, x, rtol=1e-10)
    np.testing.assert_allclose(found.lower_solution, y, rtol=1e-9, atol=1e-12)
    if method == "v2":
        np.testing.assert_allclose(found.linear_solution, v, rtol=1e-9, atol=1e-12)


def test_the_ball_keeps_v():
    problem, drawn = recording(quadratics()[0])
    found = minimize_blockwise_bilevel(
        problem, np.ones(DX), np.zeros((M, DY)), blocks_per_step=M, batch_size=2, n_steps=60, vector_bound=0.5,
        random_state=0, **SETTINGS,
    )  # fmt: skip
    x, _, v = slow(quadratics()[0], steps_of(drawn), "v2", radius=0.5)
    assert np.linalg.norm(found.linear_solution, axis=1).max() == pytest.approx(0.5)
    np.testing.assert_allclose(found.linear_solution, v, rtol=1e-9)
    np.testing.assert_allclose(found.x, x, rtol=1e-10)


def test_the_baseline_scales_and_shrinks():
    problem = quadratics()[0]
    choice = np.random.default_rng(3)
    found = minimize_blockwise_bilevel(
        problem, np.ones(DX), np.zeros((M, DY)), method="rsvrb", blocks_per_step=2, batch_size=2, n_steps=15,
        hessian_floor=0.2, random_state=3, **SETTINGS,
    )  # fmt: skip
    beta, tau, eta = SETTINGS["beta"], SETTINGS["lower_lr"], SETTINGS["upper_lr"]

    def quantities(x, y, blocks, batch, upper_batch):
        rows = y[blocks]
        jacobian = np.stack(
            [
                [
                    problem.mixed_vector(x, rows[k : k + 1], e[None], blocks[k : k + 1], batch[k : k + 1])
                    for e in np.eye(DY)
                ]
                for k in range(len(blocks))
            ]
        ).swapaxes(1, 2)
        return (
            problem.lower_gradient(x, rows, blocks, batch),
            problem.upper_gradients(x, rows, blocks, upper_batch)[1],
            jacobian,
            problem.lower_hessian(x, rows, blocks, batch),
        )

    # The stream of random numbers: blocks, their samples, then at the first step samples of all, and other blocks.
    x = last_x = np.ones(DX)
    y = last_y = np.zeros((M, DY))
    z = held = None
    for _ in range(15):
        blocks = choice.choice(M, 2, replace=False)
        batches = [choice.integers(50, size=(2, 2)) for _ in range(2)]
        if held is None:
            everything = [choice.integers(50, size=(M, 2)) for _ in range(2)]
            held = quantities(x, y, np.arange(M), *everything)
        new, old = quantities(x, y, blocks, *batches), quantities(last_x, last_y, blocks, *batches)
        before, held = held, []
        for estimate, h, last_h in zip(before, new, old, strict=True):
            kept = (1 - beta) * estimate
            kept[blocks] = (1 - beta) * (estimate[blocks] - M / 2 * last_h) + M / 2 * h
            held.append(kept)
        held[3][blocks] = project_spectra(held[3][blocks], 0.2, np.inf)
        others = choice.choice(M, 2, replace=False)
        G, last_G = (
            sum(0.3 * point - e[2][i] @ np.linalg.solve(project_spectra(e[3][i], 0.2, np.inf), e[1][i]) for i in others)
            / 2
            for point, e in ((x, held), (last_x, before))
        )
        last_y, y = y, y - tau * held[0]
        z = G if z is None else (1 - beta) * (z - last_G) + G
        last_x, x = x, x - eta * z
    np.testing.assert_allclose(found.x, x, rtol=1e-9)
    np.testing.assert_allclose(found.lower_solution, y, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["v1", "v2", "rsvrb"])
def test_without_noise_it_ends_where_the_gradient_vanishes(method):
    problem, exact = quadratics(noise=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = minimize_blockwise_bilevel(
            problem, np.ones(DX), np.zeros((M, DY)), method=method, blocks_per_step=M, batch_size=1, upper_lr=0.02,
            lower_lr=0.3, beta=0.5, n_steps=4000, tol=1e-8, vector_bound=1e3, random_state=0,
        )  # fmt: skip
    assert np.linalg.norm(exact(found.x)) < 1e-7
    assert found.success
    assert found.nit < 4000


def test_more_blocks_and_samples_leave_less_noise():
    problem, exact = quadratics(noise=0.5, samples=2000)
    left = {}
    for blocks, batch in ((2, 1), (2, 16), (M, 16)):
        norms = []

        def remember(seen, norms=norms):
            norms.append(np.linalg.norm(exact(seen.x)))

        minimize_blockwise_bilevel(
            problem, np.ones(DX), np.zeros((M, DY)), blocks_per_step=blocks, batch_size=batch, upper_lr=0.02,
            lower_lr=0.1, beta=0.1, n_steps=1500, random_state=0, callback=remember,
        )  # fmt: skip
        left[blocks, batch] = np.mean(norms[-500:])
    assert left[2, 1] > 1.3 * left[2, 16] > 1.3 * 1.3 * left[M, 16]


class TestEstimators:
    def test_update_is_the_formula(self):
        s = np.arange(6.0).reshape(3, 2)
        new, old = np.array([[1.0, 2], [3, 4]]), np.array([[0.5, 1], [1, 2]])
        kept = s.copy()
        found = msvr_update(s, [2, 0], new, old, alpha=0.25)
        gamma = 1 / (2 * 0.75) + 0.75
        np.testing.assert_allclose(found[1], s[1])
        np.testing.assert_allclose(found[[2, 0]], 0.75 * s[[2, 0]] + 0.25 * new + gamma * (new - old))
        np.testing.assert_array_equal(s, kept)

    def test_all_blocks_give_storm(self):
        s, new, old = np.random.default_rng(0).normal(size=(3, 4, 2))
        np.testing.assert_allclose(msvr_update(s, range(4), new, old, alpha=0.3), 0.7 * (s - old) + new)

    def test_estimate_follows_what_moves_between_samples(self):
        # h drifts deterministically: with gamma of theory the mean over draws of the estimate keeps up with it.
        rng = np.random.default_rng(0)
        errors = {}
        for gamma in ("theory", 0.0):
            s, error = np.zeros(10), []
            for t in range(4000):
                i = rng.choice(10, 2, replace=False)
                s = msvr_update(s, i, np.full(2, 0.1 * t), np.full(2, 0.1 * (t - 1)), alpha=0.1, gamma=gamma)
                error.append(s.mean() - 0.1 * t)
            errors[gamma] = abs(np.mean(error[500:]))
        assert errors["theory"] < 0.1 * errors[0.0]

    def test_projections(self):
        H = np.array([[1.0, 2], [0, 5]])
        values = np.linalg.eigvalsh(project_spectra(H, 2.0, 4.0))
        np.testing.assert_allclose(values, [2, 4])
        np.testing.assert_allclose(project_spectra(torch.as_tensor(H), 2.0, 4.0), project_spectra(H, 2.0, 4.0))
        inside = np.array([[3.0, 0.5], [0.5, 3]])
        np.testing.assert_allclose(project_spectra(inside, 1.0, 4.0), inside)
        np.testing.assert_allclose(
            project_balls(np.array([[3.0, 4], [0, 0], [0.3, 0.4]]), 1.0), [[0.6, 0.8], [0, 0], [0.3, 0.4]]
        )

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"blocks": [0, 0]}, ValueError, "blocks must be different indices from 0 to 2"),
            ({"blocks": [0, 3]}, ValueError, "blocks must be different indices"),
            ({"blocks": [0.0, 1.0]}, TypeError, "blocks must be a sequence of integers"),
            ({"new": np.zeros((3, 2))}, ValueError, r"new must have shape \(2, 2\)"),
            ({"old": np.full((2, 2), np.nan)}, ValueError, "old contains NaN"),
            ({"alpha": 1.0}, ValueError, "alpha must be less than 1 for gamma='theory'"),
            ({"alpha": 0.0}, ValueError, "alpha must be a finite number greater than 0"),
            ({"gamma": "code"}, ValueError, "gamma must be a number or 'theory', got 'code'"),
            ({"gamma": -1.0}, ValueError, "gamma must be a finite number at least 0"),
        ],
    )
    def test_bad_input(self, changes, error, message):
        arguments = {"estimate": np.zeros((3, 2)), "blocks": [0, 1], "new": np.ones((2, 2)), "old": np.ones((2, 2))}
        with pytest.raises(error, match=message):
            msvr_update(**{**arguments, **changes})


def ridge_losses(dtype=torch.float64):
    """Ridge regressions whose penalties and weights are learned, as losses."""
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(M, 40, DY, generator=generator, dtype=dtype)
    b = torch.randn(M, 40, generator=generator, dtype=dtype)

    def lower(x, y, block, batch):
        errors = (A[block, batch] @ y - b[block, batch]) ** 2
        return (x[DY:].exp().sum() * errors).mean() / 2 + (x[:DY].exp() * y * y).sum() / 2

    def upper(x, y, block, batch):
        return ((A[block, batch + 20] @ y - b[block, batch + 20]) ** 2).mean() / 2 + 0.1 * (x * x).sum()

    return lower, upper


class TestLosses:
    def test_derivatives_are_those_of_the_losses(self):
        lower, upper = ridge_losses()
        problem = BlockwiseBilevel.from_losses(lower, upper, 20)
        generator = torch.Generator().manual_seed(1)
        x = 0.3 * torch.randn(DX, generator=generator, dtype=torch.float64)
        y, v = torch.randn(2, 2, DY, generator=generator, dtype=torch.float64)
        blocks, batch = torch.tensor([4, 1]), torch.randint(20, (2, 5), generator=generator)
        gradient, product, mixed = problem.lower_derivatives(x, y, v, blocks, batch)
        by_x, by_y = problem.upper_gradients(x, y, blocks, batch)
        hessian = problem.lower_hessian(x, y, blocks, batch)
        jacobian = problem.mixed_jacobian(x, y, blocks, batch)
        sums = torch.zeros(2, DX, dtype=torch.float64)
        for k, i in enumerate(blocks):
            of_lower = lambda x, y, i=i, k=k: lower(x, y, i[None], batch[k])  # noqa: E731
            full = torch.autograd.functional.hessian(of_lower, (x, y[k]))
            torch.testing.assert_close(gradient[k], torch.autograd.functional.jacobian(of_lower, (x, y[k]))[1])
            torch.testing.assert_close(hessian[k], full[1][1])
            torch.testing.assert_close(product[k], full[1][1] @ v[k])
            torch.testing.assert_close(jacobian[k], full[0][1])
            sums[0] += full[0][1] @ v[k]
            of_upper = torch.autograd.functional.jacobian(
                lambda x, y, i=i, k=k: upper(x, y, i[None], batch[k]), (x, y[k])
            )
            sums[1] += of_upper[0]
            torch.testing.assert_close(by_y[k], of_upper[1])
        torch.testing.assert_close(mixed, sums[0])
        torch.testing.assert_close(by_x, sums[1])
        torch.testing.assert_close(problem.mixed_vector(x, y, v, blocks, batch), mixed)
        torch.testing.assert_close(problem.lower_hessian_vector(x, y, v, blocks, batch), product)
        torch.testing.assert_close(problem.lower_gradient(x, y, blocks, batch), gradient)

    @pytest.mark.parametrize("method", ["v1", "v2", "rsvrb"])
    def test_arrays_and_tensors_take_the_same_path(self, method):
        problem = BlockwiseBilevel.from_losses(*ridge_losses(), 20)
        options = {"method": method, "blocks_per_step": 2, "batch_size": 4, "n_steps": 20, "random_state": 0}
        x0, y0 = np.zeros(DX), np.zeros((M, DY))
        arrays = minimize_blockwise_bilevel(problem, x0, y0, **options)
        tensors = minimize_blockwise_bilevel(problem, torch.zeros(DX).double(), torch.zeros(M, DY).double(), **options)
        assert isinstance(arrays.x, np.ndarray)
        assert isinstance(tensors.lower_solution, torch.Tensor)
        np.testing.assert_array_equal(arrays.x, tensors.x.numpy())
        np.testing.assert_array_equal(x0, 0)
        np.testing.assert_array_equal(y0, 0)

        def on_arrays(function):
            def called(*arguments):
                found = function(*(torch.as_tensor(each) for each in arguments))
                return tuple(each.numpy() for each in found) if isinstance(found, tuple) else found.numpy()

            return called

        names = [name for name, field in BlockwiseBilevel.__dataclass_fields__.items() if "Callable" in str(field.type)]
        plain = BlockwiseBilevel(**{name: on_arrays(getattr(problem, name)) for name in names}, n_samples=20)
        np.testing.assert_allclose(minimize_blockwise_bilevel(plain, x0, y0, **options).x, arrays.x, atol=1e-9)

    def test_it_reaches_the_least_validation_loss(self):
        lower, upper = ridge_losses()
        # The lower problem in closed form, and a general minimiser on top of it.
        A, b = lower.__closure__[0].cell_contents.numpy(), lower.__closure__[1].cell_contents.numpy()

        def validation(x):
            weight, penalty, total = np.exp(x[DY]), np.diag(np.exp(x[:DY])), 0.1 * x @ x
            for rows, wanted in zip(A, b, strict=True):
                H = weight * rows[:20].T @ rows[:20] / 20 + penalty
                y = np.linalg.solve(H, weight * rows[:20].T @ wanted[:20] / 20)
                total += ((rows[20:] @ y - wanted[20:]) ** 2).mean() / 2 / M
            return total

        best = minimize(validation, np.zeros(DX)).fun
        found = minimize_blockwise_bilevel(
            BlockwiseBilevel.from_losses(lower, upper, 20), torch.zeros(DX).double(), torch.zeros(M, DY).double(),
            blocks_per_step=3, batch_size=8, upper_lr=0.05, beta=0.1, n_steps=800, random_state=0,
        )  # fmt: skip
        start = validation(np.zeros(DX))
        assert validation(found.x.numpy()) - best < 0.1 * (start - best)

    def test_float32_stays(self):
        problem = BlockwiseBilevel.from_losses(*ridge_losses(torch.float32), 20)
        found = minimize_blockwise_bilevel(problem, torch.zeros(DX), torch.zeros(M, DY), blocks_per_step=2, n_steps=5)
        assert found.x.dtype == found.lower_solution.dtype == torch.float32


def weighted(seed=0, n=60, k=30, d=4, m=5):
    rng = np.random.default_rng(seed)
    return WeightedLogistic(
        rng.normal(size=(n, d)), rng.choice([-1.0, 1.0], n), rng.normal(size=(k, d)), rng.choice([-1.0, 1.0], k),
        np.linspace(1, 3, m), 0.01,
    )  # fmt: skip


class TestWeightedLogistic:
    def test_derivatives_are_those_of_its_losses(self):
        data = weighted()
        X, y, X_upper, y_upper, sigma = (
            torch.as_tensor(each) for each in (data.X, data.y, data.X_upper, data.y_upper, data.temperatures)
        )

        def loss(rows, signs, w, block):
            return torch.nn.functional.softplus(-signs * (rows @ w) / sigma[block])

        reference = BlockwiseBilevel.from_losses(
            lambda p, w, i, j: (p[j].sigmoid() * loss(X[j], y[j], w, i)).mean() + 0.005 * (w * w).sum(),
            lambda p, w, i, j: loss(X_upper[j], y_upper[j], w, i).mean(),
            60,
        )
        rng = np.random.default_rng(1)
        p, w, v = rng.normal(size=60), rng.normal(size=(2, 5)), rng.normal(size=(2, 5))
        # One sample twice: its derivatives add up.
        blocks, batch = np.array([3, 1]), np.array([[0, 7, 7, 9], [9, 2, 3, 4]])
        tensors = [torch.as_tensor(each) for each in (p, w, v, blocks, batch)]
        dense, lazy = data.as_bilevel(samplewise=False), data.as_bilevel()
        without_v = [tensors[0], tensors[1], *tensors[3:]]
        expected = reference.lower_derivatives(*tensors)
        np.testing.assert_allclose(dense.lower_gradient(p, w, blocks, batch), expected[0])
        np.testing.assert_allclose(dense.lower_hessian_vector(p, w, v, blocks, batch), expected[1])
        np.testing.assert_allclose(dense.mixed_vector(p, w, v, blocks, batch), expected[2], atol=1e-15)
        np.testing.assert_allclose(dense.lower_hessian(p, w, blocks, batch), reference.lower_hessian(*without_v))
        np.testing.assert_allclose(
            dense.mixed_jacobian(p, w, blocks, batch), reference.mixed_jacobian(*without_v), atol=1e-15
        )
        np.testing.assert_allclose(
            dense.upper_gradients(p, w, blocks, batch)[1], reference.upper_gradients(*without_v)[1]
        )
        gradient, product, mixed = lazy.lower_derivatives(p, w, v, blocks, batch)
        np.testing.assert_allclose(gradient, expected[0])
        np.testing.assert_allclose(product, expected[1])
        np.testing.assert_allclose(np.bincount(batch.ravel(), mixed.ravel(), 60), expected[2], atol=1e-15)

    def test_loss_is_the_mean_over_members(self):
        data = weighted()
        w = np.random.default_rng(0).normal(size=(5, 5))
        total = [
            np.log1p(np.exp(-sign * (row @ each) / sigma))
            for each, sigma in zip(w, data.temperatures, strict=True)
            for row, sign in zip(data.X_upper, data.y_upper, strict=True)
        ]
        assert data.upper_loss(w) == pytest.approx(np.mean(total))

    @pytest.mark.parametrize("method", ["v1", "v2"])
    @pytest.mark.parametrize("decay", [1.0, 0.2])
    def test_numbers_of_samples_move_lazily_as_they_would_at_once(self, method, decay):
        data = weighted()
        paths = []
        options = {
            "blocks_per_step": 2,
            "batch_size": 3,
            "upper_lr": 5.0,
            "beta": 0.3,
            "n_steps": 50,
        }
        for samplewise in (True, False):
            found = minimize_blockwise_bilevel(
                data.as_bilevel(samplewise=samplewise), np.zeros(60), np.zeros((5, 5)), method=method,
                halfway_decay=decay, random_state=0, **options,
            )  # fmt: skip
            paths.append((found.x, found.lower_solution, found.gradient_estimate))
        for lazy, dense in zip(*paths, strict=True):
            np.testing.assert_allclose(lazy, dense, rtol=1e-9, atol=1e-13)

    def test_beta_of_one_forgets_at_once(self):
        data = weighted()
        options = {
            "blocks_per_step": 2,
            "batch_size": 3,
            "upper_lr": 5.0,
            "beta": 1.0,
            "n_steps": 20,
        }
        lazy, dense = (
            minimize_blockwise_bilevel(
                data.as_bilevel(samplewise=s), np.zeros(60), np.zeros((5, 5)), random_state=0, **options
            ).x
            for s in (True, False)
        )
        np.testing.assert_allclose(lazy, dense, rtol=1e-9, atol=1e-13)


class TestSolver:
    def run(self, **options):
        problem = options.pop("problem", None) or quadratics()[0]
        x0, y0 = options.pop("x0", np.ones(DX)), options.pop("y0", np.zeros((M, DY)))
        return minimize_blockwise_bilevel(
            problem, x0, y0, **{"blocks_per_step": 2, "batch_size": 2, "n_steps": 30, "random_state": 0, **options}
        )

    def test_the_same_seed_gives_the_same_path(self):
        np.testing.assert_array_equal(self.run().x, self.run().x)
        assert not np.array_equal(self.run().x, self.run(random_state=1).x)
        generator = np.random.default_rng(0)
        np.testing.assert_array_equal(self.run(random_state=generator).x, self.run().x)

    def test_history_counts_what_was_drawn(self):
        found = self.run(n_steps=25, record_every=10)
        np.testing.assert_array_equal(found.history["step"], [10, 20, 25])
        np.testing.assert_array_equal(found.history["n_samples"], [80, 160, 200])
        assert found.n_samples == 200
        assert np.all(np.diff(found.history["seconds"]) >= 0)
        assert found.nit == 25
        assert found.message == "all steps were made; convergence was not tested"

    def test_the_norm_of_the_history_is_that_of_the_estimate(self):
        found = self.run(n_steps=1)
        assert found.history["gradient_norm"][0] == pytest.approx(np.linalg.norm(found.gradient_estimate))

    def test_what_does_not_converge_says_so(self):
        with pytest.warns(ConvergenceWarning, match="after n_steps=30, above tol=1e-12"):
            found = self.run(tol=1e-12)
        assert not found.success
        assert found.status == 1

    def test_a_first_estimate_of_zero_is_no_reason_to_stop(self):
        # v starts at zero, and so does the estimate where the upper losses do not depend on x.
        found = minimize_blockwise_bilevel(
            weighted().as_bilevel(), np.zeros(60), np.zeros((5, 5)), blocks_per_step=2, n_steps=10, random_state=0
        )
        assert found.history["gradient_norm"][0] == 0
        assert found.nit == 10

    def test_callback_may_stop(self):
        seen = []

        def stop(result):
            seen.append((result.nit, result.n_samples))
            if result.nit == 3:
                raise StopIteration

        found = self.run(callback=stop)
        assert seen == [(1, 8), (2, 16), (3, 24)]
        assert (found.nit, found.status, found.success) == (3, 3, False)

    def test_each_block_may_have_its_own_step_size(self):
        np.testing.assert_allclose(self.run(lower_lr=np.full(M, 0.03)).x, self.run(lower_lr=0.03).x, rtol=1e-12)
        np.testing.assert_allclose(
            self.run(lower_lr=np.full(M, 0.03), method="v1").x, self.run(lower_lr=0.03, method="v1").x, rtol=1e-12
        )
        still = self.run(lower_lr=np.r_[1e-12, np.full(M - 1, 0.03)])
        assert abs(still.lower_solution[0]).max() < 1e-9 < abs(still.lower_solution[1]).max()
        assert not np.allclose(self.run(linear_lr=0.01).x, self.run().x)

    def test_too_long_steps_are_shortened_with_a_warning(self):
        with pytest.warns(UserWarning, match=r"lower_lr=0.5 is unstable: gamma times the lower curvature is"):
            self.run(blocks_per_step=1, lower_lr=0.5)

    def test_float32_stays(self):
        found = self.run(x0=np.ones(DX, dtype=np.float32), y0=np.zeros((M, DY), dtype=np.float32))
        assert found.x.dtype == found.lower_solution.dtype == np.float32

    def test_one_block_is_ordinary_bilevel_optimisation(self):
        problem = BlockwiseBilevel(
            lower_gradient=lambda x, y, blocks, batch: 2 * y - x,
            upper_gradients=lambda x, y, blocks, batch: (0 * x, y - 3),
            mixed_vector=lambda x, y, v, blocks, batch: -v.sum(0),
            n_samples=1,
            lower_hessian_vector=lambda x, y, v, blocks, batch: 2 * v,
        )
        found = self.run(
            problem=problem,
            x0=np.zeros(1),
            y0=np.zeros((1, 1)),
            blocks_per_step=1,
            upper_lr=0.1,
            lower_lr=0.3,
            n_steps=2000,
        )
        assert found.x[0] == pytest.approx(6.0)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"blocks_per_step": 7}, ValueError, "blocks_per_step must be at most the number of blocks, 6, got 7"),
            ({"blocks_per_step": 0}, ValueError, "blocks_per_step must be at least 1"),
            ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
            ({"method": "v3"}, ValueError, "method must be one of 'v1', 'v2', 'rsvrb'"),
            ({"alpha": 1.0}, ValueError, "alpha must be less than 1"),
            ({"beta": 0.0}, ValueError, "beta must be a finite number greater than 0"),
            ({"upper_lr": -1.0}, ValueError, "upper_lr must be"),
            ({"lower_lr": np.ones(3)}, ValueError, "lower_lr must be a positive number, or one for each of the 6"),
            ({"vector_bound": 0.0}, ValueError, "vector_bound must be"),
            ({"method": "v1", "hessian_floor": 0.0}, ValueError, "hessian_floor must be"),
            (
                {"method": "v1", "hessian_floor": 2.0, "hessian_bound": 1.0},
                ValueError,
                "hessian_bound must be at least",
            ),
            ({"x0": np.ones((2, 2))}, ValueError, r"x0 must have shape \(dx,\)"),
            ({"x0": np.array([np.nan] * 4)}, ValueError, "x0 contains NaN"),
            ({"y0": np.zeros((M, DY), dtype=int)}, TypeError, "y0"),
            ({"random_state": "today"}, TypeError, "random_state must be"),
            ({"n_steps": 0}, ValueError, "n_steps must be at least 1"),
        ],
    )
    def test_bad_input(self, options, error, message):
        with pytest.raises(error, match=message):
            self.run(**options)

    def test_a_problem_must_have_what_the_method_needs(self):
        fields = {name: getattr(quadratics()[0], name) for name in BlockwiseBilevel.__dataclass_fields__}
        without = BlockwiseBilevel(**{**fields, "lower_hessian_vector": None})
        with pytest.raises(ValueError, match="problem lacks lower_hessian_vector, which method='v2' needs"):
            self.run(problem=without)
        self.run(problem=without, method="v1")
        with pytest.raises(ValueError, match="problem lacks lower_gradient, upper_gradients"):
            self.run(problem=object())
        with pytest.raises(ValueError, match="n_samples must be at least 1"):
            BlockwiseBilevel(**{**fields, "n_samples": 0})
        with pytest.raises(ValueError, match="a samplewise problem takes arrays"):
            self.run(problem=weighted().as_bilevel(), x0=np.zeros(60), y0=np.zeros((5, 5)), method="rsvrb")

    @pytest.mark.parametrize("method", ["v1", "v2", "rsvrb"])
    @pytest.mark.parametrize("name", ["lower_gradient", "upper_gradients"])
    def test_not_a_number_is_named_with_its_step(self, method, name):
        problem = quadratics()[0]
        calls = []

        def broken(x, y, blocks, batch):
            calls.append(0)
            found = getattr(problem, name)(x, y, blocks, batch)
            if len(calls) > 12:
                found = (found[0], found[1] * np.nan) if name == "upper_gradients" else found * np.nan
            return found

        fields = {each: getattr(problem, each) for each in BlockwiseBilevel.__dataclass_fields__}
        with pytest.raises(FloatingPointError, match=f"{name} returned NaN or infinity at step [56]"):
            self.run(problem=BlockwiseBilevel(**{**fields, name: broken}), method=method)

    def test_divergence_is_named(self):
        with pytest.raises(FloatingPointError, match=r"diverged at step \d+: the norm of"):
            self.run(upper_lr=50.0, n_steps=500)


class TestEnsemble:
    def noisy(self, seed=0):
        X, y = load_breast_cancer(return_X_y=True)
        X = (X - X.mean(0)) / X.std(0)
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(y))
        X, y = X[order], y[order]
        wrong = rng.random(300) < 0.2
        return X, y, np.where(wrong, 1 - y[:300], y[:300]), wrong

    @pytest.mark.parametrize(("method", "steps"), [("v2", 1500), ("v1", 300), ("rsvrb", 100)])
    def test_wrong_labels_lose_their_weight(self, method, steps):
        X, y, noisy, wrong = self.noisy()
        model = ImportanceWeightedEnsemble(8, method=method, n_steps=steps, blocks_per_step=4, random_state=0)
        model.fit(X[:300], noisy, X[300:400], y[300:400])
        assert roc_auc_score(wrong, -model.sample_weight_) > {"v1": 0.85, "v2": 0.9, "rsvrb": 0.6}[method]
        if method == "v2":
            plain = LogisticRegression(max_iter=1000).fit(X[:300], noisy)
            assert model.score(X[400:], y[400:]) >= plain.score(X[400:], y[400:]) + 0.01
            assert model.n_iter_ == 1500
            assert model.coef_.shape == (8, 30)
            probabilities = model.predict_proba(X[400:])
            np.testing.assert_allclose(probabilities.sum(1), 1)
            by_hand = 1 / (1 + np.exp(-(X[400:] @ model.coef_.T + model.intercept_)))
            np.testing.assert_allclose(probabilities[:, 1], by_hand.mean(1))

    def test_without_a_validation_set_some_samples_are_held_out(self):
        X, y, *_ = self.noisy()
        names = np.array(["no", "yes"])[y]
        model = ImportanceWeightedEnsemble(3, n_steps=200, validation_fraction=0.25, random_state=0).fit(X, names)
        assert np.isnan(model.sample_weight_).sum() == np.ceil(0.25 * len(y))
        assert model.score(X, names) > 0.9
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict(X), model.predict(X))

    def test_temperatures(self):
        X, y, *_ = self.noisy()
        model = ImportanceWeightedEnsemble(4, n_steps=20, random_state=0).fit(X, y)
        np.testing.assert_allclose(model.temperatures_, [1, 1 + 10 / 3, 1 + 20 / 3, 11])
        model = ImportanceWeightedEnsemble(temperatures=[2.0, 3.0], n_steps=20, random_state=0).fit(X, y)
        assert model.coef_.shape[0] == 2

    def test_one_temperature_is_a_matter_of_scale(self):
        # Without a penalty, and with step sizes by curvature, weights over temperature take the same path.
        X, y, *_ = self.noisy()
        options = {"regularization": 0.0, "vector_bound": 1e9, "n_steps": 50, "random_state": 0}
        one, ten = (ImportanceWeightedEnsemble(temperatures=[s], **options).fit(X, y) for s in (1.0, 10.0))
        np.testing.assert_allclose(one.coef_, ten.coef_, rtol=1e-6)
        np.testing.assert_allclose(one.intercept_, ten.intercept_, rtol=1e-6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"temperatures": [1.0, -1.0]}, "temperatures must be positive numbers"),
            ({"validation_fraction": 1.0}, "validation_fraction must be less than 1"),
            ({"regularization": -1.0}, "regularization must be"),
            ({"n_steps": 0}, "n_steps must be at least 1"),
            ({"n_temperatures": 0}, "n_temperatures must be at least 1"),
        ],
    )
    def test_bad_parameters(self, options, message):
        X, y, *_ = self.noisy()
        with pytest.raises(ValueError, match=message):
            ImportanceWeightedEnsemble(**options).fit(X, y)

    def test_bad_validation_sets(self):
        X, y, *_ = self.noisy()
        model = ImportanceWeightedEnsemble(3, n_steps=20)
        with pytest.raises(ValueError, match="X_validation and y_validation must be given together"):
            model.fit(X, y, X_validation=X)
        with pytest.raises(ValueError, match="X_validation must have 30 features, got 3"):
            model.fit(X, y, X[:, :3], y)
        with pytest.raises(ValueError, match="y_validation holds 2, which is none of"):
            model.fit(X, y, X, y + 1)
        with pytest.raises(ValueError, match="y must hold two classes, got 3"):
            model.fit(X, np.arange(len(y)) % 3)
