"""Histories of a fixed length, for models whose weights depend on the position."""

import torch
import torch.nn.functional as F
from torch import Tensor


def check_length(item_seq: Tensor, length: int) -> None:
    """Raise a ValueError if the histories `[B, L'] int64` have more positions than a model has weights for."""
    if item_seq.shape[1] > length:
        raise ValueError(f"Histories of {item_seq.shape[1]} positions: the model has MAX_ITEM_LIST_LENGTH={length}.")


def widen(item_seq: Tensor, length: int) -> Tensor:
    """Pad histories on the right, to the length of a model: `[B, L'] int64` -> `[B, length]`.

    Raises:
        ValueError: L' is greater than `length`.
    """
    check_length(item_seq, length)
    return F.pad(item_seq, (0, length - item_seq.shape[1]))


def align_right(item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
    """Move the padding of each row to the left, so that every history ends at position L-1.

    Args:
        item_seq: `[B, L] int64`, right-padded with 0.
        item_seq_len: `[B] int64`, each from 1 to L.

    Returns:
        `[B, L] int64`, left-padded with 0.
    """
    length = item_seq.shape[1]
    shift = (length - item_seq_len).unsqueeze(1)
    source = torch.arange(length, device=item_seq.device) - shift
    return item_seq.gather(1, source.clamp(min=0)).masked_fill(source < 0, 0)
