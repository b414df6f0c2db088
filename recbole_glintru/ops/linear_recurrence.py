"""The recurrence of a linear recurrent unit: s_t = decay * s_{t-1} + x_t with s_{-1} = 0, for each channel separately.

`linear_recurrence_reference` is the plain loop; `linear_recurrence` is the one to call, which also takes a `chunk`. It
keeps only the states for the backward pass. `last_state` computes the last step alone. Numbers may be real or complex.
With magnitudes of `decay` below 1 every state stays bounded, since nothing is divided by a power of `decay`.
"""

import math
from typing import Optional

import torch
from torch import Tensor

from recbole_glintru.ops.first_derivative import first_derivative_only

ROWS_AT_ONCE = 16  # rows summed at a time, so that their products stay in the cache


def linear_recurrence_reference(decay: Tensor, x: Tensor) -> Tensor:
    """The states, step by step.

    Args:
        decay: `[D]`.
        x: `[B, L, D]`, of the same type.

    Returns:
        `[B, L, D]`.
    """
    state, states = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        state = decay * state + x[:, t]
        states.append(state)
    return torch.stack(states, dim=1)


def linear_recurrence(decay: Tensor, x: Tensor, chunk: Optional[int] = None) -> Tensor:
    """The states; see `linear_recurrence_reference`. Differentiable once.

    Args:
        decay: `[D]`.
        x: `[B, L, D]`, of the same type.
        chunk: the sequence is cut into pieces of this length, which are computed side by side and joined afterwards:
            chunk + L/chunk sequential steps instead of L. None means L on a CPU, where a step over all rows is already
            wide and joining is a second pass over memory, and the square root of L elsewhere.

    Returns:
        `[B, L, D]`.
    """
    if chunk is None:
        chunk = x.shape[1] if x.device.type == "cpu" else math.isqrt(x.shape[1])
    return _LinearRecurrence.apply(decay, x, chunk)


def last_state(decay: Tensor, x: Tensor) -> Tensor:
    """Only the last state, the sum of decay^(L-1-t) * x_t over t, which needs no recurrence.

    Args:
        decay: `[D]`.
        x: `[B, L, D]`, of the same type.

    Returns:
        `[B, D]`.
    """
    return (x * powers(decay, x.shape[1]).flip(0)).sum(dim=1)


def powers(decay: Tensor, count: int) -> Tensor:
    """decay^0 to decay^(count-1), by repeated doubling: `[D]` -> `[count, D]`."""
    table, step = torch.ones_like(decay).unsqueeze(0), decay
    while len(table) < count:
        table, step = torch.cat([table, table * step]), step * step
    return table[:count]


class _LinearRecurrence(torch.autograd.Function):
    """The gradient runs through the same recurrence backwards in time, with the conjugate of `decay`."""

    @staticmethod
    def forward(ctx, decay: Tensor, x: Tensor, chunk: int) -> Tensor:
        states = _scan(decay, x, chunk, step=1)
        ctx.save_for_backward(decay, states)
        ctx.chunk = chunk
        return states

    @staticmethod
    @first_derivative_only
    def backward(ctx, gradient: Tensor):
        decay, states = ctx.saved_tensors
        x_gradient = _scan(decay.conj().resolve_conj(), gradient, ctx.chunk, step=-1)
        decay_gradient = torch.zeros_like(decay)
        for later, earlier in zip(x_gradient.split(ROWS_AT_ONCE), states.split(ROWS_AT_ONCE)):
            decay_gradient += (later[:, 1:] * earlier[:, :-1].conj()).sum(dim=(0, 1))
        return decay_gradient, x_gradient, None


def _scan(decay: Tensor, x: Tensor, chunk: int, step: int) -> Tensor:
    """States in the order of time (step 1) or against it (step -1): `[B, L, D]`."""
    rows, length, channels = x.shape
    pieces = -(-length // chunk)
    states = x.new_zeros(rows, pieces, chunk, channels)
    states.view(rows, pieces * chunk, channels)[:, :length] = x
    for t in range(chunk)[::step][1:]:
        states[:, :, t].addcmul_(decay, states[:, :, t - step])
    if pieces > 1:
        carried = powers(decay, chunk + 1)[1:]  # weights of the previous piece's end state in each step of a piece
        carried, end = (carried, chunk - 1) if step == 1 else (carried.flip(0), 0)
        for piece in range(pieces)[::step][1:]:
            states[:, piece].addcmul_(carried, states[:, piece - step, end].unsqueeze(1))
    return states.view(rows, pieces * chunk, channels)[:, :length]
