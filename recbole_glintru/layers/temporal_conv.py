"""Convolution over time (GLINT-RU, eq. 5 and 8)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_glintru.ops.convolution.item_convolution import tap_table
from recbole_glintru.ops.layouts.choice import Layout


class TemporalConv(nn.Conv1d):
    """Centred convolution over the positions that mixes all channels, with zeros outside the sequence.

    Args:
        hidden_size: d.
        kernel_size: odd k; position t sees t-(k-1)/2 to t+(k-1)/2.
    """

    def __init__(self, hidden_size: int, kernel_size: int):
        super().__init__(hidden_size, hidden_size, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """`[*P, d]` -> `[*P, d]`; the padding counts as zeros, and its outputs are undefined."""
        return layout.convolve(x, self._taps(), self._biases())

    def after_linear(self, linear: nn.Linear, x: Tensor, layout: Layout) -> Tensor:
        """`forward(linear(x), layout)` as one product: both are linear, so their weights are multiplied first."""
        return layout.convolve(x, *self._merged(linear))

    def item_table(self, linear: nn.Linear, items: Tensor) -> Tensor:
        """`after_linear` of single items, tap by tap (`item_convolution.tap_table`): `[V, d]` -> `[k * V + 1, d]`."""
        return tap_table(items, *self._merged(linear))

    def _merged(self, linear: nn.Linear) -> tuple[Tensor, Tensor]:
        taps = self._taps()
        return taps @ linear.weight, taps @ linear.bias + self._biases()

    def _taps(self) -> Tensor:
        return self.weight.permute(2, 0, 1)  # [k, out, in]

    def _biases(self) -> Tensor:
        """The bias of each tap, `[k, out]`: all of it at the middle one, which always meets a position."""
        reach = self.kernel_size[0] // 2
        return F.pad(self.bias.unsqueeze(0), (0, 0, reach, reach))

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
    """The identity instead of a `TemporalConv`, for the ablation without temporal convolution."""

    kernel_size = (1,)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """`[*P, d]` -> `[*P, d]`."""
        return x

    def after_linear(self, linear: nn.Linear, x: Tensor, layout: Layout) -> Tensor:
        """`linear(x)`; see `TemporalConv.after_linear`."""
        return linear(x)

    def item_table(self, linear: nn.Linear, items: Tensor) -> Tensor:
        """See `TemporalConv.item_table`."""
        return tap_table(items, linear.weight.unsqueeze(0), linear.bias.unsqueeze(0))

    def at_centre(self, window: Tensor) -> Tensor:
        """`[B, 1, d]` -> `[B, d]`."""
        return window.squeeze(1)


def window_before(last: Tensor, kernel_size: int, past_only: bool) -> Tensor:
    """The positions that a centred convolution reads for its output at `last`.

    Args:
        last: `[B] int64`.
        kernel_size: odd k.
        past_only: leave out the positions after `last`, if they are known to be zeros.

    Returns:
        `[B, T] int64`, T = (k+1)/2 or k; positions may lie outside the sequence.
    """
    reach = kernel_size // 2
    offsets = torch.arange(-reach, 1 if past_only else reach + 1, device=last.device)
    return last.unsqueeze(1) + offsets
