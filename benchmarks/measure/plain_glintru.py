"""A straightforward GLINT-RU: it computes everything at every position of every padded history.

The baseline for what the package saves. Weights have the names and shapes of `recbole_glintru`'s `GLINTRU`, and the
outputs are those of `mask_padding: False`, the published semantics: padding is computed and read like any item.
"""

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor, nn


class PlainRecurrence(nn.Module):
    """The recurrent expert: convolution, GRU, selective gate, convolution; `[B, L, d]` -> `[B, L, d]`."""

    def __init__(self, d, config):
        super().__init__()
        kernel_size = config["kernel_size"]
        self.input_projection = nn.Linear(d, d)
        self.input_conv = nn.Conv1d(d, d, kernel_size, padding=kernel_size // 2)
        self.gru = nn.GRU(d, d, config["gru_layers"], bias=config["gru_bias"], batch_first=True)
        self.channel_crossing = nn.Linear(d, d)
        inner = d // config["gate_reduction"]
        self.selective_gate = nn.ModuleDict({"reduce": nn.Linear(d, inner), "expand": nn.Linear(inner, d)})
        self.gate_dropout = nn.Dropout(config["gate_dropout_prob"])
        self.output_conv = nn.Conv1d(d, d, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        c = self.input_conv(self.input_projection(x).transpose(1, 2)).transpose(1, 2)
        h, _ = self.gru(c)
        gate = self.gate_dropout(self.selective_gate["expand"](F.silu(self.selective_gate["reduce"](c))))
        return self.output_conv((gate * self.channel_crossing(h)).transpose(1, 2)).transpose(1, 2)


class PlainAttention(nn.Module):
    """The attention expert with its output block; `[B, L, d]` -> `[B, L, d]`."""

    def __init__(self, d, config):
        super().__init__()
        self.n_heads = config["n_heads"]
        self.attention = nn.ModuleDict({name: nn.Linear(d, d) for name in ("query", "key", "value")})
        self.output = nn.Linear(d, d)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])
        self.norm = nn.LayerNorm(d, eps=config["layer_norm_eps"])

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            self.attention[name](x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )  # [B, h, L, d/h]
        query = F.normalize(F.elu(query), dim=-1) / query.shape[-1] ** 0.5
        key = F.normalize(F.elu(key), dim=-1)
        context = query @ (key.transpose(2, 3) @ value)
        return self.norm(self.dropout(self.output(context.transpose(1, 2).flatten(2))) + x)


class PlainBlock(nn.Module):
    """Both experts, mixed, then the two gates; `[B, L, d]` -> `[B, L, d]`."""

    def __init__(self, config):
        super().__init__()
        d = config["hidden_size"]
        self.recurrent_expert = PlainRecurrence(d, config)
        self.attention_expert = PlainAttention(d, config)
        self.expert_mixing = nn.ParameterDict({"logits": nn.Parameter(torch.ones(2))})
        self.data_aware_gate = nn.ModuleDict({"gate": nn.Linear(d, d), "output": nn.Linear(d, d)})
        self.mix_dropout = nn.Dropout(config["mix_dropout_prob"])
        self.gate_norm = nn.LayerNorm(d, eps=config["layer_norm_eps"])
        self.gated_mlp = nn.ModuleDict({name: nn.Linear(d, d) for name in ("gate", "value", "output")})
        self.mlp_dropout = nn.Dropout(config["mlp_dropout_prob"])

    def forward(self, x: Tensor) -> Tensor:
        recurrent, attention = torch.softmax(self.expert_mixing["logits"], dim=0)
        mixed = recurrent * self.recurrent_expert(x) + attention * self.attention_expert(x)
        gated = self.data_aware_gate["output"](mixed * F.gelu(self.data_aware_gate["gate"](x)))
        z = self.gate_norm(self.mix_dropout(gated) + x)
        mlp = self.gated_mlp["output"](self.gated_mlp["value"](z) * F.gelu(self.gated_mlp["gate"](z)))
        return self.gate_norm(self.mlp_dropout(mlp) + z)


class PlainGLINTRU(SequentialRecommender):
    """The model, with RecBole's full cross-entropy; settings are those of `properties/model/GLINTRU.yaml`."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.item_embedding = nn.Embedding(self.n_items, config["hidden_size"], padding_idx=0)
        self.embedding_dropout = nn.Dropout(config["embedding_dropout_prob"])
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config["n_layers"]))
        self.loss_fct = nn.CrossEntropyLoss()

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """`[B, L] int64`, `[B] int64` -> `[B, d]`."""
        x = self.embedding_dropout(self.item_embedding(item_seq))
        for block in self.blocks:
            x = block(x)
        return self.gather_indexes(x, item_seq_len - 1)

    def calculate_loss(self, interaction) -> Tensor:
        return self.loss_fct(self.full_sort_predict(interaction), interaction[self.POS_ITEM_ID])

    def predict(self, interaction) -> Tensor:
        state = self(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return (state * self.item_embedding(interaction[self.ITEM_ID])).sum(dim=-1)

    def full_sort_predict(self, interaction) -> Tensor:
        return self(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]) @ self.item_embedding.weight.T
