"""LRURec: linear recurrent units for sequential recommendation."""

import torch
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_glintru import settings
from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.layers.feed_forward import FeedForward
from recbole_glintru.layers.linear_recurrent_unit import LinearRecurrentUnit
from recbole_glintru.models.base import NextItemRecommender
from recbole_glintru.ops.cross_entropy import catalogue_cross_entropy
from recbole_glintru.ops.histories.positions import at_position, trim, valid_positions


class LRURecBlock(nn.Module):
    """A linear recurrent unit, then the feed-forward network; dropout, a residual and a LayerNorm after each."""

    def __init__(self, config):
        super().__init__()
        hidden_size = settings.integer(config, "hidden_size")
        layer_norm_eps = settings.number(config, "layer_norm_eps")
        dropout_prob = settings.probability(config, "hidden_dropout_prob")
        self.recurrent_unit = LinearRecurrentUnit(
            hidden_size, state_size=settings.integer(config, "state_expansion") * hidden_size
        )
        self.dropout = Dropout(settings.probability(config, "attn_dropout_prob"))
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.feed_forward = FeedForward(
            hidden_size,
            inner_size=settings.integer(config, "inner_size"),
            activation="gelu",
            dropout_prob=dropout_prob,
            layer_norm_eps=layer_norm_eps,
            inner_dropout_prob=dropout_prob,
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, d]` -> `[B, L, d]`."""
        return self.feed_forward(self.norm(self.dropout(self.recurrent_unit(x)) + x))

    def at_last(self, x: Tensor, last: Tensor) -> Tensor:
        """The block at the last item alone: x `[B, L, d]`, last `[B] int64` -> `[B, d]`."""
        recurrent = self.recurrent_unit.at_last(x, last)
        return self.feed_forward(self.norm(self.dropout(recurrent) + at_position(x, last)))


class LRURec(NextItemRecommender):
    """LRURec: Linear Recurrent Units for Sequential Recommendation (WSDM 2024, arXiv:2310.02367).

    Scores are dot products plus a bias for each item. What differs from the published code, and why:

    * Histories are padded on the right, after everything that a causal recurrence reads, so no mask is needed; the
      published code pads on the left and cuts the recurrence there. The numbers are the same.
    * The loss is that of the last position of each example (`CE`, `BPR`), because RecBole cuts a user's sequence into
      one example for each target. `loss_type: CE_all` is the authors' own, which trains every position of a history to
      predict its next item.
    * Complex layers are stored as real ones of twice the width: they train in mixed precision and cast to float64.
    * In the last block only the last position is computed, which needs no recurrence. The results are the same.
    * RecBole chooses the optimiser. `learner: adamw`, `weight_decay: 0.01` and `clip_grad_norm: {max_norm: 5.0}` are
      close to the authors', who exempt biases and LayerNorms from the decay.

    Settings: see `properties/model/LRURec.yaml`.
    """

    losses = {**NextItemRecommender.losses, "CE_all": InputType.POINTWISE}
    published_names = (
        (r"^embedding\.token\.", "item_embedding."),
        (r"^embedding\.layer_norm\.", "input_norm."),
        (r"^model\.bias$", "item_bias"),
        (r"^model\.lru_blocks\.(\d+)\.", r"blocks.\1."),
        (r"\.lru_layer\.params_log$", ".recurrent_unit.log_parameters"),
        (r"\.lru_layer\.in_proj\.", ".recurrent_unit.input."),
        (r"\.lru_layer\.out_proj\.", ".recurrent_unit.output."),
        (r"\.lru_layer\.layer_norm\.", ".norm."),
        (r"\.feed_forward\.w_1\.", ".feed_forward.expand."),
        (r"\.feed_forward\.w_2\.", ".feed_forward.reduce."),
        (r"\.feed_forward\.layer_norm\.", ".feed_forward.norm."),
    )

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.input_dropout = Dropout(settings.probability(config, "hidden_dropout_prob"))
        self.input_norm = nn.LayerNorm(self.hidden_size, eps=settings.number(config, "layer_norm_eps"))
        self.blocks = nn.ModuleList(LRURecBlock(config) for _ in range(settings.integer(config, "n_layers")))
        self.item_bias = nn.Parameter(torch.empty(self.n_items))
        self._initialise(settings.number(config, "initializer_range"))

    @torch.no_grad()
    def _initialise(self, std: float) -> None:
        """Truncated normal for weights and biases; LayerNorms and decays have their own."""
        layers = [module for module in self.modules() if isinstance(module, (nn.Linear, nn.Embedding))]
        for parameter in [self.item_bias, *(p for layer in layers for p in layer.parameters())]:
            nn.init.trunc_normal_(parameter, a=-2, b=2).mul_(std)

    @staticmethod
    def convert_published(name: str, tensor: Tensor) -> Tensor:
        """Convert the published complex layers to real ones; see `LinearRecurrentUnit`."""
        if name.endswith(".recurrent_unit.input.weight"):
            return torch.view_as_real(tensor).transpose(1, 2).flatten(0, 1)  # [D, d] -> [2D, d]
        if name.endswith(".recurrent_unit.input.bias"):
            return torch.view_as_real(tensor).flatten()  # [D] -> [2D]
        if name.endswith(".recurrent_unit.output.weight"):
            return torch.view_as_real(tensor.conj().resolve_conj()).flatten(1)  # [d, D] -> [d, 2D]
        if name.endswith(".recurrent_unit.output.bias"):
            return tensor.real
        return tensor

    def encode(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The state at the last item: `[B, L] int64`, `[B] int64` -> `[B, d]`."""
        x = self._embed(item_seq)
        *below, top = self.blocks
        for block in below:
            x = block(x)
        return top.at_last(x, item_seq_len - 1)

    def encode_all(self, item_seq: Tensor) -> Tensor:
        """The states at every item: `[B, L] int64` -> `[B, L, d]`."""
        x = self._embed(item_seq)
        for block in self.blocks:
            x = block(x)
        return x

    def _embed(self, item_seq: Tensor) -> Tensor:
        return self.input_norm(self.input_dropout(self.item_embedding(item_seq)))

    def score_items(self, state: Tensor, items: Tensor) -> Tensor:
        """Scores of one item per row: state `[B, d]`, items `[B]` -> `[B]`."""
        return super().score_items(state, items) + self.item_bias[items]

    def catalogue(self) -> tuple[Tensor, Tensor]:
        """The item table `[V, d]` and the bias of each item `[V]`."""
        return self.item_embedding.weight, self.item_bias

    def calculate_loss(self, interaction) -> Tensor:
        """The training loss of a batch, a scalar.

        CE_all is the published objective: the cross-entropy of CE at every item of each history, with the item
        after it as target, averaged over all.
        """
        if self.loss_type != "CE_all":
            return super().calculate_loss(interaction)
        item_seq, item_seq_len = self.history(interaction)
        item_seq = trim(item_seq, item_seq_len)
        mask = valid_positions(item_seq_len, item_seq.shape[1])
        target = item_seq.roll(-1, dims=1)
        target[torch.arange(len(target), device=target.device), item_seq_len - 1] = interaction[self.POS_ITEM_ID]
        return catalogue_cross_entropy(self.encode_all(item_seq)[mask], *self.catalogue(), target[mask])
