"""The searches: what they refuse, how trials are merged and told of; hyperopt's search, small and real."""

import importlib.util
import os
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest
import yaml
from searches import made_up_result, params_file, words, words_for_the_best

import recbole_glintru
from recbole_glintru.launch import command as launch
from recbole_glintru.search import command
from recbole_glintru.search.trial import Fixed, _best_so_far, run_trial


@pytest.fixture
def trials(monkeypatch):
    """In the place of training, the parameters of each trial are recorded; its score is its learning rate."""
    seen = []

    def run(fixed, parameters, report=None, scratch=None):
        seen.append(parameters)
        return made_up_result(parameters["learning_rate"])

    monkeypatch.setattr(command, "run_trial", run)
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
    assert command.main(arguments) == 2
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
        ("learning_rate uniform 0,inf", "learning_rate uniform 0,inf: must be low,high with low below high."),
        ("n_layers quniform 1,2", "n_layers quniform 1,2: must be low,high,step with low below high."),
        ("n_layers quniform 1,9,0", "n_layers quniform 1,9,0: the step must be above 0."),
        ("n_layers choice [1]\nn_layers choice [2]", "line 2: n_layers is there twice."),
        ("n_layer choice [1, 2]", "n_layer, which the search varies, is no setting of RecBole or GLINTRU"),
        ("learning_rate loguniform -8,-4", "learning_rate loguniform: --algo=exhaustive tries every choice"),
    ],
)
def test_mistakes_in_params_files(workplace, trials, capsys, text, message):
    assert command.main([params_file(text)]) == 2
    assert message in capsys.readouterr().err and not trials


def test_a_params_file_that_is_no_text(workplace, trials, capsys):
    (workplace / "space.hyper").write_bytes(b"\xff\xfe")
    assert command.main(["--params_file=space.hyper"]) == 2
    assert "error: space.hyper is no text in UTF-8" in capsys.readouterr().err and not trials


@pytest.mark.parametrize("tool", ["hyperopt", "ray"])
def test_a_tool_that_is_not_installed(workplace, monkeypatch, capsys, tool):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == tool else find(name, *rest))
    assert command.main([f"--tool={tool}"]) == 2
    assert f"--tool={tool}: {tool} is not installed; the extra `tune`" in capsys.readouterr().err


def test_help(capsys):
    assert command.main(["--help"]) == 0
    text = capsys.readouterr().out
    options, _ = command.parse([])
    for name in vars(options).keys() - {"help"}:
        assert f"--{name}" in text


def test_started_as_a_module(workplace):
    root = Path(recbole_glintru.__file__).resolve().parent.parent
    command_line = [sys.executable, "-m", "recbole_glintru.search", "--tool=optuna"]
    done = subprocess.run(command_line, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "error: --tool=optuna: must be one of hyperopt, ray.\n"


# -------------------------------------------------------------------------------------------- a trial's settings


def test_parameters_lie_between_the_files_and_the_command_line(workplace):
    files = ["learning_rate: 0.1\nkernel_size: 5\nn_layers: 2\ndata_path: mine", "kernel_size: 7\n"]
    folder = workplace / "here"
    folder.mkdir()
    fixed = Fixed("GLINTRU", "ml-100k", files, {"n_layers": "3"}, str(folder))
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
    callback = _best_so_far(lambda epoch, score: seen.append((epoch, score)), config)
    for epoch, score in enumerate([0.2, 0.5, 0.1, 0.9]):
        callback(epoch, score)
    assert seen == list(zip([1, 2, 3], expected))


# --------------------------------------------------------------------------------------------- hyperopt's search

RATES = "learning_rate choice [0.1, 0.2, 0.3]\nn_layers choice [1, 2]\n"


def test_exhaustive_search_tries_everything_once(workplace, trials):
    outcome = command.run(*command.parse([params_file(RATES), "--early_stop=100"]))
    assert sorted(tuple(trial.values()) for trial in trials) == [(a, b) for a in (0.1, 0.2, 0.3) for b in (1, 2)]
    assert outcome.best[0]["learning_rate"] == 0.3 and len(outcome.trials) == 6
    assert yaml.safe_load(Path("GLINTRU-ml-100k.yaml").read_text())["learning_rate"] == 0.3


@pytest.mark.parametrize("algo", ["exhaustive", "random", "bayes"])
def test_the_number_of_trials(workplace, trials, algo):
    command.run(*command.parse([params_file(RATES), f"--algo={algo}", "--max_evals=4"]))
    first, _ = trials[:], trials.clear()
    assert len(first) == 4
    command.run(*command.parse([params_file(RATES), f"--algo={algo}", "--max_evals=4", "--seed=666"]))  # the protocol's
    assert trials == first
    trials.clear()
    command.run(*command.parse([params_file(RATES), f"--algo={algo}", "--max_evals=4", "--seed=1"]))
    assert trials != first


def test_trials_without_a_better_one_end_the_search(workplace, trials):
    command.run(
        *command.parse([params_file("learning_rate choice [0.1]\nn_layers choice [1, 2, 3, 4, 5]"), "--early_stop=2"])
    )
    assert 2 <= len(trials) <= 3  # versions of hyperopt count the first trial, or do not


def test_a_failing_trial_ends_alone(workplace, monkeypatch, capsys):
    def run(fixed, parameters):
        if parameters["n_layers"] == 2:
            raise RuntimeError("out of memory")
        return made_up_result(0.5)

    monkeypatch.setattr(command, "run_trial", run)
    assert command.main([params_file("n_layers choice [1, 2, 3]")]) == 0
    assert "Trial failed: n_layers:2: RuntimeError: out of memory" in capsys.readouterr().err
    assert "n_layers:2" not in Path("GLINTRU-ml-100k.result").read_text()


@pytest.mark.parametrize("checked", [True, False])
def test_a_trial_checks_its_data(workplace, tiny, checked):
    """`topk` is more than ml-100k has items."""
    settings = {key: str(value) for key, value in {**tiny, "topk": [5000], "valid_metric": "MRR@5000"}.items()}
    if not checked:
        settings["check_data"] = "False"
    fixed = Fixed("GLINTRU", "ml-100k", [], settings, str(workplace))
    with pytest.raises((ValueError, RuntimeError), match=r"topk=\[5000\]" if checked else "out of range"):
        run_trial(fixed, {})


def test_unread_settings_of_files_are_told(workplace, trials, capsys):
    Path("mine.yaml").write_text("n_layer: 2\n")
    command.run(*command.parse([params_file("learning_rate choice [0.1]"), "--config_files=mine.yaml"]))
    assert "n_layer=2: neither RecBole nor GLINTRU reads it. Is n_layers meant?" in capsys.readouterr().err


def test_three_failing_trials_end_the_search(workplace, monkeypatch, capsys):
    def run(fixed, parameters):
        seen.append(parameters)
        raise RuntimeError("the data is broken")

    seen = []
    monkeypatch.setattr(command, "run_trial", run)
    assert command.main([params_file("n_layers choice [1, 2, 3, 4, 5]")]) == 2
    assert "the first 3 trials failed, the last with n_layers:" in capsys.readouterr().err and len(seen) == 3
    assert command.main([params_file("n_layers choice [1, 2]")]) == 2
    assert "error: no trial came to its end." in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_by_hyperopt(workplace, tiny, monkeypatch, capsys):
    """From the command line to a file with which run_recbole.py comes to the same numbers."""
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda *args, **kwargs: opened.append(args))
    arguments = [params_file("learning_rate choice [0.00000001, 0.03]"), "--display_file=scores.html", *words(tiny)]
    arguments += ["--output_file=my search.result", "--protocol=none"]
    outcome = command.run(*command.parse(arguments))
    (parameters, best), (_, worse) = sorted(outcome.trials, key=lambda trial: -trial[1]["best_valid_score"])
    assert parameters == {"learning_rate": 0.03} and best["best_valid_score"] > worse["best_valid_score"]
    assert f"learning_rate:{parameters['learning_rate']}" in Path("scores.html").read_text(encoding="utf-8")
    told = capsys.readouterr().out
    assert "best params:  {'learning_rate': 0.03}" in told
    assert not list(Path("saved").iterdir()), "each trial's checkpoint goes with it"
    logs = [file.read_text() for file in Path("log").rglob("*.log")]
    assert [log.count("Loading model structure") for log in logs] == [1, 1], "each trial has a log of its own"

    result = launch.run(*launch.parse(words_for_the_best(told)))
    assert result["best_valid_score"] == best["best_valid_score"]
    assert dict(result["test_result"]) == best["test_result"]
