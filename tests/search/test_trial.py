"""One trial: how its settings are merged, what it checks before it trains, what it reports."""

import sys
import threading
from pathlib import Path

import pytest

from recbole_glintru.launch.errors import UserError
from recbole_glintru.search.trial import Fixed, _best_so_far, run_trial


def fixed_by(settings, dataset="ml-100k"):
    return Fixed("GLINTRU", dataset, [], {key: str(value) for key, value in settings.items()}, str(Path.cwd()))


@pytest.fixture
def untrained(monkeypatch):
    """Fail where a training would begin."""
    from recbole.trainer import Trainer

    monkeypatch.setattr(Trainer, "fit", lambda *args, **options: pytest.fail("a training has begun"))


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


def test_a_trial_leaves_no_thread(workplace, tiny):
    """RecBole's TensorBoard writer has one, which ends with the file."""
    before = threading.active_count()
    run_trial(fixed_by(tiny), {})
    assert threading.active_count() == before


@pytest.mark.parametrize("checked", [True, False])
def test_a_trial_checks_its_data(workplace, tiny, checked):
    """`topk` is more than ml-100k has items."""
    settings = {key: str(value) for key, value in {**tiny, "topk": [5000], "valid_metric": "MRR@5000"}.items()}
    if not checked:
        settings["check_data"] = "False"
    fixed = Fixed("GLINTRU", "ml-100k", [], settings, str(workplace))
    with pytest.raises((ValueError, RuntimeError), match=r"topk=\[5000\]" if checked else "out of range"):
        run_trial(fixed, {})


@pytest.mark.parametrize("parameters", [{"epochs": 0}, {"epochs": 1, "eval_step": 2}, {"eval_step": 0}])
def test_a_trial_without_validation_is_not_trained(workplace, tiny, untrained, parameters):
    del tiny["epochs"]  # above the parameters
    with pytest.raises(UserError, match="a search needs validation scores, and there are none"):
        run_trial(fixed_by(tiny), parameters)


def test_a_trial_without_rows_to_validate_is_not_trained(workplace, tiny, untrained):
    """Of three interactions the first has no history, the second is trained on and the last is tested."""
    rows = [f"{user}\t{item}\t{item}" for user in range(1, 9) for item in range(user, user + 3)]
    folder = workplace / "dataset" / "own"
    folder.mkdir(parents=True)
    (folder / "own.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]))
    with pytest.raises(UserError, match="there are no rows to validate, and a search needs validation scores"):
        run_trial(fixed_by({**tiny, "topk": [5], "valid_metric": "MRR@5"}, "own"), {})
