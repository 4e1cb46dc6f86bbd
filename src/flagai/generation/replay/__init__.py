"""CUDA graph capture and replay of decode steps."""
