"""Which code was measured."""

import subprocess
from pathlib import Path
from typing import Any, Optional

import recbole_glintru

RUN = ("recbole_glintru", "properties", ":(glob)benchmarks/**/*.py")  # what a result depends on, as paths for git


def package() -> dict[str, Any]:
    """Version of the package, and the commit of the checkout; `changed` if its files are not those of the commit.

    This describes the files now on disk: call it before a measurement, during which the checkout may change.
    """
    home = Path(recbole_glintru.__file__).resolve().parent.parent
    commit = _git(home, "rev-parse", "HEAD")
    changed = _git(home, "status", "--porcelain", "--", *RUN)
    return {"version": recbole_glintru.__version__, "commit": commit, "changed": bool(changed)}


def _git(folder: Path, *words: str) -> Optional[str]:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
