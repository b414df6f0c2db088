"""The data set on disk: found before the run starts, or downloaded if RecBole has an address for it."""

import shutil
import sys
import urllib.error
import zipfile
from pathlib import Path

import yaml

from recbole_glintru import plugin
from recbole_glintru.launch.checks import sorts_by_time
from recbole_glintru.launch.data_settings import history_field
from recbole_glintru.launch.errors import UserError


def find_data(config) -> None:
    """Check that the interactions are where RecBole will look, or download them, and that all columns are there.

    RecBole would download by itself, but then a broken connection leaves a folder behind that it takes for the data.

    Raises:
        UserError: the data were not found and cannot be downloaded (the message says where), or lack a column.
    """
    name, folder, parts = config["dataset"], Path(config["data_path"]), config["benchmark_filename"]
    files = [folder / f"{name}.inter"] if parts is None else [folder / f"{name}.{part}.inter" for part in parts]
    saved = config["dataset_save_path"]  # RecBole's, already filtered
    by_default = Path(config["checkpoint_dir"]).glob("*-*Dataset.pth")
    if Path(saved).exists() if saved else any(file.stem.rpartition("-")[0] == name for file in by_default):
        return
    if not all(file.is_file() for file in files):
        _have_downloaded(config, name, folder, files)
    for file in filter(Path.is_file, files):
        _check_columns(config, file)


def _have_downloaded(config, name: str, folder: Path, files: list[Path]) -> None:
    from recbole.utils import ModelType

    looked_for = f"no data for '{name}': looked for {', '.join(str(file.resolve()) for file in files)}"
    remedy = f"Put the data there, or name the folder that holds {name}/ with --data_path=DIR."
    if folder.exists():
        raise UserError(f"{looked_for}; the folder exists, but not the data. {remedy}")
    addresses = yaml.safe_load((plugin.properties("recbole") / "dataset" / "url.yaml").read_text("utf-8"))
    if name not in addresses:
        raise UserError(f"{looked_for}, and RecBole has no download of that name. {remedy}")
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        return  # for these models RecBole also downloads a knowledge graph
    try:
        download(name, addresses[name], folder)
    except (
        OSError,
        zipfile.BadZipFile,
        RuntimeError,
    ) as error:  # RuntimeError: RecBole's, for a broken connection
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UserError(f"{looked_for}; the download of {addresses[name]} failed: {reason}. {remedy}") from None


def _check_columns(config, file: Path) -> None:
    """Check that the file of interactions has the required columns, of the right types, and that they are loaded."""
    with open(file, encoding=config["encoding"], errors="replace") as lines:
        header = lines.readline().rstrip("\n").split(config["field_separator"])
    types = {name: kind for name, _, kind in (column.partition(":") for column in header)}
    loaded, left_out = (config[key] or {} for key in ("load_col", "unload_col"))
    loaded = loaded.get("inter", ()) if loaded else "*"
    other_types = {config["TIME_FIELD"]: ["float", "token"], history_field(config): ["token_seq"]}  # than an id's
    for said, name in _needed(config).items():
        if name not in types:
            raise UserError(f"{said}: {file} has no such column; it has {', '.join(types)}.")
        if (loaded != "*" and name not in loaded) or name in left_out.get("inter", ()):
            which = "unload_col" if name in left_out.get("inter", ()) else "load_col"
            raise UserError(f"{which}={config[which]!r}: leaves out {name!r}, the column of {said}.")
        possible = other_types.get(name, ["token"])
        if types[name] not in possible:
            kind = types[name] or "missing"
            raise UserError(f"{said}: the column's type in {file} is {kind}, but must be {possible[0]}.")


def _needed(config) -> dict[str, str]:
    """Required columns, by the setting that names each: users, items, the time if RecBole sorts by it, histories."""
    from recbole.utils import ModelType

    keys = ["USER_ID_FIELD", "ITEM_ID_FIELD", *(["TIME_FIELD"] if sorts_by_time(config) else [])]
    needed = {f"{key}={config[key]!r}": config[key] for key in keys if config[key] is not None}
    parts, history = config["benchmark_filename"], history_field(config)
    if parts is not None and config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        needed[f"ITEM_ID_FIELD + LIST_SUFFIX={history!r} (the histories of benchmark_filename={parts})"] = history
    return needed


def download(name: str, address: str, folder: Path) -> None:
    """Create `folder` from RecBole's archive of the data set `name`, completely or not at all.

    Raises:
        OSError, BadZipFile, RuntimeError: the download failed.
        UserError: it is larger than 1 GB, and the user declined or cannot be asked.
    """
    from recbole.utils import url

    try:
        agreed = url.decide_download(address)
    except EOFError:  # no standard input, as under nohup
        asks = "RecBole asks before it downloads more than 1 GB, and got no answer (`echo y | ...` gives one)"
        raise UserError(f"'{name}' was not downloaded: {asks}.") from None
    if not agreed:
        raise UserError(f"'{name}' was not downloaded.")
    print(f"Downloading {address} to {folder.resolve()}", file=sys.stderr)
    try:
        archive = Path(url.download_url(address, str(folder)))
        url.extract_zip(str(archive), str(folder))
        archive.unlink()
        url.rename_atomic_files(str(folder), archive.stem, name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
