"""The examples of the pages in docs/, and what makes a run of them short."""

import re
from pathlib import Path

import recbole_glintru

FOLDER = Path(recbole_glintru.__file__).resolve().parent.parent / "docs"
SHORT = [  # for the command line, which is above all others in RecBole
    "--user_inter_num_interval=[0,24]",
    "--epochs=1",
    "--hidden_size=16",
    "--n_heads=4",
    "--MAX_ITEM_LIST_LENGTH=10",
    "--show_progress=False",
]


def examples(text):
    """(language, text) of each example in a page or a part of it."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
