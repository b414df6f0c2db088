"""Running an encoder on groups of rows of like length, each cut to its own longest row, as many groups as pay.

The cost of a group of n rows whose longest has T items is `group + T * (step + n)`, counted in row-steps: one row at
one position costs 1; `group` is what an encoder costs however small its input (the launches of its kernels), `step`
what a position costs however few the rows (a step of a recurrence). Few and expensive steps, as on a GPU, call for few
groups, a plain histogram of lengths for one. The cheapest partition is found exactly.
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


# Fixed for a kind of device rather than measured: where the borders lie decides which random numbers a dropout draws,
# so that with measured costs one seed would not give the same figures twice. Near the minimum the cost is flat: a
# factor of two in either number moves the time of a step by a few percent.
# On one core, at width 64, forward and backward: SASRec and NARM 120 to 150 a group, LinRec 270 to 400, LRURec 140 to
# 280, Mamba4Rec 70; a step 0 in all of them but those with a recurrent layer, where it is 12 to 32.
CPU = Costs(group=200.0, step=10.0)
# Not measured: some fifty kernels a group and one a step, ~10 us each, against ~20 ns a row-step.
ACCELERATOR = Costs(group=25_000.0, step=500.0)


def costs(setting: Union[bool, str, Costs], device: torch.device) -> Costs:
    """The costs that a setting `length_groups` stands for (see `recbole_glintru.settings.length_groups`)."""
    if isinstance(setting, Costs):
        return setting
    if setting is False:
        return Costs(math.inf, 0.0)
    if setting == "measured":
        return measured_costs(device.type, device.index)
    return CPU if device.type == "cpu" else ACCELERATOR


def plan(lengths: Sequence[int], costs: Costs) -> list[tuple[int, int]]:
    """The cheapest partition of rows into groups, shortest first: (longest row, number of rows) of each.

    A dynamic program over the histogram of the lengths: rows of one length stay together, and groups are intervals of
    lengths, which some cheapest partition always has. With t_j the j-th length and N_j the rows up to it, the best
    cost of these rows is `group + t_j * (step + N_j) + min over i < j of (best_i - t_j * N_i)`. The minimum is over
    lines in t_j whose slopes -N_i fall as t_j grows: their lower envelope gives each in constant time on average.
    """
    values, counts = np.unique(np.asarray(lengths), return_counts=True)
    if len(values) == 1 or math.isinf(costs.group):
        return [(int(values[-1]), int(counts.sum()))]
    envelope, first = [(0.0, 0, 0)], 0  # lines: best cost, rows, lengths that are covered
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
    """Whether `line` lies above one of its neighbours everywhere: `after` undercuts `before` no later than it does."""
    gain_after, gain = after[0] - before[0], line[0] - before[0]
    return gain_after * (line[1] - before[1]) <= gain * (after[1] - before[1])


def run(
    encode: Callable[[Rows, int], Tensor], item_seq_len: Tensor, costs: Costs, module: Optional[nn.Module] = None
) -> Tensor:
    """Encode every row of a batch, in the groups that `costs` make cheapest.

    Exact for an encoder whose rows depend neither on each other nor on how far they are padded. Gradients flow, and
    every group uses every parameter, so that distributed training sees no difference.

    Which rows are a group is decided on the host; a GPU is waited for where the lengths are not known there
    (`host_lengths.py`). `host_lengths.part` takes from those that are the lengths of the `rows` that are handed on.

    Args:
        encode: `(rows, longest) -> [n, ...]`; `rows` indexes the n rows to encode, the longest of which has `longest`
            items.
        item_seq_len: `[B]`, integers.
        module: what `encode` looks items up in; its tables get one gradient, and not one for each group.

    Returns:
        `[B, ...]`, the rows in the places that they came from.
    """
    on_host = host_lengths.of(item_seq_len)
    groups = plan(on_host, costs)
    if len(groups) == 1:
        return encode(slice(None), max(1, groups[0][0]))  # as it is: nothing is copied
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
    """The costs of one GRU layer, the recurrence that most models here are built around, on a device.

    Measured once in a process, in a fraction of a second: the least-squares fit of `a + b T + c n T` to the median
    times of a few sizes.
    """
    device = torch.device(device_type, index)
    sizes = [(rows, steps) for rows in (1, 64, 512) for steps in (1, 16, 64)]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        layer = nn.GRU(width, width, batch_first=True).to(device)
        times = [_median_time(layer, torch.zeros(rows, steps, width, device=device)) for rows, steps in sizes]
    terms = np.array([(1.0, steps, rows * steps) for rows, steps in sizes])
    weights = 1 / np.array(times)[:, None]  # relative errors: or the largest size would decide alone
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
