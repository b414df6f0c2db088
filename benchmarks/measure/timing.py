"""Clocks, turns and statistics: every time is one of several, every ratio one of two times taken side by side."""

import statistics
import time
from collections import defaultdict
from typing import Callable, Optional

import torch

ENOUGH = 0.3  # seconds: something faster is repeated within a turn until it has taken so long
MOST = 9  # repetitions within a turn


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """How long an action takes: by the device's own events on a GPU, by the clock elsewhere."""
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
    """Seconds of an action: once if it is slow, else the median of several, of which the first only warms up."""
    times = [seconds(action, device)]
    if times[0] > ENOUGH:
        return times[0]
    times.clear()
    while len(times) < 2 or (len(times) < MOST and sum(times) < ENOUGH):
        times.append(seconds(action, device))
    return statistics.median(times)


class Race:
    """Times of several candidates, taken in turns, each right behind a time of the reference (A B A C A D ...).

    Args:
        reference: the name of the candidate that the others are divided by.
        device: where they run.

    Attributes:
        times: name -> seconds, one a turn; of the reference one for each time that it ran.
        ratios: name -> its time divided by the reference's right before it, one a turn.
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


def product_rate(device: torch.device, size: Optional[int] = None, repetitions: int = 4) -> float:
    """Floating-point operations a second of a float32 product of two square matrices: the best of some repetitions."""
    size = size or (8192 if device.type == "cuda" else 1024)
    a, b, out = (torch.ones(size, size, device=device) for _ in range(3))
    torch.mm(a, b, out=out)
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, b, out=out), device) for _ in range(repetitions))


def least_operations(positions: int, rows: int, items: int, width: int, kernel_size: int = 3, layers: int = 1) -> int:
    """Floating-point operations that a training step of GLINT-RU cannot do without: those of its matrix products.

    At every true position of a history: the input projection, the convolution's taps, three input and three recurrent
    gates, keys and values, d^2 multiply-adds each. Lower blocks of a stack need all the rest too: queries, the
    attention's output, selective gate, channel crossing, second convolution, data-aware gate with its output, gated
    MLP. Behind the last position the scores of all items. Two operations a multiply-add, and three times the forward
    pass with the backward. What the last position alone needs is left out: it is below 1 %.

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
