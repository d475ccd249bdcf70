"""Exact transport plans between weighted points of which the costs are known."""

from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import eye_array, kron, vstack
from torch import Tensor

LARGEST_ASSIGNMENT, LARGEST_PROGRAM = 5000, 500


def exact_plan(cost: Tensor, a: Tensor) -> Tensor:
    """Return an optimal plan with both marginals ``a``: an assignment if uniform, else a linear program.

    Parameters
    ----------
    cost : Tensor of shape (..., n, n)
        Costs.
    a : Tensor of shape (n,)
        Positive weights with sum 1.
    """
    n = len(a)
    is_uniform = bool((a == a[0]).all())
    largest = LARGEST_ASSIGNMENT if is_uniform else LARGEST_PROGRAM
    if n > largest:
        kind = "points" if is_uniform else "points of unequal weights"
        raise ValueError(f"estimator='exact' accepts at most {largest} {kind}, got {n}; use estimator='entropic'")
    solve = _assignment if is_uniform else _program
    matrices = cost.reshape(-1, n, n).double().cpu().numpy()
    plans = np.stack([solve(matrix, a.double().cpu().numpy()) for matrix in matrices])
    return torch.from_numpy(plans).to(cost).reshape(cost.shape)


def _assignment(cost: np.ndarray, a: np.ndarray) -> np.ndarray:
    plan = np.zeros_like(cost)
    plan[linear_sum_assignment(cost)] = a
    return plan


def _program(cost: np.ndarray, a: np.ndarray) -> np.ndarray:
    n = len(a)
    rows, columns = kron(eye_array(n), np.ones((1, n))), kron(np.ones((1, n)), eye_array(n))
    # The last column's sum follows from the others.
    constraints: Any = vstack([rows, columns]).tocsr()[:-1]
    solution: Any = linprog(cost.ravel(), A_eq=constraints, b_eq=np.concatenate([a, a[:-1]]))
    if not solution.success:
        raise RuntimeError(f"the linear program of the exact plan was not solved: {solution.message}")
    return solution.x.reshape(n, n)
