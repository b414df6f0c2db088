"""RecBole's configuration of the models: what is read, above what, and by which names."""

import re
import sys
from pathlib import Path

import pytest
import yaml

import recbole_glintru
from recbole_glintru import plugin
from recbole_glintru.models.glintru import GLINTRU

ROOT = Path(recbole_glintru.__file__).resolve().parent.parent


def config(workplace, model="GLINTRU", dataset="ml-100k", files=None, settings=None, arguments=()):
    from recbole.config import Config

    sys.argv = ["workplace", *arguments]
    return Config(model=model, dataset=dataset, config_file_list=files, config_dict=settings)


def test_model_yaml_is_read(workplace):
    defaults = yaml.safe_load((ROOT / "properties" / "model" / "GLINTRU.yaml").read_text())
    settings = config(workplace)
    for key, value in defaults.items():
        assert settings[key] == (float(value) if key == "layer_norm_eps" else value), key


def test_precedence_is_recboles(workplace, monkeypatch):
    """overall < model < dataset < config files < config dict < command line, one key at a time."""
    import recbole

    model_file, dataset_file = workplace / "model.yaml", workplace / "file.yaml"
    overall = yaml.safe_load((Path(recbole.__file__).parent / "properties" / "overall.yaml").read_text())
    assert overall["epochs"] == 300
    assert config(workplace)["epochs"] == 300
    # sample.yaml and ml-100k.yaml of RecBole both set MAX_ITEM_LIST_LENGTH or load_col; overall.yaml sets epochs
    model_file.write_text("epochs: 7\nMAX_ITEM_LIST_LENGTH: 7\n")
    monkeypatch.setattr(plugin, "default_settings_file", lambda model_class: model_file)
    settings = config(workplace, settings={"loss_type": "CE"})
    assert (settings["epochs"], settings["MAX_ITEM_LIST_LENGTH"]) == (7, 50)
    dataset_file.write_text("epochs: 8\nMAX_ITEM_LIST_LENGTH: 8\nlearning_rate: 0.8\n")
    arguments = {"files": [str(dataset_file)]}
    settings = config(workplace, **arguments, settings={"loss_type": "CE"})
    assert (settings["epochs"], settings["MAX_ITEM_LIST_LENGTH"]) == (8, 8)
    settings = config(workplace, **arguments, settings={"loss_type": "CE", "epochs": 9})
    assert (settings["epochs"], settings["learning_rate"]) == (9, 0.8)
    settings = config(workplace, **arguments, settings={"loss_type": "CE", "epochs": 9}, arguments=["--epochs=10"])
    assert settings["epochs"] == 10


def test_recboles_own_models_are_configured_as_before(workplace):
    """The plugin adds no key to a model of RecBole's."""
    settings = config(workplace, model="SASRec", settings={"train_neg_sample_args": None})
    assert settings["hidden_size"] == 64 and settings["n_heads"] == 2 and settings["mask_padding"] is None


def test_config_takes_the_class(workplace):
    settings = config(workplace, model=GLINTRU)
    assert settings["model"] == "GLINTRU" and settings.model_class is GLINTRU and settings["kernel_size"] == 3


def test_a_subclass_has_its_bases_settings(workplace):
    class Mine(GLINTRU):
        """A user's own."""

    assert config(workplace, model=Mine)["kernel_size"] == 3


def test_the_loss_decides_what_a_batch_holds(workplace):
    from recbole.utils import InputType

    settings = config(workplace)
    assert settings["MODEL_INPUT_TYPE"] == InputType.POINTWISE
    assert settings["train_neg_sample_args"]["distribution"] == "none"
    settings = config(workplace, settings={"loss_type": "BPR"})
    assert settings["MODEL_INPUT_TYPE"] == InputType.PAIRWISE
    assert settings["train_neg_sample_args"]["distribution"] == "uniform"
    for wrong in ("TOP1", ["CE"]):
        with pytest.raises(ValueError, match=f"{re.escape(f'loss_type={wrong!r}')}.*'CE' or 'BPR'"):
            config(workplace, settings={"loss_type": wrong})


@pytest.mark.parametrize("model, loss", [("GLINTRU", "CE"), ("LRURec", "CE_all")])
def test_negatives_beside_a_loss_without_any(workplace, model, loss):
    """RecBole would replace the targets by them."""
    negatives = {"distribution": "uniform", "sample_num": 1}
    with pytest.raises(ValueError, match=rf"train_neg_sample_args=.*uniform.*: loss_type='{loss}' has no negatives"):
        config(workplace, model=model, settings={"loss_type": loss, "train_neg_sample_args": negatives})
    settings = config(workplace, model=model, settings={"loss_type": loss, "train_neg_sample_args": None})
    assert settings["train_neg_sample_args"]["distribution"] == "none"


# ------------------------------------------------------------------------------------------------ the authors' names


@pytest.mark.parametrize(
    "model, given, expected",
    [
        ("GLINTRU", {"num_layers": 2, "dropout_prob": 0.1}, {"gru_layers": 2, "embedding_dropout_prob": 0.1}),
        ("GLINTRU", {"num_layers": 2, "gru_layers": 3}, {"gru_layers": 3, "embedding_dropout_prob": 0.2}),
        ("Mamba4Rec", {"num_layers": 3, "dropout_prob": 0.1}, {"n_layers": 3, "hidden_dropout_prob": 0.1}),
        ("GRU4Rec", {"num_layers": 2}, {"num_layers": 2, "gru_layers": None}),
    ],
)
def test_the_authors_names_of_settings(model, given, expected):
    """Taken where the name here is not given; RecBole's own models, and its defaults, are no concern of theirs."""
    from recbole.config import Config

    config = Config(model=model, dataset="ml-100k", config_dict={**given, "train_neg_sample_args": None})
    assert {name: config[name] for name in expected} == expected


def test_the_authors_names_are_above_what_lies_below_them(workplace):
    """Files in their order, then the dictionary, then the command line; in one and the same, the name here counts."""
    files = [workplace / f"{number}.yaml" for number in range(3)]
    files[0].write_text("embedding_dropout_prob: 0.1\ndropout_prob: 0.15\ngru_layers: 1\n")
    files[1].write_text("dropout_prob: 0.2\nnum_layers: 2\n")
    files[2].write_text("embedding_dropout_prob: 0.3\n")
    names = [str(file) for file in files]

    def read(*files, settings=None, arguments=()):
        merged = config(workplace, files=list(files), settings=settings, arguments=arguments)
        assert "_files" not in vars(merged)  # checkpoints hold what a Config holds
        return merged["embedding_dropout_prob"], merged["gru_layers"]

    assert [read(*names[:count]) for count in (1, 2, 3)] == [(0.1, 1), (0.2, 2), (0.3, 2)]
    assert read(*names, settings={"dropout_prob": 0.4}) == (0.4, 2)
    assert read(*names, settings={"dropout_prob": 0.4}, arguments=["--num_layers=3"]) == (0.4, 3)
