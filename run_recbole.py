"""Train and evaluate a model, of this package or RecBole's own, on a data set: `run_recbole.py --help`."""

import sys

import recbole_glintru  # noqa: F401  (at the top, because the processes that --nproc starts run these lines too)
from recbole_glintru.allocator import keep_freed_memory
from recbole_glintru.launch import command

if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(command.main())
