"""Patches for what is broken in RecBole 1.2.1 itself, with all versions of its dependencies."""

import contextlib
import functools
from collections.abc import Mapping
from typing import Optional

from recbole_glintru.compat.import_hooks import Overlay, after, around


@after("recbole.evaluator.collector")
def collector_takes_numbers(collector) -> None:
    """`Collector.get_data_struct` moves only tensors to the CPU.

    Without: ItemCoverage, GiniIndex, ShannonEntropy, TailPercentage and AveragePopularity always fail: the
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
    """`Dataset._download` waits for the other processes only if there are any.

    Without: in a single process every download, although complete, ends in `Default process group has not been
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
    """A sequential model trained with CE samples no negatives, unless the user asks for them.

    Without: RecBole's defaults contradict each other, so `--model=SASRec` alone ends in `train_neg_sample_args
    should be None when the loss_type is CE` (configurator.py:347). Contradictory settings of the user still do.
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
def named_columns_are_read(configurator) -> None:
    """Unless the user sets `load_col`, the columns that are read are those that other settings name.

    Without: RecBole's default, `load_col: {inter: [user_id, item_id]}` (sample.yaml:17), knows no other names of users
    and items and contradicts every `unload_col` (dataset.py:417). It omits the column to sort by, so that each
    sequential model ends in `[timestamp] is not exist in interaction` (interaction.py:321), and the histories of data
    that are already split, so that it ends in `no attribute 'item_id_list_field'` (sequential_dataset.py:164).
    """
    merge = configurator.Config._get_final_config_dict

    @functools.wraps(merge)
    def _get_final_config_dict(self):
        settings = merge(self)
        columns = settings.get("load_col")
        if "load_col" in self.external_config_dict or not columns:
            return settings
        if settings.get("unload_col"):
            settings["load_col"] = None
            return settings
        settings["load_col"] = columns_under(columns, settings)
        wanted, listed = _time_or_histories(settings, configurator), settings["load_col"].get("inter")
        if wanted is not None and isinstance(listed, list) and wanted not in listed:
            listed.append(wanted)
        return settings

    configurator.Config._get_final_config_dict = _get_final_config_dict


FIELDS = {"user_id": "USER_ID_FIELD", "item_id": "ITEM_ID_FIELD", "timestamp": "TIME_FIELD"}  # of RecBole's defaults


def columns_under(columns: dict, settings: Mapping) -> dict:
    """A `load_col` with RecBole's default names replaced by those in the settings."""
    named = {name: settings.get(key) or name for name, key in FIELDS.items()}
    return {
        file: [named.get(name, name) for name in listed] if isinstance(listed, list) else listed
        for file, listed in columns.items()
    }


def _time_or_histories(settings: dict, configurator) -> Optional[str]:
    """The column that RecBole sorts by or, for data that are already split, that of the histories."""
    sequential = settings.get("MODEL_TYPE") == configurator.ModelType.SEQUENTIAL
    if settings.get("benchmark_filename") is not None:
        return f"{settings['ITEM_ID_FIELD']}{settings['LIST_SUFFIX']}" if sequential else None
    args = settings["eval_args"]
    by_time = isinstance(args, dict) and args.get("order") == "TO"
    return settings["TIME_FIELD"] if sequential or by_time else None


@after("recbole.data.dataset.sequential_dataset")
def histories_have_the_items_name(sequential_dataset) -> None:
    """Histories of data that are already split are found under `ITEM_ID_FIELD` + `LIST_SUFFIX`.

    Without: under any name but `item_id_list` they end in `no attribute 'item_id_list_field'`
    (sequential_dataset.py:164).
    """
    dataset = sequential_dataset.SequentialDataset
    preset = dataset._benchmark_presets

    @functools.wraps(preset)
    def _benchmark_presets(self):
        self.item_id_list_field = f"{self.iid_field}{self.config['LIST_SUFFIX']}"
        preset(self)

    dataset._benchmark_presets = _benchmark_presets


@around("recbole.model.sequential_recommender.sine")
@contextlib.contextmanager
def anomaly_detection_stays():
    """PyTorch's anomaly detection stays as it was: off unless the user has turned it on.

    Without: sine.py:25 turns it on for the whole process whichever sequential model is asked for, because RecBole
    imports them all: every gradient of every model is checked for NaN. Results are the same, but training takes longer.
    """
    import torch

    enabled, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(enabled, check_nan)


@after("recbole.model.context_aware_recommender.kd_dagfm")
def teachers_are_named(kd_dagfm) -> None:
    """`KD_DAGFM` takes its setting `teacher` as the name of one of the networks in its file.

    Without: it evaluates the setting as Python (kd_dagfm.py:44), that of a loaded checkpoint too.
    """

    def teacher(name: str):
        found = vars(kd_dagfm).get(name)
        if not isinstance(found, type) or found.__module__ != kd_dagfm.__name__:
            raise ValueError(f"teacher={name!r}: KD_DAGFM has no network of that name.")
        return found

    kd_dagfm.eval = teacher


@after("recbole.model.abstract_recommender")
def only_named_parameters_are_loaded(abstract_recommender) -> None:
    """`load_other_parameter` sets only the attributes that the model saves by `other_parameter`.

    Without: a checkpoint can replace any attribute of the model that it is loaded into, methods and hooks included
    (abstract_recommender.py:72).
    """
    set_all = abstract_recommender.AbstractRecommender.load_other_parameter

    @functools.wraps(set_all)
    def load_other_parameter(self, para):
        own = abstract_recommender.AbstractRecommender.other_parameter
        if type(self).other_parameter is own and para is not None:
            names = list(para) if isinstance(para, dict) else [type(para).__name__]
            foreign = set(map(str, names)) - set(getattr(self, "other_parameter_name", ()))
            if foreign:
                raise ValueError(f"other_parameter: {type(self).__name__} saves no {', '.join(sorted(foreign))}.")
        set_all(self, para)

    abstract_recommender.AbstractRecommender.load_other_parameter = load_other_parameter
