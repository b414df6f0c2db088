"""The searches: what they refuse and what may vary; hyperopt's search, small and real."""

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
from recbole_glintru.launch.configuration import merged_settings
from recbole_glintru.search import command

SPLIT = "{'LS': 'valid_and_test'}"
TEST_ONLY = "--eval_args={'split': {'LS': 'test_only'}, 'order': 'TO', 'group_by': 'user', 'mode': 'full'}"


@pytest.fixture
def trials(monkeypatch):
    """Instead of training, the parameters of each trial are recorded; its score is its learning rate."""
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
        (["--address=auto"], "--address=auto: is for --tool=ray, but the tool is hyperopt."),
        (["--tool=Ray", "--early_stop=3"], "--early_stop=3: is for --tool=hyperopt, but the tool is ray."),
        (["--max_evals=0"], "--max_evals=0: must be at least 1."),
        (["--max_evals=few"], "argument --max_evals: invalid int value: 'few'"),
        (["--tool=ray", "--gpus_per_trial=1.5"], "--gpus_per_trial=1.5: must be a whole number, or a fraction"),
        (["--tool=ray", "--gpus_per_trial=-1"], "--gpus_per_trial=-1: must be a whole number, or a fraction"),
        (["--tool=ray", "--cpus_per_trial=nan"], "--cpus_per_trial=nan: must be"),
        (["--tool=ray", "--cpus_per_trial=0"], "--cpus_per_trial=0: must be"),
        (["--tool=ray", "--algo=exhaustive", "--num_samples=3"], "--num_samples=3: --algo=exhaustive tries every"),
        (["--nproc=2"], "--nproc: a trial is one process"),
        (["--learning_rate"], "--learning_rate has no value"),
        (["GLINTRU"], "'GLINTRU' is not a setting"),
        (["--model=GLINTRUE"], "There is no model named 'GLINTRUE'. Did you mean GLINTRU"),
        (["--params_file=none.hyper"], "--params_file=none.hyper: there is no such file."),
        (["--model=SASRec"], "SASRec has no search space of its own: name one with --params_file"),
        (["--kernel_size=5"], "--kernel_size=5: the search varies kernel_size, but a setting on the command line"),
        (["--dropout_prob=0.1"], "--dropout_prob=0.1: the search varies embedding_dropout_prob, which is the same"),
        (["--eval_step=0"], f"eval_args: split={SPLIT}, eval_step=0, epochs=12: a search needs validation scores"),
        (["--epochs=0"], f"eval_args: split={SPLIT}, eval_step=1, epochs=0: a search needs validation scores"),
        (["--epochs=2", "--eval_step=3"], f"eval_args: split={SPLIT}, eval_step=3, epochs=2: a search needs"),
        ([TEST_ONLY], "eval_args: split={'LS': 'test_only'}, eval_step=1, epochs=12: a search needs"),
        (["--tool=ray", "--gpu_id=1"], "gpu_id: Ray assigns the GPUs, see --gpus_per_trial."),
        (["--output_file=nowhere/a.result"], "--output_file=nowhere/a.result: nowhere is not a folder"),
        (["--output_file=" + 300 * "a"], "--output_file=" + 300 * "a" + ": cannot be written: File name too long."),
        (["--display_file=."], "--display_file=.: . is not a folder, or . is one."),
        (["--output_file=a.yaml"], "--output_file=a.yaml, --best_file=a.yaml: must be different files."),
        (["--data_path=nowhere", "--dataset=own"], "no data for 'own': looked for"),
        (["--loss_type=MSE"], "loss_type='MSE': GLINTRU can be trained with"),
    ],
    ids=lambda value: " ".join(value)[:80] if isinstance(value, list) else "",
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
        ("n_layers choice [1]\nn_layers choice [2]", "line 2: n_layers is listed twice."),
        ("n_layer choice [1, 2]", "n_layer, which the search varies, is not a setting of RecBole or GLINTRU"),
        ("embedding_size choice [32, 64]", "embedding_size, which the search varies, is not a setting of RecBole or "),
        ("model choice ['SASRec', 'NARM']", "model: a search cannot vary it: all trials use one model"),
        ("dataset choice ['ml-1m']", "dataset: a search cannot vary it: all trials use one model"),
        ("valid_metric choice ['MRR@10']", "valid_metric: a search cannot vary it: only scores of one kind"),
        ("eval_args choice [{}]", "eval_args: a search cannot vary it: only scores of one kind"),
        ("valid_metric_bigger choice [True]", "valid_metric_bigger: a search cannot vary it"),
        ("gru_layers choice [1]\nnum_layers choice [2]", "gru_layers and num_layers are the same setting of GLINTRU"),
        ("learning_rate loguniform -8,-4", "learning_rate loguniform: --algo=exhaustive needs kind choice"),
    ],
)
def test_mistakes_in_params_files(workplace, trials, capsys, text, message):
    assert command.main([params_file(text)]) == 2
    assert message in capsys.readouterr().err and not trials


def test_a_params_file_that_is_no_text(workplace, trials, capsys):
    (workplace / "space.hyper").write_bytes(b"\xff\xfe")
    assert command.main(["--params_file=space.hyper"]) == 2
    assert "error: space.hyper is not UTF-8 text" in capsys.readouterr().err and not trials


def test_ray_hands_out_the_gpus(workplace, trials, capsys):
    assert command.main(["--tool=ray", params_file("gpu_id choice [0, 1]")]) == 2
    assert "error: gpu_id: Ray assigns the GPUs, see --gpus_per_trial." in capsys.readouterr().err


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


# --------------------------------------------------------------------------------------------- hyperopt's search

RATES = "learning_rate choice [0.1, 0.2, 0.3]\nn_layers choice [1, 2]\n"


def test_exhaustive_search_tries_everything_once(workplace, trials):
    outcome = command.run(*command.parse([params_file(RATES), "--early_stop=100"]))
    assert sorted(tuple(trial.values()) for trial in trials) == [(a, b) for a in (0.1, 0.2, 0.3) for b in (1, 2)]
    assert outcome.best[0]["learning_rate"] == 0.3 and len(outcome.trials) == 6
    assert yaml.safe_load(Path("GLINTRU-ml-100k.yaml").read_text())["learning_rate"] == 0.3


@pytest.mark.parametrize("name, file", [("num_layers", "gru_layers: 3"), ("gru_layers", "num_layers: 3")])
def test_a_setting_by_its_name_here_and_by_the_authors(workplace, trials, name, file):
    """Either varies, and overrides the other in a file."""
    Path("mine.yaml").write_text(file + "\n")
    space = params_file(f"learning_rate choice [0.1]\n{name} choice [1, 2]")
    outcome = command.run(*command.parse([space, "--config_files=mine.yaml"]))
    assert sorted(outcome.fixed.merged(trial)["gru_layers"] for trial in trials) == [1, 2]
    best = merged_settings("GLINTRU", "ml-100k", ["GLINTRU-ml-100k.yaml"])
    assert best["gru_layers"] == outcome.best[0][name]


def test_what_else_may_vary(workplace, trials):
    """The seed, and a setting of the user's own that a file has."""
    Path("mine.yaml").write_text("my_own: 1\n")
    space = params_file("learning_rate choice [0.1]\nseed choice [1, 2]\nmy_own choice [3]")
    outcome = command.run(*command.parse([space, "--config_files=mine.yaml"]))
    merged = [outcome.fixed.merged(trial) for trial in trials]
    assert sorted((config["seed"], config["my_own"]) for config in merged) == [(1, 3), (2, 3)]


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


def test_a_trial_that_cannot_be_written_ends_the_search(workplace, monkeypatch, capsys):
    """It has not failed; with a full disk, say, all later ones would run in vain."""

    def run(fixed, parameters):
        seen.append(parameters)
        Path("a.result").unlink(missing_ok=True)
        Path("a.result").mkdir()
        return made_up_result(0.5)

    seen = []
    monkeypatch.setattr(command, "run_trial", run)
    assert command.main([params_file("n_layers choice [1, 2, 3]"), "--output_file=a.result"]) == 2
    error = capsys.readouterr().err
    assert "Trial failed" not in error and "error: [Errno" in error and "'a.result'" in error and len(seen) == 1


def test_the_files_of_an_earlier_search_stay_if_the_next_one_is_a_mistake(workplace, trials):
    Path("a.result").write_text("earlier")
    assert command.main(["--output_file=a.result", "--data_path=nowhere", "--dataset=own"]) == 2
    assert Path("a.result").read_text() == "earlier" and not Path("a.yaml").exists()


def test_unread_settings_of_files_are_told(workplace, trials, capsys):
    Path("mine.yaml").write_text("n_layer: 2\n")
    command.run(*command.parse([params_file("learning_rate choice [0.1]"), "--config_files=mine.yaml"]))
    assert (
        "n_layer=2: neither RecBole nor GLINTRU reads this setting. Did you mean n_layers?" in capsys.readouterr().err
    )


def test_three_failing_trials_end_the_search(workplace, monkeypatch, capsys):
    def run(fixed, parameters):
        seen.append(parameters)
        raise RuntimeError("the data is broken")

    seen = []
    monkeypatch.setattr(command, "run_trial", run)
    assert command.main([params_file("n_layers choice [1, 2, 3, 4, 5]")]) == 2
    assert "the first 3 trials failed, the last with n_layers:" in capsys.readouterr().err and len(seen) == 3
    assert command.main([params_file("n_layers choice [1, 2]")]) == 2
    assert "error: no trial finished." in capsys.readouterr().err


def test_a_search_without_a_test_part(workplace, tiny, capsys):
    """It tells of the validation alone."""
    tiny["eval_args"]["split"] = {"LS": "valid_only"}
    outcome = command.run(*command.parse([params_file("learning_rate choice [0.03]"), *words(tiny)]))
    ((_, result),) = outcome.trials
    assert result["best_valid_result"]["ndcg@10"] == result["best_valid_score"] > 0 and result["test_result"] == {}
    assert "'test_result': {}}" in capsys.readouterr().out
    told = Path("GLINTRU-ml-100k.result").read_text()
    assert told.partition("Valid result:\nrecall@10 : ")[2] and told.endswith("Test result:\n\n\n")


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
