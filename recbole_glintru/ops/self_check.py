"""Whether a kernel computes what its reference does, on outputs and on every gradient."""

from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Optional

import torch
from torch import Tensor


def undisturbed(differs: Callable[[], Optional[str]], device: torch.device) -> Optional[str]:
    """What `differs` returns, in a thread of its own on `device`.

    The first use may be anywhere: the caller's inference mode, checkpointing and default device do not reach there.
    """

    def on_device():
        with torch.cuda.device(device if device.type == "cuda" else -1):
            return differs()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(on_device).result()


def difference(
    kernel: Callable, reference: Callable, tensors: dict[str, Tensor], device: torch.device, tolerance: float
) -> Optional[str]:
    """The first of output and gradients in which a kernel departs from its reference, in words; None if none does.

    Args:
        kernel, reference: take `tensors` by name and return a tensor.
        tensors: floating-point, on any device; copies of them are used on `device`.
        device: where both run, without autocast.
        tolerance: of the largest element of what is compared.
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
            return f"{name} has shape {tuple(actual.shape)} in place of {tuple(expected.shape)}"
        error = (actual.float() - expected).abs().max() / expected.abs().max()
        if not error <= tolerance:  # NaN too
            return f"{name} is off by {error.item():.2g} of its largest element"
    return None
