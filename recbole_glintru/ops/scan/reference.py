"""The recurrence of a selective scan as a plain loop over time."""

from typing import Optional

import torch
from torch import Tensor


def reference_scan(
    step: Tensor, drive: Tensor, A: Tensor, B: Tensor, C: Optional[Tensor], lengths: Optional[Tensor]
) -> tuple[Optional[Tensor], Tensor]:
    """The recurrence as a plain loop over time. Arguments and results as in `recomputed_scan`."""
    state = step.new_zeros(len(step), *A.shape)
    outputs = []
    for t in range(step.shape[1]):
        decay = torch.exp(step[:, t].unsqueeze(-1) * A)
        state = decay * state + drive[:, t].unsqueeze(-1) * B[:, t].unsqueeze(1)
        if C is not None:
            outputs.append((state * C[:, t].unsqueeze(1)).sum(dim=-1))
    return (None if C is None else torch.stack(outputs, dim=1)), state
