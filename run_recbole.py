"""Train and evaluate a model, of this package or RecBole's own, on a data set: `run_recbole.py --help`."""

import sys

import recbole_glintru  # noqa: F401  (at the top: the processes that --nproc starts run these lines too)
from recbole_glintru import launcher

if __name__ == "__main__":
    sys.exit(launcher.main())
