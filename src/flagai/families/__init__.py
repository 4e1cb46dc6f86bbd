"""The families of models, one record each: ``FAMILY`` in the module of its name."""
