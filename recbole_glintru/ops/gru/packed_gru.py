"""The GRU of `reference.py` over packed histories (`layouts/packed.py`): the same numbers without the padding."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops.first_derivative import first_derivative_only

# Up to this size, the gates of a layer, four numbers per position and channel, are kept for the backward pass. Larger
# ones are recomputed from the states, which takes 1.5 times as long: 197 against 135 ms at ML-1M's shape, where they
# take 62 MB.
LARGEST_KEPT = 2**30  # bytes

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


def packed_gru(
    x: Tensor,
    counts: list[int],
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Optional[Tensor] = None,
    bias_hh: Optional[Tensor] = None,
) -> Tensor:
    """The states of one GRU layer in the layout `Packed`, of which `counts` are: `[N, in]` -> `[N, d]`."""
    return _PackedGRU.apply(x, weight_ih, weight_hh, bias_ih, bias_hh, counts, None)


def packed_gru_at(
    x: Tensor,
    counts: list[int],
    places: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Optional[Tensor] = None,
    bias_hh: Optional[Tensor] = None,
) -> tuple[Tensor, Tensor]:
    """Only the states and inputs at some places; their gradients are never expanded to all places.

    Args:
        x: `[N, in]`, packed.
        counts: the number of histories that have each step.
        places: `[M] int64`, rows of x.
        weight_ih, weight_hh, bias_ih, bias_hh: as in `gru_reference`.

    Returns:
        The states `[M, d]` and the inputs `[M, in]`.
    """
    return _PackedGRU.apply(x, weight_ih, weight_hh, bias_ih, bias_hh, counts, places)


class _PackedGRU(torch.autograd.Function):
    """x `[N, in]`, packed, -> states `[N, d]`, or states and inputs at `places` `[M]`.

    One product computes the inputs' part for all steps; each step then adds its own product to that, in place. The
    backward pass touches each block of memory once, while it is in the cache. It overwrites the gates that the forward
    pass has kept with their gradients, since new memory costs as much time as the arithmetic on it. Gates that are
    missing, because of their size or because an earlier backward pass has overwritten them, are recomputed.
    """

    @staticmethod
    def forward(ctx, x, weight_ih, weight_hh, bias_ih, bias_hh, counts, places):
        states, *gates = _run(x, weight_ih, weight_hh, bias_ih, bias_hh, counts)
        ctx.gates = gates if sum(part.numel() * part.element_size() for part in gates) <= LARGEST_KEPT else None
        ctx.counts = counts
        ctx.save_for_backward(x, weight_ih, weight_hh, bias_ih, bias_hh, states, places)
        return states if places is None else (states[places], x[places])

    @staticmethod
    @first_derivative_only
    def backward(ctx, grad_states, grad_inputs=None):
        x, weight_ih, weight_hh, bias_ih, bias_hh, states, places = ctx.saved_tensors
        before = _states_before(states, ctx.counts)
        gates, ctx.gates = ctx.gates, None
        if gates is None:
            gates = _gates_again(x, before, weight_ih, weight_hh, bias_ih, bias_hh)
        arriving = _dense(grad_states, ctx.counts) if places is None else _sparse(grad_states, places, ctx.counts)
        grad_gates, grad_candidate, grad_recurrent = _into_gradients(gates, before, arriving, weight_hh, ctx.counts)

        d = weight_hh.shape[1]
        grad_x = (grad_gates @ weight_ih[: 2 * d]).addmm_(grad_candidate, weight_ih[2 * d :])
        if places is not None:
            grad_x.index_add_(0, places, grad_inputs)
        grad_weight_ih = torch.cat([grad_gates.T @ x, grad_candidate.T @ x])
        grad_weight_hh = torch.cat([grad_gates.T @ before, grad_recurrent.T @ before])
        grad_bias_ih = grad_bias_hh = None
        if bias_ih is not None:
            of_gates = grad_gates.sum(dim=0)
            grad_bias_ih = torch.cat([of_gates, grad_candidate.sum(dim=0)])
            grad_bias_hh = torch.cat([of_gates, grad_recurrent.sum(dim=0)])
        return grad_x, grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh, None, None


def _dense(grad_states, counts):
    """Returns `add`, which adds the incoming gradient to that of one step's states, `[rows, d]`: here at all places."""
    of_steps = grad_states.split(counts)

    def add(grad_h, step):
        grad_h.add_(of_steps[step])

    return add


def _sparse(grad_states, places, counts):
    """The same for gradients that come in only at `places`."""
    places, order = torch.sort(places)
    starts = torch.tensor([0, *counts], device=places.device).cumsum(0)
    arrivals = torch.searchsorted(places, starts).diff().tolist()
    rows = places - starts[torch.searchsorted(starts, places, right=True) - 1]  # rows within their steps
    of_steps = list(zip(rows.split(arrivals), grad_states[order].split(arrivals)))

    def add(grad_h, step):
        grad_h.index_add_(0, *of_steps[step])

    return add


def _run(x, weight_ih, weight_hh, bias_ih, bias_hh, counts):
    """The states `[N, d]`, and what else the gradients need: r and z `[N, 2d]`, c and h W_hn `[N, d]` each."""
    d = weight_hh.shape[1]
    has_bias = bias_ih is not None
    reset_update, candidate = _from_inputs(x, weight_ih, bias_ih, bias_hh)
    recurrent = x.new_empty(len(x), d)
    states = x.new_empty(len(x), d)
    to_reset_update = weight_hh[: 2 * d].T.contiguous()
    to_recurrent = weight_hh[2 * d :].T.contiguous()
    of_steps = (reset_update, reset_update[:, :d], reset_update[:, d:], candidate, recurrent, states)
    h = x.new_zeros(counts[0], d)
    for gates, r, z, c, hidden, state in zip(*(tensor.split(counts) for tensor in of_steps)):
        h = h[: len(gates)]
        gates.addmm_(h, to_reset_update).sigmoid_()
        if has_bias:
            torch.addmm(bias_hh[2 * d :], h, to_recurrent, out=hidden)
        else:
            torch.mm(h, to_recurrent, out=hidden)
        c.addcmul_(r, hidden).tanh_()
        h = torch.lerp(c, h, z, out=state)
    return states, reset_update, candidate, recurrent


def _from_inputs(x, weight_ih, bias_ih, bias_hh):
    """The inputs' part of the gates' arguments, for all steps: `[N, 2d]` for r and z, `[N, d]` for c."""
    both = 2 * (len(weight_ih) // 3)
    if bias_ih is None:
        return F.linear(x, weight_ih[:both]), F.linear(x, weight_ih[both:])
    gates = F.linear(x, weight_ih[:both], bias_ih[:both] + bias_hh[:both])
    return gates, F.linear(x, weight_ih[both:], bias_ih[both:])


def _gates_again(x, before, weight_ih, weight_hh, bias_ih, bias_hh):
    """The gates as `_run` computes them, for all steps at once, since the states before them are known."""
    d = weight_hh.shape[1]
    reset_update, candidate = _from_inputs(x, weight_ih, bias_ih, bias_hh)
    reset_update.addmm_(before, weight_hh[: 2 * d].T).sigmoid_()
    recurrent = F.linear(before, weight_hh[2 * d :], None if bias_hh is None else bias_hh[2 * d :])
    candidate.addcmul_(reset_update[:, :d], recurrent).tanh_()
    return reset_update, candidate, recurrent


def _states_before(states, counts):
    """h_{t-1} at the places where `states` has h_t."""
    before = torch.empty_like(states)
    first, *others = before.split(counts)
    first.zero_()
    for earlier, later in zip(states.split(counts), others):
        later.copy_(earlier[: len(later)])
    return before


def _into_gradients(kept, before, arriving, weight_hh, counts):
    """Overwrite r and z, c, h W_hn with the gradients of the sigmoids' arguments, of the tanh's argument and of h W_hn.

    `arriving(grad_h, step)` adds the incoming gradient of a step's states, the part that is not from later steps.
    """
    reset_update, candidate, recurrent = kept
    d = weight_hh.shape[1]
    grad_h = before.new_zeros(counts[0], d)
    kept_part, scratch = torch.empty_like(grad_h), torch.empty_like(grad_h)
    to_gates, to_recurrent = weight_hh[: 2 * d], weight_hh[2 * d :]
    of_steps = (reset_update, reset_update[:, :d], reset_update[:, d:], candidate, recurrent, before)
    of_steps = [tensor.split(counts) for tensor in of_steps]
    for number, (gates, r, z, c, hidden, earlier) in reversed(list(enumerate(zip(*of_steps)))):
        rows = len(gates)
        grad, buffer = grad_h[:rows], scratch[:rows]
        arriving(grad, number)
        torch.sub(earlier, c, out=buffer).mul_(grad)
        past = torch.mul(grad, z, out=kept_part[:rows])
        _sigmoid_backward(buffer, z, grad_input=z)
        _tanh_backward(grad.sub_(past), c, grad_input=c)
        torch.mul(c, hidden, out=buffer)
        torch.mul(c, r, out=hidden)
        _sigmoid_backward(buffer, r, grad_input=r)
        torch.addmm(past, gates, to_gates, out=grad).addmm_(hidden, to_recurrent)
    return reset_update, candidate, recurrent
