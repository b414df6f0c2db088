import pytest
import torch
from triton_kernels import DEVICE, NEEDS_GPU, ON_GPU, ON_GPU_ALONE, assert_close, devices_of_launches

from recbole_glintru.layers.gru import GRU
from recbole_glintru.ops import tensor_cores
from recbole_glintru.ops.gru import triton_guard as gru_guard
from recbole_glintru.ops.gru.reference import gru_reference
from recbole_glintru.ops.layouts.compact import Compact
from recbole_glintru.ops.layouts.padded import Padded

triton_gru = pytest.importorskip("recbole_glintru.ops.gru.triton_gru")
# Of the largest element. float32: the interpreter's products are exact, a GPU's are TF32, of 2^-11 a factor. float16
# has 2^-11 too and bfloat16 2^-8, also for what is stored; errors of up to 65 steps add up.
TOLERANCES = {torch.float32: 2e-2 if ON_GPU else 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
slow = pytest.mark.slow
SHAPES = [
    (1, 1, 32),
    (3, 2, 48),
    (17, 2, 64),
    (1, 5, 128),
    (3, 2, 160),
    pytest.param(63, 3, 48, marks=slow),
    pytest.param(3, 65, 32, marks=slow),
    pytest.param(1, 200, 64, marks=slow),
    pytest.param(17, 3, 160, marks=slow),
    pytest.param(3, 3, 256, marks=slow),
    pytest.param(2048, 200, 128, marks=ON_GPU_ALONE),
]


def problem(rows, length, d, inputs=None):
    generator = torch.Generator().manual_seed(rows * length + d)

    def draw(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator).mul_(scale).to(DEVICE)

    inputs = inputs or d
    tensors = {
        "x": draw(rows, length, inputs),
        "weight_ih": draw(3 * d, inputs, scale=inputs**-0.5),
        "weight_hh": draw(3 * d, d, scale=d**-0.5),
    }
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    return tensors, lengths.to(DEVICE), draw(rows, length, d)


def kernels(x, lengths, weight_ih, weight_hh, dtype=torch.float32, layout=Padded):
    layout = layout(lengths, x.shape[1])
    return layout.pad(triton_gru.triton_gru(layout.arrange(x), layout, weight_ih, weight_hh, dtype).float())


def outcome(function, tensors, lengths, cotangent, **options):
    own = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    states = function(lengths=lengths, **own, **options)
    gradients = torch.autograd.grad((states * cotangent).sum(), list(own.values()))
    return dict(zip(["states", *own], [states, *gradients]))


@pytest.fixture
def objections():
    gru_guard._objection.cache_clear()
    yield
    gru_guard._objection.cache_clear()


@pytest.mark.parametrize("layout", [Padded, Compact])
@pytest.mark.parametrize("rows, length, d", SHAPES)
def test_equals_reference(rows, length, d, layout):
    arguments = problem(rows, length, d)
    expected = outcome(gru_reference, *arguments)
    actual = outcome(kernels, *arguments, layout=layout)
    for name, value in expected.items():
        assert_close(name, actual[name], value, TOLERANCES[torch.float32])


@pytest.mark.parametrize(
    "rows, length, d, layout",
    [
        (3, 4, 64, Padded),
        pytest.param(17, 65, 32, Padded, marks=slow),
        *(pytest.param(19, 6, d, Compact, marks=slow) for d in (48, 128, 160)),
        pytest.param(2048, 200, 128, Compact, marks=ON_GPU_ALONE),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_half_precision(rows, length, d, layout, dtype):
    arguments = problem(rows, length, d)
    expected = outcome(gru_reference, *arguments)
    actual = outcome(kernels, *arguments, dtype=dtype, layout=layout)
    for name, value in expected.items():
        assert_close(name, actual[name], value, TOLERANCES[dtype])


@pytest.mark.parametrize("layout", [Padded, Compact])
def test_histories_without_a_step(layout):
    """As many of them as a program has, before it in its row of programs, and among the others."""
    tensors, _, cotangent = problem(20, 3, 32)
    lengths = torch.tensor([0, 3, 0, 1] + 16 * [0], device=DEVICE)
    expected = outcome(gru_reference, tensors, lengths, cotangent)
    for name, value in outcome(kernels, tensors, lengths, cotangent, layout=layout).items():
        assert_close(name, value, expected[name], TOLERANCES[torch.float32])


def test_other_input_width():
    arguments = problem(3, 3, 32, inputs=20)
    expected = outcome(gru_reference, *arguments)
    for name, value in outcome(kernels, *arguments).items():
        assert_close(name, value, expected[name], TOLERANCES[torch.float32])


def test_weights_read_at_each_step(monkeypatch):
    """What GPUs with little shared memory do, at a width that the others keep on the chip."""
    monkeypatch.setattr(triton_gru, "shared_memory", lambda device: 0)
    arguments = problem(3, 4, 48)
    expected = outcome(gru_reference, *arguments)
    for name, value in outcome(kernels, *arguments).items():
        assert_close(name, value, expected[name], TOLERANCES[torch.float32])


@pytest.mark.parametrize(
    "rows, length, d, layout", [(17, 3, 32, Padded), pytest.param(2048, 200, 128, Compact, marks=ON_GPU_ALONE)]
)
def test_same_bits_twice(rows, length, d, layout):
    arguments = problem(rows, length, d)
    first, second = (outcome(kernels, *arguments, layout=layout) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_padding_is_zero_and_not_read():
    """States and gradients are zero behind a row's length, whatever stands there."""
    tensors, lengths, cotangent = problem(5, 6, 32)
    behind = torch.arange(6, device=DEVICE) >= lengths.unsqueeze(1)
    clean = outcome(kernels, tensors, lengths, cotangent)
    layout = Padded(lengths, 6)
    states = triton_gru.triton_gru(tensors["x"], layout, tensors["weight_ih"], tensors["weight_hh"], torch.float32)
    assert behind.any() and not states[behind].any() and not clean["x"][behind].any()
    dirty = outcome(kernels, {**tensors, "x": tensors["x"].masked_fill(behind.unsqueeze(-1), 1e3)}, lengths, cotangent)
    for name in ("states", "x", "weight_hh", "weight_ih"):
        torch.testing.assert_close(dirty[name], clean[name])


def test_self_check(objections, monkeypatch, recwarn):
    """The kernels pass it; a kernel that is off does not, and is said to be, once."""
    arguments = (DEVICE, torch.float32, 32, False, True)
    assert gru_guard._objection(*arguments) is None and not recwarn
    gru_guard._objection.cache_clear()
    right = gru_guard.gru
    monkeypatch.setattr(gru_guard, "gru", lambda *args: right(*args) * 1.1)
    with pytest.warns(UserWarning, match="not in the package's kernels: .*the output is off by 0.1"):
        assert gru_guard._objection(*arguments) is not None
    recwarn.clear()
    assert gru_guard._objection(*arguments) is not None and not recwarn


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"dtype": torch.float64}, "float64"),
        ({"allows_tf32": False}, "allow_tf32 is off"),
        ({"hidden_size": 264}, "not 264"),
        ({"hidden_size": 16}, "not 16"),
        ({"bias": True}, "no biases"),
    ],
)
def test_what_the_kernels_cannot_do_is_said(objections, change, reason):
    asked = {"device": DEVICE, "dtype": torch.float32, "hidden_size": 32, "bias": False, "allows_tf32": True}
    with pytest.warns(UserWarning, match=f"runs in cuDNN.*{reason}"):
        assert reason in gru_guard._objection(**{**asked, **change})


def test_self_check_is_of_both_layouts(objections, monkeypatch):
    """Each has a kernel of its own: one that is right in `Padded` alone is not used."""
    right = gru_guard.gru
    monkeypatch.setattr(
        gru_guard, "gru", lambda x, layout, *rest: right(x, layout, *rest) * (1 + 0.1 * isinstance(layout, Compact))
    )
    with pytest.warns(UserWarning, match="in the layout Compact the output is off by 0.1"):
        assert gru_guard._objection(DEVICE, torch.float32, 32, False, True) is not None


def test_launches_on_the_device_of_the_tensors(monkeypatch):
    """Triton itself takes the current one."""
    devices = devices_of_launches(monkeypatch, triton_gru)
    tensors, lengths, cotangent = problem(2, 2, 32)
    outcome(kernels, tensors, lengths, cotangent)
    assert devices == 2 * [tensors["x"].device]


def test_cpu_has_its_own_path(recwarn):
    assert not gru_guard.are_usable(torch.device("cpu"), torch.float32, 32, False) and not recwarn


@NEEDS_GPU
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_layer_on_gpu(autocast):
    torch.manual_seed(0)
    layer = GRU(64).to(DEVICE)
    x, lengths = torch.randn(40, 30, 64, device=DEVICE), torch.randint(1, 31, (40,), device=DEVICE)
    layout = Padded(lengths, 30)
    with torch.autocast("cuda", dtype=autocast or torch.float16, enabled=autocast is not None):
        assert gru_guard.are_usable(DEVICE, tensor_cores.product_type(x), 64, False)
        actual = layout.pad(layer(x, layout).float())
    expected = gru_reference(x, lengths, layer.weight_ih_l0, layer.weight_hh_l0)
    assert_close("states", actual, expected, TOLERANCES[autocast or torch.float32])


@NEEDS_GPU
@pytest.mark.parametrize("hidden_size, bias, reason", [(16, False, "not 16"), (64, True, "no biases")])
def test_layer_on_gpu_without_the_kernels(objections, hidden_size, bias, reason):
    """cuDNN takes what they cannot, in the layout that a model has there."""
    torch.manual_seed(0)
    layer = GRU(hidden_size, bias=bias).to(DEVICE)
    tensors, lengths, cotangent = problem(40, 30, hidden_size)
    x = tensors["x"].requires_grad_()
    layout, weights = Compact(lengths, 30), list(layer.parameters())
    with pytest.warns(UserWarning, match=f"runs in cuDNN.*{reason}"):
        actual = layout.pad(layer(layout.arrange(x), layout))
    expected = gru_reference(x, lengths, *layer.all_weights[0])
    assert_close("states", actual, expected, TOLERANCES[torch.float32])
    gradients = [torch.autograd.grad((states * cotangent).sum(), [x, *weights]) for states in (actual, expected)]
    for name, *values in zip(["x", *dict(layer.named_parameters())], *gradients):
        assert_close(name, *values, TOLERANCES[torch.float32])
