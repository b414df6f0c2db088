"""What a search varies: params files of every kind, what is drawn from them, and those that the package has."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fakes import ItemTable, model_settings
from searches import params_file

import recbole_glintru
from recbole_glintru import plugin
from recbole_glintru.launch import protocol
from recbole_glintru.launch.configuration import merged_settings
from recbole_glintru.search.space import Parameter, for_hyper_tuning, read_parameters

ROOT = Path(recbole_glintru.__file__).resolve().parent.parent
SPACES = sorted((ROOT / "properties" / "hyper").glob("*.hyper"))
KINDS = """\
# what follows is of every kind

n_layers choice [1, 2, 4]
layers   choice [[64, 32], [8]]
hidden_dropout_prob uniform 0.1,0.5
kernel_size quniform 1, 9, 2
train_r quniform 0.5,1,0.25
learning_rate loguniform -8,-4
"""


def test_every_kind_is_read(workplace):
    params_file(KINDS)
    assert read_parameters(Path("space.hyper")) == [
        Parameter("n_layers", "choice", (1, 2, 4)),
        Parameter("layers", "choice", ([64, 32], [8])),
        Parameter("hidden_dropout_prob", "uniform", (0.1, 0.5)),
        Parameter("kernel_size", "quniform", (1, 9, 2)),
        Parameter("train_r", "quniform", (0.5, 1, 0.25)),
        Parameter("learning_rate", "loguniform", (-8, -4)),
    ]


def test_the_largest_value(workplace):
    params_file(KINDS)
    _, *numbers = read_parameters(Path("space.hyper"))
    assert [parameter.largest() for parameter in numbers[1:]] == [0.5, 8, 1, pytest.approx(np.exp(-4))]
    assert Parameter("n_layers", "choice", (1, 4, 2)).largest() == 4


def check_drawn(parameters, drawn):
    value = {parameter.name: parameter.plain(drawn[parameter.name]) for parameter in parameters}
    assert yaml.safe_load(yaml.safe_dump(value)) == value  # no NumPy, no tuples
    assert value["n_layers"] in [1, 2, 4] and value["layers"] in [[64, 32], [8]]
    assert 0.1 <= value["hidden_dropout_prob"] <= 0.5 and np.exp(-8) <= value["learning_rate"] <= np.exp(-4)
    assert isinstance(value["kernel_size"], int) and value["kernel_size"] in [0, 2, 4, 6, 8, 10]  # as hyperopt has it
    assert value["train_r"] in [0.5, 0.75, 1.0]


def test_what_hyperopt_draws(workplace):
    hyperopt = pytest.importorskip("hyperopt")
    from recbole.trainer import HyperTuning

    params_file(KINDS)
    parameters = read_parameters(Path("space.hyper"))
    drawn_from = HyperTuning(None, params_dict=for_hyper_tuning(parameters), algo="random").space
    for seed in range(20):
        check_drawn(parameters, hyperopt.pyll.stochastic.sample(drawn_from, np.random.default_rng(seed)))


def test_what_ray_draws(workplace):
    pytest.importorskip("ray.tune")
    params_file(KINDS)
    parameters = read_parameters(Path("space.hyper"))
    drawn_from = {parameter.name: parameter.for_ray(grid=False) for parameter in parameters}
    for _ in range(20):
        check_drawn(parameters, {name: domain.sample() for name, domain in drawn_from.items()})
    assert parameters[0].for_ray(grid=True) == {"grid_search": [1, 2, 4]}


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_the_packages_own_spaces(workplace, file):
    """They name settings of their model or of RecBole's, and a model can be made with every choice."""
    config = merged_settings(file.stem, "ml-100k", [])
    own = yaml.safe_load(plugin.default_settings_file(config.model_class).read_text())
    for parameter in read_parameters(file):
        assert parameter.name in own or parameter.name in ("learning_rate", "weight_decay", "train_batch_size")
        assert parameter.kind == "choice", "exhaustive is the default"
        for value in parameter.values:
            if parameter.name in own:
                features = {"class": torch.arange(30) % 5}
                config.model_class(model_settings(file.stem, **{parameter.name: value}), ItemTable(30, features))
            elif parameter.name == "train_batch_size":
                assert 2**8 <= value <= 2**11
            else:
                assert 0 <= value <= 0.1


@pytest.mark.parametrize("dataset", sorted(protocol.files()))
@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_the_settings_of_every_data_set_are_in_the_spaces(workplace, dataset, file):
    with protocol.as_config_files(dataset, file.stem) as files:
        config = merged_settings(file.stem, dataset, files)
    outside = {p.name: config[p.name] for p in read_parameters(file) if config[p.name] not in p.values}
    assert not outside


def test_every_model_has_a_space():
    assert {file.stem for file in SPACES} == {name for name in plugin.announced_models()}
