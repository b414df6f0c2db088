"""Training that can be killed at any moment: after each epoch, all that the next ones depend on is on disk.

RecBole writes a checkpoint only if validation improves, and no random state. Here every epoch leaves a folder
`epoch-<number>` with RecBole's checkpoint, the best one so far, the random states and the records; a rename makes it
appear complete. On a CPU a resumed training continues exactly as it would have without the interruption.
"""

import contextlib
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import torch
from measure import checkout

from recbole_glintru.launch import checks
from recbole_glintru.launch.errors import UserError
from recbole_glintru.layers.glintru_block import ExpertMixing
from reproduction import surroundings
from reproduction.cells import load_json


class Interrupted(Exception):
    """The training was asked to end; its last epoch is on disk."""


class Busy(Exception):
    """Another process is running this cell."""


def latest(folder: Path) -> Optional[Path]:
    """The folder of the last epoch on disk."""
    epochs = [path for path in folder.glob("epoch-*") if path.name[6:].isdigit()]
    return max(epochs, key=lambda path: int(path.name[6:]), default=None)


def records(folder: Path) -> Optional[dict[str, Any]]:
    """The records of the epochs so far, for other processes; None before the first."""
    epoch = latest(folder)
    while epoch is not None:
        try:
            return load_json(epoch / "records.json")
        except FileNotFoundError:
            before, epoch = epoch, latest(folder)
            if epoch == before:  # not replaced by the next one meanwhile
                raise UserError(f"{epoch} has no records.json: remove it, and the cell begins anew.") from None
    return None


def check_validation(config) -> None:
    """Check that every epoch is validated, because an epoch is recorded and saved in the callback of the validation.

    Args:
        config: RecBole's `Config`.

    Raises:
        UserError: it is not; the message names the key and its value.
    """
    if config["eval_step"] != 1:
        raise UserError(f"eval_step={config['eval_step']}: must be 1; a cell is measured, saved and resumed by epoch.")
    if config["epochs"] < 1:
        raise UserError(f"epochs={config['epochs']}: must be at least 1.")
    if not checks.validates(config):
        raise UserError(f"eval_args: split={config['eval_args']['split']}: must have a part for validation.")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the folder against other processes; the system releases the lock if this one is killed.

    Raises:
        Busy: another process has the lock.
    """
    import fcntl

    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy(f"another process is at {folder}") from None
        yield


class Progress:
    """A RecBole trainer whose epochs are measured, recorded and saved.

    Args:
        trainer: is modified: its epochs are timed, and its checkpoint goes into the folder.
        train_data: the loader, whose generator determines the order of the batches.
        folder: where the epochs are kept.
        stop: asked after each epoch whether to end.

    Attributes:
        records: `epochs`, a list with the results of each; `best`, the validation metrics of the best one, and
            `best_epoch`, counted from 1; `interruptions`, how often the training was resumed; `finished`;
            `package`, the code that began it, `versions` of the libraries and `device`; `peak_memory_MiB` of training
            and validation; `threads`, which a resumed training uses too, because with another number floating-point
            numbers would be added in another order.
    """

    def __init__(self, trainer, train_data, folder: Path, stop: Callable[[], bool] = lambda: False):
        self.trainer, self.train_data, self.folder, self.stop = trainer, train_data, folder, stop
        self.records: dict[str, Any] = {
            "epochs": [],
            "best": None,
            "best_epoch": None,
            "interruptions": 0,
            "finished": False,
            "mixing_at_start": _mixing(trainer.model),
            "package": checkout.package(),  # now, because the checkout may change during the training
            "versions": surroundings.versions(),
            "device": surroundings.device(trainer.device),
            "peak_memory_MiB": None,
            "threads": torch.get_num_threads(),
        }
        trainer.saved_model_file = str(folder / "best.pth")
        self._seconds: dict[str, float] = {}
        trainer._train_epoch = self._timed("training", trainer._train_epoch)
        trainer._valid_epoch = self._timed("validation", self._keeping_result(trainer._valid_epoch))

    def run(self, valid_data, only_load: bool = False) -> None:
        """Train to the end, from the last epoch on disk if there is one, or only load that epoch.

        Raises:
            Interrupted: `stop` returned True.
            UserError: there is no epoch to load.
        """
        epoch = latest(self.folder)
        if epoch is not None:
            self._resume(epoch)
        elif only_load:
            raise UserError("no epoch of it is done yet.")
        if not self.records["finished"] and not only_load:
            self.records["interruptions"] += epoch is not None
            self.trainer.fit(self.train_data, valid_data, callback_fn=self._epoch_done)

    def _timed(self, name, function):
        def timed(*arguments, **keywords):
            wall, cpu = time.perf_counter(), time.process_time()
            result = function(*arguments, **keywords)
            self._seconds[name] = time.perf_counter() - wall
            self._seconds[f"{name}_cpu"] = time.process_time() - cpu
            return result

        return timed

    def _keeping_result(self, validate):
        def validate_and_keep(*arguments, **keywords):
            score, self._valid_result = validate(*arguments, **keywords)
            return score, self._valid_result

        return validate_and_keep

    def _epoch_done(self, epoch: int, score: float) -> None:
        trainer = self.trainer
        self.records["epochs"].append(
            {
                "loss": trainer.train_loss_dict[epoch],
                "score": float(score),
                "seconds": {key: round(value, 3) for key, value in self._seconds.items()},
                **({"mixing": mixing} if (mixing := _mixing(trainer.model)) else {}),
            }
        )
        if trainer.cur_step == 0:
            self.records["best"] = {key: float(value) for key, value in self._valid_result.items()}
            self.records["best_epoch"] = epoch + 1
        memory = (self.records.get("peak_memory_MiB"), surroundings.peak_memory(trainer.device))
        self.records["peak_memory_MiB"] = max((one for one in memory if one is not None), default=None)
        self.records["finished"] = trainer.cur_step > trainer.stopping_step or epoch + 1 >= trainer.epochs
        self._save(epoch)
        if self.stop() and not self.records["finished"]:
            raise Interrupted

    def _save(self, epoch: int) -> None:
        saving, before = self.folder / "saving", latest(self.folder)
        shutil.rmtree(saving, ignore_errors=True)
        saving.mkdir()
        self.trainer._save_checkpoint(epoch, verbose=False, saved_model_file=str(saving / "checkpoint.pth"))
        shutil.copyfile(self.trainer.saved_model_file, saving / "best.pth")
        torch.save(self._random_states(), saving / "random.pth")
        (saving / "records.json").write_text(json.dumps(self.records), encoding="utf-8")
        os.rename(saving, self.folder / f"epoch-{epoch}")
        if before is not None:
            shutil.rmtree(before)

    def _resume(self, epoch: Path) -> None:
        self.records = load_json(epoch / "records.json")
        torch.set_num_threads(self.records.setdefault("threads", torch.get_num_threads()))
        self.trainer.resume_checkpoint(epoch / "checkpoint.pth")
        self.trainer.saved_model_file = str(self.folder / "best.pth")
        shutil.copyfile(epoch / "best.pth", self.trainer.saved_model_file)
        self.trainer.best_valid_result = self.records["best"]
        states = torch.load(epoch / "random.pth", weights_only=True)
        version, numbers, gauss = states["python"]
        random.setstate((version, tuple(numbers), gauss))
        name, keys, *rest = states["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(states["torch"])
        if torch.cuda.is_available():  # there may be fewer GPUs than before
            torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
        self.train_data.generator.set_state(states["batches"])

    def _random_states(self) -> dict[str, Any]:
        version, numbers, gauss = random.getstate()
        name, keys, *rest = np.random.get_state()
        return {
            "python": [version, list(numbers), gauss],
            "numpy": [name, keys.tolist(), *rest],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "batches": self.train_data.generator.get_state(),
        }


def _mixing(model) -> list[list[float]]:
    """The weights of GLINT-RU's two experts, recurrent and attention, in each block that has both."""
    mixings = [part for part in model.modules() if isinstance(part, ExpertMixing)]
    return [[round(float(weight), 6) for weight in mixing.logits.detach().softmax(dim=0)] for mixing in mixings]
