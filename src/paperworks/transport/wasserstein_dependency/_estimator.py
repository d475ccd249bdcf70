"""The estimator: encoders of two views, trained from arrays."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, Literal, Self, cast
from warnings import warn

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from paperworks._progress import progress_bar
from paperworks._random import RandomState, numpy_generator, torch_generator
from paperworks._training import start_training
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.transport.wasserstein_dependency._encoders import image_encoder, vector_encoder
from paperworks.transport.wasserstein_dependency._loss import WassersteinPredictiveCodingLoss
from paperworks.transport.wasserstein_dependency._penalty import refuse_batch_norm
from paperworks.transport.wasserstein_dependency._scores import OBJECTIVES, Objective
from paperworks.transport.wasserstein_dependency._spectral import SpectralEncoder

CONSTRAINTS = ("gradient-penalty", "spectral", "none")
FLOATS = (np.float64, np.float32)
# Pairs on which the slope is measured after training, and rows that are encoded at once.
SLOPE_SAMPLES, ENCODED_ROWS = 1024, 4096


class _Pair(nn.Module):
    """Both encoders with their loss: one module, so that one wrapper of accelerate serves all of a step."""

    def __init__(self, encoder_x: nn.Module, encoder_y: nn.Module, loss: WassersteinPredictiveCodingLoss) -> None:
        super().__init__()
        self.encoder_x, self.encoder_y, self.loss = encoder_x, encoder_y, loss

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        result = self.loss.of_checked(self.encoder_x, self.encoder_y, x, y)
        return result.loss, result.dependency


class WassersteinDependencyEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Encoders of two views of the same things, trained to show all that the views share.

    ``"cpc"`` maximises a bound on mutual information, which ends at the log of the batch size: encoders that can tell
    the pairs of a batch apart learn nothing more. ``"wpc"`` holds the same critic
    :math:`f(x, y) = \phi(x)^\top W\psi(y)` to slope 1 as a function of the data, so that telling pairs apart takes
    every factor. ``"wdm"`` maximises the Wasserstein dependency itself, and alone estimates it.

    What slope 1 means is set by the scale of the inputs: bring features to a common scale of about 1 (pixels in
    [0, 1], or ``scale="unit-variance"``). Batches are fixed in size by ``batch_size``.

    Parameters
    ----------
    objective : {"wpc", "cpc", "wdm"}, default "wpc"
        What is maximised. ``"cpc"`` has no constraint, whatever ``lipschitz`` says.
    n_components : int, default 64
        Dimension of the codes; own encoders decide by themselves.
    hidden_sizes : sequence of int, default (256, 256)
        Widths of the default encoder of vectors. Images, of shape (n, channels, height, width), have a convolutional
        default encoder.
    penalty_weight : float, default 10.0
        Weight of the gradient penalty.
    batch_size : int, default 64
        Pairs in a step; of fewer pairs all are taken, with a warning.
    n_iterations : int, default 2000
        Steps of `fit`.
    learning_rate : float, default 1e-3
        Step size of Adam.
    lipschitz : {"gradient-penalty", "spectral", "none"}, default "gradient-penalty"
        What holds the slope: the penalty, encoders that can't be steeper (`SpectralEncoder`), or nothing.
    two_sided : bool, default False
        Penalise slopes below 1 too, as the paper writes it.
    penalty_every : int, default 1
        Penalise every k-th step only, k times as much. Cheaper, but under Adam the rare large gradients hold back the
        contrast between them: lower ``penalty_weight`` with it.
    symmetric : bool, default False
        Contrast over columns as well as rows.
    include_positive : bool, default True
        Whether the contrast's sum holds the pair itself.
    interpolate : {"second", "both"}, default "second"
        Whether the penalty's points move in the second view or in both.
    learn_weight : bool, default False
        Learn W; it is the identity else. Not with ``"spectral"``.
    radius : float, default 10.0
        For ``"spectral"``: radius of the codes.
    scale : {None, "unit-variance"}, default None
        Standardise each feature of each view (for images each channel) by the training data's mean and deviation.
    weight_decay : float, default 0.0
        Decoupled weight decay of Adam.
    encoder : Module, optional
        Your own encoder of the first view, from (n, ...) to (n, d); it is copied, not changed.
    encoder_second : Module, optional
        That of the second view; another copy of ``encoder`` when None.
    device : str or torch.device, default "auto"
        Where to train; ``"auto"`` takes a GPU when there is one.
    random_state : int, Generator, RandomState or None, default None
        Seed of weights, batches and the penalty's points.
    progress : bool, default True
        Show a bar while training.

    Attributes
    ----------
    encoder_, encoder_second_ : Module
        The trained encoders, in float64 on the CPU, of scaled inputs.
    weight_ : ndarray of shape (n_components, n_components) or None
        The matrix W; None is the identity.
    loss_history_, dependency_history_ : ndarray of shape (n_steps,)
        Loss and dependency of each step.
    gradient_norm_ : float
        The slope that 99 % of points between training pairs stay below, after training.
    lipschitz_bound_ : float
        Guaranteed bound on the critic's slope, by the inputs as scaled: finite for ``"spectral"`` only.
    n_iter_ : int
        Number of steps taken, over all calls.
    n_features_in_ : int
        Columns (or channels) of the first view.

    Raises
    ------
    TypeError
        If a parameter has the wrong type.
    ValueError
        If a parameter is out of its range, rows do not match, or an encoder normalises over the batch.
    FloatingPointError
        If training diverged.

    References
    ----------
    Sherjil Ozair, Corey Lynch, Yoshua Bengio, Aaron van den Oord, Sergey Levine, Pierre Sermanet. "Wasserstein
    Dependency Measure for Representation Learning". NeurIPS 2019. arXiv:1903.11780.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import WassersteinDependencyEncoder
    >>> x = np.random.default_rng(0).normal(size=(500, 2))
    >>> encoder = WassersteinDependencyEncoder(n_components=4, hidden_sizes=(16,), n_iterations=200, random_state=0)
    >>> encoder.fit(x, np.tanh(x)).transform(x).shape
    (500, 4)
    >>> encoder.score(x, np.tanh(x)) > encoder.score(x, np.tanh(x[::-1]))
    True
    """

    _estimator_checks: dict[str, Any]

    def __init__(
        self,
        objective: Objective = "wpc",
        n_components: int = 64,
        *,
        hidden_sizes: Sequence[int] = (256, 256),
        penalty_weight: float = 10.0,
        batch_size: int = 64,
        n_iterations: int = 2000,
        learning_rate: float = 1e-3,
        lipschitz: Literal["gradient-penalty", "spectral", "none"] = "gradient-penalty",
        two_sided: bool = False,
        penalty_every: int = 1,
        symmetric: bool = False,
        include_positive: bool = True,
        interpolate: Literal["second", "both"] = "second",
        learn_weight: bool = False,
        radius: float = 10.0,
        scale: Literal["unit-variance"] | None = None,
        weight_decay: float = 0.0,
        encoder: nn.Module | None = None,
        encoder_second: nn.Module | None = None,
        device: str | torch.device = "auto",
        random_state: RandomState = None,
        progress: bool = True,
    ) -> None:
        self.objective = objective
        self.n_components = n_components
        self.hidden_sizes = hidden_sizes
        self.penalty_weight = penalty_weight
        self.batch_size = batch_size
        self.n_iterations = n_iterations
        self.learning_rate = learning_rate
        self.lipschitz = lipschitz
        self.two_sided = two_sided
        self.penalty_every = penalty_every
        self.symmetric = symmetric
        self.include_positive = include_positive
        self.interpolate = interpolate
        self.learn_weight = learn_weight
        self.radius = radius
        self.scale = scale
        self.weight_decay = weight_decay
        self.encoder = encoder
        self.encoder_second = encoder_second
        self.device = device
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train both encoders from scratch, for ``n_iterations`` steps.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features) or (n_samples, ...)
            First view.
        y : array_like of shape (n_samples, n_features_second) or (n_samples, ...)
            Second view, row by row; one column may be given flat.

        Returns
        -------
        WassersteinDependencyEncoder
            The fitted estimator.
        """
        self._check_parameters()
        first, second = self._views(X, y, reset=True)
        self._start(first, second)
        return self._train(first, second, check_integer("n_iterations", self.n_iterations))

    def partial_fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Go on training, with one pass over these pairs.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features) or (n_samples, ...)
            First view.
        y : array_like of shape (n_samples, n_features_second) or (n_samples, ...)
            Second view, row by row.

        Returns
        -------
        WassersteinDependencyEncoder
            The fitted estimator. Scaling is that of the first call.
        """
        self._check_parameters()
        new = not hasattr(self, "_pair")
        first, second = self._views(X, y, reset=new)
        if new:
            self._start(first, second)
        return self._train(first, second, max(1, len(first) // self.batch_size))

    def transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """Encode first views.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features) or (n_samples, ...)
            First views.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            Their codes.
        """
        check_is_fitted(self)
        first = validate_data(self, X, dtype=FLOATS, allow_nd=True, reset=False)
        return self._encode(self.encoder_, first, 0)

    def transform_second(self, y: ArrayLike) -> NDArray[np.floating]:
        """Encode second views.

        Parameters
        ----------
        y : array_like of shape (n_samples, n_features_second) or (n_samples, ...)
            Second views.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            Their codes.
        """
        check_is_fitted(self)
        return self._encode(self.encoder_second_, _second_view(y), 1)

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Return the dependency that the encoders show in pairs, which may be new ones.

        Under ``"cpc"`` and ``"wpc"`` these are nats, averaged over batches of ``batch_size``, and not a Wasserstein
        dependency. Under ``"wdm"`` it is the estimate of that: the difference of mean scores over the slope of the
        critic, where that exceeds 1.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features) or (n_samples, ...)
            First view.
        y : array_like of shape (n_samples, n_features_second) or (n_samples, ...)
            Second view, row by row.

        Returns
        -------
        float
            The dependency.
        """
        check_is_fitted(self)
        first, second = self._views(X, y, reset=False)
        z_x = torch.from_numpy(self._encode(self.encoder_, first, 0).astype(np.float64))
        z_y = torch.from_numpy(self._encode(self.encoder_second_, second, 1).astype(np.float64))
        if self.weight_ is not None:
            z_x = z_x @ torch.from_numpy(self.weight_)
        measure = WassersteinPredictiveCodingLoss(
            self.objective, symmetric=self.symmetric, include_positive=self.include_positive
        ).dependency
        if self.objective == "wdm":
            return float(measure(z_x, z_y)) / max(1.0, self.gradient_norm_)
        size = min(self.batch_size, len(z_x))
        starts = range(0, len(z_x) - size + 1, size)
        return float(np.mean([float(measure(z_x[k : k + size], z_y[k : k + size])) for k in starts]))

    def __sklearn_tags__(self) -> Tags:
        """Say that the second view is required, and that codes keep the precision of what is encoded."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.two_d_labels = False
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self._n_codes

    def _check_parameters(self) -> None:
        for name, least in (("n_components", 1), ("batch_size", 2), ("penalty_every", 1)):
            check_integer(name, getattr(self, name), at_least=least)
        for name in ("learning_rate", "radius"):
            check_number(name, getattr(self, name), above=0)
        for name in ("penalty_weight", "weight_decay"):
            check_number(name, getattr(self, name), at_least=0)
        for width in self.hidden_sizes:
            check_integer("hidden_sizes", width)
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("lipschitz", self.lipschitz, CONSTRAINTS)
        check_choice("scale", self.scale, (None, "unit-variance"))
        for name in ("encoder", "encoder_second"):
            module = getattr(self, name)
            if module is not None and not isinstance(module, nn.Module):
                raise TypeError(f"{name} must be a torch.nn.Module, got {module!r}")
        if self._is_spectral() and self.learn_weight:
            raise ValueError(
                "learn_weight=True can't be had with lipschitz='spectral': W would grow past every bound, and it adds "
                "nothing to encoders that end in a linear layer"
            )
        if self.objective == "wdm" and not self._is_spectral() and self._penalty() == 0:
            raise ValueError(
                "objective='wdm' has no maximum without a constraint: choose lipschitz='spectral', or "
                "'gradient-penalty' with a positive penalty_weight"
            )

    def _is_spectral(self) -> bool:
        return self.objective != "cpc" and self.lipschitz == "spectral"

    def _penalty(self) -> float:
        return self.penalty_weight if self.objective != "cpc" and self.lipschitz == "gradient-penalty" else 0.0

    def _views(self, X: ArrayLike, y: ArrayLike | None, *, reset: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        """Validated views, of as many rows."""
        first = validate_data(self, X, dtype=FLOATS, allow_nd=True, ensure_min_samples=2, reset=reset)
        second = _second_view(y)
        if len(first) != len(second):
            raise ValueError(f"X has {len(first)} rows, y has {len(second)}")
        if reset:
            self._shapes = (first.shape[1:], second.shape[1:])
        for name, view, shape in zip("Xy", (first, second), self._shapes, strict=True):
            _check_row_shape(name, view, shape)
        return first, second

    def _start(self, first: NDArray[Any], second: NDArray[Any]) -> None:
        """Set scaling, weights and seeds of a new training."""
        self._scaling = [_scaling(view) if self.scale else (0.0, 1.0) for view in (first, second)]
        self._generator = np.random.default_rng(numpy_generator(self.random_state).integers(2**31 - 1, size=4))
        seeds = self._generator.integers(2**31 - 1, size=2).tolist()
        encoders = self._build(seeds[0])
        n_codes = []
        for name, encoder, view, scaling in zip("Xy", encoders, (first, second), self._scaling, strict=True):
            with torch.no_grad():
                codes = deepcopy(encoder).eval()(_tensor(view[:1], scaling))
            if codes.ndim != 2:
                raise ValueError(f"the encoder of {name} must return rows of codes, got shape {tuple(codes.shape)}")
            n_codes.append(codes.shape[1])
        if n_codes[0] != n_codes[1]:
            raise ValueError(f"both encoders must have codes of one size, got {n_codes[0]} and {n_codes[1]}")
        self._n_codes = n_codes[0]
        loss = WassersteinPredictiveCodingLoss(
            self.objective,
            self._penalty(),
            self.two_sided,
            self.penalty_every,
            symmetric=self.symmetric,
            include_positive=self.include_positive,
            interpolate=self.interpolate,
            weight_size=self._n_codes if self.learn_weight else None,
            random_state=seeds[1],
        )
        if self._penalty():
            refuse_batch_norm(*encoders)
        self._pair = _Pair(*encoders, loss)
        self._optimizer_state: dict[str, Any] | None = None
        self._losses: list[Tensor] = []
        self._dependencies: list[Tensor] = []

    def _build(self, seed: int) -> tuple[nn.Module, nn.Module]:
        """Both encoders, bounded in slope if asked for."""
        # Layers draw their weights from the global generator, which is put back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            second = self.encoder if self.encoder_second is None else self.encoder_second
            encoders = [
                self._default_encoder(name, shape) if given is None else deepcopy(given).float().train()
                for name, given, shape in zip("Xy", (self.encoder, second), self._shapes, strict=True)
            ]
        if self._is_spectral():
            encoders = [SpectralEncoder(each, self.radius) for each in encoders]
        return encoders[0], encoders[1]

    def _default_encoder(self, name: str, shape: tuple[int, ...]) -> nn.Module:
        if len(shape) == 1:
            return vector_encoder(shape[0], self.hidden_sizes, self.n_components)
        if len(shape) == 3:
            return image_encoder(shape[0], self.n_components)
        raise ValueError(
            f"{name} has rows of shape {shape}: vectors and images (channels, height, width) have a default encoder, "
            "others need their own"
        )

    def _train(self, first: NDArray[Any], second: NDArray[Any], n_steps: int) -> Self:
        """Take steps of Adam on batches drawn without replacement, pass after pass."""
        size = min(self.batch_size, len(first))
        if size < self.batch_size:
            warn(f"batch_size={self.batch_size}, but there are {size} pairs: each step takes all of them", stacklevel=3)
        x, y = (_tensor(view, scaling) for view, scaling in zip((first, second), self._scaling, strict=True))
        pair = self._pair.train()
        # Fused: a step of these small networks is no dearer than its optimiser's.
        optimizer = torch.optim.AdamW(
            pair.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        accelerator, device, (step_pair, step_optimizer) = start_training(self.device, pair, optimizer)
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
        seed = int(self._generator.integers(2**31 - 1)) + accelerator.process_index
        batches = _batches(len(x), size, torch_generator(seed))
        bar = progress_bar(range(n_steps), f"training {self.objective}", self.progress)
        for step in bar:
            rows = next(batches)
            loss, dependency = step_pair(x[rows].to(device), y[rows].to(device))
            step_optimizer.zero_grad()
            accelerator.backward(loss)
            step_optimizer.step()
            self._losses.append(loss.detach())
            self._dependencies.append(dependency)
            if step % 100 == 99 or step == n_steps - 1:
                self._check_progress(bar)
        self._optimizer_state = deepcopy(optimizer.state_dict())
        pair.cpu()
        self._finish(x, y)
        return self

    def _check_progress(self, bar: Any) -> None:
        if not torch.isfinite(self._losses[-1]):
            step = len(self._losses)
            del self._pair
            raise FloatingPointError(f"training diverged within {step} steps: lower learning_rate, or scale the inputs")
        bar.set_postfix(dependency=float(self._dependencies[-1]), refresh=False)

    def _finish(self, x: Tensor, y: Tensor) -> None:
        """Set what a fitted estimator shows."""
        pair = deepcopy(self._pair).double().eval()
        self.encoder_, self.encoder_second_ = pair.encoder_x, pair.encoder_y
        weight = pair.loss.weight
        self.weight_ = None if weight is None else weight.detach().numpy()
        self.loss_history_ = torch.stack(self._losses).cpu().double().numpy()
        self.dependency_history_ = torch.stack(self._dependencies).cpu().double().numpy()
        self.n_iter_ = len(self._losses)
        x, y = x[:SLOPE_SAMPLES].double(), y[:SLOPE_SAMPLES].double()
        x.requires_grad_()
        norms = pair.loss.slopes_between(pair.encoder_x, pair.encoder_y, x, y, pair.encoder_x(x))
        self.gradient_norm_ = float(norms.detach().quantile(0.99))
        self.lipschitz_bound_ = self._bound(pair)

    def _bound(self, pair: _Pair) -> float:
        """Bound |(J_phi' psi, J_psi' phi)| by R (L_phi^2 + L_psi^2)^(1/2), with codes of norm at most R."""
        if not self._is_spectral():
            return float("inf")
        slope_x, slope_y = (
            cast("SpectralEncoder", each).lipschitz_bound() for each in (pair.encoder_x, pair.encoder_y)
        )
        largest_code = (self.radius / 2**0.5) ** 0.5
        return largest_code * float(np.hypot(slope_x, slope_y))

    def _encode(self, encoder: nn.Module, view: NDArray[Any], which: int) -> NDArray[np.floating]:
        _check_row_shape("Xy"[which], view, self._shapes[which])
        with torch.no_grad():
            codes = [
                encoder(_tensor(view[k : k + ENCODED_ROWS], self._scaling[which], torch.float64))
                for k in range(0, len(view), ENCODED_ROWS)
            ]
        return torch.cat(codes).numpy().astype(view.dtype, copy=False)


def _second_view(y: ArrayLike | None) -> NDArray[np.floating]:
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None: y is the second view, row by row")
    second: NDArray[np.floating] = check_array(y, dtype=FLOATS, ensure_2d=False, allow_nd=True, input_name="y")
    return second[:, None] if second.ndim == 1 else second


def _check_row_shape(name: str, view: NDArray[Any], shape: tuple[int, ...]) -> None:
    if view.shape[1:] != shape:
        raise ValueError(f"{name} must have rows of shape {shape}, as when fitted, got {view.shape[1:]}")


def _scaling(view: NDArray[Any]) -> tuple[Any, Any]:
    """Mean and deviation of each feature, or channel; what is constant stays as it is."""
    axes = (0, *range(2, view.ndim))
    mean, deviation = view.mean(axis=axes, keepdims=True), view.std(axis=axes, keepdims=True)
    return mean, np.where(deviation > 0, deviation, 1.0)


def _tensor(view: NDArray[Any], scaling: tuple[Any, Any], dtype: torch.dtype = torch.float32) -> Tensor:
    mean, deviation = scaling
    scaled = view if np.ndim(mean) == 0 else (view - mean) / deviation
    return torch.from_numpy(np.require(scaled, requirements=("C", "W"))).to(dtype)


def _batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order[: n // size * size].split(size)


WassersteinDependencyEncoder._estimator_checks = {
    "parameters": {"n_components": 2, "hidden_sizes": (4,), "n_iterations": 5, "batch_size": 8, "random_state": 0,
                   "progress": False, "device": "cpu"},
    "expected_failures": {},
}  # fmt: skip
