"""What a model computes of an item alone, computed once for all histories while the weights stay as they are."""

from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional, TypeVar

import torch
from torch import Tensor

LARGEST = 1 << 28  # bytes of the tables of one model: a larger catalogue is computed history by history
ITEMS_COMPARED = 8  # in the time that tables save at one position: 5 at width 64, 15 at width 128, on one core
T = TypeVar("T")


class _Made(NamedTuple):
    """Tables, and a copy of the weights that they were made of."""

    weights: list[Tensor]
    tables: Any


class ItemTables:
    """Tables of one model, made once they have become the cheaper way, and never older than the weights.

    Before tables are read, the weights are compared with a copy, value by value, so that nothing which changes them, in
    whatever way, can be missed. That costs a pass over all items: a call that looks up few of them does without tables.
    And before tables are made, as many positions have been encoded as there are items: they would cost more than they
    save.
    """

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        """Free all memory, as before training."""
        self._made: Optional[_Made] = None
        self._positions = 0

    def find(self, weights: Sequence[Tensor], items: int, positions: int, compute: Callable[[], T]) -> Optional[T]:
        """The tables, or None where they do not pay, or not yet.

        Args:
            weights: what the tables depend on.
            items: the number of rows of a table.
            positions: how many of them are about to be looked up.
            compute: makes the tables.
        """
        if positions * ITEMS_COMPARED < items:
            return None
        made = self._made  # read once: another thread may forget it
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
        """Copies of a model, and files of it, begin without tables."""
        return type(self), ()


def _same(weight: Tensor, copy: Tensor) -> bool:
    return weight.dtype == copy.dtype and torch.equal(weight, copy)  # which finds 0.5 equal in any two types
