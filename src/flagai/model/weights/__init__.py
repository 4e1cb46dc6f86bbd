"""Two tables per family, data only: where files keep the parameters, and how parallel ranks cut them."""
