"""A GRU over histories of different lengths (GLINT-RU, eq. 1)."""

import torch
from torch import Tensor, nn

from recbole_glintru.ops import tensor_cores
from recbole_glintru.ops.gru import triton_guard as gru_guard
from recbole_glintru.ops.gru.packed_gru import packed_gru, packed_gru_at
from recbole_glintru.ops.gru.reference import gru_reference
from recbole_glintru.ops.layouts.choice import Layout
from recbole_glintru.ops.layouts.compact import Compact
from recbole_glintru.ops.layouts.packed import Packed
from recbole_glintru.ops.precision import at_least_float32, float32_region
from recbole_glintru.ops.tracing import is_compiling, is_traced


class GRU(nn.Module):
    """`torch.nn.GRU`, with the same parameters and results, that computes no padding in a packed layout (eq. 1).

    Not a subclass of it, because `torch.compile` refuses those. Under autocast its states stay float32: rounding errors
    of half precision would add up over the steps. On a GPU the factors of products follow autocast if the package's
    kernels can be used (`ops/gru/triton_guard.py`).

    Args:
        hidden_size: d, also that of the inputs.
        num_layers: the number of stacked layers.
        bias: whether there are `bias_ih` and `bias_hh`.
    """

    def __init__(self, hidden_size: int, num_layers: int = 1, bias: bool = False):
        super().__init__()
        self.num_layers, self.bias = num_layers, bias
        for name, parameter in nn.GRU(hidden_size, hidden_size, num_layers, bias).named_parameters():
            self.register_parameter(name, parameter)

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """For each layer: `weight_ih`, `weight_hh` and, with biases, `bias_ih`, `bias_hh`."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if self.bias else 2]
        return [[getattr(self, f"{name}_l{layer}") for name in names] for layer in range(self.num_layers)]

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """The states of the last layer: x `[*P, d]` -> `[*P, d]`; undefined in the padding."""
        if not is_traced():
            dtype = tensor_cores.product_type(x)
            if gru_guard.are_usable(x.device, dtype, self.weight_hh_l0.shape[1], self.bias):
                for weights in self.all_weights:
                    x = gru_guard.gru(x, layout, *weights, dtype)
                return x
        with float32_region(x):
            x = at_least_float32(x)
            if isinstance(layout, Compact):
                return layout.arrange(self._whole(layout.pad(x)))
            if not isinstance(layout, Packed) and not is_compiling():
                return self._whole(x)
            for weights in self.all_weights:
                if isinstance(layout, Packed):
                    x = packed_gru(x, layout.counts, *weights)
                else:  # the compiler does not support torch.gru
                    x = gru_reference(x, layout.lengths, *weights)
            return x

    def at(self, x: Tensor, layout: Layout, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The states of the last layer, and the inputs of the first, at some positions of each history.

        Args:
            x: `[*P, d]`.
            layout: the layout of those positions.
            positions: `[B, T] int64`.

        Returns:
            `[B, T, d]` each; undefined for a position that the history does not have.
        """
        if self.num_layers > 1 or not isinstance(layout, Packed):
            return layout.at(self(x, layout), positions), layout.at(x, positions)
        with float32_region(x):
            states, inputs = packed_gru_at(
                at_least_float32(x), layout.counts, layout.places(positions).flatten(), *self.all_weights[0]
            )
            return states.unflatten(0, positions.shape), inputs.unflatten(0, positions.shape)

    def _whole(self, x: Tensor) -> Tensor:
        """All positions `[B, L, d]`, by PyTorch (cuDNN on a GPU)."""
        start = x.new_zeros(self.num_layers, len(x), x.shape[-1])
        weights = [weight for layer in self.all_weights for weight in layer]
        options = (self.bias, self.num_layers, 0.0, self.training, False, True)
        return torch.gru(x, start, weights, *options)[0]
