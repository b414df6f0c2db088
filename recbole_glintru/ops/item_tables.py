"""Tables of what a model computes from an item alone, reused for all histories while the weights do not change."""

from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional, TypeVar

import torch
from torch import Tensor

LARGEST = 1 << 28  # bytes of the tables of one model; with a larger catalogue no tables are made
ITEMS_COMPARED = 8  # in the time that tables save at one position: 5 at width 64, 15 at width 128, on one core
T = TypeVar("T")


class _Made(NamedTuple):
    """Tables, and a copy of the weights from which they were computed."""

    weights: list[Tensor]
    tables: Any


class ItemTables:
    """Tables of one model, computed once they pay off, and never out of date.

    Before tables are read, the weights are compared with a copy, value by value, so that no change to them, however it
    is made, can be missed. That costs a pass over all items, so a call that looks up only a few does not use tables.
    Tables are not made before as many positions have been encoded as there are items: until then they would cost more
    than they save.
    """

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        """Free all memory, for example before training."""
        self._made: Optional[_Made] = None
        self._positions = 0

    def find(self, weights: Sequence[Tensor], items: int, positions: int, compute: Callable[[], T]) -> Optional[T]:
        """The tables, or None if they do not pay off, or not yet.

        Args:
            weights: what the tables depend on.
            items: the number of rows of a table.
            positions: how many rows are about to be looked up.
            compute: makes the tables.
        """
        if positions * ITEMS_COMPARED < items:
            return None
        made = self._made  # read once: another thread may call `forget`
        if made is not None and all(map(_same, weights, made.weights)):
            return made.tables
        if made is not None:
            self.forget()
        self._positions += positions
        if self._positions < items:
            return None
        self._made = made = _Made([weight.detach().clone() for weight in weights], compute())
        return made.tables

    def __reduce__(self):
        """Copies and saved files of a model start without tables."""
        return type(self), ()


def _same(weight: Tensor, copy: Tensor) -> bool:
    return weight.dtype == copy.dtype and torch.equal(weight, copy)  # `equal` alone ignores the type
