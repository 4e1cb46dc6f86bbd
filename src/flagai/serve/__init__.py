"""The HTTP service: ``flagai serve MODEL [MODEL ...]``."""
