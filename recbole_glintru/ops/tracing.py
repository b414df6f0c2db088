"""Whether operations are being traced, so that control flow must not depend on the values of tensors."""

import torch

if hasattr(torch.compiler, "is_compiling"):
    is_compiling = torch.compiler.is_compiling
else:  # PyTorch 2.2
    from torch._utils import is_compiling


__all__ = ["is_compiling", "is_traced"]


def is_traced() -> bool:
    """True inside `torch.compile`, `torch.export` and `torch.jit.trace`, and so in ONNX export."""
    return is_compiling() or torch.jit.is_tracing()
