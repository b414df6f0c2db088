"""Which GRU runs on a GPU: the fused kernels of `triton_kernels.py`, or cuDNN's through PyTorch.

A compiler bug would silently give wrong numbers. So the first use of the kernels with a given device, width and type
compares them with the reference, on outputs and gradients, in both layouts that are used on a GPU, as each is compiled
separately. If the kernels cannot be used, one warning says why.
"""

import functools
import warnings
from typing import Optional

import torch
from torch import Tensor

from recbole_glintru.ops import self_check, tensor_cores
from recbole_glintru.ops.gru.reference import gru_reference
from recbole_glintru.ops.layouts.choice import Layout
from recbole_glintru.ops.layouts.compact import Compact
from recbole_glintru.ops.layouts.padded import Padded

WIDTHS = (32, 256)  # of the hidden state
# Relative to the largest element. TF32 and float16 round factors to 2^-11, bfloat16 to 2^-8, and errors add up over the
# steps; a wrong kernel gives errors as large as the numbers themselves.
TOLERANCES = {torch.float32: 2e-2, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def are_usable(device: torch.device, dtype: torch.dtype, hidden_size: int, bias: bool) -> bool:
    """Whether the kernels support a GRU layer and agree with the reference; on a GPU a warning says why not."""
    if device.type != "cuda":
        return False
    return _objection(device, dtype, hidden_size, bias, tensor_cores.allows_tf32("rnn")) is None


def gru(x: Tensor, layout: Layout, weight_ih: Tensor, weight_hh: Tensor, dtype: torch.dtype) -> Tensor:
    """`triton_gru`, imported when it is first needed. Arguments and result are the same."""
    from recbole_glintru.ops.gru.triton_gru import triton_gru

    return triton_gru(x, layout, weight_ih, weight_hh, dtype)


@functools.cache
def _objection(
    device: torch.device, dtype: torch.dtype, hidden_size: int, bias: bool, allows_tf32: bool
) -> Optional[str]:
    """Why the kernels cannot be used, or None; checked, and warned about, once per process."""
    objection = (
        tensor_cores.limits(device, dtype, allows_tf32)
        or _limits(hidden_size, bias)
        or self_check.missing("Triton", "triton")
        or self_check.failure("they", lambda: _differs(device, dtype, hidden_size), device)
    )
    if objection is not None:
        warnings.warn(f"The GRU runs in cuDNN and not in the package's kernels: {objection}", stacklevel=4)
    return objection


def _limits(hidden_size, bias):
    if not WIDTHS[0] <= hidden_size <= WIDTHS[1]:
        return f"they are for hidden sizes from {WIDTHS[0]} to {WIDTHS[1]}, not {hidden_size}."
    return "they support no biases." if bias else None


def _differs(device: torch.device, dtype: torch.dtype, hidden_size: int) -> Optional[str]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator, dtype=torch.float32).mul_(scale)

    scale = hidden_size**-0.5
    tensors = {
        "x": draw(19, 6, hidden_size),
        "weight_ih": draw(3 * hidden_size, hidden_size, scale=scale),
        "weight_hh": draw(3 * hidden_size, hidden_size, scale=scale),
    }
    lengths = (torch.arange(19) % 6 + 1).to(device)

    def kernel(x, weight_ih, weight_hh):
        return layout.pad(gru(layout.arrange(x), layout, weight_ih, weight_hh, dtype).float())

    def reference(x, weight_ih, weight_hh):
        return gru_reference(x, lengths, weight_ih, weight_hh)

    for layout in (Padded(lengths, 6), Compact(lengths, 6)):
        found = self_check.difference(kernel, reference, tensors, device, TOLERANCES[dtype])
        if found is not None:
            return f"in the layout {type(layout).__name__} {found}"
    return None
