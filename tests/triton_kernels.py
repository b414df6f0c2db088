"""For tests of Triton kernels: on the GPU if there is one, else through Triton's interpreter, else skipped."""

import os

import numpy as np
import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
NEEDS_GPU = pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
ON_GPU_ALONE = pytest.mark.skipif(not ON_GPU, reason="as large as it is used: hours through the interpreter")
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel's module is imported
triton = pytest.importorskip("triton", reason="Triton is not installed")
import triton.language as tl  # noqa: E402


@triton.jit
def _count(steps, total):
    for _ in range(tl.load(steps)):
        tl.store(total, tl.load(total) + 1)


def _skip_without_loops():
    """Triton up to 3.6 cannot interpret a loop over a tensor's value with NumPy from 2.4 on."""
    total = torch.zeros(1, dtype=torch.int64)
    try:
        _count[(1,)](torch.full((1,), 3), total)
    except Exception as error:
        pytest.skip(f"Triton {triton.__version__} cannot interpret with NumPy {np.__version__}: {error}",
                    allow_module_level=True)  # fmt: skip
    assert total.item() == 3


def _let_products_take_bfloat16():
    """The interpreter holds bfloat16 as its 16 bits in an integer, and multiplies those integers."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    plain = InterpreterBuilder.create_dot

    def create_dot(self, a, b, *arguments):
        return plain(self, *(_widened(factor, TensorHandle) for factor in (a, b)), *arguments)

    InterpreterBuilder.create_dot = create_dot


def _widened(factor, kind):
    if factor.dtype.scalar != tl.bfloat16:
        return factor
    return kind((factor.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


if not ON_GPU:
    _skip_without_loops()
    _let_products_take_bfloat16()


def assert_close(name, actual, expected, tolerance):
    """Within `tolerance` of the largest element, or of 1 where all are smaller."""
    assert actual.shape == expected.shape, name
    error = (actual.detach().float() - expected.detach().float()).abs().max().item()
    assert error <= tolerance * max(1.0, expected.abs().max().item()), f"{name}: {error}"


def devices_of_launches(monkeypatch, module):
    """The devices on which a module starts its kernels, one for each launch."""
    devices, plain = [], module.on_device_of
    monkeypatch.setattr(module, "on_device_of", lambda tensor: devices.append(tensor.device) or plain(tensor))
    return devices
