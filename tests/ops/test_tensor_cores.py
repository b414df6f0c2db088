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


def test_products_of_other_tensors_are_left_alone(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", raising)
    monkeypatch.setattr(torch.backends.cuda, "matmul", None)
    for x in (torch.zeros(1), SimpleNamespace(is_cuda=True, dtype=torch.bfloat16)):
        with tensor_cores.tf32_products(x):
            pass
