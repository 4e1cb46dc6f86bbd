"""Training kernels for compiled blocks."""
