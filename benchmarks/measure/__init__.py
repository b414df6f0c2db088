"""What `benchmarks/efficiency.py` is made of: data, models, clocks, memory, reports."""
