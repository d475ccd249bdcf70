r"""Relaxation parameters learned across a sequence of linear systems.

A simulation solves :math:`A_t x_t = b_t` for t = 1, ..., T by successive over-relaxation, or by conjugate gradients
with the symmetric sweep as preconditioner. Both have a parameter :math:`\omega \in (0, 2)`, whose best value differs
between systems and takes an eigenvalue problem to find. Here it is learned from nothing but the iterations of each
solve,

.. math:: \min_{\omega_1, \dots, \omega_T} \sum_{t=1}^T k(A_t, b_t, \omega_t),

with a bandit, whose total nears that of the best fixed parameter; or, where a number is known of each system, with a
contextual bandit, whose total nears that of the best parameter for each system.

References
----------
Mikhail Khodak, Edmond Chow, Maria-Florina Balcan, Ameet Talwalkar. "Learning to Relax: Setting Solver Parameters Across
a Sequence of Linear System Instances". ICLR 2024. arXiv:2310.02246.
"""

from paperworks.linalg.learned_relaxation._bandits import BinnedTsallisINF, TsallisINF
from paperworks.linalg.learned_relaxation._chebyshev import ChebyshevContextualBandit
from paperworks.linalg.learned_relaxation._generators import HeatSimulation, shifted_laplacian_systems
from paperworks.linalg.learned_relaxation._optimal import optimal_relaxation
from paperworks.linalg.learned_relaxation._ssor_cg import ssor_conjugate_gradient
from paperworks.linalg.learned_relaxation._sweeps import sor
from paperworks.linalg.learned_relaxation._tuner import RelaxationTuner, SequenceReport, solve_sequence

__all__ = [
    "BinnedTsallisINF",
    "ChebyshevContextualBandit",
    "HeatSimulation",
    "RelaxationTuner",
    "SequenceReport",
    "TsallisINF",
    "optimal_relaxation",
    "shifted_laplacian_systems",
    "solve_sequence",
    "sor",
    "ssor_conjugate_gradient",
]
