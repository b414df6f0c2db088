"""The selective scan on a CPU, compiled by Numba (`pip install 'recbole-glintru[cpu]'`).

It computes the same as `recomputed_scan`, in the same way: one state in `CHUNK` is kept, and the backward pass
recomputes the others. There each arithmetic operation is a pass over the states; here all arithmetic of a step,
including its softplus, is done while its numbers are in registers. `numba_guard.py` decides whether it may be used.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_glintru.ops.first_derivative import first_derivative_only
from recbole_glintru.ops.histories import host_lengths

# The loops assume that both are multiples of 8, and LANES a power of two.
LANES = 32  # channels at a time: four registers of eight; faster than 16 and than 64
CHUNK = 16  # steps between two states that are kept
NUMBERS_OF_A_THREAD = 2**19  # the least work for a thread: half a millisecond
LOG2_E = 1 / math.log(2)


def numba_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Optional[Tensor],
    delta_bias: Optional[Tensor] = None,
    delta_softplus: bool = False,
    lengths: Optional[Tensor] = None,
) -> tuple[Optional[Tensor], Tensor]:
    """The outputs and the last state, in time and memory linear in L; differentiable once, in every tensor.

    Args:
        u, delta: `[B, L, D]`, on a CPU; all computation is in float32.
        A: `[D, N]`.
        B: `[B, L, N]`.
        C: `[B, L, N]`, or None if only the last state is needed.
        delta_bias: `[D]`; None for zero.
        delta_softplus: whether the step is the softplus of delta + delta_bias, or delta + delta_bias itself. Its
            product with A must be at most 88: if an exponential overflows, the result is undefined.
        lengths: `[B] int64`, the number of steps of each row that are computed; None for L.

    Returns:
        outputs `[B, L, D]`, zero after a row's length, or None without C; the last state `[B, D, N]`.

    Raises:
        ValueError: a shape does not fit the others, or a length is more than L.
    """
    if delta_bias is None:
        delta_bias = delta.new_zeros(len(A))
    tensors = (u, delta, A, B, delta_bias) if C is None else (u, delta, A, B, delta_bias, C)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    _check_shapes(u, delta, A, B, C, delta_bias, lengths)
    of_channels = (_whole_vectors(tensor.float()) for tensor in (u, delta, A.t(), delta_bias))
    B, C = B.float(), None if C is None else C.float()
    y, state = _NumbaScan.apply(*of_channels, B, C, delta_softplus, lengths, keep)
    return None if y is None else y[..., : len(A)], state[..., : len(A)].transpose(1, 2)


def _check_shapes(u, delta, A, B, C, delta_bias, lengths):
    """The loops do not check bounds: with wrong shapes they would access memory outside the tensors."""
    (rows, steps, channels), states = u.shape, A.shape[-1]
    shapes = {"delta": (rows, steps, channels), "A": (channels, states), "B": (rows, steps, states)}
    shapes.update(C=shapes["B"], delta_bias=(channels,), lengths=(rows,))
    tensors = {"delta": delta, "A": A, "B": B, "C": C, "delta_bias": delta_bias, "lengths": lengths}
    for name, tensor in tensors.items():
        if tensor is not None and tuple(tensor.shape) != shapes[name]:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)} instead of {shapes[name]}")


def _whole_vectors(x: Tensor) -> Tensor:
    """Pad the channels, which come last, with zeros to a multiple of `LANES`."""
    missing = -x.shape[-1] % LANES
    return (F.pad(x, (0, missing)) if missing else x).contiguous()


class _NumbaScan(torch.autograd.Function):
    """The scan of whole vectors of channels; A is `[N, D]`, and the last state `[B, N, D]`."""

    @staticmethod
    def forward(ctx, u, delta, A, delta_bias, B, C, softplus, lengths, keep):
        from recbole_glintru.ops.scan.numba_kernels import forward

        rows, length, _ = u.shape
        reads = C is not None
        B = B.contiguous()
        C = C.contiguous() if reads else torch.zeros_like(B)
        y = _zero_after(lengths, u) if reads else u.new_empty(0, 0, 0)
        last = u.new_empty(rows, *A.shape)
        kept = u.new_empty(rows, -(-length // CHUNK) if keep else 0, *A.shape)
        shares = _Shares(lengths, rows, length, A.numel())
        shares.run(forward, keep, reads, softplus, delta, delta_bias, u, A * LOG2_E, B, C, y, last, kept)
        ctx.lengths, ctx.shares, ctx.reads, ctx.softplus = lengths, shares, reads, softplus
        ctx.save_for_backward(u, delta, A, delta_bias, B, C, kept)
        ctx.set_materialize_grads(False)
        return y if reads else None, last

    @staticmethod
    @first_derivative_only
    def backward(ctx, grad_y, grad_last):
        from recbole_glintru.ops.scan.numba_kernels import backward

        u, delta, A, delta_bias, B, C, kept = ctx.saved_tensors
        reads = ctx.reads and grad_y is not None
        grad_y = grad_y.contiguous() if reads else u.new_empty(0, 0, 0)
        grad_last = u.new_zeros(len(u), *A.shape) if grad_last is None else grad_last.contiguous()
        grad_u, grad_delta, grad_B, grad_C = (_zero_after(ctx.lengths, tensor) for tensor in (u, delta, B, C))
        grad_A, grad_bias = (tensor.new_zeros(ctx.shares.workers, *tensor.shape) for tensor in (A, delta_bias))
        ctx.shares.run(
            backward, reads, ctx.softplus, delta, delta_bias, u, A, A * LOG2_E, B, C, kept, grad_y, grad_last,
            grad_delta, grad_bias, grad_u, grad_A, grad_B, grad_C,
        )  # fmt: skip
        grad_C = grad_C if ctx.reads else None
        return grad_u, grad_delta, grad_A.sum(dim=0), grad_bias.sum(dim=0), grad_B, grad_C, None, None, None


def _zero_after(lengths: Optional[Tensor], like: Tensor) -> Tensor:
    """Memory for values that are written up to the lengths and are zero after them."""
    return torch.empty_like(like) if lengths is None else torch.zeros_like(like)


class _Shares:
    """The rows in shares of similar work, one for each of PyTorch's threads if there is enough work.

    Args:
        lengths: `[rows] int64`; None for `length`.
        rows: B.
        length: L.
        numbers: the number of values to compute in one step of a row.
    """

    def __init__(self, lengths: Optional[Tensor], rows: int, length: int, numbers: int):
        self.lengths = np.full(rows, length) if lengths is None else host_lengths.of(lengths).astype(np.int64)
        if rows and self.lengths.max() > length:
            raise ValueError(f"a length of {self.lengths.max()} is greater than the number of steps, {length}")
        self.order = np.argsort(-self.lengths, kind="stable")
        worth_a_thread = int(self.lengths.sum()) * numbers // NUMBERS_OF_A_THREAD
        self.workers = max(1, min(torch.get_num_threads(), rows, worth_a_thread))

    def run(self, kernel, *arguments):
        """Call a kernel once for each share, in parallel; tensors among the arguments become arrays."""
        shared = [item.detach().numpy() if isinstance(item, Tensor) else item for item in arguments]

        def work(worker):
            kernel(worker, self.workers, self.order, self.lengths, *shared)

        if self.workers == 1:
            work(0)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(work, range(self.workers)))  # raises the exception of a worker, if any
