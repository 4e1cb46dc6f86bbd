"""Cards, lookup, and the commands that show them."""
