"""Comparing a kernel with its reference: the output and every gradient."""

from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Optional

import torch
from torch import Tensor


def undisturbed(differs: Callable[[], Optional[str]], device: torch.device) -> Optional[str]:
    """The result of `differs`, run in a separate thread with `device` as the current one.

    The check runs on first use, which may be anywhere; the inference mode, checkpointing and default device of the
    caller do not affect another thread.
    """

    def on_device():
        with torch.cuda.device(device if device.type == "cuda" else -1):
            return differs()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(on_device).result()


def difference(
    kernel: Callable, reference: Callable, tensors: dict[str, Tensor], device: torch.device, tolerance: float
) -> Optional[str]:
    """The first of output and gradients that differs from the reference, in words; None if all agree.

    Args:
        kernel, reference: take `tensors` by name and return a tensor.
        tensors: floating-point, on any device; copies of them are used on `device`.
        device: where both run, without autocast.
        tolerance: relative to the largest element of the tensor that is compared.
    """
    results = []
    with torch.enable_grad(), torch.autocast(device_type=device.type, enabled=False):
        for function in (kernel, reference):
            own = {name: tensor.clone().to(device).requires_grad_() for name, tensor in tensors.items()}
            out = function(**own)
            cotangent = torch.linspace(-1, 1, out.numel(), device=device).view(out.shape)
            results.append((out, *torch.autograd.grad((out * cotangent).sum(), list(own.values()))))
    names = ("the output", *(f"the gradient of {name}" for name in tensors))
    for name, actual, expected in zip(names, *results):
        if actual.shape != expected.shape:
            return f"{name} has shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
        error = (actual.float() - expected).abs().max() / expected.abs().max()
        if not error <= tolerance:  # NaN too
            return f"{name} is off by {error.item():.2g} of its largest element"
    return None
