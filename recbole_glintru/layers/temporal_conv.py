"""Convolution over time (GLINT-RU, eq. 5 and 8)."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_glintru.ops.shifted_sum import shifted_sum


class TemporalConv(nn.Conv1d):
    """Centred convolution over the positions, all channels mixed, zeros outside the sequence.

    Args:
        hidden_size: d.
        kernel_size: odd k; position t sees t-(k-1)/2 to t+(k-1)/2.
    """

    def __init__(self, hidden_size: int, kernel_size: int):
        super().__init__(hidden_size, hidden_size, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, d]` -> `[B, L, d]`."""
        taps = self.weight.permute(2, 0, 1)  # [k, out, in]
        return shifted_sum(F.linear(x, taps.flatten(0, 1)).unflatten(-1, taps.shape[:2])) + self.bias

    def after_linear(self, linear: nn.Linear, x: Tensor, lengths: Optional[Tensor]) -> Tensor:
        """`forward(linear(x))` with zeros behind each row's length, as one product.

        Both are linear, so that their weights are multiplied first.

        Args:
            linear: d -> d.
            x: `[B, L, d]`.
            lengths: `[B] int64`, or None for L.

        Returns:
            `[B, L, d]`; with `lengths`, what stands behind a row's length means nothing.
        """
        taps = self.weight.permute(2, 0, 1)  # [k, out, in]
        products = F.linear(x, (taps @ linear.weight).flatten(0, 1), (taps @ linear.bias).flatten())
        return shifted_sum(products.unflatten(-1, taps.shape[:2]), lengths) + self.bias

    def at_centre(self, window: Tensor) -> Tensor:
        """The output at one position, from the first T of the k positions around it; the others count as zeros.

        Args:
            window: `[B, T, d]` with (k+1)/2 <= T <= k.

        Returns:
            `[B, 1, d]`.
        """
        taps = self.weight[:, :, : window.shape[1]].transpose(1, 2).flatten(1)  # [d, T*d]
        return F.linear(window.flatten(1), taps, self.bias).unsqueeze(1)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, kernel_size={self.kernel_size[0]}"


class NoTemporalConv(nn.Module):
    """The identity in the place of a `TemporalConv`, for the ablation without temporal convolution."""

    kernel_size = (1,)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, d]` -> `[B, L, d]`."""
        return x

    def after_linear(self, linear: nn.Linear, x: Tensor, lengths: Optional[Tensor]) -> Tensor:
        """`linear(x)`; see `TemporalConv.after_linear`."""
        return linear(x)

    def at_centre(self, window: Tensor) -> Tensor:
        """`[B, 1, d]` -> `[B, 1, d]`."""
        return window


def window_before(last: Tensor, kernel_size: int, past_only: bool) -> Tensor:
    """The positions that a centred convolution reads for its output at `last`.

    Args:
        last: `[B] int64`.
        kernel_size: odd k.
        past_only: leave out the positions after `last`, when they are known to hold zeros.

    Returns:
        `[B, T] int64`, T = (k+1)/2 or k; positions may lie outside the sequence.
    """
    reach = kernel_size // 2
    offsets = torch.arange(-reach, 1 if past_only else reach + 1, device=last.device)
    return last.unsqueeze(1) + offsets
