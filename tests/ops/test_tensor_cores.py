"""What PyTorch's switches for TF32 say, of which there are two generations."""

import functools
from types import SimpleNamespace

import pytest
import torch

from recbole_glintru.ops import tensor_cores

X = SimpleNamespace(is_cuda=True, dtype=torch.float32)
MIXED = "you have used mix of the legacy and new APIs"


class Older:
    """`torch.backends.cudnn` before PyTorch 2.9: it has an `rnn`, which has no switch."""

    rnn = SimpleNamespace()

    def __init__(self, allow_tf32):
        self.allow_tf32 = allow_tf32


class Newer:
    """That of PyTorch 2.9 where somebody has used the new switches."""

    def __init__(self, rnn, conv):
        self.rnn, self.conv = SimpleNamespace(fp32_precision=rnn), SimpleNamespace(fp32_precision=conv)

    @property
    def allow_tf32(self):
        raise RuntimeError(MIXED)


def raising(*_):
    raise RuntimeError(MIXED)


@pytest.mark.parametrize(
    "backend, expected",
    [
        (Older(True), (True, True)),
        (Older(False), (False, False)),
        (Newer("tf32", "ieee"), (True, False)),
        (Newer("none", "tf32"), (False, True)),
    ],
    ids=["older, on", "older, off", "newer, rnn", "newer, conv"],
)
def test_tf32_as_pytorch_has_it(monkeypatch, backend, expected):
    monkeypatch.setattr(torch.backends, "cudnn", backend)
    assert tuple(tensor_cores.allows_tf32(operation) for operation in ("rnn", "conv")) == expected


def test_this_pytorch_allows_it_by_default(recwarn):
    assert tensor_cores.allows_tf32("rnn") and tensor_cores.allows_tf32("conv") and not recwarn


@pytest.mark.parametrize("before", ["ieee", "none", "tf32"])
def test_products_with_the_new_switch(monkeypatch, before):
    """Its older name fails; what was set before is set again behind an error too."""
    monkeypatch.setattr(torch, "get_float32_matmul_precision", raising)
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(fp32_precision=before))
    with pytest.raises(KeyError), tensor_cores.tf32_products(X):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        raise KeyError
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_products_with_the_old_switch(monkeypatch):
    switch = SimpleNamespace(value="highest")
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=False))
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: switch.value)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", functools.partial(setattr, switch, "value"))
    with tensor_cores.tf32_products(X):
        assert switch.value == "high"
    assert switch.value == "highest"


def test_products_in_this_pytorch(recwarn):
    before = torch.get_float32_matmul_precision()
    with tensor_cores.tf32_products(X):
        pass
    assert torch.get_float32_matmul_precision() == before and not recwarn


def test_two_threads_leave_the_switch_as_it_was(monkeypatch):
    """Whichever ends first; until both have, the products of both are TF32."""
    monkeypatch.setattr(torch.backends.cuda, "matmul", switch := SimpleNamespace(fp32_precision="ieee"))
    first, second = tensor_cores.tf32_products(X), tensor_cores.tf32_products(X)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert switch.fp32_precision == "tf32"
    second.__exit__(None, None, None)
    assert switch.fp32_precision == "ieee"


def surrounded(differs):
    """`tensor_cores.failure`, where its first use might be."""
    torch.set_default_device("meta")
    try:
        with torch.inference_mode():
            return tensor_cores.failure(differs, torch.device("cpu"))
    finally:
        torch.set_default_device(None)


def test_the_first_use_may_be_anywhere():
    """Training there would fail, and the kernels would be refused for good."""

    def differs():
        (gradient,) = torch.autograd.grad((x := torch.ones(2, requires_grad=True)).sum(), [x])
        return None if gradient.device.type == "cpu" else "the gradient has no values"

    assert surrounded(differs) is None
    assert "off by" in surrounded(lambda: "the output is off by 3")


def test_a_lack_of_memory_says_nothing_of_the_kernels():
    def differs():
        raise torch.cuda.OutOfMemoryError("none left")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        tensor_cores.failure(differs, torch.device("cpu"))


def test_products_of_other_tensors_are_left_alone(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", raising)
    monkeypatch.setattr(torch.backends.cuda, "matmul", None)
    for x in (torch.zeros(1), SimpleNamespace(is_cuda=True, dtype=torch.bfloat16)):
        with tensor_cores.tf32_products(x):
            pass
