"""Arithmetic: plain functions of tensors."""
