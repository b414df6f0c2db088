"""Search the hyper-parameters of a model, of this package or RecBole's own, on a data set: `run_hyper.py --help`."""

import sys

import recbole_glintru  # noqa: F401  (at the top, so that worker processes find the models)
from recbole_glintru.allocator import keep_freed_memory
from recbole_glintru.search import command

if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(command.main())
