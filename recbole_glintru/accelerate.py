"""The speed-ups of this package's models, applied to any sequential model: `accelerate(model)` or `accelerate: True`.

1. `predict` encodes each distinct history once; RecBole's sampled evaluation repeats it for every candidate.
2. `forward` runs on groups of rows of similar length, each cut to its longest history (`ops/histories/grouping.py`).
3. Dropout draws cheaper random numbers on a CPU (`ops/dropout.py`).
4. The cross-entropy needs no tensor of all scores, BERT4Rec's only the masked items (`faster_methods.py`).

The first two are exact for a model whose states depend neither on how far a history is padded nor on the other rows of
the batch. `padding_check.py` tests whether a model is like that.
"""

import functools
from dataclasses import dataclass, field
from typing import Optional, Union

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor, nn

from recbole_glintru import faster_methods, padding_check, settings
from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.models.base import NextItemRecommender
from recbole_glintru.ops.histories import grouping
from recbole_glintru.ops.histories.distinct_rows import distinct_rows


class NotInvariant(ValueError):
    """For this model the speed-ups are not exact, or cannot be shown to be; the message gives the reason."""


def accelerate(model, length_groups: Union[bool, str, grouping.Costs] = True):
    """Let a sequential model encode each distinct history once in `predict`, and skip padding where that saves time.

    The model is changed in place and returned: its class becomes a subclass of what it was, of the same name, and so do
    those of its `torch.nn.Dropout` modules. Its parameters, `state_dict`, checkpoints, random state and training mode
    are unchanged. Scores, loss and gradients are the same up to rounding, except that dropout draws different random
    numbers. A model of this package already has these speed-ups and is returned unchanged.

    Args:
        model: a `SequentialRecommender`; its histories are the two-dimensional integer tensors of `forward`.
        length_groups: the groups, as in `recbole_glintru.settings.length_groups`.

    Raises:
        ValueError: `length_groups` is none of these.
        NotInvariant: on random histories and weights its scores, loss or gradients differ, or cannot be computed
            without the training data. The model is left as it was. Embedding rows of the padding item are checked
            with their current values, because training does not change them.
    """
    length_groups = settings.length_groups({"length_groups": length_groups})
    plain = type(model)
    if isinstance(model, (NextItemRecommender, Accelerated)):
        return model
    if not isinstance(model, SequentialRecommender):
        raise NotInvariant(f"{plain.__name__} cannot be accelerated: it is not a sequential model (no histories).")
    model._acceleration = _Acceleration(grouping.Costs(0.0, 0.0))  # for the check: one group for each length
    try:
        padding_check.check(model, plain, accelerated_class(plain))
        if model._acceleration.per_position is None:
            raise padding_check.Differs("its forward takes no item histories")
    except BaseException as error:
        del model._acceleration
        if isinstance(error, padding_check.Differs):
            raise NotInvariant(f"{plain.__name__} cannot be accelerated: {error}.") from None
        raise
    model._acceleration.length_groups = length_groups
    model.__class__ = accelerated_class(plain)
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            module.__class__ = Dropout
    return model


def on_request(config, model) -> None:
    """Accelerate the model of a trainer if its settings say `accelerate: True`.

    Raises:
        ValueError: `accelerate` is neither True nor False.
        NotInvariant: the model cannot be accelerated.
    """
    if config["accelerate"] is not None and settings.switch(config, "accelerate"):
        accelerate(model, settings.length_groups(config))


@dataclass
class _Acceleration:
    """State kept by an accelerated model.

    Attributes:
        length_groups: how batches are cut into groups.
        per_position: whether `forward` returns a state for each position, `[B, L, ...]`, rather than one for each
            row; None until `forward` has run once.
        shared: positions and keywords of those arguments of `forward` whose length has once differed from the batch
            size. The check runs batches of two sizes, so a table of items is not cut when it is as long as a batch.
        scoring: whether `predict` is running.
    """

    length_groups: Union[bool, str, grouping.Costs]
    per_position: Optional[bool] = None
    shared: set[Union[int, str]] = field(default_factory=set)
    scoring: bool = False


class Accelerated:
    """First base of an accelerated class: wraps the model's own methods in the first two speed-ups."""

    def forward(self, *arguments, **keywords):
        """The model's own `forward`, on fewer rows and columns."""
        batch = _Batch(arguments, keywords, self._acceleration.shared)
        if batch.item_seq is None or len(batch.item_seq) == 0:
            return super().forward(*arguments, **keywords)
        if self._acceleration.per_position is None:
            self._acceleration.per_position = _is_per_position(super().forward, batch)
        distinct = batch.distinct_rows() if self._acceleration.scoring and not self.training else None
        if distinct is None:
            return self._in_groups(batch)
        first, inverse = distinct
        return self._in_groups(batch.part(first, batch.width))[inverse]

    def _in_groups(self, batch):
        encode = super().forward

        def encode_rows(rows, longest):
            part = batch.part(rows, longest)
            states = part.encoded_by(encode)
            if not self._acceleration.per_position:
                return states
            return F.pad(states, (0, 0) * (states.dim() - 2) + (0, batch.width - longest))  # nothing is read there

        costs = grouping.costs(self._acceleration.length_groups, batch.item_seq.device)
        return grouping.run(encode_rows, batch.history_lengths(), costs, self)

    def predict(self, interaction):
        """The model's own `predict`, with each distinct history encoded once."""
        self._acceleration.scoring = True
        try:
            return super().predict(interaction)
        finally:
            self._acceleration.scoring = False

    def __reduce_ex__(self, protocol):
        """Copies and pickles name the model's own class, because this one is made at run time."""
        return _rebuild, (type(self).__bases__[-1],), self.__dict__


@functools.cache
def accelerated_class(plain: type) -> type:
    """The class that a model of class `plain` has once it is accelerated."""
    bases = (Accelerated, *faster_methods.bases(plain), plain)
    return type(plain.__name__, bases, {"__module__": plain.__module__, "__doc__": plain.__doc__})


def _rebuild(plain):
    kind = accelerated_class(plain)
    return kind.__new__(kind)


class _Batch:
    """The arguments of one call of `forward`, B rows each, and which of them have a column for each position.

    Attributes:
        item_seq: `[B, L]`, the first two-dimensional integer tensor among them, or None.
        width: L. Tensors with B rows and L columns are cut together with the histories.
        rows: the tensors with B rows, by position or keyword.
    """

    def __init__(self, arguments, keywords, shared):
        self.arguments, self.keywords, self.shared = tuple(arguments), keywords, shared
        tensors = {key: value for key, value in self._items() if isinstance(value, Tensor)}
        self.item_seq = next((value for value in tensors.values() if value.dim() == 2 and _is_integer(value)), None)
        if self.item_seq is None:
            return
        self.width = self.item_seq.shape[1]
        shared.update(key for key, value in tensors.items() if value.shape[:1] != self.item_seq.shape[:1])
        self.rows = {key: value for key, value in tensors.items() if key not in shared}

    def history_lengths(self) -> Tensor:
        """`[B]`: positions up to the last non-padding one in any integer tensor that is cut, at least 1."""
        positions = torch.arange(1, self.width + 1, device=self.item_seq.device)
        sequences = [tensor for tensor in self.rows.values() if self._is_cut(tensor) and _is_integer(tensor)]
        return torch.stack([((tensor != 0) * positions).amax(dim=1) for tensor in sequences]).amax(dim=0).clamp(min=1)

    def part(self, rows: grouping.Rows, longest: int) -> "_Batch":
        """Some of the rows, and their first `longest` columns."""

        def of(key, value):
            if key not in self.rows:
                return value
            return value[rows, :longest] if self._is_cut(value) else value[rows]

        parts = {key: of(key, value) for key, value in self._items()}
        return _Batch([parts.pop(key) for key in range(len(self.arguments))], parts, self.shared)

    def distinct_rows(self):
        """`distinct_rows` of the arguments, or None if it would save nothing."""
        columns = list(self.rows.values())
        if not all(map(_is_integer, columns)):
            return None
        first, inverse = distinct_rows(columns)
        return None if len(first) == len(inverse) else (first, inverse)

    def encoded_by(self, encode) -> Tensor:
        """The output of `encode`, a tensor of B rows; some models squeeze away the dimension of a single row."""
        output, rows = encode(*self.arguments, **self.keywords), len(self.item_seq)
        if not isinstance(output, Tensor):
            raise TypeError(f"forward returns a {type(output).__name__}, not a tensor")
        if output.dim() == 0 and rows == 1:
            return output.unsqueeze(0)
        if output.dim() == 0 or len(output) != rows:
            raise ValueError(f"forward makes {list(output.shape)} of {rows} histories")
        return output

    def _items(self):
        return (*enumerate(self.arguments), *self.keywords.items())

    def _is_cut(self, tensor):
        return tensor.dim() > 1 and tensor.shape[:2] == self.item_seq.shape


def _is_integer(tensor):
    return not tensor.is_floating_point() and tensor.dtype is not torch.bool


def _is_per_position(encode, batch) -> bool:
    """Whether the output of `encode` is as wide as its histories."""
    shortest, row = batch.history_lengths().min(dim=0)
    widths = {int(shortest), batch.width}
    shapes = [(batch.part(row.view(1), width).encoded_by(encode).shape, width) for width in widths]
    return all(len(shape) > 2 and shape[1] == width for shape, width in shapes)
