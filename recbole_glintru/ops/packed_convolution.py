"""Convolution over time of packed histories (`layouts.Packed`), which makes no tensor of k times their size.

For some time steps at a time the k positions around each position are put side by side, in a buffer that stays in the
cache, and multiplied with all taps at once. A column of ones beside each tap's input, zeros where the history does not
go, carries the taps' biases. The gradient of the input is the same convolution, of the gradients, with the taps turned
around, and pairs of the same windows with the input are the gradients of the taps.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_glintru.ops.pieces import blocks, pieces

ELEMENTS = 1 << 20  # of the buffer: 4 MiB in float32


def packed_convolution(x: Tensor, taps: Tensor, biases: Tensor, counts: list[int]) -> Tensor:
    """y_t = sum_j (taps[j] x_(t + j - (k-1)/2) + biases[j]), the sum over the taps that meet a position of the history.

    Args:
        x: `[N, in]`, packed.
        taps: `[k, out, in]`, odd k; biases: `[k, out]`.
        counts: how many histories have each step.

    Returns:
        `[N, out]`.
    """
    return _PackedConvolution.apply(x, taps, biases, counts)


class _PackedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, taps, biases, counts):
        ctx.counts = counts
        ctx.save_for_backward(x, taps)
        matrix = torch.cat([taps, biases.unsqueeze(-1)], dim=-1).transpose(1, 2).flatten(0, 1)  # [k * (in + 1), out]
        y = x.new_empty(len(x), taps.shape[1])
        for rows, window in _windows(x, counts, len(taps), ones=True):
            torch.mm(window, matrix, out=y[rows])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        x, taps = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        turned = taps.flip(0).flatten(0, 1)  # [k * out, in]
        grad_turned, grad_biases = torch.zeros_like(turned), turned.new_zeros(len(turned))
        for rows, window in _windows(grad_y, ctx.counts, len(taps), ones=False):
            torch.mm(window, turned, out=grad_x[rows])
            grad_turned.addmm_(window.T, x[rows])
            grad_biases += window.sum(dim=0)
        return grad_x, grad_turned.view(taps.shape).flip(0), grad_biases.view(taps.shape[:2]).flip(0), None


def _windows(x: Tensor, counts: list[int], taps: int, ones: bool) -> Iterator[tuple[slice, Tensor]]:
    """Rows of x and the positions around each, `[rows, taps * (in + ones)]`; the buffer is used again for the next."""
    width = x.shape[1]
    where = blocks(counts)
    parts = pieces(counts, ELEMENTS // (taps * (width + ones)))
    buffer = x.new_empty(max(rows.stop - rows.start for rows, _ in parts), taps, width + ones)
    for rows, steps in parts:
        window = buffer[: rows.stop - rows.start]
        if ones:
            window[..., -1] = 1
        for step in steps:
            here = window[where[step].start - rows.start : where[step].stop - rows.start]
            for tap in range(taps):
                there = step + tap - taps // 2
                found = min(counts[step], counts[there]) if 0 <= there < len(counts) else 0
                if found:
                    here[:found, tap, :width] = x[where[there].start : where[there].start + found]
                if found < counts[step]:
                    here[found:, tap] = 0
        yield rows, window.flatten(1)
