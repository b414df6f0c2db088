"""The selective scan and its gradient as compiled CPU loops (Numba); `numba_scan.py` calls them.

    s_t = exp(step_t A) * s_{t-1} + step_t u_t B_t,    y_t = C_t . s_t,    s_{-1} = 0,

with step_t = softplus(delta_t + bias), or without the softplus. A worker processes one row after the other, `LANES`
channels at a time, whose states stay in the L1 cache from the first step to the last. All arithmetic is on vectors of
these channels (`numba_vectors.py`).

The gradient is computed chunk by chunk from the end, and within a chunk state by state: forward through its steps for
decays and states, then backward, so that these too stay in the L1 cache. Sums over channels, in the gradients of B and
C, are first folded to eight numbers and then completed for eight steps together.

The values of each step of a chunk are stored together in `steps`; a separate loop computes them, in which no step waits
for the one before. Processors prefetch data that is read in ascending order, but not the chunks of the backward pass:
the memory that the next chunk needs is prefetched explicitly while the current one is computed.
"""

from numba import njit
from numpy import empty, float32, zeros

from recbole_glintru.ops.scan.numba_scan import CHUNK, LANES
from recbole_glintru.ops.scan.numba_vectors import (
    FOLD,
    add_sums,
    exp2,
    fill,
    filled,
    load,
    prefetch,
    softplus_and_slope,
    store,
    store_folded,
)

ZERO, ONE = float32(0), float32(1)
STEP, DRIVE, GRAD_Y, SLOPE, GRAD_STEP, GRAD_DRIVE = (k * LANES for k in range(6))  # offsets in `steps`
OF_STEP = 6 * LANES
DECAY, STATE, OF_DECAY = 0, LANES, 2 * LANES  # offsets in `history`


@njit
def _prepare(steps, i, softplus, delta, bias, u):
    """Store the step, its derivative with respect to delta and its product with u, for step i of a chunk."""
    step, slope = delta + bias, filled(ONE)
    if softplus:
        step, slope = softplus_and_slope(step)
    store(steps, i * OF_STEP + STEP, step)
    store(steps, i * OF_STEP + SLOPE, slope)
    store(steps, i * OF_STEP + DRIVE, step * u)


@njit(nogil=True)
def forward(
    worker, workers, order, lengths, keep, reads, softplus, delta, bias, u, exponents, B, C, y, last, kept
):  # fmt: skip
    """The forward pass of a worker's rows: every `workers`-th of `order`, starting at index `worker`.

    Args:
        order: `[B] int64`, a permutation of the rows.
        lengths: `[B] int64`, the number of steps of each row that are computed.
        keep: whether to write `kept` for the backward pass.
        reads: whether to write y.
        softplus: whether a step is the softplus of delta + bias, or delta + bias itself.
        delta, u: `[B, L, D]`; all arrays of numbers are float32 and contiguous, and D is a multiple of `LANES`.
        bias: `[D]`.
        exponents: `[N, D]`, A / log(2), for powers of two.
        B, C: `[B, L, N]`.
        y: `[B, L, D]`, written up to the lengths; last: `[B, N, D]`, written.
        kept: `[B, ceil(L / CHUNK), N, D]`, the states before each chunk, written.
    """
    rows, length, channels = delta.shape
    states, chunks = B.shape[2], kept.shape[1]
    rates = empty(states * LANES, float32)
    state = empty(states * LANES, float32)
    steps = empty(CHUNK * OF_STEP, float32)
    for place in range(worker, rows, workers):
        row = order[place]
        for d in range(0, channels, LANES):
            for n in range(states):
                store(rates, n * LANES, load(exponents, n * channels + d))
                store(state, n * LANES, filled(ZERO))
            for start in range(0, lengths[row], CHUNK):
                if keep:
                    for n in range(states):
                        at = ((row * chunks + start // CHUNK) * states + n) * channels + d
                        store(kept, at, load(state, n * LANES))
                count = min(CHUNK, lengths[row] - start)
                for i in range(count):
                    at = (row * length + start + i) * channels + d
                    _prepare(steps, i, softplus, load(delta, at), load(bias, d), load(u, at))
                for i in range(count):
                    step = load(steps, i * OF_STEP + STEP)
                    drive = load(steps, i * OF_STEP + DRIVE)
                    out = filled(ZERO)
                    for n in range(states):
                        of_step = (row * length + start + i) * states + n
                        decay = exp2(step * load(rates, n * LANES))
                        new = decay * load(state, n * LANES) + drive * fill(B, of_step)
                        store(state, n * LANES, new)
                        out = out + fill(C, of_step) * new
                    if reads:
                        store(y, (row * length + start + i) * channels + d, out)
            for n in range(states):
                store(last, (row * states + n) * channels + d, load(state, n * LANES))


@njit(nogil=True)
def backward(
    worker, workers, order, lengths, reads, softplus, delta, bias, u, A, exponents, B, C, kept, grad_y, grad_last,
    grad_delta, grad_bias, grad_u, grad_A, grad_B, grad_C,
):  # fmt: skip
    """The backward pass of a worker's rows, from the end: recomputes the states of a chunk, then its gradients.

    Args:
        worker, workers, order, lengths, softplus, delta, bias, u, exponents, B, C, kept: those of `forward`.
        reads: whether grad_y is given.
        A: `[N, D]`.
        grad_y: `[B, L, D]`; grad_last: `[B, N, D]`.
        grad_delta, grad_u: `[B, L, D]`; grad_B, grad_C: `[B, L, N]`; written up to the lengths.
        grad_bias: `[workers, D]`, grad_A: `[workers, N, D]`, added to.
    """
    rows, length, channels = delta.shape
    states, chunks = B.shape[2], kept.shape[1]
    grads = empty(states * LANES, float32)
    grads_A = empty(states * LANES, float32)
    steps = empty(CHUNK * OF_STEP, float32)
    history = empty(CHUNK * OF_DECAY, float32)  # the decay of each step, and the state before it
    folded_B, folded_C = zeros(CHUNK * FOLD, float32), zeros(CHUNK * FOLD, float32)
    sums_B, sums_C = empty((states, chunks * CHUNK), float32), empty((states, chunks * CHUNK), float32)
    for place in range(worker, rows, workers):
        row = order[place]
        sums_B[:] = ZERO
        sums_C[:] = ZERO
        for d in range(0, channels, LANES):
            for n in range(states):
                store(grads, n * LANES, load(grad_last, (row * states + n) * channels + d))
                store(grads_A, n * LANES, filled(ZERO))
            grads_bias = filled(ZERO)
            for chunk in range((lengths[row] - 1) // CHUNK, -1, -1):
                start = chunk * CHUNK
                count = min(CHUNK, lengths[row] - start)
                for i in range(count):
                    at = (row * length + start + i) * channels + d
                    _prepare(steps, i, softplus, load(delta, at), load(bias, d), load(u, at))
                    prefetch(delta, at - CHUNK * channels)
                    prefetch(u, at - CHUNK * channels)
                    prefetch(grad_y, at - CHUNK * channels)
                    store(steps, i * OF_STEP + GRAD_Y, load(grad_y, at) if reads else filled(ZERO))
                    store(steps, i * OF_STEP + GRAD_STEP, filled(ZERO))
                    store(steps, i * OF_STEP + GRAD_DRIVE, filled(ZERO))
                for n in range(states):
                    rate = load(exponents, n * channels + d)
                    state = load(kept, ((row * chunks + chunk) * states + n) * channels + d)
                    prefetch(kept, ((row * chunks + chunk - 1) * states + n) * channels + d)
                    for i in range(count):
                        decay = exp2(load(steps, i * OF_STEP + STEP) * rate)
                        store(history, i * OF_DECAY + DECAY, decay)
                        store(history, i * OF_DECAY + STATE, state)
                        b = fill(B, (row * length + start + i) * states + n)
                        state = decay * state + load(steps, i * OF_STEP + DRIVE) * b
                    a = load(A, n * channels + d)
                    grad = load(grads, n * LANES)
                    grad_a = load(grads_A, n * LANES)
                    for i in range(count - 1, -1, -1):
                        of_step = (row * length + start + i) * states + n
                        to_y = load(steps, i * OF_STEP + GRAD_Y)
                        grad = grad + fill(C, of_step) * to_y
                        store_folded(folded_B, i * FOLD, grad * load(steps, i * OF_STEP + DRIVE))
                        store_folded(folded_C, i * FOLD, to_y * state)
                        to_drive = load(steps, i * OF_STEP + GRAD_DRIVE) + grad * fill(B, of_step)
                        store(steps, i * OF_STEP + GRAD_DRIVE, to_drive)
                        grad = grad * load(history, i * OF_DECAY + DECAY)
                        state = load(history, i * OF_DECAY + STATE)
                        to_exponent = grad * state
                        grad_a = grad_a + to_exponent * load(steps, i * OF_STEP + STEP)
                        to_step = load(steps, i * OF_STEP + GRAD_STEP) + to_exponent * a
                        store(steps, i * OF_STEP + GRAD_STEP, to_step)
                    store(grads, n * LANES, grad)
                    store(grads_A, n * LANES, grad_a)
                    for i in range(0, count, FOLD):  # the sums after the end of a partial chunk are not read
                        add_sums(sums_B, n * chunks * CHUNK + start + i, folded_B, i * FOLD)
                        add_sums(sums_C, n * chunks * CHUNK + start + i, folded_C, i * FOLD)
                for i in range(count):
                    at = (row * length + start + i) * channels + d
                    to_drive = load(steps, i * OF_STEP + GRAD_DRIVE)
                    store(grad_u, at, to_drive * load(steps, i * OF_STEP + STEP))
                    to_step = load(steps, i * OF_STEP + GRAD_STEP) + to_drive * load(u, at)
                    to_delta = to_step * load(steps, i * OF_STEP + SLOPE)
                    store(grad_delta, at, to_delta)
                    grads_bias = grads_bias + to_delta
            store(grad_bias, worker * channels + d, load(grad_bias, worker * channels + d) + grads_bias)
            for n in range(states):
                at = (worker * states + n) * channels + d
                store(grad_A, at, load(grad_A, at) + load(grads_A, n * LANES))
        for t in range(lengths[row]):
            for n in range(states):
                grad_B[row, t, n] = sums_B[n, t]
                grad_C[row, t, n] = sums_C[n, t]
