"""The recurrence of a GRU layer as a plain loop over time.

PyTorch's GRU, gate for gate: with the row blocks reset, update, candidate of `weight_ih` and `weight_hh`,

    r_t = sigmoid(x_t W_ir + h_{t-1} W_hr),    z_t = sigmoid(x_t W_iz + h_{t-1} W_hz),
    c_t = tanh(x_t W_in + r_t * (h_{t-1} W_hn)),    h_t = (1 - z_t) * c_t + z_t * h_{t-1},    h_{-1} = 0.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor


def gru_reference(
    x: Tensor,
    lengths: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Optional[Tensor] = None,
    bias_hh: Optional[Tensor] = None,
) -> Tensor:
    """The states of one GRU layer, step by step.

    Args:
        x: `[B, L, in]`.
        lengths: `[B] int64`, the number of real steps of each row, at least 1.
        weight_ih, weight_hh: `[3d, in]`, `[3d, d]`; bias_ih, bias_hh: `[3d]` or None.

    Returns:
        `[B, L, d]`, zero after a row's length.
    """
    h = x.new_zeros(len(x), weight_hh.shape[1])
    states = []
    for t in range(x.shape[1]):
        from_input = F.linear(x[:, t], weight_ih, bias_ih).chunk(3, dim=-1)
        from_state = F.linear(h, weight_hh, bias_hh).chunk(3, dim=-1)
        r = torch.sigmoid(from_input[0] + from_state[0])
        z = torch.sigmoid(from_input[1] + from_state[1])
        c = torch.tanh(from_input[2] + r * from_state[2])
        h = (1 - z) * c + z * h
        states.append(h * (t < lengths).unsqueeze(-1))
    return torch.stack(states, dim=1)
