"""Where Triton starts a kernel."""

import contextlib

import torch
from torch import Tensor


def on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager:
    """A context in which the current GPU, on which Triton starts its kernels, is the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
