import pytest
import torch

from recbole_glintru.ops.counting import CountMultiplyAdds


def test_products_are_counted():
    x, weight, bias = torch.ones(5, 3), torch.ones(4, 3), torch.ones(4)
    with CountMultiplyAdds() as counter:
        x @ weight.T
        assert counter.total == 5 * 3 * 4
        torch.nn.functional.linear(x, weight, bias)
        torch.mm(x, weight.T, out=torch.empty(5, 4))
        torch.addmm(bias, x, weight.T, out=torch.empty(5, 4))
        assert counter.total == 4 * 5 * 3 * 4
        torch.einsum("bij,bjk->bik", torch.ones(2, 3, 4), torch.ones(2, 4, 5))
        assert counter.total == 4 * 5 * 3 * 4 + 2 * 3 * 4 * 5
    with CountMultiplyAdds() as counter:
        torch.nn.functional.conv1d(torch.ones(1, 6, 9), torch.ones(6, 1, 3), groups=6)
        assert counter.total == 6 * 7 * 3
        x + x
        assert counter.total == 6 * 7 * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_is_counted(is_causal, dtype):
    """Two products for each pair of positions, whichever of PyTorch's implementations computes them."""
    query, key, value = (torch.ones(2, 3, length, 8, dtype=dtype) for length in (5, 7, 7))
    with torch.no_grad(), CountMultiplyAdds() as counter:
        torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
    assert counter.total == 2 * 3 * 5 * 7 * (8 + 8)
