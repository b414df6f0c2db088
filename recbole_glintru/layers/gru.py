"""A GRU over histories of different lengths (GLINT-RU, eq. 1)."""

from typing import Optional

from torch import Tensor, nn

from recbole_glintru.ops.gru import gru
from recbole_glintru.ops.precision import at_least_float32, float32_region


class GRU(nn.GRU):
    """`torch.nn.GRU` with its parameters and its results, which does not compute padding where the lengths are known.

    Runs in float32 under autocast: rounding errors of half precision add up over the steps.
    """

    def __init__(self, hidden_size: int, num_layers: int = 1, bias: bool = False):
        super().__init__(hidden_size, hidden_size, num_layers, bias=bias, batch_first=True)

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        """The states of the last layer.

        Args:
            x: `[B, L, d]`.
            lengths: `[B] int64`, at least 1; without it every row has L steps.

        Returns:
            `[B, L, d]`; what stands behind a row's length means nothing.
        """
        with float32_region(x):
            x = at_least_float32(x)
            if lengths is None:
                return super().forward(x)[0]
            for weights in self.all_weights:
                x = gru(x, lengths, *weights)
            return x
