"""MLP4Rec: MLP mixers over the positions, the channels and the features of a history, one after the other."""

from typing import Optional

from torch import Tensor, nn

from recbole_glintru import settings
from recbole_glintru.layers.axis_mlp import AxisMLP
from recbole_glintru.layers.item_features import CHANNELS, FEATURES, ITEM, POSITIONS, PUBLISHED_NAMES, ItemFeatures
from recbole_glintru.models.base import NextItemRecommender
from recbole_glintru.ops.histories.alignment import check_length, widen
from recbole_glintru.ops.histories.positions import at_position, valid_positions


class Mixer(nn.Module):
    """X + MLP(LayerNorm(X)), the LayerNorm over the channels, the MLP along one axis.

    Args:
        size: the length of the axis.
        hidden_size: d.
        expansion: the MLP's inner width, as a multiple of `size`.
        dropout_prob: dropout inside and after the MLP.
    """

    def __init__(self, size: int, hidden_size: int, expansion: int, dropout_prob: float):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.mlp = AxisMLP(size, expansion * size, dropout_prob, bias=True)

    def forward(self, x: Tensor, axis: int, mask: Optional[Tensor] = None) -> Tensor:
        """x `[..., d]` with up to `size` entries along `axis`, mask None or broadcast to x -> x's shape."""
        return x + self.mlp(self._input(x, mask), axis)

    def at(self, x: Tensor, x_there: Tensor, axis: int, index, mask: Optional[Tensor] = None) -> Tensor:
        """The output at one entry, `index`, of the axis (see `AxisMLP.at`); x_there is x at that entry."""
        return x_there + self.mlp.at(self._input(x, mask), axis, index)

    def _input(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        return self.norm(x) if mask is None else self.norm(x) * mask


class MLP4Rec(NextItemRecommender):
    """MLP4Rec: A Pure MLP Architecture for Sequential Recommendations (IJCAI 2022, arXiv:2204.11510).

    What differs from the published code, and why:

    * The sequence mixer does not see padding (`mask_padding`); `mask_padding: False` gives the published
      numbers.
    * A batch of one row works, as does a length or a width of one; the published code squeezes them away.
    * Item features are embedded by `layers.item_features`, which gives zero for an item without a value;
      their number is not limited, and may be zero.
    * All fields go through the mixers together instead of one by one, and the last pass computes only what
      the item's own vector at the last position needs. The results are the same.

    As published, all passes share their mixers, and all fields share the sequence and the channel mixer. The
    weights are for one length, `MAX_ITEM_LIST_LENGTH`, and a shorter history uses the first of them: padding
    that is masked need not be computed.

    Settings: see `properties/model/MLP4Rec.yaml`.
    """

    published_names = (
        *PUBLISHED_NAMES,
        # The published list `layers` repeats these two mixers for every field.
        (r"^layers\.\d*[02468]\.", "sequenceMixer."),
        (r"^layers\.\d*[13579]\.", "channelMixer."),
        (r"^(sequence|channel|feature)Mixer\.", r"\1_mixer."),
        (r"^(\w+_mixer)\.fn\.0\.", r"\1.mlp.expand."),
        (r"^(\w+_mixer)\.fn\.3\.", r"\1.mlp.reduce."),
        (r"^LayerNorm\.", "output_norm."),
    )

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.length_invariant = settings.switch(config, "mask_padding")
        self.n_layers = settings.integer(config, "n_layers")
        self.length = settings.integer(config, "MAX_ITEM_LIST_LENGTH")
        self.item_features = ItemFeatures(config, dataset, self.hidden_size)
        expansion = settings.integer(config, "expansion")
        dropout_prob = settings.probability(config, "hidden_dropout_prob")

        def mixer(size: int) -> Mixer:
            return Mixer(size, self.hidden_size, expansion, dropout_prob)

        self.sequence_mixer = mixer(self.length)
        self.channel_mixer = mixer(self.hidden_size)
        self.feature_mixer = mixer(self.item_features.n_fields)
        self.output_norm = nn.LayerNorm(self.hidden_size, eps=settings.number(config, "layer_norm_eps"))
        self._initialise(settings.number(config, "initializer_range"))

    def _initialise(self, std: float) -> None:
        """Normal; the sequence and feature mixers, convolutions in the published code, keep PyTorch's default."""
        for module in (*self.item_features.modules(), *self.channel_mixer.modules(), self.item_embedding):
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def encode(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The state at the last item: `[B, L] int64`, `[B] int64` -> `[B, d]`.

        Raises:
            ValueError: L is greater than `MAX_ITEM_LIST_LENGTH`; a smaller L is padded to it if `mask_padding: False`.
        """
        last, mask = item_seq_len - 1, None
        if self.length_invariant:
            check_length(item_seq, self.length)
            mask = valid_positions(item_seq_len, item_seq.shape[1])[:, :, None, None]
        else:
            item_seq = widen(item_seq, self.length)
        x = self.item_features(item_seq, self.item_embedding(item_seq))  # [B, L, F, d]
        for _ in range(self.n_layers - 1):
            x = self.sequence_mixer(x, POSITIONS, mask)
            x = self.channel_mixer(x, CHANNELS)
            x = self.feature_mixer(x, FEATURES)
        fields = self.sequence_mixer.at(x, at_position(x, last), POSITIONS, last, mask)  # [B, F, d]
        fields = self.channel_mixer(fields, -1)
        return self.output_norm(self.feature_mixer.at(fields, fields[:, ITEM], 1, ITEM))
