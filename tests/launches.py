"""Command lines of the launcher, run and looked at."""

import os
import subprocess
import sys
from pathlib import Path

import recbole_glintru

ROOT = Path(recbole_glintru.__file__).resolve().parent.parent


def fails(capsys, launched):
    """The message of a mistake of the user's."""
    assert not launched.ran and launched.status == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def run_python(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
