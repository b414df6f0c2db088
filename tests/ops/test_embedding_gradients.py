import pytest
import torch
from torch import nn

from recbole_glintru.ops import embedding_gradients
from recbole_glintru.ops.embedding_gradients import collected


@pytest.fixture(autouse=True)
def every_table(monkeypatch):
    monkeypatch.setattr(embedding_gradients, "LEAST_ELEMENTS", 0)


def gradient(table, look_ups, inside):
    with collected(table) if inside else torch.enable_grad():
        outputs = [table(items) for items in look_ups]
    loss = sum((output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum() for output in outputs)
    (found,) = torch.autograd.grad(loss + (table.weight**2).sum(), table.parameters())
    return found


@pytest.mark.parametrize("padding_idx", [None, 0])
def test_same_gradient(padding_idx):
    """Of several look-ups, of an item in more than one of them, of padding, and of a use outside the block."""
    table = nn.Embedding(9, 4, padding_idx=padding_idx)
    look_ups = [torch.tensor([[1, 2, 0], [2, 2, 8]]), torch.tensor([2, 0]), torch.tensor([[5]])]
    expected = gradient(table, look_ups, inside=False)
    actual = gradient(table, look_ups, inside=True)
    assert not actual.is_sparse
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_sum_on_a_gpu():
    """It takes rows and values of a sparse gradient: of several look-ups, not yet added."""
    rows = torch.tensor([[3, 0, 3, 8, 3]])
    sparse = torch.sparse_coo_tensor(rows, torch.randn(5, 4), (9, 4), check_invariants=True)
    torch.testing.assert_close(embedding_gradients._sorted_sum(sparse), sparse.to_dense())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("count", [2000, 100_000], ids=["few", "many"])  # PyTorch sorts the many alone
def test_sum_on_this_gpu(count):
    """That of the CPU, but for rounding, and the same bits every time, although many rows are met often."""
    generator = torch.Generator().manual_seed(count)
    rows = torch.randint(0, 300, (1, count), generator=generator) ** 2 // 300
    sparse = torch.sparse_coo_tensor(rows, torch.randn(count, 64, generator=generator), (300, 64))
    first, second = (embedding_gradients._sorted_sum(sparse.cuda()) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first.cpu(), sparse.to_dense(), rtol=1e-4, atol=1e-3)


def test_one_dense_gradient(monkeypatch):
    """Eight look-ups, one gradient of the table's size."""
    table, dense = nn.Embedding(50, 4), []
    backward = embedding_gradients._DenseGradient.backward
    monkeypatch.setattr(
        embedding_gradients._DenseGradient,
        "backward",
        staticmethod(lambda ctx, gradient: dense.append(gradient.is_sparse) or backward(ctx, gradient)),
    )
    with collected(table):
        states = [table(torch.tensor([item])) for item in range(8)]
    torch.cat(states).sum().backward()
    assert dense == [True] and table.weight.grad.sum() == 32


def test_the_table_stays_as_it_is():
    """Inside of the block too: a checkpoint that is written meanwhile, by a hook or another thread, is complete."""
    table, items = nn.Embedding(9, 4), torch.tensor([3])
    parameter, expected = table.weight, table(torch.tensor([3])).detach()
    with pytest.raises(KeyError):
        with collected(table):
            assert table.weight is parameter and list(table.state_dict()) == ["weight"]
            assert [name for name, _ in table.named_parameters()] == ["weight"]
            raise KeyError
    assert table.weight is parameter and "forward" not in vars(table)
    assert torch.equal(table(items), expected)


def test_two_threads_at_one_table():
    """Blocks that overlap, as those of two threads: whichever ends first, look-ups and gradients are right."""
    table, items = nn.Embedding(9, 4), torch.tensor([3, 5])
    first, second = collected(table), collected(table)
    first.__enter__()
    early = table(items)
    second.__enter__()
    first.__exit__(None, None, None)
    late = table(items)
    second.__exit__(None, None, None)
    assert torch.equal(early, late)
    early.sum().backward()
    late.sum().backward()
    assert table.weight.grad[items].eq(2).all() and table.weight.grad.sum() == 16


def test_nothing_is_collected_without_gradients():
    table = nn.Embedding(9, 4)
    with torch.no_grad(), collected(table):
        assert "forward" not in vars(table)


def test_unusual_tables_are_left_alone():
    for table in (nn.Embedding(9, 4, max_norm=1.0), nn.Embedding(9, 4, scale_grad_by_freq=True)):
        with collected(table):
            assert "forward" not in vars(table)


def test_a_forward_of_the_users_stays():
    table = nn.Embedding(9, 4)
    table.forward = own = lambda items: items
    with collected(table):
        assert table.forward is own
    assert table.forward is own
