"""Dropout whose random numbers cost less."""

import torch
from torch import Tensor, nn

from recbole_glintru.ops.tracing import is_traced

FEWEST = 1 << 12  # elements; below, the numbers are not what costs


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, three times as fast on a CPU: an element is kept or not by 32 of the 64 bits of a draw.

    PyTorch draws 64 bits for each element there, one after the other, whatever the number of threads: a tenth of a
    training step of GLINT-RU. The probability is met to 2^-32, closer than by PyTorch's numbers of 24 bits; one that is
    no closer to 1 than that is PyTorch's.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[...]` -> `[...]`."""
        plain = self.p == 0 or self.p > 1 - 2**-32 or x.numel() < FEWEST
        if plain or not self.training or x.device.type != "cpu" or is_traced():
            return super().forward(x)
        return (x * self._kept(x.shape)).mul_(1 / (1 - self.p))

    def _kept(self, shape: torch.Size) -> Tensor:
        """`[*shape] bool`, True with probability 1 - p."""
        count = shape.numel()
        draws = torch.empty((count + 1) // 2, dtype=torch.int64).random_(-(2**63), None)
        return (draws.view(torch.int32)[:count] >= round(self.p * 2**32) - 2**31).view(shape)
