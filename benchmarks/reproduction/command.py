"""The command line of `benchmarks/reproduce.py`."""

import argparse
import ast
import difflib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from recbole_glintru import plugin
from recbole_glintru.launch import protocol
from recbole_glintru.launch.arguments import parse_settings
from recbole_glintru.launch.configuration import command_line, merged_settings
from recbole_glintru.launch.data import find_data
from recbole_glintru.launch.errors import UserError
from reproduction import grids, scheduling
from reproduction.cells import RESULTS, Cell, Store

USAGE = "benchmarks/reproduce.py TABLE [--dataset=NAME] [--models=A,B|all] [--seeds=N] [--key=value ...]; see --help"
TABLES = ("table1", "table2", "table3", *(name for name in grids.EXPERIMENTS if name != "table2"))
READINGS = ("validation", "test", "fixed", "uniform", "full")


class Parser(argparse.ArgumentParser):
    """A mistake is a UserError."""

    def error(self, message):
        raise UserError(f"{message}\nusage: {USAGE}")


def parser() -> Parser:
    made = Parser(add_help=False, allow_abbrev=False)
    made.add_argument("--help", "-h", action="store_true")
    made.add_argument("table", nargs="?")
    made.add_argument("description", nargs="?", help="of one cell, in JSON: what the scheduler starts processes with")
    for name in ("dataset", "protocol", "models", "values", "budget", "data_path", "scratch"):
        made.add_argument(f"--{name}")
    made.add_argument("--results", default=str(RESULTS))
    made.add_argument("--reading", default="fixed")
    for name, default in (("seeds", 3), ("jobs", 1), ("threads", None), ("parent", None)):
        made.add_argument(f"--{name}", type=int, default=default)
    made.add_argument("--report", action="store_true")
    made.add_argument("--replace", action="store_true")
    return made


def main(arguments: list[str], help_text: str = "") -> int:
    """Run the command line and return the exit status.

    0: all cells are done; 1: some are not, and stderr says which; 2: a mistake of the user's; 3: another process is at
    this cell; 130: Ctrl-C.
    """
    from reproduction.progress import Busy, Interrupted

    try:
        if arguments[:1] == ["table3"]:
            return table3(arguments[1:])
        options, words = parser().parse_known_args(arguments)
        if options.help:
            print(help_text)
            return 0
        if options.table == "cell" and options.description:
            return run_one(options)
        words = parse_settings(words, USAGE)
        if options.table == "table1":
            return table1(options, words)
        return reproduce(options, words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return scheduling.MISTAKE
    except Busy as error:
        print(f"error: {error}", file=sys.stderr)
        return scheduling.BUSY
    except (KeyboardInterrupt, Interrupted):
        print("Interrupted; the same command goes on where this one ended.", file=sys.stderr)
        return 130


def run_one(options) -> int:
    """One cell in this process; it ends after an epoch when the process that started it is gone."""
    import torch

    from reproduction import running

    described = json.loads(options.description)
    changes = tuple(sorted(described.pop("changes").items()))
    if options.threads:
        torch.set_num_threads(options.threads)
    running.run(
        Cell(changes=changes, **described),
        Store(Path(options.results)),
        Path(options.scratch),
        Path(options.data_path) if options.data_path else None,
        stop=lambda: options.parent is not None and os.getppid() != options.parent,
    )
    return scheduling.DONE


def reproduce(options, words: dict[str, str]) -> int:
    """A table or figure: run what is missing, then report."""
    _check(options)
    name, (changes, own) = options.table, _changes(words)
    experiment = grids.EXPERIMENTS[name]
    dataset = options.dataset or experiment.dataset
    applied = _protocol(options.protocol, dataset)
    variants = _variants(name, _models(options.models), _values(options.values, name), own)
    seeds = _seeds(changes.pop("seed", protocol.settings(applied, variants[0].model)["seed"]), options.seeds)
    place = scheduling.Place(
        Store(Path(options.results)),
        Path(options.scratch or _scratch()),
        Path(options.data_path or "dataset"),
        options.jobs,
        options.threads or max(1, _cores() // options.jobs),
        seconds(options.budget),
    )
    left = []
    if not options.report:
        # The first seed of every model comes before the second of any.
        cells = [
            one for seed in seeds for row in variants for one in grids.cells(row, dataset, applied, [seed], changes)
        ]
        scheduling.check_fresh(cells, place.store, options.replace)
        _check_settings(cells, words, place.data_path)
        left = scheduling.run(cells, place)
    from reproduction import report

    every = _variants(name, list(grids.ALL) if experiment.kind == "models" else None, None, own)
    every += [one for one in variants if one not in every]
    print(report.write(name, dataset, applied, changes, place, every, seeds, options.reading))
    for line in left:
        print(f"not done: {line}", file=sys.stderr)
    return 1 if left else 0


def table1(options, words: dict[str, str]) -> int:
    """Statistics of the data sets, the paper's unless one is named."""
    from reproduction import statistics_of_data

    _check(options)
    if words:
        raise UserError(f"--{next(iter(words))}: table1 takes --dataset, --protocol, --data_path and --results.")
    names = [options.dataset] if options.dataset else list(statistics_of_data.IN_THE_PAPER)
    applied = {name: _protocol(options.protocol, name) for name in names}
    print(statistics_of_data.write(applied, Path(options.data_path or "dataset"), Path(options.results)))
    return 0


def table3(arguments: list[str]) -> int:
    """The efficiency benchmark, with its own options, and the paper's figures below it."""
    from reproduction import report

    file = Path(__file__).resolve().parent.parent / "efficiency.py"
    status = subprocess.run([sys.executable, str(file), *arguments]).returncode
    if status == 0 and not {"--help", "-h"} & set(arguments):
        print(report.efficiency_in_the_paper())
    return status


# ------------------------------------------------------------------------------------------------ what the user said


def _check(options) -> None:
    if options.table is None:
        raise UserError(f"which table? One of {', '.join(TABLES)}.\nusage: {USAGE}")
    if options.table not in TABLES:
        raise UserError(f"'{options.table}' is no table: {_nearest(options.table, TABLES)}")
    if options.description is not None:
        raise UserError(f"'{options.description}' is no option; a data set is named by --dataset.")
    for name in ("seeds", "jobs", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name}={getattr(options, name)}: must be at least 1.")
    if options.reading not in READINGS:
        raise UserError(f"--reading={options.reading}: must be one of {', '.join(READINGS)}.")


def _seeds(first: Any, number: int) -> list[int]:
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise UserError(f"--seed={first}: must be a whole number.")
    return [first + more for more in range(number)]


def seconds(text: Optional[str]) -> float:
    """`2h`, `1h30m`, `90s`, `90` -> seconds.

    Raises:
        UserError: it is no such time.
    """
    if text is None:
        return float("inf")
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
    if not text or match is None:
        raise UserError(f"--budget={text}: must be a time such as 2h, 1h30m or 90s.")
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    return 3600.0 * hours + 60.0 * minutes + rest


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _scratch() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "recbole_glintru", "reproduce")


def _protocol(wanted: Optional[str], dataset: str) -> str:
    name = wanted or dataset
    if name not in protocol.files():
        asked = f"--protocol={wanted}" if wanted else f"--dataset={dataset}: it has no protocol; --protocol"
        raise UserError(f"{asked}: must be one of {', '.join(protocol.files())}.")
    return name


def _models(text: Optional[str]) -> Optional[list[str]]:
    if text is None:
        return None
    if text == "all":
        return list(grids.ALL)
    models = [name for name in text.replace(",", " ").split() if name]
    if not models:
        raise UserError("--models: names no model.")
    for model in models:
        if model not in plugin.model_names():
            raise UserError(plugin.unknown_model_message(model))
    return models


def _values(text: Optional[str], table: str) -> Optional[list[int]]:
    if text is None:
        return None
    if table not in grids.EXPERIMENTS or not grids.EXPERIMENTS[table].values:
        raise UserError(f"--values={text}: {table} varies no number.")
    words = text.replace(",", " ").split()
    if not words or not all(word.isdigit() and int(word) for word in words):
        raise UserError(f"--values={text}: must be whole numbers from 1, as in --values=3,5,7.")
    return [int(word) for word in words]


def _variants(name: str, models: Optional[list[str]], values: Optional[list[int]], own) -> list[grids.Variant]:
    return [replace(one, own=own.get(one.model, {})) for one in grids.variants(name, models, values)]


def _changes(words: dict[str, str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings for every model, and those for one, `--MODEL.key=value`: model -> settings."""
    for_all, own = {}, {}
    for key, word in words.items():
        model, dot, of_model = key.partition(".")
        if dot:
            _models(model)
            own.setdefault(model, {})[of_model] = _value(word)
        else:
            for_all[key] = _value(word)
    return for_all, own


def _value(text: str) -> Any:
    """A number or a truth value where the text is one; RecBole reads the rest."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, (bool, int, float)) else text


def _nearest(name: str, names) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"must be one of {', '.join(names)}."


def _check_settings(cells: list[Cell], words: dict[str, str], data_path: Path) -> None:
    """Find mistakes before anything is run: settings that nobody reads or that are refused, data that is missing."""
    known: set[str] = set()
    for number, model in enumerate(dict.fromkeys(cell.model for cell in cells)):
        cell = next(cell for cell in cells if cell.model == model)
        with command_line([]), protocol.as_config_files(cell.protocol, model) as files:
            plain = merged_settings(model, cell.dataset, files)
            known |= {*plain.final_config_dict, *(key for keys in plain.parameters.values() for key in keys)}
            config = merged_settings(
                model, cell.dataset, files, {**dict(cell.changes), "data_path": str(data_path.resolve())}
            )
        if number == 0:
            find_data(config)
    for key in words:
        if key.partition(".")[2] not in known and key not in known:
            raise UserError(f"--{key}={words[key]}: {_nearest(key, sorted(known))}")
