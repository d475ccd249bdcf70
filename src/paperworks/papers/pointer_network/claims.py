"""Claims of "Pointer Networks"."""

from typing import Any, Literal

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray

from paperworks._threads import one_thread
from paperworks.claims import Criterion, Curve, Measurement, Scale, at_least, at_most, claim
from paperworks.combinatorial import (
    ConvexHullMetrics,
    PointerSolver,
    SequenceToSequence,
    convex_hull_metrics,
    delaunay_metrics,
    make_geometry_dataset,
    tour_length,
)

Model = Literal["pointer", "attention", "plain"]
Points = list[NDArray[np.float64]]
MODELS: tuple[Model, ...] = ("pointer", "attention", "plain")
Initialization = Literal["uniform", "scaled"]
PROXY = "states of size 64 and some thousand steps with Adam, for 512 and a million examples with gradient descent"

SCALED = f"{PROXY}; initial weights larger by the square root of 512 units over these"
HULLS = (
    "hulls right at the shortest and the longest length trained on: pointer {pointer_short:.1%}, {pointer_long:.1%}; "
    "with attention {attention_short:.1%}, {attention_long:.1%}; without {plain_short:.1%}, {plain_long:.1%}; area of "
    "the vertices on longer inputs {longer:.1%}, {longest:.1%}; {not_simple:.1%} of the outputs at the longest length "
    "are no simple polygons"
)
TOURS = (
    "{short:.3f} of the shortest length at 6 points, {long:.3f} at the longest; there nearest neighbour {nearest:.3f}, "
    "random tours {random:.3f}"
)


@claim(
    "better than sequence to sequence, and on longer inputs than it was trained on",
    published="improves over sequence to sequence with input attention, generalises beyond the maximum training length",
    where="abstract; section on convex hulls",
    measured=HULLS,
    seeds=3,
    proxy=PROXY,
)
def better_and_longer(scale: Scale, seed: int) -> Measurement:
    """Pointing finds more convex hulls than fixed dictionaries do, with and without attention, and generalises.

    All three networks have one size, one optimiser and as many steps. What fixed dictionaries can't name at all, the
    pointer network still answers: on sets larger than any it was trained on its vertices span most of the hull.
    """
    return _better_and_longer(scale, seed, "uniform")


@claim(
    "the same with initial weights scaled to the size of the states: better and longer",
    published="improves over sequence to sequence with input attention, generalises beyond the maximum training length",
    where="abstract; section on convex hulls",
    measured=HULLS,
    seeds=3,
    proxy=SCALED,
)
def better_and_longer_scaled(scale: Scale, seed: int) -> Measurement:
    """Pointing finds more convex hulls than fixed dictionaries do, with and without attention, and generalises.

    As `better_and_longer`, thresholds and all, but with larger initial weights, for the baselines too: the bound
    of the paper is one of networks of 512 units. This claim was added when that one had been measured.
    """
    return _better_and_longer(scale, seed, "scaled")


def _better_and_longer(scale: Scale, seed: int, initialization: Initialization) -> Measurement:
    least, most, hidden, steps = (5, 7, 64, 2500) if scale == "small" else (5, 10, 128, 20_000)
    lengths = (9, 12) if scale == "small" else (15, 20, 50)
    sizes = {model: tuple(range(least, most + 1)) for model in MODELS}
    sizes["pointer"] += lengths
    # Networks too small to share the cores: each is trained in a process of its own.
    jobs = 1 if torch.cuda.is_available() else len(MODELS)
    judged = Parallel(n_jobs=jobs)(
        delayed(_train_and_judge)(model, (least, most), sizes[model], hidden, steps, initialization, seed)
        for model in MODELS
    )
    found = {model: each for model, (each, _) in zip(MODELS, judged, strict=True)}
    pointer = found["pointer"]
    leads = [pointer[most].accuracy - found[model][most].accuracy for model in ("attention", "plain")]
    beyond = {n: pointer[n].vertex_area_ratio for n in lengths}
    criteria = _criteria(scale, pointer, least, most, leads, beyond)
    if scale == "full" and torch.cuda.is_available():
        criteria += _at_the_papers_size(initialization, seed)
    figures = {f"{model}_short": each[least].accuracy for model, each in found.items()}
    figures |= {f"{model}_long": each[most].accuracy for model, each in found.items()}
    figures |= {"longer": beyond[lengths[0]], "longest": beyond[lengths[1]], "not_simple": pointer[most].not_simple}
    curves = _curves(found) + [loss for _, loss in judged]
    errors = max(each[n].accuracy_error for each in found.values() for n in (least, most))
    share = _first_points(lengths[1], most, seed)
    note = (
        f"Standard errors of accuracies are at most {errors:.3f}. Areas are those of outputs that are simple polygons; "
        "where over 1 % are not, the paper's tables give none. A dictionary of fixed length can't name "
        f"positions above {most}: of sets of {lengths[1]} it could reach {share:.0%} of the area at best. Positions "
        "beyond an input's length are ruled out for the baselines, a help that they do not have in the paper. Losses "
        "first stay at what a network has that does not look at the points; after 2,500 steps those of the baselines "
        "have hardly left it, and a training that leaves it late pulls down the mean over seeds."
    )
    return Measurement(criteria, figures=figures, curves=curves, note=note)


@claim(
    "approximate tours from examples alone",
    published="learns approximate solutions to the planar travelling salesman problem",
    where="abstract; section on the travelling salesman problem",
    measured=TOURS,
    seeds=3,
    proxy=PROXY,
)
@one_thread()
def approximate_tours(scale: Scale, seed: int) -> Measurement:
    """Trained on shortest tours alone, a beam search over valid tours comes near the shortest."""
    return _approximate_tours(scale, seed, "uniform")


@claim(
    "the same with initial weights scaled to the size of the states: approximate tours",
    published="learns approximate solutions to the planar travelling salesman problem",
    where="abstract; section on the travelling salesman problem",
    measured=TOURS,
    seeds=3,
    proxy=SCALED,
)
@one_thread()
def approximate_tours_scaled(scale: Scale, seed: int) -> Measurement:
    """Trained on shortest tours alone, a beam search over valid tours comes near the shortest.

    As `approximate_tours`, thresholds and all, but with larger initial weights: the paper's bound is one of networks of
    512 units. This claim was added when that one had been measured.
    """
    return _approximate_tours(scale, seed, "scaled")


def _approximate_tours(scale: Scale, seed: int, initialization: Initialization) -> Measurement:
    most, hidden, steps = (8, 64, 4000) if scale == "small" else (10, 128, 60_000)
    options: dict[str, Any] = {"initialization": initialization, "random_state": seed, "progress": False}
    solver = PointerSolver("tsp", hidden, steps, n_points=(5, most), **options).fit()
    rng = np.random.default_rng([seed, 1])
    ratios = {n: _tours(solver, n, 1000, rng) for n in range(5, most + 3)}
    if scale == "small":
        criteria = [
            # "Approximate": random tours are more than a third too long; a quarter of that or so is left.
            at_most("length at n = 6, ratio to the shortest", ratios[6]["pointer"], 1.10, unit="x", across="mean"),
            # The same at the longest size trained on, where random tours are three fifths too long.
            at_most("length at n = 8, ratio to the shortest", ratios[8]["pointer"], 1.20, unit="x", across="mean"),
        ]
    else:
        # The paper's mean lengths for 10 points differ by less than one in a hundred; as much again is slack.
        criteria = [at_most("length at n = 10, ratio to the shortest", ratios[10]["pointer"], 1.02, unit="x")]
    axes = ("points", "length, ratio to the shortest")
    curves = [
        Curve(label, list(ratios), [each[key] for each in ratios.values()], *axes)
        for label, key in (("pointer network", "pointer"), ("nearest neighbour", "nearest"), ("random", "random"))
    ]
    figures = {"short": ratios[6]["pointer"], "long": ratios[most]["pointer"], **ratios[most]}
    note = (
        f"Trained on 5 to {most} points; the curve goes two points further. For thousands of steps the loss stays at "
        "what a network has that does not look at the points, and then falls. With the paper's initial weights 4,000 "
        "steps end about where it begins to fall at this size; with larger ones it falls sooner, but at some seeds "
        "not soon enough; orthogonal ones do not help."
    )
    return Measurement(criteria, figures=figures, curves=[*curves, _losses(solver, "tours")], note=note)


@claim(
    "Delaunay triangulations from examples alone",
    published="learns approximate solutions to Delaunay triangulation",
    where="abstract; section on Delaunay triangulation",
    measured="{coverage:.1%} of the triangles, {accuracy:.1%} of the triangulations of 5 points",
    seeds=2,
    proxy=PROXY,
)
@one_thread()
def triangulations(scale: Scale, seed: int) -> Measurement:
    """Trained on triangulations alone, the network finds most triangles of five points."""
    hidden, steps, least = (64, 4000, 0.50) if scale == "small" else (128, 60_000, 0.88)
    options: dict[str, Any] = {"initialization": "uniform", "random_state": seed, "progress": False}
    solver = PointerSolver("delaunay", hidden, steps, n_points=5, **options).fit()
    points, _ = make_geometry_dataset("delaunay", 2000, 5, random_state=np.random.default_rng([seed, 1]))
    metrics = delaunay_metrics(points, solver.predict(points))
    # "Approximate": most of the triangles; at full scale near what the paper reaches with a million examples.
    criteria = [at_least("share of the triangles that are found", metrics.coverage, least, across="mean")]
    figures = {"coverage": metrics.coverage, "accuracy": metrics.accuracy}
    note = f"Standard errors: {metrics.coverage_error:.3f} and {metrics.accuracy_error:.3f}."
    return Measurement(criteria, figures=figures, curves=[_losses(solver, "triangulations")], note=note)


@one_thread()
def _train_and_judge(
    model: Model,
    trained: tuple[int, int],
    sizes: tuple[int, ...],
    hidden: int,
    steps: int,
    initialization: Initialization,
    seed: int,
) -> tuple[dict[int, ConvexHullMetrics], Curve]:
    """How good one network's hulls are, by the number of points, and its losses."""
    network = None
    if model != "pointer":
        network = SequenceToSequence(
            hidden_size=hidden,
            attention=model == "attention",
            max_length=trained[1],
            initialization=initialization,
            random_state=seed,
        )
    options: dict[str, Any] = {"initialization": initialization, "network": network, "random_state": seed}
    solver = PointerSolver("convex_hull", hidden, steps, n_points=trained, progress=False, **options).fit()
    metrics = {}
    for n in sizes:
        points, _ = make_geometry_dataset("convex_hull", 2000, n, random_state=np.random.default_rng([seed, n]))
        metrics[n] = convex_hull_metrics(points, solver.predict(points))
    return metrics, _losses(solver, model)


def _criteria(
    scale: Scale,
    pointer: dict[int, ConvexHullMetrics],
    least: int,
    most: int,
    leads: list[float],
    beyond: dict[int, float],
) -> list[Criterion]:
    """Both statements' criteria, on the mean of the seeds."""
    if scale == "small":
        return [
            # Nearly half of the hulls shows that the form was learned: of 5 points, chance gets one in hundreds.
            at_least("accuracy at n = 5", pointer[least].accuracy, 0.45, across="mean"),
            # "Improve over": two standard errors of 2,000 sets.
            at_least("lead over the better baseline at n = 7", min(leads), 0.02, across="mean"),
            # Slack of a few points to the paper's areas of over 99 %, for a thousandth of its examples.
            at_least("area at n = 5", pointer[least].area_ratio, 0.95, across="mean"),
            at_least("area at n = 7", pointer[most].area_ratio, 0.95, across="mean"),
            # "Generalise": the paper's areas fall by a point or less; ours may fall by ten, and by twenty further on.
            at_least("area of the vertices at n = 9", beyond[9], 0.90, across="mean"),
            at_least("area of the vertices at n = 12", beyond[12], 0.80, across="mean"),
        ]
    return [
        # The paper's accuracies for small sets, with slack for a fortieth of its training.
        at_least("accuracy at n = 10", pointer[most].accuracy, 0.6, across="mean"),
        at_least("lead over attention at n = 10", leads[0], 0.05, across="mean"),
        at_least("lead over the plain baseline at n = 10", leads[1], 0.25, across="mean"),
        at_least("area of the vertices at n = 20", beyond[20], 0.95, across="mean"),
    ]


def _at_the_papers_size(initialization: Initialization, seed: int) -> list[Criterion]:
    """On a GPU: sets of 5 to 50 points, as in the paper."""
    metrics = _train_and_judge("pointer", (5, 50), (50,), 256, 100_000, initialization, seed)[0][50]
    # The paper's figures at this size, with slack for a smaller network and fewer examples.
    return [
        at_least("accuracy at n = 50", metrics.accuracy, 0.5, across="mean"),
        at_least("area at n = 50", metrics.area_ratio, 0.995, across="mean"),
    ]


def _first_points(n: int, most: int, seed: int) -> float:
    """Share of the area that the first ``most`` points of sets of n span."""
    points, _ = make_geometry_dataset("convex_hull", 2000, n, random_state=np.random.default_rng([seed, n]))
    return convex_hull_metrics(points, [list(range(most))] * len(points)).vertex_area_ratio


def _curves(found: dict[Model, dict[int, ConvexHullMetrics]]) -> list[Curve]:
    """Accuracy and area by the number of points."""
    curves = []
    for model, each in found.items():
        sizes = list(each)
        curves.append(Curve(model, sizes, [one.accuracy for one in each.values()], "points", "hulls right"))
        areas = [one.vertex_area_ratio for one in each.values()]
        curves.append(Curve(model, sizes, areas, "points", "area of the vertices"))
    return curves


def _losses(solver: PointerSolver, label: str) -> Curve:
    """The loss, as means of a hundredth of the training each."""
    means = [float(part.mean()) for part in np.array_split(np.array(solver.loss_curve_), 100)]
    steps = [(k + 0.5) * solver.n_steps_ / 100 for k in range(100)]
    return Curve(label, steps, means, "step", "loss, nats a symbol")


def _tours(solver: PointerSolver, n: int, count: int, rng: np.random.Generator) -> dict[str, float]:
    """Mean lengths over the mean shortest length."""
    points, shortest = make_geometry_dataset("tsp", count, n, random_state=rng)
    tours = {
        "pointer": solver.predict(points),
        "nearest": [_nearest_neighbours(P) for P in points],
        "random": [rng.permutation(n) for _ in points],
    }
    return {name: _mean_length(points, each) / _mean_length(points, shortest) for name, each in tours.items()}


def _mean_length(points: Points, tours: list[Any]) -> float:
    return float(np.mean([tour_length(P, tour) for P, tour in zip(points, tours, strict=True)]))


def _nearest_neighbours(points: NDArray[np.float64]) -> list[int]:
    tour, left = [0], set(range(1, len(points)))
    while left:
        tour.append(min(left, key=lambda p: float(np.linalg.norm(points[p] - points[tour[-1]]))))
        left.remove(tour[-1])
    return tour
