"""What the kernels that multiply on a GPU's matrix units have in common: types, limits, and what is said of them."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Callable, Optional

import torch
from torch import Tensor

LEAST_CAPABILITY = (8, 0)  # of a GPU: the first with matrix units for bfloat16 and TF32
TYPES = (torch.float32, torch.float16, torch.bfloat16)


def product_type(x: Tensor) -> torch.dtype:
    """The type of the factors of products: autocast's, or x's own."""
    if x.dtype != torch.float32 or not x.is_cuda or not torch.is_autocast_enabled():
        return x.dtype
    if hasattr(torch, "get_autocast_dtype"):
        return torch.get_autocast_dtype("cuda")
    return torch.get_autocast_gpu_dtype()  # PyTorch before 2.4


def allows_tf32(operation: str) -> bool:
    """Whether float32 products may be TF32 ones, where PyTorch's own decide: `operation` is "rnn" or "conv".

    PyTorch 2.9 has a switch for each, and its older one for both fails where somebody has used the new ones.
    """
    own = getattr(torch.backends.cudnn, operation, None)
    if hasattr(own, "fp32_precision"):
        return own.fp32_precision == "tf32"
    return torch.backends.cudnn.allow_tf32


@contextlib.contextmanager
def tf32_products(x: Tensor) -> Iterator[None]:
    """Let float32 products with x inside be TF32 ones on a GPU, as those inside cuDNN's GRU are by default."""
    if not x.is_cuda or x.dtype != torch.float32:
        yield
        return
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # PyTorch 2.9, whose older names fail where somebody has used the new ones
        before, set_to = matmul.fp32_precision, functools.partial(setattr, matmul, "fp32_precision")
        precision = "tf32"
    else:
        before, set_to = torch.get_float32_matmul_precision(), torch.set_float32_matmul_precision
        precision = "high"
    set_to(precision)
    try:
        yield
    finally:
        set_to(before)


def limits(device: torch.device, dtype: torch.dtype, allows_tf32: bool) -> Optional[str]:
    """What speaks against factors of a type on a device, or None."""
    if dtype not in TYPES:
        return f"they have no {dtype}."
    if dtype == torch.float32 and not allows_tf32:
        return "torch.backends.cudnn.allow_tf32 is off, and their float32 products are TF32."
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than Ampere."
    return None


def failure(differs: Callable[[], Optional[str]], device: torch.device) -> Optional[str]:
    """What comes out when kernels are tried on a device: None if they are right, else what is wrong with them.

    Args:
        differs: runs them, and returns what `self_check.difference` does.
        device: where.
    """
    try:
        found = differs()
    except ImportError as error:
        return f"Triton is not installed here, or does not load ({error})."
    except Exception as error:
        return f"they fail on {device} ({type(error).__name__}: {error})."
    return None if found is None else f"on {device} {found}."
