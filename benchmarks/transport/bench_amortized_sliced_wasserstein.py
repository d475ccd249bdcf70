"""Amortised directions against directions that are sought for each pair, and against other losses for clouds."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.racing import Contestant, Race
from paperworks.transport import (
    AmortizedSlicedWassersteinLoss,
    AttentionAmortizer,
    distributional_sliced_wasserstein,
    make_shapes,
    max_sliced_wasserstein,
)

KAPPA, DIRECTIONS = 10.0, 50


def clouds(n_pairs: int, n_points: int, seed: int) -> tuple[Tensor, Tensor]:
    """Centred shapes, and others of mixed kinds that are displaced."""
    x, _ = make_shapes(n_pairs, n_points, random_state=seed)
    y, _ = make_shapes(n_pairs, n_points, shift=0.5, random_state=seed + 1)
    order = torch.randperm(n_pairs, generator=torch.Generator().manual_seed(seed))
    return torch.from_numpy(x).float(), torch.from_numpy(y).float()[order]


def trained_loss() -> AmortizedSlicedWassersteinLoss:
    f = AttentionAmortizer(3, random_state=0)
    x, y = clouds(512, 64, seed=10)
    teacher = AmortizedSlicedWassersteinLoss(
        f, concentration=KAPPA, n_projections=10, learning_rate=3e-3, random_state=0
    )
    for seed in range(400):
        some = torch.randint(len(x), (32,), generator=torch.Generator().manual_seed(seed))
        teacher(x[some], y[some])
    return AmortizedSlicedWassersteinLoss(f, concentration=KAPPA, n_projections=DIRECTIONS, random_state=0)


def step(cost: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """One training step of a loss: its value, and the gradient for the reconstruction y."""

    def run() -> Tensor:
        guess = y.clone().requires_grad_()
        cost(x, guess).backward()
        assert guess.grad is not None
        return guess.grad

    return run


def along(location: Tensor, x: Tensor, y: Tensor) -> float:
    """Mean W_2^2 along directions around a location, the same measure for all who find one."""
    cost = distributional_sliced_wasserstein(
        x, y, concentration=KAPPA, n_projections=200, location=location, random_state=9
    )
    return float(cost.square().mean())


def emd_after_descent(x: Tensor, cloud: Tensor) -> float:
    """Exact squared earth mover's distance that is left between clouds, in the mean."""
    import ot

    uniform = torch.full((x.shape[1],), 1 / x.shape[1], dtype=torch.float64).numpy()
    costs = [ot.emd2(uniform, uniform, ot.dist(a.numpy(), b.numpy())) for a, b in zip(x, cloud, strict=True)]
    return float(sum(costs) / len(costs))


def race_of_directions() -> Race:
    """Who finds, for pairs never seen before, how good a direction how fast."""
    x, y = clouds(32, 512, seed=20)
    loss = trained_loss()

    def amortised() -> Tensor:
        with torch.no_grad():
            return loss.amortizer(x, y)

    def ascended() -> Tensor:
        return distributional_sliced_wasserstein(
            x, y, concentration=KAPPA, n_projections=DIRECTIONS, random_state=0, return_location=True
        )[1]

    def max_sliced() -> Tensor:
        return max_sliced_wasserstein(x, y, random_state=0, return_location=True)[1]

    def by_pot() -> Tensor:
        import ot

        directions = []
        for a, b in zip(x, y, strict=True):
            _, log = ot.max_sliced_wasserstein_distance(a, b, n_projections=DIRECTIONS, seed=0, log=True)
            directions.append(log["projections"][:, log["projected_emds"].argmax()])
        return torch.stack(directions)

    return Race(
        title=f"Directions for 32 new pairs of 512 points, kappa {KAPPA:g}",
        ours=Contestant("paperworks, predicted by attention", amortised),
        peers=[
            Contestant("paperworks, v-DSW ascent of 50 steps", ascended),
            Contestant("paperworks, max-sliced ascent of 50 steps", max_sliced),
            Contestant(f"POT max_sliced_wasserstein_distance, best of {DIRECTIONS} draws", by_pot),
        ],
        accuracy_name="mean W_2^2 around the direction (higher is better)",
        accuracy=lambda location: along(location, x, y),
        aim="at least 10 times faster than an ascent",
    )


def race_of_steps() -> Race:
    """One step of training, gradient included, with as many directions for all."""
    x, y = clouds(32, 512, seed=30)
    loss = trained_loss()
    generator = torch.Generator().manual_seed(0)

    def sought(x: Tensor, y: Tensor) -> Tensor:
        found = distributional_sliced_wasserstein(
            x, y, concentration=KAPPA, n_projections=DIRECTIONS, random_state=generator
        )
        return found.square().mean()

    def max_sliced(x: Tensor, y: Tensor) -> Tensor:
        return max_sliced_wasserstein(x, y, random_state=generator).square().mean()

    def pot_sliced(x: Tensor, y: Tensor) -> Tensor:
        import ot

        each = [
            ot.sliced_wasserstein_distance(a, b, n_projections=DIRECTIONS, seed=0) for a, b in zip(x, y, strict=True)
        ]
        return torch.stack(each).square().mean()

    def sinkhorn(x: Tensor, y: Tensor) -> Tensor:
        from geomloss import SamplesLoss

        return SamplesLoss("sinkhorn", p=2, blur=0.05, backend="tensorized")(x, y).mean()

    def gain(gradient: Tensor) -> float:
        """Earth mover's distance after one step down the gradient, scaled alike, over that before it."""
        moved = y - 0.1 * gradient / gradient.norm(dim=(1, 2), keepdim=True) * (y.shape[1] ** 0.5)
        return emd_after_descent(x[:8], moved[:8]) / emd_after_descent(x[:8], y[:8])

    return Race(
        title=f"One training step on 32 pairs of 512 points, {DIRECTIONS} directions",
        ours=Contestant("paperworks, amortised", step(loss, x, y)),
        peers=[
            Contestant("paperworks, v-DSW ascent of 50 steps", step(sought, x, y)),
            Contestant("paperworks, max-sliced ascent of 50 steps (one direction)", step(max_sliced, x, y)),
            Contestant("POT sliced_wasserstein_distance (uniform directions)", step(pot_sliced, x, y)),
            Contestant("geomloss sinkhorn", step(sinkhorn, x, y)),
        ],
        accuracy_name="exact EMD after a step of equal length, over that before",
        accuracy=gain,
        aim="at least 10 times faster than an ascent with as many directions",
        repeats=3,
    )


def races() -> Iterator[Race]:
    yield race_of_directions()
    yield race_of_steps()
