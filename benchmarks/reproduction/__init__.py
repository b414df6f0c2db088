"""The paper's tables and figures: the modules of `benchmarks/reproduce.py`."""
