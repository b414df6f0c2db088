"""Pieces of the papers: one module a piece, with the number of its equation."""
