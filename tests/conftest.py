import importlib
import logging
import os
import sys

import pytest
import torch

import recbole_glintru  # noqa: F401  (first: editable installs have no start-up line, and RecBole alone does not import)

if not torch.cuda.is_available():  # read when Triton is imported, which PyTorch does too where it is installed
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Few users with short histories: RecBole's whole flow in a second or two.
TINY = {
    "user_inter_num_interval": "[0,24]",
    "epochs": 1,
    "hidden_size": 16,
    "n_heads": 4,
    "MAX_ITEM_LIST_LENGTH": 10,
    "show_progress": False,
    "train_batch_size": 256,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni20"},
}


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(2020)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to run RecBole in: it writes logs and checkpoints there, and reads `sys.argv`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["workplace"])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield tmp_path
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)


@pytest.fixture
def tiny():
    """Settings under which a run on ml-100k, which RecBole's wheel carries, takes a second or two."""
    return {**TINY, "eval_args": dict(TINY["eval_args"])}


@pytest.fixture
def fresh(monkeypatch):
    """Import a module anew, with or without one patch, and forget it afterwards."""
    from recbole_glintru.compat import import_hooks

    all_after, all_around = dict(import_hooks.AFTER), dict(import_hooks.AROUND)

    def load(name, without=None):
        importlib.import_module(name)  # patched, for all who import it by name while the test runs
        kept = [patch for patch in all_after.get(name, ()) if patch.__name__ != without]
        monkeypatch.setitem(import_hooks.AFTER, name, kept)
        around = all_around.get(name)
        if around is not None and around.__name__ == without:
            monkeypatch.delitem(import_hooks.AROUND, name)
        elif around is not None:
            monkeypatch.setitem(import_hooks.AROUND, name, around)
        parent, _, child = name.rpartition(".")
        monkeypatch.setattr(sys.modules[parent], child, sys.modules[name])  # the import sets it; this brings it back
        monkeypatch.delitem(sys.modules, name)
        return importlib.import_module(name)

    return load
