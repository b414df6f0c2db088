"""A layout of histories for CPUs: only the real positions, one time step after the other.

It has the methods of `Padded`, which are documented there. In each step the longest histories come first, so that a
step is one contiguous block, whose rows continue the first rows of the previous step.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops.attention.grouped_attention import grouped_attention
from recbole_glintru.ops.attention.packed_attention import packed_attention
from recbole_glintru.ops.convolution.packed_convolution import packed_convolution
from recbole_glintru.ops.layouts.linear_maps import linear_map
from recbole_glintru.ops.layouts.pieces import collect, spread


class Packed:
    """Positions `(N,)`: the real ones, ordered by step, and within a step by descending length of the history.

    Attributes:
        lengths: `[B] int64`, longest first.
        counts: for each step the number of histories that have it, which are the first ones of the previous step.
        ranks: `[N] int64`, which history, counted in the layout's order, a position belongs to.
        steps: `[N] int64`, its position in that history.
        starts: `[L + 1] int64`, the first position of each step.
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
        """Indices of the k positions around each position: `[N, k]`, N for those outside the history."""
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
