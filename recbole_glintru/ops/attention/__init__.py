"""Linear attention over histories of unequal length."""
