import pytest
import torch

from recbole_glintru.layers.gru import GRU
from recbole_glintru.ops.gru import packed_gru as gru_module
from recbole_glintru.ops.gru.packed_gru import packed_gru, packed_gru_at
from recbole_glintru.ops.gru.reference import gru_reference
from recbole_glintru.ops.layouts.packed import Packed
from recbole_glintru.ops.layouts.padded import Padded

SHAPES = [(1, 1, 4), (1, 7, 3), (3, 1, 8), (17, 5, 6), (63, 20, 5), (2, 65, 32)]


def problem(rows, length, d, bias, dtype=torch.float64, inputs=None):
    generator = torch.Generator().manual_seed(rows * length + d)
    inputs = inputs or d

    def draw(*shape):  # of a trained layer's size: with larger weights the recurrence is chaotic
        values = torch.randn(*shape, generator=generator, dtype=dtype)
        return values.mul_(1 if len(shape) == 3 else d**-0.5).requires_grad_()

    tensors = {"x": draw(rows, length, inputs), "weight_ih": draw(3 * d, inputs), "weight_hh": draw(3 * d, d)}
    if bias:
        tensors.update(bias_ih=draw(3 * d), bias_hh=draw(3 * d))
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    return tensors, lengths, torch.randn(rows, length, d, generator=generator, dtype=dtype)


def gru(x, lengths, *weights, **named_weights):
    """`packed_gru` with the signature of `gru_reference`."""
    layout = Packed(lengths, x.shape[1])
    return layout.pad(packed_gru(layout.arrange(x), layout.counts, *weights, **named_weights))


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("rows, length, d", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 2e-5)], ids=["f64", "f32"])
def test_equals_reference(rows, length, d, bias, dtype, tolerance):
    """Outputs and every gradient; in float32 sums of up to 63 * 65 terms come in another order."""
    tensors, lengths, cotangent = problem(rows, length, d, bias, dtype)
    results = []
    for function in (gru_reference, gru):
        states = function(lengths=lengths, **tensors)
        results.append([states, *torch.autograd.grad((states * cotangent).sum(), list(tensors.values()))])
    for name, expected, actual in zip(["states", *tensors], *results):
        scale = max(1.0, expected.abs().max().item())
        assert (actual - expected).abs().max().item() <= tolerance * scale, name


def test_other_input_width():
    tensors, lengths, _ = problem(5, 9, 4, True, inputs=7)
    torch.testing.assert_close(gru(lengths=lengths, **tensors), gru_reference(lengths=lengths, **tensors))


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("rows, length, d", SHAPES)
def test_gates_that_are_computed_again(rows, length, d, bias, monkeypatch):
    """The same gradients from gates that were too many to keep."""
    tensors, lengths, cotangent = problem(rows, length, d, bias)
    results = []
    for limit in (gru_module.LARGEST_KEPT, 0):
        monkeypatch.setattr(gru_module, "LARGEST_KEPT", limit)
        states = gru(lengths=lengths, **tensors)
        results.append(torch.autograd.grad((states * cotangent).sum(), list(tensors.values())))
    for name, kept, again in zip(tensors, *results):
        torch.testing.assert_close(again, kept, rtol=1e-11, atol=1e-11, msg=name)


def test_gates_above_the_limit_are_not_kept(monkeypatch):
    """Between the passes: four numbers a position and channel, in eight bytes each, are 32 d N."""
    tensors, lengths, _ = problem(17, 5, 6, False)
    size = 4 * 8 * 6 * int(lengths.sum())
    for limit, kept in ((size, True), (size - 1, False)):
        monkeypatch.setattr(gru_module, "LARGEST_KEPT", limit)
        layout = Packed(lengths, 5)
        _, weight_ih, weight_hh = tensors.values()
        states = packed_gru(layout.arrange(tensors["x"]), layout.counts, weight_ih, weight_hh)
        assert (states.grad_fn.gates is not None) is kept


def test_gradients_are_exact():
    tensors, lengths, _ = problem(3, 4, 3, True)
    assert torch.autograd.gradcheck(lambda *args: gru(args[0], lengths, *args[1:]), tuple(tensors.values()))


@pytest.mark.parametrize("bias", [False, True])
def test_a_retained_graph_gives_the_same_gradients_again(bias):
    """The first backward pass uses up what the forward pass has kept."""
    tensors, lengths, cotangent = problem(5, 7, 4, bias)
    loss = (gru(lengths=lengths, **tensors) * cotangent).sum()
    first = torch.autograd.grad(loss, list(tensors.values()), retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(loss, list(tensors.values()))):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows, length, d", SHAPES)
def test_at_some_places(rows, length, d, bias):
    """As the states and inputs of all places give it; some places asked for twice, some not at all."""
    tensors, lengths, _ = problem(rows, length, d, bias)
    layout, (x, *weights) = Packed(lengths, length), tensors.values()
    places = torch.randint(int(lengths.sum()), (2 * rows,), generator=torch.Generator().manual_seed(0))

    def everywhere(x):
        return packed_gru(x, layout.counts, *weights)[places], x[places]

    results = []
    for function in (everywhere, lambda x: packed_gru_at(x, layout.counts, places, *weights)):
        packed = layout.arrange(x)
        outputs = function(packed)
        loss = sum((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum() for y in outputs)
        results.append([*outputs, *torch.autograd.grad(loss, [x, *weights])])
    for expected, actual in zip(*results):
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("num_layers, bias", [(1, False), (2, True)])
def test_layer_equals_torch(num_layers, bias):
    torch.manual_seed(0)
    layer = GRU(8, num_layers, bias)
    x, lengths = torch.randn(4, 11, 8), torch.tensor([11, 3, 7, 1])
    plain = torch.nn.GRU(8, 8, num_layers, bias=bias, batch_first=True)
    plain.load_state_dict(layer.state_dict())
    expected = plain(x)[0]
    for layout in (Packed(lengths, 11), Padded(lengths, 11)):
        actual = layout.pad(layer(layout.arrange(x), layout))
        for row, length in enumerate(lengths):
            torch.testing.assert_close(actual[row, :length], expected[row, :length], rtol=0, atol=1e-6)
            assert not actual[row, length:].any()
        last = layout.sort(lengths - 1).unsqueeze(1)
        for ours, of_all in zip(layer.at(layout.arrange(x), layout, last), (expected, x)):
            picked = of_all[torch.arange(4), lengths - 1].unsqueeze(1)
            torch.testing.assert_close(layout.restore(ours), picked, rtol=0, atol=1e-6)


def test_padding_is_not_computed():
    """NaN behind the length reaches neither a state nor a gradient."""
    tensors, lengths, _ = problem(6, 10, 4, False)
    x = tensors.pop("x").detach()
    x[torch.arange(10) >= lengths.unsqueeze(1)] = float("nan")
    x.requires_grad_()
    states = gru(x, lengths, **tensors)
    states.sum().backward()
    assert states.isfinite().all() and x.grad.isfinite().all() and tensors["weight_ih"].grad.isfinite().all()
