"""Lengths of histories, and numbers of rows, that are known on the host: so that nothing waits for a GPU.

How many positions a batch has is decided on the host. To read that from a GPU is to wait until all that was asked of
it before is done; meanwhile nothing new is asked, and it runs dry. Whoever makes such a tensor from numbers on the host
leaves them with it.
"""

from typing import Union

import numpy as np
import torch
from torch import Tensor

from recbole_glintru.ops.tracing import is_traced

_NAME = "_on_host"


def remember(numbers: Tensor, on_host: np.ndarray) -> Tensor:
    """Leave with a tensor of integers, which nobody changes afterwards, the same integers on the host.

    They are with this object, which `.to` returns where it has nothing to do, and not with copies or parts of it.

    Returns:
        `numbers`.
    """
    setattr(numbers, _NAME, on_host)
    return numbers


def of(numbers: Tensor) -> np.ndarray:
    """The integers of a tensor; where nobody has left them with it they are read, for which a GPU is waited for."""
    known = getattr(numbers, _NAME, None)
    return numbers.cpu().numpy() if known is None else known


def part(lengths: Tensor, rows: Union[slice, Tensor]) -> Tensor:
    """`lengths[rows]`, with what is known of them on the host."""
    if isinstance(rows, slice) and rows == slice(None):
        return lengths
    chosen = lengths[rows]
    if hasattr(lengths, _NAME) and hasattr(rows, _NAME):
        remember(chosen, of(lengths)[of(rows)])
    return chosen


def uniform(like: Tensor, length: int) -> Tensor:
    """One length for all histories: `[B]`, on the device and in the type of `like`, which has B."""
    lengths = torch.full_like(like, length)
    return lengths if is_traced() else remember(lengths, np.full(len(like), length))
