"""Every example of docs/existing-setups.md, as it stands there, on a few users of ml-100k.

The settings that make a run short are put on the command line, which is above all others in RecBole.
"""

import importlib
import logging
import re
import runpy
import shlex
import sys
import types
from pathlib import Path

import numpy as np
import process_runs
import pytest
import torch
import yaml
from documentation import FOLDER, SHORT, examples

from recbole_glintru import plugin, published

PAGE = FOLDER / "existing-setups.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the documentation is not installed")


def sections():
    """Title -> the section's examples, (language, text)."""
    parts = re.split(r"^## (.+)$", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    found = {title: examples(text) for title, text in zip(parts[1::2], parts[2::2])}
    return {title: blocks for title, blocks in found.items() if blocks}


@pytest.fixture
def execute(workplace, monkeypatch, caplog):
    """Execute the examples of a section one after the other, in one namespace; return this."""
    caplog.set_level(logging.INFO)
    monkeypatch.syspath_prepend(str(workplace))

    def run(title, program="cell"):
        names = {"__name__": "cell"}
        for language, text in sections()[title]:
            file = re.match(r"# ([\w.]+\.(?:py|hyper|yaml))\n", text)
            if file:
                (workplace / file.group(1)).write_text(text)
            elif language == "python":
                monkeypatch.setattr(sys, "argv", [program, *SHORT])
                exec(compile(text, title, "exec"), names)
            elif language == "bash":
                for line in text.splitlines():
                    python, script, *arguments = shlex.split(re.sub(r"--port=\d+", f"--port={free_port()}", line))
                    assert python == "python"
                    monkeypatch.setattr(sys, "argv", [script, *arguments, *SHORT])
                    runpy.run_path(str(workplace / script), run_name="__main__")
            else:
                pytest.fail(f"an example in {language or 'no language'} that is no file: {text}")
        return names

    return run


free_port = process_runs.free_port


@pytest.mark.slow
def test_script(execute, workplace):
    """One process and two: a log and a checkpoint each."""
    execute("A script that runs one model")
    assert len(list((workplace / "log" / "GLINTRU").iterdir())) >= 2
    checkpoints = list((workplace / "saved").glob("GLINTRU-*.pth"))
    kernels = [torch.load(file, weights_only=False)["config"]["kernel_size"] for file in checkpoints]
    assert sorted(kernels) == [3, 5]


@pytest.mark.slow
def test_search(execute, workplace):
    pytest.importorskip("hyperopt")
    search = execute("A search")["search"]
    assert search.best_params["learning_rate"] in (0.005, 0.001) and len(search.params2result) == 2
    assert "learning_rate:0.001" in (workplace / "search.txt").read_text()


@pytest.mark.slow
def test_several_models(execute):
    names = execute("Several models, several seeds, and whether the difference is real")
    assert [len(runs) for runs in names["results"].values()] == [2, 2]
    assert 0 <= names["test"].pvalue <= 1 and len(set(names["ours"])) > 1
    assert "GLINTRU" in names["latex"] and "SASRec" in names["latex"]


def test_notebook(execute):
    """With the arguments that a notebook's kernel is started with."""
    names = execute("A notebook", program="colab_kernel_launcher.py")
    assert names["trainer"].model is names["model"] and 0 <= names["best_score"] <= 1
    items = names["dataset"].id2token("item_id", names["items"].cpu())
    assert items.shape == (1, 10) and len(set(items[0])) == 10


def test_checkpoint(execute):
    """The metrics of the loaded model are those that the run ended with; training goes on for one epoch."""
    names = execute("A saved checkpoint")
    assert type(names["model"]).__name__ == "GLINTRU" and names["before"]["recall@10"] >= 0
    assert list(names["trainer"].train_loss_dict) == [1]


def test_trainer(execute, monkeypatch, caplog):
    import recbole.trainer

    monkeypatch.setattr(recbole.trainer, "GLINTRUTrainer", None, raising=False)  # taken away again afterwards
    execute("A trainer of your own")
    assert "learning rate of the next epoch: 0.0005" in caplog.text


class Wandb(types.ModuleType):
    """As much of Weights & Biases as RecBole calls."""

    def __init__(self):
        super().__init__("wandb")
        self.run, self.logged = None, {}

    def init(self, project, config):
        self.project, self.run = project, types.SimpleNamespace(summary={})

    def define_metric(self, name, step_metric):
        pass

    def log(self, metrics, commit):
        self.logged.update(metrics)


def test_tensorboard_and_wandb(execute, workplace, monkeypatch):
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    execute("TensorBoard and Weights & Biases")
    (events,) = (workplace / "log_tensorboard").glob("*/events*")
    assert b"Loss/Train" in events.read_bytes()
    assert wandb.project == "glint-ru" and wandb.logged["train/train_loss"] > 0
    assert "valid/recall@10" in wandb.logged and "eval/recall@10" in wandb.run.summary


def test_published_checkpoint(execute, workplace, monkeypatch):
    """A state dict with the published names, as the golden file has them, for the catalogue of ml-100k."""
    from recbole.config import Config
    from recbole.data import create_dataset

    monkeypatch.setattr(sys, "argv", ["published", *SHORT])
    config = Config(model="GLINTRU", dataset="ml-100k")
    model = plugin.import_model("GLINTRU")(config, create_dataset(config))
    with np.load(Path(__file__).parent / "golden" / "glintru_full.npz") as arrays:
        names = [name[len("param/") :] for name in arrays.files if name.startswith("param/")]
    own = model.state_dict()
    state = {name: torch.randn_like(own[published.translate(model, name)]) for name in names}
    torch.save(state, "published.pth")
    names = execute("The authors' published code")
    assert torch.equal(names["model"].item_embedding.weight, state["item_embedding.weight"])
    assert names["config"]["mask_padding"] is False and "recall@10" in names["result"]


def test_every_section_is_executed():
    source = Path(__file__).read_text("utf-8")
    assert len(sections()) == 8
    assert [title for title in sections() if f'execute("{title}"' not in source] == []


def test_the_tables_of_names_are_right():
    """Classes can be imported, settings exist."""
    text = PAGE.read_text("utf-8").partition("## The authors' published code")[2]
    imports = re.findall(r"`from ([\w.]+) import (\w+)`", text)
    assert {name for _, name in imports} == {"GLINTRU", "LinRec", "Mamba4Rec", "SMLP4Rec"}
    for module, name in imports:
        assert hasattr(importlib.import_module(module), name)
    rows = re.findall(r"^\| (GLINT-RU|Mamba4Rec|SMLP4Rec) \| ([^|]+) \| ([^|]+) \|$", text, flags=re.MULTILINE)
    assert len(rows) == 6
    for model, theirs, ours in rows:
        file = plugin.properties("recbole_glintru") / "model" / f"{model.replace('-', '')}.yaml"
        known = {*yaml.safe_load(file.read_text()), "MAX_ITEM_LIST_LENGTH"}
        assert set(re.findall(r"`(\w+)`", ours)) <= known
        assert not set(re.findall(r"`(\w+)`", theirs)) & (known - {"hidden_size"})
