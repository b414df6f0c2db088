"""The package's own kernels of the selective scan, `triton_scan`, where Triton is installed and they agree.

As for `mamba_kernels`, the first use on a device compares them with the reference, on outputs and gradients.
"""

import functools
import warnings
from typing import Optional

import torch
from torch import Tensor

from recbole_glintru.ops import self_check

TOLERANCE = 1e-3  # of the largest element; both sides are float32


def scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, lengths, last_only: bool = False) -> Tensor:
    """`triton_scan.triton_scan`, imported when it is needed."""
    from recbole_glintru.ops.triton_scan import triton_scan

    return triton_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, lengths, last_only)


def are_usable(device: torch.device) -> bool:
    """Whether the kernels run on `device` and agree with the reference there; a warning says so if they do not."""
    return _objection(device) is None


def require(device: torch.device) -> None:
    """Raise a RuntimeError that says why the kernels cannot be used on `device`, if they cannot."""
    objection = _objection(device)
    if objection is not None:
        raise RuntimeError(f"scan_backend='triton': {objection} 'auto' and 'torch' do without it.")


@functools.cache
def _objection(device: torch.device) -> Optional[str]:
    """What speaks against the kernels on a device, or None; found out once a process."""
    try:
        import triton  # noqa: F401
    except Exception as error:
        return f"Triton is not installed here, or does not load ({error})."
    try:
        difference = _differs(device, last_only=False) or _differs(device, last_only=True)
    except Exception as error:
        objection = f"the kernels fail on {device} ({type(error).__name__}: {error})."
    else:
        if difference is None:
            return None
        objection = f"the kernels do not compute what they should on {device}: {difference}."
    if device.type != "cpu":
        warnings.warn(f"Selective scan: {objection} Another implementation is used instead.", stacklevel=4)
    return objection


def _differs(device: torch.device, last_only: bool) -> Optional[str]:
    from recbole_glintru.ops.selective_scan import selective_scan, selective_scan_last

    rows, channels, states, length = 2, 40, 2, 18  # neither channels nor steps fill their blocks
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    per_step = () if last_only else (length,)
    tensors = {
        "u": draw(rows, channels, length),
        "delta": draw(rows, channels, length),
        "A": -draw(channels, states).exp(),
        "B": draw(rows, states, length),
        "C": draw(rows, states, *per_step),
        "D": draw(channels),
        "z": draw(rows, channels, *per_step),
        "delta_bias": draw(channels),
    }
    lengths = torch.tensor([length, 3], device=device)

    def kernel(**arguments):
        return _real(scan(**arguments, delta_softplus=True, lengths=lengths, last_only=last_only))

    def reference(**arguments):
        options = {**arguments, "delta_softplus": True, "backend": "reference"}
        if last_only:
            return selective_scan_last(last=lengths - 1, **options)
        return _real(selective_scan(lengths=lengths, **options))

    def _real(y):
        return y if last_only else y * (torch.arange(length, device=device) < lengths.view(-1, 1, 1))

    return self_check.difference(kernel, reference, tensors, device, TOLERANCE)
