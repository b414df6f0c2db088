"""A block of GLINT-RU: two experts, their mixture, the data-aware gate and the gated MLP (eq. 2 and 5 to 12)."""

from collections.abc import Iterator
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from recbole_glintru import settings
from recbole_glintru.layers.dense_selective_gru import ACTIVATIONS, DenseSelectiveGRU
from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.layers.gated_mlp import DataAwareGate, GatedMLP
from recbole_glintru.layers.linear_attention import LinearAttention
from recbole_glintru.ops.compiled import CompiledForOneShape
from recbole_glintru.ops.convolution.item_convolution import convolve_items
from recbole_glintru.ops.layouts.choice import Layout
from recbole_glintru.ops.layouts.packed import Packed


class AttentionExpert(nn.Module):
    """The attention expert A' of eq. 2; `output_block` adds the published linear, dropout, residual and LayerNorm."""

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

    def at_query(self, key: Tensor, value: Tensor, layout: Layout, queries: Tensor) -> Tensor:
        """One position of each history: key, value `[*P, h, d/h]`, queries `[B, d]` -> `[B, d]`."""
        return self._output(self.attention.at_query(key, value, layout, queries), queries)

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


class ExpertInputs(NamedTuple):
    """The experts' inputs, at some positions P or for all items; None if there is no such expert.

    Attributes:
        convolved: `[*P, d]`, C of eq. 5; for all items, `[k * V + 1, d]` (`item_convolution.tap_table`).
        key, value: `[*P, h, d/h]` or `[V, h, d/h]`.
    """

    convolved: Optional[Tensor]
    key: Optional[Tensor]
    value: Optional[Tensor]


class GLINTRUBlock(nn.Module):
    """One layer of GLINT-RU: two experts (eq. 2, 5 to 9), their mixture (10), data-aware gate (11), gated MLP (12).

    A part that is switched off has no parameters; without one expert there is no mixture either.
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
        self.compile_tail = settings.switch(config, "compile_tail")
        self._compiled_tail = CompiledForOneShape(GLINTRUBlock._after_experts)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """The block at every position: `[*P, d]` -> `[*P, d]`."""
        recurrent = attention = None
        if self.recurrent_expert is not None:
            recurrent = self.recurrent_expert(self.recurrent_expert.convolved(x, layout), layout)
        if self.attention_expert is not None:
            attention = self.attention_expert(x, layout)
        return self._after_experts(x, recurrent, attention)

    def input_layers(self) -> Iterator[nn.Module]:
        """The layers that compute the experts' inputs."""
        if self.recurrent_expert is not None:
            yield from (self.recurrent_expert.input_projection, self.recurrent_expert.input_conv)
        if self.attention_expert is not None:
            yield from (self.attention_expert.attention.key, self.attention_expert.attention.value)

    def expert_inputs(self, x: Tensor, layout: Layout) -> ExpertInputs:
        """The experts' inputs, from the block's input at every position, `[*P, d]`."""
        convolved, key, value = None, None, None
        if self.recurrent_expert is not None:
            convolved = self.recurrent_expert.convolved(x, layout)
        if self.attention_expert is not None:
            key, value = self.attention_expert.attention.keys_and_values(x)
        return ExpertInputs(convolved, key, value)

    def item_tables(self, items: Tensor) -> ExpertInputs:
        """The tables for all items, `[V, d]`, in which `look_up` finds the inputs of a history."""
        convolved, key, value = None, None, None
        if self.recurrent_expert is not None:
            convolved = self.recurrent_expert.item_table(items)
        if self.attention_expert is not None:
            key, value = self.attention_expert.attention.keys_and_values(items)
        return ExpertInputs(convolved, key, value)

    def item_tables_bytes(self, items: Tensor) -> int:
        """The size of `item_tables` plus that of a copy of the items."""
        taps = 0 if self.recurrent_expert is None else self.recurrent_expert.input_conv.kernel_size[0]
        return items.numel() * items.element_size() * (1 + taps + (0 if self.attention_expert is None else 2))

    def look_up(self, tables: ExpertInputs, items: Tensor, layout: Packed) -> ExpertInputs:
        """`expert_inputs` of the embedded items, `[N] int64`: each is a linear function of an item, or a sum of k."""
        convolved, key, value = tables
        if convolved is not None:
            convolved = convolve_items(layout, items, convolved, self.recurrent_expert.input_conv.kernel_size[0])
        if key is not None:
            key, value = key[items], value[items]
        return ExpertInputs(convolved, key, value)

    def at_last(self, x_last: Tensor, inputs: ExpertInputs, layout: Layout, last: Tensor) -> Tensor:
        """The block at the last item alone: nothing else is read of the topmost block.

        Args:
            x_last: `[B, d]`, the block's input there, in the layout's order.
            inputs: at all positions.
            layout: the layout of those.
            last: `[B] int64`, the position of the last item, in the layout's order.

        Returns:
            `[B, d]`: what `forward` gives at those positions.
        """
        recurrent = attention = None
        if self.recurrent_expert is not None:
            recurrent = self.recurrent_expert.at_last(inputs.convolved, layout, last)
        if self.attention_expert is not None:
            attention = self.attention_expert.at_query(inputs.key, inputs.value, layout, x_last)
        # In evaluation the number of distinct histories varies from batch to batch.
        compiled = self.compile_tail and self.training
        tail = self._compiled_tail if compiled else GLINTRUBlock._after_experts
        return tail(self, x_last, recurrent, attention)

    def _after_experts(self, x: Tensor, recurrent: Optional[Tensor], attention: Optional[Tensor]) -> Tensor:
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
