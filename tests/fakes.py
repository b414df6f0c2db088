"""Models without a data set on disk: settings and item tables made up in memory."""

import torch
import yaml
from recbole.data.interaction import Interaction
from recbole.utils import FeatureType

from recbole_glintru import plugin


class Settings(dict):
    """Answers `config[key]` as RecBole's Config does: None for a key that is not there."""

    def __missing__(self, key):
        return None


BASE = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "MAX_ITEM_LIST_LENGTH": 20,
    "device": torch.device("cpu"),
}
SMALL = {"hidden_size": 16, "n_heads": 4}


class ItemTable:
    """As much of a RecBole data set as a model looks at: sizes of the fields, and features of the items.

    Args:
        n_items: V, the padding item included.
        features: field name -> `[V]` (token) or `[V, S]` (token_seq) integers, row 0 for the padding item; `[V, 2]`
            floating point is a number, as RecBole keeps it: (factor, bucket).
        n_users: with the padding user.
        sizes: field name -> number of its values, where that is more than the greatest one.
    """

    def __init__(self, n_items, features=None, n_users=11, sizes=None):
        self._features = {name: torch.as_tensor(values) for name, values in (features or {}).items()}
        self._sizes = {"user_id": n_users, "item_id": n_items}
        self._sizes.update({name: int(values.max()) + 1 for name, values in self._features.items()})
        self._sizes.update(sizes or {})
        self.item_num, self.user_num = n_items, n_users
        self.field2type = {name: _type(values) for name, values in self._features.items()}
        self.field2type["item_id"] = self.field2type["user_id"] = FeatureType.TOKEN
        self.item_feat = self.get_item_feature() if self._features else None

    def num(self, field):
        return self._sizes[field]

    def get_item_feature(self):
        return Interaction({"item_id": torch.arange(self.item_num), **self._features})


def _type(values):
    if values.is_floating_point():
        return FeatureType.FLOAT
    return FeatureType.TOKEN if values.dim() == 1 else FeatureType.TOKEN_SEQ


def model_settings(name, **changes):
    """The defaults of `properties/model/<name>.yaml`, made small, with `changes`."""
    defaults = yaml.safe_load((plugin.properties("recbole_glintru") / "model" / f"{name}.yaml").read_text())
    for key, value in defaults.items():
        if isinstance(value, str) and value.startswith("1e-"):  # YAML's own idea of a float needs a point
            defaults[key] = float(value)
    return Settings({**BASE, **defaults, **SMALL, **changes})


def make_model(name, n_items=30, features=None, **changes):
    """A model of the package by its name, with its default settings, made small, and `changes`."""
    config = model_settings(name, **changes)
    return plugin.import_model(name)(config, ItemTable(n_items, features))


def make_histories(lengths, n_items=30, padded_to=None, seed=0):
    """`item_seq [B, padded_to] int64` right-padded with 0, and `item_seq_len [B]`."""
    generator = torch.Generator().manual_seed(seed)
    item_seq_len = torch.tensor(list(lengths))
    width = padded_to or int(item_seq_len.max())
    item_seq = torch.randint(1, n_items, (len(item_seq_len), width), generator=generator)
    return item_seq * (torch.arange(width) < item_seq_len.unsqueeze(1)), item_seq_len


def make_batch(item_seq, item_seq_len, items=None, negatives=None, users=None):
    """A batch as RecBole's loaders make it."""
    rows = len(item_seq)
    return Interaction(
        {
            "user_id": torch.arange(rows) % 10 + 1 if users is None else users,
            "item_id_list": item_seq,
            "item_length": item_seq_len,
            "item_id": torch.arange(rows) % 7 + 1 if items is None else items,
            "neg_item_id": torch.arange(rows) % 5 + 9 if negatives is None else negatives,
        }
    )


def all_dropouts_off(settings):
    """The settings with every dropout at zero, as the losses and gradients of the golden files were made."""
    return {key: 0.0 for key in settings if "dropout" in key}
