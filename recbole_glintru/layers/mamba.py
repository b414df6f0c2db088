"""The Mamba block (Gu and Dao, arXiv:2312.00752), with the parameters of `mamba_ssm.Mamba` but without that package."""

import math
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_glintru.ops.histories.positions import at_position
from recbole_glintru.ops.precision import at_least_float32
from recbole_glintru.ops.scan import mamba_guard
from recbole_glintru.ops.scan.selective_scan import selective_scan, selective_scan_last

STEP_RANGE = (1e-3, 1e-1)  # of the initial step sizes
STEP_FLOOR = 1e-4
CHANNELS_PER_RANK = 16  # the step sizes are computed through d/16 numbers
KERNEL_WIDTHS = (2, 3, 4)  # supported by causal-conv1d


class Mamba(nn.Module):
    """Gate z and inputs from one projection, a short causal convolution, a selective scan, a projection back.

    The scan is s_t = exp(delta_t A) * s_{t-1} + (delta_t u_t) B_t, y_t = C_t s_t + D u_t; its output is y * SiLU(z).

    Names and shapes of the parameters are those of `mamba_ssm.Mamba` with its default options: a `state_dict` of
    one loads into the other. Causal, so padding on the right affects no real position.

    Args:
        hidden_size: d.
        d_state: N, states per channel.
        d_conv: k, width of the convolution.
        expand: the scan has D = expand * d channels.
        scan_backend: one of `ops.scan.selective_scan.BACKENDS`.
    """

    def __init__(
        self, hidden_size: int, d_state: int = 16, d_conv: int = 4, expand: int = 2, scan_backend: str = "auto"
    ):
        super().__init__()
        channels, rank = expand * hidden_size, math.ceil(hidden_size / CHANNELS_PER_RANK)
        self.scan_backend = scan_backend
        self.widths = (rank, d_state, d_state)  # of the input of the step sizes, of B, of C
        self.in_proj = nn.Linear(hidden_size, 2 * channels, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels, padding=d_conv - 1)
        self.x_proj = nn.Linear(channels, sum(self.widths), bias=False)
        self.dt_proj = nn.Linear(rank, channels)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(channels, 1))  # S4D-real
        self.D = nn.Parameter(torch.ones(channels))
        self.out_proj = nn.Linear(channels, hidden_size, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)  # keeps the variance
        with torch.no_grad():  # the softplus of the bias is log-uniform over STEP_RANGE
            low, high = (math.log(step) for step in STEP_RANGE)
            steps = torch.empty(channels).uniform_(low, high).exp().clamp(min=STEP_FLOOR)
            self.dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        """The block at every position.

        Args:
            x: `[B, L, d]`.
            lengths: `[B] int64`, from 1 to L: the scan may stop there. None for L.

        Returns:
            `[B, L, d]`; undefined after a row's length.
        """
        u, z = self.in_proj(x).transpose(1, 2).chunk(2, dim=1)  # [B, D, L] each
        u = self._convolve(u)
        tau, B, C = self.x_proj(u.transpose(1, 2)).split(self.widths, dim=-1)
        y = selective_scan(
            u,
            F.linear(tau, self.dt_proj.weight).transpose(1, 2),
            self._decay_rates(),
            B.transpose(1, 2),
            C.transpose(1, 2),
            self.D,
            z,
            self.dt_proj.bias,
            delta_softplus=True,
            lengths=lengths,
            backend=self.scan_backend,
        )
        return self.out_proj(y.transpose(1, 2))

    def at_last(self, x: Tensor, last: Tensor) -> Tensor:
        """The block at one position per row: computes the states up to there, and the rest of the block for it alone.

        Args:
            x: `[B, L, d]`.
            last: `[B] int64`.

        Returns:
            `[B, d]`, equal to `forward(x)` at the positions `last`.
        """
        input_rows, gate_rows = self.in_proj.weight.chunk(2)
        state_rows, readout_rows = self.x_proj.weight.split((sum(self.widths[:2]), self.widths[2]))
        u = self._convolve(F.linear(x, input_rows).transpose(1, 2))
        tau, B = F.linear(u.transpose(1, 2), state_rows).split(self.widths[:2], dim=-1)
        y = selective_scan_last(
            u,
            F.linear(tau, self.dt_proj.weight).transpose(1, 2),
            self._decay_rates(),
            B.transpose(1, 2),
            F.linear(at_position(u.transpose(1, 2), last), readout_rows),
            last,
            self.D,
            F.linear(at_position(x, last), gate_rows),
            self.dt_proj.bias,
            delta_softplus=True,
            backend=self.scan_backend,
        )
        return self.out_proj(y)

    def _decay_rates(self) -> Tensor:
        return -torch.exp(at_least_float32(self.A_log))

    def _convolve(self, u: Tensor) -> Tensor:
        """Causal convolution of each channel, and SiLU: `[B, D, L]` -> `[B, D, L]`."""
        if self._kernel_convolves(u):
            return mamba_guard.convolve(u, self.conv1d.weight.squeeze(1), self.conv1d.bias)
        return F.silu(self.conv1d(u)[..., : u.shape[-1]])

    def _kernel_convolves(self, u: Tensor) -> bool:
        return (
            self.scan_backend in ("auto", "mamba_ssm")
            and u.is_cuda
            and u.dtype != torch.float64
            and self.conv1d.kernel_size[0] in KERNEL_WIDTHS
            and mamba_guard.convolution_is_usable(u.device)
        )

    def extra_repr(self) -> str:
        return f"scan_backend={self.scan_backend}"
