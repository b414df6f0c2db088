"""Searches by Ray Tune: what a trial gets and reports, what counts; one search on a cluster, killed and resumed."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import process_runs
import pytest
import yaml
from searches import made_up_result, params_file, words

import recbole_glintru
from recbole_glintru.compat import tuning
from recbole_glintru.launch.errors import UserError
from recbole_glintru.search import by_ray
from recbole_glintru.search.space import Parameter

ROOT = Path(recbole_glintru.__file__).resolve().parent.parent


@pytest.mark.parametrize("gpus, expected", [(0, ""), (0.5, "3")])
def test_a_trial_of_rays(monkeypatch, tmp_path, gpus, expected):
    """It gets plain parameters and the GPU that Ray gave it; the result is its last report."""
    reports, seen = [], {}

    def run(fixed, parameters, report, scratch):
        seen.update(parameters)
        report(1, 0.1)
        report(2, 0.2)
        return made_up_result(0.3)

    monkeypatch.setattr(by_ray, "run_trial", run)
    monkeypatch.setattr(tuning, "report", lambda **metrics: reports.append(metrics))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    space = [Parameter("n_layers", "choice", (1, 2))]
    by_ray._trial({"n_layers": np.int64(2)}, None, space, gpus, str(tmp_path / "checkpoints"))
    assert seen == {"n_layers": 2, "gpu_id": expected} and type(seen["n_layers"]) is int
    assert reports[:2] == [{"epoch": 1, "best_valid_score": 0.1}, {"epoch": 2, "best_valid_score": 0.2}]
    assert reports[2:] == [{**made_up_result(0.3), "epoch": 3}]


def test_finished_stopped_failed_interrupted(tmp_path, capsys):
    """The trials that count are those that came to their test; Ray marks with `done` what it stopped itself."""

    def trial(status, layers, **result):
        return SimpleNamespace(status=status, config={"n_layers": layers}, last_result=result, error_file=None)

    space = [Parameter("n_layers", "choice", (1, 2, 3, 4))]
    trials = [
        trial("TERMINATED", np.int64(1), done=True, **made_up_result(0.5)),
        trial("TERMINATED", 2, done=True, best_valid_score=0.1),
        trial("TERMINATED", 3, done=False, best_valid_score=0.9),
        trial("ERROR", 4),
    ]
    ((parameters, result),) = by_ray._finished(trials, space, wanted=6)
    assert parameters == {"n_layers": 1} and result["best_valid_score"] == 0.5
    told = capsys.readouterr().err
    assert told == "6 trials: 1 finished, 1 stopped early, 1 failed, 3 interrupted or not started.\n"
    trials[3].error_file = tmp_path / "error.txt"
    trials[3].error_file.write_text("Traceback ...\nValueError: n_layers=4: must be less.\n")
    with pytest.raises(UserError, match="every trial failed; the first says: ValueError: n_layers=4: must be less."):
        by_ray._finished(trials[3:], space, wanted=6)


def test_a_search_to_resume_must_be_the_same(workplace):
    description = {"model": "GLINTRU", "settings": {"epochs": "2"}, "trials": 2}
    with pytest.raises(UserError, match="no search of run_hyper.py is there"):
        by_ray._check_same(workplace, description)
    (workplace / "search.json").write_text(json.dumps(description))
    by_ray._check_same(workplace, description)
    with pytest.raises(UserError, match="that is another search; these differ: settings, trials."):
        by_ray._check_same(workplace, {**description, "settings": {"epochs": "3"}, "trials": 4})


@pytest.mark.parametrize("kind, values", [("choice", (20, 50, 5)), ("quniform", (5, 48, 10)), ("uniform", (5, 49.5))])
def test_a_search_that_varies_the_epochs(kind, values):
    """ASHA stops a trial at the number of epochs that it is told: that of the longest one."""
    config = {"epochs": 3}
    space = [Parameter("n_layers", "choice", (1, 2)), Parameter("epochs", kind, values)]
    assert by_ray._most_epochs(config, space) == 50
    assert by_ray._most_epochs(config, space[:1]) == 3


def test_the_scheduler_knows_the_longest_trial(tmp_path):
    pytest.importorskip("ray.tune")
    scheduler = by_ray._scheduler({"epochs": 3, "valid_metric_bigger": True}, 50, 1, tmp_path)
    assert scheduler._max_t == 50


def test_a_cluster_that_is_not_there():
    """Told at once, and before Ray is asked: it would try for minutes."""
    port = process_runs.free_port()
    with pytest.raises(UserError, match=rf"--address=127.0.0.1:{port}: .*refused"):
        with by_ray._ray(SimpleNamespace(is_initialized=lambda: False), f"127.0.0.1:{port}"):
            pass


def test_the_start_up_line_sees_ray(tmp_path):
    """Ray 2.6.3, which a worker imports before RecBole, fails without `np.bool8`."""
    for folder, text in [("ray", ""), ("ray/tune", "import numpy; bool8 = numpy.bool8")]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(text)
    code = "import sys; sys.path[:0] = sys.argv[1:]; import recbole_glintru_startup as line; {}import ray.tune"

    def start(wait):
        command = [sys.executable, "-c", code.format(wait), str(tmp_path), str(ROOT), str(ROOT / "startup")]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", "RECBOLE_GLINTRU_AUTOLOAD": "0"}  # an installed line
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    if int(np.__version__.split(".")[0]) >= 2:  # NumPy 1 has its own
        assert "bool8" in start("").stderr
    done = start("line.wait_for_recbole(); ")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a Ray cluster with one CPU, whose processes know nothing of the package."""
    pytest.importorskip("ray.tune")
    address = f"127.0.0.1:{process_runs.free_port()}"
    options = ["--num-cpus=1", "--object-store-memory=80000000", "--include-dashboard=false", "--block"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={address.split(':')[1]}"]
    # Ray's own folder would tell other programs of this cluster; the paths of sockets are short.
    folder = tempfile.mkdtemp(prefix="ray_", dir="/tmp")
    options.append(f"--temp-dir={folder}")
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("w") as output:
        head = subprocess.Popen([*command, *options], env=environment(), stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "Ray runtime started" in log.read_text(), head, log)
        yield address
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def environment():
    quiet = {"PYTHONWARNINGS": "ignore", "RAY_USAGE_STATS_ENABLED": "0", "RECBOLE_GLINTRU_AUTOLOAD": "0"}
    return {**os.environ, **quiet, "OMP_NUM_THREADS": "1", "TUNE_GLOBAL_CHECKPOINT_S": "0"}


def wait_until(reached, process, log):
    deadline = time.monotonic() + 300
    while not reached():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)


@pytest.mark.slow
def test_a_search_by_ray_that_is_killed_and_resumed(cluster, tiny, workplace):
    """The first trial is finished when the search is killed; the second is compared with it, and stops early."""
    rates = params_file("learning_rate choice [0.03, 0.00000001]")
    arguments = ["--tool=ray", "--algo=exhaustive", f"--address={cluster}", rates, *words({**tiny, "epochs": 3})]
    command = [sys.executable, str(ROOT / "run_hyper.py"), *arguments]
    log = workplace / "log.txt"
    with log.open("w") as output:
        search = subprocess.Popen(command, env=environment(), stdout=output, stderr=subprocess.STDOUT)
    try:
        states = (workplace / "ray_log").glob
        wait_until(lambda: any("TERMINATED" in file.read_text() for file in states("*/experiment_state*")), search, log)
    finally:
        search.kill()
        search.wait()
    assert "stopped early" not in log.read_text() and not (workplace / "GLINTRU-ml-100k.result").exists()

    (folder,) = (workplace / "ray_log").iterdir()
    done = subprocess.run([*command, f"--resume={folder}"], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 trials: 1 finished, 1 stopped early, 0 failed.\n" in done.stderr
    reports = {}
    for file in folder.glob("*/result.json"):
        for result in map(json.loads, file.read_text().splitlines()):
            reports.setdefault(result["config"]["learning_rate"], []).append(result["epoch"])
    assert reports == {0.03: [1, 2, 3], 0.00000001: [1]}
    best = yaml.safe_load((workplace / "GLINTRU-ml-100k.yaml").read_text())
    assert (best["learning_rate"], best["epochs"], "gpu_id" in best) == (0.03, 3, False)
    results = (workplace / "GLINTRU-ml-100k.result").read_text()
    assert results.startswith("learning_rate:0.03\nValid result:\nrecall@10") and results.count("Test result") == 1
    assert not list(folder.rglob("*.pth")), "no checkpoint is left of any trial, stopped or killed"
