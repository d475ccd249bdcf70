"""Claims of "Blockwise Stochastic Variance-Reduced Methods ... for Multi-Block Bilevel Optimization"."""

import tracemalloc
import warnings
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from paperworks.claims import Curve, Measurement, Scale, at_least, at_most, claim
from paperworks.datasets import load_digits
from paperworks.optimization import BlockwiseBilevel, ImportanceWeightedEnsemble, minimize_blockwise_bilevel

Array = NDArray[np.float64]
M, DX, DY = 20, 10, 5
SIZES = ((5, 1), (5, 8), (20, 1), (20, 8))
# Of the dossier's synthetic problem; lower and linear steps alike.
STEPS: dict[str, Any] = {"alpha": 0.1, "beta": 0.1, "lower_lr": 0.1, "upper_lr": 0.03}


@claim(
    "more blocks and more samples a step leave a smaller gradient",
    published="parallel speedup in blocks and samples: m / (I sqrt I) + m / (I sqrt B) of 1 / eps^3",
    where="abstract, (b)",
    measured="v2: {v2_5_1:.3f}, {v2_5_8:.3f}, {v2_20_1:.3f} and {v2_20_8:.3f} for (I, B) of (5, 1), (5, 8), (20, 1) "
    "and (20, 8)",
    seeds=5,
)
def parallel_speedup(scale: Scale, seed: int) -> Measurement:
    """At the same number of steps, sampling more blocks or more samples of each gets nearer to a stationary point."""
    problem = _Quadratics(seed)
    n_steps = 3000 if scale == "small" else 30_000
    left: dict[str, dict[tuple[int, int], float]] = {}
    curves, figures = [], {}
    for method in ("v2", "v1"):
        left[method] = {}
        for size in SIZES:
            norms = problem.path(n_steps, seed, method=method, blocks_per_step=size[0], batch_size=size[1], **STEPS)
            left[method][size] = float(norms[-500:].mean())
            figures[f"{method}_{size[0]}_{size[1]}"] = left[method][size]
            if method == "v2":
                curves.append(_curve(f"{size[0]} blocks, {size[1]} samples", norms))
    criteria = []
    for method, found in left.items():
        pairs = [((20, 8), (20, 1)), ((20, 1), (5, 1)), ((5, 8), (5, 1))]
        worst = max(found[better] / found[worse] for better, worse in pairs)
        criteria += [
            # Reason: four times the blocks and eight times the samples, of which each must help.
            at_most(
                f"gradient norm of (20, 8), ratio to (5, 1), {method}",
                found[20, 8] / found[5, 1],
                0.25,
                unit="x",
                across="every",
            ),
            # Reason: strictly ordered.
            at_most(f"gradient norm of more, largest ratio to less, {method}", worst, 1.0, unit="x", across="every"),
        ]
    return Measurement(criteria, figures=figures, curves=curves)


@claim(
    "the correction is what makes sampled blocks work",
    published="gamma = (m - I) / (I (1 - alpha)) + 1 - alpha",
    where="section 3, the MSVR estimator",
    measured="gradient norm {theory:.2f} with gamma of theory, {none:.2f} with 0, {some:.2f} with 0.7",
    seeds=5,
)
def correction(scale: Scale, seed: int) -> Measurement:
    """With five of twenty blocks a step, estimates without the correction of theory lag behind what they estimate."""
    problem = _Quadratics(seed)
    n_steps = 3000 if scale == "small" else 30_000
    left, curves = {}, []
    gammas: tuple[tuple[str, Any], ...] = (("theory", "theory"), ("none", 0.0), ("some", 0.7))
    for name, gamma in gammas:
        norms = problem.path(n_steps, seed, method="v2", gamma=gamma, blocks_per_step=5, batch_size=1, **STEPS)
        left[name] = float(norms[-500:].mean())
        curves.append(_curve(f"gamma {gamma}", norms))
    # Reason: pre-registered; without it the lag does not vanish, with it only noise is left.
    criteria = [at_most("gradient norm, ratio to gamma = 0", left["theory"] / left["none"], 0.1, unit="x")]
    note = (
        "What gamma of theory leaves is noise, what the others leave is lag. Their ratio depends on the scales of the "
        "random problem, which its recipe leaves open: here C, b and t have entries of variance 1 / 10, 1 and 1."
    )
    return Measurement(criteria, figures=left, curves=curves, note=note)


@claim(
    "the rate of methods for one block, by both versions",
    published="matches the state of the art for a single block",
    where="abstract, (a)",
    measured="steps to a gradient norm of 0.05: v1 {v1:.0f}, v2 {v2:.0f}, STORM at exact lower solutions {storm:.0f}",
    seeds=5,
)
def single_block_rate(scale: Scale, seed: int) -> Measurement:
    """With all blocks sampled, both versions are as quick as STORM that knows the lower solutions."""
    problem = _Quadratics(seed)
    n_steps = 1500 if scale == "small" else 15_000
    paths = {
        method: problem.path(n_steps, seed, method=method, blocks_per_step=20, batch_size=8, **STEPS)
        for method in ("v1", "v2")
    }
    paths["storm"] = problem.storm_path(n_steps, seed, STEPS["upper_lr"], STEPS["beta"], 8)
    counts = {name: _first_below(norms, 0.05) for name, norms in paths.items()}
    criteria = [
        # Reason: the same rate, up to a factor of two.
        at_most("steps, the larger of v1 and v2 over the smaller", _ratio(counts["v1"], counts["v2"]), 2.0, unit="x"),
        at_most(
            "steps, the larger of v1 and v2, ratio to STORM",
            max(counts["v1"], counts["v2"]) / counts["storm"],
            2.0,
            unit="x",
        ),
    ]
    return Measurement(criteria, figures=counts, curves=[_curve(name, norms) for name, norms in paths.items()])


@claim(
    "lower validation loss than RSVRB with as many samples",
    published="both versions outperform RSVRB",
    where="section 5, hyper-parameter optimisation",
    measured="validation loss: v1 {v1:.4f}, v2 {v2:.4f}, RSVRB {rsvrb:.4f}, each at its best steps",
    seeds=5,
    proxy="breast cancer with a fifth of the labels flipped and 20 temperatures for a8a and w8a with 100",
)
def better_than_rsvrb(scale: Scale, seed: int) -> Measurement:
    """Weights of samples with flipped labels: both versions leave less validation loss than the method before them."""
    X, y, held, labels = _noisy_cancer(seed)
    n_steps = 300 if scale == "small" else 3000
    largest = np.linalg.eigvalsh(X.T @ X / len(X))[-1]
    temperatures = np.linspace(1.0, 11.0, 20)

    def loss(method: Any, n_steps: int, upper: float, lower: float) -> float:
        model = ImportanceWeightedEnsemble(
            temperatures=temperatures,
            method=method,
            n_steps=n_steps,
            blocks_per_step=5,
            batch_size=16,
            upper_lr=upper,
            lower_lr=lower * 8 * temperatures**2 / largest,
            random_state=seed,
        )
        try:
            model.fit(X, y, held, labels)
        except (FloatingPointError, np.linalg.LinAlgError):
            return np.inf
        margins = (2 * labels - 1) * (model.coef_ @ held.T + model.intercept_[:, None])
        return float(np.logaddexp(0, -margins).mean())

    left, curves = {}, []
    for method in ("v1", "v2", "rsvrb"):
        grid = {pair: loss(method, n_steps, *pair) for pair in product((30.0, 100.0, 300.0), (0.1, 0.3))}
        best = min(grid, key=lambda pair: grid[pair])
        left[method] = grid[best]
        budgets = [n_steps // 10, n_steps // 3]
        losses = [loss(method, budget, *best) for budget in budgets] + [left[method]]
        samples = [2 * 5 * 16 * budget for budget in (*budgets, n_steps)]
        curves.append(Curve(method, samples, losses, "samples", "validation loss", True, True))
    criteria = [
        # Reason: pre-registered as four of five seeds.
        at_least(
            f"share of seeds in which {method} leaves no more validation loss than RSVRB",
            float(left[method] <= left["rsvrb"]),
            0.8,
            across="mean",
        )
        for method in ("v1", "v2")
    ]
    return Measurement(criteria, figures=left, curves=curves)


@claim(
    "no Hessian, no inverse",
    published="avoids inverting a high-dimensional Hessian estimate",
    where="abstract, (c)",
    measured="a step of v2 takes {v2:.2e} s, one of v1 {v1:.2f} s; v2 takes {memory:.1f} MiB in all",
)
def no_inverse(scale: Scale, seed: int) -> Measurement:
    """With lower problems of 2,000 dimensions, Hessian-vector products are cheap where Hessians are not."""
    m, dy = 50, 2000
    problem = _low_rank(m, dy, seed)
    start = np.zeros(10), np.zeros((m, dy))
    options: dict[str, Any] = {"blocks_per_step": 1, "batch_size": 1, "lower_lr": 0.001, "random_state": seed}
    seconds = {}
    for method, n_steps in (("v2", 500), ("v1", 3)):
        found = minimize_blockwise_bilevel(
            problem, *start, method=method, n_steps=n_steps, record_every=1, hessian_floor=0.5, **options
        )
        seconds[method] = float(np.median(np.diff(found.history["seconds"], prepend=0.0)))
    tracemalloc.start()
    minimize_blockwise_bilevel(problem, *start, method="v2", n_steps=20, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    criteria = [
        # Reason: dy^3 against dy; pre-registered.
        at_least("time of a step of v1, ratio to v2", seconds["v1"] / seconds["v2"], 20.0, unit="x"),
        # Reason: less than one matrix, so that there was none.
        at_most("largest memory of v2, ratio to one (dy, dy) matrix", peak / (8 * dy**2), 1.0, unit="x"),
    ]
    return Measurement(criteria, figures=seconds | {"memory": peak / 2**20})


@claim(
    "samples of flipped labels lose their weight",
    published="better test accuracy than logistic regression under shift and noise, best with many blocks",
    where="section 5, distribution shift",
    measured="accuracy {many:.3f} with 20 temperatures, {one:.3f} with one; logistic regression {plain:.3f} on the "
    "noisy samples, {baseline:.3f} at its best; flipped labels are told by their weights with an area of {area:.3f}",
    seeds=5,
    proxy="digits, odd against even with 30 % of the odd ones kept and 30 % of the labels flipped, for a8a",
)
def cleaning(scale: Scale, seed: int) -> Measurement:
    """On training data that are imbalanced and mislabelled, weights learned on a clean set help the classifier."""
    X, y, clean_X, clean_y, test_X, test_y, wrong = _shifted_digits(seed)
    n_steps = 2000 if scale == "small" else 20_000
    accuracy, area = {}, 0.0
    for name, temperatures in (("many", np.linspace(1.0, 11.0, 20)), ("one", np.ones(1))):
        model = ImportanceWeightedEnsemble(temperatures=temperatures, n_steps=n_steps, random_state=seed)
        model.fit(X, y, clean_X, clean_y)
        accuracy[name] = float((model.predict(test_X) == test_y).mean())
        if name == "many":
            area = float(roc_auc_score(wrong, -model.sample_weight_))
    # The baseline may choose what it trains on, and its penalty, by the clean set.
    accuracy["plain"] = _best_logistic(X, y, clean_X, clean_y, test_X, test_y)
    accuracy["baseline"] = max(
        accuracy["plain"],
        _best_logistic(np.r_[X, clean_X], np.r_[y, clean_y], clean_X, clean_y, test_X, test_y),
        _clean_alone(clean_X, clean_y, test_X, test_y),
    )
    criteria = [
        # Reason: better than the best logistic regression that a user could get from the same data.
        at_least("test accuracy over the best logistic regression", accuracy["many"] - accuracy["baseline"], 0.0),
        # Reason: the paper's own baseline, trained on the noisy samples, and its order of its two variants.
        at_least(
            "test accuracy over logistic regression on the noisy samples", accuracy["many"] - accuracy["plain"], 0.0
        ),
        at_least("test accuracy of many temperatures over one", accuracy["many"] - accuracy["one"], 0.0),
    ]
    note = (
        "Logistic regression that may also train on the clean set is better still. The dossier lists this application "
        "without figures. It was first tried on 8 against the rest, where every classifier, ours included, answered "
        "with the majority, then without standardised features and with a penalty of a hundred times the authors', "
        "where it failed; the thresholds are as at first."
    )
    return Measurement(criteria, figures=accuracy | {"area": area}, note=note)


class _Quadratics:
    """Quadratic lower and upper problems, with noise that belongs to the sample."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        bases = np.linalg.qr(rng.normal(size=(M, DY, DY)))[0]
        self.A = (bases * rng.uniform(0.5, 2.0, (M, 1, DY))) @ bases.swapaxes(1, 2)
        self.C = rng.normal(size=(M, DY, DX)) / np.sqrt(DX)
        self.b, self.targets = rng.normal(size=(2, M, DY))
        n = 20_000
        self.lower_noise, self.upper_noise = _centred(rng.normal(size=(n, DY))), _centred(rng.normal(size=(n, DY)))
        turned = 0.3 * rng.normal(size=(n, DY, DY))
        self.hessian_noise = _centred((turned + turned.swapaxes(1, 2)) / 2)
        self.mixed_noise = _centred(0.3 * rng.normal(size=(n, DY, DX)))
        self.inverses = np.linalg.inv(self.A)

    def as_bilevel(self) -> BlockwiseBilevel:
        return BlockwiseBilevel(
            lower_gradient=lambda x, y, blocks, batch: (
                _rows(self.A[blocks], y) - self.C[blocks] @ x - self.b[blocks] + self.lower_noise[batch].mean(1)
            ),
            upper_gradients=lambda x, y, blocks, batch: (
                0.1 * len(blocks) * x,
                y - self.targets[blocks] + self.upper_noise[batch].mean(1),
            ),
            mixed_vector=lambda x, y, v, blocks, batch: (
                -np.einsum("ijk,ij->k", self.C[blocks] + self.mixed_noise[batch].mean(1), v)
            ),
            n_samples=len(self.lower_noise),
            lower_hessian_vector=lambda x, y, v, blocks, batch: _rows(
                self.A[blocks] + self.hessian_noise[batch].mean(1), v
            ),
            lower_hessian=lambda x, y, blocks, batch: self.A[blocks] + self.hessian_noise[batch].mean(1),
        )

    def implicit(self, x: Array) -> Array:
        """v of all blocks at the exact lower solutions."""
        return _rows(self.inverses, _rows(self.inverses, self.C @ x + self.b) - self.targets)

    def gradient_norm(self, x: Array) -> float:
        return float(np.linalg.norm(0.1 * x + np.einsum("ijk,ij->k", self.C, self.implicit(x)) / M))

    def path(self, n_steps: int, seed: int, **options: Any) -> Array:
        """Exact gradient norms along the iterates."""
        norms: list[float] = []

        def remember(seen: Any) -> None:
            norms.append(self.gradient_norm(seen.x))

        with warnings.catch_warnings():
            # A step size that is too long for gamma = 0 is wanted here.
            warnings.simplefilter("ignore", UserWarning)
            minimize_blockwise_bilevel(
                self.as_bilevel(),
                np.ones(DX),
                np.zeros((M, DY)),
                n_steps=n_steps,
                random_state=seed,
                callback=remember,
                **options,
            )
        return np.array(norms)

    def storm_path(self, n_steps: int, seed: int, lr: float, beta: float, batch_size: int) -> Array:
        """STORM on all blocks' gradients at exact lower solutions, under the same noise."""
        rng = np.random.default_rng(seed)
        x = last = np.ones(DX)
        z, norms = None, []
        for _ in range(n_steps):
            upper, mixed = (rng.integers(len(self.upper_noise), size=(M, batch_size)) for _ in range(2))
            shift = _rows(self.inverses, self.upper_noise[upper].mean(1))
            C = self.C + self.mixed_noise[mixed].mean(1)
            new, old = (0.1 * each + np.einsum("ijk,ij->k", C, self.implicit(each) + shift) / M for each in (x, last))
            z = new if z is None else (1 - beta) * (z - old) + new
            last, x = x, x - lr * z
            norms.append(self.gradient_norm(x))
        return np.array(norms)


def _noisy_cancer(seed: int) -> tuple[Array, Any, Array, Any]:
    """300 samples of which a fifth have the wrong label, and the others with theirs."""
    X, y = load_breast_cancer(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    X, y = (X[order] - X[order[:300]].mean(0)) / X[order[:300]].std(0), y[order]
    return X[:300], np.where(rng.random(300) < 0.2, 1 - y[:300], y[:300]), X[300:], y[300:]


def _low_rank(m: int, dy: int, seed: int) -> BlockwiseBilevel:
    """Lower Hessians of identity plus rank one, whose products cost what a vector costs."""
    rng = np.random.default_rng(seed)
    directions, targets = rng.normal(size=(m, dy)) / np.sqrt(dy), rng.normal(size=(m, dy))
    maps = rng.normal(size=(dy, 10)) / np.sqrt(dy)

    def times(y: Array, blocks: Any) -> Array:
        q = directions[blocks]
        return y + (q * y).sum(1, keepdims=True) * q

    return BlockwiseBilevel(
        lower_gradient=lambda x, y, blocks, batch: times(y, blocks) - maps @ x,
        upper_gradients=lambda x, y, blocks, batch: (np.zeros_like(x), y - targets[blocks]),
        mixed_vector=lambda x, y, v, blocks, batch: -(v @ maps).sum(0),
        n_samples=1,
        lower_hessian_vector=lambda x, y, v, blocks, batch: times(v, blocks),
        lower_hessian=lambda x, y, blocks, batch: np.stack([np.eye(dy) + np.outer(q, q) for q in directions[blocks]]),
    )


@cache
def _digits() -> tuple[Array, NDArray[np.int64]]:
    digits = load_digits()
    return np.asarray(digits.data, dtype=np.float64).reshape(len(digits.data), -1) / 16, np.asarray(digits.target)


def _shifted_digits(seed: int) -> tuple[Any, ...]:
    """1,200 digits of which few odd ones are kept and labels are flipped, 100 clean ones, and the rest for the test."""
    X, target = _digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(target))
    X, y = X[order], target[order] % 2
    train, clean, test = slice(0, 1200), slice(1200, 1300), slice(1300, None)
    kept = (y[train] == 0) | (rng.random(1200) < 0.3)
    X = StandardScaler().fit(X[train][kept]).transform(X)
    train_X, train_y = X[train][kept], y[train][kept]
    wrong = rng.random(len(train_y)) < 0.3
    return train_X, np.where(wrong, 1 - train_y, train_y), X[clean], y[clean], X[test], y[test], wrong


def _best_logistic(X: Array, y: Any, clean_X: Array, clean_y: Any, test_X: Array, test_y: Any) -> float:
    models = [LogisticRegression(C=C, max_iter=2000).fit(X, y) for C in (1e-3, 1e-2, 0.1, 1.0, 10.0)]
    best = max(models, key=lambda model: model.score(clean_X, clean_y))
    return float(best.score(test_X, test_y))


def _clean_alone(clean_X: Array, clean_y: Any, test_X: Array, test_y: Any) -> float:
    """Chosen by leaving samples out, as there are no others."""
    from sklearn.linear_model import LogisticRegressionCV

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegressionCV(Cs=np.array([1e-3, 1e-2, 0.1, 1.0, 10.0]), cv=5, max_iter=2000)
        return float(model.fit(clean_X, clean_y).score(test_X, test_y))


def _centred(values: Array) -> Array:
    return values - values.mean(0)


def _rows(matrices: Array, vectors: Array) -> Array:
    return np.asarray((matrices @ vectors[..., None])[..., 0])


def _first_below(norms: Array, level: float, window: int = 50) -> float:
    """First step at which the mean over a window is below the level; twice as many as were made, if never."""
    means = np.convolve(norms, np.ones(window) / window, "valid")
    below = np.flatnonzero(means <= level)
    return float(below[0] + window if len(below) else 2 * len(norms))


def _ratio(a: float, b: float) -> float:
    return max(a, b) / min(a, b)


def _curve(name: str, norms: Array) -> Curve:
    kept = np.unique(np.linspace(0, len(norms) - 1, 200).astype(int))
    smooth: Callable[[int], float] = lambda i: float(norms[max(0, i - 20) : i + 1].mean())  # noqa: E731
    return Curve(name, (kept + 1).tolist(), [smooth(i) for i in kept], "step", "gradient norm", False, True)
