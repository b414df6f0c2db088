"""How the positions of a batch of histories lie in memory, and the few operations that depend on it.

A linear layer, an activation or dropout treats every position alike: it takes a tensor `[*P, d]` and need not know what
the positions P are. A layout holds the rest: what stands where, sums over a history, neighbours in time, one position
of each history. Three layouts answer to the same methods:

* `Padded` (`padded.py`): P = (B, L), as RecBole's batches come. For `torch.compile`, for export, and for LinRec, which
  runs on groups of like length.
* `Packed` (`packed.py`): P = (N,), the N real positions alone, one time step after the other and in each step the
  longest histories first. A step is one contiguous block, and the next one continues its first rows, so that a
  recurrence needs neither a mask nor a copy. No padding is computed. For CPUs.
* `Compact` (`compact.py`): the same N positions, one history after the other. For GPUs, which are slow at many small
  operations.

Tensors with one row per history have the layout's order inside it: `sort` brings them there, `restore` back.
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
    """The layout that is fastest for histories of `lengths` (`[B] int64`, each from 1 to `length`)."""
    if not is_traced() and lengths.device.type in _WITHOUT_PADDING:
        return _WITHOUT_PADDING[lengths.device.type](lengths, length)
    return Padded(lengths, length)
