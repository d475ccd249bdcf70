r"""Sequences of sparse linear systems, sorted and solved with recycled Krylov subspaces (SKR).

The problem is to solve many related systems,

.. math:: A^{(i)} x^{(i)} = b^{(i)}, \qquad i = 1, \dots, N,

such as those of a differential equation with random coefficients, whose solutions a neural operator is trained on.
Neighbours in a good order are alike, so that the subspace which slowed the solver down on one of them can be deflated
from the next from its first step on.

References
----------
Hong Wang, Zhongkai Hao, Jie Wang, Zijie Geng, Zhen Wang, Bin Li, Feng Wu. "Accelerating Data Generation for Neural
Operators via Krylov Subspace Recycling". ICLR 2024. arXiv:2401.09516.
"""

from paperworks.linalg.krylov_recycling._diagnostics import recycling_distance
from paperworks.linalg.krylov_recycling._gcro_dr import RecycleSpace, gcro_dr
from paperworks.linalg.krylov_recycling._generators import (
    convection_diffusion_systems,
    darcy_systems,
    helmholtz_systems,
    poisson_systems,
    thermal_systems,
)
from paperworks.linalg.krylov_recycling._preconditioners import build_preconditioner
from paperworks.linalg.krylov_recycling._sequence import (
    KrylovRecyclingSolver,
    SequenceSolution,
    solve_sequence_recycled,
)
from paperworks.linalg.krylov_recycling._sorting import sort_systems

__all__ = [
    "KrylovRecyclingSolver",
    "RecycleSpace",
    "SequenceSolution",
    "build_preconditioner",
    "convection_diffusion_systems",
    "darcy_systems",
    "gcro_dr",
    "helmholtz_systems",
    "poisson_systems",
    "recycling_distance",
    "solve_sequence_recycled",
    "sort_systems",
    "thermal_systems",
]
