"""Where the time steps of packed histories (`layouts.Packed`) lie, one by one and some at a time."""

from itertools import accumulate


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
