import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_glintru.ops.histories.distinct_rows import distinct_rows


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(1, 2)), min_size=1, max_size=12))
def test_distinct_rows(rows):
    table = torch.tensor(rows)
    first, inverse = distinct_rows((table[:, :2], table[:, 2]))
    assert len(first) == len(set(rows))
    assert torch.equal(table[first][inverse], table)


def test_distinct_rows_survive_a_hash_collision(monkeypatch):
    """With all hashes equal the rows are compared themselves."""
    monkeypatch.setattr(torch, "randint", lambda low, high, shape, **_: torch.zeros(shape, dtype=torch.int64))
    table = torch.tensor([[1, 2], [3, 4], [1, 2], [5, 6]])
    first, inverse = distinct_rows((table, torch.tensor([2, 2, 2, 2])))
    assert len(first) == 3 and torch.equal(table[first][inverse], table)
