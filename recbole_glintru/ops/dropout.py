"""Dropout with cheaper random numbers, four times as fast as PyTorch's on a CPU.

There PyTorch draws 64 bits for each element, sequentially whatever the number of threads: a tenth of a training step
of GLINT-RU. Here each draw of 64 bits decides on four elements, by 16 bits each. The probability is therefore exact
only to 2^-17, a difference that it takes 10^10 elements to detect.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops.tracing import is_traced

FEWEST = 1 << 14  # elements; for fewer, drawing the random numbers is not the main cost
STEPS = 1 << 16  # the probability is a multiple of 1/STEPS ...
MARGIN = STEPS >> 8  # ... and at least MARGIN/STEPS away from 0 and from 1, where the steps would be too coarse
EXACT = (torch.float32, torch.float64)  # these represent every 16-bit integer exactly


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`torch.nn.functional.dropout`, which itself handles small tensors, tracing and what `resolves` excludes."""
    if training and x.numel() >= FEWEST and resolves(x, p) and not is_traced():
        return _Keep.apply(x, draw(x.shape, x.device), p)
    return F.dropout(x, p, training)


def resolves(x: Tensor, p: float) -> bool:
    """Whether `draw` and `keep` can replace PyTorch's dropout: not on a GPU, in half precision, or for extreme p."""
    return x.device.type == "cpu" and x.dtype in EXACT and MARGIN <= _kept(p) <= STEPS - MARGIN


def draw(shape: torch.Size, device: torch.device) -> Tensor:
    """`[*shape] int16`, every value equally likely."""
    count = shape.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64, device=device).random_(-(2**63), None)
    return draws.view(torch.int16)[:count].view(shape)


def keep(x: Tensor, draws: Tensor, p: float) -> Tensor:
    """x / (1 - p) where the draw is in the top fraction 1 - p of its range, 0 elsewhere.

    Uses a vectorised kernel of PyTorch; a product with a `bool` mask has none.
    """
    return torch.ops.aten.threshold_backward(x, draws.to(x.dtype), STEPS // 2 - 1 - _kept(p)).mul_(1 / (1 - p))


def _kept(p: float) -> int:
    return round((1 - p) * STEPS)


class _Keep(torch.autograd.Function):
    """`keep`; for the backward pass it stores 16 bits per element."""

    @staticmethod
    def forward(x: Tensor, draws: Tensor, p: float) -> Tensor:
        return keep(x, draws, p)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, draws, ctx.p = inputs
        ctx.save_for_backward(draws)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (draws,) = ctx.saved_tensors
        return _Keep.apply(gradient, draws, ctx.p), None, None
