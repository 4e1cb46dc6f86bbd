"""Configurations, layers, blocks and models; every class has its own path."""
