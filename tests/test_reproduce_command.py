"""`benchmarks/reproduce.py`: its command line, and the processes that it starts."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from reproduce_cells import BENCHMARKS, SMALL, few, make_place  # first: it makes the benchmarks importable
from reproduction import command, progress, running, scheduling
from reproduction.cells import Result


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path)


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
def test_a_killed_command_goes_on_where_it_was(place, tmp_path, capsys):
    words = [sys.executable, str(BENCHMARKS / "reproduce.py")]
    words += arguments(place, "figure2", "--epochs=100", "--stopping_step=100")
    words.remove("--epochs=3")
    folder = running.folder_of(few(epochs=100, stopping_step=100), place.scratch)
    one = few(epochs=100, stopping_step=100)

    def epochs():
        return len((progress.records(folder) or {"epochs": []})["epochs"])

    for kill in (signal.SIGTERM, signal.SIGKILL):
        before, deadline = epochs(), time.monotonic() + 300
        with open(tmp_path / "errors", "w") as errors:
            process = subprocess.Popen(words, stderr=errors, stdout=subprocess.DEVNULL, cwd=tmp_path)
        while epochs() < before + 2:
            assert time.monotonic() < deadline and process.poll() is None, (tmp_path / "errors").read_text()
            time.sleep(0.05)
        process.send_signal(kill)
        assert process.wait(60) == (130 if kill == signal.SIGTERM else -signal.SIGKILL)
    while _is_locked(folder) and time.monotonic() < deadline:  # the cell of a killed command ends itself
        time.sleep(0.1)
    assert place.store.read(one) is None and 4 <= epochs() < 100
    finished = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert finished.returncode == 0, finished.stderr
    record = place.store.read(one).record
    assert record["training"]["epochs"] == 100 and record["training"]["interruptions"] >= 2
    assert "GLINTRU | 1 |" in finished.stdout
    assert command.main([*words[2:], "--report"]) == 0
    assert capsys.readouterr().out == finished.stdout


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
        (["table2", "ml-100k"], "'ml-100k' is no option; a data set is named by --dataset"),
        (["table1", "--epochs=3"], "--epochs: table1 takes"),
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
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
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


def test_processes_are_told_all_that_a_cell_is(place, monkeypatch):
    told = {}
    monkeypatch.setattr(running, "run", lambda one, store, *rest, stop: told.update(cell=one, store=store, stop=stop))
    one = few("SASRec", epochs=7)
    words = place.command(one)[2:]
    assert command.main(words) == 0
    assert told["cell"] == one and told["store"].folder == place.store.folder
    assert told["stop"]() is (os.getppid() != os.getpid())  # this process is not its own parent
