"""Convolution over time of packed histories (`layouts/packed.py`), without a tensor of k times their size.

For some positions at a time, the k positions around each are copied side by side into a window, which stays in the
cache, and multiplied by all taps at once. Outside the history a window is zero. A column of ones beside each tap's
input, also zero outside the history, carries the taps' biases. The gradient of the input is the same convolution, of
the output's gradient, with the taps reversed; products of the same windows with the input give the gradients of the
taps.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from recbole_glintru.ops.first_derivative import first_derivative_only

ELEMENTS = 1 << 20  # of the buffer: 4 MiB in float32


def packed_convolution(x: Tensor, taps: Tensor, biases: Tensor, neighbours: Tensor) -> Tensor:
    """y_t = sum_j (taps[j] x_(t + j - (k-1)/2) + biases[j]), the sum over the taps inside the history.

    Args:
        x: `[N, in]`, packed.
        taps: `[k, out, in]`, odd k; biases: `[k, out]`.
        neighbours: `[N, k] int64`, the row of x under each tap; N for a tap outside the history.

    Returns:
        `[N, out]`.
    """
    return _PackedConvolution.apply(x, taps, biases, neighbours)


class _PackedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, taps, biases, neighbours):
        ctx.save_for_backward(x, taps, neighbours)
        matrix = torch.cat([taps, biases.unsqueeze(-1)], dim=-1).transpose(1, 2).flatten(0, 1)  # [k * (in + 1), out]
        y = x.new_empty(len(x), taps.shape[1])
        with_ones = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        for rows, window in _windows(with_ones, neighbours):
            torch.mm(window, matrix, out=y[rows])
        return y

    @staticmethod
    @first_derivative_only
    def backward(ctx, grad_y):
        x, taps, neighbours = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        turned = taps.flip(0).flatten(0, 1)  # [k * out, in]
        grad_turned, grad_biases = torch.zeros_like(turned), turned.new_zeros(len(turned))
        for rows, window in _windows(grad_y, neighbours):
            torch.mm(window, turned, out=grad_x[rows])
            grad_turned.addmm_(window.T, x[rows])
            grad_biases += window.sum(dim=0)
        return grad_x, grad_turned.view(taps.shape).flip(0), grad_biases.view(taps.shape[:2]).flip(0), None


def _windows(x: Tensor, neighbours: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yields slices of rows and the positions around each row, `[rows, k * width]`, zero outside the history."""
    x = torch.cat([x, x.new_zeros(1, x.shape[1])])
    most = max(1, ELEMENTS // (neighbours.shape[1] * x.shape[1]))
    for start in range(0, len(neighbours), most):
        rows = slice(start, min(start + most, len(neighbours)))
        yield rows, x[neighbours[rows]].flatten(1)
