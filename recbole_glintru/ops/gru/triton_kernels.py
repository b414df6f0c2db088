"""The two kernels of `triton_gru.py`. Imported only if Triton is installed."""

import triton
import triton.language as tl


@triton.jit
def _tanh(x, APPROXIMATE: tl.constexpr):
    """With `APPROXIMATE`, a single instruction with 11 correct bits, no fewer than 16-bit factors have."""
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
    gates,  # [N, 3d]: the input's part of reset, update, candidate
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
    PADDED: tl.constexpr,  # whether there are positions after a history's length, to be filled with zeros
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
    next_r = _tile(gates, j, place, 3 * D, runs)  # read one step ahead, to hide the latency of memory
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
            tl.debug_barrier()  # the next step reads what other threads of this program have stored here
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
        # One after the other: at d = 128 in float32, three factors at a time do not fit into shared memory.
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
