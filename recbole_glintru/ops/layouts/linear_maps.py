"""A linear map whose transpose is given explicitly, where autograd's own gradient would be slower."""

from typing import Callable

import torch
from torch import Tensor

from recbole_glintru.ops.first_derivative import first_derivative_only


def linear_map(x: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Tensor:
    """`there(x)`; `back` is its transpose, which maps the gradient of the result to that of x."""
    return _LinearMap.apply(x, there, back)


class _LinearMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, there, back):
        ctx.back = back
        return there(x)

    @staticmethod
    @first_derivative_only
    def backward(ctx, grad):
        return ctx.back(grad), None, None
