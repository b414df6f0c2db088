"""Checks of the data set, once RecBole has read and split it, for what would end training or make it worthless."""

import logging

from recbole.utils import ModelType

from recbole_glintru.launch.checks import at_k, held_out, validates


def on_request(config, dataset, built_datasets: list) -> None:
    """Check that there are rows for training, validation and test, that histories fit, and that topk is possible.

    `additions.py` calls this before any loader is made, if the settings say `check_data: True`.

    Args:
        config: RecBole's `Config`.
        dataset: the whole data set; `built_datasets` are its parts for training, validation and test.

    Raises:
        ValueError: a check fails; the message names the key.
    """
    parts = dict(zip(("train", "valid", "test"), built_datasets))
    _check_lengths(config, dataset)
    if config["benchmark_filename"] is None:
        _check_rows(config, dataset, parts)
    _check_topk(config, dataset, parts)


def _check_lengths(config, dataset) -> None:
    """Check histories supplied by the user; those that RecBole makes are never empty or too long."""
    field, most = config["ITEM_LIST_LENGTH_FIELD"], config["MAX_ITEM_LIST_LENGTH"]
    if config["benchmark_filename"] is None or field not in dataset.inter_feat:
        return
    lengths = dataset.inter_feat[field]
    if lengths.max() > most:
        raise ValueError(f"MAX_ITEM_LIST_LENGTH={most}: {dataset.dataset_name} has a history of {lengths.max()} items.")
    if lengths.min() < 1:
        raise ValueError(f"dataset={dataset.dataset_name!r}: has a history without items (of length 0).")


def _check_rows(config, dataset, parts: dict) -> None:
    split = config["eval_args"]["split"]
    asked = {"train": True, "valid": validates(config), "test": held_out(config)[1]}
    empty = [part for part in asked if asked[part] and len(parts[part]) == 0]
    if not empty:
        return
    rows = dataset.inter_feat[dataset.uid_field]
    most = int(rows.bincount().max()) if len(rows) else 0
    most += config["MODEL_TYPE"] == ModelType.SEQUENTIAL  # the first interaction has no history, hence no row
    said = (
        f"eval_args: split={split!r} leaves no rows for {' and '.join(empty)}: "
        f"no user of {dataset.dataset_name} has more than {most} interactions."
    )
    if "train" in empty or not any(asked[part] and len(parts[part]) for part in ("valid", "test")):
        raise ValueError(said)
    logging.getLogger().warning(said)


def _check_topk(config, dataset, parts: dict) -> None:
    """Check that there are enough items; otherwise RecBole ends in `selected index k out of range`."""
    if not any(map(at_k, config["metrics"])):
        return
    most, items = max(config["topk"]), dataset.item_num - 1
    if most > items:
        raise ValueError(f"topk={config['topk']!r}: must be at most {items}, the number of items.")
    for part in ("valid", "test"):
        mode = config["eval_args"]["mode"][part]
        if mode == "full" or len(parts[part]) == 0:
            continue
        positives = int(parts[part].inter_feat[dataset.uid_field].bincount().max())
        candidates = positives * (1 + config[f"{part}_neg_sample_args"]["sample_num"])
        if most > candidates:
            why = f"mode={mode!r} ranks {candidates} items, and all of them are among the first {most}"
            logging.getLogger().warning(f"topk={config['topk']!r}: {why}.")
