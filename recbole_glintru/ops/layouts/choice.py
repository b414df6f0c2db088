"""How the positions of a batch of histories are arranged in memory, and the few operations that depend on it.

A linear layer, an activation or dropout treats every position alike: it takes a tensor `[*P, d]` and need not know what
the positions P are. A layout does the rest: which position is where, sums over a history, neighbours in time, one
position of each history. Three layouts have the same methods:

* `Padded` (`padded.py`): P = (B, L), the form of RecBole's batches. For `torch.compile`, for export, and for LinRec,
  which runs on groups of similar length.
* `Packed` (`packed.py`): P = (N,), only the N real positions, one time step after the other and within each step the
  longest histories first. A step is one contiguous block, and the next step continues its first rows, so that a
  recurrence needs neither a mask nor a copy. No padding is computed. For CPUs.
* `Compact` (`compact.py`): the same N positions, one history after the other. For GPUs, which are slow at many small
  operations.

A layout may reorder the histories: `sort` brings tensors with one row per history into its order, `restore` back.
"""

from typing import Union

from torch import Tensor

from recbole_glintru.ops.layouts.compact import Compact
from recbole_glintru.ops.layouts.packed import Packed
from recbole_glintru.ops.layouts.padded import Padded
from recbole_glintru.ops.tracing import is_traced

Layout = Union[Padded, Packed, Compact]
_WITHOUT_PADDING = {"cpu": Packed, "cuda": Compact}


def choose_layout(lengths: Tensor, length: int) -> Layout:
    """The fastest layout for histories of `lengths` (`[B] int64`, each from 1 to `length`) on their device."""
    if not is_traced() and lengths.device.type in _WITHOUT_PADDING:
        return _WITHOUT_PADDING[lengths.device.type](lengths, length)
    return Padded(lengths, length)
