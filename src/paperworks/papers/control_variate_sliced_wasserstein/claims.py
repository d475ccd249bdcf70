"""Claims of "Sliced Wasserstein Estimation with Control Variates"."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

from paperworks._threads import one_thread
from paperworks.claims import Curve, Measurement, Scale, at_most, claim
from paperworks.transport import (
    SlicedWassersteinLoss,
    sliced_wasserstein_distance,
    sliced_wasserstein_gradient_flow,
)

# The paper's own estimator, not our extension of it.
PAPER: Literal["paper"] = "paper"
_ESTIMATORS: tuple[tuple[str, Literal["lower", "upper"] | None], ...] = (
    ("plain", None),
    ("lower", "lower"),
    ("upper", "upper"),
)


@claim(
    "lower variance on images",
    published="variance reduced considerably",
    where="abstract",
    measured="error of {plain:.1e} plain, {lower:.1e} lower, {upper:.1e} upper at 10 directions",
    seeds=3,
    proxy="8 x 8 digits of scikit-learn for the paper's images; squared error about 20,000 directions for variance",
)
@one_thread()
def lower_variance_on_images(scale: Scale, seed: int) -> Measurement:
    """With either control variate, estimates of the distance between sets of images vary considerably less."""
    repeats = 500 if scale == "small" else 5000
    counts = (10, 50, 100) if scale == "small" else (10, 20, 50, 100, 200, 500, 1000)
    images, labels = load_digits(return_X_y=True)
    worst: dict[tuple[str, int], float] = {}
    for first, second in ((0, 1), (3, 8)):
        x, y = images[labels == first] / 16, images[labels == second] / 16
        size = min(len(x), len(y))
        errors = _squared_errors(x[:size], y[:size], counts, repeats, seed)
        if (first, second) == (0, 1):
            shown = errors
        for (name, count), error in errors.items():
            worst[name, count] = max(worst.get((name, count), 0.0), error / errors["plain", count])
    criteria = [
        # "Considerably" is read as: at most half the squared error, for the worse of the two pairs of digits.
        at_most(f"squared error, {name} bound against plain, {count} directions", worst[name, count], 0.5, unit="x")
        for name in ("lower", "upper")
        for count in (10, 100)
    ]
    return Measurement(criteria, figures=_at_ten(shown), curves=_error_curves(shown, counts))


@claim(
    "lower variance on point clouds",
    published="variance reduced considerably",
    where="abstract",
    measured="error of {plain:.1e} plain, {lower:.1e} lower, {upper:.1e} upper at 10 directions",
    seeds=3,
    proxy="a torus and a shifted ellipsoid for the paper's scanned shapes",
)
@one_thread()
def lower_variance_on_point_clouds(scale: Scale, seed: int) -> Measurement:
    """With either control variate, estimates of the distance between two point clouds vary considerably less."""
    repeats = 200 if scale == "small" else 5000
    counts = (10, 100) if scale == "small" else (10, 20, 50, 100, 200, 500, 1000)
    rng = np.random.default_rng(seed)
    errors = _squared_errors(
        _torus(2048, rng), _ellipsoid(2048, rng) + np.array([1.0, 0.0, 0.0]), counts, repeats, seed
    )
    criteria = [
        # "Considerably" is read as: at most half the squared error.
        at_most(
            f"squared error, {name} bound against plain, {count} directions",
            errors[name, count] / errors["plain", count],
            0.5,
            unit="x",
        )
        for name in ("lower", "upper")
        for count in (10, 100)
    ]
    return Measurement(criteria, figures=_at_ten(errors), curves=_error_curves(errors, counts))


@claim(
    "no gain where the means agree",
    published="not stated",
    where="our own check of the method's limit",
    measured="error of {plain:.1e} plain, {lower:.1e} lower, {upper:.1e} upper at 10 directions",
    seeds=3,
    proxy="a torus and an ellipsoid with equal means",
)
@one_thread()
def no_gain_where_the_means_agree(scale: Scale, seed: int) -> Measurement:
    """Where two clouds differ in shape alone, the control variates have little to remove; they must not do harm."""
    repeats = 500 if scale == "small" else 10_000
    rng = np.random.default_rng(seed)
    # The surfaces have equal means, and the samples nearly so.
    x, y = _torus(2048, rng), _ellipsoid(2048, rng)
    errors = _squared_errors(x, y, (10,), repeats, seed)
    # A coefficient fitted in vain to 10 directions costs a factor 1 + 1 / (10 - 2) in variance; twice that is allowed.
    criteria = [
        at_most(f"squared error, {name} bound against plain", errors[name, 10] / errors["plain", 10], 1.25, unit="x")
        for name in ("lower", "upper")
    ]
    note = "A limit of the method, not a success: with equal means its control variates barely move with the distance."
    return Measurement(criteria, figures=_at_ten(errors), note=note)


@claim(
    "better gradient flow between point clouds",
    published="favorable performance",
    where="abstract",
    measured="W2 to the target after the last step {plain_last:.3f} plain, {lower_last:.3f} lower",
    proxy="a torus and an ellipsoid of 256 points for scanned shapes; a tenth of the steps, each ten times as long",
)
@one_thread()
def better_gradient_flow(scale: Scale, seed: int) -> Measurement:
    """Points that descend the corrected distance are nearer to their target than with plain sliced Wasserstein."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    size, n_steps, learning_rate, repeats = (256, 800, 0.1, 10) if scale == "small" else (1024, 8000, 0.01, 10)
    every = n_steps // 8
    lefts = {"plain": np.zeros(9), "lower": np.zeros(9)}
    # One step's W2 swings with its few directions: the means over many runs are compared.
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        # As in the authors' run: shapes of twice their size, 20 apart along every axis, 10 directions a step.
        source, target = 2 * _torus(size, rng) - 10, 2 * _ellipsoid(size, rng) + 10
        directions_seed = int(rng.integers(2**31))
        for name, control_variate in _ESTIMATORS[:2]:
            flow = sliced_wasserstein_gradient_flow(
                source,
                target,
                n_steps=n_steps,
                learning_rate=learning_rate,
                n_projections=10,
                control_variate=control_variate,
                coefficient=PAPER,
                random_state=directions_seed,
                record_every=every,
                progress=False,
            )
            for record, points in enumerate(flow.history):
                cost = cdist(points, target, "sqeuclidean")
                lefts[name][record] += np.sqrt(cost[linear_sum_assignment(cost)].mean()) / repeats
    # The authors report 3/8, 4/8, 5/8, 6/8 and 8/8 of the way. Favourable is: not farther than plain, on average.
    criteria = [
        at_most(
            f"W2 to the target, lower bound against plain, after {eighths}/8 of the steps",
            lefts["lower"][eighths] / lefts["plain"][eighths],
            1.0,
            unit="x",
        )
        for eighths in (8, 6, 5, 4, 3)
    ]
    steps = [every * k for k in range(9)]
    curves = [Curve(name, steps, left.tolist(), "step", "W2 to the target", log_y=True) for name, left in lefts.items()]
    figures = {f"{name}_last": float(left[-1]) for name, left in lefts.items()}
    note = "Once the clouds have met, their means agree and the control variate has nothing left to remove."
    return Measurement(criteria, figures=figures, curves=curves, note=note)


@claim(
    "better generative modelling",
    published="favorable performance on CIFAR10 and CelebA",
    where="abstract",
    measured="distance to the data {plain:.4f} plain, {lower:.4f} lower, {upper:.4f} upper, {detached:.4f} detached",
    seeds=3,
    proxy="a small generator of 8 x 8 digits, compared in pixels, for adversarial networks on photographs",
)
@one_thread()
def better_generative_modelling(scale: Scale, seed: int) -> Measurement:
    """Generators that are trained on the corrected distances, 10 directions a step, come nearer to the data."""
    n_steps = 500 if scale == "small" else 5000
    contestants: dict[str, dict] = {
        "plain": {"control_variate": None},
        "lower": {"control_variate": "lower"},
        "upper": {"control_variate": "upper"},
        "detached": {"control_variate": "lower", "detach_coefficient": True},
    }
    scores = {name: _train_generator(seed, n_steps, **options) for name, options in contestants.items()}
    figures = {name: float(score[-1]) for name, score in scores.items()}
    criteria = [
        # Favourable is: not farther from the data than plain, on average over seeds.
        at_most(
            f"distance to the data, {name} bound against plain",
            figures[name] / figures["plain"],
            1.0,
            unit="x",
            across="mean",
        )
        for name in ("lower", "upper")
    ]
    steps = [n_steps * (k + 1) // 5 for k in range(5)]
    curves = [Curve(name, steps, score, "step", "distance to the data", log_y=True) for name, score in scores.items()]
    note = (
        "As in the authors' code, the gradient also runs through the coefficient, which is fitted to the same 10 "
        "directions and so biases the loss; with the coefficient held constant (detached) the lower bound does better."
    )
    return Measurement(criteria, figures=figures, curves=curves, note=note)


def _squared_errors(
    x: NDArray[np.float64], y: NDArray[np.float64], counts: tuple[int, ...], repeats: int, seed: int
) -> dict[tuple[str, int], float]:
    """Mean squared error of the p-th power, by estimator and number of directions; all see the same directions."""
    truth = sliced_wasserstein_distance(x, y, n_projections=20_000, squared=True, random_state=seed + 1000)
    at_once = 10
    pair = [torch.from_numpy(points).expand(at_once, *points.shape) for points in (x, y)]
    errors = {}
    for count in counts:
        for name, control_variate in _ESTIMATORS:
            generator = np.random.default_rng([seed, count])
            found = [
                sliced_wasserstein_distance(
                    *pair,
                    n_projections=count,
                    control_variate=control_variate,
                    coefficient=PAPER,
                    squared=True,
                    random_state=generator,
                )
                for _ in range(repeats // at_once)
            ]
            errors[name, count] = float((torch.cat(found) - truth).square().mean())
    return errors


def _at_ten(errors: dict[tuple[str, int], float]) -> dict[str, float]:
    return {name: error for (name, count), error in errors.items() if count == 10}


def _error_curves(errors: dict[tuple[str, int], float], counts: tuple[int, ...]) -> list[Curve]:
    return [
        Curve(name, counts, [errors[name, count] for count in counts], "directions", "squared error", True, True)
        for name in ("plain", "lower", "upper")
    ]


def _torus(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Points of a torus of radii 1 and 0.3."""
    around, across = rng.uniform(0, 2 * np.pi, size=(2, n))
    reach = 1 + 0.3 * np.cos(across)
    return np.stack([reach * np.cos(around), reach * np.sin(around), 0.3 * np.sin(across)], axis=1)


def _ellipsoid(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Points of an ellipsoid of half axes 0.5, 0.7 and 1.2."""
    normal = rng.normal(size=(n, 3))
    return normal / np.linalg.norm(normal, axis=1, keepdims=True) * [0.5, 0.7, 1.2]


def _train_generator(seed: int, n_steps: int, **options) -> list[float]:
    """Train a small generator of digits and return its distance to them at five times."""
    data = torch.from_numpy(load_digits().data / 16).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss = SlicedWassersteinLoss(10, coefficient=PAPER, random_state=seed, **options)
    noise = torch.randn(len(data), 8, generator=torch.Generator().manual_seed(seed + 1000))
    scores = []
    for step in range(1, n_steps + 1):
        batch = data[torch.randint(len(data), (128,), generator=generator)]
        distance = loss(network(torch.randn(128, 8, generator=generator)), batch)
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
        if step % (n_steps // 5) == 0:
            with torch.no_grad():
                made = network(noise)
            scores.append(float(sliced_wasserstein_distance(made, data, n_projections=2000, random_state=seed)))
    return scores
