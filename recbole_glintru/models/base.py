"""The base of every model of the package: it encodes a history into the state that predicts its next item."""

import copy
from typing import Optional

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_glintru import settings
from recbole_glintru.ops.counting import CountMultiplyAdds
from recbole_glintru.ops.cross_entropy import catalogue_cross_entropy
from recbole_glintru.ops.histories import grouping, host_lengths
from recbole_glintru.ops.histories.distinct_rows import distinct_rows
from recbole_glintru.ops.histories.positions import trim
from recbole_glintru.ops.precision import at_least_float32


class NextItemRecommender(SequentialRecommender):
    """Base of the models: a subclass builds its layers and implements `encode`; everything else is here.

    The score of an item is the dot product of its embedding with the encoded state. `predict` and `full_sort_predict`
    are RecBole's sampled and full-ranking scores, `calculate_loss` its training loss.

    Parameters are float32 or float64. Half precision is that of autocast (RecBole's `enable_amp`), which keeps norms
    and long sums in float32; casting the parameters of a model to half precision is not supported.

    Attributes:
        losses: the values of `loss_type` that the model supports, and what each needs in a batch.
        length_invariant: whether a state depends on the history alone and not on how far it is padded. Batches of
            such a model are cut to their longest history, or into groups of similar length, which changes no result.
        packs_histories: whether `encode` itself skips padding, so that groups of similar length save nothing.
        published_names: regular expressions and replacements that, applied in order, turn a parameter name of the
            authors' published code into the name here (`recbole_glintru.published`).
        published_settings: the name of a setting in the authors' code -> its name here.
    """

    losses = {"CE": InputType.POINTWISE, "BPR": InputType.PAIRWISE}
    length_invariant = True
    packs_histories = False
    published_names: tuple[tuple[str, str], ...] = ()
    published_settings: dict[str, str] = {}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        settings.integer(config, "MAX_ITEM_LIST_LENGTH")
        self.loss_type = settings.choice(config, "loss_type", self.losses)
        self.hidden_size = settings.integer(config, "hidden_size")
        self.length_groups = settings.length_groups(config)
        self.item_embedding = nn.Embedding(self.n_items, self.hidden_size, padding_idx=0)

    # ------------------------------------------------------------------------------ to be implemented by a model

    def encode(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The state at the last item of each history.

        Args:
            item_seq: `[B, L] int64`, right-padded with 0.
            item_seq_len: `[B] int64`, each from 1 to L.

        Returns:
            `[B, d]`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement encode")

    # ----------------------------------------------------------------- to be overridden by a model with more than items

    def history(self, interaction) -> tuple[Tensor, ...]:
        """The arguments of `encode` from a batch of RecBole: tensors of B rows, `item_seq` and its length first."""
        return interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]

    def score_items(self, state: Tensor, items: Tensor) -> Tensor:
        """Scores of one item per row: state `[B, d]`, items `[B]` -> `[B]`."""
        return (state * self.item_embedding(items)).sum(dim=-1)

    def score_all_items(self, state: Tensor) -> Tensor:
        """Scores of every item, the padding item 0 included: state `[B, d]` -> `[B, V]`."""
        return F.linear(state, *self.catalogue())

    def catalogue(self) -> tuple[Tensor, Optional[Tensor]]:
        """The matrix that a state is multiplied with for its scores, `[V, d]`, and their biases, `[V]` or None."""
        return self.item_embedding.weight, None

    @staticmethod
    def convert_published(name: str, tensor: Tensor) -> Tensor:
        """A parameter of the published code, converted to the shape and type of the parameter `name` here."""
        return tensor

    # --------------------------------------------------------------------------------------------- RecBole's methods

    def forward(self, item_seq: Tensor, item_seq_len: Tensor, *context: Tensor) -> Tensor:
        """`encode`, on only as many columns as the batch, or a group of rows of similar length, needs.

        Args:
            item_seq: `[B, L] int64`, right-padded with 0.
            item_seq_len: `[B] int64`, each from 1 to L.
            context: the other tensors that `history` returns, `[B, ...]` each.

        Returns:
            `[B, d]`.

        Raises:
            ValueError: a length is below 1. On a GPU this is not checked, unless the lengths are on the host too.
        """
        if len(item_seq) == 0:  # of users who have nothing to predict; RecBole's models take them too
            one = (column.new_ones(1, *column.shape[1:]) for column in (item_seq, item_seq_len, *context))
            return self(*one)[:0]
        host_lengths.check_lengths(item_seq_len)
        if not self.length_invariant:
            return self.encode(item_seq, item_seq_len, *context)
        if self.packs_histories:
            return self.encode(trim(item_seq, item_seq_len), item_seq_len, *context)

        def encode(rows, longest):
            others = (column[rows] for column in context)
            return self.encode(item_seq[rows, :longest], host_lengths.part(item_seq_len, rows), *others)

        return grouping.run(encode, item_seq_len, grouping.costs(self.length_groups, item_seq.device), self)

    def calculate_loss(self, interaction) -> Tensor:
        """The training loss of a batch, a scalar.

        CE is the softmax cross-entropy over all V columns, the padding column included; the others compare the target
        with one sampled negative. CE and BPR are RecBole's, so that results are comparable with its own models.
        """
        state = self(*self.history(interaction))
        if self.loss_type == "CE":
            return catalogue_cross_entropy(state, *self.catalogue(), interaction[self.POS_ITEM_ID])
        fields = (self.POS_ITEM_ID, self.NEG_ITEM_ID)
        return self.pairwise_loss(*(at_least_float32(self.score_items(state, interaction[field])) for field in fields))

    def pairwise_loss(self, target: Tensor, negative: Tensor) -> Tensor:
        """The loss, a scalar, from the scores of targets and of negatives, `[B]` each.

        BPR is the mean of -log(1e-10 + sigmoid(target - negative)), BCE that of the sum of two binary cross-entropies.
        """
        if self.loss_type == "BCE":
            return (F.softplus(-target) + F.softplus(negative)).mean()
        return -torch.log(1e-10 + torch.sigmoid(target - negative)).mean()

    def predict(self, interaction) -> Tensor:
        """Scores of the pairs (history, item) of a batch: `[B]`.

        RecBole's sampled evaluation repeats each history for every candidate; here it is encoded once.
        """
        history = self.history(interaction)
        first, inverse = distinct_rows(history)
        state = self(*(column[first] for column in history))
        return self.score_items(state[inverse], interaction[self.ITEM_ID])

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of every item for each history of a batch: `[B, V]`."""
        return self.score_all_items(self(*self.history(interaction)))

    @torch.inference_mode(False)  # it would hide the products from the counter
    @torch.no_grad()
    def multiply_adds(self, interaction) -> float:
        """The number of multiply-adds of `predict` in matrix products for a batch: RecBole's "FLOPs".

        Counted at the products themselves, not at the modules as in RecBole: merged modules, and those computed at one
        position alone, would be counted in full. Counted on the CPU, because GPU kernels hide their products.
        """
        model = copy.deepcopy(self).cpu().eval()
        for part in model.modules():
            if hasattr(part, "scan_backend"):
                part.scan_backend = "torch"  # the configured one may need a GPU
        with CountMultiplyAdds() as counter:
            model.predict(interaction.to("cpu"))
        return float(counter.total)
