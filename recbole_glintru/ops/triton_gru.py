"""The GRU of `ops/gru.py` as two Triton kernels. Imported only where Triton is: see `ops/gru_kernels.py`.

One program takes `ROWS` histories of like length through all their steps. What a step needs of the input is one matrix
product for all steps at once, done before; what it needs of the state is three products with weights that stay on the
chip. They stand on the left, `[d, d] @ [d, ROWS]`, because Hopper's matrix instructions want 64 rows there and few
histories are enough on the right. At d = 128 the weights take 96 KiB of shared memory in 16 bits and 192 KiB in 32,
of the 227 KiB that a multiprocessor of an H100 gives one program; above, they are read from the L2 cache at each step.

The state is float32 in registers, sums are float32, factors are of the type `dtype` (float32 ones are rounded to TF32
by the matrix units). Only the states are stored. The backward pass computes the arguments of the gates again, for all
steps in three products, and replaces them by their gradients, of which the weights' gradients are two more products.
No program adds to what another one writes: the same input gives the same bits.
"""

import contextlib
import functools
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_glintru.ops.layouts import Layout, Packed
from recbole_glintru.ops.precision import float32_region

ROWS = 16  # histories a program: 2048 of them are 128 programs, an H100 has 132 multiprocessors
CHUNK_BYTES = 64  # of a row of the weights at a time, where they do not stay on the chip
SHARED_MEMORY = 232_448  # bytes that a program may take on Hopper

# ------------------------------------------------------------------------------------------------------------ kernels


@triton.jit
def _tanh(x, APPROXIMATE: tl.constexpr):
    """`APPROXIMATE` is one instruction of 11 correct bits, more than 16-bit factors have."""
    if APPROXIMATE:
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return 2 / (1 + tl.exp(-2 * x)) - 1


@triton.jit
def _sigmoid(x, APPROXIMATE: tl.constexpr):
    if APPROXIMATE:
        return 0.5 * _tanh(0.5 * x, APPROXIMATE) + 0.5
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tile(tensor, j, across, WIDTH: tl.constexpr, mask):
    """Columns j `[P, 1]` of the rows `across` `[1, R]` of a matrix that is `WIDTH` wide: `[P, R]`."""
    return tl.load(tensor + across * WIDTH + j, mask=mask, other=0.0)


@triton.jit
def _streamed(
    total,
    weight,
    operand,
    across,
    runs,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    P: tl.constexpr,
    STRIDE_J: tl.constexpr,
    STRIDE_K: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """total + weight @ operand, both read in chunks: weight `[D, D]` with any strides, operand column `across`."""
    j = tl.arange(0, P)[:, None]
    for first in range(0, D, CHUNK):
        k = first + tl.arange(0, CHUNK)
        factor = tl.load(weight + j * STRIDE_J + k[None, :] * STRIDE_K, mask=(j < D) & (k[None, :] < D), other=0.0)
        column = _tile(operand, k[:, None], across, WIDTH, runs & (k[:, None] < D))
        total = tl.dot(factor, column, total)
    return total


@triton.jit(do_not_specialize=["batch", "width"])  # one compilation for all shapes
def gru_forward(
    gates,  # [N, 3d]: the input's share of reset, update, candidate
    weight,  # [3d, d]
    states,  # [N, d], written
    lengths,  # [B], longest first
    rows,  # [B]: step t of history b stands at rows[b] + steps[t]
    steps,  # [L]
    batch,
    width,  # L
    D: tl.constexpr,
    P: tl.constexpr,  # D, rounded up to a power of two
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    RESIDENT: tl.constexpr,
    PADDED: tl.constexpr,  # whether there are positions behind a history's length, to be filled with zeros
    APPROXIMATE: tl.constexpr,
):
    kind = states.dtype.element_ty
    rank = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[None, :]
    there = rank < batch
    length = tl.load(lengths + rank, mask=there, other=0)
    row = tl.load(rows + rank, mask=there, other=0).to(tl.int64)
    longest = tl.max(length)
    j = tl.arange(0, P)[:, None]
    if RESIDENT:
        k = tl.arange(0, P)[None, :]
        inside = (j < D) & (k < D)
        weight_r = tl.load(weight + j * D + k, mask=inside, other=0.0)
        weight_z = tl.load(weight + (D + j) * D + k, mask=inside, other=0.0)
        weight_n = tl.load(weight + (2 * D + j) * D + k, mask=inside, other=0.0)

    h = tl.zeros([P, ROWS], tl.float32)
    zero = tl.zeros([P, ROWS], tl.float32)
    before = row
    place = row + tl.load(steps)
    runs = (j < D) & (0 < length)
    next_r = _tile(gates, j, place, 3 * D, runs)  # read one step ahead: memory is far
    next_z = _tile(gates, j + D, place, 3 * D, runs)
    next_n = _tile(gates, j + 2 * D, place, 3 * D, runs)
    for t in range(longest):
        now, now_runs = place, runs
        input_r, input_z, input_n = next_r, next_z, next_n
        place = row + tl.load(steps + tl.minimum(t + 1, width - 1))
        runs = (j < D) & (t + 1 < length)
        next_r = _tile(gates, j, place, 3 * D, runs)
        next_z = _tile(gates, j + D, place, 3 * D, runs)
        next_n = _tile(gates, j + 2 * D, place, 3 * D, runs)
        if RESIDENT:
            factor = h.to(kind)
            hidden_r = tl.dot(weight_r, factor)
            hidden_z = tl.dot(weight_z, factor)
            hidden_n = tl.dot(weight_n, factor)
        else:
            past = t < length * tl.minimum(t, 1)  # none at t = 0
            hidden_r = _streamed(zero, weight, states, before, past, D, D, P, D, 1, CHUNK)
            hidden_z = _streamed(zero, weight + D * D, states, before, past, D, D, P, D, 1, CHUNK)
            hidden_n = _streamed(zero, weight + 2 * D * D, states, before, past, D, D, P, D, 1, CHUNK)
        r = _sigmoid(input_r.to(tl.float32) + hidden_r, APPROXIMATE)
        z = _sigmoid(input_z.to(tl.float32) + hidden_z, APPROXIMATE)
        c = _tanh(input_n.to(tl.float32) + r * hidden_n, APPROXIMATE)
        h = c + z * (h - c)
        if PADDED:
            tl.store(states + now * D + j, tl.where(t < length, h, 0.0).to(kind), mask=(j < D) & there)
        else:
            tl.store(states + now * D + j, h.to(kind), mask=now_runs)
        if not RESIDENT:
            before = now
            tl.debug_barrier()  # the next step reads what other threads of this program have stored
    if PADDED:
        for t in range(longest, width):
            place = row + tl.load(steps + t)
            tl.store(states + place * D + j, zero.to(kind), mask=(j < D) & there)


@triton.jit(do_not_specialize=["batch", "width"])
def gru_backward(
    gates,  # [N, 4d]: h W_hn, then the arguments of reset and update, then x W_in; replaced by the gradients of
    #         h W_hn, of the arguments of reset and update, and of the candidate's argument
    weight,  # [3d, d]
    states,  # [N, d]
    grad_states,  # [N, d]
    lengths,
    rows,
    steps,
    batch,
    width,
    D: tl.constexpr,
    P: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    RESIDENT: tl.constexpr,
    PADDED: tl.constexpr,
    APPROXIMATE: tl.constexpr,
):
    kind = gates.dtype.element_ty
    rank = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[None, :]
    there = rank < batch
    length = tl.load(lengths + rank, mask=there, other=0)
    row = tl.load(rows + rank, mask=there, other=0).to(tl.int64)
    longest = tl.max(length)
    j = tl.arange(0, P)[:, None]
    if RESIDENT:
        k = tl.arange(0, P)[None, :]
        inside = (j < D) & (k < D)
        weight_r = tl.load(weight + k * D + j, mask=inside, other=0.0)  # transposed
        weight_z = tl.load(weight + (D + k) * D + j, mask=inside, other=0.0)
        weight_n = tl.load(weight + (2 * D + k) * D + j, mask=inside, other=0.0)

    zero = tl.zeros([P, ROWS], tl.float32)
    if PADDED:
        for t in range(longest, width):
            place = row + tl.load(steps + t)
            for part in tl.static_range(4):
                tl.store(gates + place * 4 * D + part * D + j, zero.to(kind), mask=(j < D) & there)

    grad_h = tl.zeros([P, ROWS], tl.float32)  # from the later steps
    last = tl.maximum(longest - 1, 0)
    place = row + tl.load(steps + last)
    runs = (j < D) & (last < length)
    next_n = _tile(gates, j, place, 4 * D, runs)
    next_r = _tile(gates, j + D, place, 4 * D, runs)
    next_z = _tile(gates, j + 2 * D, place, 4 * D, runs)
    next_c = _tile(gates, j + 3 * D, place, 4 * D, runs)
    next_grad = _tile(grad_states, j, place, D, runs)
    for back in range(longest):
        t = longest - 1 - back
        now, now_runs = place, runs
        hidden_n, arg_r, arg_z, input_n = next_n, next_r, next_z, next_c
        grad = tl.where(now_runs, grad_h + next_grad.to(tl.float32), 0.0)
        place = row + tl.load(steps + tl.maximum(t - 1, 0))
        runs = (j < D) & (t - 1 < length)
        before = tl.where(t > 0, _tile(states, j, place, D, runs).to(tl.float32), 0.0)
        next_n = _tile(gates, j, place, 4 * D, runs)
        next_r = _tile(gates, j + D, place, 4 * D, runs)
        next_z = _tile(gates, j + 2 * D, place, 4 * D, runs)
        next_c = _tile(gates, j + 3 * D, place, 4 * D, runs)
        next_grad = _tile(grad_states, j, place, D, runs)

        hidden_n = hidden_n.to(tl.float32)
        r = _sigmoid(arg_r.to(tl.float32), APPROXIMATE)
        z = _sigmoid(arg_z.to(tl.float32), APPROXIMATE)
        c = _tanh(input_n.to(tl.float32) + r * hidden_n, APPROXIMATE)
        written = (j < D) & there if PADDED else now_runs
        to_c = grad * (1 - z) * (1 - c * c)
        tl.store(gates + now * 4 * D + 3 * D + j, to_c.to(kind), mask=written)
        # One after the other: three factors at a time in shared memory are too many for d = 128 in float32.
        grad_h = grad * z
        to_n = (to_c * r).to(kind)
        tl.store(gates + now * 4 * D + j, to_n, mask=written)
        if RESIDENT:
            grad_h = tl.dot(weight_n, to_n, grad_h)
        to_r = (to_c * hidden_n * r * (1 - r)).to(kind)
        tl.store(gates + now * 4 * D + D + j, to_r, mask=written)
        if RESIDENT:
            grad_h = tl.dot(weight_r, to_r, grad_h)
        to_z = (grad * (before - c) * z * (1 - z)).to(kind)
        tl.store(gates + now * 4 * D + 2 * D + j, to_z, mask=written)
        if RESIDENT:
            grad_h = tl.dot(weight_z, to_z, grad_h)
        else:
            tl.debug_barrier()
            run = t < length
            grad_h = _streamed(grad_h, weight + 2 * D * D, gates, now, run, D, 4 * D, P, 1, D, CHUNK)
            grad_h = _streamed(grad_h, weight, gates + D, now, run, D, 4 * D, P, 1, D, CHUNK)
            grad_h = _streamed(grad_h, weight + D * D, gates + 2 * D, now, run, D, 4 * D, P, 1, D, CHUNK)


# ------------------------------------------------------------------------------------------------------------- around


class Places(NamedTuple):
    """Where the steps of each history stand: step t of the history of rank b at `rows[b] + steps[t]`, of N positions.

    Attributes:
        lengths: `[B] int64`, longest first.
        rows: `[B] int64`; steps: `[L] int64`.
        padded: whether there are positions behind a history's length.
    """

    lengths: Tensor
    rows: Tensor
    steps: Tensor
    padded: bool


def places(layout: Layout) -> Places:
    """The places of a layout's positions, in the order of its tensors `[*P, d]` with P made one dimension."""
    if isinstance(layout, Packed):
        starts = _on([0, *layout.counts[:-1]], layout.lengths).cumsum(0)
        return Places(layout.lengths, torch.arange(len(layout.lengths), device=starts.device), starts, False)
    lengths, order = torch.sort(layout.lengths, descending=True, stable=True)
    return Places(lengths, order * layout.length, torch.arange(layout.length, device=order.device), True)


def triton_gru(x: Tensor, layout: Layout, weight_ih: Tensor, weight_hh: Tensor, dtype: torch.dtype) -> Tensor:
    """The states of one GRU layer without biases, in any layout.

    Args:
        x: `[*P, in]`.
        layout: where those positions are.
        weight_ih, weight_hh: `[3d, in]`, `[3d, d]`, d from 32 to 256.
        dtype: of the factors of products and of the states that are stored; float32 is TF32 on a GPU.

    Returns:
        `[*P, d]` in `dtype`, zeros in the padding.
    """
    states = _TritonGRU.apply(x.reshape(-1, x.shape[-1]), weight_ih, weight_hh, layout, dtype)
    return states.view(*x.shape[:-1], -1)


def launch(kernel, tensors, where: Places, d: int, **choices) -> None:
    """Start `gru_forward` or `gru_backward` on its tensors; `choices` go to `constants`, but for `warps`."""
    warps = choices.pop("warps", WARPS[triton.next_power_of_2(d)])
    chosen = constants(d, tensors[0], where.padded, **choices)
    batch = len(where.lengths)
    grid = (triton.cdiv(batch, chosen["ROWS"]),)
    kernel[grid](*tensors, *where[:3], batch, len(where.steps), **chosen, num_warps=warps)


def constants(d: int, like: Tensor, padded: bool, resident: Optional[bool] = None, rows: int = ROWS) -> dict:
    """What a kernel is compiled for, on tensors as `like` is."""
    size, wide = like.dtype.itemsize, triton.next_power_of_2(d)
    if resident is None:
        taken = 3 * wide * (wide + rows) * size  # the weights, and what they are multiplied with
        resident = taken + 1024 <= shared_memory(like.device)
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
    """Bytes of shared memory that a program may take on a device."""
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
    @once_differentiable
    def backward(ctx, grad_states):
        x, weight_ih, weight_hh, states, *where = ctx.saved_tensors
        d, padded = weight_hh.shape[1], not isinstance(ctx.layout, Packed)
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
    if isinstance(layout, Packed):
        first = layout.counts[0]
        distances, repeats = (_on(counts, states) for counts in (layout.counts[:-1], layout.counts[1:]))
        places = torch.arange(first, len(states), device=states.device)
        places -= torch.repeat_interleave(distances, repeats, output_size=len(places))
        return torch.cat([states.new_zeros(first, states.shape[1]), states[places]])
    return F.pad(states.view(-1, layout.length, states.shape[1])[:, :-1], (0, 0, 1, 0)).flatten(0, 1)


def _on(numbers, like):
    """A list of integers where `like` is, without waiting for it."""
    return torch.tensor(numbers, dtype=torch.int64).to(like.device, non_blocking=True)


@contextlib.contextmanager
def tf32_products(x: Tensor):
    """Let float32 products inside be TF32 ones on a GPU, as those inside cuDNN's GRU are by default."""
    if not x.is_cuda or x.dtype != torch.float32:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
