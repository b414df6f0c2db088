"""RecBole's checkpoints, read without running what else a pickle can hold; `trust()` reads a file all the same."""

from recbole_glintru.checkpoints.reader import TRUST, UntrustedCheckpoint, load, remember, trust

__all__ = ["TRUST", "UntrustedCheckpoint", "load", "remember", "trust"]
