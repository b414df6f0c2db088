import pytest
import torch

from recbole_glintru.ops.linear_recurrence import last_state, linear_recurrence, linear_recurrence_reference, powers

LENGTHS = [1, 2, 63, 65, 200]
SHAPES = [(1, 3), (5, 1), (17, 7), (2, 33)]  # rows, channels; 17 is one more than is summed at once
# Relative to the greatest number of each tensor. In float32, sums of up to 17 * 200 terms come in another order.
TOLERANCES = {torch.float32: 2e-5, torch.float64: 1e-12, torch.complex64: 2e-5, torch.complex128: 1e-12}
CHUNKS = [None, 1, 4, 14, 64, 300]


def problem(rows, length, channels, dtype):
    """Decays of magnitudes 0.5 to 0.999, as trained ones have; inputs; a cotangent."""
    generator = torch.Generator().manual_seed(rows * length + channels)
    real = dtype.to_real()
    magnitude = 0.5 + 0.499 * torch.rand(channels, generator=generator, dtype=real)
    angle = 6.28 * torch.rand(channels, generator=generator, dtype=real)
    decay = torch.polar(magnitude, angle) if dtype.is_complex else magnitude * angle.cos().sign()
    x, cotangent = (torch.randn(rows, length, channels, generator=generator, dtype=dtype) for _ in range(2))
    return decay.requires_grad_(), x.requires_grad_(), cotangent


def outcome(function, decay, x, cotangent):
    result = function(decay, x)
    gradients = torch.autograd.grad(result, (decay, x), cotangent, materialize_grads=True)
    return dict(zip(("result", "decay", "x"), (result.detach(), *gradients)))


def assert_equal(actual, expected, tolerance):
    for name, value in expected.items():
        scale = max(1.0, value.abs().max().item())
        assert (actual[name] - value).abs().max().item() <= tolerance * scale, name


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("rows, channels", SHAPES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_equals_reference(dtype, length, rows, channels, chunk):
    tensors = problem(rows, length, channels, dtype)
    expected = outcome(linear_recurrence_reference, *tensors)
    actual = outcome(lambda decay, x: linear_recurrence(decay, x, chunk), *tensors)
    assert_equal(actual, expected, TOLERANCES[dtype])


@pytest.mark.parametrize("rows, channels", SHAPES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_last_state_equals_reference(dtype, length, rows, channels):
    decay, x, cotangent = problem(rows, length, channels, dtype)
    expected = outcome(lambda *args: linear_recurrence_reference(*args)[:, -1], decay, x, cotangent[:, -1])
    actual = outcome(last_state, decay, x, cotangent[:, -1])
    assert_equal(actual, expected, TOLERANCES[dtype])


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_gradients_are_exact(dtype, chunk):
    decay, x, _ = problem(2, 5, 3, dtype)
    assert torch.autograd.gradcheck(lambda *args: linear_recurrence(*args, chunk), (decay, x))
    assert torch.autograd.gradcheck(last_state, (decay, x))


@pytest.mark.parametrize("chunk", [None, 32])
def test_long_sequences_stay_bounded(chunk):
    """A state cannot exceed the largest input over 1 - |decay|; weak decays pass through underflow without harm."""
    decay = torch.polar(torch.tensor([1e-30, 0.3, 0.999]), torch.tensor([1.0, 2.0, 3.0])).requires_grad_()
    x = torch.ones(2, 2000, 3, dtype=torch.complex64, requires_grad=True)
    for states in (linear_recurrence(decay, x, chunk), last_state(decay, x)):
        gradients = torch.autograd.grad(states.abs().sum(), (decay, x))
        assert (states.abs() <= 1 / (1 - decay.abs()) + 1e-3).all()
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_input_is_left_alone():
    decay, x, _ = problem(2, 9, 3, torch.complex64)
    before = x.detach().clone()
    linear_recurrence(decay, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13])
def test_powers(count):
    decay = torch.tensor([0.9, -0.5], dtype=torch.float64)
    expected = torch.stack([decay**k for k in range(count)])
    torch.testing.assert_close(powers(decay, count), expected)
