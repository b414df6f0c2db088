"""Runs cells in parallel, each in a process of its own, with a progress bar that says when they will be done."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reproduction import progress
from reproduction.cells import Cell, Stale, Store
from reproduction.estimate import Estimate
from reproduction.freshness import folder_of
from reproduction.parent import interrupt_on_terminate

DONE, MISTAKE, BUSY = 0, 2, 3  # exit statuses of a cell's process
LOG = "output.log"
ELSEWHERE = "another process is running it"
PATIENCE = 30  # seconds for a process to end before it is killed


@dataclass(frozen=True)
class Place:
    """Where cells are run.

    Args:
        store: where results go.
        scratch: where checkpoints go.
        data_path: the folder of the data sets; RecBole's choice for data that comes with it.
        jobs: processes in parallel.
        threads: threads of each.
        budget: seconds after which no further cell is started.
    """

    store: Store
    scratch: Path
    data_path: Path
    jobs: int = 1
    threads: int = 1
    budget: float = float("inf")

    def command(self, cell: Cell, partial: bool = False) -> list[str]:
        """The command line of a cell's process; with `partial`, of one that tests its unfinished training."""
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
            *(["--partial"] if partial else []),
        ]


def run(cells: list[Cell], place: Place, poll: float = 2.0) -> list[str]:
    """Run what is not done, in the given order, and return what is left undone and why.

    Ctrl-C or SIGTERM ends the processes; no finished epoch is lost. A cell that another process is running is tried
    again later, and given up if that is still so a minute after everything else has ended.

    Args:
        poll: seconds between two checks of the processes.

    Raises:
        KeyboardInterrupt: by the user.
    """
    from tqdm import tqdm

    waiting = [cell for cell in dict.fromkeys(cells) if place.store.read(cell) is None]
    if not waiting:
        return []
    estimate = Estimate(waiting, place.scratch, place.jobs)
    with tqdm(total=estimate.epochs(), unit="epoch", dynamic_ncols=True) as bar:
        return _Processes(place, _Display(bar, estimate), poll).run(waiting)


def test(cells: list[Cell], place: Place, partial: bool, poll: float = 2.0) -> list[str]:
    """Test cells as they are, without training, and return which were not tested and why.

    Args:
        partial: test those that have epochs but no result, rather than those with a result.
        poll: as above.

    Raises:
        KeyboardInterrupt: by the user.
    """
    from tqdm import tqdm

    ready, left = [], []
    for cell in dict.fromkeys(cells):
        records = progress.records(folder_of(cell, place.scratch))
        if partial:
            if not place.store.file(cell).is_file() and records and len(records["epochs"]) > _tested(cell, place.store):
                ready.append(cell)
        elif place.store.file(cell).is_file():
            if records and records["finished"]:
                ready.append(cell)
            else:
                left.append(f"{_named(cell)}: its last epoch is not in {place.scratch}; the result is left as it is")
    if not ready:
        return left
    with tqdm(total=len(ready), unit="test", dynamic_ncols=True) as bar:
        return left + _Processes(place, _Count(bar), poll, tests=True, partial=partial).run(ready)


def _tested(cell: Cell, store: Store) -> int:
    """The number of epochs at the last test of an unfinished training."""
    try:
        result = store.read(cell, partial=True)
    except Stale:
        return 0
    return 0 if result is None else result.record["training"]["epochs"]


class _Processes:
    """Cells that are run or tested in parallel.

    Args:
        place, poll: as above.
        display: shows the progress.
        tests: whether the cells are tested, not trained; one that another process is running is then given up at once.
        partial: whether unfinished trainings are tested.
    """

    def __init__(self, place: Place, display, poll: float, tests: bool = False, partial: bool = False):
        self.place, self.display, self.poll, self.tests, self.partial = place, display, poll, tests, partial
        self.again = 15 * poll  # seconds until a cell that another process is running is tried again
        self.running: dict[Cell, subprocess.Popen] = {}
        self.busy: dict[Cell, float] = {}  # when another process was running it while other cells were left
        self.later: dict[Cell, float] = {}  # when to try it again
        self.left: list[str] = []

    def run(self, cells: list[Cell]) -> list[str]:
        """Run them all, and return what is left undone and why."""
        self.waiting, end = list(cells), time.monotonic() + (math.inf if self.tests else self.place.budget)
        with _terminated_like_ctrl_c():
            try:
                while self.running or ((self.waiting or self.later) and time.monotonic() < end):
                    self._start(end)
                    time.sleep(self.poll)
                    for cell, process in list(self.running.items()):
                        status = process.poll()
                        if status is not None:
                            del self.running[cell]
                            self._ended(cell, status)
                    self.display.show(self.running)
            finally:
                _end(self.running.values())
        for cell in [*self.waiting, *self.later]:
            if not self._is_done(cell):
                reason = ELSEWHERE if cell in self.busy else "not started within the budget"
                self.left.append(f"{_named(cell)}: {reason}")
        return self.left

    def _start(self, end: float) -> None:
        for cell in [cell for cell, when in self.later.items() if when <= time.monotonic()]:
            del self.later[cell]
            self.waiting.append(cell)
        while self.waiting and len(self.running) < self.place.jobs and time.monotonic() < end:
            cell = self.waiting.pop(0)
            if self._is_done(cell):
                self.display.over(cell)
            else:
                self.running[cell] = _start(cell, self.place, self.partial)

    def _is_done(self, cell: Cell) -> bool:
        """Whether another command has meanwhile done it."""
        return not self.tests and self.place.store.file(cell).is_file()

    def _ended(self, cell: Cell, status: int) -> None:
        if status == BUSY and not self.tests:
            now = time.monotonic()
            if cell not in self.busy:
                self.display.write(f"{_named(cell)}: {ELSEWHERE}; tried again later")
            if cell not in self.busy or self.running or self.waiting:  # the minute starts when all else has ended
                self.busy[cell] = now
            if now < self.busy[cell] + 2 * self.again:
                self.later[cell] = now + self.again
                return
        self.display.over(cell)
        if status != DONE or not (self.tests or self._is_done(cell)):
            self.left.append(f"{_named(cell)}: {_reason(status, cell, self.place)}")
            self.display.write(self.left[-1])


class _Display:
    """The progress bar, updated when something changes, or every ten seconds."""

    def __init__(self, bar, estimate: Estimate):
        self.bar, self.estimate, self.shown, self.at = bar, estimate, None, 0.0
        self.over, self.write = estimate.over, bar.write

    def show(self, running) -> None:
        done, over, cells = self.estimate.done(running), len(self.estimate.cells_over), self.estimate.cells
        state = done, over, list(running)
        if state != self.shown or time.monotonic() > self.at + 10:
            self.shown, self.at = state, time.monotonic()
            self.bar.n = done
            names = ", ".join(cell.name for cell in running)
            self.bar.set_description_str(f"{over}/{len(cells)} cells, {names}" if names else "", refresh=False)
            self.bar.set_postfix_str(self.estimate.text())


class _Count:
    """A progress bar of the finished tests."""

    def __init__(self, bar):
        self.bar, self.write = bar, bar.write

    def over(self, cell: Cell) -> None:
        self.bar.update()

    def show(self, running) -> None:
        self.bar.set_description_str(", ".join(cell.name for cell in running))


def _start(cell: Cell, place: Place, partial: bool = False) -> subprocess.Popen:
    folder = folder_of(cell, place.scratch)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOG, "ab") as log:
        # A session of its own: Ctrl-C reaches the cells through this process alone.
        return subprocess.Popen(
            place.command(cell, partial),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _last_line(cell: Cell, place: Place) -> str:
    lines = (folder_of(cell, place.scratch) / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1].partition("error: ")[2] or lines[-1] if lines else "no output"


def _reason(status: int, cell: Cell, place: Place) -> str:
    if status == BUSY:
        return ELSEWHERE
    if status == DONE:
        ended = "ended without a result"
    elif status < 0:
        ended = f"killed by {signal.Signals(-status).name}"
    else:
        ended = f"failed: {_last_line(cell, place)}"
    return f"{ended} ({folder_of(cell, place.scratch) / LOG})"


def _named(cell: Cell) -> str:
    return f"{cell.dataset} {cell.name}"


def _end(processes: Iterable[subprocess.Popen]) -> None:
    processes = list(processes)
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    interrupt_on_terminate()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
