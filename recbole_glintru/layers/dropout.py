"""Dropout whose random numbers cost less."""

import torch
from torch import Tensor, nn

from recbole_glintru.ops.tracing import is_traced

FEWEST = 1 << 14  # elements; below, the numbers are not what costs
STEPS = 1 << 16  # the probability is a multiple of one of them ...
MARGIN = STEPS >> 8  # ... and at least so many from 0 and from 1, where a step would be too coarse
EXACT = (torch.float32, torch.float64)  # these have every value of 16 bits


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, four times as fast on a CPU: an element is kept or not by 16 of the 64 bits of a draw.

    PyTorch draws 64 bits for each element there, one after the other, whatever the number of threads: a tenth of a
    training step of GLINT-RU. The probability is met to 2^-17: it takes 10^10 elements to tell. One within 2^-8 of 0
    or 1, and precisions below float32, are PyTorch's.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[...]` -> `[...]`."""
        kept = round((1 - self.p) * STEPS)
        plain = not MARGIN <= kept <= STEPS - MARGIN or x.numel() < FEWEST or x.dtype not in EXACT
        if plain or not self.training or x.device.type != "cpu" or is_traced():
            return super().forward(x)
        return _KeepAbove.apply(x, _draws(x.shape), STEPS // 2 - 1 - kept, 1 / (1 - self.p))


def _draws(shape: torch.Size) -> Tensor:
    """`[*shape] int16`, every value equally likely."""
    count = shape.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[:count].view(shape)


class _KeepAbove(torch.autograd.Function):
    """x * scale where draws > threshold, else 0: in PyTorch's vectorised kernels, which a product with bool is not."""

    @staticmethod
    def forward(x: Tensor, draws: Tensor, threshold: int, scale: float) -> Tensor:
        return torch.ops.aten.threshold_backward(x, draws.to(x.dtype), threshold).mul_(scale)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, draws, ctx.threshold, ctx.scale = inputs
        ctx.save_for_backward(draws)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (draws,) = ctx.saved_tensors
        return _KeepAbove.apply(gradient, draws, ctx.threshold, ctx.scale), None, None, None
