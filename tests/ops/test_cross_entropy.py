import pytest
import torch

from recbole_glintru.ops import cross_entropy
from recbole_glintru.ops.cross_entropy import catalogue_cross_entropy, catalogue_cross_entropy_reference


def cut(monkeypatch, piece):
    monkeypatch.setattr(cross_entropy, "PIECE", piece)
    monkeypatch.setattr(cross_entropy, "LARGEST_PIECE", piece)


def problem(rows, items, d, bias, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(rows + items + d)
    tensors = [torch.randn(*shape, generator=generator, dtype=dtype) * scale for shape in ((rows, d), (items, d))]
    tensors.append(torch.randn(items, generator=generator, dtype=dtype) if bias else None)
    target = torch.randint(0, items, (rows,), generator=generator)
    return [None if tensor is None else tensor.requires_grad_() for tensor in tensors], target


def results(function, tensors, target):
    loss = function(*tensors, target)
    wanted = [tensor for tensor in tensors if tensor is not None]
    return [loss, *torch.autograd.grad(3 * loss, wanted)]  # a factor, as a gradient scaler gives


@pytest.mark.parametrize("piece", [1, 50, 1300, 1 << 21], ids=["item by item", "items", "rows", "whole"])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("rows, items, d", [(1, 1, 1), (1, 20, 3), (67, 20, 4), (40, 33, 5)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 2e-6)], ids=["f64", "f32"])
def test_equals_reference(monkeypatch, rows, items, d, bias, piece, dtype, tolerance):
    """The loss and every gradient, however the scores are cut."""
    cut(monkeypatch, piece)
    tensors, target = problem(rows, items, d, bias, dtype)
    expected = results(catalogue_cross_entropy_reference, tensors, target)
    actual = results(catalogue_cross_entropy, tensors, target)
    for name, ours, plain in zip(["loss", "state", "weight", "bias"], actual, expected):
        torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("piece", [1, 1300], ids=["item by item", "rows"])
@pytest.mark.parametrize("wrong", [-1, 20])
def test_a_target_that_is_no_item_is_refused(monkeypatch, piece, wrong):
    """However the scores are cut: a negative index would count from the last item."""
    cut(monkeypatch, piece)
    tensors, target = problem(67, 20, 4, False)
    target[3] = wrong
    with pytest.raises((IndexError, RuntimeError), match=f"{wrong}.*out of (bounds|range)|out of bounds"):
        catalogue_cross_entropy(*tensors, target)


@pytest.mark.parametrize("piece", [1, 50, 300], ids=["item by item", "items", "more items"])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_nothing_is_added_twice_to_one_place_on_a_gpu(monkeypatch, bias, piece):
    """There the order of such additions is chance: a target that many rows have is counted where its shares are."""
    cut(monkeypatch, piece)
    monkeypatch.setattr(cross_entropy, "_adds_in_order", lambda x: False)
    tensors, target = problem(67, 20, 4, bias)
    target = target % 7 + 5  # each of them often, and the others never
    expected = results(catalogue_cross_entropy_reference, tensors, target)
    monkeypatch.setattr(torch.Tensor, "index_add_", None)
    for ours, plain in zip(results(catalogue_cross_entropy, tensors, target), expected):
        torch.testing.assert_close(ours, plain, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "items, scores", [(1000, 1 << 20), (1 << 14, 1 << 20), (100_000, 6_400_000), (1 << 17, 1 << 23), (200_000, 1 << 20)]
)
def test_pieces_on_a_cpu(items, scores):
    """4 MiB; more where products of so few rows are slow; and again 4 MiB where those rows need too much memory."""
    assert cross_entropy._scores_at_a_time(torch.zeros(1), torch.zeros(items)) == scores


def test_larger_pieces_on_a_gpu():
    """At a million items those of the size of a CPU's cache would be a thousand launches."""
    assert cross_entropy._scores_at_a_time(torch.zeros(1, device="meta"), torch.zeros(1)) == 1 << 26


@pytest.mark.parametrize("items, function", [(5, "_by_rows"), (6, "_by_items")])
def test_all_items_of_64_rows_as_long_as_they_fit(monkeypatch, items, function):
    monkeypatch.setattr(cross_entropy, "PIECE", 100)
    monkeypatch.setattr(cross_entropy, "LARGEST_PIECE", 64 * 5)
    taken = []
    for name in ("_by_rows", "_by_items"):
        original = getattr(cross_entropy, name)
        monkeypatch.setattr(cross_entropy, name, lambda *a, n=name, f=original: (taken.append((n, a[-1])), f(*a))[1])
    tensors, target = problem(70, items, 3, False)
    results(catalogue_cross_entropy, tensors, target)
    assert taken == [(function, 320 if function == "_by_rows" else 100)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("most", [1 << 12, 1 << 16], ids=["items", "rows"])
def test_same_bits_twice_on_a_gpu(monkeypatch, most):
    """And those of the CPU, but for rounding."""
    monkeypatch.setattr(cross_entropy, "MOST_WHOLE", most)
    tensors, target = problem(2048, 1000, 32, True, torch.float32)
    expected = results(catalogue_cross_entropy_reference, tensors, target % 7)
    own = [tensor.detach().cuda().requires_grad_() for tensor in tensors]
    first, second = (results(catalogue_cross_entropy, own, target.cuda() % 7) for _ in range(2))
    for one, other, plain in zip(first, second, expected):
        assert torch.equal(one, other)
        torch.testing.assert_close(one.cpu(), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("piece", [50, 1400], ids=["items", "rows"])
def test_confident_scores_neither_overflow_nor_vanish(monkeypatch, piece):
    cut(monkeypatch, piece)
    tensors, target = problem(9, 21, 4, False, torch.float32, scale=30.0)
    expected = results(catalogue_cross_entropy_reference, tensors, target)
    actual = results(catalogue_cross_entropy, tensors, target)
    assert expected[0] > 200
    for ours, plain in zip(actual, expected):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_states_in_half_precision(dtype):
    """The loss and the shares in float32: 70,000 equal shares add up to more than the greatest number of float16."""
    (state, weight, _), target = problem(2, 70_000, 3, False, torch.float32, scale=0.01)
    half = state.detach().to(dtype).requires_grad_()
    expected = results(
        catalogue_cross_entropy_reference, [half.detach().float().requires_grad_(), weight, None], target
    )
    actual = results(catalogue_cross_entropy, [half, weight, None], target)
    assert actual[0].dtype == torch.float32 and actual[1].dtype == dtype
    for ours, plain in zip(actual, expected):  # the state's gradient is in half precision, with three digits
        torch.testing.assert_close(ours.float(), plain, rtol=1e-2 if ours.dtype == dtype else 1e-5, atol=1e-5)


def test_without_gradients():
    tensors, target = problem(5, 7, 3, True)
    with torch.no_grad():
        loss = catalogue_cross_entropy(*tensors, target)
    torch.testing.assert_close(loss, catalogue_cross_entropy_reference(*tensors, target))
    assert not loss.requires_grad


def test_scores_of_the_whole_batch_are_never_there(monkeypatch):
    """No tensor that is made on the way has more elements than a piece, a parameter or its gradient."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if torch.is_tensor(result):
                self.elements = max(self.elements, result.untyped_storage().nbytes() // result.element_size())
            return result

    for piece in (2000, 70000):  # by items, by rows
        cut(monkeypatch, piece)
        tensors, target = problem(200, 1000, 4, False)
        with Largest() as largest:
            results(catalogue_cross_entropy, tensors, target)
        assert 1000 * 4 <= largest.elements <= piece + 1000 * 4 < 200 * 1000


def test_mixed_precision_is_the_plain_one():
    tensors, target = problem(5, 7, 3, False, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = catalogue_cross_entropy_reference(*tensors, target)
        assert torch.equal(catalogue_cross_entropy(*tensors, target), expected)
