"""A row of a table: the results of a variant's seeds, and the paper's figures for it."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Optional

from reproduction import grids
from reproduction.cells import Result, Stale, Store

COUNTED = ("users", "items", "interactions")  # as in Table 1 and, without RecBole's padding, in a result


@dataclass
class Row:
    """A line of a table.

    Args:
        label: its name.
        variant: what was run.
        results: seed -> result, for the existing results.
        paper: metric -> the paper's figure; empty if it has none.
    """

    label: str
    variant: grids.Variant
    results: dict[int, Result] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)

    def values(self, reading: str, metric: str, seeds: Optional[Iterable[int]] = None) -> list[float]:
        """One value for each seed that has the reading: RecBole's metrics, which have lower-case names and are rounded.

        Args:
            seeds: only these.
        """
        chosen = self.results.values() if seeds is None else (self.results[seed] for seed in seeds)
        found = ((result.record["readings"].get(reading) or {}).get(metric.lower()) for result in chosen)
        return [value for value in found if value is not None]

    def mean(self, reading: str, metric: str, seeds: Optional[Iterable[int]] = None) -> float:
        """The mean over the seeds; NaN without any."""
        values = self.values(reading, metric, seeds)
        return statistics.mean(values) if values else math.nan

    def deviation(self, reading: str, metric: str) -> Optional[float]:
        """The sample standard deviation; None for fewer than two seeds."""
        values = self.values(reading, metric)
        return statistics.stdev(values) if len(values) > 1 else None

    def difference(self, reading: str, metric: str) -> Optional[float]:
        """The relative difference from the paper's figure."""
        if metric not in self.paper or not self.values(reading, metric):
            return None
        return self.mean(reading, metric) / self.paper[metric] - 1

    def training(self, key: str) -> float:
        """The mean over the seeds of a figure of the training; NaN if no result has it."""
        records = [result.record["training"] for result in self.results.values()]
        values = [record[key] for record in records if record.get(key) is not None]
        return statistics.mean(values) if values else math.nan

    def batch_milliseconds(self) -> float:
        """The time of a test pass divided by RecBole's number of batches (`batch_of`), whatever batches were run."""
        return 1000 * self.training("seconds_per_evaluation") / self.training("evaluation_batches")

    def peak_memory(self) -> float:
        """The largest over the seeds, MiB; NaN if a result lacks it."""
        values = [result.record.get("peak_memory_MiB") for result in self.results.values()]
        return math.nan if None in values else max(values)

    def one(self) -> dict[str, Any]:
        """The record of the first seed, for what all have in common."""
        return next(iter(self.results.values())).record

    def mixing(self) -> dict[int, list[list[list[float]]]]:
        """Seed -> at the start and after every epoch, for each block: the weights of GRU and linear attention."""
        records = {seed: result.record for seed, result in self.results.items()}
        return {
            seed: [record["mixing_at_start"], *(epoch["mixing"] for epoch in record["epochs"])]
            for seed, record in records.items()
        }

    def at_limit(self) -> bool:
        """Whether a training ended at the limit of epochs rather than by early stopping."""
        records = [result.record for result in self.results.values() if not result.record.get("partial")]
        return any(record["training"]["epochs"] >= record["settings"].get("epochs", math.inf) for record in records)

    def so_far(self) -> str:
        """`7 of 200 epochs` if the trainings are unfinished, otherwise empty."""
        records = [result.record for result in self.results.values() if result.record.get("partial")]
        if not records:
            return ""
        epochs = [record["training"]["epochs"] for record in records]
        done = f"{min(epochs)} to {max(epochs)}" if min(epochs) < max(epochs) else str(epochs[0])
        return f"{done} of {records[0]['settings']['epochs']} epochs"


def collect(
    name: str, variants: list[grids.Variant], dataset: str, protocol: str, seeds: list[int], changes, store: Store
) -> tuple[list[Row], list[str]]:
    """The rows, and notes on the results left out because they have other settings or are unfinished.

    A row has every seed with a result, even if it is not among `seeds`.

    An unfinished training represents its variant only if none of the variant's trainings is finished: a mean over both
    would be meaningless.
    """
    rows, notes = [], []
    for variant in variants:
        row = Row(_label(variant), variant, paper=_printed(name, protocol, variant))
        (first, *_) = grids.cells(variant, dataset, protocol, seeds, changes)
        for cell in grids.cells(variant, dataset, protocol, sorted({*seeds, *store.seeds(first)}), changes):
            try:
                result = store.read(cell, partial=True)
            except Stale as error:
                notes.append(f"Left out: {error}")
                continue
            if result is not None:
                row.results[cell.seed] = result
        ended = {seed: result for seed, result in row.results.items() if not result.record.get("partial")}
        if ended and len(ended) < len(row.results):
            unended = Row(row.label, variant, {seed: row.results[seed] for seed in row.results if seed not in ended})
            notes.append(f"Left out: {row.label}, seed {', '.join(map(str, unended.results))}, {unended.so_far()}.")
            row.results = ended
        if row.so_far():
            row.label += f" ({row.so_far()})"
        rows.append(row)
    return rows, notes


def other_data(rows: list[Row], protocol: str) -> list[str]:
    """Notes on data that differ from the paper's: a count is more than 1 % off that in Table 1."""
    if protocol not in grids.PAPER["table1"] or not any(row.paper for row in rows):
        return []
    printed = dict(zip(grids.PAPER["table1"]["columns"], grids.PAPER["table1"][protocol]))
    paddings = {"users": 1, "items": 1, "interactions": 0}  # the paper counts RecBole's padding user and item
    counts = {
        tuple(result.record[key] for key in COUNTED)
        for row in rows
        for result in row.results.values()
        if all(key in result.record for key in COUNTED)
    }
    return [
        f"The data differs from the paper's: {_counts(own)}; Table 1 of the paper: "
        f"{_counts(printed[key] for key in COUNTED)}, with RecBole's padding. So its figures are of other data."
        for own in sorted(counts)
        if any(abs(value / (printed[key] - paddings[key]) - 1) > 0.01 for key, value in zip(COUNTED, own))
    ]


def batch_of(rows: list[Row]) -> str:
    """The maximal size of a batch in RecBole's evaluation, `eval_batch_size`: `2,048 candidates`."""
    records = [result.record for row in rows for result in row.results.values()]
    sizes = sorted({record["configuration"]["eval_batch_size"] for record in records})
    rated = "histories" if rows[0].one()["mode"] == "full" else "candidates"
    return f"{' or '.join(f'{size:,}' for size in sizes)} {rated}"


def _counts(values: Iterable[int]) -> str:
    return ", ".join(f"{value:,} {key}" for key, value in zip(COUNTED, values))


def _label(variant: grids.Variant) -> str:
    parts = [variant.label] if variant.value is None or variant.label == str(variant.value) else []
    label = ", ".join(parts or [variant.label, str(variant.value)])
    own = ", ".join(f"{key}={value}" for key, value in variant.own.items())
    return f"{label} ({own})" if own else label


def _printed(name: str, protocol: str, variant: grids.Variant) -> dict[str, float]:
    table = grids.PAPER.get(name, {})
    if table.get("dataset", protocol) != protocol:
        return {}
    figures = (table if "dataset" in table else table.get(protocol, {})).get(variant.label)
    return dict(zip(table["columns"], figures)) if figures else {}
