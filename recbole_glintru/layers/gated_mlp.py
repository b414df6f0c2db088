"""The two gates after the experts of GLINT-RU (eq. 11 and 12)."""

from typing import Optional

import torch.nn.functional as F
from torch import Tensor, nn

from recbole_glintru.layers.dropout import Dropout


class DataAwareGate(nn.Module):
    """Z = GELU(delta_2(X)) * M, eq. 11: the block's input decides how much of the mixed experts passes.

    The published code adds a linear layer and dropout after the product.

    Args:
        hidden_size: d.
        dropout_prob: dropout on the output.
        output_linear: whether to include the published linear layer.
    """

    def __init__(self, hidden_size: int, dropout_prob: float, output_linear: bool = True):
        super().__init__()
        self.gate = nn.Linear(hidden_size, hidden_size)
        self.output: Optional[nn.Linear] = nn.Linear(hidden_size, hidden_size) if output_linear else None
        self.dropout = Dropout(dropout_prob)

    def forward(self, x: Tensor, mixed: Tensor) -> Tensor:
        """x, mixed `[B, T, d]` -> `[B, T, d]`."""
        z = mixed * F.gelu(self.gate(x))
        return self.dropout(z if self.output is None else self.output(z))


class GatedMLP(nn.Module):
    """R = P W_o + b_o with P = GELU(delta_3(Z)) * (Z W + b), eq. 12.

    Args:
        hidden_size: d; all three layers are d -> d.
        dropout_prob: dropout on the output.
    """

    def __init__(self, hidden_size: int, dropout_prob: float):
        super().__init__()
        self.gate = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.dropout = Dropout(dropout_prob)

    def forward(self, z: Tensor) -> Tensor:
        """`[B, T, d]` -> `[B, T, d]`."""
        return self.dropout(self.output(self.value(z) * F.gelu(self.gate(z))))
