"""The second half of a convolution over time: the products of its taps, each moved to where it belongs, and added."""

from typing import Optional

import torch
from torch import Tensor


def shifted_sum_reference(products: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
    """y_t = sum_j products[t + j - r, j] with r = (k-1)/2, and zeros outside.

    Args:
        products: `[B, L, k, d]`, odd k.
        lengths: `[B] int64`: products from there on count as zeros. None for L.

    Returns:
        `[B, L, d]`; with `lengths`, what stands behind a row's length means nothing.
    """
    length, reach = products.shape[1], products.shape[2] // 2
    if lengths is not None:
        products = products * (torch.arange(length, device=lengths.device) < lengths.unsqueeze(1))[:, :, None, None]
    padded = torch.nn.functional.pad(products, (0, 0, 0, 0, reach, reach))
    return sum(padded[:, j : j + length, j] for j in range(products.shape[2]))


def shifted_sum(products: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
    """`shifted_sum_reference` without the copies, and with the padding masked only where a real position reads it."""
    return _ShiftedSum.apply(products, lengths)


class _ShiftedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, products, lengths):
        _, length, taps, _ = products.shape
        reach = taps // 2
        masks = _masks_ahead(lengths, length, reach)
        y = products[:, :, reach].clone()
        for j in range(taps):
            shift = j - reach
            if shift < 0:
                y[:, -shift:] += products[:, :shift, j]
            elif shift > 0 and masks is None:
                y[:, :-shift] += products[:, shift:, j]
            elif shift > 0:
                y[:, :-shift].addcmul_(products[:, shift:, j], masks[shift].to(y.dtype))
        ctx.shape, ctx.masks = products.shape, masks
        return y

    @staticmethod
    def backward(ctx, grad_y):
        _, length, taps, _ = ctx.shape
        reach = taps // 2
        grad = grad_y.new_empty(ctx.shape)
        for j in range(taps):
            shift = j - reach
            kept = max(0, length - abs(shift))
            if shift <= 0:
                grad[:, :kept, j] = grad_y[:, length - kept :]
                grad[:, kept:, j] = 0
            else:
                ahead = grad_y[:, :kept]
                grad[:, length - kept :, j] = ahead if ctx.masks is None else ahead * ctx.masks[shift]
                grad[:, : length - kept, j] = 0
        return grad, None


def _masks_ahead(lengths, length, reach):
    """For each shift: whether the position that far ahead is a real one, `[B, L - shift, 1] bool`."""
    if lengths is None:
        return None
    real = (torch.arange(length, device=lengths.device) < lengths.unsqueeze(1)).unsqueeze(-1)
    return {shift: real[:, shift:] for shift in range(1, reach + 1)}
