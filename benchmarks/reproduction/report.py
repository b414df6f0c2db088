"""The report of a table or figure: Markdown and a picture, from the existing results."""

import math
import re
from pathlib import Path
from typing import Any

from measure.report import replace

from reproduction import comparisons, consistency, figures, freshness, grids, progress
from reproduction.cells import Cell, Stale, file_name
from reproduction.freshness import folder_of
from reproduction.markdown import number, percent, plus_minus, table
from reproduction.rows import Row, batch_of, collect, other_data
from reproduction.running import READINGS
from reproduction.scheduling import Place

REFERENCES = {
    "models": "GLINTRU",
    "parts": "default",
    "variations": "default",
    "activations": "silu",
}  # the variant that the others are compared with
SAME_VALUE = ("kernel", "width")  # kinds of experiments where models are compared at each value
MIXING_EPOCHS = (0, 1, 2, 5, 10, 20, 50, 100)
COSTS = {  # of the paper's table -> ours, in the same unit
    "inference_ms": Row.batch_milliseconds,
    "training_s_per_epoch": lambda row: row.training("seconds_per_epoch"),
    "gpu_memory_GB": lambda row: row.peak_memory() * 2**20 / 1e9 if row.one()["device"]["type"] == "cuda" else math.nan,
}


def write(
    name: str,
    dataset: str,
    protocol: str,
    changes: dict[str, Any],
    place: Place,
    variants: list[grids.Variant],
    seeds: list[int],
    reading: str = "fixed",
) -> str:
    """Write `<results>/<name>-<dataset>.md` and `.png`, and return the Markdown."""
    experiment, store = grids.EXPERIMENTS[name], place.store
    rows, notes = collect(name, variants, dataset, protocol, seeds, changes, store)
    missing = [row.label for row in rows if not row.results]
    for variant in variants:
        for cell in grids.cells(variant, dataset, protocol, seeds, changes):
            notes += unfinished(cell, place)
    rows = [row for row in rows if row.results]
    number_apart = re.sub(r"(\d)", r" \1", name.capitalize(), count=1)  # Table 2
    title = f"{number_apart}: {experiment.title}, {dataset}"
    if not rows:
        return f"# {title}\n\nNo results yet.\n" + "".join(f"\n{note}\n" for note in notes)
    labels = named_readings(rows[0])
    blocks = [
        f"# {title}",
        "\n\n".join([_introduction(rows, labels, reading, protocol, changes), *_head(rows, protocol)]),
    ]
    reference = next((row for row in rows if row.variant.label == REFERENCES.get(experiment.kind)), None)
    supported = comparisons.supported_reading(rows, labels)
    for shown in [reading] if supported in (reading, None) else [reading, supported]:
        blocks.append(accuracy(rows, shown, labels))
        if shown == supported:
            blocks.append("Of all readings, the paper's figures of the others are nearest to this one.")
        if reference is not None and len(rows) > 1:
            blocks.append(comparisons.against_one(rows, reference, shown, labels))
    if experiment.kind in SAME_VALUE:
        what = figures.VARIED[experiment.kind]
        blocks.append(comparisons.at_each_value(rows, "GLINTRU", what, reading, labels))
    if experiment.kind == "mixing":
        blocks.insert(2, mixing_weights(rows[0]))
    blocks += [comparisons.every_reading(rows, labels), costs(rows), *notes]
    if missing:
        blocks.append(f"No results yet: {'; '.join(missing)}.")
    file = report_file(store.folder, name, dataset, changes, variants, reading)
    if figures.draw(experiment, rows, reading, labels[reading], title, file.with_suffix(".png")):
        blocks.insert(2, f"![{title}]({file.with_suffix('.png').name})")
    text = "\n\n".join(block for block in blocks if block) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    replace(file, text)
    return text


def unfinished(cell: Cell, place: Place) -> list[str]:
    """A note on a cell whose training is unfinished."""
    folder = folder_of(cell, place.scratch)
    records = None if place.store.file(cell).is_file() else progress.records(folder)
    if records is None:
        return []
    try:
        freshness.check_training(cell, folder)
    except Stale as error:
        return [f"Left out: {error}"]
    most, best = cell.settings()["epochs"], ", ".join(f"{key} {value}" for key, value in records["best"].items())
    return [f"Unfinished: {cell.name}, {len(records['epochs'])} of at most {most} epochs; best validation: {best}."]


def report_file(
    folder: Path, name: str, dataset: str, changes: dict[str, Any], variants: list[grids.Variant], reading: str
) -> Path:
    """The name of the report: a separate file for each choice of the user that changes its figures."""
    own = {f"{variant.model}.{key}": value for variant in variants for key, value in variant.own.items()}
    words = [f"{key}={value}" for settings in (changes, own) for key, value in sorted(settings.items())]
    words += [f"reading={reading}"] if reading != "fixed" else []
    return Path(folder, file_name(",".join([f"{name}-{dataset}", *words])) + ".md")


def named_readings(row: Row) -> dict[str, str]:
    """Reading -> its name, with the protocol's mode of evaluation in it."""
    mode = row.one()["mode"]
    return {key: text.format(mode=mode, number=mode.lstrip("uniop")) for key, text in READINGS.items()}


def _introduction(rows, labels, reading, protocol, changes) -> str:
    records = [result.record for row in rows for result in row.results.values()]
    devices = sorted({_device(record["device"]) for record in records})
    commits = sorted({(record["package"]["commit"] or "unknown")[:10] for record in records})
    settings = "".join(f", {key}={value}" for key, value in sorted(changes.items()))
    return (
        f"Protocol {protocol}{settings}; means over seeds, ± the standard deviation. Reading: {labels[reading]}. A "
        "fixed draw has the same candidates for every model and seed; RecBole draws anew at every pass. "
        f"Run on {'; '.join(devices)}. Commits: {', '.join(commits)}."
    )


def _head(rows: list[Row], protocol: str) -> list[str]:
    """Notes to read before the figures."""
    unended = [row.label for row in rows if row.so_far()]
    lines = [f"These trainings have not ended, and their best epoch so far is tested: {'; '.join(unended)}."]
    at_limit = [row.label for row in rows if row.at_limit()]
    cut = [f"These trainings ended at the most epochs allowed, perhaps before their best: {', '.join(at_limit)}."]
    notes = (lines if unended else []) + (cut if at_limit else [])
    return notes + other_data(rows, protocol) + consistency.contradictions(rows)


def _device(described: dict[str, Any]) -> str:
    threads = described.get("threads")
    return described["name"] + (f", {threads} thread{'s' * (threads > 1)}" if threads else "")


def accuracy(rows: list[Row], reading: str, labels: dict[str, str]) -> str:
    """Our figures and, where the paper has some, the paper's and the relative difference."""
    metrics = [metric for metric in grids.METRICS if any(row.values(reading, metric) for row in rows)]
    if not metrics:
        return f"## Accuracy: {labels[reading]}\n\nNo result has this reading."
    printed = any(metric in row.paper for row in rows for metric in metrics)
    printed = printed and reading not in comparisons.OTHER_QUANTITIES
    head = ["", "seeds"]
    for metric in metrics:
        head += [metric, "paper", "difference"] if printed else [metric]
    lines = []
    for row in rows:
        line = [row.label, str(len(row.values(reading, metrics[0])))]
        for metric in metrics:
            line.append(plus_minus(row.mean(reading, metric), row.deviation(reading, metric)))
            if printed:
                line += [number(row.paper.get(metric)), percent(row.difference(reading, metric))]
        lines.append(line)
    return f"## Accuracy: {labels[reading]}\n\n{table(head, lines)}"


def mixing_weights(row: Row) -> str:
    """The weight of the dense selective GRU in the course of the training, for each seed."""
    histories = row.mixing()
    longest = max(len(weights) for weights in histories.values()) - 1
    epochs = [epoch for epoch in MIXING_EPOCHS if epoch < longest]
    lines = []
    for seed, weights in histories.items():
        for block, last in enumerate(weights[-1]):
            name = f"{seed}, block {block + 1}" if len(weights[-1]) > 1 else str(seed)
            course = [number(weights[epoch][block][0] if epoch < len(weights) else None) for epoch in epochs]
            lines.append([name, *course, f"{number(last[0])} ({len(weights) - 1})"])
    return (
        "## Weight of the dense selective GRU after so many epochs\n\nThe linear attention's is the rest to 1.\n\n"
        + table(["seed", *map(str, epochs), "at the end (epochs)"], lines)
    )


def costs(rows: list[Row]) -> str:
    """Parameters, epochs, times and memory, and if the table has them the paper's figures and the differences."""
    printed = [key for key in rows[0].paper if key in COSTS]
    batch = batch_of(rows)
    head = ["", "parameters", "epochs (best)", "s an epoch (CPU s)", "s a test pass (CPU s)", f"ms of it per {batch}"]
    devices = {_device(row.one()["device"]) for row in rows}
    head += ["peak MiB", "savings", *(["run on"] if len(devices) > 1 else [])]
    for key in printed:
        head += [f"paper: {key.replace('_', ' ')}", "difference"]
    lines = []
    for row in rows:
        record, mean = row.one(), row.training
        line = [
            row.label,
            f"{record['parameters']:,}",
            f"{number(mean('epochs'), 0)} ({number(mean('best_epoch'), 0)})",
            f"{number(mean('seconds_per_epoch'), 1)} ({number(mean('cpu_seconds_per_epoch'), 1)})",
            f"{number(mean('seconds_per_evaluation'), 2)} ({number(mean('cpu_seconds_per_evaluation'), 2)})",
            number(row.batch_milliseconds(), 1),
            number(row.peak_memory(), 0),
            _savings(record),
            *([_device(record["device"])] if len(devices) > 1 else []),
        ]
        for key in printed:
            paper = row.paper.get(key)
            line += [number(paper, 2), percent(COSTS[key](row) / paper - 1 if paper else None)]
        lines.append(line)
    compared = (
        f" The paper's are of an unnamed GPU, its inference of batches of {grids.PAPER['table3']['batch_size']:,}: a "
        "difference of times is one of machines too, and memory is compared on a GPU alone."
    )
    return (
        "## Cost\n\nMedians over the epochs of a run, data loading included; where other work ran beside it, the CPU "
        "seconds are the better measure. A test pass ranks every user's target among the protocol's candidates. Its ms "
        f"are the pass's time over the number of batches that RecBole makes of it, of at most {batch} "
        "(`eval_batch_size`); of sampled candidates fewer and larger ones may be run, and each history is encoded once "
        "where the model can. Peak memory is the process's on a CPU, data included, and the tensors' on a GPU. Savings "
        f"of RecBole's own models are exact: `recbole_glintru/accelerate.py`.{compared if printed else ''}"
        f"\n\n{table(head, lines)}"
    )


def _savings(record: dict[str, Any]) -> str:
    """The savings, and the optional extra that changes the time: with Numba, the selective scan on a CPU uses it."""
    compiled = record["device"]["type"] == "cpu" and "numba" in record["versions"]
    scans = record["configuration"].get("scan_backend") in ("auto", "numba")
    return record["savings"] + (", Numba" if compiled and scans else "")
