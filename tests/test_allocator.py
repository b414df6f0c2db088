import os
import platform
import subprocess
import sys

import pytest

from recbole_glintru.allocator import VARIABLES

PROGRAM = """
import resource, sys
from recbole_glintru.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    print(keep_freed_memory())

def faults(size=100_000_000):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * size
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def run(*arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    output = subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True, check=True)
    return output.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_is_used_again():
    (faults,) = run("plain")
    done, kept_faults = run("keep")
    assert int(faults) > 1000, "100 MB are fetched anew, page after page"
    assert done == "True" and int(kept_faults) < 100


def test_what_the_user_has_set_stands():
    done, _ = run("keep", MALLOC_TRIM_THRESHOLD_="131072")
    assert done == "False"
