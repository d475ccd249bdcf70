"""Transport maps learned from unpaired samples: any network, a fitting loss, and the Monge gap."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from paperworks._progress import progress_bar
from paperworks._random import RandomState, numpy_generator, torch_generator
from paperworks._training import start_training
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.transport.monge_gap._costs import (
    Cost,
    accepts_other_dimension,
    is_symmetric,
    paired_costs,
    resolve_cost,
)
from paperworks.transport.monge_gap._entropic import entropic_cost, warn_unconverged
from paperworks.transport.monge_gap._gap import sinkhorn_divergence
from paperworks.transport.monge_gap._maps import SphereMap, identity_map, multilayer_perceptron

TRAINING_TOLERANCE, TRAINING_SWEEPS = 1e-3, 1000
# A batch's plan that stops a little early is noise among batches; one that stops above this is worth a warning.
LARGEST_TRAINING_ERROR = 1e-2
EVALUATION_TOLERANCE, EVALUATION_SWEEPS, EVALUATION_SAMPLES = 1e-6, 10_000, 1024
GRADIENT_NORM = 10.0
# Training ends early once the mean loss over 50 steps has stayed within 1e-4 of itself for 200 steps.
AVERAGED_STEPS, SETTLED_STEPS, SETTLED_CHANGE = 50, 200, 1e-4


@dataclass
class _Objective:
    """Fitting loss and Monge gap of a batch, at regularisations that stay fixed while training."""

    cost: Cost
    fit_cost: Cost
    epsilon_fit: Tensor
    epsilon_gap: Tensor
    tol: float
    max_iter: int
    worst_error: float = 0.0

    def fitting_loss(self, mapped: Tensor, target: Tensor) -> Tensor:
        """Return the Sinkhorn divergence less its constant term, that of the target with itself."""
        between = self._transport(mapped, target, self.fit_cost, self.epsilon_fit)
        within = self._transport(mapped, mapped, self.fit_cost, self.epsilon_fit, is_symmetric(self.fit_cost))
        return between - 0.5 * within

    def gap(self, source: Tensor, mapped: Tensor) -> Tensor:
        """Return the entropic Monge gap of pairs of points."""
        displacement = paired_costs(self.cost, source, mapped).mean()
        return displacement - self._transport(source, mapped, self.cost, self.epsilon_gap)

    def _transport(self, x: Tensor, y: Tensor, cost: Cost, epsilon: Tensor, symmetric: bool = False) -> Tensor:
        solved = entropic_cost(
            x, y, _uniform(x), _uniform(y), cost, epsilon=epsilon.to(x),
            tol=self.tol, max_iter=self.max_iter, symmetric=symmetric, finish=self.tol < TRAINING_TOLERANCE,
        )  # fmt: skip
        self.worst_error = max(self.worst_error, solved.error)
        return solved.value


class MongeMap(TransformerMixin, BaseEstimator):
    r"""Transport map between two samples, optimal for a chosen cost.

    A network :math:`T_\theta` is trained on

    .. math:: \min_\theta\; \Delta(T_{\theta\#}\mu, \nu) + \lambda\, M_\rho^c(T_\theta),

    with :math:`\Delta` the Sinkhorn divergence, which carries the source to the target, and :math:`M` the
    `monge_gap`, which keeps it from moving more than it must. The samples need no pairing. :math:`\lambda` multiplies
    the gap in the cost's own units: scale it when the data are scaled. The network, Adam's step, the batch and
    the relative regularisations are by default those of the authors' tutorial.

    Parameters
    ----------
    cost : {"sqeuclidean", "euclidean", "cosine", "geodesic"}, PNormCost or callable, default "sqeuclidean"
        Cost that the map is to be optimal for. Under ``"geodesic"`` the map's outputs are scaled to length 1. A
        callable takes tensors of shapes (n, d) and (m, e) and returns finite costs of shape (n, m); only under a
        callable may source and target differ in dimension.
    regularization : float or sequence of float, default 1.0
        The weight :math:`\lambda`, or one for each iteration.
    hidden_sizes : tuple of int, default (32, 64, 32)
        Widths of the network's hidden layers, with GELUs between them.
    n_iterations : int, default 2000
        Steps of Adam, fewer if the loss settles.
    batch_size : int, default 256
        Points of source, target and reference in each step.
    learning_rate : float, default 1e-3
        Step size of Adam.
    relative_epsilon_fit : float, default 0.1
        Regularisation of the fitting loss, in units of the mean cost within a batch of the target.
    relative_epsilon_gap : float, default 0.01
        Regularisation of the gap, in units of the mean cost between a batch of the reference and one of the target.
    reference : array_like of shape (n_reference, n_features), optional
        Samples of the measure :math:`\rho` on which the map is held optimal; the source by default.
    fit_cost : {"sqeuclidean", "euclidean", "cosine", "geodesic"}, PNormCost or callable, default "sqeuclidean"
        Cost of the fitting loss.
    initialization : {"identity", "random"}, default "identity"
        ``"identity"`` learns T(x) - x and starts at 0; ``"random"`` is a plain network from random weights, as in the
        authors' tutorial.
    module : Module, optional
        Your own network in place of both; it is copied, not changed.
    scale : bool, default False
        Standardise by the source's mean and deviation before training. Costs are then those of scaled points.
    device : str or torch.device, default "auto"
        Where to train; ``"auto"`` takes a GPU when there is one.
    random_state : int, Generator, RandomState or None, default None
        Seed of weights and batches.
    progress : bool, default True
        Show a bar while training.

    Attributes
    ----------
    module_ : Module
        The trained map, in float64 on the CPU.
    loss_history_ : ndarray of shape (n_iterations,)
        Training loss, without the divergence's constant term.
    gap_ : float
        Monge gap on at most 1024 points of the reference.
    fitting_loss_ : float
        Sinkhorn divergence between at most 1024 mapped points and as many of the target.
    epsilon_fit_, epsilon_gap_ : float
        Regularisations that were used, in units of the costs.
    centre_, width_ : ndarray
        What inputs of ``module_`` are shifted and divided by; 0 and 1 without ``scale``.
    n_iter_ : int
        Number of steps taken.
    n_features_in_ : int
        Dimension of the source.

    Raises
    ------
    TypeError
        If a parameter has the wrong type.
    ValueError
        If a parameter is out of its range, or source and target do not match.

    References
    ----------
    Théo Uscidda and Marco Cuturi. The Monge Gap: A Regularizer to Learn All Transport Maps. arXiv 2302.04953.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import MongeMap
    >>> generator = np.random.default_rng(0)
    >>> source, target = generator.normal(size=(200, 2)), generator.normal(size=(300, 2)) + [3.0, 0.0]
    >>> estimator = MongeMap(n_iterations=100, batch_size=64, learning_rate=1e-2, random_state=0)
    >>> mapped = estimator.fit(source, target).transform(source)
    >>> bool(np.linalg.norm(mapped.mean(axis=0) - target.mean(axis=0)) < 0.3)
    True
    """

    # Labels stand in for the target in the checks: a map from R^d to R under a cost that compares the two.
    _estimator_checks: dict[str, Any]

    def __init__(
        self,
        cost: str | Cost = "sqeuclidean",
        *,
        regularization: float | Sequence[float] = 1.0,
        hidden_sizes: Sequence[int] = (32, 64, 32),
        n_iterations: int = 2000,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        relative_epsilon_fit: float = 0.1,
        relative_epsilon_gap: float = 0.01,
        reference: ArrayLike | None = None,
        fit_cost: str | Cost = "sqeuclidean",
        initialization: Literal["identity", "random"] = "identity",
        module: nn.Module | None = None,
        scale: bool = False,
        device: str | torch.device = "auto",
        random_state: RandomState = None,
        progress: bool = True,
    ) -> None:
        self.cost = cost
        self.regularization = regularization
        self.hidden_sizes = hidden_sizes
        self.n_iterations = n_iterations
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.relative_epsilon_fit = relative_epsilon_fit
        self.relative_epsilon_gap = relative_epsilon_gap
        self.reference = reference
        self.fit_cost = fit_cost
        self.initialization = initialization
        self.module = module
        self.scale = scale
        self.device = device
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train the map.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
            Samples of the source.
        y : array_like of shape (n_target_samples, n_features)
            Samples of the target, in any order and number. One column may be given flat.

        Returns
        -------
        MongeMap
            The fitted estimator.
        """
        strengths = self._check_parameters()
        cost, fit_cost = resolve_cost("cost", self.cost), resolve_cost("fit_cost", self.fit_cost)
        given: NDArray[np.floating] = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        wanted = self._check_target(y, cost)
        reference = given if self.reference is None else self._check_reference()
        self.centre_, self.width_ = _standardisation(given) if self.scale else (np.zeros(()), np.ones(()))
        source, target, rho = (self._scaled(points) for points in (given, wanted, reference))
        seeds = numpy_generator(self.random_state).integers(2**31 - 1, size=2)
        module = self._build(source.shape[1], target.shape[1], int(seeds[0]))
        history, objective = self._train(module, source, target, rho, cost, fit_cost, strengths, int(seeds[1]))
        if objective.worst_error > LARGEST_TRAINING_ERROR:
            warn_unconverged(objective.worst_error, TRAINING_TOLERANCE, stacklevel=2)
        self.module_ = module.double().cpu().eval()
        self.loss_history_, self.n_iter_ = np.array(history), len(history)
        self.epsilon_fit_, self.epsilon_gap_ = float(objective.epsilon_fit), float(objective.epsilon_gap)
        self._evaluate(source, target, rho, objective, torch_generator(int(seeds[1])))
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """Map points.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
            Points, of the training points' dimension.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Their images.
        """
        check_is_fitted(self)
        points: NDArray[np.floating] = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        with torch.no_grad():
            mapped = self.module_(torch.from_numpy(self._scaled(points))).numpy()
        return (mapped * self.width_ + self.centre_).astype(points.dtype, copy=False)

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Return minus the Sinkhorn divergence between mapped source and target: higher is better, 0 is best.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
            Samples of the source.
        y : array_like of shape (n_target_samples, n_features)
            Samples of the target.

        Returns
        -------
        float
            The score, in units of ``fit_cost``, at the regularisation of training.
        """
        mapped = self.transform(X).astype(np.float64)
        target = self._check_target(y, resolve_cost("cost", self.cost))
        return -sinkhorn_divergence(
            self._scaled(mapped), self._scaled(target), cost=self.fit_cost, epsilon=self.epsilon_fit_
        )

    def _check_parameters(self) -> NDArray[np.float64]:
        """Check the parameters and return the regularisation of each iteration."""
        check_integer("n_iterations", self.n_iterations)
        check_integer("batch_size", self.batch_size, at_least=2)
        for name in ("learning_rate", "relative_epsilon_fit", "relative_epsilon_gap"):
            check_number(name, getattr(self, name), above=0)
        for width in self.hidden_sizes:
            check_integer("hidden_sizes", width)
        check_choice("initialization", self.initialization, ("identity", "random"))
        if self.module is not None and not isinstance(self.module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, got {self.module!r}")
        if isinstance(self.regularization, Real):
            return np.full(self.n_iterations, check_number("regularization", self.regularization, at_least=0))
        values = cast("Sequence[float]", self.regularization)
        strengths = np.array([check_number("regularization", value, at_least=0) for value in values])
        if len(strengths) != self.n_iterations:
            raise ValueError(
                f"regularization must be a number or hold one for each of {self.n_iterations} iterations, "
                f"got {len(strengths)}"
            )
        return strengths

    def _check_target(self, y: ArrayLike | None, cost: Cost) -> NDArray[np.float64]:
        if y is None:
            raise ValueError(
                "MongeMap requires y to be passed, but the target y is None: y holds samples of the target"
            )
        target = check_array(y, dtype=np.float64, ensure_2d=False, ensure_min_samples=2, input_name="y")
        target = target[:, None] if target.ndim == 1 else target
        if target.shape[1] != self.n_features_in_ and (self.scale or not accepts_other_dimension(cost)):
            raise ValueError(
                f"y must have {self.n_features_in_} columns as X has, got shape {target.shape}; "
                "only a callable cost, with scale=False, compares points of different dimension"
            )
        return target

    def _check_reference(self) -> NDArray[np.float64]:
        reference = check_array(self.reference, dtype=np.float64, ensure_min_samples=2, input_name="reference")
        if reference.shape[1] != self.n_features_in_:
            raise ValueError(f"reference must have {self.n_features_in_} columns as X has, got {reference.shape[1]}")
        return reference

    def _scaled(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        return (points - self.centre_) / self.width_

    def _build(self, n_features: int, n_outputs: int, seed: int) -> nn.Module:
        if self.module is not None:
            return deepcopy(self.module)
        if self.initialization == "identity" and n_features != n_outputs:
            raise ValueError(
                f"initialization='identity' needs source and target of one dimension, got {n_features} and {n_outputs}"
            )
        # Layers draw their weights from the global generator, which is put back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.initialization == "identity":
                network: nn.Module = identity_map(n_features, self.hidden_sizes)
            else:
                network = multilayer_perceptron(n_features, self.hidden_sizes, n_outputs)
        return SphereMap(network) if self.cost == "geodesic" else network

    def _train(
        self,
        module: nn.Module,
        source: NDArray[np.float64],
        target: NDArray[np.float64],
        reference: NDArray[np.float64],
        cost: Cost,
        fit_cost: Cost,
        strengths: NDArray[np.float64],
        seed: int,
    ) -> tuple[list[float], _Objective]:
        module.float().train()
        optimizer = torch.optim.Adam(module.parameters(), lr=self.learning_rate)
        accelerator, device, (model, optimizer) = start_training(self.device, module, optimizer)
        generator = torch_generator(seed + accelerator.process_index)
        x, y, r = (torch.from_numpy(points).float() for points in (source, target, reference))

        def batch(points: Tensor) -> Tensor:
            chosen = torch.randperm(len(points), generator=generator)[: self.batch_size]
            return points[chosen].to(device)

        objective = self._objective(cost, fit_cost, batch(r), batch(y))
        history: list[float] = []
        for step in progress_bar(range(self.n_iterations), "Monge map", self.progress):
            x_batch, y_batch = batch(x), batch(y)
            mapped = model(x_batch)
            _check_mapped(mapped, x_batch, y_batch)
            loss = objective.fitting_loss(mapped, y_batch)
            if strengths[step] > 0:
                pairs = (x_batch, mapped) if self.reference is None else (held := batch(r), model(held))
                loss = loss + float(strengths[step]) * objective.gap(*pairs)
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimizer.step()
            history.append(float(loss.detach()))
            if not np.isfinite(history[-1]):
                raise ValueError(f"training diverged at iteration {step}: lower learning_rate={self.learning_rate}")
            if _settled(history):
                break
        return history, objective

    def _objective(self, cost: Cost, fit_cost: Cost, reference: Tensor, target: Tensor) -> _Objective:
        with torch.no_grad():
            within, between = fit_cost(target, target).mean(), cost(reference, target).mean()
        for name, mean in (("relative_epsilon_fit", within), ("relative_epsilon_gap", between)):
            if not mean > 0:
                raise ValueError(f"{name} needs a positive mean cost, got {float(mean):g} on a batch")
        return _Objective(
            cost, fit_cost, self.relative_epsilon_fit * within, self.relative_epsilon_gap * between,
            TRAINING_TOLERANCE, TRAINING_SWEEPS,
        )  # fmt: skip

    def _evaluate(
        self,
        source: NDArray[np.float64],
        target: NDArray[np.float64],
        reference: NDArray[np.float64],
        trained: _Objective,
        generator: torch.Generator,
    ) -> None:
        x, y, rho = (
            torch.from_numpy(points)[torch.randperm(len(points), generator=generator)[:EVALUATION_SAMPLES]]
            for points in (source, target, reference)
        )
        final = _Objective(
            trained.cost, trained.fit_cost, trained.epsilon_fit, trained.epsilon_gap,
            EVALUATION_TOLERANCE, EVALUATION_SWEEPS,
        )  # fmt: skip
        with torch.no_grad():
            # The target's own term, left out of the loss, makes it the divergence: W(y, y)/2 = -(W - W/2) + W.
            own = final.fitting_loss(y, y)
            self.fitting_loss_ = float(final.fitting_loss(self.module_(x), y) - own)
            self.gap_ = float(final.gap(rho, self.module_(rho)))
        if final.worst_error > EVALUATION_TOLERANCE:
            warn_unconverged(final.worst_error, EVALUATION_TOLERANCE, stacklevel=3)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.non_deterministic = False
        return tags


def _settled(history: list[float]) -> bool:
    if len(history) < AVERAGED_STEPS + SETTLED_STEPS:
        return False
    recent = np.cumsum([0.0, *history[-(AVERAGED_STEPS + SETTLED_STEPS) :]])
    averages = (recent[AVERAGED_STEPS:] - recent[:-AVERAGED_STEPS]) / AVERAGED_STEPS
    return bool(np.ptp(averages) < SETTLED_CHANGE * abs(averages[-1]))


def _check_mapped(mapped: Tensor, source: Tensor, target: Tensor) -> None:
    if mapped.shape != (len(source), target.shape[1]):
        raise ValueError(
            f"module must map shape {tuple(source.shape)} to {(len(source), target.shape[1])}, "
            f"got {tuple(mapped.shape)}"
        )


def _standardisation(X: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    width = X.std(axis=0, dtype=np.float64)
    return X.mean(axis=0, dtype=np.float64), np.where(width > 0, width, 1.0)


def _uniform(points: Tensor) -> Tensor:
    return points.new_full((len(points),), 1 / len(points))


def _norm_difference(x: Tensor, y: Tensor) -> Tensor:
    """Return (||x|| - ||y||)^2: a cost between points of any two dimensions."""
    return (x.norm(dim=-1)[:, None] - y.norm(dim=-1)) ** 2


MongeMap._estimator_checks = {
    "parameters": {
        "cost": _norm_difference,
        "initialization": "random",
        "hidden_sizes": (4,),
        "n_iterations": 5,
        "batch_size": 16,
        "progress": False,
    },
    "expected_failures": {},
}
