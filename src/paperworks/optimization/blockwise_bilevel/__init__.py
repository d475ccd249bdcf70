r"""Bilevel problems of many blocks, of which each step touches a few.

The problem is

.. math:: \min_x F(x) = \frac1m \sum_{i=1}^m f_i(x, y_i^*(x)), \qquad y_i^*(x) = \operatorname{argmin}_y g_i(x, y),

with every :math:`g_i` strongly convex in y: one lower problem a query, a task or a setting. Estimators that correct a
block's stale value whenever it is sampled (MSVR) make steps of I blocks and B samples a block sufficient, and more
blocks or samples a step pay off in fewer steps.

References
----------
Quanqi Hu, Zi-Hao Qiu, Zhishuai Guo, Lijun Zhang, Tianbao Yang. "Blockwise Stochastic Variance-Reduced Methods with
Parallel Speedup for Multi-Block Bilevel Optimization". ICML 2023. arXiv:2305.18730.
"""

from paperworks.optimization.blockwise_bilevel._ensemble import ImportanceWeightedEnsemble
from paperworks.optimization.blockwise_bilevel._estimators import msvr_update
from paperworks.optimization.blockwise_bilevel._minimize import minimize_blockwise_bilevel
from paperworks.optimization.blockwise_bilevel._problem import BlockwiseBilevel

__all__ = ["BlockwiseBilevel", "ImportanceWeightedEnsemble", "minimize_blockwise_bilevel", "msvr_update"]
