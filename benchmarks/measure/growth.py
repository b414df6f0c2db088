"""How time and memory grow with the length, the catalogue, the layers, the kernel and the width."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform

from measure import memory, shapes, timing
from measure.table import Budget
from measure.workload import Catalogue, NotInvariant, find_settings, make_model, model_name

TOO_SLOW = 30.0  # seconds per step: a model slower than this at one value is not tried at the next


@dataclass(frozen=True)
class Axis:
    """What grows.

    Attributes:
        name: the name of the column.
        values: the values at which to measure.
        candidates: the default models.
        keys: the setting to vary, by the model's name, `""` for all others; empty if it is not a setting.
        rows: rows of a batch on a CPU and on a GPU; None for those of the data set's batches.
    """

    name: str
    values: tuple[int, ...]
    candidates: tuple[str, ...]
    keys: dict[str, str]
    rows: tuple[Optional[int], Optional[int]] = (None, None)


_LEAN = ("GLINTRU", "LinRec", "Mamba4Rec")
AXES = {
    "length": Axis(
        "length of every history",
        (50, 100, 200, 400, 800, 1600, 3200),
        ("GLINTRU", "GLINTRU-plain", *_LEAN[1:], "LightSANs", "SASRec"),
        {"": "MAX_ITEM_LIST_LENGTH"},
        rows=(8, 64),
    ),
    "catalogue": Axis(
        "items", (1000, 10_000, 100_000, 1_000_000), ("GLINTRU", "GLINTRU-plain", "GRU4Rec"), {}, rows=(256, 2048)
    ),
    "layers": Axis("layers", (1, 2, 3, 4), _LEAN, {"": "n_layers", "GRU4Rec": "num_layers"}),
    "kernel": Axis(
        "kernel size", (3, 5, 7, 9, 11), ("GLINTRU", "Mamba4Rec"), {"": "kernel_size", "Mamba4Rec": "d_conv"}
    ),
    "width": Axis("hidden size", (16, 32, 64, 128, 256), (*_LEAN, "GRU4Rec"), {"": "hidden_size"}),
}


class Growth:
    """Measures some models at each value of an axis, in turns at each.

    Args:
        axis: what grows.
        shape: has the lengths, catalogue and settings for all else.
        device: where the models run.
        candidates: the models; those without the setting are left out, with a note.
        values: those of the axis, ascending.
        turns: turns at each value.
        budget: ends the measurement.
        batch_size: rows; None for the axis' own.
        advance: called with a text before each measurement.

    Attributes:
        rows: candidate -> value as text -> its figures.
        notes: remarks on them.
    """

    def __init__(
        self,
        axis: Axis,
        shape: shapes.Shape,
        device: torch.device,
        candidates: Sequence[str],
        values: Sequence[int],
        turns: int,
        budget: Budget,
        batch_size: int,
        advance: Callable[[str], None],
    ):
        self.axis, self.shape, self.device, self.values = axis, shape, device, values
        self.turns, self.budget, self.batch_size, self.advance = turns, budget, batch_size, advance
        self.notes: list[str] = []
        self.rows: dict[str, dict[str, dict[str, Any]]] = {}
        for name in candidates:
            key = self._key(name)
            if key is None or find_settings(name, shape.dataset, device, {})[key] is not None:
                self.rows[name] = {}
            else:
                self.notes.append(f"{name} has no {axis.name} of its own (`{key}`) and is left out.")

    def run(self) -> None:
        """Measure everything, into `rows`."""
        for value in self.values:
            lanes = {}
            for name, points in self.rows.items():
                if self.budget.is_spent():
                    self.notes.append("The budget of time ended the measurement early.")
                    return
                last = points.get(str(self.values[self.values.index(value) - 1])) if points else None
                if last is not None and "training" not in last:
                    continue
                if last is not None and last["training"]["ms"] > 1000 * TOO_SLOW:
                    points[str(value)] = {"reason": "too slow"}
                    continue
                self.advance(f"{name}: {self.axis.name} {value}")
                points[str(value)] = {}
                made = self._prepare(name, value, points[str(value)])
                if made is not None:
                    lanes[name] = made
            self._race(lanes, str(value))

    def _key(self, name):
        return self.axis.keys.get(model_name(name), self.axis.keys.get(""))

    def _prepare(self, name, value, point):
        """The model and its batch; its memory is measured first, because what does not fit must not be timed."""
        key = self._key(name)
        config = find_settings(name, self.shape.dataset, self.device, {} if key is None else {key: value})
        if key == "hidden_size":
            config["embedding_size"] = value
        config["selected_features"] = []
        items = value if key is None else self.shape.items + 1
        try:
            model = make_model(name, config, Catalogue(items), self.device)
        except (NotInvariant, ValueError) as reason:
            point["reason"] = "not possible"
            self.notes.append(f"{name}, {self.axis.name} {value}: {reason}")
            return None
        batch = random_batch(self.shape, config, items, self.batch_size, full=self.axis.name.startswith("length"))
        batch = batch.to(self.device)
        peak = memory.peak(model, batch, self.device)
        point["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        point.update(mebibytes=peak.mebibytes, reason=peak.reason)
        return (model, memory.new_optimiser(model), batch) if peak.reason != memory.OUT_OF_MEMORY else None

    def _race(self, lanes, value):
        races = {kind: timing.Race("", self.device) for kind in ("training", "scoring")}
        for turn in range(self.turns):
            for name, (model, optimiser, batch) in lanes.items():
                self.advance(f"{name}: {self.axis.name} {value}")
                if turn and (self.budget.is_spent() or races["training"].times[name][0] > 5):
                    continue
                step, score = _step(model, optimiser, batch), _score(model, batch)
                if not turn:  # loading and tuning in the first call are not timed
                    step()
                    score()
                races["training"].turn(name, step, None)
                races["scoring"].turn(name, score, None)
                for kind, race in races.items():
                    self.rows[name][value][kind] = race.summary(name)


def _step(model, optimiser, batch):
    def step():
        model.train()
        memory.training_step(model, optimiser, batch)

    return step


def _score(model, batch):
    def score():
        model.eval()
        with torch.no_grad():
            model.full_sort_predict(batch)

    return score


def random_batch(shape: shapes.Shape, config, items: int, rows: int, full: bool = False) -> Interaction:
    """A training batch with random items, after the model's transform.

    Args:
        shape: has the lengths of the histories.
        config: the model's settings.
        items: V.
        rows: B.
        full: whether every history has the maximal length instead.
    """
    longest = config["MAX_ITEM_LIST_LENGTH"]
    generator = np.random.default_rng(0)
    lengths = np.full(rows, longest) if full else shapes.training_lengths(shape, rows, longest)
    item_seq = generator.integers(1, items, (rows, longest)) * (np.arange(longest) < lengths[:, None])
    batch = Interaction(
        {
            "user_id": torch.from_numpy(generator.integers(1, 1000, rows)),
            "item_id_list": torch.from_numpy(item_seq),
            "item_length": torch.from_numpy(lengths),
            "item_id": torch.from_numpy(generator.integers(1, items, rows)),
        }
    )
    transform = construct_transform(config)
    return transform(Catalogue(items), batch)
