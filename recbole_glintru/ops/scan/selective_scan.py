"""The selective scan of Mamba (Gu and Dao, arXiv:2312.00752, eq. 2 with the step sizes of section 3.2).

For every channel d and state n, in float32 or better,

    step_t = softplus(delta_t + delta_bias)
    s_t = exp(step_t A) * s_{t-1} + step_t u_t B_t,    s_{-1} = 0
    y_t = (C_t . s_t + D u_t) * SiLU(z_t).

Shapes and arguments are those of `mamba_ssm`, so that either can replace the other in a call. There are five backends:

* `reference`: the plain loop.
* `torch`: the same recurrence with few passes over memory, and a backward pass that recomputes (`recomputed_scan.py`).
* `numba`: the same as compiled loops on a CPU (`numba_scan.py`).
* `triton`: one kernel for the whole scan and one for its gradient (`triton_scan.py`).
* `mamba_ssm`: the CUDA kernels of that package.

`auto` takes `numba` on a CPU, and on a GPU the first of `mamba_ssm` and `triton`, provided that it is installed and
agrees with the reference there; otherwise `torch`.
"""

from functools import partial
from typing import Callable, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops.histories import host_lengths
from recbole_glintru.ops.histories.positions import at_position, valid_positions
from recbole_glintru.ops.precision import at_least_float32, float32_region
from recbole_glintru.ops.scan import mamba_guard, numba_guard, triton_guard
from recbole_glintru.ops.scan.numba_scan import numba_scan
from recbole_glintru.ops.scan.recomputed_scan import recomputed_scan
from recbole_glintru.ops.scan.reference import reference_scan
from recbole_glintru.ops.tracing import is_traced

BACKENDS = ("auto", "torch", "reference", "numba", "triton", "mamba_ssm")


def plain_scan(
    recurrence: Callable[..., tuple[Optional[Tensor], Tensor]],
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Optional[Tensor],
    delta_bias: Optional[Tensor] = None,
    delta_softplus: bool = False,
    lengths: Optional[Tensor] = None,
) -> tuple[Optional[Tensor], Tensor]:
    """What `numba_scan` computes, as PyTorch operations around a recurrence.

    Args:
        recurrence: `recomputed_scan` or `reference_scan`, or one with the same arguments and results.
        u, delta, A, B, C, delta_bias, delta_softplus, lengths: as in `numba_scan`.

    Returns:
        outputs `[B, L, D]`, undefined after a row's length, or None without C; the last state `[B, D, N]`.
    """
    step = _held(delta, delta_bias, delta_softplus, lengths)
    return recurrence(step, step * u, A, B, C, lengths)


SCANS = {
    "torch": partial(plain_scan, recomputed_scan),
    "reference": partial(plain_scan, reference_scan),
    "numba": numba_scan,
}


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Optional[Tensor] = None,
    z: Optional[Tensor] = None,
    delta_bias: Optional[Tensor] = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    lengths: Optional[Tensor] = None,
    backend: str = "auto",
) -> Union[Tensor, tuple[Tensor, Tensor]]:
    """The scan's output at every position.

    Args:
        u, delta: `[B, D, L]`.
        A: `[D, N]`, negative, while steps are not: if their product is above 88, an exponential overflows.
        B, C: `[B, N, L]`.
        D: `[D]`, the skip; z: `[B, D, L]`, the gate; delta_bias: `[D]`; each is omitted if None.
        delta_softplus: whether the step is the softplus of delta, or delta itself.
        return_last_state: also return the state after a row's last step.
        lengths: `[B] int64`, from 1 to L: backends that can do so skip the steps after a row's length.
        backend: one of `BACKENDS`.

    Returns:
        `[B, D, L]` in u's type, with `lengths` undefined after a row's length. With `return_last_state` a pair, with
        the states `[B, D, N]`, in float32 or better; with `mamba_ssm` their gradient is zero. `triton` leaves that case
        to `torch`.

    Raises:
        RuntimeError: `numba`, `triton` or `mamba_ssm` is requested and is not available or disagrees with the
            reference.
    """
    chosen = choose_backend(u, A, backend)
    if chosen == "triton" and return_last_state:
        chosen = "torch"
    if chosen == "triton":
        return triton_guard.scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, lengths)
    if chosen == "mamba_ssm":
        if lengths is not None and return_last_state:
            delta = _held(delta.transpose(1, 2), delta_bias, delta_softplus, lengths).transpose(1, 2)
            delta_bias, delta_softplus = None, False
        return mamba_guard.scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)
    with float32_region(u):
        out_dtype = u.dtype
        u, delta, A, B, C, delta_bias = _at_least_float32(u, delta, A, B, C, delta_bias)
        u, delta, B, C = (tensor.transpose(1, 2) for tensor in (u, delta, B, C))
        y, state = SCANS[chosen](u, delta, A, B, C, delta_bias, delta_softplus, lengths)
        y = _skip_and_gate(y, u, D, None if z is None else z.transpose(1, 2))
    y = y.transpose(1, 2).to(out_dtype)
    return (y, state) if return_last_state else y


def selective_scan_last(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    last: Tensor,
    D: Optional[Tensor] = None,
    z: Optional[Tensor] = None,
    delta_bias: Optional[Tensor] = None,
    delta_softplus: bool = False,
    backend: str = "auto",
) -> Tensor:
    """The scan's output at one position per row: all states up to there are computed, but only one output.

    Equal to `selective_scan` at the positions `last`.

    Args:
        u, delta, A, B, D, delta_bias, delta_softplus, backend: see `selective_scan`.
        C: `[B, N]`, at the positions `last`.
        last: `[B] int64`, from 0 to L-1.
        z: `[B, D]`, at the positions `last`.

    Returns:
        `[B, D]` in u's type.
    """
    chosen, lengths = choose_backend(u, A, backend, last_only=True), host_lengths.shifted(last, 1)
    if chosen == "triton":
        return triton_guard.scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, lengths, last_only=True)
    if chosen == "mamba_ssm":  # its last state has no gradient, but its outputs do
        length = u.shape[-1]
        z = None if z is None else z.unsqueeze(-1).expand(-1, -1, length)
        C = C.unsqueeze(-1).expand(-1, -1, length)
        y = mamba_guard.scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, False)
        return at_position(y.transpose(1, 2), last)
    with float32_region(u):
        out_dtype = u.dtype
        u, delta, A, B, C, delta_bias = _at_least_float32(u, delta, A, B, C, delta_bias)
        u, delta, B = (tensor.transpose(1, 2) for tensor in (u, delta, B))
        _, state = SCANS[chosen](u, delta, A, B, None, delta_bias, delta_softplus, lengths)
        y = torch.matmul(state, C.unsqueeze(-1)).squeeze(-1)
        return _skip_and_gate(y, at_position(u, last), D, z).to(out_dtype)


def choose_backend(u: Tensor, A: Tensor, backend: str, last_only: bool = False) -> str:
    """The backend for a call with these tensors: one of `BACKENDS`, but not `auto`.

    Args:
        u: `[B, D, L]`; A: `[D, N]`.
        backend: one of `BACKENDS`.
        last_only: whether only the output at the last step is needed.

    Raises:
        RuntimeError: `numba`, `triton` or `mamba_ssm` is requested and cannot be used; the message says why.
    """
    if backend == "mamba_ssm":
        mamba_guard.require_scan(u.device)
    if backend == "triton":
        triton_guard.require(u.device, *A.shape, u.dtype, last_only)
    if backend == "numba":
        numba_guard.require(u.device, u.dtype)
    if backend != "auto":
        return backend
    if u.dtype == torch.float64 or is_traced():
        return "torch"
    if not u.is_cuda:
        return "numba" if numba_guard.is_usable(u.device, u.dtype) else "torch"
    if mamba_guard.scan_is_usable(u.device):
        return "mamba_ssm"
    return "triton" if triton_guard.are_usable(u.device, *A.shape, u.dtype, last_only) else "torch"


def _at_least_float32(*tensors):
    return (None if tensor is None else at_least_float32(tensor) for tensor in tensors)


def _held(delta, delta_bias, delta_softplus, lengths):
    """The step sizes `[B, L, D]`; after a row's length they are zero, so that the state does not change."""
    step = at_least_float32(delta)
    if delta_bias is not None:
        step = step + at_least_float32(delta_bias)
    if delta_softplus:
        step = F.softplus(step)
    return step if lengths is None else step * valid_positions(lengths, step.shape[1]).unsqueeze(-1)


def _skip_and_gate(y, u, D, z):
    if D is not None:
        y = y + u * at_least_float32(D)
    return y if z is None else y * F.silu(at_least_float32(z))
