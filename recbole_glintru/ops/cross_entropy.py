"""Softmax cross-entropy over all items, without a tensor of the size batch times catalogue.

The forward pass already computes the gradients, piece by piece: the scores of a piece of the batch, or of the
catalogue, are turned into its share of the gradients while they are in the cache. This is possible because the loss is
a scalar, whose own gradient is only a factor, applied in the backward pass.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops.first_derivative import first_derivative_only
from recbole_glintru.ops.precision import at_least_float32, is_autocast
from recbole_glintru.ops.tracing import is_traced

PIECE = 1 << 20  # scores at a time on a CPU: 4 MiB in float32 ...
LARGEST_PIECE = 1 << 23  # ... or up to this many, if `FEWEST_ROWS` rows have more than `PIECE`
FEWEST_ROWS = 64  # the fewest rows for which a product still runs at full speed
MOST_WHOLE = 1 << 26  # scores that may be in a GPU's memory at once: as one tensor, or as one piece


def catalogue_cross_entropy_reference(state: Tensor, weight: Tensor, bias: Optional[Tensor], target: Tensor) -> Tensor:
    """The mean of -log softmax(state weight^T + bias)[target].

    Args:
        state: `[B, d]`.
        weight: `[V, d]`, the items; bias: `[V]` or None.
        target: `[B] int64`.

    Returns:
        A scalar.

    Raises:
        IndexError, RuntimeError: on a CPU, a target is not one of the V items. On a GPU an assertion fails instead.
    """
    return F.cross_entropy(F.linear(state, weight, bias), target)


def catalogue_cross_entropy(state: Tensor, weight: Tensor, bias: Optional[Tensor], target: Tensor) -> Tensor:
    """`catalogue_cross_entropy_reference`, in pieces where that is faster or saves memory.

    On a CPU always: a whole tensor of scores does not stay in the cache, and its memory is allocated anew at every
    step. On other devices, and in mixed precision, above `MOST_WHOLE` scores. Pieces are computed in float32 or better:
    from 65,504 items on, the sum of their shares exceeds the range of float16.
    """
    plain = state.device.type != "cpu" or is_autocast("cpu")
    if is_traced() or len(state) == 0 or (plain and len(state) * len(weight) <= MOST_WHOLE):
        return catalogue_cross_entropy_reference(state, weight, bias, target)
    if target.device.type == "cpu" and target.numel() and int(target.min()) < 0:
        raise IndexError(f"Target {int(target.min())} is out of bounds: there are {len(weight)} items.")
    state = at_least_float32(state)
    weight, bias = weight.to(state.dtype), None if bias is None else bias.to(state.dtype)
    needed = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (state, weight, bias))
    return _InPieces.apply(state, weight, bias, target, needed)


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx, state, weight, bias, target, needed):
        with torch.autocast(device_type=state.device.type, enabled=False):
            scores = _scores_at_a_time(state, weight)
            function = _by_rows if len(weight) * FEWEST_ROWS <= scores else _by_items
            losses, *gradients = function(state, weight, bias, target, needed, scores)
        ctx.save_for_backward(*gradients)
        return losses.mean()

    @staticmethod
    @first_derivative_only
    def backward(ctx, grad_loss):
        grad_state, grad_weight, grad_bias = ctx.saved_tensors
        factor = grad_loss / len(grad_state)
        grad_bias = None if grad_bias is None else grad_bias * factor
        return grad_state * factor, grad_weight * factor, grad_bias, None, None


def _scores_at_a_time(state, weight):
    if state.device.type != "cpu":
        return MOST_WHOLE
    fewest = FEWEST_ROWS * len(weight)
    return fewest if PIECE < fewest <= LARGEST_PIECE else PIECE


def _adds_in_order(x):
    """Whether `index_add_` adds to one element in the same order every time; on a GPU it does not."""
    return x.device.type == "cpu"


def _gradients(state, weight, bias, needed):
    """Zeros, in which the gradients of the sum of the losses are accumulated."""
    if not needed:
        return None, None, None
    return torch.zeros_like(state), torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)


def _scores(state, weight, bias, out):
    return torch.mm(state, weight.T, out=out) if bias is None else torch.addmm(bias, state, weight.T, out=out)


def _by_rows(state, weight, bias, target, needed, most):
    """All items for some rows at a time: three products, as many as without pieces."""
    gradients = grad_state, grad_weight, grad_bias = _gradients(state, weight, bias, needed)
    losses = state.new_empty(len(state))
    rows = min(len(state), most // len(weight))
    buffer = state.new_empty(rows, len(weight))
    for start in range(0, len(state), rows):
        piece = slice(start, start + rows)
        aim = target[piece].unsqueeze(1)
        scores = _scores(state[piece], weight, bias, buffer[: len(aim)])
        greatest, hit = scores.amax(dim=1), scores.gather(1, aim).squeeze(1)
        probabilities = torch.softmax(scores, dim=1, out=scores)
        # The greatest probability is 1/sum(exp(score - greatest)), at least 1/V: its logarithm loses no precision.
        losses[piece] = greatest - probabilities.amax(dim=1).log() - hit
        if needed:
            probabilities.scatter_add_(1, aim, probabilities.new_full(aim.shape, -1))
            torch.mm(probabilities, weight, out=grad_state[piece])
            grad_weight.addmm_(probabilities.T, state[piece])
            if bias is not None:
                grad_bias += probabilities.sum(dim=0)
    return losses, *gradients


def _by_items(state, weight, bias, target, needed, most):
    """Some items for all rows at a time; scores are computed twice, as a share depends on the scores of all items."""
    gradients = grad_state, grad_weight, grad_bias = _gradients(state, weight, bias, needed)
    items = max(1, most // len(state))
    buffer = state.new_empty(len(state), min(items, len(weight)))

    def pieces():
        for start in range(0, len(weight), items):
            piece = slice(start, min(start + items, len(weight)))
            own = None if bias is None else bias[piece]
            yield piece, _scores(state, weight[piece], own, buffer[:, : piece.stop - start].contiguous())

    # Kept apart: exp(score - greatest) / total keeps digits that exp(score - logsumexp) loses if scores are large.
    greatest, total = state.new_full((len(state), 1), -torch.inf), state.new_zeros(len(state), 1)
    for _, scores in pieces():
        before, greatest = greatest, torch.maximum(greatest, scores.amax(dim=1, keepdim=True))
        total = total * (before - greatest).exp() + scores.sub_(greatest).exp_().sum(dim=1, keepdim=True)
    hit = (state * weight[target]).sum(dim=1) + (0 if bias is None else bias[target])
    in_order = _adds_in_order(state)
    if needed:
        for piece, scores in pieces():
            shares = scores.sub_(greatest).exp_().div_(total)
            if not in_order:
                aim = (target - piece.start).unsqueeze(1)
                inside = (aim >= 0) & (aim < shares.shape[1])
                shares.scatter_add_(1, aim * inside, -inside.to(shares.dtype))  # one element per row
            grad_state.addmm_(shares, weight[piece])
            torch.mm(shares.T, state, out=grad_weight[piece])
            if bias is not None:
                torch.sum(shares, dim=0, out=grad_bias[piece])
    if needed and in_order:
        grad_state -= weight[target]
        grad_weight.index_add_(0, target, state, alpha=-1)
        if bias is not None:
            grad_bias.index_add_(0, target, torch.ones_like(hit), alpha=-1)
    return (greatest + total.log()).squeeze(1) - hit, *gradients
