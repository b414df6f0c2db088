"""`benchmarks/reproduce.py`: which cells there are, and that one goes on where it was killed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reproduce_cells import few, make_place  # first: it makes the benchmarks importable
from reproduction import grids, progress, running, significance
from reproduction.cells import Result, Store, cell
from reproduction.histories_once import HistoriesOnce

from recbole_glintru import plugin
from recbole_glintru.launch.errors import UserError


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path)


# ------------------------------------------------------------------------------------------------------------ grids


def test_tables_have_the_papers_rows():
    for dataset, printed in grids.PAPER["table2"].items():
        if dataset != "columns":
            assert {one.label for one in grids.variants("table2")} == set(printed)
    for name in ("table4", "table6", "table7", "table8", "table9"):
        printed = grids.PAPER[name].keys() - {"dataset", "columns"}
        assert {one.label for one in grids.variants(name)} == printed
        assert grids.EXPERIMENTS[name].dataset == grids.PAPER[name]["dataset"]


def test_all_models_are_the_packages_and_five_of_recboles():
    own = {name for name, entry in plugin.announced_models().items() if entry.value.startswith("recbole_glintru.")}
    assert set(grids.ALL) == own | {"GRU4Rec", "NARM", "SASRec", "BERT4Rec", "LightSANs"}
    assert len(set(grids.ALL)) == len(grids.ALL)


def test_tables_share_the_cells_that_they_have_in_common():
    def cells(name):
        return [
            one
            for variant in grids.variants(name)
            for one in grids.cells(variant, "amazon-beauty", "amazon-beauty", [666])
        ]

    plain = cell("amazon-beauty", "amazon-beauty", "GLINTRU", 666)
    for name in ("table2", "table6", "table7", "table9", "figure2", "figure3", "figure5", "figure6"):
        assert plain in cells(name), name
    every = {one for name in grids.EXPERIMENTS for one in cells(name)}
    assert len({one.name for one in every}) == len({one.digest() for one in every}) == len(every)


def test_a_variants_changes_lie_above_the_users():
    variant = grids.Variant("k", "GLINTRU", {"kernel_size": 7}, own={"n_layers": 2, "kernel_size": 9})
    (one,) = grids.cells(variant, "few", "ml-1m", [1], {"kernel_size": 5, "n_layers": 3, "epochs": 9})
    assert dict(one.changes) == {"kernel_size": 7, "n_layers": 2, "epochs": 9}
    assert one.name == "GLINTRU,epochs=9,kernel_size=7,n_layers=2,seed=1"
    assert cell("few", "ml-1m", "GLINTRU", 1, {"x": "{'a': [1]}", "y": "../b"}).name == "GLINTRU,x=a1,y=..b,seed=1"
    assert one.settings()["hidden_size"] == 128 and one.settings()["seed"] == 1


# ----------------------------------------------------------------------------------------------------------- running


def test_a_cell_goes_on_as_if_nothing_had_happened(workplace, place):
    one, other = few(), Store(workplace / "other")
    running.run(one, other, workplace / "uninterrupted", place.data_path)
    whole = other.read(one)

    with pytest.raises(progress.Interrupted):
        running.run(one, place.store, place.scratch, place.data_path, stop=lambda: True)
    folder = running.folder_of(one, place.scratch)
    assert place.store.read(one) is None and len(progress.records(folder)["epochs"]) == 1
    # What a kill in the middle of the second epoch's end leaves behind.
    (folder / "best.pth").write_bytes(b"half a checkpoint")
    (folder / "saving").mkdir()
    (folder / "saving" / "checkpoint.pth").write_bytes(b"half another")
    running.run(one, place.store, place.scratch, place.data_path, partial=True)
    partial = place.store.read(one, partial=True)
    assert place.store.read(one) is None and partial.record["training"]["epochs"] == 1
    assert len(progress.records(folder)["epochs"]) == 1  # a test trains nothing
    running.run(one, place.store, place.scratch, place.data_path)
    resumed = place.store.read(one)
    assert place.store.read(one, partial=True).record == resumed.record

    # A result is tested again without training.
    tests = resumed.record["readings"]
    record = {**resumed.record, "readings": {}, "date": ""}
    place.store.write(one, Result(record))
    running.run(one, place.store, place.scratch, place.data_path)
    again = place.store.read(one)
    assert again.record["readings"] == tests and again.record["epochs"] == resumed.record["epochs"]

    assert resumed.record["training"]["interruptions"] == 1 and whole.record["training"]["interruptions"] == 0
    assert resumed.record["readings"] == whole.record["readings"]
    assert resumed.record["candidates"] == whole.record["candidates"]
    for key in ("loss", "score", "mixing"):
        assert [epoch[key] for epoch in resumed.record["epochs"]] == [epoch[key] for epoch in whole.record["epochs"]]
    assert set(resumed.ranks) == set(running.READINGS) - {"validation", "test"}
    for reading, ranks in resumed.ranks.items():
        np.testing.assert_array_equal(ranks, whole.ranks[reading])


def test_an_epoch_without_records_is_named(tmp_path):
    assert progress.records(tmp_path) is None
    for epoch in (3, 12):
        (tmp_path / f"epoch-{epoch}").mkdir()
    with pytest.raises(UserError, match="epoch-12 has no records.json"):
        progress.records(tmp_path)


def test_a_result_says_all_about_its_cell(workplace, place):
    one = few(epochs=1)
    running.run(one, place.store, place.scratch, place.data_path)
    result = place.store.read(one)
    record = result.record
    assert list(record["readings"]) == list(running.READINGS)
    for reading, ranks in result.ranks.items():
        for metric, values in significance.per_user(ranks).items():
            assert len(values) == 60
            assert record["readings"][reading][metric.lower()] == pytest.approx(values.mean(), abs=5.1e-5)
    assert record["configuration"]["hidden_size"] == 8 and record["configuration"]["weight_decay"] == 0.0
    assert str(workplace) not in place.store.file(one).read_text()
    assert record["training"]["epochs"] == record["training"]["best_epoch"] == 1
    assert record["training"]["seconds_per_epoch"] > 0 and record["training"]["seconds_per_evaluation"] > 0
    assert record["parameters"] > 0 and record["versions"]["recbole"] and record["device"]["name"] and record["date"]
    assert record["mixing_at_start"] == [[0.5, 0.5]] and record["epochs"][0]["mixing"] != [[0.5, 0.5]]


def test_models_are_tested_on_the_same_candidates(workplace, place):
    results = []
    for seed, model in enumerate(("GLINTRU", "SASRec", "LightSANs")):
        one = replace(few(model, epochs=1), seed=seed)
        running.run(one, place.store, place.scratch, place.data_path)
        results.append(place.store.read(one).record)
    assert len({str(record["candidates"]) for record in results}) == 1
    assert results[0]["savings"] == "the model's own"
    assert results[1]["savings"] == "accelerate: True"
    assert results[2]["savings"].startswith("evaluation scores each history once")


def test_longer_lists_change_no_metric_of_ten(workplace, place):
    one = few(epochs=1, topk="[10,20]")
    running.run(one, place.store, place.scratch, place.data_path)
    result = place.store.read(one)
    for reading, ranks in result.ranks.items():
        assert ranks.max() > 10
        for metric, values in significance.per_user(ranks).items():
            assert result.record["readings"][reading][metric.lower()] == pytest.approx(values.mean(), abs=5.1e-5)


@pytest.mark.parametrize("length, place", [(10, 10), (300, 300), (300, 256), (300, 0)])
def test_ranks_of_long_lists(length, place):
    hits = torch.zeros(1, length + 1, dtype=torch.int64)
    hits[0, -1] = 1  # RecBole's last column: how many targets there are
    if place:
        hits[0, place - 1] = 1
    tests = running._Tests.__new__(running._Tests)
    tests.evaluator = SimpleNamespace(evaluate=lambda collected: {})
    tests.evaluate({"rec.topk": hits})
    assert tests.ranks.tolist() == [place] and tests.ranks.dtype == (np.uint8 if length < 256 else np.uint16)


def test_a_cell_that_could_not_be_saved_after_every_epoch_is_not_trained(workplace, place):
    """Not every epoch would be validated, or the last one not: the training would never be finished."""
    one = few(epochs=3, eval_step=2)
    with pytest.raises(UserError, match="eval_step=2: must be 1"):
        running.run(one, place.store, place.scratch, place.data_path)
    assert not place.store.folder.exists() and progress.latest(running.folder_of(one, place.scratch)) is None


def test_only_one_process_works_at_a_cell(workplace, place):
    folder = running.folder_of(few(), place.scratch)
    folder.mkdir(parents=True)
    with progress.alone(folder), pytest.raises(progress.Busy):
        running.run(few(), place.store, place.scratch, place.data_path)


class Scorer:
    """A model that counts the histories that it scores."""

    ITEM_SEQ, ITEM_SEQ_LEN, ITEM_ID = "item_id_list", "item_length", "item_id"

    def __init__(self, error=0.0):
        self.items, self.error, self.scored = torch.randn(20, 4), error, 0

    def full_sort_predict(self, interaction):
        self.scored += len(interaction["item_id_list"])
        return (self.items[interaction["item_id_list"]].sum(dim=1) + self.error) @ self.items.T

    def predict(self, interaction):
        states = self.items[interaction["item_id_list"]].sum(dim=1)
        return (states * self.items[interaction["item_id"]]).sum(dim=1)


def tiled(users=3, candidates=5):
    from recbole.data.interaction import Interaction

    histories = torch.arange(1, users * 4 + 1).view(users, 4).repeat_interleave(candidates, dim=0)
    items = torch.arange(users * candidates) % 19 + 1
    return Interaction({"item_id_list": histories, "item_length": torch.full((len(items),), 4), "item_id": items})


def test_each_history_is_scored_once():
    model, batch = Scorer(), tiled()
    plain = model.predict(batch)
    once = HistoriesOnce(model)
    for _ in range(2):
        torch.testing.assert_close(model.predict(batch), plain)
    assert once.state == "used" and model.scored == 2 * 3


def test_a_model_whose_scores_would_differ_is_left_alone():
    model, batch = Scorer(error=1.0), tiled()
    plain = model.predict(batch)
    once = HistoriesOnce(model)
    for _ in range(2):
        torch.testing.assert_close(model.predict(batch), plain)
    assert once.state == "differs" and model.scored == 3
