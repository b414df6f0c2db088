"""One of the models that take turns."""

from typing import Callable, Optional

import torch

from measure import memory
from measure.workload import Workload

BATCHES = 4  # several, so that the result does not depend on one draw of lengths


class Lane:
    """One candidate: its model, optimiser and batches; `precision` is the type of autocast."""

    def __init__(self, name: str, workload: Workload, precision: Optional[torch.dtype] = None):
        self.name, self.workload, self.precision = name, workload, precision
        self.model = workload.model(name)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self._training = workload.training_batches(name, BATCHES)
        self._scoring = workload.scoring_batches(name, 1)
        self._optimiser = None

    def step(self, turn: int) -> Callable[[], None]:
        """The training step of a turn."""
        batch = self._training[turn % len(self._training)]
        return lambda: self.train(batch)

    def score(self, turn: int) -> Callable[[], None]:
        """The scores of all items for the histories of a batch."""
        batch = self._scoring[turn % len(self._scoring)]
        return lambda: self._score(batch)

    def warm_up(self) -> None:
        """A step and scores of whole batches, so that loading and tuning in the first call are not timed."""
        self.train(self._training[0])
        self._score(self._scoring[0])

    def peak(self) -> memory.Peak:
        """Peak memory of a training step."""
        self.model.zero_grad(set_to_none=True)
        self._optimiser = None
        model = self.model.train()
        return memory.peak(model, self._training[0], self.workload.device, precision=self.precision)

    def positions(self, turn: int) -> int:
        """Items in all histories of the turn's training batch."""
        return int(self._training[turn % len(self._training)]["item_length"].sum())

    def train(self, batch) -> None:
        """A training step."""
        if self._optimiser is None:
            self._optimiser = memory.new_optimiser(self.model)
        self.model.train()
        memory.training_step(self.model, self._optimiser, batch, self.precision)

    @torch.no_grad()
    def _score(self, batch):
        self.model.eval()
        with torch.autocast(self.workload.device.type, self.precision, enabled=self.precision is not None):
            self.model.full_sort_predict(batch)
