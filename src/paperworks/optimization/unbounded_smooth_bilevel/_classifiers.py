"""Classifiers as the lower level of hyper-cleaning: derivatives of weighted cross-entropy on batches of rows.

The lower loss on rows B is the mean of sigmoid(x_i) CE_i(y) plus penalty ||y||^2, the upper one the mean of CE_i(y) on
clean rows. Each class gives the gradient of the first, its Hessian's products, the slopes <grad CE_i, z> of its rows,
and the value and gradient of the second.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import log_softmax, softmax
from torch import Tensor, nn
from torch.func import functional_call

from paperworks.optimization.unbounded_smooth_bilevel._hypergradient import DIFFERENCE, Products

Array = NDArray[np.floating[Any]]
Rows = NDArray[np.integer[Any]]


class SoftmaxRegression:
    """Linear classifier with weights y of shape (n_features, n_classes), in closed form.

    Parameters
    ----------
    X, clean_X : array or CSR array of shape (n, n_features)
        Rows, with a constant among the features where one is wanted.
    targets, clean_targets : array of int of shape (n,)
        Their classes, from 0.
    n_classes : int
        Number of classes.
    penalty : float
        Weight of ||y||^2.
    """

    def __init__(
        self, X: Any, targets: Rows, clean_X: Any, clean_targets: Rows, n_classes: int, penalty: float
    ) -> None:
        self.X, self.targets, self.clean_X, self.clean_targets = X, targets, clean_X, clean_targets
        self.n_classes, self.penalty = n_classes, penalty
        self.n, self.n_clean = X.shape[0], clean_X.shape[0]

    def start(self) -> Array:
        """Weights to begin with."""
        return np.zeros((self.X.shape[1], self.n_classes))

    def smoothness(self) -> float:
        """Bound of the curvature: half the mean square norm of the rows, and the penalty's."""
        squares = self.X.multiply(self.X).sum() if sparse.issparse(self.X) else np.vdot(self.X, self.X)
        return 0.5 * float(squares) / self.n + 2 * self.penalty

    def gradient(self, y: Array, rows: Rows, weights: Array) -> Array:
        A = self.X[rows]
        return A.T @ (self._error(A @ y, self.targets[rows]) * self._share(weights)) + 2 * self.penalty * y

    def hessian_vector(self, y: Array, z: Array, rows: Rows, weights: Array) -> Array:
        A = self.X[rows]
        P, D = softmax(A @ y, axis=1), A @ z
        return A.T @ (P * (D - (P * D).sum(1, keepdims=True)) * self._share(weights)) + 2 * self.penalty * z

    def slopes(self, y: Array, z: Array, rows: Rows) -> Array:
        A = self.X[rows]
        return (self._error(A @ y, self.targets[rows]) * (A @ z)).sum(1)

    def upper(self, y: Array, rows: Rows) -> tuple[float, Array]:
        A, targets = self.clean_X[rows], self.clean_targets[rows]
        outputs = A @ y
        value = -float(log_softmax(outputs, axis=1)[np.arange(len(rows)), targets].mean())
        return value, A.T @ self._error(outputs, targets) / len(rows)

    @staticmethod
    def _error(outputs: Array, targets: Rows) -> Array:
        """Gradients of the rows' cross-entropies in their outputs."""
        P = softmax(outputs, axis=1)
        P[np.arange(len(targets)), targets] -= 1.0
        return np.asarray(P)

    @staticmethod
    def _share(weights: Array) -> Array:
        return weights[:, None] / len(weights)


class ModuleClassifier:
    """Any network that turns rows into outputs of shape (rows, n_classes), its parameters being one vector y.

    Parameters
    ----------
    model : Module
        The network.
    data, clean_data : Tensor of shape (n, ...)
        Rows, such as token ids.
    targets, clean_targets : Tensor of int of shape (n,)
        Their classes, from 0.
    penalty : float
        Weight of ||y||^2.
    hvp : {"autograd", "finite_difference"}
        How products with second derivatives are taken.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Tensor,
        targets: Tensor,
        clean_data: Tensor,
        clean_targets: Tensor,
        *,
        penalty: float,
        hvp: Products,
    ) -> None:
        self.model, self.penalty, self.hvp = model, penalty, hvp
        self.data, self.targets, self.clean_data, self.clean_targets = data, targets, clean_data, clean_targets
        self.n, self.n_clean = len(data), len(clean_data)
        trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        if not trained:
            raise ValueError("model has no parameters that require gradients")
        self._names, self._shapes = list(trained), [each.shape for each in trained.values()]
        self._sizes = [each.numel() for each in trained.values()]

    def start(self) -> Tensor:
        """The model's parameters as they are."""
        values = dict(self.model.named_parameters())
        return torch.cat([values[name].detach().reshape(-1) for name in self._names])

    @torch.no_grad()
    def write(self, y: Tensor) -> None:
        """Put a vector of parameters into the model."""
        values = dict(self.model.named_parameters())
        for name, value in self._parameters(y).items():
            values[name].copy_(value)

    def gradient(self, y: Tensor, rows: Rows, weights: Array) -> Tensor:
        y = y.detach().requires_grad_()
        return torch.autograd.grad(self._lower(y, rows, self._as_tensor(weights)), y)[0]

    def hessian_vector(self, y: Tensor, z: Tensor, rows: Rows, weights: Array) -> Tensor:
        if self.hvp == "finite_difference":
            r = self._difference(z)
            return (self.gradient(y + r * z, rows, weights) - self.gradient(y - r * z, rows, weights)) / (2 * r)
        y = y.detach().requires_grad_()
        with torch.backends.cudnn.flags(enabled=False):
            loss = self._lower(y, rows, self._as_tensor(weights))
            (gradient,) = torch.autograd.grad(loss, y, create_graph=True)
            return torch.autograd.grad(gradient, y, z)[0]

    def slopes(self, y: Tensor, z: Tensor, rows: Rows) -> Array:
        if self.hvp == "finite_difference":
            r = self._difference(z)
            with torch.no_grad():
                ends = [self._losses(y + sign * r * z, self.data, self.targets, rows) for sign in (1, -1)]
            return self._as_array((ends[0] - ends[1]) / (2 * r))
        y = y.detach().requires_grad_()
        with torch.backends.cudnn.flags(enabled=False):
            ones = torch.ones(len(rows), dtype=y.dtype, device=y.device, requires_grad=True)
            loss = ones @ self._losses(y, self.data, self.targets, rows)
            (gradient,) = torch.autograd.grad(loss, y, create_graph=True)
            return self._as_array(torch.autograd.grad(gradient, ones, z)[0])

    def upper(self, y: Tensor, rows: Rows) -> tuple[float, Tensor]:
        y = y.detach().requires_grad_()
        loss = self._losses(y, self.clean_data, self.clean_targets, rows).mean()
        return float(loss.detach()), torch.autograd.grad(loss, y)[0]

    def _lower(self, y: Tensor, rows: Rows, weights: Tensor) -> Tensor:
        losses = self._losses(y, self.data, self.targets, rows)
        return weights @ losses / len(weights) + self.penalty * (y @ y)

    def _losses(self, y: Tensor, data: Tensor, targets: Tensor, rows: Rows) -> Tensor:
        places = torch.from_numpy(rows).to(data.device)
        outputs = functional_call(self.model, self._parameters(y), (data[places],))
        return nn.functional.cross_entropy(outputs, targets[places], reduction="none")

    def _parameters(self, y: Tensor) -> dict[str, Tensor]:
        parts = y.split(self._sizes)
        return {name: part.view(shape) for name, part, shape in zip(self._names, parts, self._shapes, strict=True)}

    def _difference(self, z: Tensor) -> float:
        return DIFFERENCE / max(float(z.norm()), torch.finfo(z.dtype).tiny ** 0.5)

    def _as_tensor(self, weights: Array) -> Tensor:
        dtype = next(self.model.parameters()).dtype
        return torch.from_numpy(weights).to(device=self.data.device, dtype=dtype)

    @staticmethod
    def _as_array(values: Tensor) -> Array:
        return np.asarray(values.detach().cpu().double().numpy())


class TokenClassifier(nn.Module):
    """Embedding, LSTM and a linear head on its state after the last token; 0 stands for no token.

    Parameters
    ----------
    vocabulary, n_classes : int
        Numbers of token ids, 0 included, and of classes.
    width, hidden : int
        Sizes of the embedding and of the LSTM's state.
    """

    def __init__(self, vocabulary: int, n_classes: int, width: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, n_classes)
        # Forget little at first, so that gradients reach the beginning of a text.
        with torch.no_grad():
            self.lstm.get_parameter("bias_ih_l0")[hidden : 2 * hidden] += 1.0

    def forward(self, tokens: Tensor) -> Tensor:
        """Outputs of shape (rows, n_classes) for token ids of shape (rows, length)."""
        states, _ = self.lstm(self.embedding(tokens))
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        last = ((tokens != 0) * places).amax(1).clamp(min=1) - 1
        return self.head(states[torch.arange(len(tokens), device=tokens.device), last])
