"""A cell: one model, trained and tested once on one data set with one seed. Its name, its settings, its files."""

import functools
import hashlib
import json
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import yaml

from recbole_glintru import plugin
from recbole_glintru.launch import protocol
from recbole_glintru.launch.errors import UserError

LONGEST_NAME = 220  # most file systems allow 255 bytes; prefixes and suffixes are added to a name
RESULTS = Path(__file__).resolve().parent.parent / "results"


class Stale(ValueError):
    """A result or a training has other settings than its cell has now; the message names the first difference."""


@dataclass(frozen=True)
class Cell:
    """Everything that a result depends on.

    Args:
        dataset: its name.
        protocol: the name of the protocol, whose settings `changes` overrides.
        model: its name.
        seed: for every random generator.
        changes: key -> value, as pairs sorted by key: the differences from the protocol. Made by `cell`.
    """

    dataset: str
    protocol: str
    model: str
    seed: int
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Readable, and valid as a file name: `GLINTRU,kernel_size=5,seed=666`."""
        seed = f",seed={self.seed}"
        changed = ",".join([self.model, *(f"{key}={value}" for key, value in self.changes)])
        return file_name(changed, LONGEST_NAME - len(seed)) + seed

    def settings(self) -> dict[str, Any]:
        """All settings of the cell that override RecBole's and the model's own defaults."""
        return {**_protocol(self.protocol, self.model), **dict(self.changes), "seed": self.seed}

    def digest(self) -> str:
        """Eight characters that differ if the cell differs, or the settings of user and protocol.

        They do not depend on the model's own defaults, which gain keys that change nothing.
        """
        text = json.dumps([self.dataset, self.model, self.settings()], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def file_name(text: str, most: int = LONGEST_NAME) -> str:
    """The text without what file names should not contain; if it is too long, its end is replaced by a digest."""
    name = re.sub(r"[^\w.,=+-]", "", text)
    if len(name.encode()) <= most:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name.encode()[: most - 9].decode(errors='ignore')},{digest}"


def load_json(file: Path) -> dict[str, Any]:
    """Read a file that this package has written.

    Raises:
        UserError: it is damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}. Remove it.") from None


def own_names(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings by the model's own names, where some have the authors' names, as `dropout_prob` for GLINTRU.

    They are of one level: where both names are among them, the model's own counts.
    """
    from recbole.utils import get_model

    published = getattr(get_model(model), "published_settings", {})
    return {published.get(key, key): settings.get(published.get(key, key), value) for key, value in settings.items()}


def cell(dataset: str, protocol_name: str, model: str, seed: int, changes: Optional[dict[str, Any]] = None) -> Cell:
    """A cell without those `changes` that change nothing, so that tables share cells."""
    unchanged = {**_model_defaults(model), **_protocol(protocol_name, model)}
    kept = {key: value for key, value in (changes or {}).items() if key not in unchanged or unchanged[key] != value}
    return Cell(dataset, protocol_name, model, seed, tuple(sorted(kept.items())))


@functools.cache
def _protocol(name: str, model: str) -> dict[str, Any]:
    return protocol.settings(name, model)


@functools.cache
def _model_defaults(model: str) -> dict[str, Any]:
    entry = plugin.announced_models().get(model)
    package = entry.value.partition(":")[0].partition(".")[0] if entry else "recbole"
    file = plugin.properties(package) / "model" / f"{model}.yaml"
    return _with_numbers((yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None) or {})


def _with_numbers(value: Any) -> Any:
    """RecBole reads `1e-12` as a number, YAML 1.1 as text."""
    if isinstance(value, dict):
        return {key: _with_numbers(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_numbers(one) for one in value]
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", value)
    return float(value) if is_number else value


@dataclass
class Result:
    """The result of a cell.

    Args:
        record: the content of its JSON file, which `running.py` writes.
        ranks: reading -> `[users] uint8`, or wider for long lists: the rank of each user's target among the first
            max(topk), counted from 1, or 0 if it is not among them.
    """

    record: dict[str, Any]
    ranks: dict[str, np.ndarray] = field(default_factory=dict)


class Store:
    """The results, a JSON file and a compressed array file for each cell: `<folder>/cells/<dataset>/<name>.*`.

    Those of a cell whose training is unfinished, with `partial` in the record, are named `<name>.partial.*`.
    """

    def __init__(self, folder: Path = RESULTS):
        self.folder = Path(folder)

    def file(self, of: Cell, partial: bool = False) -> Path:
        return self.folder / "cells" / of.dataset / f"{of.name}{'.partial' if partial else ''}.json"

    def seeds(self, of: Cell) -> list[int]:
        """The seeds of all results, finished or not, that differ from this cell only in the seed."""
        stem = of.name[: -len(str(of.seed))]
        files = self.file(of).parent.glob(f"{stem}*.json")
        seeds = {file.name[len(stem) :].partition(".")[0] for file in files}
        return sorted(int(seed) for seed in seeds if seed.isdecimal())  # not a file that somebody has set aside

    def read(self, of: Cell, partial: bool = False) -> Optional[Result]:
        """The result of a cell, or None; with `partial`, possibly that of an unfinished training.

        Raises:
            Stale: it was run with other settings.
            UserError: a file of it is damaged.
        """
        file = self.file(of)
        if partial and not file.is_file():
            file = self.file(of, partial=True)
        if not file.is_file():
            return None
        record = load_json(file)
        check_settings(file, of, record)
        ranks = file.with_suffix(".npz")
        if not ranks.is_file():
            return Result(record)
        try:
            with np.load(ranks) as arrays:
                return Result(record, {reading: arrays[reading] for reading in arrays.files})
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{ranks} is damaged: {error}. Remove it and {file.name}.") from None

    def write(self, of: Cell, result: Result) -> None:
        """Write a result completely or not at all: the JSON file, which marks a cell as done, is written last."""
        partial = bool(result.record.get("partial"))
        file = self.file(of, partial)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.stem}.npz")
        np.savez_compressed(unfinished, **result.ranks)
        unfinished.replace(file.with_suffix(".npz"))
        unfinished = file.with_name(f".{file.name}")
        unfinished.write_text(_in_lines(result.record), encoding="utf-8")
        unfinished.replace(file)
        if not partial:
            self.remove(of, partial=True)

    def remove(self, of: Cell, partial: bool = False) -> None:
        """Remove a result if there is one."""
        file = self.file(of, partial)
        for one in (file, file.with_suffix(".npz")):
            one.unlink(missing_ok=True)


def check_settings(path: Path, of: Cell, record: dict[str, Any]) -> None:
    """Compare what was run with what would be run now: the cell's settings, and the model's defaults below them.

    Defaults added since are not compared, because what they set did not exist then.

    Args:
        path: where the result or training is.
        record: its `settings` of the cell and `configuration` of RecBole.

    Raises:
        Stale: they differ.
    """
    settings, defaults = json.loads(json.dumps([of.settings(), _model_defaults(of.model)], default=str))
    configured = record.get("configuration", {})
    now, was = {**defaults, **settings}, {**configured, **record["settings"]}
    for key in sorted({*settings, *record["settings"], *(defaults.keys() & configured.keys())}):
        if now.get(key) != was.get(key):
            raise Stale(f"{path} was run with {key}={was.get(key)!r}, but now {key}={now.get(key)!r}.")


def _in_lines(record: dict[str, Any]) -> str:
    """JSON with a line for each key, and one for each dictionary in a list."""

    def text(value):
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n  " + ",\n  ".join(map(text, value)) + "\n ]"
        return json.dumps(value, default=str)

    return "{\n " + ",\n ".join(f"{json.dumps(key)}: {text(value)}" for key, value in record.items()) + "\n}\n"
