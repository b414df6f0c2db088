"""Keep memory that a training step has freed in the process, for the next step.

glibc returns large blocks to the system as soon as they are free and fetches them again, page by page, at every step:
a sixth of the time of a training step on a CPU. The effect is that of the environment variables
`MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_`; users need not know of them.
"""

import ctypes
import os

# Bytes. Larger blocks are still returned at once. Older glibc accepts at most 32 MiB, the second value.
LARGEST = (1 << 30, 1 << 25)
TRIM = 2**31 - 1  # free bytes kept at the end of the heap
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # parameters of mallopt(3)


def keep_freed_memory() -> bool:
    """Let this process, and those that it starts, keep freed memory; return whether that succeeded.

    Only with glibc (Linux), and only if neither variable is set. Meant for programs that train; the package itself
    calls it only from its command lines.
    """
    if any(name in os.environ for name in VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    largest = next((size for size in LARGEST if mallopt(_M_MMAP_THRESHOLD, size)), None)
    # Without the first the second would do harm: it switches off glibc's own adjustment of the threshold.
    if largest is None or not mallopt(_M_TRIM_THRESHOLD, TRIM):
        return False
    os.environ.update(zip(VARIABLES, (str(largest), str(TRIM))))
    return True
