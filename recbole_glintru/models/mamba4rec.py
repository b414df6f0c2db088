"""Mamba4Rec: selective state space models for sequential recommendation."""

from torch import Tensor, nn

from recbole_glintru import settings
from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.layers.feed_forward import FeedForward
from recbole_glintru.layers.mamba import Mamba
from recbole_glintru.models.base import NextItemRecommender
from recbole_glintru.ops.histories import host_lengths
from recbole_glintru.ops.histories.positions import at_position
from recbole_glintru.ops.scan.selective_scan import BACKENDS

MAMBA_INITS = ("published", "upstream")


def make_mamba(config) -> Mamba:
    """The Mamba block that the settings of a model describe."""
    return Mamba(
        settings.integer(config, "hidden_size"),
        d_state=settings.integer(config, "d_state"),
        d_conv=settings.integer(config, "d_conv"),
        expand=settings.integer(config, "expand"),
        scan_backend=settings.choice(config, "scan_backend", BACKENDS),
    )


class MambaBlock(nn.Module):
    """A mixer over time, dropout, residual and LayerNorm; then the feed-forward network with its own.

    Args:
        mixer: a module with `forward(x, lengths)` and `at_last(x, last)`, as `Mamba` has them.
        hidden_size: d.
        inner_size: that of the feed-forward network.
        residual: whether the mixer's input is added to its output.
        dropout_prob: dropout after the mixer and inside and after the feed-forward network.
        layer_norm_eps: epsilon of both LayerNorms.
    """

    def __init__(
        self,
        mixer: nn.Module,
        hidden_size: int,
        inner_size: int,
        residual: bool,
        dropout_prob: float,
        layer_norm_eps: float,
    ):
        super().__init__()
        self.mixer = mixer
        self.residual = residual
        self.dropout = Dropout(dropout_prob)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.feed_forward = FeedForward(
            hidden_size, inner_size, "gelu", dropout_prob, layer_norm_eps, inner_dropout_prob=dropout_prob
        )

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x `[B, L, d]`, lengths `[B] int64` -> `[B, L, d]`."""
        return self._after_mixer(self.mixer(x, lengths), x)

    def at_last(self, x: Tensor, last: Tensor) -> Tensor:
        """The output at one position per row: x `[B, L, d]`, last `[B] int64` -> `[B, d]`."""
        return self._after_mixer(self.mixer.at_last(x, last), at_position(x, last))

    def _after_mixer(self, mixed: Tensor, x: Tensor) -> Tensor:
        mixed = self.dropout(mixed)
        return self.feed_forward(self.norm(mixed + x if self.residual else mixed))


class Mamba4Rec(NextItemRecommender):
    """Mamba4Rec: Towards Efficient Sequential Recommendation with Selective State Space Models (arXiv:2403.03900).

    The numbers are those of the published code. What differs otherwise, and why:

    * It runs without the package mamba-ssm, also on a CPU; with it, its kernels are used on a GPU (`scan_backend`).
    * `mamba_init: upstream` keeps the initialisation of Mamba's authors. The published code overwrites that of the step
      sizes: they start at 0.69 instead of 0.001 to 0.1.
    * In the last block, after the recurrence, only the last position is computed, because nothing else is read.

    As published, there is a residual around the Mamba block only if blocks are stacked.

    Settings: see `properties/model/Mamba4Rec.yaml`.
    """

    published_names = (
        (r"^LayerNorm\.", "input_norm."),
        (r"^mamba_layers\.(\d+)\.mamba\.", r"blocks.\1.mixer."),
        (r"^mamba_layers\.(\d+)\.LayerNorm\.", r"blocks.\1.norm."),
        (r"^mamba_layers\.(\d+)\.ffn\.w_1\.", r"blocks.\1.feed_forward.expand."),
        (r"^mamba_layers\.(\d+)\.ffn\.w_2\.", r"blocks.\1.feed_forward.reduce."),
        (r"^mamba_layers\.(\d+)\.ffn\.LayerNorm\.", r"blocks.\1.feed_forward.norm."),
    )
    published_settings = {"num_layers": "n_layers", "dropout_prob": "hidden_dropout_prob"}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        dropout_prob = settings.probability(config, "hidden_dropout_prob")
        layer_norm_eps = settings.number(config, "layer_norm_eps")
        n_layers = settings.integer(config, "n_layers")
        inner_size = settings.integer(config, "ffn_expansion") * self.hidden_size
        self.input_dropout = Dropout(dropout_prob)
        self.input_norm = nn.LayerNorm(self.hidden_size, eps=layer_norm_eps)
        self.blocks = nn.ModuleList(
            MambaBlock(
                self.make_mixer(config), self.hidden_size, inner_size, n_layers > 1, dropout_prob, layer_norm_eps
            )
            for _ in range(n_layers)
        )
        self.initializer_range = settings.number(config, "initializer_range")
        self._keep_mamba = settings.choice(config, "mamba_init", MAMBA_INITS) == "upstream"
        self._initialise(self)

    def make_mixer(self, config) -> nn.Module:
        """The layer that mixes the positions in one block."""
        return make_mamba(config)

    def _initialise(self, module: nn.Module) -> None:
        """As published: every linear layer and the items, but not convolutions, decay rates and skips."""
        if isinstance(module, Mamba) and self._keep_mamba:
            return
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        for child in module.children():
            self._initialise(child)

    def encode(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The state at the last item: `[B, L] int64`, `[B] int64` -> `[B, d]`."""
        x = self.input_norm(self.input_dropout(self.item_embedding(item_seq)))
        *below, top = self.blocks
        for block in below:
            x = block(x, item_seq_len)
        return top.at_last(x, host_lengths.shifted(item_seq_len, -1))
