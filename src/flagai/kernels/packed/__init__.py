"""Kernels for packed (varlen) sequences on a GPU."""
