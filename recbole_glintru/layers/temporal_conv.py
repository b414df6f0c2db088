"""Convolution over time (GLINT-RU, eq. 5 and 8)."""

import torch
from torch import Tensor, nn


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
        return super().forward(x.transpose(1, 2)).transpose(1, 2)

    def at_centre(self, window: Tensor) -> Tensor:
        """The output at one position, from the first T of the k positions around it; the others count as zeros.

        Args:
            window: `[B, T, d]` with (k+1)/2 <= T <= k.

        Returns:
            `[B, 1, d]`.
        """
        taps = self.weight[:, :, : window.shape[1]].transpose(1, 2).flatten(1)  # [d, T*d]
        return nn.functional.linear(window.flatten(1), taps, self.bias).unsqueeze(1)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, kernel_size={self.kernel_size[0]}"


class NoTemporalConv(nn.Module):
    """The identity in the place of a `TemporalConv`, for the ablation without temporal convolution."""

    kernel_size = (1,)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, d]` -> `[B, L, d]`."""
        return x

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
