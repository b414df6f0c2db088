"""What is wrong with the settings of a run and would end it, or its first epoch, in an error about something else."""

from recbole_glintru.settings import integer, number, switch

SWITCHES = ("accelerate", "compact_evaluation", "data_on_device")  # of the package, for every model
SIZES = {"MAX_ITEM_LIST_LENGTH": 1, "train_batch_size": 1, "eval_batch_size": 1, "epochs": 0, "seed": 0}  # the least
EXAMPLE = "{'split': {'LS': 'valid_and_test'}, 'order': 'TO', 'group_by': 'user', 'mode': 'full'}"


def check(config) -> None:
    """See that RecBole's merged settings are what they should be, and go together.

    Raises:
        ValueError: they do not; the message names the key.
    """
    from recbole.utils import InputType, ModelType

    for key in SWITCHES:
        if config[key] is not None:
            switch(config, key)
    for key, least in SIZES.items():
        integer(config, key, least)
    number(config, "learning_rate")
    if config["MODEL_INPUT_TYPE"] is None:  # RecBole knows what a loss needs of these two alone
        raise ValueError(f"loss_type={config['loss_type']!r}: must be CE or BPR.")
    order = config["eval_args"]["order"]
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL and order != "TO":
        raise ValueError(
            f"eval_args: order={order!r}: the order of histories must be 'TO', that of time. "
            f"RecBole replaces eval_args as a whole, so that all of it has to be said: {EXAMPLE}"
        )
    negatives = config["train_neg_sample_args"]
    if config["MODEL_INPUT_TYPE"] == InputType.PAIRWISE and negatives.get("distribution") == "none":
        raise ValueError(
            "train_neg_sample_args=None: must sample negatives, for the loss compares the target with one."
        )
    if _validates(config):
        metrics = _metrics(config)
        if str(config["valid_metric"]).lower() not in metrics:
            raise ValueError(
                f"valid_metric={config['valid_metric']!r}: must be one of metrics={config['metrics']!r} at one of "
                f"topk={config['topk']!r}: {', '.join(metrics)}."
            )


def _validates(config) -> bool:
    split = config["eval_args"]["split"] or {}
    ratios = split.get("RS") or []
    has_part = split.get("LS") != "test_only" and not (len(ratios) > 1 and ratios[1] == 0)
    return has_part and min(config["eval_step"], config["epochs"]) > 0


def _metrics(config) -> list[str]:
    """The names of the results of an evaluation, as RecBole has them in its dictionaries."""
    from recbole.evaluator.register import metric_information

    names = []
    for metric in map(str.lower, config["metrics"]):
        at_k = not {"rec.items", "rec.topk"}.isdisjoint(metric_information[metric])
        names += [f"{metric}@{k}" for k in config["topk"]] if at_k else [metric]
    return names
