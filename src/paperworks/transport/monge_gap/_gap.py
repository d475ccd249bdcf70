"""The Monge gap and the Sinkhorn divergence of samples."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paperworks._tensors import Array, to_tensors
from paperworks._validation import check_choice, check_integer, check_number, check_weights
from paperworks.transport.monge_gap._costs import (
    Cost,
    accepts_other_dimension,
    cost_matrix,
    is_symmetric,
    paired_costs,
    resolve_cost,
)
from paperworks.transport.monge_gap._entropic import (
    EntropicCost,
    computing_dtype,
    entropic_cost,
    warn_unconverged,
)
from paperworks.transport.monge_gap._exact import exact_plan
from paperworks.transport.monge_gap._plans import round_plan

Estimator = Literal["entropic", "entropy", "transport", "exact"]
ESTIMATORS = ("entropic", "entropy", "transport", "exact")


def monge_gap(
    source: Array,
    mapped: Array,
    *,
    cost: str | Cost = "sqeuclidean",
    epsilon: float | None = None,
    relative_epsilon: float | None = None,
    estimator: Estimator = "entropic",
    source_weights: Array | None = None,
    return_plan: bool = False,
    max_iter: int = 2000,
    tol: float = 1e-4,
) -> Any:
    r"""How much more a map moves than it must: zero exactly when it is optimal for the cost.

    For samples :math:`x_i` of a reference measure :math:`\rho` and their images :math:`T(x_i)`,

    .. math:: M = \sum_i a_i\, c(x_i, T(x_i)) - W_c(\rho, T_\#\rho),

    where row i of ``mapped`` must be the image of row i of ``source``. The estimators differ in :math:`W_c`; with
    :math:`P` the entropic plan of regularisation :math:`\varepsilon`,

    - ``"entropic"``: :math:`\langle P, C\rangle + \varepsilon\, \mathrm{KL}(P\,|\,ab^\top)`. Falls as
      :math:`\varepsilon` grows, and is at least :math:`-\varepsilon\log n`;
    - ``"entropy"``: :math:`\langle P, C\rangle + \varepsilon \sum P\log P`, which is greater than the former by
      :math:`2\varepsilon\log n` under uniform weights, with the same gradient;
    - ``"transport"``: :math:`\langle P, C\rangle` of the plan rounded to its marginals, never above the exact gap.
      Its gradient holds the plan constant, which is an approximation;
    - ``"exact"``: the unregularised optimum, for at most 5000 points (500 with unequal weights).

    Gradients flow through both terms and into both arguments, by the envelope theorem: the plan is found without
    autograd and held constant. They are first derivatives only, and the regularisation is a constant in them.

    Parameters
    ----------
    source : array_like or Tensor of shape (n, d)
        Samples of the reference measure, at least 2; a leading batch dimension is accepted.
    mapped : array_like or Tensor of shape (n, d)
        Their images, in order. The dimension may differ from that of ``source`` under a callable cost.
    cost : {"sqeuclidean", "euclidean", "cosine", "geodesic"}, PNormCost or callable, default "sqeuclidean"
        Ground cost. A callable takes tensors of shapes (n, d) and (m, d) and returns finite costs of shape (n, m).
        ``"geodesic"`` is the angle between two points as seen from the origin.
    epsilon : float, optional
        Regularisation, in units of the cost.
    relative_epsilon : float, optional
        Regularisation in units of the mean cost between ``source`` and ``mapped``; 0.01 if neither is given.
    estimator : {"entropic", "entropy", "transport", "exact"}, default "entropic"
        Estimator of the second term.
    source_weights : array_like or Tensor of shape (n,), optional
        Weights of the samples, scaled to sum 1; uniform by default.
    return_plan : bool, default False
        Also return the plan.
    max_iter : int, default 2000
        Most Sinkhorn sweeps. Newton steps finish what these could not, up to 2048 points.
    tol : float, default 1e-4
        L1 error of the plan's marginals to stop at. Below 1e-5 the work is done in float64.

    Returns
    -------
    gap : Tensor of shape ()
        The gap, in units of the cost; of shape (batch,) for a batch, and a float for a NumPy pair.
    plan : Tensor of shape (n, n)
        Only with ``return_plan``.

    Raises
    ------
    TypeError
        If an array holds no floating-point numbers, or a parameter has the wrong type.
    ValueError
        If shapes do not match, there are fewer than 2 samples, a value is not finite, both regularisations are
        given, or ``"exact"`` is asked for too many points.

    Warns
    -----
    ConvergenceWarning
        If the plan's marginal error stays above ``tol``.

    References
    ----------
    Théo Uscidda and Marco Cuturi. The Monge Gap: A Regularizer to Learn All Transport Maps. arXiv 2302.04953.

    Examples
    --------
    A half turn moves points that could have stayed, a stretch moves none in vain.

    >>> import numpy as np
    >>> from paperworks.transport import monge_gap
    >>> points = np.random.default_rng(0).normal(size=(500, 2))
    >>> turn = monge_gap(points, -points, estimator="exact")
    >>> stretch = monge_gap(points, points * [2.0, 0.5], estimator="exact")
    >>> print(f"{turn:.1f} {abs(stretch):.1f}")
    7.6 0.0
    """
    ground_cost = resolve_cost("cost", cost)
    check_choice("estimator", estimator, ESTIMATORS)
    check_solver(max_iter, tol)
    check_regularization(epsilon, relative_epsilon)
    (x, z), restore = to_tensors(source=source, mapped=mapped, ndim=(2, 3))
    _check_pairs(x, z, ground_cost)
    weights = _weights("source_weights", source_weights, x)
    dtype = x.dtype
    x, z = x.to(computing_dtype(dtype, tol)), z.to(computing_dtype(dtype, tol))
    kept = weights > 0
    a = (weights[kept] / weights.sum()).to(x)
    if not bool(kept.all()):
        x, z = x[..., kept, :], z[..., kept, :]
    displacement = (a * paired_costs(ground_cost, x, z)).sum(-1)
    if estimator == "exact":
        matrix, pair = cost_matrix(ground_cost, x, z)
        plan = exact_plan(matrix, a)
        gap = displacement - pair(plan)
    else:
        solved = entropic_cost(
            x, z, a, a, ground_cost,
            epsilon=_absolute(epsilon, x), relative_epsilon=relative_epsilon or 0.01,
            tol=tol, max_iter=max_iter, keep_plan=return_plan,
        )  # fmt: skip
        if not solved.converged:
            warn_unconverged(solved.error, tol, stacklevel=2)
        least, plan = _least_cost(solved, a, estimator)
        gap = displacement - least
    gap = gap.to(dtype)
    return restore((gap, _embedded(plan, kept).to(dtype))) if return_plan else restore(gap)


def _least_cost(solved: EntropicCost, a: Tensor, estimator: Estimator) -> tuple[Tensor, Any]:
    """Return an entropic estimator's value of W_c and its plan, which is None if the clouds were streamed."""
    if estimator == "transport":
        plan = None if solved.plan is None else round_plan(solved.plan, a, a)
        return solved.pair(plan), plan
    if estimator == "entropy":
        # sum P log P = KL(P | a a') + 2 sum a log a.
        return solved.value + 2 * solved.epsilon * (a * a.log()).sum(), solved.plan
    return solved.value, solved.plan


class MongeGapLoss(nn.Module):
    """The Monge gap as a regulariser of a network: add it, weighted, to a fitting loss.

    Parameters
    ----------
    cost : {"sqeuclidean", "euclidean", "cosine", "geodesic"}, PNormCost or callable, default "sqeuclidean"
        Ground cost.
    epsilon : float, optional
        Regularisation, in units of the cost.
    relative_epsilon : float, optional
        Regularisation in units of the mean cost of each call; 0.01 if neither is given.
    estimator : {"entropic", "entropy", "transport", "exact"}, default "entropic"
        Estimator, as in `monge_gap`.
    max_iter : int, default 1000
        Most Sinkhorn sweeps.
    tol : float, default 1e-3
        L1 error of the plan's marginals to stop at.

    Raises
    ------
    TypeError
        If a parameter has the wrong type.
    ValueError
        If a parameter is out of its range, or both regularisations are given.

    References
    ----------
    Théo Uscidda and Marco Cuturi. The Monge Gap: A Regularizer to Learn All Transport Maps. arXiv 2302.04953.

    Examples
    --------
    >>> import torch
    >>> from paperworks.transport import MongeGapLoss
    >>> points = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    >>> regulariser = MongeGapLoss(estimator="exact")
    >>> bool(regulariser(points, points + 3.0) < 1e-5), bool(regulariser(points, -points) > 5)
    (True, True)
    """

    def __init__(
        self,
        cost: str | Cost = "sqeuclidean",
        *,
        epsilon: float | None = None,
        relative_epsilon: float | None = None,
        estimator: Estimator = "entropic",
        max_iter: int = 1000,
        tol: float = 1e-3,
    ) -> None:
        super().__init__()
        resolve_cost("cost", cost)
        check_choice("estimator", estimator, ESTIMATORS)
        check_solver(max_iter, tol)
        check_regularization(epsilon, relative_epsilon)
        self.cost, self.epsilon, self.relative_epsilon = cost, epsilon, relative_epsilon
        self.estimator, self.max_iter, self.tol = estimator, max_iter, tol

    def forward(self, source: Tensor, mapped: Tensor) -> Tensor:
        """Return the gap of the map that sent the rows of ``source`` to those of ``mapped``, both of shape (n, d)."""
        return monge_gap(
            source, mapped, cost=self.cost, epsilon=self.epsilon, relative_epsilon=self.relative_epsilon,
            estimator=self.estimator, max_iter=self.max_iter, tol=self.tol,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Return the parameters that tell one loss from another."""
        return f"cost={self.cost!r}, estimator={self.estimator!r}"


def sinkhorn_divergence(
    x: Array,
    y: Array,
    *,
    cost: str | Cost = "sqeuclidean",
    epsilon: float | None = None,
    relative_epsilon: float | None = None,
    x_weights: Array | None = None,
    y_weights: Array | None = None,
    max_iter: int = 2000,
    tol: float = 1e-4,
) -> Any:
    r"""Entropic transport cost between two clouds, less its bias: zero when they are equal.

    .. math:: S_\varepsilon(x, y) = W_\varepsilon(x, y) - \tfrac12 W_\varepsilon(x, x) - \tfrac12 W_\varepsilon(y, y),
              \quad W_\varepsilon = \min_P \langle P, C\rangle + \varepsilon\,\mathrm{KL}(P\,|\,ab^\top).

    Gradients are first derivatives, by the envelope theorem; the regularisation is a constant in them.

    Parameters
    ----------
    x : array_like or Tensor of shape (n, d)
        Samples of the first measure, at least 2; a leading batch dimension is accepted.
    y : array_like or Tensor of shape (m, d)
        Samples of the second measure, at least 2.
    cost : {"sqeuclidean", "euclidean", "cosine", "geodesic"}, PNormCost or callable, default "sqeuclidean"
        Ground cost, as in `monge_gap`.
    epsilon : float, optional
        Regularisation, in units of the cost.
    relative_epsilon : float, optional
        Regularisation in units of the mean cost between ``x`` and ``y``; 0.1 if neither is given.
    x_weights : array_like or Tensor of shape (n,), optional
        Weights of the first samples, scaled to sum 1; uniform by default.
    y_weights : array_like or Tensor of shape (m,), optional
        Weights of the second samples.
    max_iter : int, default 2000
        Most Sinkhorn sweeps.
    tol : float, default 1e-4
        L1 error of the plans' marginals to stop at.

    Returns
    -------
    Tensor of shape ()
        The divergence, in units of the cost; of shape (batch,) for a batch, and a float for a NumPy pair.

    Raises
    ------
    TypeError
        If an array holds no floating-point numbers, or a parameter has the wrong type.
    ValueError
        If shapes do not match, there are fewer than 2 samples, a value is not finite, or both regularisations are
        given.

    Warns
    -----
    ConvergenceWarning
        If a plan's marginal error stays above ``tol``.

    References
    ----------
    Aude Genevay, Gabriel Peyré and Marco Cuturi. Learning Generative Models with Sinkhorn Divergences.
    arXiv 1706.00292.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.transport import sinkhorn_divergence
    >>> points = np.random.default_rng(0).normal(size=(200, 2))
    >>> print(f"{sinkhorn_divergence(points, points + 3.0, tol=1e-8):.6f}")
    18.000000
    """
    ground_cost = resolve_cost("cost", cost)
    check_solver(max_iter, tol)
    check_regularization(epsilon, relative_epsilon)
    (x, y), restore = to_tensors(x=x, y=y, ndim=(2, 3))
    _check_at_least_two("x", x)
    _check_at_least_two("y", y)
    if x.ndim != y.ndim or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"x and y must have points of one dimension, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    x_mass, y_mass = _weights("x_weights", x_weights, x), _weights("y_weights", y_weights, y)
    dtype = x.dtype
    x, y = x.to(computing_dtype(dtype, tol)), y.to(computing_dtype(dtype, tol))
    x, a = x[..., x_mass > 0, :], (x_mass[x_mass > 0] / x_mass.sum()).to(x)
    y, b = y[..., y_mass > 0, :], (y_mass[y_mass > 0] / y_mass.sum()).to(y)
    solver: dict[str, Any] = {"tol": tol, "max_iter": max_iter}
    between = entropic_cost(
        x, y, a, b, ground_cost, epsilon=_absolute(epsilon, x), relative_epsilon=relative_epsilon or 0.1, **solver
    )
    solver |= {"epsilon": between.epsilon, "symmetric": is_symmetric(ground_cost)}
    within = [entropic_cost(z, z, c, c, ground_cost, **solver) for z, c in ((x, a), (y, b))]
    worst = max(each.error for each in (between, *within))
    if not worst <= tol:
        warn_unconverged(worst, tol, stacklevel=2)
    return restore((between.value - 0.5 * (within[0].value + within[1].value)).to(dtype))


def check_solver(max_iter: int, tol: float) -> None:
    """Refuse a limit of sweeps or a tolerance that can't be used."""
    check_integer("max_iter", max_iter)
    check_number("tol", tol, above=0)


def check_regularization(epsilon: float | None, relative_epsilon: float | None) -> None:
    """Refuse two regularisations at once, and one that is not positive."""
    if epsilon is not None and relative_epsilon is not None:
        raise ValueError(f"give epsilon or relative_epsilon, not both, got {epsilon!r} and {relative_epsilon!r}")
    for name, value in (("epsilon", epsilon), ("relative_epsilon", relative_epsilon)):
        if value is not None:
            check_number(name, value, above=0)


def _absolute(epsilon: float | None, like: Tensor) -> Tensor | None:
    return None if epsilon is None else like.new_full(like.shape[:-2], epsilon)


def _check_pairs(x: Tensor, z: Tensor, cost: Cost) -> None:
    _check_at_least_two("source", x)
    if x.shape[:-1] != z.shape[:-1] or (x.shape != z.shape and not accepts_other_dimension(cost)):
        raise ValueError(
            "mapped must hold the image of each row of source, of the same shape, "
            f"got shapes {tuple(z.shape)} and {tuple(x.shape)}"
        )


def _check_at_least_two(name: str, x: Tensor) -> None:
    if x.shape[-2] < 2:
        raise ValueError(f"{name} must hold at least 2 samples, got shape {tuple(x.shape)}")


def _weights(name: str, weights: Array | None, points: Tensor) -> Tensor:
    if isinstance(weights, Tensor):
        weights = weights.detach().cpu().numpy()
    return torch.from_numpy(np.array(check_weights(name, weights, points.shape[-2]))).to(points.device)


def _embedded(plan: Tensor, kept: Tensor) -> Tensor:
    """Return the plan with rows and columns of zeros for the points of no weight."""
    if bool(kept.all()):
        return plan
    whole = plan.new_zeros(*plan.shape[:-2], len(kept), len(kept))
    where = torch.nonzero(kept).squeeze(-1)
    whole[..., where[:, None], where] = plan
    return whole
