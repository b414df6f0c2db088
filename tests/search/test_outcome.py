"""What a search has found: which trial is the best, and the file with which run_recbole.py trains it again."""

from pathlib import Path

import pytest
from searches import made_up_result, params_file, words_for_the_best

from recbole_glintru.launch import command as launch
from recbole_glintru.launch import protocol
from recbole_glintru.launch.configuration import choose, command_line, merged_settings
from recbole_glintru.search import command
from recbole_glintru.search.outcome import Outcome
from recbole_glintru.search.trial import Fixed


@pytest.mark.parametrize("bigger, best", [(True, 2), (False, 0)])
def test_the_best_trial_as_a_configuration_file(workplace, bigger, best):
    """The first of equals; as a file it makes the configuration of the trial, whatever lies below it."""
    files = ["n_heads: 2\neval_args:\n  order: TO\n  mode: {valid: pop100, test: uni20}\n"]
    fixed = Fixed("GLINTRU", "ml-100k", files, {"hidden_size": "32"}, str(workplace))
    outcome = Outcome(fixed, None, bigger, Path("a.result"), Path("a.yaml"))
    scores = [0.1, 0.1, 0.7, 0.7]
    for layers, score in enumerate(scores, start=1):
        outcome.add({"n_layers": layers, "learning_rate": 1e-5}, made_up_result(score, bigger))
    assert outcome.best[0]["n_layers"] == best + 1
    text = Path("a.result").read_text()
    assert [f"n_layers:{layers}, learning_rate:1e-05\n" in text for layers in range(1, 6)] == [True] * 4 + [False]
    Path("below.yaml").write_text("n_layers: 9\nn_heads: 8\nhidden_size: 16\n")
    config = merged_settings("GLINTRU", "ml-100k", ["below.yaml", "a.yaml"])
    trial = fixed.merged(outcome.best[0])
    assert config.final_config_dict == trial.final_config_dict
    assert (config["n_layers"], config["n_heads"], config["hidden_size"]) == (best + 1, 2, 32)


@pytest.mark.parametrize(
    "dataset, given, needed",
    [
        ("ml-100k", [], []),
        ("ml-100k", ["--protocol=ml-100k"], []),
        ("ml-100k", ["--protocol=none"], ["--protocol=none"]),
        ("ml-100k", ["--protocol=amazon-beauty"], ["--protocol=amazon-beauty"]),
        ("own", ["--protocol=amazon-beauty"], ["--protocol=amazon-beauty"]),
        ("own", [], []),
    ],
    ids=str,
)
def test_the_best_one_under_its_protocol(workplace, monkeypatch, capsys, dataset, given, needed):
    """What is printed makes the configuration of the trial, whatever protocol the data set has."""
    folder = workplace / "dataset" / "own"
    folder.mkdir(parents=True)
    (folder / "own.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n")
    monkeypatch.setattr(command, "run_trial", lambda fixed, parameters: made_up_result(0.5))
    arguments = [f"--dataset={dataset}", params_file("learning_rate choice [0.1]"), "--output_file=a.result", *given]
    outcome = command.run(*command.parse(arguments))
    printed = words_for_the_best(capsys.readouterr().out)
    assert printed == [*needed, "--config_files=a.yaml"]
    assert f", for {' '.join([*needed, '--config_files'])}. Found" in Path("a.yaml").read_text().partition("\n")[2]
    options, _ = launch.parse(printed)
    model, named, applied = choose(options)
    with protocol.as_config_files(applied, model) as files, command_line([f"--model={model}", f"--dataset={named}"]):
        again = merged_settings(model, named, files + options.config_files)
    assert again.final_config_dict == outcome.fixed.merged(outcome.best[0]).final_config_dict
