"""Embeddings of item features (genre, brand, year, words of a title), for MLP4Rec and SMLP4Rec."""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from recbole.utils import FeatureType
from torch import Tensor, nn

from recbole_glintru import settings

POSITIONS, FEATURES, CHANNELS = 1, 2, 3  # the axes of a batch of histories with features, `[B, L, F, d]`
ITEM = 0  # the index of an item's own vector among its fields
POOLING_MODES = ("mean", "sum", "max")
PUBLISHED_NAMES = (
    (
        r"^feature_embed_layer\.(token|token_seq|float)_embedding_table\.item\.",
        r"item_features.\1_embedding.",
    ),
    (r"^(item_features\.token|item_features\.float)_embedding\.embedding\.", r"\1_embedding."),
)


class ItemFeatures(nn.Module):
    """An item's own vector, and one for each selected feature of it.

    A single-valued feature (token) has a vector for each value. A multi-valued one (token_seq) has the mean,
    sum or maximum of its values' vectors; a number is a factor on a learned vector. An item without any value
    in a token_seq field has the zero vector there, with every pooling. (RecBole's layer gives -1e9 for `max`,
    which the following LayerNorm turns into rounding noise.)

    The values are read from the data set once; they move with the module but are not part of its `state_dict`.

    Args:
        config: has `selected_features`, names of fields of the data set's item file (without any, a warning says what
            is lost); `optional_features`, those of them to leave out, with a warning, if there is no such field; and
            `pooling_mode`.
        dataset: RecBole's data set.
        hidden_size: d.

    Attributes:
        names: the features in the order of the output: the selected token fields, then the token_seq fields,
            then numbers, each kind in the order selected.
        n_fields: F, the item's own vector included.

    Raises:
        ValueError: a setting is wrong, or the data set has no such feature or cannot embed it.
    """

    def __init__(self, config, dataset, hidden_size: int):
        super().__init__()
        self.pooling_mode = settings.choice(config, "pooling_mode", POOLING_MODES)
        fields = _selected(config, dataset)
        tokens, token_seqs, numbers = (fields[kind] for kind in _KINDS)
        self.names = tokens + token_seqs + numbers
        self.n_fields = 1 + len(self.names)
        if not self.names:
            logging.getLogger().warning(
                "selected_features=[]: an item is its id alone (F = 1): nothing is mixed across features, so do not "
                "expect the paper's results, which use some."
            )
        values = dataset.get_item_feature()
        self.n_items = dataset.num(config["ITEM_ID_FIELD"])

        self.token_embedding = self.float_embedding = None
        if tokens:  # one table for all: the values of each field follow those of the fields before it
            sizes = [dataset.num(field) for field in tokens]
            rows = torch.stack([values[field] for field in tokens], dim=1)  # [V, fields]
            self._remember("token_rows", rows + _offsets(sizes))
            self.token_embedding = nn.Embedding(sum(sizes), hidden_size)
        self.token_seq_embedding = nn.ModuleList(nn.Embedding(dataset.num(f), hidden_size) for f in token_seqs)
        for number, field in enumerate(token_seqs):
            self._remember(f"token_seq_{number}", values[field])
        if numbers:  # RecBole stores a number as a pair (factor, row): a bucket has factor 1 and its own row
            sizes = [dataset.num(field) for field in numbers]
            pairs = torch.stack([values[field] for field in numbers], dim=1)  # [V, fields, 2]
            self._remember("numeric_factors", pairs[..., :1])
            self._remember("numeric_rows", pairs[..., 1].long() + _offsets(sizes))
            self.float_embedding = nn.Embedding(sum(sizes), hidden_size)

    def _remember(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values.clone(), persistent=False)

    def forward(self, items: Tensor, vectors: Tensor) -> Tensor:
        """Append the features' vectors to the items' own.

        Args:
            items: `[...] int64`.
            vectors: `[..., d]`, the items' own.

        Returns:
            `[..., F, d]`, F - 1 being the number of features.
        """
        vectors = vectors.unsqueeze(-2)
        return torch.cat((vectors, self._features(items)), dim=-2) if self.names else vectors

    def _features(self, items: Tensor) -> Tensor:
        if items.numel() < self.n_items:
            return self._embed(items)
        # With more positions than items, pool each item once, because pooling is what costs time.
        every = self._embed(torch.arange(self.n_items, device=items.device))
        return F.embedding(items, every.flatten(1)).unflatten(-1, every.shape[1:])

    def _embed(self, items: Tensor) -> Tensor:
        vectors = []
        if self.token_embedding is not None:
            vectors.append(self.token_embedding(self.token_rows[items]))
        for number, table in enumerate(self.token_seq_embedding):
            values = getattr(self, f"token_seq_{number}")[items]
            vectors.append(pool(table(values), values != 0, self.pooling_mode).unsqueeze(-2))
        if self.float_embedding is not None:
            factors = self.numeric_factors[items].to(self.float_embedding.weight.dtype)
            vectors.append(factors * self.float_embedding(self.numeric_rows[items]))
        return torch.cat(vectors, dim=-2)


def pool(x: Tensor, mask: Tensor, mode: str) -> Tensor:
    """Pool the valid vectors, zeros if there are none: x `[..., S, d]`, mask `[..., S] bool` -> `[..., d]`."""
    mask = mask.unsqueeze(-1)
    if mode == "max":
        return x.masked_fill(~mask, -torch.inf).max(dim=-2).values.masked_fill(~mask.any(dim=-2), 0)
    total = (x * mask).sum(dim=-2)
    return total if mode == "sum" else total / mask.sum(dim=-2).clamp(min=1)


# --------------------------------------------------------------------------------------- which fields to use

_KINDS = (FeatureType.TOKEN, FeatureType.TOKEN_SEQ, FeatureType.FLOAT)


def _selected(config, dataset) -> dict[FeatureType, list[str]]:
    """The fields of `selected_features`, by type."""
    names, optional = _names(config, "selected_features"), _names(config, "optional_features")
    if len(set(names)) < len(names):
        raise ValueError(f"selected_features={names!r}: must name each feature once.")
    features = [name for name in dataset.get_item_feature().columns if name != config["ITEM_ID_FIELD"]]
    absent = [name for name in names if name in optional and name not in features]
    if absent:
        without = f"selected_features={names!r}: leaves out {', '.join(absent)}."
        logging.getLogger().warning(f"{without} {_there_are(features, config)}")
    fields = {kind: [] for kind in _KINDS}
    for name in names:
        if name in absent:
            continue
        if name not in features:
            there_are = _there_are(features, config)
            raise ValueError(f"selected_features={names!r}: there is no item feature {name!r}. {there_are}")
        kind = dataset.field2type[name]
        if kind == FeatureType.FLOAT and name not in (config["numerical_features"] or ()):
            raise ValueError(
                f"selected_features={names!r}: {name!r} is a number, which is embedded only if it is also in "
                "numerical_features."
            )
        if kind not in fields:
            raise ValueError(
                f"selected_features={names!r}: {name!r} is of type {kind.value}; "
                "token, token_seq and float can be embedded."
            )
        fields[kind].append(name)
    return fields


def _names(config, key: str) -> list[str]:
    names = config[key]
    names = [] if names is None else names
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        hint = ", each of them in quotes: ['genre', 'brand']" if isinstance(names, str) else ""
        raise ValueError(f"{key}={names!r}: must be a list of names of item features{hint}.")
    return list(names)


def _there_are(features: list[str], config) -> str:
    if features:
        return f"The data set has {', '.join(features)}."
    file = Path(config["data_path"] or "", f"{config['dataset']}.item")
    if "item" in (config["load_col"] or ()) and not file.is_file():
        return f"The data set has none: load_col names columns of an item file, and there is no {file}."
    return "The data set has none: no item file is loaded; name its columns under load_col, item."


def _offsets(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *sizes[:-1]]).cumsum(dim=0)
