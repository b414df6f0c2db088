"""`benchmarks/reproduce.py`: the results of cells, and the settings that they were run with."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from reproduce_cells import few, make_place  # first: it makes the benchmarks importable
from reproduction import cells, freshness, grids, progress
from reproduction.cells import RESULTS, Cell, Result, Stale, Store
from reproduction.report import report_file

from recbole_glintru.launch.errors import UserError


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path)


def test_other_settings_are_another_cell_and_never_pass_for_this_one(place):
    one = few()
    record = {"settings": {**one.settings(), "hidden_size": 16}}
    place.store.write(one, Result(record))
    with pytest.raises(Stale, match="hidden_size=16, but now hidden_size=8"):
        place.store.read(one)
    with pytest.raises(UserError, match="--replace"):
        freshness.check([one], place.store, place.scratch, replace=False)
    freshness.check([one], place.store, place.scratch, replace=True)
    assert place.store.read(one) is None


COMMITTED = sorted((RESULTS / "cells").glob("*/*.json"))


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_results_in_the_repository_are_those_of_todays_settings(file):
    record = json.loads(file.read_text(encoding="utf-8"))
    one = Cell(changes=tuple(sorted(record["changes"].items())), **record["cell"])
    partial = bool(record.get("partial"))
    assert Store().file(one, partial) == file
    result = Store().read(one, partial)  # or Stale
    assert set(result.ranks) <= set(record["readings"])


def test_there_are_results_in_the_repository():
    assert any(file.parent.name == "ml-100k" for file in COMMITTED)


def run_with(one, **configuration):
    """A result as `running.py` writes it, of the settings of now but for `configuration`."""
    settings = json.loads(json.dumps(one.settings()))
    defaults = json.loads(json.dumps(cells._model_defaults(one.model)))
    return Result({"settings": settings, "configuration": {**defaults, **settings, **configuration}})


def test_a_result_of_other_defaults_of_the_model_is_stale(place):
    one = few("SASRec")
    assert "hidden_act" not in one.settings() and "layer_norm_eps" not in one.settings()
    place.store.write(one, run_with(one, layer_norm_eps=1e-12))  # text in the file, for YAML
    assert place.store.read(one) is not None
    place.store.write(one, run_with(one, hidden_act="relu"))
    with pytest.raises(Stale, match="hidden_act='relu', but now hidden_act='gelu'"):
        place.store.read(one)
    place.store.write(one, run_with(one, layer_norm_eps=1e-5))
    with pytest.raises(Stale, match="layer_norm_eps=1e-05, but now layer_norm_eps=1e-12"):
        place.store.read(one)


def test_settings_that_came_into_being_later_make_no_result_stale(place, monkeypatch):
    one = few("SASRec")
    place.store.write(one, run_with(one))
    before = cells._model_defaults("SASRec")
    monkeypatch.setattr(cells, "_model_defaults", lambda model: {**before, "new": [None, (1, 2)], "newer": None})
    assert place.store.read(one) is not None
    monkeypatch.setattr(cells, "_model_defaults", lambda model: {**before, "hidden_act": "relu"})
    with pytest.raises(Stale, match="hidden_act"):
        place.store.read(one)


def test_a_default_that_moves_into_the_protocol_changes_nothing(place, monkeypatch):
    one = few("SASRec")
    place.store.write(one, run_with(one))
    before = cells._protocol(one.protocol, one.model)
    monkeypatch.setattr(cells, "_protocol", lambda *_: {**before, "hidden_act": "gelu"})
    assert place.store.read(one) is not None
    monkeypatch.setattr(cells, "_protocol", lambda *_: {**before, "hidden_act": "relu"})
    with pytest.raises(Stale, match="hidden_act='gelu', but now hidden_act='relu'"):
        place.store.read(one)


def test_lists_tuples_and_nothing_are_the_same_in_a_result(place, monkeypatch):
    one = few("SASRec")
    monkeypatch.setattr(cells, "_model_defaults", lambda model: {"sizes": (1, 2), "nothing": None, "eps": 1e-8})
    place.store.write(one, run_with(one, sizes=[1, 2]))
    assert place.store.read(one) is not None
    place.store.write(one, run_with(one, nothing=0))
    with pytest.raises(Stale, match="nothing=0, but now nothing=None"):
        place.store.read(one)


@pytest.mark.parametrize(
    "text, value", [("1e-12", 1e-12), ("-1.5E3", -1500.0), (["1e2", "e2"], [100.0, "e2"]), ("1", "1"), (None, None)]
)
def test_numbers_are_read_as_recbole_reads_them(text, value):
    assert cells._with_numbers({"key": text}) == {"key": value}


def test_a_change_to_the_models_default_is_none():
    assert few("SASRec", layer_norm_eps=1e-12) == few("SASRec")


def test_an_unfinished_trainings_result_stands_in_until_it_has_ended(place):
    one, ranks = few(), {"fixed": np.array([0, 3], dtype=np.uint8)}
    settings = json.loads(json.dumps(one.settings()))
    place.store.write(one, Result({"settings": settings, "partial": True}, ranks))
    assert place.store.read(one) is None and not place.store.file(one).exists()
    partial = place.store.read(one, partial=True)
    assert partial.record["partial"] and partial.ranks["fixed"].tolist() == [0, 3]
    with pytest.raises(Stale, match="hidden_size"):
        other = {**settings, "hidden_size": 16}
        place.store.write(one, Result({"settings": other, "partial": True}, ranks))
        place.store.read(one, partial=True)
    place.store.write(one, Result({"settings": settings}, ranks))
    assert "partial" not in place.store.read(one, partial=True).record
    names = {file.name for file in place.store.file(one).parent.iterdir()}
    assert names == {f"{one.name}.json", f"{one.name}.npz"}
    fraction = few(dropout_prob=0.25)  # a name with a point in it
    place.store.write(fraction, Result({"settings": fraction.settings(), "partial": True}, ranks))
    assert place.store.read(fraction, partial=True).ranks.keys() == {"fixed"}
    assert place.store.read(replace(fraction, seed=1), partial=True) is None


def test_a_result_that_was_set_aside_has_no_seed(tmp_path):
    store, one = cells.Store(tmp_path), cells.cell("amazon-beauty", "amazon-beauty", "GLINTRU", 666)
    for seed in ("666", "667", "666-old", "3,use_gru=False,seed=666"):
        file = store.file(one).with_name(f"GLINTRU,seed={seed}.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    assert store.seeds(one) == [666, 667]


def test_the_authors_names_of_settings_are_the_models_own():
    """A level of settings may have both names, and so may two levels: the setting that counts is in the cell."""

    def changes(model, for_all, **own):
        (one,) = grids.cells(grids.Variant(model, model, own=own), "amazon-beauty", "amazon-beauty", [1], for_all)
        return dict(one.changes)

    assert changes("GLINTRU", {"dropout_prob": 0.3}) == {"embedding_dropout_prob": 0.3}
    assert changes("GLINTRU", {"dropout_prob": 0.3}, embedding_dropout_prob=0.5) == {}  # the protocol's
    assert changes("GLINTRU", {"embedding_dropout_prob": 0.6}, dropout_prob=0.4) == {"embedding_dropout_prob": 0.4}
    for order in (1, -1):
        both = dict([("dropout_prob", 0.3), ("embedding_dropout_prob", 0.6)][::order])
        assert changes("GLINTRU", both) == {"embedding_dropout_prob": 0.6}
    assert changes("GRU4Rec", {"dropout_prob": 0.3}) == {"dropout_prob": 0.3}


def test_names_that_are_too_long_for_files(tmp_path):
    """They keep model and seed, and differ if their changes differ."""
    many = {f"setting_with_a_long_name_{number}": number for number in range(20)}
    names = set()
    for changes in (many, {**many, "setting_with_a_long_name_19": 20}):
        one = cells.cell("few", "amazon-beauty", "GLINTRU", 667, changes)
        store = Store(tmp_path)
        store.write(one, Result({"settings": one.settings()}, {"fixed": np.zeros(1, np.uint8)}))
        assert store.read(one) is not None and store.seeds(one) == [667]
        assert one.name.startswith("GLINTRU,setting_with") and one.name.endswith(",seed=667")
        names.add(one.name)
    assert len(names) == 2
    report = report_file(tmp_path, "table2", "few", many, [], "fixed")
    report.touch()
    assert report.name.startswith("table2-few,setting_with") and report.suffix == ".md"


@pytest.mark.parametrize("suffix, damage", [(".json", b"{"), (".json", b"\xff"), (".npz", b""), (".npz", b"PK\3\4")])
def test_a_damaged_result_is_named(place, suffix, damage):
    one = few()
    place.store.write(one, Result({"settings": one.settings()}, {"fixed": np.zeros(1, np.uint8)}))
    file = place.store.file(one).with_suffix(suffix)
    file.write_bytes(damage)
    with pytest.raises(UserError, match=re.escape(f"{file} is damaged: ")):
        place.store.read(one)


def test_damaged_records_are_named(tmp_path):
    (tmp_path / "epoch-3").mkdir()
    file = tmp_path / "epoch-3" / "records.json"
    file.write_text('{"epochs": [')
    with pytest.raises(UserError, match=re.escape(f"{file} is damaged: ")):
        progress.records(tmp_path)
