"""The search for hyper-parameters: `run_hyper.py`, `python -m recbole_glintru.search`."""
