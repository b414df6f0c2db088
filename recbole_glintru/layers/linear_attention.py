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
            queries: `[B, T, d]`, the positions that ask.

        Returns:
            `[B, T, d]`, in float32 under autocast: the sum over positions loses too much in half precision.
        """
        query = at_least_float32(self.query(queries)).unflatten(-1, (self.n_heads, -1))  # [B, T, h, d/h]
        key = at_least_float32(self.key(x)).unflatten(-1, (self.n_heads, -1))  # [B, L, h, d/h]
        with float32_region(x):
            query, key, scale = self._normalise(query, key, mask)
            if query.shape[1] == 1:
                return self._one_query(query.squeeze(1), key, scale, at_least_float32(x))
        value = at_least_float32(self.value(x)).unflatten(-1, (self.n_heads, -1))
        with float32_region(x):
            sums = torch.einsum("blhe,blhf->bhef", key, value * scale.unsqueeze(-1))
            return torch.einsum("bthe,bhef->bthf", query, sums).flatten(-2)

    def _normalise(self, query: Tensor, key: Tensor, mask: Tensor):
        """Normalised queries, elu(keys), and what each key is still to be multiplied with, `[B, L, h]`.

        The norms go to the smaller side: into one number a key, or into the query.
        """
        query = F.normalize(F.elu(query), dim=-1, eps=NORM_FLOOR) / math.sqrt(query.shape[-1])
        key, mask = F.elu(key), mask.unsqueeze(-1)
        if self.key_norm == "position":
            return query, key, mask / torch.linalg.vector_norm(key, dim=-1).clamp(min=NORM_FLOOR)
        norm = torch.linalg.vector_norm(key * mask.unsqueeze(-1), dim=1, keepdim=True).clamp(min=NORM_FLOOR)
        steps = mask.sum(dim=1, dtype=key.dtype).clamp(min=1)[:, :, None, None]
        return query / (norm * steps.sqrt()), key, mask.to(key.dtype).expand(key.shape[:-1])

    def _one_query(self, query: Tensor, key: Tensor, scale: Tensor, x: Tensor) -> Tensor:
        """Query `[B, h, d/h]`: no value is needed but the weighted mean of them, and that is a projected mean of x.

        This spares the projection of all positions: L*h*d multiplications a row instead of L*d*d.
        """
        weights = torch.einsum("bhe,blhe->blh", query, key) * scale
        mean = torch.einsum("blh,bld->bhd", weights, x)
        value = at_least_float32(self.value.weight).unflatten(0, (self.n_heads, -1))  # [h, d/h, d]
        context = torch.einsum("bhd,hed->bhe", mean, value)
        bias = self.value.bias.unflatten(0, (self.n_heads, -1)) * weights.sum(dim=1).unsqueeze(-1)
        return (context + bias).flatten(-2).unsqueeze(1)
