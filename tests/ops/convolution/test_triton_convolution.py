import pytest
import torch
from triton_kernels import DEVICE, ON_GPU, ON_GPU_ALONE, assert_close, devices_of_launches

from recbole_glintru.layers.temporal_conv import TemporalConv
from recbole_glintru.ops.convolution import triton_guard as convolution_guard
from recbole_glintru.ops.convolution.reference import convolution_reference
from recbole_glintru.ops.layouts.compact import Compact
from recbole_glintru.ops.layouts.padded import Padded

triton_convolution = pytest.importorskip("recbole_glintru.ops.convolution.triton_convolution")
slow = pytest.mark.slow
# Of the largest element. float32: the interpreter's products are exact, a GPU's are TF32, of 2^-11 a factor. float16
# has 2^-11 too and bfloat16 2^-8, also for what is stored.
TOLERANCES = {torch.float32: 5e-3 if ON_GPU else 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
ROWS = {
    1: [1],
    2: [200, 1],
    3: [2, 1, 5],
    17: [1, 1, 30, 2, 65, 1, 7, 3, 1, 1, 12, 2, 9, 4, 1, 40, 3],
    63: [1, 2, 3] * 21,
    2048: [row % 200 + 1 for row in range(2048)],
}
SHAPES = [  # rows, k, in, out
    (1, 1, 32, 32),
    (1, 3, 48, 48),
    (3, 3, 32, 64),
    (3, 11, 33, 50),
    (17, 5, 64, 64),
    (17, 3, 128, 128),
    (3, 3, 160, 160),
    pytest.param(63, 3, 128, 32, marks=slow),
    pytest.param(63, 11, 48, 48, marks=slow),
    pytest.param(17, 3, 256, 256, marks=slow),
    pytest.param(2, 3, 32, 32, marks=slow),
    pytest.param(2048, 3, 128, 128, marks=ON_GPU_ALONE),
]


def problem(lengths, k, width, out):
    generator = torch.Generator().manual_seed(sum(lengths) + k * width)

    def draw(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator).mul_(scale).to(DEVICE)

    tensors = {
        "x": draw(len(lengths), max(lengths), width),
        "taps": draw(k, out, width, scale=(k * width) ** -0.5),
        "biases": draw(k, out),  # each tap has its own: at a border those outside do not count
    }
    return tensors, torch.tensor(lengths, device=DEVICE)


def kernels(layout, x, taps, biases, dtype=torch.float32):
    return triton_convolution.triton_convolution(x, taps, biases, layout, dtype).float()


def plainly(layout, x, taps, biases):
    return convolution_reference(x, taps, biases, layout)


def padded(layout, x, taps, biases):
    return layout.convolve(x, taps, biases)


def outcome(function, tensors, lengths, layout=Compact, **options):
    own = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    layout = layout(lengths, tensors["x"].shape[1])
    y = layout.pad(function(layout, layout.arrange(own["x"]), own["taps"], own["biases"], **options))
    cotangent = torch.linspace(-1, 1, y.numel(), device=DEVICE).view(y.shape)
    return dict(zip(["y", *own], [y, *torch.autograd.grad((y * cotangent).sum(), list(own.values()))]))


@pytest.fixture
def objections():
    convolution_guard._objection.cache_clear()
    yield
    convolution_guard._objection.cache_clear()


@pytest.mark.parametrize("rows, k, width, out", SHAPES)
def test_equals_both_layouts(rows, k, width, out):
    """The layout's own convolution without kernels, and that of all positions with the padding."""
    arguments = problem(ROWS[rows], k, width, out)
    actual = outcome(kernels, *arguments)
    for expected in (outcome(plainly, *arguments), outcome(padded, *arguments, layout=Padded)):
        for name, value in expected.items():
            assert_close(name, actual[name], value, TOLERANCES[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize(
    "rows, k, width, out", [(3, 3, 48, 48), (17, 5, 64, 64), pytest.param(2048, 3, 128, 128, marks=ON_GPU_ALONE)]
)
def test_half_precision(rows, k, width, out, dtype):
    arguments = problem(ROWS[rows], k, width, out)
    expected = outcome(plainly, *arguments)
    for name, value in outcome(kernels, *arguments, dtype=dtype).items():
        assert_close(name, value, expected[name], TOLERANCES[dtype])


def test_result_has_the_type_of_the_factors():
    """Gradients have that of what they are the gradients of."""
    tensors, lengths = problem([2, 3], 3, 32, 32)
    own = [tensor.requires_grad_() for tensor in tensors.values()]
    layout = Compact(lengths, 3)
    y = triton_convolution.triton_convolution(layout.arrange(own[0]), *own[1:], layout, torch.bfloat16)
    assert y.dtype == torch.bfloat16
    assert {grad.dtype for grad in torch.autograd.grad(y.float().sum(), own)} == {torch.float32}


def test_long_histories_in_several_programs():
    """Borders between programs, and between shares of the sums, inside a history of 300."""
    arguments = problem([300, 1, 120], 3, 32, 32)
    expected = outcome(plainly, *arguments)
    for name, value in outcome(kernels, *arguments).items():
        assert_close(name, value, expected[name], TOLERANCES[torch.float32])


@pytest.mark.parametrize("width", [32, 64])  # from 64 on Hopper's asynchronous products
@pytest.mark.parametrize("programs", [1, 6])
def test_sums_in_few_programs(monkeypatch, programs, width):
    """A program sums several blocks of rows, or all; the last share is shorter than the others."""
    monkeypatch.setattr(triton_convolution, "PROGRAMS", programs)
    arguments = problem([120, 1, 200], 3, width, width)
    expected = outcome(plainly, *arguments)
    for name, value in outcome(kernels, *arguments).items():
        assert_close(name, value, expected[name], TOLERANCES[torch.float32])


def test_no_position_at_all():
    layout = Compact(torch.zeros(2, dtype=torch.int64, device=DEVICE), 1)
    tensors = [torch.randn(*shape, device=DEVICE).requires_grad_() for shape in ((0, 32), (3, 32, 32), (3, 32))]
    y = triton_convolution.triton_convolution(*tensors, layout, torch.float32)
    assert y.shape == (0, 32)
    assert not any(grad.any() for grad in torch.autograd.grad(y.sum(), tensors))


def test_launches_on_the_device_of_the_tensors(monkeypatch):
    devices = devices_of_launches(monkeypatch, triton_convolution)
    tensors, lengths = problem([2, 1], 3, 32, 32)
    outcome(kernels, tensors, lengths)
    assert devices == 3 * [tensors["x"].device]


@pytest.mark.parametrize("rows, width", [(17, 64), pytest.param(2048, 128, marks=ON_GPU_ALONE)])
def test_same_bits_twice(rows, width):
    arguments = problem(ROWS[rows], 3, width, width)
    first, second = (outcome(kernels, *arguments) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("frozen", ["x", "taps"])
def test_only_what_is_asked_for(frozen, monkeypatch):
    """Frozen inputs cost no launch, and the other gradients are what they were."""
    tensors, lengths = problem([2, 1, 4], 3, 32, 32)
    expected = outcome(kernels, tensors, lengths)
    layout, launched = Compact(lengths, 4), []
    for name in ("_convolved", "_summed"):
        plain = getattr(triton_convolution, name)
        monkeypatch.setattr(triton_convolution, name, lambda *a, n=name, p=plain, **o: launched.append(n) or p(*a, **o))
    wanted = {name: tensor.requires_grad_() for name, tensor in tensors.items() if name not in (frozen, "biases")}
    y = layout.pad(kernels(layout, layout.arrange(tensors["x"]), tensors["taps"], tensors["biases"]))
    cotangent = torch.linspace(-1, 1, y.numel(), device=DEVICE).view(y.shape)
    (gradient,) = torch.autograd.grad((y * cotangent).sum(), list(wanted.values()))
    assert torch.equal(gradient, expected[next(iter(wanted))])
    assert launched == ["_convolved", "_summed" if frozen == "x" else "_convolved"]


def test_layer_takes_it_where_it_is_usable(monkeypatch, objections):
    """The layer's merged product, with a bias at every tap, through the layout."""
    torch.manual_seed(0)
    layer, linear = TemporalConv(32, 3).to(DEVICE), torch.nn.Linear(32, 32).to(DEVICE)
    lengths = torch.tensor([4, 1, 2], device=DEVICE)
    layout, x = Compact(lengths, 4), torch.randn(7, 32, device=DEVICE)
    outputs = []
    for usable in (True, False):
        monkeypatch.setattr(convolution_guard, "are_usable", lambda *_, usable=usable: usable)
        outputs.append(layer.after_linear(linear, x, layout))
    assert type(outputs[0].grad_fn).__name__ == "_TritonConvolutionBackward"
    assert_close("y", *outputs, TOLERANCES[torch.float32])


def test_self_check(objections, monkeypatch, recwarn):
    """The kernels pass it; one that forgets a border does not, and is said to, once."""
    arguments = (DEVICE, torch.float32, torch.Size([3, 32, 32]), True)
    assert convolution_guard._objection(*arguments) is None and not recwarn
    convolution_guard._objection.cache_clear()
    right = convolution_guard.convolution

    def borderless(x, taps, biases, layout, dtype):
        return right(x, taps, biases, Compact(layout.lengths.sum().view(1), len(x)), dtype)

    monkeypatch.setattr(convolution_guard, "convolution", borderless)
    with pytest.warns(UserWarning, match="in PyTorch and not in the package's kernels: .*the output is off by"):
        assert convolution_guard._objection(*arguments) is not None
    recwarn.clear()
    assert convolution_guard._objection(*arguments) is not None and not recwarn


@pytest.mark.parametrize(
    "change, reason",
    [({"dtype": torch.float64}, "float64"), ({"allows_tf32": False}, "allow_tf32 is off"),
     ({"taps": torch.Size([3, 32, 264])}, "not .32, 264."), ({"taps": torch.Size([3, 16, 32])}, "not .16, 32.")],
)  # fmt: skip
def test_what_the_kernels_cannot_do_is_said(objections, change, reason):
    asked = {"device": DEVICE, "dtype": torch.float32, "taps": torch.Size([3, 32, 32]), "allows_tf32": True}
    with pytest.warns(UserWarning, match=f"The convolution runs in PyTorch.*{reason}"):
        assert convolution_guard._objection(**{**asked, **change}) is not None


def test_cpu_has_its_own_path(recwarn):
    assert not convolution_guard.are_usable(torch.device("cpu"), torch.float32, torch.Size([3, 32, 32])) and not recwarn
