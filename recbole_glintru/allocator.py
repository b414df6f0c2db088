"""Memory that a training step has freed stays with the process, for the next step.

glibc gives large blocks back to the system as soon as they are free and fetches them anew, page after page, at every
step: a sixth of the time of a training step on a CPU. This is the same as the environment variables
`MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_`, without having to know of them.
"""

import ctypes
import os

# Bytes; what is larger still goes back at once. Older versions of glibc take no more than the second.
LARGEST = (1 << 30, 1 << 25)
TRIM = 2**31 - 1  # bytes at the end of the heap
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # parameters of mallopt(3)


def keep_freed_memory() -> bool:
    """Let this process, and those that it starts, keep what is freed; return whether that could be done.

    Only where glibc allocates (Linux), and where nobody has set one of the variables. For programs that train; the
    package does it for its command lines alone.
    """
    if any(name in os.environ for name in VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    largest = next((size for size in LARGEST if mallopt(_M_MMAP_THRESHOLD, size)), None)
    # Without the first the second would do harm: it switches off the threshold that glibc adjusts by itself.
    if largest is None or not mallopt(_M_TRIM_THRESHOLD, TRIM):
        return False
    os.environ.update(zip(VARIABLES, (str(largest), str(TRIM))))
    return True
