"""Learned filter over the frequencies of a sequence (FMLP-Rec, arXiv:2202.13556, eq. 3 and 4)."""

import torch
from torch import Tensor, nn

from recbole_glintru.ops.precision import at_least_float32, float32_region


class SpectralFilter(nn.Module):
    """irfft(W * rfft(X)) along the positions: each channel undergoes a circular convolution with a learned sequence.

    Args:
        length: L, for which alone the filter is defined.
        hidden_size: d.
    """

    def __init__(self, length: int, hidden_size: int):
        super().__init__()
        self.length = length
        self.complex_weight = nn.Parameter(torch.empty(1, length // 2 + 1, hidden_size, 2))  # real, imaginary
        nn.init.normal_(self.complex_weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, d]` -> `[B, L, d]`, in float32 under autocast, because there is no transform in half precision."""
        with float32_region(x):
            spectrum = torch.fft.rfft(at_least_float32(x), dim=1, norm="ortho")
            return torch.fft.irfft(spectrum * self._weight(), n=self.length, dim=1, norm="ortho")

    def at_end(self, x: Tensor) -> Tensor:
        """The output at position L-1 alone: `[B, L, d]` -> `[B, d]`.

        The product of spectra is the circular convolution with the filter's own inverse transform; at one
        position that is a weighted sum over the input's positions, so the input needs no transform.
        """
        with float32_region(x):
            kernel = torch.fft.irfft(self._weight(), n=self.length, dim=1)  # [1, L, d]
            return (at_least_float32(x) * kernel.flip(1)).sum(dim=1)

    def _weight(self) -> Tensor:
        return torch.view_as_complex(self.complex_weight)

    def extra_repr(self) -> str:
        return f"{self.length}, {self.complex_weight.shape[2]}"
