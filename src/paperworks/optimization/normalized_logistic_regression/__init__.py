r"""Logistic regression by gradient descent with large steps, on its way to the perceptron.

The problem is to separate two classes: given rows :math:`a_i` and labels :math:`y_i \in \{-1, 1\}`, find

.. math:: \theta \quad\text{with}\quad y_i\, a_i^\top \theta > 0 \quad \text{for all } i

in as few passes over the data as possible. Gradient descent on the logistic loss with a huge step turns into a batch
perceptron: the loss goes up, and a separating direction is found sooner. Its iterations can be proportional to the
number of rows; dividing the gradient by the mean of the sigmoids removes that factor.

References
----------
Alexander Tyurin. "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step
Sizes". AAAI 2025. arXiv:2412.08424.
"""

from paperworks.optimization.normalized_logistic_regression._bounds import iteration_bound, loss_and_margin
from paperworks.optimization.normalized_logistic_regression._classifier import NormalizedLogisticRegression
from paperworks.optimization.normalized_logistic_regression._separation import (
    SeparationResult,
    normalized_gradient_step,
    separate,
)

__all__ = [
    "NormalizedLogisticRegression",
    "SeparationResult",
    "iteration_bound",
    "loss_and_margin",
    "normalized_gradient_step",
    "separate",
]
