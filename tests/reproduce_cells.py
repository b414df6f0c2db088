"""What the tests of `benchmarks/reproduce.py` have in common: a data set of a moment, and where its cells go."""

import sys
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

from reproduction import scheduling  # noqa: E402
from reproduction.cells import Store, cell  # noqa: E402

SMALL = {"hidden_size": 8, "n_heads": 2, "epochs": 3, "train_batch_size": 64, "MAX_ITEM_LIST_LENGTH": 10}


def few(model="GLINTRU", **changes):
    """A cell of the data set that `make_place` makes."""
    return cell("few", "amazon-beauty", model, 666, {**SMALL, **changes})


def make_place(folder):
    """Where cells are run, with the data set `few`: 60 users and 60 items, ten interactions each."""
    generator, offsets = np.random.default_rng(0), np.arange(10) * 7
    (folder / "data" / "few").mkdir(parents=True)
    with open(folder / "data" / "few" / "few.inter", "w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user in range(60):
            for moment, item in enumerate((generator.permutation(offsets) + user) % 60):
                file.write(f"u{user}\ti{item}\t{moment}\n")
    return scheduling.Place(Store(folder / "results"), folder / "scratch", folder / "data")
