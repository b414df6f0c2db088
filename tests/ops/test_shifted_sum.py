import pytest
import torch

from recbole_glintru.layers.temporal_conv import TemporalConv
from recbole_glintru.ops.shifted_sum import shifted_sum, shifted_sum_reference


@pytest.mark.parametrize("taps", [1, 3, 5, 7])
@pytest.mark.parametrize("length", [1, 2, 3, 8])
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
def test_equals_reference(length, taps, ragged):
    """At the real positions, values and gradients; behind them nothing is promised."""
    torch.manual_seed(length * taps)
    products = torch.randn(4, length, taps, 5, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([1, length, max(1, length - 1), (length + 1) // 2]) if ragged else None
    real = torch.ones(4, length) if lengths is None else (torch.arange(length) < lengths.unsqueeze(1)).double()
    cotangent = torch.randn(4, length, 5, dtype=torch.float64) * real.unsqueeze(-1)
    results = []
    for function in (shifted_sum_reference, shifted_sum):
        y = function(products, lengths) * real.unsqueeze(-1)
        results.append((y, torch.autograd.grad((y * cotangent).sum(), products)[0]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_temporal_conv_is_a_convolution(kernel_size):
    torch.manual_seed(0)
    conv, linear = TemporalConv(6, kernel_size).double(), torch.nn.Linear(6, 6).double()
    x = torch.randn(3, 9, 6, dtype=torch.float64)
    expected = torch.nn.Conv1d.forward(conv, x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(conv(x), expected)
    lengths = torch.tensor([9, 4, 1])
    masked = linear(x) * (torch.arange(9) < lengths.unsqueeze(1)).unsqueeze(-1)
    merged, plain = conv.after_linear(linear, x, lengths), conv(masked)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(merged[row, :length], plain[row, :length])
