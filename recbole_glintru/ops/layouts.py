"""How the positions of a batch of histories lie in memory, and the few operations that depend on it.

A linear layer, an activation or dropout treats every position alike: it takes a tensor `[*P, d]` and need not know what
the positions P are. A layout holds the rest: what stands where, sums over a history, neighbours in time, one position
of each history. Three layouts answer to the same methods:

* `Padded`: P = (B, L), as RecBole's batches come. For `torch.compile`, for export, and for LinRec, which runs on groups
  of like length.
* `Packed`: P = (N,), the N real positions alone, one time step after the other and in each step the longest histories
  first. A step is one contiguous block, and the next one continues its first rows, so that a recurrence needs neither
  a mask nor a copy. No padding is computed. For CPUs.
* `Compact` (`compact.py`): the same N positions, one history after the other. For GPUs, which are slow at many small
  operations.

Tensors with one row per history have the layout's order inside it: `sort` brings them there, `restore` back.
"""

from typing import Union

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops.compact import Compact
from recbole_glintru.ops.grouped_attention import grouped_attention, linear_attention, single_query_attention
from recbole_glintru.ops.linear_maps import linear_map
from recbole_glintru.ops.packed_attention import packed_attention
from recbole_glintru.ops.packed_convolution import packed_convolution
from recbole_glintru.ops.pieces import collect, spread
from recbole_glintru.ops.tracing import is_traced


def choose(lengths: Tensor, length: int) -> "Layout":
    """The layout that is fastest for histories of `lengths` (`[B] int64`, each from 1 to `length`)."""
    if not is_traced() and lengths.device.type in _WITHOUT_PADDING:
        return _WITHOUT_PADDING[lengths.device.type](lengths, length)
    return Padded(lengths, length)


class Padded:
    """Positions `(B, L)`, of which `lengths` `[B] int64` are real in each row; the others are computed and not read."""

    def __init__(self, lengths: Tensor, length: int):
        self.lengths = lengths
        self.length = length
        self.mask = torch.arange(length, device=lengths.device) < lengths.unsqueeze(1)  # [B, L]

    def sort(self, x: Tensor) -> Tensor:
        """`[B, ...]` in the order of the batch -> in the layout's order."""
        return x

    def restore(self, x: Tensor) -> Tensor:
        """`[B, ...]` in the layout's order -> in the order of the batch."""
        return x

    def arrange(self, x: Tensor) -> Tensor:
        """`[B, L, ...]` in the order of the batch -> `[*P, ...]`."""
        return x

    def pad(self, x: Tensor) -> Tensor:
        """`[*P, ...]` -> `[B, L, ...]` in the order of the batch, zeros in the padding."""
        return x * self._mask_for(x)

    def spread(self, x: Tensor) -> Tensor:
        """`[B, ...]` -> what broadcasts with `[*P, ...]`: each position has its history's row."""
        return x.unsqueeze(1)

    def collect(self, x: Tensor) -> Tensor:
        """`[*P, ...]` -> `[B, ...]`: the sum over the real positions of each history."""
        return (x * self._mask_for(x)).sum(dim=1)

    def contains(self, positions: Tensor) -> Tensor:
        """Whether each history has these positions: `[B, T] int64` -> `[B, T] bool`."""
        return (positions >= 0) & (positions < self.lengths.unsqueeze(1))

    def at(self, x: Tensor, positions: Tensor) -> Tensor:
        """Different positions of each history: x `[*P, d]`, positions `[B, T] int64` -> `[B, T, d]`.

        What is returned for a position that the history does not have means nothing.
        """
        rows = torch.arange(len(x), device=x.device).unsqueeze(1)
        return x[rows, positions.clamp(0, self.length - 1)]

    def convolve(self, x: Tensor, taps: Tensor, biases: Tensor) -> Tensor:
        """A centred convolution over the positions of each history.

        Args:
            x: `[*P, in]`.
            taps: `[k, out, in]`, odd k; biases: `[k, out]`.

        Returns:
            `[*P, out]`: y_t = sum_j (taps[j] x_(t + j - (k-1)/2) + biases[j]) over the positions that the history has.
        """
        products = F.linear(x, taps.flatten(0, 1), biases.flatten()).unflatten(-1, taps.shape[:2])  # [B, L, k, out]
        reach = len(taps) // 2
        padded = F.pad(products * self._mask_for(products), (0, 0, 0, 0, reach, reach))
        return sum(padded[:, j : j + self.length, j] for j in range(len(taps)))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, normalise: bool) -> Tensor:
        """Linear attention of one query a history: sum_t (q . elu(k_t) / n_t) v_t over its positions.

        Args:
            query: `[B, h, e]`, of h heads; key, value: `[*P, h, e]`.
            normalise: n_t is the length of elu(k_t); otherwise 1.

        Returns:
            `[B, h, e]`.
        """
        return single_query_attention(self, query, key, value, normalise)

    def attend_all(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Linear attention of every position: y_t = sum_s (q_t . k_s) v_s over its history's, `[*P, h, e]` each."""
        return linear_attention(query, key * self._mask_for(key), value)

    def _mask_for(self, x: Tensor) -> Tensor:
        return self.mask.reshape(*self.mask.shape, *(1 for _ in x.shape[2:]))


class Packed:
    """Positions `(N,)`: the real ones, ordered by step and in each step by descending length of the history.

    Attributes:
        lengths: `[B] int64`, longest first.
        counts: for each step how many histories have it; they are the first so many of the step before.
        ranks: `[N] int64`, which history, counted in the layout's order, a position belongs to.
        steps: `[N] int64`, its position in that history.
        starts: `[L + 1] int64`, where each step begins.
    """

    def __init__(self, lengths: Tensor, length: int):
        self.lengths, self.order = torch.sort(lengths, descending=True, stable=True)
        self.length = length
        running = torch.arange(length, device=lengths.device).unsqueeze(1) < self.lengths  # [L, B]
        self.steps, self.ranks = running.nonzero(as_tuple=True)
        counts = running.sum(dim=1)
        self.counts = counts[counts > 0].tolist()
        self.starts = F.pad(counts.cumsum(0), (1, 0))

    def sort(self, x: Tensor) -> Tensor:
        return x[self.order]

    def restore(self, x: Tensor) -> Tensor:
        return torch.empty_like(x).index_copy(0, self.order, x)

    def arrange(self, x: Tensor) -> Tensor:
        return x[self.order[self.ranks], self.steps]

    def pad(self, x: Tensor) -> Tensor:
        padded = x.new_zeros(len(self.order), self.length, *x.shape[1:])
        return padded.index_put((self.order[self.ranks], self.steps), x)

    def spread(self, x: Tensor) -> Tensor:
        return linear_map(x, self._spread, self._collect)

    def collect(self, x: Tensor) -> Tensor:
        return linear_map(x, self._collect, self._spread)

    def contains(self, positions: Tensor) -> Tensor:
        return (positions >= 0) & (positions < self.lengths.unsqueeze(1))

    def at(self, x: Tensor, positions: Tensor) -> Tensor:
        return x[self.places(positions)]

    def places(self, positions: Tensor) -> Tensor:
        """Where positions of each history are: `[B, T] int64` -> `[B, T]`, 0 where the history has no such position."""
        ranks = torch.arange(len(positions), device=positions.device).unsqueeze(1)
        places = self.starts[positions.clamp(0, self.length - 1)] + ranks
        return torch.where(self.contains(positions), places, 0)

    def convolve(self, x: Tensor, taps: Tensor, biases: Tensor) -> Tensor:
        if taps.dtype != x.dtype:  # autocast: the input is a half-precision product, the parameters are not
            taps, biases = taps.to(x.dtype), biases.to(x.dtype)
        return packed_convolution(x, taps, biases, self.neighbours(len(taps)))

    def neighbours(self, k: int) -> Tensor:
        """Where the k positions around each position are: `[N, k]`, N for those that the history does not have."""
        steps = self.steps.unsqueeze(1) + torch.arange(k, device=self.steps.device) - k // 2
        inside = (steps >= 0) & (steps < self.lengths[self.ranks].unsqueeze(1))
        places = self.starts[steps.clamp(0, self.length - 1)] + self.ranks.unsqueeze(1)
        return torch.where(inside, places, len(self.ranks))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, normalise: bool) -> Tensor:
        return packed_attention(query, key, value, self.counts, normalise)

    def attend_all(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return grouped_attention(query, key, value, self.lengths, self.ranks, self.steps)

    def _spread(self, x):
        return spread(x, self.counts, out=x.new_empty(sum(self.counts), *x.shape[1:]))

    def _collect(self, x):
        return collect(x, self.counts, total=x.new_zeros(self.counts[0], *x.shape[1:]))


Layout = Union[Padded, Packed, Compact]
_WITHOUT_PADDING = {"cpu": Packed, "cuda": Compact}
