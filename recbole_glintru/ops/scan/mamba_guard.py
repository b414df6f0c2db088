"""The CUDA kernels of mamba-ssm and causal-conv1d, where they are installed and do what they should.

Wheels of both packages have been built against other versions of PyTorch and CUDA than they run with, and then
compute wrong numbers without a word. So the first use on a device compares them with the references, on outputs and
gradients, and a build that disagrees is not used.
"""

import functools
import warnings
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops import self_check

TOLERANCE = 1e-3  # of the largest element; both sides are float32


def scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state):
    """`mamba_ssm`'s `selective_scan_fn`, with the contiguity and the types that it wants."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    exact = [None if tensor is None else tensor.float() for tensor in (A, D, delta_bias)]
    same = [None if tensor is None else tensor.to(u.dtype).contiguous() for tensor in (u, delta, B, C, z)]
    u, delta, B, C, z = same
    with torch.autocast(device_type=u.device.type, enabled=False):
        return selective_scan_fn(u, delta, exact[0], B, C, exact[1], z, exact[2], delta_softplus, return_last_state)


def convolve(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`causal_conv1d`'s convolution with SiLU: u `[B, D, L]`, weight `[D, k]`, bias `[D]` -> `[B, D, L]`."""
    from causal_conv1d import causal_conv1d_fn

    return causal_conv1d_fn(u.contiguous(), weight.to(u.dtype), bias.to(u.dtype), activation="silu")


def scan_is_usable(device: torch.device) -> bool:
    """Whether mamba-ssm's scan is installed and agrees with the reference on `device`; it warns if it does not."""
    return _objection("scan", device) is None


def convolution_is_usable(device: torch.device) -> bool:
    """Whether causal-conv1d is installed and agrees with PyTorch on `device`; it warns if it does not."""
    return _objection("convolution", device) is None


def require_scan(device: torch.device) -> None:
    """Raise a RuntimeError that says why mamba-ssm's scan cannot be used on `device`, if it cannot."""
    objection = _objection("scan", device)
    if objection is not None:
        raise RuntimeError(f"scan_backend='mamba_ssm': {objection} 'auto' and 'torch' do without it.")


@functools.cache
def _objection(kernel: str, device: torch.device) -> Optional[str]:
    """What speaks against a kernel on a device, or None; found out once a process."""
    package = {"scan": "mamba-ssm", "convolution": "causal-conv1d"}[kernel]
    try:
        if kernel == "scan":
            import selective_scan_cuda  # noqa: F401  what a broken or missing build fails at
    except Exception as error:
        return f"{package} is not installed here, or does not load ({error})."
    try:
        differs = _scan_differs if kernel == "scan" else _convolution_differs
        difference = self_check.undisturbed(lambda: differs(device), device)
    except torch.cuda.OutOfMemoryError:  # which says nothing of the kernels, and is not to be remembered
        raise
    except ImportError as error:
        return f"{package} is not installed here, or does not load ({error})."
    except Exception as error:
        objection = f"{package} fails on {device} ({type(error).__name__}: {error})."
    else:
        if difference is None:
            return None
        objection = (
            f"{package} does not compute what it should on {device}: {difference}. Its build does not fit this "
            "PyTorch or CUDA."
        )
    warnings.warn(f"{objection} The package's own implementation is used instead.", stacklevel=4)
    return objection


def _scan_differs(device: torch.device) -> Optional[str]:
    from recbole_glintru.ops.scan.selective_scan import selective_scan

    rows, channels, states, length = 2, 24, 16, 150
    draw = _drawer()
    tensors = {
        "u": draw(rows, channels, length),
        "delta": draw(rows, channels, length),
        "A": -draw(channels, states).exp(),
        "B": draw(rows, states, length),
        "C": draw(rows, states, length),
        "D": draw(channels),
        "z": draw(rows, channels, length),
        "delta_bias": draw(channels),
    }

    def kernel(**arguments):
        return scan(**arguments, delta_softplus=True, return_last_state=False)

    def reference(**arguments):
        return selective_scan(**arguments, delta_softplus=True, backend="reference")

    return self_check.difference(kernel, reference, tensors, device, TOLERANCE)


def _convolution_differs(device: torch.device) -> Optional[str]:
    draw = _drawer()
    tensors = {"u": draw(2, 24, 150), "weight": draw(24, 4), "bias": draw(24)}

    def reference(u, weight, bias):
        return F.silu(F.conv1d(F.pad(u, (3, 0)), weight.unsqueeze(1), bias, groups=len(weight)))

    return self_check.difference(convolve, reference, tensors, device, TOLERANCE)


def _drawer():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float32)
