"""Time and peak memory of a training step of the selective scan, and how both grow with the length.

    python benchmarks/ops.py                    # the machine's GPU if there is one, else two CPU threads
    python benchmarks/ops.py --rows 16 --plain-rows 4 --growth      # without the growth with the length

The first table compares the package's scans. The second has only `--plain-rows` rows, because the usual time loop,
which it adds, takes 25 to 100 times the memory. Both also show the time of the exponentials alone.

Results are printed, and put into `benchmarks/results/scan-<device>.md`.

The candidates run in turns in one process (A A B B C C A A ...) after a warm-up, and the second of two steps counts;
the table has the median of each and the median of the ratios within a turn, with the range. Peak memory is that of a
separate process, above what the inputs take: the resident set on a CPU (Linux), the allocator's peak on a GPU.

Candidates: `reference`, `torch` and, on a CPU with Numba, `numba` are the package's; `mamba_ssm` is the CUDA kernels,
if usable. All are compared with the first one of a table. `sliced` is the time loop of the published
`selective_scan_ref`, which computes decays and inputs of all steps at once and takes a slice of them in each step: the
gradient of a slice is as large as the whole, so training is quadratic in the length.

What bounds `torch` on a CPU (L=200, D=256, N=32, float32): a training step makes 16 passes of products, sums and small
matrix products over [B, D, N] numbers at 5 to 8 * 10^9 per second and core, and two of 2^x at 1.6 * 10^9: at least 3.9
ns per number. `reference` does the same arithmetic in more passes, each into new memory. Predicted for 128 rows and two
threads: 1.1 s against 7 s, a factor of six. Measured: 0.53 to 0.61 s against 1.4 to 3.1 s, a factor of 3 to 6, with
0.29 against 3.7 GB; `sliced` takes 32 to 47 s and 9 to 10 GB.

`numba` does the arithmetic of a step while its numbers are in registers. Eight numbers need ten products or multiply-
adds in a forward pass and seventeen in a backward one, of which an AVX2 core starts two per cycle at 3.2 GHz: at least
54 ms for 128 rows and two threads; 133 ms were predicted in total, including softplus and products. Measured: 39 and
72 ms, and 0.13 to 0.16 s in total. Compared with `reference`, which takes 1.4 to 1.8 s if the memory of the step before
is still available and up to 3.1 s if not, that is a factor of 11 to 15.
"""

import argparse
import gc
import multiprocessing
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

import torch
from measure import report
from measure.options import find_device, positive

from recbole_glintru.allocator import keep_freed_memory
from recbole_glintru.launch.errors import UserError
from recbole_glintru.ops.scan import mamba_guard, numba_guard
from recbole_glintru.ops.scan.selective_scan import selective_scan


def sliced(u, delta, A, B, C, delta_softplus):
    """The published time loop: `[B, D, L, N]` tensors made at once, then sliced."""
    step = torch.nn.functional.softplus(delta) if delta_softplus else delta
    decays = torch.exp(torch.einsum("bdl,dn->bdln", step, A))
    inputs = torch.einsum("bdl,bnl,bdl->bdln", step, B, u)
    state = decays.new_zeros(decays.shape[0], decays.shape[1], decays.shape[3])
    outputs = []
    for t in range(u.shape[-1]):
        state = decays[:, :, t] * state + inputs[:, :, t]
        outputs.append(torch.einsum("bdn,bn->bd", state, C[:, :, t]))
    return torch.stack(outputs, dim=2)


def backend(name):
    return lambda *tensors, **options: selective_scan(*tensors, **options, backend=name)


CANDIDATES = {name: backend(name) for name in ("numba", "torch", "reference", "mamba_ssm")}
CANDIDATES["sliced"] = sliced
RESULTS = Path(__file__).resolve().parent / "results"


def make_inputs(rows, length, channels, states, device):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        # The model's layout: channels innermost, passed transposed.
        return torch.randn(*shape, generator=generator).to(device)

    u, delta, B, C = (draw(rows, length, width).transpose(1, 2) for width in (channels, channels, states, states))
    A = -torch.arange(1.0, states + 1, device=device).repeat(channels, 1)
    return [tensor.requires_grad_() for tensor in (u, delta, A, B, C)]


def training_step(name, inputs):
    """Seconds of a forward and backward pass."""
    device = inputs[0].device
    for tensor in inputs:
        tensor.grad = None
    gc.collect()  # the 200 steps of a plain loop leave garbage; do not collect it in another's time
    _wait(device)
    start = time.perf_counter()
    out = CANDIDATES[name](*inputs, delta_softplus=True)
    out.backward(torch.ones_like(out))
    _wait(device)
    return time.perf_counter() - start


def second_of_two_steps(name, inputs):
    """Seconds of a step right after a similar one, as in training: it finds the memory that the first has left."""
    training_step(name, inputs)
    return training_step(name, inputs)


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(name, shape, device, threads):
    """MiB that a training step takes above its inputs, in a separate process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_memory, args=(sender, name, shape, str(device), threads))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return float("nan")  # out of memory
    finally:
        process.join()


def _measure_memory(sender, name, shape, device, threads):
    torch.set_num_threads(threads)
    device = torch.device(device)
    training_step(name, make_inputs(1, 2, *shape[2:], device))  # one-time loading
    inputs = make_inputs(*shape, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        training_step(name, inputs)
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        before = _high_water_mark()
        training_step(name, inputs)
        peak = _high_water_mark() - before
    sender.send(peak / 2**20)


def _high_water_mark():
    """The peak of this process's resident set in bytes; unlike `ru_maxrss`, without the parent's. Only on Linux."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        return float("nan")


def compare(names, shape, device, turns, threads):
    """Markdown lines: time, ratio to the first candidate, and peak memory of each candidate."""
    # Before the steps below, whose memory is kept: a plain loop's is half that of a small machine.
    memory = {name: peak_memory(name, shape, device, threads) for name in names}
    inputs = make_inputs(*shape, device)
    for name in names:
        training_step(name, make_inputs(1, *shape[1:], device))
    seconds = [{name: second_of_two_steps(name, inputs) for name in names} for _ in range(turns)]
    yield f"| scan | ms (median of {turns}) | times {names[0]} (range) | peak MiB |"
    yield "|---|---|---|---|"
    for name in names:
        ratios = [turn[name] / turn[names[0]] for turn in seconds]
        median = statistics.median(turn[name] for turn in seconds)
        yield (
            f"| {name} | {1000 * median:.0f} | {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f}) | {memory[name]:.0f} |"
        )


def exponentials(shape, device, turns):
    """A Markdown line: the time of the two powers of each number in a training step, in a buffer in cache."""
    rows, length, channels, states = shape
    buffer = torch.rand(min(2**18, rows * channels * states), device=device).neg_()
    result = torch.empty_like(buffer)
    passes = max(1, 2 * rows * length * channels * states // len(buffer))
    seconds = []
    for _ in range(turns):
        _wait(device)
        start = time.perf_counter()
        for _ in range(passes):
            torch.exp2(buffer, out=result)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    yield f"| exponentials alone | {1000 * statistics.median(seconds):.0f} | | |"


def grow(name, lengths, shape, device, turns, threads):
    """Markdown lines: time and peak memory at each length, in total and per position."""
    yield f"| L | {name}: ms (least of {turns}) | us a position | peak MiB | KiB a position |"
    yield "|---|---|---|---|---|"
    sized = {length: make_inputs(shape[0], length, *shape[2:], device) for length in lengths}
    for inputs in sized.values():
        training_step(name, inputs)
    times = [{length: training_step(name, inputs) for length, inputs in sized.items()} for _ in range(turns)]
    for length in lengths:
        seconds = min(turn[length] for turn in times)
        memory = peak_memory(name, (shape[0], length, *shape[2:]), device, threads)
        yield (
            f"| {length} | {1000 * seconds:.1f} | {1e6 * seconds / length:.0f} | {memory:.0f} "
            f"| {1024 * memory / length:.0f} |"
        )


def main(words: Optional[Sequence[str]] = None) -> None:
    """Run the command line, by default `sys.argv`; a user error ends it with status 2."""
    words = sys.argv[1:] if words is None else list(words)
    arguments, device = parse(words)
    torch.set_num_threads(arguments.threads)
    lines = []
    for line in measure(arguments, device):
        print(line, flush=True)
        lines.append(line)
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / f"{report.file_stem(report.device_name(device), 'scan')}.md"
    command = shlex.join(["python", "benchmarks/ops.py", *words])
    file.write_text(f"# The selective scan\n\nMade by `{command}`.\n\n" + "\n".join(lines) + "\n")
    print(f"\nwritten: {file}")


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, torch.device]:
    """The options, and the device that they name."""
    number, gpu = positive(int), torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--threads", type=number, default=2)
    parser.add_argument("--rows", type=number, help="default 2048 on a GPU, 128 on a CPU")
    parser.add_argument("--length", type=number, default=200)
    parser.add_argument("--hidden", type=number, default=128, help="the scan has twice as many channels")
    parser.add_argument("--states", type=number, default=32)
    parser.add_argument("--turns", type=number, default=5)
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES)
    parser.add_argument("--plain-rows", type=int, default=8, help="of the table with the usual time loop; 0: none")
    parser.add_argument("--growth", type=number, nargs="*", default=[50, 100, 200, 400, 800, 1600, 3200])
    parser.add_argument("--growth-rows", type=number, help="default 256 on a GPU, 16 on a CPU")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args(words)
    if arguments.plain_rows < 0:
        parser.error(f"--plain-rows {arguments.plain_rows}: must be at least 0.")
    try:
        device = find_device(arguments.device)
        if "mamba_ssm" in (arguments.candidates or ()):
            mamba_guard.require_scan(device)
        if "numba" in (arguments.candidates or ()):
            numba_guard.require(device, torch.float32)
    except (UserError, RuntimeError) as error:
        parser.error(str(error))
    return arguments, device


def measure(arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """The lines of the report, one by one."""
    on_gpu = device.type == "cuda"
    names = arguments.candidates
    if names is None:
        names = ["torch", "reference", *(["mamba_ssm"] if on_gpu and mamba_guard.scan_is_usable(device) else [])]
        if numba_guard.is_usable(device, torch.float32):
            names.insert(0, "numba")
    rows = arguments.rows or (2048 if on_gpu else 128)
    shape = (rows, arguments.length, 2 * arguments.hidden, arguments.states)
    where = torch.cuda.get_device_name(device) if on_gpu else f"{arguments.threads} CPU threads"
    yield f"PyTorch {torch.__version__}, {where}, float32, one forward and backward pass\n"
    yield f"B={rows}, L={arguments.length}, D={shape[2]}, N={shape[3]}\n"
    yield from compare(names, shape, device, arguments.turns, arguments.threads)
    yield from exponentials(shape, device, arguments.turns)
    if arguments.plain_rows:
        shape = (arguments.plain_rows, *shape[1:])
        yield f"\nWith the usual time loop, B={shape[0]}\n"
        yield from compare(list(dict.fromkeys([*names, "reference", "sliced"])), shape, device, 1, arguments.threads)
        yield from exponentials(shape, device, arguments.turns)
    if arguments.growth:
        rows = arguments.growth_rows or (256 if on_gpu else 16)
        yield f"\nGrowth, B={rows}\n"
        yield from grow(names[0], arguments.growth, (rows, 0, *shape[2:]), device, 5, arguments.threads)


if __name__ == "__main__":
    keep_freed_memory()  # as run_recbole.py does; the same for all candidates
    main()
