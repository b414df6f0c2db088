"""The two kernels of `triton_convolution.py`. Imported only if Triton is installed."""

import triton
import triton.language as tl


@triton.jit
def _inside(step, length, distance):
    """Whether a history has the position at `distance` from its position `step`."""
    return (step + distance >= 0) & (step + distance < length)


@triton.jit(do_not_specialize=["count"])  # one compilation for all sizes
def convolve(
    x,  # [N, IN]
    taps,  # [K, OUT, IN]; with TURNED [K, IN, OUT], in reverse order
    biases,  # [K, OUT]
    y,  # [N, OUT], written
    steps,  # [N]
    ranks,  # [N]
    lengths,  # [B]
    count,  # N
    IN: tl.constexpr,
    OUT: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,  # columns of the output per program
    CHUNK: tl.constexpr,  # columns of the input at a time
    TURNED: tl.constexpr,
    BIAS: tl.constexpr,
):
    parts: tl.constexpr = (IN + CHUNK - 1) // CHUNK
    tiles: tl.constexpr = (OUT + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    row = program // tiles * ROWS + tl.arange(0, ROWS)
    column = program % tiles * COLUMNS + tl.arange(0, COLUMNS)
    there = row < count
    step = tl.load(steps + row, mask=there, other=0)
    length = tl.load(lengths + tl.load(ranks + row, mask=there, other=0), mask=there, other=0)
    row = row.to(tl.int64)

    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for number in range(K * parts):
        j = number // parts
        channel = number % parts * CHUNK + tl.arange(0, CHUNK)
        inside = _inside(step, length, j - K // 2)
        met = tl.load(
            x + (row + j - K // 2)[:, None] * IN + channel[None, :],
            mask=inside[:, None] & (channel < IN)[None, :],
            other=0.0,
        )
        if TURNED:
            tap = taps + (K - 1 - j) * IN * OUT + channel[:, None] * OUT + column[None, :]
        else:
            tap = taps + j * IN * OUT + channel[:, None] + column[None, :] * IN
        factor = tl.load(tap, mask=(channel < IN)[:, None] & (column < OUT)[None, :], other=0.0)
        total = tl.dot(met, factor, total)
    if BIAS:
        for j in range(K):
            bias = tl.load(biases + j * OUT + column, mask=column < OUT, other=0.0).to(tl.float32)
            total += tl.where(_inside(step, length, j - K // 2)[:, None], bias[None, :], 0.0)
    result = total.to(y.dtype.element_ty)
    tl.store(y + row[:, None] * OUT + column[None, :], result, mask=there[:, None] & (column < OUT)[None, :])


@triton.jit(do_not_specialize=["count", "share"])
def tap_gradients(
    x,  # [N, IN]
    grad_y,  # [N, OUT]
    partial,  # [shares, K * OUT * IN + K * OUT], written: the parts of each share of the gradients of taps and biases
    steps,
    ranks,
    lengths,
    count,
    share,  # rows per program, a multiple of ROWS
    IN: tl.constexpr,
    OUT: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,  # at a time
    ACROSS: tl.constexpr,  # columns of grad_y
    ALONG: tl.constexpr,  # columns of x
):
    tiles_across: tl.constexpr = (OUT + ACROSS - 1) // ACROSS
    tiles_along: tl.constexpr = (IN + ALONG - 1) // ALONG
    tiles: tl.constexpr = tiles_across * tiles_along
    # Programs of one share are neighbours: they read the same rows, all but the first of them from the L2 cache.
    program = tl.program_id(0)
    number = program // (K * tiles)
    j = program % (K * tiles) // tiles
    tile = program % tiles
    across = tile // tiles_along * ACROSS + tl.arange(0, ACROSS)
    along = tile % tiles_along * ALONG + tl.arange(0, ALONG)

    total = tl.zeros([ACROSS, ALONG], tl.float32)
    sums = tl.zeros([ROWS, ACROSS], tl.float32)
    for first in range(number * share, tl.minimum(number * share + share, count), ROWS):
        row = first + tl.arange(0, ROWS)
        there = row < count
        step = tl.load(steps + row, mask=there, other=0)
        length = tl.load(lengths + tl.load(ranks + row, mask=there, other=0), mask=there, other=0)
        inside = _inside(step, length, j - K // 2)[:, None]
        row = row.to(tl.int64)[:, None]
        grad = tl.load(grad_y + row * OUT + across[None, :], mask=inside & (across < OUT)[None, :], other=0.0)
        met = tl.load(x + (row + j - K // 2) * IN + along[None, :], mask=inside & (along < IN)[None, :], other=0.0)
        total = tl.dot(tl.trans(grad), met, total)
        sums += grad.to(tl.float32)
    start = partial + number.to(tl.int64) * (K * OUT * IN + K * OUT)
    place = (j * OUT + across)[:, None] * IN + along[None, :]
    tl.store(start + place, total, mask=(across < OUT)[:, None] & (along < IN)[None, :])
    place = K * OUT * IN + j * OUT + across
    columns = tl.where(tile % tiles_along == 0, OUT, 0)  # the first of the programs that read them stores the sums
    tl.store(start + place, tl.sum(sums, axis=0), mask=across < columns)
