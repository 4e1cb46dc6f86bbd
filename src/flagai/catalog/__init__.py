"""Which pretrained models exist, and where they are.

The cards are data, in ``cards/*.toml``; :func:`flagai.catalog.catalog.find` reads them.
"""
