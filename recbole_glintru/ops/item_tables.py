"""What a model computes of an item alone, computed once for all histories while the weights stay as they are."""

from collections.abc import Sequence
from typing import Callable, Optional, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops.layouts import Packed

LARGEST = 1 << 28  # bytes of the tables of one model: a larger catalogue is computed history by history
T = TypeVar("T")


class ItemTables:
    """Tables of one model, made once they have become the cheaper way, and never older than the weights.

    Until as many positions have been encoded as there are items, the tables would cost more than they save: a single
    request does not wait for them. The weights are compared with a copy, value by value, every time: a tenth of a
    millisecond, and nothing that changes them, in whatever way, can be missed.
    """

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        """Free all memory, as before training."""
        self._weights: Optional[list[Tensor]] = None
        self._tables = None
        self._positions = 0

    def find(self, weights: Sequence[Tensor], items: int, positions: int, compute: Callable[[], T]) -> Optional[T]:
        """The tables, or None where they do not pay yet.

        Args:
            weights: what the tables depend on.
            items: the number of rows of a table.
            positions: how many of them are about to be looked up.
            compute: makes the tables.
        """
        if self._weights is None or not all(map(_same, weights, self._weights)):
            self.forget()
            self._weights = [weight.detach().clone() for weight in weights]
        self._positions += positions
        if self._tables is None and self._positions >= items:
            self._tables = compute()
        return self._tables

    def __reduce__(self):
        """Copies of a model, and files of it, begin without tables."""
        return type(self), ()


def _same(weight: Tensor, copy: Tensor) -> bool:
    return weight.dtype == copy.dtype and torch.equal(weight, copy)  # which finds 0.5 equal in any two types


def tap_table(items: Tensor, taps: Tensor, biases: Tensor) -> Tensor:
    """What each item adds to a convolution, by the tap that it meets.

    Args:
        items: `[V, in]`.
        taps: `[k, out, in]`; biases: `[k, out]`.

    Returns:
        `[k * V + 1, out]`: item v at tap j is row `j * V + v`; the last row is zero, for a tap that meets none.
    """
    products = [F.linear(items, tap, bias) for tap, bias in zip(taps, biases)]
    return torch.cat([*products, taps.new_zeros(1, taps.shape[1])])


def convolve_items(layout: Packed, items: Tensor, table: Tensor, k: int) -> Tensor:
    """`layout.convolve` of embedded items, by look-up.

    Args:
        items: `[N] int64`, packed.
        table: `[k * V + 1, out]`, of `tap_table`.
        k: the kernel size.

    Returns:
        `[N, out]`.
    """
    nothing = len(table) - 1
    items = torch.cat([items, items.new_tensor([nothing])])[layout.neighbours(k)]  # [N, k]
    rows = items + torch.arange(k) * (nothing // k)
    return F.embedding_bag(rows.clamp(max=nothing), table, mode="sum")
