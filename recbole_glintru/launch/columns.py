"""Checks of a data set's files: that they can be read, and that the columns which the settings name are there."""

from pathlib import Path
from typing import Optional

from recbole_glintru.launch.checks import sorts_by_time
from recbole_glintru.launch.data_settings import history_field
from recbole_glintru.launch.errors import UserError

TYPES = ("token", "token_seq", "float", "float_seq")


def check(config, interactions: list[Path]) -> None:
    """Check the files of interactions and, if they are read, those of the users' and items' features beside them.

    Raises:
        UserError: a file cannot be read, or a column is missing, left out or of the wrong type; the message names the
            file and the setting.
    """
    _check_fields(config)
    known = set()
    for file in interactions:
        types = _types(config, file)
        for said, name in _needed(config).items():
            _check_column(config, file, types, said, name)
        known |= _loaded(config, file, types)
    _check_named(config, "threshold", known)
    for source, key in (("user", "USER_ID_FIELD"), ("item", "ITEM_ID_FIELD")):
        file = interactions[0].parent / f"{config['dataset']}.{source}"
        if file.is_file() and (config["load_col"] is None or source in config["load_col"]):
            types = _types(config, file)
            _check_column(config, file, types, f"{key}={config[key]!r}", config[key])
            known |= _loaded(config, file, types)
    if not config["additional_feat_suffix"]:  # of which there are more files
        _check_named(config, "val_interval", known)
        known |= {config["LABEL_FIELD"]} if config["threshold"] else set()
        _check_named(config, "normalize_field", known)
        _check_named(config, "discretization", known)


def on_request(load, dataset, file: str, source):
    """Read a file with RecBole's `Dataset._load_feat`.

    `additions.py` calls this in its place if the settings say `check_data: True`.

    Raises:
        ValueError: RecBole's or pandas', for example of a text where a number should be; the message names the file.
    """
    try:
        return load(dataset, file, source)
    except ValueError as error:
        reason = f"{file}: {error}"
        if "convert" in str(error):  # pandas names the text, or the column, or both
            kinds, sources = dataset.field2type, dataset.field2source
            numbers = [name for name in kinds if sources[name] == source and kinds[name].value.startswith("float")]
            reason += f". Columns of type float must have numbers; they are {', '.join(numbers)}."
        raise ValueError(reason) from None


def _check_fields(config) -> None:
    """Refuse a column without a name, where RecBole needs one: None is for data without users and items."""
    from recbole.utils import ModelType

    ids = ("USER_ID_FIELD", "ITEM_ID_FIELD")
    without = [key for key in ids if config[key] is None]
    if without and (len(without) == 1 or config["MODEL_TYPE"] == ModelType.SEQUENTIAL):
        raise UserError(f"{without[0]}=None: must be the name of a column.")
    if config["TIME_FIELD"] is None and sorts_by_time(config):
        raise UserError(f"TIME_FIELD=None: must be the name of a column, because eval_args={config['eval_args']!r}.")


def _types(config, file: Path) -> dict[str, str]:
    """The type of each column, by its name."""
    encoding, separator = config["encoding"], config["field_separator"]
    try:
        with open(file, encoding=encoding) as text:
            header = text.readline().rstrip("\n")
            row = next((line.rstrip("\n") for line in text if line.strip()), "")
            while text.read(1 << 20):
                pass
    except (UnicodeError, LookupError) as error:
        raise UserError(
            f"encoding={encoding!r}: cannot read {file}: {error}. Name the file's encoding, like --encoding=latin-1."
        ) from None
    if header.startswith("\ufeff"):
        raise UserError(f"encoding={encoding!r}: {file} begins with a byte order mark, so set --encoding=utf-8-sig.")
    columns = [column.split(":") for column in header.split(separator)]
    for column in columns:
        if len(column) != 2 or column[1] not in TYPES:
            raise UserError(
                f"field_separator={separator!r}: {file} has a column {':'.join(column)!r}: must be NAME:TYPE, "
                f"with one of the types {', '.join(TYPES)}."
            )
    values = row.count(separator) + 1
    if values > len(columns) and '"' not in row:  # pandas would take the first value for the name of the row
        raise UserError(
            f"field_separator={separator!r}: the first row of {file} has {values} values, but the header has "
            f"{len(columns)} columns."
        )
    return dict(columns)


def _needed(config) -> dict[str, str]:
    """Required columns, by the setting that names each: users, items, the time if RecBole sorts by it, histories."""
    from recbole.utils import ModelType

    keys = ["USER_ID_FIELD", "ITEM_ID_FIELD", *(["TIME_FIELD"] if sorts_by_time(config) else [])]
    needed = {f"{key}={config[key]!r}": config[key] for key in keys if config[key] is not None}
    parts, history = config["benchmark_filename"], history_field(config)
    if parts is not None and config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        needed[f"ITEM_ID_FIELD + LIST_SUFFIX={history!r} (the histories of benchmark_filename={parts})"] = history
    return needed


def _check_column(config, file: Path, types: dict[str, str], said: str, name: Optional[str]) -> None:
    """Check that the file has the column `name` of the setting `said`, of the right type, and that it is loaded."""
    if name not in types:
        remedy = " If the rows are in the order of time, number them there." if name == config["TIME_FIELD"] else ""
        raise UserError(f"{said}: {file} has no such column; it has {', '.join(types)}.{remedy}")
    if name not in _loaded(config, file, types):
        left_out = (config["unload_col"] or {}).get(file.suffix[1:], ())
        which = "unload_col" if name in left_out else "load_col"
        raise UserError(f"{which}={config[which]!r}: leaves out {name!r}, the column of {said}.")
    other_types = {config["TIME_FIELD"]: ("float", "token"), history_field(config): ("token_seq",)}  # than an id's
    possible = other_types.get(name, ("token",))
    if types[name] not in possible:
        raise UserError(f"{said}: the column's type in {file} is {types[name]}, but must be {possible[0]}.")


def _loaded(config, file: Path, types: dict[str, str]) -> set[str]:
    """The columns that RecBole reads of the file."""
    source = file.suffix[1:]
    loaded, left_out = config["load_col"], config["unload_col"] or {}
    columns = types if loaded is None or loaded.get(source) == "*" else loaded.get(source, ())
    return (types.keys() & set(columns)) - set(left_out.get(source, ()))


def _check_named(config, key: str, known: set[str]) -> None:
    """Check that the columns that a setting names are among those that are read."""
    for name in config[key] or ():
        if name not in known:
            remedy = "" if config["load_col"] is None else f" Add it to load_col={config['load_col']!r}."
            columns = ", ".join(sorted(known))
            raise UserError(
                f"{key}={config[key]!r}: {name!r} is not among the columns that are read, {columns}.{remedy}"
            )
