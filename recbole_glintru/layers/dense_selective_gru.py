"""The recurrent expert of GLINT-RU: a GRU between two temporal convolutions, with a selective gate (eq. 5 to 9)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.layers.gru import GRU
from recbole_glintru.layers.temporal_conv import NoTemporalConv, TemporalConv, window_before
from recbole_glintru.ops.layouts.choice import Layout

ACTIVATIONS = {"silu": F.silu, "relu": F.relu, "sigmoid": torch.sigmoid, "elu": F.elu}


class SelectiveGate(nn.Module):
    """activation(delta_1(C)) W_Omega + b_Omega, eq. 9: how much of the recurrent states passes.

    Args:
        hidden_size: d.
        reduction: the inner width is d divided by it.
        activation: one of `ACTIVATIONS`; the paper's is silu, its appendix C compares the others.
        dropout_prob: dropout on the output.
    """

    def __init__(self, hidden_size: int, reduction: int, activation: str, dropout_prob: float):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.reduce = nn.Linear(hidden_size, hidden_size // reduction)
        self.expand = nn.Linear(hidden_size // reduction, hidden_size)
        self.dropout = Dropout(dropout_prob)

    def forward(self, c: Tensor) -> Tensor:
        """`[..., d]` -> `[..., d]`."""
        return self.dropout(self.expand(self.activation(self.reduce(c))))


class DenseSelectiveGRU(nn.Module):
    """Y = TemporalConv(gate(C) * Phi(GRU(C))) with C = TemporalConv(X W_0 + b_0), eq. 5 to 9.

    Args:
        hidden_size: d.
        kernel_size: odd width of both convolutions.
        use_temporal_conv: if False, both convolutions are the identity.
        gru_layers: stacked GRU layers.
        gru_bias: whether the GRU has biases; eq. 1 has them, the published code has none.
        gate_reduction, gate_activation, gate_dropout_prob: see `SelectiveGate`.
        mask_padding: whether the last item is the last position of its history in the layout; in the published code
            padding follows, and the second convolution reads it.
    """

    def __init__(
        self,
        hidden_size: int,
        kernel_size: int,
        use_temporal_conv: bool,
        gru_layers: int,
        gru_bias: bool,
        gate_reduction: int,
        gate_activation: str,
        gate_dropout_prob: float,
        mask_padding: bool,
    ):
        super().__init__()

        def convolution():
            return TemporalConv(hidden_size, kernel_size) if use_temporal_conv else NoTemporalConv()

        self.mask_padding = mask_padding
        self.input_projection = nn.Linear(hidden_size, hidden_size)  # eq. 5, W_0
        self.input_conv = convolution()  # eq. 5
        self.gru = GRU(hidden_size, gru_layers, bias=gru_bias)  # eq. 1, 6
        self.channel_crossing = nn.Linear(hidden_size, hidden_size)  # eq. 7
        self.selective_gate = SelectiveGate(hidden_size, gate_reduction, gate_activation, gate_dropout_prob)  # eq. 9
        self.output_conv = convolution()  # eq. 8

    def convolved(self, x: Tensor, layout: Layout) -> Tensor:
        """C at every position, eq. 5: `[*P, d]` -> `[*P, d]`."""
        return self.input_conv.after_linear(self.input_projection, x, layout)

    def item_table(self, items: Tensor) -> Tensor:
        """What each item adds to C, `[V, d]` -> `[k * V + 1, d]`, for `item_convolution.convolve_items`."""
        return self.input_conv.item_table(self.input_projection, items)

    def forward(self, c: Tensor, layout: Layout) -> Tensor:
        """The expert's output at every position: C `[*P, d]` -> `[*P, d]`."""
        return self.output_conv(self._gated(c, self.gru(c, layout)), layout)

    def at_last(self, c: Tensor, layout: Layout, last: Tensor) -> Tensor:
        """The expert's output at one position of each history; after the recurrence only what it needs is computed.

        Args:
            c: `[*P, d]`, C of eq. 5.
            layout: the layout of those positions.
            last: `[B] int64`, the position of the last item.

        Returns:
            `[B, d]`.
        """
        window = window_before(last, self.output_conv.kernel_size[0], past_only=self.mask_padding)
        h, c = self.gru.at(c, layout, window)
        gated = self._gated(c, h)
        return self.output_conv.at_centre(gated * layout.contains(window).unsqueeze(-1))

    def _gated(self, c: Tensor, h: Tensor) -> Tensor:
        return self.selective_gate(c) * self.channel_crossing(h)
