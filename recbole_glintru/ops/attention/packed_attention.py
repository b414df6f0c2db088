"""Linear attention of one query per history over packed histories (`layouts/packed.py`).

    sum_t (q . elu(k_t) / n_t) v_t,   n_t the norm of elu(k_t), or 1

With a single query no key-value matrix is needed: each position has one weight. Some time steps are processed at a
time, so that the output of one operation is still in the cache when the next one reads it; with whole tensors most of
the time would go into memory traffic.
"""

import torch
from torch import Tensor

from recbole_glintru.ops.attention.reference import NORM_FLOOR
from recbole_glintru.ops.first_derivative import first_derivative_only
from recbole_glintru.ops.layouts.pieces import collect, pieces, spread

ELEMENTS = 1 << 18  # of a piece: 1 MiB in float32

_elu = torch.ops.aten.elu.out
_elu_backward = torch.ops.aten.elu_backward.grad_input


def packed_attention(query: Tensor, key: Tensor, value: Tensor, counts: list[int], normalise: bool) -> Tensor:
    """The weighted sum of the values of each history.

    Args:
        query: `[B, h, e]`, with h heads, longest history first.
        key: `[N, h, e]`, before ELU; value: `[N, h, e]`.
        counts: the number of histories that have each step.
        normalise: whether to divide by the norm of each key.

    Returns:
        `[B, h, e]`.
    """
    return _PackedAttention.apply(query, key, value, counts, normalise)


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, counts, normalise):
        weights = key.new_empty(key.shape[:2])
        norms = torch.empty_like(weights) if normalise else None
        context = torch.zeros_like(query)
        for rows, steps, (keys, products) in _in_pieces(query, counts):
            _elu(key[rows], 1, 1, 1, out=keys)
            torch.mul(keys, spread(query, steps, products), out=products)
            torch.sum(products, dim=-1, out=weights[rows])
            if normalise:
                torch.linalg.vector_norm(keys, dim=-1, out=norms[rows]).clamp_(min=NORM_FLOOR)
                weights[rows] /= norms[rows]
            collect(torch.mul(value[rows], weights[rows].unsqueeze(-1), out=products), steps, context)
        ctx.counts = counts
        ctx.save_for_backward(query, key, value, weights, norms)
        return context

    @staticmethod
    @first_derivative_only
    def backward(ctx, grad_context):
        query, key, value, weights, norms = ctx.saved_tensors
        grad_query, grad_key, grad_value = torch.zeros_like(query), torch.empty_like(key), torch.empty_like(value)
        for rows, steps, (keys, products) in _in_pieces(query, ctx.counts):
            _elu(key[rows], 1, 1, 1, out=keys)
            arriving = spread(grad_context, steps, grad_value[rows])
            grad_weight = torch.mul(arriving, value[rows], out=products).sum(dim=-1)
            arriving *= weights[rows].unsqueeze(-1)  # now the gradient of the values
            if norms is not None:
                grad_weight /= norms[rows]
            collect(torch.mul(keys, grad_weight.unsqueeze(-1), out=products), steps, grad_query)
            grad_elu = spread(query, steps, products).mul_(grad_weight.unsqueeze(-1))
            if norms is not None:
                of_norm = grad_weight.mul_(weights[rows]).div_(norms[rows])
                grad_elu.addcmul_(keys, of_norm.unsqueeze(-1), value=-1)
            _elu_backward(grad_elu, 1, 1, 1, True, keys, grad_input=grad_key[rows])
        return grad_query, grad_key, grad_value, None, None


def _in_pieces(query: Tensor, counts: list[int]):
    """Yields the rows of a piece, the number of rows of each of its steps, and two buffers for it."""
    width = query[0].numel()
    parts = pieces(counts, ELEMENTS // width)
    longest = max(rows.stop - rows.start for rows, _ in parts)
    memory = [query.new_empty(longest, *query.shape[1:]) for _ in range(2)]
    for rows, steps in parts:
        yield rows, counts[steps.start : steps.stop], [buffer[: rows.stop - rows.start] for buffer in memory]
