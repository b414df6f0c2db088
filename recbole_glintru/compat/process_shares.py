"""Which rows each of several processes takes, and how their results are combined: the same numbers as in one process.

Patches of RecBole 1.2.1 that do nothing in a single process.
"""

import functools

from recbole_glintru.compat.import_hooks import after, rebind
from recbole_glintru.compat.processes import several

PER_ROW = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")  # what a collector gathers from batches

# ----------------------------------------------------------------------------------------------------------- training


class TrainingShare:
    """Every `ranks`-th row of the order in which a single process would train, from row `rank` on.

    Batch k of all ranks together is batch k of the single process. All shares have the same length, which averaged
    gradients require: the first rows are repeated at the end, as in PyTorch's DistributedSampler.

    Args:
        n: how many rows there are.
        generator: that of the loader, the same on every rank.
    """

    def __init__(self, n: int, generator, rank: int, ranks: int):
        self.generator, self._n, self._rank, self._ranks = generator, n, rank, ranks

    def __iter__(self):
        import torch

        order = list(torch.utils.data.RandomSampler(range(self._n), generator=self.generator))
        order += order[: -self._n % self._ranks]
        return iter(order[self._rank :: self._ranks])

    def __len__(self):
        return -(-self._n // self._ranks)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch; does nothing, because the generator advances by itself."""


@after("recbole.data.dataloader.general_dataloader")
def training_rows_are_shuffled_as_in_one_process(dataloader) -> None:
    """Several processes together train on exactly the batches of a single one, or warn if they cannot.

    Without: a DistributedSampler shuffles by the number of the epoch alone (abstract_dataloader.py:60), ignoring
    `seed`: a run of several processes cannot be compared with that of one, nor two of them under different seeds.
    """
    init = dataloader.TrainDataLoader.__init__

    @functools.wraps(init)
    def __init__(self, config, dataset, sampler, shuffle=False):
        init(self, config, dataset, sampler, shuffle)
        if several(config) and shuffle:
            torch = dataloader.torch
            rank, ranks = _rank_and_ranks(torch)
            _take(self, TrainingShare(self.sample_size, self.generator, rank, ranks), torch)
            if rank == 0:
                _warn_if_batches_differ(self, ranks)

    dataloader.TrainDataLoader.__init__ = __init__


def _warn_if_batches_differ(loader, ranks) -> None:
    """Warn if the batches differ from those of one process, because each rank takes a whole number of rows."""
    step = loader.step
    loader._init_batch_size_and_step()
    of_one, loader.step = loader.step, step
    if of_one != step * ranks:
        loader.logger.warning(
            f"train_batch_size={loader.config['train_batch_size']}: a batch of {of_one} rows is not a multiple of "
            f"{ranks} processes. They train on {step * ranks} rows at a time, not on the batches of one process."
        )


def _take(loader, share, torch) -> None:
    """Let a loader read the rows of `share`; PyTorch forbids assigning these two attributes after construction."""
    batches = torch.utils.data.BatchSampler(share, loader.step, drop_last=False)
    vars(loader).update(sampler=share, batch_sampler=batches)


def _rank_and_ranks(torch) -> tuple:
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


@after("recbole.data.utils")
def loaders_are_not_shared(utils) -> None:
    """Several processes neither save their loaders nor load saved ones.

    Without: with `save_dataloaders` all ranks write their own shares into one file (utils.py:98), and a run that finds
    that file, or that of a single process, trains and evaluates every rank on the rows of one.
    """
    save, load = utils.save_split_dataloaders, utils.load_split_dataloaders

    @functools.wraps(save)
    def save_split_dataloaders(config, dataloaders):
        if not several(config):
            return save(config, dataloaders)
        utils.getLogger().warning("save_dataloaders: not saved, since each process has only its share of the rows.")

    @functools.wraps(load)
    def load_split_dataloaders(config):
        return None if several(config) else load(config)

    rebind(save, save_split_dataloaders)
    rebind(load, load_split_dataloaders)


# --------------------------------------------------------------------------------------------------------- evaluation


class EvaluationShare:
    """A block of consecutive rows for one rank: the shares of all ranks, in order, are the rows `0..n-1`."""

    def __init__(self, n: int, rank: int, ranks: int):
        self.start, self.stop = n * rank // ranks, n * (rank + 1) // ranks

    def __iter__(self):
        return iter(range(self.start, self.stop))

    def __len__(self):
        return self.stop - self.start


@after("recbole.data.dataloader.general_dataloader")
def evaluation_rows_are_read_once(dataloader) -> None:
    """Each row of the validation and test data is evaluated by exactly one rank.

    Without: a DistributedSampler repeats the first rows until all ranks have the same number
    (abstract_dataloader.py:60), and the repeated ones count twice in the metrics.
    """
    for loader in (dataloader.NegSampleEvalDataLoader, dataloader.FullSortEvalDataLoader):
        _read_once(loader, dataloader.torch)


def _read_once(loader_class, torch) -> None:
    init = loader_class.__init__

    @functools.wraps(init)
    def __init__(self, config, dataset, sampler, shuffle=False):
        init(self, config, dataset, sampler, shuffle)
        if several(config):
            _take(self, EvaluationShare(self.sample_size, *_rank_and_ranks(torch)), torch)

    loader_class.__init__ = __init__
    # RecBole skips evaluation if the loader is false. All ranks must skip it, or none, even a rank without rows.
    loader_class.__bool__ = lambda self: self.sample_size > 0


@after("recbole.evaluator.collector")
def results_are_gathered(collector) -> None:
    """Every rank evaluates what all ranks have collected, in the order of a single process.

    Without: each rank computes the metrics of its own rows and rounds them, and `_map_reduce` averages these, weighted
    by the number of elements of the batch tuple (`len(batched_data)`, always 4: trainer.py:615 and :632). A last batch
    of a few rows then weighs as much as a full one, and a metric that is not a plain mean, such as ItemCoverage or AUC,
    becomes a different quantity.
    """
    collect, torch = collector.Collector.get_data_struct, collector.torch

    @functools.wraps(collect)
    def get_data_struct(self):
        struct = collect(self)
        if several(self.config):
            parts = [None] * torch.distributed.get_world_size()
            mine = {key: struct.get(key) for key in PER_ROW if key in struct}
            torch.distributed.all_gather_object(parts, mine)
            for key in {key for part in parts for key in part}:
                struct.set(key, torch.cat([part[key] for part in parts if key in part]))
        return struct

    collector.Collector.get_data_struct = get_data_struct


@after("recbole.trainer.trainer")
def metrics_are_of_all_rows(trainer) -> None:
    """The metrics of the gathered results are left as they are.

    Without: `_map_reduce` (trainer.py:632) averages values that are equal on all ranks, in single precision, and rounds
    again: an AveragePopularity of some thousands loses its last decimals, and GAUC, otherwise not rounded, is rounded.
    """
    trainer.Trainer._map_reduce = functools.wraps(trainer.Trainer._map_reduce)(lambda self, result, num_sample: result)


@after("recbole.trainer.trainer")
def candidates_are_those_of_one_process(trainer) -> None:
    """In sampled evaluation (`uniN`, `popN`) the ranks draw the negatives that a single process would draw.

    Without: each rank draws from a generator of its own (quick_start.py:136: the seed plus the rank), so the negatives
    change with the number of processes. All ranks adopt the generator of rank 0, and each skips the draws for the users
    before its own; drawing is a small part of an evaluation. Draws made by training (BPR) are each rank's own, and
    after them the negatives of evaluation differ from those of a single process too. With `worker` above 0 the loaders'
    own processes draw, as RecBole always has.
    """
    evaluate, np = trainer.Trainer.evaluate, trainer.np

    @functools.wraps(evaluate)
    def evaluate_the_same(self, eval_data, *args, **kwargs):
        if not (several(self.config) and eval_data and _samples(eval_data)):
            return evaluate(self, eval_data, *args, **kwargs)
        distributed = trainer.torch.distributed
        rank, ranks = _rank_and_ranks(trainer.torch)
        own = np.random.get_state()
        np.random.set_state(_sent(distributed, own, source=0))
        _draw_for_users_before(eval_data)
        result = evaluate(self, eval_data, *args, **kwargs)
        after_all_users = _sent(distributed, np.random.get_state(), source=ranks - 1)
        np.random.set_state(after_all_users if rank == 0 else own)
        return result

    trainer.Trainer.evaluate = evaluate_the_same


def _samples(loader) -> bool:
    """Whether a loader draws negatives, in this process."""
    neg_sample_args = getattr(loader, "neg_sample_args", None) or {"distribution": "none"}
    return neg_sample_args["distribution"] != "none" and loader.num_workers == 0


def _sent(distributed, value, source: int):
    """The value on rank `source`, sent to every rank."""
    box = [value]
    distributed.broadcast_object_list(box, src=source)
    return box[0]


def _draw_for_users_before(loader) -> None:
    interactions = loader._dataset.inter_feat
    for user in loader.uid_list[: loader.sampler.start]:
        rows = loader.uid2index[user]
        users, items = (interactions[field][rows].numpy() for field in (loader.uid_field, loader.iid_field))
        loader._sampler.sample_by_user_ids(users, items, loader.neg_sample_num)
