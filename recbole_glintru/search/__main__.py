"""`python -m recbole_glintru.search`: the same as `run_hyper.py`."""

import sys

from recbole_glintru.allocator import keep_freed_memory
from recbole_glintru.search import command

if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(command.main())
