"""A linear map whose transpose is as fast as itself, where autograd's own gradient of it would not be."""

from typing import Callable

import torch
from torch import Tensor

from recbole_glintru.ops.first_derivative import first_derivative_only


def linear_map(x: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Tensor:
    """`there(x)`, of which `back` is the transpose: it takes the gradient of the result to that of x."""
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
