"""The paper's tables and figures: what `benchmarks/reproduce.py` is made of."""
