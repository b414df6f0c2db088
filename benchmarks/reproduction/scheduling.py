"""Running cells side by side, each in a process of its own, with a progress bar that says when they will be done."""

import contextlib
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from recbole_glintru.launch.errors import UserError
from reproduction import progress
from reproduction.cells import Cell, Stale, Store
from reproduction.running import folder_of

DONE, MISTAKE, BUSY = 0, 2, 3  # exit statuses of a cell's process
LOG = "output.log"


@dataclass(frozen=True)
class Place:
    """Where cells are run.

    Args:
        store: where results go.
        scratch: where checkpoints go.
        data_path: the folder of the data sets; RecBole's choice for data that comes with it.
        jobs: processes side by side.
        threads: of each.
        budget: seconds after which no further cell is started.
    """

    store: Store
    scratch: Path
    data_path: Path
    jobs: int = 1
    threads: int = 1
    budget: float = float("inf")

    def command(self, cell: Cell) -> list[str]:
        """The command line of a cell's process."""
        description = {**vars(cell), "changes": dict(cell.changes)}
        return [
            sys.executable,
            str(Path(__file__).resolve().parent.parent / "reproduce.py"),
            "cell",
            json.dumps(description),
            f"--results={self.store.folder.resolve()}",
            f"--scratch={self.scratch.resolve()}",
            f"--data_path={self.data_path.resolve()}",
            f"--threads={self.threads}",
            f"--parent={os.getpid()}",
        ]


def run(cells: list[Cell], place: Place, poll: float = 2.0) -> list[str]:
    """Run what is not done, in the order given, and say what is left undone and why.

    Ctrl-C, or a SIGTERM, ends the processes; they have lost no finished epoch.

    Raises:
        UserError: a cell found a mistake of the user's. The others are ended too.
        KeyboardInterrupt: the user said so.
    """
    from tqdm import tqdm

    waiting, left = [cell for cell in dict.fromkeys(cells) if place.store.read(cell) is None], []
    if not waiting:
        return left
    running: dict[Cell, subprocess.Popen] = {}
    end = time.monotonic() + place.budget
    estimate = Estimate(waiting, place)
    with _terminated_like_ctrl_c(), tqdm(total=estimate.epochs(), unit="epoch", dynamic_ncols=True) as bar:
        display = _Display(bar, estimate)
        try:
            while running or (waiting and time.monotonic() < end):
                while waiting and len(running) < place.jobs and time.monotonic() < end:
                    cell = waiting.pop(0)
                    running[cell] = _start(cell, place)
                time.sleep(poll)
                for cell, process in list(running.items()):
                    status = process.poll()
                    if status is None:
                        continue
                    del running[cell]
                    estimate.over(cell)
                    if status == MISTAKE:
                        raise UserError(_last_line(cell, place))
                    if status != DONE:
                        left.append(f"{cell.dataset} {cell.name}: {_reason(status, cell, place)}")
                        bar.write(left[-1])
                display.show(running)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    return left + [f"{cell.dataset} {cell.name}: not begun within the budget" for cell in waiting]


class _Display:
    """The progress bar, written anew when something has changed, or every ten seconds."""

    def __init__(self, bar, estimate: "Estimate"):
        self.bar, self.estimate, self.shown, self.at = bar, estimate, None, 0.0

    def show(self, running) -> None:
        done, over, cells = self.estimate.done(running), len(self.estimate.cells_over), self.estimate.cells
        state = done, over, list(running)
        if state != self.shown or time.monotonic() > self.at + 10:
            self.shown, self.at = state, time.monotonic()
            self.bar.n = done
            names = ", ".join(cell.name for cell in running)
            self.bar.set_description_str(f"{over}/{len(cells)} cells, {names}" if names else "", refresh=False)
            self.bar.set_postfix_str(self.estimate.text())


def _start(cell: Cell, place: Place) -> subprocess.Popen:
    folder = folder_of(cell, place.scratch)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOG, "ab") as log:
        # A session of its own: Ctrl-C reaches the cells through this process alone.
        return subprocess.Popen(
            place.command(cell), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )


def _last_line(cell: Cell, place: Place) -> str:
    lines = (folder_of(cell, place.scratch) / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1].partition("error: ")[2] or lines[-1] if lines else "no output"


def _reason(status: int, cell: Cell, place: Place) -> str:
    if status == BUSY:
        return "another process is at it"
    ended = f"killed by {signal.Signals(-status).name}" if status < 0 else f"failed: {_last_line(cell, place)}"
    return f"{ended} ({folder_of(cell, place.scratch) / LOG})"


@contextlib.contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Estimate:
    """How far the cells are and how long they will take at most, from the epochs that are on disk.

    An epoch of a cell that has none yet takes as long as one of the same model on the same data, or else as the mean
    of all that are known. Most cells stop before their last epoch.
    """

    def __init__(self, cells: list[Cell], place: Place):
        self.cells, self.place, self.cells_over = list(cells), place, set()
        self.most = {cell: int(cell.settings()["epochs"]) for cell in cells}
        self._done: dict[Cell, int] = {}
        self._seconds: dict[Cell, float] = {}
        self.done(cells)  # by earlier commands

    def epochs(self) -> int:
        """Most epochs of all cells."""
        return sum(self.most.values())

    def over(self, cell: Cell) -> None:
        """The cell has come to its end."""
        self.cells_over.add(cell)

    def done(self, running: Iterable[Cell]) -> int:
        """Epochs that are done, or that no longer need to be; those of `running` are looked up."""
        for cell in running:
            records = progress.records(folder_of(cell, self.place.scratch))
            if records is not None:
                seconds = [one["seconds"]["training"] + one["seconds"]["validation"] for one in records["epochs"]]
                self._done[cell], self._seconds[cell] = len(seconds), statistics.median(seconds)
        return sum(self.most[cell] if cell in self.cells_over else self._done.get(cell, 0) for cell in self.cells)

    def seconds(self) -> Optional[float]:
        """Until all are done, at most; None as long as no epoch is known."""
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
        return left / self.place.jobs

    def text(self) -> str:
        seconds = self.seconds()
        if seconds is None:
            return "end not known yet"
        return f"end by {datetime.datetime.now() + datetime.timedelta(seconds=seconds):%a %H:%M}"


def check_fresh(cells: list[Cell], store: Store, replace: bool) -> None:
    """See that no result was run with other settings than its cell has now; with `replace`, remove those.

    Raises:
        UserError: one was.
    """
    for cell in cells:
        try:
            store.read(cell)
        except Stale as error:
            if not replace:
                raise UserError(f"{error} Move it away, or run it again with --replace.") from None
            store.file(cell).unlink()
