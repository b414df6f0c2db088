from types import SimpleNamespace

import pytest
import torch
from triton_kernels import DEVICE, ON_GPU, ON_GPU_ALONE, assert_close, devices_of_launches

from recbole_glintru.layers.mamba import Mamba
from recbole_glintru.ops.histories.positions import at_position, valid_positions
from recbole_glintru.ops.scan import mamba_guard
from recbole_glintru.ops.scan import triton_guard as scan_guard
from recbole_glintru.ops.scan.selective_scan import choose_backend, selective_scan, selective_scan_last

triton_scan = pytest.importorskip("recbole_glintru.ops.scan.triton_scan")
OutOfResources = pytest.importorskip("triton.runtime.errors").OutOfResources
slow = pytest.mark.slow
# Of the largest element: float32 sums in another order; half precision rounds what is read and written to 2^-11, 2^-8.
# A GPU's exponentials are a few units of the last digit off, and there is a problem with many more of them.
TOLERANCES = {torch.float32: 2e-4 if ON_GPU else 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
SHAPES = [  # rows, channels, states, length
    (1, 32, 1, 1),
    (3, 40, 3, 2),
    (2, 64, 2, 9),
    pytest.param(17, 32, 2, 3, marks=slow),
    pytest.param(2, 96, 4, 65, marks=slow),
    pytest.param(1, 32, 2, 200, marks=slow),
    pytest.param(63, 32, 1, 2, marks=slow),
    pytest.param(3, 128, 2, 1, marks=slow),
    pytest.param(1, 160, 2, 3, marks=slow),
    pytest.param(128, 256, 32, 200, marks=ON_GPU_ALONE),
]
PARTS = ("D", "z", "delta_bias")


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Borders between chunks in short histories, of which the interpreter takes long enough."""
    if not ON_GPU:
        monkeypatch.setattr(triton_scan, "CHUNK", 4)


@pytest.fixture
def objections():
    scan_guard._objection.cache_clear()
    yield
    scan_guard._objection.cache_clear()


def problem(rows, channels, states, length, last_only=False, without=(), dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows + 10 * channels + length)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE)

    tensors = {
        "u": draw(rows, channels, length).to(dtype),
        "delta": draw(rows, channels, length).to(dtype),
        "A": -draw(channels, states).exp(),
        "B": draw(rows, states, length).to(dtype),
        "C": draw(*((rows, states) if last_only else (rows, states, length))).to(dtype),
        "D": draw(channels),
        "z": draw(*((rows, channels) if last_only else (rows, channels, length))).to(dtype),
        "delta_bias": draw(channels),
    }
    lengths = torch.randint(1, length + 1, (rows,), generator=generator).to(DEVICE)
    return {name: tensor for name, tensor in tensors.items() if name not in without}, lengths


def kernel(lengths, last_only=False, delta_softplus=True, **tensors):
    tensors.update({name: None for name in PARTS if name not in tensors})
    return triton_scan.triton_scan(**tensors, delta_softplus=delta_softplus, lengths=lengths, last_only=last_only)


def reference(lengths, last_only=False, **arguments):
    options = {"delta_softplus": True, "backend": "reference", **arguments}
    if last_only:
        return selective_scan_last(last=lengths - 1, **options)
    return selective_scan(lengths=lengths, **options)


def outcome(function, tensors, lengths, last_only=False, **options):
    """Output and gradients, of the real positions alone."""
    own = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    y = function(lengths, last_only, **own, **options)
    if not last_only:
        y = y * valid_positions(lengths, y.shape[-1]).unsqueeze(1)
    cotangent = torch.linspace(-1, 1, y.numel(), device=DEVICE).view(y.shape)
    return dict(zip(["y", *own], [y, *torch.autograd.grad((y * cotangent).sum(), list(own.values()))]))


@pytest.mark.parametrize("last_only", [False, True], ids=["all", "last"])
@pytest.mark.parametrize("rows, channels, states, length", SHAPES)
def test_equals_reference(rows, channels, states, length, last_only):
    tensors, lengths = problem(rows, channels, states, length, last_only)
    expected = outcome(reference, tensors, lengths, last_only)
    for name, value in outcome(kernel, tensors, lengths, last_only).items():
        assert_close(name, value, expected[name], TOLERANCES[torch.float32])


@pytest.mark.parametrize("last_only", [False, True], ids=["all", "last"])
@pytest.mark.parametrize("without", PARTS)
def test_parts_may_be_left_out(without, last_only):
    tensors, lengths = problem(2, 32, 2, 3, last_only, without=(without,))
    expected = outcome(reference, tensors, lengths, last_only)
    for name, value in outcome(kernel, tensors, lengths, last_only).items():
        assert_close(name, value, expected[name], TOLERANCES[torch.float32])


def test_steps_as_they_are():
    tensors, lengths = problem(2, 32, 2, 3, without=PARTS)
    tensors["delta"] = tensors["delta"].abs()
    expected = outcome(reference, tensors, lengths, delta_softplus=False)
    for name, value in outcome(kernel, tensors, lengths, delta_softplus=False).items():
        assert_close(name, value, expected[name], TOLERANCES[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_half_precision(dtype):
    tensors, lengths = problem(2, 32, 2, 5, dtype=dtype)
    expected = outcome(reference, {name: tensor.float() for name, tensor in tensors.items()}, lengths)
    for name, value in outcome(kernel, tensors, lengths).items():
        assert value.dtype == tensors["u" if name == "y" else name].dtype
        assert_close(name, value, expected[name], TOLERANCES[dtype])


def test_sums_over_channels_in_one_program(monkeypatch):
    """As with many rows: a program takes several blocks of channels and adds to its own share."""
    monkeypatch.setattr(triton_scan, "PROGRAMS", 1)
    for last_only in (False, True):
        tensors, lengths = problem(2, 80, 2, 5, last_only)
        expected = outcome(reference, tensors, lengths, last_only)
        for name, value in outcome(kernel, tensors, lengths, last_only).items():
            assert_close(name, value, expected[name], TOLERANCES[torch.float32])


def test_large_steps_and_decays():
    """No division by a decay: steps at which one underflows to zero are no trouble, nor is softplus's overflow."""
    tensors, lengths = problem(2, 32, 2, 4)
    tensors["delta"] = tensors["delta"] * 100
    expected = outcome(reference, tensors, lengths)
    for name, value in outcome(kernel, tensors, lengths).items():
        assert_close(name, value, expected[name], 1e-4)


def test_small_steps():
    """The softplus of what is far below zero, where 1 + exp(x) has lost most digits of exp(x), and of all else."""
    delta = torch.linspace(-16, 24, 96, device=DEVICE).view(1, 96, 1)
    ones = torch.ones(96, 1, device=DEVICE)
    y = kernel(None, u=ones.view(1, 96, 1), delta=delta, A=-ones, B=ones[:1, None], C=ones[:1, None])
    exact = torch.nn.functional.softplus(delta.double(), threshold=100)
    torch.testing.assert_close(y.double(), exact, rtol=1e-4 if ON_GPU else 5e-6, atol=0)


@pytest.mark.parametrize("last_only", [False, True], ids=["all", "last"])
def test_histories_without_a_step(monkeypatch, last_only):
    """Zeros, and the others are as without them, although memory is full of something else."""
    plain = torch.Tensor.new_empty

    def full(*shape, **options):
        made = plain(*shape, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch.Tensor, "new_empty", full)
    tensors, lengths = problem(4, 32, 2, 5, last_only)
    lengths = torch.tensor([0, 5, 0, 2], device=DEVICE)
    cotangent = torch.linspace(-1, 1, tensors["z"].numel(), device=DEVICE).view(tensors["z"].shape)

    def results(rows):
        own = {n: t[rows] if len(t) == 4 else t.clone() for n, t in tensors.items()}
        own = {name: tensor.requires_grad_() for name, tensor in own.items()}
        y = kernel(lengths[rows], last_only, **own)
        return dict(zip(["y", *own], [y, *torch.autograd.grad((y * cotangent[rows]).sum(), list(own.values()))]))

    expected = results(lengths > 0)
    for name, value in results(slice(None)).items():
        if len(value) == 4:
            assert not value[lengths == 0].any(), name
            value = value[lengths > 0]
        torch.testing.assert_close(value, expected[name], msg=lambda m, name=name: f"{name}: {m}")


def test_launches_on_the_device_of_the_tensors(monkeypatch):
    devices = devices_of_launches(monkeypatch, triton_scan)
    tensors, lengths = problem(1, 32, 1, 2)
    outcome(kernel, tensors, lengths)
    assert devices == 2 * [tensors["u"].device]


@pytest.mark.parametrize(
    "rows, channels, states, length", [(3, 40, 2, 5), pytest.param(2048, 128, 32, 200, marks=ON_GPU_ALONE)]
)
def test_same_bits_twice(rows, channels, states, length):
    tensors, lengths = problem(rows, channels, states, length)
    first, second = (outcome(kernel, tensors, lengths) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_padding_is_not_read():
    """NaN behind the length reaches neither the output nor a gradient, and both are zero there."""
    tensors, lengths = problem(3, 32, 2, 6)
    lengths[0] = 2
    clean = outcome(kernel, tensors, lengths)
    behind = ~valid_positions(lengths, 6).unsqueeze(1)
    dirty = {n: t.masked_fill(behind, float("nan")) if t.dim() == 3 else t for n, t in tensors.items()}
    for name, value in outcome(kernel, dirty, lengths).items():
        assert torch.equal(value, clean[name]), name
    assert not clean["u"].masked_select(behind).any()


def test_last_is_the_last_of_all():
    tensors, lengths = problem(3, 32, 2, 5)
    whole = kernel(lengths, **tensors)
    C, z = (at_position(tensors[name].transpose(1, 2), lengths - 1) for name in ("C", "z"))
    last = kernel(lengths, last_only=True, **{**tensors, "C": C, "z": z})
    torch.testing.assert_close(last, at_position(whole.transpose(1, 2), lengths - 1))


def test_chunks_as_they_are(monkeypatch):
    monkeypatch.undo()
    assert triton_scan.CHUNK == 16
    tensors, lengths = problem(1, 32, 1, 18)
    lengths[:] = 18
    expected = outcome(reference, tensors, lengths)
    for name, value in outcome(kernel, tensors, lengths).items():
        assert_close(name, value, expected[name], TOLERANCES[torch.float32])


def test_self_check(objections, monkeypatch):
    """The kernels pass it, and one that is off does not: asked for by name it is an error, which says what is wrong."""
    asked = (DEVICE, 32, 2, torch.float32, False)
    assert scan_guard.are_usable(*asked)
    scan_guard._objection.cache_clear()
    right = scan_guard.scan
    monkeypatch.setattr(scan_guard, "scan", lambda *args, **options: right(*args, **options) * 1.01)
    with pytest.raises(RuntimeError, match="scan_backend='triton'.*the output is off by 0.01"):
        scan_guard.require(*asked)


@pytest.mark.parametrize("last_only", [False, True], ids=["all", "last"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_self_check_in_half_precision(objections, dtype, last_only):
    assert scan_guard._objection(DEVICE, 32, 1, dtype, last_only) is None


def test_each_kernel_is_checked_once(objections, monkeypatch):
    """At the shape, in the type and at the positions that a model asks for."""
    asked = []
    monkeypatch.setattr(scan_guard, "_differs", lambda device, *rest: asked.append(rest))
    tensors, lengths = problem(2, 32, 2, 3)
    for _ in range(2):
        selective_scan(**tensors, delta_softplus=True, lengths=lengths, backend="triton")
    tensors, lengths = problem(2, 40, 1, 3, last_only=True, dtype=torch.bfloat16)
    selective_scan_last(**tensors, last=lengths - 1, delta_softplus=True, backend="triton")
    assert asked == [(32, 2, torch.float32, False), (40, 1, torch.bfloat16, True)]


def test_kernel_too_large_for_the_device_is_an_objection(objections, monkeypatch):
    def fail(*args, **options):
        raise OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setattr(scan_guard, "scan", fail)
    with pytest.raises(RuntimeError, match="scan_backend='triton'.*for 40 channels of 2 states.*out of resource"):
        scan_guard.require(DEVICE, 40, 2, torch.float32, False)
    with pytest.raises(RuntimeError, match="do not support torch.float64"):
        scan_guard.require(DEVICE, 40, 2, torch.float64, False)


@pytest.mark.parametrize(
    "mamba_ssm, own, expected", [(True, True, "mamba_ssm"), (False, True, "triton"), (False, False, "torch")]
)
def test_first_choice_on_a_gpu(monkeypatch, mamba_ssm, own, expected):
    monkeypatch.setattr(mamba_guard, "scan_is_usable", lambda device: mamba_ssm)
    monkeypatch.setattr(scan_guard, "are_usable", lambda device, *_: own)
    on_gpu, A = SimpleNamespace(is_cuda=True, dtype=torch.float32, device=DEVICE), torch.zeros(32, 2)
    assert choose_backend(on_gpu, A, "auto") == expected
    on_gpu.dtype = torch.float64
    assert choose_backend(on_gpu, A, "auto") == "torch"


def test_last_state_is_left_to_torch(objections):
    tensors, lengths = problem(2, 32, 2, 3)
    options = {"delta_softplus": True, "return_last_state": True, "lengths": lengths}
    actual = selective_scan(**tensors, **options, backend="triton")
    for one, other in zip(actual, selective_scan(**tensors, **options, backend="torch")):
        assert torch.equal(one, other)


def test_block_runs_on_it(objections):
    """A Mamba block computes the same with every position's output and with the last one's."""
    torch.manual_seed(0)
    block = Mamba(32, d_state=2, expand=1, scan_backend="triton").to(DEVICE)
    x, lengths = torch.randn(2, 4, 32, device=DEVICE), torch.tensor([4, 2], device=DEVICE)
    whole, last = block(x, lengths), block.at_last(x, lengths - 1)
    block.scan_backend = "reference"
    expected = at_position(block(x, lengths), lengths - 1)
    torch.testing.assert_close(at_position(whole, lengths - 1), expected)
    torch.testing.assert_close(last, expected)
