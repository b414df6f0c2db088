"""The layout for GPUs against the padded one: every operation, outputs and gradients, and a whole model."""

import pytest
import torch
from fakes import all_dropouts_off, make_batch, make_histories, make_model, model_settings

from recbole_glintru.models import glintru
from recbole_glintru.ops.layouts.compact import Compact
from recbole_glintru.ops.layouts.padded import Padded

LENGTHS = [[1], [3, 1, 5], [2, 7, 7, 1, 4]]


def draw(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def both(lengths):
    lengths = torch.tensor(lengths)
    return Padded(lengths, 8), Compact(lengths, 8)


def compare(lengths, operation, *tensors):
    """`operation(layout, *tensors)` in both layouts: the result and all gradients."""
    results = []
    for layout in both(lengths):
        y = operation(layout, *tensors)
        cotangent = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
        results.append([y, *torch.autograd.grad((y * cotangent).sum(), tensors)])
    for expected, actual in zip(*results):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_sums_and_neighbours(lengths):
    rows = len(lengths)
    x = draw(rows, 8, 4)
    compare(lengths, lambda layout, x: layout.pad(layout.arrange(x)), x)
    compare(lengths, lambda layout, x: layout.collect(layout.arrange(x)), x)
    compare(lengths, lambda layout, x, y: layout.pad(layout.arrange(x) * layout.spread(y)), x, draw(rows, 4))
    for taps in (1, 3, 5):
        weights = draw(taps, 6, 4), draw(taps, 6)
        compare(lengths, lambda layout, x, w, b: layout.pad(layout.convolve(layout.arrange(x), w, b)), x, *weights)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_attention(lengths, normalise):
    rows = len(lengths)
    key, value, query = draw(rows, 8, 2, 3), draw(rows, 8, 2, 3), draw(rows, 2, 3)

    def attend(layout, query, key, value):
        return layout.attend(query, layout.arrange(key), layout.arrange(value), normalise)

    compare(lengths, attend, query, key, value)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_positions(lengths):
    x, positions = draw(len(lengths), 8, 4), torch.tensor([[-1, 0, 2, 6]]).repeat(len(lengths), 1)
    padded, compact = both(lengths)
    there = compact.contains(positions)
    assert torch.equal(there, padded.contains(positions))
    found = [layout.at(layout.arrange(x), positions)[there] for layout in (padded, compact)]
    assert torch.equal(*found)
    gradients = [torch.autograd.grad((y * torch.linspace(-1, 1, 4)).sum(), x)[0] for y in found]
    assert torch.equal(*gradients)
    before = compact.pad(compact.previous(compact.arrange(x)))
    expected = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1) * padded.mask.unsqueeze(-1)
    assert torch.equal(before, expected)


def test_model_in_it(monkeypatch):
    """GLINT-RU's loss and gradients, with a second block that needs every position."""
    off = all_dropouts_off(model_settings("GLINTRU"))
    outcomes = []
    for layout in (Padded, Compact):
        torch.manual_seed(0)
        model = make_model("GLINTRU", n_layers=2, **off)
        monkeypatch.setattr(glintru, "choose_layout", lambda lengths, length, layout=layout: layout(lengths, length))
        loss = model.calculate_loss(make_batch(*make_histories([5, 1, 9, 2, 20, 3])))
        loss.backward()
        outcomes.append({"loss": loss, **{name: part.grad for name, part in model.named_parameters()}})
    for name, expected in outcomes[0].items():
        torch.testing.assert_close(outcomes[1][name], expected, rtol=1e-4, atol=1e-6, msg=name)
