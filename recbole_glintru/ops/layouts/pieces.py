"""The time steps of packed histories (`packed.py`), one by one and some at a time: where they lie, rows for each.

`counts` are the numbers of histories that have a step, of all steps or of some consecutive ones; histories stand in one
order in every step, the longest first.
"""

from itertools import accumulate

import torch
from torch import Tensor


def blocks(counts: list[int]) -> list[slice]:
    """The rows of each step, from the number of histories that have it."""
    starts = [0, *accumulate(counts)]
    return [slice(start, stop) for start, stop in zip(starts, starts[1:])]


def pieces(counts: list[int], most: int) -> list[tuple[slice, range]]:
    """The rows and the steps of consecutive pieces, of at most so many rows, or of one step that has more."""
    starts = [0, *accumulate(counts)]
    parts, first = [], 0
    while first < len(counts):
        behind = first + 1
        while behind < len(counts) and starts[behind + 1] - starts[first] <= most:
            behind += 1
        parts.append((slice(starts[first], starts[behind]), range(first, behind)))
        first = behind
    return parts


def spread(x: Tensor, counts: list[int], out: Tensor) -> Tensor:
    """Each position gets its history's row: `[B, ...]` -> out `[sum(counts), ...]`."""
    return torch.cat([x[:count] for count in counts], out=out)


def collect(x: Tensor, counts: list[int], total: Tensor) -> Tensor:
    """Add each position's row to its history's: `[sum(counts), ...]` -> total `[B, ...]`."""
    for count, block in zip(counts, blocks(counts)):
        total[:count] += x[block]
    return total
