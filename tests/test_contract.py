"""What every model of the package must do. A model takes part by being registered."""

import ast
import copy
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
import yaml
from fakes import ItemTable, all_dropouts_off, make_batch, make_histories, model_settings

from recbole_glintru import plugin
from recbole_glintru.models.base import NextItemRecommender
from recbole_glintru.ops import dropout

MODELS = [name for name, entry in plugin.announced_models().items() if entry.value.startswith("recbole_glintru.")]
N_ITEMS, LENGTH = 30, 12
LENGTHS = (1, 12, 7, 2, 9, 3, 12, 5)
FEATURES = {
    "kind": torch.arange(N_ITEMS) % 5,
    "tags": torch.stack([torch.arange(N_ITEMS) % 4, torch.arange(N_ITEMS) % 3], dim=1),
}
FEATURES["kind"][0] = 0
SELECTED = {"SMLP4Rec": ["kind", "tags"], "MLP4Rec": ["kind", "tags"]}
# How many dropouts of each setting the authors' models have: outside of the layers, in each layer.
DROPOUTS = {
    "FMLPRec": {"hidden_dropout_prob": (1, 2)},  # after the input; filter, network
    "GLINTRU": {
        "embedding_dropout_prob": (1, 0),
        "hidden_dropout_prob": (0, 1),
        "gate_dropout_prob": (0, 1),
        "mix_dropout_prob": (0, 1),
        "mlp_dropout_prob": (0, 1),
    },
    "LRURec": {"hidden_dropout_prob": (1, 2), "attn_dropout_prob": (0, 1)},  # input; inside and after the network
    "LinRec": {"hidden_dropout_prob": (1, 2)},  # input; attention, network
    "MLP4Rec": {"hidden_dropout_prob": (0, 6)},  # inside and after each of three MLPs
    "Mamba4Rec": {"hidden_dropout_prob": (1, 3)},  # input; mixer, inside and after the network
    "RecMamba": {"hidden_dropout_prob": (1, 0)},
    "SIGMA": {"hidden_dropout_prob": (1, 3), "gate_dropout_prob": (0, 2)},  # as Mamba4Rec; the gate of each direction
    "SMLP4Rec": {"hidden_dropout_prob": (0, 6)},  # inside and after each of three MLPs
    "SSEPT": {"hidden_dropout_prob": (1, 2), "attn_dropout_prob": (0, 1)},  # input; inside and after the network
}
PADDING_STARTS_AT_ZERO = ("GLINTRU", "SSEPT")


def build(name, seed=0, **changes):
    torch.manual_seed(seed)
    if name in SELECTED:
        changes.setdefault("selected_features", SELECTED[name])
    settings = model_settings(name, MAX_ITEM_LIST_LENGTH=LENGTH, **changes)
    return plugin.import_model(name)(settings, ItemTable(N_ITEMS, FEATURES))


def batch(lengths=LENGTHS, padded_to=LENGTH, seed=0):
    return make_batch(*make_histories(lengths, N_ITEMS, padded_to, seed))


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


def losses(name):
    return list(plugin.import_model(name).losses)


def each_loss():
    return [pytest.param(name, loss, id=f"{name}-{loss}") for name in MODELS for loss in losses(name)]


def without_chance(name):
    """The settings under which two passes in training are the same."""
    return {**all_dropouts_off(model_settings(name)), "sse_item_prob": 0.0, "sse_user_prob": 0.0}


def each_dropout():
    cases = [(name, key) for name in MODELS for key in all_dropouts_off(model_settings(name))]
    return [pytest.param(*case, id="-".join(case)) for case in cases]


def test_there_are_models():
    assert "GLINTRU" in MODELS


def test_is_documented(name):
    model_class = plugin.import_model(name)
    assert issubclass(model_class, NextItemRecommender)
    assert "arXiv" in model_class.__doc__ or "doi" in model_class.__doc__.lower(), "where was it published?"
    assert plugin.default_settings_file(model_class).stem == name


def test_has_a_search_space(name):
    """properties/hyper/<Name>.hyper, in RecBole's format: `key kind values`, with keys that there are."""
    from recbole.utils import training_arguments

    known = {*model_settings(name), *training_arguments}
    lines = (plugin.properties("recbole_glintru") / "hyper" / f"{name}.hyper").read_text().splitlines()
    assert lines
    for line in lines:
        key, kind, values = line.split(" ", 2)
        assert key in known, key
        assert kind in ("choice", "uniform", "quniform", "loguniform")
        assert kind != "choice" or len(ast.literal_eval(values)) > 1


def test_shapes(name):
    model, rows = build(name).eval(), batch()
    with torch.no_grad():
        state, scores = model(*model.history(rows)), model.full_sort_predict(rows)
        assert state.dim() == 2 and len(state) == len(LENGTHS)
        assert scores.shape == (len(LENGTHS), N_ITEMS) and model.predict(rows).shape == (len(LENGTHS),)
        assert state.isfinite().all() and scores.isfinite().all()


@pytest.mark.parametrize("lengths", [(1,), (LENGTH,), (1, 1)], ids=["one-item", "full", "two-of-one-item"])
def test_small_batches(name, lengths):
    model, rows = build(name), batch(lengths)
    model.calculate_loss(rows).backward()
    assert model.eval().full_sort_predict(rows).shape == (len(lengths), N_ITEMS)


@pytest.mark.parametrize("name, loss_type", each_loss())
def test_loss_falls(name, loss_type):
    model, rows = build(name, loss_type=loss_type), batch()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    history = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = model.calculate_loss(rows)
        assert loss.dim() == 0
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert sum(history[-5:]) < 0.8 * sum(history[:5]), history


def test_every_parameter_is_trained(name):
    """A parameter that no loss reaches is dead weight, or a mistake."""
    model = build(name)
    model.calculate_loss(batch()).backward()
    unreached = [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert not unreached


@pytest.mark.parametrize("name, key", each_dropout())
def test_each_dropout_acts_in_training_alone(name, key):
    off, rows = without_chance(name), batch()

    def same_twice(training, **changes):
        model = build(name, **{**off, **changes}).train(training)
        return torch.equal(*(model(*model.history(rows)) for _ in range(2)))

    assert not same_twice(True, **{key: 0.5})
    assert same_twice(False, **{key: 0.5}) and same_twice(True)


@pytest.fixture
def dropped(monkeypatch):
    """The probabilities that dropout is called with, one after the other; `only` is the place of the one that acts."""

    class Dropped(list):
        only = None

        def chance(self, probability):
            self.append(probability)
            return probability if self.only == len(self) - 1 else 0.0

    def dropout_called(x, p=0.5, training=True, inplace=False):
        return drop(x, calls.chance(p if training else 0.0))

    def attention_called(*args, dropout_p=0.0, **options):
        return attend(*args, dropout_p=calls.chance(dropout_p), **options)

    calls, drop, attend = Dropped(), F.dropout, F.scaled_dot_product_attention
    monkeypatch.setattr(F, "dropout", dropout_called)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention_called)
    monkeypatch.setattr(dropout, "FEWEST", math.inf)  # elements from which it does without `F.dropout`
    return calls


def test_dropouts_are_where_the_authors_have_them(name, dropped):
    """As many of each setting, each of them reaching the state, none in evaluation."""
    assert DROPOUTS[name].keys() == all_dropouts_off(model_settings(name)).keys()
    layers = 2
    keys = {0.5 + place / 100: key for place, key in enumerate(DROPOUTS[name])}
    chances = {key: probability for probability, key in keys.items()}
    model, rows = build(name, **{**without_chance(name), **chances, "n_layers": layers}), batch()

    def state(only=None):
        dropped.clear()
        dropped.only = only
        return model.encode(*model.history(rows))

    expected = state()
    places = [place for place, probability in enumerate(dropped) if probability]
    counts = Counter(keys[dropped[place]] for place in places)
    assert counts == {key: outside + layers * inside for key, (outside, inside) in DROPOUTS[name].items()}
    assert [place for place in places if torch.equal(state(only=place), expected)] == []
    model.eval()
    state()
    assert not any(dropped)


def test_padding_row_at_the_start(name):
    """The authors' code draws it like all others, but for SSE-PT's; GLINT-RU's is zero by default."""
    assert (not build(name).item_embedding.weight[0].any()) == (name in PADDING_STARTS_AT_ZERO)


def test_save_and_load(name, tmp_path):
    model, other, rows = build(name, seed=1).eval(), build(name, seed=2).eval(), batch()
    torch.save(model.state_dict(), tmp_path / "state")
    with torch.no_grad():
        expected = model.full_sort_predict(rows)
        assert not torch.equal(other.full_sort_predict(rows), expected)
        other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        assert torch.equal(other.full_sort_predict(rows), expected)


def test_can_be_copied(name):
    """RecBole's FLOPs count works on a deep copy."""
    model, rows = build(name).eval(), batch()
    assert torch.equal(copy.deepcopy(model).full_sort_predict(rows), model.full_sort_predict(rows))


def test_a_default_device_of_the_users_changes_nothing(name):
    """`torch.set_default_device`: what the operations need beside their inputs is where these are."""
    model, rows = build(name, **without_chance(name)), batch()
    loss = model.calculate_loss(rows).detach()
    expected = loss, model.eval().full_sort_predict(rows).detach(), model.predict(rows).detach()
    with torch.device("meta"):
        scores, own = model.full_sort_predict(rows), model.predict(rows)
        loss = model.train().calculate_loss(rows)
        loss.backward()
    assert all(map(torch.equal, (loss, scores, own), expected))


@pytest.mark.parametrize("name, loss_type", each_loss())
def test_second_derivatives_are_right_or_refused(name, loss_type):
    """A Hessian-vector product, against the difference of two gradients. None may lack a part without a word."""
    model, rows = build(name, loss_type=loss_type, **without_chance(name)).double(), batch()
    model.eval()
    parameters = [parameter for parameter in model.parameters() if not parameter.is_complex()]
    generator = torch.Generator().manual_seed(3)
    vector = [torch.randn(parameter.shape, generator=generator).double() for parameter in parameters]
    next(part for part, parameter in zip(vector, parameters) if parameter is model.item_embedding.weight)[0] = 0

    def gradients(**options):
        return torch.autograd.grad(model.calculate_loss(rows), parameters, allow_unused=True, **options)

    def moved(step):
        with torch.no_grad():
            for parameter, part in zip(parameters, vector):
                parameter += step * part
        return gradients()

    try:
        first = gradients(create_graph=True)
        along = sum((gradient * part).sum() for gradient, part in zip(first, vector) if gradient is not None)
        product = torch.autograd.grad(along, parameters, allow_unused=True)
    except RuntimeError as error:
        assert "second derivatives are not supported" in str(error) or "not implemented" in str(error)
        return
    for ahead, back, actual in zip(moved(1e-7), moved(-2e-7), product):
        if ahead is not None:
            actual = torch.zeros_like(ahead) if actual is None else actual
            torch.testing.assert_close(actual, (ahead - back) / 2e-7, rtol=1e-4, atol=1e-6)


def test_an_empty_history_is_refused(name):
    model, (item_seq, item_seq_len, *context) = build(name).eval(), build(name).history(batch())
    item_seq_len[2] = 0
    with pytest.raises(ValueError, match="item_seq_len has a history of 0 items"):
        model(item_seq, item_seq_len, *context)


def test_a_batch_of_no_histories_has_no_scores(name):
    """As of RecBole's models: `full_sort_topk` asks for users who have nothing to predict."""
    model, empty = build(name).eval(), batch()[:0]
    assert model.full_sort_predict(empty).shape == (0, N_ITEMS) and model.predict(empty).shape == (0,)
    assert model(*model.history(empty)).shape == (0, *model(*model.history(batch())).shape[1:])
    assert model.train().calculate_loss(empty).isnan()


def test_deterministic_under_a_seed(name):
    def train():
        model, rows = build(name, seed=3), batch()
        optimiser = torch.optim.Adam(model.parameters())
        for _ in range(3):
            optimiser.zero_grad()
            model.calculate_loss(rows).backward()
            optimiser.step()
        return model.eval().full_sort_predict(rows)

    assert torch.equal(train(), train())


@pytest.mark.parametrize("name, loss_type", each_loss())
def test_mixed_precision(name, loss_type):
    """bfloat16 autocast trains without NaN and stays near float32: bfloat16 has three digits."""
    settings = all_dropouts_off(model_settings(name))
    model, rows = build(name, loss_type=loss_type, **settings), batch()
    torch.manual_seed(0)  # SSEPT draws ids
    exact = model.calculate_loss(rows).item()
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(5):
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.calculate_loss(rows)
        if step == 0:
            assert loss.item() == pytest.approx(exact, rel=0.03)
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        optimiser.step()
    assert math.isfinite(loss.item())


def test_multiply_adds_grow_with_the_rows(name):
    """What RecBole prints as FLOPs; padding costs nothing in a model that it does not reach."""
    model = build(name)
    one, many = model.multiply_adds(batch((5,))), model.multiply_adds(batch((5, 6, 7)))
    assert 0 < one < many
    assert (model.multiply_adds(batch((5,), padded_to=5)) == one) or not model.length_invariant


def test_multiply_adds_in_inference_mode():
    model, rows = build("GLINTRU"), batch()
    expected = model.multiply_adds(rows)
    with torch.inference_mode():
        assert model.multiply_adds(rows) == model.multiply_adds(batch()) == expected


def test_counting_leaves_a_model_as_it_was():
    """In training, without item tables; a backend for GPUs alone is no obstacle."""
    model = build("GLINTRU").train()
    model.embedding_dropout.eval()
    model.multiply_adds(batch())
    assert model.training and not model.embedding_dropout.training and model._item_tables._made is None
    counted = [build("Mamba4Rec", scan_backend=backend).multiply_adds(batch()) for backend in ("torch", "mamba_ssm")]
    assert counted[0] == counted[1]


def test_predict_agrees_with_full_sort_predict(name):
    model, rows = build(name).eval(), batch()
    with torch.no_grad():
        expected = model.full_sort_predict(rows)[torch.arange(len(LENGTHS)), rows["item_id"]]
        torch.testing.assert_close(model.predict(rows), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tiled", [False, True], ids=["repeated", "tiled"])
def test_each_history_is_encoded_once(name, tiled):
    """RecBole repeats a history for each candidate, or tiles the rows of a user who has several targets."""
    model, rows, candidates = build(name).eval(), batch(), 5
    many = rows.repeat(candidates) if tiled else rows.repeat_interleave(candidates)
    many["item_id"] = torch.arange(len(many)) % (N_ITEMS - 1) + 1
    encoded = []
    encode = model.encode
    model.encode = lambda *history: encoded.append(len(history[0])) or encode(*history)
    with torch.no_grad():
        actual = model.predict(many)
        assert encoded == [len(LENGTHS)]
        plain = model.score_items(model(*model.history(many)), many["item_id"])
    torch.testing.assert_close(actual, plain, rtol=0, atol=2e-6)


def test_length_invariance_is_as_declared(name):
    """A model that says so gives the same state however far a history is padded, and whatever the padding holds."""
    model = build(name).eval()
    item_seq, item_seq_len = make_histories(LENGTHS, N_ITEMS, LENGTH)
    rows = make_batch(item_seq, item_seq_len)
    padding = torch.arange(LENGTH) >= item_seq_len.unsqueeze(1)
    garbage = make_batch(torch.where(padding, 7, item_seq), item_seq_len)
    with torch.no_grad():
        expected = model(*model.history(rows))
        if not model.length_invariant:
            assert model.encode(*model.history(rows)).shape == expected.shape
            return
        torch.testing.assert_close(model(*model.history(garbage)), expected, rtol=0, atol=5e-6)
        torch.testing.assert_close(model.encode(*model.history(rows)), expected, rtol=0, atol=5e-6)
        for row, length in enumerate(LENGTHS):
            alone = make_batch(
                item_seq[row : row + 1, :length],
                item_seq_len[row : row + 1],
                users=rows["user_id"][row : row + 1],
            )
            torch.testing.assert_close(model(*model.history(alone)), expected[row : row + 1], rtol=0, atol=5e-6)


def test_groups_of_like_length_are_a_setting_where_there_are_some(name):
    model_class = plugin.import_model(name)
    settings = yaml.safe_load(plugin.default_settings_file(model_class).read_text())
    assert ("length_groups" in settings) == (model_class.length_invariant and not model_class.packs_histories)


def test_batches_are_trimmed(name):
    model, rows = build(name).eval(), batch((3, 5, 2))
    columns = []
    encode = model.encode
    model.encode = lambda *history: columns.append(history[0].shape[1]) or encode(*history)
    model.predict(rows)
    assert columns == [5 if model.length_invariant else LENGTH]


def test_histories_have_a_position(name):
    with pytest.raises(ValueError, match="MAX_ITEM_LIST_LENGTH=0: must be a whole number, at least 1"):
        plugin.import_model(name)(model_settings(name, MAX_ITEM_LIST_LENGTH=0), ItemTable(9))


def test_unknown_loss_is_named(name):
    with pytest.raises(ValueError, match="loss_type='TOP1'"):
        build(name, loss_type="TOP1")
