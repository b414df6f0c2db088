"""The layout of RecBole's batches: all positions up to the longest history, padding included.

The docstrings of its methods apply to every layout.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops.attention.reference import linear_attention, single_query_attention


class Padded:
    """Positions `(B, L)`, of which `lengths` `[B] int64` are real in each row; the others are computed but not read."""

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
        """`[B, ...]` -> a tensor that broadcasts with `[*P, ...]`: each position has the row of its history."""
        return x.unsqueeze(1)

    def collect(self, x: Tensor) -> Tensor:
        """`[*P, ...]` -> `[B, ...]`: the sum over the real positions of each history."""
        return (x * self._mask_for(x)).sum(dim=1)

    def contains(self, positions: Tensor) -> Tensor:
        """Whether each history has these positions: `[B, T] int64` -> `[B, T] bool`."""
        return (positions >= 0) & (positions < self.lengths.unsqueeze(1))

    def at(self, x: Tensor, positions: Tensor) -> Tensor:
        """Distinct positions of each history: x `[*P, d]`, positions `[B, T] int64` -> `[B, T, d]`.

        The result is undefined for positions that the history does not have.
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
        """Linear attention of one query per history: sum_t (q . elu(k_t) / n_t) v_t over its positions.

        Args:
            query: `[B, h, e]`, with h heads; key, value: `[*P, h, e]`.
            normalise: whether n_t is the norm of elu(k_t); otherwise it is 1.

        Returns:
            `[B, h, e]`.
        """
        return single_query_attention(self, query, key, value, normalise)

    def attend_all(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Linear attention of every position: y_t = sum_s (q_t . k_s) v_s over its history, `[*P, h, e]` each."""
        return linear_attention(query, key * self._mask_for(key), value)

    def _mask_for(self, x: Tensor) -> Tensor:
        return self.mask.reshape(*self.mask.shape, *(1 for _ in x.shape[2:]))
