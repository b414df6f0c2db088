"""The recurrence of a GRU layer, on histories of different lengths.

PyTorch's GRU, gate for gate: with the row blocks reset, update, candidate of `weight_ih` and `weight_hh`,

    r_t = sigmoid(x_t W_ir + h_{t-1} W_hr),    z_t = sigmoid(x_t W_iz + h_{t-1} W_hz),
    c_t = tanh(x_t W_in + r_t * (h_{t-1} W_hn)),    h_t = (1 - z_t) * c_t + z_t * h_{t-1},    h_{-1} = 0.

`gru_reference` is the plain loop; `packed_gru` computes the same without the padding.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_glintru.ops.layouts import blocks

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


def gru_reference(
    x: Tensor,
    lengths: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Optional[Tensor] = None,
    bias_hh: Optional[Tensor] = None,
) -> Tensor:
    """The states of one GRU layer, step by step.

    Args:
        x: `[B, L, in]`.
        lengths: `[B] int64`, the number of real steps of each row, at least 1.
        weight_ih, weight_hh: `[3d, in]`, `[3d, d]`; bias_ih, bias_hh: `[3d]` or None.

    Returns:
        `[B, L, d]`, zero behind a row's length.
    """
    h = x.new_zeros(len(x), weight_hh.shape[1])
    states = []
    for t in range(x.shape[1]):
        from_input = F.linear(x[:, t], weight_ih, bias_ih).chunk(3, dim=-1)
        from_state = F.linear(h, weight_hh, bias_hh).chunk(3, dim=-1)
        r = torch.sigmoid(from_input[0] + from_state[0])
        z = torch.sigmoid(from_input[1] + from_state[1])
        c = torch.tanh(from_input[2] + r * from_state[2])
        h = (1 - z) * c + z * h
        states.append(h * (t < lengths).unsqueeze(-1))
    return torch.stack(states, dim=1)


def packed_gru(
    x: Tensor,
    counts: list[int],
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Optional[Tensor] = None,
    bias_hh: Optional[Tensor] = None,
) -> Tensor:
    """The states of one GRU layer in the layout `layouts.Packed`, whose `counts` these are: `[N, in]` -> `[N, d]`."""
    return _PackedGRU.apply(x, weight_ih, weight_hh, bias_ih, bias_hh, counts)


class _PackedGRU(torch.autograd.Function):
    """x `[N, in]`, packed, to states `[N, d]`.

    One product for the inputs of all steps; then each step adds its own product where the input's stands, in place.
    The backward pass, which touches each block of memory once while it is in the cache, turns what the forward pass
    has kept into gradients, in place: new memory costs as much time as the arithmetic on it.
    """

    @staticmethod
    def forward(ctx, x, weight_ih, weight_hh, bias_ih, bias_hh, counts):
        states, ctx.kept = _run(x, weight_ih, weight_hh, bias_ih, bias_hh, counts)
        ctx.counts = counts
        ctx.save_for_backward(x, weight_ih, weight_hh, bias_ih, bias_hh, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_states):
        x, weight_ih, weight_hh, bias_ih, bias_hh, states = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None
        if kept is None:  # a second pass through a retained graph
            _, kept = _run(x, weight_ih, weight_hh, bias_ih, bias_hh, ctx.counts)
        before = _states_before(states, ctx.counts)
        grad_gates, grad_candidate, grad_recurrent = _into_gradients(kept, before, grad_states, weight_hh, ctx.counts)

        d = weight_hh.shape[1]
        grad_x = (grad_gates @ weight_ih[: 2 * d]).addmm_(grad_candidate, weight_ih[2 * d :])
        grad_weight_ih = torch.cat([grad_gates.T @ x, grad_candidate.T @ x])
        grad_weight_hh = torch.cat([grad_gates.T @ before, grad_recurrent.T @ before])
        grad_bias_ih = grad_bias_hh = None
        if bias_ih is not None:
            of_gates = grad_gates.sum(dim=0)
            grad_bias_ih = torch.cat([of_gates, grad_candidate.sum(dim=0)])
            grad_bias_hh = torch.cat([of_gates, grad_recurrent.sum(dim=0)])
        return grad_x, grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh, None


def _run(x, weight_ih, weight_hh, bias_ih, bias_hh, counts):
    """The states `[N, d]`, and what the gradients need besides: r and z `[N, 2d]`, c `[N, d]`, h W_hn `[N, d]`."""
    d = weight_hh.shape[1]
    has_bias = bias_ih is not None
    reset_update = F.linear(x, weight_ih[: 2 * d], bias_ih[: 2 * d] + bias_hh[: 2 * d] if has_bias else None)
    candidate = F.linear(x, weight_ih[2 * d :], bias_ih[2 * d :] if has_bias else None)
    recurrent = x.new_empty(len(x), d)
    states = x.new_empty(len(x), d)
    to_reset_update = weight_hh[: 2 * d].T.contiguous()
    to_recurrent = weight_hh[2 * d :].T.contiguous()
    h = x.new_zeros(counts[0], d)
    for step in blocks(counts):
        h = h[: step.stop - step.start]
        gates = reset_update[step].addmm_(h, to_reset_update).sigmoid_()
        if has_bias:
            torch.addmm(bias_hh[2 * d :], h, to_recurrent, out=recurrent[step])
        else:
            torch.mm(h, to_recurrent, out=recurrent[step])
        c = candidate[step].addcmul_(gates[:, :d], recurrent[step]).tanh_()
        h = torch.lerp(c, h, gates[:, d:], out=states[step])
    return states, (reset_update, candidate, recurrent)


def _states_before(states, counts):
    """h_{t-1} where `states` has h_t."""
    before = torch.empty_like(states)
    before[: counts[0]] = 0
    steps = blocks(counts)
    for earlier, step in zip(steps, steps[1:]):
        before[step] = states[earlier][: step.stop - step.start]
    return before


def _into_gradients(kept, before, grad_states, weight_hh, counts):
    """Turn r and z, c, h W_hn into the gradients of the sigmoids' arguments, of the tanh's argument and of h W_hn."""
    reset_update, candidate, recurrent = kept
    d = weight_hh.shape[1]
    grad_h = grad_states.new_zeros(counts[0], d)  # from the later steps
    total, kept_part, scratch = (torch.empty_like(grad_h) for _ in range(3))
    for step in reversed(blocks(counts)):
        rows = step.stop - step.start
        gates, c, hidden = reset_update[step], candidate[step], recurrent[step]
        r, z = gates[:, :d], gates[:, d:]
        grad, buffer = total[:rows], scratch[:rows]
        torch.add(grad_states[step], grad_h[:rows], out=grad)
        torch.sub(before[step], c, out=buffer).mul_(grad)
        past = torch.mul(grad, z, out=kept_part[:rows])
        _sigmoid_backward(buffer, z, grad_input=z)
        _tanh_backward(grad.sub_(past), c, grad_input=c)
        torch.mul(c, hidden, out=buffer)
        torch.mul(c, r, out=hidden)
        _sigmoid_backward(buffer, r, grad_input=r)
        torch.addmm(past, gates, weight_hh[: 2 * d], out=grad_h[:rows]).addmm_(hidden, weight_hh[2 * d :])
    return reset_update, candidate, recurrent
