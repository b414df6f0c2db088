"""The selective scan of `selective_scan.py` as two Triton kernels. Imported only if Triton is installed.

Discretisation, scan, read-out, skip and gate are one pass over the inputs. One program takes `BLOCK` channels of one
history through its real steps, `CHUNK` at a time, one state after the other: a thread has one channel and the steps of
a chunk in registers, so that the scan needs no exchange between threads, and only one state in `CHUNK` is ever written
to memory. From those the backward pass recomputes the others.

For the sums over channels, in the gradients of B and C, each program writes its own partial sums, and one reduction
adds them: there are no atomic additions, so that the same input gives the same bits. Each program writes and reads only
its own part of the kept states, and each thread its own channel, so that no synchronisation is needed.
"""

from typing import Optional

import torch
import triton
from torch import Tensor

from recbole_glintru.ops.first_derivative import first_derivative_only
from recbole_glintru.ops.launching import on_device_of
from recbole_glintru.ops.scan.triton_kernels import scan_backward, scan_forward

CHUNK = 16  # steps that the backward pass has in registers at a time
BLOCK = 32  # channels, one per thread
WARPS = 1  # so that no sum over channels crosses warps
PROGRAMS = 4096  # of the backward pass, if there is enough work: four waves on an H100


def triton_scan(
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
    """`selective_scan`, or with `last_only` `selective_scan_last` at the positions `lengths - 1`.

    Args:
        u, delta, A, B, D, delta_bias, delta_softplus: see `selective_scan`.
        C, z: `[B, N, L]` and `[B, D, L]`, or `[B, N]` and `[B, D]` with `last_only`.
        lengths: `[B] int64`, at most L; None for L.

    Returns:
        `[B, D, L]`, or `[B, D]`, in u's type; zero after a row's length.
    """

    def innermost(tensor):
        """`[B, D, L]` -> `[B, L, D]` with channels contiguous, as most of these tensors already are."""
        if tensor is None:
            return None
        tensor = tensor if tensor.dim() == 2 else tensor.transpose(1, 2)
        return tensor if tensor.stride(-1) == 1 else tensor.contiguous()

    if lengths is None:
        lengths = torch.full((len(u),), u.shape[-1], device=u.device)
    u, delta, B, C, z = map(innermost, (u, delta, B, C, z))
    out = _TritonScan.apply(
        u, delta, A, B.contiguous(), C.contiguous(), z, D, delta_bias, lengths, delta_softplus, last_only
    )
    return out if last_only else out.transpose(1, 2)


class _TritonScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, z, skip, bias, lengths, softplus, last_only):
        batch, width, channels = u.shape
        rates = A.t().contiguous().float()  # [N, D]
        skip_, bias_ = (None if vector is None else vector.contiguous() for vector in (skip, bias))
        out = u.new_zeros(batch, channels) if last_only else u.new_zeros(u.shape)
        kept = rates.new_empty(batch, triton.cdiv(width, CHUNK), *rates.shape)
        inputs = (u, delta, rates, B, C, z, skip_, bias_, lengths)
        grid = batch, triton.cdiv(channels, BLOCK)
        launch(scan_forward, grid, inputs, out, (kept,), softplus, last_only)
        ctx.options = softplus, last_only
        ctx.save_for_backward(*inputs, kept)
        ctx.types = A.dtype
        return out

    @staticmethod
    @first_derivative_only
    def backward(ctx, grad_out):
        *inputs, kept = ctx.saved_tensors
        u, delta, rates, B, C, z, skip, bias, _ = inputs
        splits = max(1, min(triton.cdiv(u.shape[2], BLOCK), PROGRAMS // max(1, len(u))))
        later = rates.new_empty(len(u), *rates.shape)
        grad_A = rates.new_zeros(later.shape)  # stays zero for a history without steps
        grad_u, grad_delta = (torch.zeros(u.shape, dtype=t.dtype, device=t.device) for t in (u, delta))
        grad_B, grad_C = (rates.new_zeros(splits, *tensor.shape) for tensor in (B, C))
        grad_z = None if z is None else torch.zeros(z.shape, dtype=z.dtype, device=z.device)
        grad_skip = None if skip is None else rates.new_empty(len(u), u.shape[2])
        written = (kept, later, grad_u, grad_delta, grad_A, grad_B, grad_C, grad_z, grad_skip)
        written = (*written, *grad_u.stride()[:2], splits)
        launch(scan_backward, (len(u), splits), inputs, grad_out.contiguous(), written, *ctx.options)
        return (
            grad_u,
            grad_delta,
            grad_A.sum(dim=0).t().to(ctx.types),
            grad_B.sum(dim=0).to(B.dtype),
            grad_C.sum(dim=0).to(C.dtype),
            grad_z,
            None if skip is None else grad_skip.sum(dim=0).to(skip.dtype),
            None if bias is None else grad_delta.sum(dim=(0, 1), dtype=torch.float32).to(bias.dtype),
            *(None,) * 3,
        )


def launch(kernel, grid, inputs, out: Tensor, written, softplus: bool, last_only: bool) -> None:
    """Start `scan_forward` or `scan_backward`; `out` is the output, or its gradient."""
    u, delta, _, _, _, z, skip, bias, _ = inputs
    _, width, channels = u.shape
    strides = []
    for tensor in (u, delta, z, out):
        strides += [0, 0] if tensor is None else [tensor.stride(0), tensor.stride(1) if tensor.dim() == 3 else 0]
    nothing = inputs[0]  # passed instead of missing tensors; no kernel reads it
    has = (tensor is not None for tensor in (skip, z, bias))
    chosen = constants(channels, inputs[2].shape[0], softplus, *has, last_only)
    tensors = (nothing if tensor is None else tensor for tensor in (*inputs, out, *written))
    with on_device_of(u):
        kernel[grid](*tensors, width, *strides, **chosen, num_warps=WARPS)


def constants(channels: int, states: int, softplus: bool, skip: bool, gate: bool, bias: bool, last_only: bool) -> dict:
    """The compile-time constants of a kernel."""
    shape = {"D": channels, "N": states, "CHUNK": CHUNK, "BLOCK": BLOCK}
    return {**shape, "SOFTPLUS": softplus, "SKIP": skip, "GATE": gate, "BIAS": bias, "LAST": last_only}
