"""The static algorithm: gradients that stay, an inverse that is asked for products and single elements."""

from math import ceil
from typing import Any
from warnings import warn

import torch
from torch import Tensor

from paperworks._tensors import Array, to_tensors
from paperworks._validation import check_integer, check_number
from paperworks.optimization.matrix_free_fisher._factor import damped_cholesky, require_memory, storage_dtype

# Numbers in a slice that is worked on in float64: what a processor's cache holds, and what an accelerator spares.
SCRATCH = {"cpu": 2**19}
SCRATCH_ELSEWHERE = 2**26
# Rows at a time in products with triangles, which are half as dear as those with squares.
ROWS = 64


class InverseFisher:
    r"""Products with the inverse of a damped empirical Fisher matrix, and its single elements, without the matrix.

    For m gradients :math:`g_l` in dimension d, the rows of G, and a damping :math:`\lambda > 0`,

    .. math:: F = \lambda I_d + \frac1m \sum_{l=1}^m g_l g_l^\top,
        \qquad F^{-1} = \frac1\lambda \left(I_d - W^\top W\right), \qquad W = L^{-1} G,

    where :math:`L L^\top = m \lambda I_m + G G^\top` is a Cholesky factorisation. Making W takes O(d m^2) operations,
    all of them in matrix products, a product O(d m), an element O(m). (The paper's recursion makes the same W row by
    row, scaled: see `inverse_fisher_recursion`.)

    Parameters
    ----------
    gradients : array_like or Tensor of shape (m, d)
        Gradients, one a row. Half precision is kept as float32.
    damping : float, default 1e-5
        lambda, greater than 0.
    block_size : int, optional
        Size B of blocks on the diagonal, outside which F is taken to be zero; the last block may be smaller. None keeps
        all of F.
    pages : int, default 1
        Parts that the columns are cut into. With more than one, W stays where ``gradients`` are, and one part at a time
        is brought to ``device``.
    device : torch.device or str, optional
        Where the work is done; None is where ``gradients`` are.
    overwrite_gradients : bool, default False
        Whether W may take the place of ``gradients``, which halves the memory.

    Attributes
    ----------
    n_gradients, dimension : int
        m and d.
    damping : float
        lambda.
    block_size : int
        B, or d where F is whole.
    n_bytes : int
        Memory of W, min(m, B) times d numbers.

    Raises
    ------
    ValueError
        If ``gradients`` are no matrix, empty, NaN or infinite, or a number is out of its range.
    TypeError
        If ``gradients`` do not hold floating-point numbers.
    MemoryError
        If W would not fit; the message says how much it takes, and how much there is.

    Warns
    -----
    RuntimeWarning
        If the precision of ``gradients`` does not do for so small a damping.

    References
    ----------
    Elias Frantar, Eldar Kurtic, Dan Alistarh. "M-FAC: Efficient Matrix-Free Approximations of Second-Order
    Information". NeurIPS 2021. arXiv:2107.03356.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import InverseFisher
    >>> gradients = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    >>> inverse = InverseFisher(gradients, damping=0.5)
    >>> fisher = 0.5 * np.eye(3) + gradients.T @ gradients / 2
    >>> x = np.array([1.0, 0.0, -1.0])
    >>> bool(np.allclose(fisher @ inverse.multiply(x), x))
    True
    >>> round(inverse.element(0, 1), 4), round(float(np.linalg.inv(fisher)[0, 1]), 4)
    (-0.5714, -0.5714)
    """

    def __init__(
        self,
        gradients: Array,
        damping: float = 1e-5,
        block_size: int | None = None,
        pages: int = 1,
        device: torch.device | str | None = None,
        overwrite_gradients: bool = False,
    ) -> None:
        (G,), self._restore = to_tensors(gradients=gradients, ndim=2)
        self.n_gradients, self.dimension = G.shape
        self.damping = check_number("damping", damping, above=0.0)
        size = self.dimension if block_size is None else check_integer("block_size", block_size)
        self.block_size = min(size, self.dimension)
        self._device = G.device if device is None else torch.device(device)
        self._pages = check_integer("pages", pages)
        with torch.no_grad():
            self._W = self._whitened(G.detach(), overwrite_gradients)
        self.n_bytes = self._W.numel() * self._W.element_size()

    def multiply(self, x: Array) -> Any:
        r"""Return :math:`F^{-1} x` in O(d m).

        Parameters
        ----------
        x : array_like or Tensor of shape (d,) or (r, d)
            A vector, or one a row. The product is taken in the precision of the gradients.

        Returns
        -------
        ndarray or Tensor of shape (d,) or (r, d)
            The products.

        Raises
        ------
        ValueError
            If ``x`` has another length than d, or is NaN or infinite.
        TypeError
            If ``x`` does not hold floating-point numbers.
        """
        (vectors,), restore = to_tensors(x=x, ndim=(1, 2))
        if vectors.shape[-1] != self.dimension:
            raise ValueError(f"x must have {self.dimension} numbers in its last axis, got shape {tuple(vectors.shape)}")
        with torch.no_grad():
            rows = vectors.detach().reshape(-1, self.dimension).to(self._W)
            result = self._multiply_whole(rows) if self._is_whole else self._multiply_blocks(rows)
        return restore(result.reshape(vectors.shape).to(vectors))

    def diagonal(self) -> Any:
        r"""Return the diagonal of :math:`F^{-1}` in O(d m).

        Returns
        -------
        ndarray or Tensor of shape (d,)
            Positive numbers, at most 1 / ``damping``.

        Warns
        -----
        RuntimeWarning
            If rounding left some at zero or less; they are set to the smallest that the precision can tell from it.
        """
        diagonal = torch.empty(self.dimension, dtype=self._W.dtype, device=self._W.device)
        scratch = self._scratch // len(self._W) + 1
        for start in range(0, self.dimension, scratch):
            part = self._W[:, start : start + scratch].to(self._device, torch.float64)
            diagonal[start : start + scratch] = 1 - part.square().sum(0)
        least = torch.finfo(self._W.dtype).eps
        if lost := int((diagonal < least).sum()):
            warn(
                f"{lost} of {self.dimension} diagonal elements of the inverse are lost in rounding: a larger damping "
                f"than {self.damping:g}, or gradients in float64, would tell them from zero",
                RuntimeWarning,
                stacklevel=2,
            )
        return self._restore(diagonal.clamp_(min=least).div_(self.damping))

    def element(self, i: int, j: int) -> float:
        r"""Return :math:`[F^{-1}]_{ij}` in O(m).

        Parameters
        ----------
        i, j : int
            Row and column, from 0.

        Returns
        -------
        float
            The element; 0 where i and j are in different blocks.

        Raises
        ------
        IndexError
            If an index is out of range.
        """
        i, j = self._checked_index("i", i), self._checked_index("j", j)
        if i // self.block_size != j // self.block_size:
            return 0.0
        overlap = self._W[:, i].double() @ self._W[:, j].double()
        return (float(i == j) - float(overlap)) / self.damping

    def column(self, i: int) -> Any:
        r"""Return the column :math:`F^{-1} e_i` in O(m B) operations.

        Parameters
        ----------
        i : int
            Which one, from 0.

        Returns
        -------
        ndarray or Tensor of shape (d,)
            The column, which is the row too.

        Raises
        ------
        IndexError
            If ``i`` is out of range.
        """
        i = self._checked_index("i", i)
        start = i - i % self.block_size
        column = torch.zeros(self.dimension, dtype=self._W.dtype, device=self._W.device)
        block = slice(start, start + self.block_size)
        column[block] = -(self._W[:, i] @ self._W[:, block]) / self.damping
        column[i] += 1 / self.damping
        return self._restore(column)

    @property
    def _is_whole(self) -> bool:
        return self.block_size == self.dimension and self.n_gradients <= self.dimension

    @property
    def _scratch(self) -> int:
        return SCRATCH.get(self._device.type, SCRATCH_ELSEWHERE)

    @property
    def _page(self) -> int:
        """Columns of a page, whole blocks of them."""
        columns = ceil(self.dimension / self._pages)
        return columns if self._is_whole else self.block_size * ceil(columns / self.block_size)

    def _checked_index(self, name: str, index: int) -> int:
        number = check_integer(name, index, at_least=-(2**62))
        if not 0 <= number < self.dimension:
            raise IndexError(f"{name} must be from 0 to {self.dimension - 1}, got {number}")
        return number

    def _whitened(self, G: Tensor, overwrite: bool) -> Tensor:
        """W, of shape (min(m, B), d): what a block of fewer columns than rows needs fits in as many rows."""
        dtype, home = storage_dtype(G), G.device if self._pages > 1 else self._device
        rows = min(self.n_gradients, self.block_size)
        if overwrite and G.dtype == dtype and G.device == home:
            W = G[:rows]
        else:
            n_bytes = rows * self.dimension * dtype.itemsize
            require_memory(
                f"{rows} rows of {self.dimension:,} numbers", n_bytes, home,
                "take fewer gradients, smaller blocks, or overwrite_gradients=True",
            )  # fmt: skip
            W = torch.empty(rows, self.dimension, dtype=dtype, device=home)
        if self._is_whole:
            self._whiten_whole(G, W)
        else:
            self._whiten_blocks(G, W)
        return W

    def _whiten_whole(self, G: Tensor, W: Tensor) -> None:
        m = self.n_gradients
        columns = max(1, min(self._page, self._scratch // m))
        K = torch.zeros(m, m, dtype=torch.float64, device=self._device)
        for part in G.split(columns, dim=1):
            _add_gram(K, part.to(self._device, torch.float64))
        L = damped_cholesky(K.tril() + K.tril(-1).T, m * self.damping)
        inverse = _inverted(L).to(W.dtype)
        for start in range(0, self.dimension, columns):
            part = slice(start, start + columns)
            if W.device == self._device:
                _triangular_product(inverse, G[:, part].to(W), W[:, part])
            else:
                page = G[:, part].to(self._device, W.dtype)
                _triangular_product(inverse, page, page)
                W[:, part] = page.to(W.device)

    def _whiten_blocks(self, G: Tensor, W: Tensor) -> None:
        m, B = self.n_gradients, self.block_size
        columns = B * max(1, min(self._page, self._scratch // m) // B)
        for part in self._slices(columns):
            blocks = _as_blocks(G[:, part].to(self._device, torch.float64), B)
            if m > blocks.shape[-1]:
                # R of a QR factorisation has the same R^T R = G^T G in fewer rows.
                blocks = torch.linalg.qr(blocks, mode="r").R
            L = damped_cholesky(blocks @ blocks.mT, m * self.damping)
            whitened = _inverted(L) @ blocks
            W[:, part] = 0.0
            W[: blocks.shape[-2], part] = _as_rows(whitened).to(W)

    def _slices(self, columns: int) -> list[slice]:
        """Slices of whole blocks; a smaller last block comes by itself."""
        whole = self.dimension - self.dimension % self.block_size
        slices = [slice(start, min(start + columns, whole)) for start in range(0, whole, columns)]
        return slices if whole == self.dimension else [*slices, slice(whole, self.dimension)]

    def _multiply_whole(self, x: Tensor) -> Tensor:
        result, overlap = torch.empty_like(x), torch.zeros(len(x), len(self._W), device=self._device, dtype=x.dtype)
        parts = [slice(start, start + self._page) for start in range(0, self.dimension, self._page)]
        for part in parts:
            overlap += x[:, part].to(self._device) @ self._W[:, part].to(self._device).T
        for part in parts:
            move = overlap @ self._W[:, part].to(self._device)
            torch.sub(x[:, part], move.to(x.device), out=result[:, part])
        return result.div_(self.damping)

    def _multiply_blocks(self, x: Tensor) -> Tensor:
        result = torch.empty_like(x)
        for part in self._slices(self._page):
            W = _as_blocks(self._W[:, part].to(self._device), self.block_size)
            vectors = _as_blocks(x[:, part].to(self._device), self.block_size)
            move = (vectors @ W.mT) @ W
            result[:, part] = _as_rows(vectors - move).to(x.device)
        return result.div_(self.damping)


def inverse_fisher_recursion(gradients: Array, damping: float = 1e-5) -> Any:
    r"""Factors of the inverse Fisher matrix by the paper's recursion, one rank-one update after another.

    With :math:`F_0 = \lambda I` and :math:`F_i = F_{i-1} + g_i g_i^\top / m`,

    .. math:: v_i = F_{i-1}^{-1} g_i, \qquad q_i = m + g_i^\top v_i, \qquad
        F_m^{-1} = \frac1\lambda I - \sum_{i=1}^m \frac{v_i v_i^\top}{q_i}.

    It is the reference that `InverseFisher` is held to, which finds the same factors, with :math:`W_i = v_i
    \sqrt{\lambda / q_i}`, from matrix products, several times as fast.

    Parameters
    ----------
    gradients : array_like or Tensor of shape (m, d)
        Gradients, one a row.
    damping : float, default 1e-5
        lambda, greater than 0.

    Returns
    -------
    factors : ndarray or Tensor of shape (m, d)
        The :math:`v_i`, one a row.
    denominators : ndarray or Tensor of shape (m,)
        The :math:`q_i`.

    Raises
    ------
    ValueError
        If ``gradients`` are no matrix, empty, NaN or infinite, or ``damping`` is not positive.
    TypeError
        If ``gradients`` do not hold floating-point numbers.

    References
    ----------
    Elias Frantar, Eldar Kurtic, Dan Alistarh. "M-FAC: Efficient Matrix-Free Approximations of Second-Order
    Information". NeurIPS 2021. arXiv:2107.03356.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import inverse_fisher_recursion
    >>> gradients = np.array([[1.0, 2.0], [0.0, 1.0]])
    >>> v, q = inverse_fisher_recursion(gradients, damping=0.5)
    >>> inverse = np.eye(2) / 0.5 - (v.T / q) @ v
    >>> bool(np.allclose(inverse, np.linalg.inv(0.5 * np.eye(2) + gradients.T @ gradients / 2)))
    True
    """
    (G,), restore = to_tensors(gradients=gradients, ndim=2)
    damping = check_number("damping", damping, above=0.0)
    m = len(G)
    with torch.no_grad():
        v, q = torch.empty_like(G), torch.empty_like(G[:, 0])
        for i, g in enumerate(G):
            v[i] = g / damping - (v[:i] @ g / q[:i]) @ v[:i]
            q[i] = m + g @ v[i]
    return restore((v, q))


def _add_gram(K: Tensor, X: Tensor) -> None:
    """Add X X^T to the lower triangle of K, whose upper one is left with whatever comes by the way."""
    for start in range(0, len(X), ROWS):
        end = min(start + ROWS, len(X))
        K[start:end, :end] += X[start:end] @ X[:end].T


def _triangular_product(lower: Tensor, X: Tensor, out: Tensor) -> None:
    """The product of a lower triangle with X; from below upwards, so that ``out`` may be X itself."""
    for start in reversed(range(0, len(X), ROWS)):
        end = min(start + ROWS, len(X))
        out[start:end] = lower[start:end, :end] @ X[:end]


def _inverted(lower: Tensor) -> Tensor:
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)


def _as_blocks(rows: Tensor, size: int) -> Tensor:
    """From shape (r, k * size) to (k, r, size); one block where there are fewer columns than that."""
    size = min(size, rows.shape[1])
    return rows.reshape(len(rows), -1, size).transpose(0, 1)


def _as_rows(blocks: Tensor) -> Tensor:
    return blocks.transpose(0, 1).reshape(blocks.shape[1], -1)
