"""CUDA C++ and its compilation."""
