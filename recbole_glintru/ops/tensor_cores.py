"""What the kernels that multiply on a GPU's tensor cores have in common: types, limits, and what is said of them."""

import contextlib
import threading
from typing import Callable, Optional

import torch
from torch import Tensor

from recbole_glintru.ops import self_check

LEAST_CAPABILITY = (8, 0)  # of a GPU: the first with tensor cores for bfloat16 and TF32
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


class _Tf32:
    """PyTorch's switch for float32 products, on for as long as any thread wants it."""

    def __init__(self):
        self.lock, self.threads, self.before = threading.Lock(), 0, None

    def __enter__(self):
        with self.lock:
            if self.threads == 0:
                self.before = self._switched("tf32", "high")
            self.threads += 1

    def __exit__(self, *error):
        with self.lock:
            self.threads -= 1
            if self.threads == 0:
                self._switched(self.before, self.before)

    @staticmethod
    def _switched(precision: str, older_name: str) -> str:
        """What it was; PyTorch 2.9's older names fail where somebody has used the new ones."""
        matmul = torch.backends.cuda.matmul
        if hasattr(matmul, "fp32_precision"):
            before, matmul.fp32_precision = matmul.fp32_precision, precision
        else:
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(older_name)
        return before


_TF32 = _Tf32()


def tf32_products(x: Tensor) -> contextlib.AbstractContextManager:
    """Let float32 products with x inside be TF32 ones on a GPU, as those inside cuDNN's GRU are by default.

    PyTorch has one switch for all threads: products of others are TF32 meanwhile.
    """
    return _TF32 if x.is_cuda and x.dtype == torch.float32 else contextlib.nullcontext()


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
        found = self_check.undisturbed(differs, device)
    except torch.cuda.OutOfMemoryError:  # which says nothing of the kernels, and is not to be remembered
        raise
    except ImportError as error:
        return f"Triton is not installed here, or does not load ({error})."
    except Exception as error:
        return f"they fail on {device} ({type(error).__name__}: {error})."
    return None if found is None else f"on {device} {found}."
