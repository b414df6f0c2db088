"""The report of a table or figure: Markdown and a picture, from the results that are there."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from reproduction import figures, grids, progress, significance
from reproduction.cells import Cell
from reproduction.rows import Row, collect
from reproduction.running import READINGS, folder_of
from reproduction.scheduling import Place

REFERENCES = {"models": "GLINTRU", "parts": "default", "activations": "silu"}  # the row that the others are set against


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
    title = f"{name.capitalize().replace('le', 'le ').replace('re', 're ')}: {experiment.title}, {dataset}"
    if not rows:
        return f"# {title}\n\nNo results yet.\n" + "".join(f"\n{note}\n" for note in notes)
    labels = named_readings(rows[0])
    blocks = [f"# {title}", _introduction(rows, labels, reading, protocol, changes)]
    blocks += [accuracy(rows, reading, labels)]
    reference = next((row for row in rows if row.label == REFERENCES.get(experiment.kind)), None)
    if reference is not None and len(rows) > 1:
        blocks.append(comparisons(rows, reference, reading, labels))
    blocks += [every_reading(rows, labels), costs(rows), *notes]
    if missing:
        blocks.append(f"No results yet: {', '.join(missing)}.")
    file = report_file(store.folder, name, dataset, changes)
    if figures.draw(experiment, rows, reading, labels[reading], title, file.with_suffix(".png")):
        blocks.insert(2, f"![{title}]({file.with_suffix('.png').name})")
    text = "\n\n".join(block for block in blocks if block) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return text


def unfinished(cell: Cell, place: Place) -> list[str]:
    """What there is to say of a cell that is in the middle of its training."""
    records = None if place.store.file(cell).is_file() else progress.records(folder_of(cell, place.scratch))
    if records is None:
        return []
    most, best = cell.settings()["epochs"], ", ".join(f"{key} {value}" for key, value in records["best"].items())
    return [f"Unfinished: {cell.name}, {len(records['epochs'])} of at most {most} epochs; best validation: {best}."]


def efficiency_in_the_paper() -> str:
    """The paper's Table 3."""
    paper, columns = grids.PAPER["table3"], ("ms a batch, inference", "s an epoch, training", "GB, GPU memory")
    blocks = ["## The paper's Table 3, batches of 2048"]
    for dataset in grids.PAPER["table1"]:
        if dataset != "columns":
            lines = [[model, *map(str, figures)] for model, figures in paper[dataset].items()]
            blocks.append(table([dataset, *columns], lines))
    return "\n\n".join(blocks)


def report_file(folder: Path, name: str, dataset: str, changes: dict[str, Any]) -> Path:
    settings = "".join(f",{key}={value}" for key, value in sorted(changes.items()))
    return Path(folder, re.sub(r"[^\w.,=+-]", "", f"{name}-{dataset}{settings}.md"))


def named_readings(row: Row) -> dict[str, str]:
    """Reading -> its name, with the protocol's mode of evaluation in it."""
    mode = row.one()["mode"]
    return {key: text.format(mode=mode, number=mode.lstrip("uniop")) for key, text in READINGS.items()}


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    head = list(head)
    rule = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])


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


def _device(described: dict[str, Any]) -> str:
    threads = described.get("threads")
    return described["name"] + (f", {threads} thread{'s' * (threads > 1)}" if threads else "")


def accuracy(rows: list[Row], reading: str, labels: dict[str, str]) -> str:
    """Ours and, where the paper has figures, the paper's and the relative difference."""
    metrics = [metric for metric in grids.METRICS if metric.lower() in rows[0].one()["readings"][reading]]
    printed = any(metric in row.paper for row in rows for metric in metrics)
    head = ["", "seeds"]
    for metric in metrics:
        head += [metric, "paper", "difference"] if printed else [metric]
    lines = []
    for row in rows:
        line = [row.label, str(len(row.results))]
        for metric in metrics:
            line.append(_plus_minus(row.mean(reading, metric), row.deviation(reading, metric)))
            if printed:
                line += [_number(row.paper.get(metric)), _percent(row.difference(reading, metric))]
        lines.append(line)
    return f"## Accuracy: {labels[reading]}\n\n{table(head, lines)}"


def comparisons(rows: list[Row], reference: Row, reading: str, labels: dict[str, str]) -> str:
    """The reference's rank, its margin over each of the others, and p of both tests."""
    metrics = grids.METRICS
    places = [
        f"{1 + sum(row.mean(reading, metric) > reference.mean(reading, metric) for row in rows)} by {metric}"
        for metric in metrics
    ]
    head = ["against"]
    for metric in metrics:
        head += [f"{metric}: margin", "paper's", "p users", "p seeds"]
    lines, alike = [], True
    for row in rows:
        if row is reference:
            continue
        line = [row.label]
        for metric in metrics:
            p_users, same = significance.over_users(reference.results, row.results, reading, metric)
            alike = alike and (same or p_users is None)
            printed = reference.paper[metric] / row.paper[metric] - 1 if metric in row.paper else None
            line += [
                _percent(_margin(reference, row, reading, metric)),
                _percent(printed),
                _p(p_users),
                _p(significance.over_seeds(reference.results, row.results, reading, metric)),
            ]
        lines.append(line)
    text = (
        f"## {reference.label} against the others: {labels[reading]}\n\nRank of {len(rows)}: {', '.join(places)}. "
        "Margins are relative to the other, p of two-sided paired t-tests, over users (each user's mean over the "
        "common seeds) and over seeds; - where there is nothing to test: one seed, or a reading without fixed "
        f"candidates.\n\n{table(head, lines)}"
    )
    return text if alike else text + "\n\nNot all had the same candidates: p over users is of unlike draws."


def _margin(reference: Row, row: Row, reading: str, metric: str) -> Optional[float]:
    theirs = row.mean(reading, metric)
    return reference.mean(reading, metric) / theirs - 1 if theirs else None


def every_reading(rows: list[Row], labels: dict[str, str]) -> str:
    """A table for each metric, and which reading the paper's figures are nearest to."""
    blocks = ["## Every reading"]
    for metric in grids.METRICS:
        printed = any(metric in row.paper for row in rows)
        head = [metric, *labels.values(), *(["paper"] if printed else [])]
        lines = [
            [row.label, *(_number(row.mean(reading, metric)) for reading in labels)]
            + ([_number(row.paper.get(metric))] if printed else [])
            for row in rows
        ]
        blocks.append(table(head, lines))
    others = [row for row in rows if row.paper and row.variant.model != "GLINTRU" and grids.METRICS[0] in row.paper]
    if others:
        lines = []
        for reading, label in labels.items():
            found = [row.difference(reading, metric) for row in others for metric in grids.METRICS]
            mean = sum(found) / len(found)
            distance = sum(map(abs, found)) / len(found)
            lines.append([label, _percent(mean), _percent(distance).lstrip("+")])
        blocks.append(
            "From the paper's figures, over the three metrics and all models but GLINT-RU "
            f"({', '.join(row.label for row in others)}):"
        )
        blocks.append(table(["reading", "mean difference", "mean distance"], lines))
    return "\n\n".join(blocks)


def costs(rows: list[Row]) -> str:
    """Parameters, epochs, times and memory; the paper's where the table is about them."""
    printed = [key for key in rows[0].paper if key not in grids.METRICS]
    head = ["", "parameters", "epochs (best)", "s an epoch (CPU s)", "s a test pass (CPU s)", "ms a batch of it"]
    devices = {_device(row.one()["device"]) for row in rows}
    head += ["peak MiB", "savings", *(["run on"] if len(devices) > 1 else [])]
    head += [f"paper: {key.replace('_', ' ')}" for key in printed]
    lines = []
    for row in rows:
        record = row.one()
        memory = [result.record["peak_memory_MiB"] for result in row.results.values()]
        lines.append(
            [
                row.label,
                f"{record['parameters']:,}",
                f"{row.training('epochs'):.0f} ({row.training('best_epoch'):.0f})",
                f"{row.training('seconds_per_epoch'):.1f} ({row.training('cpu_seconds_per_epoch'):.1f})",
                f"{row.training('seconds_per_evaluation'):.2f} ({row.training('cpu_seconds_per_evaluation'):.2f})",
                f"{1000 * row.training('seconds_per_evaluation') / row.training('evaluation_batches'):.1f}",
                f"{max(memory):.0f}" if None not in memory else "-",
                record["savings"],
                *([_device(record["device"])] if len(devices) > 1 else []),
                *(_number(row.paper.get(key), 2) for key in printed),
            ]
        )
    return (
        "## Cost\n\nMedians over the epochs of a run, data loading included; where other work ran beside it, the CPU "
        "seconds are the better measure. A test pass ranks every user's target among the protocol's candidates. Peak "
        "memory is the process's on a CPU, data included, and the tensors' on a GPU. Savings "
        f"of RecBole's own models are exact: `recbole_glintru/accelerate.py`.\n\n{table(head, lines)}"
    )


def _number(value: Optional[float], digits: int = 4) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _plus_minus(mean: float, deviation: Optional[float]) -> str:
    return _number(mean) if deviation is None else f"{_number(mean)} ± {deviation:.4f}"


def _percent(value: Optional[float]) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:+.1f} %"


def _p(value: Optional[float]) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
