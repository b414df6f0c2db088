"""The recurrence of a selective scan and its gradient as compiled CPU loops (Numba); `numba_scan` calls them.

    s_t = exp(step_t A) * s_{t-1} + drive_t B_t,    y_t = C_t . s_t,    s_{-1} = 0.

A worker takes one row after the other, and of it `LANES` channels at a time, whose states stay in the first cache from
the first step to the last. The innermost loops run over these lanes and become vector instructions; for that the
compiler must know that what they write is not what they read. So what belongs together lies in one small array, at
distances known in advance: `lanes` has what a step has of each channel, `table` what each state of each channel has.

Powers of two stand for the exponentials: a polynomial, and an addition to the bits of the exponent.
"""

from numba import njit, types
from numba.extending import intrinsic
from numpy import empty, float32, int32

from recbole_glintru.ops.numba_scan import CHUNK, LANES

ZERO = float32(0)
# 2^f for |f| <= 1/2, to 5e-9 of it: 1 + f times the polynomial that is (2^f - 1) / f at Chebyshev's six nodes. With 1
# exactly, so that a state stays as it is where the step is zero.
P1, P2, P3, P4, P5, P6 = map(
    float32,
    (0.6931471880262287, 0.24022650760568132, 0.055503571142201544, 0.00961808255728395, 0.0013390863364174759,
     0.00015453162941980736),
)  # fmt: skip
ONE = float32(1)
SMALLEST = float32(-126)  # 2^-126 is the smallest number with all its digits
ROUNDING = float32(1.5 * 2**23)  # added to x, it leaves the nearest integer in the last bits
MANTISSA_BITS = int32(23)


@intrinsic
def _bits(typing_context, x):
    """The bits of a float32 as an int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.int32))

    return types.int32(types.float32), generate


@intrinsic
def _from_bits(typing_context, bits):
    """The float32 that has the bits of an int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@njit(fastmath={"contract"})  # of no other order: x + ROUNDING - ROUNDING is not x
def exp2(x):
    """2^x in float32, to 7.2e-8 of it, for x up to 127; 2^-126 for everything below -126, NaN for NaN."""
    x = SMALLEST if SMALLEST > x else x  # in this order it is one instruction
    rounded = x + ROUNDING
    rest = x - (rounded - ROUNDING)
    power = ONE + rest * (P1 + rest * (P2 + rest * (P3 + rest * (P4 + rest * (P5 + rest * P6)))))
    return _from_bits(int32(_bits(power) + (_bits(rounded) << MANTISSA_BITS)))


SUMS_IN_ANY_ORDER = {"contract", "reassoc"}  # NaN and infinity stay what they are


@njit(fastmath=SUMS_IN_ANY_ORDER, nogil=True)
def forward(worker, workers, order, lengths, keep, reads, step, drive, exponents, B, C, y, last, kept):
    """A worker's part of the rows: every `workers`-th of `order`, from the place `worker` on.

    Args:
        order: `[B] int64`, a permutation of the rows.
        lengths: `[B] int64`, how many steps of each row are computed.
        keep: whether the backward pass will want the states of `kept`.
        reads: whether y is there.
        step, drive: `[B, L, D]`; all numbers are float32, and contiguous, and D stands for two dimensions, the blocks
            of `LANES` channels and the channels of a block.
        exponents: `[N, D]`, A in powers of two.
        B, C: `[B, L, N]`.
        y: `[B, L, D]`, written up to the lengths; last: `[B, N, D]`, written.
        kept: `[B, ceil(L / CHUNK), N, D]`, the states before each chunk, written.
    """
    EXPONENT, STATE = 0, 1
    STEP, DRIVE, Y = 0, 1, 2
    rows, _, blocks, _ = step.shape
    states = B.shape[2]
    table = empty((states, 2, LANES), float32)
    lanes = empty((3, LANES), float32)
    for place in range(worker, rows, workers):
        row = order[place]
        for block in range(blocks):
            for n in range(states):
                for w in range(LANES):
                    table[n, EXPONENT, w] = exponents[n, block, w]
                    table[n, STATE, w] = ZERO
            for t in range(lengths[row]):
                if keep and t % CHUNK == 0:
                    for n in range(states):
                        for w in range(LANES):
                            kept[row, t // CHUNK, n, block, w] = table[n, STATE, w]
                for w in range(LANES):
                    lanes[STEP, w] = step[row, t, block, w]
                    lanes[DRIVE, w] = drive[row, t, block, w]
                    lanes[Y, w] = ZERO
                for n in range(states):
                    b = B[row, t, n]
                    c = C[row, t, n]
                    for w in range(LANES):
                        decay = exp2(lanes[STEP, w] * table[n, EXPONENT, w])
                        state = decay * table[n, STATE, w] + lanes[DRIVE, w] * b
                        table[n, STATE, w] = state
                        lanes[Y, w] += c * state
                if reads:
                    for w in range(LANES):
                        y[row, t, block, w] = lanes[Y, w]
            for n in range(states):
                for w in range(LANES):
                    last[row, n, block, w] = table[n, STATE, w]


@njit(fastmath=SUMS_IN_ANY_ORDER, nogil=True)
def backward(
    worker, workers, order, lengths, reads, step, drive, A, exponents, B, C, kept, grad_y, grad_last,
    grad_step, grad_drive, grad_A, grad_B, grad_C,
):  # fmt: skip
    """A worker's part of the rows, from the end: the states of a chunk again, then its gradients.

    Args:
        worker, workers, order, lengths, step, drive, exponents, B, C, kept: those of `forward`.
        reads: whether grad_y is there.
        A: `[N, D]`.
        grad_y: `[B, L, D]`; grad_last: `[B, N, D]`.
        grad_step, grad_drive: `[B, L, D]`, written up to the lengths.
        grad_A: `[workers, N, D]`, grad_B, grad_C: `[B, L, N]`, added to.
    """
    A_, EXPONENT, GRAD, GRAD_A = 0, 1, 2, 3
    STEP, DRIVE, GRAD_Y, GRAD_STEP, GRAD_DRIVE = 0, 1, 2, 3, 4
    DECAY, STATE = 0, 1
    rows, _, blocks, _ = step.shape
    states = B.shape[2]
    table = empty((states, 4, LANES), float32)
    lanes = empty((5, LANES), float32)
    history = empty((states, CHUNK + 1, 2, LANES), float32)  # the decay of each step, and the state before it
    for place in range(worker, rows, workers):
        row = order[place]
        length = lengths[row]
        for block in range(blocks):
            for n in range(states):
                for w in range(LANES):
                    table[n, A_, w] = A[n, block, w]
                    table[n, EXPONENT, w] = exponents[n, block, w]
                    table[n, GRAD, w] = grad_last[row, n, block, w]
                    table[n, GRAD_A, w] = ZERO
            for chunk in range((length - 1) // CHUNK, -1, -1):
                start = chunk * CHUNK
                stop = min(start + CHUNK, length)
                for n in range(states):
                    for w in range(LANES):
                        history[n, 0, STATE, w] = kept[row, chunk, n, block, w]
                for t in range(start, stop):
                    i = t - start
                    for w in range(LANES):
                        lanes[STEP, w] = step[row, t, block, w]
                        lanes[DRIVE, w] = drive[row, t, block, w]
                    for n in range(states):
                        b = B[row, t, n]
                        for w in range(LANES):
                            decay = exp2(lanes[STEP, w] * table[n, EXPONENT, w])
                            history[n, i, DECAY, w] = decay
                            history[n, i + 1, STATE, w] = decay * history[n, i, STATE, w] + lanes[DRIVE, w] * b
                for t in range(stop - 1, start - 1, -1):
                    i = t - start
                    for w in range(LANES):
                        lanes[STEP, w] = step[row, t, block, w]
                        lanes[DRIVE, w] = drive[row, t, block, w]
                        lanes[GRAD_Y, w] = grad_y[row, t, block, w] if reads else ZERO
                        lanes[GRAD_STEP, w] = ZERO
                        lanes[GRAD_DRIVE, w] = ZERO
                    for n in range(states):
                        b = B[row, t, n]
                        c = C[row, t, n]
                        to_b = ZERO
                        to_c = ZERO
                        for w in range(LANES):
                            grad = table[n, GRAD, w] + c * lanes[GRAD_Y, w]
                            to_b += grad * lanes[DRIVE, w]
                            to_c += lanes[GRAD_Y, w] * history[n, i + 1, STATE, w]
                            lanes[GRAD_DRIVE, w] += grad * b
                            grad *= history[n, i, DECAY, w]
                            table[n, GRAD, w] = grad
                            to_exponent = grad * history[n, i, STATE, w]
                            table[n, GRAD_A, w] += to_exponent * lanes[STEP, w]
                            lanes[GRAD_STEP, w] += to_exponent * table[n, A_, w]
                        grad_B[row, t, n] += to_b
                        grad_C[row, t, n] += to_c
                    for w in range(LANES):
                        grad_step[row, t, block, w] = lanes[GRAD_STEP, w]
                        grad_drive[row, t, block, w] = lanes[GRAD_DRIVE, w]
            for n in range(states):
                for w in range(LANES):
                    grad_A[worker, n, block, w] += table[n, GRAD_A, w]
