"""The paper's protocol for a data set, `properties/dataset/<dataset>.yaml`, as RecBole's configuration files.

Such a file is flat, in RecBole's keys, except for `models`: model name -> settings for that model alone, which override
the others. Importing the package does not apply it; the command lines do, and the user's own settings override it.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import yaml

from recbole_glintru import plugin
from recbole_glintru.compat.defects import columns_under


def files() -> dict[str, Path]:
    """The data sets that have a protocol, and their files."""
    return {file.stem: file for file in sorted((plugin.properties("recbole_glintru") / "dataset").glob("*.yaml"))}


def settings(name: str, model: str) -> dict[str, Any]:
    """The protocol `name` for one model: its settings for all models, overridden by those for this one."""
    merged = yaml.safe_load(files()[name].read_text(encoding="utf-8"))
    merged.update(merged.pop("models").get(model, {}))
    return merged


def under(given: Mapping[str, Any], merged: dict[str, Any]) -> dict[str, Any]:
    """The protocol's settings below the user's: its columns are renamed as `given`, or dropped for `unload_col`."""
    columns = merged.pop("load_col", None)
    if columns is not None and given.get("unload_col") in (None, "None"):
        merged["load_col"] = columns_under(columns, given)
    return merged


def choose(wanted: Optional[str], dataset: str) -> Optional[str]:
    """The protocol to apply: that of the data set, if any, unless another or "none" is wanted.

    Raises:
        ValueError: there is no protocol of that name.
    """
    if wanted is None:
        return dataset if dataset in files() else None
    if wanted != "none" and wanted not in files():
        raise ValueError(f"--protocol={wanted}: must be one of none, {', '.join(files())}.")
    return None if wanted == "none" else wanted


@contextlib.contextmanager
def as_config_files(name: Optional[str], model: str, given: Optional[Mapping[str, Any]] = None) -> Iterator[list[str]]:
    """The configuration files, one or none, that contain the protocol; they are removed after the block.

    `given` are the user's settings above it, with the names of columns.
    """
    if name is None:
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="recbole_glintru_") as folder:
        file = Path(folder, f"{name}.yaml")
        file.write_text(yaml.safe_dump(under(given or {}, settings(name, model))), encoding="utf-8")
        yield [str(file)]
