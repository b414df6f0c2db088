"""The recurrence of a selective scan on a CPU, compiled by Numba (`pip install 'recbole-glintru[cpu]'`).

It computes what `recomputed_scan` computes, in the same way: one state in `CHUNK` is kept, and the backward pass
computes the others again. There each arithmetic operation is a pass over the states; here all of a step is done while
its numbers are in registers. As for the kernels of a GPU, the first use compares it with the reference.
"""

import functools
import logging
import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_glintru.ops import host_lengths, self_check
from recbole_glintru.ops.tracing import is_traced

LANES = 32  # channels at a time: four vectors of eight; faster than 16, and 64
CHUNK = 16  # steps between two states that are kept
NUMBERS_OF_A_THREAD = 2**19  # half a millisecond
LOG2_E = 1 / math.log(2)
TOLERANCE = 1e-4  # of the largest element; both sides are float32


def numba_scan(
    step: Tensor, drive: Tensor, A: Tensor, B: Tensor, C: Optional[Tensor], lengths: Optional[Tensor]
) -> tuple[Optional[Tensor], Tensor]:
    """The outputs and the last state; arguments and results are those of `recomputed_scan`, all on a CPU, in float32.

    A product of a step and A that is greater than 88, where an exponential would overflow, gives no meaningful number.

    Raises:
        ValueError: a shape does not fit the others, or a length is more than L.
    """
    tensors = (step, drive, A, B) if C is None else (step, drive, A, B, C)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    _check_shapes(step, drive, A, B, C, lengths)
    channels = len(A)
    y, state = _NumbaScan.apply(_in_blocks(step), _in_blocks(drive), _in_blocks(A.t()), B, C, lengths, keep)
    y = None if y is None else y.flatten(-2)[..., :channels]
    return y, state.flatten(-2)[..., :channels].transpose(1, 2)


def _check_shapes(step, drive, A, B, C, lengths):
    """The loops know no bounds: what PyTorch refuses they would read and write beside the memory of the tensors."""
    (rows, steps, channels), states = step.shape, A.shape[-1]
    shapes = {"drive": (rows, steps, channels), "A": (channels, states), "B": (rows, steps, states)}
    shapes.update(C=shapes["B"], lengths=(rows,))
    for name, tensor in {"drive": drive, "A": A, "B": B, "C": C, "lengths": lengths}.items():
        if tensor is not None and tuple(tensor.shape) != shapes[name]:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)} in place of {shapes[name]}")


def _in_blocks(x: Tensor) -> Tensor:
    """`[..., D]` -> `[..., blocks, LANES]`, the channels that are missing zero."""
    missing = -x.shape[-1] % LANES
    return (F.pad(x, (0, missing)) if missing else x).contiguous().unflatten(-1, (-1, LANES))


def is_usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether it runs on `device` and agrees with the reference; a warning says so if it does not.

    Args:
        dtype: of what is scanned; half precision is computed in float32.
    """
    return _objection(device, dtype) is None


def require(device: torch.device, dtype: torch.dtype) -> None:
    """Raise a RuntimeError that says why it cannot be used, if it cannot; arguments as of `is_usable`."""
    objection = _objection(device, dtype)
    if objection is not None:
        raise RuntimeError(f"scan_backend='numba': {objection} 'auto' and 'torch' do without it.")


def _objection(device: torch.device, dtype: torch.dtype) -> Optional[str]:
    if device.type != "cpu":
        return f"Numba's loops run on a CPU, and not on {device}."
    if is_traced():
        return "Numba's loops cannot be recorded by torch.compile, torch.export or torch.jit.trace."
    if dtype == torch.float64:
        return "Numba's loops have no float64."
    return _failure()


@functools.cache
def _failure() -> Optional[str]:
    """What speaks against the loops, or None; found out once a process, which compiles them."""
    try:
        import numba  # noqa: F401
    except Exception as error:
        return f"Numba is not installed here, or does not load ({error})."
    logging.getLogger("numba").setLevel(logging.WARNING)  # RecBole's `state: DEBUG` is everybody's: 30,000 lines
    try:
        # In a thread of its own, where the caller's inference mode, checkpointing, default device do not reach.
        with ThreadPoolExecutor(1) as thread:
            difference = thread.submit(_differs).result()
    except Exception as error:
        objection = f"Numba's loops fail here ({type(error).__name__}: {error})."
    else:
        if difference is None:
            return None
        objection = f"Numba's loops do not compute what they should here: {difference}."
    warnings.warn(f"Selective scan: {objection} Another implementation is used instead.", stacklevel=5)
    return objection


def _differs() -> Optional[str]:
    from recbole_glintru.ops.selective_scan import reference_scan

    rows, channels, states, length = 2, 40, 3, 18  # the last block of channels and the last chunk are not full
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float32)

    tensors = {
        "step": draw(rows, length, channels).exp(),
        "drive": draw(rows, length, channels),
        "A": -draw(channels, states).exp(),
        "B": draw(rows, length, states),
        "C": draw(rows, length, states),
    }

    def together(scan):
        return lambda **tensors: torch.cat([result.flatten() for result in scan(**tensors, lengths=None)])

    device = torch.device("cpu")
    return self_check.difference(together(numba_scan), together(reference_scan), tensors, device, TOLERANCE)


class _NumbaScan(torch.autograd.Function):
    """For channels in blocks: `[..., D]` is `[..., D / LANES, LANES]` in all arguments and results."""

    @staticmethod
    def forward(ctx, step, drive, A, B, C, lengths, keep):
        from recbole_glintru.ops.numba_scan_kernels import forward

        rows, length, *channels = step.shape
        reads = C is not None
        B = B.contiguous()
        C = C.contiguous() if reads else torch.zeros_like(B)
        y = _zero_behind(lengths, step) if reads else step.new_empty(0, 0, 0, 0)
        last = step.new_empty(rows, len(A), *channels)
        kept = step.new_empty(rows, -(-length // CHUNK) if keep else 0, *A.shape)
        shares = _Shares(lengths, rows, length, A.numel())
        shares.run(forward, keep, reads, step, drive, A * LOG2_E, B, C, y, last, kept)
        ctx.lengths, ctx.shares, ctx.reads = lengths, shares, reads
        ctx.save_for_backward(step, drive, A, B, C, kept)
        ctx.set_materialize_grads(False)
        return y if reads else None, last

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_last):
        from recbole_glintru.ops.numba_scan_kernels import backward

        step, drive, A, B, C, kept = ctx.saved_tensors
        reads = ctx.reads and grad_y is not None
        grad_y = grad_y.contiguous() if reads else step.new_empty(0, 0, 0, 0)
        grad_last = torch.zeros_like(kept[:, 0]) if grad_last is None else grad_last.contiguous()
        grad_step, grad_drive = _zero_behind(ctx.lengths, step), _zero_behind(ctx.lengths, drive)
        grad_A, grad_B, grad_C = A.new_zeros(ctx.shares.workers, *A.shape), torch.zeros_like(B), torch.zeros_like(C)
        ctx.shares.run(
            backward, reads, step, drive, A, A * LOG2_E, B, C, kept, grad_y, grad_last,
            grad_step, grad_drive, grad_A, grad_B, grad_C,
        )  # fmt: skip
        return grad_step, grad_drive, grad_A.sum(dim=0), grad_B, grad_C if ctx.reads else None, None, None


def _zero_behind(lengths: Optional[Tensor], like: Tensor) -> Tensor:
    """Memory for what is written up to the lengths, and is zero behind them."""
    return torch.empty_like(like) if lengths is None else torch.zeros_like(like)


class _Shares:
    """The rows in shares of like work, one for each of PyTorch's threads if it is work enough.

    Args:
        lengths: `[rows] int64`; None for `length`.
        rows: B.
        length: L.
        numbers: how many a step of a row has to compute.
    """

    def __init__(self, lengths: Optional[Tensor], rows: int, length: int, numbers: int):
        self.lengths = np.full(rows, length) if lengths is None else host_lengths.of(lengths).astype(np.int64)
        if rows and self.lengths.max() > length:
            raise ValueError(f"a length of {self.lengths.max()}, with {length} steps")
        self.order = np.argsort(-self.lengths, kind="stable")
        worth_a_thread = int(self.lengths.sum()) * numbers // NUMBERS_OF_A_THREAD
        self.workers = max(1, min(torch.get_num_threads(), rows, worth_a_thread))

    def run(self, kernel, *arguments):
        """Call a kernel once for each share, side by side; of the arguments, tensors become arrays."""
        shared = [item.detach().numpy() if isinstance(item, Tensor) else item for item in arguments]

        def work(worker):
            kernel(worker, self.workers, self.order, self.lengths, *shared)

        if self.workers == 1:
            work(0)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(work, range(self.workers)))  # which raises what a worker has raised
