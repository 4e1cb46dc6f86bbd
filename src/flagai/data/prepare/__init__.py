"""Text to model inputs: one module per family, one function per protocol; used by inference and training alike."""
