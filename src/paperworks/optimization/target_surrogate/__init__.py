r"""Target-based surrogates: many cheap model updates for every expensive gradient.

The problem is to minimise a loss of a model's outputs, its *targets*,

.. math:: h(\theta) = \frac1n \sum_{i=1}^n \ell_i(f_i(\theta)),

where :math:`\nabla \ell` is dear (a simulator, an expert, an adversary) and passes through the model f are cheap. One
gradient :math:`g_i = \nabla \ell_i(z_i)` at the outputs :math:`z = f(\theta_t)` gives a surrogate in the space of
targets, which is minimised by many ordinary steps on theta:

.. math:: s_t(\theta) = h(\theta_t) + \frac1n \sum_{i=1}^n \Big[ \langle g_i, f_i(\theta) - z_i \rangle
    + \frac{1}{2 \eta} \|f_i(\theta) - z_i\|^2 \Big].

Where each :math:`\ell_i` is L-smooth and :math:`\eta \le 1 / L`, it is an upper bound of h that touches it at
:math:`\theta_t`, so that whatever lowers it lowers h. On batches of rows it is stochastic gradient descent in the
space of targets, projected onto what the model can express.

References
----------
Jonathan Wilder Lavington, Sharan Vaswani, Reza Babanezhad, Mark Schmidt, Nicolas Le Roux. "Target-based Surrogates for
Stochastic Optimization". ICML 2023. arXiv:2302.02607.
"""

from paperworks.optimization.target_surrogate._estimators import TargetSurrogateClassifier, TargetSurrogateRegressor
from paperworks.optimization.target_surrogate._minimize import minimize_target_surrogate
from paperworks.optimization.target_surrogate._optimizer import TargetSurrogateOptimizer
from paperworks.optimization.target_surrogate._surrogates import surrogate_bound

__all__ = [
    "TargetSurrogateClassifier",
    "TargetSurrogateOptimizer",
    "TargetSurrogateRegressor",
    "minimize_target_surrogate",
    "surrogate_bound",
]
