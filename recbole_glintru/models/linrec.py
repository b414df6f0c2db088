"""LinRec: a Transformer recommender with L2-normalised linear attention."""

import torch
from torch import Tensor, nn

from recbole_glintru import settings
from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.layers.feed_forward import ACTIVATIONS, FeedForward
from recbole_glintru.layers.linear_attention import LinearAttention
from recbole_glintru.layers.position_embedding import PositionEmbedding
from recbole_glintru.models.base import NextItemRecommender
from recbole_glintru.ops.layouts.choice import Layout
from recbole_glintru.ops.layouts.padded import Padded


class LinRecBlock(nn.Module):
    """Linear attention with its output layer, then the feed-forward network; a residual and a LayerNorm after each."""

    def __init__(self, config):
        super().__init__()
        hidden_size = settings.integer(config, "hidden_size")
        dropout_prob = settings.probability(config, "hidden_dropout_prob")
        layer_norm_eps = settings.number(config, "layer_norm_eps")
        self.attention = LinearAttention(
            hidden_size,
            n_heads=settings.divisor(config, "n_heads", whole="hidden_size"),
            key_norm=settings.choice(config, "key_norm", ("position", "sequence")),
        )
        self.attention_output = nn.Linear(hidden_size, hidden_size)
        self.attention_dropout = Dropout(dropout_prob)
        self.attention_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.feed_forward = FeedForward(
            hidden_size,
            inner_size=settings.integer(config, "inner_size"),
            activation=settings.choice(config, "hidden_act", ACTIVATIONS),
            dropout_prob=dropout_prob,
            layer_norm_eps=layer_norm_eps,
        )

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Every position: `[*P, d]` -> `[*P, d]`."""
        return self._after_attention(self.attention(x, layout), x)

    def at_last(self, x: Tensor, layout: Layout, last: Tensor) -> Tensor:
        """Only the last item of each history: x `[*P, d]`, last `[B] int64` -> `[B, d]`."""
        queries = layout.at(x, last.unsqueeze(1)).squeeze(1)
        key, value = self.attention.keys_and_values(x)
        return self._after_attention(self.attention.at_query(key, value, layout, queries), queries)

    def _after_attention(self, context: Tensor, queries: Tensor) -> Tensor:
        context = self.attention_dropout(self.attention_output(context))
        return self.feed_forward(self.attention_norm(context + queries))


class LinRec(NextItemRecommender):
    """LinRec: Linear Attention Mechanism for Long-term Sequential Recommender Systems (SIGIR 2023, arXiv:2411.01537).

    SASRec's Transformer with linear attention. What differs from the published code, and why:

    * Padding is masked (`mask_padding`). The published code computes an attention mask but ignores it, so a user's
      scores depend on `MAX_ITEM_LIST_LENGTH`; here they depend on the history alone. `mask_padding: False` gives the
      published numbers. Neither is causal: every item sees the whole history.
    * `key_norm: sequence` normalises the keys over the sequence, as in the paper. The published code and the
      default normalise each key separately.
    * There is no `attn_dropout_prob`: the published code reads it but does not apply it.
    * In the last block only the last position is a query, which does not change the results.

    Settings: see `properties/model/LinRec.yaml`.
    """

    published_names = (
        (r"^LayerNorm\.", "input_norm."),
        (r"^trm_encoder\.layer\.(\d+)\.", r"blocks.\1."),
        (r"\.multi_head_attention\.(query|key|value)\.", r".attention.\1."),
        (r"\.multi_head_attention\.dense\.", ".attention_output."),
        (r"\.multi_head_attention\.LayerNorm\.", ".attention_norm."),
        (r"\.feed_forward\.dense_1\.", ".feed_forward.expand."),
        (r"\.feed_forward\.dense_2\.", ".feed_forward.reduce."),
        (r"\.feed_forward\.LayerNorm\.", ".feed_forward.norm."),
    )

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.length_invariant = settings.switch(config, "mask_padding")
        self.position_embedding = PositionEmbedding(settings.integer(config, "MAX_ITEM_LIST_LENGTH"), self.hidden_size)
        self.input_norm = nn.LayerNorm(self.hidden_size, eps=settings.number(config, "layer_norm_eps"))
        self.input_dropout = Dropout(settings.probability(config, "hidden_dropout_prob"))
        self.blocks = nn.ModuleList(LinRecBlock(config) for _ in range(settings.integer(config, "n_layers")))
        self.initializer_range = settings.number(config, "initializer_range")
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def encode(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The state at the last item: `[B, L] int64`, `[B] int64` -> `[B, d]`.

        Raises:
            ValueError: L is greater than `MAX_ITEM_LIST_LENGTH`.
        """
        length = item_seq.shape[1]
        visible = item_seq_len if self.length_invariant else torch.full_like(item_seq_len, length)
        layout = Padded(visible, length)
        x = self.item_embedding(item_seq) + self.position_embedding(length)
        x = self.input_dropout(self.input_norm(x))
        *below, top = self.blocks
        for block in below:
            x = block(x, layout)
        return top.at_last(x, layout, item_seq_len - 1)
