"""Checks of the settings that say which data are read: their types, and those for data that are already split."""

COLUMNS = {"load_col": "{'inter': ['user_id', 'item_id']}", "unload_col": "{'inter': ['rating']}"}
DICTIONARIES = {  # with an example of each
    **COLUMNS,
    "unused_col": "{'inter': ['rating']}",
    "seq_len": "{'genre': 5}",
    "threshold": "{'rating': 4}",
    "val_interval": "{'rating': '[4,inf)'}",
    "preload_weight": "{'item_id': 'item_vector'}",
    "discretization": "{'price': {'method': 'ED', 'bucket': 10}}",
}
LISTS = (
    *("alias_of_user_id", "alias_of_item_id", "alias_of_entity_id", "alias_of_relation_id"),
    *("normalize_field", "numerical_features", "additional_feat_suffix"),
)
PARTS = ["train", "valid", "test"]


def check(config) -> None:
    """Check the types of dictionaries and lists, which columns are loaded, and how histories refer to items.

    Raises:
        ValueError: a check fails; the message names the key.
    """
    for key, example in DICTIONARIES.items():
        if config[key] is not None and not isinstance(config[key], dict):
            raise ValueError(f"{key}={config[key]!r}: must be a dictionary like {example}.")
    for key in LISTS:
        if config[key] is not None and not _names(config[key]):
            raise ValueError(f"{key}={config[key]!r}: must be a list of names.")
    _check_columns(config)
    if config["benchmark_filename"] is not None:
        _check_parts(config)


def history_field(config) -> str:
    """The column of the histories in data that are already split."""
    return f"{config['ITEM_ID_FIELD']}{config['LIST_SUFFIX']}"


def _names(value) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _check_columns(config) -> None:
    """Refuse a string, whose letters RecBole would read as columns, and both keys for one file."""
    loaded, left_out = (config[key] or {} for key in COLUMNS)
    for key, example in COLUMNS.items():
        for columns in (config[key] or {}).values():
            if not _names(columns) and not (key == "load_col" and columns == "*"):
                raise ValueError(f"{key}={config[key]!r}: must have a list of columns for each file, like {example}.")
    for source in loaded.keys() & left_out.keys():
        if loaded[source] not in ("*", []) and left_out[source]:
            raise ValueError(
                f"unload_col={left_out!r}: cannot go with load_col={loaded!r}: both name columns of {source!r}."
            )


def _check_parts(config) -> None:
    """Require the alias: without it the items of histories get ids of their own, those of other items."""
    from recbole.utils import ModelType

    parts, aliases = config["benchmark_filename"], config["alias_of_item_id"]
    if not _names(parts) or len(parts) != len(PARTS):
        raise ValueError(f"benchmark_filename={parts!r}: must be a list of three names, like {PARTS}.")
    history = history_field(config)
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL and history not in (aliases or ()):
        raise ValueError(
            f"alias_of_item_id={aliases!r}: must have {history!r}, the histories of benchmark_filename={parts}, "
            f"whose items are those of ITEM_ID_FIELD={config['ITEM_ID_FIELD']!r}."
        )
