"""Keeping float32 where mixed precision would lose digits that matter."""

import torch
from torch import Tensor


def float32_region(x: Tensor) -> torch.autocast:
    """A context without autocast, for norms and long sums; cast their inputs with `at_least_float32`."""
    return torch.autocast(device_type=x.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def is_autocast(device_type: str) -> bool:
    """Whether autocast is on for tensors of this kind of device, "cpu" or "cuda"."""
    try:
        return torch.is_autocast_enabled(device_type)
    except TypeError:  # PyTorch before 2.4
        return torch.is_autocast_cpu_enabled() if device_type == "cpu" else torch.is_autocast_enabled()
