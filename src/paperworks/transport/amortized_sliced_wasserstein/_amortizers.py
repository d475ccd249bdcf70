"""Networks that read two clouds and predict the direction in which they differ most."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from paperworks._random import RandomState, torch_generator
from paperworks._validation import check_choice, check_integer
from paperworks.transport.amortized_sliced_wasserstein._clouds import check_batches, check_weights_of, unit
from paperworks.transport.amortized_sliced_wasserstein._layers import affine


class AttentionAmortizer(nn.Module):
    r"""Self-attention amortiser: symmetric in the two clouds, and blind to the order of their points.

    .. math::
        f(X, Y) = \frac{A(X) + A(Y)}{\|A(X) + A(Y)\|}, \qquad
        A(X) = \frac{1}{m} \sum_{i=1}^m \text{Attention}(X)_i

    One single-head attention A reads both clouds, with queries and keys of dimension ``key_dim`` and values of
    dimension d, all affine in the points. Queries are Q, keys K, values V:

    * ``"efficient"``: softmax(Q, over features) (softmax(K, over points)' V), in O(m key_dim d);
    * ``"softmax"``: softmax(Q K' / sqrt(key_dim)) V, in O(m^2 key_dim);
    * ``"linformer"``: the same with K and V first projected along the points, from m to ``projected_points`` rows.
      The projection is tied to the points' positions: this kind needs a fixed m and is *not* blind to their order.

    Parameters
    ----------
    n_features : int
        Dimension d of the points, at least 2.
    key_dim : int, default 64
        Dimension of queries and keys.
    kind : {"efficient", "softmax", "linformer"}, default "efficient"
        The attention.
    n_points : int, optional
        Number m of points of each cloud: needed by ``"linformer"``, refused by the others, which read clouds of any
        sizes.
    projected_points : int, default 64
        Rows that ``"linformer"`` keeps; the others don't use it.
    random_state : int, Generator, RandomState or None
        Where the starting weights come from.

    Raises
    ------
    TypeError
        If a size is no integer; in ``forward``, if a cloud is no floating-point tensor.
    ValueError
        If a parameter is out of its range; in ``forward``, if the clouds are not of shape (B, m, d), hold NaN or
        infinity, or don't have the sizes that the module was made for.

    References
    ----------
    K. Nguyen, D. Nguyen, N. Ho. "Self-Attention Amortized Distributional Projection Optimization for Sliced
    Wasserstein Point-Cloud Reconstruction." ICML 2023. arXiv:2301.04791.
    Z. Shen et al. "Efficient Attention: Attention with Linear Complexities." arXiv:1812.01243.
    S. Wang et al. "Linformer: Self-Attention with Linear Complexity." arXiv:2006.04768.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.randn(2, 4, 100, 3, generator=torch.Generator().manual_seed(0))
    >>> f = AttentionAmortizer(3, random_state=0)
    >>> f(x, y).shape
    torch.Size([4, 3])
    >>> torch.allclose(f(x, y), f(y.flip(1), x), atol=1e-6)
    True
    """

    def __init__(
        self,
        n_features: int,
        key_dim: int = 64,
        kind: Literal["efficient", "softmax", "linformer"] = "efficient",
        n_points: int | None = None,
        *,
        projected_points: int = 64,
        random_state: RandomState = None,
    ) -> None:
        super().__init__()
        self.n_features = check_integer("n_features", n_features, at_least=2)
        self.key_dim = check_integer("key_dim", key_dim)
        self.kind = check_choice("kind", kind, ("efficient", "softmax", "linformer"))
        generator = torch_generator(random_state)
        self.queries = affine(n_features, key_dim, generator)
        self.keys = affine(n_features, key_dim, generator)
        self.values = affine(n_features, n_features, generator)
        self.n_points = n_points
        if kind == "linformer":
            if n_points is None:
                raise ValueError("n_points must be given for kind='linformer', got None")
            n_rows = check_integer("projected_points", projected_points)
            self.project_keys = affine(check_integer("n_points", n_points), n_rows, generator)
            self.project_values = affine(n_points, n_rows, generator)
        elif n_points is not None:
            raise ValueError(f"n_points is for kind='linformer'; kind={kind!r} reads any number, got {n_points}")

    def forward(self, x: Tensor, y: Tensor, x_weights: Tensor | None = None, y_weights: Tensor | None = None) -> Tensor:
        """Predict a direction for each pair of clouds; no gradient flows into the clouds.

        Parameters
        ----------
        x : Tensor of shape (B, n, d)
            Clouds.
        y : Tensor of shape (B, m, d)
            The clouds that they are compared with.
        x_weights : Tensor of shape (B, n) or (n,), optional
            Masses of the points; a point of mass 0 is as good as absent. Not for ``"linformer"``.
        y_weights : Tensor of shape (B, m) or (m,), optional
            Masses of the points of ``y``.

        Returns
        -------
        Tensor of shape (B, d)
            Unit vectors.
        """
        check_batches(x, y, self.n_features, self.n_points)
        return unit((self._attend("x_weights", x, x_weights) + self._attend("y_weights", y, y_weights)) / 2)

    def _attend(self, name: str, cloud: Tensor, weights: Tensor | None) -> Tensor:
        """Return the mean over the points of the attended values, of shape (B, d)."""
        cloud = cloud.detach()
        masses = check_weights_of(name, weights, cloud)
        if masses is not None:
            if self.kind == "linformer":
                raise ValueError(f"{name} can't be used with kind='linformer', whose weights are tied to positions")
            masses = (masses / masses.sum(dim=-1, keepdim=True)).detach()
        queries, keys, values = self.queries(cloud), self.keys(cloud), self.values(cloud)
        if self.kind == "efficient":
            # The mean over the queries is taken first; it commutes with the product by the context.
            mean_query = _mean(queries.softmax(dim=-1), masses)
            return (mean_query @ _softmax_over_points(keys, values, masses)).squeeze(-2)
        if self.kind == "linformer":
            keys, values = self.project_keys(keys.mT).mT, self.project_values(values.mT).mT
        scores = queries * self.key_dim**-0.5 @ keys.mT
        if masses is not None:
            scores = scores + masses.log().unsqueeze(-2)
        return (_mean(scores.softmax(dim=-1), masses) @ values).squeeze(-2)

    def extra_repr(self) -> str:
        """Describe the module in its printed form."""
        return f"n_features={self.n_features}, key_dim={self.key_dim}, kind={self.kind!r}, n_points={self.n_points}"


class LinearAmortizer(nn.Module):
    r"""Linear amortiser: the direction is a combination of all points, with one weight for each position.

    .. math::
        f(X, Y) \propto w_0 + [X' \; Y'] \, w_1, \qquad w_0 \in R^d, \; w_1 \in R^{2m}

    A baseline: it needs a fixed number of points, and its answer changes with their order and with the order of the
    two clouds.

    Parameters
    ----------
    n_features : int
        Dimension d of the points, at least 2.
    n_points : int
        Number m of points of each cloud.
    random_state : int, Generator, RandomState or None
        Where the starting weights come from.

    Raises
    ------
    TypeError
        If a size is no integer; in ``forward``, if a cloud is no floating-point tensor.
    ValueError
        If a size is out of its range; in ``forward``, if the clouds don't have these sizes, or are not finite.

    References
    ----------
    K. Nguyen, N. Ho. "Amortized Projection Optimization for Sliced Wasserstein Generative Models." NeurIPS 2022.
    arXiv:2203.13417.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.randn(2, 4, 100, 3, generator=torch.Generator().manual_seed(0))
    >>> LinearAmortizer(3, 100, random_state=0)(x, y).shape
    torch.Size([4, 3])
    """

    def __init__(self, n_features: int, n_points: int, *, random_state: RandomState = None) -> None:
        super().__init__()
        self.mix = _Mixture(n_features, n_points, torch_generator(random_state))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Predict a direction, of shape (B, d), for each pair of clouds of shape (B, m, d)."""
        return unit(self.mix(*_detached(x, y, self.mix)))


class GeneralizedLinearAmortizer(nn.Module):
    r"""Generalised linear amortiser: a small network moves each point, then as `LinearAmortizer`.

    .. math::
        f(X, Y) \propto w_0 + [g(X)' \; g(Y)'] \, w_1, \qquad g(z) = W_2 \, \sigma(W_1 z + b_1) + b_2

    Parameters
    ----------
    n_features : int
        Dimension d of the points, at least 2.
    n_points : int
        Number m of points of each cloud.
    random_state : int, Generator, RandomState or None
        Where the starting weights come from.

    Raises
    ------
    TypeError
        If a size is no integer; in ``forward``, if a cloud is no floating-point tensor.
    ValueError
        If a size is out of its range; in ``forward``, if the clouds don't have these sizes, or are not finite.

    References
    ----------
    K. Nguyen, N. Ho. "Amortized Projection Optimization for Sliced Wasserstein Generative Models." NeurIPS 2022.
    arXiv:2203.13417.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.randn(2, 4, 100, 3, generator=torch.Generator().manual_seed(0))
    >>> GeneralizedLinearAmortizer(3, 100, random_state=0)(x, y).shape
    torch.Size([4, 3])
    """

    def __init__(self, n_features: int, n_points: int, *, random_state: RandomState = None) -> None:
        super().__init__()
        generator = torch_generator(random_state)
        self.mix = _Mixture(n_features, n_points, generator)
        self.pointwise = _bend(n_features, generator)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Predict a direction, of shape (B, d), for each pair of clouds of shape (B, m, d)."""
        x, y = _detached(x, y, self.mix)
        return unit(self.mix(self.pointwise(x), self.pointwise(y)))


class NonlinearAmortizer(nn.Module):
    r"""Non-linear amortiser: as `LinearAmortizer`, then a small network moves the combination.

    .. math::
        f(X, Y) \propto h(w_0 + [X' \; Y'] \, w_1), \qquad h(z) = W_2 \, \sigma(W_1 z + b_1) + b_2

    Parameters
    ----------
    n_features : int
        Dimension d of the points, at least 2.
    n_points : int
        Number m of points of each cloud.
    random_state : int, Generator, RandomState or None
        Where the starting weights come from.

    Raises
    ------
    TypeError
        If a size is no integer; in ``forward``, if a cloud is no floating-point tensor.
    ValueError
        If a size is out of its range; in ``forward``, if the clouds don't have these sizes, or are not finite.

    References
    ----------
    K. Nguyen, N. Ho. "Amortized Projection Optimization for Sliced Wasserstein Generative Models." NeurIPS 2022.
    arXiv:2203.13417.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.randn(2, 4, 100, 3, generator=torch.Generator().manual_seed(0))
    >>> NonlinearAmortizer(3, 100, random_state=0)(x, y).shape
    torch.Size([4, 3])
    """

    def __init__(self, n_features: int, n_points: int, *, random_state: RandomState = None) -> None:
        super().__init__()
        generator = torch_generator(random_state)
        self.mix = _Mixture(n_features, n_points, generator)
        self.after = _bend(n_features, generator)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Predict a direction, of shape (B, d), for each pair of clouds of shape (B, m, d)."""
        return unit(self.after(self.mix(*_detached(x, y, self.mix))))


class _Mixture(nn.Module):
    """w_0 + [X' Y'] w_1, of shape (B, d)."""

    def __init__(self, n_features: int, n_points: int, generator: torch.Generator) -> None:
        super().__init__()
        self.n_features = check_integer("n_features", n_features, at_least=2)
        self.n_points = check_integer("n_points", n_points)
        bound = (2 * n_points) ** -0.5
        self.shift = nn.Parameter(torch.empty(n_features).uniform_(-bound, bound, generator=generator))
        self.weights = nn.Parameter(torch.empty(2 * n_points).uniform_(-bound, bound, generator=generator))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.shift + torch.cat([x, y], dim=1).mT @ self.weights


def _bend(n_features: int, generator: torch.Generator) -> nn.Sequential:
    return nn.Sequential(
        affine(n_features, n_features, generator), nn.Sigmoid(), affine(n_features, n_features, generator)
    )


def _detached(x: Any, y: Any, mix: _Mixture) -> tuple[Tensor, Tensor]:
    check_batches(x, y, mix.n_features, mix.n_points)
    return x.detach(), y.detach()


def _mean(rows: Tensor, masses: Tensor | None) -> Tensor:
    """Return the mean of rows of shape (B, m, k), by mass, as (B, 1, k)."""
    return rows.mean(dim=-2, keepdim=True) if masses is None else masses.unsqueeze(-2) @ rows


def _softmax_over_points(keys: Tensor, values: Tensor, masses: Tensor | None) -> Tensor:
    """Return softmax(K, over points)' V of shape (B, k, d).

    Written out, since torch's softmax is slow along a dimension that is not the last one.
    """
    if masses is not None:
        keys = keys + masses.log().unsqueeze(-1)
    exponentials = (keys - keys.detach().amax(dim=-2, keepdim=True)).exp()
    return exponentials.mT @ values / exponentials.sum(dim=-2).unsqueeze(-1)
