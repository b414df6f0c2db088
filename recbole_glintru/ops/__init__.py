"""Tensor operations and their backends: layouts of histories of unequal length, recurrences, kernels, and the choice
between them.
"""
