import pytest
import torch

from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.ops import dropout as op
from recbole_glintru.ops.dropout import FEWEST


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_keeps_so_many_and_scales_them(p, dtype):
    x = torch.full((401, 997), 3.0, dtype=dtype)
    y = Dropout(p)(x)
    kept = y != 0
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(kept.double().mean() - (1 - p)) < 5 * deviation and y.dtype == dtype
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 3 / (1 - p)))
    flat = kept.flatten()
    for distance in (1, 2, 3, 997):  # four elements share a draw
        both = flat[distance:] & flat[:-distance]
        assert abs(both.double().mean() - (1 - p) ** 2) < 5 * deviation


def test_gradients_pass_where_values_pass():
    x = torch.ones(FEWEST, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


def test_the_seed_decides():
    x, dropout = torch.ones(FEWEST + 1), Dropout(0.3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(0)
    assert torch.equal(dropout(x), first) and not torch.equal(first, second)


@pytest.mark.parametrize("p, training", [(0.5, False), (0.0, True)])
def test_does_nothing_when_off(p, training):
    x = torch.ones(FEWEST)
    assert torch.equal(Dropout(p).train(training)(x), x)


@pytest.mark.parametrize("p", [1.0, 1 - 1e-10])
def test_drops_everything(p):
    assert not Dropout(p)(torch.ones(FEWEST)).any()


def test_second_derivatives_pass_too():
    x = torch.randn(FEWEST, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.4)(x)
    (gradient,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    torch.testing.assert_close(second, torch.where(y == 0, 0.0, 2 / 0.6**2).to(second.dtype))


def test_functional_gradients():
    x, dropout = torch.randn(FEWEST), Dropout(0.4)
    gradient = torch.func.grad(lambda x: dropout(x).sum())(x)
    torch.testing.assert_close(gradient.unique(), torch.tensor([0, 1 / 0.6]))


@pytest.mark.parametrize("p", [1e-3, 1 - 1e-3])
def test_probabilities_too_fine_for_16_bits_are_met(p):
    kept = Dropout(p)(torch.ones(1000, 1000)) != 0
    assert abs(kept.double().mean() - (1 - p)) < 5 * (p * (1 - p) / kept.numel()) ** 0.5


def own_numbers_fail(monkeypatch):
    monkeypatch.setattr(op, "draw", None)
    with pytest.raises(TypeError):  # or nothing would be shown by those that pass
        Dropout(0.5)(torch.ones(FEWEST))


def test_small_tensors_and_traced_ones_are_left_to_pytorch(monkeypatch):
    own_numbers_fail(monkeypatch)
    dropout = Dropout(0.5)
    traced = torch.jit.trace(dropout, torch.ones(FEWEST), check_trace=False)
    for y in (dropout(torch.ones(FEWEST - 1)), traced(torch.ones(FEWEST))):
        assert 0.3 < (y == 0).float().mean() < 0.7


@pytest.mark.parametrize("p, dtype", [(1e-3, torch.float32), (1 - 1e-3, torch.float32), (0.5, torch.bfloat16)])
def test_what_16_bits_do_not_resolve_is_left_to_pytorch(monkeypatch, p, dtype):
    own_numbers_fail(monkeypatch)
    assert Dropout(p)(torch.ones(FEWEST, dtype=dtype)).shape == (FEWEST,)
