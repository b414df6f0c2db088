"""Lengths of histories, and numbers of rows, that are known on the host: so that nothing waits for a GPU.

How many positions a batch has is decided on the host. To read that from a GPU is to wait until all that was asked of
it before is done; meanwhile nothing new is asked, and it runs dry. Whoever makes such a tensor from numbers on the host
leaves them with it.
"""

from collections.abc import Sequence
from typing import Optional, Union

import numpy as np
import torch
from torch import Tensor

from recbole_glintru.ops.tracing import is_traced

_NAME = "_on_host"


def remember(numbers: Tensor, on_host: np.ndarray) -> Tensor:
    """Leave the same integers, on the host, with a tensor of integers.

    They are with this object, which `.to` returns where it has nothing to do, and not with copies or parts of it. They
    are forgotten when the tensor is changed in place.

    Returns:
        `numbers`.
    """
    setattr(numbers, _NAME, (on_host, _version(numbers)))
    return numbers


def of(numbers: Tensor) -> np.ndarray:
    """The integers of a tensor; where nobody has left them with it they are read, for which a GPU is waited for."""
    return getattr(numbers, _NAME)[0] if are_known(numbers) else numbers.cpu().numpy()


def are_known(numbers: Tensor) -> bool:
    """Whether somebody has left the integers of a tensor with it, and they are still the same."""
    return not is_traced() and hasattr(numbers, _NAME) and getattr(numbers, _NAME)[1] == _version(numbers)


def check_lengths(item_seq_len: Tensor) -> None:
    """Check that no history is empty, if the lengths can be read without waiting for a GPU.

    Raises:
        ValueError: a length is below 1.
    """
    if is_traced() or not (item_seq_len.device.type == "cpu" or are_known(item_seq_len)):
        return
    shortest = of(item_seq_len).min()
    if shortest < 1:
        raise ValueError(f"item_seq_len has a history of {shortest} items: it must have at least 1.")


def _version(numbers: Tensor) -> Optional[int]:
    """How often a tensor was changed in place; None for tensors of inference mode, which do not count it."""
    return None if numbers.is_inference() else numbers._version


def part(lengths: Tensor, rows: Union[slice, Tensor]) -> Tensor:
    """`lengths[rows]`, with what is known of them on the host."""
    if isinstance(rows, slice) and rows == slice(None):
        return lengths
    chosen = lengths[rows]
    if are_known(lengths) and are_known(rows):
        remember(chosen, of(lengths)[of(rows)])
    return chosen


def shifted(numbers: Tensor, by: int) -> Tensor:
    """`numbers + by`, with what is known of them on the host: of lengths and -1, the positions of the last items."""
    moved = numbers + by
    return remember(moved, of(numbers) + by) if are_known(numbers) else moved


def concatenated(parts: Sequence[Tensor]) -> Tensor:
    """`torch.cat(parts)`, with what is known of them on the host."""
    whole = torch.cat(list(parts))
    return remember(whole, np.concatenate([of(part) for part in parts])) if all(map(are_known, parts)) else whole


def uniform(like: Tensor, length: int) -> Tensor:
    """One length for all histories: `[B]`, on the device and in the type of `like`, which has B."""
    lengths = torch.full_like(like, length)
    return lengths if is_traced() else remember(lengths, np.full(len(like), length))
