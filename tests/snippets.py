"""Pieces of Python that tests run in an interpreter of their own."""

import json
import os
import subprocess
import sys


def python(code, cwd, **environment):
    """Run `code` in a new interpreter and return the last line that it printed, as JSON."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.strip().splitlines()[-1])
