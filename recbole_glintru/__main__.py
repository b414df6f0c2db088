"""`python -m recbole_glintru`: the same as `run_recbole.py`."""

import sys

from recbole_glintru.allocator import keep_freed_memory
from recbole_glintru.launch import command

if __name__ == "__main__":
    # The processes that --nproc starts skip a package's __main__, and with it the registration of the models.
    # A main file without a spec they run, as they run run_recbole.py.
    __spec__ = None
    keep_freed_memory()
    sys.exit(command.main())
