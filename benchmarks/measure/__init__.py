"""The modules of `benchmarks/efficiency.py`: data, models, clocks, memory, reports."""
