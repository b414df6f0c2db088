"""The device on which Triton starts a kernel."""

import contextlib

import torch
from torch import Tensor


def on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager:
    """A context that makes the GPU of a tensor the current one, on which Triton starts its kernels."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
