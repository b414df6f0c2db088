import contextlib
from types import SimpleNamespace

import torch

from recbole_glintru.ops.launching import on_device_of


def test_the_gpu_of_a_tensor_is_the_current_one(monkeypatch):
    """And no other device is asked for anything: there may be no GPU."""
    entered = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext(entered.append(device)))
    with on_device_of(torch.zeros(1)), on_device_of(torch.zeros(1, device="meta")):
        assert not entered
    with on_device_of(SimpleNamespace(is_cuda=True, device=torch.device("cuda:1"))):
        assert entered == [torch.device("cuda:1")]
