"""A two-layer MLP along one axis of a tensor: what the mixers of MLP4Rec and SMLP4Rec are made of."""

from typing import Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_glintru.layers.dropout import Dropout


class AxisMLP(nn.Module):
    """dropout(dropout(GELU(u W_1 + b_1)) W_2 + b_2) for every vector u along an axis of x.

    An axis may have fewer than s entries: they are the first ones, those behind them count as zeros, and nothing is
    computed there.

    Args:
        size: s, the length of the axis.
        inner_size: width between the two linear layers.
        dropout_prob: dropout behind the activation and on the output.
        bias: whether to have b_1 and b_2.
    """

    def __init__(self, size: int, inner_size: int, dropout_prob: float, bias: bool):
        super().__init__()
        self.expand = nn.Linear(size, inner_size, bias=bias)
        self.reduce = nn.Linear(inner_size, size, bias=bias)
        self.dropout = Dropout(dropout_prob)

    def forward(self, x: Tensor, axis: int) -> Tensor:
        """x with up to s entries along `axis` -> the same shape."""
        size, bias = x.shape[axis], self.reduce.bias
        output = F.linear(self._inner(x, axis), self.reduce.weight[:size], None if bias is None else bias[:size])
        return self.dropout(output).movedim(-1, axis)

    def at(self, x: Tensor, axis: int, index: Union[int, Tensor]) -> Tensor:
        """The output at one entry of the axis, without computing the others.

        Args:
            x: `[B, ...]` with up to s entries along `axis`, which is not the first one.
            axis: counted from the front.
            index: the entry: one for all rows, or `[B] int64`, one a row.

        Returns:
            x's shape without `axis`.
        """
        if isinstance(index, int):
            index = torch.full((len(x),), index, device=x.device)
        inner = self._inner(x, axis)
        output = inner.flatten(1, -2) @ self.reduce.weight[index].unsqueeze(-1)  # [B, ..., 1]
        if self.reduce.bias is not None:
            output = output + self.reduce.bias[index][:, None, None]
        return self.dropout(output).reshape(inner.shape[:-1])

    def _inner(self, x: Tensor, axis: int) -> Tensor:
        inner = F.linear(x.movedim(axis, -1), self.expand.weight[:, : x.shape[axis]], self.expand.bias)
        return self.dropout(F.gelu(inner))

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # MLP4Rec's published mixers are convolutions of kernel size 1, with weights [out, in, 1].
        for name in (f"{prefix}expand.weight", f"{prefix}reduce.weight"):
            if name in state_dict and state_dict[name].dim() == 3 and state_dict[name].shape[2] == 1:
                state_dict[name] = state_dict[name].squeeze(2)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
