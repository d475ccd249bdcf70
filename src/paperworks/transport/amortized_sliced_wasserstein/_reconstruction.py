"""Autoencoders of point clouds that are trained with sliced Wasserstein losses."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor, nn

from paperworks._progress import progress_bar
from paperworks._random import RandomState, torch_generator
from paperworks._training import start_training
from paperworks._validation import check_choice, check_integer, check_number, check_shape
from paperworks.transport.amortized_sliced_wasserstein._amortizers import (
    AttentionAmortizer,
    GeneralizedLinearAmortizer,
    LinearAmortizer,
    NonlinearAmortizer,
)
from paperworks.transport.amortized_sliced_wasserstein._clouds import transport_cost, unit
from paperworks.transport.amortized_sliced_wasserstein._distances import (
    distributional_sliced_wasserstein,
    max_sliced_wasserstein,
)
from paperworks.transport.amortized_sliced_wasserstein._layers import affine
from paperworks.transport.amortized_sliced_wasserstein._loss import AmortizedSlicedWassersteinLoss

Cost = Callable[[Tensor, Tensor], Tensor]

_AMORTIZERS: dict[str, Callable[[int, int, torch.Generator], nn.Module]] = {
    "efficient": lambda d, m, generator: AttentionAmortizer(d, random_state=generator),
    "softmax": lambda d, m, generator: AttentionAmortizer(d, kind="softmax", random_state=generator),
    "linformer": lambda d, m, generator: AttentionAmortizer(d, kind="linformer", n_points=m, random_state=generator),
    "linear": lambda d, m, generator: LinearAmortizer(d, m, random_state=generator),
    "generalized-linear": lambda d, m, generator: GeneralizedLinearAmortizer(d, m, random_state=generator),
    "nonlinear": lambda d, m, generator: NonlinearAmortizer(d, m, random_state=generator),
}
_LOSSES = ("amortized", "amortized-max", "distributional", "max-sliced", "sliced")


class PointCloudAutoencoder(nn.Module):
    """Autoencoder of point clouds: a PointNet encoder and a decoder of fully connected layers.

    The encoder sends each point through the same layers, d-64-128-256, keeps the largest value of each of the 256
    channels, and maps these to the code: it is blind to the order of the points and reads any number of them. The
    decoder, with two hidden layers, writes ``n_points`` points. There are no batch statistics: a cloud's code does
    not depend on what is encoded with it.

    Parameters
    ----------
    n_points : int
        Points of each reconstructed cloud.
    n_features : int, default 3
        Dimension d of the points.
    latent_dim : int, default 256
        Length of the code.
    random_state : int, Generator, RandomState or None
        Where the starting weights come from.

    Raises
    ------
    TypeError
        If a size is no integer.
    ValueError
        If a size is less than 1.

    References
    ----------
    C. R. Qi et al. "PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation." arXiv:1612.00593.

    Examples
    --------
    >>> import torch
    >>> model = PointCloudAutoencoder(100, latent_dim=16, random_state=0)
    >>> clouds = torch.randn(4, 250, 3, generator=torch.Generator().manual_seed(0))
    >>> model.encode(clouds).shape, model(clouds).shape
    (torch.Size([4, 16]), torch.Size([4, 100, 3]))
    """

    def __init__(
        self, n_points: int, n_features: int = 3, latent_dim: int = 256, *, random_state: RandomState = None
    ) -> None:
        super().__init__()
        self.n_points = check_integer("n_points", n_points)
        self.n_features = check_integer("n_features", n_features)
        self.latent_dim = check_integer("latent_dim", latent_dim)
        generator = torch_generator(random_state)
        self.pointwise = nn.Sequential(
            affine(n_features, 64, generator), nn.ReLU(),
            affine(64, 128, generator), nn.ReLU(),
            affine(128, 256, generator),
        )  # fmt: skip
        self.to_code = affine(256, latent_dim, generator)
        self.decoder = nn.Sequential(
            affine(latent_dim, 512, generator), nn.ReLU(),
            affine(512, 512, generator), nn.ReLU(),
            affine(512, n_points * n_features, generator),
        )  # fmt: skip

    def encode(self, clouds: Tensor) -> Tensor:
        """Return codes of shape (B, latent_dim) for clouds of shape (B, m, d)."""
        check_shape("clouds", tuple(clouds.shape), ndim=3)
        if clouds.shape[-1] != self.n_features:
            raise ValueError(f"clouds must hold points of dimension {self.n_features}, got {clouds.shape[-1]}")
        return self.to_code(self.pointwise(clouds).amax(dim=1).relu())

    def decode(self, codes: Tensor) -> Tensor:
        """Return clouds of shape (B, n_points, d) for codes of shape (B, latent_dim)."""
        check_shape("codes", tuple(codes.shape), ndim=2)
        if codes.shape[-1] != self.latent_dim:
            raise ValueError(f"codes must have length {self.latent_dim}, got {codes.shape[-1]}")
        return self.decoder(codes).unflatten(-1, (self.n_points, self.n_features))

    def forward(self, clouds: Tensor) -> Tensor:
        """Return reconstructions of shape (B, n_points, d) for clouds of shape (B, m, d)."""
        return self.decode(self.encode(clouds))


class PointCloudReconstructor(TransformerMixin, BaseEstimator):
    """Point clouds as codes, learned by an autoencoder with an amortised distributional sliced Wasserstein loss.

    ``fit`` trains a `PointCloudAutoencoder` with Adam; ``transform`` gives a cloud's code, ``inverse_transform`` a
    code's cloud. Clouds are centred and scaled by one number for all before they are encoded.

    Parameters
    ----------
    loss : {"amortized", "amortized-max", "distributional", "max-sliced", "sliced"} or callable, default "amortized"
        What is minimised between clouds and their reconstructions, all with p = 2: the paper's
        `AmortizedSlicedWassersteinLoss`; the same without spread of the directions; their counterparts with ten steps
        of ascent for each batch (learning rate 0.1); uniform directions. A callable, or a module, takes two tensors of
        shape (B, m, d) and returns a number.
    concentration : float, default 1.0
        Concentration of the directions of ``"amortized"`` and ``"distributional"``.
    n_projections : int, default 100
        Directions for each pair of clouds.
    amortizer : {"efficient", "softmax", "linformer", "linear", "generalized-linear", "nonlinear"}, default "efficient"
        Network that predicts the directions of the amortised losses.
    latent_dim : int, default 256
        Length of the codes.
    n_epochs : int, default 50
        Passes over the clouds.
    batch_size : int, default 32
        Clouds for each step.
    learning_rate : float, default 0.001
        Adam's, for the autoencoder.
    uniform_epochs : int, default 0
        First epochs in which uniform directions take the place of the loss.
    device : str or torch.device, default "auto"
        Where training runs; ``"auto"`` takes a GPU if there is one.
    progress : bool, default True
        Whether to show a bar while training; none is shown where stderr is no terminal.
    random_state : int, Generator, RandomState or None
        Where weights, batches and directions come from.

    Attributes
    ----------
    autoencoder_ : PointCloudAutoencoder
        The trained network, on the CPU.
    center_ : ndarray of shape (d,)
        Mean of all points that were fitted.
    scale_ : float
        Their root mean square distance from it, for each coordinate.
    loss_curve_ : list of float
        Mean loss of each epoch, in the units of the scaled clouds.
    n_features_in_ : int
        Dimension d of the points.

    Raises
    ------
    ValueError
        On fitting, if the clouds are not of shape (n_samples, m, d) with d >= 2, or a parameter is out of its range.

    References
    ----------
    K. Nguyen, D. Nguyen, N. Ho. "Self-Attention Amortized Distributional Projection Optimization for Sliced
    Wasserstein Point-Cloud Reconstruction." ICML 2023. arXiv:2301.04791.

    Examples
    --------
    >>> from paperworks.transport import PointCloudReconstructor, make_shapes
    >>> clouds, _ = make_shapes(16, 64, random_state=0)
    >>> model = PointCloudReconstructor(latent_dim=8, n_projections=20, n_epochs=5, batch_size=8, random_state=0)
    >>> codes = model.fit_transform(clouds)
    >>> codes.shape, model.inverse_transform(codes).shape
    ((16, 8), (16, 64, 3))
    """

    def __init__(
        self,
        loss: Literal["amortized", "amortized-max", "distributional", "max-sliced", "sliced"] | Cost = "amortized",
        *,
        concentration: float = 1.0,
        n_projections: int = 100,
        amortizer: str = "efficient",
        latent_dim: int = 256,
        n_epochs: int = 50,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        uniform_epochs: int = 0,
        device: str | torch.device = "auto",
        progress: bool = True,
        random_state: RandomState = None,
    ) -> None:
        self.loss = loss
        self.concentration = concentration
        self.n_projections = n_projections
        self.amortizer = amortizer
        self.latent_dim = latent_dim
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.uniform_epochs = uniform_epochs
        self.device = device
        self.progress = progress
        self.random_state = random_state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X: Any, y: Any = None) -> "PointCloudReconstructor":
        """Train the autoencoder.

        Parameters
        ----------
        X : array_like of shape (n_samples, m, d)
            Clouds of m points in dimension d.
        y : object, optional
            Ignored.

        Returns
        -------
        PointCloudReconstructor
            The estimator itself.
        """
        X = _check_clouds(X)
        if X.shape[2] < 2:
            raise ValueError(f"X must hold points of dimension d >= 2, got shape {X.shape}")
        check_integer("n_epochs", self.n_epochs)
        check_integer("batch_size", self.batch_size)
        check_integer("uniform_epochs", self.uniform_epochs, at_least=0)
        check_number("learning_rate", self.learning_rate, above=0.0)
        self.n_features_in_ = X.shape[2]
        self.center_ = X.mean(axis=(0, 1), dtype=np.float64)
        self.scale_ = float(np.sqrt(np.mean((X - self.center_) ** 2, dtype=np.float64))) or 1.0
        generator = torch_generator(self.random_state)
        model = PointCloudAutoencoder(X.shape[1], X.shape[2], self.latent_dim, random_state=generator)
        self._train(model, self._scaled(X), generator)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Encode clouds.

        Parameters
        ----------
        X : array_like of shape (n_samples, m, d)
            Clouds; m may differ from what was fitted.

        Returns
        -------
        ndarray of shape (n_samples, latent_dim)
            Their codes.
        """
        check_is_fitted(self)
        return self._in_batches(self.autoencoder_.encode, self._scaled(self._check_against_fit(X)))

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Decode codes.

        Parameters
        ----------
        X : array_like of shape (n_samples, latent_dim)
            Codes.

        Returns
        -------
        ndarray of shape (n_samples, m, d)
            Clouds, with as many points as those that were fitted.
        """
        check_is_fitted(self)
        codes = torch.from_numpy(check_array(X, dtype=np.float32))
        return self._in_batches(self.autoencoder_.decode, codes) * self.scale_ + self.center_

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the mean sliced Wasserstein distance between clouds and their reconstructions; larger is better.

        Parameters
        ----------
        X : array_like of shape (n_samples, m, d)
            Clouds.
        y : object, optional
            Ignored.

        Returns
        -------
        float
            The score, in the units of ``X``, along 100 directions that are always the same.
        """
        check_is_fitted(self)
        X = self._check_against_fit(X)
        truth, guess = (torch.from_numpy(np.asarray(each, dtype=np.float64)) for each in (X, self._reconstruct(X)))
        directions = _uniform_directions(truth[:1], 100, torch_generator(0)).expand(len(truth), -1, -1)
        return -float(transport_cost(truth, guess, directions, 2.0).sqrt().mean())

    def _train(self, model: PointCloudAutoencoder, clouds: Tensor, generator: torch.Generator) -> None:
        cost = self._cost(clouds.shape[1], generator)
        uniform = _sliced_cost(check_integer("n_projections", self.n_projections), generator)
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        accelerator, place, (prepared, optimizer) = start_training(self.device, model, optimizer)
        if isinstance(cost, nn.Module):
            cost.to(place).train()
        # Each process of a distributed run shuffles for itself.
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        shuffling = torch_generator(seed + accelerator.process_index)
        self.loss_curve_ = []
        for epoch in progress_bar(range(self.n_epochs), "training", self.progress):
            objective = uniform if epoch < self.uniform_epochs else cost
            total = torch.zeros((), device=place)
            for chosen in torch.randperm(len(clouds), generator=shuffling).split(self.batch_size):
                batch = clouds[chosen].to(place)
                loss = objective(batch, prepared(batch))
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
                total += loss.detach() * len(chosen)
            self.loss_curve_.append(float(total) / len(clouds))
        self.autoencoder_ = model.cpu().eval()

    def _cost(self, n_points: int, generator: torch.Generator) -> Cost:
        """Return what is minimised between a batch of clouds and their reconstructions."""
        if callable(self.loss):
            # A module that trains as it is called is the caller's parameter: fitting works on a copy of it.
            return deepcopy(self.loss) if isinstance(self.loss, nn.Module) else self.loss
        check_choice("loss", self.loss, _LOSSES)
        check_choice("amortizer", self.amortizer, tuple(_AMORTIZERS))
        kappa = check_number("concentration", self.concentration, above=0.0)
        n_projections = check_integer("n_projections", self.n_projections)
        if self.loss == "sliced":
            return _sliced_cost(n_projections, generator)
        ascent: dict[str, Any] = {"n_iterations": 10, "learning_rate": 0.1, "random_state": generator}
        if self.loss == "max-sliced":
            return lambda x, y: max_sliced_wasserstein(x, y, **ascent).square().mean()
        if self.loss == "distributional":
            settings = ascent | {"concentration": kappa, "n_projections": n_projections}
            return lambda x, y: distributional_sliced_wasserstein(x, y, **settings).square().mean()
        return AmortizedSlicedWassersteinLoss(
            _AMORTIZERS[self.amortizer](self.n_features_in_, n_points, generator),
            concentration=None if self.loss == "amortized-max" else kappa,
            n_projections=n_projections,
            random_state=generator,
        )

    def _reconstruct(self, X: np.ndarray) -> np.ndarray:
        return self.inverse_transform(self.transform(X))

    def _check_against_fit(self, X: Any) -> np.ndarray:
        X = _check_clouds(X)
        if X.shape[2] != self.n_features_in_:
            raise ValueError(
                f"X has points of dimension {X.shape[2]}, but PointCloudReconstructor was fitted with "
                f"{self.n_features_in_}"
            )
        return X

    def _scaled(self, X: np.ndarray) -> Tensor:
        return torch.from_numpy(((X - self.center_) / self.scale_).astype(np.float32))

    def _in_batches(self, step: Callable[[Tensor], Tensor], values: Tensor) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([step(some) for some in values.split(256)]).numpy()


def _check_clouds(X: Any) -> np.ndarray:
    X = check_array(X, dtype=[np.float64, np.float32], ensure_2d=False, allow_nd=True)
    if X.ndim != 3:
        raise ValueError(f"X must hold clouds, of shape (n_samples, m, d), got shape {X.shape}")
    check_shape("X", X.shape)
    return X


def _uniform_directions(clouds: Tensor, n_projections: int, generator: torch.Generator) -> Tensor:
    n_clouds, _, d = clouds.shape
    return unit(torch.randn(n_clouds, n_projections, d, dtype=torch.float64, generator=generator)).to(clouds)


def _sliced_cost(n_projections: int, generator: torch.Generator) -> Cost:
    def cost(x: Tensor, y: Tensor) -> Tensor:
        return transport_cost(x, y, _uniform_directions(x, n_projections, generator), 2.0).mean()

    return cost
