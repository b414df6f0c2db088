"""GLINT-RU: gated lightweight intelligent recurrent units for sequential recommendation."""

import warnings
from typing import Optional

import torch
from torch import Tensor, nn

from recbole_glintru import settings
from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.layers.glintru_block import ExpertInputs, GLINTRUBlock
from recbole_glintru.layers.gru import GRU
from recbole_glintru.layers.temporal_conv import NoTemporalConv, TemporalConv
from recbole_glintru.models.base import NextItemRecommender
from recbole_glintru.ops.histories import host_lengths
from recbole_glintru.ops.item_tables import LARGEST, ItemTables
from recbole_glintru.ops.layouts.choice import Layout, choose_layout
from recbole_glintru.ops.layouts.packed import Packed
from recbole_glintru.ops.precision import is_autocast


class GLINTRU(NextItemRecommender):
    """GLINT-RU (KDD 2025, arXiv:2406.10244): a dense selective GRU and linear attention, mixed, then two gates.

    What differs from the published code, and why:

    * Padding is masked (`mask_padding`). The published code includes it in the key-value sums and the convolutions, so
      a user's scores depend on `MAX_ITEM_LIST_LENGTH`; here they depend on the history alone. `mask_padding: False`
      gives the published numbers.
    * A normalised key or query of zero length is zero instead of NaN, and the padding row of the item table starts at
      zero (`pad_row_init`). That matters for the softmax's padding column and, with `mask_padding: False`, for the
      first block's LayerNorm, whose gradient at a vector of exact zeros is a million times too large; a stack of blocks
      should then start from the random row of the published code.
    * After the recurrence only the last position is computed, because nothing else is read. The results are the same.
    * Whole blocks can be stacked (`n_layers`, appendix D); the published code has no such switch. All GRU layers of a
      block are initialised in the same way; in the published code only the first is.

    Settings: see `properties/model/GLINTRU.yaml`.
    """

    packs_histories = True
    published_names = (
        (r"^(?!block\d+\.|item_embedding\.)", "block0."),
        (r"^block(\d+)\.dense1\.", r"blocks.\1.recurrent_expert.input_projection."),
        (r"^block(\d+)\.conv1d\.", r"blocks.\1.recurrent_expert.input_conv."),
        (r"^block(\d+)\.gru_layers\.", r"blocks.\1.recurrent_expert.gru."),
        (r"^block(\d+)\.projection\.", r"blocks.\1.recurrent_expert.channel_crossing."),
        (r"^block(\d+)\.selective_gate\.0\.", r"blocks.\1.recurrent_expert.selective_gate.reduce."),
        (r"^block(\d+)\.selective_gate\.2\.", r"blocks.\1.recurrent_expert.selective_gate.expand."),
        (r"^block(\d+)\.conv1dforgru\.", r"blocks.\1.recurrent_expert.output_conv."),
        (r"^block(\d+)\.linearattention\.(query|key|value)\.", r"blocks.\1.attention_expert.attention.\2."),
        (r"^block(\d+)\.linearattention\.dense\.", r"blocks.\1.attention_expert.output."),
        (r"^block(\d+)\.linearattention\.LayerNorm\.", r"blocks.\1.attention_expert.norm."),
        (r"^block(\d+)\.weights$", r"blocks.\1.expert_mixing.logits"),
        (r"^block(\d+)\.dense2\.", r"blocks.\1.data_aware_gate.gate."),
        (r"^block(\d+)\.dense\.", r"blocks.\1.data_aware_gate.output."),
        (r"^block(\d+)\.dense3\.", r"blocks.\1.gated_mlp.value."),
        (r"^block(\d+)\.dense4\.", r"blocks.\1.gated_mlp.gate."),
        (r"^block(\d+)\.denseout\.", r"blocks.\1.gated_mlp.output."),
        (r"^block(\d+)\.LayerNorm\.", r"blocks.\1.gate_norm."),
    )

    published_settings = {"num_layers": "gru_layers", "dropout_prob": "embedding_dropout_prob"}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.length_invariant = settings.switch(config, "mask_padding")
        self.embedding_dropout = Dropout(settings.probability(config, "embedding_dropout_prob"))
        n_layers = settings.integer(config, "n_layers", most=4)
        self.blocks = nn.ModuleList(GLINTRUBlock(config) for _ in range(n_layers))
        self.item_tables = settings.switch(config, "item_tables")
        self._item_tables = ItemTables()
        self.apply(self._initialise)
        if settings.choice(config, "pad_row_init", ("zero", "random")) == "zero":
            nn.init.zeros_(self.item_embedding.weight[0].detach())
            if n_layers > 1 and not self.length_invariant:
                warnings.warn(
                    f"pad_row_init='zero' with mask_padding=False and n_layers={n_layers}: the first gradients are "
                    "orders of magnitude too large. pad_row_init='random' is the published initialisation.",
                    stacklevel=2,
                )

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        """Xavier, as published; the convolutions keep PyTorch's default."""
        if isinstance(module, nn.Embedding):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, GRU):
            for name, parameter in module.named_parameters():
                nn.init.xavier_uniform_(parameter) if name.startswith("weight") else nn.init.zeros_(parameter)

    def encode(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The state at the last item, R of eq. 12: `[B, L] int64`, `[B] int64` -> `[B, d]`."""
        length = item_seq.shape[1]
        visible = item_seq_len if self.length_invariant else host_lengths.uniform(item_seq_len, length)
        layout = choose_layout(visible, length)
        last = layout.sort(item_seq_len - 1)
        items = layout.arrange(item_seq)
        *below, top = self.blocks
        tables = self._tables_of(items, layout)
        if tables is not None:
            x_last = self.item_embedding(layout.at(items, last.unsqueeze(1)).squeeze(1))
            return layout.restore(top.at_last(x_last, top.look_up(tables, items, layout), layout, last))
        x = self.embedding_dropout(self.item_embedding(items))  # eq. 3, 4: no position embedding
        for block in below:
            x = block(x, layout)
        x_last = layout.at(x, last.unsqueeze(1)).squeeze(1)
        return layout.restore(top.at_last(x_last, top.expert_inputs(x, layout), layout, last))

    def _tables_of(self, items: Tensor, layout: Layout) -> Optional[ExpertInputs]:
        """In evaluation on a CPU, the tables of all items, if using them costs less than computing their contents."""
        if self.training or self.embedding_dropout.training or torch.is_grad_enabled():
            self._item_tables.forget()
            return None
        usable = self.item_tables and len(self.blocks) == 1 and isinstance(layout, Packed) and not is_autocast("cpu")
        block = self.blocks[0]
        layers = [self.item_embedding, *block.input_layers()]
        if not usable or not all(map(_is_plain, layers)):
            return None
        embedding = self.item_embedding.weight
        if block.item_tables_bytes(embedding) > LARGEST:
            return None
        weights = [weight for layer in layers for weight in layer.parameters()]
        return self._item_tables.find(weights, self.n_items, len(items), lambda: block.item_tables(embedding))


def _is_plain(layer: nn.Module) -> bool:
    """Whether its parameters are all that it computes with: nobody's subclass, no parametrization, no hooks."""
    known = (nn.Embedding, nn.Linear, TemporalConv, NoTemporalConv)
    return type(layer) in known and not layer._forward_hooks and not layer._forward_pre_hooks
