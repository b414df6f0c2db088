"""The package's GPU kernels compared with what they replace, and where the time of a training step goes.

    python benchmarks/kernels.py                          # everything, about four minutes
    python benchmarks/kernels.py --parts gru --sweep      # also the GRU's kernels with other tiles
    TRITON_INTERPRET=1 python benchmarks/kernels.py --device cpu --small   # tries out the script; times are meaningless

Random data with the lengths of the paper's training histories, in batches of 2048; forward and backward pass, one after
the other in one process. The ceilings of the card are measured first: a large product, a large copy. `GPU` is the time
of the device alone, empty if a call has more launches than can be queued; `clock` is that of a call among many. Results
are printed, and on a GPU put into `benchmarks/results/kernels-<device>.{json,md}` after each section, replacing those
of the same name.
"""

import argparse
import contextlib
import functools
import itertools
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import torch
from measure import report, timing
from measure.card import TYPES, WIDTHS, ceilings, true_lengths
from measure.options import find_device, obey_interrupts, positive
from measure.projection import projection
from measure.steps import compiled, epoch, step, tail

from recbole_glintru.launch.errors import UserError
from recbole_glintru.ops import tensor_cores
from recbole_glintru.ops.convolution import triton_guard as convolution_guard
from recbole_glintru.ops.convolution.reference import convolution_reference
from recbole_glintru.ops.gru import triton_guard as gru_guard
from recbole_glintru.ops.histories import host_lengths
from recbole_glintru.ops.layouts.compact import Compact
from recbole_glintru.ops.scan import mamba_guard
from recbole_glintru.ops.scan import triton_guard as scan_guard
from recbole_glintru.ops.scan.selective_scan import selective_scan_last

TILES = ((16, 2), (16, 4), (16, 8), (32, 4), (32, 8), (64, 8))  # rows per program, warps
STATES, EXPAND = 32, 2  # of Mamba4Rec
TAPS = 3  # of GLINT-RU's convolutions
RESULTS = Path(__file__).resolve().parent / "results"


def agreement(options):
    """Whether the kernels agree with their references on this card; a warning on stderr says why not."""
    rows = []
    if options.device.type == "cuda":
        for (_, d), (kind, dtype) in itertools.product(WIDTHS.values(), TYPES.items()):
            usable = gru_guard.are_usable(options.device, dtype, d, False)
            rows.append([f"GRU, d={d}, {kind}", "yes" if usable else "no"])
            usable = convolution_guard.are_usable(options.device, dtype, torch.Size([TAPS, d, d]))
            rows.append([f"convolution, d={d}, {kind}", "yes" if usable else "no"])
    scans = itertools.product(WIDTHS.values(), (torch.float32, torch.bfloat16), (False, True))
    for (_, d), dtype, last_only in scans if options.device.type == "cuda" else [((0, 16), torch.float32, False)]:
        usable = scan_guard.are_usable(options.device, EXPAND * d, STATES, dtype, last_only)
        where = "last position" if last_only else "all positions"
        rows.append([f"selective scan, d={d}, {dtype}, {where}", "yes" if usable else "no"])
    yield "Agreement with the references", ["kernels", "agree"], rows


def gru(options):
    """The fused GRU compared with cuDNN's, at the true lengths; cuDNN computes every row up to the longest one.

    Each on the layout that the model has for it: the kernels' has real positions alone.
    """
    for name in WIDTHS:
        lengths, longest, d = true_lengths(name, options)
        layout = Compact(lengths, longest)
        x = torch.randn(len(lengths), longest, d, device=options.device)
        weights = [torch.randn(3 * d, d, device=options.device) * d**-0.5 for _ in range(2)]
        # A product for the input and one for the state, and twice as many backward, for the real positions alone.
        operations = 3 * 2 * 2 * 3 * d * d * int(lengths.sum())
        padded, real = (x, *weights), (layout.arrange(x), *weights)
        actions = {}
        for kind, dtype in TYPES.items():
            actions[f"cuDNN, {kind}"] = (_cudnn, padded, dtype, {})
            actions[f"kernels, {kind}"] = (_fused, real, dtype, {})
            for tile in TILES if options.sweep else ():
                label = f"kernels, {kind}, {tile[0]} rows, {tile[1]} warps"
                actions[label] = (_fused, real, dtype, {"rows": tile[0], "warps": tile[1]})
        rows = _measured(actions, options, layout, operations)
        title = f"GRU, {name} shape: {len(lengths)} rows of at most {longest}, mean {lengths.float().mean():.1f}, d={d}"
        yield title, _header("GRU", "cuDNN"), rows


def _cudnn(x, weight_ih, weight_hh, layout, dtype):
    x, *weights = (tensor.to(dtype) for tensor in (x, weight_ih, weight_hh))
    return torch.gru(x, x.new_zeros(1, len(x), weight_hh.shape[1]), weights, False, 1, 0.0, True, False, True)[0]


def _fused(x, weight_ih, weight_hh, layout, dtype):
    return gru_guard.gru(x, layout, weight_ih, weight_hh, dtype)


@contextlib.contextmanager
def _tile(rows=None, warps=None):
    """Use other tiles than the kernels' own inside the block."""
    from recbole_glintru.ops.gru import triton_gru

    plain = triton_gru.launch
    choices = {} if rows is None else {"rows": rows, "warps": warps}
    triton_gru.launch = lambda *arguments: plain(*arguments, **choices)
    try:
        yield
    finally:
        triton_gru.launch = plain


def _measured(actions, options, layout, operations):
    """Rows: forward pass, step, ratios to the first one of the same type, memory, rate, share of the ceiling.

    Args:
        actions: label -> function, its tensors, the type of products, the tile.
    """
    rows, reference = [], {}
    for label, (function, tensors, dtype, tile) in actions.items():
        own = [tensor.clone().requires_grad_() for tensor in tensors]
        try:
            with _tile(**tile):
                action = functools.partial(function, *own, layout, dtype)
                forward_times, step_times, peak = _times_and_peak(action, own, options.device)
        except Exception as error:
            message = f"{type(error).__name__}: {str(error)[:80]}"
            rows.append([label, message, *[""] * (len(_header("", "")) - 2)])
            continue
        base = reference.setdefault(dtype, step_times)
        rate = _quotient(operations / 1e12, step_times.device)
        times = [report.milliseconds(seconds) for pair in (forward_times, step_times) for seconds in pair]
        ratios = [_quotient(*pair) for pair in zip(base, step_times)]
        known = rate is not None and dtype in options.ceilings
        share = f"{100 * rate * 1e12 / options.ceilings[dtype]:.1f} %" if known else ""
        rows.append([label, *times, *map(report.figure, (*ratios, peak, rate)), share])
    return rows


def _quotient(dividend, divisor):
    """None if either is None."""
    return None if dividend is None or divisor is None else dividend / divisor


def _times_and_peak(forward, inputs, device):
    """Times of a forward pass and of a forward and backward pass, and the MiB that the latter takes."""

    def train():
        out = forward()
        torch.autograd.grad(out, inputs, torch.ones_like(out))

    train()  # compiles
    peak = 0
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        train()
        torch.cuda.synchronize(device)
        peak = (torch.cuda.max_memory_allocated(device) - before) / 2**20
    return *(timing.device_and_clock(action, device) for action in (forward, train)), peak


def convolution(options):
    """The fused convolution compared with the layout's own: one product for all taps and sums of shifted tensors."""
    for name in WIDTHS:
        lengths, longest, d = true_lengths(name, options)
        layout = Compact(lengths, longest)
        x = torch.randn(len(layout.ranks), d, device=options.device)
        taps, biases = (torch.randn(TAPS, *shape, device=options.device) / d for shape in ((d, d), (d,)))
        operations = 3 * 2 * TAPS * d * d * len(x)
        actions = {}
        for kind, dtype in TYPES.items():
            actions[f"PyTorch, {kind}"] = (_plain_convolution, (x, taps, biases), dtype, {})
            actions[f"kernels, {kind}"] = (_fused_convolution, (x, taps, biases), dtype, {})
        with tensor_cores.tf32_products(x):  # for both sides
            rows = _measured(actions, options, layout, operations)
        title = f"Convolution, {name} shape: {len(x)} positions of {len(lengths)} histories, {TAPS} taps, d={d}"
        yield title, _header("convolution", "PyTorch"), rows


def _plain_convolution(x, taps, biases, layout, dtype):
    return convolution_reference(*(tensor.to(dtype) for tensor in (x, taps, biases)), layout)


def _fused_convolution(x, taps, biases, layout, dtype):
    return convolution_guard.convolution(x, taps, biases, layout, dtype)


def _header(kind, reference):
    times = [f"{what}, {where} ms" for what in ("forward", "step") for where in ("GPU", "clock")]
    ratios = [f"times faster than {reference}, GPU", "clock"]
    return [kind, *times, *ratios, "peak MiB", "TFLOP/s", "of the ceiling"]


def scan(options):
    """The selective scan at the last position, as Mamba4Rec trains it, in each backend."""
    for name in WIDTHS:
        lengths, longest, d = true_lengths(name, options)
        channels, states = EXPAND * d, 2 if options.small else STATES
        u, delta = (torch.randn(len(lengths), longest, channels, device=options.device) for _ in range(2))
        B = torch.randn(len(lengths), longest, states, device=options.device)
        C, z = (torch.randn(len(lengths), size, device=options.device) for size in (states, channels))
        A = torch.arange(1.0, states + 1, device=options.device).repeat(channels, 1)
        skip, bias = torch.ones(channels, device=options.device), torch.zeros(channels, device=options.device)
        actions = {}
        for backend in ("torch", "triton", "mamba_ssm"):
            if backend == "mamba_ssm" and not mamba_guard.scan_is_usable(options.device):
                continue

            def run(u, delta, A, B, C, z, skip, bias, lengths, _, backend=backend):
                u, delta, B = (tensor.transpose(1, 2) for tensor in (u, delta, B))
                return selective_scan_last(
                    u, delta, -A, B, C, host_lengths.shifted(lengths, -1), skip, z, bias, True, backend
                )

            actions[backend] = (run, (u, delta, A, B, C, z, skip, bias), torch.float32, {})
        operations = 3 * 6 * channels * states * int(lengths.sum())
        rows = _measured(actions, options, lengths, operations)
        title = f"Selective scan, {name} shape: {len(lengths)} rows of at most {longest}, D={channels}, N={states}"
        yield title, _header("scan", "torch"), rows


PARTS = {  # in order of importance
    part.__name__: part
    for part in (agreement, ceilings, gru, convolution, epoch, step, scan, projection, tail, compiled)
}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command line and return the exit status: 0, 1 if a part failed, 2 for a mistake, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cpu, cuda or cuda:N, default cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=tuple(PARTS))
    parser.add_argument("--batch_size", type=positive(int), default=2048)
    parser.add_argument("--sweep", action="store_true", help="the GRU with other tiles than its own")
    parser.add_argument("--small", action="store_true", help="small sizes, only to try out the script")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    try:
        options.device = find_device(options.device)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.device.type == "cuda":
        torch.cuda.set_device(options.device)
    options.output = options.output.resolve()
    options.ceilings = {}  # operations per second of products, by type, once they are measured
    torch.manual_seed(0)
    obey_interrupts()
    try:
        return run(options)
    except KeyboardInterrupt:
        return 130


def run(options: argparse.Namespace) -> int:
    """Measure each part, even if others fail, print and write each table, and return the exit status."""
    failed, name = [], report.device_name(options.device)
    for part in options.parts:
        try:
            for title, header, rows in PARTS[part](options):
                print(f"\n{title}\n\n" + "\n".join(report.markdown_table(header, rows)), flush=True)
                if options.device.type == "cuda" and not options.small:
                    write(options.output, name, {title: {"header": header, "rows": rows}})
        except Exception:
            failed.append(part)
            traceback.print_exc()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def write(folder: Path, name: str, sections: dict[str, dict]) -> None:
    """Put sections into the results of a device, replacing those of the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = report.file_stem(name, "kernels")
    data_file, text_file = folder / f"{stem}.json", folder / f"{stem}.md"
    written = {"device": name, "torch": torch.__version__, "sections": {}}
    if data_file.is_file():
        written["sections"] = json.loads(data_file.read_text(encoding="utf-8"))["sections"]
    written["sections"].update(sections)
    report.replace(data_file, json.dumps(written, indent=1) + "\n")
    text = [f"# Kernels on {name}\n\nMade by `python benchmarks/kernels.py`, PyTorch {torch.__version__}.\n"]
    for title, section in written["sections"].items():
        table = "\n".join(report.markdown_table(section["header"], section["rows"]))
        text.append(f"## {title}\n\n{table}\n")
    report.replace(text_file, "\n".join(text))


if __name__ == "__main__":
    sys.exit(main())
