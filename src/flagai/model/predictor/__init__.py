"""Text in, typed results out."""
