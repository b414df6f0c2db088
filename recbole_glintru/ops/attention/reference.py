"""Linear attention with whole tensors: of one query per history over its positions, and of every position.

y_t = sum_s (q_t . k_s) v_s = q_t (sum_s k_s^T v_s)
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_FLOOR = 1e-12  # a smaller norm counts as zero, and the normalised value is zero instead of NaN


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Linear attention of padded histories, with zero keys in the padding: `[B, L, h, e]` each -> `[B, L, h, e]`."""
    sums = torch.einsum("blhe,blhf->bhef", key, value)
    return torch.einsum("blhe,bhef->blhf", query, sums)


def single_query_attention(layout, query: Tensor, key: Tensor, value: Tensor, normalise: bool) -> Tensor:
    """`Padded.attend` for any layout, by its `spread` and `collect`."""
    key = F.elu(key)
    weights = (layout.spread(query) * key).sum(dim=-1)
    if normalise:
        weights = weights / torch.linalg.vector_norm(key, dim=-1).clamp(min=NORM_FLOOR)
    return layout.collect(weights.unsqueeze(-1) * value)
