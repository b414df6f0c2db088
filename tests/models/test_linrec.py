"""What is special to LinRec; what every model must do is in test_contract.py, the published code in test_golden.py."""

import math

import pytest
import torch
import torch.nn.functional as F
from fakes import make_histories, make_model

LENGTHS = (1, 12, 7, 2, 9, 12)


def shaken(model):
    """Leave the initialisation, in which zero biases and unit gains hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def plain_attention(attention, x, seen, key_norm):
    """One history, every position, one head at a time: x `[n, d]`, the first `seen` positions visible -> `[n, d]`."""
    size = x.shape[1] // attention.n_heads
    heads = []
    for head in range(attention.n_heads):
        channels = slice(head * size, (head + 1) * size)
        query, key, value = (layer(x)[:, channels] for layer in (attention.query, attention.key, attention.value))
        query, key, value = F.elu(query), F.elu(key)[:seen], value[:seen]
        query = query / query.norm(dim=1, keepdim=True) / math.sqrt(size)
        if key_norm == "position":
            key = key / key.norm(dim=1, keepdim=True)
        else:
            key = key / key.norm(dim=0, keepdim=True) / math.sqrt(seen)
        heads.append((query @ key.T) @ value)
    return torch.cat(heads, dim=1)


def plain_encode(model, items, length, key_norm):
    """One history in a row of `items`, the first `length` of them real."""
    seen = length if model.length_invariant else len(items)
    x = model.input_norm(model.item_embedding(items) + model.position_embedding.weight[: len(items)])
    for block in model.blocks:
        x = block.attention_norm(block.attention_output(plain_attention(block.attention, x, seen, key_norm)) + x)
        network = block.feed_forward
        x = network.norm(network.reduce(network.activation(network.expand(x))) + x)
    return x[length - 1]


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"key_norm": "sequence"},
        {"n_layers": 1},
        {"n_layers": 3, "key_norm": "sequence"},
        {"n_heads": 1},
        {"n_heads": 16},
        {"hidden_act": "relu"},
        {"hidden_act": "swish"},
        {"hidden_act": "tanh"},
        {"hidden_act": "sigmoid"},
        {"inner_size": 5},
    ],
    ids=lambda variant: "-".join(f"{key}={value}" for key, value in variant.items()) or "default",
)
def test_equals_the_plain_version(variant, mask_padding):
    """All positions, row by row, float64: asking for the last position alone changes nothing, gradients included."""
    model = shaken(make_model("LinRec", mask_padding=mask_padding, **variant)).double().eval()
    item_seq, item_seq_len = make_histories(LENGTHS, padded_to=15)
    actual = model(item_seq, item_seq_len)
    key_norm = variant.get("key_norm", "position")
    rows = zip(item_seq, item_seq_len.tolist())
    expected = torch.stack([plain_encode(model, items, length, key_norm) for items, length in rows])
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11)
    weights = torch.randn(actual.shape, dtype=torch.float64)
    names, parameters = zip(*model.named_parameters())
    gradients = [torch.autograd.grad((state * weights).sum(), parameters) for state in (actual, expected)]
    for name, ours, plain in zip(names, *gradients):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def test_only_the_last_position_is_computed_in_the_last_block():
    model, seen = make_model("LinRec", n_layers=3).eval(), []
    for block in model.blocks:
        block.feed_forward.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[:-1]))
    model(*make_histories([20, 18]))
    assert seen == [(2, 20), (2, 20), (2,)]


def test_longer_histories_than_positions_are_named():
    with pytest.raises(ValueError, match="histories of 21 positions.*MAX_ITEM_LIST_LENGTH=20"):
        make_model("LinRec")(*make_histories([21]))


@pytest.mark.parametrize(
    "key, value, allowed",
    [
        ("n_heads", 3, "a divisor of hidden_size=16"),
        ("n_layers", 0, "a whole number, at least 1"),
        ("inner_size", 1.5, "a whole number, at least 1"),
        ("hidden_act", "silu", "one of gelu, relu, swish, tanh, sigmoid"),
        ("hidden_dropout_prob", 1.0, "a probability"),
        ("layer_norm_eps", -1, "a finite number, at least 0"),
        ("initializer_range", None, "a finite number, at least 0"),
        ("mask_padding", "no", "True or False"),
        ("key_norm", "column", "one of position, sequence"),
    ],
)
def test_wrong_settings_are_named(key, value, allowed):
    with pytest.raises(ValueError) as error:
        make_model("LinRec", **{key: value})
    assert f"{key}={value!r}" in str(error.value) and allowed in str(error.value)
