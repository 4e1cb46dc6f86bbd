"""Triton device code."""
