"""Whether a kernel may be used: its package loads, and the output and every gradient are the reference's."""

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Callable, Optional

import torch
from torch import Tensor


def missing(package: str, *modules: str) -> Optional[str]:
    """Import the modules of a package: a sentence that says why one of them cannot be, or None if all can."""
    try:
        for module in modules:
            import_module(module)
    except Exception as error:  # a build for another PyTorch or CUDA may raise anything
        return f"{package} is not installed or fails to load ({error})."
    return None


def failure(kernels: str, differs: Callable[[], Optional[str]], device: torch.device) -> Optional[str]:
    """Compare kernels with their reference on a device: what is wrong, as a sentence, or None if they are right.

    Args:
        kernels: what to call them in the sentence, in the plural.
        differs: runs them and returns the result of `difference`.
        device: the current one while it runs.

    Raises:
        torch.cuda.OutOfMemoryError: it says nothing about the kernels; as it is raised, callers do not cache it.
    """

    def on_device():
        with torch.cuda.device(device if device.type == "cuda" else -1):
            return differs()

    try:
        # The first use may be anywhere; the inference mode, checkpointing and default device of the caller do not
        # affect another thread.
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(on_device).result()
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        return f"{kernels} fail on {device} ({type(error).__name__}: {error})."
    return None if found is None else f"{kernels} give wrong results on {device}: {found}."


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
