"""`benchmarks/reproduce.py`: which cells there are, that a killed one goes on, the statistics, the reports."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from reproduction import command, grids, progress, report, running, scheduling, significance  # noqa: E402
from reproduction.cells import Result, Stale, Store, cell  # noqa: E402
from reproduction.histories_once import HistoriesOnce  # noqa: E402

from recbole_glintru import plugin  # noqa: E402

SMALL = {"hidden_size": 8, "n_heads": 2, "epochs": 3, "train_batch_size": 64, "MAX_ITEM_LIST_LENGTH": 10}


@pytest.fixture
def data(tmp_path):
    """A folder with the data set `few`: 30 users, 20 items, ten interactions each."""
    generator = np.random.default_rng(0)
    (tmp_path / "data" / "few").mkdir(parents=True)
    with open(tmp_path / "data" / "few" / "few.inter", "w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user in range(30):
            for time_, item in enumerate(generator.permutation(20)[:10]):
                file.write(f"u{user}\ti{item}\t{time_}\n")
    return tmp_path / "data"


@pytest.fixture
def place(tmp_path, data):
    return scheduling.Place(Store(tmp_path / "results"), tmp_path / "scratch", data)


def few(model="GLINTRU", **changes):
    return cell("few", "amazon-beauty", model, 666, {**SMALL, **changes})


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
    variant = grids.Variant("k", "GLINTRU", {"kernel_size": 7}, own={"n_layers": 2})
    (one,) = grids.cells(variant, "few", "ml-1m", [1], {"kernel_size": 5, "n_layers": 3, "epochs": 9})
    assert dict(one.changes) == {"kernel_size": 7, "n_layers": 2, "epochs": 9}
    assert one.name == "GLINTRU,epochs=9,kernel_size=7,n_layers=2,seed=1"
    assert one.settings()["hidden_size"] == 128 and one.settings()["seed"] == 1


# ----------------------------------------------------------------------------------------------------------- running


def test_a_cell_goes_on_as_if_nothing_had_happened(workplace, place, data):
    one, other = few(), Store(workplace / "other")
    running.run(one, other, workplace / "uninterrupted", data)
    whole = other.read(one)

    with pytest.raises(progress.Interrupted):
        running.run(one, place.store, place.scratch, data, stop=lambda: True)
    folder = running.folder_of(one, place.scratch)
    assert place.store.read(one) is None and len(progress.records(folder)["epochs"]) == 1
    # What a kill in the middle of the second epoch's end leaves behind.
    (folder / "best.pth").write_bytes(b"half a checkpoint")
    (folder / "saving").mkdir()
    (folder / "saving" / "checkpoint.pth").write_bytes(b"half another")
    running.run(one, place.store, place.scratch, data)
    resumed = place.store.read(one)

    assert resumed.record["training"]["interruptions"] == 1 and whole.record["training"]["interruptions"] == 0
    assert resumed.record["readings"] == whole.record["readings"]
    assert resumed.record["candidates"] == whole.record["candidates"]
    for key in ("loss", "score", "mixing"):
        assert [epoch[key] for epoch in resumed.record["epochs"]] == [epoch[key] for epoch in whole.record["epochs"]]
    assert set(resumed.ranks) == {"fixed", "uniform", "full"}
    for reading, ranks in resumed.ranks.items():
        np.testing.assert_array_equal(ranks, whole.ranks[reading])


def test_a_result_says_all_about_its_cell(workplace, place, data):
    one = few(epochs=1)
    running.run(one, place.store, place.scratch, data)
    result = place.store.read(one)
    record = result.record
    assert list(record["readings"]) == list(running.READINGS)
    for reading, ranks in result.ranks.items():
        for metric, values in significance.per_user(ranks).items():
            assert len(values) == 30
            assert record["readings"][reading][metric.lower()] == pytest.approx(values.mean(), abs=5.1e-5)
    assert record["configuration"]["hidden_size"] == 8 and record["configuration"]["weight_decay"] == 0.0
    assert str(workplace) not in place.store.file(one).read_text()
    assert record["training"]["epochs"] == record["training"]["best_epoch"] == 1
    assert record["training"]["seconds_per_epoch"] > 0 and record["training"]["seconds_per_evaluation"] > 0
    assert record["parameters"] > 0 and record["versions"]["recbole"] and record["device"]["name"] and record["date"]
    assert record["mixing_at_start"] == [[0.5, 0.5]] and record["epochs"][0]["mixing"] != [[0.5, 0.5]]


def test_models_are_tested_on_the_same_candidates(workplace, place, data):
    results = []
    for model in ("GLINTRU", "SASRec", "LightSANs"):
        one = few(model, epochs=1)
        running.run(one, place.store, place.scratch, data)
        results.append(place.store.read(one).record)
    assert len({record["candidates"] for record in results}) == 1
    assert results[0]["savings"] == "the model's own"
    assert results[1]["savings"] == "accelerate: True"
    assert results[2]["savings"].startswith("evaluation scores each history once")


def test_other_settings_are_another_cell_and_never_pass_for_this_one(place):
    one = few()
    record = {"settings": {**one.settings(), "hidden_size": 16}}
    place.store.write(one, Result(record))
    with pytest.raises(Stale, match="hidden_size=16, and hidden_size=8 now"):
        place.store.read(one)
    with pytest.raises(command.UserError, match="--replace"):
        scheduling.check_fresh([one], place.store, replace=False)
    scheduling.check_fresh([one], place.store, replace=True)
    assert place.store.read(one) is None
    assert running.folder_of(one, place.scratch) != running.folder_of(few(hidden_size=16), place.scratch)


def test_only_one_process_works_at_a_cell(workplace, place, data):
    folder = running.folder_of(few(), place.scratch)
    folder.mkdir(parents=True)
    with progress.alone(folder), pytest.raises(progress.Busy):
        running.run(few(), place.store, place.scratch, data)


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


# -------------------------------------------------------------------------------------------------------- scheduling


def arguments(place, table="table2", *more):
    return [
        table,
        "--dataset=few",
        "--protocol=amazon-beauty",
        f"--data_path={place.data_path}",
        f"--results={place.store.folder}",
        f"--scratch={place.scratch}",
        "--threads=1",
        "--seeds=1",
        *(f"--{key}={value}" for key, value in SMALL.items()),
        *more,
    ]


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(place, tmp_path):
    words = [sys.executable, str(BENCHMARKS / "reproduce.py")]
    words += arguments(place, "figure2", "--epochs=100", "--stopping_step=100")
    words.remove("--epochs=3")
    folder = running.folder_of(few(epochs=100, stopping_step=100), place.scratch)
    one = few(epochs=100, stopping_step=100)
    for kill in (signal.SIGTERM, signal.SIGKILL):
        before = len((progress.records(folder) or {"epochs": []})["epochs"])
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=tmp_path)
        deadline = time.monotonic() + 120
        while len((progress.records(folder) or {"epochs": []})["epochs"]) < before + 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(kill)
        assert process.wait(60) == (130 if kill == signal.SIGTERM else -signal.SIGKILL)
    while _is_locked(folder) and time.monotonic() < deadline:  # the cell of a killed command ends itself
        time.sleep(0.1)
    assert place.store.read(one) is None
    after = len(progress.records(folder)["epochs"])
    assert 4 <= after < 100
    finished = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert finished.returncode == 0, finished.stderr
    record = place.store.read(one).record
    assert record["training"]["epochs"] == 100 and record["training"]["interruptions"] >= 2
    assert "GLINTRU | 1 |" in finished.stdout
    again = subprocess.run([*words, "--report"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert again.stdout == finished.stdout


def _is_locked(folder):
    try:
        with progress.alone(folder):
            return False
    except progress.Busy:
        return True


def fake_process(place, status, monkeypatch):
    """Cells that end at once with this status, and write a result if it is 0."""
    started = []

    class Process:
        def __init__(self, one):
            started.append(one)
            if status == 0:
                place.store.write(one, Result({"settings": json.loads(json.dumps(one.settings()))}))

        def poll(self):
            return status

        def terminate(self):
            pass

        wait = terminate

    monkeypatch.setattr(scheduling, "_start", lambda one, place: Process(one))
    return started


def test_what_is_done_is_not_run_again(place, monkeypatch):
    started = fake_process(place, 0, monkeypatch)
    cells = [few(), few("SASRec"), few()]
    assert scheduling.run(cells, place, poll=0) == [] and started == cells[:2]
    assert scheduling.run(cells, place, poll=0) == [] and started == cells[:2]


def test_the_budget_starts_no_more_cells(place, monkeypatch):
    from dataclasses import replace

    started = fake_process(place, 0, monkeypatch)
    left = scheduling.run([few()], replace(place, budget=0.0), poll=0)
    assert started == [] and left == [f"few {few().name}: not begun within the budget"]


def test_a_failed_cell_keeps_none_of_the_others_from_running(place, monkeypatch):
    started = fake_process(place, 1, monkeypatch)
    monkeypatch.setattr(scheduling, "_last_line", lambda one, place: "ValueError: too bad")
    left = scheduling.run([few(), few("SASRec")], place, poll=0)
    assert len(started) == 2 and "failed: ValueError: too bad" in left[0]


def test_a_mistake_of_the_users_ends_the_run(place, monkeypatch):
    started = fake_process(place, scheduling.MISTAKE, monkeypatch)
    monkeypatch.setattr(scheduling, "_last_line", lambda one, place: "no data")
    with pytest.raises(command.UserError, match="no data"):
        scheduling.run([few(), few("SASRec")], place, poll=0)
    assert len(started) == 1


def test_the_estimate_takes_what_is_known(place):
    cells = [few(epochs=10), few(epochs=20), few("SASRec", epochs=10)]
    assert scheduling.Estimate(cells, place).seconds() is None
    epoch = running.folder_of(cells[0], place.scratch) / "epoch-3"
    epoch.mkdir(parents=True)
    seconds = {"training": 2.0, "validation": 1.0}
    (epoch / "records.json").write_text(json.dumps({"epochs": 4 * [{"seconds": seconds}]}))
    estimate = scheduling.Estimate(cells, place)
    assert estimate.epochs() == 40 and estimate.done(cells) == 4
    assert estimate.seconds() == 3 * (6 + 20 + 10)
    estimate.over(cells[0])
    assert estimate.done(cells[1:]) == 10 and estimate.seconds() == 3 * (20 + 10)


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "more, message",
    [
        (["table5"], "'table5' is no table"),
        ([], "which table?"),
        (["table2", "--dataset=nothing"], "--dataset=nothing: it has no protocol"),
        (["table2", "--protocol=nothing"], "--protocol=nothing: must be one of"),
        (["table2", "--models=GLINTRUE"], "Did you mean GLINTRU"),
        (["table2", "--models="], "--models: names no model"),
        (["table2", "--values=3"], "--values=3: table2 varies no number"),
        (["figure3", "--values=3,x"], "--values=3,x: must be whole numbers"),
        (["table2", "--seeds=0"], "--seeds=0: must be at least 1"),
        (["table2", "--jobs=0"], "--jobs=0: must be at least 1"),
        (["table2", "--jobs=two"], "argument --jobs: invalid int value: 'two'"),
        (["table2", "--budget=soon"], "--budget=soon: must be a time"),
        (["table2", "--reading=best"], "--reading=best: must be one of validation, test, fixed, uniform, full"),
        (["table2", "--seed=x"], "--seed=x: must be a whole number"),
        (["table2", "--dataset=ml-100k", "--hiden_size=8"], "--hiden_size=8: did you mean hidden_size"),
        (["table2", "--dataset=ml-100k", "--GLINTRU.n_layer=8"], "--GLINTRU.n_layer=8: did you mean"),
        (["table2", "--dataset=ml-100k", "--GLINTRUE.n_layers=8"], "Did you mean GLINTRU"),
        (["table2", "--dataset=amazon-beauty", "--protocol=ml-100k"], "no data for 'amazon-beauty'"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_clear_error(more, message, workplace, capsys, monkeypatch):
    import recbole.utils.url

    def no_network(*_):
        raise OSError("no network")

    monkeypatch.setattr(recbole.utils.url, "decide_download", no_network)
    monkeypatch.setattr(scheduling, "run", lambda *_: pytest.fail("work was started"))
    status = command.main([*more, f"--results={workplace}", f"--scratch={workplace}"])
    errors = capsys.readouterr().err
    assert status == 2 and message in errors and errors.startswith("error: ") and "Traceback" not in errors


@pytest.mark.parametrize("text, value", [("2h", 7200), ("1h30m", 5400), ("90s", 90), ("90", 90), (None, math.inf)])
def test_budgets(text, value):
    assert command.seconds(text) == value


# -------------------------------------------------------------------------------------------------------- statistics


def test_the_paired_t_test_against_hand_computed_values():
    # Differences 1, 2, 3, 4: t = sqrt(15), three degrees of freedom, for which p has a closed form.
    x = math.sqrt(5)
    expected = 1 - 2 / math.pi * (math.atan(x) + x / (1 + x * x))
    assert significance.paired_t_test([2, 4, 6, 8], [1, 2, 3, 4]) == pytest.approx(expected)
    # Differences 1 and 3: t = 2, one degree of freedom, the Cauchy distribution.
    assert significance.paired_t_test([1, 3], [0, 0]) == pytest.approx(1 - 2 / math.pi * math.atan(2))
    assert significance.paired_t_test([1, 2], [1, 2]) == 1.0
    assert significance.paired_t_test([1], [2]) is None
    assert significance.paired_t_test([], []) is None


def test_metrics_of_a_user():
    values = significance.per_user(np.array([1, 2, 0, 10], dtype=np.uint8))
    np.testing.assert_allclose(values["Recall@10"], [1, 1, 0, 1])
    np.testing.assert_allclose(values["MRR@10"], [1, 0.5, 0, 0.1])
    np.testing.assert_allclose(values["NDCG@10"], [1, 1 / math.log2(3), 0, 1 / math.log2(11)])


def made_up(ranks, candidates="a"):
    return Result({"candidates": candidates}, {"fixed": np.array(ranks, dtype=np.uint8)})


def test_users_are_paired_over_common_seeds_alone():
    ours = {1: made_up([1, 1, 2, 0]), 2: made_up([1, 2, 0, 0]), 3: made_up([9, 9, 9, 9])}
    theirs = {1: made_up([2, 0, 0, 0]), 2: made_up([2, 2, 2, 0])}
    p, same = significance.over_users(ours, theirs, "fixed", "MRR@10")
    expected = significance.paired_t_test([1, 0.75, 0.25, 0], [0.5, 0.25, 0.25, 0])
    assert p == pytest.approx(expected) and same
    assert significance.over_users(ours, {2: made_up([1, 1, 1, 1], "b")}, "fixed", "MRR@10")[1] is False
    assert significance.over_users(ours, {4: made_up([1, 1, 1, 1])}, "fixed", "MRR@10") == (None, False)
    assert significance.over_users(ours, theirs, "test", "MRR@10") == (None, False)


# ----------------------------------------------------------------------------------------------------------- reports


def write_made_up(place, one, score, generator=None, **changes):
    """A result with NDCG@10 `score`, and the other metrics and readings in proportion."""
    generator = generator or np.random.default_rng(one.seed)
    metrics = {"recall@10": 1.5 * score, "mrr@10": 0.8 * score, "ndcg@10": score}
    readings = {
        reading: {key: value * factor for key, value in metrics.items()}
        for reading, factor in zip(running.READINGS, (1.1, 1.0, 1.0, 1.3, 0.1))
    }
    seconds = {"training": 1.0, "validation": 0.1}
    training = {"epochs": 2, "best_epoch": 1, "evaluation_batches": 10}
    for key in ("seconds_per_epoch", "cpu_seconds_per_epoch", "seconds_per_evaluation", "cpu_seconds_per_evaluation"):
        training[key] = 2.0
    record = {
        "settings": json.loads(json.dumps(one.settings())),
        "readings": readings,
        "mode": "pop100",
        "candidates": "same",
        "parameters": 12345,
        "training": training,
        "peak_memory_MiB": 100.0,
        "savings": "none",
        "package": {"commit": "0123456789abcdef"},
        "device": {"type": "cpu", "name": "A processor", "threads": 2},
        "epochs": 2 * [{"seconds": seconds, "mixing": [[0.4, 0.6]]}],
        "mixing_at_start": [[0.5, 0.5]],
        **changes,
    }
    place.store.write(one, Result(record, {"fixed": generator.integers(0, 11, 50).astype(np.uint8)}))


def write_report(place, name, dataset="amazon-beauty", seeds=(666, 667), reading="fixed"):
    return report.write(name, dataset, dataset, {}, place, grids.variants(name), list(seeds), reading)


def beauty(model, seed=666, **changes):
    return cell("amazon-beauty", "amazon-beauty", model, seed, changes)


def test_the_report_of_table_2(place):
    for seed, score in ((666, 0.29), (667, 0.31)):
        write_made_up(place, beauty("GLINTRU", seed), score)
    write_made_up(place, beauty("SASRec"), 0.32)
    write_made_up(place, beauty("GRU4Rec"), 0.2)
    text = write_report(place, "table2")
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert "Rank of 3: 2 by Recall@10, 2 by MRR@10, 2 by NDCG@10" in text
    assert "0.3000 ± 0.0141 | 0.2964 | +1.2 %" in text  # of NDCG@10: ours, the paper's, the difference
    assert "-6.2 %" in lines["SASRec"] or "-6.2 %" in text  # 0.30 / 0.32
    assert "+5.9 %" in text  # the paper's margin over SASRec, 0.2964 / 0.2798
    assert "No results yet: BERT4Rec, LinRec, LightSANs, SMLP4Rec, Mamba4Rec." in text
    assert "over the three metrics and all models but GLINT-RU (GRU4Rec, SASRec)" in text
    for label in ("validation pop100", "test pop100, RecBole's draw", "test uni100, fixed draw", "test, full ranking"):
        assert label in text
    assert "A processor, 2 threads" in text and "0123456789" in text
    assert (place.store.folder / "table2-amazon-beauty.md").read_text() == text


def test_p_values_are_those_of_the_ranks(place):
    ours, theirs = np.random.default_rng(1), np.random.default_rng(2)
    write_made_up(place, beauty("GLINTRU"), 0.3, ours)
    write_made_up(place, beauty("SASRec"), 0.3, theirs)
    ranks = [place.store.read(beauty(model)).ranks["fixed"] for model in ("GLINTRU", "SASRec")]
    p = significance.paired_t_test(*(significance.per_user(one)["NDCG@10"] for one in ranks))
    line = next(line for line in write_report(place, "table2").splitlines() if line.startswith("| SASRec | +0.0 %"))
    assert line.endswith(f"| {p:.3f} | - |")
    write_made_up(place, beauty("SASRec"), 0.3, candidates="others")
    assert "unlike draws" in write_report(place, "table2")


def test_the_report_of_an_ablation_has_the_papers_rows(place):
    write_made_up(place, beauty("GLINTRU"), 0.2964)
    write_made_up(place, beauty("GLINTRU", use_gru=False), 0.2755)
    text = write_report(place, "table9")
    assert "| use_gru=False | 1 | 0.4133 | 0.4239 | -2.5 % |" in text and "default against the others" in text
    assert "| 0.2755 | 0.2755 | +0.0 % |" in text


def test_costs_stand_beside_the_papers(place):
    write_made_up(place, beauty("GLINTRU", n_layers=2), 0.29)
    text = write_report(place, "table7")
    assert "| paper: training s per epoch |" in text
    assert "| 2 | 12,345 | 2 (1) | 2.0 (2.0) | 2.00 (2.00) | 200.0 | 100 | none | 397.00 | 6.20 | 5.17 |" in text


def test_a_report_says_what_is_unfinished_and_what_is_left_out(place):
    write_made_up(place, beauty("GLINTRU"), 0.29)
    write_made_up(place, beauty("SASRec"), 0.29, settings={**beauty("SASRec").settings(), "hidden_size": 1})
    epoch = running.folder_of(beauty("LinRec"), place.scratch) / "epoch-0"
    epoch.mkdir(parents=True)
    (epoch / "records.json").write_text(json.dumps({"epochs": [{}], "best": {"ndcg@10": 0.21}}))
    text = write_report(place, "table2")
    assert "Unfinished: LinRec,seed=666, 1 of at most 200 epochs; best validation: ndcg@10 0.21." in text
    assert "Left out:" in text and "hidden_size=1, and hidden_size=64 now" in text


def test_a_report_of_nothing_says_so(place):
    assert "No results yet." in write_report(place, "table2")


def test_another_reading_is_reported_under_its_name(place):
    write_made_up(place, beauty("GLINTRU"), 0.3)
    text = write_report(place, "table2", reading="validation")
    assert "## Accuracy: validation pop100" in text and "0.3300 | 0.2964 | +11.3 %" in text


@pytest.mark.parametrize("name", ["table2", "table9", "figure2", "figure3", "figure5", "figure6"])
def test_pictures(name, place):
    pytest.importorskip("matplotlib")
    for variant in grids.variants(name, ["GLINTRU", "SASRec"]):
        for one in grids.cells(variant, "amazon-beauty", "amazon-beauty", [666]):
            write_made_up(place, one, 0.29)
    text = report.write(
        name, "amazon-beauty", "amazon-beauty", {}, place, grids.variants(name, ["GLINTRU", "SASRec"]), [666]
    )
    picture = place.store.folder / f"{name}-amazon-beauty.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and f"]({picture.name})" in text


def test_table_1_counts_as_recbole_does(workplace, data):
    from reproduction import statistics_of_data

    text = statistics_of_data.write({"few": "amazon-beauty"}, data, workplace / "results")
    assert "| few | 31 | 21 | 300 | 10.00 | 53.92 % |" in text
    assert (workplace / "results" / "table1.md").read_text() == text


def test_the_papers_efficiency_is_printed_in_full():
    text = report.efficiency_in_the_paper()
    assert "| GLINTRU | 278 | 3.8 | 2.62 |" in text and text.count("| GLINTRU |") == 3


def test_processes_are_told_all_that_a_cell_is(place, monkeypatch):
    told = {}
    monkeypatch.setattr(running, "run", lambda one, store, *rest, stop: told.update(cell=one, store=store, stop=stop))
    one = few("SASRec", epochs=7)
    words = place.command(one)[2:]
    assert command.main(words) == 0
    assert told["cell"] == one and told["store"].folder == place.store.folder
    assert told["stop"]() is (os.getppid() != os.getpid())  # this process is not its own parent
