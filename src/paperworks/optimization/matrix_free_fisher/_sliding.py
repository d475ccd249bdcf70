"""The dynamic algorithm: a window of the last gradients that slides, and the inverse that slides with it."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from paperworks._tensors import Array, to_tensors
from paperworks._validation import check_integer, check_number
from paperworks.optimization.matrix_free_fisher._factor import damped_cholesky, require_memory

Device = torch.device | str
# Columns that are widened to more precision at a time.
WIDENED = 2**16
# Numbers below which threads cost more than they save.
WORTH_THREADS = 2**20


class SlidingInverseFisher:
    r"""Products with the inverse Fisher matrix of the last m gradients, a window that slides with every new one.

    The rows of G are the last m gradients, and zero where there have not been as many. Of

    .. math:: F = \lambda I_d + \frac1m G^\top G, \qquad
        F^{-1} x = \frac1\lambda \left(x - G^\top (m \lambda I_m + S)^{-1} G x\right), \qquad S = G G^\top,

    only G and S are kept. A gradient replaces a row of G, and the row and the column of S that go with it: O(d m)
    operations, and O(m^3) for a new Cholesky factor. A product takes O(d m + m^2). For a gradient g in row j of the
    window itself the product is :math:`F^{-1} g = m G^\top (m \lambda I_m + S)^{-1} e_j`, without the difference of
    nearly equal vectors above, which single precision would not survive.

    Parameters
    ----------
    n_gradients : int
        m. It is what sums are divided by, also while the window holds fewer gradients.
    dimension : int
        d.
    damping : float, default 1e-5
        lambda, greater than 0.
    dtype : torch.dtype, default torch.float32
        In which gradients are kept; S and its factor are float64.
    device : torch.device, str, or a sequence of these, optional
        Where gradients are kept; the CPU if not given. The columns are spread evenly over several.

    Attributes
    ----------
    n_gradients, dimension : int
        m and d.
    damping : float
        lambda.
    n_stored : int
        Gradients in the window.
    n_bytes : int
        Memory of G.

    Raises
    ------
    ValueError
        If a number is out of its range.
    TypeError
        If a number or the dtype is none.
    MemoryError
        If G would not fit; the message says how much it takes, and how much there is.

    References
    ----------
    Elias Frantar, Eldar Kurtic, Dan Alistarh. "M-FAC: Efficient Matrix-Free Approximations of Second-Order
    Information". NeurIPS 2021. arXiv:2107.03356.

    Examples
    --------
    >>> import torch
    >>> from paperworks.optimization import SlidingInverseFisher
    >>> inverse = SlidingInverseFisher(n_gradients=2, dimension=3, damping=0.5, dtype=torch.float64)
    >>> for gradient in torch.eye(3, dtype=torch.float64):  # the last two of three are left
    ...     inverse.update(gradient)
    >>> inverse.multiply(torch.ones(3, dtype=torch.float64)).tolist()
    [2.0, 1.0, 1.0]
    """

    def __init__(
        self,
        n_gradients: int,
        dimension: int,
        damping: float = 1e-5,
        dtype: torch.dtype = torch.float32,
        device: Device | Sequence[Device] | None = None,
    ) -> None:
        self.n_gradients = check_integer("n_gradients", n_gradients)
        self.dimension = check_integer("dimension", dimension)
        self.damping = check_number("damping", damping, above=0.0)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating-point torch.dtype, got {dtype!r}")
        self._dtype = dtype
        self._parts = self._zeros(_checked_devices(device))
        self._S = torch.zeros(self.n_gradients, self.n_gradients, dtype=torch.float64, device=self.home)
        self._factor: Tensor | None = None
        self._next = self.n_stored = 0
        # Rows that were ever written; those below are zero, and no work is done on them.
        self._written = 0
        self.n_bytes = self.n_gradients * self.dimension * dtype.itemsize

    @property
    def gradients(self) -> Tensor:
        """The gradients in the window, oldest first, of shape (n_stored, d): a copy."""
        order = [(self._next - age) % self.n_gradients for age in range(self.n_stored, 0, -1)]
        return torch.cat([part[order].to(self.home) for part in self._parts], dim=1)

    @property
    def home(self) -> torch.device:
        """Where S is, and where products come from."""
        return self._parts[0].device

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of products: that of the window, and float32 at least."""
        return torch.promote_types(self._dtype, torch.float32)

    def update(self, g: Array) -> None:
        """Let a gradient into the window, and the oldest out if it is full.

        Parameters
        ----------
        g : array_like or Tensor of shape (d,)
            The gradient.

        Raises
        ------
        ValueError
            If ``g`` has another shape, or is NaN or infinite; the window stays as it was.
        TypeError
            If ``g`` does not hold floating-point numbers.
        FloatingPointError
            If products of gradients overflow; the window stays as it was.
        """
        self._insert(self._checked("g", g, ndim=1)[0])

    def update_multiply(self, g: Array) -> Any:
        r"""Let a gradient into the window, and return :math:`F^{-1} g` of the new window.

        Parameters
        ----------
        g : array_like or Tensor of shape (d,)
            The gradient.

        Returns
        -------
        ndarray or Tensor of shape (d,)
            The product.

        Raises
        ------
        ValueError
            If ``g`` has another shape, or is NaN or infinite; the window stays as it was.
        TypeError
            If ``g`` does not hold floating-point numbers.
        FloatingPointError
            If products of gradients overflow; the window stays as it was.
        """
        gradient, restore = self._checked("g", g, ndim=1)
        row = self._insert(gradient)
        unit = torch.zeros(self._written, 1, dtype=torch.float64, device=self._S.device)
        unit[row] = self.n_gradients
        return restore(self._combined(self._solved(unit).T)[0].to(gradient))

    def multiply(self, x: Array) -> Any:
        r"""Return :math:`F^{-1} x`.

        Parameters
        ----------
        x : array_like or Tensor of shape (d,) or (r, d)
            A vector, or one a row.

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
        vectors, restore = self._checked("x", x, ndim=(1, 2))
        rows = vectors.reshape(-1, self.dimension)
        c = self._solved(self._products(rows).T).T
        return restore(((rows - self._combined(c).to(rows)) / self.damping).reshape(vectors.shape))

    def remove_oldest(self) -> None:
        """Take the oldest gradient out of the window: its row is zero then, which counts as no gradient.

        Raises
        ------
        IndexError
            If the window is empty.
        """
        if self.n_stored == 0:
            raise IndexError("the window holds no gradient that could be removed")
        oldest = (self._next - self.n_stored) % self.n_gradients
        for part in self._parts:
            part[oldest] = 0.0
        self._S[oldest] = 0.0
        self._S[:, oldest] = 0.0
        self.n_stored -= 1
        self._factor = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute S from all of G anew, in O(d m^2).

        It is never needed between updates: every element of S is the product of two rows as they are kept, summed in
        float64 when the later of them came, so that no error adds up however long the window slides.
        """
        self._S.zero_()
        for part in self._parts:
            for columns in part.split(WIDENED, dim=1):
                exact = columns.to(torch.float64)
                self._S += (exact @ exact.T).to(self._S)
        self._factor = None

    def state_dict(self) -> dict[str, Any]:
        """Return the window as tensors and numbers, for `load_state_dict`.

        Returns
        -------
        dict
            The gradients as they lie, of shape (m, d), the row that comes next, and how many are stored.
        """
        parts = [part.to(self.home) for part in self._parts]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return {"gradients": whole, "next": self._next, "n_stored": self.n_stored}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a window of the same sizes, which is copied to this one's devices and dtype.

        Parameters
        ----------
        state : dict
            What `state_dict` returned.

        Raises
        ------
        ValueError
            If its sizes are others.
        """
        G = state["gradients"]
        if tuple(G.shape) != (self.n_gradients, self.dimension):
            raise ValueError(
                f"state holds a window of shape {tuple(G.shape)}, this one has ({self.n_gradients}, {self.dimension})"
            )
        for columns, part in self._shares():
            part.copy_(G[:, columns])
        self._next, self.n_stored = int(state["next"]), int(state["n_stored"])
        self._written = self.n_gradients
        self.refresh()

    def _zeros(self, devices: list[torch.device]) -> list[Tensor]:
        share = -(-self.dimension // len(devices))
        parts = []
        for k, device in enumerate(devices):
            columns = min(share, self.dimension - k * share)
            if columns > 0:
                n_bytes = self.n_gradients * columns * self._dtype.itemsize
                require_memory(
                    f"{self.n_gradients} gradients of {columns:,} numbers as {str(self._dtype).removeprefix('torch.')}",
                    n_bytes, device, "keep fewer gradients, in torch.bfloat16, or on several devices",
                )  # fmt: skip
                parts.append(torch.zeros(self.n_gradients, columns, dtype=self._dtype, device=device))
        return parts

    def _checked(self, name: str, values: Array, ndim: int | tuple[int, ...]) -> tuple[Tensor, Any]:
        (vectors,), restore = to_tensors(**{name: values}, ndim=ndim)
        if vectors.shape[-1] != self.dimension:
            raise ValueError(
                f"{name} must have {self.dimension} numbers in its last axis, got shape {tuple(vectors.shape)}"
            )
        return vectors.detach(), restore

    def _shares(self, rows: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """The parts of G, or of as many of its rows, and the columns that they are of the whole."""
        start = 0
        for part in self._parts:
            yield slice(start, start + part.shape[1]), part[:rows]
            start += part.shape[1]

    @torch.no_grad()
    def _insert(self, g: Tensor) -> int:
        """Write a gradient into the next row, and its products into S; the row's number."""
        row, written = self._next, self._written
        before = [part[row].clone() for part in self._parts]
        for columns, part in self._shares():
            part[row] = g[columns].to(part)
        self._written = max(written, row + 1)
        # The products are those of the gradient as it is kept, rounded to the window's dtype.
        products = self._products(torch.cat([part[row].to(self.home) for part in self._parts])[None])[0]
        if not bool(torch.isfinite(products).all()):
            for part, values in zip(self._parts, before, strict=True):
                part[row] = values
            self._written = written
            raise FloatingPointError(f"the products of the gradients overflow in {self._dtype}")
        self._S[row, : self._written] = products
        self._S[: self._written, row] = products
        self._factor = None
        self._next = (row + 1) % self.n_gradients
        self.n_stored = min(self.n_stored + 1, self.n_gradients)
        return row

    @torch.no_grad()
    def _products(self, x: Tensor) -> Tensor:
        """X G^T for rows x and the rows written of G, summed in float64."""
        total = torch.zeros(len(x), self._written, dtype=torch.float64, device=self._S.device)
        for columns, part in self._shares(self._written):
            vectors = x[:, columns].to(part.device, torch.float64)
            if part.device.type == "cpu" and part.dtype in (torch.float32, torch.float64):
                for row, sums in zip(vectors, total, strict=True):
                    sums += torch.from_numpy(_shared_row_products(part.numpy(), row.numpy())).to(total)
                continue
            for rows, numbers in zip(part.split(WIDENED, dim=1), vectors.split(WIDENED, dim=1), strict=True):
                total += (numbers @ rows.double().T).to(total)
        return total

    @torch.no_grad()
    def _combined(self, c: Tensor) -> Tensor:
        """C G for rows c, of shape (r, d), where the first part of G is."""
        pieces = []
        for _, part in self._shares(self._written):
            weights = c.to(part.device, self.compute_dtype)
            # Half precision is widened a slice at a time; else one product does.
            slices = [part] if part.dtype == self.compute_dtype else part.split(WIDENED, dim=1)
            pieces += [(weights @ each.to(self.compute_dtype)).to(self.home) for each in slices]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def _solved(self, b: Tensor) -> Tensor:
        """(m lambda I + S)^{-1} b, with a factor that is kept until the window changes."""
        if self._factor is None:
            written = slice(self._written)
            self._factor = damped_cholesky(self._S[written, written], self.n_gradients * self.damping)
        return torch.cholesky_solve(b, self._factor)


def _shared_row_products(G: NDArray[np.floating], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """G x by as many threads as torch may use, where there is enough to share."""
    workers = min(torch.get_num_threads(), len(G) // 4)
    if workers < 2 or G.size < WORTH_THREADS:
        return _row_products(G, x)
    with ThreadPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(_row_products, np.array_split(G, workers), repeat(x))))


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _row_products(G: NDArray[np.floating], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """G x, widened to float64 on the way; four rows at a time, so that each number of x is fetched for all of them."""
    products = np.zeros(len(G))
    whole = len(G) // 4 * 4
    for i in range(0, whole, 4):
        first, second, third, fourth = G[i], G[i + 1], G[i + 2], G[i + 3]
        a = b = c = e = 0.0
        for k in range(len(x)):
            a += first[k] * x[k]
            b += second[k] * x[k]
            c += third[k] * x[k]
            e += fourth[k] * x[k]
        products[i], products[i + 1], products[i + 2], products[i + 3] = a, b, c, e
    for i in range(whole, len(G)):
        for k in range(len(x)):
            products[i] += G[i, k] * x[k]
    return products


def _checked_devices(device: Device | Sequence[Device] | None) -> list[torch.device]:
    if device is None:
        return [torch.device("cpu")]
    if isinstance(device, (str, torch.device)):
        return [torch.device(device)]
    devices = [torch.device(each) for each in device]
    if not devices:
        raise ValueError("device must name at least one device, got an empty sequence")
    return devices
