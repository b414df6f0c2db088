"""Training data that lie on the device: the batches of RecBole's loader, in its order."""

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import run_recbole
from recbole.utils import init_seed

from recbole_glintru import device_data
from recbole_glintru.ops.histories import host_lengths

CPU = torch.device("cpu")
FEATURES = {"inter": ["user_id", "item_id", "timestamp", "rating"], "item": ["item_id", "class", "release_year"]}


def loader(tiny, **changes):
    config = Config(model="GLINTRU", dataset="ml-100k", config_dict={**tiny, "load_col": FEATURES, **changes})
    init_seed(config["seed"], config["reproducibility"])
    return config, data_preparation(config, create_dataset(config))[0]


def test_same_batches_in_the_same_order(workplace, tiny):
    """Two epochs of a shuffled loader, with features of items, then the loader as it was."""
    config, train_data = loader(tiny, data_on_device=True)
    gather, state = train_data.collate_fn, train_data.generator.get_state()
    expected = [dict(batch.interaction) for _ in range(2) for batch in train_data]
    train_data.generator.set_state(state)
    with device_data.on_request(config, train_data, CPU):
        assert train_data.collate_fn != gather
        actual = [dict(batch.interaction) for _ in range(2) for batch in train_data]
    assert train_data.collate_fn == gather
    assert len(expected) == len(actual) > 4 and "class" in expected[0]
    assert any(not torch.equal(expected[0]["user_id"], batch["user_id"]) for batch in expected[1:])
    for one, other in zip(expected, actual):
        assert one.keys() == other.keys()
        for name, column in one.items():
            assert column.dtype == other[name].dtype and torch.equal(column, other[name]), name


def test_lengths_are_known_on_the_host(workplace, tiny):
    """And still are when RecBole's trainer has sent the batch to the device that it is on."""
    _, train_data = loader(tiny)
    batch = device_data.DeviceRows(train_data._dataset, CPU)([3, 700, 2, 3]).to(CPU)
    assert host_lengths.are_known(batch["item_length"])
    known = host_lengths.of(batch["item_length"])
    assert known.tolist() == batch["item_length"].tolist() and len(set(known.tolist())) > 1


def test_histories_take_half_the_memory(workplace, tiny):
    _, train_data = loader(tiny)
    rows = device_data.DeviceRows(train_data._dataset, CPU)
    assert rows.rows.columns["item_id_list"].dtype == torch.int32
    assert rows([0])["item_id_list"].dtype == torch.int64


def test_large_integers_stay_as_they_are():
    column = torch.tensor([1, 2**40])
    assert torch.equal(device_data._narrow(column), column)


def test_a_run_gives_the_same_numbers(workplace, tiny, monkeypatch):
    """Through RecBole's trainer, and the rows really come from the device."""
    calls = []
    gather = device_data.DeviceRows.__call__
    monkeypatch.setattr(device_data.DeviceRows, "__call__", lambda self, index: calls.append(1) or gather(self, index))
    settings = {**tiny, "mlp_dropout_prob": 0.1}
    results = [
        run_recbole(model="GLINTRU", dataset="ml-100k", config_dict={**settings, "data_on_device": switch})
        for switch in (False, True)
    ]
    assert calls and results[0] == results[1]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"loss_type": "BPR"}, "negative items"),
        ({"transform": "crop_itemseq"}, "transform='crop_itemseq'"),
        ({"worker": 1}, "worker=1"),
    ],
)
def test_what_cannot_be_placed_is_said(workplace, tiny, changes, reason):
    config, train_data = loader(tiny, data_on_device=True, **changes)
    with pytest.raises(ValueError, match=f"data_on_device=True: .*{reason}"):
        with device_data.on_request(config, train_data, CPU):
            pass


def test_other_loaders_and_wrong_values_are_named():
    with pytest.raises(ValueError, match="data_on_device='yes': must be True or False"):
        with device_data.on_request({"data_on_device": "yes"}, None, CPU):
            pass
    with pytest.raises(ValueError, match="data_on_device=True: .* from a list"):
        with device_data.on_request({"data_on_device": True}, [], CPU):
            pass
