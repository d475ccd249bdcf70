"""The five iterations, from a start to the first separating direction."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal
from warnings import warn

import numpy as np
import torch
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from paperworks._random import RandomState, numpy_generator
from paperworks._tensors import Array, to_tensors
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.optimization.normalized_logistic_regression._passes import METHODS, Method, Pass, Rows, go_over

Selection = Literal["first", "random"]
Callback = Callable[[Any, int], object]


@dataclass(frozen=True)
class SeparationResult:
    """How a separating direction was searched for.

    Attributes
    ----------
    theta : ndarray or Tensor of shape (d,)
        The last iterate.
    n_iter : int
        Updates made until all margins were positive, or until they ran out.
    converged : bool
        Whether all margins are positive.
    loss, gradient_norm, accuracy : ndarray or Tensor of shape (n_iter + 1,)
        Mean logistic loss, norm of its gradient, and share of positive margins, from the start on.

    References
    ----------
    Alexander Tyurin. "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step
    Sizes". AAAI 2025. arXiv:2412.08424.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import separate
    >>> result = separate(np.array([[1.0, -1.0], [-1.0, -4.0]]), [1, -1], "logistic", step_size=100.0)
    >>> result.n_iter, result.converged, result.accuracy
    (2, True, array([0. , 0.5, 1. ]))
    """

    theta: Any
    n_iter: int
    converged: bool
    loss: Any
    gradient_norm: Any
    accuracy: Any


def separate(
    A: Any,
    y: Any,
    method: Method = "normalized_logistic",
    step_size: float = 100.0,
    max_iter: int = 10_000,
    theta0: Any = None,
    callback: Callback | None = None,
    *,
    selection: Selection = "first",
    random_state: RandomState = None,
) -> SeparationResult:
    r"""Search a direction that separates two classes.

    .. math:: y_i\, a_i^\top \theta > 0 \quad\text{for all } i.

    With margins :math:`m_i = y_i a_i^\top \theta`, the sigmoid s, and the mistakes :math:`S = \{i : m_i \le 0\}`, an
    update adds to theta

    * ``"logistic"``: :math:`\frac{\gamma}{n} \sum_i s(-m_i)\, y_i a_i`, gradient descent;
    * ``"batch_perceptron"``: :math:`\frac{1}{n} \sum_{i \in S} y_i a_i`, its limit for large steps over gamma (half of
      that at a start of zero, where the sigmoid is 1/2);
    * ``"perceptron"``: :math:`y_j a_j` for one j of S;
    * ``"normalized_batch_perceptron"``: :math:`\frac{1}{|S|} \sum_{i \in S} y_i a_i`;
    * ``"normalized_logistic"``: :math:`\gamma \sum_i s(-m_i)\, y_i a_i \big/ \sum_i s(-m_i)`, the paper's new method.

    Parameters
    ----------
    A : array_like, Tensor or SciPy CSR
        Rows, floating point, of shape (n, d).
    y : sequence of -1 and 1
        Labels, one a row.
    method : {"normalized_logistic", "logistic", "batch_perceptron", "normalized_batch_perceptron", "perceptron"}
        Which iteration.
    step_size : float, default 100
        gamma, of the two logistic methods.
    max_iter : int, default 10000
        Updates at most.
    theta0 : array_like, optional
        Start, of shape (d,); zero when None.
    callback : callable, optional
        Called with each iterate, the start included, and its number.
    selection : {"first", "random"}, default "first"
        Which mistake the perceptron takes.
    random_state : None, int, Generator or RandomState
        Source of random selections.

    Returns
    -------
    SeparationResult
        The last iterate and the paths of loss, gradient norm and accuracy; tensors if A is one.

    Raises
    ------
    ValueError
        If y does not hold -1 and 1 alone, a row is zero, shapes don't fit, numbers are not finite, or a parameter is
        out of range.
    TypeError
        If A does not hold floating-point numbers.

    Warns
    -----
    ConvergenceWarning
        If the updates ran out.

    References
    ----------
    Alexander Tyurin. "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step
    Sizes". AAAI 2025. arXiv:2412.08424.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import separate
    >>> A = np.r_[[[0.5, -1.0]], np.tile([[-0.5, -1.0]], (999, 1))]
    >>> y = np.r_[1, -np.ones(999)]
    >>> [separate(A, y, method, step_size=100.0).n_iter for method in ("logistic", "normalized_logistic")]
    [308, 2]
    """
    check_choice("method", method, METHODS)
    check_choice("selection", selection, ("first", "random"))
    step_size = check_number("step_size", step_size, above=0.0)
    max_iter = check_integer("max_iter", max_iter)
    rows, restore = read_rows(A, y)
    choose = chooser(numpy_generator(random_state)) if selection == "random" else None
    paths: dict[str, list[float]] = {"loss": [], "gradient_norm": [], "accuracy": []}
    steps = iterates(rows, _start(theta0, rows), method, step_size, record=True, choose=choose)
    for n_iter, (theta, seen) in enumerate(steps):
        remember(paths, rows, seen)
        if callback is not None:
            callback(restore(theta), n_iter)
        if not seen.errors or n_iter == max_iter:
            break
    converged = not seen.errors
    if not converged:
        warn(f"no separating direction after {max_iter} updates: {seen.errors:g} errors left", ConvergenceWarning, 2)
    found = {name: restore(torch.tensor(path, dtype=torch.float64)) for name, path in paths.items()}
    return SeparationResult(restore(theta), n_iter, converged, **found)


def normalized_gradient_step(theta: Array, A: Array, y: Any, step_size: float = 100.0) -> Any:
    r"""One step of normalised gradient descent on the logistic loss.

    .. math:: \theta + \gamma \sum_i p_i\, y_i a_i, \qquad p = \operatorname{softmax}_i \log s(-m_i).

    Parameters
    ----------
    theta : ndarray or Tensor
        Where to step from, of shape (d,).
    A : ndarray or Tensor
        Rows, of shape (n, d), on any device.
    y : sequence of -1 and 1
        Labels, one a row.
    step_size : float, default 100
        gamma.

    Returns
    -------
    ndarray or Tensor of shape (d,)
        The next theta.

    Raises
    ------
    ValueError
        If y does not hold -1 and 1 alone, shapes don't fit, numbers are not finite or the step is not positive.
    TypeError
        If arrays don't hold floating-point numbers.

    References
    ----------
    Alexander Tyurin. "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step
    Sizes". AAAI 2025. arXiv:2412.08424.

    Examples
    --------
    >>> import torch
    >>> from paperworks.optimization import normalized_gradient_step
    >>> normalized_gradient_step(torch.zeros(2), torch.eye(2), [1, -1], 2.0)
    tensor([ 1., -1.])
    """
    step_size = check_number("step_size", step_size, above=0.0)
    (start, _), restore = to_tensors(theta=theta, A=A)
    rows, _ = read_rows(A, y)
    if start.shape != (rows.n_parameters,):
        raise ValueError(f"theta must have shape ({rows.n_parameters},), got {tuple(start.shape)}")
    seen = go_over(rows, start, "normalized_logistic", False, None)
    return restore(stepped(start, seen, rows, "normalized_logistic", step_size))


def iterates(
    rows: Rows,
    theta: Tensor,
    method: Method,
    step_size: float,
    *,
    record: bool,
    choose: Callable[[Tensor], int] | None,
) -> Iterator[tuple[Tensor, Pass]]:
    """Each theta from the start on, with what a pass over the rows finds there."""
    at_zero = not bool(theta.any())
    while True:
        seen = go_over(rows, theta, method, record, choose)
        yield theta, seen
        # The sigmoid at 0 is 1/2.
        factor = 0.5 if at_zero and method == "batch_perceptron" else step_size
        at_zero = False
        theta = stepped(theta, seen, rows, method, factor)


def stepped(theta: Tensor, seen: Pass, rows: Rows, method: Method, factor: float) -> Tensor:
    """One update; ``factor`` is the step of logistic methods, and 1/2 for the first of the batch perceptron."""
    if method == "logistic":
        return theta + factor / rows.total * seen.direction
    if method == "batch_perceptron":
        return theta + (0.5 if factor == 0.5 else 1.0) / rows.total * seen.direction
    if method == "perceptron":
        return theta + seen.direction
    return theta + (factor if method == "normalized_logistic" else 1.0) * (seen.direction / seen.weight)


def remember(paths: dict[str, list[float]], rows: Rows, seen: Pass) -> None:
    """Append mean loss, norm of its gradient and accuracy."""
    assert seen.loss is not None
    assert seen.gradient is not None
    paths["loss"].append(float(seen.loss) / rows.total)
    paths["gradient_norm"].append(float(seen.gradient.norm()) / rows.total)
    paths["accuracy"].append(1 - seen.errors / rows.total)


def chooser(generator: np.random.Generator) -> Callable[[Tensor], int]:
    """Return a function that picks one of some indices at random, and 0 of none."""
    return lambda indices: int(indices[generator.integers(len(indices))]) if len(indices) else 0


def read_rows(A: Any, y: Any) -> tuple[Rows, Callable[[Any], Any]]:
    """Check rows and labels; no row may be zero, as no direction has a positive margin there."""
    if sparse.issparse(A):
        matrix: Any = sparse.csr_array(A)
        if matrix.dtype.kind != "f":
            raise TypeError(f"A must hold floating-point numbers, got {matrix.dtype}")
        (_,), _ = to_tensors(A=matrix.data)
        restore: Callable[[Any], Any] = lambda tensor: tensor.numpy()  # noqa: E731
        like = torch.from_numpy(matrix.data[:1])
        norms = torch.from_numpy(abs(matrix).sum(axis=1))
    else:
        (matrix,), restore = to_tensors(A=A, ndim=2)
        like, norms = matrix, matrix.abs().amax(dim=1)
    labels = _labels(y, matrix.shape[0], like)
    if not norms.all():
        raise ValueError(f"row {int((norms == 0).nonzero()[0])} of A is zero: nothing separates it")
    return Rows(matrix, labels, None, intercept=False), restore


def _labels(y: Any, n: int, like: Tensor) -> Tensor:
    labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if labels.shape != (n,):
        raise ValueError(f"y must have shape ({n},), a label a row of A, got {labels.shape}")
    found = np.unique(labels)
    if labels.dtype.kind not in "iuf" or not np.isin(found, (-1, 1)).all():
        raise ValueError(f"y must hold exactly two classes, -1 and 1, got {found[:5]}")
    return torch.as_tensor(labels, dtype=like.dtype, device=like.device)


def _start(theta0: Any, rows: Rows) -> Tensor:
    if theta0 is None:
        return torch.zeros(rows.n_parameters, dtype=rows.labels.dtype, device=rows.labels.device)
    (theta,), _ = to_tensors(theta0=theta0, ndim=1)
    if len(theta) != rows.n_parameters:
        raise ValueError(f"theta0 must have {rows.n_parameters} entries, got {len(theta)}")
    return theta.to(rows.labels)
