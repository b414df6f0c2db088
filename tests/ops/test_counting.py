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
