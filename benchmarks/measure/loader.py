"""The cost of RecBole's loaders in addition to the model, and which of RecBole's options reduce it."""

import math
import time
from typing import Any, Callable

import numpy as np

from measure import timing
from measure.table import Budget, FirstBatches, Lane
from measure.workload import Workload

WORKERS = (0, 1, 2)
EVALUATION_BATCHES = (2048, 8192, 32_768)
SETTINGS = 2 * len(WORKERS) + len(EVALUATION_BATCHES) - 1


class LoaderShare:
    """Training and evaluation of one model with each setting: wall-clock time, the loader's share, equality.

    Args:
        workload: the data and models.
        candidate: the model.
        seconds: the approximate time for measuring each setting.
        budget: ends the measurement.
        advance: called with a text before each measurement.

    Attributes:
        rows: setting -> its figures.
        notes: remarks on them.
    """

    def __init__(
        self, workload: Workload, candidate: str, seconds: float, budget: Budget, advance: Callable[[str], None]
    ):
        self.workload, self.candidate, self.seconds = workload, candidate, seconds
        self.budget, self.advance = budget, advance
        self.rows: dict[str, dict[str, Any]] = {}
        self._fingerprints: dict[str, tuple[int, ...]] = {}
        self._numbers: dict[str, int] = {}
        self.notes = [
            "`in all` is wall-clock time of the loop, the start of worker processes included; `loader alone` is the "
            "same loop without a model. With workers both run at once, if there are cores for it.",
            "`same batches`: the first one, under one seed, is that of the loader without workers.",
        ]

    def run(self) -> None:
        """Measure everything, into `rows`."""
        lane = Lane(self.candidate, self.workload)
        lane.warm_up()
        steps = math.ceil(self.workload.training_rows / self.workload.batch_size)
        for workers in WORKERS:
            if self.budget.is_spent():
                return
            name = f"training, worker: {workers}"
            self.advance(name)
            self.rows[name] = self._training(lane, workers, steps)
        for batch_size in EVALUATION_BATCHES:
            for workers in WORKERS[:1] if batch_size > EVALUATION_BATCHES[0] else WORKERS:
                if self.budget.is_spent():
                    return
                name = f"pop100, eval_batch_size: {batch_size}, worker: {workers}"
                self.advance(name)
                self.rows[name] = self._evaluation(lane, workers, batch_size)

    def _training(self, lane, workers, steps):
        def loader():
            return self.workload.training_loader(self.candidate, worker=workers)

        return self._figures(loader, steps, lambda batch: lane.train(batch.to(self.workload.device)), "training")

    def _evaluation(self, lane, workers, batch_size):
        def loader():
            return self.workload.evaluation_loader(self.candidate, worker=workers, eval_batch_size=batch_size)

        trainer = self.workload.trainer(self.candidate, lane.model)
        trainer.test_batch_size = batch_size
        batches = math.ceil(self.workload.users / loader().step)
        return self._figures(loader, batches, trainer, f"pop100 {batch_size}")

    def _figures(self, make_loader, batches, consume, kind):
        """Time of a whole epoch or pass, from as many batches as the time allows."""
        loader = make_loader()
        begin = time.perf_counter()
        fingerprint = _fingerprint(next(iter(FirstBatches(loader, 1))))
        start = time.perf_counter() - begin  # the first batch and the start of the workers, once per epoch
        number = self._numbers.setdefault(kind, max(2, int(self.seconds / start / 3)))  # as in the first setting
        number = min(number, len(loader))

        def alone():
            for _ in FirstBatches(make_loader(), number):
                pass

        def in_all():
            part = FirstBatches(make_loader(), number)
            if kind == "training":
                for batch in part:
                    consume(batch)
            else:
                consume.evaluate(part, load_best_model=False)

        in_all()
        device = self.workload.device
        total, loading = timing.seconds(in_all, device), timing.seconds(alone, device)
        first = self._fingerprints.setdefault(kind, fingerprint)
        same = "yes" if first == fingerprint else "histories alone" if first[0] == fingerprint[0] else "no"
        scale = (batches - 1) / max(1, number - 1)
        return {
            "in all, s": start + max(0.0, total - start) * scale,
            "loader alone, s": start + max(0.0, loading - start) * scale,
            "share": f"{100 * min(1.0, loading / total):.0f} %",
            "measured batches": f"{number} of {batches}",
            "same batches": same,
        }


def _fingerprint(batch) -> tuple[int, int]:
    """One number for the histories of a batch, and one for the items to predict."""
    interaction = batch[0] if isinstance(batch, tuple) else batch
    return tuple(hash(np.asarray(interaction[field]).tobytes()) for field in ("item_id_list", "item_id"))
