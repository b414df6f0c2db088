"""The Mamba block against recorded arrays of the published one: `mamba_block_*.npz`, here or in `GOLDEN_DIR`."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_glintru.layers.mamba import Mamba

DIRECTORY = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
FILES = sorted(DIRECTORY.glob("mamba_block_*.npz"))


def test_there_are_files():
    assert FILES, f"no mamba_block_*.npz in {DIRECTORY}"


@pytest.mark.parametrize("scan_backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_published(file, scan_backend):
    """2e-5 on outputs and the input's gradient, 1e-3 relative on gradient norms: sums in another order."""
    with np.load(file, allow_pickle=False) as arrays:
        golden = {name: arrays[name] for name in arrays.files}
    config = json.loads(str(golden["config"]))
    block = Mamba(config["d_model"], config["d_state"], config["d_conv"], config["expand"], scan_backend)
    block.load_state_dict({n[6:]: torch.as_tensor(golden[n]) for n in golden if n.startswith("param/")})
    x = torch.as_tensor(golden["x"]).requires_grad_()
    y = block(x)
    (y * torch.as_tensor(golden["dy"])).sum().backward()
    torch.testing.assert_close(y, torch.as_tensor(golden["y"]), rtol=0, atol=2e-5)
    torch.testing.assert_close(x.grad, torch.as_tensor(golden["grad/x"]), rtol=0, atol=2e-5)
    norms = {name[9:]: golden[name].item() for name in golden if name.startswith("gradnorm/")}
    assert norms
    for name, parameter in block.named_parameters():
        assert parameter.grad.norm().item() == pytest.approx(norms[name], rel=1e-3), name


def test_parameters_are_those_of_mamba_ssm():
    shapes = {name: tuple(value.shape) for name, value in Mamba(40, 8, 3, 2).state_dict().items()}
    assert shapes == {
        "A_log": (80, 8),
        "D": (80,),
        "in_proj.weight": (160, 40),
        "conv1d.weight": (80, 1, 3),
        "conv1d.bias": (80,),
        "x_proj.weight": (3 + 16, 80),
        "dt_proj.weight": (80, 3),
        "dt_proj.bias": (80,),
        "out_proj.weight": (40, 80),
    }


def test_weights_load_both_ways():
    upstream = pytest.importorskip("mamba_ssm").Mamba(32, d_state=8)
    own = Mamba(32, d_state=8)
    own.load_state_dict(upstream.state_dict())
    upstream.load_state_dict(own.state_dict())


def test_initialisation_is_mambas_own():
    block = Mamba(64, d_state=5)
    steps = torch.nn.functional.softplus(block.dt_proj.bias)
    assert 1e-3 <= steps.min() * 1.001 and steps.max() <= 0.1001
    assert steps.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.6)  # log-uniform: 4.5 standard errors
    assert block.dt_proj.weight.abs().max() <= 0.5 and block.dt_proj.weight.abs().max() > 0.48
    expected = torch.arange(1.0, 6.0).expand(128, 5)
    torch.testing.assert_close(block.A_log.exp(), expected)
    assert torch.equal(block.D, torch.ones(128))


# d, states, width of the convolution, expand, steps
SIZES = [(1, 1, 1, 1, 1), (3, 2, 4, 2, 2), (17, 5, 3, 1, 9), (32, 16, 2, 3, 40)]


@pytest.mark.parametrize("hidden_size, d_state, d_conv, expand, length", SIZES)
def test_last_position_alone(hidden_size, d_state, d_conv, expand, length):
    """`at_last` is `forward` at that position, and `forward` of the history alone: outputs and every gradient."""
    block = Mamba(hidden_size, d_state, d_conv, expand).double()
    x = torch.randn(5, length, hidden_size, dtype=torch.float64, requires_grad=True)
    lengths = torch.randint(1, length + 1, (5,))
    parameters = [x, *block.parameters()]
    alone = torch.cat([block(x[row : row + 1, :n])[:, -1] for row, n in enumerate(lengths.tolist())])
    padded = block(x, lengths)[torch.arange(5), lengths - 1]
    last = block.at_last(x, lengths - 1)
    cotangent = torch.randn_like(last)
    expected = torch.autograd.grad((alone * cotangent).sum(), parameters)
    for out in (padded, last):
        torch.testing.assert_close(out, alone, rtol=1e-9, atol=1e-11)
        found = torch.autograd.grad((out * cotangent).sum(), parameters)
        for name, a, b in zip(["x", *dict(block.named_parameters())], found, expected):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("scan_backend", ["torch", "auto"])
def test_gpu_equals_cpu(scan_backend):
    """1e-4: single precision, and kernels with faster exponentials."""
    block, x, last = Mamba(32, 16), torch.randn(6, 70, 32), torch.tensor([69, 0, 3, 50, 12, 69])
    block.scan_backend = "reference"
    expected = block(x), block.at_last(x, last)
    block.to("cuda").scan_backend = scan_backend
    actual = block(x.to("cuda")), block.at_last(x.to("cuda"), last.to("cuda"))
    for a, b in zip(actual, expected):
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=1e-4)
