"""What is special to LRURec; what every model must do is in test_contract.py, the published code in test_golden.py."""

import pytest
import torch
import torch.nn.functional as F
from fakes import make_batch, make_histories, make_model

from recbole_glintru.layers.linear_recurrent_unit import LinearRecurrentUnit

LENGTHS = (1, 12, 7, 2, 9, 12)


def complex_unit(unit, x):
    """The unit's equations with complex layers, step by step: x `[B, L, d]` -> `[B, L, d]`."""
    nu, theta, gamma = unit.log_parameters.exp()
    decay = torch.exp(torch.complex(-nu, theta))
    in_weight = torch.complex(unit.input.weight[0::2], unit.input.weight[1::2])
    in_bias = torch.complex(unit.input.bias[0::2], unit.input.bias[1::2])
    out_weight = torch.complex(unit.output.weight[:, 0::2], -unit.output.weight[:, 1::2])
    state, outputs = torch.zeros(len(x), len(nu), dtype=decay.dtype), []
    for t in range(x.shape[1]):
        state = decay * state + gamma * (x[:, t].to(decay.dtype) @ in_weight.T + in_bias)
        outputs.append((state @ out_weight.T).real + unit.output.bias)
    return torch.stack(outputs, dim=1)


def assert_same_gradients(unit, x, actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11)
    weights = torch.randn(actual.shape, dtype=torch.float64)
    names, tensors = zip(*unit.named_parameters(), ("x", x))
    ours, plain = (torch.autograd.grad((y * weights).sum(), tensors) for y in (actual, expected))
    for name, a, b in zip(names, ours, plain):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("rows, length, d, state_size", [(1, 1, 1, 1), (3, 9, 4, 8), (2, 33, 5, 3)])
def test_unit_equals_its_complex_equations(rows, length, d, state_size):
    torch.manual_seed(0)
    unit = LinearRecurrentUnit(d, state_size).double()
    x = torch.randn(rows, length, d, dtype=torch.float64, requires_grad=True)
    assert_same_gradients(unit, x, unit(x), complex_unit(unit, x))


def test_unit_at_last():
    """The weighted sum over a history is the recurrence's last state, whatever comes after the history."""
    torch.manual_seed(0)
    unit = LinearRecurrentUnit(6, 12).double()
    x = torch.randn(6, 15, 6, dtype=torch.float64, requires_grad=True)
    last = torch.tensor(LENGTHS) - 1
    assert_same_gradients(unit, x, unit.at_last(x, last), unit(x)[torch.arange(6), last])


def test_decays_start_in_the_ring():
    torch.manual_seed(0)
    nu, theta, gamma = LinearRecurrentUnit(4, 4000).log_parameters.exp()
    magnitude = torch.exp(-nu)
    assert 0.8 - 1e-6 <= magnitude.min() < 0.81 and 0.98 < magnitude.max() <= 0.99 + 1e-6
    assert 0 <= theta.min() < 0.1 and 6.2 < theta.max() <= 2 * torch.pi + 1e-5
    torch.testing.assert_close(gamma**2, 1 - magnitude**2)
    middle = ((0.8**2 + 0.99**2) / 2) ** 0.5  # evenly over the area: half of the draws are below it
    assert (magnitude < middle).float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_last_state_equals_all_states():
    model = make_model("LRURec", n_layers=3).double().eval()
    item_seq, item_seq_len = make_histories(LENGTHS, padded_to=15)
    expected = model.encode_all(item_seq)[torch.arange(len(LENGTHS)), item_seq_len - 1]
    torch.testing.assert_close(model(item_seq, item_seq_len), expected, rtol=0, atol=1e-12)


def test_is_causal():
    model = make_model("LRURec").double().eval()
    item_seq, _ = make_histories([12])
    changed = item_seq.clone()
    changed[:, 7] = changed[:, 7] % 29 + 1
    before, after = model.encode_all(item_seq), model.encode_all(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().amax(dim=(0, 2)).min() > 1e-9


def test_recurrence_is_not_run_in_the_last_block():
    model, calls = make_model("LRURec", n_layers=3).eval(), []
    for block in model.blocks:
        block.recurrent_unit.register_forward_hook(lambda *_: calls.append("recurrence"))
        block.feed_forward.register_forward_hook(lambda _, inputs, __: calls.append(tuple(inputs[0].shape[:-1])))
    model(*make_histories([20, 3]))
    assert calls == ["recurrence", (2, 20), "recurrence", (2, 20), (2,)]


def test_loss_of_all_positions():
    """The mean of what each prefix of each history predicts, one by one."""
    model = make_model("LRURec", loss_type="CE_all").double().eval()
    item_seq, item_seq_len = make_histories(LENGTHS, padded_to=15)
    rows = make_batch(item_seq, item_seq_len)
    losses = []
    for items, length, target in zip(item_seq, LENGTHS, rows["item_id"]):
        following = [*items[1:length], target]
        for n in range(1, length + 1):
            state = model(items[None, :n], torch.tensor([n]))
            losses.append(F.cross_entropy(model.score_all_items(state), following[n - 1].view(1)))
    assert model.calculate_loss(rows).item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-12)
    assert torch.equal(rows["item_id_list"], item_seq)


def test_item_bias_is_added():
    model, (item_seq, item_seq_len) = make_model("LRURec").eval(), make_histories(LENGTHS)
    rows = make_batch(item_seq, item_seq_len)
    with torch.no_grad():
        before, pairs = model.full_sort_predict(rows), model.predict(rows)
        model.item_bias += torch.arange(30)
        torch.testing.assert_close(model.full_sort_predict(rows), before + torch.arange(30))
        torch.testing.assert_close(model.predict(rows), pairs + rows["item_id"])


@pytest.mark.parametrize(
    "key, value, allowed",
    [
        ("state_expansion", 0, "a whole number, at least 1"),
        ("n_layers", 0, "a whole number, at least 1"),
        ("inner_size", None, "a whole number, at least 1"),
        ("hidden_dropout_prob", 1.0, "a probability"),
        ("attn_dropout_prob", -0.1, "a probability"),
        ("layer_norm_eps", "small", "a finite number, at least 0"),
        ("initializer_range", -1, "a finite number, at least 0"),
        ("loss_type", "BCE", "one of CE, BPR, CE_all"),
    ],
)
def test_wrong_settings_are_named(key, value, allowed):
    with pytest.raises(ValueError) as error:
        make_model("LRURec", **{key: value})
    assert f"{key}={value!r}" in str(error.value) and allowed in str(error.value)
