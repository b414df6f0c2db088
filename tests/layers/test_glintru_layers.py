"""The layers of GLINT-RU against its equations, in every layout, at every position and at the last one alone."""

import pytest
import reference_glintru
import torch
from fakes import make_model

from recbole_glintru.ops.layouts.compact import Compact
from recbole_glintru.ops.layouts.packed import Packed
from recbole_glintru.ops.layouts.padded import Padded

LENGTHS, LONGEST, D = (5, 1, 7, 2, 7), 7, 16
LAYOUTS = pytest.mark.parametrize("kind", [Padded, Packed, Compact])


@pytest.fixture
def x():
    """The input of a block, `[B, L, d]`, with values where the padding is."""
    return torch.randn(len(LENGTHS), LONGEST, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make_block(**settings):
    """A block whose zero biases and unit gains have been moved."""
    block = make_model("GLINTRU", hidden_size=D, **settings).double().eval().blocks[0]
    generator = torch.Generator().manual_seed(1)
    for parameter in block.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).double()
    return block.requires_grad_(False)


def layout_of(kind):
    lengths = torch.tensor(LENGTHS)
    layout = kind(lengths, LONGEST)
    return layout, layout.sort(lengths - 1)


def assert_every_position(layout, actual, x, function):
    """What a layer gives in a layout is what the function gives of each history alone."""
    padded = layout.pad(actual)
    for row, (history, length) in enumerate(zip(x, LENGTHS)):
        torch.testing.assert_close(padded[row, :length], function(history[:length]), rtol=1e-10, atol=1e-10)


def assert_last_position(layout, actual, x, function):
    expected = torch.stack([function(history[:length])[-1] for history, length in zip(x, LENGTHS)])
    torch.testing.assert_close(layout.restore(actual), expected, rtol=1e-10, atol=1e-10)


@LAYOUTS
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 9])
def test_convolution_of_the_projection(x, kind, kernel_size):
    """C, eq. 5."""
    expert, (layout, _) = make_block(kernel_size=kernel_size).recurrent_expert, layout_of(kind)
    actual = expert.convolved(layout.arrange(x), layout)
    assert_every_position(
        layout, actual, x, lambda own: reference_glintru.convolve(expert.input_conv, expert.input_projection(own))
    )


@LAYOUTS
@pytest.mark.parametrize(
    "settings", [{}, {"kernel_size": 5}, {"use_temporal_conv": False}, {"gru_layers": 2}, {"gru_bias": True}]
)
def test_recurrent_expert(x, kind, settings):
    """Y, eq. 5 to 9."""
    expert, (layout, last) = make_block(**settings).recurrent_expert, layout_of(kind)
    convolved = expert.convolved(layout.arrange(x), layout)
    assert_every_position(layout, expert(convolved, layout), x, lambda own: reference_glintru.recurrent(expert, own))
    at_last = expert.at_last(convolved, layout, last)
    assert_last_position(layout, at_last, x, lambda own: reference_glintru.recurrent(expert, own))


@pytest.mark.parametrize("activation", ["silu", "relu", "sigmoid", "elu"])
def test_selective_gate(x, activation):
    """delta, eq. 9."""
    gate = make_block(gate_activation=activation).recurrent_expert.selective_gate
    inner = x @ gate.reduce.weight.T + gate.reduce.bias
    inner = {
        "silu": inner * torch.sigmoid(inner),
        "relu": inner.clamp(min=0),
        "sigmoid": torch.sigmoid(inner),
        "elu": torch.where(inner > 0, inner, inner.exp() - 1),
    }[activation]
    torch.testing.assert_close(gate(x), inner @ gate.expand.weight.T + gate.expand.bias)


@LAYOUTS
@pytest.mark.parametrize("settings", [{}, {"key_norm": "sequence"}, {"n_heads": 4}, {"attention_output_block": False}])
def test_attention_expert(x, kind, settings):
    """A', eq. 2."""
    expert, (layout, last) = make_block(**settings).attention_expert, layout_of(kind)
    arranged = layout.arrange(x)
    assert_every_position(layout, expert(arranged, layout), x, lambda own: reference_glintru.attend(expert, own))
    queries = layout.at(arranged, last.unsqueeze(1)).squeeze(1)
    at_last = expert.at_query(*expert.attention.keys_and_values(arranged), layout, queries)
    assert_last_position(layout, at_last, x, lambda own: reference_glintru.attend(expert, own))


def test_mixture(x):
    """M, eq. 10: a softmax over two numbers."""
    mixing = make_block().expert_mixing
    first, second = mixing.logits.exp() / mixing.logits.exp().sum()
    assert first != second
    torch.testing.assert_close(mixing(x, x.flip(0)), first * x + second * x.flip(0))


@pytest.mark.parametrize("output_linear", [True, False])
def test_data_aware_gate(x, output_linear):
    """Z, eq. 11, with GELU by the error function."""
    gate, mixed = make_block(mix_output_linear=output_linear).data_aware_gate, x.flip(0)
    inner = x @ gate.gate.weight.T + gate.gate.bias
    expected = inner * (1 + torch.erf(inner / 2**0.5)) / 2 * mixed
    if output_linear:
        expected = expected @ gate.output.weight.T + gate.output.bias
    torch.testing.assert_close(gate(x, mixed), expected)


def test_gated_mlp(x):
    """R, eq. 12."""
    mlp = make_block().gated_mlp
    inner = x @ mlp.gate.weight.T + mlp.gate.bias
    inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2 * (x @ mlp.value.weight.T + mlp.value.bias)
    torch.testing.assert_close(mlp(x), inner @ mlp.output.weight.T + mlp.output.bias)


@LAYOUTS
@pytest.mark.parametrize("settings", [{}, {"share_block_norm": False}, {"use_gated_mlp": False}])
def test_block(x, kind, settings):
    """Eq. 2 and 5 to 12 together, with the published residuals and LayerNorms."""
    block, (layout, last) = make_block(**settings), layout_of(kind)
    arranged = layout.arrange(x)
    assert_every_position(layout, block(arranged, layout), x, lambda own: reference_glintru.block(block, own))
    x_last = layout.at(arranged, last.unsqueeze(1)).squeeze(1)
    at_last = block.at_last(x_last, block.expert_inputs(arranged, layout), layout, last)
    assert_last_position(layout, at_last, x, lambda own: reference_glintru.block(block, own))
