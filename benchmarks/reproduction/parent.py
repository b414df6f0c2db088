"""Lets a process end with the one that started it, however that ended."""

import contextlib
import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Let SIGTERM act like Ctrl-C, and let the system send it when `parent`, which started this process, ends.

    Only Linux does; elsewhere a process must check whether its parent still exists.

    Raises:
        KeyboardInterrupt: `parent` has ended already.
    """
    interrupt_on_terminate()
    with contextlib.suppress(OSError, AttributeError):  # no C library to load in this way, or one without prctl
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the system was told to send the signal
        raise KeyboardInterrupt


def interrupt_on_terminate() -> None:
    """Let SIGTERM raise KeyboardInterrupt, and a second one end the process at once."""

    def interrupt(*_):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
