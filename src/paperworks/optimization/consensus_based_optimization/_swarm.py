"""A swarm of particles for each run: where it starts, how it moves, what it remembers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np
import torch
from numba import njit
from scipy.optimize import Bounds
from torch import Tensor

from paperworks._random import RandomState, integer_seed, numpy_generator
from paperworks._tensors import to_tensors
from paperworks.optimization.consensus_based_optimization._consensus import gibbs_weights, weighted_mean
from paperworks.optimization.consensus_based_optimization._objective import Objective, require_a_finite_value


class Streams:
    """Sources of randomness: one a run on the CPU, so that a run does not depend on those beside it.

    Elsewhere one generator on the device serves all runs.
    """

    def __init__(self, random_state: RandomState, n_runs: int, device: torch.device) -> None:
        self.device = device
        if device.type == "cpu":
            # SFC64 draws a fifth faster than NumPy's default.
            seeds: list[Any] = [child.bit_generator.seed_seq for child in numpy_generator(random_state).spawn(n_runs)]
            self.generators = [np.random.Generator(np.random.SFC64(seed)) for seed in seeds]
        else:
            self.shared = torch.Generator(device).manual_seed(integer_seed(random_state))
            self.n_runs = n_runs

    def __len__(self) -> int:
        return len(self.generators) if self.device.type == "cpu" else self.n_runs

    def keep(self, which: list[int]) -> None:
        """Go on with some of the runs."""
        if self.device.type == "cpu":
            self.generators = [self.generators[run] for run in which]
        else:
            self.n_runs = len(which)

    def normal(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Standard normal numbers, of shape (runs, *shape)."""
        if self.device.type != "cpu":
            return torch.randn(len(self), *shape, generator=self.shared, device=self.device, dtype=dtype)
        drawn = torch.empty(len(self), *shape, dtype=torch.float32 if dtype == torch.float32 else torch.float64)
        for generator, row in zip(self.generators, drawn.numpy(), strict=True):
            generator.standard_normal(dtype=row.dtype, out=row)
        return drawn.to(dtype)

    def uniform(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Numbers in [0, 1), of shape (runs, *shape)."""
        if self.device.type != "cpu":
            return torch.rand(len(self), *shape, generator=self.shared, device=self.device, dtype=dtype)
        return torch.from_numpy(np.stack([generator.random(shape) for generator in self.generators])).to(dtype)

    def subsets(self, n: int, size: int) -> Tensor:
        """Numbers below n without repetition, of shape (runs, size)."""
        if self.device.type != "cpu":
            return torch.rand(len(self), n, generator=self.shared, device=self.device).argsort(-1)[:, :size]
        return torch.from_numpy(np.stack([generator.permutation(n)[:size] for generator in self.generators]))


class Box:
    """Bounds of the particles, at which they are reflected."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low, high
        self.two_sided = torch.isfinite(low) & torch.isfinite(high)
        self.width = torch.where(self.two_sided, high - low, 1.0)

    def reflect(self, positions: Tensor) -> Tensor:
        """Fold what is outside back inside, as often as it takes."""
        low, high = self.low, self.high
        if bool((positions >= low).all()) and bool((positions <= high).all()):
            return positions
        folded = low + self.width - (torch.remainder(positions - low, 2 * self.width) - self.width).abs()
        mirrored = torch.where(positions < low, 2 * low - positions, 2 * high - positions)
        outside = (positions < low) | (positions > high)
        # Rounding may leave a fold an ulp outside.
        inside = torch.where(self.two_sided, folded, mirrored).clamp(low, high)
        return torch.where(outside, inside, positions)


@dataclass(frozen=True)
class Dynamics:
    """Constants of the stochastic differential equation and of its Euler-Maruyama steps."""

    step: float
    drift: float
    noise: float
    isotropic: bool
    truncation: float
    memory: bool
    memory_drift: float
    memory_noise: float
    memory_sharpness: float
    gradient_weight: float


@dataclass
class Swarm:
    """Particles of the runs that go on, with the points and values by which their consensus is formed.

    Attributes
    ----------
    X : Tensor
        Positions, of shape (runs, n, d).
    Y : Tensor
        What each particle remembers: its position, or the best one with memory.
    values : Tensor
        Objective at Y, of shape (runs, n); infinity where not evaluated yet.
    """

    X: Tensor
    dynamics: Dynamics
    streams: Streams
    box: Box | None
    batch_size: int | None

    def __post_init__(self) -> None:
        self.batch: Tensor | None = None
        self.Y = self.X.clone() if self.dynamics.memory else self.X
        self.values = self.X.new_full(self.X.shape[:2], inf, dtype=torch.float64)

    def keep(self, which: list[int]) -> None:
        """Go on with some of the runs."""
        self.X, self.values = self.X[which], self.values[which]
        self.Y = self.Y[which] if self.dynamics.memory else self.X
        self.streams.keep(which)

    def evaluate(self, objective: Objective, iteration: int) -> tuple[Tensor, Tensor]:
        """Look at the particles, or at a random batch of each run's; returns their positions and values."""
        n = self.X.shape[1]
        self.batch = None if self.batch_size is None else self.streams.subsets(n, self.batch_size)
        X = self._batch(self.X)
        found = objective(X, iteration)
        if self.dynamics.memory:
            self._remember(X, found, objective, iteration)
        elif self.batch is None:
            self.values = found
        else:
            self.values.scatter_(1, self.batch, found)
        return X, found

    def consensus(self, temperature_inverse: Tensor, iteration: int) -> Tensor:
        """Consensus points of what the last batch remembers, of shape (runs, d)."""
        values = self.values if self.batch is None else self.values.gather(1, self.batch)
        require_a_finite_value(values, iteration)
        return weighted_mean(gibbs_weights(values, temperature_inverse), self._batch(self.Y))

    def move(self, consensus: Tensor, gradient: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Take a step; returns the mean distance to the consensus point before it, of shape (runs,)."""
        pull = self._pull(gradient)
        dynamics = self.dynamics
        spread = approach(
            self.X,
            consensus,
            self.streams,
            dynamics.drift * dynamics.step,
            dynamics.noise * sqrt(dynamics.step),
            dynamics.isotropic,
            dynamics.truncation,
        )
        if pull is not None:
            self.X += pull
        if self.box is not None:
            self.X = self.box.reflect(self.X)
        if not dynamics.memory:
            self.Y = self.X
        return spread

    def _batch(self, tensor: Tensor) -> Tensor:
        if self.batch is None:
            return tensor
        return tensor.gather(1, self.batch[..., None].expand(-1, -1, tensor.shape[-1]))

    def _remember(self, X: Tensor, found: Tensor, objective: Objective, iteration: int) -> None:
        """Move what is remembered towards the better of it and the particle: all the way, or smoothly by a sigmoid."""
        Y, before = self._batch(self.Y), self.values if self.batch is None else self.values.gather(1, self.batch)
        fresh = torch.isinf(before)
        if self.dynamics.memory_sharpness == inf:
            better = found < before
            Y = torch.where(better[..., None], X, Y)
            values = torch.minimum(found, before)
        else:
            # Where nothing was known, or infinity, the difference has no value, and the particle is taken as it is.
            difference = torch.where(fresh, inf, before - found)
            share = (1 + torch.tanh(self.dynamics.memory_sharpness * difference)) / 2
            Y = Y + (X - Y) * share.to(X.dtype)[..., None]
            values = found if bool(fresh.all()) else objective(Y, iteration)
        if self.batch is None:
            self.Y, self.values = Y, values
        else:
            self.Y.scatter_(1, self.batch[..., None].expand(-1, -1, Y.shape[-1]), Y)
            self.values.scatter_(1, self.batch, values)

    def _pull(self, gradient: Callable[[Tensor], Tensor] | None) -> Tensor | None:
        """Increments that do not come from the consensus point: towards what is remembered, and down the gradient."""
        dynamics, pull = self.dynamics, None
        if dynamics.memory and (dynamics.memory_drift or dynamics.memory_noise):
            away = self.X - self.Y
            pull = away * (-dynamics.memory_drift * dynamics.step)
            if dynamics.memory_noise:
                reach = away.norm(dim=-1, keepdim=True) if dynamics.isotropic else away
                normal = self.streams.normal(*self.X.shape[1:], dtype=self.X.dtype)
                pull += normal * reach * (dynamics.memory_noise * sqrt(dynamics.step))
        if gradient is not None and dynamics.gradient_weight:
            slope = gradient(self.X) * (-dynamics.gradient_weight * dynamics.step)
            pull = slope if pull is None else pull + slope
        return pull


def approach(
    X: Tensor, consensus: Tensor, streams: Streams, toward: float, jitter: float, isotropic: bool, limit: float
) -> Tensor:
    """Move X in place by -toward (X - c) + jitter D B, and return the mean of ||X - c|| before, of shape (runs,)."""
    if X.device.type == "cpu" and X.dtype in (torch.float32, torch.float64):
        rows = zip(streams.generators, X.numpy(), consensus.numpy(), strict=True)
        spreads = [_approach_compiled(*row, toward, jitter, isotropic, limit) for row in rows]
        return torch.tensor(spreads, dtype=torch.float64)
    return approach_with(X, consensus, streams.normal(*X.shape[1:], dtype=X.dtype), toward, jitter, isotropic, limit)


def approach_with(
    X: Tensor, consensus: Tensor, normal: Tensor, toward: float, jitter: float, isotropic: bool, limit: float
) -> Tensor:
    """As `approach`, on any device, with normal numbers that are given."""
    away = X - consensus[:, None]
    norm = torch.linalg.vector_norm(away, dim=-1, keepdim=True)
    spread = norm.mean(dim=(1, 2), dtype=torch.float64)
    reach = norm.clamp(max=limit) if isotropic else away.clamp(-limit, limit)
    X.sub_(away, alpha=toward).addcmul_(normal, reach, value=jitter)
    return spread


@njit(cache=True, nogil=True)
def _approach_compiled(generator, X, c, toward, jitter, isotropic, limit):
    # One pass over the positions, in which normal numbers are drawn where they are used.
    n, d = X.shape
    total = 0.0
    for i in range(n):
        x = X[i]
        square = 0.0
        for j in range(d):
            square += (x[j] - c[j]) ** 2
        norm = np.sqrt(square)
        total += norm
        if isotropic:
            reach = jitter * min(norm, limit)
            for j in range(d):
                x[j] += reach * generator.standard_normal() - toward * (x[j] - c[j])
        else:
            for j in range(d):
                away = x[j] - c[j]
                x[j] += jitter * max(-limit, min(away, limit)) * generator.standard_normal() - toward * away
    return total / n


def read_bounds(bounds: Any) -> tuple[Tensor, bool] | None:
    """Bounds as a float tensor of shape (d, 2), and whether they came as a tensor."""
    if bounds is None:
        return None
    if isinstance(bounds, Bounds):
        bounds = np.stack(np.broadcast_arrays(np.atleast_1d(bounds.lb), bounds.ub), axis=1)
    if isinstance(bounds, Tensor):
        table = bounds
    else:
        try:
            if isinstance(bounds, Sequence):
                # As in SciPy, None is no bound.
                bounds = [_without_none((None, None) if pair is None else pair) for pair in bounds]
            table = torch.from_numpy(np.array(bounds, dtype=np.float64))
        except (TypeError, ValueError):
            raise ValueError(f"bounds must be pairs (low, high), one a coordinate, got {bounds!r}") from None
    if table.ndim != 2 or table.shape[1] != 2 or not len(table):
        raise ValueError(f"bounds must be pairs (low, high), one a coordinate, got shape {tuple(table.shape)}")
    wrong = ~(table[:, 0] < table[:, 1])
    if wrong.any():
        where = int(wrong.nonzero()[0])
        raise ValueError(f"bounds must have low < high, got {table[where].tolist()} at coordinate {where}")
    return table, isinstance(bounds, Tensor)


def _without_none(pair: Any) -> Any:
    return [side if end is None else end for end, side in zip(pair, (-inf, inf), strict=True)]


def initial_swarm(
    x0: Any, bounds: Any, n_particles: int, n_runs: int, random_state: RandomState
) -> tuple[Tensor, Streams, Box | None, bool]:
    """Positions (runs, n, d) to start from, sources of randomness, the box, and whether tensors are spoken."""
    table = read_bounds(bounds)
    if x0 is None:
        if table is None:
            raise ValueError("x0 or bounds must be given: there is nothing to start from")
        like, as_tensors = table[0], table[1]
        if not torch.isfinite(like).all():
            raise ValueError("bounds must be finite where x0 is not given, for particles are drawn between them")
        d = len(like)
    else:
        [like], _ = to_tensors(x0=x0, ndim=(1, 2, 3))
        d, as_tensors = like.shape[-1], isinstance(x0, Tensor)
    box = None
    if table is not None:
        low, high = table[0].to(like).unbind(1)
        if len(low) != d:
            raise ValueError(f"bounds must have a pair for each of the {d} coordinates of x0, got {len(low)}")
        box = Box(low, high)
    streams = Streams(random_state, n_runs, like.device)
    if x0 is None:
        assert box is not None
        return box.low + box.width * streams.uniform(n_particles, d, dtype=like.dtype), streams, box, as_tensors
    if box is not None and not bool(((like >= box.low) & (like <= box.high)).all()):
        raise ValueError("x0 must lie within bounds")
    if like.ndim == 1:
        X = like + streams.normal(n_particles, d, dtype=like.dtype)
        return X if box is None else box.reflect(X), streams, box, as_tensors
    if like.shape[-2] < 2:
        raise ValueError(f"x0 must hold at least 2 particles, got shape {tuple(like.shape)}")
    if like.ndim == 3 and len(like) != n_runs:
        raise ValueError(f"x0 must hold {n_runs} swarms, one a run, got shape {tuple(like.shape)}")
    return like.detach().expand(n_runs, *like.shape[-2:]).clone().contiguous(), streams, box, as_tensors
