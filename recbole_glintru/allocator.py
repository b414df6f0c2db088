"""Keep memory that a training step has freed in the process, for the next step.

glibc returns large blocks to the system as soon as they are free and fetches them again, page by page, at every step:
a sixth of the time of a training step on a CPU. The effect is that of the environment variables
`MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_`; users need not know of them.

Batches of varying size break the free memory up into pieces that the next batch cannot use: the process of a stack of
blocks grew by half within an epoch, and to five times its size in a training. So now and then all of it is returned.
"""

import ctypes
import os
import time
from collections.abc import Callable
from typing import Optional

# Bytes. Larger blocks are still returned at once. Older glibc accepts at most 32 MiB, the second value.
LARGEST = (1 << 30, 1 << 25)
TRIM = 2**31 - 1  # free bytes kept at the end of the heap
# How long it takes until free memory is returned again: for each GiB that had to be fetched again, and at least. To
# fetch a GiB takes 0.9 s: less than 1 % of the time of a training.
SECONDS_PER_GIB, SECONDS = 100.0, 10.0
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # parameters of mallopt(3)


def keep_freed_memory() -> bool:
    """Let this process, and those that it starts, keep freed memory; return whether that succeeded.

    Only with glibc (Linux), and only if the user has set neither variable. In this process what lies free is returned
    now and then, after a step of an optimizer, so that it cannot pile up; those that it starts call `inherit`. Meant
    for programs that train; the package itself calls it only from its command lines.
    """
    if any(name in os.environ for name in VARIABLES):  # the user's, which stand, or those of this function
        return inherit()
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    largest = next((size for size in LARGEST if mallopt(_M_MMAP_THRESHOLD, size)), None)
    # Without the first the second would do harm: it switches off glibc's own adjustment of the threshold.
    if largest is None or not mallopt(_M_TRIM_THRESHOLD, TRIM):
        return False
    os.environ.update(zip(VARIABLES, (str(largest), str(TRIM))))
    _return_now_and_then()
    return True


def inherit() -> bool:
    """If the program that has started this one keeps freed memory, return here too what piles up; return whether so."""
    inherited = [os.environ.get(name) for name in VARIABLES] in [[str(size), str(TRIM)] for size in LARGEST]
    if inherited:
        _return_now_and_then()
    return inherited


class ReturnNowAndThen:
    """A hook after the steps of optimizers that returns free memory; the more of it is needed, the later the next time.

    What counts is how much the next step fetches again, not how much was returned: of memory that has piled up most is
    not needed, and if it put off the next time, there would be more of it then, and still more the time after.

    Args:
        give_back: returns what is free to the system.
        resident: the memory that the process occupies, in bytes.
        clock: the time, in seconds.
    """

    def __init__(self, give_back: Callable[[], object], resident: Callable[[], int], clock=time.monotonic):
        self.give_back, self.resident, self.clock = give_back, resident, clock
        self.next_time, self.kept = clock() + SECONDS, None

    def __call__(self, optimizer, args: tuple, kwargs: dict) -> None:
        if self.kept is not None:  # at the last step memory was returned
            fetched = max(0, self.resident() - self.kept)
            self.next_time, self.kept = self.clock() + max(SECONDS, SECONDS_PER_GIB * fetched / 2**30), None
        elif self.clock() >= self.next_time:
            self.give_back()
            self.kept = self.resident()


def _resident() -> int:
    """The memory that this process occupies, in bytes. Raises OSError on other systems than Linux."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


_hook: Optional[ReturnNowAndThen] = None


def _return_now_and_then() -> None:
    """Install the hook, once in a process."""
    global _hook
    if _hook is not None:
        return
    try:
        trim = ctypes.CDLL(None).malloc_trim
        _resident()
    except (AttributeError, OSError):
        return
    from torch.optim.optimizer import register_optimizer_step_post_hook  # takes long, and mallopt is not to wait for it

    _hook = ReturnNowAndThen(lambda: trim(0), _resident)
    register_optimizer_step_post_hook(_hook)
