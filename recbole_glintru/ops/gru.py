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
    The gates are kept for the backward pass, which touches each block of memory once, while it is in the cache.
    """

    @staticmethod
    def forward(ctx, x, weight_ih, weight_hh, bias_ih, bias_hh, counts):
        d = weight_hh.shape[1]
        has_bias = bias_ih is not None
        reset_update = F.linear(x, weight_ih[: 2 * d], bias_ih[: 2 * d] + bias_hh[: 2 * d] if has_bias else None)
        candidate = F.linear(x, weight_ih[2 * d :], bias_ih[2 * d :] if has_bias else None)
        recurrent = x.new_empty(len(x), d)  # h W_hn
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
        ctx.counts, ctx.has_bias = counts, has_bias
        ctx.save_for_backward(x, weight_ih, weight_hh, reset_update, candidate, recurrent, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_states):
        x, weight_ih, weight_hh, reset_update, candidate, recurrent, states = ctx.saved_tensors
        d, steps = weight_hh.shape[1], blocks(ctx.counts)
        before = states.new_zeros(states.shape)  # h_{t-1}
        for earlier, step in zip(steps, steps[1:]):
            before[step] = states[earlier][: step.stop - step.start]

        grad_hidden = states.new_empty(len(states), 3 * d)  # of h W_hr, h W_hz and h W_hn
        grad_candidate = torch.empty_like(states)  # of the candidate's argument
        grad_h = states.new_zeros(ctx.counts[0], d)  # from the later steps
        total, kept, scratch = (torch.empty_like(grad_h) for _ in range(3))
        for step in reversed(steps):
            rows = step.stop - step.start
            r, z, c = reset_update[step, :d], reset_update[step, d:], candidate[step]
            grad, buffer, hidden = total[:rows], scratch[:rows], grad_hidden[step]
            torch.add(grad_states[step], grad_h[:rows], out=grad)
            torch.sub(before[step], c, out=buffer).mul_(grad)
            _sigmoid_backward(buffer, z, grad_input=hidden[:, d : 2 * d])
            past = torch.mul(grad, z, out=kept[:rows])
            to_candidate = _tanh_backward(grad.sub_(past), c, grad_input=grad_candidate[step])
            torch.mul(to_candidate, r, out=hidden[:, 2 * d :])
            torch.mul(to_candidate, recurrent[step], out=buffer)
            _sigmoid_backward(buffer, r, grad_input=hidden[:, :d])
            torch.addmm(past, hidden, weight_hh, out=grad_h[:rows])

        grad_gates = grad_hidden[:, : 2 * d]
        grad_x = (grad_gates @ weight_ih[: 2 * d]).addmm_(grad_candidate, weight_ih[2 * d :])
        grad_weight_ih = torch.cat([grad_gates.T @ x, grad_candidate.T @ x])
        grad_bias_ih = grad_bias_hh = None
        if ctx.has_bias:
            grad_bias_hh = grad_hidden.sum(dim=0)
            grad_bias_ih = torch.cat([grad_bias_hh[: 2 * d], grad_candidate.sum(dim=0)])
        return grad_x, grad_weight_ih, grad_hidden.T @ before, grad_bias_ih, grad_bias_hh, None
