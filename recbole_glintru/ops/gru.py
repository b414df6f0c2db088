"""The recurrence of a GRU layer, on histories of different lengths.

PyTorch's GRU, gate for gate: with the row blocks reset, update, candidate of `weight_ih` and `weight_hh`,

    r_t = sigmoid(x_t W_ir + h_{t-1} W_hr),    z_t = sigmoid(x_t W_iz + h_{t-1} W_hz),
    c_t = tanh(x_t W_in + r_t * (h_{t-1} W_hn)),    h_t = (1 - z_t) * c_t + z_t * h_{t-1},    h_{-1} = 0.

`gru_reference` is the plain loop; `gru` has the same signature and is the one to call. It never computes padding.
"""

from typing import NamedTuple, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
        from_input = torch.nn.functional.linear(x[:, t], weight_ih, bias_ih).chunk(3, dim=-1)
        from_state = torch.nn.functional.linear(h, weight_hh, bias_hh).chunk(3, dim=-1)
        r = torch.sigmoid(from_input[0] + from_state[0])
        z = torch.sigmoid(from_input[1] + from_state[1])
        c = torch.tanh(from_input[2] + r * from_state[2])
        h = (1 - z) * c + z * h
        states.append(h * (t < lengths).unsqueeze(-1))
    return torch.stack(states, dim=1)


def gru(
    x: Tensor,
    lengths: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Optional[Tensor] = None,
    bias_hh: Optional[Tensor] = None,
) -> Tensor:
    """The states of one GRU layer; see `gru_reference`. On a GPU this is cuDNN, which does compute the padding."""
    if x.is_cuda:
        return _gru_cudnn(x, weight_ih, weight_hh, bias_ih, bias_hh)
    packing = _pack(lengths, x.shape[1])
    states = _PackedGRU.apply(x[packing.rows, packing.steps], weight_ih, weight_hh, bias_ih, bias_hh, packing.counts)
    padded = states.new_zeros(*x.shape[:2], states.shape[1])
    return padded.index_put((packing.rows, packing.steps), states)


def _gru_cudnn(x, weight_ih, weight_hh, bias_ih, bias_hh):
    biases = [] if bias_ih is None else [bias_ih, bias_hh]
    h = x.new_zeros(1, len(x), weight_hh.shape[1])
    weights = [weight_ih, weight_hh, *biases]
    return torch.gru(x, h, weights, bool(biases), 1, 0.0, torch.is_grad_enabled(), False, True)[0]


class _Packing(NamedTuple):
    """The real steps of a batch, step by step and in each step the longest rows first.

    rows, steps: `[N] int64`, where each packed step stands in the batch.
    counts: for each step how many rows still run; they are the first so many of the step before.
    """

    rows: Tensor
    steps: Tensor
    counts: list[int]


def _pack(lengths: Tensor, length: int) -> _Packing:
    order = torch.argsort(lengths, descending=True, stable=True)
    running = torch.arange(length, device=lengths.device).unsqueeze(1) < lengths[order]  # [L, B]
    steps, ranks = running.nonzero(as_tuple=True)
    counts = running.sum(dim=1)
    return _Packing(order[ranks], steps, counts[counts > 0].tolist())


class _PackedGRU(torch.autograd.Function):
    """x `[N, in]`, packed by `_pack`, to states `[N, d]`.

    One product for the inputs of all steps, one small product a step into buffers made before the loop. The gates are
    kept for the backward pass, which does everything that needs no recursion for all steps at once.
    """

    @staticmethod
    def forward(ctx, x, weight_ih, weight_hh, bias_ih, bias_hh, counts):
        d = weight_hh.shape[1]
        gates = torch.mm(x, weight_ih.T) if bias_ih is None else torch.addmm(bias_ih, x, weight_ih.T)  # r, z, c
        states = x.new_empty(len(x), d)
        recurrent_candidate = x.new_empty(len(x), d)
        product = x.new_empty(counts[0], 3 * d)
        transposed = weight_hh.T.contiguous()
        h = x.new_zeros(counts[0], d)
        start = 0
        for count in counts:
            stop = start + count
            gate, from_state, h = gates[start:stop], product[:count], h[:count]
            if bias_hh is None:
                torch.mm(h, transposed, out=from_state)
            else:
                torch.addmm(bias_hh, h, transposed, out=from_state)
            reset_update = gate[:, : 2 * d].add_(from_state[:, : 2 * d]).sigmoid_()
            recurrent = recurrent_candidate[start:stop].copy_(from_state[:, 2 * d :])
            candidate = gate[:, 2 * d :].addcmul_(reset_update[:, :d], recurrent).tanh_()
            h = torch.lerp(candidate, h, reset_update[:, d:], out=states[start:stop])
            start = stop
        ctx.counts = counts
        ctx.has_bias = bias_ih is not None
        ctx.save_for_backward(x, weight_ih, weight_hh, gates, recurrent_candidate, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_states):
        x, weight_ih, weight_hh, gates, recurrent_candidate, states = ctx.saved_tensors
        counts, d = ctx.counts, weight_hh.shape[1]
        r, z, c = gates[:, :d], gates[:, d : 2 * d], gates[:, 2 * d :]
        before = states.new_zeros(states.shape)  # h_{t-1} of each packed step
        start, previous = counts[0], 0
        for count, count_before in zip(counts[1:], counts):
            before[start : start + count] = states[previous : previous + count]
            start, previous = start + count, previous + count_before

        # d(pre-activation) / d(h_t), without the recursion: candidate, update, and reset given the candidate's.
        to_candidate = (1 - z).mul_(1 - c * c)
        to_update = (before - c).mul_(z).mul_(1 - z)
        to_reset = (1 - r).mul_(r).mul_(recurrent_candidate)
        grad_gates = torch.empty_like(gates)  # of the recurrent pre-activations
        grad_candidate = torch.empty_like(states)
        grad_h = states.new_zeros(counts[0], d)  # from the later steps
        stop = len(states)
        for count in reversed(counts):
            start = stop - count
            total = grad_states[start:stop] + grad_h[:count]
            candidate = torch.mul(total, to_candidate[start:stop], out=grad_candidate[start:stop])
            gate = grad_gates[start:stop]
            torch.mul(candidate, to_reset[start:stop], out=gate[:, :d])
            torch.mul(total, to_update[start:stop], out=gate[:, d : 2 * d])
            torch.mul(candidate, r[start:stop], out=gate[:, 2 * d :])
            torch.addmm(total.mul_(z[start:stop]), gate, weight_hh, out=grad_h[:count])
            stop = start

        grad_weight_hh = grad_gates.T @ before
        grad_bias_hh = grad_gates.sum(dim=0) if ctx.has_bias else None
        grad_gates[:, 2 * d :] = grad_candidate  # now of the input pre-activations
        grad_bias_ih = grad_gates.sum(dim=0) if ctx.has_bias else None
        return grad_gates @ weight_ih, grad_gates.T @ x, grad_weight_hh, grad_bias_ih, grad_bias_hh, None
