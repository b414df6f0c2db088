"""The package's GPU kernels beside what they replace, and where the milliseconds of a training step go.

    python benchmarks/kernels.py                          # everything, some three minutes
    python benchmarks/kernels.py --parts gru --sweep      # the GRU's kernels with other tiles too
    TRITON_INTERPRET=1 python benchmarks/kernels.py --device cpu --small     # tries the script out; times mean nothing

On random data of the lengths of the paper's training histories, batches of 2048; forward and backward pass, in turns
in one process. Ceilings of the card are measured first: a large product, a large copy. Results are printed, and on a
GPU put into `benchmarks/results/kernels-<device>.{json,md}`.
"""

import argparse
import contextlib
import functools
import json
import tempfile
from pathlib import Path

import torch
from measure import report, shapes, timing
from measure.workload import REFERENCE, Workload

from recbole_glintru import device_data
from recbole_glintru.ops import gru_kernels, mamba_kernels, scan_kernels
from recbole_glintru.ops.layouts import Padded
from recbole_glintru.ops.selective_scan import selective_scan_last

PARTS = ("ceilings", "gru", "scan", "step", "epoch")
WIDTHS = {"ml-1m": (200, 128), "beauty": (100, 64)}  # longest history, hidden size
HALVES = {"float32 (TF32)": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TILES = ((16, 2), (16, 4), (16, 8), (32, 4), (32, 8), (64, 8))  # rows a program, warps
STATES, EXPAND = 32, 2  # of Mamba4Rec
RESULTS = Path(__file__).resolve().parent / "results"


def ceilings(options):
    """What the card does at most: products and bytes a second."""
    device, size = options.device, 256 if options.small else 8192
    rows = []
    for name, dtype in HALVES.items():
        factors = [torch.randn(size, size, device=device, dtype=dtype) for _ in range(2)]
        torch.backends.cuda.matmul.allow_tf32 = True
        rate = 2 * size**3 / timing.one_turn(functools.partial(torch.matmul, *factors), device)
        torch.backends.cuda.matmul.allow_tf32 = False
        rows.append([f"product, {name}", f"{rate / 1e12:,.1f} TFLOP/s"])
    source = torch.randn(size * size, device=device)
    target = torch.empty_like(source)
    seconds = timing.one_turn(lambda: target.copy_(source), device)
    rows.append(["copy, read and written", f"{8 * size * size / seconds / 1e12:,.2f} TB/s"])
    yield "Ceilings", ["of the card", "rate"], rows


def _lengths(name, options):
    longest, width = (12, 32) if options.small else WIDTHS[name]
    rows = 20 if options.small else options.batch_size
    lengths = torch.as_tensor(shapes.training_lengths(shapes.SHAPES[name], rows, longest), device=options.device)
    return lengths, longest, width


def gru(options):
    """The fused GRU beside cuDNN's, at the true lengths: cuDNN computes every row up to the longest one."""
    for name in WIDTHS:
        lengths, longest, d = _lengths(name, options)
        layout = Padded(lengths, longest)
        x = torch.randn(len(lengths), longest, d, device=options.device)
        weights = [torch.randn(3 * d, d, device=options.device) * d**-0.5 for _ in range(2)]
        # A product for the input and one for the state, and twice as many backward; of the real positions alone.
        operations = 3 * 2 * 2 * 3 * d * d * int(lengths.sum())
        actions = {}
        for kind, dtype in HALVES.items():
            actions[f"cuDNN, {kind}"] = (_cudnn, dtype, {})
            actions[f"kernels, {kind}"] = (_fused, dtype, {})
            for tile in TILES if options.sweep else ():
                label = f"kernels, {kind}, {tile[0]} rows, {tile[1]} warps"
                actions[label] = (_fused, dtype, {"rows": tile[0], "warps": tile[1]})
        rows = _measured(actions, options, (x, *weights), layout, operations)
        title = f"GRU, {name} shape: {len(lengths)} rows of at most {longest}, mean {lengths.float().mean():.1f}, d={d}"
        yield title, ["GRU", "forward, ms", "step, ms", "times faster than cuDNN", "peak MiB", "TFLOP/s"], rows


def _cudnn(x, weight_ih, weight_hh, layout, dtype):
    x, *weights = (tensor.to(dtype) for tensor in (x, weight_ih, weight_hh))
    return torch.gru(x, x.new_zeros(1, len(x), weight_hh.shape[1]), weights, False, 1, 0.0, True, False, True)[0]


def _fused(x, weight_ih, weight_hh, layout, dtype):
    return gru_kernels.gru(x, layout, weight_ih, weight_hh, dtype)


@contextlib.contextmanager
def _tile(rows=None, warps=None):
    """Other tiles than the kernels' own, inside the block."""
    from recbole_glintru.ops import triton_gru

    plain = triton_gru.launch
    choices = {} if rows is None else {"rows": rows, "warps": warps}
    triton_gru.launch = lambda *arguments: plain(*arguments, **choices)
    try:
        yield
    finally:
        triton_gru.launch = plain


def _measured(actions, options, tensors, layout, operations):
    """Rows of the table: time of a forward pass, of a step, ratio to the first of the same type, memory, rate."""
    rows, reference = [], {}
    for label, (function, dtype, tile) in actions.items():
        own = [tensor.clone().requires_grad_() for tensor in tensors]
        try:
            with _tile(**tile):
                *times, peak = _times_and_peak(functools.partial(function, *own, layout, dtype), own, options.device)
        except Exception as error:
            rows.append([label, f"{type(error).__name__}: {str(error)[:80]}", "", "", "", ""])
            continue
        reference.setdefault(dtype, times[1])
        figures = (1e3 * times[0], 1e3 * times[1], reference[dtype] / times[1], peak, operations / times[1] / 1e12)
        rows.append([label, *map(report.figure, figures)])
    return rows


def _times_and_peak(forward, inputs, device):
    """Seconds of a forward pass and of a forward and backward one, and MiB that the latter takes."""

    def train():
        out = forward()
        torch.autograd.grad(out, inputs, torch.ones_like(out))

    train()  # compiles
    on_gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    times = [timing.one_turn(action, device) for action in (forward, train)]
    return *times, (torch.cuda.max_memory_allocated(device) - before) / 2**20 if on_gpu else 0


def scan(options):
    """The selective scan at the last position, as Mamba4Rec trains it, in each backend."""
    for name in WIDTHS:
        lengths, longest, d = _lengths(name, options)
        channels, states = EXPAND * d, 2 if options.small else STATES
        u, delta = (torch.randn(len(lengths), longest, channels, device=options.device) for _ in range(2))
        B = torch.randn(len(lengths), longest, states, device=options.device)
        C, z = (torch.randn(len(lengths), size, device=options.device) for size in (states, channels))
        A = torch.arange(1.0, states + 1, device=options.device).repeat(channels, 1)
        skip, bias = torch.ones(channels, device=options.device), torch.zeros(channels, device=options.device)
        actions = {}
        for backend in ("torch", "triton", "mamba_ssm"):
            if backend == "mamba_ssm" and not mamba_kernels.scan_is_usable(options.device):
                continue

            def run(u, delta, A, B, C, z, skip, bias, lengths, _, backend=backend):
                u, delta, B = (tensor.transpose(1, 2) for tensor in (u, delta, B))
                return selective_scan_last(u, delta, -A, B, C, lengths - 1, skip, z, bias, True, backend)

            actions[backend] = (run, torch.float32, {})
        operations = 3 * 6 * channels * states * int(lengths.sum())
        rows = _measured(actions, options, (u, delta, A, B, C, z, skip, bias), lengths, operations)
        title = f"Selective scan, {name} shape: {len(lengths)} rows of at most {longest}, D={channels}, N={states}"
        yield title, ["scan", "forward, ms", "step, ms", "times faster than torch", "peak MiB", "TFLOP/s"], rows


def _workload(name, options, folder):
    rows = 2000 if options.small else 10 * options.batch_size
    shape = shapes.SHAPES[name]
    shapes.write_atomic_files(shape, folder, min(shape.users, rows * shape.users // shape.training_rows + 1))
    batch_size = 64 if options.small else options.batch_size
    changes = {"hidden_size": 32, "MAX_ITEM_LIST_LENGTH": 12} if options.small else {}
    return Workload(f"{name} shape", shape.dataset, folder, options.device, batch_size, shape, (REFERENCE,), changes)


def step(options):
    """What each millisecond of a training step of GLINT-RU is: the kernels that take the most, as they are called."""
    for name in WIDTHS:
        with tempfile.TemporaryDirectory() as folder:
            workload = _workload(name, options, Path(folder))
            model, (batch,) = workload.model(REFERENCE), workload.training_batches(REFERENCE, 1)
        optimiser = torch.optim.Adam(model.parameters())
        for precision in (None, torch.bfloat16):
            train = functools.partial(_train, model, optimiser, batch, options.device.type, precision)
            train()
            rows = _profile(train, options.device)
            rows.append(["step, by the clock", f"{1e3 * timing.one_turn(train, options.device):.3f}", ""])
            yield f"A training step, {name} shape, {precision or 'float32'}", ["kernel", "ms", "launches"], rows


def _train(model, optimiser, batch, device_type, precision):
    with torch.autocast(device_type, precision, enabled=precision is not None):
        loss = model.calculate_loss(batch)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _profile(train, device):
    activity = torch.profiler.ProfilerActivity
    kind = activity.CUDA if device.type == "cuda" else activity.CPU
    with torch.profiler.profile(activities={activity.CPU, kind}) as profile:
        train()
        if device.type == "cuda":
            torch.cuda.synchronize()
    events = [(event.key, _own_time(event, kind), event.count) for event in profile.key_averages()]
    events = sorted((event for event in events if event[1] > 0), key=lambda event: -event[1])
    rows = [[key[:90], f"{time / 1e3:.3f}", str(count)] for key, time, count in events[:25]]
    busy, launches = sum(time for _, time, _ in events), sum(count for *_, count in events)
    return [*rows, ["all", f"{busy / 1e3:.3f}", str(launches)]]


def _own_time(event, kind):
    """Microseconds; the name of the attribute is another one before PyTorch 2.4."""
    if kind == torch.profiler.ProfilerActivity.CPU:
        return event.self_cpu_time_total
    return getattr(event, "self_device_time_total", getattr(event, "self_cuda_time_total", 0))


def epoch(options):
    """RecBole's trainer, scaled to a whole epoch, with the training data in main memory and on the card."""
    for name in WIDTHS:
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            workload = _workload(name, options, Path(folder))
            for switch in (False, True):
                model, loader = workload.model(REFERENCE), workload.training_loader(REFERENCE)
                trainer = workload.trainer(REFERENCE, model)
                with device_data.on_request({"data_on_device": switch}, loader, options.device):
                    train = functools.partial(trainer._train_epoch, loader, 0)
                    train()
                    seconds = timing.one_turn(train, options.device)
                share = workload.training_rows / len(loader._dataset)
                rows.append([str(switch), report.figure(1e3 * seconds / len(loader)), report.figure(seconds * share)])
        yield f"RecBole's trainer, {name} shape", ["data_on_device", "step, ms", "epoch, s"], rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", type=torch.device, default="cuda", help="default cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--batch_size", type=int, default=2048)
    parser.add_argument("--sweep", action="store_true", help="the GRU with other tiles than its own")
    parser.add_argument("--small", action="store_true", help="sizes at which only the script is tried out")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.manual_seed(0)
    sections, on_gpu = {}, options.device.type == "cuda"
    name = report.device_name(options.device)
    if on_gpu:
        print(f"selective scan in Triton: {'agrees' if scan_kernels.are_usable(options.device) else 'not usable'}")
        for _, d in WIDTHS.values():
            for kind, dtype in HALVES.items():
                found = "agree" if gru_kernels.are_usable(options.device, dtype, d, False) else "not usable"
                print(f"GRU kernels, d={d}, {kind}: {found}")
    for part in options.parts:
        for title, header, rows in globals()[part](options):
            sections[title] = {"header": header, "rows": rows}
            print(f"\n{title}\n\n" + "\n".join(report.markdown_table(header, rows)), flush=True)
    if on_gpu and not options.small:
        options.output.mkdir(parents=True, exist_ok=True)
        stem = options.output / report.file_stem(name).replace("efficiency-", "kernels-")
        written = {"device": name, "torch": torch.__version__, "sections": sections}
        stem.with_suffix(".json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        text = [f"# Kernels on {name}\n\nMade by `python benchmarks/kernels.py`, PyTorch {torch.__version__}.\n"]
        for title, section in sections.items():
            table = "\n".join(report.markdown_table(section["header"], section["rows"]))
            text.append(f"## {title}\n\n{table}\n")
        stem.with_suffix(".md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
