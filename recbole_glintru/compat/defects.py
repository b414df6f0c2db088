"""Mends of what is broken in RecBole 1.2.1 itself, on every stack."""

import contextlib
import functools

from recbole_glintru.compat.import_hooks import Overlay, after, around


@after("recbole.evaluator.collector")
def collector_takes_numbers(collector) -> None:
    """`Collector.get_data_struct` moves to the CPU what is a tensor.

    Without: ItemCoverage, GiniIndex, ShannonEntropy, TailPercentage and AveragePopularity fail on every stack: the
    number of items is an int and has no `.cpu()` (collector.py:227).
    """
    move = collector.Collector.get_data_struct

    @functools.wraps(move)
    def get_data_struct(self):
        items = self.data_struct._data_dict
        plain = {key: value for key, value in items.items() if not hasattr(value, "cpu")}
        for key in plain:
            del items[key]
        struct = move(self)
        items.update(plain)
        struct._data_dict.update(plain)
        return struct

    collector.Collector.get_data_struct = get_data_struct


@after("recbole.data.dataset.dataset")
def download_needs_no_process_group(dataset) -> None:
    """`Dataset._download` waits for the other processes where there are some.

    Without: in a single process every download, complete as it is, ends in `Default process group has not been
    initialized` (dataset.py:252, issues 1989 and 2050 of RecBole).
    """
    torch = dataset.torch
    distributed = torch.distributed

    def barrier(*args, **kwargs):
        if distributed.is_available() and distributed.is_initialized():
            return distributed.barrier(*args, **kwargs)

    dataset.torch = Overlay(torch, distributed=Overlay(distributed, barrier=barrier))


@after("recbole.config.configurator")
def negatives_follow_the_loss(configurator) -> None:
    """A sequential model that is trained with CE samples no negatives, unless the user asks for them.

    Without: RecBole's defaults contradict each other, so that `--model=SASRec` alone ends in `train_neg_sample_args
    should be None when the loss_type is CE` (configurator.py:347). A user's own contradiction still ends there.
    """
    merge = configurator.Config._get_final_config_dict

    @functools.wraps(merge)
    def _get_final_config_dict(self):
        settings = merge(self)
        if (
            settings.get("MODEL_TYPE") == configurator.ModelType.SEQUENTIAL
            and settings.get("loss_type") == "CE"
            and not hasattr(self.model_class, "input_type")
            and "train_neg_sample_args" not in self.external_config_dict
        ):
            settings["train_neg_sample_args"] = None
        return settings

    configurator.Config._get_final_config_dict = _get_final_config_dict


@after("recbole.config.configurator")
def histories_need_the_time(configurator) -> None:
    """A sequential model's data set of the user's own is read with its column of the time, `TIME_FIELD`.

    Without: RecBole's default, `load_col: {inter: [user_id, item_id]}` (sample.yaml:17), leaves it out, so that each
    sequential model ends in `[timestamp] is not exist in interaction` (interaction.py:321). Who sets `load_col`, or
    splits the data beforehand (`benchmark_filename`), is left alone.
    """
    merge = configurator.Config._get_final_config_dict

    @functools.wraps(merge)
    def _get_final_config_dict(self):
        settings = merge(self)
        columns, time = settings.get("load_col"), settings.get("TIME_FIELD")
        if (
            settings.get("MODEL_TYPE") == configurator.ModelType.SEQUENTIAL
            and "load_col" not in self.external_config_dict
            and settings.get("benchmark_filename") is None
            and columns
            and time not in columns.get("inter", (time,))
        ):
            settings["load_col"] = {**columns, "inter": [*columns["inter"], time]}
        return settings

    configurator.Config._get_final_config_dict = _get_final_config_dict


@around("recbole.model.sequential_recommender.sine")
@contextlib.contextmanager
def anomaly_detection_stays():
    """PyTorch's anomaly detection stays as it was, off unless the user has it on.

    Without: sine.py:25 turns it on for the whole process, whichever sequential model is asked for, since the package
    imports them all: every gradient of every model is searched for NaN. Results are the same, training takes longer.
    """
    import torch

    enabled, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(enabled, check_nan)
