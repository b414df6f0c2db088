"""What a table shows of a variant: the results of its seeds, and what the paper prints for it."""

import math
import statistics
from dataclasses import dataclass, field
from typing import Any, Optional

from reproduction import grids
from reproduction.cells import Result, Stale, Store


@dataclass
class Row:
    """A line of a table.

    Args:
        label: its name.
        variant: what was run.
        results: seed -> result, of those that are there.
        paper: metric -> the paper's figure, empty where it has none.
    """

    label: str
    variant: grids.Variant
    results: dict[int, Result] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)

    def values(self, reading: str, metric: str) -> list[float]:
        """One for each seed. RecBole's metrics under the names of the table: it writes them in lower case."""
        return [result.record["readings"][reading][metric.lower()] for result in self.results.values()]

    def mean(self, reading: str, metric: str) -> float:
        values = self.values(reading, metric)
        return statistics.mean(values) if values else math.nan

    def deviation(self, reading: str, metric: str) -> Optional[float]:
        """Of a sample; None of fewer than two seeds."""
        values = self.values(reading, metric)
        return statistics.stdev(values) if len(values) > 1 else None

    def difference(self, reading: str, metric: str) -> Optional[float]:
        """From the paper's figure, relative to it."""
        if metric not in self.paper or not self.results:
            return None
        return self.mean(reading, metric) / self.paper[metric] - 1

    def training(self, key: str) -> float:
        """The mean over the seeds of what a result says of its training."""
        values = [result.record["training"][key] for result in self.results.values()]
        return statistics.mean(values) if values else math.nan

    def one(self) -> dict[str, Any]:
        """The record of the first seed, for what all have in common."""
        return next(iter(self.results.values())).record


def collect(
    name: str, variants: list[grids.Variant], dataset: str, protocol: str, seeds: list[int], changes, store: Store
) -> tuple[list[Row], list[str]]:
    """The rows, and notes on the results that are left out because they were run with other settings."""
    rows, notes = [], []
    for variant in variants:
        parts = [variant.label] if variant.value is None or variant.label == str(variant.value) else []
        parts = parts or [variant.label, str(variant.value)]
        parts += [f"{key}={value}" for key, value in variant.own.items()]
        row = Row(", ".join(parts), variant, paper=_printed(name, protocol, variant))
        for cell in grids.cells(variant, dataset, protocol, seeds, changes):
            try:
                result = store.read(cell)
            except Stale as error:
                notes.append(f"Left out: {error}")
                continue
            if result is not None:
                row.results[cell.seed] = result
        rows.append(row)
    return rows, notes


def _printed(name: str, protocol: str, variant: grids.Variant) -> dict[str, float]:
    table = grids.PAPER.get(name, {})
    if table.get("dataset", protocol) != protocol:
        return {}
    figures = (table if "dataset" in table else table.get(protocol, {})).get(variant.label)
    return dict(zip(table["columns"], figures)) if figures else {}
