"""What the kernels that use a GPU's tensor cores have in common: the types of factors, and what excludes their use."""

import contextlib
import threading
from typing import Optional

import torch
from torch import Tensor

LEAST_CAPABILITY = (8, 0)  # compute capability: the first with tensor cores for bfloat16 and TF32
TYPES = (torch.float32, torch.float16, torch.bfloat16)


def product_type(x: Tensor) -> torch.dtype:
    """The type of the factors of a product with x: that of autocast, if it applies, or x's own."""
    if x.dtype != torch.float32 or not x.is_cuda or not torch.is_autocast_enabled():
        return x.dtype
    if hasattr(torch, "get_autocast_dtype"):
        return torch.get_autocast_dtype("cuda")
    return torch.get_autocast_gpu_dtype()  # PyTorch before 2.4


def allows_tf32(operation: str) -> bool:
    """Whether float32 products may use TF32, by PyTorch's own setting for `operation`, "rnn" or "conv".

    PyTorch 2.9 has a setting for each; its older one for both fails once one of the new ones has been used.
    """
    own = getattr(torch.backends.cudnn, operation, None)
    if hasattr(own, "fp32_precision"):
        return own.fp32_precision == "tf32"
    return torch.backends.cudnn.allow_tf32


class _Tf32:
    """PyTorch's setting for TF32 products, on for as long as any thread needs it."""

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
        """Set the precision, return the previous one; PyTorch 2.9's older names fail once a new one has been used."""
        matmul = torch.backends.cuda.matmul
        if hasattr(matmul, "fp32_precision"):
            before, matmul.fp32_precision = matmul.fp32_precision, precision
        else:
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(older_name)
        return before


_TF32 = _Tf32()


def tf32_products(x: Tensor) -> contextlib.AbstractContextManager:
    """A context in which float32 products with x use TF32 on a GPU, as those inside cuDNN's GRU do by default.

    PyTorch's setting is shared by all threads: meanwhile the products of other threads use TF32 too.
    """
    return _TF32 if x.is_cuda and x.dtype == torch.float32 else contextlib.nullcontext()


def limits(device: torch.device, dtype: torch.dtype, allows_tf32: bool) -> Optional[str]:
    """Why factors of this type cannot be used on a device, or None if they can."""
    if dtype not in TYPES:
        return f"they do not support {dtype}."
    if dtype == torch.float32 and not allows_tf32:
        return "torch.backends.cudnn.allow_tf32 is off, and their float32 products use TF32."
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than Ampere."
    return None
