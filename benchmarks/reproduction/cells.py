"""A cell: one model, trained and tested once on one data set with one seed. Its name, its settings, its files."""

import functools
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import yaml

from recbole_glintru import plugin
from recbole_glintru.launch import protocol

RESULTS = Path(__file__).resolve().parent.parent / "results"


class Stale(ValueError):
    """A result, or a training, is of other settings than its cell has now; the message names the first that differs."""


@dataclass(frozen=True)
class Cell:
    """What a result depends on.

    Args:
        dataset: its name.
        protocol: the name of the protocol, whose settings lie below `changes`.
        model: its name.
        seed: of every random generator.
        changes: key -> value, as pairs sorted by key; what differs from the protocol. Made by `cell`.
    """

    dataset: str
    protocol: str
    model: str
    seed: int
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Readable, and good for a file: `GLINTRU,kernel_size=5,seed=666`."""
        parts = [self.model, *(f"{key}={value}" for key, value in self.changes), f"seed={self.seed}"]
        return re.sub(r"[^\w.,=+-]", "", ",".join(parts))

    def settings(self) -> dict[str, Any]:
        """All that the cell sets above RecBole's and the model's own defaults."""
        return {**_protocol(self.protocol, self.model), **dict(self.changes), "seed": self.seed}

    def digest(self) -> str:
        """Eight characters that differ where the cell does, or what user and protocol set.

        They are the same whatever the model's own defaults are, which gain keys that change nothing.
        """
        text = json.dumps([self.dataset, self.model, self.settings()], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def cell(dataset: str, protocol_name: str, model: str, seed: int, changes: Optional[dict[str, Any]] = None) -> Cell:
    """A cell whose `changes` are without those that change nothing, so that tables share what they have in common."""
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
    """What a cell came to.

    Args:
        record: what its JSON file holds; `running.py` says what is in it.
        ranks: reading -> `[users] uint8`, or wider for long lists: the place of each user's target among the first
            max(topk), from 1, 0 if it is not there.
    """

    record: dict[str, Any]
    ranks: dict[str, np.ndarray] = field(default_factory=dict)


class Store:
    """The results, a JSON file and a compressed array file for each cell: `<folder>/cells/<dataset>/<name>.*`.

    Those of a cell whose training goes on, records with `partial`, are named `<name>.partial.*`.
    """

    def __init__(self, folder: Path = RESULTS):
        self.folder = Path(folder)

    def file(self, of: Cell, partial: bool = False) -> Path:
        return self.folder / "cells" / of.dataset / f"{of.name}{'.partial' if partial else ''}.json"

    def seeds(self, of: Cell) -> list[int]:
        """The seeds of all results, ended or not, that differ from this cell in nothing else."""
        stem = of.name[: -len(str(of.seed))]
        files = self.file(of).parent.glob(f"{stem}*.json")
        return sorted({int(file.name[len(stem) :].partition(".")[0]) for file in files})

    def read(self, of: Cell, partial: bool = False) -> Optional[Result]:
        """The result of a cell, None if there is none; with `partial`, one of a training that goes on will do.

        Raises:
            Stale: it was run with other settings.
        """
        file = self.file(of)
        if partial and not file.is_file():
            file = self.file(of, partial=True)
        if not file.is_file():
            return None
        record = json.loads(file.read_text(encoding="utf-8"))
        check_settings(file, of, record)
        ranks = file.with_suffix(".npz")
        if not ranks.is_file():
            return Result(record)
        with np.load(ranks) as arrays:
            return Result(record, {reading: arrays[reading] for reading in arrays.files})

    def write(self, of: Cell, result: Result) -> None:
        """Write a result whole or not at all: the JSON file, which makes a cell done, comes last."""
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
    """Compare what was run with what would be: the settings above the model's defaults, and these defaults.

    Defaults that have come into being since are not compared: what they set was not there to be set.

    Args:
        path: what was run is there.
        record: of it, the cell's `settings` and RecBole's `configuration`.

    Raises:
        Stale: they differ.
    """
    settings, defaults = json.loads(json.dumps([of.settings(), _model_defaults(of.model)], default=str))
    configured = record.get("configuration", {})
    now, was = {**defaults, **settings}, {**configured, **record["settings"]}
    for key in sorted({*settings, *record["settings"], *(defaults.keys() & configured.keys())}):
        if now.get(key) != was.get(key):
            raise Stale(f"{path} was run with {key}={was.get(key)!r}, and {key}={now.get(key)!r} now.")


def _in_lines(record: dict[str, Any]) -> str:
    """JSON with a line for each key, and one for each dictionary in a list."""

    def text(value):
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n  " + ",\n  ".join(map(text, value)) + "\n ]"
        return json.dumps(value, default=str)

    return "{\n " + ",\n ".join(f"{json.dumps(key)}: {text(value)}" for key, value in record.items()) + "\n}\n"
