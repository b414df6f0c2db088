"""The package's own kernels of the selective scan, `triton_kernels.py`, if Triton is installed and they are right.

As with mamba-ssm's (`mamba_guard.py`), the first use on a device compares them with the reference, on outputs and
gradients: for each shape and type, since each is compiled separately.
"""

import functools
import warnings
from typing import Optional

import torch
from torch import Tensor

from recbole_glintru.ops import self_check

# Relative to the largest element. Sums are float32 on both sides; half precision rounds results to 2^-11 or 2^-8.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 4e-2}
WITH_TIME = ("u", "delta", "B", "C", "z")


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
    lengths: Optional[Tensor],
    last_only: bool = False,
) -> Tensor:
    """`triton_scan`, imported when it is first needed.

    Arguments as in `triton_scan`; returns `[B, D, L]`, or with `last_only` `[B, D]`, in u's type.
    """
    from recbole_glintru.ops.scan.triton_scan import triton_scan

    return triton_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, lengths, last_only)


def are_usable(device: torch.device, channels: int, states: int, dtype: torch.dtype, last_only: bool) -> bool:
    """Whether the kernels run on `device` and agree with the reference there; if not, a warning says why.

    Args:
        channels, states: D and N.
        dtype: the type of the inputs that have a time dimension.
        last_only: whether only the output at the last step is needed.
    """
    return _objection(device, channels, states, dtype, last_only) is None


def require(device: torch.device, channels: int, states: int, dtype: torch.dtype, last_only: bool) -> None:
    """Raise a RuntimeError with the reason if the kernels cannot be used; arguments as in `are_usable`."""
    objection = _objection(device, channels, states, dtype, last_only)
    if objection is not None:
        raise RuntimeError(f"scan_backend='triton': {objection} 'auto' and 'torch' work without it.")


@functools.cache
def _objection(device: torch.device, channels: int, states: int, dtype: torch.dtype, last_only: bool) -> Optional[str]:
    """Why the kernels cannot be used, or None; checked once per process for each case."""
    objection = self_check.missing("Triton", "triton")
    if objection is not None:
        return objection
    if dtype not in TOLERANCES:
        objection = f"the kernels do not support {dtype}."
    else:
        kernels = f"the kernels for {channels} channels of {states} states in {dtype}"
        objection = self_check.failure(kernels, lambda: _differs(device, channels, states, dtype, last_only), device)
    if objection is not None and device.type != "cpu":
        warnings.warn(f"Selective scan: {objection} Another implementation is used instead.", stacklevel=4)
    return objection


def _differs(device: torch.device, channels: int, states: int, dtype: torch.dtype, last_only: bool) -> Optional[str]:
    from recbole_glintru.ops.scan.selective_scan import selective_scan, selective_scan_last

    rows, length = 2, 18  # the last chunk of steps is not full
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float32)

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

    def rounded(arguments):
        return {name: tensor.to(dtype) if name in WITH_TIME else tensor for name, tensor in arguments.items()}

    def kernel(**arguments):
        return _real(scan(**rounded(arguments), delta_softplus=True, lengths=lengths, last_only=last_only)).float()

    def reference(**arguments):
        arguments = {name: tensor.float() for name, tensor in rounded(arguments).items()}
        options = {**arguments, "delta_softplus": True, "backend": "reference"}
        if last_only:
            return selective_scan_last(last=lengths - 1, **options)
        return _real(selective_scan(lengths=lengths, **options))

    def _real(y):
        return y if last_only else y * (torch.arange(length, device=device) < lengths.view(-1, 1, 1))

    return self_check.difference(kernel, reference, tensors, device, TOLERANCES[dtype])
