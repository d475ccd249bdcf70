r"""Halpern iteration with variance reduction, for inclusions of finite sums of monotone operators.

The problem is to find :math:`u` with

.. math:: 0 \in F(u) + G(u), \qquad F = \frac1n \sum_{i=1}^n F_i,

where G is maximal monotone and has a cheap resolvent, such as the projection onto a set. Convex minimisation, saddle
points and matrix games are of this form. The last iterate comes with a certificate that can be computed, the residual
:math:`\|F(u) + g\|` for a :math:`g \in G(u)`, and it falls with fewer evaluations of components than deterministic
methods need.

References
----------
Xufeng Cai, Ahmet Alacaoglu, Jelena Diakonikolas. "Variance Reduced Halpern Iteration for Finite-Sum Monotone
Inclusions". ICLR 2024. arXiv:2310.02987.
"""

from paperworks.optimization.halpern_iteration._deterministic import (
    deterministic_halpern,
    extra_anchored_gradient,
    extragradient,
)
from paperworks.optimization.halpern_iteration._operators import (
    FiniteSumOperator,
    bilinear_saddle,
    least_squares_operator,
    matrix_game,
)
from paperworks.optimization.halpern_iteration._variance_reduced import halpern_iteration

__all__ = [
    "FiniteSumOperator",
    "bilinear_saddle",
    "deterministic_halpern",
    "extra_anchored_gradient",
    "extragradient",
    "halpern_iteration",
    "least_squares_operator",
    "matrix_game",
]
