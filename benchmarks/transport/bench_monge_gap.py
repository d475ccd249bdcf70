"""Monge gap: value and gradient against ott-jax, a learned map against POT's kernel mapping."""

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.racing import Contestant, NotHere, Race
from paperworks.transport import MongeMap
from paperworks.transport.monge_gap import monge_gap, sinkhorn_divergence

RELATIVE_EPSILON, TOLERANCE = 0.01, 1e-3


def races() -> Iterator[Race]:
    for n in (256, 1024):
        yield _training_step(n)
    yield _learned_map()


def _training_step(n: int) -> Race:
    """The gap of a small network's map, and its gradient in the network's weights."""
    x, weights = _points(n), _weights()
    mapped = _forward(torch.from_numpy(x), [torch.from_numpy(w) for w in weights]).numpy()
    epsilon = RELATIVE_EPSILON * float(np.mean(np.sum((x[:, None] - mapped) ** 2, axis=-1)))
    truth, true_gradient = _ours(x, weights, epsilon, 1e-9, torch.float64)()

    def accuracy(result: tuple[float, np.ndarray]) -> float:
        value, gradient = result
        direction = np.linalg.norm(gradient - true_gradient) / np.linalg.norm(true_gradient)
        return max(abs(value - truth) / abs(truth), float(direction))

    return Race(
        title=f"Monge gap and its gradient in a network's weights, n = {n}, epsilon = 0.01 mean cost, tol 1e-3",
        ours=Contestant("paperworks monge_gap", _ours(x, weights, epsilon, TOLERANCE, torch.float32)),
        peers=[Contestant("ott-jax monge_gap_from_samples", _theirs(x, weights, epsilon))],
        accuracy_name="relative error of value and gradient",
        accuracy=accuracy,
        aim="at most 1x of ott-jax's time at n = 256, at most 0.7x at n = 1024",
        repeats=10,
    )


def _points(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)


def _weights() -> list[np.ndarray]:
    generator, sizes = np.random.default_rng(1), (2, 32, 64, 32, 2)
    return [(generator.normal(size=pair) / np.sqrt(pair[0]) * 1.5).astype(np.float32) for pair in pairwise(sizes)]


def _forward(x: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    for weight in weights[:-1]:
        x = torch.nn.functional.gelu(x @ weight, approximate="tanh")
    return x @ weights[-1]


def _ours(
    x: np.ndarray, weights: list[np.ndarray], epsilon: float, tol: float, dtype: torch.dtype
) -> Callable[[], tuple[float, np.ndarray]]:
    source = torch.from_numpy(x).to(dtype)
    parameters = [torch.from_numpy(weight).to(dtype).requires_grad_() for weight in weights]

    def run() -> tuple[float, np.ndarray]:
        gap = monge_gap(source, _forward(source, parameters), epsilon=epsilon, estimator="entropy", tol=tol)
        gradients = torch.autograd.grad(gap, parameters)
        return gap.item(), torch.cat([gradient.ravel() for gradient in gradients]).numpy()

    return run


def _theirs(x: np.ndarray, weights: list[np.ndarray], epsilon: float) -> Callable[[], tuple[float, np.ndarray]]:
    @cache
    def compiled() -> Any:
        import jax

        gap = _ott_monge_gap()

        def loss(parameters: list[Any]) -> Any:
            mapped = jax.numpy.array(x)
            for weight in parameters[:-1]:
                mapped = jax.nn.gelu(mapped @ weight)
            mapped = mapped @ parameters[-1]
            return gap(jax.numpy.array(x), mapped, epsilon=epsilon, threshold=TOLERANCE)

        return jax.jit(jax.value_and_grad(loss))

    def run() -> tuple[float, np.ndarray]:
        value, gradients = compiled()(weights)
        return float(value), np.concatenate([np.asarray(gradient).ravel() for gradient in gradients])

    return run


def _ott_monge_gap() -> Any:
    """Load ott's module by its file: the package around it wants a solver of differential equations."""
    import ott

    path = Path(ott.__file__).parent / "neural" / "methods" / "monge_gap.py"
    spec = importlib.util.spec_from_file_location("ott_monge_gap", path)
    if spec is None or spec.loader is None:
        raise NotHere("this ott-jax has no Monge gap")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.monge_gap_from_samples


def _learned_map() -> Race:
    """Moons carried to an S: what a user of POT has today is a barycentric projection smoothed by a kernel."""
    from sklearn.datasets import make_moons, make_s_curve

    x, fresh = (make_moons(1000, noise=0.05, random_state=seed)[0] for seed in (0, 1))
    y, fresh_y = (make_s_curve(1000, noise=0.05, random_state=seed)[0][:, [0, 2]] for seed in (0, 1))

    def ours() -> np.ndarray:
        estimator = MongeMap(regularization=1.0, n_iterations=1000, learning_rate=3e-3, random_state=0, progress=False)
        return estimator.fit(x, y).transform(fresh)

    def kernel_mapping() -> np.ndarray:
        import ot

        mapping = ot.da.MappingTransport(kernel="gaussian", mu=1.0, eta=1e-3, sigma=1.0, bias=True, max_iter=20)
        return mapping.fit(Xs=x, Xt=y).transform(Xs=fresh)

    return Race(
        title="a map from two moons to an S curve, 1000 + 1000 points, judged on 1000 new ones",
        ours=Contestant("paperworks MongeMap", ours),
        peers=[Contestant("POT MappingTransport", kernel_mapping)],
        accuracy_name="Sinkhorn divergence to the target",
        accuracy=lambda mapped: float(sinkhorn_divergence(np.asarray(mapped), fresh_y, relative_epsilon=0.01)),
        aim="context: a lower divergence on new points",
        repeats=1,
    )
