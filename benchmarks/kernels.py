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
from pathlib import Path

import torch
from measure import report, shapes, timing
from measure.steps import WIDTHS, epoch, step, tail

from recbole_glintru.ops import conv_kernels, gru_kernels, mamba_kernels, scan_kernels
from recbole_glintru.ops.compact import Compact
from recbole_glintru.ops.layouts import Padded
from recbole_glintru.ops.selective_scan import selective_scan_last

HALVES = {"float32 (TF32)": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TILES = ((16, 2), (16, 4), (16, 8), (32, 4), (32, 8), (64, 8))  # rows a program, warps
STATES, EXPAND = 32, 2  # of Mamba4Rec
TAPS = 3  # of GLINT-RU's convolutions
RESULTS = Path(__file__).resolve().parent / "results"


def ceilings(options):
    """What the card does at most: products and bytes a second."""
    device, size = options.device, 256 if options.small else 8192
    rows = []
    for name, dtype in HALVES.items():
        factors = [torch.randn(size, size, device=device, dtype=dtype) for _ in range(2)]
        torch.backends.cuda.matmul.allow_tf32 = True
        rate = 2 * size**3 / timing.one_turn(functools.partial(torch.matmul, *factors), device)
        options.ceilings[dtype] = rate
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
        yield title, _header("GRU", "cuDNN"), rows


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
    """Rows: forward pass, step, ratio to the first of the same type, memory, rate, share of the ceiling."""
    rows, reference = [], {}
    for label, (function, dtype, tile) in actions.items():
        own = [tensor.clone().requires_grad_() for tensor in tensors]
        try:
            with _tile(**tile):
                *times, peak = _times_and_peak(functools.partial(function, *own, layout, dtype), own, options.device)
        except Exception as error:
            rows.append([label, f"{type(error).__name__}: {str(error)[:80]}", "", "", "", "", ""])
            continue
        reference.setdefault(dtype, times[1])
        rate = operations / times[1]
        figures = (1e3 * times[0], 1e3 * times[1], reference[dtype] / times[1], peak, rate / 1e12)
        share = f"{100 * rate / options.ceilings[dtype]:.1f} %" if dtype in options.ceilings else ""
        rows.append([label, *map(report.figure, figures), share])
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


def convolution(options):
    """The fused convolution beside the layout's own: one product for all taps and sums of shifted tensors."""
    for name in WIDTHS:
        lengths, longest, d = _lengths(name, options)
        layout = Compact(lengths, longest)
        x = torch.randn(len(layout.ranks), d, device=options.device)
        taps, biases = (torch.randn(TAPS, *shape, device=options.device) / d for shape in ((d, d), (d,)))
        operations = 3 * 2 * TAPS * d * d * len(x)
        actions = {}
        for kind, dtype in HALVES.items():
            actions[f"PyTorch, {kind}"] = (_plain_convolution, dtype, {})
            actions[f"kernels, {kind}"] = (_fused_convolution, dtype, {})
        torch.backends.cuda.matmul.allow_tf32 = True  # for both sides
        rows = _measured(actions, options, (x, taps, biases), layout, operations)
        torch.backends.cuda.matmul.allow_tf32 = False
        title = f"Convolution, {name} shape: {len(x)} positions of {len(lengths)} histories, {TAPS} taps, d={d}"
        yield title, _header("convolution", "PyTorch"), rows


def _plain_convolution(x, taps, biases, layout, dtype):
    return layout.convolve_plainly(*(tensor.to(dtype) for tensor in (x, taps, biases)))


def _fused_convolution(x, taps, biases, layout, dtype):
    return conv_kernels.convolution(x, taps, biases, layout, dtype)


def _header(kind, reference):
    return [kind, "forward, ms", "step, ms", f"times faster than {reference}", "peak MiB", "TFLOP/s", "of the ceiling"]


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
        yield title, _header("scan", "torch"), rows


PARTS = {part.__name__: part for part in (ceilings, gru, convolution, scan, step, epoch, tail)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", type=torch.device, default="cuda", help="default cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=tuple(PARTS))
    parser.add_argument("--batch_size", type=int, default=2048)
    parser.add_argument("--sweep", action="store_true", help="the GRU with other tiles than its own")
    parser.add_argument("--small", action="store_true", help="sizes at which only the script is tried out")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.ceilings = {}  # products a second, by type, once they are measured
    torch.manual_seed(0)
    sections, on_gpu = {}, options.device.type == "cuda"
    name = report.device_name(options.device)
    if on_gpu:
        print(f"selective scan in Triton: {'agrees' if scan_kernels.are_usable(options.device) else 'not usable'}")
        for _, d in WIDTHS.values():
            for kind, dtype in HALVES.items():
                taps = torch.Size([TAPS, d, d])
                usable = {
                    "GRU": gru_kernels.are_usable(options.device, dtype, d, False),
                    "convolution": conv_kernels.are_usable(options.device, dtype, taps),
                }
                for kernels, found in usable.items():
                    print(f"{kernels}, d={d}, {kind}: {'kernels agree' if found else 'kernels not usable'}")
    for part in options.parts:
        for title, header, rows in PARTS[part](options):
            sections[title] = {"header": header, "rows": rows}
            print(f"\n{title}\n\n" + "\n".join(report.markdown_table(header, rows)), flush=True)
        if on_gpu and not options.small:
            _write(options.output, name, sections)


def _write(folder, name, sections):
    """Everything so far: who stops the script keeps it."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / report.file_stem(name).replace("efficiency-", "kernels-")
    written = {"device": name, "torch": torch.__version__, "sections": sections}
    stem.with_suffix(".json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    text = [f"# Kernels on {name}\n\nMade by `python benchmarks/kernels.py`, PyTorch {torch.__version__}.\n"]
    for title, section in sections.items():
        table = "\n".join(report.markdown_table(section["header"], section["rows"]))
        text.append(f"## {title}\n\n{table}\n")
    stem.with_suffix(".md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
