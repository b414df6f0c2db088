"""The kernels, compiled for a GPU that is not there: Triton brings all that this takes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "compile_kernels.py"
sys.path.append(str(SCRIPT.parent))

import compile_kernels  # noqa: E402


def compiled(case, folder):
    """Name -> the numbers of its row, for the kernels whose names have this part."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment.update(PYTHONPATH=os.pathsep.join(sys.path), TRITON_CACHE_DIR=str(folder))
    command = [sys.executable, str(SCRIPT), "--only", case]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = [line for line in run.stdout.splitlines() if case in line]
    return {line.split(" | ")[0].strip("| "): list(map(int, re.findall(r"\| (\d+) ", line))) for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case, tensor_cores",
    [("d=128 float32 padded", True), ("d=48 bfloat16 packed", True), ("d=256 float16 padded", True),
     ("d=128 k=3 float32", True), ("D=128 N=16 bfloat16 last", False)],
)  # fmt: skip
def test_compiles_for_hopper(case, tensor_cores, tmp_path):
    """Forward and backward kernels, into a program that a multiprocessor can hold and that spills next to nothing."""
    pytest.importorskip("triton.backends.nvidia", reason="this Triton has no compiler for NVIDIA's GPUs")
    rows = compiled(case, tmp_path)
    assert len(rows) == (3 if "k=" in case else 2)
    for registers, stack, shared, wgmma, _, _ in rows.values():
        assert registers <= 255 and stack <= 512 and shared <= 232_448
        assert (wgmma > 0) == tensor_cores
        assert tensor_cores or shared == 0, "a thread of the scan has its own channel, and needs none of another's"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["d=64 k=3 float32", "d=128 k=3 bfloat16", "d=128 k=11 float32"])
def test_sums_of_the_convolution_are_not_pipelined(case, tmp_path):
    """Triton would copy the next rows of `grad_y` over those that an asynchronous product still reads."""
    pytest.importorskip("triton.backends.nvidia", reason="this Triton has no compiler for NVIDIA's GPUs")
    rows = compiled(case, tmp_path)
    (copies,) = (row[-1] for name, row in rows.items() if name.startswith("tap_gradients"))
    assert copies == 0
    assert all(row[-1] > 0 for name, row in rows.items() if name.startswith("convolve")), "the column counts something"


@pytest.mark.parametrize("capability, resident", [(80, False), (90, True)])
def test_cases_are_what_such_a_card_runs(capability, resident):
    """The weights of 128 wide states in float32, 192 KiB, stay on Hopper's chips alone."""
    for layout in ("padded", "packed"):
        _, _, constants, _ = compile_kernels.all_cases(capability)[f"gru_forward d=128 float32 {layout}"]
        assert constants["RESIDENT"] == resident
