"""The two kernels of `triton_scan.py`. Imported only if Triton is installed."""

import triton
import triton.language as tl

# Not specialised: one compilation for all shapes. Also, as no stride is known to be a multiple of anything, no thread
# is given several channels of a tile: with 32 channels in a block, each thread has the column of one channel.
UNSPECIALISED = ["width", "u_row", "u_step", "delta_row", "delta_step", "z_row", "z_step", "out_row", "out_step"]


@triton.jit
def _argument(delta, place, live, bias, BIAS: tl.constexpr):
    """The step sizes before the softplus: `[CHUNK, BLOCK]`."""
    argument = tl.load(delta + place, mask=live, other=0.0).to(tl.float32)
    if BIAS:
        argument += bias[None, :]
    return argument


@triton.jit
def _step_size(argument, live, SOFTPLUS: tl.constexpr):
    """`[CHUNK, BLOCK]`; zero outside the mask, so that the state does not change there."""
    if SOFTPLUS:
        power = tl.exp(tl.minimum(argument, 20))
        series = power * (1 - power * (0.5 - power / 3))  # where 1 + power loses digits of power
        argument = tl.where(argument > 20, argument, tl.where(power < 0.01, series, tl.log(1 + power)))
    return tl.where(live, argument, 0.0)


@triton.jit
def _row(tile, index, i):
    """Row i of a tile `[CHUNK, BLOCK]`.

    With one thread per column this is a register: adding integer zeros is optimised away. Loading each row from memory
    would be no cheaper on the GPU, and ten times the work for the compiler, which re-examines everything else for each
    access.
    """
    return tl.sum(tl.where(index == i, tile.to(tl.int32, bitcast=True), 0), axis=0).to(tl.float32, bitcast=True)


@triton.jit
def _tile(rows, index, CHUNK: tl.constexpr):
    """The tile `[CHUNK, BLOCK]` of `CHUNK` rows `[BLOCK]`."""
    tile = rows[0][None, :] + tl.zeros([CHUNK, 1], tl.float32)
    for i in tl.static_range(1, CHUNK):
        tile = tl.where(index == i, rows[i][None, :], tile)
    return tile


@triton.jit
def _vector(tensor, channel, own, THERE: tl.constexpr):
    return tl.load(tensor + channel, mask=own, other=0.0).to(tl.float32) if THERE else channel.to(tl.float32)


@triton.jit(do_not_specialize=UNSPECIALISED)
def scan_forward(
    u,  # [B, L, D], as delta; z is [B, L, D] or, for one position, [B, D]
    delta,
    A,  # [N, D]
    B,  # [B, L, N]
    C,  # [B, L, N] or, for one position, [B, N]
    z,
    skip,  # [D]
    bias,  # [D]
    lengths,  # [B]
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
    LAST: tl.constexpr,  # whether only the output at the last step is needed
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    own = channel < D
    length = tl.load(lengths + row)
    skips = _vector(skip, channel, own, SKIP)
    biases = _vector(bias, channel, own, BIAS)
    chunks = tl.cdiv(width, CHUNK)
    index = tl.arange(0, CHUNK)[:, None]
    for chunk in range(tl.cdiv(length, CHUNK)):
        first = chunk * CHUNK
        t = first + index
        live = own[None, :] & (t < length)
        place = row * delta_row + t * delta_step + channel[None, :]
        step_tile = _step_size(_argument(delta, place, live, biases, BIAS), live, SOFTPLUS)
        along = tl.load(u + row * u_row + t * u_step + channel[None, :], mask=live, other=0.0).to(tl.float32)
        drive_tile, y_tile = step_tile * along, along * skips[None, :] if SKIP else along * 0
        steps, drives, ys = (), (), ()
        for i in tl.static_range(CHUNK):
            steps += (_row(step_tile, index, i),)
            drives += (_row(drive_tile, index, i),)
            ys += (_row(y_tile, index, i),)
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
        y_tile = _tile(ys, index, CHUNK)
        reads = live & (t == length - 1) if LAST else live
        if GATE:
            place = row * z_row + t * z_step + channel[None, :]
            gate = tl.load(z + place, mask=reads, other=0.0).to(tl.float32)
            y_tile = y_tile * gate / (1 + tl.exp(-gate))
        place = row * out_row + t * out_step + channel[None, :]
        tl.store(out + place, y_tile.to(out.dtype.element_ty), mask=reads)


@triton.jit(do_not_specialize=[*UNSPECIALISED, "grad_row", "grad_step", "splits"])
def scan_backward(
    u, delta, A, B, C, z, skip, bias, lengths,
    out,  # [B, L, D] or [B, D]: the gradient of the output
    kept,
    later,  # [B, N, D], scratch: the gradient that a chunk passes to the previous one
    grad_u,  # [B, L, D], as grad_delta; grad_z is [B, L, D] or, for one position, [B, D]
    grad_delta,
    grad_A,  # [B, N, D]
    grad_B,  # [splits, B, L, N]
    grad_C,  # [splits, B, L, N] or [splits, B, N]
    grad_z,
    grad_skip,  # [B, D]
    grad_row, grad_step,  # of grad_u and grad_delta
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
    share = split * tl.num_programs(0) + row  # index of its part of the sums over channels
    length = tl.load(lengths + row)
    chunks = tl.cdiv(width, CHUNK)
    running = tl.cdiv(length, CHUNK)
    index = tl.arange(0, CHUNK)[:, None]
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
            t = first + index
            live = own[None, :] & (t < length)
            argument = _argument(delta, row * delta_row + t * delta_step + channel[None, :], live, biases, BIAS)
            along = tl.load(u + row * u_row + t * u_step + channel[None, :], mask=live, other=0.0).to(tl.float32)
            reads = live & (t == length - 1) if LAST else live
            grad = tl.load(out + row * out_row + t * out_step + channel[None, :], mask=reads, other=0.0)
            to_y_tile = grad.to(tl.float32)
            if GATE:
                place = row * z_row + t * z_step + channel[None, :]
                gate = tl.load(z + place, mask=reads, other=0.0).to(tl.float32)
                to_y_tile = to_y_tile * gate / (1 + tl.exp(-gate))
            step_tile = _step_size(argument, live, SOFTPLUS)
            drive_tile, y_tile = step_tile * along, along * skips[None, :] if SKIP else along * 0
            steps, drives, to_ys, ys, to_steps, to_drives = (), (), (), (), (), ()
            for i in tl.static_range(CHUNK):
                steps += (_row(step_tile, index, i),)
                drives += (_row(drive_tile, index, i),)
                to_ys += (_row(to_y_tile, index, i),)
                ys += (_row(y_tile, index, i),)
                to_steps += (channel.to(tl.float32) * 0,)
                to_drives += (channel.to(tl.float32) * 0,)
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
                if LAST:  # zero except in the chunk with the last step, which comes first
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
            # Loaded again, because registers are scarce above.
            argument = _argument(delta, row * delta_row + t * delta_step + channel[None, :], live, biases, BIAS)
            along = tl.load(u + row * u_row + t * u_step + channel[None, :], mask=live, other=0.0).to(tl.float32)
            y_tile, to_y_tile = _tile(ys, index, CHUNK), _tile(to_ys, index, CHUNK)
            to_step, to_drive = _tile(to_steps, CHUNK - 1 - index, CHUNK), _tile(to_drives, CHUNK - 1 - index, CHUNK)
            to_delta = to_step + to_drive * along
            if SOFTPLUS:
                to_delta = to_delta / (1 + tl.exp(-argument))
            to_u = to_drive * _tile(steps, index, CHUNK)
            if SKIP:
                to_u += to_y_tile * skips[None, :]
                to_skip += tl.sum(to_y_tile * along, axis=0)
            place = row * grad_row + t * grad_step + channel[None, :]
            tl.store(grad_u + place, to_u.to(grad_u.dtype.element_ty), mask=live)
            tl.store(grad_delta + place, to_delta.to(grad_delta.dtype.element_ty), mask=live)
            if GATE:
                place = row * out_row + t * out_step + channel[None, :]
                grad = tl.load(out + place, mask=reads, other=0.0).to(tl.float32)
                gate = tl.load(z + row * z_row + t * z_step + channel[None, :], mask=reads, other=0.0).to(tl.float32)
                opened = 1 / (1 + tl.exp(-gate))
                to_gate = grad * y_tile * opened * (1 + gate * (1 - opened))
                tl.store(grad_z + place, to_gate.to(grad_z.dtype.element_ty), mask=reads)
        if SKIP:
            tl.store(grad_skip + row * D + channel, to_skip, mask=own)
