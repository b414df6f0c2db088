import pytest
import torch

from recbole_glintru.layers.dropout import FEWEST, Dropout


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
    for neighbours in (kept[1:] & kept[:-1], kept[:, 1:] & kept[:, :-1]):  # two elements share a draw
        assert abs(neighbours.double().mean() - (1 - p) ** 2) < 5 * deviation


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


def test_small_tensors_and_traced_ones_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(Dropout, "_kept", None)
    dropout = Dropout(0.5)
    traced = torch.jit.trace(dropout, torch.ones(FEWEST), check_trace=False)
    for y in (dropout(torch.ones(FEWEST - 1)), traced(torch.ones(FEWEST))):
        assert 0.3 < (y == 0).float().mean() < 0.7
