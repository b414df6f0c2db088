"""Which positions of a history are real, and the values of a tensor at one of them.

A history is a row of `item_seq: [B, L] int64, right-padded with 0` with its length in `item_seq_len: [B] int64`.
"""

import torch
from torch import Tensor

from recbole_glintru.ops.histories import host_lengths


def valid_positions(item_seq_len: Tensor, length: int) -> Tensor:
    """Mask of the real positions: `[B, L] bool`, True where the position is below the row's length."""
    return torch.arange(length, device=item_seq_len.device) < item_seq_len.unsqueeze(1)


def at_position(x: Tensor, position: Tensor) -> Tensor:
    """One position per row: x `[B, L, d]`, position `[B]` -> `[B, d]`."""
    return x[torch.arange(len(x), device=x.device), position]


def trim(item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
    """Remove the columns that are padding in every row: `[B, L]` -> `[B, longest history]`."""
    return item_seq[:, : max(1, int(host_lengths.of(item_seq_len).max()))]
