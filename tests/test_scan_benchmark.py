"""The benchmark of the selective scans, `benchmarks/ops.py`."""

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "ops.py"
sys.path.append(str(FILE.parent))


@pytest.fixture
def scans(monkeypatch):
    """The script as a module; by its file, for `tests/ops` has the same name."""
    place = importlib.util.spec_from_file_location("scan_benchmark", FILE)
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    monkeypatch.setattr(module, "peak_memory", lambda *_: 1.0)  # a process for each takes seconds
    return module


def test_scans_are_compared(scans, tmp_path):
    sizes = "--rows 2 --length 5 --hidden 4 --states 3 --turns 1 --plain-rows 1 --growth 2 3"
    scans.main([*sizes.split(), "--threads", "1", "--device", "cpu", "--output", str(tmp_path)])
    text = (tmp_path / "scan-cpu.md").read_text()
    assert "B=2, L=5, D=8, N=3" in text
    assert [text.count(f"\n| {name} |") for name in ("torch", "reference", "sliced", "2", "3")] == [2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    "arguments", ["--rows 0", "--plain-rows -1", "--device tpu", "--turns none", "--device cpu --candidates mamba_ssm"]
)
def test_wrong_arguments_of_the_scans(scans, arguments, capsys, monkeypatch):
    monkeypatch.setattr(scans, "measure", pytest.fail)
    with pytest.raises(SystemExit, match="2"):
        scans.main(arguments.split())
    assert arguments.split()[-1] in capsys.readouterr().err
