"""What is special to GLINT-RU; the published code is in test_golden.py, what all models must do in test_contract.py."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import reference_glintru
import torch
from fakes import make_histories, make_model
from hypothesis import given, settings
from hypothesis import strategies as st

import recbole_glintru.models.glintru

LENGTHS = (1, 12, 7, 2, 9, 12)
VARIANTS = [
    {},
    {"kernel_size": 1},
    {"kernel_size": 5},
    {"kernel_size": 13},
    {"n_layers": 3},
    {"gru_layers": 2},
    {"gru_bias": True},
    {"n_heads": 1},
    {"n_heads": 16},
    {"gate_activation": "relu"},
    {"gate_activation": "sigmoid"},
    {"gate_activation": "elu"},
    {"gate_reduction": 3},
    {"use_gru": False},
    {"use_linear_attention": False},
    {"use_temporal_conv": False},
    {"use_gated_mlp": False},
    {"key_norm": "sequence"},
    {"key_norm": "sequence", "n_layers": 2},
    {"attention_output_block": False},
    {"mix_output_linear": False},
    {"share_block_norm": False},
    {"n_layers": 2, "kernel_size": 5, "use_gated_mlp": False, "share_block_norm": False},
]


def variant_name(variant):
    return "-".join(f"{key}={value}" for key, value in variant.items()) or "default"


def shaken(model):
    """Leave the initialisation, in which zero biases and unit gains hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def tables_of(model):
    made = model._item_tables._made
    return None if made is None else made.tables


@pytest.mark.filterwarnings("ignore:pad_row_init='zero'")
@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("variant", VARIANTS, ids=variant_name)
def test_equals_the_plain_version(variant, mask_padding):
    """All positions, loops, float64: the last position alone, packed steps and merged products change nothing."""
    model = shaken(make_model("GLINTRU", mask_padding=mask_padding, **variant)).double().eval()
    item_seq, item_seq_len = make_histories(LENGTHS, padded_to=15)
    expected = reference_glintru.encode(model, item_seq, item_seq_len)
    torch.testing.assert_close(model(item_seq, item_seq_len), expected, rtol=0, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(model(item_seq, item_seq_len), expected, rtol=0, atol=1e-11)
    assert tables_of(model) or len(model.blocks) > 1


@pytest.mark.parametrize("variant", [{}, {"n_layers": 2, "kernel_size": 5}, {"gru_layers": 2}], ids=variant_name)
def test_gradients_equal_the_plain_versions(variant):
    model = shaken(make_model("GLINTRU", pad_row_init="random", **variant)).double().eval()
    item_seq, item_seq_len = make_histories(LENGTHS, padded_to=15)
    weights = torch.randn(len(LENGTHS), model.hidden_size, dtype=torch.float64)
    names, parameters = zip(*model.named_parameters())
    actual = torch.autograd.grad((model(item_seq, item_seq_len) * weights).sum(), parameters)
    expected = torch.autograd.grad(
        (reference_glintru.encode(model, item_seq, item_seq_len) * weights).sum(),
        parameters,
        allow_unused=True,
    )
    for name, ours, plain in zip(names, actual, expected):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_state_depends_on_its_history_alone(data):
    """Not on how far it is padded, on what stands in the padding, on the other rows, on its place among them."""
    torch.manual_seed(0)
    model = shaken(make_model("GLINTRU", n_layers=data.draw(st.integers(1, 2)))).eval()
    lengths = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=6))
    item_seq, item_seq_len = make_histories(lengths, padded_to=20, seed=data.draw(st.integers(0, 99)))
    expected = model(item_seq, item_seq_len)

    wider = torch.nn.functional.pad(item_seq, (0, data.draw(st.integers(0, 30))))
    padding = torch.arange(wider.shape[1]) >= item_seq_len.unsqueeze(1)
    garbage = torch.where(padding, torch.randint(0, 30, wider.shape), wider)
    order = torch.tensor(data.draw(st.permutations(range(len(lengths)))))
    with torch.no_grad():
        for rows in (wider, garbage):
            torch.testing.assert_close(model(rows, item_seq_len), expected, rtol=0, atol=2e-6)
        torch.testing.assert_close(model(item_seq[order], item_seq_len[order]), expected[order], rtol=0, atol=2e-6)
        for row in range(len(lengths)):
            alone = model(item_seq[row : row + 1, : lengths[row]], item_seq_len[row : row + 1])
            torch.testing.assert_close(alone, expected[row : row + 1], rtol=0, atol=2e-6)


def test_full_histories_need_no_mask():
    """Where nothing is padded, the default semantics and the published ones are the same function."""
    item_seq, item_seq_len = make_histories([20] * 4)
    clean = shaken(make_model("GLINTRU")).eval()
    published = make_model("GLINTRU", mask_padding=False).eval()
    published.load_state_dict(clean.state_dict())
    torch.testing.assert_close(clean(item_seq, item_seq_len), published(item_seq, item_seq_len), rtol=0, atol=2e-6)


def test_published_semantics_see_the_padding():
    item_seq, item_seq_len = make_histories([5, 9], padded_to=20)
    model = shaken(make_model("GLINTRU", mask_padding=False)).eval()
    wider = torch.nn.functional.pad(item_seq, (0, 10))
    assert not torch.allclose(model(item_seq, item_seq_len), model(wider, item_seq_len), atol=1e-3)


def test_zero_padding_row_gives_no_nan():
    """At the start every bias is zero, so that keys of a zero padding row are zero vectors."""
    item_seq, item_seq_len = make_histories([5, 9], padded_to=20)
    model = make_model("GLINTRU", mask_padding=False)
    assert model.item_embedding.weight[0].abs().sum() == 0
    model(item_seq, item_seq_len).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_a_stack_that_sees_padding_starts_from_a_random_row():
    """LayerNorm's gradient at a vector of zeros is 1 / sqrt(eps); said where training would begin with it."""

    def gradients(**changes):
        model = make_model("GLINTRU", mask_padding=False, n_layers=2, **changes)
        model(*make_histories([5, 9], padded_to=20)).square().sum().backward()
        return max(float(parameter.grad.abs().max()) for parameter in model.parameters() if parameter.grad is not None)

    with pytest.warns(UserWarning, match="n_layers=2.*pad_row_init='random'"):
        from_zero = gradients()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_zero > 100 * gradients(pad_row_init="random")
        make_model("GLINTRU", mask_padding=False)
        make_model("GLINTRU", n_layers=2)


def test_number_of_parameters():
    """(18 + 2k) d^2 + 18.5 d + 2 besides the item table, 25,170 at d = 32 and k = 3; less what is switched off."""

    def count(**changes):
        model = make_model("GLINTRU", hidden_size=32, **changes)
        return sum(p.numel() for n, p in model.named_parameters() if not n.startswith("item_embedding"))

    d = 32
    assert count() == 25170
    assert count(kernel_size=7) == 25170 + 8 * d * d
    assert count(n_layers=4) == 4 * 25170
    assert count(use_gated_mlp=False) == 25170 - 3 * (d * d + d)
    assert count(use_linear_attention=False) == 25170 - 4 * (d * d + d) - 2 * d - 2
    assert count(use_temporal_conv=False) == 25170 - 2 * (3 * d * d + d)
    recurrent = (d * d + d) + 2 * (3 * d * d + d) + 6 * d * d + (d * d + d) + (d * d // 2 + d // 2) + (d * d // 2 + d)
    assert count(use_gru=False) == 25170 - recurrent - 2
    assert count(share_block_norm=False) == 25170 + 2 * d
    assert count(mix_output_linear=False) == 25170 - d * d - d
    assert count(gru_bias=True) == 25170 + 6 * d


@pytest.mark.parametrize(
    "key, value, allowed",
    [
        ("hidden_size", 0, "a whole number, at least 1"),
        ("hidden_size", "64", "a whole number, at least 1"),
        ("n_heads", 3, "a divisor of hidden_size=16"),
        ("n_heads", 0, "a whole number, at least 1"),
        ("n_layers", 5, "a whole number from 1 to 4"),
        ("n_layers", True, "a whole number from 1 to 4"),
        ("kernel_size", 4, "a positive odd number"),
        ("kernel_size", -1, "a positive odd number"),
        ("gru_layers", 0, "a whole number, at least 1"),
        ("gate_reduction", 17, "a whole number from 1 to 16"),
        ("embedding_dropout_prob", -0.1, "a probability"),
        ("hidden_dropout_prob", 1.0, "a probability"),
        ("gate_dropout_prob", "much", "a probability"),
        ("mix_dropout_prob", float("nan"), "a probability"),
        ("mlp_dropout_prob", None, "a probability"),
        ("gate_activation", "swish", "one of silu, relu, sigmoid, elu"),
        ("key_norm", "column", "one of position, sequence"),
        ("pad_row_init", "ones", "one of zero, random"),
        ("layer_norm_eps", -1e-12, "a finite number, at least 0"),
        ("mask_padding", "False", "True or False"),
        ("use_gru", 1, "True or False"),
        ("loss_type", "TOP1", "one of CE, BPR"),
    ],
)
def test_wrong_settings_are_named(key, value, allowed):
    with pytest.raises(ValueError) as error:
        make_model("GLINTRU", **{key: value})
    assert f"{key}={value!r}" in str(error.value) and allowed in str(error.value)


def test_numpys_numbers_are_numbers():
    """Of `for size in np.arange(...)`, of a row of a data frame."""
    values = {"hidden_size": np.int64(32), "kernel_size": np.int32(5), "mlp_dropout_prob": np.float32(0.25)}
    values["use_gated_mlp"] = np.True_
    model = make_model("GLINTRU", **values)
    assert type(model.hidden_size) is int and model(*make_histories(LENGTHS)).shape == (len(LENGTHS), 32)
    with pytest.raises(ValueError, match="hidden_size="):
        make_model("GLINTRU", hidden_size=np.True_)


def test_a_block_needs_an_expert():
    with pytest.raises(ValueError, match="use_gru=False and use_linear_attention=False"):
        make_model("GLINTRU", use_gru=False, use_linear_attention=False)


def test_only_what_the_last_position_needs_is_computed():
    """After the recurrence of a 200-step history: k+1 over 2 positions into the gate, one into the gated MLP."""
    model = make_model("GLINTRU", MAX_ITEM_LIST_LENGTH=200).eval()
    block, seen = model.blocks[0], {}
    for name in (
        "recurrent_expert.selective_gate",
        "attention_expert.output",
        "gated_mlp",
        "data_aware_gate",
    ):
        module = block.get_submodule(name)
        module.register_forward_hook(lambda _, inputs, __, name=name: seen.update({name: inputs[0].shape[:-1]}))
    model(*make_histories([200, 3]))
    assert seen == {
        "recurrent_expert.selective_gate": (2, 2),
        "attention_expert.output": (2,),
        "gated_mlp": (2,),
        "data_aware_gate": (2,),
    }


# -------------------------------------------------------------------------------------------------------- item tables

TABLED = ["item_embedding.weight"] + [
    f"blocks.0.{layer}.{kind}"
    for layer in (
        "recurrent_expert.input_projection",
        "recurrent_expert.input_conv",
        "attention_expert.attention.key",
        "attention_expert.attention.value",
    )
    for kind in ("weight", "bias")
]


def train_a_step(model, histories):
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(*histories).square().sum().backward()
    optimizer.step()


def load_other_weights(model, histories):
    model.load_state_dict({name: value + 0.1 for name, value in model.state_dict().items()})


def overwrite_one_item(model, histories):
    model.item_embedding.weight.data[int(histories[0][0, 0])] += 1


@pytest.mark.parametrize(
    "change",
    [train_a_step, load_other_weights, overwrite_one_item],
    ids=lambda change: change.__name__,
)
def test_item_tables_are_never_stale(change):
    model, histories = shaken(make_model("GLINTRU")).eval(), make_histories(LENGTHS)
    with torch.no_grad():
        before = model(*histories)
    assert tables_of(model)
    change(model, histories)
    with torch.no_grad():
        after = model.eval()(*histories)
    assert tables_of(model) and not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, model(*histories).detach(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", TABLED)
def test_item_tables_follow_each_weight(name):
    """Changed without a trace in its version counter, by so little that the others are as they were."""
    model, histories = shaken(make_model("GLINTRU")).double().eval(), make_histories(LENGTHS)
    with torch.no_grad():
        before = model(*histories)
        dict(model.named_parameters())[name].data.view(-1)[-1] += 0.5
        after = model(*histories)
    assert tables_of(model) and not torch.allclose(before, after, rtol=0, atol=1e-9)
    torch.testing.assert_close(after, model(*histories).detach(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("experts", [{}, {"use_linear_attention": False}, {"use_gru": False}])
def test_an_unknown_item_is_refused_by_the_tables(experts):
    """Where it stands among the others: its row would be another item's at the next tap."""
    model, (item_seq, item_seq_len) = make_model("GLINTRU", **experts).eval(), make_histories(LENGTHS)
    item_seq[1, 5] = model.n_items
    with torch.no_grad(), pytest.raises(IndexError):
        model(item_seq, item_seq_len)


class Scaled(torch.nn.Embedding):
    def forward(self, items):
        return 3 * super().forward(items)


class Projected(torch.nn.Module):
    """Item vectors of another size, and a layer."""

    def __init__(self, table):
        super().__init__()
        self.vectors, self.layer = table, torch.nn.Linear(table.embedding_dim, table.embedding_dim)

    def forward(self, items):
        return self.layer(self.vectors(items))


@pytest.mark.parametrize("change", ["class", "module", "hook", "hook before"])
def test_an_embedding_that_does_more_has_no_item_tables(change):
    """Scores in evaluation are those of training."""
    model, histories = shaken(make_model("GLINTRU")), make_histories(LENGTHS)
    table = model.item_embedding
    if change == "class":
        table.__class__ = Scaled
    elif change == "module":
        model.item_embedding = Projected(table)
    elif change == "hook":
        table.register_forward_hook(lambda module, inputs, output: 3 * output)
    else:
        table.register_forward_pre_hook(lambda module, inputs: (inputs[0].flip(0),))
    model.eval()
    expected = model(*histories).detach()
    with torch.no_grad():
        torch.testing.assert_close(model(*histories), expected)


class Masked(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight))

    def forward(self, weight):
        return weight * self.mask


@pytest.mark.parametrize("name", sorted({name.rpartition(".")[0] for name in TABLED}))
def test_a_parametrization_has_no_item_tables(name):
    """It may change without the parameters."""
    model, histories = shaken(make_model("GLINTRU")).eval(), make_histories(LENGTHS)
    module, masked = model.get_submodule(name), Masked(model.get_submodule(name).weight)
    torch.nn.utils.parametrize.register_parametrization(module, "weight", masked)
    with torch.no_grad():
        before = model(*histories)
        masked.mask[1:] = 0
        after = model(*histories)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, model(*histories).detach(), rtol=0, atol=2e-6)


def test_item_tables_depend_on_no_other_weight():
    """Those that `TABLED` leaves out change no table."""
    model, histories = shaken(make_model("GLINTRU")).eval(), make_histories(LENGTHS)
    with torch.no_grad():
        model(*histories)
        made = tables_of(model)
        for name, parameter in model.named_parameters():
            if name not in TABLED:
                parameter.data += 0.5
        model(*histories)
    assert tables_of(model) is made


def test_item_tables_follow_a_cast():
    model, histories = shaken(make_model("GLINTRU")).eval(), make_histories(LENGTHS)
    for dtype in (torch.float32, torch.float64, torch.float32):
        with torch.no_grad():
            assert model.to(dtype)(*histories).dtype == dtype and tables_of(model)


def test_item_tables_wait_until_they_pay():
    """As many positions as there are items, 100, under the same weights."""
    model, histories = make_model("GLINTRU", n_items=100).eval(), make_histories(LENGTHS)
    with torch.no_grad():
        for _ in range(2):
            model(*histories)
            assert tables_of(model) is None, f"{2 * sum(LENGTHS)} positions at most"
        model(*histories)
        assert tables_of(model)


def test_item_tables_go_when_training_begins():
    model, histories = make_model("GLINTRU").eval(), make_histories(LENGTHS)
    with torch.no_grad():
        model(*histories)
    assert tables_of(model)
    model.train()(*histories)
    assert tables_of(model) is None


def test_item_tables_do_not_slow_a_single_request():
    """A few look-ups cost less than a comparison of all items with their copies."""
    model, histories = make_model("GLINTRU", n_items=1000).eval(), make_histories(LENGTHS)
    with torch.no_grad():
        for _ in range(1000 // sum(LENGTHS) + 1):
            model(*histories)
        assert tables_of(model) is None


def test_dropout_at_evaluation():
    """Monte Carlo dropout: who turns on the embedding's alone gets it in every pass."""
    model, histories = make_model("GLINTRU", embedding_dropout_prob=0.5).eval(), make_histories(LENGTHS)
    model.embedding_dropout.train()
    with torch.no_grad():
        passes = [model(*histories) for _ in range(5)]
    assert tables_of(model) is None
    assert not any(torch.equal(one, other) for one, other in zip(passes, passes[1:]))


@pytest.mark.parametrize("reason", ["switched off", "several blocks", "large catalogue", "autocast"])
def test_no_item_tables(reason, monkeypatch):
    if reason == "large catalogue":
        monkeypatch.setattr(recbole_glintru.models.glintru, "LARGEST", 4 * 30 * 16 * 6 - 1)
    changes = {"switched off": {"item_tables": False}, "several blocks": {"n_layers": 2}}.get(reason, {})
    model, histories = make_model("GLINTRU", **changes).eval(), make_histories(LENGTHS)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=reason == "autocast"):
        model(*histories)
    assert tables_of(model) is None


def test_item_tables_are_no_part_of_the_model():
    model, histories = make_model("GLINTRU").eval(), make_histories(LENGTHS)
    names = list(model.state_dict())
    with torch.no_grad():
        model(*histories)
    assert list(model.state_dict()) == names and tables_of(model)
    assert tables_of(copy.deepcopy(model)) is tables_of(pickle.loads(pickle.dumps(model))) is None
