"""docs/accelerate.md: its examples as they stand there, on a few users of ml-100k, and its lists of models."""

import re
import sys

import pytest
from documentation import FOLDER, SHORT, examples
from recbole.config import Config
from recbole.data import create_dataset
from recbole.utils import get_model
from test_accelerate import DEPENDENT, INVARIANT

from recbole_glintru import accelerate
from recbole_glintru.launch import command

PAGE = FOLDER / "accelerate.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the documentation is not installed")


@pytest.fixture
def accelerated(monkeypatch):
    """The names of the models that have been accelerated."""
    names, original = [], accelerate.accelerate

    def recorded(model, *args):
        names.append(type(model).__name__)
        return original(model, *args)

    monkeypatch.setattr(accelerate, "accelerate", recorded)
    return names


def example(beginning):
    """The one example of the page that begins like this."""
    (text,) = (text for _, text in examples(PAGE.read_text("utf-8")) if text.startswith(beginning))
    return text


def test_all_are_executed():
    assert len(examples(PAGE.read_text("utf-8"))) == 3


@pytest.mark.slow
def test_command(workplace, accelerated):
    python, script, *arguments = example("python run_recbole.py").split()
    assert command.main([*arguments, *SHORT]) == 0
    assert accelerated == ["SASRec"] and list((workplace / "saved").glob("SASRec-*.pth"))


def test_script(workplace, monkeypatch, accelerated):
    monkeypatch.setattr(sys, "argv", ["script", *SHORT])
    exec(compile(example("import recbole_glintru"), "script", "exec"), {})
    assert accelerated == ["SASRec"] and list((workplace / "saved").glob("SASRec-*.pth"))


def test_notebook(workplace, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["notebook", *SHORT])
    config = Config(model="SASRec", dataset="ml-100k")
    cell = {"model": get_model("SASRec")(config, create_dataset(config))}
    exec(compile(example("from recbole_glintru.accelerate"), "notebook", "exec"), cell)
    assert isinstance(cell["model"], accelerate.Accelerated) and issubclass(accelerate.NotInvariant, ValueError)


def test_its_lists_are_those_that_are_tested():
    listed = {}
    for title in ("accepted", "refused"):
        rows = PAGE.read_text("utf-8").partition(f"| {title} |")[2].partition("\n\n")[0]
        listed[title] = ", ".join(re.findall(r"^\| ([^|-][^|]*) \|", rows, flags=re.MULTILINE)).split(", ")
    assert sorted(listed["accepted"]) == sorted(INVARIANT)
    assert sorted(listed["refused"]) == sorted([*DEPENDENT, "KSR", "GRU4RecKG"])
