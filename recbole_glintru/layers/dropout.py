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
        if self.training and x.numel() >= FEWEST and self.draws_for(x) and not is_traced():
            return _Keep.apply(x, draw(x.shape), self.p)
        return super().forward(x)

    def draws_for(self, x: Tensor) -> bool:
        """Whether `draw` and `keep` can stand in for PyTorch's numbers."""
        return x.device.type == "cpu" and x.dtype in EXACT and MARGIN <= _kept(self.p) <= STEPS - MARGIN


def draw(shape: torch.Size) -> Tensor:
    """`[*shape] int16`, every value equally likely."""
    count = shape.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[:count].view(shape)


def keep(x: Tensor, draws: Tensor, p: float) -> Tensor:
    """x / (1 - p) where the draw is among the greatest 1 - p of its values, 0 elsewhere.

    In PyTorch's vectorised kernels, which a product with `bool` is not.
    """
    return torch.ops.aten.threshold_backward(x, draws.to(x.dtype), STEPS // 2 - 1 - _kept(p)).mul_(1 / (1 - p))


def _kept(p: float) -> int:
    return round((1 - p) * STEPS)


class _Keep(torch.autograd.Function):
    """`keep`, which remembers 16 bits for each element."""

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
