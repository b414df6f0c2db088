import pytest
import torch
from fakes import make_batch, make_histories, make_model

N_ITEMS, LENGTH = 30, 9
LENGTHS = (1, 9, 4, 7)


def make(length=LENGTH, **changes):
    changes = {"hidden_dropout_prob": 0.0, "n_layers": 2, **changes}
    model = make_model("FMLPRec", N_ITEMS, MAX_ITEM_LIST_LENGTH=length, **changes).double()
    for parameter in model.parameters():  # away from the small numbers of the initialisation
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def histories():
    return make_histories(LENGTHS, N_ITEMS, LENGTH)


def plain(model, item_seq, item_seq_len):
    """One row at a time, padded on the left, every position of every block, the last one taken out."""
    states = []
    for row, length in zip(item_seq, item_seq_len.tolist()):
        left = torch.cat([torch.zeros(model.length - length, dtype=torch.long), row[:length]]).unsqueeze(0)
        mask = (left > 0).unsqueeze(-1) if model.mask_padding else None
        x = model.input_norm(model.item_embedding(left) + model.position_embedding(torch.arange(model.length)))
        for block in model.blocks:
            x = block(x, mask)
        states.append(x[0, -1])
    return torch.stack(states)


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_the_last_block_computes_what_is_read(n_layers, mask_padding):
    """In the output and in every gradient."""
    model, rows = make(n_layers=n_layers, mask_padding=mask_padding), histories()
    actual, expected = model(*rows), plain(model, *rows)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn_like(actual)
    names, parameters = zip(*model.named_parameters())
    ours, theirs = (torch.autograd.grad((output * cotangent).sum(), parameters) for output in (actual, expected))
    for name, a, b in zip(names, ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


def test_mask_padding_hides_the_padding_items_vector():
    with torch.no_grad():
        for mask_padding in (True, False):
            model = make(mask_padding=mask_padding)
            before = model(*histories())
            model.item_embedding.weight[0].normal_()
            moved = (model(*histories()) - before).abs().amax(dim=1) > 1e-9
            padded = torch.tensor(LENGTHS) < LENGTH
            assert torch.equal(moved, padded & (not mask_padding))


def test_all_filters_start_alike_and_apart_from_each_other():
    model = make_model("FMLPRec", n_layers=3)
    first, *others = (block.filter.complex_weight for block in model.blocks)
    assert all(torch.equal(first, other) and first is not other for other in others)
    assert not torch.equal(model.blocks[0].feed_forward.expand.weight, model.blocks[1].feed_forward.expand.weight)


def test_narrower_batches_are_those_of_the_full_length():
    model = make()
    narrow, item_seq_len = make_histories((1, 3, 2), N_ITEMS, 3)
    with torch.no_grad():
        wide = torch.nn.functional.pad(narrow, (0, LENGTH - 3))
        assert torch.equal(model(narrow, item_seq_len), model(wide, item_seq_len))
        with pytest.raises(ValueError, match=f"MAX_ITEM_LIST_LENGTH={LENGTH}"):
            model(torch.nn.functional.pad(narrow, (0, LENGTH)), item_seq_len)


def test_length_of_one():
    state = make(length=1)(torch.tensor([[4]]), torch.tensor([1]))
    assert state.shape == (1, 16) and state.isfinite().all()


def test_binary_cross_entropy_stays_finite_where_the_sigmoid_is_saturated():
    model, batch = make(loss_type="BCE"), make_batch(*histories())
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        pairs = [scores[torch.arange(len(LENGTHS)), batch[name]] for name in ("item_id", "neg_item_id")]
        expected = -(pairs[0].sigmoid().log() + (-pairs[1]).sigmoid().log()).mean()
    torch.testing.assert_close(model.calculate_loss(batch).detach(), expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        model.item_embedding.weight *= 1e4
    loss = model.float().calculate_loss(batch)
    loss.backward()
    assert loss.isfinite() and model.item_embedding.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    "key, value",
    [
        ("hidden_act", "softplus"),
        ("inner_size", 0),
        ("n_layers", 0),
        ("mask_padding", 1),
        ("loss_type", "TOP1"),
        ("hidden_dropout_prob", -0.1),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=key):
        make_model("FMLPRec", **{key: value})
