"""RecMamba: one Mamba block over the items of a life-long history."""

import torch
import torch.nn.functional as F
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_glintru import settings
from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.models.base import NextItemRecommender
from recbole_glintru.models.mamba4rec import MAMBA_INITS, make_mamba
from recbole_glintru.ops.histories import host_lengths
from recbole_glintru.ops.histories.alignment import align_right, widen
from recbole_glintru.ops.precision import at_least_float32


class RecMamba(NextItemRecommender):
    """Uncovering Selective State Space Model's Capabilities in Lifelong Sequential Recommendation (arXiv:2403.16371).

    Items and positions go into one Mamba block; there is no LayerNorm, residual or feed-forward network.

    What differs from the published code, and why:

    * Padding comes after the history instead of before it, where its embedding would affect every state. So a
      state depends on the history alone, and short histories cost little. `left_padding: True` gives the
      published numbers.
    * Positions are counted from the end (`position_from_end`), which gives an item the published code's position.
      Counted from the start, the oldest item of every history has the first position.
    * The loss is RecBole's softmax over all items (`CE`), unless `loss_type` is `BCE`: the authors' binary
      cross-entropy with one sampled negative, at the target alone. RecBole trains on every prefix of a history, so
      each item is a target once. The authors sum over all positions of a history in one pass, with a negative at each
      (`all_positions_loss`); the weight of a pair is then its share of the batch.
    * `hidden_size` is a setting; the published code fixes it at 64.
    * `mamba_init: upstream` keeps the initialisation of Mamba's authors. The published code overwrites the decay rates
      too: all are about 1 instead of 1 to N.

    Settings: see `properties/model/RecMamba.yaml`.
    """

    losses = {**NextItemRecommender.losses, "BCE": InputType.PAIRWISE}
    published_names = (
        (r"^item_emb\.", "item_embedding."),
        (r"^pos_emb\.", "position_embedding."),
        (r"^mamba1\.", "mamba."),
    )

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.left_padding = settings.switch(config, "left_padding")
        self.position_from_end = settings.switch(config, "position_from_end")
        self.length_invariant = not self.left_padding
        self.length = settings.integer(config, "MAX_ITEM_LIST_LENGTH")
        self.position_embedding = nn.Embedding(self.length, self.hidden_size)
        self.dropout = Dropout(settings.probability(config, "hidden_dropout_prob"))
        self.mamba = make_mamba(config)
        keep_mamba = settings.choice(config, "mamba_init", MAMBA_INITS) == "upstream"
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2 and not (keep_mamba and name.startswith("mamba.")):
                nn.init.xavier_normal_(parameter)

    def encode(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The state at the last item: `[B, L] int64`, `[B] int64` -> `[B, d]`.

        Raises:
            ValueError: L is greater than `MAX_ITEM_LIST_LENGTH`.
        """
        x, lengths = self._embed(item_seq, item_seq_len)
        return self.mamba.at_last(x, host_lengths.shifted(lengths, -1))

    def encode_all(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The states at every position: `[B, L] int64`, `[B] int64` -> `[B, L, d]`.

        The states of padding are undefined; with `left_padding` there are `MAX_ITEM_LIST_LENGTH` positions, padding
        first.
        """
        return self.mamba(*self._embed(item_seq, item_seq_len))

    def _embed(self, item_seq, item_seq_len):
        """The inputs of Mamba `[B, L, d]` and the number of positions of each row that it has to read `[B]`."""
        padded = widen(item_seq, self.length)
        if self.left_padding:
            item_seq, item_seq_len = align_right(padded, item_seq_len), host_lengths.uniform(item_seq_len, self.length)
        positions = torch.arange(item_seq.shape[1], device=item_seq.device).unsqueeze(0)
        if self.position_from_end:
            positions = (positions + self.length - item_seq_len.unsqueeze(1)).clamp(max=self.length - 1)
        x = self.item_embedding(item_seq) * self.hidden_size**0.5 + self.position_embedding(positions)
        return self.dropout(x), item_seq_len

    def all_positions_loss(self, states: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        """The authors' own objective: binary cross-entropy at every position that has a target.

        For custom training loops: no setting trains with it, because RecBole's batches have one target per row.

        Args:
            states: `[B, L, d]`, of `encode_all`.
            targets, negatives: `[B, L] int64`, laid out like the states: the next item and a sampled one, 0 for none.

        Returns:
            A scalar.
        """
        states, targets, negatives = (tensor[targets > 0] for tensor in (states, targets, negatives))
        target = at_least_float32(self.score_items(states, targets))
        negative = at_least_float32(self.score_items(states, negatives))
        return F.softplus(-target).mean() + F.softplus(negative).mean()
