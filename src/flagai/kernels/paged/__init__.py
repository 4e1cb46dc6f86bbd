"""Kernels over a paged cache on a GPU."""
