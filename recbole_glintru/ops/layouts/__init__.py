"""Layouts: how the positions of a batch of histories are arranged in memory."""
