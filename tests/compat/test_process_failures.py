"""When one of several processes dies: all of them end, soon, and the error names it."""

import time
import traceback
from types import SimpleNamespace

import process_runs
import pytest
from fakes import make_model
from torch.multiprocessing import ProcessRaisedException

from recbole_glintru import plugin
from recbole_glintru.compat import process_failures
from recbole_glintru.launch import command


@pytest.fixture
def fail(workplace, monkeypatch):
    """Train a model that comes to its end in rank 1; its name is announced by a distribution of its own."""
    info = workplace / "process_runs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: process_runs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recbole.models]\nFailing = process_runs:Failing\n")
    monkeypatch.syspath_prepend(str(workplace))
    plugin.announced_models.cache_clear()

    def run(failure, **settings):
        from recbole.quick_start import run

        settings = {**process_runs.COMMON, **process_runs.RUNS["full"], "failure": failure, **settings}
        start = time.monotonic()
        with pytest.raises(process_failures.RankFailed) as error:
            run("Failing", "ml-100k", config_dict=settings, nproc=2, port=str(process_runs.free_port()))
        assert time.monotonic() - start < 180  # a gloo group waits 30 minutes, unless it is told otherwise
        return str(error.value)

    yield run
    plugin.announced_models.cache_clear()


@pytest.mark.slow
def test_an_error_names_its_rank(fail):
    assert "rank 1 of 2 failed: ArithmeticError: the model has had enough" in fail("error")


@pytest.mark.slow
def test_a_killed_process_is_named(fail):
    """By whoever ends first: the parent, which sees the signal, or rank 0, which gets no answer."""
    message = fail("killed")
    assert "rank 1 ended without an error message: SIGKILL" in message or "no answer from rank 1 of 2" in message


@pytest.mark.slow
def test_a_hanging_process_is_named(fail):
    assert "no answer from rank 1 of 2 (noticed by rank 0" in fail("hanging", process_timeout=15)


class Store(dict):
    """A store of PyTorch's, in this process."""

    def check(self, keys):
        return all(key in self for key in keys)

    def set(self, key, value):
        self[key] = value.encode()


LOST = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234")


@pytest.mark.parametrize(
    "rank, store, error, message",
    [
        (1, None, OSError("no disk"), "rank 1 of 3 failed: OSError: no disk"),
        (1, Store(), OSError("no disk"), "rank 1 of 3 failed: OSError: no disk"),
        (0, Store({"failed/2": b"OSError: no disk"}), LOST, "rank 2 of 3 failed: OSError: no disk (noticed by rank 0"),
        (0, Store({"left/2": b""}), LOST, "no answer from rank 1 of 3 (noticed by rank 0"),
        (0, Store({"left/1": b"", "left/2": b""}), LOST, "all 3 ranks are alive but have lost their connection"),
        (2, SimpleNamespace(), LOST, "rank 0 of 3, which holds the list of the ranks, has ended (noticed by rank 2"),
    ],
)
def test_failure_message(monkeypatch, rank, store, error, message):
    for constant in ("ROLL_CALL", "LINGER"):
        monkeypatch.setattr(process_failures, constant, 0.0)
    monkeypatch.setattr(process_failures, "_store", lambda: store)
    assert process_failures._failure_message(rank, 3, error).startswith(message)
    assert store is None or error is LOST or store["failed/1"] == b"OSError: no disk"


def test_there_is_no_store_before_the_processes_have_met():
    assert process_failures._store() is None


def test_a_started_process_is_told_its_name(monkeypatch):
    """And has nothing left of an error of the processes that RecBole's own function would raise."""
    from recbole.quick_start import quick_start

    assert quick_start.run_recboles is process_failures.run_process

    def run_recboles(local_rank, *args):
        raise ValueError("n_heads=3: must be a divisor")

    monkeypatch.setattr(process_failures.run_process, "__wrapped__", run_recboles)
    kwargs = {"config_dict": {"offset": 2, "world_size": 4}}
    with pytest.raises(process_failures.RankFailed, match="rank 3 of 4 failed: ValueError: n_heads=3"):
        process_failures.run_process(1, "GLINTRU", "ml-100k", None, kwargs)


@pytest.fixture
def in_place(workplace, monkeypatch):
    """`run(nproc=...)` starts no process: the first rank, which does what it is given, runs in this one."""
    from recbole.quick_start import quick_start

    assert quick_start.run_recboles is process_failures.run_process

    def spawn(function, args, **options):
        try:
            function(0, *args)
        except Exception:
            raise ProcessRaisedException(traceback.format_exc(), 0, 0) from None  # as PyTorch does

    def do(work):
        monkeypatch.setattr(process_failures.run_process, "__wrapped__", lambda local_rank, *args: work())
        monkeypatch.setattr("torch.multiprocessing.spawn", spawn)

    return do


def test_a_setting_that_a_model_refuses_is_a_mistake_of_the_users(in_place, capsys):
    """As in one process: its message alone, and no traceback."""
    in_place(lambda: make_model("GLINTRU", n_heads=5))
    assert command.main(["--nproc=2"]) == 2
    error = capsys.readouterr().err
    assert "\nerror: n_heads=5: must be a divisor of hidden_size=16.\n" in error and "Traceback" not in error


def test_any_other_error_is_not(in_place):
    def fail():
        raise ValueError("n_heads=5")

    in_place(fail)
    with pytest.raises(process_failures.RankFailed, match="^rank 0 of 2 failed: ValueError: n_heads=5$"):
        command.main(["--nproc=2"])
