"""The convolution of embedded items by look-up in a table of the contribution of each item."""

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops.layouts.packed import Packed


def tap_table(items: Tensor, taps: Tensor, biases: Tensor) -> Tensor:
    """The contribution of each item to a convolution, for each tap.

    Args:
        items: `[V, in]`.
        taps: `[k, out, in]`; biases: `[k, out]`.

    Returns:
        `[k * V + 1, out]`: item v at tap j is row `j * V + v`; the last row is zero, for a tap outside the history.
    """
    products = [F.linear(items, tap, bias) for tap, bias in zip(taps, biases)]
    return torch.cat([*products, taps.new_zeros(1, taps.shape[1])])


def convolve_items(layout: Packed, items: Tensor, table: Tensor, k: int) -> Tensor:
    """`layout.convolve` of embedded items, by look-up.

    Args:
        items: `[N] int64`, packed.
        table: `[k * V + 1, out]`, from `tap_table`.
        k: the kernel size.

    Returns:
        `[N, out]`.

    Raises:
        IndexError: an item is not in the table.
    """
    nothing = len(table) - 1
    if items.max() >= nothing // k:  # its row would be one of the next tap
        raise IndexError(f"item {items.max()} is out of range: there are {nothing // k} items.")
    items = torch.cat([items, items.new_tensor([nothing])])[layout.neighbours(k)]  # [N, k]
    rows = items + torch.arange(k, device=items.device) * (nothing // k)
    return F.embedding_bag(rows.clamp(max=nothing), table, mode="sum")
