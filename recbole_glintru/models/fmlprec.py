"""FMLP-Rec: learned filters in the frequency domain instead of self-attention."""

from typing import Optional

import torch
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_glintru import settings
from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.layers.feed_forward import ACTIVATIONS, FeedForward
from recbole_glintru.layers.spectral_filter import SpectralFilter
from recbole_glintru.models.base import NextItemRecommender
from recbole_glintru.ops.histories.alignment import align_right, widen

BCE_FLOOR = 1e-24  # inside the logarithms, as published


class FilterBlock(nn.Module):
    """Filter, dropout, residual and LayerNorm; then the feed-forward network with its own.

    Args:
        length: L.
        hidden_size: d.
        inner_size, hidden_act: those of the feed-forward network.
        dropout_prob: dropout after the filter and after the feed-forward network.
        layer_norm_eps: epsilon of both LayerNorms.
    """

    def __init__(
        self,
        length: int,
        hidden_size: int,
        inner_size: int,
        hidden_act: str,
        dropout_prob: float,
        layer_norm_eps: float,
    ):
        super().__init__()
        self.filter = SpectralFilter(length, hidden_size)
        self.dropout = Dropout(dropout_prob)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.feed_forward = FeedForward(hidden_size, inner_size, hidden_act, dropout_prob, layer_norm_eps)

    def forward(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        """x `[B, L, d]`, mask `[B, L, 1] bool` or None -> `[B, L, d]`."""
        visible = x if mask is None else x * mask
        return self.feed_forward(self.norm(self.dropout(self.filter(visible)) + x))

    def at_end(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        """The output at position L-1 alone: x `[B, L, d]`, mask `[B, L, 1] bool` or None -> `[B, d]`."""
        visible = x if mask is None else x * mask
        return self.feed_forward(self.norm(self.dropout(self.filter.at_end(visible)) + x[:, -1]))


class FMLPRec(NextItemRecommender):
    """Filter-enhanced MLP is All You Need for Sequential Recommendation (WWW 2022, arXiv:2202.13556).

    What differs from the published code, and why:

    * RecBole's histories are padded on the right and are shifted here to end at the last position, as in the
      published data: the position embeddings and the filter count from that end.
    * The loss is RecBole's softmax over all items (`CE`) unless `loss_type` is `BCE`, the authors' own.
    * `mask_padding: True` hides padding from the filters. The published code does not, nor does the default:
      the filter spans all L positions, so a state depends on `MAX_ITEM_LIST_LENGTH` either way.
    * In the last block only the last position is computed, which does not change the results.

    As published, all filters start with the same values. The weights are for a single length.

    Settings: see `properties/model/FMLPRec.yaml`.
    """

    losses = {**NextItemRecommender.losses, "BCE": InputType.PAIRWISE}
    length_invariant = False
    published_names = (
        (r"^item_embeddings\.", "item_embedding."),
        (r"^position_embeddings\.", "position_embedding."),
        (r"^LayerNorm\.", "input_norm."),
        (r"^item_encoder\.layer\.(\d+)\.", r"blocks.\1."),
        (r"^(blocks\.\d+)\.filterlayer\.LayerNorm\.", r"\1.norm."),
        (r"^(blocks\.\d+)\.filterlayer\.", r"\1.filter."),
        (r"^(blocks\.\d+)\.intermediate\.dense_1\.", r"\1.feed_forward.expand."),
        (r"^(blocks\.\d+)\.intermediate\.dense_2\.", r"\1.feed_forward.reduce."),
        (r"^(blocks\.\d+)\.intermediate\.LayerNorm\.", r"\1.feed_forward.norm."),
    )

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.mask_padding = settings.switch(config, "mask_padding")
        self.length = settings.integer(config, "MAX_ITEM_LIST_LENGTH")
        dropout_prob = settings.probability(config, "hidden_dropout_prob")
        layer_norm_eps = settings.number(config, "layer_norm_eps")
        self.position_embedding = nn.Embedding(self.length, self.hidden_size)
        self.input_norm = nn.LayerNorm(self.hidden_size, eps=layer_norm_eps)
        self.input_dropout = Dropout(dropout_prob)
        self.blocks = nn.ModuleList(
            FilterBlock(
                self.length,
                self.hidden_size,
                inner_size=settings.integer(config, "inner_size"),
                hidden_act=settings.choice(config, "hidden_act", ACTIVATIONS),
                dropout_prob=dropout_prob,
                layer_norm_eps=layer_norm_eps,
            )
            for _ in range(settings.integer(config, "n_layers"))
        )
        self.initializer_range = settings.number(config, "initializer_range")
        self.apply(self._initialise)
        for block in self.blocks[1:]:
            block.filter.load_state_dict(self.blocks[0].filter.state_dict())

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def encode(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The state at the last item: `[B, L] int64`, `[B] int64` -> `[B, d]`.

        Raises:
            ValueError: L is greater than `MAX_ITEM_LIST_LENGTH`; a smaller L is padded to it.
        """
        item_seq, mask = align_right(widen(item_seq, self.length), item_seq_len), None
        if self.mask_padding:
            past = torch.arange(self.length, 0, -1, device=item_seq.device)  # the last position is 1 back
            mask = (past <= item_seq_len.unsqueeze(1)).unsqueeze(-1)
        x = self.item_embedding(item_seq) + self.position_embedding.weight
        x = self.input_dropout(self.input_norm(x))
        *below, top = self.blocks
        for block in below:
            x = block(x, mask)
        return top.at_end(x, mask)

    def pairwise_loss(self, target: Tensor, negative: Tensor) -> Tensor:
        """As in the base class; BCE is the published one, with a floor inside its logarithms."""
        if self.loss_type != "BCE":
            return super().pairwise_loss(target, negative)
        gain = torch.log(torch.sigmoid(target) + BCE_FLOOR) + torch.log(1 - torch.sigmoid(negative) + BCE_FLOOR)
        return -gain.mean()
