"""Layers of networks on symmetric positive definite matrices, and the plain network made of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paperworks._random import RandomState, torch_generator
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.transport.bures_wasserstein_normalization._matrix_functions import (
    IDENTITY,
    INVERSE_SQRT,
    LOG,
    Rule,
    decompose,
    matrix_function,
    symmetrize,
)
from paperworks.transport.bures_wasserstein_normalization._positive_definite import check_square, relative_floor
from paperworks.transport.bures_wasserstein_normalization.normalization import METRICS, Metric, SPDBatchNorm

__all__ = ["BiMap", "EigenvalueRectification", "MatrixLogarithm", "SPDNet"]


class BiMap(nn.Module):
    """Bilinear map ``W' X W`` to smaller symmetric positive definite matrices.

    W is the nearest matrix with orthonormal columns to the parameter ``free_weight``, ``A (A' A)^-1/2``: plain
    optimisers train it, and none leaves the constraint.

    Parameters
    ----------
    n_in : int
        Size of the input matrices.
    n_out : int
        Size of the output matrices, at most ``n_in``.
    random_state : None, int, Generator, RandomState or torch.Generator
        Seed of the initial W, which is uniformly distributed.

    Attributes
    ----------
    free_weight : Parameter of shape (n_in, n_out)
        The matrix A.

    Raises
    ------
    ValueError
        If ``n_out`` exceeds ``n_in``.

    References
    ----------
    Huang, Van Gool, "A Riemannian Network for SPD Matrix Learning", arXiv:1608.04233.

    Examples
    --------
    >>> import torch
    >>> from paperworks.transport import BiMap
    >>> reduce = BiMap(4, 2, random_state=0)
    >>> bool(torch.allclose(reduce(torch.eye(4)), torch.eye(2), atol=1e-6))
    True
    """

    def __init__(self, n_in: int, n_out: int, *, random_state: RandomState = None) -> None:
        super().__init__()
        check_integer("n_in", n_in)
        if check_integer("n_out", n_out) > n_in:
            raise ValueError(f"n_out must be at most n_in = {n_in}, got {n_out}")
        start = torch.randn(n_in, n_out, generator=torch_generator(random_state), dtype=torch.float64)
        self.free_weight = nn.Parameter(torch.linalg.qr(start).Q.to(torch.get_default_dtype()))

    @property
    def weight(self) -> Tensor:
        """The map W of shape (n_in, n_out)."""
        A = self.free_weight
        gram = A.mT @ A
        return A @ matrix_function(gram, INVERSE_SQRT, decompose(gram, relative_floor=relative_floor(A.dtype)))

    def forward(self, X: Tensor) -> Tensor:
        """Map a batch.

        Parameters
        ----------
        X : Tensor of shape (..., n_in, n_in)
            Symmetric positive definite matrices.

        Returns
        -------
        Tensor of shape (..., n_out, n_out)
            Symmetric positive definite matrices.
        """
        W = self.weight
        if X.shape[-2:] != (len(W), len(W)):
            raise ValueError(f"X must have shape (..., {len(W)}, {len(W)}), got {tuple(X.shape)}")
        return W.mT @ X @ W


class EigenvalueRectification(nn.Module):
    """Raise eigenvalues below a threshold to it: the non-linearity of networks on SPD matrices (ReEig).

    Parameters
    ----------
    threshold : float, default 1e-5
        The smallest eigenvalue that comes out.

    References
    ----------
    Huang, Van Gool, "A Riemannian Network for SPD Matrix Learning", arXiv:1608.04233.

    Examples
    --------
    >>> import torch
    >>> from paperworks.transport import EigenvalueRectification
    >>> EigenvalueRectification(0.5)(torch.diag(torch.tensor([0.25, 2.0]))).diagonal()
    tensor([0.5000, 2.0000])
    """

    def __init__(self, threshold: float = 1e-5) -> None:
        super().__init__()
        self.threshold = check_number("threshold", threshold, above=0)

    def forward(self, X: Tensor) -> Tensor:
        """Rectify symmetric matrices of shape (..., n, n)."""
        return _spectral(X, IDENTITY, self.threshold)

    def extra_repr(self) -> str:
        """Return what is printed between the parentheses."""
        return f"threshold={self.threshold}"


class MatrixLogarithm(nn.Module):
    """Matrix logarithm, from SPD matrices to the flat space of symmetric ones (LogEig).

    Parameters
    ----------
    threshold : float, optional
        Raise eigenvalues below it first, which saves the decomposition of an `EigenvalueRectification` in front. By
        default eigenvalues are held above 1e-12 (float32: 1e-7) of each matrix's largest.

    References
    ----------
    Huang, Van Gool, "A Riemannian Network for SPD Matrix Learning", arXiv:1608.04233.

    Examples
    --------
    >>> import torch
    >>> from paperworks.transport import MatrixLogarithm
    >>> MatrixLogarithm()(torch.diag(torch.tensor([1.0, 2.0]))).diagonal()
    tensor([0.0000, 0.6931])
    """

    def __init__(self, *, threshold: float | None = None) -> None:
        super().__init__()
        self.threshold = None if threshold is None else check_number("threshold", threshold, above=0)

    def forward(self, X: Tensor) -> Tensor:
        """Take the logarithm of symmetric positive definite matrices of shape (..., n, n)."""
        return _spectral(X, LOG, self.threshold)

    def extra_repr(self) -> str:
        """Return what is printed between the parentheses."""
        return "" if self.threshold is None else f"threshold={self.threshold}"


class SPDNet(nn.Module):
    """Network on SPD matrices: blocks of BiMap, batch normalisation and rectification, a logarithm, a linear layer.

    Parameters
    ----------
    n_in : int
        Size of the input matrices.
    hidden : sequence of int
        Size of the matrices after each block, not increasing.
    n_classes : int
        Number of outputs.
    normalization : str or None, default "generalized-bures-wasserstein"
        The metric of each block's `SPDBatchNorm`; None leaves the normalisation out.
    power : float, default 1.0
        Power deformation of the normalisation.
    learn_metric : bool, default True
        Learn the metric M where the normalisation has one.
    mean_iterations : int, default 1
        Fixed-point steps for each batch's mean.
    threshold : float, default 1e-5
        Of the rectification.
    random_state : None, int, Generator, RandomState or torch.Generator
        Seed of the initial weights.

    Raises
    ------
    ValueError
        If sizes increase, or a parameter is out of its range.

    References
    ----------
    Huang, Van Gool, "A Riemannian Network for SPD Matrix Learning", arXiv:1608.04233.
    Wang, Jin, Chen, Luo, Wu, "Learning to Normalize on the SPD Manifold under Bures-Wasserstein Geometry",
    arXiv:2504.00660.

    Examples
    --------
    >>> import torch
    >>> from paperworks.transport import SPDNet
    >>> net = SPDNet(6, (4,), 3, random_state=0)
    >>> A = torch.randn(10, 6, 20, generator=torch.Generator().manual_seed(0))
    >>> net(A @ A.mT / 20).shape
    torch.Size([10, 3])
    """

    def __init__(
        self,
        n_in: int,
        hidden: Sequence[int],
        n_classes: int,
        *,
        normalization: Metric | None = "generalized-bures-wasserstein",
        power: float = 1.0,
        learn_metric: bool = True,
        mean_iterations: int = 1,
        threshold: float = 1e-5,
        random_state: RandomState = None,
    ) -> None:
        super().__init__()
        check_integer("n_classes", n_classes)
        check_choice("normalization", normalization, (None, *METRICS))
        if not hidden:
            raise ValueError(f"hidden must name the size of at least one block, got {hidden!r}")
        generator = torch_generator(random_state)
        layers: list[nn.Module] = []
        for before, after in zip((n_in, *hidden), hidden, strict=False):
            # The rectification of the last block is part of the logarithm.
            layers += [EigenvalueRectification(threshold)] if layers else []
            layers.append(BiMap(before, after, random_state=generator))
            if normalization is not None:
                layers.append(
                    SPDBatchNorm(
                        after,
                        metric=normalization,
                        power=power,
                        learn_metric=learn_metric,
                        mean_iterations=mean_iterations,
                    )
                )
        self.blocks = nn.Sequential(*layers)
        self.logarithm = MatrixLogarithm(threshold=threshold)
        n = hidden[-1]
        self.linear = nn.Linear(n * (n + 1) // 2, n_classes)
        with torch.no_grad():
            bound = (n * (n + 1) // 2) ** -0.5
            self.linear.weight.uniform_(-bound, bound, generator=generator)
            self.linear.bias.zero_()

    def forward(self, X: Tensor) -> Tensor:
        """Return one score a class.

        Parameters
        ----------
        X : Tensor of shape (N, n_in, n_in)
            Symmetric positive definite matrices.

        Returns
        -------
        Tensor of shape (N, n_classes)
            Scores.
        """
        return self.linear(upper_triangle(self.logarithm(self.blocks(X))))


def upper_triangle(S: Tensor) -> Tensor:
    """Return the upper triangles of symmetric S as vectors of the same norm: entries off the diagonal times sqrt 2."""
    rows, columns = torch.triu_indices(S.shape[-1], S.shape[-1], device=S.device)
    factor = torch.where(rows == columns, 1.0, 2**0.5).to(S.dtype)
    return S[..., rows, columns] * factor


def _spectral(X: Tensor, rule: Rule, threshold: float | None) -> Tensor:
    """Apply a rule in float64, above a threshold or above what rounding decides."""
    check_square("X", X)
    P = symmetrize(X.to(torch.float64))
    if threshold is not None:
        return matrix_function(P, rule, decompose(P, floor=threshold)).to(X.dtype)
    return matrix_function(P, rule, decompose(P, relative_floor=relative_floor(X.dtype))).to(X.dtype)
