"""The recurrence of a GRU layer over histories of unequal length."""
