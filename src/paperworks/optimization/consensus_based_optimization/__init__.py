r"""Consensus-based optimization and consensus hopping: minimisation from values alone, and the gradient it implies.

The problem is to minimise :math:`E: \mathbb R^d \to \mathbb R`, nonsmooth and nonconvex as it may be, by values of it.
Particles :math:`X^i` move towards their consensus point, and explore the more the farther they are from it,

.. math:: x_\alpha = \frac{\sum_i X^i e^{-\alpha E(X^i)}}{\sum_i e^{-\alpha E(X^i)}}.

The path of the consensus point is that of gradient descent under perturbations: if particles are drawn anew around the
last consensus point with variance :math:`\sigma^2`, each step is an implicit gradient step of length
:math:`\alpha \sigma^2`.

References
----------
Konstantin Riedl, Timo Klock, Carina Geldhauser, Massimo Fornasier. "Gradient is All You Need? How Consensus-Based
Optimization can be Interpreted as a Stochastic Relaxation of Gradient Descent". 2023. arXiv:2306.09778.
"""

from paperworks.optimization.consensus_based_optimization._consensus import consensus_point
from paperworks.optimization.consensus_based_optimization._functions import benchmark_function
from paperworks.optimization.consensus_based_optimization._hopping import consensus_hopping, implied_gradient
from paperworks.optimization.consensus_based_optimization._minimize import minimize_consensus
from paperworks.optimization.consensus_based_optimization._module import ConsensusOptimizer

__all__ = [
    "ConsensusOptimizer",
    "benchmark_function",
    "consensus_hopping",
    "consensus_point",
    "implied_gradient",
    "minimize_consensus",
]
