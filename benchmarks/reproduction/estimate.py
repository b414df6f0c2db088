"""Estimates when cells will be done, from the epochs on disk."""

import datetime
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from reproduction import progress
from reproduction.cells import Cell
from reproduction.freshness import folder_of


class Estimate:
    """How far the cells are, and how long they will take at most, from the epochs on disk.

    For a cell without epochs the time is that of the same model on the same data, or else the mean of all that are
    known. Most cells stop before their last epoch.
    """

    def __init__(self, cells: list[Cell], scratch: Path, jobs: int):
        self.cells, self.scratch, self.jobs = list(cells), scratch, jobs
        self.cells_over: set[Cell] = set()
        self.most = {cell: int(cell.settings()["epochs"]) for cell in cells}
        self._done: dict[Cell, int] = {}
        self._seconds: dict[Cell, float] = {}
        self.done(cells)  # by earlier commands

    def epochs(self) -> int:
        """The largest number of epochs of all cells together."""
        return sum(self.most.values())

    def over(self, cell: Cell) -> None:
        """Mark the cell as ended."""
        self.cells_over.add(cell)

    def done(self, running: Iterable[Cell]) -> int:
        """Epochs that are done or no longer needed; those of `running` are read from disk."""
        for cell in running:
            records = progress.records(folder_of(cell, self.scratch))
            if records is not None:
                seconds = [one["seconds"]["training"] + one["seconds"]["validation"] for one in records["epochs"]]
                self._done[cell], self._seconds[cell] = len(seconds), statistics.median(seconds)
        return sum(self.most[cell] if cell in self.cells_over else self._done.get(cell, 0) for cell in self.cells)

    def seconds(self) -> Optional[float]:
        """At most so many seconds until all are done; None while no epoch is known."""
        if not self._seconds:
            return None
        alike: dict[tuple[str, str], float] = {}
        for cell, seconds in self._seconds.items():
            alike[cell.dataset, cell.model] = seconds
        mean = statistics.mean(alike.values())
        left = 0.0
        for cell in self.cells:
            if cell not in self.cells_over:
                each = self._seconds.get(cell, alike.get((cell.dataset, cell.model), mean))
                left += each * (self.most[cell] - self._done.get(cell, 0))
        at_once = min(self.jobs, len(self.cells) - len(self.cells_over))
        return left / max(1, at_once)

    def text(self) -> str:
        seconds = self.seconds()
        if seconds is None:
            return "end not known yet"
        return f"end by {datetime.datetime.now() + datetime.timedelta(seconds=seconds):%a %H:%M}"
