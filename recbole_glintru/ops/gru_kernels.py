"""Which GRU runs on a GPU: the fused kernels of `triton_gru`, or cuDNN's through PyTorch.

A compiler's mistake would be a wrong number without a word, so that the first use of the kernels on a device, at a
width and in a type, compares them with the reference, on outputs and gradients. Where they cannot be used, a warning
says so once, and why.
"""

import functools
import warnings
from typing import Optional

import torch
from torch import Tensor

from recbole_glintru.ops import self_check
from recbole_glintru.ops.gru import gru_reference
from recbole_glintru.ops.layouts import Layout, Padded

WIDTHS = (32, 256)  # of the hidden state
LEAST_CAPABILITY = (8, 0)  # of a GPU: the first with matrix units for bfloat16 and TF32
# Of the largest element. TF32 and float16 round factors to 2^-11, bfloat16 to 2^-8, and errors add up over the steps;
# what a wrong kernel computes is off by the size of the numbers themselves.
TOLERANCES = {torch.float32: 2e-2, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def product_type(x: Tensor) -> torch.dtype:
    """The type of the factors of products: autocast's, or x's own."""
    if x.dtype != torch.float32 or not x.is_cuda or not torch.is_autocast_enabled():
        return x.dtype
    if hasattr(torch, "get_autocast_dtype"):
        return torch.get_autocast_dtype("cuda")
    return torch.get_autocast_gpu_dtype()  # PyTorch before 2.4


def are_usable(device: torch.device, dtype: torch.dtype, hidden_size: int, bias: bool) -> bool:
    """Whether the kernels can take a GRU layer and agree with the reference; on a GPU a warning says why not."""
    return device.type == "cuda" and _objection(device, dtype, hidden_size, bias, _allows_tf32()) is None


def gru(x: Tensor, layout: Layout, weight_ih: Tensor, weight_hh: Tensor, dtype: torch.dtype) -> Tensor:
    """`triton_gru.triton_gru`, imported when it is needed."""
    from recbole_glintru.ops.triton_gru import triton_gru

    return triton_gru(x, layout, weight_ih, weight_hh, dtype)


def _allows_tf32() -> bool:
    return torch.backends.cudnn.allow_tf32


@functools.cache
def _objection(
    device: torch.device, dtype: torch.dtype, hidden_size: int, bias: bool, allows_tf32: bool
) -> Optional[str]:
    """What speaks against the kernels, or None; found out, and said, once a process."""
    objection = _limits(device, dtype, hidden_size, bias, allows_tf32)
    if objection is None:
        try:
            found = _differs(device, dtype, hidden_size)
        except ImportError as error:
            objection = f"Triton is not installed here, or does not load ({error})."
        except Exception as error:
            objection = f"they fail on {device} ({type(error).__name__}: {error})."
        else:
            objection = None if found is None else f"on {device} {found}."
    if objection is not None:
        warnings.warn(f"The GRU runs in cuDNN and not in the package's kernels: {objection}", stacklevel=4)
    return objection


def _limits(device, dtype, hidden_size, bias, allows_tf32):
    if dtype not in TOLERANCES:
        return f"they have no {dtype}."
    if dtype == torch.float32 and not allows_tf32:
        return "torch.backends.cudnn.allow_tf32 is off, and their float32 products are TF32."
    if not WIDTHS[0] <= hidden_size <= WIDTHS[1]:
        return f"they are for hidden sizes from {WIDTHS[0]} to {WIDTHS[1]}, not {hidden_size}."
    if bias:
        return "they have no biases."
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than Ampere."
    return None


def _differs(device: torch.device, dtype: torch.dtype, hidden_size: int) -> Optional[str]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator).mul_(scale)

    scale = hidden_size**-0.5
    tensors = {
        "x": draw(19, 6, hidden_size),
        "weight_ih": draw(3 * hidden_size, hidden_size, scale=scale),
        "weight_hh": draw(3 * hidden_size, hidden_size, scale=scale),
    }
    lengths = (torch.arange(19) % 6 + 1).to(device)

    def kernel(x, weight_ih, weight_hh):
        return gru(x, Padded(lengths, 6), weight_ih, weight_hh, dtype).float()

    def reference(x, weight_ih, weight_hh):
        return gru_reference(x, lengths, weight_ih, weight_hh)

    return self_check.difference(kernel, reference, tensors, device, TOLERANCES[dtype])
