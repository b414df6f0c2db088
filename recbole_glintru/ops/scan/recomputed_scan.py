"""The recurrence of a selective scan, with a backward pass that recomputes the states instead of keeping them.

    s_t = exp(step_t A) * s_{t-1} + drive_t B_t,    y_t = C_t . s_t,    s_{-1} = 0,

with an element of `s_t` for each row, channel d and state n. The states of all steps are N times as large as the scan's
input. Autograd keeps several tensors of that size; here one state in `CHUNK` is kept, and the backward pass recomputes
the others, one chunk at a time. Nothing is divided by products of decays, so that no step is too large.

Measured on a CPU: the time goes into passes over the states, and an exponential costs as much as seven products. So
rows are processed in blocks small enough for the cache, buffers are allocated once per block and written in place, the
channels are the innermost dimension (vectors of steps, drives and outputs are contiguous), the sums over n and d are
matrix products, and powers of two replace the exponential (twice as fast in PyTorch).
"""

import math
from typing import NamedTuple, Optional, Union

import numpy as np
import torch
from torch import Tensor

from recbole_glintru.ops.first_derivative import first_derivative_only
from recbole_glintru.ops.histories import host_lengths
from recbole_glintru.ops.tracing import is_traced

CHUNK = 16  # steps between two states that are kept
BLOCK = {"cpu": 2**18, "cuda": 2**22}  # elements of a state at a time: to fit the cache; to be worth a kernel
LOG2_E = 1 / math.log(2)


def recomputed_scan(
    step: Tensor, drive: Tensor, A: Tensor, B: Tensor, C: Optional[Tensor], lengths: Optional[Tensor]
) -> tuple[Optional[Tensor], Tensor]:
    """The outputs and the last state, in time and memory linear in L; differentiable once, in every tensor.

    Args:
        step: `[B, L, D]`; zero after a row's length, so that its state does not change there.
        drive: `[B, L, D]`; zero after a row's length.
        A: `[D, N]`.
        B: `[B, L, N]`.
        C: `[B, L, N]`, or None if only the last state is needed.
        lengths: `[B] int64`, at least 1; None for L. Rows of similar length are computed together, up to their
            longest.

    Returns:
        outputs `[B, L, D]`, undefined after a row's length, or None without C; the last state `[B, D, N]`.
    """
    tensors = (step, drive, A, B) if C is None else (step, drive, A, B, C)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    y, state = _RecomputedScan.apply(step, drive, A, B, C, _blocks(step, A.shape[1], lengths), keep)
    return y, state.transpose(1, 2)


class _Block(NamedTuple):
    """Rows that are computed together, and the number of their steps."""

    rows: Union[slice, Tensor]
    length: int


def _blocks(step: Tensor, states: int, lengths: Optional[Tensor]) -> list[_Block]:
    rows, length, channels = step.shape
    size = max(1, BLOCK.get(step.device.type, BLOCK["cuda"]) // (states * channels))
    starts = range(0, rows, size)
    if lengths is None or is_traced():
        return [_Block(slice(start, min(start + size, rows)), length) for start in starts]
    order = torch.argsort(lengths, descending=True, stable=True)
    longest = np.sort(host_lengths.of(lengths))[::-1][::size].tolist()  # the first row of each block
    return [_Block(order[start : start + size], longest[k]) for k, start in enumerate(starts)]


class _Steps:
    """The steps of a block, one view each: as rows `[b, 1, .]` and as columns `[b, ., 1]` of batched matrices."""

    def __init__(self, tensor: Tensor, block: _Block):
        tensor = tensor[block.rows, : block.length]
        self.rows = tensor.unsqueeze(2).unbind(1)
        self.columns = tensor.unsqueeze(3).unbind(1)


class _RecomputedScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, step, drive, A, B, C, blocks, keep):
        exponents = A.t().contiguous() * LOG2_E  # [N, D]
        y = None if C is None else torch.zeros_like(step)
        last = step.new_empty(step.shape[0], *exponents.shape)
        kept = []
        for block in blocks:
            steps, drives, inputs = (_Steps(tensor, block) for tensor in (step, drive, B))
            readouts = None if C is None else _Steps(C, block).rows
            outputs = []
            state = torch.zeros_like(last[block.rows])
            decay = torch.empty_like(state)
            if keep:
                kept.append(state.new_empty((block.length - 1) // CHUNK + 1, *state.shape))
            for t in range(block.length):
                if keep and t % CHUNK == 0:
                    kept[-1][t // CHUNK] = state
                torch.mul(steps.rows[t], exponents, out=decay).exp2_()
                state.mul_(decay).addcmul_(inputs.columns[t], drives.rows[t])
                if readouts is not None:
                    outputs.append(torch.bmm(readouts[t], state))
            last[block.rows] = state
            if readouts is not None:
                y[block.rows, : block.length] = torch.cat(outputs, dim=1)
        ctx.blocks = blocks
        ctx.save_for_backward(step, drive, A, B, C, *kept)
        ctx.set_materialize_grads(False)
        return y, last

    @staticmethod
    @first_derivative_only
    def backward(ctx, grad_y, grad_last):
        step, drive, A, B, C, *kept = ctx.saved_tensors
        A = A.t().contiguous()
        exponents = A * LOG2_E
        grad_step, grad_drive, grad_A, grad_B = (torch.zeros_like(t) for t in (step, drive, A, B))
        grad_C = None if C is None else torch.zeros_like(C)
        reads = C is not None and grad_y is not None
        for block, states_kept in zip(ctx.blocks, kept):
            chunk = min(CHUNK, block.length)
            decays = list(states_kept.new_empty(chunk, *states_kept.shape[1:]).unbind(0))
            states = list(states_kept.new_empty(chunk + 1, *states_kept.shape[1:]).unbind(0))
            grad = torch.zeros_like(states[0]) if grad_last is None else grad_last[block.rows].clone()
            to_exponent = torch.empty_like(grad)
            to_A = torch.zeros_like(grad)
            steps, drives, inputs = (_Steps(tensor, block) for tensor in (step, drive, B))
            if reads:
                readouts, grads_y = _Steps(C, block).columns, _Steps(grad_y, block).rows
            grads: tuple[list[Tensor], ...] = ([], [], [], [])  # of step, drive, B, C; the last step first
            for index in reversed(range(len(states_kept))):
                first = index * CHUNK
                stop = min(first + CHUNK, block.length)
                states[0].copy_(states_kept[index])
                for i, t in enumerate(range(first, stop)):
                    torch.mul(steps.rows[t], exponents, out=decays[i]).exp2_()
                    torch.mul(decays[i], states[i], out=states[i + 1])
                    states[i + 1].addcmul_(inputs.columns[t], drives.rows[t])
                for i, t in reversed(list(enumerate(range(first, stop)))):
                    if reads:
                        grad.addcmul_(readouts[t], grads_y[t])
                        grads[3].append(torch.bmm(grads_y[t], states[i + 1].transpose(1, 2)))
                    grads[1].append(torch.bmm(inputs.rows[t], grad))
                    grads[2].append(torch.bmm(drives.rows[t], grad.transpose(1, 2)))
                    grad.mul_(decays[i])
                    torch.mul(grad, states[i], out=to_exponent)
                    to_A.addcmul_(to_exponent, steps.rows[t])
                    grads[0].append(to_exponent.mul_(A).sum(dim=1, keepdim=True))
            grad_A += to_A.sum(dim=0)
            for total, parts in zip((grad_step, grad_drive, grad_B, grad_C), grads):
                if parts:
                    total[block.rows, : block.length] = torch.cat(parts[::-1], dim=1)
        return grad_step, grad_drive, grad_A.t(), grad_B, grad_C, None, None
