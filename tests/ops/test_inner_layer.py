import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_glintru.ops import dropout, inner_layer

B, R, K, INNER = 7, 5, 3, 60
EVERYTHING, TWO_ROWS, LESS_THAN_A_ROW = 1 << 30, 2 * R * INNER, 1


@pytest.fixture(autouse=True)
def own_numbers(monkeypatch):
    monkeypatch.setattr(dropout, "FEWEST", 1)


def problem(own_weights, bias, dtype=torch.float64, inner=INNER):
    generator = torch.Generator().manual_seed(3)
    shapes = [(B, R, K), (inner, K), (inner,), (B, inner, 1) if own_weights else (inner, 4)]
    u, expand, b, reduce = (torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes)
    return u, expand, b if bias else None, reduce


def results(monkeypatch, piece, tensors, p, training=True):
    monkeypatch.setattr(inner_layer, "PIECE", piece)
    torch.manual_seed(0)
    output = inner_layer.inner_layer(*tensors, p, training)
    cotangent = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad(output, [x for x in tensors if x is not None], cotangent)]


@pytest.mark.parametrize("piece", [TWO_ROWS, LESS_THAN_A_ROW], ids=["two rows", "row by row"])
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("own_weights", [False, True], ids=["for all rows", "one a row"])
def test_pieces_are_the_whole(monkeypatch, own_weights, bias, p, piece):
    """Output and every gradient, with the same random numbers."""
    tensors = problem(own_weights, bias)
    expected = results(monkeypatch, EVERYTHING, tensors, p)
    with monkeypatch.context() as patch:
        patch.setattr(inner_layer, "inner_layer_reference", None)  # that of the whole
        actual = results(patch, piece, tensors, p)
    for ours, whole in zip(actual, expected):
        torch.testing.assert_close(ours, whole, rtol=1e-12, atol=1e-12)


def test_nothing_is_dropped_in_evaluation(monkeypatch):
    tensors = problem(False, True)
    for ours, whole in zip(
        results(monkeypatch, TWO_ROWS, tensors, 0.5, training=False),
        results(monkeypatch, EVERYTHING, tensors, 0.0),
    ):
        torch.testing.assert_close(ours, whole, rtol=1e-12, atol=1e-12)


class Largest(TorchDispatchMode):
    """The most bytes that an operation's result has."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if torch.is_tensor(result):
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("own_weights", [False, True], ids=["for all rows", "one a row"])
def test_the_inner_layer_is_never_there_as_a_whole(monkeypatch, own_weights):
    """But for 16 bits of it, and 8 bytes beyond the last of them."""
    tensors = problem(own_weights, True, torch.float32)
    sizes = []
    for piece in (TWO_ROWS, EVERYTHING):
        with Largest() as largest:
            results(monkeypatch, piece, tensors, 0.5)
        sizes.append(largest.bytes)
    whole = B * R * INNER * 4
    assert sizes[0] <= whole / 2 + 8 and sizes[1] == whole


@pytest.mark.parametrize(
    "p, dtype, inner",
    [(1e-3, torch.float32, INNER), (0.5, torch.bfloat16, INNER), (0.5, torch.float32, 2 * K - 1)],
    ids=["numbers too coarse", "half precision", "no wider than twice"],
)
def test_otherwise_as_a_whole(monkeypatch, p, dtype, inner):
    tensors = problem(False, False, dtype, inner)
    monkeypatch.setattr(inner_layer, "_InPieces", None)
    output, *gradients = results(monkeypatch, LESS_THAN_A_ROW, tensors, p)
    assert output.shape == (B, R, 4) and len(gradients) == 3
    with pytest.raises(AttributeError):  # or nothing would be shown
        results(monkeypatch, LESS_THAN_A_ROW, problem(False, False), 0.5)


def test_mixed_precision_is_the_plain_one(monkeypatch):
    tensors = problem(False, False, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert results(monkeypatch, LESS_THAN_A_ROW, tensors, 0.0)[0].dtype == torch.bfloat16
