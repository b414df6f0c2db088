"""The data and models to measure: RecBole's own data sets, loaders and trainer, with real files or those of a shape."""

import contextlib
import copy
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataloader import NegSampleEvalDataLoader, TrainDataLoader
from recbole.data.transform import construct_transform
from recbole.sampler import RepeatableSampler
from recbole.utils import get_model, get_trainer, init_seed

from measure import shapes
from measure.plain_glintru import PlainGLINTRU
from recbole_glintru import plugin
from recbole_glintru.accelerate import NotInvariant, accelerate
from recbole_glintru.launch import protocol
from recbole_glintru.launch.configuration import command_line
from recbole_glintru.launch.errors import user_errors

PLAIN, ACCELERATED = "-plain", "-accelerated"
RECBOLE = ("GRU4Rec", "BERT4Rec", "SASRec", "LightSANs")
REFERENCE = "GLINTRU"
EVALUATION = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "pop100"},
    "metrics": ["Recall", "MRR", "NDCG"],
    "valid_metric": "NDCG@10",
}
BATCH_SIZES = {"ml-1m": 256}  # on a CPU, where the paper's 2048 would take minutes per step; else 1024


def all_candidates() -> list[str]:
    """The names of all candidates: GLINT-RU, its plain twin, the package's other models, RecBole's in both variants."""
    announced = plugin.announced_models().items()
    own = [name for name, entry in announced if entry.value.startswith("recbole_glintru.")]
    others = [name for name in own if name != REFERENCE]
    return [REFERENCE, REFERENCE + PLAIN, *others, *(name + kind for name in RECBOLE for kind in ("", ACCELERATED))]


def model_name(candidate: str) -> str:
    """RecBole's name of a candidate's model."""
    return candidate.removesuffix(PLAIN).removesuffix(ACCELERATED)


def find_settings(candidate: str, dataset: str, device: torch.device, changes: dict[str, Any]) -> Config:
    """RecBole's settings of a candidate: the paper's protocol for the data set, overridden by `changes`."""
    name = model_name(candidate)
    applied = dataset if dataset in protocol.files() else None
    gpu = {"use_gpu": False} if device.type == "cpu" else {"gpu_id": str(device.index or 0)}
    with protocol.as_config_files(applied, name) as files, command_line([]):
        with user_errors(ValueError, NotImplementedError):
            config = Config(name, dataset, files, {**EVALUATION, "show_progress": False, **gpu, **changes})
    logging.getLogger().setLevel(logging.ERROR)
    construct_transform(config)  # sets settings that BERT4Rec reads
    return config


def make_model(candidate: str, config: Config, dataset, device: torch.device):
    """A new model in training mode, on the device.

    Raises:
        NotInvariant: it cannot be accelerated, as its name demands.
    """
    init_seed(config["seed"], True)
    kind = PlainGLINTRU if candidate == REFERENCE + PLAIN else get_model(model_name(candidate))
    model = kind(config, dataset).to(device)
    return accelerate(model).train() if candidate.endswith(ACCELERATED) else model.train()


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    """An empty working directory for the block, because RecBole always writes logs."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


class Workload:
    """A data set, split as in the paper; for each candidate its model, batches, loaders and trainer.

    Args:
        title: its name in the results.
        dataset: its name in RecBole.
        folder: RecBole's `data_path`.
        device: where models run.
        batch_size: histories in a training batch, and in one to score.
        shape: the shape from which it was made, if it is not real.
        candidates: the models that will be used; item features are read if one of them needs some.
        changes: RecBole's settings that override the protocol.

    Attributes:
        training_rows, users: those of the whole data set, of which made data are a part.
    """

    def __init__(
        self,
        title: str,
        dataset: str,
        folder: Path,
        device: torch.device,
        batch_size: Optional[int] = None,
        shape: Optional[shapes.Shape] = None,
        candidates: tuple[str, ...] = (),
        changes: Optional[dict[str, Any]] = None,
    ):
        self.title, self.dataset_name, self.device, self.is_real = title, dataset, device, shape is None
        self.batch_size = batch_size or (2048 if device.type == "cuda" else BATCH_SIZES.get(dataset, 1024))
        self.changes = {"data_path": str(folder), "train_batch_size": self.batch_size, **(changes or {})}
        if shape is not None:
            self.changes.update(user_inter_num_interval=None, item_inter_num_interval=None)
        item_file = folder / dataset / f"{dataset}.item"
        self._columns = item_file.open(encoding="utf-8").readline().split() if item_file.is_file() else []
        self._columns = [column.partition(":")[0] for column in self._columns]
        self._settings: dict[str, Config] = {}
        configs = [self.config(candidate) for candidate in (REFERENCE, *candidates)]
        wanted = {field for config in configs for field in config["selected_features"] or ()}
        self._load(configs[0], sorted(wanted) if shape is None else list(shape.features))
        self.training_rows = len(self._parts["train"]) if shape is None else shape.training_rows
        self.users = self.dataset.user_num - 1 if shape is None else shape.users
        self.items = self.dataset.item_num
        self.width = configs[0]["hidden_size"]
        self.longest = configs[0]["MAX_ITEM_LIST_LENGTH"]
        self.settings_of_reference = configs[0]

    def config(self, candidate: str) -> Config:
        """RecBole's settings of a candidate."""
        name = model_name(candidate)
        if name not in self._settings:
            config = find_settings(name, self.dataset_name, self.device, self.changes)
            if config["selected_features"]:
                config["selected_features"] = [field for field in config["selected_features"] if field in self._columns]
            self._settings[name] = config
        return self._settings[name]

    def _load(self, config, features):
        config["load_col"] = {**(config["load_col"] or {"inter": ["user_id", "item_id", "timestamp"]})}
        if features:
            config["load_col"] = {**config["load_col"], "item": ["item_id", *features]}
        self.dataset = create_dataset(config)
        self._parts = dict(zip(("train", "valid", "test"), self.dataset.build()))
        self._sampler = RepeatableSampler(list(self._parts), self.dataset, "popularity", 1.0)

    def _for(self, candidate, dataset):
        """A data set with item features for models that use some, otherwise without, because joining costs time."""
        view = copy.copy(dataset)
        if not self.config(candidate)["selected_features"]:
            view.item_feat = None
        return view

    # ------------------------------------------------------------------------------------- what a candidate needs

    def model(self, candidate: str):
        """A new model in training mode; see `make_model`."""
        return make_model(candidate, self.config(candidate), self._for(candidate, self.dataset), self.device)

    def training_loader(self, candidate: str, **changes: Any) -> TrainDataLoader:
        """RecBole's loader of the training data."""
        config = self._changed(candidate, changes)
        init_seed(config["seed"], True)
        return TrainDataLoader(config, self._for(candidate, self._parts["train"]), None, shuffle=True)

    def evaluation_loader(self, candidate: str, **changes: Any) -> NegSampleEvalDataLoader:
        """RecBole's loader of the validation data, with 100 popular negatives per user."""
        config = self._changed(candidate, changes)
        init_seed(config["seed"], True)
        sampler = self._sampler.set_phase("valid")
        return NegSampleEvalDataLoader(config, self._for(candidate, self._parts["valid"]), sampler)

    def _changed(self, candidate, changes):
        config = copy.copy(self.config(candidate))
        config.final_config_dict = {**config.final_config_dict, **changes}
        return config

    def training_batches(self, candidate: str, number: int) -> list:
        """Batches on the device, with the same rows for every candidate."""
        loader = self.training_loader(candidate)
        order = np.random.default_rng(0).permutation(len(self._parts["train"]))
        number = max(1, min(number, len(order) // self.batch_size))
        rows = [order[start * self.batch_size :][: self.batch_size] for start in range(number)]
        return [loader.collate_fn(some).to(self.device) for some in rows]

    def scoring_batches(self, candidate: str, number: int) -> list:
        """Batches of the histories in evaluation, on the device, the same for every candidate."""
        dataset = self._for(candidate, self._parts["valid"])
        order = np.random.default_rng(0).permutation(len(dataset))
        rows = [order[start * self.batch_size :][: self.batch_size] for start in range(number)]
        return [dataset[some].to(self.device) for some in rows if len(some)]

    def trainer(self, candidate: str, model):
        """RecBole's trainer, for its evaluation."""
        config = self.config(candidate)
        return get_trainer(config["MODEL_TYPE"], config["model"])(config, model)


class Catalogue:
    """The part of a data set that a model without item features reads: the number of values of each field."""

    item_feat = user_feat = None

    def __init__(self, items: int, users: int = 10_000):
        self._sizes = {"item_id": items, "user_id": users}
        self.item_num, self.user_num = items, users

    def num(self, field: str) -> int:
        """The number of values of a field, including padding."""
        return self._sizes[field]


__all__ = ["Catalogue", "NotInvariant", "Workload", "all_candidates", "find_settings", "make_model", "model_name"]
