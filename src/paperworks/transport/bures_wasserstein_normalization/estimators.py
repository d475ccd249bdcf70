"""scikit-learn estimators on covariance matrices: a classifier that learns, and a scaler that does not."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.covariance import OAS
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from paperworks._progress import progress_bar
from paperworks._random import RandomState, torch_generator
from paperworks._training import start_training
from paperworks._validation import check_choice, check_floating, check_integer, check_number
from paperworks.transport.bures_wasserstein_normalization._matrix_functions import identity_like, symmetrize
from paperworks.transport.bures_wasserstein_normalization._metrics import BuresWasserstein
from paperworks.transport.bures_wasserstein_normalization._positive_definite import (
    check_definite,
    check_power,
    check_semidefinite,
    relative_floor,
)
from paperworks.transport.bures_wasserstein_normalization.geometry import (
    Deformation,
    bures_wasserstein_geodesic,
    bures_wasserstein_mean,
    square_root,
)
from paperworks.transport.bures_wasserstein_normalization.networks import SPDNet
from paperworks.transport.bures_wasserstein_normalization.normalization import METRICS, SPDBatchNorm

__all__ = ["BuresWassersteinScaler", "SPDNetClassifier"]


class SPDNetClassifier(ClassifierMixin, BaseEstimator):
    """Classify covariance matrices, or signals by their covariance, with a normalised network on SPD matrices.

    The network is `SPDNet`; matrices are divided by one number, the mean eigenvalue of the training set, and the
    cross-entropy is minimised by Adam (AMSGrad), without weight decay on the normalisation's parameters.

    Parameters
    ----------
    hidden : sequence of int, optional
        Size of the matrices after each block; by default one block of four fifths of the input's size.
    normalization : str or None, default "generalized-bures-wasserstein"
        Metric of the batch normalisation, as in `SPDBatchNorm`; None for none.
    power : float, default 1.0
        Power deformation of the normalisation.
    learn_metric : bool, default True
        Learn the metric M.
    mean_iterations : int, default 1
        Fixed-point steps for each batch's mean.
    covariance : {None, "oas", "empirical"}, default None
        None takes X as covariance matrices; else X holds signals (n_samples, channels, time), whose covariance is
        estimated with or without shrinkage (oracle approximating shrinkage).
    n_epochs : int, default 100
        Passes over the data.
    batch_size : int, default 30
        Matrices in a batch.
    learning_rate : float, default 2.5e-3
        Step size of Adam, for all parameters.
    weight_decay : float, default 0.0
        Decoupled decay of the maps and of the linear layer.
    device : str, default "auto"
        Where to train; ``"auto"`` takes a GPU when there is one.
    progress : bool, default True
        Show a progress bar on a terminal.
    random_state : None, int, Generator, RandomState or torch.Generator
        Seed of the initial weights and of the batches.

    Attributes
    ----------
    network_ : SPDNet
        The trained network.
    classes_ : ndarray of shape (n_classes,)
        Labels.
    scale_ : float
        What matrices are divided by.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    n_features_in_ : int
        Size of the matrices.

    References
    ----------
    Wang, Jin, Chen, Luo, Wu, "Learning to Normalize on the SPD Manifold under Bures-Wasserstein Geometry",
    arXiv:2504.00660.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import SPDNetClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> signals = rng.normal(size=(40, 3, 50)) * np.where(y[:, None, None] == 0, [[1], [1], [3]], [[3], [1], [1]])
    >>> classifier = SPDNetClassifier(covariance="oas", n_epochs=20, learning_rate=0.02, random_state=0)
    >>> float(classifier.fit(signals, y).score(signals, y))
    1.0
    """

    def __init__(
        self,
        hidden: Sequence[int] | None = None,
        *,
        normalization: str | None = "generalized-bures-wasserstein",
        power: float = 1.0,
        learn_metric: bool = True,
        mean_iterations: int = 1,
        covariance: Literal["oas", "empirical"] | None = None,
        n_epochs: int = 100,
        batch_size: int = 30,
        learning_rate: float = 2.5e-3,
        weight_decay: float = 0.0,
        device: str = "auto",
        progress: bool = True,
        random_state: RandomState = None,
    ) -> None:
        self.hidden = hidden
        self.normalization = normalization
        self.power = power
        self.learn_metric = learn_metric
        self.mean_iterations = mean_iterations
        self.covariance = covariance
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.device = device
        self.progress = progress
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "SPDNetClassifier":
        """Train the network.

        Parameters
        ----------
        X : array_like of shape (n_samples, n, n) or (n_samples, channels, time)
            Symmetric positive definite matrices, or signals where ``covariance`` is set.
        y : array_like of shape (n_samples,)
            Labels.

        Returns
        -------
        SPDNetClassifier
            Itself.

        Raises
        ------
        ValueError
            If X or y is not as described, or a parameter is out of its range.
        TypeError
            If X does not hold floating-point numbers.
        """
        self._check_parameters()
        matrices = covariance_matrices(X, self.covariance)
        labels = np.asarray(y)
        if labels.shape != (len(matrices),):
            raise ValueError(f"y must have shape ({len(matrices)},), got {labels.shape}")
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least two classes, got one: {self.classes_[0]!r}")
        self.n_features_in_ = matrices.shape[-1]
        self.scale_ = float(np.trace(matrices, axis1=1, axis2=2).mean() / self.n_features_in_)
        if not self.scale_ > 0:
            raise ValueError("X must not hold zero matrices only")
        generator = torch_generator(self.random_state)
        hidden = self.hidden or (max(1, round(0.8 * self.n_features_in_)),)
        self.network_ = SPDNet(
            self.n_features_in_,
            hidden,
            len(self.classes_),
            normalization=self.normalization,  # type: ignore[arg-type]
            power=self.power,
            learn_metric=self.learn_metric,
            mean_iterations=self.mean_iterations,
            random_state=generator,
        ).double()
        self._train(torch.from_numpy(matrices / self.scale_), torch.from_numpy(codes), generator)
        return self

    def _train(self, X: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        normalizers = [module for module in self.network_.blocks if isinstance(module, SPDBatchNorm)]
        free = {id(parameter) for module in normalizers for parameter in module.parameters()}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.network_.parameters() if id(p) not in free]},
            {"params": [p for p in self.network_.parameters() if id(p) in free], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            amsgrad=True,
        )
        accelerator, place, (network, optimizer) = start_training(self.device, self.network_, optimizer)
        X, codes = X.to(place), codes.to(place)
        self.loss_curve_: list[float] = []
        network.train()
        for _ in progress_bar(range(self.n_epochs), "SPDNet", self.progress):
            total = 0.0
            for batch in _batches(len(X), self.batch_size, generator):
                batch = batch.to(place)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(network(X[batch]), codes[batch])
                accelerator.backward(loss)
                optimizer.step()
                total += float(loss.detach()) * len(batch)
            self.loss_curve_.append(total / len(X))
        self.network_.eval()

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the network's scores: of shape (n_samples, n_classes), or (n_samples,) for two classes.

        Parameters
        ----------
        X : array_like of shape (n_samples, n, n) or (n_samples, channels, time)
            As in `fit`.

        Returns
        -------
        ndarray
            Scores; for two classes the second's minus the first's.
        """
        scores = self._scores(X).numpy()
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return class probabilities of shape (n_samples, n_classes).

        Parameters
        ----------
        X : array_like of shape (n_samples, n, n) or (n_samples, channels, time)
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities.
        """
        return self._scores(X).softmax(dim=1).numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the likeliest labels, of shape (n_samples,).

        Parameters
        ----------
        X : array_like of shape (n_samples, n, n) or (n_samples, channels, time)
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels.
        """
        best = self._scores(X).argmax(dim=1).numpy()
        return self.classes_[best]

    @torch.no_grad()
    def _scores(self, X: Any) -> Tensor:
        check_is_fitted(self)
        matrices = covariance_matrices(X, self.covariance)
        if matrices.shape[-1] != self.n_features_in_:
            raise ValueError(
                f"X has matrices of size {matrices.shape[-1]}, but {type(self).__name__} was fitted with "
                f"{self.n_features_in_}"
            )
        place = self.network_.linear.weight.device
        chunks = torch.from_numpy(matrices / self.scale_).split(4096)
        return torch.cat([self.network_(chunk.to(place)).cpu() for chunk in chunks])

    def _check_parameters(self) -> None:
        check_choice("normalization", self.normalization, (None, *METRICS))
        check_choice("covariance", self.covariance, (None, "oas", "empirical"))
        check_integer("n_epochs", self.n_epochs)
        check_integer("batch_size", self.batch_size, at_least=2)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("weight_decay", self.weight_decay, at_least=0)

    def __sklearn_tags__(self) -> Tags:
        return _of_three_dimensions(super().__sklearn_tags__())


class BuresWassersteinScaler(TransformerMixin, BaseEstimator):
    """Centre covariance matrices at the identity and scale their spread to one, without learning.

    A normalisation pass with the statistics of the training set: the logarithm at the barycentre G, transported to
    the identity, divided by the standard deviation, and the exponential there. Useful in front of any classifier to
    bring recordings of several subjects or sessions together: fit one scaler a session.

    Parameters
    ----------
    power : float, default 1.0
        Power deformation, not zero.
    metric : array_like of shape (n, n), optional
        The symmetric positive definite M of the generalised geometry; the identity by default.
    with_scaling : bool, default True
        Divide by the standard deviation.
    max_iter : int, default 50
        Steps for the barycentre.
    tol : float, default 1e-9
        Tolerance of the barycentre.

    Attributes
    ----------
    mean_ : ndarray of shape (n, n)
        The barycentre; after several calls of `partial_fit` the running mean along geodesics.
    variance_ : float
        Mean squared distance to the mean; after several calls of `partial_fit` the mean over batches of that to the
        mean of the moment.
    n_samples_seen_ : int
        Number of matrices seen.
    n_features_in_ : int
        Size of the matrices.

    References
    ----------
    Wang, Jin, Chen, Luo, Wu, "Learning to Normalize on the SPD Manifold under Bures-Wasserstein Geometry",
    arXiv:2504.00660.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import BuresWassersteinScaler, bures_wasserstein_mean
    >>> A = np.random.default_rng(0).normal(size=(30, 3, 20))
    >>> Y = BuresWassersteinScaler(with_scaling=False).fit_transform(A @ A.transpose(0, 2, 1) / 20)
    >>> bool(np.allclose(bures_wasserstein_mean(Y), np.eye(3), atol=1e-6))
    True
    """

    def __init__(
        self,
        *,
        power: float = 1.0,
        metric: Any = None,
        with_scaling: bool = True,
        max_iter: int = 50,
        tol: float = 1e-9,
    ) -> None:
        self.power = power
        self.metric = metric
        self.with_scaling = with_scaling
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: Any, y: Any = None) -> "BuresWassersteinScaler":
        """Take the barycentre and the variance of a set of matrices.

        Parameters
        ----------
        X : array_like of shape (n_samples, n, n)
            Symmetric positive definite matrices.
        y : None
            Ignored.

        Returns
        -------
        BuresWassersteinScaler
            Itself.

        Raises
        ------
        ValueError
            If X does not hold symmetric positive definite matrices, or a parameter is out of its range.
        TypeError
            If X does not hold floating-point numbers.
        """
        for name in ("mean_", "variance_", "n_samples_seen_"):
            self.__dict__.pop(name, None)
        return self.partial_fit(X)

    def partial_fit(self, X: Any, y: Any = None) -> "BuresWassersteinScaler":
        """Move the mean along the geodesic to the barycentre of one more batch, by the batch's share of all matrices.

        Parameters
        ----------
        X : array_like of shape (n_samples, n, n)
            Symmetric positive definite matrices.
        y : None
            Ignored.

        Returns
        -------
        BuresWassersteinScaler
            Itself.
        """
        matrices = self._check(X)
        if not hasattr(self, "mean_"):
            self.n_features_in_ = matrices.shape[-1]
        self._check_size(matrices)
        mean = bures_wasserstein_mean(
            matrices, metric=self.metric, power=self.power, max_iter=self.max_iter, tol=self.tol
        )
        seen = getattr(self, "n_samples_seen_", 0)
        share = len(matrices) / (seen + len(matrices))
        self.mean_: NDArray[np.float64] = (
            bures_wasserstein_geodesic(self.mean_, mean, share, metric=self.metric, power=self.power) if seen else mean
        )
        spread = self._centred(matrices).square().sum((-2, -1)).mean() / (4 * self.power**2)
        self.variance_ = (1 - share) * getattr(self, "variance_", 0.0) + share * float(spread)
        self.n_samples_seen_ = seen + len(matrices)
        return self

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Centre and scale matrices.

        Parameters
        ----------
        X : array_like of shape (n_samples, n, n)
            Symmetric positive definite matrices.

        Returns
        -------
        ndarray of shape (n_samples, n, n)
            Symmetric positive definite matrices with mean I, and of unit variance if they are those of `fit`.

        Warns
        -----
        UserWarning
            If matrices so far from the mean were held at the border of the exponential's domain.
        """
        check_is_fitted(self)
        matrices = self._check(X)
        self._check_size(matrices)
        V = self._centred(matrices)
        if self.with_scaling and self.variance_ > 0:
            V = V / self.variance_**0.5
        geometry, deformation = self._geometry()
        Y = geometry.place(V, deformation.pull(identity_like(V)))
        if geometry.n_clamped:
            warnings.warn(
                f"{geometry.n_clamped} of {len(matrices)} matrices lie so far from the mean that they were held at "
                "the border of the exponential's domain; a smaller power spreads them less",
                UserWarning,
                stacklevel=2,
            )
        return deformation.push(Y).numpy()

    def _centred(self, matrices: NDArray[np.float64]) -> Tensor:
        geometry, deformation = self._geometry()
        return geometry.centre(
            deformation.pull(symmetrize(torch.from_numpy(matrices))), deformation.pull(torch.from_numpy(self.mean_))
        )

    def _geometry(self) -> tuple[BuresWasserstein, Deformation]:
        M = None if self.metric is None else torch.as_tensor(np.asarray(self.metric, dtype=np.float64))
        return BuresWasserstein(square_root, relative_floor(torch.float64)), Deformation(M, self.power)

    def _check(self, X: Any) -> NDArray[np.float64]:
        check_power(self.power)
        array = check_floating("X", X, ndim=3).astype(np.float64)
        check_semidefinite("X", torch.from_numpy(array))
        return array

    def _check_size(self, matrices: NDArray[np.float64]) -> None:
        if matrices.shape[-1] != self.n_features_in_:
            raise ValueError(
                f"X has matrices of size {matrices.shape[-1]}, but {type(self).__name__} was fitted with "
                f"{self.n_features_in_}"
            )
        if self.metric is not None:
            M = torch.from_numpy(check_floating("metric", self.metric, ndim=2).astype(np.float64))
            if M.shape != (self.n_features_in_, self.n_features_in_):
                raise ValueError(f"metric must have the matrices' size {self.n_features_in_}, got {tuple(M.shape)}")
            check_definite("metric", M)

    def __sklearn_tags__(self) -> Tags:
        return _of_three_dimensions(super().__sklearn_tags__())


def covariance_matrices(X: Any, estimator: str | None) -> NDArray[np.float64]:
    """Return X itself if ``estimator`` is None, once checked, else the covariances of signals along the last axis."""
    array = check_floating("X", X, ndim=3).astype(np.float64)
    if estimator is None:
        if array.shape[1] != array.shape[2]:
            raise ValueError(
                f"X must hold square matrices, got shape {array.shape}; signals need covariance='oas' or 'empirical'"
            )
        check_semidefinite("X", torch.from_numpy(array))
        return array
    if array.shape[2] < 2:
        raise ValueError(f"X must hold signals of at least two points in time, got shape {array.shape}")
    if estimator == "oas":
        return np.stack([OAS().fit(signal.T).covariance_ for signal in array])
    centred = array - array.mean(axis=2, keepdims=True)
    return centred @ centred.transpose(0, 2, 1) / (array.shape[2] - 1)


def _of_three_dimensions(tags: Tags) -> Tags:
    tags.input_tags.two_d_array = False
    tags.input_tags.three_d_array = True
    return tags


def _batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield shuffled indices; a last batch of one joins the one before, since it has no variance."""
    order = torch.randperm(n, generator=generator)
    edges = list(range(0, n, size))
    if len(edges) > 1 and n - edges[-1] < 2:
        edges.pop()
    for start, stop in zip(edges, [*edges[1:], n], strict=True):
        yield order[start:stop]
