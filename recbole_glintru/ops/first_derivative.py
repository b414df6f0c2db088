"""Operations whose gradients are computed by hand, and have no gradients of their own."""

import functools
from typing import Callable

import torch


def first_derivative_only(backward: Callable) -> Callable:
    """Decorate the `backward` of a `torch.autograd.Function` that refuses second derivatives.

    PyTorch's `once_differentiable` puts an error into the graph, which `torch.autograd.grad` may bypass: the second
    derivative then silently lacks the contribution of this operation. This decorator raises as soon as a graph of the
    gradient is requested.

    Raises:
        RuntimeError: the gradient is computed with `create_graph=True`.
    """

    @functools.wraps(backward)
    def refusing(ctx, *gradients):
        if torch.is_grad_enabled():  # within a backward pass this means create_graph=True
            raise RuntimeError(
                "create_graph=True: second derivatives are not supported by recbole_glintru's operations."
            )
        return backward(ctx, *gradients)

    return refusing
