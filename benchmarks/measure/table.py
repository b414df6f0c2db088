"""The table: the cost of each model in training, scoring, evaluation and memory, compared with GLINT-RU."""

import itertools
import math
import statistics
import time
from typing import Any, Callable, NamedTuple, Optional

import torch

from measure import memory, timing
from measure.lane import Lane
from measure.workload import REFERENCE, NotInvariant, Workload, model_name
from recbole_glintru.evaluation import candidate_loader

TURNS_BEFORE_EVALUATION = 3  # slow models take no more
LEAST_BATCHES = 3  # of an evaluation pass, even if they are slow


class Budget:
    """The time left for measuring, from now on.

    Args:
        seconds: None for no limit.
    """

    def __init__(self, seconds: Optional[float]):
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def is_spent(self) -> bool:
        """Whether nothing more should be started."""
        return time.monotonic() >= self._end


class FirstBatches:
    """A loader, as far as RecBole's trainer uses it, cut to its first batches; a shorter one is repeated."""

    def __init__(self, loader, number: int):
        self.loader, self.number, self._dataset = loader, number, loader._dataset

    def __iter__(self):
        return itertools.islice(itertools.chain.from_iterable(itertools.repeat(self.loader)), self.number)

    def __len__(self):
        return self.number


class Evaluation(NamedTuple):
    """A measurement of some of the `batches` of an evaluation pass, with the time per user."""

    seconds_of_a_user: float
    measured: int
    batches: int


class Table:
    """Runs the measurements in order of importance, so that a table that is cut short is still useful.

    Args:
        workload: the data and models.
        candidates: the models, GLINT-RU first.
        turns: the most turns.
        budget: ends the turns.
        evaluation_seconds: an evaluation pass that would take longer is measured in part and scaled.
        epoch_seconds: an epoch on real data that would take longer is computed from its steps.
        advance: called with a text before each measurement.
        precision: the type of autocast in training steps and scoring, if it is on; then there are no evaluation passes.

    Attributes:
        rows: candidate -> its measurements so far.
        notes: remarks on the figures.
    """

    def __init__(
        self,
        workload: Workload,
        candidates: list[str],
        turns: int,
        budget: Budget,
        evaluation_seconds: float,
        epoch_seconds: float,
        advance: Callable[[str], None],
        precision: Optional[torch.dtype] = None,
    ):
        self.workload, self.candidates, self.turns, self.budget = workload, candidates, turns, budget
        self.precision = precision
        self.evaluation_seconds, self.epoch_seconds, self.advance = evaluation_seconds, epoch_seconds, advance
        self.rows: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.training = timing.Race(REFERENCE, workload.device)
        self.scoring = timing.Race(REFERENCE, workload.device)
        self.product_rates: list[float] = []
        self._shares: dict[str, list[float]] = {}
        self._lanes: dict[str, Lane] = {}
        self._loaders: dict[Any, float] = {}

    def run(self) -> None:
        """Measure everything, into `rows`."""
        for name in self.candidates:
            if self.budget.is_spent() and name != REFERENCE:
                self.notes.append(f"{name}: no time was left.")
            elif self._prepare(name):
                self._turn(name, 0)
        self._turns(1, TURNS_BEFORE_EVALUATION)
        for measurement in (self._measure_loader, self._measure_evaluation, self._measure_epoch):
            for name, lane in self._lanes.items():
                if not self.budget.is_spent() or (name == REFERENCE and measurement == self._measure_loader):
                    measurement(name, lane)
        self._turns(TURNS_BEFORE_EVALUATION, self.turns)
        for name, lane in self._lanes.items():
            row = self.rows[name]
            if "loader_ms" in row and not row.get("epoch", {}).get("measured"):
                self._estimate_epoch(name, lane)  # from all turns
        self._note_evaluation()
        if self.budget.is_spent():
            self.notes.append("The budget of time ended the measurement before all turns were taken.")

    def _prepare(self, name):
        """Make a candidate's lane and measure its memory; return whether it takes part in the turns."""
        self.advance(f"{name}: prepare")
        try:
            lane = Lane(name, self.workload, self.precision)
        except NotInvariant as reason:
            self.notes.append(str(reason))
            return False
        self._lanes[name], self.rows[name] = lane, {"parameters": lane.parameters}
        self._measure_memory(name, lane)
        if self.rows[name]["memory"]["reason"] == memory.OUT_OF_MEMORY:  # it would kill this process
            self._leave_out(name, memory.OUT_OF_MEMORY)
            return False
        return True

    def _turns(self, first, end):
        for turn in range(first, min(end, self.turns)):
            for name in list(self._lanes):
                slow = statistics.median(self.training.times[name]) > timing.SLOW
                if not self.budget.is_spent() and not (slow and turn >= TURNS_BEFORE_EVALUATION):
                    self._turn(name, turn)

    def _turn(self, name, turn):
        self.advance(f"{name}: turn {turn + 1}")
        try:
            if turn == 0:
                self._lanes[name].warm_up()
            self._race(name, self._lanes[name], turn)
        except torch.cuda.OutOfMemoryError:
            self._leave_out(name, memory.OUT_OF_MEMORY)

    def _leave_out(self, name, reason):
        self.notes.append(f"{name}: {reason}.")
        del self._lanes[name]

    def _race(self, name, lane, turn):
        rate = None
        if model_name(name) == REFERENCE:
            rate = timing.product_rate(self.workload.device, dtype=self.precision or torch.float32)
        reference = None if name == REFERENCE else self._lanes[REFERENCE]
        self.training.turn(name, lane.step(turn), reference and reference.step(turn))
        self.scoring.turn(name, lane.score(turn), reference and reference.score(turn))
        if rate is not None:
            self.product_rates.append(rate)
            share = self._least_operations(lane, turn) / self.training.times[name][-1] / rate
            self._shares.setdefault(name, []).append(share)
            self.rows[name]["peak_share"] = statistics.median(self._shares[name])
        for known in {name, REFERENCE}:
            self.rows[known]["training"] = self.training.summary(known)
            self.rows[known]["scoring"] = self.scoring.summary(known)

    def _least_operations(self, lane, turn):
        workload, settings = self.workload, self.workload.settings_of_reference
        return timing.least_operations(
            min(lane.positions(turn), workload.batch_size * workload.longest),
            workload.batch_size,
            workload.items,
            workload.width,
            settings["kernel_size"],
            settings["n_layers"],
        )

    # ------------------------------------------------------------------------------------- one figure of one model

    def _measure_loader(self, name, lane):
        config = self.workload.config(name)
        key = (config["transform"], bool(config["selected_features"]))
        if key not in self._loaders:
            self.advance(f"{name}: loader")
            self._loaders[key] = loader_seconds(self.workload.training_loader(name))
        self.rows[name]["loader_ms"] = 1000 * self._loaders[key]

    def _note_evaluation(self):
        if self.precision is not None:
            self.notes.append("Evaluation passes are left out: RecBole's trainer turns autocast off around them.")
            return
        if self.budget.is_spent():
            return
        taken = 1000 * loader_seconds(self.workload.evaluation_loader(REFERENCE))
        self.notes.append(
            "In a pop100 pass the package's models and accelerated ones read each history once (`compact_evaluation`); "
            f"of each batch of the others RecBole's loader takes {taken:.1f} ms."
        )

    def _measure_memory(self, name, lane):
        self.advance(f"{name}: memory")
        peak = lane.peak()
        entry = {"mebibytes": peak.mebibytes, "reason": peak.reason}
        base = self.rows[REFERENCE].get("memory", entry)["mebibytes"]
        if peak.mebibytes is not None and base is not None:
            entry["ratio"] = peak.mebibytes / base
        self.rows[name]["memory"] = entry

    def _measure_evaluation(self, name, lane):
        if self.precision is not None:
            return
        self.advance(f"{name}: evaluation")
        is_reference = name == REFERENCE
        before = None if is_reference else self._evaluate(REFERENCE, self.evaluation_seconds / 5)
        now = self._evaluate(name, self.evaluation_seconds)
        self.rows[name]["evaluation"] = {
            "seconds": now.seconds_of_a_user * self.workload.users,
            "measured_batches": now.measured,
            "batches": now.batches,
            "ratio": 1.0 if is_reference else now.seconds_of_a_user / before.seconds_of_a_user,
        }

    def _evaluate(self, name, longest):
        """Time a part of an evaluation pass, from the loader that `Trainer.evaluate` uses for this model.

        Made data have only some of the users: if they have few batches, these are repeated.
        """
        trainer = self.workload.trainer(name, self._lanes[name].model)
        whole = self.workload.evaluation_loader(name)
        loader = candidate_loader(trainer, whole)
        users = getattr(loader, "users", None) or loader.step
        batches = math.ceil(self.workload.users / users)
        most = max(len(loader), min(LEAST_BATCHES, batches))

        def evaluate(number):
            part = FirstBatches(loader, number)
            return timing.seconds(lambda: trainer.evaluate(part, load_best_model=False), self.workload.device)

        measured = min(most, max(LEAST_BATCHES, int(longest / evaluate(1))))
        taken = evaluate(measured)  # now warm
        if measured < most and taken < longest / 2:
            measured = min(most, int(measured * longest / taken))
            taken = evaluate(measured)
        passes, rest = divmod(measured, len(loader))  # the last batch of a pass may have fewer users
        return Evaluation(taken / (passes * len(whole.uid_list) + rest * users), measured, batches)

    def _measure_epoch(self, name, lane):
        self._estimate_epoch(name, lane)
        entry = self.rows[name]["epoch"]
        if not self.workload.is_real or entry["seconds"] > self.epoch_seconds:
            return
        self.advance(f"{name}: epoch")
        loader = self.workload.training_loader(name)

        def epoch():
            for batch in loader:
                lane.train(batch.to(self.workload.device))

        entry.update(seconds=timing.seconds(epoch, self.workload.device), measured=True)

    def _estimate_epoch(self, name, lane):
        steps = math.ceil(self.workload.training_rows / self.workload.batch_size)
        row = self.rows[name]
        row["epoch"] = {"seconds": steps * (row["training"]["ms"] + row["loader_ms"]) / 1000, "steps": steps}


def loader_seconds(loader, longest: float = 2.0, most: int = 20) -> float:
    """Seconds that a loader takes per batch: the median of the first ones, without the very first."""
    times, begin = [], time.perf_counter()
    batches = iter(loader)
    while len(times) < min(most, len(loader)) and time.perf_counter() - begin < longest:
        start = time.perf_counter()
        next(batches)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:] or times)
