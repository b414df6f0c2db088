"""For tests of the loops that Numba compiles: skipped where it is not installed."""

import importlib.util

import pytest

NEEDS_NUMBA = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed")
