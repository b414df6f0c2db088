"""The compiled scan of CPUs: when it is used, and how it shares its work.

What it computes is compared with the reference in `test_selective_scan`.
"""

import logging
import sys
import types

import pytest
import torch
from numba_loops import NEEDS_NUMBA

from recbole_glintru.ops.histories import host_lengths
from recbole_glintru.ops.scan import numba_guard, numba_scan
from recbole_glintru.ops.scan.selective_scan import SCANS, choose_backend, selective_scan, selective_scan_last

CPU = torch.device("cpu")
ENOUGH = 10**9  # numbers a step: every thread has work
reference = SCANS["reference"]


@pytest.fixture(autouse=True)
def nothing_is_known():
    numba_guard._failure.cache_clear()
    yield
    numba_guard._failure.cache_clear()


def pretend(monkeypatch, scan):
    """Numba is installed, and its scan is `scan`."""
    monkeypatch.setitem(sys.modules, "numba", types.ModuleType("numba"))
    monkeypatch.setattr(numba_guard, "numba_scan", scan)


def chosen(backend="auto", dtype=torch.float32):
    return choose_backend(torch.zeros(1, 1, 1, dtype=dtype), torch.zeros(1, 1, dtype=dtype), backend)


def test_it_is_used_where_it_agrees(monkeypatch, recwarn):
    pretend(monkeypatch, reference)
    assert chosen() == chosen("numba") == chosen(dtype=torch.bfloat16) == "numba"
    assert chosen(dtype=torch.float64) == "torch"
    assert not recwarn
    with pytest.raises(RuntimeError, match="scan_backend='numba'.*float64"):
        chosen("numba", torch.float64)


def test_it_is_not_traced(monkeypatch):
    pretend(monkeypatch, reference)
    seen = []

    def scan(u):
        seen.append(choose_backend(u, torch.zeros(1, 1), "auto"))
        return u + 1

    torch.jit.trace(scan, torch.zeros(1, 1, 1), check_trace=False)
    assert seen == ["torch"]


def test_other_devices_are_refused():
    with pytest.raises(RuntimeError, match="scan_backend='numba'.*not on meta"):
        choose_backend(torch.zeros(1, 1, 1, device="meta"), torch.zeros(1, 1, device="meta"), "numba")


def wrong_gradient(delta, **rest):
    return reference(delta=0.99 * delta.detach() + 0.01 * delta, **rest)


def failing(**tensors):
    raise OSError("no such processor")


@pytest.mark.parametrize(
    "scan, reason",
    [
        (lambda A, **rest: reference(A=1.01 * A, **rest), "the output is off"),
        (wrong_gradient, "the gradient of delta"),
        (failing, "no such processor"),
    ],
    ids=["output", "gradient", "fails"],
)
def test_it_is_refused_where_it_disagrees(monkeypatch, scan, reason):
    pretend(monkeypatch, scan)
    with pytest.warns(UserWarning, match=reason):
        assert chosen() == "torch"
    with pytest.raises(RuntimeError, match=f"scan_backend='numba'.*{reason}"):
        chosen("numba")


def test_its_absence_is_no_reason_to_warn(monkeypatch, recwarn):
    monkeypatch.setitem(sys.modules, "numba", None)
    assert chosen() == "torch"
    assert not recwarn
    with pytest.raises(RuntimeError, match="scan_backend='numba': Numba is not installed"):
        chosen("numba")


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_shares_are_alike(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    lengths = torch.tensor([90, 3, 80, 5, 70, 4])
    shares = numba_scan._Shares(host_lengths.remember(lengths, lengths.numpy()), 6, 100, ENOUGH)
    assert shares.workers == min(threads, 6)
    found = {}
    shares.run(lambda worker, workers, order, lengths: found.update({worker: order[worker::workers].tolist()}))
    assert sorted(sum(found.values(), [])) == list(range(6))
    work = [lengths[rows].sum().item() for rows in found.values()]
    assert max(work) - min(work) <= 90


def test_what_a_share_raises_is_raised(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def kernel(worker, *rest):
        if worker == 1:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        numba_scan._Shares(None, 4, 2, ENOUGH).run(kernel)


@pytest.mark.parametrize("rows, length, numbers, workers", [(2, 10, 4096, 1), (64, 200, 8192, 4), (0, 5, 8192, 1)])
def test_little_work_is_one_thread_s(monkeypatch, rows, length, numbers, workers):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert numba_scan._Shares(None, rows, length, numbers).workers == workers


SHAPES = {"u": (3, 20, 8), "delta": (3, 20, 8), "A": (8, 4), "B": (3, 20, 4), "C": (3, 20, 4), "delta_bias": (8,)}


@pytest.mark.parametrize(
    "name, shape",
    [("delta", (3, 1, 8)), ("A", (1, 4)), ("B", (3, 20, 7)), ("B", (3, 19, 4)), ("C", (2, 20, 4)), ("delta_bias", (1,)),
     ("lengths", (1,))],
)  # fmt: skip
def test_what_does_not_fit_is_named(name, shape):
    """The loops check no bounds."""
    tensors = {key: torch.zeros(*size) for key, size in SHAPES.items()}
    tensors["lengths"] = torch.full((3,), 20)
    tensors[name] = tensors[name].new_zeros(shape)
    with pytest.raises(ValueError, match=f"{name} has shape"):
        numba_scan.numba_scan(**tensors)


def test_no_length_is_more_than_there_are_steps():
    with pytest.raises(ValueError, match="a length of 21 is greater than the number of steps, 20"):
        numba_scan._Shares(torch.tensor([20, 21, 3]), 3, 20, ENOUGH)


def in_inference_mode(use):
    with torch.inference_mode():
        use()


def on_another_device(use):
    torch.set_default_device("meta")
    try:
        use()
    finally:
        torch.set_default_device(None)


def in_float64(use):
    torch.set_default_dtype(torch.float64)
    try:
        use()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("surrounding", [in_inference_mode, on_another_device, in_float64])
def test_the_first_use_may_be_anywhere(surrounding, monkeypatch, recwarn):
    pretend(monkeypatch, reference)
    surrounding(lambda: numba_guard.is_usable(CPU, torch.float32))
    assert chosen() == "numba" and not recwarn


def test_what_is_asked_for_by_name_cannot_be_recorded(monkeypatch):
    pretend(monkeypatch, reference)
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        torch.jit.trace(lambda u: u if choose_backend(u, torch.zeros(1, 1), "numba") else u, torch.zeros(1, 1, 1))


@NEEDS_NUMBA
@pytest.mark.parametrize("last_only", [False, True])
def test_threads_change_nothing(monkeypatch, last_only):
    generator = torch.Generator().manual_seed(0)
    rows, channels, states, length = 7, 40, 5, 37
    shapes = ((rows, channels, length),) * 2 + ((channels, states),) + ((rows, states, length),) * 2
    tensors = [torch.randn(*shape, generator=generator) for shape in shapes]
    tensors[2] = -tensors[2].exp()
    if last_only:
        tensors[4] = tensors[4][:, :, 0]
    lengths = torch.tensor([37, 1, 16, 17, 30, 2, 33])
    results = []
    monkeypatch.setattr(numba_scan, "NUMBERS_OF_A_THREAD", 1)
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        own = [tensor.clone().requires_grad_() for tensor in tensors]
        if last_only:
            out = selective_scan_last(*own, last=lengths - 1, delta_softplus=True, backend="numba")
        else:
            out = selective_scan(*own, delta_softplus=True, lengths=lengths, backend="numba")
        results.append((out, *torch.autograd.grad(out.square().sum(), own)))
    for result in results[1:]:
        for name, expected, actual in zip(("out", "u", "delta", "A", "B", "C"), results[0], result):
            if name == "A":  # a sum over the rows of each share, and then over the shares
                torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
            else:
                assert torch.equal(actual, expected), name


@NEEDS_NUMBA
def test_nothing_is_kept_without_gradients(monkeypatch):
    shapes = ((2, 20, 4), (2, 20, 4), (4, 3), (2, 20, 3), (2, 20, 3))
    tensors = [torch.rand(*shape) for shape in shapes]
    tensors[2] *= -1
    kept = []
    plain = numba_scan._Shares.run
    monkeypatch.setattr(numba_scan._Shares, "run", lambda self, *all: kept.append(all[-1].numel()) or plain(self, *all))
    with_tensors = numba_scan.numba_scan(*tensors)
    tensors[1].requires_grad_()
    with torch.no_grad():
        numba_scan.numba_scan(*tensors)
    numba_scan.numba_scan(*tensors)
    assert kept == [0, 0, 2 * 2 * 3 * numba_scan.LANES]  # rows, chunks, states, channels with those that are missing
    assert with_tensors[0].shape == (2, 20, 4) and with_tensors[1].shape == (2, 4, 3)


@NEEDS_NUMBA
@pytest.mark.parametrize("wanted", ["y", "state"])
def test_gradients_of_one_result_alone(wanted):
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(*shape, generator=generator) for shape in SHAPES.values()]
    tensors[2] = -tensors[2].abs()
    found = []
    for scan in (reference, numba_scan.numba_scan):
        own = [tensor.clone().requires_grad_() for tensor in tensors]
        result = scan(*own, delta_softplus=True)[["y", "state"].index(wanted)]
        found.append(torch.autograd.grad(result.square().sum(), own, allow_unused=True))
    for name, expected, actual in zip(SHAPES, *found):
        expected = torch.zeros_like(actual) if expected is None else expected
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@NEEDS_NUMBA
@pytest.mark.parametrize("name", SHAPES)
def test_other_precisions_are_float32_s(name):
    tensors = {key: torch.rand(*size) for key, size in SHAPES.items()}
    tensors["A"] = -tensors["A"]
    expected, _ = numba_scan.numba_scan(**tensors)
    tensors[name] = tensors[name].double().requires_grad_()
    actual, _ = numba_scan.numba_scan(**tensors)
    assert torch.equal(actual, expected)
    (gradient,) = torch.autograd.grad(actual.sum(), tensors[name])
    assert gradient.dtype == torch.float64


@NEEDS_NUMBA
def test_it_is_differentiable_once():
    tensors = {key: torch.rand(*size).requires_grad_() for key, size in SHAPES.items()}
    y, _ = numba_scan.numba_scan(**tensors)
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(y.square().sum(), tensors["u"], create_graph=True)


@NEEDS_NUMBA
def test_numba_s_own_log_stays_silent(monkeypatch):
    """RecBole's `state: DEBUG` sets the level of the root logger; who sets that of Numba's own keeps it."""
    monkeypatch.setattr(numba_guard.self_check, "failure", lambda *arguments: None)
    for level, expected in ((logging.NOTSET, logging.WARNING), (logging.INFO, logging.INFO)):
        monkeypatch.setattr(logging.getLogger("numba"), "level", level)
        numba_guard._failure.__wrapped__()
        assert logging.getLogger("numba").level == expected


@NEEDS_NUMBA
@pytest.mark.parametrize("name", ["u", "delta"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_seen(name, value):
    tensors = {key: torch.ones(*size) for key, size in SHAPES.items()}
    tensors["A"] = -tensors["A"]
    tensors[name][1, 7, 3] = value
    results = (scan(**tensors, delta_softplus=True) for scan in (numba_scan.numba_scan, reference))
    for actual, expected in zip(*results):
        assert torch.equal(actual.isfinite(), expected.isfinite()) and not actual.isfinite().all()
