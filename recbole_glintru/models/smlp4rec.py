"""SMLP4Rec: parallel MLPs over the positions, channels and features of a history."""

from typing import Optional

from torch import Tensor, nn

from recbole_glintru import settings
from recbole_glintru.layers.axis_mlp import AxisMLP
from recbole_glintru.layers.item_features import CHANNELS, FEATURES, ITEM, POSITIONS, PUBLISHED_NAMES, ItemFeatures
from recbole_glintru.models.base import NextItemRecommender
from recbole_glintru.ops.histories.alignment import check_length, widen
from recbole_glintru.ops.histories.positions import at_position, valid_positions


class ParallelMixer(nn.Module):
    """MLP over the features + MLP over the positions + MLP over the channels, of LayerNorm(X); no residual.

    Args:
        length: the largest number of positions.
        n_fields: F, the item id and its features.
        hidden_size: d.
        expansion: the inner width of each MLP, as a multiple of its axis.
        dropout_prob: dropout inside and after each MLP.
    """

    def __init__(self, length: int, n_fields: int, hidden_size: int, expansion: int, dropout_prob: float):
        super().__init__()

        def mlp(size: int) -> AxisMLP:
            return AxisMLP(size, expansion * size, dropout_prob, bias=False)

        self.norm = nn.LayerNorm(hidden_size)
        self.feature_mlp, self.sequence_mlp, self.channel_mlp = mlp(n_fields), mlp(length), mlp(hidden_size)

    def forward(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        """x `[B, L, F, d]`, mask `[B, L, 1] bool` or None -> `[B, L, F, d]`."""
        y = self.norm(x)
        visible = y if mask is None else y * mask.unsqueeze(-1)
        return self.feature_mlp(y, FEATURES) + self.sequence_mlp(visible, POSITIONS) + self.channel_mlp(y, CHANNELS)

    def item_at_last(self, items: Tensor, fields: Tensor, mask: Optional[Tensor], last: Tensor) -> Tensor:
        """The mixer's output for the item id at one position per row: all that is read of the last pass.

        Args:
            items: `[B, L, d]`, the input's vectors of the item id, at every position.
            fields: `[B, F, d]`, its vectors of all fields, at the position `last`.
            mask: `[B, L, 1] bool` or None.
            last: `[B] int64`.

        Returns:
            `[B, d]`, equal to `forward(x, mask)` there.
        """
        y, fields = self.norm(items), self.norm(fields)
        visible = y if mask is None else y * mask
        return (
            self.feature_mlp.at(fields, 1, ITEM)
            + self.sequence_mlp.at(visible, POSITIONS, last)
            + self.channel_mlp(fields[:, ITEM], -1)
        )


class SMLP4Rec(NextItemRecommender):
    """SMLP4Rec: An Efficient all-MLP Architecture for Sequential Recommendations.

    ACM Transactions on Information Systems, 2024, doi 10.1145/3637871.

    What differs from the published code, and why:

    * The MLP over positions does not see padding (`mask_padding`); `mask_padding: False` gives the published
      numbers.
    * The length is `MAX_ITEM_LIST_LENGTH`; the published constructor always uses 50 and fails at any other. The
      expansion is a setting; in the published code it is 3.
    * Item features are embedded by `layers.item_features`, which gives zero for an item without a value;
      their number is not limited, and may be zero.
    * In the last pass only the item's own vector at the last position is computed. The results are the same.

    As published, all passes share one mixer, and there is no residual. The weights are for one length,
    `MAX_ITEM_LIST_LENGTH`, and a shorter history uses the first of them: padding that is masked need not be
    computed.

    Settings: see `properties/model/SMLP4Rec.yaml`.
    """

    published_names = (
        *PUBLISHED_NAMES,
        (r"^layers\.0\.c\.0\.", "mixer.feature_mlp.expand."),
        (r"^layers\.0\.c\.3\.", "mixer.feature_mlp.reduce."),
        (r"^layers\.0\.h\.0\.", "mixer.sequence_mlp.expand."),
        (r"^layers\.0\.h\.3\.", "mixer.sequence_mlp.reduce."),
        (r"^layers\.0\.w\.0\.", "mixer.channel_mlp.expand."),
        (r"^layers\.0\.w\.3\.", "mixer.channel_mlp.reduce."),
        (r"^layers\.0\.norm2\.", "mixer.norm."),
        (r"^LayerNorm\.", "output_norm."),
    )

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.length_invariant = settings.switch(config, "mask_padding")
        self.n_layers = settings.integer(config, "n_layers")
        self.length = settings.integer(config, "MAX_ITEM_LIST_LENGTH")
        self.item_features = ItemFeatures(config, dataset, self.hidden_size)
        self.mixer = ParallelMixer(
            self.length,
            n_fields=self.item_features.n_fields,
            hidden_size=self.hidden_size,
            expansion=settings.integer(config, "expansion"),
            dropout_prob=settings.probability(config, "hidden_dropout_prob"),
        )
        self.output_norm = nn.LayerNorm(self.hidden_size, eps=settings.number(config, "layer_norm_eps"))
        self.initializer_range = settings.number(config, "initializer_range")
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.initializer_range)

    def encode(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The state at the last item: `[B, L] int64`, `[B] int64` -> `[B, d]`.

        Raises:
            ValueError: L is greater than `MAX_ITEM_LIST_LENGTH`; a smaller L is padded to it if `mask_padding: False`.
        """
        last, mask = item_seq_len - 1, None
        if self.length_invariant:
            check_length(item_seq, self.length)
            mask = valid_positions(item_seq_len, item_seq.shape[1]).unsqueeze(-1)
        else:
            item_seq = widen(item_seq, self.length)
        items = self.item_embedding(item_seq)
        if self.n_layers == 1:  # only the features of the last item are read
            fields = self.item_features(at_position(item_seq, last), at_position(items, last))
        else:
            x = self.item_features(item_seq, items)
            for _ in range(self.n_layers - 1):
                x = self.mixer(x, mask)
            items, fields = x[:, :, ITEM], at_position(x, last)
        return self.output_norm(self.mixer.item_at_last(items, fields, mask, last))
