"""The linear recurrent unit (arXiv:2303.06349), the sequence mixer of LRURec."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_glintru.ops.linear_recurrence import last_state, linear_recurrence
from recbole_glintru.ops.precision import at_least_float32, float32_region

SMALLEST_DECAY, GREATEST_DECAY = 0.8, 0.99  # initial magnitudes


class LinearRecurrentUnit(nn.Module):
    """Re(W_C s_t + b_C) with s_t = lambda * s_{t-1} + gamma * (W_B x_t + b_B), where lambda and s are complex.

    x and the output are real, so the complex layers are implemented as real ones: their 2D channels alternate between
    the real and the imaginary part of the D channels of the state. The imaginary part of b_C is left out, because
    nothing reads it.

    Args:
        hidden_size: d.
        state_size: D.
    """

    def __init__(self, hidden_size: int, state_size: int):
        super().__init__()
        self.log_parameters = nn.Parameter(torch.empty(3, state_size))  # log of nu, theta, gamma
        self.input = nn.Linear(hidden_size, 2 * state_size)
        self.output = nn.Linear(2 * state_size, hidden_size)
        self.reset_decay()

    @torch.no_grad()
    def reset_decay(self) -> None:
        """Draw lambda uniformly from a ring of the complex plane; gamma keeps the states at the scale of the inputs."""
        radius, angle = torch.rand(2, self.log_parameters.shape[1])
        squared = radius * (GREATEST_DECAY**2 - SMALLEST_DECAY**2) + SMALLEST_DECAY**2  # |lambda|^2
        nu, theta, gamma = -0.5 * squared.log(), 2 * math.pi * angle, (1 - squared).sqrt()
        self.log_parameters.copy_(torch.stack([nu, theta, gamma]).log())

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, d]` -> `[B, L, d]`."""
        decay, driven = self._drive(x)
        with float32_region(x):
            states = linear_recurrence(decay, torch.view_as_complex(driven))
        return self.output(torch.view_as_real(states).flatten(-2))

    def at_last(self, x: Tensor, last: Tensor) -> Tensor:
        """The output at one position per row, without the states before it: x `[B, L, d]`, last `[B]` -> `[B, d]`."""
        length = x.shape[1]
        position = last.unsqueeze(1) - torch.arange(length - 1, -1, -1, device=x.device)  # the last column is `last`
        row = torch.arange(len(x), device=x.device).unsqueeze(1) * length
        shifted = x.flatten(0, 1).index_select(0, (row + position.clamp(min=0)).flatten()).view_as(x)
        decay, driven = self._drive(shifted)
        with float32_region(x):
            driven = driven.masked_fill((position < 0)[:, :, None, None], 0)
            state = last_state(decay, torch.view_as_complex(driven))
        return self.output(torch.view_as_real(state).flatten(-2))

    def _drive(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """lambda `[D]`, complex, and what drives the recurrence, `[B, L, D, 2]` with real and imaginary parts last."""
        nu, theta, gamma = self.log_parameters.exp()
        gamma = gamma.repeat_interleave(2)  # applied to the weights, which are smaller than the sequence
        driven = F.linear(x, self.input.weight * gamma.unsqueeze(1), self.input.bias * gamma)
        return torch.polar(torch.exp(-nu), theta), at_least_float32(driven).unflatten(-1, (-1, 2))
