"""Extensions of RecBole's classes: settings of announced models, and this package's options.

Each function runs once, right after the body of the RecBole module named in its decorator.
"""

import functools
import importlib
import os

from recbole_glintru import plugin
from recbole_glintru.compat.import_hooks import after, rebind


@after("recbole.config.configurator")
def read_default_settings(configurator) -> None:
    """`Config` reads a plugin model's own YAML where it reads those of RecBole's models: right after overall.yaml."""
    read = configurator.Config._update_internal_config_dict

    @functools.wraps(read)
    def _update_internal_config_dict(self, file):
        settings = read(self, file)
        if os.path.basename(file) == "overall.yaml":
            defaults = plugin.default_settings_file(self.model_class)
            if defaults is not None:
                read(self, str(defaults))
        return settings

    configurator.Config._update_internal_config_dict = _update_internal_config_dict


@after("recbole.config.configurator")
def read_losses(configurator) -> None:
    """A model class may name its losses, `losses = {"CE": InputType.POINTWISE, ...}`; RecBole itself knows only two.

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
                _refuse_sampled_negatives(self.external_config_dict, loss)
                settings["train_neg_sample_args"] = None
        set_defaults(self)
        if losses is not None:
            settings["MODEL_INPUT_TYPE"] = losses[loss]

    configurator.Config._set_default_parameters = _set_default_parameters


def _refuse_sampled_negatives(given, loss):
    """With sampled negatives RecBole would replace the targets by them; for "CE" it raises an error of its own."""
    sampled = given.get("train_neg_sample_args")
    if sampled is not None:
        raise ValueError(f"train_neg_sample_args={sampled!r}: loss_type={loss!r} has no negatives; set it to None.")


@after("recbole.config.configurator")
def read_published_settings(configurator) -> None:
    """A model also accepts its authors' names of settings, `published_settings = {"num_layers": "gru_layers", ...}`.

    Each is read as this package's name, in every file, dictionary or command line that does not contain that name
    itself: the user's `num_layers` overrides `gru_layers` of a file with lower priority, such as the protocol's.
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
    """`get_model` names the unknown model; RecBole's own version ends in `No module named 'lightgbm'`."""
    find = utils.get_model

    @functools.wraps(find)
    def get_model(model_name):
        try:
            return find(model_name)
        except (ValueError, ImportError, AttributeError):
            if model_name in plugin.model_names():
                raise  # the model exists but cannot be imported: the error has the reason
            raise ValueError(plugin.unknown_model_message(model_name)) from None

    rebind(find, get_model)


@after("recbole.utils.utils")
def flops_are_the_models_own(utils) -> None:
    """`get_flops` uses a model's own count of the operations for one history, `multiply_adds`, if it has one."""
    count = utils.get_flops

    @functools.wraps(count)
    def get_flops(model, dataset, device, logger, transform, verbose=False):
        if not hasattr(model, "multiply_adds"):
            return count(model, dataset, device, logger, transform, verbose)
        one_history = dataset[utils.torch.tensor([1])].to(device)
        return model.multiply_adds(transform(dataset, one_history))

    rebind(count, get_flops)


@after("recbole.data.dataset.dataset")
def filtered_data_are_checked(dataset) -> None:
    """With `check_data: True`, a data set that is empty after filtering is an error that names it."""
    reset = dataset.Dataset._reset_index

    @functools.wraps(reset)
    def _reset_index(self):
        if self.config["check_data"]:
            importlib.import_module("recbole_glintru.launch.filters").on_request(self.config, self)
        reset(self)

    dataset.Dataset._reset_index = _reset_index


@after("recbole.data.dataset.dataset")
def numbers_are_checked(dataset) -> None:
    """With `check_data: True`, a text in a column of numbers is an error that names the file and such columns."""
    load = dataset.Dataset._load_feat

    @functools.wraps(load)
    def _load_feat(self, filepath, source):
        if not self.config["check_data"]:
            return load(self, filepath, source)
        return importlib.import_module("recbole_glintru.launch.columns").on_request(load, self, filepath, source)

    dataset.Dataset._load_feat = _load_feat


@after("recbole.data.utils")
def data_are_checked(utils) -> None:
    """With `check_data: True`, as the command line sets it, a data set is checked before and after it is split."""
    prepare, make = utils.data_preparation, utils.create_samplers

    @functools.wraps(prepare)
    def data_preparation(config, dataset):
        if config["check_data"]:
            importlib.import_module("recbole_glintru.launch.time_order").warn(config, dataset)
        return prepare(config, dataset)

    @functools.wraps(make)
    def create_samplers(config, dataset, built_datasets):
        if config["check_data"]:
            importlib.import_module("recbole_glintru.launch.data_checks").on_request(config, dataset, built_datasets)
        return make(config, dataset, built_datasets)

    utils.data_preparation, utils.create_samplers = data_preparation, create_samplers


@after("recbole.trainer.trainer")
def models_are_accelerated(trainer) -> None:
    """With `accelerate: True`, a trainer accelerates its model."""
    make = trainer.AbstractTrainer.__init__

    @functools.wraps(make)
    def __init__(self, config, model):
        if config["accelerate"] is not None:
            importlib.import_module("recbole_glintru.accelerate").on_request(config, model)
        make(self, config, model)

    trainer.AbstractTrainer.__init__ = __init__


@after("recbole.trainer.trainer")
def training_data_are_on_the_device(trainer) -> None:
    """With `data_on_device: True`, `fit` keeps the training data on the trainer's device."""
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
    """`evaluate` takes candidates from `recbole_glintru.evaluation` wherever that is certain to change no metric."""
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
