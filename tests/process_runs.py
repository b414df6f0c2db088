"""Runs of RecBole's flow, the same in one process and in each of several, that say what they came to.

A module of its own, since spawned processes import it by name.
"""

import os
import signal
import socket
import time

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
RUNS = {
    "full": {"eval_args": {**SPLIT, "mode": "full"}},
    "sampled": {"eval_args": {**SPLIT, "mode": "uni20"}, "metrics": ["Recall", "NDCG", "GAUC"], "epochs": 1},
    "value": {
        "eval_args": {**SPLIT, "mode": "pop20"},
        "metrics": ["AUC", "LogLoss"],
        "valid_metric": "AUC",
        "epochs": 1,
    },
}


def free_port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def train_and_evaluate(run, **processes):
    """What `run_recbole` does for one of `RUNS`, and what it came to, as plain values."""
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    config = Config(model="GLINTRU", dataset="ml-100k", config_dict={**COMMON, **RUNS[run], **processes})
    init_seed(config["seed"], config["reproducibility"])
    data = data_preparation(config, create_dataset(config))
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    model = get_model(config["model"])(config, data[0]._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    _, valid = trainer.fit(data[0], data[1])
    test = trainer.evaluate(data[2])
    outcome = {
        "losses": [float(loss) for loss in trainer.train_loss_dict.values()],
        "valid": {key: float(value) for key, value in valid.items()},
        "test": {key: float(value) for key, value in test.items()},
        "state": {key: value.clone() for key, value in model.state_dict().items()},
        "checkpoint": trainer.saved_model_file,
        "rows": (data[0].sample_size, data[2].sample_size),
    }
    if not config["single_spec"]:
        torch.distributed.destroy_process_group()
    return outcome


def train_in_process(local_rank, nproc, ports):
    """All of `RUNS`, in one of several processes; `rank-<rank>` in the current folder is what they came to."""
    import torch

    outcomes = {}
    for run, port in ports.items():
        members = {"nproc": nproc, "world_size": nproc, "ip": "localhost", "port": port, "offset": 0}
        outcomes[run] = train_and_evaluate(run, local_rank=local_rank, **members)
    torch.save(outcomes, f"rank-{local_rank}")


class Dying(GLINTRU):
    """Raises an error in the second of two processes, at its second batch."""

    steps = 0

    def calculate_loss(self, interaction):
        import torch

        self.steps += 1
        if torch.distributed.get_rank() == 1 and self.steps == 2:
            self.end()
        return super().calculate_loss(interaction)

    def end(self):
        raise ArithmeticError("the model has had enough")


class Killed(Dying):
    """Is killed instead, as by a system short of memory."""

    def end(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Hanging(Dying):
    """Hangs instead."""

    def end(self):
        time.sleep(600)
