"""The searches: what they refuse, what varies, how trials are merged and told of; one small search with each tool."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import webbrowser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import process_runs
import pytest
import torch
import yaml
from fakes import ItemTable, model_settings

from recbole_glintru import compat_tuning, launcher, plugin, ray_search, search_space, search_trial, tuning
from recbole_glintru.launcher import UserError
from recbole_glintru.search_outcome import Outcome
from recbole_glintru.search_space import Parameter

ROOT = Path(__file__).resolve().parent.parent
SPACES = sorted((ROOT / "properties" / "hyper").glob("*.hyper"))
KINDS = """\
# what follows is of every kind

n_layers choice [1, 2, 4]
layers   choice [[64, 32], [8]]
hidden_dropout_prob uniform 0.1,0.5
kernel_size quniform 1, 9, 2
train_r quniform 0.5,1,0.25
learning_rate loguniform -8,-4
"""


def words(settings):
    return [f"--{key}={value}" for key, value in settings.items()]


def made_up_result(score, bigger=True):
    metrics = {"recall@10": score}
    result = {"model": "GLINTRU", "best_valid_score": score, "valid_score_bigger": bigger}
    return {**result, "best_valid_result": metrics, "test_result": {"recall@10": score / 2}}


@pytest.fixture
def space(workplace):
    """Write a params file."""

    def write(text):
        Path("space.hyper").write_text(text)
        return "--params_file=space.hyper"

    return write


@pytest.fixture
def trials(monkeypatch):
    """In the place of training, the parameters of each trial are recorded; its score is its learning rate."""
    seen = []

    def run(fixed, parameters, report=None, scratch=None):
        seen.append(parameters)
        return made_up_result(parameters["learning_rate"])

    monkeypatch.setattr(search_trial, "run", run)
    return seen


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--tool=optuna"], "--tool=optuna: must be one of hyperopt, ray."),
        (["--algo=grid"], "--algo=grid: with --tool=hyperopt it must be one of exhaustive, random, bayes."),
        (["--tool=ray", "--algo=bayes"], "--algo=bayes: with --tool=ray it must be one of random, exhaustive."),
        (["--address=auto"], "--address=auto: is for --tool=ray, and the tool is hyperopt."),
        (["--tool=Ray", "--early_stop=3"], "--early_stop=3: is for --tool=hyperopt, and the tool is ray."),
        (["--max_evals=0"], "--max_evals=0: must be at least 1."),
        (["--max_evals=few"], "argument --max_evals: invalid int value: 'few'"),
        (["--tool=ray", "--gpus_per_trial=1.5"], "--gpus_per_trial=1.5: must be a whole number, or a fraction"),
        (["--tool=ray", "--gpus_per_trial=-1"], "--gpus_per_trial=-1: must be a whole number, or a fraction"),
        (["--tool=ray", "--cpus_per_trial=nan"], "--cpus_per_trial=nan: must be"),
        (["--tool=ray", "--cpus_per_trial=0"], "--cpus_per_trial=0: must be"),
        (["--tool=ray", "--algo=exhaustive", "--num_samples=3"], "--num_samples=3: --algo=exhaustive tries every"),
        (["--nproc=2"], "--nproc: a trial is one process"),
        (["--learning_rate"], "--learning_rate has no value"),
        (["GLINTRU"], "'GLINTRU' is no setting"),
        (["--model=GLINTRUE"], "There is no model named 'GLINTRUE'. Did you mean GLINTRU"),
        (["--params_file=none.hyper"], "--params_file=none.hyper: there is no such file."),
        (["--model=SASRec"], "SASRec comes without a search space: name one with --params_file"),
        (["--kernel_size=5"], "--kernel_size=5: the search varies it"),
        (["--eval_step=0"], "eval_step=0: a search needs validation scores."),
        (["--tool=ray", "--gpu_id=1"], "--gpu_id=1: Ray hands out the GPUs, see --gpus_per_trial."),
        (["--output_file=nowhere/a.result"], "--output_file=nowhere/a.result: nowhere is no folder"),
        (["--display_file=."], "--display_file=.: . is no folder, or . is one."),
        (["--output_file=a.yaml"], "--output_file=a.yaml, --best_file=a.yaml: must be different files."),
        (["--data_path=nowhere", "--dataset=own"], "no data for 'own': looked for"),
        (["--loss_type=MSE"], "loss_type='MSE': GLINTRU can be trained with"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(workplace, trials, capsys, arguments, message):
    assert tuning.main(arguments) == 2
    error = capsys.readouterr().err
    assert f"error: {message}" in error and "Traceback" not in error
    assert not trials and not list(workplace.glob("*.result")) and not (workplace / "ray_log").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "space.hyper: no parameters (lines of the form `name kind values`)."),
        ("\nn_layers", "line 2: n_layers : the kind must be one of choice, uniform, quniform, loguniform."),
        ("n_layers range 1,2", "line 1: n_layers range: the kind must be one of"),
        ("n_layers choice 2", "n_layers choice 2: must be a list"),
        ("n_layers choice []", "n_layers choice []: must be a list"),
        ("n_layers choice __import__('os').getcwd()", "must be a list of numbers, strings or lists."),
        ("n_layers uniform 1", "n_layers uniform 1: must be low,high with low below high."),
        ("n_layers uniform 2,1", "n_layers uniform 2,1: must be low,high with low below high."),
        ("n_layers quniform 1,2", "n_layers quniform 1,2: must be low,high,step with low below high."),
        ("n_layers quniform 1,9,0", "n_layers quniform 1,9,0: the step must be above 0."),
        ("n_layers choice [1]\nn_layers choice [2]", "line 2: n_layers is there twice."),
        ("n_layer choice [1, 2]", "n_layer, which the search varies, is no setting of RecBole or GLINTRU"),
        ("learning_rate loguniform -8,-4", "learning_rate loguniform: --algo=exhaustive tries every choice"),
    ],
)
def test_mistakes_in_params_files(space, trials, capsys, text, message):
    assert tuning.main([space(text)]) == 2
    assert message in capsys.readouterr().err and not trials


@pytest.mark.parametrize("tool", ["hyperopt", "ray"])
def test_a_tool_that_is_not_installed(workplace, monkeypatch, capsys, tool):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == tool else find(name, *rest))
    assert tuning.main([f"--tool={tool}"]) == 2
    assert f"--tool={tool}: {tool} is not installed; the extra `tune`" in capsys.readouterr().err


def test_help(capsys):
    assert tuning.main(["--help"]) == 0
    text = capsys.readouterr().out
    options, _ = tuning.parse([])
    for name in vars(options).keys() - {"help"}:
        assert f"--{name}" in text


# ------------------------------------------------------------------------------------------------- what is varied


def test_every_kind_is_read(space):
    space(KINDS)
    assert search_space.read(Path("space.hyper")) == [
        Parameter("n_layers", "choice", (1, 2, 4)),
        Parameter("layers", "choice", ([64, 32], [8])),
        Parameter("hidden_dropout_prob", "uniform", (0.1, 0.5)),
        Parameter("kernel_size", "quniform", (1, 9, 2)),
        Parameter("train_r", "quniform", (0.5, 1, 0.25)),
        Parameter("learning_rate", "loguniform", (-8, -4)),
    ]


def check_drawn(parameters, drawn):
    value = {parameter.name: parameter.plain(drawn[parameter.name]) for parameter in parameters}
    assert yaml.safe_load(yaml.safe_dump(value)) == value  # no NumPy, no tuples
    assert value["n_layers"] in [1, 2, 4] and value["layers"] in [[64, 32], [8]]
    assert 0.1 <= value["hidden_dropout_prob"] <= 0.5 and np.exp(-8) <= value["learning_rate"] <= np.exp(-4)
    assert isinstance(value["kernel_size"], int) and value["kernel_size"] in [0, 2, 4, 6, 8, 10]  # as hyperopt has it
    assert value["train_r"] in [0.5, 0.75, 1.0]


def test_what_hyperopt_draws(space):
    hyperopt = pytest.importorskip("hyperopt")
    from recbole.trainer import HyperTuning

    space(KINDS)
    parameters = search_space.read(Path("space.hyper"))
    drawn_from = HyperTuning(None, params_dict=search_space.for_hyper_tuning(parameters), algo="random").space
    for seed in range(20):
        check_drawn(parameters, hyperopt.pyll.stochastic.sample(drawn_from, np.random.default_rng(seed)))


def test_what_ray_draws(space):
    pytest.importorskip("ray.tune")
    space(KINDS)
    parameters = search_space.read(Path("space.hyper"))
    drawn_from = {parameter.name: parameter.for_ray(grid=False) for parameter in parameters}
    for _ in range(20):
        check_drawn(parameters, {name: domain.sample() for name, domain in drawn_from.items()})
    assert parameters[0].for_ray(grid=True) == {"grid_search": [1, 2, 4]}


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_the_packages_own_spaces(workplace, file):
    """They name settings of their model, and a model can be made with every choice; the learning rate is RecBole's."""
    config = launcher.merged_settings(file.stem, "ml-100k", [])
    own = yaml.safe_load(plugin.default_settings_file(config.model_class).read_text())
    for parameter in search_space.read(file):
        assert parameter.name in own or parameter.name in ("learning_rate", "weight_decay")
        assert parameter.kind == "choice", "exhaustive is the default"
        for value in parameter.values:
            if parameter.name in own:
                features = {"class": torch.arange(30) % 5}
                config.model_class(model_settings(file.stem, **{parameter.name: value}), ItemTable(30, features))
            else:
                assert 0 <= value <= 0.1


def test_every_model_has_a_space():
    assert {file.stem for file in SPACES} == {name for name in plugin.announced_models()}


# -------------------------------------------------------------------------------------------- a trial's settings


def test_parameters_lie_between_the_files_and_the_command_line(workplace):
    files = ["learning_rate: 0.1\nkernel_size: 5\nn_layers: 2\ndata_path: mine", "kernel_size: 7\n"]
    folder = workplace / "here"
    folder.mkdir()
    fixed = search_trial.Fixed("GLINTRU", "ml-100k", files, {"n_layers": "3"}, str(folder))
    config = fixed.merged({"learning_rate": 0.5, "n_layers": 4})
    assert (config["learning_rate"], config["kernel_size"], config["n_layers"]) == (0.5, 7, 3)
    assert Path.cwd() == workplace and sys.argv == ["workplace"]
    with fixed.in_place():
        assert Path.cwd() == folder  # where relative paths begin
    folder.rmdir()
    with pytest.raises(FileNotFoundError, match="here, where the search was started, is not on"):
        fixed.merged({})


@pytest.mark.parametrize("bigger, expected", [(True, [0.2, 0.5, 0.5]), (False, [0.2, 0.2, 0.1])])
def test_reports_are_the_best_so_far(bigger, expected):
    """The last epoch is not reported: what comes of it is the result."""
    seen = []
    config = {"valid_metric_bigger": bigger, "epochs": 4}
    callback = search_trial._best_so_far(lambda epoch, score: seen.append((epoch, score)), config)
    for epoch, score in enumerate([0.2, 0.5, 0.1, 0.9]):
        callback(epoch, score)
    assert seen == list(zip([1, 2, 3], expected))


@pytest.mark.parametrize("gpus, expected", [(0, ""), (0.5, "3")])
def test_a_trial_of_rays(monkeypatch, gpus, expected):
    """It gets plain parameters and the GPU that Ray gave it; the result is its last report."""
    reports, seen = [], {}

    def run(fixed, parameters, report, scratch):
        seen.update(parameters)
        report(1, 0.1)
        report(2, 0.2)
        return made_up_result(0.3)

    monkeypatch.setattr(search_trial, "run", run)
    monkeypatch.setattr(compat_tuning, "report", lambda **metrics: reports.append(metrics))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    ray_search._trial({"n_layers": np.int64(2)}, None, [Parameter("n_layers", "choice", (1, 2))], gpus)
    assert seen == {"n_layers": 2, "gpu_id": expected} and type(seen["n_layers"]) is int
    assert reports[:2] == [{"epoch": 1, "best_valid_score": 0.1}, {"epoch": 2, "best_valid_score": 0.2}]
    assert reports[2:] == [{**made_up_result(0.3), "epoch": 3}]


# ------------------------------------------------------------------------------------------------ what was found


@pytest.mark.parametrize("bigger, best", [(True, 2), (False, 0)])
def test_the_best_trial_as_a_configuration_file(workplace, bigger, best):
    """The first of equals; as a file it makes the configuration of the trial, whatever lies below it."""
    files = ["n_heads: 2\neval_args:\n  mode: {valid: pop100, test: uni20}\n"]
    fixed = search_trial.Fixed("GLINTRU", "ml-100k", files, {"hidden_size": "32"}, str(workplace))
    outcome = Outcome(fixed, bigger, Path("a.result"), Path("a.yaml"))
    scores = [0.1, 0.1, 0.7, 0.7]
    for layers, score in enumerate(scores, start=1):
        outcome.add({"n_layers": layers, "learning_rate": 1e-5}, made_up_result(score, bigger))
    assert outcome.best[0]["n_layers"] == best + 1
    text = Path("a.result").read_text()
    assert [f"n_layers:{layers}, learning_rate:1e-05\n" in text for layers in range(1, 6)] == [True] * 4 + [False]
    Path("below.yaml").write_text("n_layers: 9\nn_heads: 8\nhidden_size: 16\n")
    config = launcher.merged_settings("GLINTRU", "ml-100k", ["below.yaml", "a.yaml"])
    trial = fixed.merged(outcome.best[0])
    assert config.final_config_dict == trial.final_config_dict
    assert (config["n_layers"], config["n_heads"], config["hidden_size"]) == (best + 1, 2, 32)


# --------------------------------------------------------------------------------------------- hyperopt's search

RATES = "learning_rate choice [0.1, 0.2, 0.3]\nn_layers choice [1, 2]\n"


def test_exhaustive_search_tries_everything_once(space, trials):
    outcome = tuning.run(*tuning.parse([space(RATES), "--early_stop=100"]))
    assert sorted(tuple(trial.values()) for trial in trials) == [(a, b) for a in (0.1, 0.2, 0.3) for b in (1, 2)]
    assert outcome.best[0]["learning_rate"] == 0.3 and len(outcome.trials) == 6
    assert yaml.safe_load(Path("GLINTRU-ml-100k.yaml").read_text())["learning_rate"] == 0.3


@pytest.mark.parametrize("algo", ["exhaustive", "random", "bayes"])
def test_the_number_of_trials(space, trials, algo):
    tuning.run(*tuning.parse([space(RATES), f"--algo={algo}", "--max_evals=4"]))
    first, _ = trials[:], trials.clear()
    assert len(first) == 4
    tuning.run(*tuning.parse([space(RATES), f"--algo={algo}", "--max_evals=4", "--seed=666"]))  # the protocol's
    assert trials == first
    trials.clear()
    tuning.run(*tuning.parse([space(RATES), f"--algo={algo}", "--max_evals=4", "--seed=1"]))
    assert trials != first


def test_trials_without_a_better_one_end_the_search(space, trials):
    tuning.run(*tuning.parse([space("learning_rate choice [0.1]\nn_layers choice [1, 2, 3, 4, 5]"), "--early_stop=2"]))
    assert 2 <= len(trials) <= 3  # versions of hyperopt count the first trial, or do not


def test_a_failing_trial_ends_alone(space, monkeypatch, capsys):
    def run(fixed, parameters):
        if parameters["n_layers"] == 2:
            raise RuntimeError("out of memory")
        return made_up_result(0.5)

    monkeypatch.setattr(search_trial, "run", run)
    assert tuning.main([space("n_layers choice [1, 2, 3]")]) == 0
    assert "Trial failed: n_layers:2: RuntimeError: out of memory" in capsys.readouterr().err
    assert "n_layers:2" not in Path("GLINTRU-ml-100k.result").read_text()


def test_three_failing_trials_end_the_search(space, monkeypatch, capsys):
    def run(fixed, parameters):
        seen.append(parameters)
        raise RuntimeError("the data is broken")

    seen = []
    monkeypatch.setattr(search_trial, "run", run)
    assert tuning.main([space("n_layers choice [1, 2, 3, 4, 5]")]) == 2
    assert "the first 3 trials failed, the last with n_layers:" in capsys.readouterr().err and len(seen) == 3
    assert tuning.main([space("n_layers choice [1, 2]")]) == 2
    assert "error: no trial came to its end." in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_by_hyperopt(space, tiny, monkeypatch, capsys):
    """From the command line to a file with which run_recbole.py comes to the same numbers."""
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda *args, **kwargs: opened.append(args))
    arguments = [space("learning_rate choice [0.00000001, 0.03]"), "--display_file=scores.html", *words(tiny)]
    outcome = tuning.run(*tuning.parse(arguments))
    (parameters, best), (_, worse) = sorted(outcome.trials, key=lambda trial: -trial[1]["best_valid_score"])
    assert parameters == {"learning_rate": 0.03} and best["best_valid_score"] > worse["best_valid_score"]
    assert f"learning_rate:{parameters['learning_rate']}" in Path("scores.html").read_text(encoding="utf-8")
    assert "best params:  {'learning_rate': 0.03}" in capsys.readouterr().out
    assert not list(Path("saved").iterdir()), "each trial's checkpoint goes with it"
    logs = [file.read_text() for file in Path("log").rglob("*.log")]
    assert [log.count("Loading model structure") for log in logs] == [1, 1], "each trial has a log of its own"

    result = launcher.run(*launcher.parse(["--protocol=none", "--config_files=GLINTRU-ml-100k.yaml"]))
    assert result["best_valid_score"] == best["best_valid_score"]
    assert dict(result["test_result"]) == best["test_result"]


# -------------------------------------------------------------------------------------------------- Ray's search


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
    ((parameters, result),) = ray_search._finished(trials, space, wanted=6)
    assert parameters == {"n_layers": 1} and result["best_valid_score"] == 0.5
    told = capsys.readouterr().err
    assert told == "6 trials: 1 finished, 1 stopped early, 1 failed, 3 interrupted or not begun.\n"
    trials[3].error_file = tmp_path / "error.txt"
    trials[3].error_file.write_text("Traceback ...\nValueError: n_layers=4: must be less.\n")
    with pytest.raises(UserError, match="every trial failed; the first says: ValueError: n_layers=4: must be less."):
        ray_search._finished(trials[3:], space, wanted=6)


def test_a_search_to_resume_must_be_the_same(workplace):
    description = {"model": "GLINTRU", "settings": {"epochs": "2"}, "trials": 2}
    with pytest.raises(UserError, match="no search of run_hyper.py is there"):
        ray_search._check_same(workplace, description)
    (workplace / "search.json").write_text(json.dumps(description))
    ray_search._check_same(workplace, description)
    with pytest.raises(UserError, match="that is another search; these differ: settings, trials."):
        ray_search._check_same(workplace, {**description, "settings": {"epochs": "3"}, "trials": 4})


def test_the_start_up_line_sees_ray(tmp_path):
    """Ray 2.6.3, which a worker imports before RecBole, fails without `np.bool8`."""
    for folder, text in [("ray", ""), ("ray/tune", "import numpy; bool8 = numpy.bool8")]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(text)
    code = "import sys; sys.path[:0] = sys.argv[1:]; import recbole_glintru_startup as line; {}import ray.tune"

    def start(wait):
        command = [sys.executable, "-c", code.format(wait), str(tmp_path), str(ROOT), str(ROOT / "startup")]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})

    if not hasattr(np, "bool8") or np.bool8 is np.bool_:  # NumPy 1 has its own
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
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)


@pytest.mark.slow
def test_a_search_by_ray_that_is_killed_and_resumed(cluster, tiny, space, workplace):
    """The first trial is finished when the search is killed; the second is compared with it, and stops early."""
    rates = space("learning_rate choice [0.03, 0.00000001]")
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
    assert not list(folder.rglob("*.pth")), "each trial's checkpoint goes with it"
