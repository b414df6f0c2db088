"""The convolution over time of compact histories (`layouts/compact.py`), by PyTorch operations on whole tensors."""

import torch.nn.functional as F
from torch import Tensor


def convolution_reference(x: Tensor, taps: Tensor, biases: Tensor, layout) -> Tensor:
    """`Compact.convolve` as one product for all taps, followed by sums of shifted tensors.

    Args:
        x: `[N, in]`.
        taps: `[k, out, in]`, odd k; biases: `[k, out]`.
        layout: a `Compact` of those N positions.

    Returns:
        `[N, out]`.
    """
    products = F.linear(x, taps.flatten(0, 1), biases.flatten()).unflatten(-1, taps.shape[:2])  # [N, k, out]
    reach = len(taps) // 2
    total = products[:, reach]
    remaining = layout.lengths[layout.ranks] - 1 - layout.steps  # later positions of the same history
    for distance in range(1, min(reach, len(x) - 1) + 1):
        after = F.pad(products[distance:, reach + distance], (0, 0, 0, distance))
        before = F.pad(products[:-distance, reach - distance], (0, 0, distance, 0))
        total = total + after * (remaining >= distance).unsqueeze(-1)
        total = total + before * (layout.steps >= distance).unsqueeze(-1)
    return total
