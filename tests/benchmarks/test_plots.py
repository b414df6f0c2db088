"""The plots of `benchmarks/efficiency.py`: what is drawn of a section's results."""

import sys

import pytest
import reproduce_cells  # noqa: F401  makes the benchmarks importable
from measure import plots

TABLE = {
    "kind": "efficiency",
    "about": "Tiny shape: 16 histories a batch.",
    "rows": {
        "GLINTRU": {"training": {"ms": 110.0}, "memory": {"mebibytes": 67.0}},
        "SASRec": {"training": {"ms": 4200.0}, "memory": {"mebibytes": 4000.0}},
        "LightSANs": {"training": {"ms": 4300.0}, "memory": {"mebibytes": None, "reason": "not measured"}},
        "SSEPT": {"memory": {"mebibytes": None, "reason": "out of memory"}},
    },
}
GROWTH = {
    "kind": "growth",
    "axis": "items",
    "values": [1000, 100_000],
    "rows": {
        "GLINTRU": {
            "100000": {"training": {"ms": 60.0}, "mebibytes": 90.0},
            "1000": {"training": {"ms": 28.0}, "mebibytes": 18.0},
        },
        "GRU4Rec": {"1000": {"training": {"ms": 90.0}, "mebibytes": None}, "100000": {"reason": "too slow"}},
    },
}
SECTIONS = {"tiny shape": TABLE, "growth with catalogue, tiny": GROWTH, "loader, tiny shape": {"kind": "loader"}}


@pytest.fixture
def pyplot():
    pytest.importorskip("adjustText")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_a_file_for_each_section_that_has_a_picture(pyplot, tmp_path):
    pictures = plots.draw(tmp_path, "efficiency-cpu", SECTIONS)
    assert {name: path.name for name, path in pictures.items()} == {
        "tiny shape": "efficiency-cpu-tiny-shape.png",
        "growth with catalogue, tiny": "efficiency-cpu-growth-with-catalogue-tiny.png",
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures.values())
    unmeasured = {**TABLE, "rows": {"SSEPT": TABLE["rows"]["SSEPT"]}}
    assert plots.draw(tmp_path, "efficiency-cpu", {"tiny shape": unmeasured}) == {}


def test_time_against_memory(pyplot):
    """A point and a name for each model of which both are known."""
    (axes,) = plots._time_against_memory(pyplot, TABLE).axes
    points = [tuple(collection.get_offsets()[0]) for collection in axes.collections]
    assert points == [(110, 67), (4200, 4000)]
    assert [text.get_text() for text in axes.texts] == ["GLINTRU", "SASRec"]
    assert axes.get_title().endswith("Tiny shape")


def test_curves(pyplot):
    """In ascending order, of the values that were measured."""
    time, memory = plots._curves(pyplot, GROWTH).axes
    curves = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in time.get_lines()}
    assert curves == {"GLINTRU": ([1000, 100_000], [28, 60]), "GRU4Rec": ([1000], [90])}
    assert [list(line.get_ydata()) for line in memory.get_lines()] == [[18, 90]]
    assert (time.get_xscale(), time.get_xlabel()) == ("log", "items")


@pytest.mark.parametrize("absent", ["matplotlib", "adjustText"])
def test_without_matplotlib_there_are_none(monkeypatch, tmp_path, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    assert plots.draw(tmp_path, "efficiency-cpu", SECTIONS) == {} and not list(tmp_path.iterdir())
