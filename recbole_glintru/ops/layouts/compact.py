"""A layout of histories for GPUs: only the real positions, one history after the other.

It has the methods of `Padded`, which are documented there. Nothing is computed for padding, as in `Packed`; but
neighbours in time are neighbours in memory, so that no operation runs step by step. Sums over a history
add its positions in order, so that the same input gives the same bits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops import tensor_cores
from recbole_glintru.ops.attention.reference import linear_attention, single_query_attention
from recbole_glintru.ops.convolution import triton_guard as convolution_guard
from recbole_glintru.ops.convolution.reference import convolution_reference
from recbole_glintru.ops.histories import host_lengths
from recbole_glintru.ops.layouts.linear_maps import linear_map


class Compact:
    """Positions `(N,)`: those of the first history, then those of the second one, and so on.

    Their number is needed on the host, once per batch (`host_lengths.py`).

    Attributes:
        lengths: `[B] int64`, in the order of the batch.
        starts: `[B] int64`, the first position of each history.
        ranks: `[N] int64`, which history a position belongs to; steps: `[N] int64`, its position in that history.
    """

    def __init__(self, lengths: Tensor, length: int):
        self.lengths, self.length = lengths, length
        self.starts = lengths.cumsum(0) - lengths
        count = int(host_lengths.of(lengths).sum())
        self.ranks = torch.repeat_interleave(lengths, output_size=count)
        self.steps = torch.arange(count, device=lengths.device) - self.starts[self.ranks]

    def sort(self, x: Tensor) -> Tensor:
        return x

    def restore(self, x: Tensor) -> Tensor:
        return x

    def arrange(self, x: Tensor) -> Tensor:
        return x[self.ranks, self.steps]

    def pad(self, x: Tensor) -> Tensor:
        padded = x.new_zeros(len(self.lengths), self.length, *x.shape[1:])
        return padded.index_put((self.ranks, self.steps), x)

    def spread(self, x: Tensor) -> Tensor:
        return linear_map(x, self._spread, self._collect)

    def collect(self, x: Tensor) -> Tensor:
        return linear_map(x, self._collect, self._spread)

    def contains(self, positions: Tensor) -> Tensor:
        return (positions >= 0) & (positions < self.lengths.unsqueeze(1))

    def at(self, x: Tensor, positions: Tensor) -> Tensor:
        count = len(self.ranks)
        places = torch.where(self.contains(positions), self.starts.unsqueeze(1) + positions, count)

        def look_up(x):
            return x[places.clamp(max=count - 1)]

        def put(grad):
            """Scatter without accumulation: places are distinct, except the overflow row, which is dropped."""
            whole = grad.new_zeros(count + 1, *grad.shape[2:])
            return whole.index_copy_(0, places.flatten(), grad.flatten(0, 1))[:count]

        return linear_map(x, look_up, put)

    def convolve(self, x: Tensor, taps: Tensor, biases: Tensor) -> Tensor:
        dtype = tensor_cores.product_type(x)
        if convolution_guard.are_usable(x.device, dtype, taps.shape):
            return convolution_guard.convolution(x, taps, biases, self, dtype)
        return convolution_reference(x, taps, biases, self)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, normalise: bool) -> Tensor:
        return single_query_attention(self, query, key, value, normalise)

    def attend_all(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.arrange(linear_attention(self.pad(query), self.pad(key), self.pad(value)))

    def previous(self, x: Tensor) -> Tensor:
        """x at the previous position, zero at the first one of a history: `[N, d]` -> `[N, d]`."""
        return F.pad(x[:-1], (0, 0, 1, 0)) * (self.steps > 0).unsqueeze(-1)

    def _spread(self, x):
        return x[self.ranks]

    def _collect(self, x):
        flat = x.reshape(len(x), -1).contiguous()
        sums = torch.segment_reduce(flat, "sum", lengths=self.lengths, axis=0, unsafe=True)
        return sums.view(-1, *x.shape[1:])
