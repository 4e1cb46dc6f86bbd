"""Tensors between files and models: readers, name maps, the report, safe writing."""
