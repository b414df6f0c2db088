"""SIGMA: Mamba in both directions, gated, with a GRU for short histories."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_glintru import settings
from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.layers.gru import GRU
from recbole_glintru.layers.temporal_conv import TemporalConv
from recbole_glintru.models.mamba4rec import Mamba4Rec, make_mamba
from recbole_glintru.ops.histories import host_lengths
from recbole_glintru.ops.histories.positions import at_position
from recbole_glintru.ops.layouts.choice import choose_layout

KERNEL_SIZE = 3
MIXING_START = (0.1, 0.1, 0.8)  # GRU, reversed, forward


class GatedBidirectionalMamba(nn.Module):
    """W_p (w_2 y + w_1 y' + w_0 q): Mamba on the history, Mamba on it partly reversed, both gated, and a GRU.

    Args:
        config: the model's settings.
    """

    def __init__(self, config):
        super().__init__()
        hidden_size = settings.integer(config, "hidden_size")
        self.published = settings.choice(config, "semantics", ("clean", "published")) == "published"
        self.flip_prefix = settings.integer(config, "flip_prefix", least=0)
        self.keep_last = settings.integer(config, "keep_last", least=0)
        self.mamba = make_mamba(config)  # for both directions
        self.forward_gate_input = nn.Linear(hidden_size, hidden_size)
        self.reversed_gate_input = nn.Linear(hidden_size, hidden_size)
        self.gate_silu = nn.Linear(hidden_size, hidden_size)
        self.gate_sigmoid = nn.Linear(hidden_size, hidden_size)
        self.gate_dropout = Dropout(settings.probability(config, "gate_dropout_prob"))
        self.conv = TemporalConv(hidden_size, KERNEL_SIZE)
        self.gru = GRU(hidden_size)
        start = torch.tensor(MIXING_START)
        self.mixing = nn.Parameter(start if self.published else start.log())
        self.projection = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Every position: x `[B, L, d]`, lengths `[B] int64` -> `[B, L, d]`; if clean, undefined for padding."""
        flipped = self._flip(x, lengths)
        seen = None if self.published else lengths.repeat(2)
        scanned = self.mamba(torch.cat([x, flipped]), seen)
        return self._mix(x, flipped, *scanned.chunk(2), self._recur(x, lengths))

    def at_last(self, x: Tensor, last: Tensor) -> Tensor:
        """One position per row: x `[B, L, d]`, last `[B] int64`, the position of the last item -> `[B, d]`."""
        lengths = host_lengths.shifted(last, 1)
        flipped = self._flip(x, lengths)
        scanned = self.mamba.at_last(torch.cat([x, flipped]), host_lengths.concatenated([last, last]))
        recurrent = at_position(self._recur(x, lengths), last)
        return self._mix(at_position(x, last), at_position(flipped, last), *scanned.chunk(2), recurrent)

    def _flip(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x with the first positions of each row reversed."""
        positions = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
        if self.published:
            flipped = torch.full_like(lengths, min(self.flip_prefix, x.shape[1]))
        else:
            flipped = (lengths - self.keep_last).clamp(min=0)
        end = flipped.unsqueeze(1)
        source = torch.where(positions < end, end - 1 - positions, positions)
        return x.gather(1, source.unsqueeze(-1).expand_as(x))

    def _recur(self, x: Tensor, lengths: Tensor) -> Tensor:
        length = x.shape[1]
        layout = choose_layout(host_lengths.uniform(lengths, length) if self.published else lengths, length)
        return layout.pad(self.gru(self.conv(layout.arrange(x), layout), layout))

    def _mix(self, x, flipped, y, y_flipped, recurrent):
        a, a_flipped = x + self.forward_gate_input(x), flipped + self.reversed_gate_input(flipped)
        gate = self._gate(a, a)
        # The published code passes the other direction's finished gate to the sigmoid.
        gate_flipped = self._gate(a_flipped, gate if self.published else a_flipped)
        weights = self.mixing if self.published else self.mixing.softmax(dim=0)
        mixed = weights[2] * y * (1 + gate) + weights[1] * y_flipped * (1 + gate_flipped) + weights[0] * recurrent
        return self.projection(mixed)

    def _gate(self, silu_input: Tensor, sigmoid_input: Tensor) -> Tensor:
        gate = self.gate_silu(F.silu(silu_input)) + self.gate_sigmoid(torch.sigmoid(sigmoid_input))
        return self.gate_dropout(gate)


class SIGMA(Mamba4Rec):
    """SIGMA: Selective Gated Mamba for Sequential Recommendation (AAAI 2025, arXiv:2408.11451).

    Mamba4Rec with `GatedBidirectionalMamba` instead of Mamba. What differs from the published code, and why
    (`semantics: published` gives its numbers):

    * The published code reverses a fixed number of positions (`flip_prefix`) of the padded row, which moves a short
      history after its padding. Here all but the last `keep_last` items of each history are reversed, as in the paper.
    * Padding is masked before the convolution, which looks one position ahead. With these two, a state depends on the
      history alone.
    * The gate of the reversed direction is computed from that direction; in the published code half of it comes from
      the other's gate.
    * The three parts are mixed by a softmax; the published code computes it but does not use it. The initial mixture is
      the same.
    * A convolution whose result the published code discards, and which fails if L differs from d, is left out.
    * In the last block, after the recurrences, only the last position is computed, because nothing else is read.

    As published, the output of the reversed direction is not reversed back.

    Settings: see `properties/model/SIGMA.yaml`.
    """

    published_names = (
        (r"^mamba_layers\.(\d+)\.gmamba\.mamba\.", r"blocks.\1.mixer.mamba."),
        (r"^mamba_layers\.(\d+)\.gmamba\.combining_weights$", r"blocks.\1.mixer.mixing"),
        (r"^mamba_layers\.(\d+)\.gmamba\.dense1\.", r"blocks.\1.mixer.forward_gate_input."),
        (r"^mamba_layers\.(\d+)\.gmamba\.dense2\.", r"blocks.\1.mixer.reversed_gate_input."),
        (r"^mamba_layers\.(\d+)\.gmamba\.selective_gate_si\.1\.", r"blocks.\1.mixer.gate_silu."),
        (r"^mamba_layers\.(\d+)\.gmamba\.selective_gate_sig\.1\.", r"blocks.\1.mixer.gate_sigmoid."),
        (r"^mamba_layers\.(\d+)\.gmamba\.conv1d\.", r"blocks.\1.mixer.conv."),
        (r"^mamba_layers\.(\d+)\.gmamba\.(gru|projection)\.", r"blocks.\1.mixer.\2."),
        *Mamba4Rec.published_names,
    )

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.length_invariant = settings.choice(config, "semantics", ("clean", "published")) == "clean"

    def make_mixer(self, config) -> nn.Module:
        """The layer that mixes the positions in one block."""
        return GatedBidirectionalMamba(config)
