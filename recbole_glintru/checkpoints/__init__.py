"""Read RecBole's checkpoints without running other code that a pickle may contain; `trust()` lifts the restriction."""

from recbole_glintru.checkpoints.reader import TRUST, UntrustedCheckpoint, load, remember, trust

__all__ = ["TRUST", "UntrustedCheckpoint", "load", "remember", "trust"]
