"""One trial of a search: a model trained with one choice of settings, in any process."""

import contextlib
import inspect
import logging
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from recbole_glintru.launch.configuration import command_line, merged_settings
from recbole_glintru.launch.errors import UserError
from recbole_glintru.search.checks import check_validation


@dataclass(frozen=True)
class Fixed:
    """What all trials of a search have in common, in a form that can be sent to another machine.

    Args:
        model, dataset: their names.
        files: the texts of the configuration files, each overriding those before; the protocol is the first.
        settings: the `--key=value` of the command line, which override the files.
        folder: where the search was started; relative paths refer to it.
    """

    model: str
    dataset: str
    files: list[str]
    settings: dict[str, str]
    folder: str

    @contextlib.contextmanager
    def in_place(self) -> Iterator[list[str]]:
        """Let RecBole find the settings on its command line, and in the configuration files that this yields.

        Raises:
            FileNotFoundError: the folder is not on this machine.
        """
        if not Path(self.folder).is_dir():
            raise FileNotFoundError(f"{self.folder}, where the search was started, is not on {platform.node()}.")
        words = {"model": self.model, "dataset": self.dataset, **self.settings}
        before = os.getcwd()
        with tempfile.TemporaryDirectory(prefix="recbole_glintru_") as folder:
            files = [Path(folder, f"{number}.yaml") for number in range(len(self.files))]
            for file, text in zip(files, self.files):
                file.write_text(text, encoding="utf-8")
            os.chdir(self.folder)
            try:
                with command_line([f"--{key}={value}" for key, value in words.items()]):
                    yield [str(file) for file in files]
            finally:
                os.chdir(before)

    def merged(self, parameters: dict[str, Any]):
        """RecBole's `Config` of a trial with these parameters, which override the files but not the command line.

        Raises:
            UserError: RecBole, or the model, refuses a setting.
        """
        with self.in_place() as files:
            return merged_settings(self.model, self.dataset, files, dict(parameters))


def run_trial(
    fixed: Fixed,
    parameters: dict[str, Any],
    report: Optional[Callable[[int, float], None]] = None,
    scratch: Optional[str] = None,
) -> dict[str, Any]:
    """Train and test like RecBole's `objective_function`, with the same result.

    For a split without a test part, `test_result` is empty.

    Args:
        report: called after a validation with the number of epochs so far and the best validation score so far. The
            last epoch is not reported, because the test follows at once.
        scratch: the folder for the checkpoint, which is removed afterwards; by default the system's temporary folder.
            RecBole names checkpoints by the second, so parallel trials would read one another's.

    Raises:
        UserError: a setting is refused, or there is nothing to validate; raised before training.
    """
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_logger, init_seed

    checkpoint_folder = tempfile.TemporaryDirectory(prefix="trial_", dir=scratch)
    with checkpoint_folder as folder, _log_of_its_own(), fixed.in_place() as files:
        config = merged_settings(fixed.model, fixed.dataset, files, dict(parameters))
        check_validation(config)
        config["check_data"] = config["check_data"] is not False
        init_seed(config["seed"], config["reproducibility"])
        init_logger(config)
        train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
        if not valid_data:
            raise UserError("there are no rows to validate, and a search needs validation scores.")
        init_seed(config["seed"], config["reproducibility"])
        model = get_model(config["model"])(config, train_data._dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        trainer.saved_model_file = str(Path(folder, "model.pth"))
        reports = {}
        if report is not None and "callback_fn" in inspect.signature(trainer.fit).parameters:
            reports["callback_fn"] = _best_so_far(report, config)
        try:
            score, valid_result = trainer.fit(train_data, valid_data, verbose=False, **reports)
            test_result = trainer.evaluate(test_data)
        finally:
            trainer.tensorboard.close()  # RecBole leaves its thread running
    return {
        "model": config["model"],
        "best_valid_score": float(score),
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": {name: float(value) for name, value in valid_result.items()},
        "test_result": {name: float(value) for name, value in (test_result or {}).items()},
    }


def _best_so_far(report: Callable[[int, float], None], config) -> Callable[[int, float], None]:
    scores = []

    def callback(epoch, score):
        scores.append(float(score))
        if epoch + 1 < config["epochs"]:
            report(epoch + 1, max(scores) if config["valid_metric_bigger"] else min(scores))

    return callback


@contextlib.contextmanager
def _log_of_its_own() -> Iterator[None]:
    """Remove the handlers of the root logger inside the block: RecBole starts a log file only then."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:], root.level = handlers, level
