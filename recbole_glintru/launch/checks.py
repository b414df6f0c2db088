"""Checks for settings that would end a run, or its first epoch, in an error about something else."""

import contextlib
import math
import re
from collections.abc import Iterator

from recbole_glintru.launch import data_settings
from recbole_glintru.settings import integer, number, switch

SWITCHES = ("accelerate", "check_data", "compact_evaluation", "data_on_device")  # of this package, for every model
SIZES = {  # lower and upper bound; eval_step is -1 or 0 for no validation, and NumPy accepts 32 bits of a seed
    **dict.fromkeys(("MAX_ITEM_LIST_LENGTH", "train_batch_size", "eval_batch_size"), (1, None)),
    **dict.fromkeys(("epochs", "stopping_step", "worker", "metric_decimal_place", "loss_decimal_place"), (0, None)),
    "eval_step": (-1, None),
    "seed": (0, 2**32 - 1),
}
NUMBERS = ("learning_rate", "weight_decay")
LEFT_OUT = ("valid_and_test", "valid_only", "test_only")
LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")  # RecBole uses Adam for any other name
MODES = r"full|labeled|(uni|pop)[1-9][0-9]*"
EXAMPLE = "{'split': {'LS': 'valid_and_test'}, 'order': 'TO', 'group_by': 'user', 'mode': 'full'}"


def check(config) -> None:
    """Check that RecBole's merged settings are valid and consistent.

    Raises:
        ValueError: they are not; the message names the key.
    """
    from recbole.utils import ModelType

    for key in SWITCHES:
        if config[key] is not None:
            switch(config, key)
    for key, (least, most) in SIZES.items():
        integer(config, key, least, most)
    for key in NUMBERS:
        number(config, key)
    if str(config["learner"]).lower() not in LEARNERS:
        raise ValueError(f"learner={config['learner']!r}: must be one of {', '.join(LEARNERS)}.")
    _check_clipping(config["clip_grad_norm"])
    data_settings.check(config)
    if config["MODEL_INPUT_TYPE"] is None:  # RecBole knows the needs of these two losses alone
        raise ValueError(f"loss_type={config['loss_type']!r}: must be CE or BPR.")
    order = config["eval_args"]["order"]
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL and order != "TO":
        raise ValueError(
            f"eval_args: order={order!r}: histories must be ordered by time, 'TO'. "
            f"RecBole replaces eval_args as a whole, so give all of it: {EXAMPLE}"
        )
    _check_negatives(config)
    if validates(config):
        metrics = _metrics(config)
        if str(config["valid_metric"]).lower() not in metrics:
            raise ValueError(
                f"valid_metric={config['valid_metric']!r}: must be one of metrics={config['metrics']!r} at one of "
                f"topk={config['topk']!r}: {', '.join(metrics)}."
            )


def _check_clipping(value) -> None:
    """Check that the value is a dictionary: RecBole passes it to PyTorch's `clip_grad_norm_` as keywords."""
    if value and not (isinstance(value, dict) and "max_norm" in value):
        raise ValueError(f"clip_grad_norm={value!r}: must be a dictionary like {{'max_norm': 5}}.")


def _check_negatives(config) -> None:
    from recbole.utils import InputType

    negatives, pairs = config["train_neg_sample_args"], config["MODEL_INPUT_TYPE"] == InputType.PAIRWISE
    if negatives["distribution"] == "none":
        if pairs:
            raise ValueError(
                "train_neg_sample_args=None: must sample negatives, because the loss compares the target with one."
            )
        return
    number = negatives["sample_num"]
    if (type(number) is not int or number < 1) and (pairs or number != "none"):
        raise ValueError(f"train_neg_sample_args={negatives!r}: sample_num must be a positive whole number.")


@contextlib.contextmanager
def evaluation_checked_first(config_class: type) -> Iterator[None]:
    """Inside the block RecBole's `Config` runs `check_evaluation` on the merged settings before its own checks.

    Without: a wrong type ends inside RecBole, in a TypeError or an AttributeError.
    """
    original = config_class._set_default_parameters

    def _set_default_parameters(self):
        check_evaluation(self)
        original(self)

    config_class._set_default_parameters = _set_default_parameters
    try:
        yield
    finally:
        config_class._set_default_parameters = original


def check_evaluation(config) -> None:
    """Check that the metrics, their k and the candidates have the form that RecBole needs.

    Raises:
        ValueError: they are not; the message names the key.
    """
    from recbole.evaluator import metric_types
    from recbole.utils import EvaluatorType

    metrics, topk, valid_metric, args = (config[key] for key in ("metrics", "topk", "valid_metric", "eval_args"))
    names = [metrics] if isinstance(metrics, str) else metrics
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"metrics={metrics!r}: must be the name of a metric, or a list of names.")
    for name in names:
        if name.lower() not in metric_types:
            known = ", ".join(metric_types)
            raise ValueError(f"metrics={metrics!r}: there is no metric named {name!r}; RecBole has {known}.")
    ranking = [name for name in names if metric_types[name.lower()] == EvaluatorType.RANKING]
    if ranking and len(ranking) < len(names):
        raise ValueError(f"metrics={metrics!r}: ranking metrics ({', '.join(ranking)}) cannot be combined with others.")
    numbers = topk if isinstance(topk, list) and topk else [topk]
    if not all(type(k) is int and k > 0 for k in numbers):
        raise ValueError(f"topk={topk!r}: must be a positive whole number, or a list of them.")
    if not isinstance(valid_metric, str):
        raise ValueError(f"valid_metric={valid_metric!r}: must be the name of a result, like MRR@10.")
    if not isinstance(args, dict):
        raise ValueError(f"eval_args={args!r}: must be a dictionary like {EXAMPLE}.")
    if config["benchmark_filename"] is None and "split" in args:
        _check_split(args["split"])
    group_by, mode = args.get("group_by", "user"), args.get("mode", "full")
    if group_by != "user" and str(group_by).lower() != "none":
        raise ValueError(f"eval_args: group_by={group_by!r}: must be user or none.")
    for each in mode.values() if isinstance(mode, dict) else [mode]:
        if not re.fullmatch(MODES, str(each)):
            raise ValueError(f"eval_args: mode={each!r}: must be full, labeled, uniN or popN, with N at least 1.")
        if each == "labeled" and ranking:
            raise ValueError(f"eval_args: mode='labeled': does not rank items, as metrics={metrics!r} require.")


def _check_split(split) -> None:
    said = f"eval_args: split={split!r}"
    if not isinstance(split, dict) or len(split) != 1 or not {"RS", "LS", "TS"}.issuperset(split):
        raise ValueError(f"{said}: must be a dictionary with one of RS, LS and TS, like {EXAMPLE}.")
    ((kind, value),) = split.items()
    if kind == "LS":
        if value not in LEFT_OUT:
            raise ValueError(f"{said}: LS must be one of {', '.join(LEFT_OUT)}.")
        return
    if not isinstance(value, list) or len(value) != 3 or not all(map(_is_ratio, value)) or value[0] == 0:
        raise ValueError(f"{said}: {kind} must be a list of three ratios: training (above 0), validation and test.")


def _is_ratio(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def held_out(config) -> tuple[bool, bool]:
    """Whether the split has a part for validation, and one for the test."""
    if config["benchmark_filename"] is not None:
        return True, True
    ((kind, value),) = config["eval_args"]["split"].items()
    return (value != "test_only", value != "valid_only") if kind == "LS" else (value[1] != 0, value[2] != 0)


def validates(config) -> bool:
    """Whether a run has a validation: the split has a part for it, and an epoch of training precedes it."""
    return held_out(config)[0] and min(config["eval_step"], config["epochs"]) > 0


def sorts_by_time(config) -> bool:
    """Whether RecBole sorts interactions by `TIME_FIELD`; data that are already split it leaves as they are."""
    args = config["eval_args"]
    return config["benchmark_filename"] is None and (args["order"] == "TO" or "TS" in args["split"])


def _metrics(config) -> list[str]:
    """The names of the results of an evaluation, as in RecBole's dictionaries."""
    names = []
    for metric in map(str.lower, config["metrics"]):
        names += [f"{metric}@{k}" for k in config["topk"]] if at_k(metric) else [metric]
    return names


def at_k(metric: str) -> bool:
    """Whether a metric is computed at k."""
    from recbole.evaluator.register import metric_information

    return not {"rec.items", "rec.topk"}.isdisjoint(metric_information[metric.lower()])
