"""Which convolution over time runs on a GPU: the fused kernels of `triton_kernels.py`, or the reference.

As with the GRU's kernels, the first use with a given device, shape and type compares them with the reference, on
outputs and gradients. If they cannot be used, one warning says why.
"""

import functools
import warnings
from typing import Optional

import torch
from torch import Tensor

from recbole_glintru.ops import self_check, tensor_cores
from recbole_glintru.ops.convolution.reference import convolution_reference

WIDTHS = (32, 256)  # of input and output
# Relative to the largest element. TF32 and float16 round factors and stored results to 2^-11, bfloat16 to 2^-8; a tap
# that is missing or reads the wrong position gives errors as large as the numbers themselves.
TOLERANCES = {torch.float32: 5e-3, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def are_usable(device: torch.device, dtype: torch.dtype, taps: torch.Size) -> bool:
    """Whether the kernels support taps `[k, out, in]` and are right; on a GPU a warning says why not."""
    return device.type == "cuda" and _objection(device, dtype, taps, tensor_cores.allows_tf32("conv")) is None


def convolution(x: Tensor, taps: Tensor, biases: Tensor, layout, dtype: torch.dtype) -> Tensor:
    """`triton_convolution`, imported when it is first needed. Arguments and result are the same."""
    from recbole_glintru.ops.convolution.triton_convolution import triton_convolution

    return triton_convolution(x, taps, biases, layout, dtype)


@functools.cache
def _objection(device: torch.device, dtype: torch.dtype, taps: torch.Size, allows_tf32: bool) -> Optional[str]:
    """Why the kernels cannot be used, or None; checked, and warned about, once per process."""
    objection = (
        tensor_cores.limits(device, dtype, allows_tf32)
        or _limits(taps)
        or self_check.missing("Triton", "triton")
        or self_check.failure("they", lambda: _differs(device, dtype, taps), device)
    )
    if objection is not None:
        warnings.warn(f"The convolution runs in PyTorch and not in the package's kernels: {objection}", stacklevel=4)
    return objection


def _limits(taps):
    if not all(WIDTHS[0] <= width <= WIDTHS[1] for width in taps[1:]):
        return f"they are for widths from {WIDTHS[0]} to {WIDTHS[1]}, not {tuple(taps[1:])}."
    return None


def _differs(device: torch.device, dtype: torch.dtype, taps: torch.Size) -> Optional[str]:
    from recbole_glintru.ops.layouts.compact import Compact

    k, out, width = taps
    borders = [1, 2 * k, k // 2 + 1, 150]  # close together and far apart, in two programs of the output
    # On a GPU so many positions that a program sums several blocks of them; sequential programs need no such test.
    more = 150 if device.type == "cuda" else 0
    lengths = torch.tensor(borders + more * [150])
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator, dtype=torch.float32).mul_(scale)

    tensors = {
        "x": draw(int(lengths.sum()), width),
        "taps": draw(k, out, width, scale=(k * width) ** -0.5),
        "biases": draw(k, out),
    }
    layout = Compact(lengths.to(device), 150)

    def kernel(x, taps, biases):
        return convolution(x, taps, biases, layout, dtype).float()

    def reference(x, taps, biases):
        return convolution_reference(x, taps, biases, layout)

    return self_check.difference(kernel, reference, tensors, device, TOLERANCES[dtype])
