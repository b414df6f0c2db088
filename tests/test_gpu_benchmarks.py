"""What the benchmarks do on a GPU, as far as that can be seen without one."""

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import DeviceType

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import efficiency  # noqa: E402
import kernels  # noqa: E402
from measure import memory, options, profiling, shapes, table, timing  # noqa: E402

GPU = torch.device("cuda", 0)


@pytest.fixture
def tiny_shape(monkeypatch):
    spread = tuple(np.linspace(8, 50, 20)), tuple(np.linspace(2, 40, 20))
    monkeypatch.setitem(shapes.SHAPES, "tiny", shapes.Shape("amazon-video-games", 60, 80, 1200, *spread, {}))
    monkeypatch.setattr(timing, "ENOUGH", 0.01)
    monkeypatch.setattr(memory, "peak", lambda *_, **__: memory.Peak(None, "not measured"))


def measure(tmp_path, *more):
    words = ["--shape", "tiny", "--device", "cpu", "--batch_size", "16", "--evaluation_seconds", "0.1"]
    return efficiency.main([*words, "--output", str(tmp_path), *more])


def results(tmp_path):
    return json.loads((tmp_path / "efficiency-cpu.json").read_text())["sections"]


# ---------------------------------------------------------------------------------------------- devices and signals


def test_a_gpu_has_an_index(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert options.find_device("cuda") == GPU
    assert options.find_device("cuda:1") == torch.device("cuda", 1)
    assert options.find_device("cpu") == torch.device("cpu")


def test_interrupts_end_what_a_script_has_started():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under `&`
    try:
        options.obey_interrupts()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------------------------------------ clocks


@pytest.mark.parametrize("launches, device", [(1, 0.25e-3), (40, 0.25e-3), (300, 0.25e-3), (900, None)])
def test_calls_are_launched_before_the_gpu_begins(launches, device, monkeypatch):
    """A made GPU: a call takes the host 1 ms and the GPU 0.25 ms, which waits for its host unless it sleeps.

    The host waits for it while 1024 launches do.
    """
    state, ends = SimpleNamespace(host=0.0, gpu=0.0), []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            state.gpu = self.time = max(state.gpu, state.host)

        def elapsed_time(self, end):
            return 1000 * (end.time - self.time)

    def call():
        for _ in range(launches):
            state.host = max([state.host + 1e-3 / launches, *ends[-1024:-1023]])
            state.gpu = max(state.gpu, state.host) + 0.25e-3 / launches
            ends.append(state.gpu)

    def sleep(cycles):
        state.gpu = max(state.gpu, state.host) + cycles / timing.CYCLES

    def synchronize(_):
        state.host = max(state.host, state.gpu)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", sleep, raising=False)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: state.host))
    monkeypatch.setattr(timing, "launches", lambda action, _: action() or launches)
    times = timing.device_and_clock(call, GPU)
    assert times.device == (device and pytest.approx(device))
    assert times.clock == pytest.approx(1e-3, rel=0.05)
    assert timing.seconds(call, GPU) > 1e-3  # with the host's time


def test_products_may_be_tf32_where_the_kernels_are(monkeypatch):
    seen = []
    monkeypatch.setattr(timing, "seconds", lambda *_: 1.0)
    monkeypatch.setattr(
        timing.tensor_cores, "tf32_products", lambda x: seen.append(x.dtype) or contextlib.nullcontext()
    )
    timing.product_rate(torch.device("cpu"), 4, dtype=torch.bfloat16)
    timing.product_rate(torch.device("cpu"), 4)
    assert seen == [torch.bfloat16, torch.float32]


# ------------------------------------------------------------------------------------------------------------ memory


class Taking(nn.Module):
    """Says how many rows each step had."""

    def __init__(self, steps):
        super().__init__()
        self.weight, self.steps = nn.Parameter(torch.zeros(1)), steps

    def calculate_loss(self, batch):
        self.steps.append(len(batch))
        return self.weight.sum()


def test_workspaces_are_nobodys_memory(monkeypatch):
    """A made allocator: the first step takes 32 MiB for good, and a step with all rows 64 MiB while it lasts."""
    steps = []
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2**25 if steps else 0)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 2**25 + 2**26)
    for name in ("empty_cache", "reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    peak = memory.peak(Taking(steps), torch.zeros(100), GPU)
    assert steps == [memory.FEW, 100, 100]
    assert peak.mebibytes == pytest.approx(64, abs=0.01)


# ----------------------------------------------------------------------------------------------------------- profile


def event(key, microseconds, count, device_type=DeviceType.CUDA, **more):
    return SimpleNamespace(
        key=key,
        count=count,
        device_type=device_type,
        self_device_time_total=microseconds,
        self_cpu_time_total=1,
        **more,
    )


def test_kernels_are_counted_once():
    events = [
        event("aten::mm", 300, 3, DeviceType.CPU),
        event("sm90_xmma_gemm_f32", 300, 3, is_user_annotation=False),
        event("Optimizer.step#Adam.step", 500, 1, is_user_annotation=True),
        event("Optimizer.step#Adam.step", 500, 1),  # PyTorch that has no such attribute
        event("gru_forward", 200, 1),
    ]
    found = profiling.gpu_kernels(SimpleNamespace(key_averages=lambda: events))
    assert found == [("sm90_xmma_gemm_f32", 0.3, 3), ("gru_forward", 0.2, 1)]


def test_launches_of_a_call_are_counted(monkeypatch):
    called = []
    events = [event("aten::mm", 300, 3, DeviceType.CPU), event("gemm", 300, 3), event("gru_forward", 200, 2)]
    made = contextlib.nullcontext(SimpleNamespace(key_averages=lambda: events))
    monkeypatch.setattr(timing, "profile", lambda activities: made)
    monkeypatch.setattr(torch.cuda, "synchronize", called.append)
    assert timing.launches(lambda: called.append("call"), GPU) == 5
    assert called == ["call", GPU]


def test_kernels_have_a_kind():
    own = set()
    for file in (ROOT / "recbole_glintru" / "ops").glob("*/triton_kernels.py"):
        for definition in ast.parse(file.read_text()).body:
            if isinstance(definition, ast.FunctionDef) and not definition.name.startswith("_"):
                assert profiling.kind_of_kernel(definition.name) in profiling.OWN_KERNELS, definition.name
                own.add(profiling.kind_of_kernel(definition.name))
    assert own == set(profiling.OWN_KERNELS)
    for name, kind in {
        "void GRU_elementWise_fp<float, float>": "cuDNN's recurrence",
        "nvjet_tst_128x64_64x6_2x1_v_bz_TNT": "matrix products",
        "Memcpy DtoD (Device -> Device)": "copies, zeros, concatenations",
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::AdamFunctor>": "optimiser",
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>": profiling.OTHER,
        "void cunn_SoftMaxForward<4, float>": "softmax of the catalogue",
    }.items():
        assert profiling.kind_of_kernel(name) == kind


# --------------------------------------------------------------------------------------------------------- the table


def test_three_turns_come_before_evaluation(tmp_path, tiny_shape, monkeypatch):
    begun = []
    turn = table.Table._turn
    monkeypatch.setattr(table.Table, "_turn", lambda self, *of: begun.append(of) or turn(self, *of))
    evaluate = table.Table._measure_evaluation
    monkeypatch.setattr(
        table.Table, "_measure_evaluation", lambda self, *of: begun.append("evaluation") or evaluate(self, *of)
    )
    assert measure(tmp_path, "--models", "GLINTRU", "--turns", "4") == 0
    assert begun == [*(("GLINTRU", number) for number in range(3)), "evaluation", ("GLINTRU", 3)]


def test_a_model_that_takes_all_memory_when_warmed_up_is_left_out(tmp_path, tiny_shape, monkeypatch):
    def warm_up(lane):
        if lane.name == "LinRec":
            raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(table.Lane, "warm_up", warm_up)
    assert measure(tmp_path, "--models", "GLINTRU", "LinRec", "--turns", "1") == 0
    section = results(tmp_path)["tiny shape"]
    assert "LinRec: out of memory." in section["notes"] and "training" not in section["rows"]["LinRec"]


def test_preparing_obeys_the_budget(tmp_path, tiny_shape, monkeypatch):
    spent = []
    monkeypatch.setattr(table.Budget, "is_spent", lambda self: bool(spent))
    warm_up = table.Lane.warm_up
    monkeypatch.setattr(table.Lane, "warm_up", lambda self: spent.append(1) or warm_up(self))
    assert measure(tmp_path, "--models", "GLINTRU", "LinRec") == 0
    section = results(tmp_path)["tiny shape"]
    assert list(section["rows"]) == ["GLINTRU"] and section["rows"]["GLINTRU"]["training"]["turns"] == 1
    assert "LinRec: no time was left." in section["notes"]


def test_what_is_cut_off_keeps_what_it_has(tmp_path, tiny_shape, monkeypatch):
    def die(*_):
        raise SystemExit(137)

    monkeypatch.setattr(efficiency, "SECONDS_UNWRITTEN", 0.0)
    monkeypatch.setattr(table.Table, "_measure_evaluation", die)
    with pytest.raises(SystemExit):
        measure(tmp_path, "--models", "GLINTRU", "--turns", "2")
    section = results(tmp_path)["tiny shape"]
    assert section["rows"]["GLINTRU"]["training"]["ms"] > 0 and not section["finished"]
    assert "Stopped before its end" in (tmp_path / "efficiency-cpu.md").read_text()


def test_table_in_bfloat16(tmp_path, tiny_shape, monkeypatch):
    types = set()
    monkeypatch.setattr(timing, "product_rate", lambda *_, **__: 1e12)  # bfloat16 takes a CPU long
    monkeypatch.setattr(memory, "training_step", _seeing(memory.training_step, types))
    assert measure(tmp_path, "--models", "GLINTRU", "--turns", "1", "--bfloat16") == 0
    row = results(tmp_path)["tiny shape, bfloat16"]["rows"]["GLINTRU"]
    assert types == {torch.bfloat16} and "evaluation" not in row and row["epoch"]["seconds"] > 0


def _seeing(step, types):
    def seen(model, optimiser, batch, precision=None):
        types.add(precision)
        step(model, optimiser, batch, precision)

    return seen


# ----------------------------------------------------------------------------------------------------------- kernels


def test_a_part_that_fails_is_not_the_end(tmp_path, monkeypatch, capsys):
    def broken(_):
        yield "Half", ["a"], [["1"]]
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(kernels, "PARTS", {"broken": broken, "whole": lambda _: [("Whole", ["b"], [["2"]])]})
    monkeypatch.setattr(kernels.report, "device_name", lambda _: "a card")
    assert kernels.run(SimpleNamespace(device=GPU, parts=["broken", "whole"], small=False, output=tmp_path)) == 1
    kernels.write(tmp_path, "a card", {"Half": {"header": ["a"], "rows": [["3"]]}})
    written = json.loads((tmp_path / "kernels-a-card.json").read_text())["sections"]
    assert {title: section["rows"] for title, section in written.items()} == {"Half": [["3"]], "Whole": [["2"]]}
    assert "no such kernel" in capsys.readouterr().err


def test_what_the_gpu_alone_takes_may_be_unknown(monkeypatch):
    times = [timing.Times(None, 4e-3), timing.Times(1e-3, 2e-3)]
    monkeypatch.setattr(kernels, "_times_and_peak", lambda *_: (times[0], times.pop(0), 5.0))
    monkeypatch.setattr(kernels, "_tile", contextlib.nullcontext)
    actions = {name: (print, (), torch.float32, {}) for name in ("torch", "triton")}
    made = SimpleNamespace(device=GPU, ceilings={torch.float32: 1e12})
    first, second = kernels._measured(actions, made, None, 1e8)
    assert first == ["torch", "", "4", "", "4", "", "1", "5", "", ""]
    assert second == ["triton", "1", "2", "1", "2", "", "2", "5", "0.1", "10.0 %"]


def test_scans_know_their_lengths_on_the_host(monkeypatch):
    known = []
    monkeypatch.setattr(kernels, "selective_scan_last", lambda *of: known.append(of[5]) or of[0].sum())
    made = SimpleNamespace(device=torch.device("cpu"), small=True, batch_size=20, ceilings={})
    monkeypatch.setattr(
        kernels,
        "_measured",
        lambda actions, _, lengths, __: actions["torch"][0](*actions["torch"][1], lengths, None),
    )
    list(kernels.scan(made))
    assert len(known) == 2 and all(map(kernels.host_lengths.are_known, known))
    assert all((kernels.host_lengths.of(last) == last.numpy()).all() for last in known)


def test_the_gru_is_measured_on_the_layouts_that_the_model_has(monkeypatch):
    """cuDNN's on padded rows, the kernels' on real positions alone."""
    seen = []
    monkeypatch.setattr(kernels, "_measured", lambda actions, _, layout, __: seen.append((actions, layout)))
    made = SimpleNamespace(device=torch.device("cpu"), small=True, batch_size=20, ceilings={}, sweep=False)
    list(kernels.gru(made))
    assert len(seen) == 2
    for actions, layout in seen:
        cudnn, own = (actions[f"{name}, {next(iter(kernels.TYPES))}"] for name in ("cuDNN", "kernels"))
        rows, longest, d = cudnn[1][0].shape
        assert own[1][0].shape == (len(layout.ranks), d)
        assert rows == len(layout.lengths) and len(layout.ranks) == layout.lengths.sum() < rows * longest


@pytest.mark.slow
def test_ceilings_and_step_run(capsys, monkeypatch):
    monkeypatch.setattr(timing, "ENOUGH", 0.01)
    assert kernels.main(["--device", "cpu", "--small", "--parts", "ceilings", "step"]) == 0
    out = capsys.readouterr().out
    assert out.count("of the ceiling of such products") == 4 and "product, bfloat16" in out
    assert kernels.main(["--device", "tpu"]) == 2


# -------------------------------------------------------------------------------------------------------- the script

PYTHON = """#!/usr/bin/env bash
# Instead of Python: notes what it is called for, and collects or runs a test of each file.
echo "$*" >>"$CALLS"
case "$*" in
    *--collect-only*) printf '%s\\n' tests/test_triton_{gru,convolution,scan}.py::test_x[a-1] ;;
    "-m pytest"*) [ -z "${HANGS:-}" ] || exec sleep "$HANGS"; echo "1 passed in 0.1s" ;;
    *--growth*length*) sleep "${SLOW:-0}" ;;
esac
"""


@pytest.fixture
def gpu_script(tmp_path):
    if sys.platform.startswith("win"):
        pytest.skip("bash, timeout, xargs")
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def call(*words, **environment):
        calls.write_text("")
        given = {"PYTHON": str(python), "CALLS": str(calls), "RESULTS": str(tmp_path / "results")}
        environment = {**os.environ, **given, **environment}
        command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), *words]
        run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
        return run, calls.read_text().splitlines()

    return call


def test_parts_come_in_the_order_of_their_worth(gpu_script, tmp_path):
    run, calls = gpu_script()
    assert run.returncode == 0, run.stderr
    order = ["fill_cache", "--collect-only", "--parts agreement", "--shape ml-1m --budget", "--shape beauty --budget",
             "--growth layers", "--growth length", "--bfloat16", "--parts tail", "compile_kernels"]  # fmt: skip
    places = [next(i for i, call in enumerate(calls) if what in call) for what in order]
    assert places == sorted(places)
    assert "passed in" in run.stdout and "1 passed in" in (tmp_path / "results" / "gpu-tests.log").read_text()


@pytest.mark.slow
def test_tests_of_the_kernels_that_hang_do_not_outlive_their_time(gpu_script):
    """They would go on beside what is measured. A sleep of an odd number of seconds is easily found."""
    run, _ = gpu_script(HANGS="4321.5", SECONDS_LEFT="12")
    assert run.returncode == 1 and "tests of the kernels (status 124)" in run.stderr
    left = [file for file in Path("/proc").glob("[0-9]*/cmdline") if b"4321.5" in _content(file)]
    assert not left


def _content(file):
    try:
        return file.read_bytes()
    except OSError:  # the process has ended
        return b""


@pytest.mark.slow
def test_the_script_keeps_to_its_limit(gpu_script):
    begin = time.monotonic()
    run, calls = gpu_script(SECONDS_LEFT="12", SLOW="100")
    assert run.returncode == 1 and time.monotonic() - begin < 30
    assert "growth with the length (status" in run.stderr and "tail and compiled steps (no time)" in run.stderr
    assert not any("tail" in call for call in calls)


def test_other_modes_of_the_script(gpu_script, tmp_path):
    source = tmp_path / "mamba"
    source.mkdir()
    run, calls = gpu_script("--build-mamba-ssm", str(source), str(tmp_path / "built"))
    assert run.returncode == 0 and len(calls) == 1 and f"--target {tmp_path}/built {source}" in calls[0]
    run, calls = gpu_script("--data", str(source), "--mamba-ssm", str(tmp_path / "built"))
    assert run.returncode == 0 and sum(f"--data_path {source}" in call for call in calls) == 2
    assert not any("-m pytest" in call for call in calls)
    for words in (["--data"], ["--data", "/nowhere"], ["--mamba-ssm"], ["--bogus"]):
        run, calls = gpu_script(*words)
        assert run.returncode == 2 and not calls
