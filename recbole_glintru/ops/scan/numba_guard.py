"""Whether the selective scan runs as Numba's loops (`numba_scan.py`): if Numba is installed and the loops are right.

As with the GPU kernels, the first use compares them with the reference, on outputs and gradients.
"""

import functools
import logging
import warnings
from typing import Optional

import torch

from recbole_glintru.ops import self_check
from recbole_glintru.ops.scan.numba_scan import numba_scan
from recbole_glintru.ops.tracing import is_traced

TOLERANCE = 1e-4  # relative to the largest element; both sides are float32


def is_usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the loops run on `device` and agree with the reference; a warning is given if they fail or disagree.

    Args:
        device: the device of the tensors.
        dtype: their type; half precision is computed in float32.
    """
    return _objection(device, dtype) is None


def require(device: torch.device, dtype: torch.dtype) -> None:
    """Raise a RuntimeError with the reason if the loops cannot be used; arguments as in `is_usable`."""
    objection = _objection(device, dtype)
    if objection is not None:
        raise RuntimeError(f"scan_backend='numba': {objection} 'auto' and 'torch' work without it.")


def _objection(device: torch.device, dtype: torch.dtype) -> Optional[str]:
    if device.type != "cpu":
        return f"Numba's loops run on a CPU, not on {device}."
    if is_traced():
        return "Numba's loops cannot be recorded by torch.compile, torch.export or torch.jit.trace."
    if dtype == torch.float64:
        return "Numba's loops do not support float64."
    return _failure()


@functools.cache
def _failure() -> Optional[str]:
    """Why the loops cannot be used, or None; checked once per process, which also compiles them."""
    objection = self_check.missing("Numba", "numba")
    if objection is not None:
        return objection
    compiler = logging.getLogger("numba")
    if compiler.level == logging.NOTSET:  # else RecBole's `state: DEBUG`, set on the root logger, gives 30,000 lines
        compiler.setLevel(logging.WARNING)
    objection = self_check.failure("Numba's loops", _differs, torch.device("cpu"))
    if objection is not None:
        warnings.warn(f"Selective scan: {objection} Another implementation is used instead.", stacklevel=5)
    return objection


def _differs() -> Optional[str]:
    from recbole_glintru.ops.scan.selective_scan import SCANS

    rows, channels, states, length = 2, 40, 3, 18  # the last vector of channels and the last chunk are not full
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float32)

    tensors = {
        "u": draw(rows, length, channels),
        "delta": draw(rows, length, channels),
        "A": -draw(channels, states).exp(),
        "B": draw(rows, length, states),
        "C": draw(rows, length, states),
        "delta_bias": draw(channels),
    }

    def together(scan):
        return lambda **own: torch.cat([result.flatten() for result in scan(**own, delta_softplus=True)])

    device, reference = torch.device("cpu"), together(SCANS["reference"])
    return self_check.difference(together(numba_scan), reference, tensors, device, TOLERANCE)
