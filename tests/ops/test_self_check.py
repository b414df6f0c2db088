"""The comparison of a kernel with its reference, before the kernel is used."""

import pytest
import torch

from recbole_glintru.ops import self_check

CPU = torch.device("cpu")


def reference(x, weight):
    return x * weight.sum(dim=1, keepdim=True)


def compared(kernel):
    tensors = {"x": torch.arange(1.0, 7).view(2, 3), "weight": torch.ones(2, 4)}
    return self_check.difference(kernel, reference, tensors, CPU, tolerance=1e-4)


@pytest.mark.parametrize(
    "kernel, said",
    [
        (lambda x, weight: reference(x, weight)[:, :1], "the output has shape (2, 1) instead of (2, 3)"),
        (lambda x, weight: reference(x, weight) * 1.001, "the output is off by 0.001 of its largest element"),
        (lambda x, weight: reference(x, weight) * float("nan"), "the output is off by nan"),
        (lambda x, weight: reference(x.detach(), weight) + 0 * x, "the gradient of x is off by 1 of"),
        (lambda x, weight: reference(x, weight.detach()) + 0 * weight.sum(), "the gradient of weight is off by 1 of"),
    ],
    ids=["shape", "output", "nan", "first gradient", "second gradient"],
)
def test_what_differs_is_named(kernel, said):
    assert compared(kernel).startswith(said)


def test_a_kernel_that_agrees():
    assert compared(lambda x, weight: reference(x, weight) * (1 + 1e-6)) is None


def test_the_callers_modes_do_not_reach_the_check():
    """Inference mode, a default device and disabled gradients are those of the calling thread."""
    with torch.inference_mode(), torch.device("meta"):
        assert self_check.undisturbed(lambda: compared(reference), CPU) is None
