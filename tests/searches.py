"""What the tests of the searches share: command lines, params files, results of trials that nobody has run."""

from pathlib import Path


def words(settings):
    return [f"--{key}={value}" for key, value in settings.items()]


def made_up_result(score, bigger=True):
    metrics = {"recall@10": score}
    result = {"model": "GLINTRU", "best_valid_score": score, "valid_score_bigger": bigger}
    return {**result, "best_valid_result": metrics, "test_result": {"recall@10": score / 2}}


def params_file(text):
    """Write a params file into the current folder, and name it as the command line does."""
    Path("space.hyper").write_text(text)
    return "--params_file=space.hyper"
