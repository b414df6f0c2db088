"""The CUDA kernels of mamba-ssm and causal-conv1d, if they are installed and give correct results.

Wheels of both packages exist that were built against other versions of PyTorch and CUDA than they run with, and then
silently compute wrong numbers. So the first use on a device compares them with the references, on outputs and
gradients, and a build that disagrees is not used.
"""

import functools
import warnings
from typing import Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops import self_check

TOLERANCE = 1e-3  # relative to the largest element; both sides are float32


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Optional[Tensor],
    z: Optional[Tensor],
    delta_bias: Optional[Tensor],
    delta_softplus: bool,
    return_last_state: bool,
) -> Union[Tensor, tuple[Tensor, Tensor]]:
    """`mamba_ssm`'s `selective_scan_fn`, called with the contiguity and the types that it requires.

    Arguments as in `selective_scan`, without lengths.

    Returns:
        `[B, D, L]` in u's type; with `return_last_state` a pair, with the states `[B, D, N]`, which have no gradient.
    """
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
    """Whether mamba-ssm's scan is installed and agrees with the reference on `device`; it warns if they disagree."""
    return _objection("scan", device) is None


def convolution_is_usable(device: torch.device) -> bool:
    """Whether causal-conv1d is installed and agrees with PyTorch on `device`; it warns if they disagree."""
    return _objection("convolution", device) is None


def require_scan(device: torch.device) -> None:
    """Raise a RuntimeError with the reason if mamba-ssm's scan cannot be used on `device`."""
    objection = _objection("scan", device)
    if objection is not None:
        raise RuntimeError(f"scan_backend='mamba_ssm': {objection} 'auto' and 'torch' work without it.")


@functools.cache
def _objection(kernel: str, device: torch.device) -> Optional[str]:
    """Why a kernel cannot be used on a device, or None; checked once per process."""
    package, modules, differs = CHECKS[kernel]
    objection = self_check.missing(package, *modules)
    if objection is not None:
        return objection
    objection = self_check.failure(f"{package}'s kernels", lambda: differs(device), device)
    if objection is not None:
        objection += " Its build may not match this PyTorch or CUDA."
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


# The package, the modules that it needs (the first is where a broken build fails), and how it is compared.
CHECKS = {
    "scan": ("mamba-ssm", ("selective_scan_cuda", "mamba_ssm.ops.selective_scan_interface"), _scan_differs),
    "convolution": ("causal-conv1d", ("causal_conv1d",), _convolution_differs),
}
