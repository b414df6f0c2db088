"""Whether the selective scan runs as Numba's loops (`numba_scan.py`): where Numba is installed and they agree.

As for the kernels of a GPU, the first use compares them with the reference, on outputs and gradients.
"""

import functools
import logging
import warnings
from typing import Optional

import torch

from recbole_glintru.ops import self_check
from recbole_glintru.ops.scan.numba_scan import numba_scan
from recbole_glintru.ops.tracing import is_traced

TOLERANCE = 1e-4  # of the largest element; both sides are float32


def is_usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether it runs on `device` and agrees with the reference; a warning says so if it does not.

    Args:
        dtype: of what is scanned; half precision is computed in float32.
    """
    return _objection(device, dtype) is None


def require(device: torch.device, dtype: torch.dtype) -> None:
    """Raise a RuntimeError that says why it cannot be used, if it cannot; arguments as of `is_usable`."""
    objection = _objection(device, dtype)
    if objection is not None:
        raise RuntimeError(f"scan_backend='numba': {objection} 'auto' and 'torch' do without it.")


def _objection(device: torch.device, dtype: torch.dtype) -> Optional[str]:
    if device.type != "cpu":
        return f"Numba's loops run on a CPU, and not on {device}."
    if is_traced():
        return "Numba's loops cannot be recorded by torch.compile, torch.export or torch.jit.trace."
    if dtype == torch.float64:
        return "Numba's loops have no float64."
    return _failure()


@functools.cache
def _failure() -> Optional[str]:
    """What speaks against the loops, or None; found out once a process, which compiles them."""
    try:
        import numba  # noqa: F401
    except Exception as error:
        return f"Numba is not installed here, or does not load ({error})."
    compiler = logging.getLogger("numba")
    if compiler.level == logging.NOTSET:  # RecBole's `state: DEBUG` is the root logger's: 30,000 lines of Numba's
        compiler.setLevel(logging.WARNING)
    try:
        difference = self_check.undisturbed(_differs, torch.device("cpu"))
    except Exception as error:
        objection = f"Numba's loops fail here ({type(error).__name__}: {error})."
    else:
        if difference is None:
            return None
        objection = f"Numba's loops do not compute what they should here: {difference}."
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
