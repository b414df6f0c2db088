"""The benchmarks: what their results say of the code that was measured."""

import shutil
import subprocess
from pathlib import Path

import pytest
import reproduce_cells  # noqa: F401  first: it makes the benchmarks importable
from measure import checkout

import recbole_glintru


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_a_result_says_whether_the_code_is_the_commits(tmp_path, monkeypatch):
    files = (
        "recbole_glintru/__init__.py",
        "properties/model/M.yaml",
        "benchmarks/a.py",
        "benchmarks/reproduction/b.py",
    )
    for name in (*files, "benchmarks/results/cells/c.json", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a = 1\n")

    def git(*words):
        author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *author, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "a")
    monkeypatch.setattr(recbole_glintru, "__file__", str(Path(tmp_path, files[0])))
    (tmp_path / "benchmarks/results/cells/c.json").write_text("{}")
    (tmp_path / "benchmarks/results/cells/d.json").write_text("{}")
    (tmp_path / "README.md").write_text("b")
    package = checkout.package()
    assert len(package["commit"]) == 40 and package["changed"] is False
    for name in (*files, "benchmarks/reproduction/new.py"):
        (tmp_path / name).write_text("a = 2\n")
        assert checkout.package()["changed"] is True, name
        (tmp_path / name).write_text("a = 1\n")
    (tmp_path / "benchmarks/reproduction/new.py").unlink()
    assert checkout.package()["changed"] is False
