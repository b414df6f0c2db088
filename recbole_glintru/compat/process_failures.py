"""If one of several processes dies, every other one soon ends too, with an error that names it.

On one host `torch.multiprocessing.spawn` ends the others. On other hosts, and if a process hangs, a rank notices a
broken connection or, after `process_timeout` seconds, a missing answer. It then finds out which ranks are left through
the store of the process group.
"""

import functools
import inspect
import time

from recbole_glintru import allocator
from recbole_glintru.compat.import_hooks import after, rebind
from recbole_glintru.settings import raised_by_a_setting

ROLL_CALL = 10.0  # seconds for the remaining ranks to answer; all of them notice at about the same time
LINGER = 2.0  # seconds that rank 0 waits before it ends, because the store ends with it


class RankFailed(RuntimeError):
    """One of several processes has ended; the message says which one, and why."""


class SettingRefused(RankFailed):
    """The model refuses a setting, in every process alike; the message is that of one process."""


def run_process(local_rank: int, *args) -> None:
    """RecBole's `run_recboles`, one process of `run(nproc=...)`, with errors that name the failed rank.

    A spawned process looks this function up by its module's name, and thereby imports the package.

    Raises:
        SettingRefused: the model refuses a setting.
        RankFailed: any other error; the cause is the error of this process.
    """
    from recbole.quick_start import quick_start  # noqa: F401  its patch sets __wrapped__

    allocator.inherit()
    config = args[-1]["config_dict"]
    rank, ranks = config["offset"] + local_rank, config["world_size"]
    try:
        run_process.__wrapped__(local_rank, *args)
    except Exception as error:
        message = _failure_message(rank, ranks, error)
        if isinstance(error, ValueError) and raised_by_a_setting(error):
            raise SettingRefused(str(error)) from error
        raise RankFailed(message) from error


@after("recbole.quick_start.quick_start")
def failed_ranks_are_named(quick_start) -> None:
    """`run(nproc=...)` runs `run_process`, and ends in an error that names the rank.

    Without: the error is that of the process that ended first, which may merely have lost its connection; a killed
    process is numbered from 0 on each host; and a spawned process does not find the models of this package, unless the
    main script imports it or the start-up line is installed.
    """
    run_process.__wrapped__ = quick_start.run_recboles
    quick_start.run_recboles = run_process
    run = quick_start.run

    @functools.wraps(run)
    def run_named(*args, **kwargs):
        from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

        try:
            return run(*args, **kwargs)
        except ProcessRaisedException as error:  # its text is the traceback in the process
            for failure in (SettingRefused, RankFailed):
                _, named, message = str(error).rpartition(f"{__name__}.{failure.__name__}: ")
                if named:
                    raise failure(message.strip()) from error
            raise
        except ProcessExitedException as error:
            offset = inspect.signature(run).bind(*args, **kwargs).arguments.get("group_offset", 0)
            rank = offset + error.error_index
            reason = error.signal_name or f"exit status {error.exit_code}"
            raise RankFailed(f"rank {rank} ended without an error message: {reason}.") from error

    rebind(run, run_named)


def _failure_message(rank: int, ranks: int, error: Exception) -> str:
    """The message for an error of this rank; tells the other ranks of it, or finds out which of them failed."""
    store = _store()
    if store is None:
        return f"rank {rank} of {ranks} failed: {_describe(error)}"
    try:
        if not _is_lost_connection(error):
            store.set(f"failed/{rank}", _describe(error))
            return f"rank {rank} of {ranks} failed: {_describe(error)}"
        store.set(f"left/{rank}", "")
        culprit = _roll_call(store, ranks)
        time.sleep(LINGER if rank == 0 else 0)
    except Exception:  # the store has ended with the process that held it
        culprit = f"rank 0 of {ranks}, which holds the list of the ranks, has ended"
    return f"{culprit} (noticed by rank {rank}: {_describe(error)})"


def _roll_call(store, ranks: int) -> str:
    deadline = time.monotonic() + ROLL_CALL
    while True:
        for rank in range(ranks):
            if store.check([f"failed/{rank}"]):
                return f"rank {rank} of {ranks} failed: {store.get(f'failed/{rank}').decode()}"
        silent = [str(rank) for rank in range(ranks) if not store.check([f"left/{rank}"])]
        if not silent:
            return f"all {ranks} ranks are alive but have lost their connection"
        if time.monotonic() > deadline:
            return f"no answer from rank {', '.join(silent)} of {ranks}"
        time.sleep(0.1)


def _store():
    """The store of the process group, or None before there is one."""
    from torch.distributed import distributed_c10d

    try:
        return distributed_c10d._get_default_store()
    except ValueError:
        return None


def _is_lost_connection(error: Exception) -> bool:
    """Whether an error comes from the communication between processes, not from this one's own work."""
    return isinstance(error, RuntimeError) and ("gloo" in str(error).lower() or "nccl" in str(error).lower())


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
