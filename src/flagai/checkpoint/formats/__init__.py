"""Readers of the files that weights come in."""
