"""The two kernels of `triton_scan`. Imported only where Triton is."""

import triton
import triton.language as tl

# One compilation for all shapes.
UNSPECIALISED = ["width", "u_row", "u_step", "delta_row", "delta_step", "z_row", "z_step", "out_row", "out_step"]


@triton.jit
def _argument(delta, channel, live, bias, BIAS: tl.constexpr):
    """What the step sizes are the softplus of: `[BLOCK]`."""
    argument = tl.load(delta + channel, mask=live, other=0.0).to(tl.float32)
    if BIAS:
        argument += bias
    return argument


@triton.jit
def _step_size(argument, live, SOFTPLUS: tl.constexpr):
    """`[BLOCK]`; zero outside the mask, so that the state stays as it is there."""
    if SOFTPLUS:
        argument = tl.where(argument > 20, argument, tl.log(1 + tl.exp(tl.minimum(argument, 20))))
    return tl.where(live, argument, 0.0)


@triton.jit
def _vector(tensor, channel, own, THERE: tl.constexpr):
    return tl.load(tensor + channel, mask=own, other=0.0).to(tl.float32) if THERE else channel.to(tl.float32)


@triton.jit(do_not_specialize=UNSPECIALISED)
def scan_forward(
    u,  # [B, L, D], as delta; with z [B, L, D] or, for one position, [B, D]
    delta,
    A,  # [N, D]
    B,  # [B, L, N]
    C,  # [B, L, N] or, for one position, [B, N]
    z,
    skip,  # [D]
    bias,  # [D]
    lengths,  # [B], at least 1
    out,  # [B, L, D] or [B, D], written
    kept,  # [B, chunks, N, D], written: the state before each chunk but the first
    width,  # L
    u_row, u_step, delta_row, delta_step, z_row, z_step, out_row, out_step,
    D: tl.constexpr,
    N: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    SKIP: tl.constexpr,
    GATE: tl.constexpr,
    BIAS: tl.constexpr,
    LAST: tl.constexpr,  # whether only the output at the last step is wanted
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    own = channel < D
    length = tl.load(lengths + row)
    skips = _vector(skip, channel, own, SKIP)
    biases = _vector(bias, channel, own, BIAS)
    chunks = tl.cdiv(width, CHUNK)
    for chunk in range(tl.cdiv(length, CHUNK)):
        first = chunk * CHUNK
        steps, drives, ys = (), (), ()
        for i in tl.static_range(CHUNK):
            live = own & (channel * 0 + first + i < length)
            argument = _argument(delta + row * delta_row + (first + i) * delta_step, channel, live, biases, BIAS)
            along = tl.load(u + row * u_row + (first + i) * u_step + channel, mask=live, other=0.0).to(tl.float32)
            step = _step_size(argument, live, SOFTPLUS)
            steps += (step,)
            drives += (step * along,)
            ys += (along * skips if SKIP else along * 0,)
        states = kept + (row * chunks + chunk) * N * D + channel
        inputs = B + (row * width + first) * N
        readouts = C + (row * N if LAST else (row * width + first) * N)
        for n in range(N):
            rate = tl.load(A + n * D + channel, mask=own, other=0.0) * 1.4426950408889634  # for powers of two
            state = tl.load(states + n * D, mask=channel < D * tl.minimum(chunk, 1), other=0.0)
            sums = ()
            for i in tl.static_range(CHUNK):
                now = first + i
                into = tl.load(inputs + i * N + n, mask=now < length, other=0.0).to(tl.float32)
                state = tl.exp2(steps[i] * rate) * state + drives[i] * into
                is_read = now == length - 1 if LAST else now < length
                readout = tl.load(readouts + (n if LAST else i * N + n), mask=is_read, other=0.0).to(tl.float32)
                sums += (ys[i] + state * readout,)
            ys = sums
            tl.store(states + (N + n) * D, state, mask=own & (channel * 0 + chunk + 1 < chunks))
        for i in tl.static_range(CHUNK):
            t = channel * 0 + first + i
            reads = own & (t == length - 1) if LAST else own & (t < length)
            y = ys[i]
            if GATE:
                place = z + row * z_row + (first + i) * z_step + channel
                gate = tl.load(place, mask=reads, other=0.0).to(tl.float32)
                y = y * gate / (1 + tl.exp(-gate))
            place = out + row * out_row + (first + i) * out_step + channel
            tl.store(place, y.to(out.dtype.element_ty), mask=reads)


@triton.jit(do_not_specialize=[*UNSPECIALISED, "splits"])
def scan_backward(
    u, delta, A, B, C, z, skip, bias, lengths,
    out,  # [B, L, D] or [B, D]: the gradient of the output
    kept,
    later,  # [B, N, D], scratch: the gradient that a chunk hands to the one before
    grad_u,  # [B, L, D], as grad_delta and, or [B, D], grad_z
    grad_delta,
    grad_A,  # [B, N, D]
    grad_B,  # [splits, B, L, N]
    grad_C,  # [splits, B, L, N] or [splits, B, N]
    grad_z,
    grad_skip,  # [B, D]
    splits,
    width,
    u_row, u_step, delta_row, delta_step, z_row, z_step, out_row, out_step,
    D: tl.constexpr,
    N: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    SKIP: tl.constexpr,
    GATE: tl.constexpr,
    BIAS: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    share = split * tl.num_programs(0) + row  # of the sums over channels
    length = tl.load(lengths + row)
    chunks = tl.cdiv(width, CHUNK)
    running = tl.cdiv(length, CHUNK)
    for block in range(split, tl.cdiv(D, BLOCK), splits):
        channel = block * BLOCK + tl.arange(0, BLOCK)
        own = channel < D
        skips = _vector(skip, channel, own, SKIP)
        biases = _vector(bias, channel, own, BIAS)
        to_skip = channel.to(tl.float32) * 0
        behind = row * N * D + channel
        for back in range(running):
            chunk = running - 1 - back
            first = chunk * CHUNK
            steps, drives, to_ys, ys, to_steps, to_drives = (), (), (), (), (), ()
            for i in tl.static_range(CHUNK):
                t = channel * 0 + first + i
                live = own & (t < length)
                argument = _argument(delta + row * delta_row + (first + i) * delta_step, channel, live, biases, BIAS)
                along = tl.load(u + row * u_row + (first + i) * u_step + channel, mask=live, other=0.0).to(tl.float32)
                reads = own & (t == length - 1) if LAST else live
                place = out + row * out_row + (first + i) * out_step + channel
                to_y = tl.load(place, mask=reads, other=0.0).to(tl.float32)
                if GATE:
                    place = z + row * z_row + (first + i) * z_step + channel
                    gate = tl.load(place, mask=reads, other=0.0).to(tl.float32)
                    to_y = to_y * gate / (1 + tl.exp(-gate))
                step = _step_size(argument, live, SOFTPLUS)
                steps += (step,)
                drives += (step * along,)
                to_ys += (to_y,)
                ys += (along * skips if SKIP else along * 0,)
                to_steps += (along * 0,)
                to_drives += (along * 0,)
            states = kept + (row * chunks + chunk) * N * D + channel
            inputs = B + (row * width + first) * N
            to_inputs = grad_B + (share * width + first) * N
            readouts = C + (row * N if LAST else (row * width + first) * N)
            to_readouts = grad_C + (share * N if LAST else (share * width + first) * N)
            continued = channel < D * tl.minimum(back, 1)
            for n in range(N):
                rate = tl.load(A + n * D + channel, mask=own, other=0.0)
                state = tl.load(states + n * D, mask=channel < D * tl.minimum(chunk, 1), other=0.0)
                decays, decayed, sums = (), (), ()
                at_last = state * 0
                for i in tl.static_range(CHUNK):
                    now = first + i
                    into = tl.load(inputs + i * N + n, mask=now < length, other=0.0).to(tl.float32)
                    is_read = now == length - 1 if LAST else now < length
                    readout = tl.load(readouts + (n if LAST else i * N + n), mask=is_read, other=0.0).to(tl.float32)
                    decay = tl.exp2(steps[i] * (rate * 1.4426950408889634))
                    before = decay * state
                    state = before + drives[i] * into
                    decays += (decay,)
                    decayed += (before,)
                    sums += (ys[i] + state * readout,)
                    if LAST:
                        at_last += state * to_ys[i]
                    else:
                        spot = to_readouts + i * N + n
                        total = tl.load(spot, mask=(now < length) & (block > split), other=0.0)
                        tl.store(spot, total + tl.sum(state * to_ys[i], axis=0), mask=now < length)
                ys = sums
                if LAST:  # zero in all chunks but the one that holds the last step, which comes first
                    spot = to_readouts + n
                    total = tl.load(spot, mask=(block > split) | (back > 0), other=0.0)
                    tl.store(spot, total + tl.sum(at_last, axis=0))

                passed = tl.load(later + behind + n * D, mask=continued, other=0.0)
                to_rate = state * 0
                new_steps, new_drives = (), ()  # the last step first
                for k in tl.static_range(CHUNK):
                    now = first + CHUNK - 1 - k
                    into = tl.load(inputs + (CHUNK - 1 - k) * N + n, mask=now < length, other=0.0).to(tl.float32)
                    is_read = now == length - 1 if LAST else now < length
                    readout = tl.load(readouts + (n if LAST else (CHUNK - 1 - k) * N + n), mask=is_read, other=0.0).to(
                        tl.float32
                    )
                    to_state = passed + to_ys[CHUNK - 1 - k] * readout
                    passed = to_state * decays[CHUNK - 1 - k]
                    to_exponent = to_state * decayed[CHUNK - 1 - k]
                    to_rate += to_exponent * steps[CHUNK - 1 - k]
                    new_steps += (to_steps[k] + to_exponent * rate,)
                    new_drives += (to_drives[k] + to_state * into,)
                    spot = to_inputs + (CHUNK - 1 - k) * N + n
                    total = tl.load(spot, mask=(now < length) & (block > split), other=0.0)
                    tl.store(spot, total + tl.sum(to_state * drives[CHUNK - 1 - k], axis=0), mask=now < length)
                to_steps, to_drives = new_steps, new_drives
                tl.store(later + behind + n * D, passed, mask=own)
                total = tl.load(grad_A + behind + n * D, mask=continued, other=0.0)
                tl.store(grad_A + behind + n * D, total + to_rate, mask=own)
            for i in tl.static_range(CHUNK):  # read again: registers are scarce above
                t = channel * 0 + first + i
                live = own & (t < length)
                argument = _argument(delta + row * delta_row + (first + i) * delta_step, channel, live, biases, BIAS)
                along = tl.load(u + row * u_row + (first + i) * u_step + channel, mask=live, other=0.0).to(tl.float32)
                to_delta = to_steps[CHUNK - 1 - i] + to_drives[CHUNK - 1 - i] * along
                if SOFTPLUS:
                    to_delta = to_delta / (1 + tl.exp(-argument))
                to_u = to_drives[CHUNK - 1 - i] * steps[i]
                if SKIP:
                    to_u += to_ys[i] * skips
                    to_skip += to_ys[i] * along
                place = (row * width + first + i) * D + channel
                tl.store(grad_u + place, to_u.to(grad_u.dtype.element_ty), mask=live)
                tl.store(grad_delta + place, to_delta.to(grad_delta.dtype.element_ty), mask=live)
                if GATE:
                    reads = own & (t == length - 1) if LAST else live
                    place = row * out_row + (first + i) * out_step + channel
                    grad = tl.load(out + place, mask=reads, other=0.0).to(tl.float32)
                    gate = tl.load(z + row * z_row + (first + i) * z_step + channel, mask=reads, other=0.0)
                    opened = 1 / (1 + tl.exp(-gate.to(tl.float32)))
                    to_gate = grad * ys[i] * opened * (1 + gate * (1 - opened))
                    tl.store(grad_z + place, to_gate.to(grad_z.dtype.element_ty), mask=reads)
        if SKIP:
            tl.store(grad_skip + row * D + channel, to_skip, mask=own)
