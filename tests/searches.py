"""What the tests of the searches share: command lines, params files, results of trials that nobody has run."""

import shlex
from pathlib import Path


def words(settings):
    return [f"--{key}={value}" for key, value in settings.items()]


def made_up_result(score, bigger=True):
    metrics = {"recall@10": score}
    result = {"model": "GLINTRU", "best_valid_score": score, "valid_score_bigger": bigger}
    return {**result, "best_valid_result": metrics, "test_result": {"recall@10": score / 2}}


def words_for_the_best(told):
    """What the output of a search says that run_recbole.py is given, split as a shell does it."""
    (line,) = (line for line in told.splitlines() if "--config_files=" in line)
    return shlex.split(line.partition("settings: ")[2])


def params_file(text):
    """Write a params file into the current folder, and name it as the command line does."""
    Path("space.hyper").write_text(text)
    return "--params_file=space.hyper"
