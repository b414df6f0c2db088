"""The command line that trains and evaluates a model: `run_recbole.py`, `python -m recbole_glintru`."""
