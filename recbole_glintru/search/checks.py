"""Checks for mistakes that would make all trials of a search identical, impossible to compare, or fail one by one."""

from typing import Any

from recbole_glintru.launch.checks import validates
from recbole_glintru.launch.errors import UserError
from recbole_glintru.search.space import Parameter

NOT_VARIED = {
    **dict.fromkeys(("model", "dataset"), "all trials use one model and one data set"),
    **dict.fromkeys(("eval_args", "valid_metric", "valid_metric_bigger"), "only scores of one kind can be compared"),
}


def check_space(space: list[Parameter], settings: dict[str, str], files: dict[str, Any], config) -> None:
    """Check that each parameter is a setting, and that its drawn value reaches the trial.

    Args:
        settings: the `--key=value` of the command line.
        files: the settings of the user's configuration files.
        config: RecBole's `Config` of a trial that varies nothing.

    Raises:
        UserError: a check fails.
    """
    published = getattr(config.model_class, "published_settings", {})
    known = {*config.internal_config_dict, *published, *files}  # not the protocol: it has other models' settings
    known.update(*config.parameters.values())
    above = {published.get(given, given): given for given in settings}
    varied: dict[str, str] = {}
    for drawn in (parameter.name for parameter in space):
        name = published.get(drawn, drawn)
        if drawn in NOT_VARIED:
            raise UserError(f"{drawn}: a search cannot vary it: {NOT_VARIED[drawn]}.")
        if name in above:
            given = above[name]
            same = drawn if drawn == given else f"{drawn}, which is the same setting"
            raise UserError(
                f"--{given}={settings[given]}: the search varies {same}, but a setting on the command line overrides "
                "it."
            )
        if name in varied:
            raise UserError(f"{varied[name]} and {drawn} are the same setting of {config['model']}; vary one of them.")
        if drawn not in known:
            raise UserError(
                f"{drawn}, which the search varies, is not a setting of RecBole or {config['model']}; "
                "if it is intended, give it a value in a file for --config_files."
            )
        varied[name] = drawn


def check_validation(config) -> None:
    """Check that a trial with RecBole's merged settings has a validation score.

    Raises:
        UserError: it does not.
    """
    if not validates(config) or config["epochs"] < config["eval_step"]:
        split, eval_step, epochs = config["eval_args"]["split"], config["eval_step"], config["epochs"]
        raise UserError(
            f"eval_args: split={split!r}, eval_step={eval_step}, epochs={epochs}: a search needs validation scores, "
            "and there are none."
        )
