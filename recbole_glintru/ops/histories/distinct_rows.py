"""Finding the rows of a batch that are the same history."""

from collections.abc import Sequence

import torch
from torch import Tensor


def distinct_rows(columns: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Find the rows that are equal in every tensor of `columns` (`[B]` or `[B, n]`, integers).

    Returns:
        first: `[D]`, for each distinct row the index of its first occurrence;
        inverse: `[B]`, for each row the index of its distinct row, so that `x[first][inverse]` equals `x`.

    Rows are compared by a 64-bit hash, and the result is checked against the rows themselves: a collision costs
    time, but not correctness.
    """
    rows = torch.cat([column.unsqueeze(-1).flatten(1) for column in columns], dim=1)
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator, dtype=torch.int64, device="cpu")
    keys = (rows * factors.to(rows.device)).sum(dim=1)  # overflow wraps around, which is fine for a hash
    first, inverse = _first_of_each(keys)
    if not torch.equal(rows[first][inverse], rows):
        _, inverse = torch.unique(rows, dim=0, return_inverse=True)
        first, inverse = _first_of_each(inverse)
    return first, inverse


def _first_of_each(keys: Tensor) -> tuple[Tensor, Tensor]:
    values, inverse = torch.unique(keys, return_inverse=True)
    first = torch.full_like(values, len(keys))
    first.scatter_reduce_(0, inverse, torch.arange(len(keys), device=keys.device, dtype=values.dtype), "amin")
    return first, inverse
