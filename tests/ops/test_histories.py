import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_glintru.ops import histories


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(1, 2)), min_size=1, max_size=12))
def test_distinct_rows(rows):
    table = torch.tensor(rows)
    first, inverse = histories.distinct_rows((table[:, :2], table[:, 2]))
    assert len(first) == len(set(rows))
    assert torch.equal(table[first][inverse], table)


def test_distinct_rows_survive_a_hash_collision(monkeypatch):
    """With all hashes equal the rows are compared themselves."""
    monkeypatch.setattr(torch, "randint", lambda low, high, shape, **_: torch.zeros(shape, dtype=torch.int64))
    table = torch.tensor([[1, 2], [3, 4], [1, 2], [5, 6]])
    first, inverse = histories.distinct_rows((table, torch.tensor([2, 2, 2, 2])))
    assert len(first) == 3 and torch.equal(table[first][inverse], table)


def test_trim():
    item_seq = torch.tensor([[5, 6, 7, 0, 0], [5, 0, 0, 0, 0]])
    assert histories.trim(item_seq, torch.tensor([3, 1])).shape == (2, 3)


def test_valid_positions():
    expected = torch.tensor([[True, False, False], [True, True, True]])
    assert torch.equal(histories.valid_positions(torch.tensor([1, 3]), 3), expected)


def test_at_position():
    x = torch.arange(12).view(2, 3, 2)
    assert histories.at_position(x, torch.tensor([2, 0])).tolist() == [[4, 5], [6, 7]]
