import torch

from recbole_glintru.ops.histories.positions import at_position, trim, valid_positions


def test_trim():
    item_seq = torch.tensor([[5, 6, 7, 0, 0], [5, 0, 0, 0, 0]])
    assert trim(item_seq, torch.tensor([3, 1])).shape == (2, 3)


def test_valid_positions():
    expected = torch.tensor([[True, False, False], [True, True, True]])
    assert torch.equal(valid_positions(torch.tensor([1, 3]), 3), expected)


def test_at_position():
    x = torch.arange(12).view(2, 3, 2)
    assert at_position(x, torch.tensor([2, 0])).tolist() == [[4, 5], [6, 7]]
