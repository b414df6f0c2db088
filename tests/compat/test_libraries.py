"""Each patch of libraries.py: the break is there without it, where this stack shows it, and gone with it."""

import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_glintru.compat import import_hooks, libraries

PANDAS_3 = int(pd.__version__.partition(".")[0]) >= 3


def unpatch(monkeypatch, owner, name):
    """Put back what a `functools.wraps` patch wrapped."""
    monkeypatch.setattr(owner, name, getattr(owner, name).__wrapped__)


# -------------------------------------------------------------------------------------------------------------- NumPy


ALIASES = ("float_", "complex_", "unicode_", "float", "long")


def test_numpy_aliases(monkeypatch):
    from recbole.data.interaction import Interaction
    from recbole.utils import utils

    for name in ("float", "float_"):
        if name in vars(np):
            monkeypatch.delattr(np, name)
    with pytest.raises(AttributeError, match="float"):  # interaction.py:31 reads np.float
        Interaction({"a": [1.0, 2.0]})
    libraries.numpy_aliases(utils)
    assert Interaction({"a": [1.0, 2.0]})["a"].tolist() == [1.0, 2.0]
    assert all(name in vars(np) for name in ALIASES)
    from recbole.config import Config

    Config.compatibility_settings(None)


def test_numpy_aliases_leave_what_is_there(monkeypatch):
    from recbole.utils import utils

    monkeypatch.setattr(np, "float_", "mine", raising=False)
    libraries.numpy_aliases(utils)
    assert np.float_ == "mine"


# ------------------------------------------------------------------------------------------------------------ PyTorch


@pytest.fixture
def foreign_file(tmp_path):
    torch.save({"a": types.SimpleNamespace(b=1)}, tmp_path / "file", pickle_protocol=4)
    return tmp_path / "file"


def load_as(module_name, file, **kwargs):
    """Call torch.load from a function that belongs to a module of that name."""
    scope = {"__name__": module_name, "torch": torch}
    exec("def load(file, **kwargs):\n    return torch.load(file, **kwargs)", scope)
    return scope["load"](file, **kwargs)


def test_torch_load_of_others_is_left_alone(foreign_file):
    import recbole.utils  # noqa: F401

    assert load_as("mine", foreign_file, weights_only=False)["a"].b == 1
    assert load_as("recbole.trainer", foreign_file, weights_only=False)["a"].b == 1  # it says so itself


def test_torch_load_of_recbole_is_restricted(foreign_file):
    import recbole.utils  # noqa: F401

    with pytest.raises(Exception, match="SimpleNamespace"):
        load_as("recbole.trainer.trainer", foreign_file)
    assert hasattr(torch.load, "_reads_recbole_checkpoints")
    wrapped = torch.load
    libraries.checkpoints_load(types.SimpleNamespace(torch=torch))
    assert torch.load is wrapped  # once is enough


# ------------------------------------------------------------------------------------------------------------- pandas


@pytest.fixture
def ragged_data(tmp_path):
    """A data set with missing tokens, floats and sequences."""
    folder = tmp_path / "dataset" / "ragged"
    folder.mkdir(parents=True)
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    rows = [f"u{user}\ti{item}\t{item}\n" for user in range(4) for item in range(1, 7)]
    (folder / "ragged.inter").write_text(header + "".join(rows))
    (folder / "ragged.item").write_text(
        "item_id:token\tbrand:token\tprice:float\ttags:token_seq\tsizes:float_seq\n"
        "i1\tb1\t1\tx y\t1 2\ni2\t\t3\t\t3\ni3\tb2\t\ty z x\t\ni4\tb1\t5\tx\t4\n"  # i5, i6 have no features at all
    )
    return tmp_path


def build_ragged(workplace):
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    columns = {
        "inter": ["user_id", "item_id", "timestamp"],
        "item": ["item_id", "brand", "price", "tags", "sizes"],
    }
    settings = {"load_col": columns, "data_path": str(workplace / "dataset"), "normalize_all": True}
    settings["filter_inter_by_user_or_item"] = False  # keep the items without features
    config = Config(model="GLINTRU", dataset="ragged", config_dict=settings)
    dataset = create_dataset(config)
    data_preparation(config, dataset)
    return dataset


def test_pandas_builds_the_same_data_set(workplace, ragged_data):
    """Missing tokens are 0, missing floats the mean, missing sequences empty, as with pandas 2."""
    dataset = build_ragged(workplace)
    items = dataset.get_item_feature()
    ids = {token: index for index, token in enumerate(dataset.id2token("item_id", np.arange(dataset.item_num)))}
    tags = dataset.field2token_id["tags"]
    brand = dataset.field2token_id["brand"]

    def row(field, item):
        return items[field][ids[item]].tolist()

    assert [row("brand", item) for item in ("i1", "i3", "i4", "i5")] == [
        brand["b1"],
        brand["b2"],
        brand["b1"],
        0,
    ]
    assert row("tags", "i3") == [tags["y"], tags["z"], tags["x"]]
    assert row("tags", "i2") == [0, 0, 0] and row("tags", "i5") == [0, 0, 0]
    assert row("price", "i3") == pytest.approx(0.5) and row("price", "i6") == pytest.approx(0.5)  # mean of 0, .5, 1
    assert row("sizes", "i1") == pytest.approx([0, 1 / 3]) and row("sizes", "i5") == [0, 0]


@pytest.mark.skipif(not PANDAS_3, reason="pandas 2 needs none of these patches")
@pytest.mark.parametrize("patch", ["pandas_text_columns", "pandas_missing_values", "pandas_lengths"])
def test_pandas_patches_are_needed(workplace, ragged_data, monkeypatch, patch):
    import recbole.data.dataset.dataset as dataset

    if patch == "pandas_text_columns":
        monkeypatch.setattr(dataset, "pd", pd)
    elif patch == "pandas_missing_values":
        chained = lambda self: [  # noqa: E731  what RecBole does, in one line
            getattr(self, name)[field].fillna(0, inplace=True)
            for name in self.feat_name_list
            for field in getattr(self, name)
        ]
        monkeypatch.setattr(dataset.Dataset, "_fill_nan", chained)
    else:
        unpatch(monkeypatch, pd.Series, "agg")
    with pytest.raises((AttributeError, TypeError, ValueError, AssertionError, KeyError, IndexError, RuntimeError)):
        test_pandas_builds_the_same_data_set(workplace, ragged_data)


@pytest.mark.skipif(not PANDAS_3, reason="pandas 2 hands out columns that can be written to")
def test_pandas_read_only_columns(monkeypatch, recwarn):
    from recbole.data.dataset import Dataset
    from recbole.utils import FeatureType

    data = Dataset.__new__(Dataset)
    data.config, data.field2type = {"numerical_features": []}, {"id": FeatureType.TOKEN, "time": FeatureType.FLOAT}

    def convert():
        return data._dataframe_to_interaction(pd.DataFrame({"id": [3, 4], "time": [0.5, 1.5]}))

    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # else PyTorch says it once a process
    try:
        made = convert()
        assert made["id"].tolist() == [3, 4] and made["time"].tolist() == [0.5, 1.5] and not recwarn.list
        unpatch(monkeypatch, Dataset, "_dataframe_to_interaction")
        with pytest.warns(UserWarning, match="not writable"):
            convert()
    finally:
        torch.set_warn_always(before)


def test_an_item_file_is_read_without_a_warning(workplace, ragged_data, recwarn):
    build_ragged(workplace)
    assert not [warning for warning in recwarn if "copy" in str(warning.message)]


def test_an_epoch_begins_without_a_warning(recwarn):
    from recbole.trainer import trainer

    assert not trainer.amp.GradScaler(enabled=False).is_enabled() and not recwarn.list
    assert trainer.amp.autocast is torch.cuda.amp.autocast


def test_pandas_of_others_is_left_alone():
    series = pd.Series([[1, 2], [3]])
    expected = (getattr(pd.Series.agg, "__wrapped__", pd.Series.agg))(series, len)
    actual = series.agg(len)
    assert actual == expected if np.isscalar(expected) else list(actual) == list(expected)


# -------------------------------------------------------------------------------------------------------------- SciPy


def test_scipy_fills_matrices(workplace, monkeypatch, tiny):
    """A graph model of RecBole's is built, and is not without the patch where SciPy lacks the method."""
    import scipy.sparse
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.utils import get_model

    config = Config(model="LightGCN", dataset="ml-100k", config_dict={"user_inter_num_interval": "[0,24]"})
    dataset = create_dataset(config)
    dataset._change_feat_format()
    light_gcn = get_model("LightGCN")
    model = light_gcn(config, dataset)
    assert model.norm_adj_matrix._nnz() == 2 * dataset.inter_num
    if scipy.sparse.dok_matrix._update.__module__ == libraries.__name__:
        monkeypatch.delattr(scipy.sparse.dok_matrix, "_update")
        with pytest.raises(AttributeError, match="_update"):
            light_gcn(config, dataset)


# ------------------------------------------------------------------------------------------------------- distutils


def test_thop_finds_distutils(monkeypatch):
    """As on Python 3.12 and later without setuptools."""

    class NoDistutils:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.partition(".")[0] == "distutils":
                raise ModuleNotFoundError("no distutils here", name="distutils")

    def import_thop():
        for name in [name for name in sys.modules if name.partition(".")[0] in ("thop", "distutils")]:
            monkeypatch.delitem(sys.modules, name)
        import thop.profile  # noqa: F401

        return sys.modules["thop.profile"]  # thop.profile is a function

    find_spec = libraries.importlib.util.find_spec
    monkeypatch.setattr(
        libraries.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "distutils" else find_spec(name, *rest),
    )
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path[:1], NoDistutils, *sys.meta_path[1:]])
    assert import_thop().register_hooks
    assert "distutils" not in sys.modules
    monkeypatch.delitem(import_hooks.AROUND, "thop")
    with pytest.raises(ModuleNotFoundError, match="distutils"):
        import_thop()


def test_loose_version():
    version = libraries._LooseVersion
    assert version("2.13.0+cpu") >= version("1.1.0") and version("1.0.0") < version("1.1.0")
