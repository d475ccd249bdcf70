"""Tests of the matrix-free inverse Fisher matrix, its optimiser and its pruner."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

from paperworks._files import InputError
from paperworks.optimization import (
    InverseFisher,
    MatrixFreeFisherOptimizer,
    SlidingInverseFisher,
    collect_gradients,
    inverse_fisher_compensation,
    inverse_fisher_recursion,
    inverse_fisher_saliency,
    keep_zeros,
    prune_with_inverse_fisher,
)
from paperworks.optimization.matrix_free_fisher._factor import damped_cholesky
from paperworks.papers.matrix_free_fisher.run import run

F64 = torch.float64


def gradients(m=6, d=11, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=(m, d))


def fisher(G, damping, block_size=None, m=None):
    """The matrix itself, with zeros outside its blocks."""
    G = np.asarray(G)
    F = damping * np.eye(G.shape[1])
    for g in G:
        F += np.outer(g, g) / (m or len(G))
    block = np.arange(G.shape[1]) // (block_size or G.shape[1])
    return np.where(block[:, None] == block, F, 0.0)


def close(a, b, tolerance=1e-9):
    a, b = np.asarray(a), np.asarray(b)
    return np.abs(a - b).max() <= tolerance * max(1e-300, np.abs(b).max())


# --- the static algorithm ---

SHAPES = [
    (1, 1, None), (1, 5, None), (6, 11, None), (70, 150, None), (150, 70, None), (40, 300, 64), (100, 300, 64),
    (5, 11, 3), (5, 12, 4), (5, 11, 1), (5, 11, 40), (130, 200, 150),
]  # fmt: skip


@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize(("m", "d", "block_size"), SHAPES)
def test_static_is_the_dense_inverse(m, d, block_size, pages):
    G = gradients(m, d)
    dense = np.linalg.inv(fisher(G, 1e-2, block_size))
    inverse = InverseFisher(G, 1e-2, block_size, pages)
    x = np.random.default_rng(1).normal(size=(3, d))
    assert close(inverse.multiply(x), x @ dense)
    assert close(inverse.multiply(x[0]), dense @ x[0])
    assert close(inverse.diagonal(), np.diag(dense))
    for i, j in {(0, 0), (0, d - 1), (d - 1, d - 1), (d // 2, d // 3)}:
        assert inverse.element(i, j) == pytest.approx(dense[i, j], abs=1e-9 * abs(dense).max())
        assert close(inverse.column(i), dense[i])
    assert inverse.n_bytes == 8 * d * min(m, block_size or d, d)


def test_slices_of_the_cache_change_nothing(monkeypatch):
    G, x = gradients(5, 50), gradients(1, 50, seed=1)[0]
    whole, blocks = InverseFisher(G, 0.1), InverseFisher(G, 0.1, block_size=7)
    for name in ("paperworks.optimization.matrix_free_fisher._static.SCRATCH",):
        monkeypatch.setattr(name, {"cpu": 70})
    assert close(InverseFisher(G, 0.1).multiply(x), whole.multiply(x), 1e-12)
    assert close(InverseFisher(G, 0.1, block_size=7).multiply(x), blocks.multiply(x), 1e-12)
    assert close(InverseFisher(G, 0.1).diagonal(), whole.diagonal(), 1e-12)


def test_recursion_is_the_dense_inverse_and_makes_the_same_factors():
    G, damping = gradients(), 0.3
    v, q = inverse_fisher_recursion(G, damping)
    assert close(np.eye(11) / damping - (v.T / q) @ v, np.linalg.inv(fisher(G, damping)))
    # v_i is the product of g_i with the inverse of what came before, which is divided by m all the same.
    for i in range(6):
        before = fisher(G[:i], damping, m=6)
        assert close(v[i], np.linalg.solve(before, G[i]))
        assert q[i] == pytest.approx(6 + G[i] @ v[i])
    W = InverseFisher(G, damping)._W.numpy()
    np.testing.assert_allclose(W, v * np.sqrt(damping / q)[:, None], rtol=1e-9, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 9), st.integers(1, 10), st.floats(1e-4, 10), st.integers(0, 10**6))
def test_static_solves_the_system(m, d, block_size, damping, seed):
    G = gradients(m, d, seed)
    x = np.random.default_rng(seed).normal(size=d)
    inverse = InverseFisher(G, damping, block_size)
    assert close(fisher(G, damping, block_size) @ inverse.multiply(x), x, 1e-8)
    # The order of the gradients does not matter, and the inverse is symmetric.
    assert close(InverseFisher(G[::-1].copy(), damping, block_size).multiply(x), inverse.multiply(x), 1e-8)
    i, j = seed % d, seed // 7 % d
    assert inverse.element(i, j) == pytest.approx(inverse.element(j, i))


def test_repeated_and_zero_gradients_are_legal():
    G = np.concatenate([np.zeros((2, 4)), np.ones((3, 4))])
    assert close(InverseFisher(G, 1e-5).multiply(np.arange(4.0)), np.linalg.solve(fisher(G, 1e-5), np.arange(4.0)))
    assert close(InverseFisher(G, 1e-5, 2).diagonal(), np.diag(np.linalg.inv(fisher(G, 1e-5, 2))))
    assert close(InverseFisher(np.zeros((2, 3)), 0.5).multiply(np.ones(3)), np.full(3, 2.0))


def test_gradients_are_overwritten_only_when_that_is_allowed():
    for m, block_size in ((6, None), (6, 4), (6, 100), (150, None)):
        d = 11 if m == 6 else 170
        G = gradients(m, d)
        before, inverse = G.copy(), InverseFisher(G, 0.1, block_size)
        np.testing.assert_array_equal(G, before)
        x = np.ones(d)
        taken = InverseFisher(G, 0.1, block_size, overwrite_gradients=True)
        assert taken._W.numpy().base is not None
        assert np.shares_memory(taken._W.numpy(), G)
        np.testing.assert_array_equal(taken.multiply(x), inverse.multiply(x))


def test_products_leave_the_inverse_alone():
    inverse = InverseFisher(gradients(), 0.1)
    first = inverse.multiply(np.ones(11))
    inverse.diagonal(), inverse.column(3), inverse.element(1, 2)
    np.testing.assert_array_equal(inverse.multiply(np.ones(11)), first)


@pytest.mark.parametrize("block_size", [None, 32])
def test_static_in_single_precision(block_size):
    G = gradients(40, 200, scale=0.05)
    dense = np.linalg.inv(fisher(G, 1e-3, block_size))
    inverse = InverseFisher(G.astype(np.float32), 1e-3, block_size)
    assert inverse.diagonal().dtype == np.float32
    assert close(inverse.diagonal(), np.diag(dense), 1e-4)
    x = np.ones(200, dtype=np.float32)
    assert inverse.multiply(x).dtype == np.float32
    assert close(inverse.multiply(x), dense @ x, 1e-4)
    half = InverseFisher(torch.from_numpy(G).to(torch.bfloat16), 1e-3, block_size)
    rounded = torch.from_numpy(G).to(torch.bfloat16).double().numpy()
    assert half.diagonal().dtype == torch.float32
    assert close(half.diagonal(), np.diag(np.linalg.inv(fisher(rounded, 1e-3, block_size))), 1e-4)


def test_diagonal_lost_in_rounding_is_positive_and_said():
    G = np.eye(3, dtype=np.float32) * 1e4
    with pytest.warns(RuntimeWarning, match="3 of 3 diagonal elements of the inverse are lost in rounding"):
        diagonal = InverseFisher(G, 1e-5).diagonal()
    assert (diagonal > 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert close(InverseFisher(G.astype(float), 1e-2).diagonal(), 1 / (1e-2 + np.full(3, 1e8 / 3)), 1e-3)


def test_ridge_grows_where_a_matrix_is_indefinite():
    gram = torch.tensor([[1.0, 1.0 + 1e-6], [1.0 + 1e-6, 1.0]], dtype=F64)
    with pytest.warns(RuntimeWarning, match="damping is too small"):
        L = damped_cholesky(gram, 1e-12)
    assert torch.allclose(L @ L.T, gram, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: InverseFisher(np.ones(3)), ValueError, "gradients must have 2 dimensions"),
        (lambda: InverseFisher(np.ones((2, 3), dtype=int)), TypeError, "gradients must hold floating-point"),
        (lambda: InverseFisher(np.full((2, 3), np.nan)), ValueError, "gradients contains NaN"),
        (lambda: InverseFisher(np.ones((0, 3))), ValueError, "gradients is empty"),
        (lambda: InverseFisher(np.ones((2, 3)), 0.0), ValueError, "damping must be a finite number greater than 0"),
        (lambda: InverseFisher(np.ones((2, 3)), block_size=0), ValueError, "block_size must be at least 1"),
        (lambda: InverseFisher(np.ones((2, 3)), pages=0), ValueError, "pages must be at least 1"),
        (lambda: InverseFisher(np.ones((2, 3))).multiply(np.ones(4)), ValueError, "x must have 3 numbers in its last"),
        (lambda: InverseFisher(np.ones((2, 3))).multiply(np.array([0, np.inf, 0])), ValueError, "x contains NaN"),
        (lambda: InverseFisher(np.ones((2, 3))).element(0, 3), IndexError, "j must be from 0 to 2, got 3"),
        (lambda: InverseFisher(np.ones((2, 3))).column(-1), IndexError, "i must be from 0 to 2, got -1"),
        (lambda: SlidingInverseFisher(0, 3), ValueError, "n_gradients must be at least 1"),
        (lambda: SlidingInverseFisher(2, 3, dtype=torch.int32), TypeError, "dtype must be a floating-point"),
        (lambda: SlidingInverseFisher(2, 3, device=[]), ValueError, "device must name at least one"),
        (lambda: SlidingInverseFisher(2, 3).update(np.ones(4)), ValueError, "g must have 3 numbers"),
        (lambda: SlidingInverseFisher(2, 3).update(np.ones((1, 3))), ValueError, "g must have 1 dimension"),
        (lambda: SlidingInverseFisher(2, 3).multiply(torch.ones(3, dtype=int)), TypeError, "x must hold floating"),
        (lambda: SlidingInverseFisher(2, 3).remove_oldest(), IndexError, "no gradient that could be removed"),
        (lambda: SlidingInverseFisher(1024, 10**12), MemoryError, r"1024 gradients of 1,000,000,000,000 numbers"),
    ],
)
def test_errors_of_the_inverses(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_memory_is_refused_with_what_it_takes_and_what_there_is(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 100}))
    with pytest.raises(MemoryError, match=r"6 rows of 11 numbers take 0\.00 GiB, but cpu has 0\.00 GiB free: take few"):
        InverseFisher(gradients())
    InverseFisher(gradients(), overwrite_gradients=True)
    with pytest.raises(MemoryError, match=r"keep fewer gradients, in torch\.bfloat16, or on several devices"):
        SlidingInverseFisher(8, 8)


# --- the dynamic algorithm ---


def by_the_authors_coefficients(G, x, damping):
    """The product as the paper computes it: an upper triangle D, and a lower one of coefficients B."""
    m, S = len(G), G @ G.T
    D = S / damping + m * np.eye(m)
    for k in range(m):  # elimination without pivoting
        for i in range(k + 1, m):
            D[i] -= D[i, k] / D[k, k] * D[k]
    D = np.triu(D - m * np.eye(m))
    q = m + np.diag(D)
    B = np.eye(m) / damping
    for i in range(1, m):
        B[i, :i] = -(D[:i, i] / q[:i]) @ B[:i, :i]
    c = G @ x / damping
    for i in range(1, m):
        c[i:] -= D[i - 1, i:] * c[i - 1] / q[i - 1]
    return x / damping - (c / q) @ B @ G


def test_dynamic_is_the_dense_inverse_of_the_last_gradients():
    m, d, damping = 8, 13, 1e-2
    G, x = gradients(3 * m + 3, d), gradients(2, d, seed=1)
    inverse = SlidingInverseFisher(m, d, damping, dtype=F64)
    assert close(inverse.multiply(x), x / damping)
    for t, g in enumerate(G):
        product = inverse.update_multiply(g)
        last = G[max(0, t + 1 - m) : t + 1]
        dense = np.linalg.inv(fisher(last, damping, m=m))
        assert close(product, dense @ g)
        assert close(inverse.multiply(x), x @ dense)
        assert close(inverse.multiply(g), dense @ g)
        assert close(inverse.gradients, last, 0)
        assert inverse.n_stored == len(last)
    assert close(inverse.multiply(x[0]), by_the_authors_coefficients(last, x[0], damping))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["update", "multiply", "remove"]), max_size=25), st.integers(1, 4))
def test_any_order_of_updates_and_removals(actions, m):
    d, damping, window = 5, 0.1, []
    inverse = SlidingInverseFisher(m, d, damping, dtype=F64)
    for k, action in enumerate(actions):
        g = gradients(1, d, seed=k)[0]
        if action == "remove":
            if not window:
                continue
            inverse.remove_oldest()
            window.pop(0)
        else:
            window = [*window, g][-m:]
            if action == "update":
                inverse.update(g)
            else:
                product = inverse.update_multiply(g)
                assert close(product, np.linalg.solve(fisher(window, damping, m=m), g))
        x = np.ones(d)
        dense = fisher(np.reshape(window, (-1, d)), damping, m=m)
        assert close(inverse.multiply(x), np.linalg.solve(dense, x))
        assert inverse.n_stored == len(window)


def test_window_on_several_devices_is_one_window():
    one = SlidingInverseFisher(4, 7, 0.1, F64)
    three = SlidingInverseFisher(4, 7, 0.1, F64, device=["cpu", torch.device("cpu"), "cpu"])
    assert [part.shape[1] for part in three._parts] == [3, 3, 1]
    assert len(SlidingInverseFisher(2, 2, device=["cpu"] * 5)._parts) == 2
    for g in gradients(6, 7):
        assert close(three.update_multiply(g), one.update_multiply(g), 1e-12)
    assert close(three.multiply(np.ones((2, 7))), one.multiply(np.ones((2, 7))), 1e-12)
    assert torch.equal(three.gradients, one.gradients)
    copied = SlidingInverseFisher(4, 7, 0.1, F64, device=["cpu", "cpu"])
    copied.load_state_dict(three.state_dict())
    assert close(copied.update_multiply(np.ones(7)), one.update_multiply(np.ones(7)), 1e-12)
    with pytest.raises(ValueError, match=r"state holds a window of shape \(4, 7\), this one has \(4, 8\)"):
        SlidingInverseFisher(4, 8).load_state_dict(three.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_own_gradient_survives_single_precision(dtype):
    # The product with a gradient of the window is 10^5 times smaller than the vectors that it is a difference of.
    m, d, damping = 6, 400, 1e-7
    G = torch.from_numpy(gradients(2 * m, d)).to(dtype)
    inverse = SlidingInverseFisher(m, d, damping, dtype)
    for g in G:
        product = inverse.update_multiply(g.float())
    last = G[-m:].double().numpy()
    dense = np.linalg.solve(fisher(last, damping), last[-1])
    assert close(product, dense, 1e-5)
    assert product.dtype == torch.float32


def test_gradients_count_as_they_are_kept():
    # Rounded on the way into the window, they must not be multiplied as they came.
    inverse = SlidingInverseFisher(3, 50, 0.01, torch.bfloat16)
    G = gradients(4, 50)
    for g in G:
        product = inverse.update_multiply(g)
    kept = torch.from_numpy(G[1:]).to(torch.bfloat16).double().numpy()
    assert close(product, np.linalg.solve(fisher(kept, 0.01), kept[-1]), 1e-5)
    before = inverse._S.clone()
    inverse.refresh()
    assert torch.allclose(inverse._S, before, rtol=1e-12)


def test_sums_of_products_do_not_drift():
    inverse = SlidingInverseFisher(5, 300, dtype=torch.float32)
    rng = np.random.default_rng(0)
    for _ in range(1003):
        inverse.update(rng.normal(size=300).astype(np.float32))
    before = inverse._S.clone()
    inverse.refresh()
    assert torch.allclose(inverse._S, before, rtol=1e-13, atol=1e-11)
    exact = inverse._parts[0].double()
    assert torch.allclose(before, exact @ exact.T, rtol=1e-13, atol=1e-11)


def test_bad_gradient_leaves_the_window_as_it_was():
    inverse = SlidingInverseFisher(2, 3, dtype=torch.float16)
    inverse.update(np.ones(3))
    before = inverse.multiply(np.arange(3.0))
    with pytest.raises(ValueError, match=r"g contains NaN or infinity, first at index \(1,\)"):
        inverse.update_multiply(np.array([1.0, np.nan, 1.0]))
    with pytest.raises(FloatingPointError, match=r"overflow in torch\.float16"):
        inverse.update_multiply(np.array([1.0, 1e6, 1.0]))
    np.testing.assert_array_equal(inverse.multiply(np.arange(3.0)), before)
    assert inverse.n_stored == 1
    assert not inverse.update_multiply(np.zeros(3)).any()


# --- the optimiser ---


def dense_steps(start, grads, lr, damping, m, momentum=0.0, weight_decay=0.0):
    """The optimiser with a matrix."""
    theta, v, window = np.array(start), np.zeros(len(start)), []
    for grad in grads:
        g = grad + weight_decay * theta
        window = [*window, g][-m:]
        update = np.linalg.solve(fisher(window, damping, m=m), g)
        if momentum:
            update = v = momentum * v + (1 - momentum) * update
        theta = theta - lr * update
    return theta


def set_gradients(parameters, flat):
    start = 0
    for each in parameters:
        each.grad = torch.from_numpy(flat[start : start + each.numel()]).reshape(each.shape).to(each)
        start += each.numel()


@pytest.mark.parametrize("options", [{}, {"momentum": 0.8}, {"weight_decay": 0.3, "momentum": 0.5}])
def test_optimizer_takes_the_steps_of_the_dense_one(options):
    parameters = [torch.full((2, 3), 0.5, dtype=F64, requires_grad=True), torch.ones(4, dtype=F64, requires_grad=True)]
    start = torch.cat([each.detach().reshape(-1) for each in parameters]).numpy()
    optimizer = MatrixFreeFisherOptimizer(parameters, lr=0.01, n_gradients=3, damping=0.1, **options)
    grads = gradients(8, 10)
    for grad in grads:
        set_gradients(parameters, grad)
        optimizer.step()
    expected = dense_steps(start, grads, 0.01, 0.1, 3, **options)
    assert close(torch.cat([each.detach().reshape(-1) for each in parameters]), expected, 1e-10)
    assert optimizer.n_steps == 8


def test_groups_have_their_own_rates_and_one_window():
    a, b = (torch.zeros(3, dtype=F64, requires_grad=True) for _ in range(2))
    c = torch.zeros(2, dtype=torch.float32, requires_grad=True)
    groups = [{"params": [a], "lr": 0.1}, {"params": [b, c], "lr": 0.3}]
    optimizer = MatrixFreeFisherOptimizer(groups, n_gradients=4, damping=0.2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    assert optimizer.window.compute_dtype == F64
    g = np.arange(1.0, 9.0)
    set_gradients([a, b, c], g)
    optimizer.step()
    schedule.step()
    update = np.linalg.solve(fisher(g[None], 0.2, m=4), g)
    assert close(a.detach(), -0.1 * update[:3])
    assert close(b.detach(), -0.3 * update[3:6])
    assert close(c.detach(), -0.3 * update[6:], 1e-6)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.15]


def test_missing_gradients_count_as_zeros():
    a, b = torch.ones(2, dtype=F64, requires_grad=True), torch.ones(3, dtype=F64, requires_grad=True)
    optimizer = MatrixFreeFisherOptimizer([a, b], lr=0.1, n_gradients=3, damping=0.5, weight_decay=0.1)
    optimizer.step()
    assert optimizer.n_steps == 0
    b.grad = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    optimizer.step()
    assert torch.equal(a, torch.ones(2, dtype=F64))
    assert close(optimizer.window.gradients[0], [0, 0, 1.1, 2.1, 3.1])
    a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
    optimizer.param_groups[0]["weight_decay"] = 0.0
    before = b.detach().clone()
    optimizer.step()
    assert torch.equal(b, before)


def test_warmup_fills_the_window_and_changes_nothing():
    x = torch.ones(3, dtype=F64, requires_grad=True)
    optimizer = MatrixFreeFisherOptimizer([x], lr=0.1, n_gradients=2, damping=0.5, warmup=2)
    G = gradients(3, 3)
    for k, g in enumerate(G):
        assert torch.equal(x, torch.ones(3, dtype=F64))
        set_gradients([x], g)
        optimizer.step()
        assert optimizer.window.n_stored == min(k + 1, 2)
    assert close(x.detach(), 1 - 0.1 * np.linalg.solve(fisher(G[1:], 0.5), G[2]))


def test_closure_is_called_with_gradients_on():
    x = torch.ones(3, dtype=F64, requires_grad=True)
    optimizer = MatrixFreeFisherOptimizer([x], lr=0.5, n_gradients=4)

    def closure():
        optimizer.zero_grad()
        loss = (x**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0
    assert closure().item() < 3.0


def test_sparse_keeps_zeros_and_leaves_them_out_of_the_window():
    x = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 3.0]], dtype=F64, requires_grad=True)
    optimizer = MatrixFreeFisherOptimizer([x], lr=0.1, n_gradients=3, damping=0.3, sparse=True, momentum=0.5)
    assert optimizer.window.dimension == 3
    kept, grads = [1, 3, 5], gradients(5, 6)
    for grad in grads:
        set_gradients([x], grad)
        optimizer.step()
    expected = dense_steps([1.0, 2.0, 3.0], grads[:, kept], 0.1, 0.3, 3, momentum=0.5)
    assert close(x.detach().reshape(-1)[kept], expected, 1e-10)
    assert torch.equal(x.detach().reshape(-1)[[0, 2, 4]], torch.zeros(3, dtype=F64))
    with pytest.raises(ValueError, match="sparse=True keeps parameters that are zero at zero, and all of them are"):
        MatrixFreeFisherOptimizer([torch.zeros(3, requires_grad=True)], sparse=True)


@pytest.mark.parametrize("way", ["state_dict", "saved", "deepcopy", "pickle"])
def test_another_optimizer_goes_on_the_same(way, tmp_path):
    def made():
        x = torch.arange(4.0, requires_grad=True)
        return x, MatrixFreeFisherOptimizer([x], n_gradients=3, momentum=0.9, sparse=True, window_device=["cpu", "cpu"])

    def steps(x, optimizer, grads):
        for grad in grads:
            set_gradients([x], grad)
            optimizer.step()
        return x.detach().clone()

    grads = gradients(7, 4)
    whole = steps(*made(), grads)
    x, optimizer = made()
    steps(x, optimizer, grads[:4])
    if way == "deepcopy":
        x, optimizer = copy.deepcopy((x, optimizer))
    elif way == "pickle":
        x, optimizer = pickle.loads(pickle.dumps((x, optimizer)))
    else:
        state = optimizer.state_dict()
        if way == "saved":
            torch.save(state, tmp_path / "state.pt")
            state = torch.load(tmp_path / "state.pt", weights_only=True)
        y, other = made()
        y.data.copy_(x)
        other.load_state_dict(state)
        # The window is a copy: the first one may go on by itself.
        steps(x, optimizer, grads[:2])
        x, optimizer = y, other
    assert torch.allclose(steps(x, optimizer, grads[4:]), whole, rtol=1e-6)
    assert optimizer.n_steps == 7
    with pytest.raises(ValueError, match="state_dict lacks kept, n_steps, window"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})


def test_bad_gradients_are_named_and_change_nothing():
    a, b = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = MatrixFreeFisherOptimizer([{"params": [a]}, {"params": [b]}], n_gradients=2)
    set_gradients([a, b], np.ones(5))
    optimizer.step()
    before = (a.detach().clone(), b.detach().clone())
    b.grad[1] = math.nan
    with pytest.raises(FloatingPointError, match="gradient of parameter 0 of group 1 is NaN or infinite at step 2"):
        optimizer.step()
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])
    assert optimizer.window.n_stored == 1
    b.grad = b.detach().to_sparse()
    with pytest.raises(TypeError, match="gradients must be dense, that of parameter 0 of group 1 is sparse"):
        optimizer.step()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -1.0}, ValueError, "lr must be a finite number at least 0"),
        ({"lr": "fast"}, TypeError, "lr must be a number"),
        ({"momentum": 1.0}, ValueError, "momentum must be less than 1"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be a finite number"),
        ({"n_gradients": 0}, ValueError, "n_gradients must be at least 1"),
        ({"damping": 0.0}, ValueError, "damping must be a finite number greater than 0"),
        ({"sparse": 1}, TypeError, "sparse must be True or False"),
        ({"warmup": -1}, ValueError, "warmup must be at least 0"),
        ({"n_gradients": 10**15}, MemoryError, "keep fewer gradients"),
        ({"window_dtype": torch.int8}, TypeError, "dtype must be a floating-point"),
    ],
)
def test_errors_of_the_optimizer(options, error, message):
    with pytest.raises(error, match=message):
        MatrixFreeFisherOptimizer([torch.ones(3, requires_grad=True)], **options)


def test_parameters_can_not_be_added_later():
    optimizer = MatrixFreeFisherOptimizer([torch.ones(3, requires_grad=True)], n_gradients=2)
    with pytest.raises(RuntimeError, match="make a new optimizer"):
        optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)]})


# --- gradients ---


def network(seed=0, n_inputs=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(n_inputs, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.5), nn.Linear(7, 3))


def batch_losses(module, n=4, size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, size, 5, generator=generator), torch.randint(3, (n, size), generator=generator)
    return [lambda k=k: nn.functional.cross_entropy(module(x[k]), y[k]) for k in range(n)], x, y


def test_gradients_are_those_of_autograd_in_evaluation_mode():
    module = network()
    losses, _, _ = batch_losses(module)
    module[4].eval()
    before = copy.deepcopy(module.state_dict())
    G = collect_gradients(module, losses, n_gradients=6, progress=False)
    assert G.shape == (6, 5 * 7 + 7 * 3)
    assert [part.training for part in module] == [True, True, True, True, False]
    assert all(torch.equal(module.state_dict()[key], value) for key, value in before.items())
    assert all(each.grad is None for each in module.parameters())
    module.eval()
    for k, row in enumerate(G):
        module.zero_grad()
        losses[k % 4]().backward()
        assert torch.allclose(row, torch.cat([module[0].weight.grad.reshape(-1), module[4].weight.grad.reshape(-1)]))


def test_gradients_of_samples_are_those_of_batches_of_one():
    module = network()
    _, x, y = batch_losses(module, n=1)
    loss = nn.functional.cross_entropy
    rows = collect_gradients(module, [(loss, x[0], y[0])], n_gradients=8, progress=False)
    single = [lambda k=k: loss(module(x[0, k : k + 1]), y[0, k : k + 1]) for k in range(6)]
    assert torch.allclose(rows, collect_gradients(module, single, n_gradients=8, progress=False), atol=1e-6)


def test_layers_and_columns_are_chosen():
    module = network()
    losses, _, _ = batch_losses(module)
    whole = collect_gradients(module, losses, 4, progress=False)
    last = collect_gradients(module, losses, 4, layers=["4"], progress=False)
    assert torch.equal(last, whole[:, 35:])
    assert collect_gradients(module, losses, 4, layers=["4.weight", "0.bias"], progress=False).shape == (4, 28)
    kept = torch.arange(56) % 3 == 0
    assert torch.equal(collect_gradients(module, losses, 4, kept=kept, progress=False), whole[:, kept])


def test_norms_and_embeddings_are_not_meant_unless_named():
    module = nn.Sequential(nn.Embedding(4, 3), nn.LayerNorm((2, 3)), nn.Flatten(), nn.Linear(6, 2))
    tokens = torch.tensor([[0, 1], [2, 3]])
    losses = [lambda: module(tokens).square().mean()]
    assert collect_gradients(module, losses, 1, progress=False).shape == (1, 12)
    assert collect_gradients(module, losses, 1, layers=["0", "1.weight"], progress=False).shape == (1, 18)
    _, report = prune_with_inverse_fisher(module, losses, 0.5, n_gradients=2, progress=False)
    assert list(report.sparsity_per_layer) == ["3.weight"]


@pytest.mark.parametrize(
    ("loss_batches", "options", "error", "message"),
    [
        ([], {}, ValueError, "loss_batches is empty"),
        (lambda: 1, {}, TypeError, "loss_batches must be a list"),
        ([3], {}, TypeError, r"loss_batches\[0\] must be callable or \(loss, inputs, targets\), got int"),
        ([lambda: 1.0], {}, TypeError, r"loss_batches\[0\] must return a tensor, got float"),
        ([lambda: torch.ones(2)], {}, ValueError, r"must return one number, the mean loss, got shape \(2,\)"),
        ([lambda: torch.ones(())], {}, ValueError, "must depend on the weights"),
        (None, {"n_gradients": 0}, ValueError, "n_gradients must be at least 1"),
        (None, {"layers": ["9"]}, ValueError, "layers names '9'; there are 0, 0.bias"),
        (None, {"layers": "0"}, TypeError, "layers must be a sequence of names"),
        (None, {"layers": ["2"]}, ValueError, "module has no weights of two axes or more in layers"),
        (None, {"kept": torch.ones(3, dtype=torch.bool)}, ValueError, r"kept must be bool of shape \(56,\)"),
        ([(nn.functional.mse_loss, torch.ones(2, 5), torch.ones(3))], {}, ValueError, "as many inputs as targets"),
    ],
)
def test_errors_of_gradients(loss_batches, options, error, message):
    module = network()
    batches = batch_losses(module)[0] if loss_batches is None else loss_batches
    with pytest.raises(error, match=message):
        collect_gradients(module, batches, **options)
    assert module.training


def test_nan_gradients_name_the_batch():
    module = network()
    losses, x, _ = batch_losses(module)
    bad = [*losses, lambda: module(x[0]).sum() * math.nan]
    with pytest.raises(FloatingPointError, match=r"gradient of loss_batches\[4\] is NaN or infinite, its loss is nan"):
        collect_gradients(module, bad, 6)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(FloatingPointError, match=r"loss_batches\[4\]"):
        prune_with_inverse_fisher(module, bad, 0.5, n_gradients=6)
    assert all(torch.equal(module.state_dict()[key], value) for key, value in before.items())


# --- scores and pruning ---


def test_scores_and_compensation_solve_the_problem_of_one_removal():
    # Of all changes that remove weight i, the one that raises the quadratic form least, by Lagrange's equations.
    G, damping, w = gradients(), 0.1, np.random.default_rng(2).normal(size=11)
    F, inverse = fisher(G, damping), InverseFisher(G, damping)
    scores = inverse_fisher_saliency(w, inverse)
    changes = []
    for i in range(11):
        unit = np.eye(11)[i]
        system = np.block([[F, unit[:, None]], [unit[None], np.zeros((1, 1))]])
        change = np.linalg.solve(system, np.append(np.zeros(11), -w[i]))[:11]
        changes.append(change)
        assert scores[i] == pytest.approx(change @ F @ change / 2)
        np.testing.assert_allclose(inverse_fisher_compensation(w, inverse, unit == 1), change, atol=1e-10)
    removed = np.arange(11) % 3 == 0
    together = sum(change for change, gone in zip(changes, removed, strict=True) if gone)
    change = inverse_fisher_compensation(w, inverse, removed)
    np.testing.assert_allclose(change[~removed], together[~removed], atol=1e-10)
    np.testing.assert_array_equal((w + change)[removed], 0.0)


def test_compensation_stays_within_blocks():
    G, w = gradients(), np.ones(11)
    change = inverse_fisher_compensation(w, InverseFisher(G, 0.1, block_size=4), np.arange(11) == 5)
    assert change[5] == -1
    assert (change[4:8] != 0).all()
    assert (change[:4] == 0).all()
    assert (change[8:] == 0).all()


def test_scores_of_tensors_are_tensors_and_errors_name_the_argument():
    inverse = InverseFisher(torch.from_numpy(gradients()), 0.1)
    w = torch.ones(11, dtype=F64, requires_grad=True)
    assert isinstance(inverse_fisher_saliency(w, inverse), torch.Tensor)
    assert isinstance(inverse_fisher_compensation(w.detach().numpy(), inverse, np.ones(11, dtype=bool)), np.ndarray)
    with pytest.raises(ValueError, match="weights must have one number for each of the inverse's rows"):
        inverse_fisher_saliency(torch.ones(10), inverse)
    with pytest.raises(ValueError, match="weights contains NaN"):
        inverse_fisher_saliency(np.full(11, np.nan), inverse)
    with pytest.raises(TypeError, match="pruned must hold bools"):
        inverse_fisher_compensation(np.ones(11), inverse, np.ones(11))
    with pytest.raises(ValueError, match=r"pruned must have the shape of weights, \(11,\), got \(3,\)"):
        inverse_fisher_compensation(np.ones(11), inverse, np.ones(3, dtype=bool))


def pruned_with_matrices(module, losses, counts, n_gradients, damping, block_size):
    """The pruner with dense inverses: what is left of the weights, in one vector."""
    weights = [module[0].weight, module[4].weight]
    module.eval()
    turn = 0
    for count in counts:
        w = torch.cat([each.detach().reshape(-1) for each in weights]).numpy().copy()
        left = np.flatnonzero(w)
        G = []
        for _ in range(n_gradients):
            module.zero_grad()
            losses[turn % len(losses)]().backward()
            turn += 1
            G.append(torch.cat([each.grad.reshape(-1) for each in weights]).numpy()[left])
        inverse = np.linalg.inv(fisher(np.array(G), damping, block_size))
        scores = w[left] ** 2 / (2 * np.diag(inverse))
        removed = np.argsort(scores)[: len(left) - count]
        before = w[left]
        for i in removed:
            w[left] -= before[i] * inverse[i] / inverse[i, i]
        w[left[removed]] = 0.0
        start = 0
        for each in weights:
            each.data.copy_(torch.from_numpy(w[start : start + each.numel()]).reshape(each.shape))
            start += each.numel()
    return w


@pytest.mark.parametrize("block_size", [None, 9])
@pytest.mark.parametrize("pages", [1, 2])
def test_pruner_does_what_matrices_do(block_size, pages):
    module = network().double()
    losses, x, y = batch_losses(module, n=5)
    losses = [lambda k=k: nn.functional.cross_entropy(module(x[k].double()), y[k]) for k in range(5)]
    twin = copy.deepcopy(module)
    twin_losses = [lambda k=k: nn.functional.cross_entropy(twin(x[k].double()), y[k]) for k in range(5)]
    same, report = prune_with_inverse_fisher(
        module, losses, 0.75, n_gradients=7, damping=1e-3, block_size=block_size, n_recomputations=2, pages=pages,
        progress=False,
    )  # fmt: skip
    assert same is module
    # 56 weights, of which a half and then a quarter is left.
    expected = pruned_with_matrices(twin, twin_losses, [28, 14], 7, 1e-3, block_size)
    got = torch.cat([module[0].weight.reshape(-1), module[4].weight.reshape(-1)]).detach().numpy()
    np.testing.assert_allclose(got, expected, atol=1e-8)
    assert report.sparsity == 0.75
    assert report.history["sparsity"] == pytest.approx((0.0, 0.5, 0.75))
    assert report.history["gradients"] == (0, 7, 14)


def test_pruner_leaves_the_rest_alone_and_reports_what_changed(tmp_path):
    module = network()
    losses, _, _ = batch_losses(module)
    module.train()
    before = copy.deepcopy(module.state_dict())
    _, report = prune_with_inverse_fisher(module, losses, 0.5, n_recomputations=3, progress=False)
    after = module.state_dict()
    assert set(report.sparsity_per_layer) == {"0.weight", "4.weight"}
    for key, value in after.items():
        assert torch.equal(value, before[key]) == (key not in report.sparsity_per_layer), key
    zeros = {key: float((after[key] == 0).double().mean()) for key in report.sparsity_per_layer}
    assert report.sparsity_per_layer == zeros
    assert sum(int((after[key] == 0).sum()) for key in zeros) == 28
    assert module.training
    torch.save(after, tmp_path / "pruned.pt")
    loaded = network(1)
    loaded.load_state_dict(torch.load(tmp_path / "pruned.pt", weights_only=True))
    module.eval()
    loaded.eval()
    assert torch.equal(loaded(torch.ones(2, 5)), module(torch.ones(2, 5)))
    assert report.loss_after == pytest.approx(float(sum(loss().detach() for loss in losses)) / 4, rel=1e-6)
    assert report.loss_before == report.history["loss"][0] or report.loss_before == pytest.approx(
        report.history["loss"][0], rel=1e-5
    )
    assert report.seconds == report.history["seconds"][-1] > 0


def test_interrupt_leaves_the_last_complete_step():
    module = network()
    losses, _, _ = batch_losses(module)
    calls = []

    def interrupted():
        calls.append(1)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return losses[0]()

    with pytest.raises(KeyboardInterrupt):
        prune_with_inverse_fisher(module, [interrupted], 0.75, n_gradients=3, n_recomputations=2, progress=False)
    weights = torch.cat([module[0].weight.reshape(-1), module[4].weight.reshape(-1)])
    assert int((weights == 0).sum()) == 28
    assert module.training
    _, report = prune_with_inverse_fisher(module, losses, 0.75, n_gradients=3, n_recomputations=1, progress=False)
    assert report.history["sparsity"] == pytest.approx((0.5, 0.75))


def test_schedules():
    def sparsities(schedule, goal=0.9, start=0.0):
        module = nn.Sequential(nn.Linear(100, 10, bias=False))
        if start:
            module[0].weight.data.reshape(-1)[: int(1000 * start)] = 0.0
        x = torch.randn(8, 100)
        _, report = prune_with_inverse_fisher(
            module, [lambda: module(x).square().mean()], goal, n_gradients=2, n_recomputations=4, schedule=schedule,
            progress=False,
        )  # fmt: skip
        return report.history["sparsity"]

    assert sparsities("exponential") == pytest.approx([0] + [1 - 0.1 ** (j / 4) for j in (1, 2, 3, 4)], abs=6e-4)
    assert sparsities("polynomial") == pytest.approx([0.9 * (1 - (1 - j / 4) ** 3) for j in range(5)], abs=6e-4)
    later = [1 - 0.5 * 0.2 ** (j / 4) for j in range(5)]
    assert sparsities("exponential", start=0.5) == pytest.approx(later, abs=6e-4)


def test_zeros_stay_zero_and_sparsity_only_rises():
    module = network()
    losses, _, _ = batch_losses(module)
    prune_with_inverse_fisher(module, losses, 0.5, n_recomputations=2, progress=False)
    zeros = module[0].weight == 0
    prune_with_inverse_fisher(module, losses, 0.75, n_recomputations=2, progress=False)
    assert (module[0].weight[zeros] == 0).all()
    before = module[0].weight.detach().clone()
    _, report = prune_with_inverse_fisher(module, losses, 0.75, progress=False)
    assert torch.equal(module[0].weight, before)
    assert report.loss_before == report.loss_after
    with pytest.raises(ValueError, match=r"sparsity must be at least that of the module, 0\.75, got 0\.3"):
        prune_with_inverse_fisher(module, losses, 0.3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sparsity": 1.0}, ValueError, "sparsity must be at least 0 and less than 1, got 1.0"),
        ({"sparsity": -0.1}, ValueError, "sparsity must be a finite number at least 0"),
        ({"sparsity": "half"}, TypeError, "sparsity must be a number"),
        ({"n_gradients": 0}, ValueError, "n_gradients must be at least 1"),
        ({"n_recomputations": 0}, ValueError, "n_recomputations must be at least 1"),
        ({"schedule": "linear"}, ValueError, "schedule must be one of 'exponential', 'polynomial'"),
        ({"damping": 0.0}, ValueError, "damping"),
        ({"block_size": 0}, ValueError, "block_size"),
        ({"layers": ["none"]}, ValueError, "layers names 'none'"),
        ({"loss_batches": []}, ValueError, "loss_batches is empty"),
        ({"module": 3}, TypeError, r"module must be a torch.nn.Module, got int"),
    ],
)
def test_errors_of_the_pruner(options, error, message):
    module = network()
    arguments = {"module": module, "loss_batches": batch_losses(module)[0], "sparsity": 0.5} | options
    with pytest.raises(error, match=message):
        prune_with_inverse_fisher(**arguments)


@pytest.mark.parametrize("optimizer", ["sgd", "ours"])
def test_gradual_pruning_with_training_in_between(optimizer):
    X, y = load_digits(return_X_y=True)
    X, y = torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y)
    torch.manual_seed(0)
    module, loss = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), nn.functional.cross_entropy
    generator = torch.Generator().manual_seed(0)

    def train(stepper, steps):
        for _ in range(steps):
            rows = torch.randint(len(X), (64,), generator=generator)
            stepper.zero_grad()
            loss(module(X[rows]), y[rows]).backward()
            stepper.step()

    train(torch.optim.Adam(module.parameters(), lr=0.01), 200)
    losses = [lambda k=k: loss(module(X[k::64]), y[k::64]) for k in range(64)]
    for sparsity in (0.5, 0.75, 0.9):
        _, report = prune_with_inverse_fisher(module, losses, sparsity, n_recomputations=4, progress=False)
        zeros = module[0].weight == 0
        if optimizer == "sgd":
            stepper = torch.optim.SGD(module.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-3)
            handle = keep_zeros(module, stepper)
            train(stepper, 60)
            handle.remove()
        else:
            train(MatrixFreeFisherOptimizer(module.parameters(), 1e-4, n_gradients=64, sparse=True), 60)
        assert (module[0].weight[zeros] == 0).all()
        assert (module[0].weight[~zeros] != 0).all()
        trained = float(loss(module(X), y).detach())
    assert report.sparsity == pytest.approx(0.9, abs=1e-3)
    assert trained < report.loss_after
    assert float((module(X).argmax(1) == y).double().mean()) > 0.9


def test_pruning_keeps_what_removal_by_magnitude_loses():
    # Inputs of very different sizes: many of the largest weights are those of the inputs that matter least.
    generator = torch.Generator().manual_seed(0)
    sizes = torch.cat([torch.logspace(-2, -1.5, 8), torch.logspace(0, 1, 8)]).double()
    X = torch.randn(400, 16, generator=generator, dtype=F64) * sizes
    y = (X / sizes) @ torch.cat([torch.full((8, 1), 0.02, dtype=F64), torch.ones(8, 1, dtype=F64)])
    y += 0.05 * torch.randn(400, 1, generator=generator, dtype=F64)
    module = nn.Linear(16, 1, bias=False).double()
    module.weight.data.copy_(torch.linalg.lstsq(X, y).solution.T)
    largest = module.weight.detach().abs()[0].topk(8).indices
    assert (largest < 8).sum() >= 4
    batch = (nn.functional.mse_loss, X, y)
    prune_with_inverse_fisher(module, [batch], 0.5, n_gradients=400, damping=1e-8, n_recomputations=4, progress=False)
    assert torch.nonzero(module.weight[0])[:, 0].tolist() == list(range(8, 16))


# --- the command ---


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(120, 6)).astype(np.float32)
    path = tmp_path_factory.mktemp("data") / "train.npz"
    np.savez(path, X=X, y=(X[:, 0] + X[:, 1] > 0).astype(int))
    return path


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


OPTIONS = {"n_gradients": 8, "n_recomputations": 2, "epochs": 1, "sparsity": 0.5}


def test_command_prunes_a_state_dict_and_keeps_its_names(data_file, tmp_path):
    torch.save(small().state_dict(), tmp_path / "model.pt")
    found = run(out=tmp_path, model=tmp_path / "model.pt", data=data_file, **OPTIONS)
    assert found["sparsity"] == 0.5
    pruned = small(1)
    pruned.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    zeros = sum(int((each == 0).sum()) for each in pruned.parameters() if each.ndim == 2)
    assert zeros == 32
    assert set(found["test_scores"]) == {
        "dense",
        "one shot",
        "M-FAC",
        "magnitude",
        "M-FAC, then SGD",
        "M-FAC, then M-FAC",
    }
    assert found["input"] == f"{tmp_path / 'model.pt'} on {data_file}"
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "stage,method,sparsity,gradients,passes,seconds,loss"
    assert len(lines) == 1 + 3 + 2 * 2
    assert (tmp_path / "picture.png").stat().st_size > 1000


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_command_prunes_torchscript_and_numbers_to_predict(data_file, tmp_path):
    X = np.load(data_file)["X"]
    np.savez(tmp_path / "numbers.npz", X=X, y=X[:, :1] * 2)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    torch.jit.script(network).save(str(tmp_path / "script.pt"))
    (tmp_path / "out").mkdir()
    found = run(
        tmp_path / "numbers.npz", out=tmp_path / "out", model=tmp_path / "script.pt", block_size=0, **OPTIONS
    )  # fmt: skip
    assert found["score"] == "R^2"
    pruned = torch.jit.load(str(tmp_path / "out" / "model.pt"))
    assert sum(int((each == 0).sum()) for each in pruned.parameters()) == 28
    assert pruned(torch.ones(3, 6)).shape == (3, 1)


def test_command_trains_a_network_where_none_is_given(data_file, tmp_path):
    found = run(data_file, out=tmp_path, n_gradients=8, n_recomputations=2, epochs=0)
    assert found["saved_model"] == "pruned"
    assert found["test_scores"]["dense"] > 0.8
    assert found["sparsity"] == pytest.approx(0.9, abs=1e-3)


def test_command_refuses_what_it_can_not_read(data_file, tmp_path):
    def refused(message, *files, model=None, **arrays):
        path = tmp_path / "bad.npz"
        if arrays:
            np.savez(path, **arrays)
            files = (path,)
        with pytest.raises(InputError, match=message):
            run(*files, out=tmp_path, model=model, **OPTIONS)

    ones = np.ones((4, 6))
    refused("one data set is accepted", data_file, data_file)
    refused("no such file", tmp_path / "none.npz")
    (tmp_path / "table.csv").write_text("1")
    refused(r"accepted here: \.npz", tmp_path / "table.csv")
    refused("needs X and y, holds X", X=ones)
    refused("X contains NaN", X=ones * np.nan, y=np.ones(4))
    refused("classes in y must be integers from 0", X=ones, y=np.array([-1, 0, 1, 1]))
    refused("as many of y", X=ones, y=np.ones(3))
    refused("must hold numbers", X=ones, y=np.array(["a"] * 4))
    (tmp_path / "text.pt").write_text("network")
    refused(r"is no file of torch\.save", data_file, model=tmp_path / "text.pt")
    refused("no such file", data_file, model=tmp_path / "none.pt")
    torch.save(small(), tmp_path / "pickled.pt")
    refused("holds more than tensors, which could run any code", data_file, model=tmp_path / "pickled.pt")
    torch.save(network().state_dict(), tmp_path / "norm.pt")
    refused(r"1\.weight of shape \(7,\) is no linear layer", data_file, model=tmp_path / "norm.pt")
    torch.save([1], tmp_path / "list.pt")
    refused("is no state dict of tensors", data_file, model=tmp_path / "list.pt")
    torch.save(nn.Linear(5, 2).state_dict(), tmp_path / "narrow.pt")
    refused("does not take the inputs of", data_file, model=tmp_path / "narrow.pt")
    torch.save(nn.Linear(6, 1).state_dict(), tmp_path / "few.pt")
    refused("does not take the inputs of", data_file, model=tmp_path / "few.pt")


def test_threads_share_the_products_of_large_windows():
    from paperworks.optimization.matrix_free_fisher._sliding import WORTH_THREADS, _shared_row_products

    rng = np.random.default_rng(0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for rows in (3, 17, 32):
            G, x = rng.normal(size=(rows, WORTH_THREADS // 16)).astype(np.float32), rng.normal(size=WORTH_THREADS // 16)
            np.testing.assert_allclose(_shared_row_products(G, x), G.astype(np.float64) @ x, rtol=1e-9, atol=1e-9)
    finally:
        torch.set_num_threads(before)
