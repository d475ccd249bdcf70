"""Races of the Bures-Wasserstein barycentre and batch normalisation."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.racing import Contestant, Race
from paperworks.transport import SPDBatchNorm, bures_wasserstein_log, bures_wasserstein_mean


def _batch(count: int, n: int) -> Tensor:
    A = torch.randn(count, n, 2 * n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return A @ A.mT / (2 * n)


def races() -> Iterator[Race]:
    yield _mean_race()
    yield _layer_race()


def _mean_race() -> Race:
    X = _batch(256, 30)
    array, size = X.numpy(), float(torch.linalg.matrix_norm(X.mean(0)))

    def pyriemann() -> Any:
        from pyriemann.geometry.mean import mean_wasserstein

        # Its tolerance is absolute, ours is relative to the mean's norm.
        return mean_wasserstein(array, tol=1e-9 * size, maxiter=100)

    def pot() -> Any:
        import ot

        zeros = np.zeros(array.shape[:2])
        return ot.gaussian.bures_wasserstein_barycenter(zeros, array, num_iter=100, eps=1e-9)[1]

    def spd_learn() -> Any:
        from spd_learn.functional.metrics.bures_wasserstein import bures_wasserstein_mean as theirs

        return theirs(X, max_iter=100).reshape(30, 30).detach().numpy()

    def residual(G: Any) -> float:
        V = bures_wasserstein_log(np.broadcast_to(G, array.shape), array).mean(0)
        return float(np.linalg.norm(V) / np.linalg.norm(G))

    return Race(
        "barycentre of 256 matrices, 30 x 30, to 1e-9",
        Contestant("paperworks", lambda: bures_wasserstein_mean(array)),
        [
            Contestant("pyriemann mean_wasserstein", pyriemann),
            Contestant("POT bures_wasserstein_barycenter", pot),
            Contestant("spd_learn bures_wasserstein_mean", spd_learn),
        ],
        "relative norm of mean Log",
        residual,
        aim="half of pyriemann's time",
        repeats=7,
    )


def _layer_race() -> Race:
    X = _batch(128, 30)

    def spd_learn() -> Any:
        from spd_learn.modules import SPDBatchNormMeanVar

        return _forward_and_backward(SPDBatchNormMeanVar(30, dtype=torch.float64), X)

    def layer(metric: str) -> Any:
        return _forward_and_backward(SPDBatchNorm(30, metric=metric).double(), X)  # type: ignore[arg-type]

    def drift(Y: Tensor) -> float:
        """How far the outputs' arithmetic mean is from a matrix of their mean's size: the same for all, and finite."""
        return float(torch.linalg.matrix_norm(Y.mean(0) / Y.mean(0).trace() * 30 - torch.eye(30)) / 30**0.5)

    return Race(
        "batch normalisation of 128 matrices, 30 x 30, forward and backward",
        Contestant("paperworks", partial(layer, "generalized-bures-wasserstein")),
        [
            Contestant("paperworks, affine-invariant", partial(layer, "affine-invariant")),
            Contestant("spd_learn SPDBatchNormMeanVar (affine-invariant)", spd_learn),
            Contestant("one SVD a matrix in a loop", lambda: _forward_and_backward(_LoopLayer(), X)),
        ],
        "anisotropy of the outputs' mean",
        drift,
        aim="at most the affine-invariant layer's time; a tenth of the loop's",
        repeats=9,
    )


def _forward_and_backward(normalize: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
    X = X.clone().requires_grad_()
    Y = normalize(X)
    Y.square().sum().backward()
    return Y.detach()


class _LoopFunction(torch.autograd.Function):
    """A function of each matrix of a batch by an SVD of its own, in the manner of the authors' code."""

    @staticmethod
    def forward(ctx: Any, P: Tensor, value: Any, slope: Any) -> Tensor:
        U, p = torch.zeros_like(P), torch.zeros(P.shape[:-1], dtype=P.dtype)
        for i in range(len(P)):
            U[i], p[i], _ = torch.svd(P[i])
        D = torch.zeros_like(P)
        for i in range(len(P)):
            D[i] = value(p[i]).diag()
        ctx.save_for_backward(U, p, value(p), slope(p))
        return U @ D @ U.mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        U, p, f, slope = ctx.saved_tensors
        K = (f[:, :, None] - f[:, None, :]) / (p[:, :, None] - p[:, None, :])
        K = torch.nan_to_num(K, nan=0.0, posinf=0.0, neginf=0.0) + torch.diag_embed(slope)
        return U @ (K * (U.mT @ gradient @ U)) @ U.mT, None, None


def _root(P: Tensor) -> Tensor:
    return _LoopFunction.apply(P, torch.sqrt, lambda p: 0.5 / p.sqrt())


def _inverse_root(P: Tensor) -> Tensor:
    return _LoopFunction.apply(P, torch.rsqrt, lambda p: -0.5 * p**-1.5)


def _square(P: Tensor) -> Tensor:
    return _LoopFunction.apply(P, torch.square, lambda p: 2 * p)


class _LoopLayer:
    """The normalisation in the order of the authors' code, with one decomposition a matrix and function."""

    def __init__(self) -> None:
        self.M, self.B = (torch.eye(30, dtype=torch.float64).requires_grad_() for _ in range(2))

    def __call__(self, X: Tensor) -> Tensor:
        identity = torch.eye(30, dtype=torch.float64)
        X = _LoopFunction.apply(X, lambda p: p**1, torch.ones_like)
        half = _inverse_root(self.M[None])
        P, B = half @ X @ half, (half @ self.B @ half)[0]
        with torch.no_grad():
            G = P.mean(0, keepdim=True)
            G = _inverse_root(G) @ _square(_root(_root(G) @ P @ _root(G)).mean(0, keepdim=True)) @ _inverse_root(G)
            variance = (P + identity - 2 * _root(P)).diagonal(dim1=-2, dim2=-1).sum(-1).mean()
        C = _root(G) @ _root(_root(G) @ P @ _root(G)) @ _inverse_root(G)
        U, g, _ = torch.svd(G[0])
        V = U @ ((2 / (g[:, None] + g)).sqrt() * (U.T @ (C + C.mT - 2 * G) @ U)) @ U.T
        scaled = (2 * _root(_exp_at_identity(V)) - 2 * identity) / (variance + 1e-5).sqrt()
        V = 2 * _root(_exp_at_identity(scaled)) - 2 * identity
        # At B = I both the transport and Lyapunov's equation are trivial; its SVD has no gradient there.
        Y = B + V + V @ B @ V / 4
        half = _root(self.M[None])
        return _LoopFunction.apply(half @ Y @ half, lambda p: p**1, torch.ones_like)


def _exp_at_identity(V: Tensor) -> Tensor:
    return torch.eye(V.shape[-1], dtype=V.dtype) + V + V @ V / 4
