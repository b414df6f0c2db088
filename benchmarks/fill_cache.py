"""Fills Triton's cache: runs each kernel that the benchmarks use once, in as many processes as there are cores.

    python benchmarks/fill_cache.py

A kernel takes seconds to compile, and a process compiles one after the other. A few rows are enough, because kernels
are compiled for widths, types and layouts, not for numbers of rows. Models come after the kernels and compile the rest.
"""

import argparse
import functools
import itertools
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Callable, Optional

import torch
from measure import growth, memory, shapes
from measure.card import TYPES, WIDTHS
from measure.options import cores, find_device, obey_interrupts, positive
from measure.workload import Catalogue, empty_folder, find_settings, make_model

from recbole_glintru.launch.errors import UserError
from recbole_glintru.ops.convolution import triton_guard as convolution_guard
from recbole_glintru.ops.gru import triton_guard as gru_guard
from recbole_glintru.ops.layouts.compact import Compact
from recbole_glintru.ops.layouts.padded import Padded
from recbole_glintru.ops.scan import triton_guard as scan_guard

MODELS = ("GLINTRU", "Mamba4Rec", "RecMamba", "SIGMA")  # those with kernels of the package
STATES, EXPAND, TAPS = 32, 2, 3  # of Mamba4Rec, of Mamba4Rec, of GLINT-RU's convolutions
LENGTHS = (20, 3)
ITEMS = 1000


def gru(device, d, dtype, layout):
    """Forward and backward pass in a layout."""
    lengths = torch.tensor(LENGTHS, device=device)
    shape = (len(lengths), max(LENGTHS), d) if layout is Padded else (sum(LENGTHS), d)
    weights = _random(device, torch.float32, (3 * d, d), (3 * d, d))
    x = _random(device, torch.float32, shape)[0]
    _both_ways(gru_guard.gru(x, layout(lengths, max(LENGTHS)), *weights, dtype))


def convolution(device, d, dtype):
    """Forward and backward pass."""
    tensors = _random(device, torch.float32, (sum(LENGTHS), d), (TAPS, d, d), (TAPS, d))
    layout = Compact(torch.tensor(LENGTHS, device=device), max(LENGTHS))
    _both_ways(convolution_guard.convolution(*tensors, layout, dtype))


def scan(device, d, dtype, last_only):
    """Forward and backward pass with all inputs of Mamba4Rec, at every position or at the last one."""
    rows, length, channels = len(LENGTHS), max(LENGTHS), EXPAND * d
    steps = (length,) * (not last_only)
    u, delta, B, C, z = _random(
        device,
        dtype,
        *((rows, size, length) for size in (channels, channels, STATES)),
        *((rows, size, *steps) for size in (STATES, channels)),
    )
    A, skip, bias = _random(device, torch.float32, (channels, STATES), (channels,), (channels,))
    lengths = torch.tensor(LENGTHS, device=device)
    scan_guard.are_usable(device, channels, STATES, dtype, last_only)  # as a model's first use
    _both_ways(scan_guard.scan(u, delta, -A.exp(), B, C, skip, z, bias, True, lengths, last_only))


def model(device, name, shape, precision):
    """A training step and scores."""
    config = find_settings(name, shapes.SHAPES[shape].dataset, device, {})
    config["selected_features"] = []
    made = make_model(name, config, Catalogue(ITEMS), device)
    batch = growth.random_batch(shapes.SHAPES[shape], config, ITEMS, memory.FEW).to(device)
    memory.training_step(made, memory.new_optimiser(made), batch, precision)
    with torch.no_grad(), torch.autocast(device.type, precision, enabled=precision is not None):
        made.eval().full_sort_predict(batch)


def _random(device, dtype, *shapes_of):
    return [torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in shapes_of]


def _both_ways(out):
    out.float().sum().backward()


def kernel_tasks() -> dict[str, Callable]:
    """Name -> a function of the device; the slowest ones first."""
    tasks = {}
    widths = [width for _, width in WIDTHS.values()]
    for d, dtype, last_only in itertools.product(widths, (torch.float32, torch.bfloat16), (False, True)):
        where = "last" if last_only else "all"
        tasks[f"scan, d={d}, {dtype}, {where}"] = functools.partial(scan, d=d, dtype=dtype, last_only=last_only)
    for d, (kind, dtype) in itertools.product(widths, TYPES.items()):
        for layout in (Padded, Compact):
            task = functools.partial(gru, d=d, dtype=dtype, layout=layout)
            tasks[f"GRU, d={d}, {kind}, {layout.__name__}"] = task
        tasks[f"convolution, d={d}, {kind}"] = functools.partial(convolution, d=d, dtype=dtype)
    return tasks


def model_tasks() -> dict[str, Callable]:
    """Name -> a function of the device."""
    kinds = itertools.product(MODELS, WIDTHS, (None, torch.bfloat16))
    return {
        f"{name}, {shape} shape, {precision or torch.float32}": functools.partial(
            model, name=name, shape=shape, precision=precision
        )
        for name, shape, precision in kinds
    }


def run_task(name: str, device: torch.device) -> tuple[float, Optional[str]]:
    """Seconds that a task took, and its error, if any."""
    begin = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    error = None
    try:
        with empty_folder():
            {**kernel_tasks(), **model_tasks()}[name](device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    except Exception as caught:
        error = f"{type(caught).__name__}: {str(caught)[:200]}"
    return time.perf_counter() - begin, error


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command line and return the exit status: 1 if something could not be run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cpu, cuda or cuda:N, default cuda")
    parser.add_argument("--jobs", type=positive(int), default=cores(), help="at once (default: the cores)")
    parser.add_argument("--only", default="", help="only tasks with this in their name")
    options = parser.parse_args(arguments)
    obey_interrupts()
    try:
        device = find_device(options.device)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = 0
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for tasks in (kernel_tasks(), model_tasks()):
            names = [name for name in tasks if options.only in name]
            for name, (seconds, error) in zip(names, pool.map(run_task, names, itertools.repeat(device))):
                print(f"{name}: {seconds:.1f} s{f', {error}' if error else ''}", flush=True)
                failed += error is not None
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
