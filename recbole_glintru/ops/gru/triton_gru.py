"""The GRU of `reference.py` as two Triton kernels. Imported only if Triton is installed (`triton_guard.py`).

One program takes `ROWS` histories of similar length through all their steps. The input's part of the gates is computed
beforehand, as one matrix product for all steps; the state's part is three products per step, with weights that stay on
the chip. The weights are the left factor, `[d, d] @ [d, ROWS]`, because Hopper's matrix instructions need 64 rows
there, while few histories are enough on the right. At d = 128 the weights take 96 KiB of shared memory in 16 bits and
192 KiB in 32, of the 227 KiB that a multiprocessor of an H100 gives one program; larger weights are read from the L2
cache at each step.

The state is float32 in registers, sums are float32, factors have the type `dtype` (the tensor cores round float32 to
TF32). Only the states are stored. The backward pass recomputes the arguments of the gates, for all steps in three
products, and replaces them by their gradients, from which two more products give the weights' gradients. No program
adds to what another one writes, so that the same input gives the same bits.
"""

import functools
from typing import NamedTuple, Optional, Union

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from recbole_glintru.ops.first_derivative import first_derivative_only
from recbole_glintru.ops.gru.triton_kernels import gru_backward, gru_forward
from recbole_glintru.ops.launching import on_device_of
from recbole_glintru.ops.layouts.compact import Compact
from recbole_glintru.ops.layouts.padded import Padded
from recbole_glintru.ops.precision import float32_region
from recbole_glintru.ops.tensor_cores import tf32_products

ROWS = 16  # histories per program: 2048 histories are 128 programs, and an H100 has 132 multiprocessors
CHUNK_BYTES = 64  # of a row of the weights, read at a time, if they do not stay on the chip
SHARED_MEMORY = 232_448  # bytes available to a program on Hopper


class Places(NamedTuple):
    """Where the steps of each history are: step t of the history of rank b at `rows[b] + steps[t]`, among N positions.

    Attributes:
        lengths: `[B] int64`, longest first.
        rows: `[B] int64`; steps: `[L] int64`.
        padded: whether there are positions after a history's length.
    """

    lengths: Tensor
    rows: Tensor
    steps: Tensor
    padded: bool


def places(layout: Union[Padded, Compact]) -> Places:
    """The places of a layout's positions, in the order of its tensors `[*P, d]` with P flattened to one dimension."""
    lengths, order = torch.sort(layout.lengths, descending=True, stable=True)
    if isinstance(layout, Compact):
        return Places(lengths, layout.starts[order], torch.arange(layout.length, device=order.device), False)
    return Places(lengths, order * layout.length, torch.arange(layout.length, device=order.device), True)


def triton_gru(
    x: Tensor, layout: Union[Padded, Compact], weight_ih: Tensor, weight_hh: Tensor, dtype: torch.dtype
) -> Tensor:
    """The states of one GRU layer without biases, in the layouts of a GPU.

    Args:
        x: `[*P, in]`.
        layout: the layout of those positions.
        weight_ih, weight_hh: `[3d, in]`, `[3d, d]`, d from 32 to 256.
        dtype: the type of the factors of products and of the stored states; on a GPU float32 products use TF32.

    Returns:
        `[*P, d]` in `dtype`, zeros in the padding.
    """
    states = _TritonGRU.apply(x.reshape(-1, x.shape[-1]), weight_ih, weight_hh, layout, dtype)
    return states.view(*x.shape[:-1], -1)


def launch(kernel, tensors, where: Places, d: int, **choices) -> None:
    """Start `gru_forward` or `gru_backward` on its tensors; `choices`, except `warps`, are passed to `constants`."""
    warps = choices.pop("warps", WARPS[triton.next_power_of_2(d)])
    chosen = constants(d, tensors[0], where.padded, **choices)
    batch = len(where.lengths)
    grid = (triton.cdiv(batch, chosen["ROWS"]),)
    with on_device_of(tensors[0]):
        kernel[grid](*tensors, *where[:3], batch, len(where.steps), **chosen, num_warps=warps)


def constants(
    d: int,
    like: Tensor,
    padded: bool,
    resident: Optional[bool] = None,
    rows: int = ROWS,
    memory: Optional[int] = None,
) -> dict:
    """A kernel's compile-time constants for tensors like `like`; `memory` replaces their device's `shared_memory`."""
    size, wide = like.dtype.itemsize, triton.next_power_of_2(d)
    if resident is None:
        taken = 3 * wide * (wide + rows) * size  # the weights, and their right factors
        resident = taken + 1024 <= (memory or shared_memory(like.device))
    return {
        "D": d,
        "P": wide,
        "ROWS": rows,
        "CHUNK": CHUNK_BYTES // size,
        "RESIDENT": resident,
        "PADDED": padded,
        "APPROXIMATE": like.device.type != "cpu" and size == 2,
    }


WARPS = {32: 2, 64: 4, 128: 8, 256: 8}  # by d, rounded up to a power of two


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory available to a program on a device."""
    if device.type != "cuda":
        return SHARED_MEMORY
    return triton.runtime.driver.active.utils.get_device_properties(device.index or 0)["max_shared_mem"]


class _TritonGRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_ih, weight_hh, layout, dtype):
        d, where = weight_hh.shape[1], places(layout)
        factors = tuple(tensor.to(dtype).contiguous() for tensor in (x, weight_ih, weight_hh))
        states = factors[0].new_empty(len(x), d)
        with float32_region(x), tf32_products(x):
            launch(gru_forward, (F.linear(*factors[:2]), factors[2], states), where, d)
        ctx.layout, ctx.types = layout, (x.dtype, weight_ih.dtype, weight_hh.dtype)
        ctx.save_for_backward(*factors, states, *where[:3])
        return states

    @staticmethod
    @first_derivative_only
    def backward(ctx, grad_states):
        x, weight_ih, weight_hh, states, *where = ctx.saved_tensors
        d, padded = weight_hh.shape[1], isinstance(ctx.layout, Padded)
        before = _before(states, ctx.layout)
        gates = states.new_empty(len(states), 4 * d)
        with float32_region(x), tf32_products(x):
            torch.mm(before, weight_hh.roll(d, dims=0).T, out=gates[:, : 3 * d])
            gates[:, d : 3 * d].addmm_(x, weight_ih[: 2 * d].T)
            torch.mm(x, weight_ih[2 * d :].T, out=gates[:, 3 * d :])
            launch(gru_backward, (gates, weight_hh, states, grad_states.contiguous()), Places(*where, padded), d)
            grad_x = gates[:, d:] @ weight_ih
            grad_weight_ih = gates[:, d:].T @ x
            grad_weight_hh = (gates[:, : 3 * d].T @ before).roll(-d, dims=0)
        grads = (grad_x, grad_weight_ih, grad_weight_hh)
        return (*(grad.to(kind) for grad, kind in zip(grads, ctx.types)), None, None)


def _before(states, layout):
    """The state before each position, `[N, d]`."""
    if isinstance(layout, Compact):
        return layout.previous(states)
    return F.pad(states.view(-1, layout.length, states.shape[1])[:, :-1], (0, 0, 1, 0)).flatten(0, 1)
