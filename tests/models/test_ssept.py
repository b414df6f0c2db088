"""What is special to SSE-PT; what every model must do is in test_contract.py. There is no recording of the published
code, TensorFlow 1: its equations are written out here, one history and one head at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from fakes import make_batch, make_histories, make_model

from recbole_glintru.models.ssept import replace_at_random

LENGTHS = (1, 12, 7, 2, 9, 12)
USERS = torch.tensor([1, 2, 3, 4, 5, 10])


def shaken(model):
    """Leave the initialisation, in which zero biases and unit gains hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def plain_state(model, items, user):
    """The joint state at every item of one history `[n]`, and the user's embedding."""
    user = model.user_embedding.weight[user] * math.sqrt(model.user_hidden_size)
    items = model.item_embedding.weight[items] * math.sqrt(model.hidden_size)
    x = torch.cat([items, user.expand(len(items), -1)], dim=1) + model.position_embedding.weight[: len(items)]
    for block in model.blocks:
        attention, network = block.attention, block.feed_forward
        size, normalised, heads = x.shape[1] // attention.n_heads, block.attention_norm(x), []
        for head in range(attention.n_heads):
            channels = slice(head * size, (head + 1) * size)
            query = attention.query(normalised)[:, channels]
            key, value = attention.key(x)[:, channels], attention.value(x)[:, channels]
            weights = query @ key.T / math.sqrt(size)
            future = torch.ones_like(weights).triu(1).bool()
            heads.append(weights.masked_fill(future, -torch.inf).softmax(dim=1) @ value)
        x = block.feed_forward_norm(torch.cat(heads, dim=1) + normalised)
        x = network.reduce(F.relu(network.expand(x))) + x
    return model.output_norm(x), user


def plain_scores(model, items, user):
    """Of every item: the last state times [item; user]."""
    state, user = plain_state(model, items, user)
    table = model.item_embedding.weight
    return torch.cat([table, user.expand(len(table), -1)], dim=1) @ state[-1]


@pytest.mark.parametrize(
    "variant",
    [{}, {"n_layers": 1}, {"n_layers": 3, "n_heads": 1}, {"user_hidden_size": 8, "n_heads": 3}],
    ids=lambda variant: "-".join(f"{key}={value}" for key, value in variant.items()) or "default",
)
def test_equals_the_plain_version(variant):
    """All positions, row by row, float64; asking for the last position alone changes nothing, gradients included."""
    model = shaken(make_model("SSEPT", **variant)).double().eval()
    item_seq, item_seq_len = make_histories(LENGTHS, padded_to=15)
    actual = model.full_sort_predict(make_batch(item_seq, item_seq_len, users=USERS))
    rows = zip(item_seq, LENGTHS, USERS)
    expected = torch.stack([plain_scores(model, items[:length], user) for items, length, user in rows])
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11)
    weights = torch.randn(actual.shape, dtype=torch.float64)
    names, parameters = zip(*model.named_parameters())
    gradients = [torch.autograd.grad((scores * weights).sum(), parameters) for scores in (actual, expected)]
    for name, ours, plain in zip(names, *gradients):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")


def test_predict_scores_the_user_too():
    model = shaken(make_model("SSEPT")).double().eval()
    item_seq, item_seq_len = make_histories(LENGTHS, padded_to=15)
    batch = make_batch(item_seq, item_seq_len, users=USERS)
    rows = zip(item_seq, LENGTHS, USERS, batch["item_id"])
    expected = torch.stack([plain_scores(model, items[:length], user)[item] for items, length, user, item in rows])
    torch.testing.assert_close(model.predict(batch), expected, rtol=0, atol=1e-11)


def test_user_reaches_the_ranking():
    """Another user with the same history: not only another constant, other differences between items."""
    model, history = shaken(make_model("SSEPT")).eval(), make_histories([9])
    with torch.no_grad():
        one, other = (
            model.full_sort_predict(make_batch(*history, users=torch.tensor([user]))).squeeze(0) for user in (3, 4)
        )
    assert (one - one.mean() - (other - other.mean())).abs().max() > 0.01


def test_same_history_of_two_users_is_two_histories():
    """The sampled evaluation encodes equal histories once; those of different users are not equal."""
    model, (items, length) = shaken(make_model("SSEPT")).eval(), make_histories([9])
    batch = make_batch(items.repeat(2, 1), length.repeat(2), torch.tensor([5, 5]), users=torch.tensor([3, 4]))
    one, other = model.predict(batch).tolist()
    assert abs(one - other) > 0.01


def test_lower_blocks_are_causal():
    model = shaken(make_model("SSEPT")).double().eval()
    attention = model.blocks[0].attention
    x = torch.randn(2, 9, 32, dtype=torch.float64)
    changed = x.clone()
    changed[:, 5] += 1
    before, after = attention(x, x), attention(changed, changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().amax(dim=(0, 2)).min() > 1e-6


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.92])
def test_ids_are_replaced_as_often_as_set(probability):
    """A replacement is the old id again once in 49 times; padding stays, and no id becomes padding."""
    torch.manual_seed(0)
    ids = torch.randint(1, 50, (400, 100))
    ids[:, 70:] = 0
    new = replace_at_random(ids, probability, 50)
    assert torch.equal(new[:, 70:], ids[:, 70:])
    assert new[:, :70].min() >= 1 and new[:, :70].max() <= 49
    changed = new[:, :70] != ids[:, :70]
    assert changed.double().mean().item() == pytest.approx(probability * 48 / 49, abs=0.01)
    if probability:
        counts = torch.bincount(new[:, :70][changed], minlength=50)[1:].double()
        assert counts.std() / counts.mean() < 3 * (counts.mean() ** -0.5)  # evenly over the ids


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sse_item_prob, sse_user_prob", [(0.0, 0.0), (0.4, 0.0), (0.0, 0.7)])
def test_ids_are_replaced_in_training_alone(training, sse_item_prob, sse_user_prob):
    torch.manual_seed(0)
    model = make_model("SSEPT", sse_item_prob=sse_item_prob, sse_user_prob=sse_user_prob).train(training)
    looked_up = {}
    for name in ("item_embedding", "user_embedding"):
        table = getattr(model, name)
        table.register_forward_hook(lambda _, inputs, __, name=name: looked_up.update({name: inputs[0]}))
    item_seq, item_seq_len = make_histories([20] * 500)
    user_id = torch.arange(500) % 10 + 1
    model(item_seq, item_seq_len, user_id)
    replaced = (looked_up["item_embedding"] != item_seq).double().mean().item()
    assert replaced == pytest.approx(sse_item_prob * training * 28 / 29, abs=0.02 * bool(sse_item_prob))
    replaced = (looked_up["user_embedding"] != user_id).double().mean().item()
    assert replaced == pytest.approx(sse_user_prob * training * 9 / 10, abs=0.07 * bool(sse_user_prob))


def test_authors_loss():
    model = shaken(make_model("SSEPT", loss_type="BCE")).double().eval()
    item_seq, item_seq_len = make_histories(LENGTHS)
    batch = make_batch(item_seq, item_seq_len, users=USERS)
    scores = model.full_sort_predict(batch).sigmoid()
    rows = torch.arange(len(LENGTHS))
    expected = -scores[rows, batch["item_id"]].log() - (1 - scores[rows, batch["neg_item_id"]]).log()
    assert model.calculate_loss(batch).item() == pytest.approx(expected.mean().item(), rel=1e-6)


def test_only_the_last_position_is_computed_in_the_last_block():
    model, seen = make_model("SSEPT", n_layers=3).eval(), []
    for block in model.blocks:
        block.feed_forward.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    model(*make_histories([20, 3]), torch.tensor([1, 2]))
    assert seen == [20, 20, 1]


def test_heads_must_divide_the_joint_width():
    with pytest.raises(ValueError, match=r"n_heads=5: must be a divisor of hidden_size \+ user_hidden_size=32"):
        make_model("SSEPT", n_heads=5)


@pytest.mark.parametrize(
    "key, value, allowed",
    [
        ("user_hidden_size", 0, "a whole number, at least 1"),
        ("n_heads", 0, "a whole number, at least 1"),
        ("n_layers", 1.0, "a whole number, at least 1"),
        ("hidden_dropout_prob", 1.0, "a probability"),
        ("attn_dropout_prob", -0.1, "a probability"),
        ("layer_norm_eps", None, "a finite number, at least 0"),
        ("sse_user_prob", 1.5, "a probability"),
        ("sse_item_prob", "often", "a probability"),
        ("loss_type", "CE_all", "one of CE, BPR, BCE"),
    ],
)
def test_wrong_settings_are_named(key, value, allowed):
    with pytest.raises(ValueError) as error:
        make_model("SSEPT", **{key: value})
    assert f"{key}={value!r}" in str(error.value) and allowed in str(error.value)
