"""Runs of RecBole's flow, the same in one process and in each of several, that say what they came to.

A module of its own, since spawned processes import it by name.
"""

import contextlib
import inspect
import os
import signal
import socket
import time
from unittest import mock

import torch
from fakes import BASE, ItemTable, Settings, make_batch, make_histories, make_model, model_settings

from recbole_glintru import plugin
from recbole_glintru.models.glintru import GLINTRU

COMMON = {
    "user_inter_num_interval": "[0,24]",
    "epochs": 2,
    "hidden_size": 16,
    "n_heads": 4,
    "MAX_ITEM_LIST_LENGTH": 10,
    "show_progress": False,
    "train_batch_size": 256,
    "eval_batch_size": 96,
    "learning_rate": 0.01,
    "topk": [5, 10],
    "metrics": ["Recall", "NDCG", "MRR", "ItemCoverage", "ShannonEntropy"],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 7,
    **{f"{name}_dropout_prob": 0.0 for name in ("gate", "mix", "mlp", "hidden", "embedding")},
}
SPLIT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
ONE_EPOCH = {"epochs": 1, "user_inter_num_interval": "[0,20]"}
RUNS = {
    "full": {"eval_args": {**SPLIT, "mode": "full"}},
    "sampled": {**ONE_EPOCH, "eval_args": {**SPLIT, "mode": "uni20"}, "metrics": ["Recall", "NDCG", "GAUC"]},
    "value": {
        **ONE_EPOCH,
        "eval_args": {**SPLIT, "mode": "pop20"},
        "metrics": ["AUC", "LogLoss"],
        "valid_metric": "AUC",
    },
}


def free_port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def train_and_evaluate(run, **processes):
    """What `run_recbole` does for one of `RUNS`, and what it came to, as plain values."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    config = Config(model="GLINTRU", dataset="ml-100k", config_dict={**COMMON, **RUNS[run], **processes})
    init_seed(config["seed"], config["reproducibility"])
    data = data_preparation(config, create_dataset(config))
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    model = get_model(config["model"])(config, data[0]._dataset)
    with clocks_differ(config["local_rank"]), writing_takes_time():
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        _, valid = trainer.fit(data[0], data[1])
        test = trainer.evaluate(data[2])
    outcome = {
        "losses": [float(loss) for loss in trainer.train_loss_dict.values()],
        "valid": {key: float(value) for key, value in valid.items()},
        "test": {key: float(value) for key, value in test.items()},
        "state": {key: value.clone() for key, value in model.state_dict().items()},
        "checkpoint": trainer.saved_model_file,
        "recbole": as_recbole_does(trainer, config, data[2]._dataset) if run == "full" else None,
    }
    if not config["single_spec"]:
        torch.distributed.destroy_process_group()
    return outcome


def train_in_process(local_rank, nproc, ports):
    """All of `RUNS`, in one of several processes; `rank-<rank>` in the current folder is what they came to."""
    outcomes = {}
    for run, port in ports.items():
        members = {"nproc": nproc, "world_size": nproc, "ip": "localhost", "port": port, "offset": 0}
        if run == "gradients":
            torch.distributed.init_process_group(
                "gloo", rank=local_rank, world_size=nproc, init_method=f"tcp://localhost:{port}"
            )
            names = [*plugin.announced_models(), ACCELERATED]
            outcomes[run] = {name: gradients(name, local_rank, nproc) for name in names}
        else:
            outcomes[run] = train_and_evaluate(run, local_rank=local_rank, **members)
    torch.save(outcomes, f"rank-{local_rank}")


# ------------------------------------------------------------------------------------------- what must not matter


def clocks_differ(rank):
    """Each rank's clock shows another time, which RecBole names checkpoints by."""
    return mock.patch("recbole.trainer.trainer.get_local_time", lambda: f"clock-{rank}")


@contextlib.contextmanager
def writing_takes_time():
    """A checkpoint is there half a second after the other ranks have gone on."""
    save = torch.save

    def save_late(*args, **kwargs):
        time.sleep(0.5)
        save(*args, **kwargs)

    with mock.patch("torch.save", save_late):
        yield


# ------------------------------------------------------------------------------------------------ RecBole's own way


def as_recbole_does(trainer, config, dataset):
    """The metrics of the test data by RecBole's own loader, collector and average of the ranks."""
    from recbole.data.dataloader.general_dataloader import FullSortEvalDataLoader
    from recbole.evaluator.collector import Collector
    from recbole.trainer import Trainer

    # Of the collector, only the gathering is left out: without its other patch the ItemCoverage cannot be computed.
    collect = Collector.get_data_struct.__wrapped__
    with contextlib.ExitStack() as stack:
        for owner, name in ((FullSortEvalDataLoader, "__init__"), (Trainer, "_map_reduce")):
            stack.enter_context(mock.patch.object(owner, name, inspect.unwrap(getattr(owner, name))))
        stack.enter_context(mock.patch.object(Collector, "get_data_struct", collect))
        metrics = trainer.evaluate(FullSortEvalDataLoader(config, dataset, None), load_best_model=False)
    return {key: float(value) for key, value in metrics.items()}


# -------------------------------------------------------------------------------------------------- gradients


ACCELERATED = "GRU4Rec"  # one of RecBole's own


def gradients(name, rank=0, ranks=1):
    """The gradients of one training step of a model, on a share of eight rows, as RecBole makes it.

    In several processes rows of each length are a group of their own, and RecBole's model is accelerated; in one there
    are no groups, and it is RecBole's alone.
    """
    from recbole.trainer.trainer import AbstractTrainer

    torch.manual_seed(rank)  # other initial parameters in every rank, as RecBole has them
    model, settings = _without_chance(name, length_groups=[0.0, 0.0] if ranks > 1 else False)
    settings.update(single_spec=ranks == 1, accelerate=ranks > 1 and name == ACCELERATED)
    trainer = AbstractTrainer(settings, model)
    trainer.device = torch.device("cpu")
    item_seq, item_seq_len = make_histories([12, 3, 1, 7, 5, 9, 2, 12], padded_to=12)
    batch = make_batch(item_seq, item_seq_len)[torch.arange(rank, 8, ranks)]
    sync_loss = 0
    if ranks > 1:
        trainer.set_reduce_hook()
        sync_loss = trainer.sync_grad_loss()
    (model.calculate_loss(batch) + sync_loss).backward()
    return {key: parameter.grad for key, parameter in model.named_parameters()}


def _without_chance(name, **changes):
    """A model that draws no random numbers once it is made, and its settings."""
    changes["MAX_ITEM_LIST_LENGTH"] = 12
    if name == ACCELERATED:
        own = {"embedding_size": 16, "hidden_size": 16, "num_layers": 1, "dropout_prob": 0.0, "loss_type": "CE"}
        settings = Settings({**BASE, **own, **changes})
        return plugin.import_model(name)(settings, ItemTable(30)), settings
    settings = model_settings(name, **changes)
    settings.update({key: 0.0 for key in settings if "dropout" in key or key.startswith("sse_")})
    features = {"class": torch.randint(1, 5, (30, 3), generator=torch.Generator().manual_seed(0))}
    return make_model(name, features=features, **settings), settings


# ----------------------------------------------------------------------------------------------------- failures


class Failing(GLINTRU):
    """Comes to an end in rank 1, at its second batch, as the key `failure` says: error, killed or hanging."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.failure, self.steps = config["failure"], 0

    def calculate_loss(self, interaction):
        self.steps += 1
        if torch.distributed.get_rank() == 1 and self.steps == 2:
            if self.failure == "error":
                raise ArithmeticError("the model has had enough")
            if self.failure == "killed":
                os.kill(os.getpid(), signal.SIGKILL)  # as by a system short of memory
            time.sleep(600)
        return super().calculate_loss(interaction)
