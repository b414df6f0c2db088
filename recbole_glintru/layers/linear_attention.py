"""L2-normalised linear attention (LinRec, arXiv:2411.01537, and the attention expert of GLINT-RU, eq. 2)."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from recbole_glintru.ops.attention.reference import NORM_FLOOR
from recbole_glintru.ops.layouts.choice import Layout
from recbole_glintru.ops.precision import at_least_float32, float32_region


class LinearAttention(nn.Module):
    """Multi-head attention without a softmax: A'(Q, K, V) = norm(elu(Q)) (norm(elu(K))^T V), cost linear in L.

    Not causal: every query sees all valid positions.

    Args:
        hidden_size: d.
        n_heads: h, a divisor of d; head i has the channels i*d/h to (i+1)*d/h.
        key_norm: `position` normalises each key over its head's channels and divides by sqrt(d/h), as the published
            code does; `sequence` normalises each channel over the valid positions, with LinRec's factors, as the
            paper writes it.
    """

    def __init__(self, hidden_size: int, n_heads: int, key_norm: str = "position"):
        super().__init__()
        self.n_heads = n_heads
        self.key_norm = key_norm
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Every position is a query and sees every position of its history: `[*P, d]` -> `[*P, d]`.

        Float32 under autocast, because the sum over positions loses too much in half precision.
        """
        query, key, value = (self._heads(linear, x) for linear in (self.query, self.key, self.value))
        with float32_region(x):
            query, key = F.elu(query), F.elu(key)
            query = _unit(query) / math.sqrt(query.shape[-1])
            if self.key_norm == "position":
                key = _unit(key)
            else:
                query = query / layout.spread(_sequence_norm(layout.collect(key.square()), layout.lengths))
            return layout.attend_all(query, key, value).flatten(-2)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """K, before ELU, and V: `[..., d]` -> two of `[..., h, d/h]`, in float32 under autocast."""
        return self._heads(self.key, x), self._heads(self.value, x)

    def at_query(self, key: Tensor, value: Tensor, layout: Layout, queries: Tensor) -> Tensor:
        """One query per history, which sees every position of it.

        Args:
            key, value: `[*P, h, d/h]`, of `keys_and_values`.
            layout: the layout of those positions.
            queries: `[B, d]`, the states of the queries, in the layout's order.

        Returns:
            `[B, d]`, in float32 under autocast.
        """
        query = self._heads(self.query, queries)
        with float32_region(queries):
            query = _unit(F.elu(query)) / math.sqrt(query.shape[-1])
            if self.key_norm == "sequence":
                query = query / _sequence_norm(layout.collect(F.elu(key).square()), layout.lengths)
            return layout.attend(query, key, value, normalise=self.key_norm == "position").flatten(-2)

    def _heads(self, linear: nn.Linear, x: Tensor) -> Tensor:
        return at_least_float32(linear(x)).unflatten(-1, (self.n_heads, -1))  # [..., h, d/h]


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1, eps=NORM_FLOOR)


def _sequence_norm(squares: Tensor, lengths: Tensor) -> Tensor:
    """sqrt(n) times the norm of each channel over the n positions, from the sum of its squares, `[B, ...]`."""
    lengths = lengths.to(squares.dtype).reshape(-1, *(1 for _ in squares.shape[1:]))
    # The floor comes first, because the root has no gradient at zero.
    return squares.clamp(min=NORM_FLOOR**2).sqrt() * lengths.sqrt()
