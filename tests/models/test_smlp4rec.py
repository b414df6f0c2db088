import logging

import pytest
import torch
from fakes import make_histories, make_model

from recbole_glintru.ops.histories.positions import at_position

N_ITEMS, LENGTH = 30, 9
LENGTHS = (1, 9, 4, 7)
FEATURES = {
    "kind": torch.arange(N_ITEMS) % 5,
    "tags": torch.stack([torch.arange(N_ITEMS) % 4, torch.arange(N_ITEMS) % 3], dim=1),
}


def make(name="SMLP4Rec", features=("kind", "tags"), length=LENGTH, dtype=torch.float64, **changes):
    changes = {"hidden_dropout_prob": 0.0, "n_layers": 2, **changes}
    model = make_model(
        name, N_ITEMS, FEATURES, selected_features=list(features), MAX_ITEM_LIST_LENGTH=length, **changes
    )
    for parameter in model.parameters():  # away from the small numbers of the initialisation
        torch.nn.init.normal_(parameter, std=0.4)
    return model.to(dtype)


def histories(padded_to=LENGTH, lengths=LENGTHS):
    return make_histories(lengths, N_ITEMS, padded_to)


def assert_same_with_gradients(model, actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=atol)
    cotangent = torch.randn_like(actual)
    names, parameters = zip(*model.named_parameters())
    ours, theirs = (
        torch.autograd.grad((output * cotangent).sum(), parameters, allow_unused=True) for output in (actual, expected)
    )
    for name, a, b in zip(names, ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def plain(model, item_seq, item_seq_len):
    """Every field at every position in every pass, and one vector a row taken out at the end."""
    mask = (torch.arange(model.length) < item_seq_len.unsqueeze(1)).unsqueeze(-1) if model.length_invariant else None
    x = model.item_features(item_seq, model.item_embedding(item_seq))
    for _ in range(model.n_layers):
        x = model.mixer(x, mask)
    return model.output_norm(at_position(x[:, :, 0], item_seq_len - 1))


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("features", [("kind", "tags"), ("tags",), ()], ids=["F=3", "F=2", "F=1"])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_the_last_pass_computes_what_is_read(n_layers, features, mask_padding):
    """In groups of one length each, where padding is not seen."""
    changes = {"features": features, "n_layers": n_layers, "mask_padding": mask_padding, "length_groups": [0, 0]}
    model, rows = make(**changes), histories()
    assert_same_with_gradients(model, model(*rows), plain(model, *rows))


def test_padding_is_not_seen():
    """What stands in the padding changes nothing; without the mask it does."""
    item_seq, item_seq_len = histories()
    garbage = torch.where(torch.arange(LENGTH) < item_seq_len.unsqueeze(1), item_seq, 7)
    with torch.no_grad():
        model = make()
        torch.testing.assert_close(model(garbage, item_seq_len), model(item_seq, item_seq_len), rtol=0, atol=1e-12)
        model.length_invariant = False
        assert (model(garbage, item_seq_len) - model(item_seq, item_seq_len)).abs().max() > 0.01


def test_the_length_matters_only_through_its_weights():
    """A longer model with the same weights for the first positions gives the same states."""
    short, long = make(), make(length=LENGTH + 5)
    item_seq, item_seq_len = histories()
    state = {name: tensor for name, tensor in short.state_dict().items() if "sequence_mlp" not in name}
    long.load_state_dict(state, strict=False)
    with torch.no_grad():
        expand, reduce = long.mixer.sequence_mlp.expand.weight, long.mixer.sequence_mlp.reduce.weight
        inner = 3 * LENGTH
        expand[:inner, :LENGTH] = short.mixer.sequence_mlp.expand.weight
        expand[inner:, :LENGTH] = 0  # what the added positions bring in is masked, what they put out is not read
        reduce[:LENGTH, :inner] = short.mixer.sequence_mlp.reduce.weight
        wide = torch.nn.functional.pad(item_seq, (0, 5))
        torch.testing.assert_close(long(wide, item_seq_len), short(item_seq, item_seq_len), rtol=0, atol=1e-9)


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("name", ["SMLP4Rec", "MLP4Rec"])
def test_narrower_batches_are_those_of_the_full_length(name, mask_padding):
    model = make(name, mask_padding=mask_padding)
    narrow, item_seq_len = histories(3, (1, 3, 2))
    wide = torch.nn.functional.pad(narrow, (0, LENGTH - 3))
    with torch.no_grad():
        states = model.encode(narrow, item_seq_len)
        torch.testing.assert_close(states, model.encode(wide, item_seq_len), rtol=0, atol=1e-12)
        with pytest.raises(ValueError, match=f"{LENGTH + 1} positions: the model has MAX_ITEM_LIST_LENGTH={LENGTH}"):
            model(*histories(LENGTH + 1, (1, LENGTH + 1, 2)))


@pytest.mark.parametrize("name", ["SMLP4Rec", "MLP4Rec"])
def test_one_position_one_channel_one_row(name):
    model = make(name, length=1, hidden_size=1)
    state = model(torch.tensor([[4]]), torch.tensor([1]))
    assert state.shape == (1, 1) and state.isfinite().all()


@pytest.mark.parametrize("name", ["SMLP4Rec", "MLP4Rec"])
def test_features_reach_the_state(name):
    model = make(name)
    item_seq, item_seq_len = histories()
    before = model(item_seq, item_seq_len)
    with torch.no_grad():
        model.item_features.token_embedding.weight[3].normal_()
    moved = (model(item_seq, item_seq_len) - before).abs().amax(dim=1) > 1e-6
    read = (torch.arange(LENGTH) < item_seq_len.unsqueeze(1)) & (item_seq % 5 == 3)
    assert read.any() and torch.equal(moved, read.any(dim=1))


@pytest.mark.parametrize("name", ["SMLP4Rec", "MLP4Rec"])
def test_without_features_it_says_what_that_means(name, caplog):
    with caplog.at_level(logging.INFO):
        make(name)
        make(name, features=())
    said = [message for message in caplog.messages if "selected_features=[]: " in message]
    assert len(said) == 1 and "F = 1" in said[0]


@pytest.mark.parametrize("name", ["SMLP4Rec", "MLP4Rec"])
@pytest.mark.parametrize(
    "key, value",
    [
        ("expansion", 0),
        ("n_layers", 0),
        ("hidden_dropout_prob", 1.0),
        ("mask_padding", "yes"),
        ("pooling_mode", "first"),
        ("selected_features", ["colour"]),
        ("MAX_ITEM_LIST_LENGTH", 0),
    ],
)
def test_wrong_settings_are_named(name, key, value):
    with pytest.raises(ValueError, match=key):
        make_model(name, N_ITEMS, FEATURES, **{"selected_features": ["kind"], key: value})
