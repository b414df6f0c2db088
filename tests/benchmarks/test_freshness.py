"""`benchmarks/reproduce.py`: results and trainings of other settings than those of now."""

import json
from types import SimpleNamespace

import pytest
from reproduce_cells import few, make_place  # first: it makes the benchmarks importable
from reproduction import cells, freshness, progress, running
from reproduction.cells import Result, Stale

from recbole_glintru.launch.errors import UserError


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path)


def begin(place, one, epochs=1, **configured):
    """A training as `running.py` begins it, of the settings of now but for `configured`; and its folder."""
    folder = freshness.folder_of(one, place.scratch)
    folder.mkdir(parents=True, exist_ok=True)
    own = {**cells._model_defaults(one.model), **one.settings(), **configured}
    freshness.begin(one, folder, SimpleNamespace(final_config_dict={**own, "device": object(), "data_path": "here"}))
    for number in range(epochs):
        (folder / f"epoch-{number}").mkdir()
    return folder


def with_defaults(monkeypatch, **changes):
    """The models' own defaults are others from now on."""
    before = cells._model_defaults
    monkeypatch.setattr(cells, "_model_defaults", lambda model: {**before(model), **changes})


def test_a_folder_is_named_after_the_cell_and_not_after_the_models_defaults(place, monkeypatch):
    one = few("SASRec")
    folder = freshness.folder_of(one, place.scratch)
    assert folder != freshness.folder_of(few("SASRec", hidden_act="relu"), place.scratch)
    with_defaults(monkeypatch, hidden_act="relu", new=1)
    assert freshness.folder_of(one, place.scratch) == folder
    protocol = cells._protocol(one.protocol, one.model)
    monkeypatch.setattr(cells, "_protocol", lambda *_: {**protocol, "learning_rate": 0.5})
    assert freshness.folder_of(one, place.scratch) != folder


def test_a_training_goes_on_when_its_model_gains_a_setting(workplace, place, monkeypatch):
    one = few(epochs=2)
    with pytest.raises(progress.Interrupted):
        running.run(one, place.store, place.scratch, place.data_path, stop=lambda: True)
    with_defaults(monkeypatch, new=1)
    freshness.check([one], place.store, place.scratch, replace=False)
    running.run(one, place.store, place.scratch, place.data_path)
    assert place.store.read(one).record["training"]["interruptions"] == 1


def test_a_training_does_not_go_on_under_other_defaults(workplace, place, monkeypatch):
    one, before = few(epochs=2), cells._model_defaults("GLINTRU")["key_norm"]
    with pytest.raises(progress.Interrupted):
        running.run(one, place.store, place.scratch, place.data_path, stop=lambda: True)
    with_defaults(monkeypatch, key_norm="another")
    message = f"{freshness.folder_of(one, place.scratch)} was run with key_norm='{before}', but now key_norm='another'"
    with pytest.raises(UserError, match=message):
        running.run(one, place.store, place.scratch, place.data_path)
    with pytest.raises(UserError, match=f"{message}. Move it away, or run it again with --replace"):
        freshness.check([one], place.store, place.scratch, replace=False)
    assert len(progress.records(freshness.folder_of(one, place.scratch))["epochs"]) == 1


def test_a_training_of_other_defaults_is_replaced_unless_a_process_is_at_it(place, monkeypatch):
    one, other = few("SASRec"), few("GRU4Rec")  # which has no such setting
    folders = [begin(place, cell) for cell in (one, other)]
    with_defaults(monkeypatch, hidden_act="relu")
    with progress.alone(folders[0]), pytest.raises(progress.Busy):
        freshness.check([one, other], place.store, place.scratch, replace=True)
    assert all(folder.is_dir() for folder in folders)
    freshness.check([one, other], place.store, place.scratch, replace=True)
    assert [folder.is_dir() for folder in folders] == [False, True]


def test_a_result_and_its_training_are_replaced_together(place, monkeypatch):
    one = few("SASRec")
    folder, settings = begin(place, one), json.loads(json.dumps(one.settings()))
    place.store.write(one, Result({"settings": settings, "configuration": {"hidden_act": "gelu"}}))
    with_defaults(monkeypatch, hidden_act="relu")
    freshness.check([one], place.store, place.scratch, replace=True)
    assert place.store.read(one) is None and not folder.exists()


def test_a_training_that_is_not_needed_any_more_is_left_alone(place, monkeypatch):
    one = few("SASRec")
    folder, settings = begin(place, one), json.loads(json.dumps(one.settings()))
    with_defaults(monkeypatch, hidden_act="relu")
    place.store.write(one, Result({"settings": settings, "configuration": {"hidden_act": "relu"}}))
    for replace in (False, True):
        freshness.check([one], place.store, place.scratch, replace)
    assert folder.is_dir() and place.store.read(one) is not None


def test_what_has_no_epoch_begins_anew(place, monkeypatch):
    """It was killed in its first one: nothing of the settings of then is left."""
    one = few("SASRec")
    folder = begin(place, one, epochs=0)
    with_defaults(monkeypatch, hidden_act="relu")
    freshness.check_training(one, folder)
    assert begin(place, one) == folder
    freshness.check_training(one, folder)
    assert json.loads((folder / freshness.SETTINGS).read_text())["configuration"]["hidden_act"] == "relu"


def test_what_a_training_was_begun_with_stays_written_down(place):
    folder = begin(place, few("SASRec"))
    assert begin(place, few("SASRec"), epochs=0, hidden_act="relu") == folder
    assert json.loads((folder / freshness.SETTINGS).read_text())["configuration"]["hidden_act"] == "gelu"


def test_epochs_of_unknown_settings_do_not_go_on(place):
    one = few("SASRec")
    folder = begin(place, one)
    (folder / freshness.SETTINGS).unlink()
    for check in (freshness.check_training, lambda *_: begin(place, one, epochs=0)):
        with pytest.raises(Stale, match="has epochs, but no settings.json"):
            check(one, folder)


def test_the_machines_folders_are_no_settings(place):
    folder = begin(place, few("SASRec"))
    configured = json.loads((folder / freshness.SETTINGS).read_text())["configuration"]
    assert "data_path" not in configured and configured["device"].startswith("<object")
