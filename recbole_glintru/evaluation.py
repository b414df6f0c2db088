"""Sampled evaluation without repeated histories: the same candidates, the same metrics, a fraction of the time.

RecBole's loader repeats each history for every candidate, user by user, and its trainer spreads a user's scores over
a row as wide as the catalogue. Here a batch has each user's history once and a table of the candidates, and metrics
are computed from the scores of the candidates alone. Negatives are drawn user by user with the same random numbers as
in RecBole, so they are the same items, and every random generator ends in the state in which RecBole leaves it.

`additions.py` replaces the loader passed to `Trainer.evaluate` by this one, for the models of this package and for
accelerated ones, unless `compact_evaluation` is False or `replaces` returns False.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from recbole.data.dataloader.general_dataloader import NegSampleEvalDataLoader
from recbole.data.interaction import Interaction, cat_interactions
from recbole.data.transform import Equal
from recbole.evaluator import Collector
from recbole.sampler import RepeatableSampler
from recbole.trainer.trainer import Trainer
from recbole.utils import EvaluatorType
from torch import Tensor

from recbole_glintru import settings
from recbole_glintru.accelerate import Accelerated
from recbole_glintru.models.base import NextItemRecommender

LARGEST_TABLE = 2**25  # users times items: the table that a batch with a tie is spread over, 128 MiB
NEEDS_ALL_ITEMS = ("rec.items", "rec.meanrank", "rec.score", "data.label")  # inputs of metrics that read more than hits


class CandidateBatch(NamedTuple):
    """U users, each with one history and C candidates.

    Attributes:
        rows: U rows of the data set.
        items: `[U, C] int64`, the positive item first.
        loader: the loader that made the batch.
    """

    rows: Interaction
    items: Tensor
    loader: "CandidateLoader"

    @torch.no_grad()
    def evaluated_by(self, trainer):
        """What `Trainer._neg_sample_batch_eval` returns: the rows, scores, and where in them the positives are.

        Scores are those of the candidates, `[U, C]`, with -inf for repeated candidates. If a positive's score equals
        that of another candidate, or a score is NaN, the rank depends on `torch.topk` and the width of its input: such
        a batch is spread over all items, `[U, V]`, as RecBole's batches are.
        """
        scores = self._scores(trainer)
        users, items = torch.arange(len(scores)), self.items.to(scores.device)
        again = _comes_again(items)
        tied = (scores[:, 1:] == scores[:, :1]) & ~again[:, 1:]
        if tied.any() or scores.isnan().any():
            spread = scores.new_full((len(scores), trainer.tot_item_num), -np.inf)
            spread[users.unsqueeze(1).to(scores.device), items] = scores
            return self.rows, spread, users, self.items[:, 0]
        return self.rows, scores.masked_fill_(again, -np.inf), users, torch.zeros_like(users)

    def _scores(self, trainer):
        """`[U, C]`, computed on at most as many rows at a time as RecBole's batches have."""
        model, device, count = trainer.model, trainer.device, self.items.shape[1]
        users = max(1, trainer.test_batch_size // count)
        slices = [slice(start, start + users) for start in range(0, len(self.items), users)]
        if isinstance(model, Accelerated) or type(model).predict is not NextItemRecommender.predict:
            scores = [model.predict(self.repeated(part).to(device)).reshape(-1, count) for part in slices]
        else:
            states, items = model(*model.history(self.rows.to(device))), self.items.to(device)
            scores = [
                model.score_items(states[part].repeat_interleave(count, dim=0), items[part].flatten()).view(-1, count)
                for part in slices
            ]
        return torch.cat(scores)

    def repeated(self, part: slice = slice(None)) -> Interaction:
        """Some of the users in the format of RecBole's loader: a row for each candidate, grouped by user."""
        dataset, items = self.loader._dataset, self.items[part]
        rows = self.rows[part].repeat_interleave(items.shape[1])
        rows[dataset.iid_field] = items.flatten()
        rows = dataset.join(rows)
        rows[self.loader.label_field] = (torch.arange(len(rows)) % items.shape[1] == 0).float()
        return rows


def candidate_loader(trainer, loader):
    """The loader for `trainer` to evaluate from: a `CandidateLoader` of `loader`, or `loader` itself.

    Raises:
        ValueError: `compact_evaluation` is neither True nor False.
    """
    return CandidateLoader(loader, trainer) if replaces(trainer, loader) else loader


def replaces(trainer, loader) -> bool:
    """Whether metrics can be computed from candidates alone and are certain to equal RecBole's."""
    config, model = trainer.config, trainer.model
    if config["compact_evaluation"] is not None and not settings.switch(config, "compact_evaluation"):
        return False
    if type(loader) is not NegSampleEvalDataLoader or not isinstance(model, (NextItemRecommender, Accelerated)):
        return False
    sampled = loader.neg_sample_args["distribution"] in ("uniform", "popularity") and hasattr(loader, "uid_list")
    if not sampled or loader.neg_sample_args.get("dynamic") or type(loader._sampler) is not RepeatableSampler:
        return False
    collector, in_one_process = trainer.eval_collector, config["single_spec"] and loader.num_workers == 0
    return (
        type(trainer)._neg_sample_batch_eval is Trainer._neg_sample_batch_eval
        and "_neg_sample_batch_eval" not in vars(trainer)
        and "predict" not in vars(model)
        and in_one_process  # workers draw negatives from random generators of their own
        and config["eval_type"] == EvaluatorType.RANKING
        and type(collector) is Collector
        and not any(map(collector.register.need, NEEDS_ALL_ITEMS))
        and max(collector.topk) <= loader.times
        and int(loader.uid2items_num.max()) == 1
    )


class CandidateLoader:
    """The users of a `NegSampleEvalDataLoader`, in its order, with the negatives that it would draw.

    A batch has as many histories as RecBole's has rows, `eval_batch_size`, or fewer where the catalogue is large.
    """

    def __init__(self, loader: NegSampleEvalDataLoader, trainer):
        self._loader, self._dataset, self.label_field = loader, loader._dataset, loader.label_field
        largest = max(loader.step, LARGEST_TABLE // loader._dataset.item_num)
        self.users = min(len(loader.uid_list), trainer.test_batch_size, largest)

    def __len__(self) -> int:
        return -(-len(self._loader.uid_list) // self.users)

    def __iter__(self) -> Iterator[CandidateBatch]:
        draw = _Negatives(self._loader._sampler, self._loader.neg_sample_num)
        for start in range(0, len(self._loader.uid_list), self.users):
            rows = range(start, min(start + self.users, len(self._loader.uid_list)))  # sorted by user, one row each
            yield self._batch(rows, draw)

    def _batch(self, rows, draw):
        dataset, transform = self._dataset, self._loader.transform
        if type(transform) is Equal:
            batch = dataset[rows.start : rows.stop]
            negatives = [draw(positive) for positive in batch[dataset.iid_field].tolist()]
        else:  # it may draw random numbers as well: alternate, as RecBole does
            parts, negatives = [], []
            for row in rows:
                one = dataset[[row]]  # not a slice: RecBole's transforms copy all of the data set with a view of it
                parts.append(transform(dataset, one))
                negatives.append(draw(parts[-1][dataset.iid_field].item()))
            batch = cat_interactions(parts)
        positives = batch[dataset.iid_field].unsqueeze(1)
        return CandidateBatch(batch, torch.cat([positives, torch.from_numpy(np.stack(negatives))], dim=1), self)


class _Negatives:
    """Draws the negatives of one row after another, as `RepeatableSampler.sample_by_user_ids` does.

    It avoids that method's overhead: listing all items at each draw, and two dictionary look-ups per popular item.
    """

    def __init__(self, sampler: RepeatableSampler, count: int):
        self._count, self._draw = count, sampler.sampling
        if sampler.distribution == "popularity":
            self._draw = self._popular
            self._items = np.array(list(sampler.prob))
            self._chances = np.array(list(sampler.prob.values()), dtype=np.float64)
            self._aliases = np.array([sampler.alias[item] for item in sampler.prob])

    def _popular(self, count):
        places, chances = np.random.randint(0, len(self._items), count), np.random.random(count)
        return np.where(self._chances[places] > chances, self._items[places], self._aliases[places])

    def __call__(self, positive: int) -> np.ndarray:
        """Items other than `positive`, possibly with repetitions."""
        drawn = self._draw(self._count)
        again = (drawn == positive).nonzero()[0]
        while len(again):
            drawn[again] = fresh = self._draw(len(again))
            again = again[fresh == positive]
        return drawn


def _comes_again(items: Tensor) -> Tensor:
    """`[U, C] -> [U, C] bool`: whether an item already occurs further left in its row."""
    ordered, order = items.sort(dim=1, stable=True)
    again = torch.zeros_like(items, dtype=torch.bool)
    return again.scatter(1, order[:, 1:], ordered[:, 1:] == ordered[:, :-1])
