"""Runs one cell in this process, with RecBole's own data, trainer and evaluation."""

import contextlib
import copy
import datetime
import os
import statistics
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from recbole_glintru import plugin
from recbole_glintru.launch import protocol
from recbole_glintru.launch.configuration import command_line, merged_settings
from recbole_glintru.launch.data import find_data
from recbole_glintru.launch.errors import user_errors
from reproduction import freshness, progress, surroundings
from reproduction.cells import Cell, Result, Stale, Store, load_json
from reproduction.freshness import folder_of
from reproduction.histories_once import HistoriesOnce

# This seed of NumPy's global generator, from which RecBole's sampler draws, fixes the candidates of a pass.
CANDIDATES_SEED = 2025
# Key in a result -> description. `{mode}` is the protocol's mode of evaluation, `{number}` its number of candidates.
READINGS = {
    "validation": "validation {mode}, best of all epochs' draws",
    "validation_fixed": "validation {mode}, fixed draw",
    "test": "test {mode}, RecBole's draw",
    "fixed": "test {mode}, fixed draw",
    "unseen": "test {mode}, fixed draw outside the history",
    "trained": "test {mode}, fixed draw by training rows alone",
    "uniform": "test uni{number}, fixed draw",
    "full": "test, full ranking",
}


OF_THE_TRAINING = ("package", "versions", "device", "peak_memory_MiB")  # of the training, whenever it is tested


def run(
    cell: Cell,
    store: Store,
    scratch: Path,
    data_path: Optional[Path] = None,
    stop: Callable[[], bool] = lambda: False,
    partial: bool = False,
) -> None:
    """Train, test and write the result; a training begun by another process is resumed.

    Args:
        stop: asked after each epoch whether to end.
        partial: train no epoch, but test the best of those done; the training can be resumed afterwards.

    Raises:
        UserError: the data is missing, RecBole or the model refuses a setting, not every epoch is validated, or the
            training was begun with other settings.
        Busy: another process is running this cell.
        Interrupted: `stop`, asked after each epoch, returned True.
    """
    folder = folder_of(cell, scratch.resolve())
    folder.mkdir(parents=True, exist_ok=True)
    above = {**dict(cell.changes), "seed": cell.seed, "checkpoint_dir": str(folder), "show_progress": False}
    if data_path is not None:
        above["data_path"] = str(data_path.resolve())
    with progress.alone(folder), command_line([]), _working_in(folder):
        with protocol.as_config_files(cell.protocol, cell.model) as files:

            def configuration(**changes):
                return merged_settings(cell.model, cell.dataset, files, {**above, **changes})

            result = _train_and_test(cell, folder, configuration, stop, partial, _before(cell, store))
    store.write(cell, result)


def _before(cell: Cell, store: Store) -> dict[str, Any]:
    """The previous record of a cell, if it is tested again."""
    file = store.file(cell)
    return load_json(file) if file.is_file() else {}


def _train_and_test(cell, folder, configuration, stop, partial, before) -> Result:
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_logger, init_seed

    config = configuration()
    progress.check_validation(config)
    with user_errors(Stale):
        freshness.begin(cell, folder, config)
    find_data(config)
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    dataset = create_dataset(config)
    counts = {"users": dataset.user_num - 1, "items": dataset.item_num - 1, "interactions": dataset.inter_num}
    train_data, valid_data, test_data = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    with user_errors(ValueError):  # a setting that the model refuses
        model = get_model(config["model"])(config, train_data._dataset).to(config["device"])
    savings = Savings(config, model)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    training = progress.Progress(trainer, train_data, folder, stop)
    training.run(valid_data, only_load=partial)
    tests = _Tests(trainer, test_data)
    readings, ranks, candidates = {"validation": training.records["best"]}, {}, {}
    readings["test"], _ = tests.run(test_data, load_best_model=True)
    seconds = tests.seconds
    for reading, loader in _loaders(config, configuration, train_data, valid_data, test_data).items():
        readings[reading], ranks[reading] = tests.run(loader, CANDIDATES_SEED)
        if reading != "full":
            candidates[reading] = tests.drawn()
    # Epochs written by an earlier version of this code lack some of it.
    now = {"versions": surroundings.versions(), "device": surroundings.device(config["device"])}
    of_training = {
        key: value for source in (now, before, training.records) for key, value in source.items() if value is not None
    }
    record = {
        "cell": {"dataset": cell.dataset, "protocol": cell.protocol, "model": cell.model, "seed": cell.seed},
        "changes": dict(cell.changes),
        **({} if training.records["finished"] else {"partial": True}),
        "readings": {reading: readings[reading] for reading in READINGS if reading in readings},
        "mode": config["eval_args"]["mode"]["test"],
        "candidates": candidates,
        **counts,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training": {**_summary(training.records), **seconds},
        "savings": savings.text(),
        **{key: of_training.get(key) for key in OF_THE_TRAINING},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "settings": cell.settings(),
        "configuration": freshness.configuration(config),
        "epochs": training.records["epochs"],
        "mixing_at_start": training.records["mixing_at_start"],
    }
    return Result(record, ranks)


class Savings:
    """The speed-ups that do not change a model's results; models of plugins keep their own."""

    def __init__(self, config, model):
        from recbole_glintru import accelerate, settings

        self.accelerated, self.once, self.reason = config["model"] in plugin.announced_models(), None, ""
        if not self.accelerated:
            try:
                accelerate.accelerate(model, settings.length_groups(config))
            except accelerate.NotInvariant as reason:
                self.once, self.reason = HistoriesOnce(model), str(reason)

    def text(self) -> str:
        if self.once is None:
            return "the model's own" if self.accelerated else "accelerate: True"
        own = "evaluation scores each history once" if self.once.state == "used" else "none"
        return f"{own}; {self.reason}"


class _Tests:
    """Passes of a trainer over test data, with RecBole's collector and evaluator, that also record each user's rank."""

    def __init__(self, trainer, test_data):
        self.trainer, self.evaluator = trainer, trainer.evaluator
        trainer.evaluator = self  # RecBole passes it what it has collected
        dataset = test_data._dataset
        targets = np.stack([dataset.inter_feat[field].numpy() for field in (dataset.uid_field, dataset.iid_field)])
        self._targets = zlib.crc32(np.ascontiguousarray(targets, dtype=np.int64).tobytes())

    def evaluate(self, collected):
        """Called by the trainer instead of the evaluator's method."""
        hits = collected.get("rec.topk").numpy()[:, :-1]  # [users, k], 1 at the target's rank
        places = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)
        self.ranks = places.astype(np.min_scalar_type(hits.shape[1]))
        return self.evaluator.evaluate(collected)

    def run(self, loader, seed: Optional[int] = None, load_best_model: bool = False):
        """Metrics, and ranks in the form of `Result`."""
        if seed is not None:
            np.random.seed(seed)
        wall, cpu = time.perf_counter(), time.process_time()
        metrics = self.trainer.evaluate(loader, load_best_model=load_best_model)
        self.seconds = {
            "seconds_per_evaluation": round(time.perf_counter() - wall, 3),
            "cpu_seconds_per_evaluation": round(time.process_time() - cpu, 3),
            "evaluation_batches": len(loader),  # RecBole's; the trainer may run fewer and larger ones
        }
        return {key: float(value) for key, value in metrics.items()}, self.ranks

    def drawn(self) -> str:
        """A text that two models share after a pass with the same seed if and only if they had the same candidates.

        Made from the targets and the state of the generator, which is the same after the same draws.
        """
        _, keys, position, *_ = np.random.get_state()
        return f"{self._targets:08x}-{zlib.crc32(keys.tobytes()):08x}-{position}"


def _loaders(config, configuration, train_data, valid_data, test_data) -> dict[str, Any]:
    """A loader for each reading that RecBole itself does not give."""
    from recbole.data import get_dataloader

    eval_args = config["eval_args"]
    if eval_args["mode"]["test"] == "full":  # nothing is drawn
        return {"validation_fixed": valid_data, "full": test_data}
    sampler = copy.copy(test_data._sampler)
    sampler.set_distribution("uniform")
    drawn_otherwise = {"unseen": unseen_sampler(test_data._sampler, test_data._dataset)}
    if test_data._sampler.distribution == "popularity":
        drawn_otherwise["trained"] = trained_sampler(test_data._sampler, train_data._dataset)
    loaders = {"validation_fixed": valid_data, "fixed": test_data}
    for reading, other in drawn_otherwise.items():
        loaders[reading] = get_dataloader(config, "test")(config, test_data._dataset, other)
    for reading, mode in (("uniform", f"uni{test_data.times - 1}"), ("full", "full")):
        changed = {**eval_args, "mode": {**eval_args["mode"], "test": mode}}
        changed = configuration(eval_args=changed)
        loaders[reading] = get_dataloader(changed, "test")(changed, test_data._dataset, sampler)
    return loaders


def unseen_sampler(sampler, dataset):
    """RecBole's sampler, with the items of a user's history excluded from the negatives, not only the target."""
    from recbole.sampler import RepeatableSampler

    rows = dataset.inter_feat
    histories = dict(zip(rows[dataset.uid_field].tolist(), rows[dataset.iid_field + dataset.config["LIST_SUFFIX"]]))

    class Unseen(RepeatableSampler):
        def __init__(self):
            self.__dict__.update(sampler.__dict__)

        def sample_by_user_ids(self, user_ids, item_ids, num):
            self.used_ids = np.empty(len(user_ids), dtype=object)
            self.used_ids[:] = [{*histories[user].tolist(), item} for user, item in zip(user_ids, item_ids)]
            return self.sample_by_key_ids(np.arange(len(user_ids)), num)

    return Unseen()


def trained_sampler(sampler, dataset):
    """RecBole's sampler, with an item's popularity counted from the targets of training alone.

    RecBole also counts those of validation and test.
    """
    other = copy.copy(sampler)
    other.dataset = dataset
    other.set_distribution(sampler.distribution)  # counts again
    return other


def _summary(records: dict[str, Any]) -> dict[str, Any]:
    seconds = {key: [epoch["seconds"][key] for epoch in records["epochs"]] for key in records["epochs"][0]["seconds"]}
    return {
        "epochs": len(records["epochs"]),
        "best_epoch": records["best_epoch"],
        "interruptions": records["interruptions"],
        "seconds_per_epoch": statistics.median(seconds["training"]),
        "cpu_seconds_per_epoch": statistics.median(seconds["training_cpu"]),
        "seconds_per_validation": statistics.median(seconds["validation"]),
        "cpu_seconds_per_validation": statistics.median(seconds["validation_cpu"]),
    }


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Change to the folder, because RecBole writes its logs into the current one."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
