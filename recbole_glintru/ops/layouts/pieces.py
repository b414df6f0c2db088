"""The time steps of packed histories (`packed.py`), one by one or several at a time: their rows, and sums over them.

`counts` are the numbers of histories that have a step, for all steps or for some consecutive ones; histories have the
same order in every step, the longest first.
"""

from itertools import accumulate

import torch
from torch import Tensor


def blocks(counts: list[int]) -> list[slice]:
    """The rows of each step, from the number of histories that have it."""
    starts = [0, *accumulate(counts)]
    return [slice(start, stop) for start, stop in zip(starts, starts[1:])]


def pieces(counts: list[int], most: int) -> list[tuple[slice, range]]:
    """The rows and the steps of consecutive pieces, each of at most `most` rows, or of one step that has more."""
    starts = [0, *accumulate(counts)]
    parts, first = [], 0
    while first < len(counts):
        stop = first + 1
        while stop < len(counts) and starts[stop + 1] - starts[first] <= most:
            stop += 1
        parts.append((slice(starts[first], starts[stop]), range(first, stop)))
        first = stop
    return parts


def spread(x: Tensor, counts: list[int], out: Tensor) -> Tensor:
    """Each position gets the row of its history: `[B, ...]` -> out `[sum(counts), ...]`."""
    return torch.cat([x[:count] for count in counts], out=out)


def collect(x: Tensor, counts: list[int], total: Tensor) -> Tensor:
    """Add the row of each position to that of its history: `[sum(counts), ...]` -> total `[B, ...]`."""
    for count, block in zip(counts, blocks(counts)):
        total[:count] += x[block]
    return total
