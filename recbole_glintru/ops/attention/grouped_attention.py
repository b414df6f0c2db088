"""Linear attention of every position of packed histories (`layouts/packed.py`).

For histories of one length the matrices sum_s k_s^T v_s are one batched product. So histories are copied into groups of
similar length, as many as pay off, with the shorter ones of each zero-padded, and the results are copied back.
"""

import torch
from torch import Tensor

from recbole_glintru.ops.attention.reference import linear_attention
from recbole_glintru.ops.first_derivative import first_derivative_only
from recbole_glintru.ops.histories.grouping import Costs, plan

# On one core, at width 64, each group costs as much as 150 to 300 positions; a step has no cost of its own.
COSTS = Costs(group=200.0, step=0.0)


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, ranks: Tensor, steps: Tensor
) -> Tensor:
    """`linear_attention` of packed histories: `[N, h, e]` each -> `[N, h, e]`.

    Args:
        query, key, value: at all positions.
        lengths: `[B] int64`, longest history first.
        ranks: `[N] int64`, which history a position belongs to; steps: `[N] int64`, its position in that history.
    """
    groups = plan(lengths.numpy(), COSTS)[::-1]
    longest, rows = lengths.new_tensor(groups).T
    widths = torch.repeat_interleave(longest, rows)  # [B], of each history's group
    starts = widths.cumsum(0) - widths
    places = starts[ranks] + steps
    size = int(widths.sum())
    of_groups = [
        [part.unflatten(0, (count, length)) for part, (length, count) in zip(parts, groups)]
        for parts in (_Put.apply(x, places, size).split((longest * rows).tolist()) for x in (query, key, value))
    ]
    contexts = [linear_attention(*group).flatten(0, 1) for group in zip(*of_groups)]
    return _Take.apply(torch.cat(contexts), places)


class _Put(torch.autograd.Function):
    """Scatter rows to their places, which are all distinct, in a tensor of `size` rows, zero elsewhere."""

    @staticmethod
    def forward(ctx, x, places, size):
        ctx.save_for_backward(places)
        return x.new_zeros(size, *x.shape[1:]).index_copy_(0, places, x)

    @staticmethod
    @first_derivative_only
    def backward(ctx, grad):
        return grad.index_select(0, *ctx.saved_tensors), None, None


class _Take(torch.autograd.Function):
    """Gather them again. PyTorch's own gradient would accumulate row by row, as places might repeat in general."""

    @staticmethod
    def forward(ctx, x, places):
        ctx.save_for_backward(places)
        ctx.size = len(x)
        return x.index_select(0, places)

    @staticmethod
    @first_derivative_only
    def backward(ctx, grad):
        return grad.new_zeros(ctx.size, *grad.shape[1:]).index_copy_(0, *ctx.saved_tensors, grad), None
