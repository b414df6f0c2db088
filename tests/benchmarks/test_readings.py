"""What a cell of `benchmarks/reproduce.py` is tested on, and before its training has ended."""

import json

import numpy as np
import pytest
import torch
from reproduce_cells import few, make_place  # first: it makes the benchmarks importable
from reproduction import progress, running

from recbole_glintru.launch.errors import UserError


@pytest.fixture
def place(workplace):
    return make_place(workplace)


def run(place, one, **options):
    running.run(one, place.store, place.scratch, place.data_path, **options)


def result_of(place, one, name=None):
    return json.loads((place.store.file(one).with_name(name) if name else place.store.file(one)).read_text())


def test_a_training_that_has_not_ended_is_tested_and_goes_on(place, monkeypatch):
    """The same passes over the best epoch so far; the training itself notices nothing."""
    one = few(epochs=3)
    written = []
    monkeypatch.setattr(place.store, "write", lambda of, result: written.append(result.record))
    with pytest.raises(UserError, match="no epoch of it is done"):
        run(place, one, partial=True)
    with pytest.raises(progress.Interrupted):
        run(place, one, stop=lambda: True)
    run(place, one, partial=True)
    run(place, one)
    run(place, one, partial=True)  # finished by now: no longer partial
    partial, finished, again = written
    assert partial["partial"] and partial["training"]["epochs"] == 1 and partial["training"]["interruptions"] == 0
    assert "partial" not in finished and "partial" not in again
    assert finished["training"]["epochs"] == 3 and finished["training"]["interruptions"] == 1
    assert partial["epochs"][0]["loss"] == finished["epochs"][0]["loss"]
    assert partial["readings"].keys() == finished["readings"].keys() == running.READINGS.keys()
    fixed = {reading for reading in running.READINGS if reading not in ("validation", "test")}
    for reading in fixed:
        assert again["readings"][reading] == finished["readings"][reading]


def test_a_resumed_training_keeps_its_threads_and_its_peak(place):
    one, before = few(epochs=2), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(progress.Interrupted):
            run(place, one, stop=lambda: True)
        file = progress.latest(running.folder_of(one, place.scratch)) / "records.json"
        records = json.loads(file.read_text())
        file.write_text(json.dumps({**records, "peak_memory_MiB": 1e6}))
        torch.set_num_threads(1)
        run(place, one)
    finally:
        torch.set_num_threads(before)
    record = result_of(place, one)
    assert record["device"]["threads"] == 2 and record["peak_memory_MiB"] == 1e6


def test_tested_again_a_result_keeps_what_is_of_its_training(place):
    """Of a training from before the records had it."""
    one = few(epochs=1)
    run(place, one)
    first = result_of(place, one)
    file = progress.latest(running.folder_of(one, place.scratch)) / "records.json"
    records = {key: value for key, value in json.loads(file.read_text()).items() if key not in running.OF_THE_TRAINING}
    file.write_text(json.dumps(records))
    own = {"peak_memory_MiB": 77.0, "package": {"commit": "abc"}, "versions": {"torch": "1"}, "device": {"type": "tpu"}}
    assert own.keys() == set(running.OF_THE_TRAINING)
    place.store.file(one).write_text(json.dumps({**first, **own}))
    run(place, one)
    again = result_of(place, one)
    assert {key: again[key] for key in own} == own
    assert again["readings"].pop("test") and first["readings"].pop("test")  # RecBole's draw is another one
    assert again["readings"] == first["readings"] and again["epochs"] == first["epochs"]


def test_the_data_is_counted(place):
    run(place, few(epochs=1))
    record = result_of(place, few(epochs=1))
    assert (record["users"], record["items"], record["interactions"]) == (60, 60, 600)


def test_negatives_outside_the_history(place, monkeypatch):
    """None of the history's items and not the target, which RecBole's own draw keeps to."""
    drawn = {}
    loaders = running._loaders

    def look(*arguments):
        made = loaders(*arguments)
        for reading in ("fixed", "unseen"):
            sampler, rows = made[reading]._sampler, made[reading]._dataset.inter_feat
            np.random.seed(0)
            users, items = rows["user_id"].numpy(), rows["item_id"].numpy()
            negatives = [sampler.sample_by_user_ids(users[[i]], items[[i]], 100).tolist() for i in range(len(rows))]
            histories = rows["item_id_list"].tolist()
            rows = list(zip(negatives, histories, items.tolist()))
            drawn[reading] = [({*some} & {*history}, target in some) for some, history, target in rows]
        return made

    monkeypatch.setattr(running, "_loaders", look)
    run(place, few(epochs=1))
    assert any(common for common, _ in drawn["fixed"]) and not any(common for common, _ in drawn["unseen"])
    assert not any(target for both in drawn.values() for _, target in both)


def test_popularity_of_the_training_rows_alone(place, monkeypatch):
    counted = {}
    loaders = running._loaders

    def look(config, configuration, train_data, valid_data, test_data):
        made = loaders(config, configuration, train_data, valid_data, test_data)
        counted["rows"] = train_data._dataset.inter_feat["item_id"].tolist()
        for reading in ("fixed", "trained"):
            sampler = made[reading]._sampler
            counted[reading] = sampler._get_candidates_list()
            counted[f"{reading}: drawn"] = set(sampler.prob)
        return made

    monkeypatch.setattr(running, "_loaders", look)
    run(place, few(epochs=1))
    assert sorted(counted["trained"]) == sorted(counted["rows"]) and len(counted["fixed"]) > len(counted["rows"])
    assert counted["trained: drawn"] == set(counted["rows"])


def test_without_popularity_there_is_nothing_to_count(place):
    split = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni100"}
    one = few(epochs=1, eval_args=str(split))
    run(place, one)
    assert "trained" not in result_of(place, one)["readings"]


def test_full_ranking_in_place_of_candidates(place):
    split = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
    one = few(epochs=1, eval_args=str(split))
    run(place, one)
    record = result_of(place, one)
    assert list(record["readings"]) == ["validation", "validation_fixed", "test", "full"]
    assert record["readings"]["test"] == record["readings"]["full"] and record["candidates"].keys() == {
        "validation_fixed"
    }
