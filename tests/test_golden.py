"""Every model against its authors' published code: arrays recorded from it, `<model>_<case>.npz`.

`GOLDEN_DIR` names another directory of such files. Each file holds a small problem (`item_seq`, `item_seq_len`,
`pos_items`, `neg_items`), the published parameters (`param/*`) and what came out: outputs, losses with all dropouts at
zero, gradient norms of `loss_ce`, the same on unpadded histories (`clean/*`, the default semantics here) and in
float64 (`f64/*`). Float32 tolerances are for sums in another order: 2e-5 on outputs
(of the largest, where that is above 1) and 1e-5 on losses, likewise; 1e-3 relative on gradient norms.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import ItemTable, all_dropouts_off, make_batch, model_settings
from golden_settings import OFFICIAL_LOSS, PUBLISHED, RECORDED, SETTINGS

from recbole_glintru import plugin, published

# The files have their own padding row.
pytestmark = pytest.mark.filterwarnings("ignore:pad_row_init='zero'")

DIRECTORY = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parent / "golden")
OPERATIONS = ("selective_scan", "mamba_block")  # files of a single operation: tests/ops, tests/layers
FILES = sorted(file for file in DIRECTORY.glob("*.npz") if not file.stem.startswith(OPERATIONS))


def names_in(file):
    with np.load(file, allow_pickle=False) as arrays:
        return arrays.files


NAMES = {file: names_in(file) for file in FILES}

OUTPUT, LOSS, GRADIENT, FLOAT64 = 2e-5, 1e-5, 1e-3, 1e-8


class Golden:
    """One file: its arrays, and models built from it."""

    def __init__(self, path):
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}
        self.config = json.loads(str(self.arrays["config"]))
        self.model_name = self.config["model"]

    def __contains__(self, name):
        return name in self.arrays

    def __getitem__(self, name):
        return torch.as_tensor(self.arrays[name])

    def group(self, prefix):
        return {name[len(prefix) :]: torch.as_tensor(a) for name, a in self.arrays.items() if name.startswith(prefix)}

    def batch(self):
        return make_batch(self["item_seq"], self["item_seq_len"], self["pos_items"], self["neg_items"])

    def model(self, dtype=torch.float32, parameters=None, **changes):
        """The package's model with this file's parameters, in evaluation mode, all dropouts zero."""
        config = self.config
        settings = {
            "hidden_size": config["hidden_size"],
            "MAX_ITEM_LIST_LENGTH": config["max_seq_length"],
            **SETTINGS[self.model_name](config),
            **changes,
        }
        settings = model_settings(self.model_name, **settings)
        settings.update(all_dropouts_off(settings))
        model = plugin.import_model(self.model_name)(settings, self.items())
        published.load_published(model, self.group("param/") if parameters is None else parameters)
        return model.to(dtype).eval()

    def items(self):
        """A table of the file's items with their features."""
        features = {name: np.asarray(values) for name, values in self.group("feat/").items()}
        return ItemTable(self.config["n_items"], features, sizes=self.config.get("field_cardinality"))

    def published(self, **changes):
        return self.model(**{**PUBLISHED.get(self.model_name, {}), **changes})


def is_of(name, key):
    """Whether a name is the key, or one of the group of names that begin with it."""
    return name.startswith(key) if key.endswith("/") else name == key


def recorded(*keys):
    """Run a test with each key, on the files that have an array, or a group of arrays, of that name."""
    found = [(file, key) for key in keys for file, names in NAMES.items() if any(is_of(name, key) for name in names)]
    cases = [pytest.param(file, key, id=f"{file.stem}-{key.rstrip('/')}") for file, key in found]
    return pytest.mark.parametrize("golden, key", cases, indirect=["golden"])


@pytest.fixture
def golden(request):
    golden = Golden(request.param)
    if golden.model_name not in SETTINGS:
        known = plugin.announced_models()
        if golden.model_name in known:
            pytest.fail(f"{request.param.name}: {golden.model_name} has no entry in golden_settings.SETTINGS")
        pytest.fail(f"{request.param.name}: there is no model {golden.model_name} among {', '.join(known)}")
    return golden


def largest_difference(actual, expected):
    return (actual.detach().double() - expected.double()).abs().max().item()


def assert_outputs(actual, expected, name=""):
    assert largest_difference(actual, expected) <= OUTPUT * max(1.0, expected.abs().max().item()), name


def assert_gradients(model, loss, norms):
    loss.backward()
    own = dict(model.named_parameters())
    # Of a gradient that is zero in exact arithmetic, rounding noise of the others' size is left.
    noise = 1e-6 * max(norm.item() for norm in norms.values())
    for name, norm in norms.items():
        gradient = own[published.translate(model, name)].grad
        actual = torch.view_as_real(gradient).norm() if gradient.is_complex() else gradient.norm()
        assert actual.item() == pytest.approx(norm.item(), rel=GRADIENT, abs=noise), name


def outputs(model, batch, kind):
    with torch.no_grad():
        if kind == "seq_output":
            return model(*model.history(batch))
        return {"full_sort_scores": model.full_sort_predict, "predict_scores": model.predict}[kind](batch)


def test_there_are_files():
    assert FILES, f"no golden files in {DIRECTORY}"
    assert [file.name for file, names in NAMES.items() if "seq_output" not in names] == []


@pytest.mark.skipif(bool(os.environ.get("GOLDEN_DIR")), reason="other files")
def test_nothing_recorded_is_lost():
    """The tests below run on the arrays that there are."""
    names = [name for file in FILES for name in NAMES[file]]
    assert {key: n for key, n in RECORDED.items() if sum(is_of(name, key) for name in names) < n} == {}


@recorded("seq_output", "full_sort_scores", "predict_scores")
def test_published_outputs(golden, key):
    assert_outputs(outputs(golden.published(), golden.batch(), key), golden[key])


@recorded("loss_ce", "loss_bpr")
def test_published_losses(golden, key):
    loss_type = key.split("_")[1].upper()
    loss = golden.published(loss_type=loss_type).calculate_loss(golden.batch())
    assert loss.item() == pytest.approx(golden[key].item(), rel=LOSS, abs=LOSS)


@recorded("loss_official")
def test_official_loss(golden, key):
    """The objective that the authors trained with, where it is neither CE nor BPR."""
    model = golden.published(loss_type=OFFICIAL_LOSS[golden.model_name])
    if "neg_seq_left" in golden:  # a negative at every position, which RecBole's batches do not have
        states = model.encode_all(golden["item_seq"], golden["item_seq_len"])
        loss = model.all_positions_loss(states, golden["pos_seq_left"], golden["neg_seq_left"])
    else:
        loss = model.calculate_loss(golden.batch())
    assert loss.item() == pytest.approx(golden[key].item(), rel=LOSS, abs=LOSS)
    assert_gradients(model, loss, golden.group("gradnorm_official/"))


@recorded("gradnorm/")
def test_published_gradients(golden, key):
    model = golden.published()
    assert_gradients(model, model.calculate_loss(golden.batch()), golden.group(key))


@recorded("f64/seq_output", "f64/full_sort_scores")
def test_published_float64(golden, key):
    model = golden.published(dtype=torch.float64)
    assert largest_difference(outputs(model, golden.batch(), key[len("f64/") :]), golden[key]) <= FLOAT64


@recorded("f64/loss_ce")
def test_published_loss_in_float64(golden, key):
    loss = golden.published(dtype=torch.float64).calculate_loss(golden.batch())
    assert loss.item() == pytest.approx(golden[key].item(), abs=FLOAT64)


@recorded("clean/seq_output", "clean/full_sort_scores")
def test_clean_semantics(golden, key):
    """The default mode gives for a padded history what the published code gives for that history alone."""
    assert_outputs(outputs(golden.model(), golden.batch(), key[len("clean/") :]), golden[key])


@recorded("f64/clean/seq_output")
def test_clean_float64(golden, key):
    model = golden.model(dtype=torch.float64)
    assert largest_difference(outputs(model, golden.batch(), "seq_output"), golden[key]) <= FLOAT64


@recorded("clean/loss_ce")
def test_clean_loss(golden, key):
    model = golden.model()
    loss = model.calculate_loss(golden.batch())
    assert loss.item() == pytest.approx(golden[key].item(), rel=LOSS, abs=LOSS)
    assert_gradients(model, loss, golden.group("clean/gradnorm/"))


ABLATIONS = {
    "full": {},
    "no_gated_mlp": {"use_gated_mlp": False},
    "no_linear_attention": {"use_linear_attention": False},
    "no_gru": {"use_gru": False},
    "no_temporal_conv": {"use_temporal_conv": False},
    "gate_relu": {"gate_activation": "relu"},
    "gate_sigmoid": {"gate_activation": "sigmoid"},
    "gate_elu": {"gate_activation": "elu"},
}


@recorded("ablation/", "ablation_clean/")
def test_ablations(golden, key):
    """A part that is switched off: the published forward with that part taken out, and no parameters here."""
    semantics = PUBLISHED[golden.model_name] if key == "ablation/" else {}
    names = {name.split("/")[0] for name in golden.group(key)}
    assert names <= set(ABLATIONS)
    for name in sorted(names):
        changes = {**semantics, **ABLATIONS[name]}
        model, batch = golden.model(parameters=_kept(golden, changes), **changes), golden.batch()
        output = outputs(model, batch, "seq_output")
        assert_outputs(output, golden[f"{key}{name}/seq_output"], name)
        loss = model.calculate_loss(batch).item()
        assert loss == pytest.approx(golden[f"{key}{name}/loss_ce"].item(), rel=LOSS, abs=LOSS), name


def _kept(golden, changes):
    """The published parameters that the model with a part switched off still has."""
    settings = model_settings(
        golden.model_name,
        hidden_size=golden.config["hidden_size"],
        **{**SETTINGS[golden.model_name](golden.config), **changes},
    )
    bare = plugin.import_model(golden.model_name)(settings, ItemTable(golden.config["n_items"]))
    own = bare.state_dict()
    return {name: value for name, value in golden.group("param/").items() if published.translate(bare, name) in own}


@recorded("pad_plus10/seq_output")
def test_padding_reaches_the_published_output(golden, key):
    """Ten more columns of padding move the published output, by the recorded amount, and not the clean one."""
    batch = golden.batch()
    item_seq = torch.nn.functional.pad(golden["item_seq"], (0, 10))
    with torch.no_grad():
        model = golden.published()
        output = model(item_seq, golden["item_seq_len"])
        assert_outputs(output, golden[key])
        assert largest_difference(output, golden["seq_output"]) > 0.01
        model = golden.model()
        assert largest_difference(model(item_seq, golden["item_seq_len"]), model(*model.history(batch))) <= 1e-6


def test_published_parameters_may_be_arrays():
    golden = Golden(FILES[0])
    model, arrays = golden.model(), {name: tensor.numpy() for name, tensor in golden.group("param/").items()}
    expected = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    published.load_published(model, arrays)
    assert all(torch.equal(parameter, expected[name]) for name, parameter in model.state_dict().items())


@recorded("initstat/")
def test_initialisation(golden, key):
    """Mean, spread and range of each parameter right after its construction are the published ones, as draws allow."""
    statistics = golden.group(key)
    torch.manual_seed(0)
    settings = model_settings(
        golden.model_name,
        hidden_size=golden.config["hidden_size"],
        MAX_ITEM_LIST_LENGTH=golden.config["max_seq_length"],
        **{
            **SETTINGS[golden.model_name](golden.config),
            **PUBLISHED.get(golden.model_name, {}),
            **PUBLISHED_INIT,
        },
    )
    model = plugin.import_model(golden.model_name)(settings, golden.items())
    own = dict(model.named_parameters())
    for name in statistics:
        mean, std, low, high = statistics[re.sub(*STARTS_LIKE.get(golden.model_name, ("", "")), name)].tolist()
        ours = own[published.translate(model, name)].detach()
        ours = torch.view_as_real(ours) if ours.is_complex() else ours
        count = ours.numel()
        noise = 6 / count**0.5  # six standard errors of a mean or of a spread
        assert ours.mean().item() == pytest.approx(mean, abs=noise * max(std, 1e-12) + 1e-6), name
        if count > 1:
            assert ours.std(correction=0).item() == pytest.approx(std, abs=noise * std + 1e-6), name
        if std < 1e-7:
            assert (ours.min().item(), ours.max().item()) == pytest.approx((low, high), abs=1e-6), name


PUBLISHED_INIT = {"pad_row_init": "random"}
# GLINTRU: the published code leaves GRU layers above the first at PyTorch's default; here all start as the first does.
STARTS_LIKE = {"GLINTRU": (r"(gru_layers\.weight_[ih]h)_l\d+$", r"\1_l0")}
