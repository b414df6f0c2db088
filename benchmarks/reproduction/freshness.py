"""Checks that the result and the training of a cell on disk have the cell's current settings.

A training's folder is named after the cell, the user's settings and the protocol. The model's own defaults are in a
file inside it, written when the training begins, and compared like those of a result.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from recbole_glintru.launch.errors import UserError
from reproduction import progress
from reproduction.cells import Cell, Stale, Store, check_settings, load_json

FOLDERS = ("data_path", "checkpoint_dir")  # belong to the machine, not to the cell
SETTINGS = "settings.json"


def folder_of(cell: Cell, scratch: Path) -> Path:
    """Where the checkpoints of a cell are."""
    return scratch / cell.dataset / f"{cell.name}-{cell.digest()}"


def configuration(config) -> dict[str, Any]:
    """The part of RecBole's merged settings that JSON can represent."""
    return _plain({key: value for key, value in config.final_config_dict.items() if key not in FOLDERS})


def begin(cell: Cell, folder: Path, config) -> None:
    """Record the settings of a training; one that already has epochs must have been begun with the same.

    Raises:
        Stale: it was begun with other settings.
    """
    check_training(cell, folder)
    if progress.latest(folder) is None:
        record = {"settings": cell.settings(), "configuration": configuration(config)}
        (folder / SETTINGS).write_text(json.dumps(record, default=str), encoding="utf-8")


def check_training(cell: Cell, folder: Path) -> None:
    """Check that the epochs in the folder, if any, are of a training with the cell's current settings.

    Raises:
        Stale: they are not, or their settings are not recorded.
    """
    if progress.latest(folder) is None:
        return
    file = folder / SETTINGS
    if not file.is_file():
        raise Stale(f"{folder} has epochs, but no {SETTINGS} that says what they were trained with.")
    check_settings(folder, cell, load_json(file))


def check(cells: list[Cell], store: Store, scratch: Path, replace: bool) -> None:
    """Check that every result and every training has its cell's current settings.

    Args:
        replace: remove those with other settings.

    Raises:
        UserError: one has other settings.
        Busy: another process is running a training that would be removed.
    """
    for cell in cells:
        try:
            done = store.read(cell) is not None
        except Stale as error:
            _refuse_unless(replace, error)
            store.remove(cell)
            done = False
        folder = folder_of(cell, scratch)
        try:
            if not done:  # otherwise the training is over
                check_training(cell, folder)
        except Stale as error:
            _refuse_unless(replace, error)
            with progress.alone(folder):
                shutil.rmtree(folder)


def _refuse_unless(replace: bool, error: Stale) -> None:
    if not replace:
        raise UserError(f"{error} Move it away, or run it again with --replace.") from None


def _plain(value):
    """A configuration for JSON: numbers, texts and lists; all else as text."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
