"""Lengths of histories, and indices of rows, that are also known on the host, so that nothing waits for a GPU.

The number of positions of a batch is needed on the host. Reading it from a GPU waits for all work queued there;
meanwhile nothing new is launched, and the GPU runs idle. So code that makes such a tensor from numbers on the host
attaches those numbers to it.
"""

from collections.abc import Sequence
from typing import Optional, Union

import numpy as np
import torch
from torch import Tensor

from recbole_glintru.ops.tracing import is_traced

_NAME = "_on_host"


def remember(numbers: Tensor, on_host: np.ndarray) -> Tensor:
    """Attach to a tensor of integers the same integers on the host.

    They belong to this tensor object, which `.to` returns if it has nothing to do, and not to copies or parts of it.
    They are ignored once the tensor has been changed in place.

    Returns:
        `numbers`.
    """
    setattr(numbers, _NAME, (on_host, _version(numbers)))
    return numbers


def of(numbers: Tensor) -> np.ndarray:
    """The integers of a tensor on the host: those attached to it, or read from it, which waits for a GPU."""
    return getattr(numbers, _NAME)[0] if are_known(numbers) else numbers.cpu().numpy()


def are_known(numbers: Tensor) -> bool:
    """Whether a tensor has its integers attached, and has not been changed since."""
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
    """How often a tensor has been changed in place; None for tensors of inference mode, which do not count it."""
    return None if numbers.is_inference() else numbers._version


def part(lengths: Tensor, rows: Union[slice, Tensor]) -> Tensor:
    """`lengths[rows]`, known on the host if both are."""
    if isinstance(rows, slice) and rows == slice(None):
        return lengths
    chosen = lengths[rows]
    if are_known(lengths) and are_known(rows):
        remember(chosen, of(lengths)[of(rows)])
    return chosen


def shifted(numbers: Tensor, by: int) -> Tensor:
    """`numbers + by`, known on the host if `numbers` are; lengths and -1 give the positions of the last items."""
    moved = numbers + by
    return remember(moved, of(numbers) + by) if are_known(numbers) else moved


def concatenated(parts: Sequence[Tensor]) -> Tensor:
    """`torch.cat(parts)`, known on the host if all parts are."""
    whole = torch.cat(list(parts))
    return remember(whole, np.concatenate([of(part) for part in parts])) if all(map(are_known, parts)) else whole


def uniform(like: Tensor, length: int) -> Tensor:
    """One length for all histories: `[B]`, with the shape, device and type of `like`; known on the host."""
    lengths = torch.full_like(like, length)
    return lengths if is_traced() else remember(lengths, np.full(len(like), length))
