import pytest
import torch

from recbole_glintru.layers.spectral_filter import SpectralFilter

LENGTHS = [1, 2, 7, 8, 50]


def make(length, d=3):
    layer = SpectralFilter(length, d).double()
    torch.nn.init.normal_(layer.complex_weight)
    return layer, torch.randn(4, length, d, dtype=torch.float64, requires_grad=True)


def plain(layer, x):
    """The definition: two Fourier transforms as matrices, the upper half of the spectrum by symmetry."""
    length = layer.length
    angles = 2 * torch.pi * torch.outer(torch.arange(length), torch.arange(length)).double() / length
    transform = torch.polar(torch.ones_like(angles), -angles) / length**0.5
    lower = torch.view_as_complex(layer.complex_weight.detach())[0]
    real_only = torch.zeros(len(lower), 1, dtype=torch.bool)
    real_only[0] = True
    if length % 2 == 0:
        real_only[-1] = True  # the spectrum of a real sequence is real there, and stays so
    lower = torch.where(real_only, lower.real + 0j, lower)
    weight = torch.cat([lower, lower[1 : (length + 1) // 2].flip(0).conj()])
    output = transform.conj() @ ((transform @ x.detach().to(transform.dtype)) * weight)
    assert output.imag.abs().max() < 1e-9
    return output.real


@pytest.mark.parametrize("length", LENGTHS)
def test_is_a_product_of_spectra(length):
    layer, x = make(length)
    torch.testing.assert_close(layer(x).detach(), plain(layer, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_end_alone_is_that_of_the_whole(length):
    """In the output and in every gradient."""
    layer, x = make(length)
    whole, alone = layer(x)[:, -1], layer.at_end(x)
    torch.testing.assert_close(alone, whole, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn_like(whole)
    for ours, theirs in zip(
        torch.autograd.grad((alone * cotangent).sum(), (x, layer.complex_weight)),
        torch.autograd.grad((whole * cotangent).sum(), (x, layer.complex_weight)),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_half_precision_is_computed_in_float32():
    layer = SpectralFilter(6, 4)
    x = torch.randn(2, 6, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole, end = layer(x), layer.at_end(x)
    assert whole.dtype == end.dtype == torch.float32
    assert torch.equal(whole, layer(x.float()))
