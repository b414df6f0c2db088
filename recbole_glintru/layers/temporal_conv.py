"""Convolution over time (GLINT-RU, eq. 5 and 8)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_glintru.ops.layouts import Layout


class TemporalConv(nn.Conv1d):
    """Centred convolution over the positions, all channels mixed, zeros outside the sequence.

    Args:
        hidden_size: d.
        kernel_size: odd k; position t sees t-(k-1)/2 to t+(k-1)/2.
    """

    def __init__(self, hidden_size: int, kernel_size: int):
        super().__init__(hidden_size, hidden_size, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """`[*P, d]` -> `[*P, d]`; the padding counts as zeros, and what comes out there means nothing."""
        taps = self.weight.permute(2, 0, 1)  # [k, out, in]
        return layout.convolve(x, taps, self._with_bias(taps.new_zeros(taps.shape[:2])))

    def after_linear(self, linear: nn.Linear, x: Tensor, layout: Layout) -> Tensor:
        """`forward(linear(x), layout)` as one product: both are linear, so that their weights are multiplied first."""
        taps = self.weight.permute(2, 0, 1)  # [k, out, in]
        return layout.convolve(x, taps @ linear.weight, self._with_bias(taps @ linear.bias))

    def _with_bias(self, biases: Tensor) -> Tensor:
        """Of each tap, `[k, out]`, with the convolution's own at the middle one, which always meets a position."""
        return biases + F.pad(self.bias.unsqueeze(0), (0, 0, len(biases) // 2, len(biases) // 2))

    def at_centre(self, window: Tensor) -> Tensor:
        """The output at one position, from the first T of the k positions around it; the others count as zeros.

        Args:
            window: `[B, T, d]` with (k+1)/2 <= T <= k.

        Returns:
            `[B, d]`.
        """
        taps = self.weight[:, :, : window.shape[1]].transpose(1, 2).flatten(1)  # [d, T*d]
        return F.linear(window.flatten(1), taps, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, kernel_size={self.kernel_size[0]}"


class NoTemporalConv(nn.Module):
    """The identity in the place of a `TemporalConv`, for the ablation without temporal convolution."""

    kernel_size = (1,)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """`[*P, d]` -> `[*P, d]`."""
        return x

    def after_linear(self, linear: nn.Linear, x: Tensor, layout: Layout) -> Tensor:
        """`linear(x)`; see `TemporalConv.after_linear`."""
        return linear(x)

    def at_centre(self, window: Tensor) -> Tensor:
        """`[B, 1, d]` -> `[B, d]`."""
        return window.squeeze(1)


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
