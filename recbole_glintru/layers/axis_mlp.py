"""A two-layer MLP along one axis of a tensor, of which the mixers of MLP4Rec and SMLP4Rec are made."""

from typing import Union

import torch
from torch import Tensor, nn

from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.ops.inner_layer import inner_layer


class AxisMLP(nn.Module):
    """dropout(dropout(GELU(u W_1 + b_1)) W_2 + b_2) for every vector u along an axis of x.

    That of MLP4Rec's mixers (arXiv:2204.11510), with biases, and of SMLP4Rec's (doi 10.1145/3637871), without.

    An axis may have fewer than s entries: they are the first ones, and those after them count as zeros, for which
    nothing is computed.

    Args:
        size: s, the length of the axis.
        inner_size: width between the two linear layers.
        dropout_prob: dropout after the activation and on the output.
        bias: whether to have b_1 and b_2.
    """

    def __init__(self, size: int, inner_size: int, dropout_prob: float, bias: bool):
        super().__init__()
        self.expand = nn.Linear(size, inner_size, bias=bias)
        self.reduce = nn.Linear(inner_size, size, bias=bias)
        self.dropout = Dropout(dropout_prob)

    def forward(self, x: Tensor, axis: int) -> Tensor:
        """x with up to s entries along `axis` -> the same shape."""
        rows, size = x.movedim(axis, -1), x.shape[axis]
        output = self._without_bias(rows, self.reduce.weight[:size].T)
        if self.reduce.bias is not None:
            output = output + self.reduce.bias[:size]
        return self.dropout(output).view(rows.shape).movedim(-1, axis)

    def at(self, x: Tensor, axis: int, index: Union[int, Tensor]) -> Tensor:
        """The output at one entry of the axis, without computing the others.

        Args:
            x: `[B, ...]` with up to s entries along `axis`, which is not the first one.
            axis: counted from the front.
            index: the entry, one for all rows or, as `[B] int64`, one per row.

        Returns:
            x's shape without `axis`.
        """
        if isinstance(index, int):
            index = torch.full((len(x),), index, device=x.device)
        rows = x.movedim(axis, -1)
        output = self._without_bias(rows, self.reduce.weight[index].unsqueeze(-1))  # [B, ..., 1]
        if self.reduce.bias is not None:
            output = output + self.reduce.bias[index][:, None, None]
        return self.dropout(output).view(rows.shape[:-1])

    def _without_bias(self, rows: Tensor, reduce: Tensor) -> Tensor:
        """`[B, ..., up to s]` -> `[B, R, s']`, R the product of the dimensions between."""
        size = rows.shape[-1]
        rows, expand = rows.reshape(len(rows), -1, size), self.expand.weight[:, :size]
        return inner_layer(rows, expand, self.expand.bias, reduce, self.dropout.p, self.dropout.training)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # MLP4Rec's published mixers are convolutions of kernel size 1, with weights [out, in, 1].
        for name in (f"{prefix}expand.weight", f"{prefix}reduce.weight"):
            if name in state_dict and state_dict[name].dim() == 3 and state_dict[name].shape[2] == 1:
                state_dict[name] = state_dict[name].squeeze(2)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
