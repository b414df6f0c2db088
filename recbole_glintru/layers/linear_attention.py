"""L2-normalised linear attention (LinRec, and the attention expert of GLINT-RU, eq. 2)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_glintru.ops.precision import at_least_float32, float32_region

NORM_FLOOR = 1e-12  # below it a vector counts as zero, and its normalised value is zero instead of NaN


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

    def forward(self, x: Tensor, mask: Tensor, queries: Tensor) -> Tensor:
        """Attend from `queries` to the valid positions of `x`.

        Args:
            x: `[B, L, d]`.
            mask: `[B, L] bool`, False where a position must not be seen.
            queries: `[B, T, d]`, the positions that ask; T = 1 costs L*d instead of L*d*d/h a row.

        Returns:
            `[B, T, d]`, in float32 under autocast: the sum over positions loses too much in half precision.
        """
        query, key, value = (
            at_least_float32(projection(source)).unflatten(-1, (self.n_heads, -1))  # [B, L or T, h, d/h]
            for projection, source in ((self.query, queries), (self.key, x), (self.value, x))
        )
        with float32_region(x):
            query, key = self._normalise(query, key, mask[:, :, None, None])
            if query.shape[1] == 1:
                weights = torch.einsum("bthe,blhe->bhl", query, key)
                context = torch.einsum("bhl,blhf->bhf", weights, value).unsqueeze(1)
            else:
                sums = torch.einsum("blhe,blhf->bhef", key, value)
                context = torch.einsum("bthe,bhef->bthf", query, sums)
        return context.flatten(-2)

    def _normalise(self, query: Tensor, key: Tensor, mask: Tensor):
        scale = math.sqrt(query.shape[-1])
        query = F.normalize(F.elu(query), dim=-1, eps=NORM_FLOOR) / scale
        key = F.elu(key) * mask
        if self.key_norm == "position":
            return query, F.normalize(key, dim=-1, eps=NORM_FLOOR)
        steps = mask.sum(dim=1, keepdim=True).clamp(min=1)
        return query, F.normalize(key, dim=1, eps=NORM_FLOOR) / steps.sqrt()
