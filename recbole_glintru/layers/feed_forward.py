"""The position-wise feed-forward network of the Transformer (arXiv:1706.03762, eq. 2), with residual and LayerNorm."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_glintru.layers.dropout import Dropout

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


class FeedForward(nn.Module):
    """LayerNorm(dropout(W_2 dropout(activation(W_1 x))) + x), for each position separately.

    Args:
        hidden_size: d.
        inner_size: width between the two linear layers.
        activation: one of `ACTIVATIONS`; gelu is the exact form, with erf.
        dropout_prob: dropout before the residual.
        layer_norm_eps: epsilon of the LayerNorm; None for none, in models that have it before the layer.
        inner_dropout_prob: dropout after the activation; SASRec and LinRec have none there.
    """

    def __init__(
        self,
        hidden_size: int,
        inner_size: int,
        activation: str,
        dropout_prob: float,
        layer_norm_eps: Optional[float],
        inner_dropout_prob: float = 0.0,
    ):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.expand = nn.Linear(hidden_size, inner_size)
        self.inner_dropout = Dropout(inner_dropout_prob)
        self.reduce = nn.Linear(inner_size, hidden_size)
        self.dropout = Dropout(dropout_prob)
        self.norm = nn.Identity() if layer_norm_eps is None else nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, d]` -> `[B, T, d]`; any leading dimensions."""
        inner = self.inner_dropout(self.activation(self.expand(x)))
        return self.norm(self.dropout(self.reduce(inner)) + x)
