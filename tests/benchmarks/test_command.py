"""`benchmarks/reproduce.py`: its command line."""

import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from reproduce_cells import BENCHMARKS, SMALL, few, make_place  # first: it makes the benchmarks importable
from reproduce_reports import write_made_up
from reproduction import arguments, command, freshness, parent, progress, running, scheduling


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path)


def words_for(place, table="table2", *more):
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
    words += words_for(place, "figure2", "--epochs=40", "--stopping_step=40")
    words.remove("--epochs=3")
    folder = running.folder_of(few(epochs=40, stopping_step=40), place.scratch)
    one = few(epochs=40, stopping_step=40)

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
    assert place.store.read(one) is None and 4 <= epochs() < 40
    finished = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert finished.returncode == 0, finished.stderr
    record = place.store.read(one).record
    assert record["training"]["epochs"] == 40 and record["training"]["interruptions"] >= 2
    assert "GLINTRU | 1 |" in finished.stdout
    assert command.main([*words[2:], "--report"]) == 0
    assert capsys.readouterr().out == finished.stdout


def _is_locked(folder):
    try:
        with progress.alone(folder):
            return False
    except progress.Busy:
        return True


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "more, message",
    [
        (["table5"], "'table5' is not a table"),
        ([], "which table?"),
        (["table2", "ml-100k"], "'ml-100k' is not an option; name a data set with --dataset"),
        (["table1", "--epochs=3"], "--epochs: table1 accepts"),
        (["table2", "--dataset=nothing"], "--dataset=nothing: it has no protocol"),
        (["table2", "--protocol=nothing"], "--protocol=nothing: must be one of"),
        (["table2", "--models=GLINTRUE"], "Did you mean GLINTRU"),
        (["table2", "--models="], "--models: names no model"),
        (["table2", "--values=3"], "--values=3: table2 does not vary a number"),
        (["table9", "--models=SASRec"], "--models=SASRec: table9 does not compare models that can be chosen"),
        (["table9", "--SASRec.n_layers=1"], "--SASRec.n_layers: table9 does not have SASRec"),
        (["figure5", "--models=GLINTRU", "--SASRec.n_layers=1"], "--SASRec.n_layers: figure5 does not have SASRec"),
        (["figure2", "--use_gru=False"], "--use_gru=False: there are no mixing weights without both experts"),
        (
            ["figure2", "--report", "--GLINTRU.use_linear_attention=False"],
            "--use_linear_attention=False: there are no mixing weights",
        ),
        (["table2", "--GLINTRU.seed=3"], "--GLINTRU.seed=3: the seeds are those of all models"),
        (["figure3", "--values=3,x"], "--values=3,x: must be positive whole numbers"),
        (["table2", "--seeds=0"], "--seeds=0: must be at least 1"),
        (["table2", "--jobs=0"], "--jobs=0: must be at least 1"),
        (["table2", "--jobs=two"], "argument --jobs: invalid int value: 'two'"),
        (["table2", "--budget=soon"], "--budget=soon: must be a time"),
        (["table2", "--reading=best"], "--reading=best: must be one of validation, "),
        (["table2", "--seed=x"], "--seed=x: must be a whole number"),
        (["table2", "--dataset=ml-100k", "--hiden_size=8"], "--hiden_size=8: did you mean hidden_size"),
        (["table2", "--dataset=ml-100k", "--GLINTRU.n_layer=8"], "--GLINTRU.n_layer=8: did you mean"),
        (["table2", "--dataset=ml-100k", "--GLINTRUE.n_layers=8"], "Did you mean GLINTRU"),
        (
            ["table2", "--dataset=amazon-beauty", "--hiden_size=8"],
            "--hiden_size=8: did you mean hidden_size",
        ),  # no data
        (["table2", "--report", "--hiden_size=8"], "--hiden_size=8: did you mean hidden_size"),
        (["table2", "--dataset=ml-100k", "--eval_step=2"], "eval_step=2: must be 1; a cell is measured"),
        (["table2", "--dataset=ml-100k", "--SASRec.eval_step=0"], "eval_step=0: must be 1; a cell is measured"),
        (["table2", "--report", "--eval_step=2"], "eval_step=2: must be 1; a cell is measured"),
        (["table2", "--dataset=ml-100k", "--epochs=0"], "epochs=0: must be at least 1"),
        (
            [
                "table2",
                "--dataset=ml-100k",
                "--eval_args={'split': {'LS': 'test_only'}, 'order': 'TO', 'mode': 'uni9'}",
            ],
            "split={'LS': 'test_only'}: must have a part for validation",
        ),
        (["table2", "--dataset=ml-100k", "--gpu_id=1"], "--gpu_id=1: not a cell's setting; set CUDA_VISIBLE_DEVICES"),
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


def test_a_mistake_removes_no_result(place, capsys):
    one = few()
    write_made_up(place, one, 0.3, settings={**one.settings(), "epochs": 99})  # of a cell that is another one now
    words = [word for word in words_for(place, "figure2", "--replace") if not word.startswith("--data_path")]
    for mistake in ("--data_path=nowhere", "--hiden_size=3"):
        assert command.main([*words, mistake]) == 2 and place.store.file(one).is_file()
        assert mistake.partition("=")[2] in capsys.readouterr().err


def test_a_training_of_other_settings_is_a_mistake_too(place, capsys, monkeypatch):
    monkeypatch.setattr(scheduling, "run", lambda *_: pytest.fail("work was started"))
    folder = freshness.folder_of(few(), place.scratch)
    (folder / "epoch-0").mkdir(parents=True)
    assert command.main(words_for(place, "figure2")) == 2
    assert capsys.readouterr().err.startswith(f"error: {folder} has epochs, but no settings.json")


@pytest.mark.parametrize("text, value", [("2h", 7200), ("1h30m", 5400), ("90s", 90), ("90", 90), (None, math.inf)])
def test_budgets(text, value):
    assert arguments.seconds(text) == value


def told_by(words, monkeypatch):
    """What the process of a cell, started with these words, is to do."""
    told = {}

    def run(one, store, *folders, stop, partial):
        told.update(cell=one, store=store, stop=stop, partial=partial)

    monkeypatch.setattr(running, "run", run)
    monkeypatch.setattr(parent, "end_with", lambda number: told.update(parent=number))
    assert command.main(words) == 0
    return told


def test_processes_are_told_all_that_a_cell_is(place, monkeypatch):
    one = few("SASRec", epochs=7)
    told = told_by(place.command(one)[2:], monkeypatch)
    assert told["cell"] == one and told["store"].folder == place.store.folder and told["partial"] is False
    assert told["parent"] == os.getpid() and told["stop"]()  # this process is not its own parent
    told = told_by([*place.command(one, partial=True)[2:], f"--parent={os.getppid()}"], monkeypatch)
    assert told["partial"] is True and not told["stop"]()


@pytest.mark.parametrize(
    "more, done",
    [
        ([], ["check", "run"]),
        (["--report"], []),
        (["--partial"], ["check", "run", "partial"]),
        (["--report", "--partial"], ["check", "partial"]),
        (["--retest"], ["check", "retest"]),
        (["--retest", "--partial"], ["check", "retest", "partial"]),
        (["--replace"], ["replace", "run"]),
        (["--replace", "--retest"], ["check", "retest"]),  # a result is never removed without a new training
    ],
    ids=str,
)
def test_what_is_run_before_the_report(more, done, place, monkeypatch, capsys):
    steps = []

    def test(cells, place, partial):
        steps.append("partial" if partial else "retest")
        return ["a test"]

    monkeypatch.setattr(freshness, "check", lambda *given: steps.append("replace" if given[3] else "check"))
    monkeypatch.setattr(scheduling, "run", lambda *_: steps.append("run") or [])
    monkeypatch.setattr(scheduling, "test", test)
    status = command.main(words_for(place, "figure2", *more))
    output = capsys.readouterr()
    assert steps == done and output.out.startswith("# Figure 2")
    left = sum(step in ("partial", "retest") for step in done)
    assert status == (left > 0) and output.err.count("not done: a test") == left


def test_the_help_names_every_table_reading_and_option(capsys):
    import reproduce

    assert command.main(["--help"], reproduce.__doc__) == 0
    text = capsys.readouterr().out
    options = {word for action in arguments.parser()._actions for word in action.option_strings if word[1] == "-"}
    internal = {"--help", "--parent"}
    for name in {*arguments.TABLES, *running.READINGS, *options, "variations: what the published code"} - internal:
        assert re.search(rf"(?<!\w){name}\b", text), name
