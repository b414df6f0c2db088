"""Clocks, turns and statistics: every time is one of several, every ratio one of two times taken in succession."""

import statistics
import time
from collections import defaultdict
from typing import Callable, NamedTuple, Optional

import torch
from torch.profiler import ProfilerActivity, profile

from recbole_glintru.ops import tensor_cores

ENOUGH = 0.3  # seconds: a faster action is repeated within a turn until it has taken so long
SLOW = 2.0  # seconds: for a slower action, what the last turn has left in the caches does not matter
MOST = 9  # repetitions within a turn
WINDOW = 0.05  # seconds of calls that are timed together, if they are short enough
CALLS = 50  # the most calls in a window
WINDOWS = 3
QUEUE = 800  # launches that can wait for a GPU: at about 1024 the driver makes the host wait
CYCLES = 2e9  # per second, on the fastest card


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """How long an action takes: by the device's own events on a GPU, otherwise by the clock."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        action()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def one_turn(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of an action: of one run if it is slow, else the median of the runs after a first, which only warms up.

    A slow action must have run before its first turn.
    """
    first, times = seconds(action, device), []
    if first > SLOW:
        return first
    while not times or (len(times) < MOST and sum(times) < ENOUGH):
        times.append(seconds(action, device))
    return statistics.median(times)


class Times(NamedTuple):
    """Seconds of an action in repeated calls: of the device alone, and by the clock.

    The device's time is None if one call has more launches than can be queued: then some of the time is the host's.
    """

    device: Optional[float]
    clock: float


def device_and_clock(action: Callable[[], object], device: torch.device) -> Times:
    """The medians of some windows of several calls; on a CPU both are the same.

    A GPU that is idle when the clock starts waits for the host at a short kernel, so the time measured is the host's.
    For the GPU's own time, it is kept busy until all calls are launched.
    """
    if device.type != "cuda":
        return Times(*[one_turn(action, device)] * 2)
    once = _by_the_clock(action, 2, device)
    calls = max(1, min(CALLS, int(WINDOW / once)))
    clock = statistics.median(_by_the_clock(action, calls, device) for _ in range(WINDOWS))
    of_a_call = launches(action, device)
    if of_a_call > QUEUE:
        return Times(None, clock)
    calls = min(calls, QUEUE // max(1, of_a_call))

    def window():
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if hasattr(torch.cuda, "_sleep"):
            torch.cuda._sleep(int(CYCLES * min(calls * once, 4 * WINDOW)))
        start.record()
        for _ in range(calls):
            action()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000 / calls

    return Times(statistics.median(window() for _ in range(WINDOWS)), clock)


def launches(action: Callable[[], object], device: torch.device) -> int:
    """Kernels, copies and fills of a GPU in one call of an action."""
    from measure import profiling  # which needs this module

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        action()
        torch.cuda.synchronize(device)
    return sum(kernel.launches for kernel in profiling.gpu_kernels(profiler))


def _by_the_clock(action, calls, device):
    torch.cuda.synchronize(device)
    begin = time.perf_counter()
    for _ in range(calls):
        action()
    torch.cuda.synchronize(device)
    return (time.perf_counter() - begin) / calls


def warm_up(action: Callable[[], object], device: torch.device, longest: float = 0.5) -> None:
    """Repeat an action for so many seconds, because an idle card runs at a lower rate."""
    if device.type != "cuda":
        return
    end = time.perf_counter() + longest
    while time.perf_counter() < end:
        action()
        torch.cuda.synchronize(device)


class Race:
    """Times of several candidates, taken in turns, each right after a time of the reference (A B A C A D ...).

    Args:
        reference: the name of the candidate that the others are divided by.
        device: where they run.

    Attributes:
        times: name -> seconds, one per turn; for the reference one for each run.
        ratios: name -> its time divided by the reference's right before it, one per turn.
    """

    def __init__(self, reference: str, device: torch.device):
        self.reference, self.device = reference, device
        self.times: dict[str, list[float]] = defaultdict(list)
        self.ratios: dict[str, list[float]] = defaultdict(list)

    def turn(self, name: str, action: Callable[[], object], reference: Optional[Callable[[], object]]) -> None:
        """Time the reference, if there is one, and then the candidate."""
        if reference is not None:
            self.times[self.reference].append(one_turn(reference, self.device))
        if name == self.reference:
            if reference is None:
                self.times[name].append(one_turn(action, self.device))
            return
        taken = one_turn(action, self.device)
        self.times[name].append(taken)
        if reference is not None:
            self.ratios[name].append(taken / self.times[self.reference][-1])

    def summary(self, name: str) -> Optional[dict]:
        """Median time in milliseconds, number of turns, median ratio and its range; None if it never ran."""
        if not self.times.get(name):
            return None
        result = {"ms": 1000 * statistics.median(self.times[name]), "turns": len(self.times[name])}
        result.update(ratio_summary([1.0] if name == self.reference else self.ratios.get(name, [])))
        return result


def ratio_summary(ratios: list[float]) -> dict:
    """The median of some ratios and their range, or nothing."""
    if not ratios:
        return {}
    return {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


# ------------------------------------------------------------------------------------------- the machine's limit


def product_rate(
    device: torch.device, size: Optional[int] = None, repetitions: int = 4, dtype: torch.dtype = torch.float32
) -> float:
    """Floating-point operations per second of a product of two square matrices: the best of some repetitions.

    With float32, factors are used as they are on a CPU, and may be rounded to TF32 on a GPU.
    """
    size = size or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    with tensor_cores.tf32_products(a):
        torch.mm(a, b, out=out)
        return 2 * size**3 / min(seconds(lambda: torch.mm(a, b, out=out), device) for _ in range(repetitions))


def least_operations(positions: int, rows: int, items: int, width: int, kernel_size: int = 3, layers: int = 1) -> int:
    """The least floating-point operations of a training step of GLINT-RU: those of its matrix products.

    At every true position of a history: the input projection, the convolution's taps, three input and three recurrent
    gates, keys and values, d^2 multiply-adds each. Lower blocks of a stack also need all the rest: queries, the
    attention's output, selective gate, channel crossing, second convolution, data-aware gate with its output, gated
    MLP. After the last position come the scores of all items. There are two operations per multiply-add, and a step
    with its backward pass takes three times the forward pass. What the last position alone needs is left out: it is
    below 1 %.

    Args:
        positions: items in all histories of the batch together.
        rows: histories in the batch.
        items: V.
        width: d.
        kernel_size: k.
        layers: blocks.
    """
    top = 9 + kernel_size
    lower = top + 9 + kernel_size
    return 2 * 3 * (positions * width**2 * (top + (layers - 1) * lower) + rows * items * width)
