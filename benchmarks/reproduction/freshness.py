"""What is on disk of a cell, its result and its training: whether it was run with the settings that the cell has now.

A training's folder is named after the cell, what the user has set and the protocol. The model's own defaults are in a
file inside it, written when the training begins, and compared as those of a result are.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from recbole_glintru.launch.errors import UserError
from reproduction import progress
from reproduction.cells import Cell, Stale, Store, check_settings

FOLDERS = ("data_path", "checkpoint_dir")  # the machine's, not the cell's
SETTINGS = "settings.json"


def folder_of(cell: Cell, scratch: Path) -> Path:
    """Where the checkpoints of a cell are."""
    return scratch / cell.dataset / f"{cell.name}-{cell.digest()}"


def configuration(config) -> dict[str, Any]:
    """What JSON can hold of RecBole's merged settings."""
    return _plain({key: value for key, value in config.final_config_dict.items() if key not in FOLDERS})


def begin(cell: Cell, folder: Path, config) -> None:
    """Write down what a training is begun with; one that has epochs already has to have been begun with the same.

    Raises:
        Stale: it was begun with other settings.
    """
    check_training(cell, folder)
    if progress.latest(folder) is None:
        record = {"settings": cell.settings(), "configuration": configuration(config)}
        (folder / SETTINGS).write_text(json.dumps(record, default=str), encoding="utf-8")


def check_training(cell: Cell, folder: Path) -> None:
    """See that the epochs in the folder, if there are any, are of a training with the settings that the cell has now.

    Raises:
        Stale: they are not, or nothing says what they are of.
    """
    if progress.latest(folder) is None:
        return
    file = folder / SETTINGS
    if not file.is_file():
        raise Stale(f"{folder} has epochs, and no {SETTINGS} that says what they were trained with.")
    check_settings(folder, cell, json.loads(file.read_text(encoding="utf-8")))


def check(cells: list[Cell], store: Store, scratch: Path, replace: bool) -> None:
    """See that no result was run, and no training begun, with other settings than its cell has now.

    Args:
        replace: remove what was.

    Raises:
        UserError: one was.
        Busy: another process is at a training that would be removed.
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
            if not done:  # otherwise it does not go on
                check_training(cell, folder)
        except Stale as error:
            _refuse_unless(replace, error)
            with progress.alone(folder):
                shutil.rmtree(folder)


def _refuse_unless(replace: bool, error: Stale) -> None:
    if not replace:
        raise UserError(f"{error} Move it away, or run it again with --replace.") from None


def _plain(value):
    """What JSON can hold of a configuration: numbers, texts, lists; the rest by its name."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
