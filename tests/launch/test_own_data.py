"""README's example of data of one's own, as it stands there."""

import random
import shlex

import pytest
from documentation import FOLDER, examples
from launches import ROOT, run_python

README = FOLDER.parent / "README.md"
pytestmark = pytest.mark.skipif(not README.is_file(), reason="the documentation is not installed")


@pytest.mark.slow
def test_own_data(tmp_path):
    section = README.read_text("utf-8").partition("## Your own data\n")[2].partition("\n## ")[0]
    (_, rows), *commands = examples(section)
    random.seed(0)
    folder = tmp_path / "data" / "my-data"
    folder.mkdir(parents=True)
    clicks = [f"u{user}\ti{random.randint(1, 30)}\t{time}\n" for user in range(40) for time in range(user % 9 + 1)]
    (folder / "my-data.inter").write_text(rows + "".join(clicks))
    items = [f"i{item}\tb{item % 4}\t{'x y z'[: item % 6]}\n" for item in range(1, 31)]
    (folder / "my-data.item").write_text("item_id:token\tbrand:token\tgenre:token_seq\n" + "".join(items))
    for language, text in commands:
        assert language == "bash"
        (python, script, *arguments) = shlex.split(text.replace("\\\n", ""))
        short = ("--epochs=1", "--hidden_size=16", "--n_heads=4") if "GLINTRU" in text else ("--epochs=1",)
        done = run_python(ROOT / script, *arguments, *short, "--show_progress=False", cwd=tmp_path)
        assert python == "python" and done.returncode == 0 and "test result" in done.stderr + done.stdout, done.stderr
    assert len(commands) == 2
