"""What RecBole, its models and plugins save in checkpoints loads as it was saved."""

import datetime
import enum
import io
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import recbole
import torch
from conftest import TINY
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import FeatureType, InputType, get_model, get_trainer
from scipy import sparse
from torch import nn

from recbole_glintru import checkpoints
from recbole_glintru.checkpoints import reader


def save(path, content, **options):
    torch.save(content, path, pickle_protocol=4, **options)
    return path


def load(path, **options):
    return checkpoints.load(torch.load, path, **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pth"


# ------------------------------------------------------------------------------------- what RecBole saves loads equal


@pytest.fixture(scope="module", params=["SASRec", "SASRecF", "DIEN"])
def saved(request, tmp_path_factory):
    """A model of RecBole on the data set of its wheel, and the checkpoint that its trainer saves."""
    folder = tmp_path_factory.mktemp(request.param)
    settings = {
        **TINY,
        "data_path": str(Path(recbole.__file__).parent / "dataset_example"),
        "checkpoint_dir": str(folder),
        "use_gpu": False,
        "train_neg_sample_args": None,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["saved"])
        config = Config(model=request.param, dataset="ml-100k", config_dict=settings)
    train_data, _, _ = data_preparation(config, create_dataset(config))
    model = get_model(config["model"])(config, train_data._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer._save_checkpoint(3, verbose=False)
    reader._own.clear()  # as another process reads it
    return config, model, trainer


class Own(enum.Enum):
    """A value that the reader does not know."""

    SETTING = 1


def test_a_trainer_trusts_what_it_has_saved_itself(saved, monkeypatch):
    """And the file of another process under that name as little as before."""
    config, _, trainer = saved
    monkeypatch.setitem(config.final_config_dict, "own", Own.SETTING)
    file = Path(trainer.saved_model_file)
    before = file.read_bytes()
    trainer._save_checkpoint(3, verbose=False)
    trainer.resume_checkpoint(str(file))
    written = file.read_bytes()
    file.write_bytes(written)  # the same bytes, but not from here
    with pytest.raises(checkpoints.UntrustedCheckpoint, match="Own"):
        trainer.resume_checkpoint(str(file))
    file.write_bytes(before)
    reader._own.clear()


def assert_same_tensors(actual, expected):
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype and torch.equal(actual[name], value), name


def test_a_checkpoint_loads_equal(saved):
    config, model, trainer = saved
    checkpoint = load(trainer.saved_model_file, map_location="cpu")
    assert checkpoint["config"].final_config_dict == config.final_config_dict
    assert checkpoint["config"].model_class is type(model)
    assert checkpoint["epoch"] == 3
    assert_same_tensors(checkpoint["state_dict"], model.state_dict())
    assert checkpoint["state_dict"]._metadata == model.state_dict()._metadata
    assert checkpoint["optimizer"] == trainer.optimizer.state_dict()
    assert checkpoint["other_parameter"].keys() == model.other_parameter().keys()


def test_a_trainer_resumes_from_it(saved):
    _, model, trainer = saved
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    before = dict(model.other_parameter())
    trainer.resume_checkpoint(trainer.saved_model_file)
    assert_same_tensors(model.state_dict(), expected)
    for name, layer in model.other_parameter().items():  # SASRecF's layer: a new one, with its data set
        assert layer is not before[name]
        assert_same_tensors(layer.dataset.inter_feat.interaction, before[name].dataset.inter_feat.interaction)
        for field, tokens in before[name].dataset.field2id_token.items():
            assert np.array_equal(layer.dataset.field2id_token[field], tokens)


CONTENTS = {
    "scalars": {"best_valid_score": np.float64(0.25), "epoch": np.int64(3), "field": np.str_("item_id")},
    "arrays": [np.arange(6.0).reshape(2, 3), np.array(["[PAD]", "a"]), np.array([True]), np.asfortranarray(np.eye(3))],
    "objects": np.array([[1, 2], None, "three"], dtype=object),
    "matrix": np.matrix([[1.0, 2.0]]),
    "enums": [InputType.PAIRWISE, FeatureType.TOKEN_SEQ],
    "settings": {"metrics": {"ndcg"}, "path": Path("folder/data"), "device": torch.device("cpu"), "type": torch.int64},
    "tensors": {
        "a": torch.arange(4),
        "b": torch.ones(2, 3).t(),
        "c": nn.Parameter(torch.zeros(2)),
        "d": torch.Size([2]),
    },
    "ripple_set": defaultdict(list, {1: [torch.ones(2)]}),
    "bytes": b"\x00\xff",
    "numbers": [range(5, 50, 5), 1 + 2j],
    "times": [
        datetime.date(2024, 5, 1),
        datetime.datetime(2001, 12, 14, 21, 59, 43, 100000),
        datetime.datetime(2001, 12, 14, 21, 59, tzinfo=datetime.timezone(datetime.timedelta(hours=-5))),
        datetime.datetime(2001, 12, 14, tzinfo=datetime.timezone.utc),
    ],
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", CONTENTS)
def test_values_load_equal(path, name, protocol, zipped):
    torch.save(CONTENTS[name], path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert described(load(path)) == described(CONTENTS[name])


def described(value):
    """A value as something that `==` compares, with the type of each part."""
    if isinstance(value, dict):
        return type(value), [(described(key), described(part)) for key, part in value.items()]
    if isinstance(value, (list, set)):
        return type(value), [described(part) for part in value]
    if isinstance(value, np.ndarray):
        return type(value), value.dtype, value.flags.f_contiguous, described(value.tolist())
    if isinstance(value, torch.Tensor):
        return type(value), value.dtype, value.stride(), value.requires_grad, value.tolist()
    return type(value), value


MATRIX = np.array([[0.0, 2.0, 0.0], [3.0, 0.0, 0.5]], dtype=np.float32)


@pytest.mark.parametrize(
    "matrix",
    [
        sparse.csr_matrix(MATRIX),
        sparse.csc_matrix(MATRIX),
        sparse.lil_matrix(MATRIX),
        sparse.csr_array(MATRIX),
        sparse.csr_matrix(MATRIX)[:, 1:],
        sparse.csr_matrix((0, 5)),
        sparse.lil_matrix((2, 2)),
        sparse.csc_matrix(MATRIX).tolil(),
    ],
    ids=lambda matrix: f"{type(matrix).__name__} {matrix.shape}",
)
def test_scipy_matrices_load_equal(path, matrix):
    """ItemKNN, EASE and SLIMElastic keep such."""
    loaded = load(save(path, matrix))
    assert type(loaded) is type(matrix) and loaded.dtype == matrix.dtype
    assert np.array_equal(loaded.toarray(), matrix.toarray())


def test_layers_load_equal(path):
    layers = nn.ModuleList([nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), nn.GRU(3, 4), nn.Embedding(5, 3)])
    loaded = load(save(path, {"other_parameter": layers}))["other_parameter"]
    assert repr(loaded) == repr(layers)
    assert_same_tensors(loaded.state_dict(), layers.state_dict())
    x = torch.randn(6, 2)
    assert torch.equal(loaded[1](loaded[0](x))[0], layers[1](layers[0](x))[0])


class OwnModel(SequentialRecommender):
    """A model that a user has written in a module of their own."""


def of_model(kind):
    """Settings as RecBole saves them, with the class of the model."""
    config = Config.__new__(Config)
    vars(config).update(final_config_dict={}, model_class=kind)
    return config


def test_an_imported_model_loads(path):
    assert load(save(path, of_model(OwnModel))).model_class is OwnModel


def test_a_model_of_a_plugin_loads_in_a_process_that_has_not_imported_it(path, monkeypatch):
    GLINTRU = get_model("GLINTRU")
    save(path, of_model(GLINTRU))
    parent, _, child = GLINTRU.__module__.rpartition(".")
    monkeypatch.setattr(sys.modules[parent], child, sys.modules[GLINTRU.__module__])  # a new import sets it
    monkeypatch.delitem(sys.modules, GLINTRU.__module__)
    assert load(path).model_class.__name__ == "GLINTRU"


def test_tensors_that_stand_for_others(path):
    tensors = {"conjugate": torch.tensor([1 + 2j]).conj(), "negative": torch.tensor([1 + 2j]).conj().imag}
    loaded = load(save(path, tensors))
    assert loaded["conjugate"].tolist() == [1 - 2j] and loaded["negative"].tolist() == [-2]


def test_files_and_buffers(path):
    content = save(path, {"a": torch.ones(2)}).read_bytes()
    assert torch.equal(load(io.BytesIO(content))["a"], torch.ones(2))
    with path.open("rb") as file:
        assert torch.equal(checkpoints.load(torch.load, f=file)["a"], torch.ones(2))
    assert load(str(path), map_location="meta")["a"].device.type == "meta"
