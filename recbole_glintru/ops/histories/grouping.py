"""Running an encoder on groups of rows of similar length, each cut to its longest row, as many groups as pay off.

The cost of a group of n rows whose longest has T items is `group + T * (step + n)`, in row-steps: one row at one
position costs 1. `group` is the cost of an encoder however small its input (the launches of its kernels), `step` that
of a position however few the rows (a step of a recurrence). Where groups and steps are expensive, as on a GPU, few
groups are cheapest; if all rows have one length, a single one. The cheapest partition is found exactly.
"""

import contextlib
import functools
import math
import time
from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional, Union

import numpy as np
import torch
from torch import Tensor, nn

from recbole_glintru.ops import embedding_gradients
from recbole_glintru.ops.histories import host_lengths

Rows = Union[slice, Tensor]  # indexes the rows of a tensor


class Costs(NamedTuple):
    """What a group and what a step cost, in row-steps: both at least 0."""

    group: float
    step: float


# Fixed for a kind of device rather than measured: the borders between groups decide which random numbers a dropout
# draws, so that with measured costs the same seed would not reproduce the same figures. Near the minimum the cost is
# flat: a factor of two in either number changes the time of a step by a few percent.
# One core, width 64, forward and backward: SASRec and NARM 120 to 150 per group, LinRec 270 to 400, LRURec 140 to
# 280, Mamba4Rec 70; a step 0, except with a recurrent layer, where it is 12 to 32.
CPU = Costs(group=200.0, step=10.0)
# Not measured: about fifty kernels per group and one per step, ~10 us each, against ~20 ns per row-step.
ACCELERATOR = Costs(group=25_000.0, step=500.0)


def costs(setting: Union[bool, str, Costs], device: torch.device) -> Costs:
    """The costs for a value of the setting `length_groups` (see `recbole_glintru.settings.length_groups`)."""
    if isinstance(setting, Costs):
        return setting
    if setting is False:
        return Costs(math.inf, 0.0)
    if setting == "measured":
        return measured_costs(device.type, device.index)
    return CPU if device.type == "cpu" else ACCELERATOR


def plan(lengths: Sequence[int], costs: Costs) -> list[tuple[int, int]]:
    """The cheapest partition of rows into groups, shortest first: (longest row, number of rows) of each.

    A dynamic program over the histogram of the lengths. Rows of one length stay together and groups are intervals of
    lengths; some cheapest partition always has this form. With t_j the j-th length and N_j the rows up to it, the best
    cost of these rows is `group + t_j * (step + N_j) + min over i < j of (best_i - t_j * N_i)`. The minimum is over
    lines in t_j whose slopes -N_i fall as t_j grows: their lower envelope gives each in amortised constant time.
    """
    values, counts = np.unique(np.asarray(lengths), return_counts=True)
    if len(values) == 1 or math.isinf(costs.group):
        return [(int(values[-1]), int(counts.sum()))]
    envelope, first = [(0.0, 0, 0)], 0  # lines: best cost, rows, number of lengths covered
    origin = [0]  # for each j, the number of lengths below its last group
    for j, (longest, count) in enumerate(zip(values.tolist(), counts.tolist()), start=1):
        while first + 1 < len(envelope) and _at(envelope[first + 1], longest) < _at(envelope[first], longest):
            first += 1
        rows = envelope[-1][1] + count
        origin.append(envelope[first][2])
        line = (costs.group + longest * (costs.step + rows) + _at(envelope[first], longest), rows, j)
        while len(envelope) - first > 1 and _never_lowest(envelope[-2], envelope[-1], line):
            envelope.pop()
        envelope.append(line)
    groups, above = [], len(values)
    while above:
        below = origin[above]
        groups.append((int(values[above - 1]), int(counts[below:above].sum())))
        above = below
    return groups[::-1]


def _at(line, length):
    return line[0] - line[1] * length


def _never_lowest(before, line, after):
    """Whether `line` is nowhere the only lowest: `after` gets below `before` no later than `line` does."""
    gain_after, gain = after[0] - before[0], line[0] - before[0]
    return gain_after * (line[1] - before[1]) <= gain * (after[1] - before[1])


def run(
    encode: Callable[[Rows, int], Tensor], item_seq_len: Tensor, costs: Costs, module: Optional[nn.Module] = None
) -> Tensor:
    """Encode every row of a batch, in the groups that are cheapest by `costs`.

    Exact for an encoder whose rows depend neither on each other nor on the amount of padding. Gradients flow, and
    every group uses every parameter, so that distributed training sees no difference.

    The groups are decided on the host, which waits for a GPU if the lengths are not known there (`host_lengths.py`).
    If they are, `host_lengths.part` keeps those of the `rows` that are passed to `encode` known as well.

    Args:
        encode: `(rows, longest) -> [n, ...]`; `rows` indexes the n rows to encode, the longest of which has `longest`
            items.
        item_seq_len: `[B]`, integers.
        module: the module in which `encode` looks up items; its tables get one gradient instead of one per group.

    Returns:
        `[B, ...]`, the rows in their original order.
    """
    on_host = host_lengths.of(item_seq_len)
    groups = plan(on_host, costs)
    if len(groups) == 1:
        return encode(slice(None), max(1, groups[0][0]))  # without copying anything
    order = torch.argsort(item_seq_len, stable=True)
    rows = order.split([count for _, count in groups])
    if host_lengths.are_known(item_seq_len):
        _leave_on_host(rows, np.argsort(on_host, kind="stable"))
    with contextlib.nullcontext() if module is None else embedding_gradients.collected(module):
        states = torch.cat([encode(part, max(1, longest)) for part, (longest, _) in zip(rows, groups)])
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return states.index_select(0, place)


def _leave_on_host(rows, order):
    for part in rows:
        host_lengths.remember(part, order[: len(part)])
        order = order[len(part) :]


@functools.cache
def measured_costs(device_type: str, index: Optional[int] = None, width: int = 64) -> Costs:
    """The costs of one GRU layer, the recurrence at the core of most models here, on a device.

    Measured once per process, in a fraction of a second: the least-squares fit of `a + b T + c n T` to the median
    times of a few sizes.
    """
    device = torch.device(device_type, index)
    sizes = [(rows, steps) for rows in (1, 64, 512) for steps in (1, 16, 64)]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        layer = nn.GRU(width, width, batch_first=True).to(device)
        times = [_median_time(layer, torch.zeros(rows, steps, width, device=device)) for rows, steps in sizes]
    terms = np.array([(1.0, steps, rows * steps) for rows, steps in sizes])
    weights = 1 / np.array(times)[:, None]  # relative errors: otherwise the largest size would dominate
    (group, step, row_step), *_ = np.linalg.lstsq(terms * weights, np.ones(len(sizes)), rcond=None)
    row_step = max(row_step, 1e-12)
    return Costs(float(max(group, 0.0) / row_step), float(max(step, 0.0) / row_step))


def _median_time(layer, x, repetitions=5):
    times = []
    for _ in range(repetitions + 1):  # the first one warms up
        start = time.perf_counter()
        layer(x)[1].sum().item()  # .item() waits for the device
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))
