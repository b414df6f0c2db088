"""How RecBole finds the models of this package, and of every other that announces some.

A distribution announces a model as an entry point of the group `recbole.models`::

    [options.entry_points]
    recbole.models =
        GLINTRU = recbole_glintru.models.glintru:GLINTRU

RecBole looks a model up by importing `recbole.model.<kind>_recommender.<lower-case name>`. `register` puts one finder
into `sys.meta_path` that answers for the announced names where RecBole has no such module, and that runs the mends of
`compat/` right after the RecBole modules they concern. No module of RecBole or PyTorch is imported before somebody
asks for it, and RecBole's own models always win.
"""

import contextlib
import difflib
import functools
import importlib
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Optional

from recbole_glintru import compat  # noqa: F401  its mends enter the tables of import_hooks
from recbole_glintru.compat.import_hooks import AFTER, AROUND, after, rebind

GROUP = "recbole.models"
_NAMESPACE = "recbole.model.sequential_recommender."


def register() -> None:
    """Install the finder, and mend the modules of RecBole that are loaded already. Calling it twice is harmless."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for name in [name for name in AFTER if name in sys.modules]:
        _mend(sys.modules[name])


@functools.cache
def announced_models() -> dict[str, EntryPoint]:
    """The models of every installed plugin: class name -> entry point.

    The models of this package are there even when it is not installed (a checkout on `PYTHONPATH`): they follow
    RecBole's own convention, `properties/model/<Name>.yaml` beside `models/<name>.py`.
    """
    own = {
        file.stem: EntryPoint(file.stem, f"recbole_glintru.models.{file.stem.lower()}:{file.stem}", GROUP)
        for file in sorted((properties("recbole_glintru") / "model").glob("*.yaml"))
    }
    every = entry_points()
    group = every.select(group=GROUP) if hasattr(every, "select") else every.get(GROUP, ())  # dict until Python 3.9
    return {**{entry.name: entry for entry in group}, **own}


def model_names() -> list[str]:
    """The names of all models that `get_model` can return, announced and RecBole's own, sorted."""
    builtin = (file.stem for file in (properties("recbole") / "model").glob("*.yaml"))
    return sorted({*announced_models(), *builtin}, key=str.lower)


def properties(package: str) -> Path:
    """The folder `properties/` of an importable package: inside it, or beside it in a checkout."""
    home = Path(importlib.util.find_spec(package).origin).resolve().parent
    inside = home / "properties"
    return inside if inside.is_dir() else home.parent / "properties"


def default_settings_file(model_class: type) -> Optional[Path]:
    """`properties/model/<Name>.yaml` of the plugin that a model class, or else its nearest base, comes from."""
    plugins = {entry.value.partition(":")[0].partition(".")[0] for entry in announced_models().values()}
    for base in model_class.__mro__:
        package = base.__module__.partition(".")[0]
        if package in plugins:
            file = properties(package) / "model" / f"{base.__name__}.yaml"
            if file.is_file():
                return file
    return None


def unknown_model_message(name: str) -> str:
    """What to say of a name that is no model: the name and the nearest ones that are."""
    spelled = {known.lower(): known for known in model_names()}
    near = [spelled[match] for match in difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.5)]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known models: {', '.join(spelled.values())}."
    return f"There is no model named '{name}'. {hint}"


# ---------------------------------------------------------------------------------------------------------- finding


class _Finder:
    """Stands first in `sys.meta_path`; leaves the finding to the others and adds to what they find, or do not find."""

    def find_spec(self, name, path=None, target=None):
        is_model, is_mended = name.startswith(_NAMESPACE), name in AFTER or name in AROUND
        if not (is_model or is_mended):
            return None
        spec = self._ask_the_others(name, path, target)
        if spec is not None and spec.loader is not None and is_mended:
            spec.loader = _MendingLoader(spec.loader)
        if spec is None and is_model:
            wanted = name[len(_NAMESPACE) :]
            for entry in announced_models().values():
                if entry.name.lower() == wanted:
                    return ModuleSpec(name, _ModelLoader(entry), origin=entry.value)
        return spec

    def _ask_the_others(self, name, path, target):
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None


class _ModelLoader:
    """Makes `recbole.model.sequential_recommender.<name>`, whose one content is the announced class itself."""

    def __init__(self, entry: EntryPoint):
        self._entry = entry

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        setattr(module, self._entry.name, self._entry.load())


class _MendingLoader:
    """Another loader, with the mends of `compat/` around and after the module's body."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        with AROUND.get(module.__name__, contextlib.nullcontext)():
            self._loader.exec_module(module)
        _mend(module)


def _mend(module):
    for mend in AFTER.get(module.__name__, ()):
        mend(module)


# ------------------------------------------------------------------------------------------------ settings and names


@after("recbole.config.configurator")
def read_default_settings(configurator) -> None:
    """`Config` reads a plugin model's own YAML where it reads that of RecBole's models: right after overall.yaml."""
    read = configurator.Config._update_internal_config_dict

    @functools.wraps(read)
    def _update_internal_config_dict(self, file):
        settings = read(self, file)
        if os.path.basename(file) == "overall.yaml":
            defaults = default_settings_file(self.model_class)
            if defaults is not None:
                read(self, str(defaults))
        return settings

    configurator.Config._update_internal_config_dict = _update_internal_config_dict


@after("recbole.config.configurator")
def read_losses(configurator) -> None:
    """A model class may name its losses, `losses = {"CE": InputType.POINTWISE, ...}`: RecBole itself knows two.

    The loss decides what a training batch holds: POINTWISE is the target alone, PAIRWISE adds sampled negatives.
    """
    set_defaults = configurator.Config._set_default_parameters

    @functools.wraps(set_defaults)
    def _set_default_parameters(self):
        losses = getattr(self.model_class, "losses", None)
        settings = self.final_config_dict
        if losses is not None:
            loss = settings.get("loss_type")
            if loss not in list(losses):  # it may be a list
                allowed = " or ".join(map(repr, losses))
                raise ValueError(f"loss_type={loss!r}: {self.model} can be trained with {allowed}.")
            if losses[loss] == configurator.InputType.POINTWISE:
                sampled = self.external_config_dict.get("train_neg_sample_args")
                if (
                    sampled is not None
                ):  # RecBole would put negatives in the place of targets; of "CE" it says so itself
                    raise ValueError(
                        f"train_neg_sample_args={sampled!r}: loss_type={loss!r} has no negatives; say None."
                    )
                settings["train_neg_sample_args"] = None
        set_defaults(self)
        if losses is not None:
            settings["MODEL_INPUT_TYPE"] = losses[loss]

    configurator.Config._set_default_parameters = _set_default_parameters


@after("recbole.config.configurator")
def read_published_settings(configurator) -> None:
    """A model takes its authors' names of settings too, `published_settings = {"num_layers": "gru_layers", ...}`.

    Each is read as the name here, in every file, dictionary or command line that does not have that name itself: the
    user's `num_layers` is above what a file below it, the protocol's for one, says of `gru_layers`.
    """
    read, load = configurator.Config._load_config_files, configurator.Config._load_internal_config_dict

    @functools.wraps(read)
    def _load_config_files(self, file_list):
        self._files = [read(self, [file]) for file in file_list or ()]
        return {key: value for settings in self._files for key, value in settings.items()}

    @functools.wraps(load)
    def _load_internal_config_dict(self, model, model_class, dataset):
        levels = [*vars(self).pop("_files"), self.variable_config_dict, self.cmd_config_dict]
        for published, name in getattr(model_class, "published_settings", {}).items():
            for given in levels:
                if published in given or name in given:
                    self.external_config_dict[name] = given[name if name in given else published]
        load(self, model, model_class, dataset)

    configurator.Config._load_config_files = _load_config_files
    configurator.Config._load_internal_config_dict = _load_internal_config_dict


@after("recbole.utils.utils")
def unknown_models_are_named(utils) -> None:
    """`get_model` says which name it does not know; RecBole's own ends in `No module named 'lightgbm'`."""
    find = utils.get_model

    @functools.wraps(find)
    def get_model(model_name):
        try:
            return find(model_name)
        except (ValueError, ImportError, AttributeError):
            if model_name in model_names():
                raise  # a model that cannot be imported: the reason is in the error
            raise ValueError(unknown_model_message(model_name)) from None

    rebind(find, get_model)


@after("recbole.utils.utils")
def flops_are_the_models_own(utils) -> None:
    """`get_flops` asks a model that counts its own operations (`multiply_adds`) for those of one history."""
    count = utils.get_flops

    @functools.wraps(count)
    def get_flops(model, dataset, device, logger, transform, verbose=False):
        if not hasattr(model, "multiply_adds"):
            return count(model, dataset, device, logger, transform, verbose)
        one_history = dataset[utils.torch.tensor([1])].to(device)
        return model.multiply_adds(transform(dataset, one_history))

    rebind(count, get_flops)


@after("recbole.data.utils")
def parts_are_checked(utils) -> None:
    """A data set is checked once it is split, where the settings say `check_data: True`, as the command line has it."""
    make = utils.create_samplers

    @functools.wraps(make)
    def create_samplers(config, dataset, built_datasets):
        if config["check_data"]:
            importlib.import_module("recbole_glintru.launch.data_checks").on_request(config, dataset, built_datasets)
        return make(config, dataset, built_datasets)

    utils.create_samplers = create_samplers


@after("recbole.trainer.trainer")
def models_are_accelerated(trainer) -> None:
    """A trainer accelerates the model that it is made for, where the settings say `accelerate: True`."""
    make = trainer.AbstractTrainer.__init__

    @functools.wraps(make)
    def __init__(self, config, model):
        if config["accelerate"] is not None:
            importlib.import_module("recbole_glintru.accelerate").on_request(config, model)
        make(self, config, model)

    trainer.AbstractTrainer.__init__ = __init__


@after("recbole.trainer.trainer")
def training_data_are_on_the_device(trainer) -> None:
    """`fit` keeps the training data on its device, where the settings say `data_on_device: True`."""
    fit = trainer.Trainer.fit

    @functools.wraps(fit)
    def fit_on_device(self, train_data, *args, **kwargs):
        if self.config["data_on_device"] is None:
            return fit(self, train_data, *args, **kwargs)
        placed = importlib.import_module("recbole_glintru.device_data").on_request
        with placed(self.config, train_data, self.device):
            return fit(self, train_data, *args, **kwargs)

    trainer.Trainer.fit = fit_on_device


@after("recbole.trainer.trainer")
def sampled_evaluation_is_compact(trainer) -> None:
    """`evaluate` takes candidates from `recbole_glintru.evaluation`, where that is sure to change no metric."""
    evaluate, evaluate_batch = trainer.Trainer.evaluate, trainer.Trainer._neg_sample_batch_eval

    @functools.wraps(evaluate)
    def evaluate_candidates(self, eval_data, *args, **kwargs):
        if eval_data:
            eval_data = importlib.import_module("recbole_glintru.evaluation").candidate_loader(self, eval_data)
        return evaluate(self, eval_data, *args, **kwargs)

    @functools.wraps(evaluate_batch)
    def _neg_sample_batch_eval(self, batched_data):
        score = getattr(batched_data, "evaluated_by", None)
        return evaluate_batch(self, batched_data) if score is None else score(self)

    trainer.Trainer.evaluate, trainer.Trainer._neg_sample_batch_eval = evaluate_candidates, _neg_sample_batch_eval


def import_model(name: str) -> type:
    """The class of a model by its name.

    Raises:
        ValueError: there is no such model; the message has the nearest names.
    """
    return importlib.import_module("recbole.utils").get_model(name)
