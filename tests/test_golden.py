"""Every model against its authors' published code: arrays recorded from it, `<model>_<case>.npz`.

`GOLDEN_DIR` names another directory of such files. Each file holds a small problem (`item_seq`, `item_seq_len`,
`pos_items`, `neg_items`), the published parameters (`param/*`) and what came out: outputs, losses with all dropouts at
zero, gradient norms of `loss_ce`, the same on unpadded histories (`clean/*`, the default semantics here) and in
float64 (`f64/*`). Float32 tolerances are for sums in another order: 2e-5 on outputs, 1e-5 on losses, 1e-3 relative on
gradient norms.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import ItemTable, all_dropouts_off, make_batch, model_settings
from golden_settings import OFFICIAL_LOSS, PUBLISHED, SETTINGS

from recbole_glintru import plugin, published

DIRECTORY = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parent / "golden")
OPERATIONS = ("selective_scan", "mamba_block")  # files of a single operation: tests/ops, tests/layers
FILES = sorted(file for file in DIRECTORY.glob("*.npz") if not file.stem.startswith(OPERATIONS))

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


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
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


def assert_gradients(model, loss, norms):
    loss.backward()
    own = dict(model.named_parameters())
    assert norms
    noise = 1e-6 * max(norm.item() for norm in norms.values())
    for name, norm in norms.items():
        gradient = own[published.translate(model, name)].grad
        actual = torch.view_as_real(gradient).norm() if gradient.is_complex() else gradient.norm()
        # Some gradients are zero in exact arithmetic: what is left of them is rounding noise of the others' size.
        assert actual.item() == pytest.approx(norm.item(), rel=GRADIENT, abs=noise), name


def test_there_are_files():
    assert FILES, f"no golden files in {DIRECTORY}"


def test_published_outputs(golden):
    if "seq_output" not in golden:
        pytest.fail("a golden file without seq_output")
    model, batch = golden.published(), golden.batch()
    with torch.no_grad():
        assert largest_difference(model(*model.history(batch)), golden["seq_output"]) <= OUTPUT
        if "full_sort_scores" in golden:
            assert largest_difference(model.full_sort_predict(batch), golden["full_sort_scores"]) <= OUTPUT
        if "predict_scores" in golden:
            assert largest_difference(model.predict(batch), golden["predict_scores"]) <= OUTPUT


@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
def test_published_losses(golden, loss_type):
    key = f"loss_{loss_type.lower()}"
    if key in golden:
        loss = golden.published(loss_type=loss_type).calculate_loss(golden.batch())
        assert loss.item() == pytest.approx(golden[key].item(), abs=LOSS)


def test_official_loss(golden):
    """The objective that the authors trained with, where it is neither CE nor BPR."""
    if "loss_official" not in golden:
        assert golden.model_name not in OFFICIAL_LOSS
        return
    model = golden.published(loss_type=OFFICIAL_LOSS[golden.model_name])
    if "neg_seq_left" in golden:  # a negative at every position, which RecBole's batches do not have
        states = model.encode_all(golden["item_seq"], golden["item_seq_len"])
        loss = model.all_positions_loss(states, golden["pos_seq_left"], golden["neg_seq_left"])
    else:
        loss = model.calculate_loss(golden.batch())
    assert loss.item() == pytest.approx(golden["loss_official"].item(), abs=LOSS)
    assert_gradients(model, loss, golden.group("gradnorm_official/"))


def test_published_gradients(golden):
    norms = golden.group("gradnorm/")
    if norms:
        model = golden.published()
        assert_gradients(model, model.calculate_loss(golden.batch()), norms)


def test_published_float64(golden):
    if "f64/seq_output" in golden:
        model, batch = golden.published(dtype=torch.float64), golden.batch()
        with torch.no_grad():
            assert largest_difference(model(*model.history(batch)), golden["f64/seq_output"]) <= FLOAT64
            if "f64/full_sort_scores" in golden:
                assert largest_difference(model.full_sort_predict(batch), golden["f64/full_sort_scores"]) <= FLOAT64
            if "f64/loss_ce" in golden:
                assert model.calculate_loss(batch).item() == pytest.approx(golden["f64/loss_ce"].item(), abs=FLOAT64)


def test_clean_semantics(golden):
    """The default mode gives for a padded history what the published code gives for that history alone."""
    if "clean/seq_output" not in golden:
        return
    model, batch = golden.model(), golden.batch()
    with torch.no_grad():
        assert largest_difference(model(*model.history(batch)), golden["clean/seq_output"]) <= OUTPUT
        if "clean/full_sort_scores" in golden:
            assert largest_difference(model.full_sort_predict(batch), golden["clean/full_sort_scores"]) <= OUTPUT
    if "clean/loss_ce" in golden:
        loss = model.calculate_loss(batch)
        assert loss.item() == pytest.approx(golden["clean/loss_ce"].item(), abs=LOSS)
        norms = golden.group("clean/gradnorm/")
        if norms:
            assert_gradients(model, loss, norms)
    if "f64/clean/seq_output" in golden:
        model = golden.model(dtype=torch.float64)
        with torch.no_grad():
            assert largest_difference(model(*model.history(batch)), golden["f64/clean/seq_output"]) <= FLOAT64


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


def test_ablations(golden):
    """A part that is switched off: the published forward with that part taken out, and no parameters here."""
    names = {name.split("/")[1] for name in golden.arrays if name.startswith(("ablation/", "ablation_clean/"))}
    assert names <= set(ABLATIONS)
    for name in sorted(names):
        for prefix, semantics in (("ablation", PUBLISHED[golden.model_name]), ("ablation_clean", {})):
            changes = {**semantics, **ABLATIONS[name]}
            model, batch = golden.model(parameters=_kept(golden, changes), **changes), golden.batch()
            with torch.no_grad():
                output = model(*model.history(batch))
                assert largest_difference(output, golden[f"{prefix}/{name}/seq_output"]) <= OUTPUT, name
                loss = model.calculate_loss(batch).item()
                assert loss == pytest.approx(golden[f"{prefix}/{name}/loss_ce"].item(), abs=LOSS), name


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


def test_padding_reaches_the_published_output(golden):
    """Ten more columns of padding move the published output, by the recorded amount, and not the clean one."""
    if "pad_plus10/seq_output" not in golden:
        return
    batch = golden.batch()
    item_seq = torch.nn.functional.pad(golden["item_seq"], (0, 10))
    with torch.no_grad():
        model = golden.published()
        output = model(item_seq, golden["item_seq_len"])
        assert largest_difference(output, golden["pad_plus10/seq_output"]) <= OUTPUT
        assert largest_difference(output, golden["seq_output"]) > 0.01
        model = golden.model()
        assert largest_difference(model(item_seq, golden["item_seq_len"]), model(*model.history(batch))) <= 1e-6


def test_initialisation(golden):
    """Mean, spread and range of each parameter right after its construction are the published ones, as draws allow."""
    statistics = golden.group("initstat/")
    if not statistics:
        return
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
    for name, (mean, std, low, high) in ((name, values.tolist()) for name, values in statistics.items()):
        if name in DIFFERENT_BY_DESIGN.get(golden.model_name, ()):
            continue
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
# GLINTRU: the published code leaves GRU layers above the first at PyTorch's default; here all are Xavier.
DIFFERENT_BY_DESIGN = {"GLINTRU": ("gru_layers.weight_ih_l1", "gru_layers.weight_hh_l1")}
