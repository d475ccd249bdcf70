r"""Block coordinate descent with greedy rules, forests as blocks, and a finite finish on sparse solutions.

The problem is

.. math:: \min_x f(x) + g(x),

with a smooth convex f and, perhaps, an l1 penalty or a sign constraint g. Each iteration changes one block of x. Which
variables make a block, which block is next, and what is done to it decide how fast that is: blocks may be chosen by the
decrease that a bound of the Hessian promises, may be huge where their variables form a forest, and reach the solution
in finitely many steps once they hold all variables that are not zero there.

References
----------
Julie Nutini, Issam Laradji, Mark Schmidt. "Let's Make Block Coordinate Descent Converge Faster: Faster Greedy Rules,
Message-Passing, Active-Set Complexity, and Superlinear Convergence". JMLR 2022. arXiv:1712.08859.
"""

from paperworks.optimization.block_coordinate_descent._forests import (
    color_partition,
    forest_block,
    forest_partition,
    solve_forest,
)
from paperworks.optimization.block_coordinate_descent._label_propagation import LabelPropagationSolver
from paperworks.optimization.block_coordinate_descent._lasso import BlockCoordinateLasso
from paperworks.optimization.block_coordinate_descent._logistic import BlockCoordinateLogisticRegression
from paperworks.optimization.block_coordinate_descent._problems import (
    least_squares_problem,
    logistic_problem,
    quadratic_problem,
    softmax_problem,
)
from paperworks.optimization.block_coordinate_descent._solver import minimize_blocks

__all__ = [
    "BlockCoordinateLasso",
    "BlockCoordinateLogisticRegression",
    "LabelPropagationSolver",
    "color_partition",
    "forest_block",
    "forest_partition",
    "least_squares_problem",
    "logistic_problem",
    "minimize_blocks",
    "quadratic_problem",
    "softmax_problem",
    "solve_forest",
]
