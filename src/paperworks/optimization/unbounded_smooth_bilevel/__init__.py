r"""Bilevel optimisation where the upper level's gradient has no Lipschitz constant (BO-REP).

.. math:: \min_x \; \Phi(x) = f(x, y^*(x)), \qquad y^*(x) = \operatorname*{argmin}_y g(x, y),

with g strongly convex in y, both losses stochastic, and f as rough as recurrent networks are: the larger its gradient,
the larger its curvature, so that no fixed step is safe. BO-REP moves x by the same length at every step, along a
momentum of the hypergradient

.. math:: \nabla \Phi = \nabla_x f - \nabla^2_{xy} g \, z^*, \qquad \nabla^2_{yy} g \, z^* = \nabla_y f,

starts y from a refined estimate, and then updates y only once in a while, for it moves no farther than x does.

References
----------
Jie Hao, Xiaochuan Gong, Mingrui Liu. "Bilevel Optimization under Unbounded Smoothness: A New Algorithm and Convergence
Analysis". ICLR 2024. arXiv:2401.09587.
"""

from paperworks.optimization.unbounded_smooth_bilevel._cleaning import clean_labels
from paperworks.optimization.unbounded_smooth_bilevel._label_cleaner import LabelCleaner
from paperworks.optimization.unbounded_smooth_bilevel._methods import minimize_bilevel
from paperworks.optimization.unbounded_smooth_bilevel._solver import UnboundedSmoothBilevel

__all__ = ["LabelCleaner", "UnboundedSmoothBilevel", "clean_labels", "minimize_bilevel"]
