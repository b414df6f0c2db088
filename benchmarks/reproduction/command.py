"""The command line of `benchmarks/reproduce.py`."""

import json
import os
import sys
from pathlib import Path

from recbole_glintru.launch import protocol
from recbole_glintru.launch.arguments import parse_settings
from recbole_glintru.launch.errors import UserError
from reproduction import arguments, freshness, grids, parent, scheduling
from reproduction.cells import Cell, Store


def main(words: list[str], help_text: str = "") -> int:
    """Run the command line and return the exit status.

    0: all cells are done; 1: some are not, and stderr says which; 2: a user error; 3: another process is running this
    cell; 130: Ctrl-C.
    """
    from reproduction.progress import Busy, Interrupted

    try:
        if words[:1] == ["table3"]:
            from reproduction import efficiency_table

            return efficiency_table.run(words[1:])
        options, words = arguments.parser().parse_known_args(words)
        if options.help:
            print(help_text)
            return 0
        if options.table == "cell" and options.description:
            return run_one(options)
        words = parse_settings(words, arguments.USAGE)
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
        print("Interrupted; the same command continues where this one ended.", file=sys.stderr)
        return 130


def run_one(options) -> int:
    """Run one cell in this process; it ends, at the latest after an epoch, when the process that started it is gone."""
    if options.parent is not None:
        parent.end_with(options.parent)
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
        partial=options.partial,
    )
    return scheduling.DONE


def reproduce(options, words: dict[str, str]) -> int:
    """A table or figure: run what is missing, then report."""
    arguments.check(options)
    name, (changes, own) = options.table, arguments.changes(words)
    experiment = grids.EXPERIMENTS[name]
    dataset = options.dataset or experiment.dataset
    applied = arguments.protocol_of(options.protocol, dataset)
    chosen = arguments.models(options.models)
    arguments.check_models(name, chosen, own)
    variants = arguments.variants(name, chosen, arguments.values(options.values, name), own)
    seeds = arguments.seeds(changes.pop("seed", protocol.settings(applied, variants[0].model)["seed"]), options.seeds)
    place = scheduling.Place(
        Store(Path(options.results)),
        Path(options.scratch or arguments.scratch()),
        Path(options.data_path or "dataset"),
        options.jobs,
        options.threads or max(1, arguments.cores() // options.jobs),
        arguments.seconds(options.budget),
    )
    # The first seed of every model comes before the second of any.
    cells = [one for seed in seeds for row in variants for one in grids.cells(row, dataset, applied, [seed], changes)]
    if experiment.kind == "mixing":
        arguments.check_mixing(cells[0])
    left = _run(cells, words, place, options)
    from reproduction import report

    every = arguments.variants(name, list(grids.ALL) if experiment.kind == "models" else None, None, own)
    every += [one for one in variants if one not in every]
    print(report.write(name, dataset, applied, changes, place, every, seeds, options.reading))
    for line in left:
        print(f"not done: {line}", file=sys.stderr)
    return 1 if left else 0


def _run(cells: list[Cell], words: dict[str, str], place: scheduling.Place, options) -> list[str]:
    """Run or test what the options say, and return what is left undone and why."""
    if options.report and not (options.partial or options.retest):
        arguments.check_settings(cells, words)
        return []
    trains = not (options.report or options.retest)
    arguments.check_settings(cells, words, place.data_path)
    # Last, because it may delete: all other checks have passed.
    freshness.check(cells, place.store, place.scratch, options.replace and trains)
    left = scheduling.run(cells, place) if trains else []
    if options.retest:
        left += scheduling.test(cells, place, partial=False)
    if options.partial:
        left += scheduling.test(cells, place, partial=True)
    return left


def table1(options, words: dict[str, str]) -> int:
    """Statistics of the data sets, the paper's unless one is named."""
    from reproduction import statistics_of_data

    arguments.check(options)
    if words:
        raise UserError(f"--{next(iter(words))}: table1 accepts --dataset, --protocol, --data_path and --results.")
    names = [options.dataset] if options.dataset else list(statistics_of_data.IN_THE_PAPER)
    applied = {name: arguments.protocol_of(options.protocol, name) for name in names}
    print(statistics_of_data.write(applied, Path(options.data_path or "dataset"), Path(options.results)))
    return 0
