"""`benchmarks/reproduce.py`: cells side by side, each in a process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from reproduce_cells import BENCHMARKS, few, make_place  # first: it makes the benchmarks importable
from reproduction import running, scheduling
from reproduction.cells import Result
from reproduction.estimate import Estimate


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path)


def fake_processes(place, monkeypatch, *statuses):
    """Cells that end at once, one after the other with these statuses, the rest with the last; 0 writes a result."""
    started, statuses = [], list(statuses)

    class Process:
        def __init__(self, one, partial):
            started.append((one, "partial") if partial else one)
            self.status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
            if self.status == 0:
                write_result(place, one, partial)

        def poll(self):
            return self.status

    monkeypatch.setattr(scheduling, "_start", lambda one, place, partial=False: Process(one, partial))
    return started


def write_result(place, one, partial=False, epochs=0):
    settings = json.loads(json.dumps(one.settings()))
    record = {"settings": settings, "training": {"epochs": epochs}, **({"partial": True} if partial else {})}
    place.store.write(one, Result(record))


def write_epochs(place, one, number, finished=False):
    """What a training leaves behind after as many epochs."""
    epoch = running.folder_of(one, place.scratch) / f"epoch-{number - 1}"
    epoch.mkdir(parents=True)
    seconds = {"training": 2.0, "validation": 1.0}
    records = {"epochs": number * [{"seconds": seconds}], "finished": finished}
    (epoch / "records.json").write_text(json.dumps(records))


def test_what_is_done_is_not_run_again(place, monkeypatch):
    started = fake_processes(place, monkeypatch, 0)
    cells = [few(), few("SASRec"), few()]
    assert scheduling.run(cells, place, poll=0) == [] and started == cells[:2]
    assert scheduling.run(cells, place, poll=0) == [] and started == cells[:2]


def test_what_another_command_does_meanwhile_is_not_run_again(place, monkeypatch):
    started = fake_processes(place, monkeypatch, 0)
    start = scheduling._start

    def start_while_another_does_all(one, *rest):
        write_result(place, few("SASRec"))
        return start(one, *rest)

    monkeypatch.setattr(scheduling, "_start", start_while_another_does_all)
    assert scheduling.run([few(), few("SASRec")], place, poll=0) == [] and started == [few()]


def test_the_budget_starts_no_more_cells(place, monkeypatch):
    started = fake_processes(place, monkeypatch, 0)
    left = scheduling.run([few()], replace(place, budget=0.0), poll=0)
    assert started == [] and left == [f"few {few().name}: not started within the budget"]


@pytest.mark.parametrize("status", [1, scheduling.MISTAKE])
def test_a_failed_cell_keeps_none_of_the_others_from_running(status, place, monkeypatch):
    started = fake_processes(place, monkeypatch, status, 0)
    folder = running.folder_of(few(), place.scratch)
    folder.mkdir(parents=True)
    (folder / scheduling.LOG).write_text("Epoch 1\nerror: too bad\n")
    left = scheduling.run([few(), few("SASRec")], place, poll=0)
    assert started == [few(), few("SASRec")] and place.store.read(few("SASRec"))
    assert left == [f"few {few().name}: failed: too bad ({folder / scheduling.LOG})"]


def test_a_cell_without_a_result_is_left_however_its_process_ended(place, monkeypatch):
    """What it wrote may be the result of a training that has not ended."""
    fake_processes(place, monkeypatch, 0)
    start, log = scheduling._start, running.folder_of(few(), place.scratch) / scheduling.LOG

    def start_what_leaves_a_partial_result(one, *rest):
        process = start(one, *rest)
        place.store.remove(one)
        write_result(place, one, partial=True)
        return process

    monkeypatch.setattr(scheduling, "_start", start_what_leaves_a_partial_result)
    assert scheduling.run([few()], place, poll=0) == [f"few {few().name}: ended without a result ({log})"]


def test_a_cell_that_another_process_is_at_is_tried_again_after_the_others(place, monkeypatch):
    started = fake_processes(place, monkeypatch, scheduling.BUSY, 0)
    assert scheduling.run([few(), few("SASRec")], place, poll=0.01) == []
    assert started == [few(), few("SASRec"), few()]


def test_a_cell_that_another_process_stays_at_is_given_up(place, monkeypatch):
    started = fake_processes(place, monkeypatch, scheduling.BUSY)
    left = scheduling.run([few()], place, poll=0.01)
    assert left == [f"few {few().name}: another process is running it"] and 2 <= len(started) <= 4
    started.clear()
    left = scheduling.run([few()], replace(place, budget=0.1), poll=0.01)
    assert left == [f"few {few().name}: another process is running it"] and started == [few()]


def test_no_cell_is_given_up_while_others_run(place, monkeypatch):
    """Nor at the first try after the last of the others has ended."""
    started = fake_processes(place, monkeypatch, 0, *7 * [scheduling.BUSY], 0)
    start, deadline = scheduling._start, time.monotonic() + 10

    def start_and_run_the_first_for_long(one, *rest):
        process = start(one, *rest)
        if one == few():
            process.poll = lambda: 0 if started.count(few("SASRec")) == 7 or time.monotonic() > deadline else None
        return process

    monkeypatch.setattr(scheduling, "_start", start_and_run_the_first_for_long)
    assert scheduling.run([few(), few("SASRec")], replace(place, jobs=2), poll=0.005) == []


def test_a_process_that_does_not_end_is_killed(place, monkeypatch):
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(20)"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    process.stdout.readline()
    monkeypatch.setattr(scheduling, "PATIENCE", 0.1)
    scheduling._end([process])
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL


# ------------------------------------------------------------------------------------------------ tests and no training


def test_trainings_that_go_on_are_tested_once_after_each_epoch(place, monkeypatch):
    done, begun, idle = few(), few("SASRec"), few("GRU4Rec")
    write_result(place, done)
    write_epochs(place, done, 3, finished=True)
    write_epochs(place, begun, 2)
    started = fake_processes(place, monkeypatch, scheduling.BUSY, 0)
    cells, place = [done, begun, idle], replace(place, budget=0.0)  # it is for trainings
    left = scheduling.test(cells, place, partial=True, poll=0)
    assert left == [f"few {begun.name}: another process is running it"] and started == [(begun, "partial")]
    assert scheduling.test(cells, place, partial=True, poll=0) == [] and started == 2 * [(begun, "partial")]
    for epochs, tests in ((2, 2), (1, 3)):
        write_result(place, begun, partial=True, epochs=epochs)
        assert scheduling.test(cells, place, partial=True, poll=0) == [] and len(started) == tests
    write_result(place, begun, partial=True, epochs=2)
    file = place.store.file(begun, partial=True)
    file.write_text(file.read_text().replace('"hidden_size": 8', '"hidden_size": 16'))
    assert scheduling.test(cells, place, partial=True, poll=0) == [] and len(started) == 4


def test_results_are_tested_again_where_the_training_is_still_there(place, monkeypatch):
    there, gone, unfinished, none = few(), few("SASRec"), few("GRU4Rec"), few("NARM")
    for one in (there, gone, unfinished):
        write_result(place, one)
    for one in (there, unfinished, none):
        write_epochs(place, one, 3, finished=one is not unfinished)
    started = fake_processes(place, monkeypatch, 0)
    left = scheduling.test([there, gone, unfinished, none], place, partial=False, poll=0)
    assert started == [there]
    assert [line.partition(":")[0] for line in left] == [f"few {gone.name}", f"few {unfinished.name}"]
    assert "its last epoch is not in" in left[0] and place.store.read(gone) is not None


# ------------------------------------------------------------------------------------------------------- the estimate


def test_the_estimate_takes_what_is_known(place):
    cells = [few(epochs=10), few(epochs=20), few("SASRec", epochs=10)]
    assert Estimate(cells, place.scratch, jobs=1).seconds() is None
    write_epochs(place, cells[0], 4)
    estimate = Estimate(cells, place.scratch, jobs=1)
    assert estimate.epochs() == 40 and estimate.done(cells) == 4
    assert estimate.seconds() == 3 * (6 + 20 + 10)
    estimate.over(cells[0])
    assert estimate.done(cells[1:]) == 10 and estimate.seconds() == 3 * (20 + 10)


def test_no_more_cells_run_side_by_side_than_there_are(place):
    cells = [few(epochs=10), few(epochs=20), few("SASRec", epochs=10)]
    write_epochs(place, cells[0], 4)
    estimate = Estimate(cells, place.scratch, jobs=2)
    assert estimate.seconds() == 3 * (6 + 20 + 10) / 2
    for cell in cells[:2]:
        estimate.over(cell)
    assert estimate.seconds() == 3 * 10
    estimate.over(cells[2])
    assert estimate.seconds() == 0


# ----------------------------------------------------------------------------------------------- the end of the parent

CHILD = """
import os, sys, time
sys.path.append({benchmarks!r})
from reproduction import parent
try:
    parent.end_with({expected})
    print("ready", os.getpid(), flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
PARENT = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which the tests may run, hands down that it is ignored
child = {child!r}.replace("PARENT", str(os.getpid()))
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGHUP])
def test_a_cell_ends_with_the_command_that_started_it(ending):
    child = CHILD.format(benchmarks=str(BENCHMARKS), expected="PARENT")
    process = subprocess.Popen([sys.executable, "-c", PARENT.format(child=child)], stdout=subprocess.PIPE, text=True)
    ready, number = process.stdout.readline().split()
    process.send_signal(ending)
    watch = threading.Timer(20, os.kill, (int(number), signal.SIGKILL))
    watch.start()
    assert ready == "ready" and process.stdout.readline() == "interrupted\n"
    watch.cancel()
    process.wait()
    process.stdout.close()


def test_a_cell_ends_whose_parent_has_ended_before():
    child = CHILD.format(benchmarks=str(BENCHMARKS), expected=1 if os.getpid() != 1 else 2)
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, timeout=20)
    assert done.stdout == "interrupted\n", done.stderr
