import os
import platform
import subprocess
import sys

import pytest

from recbole_glintru import allocator
from recbole_glintru.allocator import VARIABLES
from recbole_glintru.compat import process_failures, tuning
from recbole_glintru.search import by_ray

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


@pytest.mark.parametrize("greatest, done", [(1 << 40, True), (1 << 25, True), (0, False)])
def test_what_glibc_takes(monkeypatch, greatest, done):
    """Older versions refuse thresholds above 32 MiB. The other parameter alone would make things worse."""
    asked = []

    def mallopt(parameter, value):
        asked.append((parameter, value))
        return int(parameter == -1 or value <= greatest)

    for name in VARIABLES:
        monkeypatch.setenv(name, "0")  # so that it is taken back in the end
        monkeypatch.delenv(name)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: type("C", (), {"mallopt": staticmethod(mallopt)}))
    assert allocator.keep_freed_memory() is done
    taken = min(1 << 30, greatest)
    assert [os.environ.get(name) for name in VARIABLES] == ([str(taken), str(2**31 - 1)] if done else [None, None])
    assert ((-1, 2**31 - 1) in asked) is done
    if done:
        assert asked[-2:] == [(-3, taken), (-1, 2**31 - 1)]


def test_what_an_earlier_program_has_set_is_kept(monkeypatch):
    installed = []
    monkeypatch.setattr(allocator, "_return_now_and_then", lambda: installed.append(True))
    for largest, done in ((1 << 30, True), (1 << 25, True), (1 << 20, False)):
        for name, value in zip(VARIABLES, (largest, 2**31 - 1)):
            monkeypatch.setenv(name, str(value))
        assert allocator.keep_freed_memory() is done
    assert len(installed) == 2


def started_as_rank(monkeypatch):
    from recbole.quick_start import quick_start

    assert quick_start.run_recboles is process_failures.run_process
    monkeypatch.setattr(process_failures.run_process, "__wrapped__", lambda local_rank, *args: None)
    process_failures.run_process(0, {"config_dict": {"offset": 0, "world_size": 2}})


def started_as_trial(monkeypatch):
    monkeypatch.setattr(by_ray, "run_trial", lambda *args: {})
    monkeypatch.setattr(tuning, "report", lambda **metrics: None)
    by_ray._trial({}, None, [], 0, os.curdir)


@pytest.mark.parametrize("largest, times", [(1 << 30, 1), (1 << 20, 0)])
@pytest.mark.parametrize("started", [started_as_rank, started_as_trial])
def test_processes_that_a_program_starts_return_memory_too(monkeypatch, started, largest, times):
    """They have inherited the variables, and with them that freed memory is kept; but not what the user has set."""
    installed = []
    monkeypatch.setattr(allocator, "_return_now_and_then", lambda: installed.append(True))
    for name, value in zip(VARIABLES, (largest, 2**31 - 1)):
        monkeypatch.setenv(name, str(value))
    started(monkeypatch)
    assert len(installed) == times


def test_free_memory_is_returned_the_later_the_more_of_it_is_needed():
    """The step after the first time fetches 2 GiB, that after the second nothing."""
    times, returned = [0.0], []
    sizes = iter([2**30, 3 * 2**30, 2**30, 2**30 - 1, 2**30, 2**30])  # after returning, and after the next step
    hook = allocator.ReturnNowAndThen(lambda: returned.append(times[0]), lambda: next(sizes), lambda: times[0])
    for times[0] in range(230):
        hook(None, (), {})
    assert returned == [10, 211, 222]


RETURNING = """
import torch
from recbole_glintru import allocator
allocator.SECONDS = 0.0
print(allocator.keep_freed_memory(), allocator.keep_freed_memory())
weight = torch.zeros(3, requires_grad=True)
optimizer = torch.optim.SGD([weight], lr=1.0)
blocks = [torch.ones(1 << 20) for _ in range(40)]  # 4 MiB each
hold = blocks[-1]
del blocks  # not at the end of the heap
before = allocator._resident()
weight.sum().backward()
optimizer.step()
print(before - allocator._resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_a_step_of_an_optimizer_returns_what_is_free():
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", RETURNING]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert output[:2] == ["True", "True"]
    assert int(output[2]) > 140 * 2**20
