"""Faster versions of methods that RecBole's models define, with the same results up to rounding.

Each class overrides one method, and is a base of an accelerated class (`accelerate.py`) whose model has that very
method of RecBole's: a subclass that defines its own keeps it.
"""

import torch.nn.functional as F
from recbole.model.sequential_recommender.bert4rec import BERT4Rec
from recbole.model.sequential_recommender.fdsa import FDSA
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from recbole.model.sequential_recommender.gru4recf import GRU4RecF
from recbole.model.sequential_recommender.narm import NARM
from recbole.model.sequential_recommender.sasrec import SASRec
from recbole.model.sequential_recommender.sasrecf import SASRecF
from recbole.model.sequential_recommender.srgnn import SRGNN
from torch import nn

from recbole_glintru.ops.cross_entropy import catalogue_cross_entropy
from recbole_glintru.ops.histories.distinct_rows import distinct_rows


def bases(plain: type) -> list[type]:
    """The classes below whose method a model of class `plain` has from RecBole."""
    return [kind for name, owners, kind in _REPLACEMENTS if getattr(plain, name, None) in _methods(name, owners)]


class _WithoutAllScores:
    """The cross-entropy of the next item, without a tensor of the scores of all items for the whole batch."""

    def calculate_loss(self, interaction):
        """The model's own `calculate_loss`."""
        if not _is_plain(self.loss_fct):  # BPR, or options such as label smoothing
            return super().calculate_loss(interaction)
        state = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return catalogue_cross_entropy(state, self.item_embedding.weight, None, interaction[self.POS_ITEM_ID])


class _MaskAtOnce:
    """BERT4Rec's histories with the mask item appended, in one operation instead of one per row."""

    def reconstruct_test_data(self, item_seq, item_seq_len):
        """`[B, L]`, `[B]` -> `[B, L]`: each history with the mask item after its last item, less the first column."""
        masked = F.pad(item_seq, (0, 1)).scatter(1, item_seq_len.unsqueeze(1), self.mask_token)
        return masked[:, 1:]


class _MaskedAlone:
    """BERT4Rec's cross-entropy, without the states and scores that it multiplies by zero.

    RecBole scores all items at `mask_ratio * MAX_ITEM_LIST_LENGTH` places of each history, most of which are padding,
    and encodes histories of which no item is masked.
    """

    def calculate_loss(self, interaction):
        """The model's own `calculate_loss`; `MASK_INDEX` is `[B, places]`, with zeros before the masked positions."""
        index = interaction[self.MASK_INDEX]
        counts = index > 0  # as in RecBole: a mask at the first position is not distinguished from padding
        rows = counts.any(dim=1)
        if self.loss_type != "CE" or not rows.any():
            return super().calculate_loss(interaction)
        states = self.forward(interaction[self.MASK_ITEM_SEQ][rows])
        counts, index = counts[rows], index[rows]
        row = counts.nonzero()[:, 0]
        targets = interaction[self.POS_ITEMS][rows][counts]
        items = self.item_embedding.weight[: self.n_items]  # without the mask item
        return catalogue_cross_entropy(states[row, index[counts]], items, self.output_bias, targets)


class _OneStateEach:
    """BERT4Rec's `predict`, repeating for every candidate the state that it reads instead of those of all positions."""

    def predict(self, interaction):
        """The model's own `predict`: `[B]`, the score of each row's item."""
        if self.training:  # dropout differs between equal histories
            return super().predict(interaction)
        item_seq, item_seq_len, items = (interaction[key] for key in (self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.ITEM_ID))
        first, inverse = distinct_rows([item_seq, item_seq_len])
        states = self.forward(self.reconstruct_test_data(item_seq[first], item_seq_len[first]))
        states = self.gather_indexes(states, item_seq_len[first] - 1)[inverse]
        return (states * self.item_embedding(items)).sum(dim=1) + self.output_bias[items]


_REPLACEMENTS = (  # method, classes that define it in the same words, its faster version
    ("calculate_loss", (SASRec, GRU4Rec, NARM, SRGNN, SASRecF, GRU4RecF, FDSA), _WithoutAllScores),
    ("reconstruct_test_data", (BERT4Rec,), _MaskAtOnce),
    ("calculate_loss", (BERT4Rec,), _MaskedAlone),
    ("predict", (BERT4Rec,), _OneStateEach),
)


def _methods(name, owners):
    return [getattr(owner, name) for owner in owners]


def _is_plain(loss_fct):
    """Whether it is the cross-entropy that RecBole's models make, without options."""
    plain = nn.CrossEntropyLoss()
    options = ("weight", "ignore_index", "reduction", "label_smoothing")
    return type(loss_fct) is type(plain) and all(getattr(loss_fct, key) == getattr(plain, key) for key in options)
