import math

import numpy as np
import pytest
import torch
from fakes import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recbole_glintru.ops.histories import grouping
from recbole_glintru.ops.histories.grouping import Costs
from recbole_glintru.settings import length_groups

EVERY_LENGTH = Costs(0.0, 0.0)  # a group for each


def total(groups, costs):
    return sum(costs.group + longest * (costs.step + rows) for longest, rows in groups)


def cheapest_by_trial(row_lengths, costs):
    """The cost of the cheapest of all partitions of the distinct lengths into intervals."""
    values, counts = np.unique(row_lengths, return_counts=True)
    prices = []
    for cuts in range(2 ** (len(values) - 1)):
        groups, rows = [], 0
        for j, (value, count) in enumerate(zip(values, counts)):
            rows += count
            if cuts >> j & 1 or j == len(values) - 1:
                groups.append((value, rows))
                rows = 0
        prices.append(total(groups, costs))
    return min(prices)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=40).filter(lambda x: len(set(x)) <= 9),
    st.floats(0, 300),
    st.floats(0, 30),
)
def test_plan_is_the_cheapest(row_lengths, group, step):
    costs = Costs(group, step)
    groups = grouping.plan(row_lengths, costs)
    assert total(groups, costs) == pytest.approx(cheapest_by_trial(row_lengths, costs), rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=300), st.floats(0, 1000), st.floats(0, 100))
def test_plan_covers_every_row(row_lengths, group, step):
    groups, remaining = grouping.plan(row_lengths, Costs(group, step)), sorted(row_lengths)
    for longest, rows in groups:
        assert remaining[rows - 1] == longest and remaining[rows : rows + 1] != [longest]
        remaining = remaining[rows:]
    assert remaining == []


def test_one_group_where_grouping_does_not_pay():
    row_lengths = list(range(1, 101))
    assert grouping.plan(row_lengths, Costs(0.0, 1e6)) == [(100, 100)]
    assert grouping.plan(row_lengths, Costs(1e6, 0.0)) == [(100, 100)]
    assert grouping.plan(row_lengths, Costs(math.inf, 0.0)) == [(100, 100)]
    assert len(grouping.plan(row_lengths, EVERY_LENGTH)) == 100
    assert 1 < len(grouping.plan(row_lengths, Costs(50.0, 1.0))) < 100


@pytest.mark.parametrize("costs", [grouping.CPU, grouping.ACCELERATOR], ids=["cpu", "accelerator"])
def test_small_batches_are_one_group(costs):
    """A dozen rows, whatever their lengths up to 20, are cheaper together; ten thousand short ones beside a long one
    are not."""
    assert grouping.plan([20, *range(1, 12)], costs) == [(20, 12)]
    assert len(grouping.plan([200] + 10_000 * [5], costs)) == 2


class LastState(nn.Module):
    """The output of a GRU at the last item, with what `run` asked for written down."""

    def __init__(self):
        super().__init__()
        self.embedding, self.gru = nn.Embedding(50, 8, padding_idx=0), nn.GRU(8, 6, 2, batch_first=True)
        self.groups = []

    def forward(self, item_seq, item_seq_len, costs):
        self.groups = []

        def encode(rows, longest):
            items, ends = item_seq[rows, :longest], item_seq_len[rows]
            self.groups.append((longest, len(items)))
            assert int(ends.max()) == longest
            return self.gru(self.embedding(items))[0][torch.arange(len(items)), ends - 1]

        return grouping.run(encode, item_seq_len, costs)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.sampled_from([EVERY_LENGTH, Costs(20.0, 1.0)]))
def test_grouped_equals_ungrouped(row_lengths, costs):
    """Outputs, row by row, and every gradient."""
    torch.manual_seed(0)
    encoder, item_seq_len = LastState(), torch.tensor(row_lengths)
    item_seq = torch.randint(1, 50, (len(row_lengths), 12)) * (torch.arange(12) < item_seq_len.unsqueeze(1))
    results = []
    for used in (Costs(math.inf, 0.0), costs):
        states = encoder(item_seq, item_seq_len, used)
        weights = torch.linspace(-1, 1, states.numel()).view_as(states)
        results.append([states, *torch.autograd.grad((states * weights).sum(), encoder.parameters())])
    assert encoder.groups == grouping.plan(row_lengths, costs)
    for plain, grouped in zip(*results):
        torch.testing.assert_close(grouped, plain, rtol=0, atol=5e-6)  # sums of a few hundred float32 terms


def test_rows_come_back_in_place():
    item_seq_len = torch.tensor([3, 1, 2, 3, 1])
    marks = torch.tensor([30, 10, 20, 31, 11])
    assert grouping.run(lambda rows, longest: marks[rows] * longest, item_seq_len, EVERY_LENGTH).tolist() == [
        90, 10, 40, 93, 11
    ]  # fmt: skip


def test_a_batch_of_one_length_is_left_as_it_is():
    def encode(rows, longest):
        assert rows == slice(None) and longest == 4
        return torch.ones(3)

    grouping.run(encode, torch.tensor([4, 4, 4]), EVERY_LENGTH)


def test_mixed_precision_and_dropout():
    """A model in training: under bfloat16 the loss is near the one in float32, and dropout is at work in each group."""
    item_seq, item_seq_len = torch.randint(1, 30, (40, 20)), torch.arange(40) % 20 + 1
    model = make_model("LRURec", length_groups=[0, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one, other = (model(item_seq, item_seq_len) for _ in range(2))
    assert (one != other).any(dim=1).all(), "each row, of whichever group, has its own dropout"
    exact = model.eval()(item_seq, item_seq_len).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(
            model(item_seq, item_seq_len).float(), exact, rtol=0, atol=0.05 * exact.abs().max().item()
        )
    model.train()(item_seq, item_seq_len).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_measured_costs_are_costs():
    costs = grouping.measured_costs("cpu")
    assert costs is grouping.measured_costs("cpu"), "measured once"
    assert all(math.isfinite(cost) and cost >= 0 for cost in costs)


def test_costs_are_found_in_the_times(monkeypatch):
    """Times of 70 + 30 T + 10 n T are 7 and 3 times the cost of a row-step; a negative cost counts as none."""
    for fixed, expected in ((70.0, 7.0), (-5.0, 0.0)):
        monkeypatch.setattr(
            grouping, "_median_time", lambda layer, x, fixed=fixed: fixed + 30 * x.shape[1] + 10 * x[..., 0].numel()
        )
        costs = grouping.measured_costs.__wrapped__("cpu")
        assert tuple(costs) == pytest.approx((expected, 3.0), abs=1e-6)


# ------------------------------------------------------------------------------------------------------- the setting


def test_the_setting_reaches_the_models():
    item_seq, item_seq_len = torch.randint(1, 30, (40, 20)), torch.arange(40) % 20 + 1
    for setting, groups in ((False, 1), ([0, 0], 20), (None, len(grouping.plan(item_seq_len, grouping.CPU)))):
        model, widths = make_model("LRURec", length_groups=setting), []
        encode = model.encode
        model.encode = lambda *history, encode=encode, widths=widths: (
            widths.append(history[0].shape) or encode(*history)
        )
        model(item_seq, item_seq_len)
        assert len(widths) == groups


@pytest.mark.parametrize("value", ["often", [1], [1, -2], [1, True], 3, [1, float("nan")]])
def test_wrong_settings_are_named(value):
    with pytest.raises(ValueError, match="length_groups="):
        length_groups({"length_groups": value})
