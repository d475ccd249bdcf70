"""Scores v^T tanh(W1 e_j + W2 d_i) of every input position j at every decoder step i."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from paperworks.combinatorial.pointer_network._kernels import fits_kernels, scores_of_pairs, slopes_of_pairs

# Entries of tanh(...) that are held at once where there is no kernel.
HELD_AT_ONCE = 1 << 26


def additive_scores(keys: Tensor, queries: Tensor, v: Tensor) -> Tensor:
    r"""Scores :math:`u^i_j = v^\top \tanh(k_j + q_i)` of additive attention.

    The tanh has n_steps x n_positions x n_batch x attention_size entries. On a CPU, in single precision, none is kept;
    elsewhere they are made in pieces of decoder steps, and made again for the backward pass.

    Parameters
    ----------
    keys : Tensor of shape (n_positions, n_batch, attention_size)
        W1 e_j.
    queries : Tensor of shape (n_steps, n_batch, attention_size)
        W2 d_i.
    v : Tensor of shape (attention_size,)
        Weights of the units.

    Returns
    -------
    Tensor of shape (n_steps, n_positions, n_batch)
        The scores.
    """
    if fits_kernels(keys):
        return _FusedScores.apply(keys, queries, v)
    steps = max(1, HELD_AT_ONCE // keys.numel())
    if len(queries) <= steps:
        return _plain_scores(keys, queries, v)
    return torch.cat([checkpoint(_plain_scores, keys, piece, v, use_reentrant=False) for piece in queries.split(steps)])


def _plain_scores(keys: Tensor, queries: Tensor, v: Tensor) -> Tensor:
    return (keys.unsqueeze(0) + queries.unsqueeze(1)).tanh() @ v


class _FusedScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keys: Tensor, queries: Tensor, v: Tensor) -> Tensor:
        keys, queries = keys.contiguous(), queries.contiguous()
        scores = keys.new_empty(len(queries), *keys.shape[:2])
        scores_of_pairs(*(each.numpy() for each in (keys, queries, v, scores)))
        ctx.save_for_backward(keys, queries, v)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, queries, v = ctx.saved_tensors
        slopes = [torch.zeros_like(each) for each in (keys, queries, v)]
        slopes_of_pairs(*(each.numpy() for each in (keys, queries, by_scores.contiguous(), *slopes)))
        d_keys, d_queries, d_v = slopes
        return d_keys * v, d_queries * v, d_v
