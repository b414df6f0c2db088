"""Both layouts against plain loops over the histories; the packed one's own backward passes by gradcheck."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_glintru.layers.temporal_conv import TemporalConv
from recbole_glintru.ops.attention import grouped_attention, packed_attention
from recbole_glintru.ops.convolution import packed_convolution
from recbole_glintru.ops.histories import grouping
from recbole_glintru.ops.layouts.choice import choose_layout
from recbole_glintru.ops.layouts.packed import Packed
from recbole_glintru.ops.layouts.padded import Padded

LAYOUTS = pytest.mark.parametrize("kind", [Padded, Packed])
LENGTHS = torch.tensor([3, 9, 1, 9, 4])
LENGTH = 9


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(x, lengths=LENGTHS):
    return [row[:length] for row, length in zip(x, lengths)]


@LAYOUTS
def test_there_and_back(kind):
    layout, x = kind(LENGTHS, LENGTH), some(5, LENGTH, 2)
    padded = layout.pad(layout.arrange(x))
    for ours, row in zip(padded, rows(x)):
        assert torch.equal(ours[: len(row)], row) and not ours[len(row) :].any()
    assert torch.equal(layout.restore(layout.sort(x)), x)


def test_packed_holds_no_padding():
    layout = Packed(LENGTHS, LENGTH)
    assert len(layout.arrange(some(5, LENGTH))) == LENGTHS.sum()
    assert layout.counts == [5, 4, 4, 3, 2, 2, 2, 2, 2]


@LAYOUTS
def test_sums_over_a_history(kind):
    layout, x = kind(LENGTHS, LENGTH), some(5, LENGTH, 2)
    expected = torch.stack([row.sum(dim=0) for row in rows(x)])
    torch.testing.assert_close(layout.restore(layout.collect(layout.arrange(x))), expected)


@LAYOUTS
def test_each_position_has_its_historys_row(kind):
    layout, x, each = kind(LENGTHS, LENGTH), some(5, LENGTH, 2), some(5, 2, seed=1)
    spread = layout.pad(layout.arrange(x) * layout.spread(layout.sort(each)))
    for ours, row, value in zip(spread, rows(x), each):
        torch.testing.assert_close(ours[: len(row)], row * value)


@LAYOUTS
def test_positions(kind):
    layout, x = kind(LENGTHS, LENGTH), some(5, LENGTH, 2)
    positions = LENGTHS.unsqueeze(1) - torch.tensor([3, 1, 0])
    inside = layout.restore(layout.contains(layout.sort(positions)))
    found = layout.restore(layout.at(layout.arrange(x), layout.sort(positions)))
    for row, length in enumerate(LENGTHS):
        for column, position in enumerate(positions[row]):
            assert inside[row, column] == (0 <= position < length)
            assert not inside[row, column] or torch.equal(found[row, column], x[row, position])


@LAYOUTS
@pytest.mark.parametrize("k", [1, 3, 5, 7, 21])
def test_convolution(kind, k):
    layout, x, reach = kind(LENGTHS, LENGTH), some(5, LENGTH, 2), k // 2
    taps, biases = some(k, 3, 2, seed=1), some(k, 3, seed=2)
    y = layout.pad(layout.convolve(layout.arrange(x), taps, biases))
    for ours, row in zip(y, rows(x)):
        for t in range(len(row)):
            read = [taps[j] @ row[t + j - reach] + biases[j] for j in range(k) if 0 <= t + j - reach < len(row)]
            torch.testing.assert_close(ours[t], torch.stack(read).sum(dim=0))


@pytest.mark.parametrize("elements", [1, 30, 100])
def test_convolution_piece_by_piece(monkeypatch, elements):
    """Wherever the pieces end, and however the last ones fill the buffer."""
    layout, x = Packed(LENGTHS, LENGTH), some(int(LENGTHS.sum()), 2)
    taps, biases = some(3, 4, 2, seed=1), some(3, 4, seed=2)
    whole = layout.convolve(x, taps, biases)
    monkeypatch.setattr(packed_convolution, "ELEMENTS", elements)
    torch.testing.assert_close(layout.convolve(x, taps, biases), whole)


@LAYOUTS
@pytest.mark.parametrize("normalise", [True, False])
def test_attention_of_one_query(kind, normalise):
    layout, query = kind(LENGTHS, LENGTH), some(5, 2, 3)
    key, value = some(5, LENGTH, 2, 3, seed=1), some(5, LENGTH, 2, 3, seed=2)
    found = layout.attend(layout.sort(query), layout.arrange(key), layout.arrange(value), normalise)
    for ours, q, ks, vs in zip(layout.restore(found), query, rows(key), rows(value)):
        for head in range(2):
            k = torch.nn.functional.elu(ks[:, head])
            weights = k @ q[head] / (k.norm(dim=1) if normalise else 1)
            torch.testing.assert_close(ours[head], weights @ vs[:, head])


@LAYOUTS
def test_attention_to_a_key_of_no_length(kind):
    """It counts as zero: NaN neither in the result nor in a gradient."""
    layout = kind(LENGTHS, LENGTH)
    query, key, value = some(5, 1, 4), some(5, LENGTH, 1, 4, seed=1), some(5, LENGTH, 1, 4, seed=2)
    key[1, 3] = 0
    key.requires_grad_()
    found = layout.attend(query, layout.arrange(key), layout.arrange(value), True)
    found.sum().backward()
    assert found.isfinite().all() and key.grad.isfinite().all()


@LAYOUTS
@pytest.mark.parametrize("group", [0.0, 5.0, float("inf")], ids=["a-group-a-length", "some-groups", "one-group"])
def test_attention_of_every_position(kind, group, monkeypatch):
    monkeypatch.setattr(grouped_attention, "COSTS", grouping.Costs(group, 0.0))
    layout = kind(LENGTHS, LENGTH)
    query, key, value = (some(5, LENGTH, 2, 3, seed=seed) for seed in range(3))
    found = layout.pad(layout.attend_all(layout.arrange(query), layout.arrange(key), layout.arrange(value)))
    for ours, qs, ks, vs in zip(found, rows(query), rows(key), rows(value)):
        for head in range(2):
            expected = qs[:, head] @ ks[:, head].T @ vs[:, head]
            torch.testing.assert_close(ours[: len(qs), head], expected)


@pytest.mark.parametrize("elements", [1, 12, 40])
def test_attention_piece_by_piece(monkeypatch, elements):
    layout, places = Packed(LENGTHS, LENGTH), int(LENGTHS.sum())
    arguments = [some(n, 2, 3, seed=n).requires_grad_() for n in (5, places, places)]
    results = []
    for _ in range(2):
        context = layout.attend(*arguments, True)
        results.append([context, *torch.autograd.grad((context**2).sum(), arguments)])
        monkeypatch.setattr(packed_attention, "ELEMENTS", elements)
    for whole, in_pieces in zip(*results):
        torch.testing.assert_close(in_pieces, whole)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from([1, 3, 5]))
def test_gradients_of_the_packed_layout(of_rows, taps):
    layout = Packed(torch.tensor(of_rows), 5)
    positions, each = sum(of_rows), some(len(of_rows), 2).requires_grad_()
    x = some(positions, 2).requires_grad_()
    convolution = x, some(taps, 3, 2).requires_grad_(), some(taps, 3, seed=1).requires_grad_()
    attention = [some(n, 2, 2, seed=n).requires_grad_() for n in (len(of_rows), positions, positions)]
    everywhere = [some(positions, 2, 2, seed=seed).requires_grad_() for seed in range(3)]
    where = layout.lengths.unsqueeze(1) - torch.tensor([1, 2])
    for function, argument in (
        (layout.collect, x),
        (layout.spread, each),
        (layout.pad, x),
        (lambda x: layout.at(x, where) * layout.contains(where).unsqueeze(-1), x),
        (layout.convolve, convolution),
        (lambda *arguments: layout.attend(*arguments, normalise=True), attention),
        (lambda *arguments: layout.attend(*arguments, normalise=False), attention),
        (layout.attend_all, everywhere),
    ):
        assert torch.autograd.gradcheck(function, argument)


@LAYOUTS
def test_padding_is_not_read(kind):
    """Huge numbers in the padding of a batch reach neither a result nor a gradient through a convolution."""
    x = some(5, LENGTH, 4)
    x[torch.arange(LENGTH) >= LENGTHS.unsqueeze(1)] = 1e300
    layout, conv = kind(LENGTHS, LENGTH), TemporalConv(4, 3).double()
    y = layout.collect(conv(layout.arrange(x), layout))
    y.sum().backward()
    assert y.abs().max() < 1e3 and conv.weight.grad.abs().max() < 1e3


@LAYOUTS
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_temporal_conv_is_a_convolution(kind, kernel_size):
    torch.manual_seed(0)
    conv, linear = TemporalConv(6, kernel_size).double(), torch.nn.Linear(6, 6).double()
    layout, x = kind(LENGTHS, LENGTH), some(5, LENGTH, 6)
    plain = layout.pad(conv(linear(layout.arrange(x)), layout))
    merged = layout.pad(conv.after_linear(linear, layout.arrange(x), layout))
    for row, ours, both in zip(rows(x), plain, merged):
        expected = torch.nn.Conv1d.forward(conv, linear(row).T.unsqueeze(0))[0].T
        torch.testing.assert_close(ours[: len(row)], expected)
        torch.testing.assert_close(both[: len(row)], expected)


def test_the_processor_packs():
    assert isinstance(choose_layout(LENGTHS, LENGTH), Packed)
    assert isinstance(choose_layout(LENGTHS.to("meta"), LENGTH), Padded)
