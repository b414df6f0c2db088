"""The convolution of `reference.py` as two Triton kernels. Imported only if Triton is installed (`triton_guard.py`).

A program computes `ROWS` positions of the output: for each tap it reads the positions at that distance, zeros outside
the history, and multiplies. Neither the k products of a position nor its k neighbours are ever in memory. The gradient
of the input is the same kernel with the taps reversed. The gradients of taps and biases are sums over all positions:
each program sums a share of them for one tap, and one reduction adds the shares. No program adds to what another one
writes, so that the same input gives the same bits.

Factors have the type `dtype` (the tensor cores round float32 to TF32), sums are float32.

The following product with the GRU's `weight_ih` is left to cuBLAS. The selective gate and the backward pass need the
convolution's result itself, so that a single launch for both would only save reading it once, a sixth of the memory
traffic of the two, and would have to hold its tile, the three times wider tile of the product and both weights on the
chip.
"""

import torch
import triton
from torch import Tensor

from recbole_glintru.ops.convolution.triton_kernels import convolve, tap_gradients
from recbole_glintru.ops.first_derivative import first_derivative_only
from recbole_glintru.ops.launching import on_device_of

ROWS = 128  # positions per program
ROWS_SUMMED = 64  # positions at a time in the sums over all positions
WIDEST = 128  # columns per program
CHUNK_BYTES = 128  # of a row of the input, read at a time
PROGRAMS = 264  # for the sums over all positions: two per multiprocessor of an H100


def triton_convolution(x: Tensor, taps: Tensor, biases: Tensor, layout, dtype: torch.dtype) -> Tensor:
    """`convolution_reference`, in any width.

    Args:
        x: `[N, in]`.
        taps: `[k, out, in]`, odd k; biases: `[k, out]`.
        layout: a `Compact` of those N positions.
        dtype: the type of the factors of products and of the result; on a GPU float32 products use TF32.

    Returns:
        `[N, out]` in `dtype`.
    """
    return _TritonConvolution.apply(x, taps, biases, layout, dtype)


class _TritonConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, taps, biases, layout, dtype):
        factors = tuple(tensor.to(dtype).contiguous() for tensor in (x, taps))
        ctx.layout = layout
        ctx.save_for_backward(*factors)
        return _convolved(*factors, biases.contiguous(), layout)

    @staticmethod
    @first_derivative_only
    def backward(ctx, grad_y):
        x, taps = ctx.saved_tensors
        grad_y = grad_y.contiguous()
        grad_x = grad_taps = grad_biases = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolved(grad_y, taps, None, ctx.layout, turned=True)
        if any(ctx.needs_input_grad[1:3]):
            grad_taps, grad_biases = _summed(x, grad_y, taps.shape, ctx.layout)
        return grad_x, grad_taps, grad_biases, None, None


def _convolved(x, taps, biases, layout, turned=False):
    k, out, width = taps.shape
    if turned:
        out, width = width, out
    y = x.new_empty(len(x), out)
    chosen = constants(width, out, k, x.dtype, turned, biases is not None)
    grid = (triton.cdiv(len(x), chosen["ROWS"]) * triton.cdiv(out, chosen["COLUMNS"]),)
    nothing = taps  # passed instead of missing biases; the kernel does not read it
    tensors = (x, taps, nothing if biases is None else biases, y, layout.steps, layout.ranks, layout.lengths)
    with on_device_of(x):
        convolve[grid](*tensors, len(x), **chosen, num_warps=warps(chosen["COLUMNS"]))
    return y


def _summed(x, grad_y, shape, layout):
    """The gradients of the taps, which have shape `shape`, and of the biases, in float32."""
    k, out, width = shape
    chosen = summing_constants(width, out, k)
    tiles = k * triton.cdiv(out, chosen["ACROSS"]) * triton.cdiv(width, chosen["ALONG"])
    blocks = max(1, triton.cdiv(len(x), chosen["ROWS"]))
    share = triton.cdiv(blocks, max(1, PROGRAMS // tiles))
    shares = triton.cdiv(blocks, share)
    partial = x.new_empty(shares, k * out * (width + 1), dtype=torch.float32)
    tensors = (x, grad_y, partial, layout.steps, layout.ranks, layout.lengths)
    with on_device_of(x):
        tap_gradients[(shares * tiles,)](*tensors, len(x), share * chosen["ROWS"], **chosen, **summing_options(chosen))
    grad_taps, grad_biases = partial.sum(dim=0).split([k * out * width, k * out])
    return grad_taps.view(shape), grad_biases.view(k, out)


def constants(width: int, out: int, k: int, dtype: torch.dtype, turned: bool, bias: bool) -> dict:
    """The compile-time constants of `convolve`."""
    chunk = min(CHUNK_BYTES // dtype.itemsize, triton.next_power_of_2(width))
    shape = {"IN": width, "OUT": out, "K": k, "ROWS": ROWS, "COLUMNS": _columns(out), "CHUNK": max(16, chunk)}
    return {**shape, "TURNED": turned, "BIAS": bias}


def summing_constants(width: int, out: int, k: int) -> dict:
    """The compile-time constants of `tap_gradients`."""
    shape = {"IN": width, "OUT": out, "K": k, "ROWS": ROWS_SUMMED}
    return {**shape, "ACROSS": _columns(out), "ALONG": _columns(width)}


def summing_options(constants: dict) -> dict:
    """How `tap_gradients` is compiled.

    Not pipelined: `grad_y` is read by a product and by a sum, so Triton (3.6 to 3.9) would give it a single buffer in
    shared memory, and on Hopper load the next rows into it while the asynchronous product still reads the last ones.
    """
    return {"num_warps": warps(constants["ACROSS"]), "num_stages": 1}


def warps(columns: int) -> int:
    """The number of warps of a program that computes `columns` columns."""
    return 8 if columns == WIDEST else 4


def _columns(width):
    return max(16, min(WIDEST, triton.next_power_of_2(width)))
