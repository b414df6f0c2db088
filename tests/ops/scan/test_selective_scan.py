"""The backends of the selective scan against each other and against recorded arrays of the published reference.

That of Numba where it is installed.

`GOLDEN_DIR` names another directory of `selective_scan_*.npz`.
"""

import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from numba_loops import NEEDS_NUMBA

from recbole_glintru.ops.scan import mamba_guard, recomputed_scan
from recbole_glintru.ops.scan.selective_scan import choose_backend, selective_scan, selective_scan_last

DIRECTORY = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[2] / "golden")
FILES = sorted(DIRECTORY.glob("selective_scan_*.npz"))
ARGUMENTS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")

NUMBA = pytest.param("numba", marks=NEEDS_NUMBA)
FLOAT64, FLOAT32 = (torch.float64, 1e-12), (torch.float32, 2e-5)  # sums of up to 200 terms, in another order


def precisions(backends):
    """`backend, dtype, tolerance` of tests: all in float32, and in float64 those that have it."""
    cases = [pytest.param(name, *case, id=f"{name}-{id}") for name in backends
             for id, case in (("f64", FLOAT64), ("f32", FLOAT32))]  # fmt: skip
    cases.append(pytest.param("numba", *FLOAT32, id="numba-f32", marks=NEEDS_NUMBA))
    return pytest.mark.parametrize("backend, dtype, tolerance", cases)


# rows, channels, states, steps
SHAPES = [
    (1, 1, 1, 1),
    (1, 5, 3, 2),
    (2, 7, 4, 63),
    (3, 6, 16, 65),
    (2, 17, 5, 200),
    (5, 3, 1, 33),
    (4, 33, 2, 16),
    (2, 64, 3, 17),
    (1, 9, 4, 65),
]


@pytest.fixture(autouse=True)
def nothing_is_known_of_kernels():
    mamba_guard._objection.cache_clear()
    yield
    mamba_guard._objection.cache_clear()


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of rows, the last one smaller."""
    monkeypatch.setitem(recomputed_scan.BLOCK, "cpu", 100)


def problem(rows, channels, states, length, dtype=torch.float64, complete=True):
    generator = torch.Generator().manual_seed(rows * length + channels)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    tensors = {
        "u": draw(rows, channels, length),
        "delta": 2 * draw(rows, channels, length),  # softplus of it is up to about 6
        "A": -draw(channels, states).exp(),
        "B": draw(rows, states, length),
        "C": draw(rows, states, length),
    }
    if complete:
        tensors.update(D=draw(channels), z=draw(rows, channels, length), delta_bias=draw(channels))
    else:
        tensors["delta"] = tensors["delta"].abs() / 4
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}, lengths, draw


def gradients(outputs, tensors):
    """Of the sum of each output times a fixed cotangent."""
    total = sum((out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum() for out in outputs)
    found = torch.autograd.grad(total, list(tensors.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(tensors, found)}


def assert_same(actual, expected, tolerance):
    for name, value in expected.items():
        if value is None:
            assert actual[name] is None, name
            continue
        scale = max(1.0, value.abs().max().item())
        assert actual[name].shape == value.shape, name
        assert (actual[name] - value).abs().max().item() <= tolerance * scale, name


@precisions(["torch"])
@pytest.mark.parametrize("complete", [True, False], ids=["complete", "bare"])
@pytest.mark.parametrize("rows, channels, states, length", SHAPES)
def test_equals_reference(rows, channels, states, length, complete, backend, dtype, tolerance, small_blocks):
    tensors, _, _ = problem(rows, channels, states, length, dtype, complete)
    results = []
    for name in ("reference", backend):
        out, state = selective_scan(**tensors, delta_softplus=complete, return_last_state=True, backend=name)
        results.append({"out": out, "state": state, **gradients((out, state), tensors)})
    assert_same(results[1], results[0], tolerance)


@precisions(["reference", "torch"])
@pytest.mark.parametrize("rows, channels, states, length", SHAPES)
def test_last_position_alone(rows, channels, states, length, backend, dtype, tolerance, small_blocks):
    """What `selective_scan` of each unpadded row gives at its end, and no gradient behind it."""
    tensors, lengths, _ = problem(rows, channels, states, length, dtype)
    index = torch.arange(rows)
    ends = {name: tensor[index, :, lengths - 1] if name in ("C", "z") else tensor for name, tensor in tensors.items()}
    actual = selective_scan_last(**ends, last=lengths - 1, delta_softplus=True, backend=backend)
    expected = []
    for row, n in enumerate(lengths.tolist()):
        alone = {
            name: tensor[row : row + 1, :, :n] if tensor.dim() == 3 else tensor for name, tensor in tensors.items()
        }
        expected.append(selective_scan(**alone, delta_softplus=True, backend="reference")[:, :, -1])
    results = [{"out": out, **gradients((out,), tensors)} for out in (torch.cat(expected), actual)]
    assert_same(results[1], results[0], tolerance)


@precisions(["reference", "torch"])
def test_lengths_hold_the_state(backend, dtype, tolerance, small_blocks):
    tensors, lengths, _ = problem(5, 6, 4, 40, dtype)
    padded = selective_scan(**tensors, delta_softplus=True, return_last_state=True, lengths=lengths, backend=backend)
    full = selective_scan(**tensors, delta_softplus=True, backend="reference")
    for row, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(padded[0][row, :, :n], full[row, :, :n], rtol=tolerance, atol=tolerance)
        alone = {
            name: tensor[row : row + 1, :, :n] if tensor.dim() == 3 else tensor for name, tensor in tensors.items()
        }
        _, state = selective_scan(**alone, delta_softplus=True, return_last_state=True, backend="reference")
        torch.testing.assert_close(padded[1][row], state[0], rtol=tolerance, atol=tolerance)


def test_gradients_are_exact(small_blocks):
    tensors, lengths, _ = problem(3, 2, 3, 19)

    def scan(*values):
        return selective_scan(
            **dict(zip(tensors, values)), delta_softplus=True, return_last_state=True, backend="torch"
        )

    def scan_last(*values):
        given = dict(zip(tensors, values))
        given.update({name: given[name][:, :, 0] for name in ("C", "z")})
        return selective_scan_last(**given, last=lengths - 1, delta_softplus=True, backend="torch")

    assert torch.autograd.gradcheck(scan, tuple(tensors.values()))
    assert torch.autograd.gradcheck(scan_last, tuple(tensors.values()))


@pytest.mark.parametrize("fast", ["torch", NUMBA])
def test_steps_of_any_size_are_stable(fast):
    """Decays from 1 to far below the smallest number, next to each other."""
    tensors, _, _ = problem(2, 6, 4, 200, torch.float32)
    with torch.no_grad():
        tensors["delta"] *= torch.tensor([0.0, 1.0, 40.0]).repeat(67)[:200]
    results = []
    for backend in ("reference", fast):
        out = selective_scan(**tensors, delta_softplus=True, backend=backend)
        results.append({"out": out, **gradients((out,), tensors)})
    assert all(value.isfinite().all() for value in results[1].values())
    assert_same(results[1], results[0], 2e-5)


@pytest.mark.parametrize("backend", ["torch", NUMBA])
def test_states_are_not_kept(backend):
    """What autograd keeps grows with the input, not with N times the input."""
    saved = []
    tensors, _, _ = problem(4, 16, 64, 160, torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda t: t):
        selective_scan(**tensors, delta_softplus=True, backend=backend)
    states = 4 * 16 * 64 * 160
    assert sum(saved) < 0.5 * states


@pytest.mark.parametrize("backend", ["torch", NUMBA])
def test_half_precision_is_computed_in_single(backend):
    tensors, _, _ = problem(2, 8, 4, 100, torch.float32)
    half = {name: tensor.detach().bfloat16() for name, tensor in tensors.items()}
    exact = {name: tensor.float() for name, tensor in half.items()}
    out = selective_scan(**half, delta_softplus=True, backend=backend)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, selective_scan(**exact, delta_softplus=True, backend=backend).bfloat16())


# ------------------------------------------------------------------------------------------------------------- golden


def test_there_are_files():
    assert FILES, f"no selective_scan_*.npz in {DIRECTORY}"


@pytest.mark.parametrize("backend", ["reference", "torch", NUMBA])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_published(file, backend):
    with np.load(file, allow_pickle=False) as arrays:
        golden = {name: arrays[name] for name in arrays.files}
    config = json.loads(str(golden["config"]))
    tensors = {name: torch.as_tensor(golden[name]).requires_grad_() for name in ARGUMENTS if name in golden}
    out, state = selective_scan(
        **tensors, delta_softplus=config["delta_softplus"], return_last_state=True, backend=backend
    )
    total = (out * torch.as_tensor(golden["dout"])).sum()
    found = dict(zip(tensors, torch.autograd.grad(total, list(tensors.values()))))
    results = {"out": out, "last_state": state, **{f"grad/{name}": value for name, value in found.items()}}
    assert {name for name in golden if name.startswith("grad/")} <= set(results)
    expected = {name: torch.as_tensor(golden[name]) for name in results}
    assert_same(results, expected, 2e-5)


# ------------------------------------------------------------------------------------------------------------ kernels


def install(monkeypatch, scan):
    """A stand-in for mamba-ssm whose scan is `scan`."""
    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = scan
    for name, module in {
        "selective_scan_cuda": types.ModuleType("selective_scan_cuda"),
        "mamba_ssm": types.ModuleType("mamba_ssm"),
        "mamba_ssm.ops": types.ModuleType("mamba_ssm.ops"),
        "mamba_ssm.ops.selective_scan_interface": interface,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)


def right(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state):
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, backend="reference")


def wrong_gradient(u, delta, *rest):
    return right(u, delta.detach() * 0.5 + delta * 0.5, *rest)


def failing(*arguments):
    raise RuntimeError("no kernel image is available for execution on the device")


CPU = torch.device("cpu")


def test_kernels_that_agree_are_used(monkeypatch, recwarn):
    calls = []
    install(monkeypatch, lambda *arguments: calls.append(1) or right(*arguments))
    assert mamba_guard.scan_is_usable(CPU) and not recwarn
    tensors, lengths, _ = problem(3, 5, 4, 20, torch.float32)
    calls.clear()
    out = selective_scan(**tensors, delta_softplus=True, backend="mamba_ssm")
    ends = {**tensors, **{name: tensors[name][torch.arange(3), :, lengths - 1] for name in ("C", "z")}}
    last = selective_scan_last(**ends, last=lengths - 1, delta_softplus=True, backend="mamba_ssm")
    _, state = selective_scan(
        **tensors, delta_softplus=True, return_last_state=True, lengths=lengths, backend="mamba_ssm"
    )
    assert len(calls) == 3
    torch.testing.assert_close(out, selective_scan(**tensors, delta_softplus=True, backend="torch"))
    torch.testing.assert_close(last, out[torch.arange(3), :, lengths - 1])
    expected = selective_scan(**tensors, delta_softplus=True, return_last_state=True, lengths=lengths, backend="torch")
    torch.testing.assert_close(state, expected[1])


@pytest.mark.parametrize(
    "scan, reason",
    [
        (lambda *arguments: 1.01 * right(*arguments), "the output is off"),
        (lambda *arguments: right(*arguments) * float("nan"), "the output is off"),
        (wrong_gradient, "the gradient of delta is off"),
        (failing, "no kernel image"),
    ],
    ids=["output", "nan", "gradient", "fails"],
)
def test_kernels_that_disagree_are_refused(monkeypatch, scan, reason):
    install(monkeypatch, scan)
    with pytest.warns(UserWarning, match=reason):
        assert not mamba_guard.scan_is_usable(CPU)
    with pytest.raises(RuntimeError, match=f"scan_backend='mamba_ssm'.*{reason}"):
        choose_backend(torch.zeros(1, 1, 1), torch.zeros(1, 1), "mamba_ssm")


def test_absent_kernels_are_no_reason_to_warn(monkeypatch, recwarn):
    for name in ("selective_scan_cuda", "causal_conv1d"):
        monkeypatch.setitem(sys.modules, name, None)
    assert not mamba_guard.scan_is_usable(CPU) and not mamba_guard.convolution_is_usable(CPU)
    assert not recwarn
    with pytest.raises(RuntimeError, match="mamba-ssm is not installed"):
        choose_backend(torch.zeros(1, 1, 1), torch.zeros(1, 1), "mamba_ssm")


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_convolution_is_checked(monkeypatch, factor):
    def convolve(u, weight, bias, activation):
        k = weight.shape[1]
        padded = torch.nn.functional.pad(u, (k - 1, 0))
        y = torch.nn.functional.conv1d(padded, weight.unsqueeze(1), bias, groups=len(weight))
        return factor * torch.nn.functional.silu(y)

    module = types.ModuleType("causal_conv1d")
    module.causal_conv1d_fn = convolve
    monkeypatch.setitem(sys.modules, "causal_conv1d", module)
    if factor == 1:
        assert mamba_guard.convolution_is_usable(CPU)
    else:
        with pytest.warns(UserWarning, match="causal-conv1d's kernels give wrong results"):
            assert not mamba_guard.convolution_is_usable(CPU)
