"""Decode steps on a GPU."""
