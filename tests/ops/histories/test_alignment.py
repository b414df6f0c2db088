import pytest
import torch
from fakes import make_histories

from recbole_glintru.ops.histories.alignment import align_right, widen


def test_align_right():
    item_seq = torch.tensor([[5, 0, 0], [1, 2, 0], [7, 8, 9]])
    expected = torch.tensor([[0, 0, 5], [0, 1, 2], [7, 8, 9]])
    assert torch.equal(align_right(item_seq, torch.tensor([1, 2, 3])), expected)


def test_what_the_padding_holds_does_not_move():
    item_seq, item_seq_len = make_histories((1, 4, 2), padded_to=4)
    garbage = torch.where(torch.arange(4) < item_seq_len.unsqueeze(1), item_seq, 9)
    assert torch.equal(align_right(garbage, item_seq_len), align_right(item_seq, item_seq_len))


def test_widen():
    item_seq = torch.tensor([[5, 6]])
    assert torch.equal(widen(item_seq, 2), item_seq)
    assert torch.equal(widen(item_seq, 4), torch.tensor([[5, 6, 0, 0]]))
    with pytest.raises(ValueError, match="2 positions.*MAX_ITEM_LIST_LENGTH=1"):
        widen(item_seq, 1)
