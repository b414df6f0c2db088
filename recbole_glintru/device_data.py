"""Training data kept on the device of the trainer: `data_on_device: True`.

RecBole keeps the rows in main memory, gathers those of a batch there, column by column through Python lists, and
copies them. For a model whose step takes a few milliseconds, that is most of the time. Here the columns are copied
once and a batch is gathered on the device; RecBole still decides which rows it has, and in which order.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_glintru import settings
from recbole_glintru.ops.histories import host_lengths

LARGEST_INT32 = 2**31 - 1


@contextlib.contextmanager
def on_request(config, train_data, device: torch.device) -> Iterator[None]:
    """Inside the block `train_data` makes its batches on `device`, if the settings say `data_on_device: True`.

    Raises:
        ValueError: `data_on_device` is neither True nor False, or is not possible; the message gives the reason.
    """
    if config["data_on_device"] is None or not settings.switch(config, "data_on_device"):
        yield
        return
    reason = _objection(train_data)
    if reason is not None:
        raise ValueError(f"data_on_device=True: {reason}.")
    gather = train_data.collate_fn
    train_data.collate_fn = DeviceRows(train_data._dataset, device)
    try:
        yield
    finally:
        train_data.collate_fn = gather


def _objection(train_data):
    if not isinstance(train_data, TrainDataLoader):
        return f"the training data come from a {type(train_data).__name__}, not from RecBole's TrainDataLoader"
    if train_data.neg_sample_args["distribution"] != "none":
        return "negative items are sampled in main memory; train with loss_type: CE or with data_on_device: False"
    if train_data.config["transform"] is not None:
        return f"transform={train_data.config['transform']!r} works in main memory"
    if train_data.num_workers:
        return f"worker={train_data.num_workers}: other processes cannot make batches on the device; set worker: 0"
    return None


class DeviceRows:
    """The rows of a data set on a device, as a `collate_fn`: indices of rows -> what `dataset[indices]` gives.

    The lengths of histories are also kept on the host, for each batch (`ops/histories/host_lengths.py`).

    Integers are stored in 32 bits if they fit, and widened in the batch: the histories of ML-1M take 0.8 GB.
    """

    def __init__(self, dataset, device: torch.device):
        self.device = device
        self.rows = _Columns(dataset.inter_feat, device)
        field = getattr(dataset, "item_list_length_field", None)  # not every kind of data set has histories
        self.lengths = {field: dataset.inter_feat[field].numpy()} if field in dataset.inter_feat else {}
        self.features = [
            (field, _Columns(feature, device))
            for field, feature in ((dataset.uid_field, dataset.user_feat), (dataset.iid_field, dataset.item_feat))
            if feature is not None and field in dataset.inter_feat
        ]

    def __call__(self, index: list[int]) -> Interaction:
        index = np.asarray(index)
        batch = self.rows[torch.from_numpy(index).to(self.device, non_blocking=True)]
        for field, feature in self.features:
            batch.update(feature[batch[field]])
        for field, lengths in self.lengths.items():
            host_lengths.remember(batch[field], lengths[index])
        return Interaction(batch)


class _Columns:
    def __init__(self, interaction: Interaction, device: torch.device):
        self.types = {name: column.dtype for name, column in interaction.interaction.items()}
        self.columns = {name: _narrow(column).to(device) for name, column in interaction.interaction.items()}

    def __getitem__(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: column[rows].to(self.types[name]) for name, column in self.columns.items()}


def _narrow(column):
    if column.dtype != torch.int64 or (column.numel() and column.abs().max() > LARGEST_INT32):
        return column
    return column.to(torch.int32)
