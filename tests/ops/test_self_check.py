"""What is checked before a kernel is used: that it loads, and agrees with its reference."""

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


@pytest.mark.parametrize(
    "differs, said",
    [
        (lambda: None, None),
        (lambda: "the output is off by 3", "they give wrong results on cpu: the output is off by 3."),
        (lambda: [][1], "they fail on cpu (IndexError: list index out of range)."),
    ],
    ids=["right", "wrong", "failing"],
)
def test_what_is_wrong_with_kernels(differs, said):
    assert self_check.failure("they", differs, CPU) == said


def test_the_first_use_may_be_anywhere():
    """Inference mode, a default device and disabled gradients are those of the calling thread."""
    with torch.inference_mode(), torch.device("meta"):
        assert self_check.failure("they", lambda: compared(reference), CPU) is None


def test_a_lack_of_memory_says_nothing_of_the_kernels():
    def differs():
        raise torch.cuda.OutOfMemoryError("none left")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        self_check.failure("they", differs, CPU)


def test_a_package_that_does_not_load(monkeypatch, tmp_path):
    (tmp_path / "built_for_another_cuda.py").write_text("raise OSError('undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    assert self_check.missing("Kernels", "json", "math") is None
    for module, why in [("surely_not_there", "No module named"), ("built_for_another_cuda", "undefined symbol")]:
        assert self_check.missing("Kernels", "json", module).startswith(
            f"Kernels is not installed or fails to load ({why}"
        )
