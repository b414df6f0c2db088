"""An MLP whose inner layer is much wider than its input and output, without a tensor of the inner layer's size.

dropout(GELU(u W_1^T + b_1)) W_2, some rows at a time, so that the inner layer stays in the cache. Autograd would keep
three tensors of that size; here only its random numbers are kept, 16 bits each, and the backward pass recomputes the
rest.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops.dropout import draw, dropout, keep, resolves
from recbole_glintru.ops.first_derivative import first_derivative_only
from recbole_glintru.ops.precision import is_autocast
from recbole_glintru.ops.tracing import is_traced

PIECE = 1 << 18  # elements of the inner layer at a time: 1 MiB in float32
WIDER = 2  # times as wide as its input; a narrower layer costs more to recompute than to keep


def inner_layer_reference(
    u: Tensor, expand: Tensor, bias: Optional[Tensor], reduce: Tensor, p: float, training: bool
) -> Tensor:
    """The vectors of u through the inner layer.

    Args:
        u: `[B, R, K]`.
        expand: W_1 `[I, K]`; bias: b_1 `[I]` or None.
        reduce: W_2, `[I, K']` for all rows, or `[B, I, K']`, one per row.
        p, training: those of the dropout.

    Returns:
        `[B, R, K']`.
    """
    return dropout(F.gelu(F.linear(u, expand, bias)), p, training) @ reduce


def inner_layer(u: Tensor, expand: Tensor, bias: Optional[Tensor], reduce: Tensor, p: float, training: bool) -> Tensor:
    """`inner_layer_reference`; on a CPU in pieces, if the inner layer dominates the memory."""
    is_wide = len(expand) >= WIDER * u.shape[2] and u.shape[:2].numel() * len(expand) > PIECE
    drops = training and p > 0
    plain = u.device.type != "cpu" or is_traced() or is_autocast("cpu") or (drops and not resolves(u, p))
    if plain or not is_wide:
        return inner_layer_reference(u, expand, bias, reduce, p, training)
    draws = draw(torch.Size((*u.shape[:2], len(expand))), u.device) if drops else None
    return _InPieces.apply(u, expand, bias, reduce, draws, p)


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, expand, bias, reduce, draws, p):
        ctx.save_for_backward(u, expand, bias, reduce, draws)
        ctx.p = p
        out = u.new_empty(*u.shape[:2], reduce.shape[-1])
        for piece in _pieces(u, expand):
            inner = _dropped(F.gelu(F.linear(u[piece], expand, bias)), draws, piece, p)
            out[piece] = inner @ _of(reduce, piece)
        return out

    @staticmethod
    @first_derivative_only
    def backward(ctx, grad_out):
        u, expand, bias, reduce, draws = ctx.saved_tensors
        grad_u, grad_expand, grad_reduce = torch.empty_like(u), torch.zeros_like(expand), torch.zeros_like(reduce)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        for piece in _pieces(u, expand):
            before, gradient = F.linear(u[piece], expand, bias), grad_out[piece]
            inner = _dropped(F.gelu(before), draws, piece, ctx.p)
            if reduce.dim() == 3:
                grad_reduce[piece] = inner.mT @ gradient
            else:
                grad_reduce.addmm_(inner.flatten(0, 1).T, gradient.flatten(0, 1))
            grad_inner = _dropped(gradient @ _of(reduce, piece).mT, draws, piece, ctx.p)
            grad_before = torch.ops.aten.gelu_backward(grad_inner, before)
            grad_u[piece] = grad_before @ expand
            grad_expand.addmm_(grad_before.flatten(0, 1).T, u[piece].flatten(0, 1))
            if bias is not None:
                grad_bias += grad_before.sum(dim=(0, 1))
        return grad_u, grad_expand, grad_bias, grad_reduce, None, None


def _pieces(u, expand):
    rows = max(1, PIECE // (u.shape[1] * len(expand)))
    return [slice(start, start + rows) for start in range(0, len(u), rows)]


def _of(reduce, piece):
    return reduce[piece] if reduce.dim() == 3 else reduce


def _dropped(x, draws, piece, p):
    return x if draws is None else keep(x, draws[piece], p)
