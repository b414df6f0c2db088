"""`python -m recbole_glintru`: the same as `run_recbole.py`."""

import sys

from recbole_glintru.allocator import keep_freed_memory
from recbole_glintru.launch import command

if __name__ == "__main__":
    # The processes that --nproc starts do not run a package's __main__, so they would not register the models.
    # They do run a main file without a spec, such as run_recbole.py.
    __spec__ = None
    keep_freed_memory()
    sys.exit(command.main())
