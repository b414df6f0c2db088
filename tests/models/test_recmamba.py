import pytest
import torch
from fakes import make_batch, make_histories, make_model

LENGTH = 9
LENGTHS = (1, 9, 4, 7)


def make(**changes):
    return make_model("RecMamba", **{"hidden_dropout_prob": 0.0, "MAX_ITEM_LIST_LENGTH": LENGTH, **changes})


def inputs_of_mamba(model, lengths=LENGTHS):
    seen = []
    model.mamba.at_last = lambda x, last: seen.append((x, last)) or x[:, 0]
    model(*make_histories(lengths, padded_to=LENGTH))
    return seen[0]


@pytest.mark.parametrize("position_from_end", [True, False])
def test_positions(position_from_end):
    model = make(position_from_end=position_from_end)
    torch.nn.init.zeros_(model.item_embedding.weight)
    x, last = inputs_of_mamba(model)
    table = model.position_embedding.weight
    for row, n in enumerate(LENGTHS):
        expected = table[LENGTH - n :] if position_from_end else table[:n]
        assert torch.equal(x[row, :n], expected) and last[row] == n - 1


def test_left_padding_is_seen_by_mamba():
    model = make(left_padding=True)
    x, last = inputs_of_mamba(model, (2, 1))
    assert x.shape[1] == LENGTH and last.tolist() == [LENGTH - 1] * 2
    model = make(left_padding=True).eval()
    history = make_histories(LENGTHS, padded_to=LENGTH)
    with torch.no_grad():
        before = model(*history)
        model.item_embedding.weight[0] += 1
        moved = (model(*history) - before).abs().amax(dim=1) > 1e-6
    assert moved.tolist() == [n < LENGTH for n in LENGTHS]


def test_full_histories_are_the_same_either_way():
    clean, published = make(), make(left_padding=True)
    published.load_state_dict(clean.state_dict())
    history = make_histories((LENGTH, LENGTH))
    torch.testing.assert_close(clean(*history), published(*history), rtol=0, atol=1e-6)


def test_all_positions_loss_of_one_target_is_the_target_loss():
    """With a target at the last position alone, the authors' objective is `loss_type: BCE`."""
    model = make(loss_type="BCE").double()
    item_seq, item_seq_len = make_histories(LENGTHS, padded_to=LENGTH)
    batch = make_batch(item_seq, item_seq_len)
    rows = torch.arange(len(LENGTHS))
    targets, negatives = torch.zeros_like(item_seq), torch.zeros_like(item_seq)
    targets[rows, item_seq_len - 1] = batch["item_id"]
    negatives[rows, item_seq_len - 1] = batch["neg_item_id"]
    expected = model.all_positions_loss(model.encode_all(item_seq, item_seq_len), targets, negatives)
    torch.testing.assert_close(model.calculate_loss(batch), expected)


def test_binary_cross_entropy_stays_finite_for_large_scores():
    model = make(loss_type="BCE")
    with torch.no_grad():
        model.item_embedding.weight *= 1e4
    loss = model.calculate_loss(make_batch(*make_histories(LENGTHS)))
    loss.backward()
    assert loss.isfinite() and model.item_embedding.weight.grad.isfinite().all()


def test_mamba_init():
    published, upstream = (make(mamba_init=name).mamba.A_log for name in ("published", "upstream"))
    torch.testing.assert_close(upstream[0].exp(), torch.arange(1.0, 33.0))
    assert published.abs().max() < 1.5


def test_longer_histories_are_refused():
    with pytest.raises(ValueError, match=f"MAX_ITEM_LIST_LENGTH={LENGTH}"):
        make()(*make_histories((LENGTH + 1,)))


@pytest.mark.parametrize(
    "key, value",
    [("left_padding", 1), ("position_from_end", "yes"), ("scan_backend", "x"), ("mamba_init", None)],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"{key}={value!r}"):
        make(**{key: value})
