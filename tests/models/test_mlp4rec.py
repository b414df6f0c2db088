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


def make(features=("kind", "tags"), length=LENGTH, **changes):
    changes = {"hidden_dropout_prob": 0.0, "n_layers": 2, **changes}
    model = make_model(
        "MLP4Rec", N_ITEMS, FEATURES, selected_features=list(features), MAX_ITEM_LIST_LENGTH=length, **changes
    )
    for parameter in model.parameters():  # away from the small numbers of the initialisation
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def plain(model, item_seq, item_seq_len):
    """As published: one field after the other, every position, and one vector a row taken out at the end."""
    mask = (torch.arange(LENGTH) < item_seq_len.unsqueeze(1)).unsqueeze(-1) if model.length_invariant else None
    x = model.item_features(item_seq, model.item_embedding(item_seq))
    for _ in range(model.n_layers):
        fields = [model.sequence_mixer(field, 1, mask) for field in x.unbind(2)]
        x = torch.stack([model.channel_mixer(field, 2) for field in fields], dim=2)
        x = model.feature_mixer(x, 2)
    return model.output_norm(at_position(x[:, :, 0], item_seq_len - 1))


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("features", [("kind", "tags"), ("tags",), ()], ids=["F=3", "F=2", "F=1"])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_the_last_pass_computes_what_is_read(n_layers, features, mask_padding):
    """In the output and in every gradient; in groups of one length each, where padding is not seen."""
    model = make(features, n_layers=n_layers, mask_padding=mask_padding, length_groups=[0, 0])
    rows = make_histories(LENGTHS, N_ITEMS, LENGTH)
    actual, expected = model(*rows), plain(model, *rows)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn_like(actual)
    names, parameters = zip(*model.named_parameters())
    ours, theirs = (torch.autograd.grad((output * cotangent).sum(), parameters) for output in (actual, expected))
    for name, a, b in zip(names, ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


def test_padding_is_not_seen():
    """What stands in the padding changes nothing; without the mask it does."""
    item_seq, item_seq_len = make_histories(LENGTHS, N_ITEMS, LENGTH)
    garbage = torch.where(torch.arange(LENGTH) < item_seq_len.unsqueeze(1), item_seq, 7)
    with torch.no_grad():
        model = make()
        torch.testing.assert_close(model(garbage, item_seq_len), model(item_seq, item_seq_len), rtol=0, atol=1e-12)
        model.length_invariant = False
        assert (model(garbage, item_seq_len) - model(item_seq, item_seq_len)).abs().max() > 0.01


def test_the_mixers_are_shared_by_all_passes():
    """The published model has as many parameters with eight layers as with one."""
    count = {sum(p.numel() for p in make(n_layers=n).parameters()) for n in (1, 8)}
    assert len(count) == 1
