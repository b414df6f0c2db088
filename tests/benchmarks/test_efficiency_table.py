"""Table 3 of the reproduction, from the results of the efficiency benchmark."""

import json
import runpy

import pytest
from reproduce_cells import BENCHMARKS  # it makes the benchmarks importable

from recbole_glintru import allocator

import efficiency  # isort: skip
from reproduction import command, efficiency_table

GLINTRU = {"scoring": {"ms": 20.0}, "epoch": {"seconds": 4.0}, "memory": {"mebibytes": 1000.0}}
OTHER = {"scoring": {"ms": 50.0}, "epoch": {"seconds": 10.0}, "memory": None}


def section(about, kind="efficiency", **others):
    return {"kind": kind, "about": about, "rows": {"GLINTRU": GLINTRU, **others}}


SECTIONS = {
    "beauty shape": section("made data", **{"SASRec-accelerated": OTHER}),
    "amazon-beauty data": section("real data", NARM=OTHER),
    "ml-100k data": section("not the paper's"),
    "growth with length, beauty": section("a curve", kind="growth"),
}


@pytest.fixture
def measured(tmp_path):
    (tmp_path / "efficiency-cpu.json").write_text(json.dumps({"device": "cpu", "sections": SECTIONS}))
    return tmp_path


def test_ours_and_the_papers_with_the_times_of_glintru(measured):
    text = efficiency_table.write(measured, "cpu")
    assert (measured / "table3-cpu.md").read_text() == text
    assert "| GLINTRU | 20.0 (1.0) | 278.0 (1.0) | 4.00 (1.0) | 3.80 (1.0) | 1.05 (1.0) | 2.62 (1.0) |" in text
    assert "| SASRec-accelerated | 50.0 (2.5) | 444.0 (1.6) | 10.0 (2.5) | 8.10 (2.1) | - | 7.67 (2.9) |" in text
    assert "| NARM | 50.0 (2.5) | - | 10.0 (2.5) | - | - | - |" in text
    assert text.count("## ") == 2 and "not the paper's" not in text and "a curve" not in text


def test_the_command_measures_and_then_reports(measured, monkeypatch, capsys):
    words = ["--shape", "beauty", "--device", "cpu", "--output", str(measured)]
    seen = []
    monkeypatch.setattr(efficiency, "main", lambda words: seen.append(words) or 0)
    assert command.main(["table3", *words]) == 0 and seen == [words]
    assert "made data" in capsys.readouterr().out
    assert command.main(["table3", "--report", *words]) == 0 and len(seen) == 1
    assert "made data" in capsys.readouterr().out


@pytest.mark.parametrize("words, kept", [(["table3", "--help"], False), (["table2", "--help"], True)])
def test_memory_is_measured_as_the_table_says(words, kept, monkeypatch):
    """Freed memory is kept where the models are trained; table 3 keeps it on request, and then its title says so."""
    calls = []
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: calls.append("kept"))
    monkeypatch.setattr("sys.argv", ["reproduce.py", *words])
    with pytest.raises(SystemExit):
        runpy.run_path(str(BENCHMARKS / "reproduce.py"), run_name="__main__")
    assert bool(calls) is kept


def test_what_ends_the_benchmark_ends_the_command(measured, monkeypatch, capsys):
    monkeypatch.setattr(efficiency, "main", lambda words: 130)
    assert command.main(["table3", "--output", str(measured)]) == 130
    assert not (measured / "table3-cpu.md").exists()


@pytest.mark.parametrize(
    "words, named", [(["--device", "cpu"], "efficiency-cpu.json"), (["--shape", "yelp"], "--shape")]
)
def test_mistakes_are_named(words, named, tmp_path, capsys):
    assert command.main(["table3", "--report", "--output", str(tmp_path), *words]) == 2
    assert named in capsys.readouterr().err
