"""The command-line arguments of `benchmarks/reproduce.py`, and their checks."""

import argparse
import ast
import difflib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from recbole_glintru import plugin
from recbole_glintru.launch import protocol
from recbole_glintru.launch.configuration import command_line, merged_settings
from recbole_glintru.launch.data import find_data
from recbole_glintru.launch.errors import UserError
from reproduction import grids, progress
from reproduction.cells import RESULTS, Cell
from reproduction.running import READINGS

USAGE = "benchmarks/reproduce.py TABLE [--dataset=NAME] [--models=A,B|all] [--seeds=N] [--key=value ...]; see --help"
TABLES = ("table1", "table2", "table3", *(name for name in grids.EXPERIMENTS if name != "table2"))

OF_THE_MACHINE = ("gpu_id", "use_gpu")  # no part of a cell


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors."""

    def error(self, message):
        raise UserError(f"{message}\nusage: {USAGE}")


def parser() -> Parser:
    made = Parser(add_help=False, allow_abbrev=False)
    made.add_argument("--help", "-h", action="store_true")
    made.add_argument("table", nargs="?")
    made.add_argument("description", nargs="?", help="of one cell, in JSON, as the scheduler passes it to processes")
    for name in ("dataset", "protocol", "models", "values", "budget", "data_path", "scratch"):
        made.add_argument(f"--{name}")
    made.add_argument("--results", default=str(RESULTS))
    made.add_argument("--reading", default="fixed")
    for name, default in (("seeds", 3), ("jobs", 1), ("threads", None), ("parent", None)):
        made.add_argument(f"--{name}", type=int, default=default)
    for name in ("report", "partial", "retest", "replace"):
        made.add_argument(f"--{name}", action="store_true")
    return made


def check(options) -> None:
    """Check that the table exists and that the numbers make sense.

    Raises:
        UserError: they do not.
    """
    if options.table is None:
        raise UserError(f"which table? One of {', '.join(TABLES)}.\nusage: {USAGE}")
    if options.table not in TABLES:
        raise UserError(f"'{options.table}' is not a table: {_nearest(options.table, TABLES)}")
    if options.description is not None:
        raise UserError(f"'{options.description}' is not an option; name a data set with --dataset.")
    for name in ("seeds", "jobs", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name}={getattr(options, name)}: must be at least 1.")
    if options.reading not in READINGS:
        raise UserError(f"--reading={options.reading}: must be one of {', '.join(READINGS)}.")


def seeds(first: Any, number: int) -> list[int]:
    """`number` seeds, counted up from the first."""
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise UserError(f"--seed={first}: must be a whole number.")
    return [first + more for more in range(number)]


def seconds(text: Optional[str]) -> float:
    """`2h`, `1h30m`, `90s`, `90` -> seconds.

    Raises:
        UserError: it is not such a time.
    """
    if text is None:
        return float("inf")
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
    if not text or match is None:
        raise UserError(f"--budget={text}: must be a time such as 2h, 1h30m or 90s.")
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    return 3600.0 * hours + 60.0 * minutes + rest


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def scratch() -> Path:
    """The default folder for checkpoints."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "recbole_glintru", "reproduce")


def protocol_of(wanted: Optional[str], dataset: str) -> str:
    """The name of the protocol to apply: by default that of the data set."""
    name = wanted or dataset
    if name not in protocol.files():
        asked = f"--protocol={wanted}" if wanted else f"--dataset={dataset}: it has no protocol; --protocol"
        raise UserError(f"{asked}: must be one of {', '.join(protocol.files())}.")
    return name


def models(text: Optional[str]) -> Optional[list[str]]:
    """The names in `--models`, each once; None if it is not given."""
    if text is None:
        return None
    if text == "all":
        return list(grids.ALL)
    named = list(dict.fromkeys(text.replace(",", " ").split()))
    if not named:
        raise UserError("--models: names no model.")
    for model in named:
        if model not in plugin.model_names():
            raise UserError(plugin.unknown_model_message(model))
    return named


def check_models(table: str, chosen: Optional[list[str]], own: dict[str, dict[str, Any]]) -> None:
    """Check that the table has the models that are chosen, and those with settings of their own.

    Raises:
        UserError: it does not.
    """
    kind = grids.EXPERIMENTS[table].kind
    if chosen and kind not in ("models", "width"):
        raise UserError(f"--models={','.join(chosen)}: {table} does not compare models that can be chosen.")
    reported = {variant.model for variant in grids.variants(table, chosen)} | {*(grids.ALL if kind == "models" else ())}
    for model, settings in own.items():
        if model not in reported:
            raise UserError(f"--{model}.{next(iter(settings))}: {table} does not have {model}.")


def values(text: Optional[str], table: str) -> Optional[list[int]]:
    """The numbers in `--values`, each once; None if it is not given."""
    if text is None:
        return None
    if table not in grids.EXPERIMENTS or not grids.EXPERIMENTS[table].values:
        raise UserError(f"--values={text}: {table} does not vary a number.")
    words = text.replace(",", " ").split()
    if not words or not all(word.isdigit() and int(word) for word in words):
        raise UserError(f"--values={text}: must be positive whole numbers, as in --values=3,5,7.")
    return list(dict.fromkeys(int(word) for word in words))


def variants(name: str, chosen: Optional[list[str]], numbers: Optional[list[int]], own) -> list[grids.Variant]:
    """The rows of a table or points of a figure; `own`: model -> its own settings."""
    return [replace(one, own=own.get(one.model, {})) for one in grids.variants(name, chosen, numbers)]


def changes(words: dict[str, str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings for every model, and those for one, `--MODEL.key=value`: model -> settings."""
    for_all, own = {}, {}
    for key, word in words.items():
        model, dot, of_model = key.partition(".")
        if dot:
            models(model)
            if of_model == "seed":
                raise UserError(f"--{key}={word}: the seeds are those of all models: --seed, --seeds.")
            own.setdefault(model, {})[of_model] = _value(word)
        else:
            for_all[key] = _value(word)
    return for_all, own


def check_mixing(cell: Cell) -> None:
    """Check that a cell has mixing weights.

    Raises:
        UserError: it does not, because one of the two experts is missing.
    """
    for key in ("use_gru", "use_linear_attention"):
        if not dict(cell.changes).get(key, True):
            raise UserError(f"--{key}=False: there are no mixing weights without both experts.")


def _value(text: str) -> Any:
    """Parse a number or a truth value; RecBole parses the rest."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, (bool, int, float)) else text


def _nearest(name: str, names) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"must be one of {', '.join(names)}."


def check_settings(cells: list[Cell], words: dict[str, str], data_path: Optional[Path] = None) -> None:
    """Find mistakes before anything is run: settings that are refused or never read, and missing data.

    Args:
        data_path: where the data are or will be downloaded to; None if none are needed.
    """
    known, configs = set(), []
    for model in dict.fromkeys(cell.model for cell in cells):
        cell = next(cell for cell in cells if cell.model == model)
        above = {} if data_path is None else {"data_path": str(data_path.resolve())}
        with command_line([]), protocol.as_config_files(cell.protocol, model) as files:
            plain = merged_settings(model, cell.dataset, files)
            known |= {*plain.final_config_dict, *(key for keys in plain.parameters.values() for key in keys)}
            known |= {*getattr(plain.model_class, "published_settings", {})}
            configs.append(merged_settings(model, cell.dataset, files, {**dict(cell.changes), **above}))
    for key in words:
        setting = key.partition(".")[2] or key
        if setting in OF_THE_MACHINE:
            raise UserError(f"--{key}={words[key]}: not a cell's setting; set CUDA_VISIBLE_DEVICES, empty for the CPU.")
        if setting not in known and key not in known:
            raise UserError(f"--{key}={words[key]}: {_nearest(key, sorted(known))}")
    for config in configs:
        progress.check_validation(config)
    if data_path is not None:
        find_data(configs[0])
