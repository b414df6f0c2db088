"""GLINT-RU: gated lightweight intelligent recurrent units for sequential recommendation."""

from typing import Optional

import torch
from torch import Tensor, nn

from recbole_glintru import settings
from recbole_glintru.layers.dense_selective_gru import ACTIVATIONS, DenseSelectiveGRU
from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.layers.gated_mlp import DataAwareGate, GatedMLP
from recbole_glintru.layers.gru import GRU
from recbole_glintru.layers.linear_attention import LinearAttention
from recbole_glintru.models.base import NextItemRecommender
from recbole_glintru.ops import layouts
from recbole_glintru.ops.layouts import Layout


class AttentionExpert(nn.Module):
    """The attention expert A' of eq. 2; `output_block` adds what is published: linear, dropout, residual, LayerNorm."""

    def __init__(
        self,
        hidden_size: int,
        n_heads: int,
        key_norm: str,
        output_block: bool,
        dropout_prob: float,
        layer_norm_eps: float,
    ):
        super().__init__()
        self.attention = LinearAttention(hidden_size, n_heads, key_norm)
        self.output_block = output_block
        if output_block:
            self.output = nn.Linear(hidden_size, hidden_size)
            self.dropout = Dropout(dropout_prob)
            self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Every position: `[*P, d]` -> `[*P, d]`."""
        return self._output(self.attention(x, layout), x)

    def at_query(self, x: Tensor, layout: Layout, queries: Tensor) -> Tensor:
        """One position of each history: x `[*P, d]`, queries `[B, d]` -> `[B, d]`."""
        return self._output(self.attention.at_query(x, layout, queries), queries)

    def _output(self, context: Tensor, queries: Tensor) -> Tensor:
        return self.norm(self.dropout(self.output(context)) + queries) if self.output_block else context


class ExpertMixing(nn.Module):
    """M = alpha_1 Y + alpha_2 A', eq. 10: a trainable softmax mixture of the recurrent and the attention expert."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.full((2,), 0.5))  # recurrent, attention

    def forward(self, recurrent: Tensor, attention: Tensor) -> Tensor:
        """Two tensors of one shape -> that shape."""
        weights = self.logits.softmax(dim=0)
        return weights[0] * recurrent + weights[1] * attention


class GLINTRUBlock(nn.Module):
    """One layer of GLINT-RU: two experts (eq. 2, 5 to 9), their mixture (10), data-aware gate (11), gated MLP (12).

    A part that is switched off has no parameters: without one expert there is no mixture either.
    """

    def __init__(self, config):
        super().__init__()
        hidden_size = settings.integer(config, "hidden_size")
        layer_norm_eps = settings.number(config, "layer_norm_eps")
        use_gru = settings.switch(config, "use_gru")
        use_linear_attention = settings.switch(config, "use_linear_attention")
        if not (use_gru or use_linear_attention):
            raise ValueError(
                "use_gru=False and use_linear_attention=False: a block needs at least one of the two experts."
            )

        self.recurrent_expert = self.attention_expert = self.expert_mixing = self.gated_mlp = self.mlp_norm = None
        if use_gru:
            self.recurrent_expert = DenseSelectiveGRU(
                hidden_size,
                kernel_size=settings.odd(config, "kernel_size"),
                use_temporal_conv=settings.switch(config, "use_temporal_conv"),
                gru_layers=settings.integer(config, "gru_layers"),
                gru_bias=settings.switch(config, "gru_bias"),
                gate_reduction=settings.integer(config, "gate_reduction", most=hidden_size),
                gate_activation=settings.choice(config, "gate_activation", ACTIVATIONS),
                gate_dropout_prob=settings.probability(config, "gate_dropout_prob"),
                mask_padding=settings.switch(config, "mask_padding"),
            )
        if use_linear_attention:
            self.attention_expert = AttentionExpert(
                hidden_size,
                n_heads=settings.divisor(config, "n_heads", whole="hidden_size"),
                key_norm=settings.choice(config, "key_norm", ("position", "sequence")),
                output_block=settings.switch(config, "attention_output_block"),
                dropout_prob=settings.probability(config, "hidden_dropout_prob"),
                layer_norm_eps=layer_norm_eps,
            )
        if use_gru and use_linear_attention:
            self.expert_mixing = ExpertMixing()
        self.data_aware_gate = DataAwareGate(
            hidden_size,
            dropout_prob=settings.probability(config, "mix_dropout_prob"),
            output_linear=settings.switch(config, "mix_output_linear"),
        )
        self.gate_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        mlp_dropout_prob = settings.probability(config, "mlp_dropout_prob")
        share_block_norm = settings.switch(config, "share_block_norm")
        if settings.switch(config, "use_gated_mlp"):
            self.gated_mlp = GatedMLP(hidden_size, mlp_dropout_prob)
            if not share_block_norm:
                self.mlp_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """The block at every position: `[*P, d]` -> `[*P, d]`."""
        recurrent = None if self.recurrent_expert is None else self.recurrent_expert(x, layout)
        attention = None if self.attention_expert is None else self.attention_expert(x, layout)
        return self._behind_experts(x, recurrent, attention)

    def at_last(self, x: Tensor, layout: Layout, last: Tensor) -> Tensor:
        """The block at the last item alone, which is all that is read of the topmost one.

        Args:
            x: `[*P, d]`.
            layout: where those positions are.
            last: `[B] int64`, the position of the last item, in the layout's order.

        Returns:
            `[B, d]`: what `forward` gives at those positions.
        """
        x_last = layout.at(x, last.unsqueeze(1)).squeeze(1)
        recurrent = None if self.recurrent_expert is None else self.recurrent_expert.at_last(x, layout, last)
        attention = None if self.attention_expert is None else self.attention_expert.at_query(x, layout, x_last)
        return self._behind_experts(x_last, recurrent, attention)

    def _behind_experts(self, x: Tensor, recurrent: Optional[Tensor], attention: Optional[Tensor]) -> Tensor:
        """The block's input and the experts' outputs at some positions, `[..., d]` each -> `[..., d]`."""
        if recurrent is None or attention is None:
            mixed = attention if recurrent is None else recurrent
        else:
            mixed = self.expert_mixing(recurrent, attention)
        z = self.gate_norm(self.data_aware_gate(x, mixed) + x)
        if self.gated_mlp is None:
            return z
        norm = self.gate_norm if self.mlp_norm is None else self.mlp_norm  # published: one LayerNorm in both places
        return norm(self.gated_mlp(z) + z)


class GLINTRU(NextItemRecommender):
    """GLINT-RU (KDD 2025, arXiv:2406.10244): a dense selective GRU and linear attention, mixed, behind two gates.

    What differs from the published code, and why:

    * Padding is masked (`mask_padding`). The published code lets it into the key-value sums and the convolutions, so
      that a user's scores depend on `MAX_ITEM_LIST_LENGTH`; here they are those of the history alone.
      `mask_padding: False` gives the published numbers.
    * A key or query of zero length is zero instead of NaN, and the padding row of the item table starts at zero
      (`pad_row_init`), which matters for the softmax's padding column alone.
    * Only the last position is computed behind the recurrence, for nothing else is read. Nothing changes by it.
    * Whole blocks can be stacked (`n_layers`, appendix D); the published code has no such switch. All GRU layers of a
      block are initialised alike; there only the first one was.

    Settings: see `properties/model/GLINTRU.yaml`.
    """

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

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.length_invariant = settings.switch(config, "mask_padding")
        self.embedding_dropout = Dropout(settings.probability(config, "embedding_dropout_prob"))
        n_layers = settings.integer(config, "n_layers", most=4)
        self.packs_histories = n_layers == 1  # the attention of a lower block pads
        self.blocks = nn.ModuleList(GLINTRUBlock(config) for _ in range(n_layers))
        self.apply(self._initialise)
        if settings.choice(config, "pad_row_init", ("zero", "random")) == "zero":
            nn.init.zeros_(self.item_embedding.weight[0].detach())

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
        visible = item_seq_len if self.length_invariant else torch.full_like(item_seq_len, length)
        layout = layouts.choose(visible, length)
        last = layout.sort(item_seq_len - 1)
        x = self.embedding_dropout(self.item_embedding(layout.arrange(item_seq)))  # eq. 3, 4: no positions
        *below, top = self.blocks
        for block in below:
            x = block(x, layout)
        return layout.restore(top.at_last(x, layout, last))
